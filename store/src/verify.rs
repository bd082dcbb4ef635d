//! Comparing the view to the log.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use audit::sha256;

use crate::{StoreError, log_store::Shared, walk::Walker};

/// Problems listed by key at most; the rest is only counted.
pub(crate) const PROBLEMS_LISTED_MAX: usize = 100;

/// What a comparison of the view to the log found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ViewReport {
    /// Rows the log calls for, in view and memory keyspaces.
    pub rows: u64,
    /// Rows that are not as the log says.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<RowProblem>,
}

impl ViewReport {
    /// Whether every row is as the log says.
    pub fn is_sound(&self) -> bool {
        self.problem_count == 0
    }
}

/// One row that is not as the log says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowProblem {
    /// The name of its keyspace.
    pub keyspace: &'static str,
    /// Its key.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub kind: RowProblemKind,
}

/// What is wrong with a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowProblemKind {
    /// Its HMAC is wrong, or the value in the log that it points at.
    WrongHmac,
    /// It is authentic, but not the row the log has last: an older or a different one.
    NotTheLatest,
    /// The log has it, the view does not.
    Missing,
    /// The view has it, the log does not, or has deleted it.
    Surplus,
}

/// Version and digest of a value: enough to compare rows without holding them.
type Print = (u64, [u8; 32]);

pub(crate) fn verify_view(shared: &Shared) -> Result<ViewReport, StoreError> {
    let published = || {
        let _whole = shared.applying.lock().unwrap_or_else(PoisonError::into_inner);
        shared.published.read().unwrap_or_else(PoisonError::into_inner).batch
    };
    let mut expected: HashMap<Vec<u8>, Print> = HashMap::new();
    let mut walker = Walker::new(&*shared.disk, &shared.log_mac, &shared.identity)?;
    walker.run_to(published(), |batch, place| {
        let parsed = batch.each_change(|change| {
            let key = full_key(change.code, change.key);
            match change.value {
                Some(value) => expected.insert(key, (change.version, sha256(value))),
                None => expected.remove(&key),
            };
            Ok(())
        })?;
        parsed.then_some(()).ok_or_else(|| StoreError::Tampered {
            place: crate::segment::segment_file(place.segment),
            what: "a state section does not parse",
        })
    })?;

    let rows = expected.len() as u64;
    let mut problems = Vec::new();
    let mut compare = |key: &[u8], found: Option<Print>| {
        let kind = match (expected.remove(key), found) {
            (_, None) => RowProblemKind::WrongHmac,
            (None, Some(_)) => RowProblemKind::Surplus,
            (Some(print), Some(found)) if print != found => RowProblemKind::NotTheLatest,
            (Some(_), Some(_)) => return,
        };
        problems.push((key.to_vec(), kind));
    };
    shared.view.each_row(|key, row| {
        compare(key, row.map(|row| (row.version, sha256(&row.value))));
    })?;
    shared.memory.each_row(|code, key, row| {
        compare(&full_key(code, key), Some((row.version, sha256(&row.value))));
    });
    problems.extend(expected.into_keys().map(|key| (key, RowProblemKind::Missing)));

    // Commits went on meanwhile: what they touched cannot be judged by this pass.
    let mut touched = HashSet::new();
    walker.run_to(published(), |batch, _| {
        batch
            .each_change(|change| {
                touched.insert(full_key(change.code, change.key));
                Ok(())
            })
            .map(|_| ())
    })?;
    problems.retain(|(key, _)| !touched.contains(key));
    problems.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    let problem_count = problems.len() as u64;
    let named = problems.into_iter().take(PROBLEMS_LISTED_MAX).map(|(key, kind)| RowProblem {
        keyspace: shared.keyspaces.name(key[0]),
        key: key[1..].to_vec(),
        kind,
    });
    Ok(ViewReport { rows, problem_count, problems: named.collect() })
}

pub(crate) fn full_key(code: u8, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(code);
    out.extend_from_slice(key);
    out
}
