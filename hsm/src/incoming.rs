//! Device keys that come in: unwrapped under a party's import key, compared with the check values that were said of them, and
//! stored as random keys are. They are session objects of the token on their way, and never leave again.

use domain::{Eid, KeyCheckValue, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use serde::{Deserialize, Serialize};

use crate::key::KeyRef;
use crate::source::{StorageKeys, StoredBlob};
use crate::wire_keysets::WireKind;

/// The most devices of one [`IncomingJob`].
pub const INCOMING_DEVICES_MAX: usize = 1_000;

/// Keysets of one kind, of up to [`INCOMING_DEVICES_MAX`] devices.
#[derive(Debug, Clone)]
pub struct IncomingJob {
    /// The party's import key.
    pub under: KeyRef,
    /// The keys under which they are stored.
    pub storage: StorageKeys,
    /// How they come.
    pub form: IncomingForm,
    /// The protocol of the keysets.
    pub protocol: Protocol,
    /// The security domain that holds them.
    pub security_domain: SecurityDomain,
    /// Their key version number.
    pub kvn: KeyVersionNumber,
    /// Cipher and length of their keys.
    pub algorithm: KeysetAlgorithm,
    /// The devices, in the order of the answer.
    pub devices: Vec<IncomingDevice>,
}

/// The form in which keys come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IncomingForm {
    /// AES-KWP (RFC 5649) under the import key, unwrapped inside the token.
    Kwp,
    /// Cells of pySim's CSV, which are decrypted in worker memory: compatibility only, refused by a token that is inside
    /// only. One column key for each key of the keyset, AES-KWP under the import key.
    PysimCells(Vec<Vec<u8>>),
}

/// The keys of one device on their way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingDevice {
    /// The device, packed.
    pub eid: [u8; 16],
    /// Its keys as they come, in the order of [`Protocol::usages`].
    pub keys: Vec<Vec<u8>>,
}

impl IncomingDevice {
    /// Of a device.
    pub const fn new(eid: &Eid, keys: Vec<Vec<u8>>) -> Self {
        Self { eid: *eid.bcd(), keys }
    }
}

/// What became of a device's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IncomingOutcome {
    /// They are stored so.
    Stored(Vec<(StoredBlob, KeyCheckValue)>),
    /// One of them does not open under the import key, or has another length.
    NotOpened,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireIncoming {
    /// The import key, the key-encryption key, the key that binds blobs.
    pub(crate) keys: [KeyRef; 3],
    pub(crate) form: IncomingForm,
    pub(crate) kind: WireKind,
    pub(crate) devices: Vec<IncomingDevice>,
}

/// One device's keys with their check values; `None` when they did not open.
pub(crate) type WireIncomingOutcome = Option<Vec<(StoredBlob, [u8; 3])>>;

impl IncomingJob {
    pub(crate) fn wire(self) -> WireIncoming {
        WireIncoming {
            kind: WireKind::new(self.protocol, self.security_domain, self.kvn, self.algorithm),
            keys: [self.under, self.storage.kek, self.storage.blob_mac],
            form: self.form,
            devices: self.devices,
        }
    }
}

impl From<WireIncomingOutcome> for IncomingOutcome {
    fn from(outcome: WireIncomingOutcome) -> Self {
        outcome.map_or(Self::NotOpened, |keys| {
            Self::Stored(keys.into_iter().map(|(blob, value)| (blob, KeyCheckValue(value))).collect())
        })
    }
}
