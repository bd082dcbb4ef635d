//! An authority of the tests' own: founded, served, restarted and killed by the real programs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use audit::Entry;
use serde_json::Value;
use tempfile::TempDir;

use crate::caller::Caller;
use crate::devices::{self, Device};
use tests::process::{Signal, signal};

pub const AUTHORITY: &str = "test-authority";
pub const ISSUER: &str = "eum-one-ca";
/// What a party needs before anything of the GSMA's hierarchy is issued for it.
pub const ACCREDITATION: [&str; 4] = ["--accreditation", "SAS test site", "--accreditation-until", "365d"];
pub const PURPOSE: &str = "remote-management";
/// Every device whose EID starts so is granted.
pub const GRANTED: &str = "890490321";
const PATIENCE: Duration = Duration::from_secs(30);
const PEOPLE: [&str; 3] = ["officer", "approver", "auditor"];

/// A served authority with one officer, approver, auditor, manufacturer and provisioner. Gone on drop.
pub struct Deployment {
    folder: TempDir,
    ports: [u16; 3],
    daemon: Option<Child>,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.kill9();
    }
}

impl Deployment {
    pub fn found() -> Self {
        Self::found_with(&[])
    }

    /// A machine with a configuration and nothing else.
    pub fn unfounded() -> Self {
        let machine = Self::in_new_folder();
        machine.configure(&[]);
        machine
    }

    fn in_new_folder() -> Self {
        // The tokens' files are synced at every change; memory spares the disk.
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder");
        Self { folder, ports: free_ports(), daemon: None }
    }

    /// With further options of `chanceryd config`.
    pub fn found_with(options: &[&str]) -> Self {
        let mut deployment = Self::in_new_folder();
        deployment.init(options);
        deployment.serve();
        deployment.enrol();
        deployment
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A connection of its own for the one who is named: officer, approver, auditor, eum or provisioner.
    pub async fn caller(&self, name: &str) -> Caller {
        Caller::connect(&self.path(name), &self.path("handover/authority-ca.pem"), self.ports[0])
            .await
            .unwrap()
    }

    fn init(&self, options: &[&str]) {
        for kind in PEOPLE {
            self.chancery(&["identity", "create", "--kind", kind, "--name", kind, "--out", kind]);
        }
        for kind in ["eum", "provisioner"] {
            let who = ["--organization", "RSP Test", "--country", "IT", "--out", kind];
            let create = ["identity", "create", "--kind", kind, "--name", kind];
            self.chancery(&[&create[..], &who].concat());
        }
        self.configure(options);
        let mut init = vec!["init", "--config", "chanceryd.toml", "--out", "handover"];
        init.extend(PEOPLE.iter().flat_map(|person| ["--person", person]));
        self.run("chanceryd", &init);
        for person in PEOPLE {
            self.install(person, &format!("handover/{person}.pem"));
        }
    }

    fn configure(&self, options: &[&str]) {
        let [grpc, http, metrics] = self.ports.map(|port| port.to_string());
        let config = ["config", "--data", "data", "--authority", AUTHORITY, "--out", "chanceryd.toml"];
        let ports = ["--grpc-port", &grpc, "--http-port", &http, "--metrics-port", &metrics];
        self.run("chanceryd", &[&config[..], &ports, options].concat());
        let path = self.path("chanceryd.toml");
        // Nothing that comes by the clock: some tests count what the tokens do.
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("segment_mib = 64", "segment_mib = 8")
            .replace("ocsp_answers_ahead = 5000", "ocsp_answers_ahead = 0");
        fs::write(&path, text).unwrap();
    }

    fn enrol(&self) {
        for (party, terms) in [("eum", &["--ein", "89049032", "--quota", "5000"][..]), ("provisioner", &[])] {
            let enrol = ["party", "enrol", "--folder", party, "--reason", "contract"];
            self.two_persons(&[&enrol[..], &ACCREDITATION, terms].concat(), Some(party));
            self.install(party, &format!("received/{party}/certificate.pem"));
        }
        let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--name", ISSUER];
        self.run("chanceryd", &[&create[..], &["--party", "eum", "--out", "issuer.json"]].concat());
        self.two_persons(&["issuer", "register", "--key-file", "issuer.json", "--reason", "ceremony"], None);
        let request = ["certificate", "request", "--profile", "eum", "--party", "eum", "--issuer", ISSUER];
        let subject = ["--common-name", "EUM", "--registered-id", "2.999.5", "--reason", "contract"];
        self.two_persons(&[&request[..], &subject].concat(), None);
        self.grant("grant", PURPOSE, GRANTED, "9d");
    }

    /// Requested by the officer; the digest.
    pub fn request(&self, request: &[&str]) -> String {
        let request = [request, &["--identity", "officer", "--output", "json"]].concat();
        let requested: Value = serde_json::from_str(&self.chancery(&request)).unwrap();
        requested["digest"].as_str().unwrap().to_owned()
    }

    /// Requested, approved and executed by the tool; what comes out goes to `received/`.
    pub fn two_persons(&self, request: &[&str], received: Option<&str>) {
        let digest = &self.request(request);
        self.chancery(&["operation", "approve", digest, "--yes", "--identity", "approver"]);
        let out = format!("received/{}", received.unwrap_or(digest));
        self.chancery(&["operation", "execute", digest, "--identity", "officer", "--out", &out]);
    }

    pub fn install(&self, folder: &str, certificate: &str) {
        let server = format!("127.0.0.1:{}", self.ports[0]);
        let certificates = ["--certificate", certificate, "--authority-ca", "handover/authority-ca.pem"];
        let place = ["--server", &server, "--authority", AUTHORITY];
        self.chancery(&[&["identity", "install", folder][..], &certificates, &place].concat());
    }

    /// Enrols another person, under their name as folder.
    pub fn enrol_person(&self, name: &str, roles: &[&str]) {
        self.chancery(&["identity", "create", "--kind", roles[0], "--name", name, "--out", name]);
        let mut enrol = vec!["person", "enrol", "--identity-folder", name, "--reason", "hired"];
        enrol.extend(roles.iter().flat_map(|role| ["--role", role]));
        self.two_persons(&enrol, Some(name));
        self.install(name, &format!("received/{name}/certificate.pem"));
    }

    /// Enrols another party, under its name as folder.
    pub fn enrol_party(&self, kind: &str, name: &str, terms: &[&str]) {
        let who = ["--organization", "Another", "--country", "IT", "--out", name];
        self.chancery(&[&["identity", "create", "--kind", kind, "--name", name][..], &who].concat());
        let enrol = ["party", "enrol", "--folder", name, "--reason", "contract"];
        self.two_persons(&[&enrol[..], &ACCREDITATION, terms].concat(), Some(name));
        self.install(name, &format!("received/{name}/certificate.pem"));
    }

    /// Grants the provisioner a range of devices for so long.
    pub fn grant(&self, name: &str, purpose: &str, ein: &str, expires: &str) {
        let grant = ["grant", "create", "--name", name, "--provisioner", "provisioner", "--ein", ein];
        let terms =
            ["--purpose", purpose, "--lawful-basis", "licence", "--expires", expires, "--reason", "x"];
        self.two_persons(&[&grant[..], &terms].concat(), None);
    }

    /// The CI's certificate, DER, as it is published.
    pub fn ci_certificate(&self) -> Vec<u8> {
        let path = self.path("handover/ci.pem");
        pki::Certificate::from_pem(&fs::read(path).unwrap()).unwrap().der().to_vec()
    }

    /// The port of gRPC.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The port of public HTTP.
    pub fn http_port(&self) -> u16 {
        self.ports[1]
    }

    /// Orders devices of these numbers, fetches the output, and gives them as their manufacturer knows them.
    pub fn order(&self, order: &str, eids: &[String]) -> Vec<Device> {
        let file = format!("{order}.csv");
        fs::write(self.path(&file), devices::csv(eids)).unwrap();
        let place = ["order", "place", "--order", order, "--issuer", ISSUER, "--devices", &file];
        let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
        self.chancery(&[&place[..], &terms].concat());
        let output = format!("{order}.jsonl");
        self.chancery(&["order", "fetch", "--order", order, "--out", &output, "--identity", "eum"]);
        devices::unwrap(&self.path("eum/transport-key.pem"), &self.path(&output))
    }

    /// The log as the auditor exports it, verified by its own key.
    pub fn entries(&self) -> Vec<Entry> {
        let out = tempfile::tempdir_in(self.folder.path()).unwrap();
        let export = out.path().join("export");
        let folder = export.to_str().unwrap();
        self.export(folder);
        let key = fs::read_to_string(self.path("handover/log-key.vkey")).unwrap();
        self.chancery(&["audit", "verify", folder, "--log-key", key.trim()]);
        let mut entries: Vec<Entry> = files_below(&export.join("tile/entries"))
            .iter()
            .flat_map(|file| {
                let bundle = fs::read(file).unwrap();
                let entries = audit::split_bundle(&bundle).unwrap();
                entries.into_iter().map(|bytes| Entry::parse(bytes).unwrap()).collect::<Vec<_>>()
            })
            .collect();
        entries.sort_by_key(|entry| entry.header.index);
        entries
    }

    /// The log into a new folder, as the auditor exports it.
    pub fn export(&self, out: &str) {
        self.chancery(&["audit", "export", "--out", out, "--identity", "auditor"]);
    }

    /// Starts the tool and does not wait for it.
    pub fn start_chancery(&self, arguments: &[&str]) -> Child {
        self.command("chancery").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn chancery(&self, arguments: &[&str]) -> String {
        self.run("chancery", arguments)
    }

    pub fn chanceryd(&self, arguments: &[&str]) -> String {
        self.run("chanceryd", arguments)
    }

    /// A run that must fail; what it says.
    pub fn refused(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{program} {} succeeded", arguments.join(" "));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The tool, whatever comes of it.
    pub fn try_chancery(&self, arguments: &[&str]) -> Output {
        self.command("chancery").args(arguments).output().unwrap()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["CHANCERY_IDENTITY", "CHANCERY_SERVER", "CHANCERY_OUTPUT", "SOFTHSM2_CONF"] {
            command.env_remove(name);
        }
        command
    }

    pub fn serve(&mut self) {
        let path = self.path("serve.log");
        let log = fs::File::options().create(true).append(true).open(&path).unwrap();
        let said_before = usize::try_from(log.metadata().unwrap().len()).unwrap();
        let child = self
            .command("chanceryd")
            .args(["serve", "--config", "chanceryd.toml"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let child = self.daemon.insert(child);
        let started = Instant::now();
        let mut listens = false;
        while !listens && started.elapsed() < PATIENCE && child.try_wait().unwrap().is_none() {
            // Not by a connection: one without TLS is a refused handshake, which has an entry a while later.
            let said = fs::read(&path).unwrap();
            let said = String::from_utf8_lossy(&said[said_before..]).into_owned();
            listens = said.lines().any(|line| line.contains("serving") && line.contains("grpc"));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(listens, "chanceryd does not serve: {}", fs::read_to_string(&path).unwrap_or_default());
    }

    /// What `chanceryd doctor` says, whatever it is.
    pub fn doctor(&self, arguments: &[&str]) -> Output {
        let doctor = ["doctor", "--config", "chanceryd.toml"];
        self.command("chanceryd").args(doctor).args(arguments).output().unwrap()
    }

    /// Stops the daemon in good order and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.serve();
    }

    /// Stops the daemon in good order.
    pub fn stop(&mut self) {
        let daemon = self.daemon.as_mut().unwrap();
        signal(daemon.id(), Signal::TERM).unwrap();
        let started = Instant::now();
        while started.elapsed() < PATIENCE && daemon.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = daemon.try_wait().unwrap().expect("chanceryd stops when told");
        assert!(status.success(), "chanceryd ended with {status}");
    }

    /// What the metrics show.
    pub fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[2])).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Entries in the log, as the metrics show it.
    pub fn log_size(&self) -> u64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix("chancery_log_entries ")).unwrap();
        line.parse().unwrap()
    }

    /// Calls that a token was asked for, as the metrics show it.
    pub fn token_calls(&self, token: &str) -> u64 {
        let text = self.metrics();
        let name = format!("chancery_token_pkcs11_calls_total{{token=\"{token}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    }

    /// The daemon's process.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// The daemon's token workers: its children.
    pub fn worker_pids(&self) -> Vec<u32> {
        let pid = self.daemon_pid();
        let mut workers = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let children = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
            workers.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
        workers
    }

    /// Takes the daemon away at once.
    pub fn kill9(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// One of ours, beside this test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(program.exists(), "{} is missing: cargo build -p server -p cli --bins", program.display());
    program
}

pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|child| child.unwrap().path())
        .flat_map(|child| if child.is_dir() { files_below(&child) } else { vec![child] })
        .collect()
}

/// Held all at once, so that they differ.
/// Waits for what the daemon does by itself.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let due = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < due, "it never happened: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
