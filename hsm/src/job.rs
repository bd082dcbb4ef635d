//! Whole jobs: what a caller asks of a token in one go, and what comes back.

use std::time::Instant;

use domain::{Eid, KeyCheckValue, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::derivation::KeysetDerivation;

use crate::key::{KeyRef, OaepHash};

/// The most devices of one order chunk (DESIGN §5).
pub const ORDER_CHUNK_DEVICES_MAX: usize = 1_000;

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
    pub derivation: KeysetDerivation,
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
