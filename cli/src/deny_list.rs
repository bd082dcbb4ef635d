//! The deny list: fetched from the service, kept up to date by differences, checked without it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use audit::{Denials, DenyListHead, LogKey, deny_list_lines, verify_deny_list, verify_whole_list};
use clap::{Args, Subcommand};
use domain::{Clock, Eid, Timestamp};
use proto::v1::FetchDenyListRequest;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::fetch_deny_list_response::Part;
use serde::Serialize;

use crate::certificate::parse_time;
use crate::clock::SystemClock;
use crate::connect::{Connection, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::order_receipt::parse_log_key;
use crate::output::{Output, fields};

/// Bytes of the longest list that is read: about two million devices.
const LIST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// `chancery deny-list ...`
#[derive(Debug, Subcommand)]
pub enum DenyListCommand {
    /// Fetch the list, or what changed since the one that is there, and verify it.
    ///
    /// FILE holds one line of JSON for each device that no SM-DP+ should serve, FILE.note the head that the authority signed. A list
    /// speaks for a day: fetch it again in time, for example every few minutes.
    #[command(after_help = "Example:
  chancery deny-list fetch --out deny-list.jsonl --log-key \"$(cat log-key.txt)\" --identity otaco/")]
    Fetch(Fetch),
    /// Verify a list and its head; nothing needs to run
    #[command(after_help = "Example:
  chancery deny-list verify deny-list.jsonl --log-key \"$(cat log-key.txt)\"")]
    Verify(Verify),
    /// Say whether a device is on a list that verifies and speaks for now; nothing needs to run.
    ///
    /// Exit code 0: it is not on it. 1: it is, or the list cannot be believed.
    #[command(after_help = "Example:
  chancery deny-list check 89049032123451234512345678901235 --list deny-list.jsonl --log-key \"$(cat log-key.txt)\"")]
    Check(Check),
}

/// Arguments of `deny-list fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// File for the list; its head goes to FILE.note. When both are there only what changed is fetched
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The authority's log key (from the ceremony's transcript)
    #[arg(long, value_name = "VKEY", value_parser = parse_log_key)]
    log_key: LogKey,
    /// Fetch the whole list, whatever is there
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `deny-list verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The list; its head is in FILE.note
    #[arg(value_name = "FILE")]
    list: PathBuf,
    /// The authority's log key (from the ceremony's transcript)
    #[arg(long, value_name = "VKEY", value_parser = parse_log_key)]
    log_key: LogKey,
    /// The time in question, RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
}

/// Arguments of `deny-list check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The device
    eid: Eid,
    /// The list; its head is in FILE.note
    #[arg(long, value_name = "FILE")]
    list: PathBuf,
    /// The authority's log key (from the ceremony's transcript)
    #[arg(long, value_name = "VKEY", value_parser = parse_log_key)]
    log_key: LogKey,
    /// The time in question, RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
}

impl DenyListCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Fetch(fetch) => fetch.run(output).await.map(|()| ExitCode::SUCCESS),
            Self::Verify(verify) => verify.run(output).map(|()| ExitCode::SUCCESS),
            Self::Check(check) => check.run(output),
        }
    }
}

#[derive(Serialize)]
struct Shown {
    version: u64,
    devices: u64,
    changed: u64,
    this_update: String,
    next_update: String,
    file: PathBuf,
}

impl Shown {
    fn of(head: &DenyListHead, file: &Path) -> Self {
        Self {
            version: head.version,
            devices: head.devices,
            changed: head.lines,
            this_update: head.this_update.clone(),
            next_update: head.next_update.clone(),
            file: file.to_owned(),
        }
    }

    fn print(&self, output: Output) -> Result<(), CliError> {
        output.print(self, |shown| {
            fields([
                ("version", shown.version.to_string()),
                ("denied devices", shown.devices.to_string()),
                ("lines received", shown.changed.to_string()),
                ("made", shown.this_update.clone()),
                ("speaks until", shown.next_update.clone()),
                ("file", shown.file.display().to_string()),
            ])
        })
    }
}

impl Fetch {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        // What is there is believed only as far as its head is signed; else the whole list is fetched.
        let before = if self.whole { None } else { read(&self.out, &self.log_key).ok() };
        let since = before.as_ref().map_or(0, |(head, _)| head.version);
        let connection = self.remote.connect(output).await?;
        let (lines, note) = receive(&connection, output, since).await?;
        let list = before.as_ref().map(|(_, list)| list);
        let (head, denials) = verify_deny_list(&note, &lines, list, &self.log_key).map_err(|error| {
            CliError::Answer(format!("{error}; if it goes on, fetch the whole list with --whole"))
        })?;
        if head.since_version != since || head.version < since {
            return Err(CliError::Answer("the service answered with another version".to_owned()));
        }
        // The head of a difference names the digest of the whole list too, so it is the head of the file.
        files::replace(&self.out, &deny_list_lines(&denials), Readers::Owner)?;
        files::replace(&note_path(&self.out), &note, Readers::Owner)?;
        Shown::of(&head, &self.out).print(output)
    }
}

fn note_path(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(".note");
    PathBuf::from(name)
}

/// The list in a file, as its head says.
fn read(list: &Path, key: &LogKey) -> Result<(DenyListHead, Denials), CliError> {
    let note = files::read(&note_path(list))?;
    let lines = std::fs::read(list).map_err(CliError::file("read", list))?;
    verify_whole_list(&note, &lines, key).map_err(|error| {
        CliError::invalid(format!("{}: {error}", list.display()), "fetch it again, or name the right log key")
    })
}

/// The pieces of a stream, whole.
async fn receive(
    connection: &Connection,
    output: Output,
    since_version: u64,
) -> Result<(Vec<u8>, Vec<u8>), CliError> {
    let message = FetchDenyListRequest { since_version };
    let mut answers = connection
        .call(output, None, || {
            let request = connection.request(message);
            let mut client = DeviceServiceClient::new(connection.channel());
            async move { client.fetch_deny_list(request).await }
        })
        .await?;
    let mut lines = Vec::new();
    loop {
        let next = tokio::time::timeout(connection.timeout(), answers.message());
        let ended = |why: &str| CliError::from(tonic::Status::unavailable(why));
        match next.await.map_err(|_| ended("the service fell silent"))? {
            Err(status) => return Err(status.into()),
            Ok(None) => return Err(ended("the stream ended before its head")),
            Ok(Some(answer)) => match answer.part {
                Some(Part::Lines(piece)) if lines.len() + piece.len() <= LIST_BYTES_MAX => {
                    lines.extend(piece)
                }
                Some(Part::Note(note)) => return Ok((lines, note)),
                _ => return Err(CliError::Answer("a piece that is too much, or without content".to_owned())),
            },
        }
    }
}

impl Verify {
    fn run(&self, output: Output) -> Result<(), CliError> {
        let (head, _) = read(&self.list, &self.log_key)?;
        speaks(&head, self.at)?;
        Shown::of(&head, &self.list).print(output)
    }
}

#[derive(Serialize)]
struct Verdict {
    eid: String,
    denied: bool,
    reason: Option<String>,
    since: Option<String>,
    version: u64,
}

impl Check {
    fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let (head, list) = read(&self.list, &self.log_key)?;
        speaks(&head, self.at)?;
        let denial = list.get(&self.eid);
        let verdict = Verdict {
            eid: self.eid.to_string(),
            denied: denial.is_some(),
            reason: denial.map(|denial| denial.reason.as_str().to_owned()),
            since: denial.map(|denial| denial.since.to_string()),
            version: head.version,
        };
        output.print(&verdict, |verdict| match (&verdict.reason, &verdict.since) {
            (Some(reason), Some(since)) => format!("DENIED: {reason}, since {since}"),
            _ => format!("not denied by version {}", verdict.version),
        })?;
        Ok(if verdict.denied { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// A list that speaks no more says nothing: an attacker who keeps the next one away must not win.
fn speaks(head: &DenyListHead, at: Option<Timestamp>) -> Result<(), CliError> {
    if head.speaks_at(at.unwrap_or_else(|| SystemClock::new().now())) {
        return Ok(());
    }
    Err(CliError::invalid(
        format!("the list speaks from {} to {}, not for this time", head.this_update, head.next_update),
        "fetch it again: chancery deny-list fetch",
    ))
}
