//! The benchmark: the service under load over real mTLS, beside the raw rate of the token calls it rests on.

mod authority;
mod cards;
mod freeze;
mod issue;
mod load;
mod ocsp;
mod order;
mod process;
mod report;
mod rotation;
mod rsp;
mod session_keys;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::{Args, Subcommand};
use proto::v1::KeysetName;

use crate::bench::authority::{EIN, ISSUER, PURPOSE, ScratchAuthority, Setup};
use crate::bench::cards::Card;
use crate::bench::issue::IssueLoad;
use crate::bench::load::{CONNECTIONS, Measured};
use crate::bench::report::{Level, Report, TokenRate, TokenWork, Usage, raw_per_second};
use crate::bench::rsp::RspLoad;
use crate::bench::session_keys::SessionKeyLoad;
use crate::connect::{Connection, RemoteArgs};
use crate::error::CliError;
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::output::Output;

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

/// A transaction: two signatures and one binding.
const RSP_WORK: &[TokenWork] = &[TokenWork { token: "rsp", kind: "rsp" }];

/// `chancery bench ...`
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Session-key fetches per second: distinct challenges, keys inside the token, every answer sealed.
    ///
    /// Makes a scratch authority of its own (SoftHSM) in the temporary folder, orders devices, and takes it all away
    /// again. Nothing of a running authority is touched.
    #[command(after_help = "Examples:
  chancery bench session-keys
  chancery bench session-keys --batch 64 --in-flight 4
  chancery bench session-keys --batch 64 --in-flight 4 --fast
  chancery bench session-keys --in-flight 64 --seconds 10 --token-delay-us 1000 --output json")]
    SessionKeys(BenchArgs),
    /// eUICC certificates per second: fresh keys, linted, signed in the token, verified, logged.
    #[command(after_help = "Example:
  chancery bench issue --in-flight 1 --in-flight 4 --output json")]
    Issue(BenchArgs),
    /// Orders from a file: devices per second, and the memory of daemon, workers and tool, which must not grow with them.
    ///
    /// Three orders one after the other, of a quarter, half and all of --devices: placed, fetched, confirmed, the receipt
    /// checked. There is one level.
    #[command(after_help = "Example:
  chancery bench order --devices 100000 --output json")]
    Order(BenchArgs),
    /// Profile downloads per second: whole RSP transactions of three calls, the SM-DP+'s keys in the token.
    #[command(after_help = "Example:
  chancery bench rsp --in-flight 1 --in-flight 16 --output json")]
    Rsp(BenchArgs),
    /// OCSP answers per second over HTTP: kept ones, and freshly signed ones with a nonce.
    ///
    /// --beside measures another responder with the same client in the same run, for example openssl's:
    /// `openssl ocsp -index index.txt -port 8080 -rsigner ca.pem -rkey ca.key -CA ca.pem -multi 2`.
    #[command(after_help = "Examples:
  chancery bench ocsp --in-flight 16
  chancery bench ocsp --beside 127.0.0.1:8080 --beside-issuer ca.pem --beside-certificate leaf.pem --output json")]
    Ocsp(OcspArgs),
    /// Keysets rotated per second, service side: PUT KEY scripts fetched, loaded by simulated cards, proved, confirmed.
    ///
    /// --in-flight is how many provisioner calls run at once; every device is rotated once, so there is one level.
    #[command(after_help = "Example:
  chancery bench rotation --devices 5000 --in-flight 4 --output json")]
    Rotation(BenchArgs),
    /// How long a freeze takes while session keys are fetched, and that none left after it.
    ///
    /// Compares every answer, and every entry of the exported log, with the freezes: exit code 1 when a release of a
    /// device has a higher index than its freeze.
    #[command(after_help = "Example:
  chancery bench freeze --in-flight 64 --seconds 10 --output json")]
    Freeze(BenchArgs),
}

/// Arguments of `bench ocsp`.
#[derive(Debug, Args)]
pub struct OcspArgs {
    #[command(flatten)]
    bench: BenchArgs,
    /// Address of another responder, HTTP
    #[arg(long, value_name = "HOST:PORT", requires = "beside_issuer", requires = "beside_certificate")]
    beside: Option<std::net::SocketAddr>,
    /// The issuer for whose certificates it answers
    #[arg(long, value_name = "FILE")]
    beside_issuer: Option<PathBuf>,
    /// A certificate that is good there
    #[arg(long, value_name = "FILE")]
    beside_certificate: Option<PathBuf>,
}

/// Arguments of the benchmarks.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Devices that are ordered: before session keys are fetched, keysets rotated or devices frozen, or by the largest order
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    devices: u64,
    /// Seconds of each level (session keys, freeze), and of the raw measurement
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// A level: calls in flight (session keys) or orders at once (issue); may be repeated; the usual sweep when absent
    #[arg(long = "in-flight", value_name = "N")]
    levels: Vec<usize>,
    /// Worker processes of each token
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    workers: u64,
    /// Session keys: stream this many cards in one message, instead of single calls; levels are then batches in flight. Issue: so
    /// many devices in each order, instead of 2,000; 1 gives single certificates
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: Option<u16>,
    /// Session keys, orders and rotations: keysets of a master in fast mode (docs/cycles/key-ceremony.md)
    #[arg(long)]
    fast: bool,
    /// Injected delay of each token job, in microseconds
    #[arg(long, default_value_t = 0, value_name = "MICROSECONDS")]
    token_delay_us: u64,
    /// The daemon's binary; the one beside this tool when absent
    #[arg(long, value_name = "FILE")]
    daemon: Option<PathBuf>,
}

impl BenchCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let (Self::SessionKeys(args)
        | Self::Issue(args)
        | Self::Order(args)
        | Self::Rsp(args)
        | Self::Ocsp(OcspArgs { bench: args, .. })
        | Self::Rotation(args)
        | Self::Freeze(args)) = self;
        let daemon = match &args.daemon {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .map_err(|error| CliError::Local(error.to_string()))?
                .with_file_name("chanceryd"),
        };
        let workers = usize::try_from(args.workers).unwrap_or(1);
        let mut progress = output.progress("making a scratch authority", 4);
        let setup = Setup {
            daemon: &daemon,
            workers,
            token_delay_us: args.token_delay_us,
            rsp: matches!(self, Self::Rsp(_)),
        };
        let mut authority = ScratchAuthority::start(&setup, &mut progress).await?;
        progress.finish("ready");
        if args.fast {
            output.step("making and registering a master in fast mode");
            tokio::task::block_in_place(|| make_fast_master(&authority))?;
        }
        tokio::select! {
            done = self.measure(&mut authority, output) => done?,
            _ = tokio::signal::ctrl_c() => return Err(CliError::Local("interrupted".to_owned())),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(&self, authority: &mut ScratchAuthority, output: Output) -> Result<(), CliError> {
        match self {
            Self::SessionKeys(args) => {
                output.print(&args.session_keys(authority, output).await?, report::human)
            }
            Self::Issue(args) => output.print(&args.issue(authority, output).await?, report::human),
            Self::Order(args) => order::measure(args, authority, output),
            Self::Rsp(args) => output.print(&args.rsp(authority, output).await?, report::human),
            Self::Ocsp(args) => ocsp::measure(args, authority, output).await,
            Self::Rotation(args) => rotation::measure(args, authority, output).await,
            Self::Freeze(args) => freeze::measure(args, authority, output).await,
        }
    }
}

impl BenchArgs {
    /// Orders the devices and personalises a card for each.
    fn cards(&self, authority: &ScratchAuthority, output: Output) -> Result<Vec<Card>, CliError> {
        let (devices, wrapped) = (authority.path("devices.csv"), authority.path("output.jsonl"));
        let eum = authority.path(authority::EUM);
        let csv = tokio::task::block_in_place(|| issue::device_file(EIN, 0, self.devices))?;
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
        Ok(cards)
    }

    async fn session_keys(
        &self,
        authority: &mut ScratchAuthority,
        output: Output,
    ) -> Result<Report, CliError> {
        let cards = self.cards(authority, output)?;
        let provisioner = authority.path(authority::PROVISIONER);
        let encryption_key = PrivateKey::load(&provisioner.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let connections = connect(authority, provisioner, output).await?;
        let load = SessionKeyLoad::new(cards, &connections, encryption_key, KEYSET, PURPOSE)?;
        let numbers = Arc::new(AtomicU64::new(0));
        load.run(16, WARM_UP, &numbers).await?;
        let time = Duration::from_secs(self.seconds);
        let mut levels = Vec::new();
        let usual: &[usize] = if self.batch.is_some() { &[1, 4, 8] } else { &[1, 16, 64, 256] };
        for in_flight in self.levels(usual) {
            let what = self.batch.map_or("calls".to_owned(), |batch| format!("batches of {batch}"));
            output.step(&format!("{in_flight} {what} in flight for {} s", self.seconds));
            let before = Usage::read(authority, SESSION_KEY_WORK)?;
            let measured = match self.batch.map(usize::from) {
                None => load.run(in_flight, time, &numbers).await?,
                Some(batch) => load.run_batches(in_flight, batch, time, &numbers).await?,
            };
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
        let load = IssueLoad::new(connections, ISSUER, EIN, KEYSET, "issue", self.batch, self.devices);
        load.run(load.prepare(1)?).await?;
        let mut levels = Vec::new();
        for orders in self.levels(&[1, 2, 4, 8]) {
            let size = self.batch.map_or(issue::DEVICES_PER_STREAM, u64::from);
            output.step(&format!("{orders} orders at once of {size} devices each"));
            let prepared = load.prepare(orders)?;
            let before = Usage::read(authority, ISSUE_WORK)?;
            let measured = load.run(prepared).await?;
            let used = Usage::read(authority, ISSUE_WORK)?.since(before);
            levels.push(self.level(orders, &measured, used, ISSUE_WORK));
        }
        let alone = self.token_alone(authority, ISSUE_WORK, None, output)?;
        Ok(self.report("issue", levels, load.checked(), alone))
    }

    async fn rsp(&self, authority: &mut ScratchAuthority, output: Output) -> Result<Report, CliError> {
        output.step("making, registering and certifying the keys of an SM-DP+");
        tokio::task::block_in_place(|| rsp::make_keys(authority))?;
        let provisioner = authority.path(authority::PROVISIONER);
        let encryption_key = PrivateKey::load(&provisioner.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let connections = connect(authority, provisioner, output).await?;
        let manufacturer = connect(authority, authority.path(authority::EUM), output).await?;
        let load = RspLoad::new(authority, &manufacturer[0], &connections, encryption_key).await?;
        let numbers = Arc::new(AtomicU64::new(0));
        load.run(4, WARM_UP, &numbers).await?;
        let mut levels = Vec::new();
        for in_flight in self.levels(&[1, 4, 16, 64]) {
            output.step(&format!("{in_flight} transactions in flight for {} s", self.seconds));
            let before = Usage::read(authority, RSP_WORK)?;
            let measured = load.run(in_flight, Duration::from_secs(self.seconds), &numbers).await?;
            let used = Usage::read(authority, RSP_WORK)?.since(before);
            levels.push(self.level(in_flight, &measured, used, RSP_WORK));
        }
        let alone = self.token_alone(authority, RSP_WORK, None, output)?;
        Ok(self.report("rsp", levels, load.checked(), alone))
    }

    /// The only level of a benchmark that has one.
    fn level_of_one(&self, usual: usize) -> Result<usize, CliError> {
        match self.levels[..] {
            [] => Ok(usual),
            [level] if level > 0 => Ok(level),
            _ => Err(CliError::invalid("this benchmark has one level", "pass --in-flight once")),
        }
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

/// From then on keysets are made under it.
fn make_fast_master(authority: &ScratchAuthority) -> Result<(), CliError> {
    let file = authority.path("fast.json").display().to_string();
    authority.create_key(&["--role", "fast-master", "--name", "fast", "--epoch", "2", "--out", &file])?;
    let register = ["master", "register", "--key-file", &file, "--generation", "2"];
    let terms = ["--scheme", "chancery-cmac-v1", "--backup", "none: a bench"];
    authority.protected(&[&register[..], &terms].concat()).map(drop)
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
