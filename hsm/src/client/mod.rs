//! The daemon's side: a cheap handle with a bounded queue, in front of worker processes. Loads no PKCS#11 module.

mod check_values;
mod dispatch;
mod incoming;
mod key_pairs;
mod ota;
mod process;
mod rsp;
mod scp11;
mod sessions;
mod tls_psk;
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use domain::{KeysetAlgorithm, Protocol};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use self::check_values::CHECKED_KEYSETS_MAX;
use self::dispatch::{Dispatch, PendingJob, Phase};
use self::process::Link;
pub(crate) use self::process::spawn;
use self::wire::{
    bounded, order_device, parts, put_key_blocks, received, unexpected, wire_eids, wire_proofs,
};
use crate::error::{ErrorClass, HsmError};
use crate::job::{
    CARD_PROOFS_MAX, CallOptions, CardProofJob, ExportJob, ExportRecipient, ExportedKeys, INPUT_BYTES_MAX,
    ORDER_CHUNK_DEVICES_MAX, OrderChunk, OrderChunkJob, OrderKeys, PUT_KEY_DEVICES_MAX, Priority,
    PutKeyBlocks, PutKeyDevice, PutKeyJob, WrappedKey,
};
use crate::key::{KeyCheck, KeyKind, KeyRef, KeyRole, RegisteredKey, SignatureAlgorithm};
use crate::protocol::{Job, JobOutput, WireExport, WireOrderChunk, WireOrderKeys, WirePutKey};
use crate::report::StartReport;
use crate::signature::Verifier;
use crate::source::{KeySource, StorageKeys};
use crate::spki;
use crate::wire_keysets::{WireKeysets, WireKind};

/// How often deadlines are looked at; a deadline is noticed at most this late.
const TICK: Duration = Duration::from_millis(10);
/// A worker idle for this long is asked for its canary.
const CANARY_INTERVAL: Duration = Duration::from_secs(5);
/// What a control job (canary, new key) may take, queueing included.
const CONTROL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a shutdown waits for work already begun.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);
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

    /// Signs every input with one key, in the order given. Long lists are spread over the workers.
    ///
    /// Every signature is verified here, in software, under the registered public key; a wrong one fails the whole
    /// call with class `token` and counts as a fault.
    pub async fn sign(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        inputs: Vec<Vec<u8>>,
        options: CallOptions,
    ) -> Result<Vec<Vec<u8>>, HsmError> {
        let signatures = self.danger_sign_unverified(key, algorithm, &inputs, options).await?;
        let known = self.inner().known_key(key)?;
        let verifier = known.verifier(key, algorithm)?;
        let all_good =
            inputs.iter().zip(&signatures).all(|(input, signature)| verifier.accepts(input, signature));
        if all_good { Ok(signatures) } else { Err(self.signature_failed(key)) }
    }

    /// As [`Token::sign`] without its check, for a caller that verifies each signature itself, in the product it goes
    /// into, before anyone sees either. One that fails there is reported with [`Token::signature_failed`].
    pub async fn danger_sign_unverified(
        &self,
        key: &KeyRef,
        algorithm: SignatureAlgorithm,
        inputs: &[Vec<u8>],
        options: CallOptions,
    ) -> Result<Vec<Vec<u8>>, HsmError> {
        let inner = self.inner();
        let known = inner.known_key(key)?;
        known.verifier(key, algorithm)?;
        if known.role.is_bound_to_a_purpose() {
            return Err(HsmError::caller(format!("key {key} signs no bare digest; name what it signs")));
        }
        for input in inputs {
            let fits = match algorithm {
                SignatureAlgorithm::EcdsaSha256 => input.len() == 32,
                SignatureAlgorithm::Ed25519 => input.len() <= INPUT_BYTES_MAX,
            };
            if !fits {
                return Err(HsmError::caller(format!("{} bytes are no input of {algorithm:?}", input.len())));
            }
        }
        let mut outcomes = Vec::new();
        for part in parts(inputs) {
            let job = Job::Sign { key: key.clone(), algorithm, inputs: part.to_vec() };
            outcomes.push(inner.submit(job, options)?);
        }
        let mut signatures = Vec::with_capacity(inputs.len());
        for outcome in outcomes {
            match received(outcome.await)? {
                JobOutput::Signatures(part) => signatures.extend(part),
                other => return Err(unexpected(&other)),
            }
        }
        if signatures.len() == inputs.len() { Ok(signatures) } else { Err(self.signature_failed(key)) }
    }

    /// Counts a signature that did not verify, and says so to the operator: an alarm. The error to fail with.
    pub fn signature_failed(&self, key: &KeyRef) -> HsmError {
        let inner = self.inner();
        inner.counters.signature_faults.fetch_add(1, Ordering::Relaxed);
        tracing::error!(token = %inner.config.name, %key, "a signature from the token does not verify");
        HsmError::token(format!("a signature of key {key} does not verify; it was discarded"))
    }

    /// Derives and wraps the keysets of one chunk of an order under a fresh transport key; see [`OrderChunkJob`].
    pub async fn order_chunk(
        &self,
        job: OrderChunkJob,
        options: CallOptions,
    ) -> Result<OrderChunk, HsmError> {
        let inner = self.inner();
        let keys = match job.keys {
            OrderKeys::Derived { master } => {
                inner.known_master(&master)?;
                WireOrderKeys::Derived { master }
            }
            OrderKeys::Random(StorageKeys { kek, blob_mac }) => {
                inner.known_storage(&kek, &blob_mac)?;
                WireOrderKeys::Random { kek, blob_mac }
            }
        };
        bounded("an order chunk", "devices", job.eids.len(), ORDER_CHUNK_DEVICES_MAX)?;
        if !job.algorithm.may_be_made() {
            return Err(HsmError::caller(format!("no {} keyset is made", job.algorithm.as_str())));
        }
        spki::rsa_public_key(&job.recipient_spki)?;
        let devices = job.eids.len();
        let wire = Job::OrderChunk(Box::new(WireOrderChunk {
            kind: WireKind::new(job.protocol, job.security_domain, job.kvn, job.algorithm),
            keys,
            recipient_spki: job.recipient_spki,
            eids: wire_eids(&job.eids),
            format: job.format.code(),
        }));
        match received(inner.submit(wire, options)?.await)? {
            JobOutput::OrderChunk { wrapped_transport_key, oaep_hash, devices: wrapped } => {
                if wrapped.len() != devices {
                    return Err(HsmError::token("the worker answered for another number of devices"));
                }
                let devices = wrapped.into_iter().map(order_device).collect();
                Ok(OrderChunk { wrapped_transport_key, oaep_hash, devices })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Derives and encrypts the new keysets of a batch of devices for PUT KEY; see [`PutKeyJob`]. One entry per EID, in
    /// their order. Neither key is ever readable: all of it happens inside the token.
    pub async fn put_key(&self, job: PutKeyJob, options: CallOptions) -> Result<Vec<PutKeyBlocks>, HsmError> {
        let inner = self.inner();
        bounded("a PUT KEY job", "devices", job.devices.len(), PUT_KEY_DEVICES_MAX)?;
        for device in &job.devices {
            inner.known_source(&device.old.source)?;
            inner.known_source(&device.new.source)?;
            may_be_put(device)?;
        }
        let asked = job.devices.len();
        let (old, new): (Vec<_>, Vec<_>) = job.devices.into_iter().map(|d| (d.old, d.new)).unzip();
        let wire = WirePutKey { old: WireKeysets::of(old), new: WireKeysets::of(new) };
        match received(inner.submit(Job::PutKey(Box::new(wire)), options)?.await)? {
            JobOutput::PutKey(devices) if devices.len() == asked => devices
                .into_iter()
                .map(put_key_blocks)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| HsmError::token("the worker answered with another number of keys")),
            JobOutput::PutKey(_) => Err(HsmError::token("the worker answered for another number of devices")),
            other => Err(unexpected(&other)),
        }
    }

    /// Wraps the static keys of one keyset in the token, for the party that will have them; see [`ExportJob`]. Derived
    /// keysets only: of a stored key, every wrap that may leave was made with it.
    pub async fn export(&self, job: ExportJob, options: CallOptions) -> Result<ExportedKeys, HsmError> {
        let inner = self.inner();
        inner.known_source(&job.keyset.source)?;
        let usages = job.keyset.keyset.protocol.usages().len();
        let (party_key, party_spki) = match job.recipient {
            ExportRecipient::Aes(key) => (Some(key), Vec::new()),
            ExportRecipient::Rsa(spki) => (None, spki),
        };
        if let Some(key) = &party_key {
            inner.known_key(key)?;
        }
        let wire = WireExport { keysets: WireKeysets::of([job.keyset]), party_key, party_spki };
        match received(inner.submit(Job::Export(Box::new(wire)), options)?.await)? {
            JobOutput::Exported { wrapped_transport_key, oaep_hash, keys } if keys.len() == usages => {
                let keys = keys
                    .into_iter()
                    .map(|key| WrappedKey { wrapped: key.wrapped, kcv: domain::KeyCheckValue(key.kcv) })
                    .collect();
                Ok(ExportedKeys { wrapped_transport_key, oaep_hash, keys })
            }
            JobOutput::Exported { .. } => {
                Err(HsmError::token("the worker answered with another number of keys"))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Checks the cryptograms of a batch of cards, each in constant time; see [`CardProofJob`]. `true` for every card
    /// that holds its keyset, in the order given. Nothing else is made and nothing is released.
    pub async fn card_proofs(&self, job: CardProofJob, options: CallOptions) -> Result<Vec<bool>, HsmError> {
        let inner = self.inner();
        bounded("a card-proof job", "proofs", job.proofs.len(), CARD_PROOFS_MAX)?;
        for proof in &job.proofs {
            inner.known_source(&proof.keyset.source)?;
        }
        let asked = job.proofs.len();
        let wire = Box::new(wire_proofs(job.proofs));
        match received(inner.submit(Job::CardProofs(wire), options)?.await)? {
            JobOutput::CardProofs(outcomes) if outcomes.len() == asked => Ok(outcomes),
            JobOutput::CardProofs(_) => {
                Err(HsmError::token("the worker answered for another number of cards"))
            }
            other => Err(unexpected(&other)),
        }
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

/// What a token can put on a card by PUT KEY.
fn may_be_put(device: &PutKeyDevice) -> Result<(), HsmError> {
    let (old, new) = (&device.old.keyset, &device.new.keyset);
    if old.eid != new.eid {
        return Err(HsmError::caller("the old keyset and the new one are of two devices"));
    }
    if old.protocol != Protocol::Scp03 || new.protocol.usages().len() != 3 {
        return Err(HsmError::caller("PUT KEY puts keysets of three keys in an SCP03 session"));
    }
    match new.algorithm {
        KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes256 => Ok(()),
        // SP 800-131A: no new 3DES keys.
        KeysetAlgorithm::TripleDes2Key | KeysetAlgorithm::TripleDes3Key => {
            Err(HsmError::caller("no 3DES keyset is made; take AES-256"))
        }
        // 24 bytes are no whole blocks, and a token pads no key that it wraps by AES-CBC.
        KeysetAlgorithm::Aes192 => Err(HsmError::caller(
            "no AES-192 keyset leaves by PUT KEY, because the token cannot pad a key inside; take AES-256",
        )),
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
            KeyKind::Ec(_) | KeyKind::EcAgreement | KeyKind::Ed25519 | KeyKind::RsaUnwrap
        );
        if is_pair != matches!(key.check, KeyCheck::PublicKey(_)) {
            return Err(HsmError::policy(format!(
                "key {} is registered with the wrong kind of check",
                key.key
            )));
        }
        Ok(Self { role: key.role, verifier, spki })
    }

    fn verifier(&self, key: &KeyRef, algorithm: SignatureAlgorithm) -> Result<&Verifier, HsmError> {
        self.verifier
            .as_ref()
            .filter(|_| algorithm.is_of(self.role.kind()))
            .ok_or_else(|| HsmError::caller(format!("key {key} does not sign {algorithm:?}")))
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Dispatch> {
        // Nothing panics while it holds the lock half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_key(&self, key: &KeyRef) -> Result<Arc<KnownKey>, HsmError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned().ok_or_else(|| HsmError::caller(format!("key {key} is not registered")))
    }

    fn known_master(&self, key: &KeyRef) -> Result<(), HsmError> {
        match self.known_key(key)?.role {
            role if role.is_master() => Ok(()),
            role => Err(HsmError::caller(format!("key {key} is a {}, no master", role.as_str()))),
        }
    }

    fn known_storage(&self, kek: &KeyRef, blob_mac: &KeyRef) -> Result<(), HsmError> {
        for (key, role) in [(kek, KeyRole::Kek), (blob_mac, KeyRole::BlobMac)] {
            let found = self.known_key(key)?.role;
            if found != role {
                let (is, needed) = (found.as_str(), role.as_str());
                return Err(HsmError::caller(format!("key {key} is a {is}, no {needed}")));
            }
        }
        Ok(())
    }

    fn known_source(&self, source: &KeySource) -> Result<(), HsmError> {
        match source {
            KeySource::Derived { master, .. } => self.known_master(master),
            KeySource::Stored(stored) => self.known_storage(&stored.storage.kek, &stored.storage.blob_mac),
        }
    }

    fn submit(
        &self,
        job: Job,
        options: CallOptions,
    ) -> Result<oneshot::Receiver<Result<JobOutput, HsmError>>, HsmError> {
        let (reply, outcome) = oneshot::channel();
        {
            let mut state = self.lock();
            if let Err(error) = state.admit(options.priority, self.config.queue_depth_max) {
                self.counters.jobs_refused.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
            let pending = PendingJob { job, deadline: options.deadline, reply: Some(reply) };
            state.queues[options.priority.index()].push_back(pending);
        }
        self.counters.jobs.fetch_add(1, Ordering::Relaxed);
        self.pump();
        Ok(outcome)
    }

    /// Hands queued jobs to free workers until one of the two runs out.
    fn pump(&self) {
        loop {
            let next = self.lock().next_frame(self.config.threads_per_worker, Instant::now());
            match next {
                Some(out) => out.link.send(out.frame, out.jobs),
                None => return,
            }
        }
    }

    fn ask_every_worker(&self, job: &Job) -> Vec<oneshot::Receiver<Result<JobOutput, HsmError>>> {
        let now = Instant::now();
        let mut outcomes = Vec::new();
        let mut outgoing = Vec::new();
        {
            let mut state = self.lock();
            for at in 0..state.links.len() {
                if state.links[at].is_ready && !state.links[at].is_draining {
                    let (reply, outcome) = oneshot::channel();
                    let job =
                        PendingJob { job: job.clone(), deadline: now + CONTROL_TIME_MAX, reply: Some(reply) };
                    outgoing.push(state.hand_over(at, vec![job], false, now));
                    outcomes.push(outcome);
                }
            }
        }
        for out in outgoing {
            out.link.send(out.frame, out.jobs);
        }
        outcomes
    }

    fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed)
    }

    fn close(&self) {
        let links: Vec<Arc<Link>> = {
            let mut state = self.lock();
            state.phase = Phase::Closed;
            state.links.iter().map(|l| Arc::clone(&l.link)).collect()
        };
        self.changed.notify_all();
        for link in links {
            link.close();
        }
    }

    fn note_start_failure(&self, error: &HsmError) {
        let mut state = self.lock();
        match error.class {
            ErrorClass::ShuttingDown => {}
            ErrorClass::Pin => {
                if matches!(state.phase, Phase::Serving) {
                    state.phase = Phase::Stopped(error.clone());
                }
            }
            _ => state.start_failure = Some(error.clone()),
        }
        let unreachable = !state.links.iter().any(|l| l.is_ready);
        let orphans: Vec<PendingJob> = if unreachable {
            state.queues.iter_mut().flat_map(|q| q.drain(..)).collect()
        } else {
            Vec::new()
        };
        drop(state);
        for job in orphans {
            let class = if error.class == ErrorClass::Pin { ErrorClass::Pin } else { ErrorClass::Token };
            PendingJob::finish(
                job.reply,
                Err(HsmError { class, ..error.clone() }.context("no worker is available")),
            );
        }
    }

    /// Forgets a dead worker and answers for everything it held. True when a successor is under way already.
    fn lose(&self, link: &Link) -> bool {
        let lost = {
            let mut state = self.lock();
            state.position(link).map(|at| state.links.swap_remove(at))
        };
        let Some(lost) = lost else { return false };
        for (reply, _) in lost.in_flight.into_values().flat_map(|f| f.waiting) {
            let error = HsmError::token("the worker ended while the job was with it; nothing was released");
            PendingJob::finish(reply, Err(error));
        }
        lost.is_being_replaced
    }

    /// No more work for `link`; it ends when its hands are empty.
    fn retire(&self, link: &Arc<Link>) {
        {
            let mut state = self.lock();
            let Some(at) = state.position(link) else { return };
            state.links[at].is_draining = true;
        }
        self.close_if_drained(link);
    }

    fn close_if_drained(&self, link: &Link) {
        let is_empty = {
            let state = self.lock();
            state
                .position(link)
                .is_some_and(|at| state.links[at].is_draining && state.links[at].in_flight.is_empty())
        };
        if is_empty {
            link.close();
        }
    }

    fn slot_ended(&self) {
        self.lock().slots_alive -= 1;
        self.changed.notify_all();
    }

    /// Waits, but not past the end of the handle.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while !matches!(state.phase, Phase::Closed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The clock of a token: deadlines, hanging workers, idle canaries, the end.
fn watch(inner: &Arc<Inner>) {
    let mut drain_until = None;
    loop {
        let now = Instant::now();
        let (late, hanging) = inner.lock().expire(now);
        for reply in late {
            let error = HsmError::new(ErrorClass::Deadline, "the deadline passed before the token answered");
            PendingJob::finish(Some(reply), Err(error));
        }
        for link in hanging {
            tracing::error!(token = %inner.config.name, pid = link.pid, "hsm worker hangs; killing it");
            link.kill();
        }
        ask_idle_canaries(inner, now);

        let state = inner.lock();
        match state.phase {
            Phase::Serving | Phase::Stopped(_) => {}
            Phase::Draining => {
                let until = *drain_until.get_or_insert(now + DRAIN_TIME_MAX);
                if state.is_idle() || now > until {
                    drop(state);
                    inner.close();
                    continue;
                }
            }
            Phase::Closed => {
                if state.slots_alive == 0 {
                    break;
                }
            }
        }
        drop(inner.changed.wait_timeout(state, TICK));
    }
    let (leftover, waiting) = {
        let mut state = inner.lock();
        state.has_ended = true;
        let leftover: Vec<PendingJob> = state.queues.iter_mut().flat_map(|q| q.drain(..)).collect();
        (leftover, std::mem::take(&mut state.drained))
    };
    for job in leftover {
        PendingJob::finish(
            job.reply,
            Err(HsmError::new(ErrorClass::ShuttingDown, "the token handle is shutting down")),
        );
    }
    for waiting in waiting {
        let _ = waiting.send(());
    }
}

fn ask_idle_canaries(inner: &Inner, now: Instant) {
    let mut outgoing = Vec::new();
    {
        let mut state = inner.lock();
        for at in 0..state.links.len() {
            let l = &state.links[at];
            if l.is_ready && !l.is_draining && l.in_flight.is_empty() && now > l.idle_since + CANARY_INTERVAL
            {
                let job = PendingJob { job: Job::Canary, deadline: now + CONTROL_TIME_MAX, reply: None };
                outgoing.push(state.hand_over(at, vec![job], false, now));
            }
        }
    }
    for out in outgoing {
        out.link.send(out.frame, out.jobs);
    }
}

fn control_options() -> CallOptions {
    CallOptions { deadline: Instant::now() + CONTROL_TIME_MAX, priority: Priority::Incident }
}
