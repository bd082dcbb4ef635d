//! The frames of [`crate::protocol`], for the fuzz targets; no part of the engine.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::{FromCeremony, FromWorker, ToCeremony, ToWorker, read_frame, write_frame};

/// Reads a message of one of the four kinds, given without its length, and writes what was read again; `None` when it does
/// not read.
pub fn reread(kind: u8, message: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(message.len()).ok()?;
    let frame = [&length.to_be_bytes(), message].concat();
    let again = match kind % 4 {
        0 => again::<ToWorker>(&frame),
        1 => again::<FromWorker>(&frame),
        2 => again::<ToCeremony>(&frame),
        _ => again::<FromCeremony>(&frame),
    };
    again.map(|frame| frame[4..].to_vec())
}

fn again<T: DeserializeOwned + Serialize>(frame: &[u8]) -> Option<Vec<u8>> {
    let message: T = read_frame(frame).ok()??;
    let mut written = Vec::new();
    write_frame(&mut written, &message).ok()?;
    Some(written)
}
