//! One slot thread per worker: starts the process under the token's lock, reads its answers, buries and replaces it.
//!
//! The thread that starts a worker lives as long as the worker: the kernel ties a parent-death signal to it.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dispatch::{JobReply, LinkState, PendingJob, Phase};
use super::{Inner, WorkerCommand};
use crate::error::{ErrorClass, HsmError};
use crate::lock::TokenLock;
use crate::protocol::{
    FromWorker, Job, JobOutput, Retire, TimedJob, ToWorker, TokenAccess, Usage, read_frame, write_frame,
};

/// How long a worker may take from exec to its report, probes included.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// How long to wait for the token's lock: several workers or a ceremony may be before us.
const LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// A worker that lived shorter than this died of its start.
const SHORT_LIFE: Duration = Duration::from_secs(2);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A worker process and our end of its socket.
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) pid: u32,
    stream: UnixStream,
    writing: Mutex<()>,
    child: Mutex<Child>,
}

impl Link {
    /// Hands a frame over. A failure needs no report: the slot thread sees the end of the stream and answers for
    /// everything in flight. Requests stay far below the socket's buffer, so this does not block on a busy worker.
    pub(super) fn send(&self, frame: u64, jobs: Vec<TimedJob>) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if write_frame(&self.stream, &ToWorker::Work { frame, jobs }).is_err() {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// The worker sees the end of its input and leaves.
    pub(super) fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    pub(super) fn kill(&self) {
        // Fails only when it is dead already.
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    fn bury(&self) {
        self.close();
        self.kill();
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// Starts `command` with our socket as its input and nothing of our environment.
pub(crate) fn spawn(
    command: &WorkerCommand,
    environment: &[(String, String)],
) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    Ok((child, ours))
}

/// Keeps one worker alive. `first` hears of the first start; `replaces` is drained once we are ready.
pub(super) fn keep_worker(
    inner: &Arc<Inner>,
    mut first: Option<oneshot::Sender<Result<(), HsmError>>>,
    mut replaces: Option<Arc<Link>>,
) {
    let mut backoff = Duration::ZERO;
    while !inner.is_closed() {
        let born = Instant::now();
        match start(inner) {
            Ok(link) => {
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
                if let Some(old) = replaces.take() {
                    inner.retire(&old);
                }
                inner.pump();
                let end = serve(inner, &link);
                link.bury();
                let has_successor = inner.lose(&link);
                if matches!(end, End::Drained) || has_successor {
                    break;
                }
                if !inner.is_closed() {
                    inner.counters.worker_restarts.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(token = %inner.config.name, pid = link.pid, "hsm worker lost; starting another");
                }
                if born.elapsed() > SHORT_LIFE {
                    backoff = Duration::ZERO;
                }
            }
            Err(error) => {
                if error.class != ErrorClass::ShuttingDown {
                    tracing::error!(token = %inner.config.name, %error, "hsm worker does not start");
                }
                inner.note_start_failure(&error);
                if let Some(first) = first.take() {
                    let _ = first.send(Err(error));
                    break;
                }
                if error.class == ErrorClass::Pin {
                    break;
                }
                backoff = backoff.max(BACKOFF_MIN);
            }
        }
        inner.pause(backoff);
        backoff = (backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
    }
    inner.slot_ended();
}

enum End {
    Drained,
    Lost,
}

/// Starts one worker under the token's lock, up to the moment it may take work.
fn start(inner: &Arc<Inner>) -> Result<Arc<Link>, HsmError> {
    let config = &inner.config;
    let lock = TokenLock::acquire(&config.lock_file, LOCK_PATIENCE, || inner.is_closed())?;
    // Looked at under the lock: whoever was before us may have been refused its PIN.
    let keys = {
        let state = inner.lock();
        match &state.phase {
            Phase::Stopped(why) => return Err(why.clone()),
            Phase::Closed | Phase::Draining => {
                return Err(HsmError::new(ErrorClass::ShuttingDown, "the token handle is shutting down"));
            }
            Phase::Serving => state.keys.clone(),
        }
    };
    let (child, stream) = spawn(&inner.command, &config.environment).map_err(|e| {
        HsmError::token(format!("worker {} does not start: {e}", inner.command.program.display()))
    })?;
    let now = Instant::now();
    let link = {
        let mut state = inner.lock();
        let link = Arc::new(Link {
            id: state.next_id(),
            pid: child.id(),
            stream,
            writing: Mutex::new(()),
            child: Mutex::new(child),
        });
        state.links.push(LinkState {
            link: Arc::clone(&link),
            is_ready: false,
            is_draining: false,
            is_being_replaced: false,
            in_flight: Default::default(),
            idle_since: now,
            start_by: now + START_TIME_MAX,
        });
        if matches!(state.phase, Phase::Closed) {
            // The end came between the look above and now, and did not see this link.
            link.close();
        }
        link
    };
    let known = keys.len();
    let begin = || -> Result<(), HsmError> {
        let lost = |e: io::Error| HsmError::token(format!("the worker ended during its start: {e}"));
        let start = ToWorker::Start {
            access: TokenAccess {
                module: config.module.clone(),
                token_label: config.token_label.clone(),
                token_serial: config.token_serial.clone(),
                pin_file: config.pin_file.clone(),
            },
            threads: config.threads_per_worker,
            injected_delay_us: config.injected_delay_us,
            session_objects_max: config.session_objects_max,
            inside_only: config.inside_only,
            keys,
        };
        write_frame(&link.stream, &start).map_err(lost)?;
        match read_frame(&link.stream).map_err(lost)? {
            Some(FromWorker::Started(report)) => {
                inner.lock().report = Some(*report);
                Ok(())
            }
            Some(FromWorker::Refused(error)) => Err(error),
            Some(FromWorker::Done { .. }) => Err(HsmError::token("the worker answered before it was asked")),
            None => Err(HsmError::token("the worker ended during its start")),
        }
    };
    let begun = begin().and_then(|()| catch_up(inner, &link, known));
    if let Err(error) = begun {
        // A refused PIN stops every later start; noted before the lock goes to the next in line.
        inner.note_start_failure(&error);
        link.bury();
        inner.lose(&link);
        return Err(error);
    }
    drop(lock);
    Ok(link)
}

/// Tells a new worker of keys that were added while it started, then opens it for work.
fn catch_up(inner: &Inner, link: &Link, mut known: usize) -> Result<(), HsmError> {
    loop {
        let key = {
            let mut state = inner.lock();
            match state.keys.get(known) {
                Some(key) => key.clone(),
                None => {
                    if let Some(at) = state.position(link) {
                        state.links[at].is_ready = true;
                        state.links[at].idle_since = Instant::now();
                    }
                    state.start_failure = None;
                    return Ok(());
                }
            }
        };
        known += 1;
        link.send(0, vec![TimedJob { budget_us: u64::MAX, job: Job::AddKey(key) }]);
        match read_frame(&link.stream) {
            Ok(Some(FromWorker::Done { results, .. })) => {
                for result in results {
                    result?;
                }
            }
            _ => return Err(HsmError::token("the worker ended during its start")),
        }
    }
}

/// Reads answers until the worker is gone or unfit.
fn serve(inner: &Arc<Inner>, link: &Arc<Link>) -> End {
    loop {
        let (frame, results, usage, retire) = match read_frame(&link.stream) {
            Ok(Some(FromWorker::Done { frame, results, usage, retire })) => (frame, results, usage, retire),
            _ => break,
        };
        let replies = take_replies(inner, link, frame, usage, matches!(retire, Some(Retire::Poisoned(_))));
        // The worker is fed again before its callers are woken.
        inner.pump();
        answer(replies, results);
        match retire {
            Some(Retire::Poisoned(error)) => {
                tracing::error!(token = %inner.config.name, pid = link.pid, %error, "hsm worker is unfit");
                return End::Lost;
            }
            Some(Retire::Recycle) => replace(inner, link),
            None => {}
        }
        inner.close_if_drained(link);
    }
    if inner.lock().links.iter().any(|l| l.link.id == link.id && l.is_draining) {
        End::Drained
    } else {
        End::Lost
    }
}

fn take_replies(
    inner: &Inner,
    link: &Link,
    frame: u64,
    usage: Usage,
    is_last: bool,
) -> Vec<Option<JobReply>> {
    inner.counters.pkcs11_calls.fetch_add(usage.pkcs11_calls, Ordering::Relaxed);
    inner.counters.busy_us.fetch_add(usage.busy_us, Ordering::Relaxed);
    let mut state = inner.lock();
    let Some(at) = state.position(link) else { return Vec::new() };
    let state = &mut state.links[at];
    state.idle_since = Instant::now();
    // An unfit worker gets nothing more, not even what its callers send when they hear of it.
    state.is_ready &= !is_last;
    state
        .in_flight
        .remove(&frame)
        .map_or_else(Vec::new, |f| f.waiting.into_iter().map(|(reply, _)| reply).collect())
}

fn answer(replies: Vec<Option<JobReply>>, results: Vec<Result<JobOutput, HsmError>>) {
    let mut results = results.into_iter();
    for reply in replies {
        let result =
            results.next().unwrap_or_else(|| Err(HsmError::token("the worker left a job unanswered")));
        PendingJob::finish(reply, result);
    }
}

/// Starts a successor once; it drains `link` when it is ready.
fn replace(inner: &Arc<Inner>, link: &Arc<Link>) {
    {
        let mut state = inner.lock();
        let Some(at) = state.position(link) else { return };
        if std::mem::replace(&mut state.links[at].is_being_replaced, true) {
            return;
        }
        state.slots_alive += 1;
    }
    let (inner, link) = (Arc::clone(inner), Arc::clone(link));
    thread::spawn(move || keep_worker(&inner, None, Some(link)));
}
