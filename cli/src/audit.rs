//! The log, for those who judge: exported, and verified offline.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use proto::v1::audit_service_client::AuditServiceClient;
use proto::v1::{ExportLogRequest, GetCheckpointRequest};
use serde::Serialize;
use tonic::transport::Channel;

use crate::audit_export::Arrival;
use crate::audit_verify::Verify;
use crate::connect::{ANSWER_MAX_BYTES, Connection, RemoteArgs};
use crate::error::{CliError, Refused};
use crate::files;
use crate::output::{Output, Progress, printable};

/// `chancery audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Export the log into a folder, to be verified offline.
    ///
    /// Prints the checkpoint as a receipt: keep it, and hand it in as --previous next time; only a checkpoint from
    /// elsewhere shows that an export was not cut short.
    #[command(after_help = "Examples:
  chancery audit export --out export-2026-11/ --identity carol/
  chancery audit export --out export-2026-12/ --previous export-2026-11/checkpoint --identity carol/")]
    Export(Export),
    /// Print the newest signed checkpoint.
    #[command(after_help = "Example:
  chancery audit checkpoint --identity carol/ > checkpoint-2026-11-24")]
    Checkpoint(Checkpoint),
    /// Verify an export offline: nothing needs to run, nobody needs to be trusted.
    ///
    /// Exit code 0 when everything holds; 1 with the file and index of each finding when not.
    #[command(after_help = "Examples:
  chancery audit verify export-2026-11/
  chancery audit verify export-2026-12/ --log-key 'demo/node-1/2026+1a2b3c4d+AW...' --checkpoint receipt-2026-11 \\
      --transcript transcript.txt")]
    Verify(Verify),
}

/// Arguments of `audit export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Checkpoint of the last export: the new one is proved to continue it
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `audit checkpoint`.
#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    remote: RemoteArgs,
}

impl AuditCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Export(export) => export.run(output).await.map(|()| ExitCode::SUCCESS),
            Self::Checkpoint(checkpoint) => checkpoint.run(output).await.map(|()| ExitCode::SUCCESS),
            Self::Verify(verify) => verify.run(output),
        }
    }
}

#[derive(Serialize)]
struct Exported {
    folder: PathBuf,
    files: usize,
    checkpoint: String,
}

impl Export {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let previous_checkpoint = match &self.previous {
            Some(path) => files::read_text(path)?,
            None => String::new(),
        };
        let mut arrival = Arrival::begin(&self.out)?;
        let connection = self.remote.connect(output).await?;
        let mut progress = output.progress("exporting the log: files", 0);
        let request = ExportLogRequest { previous_checkpoint };
        let received = receive(&connection, request, &mut arrival, &mut progress).await;
        progress.finish(if received.is_ok() { "complete" } else { "stopped" });
        received?;
        let files = arrival.finish()?;
        let checkpoint = files::read_text(&self.out.join("checkpoint"))?;
        let exported = Exported { folder: self.out.clone(), files, checkpoint };
        output.print(&exported, |exported| {
            format!(
                "{} files in {}\nreceipt; keep it apart from the export:\n\n{}\nnext: chancery audit verify {}",
                exported.files,
                exported.folder.display(),
                printable_note(&exported.checkpoint),
                exported.folder.display(),
            )
        })
    }
}

/// Not opened again when it breaks off: every export is an entry of the log.
async fn receive(
    connection: &Connection,
    request: ExportLogRequest,
    arrival: &mut Arrival,
    progress: &mut Progress,
) -> Result<(), CliError> {
    let silence =
        |_| CliError::Refused(Box::new(Refused::from(tonic::Status::unavailable("the service fell silent"))));
    let mut client = client(connection);
    let mut pieces = tokio::time::timeout(connection.timeout(), client.export_log(request))
        .await
        .map_err(silence)??
        .into_inner();
    while let Some(piece) =
        tokio::time::timeout(connection.timeout(), pieces.message()).await.map_err(silence)??
    {
        if arrival.take(&piece)? {
            progress.advance(1);
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct CheckpointAnswer {
    checkpoint: String,
}

impl Checkpoint {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(GetCheckpointRequest {});
                let mut client = client(&connection);
                async move { client.get_checkpoint(request).await }
            })
            .await?;
        let answer = CheckpointAnswer { checkpoint: answer.checkpoint };
        output.print(&answer, |answer| printable_note(&answer.checkpoint))
    }
}

/// A signed note with its lines kept and everything else in them made safe.
fn printable_note(note: &str) -> String {
    note.lines().map(|line| printable(line) + "\n").collect()
}

fn client(connection: &Connection) -> AuditServiceClient<Channel> {
    AuditServiceClient::new(connection.channel()).max_decoding_message_size(ANSWER_MAX_BYTES)
}
