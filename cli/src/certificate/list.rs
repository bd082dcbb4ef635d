//! The register's certificates, by holder, device or key, or all of them.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use domain::Eid;
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::list_certificates_request::By;
use proto::v1::{CertificateSummary, ListCertificatesRequest};
use serde::Serialize;

use crate::clock;
use crate::connect::{Connection, RemoteArgs};
use crate::error::CliError;
use crate::identity::{self, parse_name};
use crate::output::{Output, printable, table};

/// Arguments of `certificate list`.
#[derive(Debug, Args)]
pub struct List {
    /// Whose: a party or a person
    #[arg(long, value_parser = parse_name, conflicts_with_all = ["eid", "key"])]
    holder: Option<String>,
    /// Of which device
    #[arg(long, conflicts_with = "key")]
    eid: Option<Eid>,
    /// Of which public key (SubjectPublicKeyInfo, PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// By which issuer
    #[arg(long, value_parser = parse_name)]
    issuer: Option<String>,
    /// Of which profile: eum, euicc, dpauth, dppb, dptls, ...
    #[arg(long, value_parser = parse_name)]
    profile: Option<String>,
    /// In which state
    #[arg(long)]
    state: Option<State>,
    /// How many at most
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// States of issued certificates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum State {
    /// In force or expired
    Issued,
    /// Revoked
    Revoked,
}

impl State {
    /// As the register names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Revoked => "revoked",
        }
    }
}

#[derive(Serialize)]
struct Listed {
    certificates: Vec<Shown>,
    /// There are more than were asked for.
    more: bool,
}

#[derive(Serialize)]
struct Shown {
    serial_number: String,
    profile: String,
    holder: String,
    issuer: String,
    state: String,
    not_before: String,
    not_after: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    revocation_reason: String,
}

impl From<&CertificateSummary> for Shown {
    fn from(summary: &CertificateSummary) -> Self {
        Self {
            serial_number: hex::encode(&summary.serial_number),
            profile: printable(&summary.profile),
            holder: printable(&summary.holder),
            issuer: printable(&summary.issuer),
            state: printable(&summary.state),
            not_before: printable(&summary.not_before),
            not_after: printable(&summary.not_after),
            revoked: summary.revoked.as_ref().map(|at| clock::from_wire(at).to_string()),
            revocation_reason: printable(&summary.revocation_reason),
        }
    }
}

impl List {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let by = match (&self.holder, &self.eid, &self.key) {
            (Some(holder), _, _) => Some(By::Holder(holder.clone())),
            (_, Some(eid), _) => Some(By::Eid(eid.to_string())),
            (_, _, Some(path)) => Some(By::PublicKey(identity::read_public_key(path)?)),
            (None, None, None) => None,
        };
        let state = self.state.map_or("", State::as_str);
        let message = ListCertificatesRequest {
            by,
            issuer: self.issuer.clone().unwrap_or_default(),
            profile: self.profile.clone().unwrap_or_default(),
            state: state.to_owned(),
            after: Vec::new(),
            limit: 0,
        };
        let connection = self.remote.connect(output).await?;
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let (certificates, more) = certificates(&connection, output, message, limit).await?;
        let listed = Listed { certificates: certificates.iter().map(Shown::from).collect(), more };
        output.print(&listed, human)
    }
}

/// The certificates that a request asks for, page by page, at most `limit`; and whether there are more.
pub async fn certificates(
    connection: &Connection,
    output: Output,
    mut message: ListCertificatesRequest,
    limit: usize,
) -> Result<(Vec<CertificateSummary>, bool), CliError> {
    let mut all = Vec::new();
    let mut progress = output.progress("certificates", 0);
    loop {
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = CertificateServiceClient::new(connection.channel());
                async move { client.list_certificates(request).await }
            })
            .await?;
        let room = limit - all.len();
        let more = answer.certificates.len() > room || !answer.next.is_empty();
        all.extend(answer.certificates.into_iter().take(room));
        progress.set(all.len() as u64, 0, String::new());
        if answer.next.is_empty() || all.len() == limit {
            return Ok((all, more));
        }
        if answer.next <= message.after {
            return Err(CliError::Answer("the pages do not go on".to_owned()));
        }
        message.after = answer.next;
    }
}

fn human(listed: &Listed) -> String {
    let header = ["serial number", "profile", "holder", "issuer", "state", "not after"];
    let rows = listed.certificates.iter().map(|shown| {
        let state = match &shown.revoked {
            Some(at) => format!("{} {at}, {}", shown.state, shown.revocation_reason),
            None => shown.state.clone(),
        };
        let shown =
            [&shown.serial_number, &shown.profile, &shown.holder, &shown.issuer, &state, &shown.not_after];
        shown.map(Clone::clone)
    });
    let mut text = table(header, rows);
    if listed.more {
        text.push_str("\nthere are more: raise --limit\n");
    }
    text
}
