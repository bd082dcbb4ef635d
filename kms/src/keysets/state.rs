//! States of a keyset that persons change: suspended at once by one, everything else by an approved operation.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{Eid, KeyState, ReasonCode, Role, Timestamp};
use store::{Change, Commit, Store};

use super::named;
use super::taint::{Consequence, Taint, spread, taint, tainted_entry};
use crate::KmsError;
use crate::devices::{KeysetName, KeysetRecord};
use crate::keyspaces::KEYSETS;

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The device.
    pub eid: Eid,
    /// Its keyset.
    pub keyset: KeysetName,
    /// The state it shall have: active (again), deactivated, compromised or destroyed.
    pub to: KeyState,
    /// What becomes of keysets that were delivered under it, where it is compromised.
    pub consequence: Consequence,
}

/// The commit that suspends an active keyset: one person is enough. Each release names the version of the keyset's row, so
/// nothing of it is released behind this entry.
pub fn suspend(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    (role, actor): (Role, Pseudonym),
    (eid, name): (&Eid, &KeysetName),
    request_digest: [u8; 32],
    now: Timestamp,
) -> Result<Commit, KmsError> {
    let object = pseudonyms.device(eid);
    let mut keyset = find(store, eid, name, Some(object))?;
    let state = keyset.state_at(now);
    if !state.may_become(KeyState::Suspended) {
        return Err(KmsError::refused(
            ReasonCode::KeysetNotActive,
            format!("the keyset is {}; only an active one is suspended", state.as_str()),
            Some(object),
        ));
    }
    let unchanged = keyset.unchanged(eid, name);
    keyset.state = KeyState::Suspended;
    let entry = EntryDraft::new(EventType::KeysetSuspended, Outcome::Done)
        .role(role)
        .actor(actor)
        .object(object)
        .request(request_digest)
        .fact("state", Fact::fixed_name(keyset.state.as_str()));
    Ok(Commit {
        entries: vec![named(entry, name)],
        changes: vec![Change::put(KEYSETS, name.row_key(eid), keyset.encode())],
        preconditions: vec![unchanged],
    })
}

/// Whether a keyset can be moved to that state: before and at the execution of the operation.
pub fn check_change(store: &dyn Store, change: &StateChange, now: Timestamp) -> Result<(), KmsError> {
    checked(store, change, None, now).map(drop)
}

fn checked(
    store: &dyn Store,
    change: &StateChange,
    object: Option<Pseudonym>,
    now: Timestamp,
) -> Result<KeysetRecord, KmsError> {
    let keyset = find(store, &change.eid, &change.keyset, object)?;
    let state = keyset.state_at(now);
    let refuse = |why: String| Err(KmsError::refused(ReasonCode::PolicyViolation, why, object));
    match change.to {
        // Only a card's proof activates a keyset the first time.
        KeyState::Active if state != KeyState::Suspended => {
            return refuse(format!(
                "the keyset is {}; only a suspended one is taken up again",
                state.as_str()
            ));
        }
        KeyState::Active if keyset.taint.is_some() => {
            return refuse("a key behind this keyset is compromised; it is not taken up again".to_owned());
        }
        KeyState::PreActivation | KeyState::Suspended => {
            return refuse(
                "an operation moves a keyset to active, deactivated, compromised or destroyed".to_owned(),
            );
        }
        KeyState::Active | KeyState::Deactivated | KeyState::Compromised | KeyState::Destroyed => {}
    }
    if !state.may_become(change.to) {
        return refuse(format!("a keyset that is {} does not become {}", state.as_str(), change.to.as_str()));
    }
    if keyset.rotation.is_some() && change.to != KeyState::Compromised {
        return refuse("the keyset waits for its card in a rotation; roll that back first".to_owned());
    }
    Ok(keyset)
}

/// The commit that moves a keyset; `operation` is the digest of the approved operation. A compromised one taints every
/// keyset of the device that was delivered under it, in the same commit.
pub fn change(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    (role, actor): (Role, Pseudonym),
    operation: [u8; 32],
    change: &StateChange,
    now: Timestamp,
) -> Result<Commit, KmsError> {
    let (eid, name) = (&change.eid, &change.keyset);
    let object = pseudonyms.device(eid);
    let mut keyset = checked(store, change, Some(object), now)?;
    let unchanged = keyset.unchanged(eid, name);
    keyset.state = change.to;
    let entry = EntryDraft::new(EventType::KeysetStateChanged, Outcome::Done)
        .role(role)
        .actor(actor)
        .object(object)
        .fact("operation", Fact::Digest(operation))
        .fact("state", Fact::fixed_name(change.to.as_str()));
    let mut commit =
        Commit { entries: vec![named(entry, name)], changes: Vec::new(), preconditions: vec![unchanged] };
    if change.to == KeyState::Compromised {
        let by = Taint { operation, time: now };
        taint(&mut keyset, by, Consequence::Compromised);
        let mut all = KeysetRecord::of_device(store, eid)?;
        let own = all.iter().position(|(other, _)| other == name).into_iter().collect::<Vec<_>>();
        for at in spread(&mut all, &own, by, change.consequence) {
            let (name, keyset) = &all[at];
            commit.preconditions.push(keyset.unchanged(eid, name));
            commit.changes.push(Change::put(KEYSETS, name.row_key(eid), keyset.encode()));
            commit.entries.push(tainted_entry(pseudonyms, eid, name, keyset, by));
        }
    }
    commit.changes.push(Change::put(KEYSETS, name.row_key(eid), keyset.encode()));
    Ok(commit)
}

fn find(
    store: &dyn Store,
    eid: &Eid,
    name: &KeysetName,
    object: Option<Pseudonym>,
) -> Result<KeysetRecord, KmsError> {
    KeysetRecord::read(store, eid, name)?
        .ok_or_else(|| KmsError::refused(ReasonCode::UnknownKeyset, "the device has no such keyset", object))
}
