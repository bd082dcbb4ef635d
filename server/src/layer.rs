//! The tower layer in front of every service: attaches the rule of the path and the caller's principal, and records what
//! is refused before a handler sees it (unknown path, malformed message).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::{PrincipalId, ReasonCode};
use http::{Request, Response};
use proto::{Rule, Rules};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::gate::Gate;
use crate::status::{ENTRY_INDEX_HEADER, ServiceError};
use crate::tls::Peer;

/// Paths that need no rule: they tell nothing but what the contract and the port tell.
const WITHOUT_RULE: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// What the layer knows about a call.
#[derive(Clone, Debug)]
pub(crate) struct CallContext {
    pub(crate) rule: Arc<Rule>,
    pub(crate) principal: PrincipalId,
    /// From the header `grpc-timeout`.
    pub(crate) timeout: Option<Duration>,
}

/// Attaches a [`CallContext`] to every call that has a rule; refuses the others.
#[derive(Clone)]
pub(crate) struct RuleLayer {
    pub(crate) rules: Arc<Vec<Arc<Rule>>>,
    pub(crate) gate: Arc<Gate>,
}

impl RuleLayer {
    pub(crate) fn new(rules: &Rules, gate: Arc<Gate>) -> Self {
        Self { rules: Arc::new(rules.iter().map(|rule| Arc::new(rule.clone())).collect()), gate }
    }
}

impl<S> Layer<S> for RuleLayer {
    type Service = RuleService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RuleService { layer: self.clone(), inner }
    }
}

/// See [`RuleLayer`].
#[derive(Clone)]
pub(crate) struct RuleService<S> {
    layer: RuleLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for RuleService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if WITHOUT_RULE.iter().any(|prefix| path.starts_with(prefix)) {
            return Box::pin(self.inner.call(request));
        }
        let rule = self.layer.rules.iter().find(|rule| rule.path == path);
        let peer = request.extensions().get::<Peer>().copied();
        let (Some(rule), Some(peer)) = (rule, peer) else {
            // Nothing of ours lies under this path; the inner service says so.
            return Box::pin(self.inner.call(request));
        };
        let context =
            CallContext { rule: Arc::clone(rule), principal: peer.principal, timeout: timeout(&request) };
        request.extensions_mut().insert(context.clone());
        let gate = Arc::clone(&self.layer.gate);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            if !is_unrecorded_refusal(&response) {
                return Ok(response);
            }
            // The handler never ran: the message did not decode, or was too large.
            let error = ServiceError::refused(
                ReasonCode::MalformedMessage,
                "the request is no valid message of its type, or is too large",
            );
            Ok(gate.refuse(&context, None, None, &error).await.into_http())
        })
    }
}

/// Whether tonic refused by itself: an error status right in the headers, and no entry of ours.
fn is_unrecorded_refusal(response: &Response<Body>) -> bool {
    let headers = response.headers();
    headers.get("grpc-status").is_some_and(|status| status.as_bytes() != b"0")
        && !headers.contains_key(ENTRY_INDEX_HEADER)
        && !headers.contains_key("grpc-status-details-bin")
}

/// gRPC over HTTP/2: at most eight digits and a unit.
fn timeout<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}
