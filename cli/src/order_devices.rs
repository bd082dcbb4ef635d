//! The devices of an order: from a device file, or EIDs whose key pairs the authority makes.

use std::path::PathBuf;

use domain::{Eid, EuiccCurve};
use proto::v1::OrderLine;

use crate::device_file::{DeviceFile, DeviceLine, MovingKeys, key_pair};
use crate::error::CliError;

/// Where an order's devices come from. Read again from the start for each stream, never held as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// A device file, with the devices' own keys or requests.
    File(PathBuf),
    /// A device file of which only the column eid is read.
    Registered(PathBuf),
    /// A file of devices that move in.
    MovingIn(PathBuf, MovingKeys),
    /// So many EIDs from this one on, counted in their first 30 digits.
    Counted {
        /// The first 30 digits of the first one.
        first_body: u128,
        /// How many.
        quantity: u64,
        /// What their lines ask for.
        keys: LineKeys,
    },
    /// These EIDs, as the order file writes them.
    Listed(Vec<String>, LineKeys),
}

/// What the line of an EID alone asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKeys {
    /// That the authority makes the device's key pair.
    Made(EuiccCurve),
    /// Nothing: the device is registered.
    None,
}

/// The devices being read.
pub enum DeviceLines {
    /// A file.
    File(Box<DeviceFile>, PathBuf),
    /// EIDs that are counted.
    Counted {
        /// The next one's first 30 digits.
        next_body: u128,
        /// Its line.
        line: u64,
        /// The last line.
        last: u64,
        /// What the lines ask for.
        keys: LineKeys,
    },
    /// EIDs that are listed, and the line of the one before the next.
    Listed(std::vec::IntoIter<String>, u64, LineKeys),
}

impl Devices {
    /// How many there are.
    pub fn count(&self) -> Result<u64, CliError> {
        match self {
            Self::File(path) => DeviceFile::open(path)?.count(path),
            Self::Registered(path) => DeviceFile::open_registered(path)?.count(path),
            Self::MovingIn(path, keys) => DeviceFile::open_moving_in(path, keys)?.count(path),
            Self::Counted { quantity, .. } => Ok(*quantity),
            Self::Listed(eids, _) => Ok(eids.len() as u64),
        }
    }

    /// From the first one on.
    pub fn open(&self) -> Result<DeviceLines, CliError> {
        Ok(match self {
            Self::File(path) => DeviceLines::File(Box::new(DeviceFile::open(path)?), path.clone()),
            Self::Registered(path) => {
                DeviceLines::File(Box::new(DeviceFile::open_registered(path)?), path.clone())
            }
            Self::MovingIn(path, keys) => {
                DeviceLines::File(Box::new(DeviceFile::open_moving_in(path, keys)?), path.clone())
            }
            Self::Counted { first_body, quantity, keys } => {
                DeviceLines::Counted { next_body: *first_body, line: 1, last: *quantity, keys: *keys }
            }
            Self::Listed(eids, keys) => DeviceLines::Listed(eids.clone().into_iter(), 0, *keys),
        })
    }
}

impl DeviceLines {
    /// The next device; `None` at the end.
    pub fn next_device(&mut self) -> Result<Option<DeviceLine>, CliError> {
        match self {
            Self::File(file, path) => file.next_device().map_err(CliError::file("read", path)),
            Self::Counted { line, last, .. } if *line > *last => Ok(None),
            Self::Counted { next_body, line, keys, .. } => {
                let eid = Eid::from_body(&format!("{next_body:030}"))
                    .map_err(|error| CliError::invalid(error.to_string(), "correct first_eid_body"))?;
                let device = keys.line(*line, eid.to_string());
                (*next_body, *line) = (*next_body + 1, *line + 1);
                Ok(Some(device))
            }
            Self::Listed(eids, line, keys) => {
                *line += 1;
                Ok(eids.next().map(|eid| keys.line(*line, eid)))
            }
        }
    }
}

impl LineKeys {
    fn line(self, line: u64, eid: String) -> DeviceLine {
        let key = match self {
            Self::Made(curve) => Some(key_pair(curve)),
            Self::None => None,
        };
        DeviceLine {
            line,
            eid: eid.clone(),
            order_line: Ok(OrderLine { line, eid, key, ..OrderLine::default() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_eids_follow_each_other_with_right_check_digits() {
        let devices = Devices::Counted {
            first_body: 890_490_321_234_512_345_123_456_789_012,
            quantity: 3,
            keys: LineKeys::Made(EuiccCurve::P256),
        };
        assert_eq!(devices.count().unwrap(), 3);
        let mut lines = devices.open().unwrap();
        let mut eids = Vec::new();
        while let Some(device) = lines.next_device().unwrap() {
            assert_eq!(device.line, eids.len() as u64 + 1);
            eids.push(device.eid.parse::<Eid>().unwrap().to_string());
        }
        // SGP.23's EID#1 is the first.
        assert_eq!(eids[0], "89049032123451234512345678901235");
        assert_eq!(&eids[2][..30], "890490321234512345123456789014");
    }
}
