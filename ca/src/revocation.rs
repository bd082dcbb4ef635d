//! Revocation: the steps 2 to 4 of `docs/cycles/revocation.md`.

use std::collections::HashMap;

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{ReasonCode, RevocationReason, Timestamp};
use pki::crl::RevokedCertificate;
use pki::{Certificate, CertificateRole, CivilTime, SerialNumber};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store};

use crate::imported::Import;
use crate::issuance::{About, serial_fact};
use crate::keyspaces::{CERTIFICATES, ISSUERS, RESERVATIONS, REVOCATIONS};
use crate::publication::{ListKind, ListName, Shard};
use crate::register_key::{RegisterKey, Registered};
use crate::{CaError, Engines};

/// Certificates that one issuer can revoke. An entry of a list takes at most 82 bytes, so the fullest list fits one commit of the
/// store.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Certificates that are held at a time: what one person can do alone is bounded.
pub const HOLDS_MAX: usize = 100;
/// Rows of an index that are read at a time.
const ROWS_PER_SCAN: usize = 10_000;
/// Revocations under way at the same time, for which there is still room on the list.
const ROOM: usize = 100;

/// Which certificate to revoke, and why.
#[derive(Clone, Debug)]
pub struct RevocationRequest {
    /// Its serial number.
    pub serial: SerialNumber,
    /// Its issuer; may be empty where no other has a certificate of this number.
    pub issuer: String,
    /// The reason that the list gives.
    pub reason: RevocationReason,
    /// Since when its key is, or may be, in other hands; not after now and not before the certificate.
    pub invalid_since: Option<Timestamp>,
}

/// When and why a certificate was revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: RevocationReason,
}

/// A revocation that may be committed: what it will mean was checked.
#[derive(Debug)]
pub struct Revoking {
    key: RegisterKey,
    record: records::Certificate,
    version: u64,
    serial: SerialNumber,
    revocation: Revocation,
    invalid_since: Option<Timestamp>,
    shard: Option<Shard>,
    expires_seconds: i64,
    /// Version of the row of the index, where it is held.
    held: Option<u64>,
}

/// Steps 2 and 3: whether the certificate is there, issued, and of an issuer whose lists can show it. Reads only; nothing is
/// durable.
pub fn revoke(engines: &Engines, request: &RevocationRequest, now: Timestamp) -> Result<Revoking, CaError> {
    revoke_one(engines, request, now, &mut HashMap::new())
}

/// As [`revoke`], for certificates that are revoked by one commit: each, and that their issuers' lists can show them all.
pub fn revoke_many(
    engines: &Engines,
    requests: &[RevocationRequest],
    now: Timestamp,
) -> Result<Vec<Revoking>, CaError> {
    let mut listed = HashMap::new();
    requests
        .iter()
        .map(|request| {
            revoke_one(engines, request, now, &mut listed).map_err(|error| match error {
                CaError::Refused(refused) => CaError::refused(
                    refused.refusal.reason,
                    format!("{}: {}", request.serial, refused.refusal.message),
                ),
                other => other,
            })
        })
        .collect()
}

/// `listed` counts what each issuer's list will hold.
fn revoke_one(
    engines: &Engines,
    request: &RevocationRequest,
    now: Timestamp,
    listed: &mut HashMap<String, usize>,
) -> Result<Revoking, CaError> {
    let store = engines.store.as_ref();
    let serial = request.serial.as_bytes();
    let Some(Registered { key, record, version }) = Registered::find(store, serial, &request.issuer)? else {
        return Err(not_in_register(store, serial)?);
    };
    let (mut at, mut held) = (now, None);
    match record.state.as_str() {
        "issued" => {}
        "revoked" => {
            let revocation = revocation_of(&record)?.ok_or(CaError::Record("certificate"))?;
            if !revocation.reason.is_for_good() && request.reason.is_for_good() {
                // From the hold on: nobody was to rely on it since.
                at = revocation.at;
                let key = index_key(&record.issuer, serial);
                held = Some(store.get(REVOCATIONS, &key)?.ok_or(CaError::Record("revocation"))?.version);
            } else {
                return Err(CaError::refused(
                    ReasonCode::Conflict,
                    format!(
                        "the certificate is revoked already, for {}, at {}",
                        revocation.reason, revocation.at
                    ),
                ));
            }
        }
        _ => return Err(CaError::Record("certificate")),
    }
    let profile = pki::profile::find(&record.profile).map_err(|_| {
        CaError::refused(
            ReasonCode::PolicyViolation,
            format!("the certificate's profile {} is not in the configuration any more", record.profile),
        )
    })?;
    if profile.is_root() {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            "a root stands on no list: who trusts it must be told otherwise",
        ));
    }
    let issuer = engines.issuers.find(store, &record.issuer)?;
    let certificate = Certificate::from_der(&record.der).map_err(|_| CaError::Record("certificate"))?;
    if !certificate.names_crls() || !issuer.certificate()?.may_sign_crls() {
        let message = if profile.role == CertificateRole::Euicc {
            "an eUICC certificate names no revocation list, so nobody would notice: freeze the device instead"
        } else {
            "the certificate names no revocation list, so nobody would notice: suspend its holder instead"
        };
        return Err(CaError::refused(ReasonCode::PolicyViolation, message));
    }
    check_invalid_since(request, &certificate, now)?;
    let on_list = match listed.get(&issuer.name) {
        Some(count) => *count,
        None => {
            let mut count = 0;
            each_row(store, &issuer.name, |_, _| {
                count += 1;
                Ok(())
            })?;
            count
        }
    };
    listed.insert(issuer.name.clone(), on_list + usize::from(held.is_none()));
    if held.is_none() && on_list >= REVOCATIONS_MAX {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            format!(
                "issuer {} has revoked {REVOCATIONS_MAX} certificates, all that its list can hold",
                issuer.name
            ),
        ));
    }
    Ok(Revoking {
        key,
        record,
        version,
        serial: request.serial.clone(),
        revocation: Revocation { at, reason: request.reason },
        invalid_since: request.invalid_since,
        shard: certificate.crl_urls().iter().find_map(|url| match ListName::of_url(url)?.kind {
            ListKind::Shard(shard) => Some(shard),
            _ => None,
        }),
        expires_seconds: certificate.not_after().unix_seconds(),
        held,
    })
}

fn check_invalid_since(
    request: &RevocationRequest,
    certificate: &Certificate,
    now: Timestamp,
) -> Result<(), CaError> {
    let Some(since) = request.invalid_since else { return Ok(()) };
    let fits = CivilTime::from_timestamp(since).is_ok_and(|since| since >= certificate.not_before());
    if since > now || !fits {
        return Err(CaError::refused(
            ReasonCode::InvalidField,
            "the invalidity date lies between the certificate's beginning and now",
        ));
    }
    Ok(())
}

/// A hold by one person: as [`revoke`], for [`RevocationReason::CertificateHold`], while fewer than [`HOLDS_MAX`] certificates are held.
pub fn hold(
    engines: &Engines,
    serial: &SerialNumber,
    issuer: &str,
    now: Timestamp,
) -> Result<Revoking, CaError> {
    let request = RevocationRequest {
        serial: serial.clone(),
        issuer: issuer.to_owned(),
        reason: RevocationReason::CertificateHold,
        invalid_since: None,
    };
    let holding = revoke(engines, &request, now)?;
    if held_certificates(engines.store.as_ref())? >= HOLDS_MAX {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            format!("{HOLDS_MAX} certificates are held; release or revoke some first"),
        ));
    }
    Ok(holding)
}

fn held_certificates(store: &dyn Store) -> Result<usize, CaError> {
    let mut held = 0;
    for (name, _) in store.scan(ISSUERS, &[], None, 10_000)? {
        let name = String::from_utf8(name).map_err(|_| CaError::Record("issuer"))?;
        each_row(store, &name, |_, record| {
            held += usize::from(record.reason == RevocationReason::CertificateHold.as_str());
            Ok(())
        })?;
    }
    Ok(held)
}

/// A release that may be committed.
#[derive(Debug)]
pub struct Releasing {
    key: RegisterKey,
    record: records::Certificate,
    version: u64,
    index_version: u64,
    serial: SerialNumber,
}

/// Whether the certificate is held, and so can be released. Reads only.
pub fn release(engines: &Engines, serial: &SerialNumber, issuer: &str) -> Result<Releasing, CaError> {
    let store = engines.store.as_ref();
    let octets = serial.as_bytes();
    let Some(Registered { key, record, version }) = Registered::find(store, octets, issuer)? else {
        return Err(not_in_register(store, octets)?);
    };
    if revocation_of(&record)?.is_none_or(|revocation| revocation.reason.is_for_good()) {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            "the certificate is not held: only a hold can be released",
        ));
    }
    let index = store.get(REVOCATIONS, &index_key(&record.issuer, octets))?;
    let index_version = index.ok_or(CaError::Record("revocation"))?.version;
    Ok(Releasing { key, record, version, index_version, serial: serial.clone() })
}

impl Releasing {
    /// Whose certificate it is.
    pub fn holder(&self) -> &str {
        &self.record.subject
    }

    /// Entry, writes and preconditions. Once durable the certificate is in force again; the next list does not show it.
    pub fn outcome(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let serial = self.serial.as_bytes();
        let entry = about
            .draft(EventType::CertificateReleased, Outcome::Done)
            .fact("serial", serial_fact(&self.serial, about))
            .fact("certificate", Fact::Digest(digest(&self.record.der)));
        let certificate = records::Certificate {
            state: "issued".to_owned(),
            revoked_micros: 0,
            revocation_reason: String::new(),
            ..self.record.clone()
        };
        let key = index_key(&self.record.issuer, serial);
        let changes = vec![
            Change::put(CERTIFICATES, self.key.as_bytes(), certificate.encode_to_vec()),
            Change::delete(REVOCATIONS, key.clone()),
        ];
        let preconditions = vec![
            Precondition::Version {
                keyspace: CERTIFICATES,
                key: self.key.as_bytes().to_vec(),
                version: self.version,
            },
            Precondition::Version { keyspace: REVOCATIONS, key, version: self.index_version },
        ];
        (named(entry, &self.record), changes, preconditions)
    }
}

/// Issuer and profile of a certificate, as facts.
fn named(mut entry: EntryDraft, record: &records::Certificate) -> EntryDraft {
    for (name, text) in [("issuer", &record.issuer), ("profile", &record.profile)] {
        if let Ok(fact) = Fact::name(text) {
            entry = entry.fact(name, fact);
        }
    }
    entry
}

impl Revoking {
    /// The issuer whose next list shows it.
    pub fn issuer(&self) -> &str {
        &self.record.issuer
    }

    /// Whose certificate it is: a party's or person's name.
    pub fn holder(&self) -> &str {
        &self.record.subject
    }

    /// Its serial number.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// The profile of the certificate, by name.
    pub fn profile(&self) -> &str {
        &self.record.profile
    }

    /// Step 4: entry, writes and preconditions. Once durable the certificate is revoked, whatever becomes of the list.
    pub fn outcome(&self, about: &About) -> (EntryDraft, Vec<Change>, Vec<Precondition>) {
        let serial = self.serial.as_bytes();
        let Revocation { at, reason } = self.revocation;
        let event = match reason.is_for_good() {
            true => EventType::CertificateRevoked,
            false => EventType::CertificateHeld,
        };
        let mut entry = about
            .draft(event, Outcome::Done)
            .fact("serial", serial_fact(&self.serial, about))
            .fact("certificate", Fact::Digest(digest(&self.record.der)))
            .fact("revocation_reason", Fact::fixed_name(reason.as_str()));
        if let Some(since) = self.invalid_since {
            entry = entry.fact("invalid_since", Fact::Time(since));
        }
        let entry = named(entry, &self.record);
        let certificate = records::Certificate {
            state: "revoked".to_owned(),
            revoked_micros: at.micros(),
            revocation_reason: reason.as_str().to_owned(),
            ..self.record.clone()
        };
        let index = records::Revocation {
            version: 1,
            revoked_micros: at.micros(),
            reason: reason.as_str().to_owned(),
            invalid_since_micros: self.invalid_since.map_or(0, Timestamp::micros),
            shard: self.shard.map(|shard| shard.to_string()).unwrap_or_default(),
            expires_seconds: self.expires_seconds,
        };
        let key = index_key(&self.record.issuer, serial);
        let changes = vec![
            Change::put(CERTIFICATES, self.key.as_bytes(), certificate.encode_to_vec()),
            Change::put(REVOCATIONS, key.clone(), index.encode_to_vec()),
        ];
        let preconditions = vec![
            Precondition::Version {
                keyspace: CERTIFICATES,
                key: self.key.as_bytes().to_vec(),
                version: self.version,
            },
            match self.held {
                Some(version) => Precondition::Version { keyspace: REVOCATIONS, key, version },
                None => Precondition::Absent { keyspace: REVOCATIONS, key },
            },
        ];
        (entry, changes, preconditions)
    }
}

/// What stands in the way of a serial number that the register of certificates does not hold.
fn not_in_register(store: &dyn Store, serial: &[u8]) -> Result<CaError, CaError> {
    if store.get(RESERVATIONS, serial)?.is_some() {
        return Ok(CaError::refused(
            ReasonCode::Conflict,
            "the certificate is not issued yet; try again when it is, or has failed",
        ));
    }
    for (name, row) in store.scan(ISSUERS, &[], None, 10_000)? {
        let record = records::Issuer::decode(&*row.value).map_err(|_| CaError::Record("issuer"))?;
        let root =
            Certificate::from_der(&record.certificate).is_ok_and(|own| own.serial().as_bytes() == serial);
        if root {
            return Ok(CaError::refused(
                ReasonCode::PolicyViolation,
                format!(
                    "this is the root {}: no list can revoke it; relying parties must remove it from what they trust",
                    String::from_utf8_lossy(&name)
                ),
            ));
        }
    }
    Ok(CaError::refused(ReasonCode::UnknownCertificate, "no certificate has this serial number"))
}

/// Refuses an issuer whose own certificate is revoked; else gives what must hold still when the intent is committed.
pub(crate) fn in_good_standing(
    store: &dyn Store,
    name: &str,
    certificate: &Certificate,
    now: Timestamp,
) -> Result<Vec<Precondition>, CaError> {
    if let Some(imported) = Import::find(store, certificate)? {
        return imported.unrevoked(store, now)?.map_err(|why| {
            CaError::refused(ReasonCode::PolicyViolation, format!("the certificate of issuer {name}: {why}"))
        });
    }
    // The roots of the founding are in no register, and roots are on no list.
    let found = Registered::of_certificate(store, certificate)?;
    let Some(Registered { record, .. }) = found else { return Ok(Vec::new()) };
    if let Some(revocation) = revocation_of(&record)? {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            format!("the certificate of issuer {name} is revoked, for {}", revocation.reason),
        ));
    }
    let key = index_key(&record.issuer, &record.serial_number);
    Ok(vec![Precondition::Absent { keyspace: REVOCATIONS, key }])
}

/// What the rows of an issuer's lists say of a serial number.
pub(crate) fn listed(store: &dyn Store, issuer: &str, serial: &[u8]) -> Result<Option<Revocation>, CaError> {
    let Some(row) = store.get(REVOCATIONS, &index_key(issuer, serial))? else { return Ok(None) };
    let unreadable = || CaError::Record("revocation");
    let record = records::Revocation::decode(&*row.value).map_err(|_| unreadable())?;
    let reason = record.reason.parse().map_err(|_| unreadable())?;
    Ok(Some(Revocation { at: Timestamp::from_micros(record.revoked_micros), reason }))
}

/// The revocation in a certificate's record.
pub(crate) fn revocation_of(record: &records::Certificate) -> Result<Option<Revocation>, CaError> {
    if record.state != "revoked" {
        return Ok(None);
    }
    let reason = record.revocation_reason.parse().map_err(|_| CaError::Record("certificate"))?;
    Ok(Some(Revocation { at: Timestamp::from_micros(record.revoked_micros), reason }))
}

/// Every revoked certificate of an issuer, or of one of its shards, as the list shows them, and when each ends anyway.
pub(crate) fn revoked_by(
    store: &dyn Store,
    issuer: &str,
    shard: Option<Shard>,
) -> Result<Vec<RevokedCertificate>, CaError> {
    let mut revoked = Vec::new();
    each_revoked(store, issuer, |entry, of| {
        if shard.is_some() && of != shard {
            return Ok(());
        }
        // Too many must fail, never be left out. Revocations that were decided at the same time may exceed the bound a little.
        if revoked.len() == REVOCATIONS_MAX + ROOM {
            return Err(CaError::Record("revocation"));
        }
        revoked.push(entry);
        Ok(())
    })?;
    Ok(revoked)
}

/// Walks an issuer's index, in the order of the serial numbers' octets: each entry, and the shard whose list it names.
pub(crate) fn each_revoked(
    store: &dyn Store,
    issuer: &str,
    mut take: impl FnMut(RevokedCertificate, Option<Shard>) -> Result<(), CaError>,
) -> Result<(), CaError> {
    let unreadable = || CaError::Record("revocation");
    let civil = |at: Timestamp| CivilTime::from_timestamp(at).map_err(|_| unreadable());
    each_row(store, issuer, |serial, record| {
        let shard = match &record.shard[..] {
            "" => None,
            shard => Some(shard.parse().map_err(|()| unreadable())?),
        };
        let invalid_since = match record.invalid_since_micros {
            0 => None,
            micros => Some(civil(Timestamp::from_micros(micros))?),
        };
        let expires = match record.expires_seconds {
            0 => None,
            seconds => Some(civil(Timestamp::from_seconds(seconds))?),
        };
        let entry = RevokedCertificate {
            serial: SerialNumber::from_bytes(serial).map_err(|_| unreadable())?,
            revoked_at: civil(Timestamp::from_micros(record.revoked_micros))?,
            reason: record.reason.parse().map_err(|_| unreadable())?,
            invalid_since,
            expires,
        };
        take(entry, shard)
    })
}

fn each_row(
    store: &dyn Store,
    issuer: &str,
    mut take: impl FnMut(&[u8], records::Revocation) -> Result<(), CaError>,
) -> Result<(), CaError> {
    let prefix = index_prefix(issuer);
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(REVOCATIONS, &prefix, after.as_deref(), ROWS_PER_SCAN)?;
        let is_last = rows.len() < ROWS_PER_SCAN;
        for (key, row) in rows {
            let record =
                records::Revocation::decode(&*row.value).map_err(|_| CaError::Record("revocation"))?;
            take(&key[prefix.len()..], record)?;
            after = Some(key);
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Names of issuers hold no zero byte.
fn index_prefix(issuer: &str) -> Vec<u8> {
    [issuer.as_bytes(), &[0]].concat()
}

pub(crate) fn index_key(issuer: &str, serial: &[u8]) -> Vec<u8> {
    [issuer.as_bytes(), &[0], serial].concat()
}

fn digest(der: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(der).into()
}
