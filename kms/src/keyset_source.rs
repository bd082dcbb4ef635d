//! Where the keys of a keyset come from, as its record says, and as jobs of the token take it.

use domain::{DeviceKeyset, Eid, KekEpoch, MasterGeneration};
use hsm::{KeyRef, KeySource, SourcedKeyset, StoredBlob, StoredKeys};
use keys::derivation::{Scheme, SchemeName};
use proto::records;

use crate::devices::{KeysetName, KeysetRecord};
use crate::{Engines, KmsError};

/// Where the keys of a keyset come from: data of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysetSource {
    /// Derived from a master.
    Derived {
        /// Generation of the master.
        generation: MasterGeneration,
        /// The scheme with its inputs.
        scheme: Scheme,
    },
    /// Made at random or imported, and stored.
    Stored {
        /// The epoch of the key-encryption key.
        epoch: KekEpoch,
        /// One per key, in the order of [`domain::Protocol::usages`].
        blobs: Vec<StoredBlob>,
    },
}

/// The keys of one epoch under which stored keys are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageKeys {
    /// The key-encryption key.
    pub kek: KeyRef,
    /// The key that binds blobs to their keysets.
    pub blob_mac: KeyRef,
}

impl KeysetSource {
    /// From a master by our scheme.
    pub const fn derived(generation: MasterGeneration) -> Self {
        Self::Derived { generation, scheme: Scheme::Chancery }
    }

    /// Generation of the master of a derived keyset.
    pub const fn generation(&self) -> Option<MasterGeneration> {
        match self {
            Self::Derived { generation, .. } => Some(*generation),
            Self::Stored { .. } => None,
        }
    }

    /// The stable name used in answers and entries.
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::Derived { .. } => "derived",
            Self::Stored { .. } => "stored",
        }
    }

    /// Generation of the master, or epoch of the key-encryption key.
    pub const fn generation_or_epoch(&self) -> u32 {
        match self {
            Self::Derived { generation, .. } => generation.0,
            Self::Stored { epoch, .. } => epoch.0,
        }
    }

    /// Reads the fields of a record; `None` when they fit no source.
    pub(crate) fn decode(record: &records::Keyset) -> Option<Self> {
        if record.kek_epoch == 0 {
            let scheme = Scheme::parse(SchemeName::from_name(&record.scheme)?, &record.scheme_inputs).ok()?;
            return record
                .stored_keys
                .is_empty()
                .then_some(Self::Derived { generation: MasterGeneration(record.master_generation), scheme });
        }
        let blob = |blob: &records::StoredKey| {
            Some(StoredBlob { wrapped: blob.wrapped.clone(), mac: blob.mac.as_slice().try_into().ok()? })
        };
        let blobs = record.stored_keys.iter().map(blob).collect::<Option<Vec<_>>>()?;
        let nothing_derived =
            record.master_generation == 0 && record.scheme.is_empty() && record.scheme_inputs.is_empty();
        (nothing_derived && !blobs.is_empty())
            .then_some(Self::Stored { epoch: KekEpoch(record.kek_epoch), blobs })
    }

    /// Fills the fields of a record.
    pub(crate) fn encode(&self, record: &mut records::Keyset) {
        match self {
            Self::Derived { generation, scheme } => {
                record.master_generation = generation.0;
                record.scheme = scheme.name().as_str().to_owned();
                record.scheme_inputs = scheme.inputs();
            }
            Self::Stored { epoch, blobs } => {
                record.kek_epoch = epoch.0;
                record.stored_keys = blobs
                    .iter()
                    .map(|blob| records::StoredKey { wrapped: blob.wrapped.clone(), mac: blob.mac.to_vec() })
                    .collect();
            }
        }
    }
}

impl KeysetRecord {
    /// The identity of this keyset, for a job.
    pub fn identity(&self, eid: &Eid, name: &KeysetName) -> DeviceKeyset {
        DeviceKeyset {
            eid: *eid,
            protocol: name.protocol,
            security_domain: name.security_domain,
            kvn: name.kvn,
            algorithm: self.algorithm,
        }
    }
}

impl Engines {
    /// The keyset of a record as jobs of the token take it.
    pub fn sourced(
        &self,
        eid: &Eid,
        name: &KeysetName,
        record: &KeysetRecord,
    ) -> Result<SourcedKeyset, KmsError> {
        let source = match &record.source {
            KeysetSource::Derived { generation, scheme } => {
                KeySource::Derived { master: self.master(*generation)?, scheme: scheme.clone() }
            }
            KeysetSource::Stored { epoch, blobs } => {
                let keys = self.storage.get(epoch).ok_or(KmsError::KekAbsent(*epoch))?;
                KeySource::Stored(StoredKeys {
                    kek: keys.kek.clone(),
                    blob_mac: keys.blob_mac.clone(),
                    blobs: blobs.clone(),
                })
            }
        };
        Ok(SourcedKeyset { keyset: record.identity(eid, name), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(source: &KeysetSource) -> Option<KeysetSource> {
        let mut record = records::Keyset::default();
        source.encode(&mut record);
        KeysetSource::decode(&record)
    }

    #[test]
    fn a_source_reads_back_and_a_mixture_of_two_does_not() {
        let derived = KeysetSource::derived(MasterGeneration(3));
        assert_eq!(round(&derived), Some(derived.clone()));
        let blobs = vec![StoredBlob { wrapped: vec![1; 40], mac: [2; 16] }; 3];
        let stored = KeysetSource::Stored { epoch: KekEpoch(2), blobs };
        assert_eq!(round(&stored), Some(stored.clone()));

        let mut mixed = records::Keyset::default();
        derived.encode(&mut mixed);
        stored.encode(&mut mixed);
        assert_eq!(KeysetSource::decode(&mixed), None);
        let mut unknown = records::Keyset::default();
        derived.encode(&mut unknown);
        unknown.scheme.push('x');
        assert_eq!(KeysetSource::decode(&unknown), None);
    }
}
