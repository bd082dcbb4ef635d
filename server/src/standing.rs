//! Suspension of persons and parties. Each deed of a caller names the version of the caller's own record, so that
//! nothing of a party is committed behind its suspension.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{ReasonCode, Role};
use store::Commit;

use crate::authority::{Actor, Authority};
use crate::gate::Call;
use crate::status::ServiceError;

/// Whether somebody's standing can be changed so.
pub(crate) fn check(authority: &Authority, name: &str, suspended: bool) -> Result<Actor, ServiceError> {
    let actor = authority.named(name)?.ok_or_else(|| {
        ServiceError::refused(ReasonCode::UnknownParty, "there is no person or party of this name")
    })?;
    if actor.is_suspended() == suspended {
        let standing = if suspended { "suspended already" } else { "not suspended" };
        return Err(ServiceError::refused(ReasonCode::PolicyViolation, format!("{name} is {standing}")));
    }
    if suspended && matches!(actor, Actor::Person(_)) {
        check_enough_remain(authority, name)?;
    }
    Ok(actor)
}

/// Nobody suspends the authority to a standstill: what restores must remain possible.
fn check_enough_remain(authority: &Authority, without: &str) -> Result<(), ServiceError> {
    let required = authority.policy()?.persons_required as usize;
    let remaining: Vec<_> = authority
        .persons()?
        .into_iter()
        .filter(|person| !person.suspended && person.name != without)
        .collect();
    let officers = remaining.iter().filter(|person| person.roles.contains(&Role::Officer)).count();
    let signers = remaining
        .iter()
        .filter(|person| person.roles.contains(&Role::Officer) || person.roles.contains(&Role::Approver))
        .count();
    let approvers = remaining.iter().filter(|person| person.roles.contains(&Role::Approver)).count();
    // A request comes from an officer, every further signature from an approver who is somebody else.
    if officers == 0 || approvers + 1 < required || signers < required {
        return Err(ServiceError::refused(
            ReasonCode::PolicyViolation,
            format!(
                "without {name} too few persons remain to approve anything; enrol another first",
                name = without
            ),
        ));
    }
    Ok(())
}

/// The commit of an approved change.
pub(crate) fn change(
    authority: &Authority,
    pseudonyms: &Pseudonyms,
    (role, actor): (Role, Pseudonym),
    operation: [u8; 32],
    name: &str,
    suspended: bool,
) -> Result<Commit, ServiceError> {
    let subject = check(authority, name, suspended)?;
    let entry = EntryDraft::new(EventType::StandingChanged, Outcome::Done)
        .role(role)
        .actor(actor)
        .object(pseudonym(pseudonyms, &subject))
        .fact("operation", Fact::Digest(operation))
        .fact("state", Fact::fixed_name(if suspended { "suspended" } else { "in-force" }));
    let (change, unchanged) = authority.set_suspended(&subject, suspended)?;
    Ok(Commit { entries: vec![entry], changes: vec![change], preconditions: vec![unchanged] })
}

/// The commit by which one person stops a party at once.
pub(crate) fn suspend_party(authority: &Authority, call: &Call, name: &str) -> Result<Commit, ServiceError> {
    let subject = check(authority, name, true)?;
    if matches!(subject, Actor::Person(_)) {
        return Err(ServiceError::refused(
            ReasonCode::PolicyViolation,
            "persons are suspended by an approved operation: chancery person suspend",
        ));
    }
    let entry = EntryDraft::new(EventType::PartySuspended, Outcome::Done)
        .role(call.caller.role())
        .actor(call.pseudonyms.principal(&call.caller.principal()))
        .object(pseudonym(&call.pseudonyms, &subject))
        .request(call.request_digest);
    let (change, unchanged) = authority.set_suspended(&subject, true)?;
    Ok(Commit { entries: vec![entry], changes: vec![change], preconditions: vec![unchanged] })
}

pub(crate) fn pseudonym(pseudonyms: &Pseudonyms, subject: &Actor) -> Pseudonym {
    match subject {
        Actor::Person(person) => pseudonyms.person(&person.name),
        Actor::Party(party) => pseudonyms.party(&party.name),
    }
}
