//! `chanceryd serve`: the composition. Tokens, log, records, cross-checks, listeners, and a stop in good order.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use audit::{EntryDraft, EventType, Fact, LogKey, Outcome, sha256};
use ca::{Issuers, KeyRegistration};
use domain::{Clock, MasterGeneration, ReasonCode};
use hsm::{ErrorClass, KeyRole, Token};
use kms::Turns;
use kms::{Grants, Masters, OutputFiles};
use proto::Rules;
use proto::v1::anchor_service_server::AnchorServiceServer;
use proto::v1::audit_service_server::AuditServiceServer;
use proto::v1::certificate_service_server::CertificateServiceServer;
use proto::v1::device_service_server::DeviceServiceServer;
use proto::v1::keyset_service_server::KeysetServiceServer;
use proto::v1::operation_service_server::OperationServiceServer;
use proto::v1::order_service_server::OrderServiceServer;
use proto::v1::ota_service_server::OtaServiceServer;
use proto::v1::rotation_service_server::RotationServiceServer;
use proto::v1::rsp_service_server::RspServiceServer;
use proto::v1::scp11_service_server::Scp11ServiceServer;
use proto::v1::session_key_service_server::SessionKeyServiceServer;
use proto::v1::standing_service_server::StandingServiceServer;
use proto::v1::transport_key_service_server::TransportKeyServiceServer;
use store::{Commit, LogStore, Store};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::authority::Authority;
use crate::checkpoint::{CheckpointError, Checkpointer};
use crate::clock::SystemClock;
use crate::config::{Config, RSP_TOKEN};
use crate::execution::Execution;
use crate::foundation::{self, Foundation};
use crate::gate::{Gate, chain};
use crate::http::{self, Window};
use crate::init::{LOG_MAC_CONTEXT, ed25519_key, pseudonyms, store_options};
use crate::layer::RuleLayer;
use crate::operations::Operations;
use crate::orders::OrderDesk;
use crate::rsp::RspDesk;
use crate::server_identity::{IdentityError, ServerIdentity};
use crate::services::{
    AnchorApi, AuditApi, CertificateApi, DeviceApi, KeysetApi, OperationApi, OrderApi, OtaApi, RotationApi,
    RspApi, Scp11Api, SessionKeyApi, StandingApi, TransportKeyApi,
};
use crate::status::ServiceError;
use crate::tls;
use crate::tokens;
use crate::upkeep::Upkeep;

/// How long a stop waits for calls under way.
const DRAIN: Duration = Duration::from_secs(10);
/// Largest request message.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// The service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot read {}; run `chanceryd init` first", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("token {token}")]
    Token { token: &'static str, source: hsm::HsmError },
    #[error("the log cannot be opened")]
    Store(#[from] store::StoreError),
    #[error("the records cannot be used")]
    Service(#[from] ServiceError),
    #[error("the log and its checkpoint do not agree")]
    Checkpoint(#[from] CheckpointError),
    #[error("the contract cannot be served")]
    Rules(#[from] proto::RulesError),
    #[error("an RPC's rule names the unknown event {0}")]
    UnknownEvent(String),
    #[error("the TLS listener cannot be set up")]
    Identity(#[from] IdentityError),
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error("{0}")]
    Foundation(&'static str),
    #[error("the listener failed")]
    Transport(#[from] tonic::transport::Error),
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the log has stopped: {0}")]
    LogStopped(Arc<str>),
}

impl ServeError {
    /// What the operator can do about it.
    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "found the authority, or correct --config; chanceryd doctor names what is missing"
            }
            Self::Token { source, .. } => match source.class {
                ErrorClass::Pin => {
                    "correct the PIN file that the configuration names, before it is tried again: tokens lock themselves"
                }
                ErrorClass::Policy | ErrorClass::Handle | ErrorClass::Blob => {
                    "the token is another one or was re-initialised: restore it from its backup; chanceryd doctor compares it"
                }
                _ => "run chanceryd doctor: it says whether the token is there, logs in and holds its keys",
            },
            Self::Store(_) | Self::LogStopped(_) => {
                "run chanceryd doctor before another start: it examines log, view, disk and clock and changes nothing"
            }
            Self::Checkpoint(_) => {
                "keep the data directory as it is and call the response team: the log may have been replaced"
            }
            Self::Listen { .. } => "free the address, or configure another; another chanceryd may be running",
            Self::Identity(_) => "restore tls/ from the backup; chanceryd doctor shows the certificates",
            Self::Foundation(_) => "compare --config with the data directory; chanceryd doctor shows both",
            Self::Service(_)
            | Self::Rules(_)
            | Self::UnknownEvent(_)
            | Self::Transport(_)
            | Self::Reflection(_) => {
                "report it to the makers, with the version that chanceryd --version shows"
            }
        }
    }
}

/// The log, opened with the key from its token.
pub(crate) struct Records {
    pub(crate) foundation: Foundation,
    pub(crate) log_keys: Vec<KeyRegistration>,
    pub(crate) log_token: Token,
    pub(crate) store: Arc<LogStore>,
    pub(crate) clock: Arc<SystemClock>,
}

/// Opens the log token, then the log.
pub(crate) async fn open_records(config: &Config) -> Result<Records, ServeError> {
    let path = config.path(foundation::FILE);
    let foundation =
        Foundation::read(&path).map_err(|source| ServeError::Read { path: path.clone(), source })?;
    if foundation.authority != config.authority || foundation.node != config.node {
        return Err(ServeError::Foundation(
            "the configuration names another authority or node than the data directory",
        ));
    }
    let log_keys = foundation.registrations().map_err(|source| ServeError::Read { path, source })?;
    let token_error = |source| ServeError::Token { token: "log", source };
    let log_token = tokens::start(config, "log", &log_keys).await.map_err(token_error)?;
    let mac = key_of(&log_keys, KeyRole::LogMac)?;
    let mac_key = log_token.service_secret(&mac.key.key, LOG_MAC_CONTEXT).await.map_err(token_error)?;
    let clock = Arc::new(SystemClock::new());
    let (store, recovery) = LogStore::open(store_options(config, mac_key, clock.clone(), 1))?;
    tracing::info!(
        entries = recovery.entries, batches = recovery.batches, ended_clean = recovery.ended_clean,
        torn_tail = ?recovery.torn_tail, view = ?recovery.view, "log open"
    );
    Ok(Records { foundation, log_keys, log_token, store: Arc::new(store), clock })
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(config: Config) -> Result<(), ServeError> {
    let rules = checked_rules()?;
    let records = open_records(&config).await?;
    let store: Arc<dyn Store> = records.store.clone();
    let keys = KeyRegistration::all(store.as_ref()).map_err(ServiceError::from)?;
    let token_error = |token| move |source| ServeError::Token { token, source };
    let ca_token = tokens::start(&config, "ca", &keys).await.map_err(token_error("ca"))?;
    let kms_token = tokens::start(&config, "kms", &keys).await.map_err(token_error("kms"))?;
    let rsp_token = match config.token(RSP_TOKEN) {
        Some(_) => Some(tokens::start(&config, RSP_TOKEN, &keys).await.map_err(token_error(RSP_TOKEN))?),
        None => None,
    };
    let now = records.clock.now();
    let yearly = key_of(&records.log_keys, KeyRole::Pseudonym)?;
    let names = pseudonyms(&records.log_token, yearly, now).await?;
    let ca = ca::Engines {
        store: Arc::clone(&store),
        token: ca_token.clone(),
        issuers: Arc::new(Issuers::default()),
        known_keys: config.known_keys(),
        crl_base_url: config.crl_base_url.as_str().into(),
        lists: config.revocation_lists,
        policy: config.certificate_policy.clone(),
    };
    let kms = kms::Engines {
        store: Arc::clone(&store),
        token: kms_token.clone(),
        masters: Arc::new(Masters::founded(masters(store.as_ref(), &keys)?)),
        challenges: Arc::default(),
        ota: Arc::default(),
        refuses_published_keys: config.mode == crate::config::Mode::Production,
        allows_tls_delivery: config.session_keys_in_tls_channel,
        grants: Arc::new(Grants::default()),
    };
    let rsp = rsp_token.clone().map(|token| kms::rsp::Engines {
        store: Arc::clone(&store),
        token,
        grants: Arc::clone(&kms.grants),
        open: Arc::default(),
    });
    let signer = key_of(&records.log_keys, KeyRole::LogSigner)?;
    let log_key =
        LogKey::new(&records.foundation.origin(), ed25519_key(signer)?).map_err(ServiceError::from)?;
    let checkpointer = Arc::new(Checkpointer::open(
        Arc::clone(&store),
        records.log_token.clone(),
        signer.key.key.clone(),
        log_key,
        config.path("checkpoint"),
    )?);
    settle_intents(&store, &names).await?;
    let authority = Arc::new(Authority::new(config.authority.clone(), Arc::clone(&store)));
    let clock: Arc<dyn Clock> = records.clock.clone();
    let gate = Arc::new(Gate::new(Arc::clone(&store), Arc::clone(&authority), clock, Arc::new(names)));
    let files = OutputFiles::open(config.path("orders")).map_err(ServiceError::from)?;

    let started = EntryDraft::new(EventType::ServiceStarted, Outcome::Done)
        .fact("build", Fact::name(env!("CARGO_PKG_VERSION")).map_err(ServiceError::from)?)
        .fact("mode", Fact::name(&format!("{:?}", config.mode).to_lowercase()).map_err(ServiceError::from)?)
        .fact("node", Fact::name(&config.node).map_err(ServiceError::from)?)
        .fact("configuration", Fact::Digest(sha256(format!("{config:?}").as_bytes())));
    store.commit(Commit::of(vec![started])).await.map_err(ServiceError::from)?;

    let (stop, stopped) = watch::channel(false);
    let window = Window {
        gate: Arc::clone(&gate),
        ca: ca.clone(),
        checkpointer: Arc::clone(&checkpointer),
        responder: Arc::default(),
        tiles: Arc::default(),
        tokens: Arc::new(
            [("log", records.log_token.clone()), ("ca", ca_token.clone()), ("kms", kms_token.clone())]
                .into_iter()
                .chain(rsp_token.clone().map(|token| (RSP_TOKEN, token)))
                .collect(),
        ),
    };
    serve_http(config.http_listen, http::public(window.clone()), stopped.clone()).await?;
    serve_http(config.metrics_listen, http::metrics(window.clone()), stopped.clone()).await?;
    let identity = Arc::new(ServerIdentity::open(&config)?);
    let rotations: Arc<Turns> = Arc::default();
    let revoked: Arc<Notify> = Arc::default();
    let upkeep = Upkeep {
        window: window.clone(),
        log_token: records.log_token.clone(),
        yearly: yearly.clone(),
        kms: kms.clone(),
        rotations: Arc::clone(&rotations),
        rsp: rsp.clone(),
        revoked: Arc::clone(&revoked),
        identity: Arc::clone(&identity),
        ocsp_answers_ahead: config.ocsp_answers_ahead,
    }
    .start(&stopped);

    let listener = listen(config.listen).await?;
    let connections = tls::accept(listener, Arc::clone(&identity), Arc::clone(&gate), stopped.clone());
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTOR)
        .build_v1()?;
    let desk = Arc::new(OrderDesk { kms: kms.clone(), ca: ca.clone(), files, turns: Turns::default() });
    let execution = Execution {
        authority: Arc::clone(&authority),
        ca: ca.clone(),
        kms: kms.clone(),
        rotations: Arc::clone(&rotations),
        rsp_token: rsp_token.clone(),
    };
    let standing_api = StandingApi { gate: Arc::clone(&gate), authority: Arc::clone(&authority) };
    let device_api =
        DeviceApi { gate: Arc::clone(&gate), kms: kms.clone(), checkpointer: Arc::clone(&checkpointer) };
    let keyset_api = KeysetApi { gate: Arc::clone(&gate), kms: kms.clone() };
    let rotation_api = RotationApi { gate: Arc::clone(&gate), kms: kms.clone(), rotations };
    let anchor_api = AnchorApi {
        gate: Arc::clone(&gate),
        authority: Arc::clone(&authority),
        ca: ca.clone(),
        rsp_token: rsp_token.clone(),
    };
    let operations = Arc::new(Operations::new(Arc::clone(&store), Arc::clone(&authority), execution));
    let limit = MESSAGE_BYTES_MAX;
    let operation_api = OperationApi { gate: Arc::clone(&gate), operations, revoked };
    let order_api = OrderApi { gate: Arc::clone(&gate), desk, checkpointer: Arc::clone(&checkpointer) };
    let transport_key_api = TransportKeyApi { gate: Arc::clone(&gate), kms: kms.clone() };
    let ota_api = OtaApi { gate: Arc::clone(&gate), kms: kms.clone() };
    let scp11_api = Scp11Api { gate: Arc::clone(&gate), kms: kms.clone() };
    let session_key_api = SessionKeyApi { gate: Arc::clone(&gate), kms };
    let rsp_api = RspApi { gate: Arc::clone(&gate), desk: RspDesk { rsp, ca: ca.clone() } };
    let certificate_api = CertificateApi {
        gate: Arc::clone(&gate),
        ca: ca.clone(),
        authority: Arc::clone(&authority),
        revoked: Arc::clone(&operation_api.revoked),
    };
    let audit_api = AuditApi {
        gate: Arc::clone(&gate),
        store: Arc::clone(&store),
        checkpointer: Arc::clone(&checkpointer),
        ca,
    };
    let mut until_stop = stopped.clone();
    let server = Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .layer(RuleLayer::new(&rules, Arc::clone(&gate)))
        .add_service(health)
        .add_service(reflection)
        .add_service(OperationServiceServer::new(operation_api).max_decoding_message_size(limit))
        .add_service(OrderServiceServer::new(order_api).max_decoding_message_size(limit))
        .add_service(SessionKeyServiceServer::new(session_key_api).max_decoding_message_size(limit))
        .add_service(OtaServiceServer::new(ota_api).max_decoding_message_size(limit))
        .add_service(Scp11ServiceServer::new(scp11_api).max_decoding_message_size(limit))
        .add_service(RspServiceServer::new(rsp_api).max_decoding_message_size(limit))
        .add_service(CertificateServiceServer::new(certificate_api).max_decoding_message_size(limit))
        .add_service(AnchorServiceServer::new(anchor_api).max_decoding_message_size(limit))
        .add_service(DeviceServiceServer::new(device_api).max_decoding_message_size(limit))
        .add_service(KeysetServiceServer::new(keyset_api).max_decoding_message_size(limit))
        .add_service(RotationServiceServer::new(rotation_api).max_decoding_message_size(limit))
        .add_service(StandingServiceServer::new(standing_api).max_decoding_message_size(limit))
        .add_service(TransportKeyServiceServer::new(transport_key_api).max_decoding_message_size(limit))
        .add_service(AuditServiceServer::new(audit_api).max_decoding_message_size(limit))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = until_stop.wait_for(|stop| *stop).await;
        });
    tracing::info!(grpc = %config.listen, http = %config.http_listen, metrics = %config.metrics_listen, mode = ?config.mode, "serving");

    let mut server = std::pin::pin!(server);
    let mut end = tokio::select! {
        ended = &mut server => ended.map_err(ServeError::from),
        () = signalled() => Ok(()),
        reason = log_stopped(Arc::clone(&store)) => Err(ServeError::LogStopped(reason)),
    };
    tracing::info!("stopping");
    health_reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    // The receivers may be gone already.
    let _ = stop.send(true);
    if tokio::time::timeout(DRAIN, server).await.is_err() {
        tracing::warn!("calls were still under way after {DRAIN:?}");
    }
    for task in upkeep {
        task.abort();
    }
    if end.is_ok() {
        let last = Commit::of(vec![EntryDraft::new(EventType::ServiceStopped, Outcome::Done)]);
        end = store.commit(last).await.map(drop).map_err(|e| ServiceError::from(e).into());
        if let Err(error) = checkpointer.sign().await {
            tracing::warn!(error = %chain(&error), "no last checkpoint");
        }
    }
    for token in [&ca_token, &kms_token, &records.log_token].into_iter().chain(&rsp_token) {
        token.shutdown().await;
    }
    records.store.shutdown();
    tracing::info!("stopped");
    end
}

/// Every RPC has its complete rule and a known event, or the server does not start.
fn checked_rules() -> Result<Rules, ServeError> {
    let rules = Rules::of_contract()?;
    for entry in rules.iter().filter_map(|rule| rule.entry.as_ref()) {
        entry.parse::<EventType>().map_err(|_| ServeError::UnknownEvent(entry.clone()))?;
    }
    Ok(rules)
}

/// Certificates that a crash left between intent and outcome never left us: they are marked failed, and what they
/// reserved is free again.
async fn settle_intents(store: &Arc<dyn Store>, names: &audit::Pseudonyms) -> Result<(), ServeError> {
    loop {
        let open = ca::reservations(store.as_ref()).map_err(ServiceError::from)?;
        if open.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            count = open.len(),
            "certificates stood between intent and outcome; marking them failed"
        );
        let mut commit = Commit::default();
        for reservation in open {
            let object = match &reservation.eid {
                Some(eid) => {
                    let (changes, preconditions) = kms::free_reserved(store.as_ref(), eid, &commit.changes)
                        .map_err(ServiceError::from)?;
                    commit.changes.extend(changes);
                    commit.preconditions.extend(preconditions);
                    names.device(eid)
                }
                None => names.party(&reservation.holder),
            };
            let (entry, changes, preconditions) = reservation.fail(ReasonCode::ShuttingDown, None, object);
            commit.entries.push(entry);
            commit.changes.extend(changes);
            commit.preconditions.extend(preconditions);
        }
        store.commit(commit).await.map_err(ServiceError::from)?;
    }
}

/// The founding masters: what is registered later has a record of its own.
fn masters(
    store: &dyn Store,
    keys: &[KeyRegistration],
) -> Result<BTreeMap<MasterGeneration, hsm::KeyRef>, ServiceError> {
    let later = kms::MasterRecord::all(store)?;
    Ok(keys
        .iter()
        .filter(|key| key.key.role == KeyRole::Master)
        .filter(|key| later.iter().all(|master| master.key != key.key.key))
        .map(|key| (MasterGeneration(key.epoch), key.key.key.clone()))
        .collect())
}

fn key_of(keys: &[KeyRegistration], role: KeyRole) -> Result<&KeyRegistration, ServeError> {
    keys.iter()
        .find(|key| key.key.role == role)
        .ok_or(ServeError::Foundation("the foundation names no key of a role that is needed"))
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

async fn serve_http(
    address: std::net::SocketAddr,
    router: axum::Router,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let listener = listen(address).await?;
    tokio::spawn(async move {
        let stop = async move { drop(stopped.wait_for(|stop| *stop).await) };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
            tracing::error!(%address, %error, "HTTP ended");
        }
    });
    Ok(())
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without signal handlers the default action ends the process.
        _ => std::future::pending().await,
    }
}

async fn log_stopped(store: Arc<dyn Store>) -> Arc<str> {
    loop {
        if let Some(reason) = store.stopped() {
            return reason;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
