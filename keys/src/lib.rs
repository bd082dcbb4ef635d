//! Key derivation and card formats: SCP03, our derivation scheme, PUT KEY, RSP objects and the protection of bound profile
//! packages, key check values, sealing; pure.
//!
//! Everything here works over a [`Prf`], so that the same code runs with a key inside a token and with a
//! [`SoftwareKey`]. No randomness but that of an [`seal::EphemeralKey`], which whoever seals brings.

mod error;
mod rfc9180;
mod secret;
mod software;

pub mod bsp;
pub mod derivation;
pub mod kdf;
pub mod put_key;
pub mod rsp;
pub mod scp03;
pub mod seal;

pub use error::KeyError;
pub use kdf::Prf;
pub use secret::SecretKey;
pub use software::{SoftwareKey, key_check_value};
