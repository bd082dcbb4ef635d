//! What a process and its children use, as the system and the service's own metrics tell.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::CliError;

/// Linux: a tick of /proc is always a hundredth of a second (USER_HZ).
const TICK_MICROS: u64 = 10_000;
const METRICS_MAX_BYTES: u64 = 4 << 20;

/// CPU time used so far, in µs; to the hundredth of a second.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    /// By the process.
    pub own_us: u64,
    /// By its descendants, those that are gone included.
    pub descendants_us: u64,
}

/// CPU time of `pid` and its descendants.
pub fn cpu(pid: u32) -> Result<Cpu, CliError> {
    let mut waiting = vec![pid];
    let mut seen = HashSet::new();
    let mut cpu = Cpu::default();
    while let Some(pid) = waiting.pop() {
        if !seen.insert(pid) {
            continue;
        }
        // A child may be gone by now; the daemon itself must not be.
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => {
                let [own, gone] = stat_ticks(&stat).unwrap_or_default().map(|ticks| ticks * TICK_MICROS);
                if seen.len() == 1 {
                    cpu.own_us += own;
                } else {
                    cpu.descendants_us += own;
                }
                cpu.descendants_us += gone;
            }
            Err(error) if seen.len() == 1 => {
                return Err(CliError::Local(format!("the service's process cannot be read: {error}")));
            }
            Err(_) => continue,
        }
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            waiting.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    Ok(cpu)
}

/// The processes below `pid`.
pub fn descendants(pid: u32) -> Result<Vec<u32>, CliError> {
    let mut found: Vec<u32> = Vec::new();
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                found.push(child);
                waiting.push(child);
            }
        }
    }
    if found.is_empty() {
        return Err(CliError::Local("the service has no workers".to_owned()));
    }
    Ok(found)
}

/// Resident memory of a process; none when it is gone.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// CPU time in a /proc/<pid>/stat line: its own, and that of children waited for. The name in parentheses may hold
/// anything.
fn stat_ticks(stat: &str) -> Option<[u64; 2]> {
    let (_, after_name) = stat.rsplit_once(')')?;
    // After the name: state is field 3, utime 14, stime 15, cutime 16, cstime 17.
    let mut fields = after_name.split_whitespace().skip(11);
    let mut pair = || Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?);
    Some([pair()?, pair()?])
}

/// Reads one counter of the service's metrics.
pub fn counter(metrics: SocketAddr, series: &str) -> Result<u64, CliError> {
    let text =
        scrape(metrics).map_err(|error| CliError::Local(format!("no metrics from {metrics}: {error}")))?;
    find(&text, series).ok_or_else(|| CliError::Answer(format!("the metrics hold no {series}")))
}

fn scrape(metrics: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&metrics, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(METRICS_MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn find(text: &str, series: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_process_name() {
        let stat = "42 (a ) 1 2) S 1 42 42 0 -1 4194560 100 0 0 0 17 5 3 4 20 0 1 0 100 1000 10";
        assert_eq!(stat_ticks(stat), Some([22, 7]));
    }

    #[test]
    fn work_of_this_process_is_counted() {
        let before = cpu(std::process::id()).unwrap().own_us;
        let mut digest = [0u8; 32];
        // The other tests are threads of this process: the first look may already show more.
        loop {
            for _ in 0..10_000 {
                digest = sha2::Digest::finalize(sha2::Digest::chain_update(
                    <sha2::Sha256 as sha2::Digest>::new(),
                    digest,
                ))
                .into();
            }
            if cpu(std::process::id()).unwrap().own_us > before {
                break;
            }
        }
        assert_ne!(digest, [0; 32]);
        assert!(cpu(u32::MAX).is_err());
    }

    #[test]
    fn resident_memory_is_that_of_a_living_process() {
        assert!(resident_kib(std::process::id()).unwrap() > 100);
        assert_eq!(resident_kib(u32::MAX), None);
    }

    #[test]
    fn a_counter_is_found_by_its_whole_series() {
        let text = "# TYPE a counter\na_total{token=\"kms\"} 12\na_total{token=\"kms2\"} 7\n";
        assert_eq!(find(text, "a_total{token=\"kms2\"}"), Some(7));
        assert_eq!(find(text, "a_total"), None);
    }
}
