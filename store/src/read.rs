//! Reading entries back from the log.

use crate::{
    StoreError,
    batch::{Batch, BatchHeader, is_zero},
    disk::Disk,
    mac::KeyedMac,
    segment::{SECTOR, segment_file},
    walk::{LogPlace, Window},
};

/// Batches between two notes hold about this many entries: reads walk at most so far.
const ENTRIES_PER_NOTE: u64 = 64;

/// Where some of the batches start, in order: enough to find every entry with a short walk.
#[derive(Default)]
pub(crate) struct SparseIndex(Vec<(u64, LogPlace)>);

impl SparseIndex {
    pub fn note(&mut self, first_index: u64, place: LogPlace) {
        let needed = match self.0.last() {
            Some((last, at)) => first_index >= last + ENTRIES_PER_NOTE || at.segment != place.segment,
            None => true,
        };
        if needed {
            self.0.push((first_index, place));
        }
    }

    /// The last note at or before an entry.
    pub fn before(&self, index: u64) -> Option<(u64, LogPlace)> {
        let next = self.0.partition_point(|(first, _)| *first <= index);
        next.checked_sub(1).map(|at| self.0[at])
    }
}

/// Walks batches from a noted place, checking each header's HMAC and each entry section.
pub(crate) struct EntryReader<'a> {
    disk: &'a dyn Disk,
    mac: &'a KeyedMac,
    index: u64,
    place: LogPlace,
}

impl<'a> EntryReader<'a> {
    pub fn new(disk: &'a dyn Disk, mac: &'a KeyedMac, index: u64, place: LogPlace) -> Self {
        Self { disk, mac, index, place }
    }

    /// The entries from `from` up to but without `until`, all of which have been published.
    pub fn read(mut self, from: u64, until: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut entries = Vec::with_capacity((until - from) as usize);
        let mut window = Window::open(self.disk, &segment_file(self.place.segment))?;
        while self.index < until {
            let alarm =
                |what| StoreError::in_file(&segment_file(self.place.segment), self.place.offset, what);
            let read = |error| StoreError::io("read", segment_file(self.place.segment))(error);
            let room = window.length.saturating_sub(self.place.offset);
            if room < SECTOR as u64 || is_zero(window.bytes(self.place.offset, SECTOR as u64).map_err(read)?)
            {
                self.place = LogPlace { segment: self.place.segment + 1, offset: SECTOR as u64 };
                window = Window::open(self.disk, &segment_file(self.place.segment))?;
                continue;
            }
            let sector = window.bytes(self.place.offset, SECTOR as u64).map_err(read)?;
            let header = BatchHeader::decode(sector, self.mac).map_err(alarm)?;
            let extent = header.extent();
            if header.first_index != self.index || extent > room {
                return Err(alarm("a batch stands where another belongs"));
            }
            let bytes = window.bytes(self.place.offset, extent).map_err(read)?;
            let batch = Batch::verify(header, bytes).map_err(alarm)?;
            for entry in batch.each_entry() {
                if (from..until).contains(&self.index) {
                    entries.push(entry.to_vec());
                }
                self.index += 1;
            }
            self.place.offset += extent;
        }
        Ok(entries)
    }
}
