//! Protected operations: requested, read, decided, executed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use domain::Clock;
use proto::v1::operation::Kind;
use proto::v1::operation_service_client::OperationServiceClient;
use proto::v1::{
    DecideOperationRequest, Decision, ExecuteOperationRequest, GetOperationRequest, GetOperationResponse,
    ListOperationsRequest, OperationOutcome, OperationState, OperationSummary, RequestOperationRequest,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::canonical::{CanonicalOperation, approval_message, rejection_message};
use crate::clock::{self, Expiry, SystemClock, parse_expiry};
use crate::connect::{ANSWER_MAX_BYTES, Connection, IdempotencyArgs, RemoteArgs, random_key};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::output::{Output, printable, table};
use crate::render::{self, Field, kind_name, operation_fields};

/// Fewest digits of a digest prefix.
const PREFIX_DIGITS_MIN: usize = 8;
/// Operations of one page, and pages that a prefix is looked for in.
const PAGE: u32 = 1_000;
const PAGES_MAX: usize = 10;

/// `chancery operation ...`
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, newest first.
    #[command(after_help = "Example:
  chancery operation list --open --identity alice/")]
    List(List),
    /// Show one operation: every field, who has signed, what came of it.
    #[command(after_help = "Example:
  chancery operation show 9f86d081 --identity alice/")]
    Show(Named),
    /// Read an operation in full and approve it with your approval key.
    ///
    /// What is shown and hashed are the bytes received, decoded and encoded again; nothing else is believed.
    #[command(after_help = "Examples:
  chancery operation approve 9f86d081 --identity bob/
  chancery operation approve 9f86d081884c7d65 --yes --identity bob/")]
    Approve(Decide),
    /// Read an operation in full and reject it.
    #[command(after_help = "Example:
  chancery operation reject 9f86d081 --identity bob/")]
    Reject(Decide),
    /// Execute an approved operation, once.
    #[command(after_help = "Example:
  chancery operation execute 9f86d081 --out acme-certificate/ --identity alice/")]
    Execute(Execute),
}

/// Arguments of `operation list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only those that wait for a decision or for execution
    #[arg(long)]
    open: bool,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Continue after this digest, the last of the page before
    #[arg(long, value_name = "DIGEST")]
    after: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// An operation by its digest.
#[derive(Debug, Args)]
pub struct Named {
    /// The digest in hex, or its first 8 digits or more
    digest: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `operation approve` and `operation reject`.
#[derive(Debug, Args)]
pub struct Decide {
    /// The digest in hex, or its first 8 digits or more
    digest: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `operation execute`.
#[derive(Debug, Args)]
pub struct Execute {
    /// The digest in hex, or its first 8 digits or more
    digest: String,
    /// Folder for the certificate that is issued
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What every verb that requests an operation takes. Without an idempotency key of the operator's: salt and signature
/// are fresh in each run, so a second run is always another request.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// Why, for the approver to read
    #[arg(long)]
    pub reason: String,
    /// How it is sent
    #[command(flatten)]
    pub send: SendArgs,
}

/// How a request is sent.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// When the request lapses: 7d, 12h, or an RFC 3339 time; 30 days at most
    #[arg(long, default_value = "7d", value_name = "WHEN", value_parser = parse_expiry)]
    request_expires: Expiry,
    /// Who calls, and where to
    #[command(flatten)]
    pub remote: RemoteArgs,
}

impl OperationCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::List(list) => list.run(output).await,
            Self::Show(named) => named.show(output).await,
            Self::Approve(decide) => decide.run(Decision::Approve, output).await,
            Self::Reject(decide) => decide.run(Decision::Reject, output).await,
            Self::Execute(execute) => execute.run(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct Requested {
    digest: String,
    kind: &'static str,
    persons_required: u32,
    entry_index: u64,
    fields: Vec<Field>,
}

/// Builds the operation, shows it, signs it with the requester's approval key and sends it.
pub async fn request(kind: Kind, args: &RequestArgs, output: Output) -> Result<(), CliError> {
    request_because(kind, &args.reason, &args.send, output).await
}

/// As [`request`], for verbs that word the reason themselves.
pub async fn request_because(
    kind: Kind,
    reason: &str,
    args: &SendArgs,
    output: Output,
) -> Result<(), CliError> {
    let approval_key = PrivateKey::load(&args.remote.identity.join(names::APPROVAL_KEY))?;
    let connection = args.remote.connect(output).await?;
    let now = SystemClock::new().now();
    let kind_name = kind_name(&kind);
    let operation =
        CanonicalOperation::new(&connection.authority, reason, args.request_expires.from(now), kind)?;
    operation.check_signable(&connection.authority, now)?;
    let fields = operation_fields(operation.operation());
    output.explain(&render::human(&fields))?;

    let digest = operation.digest();
    let message = RequestOperationRequest {
        idempotency_key: random_key()?,
        operation: operation.bytes().to_vec(),
        signature: approval_key.sign(&approval_message(&digest))?,
    };
    let answer = connection
        .call(output, None, || {
            let request = connection.request(message.clone());
            let mut client = client(&connection);
            async move { client.request_operation(request).await }
        })
        .await?;
    if answer.digest != digest {
        return Err(CliError::Answer("the service stored another digest than was sent".to_owned()));
    }
    let requested = Requested {
        digest: hex::encode(digest),
        kind: kind_name,
        persons_required: answer.persons_required,
        entry_index: answer.entry_index,
        fields,
    };
    output.print(&requested, |requested| {
        format!(
            "requested: {} (log entry {})\nneeds {} persons in all; next: chancery operation approve {}",
            requested.digest,
            requested.entry_index,
            requested.persons_required,
            &requested.digest[..16]
        )
    })
}

#[derive(Serialize)]
struct Summary {
    digest: String,
    kind: String,
    state: &'static str,
    requester: String,
    requested: String,
    persons_signed: u32,
    persons_required: u32,
}

impl From<&OperationSummary> for Summary {
    fn from(summary: &OperationSummary) -> Self {
        Self {
            digest: hex::encode(&summary.digest),
            kind: printable(&summary.kind),
            state: state_name(summary.state()),
            requester: printable(&summary.requester),
            requested: summary
                .requested
                .as_ref()
                .map_or_else(String::new, |at| clock::from_wire(at).to_string()),
            persons_signed: summary.persons_signed,
            persons_required: summary.persons_required,
        }
    }
}

const fn state_name(state: OperationState) -> &'static str {
    match state {
        OperationState::Unspecified => "unknown",
        OperationState::Open => "open",
        OperationState::Approved => "approved",
        OperationState::Rejected => "rejected",
        OperationState::Executed => "executed",
    }
}

impl List {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let after = match &self.after {
            Some(digest) => resolve(&connection, digest, output).await?.to_vec(),
            None => Vec::new(),
        };
        let page = list_page(&connection, self.limit, after, self.open, output).await?;
        let list: Vec<_> = page.iter().map(Summary::from).collect();
        output.print(&list, |list| {
            let rows = list.iter().map(|summary| {
                [
                    summary.digest[..summary.digest.len().min(16)].to_owned(),
                    summary.kind.clone(),
                    summary.state.to_owned(),
                    summary.requester.clone(),
                    format!("{}/{}", summary.persons_signed, summary.persons_required),
                    summary.requested.clone(),
                ]
            });
            table(["digest", "kind", "state", "requester", "signed", "requested"], rows)
        })
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    summary: Summary,
    fields: Vec<Field>,
    approvals: Vec<ShownApproval>,
    certificate: Option<String>,
    issuer_certificate: Option<String>,
}

#[derive(Serialize)]
struct ShownApproval {
    person: String,
    time: String,
    signature: String,
}

impl Named {
    async fn show(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let digest = resolve(&connection, &self.digest, output).await?;
        let (answer, operation) = fetch(&connection, digest, output).await?;
        let summary = answer.summary.as_ref().ok_or_else(|| no_part("summary"))?;
        let outcome = answer.outcome.unwrap_or_default();
        let shown = Shown {
            summary: summary.into(),
            fields: operation_fields(operation.operation()),
            approvals: answer
                .approvals
                .iter()
                .map(|approval| ShownApproval {
                    person: printable(&approval.person),
                    time: approval
                        .time
                        .as_ref()
                        .map_or_else(String::new, |at| clock::from_wire(at).to_string()),
                    signature: hex::encode(&approval.signature),
                })
                .collect(),
            certificate: pem_of(&outcome.certificate),
            issuer_certificate: pem_of(&outcome.issuer_certificate),
        };
        output.print(&shown, |shown| {
            let summary = &shown.summary;
            let signatures = table(
                ["signed by", "at"],
                shown.approvals.iter().map(|a| [a.person.clone(), a.time.clone()]),
            );
            format!(
                "digest {}\nstate  {} ({} of {} persons)\n\n{}\n{signatures}\n{}",
                summary.digest,
                summary.state,
                summary.persons_signed,
                summary.persons_required,
                render::human(&shown.fields),
                shown.certificate.as_deref().unwrap_or_default(),
            )
        })
    }
}

#[derive(Serialize)]
struct Decided {
    digest: String,
    decision: &'static str,
    state: &'static str,
    persons_signed: u32,
    persons_required: u32,
    entry_index: u64,
}

impl Decide {
    async fn run(&self, decision: Decision, output: Output) -> Result<(), CliError> {
        let approval_key = PrivateKey::load(&self.remote.identity.join(names::APPROVAL_KEY))?;
        let connection = self.remote.connect(output).await?;
        let digest = resolve(&connection, &self.digest, output).await?;
        let (answer, operation) = fetch(&connection, digest, output).await?;
        let requester = answer.summary.map_or_else(String::new, |summary| printable(&summary.requester));
        output.explain(&format!(
            "{}requested by  {requester}\ndigest        {}\n",
            render::human(&operation_fields(operation.operation())),
            hex::encode(digest)
        ))?;

        let (word, signed) = match decision {
            Decision::Approve => {
                operation.check_signable(&connection.authority, SystemClock::new().now())?;
                ("approved", approval_message(&digest))
            }
            Decision::Reject | Decision::Unspecified => ("rejected", rejection_message(&digest)),
        };
        let question = match decision {
            Decision::Approve => "Approve exactly this?",
            Decision::Reject | Decision::Unspecified => "Reject this for good?",
        };
        output.confirm(question, self.yes)?;

        let message = DecideOperationRequest {
            idempotency_key: random_key()?,
            digest: digest.to_vec(),
            decision: decision.into(),
            signature: approval_key.sign(&signed)?,
        };
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.decide_operation(request).await }
            })
            .await?;
        let decided = Decided {
            digest: hex::encode(digest),
            decision: word,
            state: state_name(answer.state()),
            persons_signed: answer.persons_signed,
            persons_required: answer.persons_required,
            entry_index: answer.entry_index,
        };
        output.print(&decided, |decided| {
            format!(
                "{}: {} is {} with {} of {} persons (log entry {})",
                decided.decision,
                decided.digest,
                decided.state,
                decided.persons_signed,
                decided.persons_required,
                decided.entry_index
            )
        })
    }
}

#[derive(Serialize)]
struct Executed {
    digest: String,
    entry_index: u64,
    certificate: Option<String>,
    issuer_certificate: Option<String>,
    files: Vec<PathBuf>,
}

impl Execute {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        if let Some(out) = &self.out {
            files::check_empty_or_absent(out)?;
        }
        let connection = self.remote.connect(output).await?;
        let digest = resolve(&connection, &self.digest, output).await?;
        let key = self.idempotency.key()?;
        let message = ExecuteOperationRequest { idempotency_key: key.clone(), digest: digest.to_vec() };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.execute_operation(request).await }
            })
            .await?;
        let outcome = answer.outcome.unwrap_or_default();
        let files = match &self.out {
            Some(out) => write_outcome(out, &outcome)?,
            None => Vec::new(),
        };
        let executed = Executed {
            digest: hex::encode(digest),
            entry_index: answer.entry_index,
            certificate: pem_of(&outcome.certificate),
            issuer_certificate: pem_of(&outcome.issuer_certificate),
            files,
        };
        output.print(&executed, |executed| {
            let written: String =
                executed.files.iter().map(|path| format!("\nwrote {}", path.display())).collect();
            format!("executed: {} (log entry {}){written}", executed.digest, executed.entry_index)
        })
    }
}

fn write_outcome(out: &std::path::Path, outcome: &OperationOutcome) -> Result<Vec<PathBuf>, CliError> {
    let mut written = Vec::new();
    files::create_folder(out)?;
    for (name, der) in [("certificate", &outcome.certificate), ("issuer", &outcome.issuer_certificate)] {
        if der.is_empty() {
            continue;
        }
        let der_path = out.join(format!("{name}.der"));
        let pem_path = out.join(format!("{name}.pem"));
        files::write_new(&der_path, der, Readers::All)?;
        files::write_new(&pem_path, files::pem("CERTIFICATE", der).as_bytes(), Readers::All)?;
        written.extend([pem_path, der_path]);
    }
    Ok(written)
}

fn pem_of(der: &[u8]) -> Option<String> {
    (!der.is_empty()).then(|| files::pem("CERTIFICATE", der))
}

/// The operation with this digest, its bytes checked.
async fn fetch(
    connection: &Connection,
    digest: [u8; 32],
    output: Output,
) -> Result<(GetOperationResponse, CanonicalOperation), CliError> {
    let mut answer = connection
        .call(output, None, || {
            let request = connection.request(GetOperationRequest { digest: digest.to_vec() });
            let mut client = client(connection);
            async move { client.get_operation(request).await }
        })
        .await?;
    let operation = CanonicalOperation::received(std::mem::take(&mut answer.operation), &digest)?;
    Ok((answer, operation))
}

async fn list_page(
    connection: &Connection,
    limit: u32,
    after: Vec<u8>,
    open_only: bool,
    output: Output,
) -> Result<Vec<OperationSummary>, CliError> {
    let message = ListOperationsRequest { limit, after, open_only };
    let answer = connection
        .call(output, None, || {
            let request = connection.request(message.clone());
            let mut client = client(connection);
            async move { client.list_operations(request).await }
        })
        .await?;
    Ok(answer.operations)
}

/// The full digest of a digest or a prefix that is unique among the newest operations.
async fn resolve(connection: &Connection, text: &str, output: Output) -> Result<[u8; 32], CliError> {
    let text = text.to_ascii_lowercase();
    let wrong = |why: String| CliError::invalid(why, "list the operations: chancery operation list");
    if !text.bytes().all(|c| c.is_ascii_hexdigit()) || !(PREFIX_DIGITS_MIN..=64).contains(&text.len()) {
        return Err(wrong(format!("{:?} is no digest: 8 to 64 hexadecimal digits", printable(&text))));
    }
    let mut digest = [0; 32];
    if hex::decode_to_slice(&text, &mut digest).is_ok() {
        return Ok(digest);
    }
    let mut found: Vec<[u8; 32]> = Vec::new();
    let mut after = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = list_page(connection, PAGE, after, false, output).await?;
        found.extend(matches(&text, page.iter().map(|summary| &summary.digest[..])));
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = last.digest.clone(),
            _ => break,
        }
    }
    match found[..] {
        [digest] => Ok(digest),
        [] => Err(wrong(format!("no operation's digest begins with {text}"))),
        _ => Err(wrong(format!("{} operations' digests begin with {text}", found.len()))),
    }
}

fn matches<'a>(prefix: &str, digests: impl Iterator<Item = &'a [u8]>) -> Vec<[u8; 32]> {
    digests
        .filter(|digest| hex::encode(digest).starts_with(prefix))
        .filter_map(|digest| digest.try_into().ok())
        .collect()
}

fn no_part(what: &str) -> CliError {
    CliError::Answer(format!("it has no {what}"))
}

fn client(connection: &Connection) -> OperationServiceClient<Channel> {
    OperationServiceClient::new(connection.channel()).max_decoding_message_size(ANSWER_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_every_digest_that_begins_so() {
        let (a, b, c) = ([0x9f; 32], [[0x9f; 16], [0; 16]].concat(), [0x11; 32]);
        let digests = || [&a[..], &b[..], &c[..]].into_iter();
        assert_eq!(matches("9f9f9f9f9", digests()).len(), 2);
        assert_eq!(matches("11111111", digests()), vec![c]);
        assert!(matches("22222222", digests()).is_empty());
    }

    #[test]
    fn an_outcome_is_written_as_pem_and_der_and_nothing_is_written_for_what_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = OperationOutcome { certificate: b"abc".to_vec(), issuer_certificate: Vec::new() };
        let written = write_outcome(folder.path(), &outcome).unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!(std::fs::read(folder.path().join("certificate.der")).unwrap(), b"abc");
        assert!(!folder.path().join("issuer.der").exists());
    }
}
