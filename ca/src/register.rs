//! The register of certificates: lookups, and what stands between intent and outcome.

use audit::{EntryDraft, EventType, Outcome, Pseudonym};
use domain::{Eid, ReasonCode, Role};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::CaError;
use crate::issuance::{holder_of, holder_prefix, serial_octets};
use crate::keyspaces::{
    CERTIFICATES, CERTIFIED_KEYS, DEVICE_CERTIFICATES, HOLDER_CERTIFICATES, RESERVATIONS,
};
use crate::register_key::{RegisterKey, Registered};
use crate::revocation::{Revocation, revocation_of};

/// Most reservations a start looks at in one go.
const RESERVATIONS_PAGE: usize = 1_000;

/// Rows of the register that one page looks at; a filter that matches few of them gives short pages, not long calls.
const ROWS_PER_PAGE: usize = 2_000;
/// Rows that are read at once, unless a page may have more certificates.
const ROWS_AT_A_TIME_MIN: usize = 100;
/// Certificates of one page.
pub const CERTIFICATES_PER_PAGE: usize = 200;

/// A certificate in the register.
#[derive(Clone, Debug)]
pub struct CertificateView {
    /// Content octets of its serial number.
    pub serial: Vec<u8>,
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

/// The certificate of a serial number. Refused when several issuers have one of this number and `issuer` names none of them.
pub fn find_by_serial(
    store: &dyn Store,
    serial: &[u8],
    issuer: &str,
) -> Result<Option<CertificateView>, CaError> {
    Registered::find(store, serial, issuer)?.map(|found| view(found.record)).transpose()
}

fn find_by_key(store: &dyn Store, key: &[u8]) -> Result<Option<CertificateView>, CaError> {
    let found = Registered::of_key(store, RegisterKey::from_bytes(key))?;
    found.map(|found| view(found.record)).transpose()
}

fn decoded(value: &[u8]) -> Result<records::Certificate, CaError> {
    records::Certificate::decode(value).map_err(|_| CaError::Record("certificate"))
}

fn view(record: records::Certificate) -> Result<CertificateView, CaError> {
    Ok(CertificateView {
        serial: record.serial_number.clone(),
        revocation: revocation_of(&record)?,
        der: record.der,
        issuer: record.issuer,
        profile: record.profile,
        state: record.state,
        holder: record.subject,
    })
}

/// Which certificates are asked for; an empty text is any.
#[derive(Clone, Debug, Default)]
pub struct CertificateFilter {
    /// Whose, or of which key; none walks the whole register.
    pub by: Option<CertificateIndex>,
    /// Name of the issuer.
    pub issuer: String,
    /// Name of the profile.
    pub profile: String,
    /// issued or revoked.
    pub state: String,
}

/// What the register is indexed by.
#[derive(Clone, Debug)]
pub enum CertificateIndex {
    /// A party's or person's name.
    Holder(String),
    /// A device: its newest certificate.
    Device(Eid),
    /// SHA-256 of a SubjectPublicKeyInfo.
    Key([u8; 32]),
}

/// Some of the certificates that a filter lets through, and where to go on if these were not all.
#[derive(Debug)]
pub struct CertificatePage {
    /// In the order of serial numbers; those from elsewhere last.
    pub certificates: Vec<CertificateView>,
    /// The row after which the next page begins.
    pub next: Option<Vec<u8>>,
}

/// A page of the register: at most `limit` certificates after the row `after`.
pub fn list_certificates(
    store: &dyn Store,
    filter: &CertificateFilter,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<CertificatePage, CaError> {
    let wanted = |view: &CertificateView| {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        is(&filter.issuer, &view.issuer)
            && is(&filter.profile, &view.profile)
            && is(&filter.state, &view.state)
    };
    let single = |key: Option<Vec<u8>>| -> Result<CertificatePage, CaError> {
        let found = key.map(|key| find_by_key(store, &key)).transpose()?.flatten();
        Ok(CertificatePage { certificates: found.into_iter().filter(wanted).collect(), next: None })
    };
    let limit = limit.clamp(1, CERTIFICATES_PER_PAGE);
    let mut page = CertificatePage { certificates: Vec::new(), next: None };
    match &filter.by {
        Some(CertificateIndex::Device(eid)) => {
            single(store.get(DEVICE_CERTIFICATES, holder_of(eid).as_bytes())?.map(|row| row.value.to_vec()))
        }
        Some(CertificateIndex::Key(digest)) => {
            single(store.get(CERTIFIED_KEYS, digest)?.map(|row| row.value.to_vec()))
        }
        Some(CertificateIndex::Holder(holder)) => {
            let prefix = holder_prefix(holder);
            let after = after.map(|key| [&prefix, key].concat());
            let rows = store.scan(HOLDER_CERTIFICATES, &prefix, after.as_deref(), limit)?;
            let is_last = rows.len() < limit;
            for (key, _) in rows {
                let key = &key[prefix.len()..];
                page.certificates.extend(find_by_key(store, key)?.filter(wanted));
                page.next = (!is_last).then(|| key.to_vec());
            }
            Ok(page)
        }
        None => {
            let mut after = after.map(<[u8]>::to_vec);
            let mut looked_at = 0;
            // About as many rows at a time as the page may have certificates: most filters let most rows through.
            let step = limit.max(ROWS_AT_A_TIME_MIN);
            while page.certificates.len() < limit && looked_at < ROWS_PER_PAGE {
                let rows = store.scan(CERTIFICATES, &[], after.as_deref(), step)?;
                let is_last = rows.len() < step;
                let count = rows.len();
                looked_at += count;
                let mut read = 0;
                for (key, row) in rows {
                    read += 1;
                    page.certificates.extend(Some(view(decoded(&row.value)?)?).filter(wanted));
                    after = Some(key);
                    if page.certificates.len() == limit {
                        break;
                    }
                }
                if is_last && read == count {
                    return Ok(page);
                }
            }
            page.next = after;
            Ok(page)
        }
    }
}

/// The newest certificate of a device.
pub fn find_by_eid(store: &dyn Store, eid: &Eid) -> Result<Option<CertificateView>, CaError> {
    match store.get(DEVICE_CERTIFICATES, holder_of(eid).as_bytes())? {
        Some(row) => find_by_key(store, &row.value),
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
        entry = entry.fact("serial", serial_octets(&self.serial, object));
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
