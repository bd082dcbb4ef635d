//! Key information template: which keys a security domain says it holds, as GET DATA 00E0 answers
//! (GP Card Specification §11.3.3.1, tables 11-29 and 11-30). A list for comparison, not a proof: the card may say anything.

use crate::KeyError;

/// The most bytes of an answer: no card has room for more keys than that names.
pub const ANSWER_BYTES_MAX: usize = 4096;

/// Tag of the template.
const TEMPLATE: u8 = 0xe0;
/// Tag of one key's data.
const KEY: u8 = 0xc0;
/// First byte of a key type in the extended format.
const EXTENDED: u8 = 0xff;

/// One key as the card names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyInformation {
    /// Key identifier: 1 ENC, 2 MAC, 3 DEK for a keyset of a secure channel.
    pub key_identifier: u8,
    /// Key version number.
    pub kvn: u8,
    /// Its parts, in the order of the card; a symmetric key has one.
    pub components: Vec<KeyComponent>,
    /// What the key may be used for, as the extended format codes it: empty in the basic one.
    pub usage: Vec<u8>,
    /// Who may use it, likewise.
    pub access: Vec<u8>,
}

/// One part of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyComponent {
    /// Type (GP Card Specification table 11-16): 80 DES, 85 PSK-TLS, 88 AES, B0 and B1 ECC, A0 and A1 RSA.
    pub key_type: u8,
    /// Length in bytes.
    pub bytes: u16,
}

/// Reads `E0 { C0 { key identifier, KVN, (type, length)… } … }` or the list of C0 alone, without the status word. In the
/// extended format a type is `FF xx`, a length has two bytes, and key usage and key access follow, each after its length.
/// An empty C0, as a fresh security domain has it, names no key.
pub fn parse_key_information(answer: &[u8]) -> Result<Vec<KeyInformation>, KeyError> {
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(KeyError::KeyInformation("is longer than 4096 bytes"));
    }
    let mut rest = answer;
    if let [TEMPLATE, ..] = answer {
        let (_, content, after) = take_tlv(answer)?;
        if !after.is_empty() {
            return Err(KeyError::KeyInformation("goes on behind its template"));
        }
        rest = content;
    }
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let (tag, value, after) = take_tlv(rest)?;
        if tag != KEY {
            return Err(KeyError::KeyInformation("holds something other than C0"));
        }
        if !value.is_empty() {
            keys.push(parse_key(value)?);
        }
        rest = after;
    }
    Ok(keys)
}

fn parse_key(value: &[u8]) -> Result<KeyInformation, KeyError> {
    let [key_identifier, kvn, rest @ ..] = value else {
        return Err(KeyError::KeyInformation("has a C0 without key identifier and version"));
    };
    let mut key = KeyInformation {
        key_identifier: *key_identifier,
        kvn: *kvn,
        components: Vec::new(),
        usage: Vec::new(),
        access: Vec::new(),
    };
    let mut rest = rest;
    if rest.first() == Some(&EXTENDED) {
        while let [EXTENDED, key_type, high, low, after @ ..] = rest {
            let bytes = u16::from_be_bytes([*high, *low]);
            key.components.push(KeyComponent { key_type: *key_type, bytes });
            rest = after;
        }
        (key.usage, rest) = take_counted(rest)?;
        (key.access, rest) = take_counted(rest)?;
    } else {
        while let [key_type, bytes, after @ ..] = rest {
            if *key_type == EXTENDED {
                return Err(KeyError::KeyInformation("has a C0 that changes its format"));
            }
            key.components.push(KeyComponent { key_type: *key_type, bytes: u16::from(*bytes) });
            rest = after;
        }
    }
    if key.components.is_empty() || !rest.is_empty() {
        return Err(KeyError::KeyInformation("has a C0 of a wrong length"));
    }
    Ok(key)
}

/// A length byte and so many bytes; nothing at all, which some cards send, is empty.
fn take_counted(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), KeyError> {
    let [length, rest @ ..] = bytes else { return Ok((Vec::new(), bytes)) };
    rest.split_at_checked(usize::from(*length))
        .map(|(taken, rest)| (taken.to_vec(), rest))
        .ok_or(KeyError::KeyInformation("has a C0 of a wrong length"))
}

/// Tag of one byte, length of one to three (BER, ISO 7816-4 §5.2.2), value, and what follows.
fn take_tlv(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), KeyError> {
    let (tag, length, rest) = match bytes {
        [tag, length @ 0..=0x7f, rest @ ..] => (*tag, usize::from(*length), rest),
        [tag, 0x81, length, rest @ ..] => (*tag, usize::from(*length), rest),
        [tag, 0x82, high, low, rest @ ..] => (*tag, usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return Err(KeyError::KeyInformation("has a length that is none")),
    };
    match rest.split_at_checked(length) {
        Some((value, after)) => Ok((tag, value, after)),
        None => Err(KeyError::KeyInformation("ends too early")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match u8::try_from(value.len()) {
            Ok(length @ 0..=0x7f) => out.push(length),
            Ok(length) => out.extend([0x81, length]),
            Err(_) => {
                out.push(0x82);
                out.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            }
        }
        out.extend(value);
        out
    }

    fn encode(key: &KeyInformation, extended: bool) -> Vec<u8> {
        let mut value = vec![key.key_identifier, key.kvn];
        for part in &key.components {
            if extended {
                value.extend([EXTENDED, part.key_type]);
                value.extend(part.bytes.to_be_bytes());
            } else {
                value.extend([part.key_type, u8::try_from(part.bytes).unwrap()]);
            }
        }
        if extended {
            for list in [&key.usage, &key.access] {
                value.push(u8::try_from(list.len()).unwrap());
                value.extend(list);
            }
        }
        tlv(KEY, &value)
    }

    fn key(extended: bool) -> impl Strategy<Value = KeyInformation> {
        let longest: u16 = if extended { 0x7fff } else { 0xff };
        let part = (0_u8..0xff, 0..=longest).prop_map(|(key_type, bytes)| KeyComponent { key_type, bytes });
        let bytes = move || proptest::collection::vec(any::<u8>(), 0..if extended { 3 } else { 1 });
        (any::<u8>(), any::<u8>(), proptest::collection::vec(part, 1..4), bytes(), bytes()).prop_map(
            |(key_identifier, kvn, components, usage, access)| KeyInformation {
                key_identifier,
                kvn,
                components,
                usage,
                access,
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_with_and_without_its_template(
            basic in proptest::collection::vec(key(false), 0..20),
            extended in proptest::collection::vec(key(true), 0..20),
        ) {
            let list: Vec<u8> = basic
                .iter()
                .flat_map(|key| encode(key, false))
                .chain(extended.iter().flat_map(|key| encode(key, true)))
                .collect();
            let keys = [basic, extended].concat();
            prop_assert_eq!(&parse_key_information(&list).unwrap(), &keys);
            prop_assert_eq!(&parse_key_information(&tlv(TEMPLATE, &list)).unwrap(), &keys);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_key_information(&bytes);
            let _ = parse_key_information(&tlv(TEMPLATE, &tlv(KEY, &bytes)));
        }

        #[test]
        fn an_answer_cut_anywhere_inside_is_refused(keys in proptest::collection::vec(key(true), 1..5), cut in any::<proptest::sample::Index>()) {
            let list: Vec<u8> = keys.iter().flat_map(|key| encode(key, true)).collect();
            let answer = tlv(TEMPLATE, &list);
            prop_assert!(parse_key_information(&answer[..1 + cut.index(answer.len() - 1)]).is_err());
        }
    }

    #[test]
    fn the_published_example_is_key_2_of_version_3_aes_16_bytes() {
        // pySim prints `c00402038810` so.
        let keys = parse_key_information(&[0xe0, 6, 0xc0, 4, 2, 3, 0x88, 16]).unwrap();
        let [key] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!((key.key_identifier, key.kvn), (2, 3));
        assert_eq!(key.components, [KeyComponent { key_type: 0x88, bytes: 16 }]);
    }

    #[test]
    fn a_fresh_domain_names_no_key_and_broken_answers_are_refused() {
        assert_eq!(parse_key_information(&[0xe0, 2, 0xc0, 0]).unwrap(), []);
        assert_eq!(parse_key_information(&[]).unwrap(), []);
        for bad in [
            &[0xe0][..],
            &[0xe0, 0x80],
            &[0xe0, 0, 0x90, 0],
            &[0xe0, 3, 0xc0, 1, 1],
            &[0xe0, 4, 0xc0, 2, 1, 0x30],
            &[0xe0, 5, 0xc0, 3, 1, 0x30, 0x88],
            &[0xe0, 3, 0xc1, 1, 1],
            &[0xc0, 6, 1, 0x30, 0x88, 16, 0xff, 0x88],
        ] {
            assert!(parse_key_information(bad).is_err(), "{bad:02x?}");
        }
        assert!(parse_key_information(&vec![0; ANSWER_BYTES_MAX + 1]).is_err());
    }
}
