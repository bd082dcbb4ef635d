//! A certificate judged by the service: the chain rules up to its issuers, and its register.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use domain::Timestamp;
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::{VerifyCertificateRequest, VerifyCertificateResponse};
use serde::Serialize;

use super::reading;
use super::verify::{parse_time, roles};
use crate::clock;
use crate::connect::RemoteArgs;
use crate::error::CliError;
use crate::output::{Output, printable, table};

/// Arguments of `certificate ask`.
#[derive(Debug, Args)]
pub struct Ask {
    /// The certificate, PEM or DER
    file: PathBuf,
    /// The manufacturer's certificate between an eUICC and the CI; may be repeated, a PEM file may hold several
    #[arg(long, value_name = "FILE")]
    chain: Vec<PathBuf>,
    /// The role it must hold; the one of its policy when absent
    #[arg(long, value_parser = roles())]
    role: Option<pki::CertificateRole>,
    /// dpauth and dppb: the other of the two, which must be valid too and of the same entity
    #[arg(long, value_name = "FILE")]
    pair: Option<PathBuf>,
    /// The time in question, RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Answer {
    verified: bool,
    role: String,
    /// Leaf first.
    chain: Vec<Link>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Link {
    serial_number: String,
    sha256: String,
    standing: String,
}

#[derive(Serialize)]
struct Finding {
    finding: String,
    problem: String,
    depth: u32,
}

impl Ask {
    /// Runs it. Exit code 0 when it holds, 1 with the reasons when not.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let der = |path: &PathBuf| reading::certificate(path).map(|certificate| certificate.der().to_vec());
        let message = VerifyCertificateRequest {
            certificate: der(&self.file)?,
            intermediates: reading::certificates(&self.chain)?.iter().map(|c| c.der().to_vec()).collect(),
            role: self.role.map(|role| role.as_str().to_owned()).unwrap_or_default(),
            pair: self.pair.as_ref().map(der).transpose()?.unwrap_or_default(),
            at: self.at.map(clock::to_wire),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = CertificateServiceClient::new(connection.channel());
                async move { client.verify_certificate(request).await }
            })
            .await?;
        let answer = Answer::from(&answer);
        output.print(&answer, human)?;
        Ok(if answer.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl From<&VerifyCertificateResponse> for Answer {
    fn from(answer: &VerifyCertificateResponse) -> Self {
        Self {
            // Believed only with nothing against it.
            verified: answer.verified && answer.findings.is_empty() && !answer.chain.is_empty(),
            role: printable(&answer.role),
            chain: answer
                .chain
                .iter()
                .map(|link| Link {
                    serial_number: hex::encode(&link.serial_number),
                    sha256: hex::encode(&link.digest),
                    standing: printable(&link.standing),
                })
                .collect(),
            findings: answer
                .findings
                .iter()
                .map(|finding| Finding {
                    finding: printable(&finding.finding),
                    problem: printable(&finding.problem),
                    depth: finding.depth,
                })
                .collect(),
        }
    }
}

fn human(answer: &Answer) -> String {
    let mut text = format!(
        "{}{}\n",
        if answer.verified { "VERIFIED" } else { "REFUSED" },
        if answer.role.is_empty() { String::new() } else { format!(" as {}", answer.role) }
    );
    if !answer.chain.is_empty() {
        let rows = answer
            .chain
            .iter()
            .enumerate()
            .map(|(depth, link)| [depth.to_string(), link.serial_number.clone(), link.standing.clone()]);
        text.push_str(&table(["depth", "serial number", "register"], rows));
        text.push('\n');
    }
    for finding in &answer.findings {
        text.push_str(&format!("certificate {}: {} ({})\n", finding.depth, finding.problem, finding.finding));
    }
    text
}
