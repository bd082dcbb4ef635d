//! Elliptic curves as far as outside values need them: points that lie on them, and ECDSA signatures verified under them.
//!
//! Everything here is public. Private keys are the token's; their curves are those of [`domain::Curve`]. P-256 is AWS-LC's;
//! brainpoolP256r1, which it does not have, is that of the `bp256` crate (docs/decisions/0010-brainpool.md).

use std::fmt;

use aws_lc_rs::agreement::{self, ECDH_P256};
use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1,
    ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};
use bp256::BrainpoolP256r1;
use domain::Curve;
use ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Sha256, Sha384, Sha512};

/// The hash that a signature in DER names beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384: of requests from outside only.
    Sha384,
    /// SHA-512: of requests from outside only.
    Sha512,
}

/// A public key: a point that lies on its curve (SP 800-56A §5.6.2.3.3; neither curve has a small subgroup).
#[derive(Clone)]
pub struct EcPublicKey {
    point: [u8; 65],
    key: Key,
}

#[derive(Clone)]
enum Key {
    P256(ParsedPublicKey),
    BrainpoolP256r1(ecdsa::VerifyingKey<BrainpoolP256r1>),
}

impl EcPublicKey {
    /// From an uncompressed point, 04 and both coordinates; `None` when it does not lie on the curve.
    pub fn from_point(curve: Curve, point: &[u8; 65]) -> Option<Self> {
        if point[0] != 4 {
            return None;
        }
        let key = match curve {
            Curve::P256 => Key::P256(ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?),
            Curve::BrainpoolP256r1 => Key::BrainpoolP256r1(ecdsa::VerifyingKey::from_sec1_bytes(point).ok()?),
        };
        Some(Self { point: *point, key })
    }

    /// A key whose private half is forgotten as soon as it is made: it stands in for one that a token has yet to make.
    pub fn throw_away(curve: Curve) -> Option<Self> {
        let point: [u8; 65] = match curve {
            Curve::P256 => {
                let key = agreement::PrivateKey::generate(&ECDH_P256).ok()?;
                key.compute_public_key().ok()?.as_ref().try_into().ok()?
            }
            Curve::BrainpoolP256r1 => {
                let mut octets = [0; 32];
                aws_lc_rs::rand::fill(&mut octets).ok()?;
                // Below the order of the curve, whatever came.
                octets[0] &= 0x7f;
                let key = ecdsa::SigningKey::<BrainpoolP256r1>::from_slice(&octets).ok()?;
                key.verifying_key().to_sec1_point(false).as_bytes().try_into().ok()?
            }
        };
        Self::from_point(curve, &point)
    }

    /// Its curve.
    pub const fn curve(&self) -> Curve {
        match self.key {
            Key::P256(_) => Curve::P256,
            Key::BrainpoolP256r1(_) => Curve::BrainpoolP256r1,
        }
    }

    /// The uncompressed point: 04, x, y.
    pub const fn point(&self) -> &[u8; 65] {
        &self.point
    }

    /// Whether `signature`, r || s (BSI TR-03111 plain format), is over `message` with SHA-256.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::P256(key) => key.verify_sig(message, signature).is_ok(),
            Key::BrainpoolP256r1(_) => self.verifies_digest(&digest::<Sha256>(message), signature),
        }
    }

    /// Whether `signature`, r || s, is over a message of this SHA-256 digest.
    pub fn verifies_digest(&self, digest: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::P256(key) => Digest::import_less_safe(digest, &SHA256)
                .is_ok_and(|digest| key.verify_digest_sig(&digest, signature).is_ok()),
            Key::BrainpoolP256r1(key) => {
                digest.len() == 32
                    && bp256::r1::ecdsa::Signature::from_slice(signature)
                        .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok())
            }
        }
    }

    /// Whether `signature`, a DER Ecdsa-Sig-Value (RFC 3279 §2.2.3), is over `message` with this hash.
    pub fn verifies_der(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::P256(_) => {
                let algorithm: &'static dyn VerificationAlgorithm = match hash {
                    Hash::Sha256 => &ECDSA_P256_SHA256_ASN1,
                    Hash::Sha384 => &ECDSA_P256_SHA384_ASN1,
                    Hash::Sha512 => &ECDSA_P256_SHA512_ASN1,
                };
                UnparsedPublicKey::new(algorithm, self.point).verify(message, signature).is_ok()
            }
            Key::BrainpoolP256r1(key) => {
                let digest = match hash {
                    Hash::Sha256 => digest::<Sha256>(message),
                    Hash::Sha384 => digest::<Sha384>(message),
                    Hash::Sha512 => digest::<Sha512>(message),
                };
                bp256::r1::ecdsa::Signature::from_der(signature)
                    .is_ok_and(|signature| key.verify_prehash(&digest, &signature).is_ok())
            }
        }
    }
}

/// Whether the bytes are an uncompressed point on the curve.
pub fn is_point(curve: Curve, point: &[u8; 65]) -> bool {
    EcPublicKey::from_point(curve, point).is_some()
}

fn digest<H: sha2::Digest>(message: &[u8]) -> Vec<u8> {
    H::digest(message).to_vec()
}

impl PartialEq for EcPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.curve() == other.curve() && self.point == other.point
    }
}

impl Eq for EcPublicKey {}

impl fmt::Debug for EcPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcPublicKey({}, {:02x?}…)", self.curve(), &self.point[1..5])
    }
}
