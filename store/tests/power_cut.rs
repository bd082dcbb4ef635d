//! Power cuts: every write and sync of the log is recorded under load, the record is cut at a random place, what a
//! disk may make of it is put into a new directory, and nothing acknowledged may be missing there.
//!
//! The disk keeps what was written before the file's last completed sync. Of later writes it keeps none (dropped), any
//! of them whole (reordered), or any 512-byte sectors of them (torn). Names are durable in order, up to the last sync
//! of the directory and perhaps further. The view is lost, old, or old and damaged.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
};

use store::{Disk, DiskDirectory, DiskFile, LogStore, Store};
use support::{DEVICES, PARTIES, TestClock, options_with, put};

const SECTOR: usize = 512;

#[derive(Clone)]
enum Event {
    Create { file: usize, name: String },
    Rename { from: String, to: String },
    Remove { name: String },
    SyncDirectory,
    Write { file: usize, offset: usize, bytes: Vec<u8> },
    Sync { file: usize },
    Acknowledged { n: u32, index: u64 },
}

#[derive(Default)]
struct Trace {
    events: Vec<Event>,
    /// Files by their present names.
    names: HashMap<String, usize>,
    files: usize,
}

/// A real directory that records what is done to it.
struct RecordingDisk {
    real: DiskDirectory,
    trace: Arc<Mutex<Trace>>,
    syncs: Syncs,
}

#[derive(Clone, Copy, PartialEq)]
enum Syncs {
    Kept,
    /// The control: syncs do nothing.
    Removed,
}

impl RecordingDisk {
    fn new(directory: &Path, syncs: Syncs) -> (Arc<Self>, Arc<Mutex<Trace>>) {
        fs::create_dir_all(directory).unwrap();
        let mut trace = Trace::default();
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let file = trace.files;
            trace.files += 1;
            trace.names.insert(name.clone(), file);
            trace.events.push(Event::Create { file, name });
            trace.events.push(Event::Write { file, offset: 0, bytes: fs::read(entry.path()).unwrap() });
            trace.events.push(Event::Sync { file });
        }
        trace.events.push(Event::SyncDirectory);
        let trace = Arc::new(Mutex::new(trace));
        let disk = Self { real: DiskDirectory::new(directory), trace: Arc::clone(&trace), syncs };
        (Arc::new(disk), trace)
    }

    fn handle(&self, inner: Box<dyn DiskFile>, file: usize) -> Box<dyn DiskFile> {
        Box::new(RecordingFile { inner, file, trace: Arc::clone(&self.trace), syncs: self.syncs })
    }
}

impl Disk for RecordingDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.real.create(name)?;
        let mut trace = self.trace.lock().unwrap();
        let file = trace.files;
        trace.files += 1;
        trace.names.insert(name.to_owned(), file);
        trace.events.push(Event::Create { file, name: name.to_owned() });
        Ok(self.handle(inner, file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.real.open(name)?;
        let file = self.trace.lock().unwrap().names[name];
        Ok(self.handle(inner, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to)?;
        let mut trace = self.trace.lock().unwrap();
        let file = trace.names.remove(from).unwrap();
        trace.names.insert(to.to_owned(), file);
        trace.events.push(Event::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.real.remove(name)?;
        let mut trace = self.trace.lock().unwrap();
        trace.names.remove(name);
        trace.events.push(Event::Remove { name: name.to_owned() });
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.syncs == Syncs::Kept {
            self.trace.lock().unwrap().events.push(Event::SyncDirectory);
        }
        Ok(())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.real.names()
    }
}

struct RecordingFile {
    inner: Box<dyn DiskFile>,
    file: usize,
    trace: Arc<Mutex<Trace>>,
    syncs: Syncs,
}

impl DiskFile for RecordingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let event = Event::Write { file: self.file, offset: offset as usize, bytes: bytes.to_vec() };
        self.trace.lock().unwrap().events.push(event);
        self.inner.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncs == Syncs::Kept {
            self.trace.lock().unwrap().events.push(Event::Sync { file: self.file });
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}

/// xorshift64: a run is repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides
    }

    fn coin(&mut self) -> bool {
        self.roll(2) == 0
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Loss {
    Dropped,
    Reordered,
    Torn,
}

/// Puts what the disk holds after a cut into `directory`.
fn materialise(events: &[Event], loss: Loss, dice: &mut Dice, directory: &Path) {
    let mut synced: HashMap<usize, usize> = HashMap::new();
    let mut names_synced = 0;
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Sync { file } => _ = synced.insert(*file, at),
            Event::SyncDirectory => names_synced = at,
            _ => {}
        }
    }
    let names_until = if loss == Loss::Dropped {
        names_synced
    } else {
        names_synced + dice.roll(events.len() - names_synced + 1)
    };
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut files: HashMap<usize, Vec<u8>> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Create { file, name } if at <= names_until => _ = names.insert(name.clone(), *file),
            Event::Rename { from, to } if at <= names_until => {
                let file = names.remove(from).unwrap();
                names.insert(to.clone(), file);
            }
            Event::Remove { name } if at <= names_until => _ = names.remove(name),
            Event::Write { file, offset, bytes } => {
                let durable = synced.get(file).is_some_and(|sync| at < *sync);
                let content = files.entry(*file).or_default();
                let mut keep = |from: usize, until: usize| {
                    let end = offset + until;
                    if content.len() < end {
                        content.resize(end, 0);
                    }
                    content[offset + from..end].copy_from_slice(&bytes[from..until]);
                };
                match loss {
                    _ if durable => keep(0, bytes.len()),
                    Loss::Dropped => {}
                    Loss::Reordered => {
                        if dice.coin() {
                            keep(0, bytes.len());
                        }
                    }
                    Loss::Torn => {
                        for from in (0..bytes.len()).step_by(SECTOR) {
                            if dice.coin() {
                                keep(from, (from + SECTOR).min(bytes.len()));
                            }
                        }
                    }
                }
            }
            _ => {}
        }
    }
    fs::create_dir_all(directory).unwrap();
    for (name, file) in names {
        fs::write(directory.join(name), files.remove(&file).unwrap_or_default()).unwrap();
    }
}

/// The value of commit `n`; its length depends on it too. Some hold whole sectors of zeros.
fn value(n: u32) -> Vec<u8> {
    let byte = if n.is_multiple_of(7) { 0 } else { n as u8 };
    vec![byte; 20 + (n as usize * 37) % 2500]
}

const THREADS: u32 = 4;

/// Runs commits from several threads and records each acknowledgement behind what made it durable.
fn load(store: &LogStore, trace: &Mutex<Trace>, first: u32, per_thread: u32) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for at in 0..per_thread {
                    let n = first + thread * per_thread + at;
                    let keyspace = if n.is_multiple_of(5) { PARTIES } else { DEVICES };
                    let receipt = store.commit(put(keyspace, n.to_be_bytes(), value(n))).wait().unwrap();
                    let event = Event::Acknowledged { n, index: receipt.first_index };
                    trace.lock().unwrap().events.push(event);
                }
            });
        }
    });
}

fn acknowledged(events: &[Event]) -> Vec<(u32, u64)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Acknowledged { n, index } => Some((*n, *index)),
            _ => None,
        })
        .collect()
}

/// How many of the acknowledged commits are not there.
fn lost(store: &LogStore, acknowledged: &[(u32, u64)]) -> usize {
    let present = |(n, index): &(u32, u64)| {
        let keyspace = if n.is_multiple_of(5) { PARTIES } else { DEVICES };
        let row = store.get(keyspace, &n.to_be_bytes()).unwrap();
        let entry = store.entries(*index, 1).unwrap();
        row.is_some_and(|row| row.version == *index && row.value[..] == value(*n))
            && entry.first().is_some_and(|entry| audit::Entry::parse(entry).unwrap().header.index == *index)
    };
    acknowledged.iter().filter(|commit| !present(commit)).count()
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What reordered and lost writes may do to the files of a view: sectors old, foreign or changed.
fn damage(view: &Path, dice: &mut Dice) {
    let mut paths: Vec<_> = fs::read_dir(view).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    let path = &paths[dice.roll(paths.len())];
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
    for _ in 0..1 + dice.roll(20) {
        let sector = dice.roll(used) / SECTOR * SECTOR;
        let end = (sector + SECTOR).min(bytes.len());
        match dice.roll(3) {
            0 => bytes[sector..end].fill(0),
            1 => bytes[sector..end].fill(0x5A),
            _ => bytes[sector..end].iter_mut().step_by(99).for_each(|byte| *byte ^= 1),
        }
    }
    fs::write(path, bytes).unwrap();
}

/// A recorded run: phase one ends clean, phase two is under load. Copies of the view are kept from the end of phase
/// one and, with sled at work, from the middle of phase two; each goes with cuts after it was taken.
struct Run {
    home: tempfile::TempDir,
    events: Vec<Event>,
    phase_two: usize,
    middle: usize,
}

fn run(syncs: Syncs) -> Run {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("store");
    let (disk, trace) = RecordingDisk::new(&directory.join("log"), syncs);
    let open = || options_with(&directory, TestClock::at(support::START));
    let store = LogStore::create_on(open(), Arc::clone(&disk) as _).unwrap();
    load(&store, &trace, 0, 10);
    drop(store);
    copy_directory(&directory.join("view"), &home.path().join("old-view"));
    let phase_two = trace.lock().unwrap().events.len();
    let (store, _) = LogStore::open_on(open(), disk).unwrap();
    load(&store, &trace, 1000, 30);
    copy_directory(&directory.join("view"), &home.path().join("live-view"));
    let middle = trace.lock().unwrap().events.len();
    load(&store, &trace, 2000, 30);
    drop(store);
    let events = trace.lock().unwrap().events.clone();
    Run { home, events, phase_two, middle }
}

#[test]
fn no_acknowledged_commit_is_lost_in_a_power_cut_whatever_became_of_the_view() {
    let run = run(Syncs::Kept);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut checked, mut torn_tails, mut rebuilt) = (0, 0, 0);
    for cut in 0..90_usize {
        let loss = [Loss::Dropped, Loss::Reordered, Loss::Torn][cut % 3];
        let directory = tempfile::tempdir_in(run.home.path()).unwrap();
        let mut at = run.phase_two + dice.roll(run.events.len() - run.phase_two);
        if dice.coin() {
            // In the middle of a write, where it hurts.
            let write = |event: &Event| matches!(event, Event::Write { .. });
            at += run.events[at..].iter().position(write).map_or(0, |next| next + 1);
        }
        materialise(&run.events[..at], loss, &mut dice, &directory.path().join("log"));
        let view = directory.path().join("view");
        if dice.roll(4) > 0 {
            let copy = if at >= run.middle && dice.roll(3) > 0 { "live-view" } else { "old-view" };
            copy_directory(&run.home.path().join(copy), &view);
            if dice.coin() {
                damage(&view, &mut dice);
            }
        }
        let mut expected = acknowledged(&run.events[..at]);
        let open = || options_with(directory.path(), TestClock::at(support::START + 10));
        // Some go through a second cut, in the middle of what follows the first.
        if cut % 4 == 3 {
            let (disk, trace) = RecordingDisk::new(&directory.path().join("log"), Syncs::Kept);
            let recorded = trace.lock().unwrap().events.len();
            let (store, _) =
                LogStore::open_on(open(), disk).unwrap_or_else(|e| panic!("cut {cut}, {loss:?}: {e}"));
            assert_eq!(lost(&store, &expected), 0, "cut {cut}, {loss:?}");
            load(&store, &trace, 5000, 4);
            drop(store);
            let events = trace.lock().unwrap().events.clone();
            let at = recorded + dice.roll(events.len() - recorded);
            fs::remove_dir_all(directory.path().join("log")).unwrap();
            fs::remove_dir_all(&view).unwrap();
            materialise(&events[..at], Loss::Torn, &mut dice, &directory.path().join("log"));
            expected.extend(acknowledged(&events[..at]));
        }
        let (store, recovery) = LogStore::open(open()).unwrap_or_else(|e| panic!("cut {cut}, {loss:?}: {e}"));
        assert_eq!(lost(&store, &expected), 0, "cut {cut}, {loss:?}");
        assert!(store.verify_view().unwrap().is_sound(), "cut {cut}, {loss:?}");
        store.commit(put(DEVICES, "after", "the cut")).wait().unwrap();
        checked += expected.len();
        torn_tails += usize::from(recovery.torn_tail.is_some());
        rebuilt += usize::from(matches!(recovery.view, store::ViewRecovery::Rebuilt { .. }));
    }
    println!(
        "{checked} acknowledged commits checked, {torn_tails} torn tails, {rebuilt} damaged views rebuilt"
    );
    // The run is worth something only if the hard cases occurred.
    assert!(checked > 5000 && torn_tails > 5 && rebuilt > 0);
}

#[test]
fn without_the_sync_the_same_cuts_lose_acknowledged_commits() {
    let run = run(Syncs::Removed);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut losing = 0;
    for cut in 0..15_usize {
        let loss = [Loss::Dropped, Loss::Reordered, Loss::Torn][cut % 3];
        let directory = tempfile::tempdir_in(run.home.path()).unwrap();
        let at = run.phase_two + dice.roll(run.events.len() - run.phase_two);
        materialise(&run.events[..at], loss, &mut dice, &directory.path().join("log"));
        let expected = acknowledged(&run.events[..at]);
        assert!(!expected.is_empty());
        let opened = LogStore::open(options_with(directory.path(), TestClock::at(support::START + 10)));
        losing += usize::from(opened.map_or(true, |(store, _)| lost(&store, &expected) > 0));
    }
    assert_eq!(losing, 15, "the simulator would not notice a missing sync");
}
