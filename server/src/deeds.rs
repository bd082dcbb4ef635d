//! What the operations on devices, rotations, certificates and standing do; the others are in `execution`.

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{About, KeyRegistration, RevocationRequest, SubjectKey};
use domain::{Eid, ReasonCode, RevocationReason, Role};
use kms::rotation::{self, RotationTerms};
use kms::rsp::RspKey;
use pki::{CertificateRole, SerialNumber};
use proto::v1;
use store::Commit;

use crate::accreditation;
use crate::anchors::Elsewhere;
use crate::custody::Custody;
use crate::execution::{Done, Execution, invalid};
use crate::gate::Call;
use crate::keyset_deeds::KeysetDeed;
use crate::standing;
use crate::status::ServiceError;

/// A deed of this module, checked.
pub(crate) enum Deed {
    Restore(Eid),
    StartRotation(Box<RotationTerms>),
    RollBack(String),
    Responder { issuer: String, key: Box<KeyRegistration> },
    Revoke(RevocationRequest),
    RevokeMany(Vec<RevocationRequest>),
    Release { serial: SerialNumber, issuer: String },
    Standing { name: String, suspended: bool },
    Accreditation(accreditation::Recording),
    RspKey(Box<(RspKey, KeyRegistration)>),
    Custody(Box<Custody>),
    Keyset(KeysetDeed),
    Elsewhere(Box<Elsewhere>),
}

impl Deed {
    pub(crate) fn custody(custody: Custody) -> Self {
        Self::Custody(Box::new(custody))
    }

    pub(crate) fn elsewhere(deed: Elsewhere) -> Self {
        Self::Elsewhere(Box::new(deed))
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
        if !reason.is_for_good() {
            return Err(invalid("a hold is no revocation for good: chancery certificate hold"));
        }
        let invalid_since = revoke.invalid_since.map(|time| domain::Timestamp::from_seconds(time.seconds));
        let serial = parse_serial(&revoke.serial_number)?;
        let request = RevocationRequest { serial, issuer: revoke.issuer.clone(), reason, invalid_since };
        ca::revoke(&self.ca, &request, now)?;
        Ok(Deed::Revoke(request))
    }

    pub(crate) fn plan_release(&self, release: &v1::ReleaseCertificate) -> Result<Deed, ServiceError> {
        let serial = parse_serial(&release.serial_number)?;
        ca::release(&self.ca, &serial, &release.issuer)?;
        Ok(Deed::Release { serial, issuer: release.issuer.clone() })
    }

    pub(crate) fn plan_standing(&self, change: &v1::ChangeStanding) -> Result<Deed, ServiceError> {
        standing::check(&self.authority, &change.name, change.suspended)?;
        Ok(Deed::Standing { name: change.name.clone(), suspended: change.suspended })
    }

    pub(crate) fn plan_rsp_key(&self, register: &v1::RegisterRspKey) -> Result<Deed, ServiceError> {
        let party = self.party(&register.party, Role::Provisioner)?;
        let (key, registered) = crate::rsp::parse_key(register, self.ca.known_keys)?;
        let token = self.rsp_token.as_ref().ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownRspKey, "no token for keys of SM-DP+ is configured")
        })?;
        if RspKey::find(self.ca.store.as_ref(), &party.name, &key.name)?.is_some() {
            return Err(ServiceError::refused(ReasonCode::Conflict, "a key of this name exists"));
        }
        let registration = KeyRegistration {
            token: "rsp".to_owned(),
            token_serial: token.report().token_serial,
            key: registered,
            epoch: 1,
            backup: String::new(),
        };
        Ok(Deed::RspKey(Box::new((key, registration))))
    }

    /// The key of a certificate that is for a registered key of an SM-DP+.
    pub(crate) fn rsp_key_to_certify(
        &self,
        certificate: &v1::IssueCertificate,
        profile: CertificateRole,
        party: &str,
        name: &str,
    ) -> Result<SubjectKey, ServiceError> {
        let key = RspKey::find(self.ca.store.as_ref(), party, name)?.ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownRspKey, "the party has no registered key of this name")
        })?;
        if crate::rsp::profile_of(key.role) != Some(profile) {
            return Err(invalid(
                "the key is for another profile: rsp-auth keys are dpauth, rsp-pb keys dppb, eim-sign keys eimsign",
            ));
        }
        if certificate.registered_id != key.registered_id {
            return Err(invalid("registered_id is not the one that the key was registered with"));
        }
        Ok(SubjectKey::without_proof(&key.public_key, self.ca.known_keys)?)
    }

    /// Every worker of the token resolves the key, reads its template back and tries it; then it is in the records.
    async fn register_rsp_key(
        &self,
        call: &Call,
        operation: [u8; 32],
        (key, registration): (RspKey, KeyRegistration),
    ) -> Result<Commit, ServiceError> {
        let token = self.rsp_token.as_ref().ok_or(ServiceError::Internal("the token is gone"))?;
        token.add_key(registration.key.clone()).await?;
        let (key_change, key_new) = registration.create();
        let (change, is_new) = key.create();
        let entry = EntryDraft::new(EventType::RspKeyRegistered, Outcome::Done)
            .fact("operation", Fact::Digest(operation))
            .role(call.caller.role())
            .actor(call.pseudonyms.principal(&call.caller.principal()))
            .object(call.pseudonyms.party(&key.party))
            .fact("kind", Fact::name(key.role.as_str())?)
            .fact("key", Fact::Digest(audit::sha256(&key.public_key)));
        Ok(Commit {
            entries: vec![entry],
            changes: vec![key_change, change],
            preconditions: vec![key_new, is_new],
        })
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
            Deed::RspKey(key) => self.register_rsp_key(call, operation, *key).await?,
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
            Deed::Responder { issuer, key } => {
                self.register_responder(call, operation, &issuer, *key).await?
            }
            Deed::RevokeMany(requests) => self.revoke_many(call, operation, &requests)?,
            Deed::Release { serial, issuer } => {
                let releasing = ca::release(&self.ca, &serial, &issuer)?;
                let object = pseudonyms.party(releasing.holder());
                let about = About { role: Some(who.0), actor, object };
                let (entry, changes, preconditions) = releasing.outcome(&about);
                let entry = entry.fact("operation", Fact::Digest(operation));
                Commit { entries: vec![entry], changes, preconditions }
            }
            Deed::Custody(custody) => self.take_into_custody(call, operation, *custody).await?,
            Deed::Standing { name, suspended } => {
                standing::change(&self.authority, pseudonyms, who, operation, &name, suspended)?
            }
            Deed::Accreditation(recording) => recording.commit(&self.authority, call, operation)?,
            Deed::Keyset(deed) => self.perform_keyset(call, operation, &deed)?,
            Deed::Elsewhere(deed) => Self::perform_elsewhere(call, operation, *deed)?,
        };
        Ok(Done { commit, outcome: v1::OperationOutcome::default(), turn })
    }
}

pub(crate) fn parse_serial(octets: &[u8]) -> Result<SerialNumber, ServiceError> {
    SerialNumber::from_bytes(octets)
        .map_err(|_| invalid("serial_number has 1 to 20 octets, the first not zero"))
}

pub(crate) fn parse_eid(text: &str) -> Result<Eid, ServiceError> {
    text.parse().map_err(|e: domain::EidError| ServiceError::refused(ReasonCode::InvalidEid, e.to_string()))
}
