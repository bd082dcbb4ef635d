//! Many certificates revoked by one approved operation (`docs/cycles/revocation.md`): all of them or none, in one commit.

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{About, RevocationRequest};
use domain::{ReasonCode, RevocationReason, Timestamp};
use proto::v1;
use store::Commit;

use crate::deeds::{Deed, parse_serial};
use crate::execution::{Execution, invalid};
use crate::gate::Call;
use crate::status::ServiceError;

/// Most certificates of one operation: what a person can still read before signing.
const CERTIFICATES_MAX: usize = 500;

impl Execution {
    pub(crate) fn plan_revocations(
        &self,
        revoke: &v1::RevokeCertificates,
        now: Timestamp,
    ) -> Result<Deed, ServiceError> {
        let reason: RevocationReason =
            revoke.reason.parse().map_err(|e: domain::UnknownRevocationReason| invalid(&e.to_string()))?;
        if !reason.is_for_good() {
            return Err(invalid("a hold is no revocation for good: chancery certificate hold"));
        }
        if !(1..=CERTIFICATES_MAX).contains(&revoke.certificates.len()) {
            return Err(invalid("certificates names 1 to 500"));
        }
        let is_ordered = revoke.certificates.windows(2).all(|pair| named(&pair[0]) < named(&pair[1]));
        if !is_ordered {
            return Err(invalid("certificates are in the order of serial numbers, each once"));
        }
        let invalid_since = revoke.invalid_since.map(|time| Timestamp::from_seconds(time.seconds));
        let requests = revoke
            .certificates
            .iter()
            .map(|named| {
                let serial = parse_serial(&named.serial_number)?;
                Ok(RevocationRequest { serial, issuer: named.issuer.clone(), reason, invalid_since })
            })
            .collect::<Result<Vec<_>, ServiceError>>()?;
        let revoking = ca::revoke_many(&self.ca, &requests, now)?;
        for (named, revoking) in revoke.certificates.iter().zip(&revoking) {
            if named.holder != revoking.holder() || named.profile != revoking.profile() {
                return Err(ServiceError::refused(
                    ReasonCode::Conflict,
                    format!(
                        "{} is the {} certificate of {}, which is not what would be approved",
                        revoking.serial(),
                        revoking.profile(),
                        revoking.holder()
                    ),
                ));
            }
            self.check_replacement(revoke, named)?;
        }
        Ok(Deed::RevokeMany(requests))
    }

    /// What is said to take a certificate's place is in force, of the same holder and profile, and not revoked with it.
    fn check_replacement(
        &self,
        revoke: &v1::RevokeCertificates,
        named: &v1::CertificateToRevoke,
    ) -> Result<(), ServiceError> {
        if named.replacement.is_empty() {
            return Ok(());
        }
        let found = ca::find_by_serial(self.ca.store.as_ref(), &named.replacement, "")?;
        let holds = found.is_some_and(|found| {
            found.state == "issued" && found.holder == named.holder && found.profile == named.profile
        });
        if holds && revoke.certificates.iter().all(|other| other.serial_number != named.replacement) {
            return Ok(());
        }
        Err(ServiceError::refused(
            ReasonCode::Conflict,
            format!(
                "{} does not replace {}: it is not in force for {}",
                hex::encode(&named.replacement),
                hex::encode(&named.serial_number),
                named.holder
            ),
        ))
    }

    /// Carries out, up to the commit: a head with the count, and an entry for each.
    pub(crate) fn revoke_many(
        &self,
        call: &Call,
        operation: [u8; 32],
        requests: &[RevocationRequest],
    ) -> Result<Commit, ServiceError> {
        let role = call.caller.role();
        let actor = call.pseudonyms.principal(&call.caller.principal());
        let revoking = ca::revoke_many(&self.ca, requests, call.now)?;
        let head = EntryDraft::new(EventType::CertificatesRevoked, Outcome::Done)
            .fact("operation", Fact::Digest(operation))
            .role(role)
            .actor(actor)
            .fact("count", Fact::Number(revoking.len() as u64));
        let mut commit = Commit { entries: vec![head], changes: Vec::new(), preconditions: Vec::new() };
        for one in &revoking {
            let about = About { role: Some(role), actor, object: call.pseudonyms.party(one.holder()) };
            let (entry, changes, preconditions) = one.outcome(&about);
            commit.entries.push(entry.fact("operation", Fact::Digest(operation)));
            commit.changes.extend(changes);
            commit.preconditions.extend(preconditions);
        }
        Ok(commit)
    }
}

/// In this order the certificates of an operation stand.
fn named(certificate: &v1::CertificateToRevoke) -> (&[u8], &str) {
    (&certificate.serial_number, &certificate.issuer)
}
