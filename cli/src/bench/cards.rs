//! Simulated cards: their keys come out of the order's output and from nothing else, as a manufacturer gets them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use aws_lc_rs::cipher::{self, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
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
    /// Key-DEK, under which PUT KEY blocks come.
    dek: SecretKey,
    algorithm: KeysetAlgorithm,
}

/// A card after PUT KEY, and what it answered.
pub struct Loaded {
    /// The card, with the new keyset.
    pub card: Card,
    /// Key version number and three check values.
    pub answer: Vec<u8>,
}

impl Card {
    /// Takes the keys of a PUT KEY command (GP Card Specification §11.8, AES keys that need no padding) as a card does: decrypts each
    /// under Key-DEK, compares its check value, and answers with those it computed.
    pub fn load(&self, put_key: &[u8]) -> Result<Loaded, CliError> {
        let wrong = |why: &str| CliError::Answer(format!("the PUT KEY command: {why}"));
        let [0x80, 0xd8, _, 0x81, length, data @ ..] = put_key else {
            return Err(wrong("its header is another"));
        };
        let data = data.get(..usize::from(*length)).ok_or_else(|| wrong("it is cut short"))?;
        let (kvn, mut rest) = data.split_first().ok_or_else(|| wrong("it has no data"))?;
        let mut answer = vec![*kvn];
        let mut keys = Vec::with_capacity(3);
        for _ in 0..3 {
            let [0x88, length, after @ ..] = rest else { return Err(wrong("a key is no AES key")) };
            let (block, after) =
                after.split_at_checked(usize::from(*length)).ok_or_else(|| wrong("a key is cut short"))?;
            let [3, check_value @ ..] = after else { return Err(wrong("a key has no check value")) };
            let (check_value, after) =
                check_value.split_at_checked(3).ok_or_else(|| wrong("a check value is cut short"))?;
            let key = self.decrypt(block)?;
            let computed = key_check_value(&key).0;
            if computed != check_value {
                return Err(wrong("a check value does not match its key"));
            }
            answer.extend(computed);
            keys.push(key);
            rest = after;
        }
        let [enc, mac, dek] = <[SecretKey; 3]>::try_from(keys).map_err(|_| wrong("it has not three keys"))?;
        let card = Self {
            eid: self.eid,
            algorithm: enc.algorithm(),
            enc: SoftwareKey::new(&enc),
            mac: SoftwareKey::new(&mac),
            dek,
        };
        Ok(Loaded { card, answer })
    }

    /// A key block: AES-CBC under Key-DEK, initial value zero.
    fn decrypt(&self, block: &[u8]) -> Result<SecretKey, CliError> {
        let wrong = |_| CliError::Answer("a key block of PUT KEY does not decrypt".to_owned());
        let algorithm = match self.dek.expose().len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            _ => &cipher::AES_256,
        };
        let key = UnboundCipherKey::new(algorithm, self.dek.expose()).and_then(DecryptingKey::cbc);
        let key = key.map_err(wrong)?;
        let mut plain = Zeroizing::new(block.to_vec());
        let zero = DecryptionContext::Iv128(FixedLength::from([0; 16]));
        key.decrypt(&mut plain, zero).map_err(wrong)?;
        SecretKey::from_slice(&plain)
            .map_err(|_| CliError::Answer("a key block of PUT KEY holds no AES key".to_owned()))
    }

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
    Device { eid: String, transport_key: String, enc: String, mac: String, dek: String, kcv: CheckValues },
    TransportKey { transport_key: String, wrapped: String, oaep_hash: String },
}

#[derive(Deserialize)]
struct CheckValues {
    enc: String,
    mac: String,
    dek: String,
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
            Line::Device { eid, transport_key, enc, mac, dek, kcv } => {
                let kek = transport_keys
                    .get(&transport_key)
                    .ok_or_else(|| does_not_hold("a device's transport key has no header before it"))?;
                let (enc, mac) = (unwrap_key(kek, &enc, &kcv.enc)?, unwrap_key(kek, &mac, &kcv.mac)?);
                cards.push(Card {
                    eid: eid.parse().map_err(|_| does_not_hold("a line names no EID"))?,
                    algorithm: enc.algorithm(),
                    enc: SoftwareKey::new(&enc),
                    mac: SoftwareKey::new(&mac),
                    dek: unwrap_key(kek, &dek, &kcv.dek)?,
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
        let (enc, mac, dek) = ([1u8; 16], [2u8; 16], [5u8; 16]);
        let eid = "89049032123451234512345678901235";
        let line = |mac_kcv: &str| {
            format!(
                "{{\"transport_key\":\"t\",\"wrapped\":\"{wrapped}\",\"oaep_hash\":\"SHA-1\"}}\n{{\"eid\":\"{eid}\",\"kvn\":\"0x30\",\"algorithm\":\"AES-128\",\"transport_key\":\"t\",\"enc\":\"{}\",\"mac\":\"{}\",\"dek\":\"{}\",\"kcv\":{{\"enc\":\"{}\",\"mac\":\"{mac_kcv}\",\"dek\":\"{}\"}}}}\n",
                wrap(&enc),
                wrap(&mac),
                wrap(&dek),
                kcv(&enc),
                kcv(&dek),
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

    #[test]
    fn a_card_takes_put_key_only_when_each_key_has_its_check_value() {
        let key = |byte: u8, length| SecretKey::from_slice(&vec![byte; length]).unwrap();
        let dek = key(5, 16);
        let card = Card {
            eid: "89049032123451234512345678901235".parse().unwrap(),
            enc: SoftwareKey::new(&key(1, 16)),
            mac: SoftwareKey::new(&key(2, 16)),
            algorithm: KeysetAlgorithm::Aes128,
            dek: key(5, 16),
        };
        let new = [key(6, 32), key(7, 32), key(8, 32)];
        let mut data = vec![0x31];
        for key in &new {
            // CBC by hand: each block is chained to the one before.
            let aes = SoftwareKey::new(&dek);
            let mut before = [0; 16];
            data.extend([0x88, 0x20]);
            for block in key.expose().chunks_exact(16) {
                let chained: [u8; 16] = std::array::from_fn(|at| block[at] ^ before[at]);
                before = *aes.encrypt_block(&chained);
                data.extend(before);
            }
            data.push(3);
            data.extend(key_check_value(key).0);
        }
        let length = u8::try_from(data.len()).unwrap();
        let mut put_key = [&[0x80, 0xd8, 0, 0x81, length][..], &data, &[0]].concat();
        let loaded = card.load(&put_key).unwrap();
        assert_eq!(loaded.answer[..4], [&[0x31][..], &key_check_value(&new[0]).0].concat());
        let challenges =
            Challenges { host: scp03::HostChallenge([3; 8]), card: scp03::CardChallenge([4; 8]) };
        let Ok(keys) = scp03::session_keys(
            &SoftwareKey::new(&new[0]),
            &SoftwareKey::new(&new[1]),
            KeysetAlgorithm::Aes256,
            &challenges,
        );
        let expected = keys.danger_without_card_proof().card_cryptogram(&challenges);
        assert_eq!(loaded.card.cryptogram(&challenges), expected);

        put_key[10] ^= 1;
        assert!(card.load(&put_key).is_err());
        assert!(card.load(&put_key[..60]).is_err());
    }
}
