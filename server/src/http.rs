//! Public HTTP (CA certificates, revocation lists, OCSP, log checkpoint and hash tiles, health) and the metrics on loopback.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hsm::Token;
use kms::rotation::Rotation;

use crate::checkpoint::Checkpointer;
use crate::gate::Gate;
use crate::http_ocsp;
use crate::tiles::{HashTiles, TileName};
use crate::upkeep::own_issuers;

/// What HTTP shows.
#[derive(Clone)]
pub(crate) struct Window {
    pub(crate) gate: Arc<Gate>,
    pub(crate) ca: ca::Engines,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) responder: Arc<ca::Responder>,
    pub(crate) tiles: Arc<HashTiles>,
    pub(crate) tokens: Arc<Vec<(&'static str, Token)>>,
}

/// The public listener's paths.
pub(crate) fn public(window: Window) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/ca/{file}", get(issuer_certificate))
        .route("/crl/{file}", get(revocation_list))
        .route("/staple/{file}", get(staple))
        .route("/ocsp", post(http_ocsp::by_post))
        .route("/ocsp/{*request}", get(http_ocsp::by_get))
        .route("/log/checkpoint", get(newest_checkpoint))
        .route("/log/tile/{*path}", get(hash_tile))
        .with_state(window)
}

/// The metrics listener's path.
pub(crate) fn metrics(window: Window) -> Router {
    Router::new().route("/metrics", get(show_metrics)).with_state(window)
}

async fn health(State(window): State<Window>) -> Response {
    let log = window.ca.store.stopped().is_none();
    let tokens = window.tokens.iter().all(|(_, token)| token.health().is_serving());
    if log && tokens {
        (StatusCode::OK, "serving\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not serving\n").into_response()
    }
}

/// `/ca/<issuer>.der` and `/ca/<issuer>.pem`.
async fn issuer_certificate(State(window): State<Window>, Path(file): Path<String>) -> Response {
    let Some((name, form)) = file.rsplit_once('.') else { return StatusCode::NOT_FOUND.into_response() };
    let Ok(issuer) = window.ca.issuers.find(window.ca.store.as_ref(), name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(certificate) = issuer.certificate() else { return StatusCode::NOT_FOUND.into_response() };
    match form {
        "der" => {
            ([(header::CONTENT_TYPE, "application/pkix-cert")], certificate.der().to_vec()).into_response()
        }
        "pem" => ([(header::CONTENT_TYPE, "application/x-pem-file")], certificate.pem()).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `/crl/<list>-a.crl` and `-b.crl`: the newest list, which every distribution point serves alike. The issuer's name is that of its full
/// list; others have `~delta`, `~s3.16`, `~p1` behind it.
async fn revocation_list(State(window): State<Window>, Path(file): Path<String>) -> Response {
    let Some(list) = ca::ListName::of_file(&file) else { return StatusCode::NOT_FOUND.into_response() };
    match ca::newest_crl(window.ca.store.as_ref(), &list) {
        Ok(Some(list)) => {
            let headers =
                [(header::CONTENT_TYPE, "application/pkix-crl"), (header::CACHE_CONTROL, "max-age=60")];
            (headers, list.der).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// `/staple/<list>.p7c`: the authorities above certificates that name this list, and the newest list of each.
async fn staple(State(window): State<Window>, Path(file): Path<String>) -> Response {
    let list = file.strip_suffix(".p7c").and_then(|name| ca::ListName::of_file(&format!("{name}-a.crl")));
    let Some(list) = list else { return StatusCode::NOT_FOUND.into_response() };
    match tokio::task::block_in_place(|| ca::staple(&window.ca, &list)) {
        Ok(Some(staple)) => {
            let headers =
                [(header::CONTENT_TYPE, "application/pkcs7-mime"), (header::CACHE_CONTROL, "max-age=60")];
            (headers, staple.to_der()).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// C2SP tlog-tiles: the checkpoint changes, so it is cached shortly.
async fn newest_checkpoint(State(window): State<Window>) -> Response {
    let signed = window.checkpointer.newest();
    if signed.note.is_empty() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "max-age=1")];
    (headers, signed.note.clone()).into_response()
}

/// C2SP tlog-tiles: a tile never changes. Entries themselves are for auditors, by export.
async fn hash_tile(State(window): State<Window>, Path(path): Path<String>) -> Response {
    let Some(name) = TileName::parse(&path) else { return StatusCode::NOT_FOUND.into_response() };
    let size = window.checkpointer.newest().size;
    let read = tokio::task::block_in_place(|| window.tiles.read(window.ca.store.as_ref(), size, name));
    match read {
        Ok(Some(bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::CACHE_CONTROL, "max-age=31536000, immutable"),
            ];
            (headers, bytes).into_response()
        }
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn show_metrics(State(window): State<Window>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, labels: &str, value: u64| {
        let _ = writeln!(text, "{name}{labels} {value}");
    };
    line("chancery_log_entries", "", window.ca.store.tree().size);
    line("chancery_checkpoint_size", "", window.checkpointer.newest().size);
    line("chancery_calls_answered_total", "", window.gate.counters.answered.load(Ordering::Relaxed));
    line(
        "chancery_handshakes_refused_total",
        "",
        window.gate.counters.handshakes_refused.load(Ordering::Relaxed),
    );
    line(
        "chancery_releases_without_proof_total",
        "",
        window.gate.counters.released_without_proof.load(Ordering::Relaxed),
    );
    for (reason, count) in window.gate.counters.refusals() {
        line("chancery_calls_refused_total", &format!("{{reason=\"{reason}\"}}"), count);
    }
    for rotation in Rotation::all(window.ca.store.as_ref()).unwrap_or_default() {
        let status = rotation.status();
        for (state, devices) in [
            ("pending", status.pending),
            ("leased", status.leased),
            ("loaded", status.loaded),
            ("confirmed", status.confirmed),
            ("failed", status.failed),
        ] {
            let labels = format!("{{rotation=\"{}\",state=\"{state}\"}}", rotation.terms.name);
            line("chancery_rotation_devices", &labels, devices);
        }
    }
    for issuer in own_issuers(&window.ca) {
        if let Ok(Some(list)) = ca::newest_crl(window.ca.store.as_ref(), &ca::ListName::full(&issuer)) {
            let ends = u64::try_from(list.next_update.seconds()).unwrap_or(0);
            let label = format!("{{issuer=\"{issuer}\"}}");
            line("chancery_revocation_list_number", &label, list.number);
            line("chancery_revocation_list_entries", &label, list.entries);
            line("chancery_revocation_list_ends_seconds", &label, ends);
        }
    }
    for anchor in ca::Anchor::all(window.ca.store.as_ref()).unwrap_or_default() {
        if let (false, Ok(Some(list))) = (anchor.retired, anchor.list(window.ca.store.as_ref())) {
            let ends = u64::try_from(list.next_update.seconds()).unwrap_or(0);
            line("chancery_anchor_list_ends_seconds", &format!("{{anchor=\"{}\"}}", anchor.name), ends);
        }
    }
    let denied = kms::denied_devices(window.ca.store.as_ref()).unwrap_or(0);
    line("chancery_denied_devices", "", denied as u64);
    for (kind, count) in [
        ("signed", &window.responder.signed),
        ("repeated", &window.responder.repeated),
        ("refused", &window.responder.refused),
        ("ahead", &window.responder.ahead),
    ] {
        let labels = format!("{{kind=\"{kind}\"}}");
        line("chancery_ocsp_answers_total", &labels, count.load(Ordering::Relaxed));
    }
    for (name, token) in window.tokens.iter() {
        let (counters, health) = (token.counters(), token.health());
        let label = format!("{{token=\"{name}\"}}");
        line("chancery_token_jobs_total", &label, counters.jobs);
        line("chancery_token_jobs_refused_total", &label, counters.jobs_refused);
        line("chancery_token_pkcs11_calls_total", &label, counters.pkcs11_calls);
        line("chancery_token_busy_microseconds_total", &label, counters.busy_us);
        line("chancery_token_worker_restarts_total", &label, counters.worker_restarts);
        line("chancery_token_signature_faults_total", &label, counters.signature_faults);
        line("chancery_token_workers_ready", &label, health.workers_ready as u64);
        line("chancery_token_queue_depth", &label, health.queued as u64);
    }
    text
}
