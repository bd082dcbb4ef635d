//! `chancery.v1.AuditService`.

use std::sync::Arc;

use audit::{
    BundleHead, BundleWriter, EntryDraft, EventType, Fact, LogKeyRecord, Outcome, OutputFile, sha256,
};
use domain::ReasonCode;
use proto::v1;
use proto::v1::audit_service_server::AuditService;
use store::{Commit, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::checkpoint::{Checkpointer, Signed};
use crate::gate::{Call, Completed, Gate, OnRepeat, context, request_digest};
use crate::operations;
use crate::status::ServiceError;

/// Bytes of one piece of a file.
const PIECE_BYTES: usize = 256 * 1024;
/// Entries read from the log at a time.
const ENTRIES_AT_A_TIME: usize = 1_024;

#[derive(Clone)]
pub(crate) struct AuditApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) ca: ca::Engines,
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    type ExportLogStream = ReceiverStream<Result<v1::ExportLogResponse, Status>>;

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::GetCheckpointResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |_, _| async move {
                let signed = self.checkpointer.sign().await?;
                let checkpoint = String::from_utf8(signed.note.clone())
                    .map_err(|_| ServiceError::Internal("a checkpoint is no text"))?;
                Ok(Completed::read(v1::GetCheckpointResponse { checkpoint }))
            })
            .await
    }

    async fn export_log(
        &self,
        request: Request<v1::ExportLogRequest>,
    ) -> Result<Response<Self::ExportLogStream>, Status> {
        let (context, deadline) = context(&request)?;
        let message = request.into_inner();
        let digest = request_digest(&context.rule.path, &message);
        let mut role = None;
        let opened = async {
            let call = self.gate.admit(&context, deadline, digest)?;
            role = Some(call.caller.role());
            // The export holds the entry of itself.
            let entry = EntryDraft::new(EventType::LogExported, Outcome::Done)
                .role(call.caller.role())
                .actor(call.pseudonyms.principal(&call.caller.principal()))
                .request(digest)
                .fact("size", Fact::Number(self.store.tree().size));
            self.store.commit(Commit::of(vec![entry])).await?;
            let signed = self.checkpointer.sign().await?;
            let previous = Some(message.previous_checkpoint.into_bytes()).filter(|note| !note.is_empty());
            let head = BundleHead {
                software: env!("CARGO_PKG_VERSION").to_owned(),
                log_keys: vec![LogKeyRecord::first(self.checkpointer.log_key())],
                checkpoint: signed.note.clone(),
                previous,
            };
            let writer = BundleWriter::new(head).map_err(|e| {
                ServiceError::refused(
                    ReasonCode::InvalidField,
                    format!("the previous checkpoint is refused: {e}"),
                )
            })?;
            Ok::<_, ServiceError>((call, writer, signed))
        }
        .await;
        let (call, writer, signed) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(self.gate.refuse(&context, role, Some(digest), &error).await),
        };
        let (pieces, receiver) = mpsc::channel(8);
        let api = self.clone();
        tokio::spawn(async move {
            if let Err(error) = api.export(call, writer, &signed, &pieces).await {
                let status = api.gate.refuse(&context, role, Some(digest), &error).await;
                let _ = pieces.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Pieces = mpsc::Sender<Result<v1::ExportLogResponse, Status>>;

impl AuditApi {
    async fn export(
        &self,
        mut call: Call,
        mut writer: BundleWriter,
        signed: &Signed,
        pieces: &Pieces,
    ) -> Result<(), ServiceError> {
        let mut next = 0;
        while next < signed.size {
            // An export is long; the auditor may have been suspended since it began.
            self.gate.admit_again(&mut call)?;
            let wanted = usize::try_from(signed.size - next).unwrap_or(usize::MAX).min(ENTRIES_AT_A_TIME);
            let entries = tokio::task::block_in_place(|| self.store.entries(next, wanted))?;
            if entries.is_empty() {
                return Err(ServiceError::Internal("the log ends before its checkpoint"));
            }
            for entry in &entries {
                send(pieces, writer.push_entry(entry)?).await;
            }
            next += entries.len() as u64;
        }
        for (operation, evidence) in operations::evidence(self.store.as_ref())? {
            // An operation requested after the checkpoint belongs to the next export.
            if self.is_covered(&operation, signed)? {
                send(pieces, writer.push_operation(&operation, &evidence)?).await;
            }
        }
        for name in ["ci", "operator"] {
            let issuer = self.ca.issuers.find(self.store.as_ref(), name)?;
            let pem = issuer.certificate()?.pem();
            send(pieces, writer.push_certificate(&format!("{name}.pem"), pem.as_bytes())?).await;
        }
        send(pieces, writer.finish()?).await;
        Ok(())
    }

    fn is_covered(&self, operation: &[u8], signed: &Signed) -> Result<bool, ServiceError> {
        operations::version(self.store.as_ref(), &sha256(operation)).map(|version| version < signed.size)
    }
}

/// The receiver is gone when the auditor hung up; the export then ends by itself.
async fn send(pieces: &Pieces, files: Vec<OutputFile>) {
    for file in files {
        let mut rest = file.bytes.as_slice();
        loop {
            let (piece, after) = rest.split_at(rest.len().min(PIECE_BYTES));
            rest = after;
            let message = v1::ExportLogResponse {
                path: file.path.clone(),
                piece: piece.to_vec(),
                last: rest.is_empty(),
            };
            if pieces.send(Ok(message)).await.is_err() || rest.is_empty() {
                break;
            }
        }
    }
}
