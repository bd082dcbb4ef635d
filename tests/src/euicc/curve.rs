//! The two curves of remote provisioning, by the `p256` and `bp256` crates.

use aws_lc_rs::rand;
use ecdsa::signature::{Signer, Verifier};

/// A curve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Curve {
    /// prime256v1.
    P256,
    /// brainpoolP256r1.
    BrainpoolP256r1,
}

/// A private key of an eUICC or server: of its signatures or of one key agreement.
#[derive(Clone)]
pub enum PrivateKey {
    /// On P-256.
    P256(p256::SecretKey),
    /// On brainpoolP256r1.
    BrainpoolP256r1(bp256::r1::SecretKey),
}

/// A public key; a point on its curve.
#[derive(Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// On P-256.
    P256(p256::PublicKey),
    /// On brainpoolP256r1.
    BrainpoolP256r1(BrainpoolPublicKey),
}

type BrainpoolPublicKey = p256::elliptic_curve::PublicKey<bp256::BrainpoolP256r1>;

impl PrivateKey {
    /// A key pair from random bytes.
    ///
    /// # Panics
    /// When the system has none.
    pub fn random(curve: Curve) -> Self {
        loop {
            let mut bytes = [0; 32];
            rand::fill(&mut bytes).expect("the system has random bytes");
            // A number that is no scalar is tried again.
            let key = match curve {
                Curve::P256 => p256::SecretKey::from_slice(&bytes).map(Self::P256),
                Curve::BrainpoolP256r1 => bp256::r1::SecretKey::from_slice(&bytes).map(Self::BrainpoolP256r1),
            };
            if let Ok(key) = key {
                return key;
            }
        }
    }

    /// Its curve.
    pub const fn curve(&self) -> Curve {
        match self {
            Self::P256(_) => Curve::P256,
            Self::BrainpoolP256r1(_) => Curve::BrainpoolP256r1,
        }
    }

    /// Its public half.
    pub fn public_key(&self) -> PublicKey {
        match self {
            Self::P256(key) => PublicKey::P256(key.public_key()),
            Self::BrainpoolP256r1(key) => PublicKey::BrainpoolP256r1(key.public_key()),
        }
    }

    /// ECDSA with SHA-256, r and s as objects of remote provisioning carry them.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = ecdsa::SigningKey::from(key).sign(message);
                signature.to_bytes().into()
            }
            Self::BrainpoolP256r1(key) => {
                let signature: bp256::r1::ecdsa::Signature = ecdsa::SigningKey::from(key).sign(message);
                signature.to_bytes().into()
            }
        }
    }

    /// The shared secret with a key of the same curve.
    pub fn agree(&self, other: &PublicKey) -> Option<[u8; 32]> {
        let secret = match (self, other) {
            (Self::P256(own), PublicKey::P256(other)) => *own.diffie_hellman(other).raw_secret_bytes(),
            (Self::BrainpoolP256r1(own), PublicKey::BrainpoolP256r1(other)) => {
                *own.diffie_hellman(other).raw_secret_bytes()
            }
            _ => return None,
        };
        Some(secret.into())
    }
}

impl PublicKey {
    /// From an uncompressed point of that curve.
    pub fn from_point(curve: Curve, point: &[u8]) -> Option<Self> {
        match curve {
            Curve::P256 => p256::PublicKey::from_sec1_bytes(point).ok().map(Self::P256),
            Curve::BrainpoolP256r1 => {
                BrainpoolPublicKey::from_sec1_bytes(point).ok().map(Self::BrainpoolP256r1)
            }
        }
    }

    /// Its curve.
    pub const fn curve(&self) -> Curve {
        match self {
            Self::P256(_) => Curve::P256,
            Self::BrainpoolP256r1(_) => Curve::BrainpoolP256r1,
        }
    }

    /// The uncompressed point, 65 bytes.
    pub fn point(&self) -> [u8; 65] {
        let point = match self {
            Self::P256(key) => key.to_sec1_bytes(),
            Self::BrainpoolP256r1(key) => key.to_sec1_bytes(),
        };
        point[..].try_into().expect("points of both curves are written uncompressed")
    }

    /// Whether r || s is this key's signature over the message with SHA-256.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| ecdsa::VerifyingKey::from(key).verify(message, &signature).is_ok()),
            Self::BrainpoolP256r1(key) => bp256::r1::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| ecdsa::VerifyingKey::from(key).verify(message, &signature).is_ok()),
        }
    }
}
