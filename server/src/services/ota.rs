//! `chancery.v1.OtaService`.

use std::sync::Arc;

use hsm::{CallOptions, Priority};
use kms::ota::{AnswerOpened, AnswerRequest, PacketRequest, Platform, RequestId, ScriptRequest};
use proto::v1;
use proto::v1::open_response_response::Opened;
use proto::v1::ota_service_server::OtaService;
use tonic::{Request, Response, Status};

use crate::gate::{Call, Completed, Gate, OnRepeat};
use crate::status::ServiceError;

#[derive(Clone)]
pub(crate) struct OtaApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
}

#[tonic::async_trait]
impl OtaService for OtaApi {
    async fn secure_packet(
        &self,
        request: Request<v1::SecurePacketRequest>,
    ) -> Result<Response<v1::SecurePacketResponse>, Status> {
        // Decided and made again for a repeat, with the counter it has taken: nothing leaves after a freeze.
        self.gate
            .unary(
                request,
                OnRepeat::MadeAgain,
                |call, message| async move { self.packet(&call, &message).await },
            )
            .await
    }

    async fn wrap_script(
        &self,
        request: Request<v1::WrapScriptRequest>,
    ) -> Result<Response<v1::WrapScriptResponse>, Status> {
        self.gate
            .unary(
                request,
                OnRepeat::MadeAgain,
                |call, message| async move { self.script(&call, &message).await },
            )
            .await
    }

    async fn open_response(
        &self,
        request: Request<v1::OpenResponseRequest>,
    ) -> Result<Response<v1::OpenResponseResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move { self.open(&call, &message).await })
            .await
    }
}

impl OtaApi {
    async fn packet(
        &self,
        call: &Call,
        message: &v1::SecurePacketRequest,
    ) -> Result<Completed<v1::SecurePacketResponse>, ServiceError> {
        let wanted = PacketRequest::parse(message, request_id(call, &message.idempotency_key))?;
        let platform = platform(call)?;
        let (commit, made) =
            kms::ota::secure_packet(&self.kms, &call.pseudonyms, &platform, &wanted, call.now, options(call))
                .await?;
        let answer = v1::SecurePacketResponse {
            packet: made.packet,
            counter: made.counter,
            security_parameters: made.security_parameters.to_vec(),
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    async fn script(
        &self,
        call: &Call,
        message: &v1::WrapScriptRequest,
    ) -> Result<Completed<v1::WrapScriptResponse>, ServiceError> {
        let wanted = ScriptRequest::parse(message, request_id(call, &message.idempotency_key))?;
        let platform = platform(call)?;
        let (commit, made) =
            kms::ota::wrap_script(&self.kms, &call.pseudonyms, &platform, &wanted, call.now, options(call))
                .await?;
        let answer = v1::WrapScriptResponse {
            initialize_update: made.initialize_update,
            external_authenticate: made.script.external_authenticate,
            commands: made.script.commands,
            sequence_counter: made.sequence_counter.to_vec(),
            host_challenge: made.host_challenge,
            card_challenge: made.script.card_challenge,
            card_cryptogram: made.script.card_cryptogram,
            entry_index: 0,
        };
        Ok(Completed::deed(commit, answer))
    }

    async fn open(
        &self,
        call: &Call,
        message: &v1::OpenResponseRequest,
    ) -> Result<Completed<v1::OpenResponseResponse>, ServiceError> {
        let wanted = AnswerRequest::parse(message, call.request_digest)?;
        let platform = platform(call)?;
        let (commit, opened) =
            kms::ota::open_answer(&self.kms, &call.pseudonyms, &platform, &wanted, call.now, options(call))
                .await?;
        let opened = match opened {
            AnswerOpened::Packet(packet) => Opened::Packet(v1::PacketOpened {
                tar: packet.tar.0.to_vec(),
                counter: packet.counter,
                status: u32::from(packet.status.0),
                status_name: packet.status.as_str().to_owned(),
                data: packet.data,
            }),
            AnswerOpened::Script(answers) => Opened::Script(v1::ScriptOpened {
                answers: answers
                    .into_iter()
                    .map(|answer| v1::CommandAnswer {
                        data: answer.data,
                        status_word: u32::from(u16::from_be_bytes(answer.status_word)),
                        proved: answer.is_proved,
                    })
                    .collect(),
            }),
        };
        let answer = v1::OpenResponseResponse { opened: Some(opened), entry_index: 0 };
        Ok(Completed::deed(commit, answer))
    }
}

fn platform(call: &Call) -> Result<Platform, ServiceError> {
    let name = call.caller.party()?.name.clone();
    Ok(Platform { name, principal: call.caller.principal(), unchanged: call.caller.unchanged() })
}

fn request_id(call: &Call, idempotency_key: &str) -> RequestId {
    RequestId {
        idempotency_key: idempotency_key.as_bytes().to_vec(),
        digest: call.request_digest,
        is_repeat: call.is_repeat,
    }
}

fn options(call: &Call) -> CallOptions {
    CallOptions { deadline: call.deadline, priority: Priority::Normal }
}
