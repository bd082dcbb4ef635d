//! The hand-over to an SM-DP+: its certificates and the CI's in the folders and under the names that osmo-smdpp loads
//! (docs/formats/sm-dp-plus-bundle.md). Everything is judged before anything is written.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use domain::Timestamp;
use pki::chain::{VerifiedChain, verify_chain};
use pki::{Certificate, CertificateRole, CivilTime};
use serde::Serialize;

use super::reading;
use super::verify::{Finding, chain_finding, civil, parse_time, same_entity};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::key_file::PrivateKey;
use crate::output::{Output, fields, printable};

/// Arguments of `certificate bundle`.
#[derive(Debug, Args)]
pub struct Bundle {
    /// Who loads it
    #[arg(long = "for", value_name = "RECEIVER")]
    receiver: Receiver,
    /// Its authentication certificate
    #[arg(long, value_name = "FILE")]
    dpauth: PathBuf,
    /// Its profile package binding certificate
    #[arg(long, value_name = "FILE")]
    dppb: PathBuf,
    /// Its TLS certificate
    #[arg(long, value_name = "FILE")]
    dptls: PathBuf,
    /// The certificate issuer (CI)
    #[arg(long, value_name = "FILE")]
    ci: PathBuf,
    /// A manufacturer whose devices it will serve; may be repeated
    #[arg(long, value_name = "FILE")]
    eum: Vec<PathBuf>,
    /// The private key of --dpauth, PKCS#8 in PEM, to be copied along
    #[arg(long, value_name = "FILE")]
    dpauth_key: Option<PathBuf>,
    /// The private key of --dppb, to be copied along
    #[arg(long, value_name = "FILE")]
    dppb_key: Option<PathBuf>,
    /// The private key of --dptls, to be copied along
    #[arg(long, value_name = "FILE")]
    dptls_key: Option<PathBuf>,
    /// Folder to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The time at which everything must be valid, RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
}

/// Who can be handed something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Receiver {
    /// A provisioning server, in the layout of osmo-smdpp
    #[value(name = "sm-dp+")]
    SmDpPlus,
}

#[derive(Debug, Serialize)]
struct Written {
    folder: PathBuf,
    /// The name in the TLS certificate, which must be the SM-DP+'s address.
    address: Option<String>,
    /// Of the SM-DP+; the same in all three certificates.
    registered_id: Option<String>,
    /// Hex; what eUICCs call the CI by (euiccCiPKIdListForVerification).
    ci_key_identifier: Option<String>,
    /// Relative to the folder.
    files: Vec<PathBuf>,
}

/// A certificate of the SM-DP+ and, when given, its key.
struct Part<'a> {
    role: CertificateRole,
    file: &'a PathBuf,
    certificate: Certificate,
    key: Option<PrivateKey>,
    key_file: Option<&'a PathBuf>,
}

impl Bundle {
    /// Runs it.
    pub fn run(&self, output: Output) -> Result<(), CliError> {
        output.print(&self.write()?, |written| {
            let mut text = fields([
                ("folder", written.folder.display().to_string()),
                ("address", written.address.as_deref().map_or_else(String::new, printable)),
                ("registered id", written.registered_id.clone().unwrap_or_default()),
                ("CI key identifier", written.ci_key_identifier.clone().unwrap_or_default()),
            ]);
            text.extend(written.files.iter().map(|file| format!("\n{}", file.display())));
            text
        })
    }

    fn write(&self) -> Result<Written, CliError> {
        match self.receiver {
            Receiver::SmDpPlus => {}
        }
        files::check_empty_or_absent(&self.out)?;
        let ci = reading::certificate(&self.ci)?;
        let parts = [
            part(CertificateRole::DpAuth, &self.dpauth, self.dpauth_key.as_ref())?,
            part(CertificateRole::DpPb, &self.dppb, self.dppb_key.as_ref())?,
            part(CertificateRole::DpTls, &self.dptls, self.dptls_key.as_ref())?,
        ];
        let eums = self
            .eum
            .iter()
            .map(|file| part(CertificateRole::Eum, file, None))
            .collect::<Result<Vec<_>, _>>()?;
        let findings = judge(&ci, &self.ci, &parts, &eums, civil(self.at)?)?;
        if !findings.is_empty() {
            return Err(refused(&findings));
        }
        let [auth, _, tls] = &parts;
        let mut written = Written {
            folder: self.out.clone(),
            address: tls.certificate.common_name(),
            registered_id: auth.certificate.registered_id(),
            ci_key_identifier: ci.subject_key_identifier().map(hex::encode),
            files: Vec::new(),
        };
        let mut place = Place { folder: &self.out, files: &mut written.files };
        place.certificate("CertificateIssuer", "CERT_CI_ECDSA_NIST", &ci)?;
        for part in &parts {
            let (folder, name) = names(part.role);
            place.certificate(folder, &format!("CERT_S_SM_{name}"), &part.certificate)?;
            if let Some(key) = &part.key {
                let text = pki::private_key_to_pem(key.der());
                place.put(folder, &format!("SK_S_SM_{name}.pem"), text.as_bytes(), Readers::Owner)?;
            }
        }
        for eum in &eums {
            // Several manufacturers side by side: told apart by what their devices' certificates name.
            let key = eum.certificate.subject_key_identifier().map(hex::encode).unwrap_or_default();
            place.certificate("EUM", &format!("CERT_EUM_ECDSA_NIST_{key}"), &eum.certificate)?;
        }
        files::sync_folder_of(&self.out)?;
        Ok(written)
    }
}

/// Folder and the name's middle for a certificate of an SM-DP+, as SGP.26 names them.
const fn names(role: CertificateRole) -> (&'static str, &'static str) {
    match role {
        CertificateRole::DpAuth => ("DPauth", "DPauth_ECDSA_NIST"),
        CertificateRole::DpPb => ("DPpb", "DPpb_ECDSA_NIST"),
        _ => ("DPtls", "DP_TLS_NIST"),
    }
}

fn part<'a>(
    role: CertificateRole,
    file: &'a PathBuf,
    key_file: Option<&'a PathBuf>,
) -> Result<Part<'a>, CliError> {
    let certificate = reading::certificate(file)?;
    let key = key_file.map(|path| PrivateKey::load(path)).transpose()?;
    Ok(Part { role, file, certificate, key, key_file })
}

/// Everything that speaks against handing these over together.
fn judge(
    ci: &Certificate,
    ci_file: &Path,
    parts: &[Part<'_>; 3],
    eums: &[Part<'_>],
    at: CivilTime,
) -> Result<Vec<Finding>, CliError> {
    let mut findings = Vec::new();
    let roots = std::slice::from_ref(ci);
    let mut chain_of = |certificate: &Certificate, role, file: &Path| -> Option<VerifiedChain> {
        verify_chain(certificate, &[], roots, role, Some(at))
            .map_err(|refusal| findings.push(chain_finding(&refusal, file.to_owned())))
            .ok()
    };
    // A root that does not hold is told once, not once for each certificate below it.
    if chain_of(ci, CertificateRole::CertificateIssuer, ci_file).is_none() {
        return Ok(findings);
    }
    for part in parts.iter().chain(eums) {
        chain_of(&part.certificate, part.role, part.file);
    }
    let [auth, others @ ..] = parts;
    for other in others {
        findings.extend(same_entity(&auth.certificate, &other.certificate, other.file));
    }
    for (index, part) in parts.iter().enumerate() {
        let find = |finding, problem: &str, file: &PathBuf| Finding {
            finding,
            problem: problem.to_owned(),
            file: file.clone(),
            depth: None,
        };
        // Three roles, three key pairs: what one signs must not pass for what another signs.
        if parts[..index].iter().any(|other| other.certificate.spki() == part.certificate.spki()) {
            findings.push(find(
                "key-in-two-roles",
                "its key is that of another role's certificate",
                part.file,
            ));
        }
        if let (Some(key), Some(file)) = (&part.key, part.key_file)
            && key.ec_spki()? != part.certificate.spki()
        {
            let problem = format!("it is not the key of the {} certificate", part.role);
            findings.push(find("key-differs", &problem, file));
        }
    }
    Ok(findings)
}

fn refused(findings: &[Finding]) -> CliError {
    let reasons: Vec<_> = findings
        .iter()
        .map(|finding| format!("{}: {} ({})", finding.file.display(), finding.problem, finding.finding))
        .collect();
    CliError::invalid(
        format!("these do not go together, nothing was written: {}", reasons.join("; ")),
        "name the certificates and keys of one SM-DP+, valid and below one certificate issuer",
    )
}

/// Where the files go.
struct Place<'a> {
    folder: &'a Path,
    files: &'a mut Vec<PathBuf>,
}

impl Place<'_> {
    /// In both forms: osmo-smdpp loads DER, a TLS server before it PEM.
    fn certificate(&mut self, folder: &str, name: &str, certificate: &Certificate) -> Result<(), CliError> {
        self.put(folder, &format!("{name}.der"), certificate.der(), Readers::All)?;
        self.put(folder, &format!("{name}.pem"), certificate.pem().as_bytes(), Readers::All)
    }

    fn put(&mut self, folder: &str, name: &str, bytes: &[u8], readers: Readers) -> Result<(), CliError> {
        let relative = Path::new(folder).join(name);
        let path = self.folder.join(&relative);
        files::create_folder(&self.folder.join(folder))?;
        files::write_new(&path, bytes, readers)?;
        files::sync_folder_of(&path)?;
        self.files.push(relative);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
