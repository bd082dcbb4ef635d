//! Freeze and restore of a device: the steps of `docs/cycles/freeze.md`. Each release names the version of the device's
//! row as a precondition, so the log's order decides: behind a freeze no release is ever committed. That a device is
//! frozen stands in memory, rebuilt from the verified log, so an edited or older row of the view changes nothing.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{DeviceState, Eid, FreezeReason, ReasonCode, Role, Timestamp};
use store::{Change, Commit, Store};

use crate::devices::{DeviceRecord, Freeze};
use crate::keyspaces::{DEVICES, FROZEN};
use crate::{KmsError, deny_list};

/// Longest reference of a report, in characters.
const REFERENCE_CHARACTERS_MAX: usize = 100;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct FreezeRequest {
    /// The device.
    pub eid: Eid,
    /// Why.
    pub reason: FreezeReason,
    /// The report it rests on: 1 to 100 printable characters; stays out of the entries.
    pub reference: String,
    /// The person who acts, in which role, and its pseudonym.
    pub person: String,
    /// See [`Self::person`].
    pub role: Role,
    /// See [`Self::person`].
    pub actor: Pseudonym,
    /// SHA-256 of the request.
    pub request_digest: [u8; 32],
}

/// The commit that freezes a device. Refused for an unknown, frozen or retired one.
pub fn freeze(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    request: &FreezeRequest,
    now: Timestamp,
) -> Result<Commit, KmsError> {
    let object = pseudonyms.device(&request.eid);
    let characters = request.reference.chars().count();
    if characters == 0
        || characters > REFERENCE_CHARACTERS_MAX
        || request.reference.chars().any(char::is_control)
    {
        return Err(KmsError::refused(
            ReasonCode::InvalidField,
            format!("reference has 1 to {REFERENCE_CHARACTERS_MAX} printable characters"),
            Some(object),
        ));
    }
    let (mut device, state) = registered(store, &request.eid, object)?;
    if let Some(freeze) = &device.freeze {
        return Err(KmsError::refused(
            ReasonCode::DeviceNotActive,
            format!("the device is frozen already, since {}", freeze.time),
            Some(object),
        ));
    }
    if state == DeviceState::Retired {
        return Err(KmsError::refused(ReasonCode::DeviceNotActive, "the device is retired", Some(object)));
    }
    let unchanged = device.unchanged(&request.eid);
    device.state = Some(DeviceState::Frozen);
    let freeze = Freeze {
        reason: request.reason,
        reference: request.reference.clone(),
        person: request.person.clone(),
        time: now,
        state_before: state,
    };
    let entry = EntryDraft::new(EventType::DeviceFrozen, Outcome::Done)
        .role(request.role)
        .actor(request.actor)
        .object(object)
        .request(request.request_digest)
        .fact("kind", Fact::fixed_name(request.reason.as_str()));
    Ok(Commit {
        entries: vec![entry],
        changes: vec![
            Change::put(FROZEN, *request.eid.bcd(), freeze.encode()),
            deny_list::no_thaw(&request.eid),
            // Its version is what every release names.
            Change::put(DEVICES, *request.eid.bcd(), device.encode(&request.eid)),
        ],
        preconditions: vec![unchanged],
    })
}

/// Whether a device can be restored: the check before and at the execution of the operation.
pub fn check_restore(store: &dyn Store, eid: &Eid) -> Result<(), KmsError> {
    match DeviceRecord::read(store, eid)? {
        Some(device) if device.freeze.is_some() => Ok(()),
        Some(_) => Err(KmsError::refused(ReasonCode::PolicyViolation, "the device is not frozen", None)),
        None => {
            Err(KmsError::refused(ReasonCode::UnknownDevice, "no device is registered under this EID", None))
        }
    }
}

/// The commit that lifts a freeze; `operation` is the digest of the approved operation.
pub fn restore(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    (role, actor): (Role, Pseudonym),
    operation: [u8; 32],
    eid: &Eid,
) -> Result<Commit, KmsError> {
    let object = pseudonyms.device(eid);
    let (mut device, _) = registered(store, eid, object)?;
    let unchanged = device.unchanged(eid);
    let Some(freeze) = device.freeze.take() else {
        return Err(KmsError::refused(ReasonCode::PolicyViolation, "the device is not frozen", Some(object)));
    };
    device.state = Some(freeze.state_before);
    let entry = EntryDraft::new(EventType::DeviceRestored, Outcome::Done)
        .role(role)
        .actor(actor)
        .object(object)
        .fact("operation", Fact::Digest(operation))
        .fact("state", Fact::fixed_name(freeze.state_before.as_str()));
    Ok(Commit {
        entries: vec![entry],
        changes: vec![
            Change::delete(FROZEN, *eid.bcd()),
            deny_list::thaw(eid),
            Change::put(DEVICES, *eid.bcd(), device.encode(eid)),
        ],
        preconditions: vec![unchanged],
    })
}

fn registered(
    store: &dyn Store,
    eid: &Eid,
    object: Pseudonym,
) -> Result<(DeviceRecord, DeviceState), KmsError> {
    match DeviceRecord::read(store, eid)? {
        Some(device) => match device.state {
            Some(state) => Ok((device, state)),
            None => Err(KmsError::refused(
                ReasonCode::Conflict,
                "the device is being registered; send the request again in a moment",
                Some(object),
            )),
        },
        None => Err(KmsError::refused(
            ReasonCode::UnknownDevice,
            "no device is registered under this EID",
            Some(object),
        )),
    }
}

#[cfg(test)]
mod tests {
    use store::Store as _;

    use super::*;
    use crate::rotation::tests::{NOW, device, log, pseudonyms, write};

    #[test]
    fn an_older_row_of_the_view_does_not_unfreeze_a_device() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(&directory);
        let eid: Eid = "89049032123451234512345678901235".parse().unwrap();
        let active = device(DeviceState::Active).encode(&eid);
        write(&log, vec![Change::put(DEVICES, *eid.bcd(), active.clone())]);
        let actor = pseudonyms().person("olivia");
        let request = FreezeRequest {
            eid,
            reason: FreezeReason::Stolen,
            reference: "report 1".into(),
            person: "olivia".into(),
            role: Role::Officer,
            actor,
            request_digest: [1; 32],
        };
        let state = || DeviceRecord::read(&log, &eid).unwrap().unwrap().state;
        log.commit(freeze(&log, &pseudonyms(), &request, NOW).unwrap()).wait().unwrap();
        assert_eq!(state(), Some(DeviceState::Frozen));
        assert!(freeze(&log, &pseudonyms(), &request, NOW).is_err(), "frozen twice");

        // As if somebody had put the row of before the freeze back.
        write(&log, vec![Change::put(DEVICES, *eid.bcd(), active)]);
        assert_eq!(state(), Some(DeviceState::Frozen));

        let restored = restore(&log, &pseudonyms(), (Role::Officer, actor), [2; 32], &eid).unwrap();
        log.commit(restored).wait().unwrap();
        assert_eq!(state(), Some(DeviceState::Active));
        assert!(restore(&log, &pseudonyms(), (Role::Officer, actor), [2; 32], &eid).is_err());
    }
}
