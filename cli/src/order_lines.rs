//! The lines of an order's output as they were fetched (`docs/formats/order-output.md`), one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use domain::{KeyUsage, KeyVersionNumber, Protocol, SecurityDomain};
use serde::Deserialize;

use crate::error::CliError;

/// Longest line of an output that is taken.
pub const LINE_MAX_BYTES: usize = 64 << 10;
/// The form of the private keys of key pairs; its transport key has a line of its own.
pub const KEY_PAIR_FORM: &str = "pkcs8-kwp";

/// One line.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OutputLine {
    /// A device's keyset.
    Device(Box<DeviceKeys>),
    /// A transport key.
    TransportKey(TransportKey),
}

/// A transport key, wrapped for the manufacturer.
#[derive(Debug, Deserialize)]
pub struct TransportKey {
    /// Its name.
    pub transport_key: String,
    /// The key under the recipient's RSA key, hexadecimal.
    pub wrapped: String,
    /// Hash of the RSA-OAEP.
    pub oaep_hash: String,
    /// SHA-256 of the recipient's SubjectPublicKeyInfo, hexadecimal.
    #[serde(default)]
    pub recipient: String,
    /// Form of what is wrapped under it.
    #[serde(default = "first_format")]
    pub format: String,
}

fn first_format() -> String {
    domain::OrderFormat::JsonlKwp.as_str().to_owned()
}

/// A device's keys.
#[derive(Debug, Deserialize)]
pub struct DeviceKeys {
    /// 32 digits.
    pub eid: String,
    /// Number of the security domain.
    pub security_domain: u32,
    /// Key version number.
    pub kvn: u8,
    /// The keys in the order's form, by usage.
    #[serde(flatten)]
    pub keys: ByUsage,
    /// Their check values, hexadecimal.
    pub kcv: ByUsage,
}

/// A text for each key of a keyset: enc, mac and dek, or psk and psk-dek.
#[derive(Debug, Deserialize)]
pub struct ByUsage {
    enc: Option<String>,
    mac: Option<String>,
    dek: Option<String>,
    psk: Option<String>,
    #[serde(rename = "psk-dek")]
    psk_dek: Option<String>,
}

impl ByUsage {
    /// Those of a protocol, in the order of their key identifiers.
    pub fn of(&self, protocol: Protocol) -> Result<Vec<(KeyUsage, &str)>, CliError> {
        let text = |usage| match usage {
            KeyUsage::Enc => &self.enc,
            KeyUsage::Mac => &self.mac,
            KeyUsage::Dek => &self.dek,
            KeyUsage::Psk => &self.psk,
            KeyUsage::PskDek => &self.psk_dek,
        };
        protocol
            .usages()
            .iter()
            .map(|usage| {
                let missing = || CliError::Answer(format!("a line lacks its {}", usage.as_str()));
                Ok((*usage, text(*usage).as_deref().ok_or_else(missing)?))
            })
            .collect()
    }
}

impl DeviceKeys {
    /// The keyset. A key version number tells the protocol; its ranges do not overlap.
    pub fn keyset(&self) -> Result<(Protocol, SecurityDomain, KeyVersionNumber), CliError> {
        let unknown = || CliError::Answer("a line names an unknown keyset".to_owned());
        let domain = SecurityDomain::from_code(self.security_domain).map_err(|_| unknown())?;
        Protocol::ALL
            .into_iter()
            .find_map(|protocol| Some((protocol, KeyVersionNumber::new(protocol, self.kvn.into()).ok()?)))
            .map(|(protocol, kvn)| (protocol, domain, kvn))
            .ok_or_else(unknown)
    }
}

/// An output being read.
pub struct OutputReader {
    reader: BufReader<File>,
    path: PathBuf,
    number: u64,
}

impl OutputReader {
    /// Opens an output.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        let file = File::open(path).map_err(CliError::file("read", path))?;
        Ok(Self { reader: BufReader::new(file), path: path.to_owned(), number: 0 })
    }

    /// The next line, its newline included, and what it says; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<(Vec<u8>, OutputLine)>, CliError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.reader).take(LINE_MAX_BYTES as u64);
        let read = limited.read_until(b'\n', &mut bytes).map_err(CliError::file("read", &self.path))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let wrong = || {
            CliError::invalid(
                format!("line {} of {} is no line of an order's output", self.number, self.path.display()),
                "fetch the output again",
            )
        };
        if bytes.last() != Some(&b'\n') {
            return Err(wrong());
        }
        let line = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        Ok(Some((bytes, line)))
    }
}
