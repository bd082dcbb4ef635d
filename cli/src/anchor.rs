//! Certificate issuers (CI) elsewhere, such as the GSMA's own: trusted, kept current, asked for certificates for our keys.

mod keys;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use pki::Certificate;
use proto::v1::anchor_service_client::AnchorServiceClient;
use proto::v1::operation::Kind;
use proto::v1::{AnchorList, ListAnchorsRequest, PublishAnchorListRequest, RegisterAnchor, RetireAnchor};
use serde::Serialize;

use self::keys::{Certificates, Csr, Import};
use crate::certificate::reading;
use crate::clock;
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::{Output, fields, printable, table};

/// `chancery anchor ...`
#[derive(Debug, Subcommand)]
pub enum AnchorCommand {
    /// Request that a certificate issuer elsewhere is trusted; another person must approve.
    ///
    /// What is shown to the approver is its key's digest: compare it with what the issuer publishes. eUICCs of its manufacturers
    /// are accepted for the EID ranges named here and no others.
    #[command(after_help = "Example:
  chancery anchor register --name gsma-ci1 --certificate rsp2-root-ci1.pem --ein 89049032 --ein 89033023 \\
      --reason 'handsets of commerce, decision 14/2026' --identity alice/")]
    Register(Register),
    /// Request that nothing under an anchor is trusted any more, for good; another person must approve
    #[command(after_help = "Example:
  chancery anchor retire gsma-ci1 --reason 'its key is reported stolen' --identity alice/")]
    Retire(Retire),
    /// List the anchors, each with its newest revocation list
    #[command(after_help = "Example:
  chancery anchor list --identity alice/")]
    List(List),
    /// Give the service an anchor's newest revocation list (CRL); its signature and number are checked
    #[command(after_help = "Example:
  chancery anchor publish-list --anchor gsma-ci1 --crl ci1.crl --identity alice/")]
    PublishList(PublishList),
    /// Make a certification request (PKCS#10) for a key in our token, to be sent to a certificate issuer elsewhere
    #[command(after_help = "Examples:
  chancery anchor csr --party otaco --rsp-key otaco-dpauth --common-name 'SM-DP+' --out dpauth.csr.pem --identity alice/
  chancery anchor csr --issuer acme-gsma --common-name 'ACME EUM' --registered-id 1.3.6.1.4.1.99999.1 \\
      --out eum.csr.pem --identity alice/
  chancery anchor csr --issuer national --profile ci-sub --common-name 'National CI, sub CA' \\
      --out national.csr.pem --identity alice/")]
    Csr(Csr),
    /// Request that a certificate from elsewhere is taken into use for the key in our token that it certifies
    ///
    /// It is judged by the GSMA's chain rules up to the anchor. A key may have certificates under several certificate issuers: in a
    /// download the one is used that the eUICC lists first.
    #[command(after_help = "Examples:
  chancery anchor import --anchor gsma-ci1 --certificate dpauth.pem --party otaco --rsp-key otaco-dpauth \\
      --reason 'GSMA order 4711' --identity alice/
  chancery anchor import --anchor gsma-ci1 --certificate eum.pem --party acme-eum --issuer acme-gsma \\
      --reason 'GSMA order 4712' --identity alice/
  chancery anchor import --anchor gsma-ci1 --certificate national.pem --issuer national \\
      --reason 'GSMA order 4713' --identity alice/")]
    Import(Import),
    /// List the certificates from elsewhere
    #[command(after_help = "Example:
  chancery anchor certificates --identity alice/")]
    Certificates(Certificates),
}

/// Arguments of `anchor register`.
#[derive(Debug, Args)]
pub struct Register {
    /// What it is called here
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// Its self-signed certificate, PEM or DER
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// A range of EIDs whose eUICCs it may vouch for, by the first digits; may be repeated
    #[arg(long, value_name = "DIGITS", required = true)]
    ein: Vec<String>,
    /// Accept what is under it without a current revocation list of it
    #[arg(long)]
    without_lists: bool,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `anchor retire`.
#[derive(Debug, Args)]
pub struct Retire {
    /// Its name here
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `anchor list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `anchor publish-list`.
#[derive(Debug, Args)]
pub struct PublishList {
    /// The anchor's name here
    #[arg(long, value_parser = parse_name)]
    anchor: String,
    /// The list, PEM or DER, at most 5,000 entries
    #[arg(long, value_name = "FILE")]
    crl: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl AnchorCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Register(register) => register.run(output).await,
            Self::Retire(retire) => {
                let kind = Kind::RetireAnchor(RetireAnchor { name: retire.name.clone() });
                operation::request(kind, &retire.request, output).await
            }
            Self::List(list) => list.run(output).await,
            Self::PublishList(publish) => publish.run(output).await,
            Self::Csr(csr) => csr.run(output).await,
            Self::Import(import) => import.run(output).await,
            Self::Certificates(certificates) => certificates.run(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl Register {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let kind = Kind::RegisterAnchor(RegisterAnchor {
            name: self.name.clone(),
            certificate: reading::certificate(&self.certificate)?.der().to_vec(),
            eins: self.ein.clone(),
            lists_required: !self.without_lists,
        });
        operation::request(kind, &self.request, output).await
    }
}

#[derive(Serialize)]
struct Shown {
    name: String,
    subject: String,
    key_identifier: String,
    not_after: String,
    eins: Vec<String>,
    lists_required: bool,
    retired: bool,
    list: Option<ShownList>,
}

#[derive(Serialize)]
struct ShownList {
    number: u64,
    this_update: String,
    next_update: String,
    entries: u32,
    sha256: String,
}

impl ShownList {
    fn from_wire(list: &AnchorList) -> Self {
        let time = |time: &Option<prost_types::Timestamp>| {
            time.as_ref().map(|at| clock::from_wire(at).to_string()).unwrap_or_default()
        };
        Self {
            number: list.number,
            this_update: time(&list.this_update),
            next_update: time(&list.next_update),
            entries: list.entries,
            sha256: hex::encode(&list.digest),
        }
    }
}

impl List {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(ListAnchorsRequest {});
                let mut client = AnchorServiceClient::new(connection.channel());
                async move { client.list_anchors(request).await }
            })
            .await?;
        let mut shown = Vec::with_capacity(answer.anchors.len());
        for anchor in &answer.anchors {
            let certificate = Certificate::from_der(&anchor.certificate)
                .map_err(|error| CliError::Answer(format!("an anchor's certificate: {error}")))?;
            shown.push(Shown {
                name: printable(&anchor.name),
                subject: printable(&certificate.common_name().unwrap_or_default()),
                key_identifier: hex::encode(certificate.subject_key_identifier().unwrap_or_default()),
                not_after: certificate.not_after().to_string(),
                eins: anchor.eins.iter().map(|ein| printable(ein)).collect(),
                lists_required: anchor.lists_required,
                retired: anchor.retired,
                list: anchor.list.as_ref().map(ShownList::from_wire),
            });
        }
        output.print(&shown, |shown| {
            let rows = shown.iter().map(|anchor| {
                let list = match &anchor.list {
                    Some(list) => {
                        format!("{}, {} revoked, until {}", list.number, list.entries, list.next_update)
                    }
                    None if anchor.lists_required => "none: nothing under it is accepted".to_owned(),
                    None => "none".to_owned(),
                };
                let state = if anchor.retired { "retired" } else { "trusted" };
                [
                    anchor.name.clone(),
                    anchor.subject.clone(),
                    anchor.key_identifier.clone(),
                    anchor.eins.join(" "),
                    state.to_owned(),
                    list,
                ]
            });
            table(["name", "common name", "key identifier", "EID ranges", "state", "revocation list"], rows)
        })
    }
}

#[derive(Serialize)]
struct Published {
    anchor: String,
    list: ShownList,
    entry_index: u64,
}

impl PublishList {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let message = PublishAnchorListRequest {
            idempotency_key: self.idempotency.key()?,
            anchor: self.anchor.clone(),
            list: reading::revocation_list(&self.crl)?.der().to_vec(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = AnchorServiceClient::new(connection.channel());
                async move { client.publish_anchor_list(request).await }
            })
            .await?;
        let list = answer.list.ok_or_else(|| CliError::Answer("the answer names no list".to_owned()))?;
        let published = Published {
            anchor: self.anchor.clone(),
            list: ShownList::from_wire(&list),
            entry_index: answer.entry_index,
        };
        output.print(&published, |published| {
            fields([
                ("anchor", published.anchor.clone()),
                ("list", published.list.number.to_string()),
                ("revoked certificates", published.list.entries.to_string()),
                ("current until", published.list.next_update.clone()),
                ("log entry", published.entry_index.to_string()),
            ])
        })
    }
}
