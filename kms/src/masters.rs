//! Masters by generation: which one a keyset is derived from, and which one the next keysets will be.

use std::collections::BTreeMap;

use domain::{KeyCheckValue, MasterGeneration, ReasonCode, Refusal, Timestamp};
use hsm::{KeyRef, KeyRole};
use keys::derivation::SchemeName;
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::KmsError;
use crate::keysets::check_master;
use crate::keyspaces::MASTERS;

/// Most masters; a bound, not a plan.
const MASTERS_MAX: usize = 1_000;

/// Our own derivation scheme, by its name in records.
pub const SCHEME: &str = SchemeName::Chancery.as_str();

/// The masters in use: the founding ones, and those registered since. What is registered later is live with its commit:
/// the records are read each time, from memory.
#[derive(Debug, Default)]
pub struct Masters {
    founding: BTreeMap<MasterGeneration, KeyRef>,
}

/// A registered master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasterRecord {
    /// Its generation.
    pub generation: MasterGeneration,
    /// Its name.
    pub name: String,
    /// Its key on the token.
    pub key: KeyRef,
    /// What the key is.
    pub role: KeyRole,
    /// As its custodians know it.
    pub key_check_value: KeyCheckValue,
    /// Names of the schemes it may be used with.
    pub schemes: Vec<String>,
    /// How it is restored when its token is lost.
    pub backup: String,
    /// When it was registered.
    pub registered: Timestamp,
}

impl Masters {
    /// With the masters of the founding ceremony.
    pub const fn founded(founding: BTreeMap<MasterGeneration, KeyRef>) -> Self {
        Self { founding }
    }

    /// The generation of a founding master.
    pub fn founding_generation(&self, key: &KeyRef) -> Option<MasterGeneration> {
        self.founding.iter().find(|(_, founding)| *founding == key).map(|(generation, _)| *generation)
    }

    /// The key of a generation.
    pub fn key(&self, store: &dyn Store, generation: MasterGeneration) -> Result<KeyRef, KmsError> {
        if let Some(founding) = self.founding.get(&generation) {
            return Ok(founding.clone());
        }
        MasterRecord::read(store, generation)?
            .map(|master| master.key)
            .ok_or(KmsError::MasterAbsent(generation))
    }

    /// The newest generation that allows our own scheme: what new keysets are derived from. One that is known to others is
    /// refused; nothing falls back to an older one.
    pub fn newest(&self, store: &dyn Store) -> Result<(MasterGeneration, KeyRef), KmsError> {
        let registered = MasterRecord::all(store)?.into_iter().rev().find(|master| master.allows(SCHEME));
        let (generation, key) = match registered {
            Some(master) => (master.generation, master.key),
            None => self
                .founding
                .last_key_value()
                .map(|(generation, key)| (*generation, key.clone()))
                .ok_or(KmsError::MasterAbsent(MasterGeneration(1)))?,
        };
        check_master(store, generation)?;
        Ok((generation, key))
    }

    /// The first generation that is free.
    pub fn next_generation(&self, store: &dyn Store) -> Result<MasterGeneration, KmsError> {
        let registered = MasterRecord::all(store)?.last().map_or(0, |master| master.generation.0);
        let founding = self.founding.last_key_value().map_or(0, |(generation, _)| generation.0);
        Ok(MasterGeneration(registered.max(founding) + 1))
    }

    /// Whether a keyset of this scheme may be derived from a generation. A founding master serves our scheme alone.
    pub fn check_scheme(
        &self,
        store: &dyn Store,
        generation: MasterGeneration,
        scheme: &str,
    ) -> Result<(), KmsError> {
        let allowed = if self.founding.contains_key(&generation) {
            scheme == SCHEME
        } else {
            MasterRecord::read(store, generation)?.ok_or(KmsError::MasterAbsent(generation))?.allows(scheme)
        };
        if allowed {
            return Ok(());
        }
        Err(KmsError::refused(
            ReasonCode::PolicyViolation,
            format!("master generation {} is not registered for {scheme}", generation.0),
            None,
        ))
    }
}

impl MasterRecord {
    /// Reads a registered master; the founding ones have no record here.
    pub fn read(store: &dyn Store, generation: MasterGeneration) -> Result<Option<Self>, KmsError> {
        store.get(MASTERS, &generation.0.to_be_bytes())?.map(|row| Self::decode(&row.value)).transpose()
    }

    /// Every registered master, by generation.
    pub fn all(store: &dyn Store) -> Result<Vec<Self>, KmsError> {
        store.scan(MASTERS, &[], None, MASTERS_MAX)?.iter().map(|(_, row)| Self::decode(&row.value)).collect()
    }

    /// Whether keysets of a scheme may be derived from it.
    pub fn allows(&self, scheme: &str) -> bool {
        self.schemes.iter().any(|allowed| allowed == scheme)
    }

    /// Whether the record can be made: known schemes, each fit for the key.
    pub fn check(&self) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::new(ReasonCode::InvalidField, message));
        if !self.role.is_master() {
            return invalid(format!("a {} is no master", self.role.as_str()));
        }
        let known = || SchemeName::ALL.map(SchemeName::as_str).join(", ");
        if self.schemes.is_empty() || self.schemes.len() > SchemeName::ALL.len() {
            return invalid(format!("schemes names at least one of {}", known()));
        }
        for scheme in &self.schemes {
            if SchemeName::from_name(scheme).is_none() {
                return invalid(format!("{scheme} is no scheme; they are {}", known()));
            }
            let triple_des = matches!(self.role, KeyRole::ImportedMaster(key) if key.is_triple_des());
            if triple_des != matches!(scheme.as_str(), "emv-cps11" | "visa2") {
                return invalid(format!("a {} does not serve {scheme}", self.role.as_str()));
            }
            if self.role == KeyRole::FastMaster && scheme != SCHEME {
                return invalid(format!("a {} serves {SCHEME} alone", self.role.as_str()));
            }
            // Our own scheme is for new devices: nothing shorter than what we make.
            if scheme == SCHEME && !matches!(self.role.key_bytes(), Some(32)) {
                return invalid(format!("{scheme} takes an AES-256 master"));
            }
        }
        Ok(())
    }

    /// The write that registers it, and that its generation is free.
    pub fn create(&self) -> (Change, Precondition) {
        let record = records::Master {
            version: 1,
            generation: self.generation.0,
            name: self.name.clone(),
            label: self.key.label.clone(),
            id: self.key.id.to_vec(),
            role: self.role.as_str().to_owned(),
            key_check_value: self.key_check_value.0.to_vec(),
            schemes: self.schemes.clone(),
            backup: self.backup.clone(),
            registered_micros: self.registered.micros(),
        };
        let key = self.generation.0.to_be_bytes().to_vec();
        (
            Change::put(MASTERS, key.clone(), record.encode_to_vec()),
            Precondition::Absent { keyspace: MASTERS, key },
        )
    }

    fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("master");
        let record = records::Master::decode(bytes).map_err(|_| unreadable())?;
        Ok(Self {
            generation: MasterGeneration(record.generation),
            name: record.name,
            key: KeyRef { label: record.label, id: record.id.try_into().map_err(|_| unreadable())? },
            role: KeyRole::ALL
                .into_iter()
                .find(|role| role.as_str() == record.role)
                .ok_or_else(unreadable)?,
            key_check_value: KeyCheckValue(record.key_check_value.try_into().map_err(|_| unreadable())?),
            schemes: record.schemes,
            backup: record.backup,
            registered: Timestamp::from_micros(record.registered_micros),
        })
    }
}

#[cfg(test)]
mod tests {
    use hsm::MasterAlgorithm;

    use super::*;

    fn master(role: KeyRole, schemes: &[&str]) -> MasterRecord {
        MasterRecord {
            generation: MasterGeneration(2),
            name: "fleet".into(),
            key: KeyRef { label: "chancery/x/fleet/1".into(), id: [1; 16] },
            role,
            key_check_value: KeyCheckValue([1, 2, 3]),
            schemes: schemes.iter().map(|scheme| (*scheme).to_owned()).collect(),
            backup: "vendor clone".into(),
            registered: Timestamp::from_seconds(1),
        }
    }

    #[test]
    fn a_master_serves_only_schemes_of_its_cipher_and_ours_only_with_256_bits() {
        use MasterAlgorithm::{Aes128, Aes256, TripleDes2Key};
        let good = [
            (KeyRole::Master, vec![SCHEME]),
            (KeyRole::FastMaster, vec![SCHEME]),
            (KeyRole::ImportedMaster(Aes256), vec![SCHEME]),
        ];
        for (role, schemes) in good {
            assert_eq!(master(role, &schemes).check(), Ok(()), "{role:?}");
        }
        let bad = [
            (KeyRole::ImportedMaster(Aes128), vec![SCHEME]),
            (KeyRole::ImportedMaster(TripleDes2Key), vec!["kdf3"]),
            (KeyRole::ImportedMaster(Aes256), vec!["visa2"]),
            (KeyRole::ImportedMaster(Aes256), vec![]),
            (KeyRole::ImportedMaster(Aes256), vec!["another"]),
            (KeyRole::PartyTransport, vec!["kdf3"]),
            (KeyRole::FastMaster, vec!["kdf3"]),
        ];
        for (role, schemes) in bad {
            assert!(master(role, &schemes).check().is_err(), "{role:?} {schemes:?}");
        }
    }

    #[test]
    fn a_record_comes_out_as_it_went_in() {
        let master = master(KeyRole::ImportedMaster(MasterAlgorithm::Aes192), &["an10922"]);
        let (change, _) = master.create();
        assert_eq!(MasterRecord::decode(&change.value.unwrap()).unwrap(), master);
    }
}
