//! AES in this process: for session keys, which leave the token anyway, and as the model that tokens are checked against.

use std::convert::Infallible;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use cmac::Cmac;
use cmac::digest::{InnerInit, Mac};
use domain::KeyCheckValue;
use zeroize::Zeroizing;

use crate::{Prf, SecretKey};

/// An AES key with its round keys expanded. Zeroized on drop.
pub struct SoftwareKey(RoundKeys);

enum RoundKeys {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl SoftwareKey {
    /// Expands `key`.
    pub fn new(key: &SecretKey) -> Self {
        const LENGTH: &str = "a SecretKey has 16, 24 or 32 bytes";
        let bytes = key.expose();
        Self(match bytes.len() {
            16 => RoundKeys::Aes128(Aes128::new_from_slice(bytes).expect(LENGTH)),
            24 => RoundKeys::Aes192(Aes192::new_from_slice(bytes).expect(LENGTH)),
            _ => RoundKeys::Aes256(Aes256::new_from_slice(bytes).expect(LENGTH)),
        })
    }

    /// One AES block, ECB: key check values, ICVs, and the constant blocks of [`crate::derivation::final_block`].
    pub fn encrypt_block(&self, block: &[u8; 16]) -> Zeroizing<[u8; 16]> {
        let mut block = Zeroizing::new(*block);
        let in_place = (&mut *block).into();
        match &self.0 {
            RoundKeys::Aes128(aes) => aes.encrypt_block(in_place),
            RoundKeys::Aes192(aes) => aes.encrypt_block(in_place),
            RoundKeys::Aes256(aes) => aes.encrypt_block(in_place),
        }
        block
    }

    /// The inverse of [`Self::encrypt_block`]: for readers of key blocks and cells.
    pub fn decrypt_block(&self, block: &[u8; 16]) -> Zeroizing<[u8; 16]> {
        let mut block = Zeroizing::new(*block);
        let in_place = (&mut *block).into();
        match &self.0 {
            RoundKeys::Aes128(aes) => aes.decrypt_block(in_place),
            RoundKeys::Aes192(aes) => aes.decrypt_block(in_place),
            RoundKeys::Aes256(aes) => aes.decrypt_block(in_place),
        }
        block
    }
}

impl Prf for SoftwareKey {
    type Error = Infallible;

    fn cmac(&self, message: &[u8]) -> Result<Zeroizing<[u8; 16]>, Infallible> {
        Ok(Zeroizing::new(match &self.0 {
            RoundKeys::Aes128(aes) => {
                Cmac::inner_init(aes.clone()).chain_update(message).finalize().into_bytes().into()
            }
            RoundKeys::Aes192(aes) => {
                Cmac::inner_init(aes.clone()).chain_update(message).finalize().into_bytes().into()
            }
            RoundKeys::Aes256(aes) => {
                Cmac::inner_init(aes.clone()).chain_update(message).finalize().into_bytes().into()
            }
        }))
    }
}

/// The first three bytes of AES-ECB(key, 01 repeated) (GP Card Specification §B.6).
pub fn key_check_value(key: &SecretKey) -> KeyCheckValue {
    let block = SoftwareKey::new(key).encrypt_block(&[0x01; 16]);
    KeyCheckValue([block[0], block[1], block[2]])
}
