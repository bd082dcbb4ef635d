//! Steps 8 to 10: the token signs the linted bytes, other code reads and verifies, and the lists become the newest.

use std::sync::Arc;

use audit::{EventType, Fact, Outcome};
use domain::{ReasonCode, Timestamp};
use hsm::{CallOptions, Signature};
use pki::crl::Crl;
use pki::{CivilTime, PkiError};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition};

use super::prepare::{PreparedCrl, PreparedList, ReservedCrl, entry, numbers};
use super::{ListKind, ListName, PART_BYTES, PublishedCrl, RECORD_VERSION, part_key};
use crate::issuers::Issuer;
use crate::keyspaces::{CRL_PARTS, CRLS};
use crate::{CaError, Engines};

/// Lists that were signed and verified; not yet durable, so they must not be served.
pub struct SignedCrl {
    issuer: Arc<Issuer>,
    number: u64,
    lists: Vec<SignedList>,
    base: Option<u64>,
    cleared: Vec<Change>,
    this_update: CivilTime,
    next_update: CivilTime,
    preconditions: Vec<Precondition>,
}

struct SignedList {
    name: ListName,
    crl: Crl,
    entries: u64,
    entries_digest: Vec<u8>,
}

/// Steps 8 and 9. A failure comes with the commit that records it.
pub async fn sign_crl(
    engines: &Engines,
    reserved: ReservedCrl,
    options: CallOptions,
) -> Result<SignedCrl, (CaError, Commit)> {
    let ReservedCrl { prepared, numbers: precondition } = reserved;
    let (issuer, number, main) = (Arc::clone(&prepared.issuer), prepared.number(), prepared.main().clone());
    let failure = |error: CaError, reason: ReasonCode| {
        let commit = Commit {
            entries: vec![entry(EventType::CrlFailed, Outcome::Failed(reason), &main, number)],
            changes: vec![numbers(&main, number, 0)],
            preconditions: vec![precondition.clone()],
        };
        (error, commit)
    };
    let digests: Vec<_> = prepared.lists.iter().map(|list| list.linted.digest()).collect();
    let signatures = engines
        .token
        .sign(&issuer.key, &digests, options)
        .await
        .map_err(|error| failure(error.into(), ReasonCode::TokenUnavailable))?;
    let PreparedCrl { lists, base, this_update, next_update, cleared, .. } = prepared;
    let mut preconditions = vec![precondition.clone()];
    preconditions.extend(lists.iter().map(|list| list.newest.clone()));
    let base = base.map(|(number, newest)| {
        preconditions.push(newest);
        number
    });
    let of = Arc::clone(&issuer);
    let assembled = tokio::task::spawn_blocking(move || {
        if signatures.len() != lists.len() {
            return Err(PkiError::SignatureInvalid);
        }
        lists.into_iter().zip(signatures).map(|(list, signature)| assemble(list, &signature, &of)).collect()
    });
    let assembled: Result<Vec<_>, _> = assembled.await.unwrap_or(Err(PkiError::SignatureInvalid));
    match assembled {
        Ok(lists) => {
            Ok(SignedCrl { issuer, number, lists, base, cleared, this_update, next_update, preconditions })
        }
        Err(error) => Err(failure(CaError::Verification(error), ReasonCode::Internal)),
    }
}

fn assemble(list: PreparedList, signature: &Signature, issuer: &Issuer) -> Result<SignedList, PkiError> {
    let certificate = issuer.certificate.as_ref().ok_or(PkiError::CrlIssuerDiffers)?;
    let crl = list.linted.assemble(signature, certificate)?;
    Ok(SignedList { name: list.name, crl, entries: list.entries, entries_digest: list.entries_digest })
}

impl SignedCrl {
    /// Step 10: the outcome. Once durable, these are the newest lists, all at once. It happens only when no number was taken since
    /// their own and the newest lists are still the ones before them, so numbers of stored lists strictly increase.
    pub fn outcome(&self) -> Commit {
        let mut changes = self.cleared.clone();
        let mut entries = Vec::with_capacity(self.lists.len());
        for list in &self.lists {
            changes.push(Change::put(CRLS, list.name.key().into_bytes(), self.record(list).encode_to_vec()));
            for (at, part) in (0u16..).zip(list.crl.der().chunks(PART_BYTES)) {
                changes.push(Change::put(CRL_PARTS, part_key(&list.name, self.number, at), part));
            }
            entries.push(
                entry(EventType::CrlSigned, Outcome::Done, &list.name, self.number)
                    .fact("crl", Fact::Digest(list.crl.digest()))
                    .fact("count", Fact::Number(list.entries))
                    .fact("expires", Fact::Time(timestamp(self.next_update))),
            );
        }
        let main = &self.lists[0];
        if self.base.is_some() {
            // The bytes of the base are those of the full list, which stay as long as it is the base.
            let key = main.name.with(ListKind::Base).key().into_bytes();
            changes.push(Change::put(CRLS, key, self.record(main).encode_to_vec()));
        }
        changes.push(numbers(&main.name, self.number, 0));
        Commit { entries, changes, preconditions: self.preconditions.clone() }
    }

    fn record(&self, list: &SignedList) -> records::CrlRecord {
        records::CrlRecord {
            version: RECORD_VERSION,
            issuer: self.issuer.name.clone(),
            number: self.number,
            this_update_micros: timestamp(self.this_update).micros(),
            next_update_micros: timestamp(self.next_update).micros(),
            entries: list.entries,
            entries_digest: list.entries_digest.clone(),
            parts: u32::try_from(list.crl.der().len().div_ceil(PART_BYTES)).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn into_published(self) -> Result<PublishedCrl, CaError> {
        let main = self.lists.into_iter().next().ok_or(CaError::Record("revocation list"))?;
        Ok(PublishedCrl {
            number: self.number,
            this_update: timestamp(self.this_update),
            next_update: timestamp(self.next_update),
            entries: main.entries,
            der: main.crl.der().to_vec(),
        })
    }
}

fn timestamp(time: CivilTime) -> Timestamp {
    Timestamp::from_seconds(time.unix_seconds())
}
