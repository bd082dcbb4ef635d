//! Simulated cards: their keys come out of the order's output and from nothing else, as a manufacturer gets them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use domain::{Eid, KeysetAlgorithm};
use keys::scp03::{self, Challenges, Cryptogram};
use keys::{SecretKey, SoftwareKey, key_check_value};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::CliError;

/// One card with its static keys.
pub struct Card {
    /// Its name.
    pub eid: Eid,
    enc: SoftwareKey,
    mac: SoftwareKey,
    algorithm: KeysetAlgorithm,
}

impl Card {
    /// What the card answers to INITIALIZE UPDATE.
    pub fn cryptogram(&self, challenges: &Challenges) -> Cryptogram {
        let Ok(keys) = scp03::session_keys(&self.enc, &self.mac, self.algorithm, challenges);
        keys.danger_without_card_proof().card_cryptogram(challenges)
    }
}

/// docs/formats/order-output.md: a header line or a device line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Device { eid: String, transport_key: String, enc: String, mac: String, kcv: CheckValues },
    TransportKey { transport_key: String, wrapped: String, oaep_hash: String },
}

#[derive(Deserialize)]
struct CheckValues {
    enc: String,
    mac: String,
}

/// Unwraps every keyset of an output with the manufacturer's transport key.
pub fn personalise(output: &Path, transport_key: PrivateDecryptingKey) -> Result<Vec<Card>, CliError> {
    let does_not_hold = |why: &str| CliError::Answer(format!("the order's output: {why}"));
    let private = OaepPrivateDecryptingKey::new(transport_key)
        .map_err(|_| CliError::Local("the transport key cannot decrypt".to_owned()))?;
    let reader = BufReader::new(File::open(output).map_err(CliError::file("read", output))?);
    let mut transport_keys = HashMap::new();
    let mut cards = Vec::new();
    for line in reader.lines() {
        let line = line.map_err(CliError::file("read", output))?;
        let line = serde_json::from_str(&line).map_err(|_| does_not_hold("a line is of no known form"))?;
        match line {
            Line::TransportKey { transport_key, wrapped, oaep_hash } => {
                transport_keys.insert(transport_key, unwrap_transport_key(&private, &wrapped, &oaep_hash)?);
            }
            Line::Device { eid, transport_key, enc, mac, kcv } => {
                let kek = transport_keys
                    .get(&transport_key)
                    .ok_or_else(|| does_not_hold("a device's transport key has no header before it"))?;
                let (enc, mac) = (unwrap_key(kek, &enc, &kcv.enc)?, unwrap_key(kek, &mac, &kcv.mac)?);
                cards.push(Card {
                    eid: eid.parse().map_err(|_| does_not_hold("a line names no EID"))?,
                    algorithm: enc.algorithm(),
                    enc: SoftwareKey::new(&enc),
                    mac: SoftwareKey::new(&mac),
                });
            }
        }
    }
    Ok(cards)
}

fn unwrap_transport_key(
    private: &OaepPrivateDecryptingKey,
    wrapped: &str,
    oaep_hash: &str,
) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let does_not_hold =
        || CliError::Answer("a transport key of the order's output does not unwrap".to_owned());
    let algorithm: &'static OaepAlgorithm = match oaep_hash.to_ascii_uppercase().replace('-', "").as_str() {
        "SHA1" => &OAEP_SHA1_MGF1SHA1,
        "SHA256" => &OAEP_SHA256_MGF1SHA256,
        _ => return Err(does_not_hold()),
    };
    let wrapped = hex::decode(wrapped).map_err(|_| does_not_hold())?;
    let mut plain = Zeroizing::new(vec![0; private.min_output_size()]);
    let length = private.decrypt(algorithm, &wrapped, &mut plain, None).map_err(|_| does_not_hold())?.len();
    plain.truncate(length);
    Ok(plain)
}

fn unwrap_key(kek: &[u8], wrapped: &str, check_value: &str) -> Result<SecretKey, CliError> {
    let does_not_hold = |why| CliError::Answer(format!("a key of the order's output: {why}"));
    let wrapped = hex::decode(wrapped).map_err(|_| does_not_hold("no hex"))?;
    let kek = AesKek::new(&AES_256, kek).map_err(|_| does_not_hold("the transport key is no AES-256 key"))?;
    // RFC 5649: the output buffer is as long as the input.
    let mut plain = Zeroizing::new(vec![0; wrapped.len()]);
    let key = kek
        .unwrap_with_padding(&wrapped, &mut plain)
        .map_err(|_| does_not_hold("it does not unwrap"))
        .and_then(|key| SecretKey::from_slice(key).map_err(|_| does_not_hold("it is no AES key")))?;
    if key_check_value(&key).to_string() != check_value {
        return Err(does_not_hold("its check value does not match"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::OaepPublicEncryptingKey;

    use super::*;
    use crate::key_file::PrivateKey;

    #[test]
    fn keys_come_out_of_the_output_as_they_went_in_and_a_wrong_check_value_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.jsonl");
        let private = PrivateKey::generate_rsa_3072().unwrap();
        let public = OaepPublicEncryptingKey::new(private.rsa().unwrap().public_key()).unwrap();
        let kek = [0x42; 32];
        let mut wrapped = vec![0; public.ciphertext_size()];
        let wrapped = hex::encode(public.encrypt(&OAEP_SHA1_MGF1SHA1, &kek, &mut wrapped, None).unwrap());
        let wrap = |key: &[u8]| {
            let mut blob = vec![0; key.len() + 15];
            let kek = AesKek::new(&AES_256, &kek).unwrap();
            hex::encode(kek.wrap_with_padding(key, &mut blob).unwrap())
        };
        let kcv = |key: &[u8]| key_check_value(&SecretKey::from_slice(key).unwrap()).to_string();
        let (enc, mac) = ([1u8; 16], [2u8; 16]);
        let eid = "89049032123451234512345678901235";
        let line = |mac_kcv: &str| {
            format!(
                "{{\"transport_key\":\"t\",\"wrapped\":\"{wrapped}\",\"oaep_hash\":\"SHA-1\"}}\n{{\"eid\":\"{eid}\",\"kvn\":\"0x30\",\"algorithm\":\"AES-128\",\"transport_key\":\"t\",\"enc\":\"{}\",\"mac\":\"{}\",\"dek\":\"\",\"kcv\":{{\"enc\":\"{}\",\"mac\":\"{mac_kcv}\",\"dek\":\"\"}}}}\n",
                wrap(&enc),
                wrap(&mac),
                kcv(&enc),
            )
        };
        std::fs::write(&path, line(&kcv(&mac))).unwrap();
        let cards = personalise(&path, private.rsa().unwrap()).unwrap();
        assert_eq!(cards[0].eid.to_string(), eid);
        let challenges =
            Challenges { host: scp03::HostChallenge([3; 8]), card: scp03::CardChallenge([4; 8]) };
        let own = |bytes: &[u8]| SoftwareKey::new(&SecretKey::from_slice(bytes).unwrap());
        let Ok(keys) = scp03::session_keys(&own(&enc), &own(&mac), KeysetAlgorithm::Aes128, &challenges);
        let expected = keys.danger_without_card_proof().card_cryptogram(&challenges);
        assert_eq!(cards[0].cryptogram(&challenges), expected);

        std::fs::write(&path, line("000000")).unwrap();
        assert!(personalise(&path, private.rsa().unwrap()).is_err());
    }
}
