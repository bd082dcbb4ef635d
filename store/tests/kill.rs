//! kill -9 of a process that commits under load.

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    time::Duration,
};

use store::{LogStore, Store};
use support::{DEVICES, START, TestClock, options_with, put};

const DIRECTORY: &str = "STORE_KILL_DIRECTORY";
const ROUND: &str = "STORE_KILL_ROUND";

#[test]
#[ignore = "the process that the other test kills"]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let round: i64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let clock = TestClock::at(START + round * 1000);
    let (store, _) = LogStore::open(options_with(directory.as_ref(), clock)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for at in 0.. {
                    let key = format!("{round}.{thread}.{at}");
                    store.commit(put(DEVICES, key.as_str(), key.as_str())).wait().unwrap();
                    // One write, so that lines of the threads do not mix.
                    std::io::stdout().lock().write_all(format!("\nack {key}\n").as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    drop(LogStore::create(options_with(directory.path(), TestClock::at(START))).unwrap());
    let mut acknowledged = Vec::new();
    for round in 1..=8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // From the first acknowledgement on, another moment each round.
        let first = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("ack ")).unwrap();
        acknowledged.push(first[4..].to_owned());
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(round * 23 % 90));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        for line in lines.map_while(Result::ok) {
            if let Some(key) = line.strip_prefix("ack ") {
                acknowledged.push(key.to_owned());
            }
        }
        killer.join().unwrap();
        let clock = TestClock::at(START + round.cast_signed() * 1000 + 900);
        let (store, recovery) = LogStore::open(options_with(directory.path(), clock)).unwrap();
        assert!(!recovery.ended_clean);
        for key in &acknowledged {
            let row = store.get(DEVICES, key.as_bytes()).unwrap();
            assert!(row.is_some_and(|row| &row.value[..] == key.as_bytes()), "{key} of round {round}");
        }
        assert!(store.tree().size >= acknowledged.len() as u64);
        assert!(store.verify_view().unwrap().is_sound());
    }
}
