//! The manufacturer's device file: CSV with a header, a device a line, read line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::EuiccCurve;
use proto::v1::{KeyPairCurve, OrderLine, order_line};

use crate::error::CliError;

/// Longest line, in bytes: a request of 8 KiB in hex.
const LINE_MAX_BYTES: u64 = 16 << 10;

/// One device line.
pub struct DeviceLine {
    /// Number in the order, from 1; the header does not count.
    pub line: u64,
    /// The EID as written; the service judges its digits.
    pub eid: String,
    /// What is sent, or why nothing can be sent.
    pub order_line: Result<OrderLine, String>,
}

/// Reads a device file.
#[derive(Debug)]
pub struct DeviceFile {
    reader: BufReader<File>,
    columns: Columns,
    line: u64,
}

/// Positions of the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Columns {
    eid: usize,
    public_key: Option<usize>,
    csr: Option<usize>,
    make_key_pair: Option<usize>,
    kind: FileKind,
}

/// What a file's devices are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileKind {
    /// New: each has a key, or asks for one.
    New,
    /// Registered: they have their certificates, and no key is looked for.
    Registered,
    /// In the field, with keys that another authority made.
    MovingIn {
        /// What the scheme takes beside the master, in hex; absent when the keys come themselves.
        scheme_inputs: Option<usize>,
        /// The keys as they come, in hex; none when they are derived.
        keys: Vec<usize>,
        /// The check values that the keys are known to have, in hex.
        check_values: Option<usize>,
    },
}

/// How the keys of devices that move in come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MovingKeys {
    /// They were derived: the column `kdd` or `scheme_inputs` says from what.
    Derived,
    /// They come themselves, wrapped, in these columns: one for each key, in the order of key identifiers.
    Wrapped(Vec<String>),
}

impl DeviceFile {
    /// Opens the file and reads its header: a column `eid`, and at least one of `public_key`, `csr` and
    /// `make_key_pair`.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        Self::open_with(path, Columns::parse, "eid,public_key or eid,csr or eid,make_key_pair")
    }

    /// Opens a file of registered devices: of its columns only `eid` is read.
    pub fn open_registered(path: &Path) -> Result<Self, CliError> {
        Self::open_with(path, Columns::eid_only, "eid, or a line of columns with eid among them")
    }

    /// Opens a file of devices that move in: `eid`, what their scheme takes (`kdd` or `scheme_inputs`) or the columns of their
    /// wrapped keys, and, if they are known, their check values (`kcv`).
    pub fn open_moving_in(path: &Path, keys: &MovingKeys) -> Result<Self, CliError> {
        let expected = match keys {
            MovingKeys::Derived => "eid,kdd or eid,scheme_inputs, and kcv if known".to_owned(),
            MovingKeys::Wrapped(columns) => format!("eid,{}, and kcv if known", columns.join(",")),
        };
        Self::open_with(path, |header| Columns::moving_in(header, keys), &expected)
    }

    fn open_with(
        path: &Path,
        parse: impl FnOnce(&str) -> Option<Columns>,
        expected: &str,
    ) -> Result<Self, CliError> {
        let file = File::open(path).map_err(CliError::file("read", path))?;
        let mut reader = BufReader::new(file);
        let header = read_line(&mut reader).map_err(CliError::file("read", path))?.unwrap_or_default();
        let columns = parse(&header).ok_or_else(|| {
            CliError::invalid(
                format!("{} does not begin with the header of a device file", path.display()),
                format!("its first line must be {expected}"),
            )
        })?;
        Ok(Self { reader, columns, line: 0 })
    }

    /// How many devices the rest of the file holds.
    pub fn count(mut self, path: &Path) -> Result<u64, CliError> {
        let mut count = 0;
        while self.next_text().map_err(CliError::file("read", path))?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// The next device; `None` at the end. Empty lines are passed over and not numbered.
    pub fn next_device(&mut self) -> std::io::Result<Option<DeviceLine>> {
        let Some(text) = self.next_text()? else { return Ok(None) };
        self.line += 1;
        Ok(Some(self.columns.device(self.line, &text)))
    }

    fn next_text(&mut self) -> std::io::Result<Option<String>> {
        loop {
            match read_line(&mut self.reader)? {
                Some(text) if text.trim().is_empty() => {}
                other => return Ok(other),
            }
        }
    }
}

/// A line without its end; `None` at the end of the file.
fn read_line(reader: &mut BufReader<File>) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut bytes)?;
    if read == 0 {
        return Ok(None);
    }
    if read as u64 == LINE_MAX_BYTES && bytes.last() != Some(&b'\n') {
        return Err(std::io::Error::other(format!("a line is longer than {LINE_MAX_BYTES} bytes")));
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    // What is no text cannot be an EID or a key; it becomes a refused line, not the end of the order.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

impl Columns {
    fn parse(header: &str) -> Option<Self> {
        let header = header.strip_prefix('\u{feff}').unwrap_or(header);
        let position = |name: &str| cells(header).position(|cell| cell.eq_ignore_ascii_case(name));
        let columns = Self {
            eid: position("eid")?,
            public_key: position("public_key"),
            csr: position("csr"),
            make_key_pair: position("make_key_pair"),
            kind: FileKind::New,
        };
        let keys = [columns.public_key, columns.csr, columns.make_key_pair];
        keys.iter().any(Option::is_some).then_some(columns)
    }

    fn eid_only(header: &str) -> Option<Self> {
        let header = header.strip_prefix('\u{feff}').unwrap_or(header);
        let eid = cells(header).position(|cell| cell.eq_ignore_ascii_case("eid"))?;
        Some(Self { eid, public_key: None, csr: None, make_key_pair: None, kind: FileKind::Registered })
    }

    fn moving_in(header: &str, keys: &MovingKeys) -> Option<Self> {
        let columns = Self::eid_only(header)?;
        let header = header.strip_prefix('\u{feff}').unwrap_or(header);
        let position = |name: &str| cells(header).position(|cell| cell.eq_ignore_ascii_case(name));
        let (scheme_inputs, keys) = match keys {
            MovingKeys::Derived => (Some(position("scheme_inputs").or_else(|| position("kdd"))?), Vec::new()),
            MovingKeys::Wrapped(names) => {
                (None, names.iter().map(|name| position(name)).collect::<Option<Vec<_>>>()?)
            }
        };
        let kind = FileKind::MovingIn { scheme_inputs, keys, check_values: position("kcv") };
        Some(Self { kind, ..columns })
    }

    fn device(&self, line: u64, text: &str) -> DeviceLine {
        let cell = |at: usize| cells(text).nth(at).unwrap_or_default();
        let eid = cell(self.eid).to_owned();
        let bare = OrderLine { line, eid: eid.clone(), ..OrderLine::default() };
        let order_line = match &self.kind {
            FileKind::New => None,
            FileKind::Registered => Some(Ok(bare)),
            FileKind::MovingIn { scheme_inputs, keys, check_values } => {
                let hex = |at: &usize, what: &str| {
                    hex::decode(cell(*at)).map_err(|_| format!("its {what} is not hexadecimal"))
                };
                let inputs = scheme_inputs.as_ref().map(|at| hex(at, "kdd or scheme_inputs")).transpose();
                let wrapped = keys.iter().map(|at| hex(at, "wrapped key")).collect::<Result<Vec<_>, _>>();
                let known = check_values.as_ref().map(|at| hex(at, "kcv")).transpose();
                Some(inputs.and_then(|inputs| {
                    Ok(OrderLine {
                        scheme_inputs: inputs.unwrap_or_default(),
                        wrapped_keys: wrapped?,
                        check_values: known?.unwrap_or_default(),
                        ..bare
                    })
                }))
            }
        };
        if let Some(order_line) = order_line {
            return DeviceLine { line, eid, order_line };
        }
        let public_key = self.public_key.map(cell).filter(|cell| !cell.is_empty());
        let csr = self.csr.map(cell).filter(|cell| !cell.is_empty());
        let make_key_pair = self.make_key_pair.map(cell).filter(|cell| !cell.is_empty());
        let key = match (public_key, csr, make_key_pair) {
            (Some(key), None, None) => {
                decode(key).map(order_line::Key::PublicKey).ok_or_else(|| not_der("public_key"))
            }
            (None, Some(csr), None) => decode(csr).map(order_line::Key::Csr).ok_or_else(|| not_der("csr")),
            (None, None, Some(curve)) => match curve.parse::<EuiccCurve>() {
                Ok(curve) => Ok(key_pair(curve)),
                Err(error) => Err(error.to_string()),
            },
            (None, None, None) => Err("it has neither a public_key nor a csr".to_owned()),
            (Some(_), Some(_), None) => Err("it has both a public_key and a csr".to_owned()),
            _ => Err("it has a key of its own and asks for one".to_owned()),
        };
        let order_line =
            key.map(|key| OrderLine { line, eid: eid.clone(), key: Some(key), ..OrderLine::default() });
        DeviceLine { line, eid, order_line }
    }
}

fn not_der(column: &str) -> String {
    format!("its {column} is neither hexadecimal nor base64")
}

/// A key pair that the authority makes.
pub fn key_pair(curve: EuiccCurve) -> order_line::Key {
    let curve = match curve {
        EuiccCurve::P256 => KeyPairCurve::P256,
        EuiccCurve::BrainpoolP256r1 => KeyPairCurve::BrainpoolP256r1,
    };
    order_line::Key::MakeKeyPair(curve.into())
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|cell| cell.trim().trim_matches('"'))
}

/// DER in hex or base64. DER of a key or request begins with 30, so the hex form begins with `30` and the base64 form
/// with `M`: no text is both.
fn decode(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).or_else(|_| BASE64.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<Vec<DeviceLine>, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.csv");
        std::fs::write(&path, content).unwrap();
        let mut file = DeviceFile::open(&path)?;
        let mut devices = Vec::new();
        while let Some(device) = file.next_device().unwrap() {
            devices.push(device);
        }
        assert_eq!(DeviceFile::open(&path).unwrap().count(&path).unwrap(), devices.len() as u64);
        Ok(devices)
    }

    fn key_of(device: &DeviceLine) -> order_line::Key {
        device.order_line.as_ref().unwrap().key.clone().unwrap()
    }

    #[test]
    fn keys_are_read_in_hex_and_base64_and_requests_too() {
        let devices =
            read("\u{feff}EID, public_key ,csr\r\n8904,3003020101,\r\n\r\n8905,MAMCAQE=,\n8906,,\"3000\"")
                .unwrap();
        assert_eq!(devices.iter().map(|device| device.line).collect::<Vec<_>>(), [1, 2, 3]);
        let expected = order_line::Key::PublicKey(vec![0x30, 3, 2, 1, 1]);
        assert_eq!(key_of(&devices[0]), expected);
        assert_eq!(key_of(&devices[1]), expected);
        assert_eq!(key_of(&devices[2]), order_line::Key::Csr(vec![0x30, 0]));
        assert_eq!(devices[2].eid, "8906");
    }

    #[test]
    fn a_line_that_cannot_be_sent_fails_alone_and_keeps_its_number() {
        let devices = read("eid,public_key,csr\n1,zz,\n2,,\n3,3000,3000\n4,3000,\n").unwrap();
        let reasons: Vec<_> =
            devices.iter().map(|device| device.order_line.as_ref().err().cloned()).collect();
        assert_eq!(reasons[0].as_deref(), Some("its public_key is neither hexadecimal nor base64"));
        assert_eq!(reasons[1].as_deref(), Some("it has neither a public_key nor a csr"));
        assert_eq!(reasons[2].as_deref(), Some("it has both a public_key and a csr"));
        assert_eq!(reasons[3], None);
        assert_eq!(devices[3].line, 4);
    }

    #[test]
    fn a_key_pair_is_asked_for_by_its_curve() {
        let devices = read(
            "eid,public_key,make_key_pair\n1,,P-256\n2,,P-384\n3,3000,P-256\n4,3000,\n5,,brainpoolP256r1\n",
        )
        .unwrap();
        assert_eq!(key_of(&devices[0]), key_pair(EuiccCurve::P256));
        assert_eq!(key_of(&devices[4]), key_pair(EuiccCurve::BrainpoolP256r1));
        let reasons: Vec<_> = devices.iter().map(|device| device.order_line.is_err()).collect();
        assert_eq!(reasons, [false, true, true, false, false]);
    }

    #[test]
    fn a_file_without_the_header_is_refused() {
        for header in ["", "eid", "iccid,public_key", "89049032123451234512345678901235,3000"] {
            assert!(read(&format!("{header}\n1,3000\n")).is_err(), "{header}");
        }
    }

    #[test]
    fn an_endless_line_is_an_error_and_not_endless_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.csv");
        std::fs::write(&path, format!("eid,csr\n1,{}\n", "30".repeat(20_000))).unwrap();
        let mut file = DeviceFile::open(&path).unwrap();
        assert!(file.next_device().is_err());
    }
}
