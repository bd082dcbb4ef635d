//! Public keys as outsiders bring them: checked once, trusted inside.

use crate::der::{self, Reader};
use crate::error::PkiError;
use crate::oid;
use domain::Curve;
use ecc::{EcPublicKey, Hash};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Whether keys whose private half is published pass: only in development.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KnownKeys {
    /// They are refused.
    Refuse,
    /// They pass; development mode only.
    Allow,
}

/// Bytes of the longest SubjectPublicKeyInfo that is read.
const SPKI_BYTES_MAX: usize = 2048;
const RSA_BITS_MIN: usize = 3072;
const RSA_BITS_MAX: usize = 8192;

/// SHA-256 of the SubjectPublicKeyInfo of public keys whose private keys anybody can look up.
const KNOWN_KEYS: [(&str, &str); 15] = [
    ("80dbfcd67b4322590df6de16077983ccafda7381d3f25c8f7b5c3d7d5c420d55", "SGP.26 CI NIST"),
    ("cf95add35d149297cfdeecc4da59aba5a58331b034e0d1a823aae0274a818c8d", "SGP.26 EUM NIST"),
    ("b014e2adb6cd4e05d0b5bdd0b9ad9f9f89b14ce07ca4b247de91289de4183470", "SGP.26 eUICC NIST"),
    ("d3177a090298936291c6bf22a74debb843782124561d3cf592cedf1b62b47053", "SGP.26 EIMsign NIST"),
    ("c2416486b2fc48c65c43551336fa2d50cb63d05820b774119fa4ccbcb8fa0708", "SGP.26 SM-DP+ TLS NIST"),
    ("fdca08b05aac62cdd7a77ca48b759e43798a9790b9eca8d7d88ea30c726e81d6", "SGP.26 DPauth NIST"),
    ("a02da93ebe79742ab058918687dea2a64fca12e465b93ad5c738dcde5551d753", "SGP.26 DPpb NIST"),
    ("5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3", "private key 1"),
    ("3fda76216227ff687422fb555d659338c62577cbc3e503dddc34b7f6f1abbde5", "private key n - 1"),
    ("5a7a78cca4a0f420d9bc62bb669c3c2759e39f723d3ae10dcbe0f0815a07ecd4", "RFC 6979 A.2.5"),
    ("1e99d749684e30628b78ac24290f52fafc662d604c7b9fc4f05dd96ad32eb953", "brainpool private key 1"),
    ("e5723cb56a522a850c5c7e0ddcd759c7a5fc9510a466d88979252923082ae5ed", "brainpool private key n - 1"),
    ("29f8fe74f38c49d49810cec736a26732a30bff2e64827b709a1c63340d4f7181", "P-384 private key 1"),
    ("4257b2ffc3579064575e20fedb0974bbfc3c4438b09e668e85cb51a7ac7a4bd7", "P-384 private key n - 1"),
    ("2f95601fa82060b909bfc6b979dbd303d34d34e0afb27ea496beac362f242a4b", "RFC 6979 A.2.6"),
];

/// An ECDSA public key: named curve, uncompressed point that lies on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    spki: Vec<u8>,
    key: EcPublicKey,
}

impl PublicKey {
    /// Parses a SubjectPublicKeyInfo in DER.
    pub fn parse(spki: &[u8], known_keys: KnownKeys) -> Result<Self, PkiError> {
        let (curve, point) = named_point(spki)?;
        if point.len() != curve.point_bytes() {
            return Err(match point.first() {
                Some(2 | 3) => {
                    PkiError::UnsupportedKey { algorithm: format!("{curve} with a compressed point") }
                }
                _ => malformed("the point of a key has not the length of its curve's"),
            });
        }
        if point[0] != 4 {
            return Err(malformed("the point does not start with 04"));
        }
        let key = EcPublicKey::from_point(curve, point).ok_or(PkiError::PointNotOnCurve)?;
        let key = Self { spki: spki.to_vec(), key };
        if known_keys == KnownKeys::Refuse && key.is_known() {
            return Err(PkiError::KnownTestKey);
        }
        Ok(key)
    }

    /// Reads one PEM `PUBLIC KEY` block.
    pub fn from_pem(text: &[u8], known_keys: KnownKeys) -> Result<Self, PkiError> {
        Self::parse(&crate::pem::decode(text, "PUBLIC KEY", 16 * 1024)?, known_keys)
    }

    /// As a PEM `PUBLIC KEY` block.
    pub fn to_pem(&self) -> String {
        crate::pem::encode(&self.spki, "PUBLIC KEY").to_string()
    }

    /// From an uncompressed point, as a token gives it.
    pub fn from_point(curve: Curve, point: &[u8], known_keys: KnownKeys) -> Result<Self, PkiError> {
        Self::parse(&ec_spki(curve, point), known_keys)
    }

    /// A key whose private half nobody keeps, for a rehearsal of what a token's key will do.
    pub fn throw_away(curve: Curve) -> Result<Self, PkiError> {
        let key = EcPublicKey::throw_away(curve).ok_or(PkiError::Cryptography { what: "generate a key" })?;
        Self::from_point(curve, key.point(), KnownKeys::Allow)
    }

    /// The same key when it is on this curve.
    pub fn on(self, curve: Curve) -> Result<Self, PkiError> {
        if self.curve() == curve {
            return Ok(self);
        }
        Err(self.on_another_curve_than(curve))
    }

    /// The key without its encoding.
    pub const fn ec(&self) -> &EcPublicKey {
        &self.key
    }

    /// Its curve.
    pub const fn curve(&self) -> Curve {
        self.key.curve()
    }

    /// The SubjectPublicKeyInfo in DER, as it came.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The uncompressed point: 04, x, y.
    pub const fn point(&self) -> &[u8] {
        self.key.point()
    }

    /// The point of a key on P-256, to which something is sealed.
    pub fn p256_point(&self) -> Result<[u8; 65], PkiError> {
        let point = (self.curve() == Curve::P256).then(|| self.point().try_into().ok()).flatten();
        point.ok_or_else(|| self.on_another_curve_than(Curve::P256))
    }

    fn on_another_curve_than(&self, needed: Curve) -> PkiError {
        PkiError::UnsupportedKey { algorithm: format!("{}, where {needed} is needed", self.curve()) }
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what a principal is named by.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// SHA-1 of the BIT STRING.
    pub fn key_identifier(&self) -> [u8; 20] {
        Sha1::digest(self.point()).into()
    }

    /// Whether the private half is published.
    pub fn is_known(&self) -> bool {
        let digest = hex::encode(self.digest());
        KNOWN_KEYS.iter().any(|(known, _)| *known == digest)
    }

    /// Verifies a DER ECDSA signature with the hash of the curve over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), PkiError> {
        self.verify_with(Hash::of(self.curve()), message, signature)
    }

    /// Verifies an r||s ECDSA signature with the hash of the curve over `message` (BSI TR-03111 plain format).
    pub fn verify_plain(&self, message: &[u8], signature: &[u8]) -> Result<(), PkiError> {
        if self.key.verifies(message, signature) { Ok(()) } else { Err(PkiError::SignatureInvalid) }
    }

    pub(crate) fn verify_with(&self, hash: Hash, message: &[u8], signature: &[u8]) -> Result<(), PkiError> {
        if self.key.verifies_der(hash, message, signature) { Ok(()) } else { Err(PkiError::SignatureInvalid) }
    }
}

/// An RSA public key of 3,072 to 8,192 bits under which keys leave for a party.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportPublicKey {
    spki: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl TransportPublicKey {
    /// Parses a SubjectPublicKeyInfo in DER: rsaEncryption, odd modulus, exponent 65537.
    pub fn parse(spki: &[u8]) -> Result<Self, PkiError> {
        let (algorithm, mut parameters, key) = split_spki(spki)?;
        if algorithm != oid::RSA_ENCRYPTION {
            return Err(PkiError::UnsupportedKey { algorithm: oid::dotted(&algorithm) });
        }
        let not_der = |_| malformed("not an RSAPublicKey");
        parameters.expect(der::NULL).map_err(not_der)?;
        parameters.finish().map_err(not_der)?;
        let (modulus, exponent) = rsa_key(key).map_err(not_der)?;
        let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(PkiError::UnsupportedKey { algorithm: format!("RSA-{bits}") });
        }
        if exponent != [1, 0, 1] || modulus[modulus.len() - 1] & 1 == 0 {
            return Err(PkiError::UnsupportedKey {
                algorithm: "RSA with an even modulus or an exponent other than 65537".into(),
            });
        }
        Ok(Self { spki: spki.to_vec(), modulus: modulus.to_vec(), exponent: exponent.to_vec() })
    }

    /// Parses a PEM `PUBLIC KEY` block.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::parse(&crate::pem::decode(text, "PUBLIC KEY", 16 * 1024)?)
    }

    /// The SubjectPublicKeyInfo in DER, as it came.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The modulus, big-endian without leading zeros.
    pub fn modulus(&self) -> &[u8] {
        &self.modulus
    }

    /// The public exponent, big-endian.
    pub fn exponent(&self) -> &[u8] {
        &self.exponent
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }
}

/// SHA-1 of the BIT STRING of a SubjectPublicKeyInfo (RFC 5280 §4.2.1.2, method 1).
pub fn key_identifier(spki: &[u8]) -> Result<[u8; 20], PkiError> {
    let (_, _, key) = split_spki(spki)?;
    Ok(Sha1::digest(key).into())
}

/// The curve that a SubjectPublicKeyInfo names. Whether the point lies on it is not looked at: for keys that were parsed before.
pub fn curve_of(spki: &[u8]) -> Result<Curve, PkiError> {
    named_point(spki).map(|(curve, _)| curve)
}

/// The SubjectPublicKeyInfo of an uncompressed point (RFC 5480 §2).
pub fn ec_spki(curve: Curve, point: &[u8]) -> Vec<u8> {
    der::nested(der::SEQUENCE, |spki| {
        spki.nested(der::SEQUENCE, |algorithm| {
            algorithm.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::EC_PUBLIC_KEY));
            algorithm.element(der::OBJECT_IDENTIFIER, curve.object_identifier());
        });
        let mut bits = vec![0];
        bits.extend_from_slice(point);
        spki.element(der::BIT_STRING, &bits);
    })
}

/// The named curve of an EC key and the octets of its point, not yet checked.
fn named_point(spki: &[u8]) -> Result<(Curve, &[u8]), PkiError> {
    let (algorithm, mut parameters, key) = split_spki(spki)?;
    let unsupported = |algorithm: String| Err(PkiError::UnsupportedKey { algorithm });
    if algorithm == oid::RSA_ENCRYPTION {
        return unsupported(match rsa_key(key) {
            Ok((modulus, _)) => format!("RSA-{}", modulus.len() * 8 - modulus[0].leading_zeros() as usize),
            Err(_) => "RSA".into(),
        });
    }
    if algorithm != oid::EC_PUBLIC_KEY {
        return unsupported(oid::dotted(&algorithm));
    }
    let curve = parameters.next().map_err(|_| malformed("an EC key without a curve"))?;
    parameters.finish().map_err(|_| malformed("bytes after the curve"))?;
    if curve.tag != der::OBJECT_IDENTIFIER {
        // RFC 5480 §2.1.1: explicit parameters let an attacker choose the generator.
        return unsupported("EC with explicit or implicit parameters".into());
    }
    match Curve::ALL.into_iter().find(|known| known.object_identifier() == curve.content) {
        Some(curve) => Ok((curve, key)),
        None => unsupported(format!("EC on curve {}", oid::describe(curve.content))),
    }
}

/// Algorithm, its parameters, and the octets of the key.
fn split_spki(spki: &[u8]) -> Result<(Vec<u64>, Reader<'_>, &[u8]), PkiError> {
    if spki.len() > SPKI_BYTES_MAX {
        return Err(PkiError::TooLarge { what: "the public key", limit: SPKI_BYTES_MAX });
    }
    let not_der = |_| malformed("not DER");
    let mut fields = der::enter_only(spki, der::SEQUENCE).map_err(not_der)?;
    let mut algorithm = fields.enter(der::SEQUENCE).map_err(not_der)?;
    let bits = fields.expect(der::BIT_STRING).map_err(not_der)?;
    fields.finish().map_err(not_der)?;
    let name = algorithm.expect(der::OBJECT_IDENTIFIER).map_err(not_der)?;
    let name = oid::decode(name.content).ok_or_else(|| malformed("not an object identifier"))?;
    match bits.content.split_first() {
        Some((0, key)) => Ok((name, algorithm, key)),
        _ => Err(malformed("the key is no whole number of octets")),
    }
}

/// Modulus and exponent without leading zeros.
fn rsa_key(key: &[u8]) -> Result<(&[u8], &[u8]), der::NotDer> {
    let mut fields = der::enter_only(key, der::SEQUENCE)?;
    let modulus = positive(fields.expect(der::INTEGER)?.content)?;
    let exponent = positive(fields.expect(der::INTEGER)?.content)?;
    fields.finish()?;
    Ok((modulus, exponent))
}

fn positive(content: &[u8]) -> Result<&[u8], der::NotDer> {
    match content {
        [0, 0x80..=0xff, ..] => Ok(&content[1..]),
        [1..=0x7f, ..] => Ok(content),
        _ => Err(der::NotDer),
    }
}

const fn malformed(why: &'static str) -> PkiError {
    PkiError::Malformed { what: "the public key", why }
}
