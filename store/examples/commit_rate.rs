//! Commits per second and CPU per commit at 1, 64 and 256 in flight: one entry and one 80-byte row each.
//!
//! `cargo run -p store --example commit_rate [directory]`

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{Clock, Timestamp};
use store::{Change, Commit, Home, Keyspace, LogIdentity, LogMacKey, LogStore, OpenOptions, Store};
use zeroize::Zeroizing;

const DEVICES: Keyspace = Keyspace { code: 2, name: "devices", home: Home::View };
const RECORDS: Keyspace = Keyspace { code: 1, name: "records", home: Home::Memory };

struct SystemClock(Instant);

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "an example owns its clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic_micros(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// User and system time of the process in seconds, from ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

#[expect(clippy::print_stdout, reason = "the example's result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(parent)?;
    let mut options = OpenOptions::new(
        directory.path(),
        LogIdentity { authority: "rate".into(), node: "a".into(), epoch: 1 },
        LogMacKey::new(Zeroizing::new([1; 32])),
        Arc::new(SystemClock(Instant::now())),
        vec![DEVICES, RECORDS],
    );
    options.segment_bytes = 64 << 20;
    options.reserve_bytes = 0;
    let store = Arc::new(LogStore::create(options)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    for (rows, keyspace) in [("view", DEVICES), ("memory", RECORDS)] {
        for (in_flight, total) in [(1, 2_000), (64, 40_000), (256, 60_000)] {
            let next = Arc::new(AtomicU32::new(0));
            let (begun, cpu) = (Instant::now(), cpu_seconds());
            runtime.block_on(async {
                let tasks: Vec<_> = (0..in_flight)
                    .map(|_| {
                        let (store, next) = (Arc::clone(&store), Arc::clone(&next));
                        tokio::spawn(async move {
                            loop {
                                let n = next.fetch_add(1, Ordering::Relaxed);
                                if n >= total {
                                    return Ok::<(), store::CommitError>(());
                                }
                                let draft = EntryDraft::new(EventType::ServiceStarted, Outcome::Done)
                                    .fact("request", Fact::Digest([7; 32]));
                                let key = (n % 10_000).to_be_bytes();
                                let changes = vec![Change::put(keyspace, key, [7; 80])];
                                store.commit(Commit { changes, ..Commit::of(vec![draft]) }).await?;
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await??;
                }
                Ok::<(), Box<dyn std::error::Error>>(())
            })?;
            let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            println!(
                "{rows:6} rows, {in_flight:3} in flight: {:8.0} commits/s, {:6.1} us CPU per commit",
                f64::from(total) / seconds,
                cpu * 1e6 / f64::from(total)
            );
        }
    }
    Ok(())
}
