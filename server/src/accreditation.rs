//! Accreditations: no GSMA certificate for a party, and none by its issuers, without evidence that is in force.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Hash, Outcome};
use domain::{ReasonCode, Timestamp};
use proto::v1;
use store::Commit;

use crate::authority::{Accreditation, Authority, Party};
use crate::execution::{check_text, invalid};
use crate::gate::Call;
use crate::status::ServiceError;

/// Longest accreditation: a mistyped year is no licence for ever.
const SECONDS_MAX: i64 = 5 * 366 * 86_400;

impl Accreditation {
    pub(crate) fn parse(accreditation: &v1::Accreditation, now: Timestamp) -> Result<Self, ServiceError> {
        check_text("accreditation.reference", &accreditation.reference, 100)?;
        let expires = accreditation
            .expires
            .as_ref()
            .map(|time| Timestamp::from_seconds(time.seconds))
            .ok_or_else(|| invalid("accreditation.expires is missing"))?;
        if expires <= now || expires > now.plus_seconds(SECONDS_MAX) {
            return Err(invalid("accreditation.expires must lie ahead, at most five years"));
        }
        Ok(Self { reference: accreditation.reference.clone(), expires })
    }

    /// What entries name the evidence by: SHA-256 of its reference, which the party shows.
    pub(crate) fn digest(&self) -> Hash {
        audit::sha256(self.reference.as_bytes())
    }
}

/// The evidence under which a certificate for the party, or by one of its issuers, is made now.
pub(crate) fn in_force(party: &Party, now: Timestamp) -> Result<&Accreditation, ServiceError> {
    let problem = match &party.accreditation {
        Some(accreditation) if now < accreditation.expires => return Ok(accreditation),
        Some(_) => "has ended",
        None => "is not recorded",
    };
    Err(ServiceError::refused(
        ReasonCode::AccreditationEnded,
        format!("the accreditation of {} {problem}", party.name),
    ))
}

/// An approved record of evidence, checked.
pub(crate) struct Recording {
    party: Arc<Party>,
    accreditation: Accreditation,
}

pub(crate) fn check(
    authority: &Authority,
    record: &v1::RecordAccreditation,
    now: Timestamp,
) -> Result<Recording, ServiceError> {
    let party = authority
        .party(&record.party)?
        .ok_or_else(|| ServiceError::refused(ReasonCode::UnknownParty, "there is no party of this name"))?;
    let accreditation = record.accreditation.as_ref().ok_or_else(|| invalid("accreditation is missing"))?;
    Ok(Recording { party, accreditation: Accreditation::parse(accreditation, now)? })
}

impl Recording {
    /// The commit of the approved record.
    pub(crate) fn commit(
        self,
        authority: &Authority,
        call: &Call,
        operation: [u8; 32],
    ) -> Result<Commit, ServiceError> {
        let Self { party, accreditation } = self;
        let entry = EntryDraft::new(EventType::AccreditationRecorded, Outcome::Done)
            .role(call.caller.role())
            .actor(call.pseudonyms.principal(&call.caller.principal()))
            .object(call.pseudonyms.party(&party.name))
            .fact("operation", Fact::Digest(operation));
        let entry = facts(entry, &accreditation);
        let (change, unchanged) = authority.set_accreditation(party, &accreditation)?;
        Ok(Commit { entries: vec![entry], changes: vec![change], preconditions: vec![unchanged] })
    }
}

/// What an entry says about a party's evidence.
pub(crate) fn facts(entry: EntryDraft, accreditation: &Accreditation) -> EntryDraft {
    entry
        .fact("accreditation", Fact::Digest(accreditation.digest()))
        .fact("expires", Fact::Time(accreditation.expires))
}
