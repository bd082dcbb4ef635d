//! SCP03 and the manufacturer's unwrapping in software that shares nothing with the product: aws-lc-rs only.

use aws_lc_rs::cipher::{self, EncryptingKey, UnboundCipherKey};
use aws_lc_rs::cmac;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use domain::{DeviceKeyset, Eid, KeyVersionNumber, KeysetAlgorithm, PrincipalId, Protocol, SecurityDomain};
use hsm::{
    CardSession, Delivery, KeyRef, OaepHash, OrderChunk, OrderChunkJob, OrderKeys, SessionContext,
    SessionKeysJob, SourcedKeyset, Token,
};
use keys::scp03::Challenges;

use crate::support::soon;

/// A manufacturer's transport key.
pub struct Manufacturer {
    key: OaepPrivateDecryptingKey,
    pub spki: Vec<u8>,
}

impl Manufacturer {
    pub fn new() -> Self {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
        let spki = private.public_key().as_der().unwrap().as_ref().to_vec();
        Self { key: OaepPrivateDecryptingKey::new(private).unwrap(), spki }
    }

    pub fn transport_key(&self, chunk: &OrderChunk) -> [u8; 32] {
        self.open(chunk.oaep_hash, &chunk.wrapped_transport_key)
    }

    /// A transport key from its RSA-OAEP.
    pub fn open(&self, hash: OaepHash, wrapped: &[u8]) -> [u8; 32] {
        let algorithm = match hash {
            OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
            OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        };
        let mut buffer = vec![0; self.key.min_output_size()];
        let value = self.key.decrypt(algorithm, wrapped, &mut buffer, None).unwrap();
        (*value).try_into().unwrap()
    }

    /// ENC, MAC, DEK of every device, with their check values compared.
    pub fn unwrap(&self, chunk: &OrderChunk) -> Vec<[Vec<u8>; 3]> {
        let transport = self.transport_key(chunk);
        let unwrap = |blob: &[u8]| {
            let mut buffer = vec![0; blob.len() + 8];
            AesKek::new(&AES_256, &transport)
                .unwrap()
                .unwrap_with_padding(blob, &mut buffer)
                .unwrap()
                .to_vec()
        };
        chunk
            .devices
            .iter()
            .map(|device| {
                let [enc, mac, dek] = &device.keys[..] else { panic!("{} keys", device.keys.len()) };
                [enc, mac, dek].map(|key| {
                    let clear = unwrap(&key.wrapped);
                    assert_eq!(check_value(&clear), key.kcv.0);
                    clear
                })
            })
            .collect()
    }
}

/// The first three bytes of AES-ECB over 01.
pub fn check_value(key: &[u8]) -> [u8; 3] {
    let algorithm = match key.len() {
        16 => &cipher::AES_128,
        24 => &cipher::AES_192,
        _ => &cipher::AES_256,
    };
    let mut block = [1; 16];
    EncryptingKey::ecb(UnboundCipherKey::new(algorithm, key).unwrap()).unwrap().encrypt(&mut block).unwrap();
    [block[0], block[1], block[2]]
}

pub fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match key.len() {
        16 => cmac::AES_128,
        24 => cmac::AES_192,
        _ => cmac::AES_256,
    };
    cmac::sign(&cmac::Key::new(algorithm, key).unwrap(), message).unwrap().as_ref().to_vec()
}

/// GP Amendment D §4.1.5: one derivation with constant `code` and `bits` of output.
pub fn scp03(key: &[u8], code: u8, bits: u16, host: &[u8; 8], card: &[u8; 8]) -> Vec<u8> {
    scp03_over(key, code, bits, &[&host[..], card].concat())
}

/// The same over any context.
pub fn scp03_over(key: &[u8], code: u8, bits: u16, context: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    for i in 1..=bits.div_ceil(128) {
        let mut message = vec![0; 11];
        message.push(code);
        message.push(0);
        message.extend(bits.to_be_bytes());
        message.push(i as u8);
        message.extend(context);
        output.extend(mac(key, &message));
    }
    output.truncate(usize::from(bits / 8));
    output
}

pub const HOST: [u8; 8] = [0x11; 8];
pub const CARD: [u8; 8] = [0x22; 8];

pub fn eid(number: u32) -> Eid {
    Eid::from_body(&format!("890490320000000000{number:012}")).unwrap()
}

pub fn order(master: &KeyRef, algorithm: KeysetAlgorithm, spki: &[u8], devices: u32) -> OrderChunkJob {
    OrderChunkJob {
        format: domain::OrderFormat::JsonlKwp,
        keys: OrderKeys::Derived { master: master.clone() },
        protocol: Protocol::Scp03,
        security_domain: SecurityDomain::IsdR,
        kvn: KeyVersionNumber::scp03(0x30).unwrap(),
        algorithm,
        recipient_spki: spki.to_vec(),
        eids: (1..=devices).map(eid).collect(),
    }
}

/// Keyset `kvn` of the device of [`eid`] `number`.
pub fn keyset(number: u32, kvn: u32, algorithm: KeysetAlgorithm) -> DeviceKeyset {
    DeviceKeyset {
        eid: eid(number),
        protocol: Protocol::Scp03,
        security_domain: SecurityDomain::IsdR,
        kvn: KeyVersionNumber::scp03(kvn).unwrap(),
        algorithm,
    }
}

/// The session that the device of [`eid`] `number` would open if `card_cryptogram` is right.
pub fn session(
    master: &KeyRef,
    algorithm: KeysetAlgorithm,
    number: u32,
    card_cryptogram: [u8; 8],
    recipient: [u8; 65],
) -> SessionKeysJob {
    SessionKeysJob {
        keyset: SourcedKeyset::derived(master.clone(), keyset(number, 0x30, algorithm)),
        session: CardSession::Present {
            host_challenge: HOST.to_vec(),
            card_challenge: CARD.to_vec(),
            card_cryptogram: card_cryptogram.to_vec(),
            origin: None,
        },
        context: context(),
        delivery: Delivery::Sealed { recipient: Box::new(recipient) },
    }
}

/// Who asks.
pub fn context() -> SessionContext {
    SessionContext { principal: PrincipalId([7; 32]), request_id: b"test request".to_vec() }
}

/// The info under which the keys of a session of device `number` are sealed.
pub fn info<const N: usize>(number: u32, algorithm: KeysetAlgorithm, challenges: &Challenges<N>) -> Vec<u8> {
    let SessionContext { principal, request_id } = context();
    let keyset = keyset(number, 0x30, algorithm);
    keys::seal::session_keys_info(&principal, &keyset.eid, keyset.kvn, challenges, &request_id).unwrap()
}

/// Orders one device and says what its card would answer: (its keys, its cryptogram).
pub async fn device(
    token: &Token,
    master: &KeyRef,
    algorithm: KeysetAlgorithm,
    manufacturer: &Manufacturer,
) -> ([Vec<u8>; 3], [u8; 8]) {
    let chunk = token.order_chunk(order(master, algorithm, &manufacturer.spki, 1), soon()).await.unwrap();
    let keys = manufacturer.unwrap(&chunk).swap_remove(0);
    let cryptogram = card_cryptogram(&keys[1]);
    (keys, cryptogram)
}

pub fn card_cryptogram(key_mac: &[u8]) -> [u8; 8] {
    let s_mac = scp03(key_mac, 0x06, key_mac.len() as u16 * 8, &HOST, &CARD);
    scp03(&s_mac, 0x00, 64, &HOST, &CARD).try_into().unwrap()
}

/// A provisioning server's sealing key: (private scalar, public point).
pub fn recipient() -> ([u8; 32], [u8; 65]) {
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
    use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
    let private = PrivateKey::generate(&ECDH_P256).unwrap();
    let scalar: EcPrivateKeyBin<'_> = private.as_be_bytes().unwrap();
    let public = private.compute_public_key().unwrap();
    (scalar.as_ref().try_into().unwrap(), public.as_ref().try_into().unwrap())
}
