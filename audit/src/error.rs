//! What can be wrong with bytes of the log.

/// Why bytes are no entry, checkpoint, tile set or bundle of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// A text that is no public name.
    #[error(
        "{0:?} is no public name: one to 64 of a-z, 0-9, dot, underscore, hyphen, no nine digits in a row"
    )]
    Name(String),
    /// A byte string that may not stand in an entry.
    #[error("a fact of bytes holds one to 64 bytes, no EID and no long number in digits")]
    ShortBytes,
    /// A line that is no entry, or not in its one form.
    #[error("not an entry: {0}")]
    Entry(String),
    /// A frontier whose number of hashes does not fit its size.
    #[error("a frontier of size {size} has {expected} hashes, not {found}")]
    Frontier {
        /// Entries in the tree.
        size: u64,
        /// Ones in the binary form of the size.
        expected: u32,
        /// Hashes given.
        found: usize,
    },
    /// A text that is no verifier key of an Ed25519 note signature.
    #[error("not a verifier key of type 0x01: {0}")]
    VerifierKey(String),
    /// A note that is no checkpoint, or that no known key signed.
    #[error("not a valid checkpoint: {0}")]
    Checkpoint(String),
    /// A consistency proof that is malformed or wrong.
    #[error("not a valid consistency proof: {0}")]
    Consistency(String),
    /// A public key that is no P-256 SubjectPublicKeyInfo in its usual form.
    #[error("an approval key is a P-256 SubjectPublicKeyInfo of 91 bytes with an uncompressed point")]
    ApprovalKey,
    /// An approval signature that does not verify.
    #[error("the approval signature does not verify under the approver's key")]
    ApprovalSignature,
    /// A bundle that cannot be written as asked.
    #[error("the export cannot be written: {0}")]
    Export(String),
    /// A file of a bundle that cannot be read.
    #[error("{path}: {problem}")]
    File {
        /// Path inside the bundle.
        path: String,
        /// What the system said.
        problem: String,
    },
}
