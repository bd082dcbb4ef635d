//! Rotations: many devices move to a new key version under dual control, watched until every card has proved it.

mod deletions;
pub mod reports;
mod scripts;
pub mod status;
pub mod terms;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use proto::v1::operation::Kind;
use proto::v1::rotation_service_client::RotationServiceClient;
use proto::v1::{
    ListRotationsRequest, PauseRotationRequest, PlanRotationRequest, PlanRotationResponse,
    ResumeRotationRequest, RollBackRotation, RotationTerms, StartRotation,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::connect::{ANSWER_MAX_BYTES, Connection, IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::{Output, printable, table};
use crate::render::{self, Field};
use crate::rotation::deletions::{FetchDeletions, ReportDeletions};
use crate::rotation::reports::Report;
use crate::rotation::scripts::FetchScripts;
use crate::rotation::status::{ShownStatus, fetch_status};
use crate::rotation::terms::{TermsArgs, term_fields};
use crate::rotation::watch::Watch;

/// Exit code when some cards did not do what was asked of them.
const SOME_LEFT: u8 = 3;

/// `chancery rotation ...`
#[derive(Debug, Subcommand)]
pub enum RotationCommand {
    /// Show what a rotation of these terms would do as things are; nothing is changed.
    #[command(after_help = "Examples:
  chancery rotation plan --name aes-256 --provisioner otaco --ein 89049032 --from-kvn 0x30 --to-kvn 0x31 \\
      --to-algorithm AES-256 --stages 1,10,100 --overlap 7d --halt-failures 5 --identity alice/
  chancery rotation plan --file terms.json --identity alice/")]
    Plan(Plan),
    /// Show the plan, then request the rotation; another person must approve.
    ///
    /// Cards add the new keyset by PUT KEY under the new key version; the old one is served until the overlap ends.
    #[command(after_help = "Examples:
  chancery rotation request --name aes-256 --provisioner otaco --ein 89049032 --from-kvn 0x30 --to-kvn 0x31 \\
      --to-algorithm AES-256 --reason 'national programme AES-256' --identity alice/
  chancery rotation request --file terms.json --reason 'national programme AES-256' --identity alice/")]
    Request(Request),
    /// List rotations.
    #[command(after_help = "Example:
  chancery rotation list --identity alice/")]
    List(List),
    /// Show a rotation: its terms, how far it is, what failed, what to do next.
    #[command(after_help = "Example:
  chancery rotation show aes-256 --identity alice/")]
    Show(Named),
    /// Watch a rotation until it is completed, paused, halted or rolled back.
    ///
    /// With --output json each change is a line. Exit code 0 when it is completed or rolled back, 1 when it is paused or
    /// halted.
    #[command(after_help = "Examples:
  chancery rotation watch aes-256 --identity alice/
  chancery rotation watch aes-256 --output json --identity alice/")]
    Watch(Watch),
    /// Give out no further scripts; those given out may still be reported.
    #[command(after_help = "Example:
  chancery rotation pause aes-256 --identity bob/")]
    Pause(Change),
    /// Go on after a pause or a halt.
    #[command(after_help = "Example:
  chancery rotation resume aes-256 --identity alice/")]
    Resume(Change),
    /// Request that devices go back to their old keysets, where these have not ended; another person must approve.
    #[command(after_help = "Example:
  chancery rotation roll-back aes-256 --reason 'cards of batch 7 lose the channel' --yes --identity alice/")]
    RollBack(RollBack),
    /// Provisioner: fetch the PUT KEY scripts of the next devices, leased to this identity.
    #[command(after_help = "Example:
  chancery rotation fetch-scripts aes-256 --limit 200 --out scripts.jsonl --identity otaco/

The lines are described in docs/formats/rotation-scripts.md.")]
    FetchScripts(FetchScripts),
    /// Provisioner: report what the cards answered and proved.
    ///
    /// Only a card cryptogram under the new key version makes a new keyset active. Exit code 0 when every line is loaded
    /// or confirmed, 3 when some failed or were refused.
    #[command(after_help = "Example:
  chancery rotation report aes-256 --file results.jsonl --out report.jsonl --identity otaco/

The lines are described in docs/formats/rotation-scripts.md.")]
    Report(Report),
    /// Provisioner: fetch DELETE KEY scripts for devices whose old keyset has ended, where the rotation deletes old keys.
    #[command(after_help = "Example:
  chancery rotation fetch-deletions aes-256 --out deletions.jsonl --identity otaco/

The lines are described in docs/formats/rotation-scripts.md.")]
    FetchDeletions(FetchDeletions),
    /// Provisioner: report what the cards answered to DELETE KEY; 9000 destroys the old keyset in the records.
    ///
    /// Exit code 0 when every card deleted its old keyset, 3 when some did not.
    #[command(after_help = "Example:
  chancery rotation report-deletions aes-256 --file answers.jsonl --identity otaco/")]
    ReportDeletions(ReportDeletions),
}

/// Arguments of `rotation plan`.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `rotation request`.
#[derive(Debug, Args)]
pub struct Request {
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `rotation list`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A rotation by its name.
#[derive(Debug, Args)]
pub struct Named {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `rotation pause` and `rotation resume`.
#[derive(Debug, Args)]
pub struct Change {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `rotation roll-back`.
#[derive(Debug, Args)]
pub struct RollBack {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    request: RequestArgs,
}

impl RotationCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Plan(plan) => plan.run(output).await,
            Self::Request(request) => request.run(output).await,
            Self::List(list) => list.run(output).await,
            Self::Show(named) => named.show(output).await,
            Self::Watch(watch) => return watch.run(output).await,
            Self::Pause(change) => change.pause(output).await,
            Self::Resume(change) => change.resume(output).await,
            Self::RollBack(roll_back) => roll_back.run(output).await,
            Self::FetchScripts(fetch) => fetch.run(output).await,
            Self::Report(report) => return report.run(output).await,
            Self::FetchDeletions(fetch) => fetch.run(output).await,
            Self::ReportDeletions(report) => {
                let all = report.run(output).await?;
                return Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(SOME_LEFT) });
            }
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct ShownPlan {
    terms: Vec<Field>,
    devices: u64,
    stages: Vec<ShownStage>,
    excluded: Vec<ShownCount>,
    steps: Vec<String>,
}

#[derive(Serialize)]
struct ShownStage {
    percent: u32,
    devices: u64,
}

#[derive(Serialize)]
struct ShownCount {
    reason: String,
    devices: u64,
}

impl ShownPlan {
    fn new(terms: &RotationTerms, plan: &PlanRotationResponse) -> Result<Self, CliError> {
        if plan.stage_devices.len() != terms.stages.len() {
            return Err(CliError::Answer("the plan has other stages than the terms".to_owned()));
        }
        let stages = terms.stages.iter().zip(&plan.stage_devices);
        Ok(Self {
            terms: term_fields(terms),
            devices: plan.devices,
            stages: stages
                .map(|(percent, devices)| ShownStage { percent: *percent, devices: *devices })
                .collect(),
            excluded: plan
                .excluded
                .iter()
                .map(|left_out| ShownCount { reason: printable(&left_out.reason), devices: left_out.devices })
                .collect(),
            steps: plan.steps.iter().map(|step| printable(step)).collect(),
        })
    }

    fn human(&self) -> String {
        let stages = self.stages.iter().zip(1..).map(|(stage, number)| {
            [number.to_string(), format!("{} %", stage.percent), stage.devices.to_string()]
        });
        let mut text = format!(
            "{}\n{} devices would be rotated\n{}\n",
            render::human(&self.terms),
            self.devices,
            table(["stage", "up to", "devices"], stages)
        );
        if !self.excluded.is_empty() {
            let rows = self.excluded.iter().map(|left_out| {
                let words = exclusion_words(&left_out.reason).to_owned();
                [left_out.devices.to_string(), left_out.reason.clone(), words]
            });
            text.push_str(&format!("\n{}\n", table(["left out", "reason", "meaning"], rows)));
        }
        text.push_str("\nwhat will happen\n");
        for (step, number) in self.steps.iter().zip(1..) {
            text.push_str(&format!("{number:>3}. {step}\n"));
        }
        text
    }
}

fn exclusion_words(reason: &str) -> &'static str {
    match reason {
        "no_such_device" => "the EID is not registered",
        "device_frozen" => "frozen: restore it first, or leave it",
        "device_retired" => "retired",
        "no_old_keyset" => "it has no active keyset of the old key version",
        "key_version_used" => "it has a keyset under the new key version already",
        "in_other_rotation" => "another rotation has it",
        _ => "",
    }
}

async fn plan(connection: &Connection, terms: &RotationTerms, output: Output) -> Result<ShownPlan, CliError> {
    let message = PlanRotationRequest { terms: Some(terms.clone()) };
    let answer = connection
        .call(output, None, || {
            let request = connection.request(message.clone());
            let mut client = client(connection);
            async move { client.plan_rotation(request).await }
        })
        .await?;
    ShownPlan::new(terms, &answer)
}

impl Plan {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let terms = self.terms.terms()?;
        let connection = self.remote.connect(output).await?;
        let plan = plan(&connection, &terms, output).await?;
        output.print(&plan, |plan| {
            format!(
                "{}\nnothing was changed; next: chancery rotation request with the same terms",
                plan.human()
            )
        })
    }
}

impl Request {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let terms = self.terms.terms()?;
        let connection = self.request.send.remote.connect(output).await?;
        let plan = plan(&connection, &terms, output).await?;
        output.explain(&plan.human())?;
        if plan.devices == 0 {
            let left_out =
                plan.excluded.iter().map(|left_out| format!("{} {}", left_out.devices, left_out.reason));
            let left_out: Vec<_> = left_out.collect();
            return Err(CliError::invalid(
                format!("no device would be rotated; left out: {}", left_out.join(", ")),
                "correct the terms and look at them with chancery rotation plan",
            ));
        }
        let kind = Kind::StartRotation(StartRotation { terms: Some(terms) });
        operation::request(kind, &self.request, output).await
    }
}

impl List {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(ListRotationsRequest {});
                let mut client = client(&connection);
                async move { client.list_rotations(request).await }
            })
            .await?;
        let list: Vec<_> = answer.rotations.iter().map(ShownStatus::from).collect();
        output.print(&list, |list| {
            let rows = list.iter().map(|status| {
                [
                    status.name.clone(),
                    status.state.to_owned(),
                    format!("{} of {}", status.stage, status.stages),
                    status.devices.to_string(),
                    status.confirmed.to_string(),
                    status.failed.to_string(),
                    status.provisioner.clone(),
                    status.started.clone().unwrap_or_default(),
                ]
            });
            let header =
                ["rotation", "state", "stage", "devices", "confirmed", "failed", "provisioner", "started"];
            table(header, rows)
        })
    }
}

impl Named {
    async fn show(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let status = fetch_status(&connection, &self.name, output).await?;
        output.print(&ShownStatus::from(&status), ShownStatus::human)
    }
}

#[derive(Serialize)]
struct Changed {
    name: String,
    change: &'static str,
    entry_index: u64,
}

impl Change {
    async fn pause(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = PauseRotationRequest { idempotency_key: key.clone(), name: self.name.clone() };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.pause_rotation(request).await }
            })
            .await?;
        self.print("paused", "resume", answer.entry_index, output)
    }

    async fn resume(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = ResumeRotationRequest { idempotency_key: key.clone(), name: self.name.clone() };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.resume_rotation(request).await }
            })
            .await?;
        self.print("resumed", "watch", answer.entry_index, output)
    }

    fn print(
        &self,
        change: &'static str,
        next: &str,
        entry_index: u64,
        output: Output,
    ) -> Result<(), CliError> {
        let changed = Changed { name: self.name.clone(), change, entry_index };
        output.print(&changed, |changed| {
            format!(
                "{change}: {} (log entry {entry_index})\nnext: chancery rotation {next} {}",
                changed.name, changed.name
            )
        })
    }
}

impl RollBack {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.request.send.remote.connect(output).await?;
        let status = fetch_status(&connection, &self.name, output).await?;
        output.explain(&format!(
            "{}\nroll back, once approved and executed\n- no further script is given out\n\
             - devices go back to their old keyset where its overlap has not ended; the others keep the new one\n\
             - a rotation that was rolled back cannot be resumed\n",
            ShownStatus::from(&status).human()
        ))?;
        output.confirm("Request the roll back?", self.yes)?;
        let kind = Kind::RollBackRotation(RollBackRotation { name: self.name.clone() });
        operation::request(kind, &self.request, output).await
    }
}

/// For the calls of this noun.
pub fn client(connection: &Connection) -> RotationServiceClient<Channel> {
    RotationServiceClient::new(connection.channel()).max_decoding_message_size(ANSWER_MAX_BYTES)
}
