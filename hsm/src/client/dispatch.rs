//! The queue in front of a token's workers: bounded, by priority, drained in frames.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::process::Link;
use crate::error::{ErrorClass, HsmError};
use crate::job::Priority;
use crate::key::RegisteredKey;
use crate::protocol::{Job, JobOutput, TimedJob};
use crate::report::StartReport;

/// The most jobs (or digests to sign) of one frame: enough to make the socket's cost vanish, few enough to stay fair.
pub(super) const FRAME_WEIGHT_MAX: usize = 32;
/// A frame without a batch of devices that takes longer than this hangs.
const FRAME_TIME_MAX: Duration = Duration::from_secs(10);
/// How long after its last deadline a frame may still be answered before its worker is killed.
const KILL_GRACE: Duration = Duration::from_secs(1);

pub(super) type JobReply = oneshot::Sender<Result<JobOutput, HsmError>>;

pub(super) struct PendingJob {
    pub(super) job: Job,
    pub(super) deadline: Instant,
    /// `None` for a canary of our own.
    pub(super) reply: Option<JobReply>,
}

impl PendingJob {
    fn weight(&self) -> usize {
        match &self.job {
            Job::Sign { digests, .. } => digests.len().max(1),
            Job::SignMessage { .. }
            | Job::SessionKeys(_)
            | Job::ServiceSecret { .. }
            | Job::RspSign(_)
            | Job::RspBind(_)
            | Job::TlsSecret(_)
            | Job::Scp11(_) => 1,
            Job::CardProofs(job) => job.proofs.len().max(1),
            Job::Ota(job) => job.work.len().max(1),
            Job::CheckValues(keysets) => keysets.keysets.len().max(1),
            // Alone in a frame: each is long, or about the worker itself.
            Job::OrderChunk(_)
            | Job::KeyPairs { .. }
            | Job::PutKey(_)
            | Job::Export(_)
            | Job::Incoming(_)
            | Job::AddKey(_)
            | Job::Canary => FRAME_WEIGHT_MAX,
        }
    }

    /// Nobody waits any more.
    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    pub(super) fn finish(reply: Option<JobReply>, result: Result<JobOutput, HsmError>) {
        if let Some(reply) = reply {
            // A caller that went away needs no answer.
            let _ = reply.send(result);
        }
    }
}

/// A frame in a worker's hands.
pub(super) struct InFlight {
    /// One per job of the frame, in its order; `None` once answered.
    pub(super) waiting: Vec<(Option<JobReply>, Instant)>,
    kill_at: Instant,
    is_bulk: bool,
}

/// One living worker process as the queue sees it.
pub(super) struct LinkState {
    pub(super) link: Arc<Link>,
    /// Set when its start succeeded.
    pub(super) is_ready: bool,
    /// Takes no more frames; ends when its hands are empty.
    pub(super) is_draining: bool,
    /// A successor is on its way.
    pub(super) is_being_replaced: bool,
    pub(super) in_flight: HashMap<u64, InFlight>,
    pub(super) idle_since: Instant,
    /// Killed when it is not ready by then.
    pub(super) start_by: Instant,
}

impl LinkState {
    fn takes_work(&self, threads: usize) -> bool {
        self.is_ready && !self.is_draining && self.in_flight.len() < threads
    }
}

pub(super) enum Phase {
    Serving,
    /// No worker start is tried again: the PIN was refused.
    Stopped(HsmError),
    /// Refuses new jobs, finishes old ones.
    Draining,
    /// Everything ends.
    Closed,
}

/// All that changes; behind one lock that is never held across a system call that can block.
pub(super) struct Dispatch {
    pub(super) phase: Phase,
    pub(super) queues: [VecDeque<PendingJob>; Priority::COUNT],
    pub(super) links: Vec<LinkState>,
    pub(super) keys: Vec<RegisteredKey>,
    pub(super) report: Option<StartReport>,
    /// Why the last worker start failed, while none has succeeded since.
    pub(super) start_failure: Option<HsmError>,
    /// Slot threads that have not ended.
    pub(super) slots_alive: usize,
    /// Who waits for the end.
    pub(super) drained: Vec<oneshot::Sender<()>>,
    /// The watch thread is gone, and every worker with it.
    pub(super) has_ended: bool,
    next_id: u64,
}

/// A frame to be written now, outside the lock.
pub(super) struct Outgoing {
    pub(super) link: Arc<Link>,
    pub(super) frame: u64,
    pub(super) jobs: Vec<TimedJob>,
}

impl Dispatch {
    pub(super) fn new(keys: Vec<RegisteredKey>) -> Self {
        Self {
            phase: Phase::Serving,
            queues: Default::default(),
            links: Vec::new(),
            keys,
            report: None,
            start_failure: None,
            slots_alive: 0,
            drained: Vec::new(),
            has_ended: false,
            next_id: 1,
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether a job may join the queue of its priority.
    pub(super) fn admit(&self, priority: Priority, queue_depth_max: usize) -> Result<(), HsmError> {
        let is_served = self.links.iter().any(|l| l.is_ready);
        match &self.phase {
            Phase::Serving => {}
            // Workers that are logged in go on; only no other is started.
            Phase::Stopped(_) if is_served => {}
            Phase::Stopped(why) => return Err(why.clone()),
            Phase::Draining | Phase::Closed => {
                return Err(HsmError::new(ErrorClass::ShuttingDown, "the token handle is shutting down"));
            }
        }
        if let Some(why) = &self.start_failure
            && !is_served
        {
            // The breaker is open: no worker lives and the last start failed. Answer now, not at the deadline.
            return Err(
                HsmError { class: ErrorClass::Token, ..why.clone() }.context("no worker is available")
            );
        }
        if self.queues[priority.index()].len() >= queue_depth_max {
            return Err(HsmError::new(
                ErrorClass::Overloaded,
                format!("{queue_depth_max} jobs wait already"),
            ));
        }
        Ok(())
    }

    /// Takes the next frame for a worker thread that is free, if there are both.
    pub(super) fn next_frame(&mut self, threads: usize, now: Instant) -> Option<Outgoing> {
        // The least loaded first.
        let (at, _) = self
            .links
            .iter()
            .enumerate()
            .filter(|(_, l)| l.takes_work(threads))
            .min_by_key(|(_, l)| l.in_flight.len())?;
        let ready = self.links.iter().filter(|l| l.is_ready && !l.is_draining).count();
        let capacity = ready * threads;
        let bulk_running = self.links.iter().flat_map(|l| l.in_flight.values()).filter(|f| f.is_bulk).count();
        let bulk_allowed = bulk_running < (capacity - 1).max(1);
        let queued: usize = self.queues.iter().map(VecDeque::len).sum();
        // Share what waits among the workers instead of handing it all to the first.
        let weight_max = queued.div_ceil(capacity.max(1)).clamp(1, FRAME_WEIGHT_MAX);

        let mut taken = Vec::new();
        let mut weight = 0;
        let mut is_bulk = false;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let bulk_queue = index == Priority::Bulk.index();
            if bulk_queue && (!taken.is_empty() || !bulk_allowed) {
                break;
            }
            while let Some(next) = queue.front() {
                if next.is_abandoned() {
                    queue.pop_front();
                    continue;
                }
                if !taken.is_empty() && weight + next.weight() > weight_max {
                    break;
                }
                weight += next.weight();
                taken.extend(queue.pop_front());
                is_bulk |= bulk_queue;
                if weight >= weight_max {
                    break;
                }
            }
            if weight >= weight_max {
                break;
            }
        }
        if taken.is_empty() {
            return None;
        }
        Some(self.hand_over(at, taken, is_bulk, now))
    }

    /// Registers `jobs` as one frame in the hands of link number `at`.
    pub(super) fn hand_over(
        &mut self,
        at: usize,
        jobs: Vec<PendingJob>,
        is_bulk: bool,
        now: Instant,
    ) -> Outgoing {
        let frame = self.next_id();
        let longest =
            jobs.iter().map(|j| j.deadline.saturating_duration_since(now)).max().unwrap_or_default();
        // Both look at their deadline before every device.
        let has_batch =
            jobs.iter().any(|j| matches!(j.job, Job::OrderChunk(_) | Job::KeyPairs { .. } | Job::PutKey(_)));
        let limit = if has_batch { longest } else { longest.min(FRAME_TIME_MAX) };
        let mut waiting = Vec::with_capacity(jobs.len());
        let mut timed = Vec::with_capacity(jobs.len());
        for job in jobs {
            let budget = job.deadline.saturating_duration_since(now);
            timed.push(TimedJob {
                budget_us: u64::try_from(budget.as_micros()).unwrap_or(u64::MAX),
                job: job.job,
            });
            waiting.push((job.reply, job.deadline));
        }
        let state = &mut self.links[at];
        state.in_flight.insert(frame, InFlight { waiting, kill_at: now + limit + KILL_GRACE, is_bulk });
        Outgoing { link: Arc::clone(&state.link), frame, jobs: timed }
    }

    pub(super) fn position(&self, link: &Link) -> Option<usize> {
        self.links.iter().position(|l| l.link.id == link.id)
    }

    /// Ends what is past its deadline; the workers to be killed come back.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<JobReply>, Vec<Arc<Link>>) {
        let mut late = Vec::new();
        for queue in &mut self.queues {
            if queue.iter().any(|j| j.deadline <= now || j.is_abandoned()) {
                let (keep, gone): (VecDeque<_>, VecDeque<_>) =
                    queue.drain(..).partition(|j| j.deadline > now && !j.is_abandoned());
                *queue = keep;
                late.extend(gone.into_iter().filter_map(|j| j.reply));
            }
        }
        let mut hanging = Vec::new();
        for state in &mut self.links {
            if !state.is_ready && now > state.start_by {
                hanging.push(Arc::clone(&state.link));
            }
            for frame in state.in_flight.values_mut() {
                for (reply, deadline) in &mut frame.waiting {
                    if *deadline <= now {
                        late.extend(reply.take());
                    }
                }
                if now > frame.kill_at {
                    hanging.push(Arc::clone(&state.link));
                }
            }
        }
        (late, hanging)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty) && self.links.iter().all(|l| l.in_flight.is_empty())
    }
}
