//! `chanceryd doctor`: everything an operator can have wrong, and what to do about it. Changes nothing: no repair, no
//! lock held on the store, no PIN tried that a token has already refused; the view is read from a copy.
//!
//! While the daemon runs, what only its owner may open (the log, the view, logged-in tokens) is taken from the daemon's
//! own health page and metrics.

mod certificates;
mod configuration;
mod custody;
mod daemon;
mod disk;
mod log;
mod report;
mod token;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use domain::Clock;

use self::daemon::Daemon;
use self::report::{Report, skip};
use crate::clock::SystemClock;
use crate::config::Config;

/// How the report is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table.
    Human,
    /// One JSON object with stable fields.
    Json,
}

/// Examines and prints; fails when there is a fault, not when there are warnings.
pub(crate) async fn run(config: &Path, output: Output) -> io::Result<ExitCode> {
    let mut progress = Progress { shown: io::stderr().is_terminal(), last: String::new() };
    let report = examine(config, &mut progress).await;
    progress.clear();
    let text = match output {
        Output::Human => report.table(),
        Output::Json => report.json()?,
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if report.has_faults() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(path: &Path, progress: &mut Progress) -> Report {
    let clock = Arc::new(SystemClock::new());
    let (started, steady) = (clock.now(), clock.monotonic_micros());
    let mut report = Report::default();
    progress.step("configuration");
    let (file, config) = configuration::file(path);
    report.checks.push(file);
    let Some(config) = config else {
        report.checks.extend(skip(&ALL[1..], "the configuration cannot be read"));
        return report;
    };
    let daemon = Daemon::find(&config);
    report.mode = Some(config.mode);
    report.daemon_running = daemon.is_some();
    report.checks.push(configuration::mode(&config));
    report.checks.push(configuration::permissions(&config));
    report.checks.push(configuration::listeners(&config, daemon.as_ref()));
    let (check, foundation) = configuration::foundation(&config);
    report.checks.push(check);
    report.checks.push(daemon::check(daemon.as_ref()));
    progress.step("disk");
    // Measured before the rest: its own copies of the view do not count.
    let space = disk::Space::of(&config.data_directory);
    progress.step("tokens");
    let look = token::Look::at(&config, daemon.as_ref());
    report.checks.push(look.module_check(&config));
    let mut walked = None;
    match (&foundation, &daemon) {
        (None, _) => {
            report.checks.extend(skip(&FOUNDED, "no authority is founded in the data directory"));
        }
        (Some(_), Some(daemon)) => {
            for name in config.token_names() {
                report.checks.extend(look.with_daemon(&config, name, foundation.as_ref(), daemon));
            }
            report.checks.extend(skip(
                &["log.chain", "log.checkpoint", "view.agrees", "clock.log", "leftovers.intents"],
                "the daemon is running and owns the log; stop it to have this checked",
            ));
        }
        (Some(foundation), None) => {
            walked = alone(&config, foundation, &look, &clock, progress, &mut report).await;
        }
    }
    report.checks.push(log::steady(&*clock, started, steady));
    report.checks.extend(disk::checks(space, walked.as_ref(), &config));
    report.checks.extend(certificates::checks(&config, walked.as_ref(), daemon.as_ref(), clock.now()));
    report.checks.extend(custody::checks(walked.as_ref(), clock.now()));
    report.checks.push(log::files(&config.data_directory));
    report.sort(&ALL);
    report
}

/// What may be looked at because no daemon has it.
async fn alone(
    config: &Config,
    foundation: &crate::foundation::Foundation,
    look: &token::Look,
    clock: &Arc<SystemClock>,
    progress: &mut Progress,
    report: &mut Report,
) -> Option<store::Inspection> {
    progress.step("token log");
    let keys = foundation.registrations().unwrap_or_default();
    let (checks, log_token) = look.alone(config, "log", Some(&keys)).await;
    report.checks.extend(checks);
    progress.step("log");
    let walked = match &log_token {
        Some(token) => {
            let (checks, walked) = log::checks(config, foundation, &keys, token, clock, progress).await;
            report.checks.extend(checks);
            walked
        }
        None => {
            report.checks.extend(skip(
                &["log.chain", "log.checkpoint", "view.agrees", "clock.log", "leftovers.intents"],
                "only the log token can produce the key that authenticates the log",
            ));
            None
        }
    };
    if let Some(token) = log_token {
        token.shutdown().await;
    }
    let registered = walked.as_ref().and_then(|walked| ca::KeyRegistration::all(walked).ok());
    for name in config.token_names().filter(|name| *name != "log") {
        progress.step(&format!("token {name}"));
        let (checks, token) = look.alone(config, name, registered.as_deref()).await;
        report.checks.extend(checks);
        if let Some(token) = token {
            token.shutdown().await;
        }
    }
    walked
}

/// Every check, in the order of the report: id and title.
const ALL: [&str; 33] = [
    "configuration.file",
    "configuration.mode",
    "configuration.permissions",
    "configuration.listeners",
    "configuration.foundation",
    "daemon",
    "token.module",
    "token.log.present",
    "token.log.pin",
    "token.log.keys",
    "token.ca.present",
    "token.ca.pin",
    "token.ca.keys",
    "token.kms.present",
    "token.kms.pin",
    "token.kms.keys",
    "token.rsp.present",
    "token.rsp.pin",
    "token.rsp.keys",
    "log.chain",
    "log.checkpoint",
    "view.agrees",
    "clock.log",
    "clock.steady",
    "disk.bytes",
    "disk.inodes",
    "certificate.server",
    "certificate.operator-ca",
    "certificate.issuers",
    "keys.backup",
    "keys.transport",
    "leftovers.intents",
    "leftovers.files",
];

/// Those that need a founded authority and nothing else here answers.
const FOUNDED: [&str; 14] = [
    "token.log.present",
    "token.log.pin",
    "token.log.keys",
    "token.ca.present",
    "token.ca.pin",
    "token.ca.keys",
    "token.kms.present",
    "token.kms.pin",
    "token.kms.keys",
    "log.chain",
    "log.checkpoint",
    "view.agrees",
    "clock.log",
    "leftovers.intents",
];

/// What a check looks at.
fn title(id: &str) -> &'static str {
    match id {
        "configuration.file" => "the configuration can be read and is valid",
        "configuration.mode" => "the mode",
        "configuration.permissions" => "what is secret is readable by its owner alone",
        "configuration.listeners" => "the listen addresses are usable",
        "configuration.foundation" => "the data directory holds this authority",
        "daemon" => "the daemon",
        "token.module" => "the PKCS#11 module loads",
        "token.log.present" | "token.ca.present" | "token.kms.present" | "token.rsp.present" => {
            "the token is there and the same"
        }
        "token.log.pin" | "token.ca.pin" | "token.kms.pin" | "token.rsp.pin" => "the PIN opens the token",
        "token.log.keys" | "token.ca.keys" | "token.kms.keys" | "token.rsp.keys" => {
            "every registered key is there and right"
        }
        "log.chain" => "the log is whole and authentic",
        "log.checkpoint" => "the log holds what its checkpoint signed",
        "view.agrees" => "the view agrees with the log",
        "clock.log" => "the wall clock is not behind the log",
        "clock.steady" => "the wall clock runs with the monotonic clock",
        "disk.bytes" => "free space of the data directory",
        "disk.inodes" => "free inodes of the data directory",
        "certificate.server" => "the server's TLS certificate",
        "certificate.operator-ca" => "the operator CA's certificate",
        "certificate.issuers" => "the issuers' certificates",
        "keys.backup" => "how each long-lived key would be restored",
        "keys.transport" => "the parties' transport keys in force",
        "leftovers.intents" => "certificates between intent and outcome",
        _ => "files of writes that were cut off",
    }
}

/// One line on a terminal that says what takes so long.
pub(crate) struct Progress {
    shown: bool,
    last: String,
}

impl Progress {
    fn step(&mut self, what: &str) {
        if self.shown && self.last != what {
            what.clone_into(&mut self.last);
            // A terminal that is gone misses nothing.
            let _ = write!(io::stderr(), "\r\x1b[K  checking {what}");
        }
    }

    fn share(&mut self, what: &str, done: u64, total: u64) {
        if self.shown {
            self.step(&format!("{what} {} %", done.saturating_mul(100) / total.max(1)));
        }
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_is_missing_is_one_fault_and_everything_else_is_skipped() {
        let mut progress = Progress { shown: false, last: String::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(examine(Path::new("no-such-file.toml"), &mut progress));
        let ids: Vec<&str> = report.checks.iter().map(|check| check.id.as_str()).collect();
        assert_eq!(ids, ALL);
        let faults = report.checks.iter().filter(|check| check.verdict == report::Verdict::Fault);
        assert_eq!(faults.map(|check| check.id.as_str()).collect::<Vec<_>>(), ["configuration.file"]);
        assert!(report.has_faults());
    }

    #[test]
    fn the_operations_page_explains_every_check() {
        let page = include_str!("../../docs/operations.md");
        for id in ALL {
            let named = crate::config::TOKENS
                .into_iter()
                .chain([crate::config::RSP_TOKEN])
                .fold(id.to_owned(), |id, token| id.replace(&format!(".{token}."), ".T."));
            let named = if id.starts_with("token.") { named } else { id.to_owned() };
            assert!(page.contains(&format!("| `{named}` |")), "{named}");
        }
    }
}
