//! Values that the view leaves in the log: their places, and reading them there.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use audit::sha256;

use crate::{
    StoreError,
    disk::{Disk, DiskFile},
    segment::{Cursor, segment_file},
    walk::LogPlace,
};

/// Segments that are kept open for reading at most.
const OPEN_SEGMENTS_MAX: usize = 64;

/// Where a value stands in the log, and what it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LoggedValue {
    pub place: LogPlace,
    pub length: u32,
    pub sha256: [u8; 32],
}

impl LoggedValue {
    pub fn of(value: &[u8], place: LogPlace) -> Self {
        // A value is no longer than `limits::VALUE_BYTES_MAX`.
        Self { place, length: value.len() as u32, sha256: sha256(value) }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.place.segment.to_be_bytes());
        // `limits::SEGMENT_BYTES_MAX` keeps offsets within 32 bits.
        out.extend_from_slice(&(self.place.offset as u32).to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.sha256);
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = Cursor(bytes);
        let place = LogPlace { segment: rest.u64()?, offset: u64::from(rest.u32()?) };
        let (length, sha256) = (rest.u32()?, rest.digest()?);
        rest.0.is_empty().then_some(Self { place, length, sha256 })
    }
}

/// Reads values where the log has them. From any thread.
pub(crate) struct LoggedValues {
    disk: Arc<dyn Disk>,
    open: RwLock<HashMap<u64, Arc<dyn DiskFile>>>,
}

impl LoggedValues {
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: RwLock::default() }
    }

    /// The value, if it is still the one that was written; otherwise an alarm.
    pub fn read(&self, value: &LoggedValue) -> Result<Arc<[u8]>, StoreError> {
        let LogPlace { segment, offset } = value.place;
        let file = self.segment(segment)?;
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, value.length as usize).collect();
        file.read_at(offset, Arc::make_mut(&mut bytes))
            .map_err(|error| StoreError::io("read", segment_file(segment))(error))?;
        if sha256(&bytes) == value.sha256 {
            Ok(bytes)
        } else {
            Err(StoreError::in_file(&segment_file(segment), offset, "a value is not what was written"))
        }
    }

    fn segment(&self, number: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        if let Some(file) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(Arc::clone(file));
        }
        let name = segment_file(number);
        let file: Arc<dyn DiskFile> =
            self.disk.open(&name).map_err(|error| StoreError::io("open", name)(error))?.into();
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_SEGMENTS_MAX {
            open.clear();
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }
}
