//! Every row of the view compared with the sum of its position, on every core, beside the walk of the log.

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{RowSum, row::right_tag};
use crate::mac::KeyedMac;

/// Threads that check rows at most.
const THREADS_MAX: usize = 8;
/// Rows after which a thread looks whether another waits for a share of its range.
const ROWS_PER_LOOK: usize = 512;
/// Bytes behind a common prefix that decide where a range is halved.
const MIDDLE_BYTES: usize = 8;

/// A check under way. It ends with this value, whatever becomes of it.
pub(crate) struct RowCheck {
    workers: Vec<JoinHandle<Result<RowSum, String>>>,
    expected: RowSum,
    ranges: Arc<Ranges>,
}

/// Keys from the first on and before the second, which is absent at the end of all.
type Range = (Vec<u8>, Option<Vec<u8>>);

/// What is left to check. Where rows are dense is not known before they are read: a thread that runs out of work is
/// given half of what another has still before it.
struct Ranges {
    state: Mutex<State>,
    changed: Condvar,
    /// Threads that wait for a range; read without the lock.
    waiting: AtomicUsize,
    stop: AtomicBool,
}

struct State {
    open: Vec<Range>,
    /// Threads that have a range. Without them and without open ranges all is done.
    busy: usize,
}

impl RowCheck {
    pub(super) fn begin(db: sled::Db, mac: KeyedMac, expected: RowSum) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        // Keyspace code 0 is the position's own.
        let all = (vec![1], None);
        let ranges = Arc::new(Ranges {
            state: Mutex::new(State { open: vec![all], busy: 0 }),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let workers = (0..cores.min(THREADS_MAX))
            .map(|_| {
                let (db, mac, ranges) = (db.clone(), mac.clone(), Arc::clone(&ranges));
                thread::spawn(move || sum_of_ranges(&db, &mac, &ranges))
            })
            .collect();
        Self { workers, expected, ranges }
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
        self.ranges.give_up();
        for worker in self.workers.drain(..) {
            // Nobody asks for its sum any more; only that it has let go of the database.
            let _ = worker.join();
        }
    }
}

impl Ranges {
    /// The next range; `None` when all is done or nobody wants to know any more.
    fn take(&self) -> Option<Range> {
        let mut state = self.state();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let taken = loop {
            if self.stop.load(Ordering::Relaxed) {
                break None;
            }
            if let Some(range) = state.open.pop() {
                state.busy += 1;
                break Some(range);
            }
            if state.busy == 0 {
                break None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        taken
    }

    fn add(&self, range: Range) {
        self.state().open.push(range);
        self.changed.notify_one();
    }

    fn done(&self) {
        self.state().busy -= 1;
        self.changed.notify_all();
    }

    fn give_up(&self) {
        // Under the lock, so that nobody misses it between looking and waiting.
        let _state = self.state();
        self.stop.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn is_somebody_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    // Nothing panics while it holds the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum_of_ranges(db: &sled::Db, mac: &KeyedMac, ranges: &Ranges) -> Result<RowSum, String> {
    let mut sum = RowSum::default();
    while let Some(range) = ranges.take() {
        // sled may panic.
        let added = catch_unwind(AssertUnwindSafe(|| add_range(db, mac, range, ranges, &mut sum)))
            .unwrap_or_else(|_| Err("the database panicked".to_owned()));
        ranges.done();
        if added.is_err() {
            // One wrong row decides: the others need not go on.
            ranges.give_up();
            added?;
        }
    }
    Ok(sum)
}

fn add_range(
    db: &sled::Db,
    mac: &KeyedMac,
    (from, mut until): Range,
    ranges: &Ranges,
    sum: &mut RowSum,
) -> Result<(), String> {
    for (row, count) in db.range(from..).zip(1..) {
        let (key, stored) = row.map_err(|e| e.to_string())?;
        if until.as_ref().is_some_and(|until| key[..] >= until[..]) || ranges.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        sum.add(right_tag(mac, &key, &stored).ok_or("a row carries a wrong HMAC")?);
        if count % ROWS_PER_LOOK == 0
            && ranges.is_somebody_waiting()
            && let Some(middle) = middle_of_rest(db, &key, until.as_deref())?
        {
            ranges.add((middle.clone(), until.replace(middle)));
        }
    }
    Ok(())
}

/// A key about half-way between this one and the last one of the range.
fn middle_of_rest(db: &sled::Db, key: &[u8], until: Option<&[u8]>) -> Result<Option<Vec<u8>>, String> {
    let last = match until {
        Some(until) => db.range(key..until).next_back(),
        None => db.range(key..).next_back(),
    };
    let last = last.transpose().map_err(|e| e.to_string())?;
    Ok(last.and_then(|(last, _)| middle(key, &last)))
}

/// A key above `low` and not above `high`, about half-way if keys are spread evenly.
fn middle(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    let common = low.iter().zip(high).take_while(|(low, high)| low == high).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; MIDDLE_BYTES];
        for (byte, from) in bytes.iter_mut().zip(&key[common..]) {
            *byte = *from;
        }
        u64::from_be_bytes(bytes)
    };
    let between = number(low).midpoint(number(high));
    let middle = [&low[..common], &between.to_be_bytes()].concat();
    (low < &middle[..] && &middle[..] <= high).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_lies_above_the_one_key_and_not_above_the_other() {
        assert_eq!(middle(b"ab", b"ad"), Some(b"ac\0\0\0\0\0\0\0".to_vec()));
        assert_eq!(middle(&[1], &[4, 9]), Some([&[2, 0x84][..], &[0x80, 0, 0, 0, 0, 0]].concat()));
        for (low, high) in [(&b"a"[..], &b"a"[..]), (b"", b""), (b"a", b"a\0"), (b"b", b"a")] {
            assert_eq!(middle(low, high), None, "{low:?} {high:?}");
        }
        let (low, high) = (b"89049032000000000000000000000017", b"89049032000000000000000000099999");
        let found = middle(low, high).unwrap();
        assert!(low[..] < found[..] && found[..] <= high[..]);
    }
}
