//! What stands behind a handle: the keys it knows, the queue, the workers and what becomes of them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dispatch::{Dispatch, PendingJob, Phase};
use super::process::Link;
use super::{Inner, KnownKey};
use crate::error::{ErrorClass, HsmError};
use crate::job::{CallOptions, Priority};
use crate::key::{KeyRef, KeyRole};
use crate::protocol::{Job, JobOutput};
use crate::source::KeySource;

/// How often deadlines are looked at; a deadline is noticed at most this late.
const TICK: Duration = Duration::from_millis(10);
/// A worker idle for this long is asked for its canary.
const CANARY_INTERVAL: Duration = Duration::from_secs(5);
/// What a control job (canary, new key) may take, queueing included.
const CONTROL_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a shutdown waits for work already begun.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, Dispatch> {
        // Nothing panics while it holds the lock half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known_key(&self, key: &KeyRef) -> Result<Arc<KnownKey>, HsmError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned().ok_or_else(|| HsmError::caller(format!("key {key} is not registered")))
    }

    pub(super) fn known_master(&self, key: &KeyRef) -> Result<(), HsmError> {
        match self.known_key(key)?.role {
            role if role.is_master() => Ok(()),
            role => Err(HsmError::caller(format!("key {key} is a {}, no master", role.as_str()))),
        }
    }

    pub(super) fn known_storage(&self, kek: &KeyRef, blob_mac: &KeyRef) -> Result<(), HsmError> {
        for (key, role) in [(kek, KeyRole::Kek), (blob_mac, KeyRole::BlobMac)] {
            let found = self.known_key(key)?.role;
            if found != role {
                let (is, needed) = (found.as_str(), role.as_str());
                return Err(HsmError::caller(format!("key {key} is a {is}, no {needed}")));
            }
        }
        Ok(())
    }

    pub(super) fn known_source(&self, source: &KeySource) -> Result<(), HsmError> {
        match source {
            KeySource::Derived { master, .. } => self.known_master(master),
            KeySource::Stored(stored) => self.known_storage(&stored.storage.kek, &stored.storage.blob_mac),
        }
    }

    pub(super) fn submit(
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
    pub(super) fn pump(&self) {
        loop {
            let next = self.lock().next_frame(self.config.threads_per_worker, Instant::now());
            match next {
                Some(out) => out.link.send(out.frame, out.jobs),
                None => return,
            }
        }
    }

    pub(super) fn ask_every_worker(&self, job: &Job) -> Vec<oneshot::Receiver<Result<JobOutput, HsmError>>> {
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

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed)
    }

    pub(super) fn close(&self) {
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

    pub(super) fn note_start_failure(&self, error: &HsmError) {
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
    pub(super) fn lose(&self, link: &Link) -> bool {
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
    pub(super) fn retire(&self, link: &Arc<Link>) {
        {
            let mut state = self.lock();
            let Some(at) = state.position(link) else { return };
            state.links[at].is_draining = true;
        }
        self.close_if_drained(link);
    }

    pub(super) fn close_if_drained(&self, link: &Link) {
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

    pub(super) fn slot_ended(&self) {
        self.lock().slots_alive -= 1;
        self.changed.notify_all();
    }

    /// Waits, but not past the end of the handle.
    pub(super) fn pause(&self, time: Duration) {
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
pub(super) fn watch(inner: &Arc<Inner>) {
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

pub(super) fn control_options() -> CallOptions {
    CallOptions { deadline: Instant::now() + CONTROL_TIME_MAX, priority: Priority::Incident }
}
