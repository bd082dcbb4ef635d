//! OCSP over HTTP (RFC 6960 appendix A, RFC 5019 §5): POST with the request as body, GET with it in the path.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use domain::Timestamp;
use hsm::{CallOptions, Priority};
use pki::ocsp::REQUEST_BYTES_MAX;

use crate::http::Window;

/// How long a client waits: within it the token signs, or the client is told to come later.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long caches between us and relying parties may keep an answer: a revocation is seen everywhere within this.
const CACHE_SECONDS: u64 = 60;

/// Clients differ in whether they write the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(crate) async fn by_post(State(window): State<Window>, headers: HeaderMap, body: Bytes) -> Response {
    let stated = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if stated != Some("application/ocsp-request") {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    answer(&window, &body).await
}

/// The path is the request in base64, percent-encoding taken off by the router; its slashes are part of it.
pub(crate) async fn by_get(State(window): State<Window>, Path(request): Path<String>) -> Response {
    let request = if request.len() <= REQUEST_BYTES_MAX * 2 { BASE64.decode(&request).ok() } else { None };
    answer(&window, &request.unwrap_or_default()).await
}

async fn answer(window: &Window, request: &[u8]) -> Response {
    let now = window.gate.clock.now();
    // Behind everything that people and parties wait for.
    let options = CallOptions { deadline: Instant::now() + DEADLINE, priority: Priority::Bulk };
    let answer = window.responder.answer(&window.ca, request, now, options).await;
    let kind = [(header::CONTENT_TYPE, "application/ocsp-response".to_owned())];
    match answer.validity {
        Some((since, until)) => {
            let age = format!("public, max-age={CACHE_SECONDS}, no-transform, must-revalidate");
            let headers = [
                (header::CACHE_CONTROL, age),
                (header::LAST_MODIFIED, http_date(since)),
                (header::EXPIRES, http_date(until)),
            ];
            (kind, headers, answer.der).into_response()
        }
        None => (kind, [(header::CACHE_CONTROL, "no-store".to_owned())], answer.der).into_response(),
    }
}

/// RFC 9110 §5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: Timestamp) -> String {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time::OffsetDateTime::from_unix_timestamp(time.seconds())
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_default()
}
