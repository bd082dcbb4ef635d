//! Old keysets leave the cards: DELETE KEY scripts, and what the cards answered to them.

use std::path::PathBuf;

use clap::Args;
use domain::Eid;
use proto::v1::{DeletionReport, DeletionScript, FetchDeletionScriptsRequest, ReportDeletionsRequest};
use serde::{Deserialize, Serialize};

use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::parse_name;
use crate::output::{Output, fields, printable, table};
use crate::rotation::client;

/// Most lines of a report: as many as one call takes.
const LINES_MAX: usize = 200;

/// Arguments of `rotation fetch-deletions`.
#[derive(Debug, Args)]
pub struct FetchDeletions {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    /// At most so many scripts
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Go on after this device, as the call before said
    #[arg(long, value_name = "EID")]
    after: Option<Eid>,
    /// File to write: one line of JSON for each device
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `rotation report-deletions`.
#[derive(Debug, Args)]
pub struct ReportDeletions {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    /// One line of JSON for each card: {"eid":"8904...","status_word":"9000"}; at most 200
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A line of docs/formats/rotation-scripts.md.
#[derive(Serialize)]
struct DeletionLine<'a> {
    rotation: &'a str,
    eid: &'a str,
    under_kvn: u32,
    old_kvn: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    delete_key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    card_challenge: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    card_cryptogram: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sequence_counter: String,
}

#[derive(Serialize)]
struct Fetched {
    scripts: usize,
    file: Option<PathBuf>,
    next_after: Option<String>,
    entry_index: u64,
}

impl FetchDeletions {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let message = FetchDeletionScriptsRequest {
            idempotency_key: self.idempotency.key()?,
            rotation: self.name.clone(),
            limit: self.limit,
            after_eid: self.after.as_ref().map(Eid::to_string).unwrap_or_default(),
        };
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.fetch_deletion_scripts(request).await }
            })
            .await?;
        let mut text = String::new();
        for script in &answer.scripts {
            text.push_str(&self.line(script)?);
            text.push('\n');
        }
        if !text.is_empty() {
            files::write_new(&self.out, text.as_bytes(), Readers::Owner)?;
        }
        let fetched = Fetched {
            scripts: answer.scripts.len(),
            file: (!text.is_empty()).then(|| self.out.clone()),
            next_after: Some(printable(&answer.next_after_eid)).filter(|eid| !eid.is_empty()),
            entry_index: answer.entry_index,
        };
        output.print(&fetched, |fetched| {
            let next = match (&fetched.file, &fetched.next_after) {
                (_, Some(eid)) => {
                    format!("more: chancery rotation fetch-deletions {} --after {eid}", self.name)
                }
                (Some(_), None) => {
                    format!("send them, then chancery rotation report-deletions {}", self.name)
                }
                (None, None) => "no card waits: old keysets are deleted once they have ended".to_owned(),
            };
            fields([
                ("scripts", fetched.scripts.to_string()),
                ("log entry", fetched.entry_index.to_string()),
                ("next", next),
            ])
        })
    }

    fn line(&self, script: &DeletionScript) -> Result<String, CliError> {
        let under = script.under.ok_or_else(|| {
            CliError::Answer("a script names no keyset to open the channel with".to_owned())
        })?;
        // It becomes a line that somebody's tool acts on: only what is an EID goes there.
        let eid = script.eid.parse::<Eid>();
        let eid = eid.map_err(|_| CliError::Answer("a script names no EID".to_owned()))?.to_string();
        let line = DeletionLine {
            rotation: &self.name,
            eid: &eid,
            under_kvn: under.key_version_number,
            old_kvn: script.old_key_version_number,
            delete_key: hex::encode(&script.delete_key),
            commands: script.commands.iter().map(hex::encode).collect(),
            card_challenge: hex::encode(&script.card_challenge),
            card_cryptogram: hex::encode(&script.card_cryptogram),
            sequence_counter: hex::encode(&script.sequence_counter),
        };
        serde_json::to_string(&line).map_err(|error| CliError::Local(error.to_string()))
    }
}

/// A line of a report.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportLine {
    eid: String,
    status_word: String,
}

#[derive(Serialize)]
struct Reported {
    eid: String,
    deleted: bool,
    reason: String,
}

impl ReportDeletions {
    /// Runs it; whether every card deleted its old keyset.
    pub async fn run(&self, output: Output) -> Result<bool, CliError> {
        let reports = read(&files::read_text(&self.file)?)?;
        let connection = self.remote.connect(output).await?;
        let idempotency_key = self.idempotency.key()?;
        let message = ReportDeletionsRequest { idempotency_key, rotation: self.name.clone(), reports };
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.report_deletions(request).await }
            })
            .await?;
        let rows: Vec<Reported> = answer
            .results
            .into_iter()
            .map(|result| Reported {
                eid: printable(&result.eid),
                deleted: result.deleted,
                reason: printable(&result.reason),
            })
            .collect();
        output.print(&rows, |rows| {
            let row = |row: &Reported| {
                let deleted = if row.deleted { "deleted" } else { "still there" };
                [row.eid.clone(), deleted.to_owned(), row.reason.clone()]
            };
            table(["EID", "old keyset", "reason"], rows.iter().map(row))
        })?;
        Ok(rows.iter().all(|row| row.deleted))
    }
}

fn read(text: &str) -> Result<Vec<DeletionReport>, CliError> {
    let wrong = |line: usize, why: &str| {
        CliError::invalid(
            format!("line {line} of the report: {why}"),
            "write lines such as {\"eid\":\"8904...\",\"status_word\":\"9000\"}",
        )
    };
    let mut reports = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let read: ReportLine = serde_json::from_str(line).map_err(|e| wrong(at + 1, &e.to_string()))?;
        read.eid.parse::<Eid>().map_err(|e| wrong(at + 1, &e.to_string()))?;
        let status_word = u16::from_str_radix(&read.status_word, 16)
            .ok()
            .filter(|_| read.status_word.len() == 4)
            .ok_or_else(|| wrong(at + 1, "status_word has four hexadecimal digits"))?;
        reports.push(DeletionReport { eid: read.eid, status_word: status_word.into() });
    }
    if reports.is_empty() || reports.len() > LINES_MAX {
        return Err(wrong(reports.len(), "a report has 1 to 200 lines"));
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_an_eid_and_a_status_word_in_each_line() {
        let line = "{\"eid\":\"89049032123451234512345678901235\",\"status_word\":\"9000\"}\n";
        assert_eq!(read(line).unwrap()[0].status_word, 0x9000);
        for wrong in ["", "{}", &line.replace("9000", "90"), &line.replace("35\"", "36\""), &line.repeat(201)]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
