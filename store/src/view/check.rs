//! Every row of the view compared with the sum of its position, on other cores while the log is walked.

use std::{
    num::NonZero,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{RowSum, row::right_tag};
use crate::mac::KeyedMac;

/// Threads that check rows at most.
const THREADS_MAX: usize = 8;
/// Parts: eight bits of keyspace code and four bits of the key; code 0 is the position's own.
const PARTS: std::ops::RangeInclusive<usize> = 0x010..=0xfff;

/// A check under way. It ends with this value, whatever becomes of it.
pub(crate) struct RowCheck {
    workers: Vec<JoinHandle<Result<RowSum, String>>>,
    expected: RowSum,
    stop: Arc<AtomicBool>,
}

impl RowCheck {
    /// The rows are parted, and every core takes parts as it comes to them; the walk of the log beside it is short.
    pub(super) fn begin(db: sled::Db, mac: KeyedMac, expected: RowSum) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let next = Arc::new(AtomicUsize::new(*PARTS.start()));
        let stop = Arc::new(AtomicBool::new(false));
        let workers = (0..cores.min(THREADS_MAX))
            .map(|_| {
                let (db, mac) = (db.clone(), mac.clone());
                let (next, stop) = (Arc::clone(&next), Arc::clone(&stop));
                thread::spawn(move || sum_of_parts(&db, &mac, &next, &stop))
            })
            .collect();
        Self { workers, expected, stop }
    }

    /// Waits for the end; the error says what is wrong with the rows.
    pub fn finish(mut self) -> Result<(), String> {
        let mut sum = RowSum::default();
        for worker in self.workers.drain(..) {
            sum.join(worker.join().map_err(|_| "checking the rows failed".to_owned())??);
        }
        if sum == self.expected { Ok(()) } else { Err("rows are missing or stale".to_owned()) }
    }
}

impl Drop for RowCheck {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // Nobody asks for its sum any more; only that it has let go of the database.
            let _ = worker.join();
        }
    }
}

fn sum_of_parts(
    db: &sled::Db,
    mac: &KeyedMac,
    next: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<RowSum, String> {
    let mut sum = RowSum::default();
    loop {
        let part = next.fetch_add(1, Ordering::Relaxed);
        if !PARTS.contains(&part) || stop.load(Ordering::Relaxed) {
            return Ok(sum);
        }
        // sled may panic.
        catch_unwind(AssertUnwindSafe(|| add_part(db, mac, part, stop, &mut sum)))
            .map_err(|_| "the database panicked".to_owned())??;
    }
}

fn add_part(
    db: &sled::Db,
    mac: &KeyedMac,
    part: usize,
    stop: &AtomicBool,
    sum: &mut RowSum,
) -> Result<(), String> {
    let begin = |part: usize| match (part >> 4, part & 0xf) {
        // An empty key is its keyspace's first.
        (code, 0) => vec![code as u8],
        (code, nibble) => vec![code as u8, (nibble as u8) << 4],
    };
    let until = if part == *PARTS.end() { Bound::Unbounded } else { Bound::Excluded(begin(part + 1)) };
    for row in db.range((Bound::Included(begin(part)), until)) {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (key, stored) = row.map_err(|e| e.to_string())?;
        sum.add(right_tag(mac, &key, &stored).ok_or("a row carries a wrong HMAC")?);
    }
    Ok(())
}
