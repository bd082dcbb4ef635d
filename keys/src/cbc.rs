//! CBC without padding, in this process.

use zeroize::Zeroizing;

use crate::SoftwareKey;

const BLOCK: usize = 16;

/// AES-CBC of whole blocks.
pub(crate) fn encrypt(key: &SoftwareKey, iv: &[u8; BLOCK], clear: &[u8]) -> Vec<u8> {
    let mut chain = *iv;
    let mut output = Vec::with_capacity(clear.len());
    for block in clear.chunks_exact(BLOCK) {
        chain.iter_mut().zip(block).for_each(|(byte, clear)| *byte ^= clear);
        chain = *key.encrypt_block(&chain);
        output.extend_from_slice(&chain);
    }
    output
}

/// The inverse of [`encrypt`].
pub(crate) fn decrypt(key: &SoftwareKey, iv: &[u8; BLOCK], ciphered: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut chain = *iv;
    let mut output = Zeroizing::new(Vec::with_capacity(ciphered.len()));
    for block in ciphered.as_chunks::<BLOCK>().0 {
        let clear = key.decrypt_block(block);
        output.extend(clear.iter().zip(&chain).map(|(clear, chain)| clear ^ chain));
        chain = *block;
    }
    output
}
