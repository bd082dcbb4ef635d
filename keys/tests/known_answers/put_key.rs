use domain::{KeyCheckValue, KeyVersionNumber, KeysetAlgorithm};
use keys::put_key::{Dialect, EncryptedKey, PutKey, PutKeyAnswer};
use keys::{KeyError, SecretKey, SoftwareKey, key_check_value};

use crate::{bytes, key, list, vectors};

/// AES-CBC with IV 0 over the key padded with zeros to whole blocks.
fn encrypted(dek: &SoftwareKey, new: &SecretKey) -> EncryptedKey {
    let mut padded = new.expose().to_vec();
    padded.resize(padded.len().next_multiple_of(16), 0);
    let mut block = Vec::new();
    let mut previous = [0; 16];
    for plain in padded.chunks_exact(16) {
        previous.iter_mut().zip(plain).for_each(|(byte, plain)| *byte ^= plain);
        previous = *dek.encrypt_block(&previous);
        block.extend(previous);
    }
    EncryptedKey { block, kcv: key_check_value(new) }
}

fn kvn(value: u32) -> KeyVersionNumber {
    KeyVersionNumber::scp03(value).unwrap()
}

/// Three keys of `algorithm`, with blocks of the right length.
fn some_keys(algorithm: KeysetAlgorithm) -> [EncryptedKey; 3] {
    [1, 2, 3].map(|byte| EncryptedKey {
        block: vec![byte; algorithm.key_bytes().next_multiple_of(16)],
        kcv: KeyCheckValue([byte; 3]),
    })
}

#[test]
fn the_published_commands_come_out_in_both_dialects() {
    for example in list(&vectors("put_key.json")["examples"]) {
        let dek = SoftwareKey::new(&key(&example["dek"]));
        let new: Vec<SecretKey> = list(&example["keys"]).iter().map(key).collect();
        let keys = [0, 1, 2].map(|at| encrypted(&dek, &new[at]));
        for (key, kcv) in keys.iter().zip(list(&example["kcv"])) {
            assert_eq!(key.kcv.0[..], bytes(kcv));
        }
        let in_a = bytes(&example["put_key_style_A"]);
        let put_key = PutKey::new(None, kvn(in_a[5].into()), new[0].algorithm(), keys).unwrap();
        assert_eq!(put_key.to_apdu(Dialect::A), in_a);
        assert_eq!(put_key.to_apdu(Dialect::B), bytes(&example["put_key_style_B"]));
    }
}

#[test]
fn a_padded_key_names_its_clear_length_in_both_dialects_and_a_replaced_keyset_stands_in_p1() {
    let algorithm = KeysetAlgorithm::Aes192;
    let put_key = PutKey::new(Some(kvn(0x30)), kvn(0x3f), algorithm, some_keys(algorithm)).unwrap();
    let apdu = put_key.to_apdu(Dialect::A);
    assert_eq!(apdu, put_key.to_apdu(Dialect::B));
    assert_eq!(apdu[..9], [0x80, 0xd8, 0x30, 0x81, 118, 0x3f, 0x88, 0x21, 0x18]);
    assert_eq!((apdu.len(), apdu.last()), (5 + 118 + 1, Some(&0x00)));
}

#[test]
fn blocks_of_another_algorithm_are_refused() {
    let refused = |algorithm, keys| PutKey::new(None, kvn(0x31), algorithm, keys).unwrap_err();
    assert_eq!(
        refused(KeysetAlgorithm::Aes128, some_keys(KeysetAlgorithm::Aes256)),
        KeyError::PutKeyBlockLength { expected: 16, actual: 32 }
    );
    let mut one_short = some_keys(KeysetAlgorithm::Aes256);
    one_short[2].block.pop();
    assert_eq!(
        refused(KeysetAlgorithm::Aes256, one_short),
        KeyError::PutKeyBlockLength { expected: 32, actual: 31 }
    );
}

#[test]
fn an_answer_is_equal_only_when_every_byte_is() {
    let put_key =
        PutKey::new(None, kvn(0x31), KeysetAlgorithm::Aes128, some_keys(KeysetAlgorithm::Aes128)).unwrap();
    let right = [0x31, 1, 1, 1, 2, 2, 2, 3, 3, 3];
    assert_eq!(put_key.expected_answer().to_bytes(), right);
    assert_eq!(PutKeyAnswer::parse(&right).unwrap(), put_key.expected_answer());
    for at in 0..right.len() {
        let mut wrong = right;
        wrong[at] ^= 1;
        assert_ne!(PutKeyAnswer::parse(&wrong).unwrap(), put_key.expected_answer(), "byte {at}");
    }
    for malformed in [&right[..9], &[&right[..], &[0]].concat(), &[]] {
        let error = PutKeyAnswer::parse(malformed).unwrap_err();
        assert_eq!(error, KeyError::PutKeyAnswer { bytes: malformed.len() });
    }
    assert!(PutKeyAnswer::parse(&[0x20, 1, 1, 1, 2, 2, 2, 3, 3, 3]).is_err(), "no SCP03 version");
}
