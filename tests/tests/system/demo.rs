//! The demonstration told to stop while its daemon runs.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::process::{Signal, signal};

const PATIENCE: Duration = Duration::from_secs(60);

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// The daemon and its three workers or more, once they run.
fn daemon_and_workers(demo: &mut Child) -> Vec<u32> {
    let started = Instant::now();
    loop {
        assert!(demo.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE, "no daemon");
        let daemon =
            children(demo.id()).into_iter().find(|pid| command_line(*pid).contains("chanceryd serve"));
        if let Some(daemon) = daemon {
            let workers = children(daemon);
            if workers.iter().filter(|pid| command_line(**pid).contains("hsm-worker")).count() >= 3 {
                return [vec![daemon], workers].concat();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_terminated_demonstration_takes_its_daemon_and_the_workers_along() {
    let memory = Path::new("/dev/shm");
    let scratch = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--devices", "20", "--out"])
        .arg(scratch.path().join("demo"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let processes = daemon_and_workers(&mut demo);
    signal(demo.id(), Signal::TERM).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(143));
    // A daemon that was still starting ends at once; its workers find out when they read on.
    let ended = Instant::now();
    while let Some(pid) = processes.iter().find(|pid| command_line(**pid).contains("chanceryd")) {
        assert!(ended.elapsed() < PATIENCE, "process {pid} is left: {}", command_line(*pid));
        std::thread::sleep(Duration::from_millis(5));
    }
}
