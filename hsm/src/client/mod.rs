//! The daemon's side: a cheap handle with a bounded queue, in front of worker processes. Loads no PKCS#11 module.

mod check_values;
mod device_jobs;
mod dispatch;
mod incoming;
mod key_pairs;
mod ota;
mod process;
mod rsp;
mod scp11;
mod sessions;
mod supervision;
mod tls_psk;
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread;

use ecc::{Digest, EcPublicKey, Signature};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use self::check_values::CHECKED_KEYSETS_MAX;
use self::dispatch::{Dispatch, FRAME_WEIGHT_MAX, Phase};
pub(crate) use self::process::spawn;
use self::supervision::{control_options, watch};
use self::wire::{received, unexpected};
use crate::error::HsmError;
use crate::job::{CallOptions, INPUT_BYTES_MAX};
use crate::key::{KeyCheck, KeyKind, KeyRef, KeyRole, RegisteredKey};
use crate::protocol::{Job, JobOutput};
use crate::report::StartReport;
use crate::rsp::fixed;
use crate::signature::Verifier;
use crate::wire_signature::{WireDigest, WireSignature};

/// The longest context of a service secret, in bytes.
const SECRET_CONTEXT_MAX: usize = 256;

/// When a worker is replaced for the memory its module keeps: 200,000 session objects are 48 MB in SoftHSM.
pub const SESSION_OBJECTS_MAX: u64 = 200_000;

/// One PKCS#11 token and how its workers use it.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// What the service calls it: `ca`, `kms`, `log`.
    pub name: String,
    /// The PKCS#11 module, an absolute path.
    pub module: PathBuf,
    /// CK_TOKEN_INFO label.
    pub token_label: String,
    /// CK_TOKEN_INFO serialNumber; `None` only before the ceremony has recorded it.
    pub token_serial: Option<String>,
    /// Holds the user PIN, one line; only workers read it.
    pub pin_file: PathBuf,
    /// The whole environment of a worker, e.g. SOFTHSM2_CONF. Nothing of the daemon's own is passed on.
    pub environment: Vec<(String, String)>,
    /// Locked by whoever starts, replaces, initialises; created when missing.
    pub lock_file: PathBuf,
    /// Worker processes; one per core for SoftHSM, one or two for a network HSM.
    pub workers: usize,
    /// Threads with a session each in every worker; 1 for SoftHSM (its threads do not scale), more to hide a network.
    pub threads_per_worker: usize,
    /// The most jobs that wait, per priority; one more is refused as overloaded.
    pub queue_depth_max: usize,
    /// Bench only: microseconds slept before every signature, session-key set, order line, PUT KEY and card proof, as a
    /// slower token would.
    pub injected_delay_us: u64,
    /// Session objects after which a worker is replaced; [`SESSION_OBJECTS_MAX`] unless a test says otherwise.
    pub session_objects_max: u64,
    /// Whether what the token cannot do itself is refused, instead of done in zeroized memory of its workers.
    pub inside_only: bool,
}

/// The program that calls [`crate::worker::run`], or [`crate::ceremony::run_child`].
#[derive(Debug, Clone)]
pub struct WorkerCommand {
    /// An absolute path.
    pub program: PathBuf,
    /// Its arguments; no secrets.
    pub args: Vec<String>,
}

/// What a token has done since its start. All cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// C_* calls made by workers for jobs.
    pub pkcs11_calls: u64,
    /// Jobs handed in and admitted.
    pub jobs: u64,
    /// Jobs refused before they were queued.
    pub jobs_refused: u64,
    /// Microseconds inside C_* calls, summed over threads.
    pub busy_us: u64,
    /// Workers that had to be replaced; planned recycling not counted.
    pub worker_restarts: u64,
    /// Signatures that did not verify. Anything but 0 is an alarm.
    pub signature_faults: u64,
}

/// How a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Workers that take work.
    pub workers_ready: usize,
    /// Workers there should be.
    pub workers_configured: usize,
    /// Jobs waiting, over all priorities.
    pub queued: usize,
    /// Set when no worker start is tried any more: the PIN was refused. Workers already logged in go on; an alarm.
    pub stopped: Option<HsmError>,
    /// Why the last worker start failed, when none has succeeded since.
    pub start_failure: Option<HsmError>,
}

impl Health {
    /// At least one worker serves.
    pub fn is_serving(&self) -> bool {
        self.workers_ready > 0
    }
}

#[derive(Default)]
struct AtomicCounters {
    pkcs11_calls: AtomicU64,
    jobs: AtomicU64,
    jobs_refused: AtomicU64,
    busy_us: AtomicU64,
    worker_restarts: AtomicU64,
    signature_faults: AtomicU64,
}

/// A registered key as the handle needs it.
struct KnownKey {
    role: KeyRole,
    verifier: Option<Verifier>,
    /// SubjectPublicKeyInfo, DER; of a secret key empty.
    spki: Vec<u8>,
}

pub(crate) struct Inner {
    config: TokenConfig,
    command: WorkerCommand,
    state: Mutex<Dispatch>,
    changed: Condvar,
    counters: AtomicCounters,
    known: RwLock<HashMap<KeyRef, Arc<KnownKey>>>,
}

/// A handle to a token; clones share workers and queue. The workers end when [`Token::shutdown`] is called or the last
/// clone is dropped.
#[derive(Clone)]
pub struct Token {
    handle: Arc<Handle>,
}

struct Handle {
    inner: Arc<Inner>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.close();
    }
}

impl Token {
    /// Starts every worker, one after the other under the token's lock, and waits until each has opened the token,
    /// found and checked every key and passed its probes. One that does not refuses the whole start.
    pub async fn start(
        config: TokenConfig,
        keys: Vec<RegisteredKey>,
        command: WorkerCommand,
    ) -> Result<Self, HsmError> {
        if config.workers == 0 || config.threads_per_worker == 0 || config.queue_depth_max == 0 {
            return Err(HsmError::policy("workers, threads_per_worker and queue_depth_max are at least 1"));
        }
        let mut known = HashMap::new();
        for key in &keys {
            known.insert(key.key.clone(), Arc::new(KnownKey::new(key)?));
        }
        let workers = config.workers;
        let inner = Arc::new(Inner {
            config,
            command,
            state: Mutex::new(Dispatch::new(keys)),
            changed: Condvar::new(),
            counters: AtomicCounters::default(),
            known: RwLock::new(known),
        });
        let token = Self { handle: Arc::new(Handle { inner: Arc::clone(&inner) }) };
        inner.lock().slots_alive = workers;
        let mut started = Vec::new();
        for _ in 0..workers {
            let (first, outcome) = oneshot::channel();
            let inner = Arc::clone(&inner);
            thread::spawn(move || process::keep_worker(&inner, Some(first), None));
            started.push(outcome);
        }
        thread::spawn(move || watch(&inner));
        let mut result = Ok(());
        for outcome in started {
            let outcome = outcome
                .await
                .unwrap_or_else(|_| Err(HsmError::token("a worker's thread ended before its start")));
            // The first failure is the cause; later ones follow from it.
            result = result.and(outcome);
        }
        match result {
            Ok(()) => Ok(token),
            Err(error) => {
                token.shutdown().await;
                Err(error)
            }
        }
    }

    /// What the last worker to start saw of the token.
    pub fn report(&self) -> StartReport {
        self.inner().lock().report.clone().expect("a started token has a report")
    }

    /// Takes a key that a ceremony made while we run. Every living worker finds and checks it, and so will every later
    /// one; when one refuses it, nothing is added.
    pub async fn add_key(&self, key: RegisteredKey) -> Result<(), HsmError> {
        let inner = self.inner();
        let known = Arc::new(KnownKey::new(&key)?);
        for outcome in inner.ask_every_worker(&Job::AddKey(key.clone())) {
            received(outcome.await)?;
        }
        inner.known.write().unwrap_or_else(PoisonError::into_inner).insert(key.key.clone(), known);
        inner.lock().keys.push(key.clone());
        // Again, for a worker that became ready between the two steps; checking a key twice does no harm.
        for outcome in inner.ask_every_worker(&Job::AddKey(key)) {
            received(outcome.await)?;
        }
        Ok(())
    }

    /// Signs every digest with one key, in the order given; r || s. Long lists are spread over the workers.
    ///
    /// Every signature is verified here, in software, under the registered public key; a wrong one fails the whole
    /// call with class `token` and counts as a fault.
    pub async fn sign(
        &self,
        key: &KeyRef,
        digests: &[Digest],
        options: CallOptions,
    ) -> Result<Vec<Signature>, HsmError> {
        let signatures = self.danger_sign_unverified(key, digests, options).await?;
        let known = self.inner().known_key(key)?;
        let public = known.public_key(key)?;
        let all_good =
            digests.iter().zip(&signatures).all(|(digest, made)| public.verifies_digest(digest, made));
        if all_good { Ok(signatures) } else { Err(self.signature_failed(key)) }
    }

    /// As [`Token::sign`] without its check, for a caller that verifies each signature itself, in the product it goes
    /// into, before anyone sees either. One that fails there is reported with [`Token::signature_failed`].
    pub async fn danger_sign_unverified(
        &self,
        key: &KeyRef,
        digests: &[Digest],
        options: CallOptions,
    ) -> Result<Vec<Signature>, HsmError> {
        let inner = self.inner();
        let known = inner.known_key(key)?;
        let curve = known.public_key(key)?.curve();
        if known.role.is_bound_to_a_purpose() {
            return Err(HsmError::caller(format!("key {key} signs no bare digest; name what it signs")));
        }
        if let Some(digest) = digests.iter().find(|digest| !digest.is_for(curve)) {
            let bytes = digest.as_bytes().len();
            return Err(HsmError::caller(format!(
                "a digest of {bytes} bytes is none that keys on {curve} sign"
            )));
        }
        let mut outcomes = Vec::new();
        for part in digests.chunks(FRAME_WEIGHT_MAX) {
            let digests = part.iter().copied().map(WireDigest).collect();
            outcomes.push(inner.submit(Job::Sign { key: key.clone(), digests }, options)?);
        }
        let mut signatures = Vec::with_capacity(digests.len());
        for outcome in outcomes {
            match received(outcome.await)? {
                JobOutput::Signatures(part) => {
                    signatures.extend(part.into_iter().map(|WireSignature(made)| made))
                }
                other => return Err(unexpected(&other)),
            }
        }
        if signatures.len() == digests.len() { Ok(signatures) } else { Err(self.signature_failed(key)) }
    }

    /// Signs a message of at most [`INPUT_BYTES_MAX`] bytes with an Ed25519 key (RFC 8032). Verified here, as [`Token::sign`] does.
    pub async fn sign_message(
        &self,
        key: &KeyRef,
        message: Vec<u8>,
        options: CallOptions,
    ) -> Result<[u8; 64], HsmError> {
        let inner = self.inner();
        let known = inner.known_key(key)?;
        let verifier = match &known.verifier {
            Some(verifier @ Verifier::Ed25519(_)) => verifier,
            Some(Verifier::Ecdsa(_)) | None => {
                return Err(HsmError::caller(format!("key {key} signs no messages")));
            }
        };
        if message.len() > INPUT_BYTES_MAX {
            return Err(HsmError::caller(format!("a message to sign has at most {INPUT_BYTES_MAX} bytes")));
        }
        let job = Job::SignMessage { key: key.clone(), message: message.clone() };
        let signature = match received(inner.submit(job, options)?.await)? {
            JobOutput::MessageSignature(signature) => signature,
            other => return Err(unexpected(&other)),
        };
        if !verifier.accepts_message(&message, &signature) {
            return Err(self.signature_failed(key));
        }
        fixed(&signature, "a signature")
    }

    /// Counts a signature that did not verify, and says so to the operator: an alarm. The error to fail with.
    pub fn signature_failed(&self, key: &KeyRef) -> HsmError {
        let inner = self.inner();
        inner.counters.signature_faults.fetch_add(1, Ordering::Relaxed);
        tracing::error!(token = %inner.config.name, %key, "a signature from the token does not verify");
        HsmError::token(format!("a signature of key {key} does not verify; it was discarded"))
    }

    /// A 32-byte secret that only this token can produce again, bound to `context`: for the store's MAC key and the
    /// yearly pseudonym keys. The key has role `LogMac` or `Pseudonym`.
    ///
    /// SP 800-108 counter mode over the key's AES-CMAC, two blocks (docs/formats/service-secrets.md):
    /// `i(1) || "CHANCERY" || 00 || context || 0100`.
    pub async fn service_secret(&self, key: &KeyRef, context: &str) -> Result<Zeroizing<[u8; 32]>, HsmError> {
        let inner = self.inner();
        if inner.known_key(key)?.role.kind() != KeyKind::AesCmac {
            return Err(HsmError::caller(format!("key {key} makes no service secrets")));
        }
        if context.is_empty() || context.len() > SECRET_CONTEXT_MAX {
            return Err(HsmError::caller(format!("a secret's context has 1 to {SECRET_CONTEXT_MAX} bytes")));
        }
        let job = Job::ServiceSecret { key: key.clone(), context: context.to_owned() };
        match received(inner.submit(job, control_options())?.await)? {
            JobOutput::Secret(secret) => Ok(Zeroizing::new(secret.0)),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks every worker for its canary now; a worker that fails it is replaced. For health checks and `doctor`.
    pub async fn check(&self) -> Result<(), HsmError> {
        let mut asked = 0;
        for outcome in self.inner().ask_every_worker(&Job::Canary) {
            received(outcome.await)?;
            asked += 1;
        }
        if asked == 0 {
            let health = self.health();
            return Err(health
                .stopped
                .or(health.start_failure)
                .unwrap_or_else(|| HsmError::token("no worker is ready")));
        }
        Ok(())
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        let c = &self.inner().counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            pkcs11_calls: read(&c.pkcs11_calls),
            jobs: read(&c.jobs),
            jobs_refused: read(&c.jobs_refused),
            busy_us: read(&c.busy_us),
            worker_restarts: read(&c.worker_restarts),
            signature_faults: read(&c.signature_faults),
        }
    }

    /// How the token is now.
    pub fn health(&self) -> Health {
        let inner = self.inner();
        let state = inner.lock();
        Health {
            workers_ready: state.links.iter().filter(|l| l.is_ready && !l.is_draining).count(),
            workers_configured: inner.config.workers,
            queued: state.queues.iter().map(|q| q.len()).sum(),
            stopped: match &state.phase {
                Phase::Stopped(why) => Some(why.clone()),
                Phase::Serving | Phase::Draining | Phase::Closed => None,
            },
            start_failure: state.start_failure.clone(),
        }
    }

    /// Process ids of the workers that are ready.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.inner().lock().links.iter().filter(|l| l.is_ready).map(|l| l.link.pid).collect()
    }

    /// Refuses new jobs, lets begun and queued ones finish (for at most 30 s), ends every worker.
    pub async fn shutdown(&self) {
        let inner = self.inner();
        let (drained, wait) = oneshot::channel();
        {
            let mut state = inner.lock();
            if state.has_ended {
                return;
            }
            if !matches!(state.phase, Phase::Closed) {
                state.phase = Phase::Draining;
            }
            state.drained.push(drained);
        }
        inner.changed.notify_all();
        // The watch thread answers when the last slot has ended.
        let _ = wait.await;
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }
}

impl KnownKey {
    fn new(key: &RegisteredKey) -> Result<Self, HsmError> {
        let (verifier, spki) = match &key.check {
            KeyCheck::PublicKey(spki) => (Verifier::new(key.role.kind(), spki)?, spki.clone()),
            KeyCheck::CheckValue(_) => (None, Vec::new()),
        };
        let is_pair = matches!(
            key.role.kind(),
            KeyKind::Ec(_)
                | KeyKind::AdoptedEc(_)
                | KeyKind::EcAgreement
                | KeyKind::Ed25519
                | KeyKind::RsaUnwrap
        );
        if is_pair != matches!(key.check, KeyCheck::PublicKey(_)) {
            return Err(HsmError::policy(format!(
                "key {} is registered with the wrong kind of check",
                key.key
            )));
        }
        Ok(Self { role: key.role, verifier, spki })
    }

    /// Of a key that signs digests.
    fn public_key(&self, key: &KeyRef) -> Result<&EcPublicKey, HsmError> {
        match &self.verifier {
            Some(Verifier::Ecdsa(public)) => Ok(public),
            Some(Verifier::Ed25519(_)) | None => Err(HsmError::caller(format!("key {key} signs no digests"))),
        }
    }
}
