//! How one key comes out of a master, in the few steps that a token has.

use des::cipher::{BlockCipherEncrypt, KeyInit};
use des::{TdesEde2, TdesEde3};
use domain::KeysetAlgorithm;
use zeroize::Zeroizing;

use super::CmacInput;
use crate::{KeyError, SecretKey, SoftwareKey};

/// How one key is derived. Nothing in it is secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipe {
    /// AES-CMACs under the master.
    Cmac {
        /// Their inputs, one or two.
        inputs: Vec<CmacInput>,
        /// How their outputs become the key.
        join: Join,
    },
    /// 3DES-ECB of two blocks under the master.
    TripleDesEcb([u8; 16]),
}

/// How CMAC outputs become a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// One after the other, cut to the key's length.
    Concatenated,
    /// `A[0..8] || A[8..16] xor B[0..8] || B[8..16]` (AN10922 §2.3), which no token does inside.
    Overlapped,
}

impl Join {
    /// The key of `algorithm` from outputs.
    pub fn key(
        self,
        algorithm: KeysetAlgorithm,
        outputs: &[Zeroizing<[u8; 16]>],
    ) -> Result<SecretKey, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        match self {
            Self::Concatenated => {
                for (target, output) in bytes.chunks_exact_mut(16).zip(outputs) {
                    target.copy_from_slice(&output[..]);
                }
            }
            Self::Overlapped => {
                for (at, output) in outputs.iter().take(2).enumerate() {
                    bytes[8 * at..][..16].iter_mut().zip(output.iter()).for_each(|(byte, out)| *byte ^= out);
                }
            }
        }
        SecretKey::from_slice(&bytes[..algorithm.key_bytes()])
    }
}

impl Recipe {
    /// The key in this process, under a master whose value is known: the model that tokens are checked against, and the card's
    /// side.
    pub fn derive(&self, master: &[u8], algorithm: KeysetAlgorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match self {
            Self::Cmac { inputs, join } => {
                let master = SoftwareKey::new(&SecretKey::from_slice(master)?);
                let l = master.encrypt_block(&[0; 16]);
                let mut outputs = Vec::with_capacity(inputs.len());
                for input in inputs {
                    let encrypt = |block: &[u8; 16]| Ok::<_, KeyError>(master.encrypt_block(block));
                    let last = input.last_block(&l, encrypt)?;
                    outputs.push(master.encrypt_block(&last));
                }
                Ok(Zeroizing::new(join.key(algorithm, &outputs)?.expose().to_vec()))
            }
            Self::TripleDesEcb(blocks) => {
                let mut key = Zeroizing::new(blocks.to_vec());
                for block in key.as_chunks_mut::<8>().0 {
                    let length = |_| KeyError::KeyLength(master.len());
                    match master.len() {
                        16 => TdesEde2::new_from_slice(master).map_err(length)?.encrypt_block(block.into()),
                        _ => TdesEde3::new_from_slice(master).map_err(length)?.encrypt_block(block.into()),
                    }
                }
                Ok(key)
            }
        }
    }
}
