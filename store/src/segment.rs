//! Segment files: names and the header sector.
//!
//! A segment is zero-filled and durable under its name before anything is written to it. Its first sector is the
//! header, written and synced alone when the log reaches the segment; batches follow, each from a sector boundary.
//! What has not been written is zero: that is how recovery tells a torn write from a changed one.

use crate::{
    StoreError,
    mac::{KeyedMac, MAC_BYTES},
};

/// What a disk writes whole or not at all; batches start on its boundaries.
pub(crate) const SECTOR: usize = 512;

const MAGIC: &[u8; 8] = b"CHANSEG1";
const FORMAT_VERSION: u16 = 1;
const NAME_BYTES_MAX: usize = 180;
const MAC_AT: usize = SECTOR - MAC_BYTES;

/// The file of segment `number`; the first is 1.
pub(crate) fn segment_file(number: u64) -> String {
    format!("{number:08}.segment")
}

/// The file in which segment `number` is filled before it gets its name.
pub(crate) fn unfinished_file(number: u64) -> String {
    format!("{number:08}.segment.tmp")
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    let number = digits.parse().ok()?;
    (segment_file(number) == name).then_some(number)
}

/// Whose log it is: written into every segment, so that a fenced standby and other nodes cannot continue it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// The authority's name, at most 180 bytes.
    pub authority: String,
    /// The node's name within the authority, at most 180 bytes.
    pub node: String,
    /// Grows with each hand-over between nodes; a log with a later epoch refuses an earlier process.
    pub epoch: u32,
}

impl LogIdentity {
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let sane = |name: &str| !name.is_empty() && name.len() <= NAME_BYTES_MAX;
        if sane(&self.authority) && sane(&self.node) {
            Ok(())
        } else {
            Err(StoreError::Configuration { what: "authority and node names must have 1 to 180 bytes" })
        }
    }
}

/// The header sector of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub identity: LogIdentity,
    pub number: u64,
    /// The number and the predecessor's hash of the first batch in the segment.
    pub first_batch: u64,
    pub previous_hash: [u8; 32],
}

impl SegmentHeader {
    pub fn encode(&self, mac: &KeyedMac) -> [u8; SECTOR] {
        let mut out = Vec::with_capacity(SECTOR);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        out.extend_from_slice(&self.identity.epoch.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.first_batch.to_be_bytes());
        out.extend_from_slice(&self.previous_hash);
        for name in [&self.identity.authority, &self.identity.node] {
            // `LogIdentity::check` keeps both short enough for one byte of length and for the sector.
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        let mut sector = [0; SECTOR];
        sector[..out.len()].copy_from_slice(&out);
        let tag = mac.over(&[&sector[..MAC_AT]]);
        sector[MAC_AT..].copy_from_slice(&tag);
        sector
    }

    /// Reads a header sector; `what` is wrong with it otherwise.
    pub fn decode(sector: &[u8; SECTOR], mac: &KeyedMac) -> Result<Self, &'static str> {
        if !mac.matches(&[&sector[..MAC_AT]], &sector[MAC_AT..]) {
            return Err("the segment header carries a wrong HMAC");
        }
        let mut rest = Cursor(&sector[..MAC_AT]);
        let malformed = "the segment header is malformed under a right HMAC";
        if rest.take(8) != Some(MAGIC) || rest.u16() != Some(FORMAT_VERSION) {
            return Err("the segment header is of a format this version does not know");
        }
        let read = |rest: &mut Cursor<'_>| {
            let epoch = rest.u32()?;
            let number = rest.u64()?;
            let first_batch = rest.u64()?;
            let previous_hash = rest.digest()?;
            let authority = rest.name()?;
            let node = rest.name()?;
            let identity = LogIdentity { authority, node, epoch };
            Some(Self { identity, number, first_batch, previous_hash })
        };
        read(&mut rest).ok_or(malformed)
    }
}

/// Reads fixed fields off a slice.
pub(crate) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    pub fn digest(&mut self) -> Option<[u8; 32]> {
        self.array()
    }

    fn name(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::LogMacKey;

    #[test]
    fn a_segment_header_reads_back_and_every_flipped_bit_is_seen() {
        let mac = LogMacKey::new(Zeroizing::new([7; 32])).log();
        let header = SegmentHeader {
            identity: LogIdentity { authority: "a".repeat(180), node: "n".repeat(180), epoch: 3 },
            number: 9,
            first_batch: 77,
            previous_hash: [5; 32],
        };
        let sector = header.encode(&mac);
        assert_eq!(SegmentHeader::decode(&sector, &mac), Ok(header));
        for bit in 0..SECTOR * 8 {
            let mut bad = sector;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad, &mac).is_err(), "bit {bit}");
        }
    }
}
