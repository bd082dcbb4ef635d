//! Whole jobs: what a caller asks of a token in one go, and what comes back.

use std::time::Instant;

use domain::{Eid, KeyCheckValue, KeyVersionNumber, KeysetAlgorithm, OrderFormat, Protocol, SecurityDomain};
use keys::put_key::EncryptedKey;

use crate::key::{KeyRef, OaepHash};
use crate::source::{SourcedKeyset, StorageKeys, StoredBlob};

/// The most devices of one order chunk (DESIGN §5).
pub const ORDER_CHUNK_DEVICES_MAX: usize = 1_000;

/// The most devices of one [`PutKeyJob`]: about 0.1 s of a SoftHSM worker.
pub const PUT_KEY_DEVICES_MAX: usize = 200;

/// The most proofs of one [`CardProofJob`].
pub const CARD_PROOFS_MAX: usize = 200;

/// The most bytes of one input to sign.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Which queue a job waits in; higher ones are always served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Freeze, revoke: before everything else.
    Incident,
    /// Requests someone waits for.
    Normal,
    /// Batches; never takes the last free worker thread when there is more than one.
    Bulk,
}

impl Priority {
    pub(crate) const COUNT: usize = 3;

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Incident => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }
}

/// How long and how urgently.
#[derive(Debug, Clone, Copy)]
pub struct CallOptions {
    /// After this moment the caller gets [`crate::ErrorClass::Deadline`]; a job that has not begun by then never does.
    pub deadline: Instant,
    /// Which queue.
    pub priority: Priority,
}

/// One chunk of an order: the keysets of up to [`ORDER_CHUNK_DEVICES_MAX`] devices, under one fresh transport key.
#[derive(Debug, Clone)]
pub struct OrderChunkJob {
    /// Where the keys come from.
    pub keys: OrderKeys,
    /// The protocol of the keysets.
    pub protocol: Protocol,
    /// The security domain that will hold them.
    pub security_domain: SecurityDomain,
    /// Their key version number.
    pub kvn: KeyVersionNumber,
    /// The length of their keys: AES.
    pub algorithm: KeysetAlgorithm,
    /// The manufacturer's transport key: SubjectPublicKeyInfo of an RSA key of 3072 to 8192 bits.
    pub recipient_spki: Vec<u8>,
    /// The devices, in the order of the answer.
    pub eids: Vec<Eid>,
    /// The form in which the keys leave.
    pub format: OrderFormat,
}

/// How the keys of an order are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderKeys {
    /// By our scheme, from a master.
    Derived {
        /// The master.
        master: KeyRef,
    },
    /// At random, by the token; each answer has how the keys are stored.
    Random(StorageKeys),
}

/// The output of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderChunk {
    /// The AES-256 transport key of this chunk, RSA-OAEP under the recipient's key. It exists nowhere else any more.
    pub wrapped_transport_key: Vec<u8>,
    /// The hash of that OAEP.
    pub oaep_hash: OaepHash,
    /// One per EID, in their order.
    pub devices: Vec<DeviceKeyBlobs>,
}

/// The keys of one device on their way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKeyBlobs {
    /// In the order of [`Protocol::usages`].
    pub keys: Vec<WrappedKey>,
    /// Of random keys: how they are stored, in the same order. Empty for derived ones.
    pub stored: Vec<StoredBlob>,
}

/// One key under the transport key of its chunk, in the form of the job's format: AES-KWP (RFC 5649), AES Key Wrap (RFC 3394),
/// the characters of a key block (TR-31), or a cell of pySim's CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// The wrapped key.
    pub wrapped: Vec<u8>,
    /// Its key check value.
    pub kcv: KeyCheckValue,
}

/// The keys that move the keysets of up to [`PUT_KEY_DEVICES_MAX`] devices to a new version by PUT KEY.
///
/// All token keys are on this token. The new keys may be longer than the old: the blocks then have the strength of the
/// old DEK only, which is what the card offers.
#[derive(Debug, Clone)]
pub struct PutKeyJob {
    /// The devices, in the order of the answer.
    pub devices: Vec<PutKeyDevice>,
}

/// One device of a [`PutKeyJob`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutKeyDevice {
    /// The keyset on the card now, which opens the secure channel; its DEK encrypts the new keys.
    pub old: SourcedKeyset,
    /// The keyset to put on the card, of the same device: derived, AES-128 or AES-256. AES-192 is refused with class
    /// `caller`, since a padded key cannot be wrapped inside a token; so is a stored keyset, whose keys never leave again.
    pub new: SourcedKeyset,
}

/// The new keys of one device: Key-ENC, Key-MAC, Key-DEK, encrypted in the token under the old DEK. Ready for
/// [`keys::put_key::PutKey::new`].
pub type PutKeyBlocks = [EncryptedKey; 3];

/// The static keys of one keyset, for a party.
#[derive(Debug, Clone)]
pub struct ExportJob {
    /// The keyset.
    pub keyset: SourcedKeyset,
    /// Under whose key the keys leave.
    pub recipient: ExportRecipient,
}

/// Under what static keys leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportRecipient {
    /// A party's AES key on this token.
    Aes(KeyRef),
    /// A fresh AES key, which leaves under this RSA key: SubjectPublicKeyInfo, 3072 to 8192 bits.
    Rsa(Vec<u8>),
}

/// The keys of one keyset as they leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedKeys {
    /// Under RSA: the AES key that wraps the others, RSA-OAEP under the party's key; else empty.
    pub wrapped_transport_key: Vec<u8>,
    /// The hash of that OAEP.
    pub oaep_hash: Option<OaepHash>,
    /// One per usage, in the order of [`domain::Protocol::usages`].
    pub keys: Vec<WrappedKey>,
}

/// Whether cards hold their keys: up to [`CARD_PROOFS_MAX`] proofs, of any keysets of this token.
#[derive(Debug, Clone)]
pub struct CardProofJob {
    /// The proofs, in the order of the answer.
    pub proofs: Vec<CardProof>,
}

/// What a card showed in its answer to INITIALIZE UPDATE (SCP03 in mode S8).
#[derive(Debug, Clone)]
pub struct CardProof {
    /// The keyset that the card is said to hold.
    pub keyset: SourcedKeyset,
    /// The host's challenge.
    pub host_challenge: [u8; 8],
    /// The card's challenge.
    pub card_challenge: [u8; 8],
    /// The card's proof.
    pub card_cryptogram: [u8; 8],
}
