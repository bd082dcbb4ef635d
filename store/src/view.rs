//! The view: rows in sled, each under an HMAC, disposable.
//!
//! sled 0.34.7 is not durable, may refuse to open after a crash and may panic. None of that matters to the log: the
//! view knows which batch it has seen, and it is believed only if every row verifies and the sum over all row HMACs is
//! the one its position row holds. Otherwise it is put aside and rebuilt.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    Row, StoreError, Versioned,
    batch::LoggedChange,
    disk::{Disk, sync_directory},
    limits,
    mac::{KeyedMac, MAC_BYTES},
    values::LoggedValues,
    walk::LogPlace,
};

mod check;
mod row;

pub(crate) use check::RowCheck;
use row::{StoredRow, StoredValue, encode_row, read_row, tag_in};

const LOCK_ATTEMPTS_MAX: u32 = 100;
/// Keyspace code 0 is reserved for this row. Its key names the form of all rows.
const POSITION_KEY: [u8; 2] = [0, b'q'];
/// The position of views whose rows hold every value themselves, made before version 0.1.
const POSITION_KEY_OF_FORM_1: [u8; 2] = [0, b'p'];

/// Which part of the log the view holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ViewPosition {
    /// The last batch applied in full; 0 is none.
    pub batch: u64,
    /// Its hash.
    pub hash: [u8; 32],
    sum: RowSum,
}

/// The sum over the HMACs of all rows, lane by lane: what tells a lost or stale row from a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct RowSum([u64; 4]);

impl RowSum {
    fn lanes(tag: &[u8]) -> [u64; 4] {
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(tag.chunks_exact(8)) {
            *lane = bytes.iter().fold(0, |lane, byte| lane << 8 | u64::from(*byte));
        }
        lanes
    }

    fn add(&mut self, tag: &[u8]) {
        for (lane, more) in self.0.iter_mut().zip(Self::lanes(tag)) {
            *lane = lane.wrapping_add(more);
        }
    }

    /// The sum over the rows of both.
    fn join(&mut self, other: Self) {
        for (lane, more) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(more);
        }
    }

    fn subtract(&mut self, tag: &[u8]) {
        for (lane, less) in self.0.iter_mut().zip(Self::lanes(tag)) {
            *lane = lane.wrapping_sub(less);
        }
    }
}

/// A row on its way to the view.
#[derive(Clone)]
pub(crate) struct FreshRow {
    pub row: Versioned,
    /// Where the log has its value.
    pub place: LogPlace,
}

/// Writes that reach the view together, by keyspace code and key; of two writes to one key the later stands.
#[derive(Default)]
pub(crate) struct ViewWrites {
    /// `None` deletes.
    pub rows: BTreeMap<Vec<u8>, Option<FreshRow>>,
}

impl ViewWrites {
    /// Adds a change of a batch that begins at `place`.
    pub fn add(&mut self, change: &LoggedChange<'_>, place: LogPlace) {
        let place = LogPlace { segment: place.segment, offset: place.offset + change.value_offset };
        let versioned = |value: &[u8]| Versioned { value: value.into(), version: change.version };
        let row = change.value.map(|value| FreshRow { row: versioned(value), place });
        self.rows.insert(view_key(change.code, change.key), row);
    }
}

/// The open view. Reads from any thread; [`View::apply`] from one at a time.
pub(crate) struct View {
    db: sled::Db,
    /// Our own descriptor of sled's log: sled's flush is `sync_file_range`, which makes nothing durable.
    file: File,
    mac: KeyedMac,
    values: LoggedValues,
    dirty: AtomicBool,
}

/// What is said of a view of [`ViewFault::Outdated`].
pub(crate) const OUTDATED: &str = "an earlier version of the service made it";

/// Why a view could not be used.
pub(crate) enum ViewFault {
    /// Another holder has it open; nothing is wrong with it.
    Busy(String),
    /// An earlier version of this engine made it: put aside and rebuild. Nothing is wrong with it either.
    Outdated,
    /// It is not to be believed: put aside and rebuild.
    Unfit(String),
}

impl View {
    /// Opens or makes the view at `path` of the log on `disk`. Its rows are not looked at: see [`View::begin_check`].
    pub fn open(
        path: &Path,
        mac: KeyedMac,
        cache_bytes: u64,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, ViewPosition), ViewFault> {
        let unfit = |error: io::Error| ViewFault::Unfit(error.to_string());
        fs::create_dir_all(path).map_err(unfit)?;
        remove_torn_snapshots(path).map_err(unfit)?;
        let db = open_sled(path, cache_bytes)?;
        let view = (|| {
            // sled writes `conf` once and never syncs it.
            for name in ["conf", "db"] {
                File::open(path.join(name))?.sync_all()?;
            }
            sync_directory(path)?;
            if let Some(parent) = path.parent() {
                sync_directory(parent)?;
            }
            let file = File::options().write(true).open(path.join("db"))?;
            Ok(Self { db, file, mac, values: LoggedValues::new(disk), dirty: AtomicBool::new(false) })
        })()
        .map_err(unfit)?;
        let position = view.position()?;
        Ok((view, position))
    }

    /// Moves the files of an unfit view out of the way; at most one is kept.
    pub fn put_aside(path: &Path) -> io::Result<()> {
        let aside = quarantine(path);
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match fs::rename(path, &aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        path.parent().map_or(Ok(()), sync_directory)
    }

    fn position(&self) -> Result<ViewPosition, ViewFault> {
        let unfit = |what: &str| Err(ViewFault::Unfit(what.to_owned()));
        let broken = |error: sled::Error| ViewFault::Unfit(error.to_string());
        let read = || match self.db.get(POSITION_KEY).map_err(broken)? {
            Some(stored) => match self.read_position(&stored) {
                Some(position) => Ok(position),
                None => unfit("the position row carries a wrong HMAC"),
            },
            None if self.db.contains_key(POSITION_KEY_OF_FORM_1).map_err(broken)? => Err(ViewFault::Outdated),
            None if self.db.is_empty() => Ok(ViewPosition::default()),
            None => unfit("rows without a position"),
        };
        guarded(read).map_err(ViewFault::Unfit)?
    }

    /// Begins to compare every row, as the view is now, with the sum of its position. Nothing may be applied before that is done.
    pub fn begin_check(&self, position: &ViewPosition) -> RowCheck {
        RowCheck::begin(self.db.clone(), self.mac.clone(), position.sum)
    }

    /// Applies writes and moves `position` on to the batch that caused them. Not durable.
    ///
    /// sled batches are atomic; each one carries the position row with the sum as it is then, and only the last one
    /// the new batch, so that an end in between is caught up by replaying the batch.
    pub fn apply(
        &self,
        writes: &ViewWrites,
        position: &mut ViewPosition,
        batch: u64,
        hash: [u8; 32],
    ) -> Result<(), String> {
        guarded(|| {
            let mut writes = writes.rows.iter().peekable();
            loop {
                let mut chunk = sled::Batch::default();
                for (key, write) in writes.by_ref().take(limits::VIEW_WRITES_PER_BATCH_MAX - 1) {
                    let old = self.db.get(key).map_err(|e| e.to_string())?;
                    if let Some(tag) = old.as_ref().and_then(|old| tag_in(old)) {
                        position.sum.subtract(tag);
                    }
                    match write {
                        Some(fresh) => {
                            let (row, tag) = encode_row(&self.mac, key, fresh);
                            position.sum.add(&tag);
                            chunk.insert(&key[..], row);
                        }
                        None => chunk.remove(&key[..]),
                    }
                }
                let last = writes.peek().is_none();
                if last {
                    (position.batch, position.hash) = (batch, hash);
                }
                chunk.insert(&POSITION_KEY, self.write_position(position));
                self.db.apply_batch(chunk).map_err(|e| e.to_string())?;
                if last {
                    self.dirty.store(true, Ordering::Release);
                    return Ok(());
                }
            }
        })?
    }

    /// The row under a key with its keyspace code.
    pub fn get(&self, key: &[u8], keyspace: &'static str) -> Result<Option<Versioned>, StoreError> {
        let stored = guarded(|| self.db.get(key)).and_then(|got| got.map_err(|e| e.to_string()));
        match stored.map_err(|reason| StoreError::View { reason })? {
            Some(stored) => self.open_row(key, &stored, keyspace).map(Some),
            None => Ok(None),
        }
    }

    /// Rows from a key on whose keys begin with a prefix; keys with their keyspace code.
    pub fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
        keyspace: &'static str,
    ) -> Result<Vec<Row>, StoreError> {
        let view = |reason| StoreError::View { reason };
        let rows = guarded(|| {
            let mut rows = Vec::new();
            for row in self.db.range(from..).take(limit) {
                let (key, stored) = row.map_err(|e| view(e.to_string()))?;
                if !key.starts_with(prefix) {
                    break;
                }
                rows.push((key.to_vec(), self.open_row(&key, &stored, keyspace)?));
            }
            Ok(rows)
        });
        rows.map_err(view)?
    }

    /// Visits every row as stored, without judging it: key with its keyspace code, and the row if its HMAC and its value are right.
    pub fn each_row(&self, mut visit: impl FnMut(&[u8], Option<Versioned>)) -> Result<(), StoreError> {
        let view = |reason| StoreError::View { reason };
        let walked = guarded(|| {
            for row in self.db.range([1_u8]..) {
                let (key, stored) = row.map_err(|e| view(e.to_string()))?;
                match self.open_row(&key, &stored, "of any kind") {
                    Ok(row) => visit(&key, Some(row)),
                    Err(error) if error.is_alarm() => visit(&key, None),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        walked.map_err(view)?
    }

    /// Makes what was applied so far durable, if anything was.
    pub fn sync(&self) -> Result<(), String> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        guarded(|| self.db.flush())?.map_err(|e| e.to_string())?;
        self.file.sync_data().map_err(|e| e.to_string())
    }

    fn open_row(&self, key: &[u8], stored: &[u8], keyspace: &'static str) -> Result<Versioned, StoreError> {
        let StoredRow { version, value, .. } =
            read_row(&self.mac, key, stored).ok_or_else(|| StoreError::Tampered {
                place: format!("the view, keyspace {keyspace}"),
                what: "a row carries a wrong HMAC",
            })?;
        let value = match value {
            StoredValue::Here(value) => value.into(),
            StoredValue::InLog(value) => self.values.read(&value)?,
        };
        Ok(Versioned { value, version })
    }

    fn write_position(&self, position: &ViewPosition) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 32 + 32 + MAC_BYTES);
        out.extend_from_slice(&position.batch.to_be_bytes());
        out.extend_from_slice(&position.hash);
        for lane in position.sum.0 {
            out.extend_from_slice(&lane.to_be_bytes());
        }
        let tag = self.mac.over(&[&(POSITION_KEY.len() as u16).to_be_bytes(), &POSITION_KEY, &out]);
        out.extend_from_slice(&tag);
        out
    }

    fn read_position(&self, stored: &[u8]) -> Option<ViewPosition> {
        let (body, tag) = stored.split_at_checked(8 + 32 + 32)?;
        let right = self.mac.matches(&[&(POSITION_KEY.len() as u16).to_be_bytes(), &POSITION_KEY, body], tag);
        if !right {
            return None;
        }
        Some(ViewPosition {
            batch: u64::from_be_bytes(body[..8].try_into().ok()?),
            hash: body[8..40].try_into().ok()?,
            sum: RowSum(RowSum::lanes(&body[40..])),
        })
    }
}

/// A key of sled: the keyspace code, then the key.
pub(crate) fn view_key(code: u8, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(code);
    out.extend_from_slice(key);
    out
}

fn quarantine(path: &Path) -> PathBuf {
    path.with_extension("quarantined")
}

/// sled takes a torn `snap.*.generating` for its newest snapshot and then never opens again.
fn remove_torn_snapshots(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_sled(path: &Path, cache_bytes: u64) -> Result<sled::Db, ViewFault> {
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(Some(500));
    let mut attempts = 0;
    loop {
        let error = match guarded(|| config.open()).map_err(ViewFault::Unfit)? {
            Ok(db) => return Ok(db),
            Err(error) => error.to_string(),
        };
        // sled releases its lock from a background thread some time after the last handle is gone.
        if !error.contains("could not acquire lock") {
            return Err(ViewFault::Unfit(error));
        }
        attempts += 1;
        if attempts == LOCK_ATTEMPTS_MAX {
            return Err(ViewFault::Busy(error));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// sled panics where others return errors.
fn guarded<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|payload| {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied());
        format!("the view engine panicked: {}", said.unwrap_or("without a word"))
    })
}
