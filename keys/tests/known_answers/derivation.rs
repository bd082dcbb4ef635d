use std::collections::HashSet;

use domain::{DeviceKeyset, Eid, KeyUsage, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::derivation::chancery::{self, KeyKind};
use keys::derivation::{Scheme, SchemeName, Sp800108, block_count, final_block};
use keys::kdf::kbkdf_counter;
use keys::{Prf, SecretKey, SoftwareKey, key_check_value};
use proptest::prelude::*;
use serde_json::Value;

use crate::{array, bytes, key, kvn, list, vectors};

const VISA2_ENC: &str = "8510fc973208218ca86888bcec203635";

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

fn scp03_keyset(algorithm: KeysetAlgorithm) -> DeviceKeyset {
    DeviceKeyset {
        eid: "89049032123451234512345678901235".parse().unwrap(),
        protocol: Protocol::Scp03,
        security_domain: SecurityDomain::IsdR,
        kvn: KeyVersionNumber::scp03(0x30).unwrap(),
        algorithm,
    }
}

fn derived(scheme: &Scheme, algorithm: KeysetAlgorithm, usage: KeyUsage, master: &[u8]) -> Vec<u8> {
    let recipe = scheme.recipe(&scp03_keyset(algorithm), usage, master.len()).unwrap();
    recipe.derive(master, algorithm).unwrap().to_vec()
}

#[test]
fn the_published_keys_of_an10922_are_derived() {
    let file = vectors("an10922.json");
    for vector in list(&file["vectors"]) {
        let master = bytes(&vector["master"]);
        let algorithm = if master.len() == 16 { KeysetAlgorithm::Aes128 } else { KeysetAlgorithm::Aes256 };
        let scheme = Scheme::An10922(vec![bytes(&vector["M"]); 3]);
        for usage in KeyUsage::ALL {
            assert_eq!(derived(&scheme, algorithm, usage, &master), bytes(&vector["key"]), "{vector}");
        }
    }
}

/// AN10922 §2.3, the published AES-192 example.
#[test]
fn the_published_aes_192_key_of_an10922_overlaps_two_macs() {
    let master = hex::decode("00112233445566778899aabbccddeeff0102030405060708").unwrap();
    let input = hex::decode("04782e21801d803042f54e585020416275").unwrap();
    let key = derived(&Scheme::An10922(vec![input; 3]), KeysetAlgorithm::Aes192, KeyUsage::Enc, &master);
    assert_eq!(hex::encode(key), "ce39c8e1cd82d9a7bedbe9d74af59b23176755ee7586e12c");
}

#[test]
fn a_short_input_of_an10922_is_padded_to_two_blocks_and_gives_another_key_than_plain_cmac() {
    let master = hex::decode("00112233445566778899aabbccddeeff").unwrap();
    let aes = SoftwareKey::new(&SecretKey::from_slice(&master).unwrap());
    for length in 1..=31 {
        let input = vec![0x5a; length];
        let key = derived(
            &Scheme::An10922(vec![input.clone(); 3]),
            KeysetAlgorithm::Aes128,
            KeyUsage::Mac,
            &master,
        );
        let message = [&[0x01], input.as_slice()].concat();
        let Ok(plain) = aes.cmac(&message);
        // Two blocks in either case from 16 bytes on.
        assert_eq!(key == plain[..], message.len() > 16, "{length}");
        // By hand: CBC over the padded block, K2 unless the 32 bytes are full.
        let double = |block: [u8; 16]| {
            let value = u128::from_be_bytes(block);
            ((value << 1) ^ if value >> 127 == 1 { 0x87 } else { 0 }).to_be_bytes()
        };
        let k1 = double(*aes.encrypt_block(&[0; 16]));
        let mut padded = message.clone();
        let subkey = if padded.len() == 32 { k1 } else { double(k1) };
        if padded.len() < 32 {
            padded.push(0x80);
            padded.resize(32, 0);
        }
        let first = aes.encrypt_block(padded[..16].try_into().unwrap());
        let mut last: [u8; 16] = padded[16..].try_into().unwrap();
        last.iter_mut().zip(first.iter()).zip(subkey).for_each(|((x, c), k)| *x ^= c ^ k);
        assert_eq!(key, aes.encrypt_block(&last)[..], "{length}");
    }
}

#[test]
fn the_published_keys_of_kdf3_and_of_the_3des_schemes_are_derived() {
    let file = vectors("static_key_diversification.json");
    for vector in list(&file["vectors"]) {
        let (master, data) = (bytes(&vector["master"]), array(&vector["kdd"]));
        let (scheme, algorithm) = match vector["scheme"].as_str().unwrap() {
            "emv" => (Scheme::EmvCps11(data), KeysetAlgorithm::TripleDes2Key),
            "visa2" => (Scheme::Visa2(data), KeysetAlgorithm::TripleDes2Key),
            "kdf3 AES-128" => (Scheme::Kdf3(data), KeysetAlgorithm::Aes128),
            "kdf3 AES-256" => (Scheme::Kdf3(data), KeysetAlgorithm::Aes256),
            other => panic!("{other}"),
        };
        for (usage, name) in KeyUsage::ALL.into_iter().zip(["enc", "mac", "dek"]) {
            assert_eq!(derived(&scheme, algorithm, usage, &master), bytes(&vector[name]), "{vector} {name}");
        }
    }
}

/// Computed with OpenSSL's 3DES over the VISA2 layout of GlobalPlatformPro.
#[test]
fn visa2_takes_other_bytes_of_the_diversification_data() {
    let master = hex::decode("404142434445464748494a4b4c4d4e4f").unwrap();
    let data = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let key = derived(&Scheme::Visa2(data), KeysetAlgorithm::TripleDes2Key, KeyUsage::Enc, &master);
    assert_eq!(hex::encode(key), VISA2_ENC);
}

proptest! {
    #[test]
    fn sp_800_108_is_counter_mode_over_its_fields(
        label in proptest::collection::vec(any::<u8>(), 1..64),
        context in proptest::collection::vec(any::<u8>(), 0..64),
        length_bytes in prop::sample::select(vec![0u8, 2, 4]),
    ) {
        let fixed = Sp800108::new(length_bytes, vec![label.clone(); 3], context.clone()).unwrap();
        let master = [7; 32];
        let aes = SoftwareKey::new(&SecretKey::from_slice(&master).unwrap());
        let bits = 256u32.to_be_bytes();
        let after = [&label[..], &[0], &context, &bits[4 - usize::from(length_bytes)..]].concat();
        let mut expected = [0; 32];
        let Ok(()) = kbkdf_counter(&aes, &[], &after, &mut expected);
        let scheme = Scheme::Sp800108(fixed);
        prop_assert_eq!(derived(&scheme, KeysetAlgorithm::Aes256, KeyUsage::Dek, &master), expected);
        prop_assert_eq!(Scheme::parse(scheme.name(), &scheme.inputs()), Ok(scheme));
    }

    #[test]
    fn inputs_read_back_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for name in SchemeName::ALL {
            if let Ok(scheme) = Scheme::parse(name, &bytes) {
                prop_assert_eq!((scheme.name(), scheme.inputs()), (name, bytes.clone()));
            }
        }
    }
}
