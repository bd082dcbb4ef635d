//! What can end an operation.

use audit::Pseudonym;
use domain::{ReasonCode, Refusal};

/// A refusal with what it is about, for its entry.
#[derive(Debug)]
pub struct Refused {
    /// Reason and message for the caller.
    pub refusal: Refusal,
    /// The device or party, if one was named.
    pub object: Option<Pseudonym>,
}

/// Why an operation gave no answer. Sorted by who must act: the caller, the operator, us.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A rule refuses it: a normal result with its own entry.
    #[error("refused: {}", .0.refusal)]
    Refused(Refused),
    /// The token did not sign.
    #[error("the token did not answer")]
    Token(#[source] hsm::HsmError),
    /// The commit did not happen.
    #[error("the commit did not happen")]
    Commit(#[source] store::CommitError),
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[source] store::StoreError),
    /// No random bytes.
    #[error("the operating system gave no random bytes")]
    Entropy(#[source] getrandom::Error),
    /// What was signed is not what was asked for: it never leaves.
    #[error("what was signed does not verify")]
    Verification(#[source] pki::PkiError),
    /// A stored record does not read: a fault of ours, since the store vouches for the bytes.
    #[error("a {0} record cannot be read")]
    Record(&'static str),
}

impl CaError {
    /// Values that no certificate or list can have.
    pub fn invalid(error: &pki::PkiError) -> Self {
        Self::refused(ReasonCode::InvalidField, error.to_string())
    }

    pub(crate) fn refused(reason: ReasonCode, message: impl Into<String>) -> Self {
        Self::Refused(Refused { refusal: Refusal::new(reason, message), object: None })
    }
}

impl From<store::StoreError> for CaError {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<store::CommitError> for CaError {
    fn from(error: store::CommitError) -> Self {
        Self::Commit(error)
    }
}

impl From<hsm::HsmError> for CaError {
    fn from(error: hsm::HsmError) -> Self {
        Self::Token(error)
    }
}
