//! The register of certificates: lookups, and what stands between intent and outcome.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym};
use domain::{Eid, ReasonCode, Role};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::CaError;
use crate::issuance::holder_of;
use crate::keyspaces::{CERTIFICATES, CERTIFIED_KEYS, DEVICE_CERTIFICATES, RESERVATIONS};
use crate::revocation::{Revocation, revocation_of};

/// Most reservations a start looks at in one go.
const RESERVATIONS_PAGE: usize = 1_000;

/// A certificate in the register.
#[derive(Clone, Debug)]
pub struct CertificateView {
    /// DER.
    pub der: Vec<u8>,
    /// Name of its issuer.
    pub issuer: String,
    /// Its profile.
    pub profile: String,
    /// issued or revoked.
    pub state: String,
    /// A party's or person's name, or an EID.
    pub holder: String,
    /// When and why it was revoked, if it was.
    pub revocation: Option<Revocation>,
}

/// The certificate of a serial number.
pub fn find_by_serial(store: &dyn Store, serial: &[u8]) -> Result<Option<CertificateView>, CaError> {
    let Some(row) = store.get(CERTIFICATES, serial)? else { return Ok(None) };
    let record = records::Certificate::decode(&*row.value).map_err(|_| CaError::Record("certificate"))?;
    Ok(Some(CertificateView {
        revocation: revocation_of(&record)?,
        der: record.der,
        issuer: record.issuer,
        profile: record.profile,
        state: record.state,
        holder: record.subject,
    }))
}

/// The newest certificate of a device.
pub fn find_by_eid(store: &dyn Store, eid: &Eid) -> Result<Option<CertificateView>, CaError> {
    match store.get(DEVICE_CERTIFICATES, holder_of(eid).as_bytes())? {
        Some(row) => find_by_serial(store, &row.value),
        None => Ok(None),
    }
}

/// An intent without outcome.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// The serial number that will never be used.
    pub serial: Vec<u8>,
    /// The device, if the certificate was for one.
    pub eid: Option<Eid>,
    /// The party's or person's name, or the EID.
    pub holder: String,
    key_digest: Vec<u8>,
    version: u64,
}

/// Some of the reservations; all when fewer than a thousand come back.
pub fn reservations(store: &dyn Store) -> Result<Vec<Reservation>, CaError> {
    store
        .scan(RESERVATIONS, &[], None, RESERVATIONS_PAGE)?
        .into_iter()
        .map(|(serial, row)| {
            let record =
                records::Certificate::decode(&*row.value).map_err(|_| CaError::Record("reservation"))?;
            Ok(Reservation {
                serial,
                eid: record.subject.parse().ok(),
                holder: record.subject,
                key_digest: record.public_key_digest,
                version: row.version,
            })
        })
        .collect()
}

impl Reservation {
    /// The reservation of a prepared certificate, once its intent was committed at `version`.
    pub fn of(prepared: &crate::Prepared, version: u64) -> Self {
        prepared.reservation(version)
    }

    /// Marks it as failed and frees its key: entry, writes and preconditions.
    pub fn fail(
        &self,
        reason: ReasonCode,
        role: Option<Role>,
        object: Pseudonym,
    ) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let mut entry = EntryDraft::new(EventType::CertificateFailed, Outcome::Failed(reason)).object(object);
        if let Some(role) = role {
            entry = entry.role(role);
        }
        if let Ok(serial) = Fact::bytes(&self.serial) {
            entry = entry.fact("serial", serial);
        }
        let mut changes = vec![Change::delete(RESERVATIONS, self.serial.clone())];
        // A renewal took no key: the one before it keeps it.
        if !self.key_digest.is_empty() {
            changes.push(Change::delete(CERTIFIED_KEYS, self.key_digest.clone()));
        }
        let preconditions = vec![Precondition::Version {
            keyspace: RESERVATIONS,
            key: self.serial.clone(),
            version: self.version,
        }];
        (entry, changes, preconditions)
    }

    pub(crate) fn new(serial: Vec<u8>, holder: String, key_digest: Vec<u8>, version: u64) -> Self {
        Self { serial, eid: holder.parse().ok(), holder, key_digest, version }
    }
}
