use std::collections::HashSet;

use domain::{DeviceKeyset, Eid, KeyUsage, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::derivation::chancery::{self, KeyKind};
use keys::derivation::{block_count, final_block};
use keys::{Prf, SecretKey, SoftwareKey, key_check_value};
use proptest::prelude::*;
use serde_json::Value;

use crate::{array, bytes, key, kvn, list, vectors};

fn keyset(eid: &Value, vector: &Value) -> DeviceKeyset {
    DeviceKeyset {
        eid: eid.as_str().unwrap().parse().unwrap(),
        protocol: Protocol::Scp03,
        security_domain: match vector["security_domain"].as_str().unwrap() {
            "ISD-R" => SecurityDomain::IsdR,
            "ECASD" => SecurityDomain::Ecasd,
            other => panic!("{other}"),
        },
        kvn: kvn(&vector["kvn"]),
        algorithm: match vector["algorithm"].as_str().unwrap() {
            "AES-128" => KeysetAlgorithm::Aes128,
            "AES-192" => KeysetAlgorithm::Aes192,
            "AES-256" => KeysetAlgorithm::Aes256,
            other => panic!("{other}"),
        },
    }
}

fn usage(vector: &Value) -> KeyUsage {
    match vector["usage"].as_str().unwrap() {
        "enc" => KeyUsage::Enc,
        "mac" => KeyUsage::Mac,
        "dek" => KeyUsage::Dek,
        other => panic!("{other}"),
    }
}

#[test]
fn every_published_key_of_our_scheme_is_derived() {
    let file = vectors("chancery_derivation.json");
    let master = SoftwareKey::new(&key(&file["master"]));
    for vector in list(&file["vectors"]) {
        let (keyset, usage) = (keyset(&file["eid"], vector), usage(vector));
        let messages = list(&vector["messages"]);
        assert_eq!(messages.len(), usize::from(block_count(keyset.algorithm)));
        for (counter, message) in (1..).zip(messages) {
            assert_eq!(chancery::message(&keyset, usage, counter), array::<32>(message));
        }
        let Ok(derived) = chancery::derive(&master, &keyset, usage);
        assert_eq!(derived.expose(), bytes(&vector["key"]), "{vector}");
        assert_eq!(key_check_value(&derived).to_string(), vector["kcv"].as_str().unwrap());
    }
}

#[test]
fn every_published_key_comes_out_of_single_aes_blocks_too() {
    let file = vectors("chancery_derivation.json");
    let master = SoftwareKey::new(&key(&file["master"]));
    let l = master.encrypt_block(&[0; 16]);
    for vector in list(&file["vectors"]) {
        let (keyset, usage) = (keyset(&file["eid"], vector), usage(vector));
        let mut derived = vec![];
        for counter in 1..=block_count(keyset.algorithm) {
            let c1 = master.encrypt_block(&KeyKind::of(&keyset, usage, counter).first_block());
            derived.extend_from_slice(&*master.encrypt_block(&final_block(
                &l,
                &c1,
                chancery::second_block(&keyset.eid),
            )));
        }
        assert_eq!(derived[..keyset.algorithm.key_bytes()], bytes(&vector["key"]), "{vector}");
    }
}

#[test]
fn the_published_final_block_is_computed() {
    let example = &vectors("chancery_derivation.json")["final_block"];
    let x = final_block(&array(&example["l"]), &array(&example["c1"]), &array(&example["d2"]));
    assert_eq!(*x, array(&example["x"]));
}

#[test]
fn no_two_kinds_of_key_share_a_first_block() {
    let eid: Eid = "89049032123451234512345678901235".parse().unwrap();
    let mut blocks = HashSet::new();
    let mut kinds = HashSet::new();
    for security_domain in [SecurityDomain::IsdR, SecurityDomain::Ecasd] {
        for kvn in (0x30..=0x3f).map(|kvn| KeyVersionNumber::scp03(kvn).unwrap()) {
            for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
                let keyset = DeviceKeyset { eid, protocol: Protocol::Scp03, security_domain, kvn, algorithm };
                for usage in KeyUsage::ALL {
                    for counter in 1..=block_count(algorithm) {
                        let kind = KeyKind::of(&keyset, usage, counter);
                        assert!(kinds.insert(kind));
                        assert!(blocks.insert(kind.first_block()));
                    }
                }
            }
        }
    }
    assert_eq!(blocks.len(), 2 * 16 * 3 * (1 + 2 + 2));
}

proptest! {
    #[test]
    fn aes_over_the_final_block_is_cmac_over_both_blocks(
        key_bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 16..=16),
            prop::collection::vec(any::<u8>(), 24..=24),
            prop::collection::vec(any::<u8>(), 32..=32),
        ],
        d1 in any::<[u8; 16]>(),
        d2 in any::<[u8; 16]>(),
    ) {
        let aes = SoftwareKey::new(&SecretKey::from_slice(&key_bytes).unwrap());
        let x = final_block(&aes.encrypt_block(&[0; 16]), &aes.encrypt_block(&d1), &d2);
        let Ok(cmac) = aes.cmac(&[d1, d2].concat());
        prop_assert_eq!(*aes.encrypt_block(&x), *cmac);
    }
}
