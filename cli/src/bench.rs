//! The benchmark: the service under load over real mTLS, beside the raw rate of the token calls it rests on.

mod authority;
mod cards;
mod issue;
mod load;
mod process;
mod session_keys;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::{Args, Subcommand};
use proto::v1::KeysetName;
use serde::{Deserialize, Serialize};

use crate::bench::authority::{EIN, ISSUER, PURPOSE, ScratchAuthority, Setup};
use crate::bench::issue::IssueLoad;
use crate::bench::load::{CONNECTIONS, Measured};
use crate::bench::process::{Cpu, counter, cpu};
use crate::bench::session_keys::SessionKeyLoad;
use crate::connect::{Connection, RemoteArgs};
use crate::error::CliError;
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::output::{Output, fields, table};

/// The keyset that is ordered and used: ISD-R, SCP03, KVN 30.
const KEYSET: KeysetName = KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 };
const ORDER: &str = "bench";
const WARM_UP: Duration = Duration::from_secs(1);
/// Card proofs of the measurement of the token alone; used in turn.
const PROOFS: u64 = 20_000;
/// What a session-key fetch asks of the tokens, and what a certificate does: token and kind of `chanceryd token-rate`.
const SESSION_KEY_WORK: &[TokenWork] = &[TokenWork { token: "kms", kind: "session-keys" }];
const ISSUE_WORK: &[TokenWork] =
    &[TokenWork { token: "ca", kind: "sign" }, TokenWork { token: "kms", kind: "order" }];

/// Work that one operation of the service makes for a token.
struct TokenWork {
    token: &'static str,
    kind: &'static str,
}

/// `chancery bench ...`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Session-key fetches per second: distinct challenges, keys inside the token, every answer sealed.
    ///
    /// Makes a scratch authority of its own (SoftHSM) in the temporary folder, orders devices, and takes it all away
    /// again. Nothing of a running authority is touched.
    #[command(after_help = "Examples:
  chancery bench session-keys
  chancery bench session-keys --in-flight 64 --seconds 10 --token-delay-us 1000 --output json")]
    SessionKeys(BenchArgs),
    /// eUICC certificates per second: fresh keys, linted, signed in the token, verified, logged.
    #[command(after_help = "Example:
  chancery bench issue --in-flight 1 --in-flight 4 --output json")]
    Issue(BenchArgs),
}

/// Arguments of both benchmarks.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Devices that are ordered before the session keys are fetched
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    devices: u64,
    /// Seconds of each level (session keys), and of the raw measurement
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// A level: calls in flight (session keys) or orders at once (issue); may be repeated; the usual sweep when absent
    #[arg(long = "in-flight", value_name = "N")]
    levels: Vec<usize>,
    /// Worker processes of each token
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    workers: u64,
    /// Injected delay of each token job, in microseconds
    #[arg(long, default_value_t = 0, value_name = "MICROSECONDS")]
    token_delay_us: u64,
    /// The daemon's binary; the one beside this tool when absent
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
}

/// One level of load.
#[derive(Serialize)]
struct Level {
    in_flight: usize,
    operations: u64,
    per_second: f64,
    p50_us: u32,
    p99_us: u32,
    /// Of the daemon without its workers: TLS, decisions, the log.
    daemon_cpu_us_per_operation: f64,
    /// Of the token workers.
    worker_cpu_us_per_operation: f64,
    /// Of this tool, which shares the machine.
    client_cpu_us_per_operation: f64,
    /// Time inside calls of the token, all tokens together.
    token_us_per_operation: f64,
    /// Of the time that the workers of these tokens have.
    token_share: f64,
}

/// What `chanceryd token-rate` reports.
#[derive(Serialize, Deserialize)]
struct TokenRate {
    kind: String,
    operations: u64,
    seconds: f64,
    /// Over the workers' pipes, as the service does it, with nothing else running.
    per_second: f64,
    /// Time inside the token's C_* calls.
    token_us_per_operation: f64,
    pkcs11_calls_per_operation: f64,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    levels: Vec<Level>,
    /// Answers that were opened or parsed and found right.
    answers_checked: u64,
    workers_per_token: u64,
    cores: usize,
    token_delay_us: u64,
    token_alone: Vec<TokenRate>,
    /// What the PKCS#11 calls of the operation allow: as many calls at a time as a token has workers or the machine
    /// cores, and nothing between the calls.
    raw_per_second: f64,
    /// Best level against that.
    ratio_to_raw: f64,
    /// What the same jobs reach over the workers' pipes, without the service.
    pipe_per_second: f64,
    /// Best level against that.
    ratio_to_pipe: f64,
}

impl BenchCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let (Self::SessionKeys(args) | Self::Issue(args)) = self;
        let daemon = match &args.daemon {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|error| CliError::Local(error.to_string()))?
                .with_file_name("chanceryd"),
        };
        let workers = usize::try_from(args.workers).unwrap_or(1);
        let mut progress = output.progress("making a scratch authority", 4);
        let setup = Setup { daemon: &daemon, workers, token_delay_us: args.token_delay_us };
        let mut authority = ScratchAuthority::start(&setup, &mut progress).await?;
        progress.finish("ready");
        let report = tokio::select! {
            report = async {
                match self {
                    Self::SessionKeys(args) => args.session_keys(&mut authority, output).await,
                    Self::Issue(args) => args.issue(&mut authority, output).await,
                }
            } => report?,
            _ = tokio::signal::ctrl_c() => return Err(CliError::Local("interrupted".to_owned())),
        };
        output.print(&report, human)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl BenchArgs {
    async fn session_keys(
        &self,
        authority: &mut ScratchAuthority,
        output: Output,
    ) -> Result<Report, CliError> {
        let (devices, wrapped) = (authority.path("devices.csv"), authority.path("output.jsonl"));
        let eum = authority.path(authority::EUM);
        let csv = tokio::task::block_in_place(|| issue::device_file(EIN, self.devices))?;
        std::fs::write(&devices, csv).map_err(CliError::file("write", &devices))?;
        let mut progress = output.progress("ordering devices", self.devices);
        let [devices, wrapped_text, eum_text] =
            [&devices, &wrapped, &eum].map(|path| path.display().to_string());
        authority.chancery(&[
            "order",
            "place",
            "--order",
            ORDER,
            "--issuer",
            ISSUER,
            "--devices",
            &devices,
            "--kvn",
            "0x30",
            "--algorithm",
            "AES-128",
            "--identity",
            &eum_text,
        ])?;
        authority.chancery(&[
            "order",
            "fetch",
            "--order",
            ORDER,
            "--out",
            &wrapped_text,
            "--identity",
            &eum_text,
        ])?;
        let transport_key = PrivateKey::load(&eum.join(names::TRANSPORT_KEY))?.rsa()?;
        let cards = tokio::task::block_in_place(|| cards::personalise(&wrapped, transport_key))?;
        progress.advance(cards.len() as u64);
        progress.finish("cards personalised from the order's output");

        let provisioner = authority.path(authority::PROVISIONER);
        let encryption_key = PrivateKey::load(&provisioner.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let connections = connect(authority, provisioner, output).await?;
        let load = SessionKeyLoad::new(cards, &connections, encryption_key, KEYSET, PURPOSE)?;
        let numbers = Arc::new(AtomicU64::new(0));
        load.run(16, WARM_UP, &numbers).await?;
        let time = Duration::from_secs(self.seconds);
        let mut levels = Vec::new();
        for in_flight in self.levels(&[1, 16, 64, 256]) {
            output.step(&format!("{in_flight} calls in flight for {} s", self.seconds));
            let before = Usage::read(authority, SESSION_KEY_WORK)?;
            let measured = load.run(in_flight, time, &numbers).await?;
            let used = Usage::read(authority, SESSION_KEY_WORK)?.since(before);
            levels.push(self.level(in_flight, &measured, used, SESSION_KEY_WORK));
        }
        let proofs = authority.path("proofs.jsonl");
        load.write_proofs(&proofs, PROOFS, &numbers)?;
        let alone = self.token_alone(authority, SESSION_KEY_WORK, Some(&proofs), output)?;
        Ok(self.report("session-keys", levels, load.checked(), alone))
    }

    async fn issue(&self, authority: &mut ScratchAuthority, output: Output) -> Result<Report, CliError> {
        let connections = connect(authority, authority.path(authority::EUM), output).await?;
        let load = IssueLoad::new(connections, ISSUER, EIN, KEYSET, "issue", self.devices);
        load.run(load.prepare(1)?).await?;
        let mut levels = Vec::new();
        for orders in self.levels(&[1, 2, 4, 8]) {
            output.step(&format!("{orders} orders at once of {} devices each", issue::DEVICES_PER_ORDER));
            let prepared = load.prepare(orders)?;
            let before = Usage::read(authority, ISSUE_WORK)?;
            let measured = load.run(prepared).await?;
            let used = Usage::read(authority, ISSUE_WORK)?.since(before);
            levels.push(self.level(orders, &measured, used, ISSUE_WORK));
        }
        let alone = self.token_alone(authority, ISSUE_WORK, None, output)?;
        Ok(self.report("issue", levels, load.checked(), alone))
    }

    fn levels(&self, usual: &[usize]) -> Vec<usize> {
        let levels = if self.levels.is_empty() { usual } else { &self.levels };
        levels.iter().copied().filter(|level| *level > 0).collect()
    }

    fn level(&self, in_flight: usize, measured: &Measured, used: Usage, work: &[TokenWork]) -> Level {
        let operations = measured.operations.max(1) as f64;
        let each = |micros: u64| micros as f64 / operations;
        let token_us = each(used.token_us) + (self.token_delay_us * work.len() as u64) as f64;
        let workers_us = measured.elapsed.as_micros() as f64 * self.workers as f64 * work.len() as f64;
        Level {
            in_flight,
            operations: measured.operations,
            per_second: measured.rate(),
            p50_us: measured.percentile_us(50),
            p99_us: measured.percentile_us(99),
            daemon_cpu_us_per_operation: each(used.service.own_us),
            worker_cpu_us_per_operation: each(used.service.descendants_us),
            client_cpu_us_per_operation: each(used.client_us),
            token_us_per_operation: token_us,
            token_share: token_us * operations / workers_us,
        }
    }

    /// Stops the service and has the tokens do the same work alone, one kind after the other.
    fn token_alone(
        &self,
        authority: &mut ScratchAuthority,
        work: &[TokenWork],
        proofs: Option<&Path>,
        output: Output,
    ) -> Result<Vec<TokenRate>, CliError> {
        tokio::task::block_in_place(|| {
            authority.stop()?;
            let mut rates = Vec::new();
            for TokenWork { token, kind } in work {
                output.step(&format!("the {token} token alone, {kind}, for {} s", self.seconds));
                let rate = authority.token_rate(kind, proofs, self.seconds)?;
                let rate: TokenRate = serde_json::from_value(rate)
                    .map_err(|error| CliError::Answer(format!("the token's own rate: {error}")))?;
                if rate.operations == 0 {
                    return Err(CliError::Answer(format!("the {token} token did nothing by itself")));
                }
                rates.push(rate);
            }
            Ok(rates)
        })
    }

    fn report(
        &self,
        benchmark: &'static str,
        levels: Vec<Level>,
        answers_checked: u64,
        token_alone: Vec<TokenRate>,
    ) -> Report {
        let best = levels.iter().map(|level| level.per_second).fold(0.0, f64::max);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let raw_per_second = raw_per_second(&token_alone, self.workers, cores, self.token_delay_us);
        // One kind of work after the other: what both together would reach on the same cores.
        let pipe_per_second = 1.0 / token_alone.iter().map(|rate| 1.0 / rate.per_second).sum::<f64>();
        Report {
            benchmark,
            levels,
            answers_checked,
            workers_per_token: self.workers,
            cores,
            token_delay_us: self.token_delay_us,
            token_alone,
            raw_per_second,
            ratio_to_raw: best / raw_per_second,
            pipe_per_second,
            ratio_to_pipe: best / pipe_per_second,
        }
    }
}

/// Calls of one kind keep their own workers busy; calls of all kinds share the cores, where a delay costs nothing.
fn raw_per_second(alone: &[TokenRate], workers: u64, cores: usize, delay_us: u64) -> f64 {
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
struct Usage {
    service: Cpu,
    client_us: u64,
    token_us: u64,
}

impl Usage {
    fn read(authority: &ScratchAuthority, work: &[TokenWork]) -> Result<Self, CliError> {
        let mut token_us = 0;
        for TokenWork { token, .. } in work {
            let series = format!("chancery_token_busy_microseconds_total{{token=\"{token}\"}}");
            token_us += counter(authority.metrics, &series)?;
        }
        Ok(Self { service: cpu(authority.pid())?, client_us: cpu(std::process::id())?.own_us, token_us })
    }

    fn since(self, before: Self) -> Self {
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

async fn connect(
    authority: &ScratchAuthority,
    identity: PathBuf,
    output: Output,
) -> Result<Vec<Connection>, CliError> {
    let remote = RemoteArgs { identity, server: Some(authority.server().to_owned()), timeout_s: 60 };
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(remote.connect(output).await?);
    }
    Ok(connections)
}

fn human(report: &Report) -> String {
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
