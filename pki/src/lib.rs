//! X.509 for the authority: certificate profiles as data, the bytes a token signs, their lint, the assembled certificate, keys
//! and requests from outside, GSMA chain verification, and what revocation lists say of a chain.
//!
//! Pure: values in, bytes out. A certificate is made in four steps, each demanding the proof of the one before: a profile and
//! inputs give a [`Tbs`], [`lint`] turns it into a [`LintedTbs`], a token signs its digest, [`LintedTbs::assemble`] verifies
//! and gives a [`Certificate`].

mod algorithms;
mod certificate;
pub mod chain;
mod civil_time;
pub mod crl;
pub mod csr;
mod der;
mod error;
mod key;
mod lint;
pub mod ocsp;
mod oid;
mod pem;
mod private_key;
pub mod profile;
pub mod revocation;
mod role;
mod serial;
pub mod staple;
mod tbs;

pub use algorithms::{ALGORITHMS, Algorithm, AlgorithmStatus};
pub use certificate::{CERTIFICATE_BYTES_MAX, Certificate};
pub use civil_time::CivilTime;
pub use error::PkiError;
pub use key::{KnownKeys, PublicKey, TransportPublicKey, curve_of, ec_spki, key_identifier};
pub use lint::{Bound, Finding, LintFindings, LintedTbs, lint};
pub use oid::Arcs;
pub use private_key::{PrivateKey, generate_p256, generate_p384, private_key_from_pem, private_key_to_pem};
pub use profile::{
    AlternativeName, AttributeKind, CertificateProfile, ExtensionRule, ExtensionValue, KeyUsageBit, Presence,
    Purpose, SerialNumberRule, StringType, SubjectAttribute,
};
pub use role::CertificateRole;
pub use serial::SerialNumber;
pub use tbs::{CertificateInputs, SubjectValues, Tbs, build_tbs, subject_name_der};
