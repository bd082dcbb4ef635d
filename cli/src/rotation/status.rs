//! How far a rotation is.

use proto::v1::{GetRotationRequest, RotationState, RotationStatus};
use serde::Serialize;

use crate::clock;
use crate::connect::Connection;
use crate::error::CliError;
use crate::output::{Output, fields, printable, table};
use crate::render::{self, Field};
use crate::rotation::client;
use crate::rotation::terms::term_fields;

/// A status for reading.
#[derive(Serialize)]
pub struct ShownStatus {
    /// Its name.
    pub name: String,
    /// As [`state_name`].
    pub state: &'static str,
    /// The stage at work, from 1.
    pub stage: u32,
    /// How many there are.
    pub stages: usize,
    /// Devices in all.
    pub devices: u64,
    /// Waiting for a script.
    pub pending: u64,
    /// With a script out.
    pub leased: u64,
    /// New key reported, proof outstanding.
    pub loaded: u64,
    /// Proved.
    pub confirmed: u64,
    /// Failed.
    pub failed: u64,
    /// The failed ones by reason.
    pub failures: Vec<ShownFailures>,
    /// Back on their old keysets after a roll back.
    pub rolled_back: u64,
    /// Not rolled back: their old keyset had ended.
    pub kept: u64,
    /// When.
    pub started: Option<String>,
    /// Who loads the cards.
    pub provisioner: String,
    /// Its terms in words.
    pub terms: Vec<Field>,
    /// What to do.
    pub next_step: String,
}

/// Devices that failed for one reason.
#[derive(Serialize)]
pub struct ShownFailures {
    /// As the contract names it.
    pub reason: String,
    /// How many.
    pub devices: u64,
    /// What it means and what to do.
    pub meaning: &'static str,
}

/// The state as commands name it.
pub const fn state_name(state: RotationState) -> &'static str {
    match state {
        RotationState::Unspecified => "unknown",
        RotationState::Preparing => "preparing",
        RotationState::Running => "running",
        RotationState::Paused => "paused",
        RotationState::Halted => "halted",
        RotationState::Completed => "completed",
        RotationState::RollingBack => "rolling-back",
        RotationState::RolledBack => "rolled-back",
    }
}

/// What somebody can do about a rotation in this state.
pub fn next_step(state: RotationState, name: &str) -> String {
    match state {
        RotationState::Unspecified => "this tool is older than the service; update it".to_owned(),
        RotationState::Preparing => format!("devices are being collected: chancery rotation watch {name}"),
        RotationState::Running => {
            format!("the provisioner loads the cards: chancery rotation watch {name}")
        }
        RotationState::Paused => format!("chancery rotation resume {name}, or roll-back"),
        RotationState::Halted => format!(
            "too many cards failed; find out why with the provisioner, then chancery rotation resume {name}, or roll-back"
        ),
        RotationState::Completed => {
            "failed devices stay on the old keyset: find out why, then rotate them to another key version"
                .to_owned()
        }
        RotationState::RollingBack => format!("chancery rotation watch {name}"),
        RotationState::RolledBack => "devices that were kept have only the new keyset".to_owned(),
    }
}

fn failure_words(reason: &str) -> &'static str {
    match reason {
        "check_value_wrong" => "the card answered other check values; it stays on its old keyset",
        "proof_wrong" => "the card's cryptogram does not prove the new keys; a wrong or cloned card",
        "proof_missing" => "the lease ended without a proof; look at the card, report a later proof",
        "card_refused" => "the card refused a command; look at its status word",
        "device_not_active" => "the device was frozen or retired meanwhile",
        _ => "",
    }
}

impl From<&RotationStatus> for ShownStatus {
    fn from(status: &RotationStatus) -> Self {
        let terms = status.terms.clone().unwrap_or_default();
        let name = printable(&terms.name);
        Self {
            state: state_name(status.state()),
            stage: status.stage + 1,
            stages: terms.stages.len(),
            devices: status.devices,
            pending: status.pending,
            leased: status.leased,
            loaded: status.loaded,
            confirmed: status.confirmed,
            failed: status.failed,
            failures: status
                .failures
                .iter()
                .map(|count| ShownFailures {
                    reason: printable(&count.reason),
                    devices: count.devices,
                    meaning: failure_words(&count.reason),
                })
                .collect(),
            rolled_back: status.rolled_back,
            kept: status.kept,
            started: status.started.as_ref().map(|at| clock::from_wire(at).to_string()),
            provisioner: printable(&terms.provisioner),
            next_step: next_step(status.state(), &name),
            terms: term_fields(&terms),
            name,
        }
    }
}

impl ShownStatus {
    /// For people.
    pub fn human(&self) -> String {
        let mut text = render::human(&self.terms);
        text.push('\n');
        text.push_str(&fields([
            ("state", self.state.to_owned()),
            ("started", self.started.clone().unwrap_or_else(|| "-".to_owned())),
            ("stage", format!("{} of {}", self.stage, self.stages)),
            ("devices", self.devices.to_string()),
            ("waiting", self.pending.to_string()),
            ("script out", self.leased.to_string()),
            ("loaded, unproved", self.loaded.to_string()),
            ("confirmed", self.confirmed.to_string()),
            ("failed", self.failed.to_string()),
        ]));
        if self.rolled_back > 0 || self.kept > 0 {
            text.push_str(&fields([
                ("back on the old keyset", self.rolled_back.to_string()),
                ("kept on the new one", self.kept.to_string()),
            ]));
        }
        if !self.failures.is_empty() {
            let rows = self
                .failures
                .iter()
                .map(|count| [count.devices.to_string(), count.reason.clone(), count.meaning.to_owned()]);
            text.push_str(&format!("\n{}\n", table(["failed", "reason", "meaning"], rows)));
        }
        text.push_str(&format!("\nnext: {}\n", self.next_step));
        text
    }
}

/// Asks how far the rotation of this name is.
pub async fn fetch_status(
    connection: &Connection,
    name: &str,
    output: Output,
) -> Result<RotationStatus, CliError> {
    let message = GetRotationRequest { name: name.to_owned() };
    let answer = connection
        .call(output, None, || {
            let request = connection.request(message.clone());
            let mut client = client(connection);
            async move { client.get_rotation(request).await }
        })
        .await?;
    let status = answer.status.ok_or_else(|| CliError::Answer("it has no status".to_owned()))?;
    match &status.terms {
        Some(terms) if terms.name == name => Ok(status),
        _ => Err(CliError::Answer("it is about another rotation".to_owned())),
    }
}
