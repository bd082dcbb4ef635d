//! Looking at a store without changing a byte of it: no lock, no clearing of a torn tail, no view opened in place.
//!
//! For a store that nobody has open. While an engine writes, a look may meet a batch half way.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use audit::{Frontier, sha256};
use domain::Timestamp;

use crate::{
    Commit, CommitError, CommitTicket, Home, Keyspace, OpenOptions, Row, RowProblem, RowProblemKind, Store,
    StoreError, TreeHead, Versioned, ViewReport,
    disk::{Disk, DiskDirectory, DiskFile},
    keyspace::Keyspaces,
    mac::KeyedMac,
    memory::MemoryRows,
    open::{CLEAN_END_FILE, LOG_DIRECTORY},
    read::{EntryReader, SparseIndex},
    segment::segment_file,
    verify::{PROBLEMS_LISTED_MAX, full_key},
    view::{OUTDATED, View, ViewFault},
    walk::{Walker, segment_numbers},
};

/// What a walk over the whole log found, and the rows it was asked to keep. Reads only what it found then.
pub struct Inspection {
    /// The tree over every entry.
    pub tree: TreeHead,
    /// Batches in the log.
    pub batches: u64,
    /// Segments present, blank ones included.
    pub segments: u64,
    /// Bytes of batches, their padding included.
    pub batch_bytes: u64,
    /// The time in the last entry of the first batch.
    pub first_time: Option<Timestamp>,
    /// The time in the last entry.
    pub last_time: Option<Timestamp>,
    /// A last batch that was cut off while being written and never acknowledged: file and offset. The next start
    /// clears it.
    pub torn_tail: Option<(String, u64)>,
    /// Whether the store was closed in good order.
    pub ended_clean: bool,
    /// The root over the first so many entries that were asked for; `None` when the log has fewer.
    pub prefix_root: Option<[u8; 32]>,
    disk: Arc<dyn Disk>,
    log_mac: KeyedMac,
    rows: MemoryRows,
    kept: Vec<u8>,
    index: SparseIndex,
}

/// Where the walk stopped, and why.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be read beyond batch {batches}")]
pub struct InspectError {
    /// Batches that verified; the bad one is the next.
    pub batches: u64,
    /// Entries in them; the first one that is not vouched for has this index.
    pub entries: u64,
    /// What was found there, with file and offset.
    #[source]
    pub source: StoreError,
}

/// What a view kept beside a log turned out to be.
#[derive(Debug)]
pub enum ViewFinding {
    /// It holds the log up to a batch; how its rows compare to the log at that batch.
    Compared {
        /// The last batch applied to it; the next start applies the rest.
        batch: u64,
        /// Row by row.
        report: ViewReport,
    },
    /// It would not be believed at a start, which makes it again from the log.
    Unfit {
        /// Why.
        reason: String,
    },
}

impl Inspection {
    /// Walks and verifies the whole log of `options`, whose clock and sizes are not used. Keeps the rows of memory
    /// keyspaces and of those in `keep`. `prefix` asks for the root over so many first entries; `progress` hears the
    /// bytes of segments walked so far and their sum.
    pub fn read(
        options: &OpenOptions,
        keep: &[Keyspace],
        prefix: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, InspectError> {
        let at_start = |source| InspectError { batches: 0, entries: 0, source };
        let directory = options.directory.join(LOG_DIRECTORY);
        if !directory.is_dir() {
            return Err(at_start(StoreError::NotFound { directory: options.directory.clone() }));
        }
        let disk: Arc<dyn Disk> = Arc::new(ReadOnly::new(&directory));
        let keyspaces = Keyspaces::new(&options.keyspaces).map_err(at_start)?;
        let log_mac = options.mac_key.log();
        let numbers = segment_numbers(&*disk).map_err(at_start)?;
        let mut lengths = Vec::with_capacity(numbers.len());
        for number in &numbers {
            let name = segment_file(*number);
            let length = disk.open(&name).and_then(|file| file.length());
            lengths.push(length.map_err(StoreError::io("measure", name)).map_err(at_start)?);
        }
        let total: u64 = lengths.iter().sum();
        let before = |segment: u64| lengths.iter().take(segment.saturating_sub(1) as usize).sum::<u64>();
        let mut walker = Walker::new(&*disk, &log_mac, &options.identity).map_err(at_start)?;
        if walker.is_empty() {
            return Err(at_start(StoreError::NotFound { directory: options.directory.clone() }));
        }
        let rows = MemoryRows::new();
        let mut kept: Vec<u8> = keep.iter().map(|keyspace| keyspace.code).collect();
        kept.extend(options.keyspaces.iter().filter(|k| k.home == Home::Memory).map(|k| k.code));
        let mut index = SparseIndex::default();
        let mut frontier = Frontier::new();
        let (mut batch_bytes, mut first_time) = (0, None);
        let walked = walker.run_to_end(|batch, place| {
            index.note(batch.header.first_index, place);
            batch_bytes += batch.header.extent();
            first_time.get_or_insert(batch.header.last_time);
            for entry in batch.each_entry() {
                if frontier.size() < prefix {
                    frontier.push(audit::leaf_hash(entry));
                }
            }
            progress(before(place.segment) + place.offset, total);
            batch.each_row_change(place, &keyspaces, |_, change| {
                if kept.contains(&change.code) {
                    rows.apply([change.memory_write()]);
                }
            })
        });
        let (batches, tree) =
            (walker.batch, TreeHead { size: walker.frontier.size(), root: walker.frontier.root() });
        let tail = walked.map_err(|source| InspectError { batches, entries: tree.size, source })?;
        let (place, last_time) = (walker.place, walker.last_time);
        drop(walker);
        progress(total, total);
        Ok(Self {
            tree,
            batches,
            segments: numbers.len() as u64,
            batch_bytes,
            first_time,
            last_time,
            torn_tail: tail.torn_until.map(|_| (segment_file(place.segment), place.offset)),
            ended_clean: options.directory.join(CLEAN_END_FILE).exists(),
            prefix_root: (frontier.size() == prefix).then(|| frontier.root()),
            disk,
            log_mac,
            rows,
            kept,
            index,
        })
    }

    /// Opens a **copy** of the view (opening changes files) and compares each row to the log, up to the batch that the
    /// view has seen. A view of a log that this one does not continue is [`StoreError::ViewAheadOfLog`].
    pub fn compare_view(&self, options: &OpenOptions, copy: &Path) -> Result<ViewFinding, StoreError> {
        let disk = Arc::clone(&self.disk);
        let (view, found) = match View::open(copy, options.mac_key.view(), options.view_cache_bytes, disk) {
            Ok(opened) => opened,
            Err(ViewFault::Unfit(reason)) => return Ok(ViewFinding::Unfit { reason }),
            Err(ViewFault::Outdated) => return Ok(ViewFinding::Unfit { reason: OUTDATED.to_owned() }),
            Err(ViewFault::Busy(reason)) => return Err(StoreError::View { reason }),
        };
        // After an end in good order each row is compared below, and what is wrong with it told.
        if !self.ended_clean
            && let Err(reason) = view.begin_check(&found).finish()
        {
            return Ok(ViewFinding::Unfit { reason });
        }
        let ahead = |what| StoreError::ViewAheadOfLog { view_batch: found.batch, what };
        if found.batch > self.batches {
            return Err(ahead("the log ends before it"));
        }
        let keyspaces = Keyspaces::new(&options.keyspaces)?;
        let mut expected: HashMap<Vec<u8>, (u64, [u8; 32])> = HashMap::new();
        let mut walker = Walker::new(&*self.disk, &self.log_mac, &options.identity)?;
        walker.run_to(found.batch, |batch, place| {
            batch.each_row_change(place, &keyspaces, |home, change| {
                if home == Home::View {
                    let key = full_key(change.code, change.key);
                    match change.value {
                        Some(value) => expected.insert(key, (change.version, sha256(value))),
                        None => expected.remove(&key),
                    };
                }
            })
        })?;
        if walker.hash != found.hash {
            return Err(ahead("another batch has its number here"));
        }
        let rows = expected.len() as u64;
        let mut problems = Vec::new();
        view.each_row(|key, row| {
            let kind = match (expected.remove(key), row) {
                (_, None) => RowProblemKind::WrongHmac,
                (None, Some(_)) => RowProblemKind::Surplus,
                (Some(print), Some(row)) if print == (row.version, sha256(&row.value)) => return,
                (Some(_), Some(_)) => RowProblemKind::NotTheLatest,
            };
            problems.push((key.to_vec(), kind));
        })?;
        problems.extend(expected.into_keys().map(|key| (key, RowProblemKind::Missing)));
        problems.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        let problem_count = problems.len() as u64;
        let named = problems.into_iter().take(PROBLEMS_LISTED_MAX).map(|(key, kind)| RowProblem {
            keyspace: keyspaces.name(key[0]),
            key: key[1..].to_vec(),
            kind,
        });
        let report = ViewReport { rows, problem_count, problems: named.collect() };
        Ok(ViewFinding::Compared { batch: found.batch, report })
    }

    fn known(&self, keyspace: Keyspace) -> Result<u8, StoreError> {
        let code = keyspace.code;
        if self.kept.contains(&code) { Ok(code) } else { Err(StoreError::UnknownKeyspace { code }) }
    }
}

/// Reads the kept rows; takes no commit.
impl Store for Inspection {
    fn commit(&self, _commit: Commit) -> CommitTicket {
        CommitTicket::refused(CommitError::ShuttingDown)
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        Ok(self.rows.get(self.known(keyspace)?, key))
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.rows.scan(self.known(keyspace)?, prefix, after, limit))
    }

    fn tree(&self) -> TreeHead {
        self.tree
    }

    fn entries(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let until = from.saturating_add(limit as u64).min(self.tree.size);
        match self.index.before(from).filter(|_| from < until) {
            Some((index, place)) => {
                EntryReader::new(&*self.disk, &self.log_mac, index, place).read(from, until)
            }
            None => Ok(Vec::new()),
        }
    }

    fn stopped(&self) -> Option<Arc<str>> {
        None
    }
}

/// The log's directory, for reading.
struct ReadOnly {
    directory: DiskDirectory,
    path: std::path::PathBuf,
}

impl ReadOnly {
    fn new(path: &Path) -> Self {
        Self { directory: DiskDirectory::new(path), path: path.to_owned() }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
}

impl Disk for ReadOnly {
    fn create(&self, _name: &str) -> io::Result<Box<dyn DiskFile>> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(ReadOnlyFile(fs::File::open(self.path.join(name))?)))
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn sync_directory(&self) -> io::Result<()> {
        refused()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.directory.names()
    }
}

struct ReadOnlyFile(fs::File);

impl DiskFile for ReadOnlyFile {
    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        refused()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
