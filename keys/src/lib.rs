//! Key derivation and card formats: SCP03 with its channel, SCP11 sessions, SCP80 packets, our derivation scheme, PUT KEY and DELETE KEY,
//! key information, RSP objects and the protection of bound profile packages, key check values, sealing, and the formats in
//! which keys leave for manufacturers: key blocks (TR-31), PSKC, cells of pySim's CSV; pure.
//!
//! Everything here works over a [`Prf`], so that the same code runs with a key inside a token and with a
//! [`SoftwareKey`]. No randomness but that of an [`seal::EphemeralKey`], which whoever seals brings.

mod cbc;
mod error;
mod rfc9180;
mod secret;
mod software;

pub mod apdu;
pub mod bsp;
pub mod delete_key;
pub mod derivation;
pub mod kdf;
pub mod key_information;
pub mod pskc;
pub mod put_key;
pub mod pysim_csv;
pub mod rsp;
pub mod scp03;
pub mod scp11;
pub mod scp80;
pub mod seal;
pub mod tls_psk;
pub mod tr31;

pub use error::KeyError;
pub use kdf::Prf;
pub use secret::SecretKey;
pub use software::{SoftwareKey, key_check_value};
