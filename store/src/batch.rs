//! The batch: the unit of durability, and its bytes.
//!
//! ```text
//! header (fixed, within the first sector)   magic, version, epoch, batch number, previous batch's hash, first index,
//!                                           entry count, tree size and root after, section lengths and SHA-256s,
//!                                           count of all-zero sectors, HMAC-SHA256 over all of that
//! entry section                             per entry: length u16, sealed bytes
//! state section                             salt[32], then per commit: offset of its first entry u32, count u32,
//!                                           per change: keyspace u8, key length u16, value length u32, key, value
//! zeros to the next sector boundary
//! ```
//!
//! The HMAC covers the sections through their hashes, so an erased state section leaves the chain valid; the hash of a
//! batch is SHA-256 over its header. The HMAC stands in the first sector, not behind the sections: that sector is
//! written whole or not at all, so a header that is there must verify, and its lengths can be believed when deciding
//! whether what follows is torn or changed. For the same decision it counts the sectors that are all zero by nature.

use domain::Timestamp;
use sha2::{Digest, Sha256};

use crate::{
    Change, Home, StoreError, TreeHead, Versioned,
    keyspace::Keyspaces,
    mac::{KeyedMac, MAC_BYTES},
    memory::MemoryWrite,
    segment::{Cursor, SECTOR, segment_file},
    walk::LogPlace,
};

const MAGIC: &[u8; 8] = b"CHANBAT1";
const FORMAT_VERSION: u16 = 1;
const SALT_BYTES: usize = 32;
const DELETED: u32 = u32::MAX;
/// Bytes of a header, HMAC included.
pub(crate) const HEADER_BYTES: usize = 240;
const MAC_AT: usize = HEADER_BYTES - MAC_BYTES;
/// Fixed bytes of one commit in a state section.
pub(crate) const COMMIT_OVERHEAD: usize = 4 + 4;
/// Bytes a batch takes beside its entries and commits, the padding included.
pub(crate) const BATCH_OVERHEAD: usize = HEADER_BYTES + SALT_BYTES + SECTOR;

/// The facts of a batch that its HMAC vouches for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub epoch: u32,
    /// Counts from 1, without gaps.
    pub number: u64,
    pub previous_hash: [u8; 32],
    pub first_index: u64,
    pub entry_count: u32,
    /// The tree after this batch.
    pub tree: TreeHead,
    /// The time in the last entry.
    pub last_time: Timestamp,
    pub entry_bytes: u32,
    pub state_bytes: u32,
    pub entry_sha256: [u8; 32],
    pub state_sha256: [u8; 32],
    pub zero_sectors: u32,
}

impl BatchHeader {
    /// Bytes from the batch's start to the next batch.
    pub fn extent(&self) -> u64 {
        let body = HEADER_BYTES as u64 + u64::from(self.entry_bytes) + u64::from(self.state_bytes);
        body.next_multiple_of(SECTOR as u64)
    }

    fn encode(&self, mac: &KeyedMac) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.previous_hash);
        out.extend_from_slice(&self.first_index.to_be_bytes());
        out.extend_from_slice(&self.entry_count.to_be_bytes());
        out.extend_from_slice(&self.tree.size.to_be_bytes());
        out.extend_from_slice(&self.tree.root);
        out.extend_from_slice(&self.last_time.micros().to_be_bytes());
        out.extend_from_slice(&self.entry_bytes.to_be_bytes());
        out.extend_from_slice(&self.state_bytes.to_be_bytes());
        out.extend_from_slice(&self.entry_sha256);
        out.extend_from_slice(&self.state_sha256);
        out.extend_from_slice(&self.zero_sectors.to_be_bytes());
        let mut header = [0; HEADER_BYTES];
        header[..out.len()].copy_from_slice(&out);
        let tag = mac.over(&[&header[..MAC_AT]]);
        header[MAC_AT..].copy_from_slice(&tag);
        header
    }

    /// Reads the header at the start of a sector; `what` is wrong with it otherwise.
    pub fn decode(bytes: &[u8], mac: &KeyedMac) -> Result<Self, &'static str> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or("the batch header is cut off")?;
        if !mac.matches(&[&bytes[..MAC_AT]], &bytes[MAC_AT..]) {
            return Err("the batch header carries a wrong HMAC");
        }
        let mut rest = Cursor(&bytes[..MAC_AT]);
        if rest.take(8) != Some(MAGIC) || rest.u16() != Some(FORMAT_VERSION) {
            return Err("the batch header is of a format this version does not know");
        }
        let read = |rest: &mut Cursor<'_>| {
            Some(Self {
                epoch: rest.u32()?,
                number: rest.u64()?,
                previous_hash: rest.digest()?,
                first_index: rest.u64()?,
                entry_count: rest.u32()?,
                tree: TreeHead { size: rest.u64()?, root: rest.digest()? },
                last_time: Timestamp::from_micros(rest.u64()?.cast_signed()),
                entry_bytes: rest.u32()?,
                state_bytes: rest.u32()?,
                entry_sha256: rest.digest()?,
                state_sha256: rest.digest()?,
                zero_sectors: rest.u32()?,
            })
        };
        read(&mut rest).ok_or("the batch header is malformed under a right HMAC")
    }
}

/// Whether the sector starting here begins with a batch's magic.
pub(crate) fn looks_like_batch(sector: &[u8]) -> bool {
    sector.starts_with(MAGIC)
}

/// The hash that the next batch carries: over the header alone, which holds the hashes of the sections.
pub(crate) fn batch_hash(header: &[u8]) -> [u8; 32] {
    Sha256::digest(&header[..HEADER_BYTES]).into()
}

/// How many whole sectors of `bytes` are all zero.
pub(crate) fn zero_sectors(bytes: &[u8]) -> u32 {
    bytes.chunks(SECTOR).filter(|sector| is_zero(sector)).count() as u32
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A batch in the making. Buffers are kept from batch to batch.
#[derive(Default)]
pub(crate) struct BatchWriter {
    bytes: Vec<u8>,
    state: Vec<u8>,
    entry_count: u32,
}

impl BatchWriter {
    /// Starts a batch; its state section will begin with `salt`.
    pub fn begin(&mut self, salt: &[u8; SALT_BYTES]) {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        self.state.clear();
        self.state.extend_from_slice(salt);
        self.entry_count = 0;
    }

    /// Appends one sealed entry of at most [`crate::limits::ENTRY_BYTES_MAX`] bytes.
    pub fn entry(&mut self, sealed: &[u8]) {
        self.bytes.extend_from_slice(&(sealed.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(sealed);
        self.entry_count += 1;
    }

    /// Appends the changes of one commit, whose first entry is the `offset`th of the batch.
    pub fn commit(&mut self, offset: u32, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        self.state.extend_from_slice(&offset.to_be_bytes());
        self.state.extend_from_slice(&(changes.len() as u32).to_be_bytes());
        for change in changes {
            self.state.push(change.keyspace.code);
            self.state.extend_from_slice(&(change.key.len() as u16).to_be_bytes());
            let length = change.value.as_ref().map_or(DELETED, |value| value.len() as u32);
            self.state.extend_from_slice(&length.to_be_bytes());
            self.state.extend_from_slice(&change.key);
            self.state.extend_from_slice(change.value.as_deref().unwrap_or_default());
        }
    }

    /// Completes the header and gives the bytes to write and the hash the next batch carries.
    pub fn finish(&mut self, place: Place, mac: &KeyedMac) -> (&[u8], BatchHeader, [u8; 32]) {
        let entry_end = self.bytes.len();
        self.bytes.extend_from_slice(&self.state);
        let state_end = self.bytes.len();
        let mut header = BatchHeader {
            epoch: place.epoch,
            number: place.number,
            previous_hash: place.previous_hash,
            first_index: place.tree.size - u64::from(self.entry_count),
            entry_count: self.entry_count,
            tree: place.tree,
            last_time: place.last_time,
            entry_bytes: (entry_end - HEADER_BYTES) as u32,
            state_bytes: (state_end - entry_end) as u32,
            entry_sha256: Sha256::digest(&self.bytes[HEADER_BYTES..entry_end]).into(),
            state_sha256: Sha256::digest(&self.bytes[entry_end..]).into(),
            zero_sectors: 0,
        };
        self.bytes.resize(header.extent() as usize, 0);
        // The first sector holds the header, so only the later ones can be zero.
        header.zero_sectors = self.bytes.get(SECTOR..).map_or(0, zero_sectors);
        let head = header.encode(mac);
        self.bytes[..HEADER_BYTES].copy_from_slice(&head);
        (&self.bytes, header, batch_hash(&head))
    }
}

/// Where a batch stands in the log.
pub(crate) struct Place {
    pub epoch: u32,
    pub number: u64,
    pub previous_hash: [u8; 32],
    pub tree: TreeHead,
    pub last_time: Timestamp,
}

/// A batch whose header and sections verified.
pub(crate) struct Batch<'a> {
    pub header: BatchHeader,
    /// What the next batch carries.
    pub header_hash: [u8; 32],
    pub entries: &'a [u8],
    pub state: &'a [u8],
}

/// A change as the log holds it.
pub(crate) struct LoggedChange<'a> {
    pub code: u8,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
    pub version: u64,
    /// Where the value stands, from the start of the batch.
    pub value_offset: u64,
}

impl LoggedChange<'_> {
    pub fn memory_write(&self) -> MemoryWrite {
        let row = self.value.map(|value| Versioned { value: value.into(), version: self.version });
        MemoryWrite { code: self.code, key: self.key.to_vec(), row }
    }
}

impl<'a> Batch<'a> {
    /// The sections of bytes that are known to be right, such as those just written.
    pub fn unverified(header: BatchHeader, header_hash: [u8; 32], bytes: &'a [u8]) -> Self {
        let entry_end = HEADER_BYTES + header.entry_bytes as usize;
        let state_end = entry_end + header.state_bytes as usize;
        let (entries, state) = (&bytes[HEADER_BYTES..entry_end], &bytes[entry_end..state_end]);
        Self { header, header_hash, entries, state }
    }

    /// Takes the sections of a verified header apart; `bytes` spans the batch's whole extent.
    pub fn verify(header: BatchHeader, bytes: &'a [u8]) -> Result<Self, &'static str> {
        let batch = Self::unverified(header, batch_hash(bytes), bytes);
        if Sha256::digest(batch.entries).as_slice() != batch.header.entry_sha256 {
            return Err("the entry section is not what was written");
        }
        if Sha256::digest(batch.state).as_slice() != batch.header.state_sha256 {
            return Err("the state section is not what was written");
        }
        let end = HEADER_BYTES + batch.entries.len() + batch.state.len();
        if is_zero(&bytes[end..]) { Ok(batch) } else { Err("the padding is not zero") }
    }

    /// The sealed entries in order.
    pub fn each_entry(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Cursor(self.entries);
        std::iter::from_fn(move || {
            let length = rest.u16()?;
            rest.take(usize::from(length))
        })
    }

    /// Visits the changes in order; `false` when the section does not parse.
    pub fn each_change<E>(
        &self,
        mut visit: impl FnMut(LoggedChange<'a>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let end = HEADER_BYTES + self.entries.len() + self.state.len();
        let mut rest = Cursor(self.state);
        if rest.take(SALT_BYTES).is_none() {
            return Ok(false);
        }
        while !rest.0.is_empty() {
            let (Some(offset), Some(count)) = (rest.u32(), rest.u32()) else { return Ok(false) };
            for _ in 0..count {
                let version = self.header.first_index + u64::from(offset);
                let Some(change) = read_change(&mut rest, end, version) else { return Ok(false) };
                visit(change)?;
            }
        }
        Ok(true)
    }
}

impl Batch<'_> {
    /// Visits the changes in order with the home of their rows. `place` is the batch's own.
    pub fn each_row_change(
        &self,
        place: LogPlace,
        keyspaces: &Keyspaces,
        mut visit: impl FnMut(Home, &LoggedChange<'_>),
    ) -> Result<(), StoreError> {
        let parsed = self.each_change(|change| {
            let code = change.code;
            visit(keyspaces.home(code).ok_or(StoreError::UnknownKeyspace { code })?, &change);
            Ok(())
        })?;
        let alarm = "a state section does not parse";
        if parsed {
            Ok(())
        } else {
            Err(StoreError::in_file(&segment_file(place.segment), place.offset, alarm))
        }
    }
}

/// Reads one change of a state section that ends at `end` in its batch.
fn read_change<'a>(rest: &mut Cursor<'a>, end: usize, version: u64) -> Option<LoggedChange<'a>> {
    let code = rest.u8()?;
    let key_bytes = usize::from(rest.u16()?);
    let value_bytes = rest.u32()?;
    let key = rest.take(key_bytes)?;
    let value_offset = (end - rest.0.len()) as u64;
    let value = if value_bytes == DELETED { None } else { Some(rest.take(value_bytes as usize)?) };
    Some(LoggedChange { code, key, value, version, value_offset })
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{Keyspace, LogMacKey};

    const ROWS: Keyspace = Keyspace { code: 9, name: "rows", home: Home::View };

    #[test]
    fn a_batch_reads_back_entries_changes_and_versions() {
        let mac = LogMacKey::new(Zeroizing::new([7; 32])).log();
        let mut writer = BatchWriter::default();
        writer.begin(&[3; 32]);
        writer.entry(b"first");
        writer.commit(0, &[Change::put(ROWS, "k", vec![0; 2000])]);
        writer.entry(b"second");
        writer.commit(1, &[Change::delete(ROWS, "k"), Change::put(ROWS, "", "v")]);
        let place = Place {
            epoch: 1,
            number: 5,
            previous_hash: [8; 32],
            tree: TreeHead { size: 12, root: [1; 32] },
            last_time: Timestamp::from_micros(-4),
        };
        let (bytes, header, hash) = writer.finish(place, &mac);
        assert_eq!(bytes.len() as u64, header.extent());
        assert_eq!(header.zero_sectors, 3);
        assert_eq!(hash, batch_hash(bytes));
        let read = BatchHeader::decode(bytes, &mac).unwrap();
        assert_eq!(read, header);
        assert_eq!(read.first_index, 10);
        let batch = Batch::verify(read, bytes).unwrap();
        assert_eq!(batch.each_entry().collect::<Vec<_>>(), [&b"first"[..], b"second"]);
        let mut seen = Vec::new();
        let parsed = batch.each_change(|change| {
            if let Some(value) = change.value {
                assert!(bytes[change.value_offset as usize..].starts_with(value));
            }
            seen.push((change.key.to_vec(), change.value.map(<[u8]>::to_vec), change.version));
            Ok::<(), ()>(())
        });
        assert_eq!(parsed, Ok(true));
        assert_eq!(
            seen,
            [
                (b"k".to_vec(), Some(vec![0; 2000]), 10),
                (b"k".to_vec(), None, 11),
                (vec![], Some(b"v".to_vec()), 11)
            ]
        );
    }
}
