//! Whether the daemon runs, and what it says about itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::report::Check;
use crate::config::Config;

/// A daemon that runs answers its own machine faster.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than the metrics will ever be.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The daemon as it was found running.
pub(crate) struct Daemon {
    /// What `/healthz` answered: the status code and the text.
    health: Option<(u16, String)>,
    /// `/metrics` by name and labels.
    metrics: BTreeMap<String, u64>,
}

impl Daemon {
    /// `None` when nobody has the store of this configuration open.
    pub(crate) fn find(config: &Config) -> Option<Self> {
        if !store_is_open(&config.path("log/lock")) {
            return None;
        }
        let health = fetch(config.http_listen, "/healthz").ok();
        let metrics = fetch(config.metrics_listen, "/metrics").map(|(_, text)| metrics(&text));
        Some(Self {
            health: health.map(|(status, text)| (status, text.trim().to_owned())),
            metrics: metrics.unwrap_or_default(),
        })
    }

    /// A metric by its name with its labels.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        self.metrics.get(name).copied()
    }
}

/// Whether another process holds the lock of the store. Asks the kernel with a shared lock that is given back at once;
/// whoever has the store open is not disturbed.
fn store_is_open(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else { return false };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(error) => error == rustix::io::Errno::WOULDBLOCK,
    }
}

/// One GET over HTTP/1.1: status and body.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&reachable(address), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    answer_of(&answer).ok_or_else(|| io::Error::other("no HTTP answer"))
}

fn answer_of(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Where a listener on every address is reached from its own machine.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => ([0, 0, 0, 0, 0, 0, 0, 1], v6.port()).into(),
        other => other,
    }
}

fn metrics(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

pub(crate) fn check(daemon: Option<&Daemon>) -> Check {
    let mut check = Check::new("daemon");
    let Some(daemon) = daemon else {
        check.detail("not running: everything can be checked");
        return check;
    };
    check.detail("running: tokens are judged by its metrics; log, view and intents are not opened beside it");
    match &daemon.health {
        Some((200, text)) => check.detail(format!("/healthz: {text}")),
        Some((status, text)) => check.fault(
            format!("/healthz: {status} {text}"),
            "read the daemon's own log for the log or token that stopped; stop it and run doctor again",
        ),
        None => check.fault(
            "the store is open, but /healthz does not answer",
            "wait if it is just starting or stopping, or if `chanceryd token-rate` runs; \
             else read the daemon's own log and restart it",
        ),
    }
    if let (Some(entries), Some(signed)) =
        (daemon.metric("chancery_log_entries"), daemon.metric("chancery_checkpoint_size"))
    {
        check.detail(format!("{entries} log entries, {signed} of them under a signed checkpoint"));
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_answers_are_read_as_they_are_written() {
        let read = metrics("a_total 3\nb{token=\"log\"} 4\nc nothing\n");
        assert_eq!(read.get("b{token=\"log\"}"), Some(&4));
        assert_eq!(read.len(), 2);
        let answer = answer_of("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nnot serving\n").unwrap();
        assert_eq!(answer, (503, "not serving\n".to_owned()));
        assert_eq!(answer_of("SSH-2.0"), None);
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap()), "127.0.0.1:7".parse().unwrap());
    }

    #[test]
    fn a_daemon_that_does_not_serve_is_a_fault_and_none_is_none() {
        let with = |health| Daemon { health, metrics: BTreeMap::new() };
        assert_eq!(check(None).verdict, super::super::report::Verdict::Ok);
        let ill = with(Some((503, "not serving".to_owned())));
        assert_eq!(check(Some(&ill)).verdict, super::super::report::Verdict::Fault);
        assert_eq!(check(Some(&with(None))).verdict, super::super::report::Verdict::Fault);
        let well = with(Some((200, "serving".to_owned())));
        assert_eq!(check(Some(&well)).verdict, super::super::report::Verdict::Ok);
    }
}
