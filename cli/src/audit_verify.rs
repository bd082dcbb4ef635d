//! An export verified offline: nothing is asked of the service, a token or a network.

use std::path::PathBuf;
use std::process::ExitCode;

use audit::{
    BundleFiles, BundleFolder, CheckpointBody, Entry, LogKey, TILE_WIDTH, TrustAnchors, VerifyReport,
    entry_bundle_path, sha256, split_bundle, verify_bundle_observed, verify_checkpoint,
};
use clap::Args;
use serde::Serialize;

use crate::error::CliError;
use crate::files;
use crate::output::{Output, fields, printable, table};

/// The fact of entry 0 that holds the digest of the ceremony's transcript.
const TRANSCRIPT_FACT: &str = "transcript";

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The export's folder
    folder: PathBuf,
    /// A key of the log, as `name+id+base64`, got from elsewhere than the export; may be repeated
    #[arg(long = "log-key", value_name = "VKEY", value_parser = parse_log_key)]
    log_keys: Vec<LogKey>,
    /// A checkpoint got from elsewhere (a receipt, another auditor): the export must continue it; may be repeated
    #[arg(long = "checkpoint", value_name = "FILE", requires = "log_keys")]
    checkpoints: Vec<PathBuf>,
    /// The transcript of the founding ceremony: its digest must be in entry 0
    #[arg(long, value_name = "FILE")]
    transcript: Option<PathBuf>,
}

fn parse_log_key(text: &str) -> Result<LogKey, String> {
    LogKey::from_vkey(text).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct Verdict {
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<Log>,
    checks: Vec<Passed>,
    warnings: Vec<String>,
    findings: Vec<Found>,
    /// Whether there may be more findings than are listed.
    stopped_early: bool,
}

#[derive(Serialize)]
struct Log {
    origin: String,
    entries: u64,
    root: String,
    signed_by: Vec<String>,
}

#[derive(Serialize)]
struct Passed {
    holds: String,
    defeats: String,
}

#[derive(Serialize)]
struct Found {
    file: String,
    index: Option<u64>,
    problem: String,
}

impl Verify {
    /// Runs it. Exit code 0 when everything holds, 1 when anything does not.
    pub fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        if !self.folder.is_dir() {
            return Err(CliError::invalid(
                format!("{} is no folder", self.folder.display()),
                "name the folder that `chancery audit export` made",
            ));
        }
        let anchors =
            TrustAnchors { log_keys: self.log_keys.clone(), known_checkpoints: self.known_checkpoints()? };
        let bundle = BundleFolder::new(&self.folder);
        let mut progress = None;
        let result = verify_bundle_observed(&bundle, &anchors, &mut |done, total| {
            let (progress, before) =
                progress.get_or_insert_with(|| (output.progress("verifying entries", total), 0));
            progress.advance(done - *before);
            *before = done;
        });
        if let Some((progress, _)) = progress {
            progress.finish(if result.is_ok() { "everything holds" } else { "findings" });
        }
        let mut verdict = match result {
            Ok(report) => Verdict::holds(&report),
            Err(failure) => Verdict {
                verified: false,
                log: None,
                checks: Vec::new(),
                warnings: Vec::new(),
                findings: failure
                    .findings
                    .into_iter()
                    .map(|finding| Found {
                        file: finding.file,
                        index: finding.index,
                        problem: finding.problem,
                    })
                    .collect(),
                stopped_early: failure.stopped_early,
            },
        };
        if verdict.verified {
            self.check_transcript(&bundle, &mut verdict)?;
        }
        output.print(&verdict, human)?;
        Ok(if verdict.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn known_checkpoints(&self) -> Result<Vec<CheckpointBody>, CliError> {
        let read = |path: &PathBuf| {
            verify_checkpoint(&files::read(path)?, &self.log_keys).map(|verified| verified.body).map_err(
                |error| {
                    CliError::invalid(
                        format!("{}: {error}", path.display()),
                        "name a checkpoint of this log and its --log-key",
                    )
                },
            )
        };
        self.checkpoints.iter().map(read).collect()
    }

    /// The export holds: now the transcript must be the one that founded its log.
    fn check_transcript(&self, bundle: &BundleFolder, verdict: &mut Verdict) -> Result<(), CliError> {
        let Some(path) = &self.transcript else { return Ok(()) };
        let digest = sha256(&files::read(path)?);
        let entries = verdict.log.as_ref().map_or(0, |log| log.entries);
        // The first bundle is partial while the log is shorter than a tile.
        let width = u16::try_from(entries.min(TILE_WIDTH as u64)).unwrap_or(0);
        let recorded =
            if width == 0 { None } else { transcript_digest(bundle, &entry_bundle_path(0, width)) };
        if recorded == Some(digest) {
            verdict.checks.push(Passed {
                holds: "the transcript is the one whose digest entry 0 holds".to_owned(),
                defeats: "whoever shows another founding ceremony than the one that took place".to_owned(),
            });
        } else {
            verdict.verified = false;
            verdict.findings.push(Found {
                file: path.display().to_string(),
                index: Some(0),
                problem: "entry 0 holds another digest, or none, of a transcript".to_owned(),
            });
        }
        Ok(())
    }
}

fn transcript_digest(bundle: &BundleFolder, path: &str) -> Option<[u8; 32]> {
    let bytes = bundle.read(path).ok()?;
    let entries = split_bundle(&bytes).ok()?;
    Entry::parse(entries.first()?).ok()?.digest(TRANSCRIPT_FACT)
}

impl Verdict {
    fn holds(report: &VerifyReport) -> Self {
        Self {
            verified: true,
            log: Some(Log {
                origin: report.checkpoint.origin.clone(),
                entries: report.checkpoint.size,
                root: hex::encode(report.checkpoint.root),
                signed_by: report.signers.iter().map(LogKey::vkey).collect(),
            }),
            checks: report
                .checks
                .iter()
                .map(|check| Passed { holds: check.what.clone(), defeats: check.defeats.to_owned() })
                .collect(),
            warnings: report.warnings.clone(),
            findings: Vec::new(),
            stopped_early: false,
        }
    }
}

fn human(verdict: &Verdict) -> String {
    let mut text = String::new();
    if let Some(log) = &verdict.log {
        text += &fields([
            ("log", printable(&log.origin)),
            ("entries", log.entries.to_string()),
            ("root", log.root.clone()),
            ("signed by", log.signed_by.iter().map(|key| printable(key)).collect::<Vec<_>>().join(", ")),
        ]);
    }
    if !verdict.checks.is_empty() {
        let rows = verdict.checks.iter().map(|check| [printable(&check.holds), check.defeats.clone()]);
        text += &format!("\n{}\n", table(["holds", "defeats"], rows));
    }
    for warning in &verdict.warnings {
        text += &format!("\nWARNING: {}\n", printable(warning));
    }
    if !verdict.findings.is_empty() {
        let rows = verdict.findings.iter().map(|found| {
            let index = found.index.map_or_else(|| "-".to_owned(), |index| index.to_string());
            [printable(&found.file), index, printable(&found.problem)]
        });
        text += &format!("\n{}\n", table(["file", "index", "problem"], rows));
    }
    if verdict.stopped_early {
        text += "\nThere may be more.\n";
    }
    text + if verdict.verified { "\nVERIFIED" } else { "\nNOT VERIFIED" }
}

#[cfg(test)]
mod tests {
    use audit::{BundleHead, BundleWriter, EntryDraft, EventType, Fact, Frontier, LogKeyRecord, Outcome};
    use audit::{leaf_hash, signature_line};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use domain::Timestamp;

    use super::*;
    use crate::output::Format;

    const ORIGIN: &str = "demo/node-1/2026";
    const TRANSCRIPT: &[u8] = b"once there was a ceremony";

    /// Writes the export of a log of one entry, and gives the log's key.
    fn export(folder: &std::path::Path) -> LogKey {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let key = LogKey::new(ORIGIN, public).unwrap();
        let entry = EntryDraft::new(EventType::AuthorityCreated, Outcome::Done)
            .fact(TRANSCRIPT_FACT, Fact::Digest(sha256(TRANSCRIPT)))
            .seal(0, Timestamp::from_seconds(1_795_550_803));
        let mut frontier = Frontier::new();
        frontier.push(leaf_hash(&entry));
        let body = CheckpointBody { origin: ORIGIN.to_owned(), size: 1, root: frontier.root() };
        let signature: [u8; 64] = pair.sign(body.unsigned_text().as_bytes()).as_ref().try_into().unwrap();
        let head = BundleHead {
            software: "test".to_owned(),
            log_keys: vec![LogKeyRecord::first(&key)],
            checkpoint: body.signed(&[signature_line(ORIGIN, &public, &signature)]),
            previous: None,
        };
        let mut writer = BundleWriter::new(head).unwrap();
        let mut written = writer.push_entry(&entry).unwrap();
        written.extend(writer.finish().unwrap());
        let bundle = BundleFolder::new(folder);
        for file in written {
            bundle.write(&file).unwrap();
        }
        key
    }

    fn verify(folder: &std::path::Path, key: &LogKey, transcript: Option<PathBuf>) -> String {
        let verify = Verify {
            folder: folder.to_owned(),
            log_keys: vec![key.clone()],
            checkpoints: vec![folder.join("checkpoint")],
            transcript,
        };
        let code = verify.run(Output { format: Format::Json });
        code.map_or_else(|error| error.reason().to_owned(), |code| format!("{code:?}"))
    }

    #[test]
    fn a_whole_export_verifies_and_a_flipped_byte_or_another_transcript_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("export");
        let key = export(&out);
        let transcript = folder.path().join("transcript.txt");
        std::fs::write(&transcript, TRANSCRIPT).unwrap();
        let (good, bad) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::FAILURE));
        assert_eq!(verify(&out, &key, Some(transcript.clone())), good);

        std::fs::write(&transcript, b"another").unwrap();
        assert_eq!(verify(&out, &key, Some(transcript)), bad);

        let damaged = out.join(entry_bundle_path(0, 1));
        let mut bytes = std::fs::read(&damaged).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        assert_eq!(verify(&out, &key, None), bad);
    }

    #[test]
    fn what_is_no_folder_is_no_export() {
        let folder = tempfile::tempdir().unwrap();
        let key = export(&folder.path().join("export"));
        assert_eq!(verify(&folder.path().join("absent"), &key, None), "INVALID_INPUT");
    }
}
