//! `chancery.v1.OrderService`.

use std::sync::Arc;
use std::time::Duration;

use domain::ReasonCode;
use kms::OrderOutput;
use proto::v1;
use proto::v1::order_service_server::OrderService;
use proto::v1::place_order_request::Part;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::checkpoint::Checkpointer;
use crate::gate::{Call, Completed, Gate, OnRepeat, context, request_digest};
use crate::layer::CallContext;
use crate::orders::{CHUNK_DEVICES_MAX, OrderDesk, OrderStream, manufacturer};
use crate::status::ServiceError;

/// A manufacturer that pauses this long gets the results of what it has sent.
const IDLE: Duration = Duration::from_millis(200);
/// Results that may wait for the manufacturer to read them.
const RESULTS_WAITING_MAX: usize = 2 * CHUNK_DEVICES_MAX;
/// Bytes of one piece of output: below every client's default limit.
const PIECE_BYTES: usize = 256 * 1024;

#[derive(Clone)]
pub(crate) struct OrderApi {
    pub(crate) gate: Arc<Gate>,
    pub(crate) desk: Arc<OrderDesk>,
    pub(crate) checkpointer: Arc<Checkpointer>,
}

type Results<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl OrderService for OrderApi {
    type PlaceOrderStream = Results<v1::PlaceOrderResponse>;
    type FetchOrderOutputStream = Results<v1::FetchOrderOutputResponse>;

    async fn place_order(
        &self,
        request: Request<Streaming<v1::PlaceOrderRequest>>,
    ) -> Result<Response<Self::PlaceOrderStream>, Status> {
        let (context, _) = context(&request)?;
        let (results, receiver) = mpsc::channel(RESULTS_WAITING_MAX);
        let api = self.clone();
        tokio::spawn(async move {
            let mut role = None;
            if let Err(error) = api.place(&context, request.into_inner(), &results, &mut role).await {
                let status = api.gate.refuse(&context, role, None, &error).await;
                // The caller may be gone; the entry is what matters.
                let _ = results.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_order_output(
        &self,
        request: Request<v1::FetchOrderOutputRequest>,
    ) -> Result<Response<Self::FetchOrderOutputStream>, Status> {
        let (context, deadline) = context(&request)?;
        let message = request.into_inner();
        let digest = request_digest(&context.rule.path, &message);
        let (pieces, receiver) = mpsc::channel(4);
        let mut role = None;
        let opened = async {
            let call = self.gate.admit(&context, deadline, digest)?;
            role = Some(call.caller.role());
            let manufacturer = manufacturer(call.caller.party()?, &call)?;
            let store = self.desk.kms.store.as_ref();
            let output = OrderOutput::find(store, &call.pseudonyms, &manufacturer, &message.order)?;
            let mut fetched = output.fetched(&call.pseudonyms, &manufacturer, message.from_line);
            fetched.preconditions.push(call.caller.unchanged());
            self.desk.kms.store.commit(fetched).await?;
            Ok::<_, ServiceError>((call, output))
        }
        .await;
        let (call, output) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(self.gate.refuse(&context, role, Some(digest), &error).await),
        };
        let api = self.clone();
        tokio::spawn(async move {
            if let Err(error) = api.deliver(call, output, message.from_line, &pieces).await {
                let status = api.gate.refuse(&context, role, Some(digest), &error).await;
                let _ = pieces.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_order_receipt(
        &self,
        request: Request<v1::FetchOrderReceiptRequest>,
    ) -> Result<Response<v1::FetchOrderReceiptResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::MadeAgain, |call, message| async move {
                let manufacturer = manufacturer(call.caller.party()?, &call)?;
                let store = self.desk.kms.store.as_ref();
                let output = OrderOutput::find(store, &call.pseudonyms, &manufacturer, &message.order)?;
                let receipt = tokio::task::block_in_place(|| {
                    output.receipt(store, &self.desk.files, &call.pseudonyms, &manufacturer)
                })?;
                let note = self.checkpointer.sign_statement(audit::ORDER_RECEIPT, &receipt.text).await?;
                let answer = v1::FetchOrderReceiptResponse { receipt: note, entry_index: 0 };
                Ok(Completed::deed(receipt.commit, answer))
            })
            .await
    }

    async fn confirm_order_output(
        &self,
        request: Request<v1::ConfirmOrderOutputRequest>,
    ) -> Result<Response<v1::ConfirmOrderOutputResponse>, Status> {
        self.gate
            .unary(request, OnRepeat::Stored, |call, message| async move {
                let manufacturer = manufacturer(call.caller.party()?, &call)?;
                let store = self.desk.kms.store.as_ref();
                let output = OrderOutput::find(store, &call.pseudonyms, &manufacturer, &message.order)?;
                let commit = tokio::task::block_in_place(|| {
                    output.confirm(&self.desk.files, &call.pseudonyms, &manufacturer, &message.digest)
                })?;
                Ok(Completed::deed(commit, v1::ConfirmOrderOutputResponse::default()))
            })
            .await
    }
}

impl OrderApi {
    async fn place(
        &self,
        context: &CallContext,
        mut lines: Streaming<v1::PlaceOrderRequest>,
        results: &mpsc::Sender<Result<v1::PlaceOrderResponse, Status>>,
        role: &mut Option<domain::Role>,
    ) -> Result<(), ServiceError> {
        // Who calls is decided before anything is read. A long order outlives the deadline of single calls; its chunks
        // have their own.
        let deadline = std::time::Instant::now();
        let path = &context.rule.path;
        let mut call =
            self.gate.admit(context, deadline, request_digest(path, &v1::OrderHeader::default()))?;
        *role = Some(call.caller.role());
        let header = match read(&mut lines).await? {
            Some(Part::Header(header)) => header,
            Some(Part::Line(_)) | None => {
                return Err(ServiceError::refused(
                    ReasonCode::InvalidField,
                    "an order begins with its header",
                ));
            }
        };
        call.request_digest = request_digest(path, &header);
        let mut order = OrderStream::open(Arc::clone(&self.gate), Arc::clone(&self.desk), call, &header)?;
        let mut chunk = Vec::new();
        let mut ended = false;
        while !ended {
            let next = if chunk.is_empty() {
                Some(read(&mut lines).await?)
            } else {
                tokio::time::timeout(IDLE, read(&mut lines)).await.ok().transpose()?
            };
            let due = match next {
                Some(Some(Part::Line(line))) => {
                    chunk.push(line);
                    chunk.len() == CHUNK_DEVICES_MAX
                }
                Some(Some(Part::Header(_))) => {
                    return Err(ServiceError::refused(ReasonCode::InvalidField, "an order has one header"));
                }
                Some(None) => {
                    ended = true;
                    true
                }
                None => true,
            };
            if due && !chunk.is_empty() {
                for result in order.chunk(std::mem::take(&mut chunk)).await? {
                    let part = v1::place_order_response::Part::Line(result);
                    if results.send(Ok(v1::PlaceOrderResponse { part: Some(part) })).await.is_err() {
                        // The manufacturer went away; what is done is done and found again by its lines.
                        return Ok(());
                    }
                }
            }
        }
        let summary = v1::OrderSummary { accepted: order.accepted, refused: order.refused };
        let part = v1::place_order_response::Part::Summary(summary);
        let _ = results.send(Ok(v1::PlaceOrderResponse { part: Some(part) })).await;
        Ok(())
    }

    async fn deliver(
        &self,
        mut call: Call,
        output: OrderOutput,
        from_line: u64,
        pieces: &mpsc::Sender<Result<v1::FetchOrderOutputResponse, Status>>,
    ) -> Result<(), ServiceError> {
        let mut hasher = Sha256::new();
        let mut skip = from_line;
        for number in 0..output.chunks() {
            // Static keys leave here: to nobody who was suspended since the chunk before.
            self.gate.admit_again(&mut call)?;
            let chunk = tokio::task::block_in_place(|| output.chunk(&self.desk.files, number))?
                .ok_or(ServiceError::Internal("a chunk is missing"))?;
            hasher.update(chunk.bytes());
            let devices = chunk.devices();
            if skip >= devices {
                skip -= devices;
                continue;
            }
            let lines = chunk.lines_from(skip);
            skip = 0;
            let mut rest = lines.as_slice();
            while !rest.is_empty() {
                let piece = whole_lines(rest);
                rest = &rest[piece.len()..];
                let part = v1::fetch_order_output_response::Part::Lines(piece.to_vec());
                if pieces.send(Ok(v1::FetchOrderOutputResponse { part: Some(part) })).await.is_err() {
                    return Ok(());
                }
            }
        }
        let end = v1::OutputEnd { digest: hasher.finalize().to_vec(), devices: output.devices() };
        let part = v1::fetch_order_output_response::Part::End(end);
        let _ = pieces.send(Ok(v1::FetchOrderOutputResponse { part: Some(part) })).await;
        Ok(())
    }
}

/// As many whole lines as fit in a piece, at least one.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= PIECE_BYTES {
        return bytes;
    }
    let end = bytes[..PIECE_BYTES].iter().rposition(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    &bytes[..end]
}

async fn read(lines: &mut Streaming<v1::PlaceOrderRequest>) -> Result<Option<Part>, ServiceError> {
    let malformed = || {
        ServiceError::refused(ReasonCode::MalformedMessage, "a message of the stream is no PlaceOrderRequest")
    };
    match lines.message().await {
        Ok(Some(message)) => message.part.map(Some).ok_or_else(malformed),
        Ok(None) => Ok(None),
        Err(_) => Err(malformed()),
    }
}
