//! `chancery.v1.SessionKeyService`.

mod stream;

use std::sync::Arc;

use domain::ReasonCode;
use hsm::{CallOptions, Priority};
use kms::{Provisioner, SessionKeysRequest};
use proto::v1;
use proto::v1::session_key_service_server::SessionKeyService;
use tonic::{Request, Response, Status, Streaming};

use self::stream::Answers;
use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct SessionKeyApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
}

#[tonic::async_trait]
impl SessionKeyService for SessionKeyApi {
    type StreamSessionKeysStream = Answers;

    async fn fetch_session_keys(
        &self,
        request: Request<v1::FetchSessionKeysRequest>,
    ) -> Result<Response<v1::FetchSessionKeysResponse>, Status> {
        self.gate
            .unary(
                request,
                OnRepeat::MadeAgain,
                |call, message| async move { self.fetch(&call, &message).await },
            )
            .await
    }

    async fn stream_session_keys(
        &self,
        request: Request<Streaming<v1::StreamSessionKeysRequest>>,
    ) -> Result<Response<Answers>, Status> {
        stream::open(self.clone(), request)
    }
}

impl SessionKeyApi {
    /// One request of an admitted call, up to its commit.
    async fn fetch(
        &self,
        call: &Call,
        message: &v1::FetchSessionKeysRequest,
    ) -> Result<Completed<v1::FetchSessionKeysResponse>, ServiceError> {
        let caller = provisioner(call)?;
        let wanted = parse(call, message)?;
        let options = CallOptions { deadline: call.deadline, priority: Priority::Normal };
        let (commit, keys) =
            kms::release(&self.kms, &call.pseudonyms, &caller, &wanted, call.now, options).await?;
        let answer = v1::FetchSessionKeysResponse {
            encapsulated_key: keys.encapsulated_key.to_vec(),
            ciphertext: keys.ciphertext,
            host_cryptogram: keys.host_cryptogram.to_vec(),
            entry_index: 0,
            key_bits: u32::from(keys.algorithm.key_bits()),
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

fn parse(call: &Call, message: &v1::FetchSessionKeysRequest) -> Result<SessionKeysRequest, ServiceError> {
    let eid = message
        .eid
        .parse()
        .map_err(|e: domain::EidError| ServiceError::refused(ReasonCode::InvalidEid, e.to_string()))?;
    Ok(SessionKeysRequest {
        eid,
        keyset: kms::KeysetName::parse(message.keyset.as_ref())?,
        host_challenge: eight("host_challenge", &message.host_challenge)?,
        card_challenge: eight("card_challenge", &message.card_challenge)?,
        card_cryptogram: eight("card_cryptogram", &message.card_cryptogram)?,
        purpose: message.purpose.clone(),
        request_id: message.idempotency_key.clone().into_bytes(),
        request_digest: call.request_digest,
        is_repeat: call.is_repeat,
    })
}

fn eight(field: &str, bytes: &[u8]) -> Result<[u8; 8], ServiceError> {
    bytes
        .try_into()
        .map_err(|_| ServiceError::refused(ReasonCode::InvalidField, format!("{field} has 8 bytes (S8)")))
}
