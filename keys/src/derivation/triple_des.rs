//! EMV CPS 1.1 and VISA2: 3DES keys of old fleets, by 3DES-ECB of the card's diversification data under a 3DES master. For fleets
//! that move in; nothing new is made so.

use domain::KeyUsage;

use super::{DiversificationData, Recipe};

/// EMV CPS 1.1: `kdd[4..9] || F0 || k || kdd[4..9] || 0F || k`.
pub(super) fn emv_cps_1_1(usage: KeyUsage, data: &DiversificationData) -> Recipe {
    recipe(usage, [data[4], data[5], data[6], data[7], data[8], data[9]])
}

/// VISA2: `kdd[0..1] || kdd[4..7]` in the place of `kdd[4..9]`.
pub(super) fn visa2(usage: KeyUsage, data: &DiversificationData) -> Recipe {
    recipe(usage, [data[0], data[1], data[4], data[5], data[6], data[7]])
}

fn recipe(usage: KeyUsage, unique: [u8; 6]) -> Recipe {
    let mut blocks = [0; 16];
    for (half, mark) in blocks.chunks_exact_mut(8).zip([0xf0, 0x0f]) {
        half[..6].copy_from_slice(&unique);
        half[6] = mark;
        half[7] = usage.code();
    }
    Recipe::TripleDesEcb(blocks)
}
