//! The register with many certificates in the embedded store: looked up by serial number, EID, key and holder, listed, a tenth
//! of them revoked, and opened again.
//!
//! `cargo run --release -p ca --example register_scale [certificates] [directory] [MiB of cache]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use audit::{EntryDraft, EventType, Outcome};
use ca::{CertificateFilter, CertificateIndex, find_by_eid, find_by_serial, list_certificates};
use domain::{Clock, Eid, Timestamp};
use prost::Message as _;
use proto::records;
use sha2::{Digest as _, Sha256};
use store::{Change, Commit, Keyspace, LogIdentity, LogMacKey, LogStore, OpenOptions, Store};
use zeroize::Zeroizing;

// As in the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

/// Certificates of one commit, as in an order's chunk.
const CHUNK: u64 = 1_000;
/// One in so many certificates is revoked.
const REVOKED_EVERY: usize = 10;
/// Starts that are timed.
const STARTS: usize = 3;
/// Lookups of each kind.
const LOOKUPS: u64 = 20_000;
/// A published certificate of this size stands for each.
const DER: &[u8] = include_bytes!("../../tests/vectors/sgp26_v3.0.2_varO_2024/CERT_EUICC_SIG_NIST.der");

struct SystemClock(Instant);

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "an example owns its clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic_micros(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// What the `number`th certificate is found by.
struct Subject {
    serial: Vec<u8>,
    eid: Eid,
    key: [u8; 32],
}

fn subject(number: u64) -> Result<Subject, Failure> {
    let digest: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
    let mut serial = digest[..20].to_vec();
    serial[0] = serial[0] & 0x7f | 0x40;
    let eid = Eid::from_body(&format!("89049032{number:022}"))?;
    Ok(Subject { serial, eid, key: Sha256::digest(digest).into() })
}

fn keyspace(name: &str) -> Result<Keyspace, Failure> {
    let found = ca::KEYSPACES.into_iter().find(|keyspace| keyspace.name == name);
    found.ok_or_else(|| format!("no keyspace {name}").into())
}

/// A party's certificate for every thousandth, so that the index of holders is used as well.
const fn is_of_party(number: u64) -> bool {
    number.is_multiple_of(1_000)
}

fn record(number: u64, state: &str) -> Result<records::Certificate, Failure> {
    let subject = subject(number)?;
    let holder = if is_of_party(number) { "party".to_owned() } else { subject.eid.to_string() };
    Ok(records::Certificate {
        version: 1,
        serial_number: subject.serial,
        issuer: "eum-one".to_owned(),
        profile: "euicc".to_owned(),
        subject: holder,
        public_key_digest: subject.key.to_vec(),
        state: state.to_owned(),
        der: DER.to_vec(),
        ..records::Certificate::default()
    })
}

fn fill(store: &LogStore, certificates: u64) -> Result<(), Failure> {
    let [rows, keys, devices, holders] =
        ["certificates", "certified_keys", "device_certificates", "holder_certificates"].map(keyspace);
    let (rows, keys, devices, holders) = (rows?, keys?, devices?, holders?);
    for first in (0..certificates).step_by(usize::try_from(CHUNK)?) {
        let mut changes = Vec::new();
        for number in first..certificates.min(first + CHUNK) {
            let subject = subject(number)?;
            let record = record(number, "issued")?;
            changes.push(Change::put(rows, subject.serial.clone(), record.encode_to_vec()));
            changes.push(Change::put(keys, subject.key.to_vec(), subject.serial.clone()));
            if is_of_party(number) {
                changes.push(Change::put(holders, [b"party\0", &subject.serial[..]].concat(), Vec::new()));
            } else {
                let eid = subject.eid.to_string().into_bytes();
                changes.push(Change::put(devices, eid, subject.serial));
            }
        }
        let mut commit = Commit::of(vec![EntryDraft::new(EventType::CertificateIssued, Outcome::Done)]);
        commit.changes = changes;
        store.commit(commit).wait()?;
    }
    Ok(())
}

/// Revoked rows are written whole, as the register does.
fn revoke(store: &LogStore, certificates: u64) -> Result<(), Failure> {
    let rows = keyspace("certificates")?;
    let numbers: Vec<u64> = (0..certificates).step_by(REVOKED_EVERY).collect();
    for chunk in numbers.chunks(usize::try_from(CHUNK)?) {
        let put = |number: &u64| {
            let record = records::Certificate {
                revocation_reason: "key-compromise".to_owned(),
                ..record(*number, "revoked")?
            };
            Ok(Change::put(rows, record.serial_number.clone(), record.encode_to_vec()))
        };
        let mut commit = Commit::of(vec![EntryDraft::new(EventType::CertificateRevoked, Outcome::Done)]);
        commit.changes = chunk.iter().map(put).collect::<Result<_, Failure>>()?;
        store.commit(commit).wait()?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the example's result")]
fn timed(what: &str, count: u64, run: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let (started, cpu) = (Instant::now(), cpu_seconds()?);
    run()?;
    let seconds = started.elapsed().as_secs_f64();
    let each = seconds * 1e6 / count.max(1) as f64;
    let cpu = cpu_seconds()? - cpu;
    println!(
        "{what:40} {seconds:9.3} s  {each:9.2} us each  {cpu:7.2} s of CPU  {:5} MiB resident",
        resident_mib()?
    );
    Ok(())
}

/// User and system time of this process so far.
fn cpu_seconds() -> Result<f64, Failure> {
    // proc_pid_stat(5): fields 14 and 15, in hundredths of a second; the name before them may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? as f64 / 100.0)
}

fn resident_mib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

fn expect(found: bool) -> Result<(), Failure> {
    if found { Ok(()) } else { Err("a certificate was not found".into()) }
}

fn look_up(store: &dyn Store, certificates: u64) -> Result<(), Failure> {
    // Spread over the whole register.
    let numbers = || (0..LOOKUPS).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % certificates);
    let by = |index| CertificateFilter { by: Some(index), ..CertificateFilter::default() };
    timed("by serial number", LOOKUPS, || {
        numbers()
            .try_for_each(|number| expect(find_by_serial(store, &subject(number)?.serial, "")?.is_some()))
    })?;
    timed("by EID", LOOKUPS, || {
        numbers()
            .filter(|number| !is_of_party(*number))
            .try_for_each(|number| expect(find_by_eid(store, &subject(number)?.eid)?.is_some()))
    })?;
    timed("by key", LOOKUPS, || {
        numbers().try_for_each(|number| {
            let filter = by(CertificateIndex::Key(subject(number)?.key));
            expect(list_certificates(store, &filter, None, 1)?.certificates.len() == 1)
        })
    })?;
    timed("by holder, a page of 200", LOOKUPS / 100, || {
        (0..LOOKUPS / 100).try_for_each(|_| {
            let filter = by(CertificateIndex::Holder("party".to_owned()));
            expect(!list_certificates(store, &filter, None, 200)?.certificates.is_empty())
        })
    })?;
    let pages = certificates.div_ceil(ca::CERTIFICATES_PER_PAGE as u64);
    timed("the whole register, a page of 200", pages, || {
        let (mut found, mut after) = (0, None);
        loop {
            let filter = CertificateFilter { state: "issued".to_owned(), ..CertificateFilter::default() };
            let page = list_certificates(store, &filter, after.as_deref(), ca::CERTIFICATES_PER_PAGE)?;
            found += page.certificates.len() as u64;
            after = page.next;
            if after.is_none() {
                return expect(found == certificates);
            }
        }
    })
}

#[expect(clippy::print_stdout, reason = "the example's result")]
fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let certificates: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let cache: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let directory = tempfile::tempdir_in(parent)?;
    let options = || {
        let mut options = OpenOptions::new(
            directory.path(),
            LogIdentity { authority: "scale".into(), node: "a".into(), epoch: 1 },
            LogMacKey::new(Zeroizing::new([1; 32])),
            Arc::new(SystemClock(Instant::now())),
            ca::KEYSPACES.to_vec(),
        );
        options.segment_bytes = 64 << 20;
        options.reserve_bytes = 0;
        options.view_cache_bytes = cache << 20;
        options
    };
    println!("{certificates} certificates");
    let store = LogStore::create(options())?;
    timed("stored", certificates, || fill(&store, certificates))?;
    look_up(&store, certificates)?;
    let revoked = certificates.div_ceil(REVOKED_EVERY as u64);
    timed("revoked, a tenth", revoked, || revoke(&store, certificates))?;
    timed("closed", 1, || {
        drop(store);
        Ok(())
    })?;
    for _ in 0..STARTS {
        let mut opened = None;
        timed("opened again", 1, || {
            opened = Some(LogStore::open(options())?.0);
            Ok(())
        })?;
        let Some(store) = opened else { return Err("the store did not open".into()) };
        timed("by serial number, after the start", 1_000, || {
            (0..1_000).try_for_each(|number| {
                expect(find_by_serial(&store, &subject(number * 7 % certificates)?.serial, "")?.is_some())
            })
        })?;
    }
    Ok(())
}
