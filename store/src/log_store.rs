//! `LogStore`: the log-first engine behind the `Store` trait.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded};
use domain::Clock;
use tokio::sync::oneshot;

use crate::{
    Commit, CommitError, CommitTicket, Home, Keyspace, LogIdentity, LogMacKey, Recovery, Row, Store,
    StoreError, TreeHead, Versioned, ViewReport,
    commit::StopSwitch,
    committer::{Committer, Job, Message, bytes_max},
    current::CurrentView,
    disk::Disk,
    keyspace::Keyspaces,
    limits,
    mac::KeyedMac,
    memory::MemoryRows,
    open,
    prepare::is_full,
    read::{EntryReader, SparseIndex},
    verify,
    walk::LogPlace,
};

/// How often sled is brought up to date and synced. Losing what it lacks costs a replay from the log, nothing else.
const VIEW_SYNC_EVERY: Duration = Duration::from_millis(500);

/// How to open a store.
pub struct OpenOptions {
    /// The directory that holds everything: `log/`, `view/`, the lock and the reserve.
    pub directory: PathBuf,
    /// Whose log it is.
    pub identity: LogIdentity,
    /// The key from the log token.
    pub mac_key: LogMacKey,
    /// Entry times come from here.
    pub clock: Arc<dyn Clock>,
    /// Every keyspace the log may mention, each code once.
    pub keyspaces: Vec<Keyspace>,
    /// Size of new segments: 256 MiB in production, small in tests. Also bounds the largest commit.
    pub segment_bytes: u64,
    /// Commits that may wait; one more is [`CommitError::Overloaded`].
    pub queue_depth_max: usize,
    /// Size of a file kept only to be given up when the disk is full, so that a restart has room; 0 for none.
    pub reserve_bytes: u64,
    /// Bytes of the view that are kept in memory, 16 MiB or more. What a register of many rows is read and written with.
    pub view_cache_bytes: u64,
    /// An officer's word that the wall clock may stand behind the last entry at this start.
    pub allow_clock_behind_log: bool,
}

impl OpenOptions {
    /// 256 MiB segments, 4,096 waiting commits, 64 MiB of reserve and of cache, no clock behind the log.
    pub fn new(
        directory: impl Into<PathBuf>,
        identity: LogIdentity,
        mac_key: LogMacKey,
        clock: Arc<dyn Clock>,
        keyspaces: Vec<Keyspace>,
    ) -> Self {
        Self {
            directory: directory.into(),
            identity,
            mac_key,
            clock,
            keyspaces,
            segment_bytes: 256 << 20,
            queue_depth_max: 4096,
            reserve_bytes: 64 << 20,
            view_cache_bytes: 64 << 20,
            allow_clock_behind_log: false,
        }
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.identity.check()?;
        if !(limits::SEGMENT_BYTES_MIN..=limits::SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(4096)
        {
            return Err(StoreError::Configuration {
                what: "segment_bytes must be a multiple of 4096 from 32 KiB to 2 GiB",
            });
        }
        if self.view_cache_bytes < limits::VIEW_CACHE_BYTES_MIN {
            return Err(StoreError::Configuration { what: "view_cache_bytes must be at least 16 MiB" });
        }
        if self.queue_depth_max == 0 {
            return Err(StoreError::Configuration { what: "queue_depth_max must be at least 1" });
        }
        Ok(())
    }
}

/// The log-first engine: segments, group commit, memory rows and the sled view.
///
/// Closed by [`LogStore::shutdown`] or by dropping the last handle; both wait for commits under way.
pub struct LogStore {
    shared: Arc<Shared>,
    messages: Sender<Message>,
    threads: Mutex<Option<Threads>>,
}

pub(crate) struct Threads {
    pub committer: JoinHandle<()>,
    pub view_sync: JoinHandle<()>,
    pub view_sync_end: Sender<()>,
}

/// What the threads and the handles have in common.
pub(crate) struct Shared {
    pub directory: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub identity: LogIdentity,
    pub log_mac: KeyedMac,
    pub keyspaces: Keyspaces,
    pub memory: MemoryRows,
    pub view: CurrentView,
    pub switch: Arc<StopSwitch>,
    pub published: RwLock<Published>,
    /// Held while a batch is applied and published: who takes it sees no batch half way.
    pub applying: Mutex<()>,
    pub batch_capacity: usize,
    /// Held for as long as anyone may touch the files.
    pub _lock: open::DirectoryLock,
}

/// What readers may see of the log.
pub(crate) struct Published {
    pub tree: TreeHead,
    pub batch: u64,
    pub index: SparseIndex,
}

impl Shared {
    pub fn stop(&self, reason: String) {
        self.switch.stop(reason);
    }

    pub fn publish(&self, tree: TreeHead, batch: u64, first_index: u64, at: LogPlace) {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        published.tree = tree;
        published.batch = batch;
        published.index.note(first_index, at);
    }

    /// The row under a key, wherever it lives.
    pub fn row(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        match self.home(keyspace)? {
            Home::Memory => Ok(self.memory.get(keyspace.code, key)),
            Home::View => self.view.get(keyspace.code, key, keyspace.name),
        }
    }

    fn home(&self, keyspace: Keyspace) -> Result<Home, StoreError> {
        if self.keyspaces.knows(keyspace) {
            Ok(keyspace.home)
        } else {
            Err(StoreError::UnknownKeyspace { code: keyspace.code })
        }
    }

    /// On a full disk, gives up the reserve so that the next start has room to open.
    pub fn release_reserve_if_full(&self, error: &StoreError) {
        if let StoreError::Io { source, .. } = error
            && is_full(source)
        {
            self.release_reserve();
        }
    }

    /// The same for the view, whose engine does not say why it failed.
    pub fn release_reserve_if_no_room(&self) {
        if open::room(&self.directory).is_err() {
            self.release_reserve();
        }
    }

    fn release_reserve(&self) {
        if std::fs::remove_file(self.directory.join(open::RESERVE_FILE)).is_ok() {
            tracing::error!(
                "the disk is full; the reserve was given up, free space before it is needed again"
            );
        }
    }

    /// A read that met an alarm or a broken engine stops the store.
    fn judged<T>(&self, read: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &read
            && (error.is_alarm() || matches!(error, StoreError::View { .. }))
        {
            self.stop(error.to_string());
        }
        read
    }
}

impl LogStore {
    /// Makes a new, empty log in the directory (created if absent), durable before this returns, and opens it.
    pub fn create(options: OpenOptions) -> Result<Self, StoreError> {
        open::create(options, None)
    }

    /// Opens the log in the directory: verifies all of it, rebuilds what must be, and starts.
    ///
    /// A clean or unclean end, a torn last batch, a lost or corrupt view and a disk that was full are ordinary. An
    /// error that [`StoreError::is_alarm`] is not: do not serve, keep the files.
    pub fn open(options: OpenOptions) -> Result<(Self, Recovery), StoreError> {
        open::open(options, None)
    }

    /// As [`LogStore::create`], with the log files on a disk of the caller's: for tests of power cuts and faults.
    pub fn create_on(options: OpenOptions, disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        open::create(options, Some(disk))
    }

    /// As [`LogStore::open`], with the log files on a disk of the caller's: for tests of power cuts and faults.
    pub fn open_on(options: OpenOptions, disk: Arc<dyn Disk>) -> Result<(Self, Recovery), StoreError> {
        open::open(options, Some(disk))
    }

    pub(crate) fn start(
        shared: Shared,
        queue_depth_max: usize,
        committer: impl FnOnce(Arc<Shared>, crossbeam_channel::Receiver<Message>) -> Committer,
    ) -> Result<Self, StoreError> {
        let shared = Arc::new(shared);
        let (messages, received) = bounded(queue_depth_max);
        let committer = committer(Arc::clone(&shared), received);
        let committer = thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(StoreError::io("start", "the committer thread"))?;
        let (view_sync_end, ended) = bounded::<()>(0);
        let viewed = Arc::clone(&shared);
        let view_sync = thread::Builder::new()
            .name("store-view-sync".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(VIEW_SYNC_EVERY) {
                    if let Err(reason) = viewed.view.sync() {
                        viewed.release_reserve_if_no_room();
                        viewed.stop(format!("the view failed: {reason}"));
                        return;
                    }
                }
            })
            .map_err(StoreError::io("start", "the thread that syncs the view"))?;
        let threads = Threads { committer, view_sync, view_sync_end };
        Ok(Self { shared, messages, threads: Mutex::new(Some(threads)) })
    }

    /// Compares the whole view, and the memory rows with it, to what the log says they must be: changed, missing,
    /// stale and surplus rows. Reads the whole log and verifies it again on the way. Commits may go on meanwhile;
    /// rows they touch are left out. Does not stop the store: the caller judges the report.
    pub fn verify_view(&self) -> Result<ViewReport, StoreError> {
        verify::verify_view(&self.shared)
    }

    /// Ends in good order: no new commits, those handed in are answered, the view is synced. Reads go on working.
    /// Calling it again does nothing.
    pub fn shutdown(&self) {
        self.shared.switch.close();
        let Some(threads) = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        // Fails only when the committer has ended already.
        let _ = self.messages.send(Message::Close);
        let _ = threads.committer.join();
        drop(threads.view_sync_end);
        let _ = threads.view_sync.join();
        if self.shared.switch.reason().is_none() {
            match self.shared.view.sync() {
                Ok(()) => open::mark_clean_end(&self.shared.directory),
                Err(reason) => self.shared.stop(format!("the view failed: {reason}")),
            }
        }
    }

    fn refusal(&self, commit: &Commit) -> Option<CommitError> {
        let too_large = |what| Some(CommitError::TooLarge { what });
        if let Some(reason) = self.shared.switch.reason() {
            return Some(CommitError::Stopped { reason });
        }
        if self.shared.switch.is_closing() {
            return Some(CommitError::ShuttingDown);
        }
        if commit.entries.is_empty() {
            return Some(CommitError::Malformed { what: "no entry" });
        }
        if commit.entries.len() > limits::COMMIT_ENTRIES_MAX {
            return too_large("too many entries");
        }
        let named = commit.changes.iter().map(|change| (change.keyspace, &change.key));
        let asked = commit.preconditions.iter().map(|precondition| match precondition {
            crate::Precondition::Absent { keyspace, key } => (*keyspace, key),
            crate::Precondition::Version { keyspace, key, .. } => (*keyspace, key),
        });
        for (keyspace, key) in named.chain(asked) {
            if !self.shared.keyspaces.knows(keyspace) {
                return Some(CommitError::Malformed { what: "a keyspace this store was not opened with" });
            }
            if key.len() > limits::KEY_BYTES_MAX {
                return too_large("a key");
            }
        }
        let value_bytes = |change: &crate::Change| change.value.as_ref().map_or(0, Vec::len);
        if commit.changes.iter().any(|change| value_bytes(change) > limits::VALUE_BYTES_MAX) {
            return too_large("a value");
        }
        if bytes_max(commit) > self.shared.batch_capacity.min(limits::COMMIT_BYTES_MAX) {
            return too_large("the commit as a whole");
        }
        None
    }
}

impl Store for LogStore {
    fn commit(&self, commit: Commit) -> CommitTicket {
        if let Some(error) = self.refusal(&commit) {
            return CommitTicket::refused(error);
        }
        let (answer, ticket) = oneshot::channel();
        match self.messages.try_send(Message::Commit(Job { commit, answer })) {
            Ok(()) => CommitTicket::pending(ticket, Arc::clone(&self.shared.switch)),
            Err(TrySendError::Full(_)) => CommitTicket::refused(CommitError::Overloaded),
            Err(TrySendError::Disconnected(_)) => CommitTicket::refused(self.shared.switch.error()),
        }
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        self.shared.judged(self.shared.row(keyspace, key))
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let limit = limit.min(limits::READ_ROWS_MAX);
        match self.shared.home(keyspace)? {
            Home::Memory => Ok(self.shared.memory.scan(keyspace.code, prefix, after, limit)),
            Home::View => {
                self.shared.judged(self.shared.view.scan(keyspace.code, prefix, after, limit, keyspace.name))
            }
        }
    }

    fn tree(&self) -> TreeHead {
        self.shared.published.read().unwrap_or_else(PoisonError::into_inner).tree
    }

    fn entries(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let (size, start) = {
            let published = self.shared.published.read().unwrap_or_else(PoisonError::into_inner);
            (published.tree.size, published.index.before(from))
        };
        let limit = limit.min(limits::READ_ROWS_MAX) as u64;
        let until = from.saturating_add(limit).min(size);
        let Some((index, place)) = start.filter(|_| from < until) else { return Ok(Vec::new()) };
        let reader = EntryReader::new(&*self.shared.disk, &self.shared.log_mac, index, place);
        self.shared.judged(reader.read(from, until))
    }

    fn stopped(&self) -> Option<Arc<str>> {
        self.shared.switch.reason()
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.shutdown();
    }
}
