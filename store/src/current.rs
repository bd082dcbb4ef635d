//! The view as it stands: sled, under the rows that are still on their way there.
//!
//! Whatever it carries, one application to sled costs two writes of sled's file beside the log's own sync. So the rows
//! of a batch become visible in memory at once, and reach sled with those of later batches. Nothing is lost by that:
//! sled knows which batch it has seen, and the log has the rest.

use std::{
    collections::BTreeMap,
    mem,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    Row, StoreError, Versioned, limits,
    view::{View, ViewPosition, ViewWrites, view_key},
};

/// Rows of a scan that are read in one go, during which no batch becomes visible.
const SCAN_PAGE_ROWS: usize = 256;

/// The open view with what is on its way there. Reads from any thread; [`CurrentView::take_in`] from one.
pub(crate) struct CurrentView {
    sled: View,
    /// What sled has seen; locked while it is brought further.
    position: Mutex<ViewPosition>,
    fresh: RwLock<Fresh>,
}

#[derive(Default)]
struct Fresh {
    /// Rows that nobody has begun to move.
    waiting: ViewWrites,
    /// Rows that are being moved, older than those that wait. They stay readable here until sled has them.
    moving: Arc<ViewWrites>,
    /// The last batch whose rows wait, and its hash; `None` when sled was given all there is.
    reached: Option<(u64, [u8; 32])>,
}

impl Fresh {
    fn get(&self, key: &[u8]) -> Option<Option<Versioned>> {
        let row = self.waiting.rows.get(key).or_else(|| self.moving.rows.get(key))?;
        Some(row.as_ref().map(|fresh| fresh.row.clone()))
    }
}

impl CurrentView {
    pub fn new(sled: View, position: ViewPosition) -> Self {
        Self { sled, position: Mutex::new(position), fresh: RwLock::default() }
    }

    /// Makes the rows of a batch visible, all at once. Brings sled up to date itself when too many wait.
    pub fn take_in(&self, writes: ViewWrites, batch: u64, hash: [u8; 32]) -> Result<(), String> {
        let backlog = {
            let mut fresh = self.fresh_mut();
            fresh.waiting.rows.extend(writes.rows);
            // Also when no row of the view changed: sled's position is what notices batches cut off the end of the log.
            fresh.reached = Some((batch, hash));
            fresh.waiting.rows.len()
        };
        if backlog < limits::VIEW_BACKLOG_ROWS_MAX { Ok(()) } else { self.settle() }
    }

    pub fn get(&self, code: u8, key: &[u8], keyspace: &'static str) -> Result<Option<Versioned>, StoreError> {
        let key = view_key(code, key);
        // First here: a row leaves this map only after sled has it.
        let fresh = self.fresh().get(&key);
        match fresh {
            Some(row) => Ok(row),
            None => self.sled.get(&key, keyspace),
        }
    }

    pub fn scan(
        &self,
        code: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        keyspace: &'static str,
    ) -> Result<Vec<Row>, StoreError> {
        let prefix = view_key(code, prefix);
        let mut from = prefix.clone();
        if let Some(after) = after {
            from = from.max(next_key(&view_key(code, after)));
        }
        let mut rows = Vec::new();
        while rows.len() < limit {
            // Held over both reads, so that no row moves from one to the other in between.
            let fresh = self.fresh();
            let wanted = SCAN_PAGE_ROWS.min(limit - rows.len());
            let stored = self.sled.scan(&prefix, &from, wanted, keyspace)?;
            // Fresh rows behind a full page belong to the next one.
            let end = stored.last().filter(|_| stored.len() == wanted).map(|(key, _)| key.clone());
            let mut page: BTreeMap<_, _> = stored.into_iter().collect();
            let until = end.as_deref().map_or(Bound::Unbounded, Bound::Included);
            for writes in [&*fresh.moving, &fresh.waiting] {
                let range = writes.rows.range::<[u8], _>((Bound::Included(&from[..]), until));
                for (key, row) in range.take_while(|(key, _)| key.starts_with(&prefix)) {
                    match row {
                        Some(fresh) => page.insert(key.clone(), fresh.row.clone()),
                        None => page.remove(key),
                    };
                }
            }
            rows.extend(page);
            match end {
                Some(end) => from = next_key(&end),
                None => break,
            }
        }
        rows.truncate(limit);
        for (key, _) in &mut rows {
            key.remove(0);
        }
        Ok(rows)
    }

    /// Visits every row as sled has stored it, see [`View::each_row`], with nothing left on its way there.
    pub fn each_row(&self, visit: impl FnMut(&[u8], Option<Versioned>)) -> Result<(), StoreError> {
        self.settle().map_err(|reason| StoreError::View { reason })?;
        self.sled.each_row(visit)
    }

    /// Makes what was taken in so far durable in sled, if anything was.
    pub fn sync(&self) -> Result<(), String> {
        self.settle()?;
        self.sled.sync()
    }

    /// Gives sled what waits.
    fn settle(&self) -> Result<(), String> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let (moving, (batch, hash)) = {
            let mut fresh = self.fresh_mut();
            if !fresh.moving.rows.is_empty() {
                return Err("the view engine failed before".to_owned());
            }
            let Some(reached) = fresh.reached.take() else { return Ok(()) };
            fresh.moving = Arc::new(mem::take(&mut fresh.waiting));
            (Arc::clone(&fresh.moving), reached)
        };
        // Should this fail, the rows stay readable where they are, and nothing is moved any more.
        self.sled.apply(&moving, &mut position, batch, hash)?;
        self.fresh_mut().moving = Arc::default();
        Ok(())
    }

    // Nothing panics while it holds the lock half-way through a change.
    fn fresh(&self) -> RwLockReadGuard<'_, Fresh> {
        self.fresh.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh_mut(&self) -> RwLockWriteGuard<'_, Fresh> {
        self.fresh.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The smallest key greater than this one.
fn next_key(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{DiskDirectory, LogMacKey, batch::LoggedChange, walk::LogPlace};

    const CODE: u8 = 7;

    struct Opened {
        current: CurrentView,
        _directory: tempfile::TempDir,
    }

    fn open() -> Opened {
        let directory = tempfile::tempdir().unwrap();
        let mac = LogMacKey::new(Zeroizing::new([1; 32])).view();
        let disk = Arc::new(DiskDirectory::new(directory.path()));
        let Ok((sled, position)) = View::open(directory.path(), mac, 16 << 20, disk) else {
            panic!("a new view opens")
        };
        Opened { current: CurrentView::new(sled, position), _directory: directory }
    }

    impl Opened {
        /// A batch that writes, or deletes, rows under these keys.
        fn batch(&self, number: u64, rows: &[(u16, Option<u64>)]) {
            let mut writes = ViewWrites::default();
            for (key, value) in rows {
                let value = value.map(u64::to_be_bytes);
                let key = key.to_be_bytes();
                let value = value.as_ref().map(|value| &value[..]);
                let change = LoggedChange { code: CODE, key: &key, value, version: number, value_offset: 0 };
                writes.add(&change, LogPlace { segment: 1, offset: 0 });
            }
            self.current.take_in(writes, number, [9; 32]).unwrap();
        }

        fn get(&self, key: u16) -> Option<u64> {
            let row = self.current.get(CODE, &key.to_be_bytes(), "rows").unwrap();
            row.map(|row| u64::from_be_bytes(row.value[..].try_into().unwrap()))
        }

        fn scan(&self, after: Option<u16>, limit: usize) -> Vec<u16> {
            let after = after.map(u16::to_be_bytes);
            let after = after.as_ref().map(|after| &after[..]);
            let rows = self.current.scan(CODE, &[], after, limit, "rows").unwrap();
            rows.iter().map(|(key, _)| u16::from_be_bytes(key[..].try_into().unwrap())).collect()
        }
    }

    #[test]
    fn rows_are_the_same_before_and_after_they_reach_sled() {
        let view = open();
        view.batch(1, &[(1, Some(10)), (2, Some(20)), (3, Some(30))]);
        for _ in 0..2 {
            assert_eq!([1, 2, 3, 4].map(|key| view.get(key)), [Some(10), Some(20), Some(30), None]);
            assert_eq!(view.scan(None, 10), [1, 2, 3]);
            assert_eq!(view.scan(Some(1), 1), [2]);
            view.current.settle().unwrap();
        }
        assert!(view.current.fresh().waiting.rows.is_empty() && view.current.fresh().moving.rows.is_empty());
    }

    #[test]
    fn a_fresh_row_stands_before_the_one_in_sled_and_a_deleted_one_hides_it() {
        let view = open();
        view.batch(1, &[(1, Some(10)), (2, Some(20)), (4, Some(40))]);
        view.current.settle().unwrap();
        view.batch(2, &[(1, None), (2, Some(21)), (3, Some(30))]);
        for _ in 0..2 {
            assert_eq!([1, 2, 3, 4].map(|key| view.get(key)), [None, Some(21), Some(30), Some(40)]);
            assert_eq!(view.scan(None, 10), [2, 3, 4]);
            assert_eq!(view.scan(None, 1), [2]);
            view.current.settle().unwrap();
        }
    }

    #[test]
    fn a_scan_over_many_pages_misses_nothing_and_repeats_nothing() {
        let view = open();
        let rows = |keys: &mut dyn Iterator<Item = u16>| keys.map(|key| (key, Some(1))).collect::<Vec<_>>();
        view.batch(1, &rows(&mut (0..2_000).step_by(2)));
        view.current.settle().unwrap();
        view.batch(2, &rows(&mut (1..2_000).step_by(2)));
        view.batch(3, &(300..900).map(|key| (key, None)).collect::<Vec<_>>());
        let expected: Vec<u16> = (0..300).chain(900..2_000).collect();
        assert_eq!(view.scan(None, 10_000), expected);
        assert_eq!(view.scan(Some(299), 500), expected[300..800]);
    }
}
