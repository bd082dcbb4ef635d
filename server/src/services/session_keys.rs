//! `chancery.v1.SessionKeyService`.

mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm::{CallOptions, DeliveredKeys, Priority};
use kms::{Provisioner, SessionKeysRequest, TlsSecretRequest};
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
        let is_without_proof = request.get_ref().prepared;
        let operation = |call: Call, message: Arc<_>| async move { self.fetch(&call, &message).await };
        let answer = self.gate.unary(request, OnRepeat::MadeAgain, operation).await?;
        self.count(is_without_proof);
        Ok(answer)
    }

    async fn fetch_tls_secret(
        &self,
        request: Request<v1::FetchTlsSecretRequest>,
    ) -> Result<Response<v1::FetchTlsSecretResponse>, Status> {
        let is_without_proof = request.get_ref().without_device_proof;
        let operation = |call: Call, message: Arc<_>| async move { self.tls_secret(&call, &message).await };
        let answer = self.gate.unary(request, OnRepeat::MadeAgain, operation).await?;
        self.count(is_without_proof);
        Ok(answer)
    }

    async fn stream_session_keys(
        &self,
        request: Request<Streaming<v1::StreamSessionKeysRequest>>,
    ) -> Result<Response<Answers>, Status> {
        stream::open(self.clone(), request)
    }
}

impl SessionKeyApi {
    /// A release that is durable.
    fn count(&self, is_without_proof: bool) {
        if is_without_proof {
            self.gate.counters.released_without_proof.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn tls_secret(
        &self,
        call: &Call,
        message: &v1::FetchTlsSecretRequest,
    ) -> Result<Completed<v1::FetchTlsSecretResponse>, ServiceError> {
        let caller = provisioner(call)?;
        let wanted = TlsSecretRequest::parse(message, call.request_digest, call.is_repeat)?;
        let options = CallOptions { deadline: call.deadline, priority: Priority::Normal };
        let (commit, sealed) =
            kms::fetch_tls_secret(&self.kms, &call.pseudonyms, &caller, &wanted, call.now, options).await?;
        let answer = v1::FetchTlsSecretResponse {
            encapsulated_key: sealed.encapsulated_key.to_vec(),
            ciphertext: sealed.ciphertext,
            eid: sealed.eid.to_string(),
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    /// One request of an admitted call, up to its commit.
    async fn fetch(
        &self,
        call: &Call,
        message: &v1::FetchSessionKeysRequest,
    ) -> Result<Completed<v1::FetchSessionKeysResponse>, ServiceError> {
        let caller = provisioner(call)?;
        let wanted = SessionKeysRequest::parse(message, call.request_digest, call.is_repeat)?;
        let options = CallOptions { deadline: call.deadline, priority: Priority::Normal };
        let (commit, keys) =
            kms::release(&self.kms, &call.pseudonyms, &caller, &wanted, call.now, options).await?;
        let hsm::ReleasedKeys { keys: delivered, host_cryptogram, card_challenge, card_cryptogram } =
            keys.released;
        let mut answer = v1::FetchSessionKeysResponse {
            host_cryptogram,
            key_bits: u32::from(keys.algorithm.key_bits()),
            card_challenge,
            card_cryptogram,
            i_parameter: u32::from(wanted.i.value()),
            security_level: wanted.level.map_or(0, |level| u32::from(level.value())),
            ..v1::FetchSessionKeysResponse::default()
        };
        match delivered {
            DeliveredKeys::Sealed { encapsulated_key, ciphertext } => {
                answer.encapsulated_key = encapsulated_key.to_vec();
                answer.ciphertext = ciphertext;
            }
            DeliveredKeys::Wrapped(wrapped) => {
                answer.wrapped_keys = wrapped.to_vec();
                answer.transport_key_version = keys.transport_key_version;
            }
            DeliveredKeys::InClear(clear) => answer.unsealed_keys = clear.danger_expose().to_vec(),
        }
        Ok(Completed::deed(commit, answer))
    }
}

fn provisioner(call: &Call) -> Result<Provisioner, ServiceError> {
    let party = call.caller.party()?;
    let encryption_key =
        party.encryption_key.ok_or(ServiceError::Internal("a provisioner has no encryption key"))?;
    Ok(Provisioner { name: party.name.clone(), principal: call.caller.principal(), encryption_key })
}
