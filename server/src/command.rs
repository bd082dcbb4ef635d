//! What `chanceryd` can be told to do.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::ceremony::CeremonyCommand;
use crate::config::{self, Config};
use crate::gate::chain;
use crate::{doctor, init, serve, token_rate, tokens};

/// The key authority's daemon.
#[derive(Parser)]
#[command(name = "chanceryd", version, about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  chanceryd config --data /var/lib/chancery --authority example-authority --out chanceryd.toml
  chanceryd init --config chanceryd.toml --person identities/olivia --person identities/anton --out handover
  chanceryd serve --config chanceryd.toml
  chanceryd doctor --config chanceryd.toml
  chanceryd ceremony create-key --config chanceryd.toml --name eum-one --out eum-one.key.json";

#[derive(Subcommand)]
enum Command {
    /// Writes a configuration for development with SoftHSM.
    Config {
        /// Folder for everything the service keeps.
        #[arg(long)]
        data: PathBuf,
        /// Name of the authority: small letters, digits, dots, dashes.
        #[arg(long)]
        authority: String,
        /// Port of gRPC; the next two are taken for HTTP and metrics unless given.
        #[arg(long, default_value_t = 7400)]
        grpc_port: u16,
        /// Port of public HTTP.
        #[arg(long)]
        http_port: Option<u16>,
        /// Port of the metrics, on loopback.
        #[arg(long)]
        metrics_port: Option<u16>,
        /// Worker processes of the ca and kms tokens each.
        #[arg(long, default_value_t = 2)]
        workers: usize,
        /// With a token for DPauth and DPpb keys of SM-DP+ (docs/cycles/rsp.md).
        #[arg(long)]
        rsp: bool,
        /// Where to write it; standard output when absent.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Founds an authority: tokens, keys, roots, the first persons, the signed transcript.
    Init {
        /// The configuration.
        #[arg(long)]
        config: PathBuf,
        /// Identity folder of a person to seat (public parts suffice); an officer and an approver at least.
        #[arg(long = "person", required = true)]
        persons: Vec<PathBuf>,
        /// Where certificates and transcript for the persons go.
        #[arg(long)]
        out: PathBuf,
    },
    /// Serves until told to stop (SIGTERM, SIGINT).
    Serve {
        /// The configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Checks configuration, tokens, log, view, clock, disk and certificates, and says what to do. Changes nothing.
    Doctor {
        /// The configuration.
        #[arg(long)]
        config: PathBuf,
        /// A table, or JSON with stable fields.
        #[arg(long, value_enum, default_value_t = doctor::Output::Human)]
        output: doctor::Output,
    },
    /// Deeds on the tokens, in a process of their own; the service may be running.
    Ceremony {
        #[command(subcommand)]
        command: CeremonyCommand,
    },
    /// Measures the token alone: the same calls as the service makes, without the service. The daemon must be stopped.
    TokenRate {
        /// The configuration.
        #[arg(long)]
        config: PathBuf,
        /// Which calls.
        #[arg(long)]
        kind: RateKind,
        /// Session keys: cards that prove themselves, one JSON object a line; made by `chancery bench`.
        #[arg(long, required_if_eq("kind", "session-keys"))]
        devices: Option<PathBuf>,
        /// How long.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// A token worker; started by the daemon.
    #[command(name = tokens::WORKER, hide = true)]
    Worker,
    /// A ceremony process; started by `init` and `ceremony`.
    #[command(name = tokens::CEREMONY_CHILD, hide = true)]
    CeremonyChild,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RateKind {
    /// Session-key jobs on the kms token.
    SessionKeys,
    /// P-256 signatures on the ca token.
    Sign,
    /// Keysets of ordered devices, derived and wrapped on the kms token.
    Order,
    /// PUT KEY blocks of devices, from AES-128 to AES-256, on the kms token.
    PutKey,
    /// Card cryptograms of AES-256 keysets, verified on the kms token.
    CardProof,
    /// RSP transactions on the rsp token: two signatures and one binding each.
    Rsp,
}

impl RateKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::SessionKeys => "session-keys",
            Self::Sign => "sign",
            Self::Order => "order",
            Self::PutKey => "put-key",
            Self::CardProof => "card-proof",
            Self::Rsp => "rsp",
        }
    }
}

/// Runs the program; the exit code says whether it succeeded.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Worker => return hsm::worker::run(),
        Command::CeremonyChild => return hsm::ceremony::run_child(),
        _ => {}
    }
    // Doctor's report says it all.
    start_log(if matches!(arguments.command, Command::Doctor { .. }) { "off" } else { "info" });
    // The daemon holds the log's HMAC key, the pseudonym key and its TLS key: none may reach a core file.
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Core, no_core) {
        tracing::warn!(%error, "core files could not be switched off");
    }
    let outcome = match arguments.command {
        Command::Doctor { config, output } => examine(&config, output),
        command => carry_out(command).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            report(&*error);
            if let Some(error) = error.downcast_ref::<serve::ServeError>() {
                let _ = writeln!(io::stderr(), "  next: {}", error.next_step());
            }
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Config { data, authority, grpc_port, http_port, metrics_port, workers, rsp, out } => {
            let ports = [
                grpc_port,
                http_port.unwrap_or(grpc_port.saturating_add(1)),
                metrics_port.unwrap_or(grpc_port.saturating_add(2)),
            ];
            let data = std::path::absolute(data)?;
            let mut text = config::example(&data, &authority, ports, workers)?;
            if rsp {
                text.push_str(&config::rsp_section(&data, workers));
            }
            match out {
                Some(path) => std::fs::write(path, text)?,
                None => io::stdout().write_all(text.as_bytes())?,
            }
        }
        Command::Init { config, persons, out } => {
            let config = Config::read(&config)?;
            config.install_profiles();
            runtime()?.block_on(init::found(&config, &persons, &out))?;
        }
        Command::Serve { config } => {
            let config = Config::read(&config)?;
            config.install_profiles();
            runtime()?.block_on(serve::serve(config))?;
        }
        Command::Ceremony { command } => command.run()?,
        Command::TokenRate { config, kind, devices, seconds } => {
            let config = Config::read(&config)?;
            let measured = token_rate::measure(&config, kind, devices.as_deref(), seconds.clamp(1, 60));
            let rate = runtime()?.block_on(measured)?;
            writeln!(io::stdout(), "{rate}")?;
        }
        Command::Worker | Command::CeremonyChild | Command::Doctor { .. } => {}
    }
    Ok(())
}

fn examine(config: &Path, output: doctor::Output) -> Result<ExitCode, Box<dyn std::error::Error>> {
    Ok(runtime()?.block_on(doctor::run(config, output))?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// The operator's log goes to standard error: text for a person, JSON for a collector.
fn start_log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CHANCERY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().init();
    }
}

fn report(error: &dyn std::error::Error) {
    // Standard error may be closed; there is nowhere left to say so.
    let _ = writeln!(io::stderr(), "chanceryd: {}", chain(error));
}
