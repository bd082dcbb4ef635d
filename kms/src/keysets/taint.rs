//! Taint: what a key that is known to others means for the keysets that were made from it or delivered under it. Each is
//! worth nothing from then on, and stays in use or not as the approved operation says.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{Eid, KeyState, Timestamp};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition, Row, Store};

use super::compromise::{Mark, Marks};
use super::named;
use crate::KmsError;
use crate::devices::{KeysetName, KeysetRecord};
use crate::keyspaces::{KEYSETS, TAINT_WALKS};

/// Rows that are read at a time. More than a device has.
const ROWS_PER_SCAN: usize = 1_000;
/// Rows that one commit looks at, at most.
const ROWS_PER_COMMIT: usize = 20_000;
/// Keysets that one commit taints; those of the last device may be more.
const TAINTED_PER_COMMIT: usize = 200;

/// What becomes of a tainted keyset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consequence {
    /// It is compromised: no session key of it leaves any more.
    Compromised,
    /// It keeps its state, so that its device can be reached and rotated.
    Flagged,
}

impl Consequence {
    /// The stable name used in entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compromised => "compromised",
            Self::Flagged => "flagged",
        }
    }
}

/// That a key behind a keyset is known to others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taint {
    /// Digest of the operation that said so.
    pub operation: [u8; 32],
    /// When.
    pub time: Timestamp,
}

/// Taints a keyset; whether it changed.
pub(super) fn taint(keyset: &mut KeysetRecord, taint: Taint, consequence: Consequence) -> bool {
    let mut changed = false;
    if keyset.state == KeyState::Destroyed {
        return false;
    }
    if keyset.taint.is_none() {
        keyset.taint = Some(taint);
        changed = true;
    }
    if keyset.effective_strength != 0 {
        keyset.effective_strength = 0;
        changed = true;
    }
    if consequence == Consequence::Compromised && keyset.state.may_become(KeyState::Compromised) {
        keyset.state = KeyState::Compromised;
        changed = true;
    }
    changed
}

/// Taints, among the keysets of one device, all that were delivered under those at `roots`, under these, and so on. Returns
/// the places of those that changed.
pub(super) fn spread(
    keysets: &mut [(KeysetName, KeysetRecord)],
    roots: &[usize],
    by: Taint,
    consequence: Consequence,
) -> Vec<usize> {
    let mut reached = roots.to_vec();
    let mut changed = Vec::new();
    let mut next = 0;
    while let Some(bad) = reached.get(next).map(|at| keysets[*at].0) {
        next += 1;
        for (at, (name, keyset)) in keysets.iter_mut().enumerate() {
            let is_under =
                name.with_kvn(bad.kvn) == bad && keyset.delivered_under == delivered_under_keyset(&bad);
            if is_under && !reached.contains(&at) {
                reached.push(at);
                if taint(keyset, by, consequence) {
                    changed.push(at);
                }
            }
        }
    }
    changed
}

/// How a keyset is named as the key that another one of the same domain and protocol was delivered under.
pub(crate) fn delivered_under_keyset(name: &KeysetName) -> String {
    format!("keyset/{}", name.kvn)
}

/// The entry of one tainted keyset.
pub(super) fn tainted_entry(
    pseudonyms: &Pseudonyms,
    eid: &Eid,
    name: &KeysetName,
    keyset: &KeysetRecord,
    by: Taint,
) -> EntryDraft {
    let entry = EntryDraft::new(EventType::KeysetTainted, Outcome::Done)
        .object(pseudonyms.device(eid))
        .fact("operation", Fact::Digest(by.operation))
        .fact("state", Fact::fixed_name(keyset.state.as_str()));
    named(entry, name)
}

/// The next step of writing down what marks mean, as one commit; `None` when nothing is left to be written. Stopped at any
/// point it goes on where it was. What it writes holds already: each read of a keyset looks at the marks too.
pub fn walk(store: &dyn Store, pseudonyms: &Pseudonyms) -> Result<Option<Commit>, KmsError> {
    let Some((key, row)) = store.scan(TAINT_WALKS, &[], None, 1)?.pop() else { return Ok(None) };
    let unreadable = || KmsError::Record("taint walk");
    let mut record = records::TaintWalk::decode(&*row.value).map_err(|_| unreadable())?;
    let operation: [u8; 32] = key.as_slice().try_into().map_err(|_| unreadable())?;
    let mark = Marks::find(store, &operation)?.ok_or_else(unreadable)?;
    let mut commit = Commit {
        preconditions: vec![Precondition::Version {
            keyspace: TAINT_WALKS,
            key: key.clone(),
            version: row.version,
        }],
        ..Commit::default()
    };
    let mut looked_at = 0;
    let ended = loop {
        let after = Some(record.cursor.as_slice()).filter(|cursor| !cursor.is_empty());
        let mut rows = store.scan(KEYSETS, &[], after, ROWS_PER_SCAN)?;
        let is_last = rows.len() < ROWS_PER_SCAN;
        if !is_last {
            // The last device's rows may go on in the next scan: it is looked at as a whole there.
            let last = rows[rows.len() - 1].0[..16].to_vec();
            rows.retain(|(key, _)| key[..16] != last);
        }
        looked_at += rows.len();
        for device in rows.chunk_by(|(a, _), (b, _)| a[..16] == b[..16]) {
            record.tainted += look_at(device, &operation, &mark, pseudonyms, &mut commit)?;
            if let Some((key, _)) = device.last() {
                record.cursor.clone_from(key);
            }
            if commit.entries.len() >= TAINTED_PER_COMMIT {
                break;
            }
        }
        if commit.entries.len() >= TAINTED_PER_COMMIT {
            break false;
        }
        if is_last {
            break true;
        }
        if looked_at >= ROWS_PER_COMMIT {
            break false;
        }
    };
    let outcome = if ended { Outcome::Done } else { Outcome::Intent };
    commit.entries.push(
        EntryDraft::new(EventType::KeysetTainted, outcome)
            .fact("operation", Fact::Digest(operation))
            .fact("count", Fact::Number(record.tainted)),
    );
    commit.changes.push(if ended {
        Change::delete(TAINT_WALKS, key)
    } else {
        Change::put(TAINT_WALKS, key, record.encode_to_vec())
    });
    Ok(Some(commit))
}

/// One device of a walk: how many of its keysets are tainted.
fn look_at(
    device: &[Row],
    operation: &[u8; 32],
    mark: &Mark,
    pseudonyms: &Pseudonyms,
    commit: &mut Commit,
) -> Result<u64, KmsError> {
    let unreadable = || KmsError::Record("keyset");
    let mut keysets = Vec::with_capacity(device.len());
    for (key, row) in device {
        let name = KeysetName::of_codes(&key[16..]).ok_or_else(unreadable)?;
        keysets.push((name, KeysetRecord::decode(row)?));
    }
    let by = Taint { operation: *operation, time: mark.time };
    let (mut roots, mut changed) = (Vec::new(), Vec::new());
    for (at, (_, keyset)) in keysets.iter_mut().enumerate() {
        if mark.is_behind(keyset) {
            roots.push(at);
            if taint(keyset, by, mark.consequence) {
                changed.push(at);
            }
        }
    }
    changed.extend(spread(&mut keysets, &roots, by, mark.consequence));
    if changed.is_empty() {
        return Ok(0);
    }
    let eid: [u8; 16] = device[0].0[..16].try_into().map_err(|_| unreadable())?;
    let eid = Eid::from_bcd(eid).map_err(|_| unreadable())?;
    for at in &changed {
        let (name, keyset) = &keysets[*at];
        commit.preconditions.push(keyset.unchanged(&eid, name));
        commit.changes.push(Change::put(KEYSETS, name.row_key(&eid), keyset.encode()));
        commit.entries.push(tainted_entry(pseudonyms, &eid, name, keyset, by));
    }
    Ok(changed.len() as u64)
}
