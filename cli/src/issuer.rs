//! Requests that take a signing key made at a ceremony into use.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use proto::v1::operation::Kind;
use proto::v1::{IssueCertificate, RegisterIssuer, RegisterResponder, issue_certificate};
use serde::Deserialize;

use crate::certificate::reading;
use crate::error::CliError;
use crate::files;
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::Output;

/// `chancery issuer ...`
#[derive(Debug, Subcommand)]
pub enum IssuerCommand {
    /// Request that a key of the `ca` token becomes a party's issuer, or one of the authority.
    ///
    /// It gets its certificate here (`issuer certify`, `certificate request`) or elsewhere (`anchor csr`, `anchor import`). Where a ceremony or
    /// other software made one, bring it with --certificate: a root's, or one below an issuer that is known here. What it signed until now
    /// goes on: its last revocation list comes with --list, the certificates it issued with `certificate adopt`.
    #[command(after_help = "Examples:
  chancery issuer register --key-file acme-signing-key.json --name acme-2026 --party acme-eum \\
      --reason 'ceremony of 2026-11-20' --identity alice/
  chancery issuer register --key-file ci-2019.key.json --authority --certificate ci-2019.pem --list ci-2019.crl \\
      --reason 'moved from the old CA' --identity alice/
  chancery issuer register --key-file ci-2027.key.json --authority --certificate ci-2027.pem --without-list \\
      --reason 'ceremony of 2026-11-20' --identity alice/")]
    Register(Register),
    /// Request that a key of the `ca` token signs the OCSP answers about certificates of a further certificate issuer (CI).
    ///
    /// Make it with `chanceryd ceremony create-key --role ocsp-responder --name ISSUER` (or ocsp-responder-brainpool-p256r1, ocsp-responder-p-384). The service
    /// certifies it itself and renews that certificate.
    #[command(after_help = "Example:
  chancery issuer register-responder --issuer ci-brainpool --key-file ocsp-ci-brainpool.json \\
      --reason 'ceremony of 2026-11-25' --identity alice/")]
    RegisterResponder(RegisterResponderArgs),
    /// Request the certificate of a further issuer of the authority: a certificate issuer (CI) that signs itself, or a sub CA of
    /// SGP.22 v3 below one.
    ///
    /// Its subject is that of the first one but for the common name. With a further CI another curve comes into use: make the key with
    /// `chanceryd ceremony create-key --role certificate-issuer-p-384` (or certificate-issuer-brainpool-p256r1), register it with --authority.
    #[command(after_help = "Example:
  chancery issuer certify --issuer ci-brainpool --common-name 'National CI, brainpoolP256r1' \\
      --reason 'ceremony of 2026-11-25' --identity alice/
  chancery issuer certify --profile ci-sub --issuer ci-sub-1 --under ci --common-name 'National CI, sub CA 1' \\
      --reason 'variant B' --identity alice/
  chancery issuer certify --profile dp-sub --issuer dp-sub-1 --under ci-sub-1 --common-name 'SM-DP+ sub CA' \\
      --reason 'variant C' --identity alice/")]
    Certify(Certify),
    /// Request that one certificate issuer (CI) of the authority certifies another, so that who trusts the one can go on to the other.
    ///
    /// When a CI's key changes, both directions are usual: the new one certified by the old, and the old one by the new. SGP.22
    /// version 2 has no such certificates: eUICCs and SM-DP+ do not follow them, other software does.
    #[command(after_help = "Example:
  chancery issuer cross-certify --issuer ci-2027 --under ci --reason 'key change 2027' --identity alice/
  chancery issuer cross-certify --issuer ci --under ci-2027 --reason 'key change 2027' --identity alice/")]
    CrossCertify(CrossCertify),
}

/// Arguments of `issuer register`.
#[derive(Debug, Args)]
pub struct Register {
    /// The JSON that `chanceryd ceremony create-key` wrote
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Name of the issuer; the one in the file when absent
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// The manufacturer whose devices it certifies; the one in the file when absent
    #[arg(long, value_parser = parse_name)]
    party: Option<String>,
    /// It is a certificate issuer (CI) of the authority itself, no manufacturer's
    #[arg(long, conflicts_with = "party")]
    authority: bool,
    /// Its certificate, PEM or DER, where it has one
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The newest full revocation list (CRL) that it signed elsewhere, PEM or DER, at most 1,000 entries
    #[arg(long, value_name = "FILE", requires = "certificate")]
    list: Option<PathBuf>,
    /// It never signed a revocation list
    #[arg(long, requires = "certificate", conflicts_with = "list")]
    without_list: bool,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `issuer certify`.
#[derive(Debug, Args)]
pub struct Certify {
    /// Name of the issuer, registered with --authority
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: String,
    /// ci signs itself; ci-sub, dp-sub and ds-sub stand below another issuer of the authority
    #[arg(long, value_name = "NAME", value_parser = parse_name, default_value = "ci")]
    profile: String,
    /// Of a sub CA: the issuer of the authority that signs; `ci`, the first one, when absent
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    under: Option<String>,
    /// commonName of the subject
    #[arg(long)]
    common_name: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `issuer cross-certify`.
#[derive(Debug, Args)]
pub struct CrossCertify {
    /// The one that is certified
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: String,
    /// The one that certifies it
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    under: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `issuer register-responder`.
#[derive(Debug, Args)]
pub struct RegisterResponderArgs {
    /// The issuer whose certificates are asked about
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: String,
    /// The JSON that `chanceryd ceremony create-key` wrote
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    #[command(flatten)]
    request: RequestArgs,
}

/// What a ceremony reports about a key.
#[derive(Deserialize)]
struct KeyFile {
    name: String,
    party: Option<String>,
    label: String,
    /// Hex.
    id: String,
    /// SubjectPublicKeyInfo, PEM or hex DER.
    public_key: String,
}

impl IssuerCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Register(args) => {
                let party = if args.authority { Some("") } else { args.party.as_deref() };
                let mut issuer = register_issuer(&args.key_file, args.name.as_deref(), party)?;
                if let Some(path) = &args.certificate {
                    issuer.certificate = reading::certificate(path)?.der().to_vec();
                }
                if let Some(path) = &args.list {
                    issuer.list = reading::revocation_list(path)?.der().to_vec();
                }
                issuer.without_list = args.without_list;
                operation::request(Kind::RegisterIssuer(issuer), &args.request, output).await?;
            }
            Self::CrossCertify(args) => {
                let issue = IssueCertificate {
                    profile: "ci-cross".to_owned(),
                    key: Some(issue_certificate::Key::Issuer(args.issuer.clone())),
                    under: args.under.clone(),
                    ..IssueCertificate::default()
                };
                operation::request(Kind::IssueCertificate(issue), &args.request, output).await?;
            }
            Self::RegisterResponder(args) => {
                let key = register_issuer(&args.key_file, None, Some(""))?;
                let responder = RegisterResponder {
                    issuer: args.issuer.clone(),
                    key_label: key.key_label,
                    key_id: key.key_id,
                    public_key: key.public_key,
                };
                operation::request(Kind::RegisterResponder(responder), &args.request, output).await?;
            }
            Self::Certify(args) => {
                let issue = IssueCertificate {
                    profile: args.profile.clone(),
                    common_name: args.common_name.clone(),
                    under: args.under.clone().unwrap_or_default(),
                    key: Some(issue_certificate::Key::Issuer(args.issuer.clone())),
                    ..IssueCertificate::default()
                };
                operation::request(Kind::IssueCertificate(issue), &args.request, output).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What is requested for the key of `path`.
pub fn register_issuer(
    path: &Path,
    name: Option<&str>,
    party: Option<&str>,
) -> Result<RegisterIssuer, CliError> {
    let wrong = |why: String| {
        CliError::invalid(format!("{}: {why}", path.display()), "name the JSON file that the ceremony wrote")
    };
    let file: KeyFile =
        serde_json::from_slice(&files::read(path)?).map_err(|error| wrong(error.to_string()))?;
    let public_key = if file.public_key.trim_start().starts_with("-----BEGIN") {
        files::pem_or_der(file.public_key.into_bytes(), "PUBLIC KEY", &path.display().to_string())?
    } else {
        hex::decode(&file.public_key).map_err(|_| wrong("public_key is neither PEM nor hex".to_owned()))?
    };
    let party = party.map(str::to_owned).or(file.party).ok_or_else(|| {
        CliError::invalid(
            "it is not said whose devices the issuer certifies",
            "pass --party, or --authority for a certificate issuer of the authority",
        )
    })?;
    Ok(RegisterIssuer {
        name: name.map_or(file.name, str::to_owned),
        party,
        key_label: file.label,
        key_id: hex::decode(&file.id).map_err(|_| wrong("id is not hex".to_owned()))?,
        public_key,
        ..RegisterIssuer::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceremony_file_is_read_in_both_forms_of_the_public_key_and_options_win() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        let pem = files::pem("PUBLIC KEY", &[0x30, 0x00]).replace('\n', "\\n");
        for public_key in ["3000", &pem] {
            let json = format!(
                r#"{{"name":"n","party":"p","label":"chancery/issuer/n/1","id":"0a0b","public_key":"{public_key}","token":"ca"}}"#
            );
            std::fs::write(&path, json).unwrap();
            let issuer = register_issuer(&path, None, Some("other")).unwrap();
            assert_eq!((issuer.name.as_str(), issuer.party.as_str()), ("n", "other"));
            assert_eq!((issuer.key_id, issuer.public_key), (vec![0x0a, 0x0b], vec![0x30, 0x00]));
        }
        std::fs::write(&path, r#"{"name":"n","label":"l","id":"0a","public_key":"3000"}"#).unwrap();
        assert_eq!(
            register_issuer(&path, None, None).unwrap_err().next_step().unwrap(),
            "pass --party, or --authority for a certificate issuer of the authority"
        );
    }
}
