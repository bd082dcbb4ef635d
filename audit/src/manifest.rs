//! MANIFEST.json: what an export holds, what it does not and why, and the digest of every file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AuditError, Hash, LogKey};

/// The format this code writes and reads.
pub const BUNDLE_FORMAT: &str = "chancery-audit-export/1";

/// The manifest's own path; it is the one file it does not list.
pub const MANIFEST_PATH: &str = "MANIFEST.json";

/// The parts of an export and why one may be absent. A part is a file, or a folder with its files.
const PARTS: [(&str, &str); 16] = [
    ("VERIFY.md", "always present"),
    ("approvals", "no operation's evidence belongs to this range"),
    ("bodies", "entries have no bodies; they hold digests and pseudonyms only"),
    ("certs", "no certificates were given"),
    ("checkpoint", "always present"),
    ("checkpoint.tsr", "no time-stamping authority is configured"),
    ("consistency.txt", "no earlier checkpoint was given"),
    ("erasures.ndjson", "entries hold no personal data, so none of their content is ever erased"),
    ("log-keys.json", "always present"),
    ("policy.txt", "always present"),
    ("previous/checkpoint", "no earlier checkpoint was given"),
    ("proofs", "every entry is present, so no proof of single entries is needed"),
    ("schema", "always present"),
    ("tile", "the log is empty"),
    ("tile/entries", "the log is empty"),
    ("tsa-chain.pem", "no time-stamping authority is configured"),
];

/// The whole manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`BUNDLE_FORMAT`].
    pub format: String,
    /// Name of the log.
    pub origin: String,
    /// Which entries.
    pub range: Range,
    /// How many of each.
    pub counts: Counts,
    /// Version of the software that wrote the export. The one value that nothing else confirms.
    pub software: String,
    /// Every part of the format, present or absent.
    pub parts: BTreeMap<String, Part>,
    /// Every file but this one, in the order of their paths.
    pub files: Vec<FileRecord>,
}

/// The entries of an export: always all from the first to the checkpoint's size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Index of the first entry: 0.
    pub first: u64,
    /// Number of entries: the checkpoint's size.
    pub size: u64,
}

/// Totals of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Log entries.
    pub entries: u64,
    /// Operations with their evidence.
    pub operations: u64,
    /// Approval signatures.
    pub signatures: u64,
    /// Certificates under `certs/`.
    pub certificates: u64,
}

/// Whether a part is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", deny_unknown_fields)]
pub enum Part {
    /// At least one file of it is.
    Present,
    /// No file of it is.
    Absent {
        /// Why; one fixed sentence per part.
        reason: String,
    },
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Path below the bundle.
    pub path: String,
    /// SHA-256, hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl Manifest {
    pub(crate) fn new(origin: &str, size: u64, software: &str, files: BTreeMap<String, (Hash, u64)>) -> Self {
        let files: Vec<FileRecord> = files
            .into_iter()
            .map(|(path, (digest, size))| FileRecord { path, sha256: hex::encode(digest), size })
            .collect();
        Self {
            format: BUNDLE_FORMAT.to_owned(),
            origin: origin.to_owned(),
            range: Range { first: 0, size },
            counts: counts_of(size, &files),
            software: software.to_owned(),
            parts: parts_of(&files),
            files,
        }
    }

    /// Reads a manifest. Strict: the bytes are exactly those [`Manifest::to_bytes`] writes, counts and parts are those
    /// of the files, and paths are sorted and safe.
    pub fn parse(bytes: &[u8]) -> Result<Self, AuditError> {
        let wrong = |problem: String| crate::files::file_error(MANIFEST_PATH, &problem);
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.format != BUNDLE_FORMAT {
            return Err(wrong(format!("format {:?} is not {BUNDLE_FORMAT}", manifest.format)));
        }
        if manifest.range.first != 0 {
            return Err(wrong("an export begins with entry 0".to_owned()));
        }
        if let Some(pair) = manifest.files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return Err(wrong(format!("{} is listed out of order or twice", pair[1].path)));
        }
        let unsafe_path =
            |file: &&FileRecord| !crate::is_bundle_path(&file.path) || file.path == MANIFEST_PATH;
        if let Some(file) = manifest.files.iter().find(unsafe_path) {
            return Err(wrong(format!("{:?} is no path of a bundle", file.path)));
        }
        if manifest.counts != counts_of(manifest.range.size, &manifest.files) {
            return Err(wrong("the counts are not those of the files".to_owned()));
        }
        if manifest.parts != parts_of(&manifest.files) {
            return Err(wrong("the parts are not those of the files".to_owned()));
        }
        if manifest.to_bytes() != bytes {
            return Err(wrong("not in the one form of its content".to_owned()));
        }
        Ok(manifest)
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serialising maps with text keys into memory has no way to fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

fn counts_of(size: u64, files: &[FileRecord]) -> Counts {
    let under = |folder: &str, ending: &str| {
        files.iter().filter(|file| file.path.starts_with(folder) && file.path.ends_with(ending)).count()
            as u64
    };
    Counts {
        entries: size,
        operations: under("approvals/", "/operation.bin"),
        signatures: under("approvals/", ".der"),
        certificates: under("certs/", ""),
    }
}

fn parts_of(files: &[FileRecord]) -> BTreeMap<String, Part> {
    PARTS
        .iter()
        .map(|(part, reason)| {
            let is_of_part = |file: &FileRecord| {
                file.path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let state = if files.iter().any(is_of_part) {
                Part::Present
            } else {
                Part::Absent { reason: (*reason).to_owned() }
            };
            ((*part).to_owned(), state)
        })
        .collect()
}

/// One line of log-keys.json: a key that signs, or once signed, this log's checkpoints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogKeyRecord {
    /// The verifier key.
    pub vkey: String,
    /// The smallest size it signed.
    pub from_size: u64,
    /// The largest size it signed; null while it signs.
    pub until_size: Option<u64>,
    /// Index of the `log_key.added` entry that introduced it; null for the first key.
    pub entry: Option<u64>,
}

impl LogKeyRecord {
    /// The first key of a log, still in use.
    pub fn first(key: &LogKey) -> Self {
        Self { vkey: key.vkey(), from_size: 0, until_size: None, entry: None }
    }
}

pub(crate) fn write_log_keys(records: &[LogKeyRecord]) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(records).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

pub(crate) fn read_log_keys(bytes: &[u8]) -> Result<Vec<(LogKey, LogKeyRecord)>, String> {
    let records: Vec<LogKeyRecord> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if write_log_keys(&records) != bytes {
        return Err("not in the one form of its content".to_owned());
    }
    // The first key signs from the empty log on; a later one cannot sign a log that lacks the entry that adds it.
    let wrong = |r: &&LogKeyRecord| r.entry.map_or(r.from_size != 0, |entry| r.from_size <= entry);
    if let Some(record) = records.iter().find(wrong) {
        return Err(format!("{} cannot have signed from size {}", record.vkey, record.from_size));
    }
    records
        .into_iter()
        .map(|record| {
            LogKey::from_vkey(&record.vkey).map(|key| (key, record)).map_err(|error| error.to_string())
        })
        .collect()
}

/// A tlog-policy without witnesses: the keys in use and `quorum none`.
pub(crate) fn write_policy(records: &[LogKeyRecord]) -> Vec<u8> {
    let in_use = records.iter().filter(|record| record.until_size.is_none());
    let lines: String = in_use.map(|record| format!("log {}\n", record.vkey)).collect();
    (lines + "quorum none\n").into_bytes()
}

pub(crate) fn read_policy(bytes: &[u8]) -> Result<Vec<LogKey>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
    let logs = text.strip_suffix("quorum none\n").ok_or("the policy does not end with \"quorum none\"")?;
    let mut keys = Vec::new();
    for line in logs.split_inclusive('\n') {
        let vkey = line.strip_prefix("log ").and_then(|rest| rest.strip_suffix('\n'));
        let vkey = vkey.ok_or_else(|| format!("this verifier knows no policy line {line:?}"))?;
        keys.push(LogKey::from_vkey(vkey).map_err(|error| error.to_string())?);
    }
    if keys.is_empty() { Err("the policy names no log key".to_owned()) } else { Ok(keys) }
}
