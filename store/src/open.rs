//! Opening a store: what stands on the disk becomes a running engine, or a named reason why not.
//!
//! The cycle: 1. lock the directory; 2. open the view, or put it aside; 3. walk and verify the whole log, filling the
//! memory rows and catching the view up; 4. rebuild the view if it had to be put aside; 5. clear a torn tail;
//! 6. check the clock; 7. start the threads.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
};

use crate::{
    Home, LogStore, OpenOptions, StoreError, TreeHead, Versioned,
    batch::Batch,
    commit::StopSwitch,
    committer::{ClockRule, Committer, batch_capacity},
    current::CurrentView,
    disk::{Disk, DiskDirectory, sync_directory},
    keyspace::Keyspaces,
    limits,
    log_store::{Published, Shared},
    mac::KeyedMac,
    memory::{MemoryRows, MemoryWrite},
    prepare::{make_segment, remove_unfinished},
    read::SparseIndex,
    segment::{SegmentHeader, segment_file},
    tail::{LogTail, TailStart},
    view::{RowCheck, View, ViewFault, ViewPosition, ViewWrites},
    walk::{Walker, segment_numbers},
};

pub(crate) const LOG_DIRECTORY: &str = "log";
const VIEW_DIRECTORY: &str = "view";
const LOCK_FILE: &str = "lock";
pub(crate) const CLEAN_END_FILE: &str = "view.clean";
pub(crate) const RESERVE_FILE: &str = "reserve";
/// Free bytes below which a failure of the view is the disk's and not its own.
const ROOM_MIN: u64 = 4 << 20;
/// The reserve is filled only while this many times its size is free.
const RESERVE_SHARE_OF_FREE: u64 = 4;

/// What opening found and did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Entries in the log.
    pub entries: u64,
    /// Batches in the log.
    pub batches: u64,
    /// A last batch that was cut off while being written, never acknowledged, now cleared: file and offset.
    pub torn_tail: Option<(String, u64)>,
    /// Whether the store had been closed in good order.
    pub ended_clean: bool,
    /// What became of the view.
    pub view: ViewRecovery,
}

/// What became of the view at a start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ViewRecovery {
    /// It was sound; so many batches of the log were missing in it and were applied.
    CaughtUp {
        /// Batches applied.
        batches: u64,
    },
    /// It was put aside and made again from the log.
    Rebuilt {
        /// Why it was not believed.
        reason: String,
    },
}

pub(crate) fn create(options: OpenOptions, disk: Option<Arc<dyn Disk>>) -> Result<LogStore, StoreError> {
    options.check()?;
    let directory = &options.directory;
    let fail = |action| StoreError::io(action, directory.display().to_string());
    fs::create_dir_all(directory.join(LOG_DIRECTORY)).map_err(fail("create"))?;
    let lock = lock(directory)?;
    let own_disk = disk.is_none();
    let disk = disk.unwrap_or_else(|| Arc::new(DiskDirectory::new(directory.join(LOG_DIRECTORY))));
    if !segment_numbers(&*disk)?.is_empty() {
        return Err(StoreError::AlreadyExists { directory: directory.clone() });
    }
    // A view without a log belongs to nothing.
    View::put_aside(&directory.join(VIEW_DIRECTORY)).map_err(fail("clear the view in"))?;
    remove_unfinished(&*disk)?;
    sync_directory(directory).map_err(fail("sync"))?;
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_directory(parent).map_err(fail("sync the parent of"))?;
    }
    let mac = options.mac_key.log();
    let header = SegmentHeader {
        identity: options.identity.clone(),
        number: 1,
        first_batch: 1,
        previous_hash: [0; 32],
    };
    make_segment(&*disk, 1, options.segment_bytes, &header.encode(&mac), &AtomicBool::new(false))?;
    drop(lock);
    open(options, if own_disk { None } else { Some(disk) }).map(|(store, _)| store)
}

pub(crate) fn open(
    options: OpenOptions,
    disk: Option<Arc<dyn Disk>>,
) -> Result<(LogStore, Recovery), StoreError> {
    options.check()?;
    let directory = options.directory.clone();
    let not_found = || StoreError::NotFound { directory: directory.clone() };
    if !directory.is_dir() {
        return Err(not_found());
    }
    let lock = lock(&directory)?;
    let disk = match disk {
        Some(disk) => disk,
        None if directory.join(LOG_DIRECTORY).is_dir() => {
            Arc::new(DiskDirectory::new(directory.join(LOG_DIRECTORY)))
        }
        None => return Err(not_found()),
    };
    let keyspaces = Keyspaces::new(&options.keyspaces)?;
    let log_mac = options.mac_key.log();
    remove_unfinished(&*disk)?;
    let mut walker = Walker::new(&*disk, &log_mac, &options.identity)?;
    if walker.is_empty() {
        return Err(not_found());
    }
    let ended_clean = take_clean_end(&directory)?;

    let view_path = directory.join(VIEW_DIRECTORY);
    let mut view = OpenView::open(&view_path, options.mac_key.view(), options.view_cache_bytes, ended_clean)?;
    let found = view.position;
    let memory = MemoryRows::new();
    let mut index = SparseIndex::default();
    let mut caught_up = 0;
    let tail = walker.run_to_end(|batch, place| {
        let number = batch.header.number;
        index.note(batch.header.first_index, place);
        if number == found.batch + 1 && batch.header.previous_hash != found.hash {
            return Err(view_ahead(found, "another batch has its number here"));
        }
        if number > found.batch {
            caught_up += 1;
        }
        replay(batch, place.segment, &keyspaces, &memory, &mut view)
    })?;
    if walker.batch < found.batch {
        return Err(view_ahead(found, "the log ends before it"));
    }
    if walker.batch == found.batch && walker.hash != found.hash {
        return Err(view_ahead(found, "another batch has its number here"));
    }
    view.flush();
    if view.view.is_none() {
        view.start_again()?;
        let mut again = Walker::new(&*disk, &log_mac, &options.identity)?;
        let scratch = MemoryRows::new();
        again.run_to(walker.batch, |batch, place| {
            replay(batch, place.segment, &keyspaces, &scratch, &mut view)
        })?;
        view.flush();
    }
    let (view, view_position, view_recovery) = view.finish(caught_up)?;

    let place = walker.place;
    let mut torn_tail = None;
    if let Some(until) = tail.torn_until {
        let name = segment_file(place.segment);
        tracing::warn!(file = name, offset = place.offset, "the log ends in a torn batch, which is cleared");
        clear(&*disk, &name, place.offset, until)?;
        torn_tail = Some((name, place.offset));
    }
    let start = TailStart {
        place,
        length: walker.segment_length(),
        blank: tail.blank,
        next_batch: walker.batch + 1,
        previous_hash: walker.hash,
    };
    let last_time = walker.last_time;
    let frontier = walker.frontier.clone();
    let recovery = Recovery {
        entries: frontier.size(),
        batches: walker.batch,
        torn_tail,
        ended_clean,
        view: view_recovery,
    };
    drop(walker);

    let now = options.clock.now();
    if let Some(behind_micros) = last_time.and_then(|last| ClockRule::behind(now, last))
        && !options.allow_clock_behind_log
    {
        return Err(StoreError::ClockBehindLog { behind_micros });
    }
    fill_reserve(&directory, options.reserve_bytes);
    let tail = LogTail::start(
        Arc::clone(&disk),
        log_mac.clone(),
        options.identity.clone(),
        options.segment_bytes,
        start,
    )?;
    let tree = TreeHead { size: frontier.size(), root: frontier.root() };
    let shared = Shared {
        directory,
        disk,
        identity: options.identity,
        log_mac,
        keyspaces,
        memory,
        view: CurrentView::new(view, view_position),
        switch: Arc::new(StopSwitch::default()),
        published: RwLock::new(Published { tree, batch: recovery.batches, index }),
        applying: Mutex::new(()),
        batch_capacity: batch_capacity(options.segment_bytes),
        _lock: lock,
    };
    let clock = ClockRule::new(options.clock, options.allow_clock_behind_log);
    let store = LogStore::start(shared, options.queue_depth_max, |shared, messages| Committer {
        shared,
        messages,
        tail,
        clock,
        frontier,
        last_time,
    })?;
    Ok((store, recovery))
}

fn view_ahead(found: ViewPosition, what: &'static str) -> StoreError {
    StoreError::ViewAheadOfLog { view_batch: found.batch, what }
}

/// Applies one verified batch to the memory rows, and to the view if that has not seen it.
fn replay(
    batch: &Batch<'_>,
    segment: u64,
    keyspaces: &Keyspaces,
    memory: &MemoryRows,
    view: &mut OpenView<'_>,
) -> Result<(), StoreError> {
    let for_view = batch.header.number > view.position.batch;
    let mut writes = Vec::new();
    let parsed = batch.each_change(|change| {
        let code = change.code;
        match keyspaces.home(code).ok_or(StoreError::UnknownKeyspace { code })? {
            Home::Memory => {
                let row =
                    change.value.map(|value| Versioned { value: value.into(), version: change.version });
                writes.push(MemoryWrite { code, key: change.key.to_vec(), row });
            }
            Home::View if for_view => {
                view.pending.add(code, change.key, change.value, change.version);
            }
            Home::View => {}
        }
        Ok(())
    })?;
    if !parsed {
        return Err(StoreError::in_file(&segment_file(segment), 0, "a state section does not parse"));
    }
    memory.apply(writes);
    if for_view {
        view.reached = Some((batch.header.number, batch.header_hash));
        if view.pending.rows.len() >= limits::VIEW_WRITES_PER_BATCH_MAX - 1 {
            view.flush();
        }
    }
    Ok(())
}

/// The view while the log is walked. A view that fails is dropped, and made again afterwards.
struct OpenView<'a> {
    path: &'a Path,
    mac: KeyedMac,
    cache_bytes: u64,
    view: Option<View>,
    position: ViewPosition,
    pending: ViewWrites,
    reached: Option<(u64, [u8; 32])>,
    /// Under way until the first write.
    check: Option<RowCheck>,
    ended_clean: bool,
    unfit: Option<String>,
}

impl<'a> OpenView<'a> {
    fn open(path: &'a Path, mac: KeyedMac, cache_bytes: u64, ended_clean: bool) -> Result<Self, StoreError> {
        let mut open = Self {
            path,
            mac,
            cache_bytes,
            view: None,
            position: ViewPosition::default(),
            pending: ViewWrites::default(),
            reached: None,
            check: None,
            ended_clean,
            unfit: None,
        };
        // Every row is read, also after a clean end: an old row with its right HMAC, put back while nothing ran, is found
        // by the sum over all of them.
        match View::open(path, open.mac.clone(), cache_bytes) {
            Ok((view, position)) => {
                open.check = Some(view.begin_check(&position));
                (open.view, open.position) = (Some(view), position);
            }
            Err(ViewFault::Busy(reason)) => return Err(StoreError::View { reason }),
            // Made again right here, so that one walk of the log fills it.
            Err(ViewFault::Unfit(reason)) => {
                open.found_unfit(reason);
                open.start_again()?;
            }
        }
        Ok(open)
    }

    fn found_unfit(&mut self, reason: String) {
        if self.ended_clean {
            tracing::error!(
                reason,
                "the view was changed after it was closed in good order; examine who can write to the disk"
            );
        }
        self.view = None;
        self.unfit = Some(reason);
    }

    /// Waits until every row was looked at; a view that is not to be believed is dropped.
    fn settle(&mut self) {
        if let Some(Err(reason)) = self.check.take().map(RowCheck::finish) {
            self.found_unfit(reason);
        }
    }

    fn start_again(&mut self) -> Result<(), StoreError> {
        let reason = self.unfit.clone().unwrap_or_default();
        // On a full disk sled fails whatever state it is in: a good view is not given up for that.
        room(self.path).map_err(StoreError::io("find room for", VIEW_DIRECTORY))?;
        tracing::warn!(reason, "the view is put aside and made again from the log");
        self.view = None;
        self.position = ViewPosition::default();
        self.pending = ViewWrites::default();
        self.reached = None;
        View::put_aside(self.path).map_err(StoreError::io("put aside", VIEW_DIRECTORY))?;
        match View::open(self.path, self.mac.clone(), self.cache_bytes) {
            Ok((view, position)) => {
                (self.view, self.position) = (Some(view), position);
                Ok(())
            }
            Err(ViewFault::Busy(reason) | ViewFault::Unfit(reason)) => Err(StoreError::View { reason }),
        }
    }

    /// Applies what is pending; a failure puts the view out of use.
    fn flush(&mut self) {
        self.settle();
        let writes = std::mem::take(&mut self.pending);
        if let (Some(view), Some((batch, hash))) = (&self.view, self.reached.take())
            && let Err(reason) = view.apply(&writes, &mut self.position, batch, hash)
        {
            self.view = None;
            self.unfit = Some(reason);
        }
    }

    fn finish(self, caught_up: u64) -> Result<(View, ViewPosition, ViewRecovery), StoreError> {
        let unfit = self.unfit.clone().unwrap_or_default();
        let view = self.view.ok_or(StoreError::View { reason: unfit })?;
        let recovery = match self.unfit {
            Some(reason) => ViewRecovery::Rebuilt { reason },
            None => ViewRecovery::CaughtUp { batches: caught_up },
        };
        Ok((view, self.position, recovery))
    }
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK_FILE);
    let fail = |action| StoreError::io(action, LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(fail("open"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(error)) => Err(fail("lock")(error)),
    }
}

/// Zeros a torn tail, so that what is behind the log's end is zero again before the log grows over it.
fn clear(disk: &dyn Disk, name: &str, from: u64, until: u64) -> Result<(), StoreError> {
    let file = disk.open(name).map_err(StoreError::io("open", name))?;
    let zeros = vec![0; (until - from) as usize];
    file.write_at(from, &zeros).map_err(StoreError::io("clear the torn tail of", name))?;
    file.sync_data().map_err(StoreError::io("sync", name))
}

/// Notes that the view is complete and synced: if it does not hold at the next start, somebody changed it.
pub(crate) fn mark_clean_end(directory: &Path) {
    let marked = (|| {
        File::create(directory.join(CLEAN_END_FILE))?.sync_all()?;
        sync_directory(directory)
    })();
    if let Err(error) = marked {
        tracing::warn!(%error, "the clean end could not be noted");
    }
}

/// Whether the last end was clean; takes the note away, durably, before anything else changes.
fn take_clean_end(directory: &Path) -> Result<bool, StoreError> {
    let fail = |action| StoreError::io(action, CLEAN_END_FILE);
    match fs::remove_file(directory.join(CLEAN_END_FILE)) {
        Ok(()) => sync_directory(directory).map(|()| true).map_err(fail("sync the removal of")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(fail("remove")(error)),
    }
}

/// Whether there is the room that opening, or a last batch, needs.
pub(crate) fn room(place: &Path) -> io::Result<()> {
    let free = rustix::fs::statvfs(place).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))?;
    if free < ROOM_MIN { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
}

/// Fills the reserve if there is room; its absence is worth a warning, never a refusal.
fn fill_reserve(directory: &Path, bytes: u64) {
    let path = directory.join(RESERVE_FILE);
    if bytes == 0 || fs::metadata(&path).is_ok_and(|found| found.len() == bytes) {
        return;
    }
    let filled = (|| {
        let free = rustix::fs::statvfs(directory).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))?;
        if free / RESERVE_SHARE_OF_FREE < bytes {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let mut file = File::create(&path)?;
        let piece = vec![0; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let count = left.min(piece.len() as u64);
            file.write_all(&piece[..count as usize])?;
            left -= count;
        }
        file.sync_all()
    })();
    if let Err(error) = filled {
        let _ = fs::remove_file(&path);
        tracing::warn!(%error, bytes, "no room for the reserve that a full disk would need");
    }
}
