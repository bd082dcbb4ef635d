//! What both ends of an SCP03 channel compute (GP Card Specification Amendment D §6.2), modes S8 and S16.

use crate::aes::{AesKey, pad, unpad};

/// Which protection a channel has: P1 of EXTERNAL AUTHENTICATE (Amendment D table 7-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SecurityLevel(pub u8);

impl SecurityLevel {
    /// Commands are MACed.
    pub const C_MAC: Self = Self(0x01);
    /// Commands are MACed and encrypted.
    pub const C_MAC_C_ENC: Self = Self(0x03);

    pub(crate) const fn has_c_enc(self) -> bool {
        self.0 & 0x02 != 0
    }

    pub(crate) const fn has_r_mac(self) -> bool {
        self.0 & 0x10 != 0
    }

    pub(crate) const fn has_r_enc(self) -> bool {
        self.0 & 0x20 != 0
    }

    /// Every level but 00, which protects nothing.
    pub(crate) const fn is_defined(self) -> bool {
        matches!(self.0, 0x01 | 0x03 | 0x11 | 0x13 | 0x33)
    }
}

/// A command with a short length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apdu {
    /// CLA, INS, P1, P2.
    pub header: [u8; 4],
    /// At most 255 bytes.
    pub data: Vec<u8>,
    /// Le, when an answer is expected.
    pub le: Option<u8>,
}

impl Apdu {
    /// Reads cases 1 to 4 of ISO 7816-3; `None` when the lengths do not add up.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, body) = bytes.split_first_chunk()?;
        let (data, le) = match *body {
            [] => (&[][..], None),
            [le] => (&[][..], Some(le)),
            [lc, ref rest @ ..] => {
                let (data, le) = rest.split_at_checked(usize::from(lc))?;
                match *le {
                    [] => (data, None),
                    [le] => (data, Some(le)),
                    _ => return None,
                }
            }
        };
        Some(Self { header: *header, data: data.to_vec(), le })
    }

    /// The bytes on the wire.
    ///
    /// # Panics
    /// When the data is longer than 255 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        if !self.data.is_empty() {
            bytes.push(u8::try_from(self.data.len()).expect("a short command has at most 255 bytes of data"));
            bytes.extend_from_slice(&self.data);
        }
        bytes.extend(self.le);
        bytes
    }
}

/// The protection of one direction pair: keys, MAC chain and counter, the same on both ends.
pub(crate) struct Channel {
    s_enc: AesKey,
    s_mac: AesKey,
    s_rmac: AesKey,
    pub(crate) level: SecurityLevel,
    chain: [u8; 16],
    counter: u128,
    /// 8 in mode S8, 16 in S16.
    mac_bytes: usize,
}

impl Channel {
    pub(crate) const fn new(s_enc: AesKey, s_mac: AesKey, s_rmac: AesKey, mac_bytes: usize) -> Self {
        Self { s_enc, s_mac, s_rmac, level: SecurityLevel(0), chain: [0; 16], counter: 0, mac_bytes }
    }

    /// Starts the MAC chain at a value that both sides know.
    pub(crate) const fn chain_from(&mut self, value: [u8; 16]) {
        self.chain = value;
    }

    /// Appends the C-MAC to a command that is otherwise as it goes out (§6.2.4), and moves the chain on.
    pub(crate) fn mac(&mut self, mut command: Apdu) -> Apdu {
        self.chain = self.mac_over(&command);
        command.data.extend_from_slice(&self.chain[..self.mac_bytes]);
        command
    }

    /// Takes the C-MAC off and moves the chain on; `None` when it is wrong.
    pub(crate) fn verify_mac(&mut self, mut command: Apdu) -> Option<Apdu> {
        let tag = command.data.split_off(command.data.len().checked_sub(self.mac_bytes)?);
        let full = self.mac_over(&command);
        aws_lc_rs::constant_time::verify_slices_are_equal(&full[..self.mac_bytes], &tag).ok()?;
        self.chain = full;
        Some(command)
    }

    /// Moves to the next command: the counter also counts commands without data (§6.2.6).
    pub(crate) const fn next_command(&mut self) {
        self.counter += 1;
    }

    pub(crate) fn encrypt_command(&self, data: &[u8]) -> Vec<u8> {
        self.s_enc.cbc_encrypt(self.command_icv(), pad(data))
    }

    pub(crate) fn decrypt_command(&self, data: Vec<u8>) -> Option<Vec<u8>> {
        unpad(self.s_enc.cbc_decrypt(self.command_icv(), data)?)
    }

    pub(crate) fn encrypt_response(&self, data: &[u8]) -> Vec<u8> {
        self.s_enc.cbc_encrypt(self.response_icv(), pad(data))
    }

    pub(crate) fn decrypt_response(&self, data: Vec<u8>) -> Option<Vec<u8>> {
        unpad(self.s_enc.cbc_decrypt(self.response_icv(), data)?)
    }

    /// R-MAC over the response as it goes out, under the chain of the command it answers (§6.2.5).
    pub(crate) fn response_mac(&self, response: &[u8], status: [u8; 2]) -> Vec<u8> {
        self.s_rmac.cmac(&[&self.chain, response, &status].concat())[..self.mac_bytes].to_vec()
    }

    /// Takes the R-MAC off; `None` when it is wrong.
    pub(crate) fn verify_response(&self, mut response: Vec<u8>, status: [u8; 2]) -> Option<Vec<u8>> {
        let tag = response.split_off(response.len().checked_sub(self.mac_bytes)?);
        let expected = self.response_mac(&response, status);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected, &tag).ok()?;
        Some(response)
    }

    fn mac_over(&self, command: &Apdu) -> [u8; 16] {
        // Lc already counts the MAC.
        let lc = u8::try_from(command.data.len() + self.mac_bytes)
            .expect("a short command with its MAC has at most 255 bytes");
        self.s_mac.cmac(&[&self.chain, &command.header[..], &[lc], &command.data].concat())
    }

    fn command_icv(&self) -> [u8; 16] {
        self.s_enc.ecb_block(self.counter.to_be_bytes())
    }

    fn response_icv(&self) -> [u8; 16] {
        let mut block = self.counter.to_be_bytes();
        block[0] = 0x80;
        self.s_enc.ecb_block(block)
    }
}

/// The KDF of §4.1.5: `bits` (at most 256) under `key` for one derivation constant.
pub(crate) fn derive(key: &AesKey, constant: u8, bits: u16, context: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    let blocks: u8 = if bits > 128 { 2 } else { 1 };
    for counter in 1..=blocks {
        let mut data = vec![0; 11];
        data.extend([constant, 0x00]);
        data.extend(bits.to_be_bytes());
        data.push(counter);
        data.extend(context);
        output.extend(key.cmac(&data));
    }
    output.truncate(usize::from(bits / 8));
    output
}
