//! What is signed and what comes of it, with the lengths that belong to the curve.

use domain::Curve;
use sha2::{Digest as _, Sha256, Sha384};

/// The hash that a signature in DER names beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384: of P-384; on other curves of requests from outside only.
    Sha384,
    /// SHA-512: of requests from outside only.
    Sha512,
}

impl Hash {
    /// The hash of the curve's own length: what our signatures on it are made with (SP 800-57 part 1 §5.6.2).
    pub const fn of(curve: Curve) -> Self {
        match curve {
            Curve::P256 | Curve::BrainpoolP256r1 => Self::Sha256,
            Curve::P384 => Self::Sha384,
        }
    }
}

/// How long what belongs to a curve is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Length {
    Bits256,
    Bits384,
}

impl Length {
    const fn of(curve: Curve) -> Self {
        match curve {
            Curve::P256 | Curve::BrainpoolP256r1 => Self::Bits256,
            Curve::P384 => Self::Bits384,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Bits256 => 32,
            Self::Bits384 => 48,
        }
    }
}

/// The digest of a message, of SHA-256 for curves of 256 bits or of SHA-384 for P-384: what a token signs.
///
/// One array for both, filled up with zeros: in an enum of two the rest of the longer would be uninitialised, and each move
/// would carry along what the stack held there before, in a token's worker a key perhaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    length: Length,
    bytes: [u8; 48],
}

impl Digest {
    /// The digest of `message` that a key on this curve signs.
    pub fn of(curve: Curve, message: &[u8]) -> Self {
        match Length::of(curve) {
            Length::Bits256 => Self::sha256(Sha256::digest(message).into()),
            Length::Bits384 => Self::sha384(Sha384::digest(message).into()),
        }
    }

    /// A digest of SHA-256.
    pub fn sha256(digest: [u8; 32]) -> Self {
        let mut bytes = [0; 48];
        bytes[..32].copy_from_slice(&digest);
        Self { length: Length::Bits256, bytes }
    }

    /// A digest of SHA-384.
    pub const fn sha384(digest: [u8; 48]) -> Self {
        Self { length: Length::Bits384, bytes: digest }
    }

    /// From its bytes, 32 or 48 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            32 => bytes.try_into().ok().map(Self::sha256),
            48 => bytes.try_into().ok().map(Self::sha384),
            _ => None,
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length.bytes()]
    }

    /// Whether keys on this curve sign it.
    pub fn is_for(&self, curve: Curve) -> bool {
        self.length == Length::of(curve)
    }
}

/// A signature r || s (BSI TR-03111 plain format), as tokens give it. One array for both lengths, as of [`Digest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature {
    length: Length,
    bytes: [u8; 96],
}

impl Signature {
    /// On a curve of 256 bits.
    pub fn bits_256(signature: [u8; 64]) -> Self {
        let mut bytes = [0; 96];
        bytes[..64].copy_from_slice(&signature);
        Self { length: Length::Bits256, bytes }
    }

    /// On P-384.
    pub const fn bits_384(signature: [u8; 96]) -> Self {
        Self { length: Length::Bits384, bytes: signature }
    }

    /// As long as that of a digest would be, and under no key: for rehearsals.
    pub fn rehearsed(digest: &Digest) -> Self {
        match digest.length {
            Length::Bits256 => Self::bits_256([1; 64]),
            Length::Bits384 => Self::bits_384([1; 96]),
        }
    }

    /// From its bytes, 64 or 96 of them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            64 => bytes.try_into().ok().map(Self::bits_256),
            96 => bytes.try_into().ok().map(Self::bits_384),
            _ => None,
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..2 * self.length.bytes()]
    }

    /// r and s.
    pub fn halves(&self) -> (&[u8], &[u8]) {
        self.as_bytes().split_at(self.length.bytes())
    }

    /// The hash that it was made with.
    pub const fn hash(&self) -> Hash {
        match self.length {
            Length::Bits256 => Hash::Sha256,
            Length::Bits384 => Hash::Sha384,
        }
    }
}
