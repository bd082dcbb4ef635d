//! `chancery.v1.AnchorService`.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{Anchor, AnchorList};
use domain::{ReasonCode, Role};
use hsm::{CallOptions, Priority, Signature};
use proto::v1;
use proto::v1::anchor_service_server::AnchorService;
use proto::v1::make_certification_request_request::Key;
use store::Commit;
use tonic::{Request, Response, Status};

use crate::anchors::{authority_wishes, issuer_profile, rsp_key, unsigned_request, wishes_of};
use crate::authority::{Authority, Party};
use crate::execution::invalid;
use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::init::CERTIFICATE_ISSUER;
use crate::operations::timestamp;
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct AnchorApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) ca: ca::Engines,
    /// The token of SM-DP+ keys, where there is one.
    pub(crate) rsp_token: Option<hsm::Token>,
}

#[tonic::async_trait]
impl AnchorService for AnchorApi {
    async fn list_anchors(
        &self,
        request: Request<v1::ListAnchorsRequest>,
    ) -> Result<Response<v1::ListAnchorsResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, _| async move {
                let store = self.ca.store.as_ref();
                let anchors = Anchor::all(store)?
                    .iter()
                    .map(|anchor| {
                        Ok(v1::Anchor {
                            name: anchor.name.clone(),
                            certificate: anchor.certificate.der().to_vec(),
                            eins: anchor.eins.iter().map(ToString::to_string).collect(),
                            lists_required: anchor.lists_required,
                            retired: anchor.retired,
                            list: anchor.list(store)?.map(list),
                        })
                    })
                    .collect::<Result<_, ServiceError>>()?;
                Ok(Completed::read(v1::ListAnchorsResponse { anchors }))
            })
            .await
    }

    async fn publish_anchor_list(
        &self,
        request: Request<v1::PublishAnchorListRequest>,
    ) -> Result<Response<v1::PublishAnchorListResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move { self.publish(&call, &message) })
            .await
    }

    async fn make_certification_request(
        &self,
        request: Request<v1::MakeCertificationRequestRequest>,
    ) -> Result<Response<v1::MakeCertificationRequestResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move { self.make(&call, &message).await })
            .await
    }

    async fn list_imported_certificates(
        &self,
        request: Request<v1::ListImportedCertificatesRequest>,
    ) -> Result<Response<v1::ListImportedCertificatesResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, message| async move {
                let after = Some(message.after.as_slice()).filter(|after| !after.is_empty());
                let (page, next) = ca::list_imported(self.ca.store.as_ref(), after)?;
                let certificates = page.into_iter().map(|import| v1::ImportedCertificate {
                    certificate: import.certificate.der().to_vec(),
                    anchor: import.anchor,
                    profile: import.profile.as_str().to_owned(),
                    party: import.party,
                    key: import.key,
                });
                Ok(Completed::read(v1::ListImportedCertificatesResponse {
                    certificates: certificates.collect(),
                    next: next.unwrap_or_default(),
                }))
            })
            .await
    }
}

impl AnchorApi {
    fn publish(
        &self,
        call: &Call,
        message: &v1::PublishAnchorListRequest,
    ) -> Result<Completed<v1::PublishAnchorListResponse>, ServiceError> {
        let store = self.ca.store.as_ref();
        let anchor = Anchor::find(store, &message.anchor)?;
        let (taken, changes, preconditions) = anchor.take_list(store, &message.list, call.now)?;
        let entry = draft(EventType::AnchorListPublished, call)
            .object(call.pseudonyms.party(&anchor.name))
            .fact("anchor", Fact::name(&anchor.name)?)
            .fact("number", Fact::Number(taken.number))
            .fact("count", Fact::Number(u64::from(taken.entries)))
            .fact("crl", Fact::Digest(taken.digest));
        let commit = Commit { entries: vec![entry], changes, preconditions };
        let answer = v1::PublishAnchorListResponse { list: Some(list(taken)), entry_index: 0 };
        Ok(Completed::deed(commit, answer))
    }

    /// The request for the key: its body is made here, the token signs it, and it is read back.
    async fn make(
        &self,
        call: &Call,
        message: &v1::MakeCertificationRequestRequest,
    ) -> Result<Completed<v1::MakeCertificationRequestResponse>, ServiceError> {
        let store = self.ca.store.as_ref();
        let options = CallOptions { deadline: call.deadline, priority: Priority::Normal };
        let (whose, profile, request, spki) = match &message.key {
            Some(Key::RspKey(key)) => {
                let party = self.party(&key.party, Role::Provisioner)?;
                let (key, profile) = rsp_key(store, &party, &key.name)?;
                let token = self.rsp_token.as_ref().ok_or_else(|| {
                    ServiceError::refused(
                        ReasonCode::UnknownRspKey,
                        "no token for keys of SM-DP+ is configured",
                    )
                })?;
                if !message.registered_id.is_empty() || !message.profile.is_empty() {
                    return Err(invalid(
                        "registered_id and profile are those that the key was registered with",
                    ));
                }
                let name = &message.common_name;
                let wishes = wishes_of(&party, profile.profile(), name, &key.registered_id)?;
                let unsigned = unsigned_request(profile.profile(), &key.public_key, &wishes)?;
                let input = hsm::RspInput::CertificationRequest(unsigned.bytes().to_vec());
                let signature = Signature::bits_256(token.rsp_sign(&key.key, input, options).await?);
                (party.name.clone(), profile.as_str(), assemble(unsigned, &signature)?, key.public_key)
            }
            Some(Key::Issuer(name)) => {
                let issuer = self.ca.issuers.find(store, name)?;
                let name = &message.common_name;
                let (profile, wishes) = match issuer.party.as_str() {
                    "" => {
                        let first = self.ca.issuers.find(store, CERTIFICATE_ISSUER)?;
                        let profile = issuer_profile(&message.profile, false)?;
                        if !message.registered_id.is_empty() {
                            return Err(invalid("registered_id is that of the authority's first CI"));
                        }
                        (profile, authority_wishes(first.certificate()?, name)?)
                    }
                    party => {
                        let party = self.party(party, Role::Eum)?;
                        let profile = issuer_profile(&message.profile, true)?;
                        (profile, wishes_of(&party, profile, name, &message.registered_id)?)
                    }
                };
                let unsigned = unsigned_request(profile, &issuer.public_key, &wishes)?;
                let signatures = self.ca.token.sign(&issuer.key, &[unsigned.digest()], options).await?;
                let signature = signatures.first().ok_or(ServiceError::Internal("a token's signature"))?;
                let whose = if issuer.party.is_empty() { &issuer.name } else { &issuer.party };
                (whose.clone(), profile.name, assemble(unsigned, signature)?, issuer.public_key.clone())
            }
            None => return Err(invalid("key is missing")),
        };
        let entry = draft(EventType::CertificationRequestMade, call)
            .object(call.pseudonyms.party(&whose))
            .fact("profile", Fact::fixed_name(profile))
            .fact("key", Fact::Digest(audit::sha256(&spki)))
            .fact("csr", Fact::Digest(audit::sha256(&request)));
        let commit = Commit { entries: vec![entry], changes: Vec::new(), preconditions: Vec::new() };
        let answer =
            v1::MakeCertificationRequestResponse { request, profile: profile.to_owned(), entry_index: 0 };
        Ok(Completed::deed(commit, answer))
    }

    fn party(&self, name: &str, role: Role) -> Result<Arc<Party>, ServiceError> {
        let found = self.authority.party(name)?.filter(|party| party.role == role);
        found.ok_or_else(|| {
            let message = format!("there is no {} of this name", role.as_str());
            ServiceError::refused(ReasonCode::UnknownParty, message)
        })
    }
}

/// Verified under its own key by the code that reads requests from outside; one that fails there never leaves.
fn assemble(unsigned: pki::csr::UnsignedRequest, signature: &Signature) -> Result<Vec<u8>, ServiceError> {
    unsigned
        .assemble(signature)
        .map_err(|_| ServiceError::Internal("a certification request does not verify under its own key"))
}

fn draft(event: EventType, call: &Call) -> EntryDraft {
    EntryDraft::new(event, Outcome::Done)
        .role(call.caller.role())
        .actor(call.pseudonyms.principal(&call.caller.principal()))
        .request(call.request_digest)
}

fn list(list: AnchorList) -> v1::AnchorList {
    v1::AnchorList {
        number: list.number,
        this_update: Some(timestamp(list.this_update)),
        next_update: Some(timestamp(list.next_update)),
        entries: list.entries,
        digest: list.digest.to_vec(),
    }
}
