//! NXP AN10922: a key by CMAC over a constant and a diversification input of 1 to 31 bytes, always padded to two blocks. So a
//! short input gives another key than plain CMAC.

use domain::KeysetAlgorithm;

use super::{CmacInput, Join, Recipe};

/// Longest diversification input (AN10922 §2.2).
pub(super) const INPUT_BYTES_MAX: usize = 31;

/// The key of `input` under a master of the same length as the key.
pub(super) fn recipe(algorithm: KeysetAlgorithm, input: &[u8]) -> Recipe {
    // AN10922 §2.2, §2.3, §2.4.
    let (constants, join): (&[u8], _) = match algorithm {
        KeysetAlgorithm::Aes192 => (&[0x11, 0x12], Join::Overlapped),
        KeysetAlgorithm::Aes256 => (&[0x41, 0x42], Join::Concatenated),
        KeysetAlgorithm::Aes128 | KeysetAlgorithm::TripleDes2Key | KeysetAlgorithm::TripleDes3Key => {
            (&[0x01], Join::Concatenated)
        }
    };
    let inputs = constants.iter().map(|constant| {
        let message = [&[*constant], input].concat();
        CmacInput::padded_to(&message, 32)
    });
    Recipe::Cmac { inputs: inputs.collect(), join }
}
