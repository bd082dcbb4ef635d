//! Freezes under load: how long one takes while session keys are fetched, and that no key left after it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use audit::{Entry, EventType, Fact, Outcome, Pseudonym};
use domain::Eid;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::{FreezeDeviceRequest, FreezeReason};
use serde::Serialize;

use crate::bench::authority::{AUDITOR, OFFICER, PROVISIONER, PURPOSE, ScratchAuthority};
use crate::bench::load::{self, Measured, micros};
use crate::bench::session_keys::SessionKeyLoad;
use crate::bench::{BenchArgs, KEYSET, WARM_UP, connect};
use crate::connect::{Connection, random_key};
use crate::error::CliError;
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::order_place::lock;
use crate::output::{Output, fields};

/// Session-key fetches in flight when nothing else is asked for.
const IN_FLIGHT: usize = 64;
/// The fetches go to so many devices around the next one to be frozen, of which so many are frozen already.
const WINDOW: u64 = 64;
const WINDOW_DEVICES: usize = WINDOW as usize;
const WINDOW_FROZEN: u64 = 4;
/// Shortest pause between two freezes; they are spread over the time.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// What it came to.
#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    freezes: u64,
    freeze_p50_us: u32,
    freeze_p99_us: u32,
    freeze_max_us: u32,
    fetches_in_flight: usize,
    seconds: f64,
    /// Session-key fetches that were answered with keys.
    released: u64,
    /// Session-key fetches that were refused because their device was frozen.
    refused_frozen: u64,
    released_per_second: f64,
    /// Answers with keys whose entry has a higher index than the freeze of their device.
    releases_after_freeze: u64,
    /// Entries of the exported log that were read, and the same count over them.
    log_entries: u64,
    log_releases_after_freeze: u64,
    /// Frozen devices asked for once more after everything; all were refused.
    refused_afterwards: u64,
    token_delay_us: u64,
}

/// A release: the card's place and the index of its entry.
type Releases = Arc<Mutex<Vec<(usize, u64)>>>;

/// Orders devices, fetches session keys for them, and freezes one after the other.
pub async fn measure(
    args: &BenchArgs,
    authority: &mut ScratchAuthority,
    output: Output,
) -> Result<(), CliError> {
    let in_flight = args.level_of_one(IN_FLIGHT)?;
    let cards = args.cards(authority, output)?;
    let eids: Vec<Eid> = cards.iter().map(|card| card.eid).collect();
    if eids.len() as u64 <= WINDOW {
        return Err(CliError::invalid("too few devices", format!("pass --devices of more than {WINDOW}")));
    }
    let provisioner = authority.path(PROVISIONER);
    let encryption_key = PrivateKey::load(&provisioner.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
    let connections = connect(authority, provisioner, output).await?;
    let officer = connect(authority, authority.path(OFFICER), output).await?;
    let load = SessionKeyLoad::new(cards, &connections, encryption_key, KEYSET, PURPOSE)?;
    let numbers = Arc::new(AtomicU64::new(0));
    load.run(16, WARM_UP, &numbers).await?;

    output
        .step(&format!("{in_flight} fetches in flight for {} s, freezes one after the other", args.seconds));
    let time = Duration::from_secs(args.seconds);
    let next = Arc::new(AtomicU64::new(0));
    let releases = Releases::default();
    let (fetched, frozen) = tokio::join!(
        load::run(in_flight, time, &numbers, fetches(&load, &next, &releases, eids.len())),
        // The last ones stay unfrozen, so that the fetches release keys to the end.
        freezes(&officer[0], &eids[..eids.len() - WINDOW_DEVICES], &next, time),
    );
    let (fetched, (frozen, times)) = (fetched?, frozen?);
    if frozen.is_empty() {
        return Err(CliError::Answer("no device was frozen in the time".to_owned()));
    }
    let releases = std::mem::take(&mut *lock(&releases));
    let afterwards = refused_afterwards(&load, frozen.len(), &numbers).await?;
    let (log_entries, log_releases_after_freeze) = tokio::task::block_in_place(|| judge_log(authority))?;
    let frozen_times = Measured::new(fetched.elapsed, times);
    let report = Report {
        benchmark: "freeze",
        freezes: frozen.len() as u64,
        freeze_p50_us: frozen_times.percentile_us(50),
        freeze_p99_us: frozen_times.percentile_us(99),
        freeze_max_us: frozen_times.percentile_us(100),
        fetches_in_flight: in_flight,
        seconds: fetched.elapsed.as_secs_f64(),
        released: releases.len() as u64,
        refused_frozen: fetched.operations - releases.len() as u64,
        released_per_second: releases.len() as f64 / fetched.elapsed.as_secs_f64(),
        releases_after_freeze: after_freeze(&releases, &frozen),
        log_entries,
        log_releases_after_freeze,
        refused_afterwards: afterwards,
        token_delay_us: args.token_delay_us,
    };
    output.print(&report, human)?;
    match report.releases_after_freeze + report.log_releases_after_freeze {
        0 => Ok(()),
        _ => Err(CliError::Answer("keys of a device left after its freeze".to_owned())),
    }
}

/// Calls that go to devices around the next one to be frozen, and note what was released.
fn fetches(
    load: &SessionKeyLoad,
    next: &Arc<AtomicU64>,
    releases: &Releases,
    cards: usize,
) -> impl Fn(usize, u64) -> futures_util::future::BoxFuture<'static, Result<(), CliError>>
+ Clone
+ Send
+ Sync
+ 'static {
    let (load, next, releases) = (load.clone(), Arc::clone(next), Arc::clone(releases));
    move |connection, number| {
        let (load, releases) = (load.clone(), Arc::clone(&releases));
        let first = next.load(Ordering::Relaxed).saturating_sub(WINDOW_FROZEN);
        let card = usize::try_from(first + number % WINDOW).unwrap_or(0).min(cards - 1);
        Box::pin(async move {
            if let Some(index) = load.fetch_unless_frozen(connection, card, number).await? {
                lock(&releases).push((card, index));
            }
            Ok(())
        })
    }
}

/// Freezes device after device until the time is over; the index of each freeze's entry, and how long it took.
async fn freezes(
    officer: &Connection,
    eids: &[Eid],
    next: &AtomicU64,
    time: Duration,
) -> Result<(Vec<u64>, Vec<u32>), CliError> {
    let mut client = DeviceServiceClient::new(officer.channel());
    let started = Instant::now();
    let (mut frozen, mut times) = (Vec::new(), Vec::new());
    let pause = time.div_f64(eids.len().max(1) as f64).max(PAUSE_MIN);
    for eid in eids {
        if started.elapsed() >= time {
            break;
        }
        let request = FreezeDeviceRequest {
            idempotency_key: random_key()?,
            eid: eid.to_string(),
            reason: FreezeReason::Stolen.into(),
            reference: "benchmark".to_owned(),
        };
        let sent = Instant::now();
        let index = client.freeze_device(request).await?.into_inner().entry_index;
        times.push(micros(sent.elapsed()));
        frozen.push(index);
        next.store(frozen.len() as u64, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
    Ok((frozen, times))
}

/// Releases whose entry comes after the freeze of their device; `frozen` is by the card's place.
fn after_freeze(releases: &[(usize, u64)], frozen: &[u64]) -> u64 {
    let late = releases.iter().filter(|(card, index)| frozen.get(*card).is_some_and(|freeze| index > freeze));
    late.count() as u64
}

/// Asks once more for every frozen device.
async fn refused_afterwards(
    load: &SessionKeyLoad,
    frozen: usize,
    numbers: &AtomicU64,
) -> Result<u64, CliError> {
    for card in 0..frozen {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        if load.fetch_unless_frozen(0, card, number).await?.is_some() {
            return Err(CliError::Answer("keys of a frozen device were released".to_owned()));
        }
    }
    Ok(frozen as u64)
}

/// Exports the log as an auditor and looks at each release in it.
fn judge_log(authority: &ScratchAuthority) -> Result<(u64, u64), CliError> {
    authority.enrol_auditor()?;
    let (export, auditor) = (authority.path("export"), authority.path(AUDITOR));
    let [out, identity] = [&export, &auditor].map(|path| path.display().to_string());
    authority.chancery(&["audit", "export", "--out", &out, "--identity", &identity])?;
    authority.chancery(&["audit", "verify", &out])?;
    let mut judge = Judge::default();
    for path in entry_bundles(&export)? {
        let path = export.join(path);
        let bundle = std::fs::read(&path).map_err(CliError::file("read", &path))?;
        let does_not_hold = |error: audit::AuditError| CliError::Answer(format!("the export: {error}"));
        for entry in audit::split_bundle(&bundle).map_err(does_not_hold)? {
            judge.take(&Entry::parse(entry).map_err(does_not_hold)?);
        }
    }
    Ok((judge.entries, judge.late))
}

fn entry_bundles(export: &Path) -> Result<Vec<String>, CliError> {
    let checkpoint = crate::files::read_text(&export.join("checkpoint"))?;
    let size = checkpoint.lines().nth(1).and_then(|size| size.parse().ok());
    let size = size.ok_or_else(|| CliError::Answer("the checkpoint of the export has no size".to_owned()))?;
    Ok(audit::tile_paths(size).into_iter().filter(|path| path.starts_with("tile/entries/")).collect())
}

/// Reads the log in its order.
#[derive(Default)]
struct Judge {
    frozen: HashMap<Pseudonym, u64>,
    entries: u64,
    late: u64,
}

impl Judge {
    fn take(&mut self, entry: &Entry) {
        self.entries += 1;
        if !matches!(entry.header.outcome, Outcome::Done | Outcome::Repeated) {
            return;
        }
        let in_facts = match entry.facts.get("device") {
            Some(Fact::Pseudonym(device)) => Some(*device),
            _ => None,
        };
        let devices = [entry.header.object, in_facts].into_iter().flatten();
        match entry.header.event {
            EventType::DeviceFrozen => {
                self.frozen.extend(devices.map(|device| (device, entry.header.index)));
            }
            EventType::DeviceRestored => devices.for_each(|device| {
                self.frozen.remove(&device);
            }),
            EventType::SessionKeysReleased | EventType::RotationScriptReleased => {
                let mut devices = devices;
                self.late += u64::from(devices.any(|device| self.frozen.contains_key(&device)));
            }
            _ => {}
        }
    }
}

fn human(report: &Report) -> String {
    let ms = |micros: u32| format!("{:.2} ms", f64::from(micros) / 1_000.0);
    fields([
        ("freezes", report.freezes.to_string()),
        (
            "p50, p99, longest",
            [report.freeze_p50_us, report.freeze_p99_us, report.freeze_max_us].map(ms).join(", "),
        ),
        ("fetches in flight", report.fetches_in_flight.to_string()),
        ("keys released", format!("{} ({:.0} per second)", report.released, report.released_per_second)),
        ("refused, frozen", report.refused_frozen.to_string()),
        ("released after a freeze, by the answers", report.releases_after_freeze.to_string()),
        (
            "released after a freeze, by the log",
            format!("{} of {} entries", report.log_releases_after_freeze, report.log_entries),
        ),
        ("frozen devices refused once more", report.refused_afterwards.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use audit::EntryDraft;
    use domain::Timestamp;

    use super::*;

    #[test]
    fn only_a_release_above_the_freeze_of_its_own_device_is_late() {
        let frozen = [10, 20];
        assert_eq!(after_freeze(&[(0, 9), (1, 19), (2, 99)], &frozen), 0);
        assert_eq!(after_freeze(&[(0, 11), (1, 15), (1, 21)], &frozen), 2);
    }

    #[test]
    fn the_log_is_judged_by_device_and_order() {
        let mut judge = Judge::default();
        let mut index = 0;
        let mut take = |event, outcome, device: u8| {
            let draft = EntryDraft::new(event, outcome).object(Pseudonym::from_bytes([device; 16]));
            let sealed = draft.seal(index, Timestamp::from_seconds(i64::try_from(index).unwrap()));
            judge.take(&Entry::parse(&sealed).unwrap());
            index += 1;
            judge.late
        };
        assert_eq!(take(EventType::SessionKeysReleased, Outcome::Done, 1), 0);
        assert_eq!(take(EventType::DeviceFrozen, Outcome::Done, 1), 0);
        assert_eq!(
            take(EventType::SessionKeysReleased, Outcome::Refused(domain::ReasonCode::DeviceNotActive), 1),
            0
        );
        assert_eq!(take(EventType::SessionKeysReleased, Outcome::Done, 2), 0);
        assert_eq!(take(EventType::SessionKeysReleased, Outcome::Repeated, 1), 1);
        assert_eq!(take(EventType::RotationScriptReleased, Outcome::Done, 1), 2);
        assert_eq!(take(EventType::DeviceRestored, Outcome::Done, 1), 2);
        assert_eq!(take(EventType::SessionKeysReleased, Outcome::Done, 1), 2);
    }
}
