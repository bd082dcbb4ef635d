//! Many requests in one message: each is decided on its own, and one commit makes all they came to durable.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use domain::ReasonCode;
use futures_util::future::join_all;
use store::Commit;

use super::{ATTEMPTS_MAX, Call, Completed, Gate, Indexed, Keyed, OnRepeat, idempotency_key, request_digest};
use crate::layer::CallContext;
use crate::status::{ServiceError, Verdict};

/// An item of a batch that was refused or failed.
pub(crate) struct ItemRefused {
    /// Why.
    pub(crate) verdict: Verdict,
    /// The entry that records it, unless none could be written.
    pub(crate) entry: Option<u64>,
}

/// One item on its way.
struct Item<Q> {
    call: Call,
    message: Arc<Q>,
    /// Whether an item before it has the same idempotency key.
    is_double: bool,
}

/// What an item came to before it is durable.
struct Ready<A> {
    commit: Commit,
    answer: A,
}

impl Gate {
    /// Answers the items of one admitted message; answers hold keys and are made again for a repeat. `path` is that of the
    /// unary call with the same request, so that an item may be sent again by itself.
    ///
    /// One commit holds all releases and refusals. When a record that an item rests on changed meanwhile, each item is
    /// committed alone, so that the others are none the worse.
    pub(crate) async fn batch<Q, A, F, R>(
        &self,
        context: &CallContext,
        call: &Call,
        path: &str,
        messages: Vec<Q>,
        operation: &F,
    ) -> Vec<Result<A, ItemRefused>>
    where
        Q: Keyed,
        A: Indexed,
        F: Fn(Call, Arc<Q>) -> R,
        R: Future<Output = Result<Completed<A>, ServiceError>>,
    {
        let mut keys = HashSet::new();
        let items: Vec<Item<Q>> = messages
            .into_iter()
            .map(|message| {
                let is_double = !keys.insert(message.idempotency_key().unwrap_or_default().to_owned());
                let call = Call { request_digest: request_digest(path, &message), ..call.clone() };
                Item { call, message: Arc::new(message), is_double }
            })
            .collect();
        let decided = join_all(items.iter().map(|item| self.decide_item(item, operation))).await;
        match self.commit_whole(context, call, &items, &decided).await {
            Some(first_index) => self.answers(decided, first_index),
            None => {
                let alone = items.iter().zip(decided).map(|(item, ready)| async move {
                    match self.conclude_item(item, ready, operation).await {
                        Ok(answer) => {
                            self.counters.answered.fetch_add(1, Ordering::Relaxed);
                            Ok(answer)
                        }
                        Err(error) => {
                            let role = Some(call.caller.role());
                            let digest = Some(item.call.request_digest);
                            let (verdict, entry) = self.record_refusal(context, role, digest, &error).await;
                            Err(ItemRefused { verdict, entry })
                        }
                    }
                });
                join_all(alone).await
            }
        }
    }

    async fn decide_item<Q, A, F, R>(&self, item: &Item<Q>, operation: &F) -> Result<Ready<A>, ServiceError>
    where
        Q: Keyed,
        A: Indexed,
        F: Fn(Call, Arc<Q>) -> R,
        R: Future<Output = Result<Completed<A>, ServiceError>>,
    {
        let key = idempotency_key(item.message.as_ref())?;
        if item.is_double {
            return Err(ServiceError::refused(
                ReasonCode::InvalidField,
                "an item before this one has the same idempotency key",
            ));
        }
        let mut call = item.call.clone();
        call.is_repeat = self.find_repeat(&call, key)?.is_some();
        let claim = (!call.is_repeat).then_some(key);
        let completed = operation(call.clone(), Arc::clone(&item.message)).await?;
        let commit = completed.commit.ok_or(ServiceError::Internal("an item without a commit"))?;
        let commit = Self::claimed(&call, claim, OnRepeat::MadeAgain, &completed.answer, commit);
        Ok(Ready { commit, answer: completed.answer })
    }

    /// Everything in one commit: the index of its first entry, or none when it did not happen.
    async fn commit_whole<Q, A>(
        &self,
        context: &CallContext,
        call: &Call,
        items: &[Item<Q>],
        decided: &[Result<Ready<A>, ServiceError>],
    ) -> Option<u64> {
        let mut whole = Commit::default();
        for (item, ready) in items.iter().zip(decided) {
            match ready {
                Ok(Ready { commit, .. }) => {
                    whole.entries.extend_from_slice(&commit.entries);
                    whole.changes.extend_from_slice(&commit.changes);
                    whole.preconditions.extend_from_slice(&commit.preconditions);
                }
                Err(error) => {
                    let (role, digest) = (Some(call.caller.role()), Some(item.call.request_digest));
                    whole.entries.push(self.refusal_entry(context, role, digest, &error.verdict()));
                }
            }
        }
        whole.preconditions.push(call.caller.unchanged());
        self.clear_expired(&mut whole, call.now).ok()?;
        self.store.commit(whole).await.ok().map(|receipt| receipt.first_index)
    }

    fn answers<A: Indexed>(
        &self,
        decided: Vec<Result<Ready<A>, ServiceError>>,
        first_index: u64,
    ) -> Vec<Result<A, ItemRefused>> {
        let mut index = first_index;
        decided
            .into_iter()
            .map(|ready| match ready {
                Ok(Ready { commit, mut answer }) => {
                    self.counters.answered.fetch_add(1, Ordering::Relaxed);
                    answer.set_entry_index(index);
                    index += commit.entries.len() as u64;
                    Ok(answer)
                }
                Err(error) => {
                    let verdict = self.count_refusal(&error);
                    let entry = Some(index);
                    index += 1;
                    Err(ItemRefused { verdict, entry })
                }
            })
            .collect()
    }

    /// One item alone, decided again as often as it loses a race.
    async fn conclude_item<Q, A, F, R>(
        &self,
        item: &Item<Q>,
        first: Result<Ready<A>, ServiceError>,
        operation: &F,
    ) -> Result<A, ServiceError>
    where
        Q: Keyed,
        A: Indexed,
        F: Fn(Call, Arc<Q>) -> R,
        R: Future<Output = Result<Completed<A>, ServiceError>>,
    {
        let mut ready = first?;
        for attempt in 1.. {
            ready.commit.preconditions.push(item.call.caller.unchanged());
            match self.store.commit(ready.commit).await.map_err(ServiceError::from) {
                Ok(receipt) => {
                    ready.answer.set_entry_index(receipt.first_index);
                    return Ok(ready.answer);
                }
                Err(error) if error.lost_race() && attempt < ATTEMPTS_MAX => {
                    let mut call = item.call.clone();
                    self.admit_again(&mut call)?;
                    let again = Item { call, message: Arc::clone(&item.message), is_double: item.is_double };
                    ready = self.decide_item(&again, operation).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(ServiceError::Internal("no attempt was made"))
    }
}
