//! Watching a rotation: a bar for people, a line for each change for programs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use proto::v1::{RotationState, RotationStatus};
use serde::Serialize;

use crate::connect::RemoteArgs;
use crate::error::CliError;
use crate::identity::parse_name;
use crate::output::{Format, Output};
use crate::rotation::status::{ShownStatus, fetch_status, state_name};

/// Arguments of `rotation watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    /// Milliseconds between two looks
    #[arg(long, default_value_t = 1_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    interval_ms: u64,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What one look saw, and how fast it goes.
#[derive(Serialize)]
struct Look {
    name: String,
    state: &'static str,
    stage: u32,
    devices: u64,
    pending: u64,
    leased: u64,
    loaded: u64,
    confirmed: u64,
    failed: u64,
    rolled_back: u64,
    kept: u64,
    /// Devices that ended, since the watching began.
    per_second: f64,
    /// Until every device has ended, at that rate.
    eta_s: Option<u64>,
}

/// Where the watching began.
struct Pace {
    began: Instant,
    ended_then: u64,
}

impl Pace {
    /// Devices per second, and seconds until all have ended.
    fn of(&self, status: &RotationStatus) -> (f64, Option<u64>) {
        pace(self.began.elapsed(), ended(status).saturating_sub(self.ended_then), left(status))
    }
}

fn pace(elapsed: Duration, done: u64, left: u64) -> (f64, Option<u64>) {
    if done == 0 || elapsed.is_zero() {
        return (0.0, None);
    }
    let per_second = done as f64 / elapsed.as_secs_f64();
    // Seconds of a rotation fit: at most as many as there are devices, times the seconds watched.
    let eta = Duration::try_from_secs_f64(left as f64 / per_second).ok();
    (per_second, eta.map(|eta| eta.as_secs()))
}

/// Devices with which nothing more happens, forward or back.
const fn ended(status: &RotationStatus) -> u64 {
    match status.state {
        ROLLING_BACK | ROLLED_BACK => status.rolled_back + status.kept,
        _ => status.confirmed + status.failed,
    }
}

const ROLLING_BACK: i32 = RotationState::RollingBack as i32;
const ROLLED_BACK: i32 = RotationState::RolledBack as i32;

const fn left(status: &RotationStatus) -> u64 {
    status.devices.saturating_sub(ended(status))
}

/// Whether nothing more happens by itself, and with which exit code the watching ends then.
const fn end_of(state: RotationState) -> Option<ExitCode> {
    match state {
        RotationState::Completed | RotationState::RolledBack => Some(ExitCode::SUCCESS),
        RotationState::Paused | RotationState::Halted => Some(ExitCode::FAILURE),
        RotationState::Unspecified
        | RotationState::Preparing
        | RotationState::Running
        | RotationState::RollingBack => None,
    }
}

impl Watch {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let connection = self.remote.connect(output).await?;
        let mut status = fetch_status(&connection, &self.name, output).await?;
        let pace = Pace { began: Instant::now(), ended_then: ended(&status) };
        let mut progress =
            (output.format == Format::Table).then(|| output.progress("rotating devices", status.devices));
        let mut shown = None;
        let code = loop {
            if shown.as_ref() != Some(&status) {
                match &mut progress {
                    Some(progress) => progress.set(ended(&status), status.devices, note(&status)),
                    None => output.print_text(&self.line(&status, &pace)?)?,
                }
                shown = Some(status.clone());
            }
            if let Some(code) = end_of(status.state()) {
                break code;
            }
            tokio::time::sleep(Duration::from_millis(self.interval_ms)).await;
            status = fetch_status(&connection, &self.name, output).await?;
        };
        if let Some(progress) = progress {
            let (per_second, _) = pace.of(&status);
            progress.finish(&format!(
                "{}, {} ({per_second:.1} devices per second while watched)",
                state_name(status.state()),
                note(&status)
            ));
            output.print_text(&ShownStatus::from(&status).human())?;
        }
        Ok(code)
    }

    fn line(&self, status: &RotationStatus, pace: &Pace) -> Result<String, CliError> {
        let (per_second, eta_s) = pace.of(status);
        let look = Look {
            name: self.name.clone(),
            state: state_name(status.state()),
            stage: status.stage + 1,
            devices: status.devices,
            pending: status.pending,
            leased: status.leased,
            loaded: status.loaded,
            confirmed: status.confirmed,
            failed: status.failed,
            rolled_back: status.rolled_back,
            kept: status.kept,
            per_second,
            eta_s,
        };
        serde_json::to_string(&look).map_err(|error| CliError::Local(error.to_string()))
    }
}

fn note(status: &RotationStatus) -> String {
    if matches!(status.state(), RotationState::RollingBack | RotationState::RolledBack) {
        return format!("{} back on the old keyset, {} kept", status.rolled_back, status.kept);
    }
    format!("stage {}: {} confirmed, {} failed", status.stage + 1, status.confirmed, status.failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_come_from_what_ended_while_watched() {
        assert_eq!(pace(Duration::from_secs(10), 50, 100), (5.0, Some(20)));
        assert_eq!(pace(Duration::from_secs(10), 0, 100), (0.0, None));
        assert_eq!(pace(Duration::from_secs(10), 50, 0), (5.0, Some(0)));
    }

    #[test]
    fn a_roll_back_has_a_progress_of_its_own() {
        let forward = RotationStatus { confirmed: 7, failed: 1, devices: 10, ..RotationStatus::default() };
        assert_eq!((ended(&forward), left(&forward)), (8, 2));
        let back = RotationStatus { state: ROLLING_BACK, rolled_back: 3, kept: 1, ..forward };
        assert_eq!((ended(&back), left(&back)), (4, 6));
        assert_eq!(note(&back), "3 back on the old keyset, 1 kept");
    }

    #[test]
    fn watching_ends_where_nothing_more_happens_by_itself() {
        for (state, ends) in [
            (RotationState::Preparing, false),
            (RotationState::Running, false),
            (RotationState::RollingBack, false),
            (RotationState::Paused, true),
            (RotationState::Halted, true),
            (RotationState::Completed, true),
            (RotationState::RolledBack, true),
        ] {
            assert_eq!(end_of(state).is_some(), ends, "{state:?}");
        }
    }
}
