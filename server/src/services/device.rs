//! `chancery.v1.DeviceService`.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{DeviceState, FreezeReason, ReasonCode};
use kms::{DeviceRecord, FreezeRequest, KeysetRecord};
use proto::v1;
use proto::v1::device_service_server::DeviceService;
use proto::v1::fetch_deny_list_response::Part;
use store::Commit;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::checkpoint::Checkpointer;
use crate::deeds::parse_eid;
use crate::gate::{Call, Completed, Gate, OnRepeat, context, request_digest};
use crate::operations::timestamp;
use crate::status::ServiceError;

/// Bytes of lines in one piece of a stream.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Clone)]
pub(crate) struct DeviceApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kms: kms::Engines,
    pub(crate) checkpointer: Arc<Checkpointer>,
}

#[tonic::async_trait]
impl DeviceService for DeviceApi {
    type FetchDenyListStream = ReceiverStream<Result<v1::FetchDenyListResponse, Status>>;

    async fn fetch_deny_list(
        &self,
        request: Request<v1::FetchDenyListRequest>,
    ) -> Result<Response<Self::FetchDenyListStream>, Status> {
        let (context, deadline) = context(&request)?;
        let message = request.into_inner();
        let digest = request_digest(&context.rule.path, &message);
        let mut role = None;
        let signed = async {
            let call = self.gate.admit(&context, deadline, digest)?;
            role = Some(call.caller.role());
            self.sign_deny_list(&call, message.since_version).await
        }
        .await;
        let (lines, note) = match signed {
            Ok(signed) => signed,
            Err(error) => return Err(self.gate.refuse(&context, role, Some(digest), &error).await),
        };
        let (pieces, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let lines = lines.chunks(PIECE_BYTES).map(|piece| Part::Lines(piece.to_vec()));
            for part in lines.chain([Part::Note(note)]) {
                if pieces.send(Ok(v1::FetchDenyListResponse { part: Some(part) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::GetDeviceResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let answer = self.show(&call, &message.eid)?;
                let entry = EntryDraft::new(EventType::RecordRead, Outcome::Done)
                    .role(call.caller.role())
                    .actor(call.pseudonyms.principal(&call.caller.principal()))
                    .object(call.pseudonyms.device(&parse_eid(&message.eid)?))
                    .request(call.request_digest)
                    .fact("record", Fact::fixed_name("device"));
                Ok(Completed::deed(Commit::of(vec![entry]), answer))
            })
            .await
    }

    async fn freeze_device(
        &self,
        request: Request<v1::FreezeDeviceRequest>,
    ) -> Result<Response<v1::FreezeDeviceResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let wanted = FreezeRequest {
                    eid: parse_eid(&message.eid)?,
                    reason: reason(message.reason())?,
                    reference: message.reference.clone(),
                    person: call.caller.person()?.name.clone(),
                    role: call.caller.role(),
                    actor: call.pseudonyms.principal(&call.caller.principal()),
                    request_digest: call.request_digest,
                };
                let commit = kms::freeze(self.kms.store.as_ref(), &call.pseudonyms, &wanted, call.now)?;
                Ok(Completed::deed(commit, v1::FreezeDeviceResponse::default()))
            })
            .await
    }
}

impl DeviceApi {
    /// The lines, and their head as a note of the log key; durable as an entry before either leaves.
    async fn sign_deny_list(&self, call: &Call, since: u64) -> Result<(Vec<u8>, Vec<u8>), ServiceError> {
        let store = self.kms.store.as_ref();
        let list = tokio::task::block_in_place(|| kms::DenyList::read(store, since, call.now))?;
        let head = serde_json::to_string(&list.head)
            .map_err(|_| ServiceError::Internal("a deny list's head cannot be written"))?;
        let note = self.checkpointer.sign_statement(audit::DENY_LIST, &head).await?;
        let actor = call.pseudonyms.principal(&call.caller.principal());
        let mut commit = list.fetched((call.caller.role(), actor), call.request_digest);
        commit.preconditions.push(call.caller.unchanged());
        store.commit(commit).await?;
        Ok((list.lines, note))
    }

    fn show(&self, call: &Call, eid: &str) -> Result<v1::GetDeviceResponse, ServiceError> {
        let store = self.kms.store.as_ref();
        let eid = parse_eid(eid)?;
        let device = DeviceRecord::read(store, &eid)?.ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownDevice, "no device is registered under this EID")
        })?;
        let keysets = KeysetRecord::of_device(store, &eid)?;
        let rotations = kms::rotation::device_rotations(store, &eid)?;
        Ok(v1::GetDeviceResponse {
            eid: eid.to_string(),
            state: device.state.map_or("reserved", DeviceState::as_str).to_owned(),
            eum: device.eum,
            order: device.order,
            line: device.line,
            keysets: keysets
                .into_iter()
                .map(|(name, keyset)| v1::Keyset {
                    name: Some(name.message()),
                    key_bits: u32::from(keyset.algorithm.key_bits()),
                    state: keyset.state_at(call.now).as_str().to_owned(),
                    effective_strength: keyset.effective_strength,
                    master_generation: keyset.source.generation().map_or(0, |generation| generation.0),
                    created: Some(timestamp(keyset.created)),
                    check_values: keyset.check_values.iter().map(|value| value.0.to_vec()).collect(),
                    ends: keyset.ends.map(timestamp),
                })
                .collect(),
            freeze: device.freeze.map(|freeze| v1::Freeze {
                reason: match freeze.reason {
                    FreezeReason::Stolen => v1::FreezeReason::Stolen,
                    FreezeReason::Lost => v1::FreezeReason::Lost,
                    FreezeReason::CloneSuspected => v1::FreezeReason::CloneSuspected,
                    FreezeReason::LawfulOrder => v1::FreezeReason::LawfulOrder,
                }
                .into(),
                reference: freeze.reference,
                person: freeze.person,
                time: Some(timestamp(freeze.time)),
            }),
            rotations: rotations
                .into_iter()
                .map(|(rotation, state)| v1::DeviceRotation { rotation, state: state.as_str().to_owned() })
                .collect(),
        })
    }
}

fn reason(reason: v1::FreezeReason) -> Result<FreezeReason, ServiceError> {
    match reason {
        v1::FreezeReason::Stolen => Ok(FreezeReason::Stolen),
        v1::FreezeReason::Lost => Ok(FreezeReason::Lost),
        v1::FreezeReason::CloneSuspected => Ok(FreezeReason::CloneSuspected),
        v1::FreezeReason::LawfulOrder => Ok(FreezeReason::LawfulOrder),
        v1::FreezeReason::Unspecified => {
            Err(ServiceError::refused(ReasonCode::InvalidField, "reason is missing"))
        }
    }
}
