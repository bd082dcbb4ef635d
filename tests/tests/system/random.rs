//! Random keysets: made in the token, stored as blobs, served like derived ones, moved on by a rotation, and never let out again.

use std::fs;

use proto::v1::ExportKeyset;
use proto::v1::operation::Kind;
use serde_json::Value;

use crate::caller::reason;
use crate::devices::{self, Device, KVN, csv, eid};
use crate::fleet::{NEW_KVN, Provisioner, TwoPersons, keyset, terms};
use crate::secrets::look_into_memory;
use crate::support::{Deployment, GRANTED, ISSUER, files_below};

/// Keys of an epoch, by a ceremony, taken into use by two persons.
pub fn storage_keys(deployment: &Deployment, epoch: u32) {
    let number = epoch.to_string();
    for role in ["kek", "blob-mac"] {
        let create =
            ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", role, "--name", "devices"];
        deployment.chanceryd(
            &[&create[..], &["--epoch", &number, "--out", &format!("{role}-{epoch}.json")]].concat(),
        );
    }
    let (kek, blob_mac) = (format!("kek-{epoch}.json"), format!("blob-mac-{epoch}.json"));
    let register = ["master", "register-storage", "--kek-file", &kek, "--blob-mac-file", &blob_mac];
    let terms = ["--epoch", &number, "--backup", "vendor clone", "--reason", "ceremony"];
    deployment.two_persons(&[&register[..], &terms].concat(), None);
}

fn place<'a>(order: &'a str, file: &'a str) -> [&'a str; 14] {
    [
        "order",
        "place",
        "--order",
        order,
        "--issuer",
        ISSUER,
        "--devices",
        file,
        "--kvn",
        "0x30",
        "--algorithm",
        "AES-128",
        "--random-keys",
        "--identity",
    ]
}

fn order(deployment: &Deployment, name: &str, eids: &[String]) -> Vec<Device> {
    let (file, output) = (format!("{name}.csv"), format!("{name}.jsonl"));
    fs::write(deployment.path(&file), csv(eids)).unwrap();
    deployment.chancery(&[&place(name, &file)[..], &["eum"]].concat());
    deployment.chancery(&["order", "fetch", "--order", name, "--out", &output, "--identity", "eum"]);
    let mut devices = devices::unwrap(&deployment.path("eum/transport-key.pem"), &deployment.path(&output));
    devices.sort_by(|a, b| a.eid.cmp(&b.eid));
    devices
}

fn shown(deployment: &Deployment, eid: &str) -> Value {
    let show = ["keyset", "show", eid, "--kvn", "0x30", "--identity", "officer", "--output", "json"];
    serde_json::from_str(&deployment.chancery(&show)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_keysets_are_stored_served_and_moved_on_and_their_keys_leave_once() {
    let mut deployment = Deployment::found();
    fs::write(deployment.path("early.csv"), csv(&[eid(GRANTED, 9)])).unwrap();
    let early = deployment.refused("chancery", &[&place("early", "early.csv")[..], &["eum"]].concat());
    assert!(early.contains("POLICY_VIOLATION"), "{early}");

    storage_keys(&deployment, 1);
    let first = order(&deployment, "first", &[1, 2].map(|number| eid(GRANTED, number)));
    assert_ne!(first[0].static_keys(), first[1].static_keys());
    assert_eq!(shown(&deployment, &first[0].eid)["source"], "random: stored under epoch 1");
    storage_keys(&deployment, 2);
    let second = order(&deployment, "second", &[eid(GRANTED, 3)]);
    assert_eq!(shown(&deployment, &second[0].eid)["source"], "random: stored under epoch 2");

    // Served under the keys of either epoch, before and after a restart.
    let mut cards: Vec<_> = [&first[0], &first[1], &second[0]].map(Device::card).into_iter().collect();
    for round in 0..2 {
        let provisioner = Provisioner::of(&deployment).await;
        for card in &mut cards {
            provisioner.open(card, KVN).await.unwrap();
        }
        if round == 0 {
            deployment.restart();
        }
    }
    // To a derived keyset, under the random DEK.
    let persons = TwoPersons::of(&deployment).await;
    let provisioner = Provisioner::of(&deployment).await;
    persons.start(terms("rotation", &[first[0].eid.clone()])).await;
    let script = provisioner.fetch("rotation", 1).await.unwrap().remove(0);
    let report = provisioner.load(&mut cards[0], &script).await.unwrap();
    provisioner.report("rotation", vec![report]).await.unwrap();
    provisioner.open(&mut cards[0], NEW_KVN).await.unwrap();

    // What left with the order leaves no more.
    let register =
        ["transport-key", "register", "--party", "provisioner", "--name", "hsm", "--reason", "contract"];
    let key = ["--public-key", "eum/transport-key.pub.pem", "--expires", "300d"];
    deployment.two_persons(&[&register[..], &key].concat(), None);
    let export = ExportKeyset {
        eid: first[1].eid.clone(),
        keyset: Some(keyset(KVN)),
        party: "provisioner".to_owned(),
        transport_key: "hsm".to_owned(),
    };
    let refused = persons.request(Kind::ExportKeyset(export)).await.unwrap_err();
    assert_eq!(reason(&refused), "POLICY_VIOLATION");

    // None is in the daemon, and the worker that unwrapped some has kept none.
    let keys = first.iter().chain(&second).flat_map(|device| device.static_keys().map(<[u8]>::to_vec));
    let point = deployment.caller("provisioner").await.encryption_point();
    look_into_memory(&deployment, &[("a random key", keys.collect())], &point, b"chancery/kek/devices/2");

    deployment.stop();
    let keys: Vec<_> = first.iter().chain(&second).flat_map(|device| device.static_keys()).collect();
    nothing_is_in_clear(&deployment, &first[0].eid, &keys);
}

/// No key in clear in anything that the service keeps; the control is the EID of a device.
pub fn nothing_is_in_clear(deployment: &Deployment, eid: &str, keys: &[&[u8]]) {
    let files = files_below(&deployment.path("data"));
    let contents: Vec<Vec<u8>> = files
        .iter()
        .map(|file| {
            // Segments are filled with zeroes ahead.
            let mut text = fs::read(file).unwrap();
            let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            text.truncate(end);
            text
        })
        .collect();
    let holds =
        |needle: &[u8]| contents.iter().any(|text| text.windows(needle.len()).any(|part| part == needle));
    assert!(holds(eid.as_bytes()) || holds(&hex::decode(eid).unwrap()), "nothing is found");
    for key in keys {
        assert!(!holds(key) && !holds(hex::encode(key).as_bytes()), "a key in clear");
    }
}
