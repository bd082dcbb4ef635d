//! The deny list: what is frozen is on it, what is restored is not, and nobody can keep it old or change it unnoticed.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proto::v1::FetchDenyListRequest;
use proto::v1::device_service_client::DeviceServiceClient;
use serde_json::Value;

use crate::caller::reason;
use crate::devices::eid;
use crate::support::{Deployment, GRANTED};

fn log_key(deployment: &Deployment) -> String {
    fs::read_to_string(deployment.path("handover/log-key.vkey")).unwrap().trim().to_owned()
}

fn fetch(deployment: &Deployment, key: &str) -> Value {
    let fetch = ["deny-list", "fetch", "--out", "denied.jsonl", "--log-key", key];
    let who = ["--identity", "provisioner", "--output", "json"];
    serde_json::from_str(&deployment.chancery(&[&fetch[..], &who].concat())).unwrap()
}

/// The exit of `deny-list check` and what it says.
fn check(deployment: &Deployment, key: &str, eid: &str, more: &[&str]) -> (bool, String) {
    let check = ["deny-list", "check", eid, "--list", "denied.jsonl", "--log-key", key];
    let output = deployment.try_chancery(&[&check[..], more].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn freeze(deployment: &Deployment, eid: &str) {
    let freeze = ["device", "freeze", eid, "--reason", "stolen", "--reference", "report 1", "--yes"];
    deployment.chancery(&[&freeze[..], &["--identity", "officer"]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_device_is_on_the_signed_list_until_two_persons_give_it_back() {
    let mut deployment = Deployment::found();
    let eids = [1, 2, 3].map(|number| eid(GRANTED, number));
    deployment.order("first", &eids);
    let key = log_key(&deployment);

    assert_eq!(fetch(&deployment, &key)["devices"], 0);
    assert!(check(&deployment, &key, &eids[0], &[]).0);
    freeze(&deployment, &eids[0]);
    let first = fetch(&deployment, &key);
    assert_eq!((&first["devices"], &first["changed"]), (&1.into(), &1.into()));
    let (passes, said) = check(&deployment, &key, &eids[0], &[]);
    assert!(!passes && said.contains("DENIED: stolen"), "{said}");
    assert!(check(&deployment, &key, &eids[1], &[]).0);

    // One more, and one less: the difference has two lines, the version is greater, the file is the whole list.
    freeze(&deployment, &eids[1]);
    deployment.two_persons(&["device", "restore", &eids[0], "--reason", "found"], None);
    let second = fetch(&deployment, &key);
    assert_eq!((&second["devices"], &second["changed"]), (&1.into(), &2.into()));
    assert!(second["version"].as_u64() > first["version"].as_u64());
    assert!(check(&deployment, &key, &eids[0], &[]).0);
    assert!(!check(&deployment, &key, &eids[1], &[]).0);
    let list = fs::read_to_string(deployment.path("denied.jsonl")).unwrap();
    assert_eq!(list.lines().count(), 1);

    // After a restart it is the same list; frozen again it is on it again.
    deployment.restart();
    let third = fetch(&deployment, &key);
    assert_eq!((&third["version"], &third["changed"]), (&second["version"], &0.into()));
    freeze(&deployment, &eids[0]);
    assert_eq!(fetch(&deployment, &key)["devices"], 2);
    assert!(!check(&deployment, &key, &eids[0], &[]).0);

    openssl_accepts(&deployment, &key);
    lies(&deployment, &key, &eids);

    // A manufacturer gets none, and a version that never was is refused.
    let ask = async |who: &str, since_version: u64| {
        let mut client = DeviceServiceClient::new(deployment.caller(who).await.channel);
        client.fetch_deny_list(FetchDenyListRequest { since_version }).await.map(drop)
    };
    assert_eq!(reason(&ask("eum", 0).await.unwrap_err()), "ROLE_NOT_ALLOWED");
    assert_eq!(reason(&ask("provisioner", 1 << 40).await.unwrap_err()), "INVALID_FIELD");

    let entries = deployment.entries();
    let fetched: Vec<_> =
        entries.iter().filter(|entry| entry.header.event.as_str() == "deny_list.fetched").collect();
    let done = fetched.iter().filter(|entry| entry.header.outcome == audit::Outcome::Done).count();
    assert_eq!((fetched.len(), done), (8, 6));
    deployment.export("export-denied");
}

/// The head as openssl sees it: the text before the empty line, an Ed25519 signature behind the four bytes of the key's hash.
fn openssl_accepts(deployment: &Deployment, vkey: &str) {
    let note = fs::read_to_string(deployment.path("denied.jsonl.note")).unwrap();
    let (text, signature) = note.split_once("\n\n").unwrap();
    let signature = BASE64_STANDARD.decode(signature.trim().rsplit(' ').next().unwrap()).unwrap();
    let key = BASE64_STANDARD.decode(vkey.splitn(3, '+').nth(2).unwrap()).unwrap();
    let spki =
        [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &key[1..]].concat();
    for (name, bytes) in [
        ("head.txt", format!("{text}\n").into_bytes()),
        ("head.sig", signature[4..].to_vec()),
        ("log.der", spki),
    ] {
        fs::write(deployment.path(name), bytes).unwrap();
    }
    let verify = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "log.der", "-rawin"];
    let status = Command::new("openssl")
        .args(verify)
        .args(["-in", "head.txt", "-sigfile", "head.sig"])
        .current_dir(deployment.path(""))
        .status()
        .unwrap();
    assert!(status.success());
}

/// Lists that say nothing: old, shortened, of another key.
fn lies(deployment: &Deployment, key: &str, eids: &[String]) {
    let (passes, said) = check(deployment, key, &eids[2], &["--at", "2099-01-01T00:00:00Z"]);
    assert!(!passes && said.contains("not for this time"), "{said}");
    let other = "other/node-1/2026+00000000+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert!(!check(deployment, other, &eids[2], &[]).0);
    let whole = fs::read(deployment.path("denied.jsonl")).unwrap();
    let cut = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(deployment.path("denied.jsonl"), &whole[cut..]).unwrap();
    let (passes, said) = check(deployment, key, &eids[0], &[]);
    assert!(!passes && said.contains("signed for another list"), "{said}");
    // What is there is not believed, so the next fetch takes the whole list.
    assert_eq!(fetch(deployment, key)["changed"], 2);
    assert_eq!(fs::read(deployment.path("denied.jsonl")).unwrap(), whole);
}
