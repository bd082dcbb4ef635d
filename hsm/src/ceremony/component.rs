//! Components: what custodians hold of a key, and the values that no key may have.

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use domain::KeyCheckValue;
use keys::seal::{Sealed, open};
use keys::{SecretKey, key_check_value};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::KeyRole;
use crate::protocol::{WireComponent, WireCustodian};

/// Fewest components: with one, its custodian would know the key.
pub(crate) const COMPONENTS_MIN: usize = 2;

/// A key on its way in: what it will be and how its custodians know it.
#[derive(Debug, Clone)]
pub struct ImportedKey<'a> {
    /// A role that takes keys from outside.
    pub role: KeyRole,
    /// 1 to 40 of `a-z`, `0-9`, `-`.
    pub name: &'a str,
    /// Generation or version, from 1.
    pub epoch: u32,
    /// Key check value of the key: AES over 16 bytes of 01, triple DES over 8 bytes of 00; first three bytes.
    pub expected: [u8; 3],
    /// Whether published values are taken.
    pub known: KnownValues,
}

/// What becomes of a published test or default value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownValues {
    /// Development.
    Allow,
    /// Everything else.
    Refuse,
}

/// One custodian's part of a key. Zeroized on drop; never printed.
pub struct Component {
    custodian: String,
    value: Zeroizing<Vec<u8>>,
    check_value: [u8; 3],
}

impl Component {
    /// The part of `custodian`, with the key check value it has when it is taken for a key.
    pub fn new(custodian: &str, value: Zeroizing<Vec<u8>>, check_value: [u8; 3]) -> Self {
        Self { custodian: custodian.to_owned(), value, check_value }
    }

    pub(crate) fn into_wire(mut self) -> WireComponent {
        let value = std::mem::take(&mut *self.value);
        WireComponent { custodian: self.custodian, value, check_value: self.check_value }
    }
}

/// Who will keep a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custodian {
    /// Name of the person.
    pub name: String,
    /// The custodian's own P-256 key, to which the component is sealed: an uncompressed point.
    pub public_key: [u8; 65],
}

impl Custodian {
    pub(crate) fn wire(&self) -> WireCustodian {
        WireCustodian { name: self.name.clone(), public_key: self.public_key.to_vec() }
    }
}

/// A component that only its custodian can open: HPKE (RFC 9180) as session keys are sealed, info of [`component_info`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedComponent {
    /// Name of the custodian.
    pub custodian: String,
    /// HPKE encapsulated key, an uncompressed P-256 point.
    pub encapsulated_key: Vec<u8>,
    /// HPKE ciphertext of the component's bytes.
    pub ciphertext: Vec<u8>,
    /// Key check value of the component.
    pub check_value: [u8; 3],
    /// The how-manieth component it is, from 1; others may hold the same.
    pub number: usize,
    /// Of how many.
    pub of: usize,
}

/// The HPKE info of a sealed component: which key it is part of, and the how-manieth of how many.
pub fn component_info(label: &str, number: usize, count: usize) -> Vec<u8> {
    format!("chancery key component v1\0{label}\0{number}/{count}").into_bytes()
}

/// Opens a component with its custodian's key (P-256, PKCS#8 DER); `None` when it is not for this key, or not of that place.
pub fn open_component(custodian_key: &[u8], label: &str, sealed: &SealedComponent) -> Option<Component> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, custodian_key).ok()?;
    let scalar = pair.private_key().as_be_bytes().ok()?;
    let envelope = Sealed {
        encapsulated_key: sealed.encapsulated_key.as_slice().try_into().ok()?,
        ciphertext: sealed.ciphertext.clone(),
    };
    let info = component_info(label, sealed.number, sealed.of);
    let value = open(scalar.as_ref().try_into().ok()?, &info, &envelope).ok()?;
    Some(Component::new(&sealed.custodian, value, sealed.check_value))
}

/// Whether the bytes are a value that is published as a test or default key: all bytes alike, each byte the one before plus
/// the same step (40 41 42 ..., 00 11 22 ..., 01 23 45 ...), such a pattern again and again, or one of a list.
pub fn is_published_value(value: &[u8]) -> bool {
    /// NXP AN10922's AES-256 example, and GlobalPlatform's default key followed by what some tools append.
    const LISTED: [&[u8]; 2] = [
        b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\
          \x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x00",
        b"\x40\x41\x42\x43\x44\x45\x46\x47\x48\x49\x4a\x4b\x4c\x4d\x4e\x4f\
          \x40\x41\x42\x43\x44\x45\x46\x47",
    ];
    let steps = |bytes: &[u8]| {
        bytes.len() < 2 || {
            let step = bytes[1].wrapping_sub(bytes[0]);
            bytes.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step)
        }
    };
    let repeats = |len: usize| value.len() > len && value.chunks(len).all(|c| c == &value[..c.len()]);
    steps(value)
        || LISTED.contains(&value)
        || [8, 16].into_iter().any(|len| repeats(len) && steps(&value[..len]))
}

/// The published values that a wrapped key is compared with, by their check values: a wrapped key cannot be looked at.
pub(crate) fn published_values(len: usize) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
    [(0x40, 1), (0x00, 0x11), (0x00, 1), (0x01, 1), (0x01, 0x22), (0x00, 0), (0xff, 0), (0x01, 0), (0x11, 0)]
        .into_iter()
        .flat_map(move |(first, step): (u8, u8)| {
            [len, 16, 8].into_iter().map(move |period| {
                let byte = |at: usize| (0..at % period).fold(first, |byte, _| byte.wrapping_add(step));
                Zeroizing::new((0..len).map(byte).collect::<Vec<u8>>())
            })
        })
}

/// The check values of the published AES keys of a length.
pub fn published_check_values(bytes: usize) -> Vec<KeyCheckValue> {
    let check_value =
        |value: Zeroizing<Vec<u8>>| SecretKey::from_slice(&value).ok().map(|key| key_check_value(&key));
    published_values(bytes).filter_map(check_value).collect()
}

/// The sum of components of one length.
pub(crate) fn sum(components: &[WireComponent]) -> Zeroizing<Vec<u8>> {
    let len = components.first().map_or(0, |component| component.value.len());
    let mut sum = Zeroizing::new(vec![0; len]);
    for component in components {
        for (byte, part) in sum.iter_mut().zip(&component.value) {
            *byte ^= part;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_keys_are_known_and_ordinary_ones_are_not() {
        for published in [
            "404142434445464748494a4b4c4d4e4f",
            "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f",
            "404142434445464748494a4b4c4d4e4f404142434445464748494a4b4c4d4e4f",
            "404142434445464748494a4b4c4d4e4f4041424344454647",
            "00112233445566778899aabbccddeeff",
            "00112233445566778899aabbccddeeff0102030405060708090a0b0c0d0e0f00",
            "000102030405060708090a0b0c0d0e0f",
            "0123456789abcdef0123456789abcdef",
            "00000000000000000000000000000000",
            "ffffffffffffffffffffffffffffffff",
        ] {
            assert!(is_published_value(&hex::decode(published).unwrap()), "{published}");
        }
        for ordinary in [
            "2b7e151628aed2a6abf7158809cf4f3c",
            "404142434445464748494a4b4c4d4e50",
            "00112233445566778899aabbccddeefe",
        ] {
            assert!(!is_published_value(&hex::decode(ordinary).unwrap()), "{ordinary}");
        }
        for len in [16, 24, 32] {
            assert!(published_values(len).all(|value| value.len() == len && is_published_value(&value)));
        }
    }

    #[test]
    fn a_sum_needs_every_component() {
        let component = |value: [u8; 2]| WireComponent {
            custodian: "a".to_owned(),
            value: value.to_vec(),
            check_value: [0; 3],
        };
        let all = [component([0xf0, 1]), component([0x0f, 2]), component([0x55, 4])];
        assert_eq!(**sum(&all), [0xaa, 7]);
        assert_ne!(**sum(&all[..2]), [0xaa, 7]);
    }
}
