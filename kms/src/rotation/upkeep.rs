//! What happens without a caller: devices are collected, leases end, old keysets end, a roll back proceeds. Each step
//! is one commit that names where it stands, so a stop at any point is taken up where it was.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{Eid, KeyState, ReasonCode, Role, Timestamp};
use store::{Change, Commit, Store};

use super::lease::{drop_lease, queue_key, read_lease, reported, turned};
use super::plan::{candidates, examine};
use super::progress::{Failure, Item, ItemState, Rotation, RotationState, prefix};
use super::report::end_key;
use super::terms::RotationTerms;
use crate::Turns;
use crate::devices::{KeysetName, KeysetRecord};
use crate::keyspaces::{
    DEVICE_ROTATIONS, KEYSET_ENDS, KEYSETS, ROTATION_ITEMS, ROTATION_LEASES, ROTATION_QUEUE, ROTATIONS,
};
use crate::{Engines, KmsError};

/// Devices of one commit.
const DEVICES_PER_COMMIT: usize = 200;
/// Leases that a device gets before it has failed.
const LEASES_MAX: u32 = 3;
/// Rotations read at a time.
const ROTATIONS_PER_SCAN: usize = 100;
/// Commits that one rotation gets per tick, so that no rotation keeps the others waiting.
const COMMITS_PER_TICK: usize = 50;

/// The commit that starts an approved rotation.
pub fn start_rotation(
    store: &dyn Store,
    (role, actor): (Role, Pseudonym),
    operation: [u8; 32],
    terms: &RotationTerms,
    now: Timestamp,
) -> Result<Commit, KmsError> {
    check_start(store, terms)?;
    let rotation = Rotation::new(terms.clone(), now);
    let entry = EntryDraft::new(EventType::RotationStarted, Outcome::Done)
        .role(role)
        .actor(actor)
        .fact("operation", Fact::Digest(operation))
        .fact("rotation", Fact::Digest(terms.digest()))
        .fact("old_kvn", Fact::Number(u64::from(terms.from.kvn.value())))
        .fact("kvn", Fact::Number(u64::from(terms.to_kvn.value())))
        .fact("algorithm", crate::session_keys::algorithm_name(terms.to_algorithm));
    let (change, is_new) = rotation.put();
    Ok(Commit { entries: vec![entry], changes: vec![change], preconditions: vec![is_new] })
}

/// Whether a rotation of these terms can be started.
pub fn check_start(store: &dyn Store, terms: &RotationTerms) -> Result<(), KmsError> {
    match Rotation::read(store, &terms.name)? {
        Some(_) => Err(KmsError::refused(
            ReasonCode::Conflict,
            "a rotation of this name exists; choose another",
            None,
        )),
        None => Ok(()),
    }
}

/// The commit that begins an approved roll back.
pub fn roll_back_rotation(
    store: &dyn Store,
    (role, actor): (Role, Pseudonym),
    operation: [u8; 32],
    name: &str,
) -> Result<Commit, KmsError> {
    let mut rotation = check_roll_back(store, name)?;
    rotation.state = RotationState::RollingBack;
    rotation.record.cursor.clear();
    let entry = EntryDraft::new(EventType::RotationRollBackStarted, Outcome::Done)
        .role(role)
        .actor(actor)
        .fact("operation", Fact::Digest(operation))
        .fact("rotation", Fact::Digest(rotation.terms.digest()))
        .fact("devices", Fact::Number(rotation.devices()));
    let (change, unchanged) = rotation.put();
    Ok(Commit { entries: vec![entry], changes: vec![change], preconditions: vec![unchanged] })
}

/// Whether a rotation can be rolled back.
pub fn check_roll_back(store: &dyn Store, name: &str) -> Result<Rotation, KmsError> {
    let rotation = Rotation::find(store, name, None)?;
    match rotation.state {
        RotationState::Running | RotationState::Paused | RotationState::Halted | RotationState::Completed => {
            Ok(rotation)
        }
        RotationState::Preparing | RotationState::RollingBack | RotationState::RolledBack => {
            Err(KmsError::refused(
                ReasonCode::RotationNotRunning,
                format!("the rotation is {}", rotation.state.as_str()),
                None,
            ))
        }
    }
}

/// The commit that pauses or resumes a rotation; in its turn.
pub fn set_paused(
    rotation: &mut Rotation,
    paused: bool,
    (role, actor): (Role, Pseudonym),
    request_digest: [u8; 32],
) -> Result<Commit, KmsError> {
    let (event, state) = match (paused, rotation.state) {
        (true, RotationState::Running) => (EventType::RotationPaused, RotationState::Paused),
        (false, RotationState::Paused | RotationState::Halted) => {
            (EventType::RotationResumed, RotationState::Running)
        }
        (_, state) => {
            return Err(KmsError::refused(
                ReasonCode::RotationNotRunning,
                format!("the rotation is {}", state.as_str()),
                None,
            ));
        }
    };
    rotation.state = state;
    let mut entries = vec![
        EntryDraft::new(event, Outcome::Done)
            .role(role)
            .actor(actor)
            .request(request_digest)
            .fact("rotation", Fact::Digest(rotation.terms.digest()))
            .fact("confirmed", Fact::Number(rotation.confirmed()))
            .fact("failed", Fact::Number(rotation.failed())),
    ];
    // Everything may have ended while it stood still.
    rotation.advance();
    if rotation.state != state {
        entries.extend(turned(rotation));
    }
    let (change, unchanged) = rotation.put();
    Ok(Commit { entries, changes: vec![change], preconditions: vec![unchanged] })
}

/// One round of everything that is due. Errors leave what was done and are met again by the next round.
pub async fn upkeep(
    engines: &Engines,
    rotations: &Turns,
    pseudonyms: &Pseudonyms,
    now: Timestamp,
) -> Result<(), KmsError> {
    let store = engines.store.as_ref();
    let mut failed = Ok(());
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(ROTATIONS, &[], after.as_deref(), ROTATIONS_PER_SCAN)?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (name, row) in rows {
            // What is wrong with one rotation holds up neither the others nor the ends of keysets.
            if let Err(error) = proceed(engines, rotations, pseudonyms, &name, &row.value, now).await {
                failed = Err(error);
            }
        }
    }
    for _ in 0..COMMITS_PER_TICK {
        let Some(commit) = end_keysets(store, pseudonyms, now)? else { break };
        engines.store.commit(commit).await?;
    }
    failed
}

/// What is due of one rotation.
async fn proceed(
    engines: &Engines,
    rotations: &Turns,
    pseudonyms: &Pseudonyms,
    name: &[u8],
    row: &[u8],
    now: Timestamp,
) -> Result<(), KmsError> {
    let store = engines.store.as_ref();
    let name = std::str::from_utf8(name).map_err(|_| KmsError::Record("rotation"))?;
    // Most rotations are over: their terms, a thousand EIDs long, are not read each second.
    let state = RotationState::of_record(row)?;
    if !state.is_moving() && !is_lease_over(store, name, now)? {
        return Ok(());
    }
    for _ in 0..COMMITS_PER_TICK {
        let _turn = rotations.turn(name).await;
        let Some(current) = Rotation::read(store, name)? else { break };
        let step = match current.state {
            RotationState::Preparing => Some(prepare(store, current, now)?),
            RotationState::RollingBack => Some(take_back(store, pseudonyms, current, now)?),
            RotationState::Running
            | RotationState::Paused
            | RotationState::Halted
            | RotationState::Completed => end_lease(store, pseudonyms, current, now)?,
            RotationState::RolledBack => None,
        };
        let Some(commit) = step else { break };
        engines.store.commit(commit).await?;
    }
    Ok(())
}

fn is_lease_over(store: &dyn Store, rotation: &str, now: Timestamp) -> Result<bool, KmsError> {
    match store.scan(ROTATION_LEASES, &prefix(rotation), None, 1)?.pop() {
        Some((key, row)) => Ok(read_lease(rotation, &key, &row.value)?.ends <= now),
        None => Ok(false),
    }
}

/// 3. The next devices are taken in; after the last ones the rotation runs.
fn prepare(store: &dyn Store, mut rotation: Rotation, now: Timestamp) -> Result<Commit, KmsError> {
    let terms = rotation.terms.clone();
    let after = cursor(&rotation)?;
    let mut commit = Commit::default();
    let mut taken = 0;
    let found = candidates(store, &terms, after.as_ref())?;
    for (named, eid) in found.iter().take(DEVICES_PER_COMMIT) {
        rotation.record.cursor = eid.bcd().to_vec();
        if !named || examine(store, &terms, eid, now)?.is_some() {
            continue;
        }
        let rank = terms.rank(eid);
        let item = Item::new(terms.stage(rank), rank);
        rotation.record.stage_devices[item.stage as usize] += 1;
        *rotation.counter(ItemState::Pending) += 1;
        commit.changes.push(item.put(&terms.name, eid));
        commit.changes.push(Change::put(ROTATION_QUEUE, queue_key(&terms.name, rank, eid), Vec::new()));
        let of_device = [&eid.bcd()[..], terms.name.as_bytes()].concat();
        commit.changes.push(Change::put(DEVICE_ROTATIONS, of_device, Vec::new()));
        taken += 1;
    }
    let is_last = found.is_empty();
    if is_last {
        rotation.state = RotationState::Running;
        rotation.record.cursor.clear();
        // No device at all: nothing to do is done.
        rotation.advance();
    }
    commit.entries.push(
        EntryDraft::new(EventType::RotationPrepared, if is_last { Outcome::Done } else { Outcome::Intent })
            .fact("rotation", Fact::Digest(terms.digest()))
            .fact("count", Fact::Number(taken))
            .fact("devices", Fact::Number(rotation.devices())),
    );
    commit.entries.extend(turned(&rotation));
    let (change, unchanged) = rotation.put();
    commit.changes.push(change);
    commit.preconditions.push(unchanged);
    Ok(commit)
}

/// 10. A lease ended: who was not reported waits again, who reported check values and no proof has failed.
pub(crate) fn end_lease(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    mut rotation: Rotation,
    now: Timestamp,
) -> Result<Option<Commit>, KmsError> {
    let name = rotation.terms.name.clone();
    let Some((key, row)) = store.scan(ROTATION_LEASES, &prefix(&name), None, 1)?.pop() else {
        return Ok(None);
    };
    let lease = read_lease(&name, &key, &row.value)?;
    if lease.ends > now {
        return Ok(None);
    }
    let before = rotation.state;
    let mut commit = Commit::default();
    let mut waiting = 0;
    for eid in &lease.eids {
        let Some(item) = Item::read(store, &name, eid)? else { continue };
        if item.lease != Some(lease.id) {
            continue;
        }
        let state = match item.state {
            ItemState::Leased if !super::lease::is_ready(store, &rotation, eid, now)? => {
                ItemState::Failed(Failure::DeviceNotActive)
            }
            // A silent card must not hold up its stage for ever; its late proof still counts.
            ItemState::Leased if item.leases >= LEASES_MAX => ItemState::Failed(Failure::ProofMissing),
            ItemState::Leased => ItemState::Pending,
            ItemState::Loaded => ItemState::Failed(Failure::ProofMissing),
            _ => continue,
        };
        if state == ItemState::Pending {
            commit.changes.push(Change::put(ROTATION_QUEUE, queue_key(&name, item.rank, eid), Vec::new()));
            waiting += 1;
        } else {
            commit.entries.push(reported(&rotation, pseudonyms, eid, state));
        }
        rotation.count(&item, state);
        commit.changes.push(Item { state, lease: None, ..item }.put(&name, eid));
    }
    commit.entries.push(
        EntryDraft::new(EventType::RotationLeaseEnded, Outcome::Done)
            .fact("rotation", Fact::Digest(rotation.terms.digest()))
            .fact("lease", Fact::bytes(&lease.id).map_err(|_| KmsError::Record("lease"))?)
            .fact("devices", Fact::Number(waiting)),
    );
    commit.changes.extend(drop_lease(&name, lease.ends, &lease.id));
    rotation.advance();
    if rotation.state != before {
        commit.entries.extend(turned(&rotation));
    }
    let (change, unchanged) = rotation.put();
    commit.changes.push(change);
    commit.preconditions.push(unchanged);
    Ok(Some(commit))
}

/// 11. Keysets whose end has come are deactivated; one that was never used is destroyed.
fn end_keysets(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    now: Timestamp,
) -> Result<Option<Commit>, KmsError> {
    let mut commit = Commit::default();
    for (key, _) in store.scan(KEYSET_ENDS, &[], None, DEVICES_PER_COMMIT)? {
        let (ends, eid, name) = read_end(&key)?;
        if ends > now {
            break;
        }
        commit.changes.push(Change::delete(KEYSET_ENDS, key));
        let Some(mut keyset) = KeysetRecord::read(store, &eid, &name)? else { continue };
        let next = match keyset.state {
            KeyState::Active => KeyState::Deactivated,
            KeyState::PreActivation => KeyState::Destroyed,
            _ => continue,
        };
        if keyset.ends != Some(ends) {
            continue;
        }
        commit.preconditions.push(keyset.unchanged(&eid, &name));
        keyset.state = next;
        commit.changes.push(Change::put(KEYSETS, name.row_key(&eid), keyset.encode()));
        commit.entries.push(keyset_entry(pseudonyms, &eid, &name, next));
    }
    if commit.changes.is_empty() {
        return Ok(None);
    }
    if commit.entries.is_empty() {
        commit.entries.push(
            EntryDraft::new(EventType::KeysetDeactivated, Outcome::Done).fact("count", Fact::Number(0)),
        );
    }
    Ok(Some(commit))
}

/// 12. The next devices go back to their old keysets.
pub(crate) fn take_back(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    mut rotation: Rotation,
    now: Timestamp,
) -> Result<Commit, KmsError> {
    let terms = rotation.terms.clone();
    let mut commit = Commit::default();
    let after = cursor(&rotation)?.map(|eid| Item::key(&terms.name, eid.bcd()));
    let rows = store.scan(ROTATION_ITEMS, &prefix(&terms.name), after.as_deref(), DEVICES_PER_COMMIT)?;
    let mut is_last = rows.is_empty();
    for (key, row) in rows {
        let eid = <[u8; 16]>::try_from(&key[terms.name.len() + 1..])
            .ok()
            .and_then(|bcd| Eid::from_bcd(bcd).ok())
            .ok_or(KmsError::Record("rotation item"))?;
        let item = Item::decode(&row.value, row.version)?;
        rotation.record.cursor = eid.bcd().to_vec();
        if item.state == ItemState::Pending {
            commit.changes.push(Change::delete(ROTATION_QUEUE, queue_key(&terms.name, item.rank, &eid)));
        }
        let state = take_back_device(store, pseudonyms, &terms, &eid, &item, now, &mut commit)?;
        rotation.count(&item, state);
        commit.changes.push(Item { state, lease: None, ..item }.put(&terms.name, &eid));
    }
    if is_last {
        // All devices are back; so are leases, before it is over.
        for (key, row) in store.scan(ROTATION_LEASES, &prefix(&terms.name), None, DEVICES_PER_COMMIT)? {
            let lease = read_lease(&terms.name, &key, &row.value)?;
            commit.changes.extend(drop_lease(&terms.name, lease.ends, &lease.id));
            is_last = false;
        }
    }
    if is_last {
        rotation.state = RotationState::RolledBack;
        rotation.record.cursor.clear();
        commit.entries.push(
            EntryDraft::new(EventType::RotationRolledBack, Outcome::Done)
                .fact("rotation", Fact::Digest(terms.digest()))
                .fact("devices", Fact::Number(rotation.record.rolled_back))
                .fact("kept", Fact::Number(rotation.record.kept)),
        );
    } else if commit.entries.is_empty() {
        commit.entries.push(
            EntryDraft::new(EventType::RotationRolledBack, Outcome::Intent)
                .fact("rotation", Fact::Digest(terms.digest()))
                .fact("devices", Fact::Number(rotation.record.rolled_back)),
        );
    }
    let (change, unchanged) = rotation.put();
    commit.changes.push(change);
    commit.preconditions.push(unchanged);
    Ok(commit)
}

fn take_back_device(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    terms: &RotationTerms,
    eid: &Eid,
    item: &Item,
    now: Timestamp,
    commit: &mut Commit,
) -> Result<ItemState, KmsError> {
    let (from, to) = (terms.from, terms.to());
    if item.state == ItemState::Confirmed {
        let old = KeysetRecord::read(store, eid, &from)?;
        let Some(mut old) = old.filter(|old| old.state_at(now).releases_session_keys()) else {
            return Ok(ItemState::Kept);
        };
        commit.preconditions.push(old.unchanged(eid, &from));
        if let Some(ends) = old.ends.take() {
            commit.changes.push(Change::delete(KEYSET_ENDS, end_key(ends, &from.row_key(eid))));
        }
        commit.changes.push(Change::put(KEYSETS, from.row_key(eid), old.encode()));
    }
    if let Some(mut new) = KeysetRecord::read(store, eid, &to)? {
        // The card may hold the new keys; we never use them again, and their key version number neither.
        let next = match new.state {
            KeyState::Active => KeyState::Deactivated,
            KeyState::PreActivation => KeyState::Destroyed,
            _ => return Ok(ItemState::RolledBack),
        };
        commit.preconditions.push(new.unchanged(eid, &to));
        new.state = next;
        new.rotation = None;
        commit.changes.push(Change::put(KEYSETS, to.row_key(eid), new.encode()));
        commit.entries.push(keyset_entry(pseudonyms, eid, &to, next));
    }
    Ok(ItemState::RolledBack)
}

fn keyset_entry(pseudonyms: &Pseudonyms, eid: &Eid, name: &KeysetName, state: KeyState) -> EntryDraft {
    EntryDraft::new(EventType::KeysetDeactivated, Outcome::Done)
        .object(pseudonyms.device(eid))
        .fact("kvn", Fact::Number(u64::from(name.kvn.value())))
        .fact("state", Fact::fixed_name(state.as_str()))
}

fn read_end(key: &[u8]) -> Result<(Timestamp, Eid, KeysetName), KmsError> {
    let unreadable = || KmsError::Record("keyset end");
    let (ends, rest) = key.split_at_checked(8).ok_or_else(unreadable)?;
    let (eid, name) = rest.split_at_checked(16).ok_or_else(unreadable)?;
    let ends = Timestamp::from_micros(i64::from_be_bytes(ends.try_into().map_err(|_| unreadable())?));
    let eid =
        <[u8; 16]>::try_from(eid).ok().and_then(|bcd| Eid::from_bcd(bcd).ok()).ok_or_else(unreadable)?;
    Ok((ends, eid, KeysetName::of_codes(name).ok_or_else(unreadable)?))
}

fn cursor(rotation: &Rotation) -> Result<Option<Eid>, KmsError> {
    match rotation.record.cursor.as_slice() {
        [] => Ok(None),
        bytes => <[u8; 16]>::try_from(bytes)
            .ok()
            .and_then(|bcd| Eid::from_bcd(bcd).ok())
            .map(Some)
            .ok_or(KmsError::Record("rotation")),
    }
}

/// The rotations that a device is or was part of, each with the device's state there.
pub fn device_rotations(store: &dyn Store, eid: &Eid) -> Result<Vec<(String, ItemState)>, KmsError> {
    let mut list = Vec::new();
    for name in super::plan::rotations_of(store, eid)? {
        if let Some(item) = Item::read(store, &name, eid)? {
            list.push((name, item.state));
        }
    }
    Ok(list)
}
