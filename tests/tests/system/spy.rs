//! The real daemon on tokens behind pkcs11-spy: device keys are never readable and never read.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::v1::RotationItemState;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;

use crate::devices::eid;
use crate::fleet::{Provisioner, TwoPersons, terms};
use crate::support::{Deployment, GRANTED, PURPOSE};

const PLACES: [&str; 7] = [
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/pkcs11-spy.so",
    "/usr/lib64/pkcs11/pkcs11-spy.so",
    "/usr/lib64/pkcs11-spy.so",
    "/usr/local/lib/pkcs11-spy.so",
];
/// Tokens, each with one worker.
const TOKENS: usize = 3;
/// How often the daemon is started until each worker has a trace of its own.
const STARTS_MAX: usize = 10;
/// How many devices are ordered.
const DEVICES: usize = 5;
/// How many of them are rotated.
const ROTATED: usize = 2;
/// What each process writes once, at its first call.
const HEADER: &str = "OpenSC PKCS#11 spy";

/// One C_* call of a trace: its name and what follows it.
type Call<'t> = (&'t str, Vec<&'t str>);

fn calls(trace: &str) -> Vec<Call<'_>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for line in trace.lines() {
        match line.split_once(": C_") {
            Some((number, function)) if number.bytes().all(|c| c.is_ascii_digit()) => {
                calls.push((function, Vec::new()));
            }
            _ => {
                if let Some((_, lines)) = calls.last_mut() {
                    lines.push(line);
                }
            }
        }
    }
    calls
}

/// The value of `[in] name = value`.
fn value<'t>((_, lines): &Call<'t>, name: &str) -> Option<&'t str> {
    lines.iter().find_map(|line| line.split_once("] ")?.1.strip_prefix(name)?.trim().strip_prefix("= "))
}

/// The value of an attribute in a template.
fn attribute<'t>((_, lines): &Call<'t>, name: &str) -> Option<&'t str> {
    lines.iter().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' ').map(str::trim))
}

/// Serves behind the spy, one worker for each token, and gives the trace of each. The workers share one environment
/// and so one name for the trace: each file is moved aside as soon as its worker, the next of the three, has opened it.
fn serve_behind_spy(deployment: &mut Deployment) -> Vec<PathBuf> {
    let spy = std::env::var_os("PKCS11_SPY_MODULE").map(PathBuf::from);
    let spy = spy.or_else(|| PLACES.iter().map(PathBuf::from).find(|place| place.is_file()));
    let spy = spy.expect("the tests need pkcs11-spy (package opensc)");
    let path = deployment.path("chanceryd.toml");
    let text = fs::read_to_string(&path).unwrap();
    let module = text.lines().find_map(|line| line.strip_prefix("module = ")).unwrap().to_owned();
    let trace = deployment.path("trace");
    let workers = text.lines().filter(|line| line.starts_with("workers = "));
    let workers: BTreeSet<_> = workers.map(ToOwned::to_owned).collect();
    let mut text = text.replace(&format!("module = {module}"), &format!("module = {spy:?}")).replace(
        "environment = [",
        &format!("environment = [[\"PKCS11SPY\", {module}], [\"PKCS11SPY_OUTPUT\", {trace:?}], "),
    );
    for line in workers {
        text = text.replace(&line, "workers = 1");
    }
    fs::write(&path, text).unwrap();

    // On a busy machine two workers may open the file before it is moved: then they start again.
    for _ in 0..STARTS_MAX {
        let traces = serve_and_part(deployment, &trace);
        if traces.len() == TOKENS {
            return traces;
        }
        deployment.stop();
        for shared in traces {
            fs::remove_file(shared).unwrap();
        }
    }
    panic!("the workers' traces could not be told apart in {STARTS_MAX} starts");
}

/// Serves, and moves each trace aside as soon as it is there.
fn serve_and_part(deployment: &mut Deployment, trace: &Path) -> Vec<PathBuf> {
    let served = Arc::new(AtomicBool::new(false));
    let trace = trace.to_owned();
    let mover = {
        let served = Arc::clone(&served);
        std::thread::spawn(move || {
            let mut traces = Vec::new();
            while !served.load(Ordering::Relaxed) {
                let aside = trace.with_extension(traces.len().to_string());
                if fs::rename(&trace, &aside).is_ok() {
                    traces.push(aside);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            traces
        })
    };
    deployment.serve();
    served.store(true, Ordering::Relaxed);
    mover.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_session_keys_and_a_rotation_leave_no_trace_of_a_readable_device_key() {
    let mut deployment = Deployment::found();
    deployment.stop();
    let traces = serve_behind_spy(&mut deployment);
    let read = |path: &PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let at_start: Vec<usize> = traces.iter().map(|trace| read(trace).len()).collect();

    let eids: Vec<String> = (0..DEVICES).map(|number| eid(GRANTED, number)).collect();
    let devices = deployment.order("first", &eids);
    deployment.grant("second", "field-test", GRANTED, "1d");
    let mut client = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    for (device, purpose) in devices.iter().zip([PURPOSE, "field-test"].into_iter().cycle()) {
        let request = device.request(&device.eid, purpose, CryptogramBehaviour::Honest);
        client.fetch_session_keys(request).await.unwrap();
    }
    let rotated: Vec<String> = eids[..ROTATED].to_vec();
    TwoPersons::of(&deployment).await.start(terms("spied", &rotated)).await;
    let provisioner = Provisioner::of(&deployment).await;
    let mut reports = Vec::new();
    for script in provisioner.fetch("spied", 10).await.unwrap() {
        let device = devices.iter().find(|device| device.eid == script.eid).unwrap();
        reports.push(provisioner.load(&mut device.card(), &script).await.unwrap());
    }
    let results = provisioner.report("spied", reports).await.unwrap().results;
    assert_eq!(results.iter().filter(|r| r.state() == RotationItemState::Confirmed).count(), ROTATED);
    deployment.stop();

    let (mut device_keys, mut blocks, mut signatures) = (0, 0, 0);
    for (trace, at_start) in traces.iter().zip(at_start) {
        let trace = read(trace);
        assert_eq!(trace.matches(HEADER).count(), 1, "a trace of two workers");
        // By handle, for what was derived in this trace: whether it may be read.
        let mut readable = HashMap::new();
        for call in calls(&trace[at_start..]) {
            match call.0 {
                "DeriveKey" => {
                    let sensitive = attribute(&call, "CKA_SENSITIVE").expect("every derivation says");
                    if attribute(&call, "CKA_KEY_TYPE") == Some("CKK_AES") {
                        assert_eq!(sensitive, "True", "{call:?}");
                        device_keys += 1;
                    } else {
                        // L and the constant first blocks: no keys, one block each.
                        assert_eq!(attribute(&call, "CKA_KEY_TYPE"), Some("CKK_GENERIC_SECRET"), "{call:?}");
                        blocks += 1;
                    }
                    readable.insert(value(&call, "hKey").expect("a handle").to_owned(), sensitive != "True");
                }
                "GetAttributeValue" if attribute(&call, "CKA_VALUE").is_some() => {
                    assert!(readable[value(&call, "hObject").expect("a handle")], "{call:?}");
                }
                "DecryptInit" | "UnwrapKey" | "CopyObject" | "SetAttributeValue" => {
                    panic!("C_{} was called", call.0)
                }
                "Sign" => signatures += 1,
                _ => {}
            }
        }
    }
    // Three keys for each device ordered; K-MAC and K-ENC for each session; for each device rotated three new keys, the
    // old K-DEK, a session for PUT KEY, and K-MAC for the proof.
    assert_eq!(device_keys, DEVICES * (3 + 2) + ROTATED * (3 + 1 + 2 + 1));
    assert!(blocks > 0 && signatures > DEVICES, "{blocks} blocks, {signatures} signatures");
}
