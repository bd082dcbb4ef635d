//! Whole jobs: what a caller asks of a token in one go, and what comes back.

use std::time::Instant;

use domain::{DeviceKeyset, Eid, KeyCheckValue, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::put_key::EncryptedKey;

use crate::key::{KeyRef, OaepHash};

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

/// Session keys of one SCP03 session, released only when the card's cryptogram is right.
#[derive(Debug, Clone)]
pub struct SessionKeysJob {
    /// The master the keyset was derived from.
    pub master: KeyRef,
    /// Which keyset of which device.
    pub derivation: DeviceKeyset,
    /// The host's challenge of INITIALIZE UPDATE.
    pub host_challenge: [u8; 8],
    /// The card's challenge.
    pub card_challenge: [u8; 8],
    /// The card's proof.
    pub card_cryptogram: [u8; 8],
    /// To whom the keys are sealed: an uncompressed P-256 point.
    pub recipient: [u8; 65],
    /// The HPKE info: [`keys::seal::session_keys_info`].
    pub info: Vec<u8>,
}

/// What a session-keys job ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKeysOutcome {
    /// The card proved itself. Opens with [`keys::seal::open`] into [`keys::scp03::SessionKeys::decode`].
    Released {
        /// HPKE encapsulated key, an uncompressed P-256 point.
        encapsulated_key: [u8; 65],
        /// The sealed session keys.
        ciphertext: Vec<u8>,
        /// What the host sends with EXTERNAL AUTHENTICATE.
        host_cryptogram: [u8; 8],
    },
    /// The card, or the keyset, is another one. S-ENC was never derived.
    CardCryptogramMismatch,
}

/// One chunk of an order: the derived keysets of up to [`ORDER_CHUNK_DEVICES_MAX`] devices, under one fresh transport key.
#[derive(Debug, Clone)]
pub struct OrderChunkJob {
    /// The master to derive from.
    pub master: KeyRef,
    /// The protocol of the keysets.
    pub protocol: Protocol,
    /// The security domain that will hold them.
    pub security_domain: SecurityDomain,
    /// Their key version number.
    pub kvn: KeyVersionNumber,
    /// The length of their keys.
    pub algorithm: KeysetAlgorithm,
    /// The manufacturer's transport key: SubjectPublicKeyInfo of an RSA key of 3072 to 8192 bits.
    pub recipient_spki: Vec<u8>,
    /// The devices, in the order of the answer.
    pub eids: Vec<Eid>,
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

/// The three keys of one device, each AES-KWP (RFC 5649) under the transport key of the chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKeyBlobs {
    /// Key-ENC, wrapped.
    pub enc: Vec<u8>,
    /// Key-MAC, wrapped.
    pub mac: Vec<u8>,
    /// Key-DEK, wrapped.
    pub dek: Vec<u8>,
    /// Key check values of ENC, MAC, DEK.
    pub kcv: [KeyCheckValue; 3],
}

/// The keys that move the keysets of up to [`PUT_KEY_DEVICES_MAX`] devices to a new version by PUT KEY.
///
/// Both masters are on this token, and may be one. The new keys may be longer than the old: the blocks then have the
/// strength of the old DEK only, which is what the card offers.
#[derive(Debug, Clone)]
pub struct PutKeyJob {
    /// The protocol of both keysets.
    pub protocol: Protocol,
    /// The security domain that holds both.
    pub security_domain: SecurityDomain,
    /// The keyset on the card now, which opens the secure channel; its DEK encrypts the new keys.
    pub old: KeysetVersion,
    /// The keyset to put on the card: AES-128 or AES-256. AES-192 is refused with class `caller`, since a padded key
    /// cannot be wrapped inside a token.
    pub new: KeysetVersion,
    /// The devices, in the order of the answer.
    pub eids: Vec<Eid>,
}

/// From which master, under which number and how long the keys of a keyset are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysetVersion {
    /// The master it is derived from.
    pub master: KeyRef,
    /// Its key version number on the card.
    pub kvn: KeyVersionNumber,
    /// The length of its keys.
    pub algorithm: KeysetAlgorithm,
}

/// The new keys of one device: Key-ENC, Key-MAC, Key-DEK, encrypted in the token under the old DEK. Ready for
/// [`keys::put_key::PutKey::new`].
pub type PutKeyBlocks = [EncryptedKey; 3];

/// Whether cards hold their keys: up to [`CARD_PROOFS_MAX`] proofs, of any masters of this token.
#[derive(Debug, Clone)]
pub struct CardProofJob {
    /// The proofs, in the order of the answer.
    pub proofs: Vec<CardProof>,
}

/// What a card showed in its answer to INITIALIZE UPDATE (SCP03 in mode S8).
#[derive(Debug, Clone)]
pub struct CardProof {
    /// The master the keyset was derived from.
    pub master: KeyRef,
    /// Which keyset of which device the card is said to hold.
    pub derivation: DeviceKeyset,
    /// The host's challenge.
    pub host_challenge: [u8; 8],
    /// The card's challenge.
    pub card_challenge: [u8; 8],
    /// The card's proof.
    pub card_cryptogram: [u8; 8],
}
