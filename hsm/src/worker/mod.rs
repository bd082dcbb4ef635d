//! The worker's side: a process of its own that loads the PKCS#11 module, opens one token and does whole jobs.
//!
//! Its input is the socket it was given as stdin; when that ends, so does it. It reads its own PIN file, writes
//! nothing, and is killed with its parent.

mod boundary;
mod derive;
mod engine;
mod export;
mod import;
mod incoming;
mod key_pairs;
mod open;
mod order;
mod order_form;
mod ota;
mod probe;
mod put_key;
mod rsp;
mod scp03;
mod scp11;
mod source;
mod stored;
mod tls_psk;
mod token_session;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getpid, kill_process, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};

use zeroize::Zeroize;

use self::boundary::Boundary;
use self::engine::Engine;
pub(crate) use self::import::{Wrapping, check_value, unwrap_oaep};
use self::open::OpenToken;
pub(crate) use self::open::{class_name, key_check, key_template, prove_value};
pub(crate) use self::probe::{generate_pair, public_key_info, run as probe};
pub(crate) use self::token_session::{Module, TokenSession, read_pin};
use crate::error::{ErrorClass, HsmError};
use crate::protocol::{FromWorker, Retire, ToWorker, Usage, read_frame, write_frame};

/// A worker whose memory exceeds this asks to be recycled.
const RSS_KIB_MAX: u64 = 256 * 1024;

/// Runs a worker until its input ends. Call it first thing in `main`, before any thread or library; in the ordinary
/// course it does not return, since a PKCS#11 module is left by [`leave`] only.
pub fn run() -> ExitCode {
    let Ok(stream) = harden().and_then(|()| inherited_socket()) else { return ExitCode::FAILURE };
    let (access, threads, injected_delay_us, session_objects_max, boundary, keys) = match read_frame(&stream)
    {
        Ok(Some(ToWorker::Start {
            access,
            threads,
            injected_delay_us,
            session_objects_max,
            inside_only,
            keys,
        })) => {
            let boundary = if inside_only { Boundary::InsideOnly } else { Boundary::Worker };
            (access, threads, injected_delay_us, session_objects_max, boundary, keys)
        }
        Ok(Some(ToWorker::Inspect { module })) => {
            let seen = Module::load(&module).and_then(|module| module.tokens());
            let _ = write_frame(&stream, &seen);
            leave()
        }
        _ => return ExitCode::FAILURE,
    };
    let token = match OpenToken::open(&access, boundary, keys) {
        Ok(token) => Arc::new(token),
        Err(error) => {
            let _ = write_frame(&stream, &FromWorker::Refused(error));
            leave()
        }
    };
    if write_frame(&stream, &FromWorker::Started(Box::new(token.report.clone()))).is_err() {
        leave();
    }
    let shared = Arc::new(Shared {
        reading: Mutex::new(()),
        writing: Mutex::new(()),
        stream,
        token,
        delay: Duration::from_micros(injected_delay_us),
        session_objects: AtomicU64::new(0),
        session_objects_max,
        wants_recycling: AtomicBool::new(false),
    });
    for _ in 1..threads {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.work());
    }
    shared.work();
    leave()
}

/// No core dumps, no ptrace by others of our uid, no life beyond the parent's.
pub(crate) fn harden() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// The socket that was handed over as stdin. Its end covers a parent that died before [`harden`].
pub(crate) fn inherited_socket() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Ends the process at once, without exit handlers: modules and the OpenSSL beneath them tear down global state there,
/// in an order that crashes, and C_Finalize beside a running C_Sign is a SIGSEGV in SoftHSM. Without libc's `_exit`
/// (unsafe in Rust) a signal to ourselves is the same thing; nothing of a token is lost, session objects die anyway.
pub(crate) fn leave() -> ! {
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        thread::park();
    }
}

struct Shared {
    /// Whoever holds it takes the next frame.
    reading: Mutex<()>,
    writing: Mutex<()>,
    stream: UnixStream,
    token: Arc<OpenToken>,
    delay: Duration,
    session_objects: AtomicU64,
    session_objects_max: u64,
    wants_recycling: AtomicBool,
}

impl Shared {
    /// One worker thread: one session, one frame at a time. Ends the process when the input ends or anything panics.
    fn work(&self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = match Engine::new(&self.token, self.delay) {
                Ok(engine) => engine,
                // The token gave its first session a moment ago; without a second one this worker is useless.
                Err(_) => leave(),
            };
            while let Some((frame, jobs)) = self.next_frame() {
                let begun = Instant::now();
                let mut results = Vec::with_capacity(jobs.len());
                let mut poison = None;
                for timed in jobs {
                    let deadline = begun.checked_add(Duration::from_micros(timed.budget_us));
                    results.push(if deadline.is_some_and(|d| Instant::now() >= d) {
                        Err(HsmError::new(
                            ErrorClass::Deadline,
                            "the deadline passed before the job was begun",
                        ))
                    } else if let Some(error) = &poison {
                        Err(HsmError::clone(error))
                    } else {
                        let result = engine.run(timed.job, deadline);
                        poison = engine.take_poison();
                        result
                    });
                }
                wipe_stack();
                let retire = poison.map(Retire::Poisoned).or_else(|| self.recycling(&engine));
                let usage = engine.take_usage();
                if self.answer(frame, results, usage, retire).is_err() {
                    break;
                }
            }
        }));
        drop(outcome);
        leave()
    }

    fn next_frame(&self) -> Option<(u64, Vec<crate::protocol::TimedJob>)> {
        let _turn = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match read_frame(&self.stream) {
            Ok(Some(ToWorker::Work { frame, jobs })) => Some((frame, jobs)),
            _ => None,
        }
    }

    fn answer(
        &self,
        frame: u64,
        results: Vec<Result<crate::protocol::JobOutput, HsmError>>,
        usage: Usage,
        retire: Option<Retire>,
    ) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_frame(&self.stream, &FromWorker::Done { frame, results, usage, retire })
    }

    fn recycling(&self, engine: &Engine) -> Option<Retire> {
        const LOOK_EVERY: u64 = 1024;
        let made = engine.session.take_objects_made();
        let before = self.session_objects.fetch_add(made, Ordering::Relaxed);
        let now = before + made;
        if now >= self.session_objects_max
            || (before / LOOK_EVERY != now / LOOK_EVERY
                && resident_kib().is_some_and(|kib| kib > RSS_KIB_MAX))
        {
            self.wants_recycling.store(true, Ordering::Relaxed);
        }
        self.wants_recycling.load(Ordering::Relaxed).then_some(Retire::Recycle)
    }
}

/// Overwrites what the jobs left on this thread's stack: a secret that is moved leaves its bytes where it was, and only
/// where it ends are they zeroized. Called at the depth at which jobs are called, whose frames then lie in the array's place.
#[inline(never)]
fn wipe_stack() {
    /// The deepest job takes less than half of it, also unoptimised.
    const WORDS: usize = 8 * 1024;
    let mut place = [0_u64; WORDS];
    place.zeroize();
    std::hint::black_box(&mut place);
}

/// VmRSS of this process.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_resident_size_is_read_from_the_kernel() {
        assert!(super::resident_kib().unwrap() > 100);
    }
}
