//! What can be wrong with what a caller hands in.

/// Errors of this crate; none carries a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Key bytes of a length no AES key has.
    #[error("an AES key has 16, 24 or 32 bytes, not {0}")]
    KeyLength(usize),
    /// The card did not prove that it holds the keys: the caller's card, or the keyset, is another one.
    #[error("the card cryptogram does not match")]
    CardCryptogramMismatch,
    /// A request id longer than the sealing context can name.
    #[error("a request id has at most {max} bytes, not {actual}", max = crate::seal::REQUEST_ID_MAX)]
    RequestIdLength {
        /// Bytes given.
        actual: usize,
    },
    /// The recipient's bytes are no uncompressed point of P-256.
    #[error("the recipient key is no uncompressed P-256 point")]
    RecipientKey,
    /// The private key is no scalar of P-256.
    #[error("the private key is no P-256 scalar")]
    PrivateKey,
    /// The message was sealed to another key or in another context, or was changed.
    #[error("the sealed message does not open with this key in this context")]
    Sealed,
    /// Opened bytes that are no session keys of a known version.
    #[error("the opened message holds no session keys of version {version}", version = crate::seal::SESSION_KEYS_VERSION)]
    SessionKeysEncoding,
}
