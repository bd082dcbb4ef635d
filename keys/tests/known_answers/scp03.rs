use domain::KeysetAlgorithm;
use keys::scp03::{
    CardChallenge, Challenges, Cryptogram, DerivationConstant, HostChallenge, UnverifiedSessionKeys,
    derivation_data, session_keys,
};
use keys::{KeyError, SecretKey, SoftwareKey, key_check_value};
use serde_json::Value;

use crate::{array, bytes, key, list, vectors};

/// One trace of a real card, whatever its file calls the fields.
struct Trace {
    enc: SecretKey,
    mac: SecretKey,
    challenges: Challenges,
    card_cryptogram: Cryptogram,
    vector: Value,
}

impl Trace {
    fn keys(&self) -> UnverifiedSessionKeys {
        let algorithm = self.enc.algorithm();
        let Ok(keys) = session_keys(
            &SoftwareKey::new(&self.enc),
            &SoftwareKey::new(&self.mac),
            algorithm,
            &self.challenges,
        );
        keys
    }
}

fn traces() -> Vec<Trace> {
    let file = vectors("scp03.json");
    let trace = |vector: &Value, command: &str, response: &str| {
        let (command, response) = (bytes(&vector[command]), bytes(&vector[response]));
        Trace {
            enc: key(&vector["enc"]),
            mac: key(&vector["mac"]),
            challenges: Challenges {
                // INITIALIZE UPDATE: header(5) || host challenge(8) || Le
                host: HostChallenge(command[5..13].try_into().unwrap()),
                // diversification data(10) || KVN || 03 || i || card challenge(8) || card cryptogram(8) || counter(3)
                card: CardChallenge(response[13..21].try_into().unwrap()),
            },
            card_cryptogram: Cryptogram(response[21..29].try_into().unwrap()),
            vector: vector.clone(),
        }
    };
    let pysim = list(&file["pysim"]).iter().map(|v| trace(v, "init_upd_cmd", "init_upd_rsp"));
    let kaoh = list(&file["kaoh"]).iter().map(|v| trace(v, "init_update", "init_update_resp"));
    pysim.chain(kaoh).collect()
}

#[test]
fn the_traces_cover_every_key_length() {
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
        assert!(traces().iter().any(|trace| trace.enc.algorithm() == algorithm));
    }
}

#[test]
fn a_real_card_is_recognised_and_its_session_keys_are_derived() {
    for trace in traces() {
        let keys = trace.keys().verify(&trace.card_cryptogram).unwrap();
        let vector = &trace.vector;
        assert_eq!(keys.s_enc.expose(), bytes(&vector["s_enc"]), "{vector}");
        assert_eq!(keys.s_mac.expose(), bytes(&vector["s_mac"]), "{vector}");
        assert_eq!(keys.s_rmac.expose(), bytes(&vector["s_rmac"]), "{vector}");
        assert_eq!(keys.card_cryptogram(&trace.challenges).0, array(&vector["card_cryptogram"]));
        assert_eq!(keys.host_cryptogram(&trace.challenges).0, array(&vector["host_cryptogram"]));
    }
}

#[test]
fn a_card_cryptogram_with_any_changed_bit_releases_no_keys() {
    for trace in traces() {
        for bit in 0..64 {
            let mut presented = trace.card_cryptogram;
            presented.0[bit / 8] ^= 1 << (bit % 8);
            let refused = trace.keys().verify(&presented).err();
            assert_eq!(refused, Some(KeyError::CardCryptogramMismatch));
        }
    }
}

#[test]
fn the_derivation_data_is_two_blocks_as_in_amendment_d() {
    let challenges = Challenges { host: HostChallenge([0xaa; 8]), card: CardChallenge([0xbb; 8]) };
    assert_eq!(
        hex::encode(derivation_data(DerivationConstant::SRmac, 256, 2, &challenges)),
        "00000000000000000000000700010002aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb"
    );
}

#[test]
fn published_keys_have_their_published_check_values() {
    let file = vectors("scp03.json");
    for vector in list(&file["kcv_aes"]) {
        assert_eq!(key_check_value(&key(&vector["key"])).to_string(), vector["kcv"].as_str().unwrap());
    }
}
