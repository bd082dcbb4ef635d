//! Devices on both sides of their order, and the cards that come of it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use proto::v1::{FetchSessionKeysRequest, KeysetName};
use tests::card::{CryptogramBehaviour, SimulatedCard};
use tests::transport::{PersonalisationData, TransportPrivateKey};

use crate::fleet::Card;

pub const KVN: u8 = 0x30;

/// A device with the keys that its card was personalised with.
pub struct Device {
    pub eid: String,
    data: PersonalisationData,
}

/// An EID that starts so; SGP.29 §4.2: the whole number is 1 modulo 97.
pub fn eid(start: &str, number: usize) -> String {
    let digits = format!("{start}{number:0width$}", width = 30 - start.len());
    let remainder =
        digits.bytes().chain(*b"00").fold(0_u32, |value, digit| (value * 10 + u32::from(digit - b'0')) % 97);
    format!("{digits}{:02}", 98 - remainder)
}

/// The device file, with a new key for each.
pub fn csv(eids: &[String]) -> String {
    let lines = eids.iter().map(|eid| format!("{eid},{}\n", hex::encode(new_public_key())));
    format!("eid,public_key\n{}", lines.collect::<String>())
}

/// SubjectPublicKeyInfo (DER).
pub fn new_public_key() -> Vec<u8> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    key.public_key().as_der().unwrap().as_ref().to_vec()
}

/// Opens an order's output with the manufacturer's own key.
pub fn unwrap(transport_key: &Path, output: &Path) -> Vec<Device> {
    let key = TransportPrivateKey::from_pem(&fs::read(transport_key).unwrap()).unwrap();
    let devices = key.unwrap_order(&fs::read_to_string(output).unwrap()).unwrap();
    let devices: HashMap<_, _> = devices.into_iter().map(|data| (hex::encode(data.eid), data)).collect();
    devices.into_iter().map(|(eid, data)| Device { eid, data }).collect()
}

impl Device {
    /// Key-ENC, Key-MAC and Key-DEK.
    pub fn static_keys(&self) -> [&[u8]; 3] {
        [&self.data.enc, &self.data.mac, &self.data.dek]
    }

    /// The card in the field: it keeps what is loaded later.
    pub fn card(&self) -> Card {
        Card { eid: self.eid.clone(), chip: SimulatedCard::personalised(&self.data) }
    }

    /// What a provisioner sends for one new challenge pair of the card.
    pub fn request(
        &self,
        key: &str,
        purpose: &str,
        behaviour: CryptogramBehaviour,
    ) -> FetchSessionKeysRequest {
        let mut card = SimulatedCard::personalised(&self.data);
        card.set_cryptogram(behaviour);
        let mut host_challenge = [0; 8];
        rand::fill(&mut host_challenge).unwrap();
        let answer = card.initialize_update(host_challenge, KVN).unwrap();
        FetchSessionKeysRequest {
            idempotency_key: key.to_owned(),
            eid: self.eid.clone(),
            keyset: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: KVN.into() }),
            host_challenge: host_challenge.to_vec(),
            card_challenge: answer.card_challenge.to_vec(),
            card_cryptogram: answer.card_cryptogram.to_vec(),
            purpose: purpose.to_owned(),
            ..FetchSessionKeysRequest::default()
        }
    }
}
