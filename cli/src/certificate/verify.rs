//! A certificate judged offline by the GSMA's chain rules: nothing is asked of a service or a network.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use domain::{Clock, Timestamp};
use pki::chain::{ChainRefusal, VerifiedChain, check_same_entity, gsma_role, verify_chain};
use pki::crl::Crl;
use pki::revocation::{self, RevocationRefusal, Standing};
use pki::{Certificate, CertificateRole, CivilTime};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::reading;
use crate::clock::SystemClock;
use crate::error::CliError;
use crate::output::{Output, fields, printable, table};

/// Arguments of `certificate verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The certificate, PEM or DER
    file: PathBuf,
    /// The trusted certificate issuer (CI); may be repeated, a PEM file may hold several
    #[arg(long, value_name = "FILE", required = true)]
    ci: Vec<PathBuf>,
    /// The manufacturer's certificate between an eUICC and the CI; may be repeated, a PEM file may hold several
    #[arg(long, value_name = "FILE")]
    chain: Vec<PathBuf>,
    /// A revocation list of an authority of the chain; with one, revocation must be known for each certificate that names lists
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// What a server staples to it (SGP.22 v3): the authorities above it and a list of each, PKCS#7; taken as --chain and --crl are
    #[arg(long, value_name = "FILE")]
    staple: Vec<PathBuf>,
    /// The role it must hold; the one of its policy when absent
    #[arg(long, value_parser = roles())]
    role: Option<CertificateRole>,
    /// dpauth and dppb: the other of the two, which must be valid too and of the same entity
    #[arg(long, value_name = "FILE")]
    pair: Option<PathBuf>,
    /// The time in question, RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
}

/// The roles of certificates that others ask about. For clap.
pub fn roles() -> impl TypedValueParser<Value = CertificateRole> {
    let asked = CertificateRole::ALL.into_iter().filter(|role| {
        !matches!(
            role,
            CertificateRole::OperatorRoot
                | CertificateRole::OperatorClient
                | CertificateRole::OperatorServer
                | CertificateRole::CrossCertificate
        )
    });
    PossibleValuesParser::new(asked.map(CertificateRole::as_str)).try_map(|name| name.parse())
}

/// Reads an RFC 3339 time. For clap.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|at| Timestamp::from_seconds(at.unix_timestamp()))
        .map_err(|_| "give an RFC 3339 time such as 2026-11-24T12:00:00Z".to_owned())
}

/// The time in question, now when absent, as certificates hold it.
pub fn civil(at: Option<Timestamp>) -> Result<CivilTime, CliError> {
    CivilTime::from_timestamp(at.unwrap_or_else(|| SystemClock::new().now()))
        .map_err(|error| CliError::invalid(error.to_string(), "give another --at"))
}

/// The outcome; the members are those of docs/formats/certificate-verdict.md.
#[derive(Debug, Serialize)]
struct Verdict {
    verified: bool,
    file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    at: String,
    /// Leaf first; empty when the chain is refused.
    chain: Vec<Link>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Link {
    common_name: String,
    serial_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    eid: Option<String>,
    not_before: String,
    not_after: String,
    sha256: String,
    revocation: &'static str,
}

/// One reason for a refusal.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its stable name.
    pub finding: &'static str,
    /// In words.
    pub problem: String,
    /// The file that was judged, or the list that was.
    pub file: PathBuf,
    /// The certificate's place in the chain, 0 the file's own; absent where no certificate is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
}

impl Verify {
    /// Runs it. Exit code 0 when it holds, 1 with the reasons when not.
    pub fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let verdict = self.judge()?;
        output.print(&verdict, human)?;
        Ok(if verdict.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn judge(&self) -> Result<Verdict, CliError> {
        let at = civil(self.at)?;
        let mut judge = Judge {
            roots: reading::certificates(&self.ci)?,
            intermediates: reading::certificates(&self.chain)?,
            lists: self.crl.iter().map(|path| reading::revocation_list(path)).collect::<Result<_, _>>()?,
            list_files: self.crl.clone(),
            at,
        };
        for path in &self.staple {
            let staple = reading::staple(path)?;
            judge.intermediates.extend(staple.certificates);
            judge.list_files.extend(staple.lists.iter().map(|_| path.clone()));
            judge.lists.extend(staple.lists);
        }
        let mut verdict = Verdict {
            verified: false,
            file: self.file.clone(),
            role: None,
            at: at.to_string(),
            chain: Vec::new(),
            findings: Vec::new(),
        };
        let mut judged = judge.file(&self.file, self.role, &mut verdict.findings)?;
        if let Some(judged) = &mut judged {
            verdict.role = Some(judged.role.as_str());
            verdict.chain = std::mem::take(&mut judged.links);
        }
        if let Some(pair) = &self.pair {
            judge.pair(judged.as_ref(), pair, &mut verdict.findings)?;
        }
        verdict.verified = verdict.findings.is_empty();
        Ok(verdict)
    }
}

/// What certificates are judged by.
struct Judge {
    roots: Vec<Certificate>,
    intermediates: Vec<Certificate>,
    lists: Vec<Crl>,
    /// Where each list was read.
    list_files: Vec<PathBuf>,
    at: CivilTime,
}

/// A certificate whose role is known.
struct Judged {
    certificate: Certificate,
    role: CertificateRole,
    /// Absent when the chain is refused.
    chain: Option<VerifiedChain>,
    links: Vec<Link>,
}

impl Judge {
    /// Judges the certificate in a file; absent when it is none or its role is not known.
    fn file(
        &self,
        path: &PathBuf,
        role: Option<CertificateRole>,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Judged>, CliError> {
        let mut find = |finding, problem: String, depth| {
            findings.push(Finding { finding, problem, file: path.clone(), depth });
        };
        let certificate = match reading::parse(&crate::files::read(path)?) {
            Ok(certificate) => certificate,
            Err(why) => {
                find("malformed", why, Some(0));
                return Ok(None);
            }
        };
        let Some(role) = role.or_else(|| gsma_role(&certificate)) else {
            let problem =
                "it names the policy of no GSMA role, or of several: say with --role what it is for"
                    .to_owned();
            find("role-unknown", problem, Some(0));
            return Ok(None);
        };
        let mut judged = Judged { certificate, role, chain: None, links: Vec::new() };
        match verify_chain(&judged.certificate, &self.intermediates, &self.roots, role, Some(self.at)) {
            Ok(chain) => {
                judged.links = self.links(&chain, path, findings);
                judged.chain = Some(chain);
            }
            Err(refusal) => findings.push(chain_finding(&refusal, path.clone())),
        }
        Ok(Some(judged))
    }

    /// The chain as it is told, with what the lists say.
    fn links(&self, chain: &VerifiedChain, path: &PathBuf, findings: &mut Vec<Finding>) -> Vec<Link> {
        let root = chain.certificates().len() - 1;
        let standings: Vec<&'static str> = if self.lists.is_empty() {
            vec!["not-checked"; root + 1]
        } else {
            match revocation::check(chain, &self.lists, self.at) {
                Ok(standings) => standings.into_iter().map(Standing::as_str).collect(),
                Err(refusals) => {
                    findings.extend(refusals.iter().map(|refusal| self.list_finding(refusal, path)));
                    let is_revoked = |at: usize| {
                        let of = |refusal: &RevocationRefusal| matches!(refusal, RevocationRefusal::Revoked { depth, .. } if *depth == at);
                        refusals.iter().any(of)
                    };
                    let standing = |depth| match depth {
                        depth if is_revoked(depth) => "revoked",
                        depth if depth == root => Standing::Root.as_str(),
                        _ => "undecided",
                    };
                    (0..=root).map(standing).collect()
                }
            }
        };
        let link = |(depth, certificate): (usize, &Certificate)| Link {
            common_name: certificate.common_name().unwrap_or_default(),
            serial_number: certificate.serial().to_string(),
            eid: certificate.eid().map(|eid| eid.to_string()),
            not_before: certificate.not_before().to_string(),
            not_after: certificate.not_after().to_string(),
            sha256: hex::encode(certificate.digest()),
            revocation: standings.get(depth).copied().unwrap_or("undecided"),
        };
        chain.certificates().iter().enumerate().map(link).collect()
    }

    fn list_finding(&self, refusal: &RevocationRefusal, path: &PathBuf) -> Finding {
        let list_file = |list: usize| self.list_files.get(list).unwrap_or(path).clone();
        let (file, depth) = match refusal {
            RevocationRefusal::IssuerDiffers { list }
            | RevocationRefusal::IssuerKeyDiffers { list }
            | RevocationRefusal::SigningNotAllowed { list }
            | RevocationRefusal::BadSignature { list }
            | RevocationRefusal::NotYetValid { list, .. }
            | RevocationRefusal::Overdue { list, .. } => (list_file(*list), None),
            RevocationRefusal::Revoked { depth, .. } | RevocationRefusal::Unknown { depth } => {
                (path.clone(), Some(*depth))
            }
        };
        Finding { finding: refusal.finding(), problem: refusal.to_string(), file, depth }
    }

    /// Judges the partner of a DPauth or DPpb certificate, and both together.
    fn pair(
        &self,
        judged: Option<&Judged>,
        path: &PathBuf,
        findings: &mut Vec<Finding>,
    ) -> Result<(), CliError> {
        let partner_role = match judged.map(|judged| judged.role) {
            Some(CertificateRole::DpAuth) => CertificateRole::DpPb,
            Some(CertificateRole::DpPb) => CertificateRole::DpAuth,
            // Its role is not known, which is a finding already.
            None => return Ok(()),
            Some(role) => {
                return Err(CliError::invalid(
                    format!("a {role} certificate has no partner"),
                    "leave --pair out, or name a dpauth or dppb certificate",
                ));
            }
        };
        let partner = self.file(path, Some(partner_role), findings)?;
        if let (Some(one), Some(other)) = (judged, partner) {
            findings.extend(same_entity(&one.certificate, &other.certificate, path));
            findings.extend(same_root(one.chain.as_ref(), other.chain.as_ref(), path));
        }
        Ok(())
    }
}

/// SGP.22 §5.7.5: DPauth and DPpb are of one entity. The finding tells of the second one's file.
pub fn same_entity(one: &Certificate, other: &Certificate, file: &Path) -> Option<Finding> {
    check_same_entity(one, other)
        .err()
        .map(|refusal| Finding { depth: Some(0), ..chain_finding(&refusal, file.to_owned()) })
}

/// A card that trusts the one's certificate issuer must trust the other's. The finding tells of the second one's file.
fn same_root(one: Option<&VerifiedChain>, other: Option<&VerifiedChain>, file: &Path) -> Option<Finding> {
    let (one, other) = (one?, other?);
    // One CA key may have several certificates: the key is what cards know.
    (one.root().spki() != other.root().spki()).then(|| Finding {
        finding: "certificate-issuer-differs",
        problem: "its certificate issuer has another key than its partner's".to_owned(),
        file: file.to_owned(),
        depth: Some(0),
    })
}

/// A refused chain as a finding.
pub fn chain_finding(refusal: &ChainRefusal, file: PathBuf) -> Finding {
    let ChainRefusal { depth, reason } = refusal;
    Finding { finding: reason.finding(), problem: reason.to_string(), file, depth: Some(*depth) }
}

fn human(verdict: &Verdict) -> String {
    let role = verdict.role.unwrap_or("unknown");
    let mut text = fields([
        ("verdict", if verdict.verified { "verified" } else { "refused" }.to_owned()),
        ("file", verdict.file.display().to_string()),
        ("role", role.to_owned()),
        ("at", verdict.at.clone()),
    ]);
    if !verdict.chain.is_empty() {
        text.push('\n');
        text.push_str(&table(
            ["certificate", "serial number", "valid until", "revocation"],
            verdict.chain.iter().map(|link| {
                let name = link.eid.as_ref().map_or_else(|| printable(&link.common_name), Clone::clone);
                [name, link.serial_number.clone(), link.not_after.clone(), link.revocation.to_owned()]
            }),
        ));
        text.push('\n');
    }
    for finding in &verdict.findings {
        let place = finding.depth.map_or_else(String::new, |depth| format!(" certificate {depth}:"));
        text.push_str(&format!(
            "\n{}:{place} {} ({})",
            printable(&finding.file.display().to_string()),
            printable(&finding.problem),
            finding.finding
        ));
    }
    text
}

#[cfg(test)]
mod tests;
