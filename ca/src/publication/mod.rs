//! Revocation lists: the steps 5 to 10 of `docs/cycles/revocation.md`.

mod name;
mod prepare;
mod sign;

use std::collections::{BTreeMap, BTreeSet};

use domain::Timestamp;
use hsm::CallOptions;
use pki::crl::RevokedCertificate;
use pki::{Certificate, CivilTime};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::Store;

use crate::keyspaces::{CRL_PARTS, CRLS, ISSUERS};
use crate::revocation::each_revoked;
use crate::{CaError, Engines};

pub use name::{CRL_DISTRIBUTION_POINTS, CRL_PATH, ListKind, ListName, Shard};
pub use prepare::{PreparedCrl, ReservedCrl, prepare_crl};
pub use sign::{SignedCrl, sign_crl};

/// Days from thisUpdate to nextUpdate: how long a relying party may rely on a list.
pub const CRL_VALIDITY_DAYS: u32 = 7;
/// A list older than this is replaced: half its validity, so that a fault leaves days to mend it.
pub const CRL_REFRESH_AFTER_SECONDS: i64 = CRL_VALIDITY_DAYS as i64 * 86_400 / 2;
/// Shards of an issuer.
pub const CRL_SHARDS_MAX: u16 = 256;

const ISSUERS_MAX: usize = 10_000;
/// Lists of an issuer that are looked at: shards of several numbers of them, and parts.
const LISTS_MAX: usize = 10_000;
/// Bytes of a list in one row: below what the store takes.
const PART_BYTES: usize = 60 * 1024;

/// Entries of a full list that is made in parts too: both fit one commit of the store. A longer one comes without parts.
const PARTS_ENTRIES_MAX: u64 = 75_000;

/// Which lists are made beside the full ones.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListPolicy {
    /// Delta lists, which full lists name (freshestCRL).
    pub delta: bool,
    /// So many shards for certificates issued from now on, at most [`CRL_SHARDS_MAX`]; 0: they name the full list.
    pub shards: u16,
    /// Partial lists of SGP.22 v2 with so many entries each; 0: none.
    pub part_entries: u32,
}

impl ListPolicy {
    /// Whether a full list of so many entries comes in parts too.
    fn has_parts(self, entries: u64) -> bool {
        self.part_entries > 0 && entries <= PARTS_ENTRIES_MAX
    }
}

/// The newest list of a name.
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

/// Why a new list is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DueReason {
    /// There is none yet.
    None,
    /// A revocation, hold or release is not on the newest one: the service stopped between the two, or the token failed.
    Revocation,
    /// The newest one is past half of its validity.
    Age,
}

/// A list that is needed anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// Which; a full list brings its delta list and its parts with it.
    pub list: ListName,
    /// Why.
    pub reason: DueReason,
}

/// Certificate issuers (CI) and the CAs of SGP.22 v3 sign lists, and their certificates say where. Manufacturers of v2 may not sign any; the
/// operator's root may, but what it issues names none: its credentials end by suspension.
fn publishes(issuer: &Certificate) -> bool {
    issuer.may_sign_crls() && issuer.names_crls()
}

/// The newest list of a name, as it was signed, verified and stored; absent when there is none.
pub fn newest_crl(store: &dyn Store, list: &ListName) -> Result<Option<PublishedCrl>, CaError> {
    let Some((record, _)) = stored(store, list)? else { return Ok(None) };
    // The bytes of a base are those of the full list of that number.
    let full = ListName::full(&list.issuer);
    let bytes_of = if list.kind == ListKind::Base { &full } else { list };
    let mut der = Vec::new();
    for at in 0..record.parts {
        let at = u16::try_from(at).map_err(|_| CaError::Record("revocation list"))?;
        let part = store.get(CRL_PARTS, &part_key(bytes_of, record.number, at))?;
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

/// The lists that are needed anew now, of the issuers whose certificate lets them sign lists and names some.
pub fn crls_due(engines: &Engines, now: Timestamp) -> Result<Vec<Due>, CaError> {
    let store = engines.store.as_ref();
    let mut due = Vec::new();
    for (name, _) in store.scan(ISSUERS, &[], None, ISSUERS_MAX)? {
        let name = String::from_utf8(name).map_err(|_| CaError::Record("issuer"))?;
        let issuer = engines.issuers.find(store, &name)?;
        if !issuer.certificate.as_ref().is_some_and(publishes) {
            continue;
        }
        let full = ListName::full(&name);
        let mut says: BTreeMap<ListName, EntriesDigest> = BTreeMap::new();
        for list in shards(engines, &full)? {
            says.insert(list, EntriesDigest::default());
        }
        says.insert(full.clone(), EntriesDigest::default());
        each_revoked(store, &name, |entry, shard| {
            let of_shard = shard.map(|shard| full.with(ListKind::Shard(shard)));
            for list in [Some(full.clone()), of_shard].into_iter().flatten() {
                says.entry(list).or_default().take(&entry);
            }
            Ok(())
        })?;
        for (list, says) in says {
            let reason = match stored(store, &list)? {
                None => DueReason::None,
                Some((crl, _)) if crl.entries_digest != says.finish() => DueReason::Revocation,
                Some((crl, _)) => {
                    let made = Timestamp::from_micros(crl.this_update_micros);
                    let is_old = now >= made.plus_seconds(CRL_REFRESH_AFTER_SECONDS);
                    let differs = list == full && differs_from_policy(engines, &full, crl.entries)?;
                    match (is_old, differs) {
                        (true, _) => DueReason::Age,
                        (false, true) => DueReason::None,
                        (false, false) => continue,
                    }
                }
            };
            due.push(Due { list, reason });
        }
    }
    Ok(due)
}

/// The shards of an issuer: those of certificates from now on, and those that certificates of before name.
fn shards(engines: &Engines, full: &ListName) -> Result<BTreeSet<ListName>, CaError> {
    let mut families = BTreeSet::new();
    if engines.lists.shards > 0 {
        families.insert(engines.lists.shards);
    }
    for (list, _) in lists_of(engines.store.as_ref(), full)? {
        if let ListKind::Shard(shard) = list.kind {
            families.insert(shard.of);
        }
    }
    let all = families.into_iter().flat_map(|of| (0..of).map(move |index| Shard { index, of }));
    Ok(all.map(|shard| full.with(ListKind::Shard(shard))).collect())
}

/// Whether what a full list brings with it is other than what the policy says now.
fn differs_from_policy(engines: &Engines, full: &ListName, entries: u64) -> Result<bool, CaError> {
    let policy = engines.lists;
    let is_there = |kind| Ok::<_, CaError>(stored(engines.store.as_ref(), &full.with(kind))?.is_some());
    Ok(is_there(ListKind::Delta)? != policy.delta
        || is_there(ListKind::Part(1))? != policy.has_parts(entries))
}

/// Every list of the issuer of `full` that is stored, with its record's version.
fn lists_of(store: &dyn Store, full: &ListName) -> Result<Vec<(ListName, u64)>, CaError> {
    let prefix = format!("{}~", full.issuer);
    let rows = store.scan(CRLS, prefix.as_bytes(), None, LISTS_MAX)?;
    let named = rows
        .into_iter()
        .filter_map(|(key, row)| Some((ListName::of_key(std::str::from_utf8(&key).ok()?)?, row.version)));
    Ok(named.collect())
}

/// Makes and stores a new list, and what it brings with it: [`prepare_crl`], intent, [`sign_crl`], outcome. What is returned is
/// durable and may be served.
///
/// One at a time in this process; with several, the one whose number was taken last wins and the other gets
/// `CommitError::PreconditionFailed`. A list that cannot be signed leaves `crl.failed`, and stays due.
pub async fn publish_crl(
    engines: &Engines,
    list: &ListName,
    now: Timestamp,
    options: CallOptions,
) -> Result<PublishedCrl, CaError> {
    let _turn = engines.issuers.publication.lock().await;
    // A long list takes seconds to build and lint: not on a thread that answers requests.
    let (of, name) = (engines.clone(), list.clone());
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
                tracing::warn!(%error, %list, "the failure of a revocation list is not recorded yet");
            }
            return Err(error);
        }
    };
    engines.store.commit(signed.outcome()).await?;
    signed.into_published()
}

/// The rows of a list's bytes carry its number, so that those of one that is being made are none of the one that is served.
fn part_key(list: &ListName, number: u64, part: u16) -> Vec<u8> {
    [list.key().as_bytes(), &[0], &number.to_be_bytes(), &part.to_be_bytes()].concat()
}

/// What a list says of its certificates.
#[derive(Default)]
struct EntriesDigest(Sha256);

impl EntriesDigest {
    fn take(&mut self, entry: &RevokedCertificate) {
        let serial = entry.serial.as_bytes();
        self.0.update([serial.len() as u8]);
        self.0.update(serial);
        self.0.update(entry.revoked_at.unix_seconds().to_be_bytes());
        self.0.update([entry.reason.code()]);
        self.0.update(entry.invalid_since.map_or(i64::MIN, CivilTime::unix_seconds).to_be_bytes());
    }

    fn finish(self) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

/// Version of the records that are read; one of another is none.
const RECORD_VERSION: u32 = 2;

/// The record of a list, and its version.
fn stored(store: &dyn Store, list: &ListName) -> Result<Option<(records::CrlRecord, u64)>, CaError> {
    let Some(row) = store.get(CRLS, list.key().as_bytes())? else { return Ok(None) };
    let record = records::CrlRecord::decode(&*row.value).map_err(|_| CaError::Record("revocation list"))?;
    Ok((record.version == RECORD_VERSION).then_some((record, row.version)))
}
