//! A CMAC as the AES blocks it is made of: for tokens that offer AES but no CMAC, and for padding that CMAC does not have.

use zeroize::Zeroizing;

use super::doubled;

const BLOCK: usize = 16;

/// The whole blocks of a CMAC's input. Not secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CmacInput {
    blocks: Vec<[u8; BLOCK]>,
    /// The message did not fill its blocks, so the second subkey goes with the last one.
    padded: bool,
}

impl CmacInput {
    /// SP 800-38B §6.2: padded by 80 00.. when it is empty or its last block is not whole.
    pub fn of(message: &[u8]) -> Self {
        Self::padded_to(message, message.len().max(1).next_multiple_of(BLOCK))
    }

    /// Padded by 80 00.. to so many bytes, whole blocks, whatever the length of the message.
    pub(super) fn padded_to(message: &[u8], bytes: usize) -> Self {
        let mut whole = message.to_vec();
        let padded = message.len() < bytes;
        if padded {
            whole.push(0x80);
            whole.resize(bytes, 0);
        }
        Self { blocks: whole.as_chunks().0.to_vec(), padded }
    }

    /// The last AES input X, so that AES(K, X) is the CMAC. `l` = AES(K, 00..); `encrypt` is AES under K, asked for each block
    /// but the last. What it answers, and X, are as sensitive as what they lead to.
    pub fn last_block<E>(
        &self,
        l: &[u8; BLOCK],
        mut encrypt: impl FnMut(&[u8; BLOCK]) -> Result<Zeroizing<[u8; BLOCK]>, E>,
    ) -> Result<Zeroizing<[u8; BLOCK]>, E> {
        // SP 800-38B §6.1 and §6.2: K1 for a whole last block, K2 for a padded one.
        let k1 = doubled(l);
        let subkey = if self.padded { doubled(&k1) } else { k1 };
        let mut chain = Zeroizing::new([0; BLOCK]);
        for (at, block) in self.blocks.iter().enumerate() {
            chain.iter_mut().zip(block).for_each(|(x, byte)| *x ^= byte);
            if at + 1 < self.blocks.len() {
                chain = encrypt(&chain)?;
            }
        }
        chain.iter_mut().zip(subkey.iter()).for_each(|(x, byte)| *x ^= byte);
        Ok(chain)
    }
}
