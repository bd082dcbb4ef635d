//! Where the keys of a keyset come from, as its record says, and as jobs of the token take it.

use audit::{EntryDraft, Fact};
use domain::{DeviceKeyset, Eid, KekEpoch, MasterGeneration};
use hsm::{KeySource, SourcedKeyset, StoredBlob, StoredKeys};
use keys::derivation::{Scheme, SchemeName};
use proto::records;

use crate::devices::{KeysetName, KeysetRecord};
use crate::storage_keys::StorageEpoch;
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
    /// Stored: made at random here, or come from outside.
    Stored {
        /// Which of both.
        origin: StoredOrigin,
        /// The epoch of the keys under which they are stored.
        epoch: KekEpoch,
        /// One per key, in the order of [`domain::Protocol::usages`].
        blobs: Vec<StoredBlob>,
    },
}

/// Where stored keys were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredOrigin {
    /// In our token, at random.
    Made,
    /// By others, who brought them in.
    Imported,
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

    /// Epoch of the keys under which its keys are stored.
    pub const fn epoch(&self) -> Option<KekEpoch> {
        match self {
            Self::Derived { .. } => None,
            Self::Stored { epoch, .. } => Some(*epoch),
        }
    }

    /// Name of the scheme of a derived keyset.
    pub const fn scheme(&self) -> Option<SchemeName> {
        match self {
            Self::Derived { scheme, .. } => Some(scheme.name()),
            Self::Stored { .. } => None,
        }
    }

    /// What an entry says of it: how the keys are made, and from what.
    pub(crate) fn facts(&self, entry: EntryDraft) -> EntryDraft {
        let entry = entry.fact("key_source", Fact::fixed_name(self.mode()));
        match self {
            Self::Derived { generation, .. } => {
                entry.fact("generation", Fact::Number(u64::from(generation.0)))
            }
            Self::Stored { epoch, .. } => entry.fact("epoch", Fact::Number(u64::from(epoch.0))),
        }
    }

    /// The stable name used in answers and entries.
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::Derived { .. } => "derived",
            Self::Stored { origin: StoredOrigin::Made, .. } => "random",
            Self::Stored { origin: StoredOrigin::Imported, .. } => "imported",
        }
    }

    /// Reads the fields of a record; `None` when they fit no source.
    pub(crate) fn decode(record: &records::Keyset) -> Option<Self> {
        if record.kek_epoch == 0 && record.stored_keys.is_empty() {
            let scheme = Scheme::parse(SchemeName::from_name(&record.scheme)?, &record.scheme_inputs).ok()?;
            return Some(Self::Derived { generation: MasterGeneration(record.master_generation), scheme });
        }
        let blob = |key: &records::StoredKey| {
            Some(StoredBlob { wrapped: key.wrapped.clone(), mac: key.mac.as_slice().try_into().ok()? })
        };
        let blobs = record.stored_keys.iter().map(blob).collect::<Option<Vec<_>>>()?;
        let nothing_derived = record.master_generation == 0 && record.scheme.is_empty();
        let origin = if record.imported { StoredOrigin::Imported } else { StoredOrigin::Made };
        (nothing_derived && record.kek_epoch != 0 && !blobs.is_empty()).then_some(Self::Stored {
            origin,
            epoch: KekEpoch(record.kek_epoch),
            blobs,
        })
    }

    /// Fills the fields of a record.
    pub(crate) fn encode(&self, record: &mut records::Keyset) {
        match self {
            Self::Derived { generation, scheme } => {
                record.master_generation = generation.0;
                record.scheme = scheme.name().as_str().to_owned();
                record.scheme_inputs = scheme.inputs();
            }
            Self::Stored { origin, epoch, blobs } => {
                record.imported = *origin == StoredOrigin::Imported;
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
            KeysetSource::Stored { epoch, blobs, .. } => {
                let storage = StorageEpoch::find(self.store.as_ref(), *epoch)?.keys;
                KeySource::Stored(StoredKeys { storage, blobs: blobs.clone() })
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
    fn stored_keys_read_back_with_where_they_were_made() {
        let blobs = vec![StoredBlob { wrapped: vec![7; 24], mac: [9; 16] }];
        for (origin, mode) in [(StoredOrigin::Made, "random"), (StoredOrigin::Imported, "imported")] {
            let stored = KeysetSource::Stored { origin, epoch: KekEpoch(2), blobs: blobs.clone() };
            assert_eq!(stored.mode(), mode);
            assert_eq!(round(&stored), Some(stored));
        }
    }

    #[test]
    fn a_source_reads_back_and_one_of_an_unknown_scheme_does_not() {
        let derived = KeysetSource::derived(MasterGeneration(3));
        assert_eq!(round(&derived), Some(derived.clone()));
        let mut unknown = records::Keyset::default();
        derived.encode(&mut unknown);
        unknown.scheme.push('x');
        assert_eq!(KeysetSource::decode(&unknown), None);
    }
}
