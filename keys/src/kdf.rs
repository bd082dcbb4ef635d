//! SP 800-108 counter mode over AES-CMAC: the one KDF behind our derivation scheme and SCP03.

use zeroize::Zeroizing;

/// AES-CMAC under one key, wherever that key lives.
pub trait Prf {
    /// Why the key could not be used; a software key never fails.
    type Error;

    /// AES-CMAC of `message` (SP 800-38B), all 16 bytes.
    fn cmac(&self, message: &[u8]) -> Result<Zeroizing<[u8; 16]>, Self::Error>;
}

/// Fills `output` with the blocks `CMAC(before || i || after)`, i one byte counting from 1
/// (SP 800-108r1 §4.1 with r = 8); the last block is cut to fit.
///
/// # Panics
/// When `output` is longer than 255 blocks (4,080 bytes), which the counter cannot number.
pub fn kbkdf_counter<P: Prf>(
    prf: &P,
    before: &[u8],
    after: &[u8],
    output: &mut [u8],
) -> Result<(), P::Error> {
    assert!(output.len() <= 255 * 16, "an 8-bit counter numbers at most 255 blocks");
    let mut message = [before, &[0], after].concat();
    for (i, block) in (1..=255).zip(output.chunks_mut(16)) {
        message[before.len()] = i;
        block.copy_from_slice(&prf.cmac(&message)?[..block.len()]);
    }
    Ok(())
}
