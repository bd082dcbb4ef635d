//! Steps 5 to 7: the values of a list and of what it brings with it, linted; the intent.

use std::collections::HashSet;
use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{ReasonCode, Timestamp};
use pki::crl::{Crl, CrlInputs, CrlScope, LintedTbsCertList, RemovedCertificate, RevokedCertificate};
use pki::{Certificate, CivilTime, PkiError};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition, Store};

use super::{
    CRL_REFRESH_AFTER_SECONDS, CRL_VALIDITY_DAYS, EntriesDigest, ListKind, ListName, lists_of, newest_crl,
    part_key, publishes, stored,
};
use crate::issuers::Issuer;
use crate::keyspaces::{CRL_NUMBERS, CRL_PARTS, CRLS};
use crate::revocation::revoked_by;
use crate::{CaError, Engines};

/// A delta list of more entries begins with a new base: it saves nobody anything.
const DELTA_ENTRIES_MAX: usize = 1_000;
/// Parts of a full list; with more entries each part is longer than the policy says.
const PARTS_MAX: usize = 256;

/// A list and what it brings with it, whose exact bytes passed the lint; its number is not taken yet.
pub struct PreparedCrl {
    pub(super) issuer: Arc<Issuer>,
    /// The list itself first.
    pub(super) lists: Vec<PreparedList>,
    /// Number of the full list that is the base of delta lists from now on, where that changes.
    pub(super) base: Option<(u64, Precondition)>,
    pub(super) this_update: CivilTime,
    pub(super) next_update: CivilTime,
    /// The number that a stop or a fault left between intent and outcome.
    abandoned: Option<u64>,
    /// What an outcome leaves behind: rows of the lists before.
    pub(super) cleared: Vec<Change>,
    numbers: Precondition,
}

pub(super) struct PreparedList {
    pub(super) name: ListName,
    pub(super) linted: LintedTbsCertList,
    pub(super) entries: u64,
    pub(super) entries_digest: Vec<u8>,
    pub(super) newest: Precondition,
}

/// What the lists of one number have in common.
struct Making<'a> {
    store: &'a dyn Store,
    issuer: &'a Certificate,
    number: u64,
    this_update: CivilTime,
    next_update: CivilTime,
}

/// Steps 5 and 6: number, values, bytes, lint. Reads only. A full list brings its delta list and its parts with it, as the policy
/// says; a shard comes alone.
pub fn prepare_crl(engines: &Engines, list: &ListName, now: Timestamp) -> Result<PreparedCrl, CaError> {
    let store = engines.store.as_ref();
    let issuer = engines.issuers.find(store, &list.issuer)?;
    let certificate = issuer.certificate()?;
    let shard = match list.kind {
        ListKind::Full => None,
        ListKind::Shard(shard) => Some(shard),
        ListKind::Delta | ListKind::Part(_) | ListKind::Base => {
            return Err(CaError::refused(
                ReasonCode::InvalidField,
                format!("{list} comes with its full list"),
            ));
        }
    };
    if !publishes(certificate) {
        return Err(CaError::refused(
            ReasonCode::PolicyViolation,
            format!("issuer {} publishes no revocation lists", issuer.name),
        ));
    }
    let key = list.key().into_bytes();
    let (taken, numbers) = match store.get(CRL_NUMBERS, &key)? {
        Some(row) => (
            records::CrlNumber::decode(&*row.value).map_err(|_| CaError::Record("list number"))?,
            Precondition::Version { keyspace: CRL_NUMBERS, key, version: row.version },
        ),
        None => (
            records::CrlNumber { version: 1, last: 0, open: 0 },
            Precondition::Absent { keyspace: CRL_NUMBERS, key },
        ),
    };
    let stored = stored(store, list)?;
    let newest_number = stored.as_ref().map_or(0, |(record, _)| record.number);
    let number = taken.last.max(newest_number).checked_add(1).ok_or(CaError::Record("list number"))?;

    let revoked = revoked_by(store, &issuer.name, shard)?;
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
    let making = Making { store, issuer: certificate, number, this_update, next_update };

    let mut lists = Vec::new();
    let mut base = None;
    match shard {
        Some(_) => {
            let scope =
                CrlScope { distribution_points: list.urls(&engines.crl_base_url), ..CrlScope::default() };
            lists.push(making.list(list.clone(), without_ends(&revoked), Vec::new(), scope)?);
        }
        None => {
            let delta = list.with(ListKind::Delta);
            let freshest = match engines.lists.delta {
                true => delta.urls(&engines.crl_base_url),
                false => Vec::new(),
            };
            let scope = CrlScope { freshest, ..CrlScope::default() };
            lists.push(making.list(list.clone(), without_ends(&revoked), Vec::new(), scope)?);
            if engines.lists.delta {
                let changes = making.changes(list, &revoked)?;
                let scope = CrlScope { base: Some(changes.base), ..CrlScope::default() };
                lists.push(making.list(delta, changes.revoked, changes.removed, scope)?);
                if changes.base == number {
                    base = Some((number, newest(store, &list.with(ListKind::Base))?));
                }
            }
            if engines.lists.has_parts(revoked.len() as u64) {
                lists.extend(making.parts(list, &revoked, engines.lists.part_entries)?);
            }
        }
    }
    let cleared = cleared(store, list, &lists, base.is_some(), engines.lists.delta)?;
    Ok(PreparedCrl {
        lists,
        base,
        this_update,
        next_update,
        abandoned: (taken.open != 0).then_some(taken.open),
        cleared,
        numbers,
        issuer,
    })
}

/// What has changed since a base.
struct Changes {
    base: u64,
    revoked: Vec<RevokedCertificate>,
    removed: Vec<RemovedCertificate>,
}

impl Making<'_> {
    fn list(
        &self,
        name: ListName,
        revoked: Vec<RevokedCertificate>,
        removed: Vec<RemovedCertificate>,
        scope: CrlScope,
    ) -> Result<PreparedList, CaError> {
        let mut digest = EntriesDigest::default();
        revoked.iter().for_each(|entry| digest.take(entry));
        let inputs = CrlInputs {
            issuer: self.issuer,
            number: self.number,
            this_update: self.this_update,
            next_update: self.next_update,
            revoked,
            removed,
            scope,
        };
        let tbs = pki::crl::build_tbs(&inputs).map_err(build_error)?;
        let linted = pki::crl::lint(&inputs, tbs)
            .map_err(|e| CaError::refused(ReasonCode::LintFailed, e.to_string()))?;
        Ok(PreparedList {
            linted,
            entries: (inputs.revoked.len() + inputs.removed.len()) as u64,
            entries_digest: digest.finish(),
            newest: newest(self.store, &name)?,
            name,
        })
    }

    /// What the delta list says: the difference between its base, as it was published, and what is revoked now. Where there is no
    /// base, or it is old, or far behind, the list that is being made is the new one.
    fn changes(&self, full: &ListName, revoked: &[RevokedCertificate]) -> Result<Changes, CaError> {
        let itself = Changes { base: self.number, revoked: Vec::new(), removed: Vec::new() };
        let Some((record, _)) = stored(self.store, &full.with(ListKind::Base))? else { return Ok(itself) };
        let made = Timestamp::from_micros(record.this_update_micros);
        if self.this_update.unix_seconds() >= made.plus_seconds(CRL_REFRESH_AFTER_SECONDS).seconds() {
            return Ok(itself);
        }
        let Some(list) = newest_crl(self.store, &full.with(ListKind::Base))? else { return Ok(itself) };
        let base = Crl::from_der(&list.der).map_err(CaError::Verification)?;
        let mut now: Vec<_> = without_ends(revoked);
        let revoked: HashSet<_> = revoked.iter().map(|entry| &entry.serial).collect();
        let removed: Vec<_> = base
            .revoked()
            .iter()
            .filter(|entry| !revoked.contains(&entry.serial))
            .map(|entry| RemovedCertificate { serial: entry.serial.clone(), revoked_at: entry.revoked_at })
            .collect();
        now.retain(|entry| base.find(&entry.serial) != Some(entry));
        if now.len() + removed.len() > DELTA_ENTRIES_MAX {
            return Ok(itself);
        }
        Ok(Changes { base: list.number, revoked: now, removed })
    }

    /// The full list in parts, each entry with the end of its certificate.
    fn parts(
        &self,
        full: &ListName,
        revoked: &[RevokedCertificate],
        entries: u32,
    ) -> Result<Vec<PreparedList>, CaError> {
        let entries = (entries as usize).max(revoked.len().div_ceil(PARTS_MAX)).max(1);
        let mut chunks: Vec<&[RevokedCertificate]> = revoked.chunks(entries).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let total = chunks.len() as u64;
        (1u16..)
            .zip(chunks)
            .map(|(part, chunk)| {
                let scope = CrlScope { part: Some((u64::from(part), total)), ..CrlScope::default() };
                self.list(full.with(ListKind::Part(part)), chunk.to_vec(), Vec::new(), scope)
            })
            .collect()
    }
}

fn without_ends(revoked: &[RevokedCertificate]) -> Vec<RevokedCertificate> {
    revoked.iter().map(|entry| RevokedCertificate { expires: None, ..entry.clone() }).collect()
}

/// That the newest list of this name is still the one that it is now.
fn newest(store: &dyn Store, list: &ListName) -> Result<Precondition, CaError> {
    let key = list.key().into_bytes();
    Ok(match store.get(CRLS, &key)? {
        Some(row) => Precondition::Version { keyspace: CRLS, key, version: row.version },
        None => Precondition::Absent { keyspace: CRLS, key },
    })
}

/// The rows that are of no use once `made` are the newest: bytes of the lists before, but for the base of the delta list, and lists
/// that the policy makes no more.
fn cleared(
    store: &dyn Store,
    main: &ListName,
    made: &[PreparedList],
    is_new_base: bool,
    has_base: bool,
) -> Result<Vec<Change>, CaError> {
    let mut changes = Vec::new();
    let base = match (is_new_base, has_base) {
        (false, true) => stored(store, &main.with(ListKind::Base))?.map(|(record, _)| record.number),
        _ => None,
    };
    let mut clear = |list: &ListName, keep: Option<u64>| -> Result<(), CaError> {
        let prefix = [list.key().as_bytes(), &[0]].concat();
        for (key, _) in store.scan(CRL_PARTS, &prefix, None, super::LISTS_MAX)? {
            let is_kept =
                keep.is_some_and(|number| key.starts_with(&part_key(list, number, 0)[..prefix.len() + 8]));
            if !is_kept {
                changes.push(Change::delete(CRL_PARTS, key));
            }
        }
        Ok(())
    };
    for list in made {
        clear(&list.name, base.filter(|_| list.name.kind == ListKind::Full))?;
    }
    if main.kind != ListKind::Full {
        return Ok(changes);
    }
    let mut gone = Vec::new();
    for (list, _) in lists_of(store, main)? {
        let is_of_full = matches!(list.kind, ListKind::Delta | ListKind::Base | ListKind::Part(_));
        let stays = made.iter().any(|made| made.name == list) || (list.kind == ListKind::Base && has_base);
        if is_of_full && !stays {
            clear(&list, None)?;
            gone.push(Change::delete(CRLS, list.key().into_bytes()));
        }
    }
    changes.extend(gone);
    Ok(changes)
}

impl PreparedCrl {
    /// The list itself.
    pub(super) fn main(&self) -> &ListName {
        &self.lists[0].name
    }

    /// The number that the intent takes.
    pub fn number(&self) -> u64 {
        self.lists[0].linted.number()
    }

    /// Step 7: the intent. Durable before the token is asked; the number is taken for ever. It also marks as failed the list
    /// that a stop left without outcome.
    pub fn intent(&self) -> Commit {
        let mut entries: Vec<_> = self
            .lists
            .iter()
            .map(|list| {
                entry(EventType::CrlIntent, Outcome::Intent, &list.name, self.number())
                    .fact("tbs", Fact::Digest(list.linted.sha256()))
                    .fact("count", Fact::Number(list.entries))
            })
            .collect();
        if let Some(abandoned) = self.abandoned {
            let outcome = Outcome::Failed(ReasonCode::ShuttingDown);
            entries.push(entry(EventType::CrlFailed, outcome, self.main(), abandoned));
        }
        Commit {
            entries,
            changes: vec![numbers(self.main(), self.number(), self.number())],
            preconditions: vec![self.numbers.clone()],
        }
    }

    /// The list once its intent was committed at `version`.
    pub fn reserved(self, version: u64) -> ReservedCrl {
        let key = self.main().key().into_bytes();
        let numbers = Precondition::Version { keyspace: CRL_NUMBERS, key, version };
        ReservedCrl { prepared: self, numbers }
    }
}

/// A list whose number is taken and whose bytes may be signed.
pub struct ReservedCrl {
    pub(super) prepared: PreparedCrl,
    // Nobody has taken a number since.
    pub(super) numbers: Precondition,
}

pub(super) fn numbers(list: &ListName, last: u64, open: u64) -> Change {
    let record = records::CrlNumber { version: 1, last, open };
    Change::put(CRL_NUMBERS, list.key().into_bytes(), record.encode_to_vec())
}

/// An entry of the service's own doing: nobody else acts.
pub(super) fn entry(event: EventType, outcome: Outcome, list: &ListName, number: u64) -> EntryDraft {
    let mut entry = EntryDraft::new(event, outcome).fact("number", Fact::Number(number));
    if let Ok(issuer) = Fact::name(&list.issuer) {
        entry = entry.fact("issuer", issuer);
    }
    match (list.kind, Fact::name(&list.kind.to_string())) {
        (ListKind::Full, _) | (_, Err(_)) => entry,
        (_, Ok(kind)) => entry.fact("list", kind),
    }
}

fn build_error(error: PkiError) -> CaError {
    CaError::refused(ReasonCode::InvalidField, error.to_string())
}
