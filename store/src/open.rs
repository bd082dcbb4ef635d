//! Opening a store: what stands on the disk becomes a running engine, or a named reason why not.
//!
//! The cycle: 1. lock the directory; 2. walk and verify the whole log, filling the memory rows, while other threads open
//! the view and check its rows; 3. catch the view up, or put it aside and make it again; 4. clear a torn tail;
//! 5. check the clock; 6. start the threads.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
    thread,
};

use crate::{
    Home, LogStore, OpenOptions, StoreError, TreeHead,
    commit::StopSwitch,
    committer::{ClockRule, Committer, batch_capacity},
    current::CurrentView,
    disk::{Disk, DiskDirectory, sync_directory},
    keyspace::Keyspaces,
    log_store::{Published, Shared},
    memory::MemoryRows,
    prepare::{make_segment, remove_unfinished},
    read::SparseIndex,
    segment::{SegmentHeader, segment_file},
    tail::{LogTail, TailStart},
    view::View,
    walk::{Walker, segment_numbers},
};

mod view;

use self::view::OpenView;

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
    let (view_mac, cache_bytes, view_disk) =
        (options.mac_key.view(), options.view_cache_bytes, Arc::clone(&disk));
    let memory = MemoryRows::new();
    let mut index = SparseIndex::default();
    let (tail, opened) = thread::scope(|scope| {
        let opening =
            scope.spawn(|| OpenView::open(&view_path, view_mac, cache_bytes, view_disk, ended_clean));
        let tail = walker.run_to_end(|batch, place| {
            index.note(batch.header.first_index, place);
            let mut writes = Vec::new();
            batch.each_row_change(place, &keyspaces, |home, change| match home {
                Home::Memory => writes.push(change.memory_write()),
                // The view is brought up to date when it is known what it lacks.
                Home::View => {}
            })?;
            memory.apply(writes);
            Ok(())
        });
        (tail, opening.join())
    });
    // What is wrong with the log is said first; the view is not touched then.
    let tail = tail?;
    let view = opened.map_err(|_| StoreError::View { reason: "opening it panicked".to_owned() })??;
    let (view, view_position, view_recovery) = view.follow(&walker, &keyspaces)?;

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

/// The directory is this process's alone while it lives.
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    /// Closing the file would not do: a process that was forked a moment ago, and has not begun its program yet, has it open too.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn lock(directory: &Path) -> Result<DirectoryLock, StoreError> {
    let path = directory.join(LOCK_FILE);
    let fail = |action| StoreError::io(action, LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(fail("open"))?;
    match file.try_lock() {
        Ok(()) => Ok(DirectoryLock(file)),
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
