//! Where the demonstration is played: its folder, the programs beside this one, and what became of each command.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::process;
use tokio::signal::unix::{SignalKind, signal};

/// Says that a folder is ours to empty.
const MARKER: &str = ".chancery-demo";
/// Lines of an answer that are shown.
const LINES_SHOWN_MAX: usize = 24;
/// How long the daemon may take to listen, and to stop.
const DAEMON_PATIENCE: Duration = Duration::from_secs(30);
/// Exit code after SIGTERM, as a shell tells it.
const TERMINATED: i32 = 128 + 15;

/// What was expected and what happened instead.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure with its message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// For `map_err`: `what` could not be done.
    pub fn at<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of the demonstration and the programs that play in it.
pub struct Stage {
    out: PathBuf,
    programs: PathBuf,
    /// Of gRPC, HTTP and metrics.
    pub ports: [u16; 3],
}

impl Stage {
    /// Empties the folder of an earlier demonstration, and only of one.
    pub fn prepare(out: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("cannot prepare {}: {error}", out.display()));
        let out = std::path::absolute(out).map_err(failed)?;
        if out.exists() {
            let is_empty = fs::read_dir(&out).map_err(failed)?.next().is_none();
            if !is_empty && !out.join(MARKER).exists() {
                return Err(Failure::new(format!(
                    "{} holds something that is no earlier demo; choose another --out",
                    out.display()
                )));
            }
            fs::remove_dir_all(&out).map_err(failed)?;
        }
        fs::create_dir_all(&out).map_err(failed)?;
        fs::write(out.join(MARKER), "Made by the demo, which empties this folder when it runs again.\n")
            .map_err(failed)?;
        let programs = std::env::current_exe()
            .map_err(failed)?
            .parent()
            .map(Path::to_owned)
            .ok_or_else(|| Failure::new("this program has no folder"))?;
        Ok(Self { out, programs, ports: free_ports().map_err(Failure::at("no free port"))? })
    }

    /// Heads a step.
    pub fn step(&self, number: u32, what: &str) {
        println!("\n=== {number}. {what}");
    }

    /// Says what a party outside the authority did.
    pub fn say(&self, what: impl fmt::Display) {
        println!("  * {what}");
    }

    /// A file of the demonstration's folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.out.join(name)
    }

    /// Reads a file as text.
    pub fn read(&self, name: &str) -> Result<String, Failure> {
        fs::read_to_string(self.path(name)).map_err(Failure::at(format!("cannot read {name}")))
    }

    /// Writes a file and the folder it is in.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), Failure> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Failure::at(format!("cannot make the folder of {name}")))?;
        }
        fs::write(&path, content).map_err(Failure::at(format!("cannot write {name}")))
    }

    /// Copies a file within the folder.
    pub fn copy(&self, from: &str, to: &str) -> Result<(), Failure> {
        let bytes = fs::read(self.path(from)).map_err(Failure::at(format!("cannot read {from}")))?;
        self.write(to, bytes)
    }

    /// Runs `chancery` and shows its answer; success is expected.
    pub fn chancery(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.expect("chancery", arguments, 0)
    }

    /// Runs `chancery --output json` and gives its answer; success is expected.
    pub fn chancery_json(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let (line, output) =
            self.run("chancery", &[arguments, &["--output", "json"]].concat(), Stdio::piped())?;
        check(&line, &output, 0)?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::new(format!("expected JSON from\n  $ {line}\n{error}")))
    }

    /// As [`Self::chancery_json`], without a word: for what is done again and again.
    pub fn quiet_json(&self, arguments: &[&str], codes: &[i32]) -> Result<Value, Failure> {
        let arguments = [arguments, &["--output", "json"]].concat();
        let line = command_line("chancery", &arguments);
        let output = self
            .command("chancery")
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(Failure::at("cannot start chancery"))?;
        if !output.status.code().is_some_and(|code| codes.contains(&code)) {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::new(format!("got {} from\n  $ {line}\n{}", output.status, shorten(&said))));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::new(format!("expected JSON from\n  $ {line}\n{error}")))
    }

    /// What a program of the system answers, without a word; success is expected.
    pub fn quiet(&self, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(Failure::at(format!("cannot start {program}")))?;
        check(&command_line(program, arguments), &output, 0)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a program that has to fail and to say `expected`.
    pub fn fails_with(&self, program: &str, arguments: &[&str], expected: &str) -> Result<(), Failure> {
        let (line, output) = self.run(program, arguments, Stdio::piped())?;
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if output.status.success() || !said.contains(expected) {
            return Err(Failure::new(format!(
                "expected {expected:?}, got {} from\n  $ {line}\n{}",
                output.status,
                shorten(&said)
            )));
        }
        println!("  refused: {expected}");
        Ok(())
    }

    /// Starts a command that goes on while others run; what it shows is shown.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Result<Child, Failure> {
        println!("$ {} &", command_line(program, arguments));
        self.command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .map_err(Failure::at(format!("cannot start {program}")))
    }

    /// Fetches a file of the public HTTP listener.
    pub fn http_get(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("GET {path}: {error}"));
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[1])).map_err(failed)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(failed)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        match end {
            Some(end) if answer.starts_with(b"HTTP/1.1 200") => Ok(answer.split_off(end + 4)),
            _ => Err(Failure::new(format!("GET {path}: no such file"))),
        }
    }

    /// The port of the public listener.
    pub const fn http_port(&self) -> u16 {
        self.ports[1]
    }

    /// Runs `chancery --output json`, which has to be refused with `reason`.
    pub fn refused(&self, arguments: &[&str], reason: &str) -> Result<(), Failure> {
        let (line, output) =
            self.run("chancery", &[arguments, &["--output", "json"]].concat(), Stdio::piped())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let error = said.lines().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let error = error.map(|mut error| error["error"].take()).unwrap_or_default();
        if output.status.success() || error["reason"] != reason {
            return Err(Failure::new(format!(
                "expected {reason}, got {} from\n  $ {line}\n{}",
                output.status,
                shorten(&said)
            )));
        }
        println!(
            "  refused: {reason}: {} (log entry {})",
            error["message"].as_str().unwrap_or_default(),
            error["entry_index"]
        );
        Ok(())
    }

    /// Runs a program and shows what it answers; `code` is the exit code expected.
    pub fn expect(&self, program: &str, arguments: &[&str], code: i32) -> Result<String, Failure> {
        // Our programs tell there how far they are and why they stop; OpenSSL writes what nobody needs.
        let progress = if program == "openssl" { Stdio::piped() } else { Stdio::inherit() };
        let (line, output) = self.run(program, arguments, progress)?;
        check(&line, &output, code)?;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        show(&answer);
        Ok(answer)
    }

    /// Asks for an operation as the officer, approves it as the approver, and has it executed; a certificate goes to
    /// `out`.
    pub fn two_persons(&self, request: &[&str], out: Option<&str>) -> Result<(), Failure> {
        let requested = self.chancery_json(&[request, &["--identity", "people/olivia"]].concat())?;
        let digest = requested["digest"]
            .as_str()
            .ok_or_else(|| Failure::new("expected the digest of the requested operation"))?;
        let approval = ["operation", "approve", digest, "--yes", "--identity", "people/anton"];
        let approved = self.chancery_json(&approval)?;
        println!(
            "  {} of {} persons have signed {}",
            approved["persons_signed"],
            approved["persons_required"],
            &digest[..16.min(digest.len())]
        );
        let mut execution = vec!["operation", "execute", digest, "--identity", "people/olivia"];
        if let Some(out) = out {
            execution.extend(["--out", out]);
        }
        self.chancery(&execution).map(|_| ())
    }

    fn run(
        &self,
        program: &str,
        arguments: &[&str],
        standard_error: Stdio,
    ) -> Result<(String, Output), Failure> {
        let line = command_line(program, arguments);
        println!("$ {line}");
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(standard_error)
            .output()
            .map_err(Failure::at(format!("cannot start {program}")))?;
        Ok((line, output))
    }

    /// Ours is the one beside this program, everything else the system's.
    fn command(&self, program: &str) -> Command {
        let mut command = match program {
            "chancery" | "chanceryd" => Command::new(self.programs.join(program)),
            other => Command::new(other),
        };
        command.current_dir(&self.out);
        for name in ["CHANCERY_IDENTITY", "CHANCERY_SERVER", "CHANCERY_OUTPUT", "SOFTHSM2_CONF"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts `chanceryd serve` and waits until it says that it serves.
    pub fn start_daemon(&self, config: &str, log: &str) -> Result<Daemon, Failure> {
        let arguments = ["serve", "--config", config];
        println!("$ {} 2> {log} &", command_line("chanceryd", &arguments));
        let log_file =
            fs::File::create(self.path(log)).map_err(Failure::at(format!("cannot write {log}")))?;
        let child = {
            let mut running = running();
            let child = self
                .command("chanceryd")
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log_file)
                .spawn()
                .map_err(Failure::at("cannot start chanceryd"))?;
            *running = Some(child.id());
            child
        };
        let mut daemon = Daemon { child, log: self.path(log) };
        let started = Instant::now();
        while !is_serving(self.ports[1]) {
            if daemon.child.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(Failure::new(format!(
                    "expected chanceryd to serve, it ended\n{}",
                    daemon.said()
                )));
            }
            if started.elapsed() > DAEMON_PATIENCE {
                return Err(Failure::new(format!("expected chanceryd to serve\n{}", daemon.said())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("  serving on 127.0.0.1:{} after {:.1} s", self.ports[0], started.elapsed().as_secs_f64());
        Ok(daemon)
    }
}

/// The daemon that runs, for the thread that waits for signals.
static RUNNING: Mutex<Option<u32>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn terminate(pid: u32) -> std::io::Result<()> {
    process::signal(pid, process::Signal::TERM)
}

static TERMINATED_BY_SIGNAL: AtomicBool = AtomicBool::new(false);

/// Whether SIGTERM came: what fails then fails because the daemon was stopped, and the program ends by itself.
pub fn is_terminated() -> bool {
    TERMINATED_BY_SIGNAL.load(Ordering::SeqCst)
}

/// From now on SIGTERM ends the daemon before it ends the demonstration. A terminal's SIGINT reaches both by itself.
pub fn end_daemon_when_terminated() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(Failure::at("cannot wait for signals"))?;
    let mut signals = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate()).map_err(Failure::at("cannot wait for signals"))?
    };
    std::thread::spawn(move || {
        runtime.block_on(signals.recv());
        TERMINATED_BY_SIGNAL.store(true, Ordering::SeqCst);
        // Held until the end, so that no daemon is started after this.
        let running = running();
        if let Some(pid) = *running {
            let asked = terminate(pid);
            let started = Instant::now();
            // What has ended has no command line, though nobody has waited for it.
            let lives = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
            while asked.is_ok() && lives() && started.elapsed() < DAEMON_PATIENCE {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        std::process::exit(TERMINATED);
    });
    Ok(())
}

/// The running daemon. It is told to stop when this is dropped, whatever happened.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Stops it in good order, which has to succeed.
    pub fn stop(mut self) -> Result<(), Failure> {
        println!("$ kill -TERM {}", self.child.id());
        self.terminate().map_err(Failure::at("cannot stop chanceryd"))?;
        let started = Instant::now();
        while started.elapsed() < DAEMON_PATIENCE {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => {
                    *running() = None;
                    println!("  chanceryd ended after {:.1} s", started.elapsed().as_secs_f64());
                    return Ok(());
                }
                Ok(Some(status)) => {
                    return Err(Failure::new(format!(
                        "expected chanceryd to end with success, got {status}\n{}",
                        self.said()
                    )));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        Err(Failure::new(format!("expected chanceryd to stop\n{}", self.said())))
    }

    /// Kills it without a warning, as a power cut would.
    pub fn kill(mut self) -> Result<(), Failure> {
        println!("$ kill -KILL {}", self.child.id());
        self.child.kill().map_err(Failure::at("cannot kill chanceryd"))?;
        *running() = None;
        self.child.wait().map_err(Failure::at("cannot wait for chanceryd")).map(drop)
    }

    fn terminate(&self) -> std::io::Result<()> {
        terminate(self.child.id())
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN_MAX)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Asked first, so that its token workers end with it; made to when it does not listen.
        let asked = self.terminate();
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < DAEMON_PATIENCE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // It may have ended in between; then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/healthz` says. A handshake on the gRPC port that goes no further would be an entry of the log.
fn is_serving(http_port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", http_port))?;
        stream.set_read_timeout(Some(DAEMON_PATIENCE))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

fn check(line: &str, output: &Output, code: i32) -> Result<(), Failure> {
    if output.status.code() == Some(code) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "expected exit code {code}, got {} from\n  $ {line}\n{}{}",
        output.status,
        shorten(&String::from_utf8_lossy(&output.stdout)),
        shorten(&String::from_utf8_lossy(&output.stderr)),
    )))
}

fn shorten(text: &str) -> String {
    const CHARACTERS_MAX: usize = 4_000;
    text.chars().take(CHARACTERS_MAX).collect()
}

/// The beginning of an answer and its last line, which says how it ended; without the rules of tables.
fn show(answer: &str) {
    let lines: Vec<_> = answer.lines().filter(|line| line.contains(|c: char| c.is_ascii_graphic())).collect();
    let shown = if lines.len() > LINES_SHOWN_MAX { LINES_SHOWN_MAX - 1 } else { lines.len() };
    for line in &lines[..shown] {
        println!("  {}", line.trim_end());
    }
    if let [between @ .., last] = &lines[shown..] {
        if !between.is_empty() {
            println!("  ({} more lines)", between.len());
        }
        println!("  {last}");
    }
}

/// As one would type it.
fn command_line(program: &str, arguments: &[&str]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
    let mut line = program.to_owned();
    for argument in arguments {
        line.push(' ');
        if !argument.is_empty() && argument.chars().all(plain) {
            line.push_str(argument);
        } else {
            line.push('\'');
            line.push_str(argument);
            line.push('\'');
        }
    }
    line
}

/// Three ports that nobody listens on, all held at once so that they differ.
fn free_ports() -> std::io::Result<[u16; 3]> {
    let listeners = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
