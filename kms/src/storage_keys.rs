//! The keys under which random device keys are stored, by epoch. A new epoch serves what is made from then on; what was stored
//! before is opened under its own, whose key-encryption key lets nothing out to be wrapped again.

use domain::{KekEpoch, ReasonCode, Timestamp};
use hsm::{KeyRef, StorageKeys};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::KmsError;
use crate::keyspaces::STORAGE_KEYS;

/// Most epochs; a bound, not a plan.
const EPOCHS_MAX: usize = 1_000;

/// One epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageEpoch {
    /// Its number.
    pub epoch: KekEpoch,
    /// Its keys on the kms token.
    pub keys: StorageKeys,
    /// How they are restored when their token is lost.
    pub backup: String,
    /// When it was registered.
    pub registered: Timestamp,
}

impl StorageEpoch {
    /// An epoch by its number.
    pub fn find(store: &dyn Store, epoch: KekEpoch) -> Result<Self, KmsError> {
        let row = store.get(STORAGE_KEYS, &epoch.0.to_be_bytes())?.ok_or(KmsError::Record("storage keys"))?;
        Self::decode(&row.value)
    }

    /// The newest epoch, under which random keys are stored now; or the refusal.
    pub fn newest(store: &dyn Store) -> Result<Self, KmsError> {
        Self::all(store)?.pop().ok_or_else(|| {
            let message = "no storage keys are registered, under which random keys could be kept";
            KmsError::refused(ReasonCode::PolicyViolation, message, None)
        })
    }

    /// Every epoch, the newest last.
    pub fn all(store: &dyn Store) -> Result<Vec<Self>, KmsError> {
        store
            .scan(STORAGE_KEYS, &[], None, EPOCHS_MAX)?
            .iter()
            .map(|(_, row)| Self::decode(&row.value))
            .collect()
    }

    /// The write that registers it, and that its epoch is free.
    pub fn create(&self) -> (Change, Precondition) {
        let record = records::StorageKeys {
            version: 1,
            epoch: self.epoch.0,
            kek_label: self.keys.kek.label.clone(),
            kek_id: self.keys.kek.id.to_vec(),
            blob_mac_label: self.keys.blob_mac.label.clone(),
            blob_mac_id: self.keys.blob_mac.id.to_vec(),
            backup: self.backup.clone(),
            registered_micros: self.registered.micros(),
        };
        let key = self.epoch.0.to_be_bytes().to_vec();
        (
            Change::put(STORAGE_KEYS, key.clone(), record.encode_to_vec()),
            Precondition::Absent { keyspace: STORAGE_KEYS, key },
        )
    }

    fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("storage keys");
        let record = records::StorageKeys::decode(bytes).map_err(|_| unreadable())?;
        let id = |bytes: Vec<u8>| bytes.try_into().map_err(|_| unreadable());
        Ok(Self {
            epoch: KekEpoch(record.epoch),
            keys: StorageKeys {
                kek: KeyRef { label: record.kek_label, id: id(record.kek_id)? },
                blob_mac: KeyRef { label: record.blob_mac_label, id: id(record.blob_mac_id)? },
            },
            backup: record.backup,
            registered: Timestamp::from_micros(record.registered_micros),
        })
    }
}
