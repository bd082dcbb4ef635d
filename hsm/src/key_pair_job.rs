//! The job that makes key pairs for devices whose chip cannot make its own.

use domain::EuiccCurve;

use crate::key::OaepHash;

/// The most key pairs of one [`KeyPairsJob`]: those of an order chunk.
pub const KEY_PAIRS_MAX: usize = crate::ORDER_CHUNK_DEVICES_MAX;

/// Key pairs for up to [`KEY_PAIRS_MAX`] devices, under one fresh transport key.
#[derive(Debug, Clone)]
pub struct KeyPairsJob {
    /// The curve of all of them.
    pub curve: EuiccCurve,
    /// How many.
    pub count: usize,
    /// The manufacturer's transport key: SubjectPublicKeyInfo of an RSA key of 3072 to 8192 bits.
    pub recipient_spki: Vec<u8>,
}

/// What a key-pairs job ends with. The private keys exist nowhere else any more, and were never readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPairs {
    /// The AES-256 transport key, RSA-OAEP under the recipient's key. It exists nowhere else any more.
    pub wrapped_transport_key: Vec<u8>,
    /// The hash of that OAEP.
    pub oaep_hash: OaepHash,
    /// As many as were asked for.
    pub pairs: Vec<WrappedKeyPair>,
}

/// One key pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKeyPair {
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// PKCS#8 PrivateKeyInfo, AES-KWP (RFC 5649) under the transport key. SoftHSM 2.6 fills it up to whole eight bytes
    /// with zeros before it wraps, so a reader takes the length from the DER.
    pub private_key: Vec<u8>,
}
