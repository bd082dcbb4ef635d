//! The stream of batches: read, answered together, sent in order; a few batches overlap.

use std::time::Instant;

use domain::ReasonCode;
use proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::SessionKeyApi;
use crate::gate::{Call, DEADLINE, ItemRefused, context, request_digest};
use crate::layer::CallContext;
use crate::status::ServiceError;

/// Most items of one batch.
const ITEMS_MAX: usize = 256;
/// Batches of one stream that are worked on at a time.
const BATCHES_AT_ONCE: usize = 4;
/// The call whose requests the items are: an item may be sent again alone.
const ITEM_PATH: &str = "/chancery.v1.SessionKeyService/FetchSessionKeys";

pub(super) type Answers = ReceiverStream<Result<v1::StreamSessionKeysResponse, Status>>;

/// What the caller hears next.
enum Next {
    Batch(JoinHandle<v1::StreamSessionKeysResponse>),
    End(Status),
}

/// Starts reading; the answer is there at once.
pub(super) fn open(
    api: SessionKeyApi,
    request: Request<Streaming<v1::StreamSessionKeysRequest>>,
) -> Result<Response<Answers>, Status> {
    let (context, _) = context(&request)?;
    let (answers, receiver) = mpsc::channel(1);
    let (queue, mut queued) = mpsc::channel(BATCHES_AT_ONCE - 1);
    tokio::spawn(async move {
        while let Some(next) = queued.recv().await {
            let answer = match next {
                Next::Batch(batch) => batch.await.map_err(|_| {
                    // The task ended without its answer: nothing of it leaves.
                    ServiceError::Internal("a batch ended early").verdict().into_status(None)
                }),
                Next::End(status) => Err(status),
            };
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut role = None;
        if let Err(error) = read(&api, &context, request.into_inner(), &queue, &mut role).await {
            let status = api.gate.refuse(&context, role, None, &error).await;
            // The caller may be gone; the entry is what matters.
            let _ = queue.send(Next::End(status)).await;
        }
    });
    Ok(Response::new(ReceiverStream::new(receiver)))
}

async fn read(
    api: &SessionKeyApi,
    context: &CallContext,
    mut batches: Streaming<v1::StreamSessionKeysRequest>,
    queue: &mpsc::Sender<Next>,
    role: &mut Option<domain::Role>,
) -> Result<(), ServiceError> {
    // Who calls is decided before anything is read, and again for each batch.
    let digest = request_digest(&context.rule.path, &v1::StreamSessionKeysRequest::default());
    let mut call = api.gate.admit(context, Instant::now(), digest)?;
    *role = Some(call.caller.role());
    loop {
        let items = match batches.message().await {
            Ok(Some(batch)) => batch.items,
            Ok(None) => return Ok(()),
            Err(_) => {
                return Err(ServiceError::refused(
                    ReasonCode::MalformedMessage,
                    "a message of the stream is no StreamSessionKeysRequest, or is too large",
                ));
            }
        };
        if !(1..=ITEMS_MAX).contains(&items.len()) {
            return Err(ServiceError::refused(
                ReasonCode::InvalidField,
                format!("a batch has 1 to {ITEMS_MAX} items"),
            ));
        }
        api.gate.admit_again(&mut call)?;
        call.deadline = Instant::now() + DEADLINE;
        let (task_api, task_context, task_call) = (api.clone(), context.clone(), call.clone());
        let batch = tokio::spawn(async move { answer(&task_api, &task_context, &task_call, items).await });
        if queue.send(Next::Batch(batch)).await.is_err() {
            // The caller went away; what is under way is recorded all the same.
            return Ok(());
        }
    }
}

async fn answer(
    api: &SessionKeyApi,
    context: &CallContext,
    call: &Call,
    items: Vec<v1::FetchSessionKeysRequest>,
) -> v1::StreamSessionKeysResponse {
    let without_proof: Vec<bool> = items.iter().map(|item| item.prepared).collect();
    let operation = |call, message: std::sync::Arc<_>| async move { api.fetch(&call, &message).await };
    let results = api.gate.batch(context, call, ITEM_PATH, items, &operation).await;
    for (result, is_without_proof) in results.iter().zip(without_proof) {
        api.count(is_without_proof && result.is_ok());
    }
    v1::StreamSessionKeysResponse { results: results.into_iter().map(result).collect() }
}

fn result(result: Result<v1::FetchSessionKeysResponse, ItemRefused>) -> v1::SessionKeysResult {
    use v1::session_keys_result::Outcome;
    let outcome = match result {
        Ok(keys) => Outcome::Keys(keys),
        Err(ItemRefused { verdict, entry }) => {
            let reason = verdict.refusal.reason;
            Outcome::Refusal(v1::SessionKeysRefusal {
                reason: reason.as_str().to_owned(),
                message: verdict.refusal.message,
                next_step: reason.next_step().to_owned(),
                retryable: reason.is_retryable(),
                entry_index: entry.unwrap_or(0),
            })
        }
    };
    v1::SessionKeysResult { outcome: Some(outcome) }
}
