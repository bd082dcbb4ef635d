//! PKCS#11 tokens: worker processes, whole jobs, key roles with fixed templates, probes, the ceremony.
//!
//! Three sides. [`Token`] is the daemon's: a handle with a bounded queue that never loads a PKCS#11 module.
//! [`worker`] runs in its own processes, which load it and do the jobs. [`ceremony`] makes tokens and keys, in a
//! process of its own as well. `cryptoki` is known here and nowhere else; `pkcs11_gaps` holds the only unsafe code.
//!
//! The boundary is the worker process and its PIN: our code never reads a device key; whoever holds the PIN could
//! make the token give one up. [`StartReport::leaves_the_token`] says what does leave.

mod error;
mod job;
mod key;
mod key_pair_job;
mod ota;
mod report;
mod rsp;

mod client;
mod inspect;

mod incoming;
mod lock;
mod protocol;
mod scp11;
mod session;
mod signature;
mod source;
mod spki;
mod tls_psk;
mod wire_keysets;
mod wire_signature;

pub mod ceremony;
#[doc(hidden)]
pub mod frames;
pub mod softhsm;
pub mod worker;

mod nested;
mod template;

#[expect(unsafe_code, reason = "what the PKCS#11 crate lacks; each block with its proof")]
mod pkcs11_gaps;

pub use client::{
    CHECKED_KEYSETS_MAX, Counters, Health, SESSION_OBJECTS_MAX, Token, TokenConfig, WorkerCommand,
};
pub use ecc::{Digest, Signature};
pub use error::{ErrorClass, HsmError};
pub use incoming::{INCOMING_DEVICES_MAX, IncomingDevice, IncomingForm, IncomingJob, IncomingOutcome};
pub use inspect::{PinTries, TokenSeen, inspect};
pub use job::{
    CARD_PROOFS_MAX, CallOptions, CardProof, CardProofJob, DeviceKeyBlobs, ExportJob, ExportRecipient,
    ExportedKeys, INPUT_BYTES_MAX, ORDER_CHUNK_DEVICES_MAX, OrderChunk, OrderChunkJob, OrderKeys,
    PUT_KEY_DEVICES_MAX, Priority, PutKeyBlocks, PutKeyDevice, PutKeyJob, WrappedKey,
};
pub use key::{KeyCheck, KeyKind, KeyRef, KeyRole, MasterAlgorithm, OaepHash, RegisteredKey};
pub use key_pair_job::{KEY_PAIRS_MAX, KeyPairs, KeyPairsJob, WrappedKeyPair};
pub use ota::{OTA_BYTES_MAX, OTA_ITEMS_MAX, OtaJob, OtaOutcome, OtaWork, PreparedChannel, WrappedScript};
pub use report::{Probe, StartReport};
pub use rsp::{RspBindJob, RspBound, RspInput};
pub use scp11::{Scp11Job, Scp11Outcome, Scp11Sealing, Scp11Session};
pub use session::{
    CardSession, ClearKeys, DeliveredKeys, Delivery, ReleasedKeys, SequenceOrigin, SessionContext,
    SessionKeysJob, SessionKeysOutcome,
};
pub use source::{KeySource, SourcedKeyset, StorageKeys, StoredBlob, StoredKeys};
pub use tls_psk::{TlsSecretJob, TlsSecretOutcome};
