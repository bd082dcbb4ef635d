//! The committer: one thread that gives every commit its place in the log.
//!
//! The cycle of a batch: 1. take one commit and whatever else waits; 2. read the clock; 3. check preconditions one
//! after the other, against the rows and the batch so far, a failed commit drops out alone; 4. seal entries, grow the
//! tree; 5. write and sync, once; 6. make the rows visible; 7. publish the new tree; 8. answer. A fault in 2 to 6
//! stops the store: nothing is answered with success before 7, nothing is tried twice.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError},
};

use audit::Frontier;
use crossbeam_channel::{Receiver, TryRecvError};
use domain::{Clock, Timestamp};
use tokio::sync::oneshot;

use crate::{
    Commit, CommitError, Home, Precondition, Receipt, StoreError, TreeHead,
    batch::{BATCH_OVERHEAD, Batch, BatchWriter, COMMIT_OVERHEAD, Place},
    commit::Outcome,
    limits,
    log_store::Shared,
    segment::SECTOR,
    tail::LogTail,
    view::ViewWrites,
    walk::LogPlace,
};

const CLOCK_BEHIND_MICROS_MAX: i64 = 1_000_000;
const CLOCK_DRIFT_MICROS_MAX: i64 = 5_000_000;

/// What the handles send the committer.
pub(crate) enum Message {
    Commit(Job),
    Close,
}

/// A commit and who waits for it.
pub(crate) struct Job {
    pub commit: Commit,
    pub answer: oneshot::Sender<Outcome>,
}

/// An upper bound of the bytes a commit takes in a batch.
pub(crate) fn bytes_max(commit: &Commit) -> usize {
    commit.entries.len() * (2 + limits::ENTRY_BYTES_MAX) + COMMIT_OVERHEAD + commit.state_bytes()
}

/// How much a batch may hold at most, given the segment size.
pub(crate) fn batch_capacity(segment_bytes: u64) -> usize {
    usize::try_from(segment_bytes).unwrap_or(usize::MAX).saturating_sub(SECTOR + BATCH_OVERHEAD)
}

/// Where entry times come from.
pub(crate) struct ClockRule {
    clock: Arc<dyn Clock>,
    start: (Timestamp, u64),
    /// An officer allowed a start behind the log; holds until the wall clock has caught up.
    catching_up: bool,
}

impl ClockRule {
    pub fn new(clock: Arc<dyn Clock>, catching_up: bool) -> Self {
        let start = (clock.now(), clock.monotonic_micros());
        Self { clock, start, catching_up }
    }

    /// How far the wall clock stands behind the last entry, if more than allowed.
    pub fn behind(now: Timestamp, last: Timestamp) -> Option<i64> {
        let behind = last.micros().saturating_sub(now.micros());
        (behind > CLOCK_BEHIND_MICROS_MAX).then_some(behind)
    }

    pub fn read(&mut self, last: Option<Timestamp>) -> Result<Timestamp, String> {
        let now = self.clock.now();
        let steady = self.clock.monotonic_micros().wrapping_sub(self.start.1).cast_signed();
        let wall = now.micros().saturating_sub(self.start.0.micros());
        let drift = wall.saturating_sub(steady);
        if drift.saturating_abs() > CLOCK_DRIFT_MICROS_MAX {
            return Err(format!("the wall clock drifted {drift} us from the monotonic clock"));
        }
        match last.and_then(|last| Self::behind(now, last)) {
            Some(behind) if !self.catching_up => {
                Err(format!("the wall clock is {behind} us behind the last entry"))
            }
            Some(_) => Ok(now),
            None => {
                self.catching_up = false;
                Ok(now)
            }
        }
    }
}

/// A commit with its place and its sealed entries, or why it drops out.
type Placed = Result<(Receipt, Vec<Vec<u8>>), CommitError>;

/// The thread's state.
pub(crate) struct Committer {
    pub shared: Arc<Shared>,
    pub messages: Receiver<Message>,
    pub tail: LogTail,
    pub clock: ClockRule,
    pub frontier: Frontier,
    pub last_time: Option<Timestamp>,
}

impl Committer {
    /// Runs until the store is closed or must stop.
    pub fn run(mut self) {
        let _guard = StopOnPanic(Arc::clone(&self.shared));
        let mut writer = BatchWriter::default();
        let mut carried = None;
        let mut closing = false;
        while let Some(first) = carried.take().or_else(|| if closing { None } else { self.next() }) {
            let mut room = self.shared.batch_capacity.saturating_sub(bytes_max(&first.commit));
            let mut target = limits::BATCH_BYTES_TARGET.saturating_sub(bytes_max(&first.commit));
            let mut jobs = VecDeque::from([first]);
            while jobs.len() < limits::BATCH_COMMITS_MAX && target > 0 && !closing {
                match self.messages.try_recv() {
                    Ok(Message::Commit(job)) => {
                        let bytes = bytes_max(&job.commit);
                        if bytes > room {
                            carried = Some(job);
                            break;
                        }
                        room -= bytes;
                        target = target.saturating_sub(bytes);
                        jobs.push_back(job);
                    }
                    Ok(Message::Close) | Err(TryRecvError::Disconnected) => closing = true,
                    Err(TryRecvError::Empty) => break,
                }
            }
            let mut answers = Vec::with_capacity(jobs.len());
            if let Err(reason) = self.commit(&mut jobs, &mut answers, &mut writer) {
                // Before `jobs` and `answers` are dropped, so that the tickets see it.
                self.shared.stop(reason);
                return;
            }
            for (outcome, answer) in answers {
                // Whoever no longer listens has lost nothing: the commit stands.
                let _ = answer.send(outcome);
            }
        }
    }

    fn next(&self) -> Option<Job> {
        match self.messages.recv() {
            Ok(Message::Commit(job)) => Some(job),
            Ok(Message::Close) | Err(_) => None,
        }
    }

    /// Steps 2 to 7. Refusals are answered with the rest, after the sync: one may rest on a commit of this batch.
    fn commit(
        &mut self,
        jobs: &mut VecDeque<Job>,
        answers: &mut Vec<(Outcome, oneshot::Sender<Outcome>)>,
        writer: &mut BatchWriter,
    ) -> Result<(), String> {
        if let Some(reason) = self.shared.switch.reason() {
            return Err(reason.to_string());
        }
        let now = self.clock.read(self.last_time)?;
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| format!("no randomness: {error}"))?;
        writer.begin(&salt);

        let first_index = self.frontier.size();
        let mut overlay = Overlay::new(jobs.len() > 1);
        let mut accepted = false;
        while let Some(job) = jobs.front() {
            let placed = self.place(&job.commit, &overlay, now).map_err(|error| describe(&error))?;
            let Some(Job { commit, answer }) = jobs.pop_front() else { break };
            match placed {
                Ok((receipt, sealed)) => {
                    for (entry, leaf) in sealed.iter().zip(&receipt.leaf_hashes) {
                        writer.entry(entry);
                        self.frontier.push(*leaf);
                    }
                    writer.commit((receipt.first_index - first_index) as u32, &commit.changes);
                    overlay.cover(&commit, receipt.first_index);
                    self.last_time = Some(receipt.time.plus_micros(sealed.len() as i64 - 1));
                    accepted = true;
                    answers.push((Ok(receipt), answer));
                }
                Err(error) => answers.push((Err(error), answer)),
            }
        }
        let (true, Some(last_time)) = (accepted, self.last_time) else { return Ok(()) };

        let tree = TreeHead { size: self.frontier.size(), root: self.frontier.root() };
        let place = Place {
            epoch: self.shared.identity.epoch,
            number: self.tail.next_batch,
            previous_hash: self.tail.previous_hash,
            tree,
            last_time,
        };
        let (bytes, header, hash) = writer.finish(place, &self.shared.log_mac);
        let at = self.tail.append(bytes, hash).map_err(|error| {
            self.shared.release_reserve_if_full(&error);
            describe(&error)
        })?;
        let shared = Arc::clone(&self.shared);
        let _applying = shared.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = Batch::unverified(header, hash, bytes);
        self.show(&batch, at)?;
        self.shared.publish(tree, batch.header.number, first_index, at);
        Ok(())
    }

    /// Checks one commit and seals its entries at the next indexes.
    fn place(&self, commit: &Commit, overlay: &Overlay, now: Timestamp) -> Result<Placed, StoreError> {
        for precondition in &commit.preconditions {
            let (keyspace, key) = (precondition.keyspace(), precondition.key());
            let version = match overlay.version(keyspace.code, key) {
                Some(version) => version,
                None => self.shared.row(keyspace, key)?.map(|row| row.version),
            };
            let holds = match precondition {
                Precondition::Absent { .. } => version.is_none(),
                Precondition::Version { version: expected, .. } => version == Some(*expected),
            };
            if !holds {
                return Ok(Err(CommitError::PreconditionFailed { keyspace: keyspace.name }));
            }
        }
        let first_index = self.frontier.size();
        let time = self.last_time.map_or(now, |last| now.max(last.plus_micros(1)));
        let mut sealed = Vec::with_capacity(commit.entries.len());
        for (offset, draft) in (0..).zip(&commit.entries) {
            let entry = draft.seal(first_index + offset, time.plus_micros(offset.cast_signed()));
            if entry.len() > limits::ENTRY_BYTES_MAX {
                return Ok(Err(CommitError::TooLarge { what: "an entry" }));
            }
            sealed.push(entry);
        }
        let leaf_hashes = sealed.iter().map(|entry| audit::leaf_hash(entry)).collect();
        Ok(Ok((Receipt { first_index, time, leaf_hashes }, sealed)))
    }

    /// Makes the rows of a batch visible, as a start would read them from the log.
    fn show(&self, batch: &Batch<'_>, place: LogPlace) -> Result<(), String> {
        let mut memory = Vec::new();
        let mut view = ViewWrites::default();
        batch
            .each_row_change(place, &self.shared.keyspaces, |home, change| match home {
                Home::Memory => memory.push(change.memory_write()),
                Home::View => view.add(change, place),
            })
            .map_err(|error| describe(&error))?;
        self.shared
            .view
            .take_in(view, batch.header.number, batch.header_hash)
            .inspect_err(|_| self.shared.release_reserve_if_no_room())?;
        self.shared.memory.apply(memory);
        Ok(())
    }
}

/// `None` for a row that was deleted.
type RowVersions = HashMap<(u8, Vec<u8>), Option<u64>>;

/// Versions of the rows that earlier commits of the same batch wrote.
struct Overlay {
    versions: Option<RowVersions>,
}

impl Overlay {
    fn new(needed: bool) -> Self {
        Self { versions: needed.then(HashMap::new) }
    }

    fn cover(&mut self, commit: &Commit, version: u64) {
        if let Some(versions) = &mut self.versions {
            for change in &commit.changes {
                let version = change.value.as_ref().map(|_| version);
                versions.insert((change.keyspace.code, change.key.clone()), version);
            }
        }
    }

    fn version(&self, code: u8, key: &[u8]) -> Option<Option<u64>> {
        let versions = self.versions.as_ref().filter(|versions| !versions.is_empty())?;
        versions.get(&(code, key.to_vec())).copied()
    }
}

/// The whole chain in one line: the reason is all that reaches callers.
pub(crate) fn describe(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

struct StopOnPanic(Arc<Shared>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("the committer panicked".to_owned());
        }
    }
}
