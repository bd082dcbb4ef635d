//! What can be wrong with what a caller hands in.

/// Errors of this crate; none carries a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Key bytes of a length no AES key has.
    #[error("an AES key has 16, 24 or 32 bytes, not {0}")]
    KeyLength(usize),
    /// Inputs of a keyset's record that its derivation scheme does not take.
    #[error("these are no inputs of the derivation scheme {0}")]
    SchemeInputs(&'static str),
    /// The card did not prove that it holds the keys: the caller's card, or the keyset, is another one.
    #[error("the card cryptogram does not match")]
    CardCryptogramMismatch,
    /// A key block that is none of the algorithm its PUT KEY names.
    #[error("an encrypted key of this keyset has {expected} bytes, not {actual}")]
    PutKeyBlockLength {
        /// Bytes of a padded key.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A card's answer to PUT KEY that is no SCP03 key version number and three check values.
    #[error(
        "{bytes} bytes are no answer to PUT KEY, which is a KVN of 0x30 to 0x3F and three key check values"
    )]
    PutKeyAnswer {
        /// Bytes given.
        bytes: usize,
    },
    /// An i parameter that Amendment D does not define.
    #[error("{value:02x} is no i parameter of SCP03 (Amendment D table 5-1)")]
    IParameter {
        /// The byte.
        value: u8,
    },
    /// A security level that Amendment D does not define.
    #[error("{value:02x} is no security level of SCP03: 01, 03, 11, 13 or 33")]
    SecurityLevel {
        /// The byte.
        value: u8,
    },
    /// Bytes that are no answer to INITIALIZE UPDATE.
    #[error(
        "{bytes} bytes are no answer to INITIALIZE UPDATE of SCP03: 29 or 32 in mode S8, 45 or 48 in S16"
    )]
    InitializeUpdateAnswer {
        /// Bytes given.
        bytes: usize,
    },
    /// A card's answer to GET DATA 00E0 that is no key information template.
    #[error("the answer to GET DATA 00E0 {0}")]
    KeyInformation(&'static str),
    /// A request id longer than the sealing context can name.
    #[error("a request id has at most {max} bytes, not {actual}", max = crate::seal::REQUEST_ID_MAX)]
    RequestIdLength {
        /// Bytes given.
        actual: usize,
    },
    /// The random generator gave no key.
    #[error("no ephemeral key could be generated")]
    Entropy,
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
    /// Opened bytes that are no keys of a bound profile package of a known version.
    #[error("the opened message holds no BSP keys of version {version}", version = crate::bsp::BOUND_KEYS_VERSION)]
    BoundKeysEncoding,
    /// What was given is no key block of version D of an AES key, or one that does not open.
    #[error("the key block {0}")]
    KeyBlock(&'static str),
    /// A key that this cell encryption, which has no padding, cannot take.
    #[error("a key of {0} bytes is no whole AES blocks, which a cell without padding needs")]
    CellKeyLength(usize),
    /// Bytes that are no command for a card.
    #[error("the command {0}")]
    Apdu(&'static str),
    /// A command that cannot be sent in this form.
    #[error("{0}")]
    Script(&'static str),
    /// A counter that no secured packet may have.
    #[error(
        "{value} is no counter of a secured packet: they end at fffffffffe, before the value that blocks a card"
    )]
    PacketCounter {
        /// The number.
        value: u64,
    },
    /// Data too long for one secured packet.
    #[error("a secured packet holds at most {max} bytes of data, not {bytes}", max = crate::scp80::DATA_BYTES_MAX)]
    PacketData {
        /// Bytes given.
        bytes: usize,
    },
    /// A keyset that no secured packet can name.
    #[error("{kvn:02x} is no key version number of SCP80")]
    PacketKeyset {
        /// The byte.
        kvn: u8,
    },
    /// Bytes that are no security parameter indicator.
    #[error("the security parameters use reserved values (TS 102 225 §5.1.1)")]
    SecurityParameters,
    /// What a card is said to have answered is no response packet, or was not made with these keys.
    #[error("the response {0}")]
    ResponsePacket(&'static str),
    /// An answer of a card that does not belong to this channel.
    #[error("the card's answer {0}")]
    ChannelAnswer(&'static str),
}
