//! "KDF3" of GlobalPlatformPro, which SCP03 cards are delivered with: SP 800-108 in counter mode over AES-CMAC, with no length
//! field.

use domain::{KeyUsage, KeysetAlgorithm};

use super::{CmacInput, DiversificationData, Join, Recipe, block_count};

/// Block i: `i(1) || 00 00 00 || key identifier(1) || 00 || diversification data(10)`, one AES block.
pub(super) fn recipe(algorithm: KeysetAlgorithm, usage: KeyUsage, data: &DiversificationData) -> Recipe {
    let inputs = (1..=block_count(algorithm)).map(|counter| {
        let mut message = [0; 16];
        message[0] = counter;
        message[4] = usage.code();
        message[6..].copy_from_slice(data);
        CmacInput::of(&message)
    });
    Recipe::Cmac { inputs: inputs.collect(), join: Join::Concatenated }
}
