//! The log, its checkpoint, the view beside it, the clock against it, and what a crash left.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit::{LogKey, verify_checkpoint};
use ca::KeyRegistration;
use domain::{Clock, Timestamp};
use hsm::{KeyRole, Token};
use store::{Inspection, OpenOptions, StoreError, ViewFinding};

use super::Progress;
use super::report::{Check, skip};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::foundation::Foundation;
use crate::gate::chain;
use crate::init::{LOG_MAC_CONTEXT, ed25519_key, store_options};

/// How far the wall clock may stand behind the last entry: what the store allows.
const BEHIND_MICROS_MAX: i64 = 1_000_000;
/// How far the wall clock may move against the monotonic one while doctor runs.
const DRIFT_MICROS_MAX: i64 = 1_000_000;
/// Problems shown by key; the rest is counted.
const PROBLEMS_SHOWN: usize = 5;

const ALARM: &str = "do not start the daemon and write nothing to this disk; keep a copy of it as evidence, tell the \
                     auditor, then restore the newest backup as docs/operations.md says";

/// Everything that takes the log's own key.
pub(crate) async fn checks(
    config: &Config,
    foundation: &Foundation,
    keys: &[KeyRegistration],
    token: &Token,
    clock: &Arc<SystemClock>,
    progress: &mut Progress,
) -> (Vec<Check>, Option<Inspection>) {
    let unread =
        |reason: &str| skip(&["log.checkpoint", "view.agrees", "clock.log", "leftovers.intents"], reason);
    let mut chained = Check::new("log.chain");
    let options = match options(config, keys, token, clock).await {
        Ok(options) => options,
        Err(error) => {
            chained.fault(
                format!("the log's key cannot be made: {error}"),
                "see the check of the log token's keys; restore foundation.json if it was changed",
            );
            return ([vec![chained], unread("the log's key cannot be made")].concat(), None);
        }
    };
    let checkpoint = read_checkpoint(config, foundation, keys);
    let signed = checkpoint.as_ref().map_or(0, |signed| signed.as_ref().map_or(0, |(size, _)| *size));
    let keep: Vec<_> = ca::KEYSPACES.into_iter().filter(|keyspace| keyspace.name == "reservations").collect();
    let walked = Inspection::read(&options, &keep, signed, &mut |done, total| {
        progress.share("log", done, total);
    });
    let walked = match walked {
        Ok(walked) => walked,
        Err(error) => {
            judge_log_fault(&mut chained, &error);
            return ([vec![chained], unread("the log cannot be read to its end")].concat(), None);
        }
    };
    chained.detail(format!(
        "{} entries in {} batches and {} segments, root {}",
        walked.tree.size,
        walked.batches,
        walked.segments,
        hex::encode(walked.tree.root)
    ));
    if let Some((file, offset)) = &walked.torn_tail {
        chained.warn(
            format!("{file} ends in a torn batch at byte {offset}, which was never acknowledged"),
            "nothing: ordinary after a power cut; the next start of the daemon clears it",
        );
    }
    if !walked.ended_clean {
        chained.detail("the daemon did not stop in good order; the next start checks every row of the view");
    }
    let mut signed = Check::new("log.checkpoint");
    judge_checkpoint(&mut signed, checkpoint, &walked);
    progress.step("view");
    let view = view(&walked, &options);
    let mut wall = Check::new("clock.log");
    match walked.last_time {
        Some(last) => judge_clock(&mut wall, clock.now(), last),
        None => wall.detail("the log is empty"),
    }
    let mut intents = Check::new("leftovers.intents");
    match ca::reservations(&walked) {
        Ok(open) => judge_intents(&mut intents, open.len()),
        Err(error) => {
            intents.fault(chain(&error), "the daemon's version is older than the log: use the newer one");
        }
    }
    (vec![chained, signed, view, wall, intents], Some(walked))
}

async fn options(
    config: &Config,
    keys: &[KeyRegistration],
    token: &Token,
    clock: &Arc<SystemClock>,
) -> Result<OpenOptions, String> {
    let mac = keys.iter().find(|key| key.key.role == KeyRole::LogMac);
    let mac = mac.ok_or("the foundation names no log-mac key")?;
    let secret = token.service_secret(&mac.key.key, LOG_MAC_CONTEXT).await.map_err(|e| e.to_string())?;
    Ok(store_options(config, secret, clock.clone(), 1))
}

fn judge_log_fault(check: &mut Check, error: &store::InspectError) {
    check.fault(
        format!(
            "{}; the bad batch is number {}, and entries from index {} on are not vouched for",
            error.source,
            error.batches + 1,
            error.entries
        ),
        match &error.source {
            source if source.is_alarm() => ALARM,
            StoreError::Identity { .. } => {
                "the data directory belongs to another node or a later hand-over: correct the configuration"
            }
            StoreError::UnknownKeyspace { .. } => {
                "the log was written by a newer version: use that version's daemon and doctor"
            }
            StoreError::NotFound { .. } => "correct data_directory, or restore the log from the backup",
            _ => "run doctor as the daemon's user; if the disk fails, copy what can be read and restore the backup",
        },
    );
}

/// Size and root of the signed checkpoint, `None` before the first.
fn read_checkpoint(
    config: &Config,
    foundation: &Foundation,
    keys: &[KeyRegistration],
) -> Result<Option<(u64, [u8; 32])>, String> {
    let note = match fs::read(config.path("checkpoint")) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let signer = keys.iter().find(|key| key.key.role == KeyRole::LogSigner);
    let signer = signer.ok_or("the foundation names no log-signer key")?;
    let key = ed25519_key(signer).map_err(|error| chain(&error))?;
    let key = LogKey::new(&foundation.origin(), key).map_err(|error| error.to_string())?;
    let body = verify_checkpoint(&note, &[key]).map_err(|error| error.to_string())?.body;
    Ok(Some((body.size, body.root)))
}

fn judge_checkpoint(
    check: &mut Check,
    checkpoint: Result<Option<(u64, [u8; 32])>, String>,
    walked: &Inspection,
) {
    match checkpoint {
        Ok(None) => check.detail("none was signed yet"),
        Ok(Some((size, _))) if size > walked.tree.size => check.fault(
            format!(
                "it covers {size} entries, the log has {}: acknowledged entries are gone",
                walked.tree.size
            ),
            ALARM,
        ),
        Ok(Some((size, root))) if walked.prefix_root != Some(root) => {
            check.fault(format!("the log's first {size} entries are not those that were signed"), ALARM);
        }
        Ok(Some((size, _))) => check.detail(format!("{size} entries signed, and they are those of the log")),
        Err(why) => check.fault(
            format!("the checkpoint file cannot be used: {why}"),
            "compare with a published checkpoint; restore the file from the backup if it was damaged here",
        ),
    }
}

/// Opening the view changes its files, so a private copy is opened, and removed again.
fn view(walked: &Inspection, options: &OpenOptions) -> Check {
    let original = options.directory.join("view");
    let mut check = Check::new("view.agrees");
    if !original.is_dir() {
        check.detail("there is none; the next start makes it from the log");
        return check;
    }
    let copy = match Copy::of(&original) {
        Ok(copy) => copy,
        Err(error) => {
            return Check::skipped(
                &check.id,
                &format!("no copy of the view could be made to look at: {error}"),
            );
        }
    };
    match walked.compare_view(options, &copy.path) {
        Ok(ViewFinding::Compared { batch, report }) if report.is_sound() => check.detail(format!(
            "{} rows are as the log says; {} batches will be caught up at the next start",
            report.rows,
            walked.batches - batch
        )),
        Ok(ViewFinding::Compared { report, .. }) => {
            for problem in report.problems.iter().take(PROBLEMS_SHOWN) {
                check.detail(format!(
                    "keyspace {}, key {}: {:?}",
                    problem.keyspace,
                    hex::encode(&problem.key),
                    problem.kind
                ));
            }
            check.fault(
                format!("{} rows are not as the log says", report.problem_count),
                format!(
                    "the log is the truth: move {} away as evidence; the next start makes the view again",
                    original.display()
                ),
            );
        }
        Ok(ViewFinding::Unfit { reason }) => check.warn(
            format!("it will not be believed: {reason}"),
            "nothing: the next start makes it again from the log, which takes longer than an ordinary one",
        ),
        Err(error) if error.is_alarm() => check.fault(chain(&error), ALARM),
        Err(error) => {
            check.fault(chain(&error), "run doctor again; if it stays, move the view away as evidence")
        }
    }
    check
}

/// A copy in a folder of our own, gone with this value.
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn of(original: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("chanceryd-doctor-{}", hex::encode(random)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let copy = Self { path };
        let free = rustix::fs::statvfs(&copy.path)?;
        if size(original)?.saturating_mul(2) > free.f_bavail.saturating_mul(free.f_frsize) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        copy_folder(original, &copy.path)?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The view engine's own threads may still be writing their last.
        for _ in 0..50 {
            if fs::remove_dir_all(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        tracing::warn!(path = %self.path.display(), "the copy of the view could not be removed");
    }
}

fn size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&target)?;
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn judge_clock(check: &mut Check, now: Timestamp, last: Timestamp) {
    let behind = last.micros().saturating_sub(now.micros());
    if behind > BEHIND_MICROS_MAX {
        check.fault(
            format!("the wall clock says {now}, the last entry {last}: {} s behind", behind / 1_000_000),
            "set the clock right (time synchronisation); if the clock is right and the log was written by one that was \
             wrong, the daemon serves again once the time of the last entry has come",
        );
    } else {
        check.detail(format!("the last entry is of {last}, the wall clock says {now}"));
    }
}

/// The wall clock against the monotonic one since `started` and `steady` were read.
pub(crate) fn steady(clock: &dyn Clock, started: Timestamp, steady: u64) -> Check {
    let mut check = Check::new("clock.steady");
    let passed = i64::try_from(clock.monotonic_micros().saturating_sub(steady)).unwrap_or(i64::MAX);
    judge_drift(
        &mut check,
        clock.now().micros().saturating_sub(started.micros()).saturating_sub(passed),
        passed,
    );
    check
}

fn judge_drift(check: &mut Check, drift: i64, passed: i64) {
    let milliseconds = drift / 1_000;
    if drift.abs() > DRIFT_MICROS_MAX {
        check.fault(
            format!("the wall clock was moved by {milliseconds} ms while doctor ran"),
            "find what sets the clock by leaps; let time synchronisation slew it",
        );
    } else {
        check.detail(format!("{milliseconds} ms apart after {} ms", passed / 1_000));
    }
}

fn judge_intents(check: &mut Check, open: usize) {
    if open == 0 {
        check.detail("none");
    } else {
        check.warn(
            format!("{open} certificates stand between intent and outcome; none of them left the service"),
            "nothing: the next start of the daemon marks them failed and frees their keys",
        );
    }
}

/// Files that a crash between writing and renaming left.
pub(crate) fn files(data: &Path) -> Check {
    let mut check = Check::new("leftovers.files");
    for folder in ["", "orders", "tls", "log/log", "log"] {
        let Ok(entries) = fs::read_dir(data.join(folder)) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            if name.ends_with(".part") || name.ends_with(".segment.tmp") {
                check.warn(
                    path.display().to_string(),
                    "nothing: a write that was cut off and never counted; the next write of that file replaces it",
                );
            } else if name == "view.quarantined" {
                check.warn(
                    path.display().to_string(),
                    "a view that was not believed and made again: examine it if that was no crash, then delete it",
                );
            }
        }
    }
    if check.details.is_empty() {
        check.detail("none");
    }
    check
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn a_clock_behind_the_last_entry_is_a_fault_within_the_tolerance_of_the_store() {
        let last = Timestamp::from_seconds(1_000);
        for (micros_behind, verdict) in
            [(-5_000_000, Verdict::Ok), (1_000_000, Verdict::Ok), (1_000_001, Verdict::Fault)]
        {
            let mut check = Check::new("clock.log");
            judge_clock(&mut check, last.plus_micros(-micros_behind), last);
            assert_eq!(check.verdict, verdict, "{micros_behind}");
        }
        for (drift, verdict) in
            [(900_000, Verdict::Ok), (-1_500_000, Verdict::Fault), (2_000_000, Verdict::Fault)]
        {
            let mut check = Check::new("clock.steady");
            judge_drift(&mut check, drift, 1);
            assert_eq!(check.verdict, verdict, "{drift}");
        }
    }

    #[test]
    fn unfinished_intents_and_files_are_warnings_that_need_nobody() {
        let mut check = Check::new("leftovers.intents");
        judge_intents(&mut check, 0);
        assert_eq!(check.verdict, Verdict::Ok);
        judge_intents(&mut check, 3);
        assert_eq!(check.verdict, Verdict::Warning);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(files(folder.path()).verdict, Verdict::Ok);
        fs::write(folder.path().join("checkpoint.part"), "").unwrap();
        assert_eq!(files(folder.path()).verdict, Verdict::Warning);
    }

    #[test]
    fn a_tampered_log_is_an_alarm_that_names_batch_and_entry() {
        let mut check = Check::new("log.chain");
        let source =
            StoreError::Tampered { place: "00000001.segment at byte 512".to_owned(), what: "changed" };
        judge_log_fault(&mut check, &store::InspectError { batches: 4, entries: 9, source });
        assert_eq!(check.advice, [ALARM]);
        for part in ["00000001.segment at byte 512", "number 5", "index 9"] {
            assert!(check.details[0].contains(part), "{}", check.details[0]);
        }
    }
}
