//! Many certificates revoked, or held, at once: what is affected is shown before anything is asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use domain::Timestamp;
use pki::CivilTime;
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::list_certificates_request::By;
use proto::v1::operation::Kind;
use proto::v1::{
    CertificateSummary, CertificateToRevoke, HoldCertificateRequest, ListCertificatesRequest,
    RevokeCertificates,
};
use serde::Serialize;

use super::list::{State, certificates};
use super::verify::parse_time;
use super::{RevocationReason, parse_serial};
use crate::clock::to_wire;
use crate::connect::{Connection, random_key};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::parse_name;
use crate::operation::{self, SendArgs};
use crate::output::{Output, printable, table};

/// Certificates of one operation.
const CERTIFICATES_MAX: usize = 500;
/// Certificates of the register that are looked at.
const LOOKED_AT_MAX: usize = 1_000_000;

/// Arguments of `certificate revoke-many`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["holder", "issuer", "profile", "serials"])))]
#[command(group(ArgGroup::new("deed").required(true).args(["reason", "hold"])))]
pub struct RevokeMany {
    /// Those of this party
    #[arg(long, value_parser = parse_name)]
    holder: Option<String>,
    /// Those of this issuer
    #[arg(long, value_parser = parse_name)]
    issuer: Option<String>,
    /// Those of this profile: eum, dpauth, dppb, dptls, ...
    #[arg(long, value_parser = parse_name)]
    profile: Option<String>,
    /// Those whose validity began before this time, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    issued_before: Option<Timestamp>,
    /// Those of this file, one serial number in hex on each line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["holder", "issuer", "profile", "issued_before"])]
    serials: Option<PathBuf>,
    /// Why, as the revocation lists will say it: revoked for good, once another person has approved
    #[arg(long)]
    reason: Option<RevocationReason>,
    /// Hold them instead, alone and at once, with the report or case; at most 100 certificates are held at a time
    #[arg(long, value_name = "REFERENCE")]
    hold: Option<String>,
    /// Since when their keys are, or may be, in other hands: 2026-11-20T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time, requires = "reason")]
    invalid_since: Option<Timestamp>,
    /// Why, for the approver to read; the reason again when absent
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
    /// Write what is affected to a file (JSON) too
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Show what is affected and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    send: SendArgs,
}

#[derive(Serialize)]
struct Plan {
    certificates: Vec<Affected>,
    /// Parties by how many of their certificates are affected, and how many of those have no replacement.
    parties: BTreeMap<String, Counts>,
}

#[derive(Serialize, Default)]
struct Counts {
    certificates: usize,
    without_replacement: usize,
}

#[derive(Serialize)]
struct Affected {
    serial_number: String,
    profile: String,
    holder: String,
    issuer: String,
    not_before: String,
    not_after: String,
    /// Serial number of a certificate of the same holder and profile that stays in force.
    replacement: Option<String>,
}

impl RevokeMany {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.send.remote.connect(output).await?;
        let chosen = self.chosen(&connection, output).await?;
        if chosen.is_empty() {
            return Err(CliError::invalid(
                "no certificate in force is chosen so",
                "look: chancery certificate list",
            ));
        }
        if chosen.len() > CERTIFICATES_MAX {
            return Err(CliError::invalid(
                format!("{} certificates are chosen; one operation revokes {CERTIFICATES_MAX}", chosen.len()),
                "choose fewer: --profile, --holder, --issued-before, or --serials with a part of them",
            ));
        }
        let plan = plan(&connection, output, &chosen).await?;
        if let Some(path) = &self.plan {
            let json = serde_json::to_vec_pretty(&plan)
                .map_err(|error| CliError::Local(format!("the plan cannot be written: {error}")))?;
            files::write_new(path, &json, Readers::Owner)?;
        }
        if self.dry_run {
            return output.print(&plan, human);
        }
        output.explain(&human(&plan))?;
        match (&self.hold, self.reason) {
            (Some(reference), _) => self.hold(&connection, output, &plan, reference).await,
            (None, Some(reason)) => self.request(output, &plan, reason).await,
            (None, None) => Err(CliError::Local("neither --reason nor --hold".to_owned())),
        }
    }

    /// The certificates in force that the arguments choose, in the order of serial numbers.
    async fn chosen(
        &self,
        connection: &Connection,
        output: Output,
    ) -> Result<Vec<CertificateSummary>, CliError> {
        let message = ListCertificatesRequest {
            by: self.holder.clone().map(By::Holder),
            issuer: self.issuer.clone().unwrap_or_default(),
            profile: self.profile.clone().unwrap_or_default(),
            state: State::Issued.as_str().to_owned(),
            ..ListCertificatesRequest::default()
        };
        let (mut all, more) = certificates(connection, output, message, LOOKED_AT_MAX).await?;
        if more {
            return Err(CliError::invalid(
                "the register holds more certificates than are looked at",
                "choose by --holder",
            ));
        }
        if let Some(path) = &self.serials {
            let wanted = read_serials(path)?;
            all.retain(|summary| wanted.contains(&summary.serial_number));
            if let Some(missing) =
                wanted.iter().find(|serial| all.iter().all(|found| found.serial_number != **serial))
            {
                return Err(CliError::invalid(
                    format!("{} is no certificate in force", hex::encode(missing)),
                    "take it out of the file",
                ));
            }
        }
        if let Some(before) = self.issued_before {
            let before = CivilTime::from_timestamp(before)
                .map_err(|error| CliError::invalid(error.to_string(), "give another --issued-before"))?
                .to_string();
            all.retain(|summary| summary.not_before < before);
        }
        all.sort_by(|a, b| (&a.serial_number, &a.issuer).cmp(&(&b.serial_number, &b.issuer)));
        Ok(all)
    }

    async fn request(&self, output: Output, plan: &Plan, reason: RevocationReason) -> Result<(), CliError> {
        let bytes = |hex: &str| {
            hex::decode(hex).map_err(|_| CliError::Answer("a serial number that is none".to_owned()))
        };
        let certificates = plan
            .certificates
            .iter()
            .map(|affected| {
                Ok(CertificateToRevoke {
                    serial_number: bytes(&affected.serial_number)?,
                    holder: affected.holder.clone(),
                    profile: affected.profile.clone(),
                    replacement: affected.replacement.as_deref().map(bytes).transpose()?.unwrap_or_default(),
                    issuer: affected.issuer.clone(),
                })
            })
            .collect::<Result<Vec<_>, CliError>>()?;
        let kind = Kind::RevokeCertificates(RevokeCertificates {
            certificates,
            reason: reason.as_str().to_owned(),
            invalid_since: self.invalid_since.map(to_wire),
        });
        let because = self.because.clone().unwrap_or_else(|| format!("revocation: {}", reason.as_str()));
        operation::request_because(kind, &because, &self.send, output).await
    }

    /// One by one: each hold is a deed of its own, and what was held stays so when one is refused.
    async fn hold(
        &self,
        connection: &Connection,
        output: Output,
        plan: &Plan,
        reference: &str,
    ) -> Result<(), CliError> {
        let mut progress = output.progress("certificates held", plan.certificates.len() as u64);
        let mut held = Vec::new();
        for affected in &plan.certificates {
            let message = HoldCertificateRequest {
                idempotency_key: random_key()?,
                serial_number: hex::decode(&affected.serial_number)
                    .map_err(|_| CliError::Answer("a serial number that is none".to_owned()))?,
                reference: reference.to_owned(),
                issuer: affected.issuer.clone(),
            };
            let answer = connection
                .call(output, Some(&message.idempotency_key), || {
                    let request = connection.request(message.clone());
                    let mut client = CertificateServiceClient::new(connection.channel());
                    async move { client.hold_certificate(request).await }
                })
                .await?;
            held.push(serde_json::json!({
                "serial_number": affected.serial_number, "entry_index": answer.entry_index,
            }));
            progress.advance(1);
        }
        drop(progress);
        let count = held.len();
        output.print(&held, |_| {
            format!("{count} certificates are held; two persons release or revoke each (certificate release, revoke)")
        })
    }
}

/// What the chosen certificates are, whose, and what stays in force in their place.
async fn plan(
    connection: &Connection,
    output: Output,
    chosen: &[CertificateSummary],
) -> Result<Plan, CliError> {
    let mut plan = Plan { certificates: Vec::with_capacity(chosen.len()), parties: BTreeMap::new() };
    let mut of_holder: BTreeMap<&str, Vec<CertificateSummary>> = BTreeMap::new();
    for summary in chosen {
        if !of_holder.contains_key(summary.holder.as_str()) {
            let message = ListCertificatesRequest {
                by: Some(By::Holder(summary.holder.clone())),
                state: State::Issued.as_str().to_owned(),
                ..ListCertificatesRequest::default()
            };
            let (all, _) = certificates(connection, output, message, LOOKED_AT_MAX).await?;
            of_holder.insert(&summary.holder, all);
        }
        let replacement = of_holder[summary.holder.as_str()]
            .iter()
            .filter(|other| other.profile == summary.profile)
            .filter(|other| chosen.iter().all(|one| one.serial_number != other.serial_number))
            .max_by(|a, b| a.not_after.cmp(&b.not_after))
            .map(|other| hex::encode(&other.serial_number));
        let counts = plan.parties.entry(printable(&summary.holder)).or_default();
        counts.certificates += 1;
        counts.without_replacement += usize::from(replacement.is_none());
        plan.certificates.push(Affected {
            serial_number: hex::encode(&summary.serial_number),
            profile: printable(&summary.profile),
            holder: printable(&summary.holder),
            issuer: printable(&summary.issuer),
            not_before: printable(&summary.not_before),
            not_after: printable(&summary.not_after),
            replacement,
        });
    }
    Ok(plan)
}

fn read_serials(path: &std::path::Path) -> Result<Vec<Vec<u8>>, CliError> {
    let text = String::from_utf8_lossy(&files::read(path)?).into_owned();
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_serial(line).map(|serial| serial.0).map_err(|why| {
                CliError::invalid(
                    format!("{}: {line}: {why}", path.display()),
                    "one serial number in hex on each line",
                )
            })
        })
        .collect()
}

fn human(plan: &Plan) -> String {
    let header = ["serial number", "profile", "holder", "issuer", "not after", "stays in force"];
    let rows = plan.certificates.iter().map(|affected| {
        [
            affected.serial_number.clone(),
            affected.profile.clone(),
            affected.holder.clone(),
            affected.issuer.clone(),
            affected.not_after.clone(),
            affected.replacement.clone().unwrap_or_else(|| "NOTHING".to_owned()),
        ]
    });
    let parties = plan.parties.iter().map(|(party, counts)| {
        [party.clone(), counts.certificates.to_string(), counts.without_replacement.to_string()]
    });
    format!("{}\n{}", table(header, rows), table(["party", "certificates", "without replacement"], parties))
}
