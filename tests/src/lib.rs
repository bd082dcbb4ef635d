//! Whole-system tests and the simulated cards.
//!
//! What stands here plays the parties outside the authority: a manufacturer that unwraps its order, cards personalised
//! from it, a provisioning server's channel to them, and eUICCs that download profiles. It uses none of `keys`, `hsm` and `kms`, and other
//! cryptographic libraries than they do, so that a mistake cannot be made twice in the same way.

mod aes;
mod channel;
mod put_key;

pub mod card;
pub mod euicc;
pub mod host;
pub mod ota_card;
pub mod process;
pub mod scp11_card;
pub mod transport;

pub use channel::{Apdu, SecurityLevel};
pub use put_key::{PutKeyBehaviour, PutKeyDialect, keyset_of};
