//! New credentials for persons and parties: the certificate of the first one ends after 398 days, and keys are lost before.

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{About, SubjectKey};
use domain::{ReasonCode, Timestamp};
use proto::v1;

use crate::authority::{Actor, Credential};
use crate::execution::{Done, Execution};
use crate::gate::Call;
use crate::standing::pseudonym;
use crate::status::ServiceError;

/// Credentials of one person or party at a time.
const CREDENTIALS_MAX: usize = 8;

/// A renewal, checked.
pub(crate) struct Renewal {
    name: String,
    tls: SubjectKey,
    credential: Credential,
    ends_others: bool,
}

impl Execution {
    pub(crate) fn plan_renewal(
        &self,
        renew: &v1::RenewCredential,
        now: Timestamp,
    ) -> Result<Renewal, ServiceError> {
        let subject = self.subject(&renew.name)?;
        if subject.is_suspended() {
            return Err(ServiceError::refused(
                ReasonCode::PolicyViolation,
                format!("{} is suspended; restore it first", renew.name),
            ));
        }
        let tls = SubjectKey::from_request(&renew.tls_csr, self.ca.known_keys)?;
        if let Actor::Person(person) = &subject
            && person.approval_key == tls.public_key().spki()
        {
            return Err(ServiceError::refused(
                ReasonCode::WeakKey,
                "the TLS key must be another than the approval key",
            ));
        }
        let credential = self.new_credential(&tls, now)?;
        let held = subject.credentials().iter().filter(|held| now < held.not_after).count();
        if !renew.ends_others && held >= CREDENTIALS_MAX {
            return Err(ServiceError::refused(
                ReasonCode::PolicyViolation,
                format!("{} has {held} credentials in force; let the others end with this one", renew.name),
            ));
        }
        Ok(Renewal { name: renew.name.clone(), tls, credential, ends_others: renew.ends_others })
    }

    /// Issues the certificate and returns the commit that takes the credential into use; the expired ones go with it.
    pub(crate) async fn renew_credential(
        &self,
        call: &Call,
        operation: [u8; 32],
        renewal: Renewal,
    ) -> Result<Done, ServiceError> {
        let subject = self.subject(&renewal.name)?;
        let role = subject.roles().first().copied().ok_or(ServiceError::Internal("a person has no role"))?;
        let object = pseudonym(&call.pseudonyms, &subject);
        let actor = call.pseudonyms.principal(&call.caller.principal());
        let about = About { role: Some(call.caller.role()), actor, object };
        let issued = self.issue_client(&renewal.name, role, renewal.tls, &about, call.now).await?;
        let (ended, kept): (Vec<Credential>, Vec<Credential>) = subject
            .credentials()
            .iter()
            .copied()
            .partition(|held| renewal.ends_others || held.not_after <= call.now);
        let entry = EntryDraft::new(EventType::CredentialRenewed, Outcome::Done)
            .role(call.caller.role())
            .actor(actor)
            .object(object)
            .fact("operation", Fact::Digest(operation))
            .fact("role", Fact::fixed_name(role.as_str()))
            .fact("principal", Fact::Pseudonym(call.pseudonyms.principal(&renewal.credential.principal)))
            .fact("expires", Fact::Time(renewal.credential.not_after))
            .fact("count", Fact::Number(ended.len() as u64));
        let writes = self.authority.set_credentials(&subject, kept, renewal.credential, &ended)?;
        self.certified(&issued, &about, entry, writes)
    }

    fn subject(&self, name: &str) -> Result<Actor, ServiceError> {
        self.authority.named(name)?.ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownParty, "there is no person or party of this name")
        })
    }
}
