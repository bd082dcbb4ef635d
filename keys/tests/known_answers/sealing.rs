use domain::PrincipalId;
use keys::scp03::{CardChallenge, Challenges, Cryptogram, HostChallenge, SessionKeys, session_keys};
use keys::seal::{EphemeralSeed, REQUEST_ID_MAX, Sealed, open, seal, session_keys_info};
use keys::{KeyError, SoftwareKey};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{array, bytes, key, kvn, list, vectors};

const FILE: &str = "chancery_sealed_session_keys.json";

fn challenges(file: &Value) -> Challenges {
    Challenges {
        host: HostChallenge(array(&file["host_challenge"])),
        card: CardChallenge(array(&file["card_challenge"])),
    }
}

fn info(file: &Value) -> Vec<u8> {
    session_keys_info(
        &PrincipalId(array(&file["principal"])),
        &file["eid"].as_str().unwrap().parse().unwrap(),
        kvn(&file["kvn"]),
        &challenges(file),
        &bytes(&file["request_id"]),
    )
    .unwrap()
}

fn sealed(vector: &Value) -> Sealed {
    Sealed { encapsulated_key: array(&vector["encapsulated_key"]), ciphertext: bytes(&vector["ciphertext"]) }
}

fn seed(vector: &Value) -> EphemeralSeed {
    EphemeralSeed::from_entropy(Zeroizing::new(array(&vector["seed"])))
}

#[test]
fn the_published_example_runs_from_master_to_sealed_bytes() {
    let file = vectors(FILE);
    let derived = vectors("chancery_derivation.json");
    for vector in list(&file["vectors"]) {
        let static_key = |usage: &str| {
            let of_keyset = list(&derived["vectors"]).iter().find(|v| {
                v["security_domain"] == "ISD-R"
                    && v["algorithm"] == vector["algorithm"]
                    && v["usage"] == usage
            });
            key(&of_keyset.unwrap()["key"])
        };
        let (enc, mac) = (static_key("enc"), static_key("mac"));
        let Ok(unverified) = session_keys(
            &SoftwareKey::new(&enc),
            &SoftwareKey::new(&mac),
            enc.algorithm(),
            &challenges(&file),
        );
        let keys = unverified.verify(&Cryptogram(array(&vector["card_cryptogram"]))).unwrap();
        assert_eq!(keys.host_cryptogram(&challenges(&file)).0, array(&vector["host_cryptogram"]));
        assert_eq!(info(&file), bytes(&vector["info"]));
        assert_eq!(*keys.encode(), bytes(&vector["plaintext"]));
        let made =
            seal(&array(&file["recipient_public_key"]), &info(&file), &keys.encode(), seed(vector)).unwrap();
        assert_eq!(made, sealed(vector));
    }
}

#[test]
fn what_other_software_sealed_opens_to_the_session_keys() {
    let file = vectors(FILE);
    for vector in list(&file["vectors"]) {
        for message in [vector, &vector["pyca"]] {
            let opened =
                open(&array(&file["recipient_private_key"]), &info(&file), &sealed(message)).unwrap();
            let keys = SessionKeys::decode(&opened).unwrap();
            assert_eq!(keys.s_enc.expose(), bytes(&vector["s_enc"]));
            assert_eq!(keys.s_mac.expose(), bytes(&vector["s_mac"]));
            assert_eq!(keys.s_rmac.expose(), bytes(&vector["s_rmac"]));
        }
    }
}

#[test]
fn a_sealed_message_opens_only_unchanged_with_its_key_and_in_its_context() {
    let file = vectors(FILE);
    let message = sealed(&file["vectors"][0]);
    let private_key: [u8; 32] = array(&file["recipient_private_key"]);
    let context = info(&file);
    assert!(open(&private_key, &context, &message).is_ok());

    for at in 0..context.len() {
        let mut other = context.clone();
        other[at] ^= 1;
        assert_eq!(open(&private_key, &other, &message), Err(KeyError::Sealed), "info byte {at}");
    }
    for at in 0..message.ciphertext.len() {
        let mut other = message.clone();
        other.ciphertext[at] ^= 1;
        assert_eq!(open(&private_key, &context, &other), Err(KeyError::Sealed), "ciphertext byte {at}");
    }
    for at in [0, 1, 64] {
        let mut other = message.clone();
        other.encapsulated_key[at] ^= 1;
        assert_eq!(open(&private_key, &context, &other), Err(KeyError::Sealed), "encapsulated key byte {at}");
    }
    let short = Sealed { ciphertext: vec![0; 15], ..message.clone() };
    assert_eq!(open(&private_key, &context, &short), Err(KeyError::Sealed));
    let mut another_key = private_key;
    another_key[31] ^= 1;
    assert_eq!(open(&another_key, &context, &message), Err(KeyError::Sealed));
    assert_eq!(open(&[0; 32], &context, &message), Err(KeyError::PrivateKey));
    assert_eq!(open(&[0xff; 32], &context, &message), Err(KeyError::PrivateKey));
}

#[test]
fn nothing_is_sealed_to_bytes_that_are_no_point_of_the_curve() {
    let good: [u8; 65] = array(&vectors(FILE)["recipient_public_key"]);
    let mut off_curve = good;
    off_curve[64] ^= 1;
    let mut wrong_form = good;
    wrong_form[0] = 0x03;
    for recipient in [off_curve, wrong_form, [0; 65]] {
        let seed = EphemeralSeed::from_entropy(Zeroizing::new([7; 32]));
        assert_eq!(seal(&recipient, b"info", b"keys", seed), Err(KeyError::RecipientKey));
    }
}

#[test]
fn a_request_id_that_its_length_byte_could_not_bound_is_refused() {
    let file = vectors(FILE);
    let with_request_id = |request_id: &[u8]| {
        session_keys_info(
            &PrincipalId([0; 32]),
            &file["eid"].as_str().unwrap().parse().unwrap(),
            kvn(&file["kvn"]),
            &challenges(&file),
            request_id,
        )
    };
    assert_eq!(with_request_id(&[]).unwrap().len(), 25 + 32 + 16 + 1 + 16 + 1);
    assert_eq!(with_request_id(&[1; REQUEST_ID_MAX]).unwrap().len(), 91 + REQUEST_ID_MAX);
    assert_eq!(with_request_id(&[1; 65]), Err(KeyError::RequestIdLength { actual: 65 }));
    assert_eq!(with_request_id(&[1; 256]), Err(KeyError::RequestIdLength { actual: 256 }));
}

#[test]
fn opened_bytes_of_another_version_or_length_are_no_session_keys() {
    let good = bytes(&vectors(FILE)["vectors"][0]["plaintext"]);
    assert!(SessionKeys::decode(&good).is_ok());
    let changed = |at: usize, to: u8| {
        let mut other = good.clone();
        other[at] = to;
        other
    };
    for bad in [
        changed(0, 2),
        changed(1, 24),
        changed(1, 0),
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        vec![],
        vec![1],
        vec![1, 0],
        [&[1, 17][..], &[0; 51]].concat(),
    ] {
        assert_eq!(SessionKeys::decode(&bad).err(), Some(KeyError::SessionKeysEncoding), "{bad:02x?}");
    }
}
