//! The auditor's side: the exported log, verified offline, found again, and tampered with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::stage::{Failure, Stage};

const EXPORT: &str = "audit-export";
const DAMAGED: &str = "state/damaged-export";
/// What was refused to the provisioner in steps 4 to 6.
const REFUSALS: [&str; 7] = [
    "CARD_CRYPTOGRAM_MISMATCH",
    "NOT_GRANTED",
    "UNKNOWN_DEVICE",
    "GRANT_EXPIRED",
    "ROTATION_NOT_RUNNING",
    "KEYSET_NOT_ACTIVE",
    "DEVICE_NOT_ACTIVE",
];
/// Exit code of a verification with findings.
const FINDINGS: i32 = 1;

/// The export, as the auditor.
pub fn export(stage: &Stage) -> Result<(), Failure> {
    stage.chancery(&["audit", "export", "--out", EXPORT, "--identity", "people/aurel"]).map(|_| ())
}

/// Verifies it with the log's key and the transcript, both from the ceremony and not from the export.
pub fn verify(stage: &Stage) -> Result<(), Failure> {
    let key = log_key(stage)?;
    stage
        .chancery(&["audit", "verify", EXPORT, "--log-key", &key, "--transcript", "transcript.txt"])
        .map(|_| ())
}

/// Looks for each of these refusals in the entries.
pub fn find_refusals(stage: &Stage) -> Result<(), Failure> {
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for file in bundles(&stage.path(EXPORT).join("tile/entries"))? {
        let bytes = fs::read(&file).map_err(Failure::at(format!("cannot read {}", file.display())))?;
        for entry in entries(&bytes)? {
            let entry: Value = serde_json::from_slice(entry).map_err(Failure::at("an entry is no JSON"))?;
            let reason = REFUSALS.into_iter().find(|&reason| entry["reason"] == reason);
            if let (Some(reason), Some("refused")) = (reason, entry["outcome"].as_str()) {
                found.insert(reason, entry["index"].as_u64().unwrap_or_default());
            }
        }
    }
    for reason in REFUSALS {
        let index = found
            .get(reason)
            .ok_or_else(|| Failure::new(format!("expected a refusal with {reason} in the exported log")))?;
        stage.say(format_args!("in the log: entry {index} refused with {reason}"));
    }
    Ok(())
}

/// Changes one byte of a copy: the verification has to fail and to name the file and the entry.
pub fn find_flipped_byte(stage: &Stage) -> Result<(), Failure> {
    copy_folder(&stage.path(EXPORT), &stage.path(DAMAGED))?;
    let damaged = stage.path(DAMAGED);
    let file = bundles(&damaged.join("tile/entries"))?
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new("expected entries in the export"))?;
    let name = file.strip_prefix(&damaged).unwrap_or(&file).display().to_string();
    let mut bytes = fs::read(&file).map_err(Failure::at(format!("cannot read {name}")))?;
    let [first, second, ..] = entries(&bytes)?[..] else {
        return Err(Failure::new("expected two entries in the first bundle"));
    };
    // The last digit of the time of entry 1, behind the first entry and two lengths: still a well-formed entry, and
    // another one.
    let end_of_time = second.windows(2).position(|pair| pair == b"Z\"").filter(|&end| end > 0);
    let end_of_time = end_of_time.ok_or_else(|| Failure::new("expected a time in entry 1"))?;
    let at = 2 + first.len() + 2 + end_of_time - 1;
    bytes[at] ^= 0x01;
    fs::write(&file, bytes).map_err(Failure::at(format!("cannot write {name}")))?;
    stage.say(format_args!("byte {at} of {DAMAGED}/{name} flipped, in entry 1"));

    let key = log_key(stage)?;
    let arguments = ["audit", "verify", DAMAGED, "--log-key", &key, "--output", "json"];
    let answer = stage.expect("chancery", &arguments, FINDINGS)?;
    let verdict: Value = serde_json::from_str(&answer).map_err(Failure::at("the verdict is no JSON"))?;
    let named = verdict["findings"].as_array().is_some_and(|findings| {
        findings.iter().any(|finding| finding["file"] == name && finding["index"] == 1)
    });
    if !named {
        return Err(Failure::new(format!("expected a finding that names {name} and index 1, got\n{answer}")));
    }
    Ok(())
}

fn log_key(stage: &Stage) -> Result<String, Failure> {
    stage.read("state/handover/log-key.vkey").map(|key| key.trim().to_owned())
}

/// Every entry bundle, in the order of the log: names are zero-padded, full bundles before the partial last one.
fn bundles(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    visit(folder, &mut found).map_err(Failure::at(format!("cannot list {}", folder.display())))?;
    found.sort();
    Ok(found)
}

fn visit(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.is_dir() {
            visit(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// An entry bundle of tlog-tiles: each entry after its length in two bytes, big endian.
fn entries(mut bundle: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bundle.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, rest) = rest
            .split_at_checked(length)
            .ok_or_else(|| Failure::new("an entry bundle ends within an entry"))?;
        entries.push(entry);
        bundle = rest;
    }
    Ok(entries)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    visit(from, &mut files).map_err(Failure::at(format!("cannot list {}", from.display())))?;
    for file in files {
        let target = to.join(file.strip_prefix(from).unwrap_or(&file));
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(Failure::at("cannot copy the export"))?;
        }
        fs::copy(&file, &target).map_err(Failure::at("cannot copy the export"))?;
    }
    Ok(())
}
