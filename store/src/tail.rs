//! The end of the log: where batches are appended.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    LogIdentity, StoreError,
    disk::{Disk, DiskFile},
    mac::KeyedMac,
    prepare::Preparer,
    segment::{SECTOR, SegmentHeader, segment_file},
    walk::LogPlace,
};

/// Owned by the committer alone: there is one writer of the log.
pub(crate) struct LogTail {
    disk: Arc<dyn Disk>,
    mac: KeyedMac,
    identity: LogIdentity,
    preparer: Preparer,
    /// Prepared segments that stood there at the start.
    blank: VecDeque<u64>,
    file: Box<dyn DiskFile>,
    length: u64,
    place: LogPlace,
    /// The number of the next batch and the hash it must carry.
    pub next_batch: u64,
    pub previous_hash: [u8; 32],
}

/// Where a walk ended and the log goes on.
pub(crate) struct TailStart {
    pub place: LogPlace,
    pub length: u64,
    pub blank: Vec<u64>,
    pub next_batch: u64,
    pub previous_hash: [u8; 32],
}

impl LogTail {
    pub fn start(
        disk: Arc<dyn Disk>,
        mac: KeyedMac,
        identity: LogIdentity,
        segment_bytes: u64,
        start: TailStart,
    ) -> Result<Self, StoreError> {
        let name = segment_file(start.place.segment);
        let file = disk.open(&name).map_err(StoreError::io("open", name))?;
        let preparer = Preparer::start(Arc::clone(&disk), segment_bytes)?;
        let tail = Self {
            disk,
            mac,
            identity,
            preparer,
            blank: start.blank.into(),
            file,
            length: start.length,
            place: start.place,
            next_batch: start.next_batch,
            previous_hash: start.previous_hash,
        };
        if tail.blank.is_empty() {
            tail.preparer.request(tail.place.segment + 1);
        }
        Ok(tail)
    }

    /// Writes one batch and makes it durable. After an error nothing more may be appended: whether the batch is
    /// there is unknown.
    pub fn append(&mut self, bytes: &[u8], hash: [u8; 32]) -> Result<LogPlace, StoreError> {
        while self.place.offset + bytes.len() as u64 > self.length {
            self.enter_next_segment()?;
        }
        let place = self.place;
        let name = || segment_file(place.segment);
        self.file.write_at(place.offset, bytes).map_err(|e| StoreError::io("write", name())(e))?;
        self.file.sync_data().map_err(|e| StoreError::io("sync", name())(e))?;
        self.place.offset += bytes.len() as u64;
        self.next_batch += 1;
        self.previous_hash = hash;
        Ok(place)
    }

    fn enter_next_segment(&mut self) -> Result<(), StoreError> {
        let number = self.place.segment + 1;
        if self.blank.pop_front().is_none() {
            self.preparer.wait(number)?;
        }
        let name = segment_file(number);
        let file = self.disk.open(&name).map_err(StoreError::io("open", name.as_str()))?;
        self.length = file.length().map_err(StoreError::io("measure", name.as_str()))?;
        let header = SegmentHeader {
            identity: self.identity.clone(),
            number,
            first_batch: self.next_batch,
            previous_hash: self.previous_hash,
        };
        // Durable before the first batch: a segment with content and no header is never an ordinary crash.
        file.write_at(0, &header.encode(&self.mac)).map_err(StoreError::io("write", name.as_str()))?;
        file.sync_data().map_err(StoreError::io("sync", name.as_str()))?;
        self.file = file;
        self.place = LogPlace { segment: number, offset: SECTOR as u64 };
        if self.blank.is_empty() {
            self.preparer.request(number + 1);
        }
        Ok(())
    }
}
