//! Preparing segments ahead of the log.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    StoreError,
    disk::Disk,
    segment::{segment_file, unfinished_file},
};

/// Filled and synced in pieces, so that the log's own syncs never wait behind a whole segment.
const PIECE_BYTES: u64 = 4 << 20;

/// Makes segment `number`: filled with zeros behind `head`, durable, and only then under its name.
///
/// Zero-filled rather than allocated: only then does `fdatasync` of an overwrite carry no metadata, and only then is
/// what was not written known to be zero.
pub(crate) fn make_segment(
    disk: &dyn Disk,
    number: u64,
    length: u64,
    head: &[u8],
    abandoned: &AtomicBool,
) -> Result<(), StoreError> {
    let unfinished = unfinished_file(number);
    let fail = |action| StoreError::io(action, unfinished.as_str());
    let filled = (|| {
        let file = disk.create(&unfinished).map_err(fail("create"))?;
        let zeros = vec![0; PIECE_BYTES.min(length) as usize];
        let mut offset = 0;
        while offset < length {
            if abandoned.load(Ordering::Relaxed) {
                let error = io::Error::new(io::ErrorKind::Interrupted, "the store is shutting down");
                return Err(fail("fill")(error));
            }
            let count = PIECE_BYTES.min(length - offset);
            file.write_at(offset, &zeros[..count as usize]).map_err(fail("fill"))?;
            file.sync_data().map_err(fail("sync"))?;
            offset += count;
        }
        if !head.is_empty() {
            file.write_at(0, head).map_err(fail("write the header of"))?;
            file.sync_data().map_err(fail("sync"))?;
        }
        disk.rename(&unfinished, &segment_file(number)).map_err(fail("rename"))?;
        disk.sync_directory().map_err(fail("sync the directory of"))
    })();
    if filled.is_err() {
        // The space goes back to whoever needs it; a leftover is removed at the next start anyway.
        let _ = disk.remove(&unfinished);
    }
    filled
}

/// Removes what an interrupted preparation left.
pub(crate) fn remove_unfinished(disk: &dyn Disk) -> Result<(), StoreError> {
    let names = disk.names().map_err(StoreError::io("list", "log"))?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name).map_err(StoreError::io("remove", name.as_str()))?;
    }
    Ok(())
}

/// The thread that prepares the next segment, and the wait for it.
pub(crate) struct Preparer {
    requests: Option<Sender<u64>>,
    results: Receiver<Result<u64, StoreError>>,
    abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    pub fn start(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<Self, StoreError> {
        let (requests, wanted) = bounded::<u64>(1);
        let (finished, results) = bounded(1);
        let abandoned = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&abandoned);
        let thread = thread::Builder::new()
            .name("store-segments".to_owned())
            .spawn(move || {
                for number in wanted {
                    let made = make_segment(&*disk, number, segment_bytes, &[], &stop).map(|()| number);
                    if let (Err(error), false) = (&made, stop.load(Ordering::Relaxed)) {
                        tracing::error!(%error, number, "the next log segment cannot be prepared");
                    }
                    if finished.send(made).is_err() {
                        return;
                    }
                }
            })
            .map_err(StoreError::io("start", "the thread that prepares segments"))?;
        Ok(Self { requests: Some(requests), results, abandoned, thread: Some(thread) })
    }

    /// Asks for a segment; at most one request may be open.
    pub fn request(&self, number: u64) {
        if let Some(requests) = &self.requests {
            // A full channel cannot be (one request at a time); a dead thread shows in `wait`.
            let _ = requests.try_send(number);
        }
    }

    /// Waits for the segment asked for. A preparation that found the disk full is tried once more, for space may
    /// have come back since: nothing of the first attempt is left or believed.
    pub fn wait(&self, number: u64) -> Result<(), StoreError> {
        match self.receive() {
            Ok(()) => Ok(()),
            Err(StoreError::Io { source, .. }) if is_full(&source) => {
                self.request(number);
                self.receive()
            }
            Err(error) => Err(error),
        }
    }

    fn receive(&self) -> Result<(), StoreError> {
        match self.results.recv() {
            Ok(made) => made.map(|_| ()),
            Err(_) => {
                let source = io::Error::other("the thread that prepares segments has ended");
                Err(StoreError::io("prepare", "the next segment")(source))
            }
        }
    }
}

/// Whether an error says that there is no space left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
