//! A device's static keys from a master: our own scheme, and those of the fleets that came from elsewhere. Cards depend
//! on these bytes for ever (docs/formats/key-derivation.md).

use domain::KeysetAlgorithm;
use zeroize::Zeroizing;

mod an10922;
pub mod chancery;
mod cmac_input;
mod kdf3;
mod recipe;
mod scheme;
mod sp800_108;
mod triple_des;

pub use cmac_input::CmacInput;
pub use recipe::{Join, Recipe};
pub use scheme::{Scheme, SchemeName};
pub use sp800_108::Sp800108;

/// The key diversification data of a card, as its INITIALIZE UPDATE answers it.
pub type DiversificationData = [u8; 10];

/// How many 16-byte blocks a key of `algorithm` takes; counters run from 1 to this.
pub const fn block_count(algorithm: KeysetAlgorithm) -> u8 {
    if algorithm.key_bytes() > 16 { 2 } else { 1 }
}

/// The last AES input X of CMAC over two whole blocks, so that AES(K, X) = CMAC(K, D1 || D2): a token that offers AES
/// but no CMAC derives the key from X alone.
///
/// `l` = AES(K, 00..), `c1` = AES(K, D1), `d2` = D2. All of them, and X, are as sensitive as the keys they lead to.
pub fn final_block(l: &[u8; 16], c1: &[u8; 16], d2: &[u8; 16]) -> Zeroizing<[u8; 16]> {
    let k1 = doubled(l);
    let mut block = Zeroizing::new(*c1);
    for ((x, d), k) in block.iter_mut().zip(d2).zip(k1.iter()) {
        *x ^= d ^ k;
    }
    block
}

/// SP 800-38B §6.1: a block times x in GF(2^128); without a branch on the secret top bit.
fn doubled(block: &[u8; 16]) -> Zeroizing<[u8; 16]> {
    let doubled = Zeroizing::new((u128::from_be_bytes(*block) << 1) ^ (0x87 * u128::from(block[0] >> 7)));
    Zeroizing::new(doubled.to_be_bytes())
}
