//! The SubjectPublicKeyInfo shapes this crate meets: named curves, Ed25519 and RSA.
//!
//! Only what PKCS#11 attributes need; certificates are read in `pki`.

use domain::Curve;

use crate::error::HsmError;

// RFC 8410: id-Ed25519, BIT STRING of 33 bytes.
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
// RFC 8017 A.1: rsaEncryption, NULL.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// RFC 5480: id-ecPublicKey and the named curve, then a BIT STRING of the point and one byte; all but the point.
fn ec_prefix(curve: Curve) -> Vec<u8> {
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let parameters = ec_parameters(curve);
    let algorithm = EC_PUBLIC_KEY.len() + parameters.len();
    // Every length is below 128 and so one byte.
    let bits = curve.point_bytes() + 1;
    let (outer, inner) = ((algorithm + 2 + bits + 2) as u8, algorithm as u8);
    [&[0x30, outer, 0x30, inner][..], &EC_PUBLIC_KEY, &parameters, &[0x03, bits as u8, 0x00]].concat()
}

/// CKA_EC_PARAMS: the curve's object identifier in DER (RFC 5480 §2.1.1).
pub(crate) fn ec_parameters(curve: Curve) -> Vec<u8> {
    let name = curve.object_identifier();
    [&[0x06, name.len() as u8][..], name].concat()
}

/// The uncompressed point of a key on this curve.
pub(crate) fn ec_point(curve: Curve, spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(&ec_prefix(curve)[..]).filter(|point| is_uncompressed(curve, point))
}

fn is_uncompressed(curve: Curve, point: &[u8]) -> bool {
    point.len() == curve.point_bytes() && point[0] == 4
}

/// The 32 bytes of an Ed25519 key.
pub(crate) fn ed25519_bytes(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&ED25519_PREFIX)?.try_into().ok()
}

/// The uncompressed point in CKA_EC_POINT, which modules give raw or as a DER OCTET STRING.
pub(crate) fn point_of_ec_point(curve: Curve, ec_point: &[u8]) -> Option<&[u8]> {
    let bytes = curve.point_bytes();
    let wrapped = ec_point.strip_prefix(&[0x04, bytes as u8]).filter(|rest| rest.len() == bytes);
    Some(wrapped.unwrap_or(ec_point)).filter(|point| is_uncompressed(curve, point))
}

/// From CKA_EC_POINT.
pub(crate) fn spki_of_ec_point(curve: Curve, ec_point: &[u8]) -> Option<Vec<u8>> {
    point_of_ec_point(curve, ec_point).map(|point| [&ec_prefix(curve)[..], point].concat())
}

/// From CKA_EC_POINT of an Ed25519 key, raw or as a DER OCTET STRING.
pub(crate) fn ed25519_from_ec_point(ec_point: &[u8]) -> Option<Vec<u8>> {
    let point = ec_point.strip_prefix(&[0x04, 0x20]).filter(|rest| rest.len() == 32).unwrap_or(ec_point);
    (point.len() == 32).then(|| [&ED25519_PREFIX[..], point].concat())
}

/// An RSA public key as PKCS#11 takes it.
pub(crate) struct RsaPublicKey {
    pub(crate) modulus: Vec<u8>,
    pub(crate) exponent: Vec<u8>,
}

/// Bits of the smallest RSA key under which keys leave.
pub(crate) const RSA_BITS_MIN: usize = 3072;
/// Bits of the largest; bounds what one chunk can cost.
pub(crate) const RSA_BITS_MAX: usize = 8192;

/// Reads an RSA key of an accepted size; anything but strict DER is refused.
pub(crate) fn rsa_public_key(spki: &[u8]) -> Result<RsaPublicKey, HsmError> {
    let key =
        read_rsa(spki).ok_or_else(|| HsmError::caller("the recipient key is no RSA SubjectPublicKeyInfo"))?;
    let bits = key.modulus.len() * 8 - key.modulus.first().map_or(0, |b| b.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(HsmError::caller(format!(
            "the recipient RSA key has {bits} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are accepted"
        )));
    }
    Ok(key)
}

/// SubjectPublicKeyInfo of an RSA key (RFC 8017 A.1).
pub(crate) fn rsa_spki(key: &RsaPublicKey) -> Vec<u8> {
    let integer = |magnitude: &[u8]| {
        let start = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len());
        let shortest = &magnitude[start..];
        let sign: &[u8] = if shortest.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
        encoded(0x02, &[sign, shortest].concat())
    };
    let key = encoded(0x30, &[integer(&key.modulus), integer(&key.exponent)].concat());
    encoded(0x30, &[&RSA_ALGORITHM[..], &encoded(0x03, &[&[0], &key[..]].concat())].concat())
}

/// One DER element of at most 65,535 bytes.
fn encoded(tag: u8, contents: &[u8]) -> Vec<u8> {
    let [.., high, low] = contents.len().to_be_bytes();
    let head = match contents.len() {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head[..], contents].concat()
}

fn read_rsa(spki: &[u8]) -> Option<RsaPublicKey> {
    let (outer, rest) = element(spki, 0x30)?;
    let bits = outer.strip_prefix(&RSA_ALGORITHM)?;
    let (bits, after_bits) = element(bits, 0x03)?;
    let (key, after_key) = element(bits.strip_prefix(&[0x00])?, 0x30)?;
    let (modulus, key_rest) = element(key, 0x02)?;
    let (exponent, end) = element(key_rest, 0x02)?;
    if !(rest.is_empty() && after_bits.is_empty() && after_key.is_empty() && end.is_empty()) {
        return None;
    }
    Some(RsaPublicKey { modulus: positive(modulus)?, exponent: positive(exponent)? })
}

/// One DER element of this tag in front of `bytes`: (its contents, what follows).
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(&[tag])?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&len, rest) = rest.split_first()?;
            (usize::from(len).checked_sub(0x80)? + 0x80, rest)
        }
        0x82 => {
            let (len, rest) = rest.split_at_checked(2)?;
            let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
            (len.checked_sub(0x100)? + 0x100, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

/// The magnitude of a positive INTEGER in its shortest form.
fn positive(integer: &[u8]) -> Option<Vec<u8>> {
    match integer {
        [0x00, next, ..] if *next & 0x80 != 0 => Some(integer[1..].to_vec()),
        [first, ..] if *first != 0 && *first & 0x80 == 0 => Some(integer.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ec_point_is_read_raw_and_wrapped_alike() {
        for curve in Curve::ALL {
            let mut point = vec![7u8; curve.point_bytes()];
            point[0] = 4;
            let spki = spki_of_ec_point(curve, &point).unwrap();
            let wrapped = [&[0x04, point.len() as u8], &point[..]].concat();
            assert_eq!(spki_of_ec_point(curve, &wrapped).unwrap(), spki);
            assert_eq!(ec_point(curve, &spki), Some(&point[..]));
            for other in Curve::ALL.into_iter().filter(|other| *other != curve) {
                assert_eq!(ec_point(other, &spki), None);
            }
            assert_eq!(spki_of_ec_point(curve, &point[..point.len() - 1]), None);
        }
        // A raw Ed25519 key may itself begin with the bytes of an OCTET STRING.
        let mut key = [9u8; 32];
        key[..2].copy_from_slice(&[0x04, 0x20]);
        let spki = ed25519_from_ec_point(&key).unwrap();
        assert_eq!(ed25519_bytes(&spki), Some(key));
        assert_eq!(ed25519_from_ec_point(&[&[0x04, 0x20], &key[..]].concat()).unwrap(), spki);
    }

    #[test]
    fn an_rsa_key_is_read_only_from_whole_and_strict_der() {
        use aws_lc_rs::encoding::AsDer;
        use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
        let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
        let spki = private.public_key().as_der().unwrap();
        let spki = spki.as_ref();
        let key = rsa_public_key(spki).unwrap();
        assert_eq!((key.modulus.len(), key.exponent.as_slice()), (384, &[1u8, 0, 1][..]));
        assert!(rsa_public_key(&[spki, &[0]].concat()).is_err());
        assert_eq!(rsa_spki(&key), spki);
        for cut in 0..spki.len() {
            assert!(rsa_public_key(&spki[..cut]).is_err());
        }
    }

    #[test]
    fn an_rsa_key_below_3072_bits_is_refused() {
        use aws_lc_rs::encoding::AsDer;
        use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let error = rsa_public_key(private.public_key().as_der().unwrap().as_ref()).err().unwrap();
        assert!(error.detail.contains("2048 bits"), "{error}");
    }
}
