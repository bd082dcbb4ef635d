//! Where the keys of a keyset come from, as its record says, and as jobs of the token take it.

use domain::{DeviceKeyset, Eid, MasterGeneration};
use hsm::{KeySource, SourcedKeyset};
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
}

impl KeysetSource {
    /// From a master by our scheme.
    pub const fn derived(generation: MasterGeneration) -> Self {
        Self::Derived { generation, scheme: Scheme::Chancery }
    }

    /// Generation of the master.
    pub const fn generation(&self) -> MasterGeneration {
        match self {
            Self::Derived { generation, .. } => *generation,
        }
    }

    /// Name of the scheme.
    pub const fn scheme(&self) -> SchemeName {
        match self {
            Self::Derived { scheme, .. } => scheme.name(),
        }
    }

    /// The stable name used in answers and entries.
    pub const fn mode(&self) -> &'static str {
        match self {
            Self::Derived { .. } => "derived",
        }
    }

    /// Reads the fields of a record; `None` when they fit no source.
    pub(crate) fn decode(record: &records::Keyset) -> Option<Self> {
        let scheme = Scheme::parse(SchemeName::from_name(&record.scheme)?, &record.scheme_inputs).ok()?;
        Some(Self::Derived { generation: MasterGeneration(record.master_generation), scheme })
    }

    /// Fills the fields of a record.
    pub(crate) fn encode(&self, record: &mut records::Keyset) {
        match self {
            Self::Derived { generation, scheme } => {
                record.master_generation = generation.0;
                record.scheme = scheme.name().as_str().to_owned();
                record.scheme_inputs = scheme.inputs();
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
    fn a_source_reads_back_and_one_of_an_unknown_scheme_does_not() {
        let derived = KeysetSource::derived(MasterGeneration(3));
        assert_eq!(round(&derived), Some(derived.clone()));
        let mut unknown = records::Keyset::default();
        derived.encode(&mut unknown);
        unknown.scheme.push('x');
        assert_eq!(KeysetSource::decode(&unknown), None);
    }
}
