//! What the cards of a rotation answered: read as lines of JSON, sent in batches, results written as lines.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use domain::Eid;
use proto::v1::{
    CardProof, ReportResult, ReportRotationRequest, RotationFailure, RotationItemState, RotationReport,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::connect::{Connection, IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::json_lines::{self, LinesFile};
use crate::output::{Output, Progress, fields, printable};
use crate::rotation::client;

/// Reports of one call.
const BATCH: usize = 200;
/// Exit code when some cards failed or some lines were refused.
const SOME_FAILED: u8 = 3;

/// Arguments of `rotation report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    /// What the cards answered: one line of JSON for each device
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// File to write: one line of JSON for each result
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A line of results, docs/formats/rotation-scripts.md.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerLine {
    eid: String,
    put_key_response: Option<String>,
    proof: Option<ProofLine>,
    status_word: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofLine {
    host_challenge: String,
    card_challenge: String,
    card_cryptogram: String,
}

/// A line of the report.
#[derive(Serialize)]
struct ResultLine<'a> {
    eid: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    entry_index: u64,
}

#[derive(Serialize, Default)]
struct Reported {
    rotation: String,
    confirmed: u64,
    /// Check values right, proof outstanding.
    loaded: u64,
    failed: u64,
    /// Refused by the service: they changed nothing.
    refused: u64,
    file: PathBuf,
    idempotency_key: String,
}

/// The name of an item's state.
pub const fn item_state_name(state: RotationItemState) -> &'static str {
    match state {
        RotationItemState::Unspecified => "unknown",
        RotationItemState::Pending => "pending",
        RotationItemState::Leased => "leased",
        RotationItemState::Loaded => "loaded",
        RotationItemState::Confirmed => "confirmed",
        RotationItemState::Failed => "failed",
        RotationItemState::RolledBack => "rolled-back",
        RotationItemState::Kept => "kept",
    }
}

const fn failure_name(failure: RotationFailure) -> Option<&'static str> {
    match failure {
        RotationFailure::Unspecified => None,
        RotationFailure::CheckValueWrong => Some("check_value_wrong"),
        RotationFailure::ProofWrong => Some("proof_wrong"),
        RotationFailure::ProofMissing => Some("proof_missing"),
        RotationFailure::CardRefused => Some("card_refused"),
        RotationFailure::DeviceNotActive => Some("device_not_active"),
    }
}

impl Report {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        // Everything is read and checked before the first line is sent.
        let reports = read_reports(&self.file)?;
        let key = self.idempotency.key()?;
        let connection = self.remote.connect(output).await?;
        let mut out = LinesFile::create(&self.out)?;
        let mut progress = output.progress("reporting cards", reports.len() as u64);
        let sent = self.send(&connection, &reports, &key, &mut out, &mut progress, output).await;
        let sent = out.finish().and(sent);
        match &sent {
            Ok(reported) => progress.finish(&format!("{} confirmed", reported.confirmed)),
            Err(_) => progress.finish("stopped; the results that came are kept"),
        }
        let reported = sent?;
        output.print(&reported, |reported| {
            fields([
                ("confirmed", reported.confirmed.to_string()),
                ("loaded, unproved", reported.loaded.to_string()),
                ("failed", reported.failed.to_string()),
                ("refused", reported.refused.to_string()),
                ("file", reported.file.display().to_string()),
                ("next", format!("chancery rotation show {}", reported.rotation)),
            ])
        })?;
        let all_well = reported.failed == 0 && reported.refused == 0;
        Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::from(SOME_FAILED) })
    }

    async fn send(
        &self,
        connection: &Connection,
        reports: &[RotationReport],
        key: &str,
        out: &mut LinesFile,
        progress: &mut Progress,
        output: Output,
    ) -> Result<Reported, CliError> {
        let mut reported = Reported {
            rotation: self.name.clone(),
            file: self.out.clone(),
            idempotency_key: key.to_owned(),
            ..Reported::default()
        };
        for (batch, number) in reports.chunks(BATCH).zip(0u64..) {
            let message = ReportRotationRequest {
                idempotency_key: batch_key(key, number),
                rotation: self.name.clone(),
                reports: batch.to_vec(),
            };
            let answer = connection
                .call(output, Some(key), || {
                    let request = connection.request(message.clone());
                    let mut client = client(connection);
                    async move { client.report_rotation(request).await }
                })
                .await?;
            let in_order = answer.results.len() == batch.len()
                && answer.results.iter().zip(batch).all(|(result, report)| result.eid == report.eid);
            if !in_order {
                return Err(CliError::Answer("the results are not those of the reports".to_owned()));
            }
            for result in &answer.results {
                reported.count(result);
                write_result(out, result, answer.entry_index)?;
            }
            progress.advance(batch.len() as u64);
        }
        Ok(reported)
    }
}

impl Reported {
    fn count(&mut self, result: &ReportResult) {
        if !result.reason.is_empty() {
            self.refused += 1;
            return;
        }
        match result.state() {
            RotationItemState::Confirmed => self.confirmed += 1,
            RotationItemState::Loaded => self.loaded += 1,
            RotationItemState::Failed => self.failed += 1,
            // No report leaves a device so; a newer service may mean something else by it.
            RotationItemState::Unspecified
            | RotationItemState::Pending
            | RotationItemState::Leased
            | RotationItemState::RolledBack
            | RotationItemState::Kept => self.refused += 1,
        }
    }
}

/// Each batch has a key of its own, the same whenever the file is reported again under the same key.
fn batch_key(key: &str, number: u64) -> String {
    hex::encode(&Sha256::digest(format!("{key}/{number}"))[..16])
}

fn write_result(out: &mut LinesFile, result: &ReportResult, entry_index: u64) -> Result<(), CliError> {
    let line = ResultLine {
        eid: &result.eid,
        state: item_state_name(result.state()),
        failure: failure_name(result.failure()),
        reason: (!result.reason.is_empty()).then(|| printable(&result.reason)),
        entry_index,
    };
    out.line(&serde_json::to_vec(&line).map_err(|error| CliError::Local(error.to_string()))?)
}

pub(crate) fn read_reports(path: &Path) -> Result<Vec<RotationReport>, CliError> {
    let mut seen = HashSet::new();
    json_lines::read(path, "docs/formats/rotation-scripts.md", |line: AnswerLine| {
        let report = line.into_report()?;
        if !seen.insert(report.eid.clone()) {
            return Err("the device was named before".to_owned());
        }
        Ok(report)
    })
}

impl AnswerLine {
    fn into_report(self) -> Result<RotationReport, String> {
        let eid: Eid = self.eid.parse().map_err(|_| "eid is no EID".to_owned())?;
        let bytes = |name: &str, text: &str| hex::decode(text).map_err(|_| format!("{name} is not hex"));
        let eight = |name: &str, text: &str| {
            bytes(name, text).and_then(|bytes| {
                if bytes.len() == 8 { Ok(bytes) } else { Err(format!("{name} has not 8 bytes")) }
            })
        };
        let proof = match &self.proof {
            Some(proof) => Some(CardProof {
                host_challenge: eight("host_challenge", &proof.host_challenge)?,
                card_challenge: eight("card_challenge", &proof.card_challenge)?,
                card_cryptogram: eight("card_cryptogram", &proof.card_cryptogram)?,
            }),
            None => None,
        };
        let status_word = match &self.status_word {
            Some(text) => match bytes("status_word", text)?[..] {
                [sw1, sw2] => u32::from(u16::from_be_bytes([sw1, sw2])),
                _ => return Err("status_word has not 2 bytes".to_owned()),
            },
            None => 0,
        };
        if self.put_key_response.is_none() && proof.is_none() && status_word == 0 {
            return Err("it says neither what the card answered, nor proved, nor refused".to_owned());
        }
        Ok(RotationReport {
            eid: eid.to_string(),
            put_key_response: bytes(
                "put_key_response",
                self.put_key_response.as_deref().unwrap_or_default(),
            )?,
            proof,
            status_word,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EID: &str = "89049032123451234512345678901235";

    fn read(text: &str) -> Result<Vec<RotationReport>, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        std::fs::write(&path, text).unwrap();
        read_reports(&path)
    }

    #[test]
    fn a_line_says_what_the_card_answered_proved_or_refused() {
        let proof = r#"{"host_challenge":"0000000000000001","card_challenge":"0000000000000002","card_cryptogram":"0000000000000003"}"#;
        let reports =
            read(&format!("{{\"eid\":\"{EID}\",\"put_key_response\":\"310a\",\"proof\":{proof}}}\n\n"))
                .unwrap();
        assert_eq!(reports[0].put_key_response, [0x31, 0x0a]);
        assert_eq!(reports[0].proof.as_ref().unwrap().card_cryptogram, [0, 0, 0, 0, 0, 0, 0, 3]);
        let reports = read(&format!("{{\"eid\":\"{EID}\",\"status_word\":\"6982\"}}")).unwrap();
        assert_eq!((reports[0].status_word, reports[0].proof.is_none()), (0x6982, true));
    }

    #[test]
    fn a_wrong_line_is_named_and_nothing_is_read_as_something_else() {
        let device = |rest: &str| format!("{{\"eid\":\"{EID}\"{rest}}}\n");
        let refused = device(",\"status_word\":\"6982\"");
        for (text, why) in [
            (device(""), "neither"),
            (device(",\"status_word\":\"69\""), "2 bytes"),
            (device(",\"put_key_response\":\"zz\""), "not hex"),
            (device(",\"put_key\":\"00\""), "unknown field"),
            (refused.replace(EID, "890"), "no EID"),
            (format!("{refused}{refused}"), "line 2"),
            (format!("{refused}{}", "x".repeat(5_000)), "too long"),
            (String::new(), "no line"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn batches_have_keys_of_their_own_that_depend_on_the_files_key_only() {
        assert_eq!(batch_key("a", 0), batch_key("a", 0));
        assert_ne!(batch_key("a", 0), batch_key("a", 1));
        assert_ne!(batch_key("a", 0), batch_key("b", 0));
    }
}
