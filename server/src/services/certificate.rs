//! `chancery.v1.CertificateService`.

use std::sync::Arc;

use audit::Fact;
use ca::{About, CertificateFilter, CertificateIndex, CertificateView, Finding, JudgedLink};
use domain::{ReasonCode, Timestamp};
use pki::Certificate;
use proto::v1;
use proto::v1::certificate_service_server::CertificateService;
use proto::v1::get_certificate_request::By;
use proto::v1::list_certificates_request::By as ListBy;
use store::Commit;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

use crate::adoption;
use crate::authority::Authority;
use crate::deeds::{parse_eid, parse_serial};
use crate::execution::{check_text, invalid};
use crate::gate::{Completed, Gate, OnRepeat};
use crate::status::ServiceError;

/// Largest set of certificates that one call has judged.
const VERIFIED_BYTES_MAX: usize = 64 * 1024;
/// Longest reference of a hold, in characters.
const REFERENCE_CHARACTERS_MAX: usize = 100;

#[derive(Clone)]
pub(crate) struct CertificateApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) ca: ca::Engines,
    pub(crate) authority: Arc<Authority>,
    /// Woken when the list of an issuer may say less than the register.
    pub(crate) revoked: Arc<Notify>,
}

#[tonic::async_trait]
impl CertificateService for CertificateApi {
    async fn list_certificates(
        &self,
        request: Request<v1::ListCertificatesRequest>,
    ) -> Result<Response<v1::ListCertificatesResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, message| async move {
                let by = match &message.by {
                    None => None,
                    Some(ListBy::Holder(holder)) => Some(CertificateIndex::Holder(holder.clone())),
                    Some(ListBy::Eid(eid)) => Some(CertificateIndex::Device(parse_eid(eid)?)),
                    Some(ListBy::PublicKey(spki)) => Some(CertificateIndex::Key(audit::sha256(spki))),
                };
                let filter = CertificateFilter {
                    by,
                    issuer: message.issuer.clone(),
                    profile: message.profile.clone(),
                    state: message.state.clone(),
                };
                let limit = match message.limit as usize {
                    0 => ca::CERTIFICATES_PER_PAGE,
                    limit @ 1..=ca::CERTIFICATES_PER_PAGE => limit,
                    _ => return Err(invalid("limit is 1 to 200")),
                };
                let after = Some(message.after.as_slice()).filter(|after| !after.is_empty());
                let page = ca::list_certificates(self.ca.store.as_ref(), &filter, after, limit)?;
                Ok(Completed::read(v1::ListCertificatesResponse {
                    certificates: page.certificates.iter().map(summary).collect::<Result<_, _>>()?,
                    next: page.next.unwrap_or_default(),
                }))
            })
            .await
    }

    async fn hold_certificate(
        &self,
        request: Request<v1::HoldCertificateRequest>,
    ) -> Result<Response<v1::HoldCertificateResponse>, Status> {
        let answer = self
            .gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                check_text("reference", &message.reference, REFERENCE_CHARACTERS_MAX)?;
                let holding =
                    ca::hold(&self.ca, &parse_serial(&message.serial_number)?, &message.issuer, call.now)?;
                let about = About {
                    role: Some(call.caller.role()),
                    actor: call.pseudonyms.principal(&call.caller.principal()),
                    object: call.pseudonyms.party(holding.holder()),
                };
                let (entry, changes, preconditions) = holding.outcome(&about);
                let entry = entry
                    .request(call.request_digest)
                    .fact("reference", Fact::Digest(audit::sha256(message.reference.as_bytes())));
                let commit = Commit { entries: vec![entry], changes, preconditions };
                Ok(Completed::deed(commit, v1::HoldCertificateResponse { entry_index: 0 }))
            })
            .await;
        self.revoked.notify_one();
        answer
    }

    async fn adopt_certificates(
        &self,
        request: Request<v1::AdoptCertificatesRequest>,
    ) -> Result<Response<v1::AdoptCertificatesResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                adoption::adopt(&self.ca, &self.authority, &call, &message)
            })
            .await
    }

    async fn verify_certificate(
        &self,
        request: Request<v1::VerifyCertificateRequest>,
    ) -> Result<Response<v1::VerifyCertificateResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let role = match message.role.as_str() {
                    "" => None,
                    role => Some(role.parse().map_err(|_| invalid("role is none of the profiles"))?),
                };
                let bytes = message.certificate.len()
                    + message.pair.len()
                    + message.intermediates.iter().map(Vec::len).sum::<usize>();
                if bytes > VERIFIED_BYTES_MAX {
                    return Err(invalid("at most 64 KiB of certificates are judged in one call"));
                }
                let question = ca::Question {
                    certificate: &message.certificate,
                    intermediates: &message.intermediates,
                    role,
                    pair: Some(message.pair.as_slice()).filter(|pair| !pair.is_empty()),
                    at: message.at.as_ref().map_or(call.now, |at| Timestamp::from_seconds(at.seconds)),
                };
                let judgement = ca::judge(&self.ca, &question)?;
                Ok(Completed::read(v1::VerifyCertificateResponse {
                    verified: judgement.findings.is_empty(),
                    role: judgement.role.map(|role| role.as_str().to_owned()).unwrap_or_default(),
                    chain: judgement.chain.iter().map(link).collect(),
                    findings: judgement.findings.into_iter().map(finding).collect(),
                }))
            })
            .await
    }

    async fn get_certificate(
        &self,
        request: Request<v1::GetCertificateRequest>,
    ) -> Result<Response<v1::GetCertificateResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, message| async move {
                let store = self.ca.store.as_ref();
                let found = match &message.by {
                    Some(By::SerialNumber(serial)) => ca::find_by_serial(store, serial, &message.issuer)?,
                    Some(By::Eid(eid)) => ca::find_by_eid(store, &parse_eid(eid)?)?,
                    None => {
                        return Err(ServiceError::refused(
                            ReasonCode::InvalidField,
                            "name a serial_number or an eid",
                        ));
                    }
                };
                let found = found.ok_or_else(|| {
                    ServiceError::refused(ReasonCode::UnknownCertificate, "there is no such certificate")
                })?;
                let issuer = self.ca.issuers.find(store, &found.issuer)?;
                let answer = v1::GetCertificateResponse {
                    certificate: found.der,
                    issuer_certificate: issuer.certificate()?.der().to_vec(),
                    profile: found.profile,
                    state: found.state,
                };
                Ok(Completed::read(answer))
            })
            .await
    }
}

fn summary(view: &CertificateView) -> Result<v1::CertificateSummary, ServiceError> {
    let certificate = Certificate::from_der(&view.der)
        .map_err(|_| ServiceError::Internal("a certificate of the register"))?;
    Ok(v1::CertificateSummary {
        serial_number: view.serial.clone(),
        issuer: view.issuer.clone(),
        profile: view.profile.clone(),
        holder: view.holder.clone(),
        state: view.state.clone(),
        revoked: view.revocation.map(|revocation| prost_types::Timestamp {
            seconds: revocation.at.micros().div_euclid(1_000_000),
            nanos: 0,
        }),
        revocation_reason: view
            .revocation
            .map(|revocation| revocation.reason.to_string())
            .unwrap_or_default(),
        not_before: certificate.not_before().to_string(),
        not_after: certificate.not_after().to_string(),
    })
}

fn link(link: &JudgedLink) -> v1::VerifiedLink {
    v1::VerifiedLink {
        serial_number: link.certificate.serial().as_bytes().to_vec(),
        digest: link.certificate.digest().to_vec(),
        standing: link.standing.as_str().to_owned(),
    }
}

fn finding(finding: Finding) -> v1::VerificationFinding {
    v1::VerificationFinding {
        finding: finding.finding.to_owned(),
        problem: finding.problem,
        depth: u32::try_from(finding.depth).unwrap_or(u32::MAX),
    }
}
