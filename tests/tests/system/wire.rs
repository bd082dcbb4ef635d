//! Bytes that are no gRPC: whatever a caller sends, it hears why not, the log knows who it was, and the next call is
//! answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use audit::Entry;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use proto::v1::GetCheckpointRequest;
use proto::v1::audit_service_client::AuditServiceClient;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::{Rule, Rules};
use tests::card::CryptogramBehaviour;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::caller::Caller;
use crate::devices::eid;
use crate::refusals::{ROLES, Refused};
use crate::support::{Deployment, GRANTED, PURPOSE};

/// The service takes no message that is longer.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// A message behind a prefix that may not be true: the compressed flag and the length in four bytes.
fn frame(flag: u8, length: usize, message: &[u8]) -> Bytes {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat().into()
}

/// What can be wrong with the bytes of one call.
fn malformed() -> [(&'static str, Bytes); 7] {
    // A tag that never ends: no message at all, whatever its type.
    let undecodable = [0xff; 12];
    [
        ("no message of its type", frame(0, undecodable.len(), &undecodable)),
        ("cut in the message", frame(0, 100, &[0x0a; 10])),
        ("cut in the prefix", Bytes::from_static(&[0, 0, 0])),
        ("a prefix that says less", frame(0, 1, &undecodable)),
        ("a prefix that says more than is allowed", frame(0, u32::MAX as usize, &undecodable)),
        ("too large", frame(0, MESSAGE_BYTES_MAX + 1, &vec![0; MESSAGE_BYTES_MAX + 1])),
        ("a flag that does not exist", frame(7, 2, &[0x0a, 0])),
    ]
}

/// A body whose sender goes away after the first piece.
struct CutOff(Option<Bytes>);

impl http_body::Body for CutOff {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        let piece = self.0.take().map(http_body::Frame::data);
        Poll::Ready(Some(piece.ok_or_else(|| io::Error::other("the caller goes away"))))
    }
}

async fn send(channel: &Channel, path: &str, body: Body) -> Result<Response<Body>, tonic::transport::Error> {
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    channel.clone().ready().await?.call(request).await
}

/// The status of a call that fails, from the headers or from what follows the body.
async fn refusal(channel: &Channel, path: &str, bytes: Bytes) -> Status {
    let answer = send(channel, path, Body::new(Full::new(bytes))).await.unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let body = answer.into_body().collect().await.unwrap();
    Status::from_header_map(body.trailers().expect("trailers")).expect("a status")
}

/// A caller whom the rule admits.
fn admitted<'c>(rule: &Rule, callers: &'c [Caller]) -> &'c Caller {
    let at = ROLES.iter().position(|(_, role)| rule.roles.contains(role)).unwrap();
    &callers[at]
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bytes_to_any_call_are_refused_and_recorded_and_the_next_call_is_answered() {
    let deployment = Deployment::found();
    let device = deployment.order("first", &[eid(GRANTED, 1)]).remove(0);
    let mut callers = Vec::new();
    for (name, _) in ROLES {
        callers.push(deployment.caller(name).await);
    }
    let provisioner = &callers.last().unwrap().channel;
    let rules = Rules::of_contract().unwrap();
    let mut refused: Vec<(&Rule, Refused)> = Vec::new();
    for rule in rules.iter() {
        let caller = admitted(rule, &callers);
        for (what, bytes) in malformed() {
            let status = refusal(&caller.channel, &rule.path, bytes).await;
            let what = format!("{}: {what}", rule.path);
            refused.push((rule, Refused::new(what, (Code::InvalidArgument, "MALFORMED_MESSAGE"), &status)));
        }
        // Cut by the caller itself in the middle: the stream is reset, so there is nobody to answer.
        let cut = Body::new(CutOff(Some(frame(0, 100, &[0x0a; 10]))));
        let _ = send(&caller.channel, &rule.path, cut).await;
        // On connections that have seen all this.
        let mut auditor = AuditServiceClient::new(callers[2].channel.clone());
        auditor.get_checkpoint(GetCheckpointRequest::default()).await.unwrap();
        let request = device.request(&rule.path, PURPOSE, CryptogramBehaviour::Honest);
        SessionKeyServiceClient::new(provisioner.clone()).fetch_session_keys(request).await.unwrap();
    }
    let entries: Vec<Entry> = deployment.entries();
    for (rule, refusal) in &refused {
        let entry = refusal.entry(&entries);
        assert!(entry.header.actor.is_some(), "{}: nobody", rule.path);
    }
}
