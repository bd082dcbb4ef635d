//! A row as sled stores it: version, HMAC, form, then the value or its place in the log.

use super::FreshRow;
use crate::{
    limits,
    mac::{KeyedMac, MAC_BYTES},
    values::LoggedValue,
};

const VERSION_BYTES: usize = 8;
const HEAD_BYTES: usize = VERSION_BYTES + MAC_BYTES;
const FORM_HERE: u8 = 0;
const FORM_IN_LOG: u8 = 1;

/// A row whose HMAC is right.
pub(super) struct StoredRow<'a> {
    pub version: u64,
    pub value: StoredValue<'a>,
}

/// The value of a row, or where it is.
pub(super) enum StoredValue<'a> {
    Here(&'a [u8]),
    InLog(LoggedValue),
}

/// The row as stored, and its HMAC.
pub(super) fn encode_row(mac: &KeyedMac, key: &[u8], fresh: &FreshRow) -> (Vec<u8>, [u8; MAC_BYTES]) {
    let value = &fresh.row.value;
    let mut row = Vec::with_capacity(HEAD_BYTES + 1 + value.len().min(limits::VIEW_VALUE_BYTES_MAX));
    row.extend_from_slice(&fresh.row.version.to_be_bytes());
    row.extend_from_slice(&[0; MAC_BYTES]);
    if value.len() <= limits::VIEW_VALUE_BYTES_MAX {
        row.push(FORM_HERE);
        row.extend_from_slice(value);
    } else {
        row.push(FORM_IN_LOG);
        LoggedValue::of(value, fresh.place).encode(&mut row);
    }
    let (version, rest) = (&row[..VERSION_BYTES], &row[HEAD_BYTES..]);
    let tag = mac.over(&[&(key.len() as u16).to_be_bytes(), key, version, rest]);
    row[VERSION_BYTES..HEAD_BYTES].copy_from_slice(&tag);
    (row, tag)
}

/// The HMAC in a stored row, right or wrong.
pub(super) fn tag_in(stored: &[u8]) -> Option<&[u8]> {
    stored.get(VERSION_BYTES..HEAD_BYTES)
}

/// The HMAC of a stored row, if it is right.
pub(super) fn right_tag<'a>(mac: &KeyedMac, key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (head, rest) = stored.split_at_checked(HEAD_BYTES)?;
    let (version, tag) = head.split_at(VERSION_BYTES);
    mac.matches(&[&(key.len() as u16).to_be_bytes(), key, version, rest], tag).then_some(tag)
}

/// A stored row, if its HMAC is right.
pub(super) fn read_row<'a>(mac: &KeyedMac, key: &[u8], stored: &'a [u8]) -> Option<StoredRow<'a>> {
    right_tag(mac, key, stored)?;
    let version = u64::from_be_bytes(stored[..VERSION_BYTES].try_into().ok()?);
    let value = match stored[HEAD_BYTES..].split_first()? {
        (&FORM_HERE, value) => StoredValue::Here(value),
        (&FORM_IN_LOG, place) => StoredValue::InLog(LoggedValue::decode(place)?),
        _ => return None,
    };
    Some(StoredRow { version, value })
}
