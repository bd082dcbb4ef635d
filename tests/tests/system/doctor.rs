//! `chanceryd doctor` on a healthy authority and on one fault at a time: it names the fault, says what to do, and
//! changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use audit::{EntryDraft, EventType, Outcome};
use domain::{Clock, Timestamp};
use serde_json::Value;
use store::{Commit, Home, Keyspace, LogIdentity, LogMacKey, LogStore, OpenOptions, Store};

use crate::support::{AUTHORITY, Deployment, program};

/// What doctor said, and its exit code.
struct Examined {
    healthy: bool,
    report: Value,
}

impl Examined {
    fn of(output: &Output) -> Self {
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        Self { healthy: output.status.success(), report }
    }

    fn check(&self, id: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()
    }

    fn verdict(&self, id: &str) -> &str {
        self.check(id)["verdict"].as_str().unwrap()
    }

    fn faults(&self) -> Vec<&str> {
        let checks = self.report["checks"].as_array().unwrap().iter();
        checks
            .filter(|check| check["verdict"] == "fault")
            .map(|check| check["id"].as_str().unwrap())
            .collect()
    }

    /// Exactly these faults, each saying `details` and advising.
    #[track_caller]
    fn names(&self, ids: &[&str], details: &str) {
        assert!(!self.healthy);
        assert_eq!(self.faults(), ids, "{:#}", self.report);
        for id in ids {
            assert!(!self.check(id)["advice"].as_array().unwrap().is_empty(), "{id} has no advice");
        }
        let said = self.check(ids[0])["details"].to_string();
        assert!(said.contains(details), "{said}");
    }
}

/// SHA-256 over names, modes and contents; the token's own files, where a login leaves its mark, aside.
fn print_of(data: &Path) -> Vec<u8> {
    fn visit(folder: &Path, hash: &mut Vec<u8>) {
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let mode = path.metadata().unwrap().permissions().mode();
            hash.extend(format!("{} {mode:o}\n", path.display()).into_bytes());
            if path.is_dir() && !path.ends_with("tokens") {
                visit(&path, hash);
            } else if path.is_file() {
                hash.extend(audit::sha256(&fs::read(&path).unwrap()));
            }
        }
    }
    let mut hash = Vec::new();
    visit(data, &mut hash);
    hash
}

/// Examines without a running daemon, and sees that nothing changed.
#[track_caller]
fn examine(deployment: &Deployment) -> Examined {
    let data = deployment.path("data");
    let before = print_of(&data);
    let examined = Examined::of(&deployment.doctor(&["--output", "json"]));
    assert!(before == print_of(&data), "doctor changed the data directory");
    examined
}

#[test]
fn a_running_daemon_is_judged_by_what_it_says_and_goes_on_serving() {
    let mut deployment = Deployment::found();
    let size = deployment.log_size();
    let examined = Examined::of(&deployment.doctor(&["--output", "json"]));
    assert!(examined.healthy, "{:#}", examined.report);
    assert_eq!(examined.report["daemon_running"], true);
    for id in ["daemon", "token.log.pin", "token.kms.keys", "certificate.issuers", "configuration.listeners"]
    {
        assert_eq!(examined.verdict(id), "ok", "{:#}", examined.check(id));
    }
    for id in ["log.chain", "view.agrees", "clock.log", "leftovers.intents"] {
        assert_eq!(examined.verdict(id), "skipped");
        assert!(examined.check(id)["details"][0].as_str().unwrap().contains("the daemon is running"));
    }
    assert_eq!(deployment.log_size(), size, "doctor left an entry");
    deployment.restart();
}

#[test]
fn a_healthy_authority_passes_and_each_fault_is_named_with_what_to_do() {
    let mut deployment = Deployment::found();
    deployment.stop();
    let healthy = examine(&deployment);
    assert!(healthy.healthy, "{:#}", healthy.report);
    for id in ["log.chain", "log.checkpoint", "view.agrees", "clock.log", "token.ca.keys", "token.kms.keys"] {
        assert_eq!(healthy.verdict(id), "ok", "{:#}", healthy.check(id));
    }
    assert_eq!(healthy.verdict("configuration.mode"), "warning", "development is said aloud");
    let table = String::from_utf8(deployment.doctor(&[]).stdout).unwrap();
    assert!(table.contains("✓ log.chain") && table.contains(" 0 faults"), "{table}");

    // A PIN file that others may read.
    let pin = deployment.path("data/pins/kms.pin");
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o644)).unwrap();
    examine(&deployment).names(&["configuration.permissions", "token.kms.pin"], "kms.pin has mode 0644");
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();

    // A byte of the log.
    let segment = deployment.path("data/log/log/00000001.segment");
    let good = fs::read(&segment).unwrap();
    let mut bad = good.clone();
    bad[512 + 300] ^= 1;
    fs::write(&segment, &bad).unwrap();
    let examined = examine(&deployment);
    examined.names(&["log.chain"], "00000001.segment at byte 512");
    assert!(examined.check("log.chain")["details"].to_string().contains("the bad batch is number 1"));
    assert!(examined.check("log.chain")["advice"][0].as_str().unwrap().contains("do not start the daemon"));
    fs::write(&segment, &good).unwrap();

    // The token folder is away.
    let (store, away) = (deployment.path("data/tokens/store"), deployment.path("store-away"));
    fs::rename(&store, &away).unwrap();
    let examined = examine(&deployment);
    examined.names(&["token.module"], "C_Initialize");
    assert_eq!(examined.verdict("log.chain"), "skipped");
    fs::rename(&away, &store).unwrap();

    // A wrong PIN is tried once; after that the token itself says so.
    let right = fs::read(&pin).unwrap();
    fs::write(&pin, "00000000").unwrap();
    examine(&deployment).names(&["token.kms.pin"], "CKR_PIN_INCORRECT");
    examine(&deployment).names(&["token.kms.pin"], "not tried");
    fs::write(&pin, &right).unwrap();

    deployment.serve();
    deployment.stop();
    assert!(examine(&deployment).healthy, "the daemon's login cleared the mark");
}

#[test]
fn a_token_initialised_again_is_told_from_one_that_is_missing() {
    let mut deployment = Deployment::found();
    deployment.stop();
    let tool = |arguments: &[&str]| {
        let configuration = deployment.path("data/tokens/softhsm2.conf");
        let mut command = Command::new("softhsm2-util");
        let output = command.args(arguments).env("SOFTHSM2_CONF", configuration).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    tool(&["--delete-token", "--token", "chancery-kms"]);
    examine(&deployment).names(&["token.kms.present"], "chancery-kms is not there");
    let pins = ["--so-pin", "87654321", "--pin", "12345678"];
    tool(&[&["--init-token", "--free", "--label", "chancery-kms"][..], &pins].concat());
    examine(&deployment).names(&["token.kms.present"], "initialised again");
}

/// Writes one entry into the stopped authority's log, as a daemon whose clock stands so many seconds ahead would.
async fn append_ahead(deployment: &Deployment, seconds: i64) {
    let data = deployment.path("data");
    let foundation: Value = serde_json::from_slice(&fs::read(data.join("foundation.json")).unwrap()).unwrap();
    let key = foundation["keys"].as_array().unwrap().iter().find(|key| key["role"] == "log-mac").unwrap();
    let word = |name: &str| key[name].as_str().unwrap().to_owned();
    let registered = hsm::RegisteredKey {
        key: hsm::KeyRef { label: word("label"), id: hex::decode(word("id")).unwrap().try_into().unwrap() },
        role: hsm::KeyRole::LogMac,
        check: hsm::KeyCheck::CheckValue(hex::decode(word("check_value")).unwrap().try_into().unwrap()),
    };
    let token = hsm::TokenConfig {
        name: "log".into(),
        module: hsm::softhsm::module().unwrap(),
        token_label: "chancery-log".into(),
        token_serial: None,
        pin_file: data.join("pins/log.pin"),
        environment: vec![("SOFTHSM2_CONF".into(), data.join("tokens/softhsm2.conf").display().to_string())],
        lock_file: data.join("log.token-lock"),
        workers: 1,
        threads_per_worker: 1,
        queue_depth_max: 8,
        injected_delay_us: 0,
        session_objects_max: hsm::SESSION_OBJECTS_MAX,
        inside_only: false,
    };
    let command = hsm::WorkerCommand { program: program("chanceryd"), args: vec!["hsm-worker".into()] };
    let token = hsm::Token::start(token, vec![registered.clone()], command).await.unwrap();
    let secret = token.service_secret(&registered.key, "log-mac/v1").await.unwrap();
    token.shutdown().await;
    let memory = [1, 2, 3, 4].map(|code| Keyspace { code, name: "of the server", home: Home::Memory });
    let view = [96, 97].map(|code| Keyspace { code, name: "of the server", home: Home::View });
    let keyspaces = memory.into_iter().chain(view).chain(kms::KEYSPACES).chain(ca::KEYSPACES).collect();
    let identity = LogIdentity { authority: AUTHORITY.into(), node: "node-1".into(), epoch: 1 };
    let clock = Arc::new(Ahead(std::time::Instant::now(), seconds));
    let mut options = OpenOptions::new(data.join("log"), identity, LogMacKey::new(secret), clock, keyspaces);
    options.segment_bytes = 8 << 20;
    let (store, _) = LogStore::open(options).unwrap();
    let entry = EntryDraft::new(EventType::ServiceStarted, Outcome::Done);
    store.commit(Commit::of(vec![entry])).await.unwrap();
    store.shutdown();
}

/// A clock that stands so many seconds ahead of the machine's.
struct Ahead(std::time::Instant, i64);

impl Clock for Ahead {
    #[expect(clippy::disallowed_methods, reason = "the daemon beside it reads the machine's clock as well")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap()).plus_seconds(self.1)
    }

    fn monotonic_micros(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_behind_the_log_is_told_and_nothing_else_is_wrong() {
    let mut deployment = Deployment::found();
    deployment.stop();
    append_ahead(&deployment, 3_600).await;
    examine(&deployment).names(&["clock.log"], "s behind");
}
