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
        let algorithm = aes_of(bytes.len()).ok_or(KeyError::KeyLength(bytes.len()))?;
        Ok(Self::filled(algorithm, |target| target.copy_from_slice(bytes)))
    }

    /// Has `fill` write the bytes in place.
    pub(crate) fn filled(algorithm: KeysetAlgorithm, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut key = Self { bytes: Zeroizing::new([0; 32]), algorithm };
        fill(&mut key.bytes[..algorithm.key_bytes()]);
        key
    }

    /// Has `fill` write 16, 24 or 32 bytes in place, or fail.
    ///
    /// # Panics
    /// When no AES key is `key_bytes` long.
    pub(crate) fn try_filled<E>(
        key_bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let algorithm = aes_of(key_bytes).expect("callers name the length of an AES key");
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

/// The AES that takes keys of so many bytes.
const fn aes_of(key_bytes: usize) -> Option<KeysetAlgorithm> {
    match key_bytes {
        16 => Some(KeysetAlgorithm::Aes128),
        24 => Some(KeysetAlgorithm::Aes192),
        32 => Some(KeysetAlgorithm::Aes256),
        _ => None,
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
