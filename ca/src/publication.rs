//! Revocation lists: the steps 5 to 10 of `docs/cycles/revocation.md`.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{ReasonCode, Timestamp};
use hsm::{CallOptions, SignatureAlgorithm};
use pki::crl::{Crl, CrlInputs, LintedTbsCertList, RevokedCertificate};
use pki::{Certificate, CivilTime, PkiError};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store};

use crate::issuers::Issuer;
use crate::keyspaces::{CRL_NUMBERS, CRL_PARTS, CRLS, ISSUERS};
use crate::revocation::revoked_by;
use crate::{CaError, Engines};

/// Days from thisUpdate to nextUpdate: how long a relying party may rely on a list.
pub const CRL_VALIDITY_DAYS: u32 = 7;
/// A list older than this is replaced: half its validity, so that a fault leaves days to mend it.
pub const CRL_REFRESH_AFTER_SECONDS: i64 = CRL_VALIDITY_DAYS as i64 * 86_400 / 2;
/// The path under which lists are served, and which certificates name.
pub const CRL_PATH: &str = "/crl/";
/// Distribution points of an issuer; each serves the same list.
pub const CRL_DISTRIBUTION_POINTS: [&str; 2] = ["a", "b"];

const ISSUERS_MAX: usize = 10_000;
/// Bytes of a list in one row: below what the store takes.
const PART_BYTES: usize = 60 * 1024;

/// The file names of an issuer's lists below [`CRL_PATH`], one per distribution point.
pub fn crl_files(issuer: &str) -> [String; 2] {
    CRL_DISTRIBUTION_POINTS.map(|point| format!("{issuer}-{point}.crl"))
}

/// The issuer whose list a file below [`CRL_PATH`] is; there may be no such issuer.
pub fn crl_file_issuer(file: &str) -> Option<&str> {
    CRL_DISTRIBUTION_POINTS.iter().find_map(|point| {
        file.strip_suffix(".crl")?.strip_suffix(point)?.strip_suffix('-').filter(|issuer| !issuer.is_empty())
    })
}

/// The newest list of an issuer.
#[derive(Clone, Debug)]
pub struct PublishedCrl {
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub this_update: Timestamp,
    /// When the next one is out at the latest.
    pub next_update: Timestamp,
    /// Revoked certificates on it.
    pub entries: u64,
    /// DER.
    pub der: Vec<u8>,
}

/// Why an issuer needs a new list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DueReason {
    /// There is none yet.
    None,
    /// A revocation, hold or release is not on the newest one: the service stopped between the two, or the token failed.
    Revocation,
    /// The newest one is past half of its validity.
    Age,
}

/// An issuer that needs a new list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// The issuer.
    pub issuer: String,
    /// Why.
    pub reason: DueReason,
}

/// Certificate issuers (CI) and the CAs of SGP.22 v3 sign lists, and their certificates say where. Manufacturers of v2 may not sign any; the
/// operator's root may, but what it issues names none: its credentials end by suspension.
fn publishes(issuer: &Certificate) -> bool {
    issuer.may_sign_crls() && issuer.names_crls()
}

/// The newest list of an issuer, as it was signed, verified and stored; absent when there is none.
pub fn newest_crl(store: &dyn Store, issuer: &str) -> Result<Option<PublishedCrl>, CaError> {
    let Some((record, _)) = stored(store, issuer)? else { return Ok(None) };
    let mut der = record.der;
    for at in 0..record.parts {
        let at = u16::try_from(at).map_err(|_| CaError::Record("revocation list"))?;
        let part = store.get(CRL_PARTS, &part_key(issuer, at))?;
        der.extend_from_slice(&part.ok_or(CaError::Record("revocation list"))?.value);
    }
    Ok(Some(PublishedCrl {
        number: record.number,
        this_update: Timestamp::from_micros(record.this_update_micros),
        next_update: Timestamp::from_micros(record.next_update_micros),
        entries: record.entries,
        der,
    }))
}

/// The issuers that need a new list now, among those whose certificate lets them sign lists and names some.
pub fn crls_due(engines: &Engines, now: Timestamp) -> Result<Vec<Due>, CaError> {
    let store = engines.store.as_ref();
    let mut due = Vec::new();
    for (name, _) in store.scan(ISSUERS, &[], None, ISSUERS_MAX)? {
        let name = String::from_utf8(name).map_err(|_| CaError::Record("issuer"))?;
        let issuer = engines.issuers.find(store, &name)?;
        if !issuer.certificate.as_ref().is_some_and(publishes) {
            continue;
        }
        let revoked = revoked_by(store, &name)?;
        let reason = match stored(store, &name)? {
            None => DueReason::None,
            Some((crl, _)) if crl.entries_digest != entries_digest(&revoked) => DueReason::Revocation,
            Some((crl, _)) => {
                let made = Timestamp::from_micros(crl.this_update_micros);
                if now < made.plus_seconds(CRL_REFRESH_AFTER_SECONDS) {
                    continue;
                }
                DueReason::Age
            }
        };
        due.push(Due { issuer: name, reason });
    }
    Ok(due)
}

/// Makes and stores a new list of an issuer: [`prepare_crl`], intent, [`sign_crl`], outcome. What is returned is durable and may
/// be served.
///
/// One list at a time in this process; with several, the one whose number was taken last wins and the other gets
/// `CommitError::PreconditionFailed`. A list that cannot be signed leaves `crl.failed`, and the issuer stays due.
pub async fn publish_crl(
    engines: &Engines,
    issuer: &str,
    now: Timestamp,
    options: CallOptions,
) -> Result<PublishedCrl, CaError> {
    let _turn = engines.issuers.publication.lock().await;
    // A long list takes seconds to build and lint: not on a thread that answers requests.
    let (of, name) = (engines.clone(), issuer.to_owned());
    let prepared = tokio::task::spawn_blocking(move || prepare_crl(&of, &name, now))
        .await
        .map_err(|_| CaError::Record("revocation list"))??;
    let receipt = engines.store.commit(prepared.intent()).await?;
    let reserved = prepared.reserved(receipt.first_index);
    let signed = match sign_crl(engines, reserved, options).await {
        Ok(signed) => signed,
        Err((error, failure)) => {
            // Should this fail too, the next list's intent says it.
            if let Err(error) = engines.store.commit(failure).await {
                tracing::warn!(%error, issuer, "the failure of a revocation list is not recorded yet");
            }
            return Err(error);
        }
    };
    engines.store.commit(signed.outcome()).await?;
    Ok(signed.into_published())
}

/// A list whose exact bytes passed the lint; its number is not taken yet.
pub struct PreparedCrl {
    issuer: Arc<Issuer>,
    linted: LintedTbsCertList,
    entries: u64,
    entries_digest: [u8; 32],
    /// Parts of the newest list, which this one takes the place of.
    parts_before: u32,
    this_update: CivilTime,
    next_update: CivilTime,
    /// The number that a stop or a fault left between intent and outcome.
    abandoned: Option<u64>,
    numbers: Precondition,
    newest: Precondition,
}

/// Steps 5 and 6: number, values, bytes, lint. Reads only.
pub fn prepare_crl(engines: &Engines, issuer: &str, now: Timestamp) -> Result<PreparedCrl, CaError> {
    let store = engines.store.as_ref();
    let issuer = engines.issuers.find(store, issuer)?;
    let certificate = issuer.certificate()?;
    if !publishes(certificate) {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            format!("issuer {} publishes no revocation lists", issuer.name),
        ));
    }
    let key = issuer.name.as_bytes().to_vec();
    let (taken, numbers) = match store.get(CRL_NUMBERS, &key)? {
        Some(row) => (
            records::CrlNumber::decode(&*row.value).map_err(|_| CaError::Record("list number"))?,
            Precondition::Version { keyspace: CRL_NUMBERS, key: key.clone(), version: row.version },
        ),
        None => (
            records::CrlNumber { version: 1, last: 0, open: 0 },
            Precondition::Absent { keyspace: CRL_NUMBERS, key: key.clone() },
        ),
    };
    let stored = stored(store, &issuer.name)?;
    let newest_number = stored.as_ref().map_or(0, |(record, _)| record.number);
    let number = taken.last.max(newest_number).checked_add(1).ok_or(CaError::Record("list number"))?;

    let revoked = revoked_by(store, &issuer.name)?;
    let build_error = |e: PkiError| CaError::refused(ReasonCode::InvalidField, e.to_string());
    // A clock that was set back makes no list older than the one before, or than what it lists.
    let mut this_update = CivilTime::from_timestamp(now).map_err(build_error)?;
    for at in revoked.iter().map(|entry| entry.revoked_at) {
        this_update = this_update.max(at);
    }
    if let Some((record, _)) = &stored {
        let before = Timestamp::from_micros(record.this_update_micros);
        this_update = this_update.max(CivilTime::from_timestamp(before).map_err(build_error)?);
    }
    let next_update = this_update.plus_days(CRL_VALIDITY_DAYS).map_err(build_error)?;
    let (entries, entries_digest) = (revoked.len() as u64, entries_digest(&revoked));
    let inputs = CrlInputs { issuer: certificate, number, this_update, next_update, revoked };
    let tbs = pki::crl::build_tbs(&inputs).map_err(build_error)?;
    let linted =
        pki::crl::lint(&inputs, tbs).map_err(|e| CaError::refused(ReasonCode::LintFailed, e.to_string()))?;
    let parts_before = stored.as_ref().map_or(0, |(record, _)| record.parts);
    let newest = match stored {
        Some((_, version)) => Precondition::Version { keyspace: CRLS, key, version },
        None => Precondition::Absent { keyspace: CRLS, key },
    };
    Ok(PreparedCrl {
        linted,
        entries,
        entries_digest,
        parts_before,
        this_update,
        next_update,
        abandoned: (taken.open != 0).then_some(taken.open),
        numbers,
        newest,
        issuer,
    })
}

impl PreparedCrl {
    /// The number that the intent takes.
    pub const fn number(&self) -> u64 {
        self.linted.number()
    }

    /// Step 7: the intent. Durable before the token is asked; the number is taken for ever. It also marks as failed the list
    /// that a stop left without outcome.
    pub fn intent(&self) -> Commit {
        let mut entries = vec![
            entry(EventType::CrlIntent, Outcome::Intent, &self.issuer, self.number())
                .fact("tbs", Fact::Digest(self.linted.digest()))
                .fact("count", Fact::Number(self.entries)),
        ];
        if let Some(abandoned) = self.abandoned {
            let outcome = Outcome::Failed(ReasonCode::ShuttingDown);
            entries.push(entry(EventType::CrlFailed, outcome, &self.issuer, abandoned));
        }
        Commit {
            entries,
            changes: vec![numbers(&self.issuer, self.number(), self.number())],
            preconditions: vec![self.numbers.clone()],
        }
    }

    /// The list once its intent was committed at `version`.
    pub fn reserved(self, version: u64) -> ReservedCrl {
        let key = self.issuer.name.as_bytes().to_vec();
        let numbers = Precondition::Version { keyspace: CRL_NUMBERS, key, version };
        ReservedCrl { prepared: self, numbers }
    }
}

/// A list whose number is taken and whose bytes may be signed.
pub struct ReservedCrl {
    prepared: PreparedCrl,
    // Nobody has taken a number since.
    numbers: Precondition,
}

/// A list that was signed and verified; not yet durable, so it must not be served.
pub struct SignedCrl {
    issuer: Arc<Issuer>,
    crl: Crl,
    number: u64,
    entries: u64,
    entries_digest: [u8; 32],
    parts_before: u32,
    this_update: CivilTime,
    next_update: CivilTime,
    preconditions: Vec<Precondition>,
}

/// Steps 8 and 9: the token signs the linted bytes, other code reads and verifies the list. A failure comes with the commit that
/// records it.
pub async fn sign_crl(
    engines: &Engines,
    reserved: ReservedCrl,
    options: CallOptions,
) -> Result<SignedCrl, (CaError, Commit)> {
    let ReservedCrl { prepared, numbers: precondition } = reserved;
    let (issuer, number) = (Arc::clone(&prepared.issuer), prepared.number());
    let failure = |error: CaError, reason: ReasonCode| {
        let commit = Commit {
            entries: vec![entry(EventType::CrlFailed, Outcome::Failed(reason), &issuer, number)],
            changes: vec![numbers(&issuer, number, 0)],
            preconditions: vec![precondition.clone()],
        };
        (error, commit)
    };
    let digests = vec![prepared.linted.digest().to_vec()];
    let signatures = engines
        .token
        .sign(&issuer.key, SignatureAlgorithm::EcdsaSha256, digests, options)
        .await
        .map_err(|error| failure(error.into(), ReasonCode::TokenUnavailable))?;
    let signature = signatures.first().and_then(|signature| <[u8; 64]>::try_from(signature.as_slice()).ok());
    let (linted, of) = (prepared.linted, Arc::clone(&issuer));
    let assembled = tokio::task::spawn_blocking(move || {
        let certificate = of.certificate.as_ref().ok_or(PkiError::CrlIssuerDiffers)?;
        linted.assemble(&signature.ok_or(PkiError::SignatureInvalid)?, certificate)
    });
    let assembled = assembled.await.unwrap_or(Err(PkiError::SignatureInvalid));
    match assembled {
        Ok(crl) => Ok(SignedCrl {
            crl,
            number,
            entries: prepared.entries,
            entries_digest: prepared.entries_digest,
            parts_before: prepared.parts_before,
            this_update: prepared.this_update,
            next_update: prepared.next_update,
            preconditions: vec![precondition, prepared.newest],
            issuer,
        }),
        Err(error) => Err(failure(CaError::Verification(error), ReasonCode::Internal)),
    }
}

impl SignedCrl {
    /// Step 10: the outcome. Once durable, this is the newest list. It happens only when no number was taken since its own and
    /// the newest list is still the one before it, so numbers of stored lists strictly increase.
    pub fn outcome(&self) -> Commit {
        let record = records::CrlRecord {
            version: 1,
            issuer: self.issuer.name.clone(),
            number: self.number,
            this_update_micros: timestamp(self.this_update).micros(),
            next_update_micros: timestamp(self.next_update).micros(),
            der: Vec::new(),
            entries: self.entries,
            entries_digest: self.entries_digest.to_vec(),
            parts: u32::try_from(self.crl.der().len().div_ceil(PART_BYTES)).unwrap_or(u32::MAX),
        };
        let mut changes = vec![
            Change::put(CRLS, self.issuer.name.as_bytes(), record.encode_to_vec()),
            numbers(&self.issuer, self.number, 0),
        ];
        for (at, part) in (0u16..).zip(self.crl.der().chunks(PART_BYTES)) {
            changes.push(Change::put(CRL_PARTS, part_key(&self.issuer.name, at), part));
        }
        // What a longer list before it left behind.
        for at in record.parts..self.parts_before {
            let at = u16::try_from(at).unwrap_or(u16::MAX);
            changes.push(Change::delete(CRL_PARTS, part_key(&self.issuer.name, at)));
        }
        Commit {
            entries: vec![
                entry(EventType::CrlSigned, Outcome::Done, &self.issuer, self.number)
                    .fact("crl", Fact::Digest(self.crl.digest()))
                    .fact("count", Fact::Number(self.entries))
                    .fact("expires", Fact::Time(timestamp(self.next_update))),
            ],
            changes,
            preconditions: self.preconditions.clone(),
        }
    }

    fn into_published(self) -> PublishedCrl {
        PublishedCrl {
            number: self.number,
            this_update: timestamp(self.this_update),
            next_update: timestamp(self.next_update),
            entries: self.entries,
            der: self.crl.der().to_vec(),
        }
    }
}

fn part_key(issuer: &str, part: u16) -> Vec<u8> {
    [issuer.as_bytes(), &[0], &part.to_be_bytes()].concat()
}

/// What a list says of its certificates. One of before this was recorded has none, and is followed by another.
fn entries_digest(revoked: &[RevokedCertificate]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for entry in revoked {
        let serial = entry.serial.as_bytes();
        hasher.update([serial.len() as u8]);
        hasher.update(serial);
        hasher.update(entry.revoked_at.unix_seconds().to_be_bytes());
        hasher.update([entry.reason.code()]);
        hasher.update(entry.invalid_since.map_or(i64::MIN, CivilTime::unix_seconds).to_be_bytes());
    }
    hasher.finalize().into()
}

fn stored(store: &dyn Store, issuer: &str) -> Result<Option<(records::CrlRecord, u64)>, CaError> {
    let Some(row) = store.get(CRLS, issuer.as_bytes())? else { return Ok(None) };
    let record = records::CrlRecord::decode(&*row.value).map_err(|_| CaError::Record("revocation list"))?;
    Ok(Some((record, row.version)))
}

fn numbers(issuer: &Issuer, last: u64, open: u64) -> Change {
    let record = records::CrlNumber { version: 1, last, open };
    Change::put(CRL_NUMBERS, issuer.name.as_bytes(), record.encode_to_vec())
}

/// An entry of the service's own doing: nobody else acts.
fn entry(event: EventType, outcome: Outcome, issuer: &Issuer, number: u64) -> EntryDraft {
    let entry = EntryDraft::new(event, outcome).fact("number", Fact::Number(number));
    match Fact::name(&issuer.name) {
        Ok(name) => entry.fact("issuer", name),
        Err(_) => entry,
    }
}

fn timestamp(time: CivilTime) -> Timestamp {
    Timestamp::from_seconds(time.unix_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_list_tells_its_issuer_and_nothing_else_does() {
        assert_eq!(crl_files("ci"), ["ci-a.crl", "ci-b.crl"]);
        for file in crl_files("north-sea-ci") {
            assert_eq!(crl_file_issuer(&file), Some("north-sea-ci"));
        }
        for file in ["", "-a.crl", "ci.crl", "ci-c.crl", "ci-a.crl.der", "ci-a", "a.crl"] {
            assert_eq!(crl_file_issuer(file), None, "{file}");
        }
    }
}
