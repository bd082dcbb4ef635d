//! Certificates that an issuer issued before it came here, taken into the register.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use proto::v1::AdoptCertificatesRequest;
use proto::v1::certificate_service_client::CertificateServiceClient;
use serde::Serialize;

use super::reading;
use crate::connect::{RemoteArgs, random_key};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::output::{Output, fields, printable, table};

/// Certificates of one call; what is refused in one is no matter of the others.
const CERTIFICATES_PER_CALL: usize = 200;
/// Refusals that are printed for people; JSON has all.
const SHOWN_MAX: usize = 50;

/// Arguments of `certificate adopt`.
#[derive(Debug, Args)]
pub struct Adopt {
    /// The issuer that issued them, registered with its certificate
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: String,
    /// Whose they are, where they are not of devices; the party that has the organisation of the subject when absent
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    party: Option<String>,
    /// Files, PEM with any number of certificates or DER with one, and folders of such files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize, Default)]
struct Outcome {
    taken: u64,
    /// Of those that are taken: what the issuer's list names.
    revoked: u64,
    known: u64,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Refused {
    serial_number: String,
    reason: String,
    problem: String,
}

impl Adopt {
    /// Runs it. Exit code 1 when one was refused; the others are taken all the same. Again is no harm: what is there is known.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let files = self.files()?;
        let connection = self.remote.connect(output).await?;
        let mut outcome = Outcome::default();
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        let mut progress = output.progress("files", files.len() as u64);
        for (at, file) in files.iter().enumerate() {
            let read = reading::certificates(std::slice::from_ref(file))?;
            waiting.extend(read.iter().map(|certificate| certificate.der().to_vec()));
            let is_last = at + 1 == files.len();
            while waiting.len() >= CERTIFICATES_PER_CALL || (is_last && !waiting.is_empty()) {
                let rest = waiting.split_off(waiting.len().min(CERTIFICATES_PER_CALL));
                let message = AdoptCertificatesRequest {
                    idempotency_key: random_key()?,
                    issuer: self.issuer.clone(),
                    certificates: std::mem::replace(&mut waiting, rest),
                    party: self.party.clone().unwrap_or_default(),
                };
                let answer = connection
                    .call(output, Some(&message.idempotency_key), || {
                        let request = connection.request(message.clone());
                        let mut client = CertificateServiceClient::new(connection.channel());
                        async move { client.adopt_certificates(request).await }
                    })
                    .await?;
                for result in answer.results {
                    match result.result.as_str() {
                        "taken" => {
                            outcome.taken += 1;
                            outcome.revoked += u64::from(result.state == "revoked");
                        }
                        "known" => outcome.known += 1,
                        _ => outcome.refused.push(Refused {
                            serial_number: hex::encode(&result.serial_number),
                            reason: printable(&result.reason),
                            problem: printable(&result.problem),
                        }),
                    }
                }
            }
            progress.advance(1);
        }
        drop(progress);
        output.print(&outcome, human)?;
        Ok(if outcome.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The files, those of a folder in the order of their names.
    fn files(&self) -> Result<Vec<PathBuf>, CliError> {
        let mut files = Vec::new();
        for path in &self.paths {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            let mut of_folder = fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
                .map_err(CliError::file("read", path))?;
            of_folder.retain(|file| file.is_file());
            of_folder.sort();
            files.extend(of_folder);
        }
        Ok(files)
    }
}

fn human(outcome: &Outcome) -> String {
    let mut text = fields([
        ("taken", outcome.taken.to_string()),
        ("of them revoked", outcome.revoked.to_string()),
        ("there already", outcome.known.to_string()),
        ("refused", outcome.refused.len().to_string()),
    ]);
    if !outcome.refused.is_empty() {
        let rows =
            outcome.refused.iter().take(SHOWN_MAX).map(|refused| {
                [refused.serial_number.clone(), refused.reason.clone(), refused.problem.clone()]
            });
        text.push('\n');
        text.push_str(&table(["serial number", "reason", "message"], rows));
        if outcome.refused.len() > SHOWN_MAX {
            text.push_str("\nand more: --output json shows all");
        }
    }
    text
}
