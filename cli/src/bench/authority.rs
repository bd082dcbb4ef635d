//! An authority of the benchmark's own: made, served and thrown away by the same commands that operators use.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::connect::random_key;
use crate::error::CliError;
use crate::files;
use crate::output::Progress;

/// Name of the authority.
const AUTHORITY: &str = "bench";
/// Names of what is enrolled.
pub const PROVISIONER: &str = "bench-ota";
/// The auditor, where a benchmark reads the log.
pub const AUDITOR: &str = "auditor";
/// The person who requests and executes.
pub const OFFICER: &str = "officer";
/// The manufacturer.
pub const EUM: &str = "bench-eum";
/// Its issuer.
pub const ISSUER: &str = "bench-eum-2026";
/// Its range.
pub const EIN: &str = "89049032";
/// The purpose of the grant.
pub const PURPOSE: &str = "bench";
/// Devices it may order in all.
const QUOTA: &str = "100000000";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What the scratch authority is made with.
pub struct Setup<'a> {
    /// The daemon's binary.
    pub daemon: &'a Path,
    /// Worker processes of a token.
    pub workers: usize,
    /// Added to each job of the token, in µs, in place of a slower one.
    pub token_delay_us: u64,
    /// With a token for keys of SM-DP+.
    pub rsp: bool,
}

/// A running scratch authority. Stopped and removed on drop.
pub struct ScratchAuthority {
    folder: PathBuf,
    daemon: PathBuf,
    service: Option<Child>,
    server: String,
    /// Where its metrics are.
    pub metrics: SocketAddr,
    /// Its public HTTP listener.
    pub http: SocketAddr,
}

impl Drop for ScratchAuthority {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            // Nothing of it is kept, so nothing needs to be finished; the workers end with their socket.
            let _ = service.kill();
            let _ = service.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl ScratchAuthority {
    /// From nothing to a service with a manufacturer, its issuer, and a provisioner with a grant.
    pub async fn start(setup: &Setup<'_>, progress: &mut Progress) -> Result<Self, CliError> {
        let folder = std::env::temp_dir().join(format!("chancery-bench-{}", random_key()?));
        files::create_private_folder(&folder)?;
        let [grpc, http, metrics] = free_ports()?;
        let mut authority = Self {
            folder,
            daemon: setup.daemon.to_owned(),
            service: None,
            server: format!("127.0.0.1:{grpc}"),
            metrics: SocketAddr::from((Ipv4Addr::LOCALHOST, metrics)),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, http)),
        };
        for (kind, name) in [("officer", OFFICER), ("approver", "approver")] {
            let out = authority.path(name);
            authority.chancery(&[
                "identity",
                "create",
                "--kind",
                kind,
                "--name",
                name,
                "--out",
                text(&out),
            ])?;
        }
        for (kind, name) in [("eum", EUM), ("provisioner", PROVISIONER)] {
            let out = authority.path(name);
            authority.chancery(&[
                "identity",
                "create",
                "--kind",
                kind,
                "--name",
                name,
                "--organization",
                "Bench",
                "--country",
                "DE",
                "--out",
                text(&out),
            ])?;
        }
        progress.advance(1);
        authority.init([grpc, http, metrics], setup)?;
        progress.advance(1);
        authority.serve().await?;
        progress.advance(1);
        authority.enrol()?;
        progress.advance(1);
        Ok(authority)
    }
}

impl ScratchAuthority {
    /// HOST:PORT of the service.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// A file or folder of the scratch authority.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.service.as_ref().map_or(0, Child::id)
    }

    /// Makes configuration, tokens, root, operator CA, and seats officer and approver.
    fn init(&self, ports: [u16; 3], setup: &Setup<'_>) -> Result<(), CliError> {
        let [grpc, http, metrics] = ports.map(|port| port.to_string());
        let (data, config) = (self.path("data"), self.path("chanceryd.toml"));
        let rsp: &[&str] = if setup.rsp { &["--rsp"] } else { &[] };
        let config_arguments = [
            "config",
            "--data",
            text(&data),
            "--authority",
            AUTHORITY,
            "--grpc-port",
            &grpc,
            "--http-port",
            &http,
            "--metrics-port",
            &metrics,
            "--workers",
            &setup.workers.to_string(),
            "--out",
            text(&config),
        ];
        self.chanceryd(&[&config_arguments[..], rsp].concat())?;
        if setup.token_delay_us > 0 {
            let delay = format!("injected_delay_us = {}\nqueue_depth_max", setup.token_delay_us);
            let delayed = files::read_text(&config)?.replace("queue_depth_max", &delay);
            files::replace(&config, delayed.as_bytes(), files::Readers::Owner)?;
        }
        self.chanceryd(&[
            "init",
            "--config",
            text(&config),
            "--person",
            text(&self.path(OFFICER)),
            "--person",
            text(&self.path("approver")),
            "--out",
            text(&self.path("founded")),
        ])?;
        for person in [OFFICER, "approver"] {
            self.install(person, &self.path(&format!("founded/{person}.pem")))?;
        }
        Ok(())
    }

    async fn serve(&mut self) -> Result<(), CliError> {
        let child = Command::new(&self.daemon)
            .args(["serve", "--config", text(&self.path("chanceryd.toml"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("serve.log")).map_err(CliError::file("create", &self.folder))?)
            .spawn()
            .map_err(CliError::file("run", &self.daemon))?;
        self.service = Some(child);
        let started = Instant::now();
        while std::net::TcpStream::connect(&self.server).is_err() {
            let ended = match &mut self.service {
                Some(service) => {
                    service.try_wait().map_err(CliError::file("wait for", &self.daemon))?.is_some()
                }
                None => true,
            };
            if ended || started.elapsed() > START_TIMEOUT {
                let log = files::read_text(&self.path("serve.log")).unwrap_or_default();
                return Err(CliError::Local(format!("the scratch service did not start: {}", log.trim())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Manufacturer with issuer and certificate, provisioner with a grant over the whole range.
    fn enrol(&self) -> Result<(), CliError> {
        for (name, extra) in [(EUM, &["--ein", EIN, "--quota", QUOTA][..]), (PROVISIONER, &[][..])] {
            let folder = self.path(name);
            let accreditation = ["--accreditation", "none: scratch", "--accreditation-until", "9d"];
            let enrol = [&["party", "enrol", "--folder", text(&folder)], &accreditation[..], extra].concat();
            let issued = self.protected(&enrol)?;
            self.install(name, &issued.join("certificate.pem"))?;
        }
        let key_file = self.path("issuer-key.json");
        self.chanceryd(&[
            "ceremony",
            "create-key",
            "--config",
            text(&self.path("chanceryd.toml")),
            "--name",
            ISSUER,
            "--party",
            EUM,
            "--out",
            text(&key_file),
        ])?;
        self.protected(&[
            "issuer",
            "register",
            "--key-file",
            text(&key_file),
            "--name",
            ISSUER,
            "--party",
            EUM,
        ])?;
        self.protected(&[
            "certificate",
            "request",
            "--profile",
            "eum",
            "--party",
            EUM,
            "--common-name",
            "Bench EUM",
            "--issuer",
            ISSUER,
            "--registered-id",
            "2.999.2",
        ])?;
        self.protected(&[
            "grant",
            "create",
            "--name",
            "bench",
            "--provisioner",
            PROVISIONER,
            "--ein",
            EIN,
            "--purpose",
            PURPOSE,
            "--lawful-basis",
            "benchmark",
            "--expires",
            "30d",
        ])?;
        Ok(())
    }

    /// An auditor, who may export the log.
    pub fn enrol_auditor(&self) -> Result<(), CliError> {
        let folder = self.path(AUDITOR);
        let create = ["identity", "create", "--kind", "auditor", "--name", AUDITOR, "--out", text(&folder)];
        self.chancery(&create)?;
        let issued = self.protected(&["person", "enrol", "--identity-folder", text(&folder)])?;
        self.install(AUDITOR, &issued.join("certificate.pem"))
    }

    /// Requests, approves and executes; returns the folder with what was issued.
    pub fn protected(&self, request: &[&str]) -> Result<PathBuf, CliError> {
        let (officer, approver) = (self.path(OFFICER), self.path("approver"));
        let (officer, approver) = (text(&officer), text(&approver));
        let requested =
            self.chancery(&[request, &["--reason", "benchmark", "--identity", officer]].concat())?;
        let digest = requested["digest"]
            .as_str()
            .ok_or_else(|| CliError::Answer("a request was answered without its digest".to_owned()))?;
        self.chancery(&["operation", "approve", digest, "--yes", "--identity", approver])?;
        let out = self.path(digest);
        self.chancery(&["operation", "execute", digest, "--out", text(&out), "--identity", officer])?;
        Ok(out)
    }

    fn install(&self, name: &str, certificate: &Path) -> Result<(), CliError> {
        let (folder, ca) = (self.path(name), self.path("founded/authority-ca.pem"));
        self.chancery(&[
            "identity",
            "install",
            text(&folder),
            "--certificate",
            text(certificate),
            "--authority-ca",
            text(&ca),
            "--server",
            &self.server,
            "--authority",
            AUTHORITY,
        ])?;
        Ok(())
    }

    /// Ends the service as an operator would, and waits: its token and its log are free then.
    pub fn stop(&mut self) -> Result<(), CliError> {
        let Some(mut service) = self.service.take() else { return Ok(()) };
        let asked = Pid::from_raw(i32::try_from(service.id()).unwrap_or(0))
            .is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if !asked {
            service.kill().map_err(CliError::file("end", &self.daemon))?;
        }
        service.wait().map_err(CliError::file("wait for", &self.daemon))?;
        Ok(())
    }

    /// What the token does by itself, by the daemon's own measurement; the service must have been stopped.
    pub fn token_rate(&self, kind: &str, devices: Option<&Path>, seconds: u64) -> Result<Value, CliError> {
        let (config, seconds) = (self.path("chanceryd.toml"), seconds.to_string());
        let mut arguments =
            vec!["token-rate", "--config", text(&config), "--kind", kind, "--seconds", &seconds];
        arguments.extend(devices.iter().flat_map(|devices| ["--devices", text(devices)]));
        self.chanceryd(&arguments).and_then(|text| json(&text))
    }

    /// This tool again, as an operator would call it.
    pub fn chancery(&self, arguments: &[&str]) -> Result<Value, CliError> {
        let own = std::env::current_exe().map_err(CliError::file("find", Path::new("chancery")))?;
        json(&run(&own, &[&["--output", "json"], arguments].concat())?)
    }

    /// A key made at a ceremony, with these arguments.
    pub fn create_key(&self, arguments: &[&str]) -> Result<(), CliError> {
        let config = self.path("chanceryd.toml");
        let create = ["ceremony", "create-key", "--config", text(&config)];
        self.chanceryd(&[&create[..], arguments].concat()).map(drop)
    }

    fn chanceryd(&self, arguments: &[&str]) -> Result<Vec<u8>, CliError> {
        run(&self.daemon, arguments)
    }
}

fn run(program: &Path, arguments: &[&str]) -> Result<Vec<u8>, CliError> {
    let done = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(CliError::file("run", program))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(CliError::Local(format!(
        "{} {} failed: {}",
        program.display(),
        arguments.iter().take(3).copied().collect::<Vec<_>>().join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    )))
}

fn json(bytes: &[u8]) -> Result<Value, CliError> {
    serde_json::from_slice(bytes).map_err(|error| CliError::Answer(format!("no JSON: {error}")))
}

/// Paths of the scratch folder are text: this module made them.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn free_ports() -> Result<[u16; 3], CliError> {
    let mut ports = [0; 3];
    // All three are held at once, so they differ.
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .map_err(CliError::file("find a port at", Path::new("127.0.0.1")))?;
        *port =
            listener.local_addr().map_err(CliError::file("find a port at", Path::new("127.0.0.1")))?.port();
        held.push(listener);
    }
    Ok(ports)
}
