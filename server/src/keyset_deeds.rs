//! What the operations on keysets and on compromised keys do.

use domain::{KeyState, MasterGeneration, ReasonCode, Role, Timestamp};
use kms::KeysetName;
use kms::keysets::{self, CompromisedKey, Consequence, StateChange};
use proto::v1;
use proto::v1::mark_compromised::Key;
use store::Commit;

use crate::custody;
use crate::deeds::parse_eid;
use crate::execution::{Execution, invalid};
use crate::gate::Call;
use crate::init::check_name;
use crate::status::ServiceError;

/// A deed of this module, checked.
pub(crate) enum KeysetDeed {
    Change(StateChange),
    Mark(CompromisedKey, Consequence),
}

impl Execution {
    pub(crate) fn plan_keyset_change(
        &self,
        change: &v1::ChangeKeysetState,
        now: Timestamp,
    ) -> Result<KeysetDeed, ServiceError> {
        let to = KeyState::ALL
            .into_iter()
            .find(|state| state.as_str() == change.state)
            .ok_or_else(|| invalid("state is active, deactivated, compromised or destroyed"))?;
        let consequence = if to == KeyState::Compromised {
            consequence(change.consequence())?
        } else if change.consequence() == v1::TaintConsequence::Unspecified {
            Consequence::Compromised
        } else {
            return Err(invalid("consequence is for the state compromised only"));
        };
        let change = StateChange {
            eid: parse_eid(&change.eid)?,
            keyset: KeysetName::parse(change.keyset.as_ref())?,
            to,
            consequence,
        };
        keysets::check_change(self.kms.store.as_ref(), &change, now)?;
        Ok(KeysetDeed::Change(change))
    }

    pub(crate) fn plan_mark(
        &self,
        mark: &v1::MarkCompromised,
        now: Timestamp,
    ) -> Result<KeysetDeed, ServiceError> {
        let key = match &mark.key {
            Some(Key::MasterGeneration(generation)) => {
                let generation = MasterGeneration(*generation);
                if self.kms.masters.key(self.kms.store.as_ref(), generation).is_err() {
                    return Err(ServiceError::refused(
                        ReasonCode::PolicyViolation,
                        "there is no such master generation",
                    ));
                }
                CompromisedKey::Master(generation)
            }
            Some(Key::Transport(transport)) => {
                let party = self.party(&transport.party, Role::Eum)?;
                if transport.order.is_empty() {
                    // The newest version that was registered, or the one of the enrolment.
                    let newest = custody::order_key(self.kms.store.as_ref(), &party.name, now)?;
                    let registered = audit::sha256(newest.as_ref().unwrap_or(&party.transport_key));
                    CompromisedKey::Party { party: party.name.clone(), registered }
                } else {
                    check_name("order", &transport.order)?;
                    CompromisedKey::Order { party: party.name.clone(), order: transport.order.clone() }
                }
            }
            None => return Err(invalid("key is missing")),
        };
        let consequence = consequence(mark.consequence())?;
        keysets::check_mark(self.kms.store.as_ref(), &key, consequence)?;
        Ok(KeysetDeed::Mark(key, consequence))
    }

    pub(crate) fn perform_keyset(
        &self,
        call: &Call,
        operation: [u8; 32],
        deed: &KeysetDeed,
    ) -> Result<Commit, ServiceError> {
        let store = self.kms.store.as_ref();
        let names = &call.pseudonyms;
        let who = (call.caller.role(), names.principal(&call.caller.principal()));
        Ok(match deed {
            KeysetDeed::Change(change) => keysets::change(store, names, who, operation, change, call.now)?,
            KeysetDeed::Mark(key, consequence) => {
                keysets::mark(store, names, who, operation, (key, *consequence), call.now)?
            }
        })
    }
}

fn consequence(consequence: v1::TaintConsequence) -> Result<Consequence, ServiceError> {
    match consequence {
        v1::TaintConsequence::Compromised => Ok(Consequence::Compromised),
        v1::TaintConsequence::Flagged => Ok(Consequence::Flagged),
        v1::TaintConsequence::Unspecified => Err(invalid("consequence is compromised or flagged")),
    }
}
