//! Walking the log from its start: what recovery, the rebuild of the view and its verification have in common.
//!
//! Every byte is accounted for. At the end of the log the walk decides what it found:
//!
//! - zeros to the end: the ordinary end;
//! - a batch that was being written when the power went: some of its sectors are zero that were not zero by nature,
//!   nothing but zeros behind it. Never acknowledged; the log ends before it;
//! - anything else: bytes that were durable have changed. An alarm.

use audit::Frontier;
use domain::Timestamp;

use crate::{
    LogIdentity, StoreError, TreeHead,
    batch::{Batch, BatchHeader, is_zero, looks_like_batch, zero_sectors},
    disk::{Disk, DiskFile},
    mac::KeyedMac,
    segment::{SECTOR, SegmentHeader, segment_file, segment_number},
};

/// How much is read from a segment at once.
const WINDOW_BYTES: usize = 1 << 20;
const SECTOR_BYTES: u64 = SECTOR as u64;

/// A place in the log: segment number and byte offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LogPlace {
    pub segment: u64,
    pub offset: u64,
}

/// What stands behind the last batch.
#[derive(Debug, Default)]
pub(crate) struct LogTailFound {
    /// A torn batch: from the log's end to this offset there are bytes to clear.
    pub torn_until: Option<u64>,
    /// Prepared segments, blank, in order.
    pub blank: Vec<u64>,
}

/// The numbers of the segments present, which must be 1 to some last one.
pub(crate) fn segment_numbers(disk: &dyn Disk) -> Result<Vec<u64>, StoreError> {
    let names = disk.names().map_err(StoreError::io("list", "log"))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    match numbers.iter().zip(1..).find(|(found, expected)| **found != *expected) {
        Some((_, expected)) => Err(StoreError::SegmentMissing { file: segment_file(expected) }),
        None => Ok(numbers),
    }
}

/// Bytes of log between two marks, about.
const MARK_EVERY_BYTES: u64 = 64 << 20;

/// A place that was reached with everything before it verified: from here the walk can be taken up again.
#[derive(Clone)]
struct Mark {
    place: LogPlace,
    batch: u64,
    hash: [u8; 32],
    frontier: Frontier,
    last_time: Option<Timestamp>,
    epoch: u32,
}

/// A resumable, verifying walk.
pub(crate) struct Walker<'a> {
    disk: &'a dyn Disk,
    mac: &'a KeyedMac,
    identity: &'a LogIdentity,
    numbers: Vec<u64>,
    window: Option<Window>,
    marks: Vec<Mark>,
    /// Where the next batch is expected; segment 0 before the start.
    pub place: LogPlace,
    /// Number of the last batch seen.
    pub batch: u64,
    /// Its hash.
    pub hash: [u8; 32],
    /// The tree over the entries seen.
    pub frontier: Frontier,
    /// The time in the last entry seen.
    pub last_time: Option<Timestamp>,
    epoch: u32,
}

impl<'a> Walker<'a> {
    pub fn new(disk: &'a dyn Disk, mac: &'a KeyedMac, identity: &'a LogIdentity) -> Result<Self, StoreError> {
        Ok(Self {
            disk,
            mac,
            identity,
            numbers: segment_numbers(disk)?,
            window: None,
            marks: Vec::new(),
            place: LogPlace { segment: 0, offset: 0 },
            batch: 0,
            hash: [0; 32],
            frontier: Frontier::new(),
            last_time: None,
            epoch: 0,
        })
    }

    /// A second walk that stands at or before the end of batch `batch`, as near as this one has a mark.
    pub fn again_from(&self, batch: u64) -> Result<Self, StoreError> {
        let mut again = Self::new(self.disk, self.mac, self.identity)?;
        let end = self.mark();
        let before = self.marks.partition_point(|mark| mark.batch <= batch);
        let mark = if end.batch <= batch { Some(&end) } else { self.marks[..before].last() };
        if let Some(mark) = mark.filter(|mark| mark.place.segment != 0) {
            let Mark { place, batch, hash, frontier, last_time, epoch } = mark.clone();
            again.window = Some(Window::open(self.disk, &segment_file(place.segment))?);
            again = Self { place, batch, hash, frontier, last_time, epoch, ..again };
        }
        Ok(again)
    }

    fn mark(&self) -> Mark {
        Mark {
            place: self.place,
            batch: self.batch,
            hash: self.hash,
            frontier: self.frontier.clone(),
            last_time: self.last_time,
            epoch: self.epoch,
        }
    }

    /// Whether there is any segment at all.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Length of the segment the walk stands in.
    pub fn segment_length(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.length)
    }

    /// Visits batches up to and with number `last`, which is known to be durable.
    pub fn run_to(
        &mut self,
        last: u64,
        mut visit: impl FnMut(&Batch<'_>, LogPlace) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        // Since the walk last stopped, segments may have been added and what was read ahead may have been written.
        self.numbers = segment_numbers(self.disk)?;
        if let Some(window) = &mut self.window {
            window.buffer.clear();
        }
        while self.batch < last {
            let stood = self.step(&mut visit)?;
            if stood != Step::Batch && !self.next_segment()? {
                return Err(self.here("an acknowledged batch is gone"));
            }
        }
        Ok(())
    }

    /// Visits every batch and judges what stands behind the last one.
    pub fn run_to_end(
        &mut self,
        mut visit: impl FnMut(&Batch<'_>, LogPlace) -> Result<(), StoreError>,
    ) -> Result<LogTailFound, StoreError> {
        loop {
            let torn_extent = match self.step(&mut visit)? {
                Step::Batch => continue,
                Step::End => None,
                Step::Torn { extent } => Some(extent),
            };
            let content_until = if self.place.segment == 0 { None } else { self.judge_rest(torn_extent)? };
            if self.next_segment()? {
                if content_until.is_some() {
                    // The log moves on only from a clean end, so this was a batch once.
                    return Err(self.here("the segment before ends in a batch that does not verify"));
                }
                continue;
            }
            let blank = self.blank_rest()?;
            return Ok(LogTailFound { torn_until: content_until, blank });
        }
    }

    fn step(
        &mut self,
        visit: &mut impl FnMut(&Batch<'_>, LogPlace) -> Result<(), StoreError>,
    ) -> Result<Step, StoreError> {
        let Some(window) = &mut self.window else { return Ok(Step::End) };
        let place = self.place;
        let name = || segment_file(place.segment);
        let alarm = |what| StoreError::in_file(&name(), place.offset, what);
        let read = |error| StoreError::io("read", name())(error);
        if place.offset + SECTOR_BYTES > window.length {
            return Ok(Step::End);
        }
        let sector = window.bytes(place.offset, SECTOR_BYTES).map_err(read)?;
        if is_zero(sector) {
            return Ok(Step::End);
        }
        let header = BatchHeader::decode(sector, self.mac).map_err(alarm)?;
        if header.number != self.batch + 1 || header.previous_hash != self.hash {
            return Err(alarm("a batch stands where another belongs"));
        }
        if header.first_index != self.frontier.size() || header.epoch < self.epoch {
            return Err(alarm("a batch does not continue the one before it"));
        }
        // The hand-over shows in batches before it shows in a new segment.
        if header.epoch > self.identity.epoch {
            let found = LogIdentity { epoch: header.epoch, ..self.identity.clone() };
            return Err(fenced(&found, self.identity));
        }
        let extent = header.extent();
        if place.offset + extent > window.length {
            return Err(alarm("a batch reaches beyond its segment"));
        }
        let bytes = window.bytes(place.offset, extent).map_err(read)?;
        let natural_zero_sectors = header.zero_sectors;
        let batch = match Batch::verify(header, bytes) {
            Ok(batch) => batch,
            // A sector is written whole or stays zero: too many zero sectors is a torn write, a changed one is not.
            Err(_) if zero_sectors(&bytes[SECTOR..]) > natural_zero_sectors => {
                return Ok(Step::Torn { extent });
            }
            Err(what) => return Err(alarm(what)),
        };
        let mut count = 0;
        for entry in batch.each_entry() {
            self.frontier.push(audit::leaf_hash(entry));
            count += 1;
        }
        let tree = TreeHead { size: self.frontier.size(), root: self.frontier.root() };
        if count != batch.header.entry_count || tree != batch.header.tree {
            return Err(alarm("the tree in the batch header is not the tree of the entries"));
        }
        visit(&batch, place)?;
        self.batch = batch.header.number;
        self.epoch = batch.header.epoch;
        self.last_time = Some(batch.header.last_time);
        self.hash = batch.header_hash;
        self.place.offset += extent;
        let far = |mark: &Mark| {
            mark.place.segment != place.segment || mark.place.offset + MARK_EVERY_BYTES <= self.place.offset
        };
        if self.marks.last().is_none_or(far) {
            self.marks.push(self.mark());
        }
        Ok(Step::Batch)
    }

    /// Looks at everything behind the last batch of the current segment; gives the end of what is not zero.
    fn judge_rest(&mut self, torn_extent: Option<u64>) -> Result<Option<u64>, StoreError> {
        let Some(window) = &mut self.window else { return Ok(None) };
        let file = segment_file(self.place.segment);
        let torn_end = torn_extent.map_or(u64::MAX, |extent| self.place.offset + extent);
        let mut content_until = None;
        let mut offset = self.place.offset;
        while offset < window.length {
            let count = (window.length - offset).min(SECTOR_BYTES);
            let sector = window.bytes(offset, count).map_err(StoreError::io("read", file.as_str()))?;
            if !is_zero(sector) {
                if looks_like_batch(sector)
                    && offset > self.place.offset
                    && BatchHeader::decode(sector, self.mac).is_ok_and(|later| later.number > self.batch)
                {
                    return Err(StoreError::in_file(
                        &file,
                        self.place.offset,
                        "a batch is gone: a later one stands behind the gap",
                    ));
                }
                if offset >= torn_end {
                    return Err(StoreError::in_file(
                        &file,
                        offset,
                        "there are bytes behind a torn last batch",
                    ));
                }
                content_until = Some(offset + count);
            }
            offset += count;
        }
        Ok(content_until)
    }

    /// Enters the next segment; `false` when it is blank or there is none.
    fn next_segment(&mut self) -> Result<bool, StoreError> {
        let number = self.place.segment + 1;
        if !self.numbers.contains(&number) {
            return Ok(false);
        }
        let file = segment_file(number);
        let mut window = Window::open(self.disk, &file)?;
        let alarm = |what| StoreError::in_file(&file, 0, what);
        if window.length < SECTOR_BYTES {
            return Err(alarm("the segment is cut off"));
        }
        let sector = window.bytes(0, SECTOR_BYTES).map_err(StoreError::io("read", file.as_str()))?;
        if is_zero(sector) {
            return if number == 1 { Err(alarm("the first segment has no header")) } else { Ok(false) };
        }
        let sector: &[u8; SECTOR] = sector.try_into().map_err(|_| alarm("the segment is cut off"))?;
        let header = SegmentHeader::decode(sector, self.mac).map_err(alarm)?;
        let found = &header.identity;
        let ours = self.identity;
        if (&found.authority, &found.node) != (&ours.authority, &ours.node) || found.epoch > ours.epoch {
            return Err(fenced(found, ours));
        }
        if header.number != number
            || header.first_batch != self.batch + 1
            || header.previous_hash != self.hash
            || found.epoch < self.epoch
        {
            return Err(alarm("the segment does not continue the one before it"));
        }
        self.epoch = found.epoch;
        self.place = LogPlace { segment: number, offset: SECTOR_BYTES };
        self.window = Some(window);
        Ok(true)
    }

    /// The segments after the last one in use, all of which must be blank.
    fn blank_rest(&self) -> Result<Vec<u64>, StoreError> {
        let blank: Vec<u64> =
            self.numbers.iter().copied().filter(|number| *number > self.place.segment).collect();
        for number in &blank {
            let file = segment_file(*number);
            let mut window = Window::open(self.disk, &file)?;
            let mut offset = 0;
            while offset < window.length {
                let count = (window.length - offset).min(WINDOW_BYTES as u64);
                let bytes = window.bytes(offset, count).map_err(StoreError::io("read", file.as_str()))?;
                if !is_zero(bytes) {
                    return Err(StoreError::in_file(
                        &file,
                        offset,
                        "there are bytes in a segment not yet in use",
                    ));
                }
                offset += count;
            }
        }
        Ok(blank)
    }

    fn here(&self, what: &'static str) -> StoreError {
        StoreError::in_file(&segment_file(self.place.segment), self.place.offset, what)
    }
}

fn fenced(found: &LogIdentity, ours: &LogIdentity) -> StoreError {
    let say = |id: &LogIdentity| format!("{}/{} epoch {}", id.authority, id.node, id.epoch);
    StoreError::Identity { found: say(found), expected: say(ours) }
}

#[derive(PartialEq, Eq)]
enum Step {
    Batch,
    End,
    Torn { extent: u64 },
}

/// A segment read in large pieces.
pub(crate) struct Window {
    file: Box<dyn DiskFile>,
    pub length: u64,
    buffer: Vec<u8>,
    start: u64,
}

impl Window {
    pub fn open(disk: &dyn Disk, name: &str) -> Result<Self, StoreError> {
        let file = disk.open(name).map_err(StoreError::io("open", name))?;
        let length = file.length().map_err(StoreError::io("measure", name))?;
        Ok(Self { file, length, buffer: Vec::new(), start: 0 })
    }

    /// `count` bytes at `offset`, which must lie within the file.
    pub fn bytes(&mut self, offset: u64, count: u64) -> std::io::Result<&[u8]> {
        let buffered = self.start..self.start + self.buffer.len() as u64;
        if !buffered.contains(&offset) || offset + count > buffered.end {
            let want = count.max(WINDOW_BYTES as u64).min(self.length.saturating_sub(offset));
            // What is in the buffer is not cleared first: all of it is read over.
            self.buffer.resize(want.max(count) as usize, 0);
            if let Err(error) = self.file.read_at(offset, &mut self.buffer) {
                self.buffer.clear();
                return Err(error);
            }
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..from + count as usize])
    }
}
