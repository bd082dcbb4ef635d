//! Where the keys of a keyset come from: a master and a scheme, or blobs in the store.

use domain::DeviceKeyset;
use keys::derivation::Scheme;

use crate::key::KeyRef;

/// Where the keys of one keyset come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Derived when it is needed; nothing secret is stored.
    Derived {
        /// The master.
        master: KeyRef,
        /// The scheme and its inputs.
        scheme: Scheme,
    },
    /// Made at random, and stored.
    Stored(StoredKeys),
}

/// The keys of one keyset as they are stored (docs/formats/stored-key-blob.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKeys {
    /// The keys of their epoch.
    pub storage: StorageKeys,
    /// One per key, in the order of [`domain::Protocol::usages`].
    pub blobs: Vec<StoredBlob>,
}

/// The token keys of one epoch under which keys are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageKeys {
    /// The key-encryption key.
    pub kek: KeyRef,
    /// The key that binds each blob to its keyset.
    pub blob_mac: KeyRef,
}

/// One device key under a key-encryption key, bound to what it is for. Opens in the token only, as a key that can be used
/// and never leaves again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoredBlob {
    /// AES-KWP (RFC 5649) of the key under the key-encryption key.
    pub wrapped: Vec<u8>,
    /// AES-CMAC over what the key is for and the wrapped key.
    pub mac: [u8; 16],
}

/// One keyset of one device, and where its keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedKeyset {
    /// Which keyset.
    pub keyset: DeviceKeyset,
    /// Where from.
    pub source: KeySource,
}

impl SourcedKeyset {
    /// A keyset by our scheme.
    pub const fn derived(master: KeyRef, keyset: DeviceKeyset) -> Self {
        Self { keyset, source: KeySource::Derived { master, scheme: Scheme::Chancery } }
    }
}
