//! The way of every call: admit, look for a repeat, run the operation, commit, answer. Refusals take the same way, so
//! each one has its durable entry before the caller hears of it.

mod batch;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use audit::{EntryDraft, EventType, Fact, Name, Outcome, Pseudonym, Pseudonyms};
use domain::{Clock, PrincipalId, ReasonCode, Timestamp};
use prost::Message;
use proto::{Rule, records};
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Receipt, Store};
use tokio::sync::OwnedMutexGuard;
use tonic::{Request, Response, Status};

use crate::authority::{Actor, Authority};
use crate::authorize::{AuthorizedCaller, authorize};
use crate::layer::CallContext;
use crate::records::IDEMPOTENCY;
use crate::status::{ServiceError, Verdict};

pub(crate) use batch::ItemRefused;

/// Longest idempotency key in bytes.
const IDEMPOTENCY_KEY_MAX: usize = 64;
/// How often an operation is run again when it lost a race over a record.
const ATTEMPTS_MAX: usize = 4;
/// Deadline of a call that names none, and the longest one a caller gets.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const DAY_SECONDS: i64 = 86_400;
/// Expired idempotency rows that one commit clears away.
const EXPIRED_PER_COMMIT: usize = 4;

/// A request message.
pub(crate) trait Keyed: Message + Default + 'static {
    /// Its idempotency key, where it has one.
    fn idempotency_key(&self) -> Option<&str>;
}

/// An answer message.
pub(crate) trait Indexed: Message + Default + 'static {
    /// Sets the index of the entry that records the call, where the answer carries it.
    fn set_entry_index(&mut self, index: u64);
}

/// How an answer is given when the same request comes again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnRepeat {
    /// The stored answer.
    Stored,
    /// Made again: it holds keys, which are never kept.
    MadeAgain,
}

/// One admitted call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) caller: AuthorizedCaller,
    pub(crate) pseudonyms: Arc<Pseudonyms>,
    pub(crate) now: Timestamp,
    pub(crate) deadline: Instant,
    /// SHA-256 over the path and the request.
    pub(crate) request_digest: [u8; 32],
    /// Whether it was answered before.
    pub(crate) is_repeat: bool,
}

/// What an operation comes to: durable first, then answered.
pub(crate) struct Completed<A> {
    commit: Option<Commit>,
    answer: A,
    /// Held until the commit is durable.
    turns: Vec<OwnedMutexGuard<()>>,
}

impl<A> Completed<A> {
    /// A read: nothing to commit.
    pub(crate) const fn read(answer: A) -> Self {
        Self { commit: None, answer, turns: Vec::new() }
    }

    /// A deed: its entries and changes.
    pub(crate) const fn deed(commit: Commit, answer: A) -> Self {
        Self { commit: Some(commit), answer, turns: Vec::new() }
    }

    /// A deed that keeps its turns until it is durable, so that the next one sees what it left.
    pub(crate) fn deed_in_turn(
        commit: Commit,
        answer: A,
        turns: impl IntoIterator<Item = OwnedMutexGuard<()>>,
    ) -> Self {
        Self { commit: Some(commit), answer, turns: turns.into_iter().collect() }
    }
}

/// Everything a call needs before and after its operation.
pub(crate) struct Gate {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) pseudonyms: ArcSwap<Pseudonyms>,
    pub(crate) counters: Counters,
    swept: AtomicU32,
}

/// What `/metrics` shows of the calls.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) answered: AtomicU64,
    refused: Mutex<HashMap<&'static str, u64>>,
    pub(crate) handshakes_refused: AtomicU64,
    /// Keys released for devices that had proved nothing, under grants that allow it.
    pub(crate) released_without_proof: AtomicU64,
}

impl Counters {
    fn refuse(&self, reason: ReasonCode) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(reason.as_str()).or_default() += 1;
    }

    /// Refusals by reason code.
    pub(crate) fn refusals(&self) -> Vec<(&'static str, u64)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = refused.iter().map(|(reason, count)| (*reason, *count)).collect();
        list.sort_unstable();
        list
    }
}

impl Gate {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
        pseudonyms: Arc<Pseudonyms>,
    ) -> Self {
        Self {
            store,
            authority,
            clock,
            pseudonyms: ArcSwap::new(pseudonyms),
            counters: Counters::default(),
            swept: AtomicU32::new(0),
        }
    }

    /// A unary call.
    pub(crate) async fn unary<Q, A, F, R>(
        &self,
        request: Request<Q>,
        on_repeat: OnRepeat,
        operation: F,
    ) -> Result<Response<A>, Status>
    where
        Q: Keyed,
        A: Indexed,
        F: Fn(Call, Arc<Q>) -> R,
        R: Future<Output = Result<Completed<A>, ServiceError>>,
    {
        let (context, deadline) = context(&request)?;
        let message = request.into_inner();
        let digest = request_digest(&context.rule.path, &message);
        let mut role = None;
        let outcome = async {
            let call = self.admit(&context, deadline, digest)?;
            role = Some(call.caller.role());
            self.answer(call, Arc::new(message), on_repeat, &operation).await
        }
        .await;
        match outcome {
            Ok(answer) => {
                self.counters.answered.fetch_add(1, Ordering::Relaxed);
                Ok(Response::new(answer))
            }
            Err(error) => Err(self.refuse(&context, role, Some(digest), &error).await),
        }
    }

    /// Who calls, decided; for streams, which do the rest themselves.
    pub(crate) fn admit(
        &self,
        context: &CallContext,
        deadline: Instant,
        request_digest: [u8; 32],
    ) -> Result<Call, ServiceError> {
        let principal = context.principal;
        let now = self.clock.now();
        let caller = authorize(&context.rule, principal, self.authority.actor(&principal)?, now)?;
        Ok(Call {
            caller,
            pseudonyms: self.pseudonyms.load_full(),
            now,
            deadline,
            request_digest,
            is_repeat: false,
        })
    }

    /// Decides about the caller again, as the records are now: a stream outlives the moment of its admission.
    pub(crate) fn admit_again(&self, call: &mut Call) -> Result<(), ServiceError> {
        // Grants and keysets may have ended while the call was on its way.
        call.now = self.clock.now();
        call.caller = call.caller.again(self.authority.actor(&call.caller.principal())?, call.now)?;
        Ok(())
    }

    /// Records a refusal or failure, durably, and turns it into the answer.
    pub(crate) async fn refuse(
        &self,
        context: &CallContext,
        role: Option<domain::Role>,
        request: Option<[u8; 32]>,
        error: &ServiceError,
    ) -> Status {
        let (verdict, index) = self.record_refusal(context, role, request, error).await;
        verdict.into_status(index)
    }

    async fn record_refusal(
        &self,
        context: &CallContext,
        role: Option<domain::Role>,
        request: Option<[u8; 32]>,
        error: &ServiceError,
    ) -> (Verdict, Option<u64>) {
        let verdict = self.count_refusal(error);
        let entry = self.refusal_entry(context, role, request, &verdict);
        // When the refusal itself cannot be recorded the caller still hears no: nothing is released either way.
        let index = self.store.commit(Commit::of(vec![entry])).await.ok().map(|receipt| receipt.first_index);
        (verdict, index)
    }

    fn count_refusal(&self, error: &ServiceError) -> Verdict {
        let verdict = error.verdict();
        if matches!(verdict.refusal.reason, ReasonCode::Internal | ReasonCode::LogUnavailable) {
            tracing::error!(error = %chain(error), "a call failed");
        }
        self.counters.refuse(verdict.refusal.reason);
        verdict
    }

    /// The entry of a refusal.
    pub(crate) fn refusal_entry(
        &self,
        context: &CallContext,
        role: Option<domain::Role>,
        request: Option<[u8; 32]>,
        verdict: &Verdict,
    ) -> EntryDraft {
        let event = event(&context.rule);
        let mut entry = EntryDraft::new(event, verdict.outcome)
            .actor(self.actor(event, &context.principal, &self.pseudonyms.load()))
            .fact("method", method_name(&context.rule.path));
        if let Some(role) = role {
            entry = entry.role(role);
        }
        if let Some(object) = verdict.object {
            entry = entry.object(object);
        }
        if let Some(request) = request {
            entry = entry.request(request);
        }
        entry
    }

    /// Who acts: in operation entries the person, whatever credential they use, elsewhere the credential.
    fn actor(&self, event: EventType, principal: &PrincipalId, pseudonyms: &Pseudonyms) -> Pseudonym {
        if event.as_str().starts_with("operation.")
            && let Ok(Some(Actor::Person(person))) = self.authority.actor(principal)
        {
            return pseudonyms.person(&person.name);
        }
        pseudonyms.principal(principal)
    }

    async fn answer<Q, A, F, R>(
        &self,
        mut call: Call,
        message: Arc<Q>,
        on_repeat: OnRepeat,
        operation: &F,
    ) -> Result<A, ServiceError>
    where
        Q: Keyed,
        A: Indexed,
        F: Fn(Call, Arc<Q>) -> R,
        R: Future<Output = Result<Completed<A>, ServiceError>>,
    {
        let claim = if call.caller.rule().has_idempotency_key {
            let key = idempotency_key(message.as_ref())?;
            match self.find_repeat(&call, key)? {
                Some((record, index)) if on_repeat == OnRepeat::Stored => {
                    return self.repeat(&call, &record, index).await;
                }
                Some(_) => {
                    call.is_repeat = true;
                    None
                }
                None => Some(key.to_owned()),
            }
        } else {
            None
        };
        for attempt in 1.. {
            let completed = operation(call.clone(), Arc::clone(&message)).await;
            let outcome = match completed {
                Ok(completed) => self.conclude(&call, claim.as_deref(), on_repeat, completed).await,
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.lost_race() && attempt < ATTEMPTS_MAX => {
                    // What changed may be the caller's own standing.
                    self.admit_again(&mut call)?;
                }
                outcome => return outcome,
            }
        }
        Err(ServiceError::Internal("no attempt was made"))
    }

    /// Commits with the idempotency row and only then lets the answer go.
    async fn conclude<A: Indexed>(
        &self,
        call: &Call,
        key: Option<&str>,
        on_repeat: OnRepeat,
        completed: Completed<A>,
    ) -> Result<A, ServiceError> {
        // The turns, if there are any, end with this function.
        let Completed { commit, mut answer, turns: _turns } = completed;
        let Some(commit) = commit else { return Ok(answer) };
        let mut commit = Self::claimed(call, key, on_repeat, &answer, commit);
        commit.preconditions.push(call.caller.unchanged());
        if key.is_some() {
            self.clear_expired(&mut commit, call.now)?;
        }
        let receipt: Receipt = self.store.commit(commit).await?;
        answer.set_entry_index(receipt.first_index);
        Ok(answer)
    }

    /// The commit with the idempotency row of a call that is no repeat.
    fn claimed<A: Indexed>(
        call: &Call,
        key: Option<&str>,
        on_repeat: OnRepeat,
        answer: &A,
        mut commit: Commit,
    ) -> Commit {
        if let Some(key) = key {
            let response = match on_repeat {
                OnRepeat::Stored => answer.encode_to_vec(),
                OnRepeat::MadeAgain => Vec::new(),
            };
            let row_key = row_key(day(call.now), &call.caller.principal(), key);
            let record =
                records::Idempotency { version: 1, request_digest: call.request_digest.to_vec(), response };
            commit.preconditions.push(Precondition::Absent { keyspace: IDEMPOTENCY, key: row_key.clone() });
            commit.changes.push(Change::put(IDEMPOTENCY, row_key, record.encode_to_vec()));
        }
        commit
    }

    /// A row of an earlier call under the same key: the same request, or the refusal of another one.
    fn find_repeat(
        &self,
        call: &Call,
        key: &str,
    ) -> Result<Option<(records::Idempotency, u64)>, ServiceError> {
        let today = day(call.now);
        for day in [today, today.saturating_sub(1)] {
            let Some(row) = self.store.get(IDEMPOTENCY, &row_key(day, &call.caller.principal(), key))? else {
                continue;
            };
            let record = records::Idempotency::decode(&*row.value)
                .map_err(|_| ServiceError::Internal("an idempotency record cannot be read"))?;
            if record.request_digest != call.request_digest {
                return Err(ServiceError::refused(
                    ReasonCode::IdempotencyKeyReused,
                    "this idempotency key belongs to another request",
                ));
            }
            return Ok(Some((record, row.version)));
        }
        Ok(None)
    }

    async fn repeat<A: Indexed>(
        &self,
        call: &Call,
        record: &records::Idempotency,
        index: u64,
    ) -> Result<A, ServiceError> {
        let mut answer = A::decode(record.response.as_slice())
            .map_err(|_| ServiceError::Internal("an idempotency record cannot be read"))?;
        let event = event(call.caller.rule());
        let entry = EntryDraft::new(event, Outcome::Repeated)
            .role(call.caller.role())
            .actor(self.actor(event, &call.caller.principal(), &call.pseudonyms))
            .request(call.request_digest)
            .fact("entry", Fact::Number(index));
        let mut commit = Commit::of(vec![entry]);
        commit.preconditions.push(call.caller.unchanged());
        self.store.commit(commit).await?;
        answer.set_entry_index(index);
        Ok(answer)
    }

    /// Rides on a commit: rows of days before yesterday go, a few at a time, so that none need a sweep of their own.
    fn clear_expired(&self, commit: &mut Commit, now: Timestamp) -> Result<(), ServiceError> {
        let yesterday = day(now).saturating_sub(1);
        if self.swept.load(Ordering::Relaxed) == yesterday {
            return Ok(());
        }
        let rows = self.store.scan(IDEMPOTENCY, &[], None, EXPIRED_PER_COMMIT)?;
        let mut expired =
            rows.into_iter().map(|(key, _)| key).filter(|key| key[..4] < yesterday.to_be_bytes()[..]);
        let mut cleared = 0;
        for key in expired.by_ref() {
            commit.changes.push(Change::delete(IDEMPOTENCY, key));
            cleared += 1;
        }
        if cleared == 0 {
            self.swept.store(yesterday, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The event under which calls of a rule are recorded.
pub(crate) fn event(rule: &Rule) -> EventType {
    // The server refuses to start when a rule names an unknown event (serve.rs).
    rule.entry.as_deref().and_then(|entry| entry.parse().ok()).unwrap_or(EventType::RecordRead)
}

/// Context and deadline of a request; the layer has attached both.
pub(crate) fn context<T>(request: &Request<T>) -> Result<(CallContext, Instant), Status> {
    let context = request
        .extensions()
        .get::<CallContext>()
        .cloned()
        .ok_or_else(|| ServiceError::Internal("a call without context").verdict().into_status(None))?;
    let deadline = Instant::now() + context.timeout.unwrap_or(DEADLINE).min(DEADLINE);
    Ok((context, deadline))
}

/// SHA-256 over the path, a zero byte and the request's bytes.
pub(crate) fn request_digest(path: &str, message: &impl Message) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(path.as_bytes());
    hasher.update([0]);
    hasher.update(message.encode_to_vec());
    hasher.finalize().into()
}

fn idempotency_key(message: &impl Keyed) -> Result<&str, ServiceError> {
    let key = message.idempotency_key().unwrap_or_default();
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_MAX {
        return Err(ServiceError::refused(
            ReasonCode::InvalidField,
            format!("idempotency_key has 1 to {IDEMPOTENCY_KEY_MAX} bytes"),
        ));
    }
    Ok(key)
}

/// Rows are bucketed by day, so that old ones stand first and a repeat is found for at least 24 hours.
fn row_key(day: u32, principal: &PrincipalId, key: &str) -> Vec<u8> {
    [&day.to_be_bytes()[..], &principal.0, key.as_bytes()].concat()
}

fn day(now: Timestamp) -> u32 {
    u32::try_from(now.seconds() / DAY_SECONDS).unwrap_or(0)
}

/// `/chancery.v1.SessionKeyService/FetchSessionKeys` -> `sessionkeyservice.fetchsessionkeys`.
fn method_name(path: &str) -> Fact {
    let tail = path.rsplit_once("chancery.v1.").map_or(path, |(_, tail)| tail);
    let name: String = tail.chars().map(|c| if c == '/' { '.' } else { c.to_ascii_lowercase() }).collect();
    Name::new(&name).map_or_else(|_| Fact::fixed_name("unknown"), Fact::Name)
}

/// An error with its causes on one line, for the operator's log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
