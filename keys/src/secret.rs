//! Key bytes in memory.

use domain::KeysetAlgorithm;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::KeyError;

/// An AES key of 16, 24 or 32 bytes. Zeroized on drop, compared in constant time, never printed or cloned.
pub struct SecretKey {
    bytes: Zeroizing<[u8; 32]>,
    algorithm: KeysetAlgorithm,
}

impl SecretKey {
    /// Copies a key of 16, 24 or 32 bytes; the caller zeroizes its own copy.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, KeyError> {
        let algorithm = match bytes.len() {
            16 => KeysetAlgorithm::Aes128,
            24 => KeysetAlgorithm::Aes192,
            32 => KeysetAlgorithm::Aes256,
            other => return Err(KeyError::KeyLength(other)),
        };
        Ok(Self::filled(algorithm, |target| target.copy_from_slice(bytes)))
    }

    /// Has `fill` write the bytes in place.
    pub(crate) fn filled(algorithm: KeysetAlgorithm, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut key = Self { bytes: Zeroizing::new([0; 32]), algorithm };
        fill(&mut key.bytes[..algorithm.key_bytes()]);
        key
    }

    /// Has `fill` write the bytes in place, or fail.
    pub(crate) fn try_filled<E>(
        algorithm: KeysetAlgorithm,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut key = Self { bytes: Zeroizing::new([0; 32]), algorithm };
        fill(&mut key.bytes[..algorithm.key_bytes()])?;
        Ok(key)
    }

    /// The bytes: 16, 24 or 32.
    pub fn expose(&self) -> &[u8] {
        &self.bytes[..self.algorithm.key_bytes()]
    }

    /// Which AES this key is for.
    pub const fn algorithm(&self) -> KeysetAlgorithm {
        self.algorithm
    }
}

impl ConstantTimeEq for SecretKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for SecretKey {}
