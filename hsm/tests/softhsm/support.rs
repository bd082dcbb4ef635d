//! A SoftHSM token per test, made by the ceremony itself.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hsm::ceremony::{Ceremony, CreatedKey};
use hsm::{CallOptions, HsmError, KeyRole, Priority, RegisteredKey, Token, TokenConfig, WorkerCommand};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub const PIN: &str = "2468-test-pin";

pub struct Fixture {
    pub dir: TempDir,
    pub config: TokenConfig,
}

impl Fixture {
    /// An initialised token without keys. Token directories live on tmpfs where there is one.
    pub fn new(name: &str) -> Self {
        let fixture = Self::blank(name);
        fixture.ceremony().init_token(&fixture.dir.path().join("so-pin")).unwrap();
        fixture
    }

    /// Configuration and PIN files, no token yet.
    pub fn blank(name: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let tokens = dir.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let conf = dir.path().join("softhsm2.conf");
        fs::write(&conf, hsm::softhsm::configuration(&tokens)).unwrap();
        write_private(&dir.path().join("pin"), PIN);
        write_private(&dir.path().join("so-pin"), "1357-test-so-pin");
        let config = TokenConfig {
            name: name.to_owned(),
            module: hsm::softhsm::module().expect("the tests need SoftHSM 2 (package softhsm2)"),
            token_label: format!("chancery-{name}"),
            token_serial: None,
            pin_file: dir.path().join("pin"),
            environment: vec![("SOFTHSM2_CONF".to_owned(), conf.display().to_string())],
            lock_file: dir.path().join("token.lock"),
            workers: 1,
            threads_per_worker: 1,
            queue_depth_max: 64,
            injected_delay_us: 0,
            session_objects_max: hsm::SESSION_OBJECTS_MAX,
            inside_only: false,
        };
        Self { dir, config }
    }

    pub fn ceremony(&self) -> Ceremony {
        Ceremony::start(self.config.clone(), &command(&["ceremony"])).unwrap()
    }

    pub fn create(&self, role: KeyRole) -> CreatedKey {
        self.ceremony().create_key(role, "test", 1).unwrap()
    }

    pub fn create_all(&self, roles: &[KeyRole]) -> Vec<RegisteredKey> {
        let mut ceremony = self.ceremony();
        roles.iter().map(|role| ceremony.create_key(*role, "test", 1).unwrap().registered()).collect()
    }

    pub async fn start(&self, keys: &[RegisteredKey]) -> Result<Token, HsmError> {
        Token::start(self.config.clone(), keys.to_vec(), command(&[])).await
    }

    pub fn environment(&self) -> (&str, &str) {
        let (name, value) = &self.config.environment[0];
        (name, value)
    }

    pub fn token_files(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }
}

pub fn command(args: &[&str]) -> WorkerCommand {
    WorkerCommand {
        program: PathBuf::from(env!("CARGO_BIN_EXE_hsm-worker")),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
    }
}

pub fn write_private(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path).unwrap();
    writeln!(file, "{text}").unwrap();
}

pub fn within(time: Duration) -> CallOptions {
    CallOptions { deadline: Instant::now() + time, priority: Priority::Normal }
}

pub fn soon() -> CallOptions {
    within(Duration::from_secs(20))
}

/// Runs one ignored test of this binary as a process of its own, in the environment of the fixture's token: the only
/// way to use PKCS#11 directly here, since SoftHSM reads its configuration from the environment.
pub fn in_child(fixture: &Fixture, test: &str) {
    let (name, value) = fixture.environment();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .env(name, value)
        .env("CHANCERY_TEST_TOKEN", &fixture.config.token_label)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Polls until `condition` holds; for what happens soon, but in another process.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}
