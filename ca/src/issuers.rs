//! Issuers: a name, a key in the token, a certificate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::{ReasonCode, Timestamp};
use hsm::{KeyCheck, KeyRef, KeyRole, RegisteredKey};
use pki::Certificate;
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::CaError;
use crate::keyspaces::{ISSUERS, KEYS};

/// Issuers that are looked at in one go.
pub(crate) const ISSUERS_MAX: usize = 10_000;

/// An issuer that can issue.
#[derive(Debug)]
pub struct Issuer {
    /// Its name in the authority.
    pub name: String,
    /// The party it belongs to; empty for the authority's own.
    pub party: String,
    /// Its key in the token.
    pub key: KeyRef,
    /// Its public key, SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
    /// Its certificate, once there is one.
    pub certificate: Option<Certificate>,
    /// Until when what it issued before it came here is taken into the register; none of one that was made here.
    pub adopts_until: Option<Timestamp>,
    /// Version of the row, for preconditions.
    pub version: u64,
}

impl Issuer {
    /// Its certificate, or the refusal to issue without one.
    pub fn certificate(&self) -> Result<&Certificate, CaError> {
        self.certificate.as_ref().ok_or_else(|| {
            CaError::refused(
                ReasonCode::UnknownIssuer,
                format!("issuer {} has no certificate yet", self.name),
            )
        })
    }

    /// The writes that give it its certificate.
    pub fn certified(&self, certificate: &Certificate) -> (Change, Precondition) {
        let record = records::Issuer {
            version: 1,
            name: self.name.clone(),
            party: self.party.clone(),
            key_label: self.key.label.clone(),
            certificate: certificate.der().to_vec(),
            adopts_until_micros: self.adopts_until.map_or(0, Timestamp::micros),
        };
        let key = self.name.clone().into_bytes();
        (
            Change::put(ISSUERS, key.clone(), record.encode_to_vec()),
            Precondition::Version { keyspace: ISSUERS, key, version: self.version },
        )
    }
}

/// A key of a token on its way into the records: what a ceremony reported.
#[derive(Clone, Debug)]
pub struct KeyRegistration {
    /// Configured name of the token.
    pub token: String,
    /// Serial number of the token.
    pub token_serial: String,
    /// The key, its role and what proves it.
    pub key: RegisteredKey,
    /// Generation or epoch, from 1.
    pub epoch: u32,
    /// How it is restored when its token is lost; empty for the vendor's clone of the token.
    pub backup: String,
}

impl KeyRegistration {
    /// The writes that register the key.
    pub fn create(&self) -> (Change, Precondition) {
        let (public_key, check_value) = match &self.key.check {
            KeyCheck::PublicKey(spki) => (spki.clone(), Vec::new()),
            KeyCheck::CheckValue(value) => (Vec::new(), value.to_vec()),
        };
        let record = records::KeyRecord {
            version: 1,
            token: self.token.clone(),
            token_serial: self.token_serial.clone(),
            label: self.key.key.label.clone(),
            id: self.key.key.id.to_vec(),
            role: self.key.role.as_str().to_owned(),
            public_key,
            check_value,
            epoch: self.epoch,
            backup: self.backup.clone(),
        };
        let key = self.key.key.label.clone().into_bytes();
        (Change::put(KEYS, key.clone(), record.encode_to_vec()), Precondition::Absent { keyspace: KEYS, key })
    }

    /// Every registered key.
    pub fn all(store: &dyn Store) -> Result<Vec<Self>, CaError> {
        store.scan(KEYS, &[], None, 10_000)?.into_iter().map(|(_, row)| Self::decode(&row.value)).collect()
    }

    /// The key of this label, if it is registered.
    pub fn find(store: &dyn Store, label: &str) -> Result<Option<Self>, CaError> {
        store.get(KEYS, label.as_bytes())?.map(|row| Self::decode(&row.value)).transpose()
    }

    fn decode(bytes: &[u8]) -> Result<Self, CaError> {
        let unreadable = || CaError::Record("key");
        let record = records::KeyRecord::decode(bytes).map_err(|_| unreadable())?;
        let check = match <[u8; 3]>::try_from(record.check_value.as_slice()) {
            Ok(value) => KeyCheck::CheckValue(value),
            Err(_) if record.public_key.is_empty() => return Err(unreadable()),
            Err(_) => KeyCheck::PublicKey(record.public_key),
        };
        let role = KeyRole::ALL.into_iter().find(|r| r.as_str() == record.role).ok_or_else(unreadable)?;
        let id = record.id.try_into().map_err(|_| unreadable())?;
        Ok(Self {
            token: record.token,
            token_serial: record.token_serial,
            key: RegisteredKey { key: KeyRef { label: record.label, id }, role, check },
            epoch: record.epoch,
            backup: record.backup,
        })
    }
}

/// Reads issuers from the authority records, each decoded once per version.
#[derive(Default)]
pub struct Issuers {
    decoded: Mutex<HashMap<String, Arc<Issuer>>>,
    // Held while a revocation list is made: one at a time.
    pub(crate) publication: tokio::sync::Mutex<()>,
}

impl Issuers {
    /// The issuer of a name, or the refusal.
    pub fn find(&self, store: &dyn Store, name: &str) -> Result<Arc<Issuer>, CaError> {
        let unknown = || CaError::refused(ReasonCode::UnknownIssuer, format!("there is no issuer {name}"));
        let row = store.get(ISSUERS, name.as_bytes())?.ok_or_else(unknown)?;
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issuer) = decoded.get(name)
            && issuer.version == row.version
        {
            return Ok(Arc::clone(issuer));
        }
        let record = records::Issuer::decode(&*row.value).map_err(|_| CaError::Record("issuer"))?;
        let key_row = store.get(KEYS, record.key_label.as_bytes())?.ok_or(CaError::Record("key"))?;
        let key = KeyRegistration::decode(&key_row.value)?;
        let KeyCheck::PublicKey(public_key) = key.key.check else { return Err(CaError::Record("key")) };
        let certificate = if record.certificate.is_empty() {
            None
        } else {
            Some(Certificate::from_der(&record.certificate).map_err(CaError::Verification)?)
        };
        let issuer = Arc::new(Issuer {
            name: record.name,
            party: record.party,
            key: key.key.key,
            public_key,
            certificate,
            adopts_until: (record.adopts_until_micros != 0)
                .then(|| Timestamp::from_micros(record.adopts_until_micros)),
            version: row.version,
        });
        decoded.insert(name.to_owned(), Arc::clone(&issuer));
        Ok(issuer)
    }

    /// Every issuer.
    pub fn all(&self, store: &dyn Store) -> Result<Vec<Arc<Issuer>>, CaError> {
        store
            .scan(ISSUERS, &[], None, ISSUERS_MAX)?
            .into_iter()
            .map(|(name, _)| self.find(store, &String::from_utf8_lossy(&name)))
            .collect()
    }

    /// The writes that create an issuer whose key is registered with them or before; `adopts_until` of one that issued elsewhere.
    pub fn create(
        name: &str,
        party: &str,
        key_label: &str,
        certificate: Option<&Certificate>,
        adopts_until: Option<Timestamp>,
    ) -> (Change, Precondition) {
        let record = records::Issuer {
            version: 1,
            name: name.to_owned(),
            party: party.to_owned(),
            key_label: key_label.to_owned(),
            certificate: certificate.map(|c| c.der().to_vec()).unwrap_or_default(),
            adopts_until_micros: adopts_until.map_or(0, Timestamp::micros),
        };
        let key = name.as_bytes().to_vec();
        (
            Change::put(ISSUERS, key.clone(), record.encode_to_vec()),
            Precondition::Absent { keyspace: ISSUERS, key },
        )
    }
}
