//! Orders sent again and cut off: every device ends with exactly one certificate and one registration.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use audit::{EventType, Outcome};

use crate::devices::{csv, eid};
use crate::support::{Deployment, GRANTED, ISSUER};

/// Enough for a chunk to take a while in the tokens.
const DEVICES: usize = 400;

fn place(deployment: &Deployment, devices: &str, out: &str) -> Child {
    deployment.start_chancery(&[
        "order",
        "place",
        "--order",
        "cut",
        "--issuer",
        ISSUER,
        "--devices",
        devices,
        "--kvn",
        "0x30",
        "--algorithm",
        "AES-128",
        "--certificates-out",
        out,
        "--identity",
        "eum",
    ])
}

fn certificates(deployment: &Deployment, folder: &str) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(deployment.path(folder))
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect()
}

#[test]
fn an_order_cut_off_by_a_kill_and_sent_again_gives_each_device_exactly_one_certificate() {
    let mut deployment = Deployment::found();
    let eids: Vec<String> = (0..DEVICES).map(|number| eid(GRANTED, number)).collect();
    fs::write(deployment.path("cut.csv"), csv(&eids)).unwrap();
    let before = deployment.log_size();
    let mut first = place(&deployment, "cut.csv", "first-try");
    let started = Instant::now();
    // The intents are durable: the kill falls between step 6 and step 9, or soon after.
    while deployment.log_size() == before {
        assert!(started.elapsed() < Duration::from_secs(30), "the order does not begin");
    }
    deployment.kill9();
    let _ = first.kill();
    let _ = first.wait();
    deployment.serve();

    assert!(place(&deployment, "cut.csv", "second-try").wait().unwrap().success());
    let second = certificates(&deployment, "second-try");
    assert!(second.len() >= DEVICES);
    assert!(place(&deployment, "cut.csv", "third-try").wait().unwrap().success());
    assert_eq!(certificates(&deployment, "third-try"), second, "a repeat got other certificates");

    let mut registered = BTreeMap::new();
    let mut settled = 0;
    for entry in deployment.entries() {
        if entry.header.event == EventType::CertificateFailed {
            settled += 1;
        }
        if entry.header.event == EventType::DeviceRegistered && entry.header.outcome == Outcome::Done {
            *registered.entry(entry.header.object.unwrap()).or_insert(0) += 1;
        }
    }
    println!("{settled} certificates stood between intent and outcome at the kill");
    assert_eq!(registered.len(), DEVICES);
    assert!(registered.values().all(|times| *times == 1), "a device was registered twice");
}
