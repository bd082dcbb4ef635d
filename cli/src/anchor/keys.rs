//! Keys in our tokens and the certificates that a certificate issuer elsewhere makes for them.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use pki::Certificate;
use proto::v1::anchor_service_client::AnchorServiceClient;
use proto::v1::make_certification_request_request::Key;
use proto::v1::operation::Kind;
use proto::v1::{
    ImportCertificate, ListImportedCertificatesRequest, MakeCertificationRequestRequest, PartyKey,
    import_certificate,
};
use serde::Serialize;

use crate::certificate::reading;
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::{Output, fields, printable, table};

/// Arguments of `anchor csr`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("key").required(true).args(["rsp_key", "issuer"])))]
pub struct Csr {
    /// A DPauth or DPpb key, registered by `rsp key-register`
    #[arg(long, value_name = "NAME", value_parser = parse_name, requires = "party")]
    rsp_key: Option<String>,
    /// Whose key it is
    #[arg(long, value_parser = parse_name, conflicts_with = "issuer")]
    party: Option<String>,
    /// An issuer of a manufacturer or of the authority, registered by `issuer register`
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: Option<String>,
    /// commonName of the subject; its other attributes are those of the party's registration, or of the authority's first CI
    #[arg(long)]
    common_name: String,
    /// --issuer of a manufacturer: its object identifier
    #[arg(
        long,
        value_name = "OID",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "rsp_key"
    )]
    registered_id: String,
    /// --issuer: the profile that is asked for; eum when absent, of the authority's ci-sub, dp-sub or ds-sub
    #[arg(long, value_name = "NAME", value_parser = parse_name, conflicts_with = "rsp_key")]
    profile: Option<String>,
    /// File to write: PEM, or DER when its name ends in .der
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `anchor import`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("key").required(true).args(["rsp_key", "issuer"])))]
pub struct Import {
    /// The anchor above it
    #[arg(long, value_parser = parse_name)]
    anchor: String,
    /// The certificate, PEM or DER
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Certificates between it and the anchor; may be repeated, a PEM file may hold several
    #[arg(long, value_name = "FILE")]
    chain: Vec<PathBuf>,
    /// Whose key it certifies; absent for an issuer of the authority
    #[arg(long, value_parser = parse_name, required_unless_present = "issuer")]
    party: Option<String>,
    /// The DPauth or DPpb key that it certifies
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    rsp_key: Option<String>,
    /// The issuer that it certifies, which has no certificate yet: what it issues will be under the anchor
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: Option<String>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `anchor certificates`.
#[derive(Debug, Args)]
pub struct Certificates {
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Made {
    profile: String,
    file: PathBuf,
    entry_index: u64,
}

impl Csr {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let key = match (&self.rsp_key, &self.issuer) {
            (Some(name), _) => {
                Key::RspKey(PartyKey { party: self.party.clone().unwrap_or_default(), name: name.clone() })
            }
            (None, issuer) => Key::Issuer(issuer.clone().unwrap_or_default()),
        };
        let message = MakeCertificationRequestRequest {
            idempotency_key: self.idempotency.key()?,
            key: Some(key),
            common_name: self.common_name.clone(),
            registered_id: self.registered_id.clone(),
            profile: self.profile.clone().unwrap_or_default(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = AnchorServiceClient::new(connection.channel());
                async move { client.make_certification_request(request).await }
            })
            .await?;
        let is_der = self.out.extension().is_some_and(|extension| extension == "der");
        let bytes = if is_der {
            answer.request
        } else {
            files::pem("CERTIFICATE REQUEST", &answer.request).into_bytes()
        };
        files::write_new(&self.out, &bytes, Readers::All)?;
        let made = Made {
            profile: printable(&answer.profile),
            file: self.out.clone(),
            entry_index: answer.entry_index,
        };
        output.print(&made, |made| {
            fields([
                ("profile", made.profile.clone()),
                ("file", made.file.display().to_string()),
                ("log entry", made.entry_index.to_string()),
                ("next", "send it to the certificate issuer; then chancery anchor import".to_owned()),
            ])
        })
    }
}

impl Import {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let key = match (&self.rsp_key, &self.issuer) {
            (Some(name), _) => import_certificate::Key::RspKey(name.clone()),
            (None, issuer) => import_certificate::Key::Issuer(issuer.clone().unwrap_or_default()),
        };
        let chain = reading::certificates(&self.chain)?;
        let import = ImportCertificate {
            certificate: reading::certificate(&self.certificate)?.der().to_vec(),
            intermediates: chain.iter().map(|certificate| certificate.der().to_vec()).collect(),
            anchor: self.anchor.clone(),
            party: self.party.clone().unwrap_or_default(),
            key: Some(key),
        };
        operation::request(Kind::ImportCertificate(import), &self.request, output).await
    }
}

#[derive(Serialize)]
struct Imported {
    anchor: String,
    profile: String,
    party: String,
    key: String,
    serial_number: String,
    not_after: String,
    sha256: String,
}

impl Certificates {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let mut message = ListImportedCertificatesRequest { after: Vec::new() };
        let mut all = Vec::new();
        loop {
            let answer = connection
                .call(output, None, || {
                    let request = connection.request(message.clone());
                    let mut client = AnchorServiceClient::new(connection.channel());
                    async move { client.list_imported_certificates(request).await }
                })
                .await?;
            for import in &answer.certificates {
                let certificate = Certificate::from_der(&import.certificate)
                    .map_err(|error| CliError::Answer(format!("an imported certificate: {error}")))?;
                all.push(Imported {
                    anchor: printable(&import.anchor),
                    profile: printable(&import.profile),
                    party: printable(&import.party),
                    key: printable(&import.key),
                    serial_number: certificate.serial().to_string(),
                    not_after: certificate.not_after().to_string(),
                    sha256: hex::encode(certificate.digest()),
                });
            }
            if answer.next.is_empty() {
                break;
            }
            if answer.next <= message.after {
                return Err(CliError::Answer("the pages do not go on".to_owned()));
            }
            message.after = answer.next;
        }
        output.print(&all, |all| {
            let rows = all.iter().map(|import| {
                [
                    &import.anchor,
                    &import.profile,
                    &import.party,
                    &import.key,
                    &import.serial_number,
                    &import.not_after,
                ]
                .map(Clone::clone)
            });
            table(["anchor", "profile", "party", "key", "serial number", "not after"], rows)
        })
    }
}
