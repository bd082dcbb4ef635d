//! Devices: looked at, frozen at once by one person, given back by two.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use domain::Eid;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::operation::Kind;
use proto::v1::{
    FreezeDeviceRequest, FreezeReason, GetDeviceRequest, GetDeviceResponse, Keyset, RestoreDevice,
};
use serde::Serialize;

use crate::clock;
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::operation::{self, RequestArgs};
use crate::output::{Output, fields, printable, table};
use crate::rotation::terms::domain_name;

/// Longest reference of a freeze.
const REFERENCE_MAX: usize = 100;

/// `chancery device ...`
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Show a device: its state, its keysets, its rotations, and why it is frozen.
    ///
    /// The look itself is recorded in the log.
    #[command(after_help = "Example:
  chancery device show 89049032123451234512345678901235 --identity alice/")]
    Show(Show),
    /// Freeze a stolen, lost or cloned device at once: one person is enough.
    ///
    /// From the log entry of the freeze on no key of the device leaves. To restore it takes an approved operation.
    #[command(after_help = "Examples:
  chancery device freeze 89049032123451234512345678901235 --reason stolen --reference 'police report 4711/26' \\
      --yes --identity alice/
  chancery device freeze 89049032123451234512345678901235 --reason clone-suspected --reference INC-2026-118 \\
      --yes --identity bob/")]
    Freeze(Freeze),
    /// Request that the freeze of a device is lifted; another person must approve.
    #[command(after_help = "Example:
  chancery device restore 89049032123451234512345678901235 --reason 'found, report 4711/26 closed' --identity alice/")]
    Restore(Restore),
}

/// Arguments of `device show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The device
    eid: Eid,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `device freeze`.
#[derive(Debug, Args)]
pub struct Freeze {
    /// The device
    eid: Eid,
    /// Why
    #[arg(long)]
    reason: ReasonArg,
    /// The report it rests on, for example a case number: 1 to 100 characters; kept out of the log
    #[arg(long, value_name = "TEXT", value_parser = parse_reference)]
    reference: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `device restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The device
    eid: Eid,
    #[command(flatten)]
    request: RequestArgs,
}

/// Why a device is frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ReasonArg {
    /// Its holder reported it stolen
    Stolen,
    /// Its holder lost it
    Lost,
    /// Two devices were seen with its keys, or a card did not prove them
    CloneSuspected,
    /// An order of a court or of the regulator
    LawfulOrder,
}

impl ReasonArg {
    const fn to_wire(self) -> FreezeReason {
        match self {
            Self::Stolen => FreezeReason::Stolen,
            Self::Lost => FreezeReason::Lost,
            Self::CloneSuspected => FreezeReason::CloneSuspected,
            Self::LawfulOrder => FreezeReason::LawfulOrder,
        }
    }
}

const fn reason_name(reason: FreezeReason) -> &'static str {
    match reason {
        FreezeReason::Unspecified => "unknown",
        FreezeReason::Stolen => "stolen",
        FreezeReason::Lost => "lost",
        FreezeReason::CloneSuspected => "clone-suspected",
        FreezeReason::LawfulOrder => "lawful-order",
    }
}

fn parse_reference(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if (1..=REFERENCE_MAX).contains(&length) && printable(text) == text {
        Ok(text.to_owned())
    } else {
        Err("a reference has 1 to 100 printable characters".to_owned())
    }
}

impl DeviceCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Show(show) => show.run(output).await,
            Self::Freeze(freeze) => freeze.run(output).await,
            Self::Restore(restore) => {
                let kind = Kind::RestoreDevice(RestoreDevice { eid: restore.eid.to_string() });
                operation::request(kind, &restore.request, output).await
            }
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct Shown {
    eid: String,
    state: String,
    eum: String,
    order: String,
    line: u64,
    keysets: Vec<ShownKeyset>,
    freeze: Option<ShownFreeze>,
    rotations: Vec<ShownRotation>,
}

#[derive(Serialize)]
struct ShownKeyset {
    security_domain: String,
    kvn: String,
    key_bits: u32,
    state: String,
    effective_strength: u32,
    master_generation: u32,
    created: Option<String>,
    ends: Option<String>,
    /// Of ENC, MAC and DEK.
    check_values: Vec<String>,
}

#[derive(Serialize)]
struct ShownFreeze {
    reason: &'static str,
    reference: String,
    person: String,
    time: Option<String>,
    next_step: String,
}

#[derive(Serialize)]
struct ShownRotation {
    rotation: String,
    state: String,
}

fn time_text(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.map(|at| clock::from_wire(at).to_string())
}

impl From<&GetDeviceResponse> for Shown {
    fn from(device: &GetDeviceResponse) -> Self {
        let eid = printable(&device.eid);
        Self {
            state: printable(&device.state),
            eum: printable(&device.eum),
            order: printable(&device.order),
            line: device.line,
            keysets: device.keysets.iter().map(ShownKeyset::from).collect(),
            freeze: device.freeze.as_ref().map(|freeze| ShownFreeze {
                reason: reason_name(freeze.reason()),
                reference: printable(&freeze.reference),
                person: printable(&freeze.person),
                time: time_text(freeze.time.as_ref()),
                next_step: format!(
                    "no key of it leaves; when the report is settled, an officer requests: chancery device restore {eid} --reason ..."
                ),
            }),
            rotations: device
                .rotations
                .iter()
                .map(|part| ShownRotation {
                    rotation: printable(&part.rotation),
                    state: printable(&part.state),
                })
                .collect(),
            eid,
        }
    }
}

impl From<&Keyset> for ShownKeyset {
    fn from(keyset: &Keyset) -> Self {
        let name = keyset.name.unwrap_or_default();
        Self {
            security_domain: domain_name(name.security_domain),
            kvn: u8::try_from(name.key_version_number)
                .map_or_else(|_| name.key_version_number.to_string(), |kvn| format!("0x{kvn:02x}")),
            key_bits: keyset.key_bits,
            state: printable(&keyset.state),
            effective_strength: keyset.effective_strength,
            master_generation: keyset.master_generation,
            created: time_text(keyset.created.as_ref()),
            ends: time_text(keyset.ends.as_ref()),
            check_values: keyset.check_values.iter().map(hex::encode).collect(),
        }
    }
}

impl Show {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let message = GetDeviceRequest { eid: self.eid.to_string() };
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = DeviceServiceClient::new(connection.channel());
                async move { client.get_device(request).await }
            })
            .await?;
        if answer.eid != message.eid {
            return Err(CliError::Answer("it is about another device".to_owned()));
        }
        output.print(&Shown::from(&answer), human)
    }
}

fn human(device: &Shown) -> String {
    let mut text = fields([
        ("EID", device.eid.clone()),
        ("state", device.state.clone()),
        ("manufacturer", device.eum.clone()),
        ("order", format!("{} line {}", device.order, device.line)),
    ]);
    if let Some(freeze) = &device.freeze {
        text.push_str("\nFROZEN\n");
        text.push_str(&fields([
            ("why", freeze.reason.to_owned()),
            ("report", freeze.reference.clone()),
            ("by", freeze.person.clone()),
            ("at", freeze.time.clone().unwrap_or_default()),
            ("next", freeze.next_step.clone()),
        ]));
    }
    let rows = device.keysets.iter().map(|keyset| {
        [
            keyset.security_domain.clone(),
            keyset.kvn.clone(),
            format!("AES-{}", keyset.key_bits),
            keyset.state.clone(),
            format!("{} bits", keyset.effective_strength),
            keyset.master_generation.to_string(),
            keyset.check_values.join(" "),
            keyset.ends.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let header = ["domain", "KVN", "keys", "state", "worth", "master", "KCV of ENC MAC DEK", "ends"];
    text.push('\n');
    text.push_str(&table(header, rows));
    if !device.rotations.is_empty() {
        let rows = device.rotations.iter().map(|part| [part.rotation.clone(), part.state.clone()]);
        text.push_str("\n\n");
        text.push_str(&table(["rotation", "its state there"], rows));
    }
    text
}

#[derive(Serialize)]
struct Frozen {
    eid: String,
    reason: &'static str,
    entry_index: u64,
}

impl Freeze {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let reason = self.reason.to_wire();
        output.explain(&format!(
            "freeze {} ({}, {})\n- from the log entry on no key of it leaves: neither session keys nor rotation scripts\n\
             - scripts and session keys that left before stay usable on the card\n\
             - to restore it takes an officer's request and another person's approval\n",
            self.eid,
            reason_name(reason),
            self.reference
        ))?;
        output.confirm("Freeze this device now?", self.yes)?;
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = FreezeDeviceRequest {
            idempotency_key: key.clone(),
            eid: self.eid.to_string(),
            reason: reason.into(),
            reference: self.reference.clone(),
        };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = DeviceServiceClient::new(connection.channel());
                async move { client.freeze_device(request).await }
            })
            .await?;
        let frozen =
            Frozen { eid: message.eid, reason: reason_name(reason), entry_index: answer.entry_index };
        output.print(&frozen, |frozen| {
            format!(
                "frozen: {} (log entry {})\nnext: chancery device show {}",
                frozen.eid, frozen.entry_index, frozen.eid
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::KeysetName;

    use super::*;

    #[test]
    fn a_frozen_device_says_why_who_when_and_what_to_do_next() {
        let device = GetDeviceResponse {
            eid: "89049032123451234512345678901235".to_owned(),
            state: "frozen".to_owned(),
            eum: "acme".to_owned(),
            order: "o1".to_owned(),
            line: 3,
            keysets: vec![Keyset {
                name: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
                key_bits: 128,
                state: "suspended".to_owned(),
                effective_strength: 128,
                check_values: vec![vec![0x0a, 0x0b, 0x0c]],
                ..Keyset::default()
            }],
            freeze: Some(proto::v1::Freeze {
                reason: FreezeReason::Stolen.into(),
                reference: "case 7\u{1b}[2J".to_owned(),
                person: "alice".to_owned(),
                time: Some(clock::to_wire(domain::Timestamp::from_seconds(0))),
            }),
            rotations: Vec::new(),
        };
        let text = human(&Shown::from(&device));
        for words in
            ["stolen", "case 7\\u{1b}", "alice", "1970-01-01", "device restore 8904", "0x30", "0a0b0c"]
        {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        let active = GetDeviceResponse { freeze: None, state: "active".to_owned(), ..device };
        assert!(!human(&Shown::from(&active)).contains("FROZEN"));
    }

    #[test]
    fn a_reference_is_short_and_printable() {
        assert!(parse_reference("Aktenzeichen 7 Gs 12/26").is_ok());
        for wrong in ["", "a\nb", "\u{202e}x", &"x".repeat(101)] {
            assert!(parse_reference(wrong).is_err(), "{wrong}");
        }
    }
}
