//! A disk that fails: it failed, and it failed yet took effect.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    fs, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use store::{CommitError, Disk, DiskDirectory, DiskFile, LogStore, Store};
use support::{DEVICES, options, put};

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The next sync fails; what was written may or may not be there.
    Sync,
    /// The next write fails without effect.
    Write,
    /// The next write reaches the disk in part, in whole sectors.
    ShortWrite,
}

#[derive(Default)]
struct Faults {
    next: Mutex<Option<Fault>>,
    full: AtomicBool,
}

impl Faults {
    fn take(&self, which: &[Fault]) -> Option<Fault> {
        let mut next = self.next.lock().unwrap();
        if next.is_some_and(|next| which.contains(&next)) { next.take() } else { None }
    }
}

struct FaultyDisk {
    real: DiskDirectory,
    faults: Arc<Faults>,
}

struct FaultyFile {
    real: Box<dyn DiskFile>,
    faults: Arc<Faults>,
    growing: bool,
}

impl FaultyDisk {
    fn file(&self, real: Box<dyn DiskFile>, growing: bool) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { real, faults: Arc::clone(&self.faults), growing })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.real.create(name)?, true))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.real.open(name)?, false))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.real.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.real.sync_directory()
    }
    fn names(&self) -> io::Result<Vec<String>> {
        self.real.names()
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.growing && self.faults.full.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        match if self.growing { None } else { self.faults.take(&[Fault::Write, Fault::ShortWrite]) } {
            None => self.real.write_at(offset, bytes),
            Some(Fault::ShortWrite) => {
                self.real.write_at(offset, &bytes[..bytes.len() / 1024 * 512])?;
                Err(io::Error::from(io::ErrorKind::WriteZero))
            }
            Some(_) => Err(io::Error::other("the disk is gone")),
        }
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.real.read_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        match if self.growing { None } else { self.faults.take(&[Fault::Sync]) } {
            None => self.real.sync_data(),
            Some(_) => Err(io::Error::other("the disk is gone")),
        }
    }
    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }
}

fn faulty(directory: &std::path::Path) -> (Arc<FaultyDisk>, Arc<Faults>) {
    let log = directory.join("log");
    fs::create_dir_all(&log).unwrap();
    let faults = Arc::new(Faults::default());
    (Arc::new(FaultyDisk { real: DiskDirectory::new(log), faults: Arc::clone(&faults) }), faults)
}

#[test]
fn a_failed_sync_or_write_stops_acknowledging_for_good_and_the_next_start_has_all_that_was_acknowledged() {
    for fault in [Fault::Sync, Fault::Write, Fault::ShortWrite] {
        let directory = tempfile::tempdir().unwrap();
        let (disk, faults) = faulty(directory.path());
        let store = LogStore::create_on(options(directory.path()), disk).unwrap();
        store.commit(put(DEVICES, "before", "fault")).wait().unwrap();
        *faults.next.lock().unwrap() = Some(fault);
        let unsure = store.commit(put(DEVICES, "at", vec![1; 5000])).wait();
        assert!(matches!(unsure, Err(CommitError::Stopped { .. })));
        // The disk is well again, and is not believed.
        let after = store.commit(put(DEVICES, "after", "fault")).wait();
        assert!(matches!(after, Err(CommitError::Stopped { .. })));
        assert!(store.stopped().is_some());
        // Reads go on; nothing half done shows.
        assert!(store.get(DEVICES, b"before").unwrap().is_some());
        assert!(store.get(DEVICES, b"at").unwrap().is_none());
        assert_eq!(store.tree().size, 1);
        drop(store);
        let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
        assert!(!recovery.ended_clean);
        assert!(store.get(DEVICES, b"before").unwrap().is_some());
        // A failed sync of a complete batch: the operation happened, though nobody was told.
        assert_eq!(store.get(DEVICES, b"at").unwrap().is_some(), fault == Fault::Sync);
        assert_eq!(recovery.torn_tail.is_some(), fault == Fault::ShortWrite);
        store.commit(put(DEVICES, "again", "well")).wait().unwrap();
    }
}

#[test]
fn a_full_disk_stops_acknowledging_reads_go_on_and_a_start_after_freeing_space_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, faults) = faulty(directory.path());
    let mut with_reserve = options(directory.path());
    with_reserve.reserve_bytes = 1 << 20;
    let store = LogStore::create_on(with_reserve, disk).unwrap();
    assert!(directory.path().join("reserve").exists());
    faults.full.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    let error = loop {
        let n = acknowledged.len() as u32;
        match store.commit(put(DEVICES, n.to_be_bytes(), vec![7; 4000])).wait() {
            Ok(_) => acknowledged.push(n),
            Err(error) => break error,
        }
        assert!(n < 1000);
    };
    assert!(matches!(error, CommitError::Stopped { .. }), "{error}");
    assert!(!acknowledged.is_empty());
    assert!(!directory.path().join("reserve").exists());
    let all_there = |store: &LogStore| {
        assert_eq!(store.scan(DEVICES, b"", None, 9999).unwrap().len(), acknowledged.len());
        assert_eq!(store.entries(0, 9999).unwrap().len(), acknowledged.len());
    };
    all_there(&store);
    drop(store);
    let (store, _) = LogStore::open(options(directory.path())).unwrap();
    all_there(&store);
    store.commit(put(DEVICES, "space", "again")).wait().unwrap();
}

#[test]
fn space_that_comes_back_before_the_next_segment_is_needed_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, faults) = faulty(directory.path());
    faults.full.store(true, Ordering::SeqCst);
    // The first segment is made before the disk is full.
    drop(LogStore::create(options(directory.path())).unwrap());
    for entry in fs::read_dir(directory.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("00000001.segment") {
            fs::remove_file(path).unwrap();
        }
    }
    let (store, _) = LogStore::open_on(options(directory.path()), disk).unwrap();
    store.commit(put(DEVICES, "k", vec![7; 4000])).wait().unwrap();
    faults.full.store(false, Ordering::SeqCst);
    for n in 0..40_u32 {
        store.commit(put(DEVICES, n.to_be_bytes(), vec![7; 4000])).wait().unwrap();
    }
}
