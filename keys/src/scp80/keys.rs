//! KIc and KID, wherever they are.

use std::convert::Infallible;

use des::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use des::{TdesEde2, TdesEde3};
use domain::KeysetAlgorithm;
use zeroize::Zeroizing;

use crate::{KeyError, Prf, SecretKey, SoftwareKey, cbc};

/// What the keys of one keyset do to a packet.
pub trait PacketKeys {
    /// Why a key could not be used; software keys never fail.
    type Error;

    /// Cipher and length of both keys.
    fn algorithm(&self) -> KeysetAlgorithm;

    /// CBC with an IV of zero under KIc; `clear` is whole blocks.
    fn encrypt(&self, clear: &[u8]) -> Result<Vec<u8>, Self::Error>;

    /// The inverse of [`Self::encrypt`]; `ciphered` is whole blocks.
    fn decrypt(&self, ciphered: &[u8]) -> Result<Zeroizing<Vec<u8>>, Self::Error>;

    /// The cryptographic checksum under KID: the first 8 bytes of AES-CMAC, or the last block of 3DES-CBC over the message
    /// filled up with zeros.
    fn checksum(&self, message: &[u8]) -> Result<[u8; 8], Self::Error>;
}

/// Bytes of a block of the cipher.
pub(super) const fn block_bytes(algorithm: KeysetAlgorithm) -> usize {
    match algorithm {
        KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256 => 16,
        KeysetAlgorithm::TripleDes2Key | KeysetAlgorithm::TripleDes3Key => 8,
    }
}

/// KIc and KID in this process. Zeroized on drop.
pub struct SoftwarePacketKeys(Keys);

enum Keys {
    // Boxed: expanded keys are large, and a move would leave copies behind.
    Aes { algorithm: KeysetAlgorithm, kic: Box<SoftwareKey>, kid: Box<SoftwareKey> },
    TripleDes2 { kic: Box<TdesEde2>, kid: Box<TdesEde2> },
    TripleDes3 { kic: Box<TdesEde3>, kid: Box<TdesEde3> },
}

impl SoftwarePacketKeys {
    /// Expands the keys; both are as long as `algorithm` says.
    pub fn new(algorithm: KeysetAlgorithm, kic: &[u8], kid: &[u8]) -> Result<Self, KeyError> {
        if let Some(wrong) = [kic, kid].into_iter().find(|key| key.len() != algorithm.key_bytes()) {
            return Err(KeyError::KeyLength(wrong.len()));
        }
        let length = |_| KeyError::KeyLength(kic.len());
        Ok(Self(match algorithm {
            KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256 => {
                let expand = |key| SecretKey::from_slice(key).map(|key| Box::new(SoftwareKey::new(&key)));
                Keys::Aes { algorithm, kic: expand(kic)?, kid: expand(kid)? }
            }
            KeysetAlgorithm::TripleDes2Key => Keys::TripleDes2 {
                kic: Box::new(TdesEde2::new_from_slice(kic).map_err(length)?),
                kid: Box::new(TdesEde2::new_from_slice(kid).map_err(length)?),
            },
            KeysetAlgorithm::TripleDes3Key => Keys::TripleDes3 {
                kic: Box::new(TdesEde3::new_from_slice(kic).map_err(length)?),
                kid: Box::new(TdesEde3::new_from_slice(kid).map_err(length)?),
            },
        }))
    }
}

impl PacketKeys for SoftwarePacketKeys {
    type Error = Infallible;

    fn algorithm(&self) -> KeysetAlgorithm {
        match &self.0 {
            Keys::Aes { algorithm, .. } => *algorithm,
            Keys::TripleDes2 { .. } => KeysetAlgorithm::TripleDes2Key,
            Keys::TripleDes3 { .. } => KeysetAlgorithm::TripleDes3Key,
        }
    }

    fn encrypt(&self, clear: &[u8]) -> Result<Vec<u8>, Infallible> {
        Ok(match &self.0 {
            Keys::Aes { kic, .. } => cbc::encrypt(kic, &[0; 16], clear),
            Keys::TripleDes2 { kic, .. } => encrypt_des(|block| kic.encrypt_block(block.into()), clear),
            Keys::TripleDes3 { kic, .. } => encrypt_des(|block| kic.encrypt_block(block.into()), clear),
        })
    }

    fn decrypt(&self, ciphered: &[u8]) -> Result<Zeroizing<Vec<u8>>, Infallible> {
        Ok(match &self.0 {
            Keys::Aes { kic, .. } => cbc::decrypt(kic, &[0; 16], ciphered),
            Keys::TripleDes2 { kic, .. } => decrypt_des(|block| kic.decrypt_block(block.into()), ciphered),
            Keys::TripleDes3 { kic, .. } => decrypt_des(|block| kic.decrypt_block(block.into()), ciphered),
        })
    }

    fn checksum(&self, message: &[u8]) -> Result<[u8; 8], Infallible> {
        let mut checksum = [0; 8];
        match &self.0 {
            Keys::Aes { kid, .. } => checksum.copy_from_slice(&kid.cmac(message)?[..8]),
            Keys::TripleDes2 { kid, .. } => {
                checksum = des_checksum(|block| kid.encrypt_block(block.into()), message);
            }
            Keys::TripleDes3 { kid, .. } => {
                checksum = des_checksum(|block| kid.encrypt_block(block.into()), message);
            }
        }
        Ok(checksum)
    }
}

/// CBC-MAC with zeros after the message (ISO 9797-1 algorithm 1, padding method 1).
fn des_checksum(encrypt: impl Fn(&mut [u8; 8]), message: &[u8]) -> [u8; 8] {
    let mut chain = [0; 8];
    for block in message.chunks(8) {
        chain.iter_mut().zip(block).for_each(|(byte, clear)| *byte ^= clear);
        encrypt(&mut chain);
    }
    chain
}

fn encrypt_des(encrypt: impl Fn(&mut [u8; 8]), clear: &[u8]) -> Vec<u8> {
    let mut chain = [0; 8];
    let mut output = Vec::with_capacity(clear.len());
    for block in clear.chunks_exact(8) {
        chain.iter_mut().zip(block).for_each(|(byte, clear)| *byte ^= clear);
        encrypt(&mut chain);
        output.extend_from_slice(&chain);
    }
    output
}

fn decrypt_des(decrypt: impl Fn(&mut [u8; 8]), ciphered: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut chain = [0; 8];
    let mut output = Zeroizing::new(Vec::with_capacity(ciphered.len()));
    for block in ciphered.as_chunks::<8>().0 {
        let mut clear = Zeroizing::new(*block);
        decrypt(&mut clear);
        output.extend(clear.iter().zip(&chain).map(|(clear, chain)| clear ^ chain));
        chain = *block;
    }
    output
}
