//! `chancery.v1.Scp11Service`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm::{CallOptions, Priority};
use kms::Provisioner;
use kms::scp11::{NewCardKey, Scp11Fetch, SessionRequest};
use proto::v1;
use proto::v1::scp11_service_server::Scp11Service;
use tonic::{Request, Response, Status};

use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct Scp11Api {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
}

#[tonic::async_trait]
impl Scp11Service for Scp11Api {
    async fn register_card_keys(
        &self,
        request: Request<v1::RegisterCardKeysRequest>,
    ) -> Result<Response<v1::RegisterCardKeysResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let keys = NewCardKey::parse_all(&message)?;
                let (party, principal) = (call.caller.party()?.name.clone(), call.caller.principal());
                let who = (party.as_str(), &principal);
                let commit = kms::scp11::register_card_keys(
                    &self.kms,
                    &call.pseudonyms,
                    who,
                    &keys,
                    call.request_digest,
                    call.now,
                )?;
                Ok(Completed::deed(commit, v1::RegisterCardKeysResponse { entry_index: 0 }))
            })
            .await
    }

    async fn open_scp11_session(
        &self,
        request: Request<v1::OpenScp11SessionRequest>,
    ) -> Result<Response<v1::OpenScp11SessionResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let caller = provisioner(&call)?;
                let wanted = SessionRequest::parse(message.session.as_ref())?;
                let opened = kms::scp11::open_scp11_session(
                    &self.kms,
                    &call.pseudonyms,
                    &caller,
                    &wanted,
                    call.now,
                    options(&call),
                )
                .await?;
                Ok(Completed::read(v1::OpenScp11SessionResponse {
                    session_id: opened.session_id.to_vec(),
                    command_data: opened.command_data,
                }))
            })
            .await
    }

    async fn fetch_scp11_keys(
        &self,
        request: Request<v1::FetchScp11KeysRequest>,
    ) -> Result<Response<v1::FetchScp11KeysResponse>, Status> {
        let is_without_proof = request.get_ref().without_device_proof;
        // Decided and made again for a repeat: nothing leaves after a freeze.
        let answer =
            self.gate
                .unary(request, OnRepeat::MadeAgain, |call, message| async move {
                    self.fetch(&call, &message).await
                })
                .await?;
        if is_without_proof {
            self.gate.counters.released_without_proof.fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer)
    }
}

impl Scp11Api {
    async fn fetch(
        &self,
        call: &Call,
        message: &v1::FetchScp11KeysRequest,
    ) -> Result<Completed<v1::FetchScp11KeysResponse>, ServiceError> {
        let caller = provisioner(call)?;
        let wanted = Scp11Fetch::parse(message, call.request_digest, call.is_repeat)?;
        let (commit, sealed) = kms::scp11::fetch_scp11_keys(
            &self.kms,
            &call.pseudonyms,
            &caller,
            &wanted,
            call.now,
            options(call),
        )
        .await?;
        let answer = v1::FetchScp11KeysResponse {
            encapsulated_key: sealed.encapsulated_key.to_vec(),
            ciphertext: sealed.ciphertext,
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }
}

fn provisioner(call: &Call) -> Result<Provisioner, ServiceError> {
    let party = call.caller.party()?;
    let encryption_key =
        party.encryption_key.ok_or(ServiceError::Internal("a provisioner has no encryption key"))?;
    Ok(Provisioner { name: party.name.clone(), principal: call.caller.principal(), encryption_key })
}

fn options(call: &Call) -> CallOptions {
    CallOptions { deadline: call.deadline, priority: Priority::Normal }
}
