//! A card with a security domain of SCP11a and SCP11c (GP Card Specification Amendment F), and what the platform does with its
//! session keys. The card trusts the platform's key that it is given: certificates are the card issuer's.

use aws_lc_rs::digest::{Context, SHA256};

use crate::aes::AesKey;
use crate::channel::{Apdu, Channel};
use crate::euicc::curve::{Curve, PrivateKey, PublicKey};
use crate::euicc::tlv::{Reader, tlv};

/// A card and its key pair PK.SD.ECKA.
pub struct Scp11Card {
    key: PrivateKey,
    platform: PublicKey,
}

/// An open session, on either side.
pub struct Scp11Session {
    channel: Channel,
}

impl Scp11Card {
    /// A card with a fresh key, which has accepted the platform's certificate.
    ///
    /// # Panics
    /// When the platform's key is no point of P-256.
    pub fn new(platform: &[u8]) -> Self {
        let platform = PublicKey::from_point(Curve::P256, platform).expect("a point of P-256");
        Self { key: PrivateKey::random(Curve::P256), platform }
    }

    /// PK.SD.ECKA.
    pub fn public_key(&self) -> [u8; 65] {
        self.key.public_key().point()
    }

    /// MUTUAL AUTHENTICATE: the answer, and the session that the card now has. `None`: the data is refused.
    pub fn mutual_authenticate(&self, data: &[u8]) -> Option<(Vec<u8>, Scp11Session)> {
        let mut fields = Reader::new(data);
        let mut template = Reader::new(fields.expect(0xa6).ok()?.value);
        let platform = fields.expect(0x5f49).ok()?.value;
        fields.end().ok()?;
        let [0x11, parameter @ (1 | 3)] = *template.expect(0x90).ok()?.value else { return None };
        let [usage @ (0x34 | 0x3c)] = *template.expect(0x95).ok()?.value else { return None };
        let [0x88] = *template.expect(0x80).ok()?.value else { return None };
        let [length @ (16 | 24 | 32)] = *template.expect(0x81).ok()?.value else { return None };
        template.end().ok()?;
        let one_time = if parameter == 1 { PrivateKey::random(Curve::P256) } else { self.key.clone() };
        let of_one_time_keys = one_time.agree(&PublicKey::from_point(Curve::P256, platform)?)?;
        let of_static_keys = self.key.agree(&self.platform)?;
        let mut material = Vec::new();
        for counter in 1u32..=5 {
            let mut context = Context::new(&SHA256);
            context.update(&of_one_time_keys);
            context.update(&of_static_keys);
            context.update(&counter.to_be_bytes());
            context.update(&[usage, 0x88, length]);
            material.extend_from_slice(context.finish().as_ref());
        }
        let keys: Vec<&[u8]> = material.chunks(usize::from(length)).take(5).collect();
        let answer = tlv(0x5f49, &[&one_time.public_key().point()]);
        let receipt = AesKey::new(keys[0])?.cmac(&[data, &answer].concat());
        let session = Scp11Session::with(keys[1], keys[2], keys[3], receipt)?;
        Some(([answer, tlv(0x86, &[&receipt])].concat(), session))
    }
}

impl Scp11Session {
    /// With S-ENC, S-MAC, S-RMAC and the receipt as the first MAC chaining value.
    pub fn with(s_enc: &[u8], s_mac: &[u8], s_rmac: &[u8], receipt: [u8; 16]) -> Option<Self> {
        let mut channel = Channel::new(AesKey::new(s_enc)?, AesKey::new(s_mac)?, AesKey::new(s_rmac)?, 8);
        channel.chain_from(receipt);
        Some(Self { channel })
    }

    /// A command as the platform sends it: enciphered and with its C-MAC.
    pub fn wrap(&mut self, mut command: Apdu) -> Apdu {
        self.channel.next_command();
        command.header[0] |= 0x04;
        command.data = self.channel.encrypt_command(&command.data);
        self.channel.mac(command)
    }

    /// The data of such a command as the card finds it; `None` when it is not the platform's.
    pub fn unwrap(&mut self, command: Apdu) -> Option<Vec<u8>> {
        self.channel.next_command();
        let command = self.channel.verify_mac(command)?;
        self.channel.decrypt_command(command.data)
    }
}
