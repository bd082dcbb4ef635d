use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn header(optional: Vec<([u8; 2], String)>) -> Header {
    Header { usage: *b"B3", mode: b'X', version: *b"30", exportability: b'E', optional }
}

fn key(bytes: &[u8]) -> SecretKey {
    SecretKey::from_slice(bytes).unwrap()
}

#[test]
fn blocks_of_other_software_open_and_are_made_again_to_the_last_character() {
    let text = include_str!("../../../tests/vectors/tr31_version_d.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let bytes = |value: &serde_json::Value| hex::decode(value.as_str().unwrap()).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 45);
    for case in cases {
        let protection = BlockProtection::new(&key(&bytes(&case["kbpk"])));
        let block = case["block"].as_str().unwrap();
        let (read, opened) = protection.unwrap(block).unwrap();
        let optional = case["optional"].as_array().unwrap().iter().map(|pair| {
            let id: [u8; 2] = pair[0].as_str().unwrap().as_bytes().try_into().unwrap();
            (id, pair[1].as_str().unwrap().to_owned())
        });
        assert_eq!(read, header(optional.collect()), "{block}");
        assert_eq!(opened.expose(), bytes(&case["key"]));
        // The other software's filler is random; with the same one the whole block is the same.
        let (_, plain) = protection.open(block).unwrap();
        let filler: [u8; FILLER_BYTES] = plain[..].try_into().unwrap();
        assert_eq!(protection.wrap(&read, &opened, &filler).unwrap(), block);
    }
}

#[test]
fn a_header_that_was_changed_does_not_open() {
    let protection = BlockProtection::new(&key(&[7; 32]));
    let block = protection.wrap(&header(Vec::new()), &key(&[9; 16]), &[0; FILLER_BYTES]).unwrap();
    // From "derives keys" to "encrypts data".
    let changed = block.replacen("B3AX", "D0AE", 1);
    assert_ne!(changed, block);
    assert!(matches!(protection.unwrap(&changed), Err(KeyError::KeyBlock(_))));
    let other = BlockProtection::new(&key(&[8; 32]));
    assert!(matches!(other.unwrap(&block), Err(KeyError::KeyBlock(_))));
}

#[test]
fn a_check_value_is_that_of_the_standard() {
    // RFC 4493's key; the answer is of pyca/cryptography.
    let key = key(&hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap());
    assert_eq!(cmac_check_value(&key), "017AD386C376");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_wrapped_opens_to_the_same(
        protection in prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 24), vec(any::<u8>(), 32)],
        secret in prop_oneof![vec(any::<u8>(), 16), vec(any::<u8>(), 24), vec(any::<u8>(), 32)],
        filler in any::<[u8; FILLER_BYTES]>(),
        labels in vec("[ -~]{0,60}", 0..4),
    ) {
        let protection = BlockProtection::new(&key(&protection));
        let optional = labels.into_iter().enumerate().map(|(at, label)| ([b'0', b'0' + at as u8], label)).collect();
        let header = header(optional);
        let block = protection.wrap(&header, &key(&secret), &filler).unwrap();
        prop_assert_eq!(block.len() % 16, 0);
        prop_assert_eq!(&block[1..5], format!("{:04}", block.len()));
        let (read, opened) = protection.unwrap(&block).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(opened.expose(), &secret[..]);
    }

    #[test]
    fn any_changed_character_is_noticed(at in 0usize..160, to in "[0-9A-F]") {
        let protection = BlockProtection::new(&key(&[7; 32]));
        let block = protection
            .wrap(&header(vec![(*b"KC", "0112345678AB".to_owned())]), &key(&[9; 32]), &[1; FILLER_BYTES])
            .unwrap();
        let mut changed = block.clone();
        changed.replace_range(at..=at, &to);
        prop_assert_eq!(protection.unwrap(&changed).is_ok(), changed == block);
    }

    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof![any::<String>(), "D[0-9]{4}[ -~]{0,200}"]) {
        let protection = BlockProtection::new(&key(&[7; 32]));
        prop_assert!(protection.unwrap(&text).is_err());
    }
}
