//! Certificates that an issuer issued before it came here (`docs/cycles/adoption.md`).

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{About, Adopted};
use domain::{ReasonCode, Role};
use pki::{Certificate, CertificateRole};
use proto::v1;
use store::Commit;

use crate::authority::{Authority, Party};
use crate::execution::invalid;
use crate::gate::{Call, Completed};
use crate::status::ServiceError;

/// Takes those that prove themselves into the register, in one commit.
pub(crate) fn adopt(
    engines: &ca::Engines,
    authority: &Authority,
    call: &Call,
    message: &v1::AdoptCertificatesRequest,
) -> Result<Completed<v1::AdoptCertificatesResponse>, ServiceError> {
    if !(1..=ca::ADOPTED_CERTIFICATES_MAX).contains(&message.certificates.len()) {
        return Err(invalid("1 to 500 certificates are adopted in one call"));
    }
    let named = match message.party.as_str() {
        "" => None,
        party => Some(authority.party(party)?.ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownParty, "there is no party of this name")
        })?),
    };
    let parties = authority.parties()?;
    let issuer = engines.issuers.find(engines.store.as_ref(), &message.issuer)?;
    let holder = |certificate: &Certificate, role: CertificateRole| match &named {
        Some(party) => Some(party.name.clone()),
        None => only_party(&parties, certificate, role),
    };
    let adopted = ca::adopt_certificates(engines, &issuer, &message.certificates, holder, call.now)?;
    let (role, actor) = (call.caller.role(), call.pseudonyms.principal(&call.caller.principal()));
    let mut commit = Commit::default();
    let mut results = Vec::with_capacity(adopted.len());
    for (adopted, der) in adopted.iter().zip(&message.certificates) {
        let serial_number =
            Certificate::from_der(der).map(|c| c.serial().as_bytes().to_vec()).unwrap_or_default();
        let result = v1::AdoptedCertificate { serial_number, ..v1::AdoptedCertificate::default() };
        results.push(match adopted {
            Adopted::Known => v1::AdoptedCertificate { result: "known".to_owned(), ..result },
            Adopted::Refused(reason, problem) => {
                let entry = EntryDraft::new(EventType::CertificateAdopted, Outcome::Refused(*reason))
                    .role(role)
                    .actor(actor)
                    .request(call.request_digest)
                    .fact("issuer", Fact::name(&issuer.name)?)
                    .fact("certificate", Fact::Digest(audit::sha256(der)));
                commit.entries.push(entry);
                v1::AdoptedCertificate {
                    result: "refused".to_owned(),
                    reason: reason.as_str().to_owned(),
                    problem: problem.clone(),
                    ..result
                }
            }
            Adopted::Taken(taken) => {
                let object = match taken.eid() {
                    Some(eid) => call.pseudonyms.device(&eid),
                    None => call.pseudonyms.party(taken.holder()),
                };
                let (entry, changes, preconditions) =
                    taken.outcome(&About { role: Some(role), actor, object });
                commit.entries.push(entry.request(call.request_digest));
                commit.changes.extend(changes);
                commit.preconditions.extend(preconditions);
                let state = if taken.is_revoked() { "revoked" } else { "issued" };
                v1::AdoptedCertificate { result: "taken".to_owned(), state: state.to_owned(), ..result }
            }
        });
    }
    let answer = v1::AdoptCertificatesResponse { results, entry_index: 0 };
    Ok(if commit.entries.is_empty() { Completed::read(answer) } else { Completed::deed(commit, answer) })
}

/// The party whose organisation the subject names, of the kind that holds such certificates; none when there are several.
fn only_party(parties: &[Party], certificate: &Certificate, role: CertificateRole) -> Option<String> {
    let of_role = match role {
        CertificateRole::Eum | CertificateRole::EumSubCa => Role::Eum,
        _ => Role::Provisioner,
    };
    let organization = certificate.organization()?;
    let mut found =
        parties.iter().filter(|party| party.role == of_role && party.organization == organization);
    let only = found.next()?;
    found.next().is_none().then(|| only.name.clone())
}
