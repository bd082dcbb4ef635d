//! Elliptic curves as far as outside values need them: points that lie on them, and ECDSA signatures verified under them.
//!
//! Everything here is public. Private keys are the token's; their curves are those of [`domain::Curve`]. P-256 and P-384 are
//! AWS-LC's; brainpoolP256r1, which it does not have, is that of the `bp256` crate (docs/decisions/0010-brainpool.md).

mod signature;

use std::fmt;

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384};
use aws_lc_rs::digest::{self, SHA256, SHA384};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1,
    ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA512_ASN1,
    ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};
use bp256::BrainpoolP256r1;
use domain::Curve;
use ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

pub use signature::{Digest, Hash, Signature};

/// A public key: a point that lies on its curve (SP 800-56A §5.6.2.3.3; none of the curves has a small subgroup).
#[derive(Clone)]
pub struct EcPublicKey(Key);

#[derive(Clone)]
enum Key {
    P256([u8; 65], ParsedPublicKey),
    BrainpoolP256r1([u8; 65], ecdsa::VerifyingKey<BrainpoolP256r1>),
    P384([u8; 97], ParsedPublicKey),
}

impl EcPublicKey {
    /// From an uncompressed point, 04 and both coordinates; `None` when it does not lie on the curve.
    pub fn from_point(curve: Curve, point: &[u8]) -> Option<Self> {
        if point.first() != Some(&4) {
            return None;
        }
        Some(Self(match curve {
            Curve::P256 => {
                let point = point.try_into().ok()?;
                Key::P256(point, ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?)
            }
            Curve::BrainpoolP256r1 => {
                let point: [u8; 65] = point.try_into().ok()?;
                Key::BrainpoolP256r1(point, ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()?)
            }
            Curve::P384 => {
                let point = point.try_into().ok()?;
                Key::P384(point, ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).ok()?)
            }
        }))
    }

    /// A key whose private half is forgotten as soon as it is made: it stands in for one that a token has yet to make.
    pub fn throw_away(curve: Curve) -> Option<Self> {
        let exchange = |algorithm| {
            let key = agreement::PrivateKey::generate(algorithm).ok()?;
            Some(key.compute_public_key().ok()?.as_ref().to_vec())
        };
        let point = match curve {
            Curve::P256 => exchange(&ECDH_P256)?,
            Curve::P384 => exchange(&ECDH_P384)?,
            Curve::BrainpoolP256r1 => {
                let mut octets = [0; 32];
                aws_lc_rs::rand::fill(&mut octets).ok()?;
                // Below the order of the curve, whatever came.
                octets[0] &= 0x7f;
                let key = ecdsa::SigningKey::<BrainpoolP256r1>::from_slice(&octets).ok()?;
                key.verifying_key().to_sec1_point(false).as_bytes().to_vec()
            }
        };
        Self::from_point(curve, &point)
    }

    /// Its curve.
    pub const fn curve(&self) -> Curve {
        match self.0 {
            Key::P256(..) => Curve::P256,
            Key::BrainpoolP256r1(..) => Curve::BrainpoolP256r1,
            Key::P384(..) => Curve::P384,
        }
    }

    /// The uncompressed point: 04, x, y.
    pub const fn point(&self) -> &[u8] {
        match &self.0 {
            Key::P256(point, _) | Key::BrainpoolP256r1(point, _) => point,
            Key::P384(point, _) => point,
        }
    }

    /// Whether `signature`, r || s (BSI TR-03111 plain format), is over `message` with the hash of the curve.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Key::P256(_, key) | Key::P384(_, key) => key.verify_sig(message, signature).is_ok(),
            Key::BrainpoolP256r1(_, key) => bp256::r1::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(&Sha256::digest(message), &signature).is_ok()),
        }
    }

    /// Whether the signature is over a message of this digest. Those of another curve's length are not.
    pub fn verifies_digest(&self, digest: &Digest, signature: &Signature) -> bool {
        if !digest.is_for(self.curve()) {
            return false;
        }
        let imported = |hash| digest::Digest::import_less_safe(digest.as_bytes(), hash);
        let signature = signature.as_bytes();
        match &self.0 {
            Key::P256(_, key) => {
                imported(&SHA256).is_ok_and(|d| key.verify_digest_sig(&d, signature).is_ok())
            }
            Key::P384(_, key) => {
                imported(&SHA384).is_ok_and(|d| key.verify_digest_sig(&d, signature).is_ok())
            }
            Key::BrainpoolP256r1(_, key) => bp256::r1::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_prehash(digest.as_bytes(), &signature).is_ok()),
        }
    }

    /// Whether `signature`, a DER Ecdsa-Sig-Value (RFC 3279 §2.2.3), is over `message` with this hash.
    pub fn verifies_der(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match (&self.0, hash) {
            (Key::P256(..), Hash::Sha256) => &ECDSA_P256_SHA256_ASN1,
            (Key::P256(..), Hash::Sha384) => &ECDSA_P256_SHA384_ASN1,
            (Key::P256(..), Hash::Sha512) => &ECDSA_P256_SHA512_ASN1,
            (Key::P384(..), Hash::Sha256) => &ECDSA_P384_SHA256_ASN1,
            (Key::P384(..), Hash::Sha384) => &ECDSA_P384_SHA384_ASN1,
            (Key::P384(..), Hash::Sha512) => &ECDSA_P384_SHA512_ASN1,
            (Key::BrainpoolP256r1(_, key), hash) => {
                let digest = match hash {
                    Hash::Sha256 => Sha256::digest(message).to_vec(),
                    Hash::Sha384 => Sha384::digest(message).to_vec(),
                    Hash::Sha512 => Sha512::digest(message).to_vec(),
                };
                return bp256::r1::ecdsa::Signature::from_der(signature)
                    .is_ok_and(|signature| key.verify_prehash(&digest, &signature).is_ok());
            }
        };
        UnparsedPublicKey::new(algorithm, self.point()).verify(message, signature).is_ok()
    }
}

/// Whether the bytes are an uncompressed point on the curve.
pub fn is_point(curve: Curve, point: &[u8]) -> bool {
    EcPublicKey::from_point(curve, point).is_some()
}

impl PartialEq for EcPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.curve() == other.curve() && self.point() == other.point()
    }
}

impl Eq for EcPublicKey {}

impl fmt::Debug for EcPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcPublicKey({}, {:02x?}…)", self.curve(), &self.point()[1..5])
    }
}
