//! What can end an operation.

use audit::Pseudonym;
use domain::{MasterGeneration, ReasonCode, Refusal};

/// A refusal with what it is about, for its entry.
#[derive(Debug)]
pub struct Refused {
    /// Reason and message for the caller.
    pub refusal: Refusal,
    /// The device or order, if one was named.
    pub object: Option<Pseudonym>,
}

/// Why an operation gave no answer. Sorted by who must act: the caller, the operator, us.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// A rule refuses it: a normal result with its own entry.
    #[error("refused: {}", .0.refusal)]
    Refused(Refused),
    /// The token did not do it.
    #[error("the token did not answer")]
    Token(#[source] hsm::HsmError),
    /// The commit did not happen.
    #[error("the commit did not happen")]
    Commit(#[source] store::CommitError),
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[source] store::StoreError),
    /// An output file cannot be written or read.
    #[error("cannot {action} output file {file}")]
    OutputFile {
        /// What was tried.
        action: &'static str,
        /// The file's name.
        file: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// No random bytes.
    #[error("the operating system gave no random bytes")]
    Entropy(#[source] getrandom::Error),
    /// A record needs a master that the token does not hold.
    #[error("master generation {} is not on the token", .0.0)]
    MasterAbsent(MasterGeneration),
    /// A stored record does not read: a fault of ours, since the store vouches for the bytes.
    #[error("a {0} record cannot be read")]
    Record(&'static str),
}

impl KmsError {
    pub(crate) fn refused(reason: ReasonCode, message: impl Into<String>, object: Option<Pseudonym>) -> Self {
        Self::Refused(Refused { refusal: Refusal::new(reason, message), object })
    }
}

impl From<store::StoreError> for KmsError {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<store::CommitError> for KmsError {
    fn from(error: store::CommitError) -> Self {
        Self::Commit(error)
    }
}

impl From<hsm::HsmError> for KmsError {
    fn from(error: hsm::HsmError) -> Self {
        Self::Token(error)
    }
}
