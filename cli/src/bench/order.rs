//! Orders from a file, one larger than the other: devices per second, and what everyone takes of memory meanwhile. Memory
//! must not grow with the count: the daemon holds chunks, the tool one bit for each line.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bench::authority::{EIN, EUM, ISSUER, ScratchAuthority};
use crate::bench::process::{descendants, resident_kib};
use crate::bench::{BenchArgs, issue};
use crate::error::CliError;
use crate::output::{Output, table};

/// Parts of the count: a quarter, half, all.
const PARTS: [u64; 3] = [4, 2, 1];
/// How often memory is looked at.
const EVERY: Duration = Duration::from_millis(20);

#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    orders: Vec<Ordered>,
}

/// One order, from its file to the checked receipt.
#[derive(Serialize)]
struct Ordered {
    devices: u64,
    seconds: f64,
    devices_per_second: f64,
    /// Largest resident memory seen, in KiB: the daemon, the largest of its workers, the tool.
    daemon_kib: u64,
    worker_kib: u64,
    tool_kib: u64,
    /// Before the order.
    daemon_before_kib: u64,
    worker_before_kib: u64,
}

/// Places the orders.
pub fn measure(args: &BenchArgs, authority: &ScratchAuthority, output: Output) -> Result<(), CliError> {
    let mut orders = Vec::new();
    let mut first = 0;
    for part in PARTS {
        let devices = (args.devices / part).max(1);
        output.step(&format!("an order of {devices} devices"));
        let file = order_file(authority, first, devices)?;
        first += devices;
        orders.push(submit(authority, &file, devices)?);
    }
    let report = Report { benchmark: "order", orders };
    output.print(&report, |report| {
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let rows = report.orders.iter().map(|order| {
            [
                order.devices.to_string(),
                format!("{:.0}", order.devices_per_second),
                mib(order.daemon_before_kib),
                mib(order.daemon_kib),
                mib(order.worker_before_kib),
                mib(order.worker_kib),
                mib(order.tool_kib),
            ]
        });
        let header =
            ["devices", "devices/s", "daemon before (MiB)", "daemon", "worker before", "worker", "tool"];
        table(header, rows)
    })
}

/// An order file with its device file; devices with keys of their own, as chips make them.
fn order_file(
    authority: &ScratchAuthority,
    first: u64,
    devices: u64,
) -> Result<std::path::PathBuf, CliError> {
    let (list, file) = (format!("devices-{devices}.csv"), authority.path(&format!("order-{devices}.toml")));
    let csv = tokio::task::block_in_place(|| issue::device_file(EIN, first, devices))?;
    let path = authority.path(&list);
    fs::write(&path, csv).map_err(CliError::file("write", &path))?;
    let text = format!(
        "order = \"bench-{devices}\"\nissuer = \"{ISSUER}\"\nkvn = 48\nalgorithm = \"AES-128\"\n\
         [devices]\nfile = \"{list}\"\n"
    );
    fs::write(&file, text).map_err(CliError::file("write", &file))?;
    Ok(file)
}

/// Has the tool submit an order, and looks at the memory of all until it is done.
fn submit(authority: &ScratchAuthority, file: &Path, devices: u64) -> Result<Ordered, CliError> {
    let tool = std::env::current_exe().map_err(|error| CliError::Local(error.to_string()))?;
    let daemon = authority.pid();
    let workers = descendants(daemon)?;
    let largest = || workers.iter().filter_map(|pid| resident_kib(*pid)).max().unwrap_or(0);
    let (daemon_before_kib, worker_before_kib) = (resident_kib(daemon).unwrap_or(0), largest());
    let (mut daemon_kib, mut worker_kib, mut tool_kib) = (0, 0, 0);
    let started = Instant::now();
    let log = authority.path("submit.log");
    let mut child = Command::new(&tool)
        .args(["order", "submit"])
        .arg(file)
        .arg("--out")
        .arg(authority.path(&format!("out-{devices}")))
        .arg("--identity")
        .arg(authority.path(EUM))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).map_err(CliError::file("create", &log))?)
        .spawn()
        .map_err(CliError::file("run", &tool))?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(CliError::file("wait for", &tool))? {
            break status;
        }
        daemon_kib = daemon_kib.max(resident_kib(daemon).unwrap_or(0));
        worker_kib = worker_kib.max(largest());
        tool_kib = tool_kib.max(resident_kib(child.id()).unwrap_or(0));
        std::thread::sleep(EVERY);
    };
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(CliError::Answer(format!("the order of {devices} devices failed: {}", said.trim())));
    }
    Ok(Ordered {
        devices,
        seconds,
        devices_per_second: devices as f64 / seconds,
        daemon_kib,
        worker_kib,
        tool_kib,
        daemon_before_kib,
        worker_before_kib,
    })
}
