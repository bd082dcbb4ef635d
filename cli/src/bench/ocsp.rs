//! OCSP answers under load over HTTP: kept ones, freshly signed ones, and, with the same client, those of another responder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pki::ocsp::{BasicAnswer, CertificateStatus, ask};
use pki::{Certificate, SerialNumber};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::bench::authority::{PROVISIONER, ScratchAuthority};
use crate::bench::load::{self, Measured};
use crate::bench::report::{TokenWork, Usage};
use crate::bench::{BenchArgs, OcspArgs};
use crate::certificate::reading;
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::key_file::PrivateKey;
use crate::output::{Output, fields, table};

const WORK: &[TokenWork] = &[TokenWork { token: "ca", kind: "sign" }];
const WARM_UP: Duration = Duration::from_millis(500);
/// One answer in so many is read and compared.
const SAMPLE_EVERY: u64 = 16;
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// What is asked, and how.
#[derive(Clone)]
struct Load(Arc<Parts>);

struct Parts {
    address: SocketAddr,
    path: &'static str,
    issuer: Certificate,
    serial: SerialNumber,
    with_nonce: bool,
    /// Connections that wait for their next request; none where each request has one of its own.
    kept: Option<Mutex<Vec<TcpStream>>>,
    checked: AtomicU64,
}

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    levels: Vec<Row>,
    answers_checked: u64,
    workers_per_token: u64,
}

#[derive(Serialize)]
struct Row {
    what: &'static str,
    in_flight: usize,
    operations: u64,
    per_second: f64,
    p50_us: u32,
    p99_us: u32,
    /// Of ours alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_cpu_us_per_operation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_cpu_us_per_operation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_us_per_operation: Option<f64>,
}

/// Runs it and prints the report.
pub async fn measure(
    args: &OcspArgs,
    authority: &mut ScratchAuthority,
    output: Output,
) -> Result<(), CliError> {
    let bench = &args.bench;
    output.step("certifying an SM-DP+");
    let (issuer, serial) = tokio::task::block_in_place(|| certified(authority))?;
    let ours = |with_nonce: bool, keeps: bool| {
        Load::new(authority.http, "/ocsp", issuer.clone(), serial.clone(), with_nonce, keeps)
    };
    let mut rows = Vec::new();
    let mut checked = 0;
    let kinds = [
        ("kept answer", false, true),
        ("signed answer, nonce", true, true),
        ("signed answer, a connection each", true, false),
    ];
    for in_flight in bench.levels(&[16]) {
        for (what, with_nonce, keeps) in kinds {
            output.step(&format!("{what}: {in_flight} in flight for {} s", bench.seconds));
            let load = ours(with_nonce, keeps);
            load.run(in_flight, WARM_UP).await?;
            let before = Usage::read(authority, WORK)?;
            let measured = load.run(in_flight, Duration::from_secs(bench.seconds)).await?;
            let used = Usage::read(authority, WORK)?.since(before);
            rows.push(Row::of(what, in_flight, &measured, Some(used)));
            checked += load.0.checked.load(Ordering::Relaxed);
        }
        if let Some(beside) = beside(args)? {
            let what = "the other responder, nonce, a connection each";
            output.step(&format!("{what}: {in_flight} in flight for {} s", bench.seconds));
            beside.run(in_flight, WARM_UP).await?;
            let measured = beside.run(in_flight, Duration::from_secs(bench.seconds)).await?;
            rows.push(Row::of(what, in_flight, &measured, None));
            checked += beside.0.checked.load(Ordering::Relaxed);
        }
    }
    let report = Report {
        benchmark: "ocsp",
        levels: rows,
        answers_checked: checked,
        workers_per_token: bench.workers(),
    };
    output.print(&report, human)
}

/// Another responder, as the arguments name it.
fn beside(args: &OcspArgs) -> Result<Option<Load>, CliError> {
    let (Some(address), Some(issuer), Some(certificate)) =
        (args.beside, &args.beside_issuer, &args.beside_certificate)
    else {
        return Ok(None);
    };
    let serial = reading::certificate(certificate)?.serial().clone();
    Ok(Some(Load::new(address, "/", reading::certificate(issuer)?, serial, true, false)))
}

/// The CI, and the serial number of a certificate below it.
fn certified(authority: &ScratchAuthority) -> Result<(Certificate, SerialNumber), CliError> {
    let csr = authority.path("dptls.csr.pem");
    let key = PrivateKey::generate_p256()?;
    let request = pki::csr::create_csr(key.der(), "bench", "Bench").map_err(|e| local(&e))?;
    files::write_new(&csr, pki::csr::csr_pem(&request).as_bytes(), Readers::All)?;
    let csr: PathBuf = csr;
    let csr = csr.display().to_string();
    let request = ["certificate", "request", "--profile", "dpauth", "--party", PROVISIONER, "--csr", &csr];
    let subject = ["--common-name", "SM-DP+", "--registered-id", "2.999.3"];
    let folder = authority.protected(&[&request[..], &subject].concat())?;
    let serial = reading::certificate(&folder.join("certificate.pem"))?.serial().clone();
    Ok((reading::certificate(&authority.path("founded/ci.pem"))?, serial))
}

impl Load {
    fn new(
        address: SocketAddr,
        path: &'static str,
        issuer: Certificate,
        serial: SerialNumber,
        with_nonce: bool,
        keeps: bool,
    ) -> Self {
        let kept = keeps.then(|| Mutex::new(Vec::new()));
        Self(Arc::new(Parts { address, path, issuer, serial, with_nonce, kept, checked: AtomicU64::new(0) }))
    }

    async fn run(&self, in_flight: usize, time: Duration) -> Result<Measured, CliError> {
        let load = self.clone();
        load::run(in_flight, time, &Arc::new(AtomicU64::new(0)), move |_, number| {
            let load = load.clone();
            async move { load.0.ask(number).await }
        })
        .await
    }
}

impl Parts {
    async fn ask(&self, number: u64) -> Result<(), CliError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|error| CliError::Local(format!("no entropy: {error}")))?;
        let nonce = self.with_nonce.then_some(&nonce[..]);
        let request = ask(&self.issuer, &self.serial, nonce).map_err(|e| local(&e))?;
        let waiting = match &self.kept {
            Some(kept) => kept.lock().await.pop(),
            None => None,
        };
        let mut stream = match waiting {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).await.map_err(|e| local(&e))?,
        };
        stream.set_nodelay(true).map_err(|e| local(&e))?;
        let connection = if self.kept.is_some() { "keep-alive" } else { "close" };
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\nContent-Type: application/ocsp-request\r\n\
             Content-Length: {}\r\n\r\n",
            self.path,
            self.address,
            request.len()
        );
        stream.write_all(&[head.as_bytes(), &request].concat()).await.map_err(|e| local(&e))?;
        let answer = read_answer(&mut stream).await?;
        if let Some(kept) = &self.kept {
            kept.lock().await.push(stream);
        }
        if number.is_multiple_of(SAMPLE_EVERY) {
            self.check(&answer, nonce)?;
        }
        Ok(())
    }

    fn check(&self, answer: &[u8], nonce: Option<&[u8]>) -> Result<(), CliError> {
        let wrong = |why: &str| CliError::Answer(format!("an OCSP answer {why}"));
        let read =
            BasicAnswer::from_der(answer).map_err(|error| wrong(&format!("does not read: {error}")))?;
        match &read.statuses[..] {
            [(serial, CertificateStatus::Good)] if *serial == self.serial => {}
            _ => return Err(wrong("is about another certificate, or does not say good")),
        }
        if read.nonce.as_deref() != nonce {
            return Err(wrong("has another nonce"));
        }
        self.checked.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The body of an HTTP/1 answer that states its length, or ends with the connection.
async fn read_answer(stream: &mut TcpStream) -> Result<Vec<u8>, CliError> {
    let wrong = |why: &str| CliError::Answer(format!("an HTTP answer {why}"));
    let mut bytes = Vec::with_capacity(4096);
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > HEAD_BYTES_MAX || stream.read_buf(&mut bytes).await.map_err(|e| local(&e))? == 0 {
            return Err(wrong("has no end of its head"));
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.split_whitespace().nth(1) != Some("200") {
        return Err(wrong(&format!("is {}", text.lines().next().unwrap_or_default())));
    }
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let mut body = bytes.split_off(head + 4);
    loop {
        if length == Some(body.len()) {
            return Ok(body);
        }
        if body.len() > ANSWER_BYTES_MAX || length.is_some_and(|length| body.len() > length) {
            return Err(wrong("is longer than it says"));
        }
        if stream.read_buf(&mut body).await.map_err(|e| local(&e))? == 0 {
            return if length.is_none() { Ok(body) } else { Err(wrong("ends early")) };
        }
    }
}

impl Row {
    fn of(what: &'static str, in_flight: usize, measured: &Measured, used: Option<Usage>) -> Self {
        let each = |micros: u64| micros as f64 / measured.operations.max(1) as f64;
        Self {
            what,
            in_flight,
            operations: measured.operations,
            per_second: measured.rate(),
            p50_us: measured.percentile_us(50),
            p99_us: measured.percentile_us(99),
            daemon_cpu_us_per_operation: used.map(|used| each(used.service.own_us)),
            worker_cpu_us_per_operation: used.map(|used| each(used.service.descendants_us)),
            token_us_per_operation: used.map(|used| each(used.token_us)),
        }
    }
}

fn human(report: &Report) -> String {
    let us = |value: Option<f64>| value.map(|value| format!("{value:.0}")).unwrap_or_default();
    let rows = report.levels.iter().map(|row| {
        [
            row.what.to_owned(),
            row.in_flight.to_string(),
            format!("{:.0}", row.per_second),
            format!("{:.2}", f64::from(row.p50_us) / 1_000.0),
            format!("{:.2}", f64::from(row.p99_us) / 1_000.0),
            us(row.daemon_cpu_us_per_operation),
            us(row.worker_cpu_us_per_operation),
            us(row.token_us_per_operation),
        ]
    });
    let header =
        ["what", "in flight", "per second", "p50 ms", "p99 ms", "daemon CPU us", "worker CPU us", "token us"];
    format!("{}\n{}", table(header, rows), fields([("answers checked", report.answers_checked.to_string())]))
}

fn local(error: &dyn std::error::Error) -> CliError {
    CliError::Local(error.to_string())
}

impl BenchArgs {
    const fn workers(&self) -> u64 {
        self.workers
    }
}
