//! What a benchmark reports: levels of load, what they used, and what the tokens do alone.

use serde::{Deserialize, Serialize};

use crate::bench::authority::ScratchAuthority;
use crate::bench::process::{Cpu, counter, cpu};
use crate::error::CliError;
use crate::output::{fields, table};

/// Work that one operation of the service makes for a token.
pub struct TokenWork {
    /// Its name in the configuration.
    pub token: &'static str,
    /// Kind of `chanceryd token-rate`.
    pub kind: &'static str,
}

/// One level of load.
#[derive(Serialize)]
pub struct Level {
    /// Calls or orders at once.
    pub in_flight: usize,
    /// Answered as asked.
    pub operations: u64,
    /// Of them.
    pub per_second: f64,
    /// Half were answered within.
    pub p50_us: u32,
    /// 99 of 100 were answered within.
    pub p99_us: u32,
    /// Of the daemon without its workers: TLS, decisions, the log.
    pub daemon_cpu_us_per_operation: f64,
    /// Of the token workers.
    pub worker_cpu_us_per_operation: f64,
    /// Of this tool, which shares the machine.
    pub client_cpu_us_per_operation: f64,
    /// Time inside calls of the token, all tokens together.
    pub token_us_per_operation: f64,
    /// Of the time that the workers of these tokens have.
    pub token_share: f64,
}

/// What `chanceryd token-rate` reports.
#[derive(Serialize, Deserialize)]
pub struct TokenRate {
    /// As asked for.
    pub kind: String,
    /// Done.
    pub operations: u64,
    /// In so long.
    pub seconds: f64,
    /// Over the workers' pipes, as the service does it, with nothing else running.
    pub per_second: f64,
    /// Time inside the token's C_* calls.
    pub token_us_per_operation: f64,
    /// How many those are.
    pub pkcs11_calls_per_operation: f64,
}

/// What a benchmark of levels came to.
#[derive(Serialize)]
pub struct Report {
    /// Its verb.
    pub benchmark: &'static str,
    /// In the order they were run.
    pub levels: Vec<Level>,
    /// Answers that were opened or parsed and found right.
    pub answers_checked: u64,
    /// Worker processes of each token.
    pub workers_per_token: u64,
    /// Of this machine.
    pub cores: usize,
    /// Injected into each token job.
    pub token_delay_us: u64,
    /// Each kind of work alone.
    pub token_alone: Vec<TokenRate>,
    /// What the PKCS#11 calls of the operation allow: as many calls at a time as a token has workers or the machine
    /// cores, and nothing between the calls.
    pub raw_per_second: f64,
    /// Best level against that.
    pub ratio_to_raw: f64,
    /// What the same jobs reach over the workers' pipes, without the service.
    pub pipe_per_second: f64,
    /// Best level against that.
    pub ratio_to_pipe: f64,
}

/// Calls of one kind keep their own workers busy; calls of all kinds share the cores, where a delay costs nothing.
pub fn raw_per_second(alone: &[TokenRate], workers: u64, cores: usize, delay_us: u64) -> f64 {
    let at_once = (workers as f64).min(cores as f64);
    let of_workers = alone
        .iter()
        .map(|rate| {
            // A delayed worker waits without a core, so only the workers bound it.
            let lanes = if delay_us == 0 { at_once } else { workers as f64 };
            1e6 * lanes / (rate.token_us_per_operation + delay_us as f64)
        })
        .fold(f64::INFINITY, f64::min);
    let of_cores = 1e6 * cores as f64 / alone.iter().map(|rate| rate.token_us_per_operation).sum::<f64>();
    of_workers.min(of_cores)
}

/// What the service, and this tool, have used so far.
#[derive(Clone, Copy)]
pub struct Usage {
    /// The daemon and its workers.
    pub service: Cpu,
    /// This tool.
    pub client_us: u64,
    /// Inside calls of the tokens asked for.
    pub token_us: u64,
}

impl Usage {
    /// As of now.
    pub fn read(authority: &ScratchAuthority, work: &[TokenWork]) -> Result<Self, CliError> {
        let mut token_us = 0;
        for TokenWork { token, .. } in work {
            let series = format!("chancery_token_busy_microseconds_total{{token=\"{token}\"}}");
            token_us += counter(authority.metrics, &series)?;
        }
        Ok(Self { service: cpu(authority.pid())?, client_us: cpu(std::process::id())?.own_us, token_us })
    }

    /// What came in addition.
    pub fn since(self, before: Self) -> Self {
        let service = Cpu {
            own_us: self.service.own_us.saturating_sub(before.service.own_us),
            descendants_us: self.service.descendants_us.saturating_sub(before.service.descendants_us),
        };
        Self {
            service,
            client_us: self.client_us.saturating_sub(before.client_us),
            token_us: self.token_us.saturating_sub(before.token_us),
        }
    }
}

/// For people.
pub fn human(report: &Report) -> String {
    let rows = report.levels.iter().map(|level| {
        [
            level.in_flight.to_string(),
            format!("{:.0}", level.per_second),
            format!("{:.2}", f64::from(level.p50_us) / 1_000.0),
            format!("{:.2}", f64::from(level.p99_us) / 1_000.0),
            format!("{:.0}", level.daemon_cpu_us_per_operation),
            format!("{:.0}", level.worker_cpu_us_per_operation),
            format!("{:.0}", level.client_cpu_us_per_operation),
            format!("{:.0}", level.token_us_per_operation),
            format!("{:.0} %", 100.0 * level.token_share),
        ]
    });
    let header = [
        "in flight",
        "per second",
        "p50 ms",
        "p99 ms",
        "daemon CPU us",
        "worker CPU us",
        "client CPU us",
        "token us",
        "token busy",
    ];
    let alone = report.token_alone.iter().map(|rate| {
        [
            rate.kind.clone(),
            format!("{:.0}", rate.token_us_per_operation),
            format!("{:.1}", rate.pkcs11_calls_per_operation),
            format!("{:.0}", rate.per_second),
        ]
    });
    format!(
        "{}\n{}\n{}",
        table(header, rows),
        table(["tokens alone", "us each", "PKCS#11 calls each", "over the pipe, per second"], alone),
        fields([
            ("answers checked", report.answers_checked.to_string()),
            ("workers per token, cores", format!("{}, {}", report.workers_per_token, report.cores)),
            ("raw PKCS#11 calls allow", format!("{:.0} per second", report.raw_per_second)),
            ("best level to raw", format!("{:.2}", report.ratio_to_raw)),
            ("workers alone reach", format!("{:.0} per second", report.pipe_per_second)),
            ("best level to workers alone", format!("{:.2}", report.ratio_to_pipe)),
        ])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(token_us_per_operation: f64) -> TokenRate {
        TokenRate {
            kind: "sign".to_owned(),
            operations: 1,
            seconds: 1.0,
            per_second: 1.0,
            token_us_per_operation,
            pkcs11_calls_per_operation: 2.0,
        }
    }

    #[test]
    fn the_raw_rate_is_bound_by_workers_and_by_the_cores_they_share() {
        assert_eq!(raw_per_second(&[alone(100.0)], 2, 8, 0), 20_000.0);
        assert_eq!(raw_per_second(&[alone(100.0)], 8, 2, 0), 20_000.0);
        assert_eq!(raw_per_second(&[alone(100.0), alone(300.0)], 2, 2, 0), 5_000.0);
        assert_eq!(raw_per_second(&[alone(100.0), alone(300.0)], 2, 8, 0), 2.0 * 1e6 / 300.0);
        // A slow token: its waiting takes no core.
        assert_eq!(raw_per_second(&[alone(100.0)], 8, 2, 900), 8_000.0);
    }
}
