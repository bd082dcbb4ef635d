//! What the operations on devices, rotations, certificates and standing do; the others are in `execution`.

use audit::Fact;
use ca::{About, RevocationRequest};
use domain::{Eid, ReasonCode, RevocationReason, Role};
use kms::rotation::{self, RotationTerms};
use pki::SerialNumber;
use proto::v1;
use store::Commit;

use crate::custody::Custody;
use crate::execution::{Done, Execution, invalid};
use crate::gate::Call;
use crate::standing;
use crate::status::ServiceError;

/// A deed of this module, checked.
pub(crate) enum Deed {
    Restore(Eid),
    StartRotation(Box<RotationTerms>),
    RollBack(String),
    Revoke(RevocationRequest),
    Standing { name: String, suspended: bool },
    Custody(Box<Custody>),
}

impl Deed {
    pub(crate) fn custody(custody: Custody) -> Self {
        Self::Custody(Box::new(custody))
    }
}

impl Execution {
    pub(crate) fn plan_restore(&self, restore: &v1::RestoreDevice) -> Result<Deed, ServiceError> {
        let eid = parse_eid(&restore.eid)?;
        kms::check_restore(self.kms.store.as_ref(), &eid)?;
        Ok(Deed::Restore(eid))
    }

    pub(crate) fn plan_rotation(&self, start: &v1::StartRotation) -> Result<Deed, ServiceError> {
        let terms = start.terms.as_ref().ok_or_else(|| invalid("terms are missing"))?;
        let terms = RotationTerms::parse(terms)?;
        self.party(&terms.provisioner, Role::Provisioner)?;
        rotation::check_start(self.kms.store.as_ref(), &terms)?;
        Ok(Deed::StartRotation(Box::new(terms)))
    }

    pub(crate) fn plan_roll_back(&self, back: &v1::RollBackRotation) -> Result<Deed, ServiceError> {
        rotation::check_roll_back(self.kms.store.as_ref(), &back.name)?;
        Ok(Deed::RollBack(back.name.clone()))
    }

    pub(crate) fn plan_revocation(
        &self,
        revoke: &v1::RevokeCertificate,
        now: domain::Timestamp,
    ) -> Result<Deed, ServiceError> {
        let reason: RevocationReason =
            revoke.reason.parse().map_err(|e: domain::UnknownRevocationReason| invalid(&e.to_string()))?;
        let serial = SerialNumber::from_bytes(&revoke.serial_number)
            .map_err(|_| invalid("serial_number has 1 to 20 octets, the first not zero"))?;
        let request = RevocationRequest { serial, reason };
        ca::revoke(&self.ca, &request, now)?;
        Ok(Deed::Revoke(request))
    }

    pub(crate) fn plan_standing(&self, change: &v1::ChangeStanding) -> Result<Deed, ServiceError> {
        standing::check(&self.authority, &change.name, change.suspended)?;
        Ok(Deed::Standing { name: change.name.clone(), suspended: change.suspended })
    }

    /// Carries out, up to the commit.
    pub(crate) async fn perform(
        &self,
        call: &Call,
        operation: [u8; 32],
        deed: Deed,
    ) -> Result<Done, ServiceError> {
        let store = self.kms.store.as_ref();
        let pseudonyms = &call.pseudonyms;
        let actor = pseudonyms.principal(&call.caller.principal());
        let who = (call.caller.role(), actor);
        let mut turn = None;
        let commit = match deed {
            Deed::Restore(eid) => kms::restore(store, pseudonyms, who, operation, &eid)?,
            Deed::StartRotation(terms) => rotation::start_rotation(store, who, operation, &terms, call.now)?,
            Deed::RollBack(name) => {
                // Reports come all the time; without its turn a roll back would lose the race for the row to them.
                turn = Some(self.rotations.turn(&name).await);
                rotation::roll_back_rotation(store, who, operation, &name)?
            }
            Deed::Revoke(request) => {
                let revoking = ca::revoke(&self.ca, &request, call.now)?;
                let object = pseudonyms.party(revoking.holder());
                let about = About { role: Some(who.0), actor, object };
                let (entry, changes, preconditions) = revoking.outcome(&about);
                let entry = entry.fact("operation", Fact::Digest(operation));
                Commit { entries: vec![entry], changes, preconditions }
            }
            Deed::Custody(custody) => self.take_into_custody(call, operation, *custody).await?,
            Deed::Standing { name, suspended } => {
                standing::change(&self.authority, pseudonyms, who, operation, &name, suspended)?
            }
        };
        Ok(Done { commit, outcome: v1::OperationOutcome::default(), turn })
    }
}

pub(crate) fn parse_eid(text: &str) -> Result<Eid, ServiceError> {
    text.parse().map_err(|e: domain::EidError| ServiceError::refused(ReasonCode::InvalidEid, e.to_string()))
}
