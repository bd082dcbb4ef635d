//! The tool's readers of files and of operations, for the fuzz targets; no part of the tool.

use std::path::Path;

pub use crate::canonical::CanonicalOperation;
use crate::custody::KeyFile;
use crate::device_file::{DeviceFile, MovingKeys};
use crate::error::CliError;
use crate::order_lines::OutputReader;
use crate::order_submit::Order;
use crate::rotation::{reports, terms};
use crate::{files, identity, issuer, render, scp11, session_keys};

/// Reads a file as one of a kind, by a number that never changes; whether it was accepted. There is none of the others.
pub fn read_file(kind: u8, path: &Path) -> bool {
    match kind {
        0 => devices(path, DeviceFile::open),
        1 => OutputReader::open(path).is_ok_and(|mut file| {
            loop {
                match file.next_line() {
                    Ok(Some(_)) => {}
                    ended => return ended.is_ok(),
                }
            }
        }),
        2 => Order::read(path).is_ok(),
        3 => terms::from_file(path).is_ok(),
        4 => reports::read_reports(path).is_ok(),
        5 => session_keys::read_lines(path).is_ok(),
        6 => issuer::register_issuer(path, None, None).is_ok(),
        7 => KeyFile::read(path).is_ok(),
        8 => identity::read_certificate(path).is_ok() | identity::read_public_key(path).is_ok(),
        9 => identity::read_request(path).is_ok(),
        10 => devices(path, DeviceFile::open_registered),
        11 => devices(path, |path| DeviceFile::open_moving_in(path, &MovingKeys::Derived)),
        12 => {
            let columns = ["enc", "mac", "dek"].map(str::to_owned).to_vec();
            devices(path, |path| DeviceFile::open_moving_in(path, &MovingKeys::Wrapped(columns.clone())))
        }
        13 => files::read(path).is_ok_and(|bytes| scp11::read_card_keys(&bytes).is_ok()),
        _ => false,
    }
}

fn devices(path: &Path, open: impl Fn(&Path) -> Result<DeviceFile, CliError>) -> bool {
    let (Ok(mut file), Ok(again)) = (open(path), open(path)) else { return false };
    let counted = again.count(path).ok();
    let mut devices = 0;
    loop {
        match file.next_device() {
            Ok(Some(device)) => {
                devices += 1;
                assert_eq!(device.line, devices);
            }
            Ok(None) => {
                assert_eq!(counted, Some(devices));
                return true;
            }
            Err(_) => return false,
        }
    }
}

/// An operation as its approver sees it.
pub fn render_operation(operation: &CanonicalOperation) -> String {
    render::human(&render::operation_fields(operation.operation()))
}
