//! Keys from outside, from the ceremony to the devices: masters that move in, transport keys that follow each other, and
//! a restore that is rehearsed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use audit::EventType;
use domain::{DeviceKeyset, KeyUsage, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::{SecretKey, SoftwareKey, key_check_value};
use proto::v1::operation::Kind;
use proto::v1::{ExportKeyset, MarkCompromised, TaintConsequence, mark_compromised};
use serde_json::Value;
use tests::card::CryptogramBehaviour;
use tests::transport::TransportPrivateKey;

use crate::caller::reason;
use crate::devices::{self, KVN, csv, eid};
use crate::fleet::{TwoPersons, keyset, new_key};
use crate::support::{Deployment, GRANTED, ISSUER, PURPOSE};

/// GlobalPlatform's default key pattern: a published master, which only development takes.
const PUBLISHED: [u8; 32] = *b"@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_";
const FIRST: [u8; 32] = *b"a component that alice has typed";

pub fn kcv(value: &[u8]) -> String {
    key_check_value(&SecretKey::from_slice(value).unwrap()).to_string()
}

fn write_private(deployment: &Deployment, name: &str, text: &str) {
    let path = deployment.path(name);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A component in clear, as another system's custodian brings it.
pub fn component(deployment: &Deployment, custodian: &str, value: &[u8]) -> String {
    component_with(deployment, custodian, value, &kcv(value))
}

pub fn component_with(deployment: &Deployment, custodian: &str, value: &[u8], check_value: &str) -> String {
    let name = format!("{custodian}.component.json");
    let json = serde_json::json!({
        "format": "chancery-key-component/1",
        "custodian": custodian,
        "check_value": check_value,
        "value": hex::encode(value),
    });
    write_private(deployment, &name, &json.to_string());
    name
}

fn json(deployment: &Deployment, file: &str) -> Value {
    serde_json::from_slice(&fs::read(deployment.path(file)).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_two_components_is_live_at_its_registration_and_stays_so() {
    let mut deployment = Deployment::found();
    let second: Vec<u8> = PUBLISHED.iter().zip(FIRST).map(|(a, b)| a ^ b).collect();
    let (alice, bob) = (component(&deployment, "alice", &FIRST), component(&deployment, "bob", &second));
    let import = ["ceremony", "import-key", "--config", "chanceryd.toml", "--name", "moved-in"];
    let role = ["--role", "imported-master-aes-256", "--epoch", "2", "--out", "moved-in.key.json"];
    let parts = ["--component", &alice, "--component", &bob];
    let right = kcv(&PUBLISHED);
    let said = deployment.refused("chanceryd", &[&import[..], &role, &parts, &["--kcv", "000000"]].concat());
    assert!(said.contains("check value"), "{said}");
    deployment.chanceryd(&[&import[..], &role, &parts, &["--kcv", &right]].concat());
    let file = json(&deployment, "moved-in.key.json");
    assert_eq!(file["key_check_value"], right);
    assert_eq!(file["backup"], "all of 2 components: alice, bob");

    let before = deployment.order("before", &[eid(GRANTED, 1)]);
    let register = ["master", "register", "--key-file", "moved-in.key.json", "--generation", "2"];
    let scheme = ["--scheme", "chancery-cmac-v1", "--reason", "ceremony"];
    deployment.two_persons(&[&register[..], &scheme].concat(), None);
    let after = deployment.order("after", &[eid(GRANTED, 2)]);
    let expected = |eid: &str, usage| {
        let keyset = DeviceKeyset {
            eid: eid.parse().unwrap(),
            protocol: Protocol::Scp03,
            security_domain: SecurityDomain::IsdR,
            kvn: KeyVersionNumber::scp03(KVN.into()).unwrap(),
            algorithm: KeysetAlgorithm::Aes128,
        };
        let master = SoftwareKey::new(&SecretKey::from_slice(&PUBLISHED).unwrap());
        let Ok(key) = keys::derivation::chancery::derive(&master, &keyset, usage);
        key.expose().to_vec()
    };
    for (at, usage) in KeyUsage::ALL.into_iter().enumerate() {
        assert_eq!(after[0].static_keys()[at], expected(&after[0].eid, usage), "{usage:?}");
        assert_ne!(before[0].static_keys()[at], expected(&before[0].eid, usage), "{usage:?}");
    }
    // Devices of both generations, before and after a restart.
    for round in 0..2 {
        let caller = deployment.caller("provisioner").await;
        let mut client =
            proto::v1::session_key_service_client::SessionKeyServiceClient::new(caller.channel.clone());
        for device in [&before[0], &after[0]] {
            let request = device.request(&new_key(), PURPOSE, CryptogramBehaviour::Honest);
            client.fetch_session_keys(request).await.unwrap();
        }
        drop(client);
        if round == 0 {
            deployment.restart();
        }
    }
    let listed: Value = serde_json::from_str(&deployment.chancery(&[
        "master",
        "list",
        "--identity",
        "officer",
        "--output",
        "json",
    ]))
    .unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["role"], "master");
    assert_eq!(listed[1]["role"], "imported-master-aes-256");
    assert_eq!(listed[1]["key_check_value"], right);
    deployment.stop();
    let report: Value = serde_json::from_slice(&deployment.doctor(&["--output", "json"]).stdout).unwrap();
    let backup = report["checks"].as_array().unwrap().iter().find(|c| c["id"] == "keys.backup").unwrap();
    let details = backup["details"].to_string();
    assert!(
        details.contains("moved-in/2") && details.contains("all of 2 components: alice, bob"),
        "{details}"
    );
    assert!(details.contains("imported:") && details.contains("the vendor's clone"), "{details}");
}

/// A party's RSA key registered as its transport key `hsm`, and a device's keyset exported under it; the operation's
/// digest. The private half is the order key of an identity of that name.
pub async fn exported(deployment: &Deployment, party: &str, eid: &str) -> Vec<u8> {
    let who = ["--organization", "Another", "--country", "IT", "--out", "its-hsm"];
    deployment.chancery(&[&["identity", "create", "--kind", "eum", "--name", "its-hsm"][..], &who].concat());
    let register = ["transport-key", "register", "--party", party, "--name", "hsm", "--reason", "contract"];
    let key = ["--public-key", "its-hsm/transport-key.pub.pem", "--expires", "300d"];
    deployment.two_persons(&[&register[..], &key].concat(), None);
    let persons = TwoPersons::of(deployment).await;
    let export = ExportKeyset {
        eid: eid.to_owned(),
        keyset: Some(keyset(KVN)),
        party: party.to_owned(),
        transport_key: "hsm".to_owned(),
    };
    let digest = persons.approve(Kind::ExportKeyset(export)).await.unwrap();
    persons.execute(digest.clone()).await.unwrap();
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn static_keys_leave_once_for_the_party_that_two_persons_named_and_never_after_a_freeze() {
    let deployment = Deployment::found();
    let devices = deployment.order("first", &[1, 2].map(|number| eid(GRANTED, number)));
    let digest = exported(&deployment, "provisioner", &devices[0].eid).await;
    let fetch = ["transport-key", "fetch-export", &hex::encode(&digest), "--out", "export.json"];
    let other = deployment.refused("chancery", &[&fetch[..], &["--identity", "eum"]].concat());
    assert!(other.contains("UNKNOWN_OPERATION"), "{other}");
    deployment.chancery(&[&fetch[..], &["--identity", "provisioner"]].concat());
    let again = ["transport-key", "fetch-export", &hex::encode(&digest), "--out", "again.json"];
    let again = deployment.refused("chancery", &[&again[..], &["--identity", "provisioner"]].concat());
    assert!(again.contains("POLICY_VIOLATION") && again.contains("leave once"), "{again}");

    let export = json(&deployment, "export.json");
    let text = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let pem = fs::read(deployment.path("its-hsm/transport-key.pem")).unwrap();
    let transport = TransportPrivateKey::from_pem(&pem).unwrap();
    let fresh = transport
        .open_oaep(export["oaep_hash"].as_str().unwrap(), &text(&export["wrapped_transport_key"]))
        .unwrap();
    let opened: Vec<Vec<u8>> = export["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| tests::transport::unwrap_key(&fresh, &text(&key["wrapped"])).unwrap())
        .collect();
    assert_eq!(opened, devices[0].static_keys(), "the party holds what the card holds");

    // Approved, then frozen: what two persons allowed is not done for a stolen device.
    let persons = TwoPersons::of(&deployment).await;
    let export = ExportKeyset {
        eid: devices[1].eid.clone(),
        keyset: Some(keyset(KVN)),
        party: "provisioner".to_owned(),
        transport_key: "hsm".to_owned(),
    };
    let approved = persons.approve(Kind::ExportKeyset(export.clone())).await.unwrap();
    let freeze = ["device", "freeze", &devices[1].eid, "--reason", "stolen", "--reference", "x", "--yes"];
    deployment.chancery(&[&freeze[..], &["--identity", "officer"]].concat());
    assert_eq!(reason(&persons.execute(approved).await.unwrap_err()), "DEVICE_NOT_ACTIVE");
    let unknown = ExportKeyset { transport_key: "orders".to_owned(), ..export };
    assert_eq!(
        reason(&persons.request(Kind::ExportKeyset(unknown)).await.unwrap_err()),
        "UNKNOWN_TRANSPORT_KEY"
    );
    // A master that is known to others: its keysets are only flagged, and yet none of them leaves any more.
    let mark = MarkCompromised {
        key: Some(mark_compromised::Key::MasterGeneration(1)),
        consequence: TaintConsequence::Flagged.into(),
    };
    persons.carry_out(Kind::MarkCompromised(mark)).await.unwrap();
    let known = ExportKeyset {
        eid: devices[0].eid.clone(),
        keyset: Some(keyset(KVN)),
        party: "provisioner".to_owned(),
        transport_key: "hsm".to_owned(),
    };
    assert_eq!(reason(&persons.request(Kind::ExportKeyset(known)).await.unwrap_err()), "POLICY_VIOLATION");
    let events: Vec<EventType> = deployment.entries().iter().map(|entry| entry.header.event).collect();
    for event in [EventType::KeysetExported, EventType::KeysetExportFetched] {
        assert!(events.contains(&event), "{event:?}");
    }
}

#[test]
fn a_key_made_with_custodians_is_restored_in_a_rehearsal_and_never_from_fewer() {
    let deployment = Deployment::found();
    for name in ["alice", "bob", "carol"] {
        deployment.chanceryd(&["ceremony", "custodian-key", "--name", name, "--out", "custodians"]);
    }
    let create =
        ["ceremony", "create-key", "--config", "chanceryd.toml", "--name", "devices", "--epoch", "2"];
    let key = ["--role", "imported-master-aes-256", "--out", "devices-2.key.json"];
    let custodians = ["alice", "bob", "carol"].map(|name| format!("{name}=custodians/{name}.pub.pem"));
    let custodians: Vec<&str> = custodians.iter().flat_map(|c| ["--custodian", c.as_str()]).collect();
    let said = deployment.chanceryd(&[&create[..], &key, &custodians, &["--needed", "2"]].concat());
    assert!(said.contains("any 2 of the 3 restore the key"), "{said}");
    let text = fs::read_to_string(deployment.path("devices-alice.component.json")).unwrap();
    assert!(text.contains("ciphertext") && !text.contains("\"value\""), "a component is sealed");

    write_private(&deployment, "scratch.pin", "12345678");
    write_private(&deployment, "scratch.so-pin", "87654321");
    let rehearse = ["ceremony", "rehearse-restore", "--config", "chanceryd.toml"];
    let scratch =
        ["--scratch-label", "scratch", "--pin-file", "scratch.pin", "--so-pin-file", "scratch.so-pin"];
    let of = |names: &[&str]| -> Vec<String> {
        names
            .iter()
            .flat_map(|name| {
                [
                    "--component".to_owned(),
                    format!("devices-{name}.component.json"),
                    "--custodian-key".to_owned(),
                    format!("custodians/{name}.key.pem"),
                ]
            })
            .collect()
    };
    let run = |names: &[&str]| {
        let parts = of(names);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        [&rehearse[..], &["--key-file", "devices-2.key.json"], &scratch, &parts].concat().join("\n")
    };
    // Any two of the three, and all of them; each rehearsal wipes its token.
    for (at, names) in
        [&["alice", "bob"][..], &["bob", "carol"], &["carol", "alice", "bob"]].into_iter().enumerate()
    {
        let rehearsal = run(names).replace("scratch\n", &format!("scratch-{at}\n"));
        let said = deployment.chanceryd(&rehearsal.split('\n').collect::<Vec<_>>());
        let restored = "restored chancery/imported-master-aes-256/devices/2 from the components of";
        assert!(said.contains(&format!("{restored} {}", names.join(", "))), "{said}");
    }
    let alone = run(&["bob"]).replace("scratch\n", "scratch-9\n");
    let said = deployment.refused("chanceryd", &alone.split('\n').collect::<Vec<_>>());
    assert!(said.contains("any 2 of the 3 custodians have them all, 1 came"), "{said}");
    let key: Value =
        serde_json::from_slice(&fs::read(deployment.path("devices-2.key.json")).unwrap()).unwrap();
    assert_eq!(key["backup"], "components of any 2 of 3 custodians: alice, bob, carol");
    // What is on the tokens of the service did not change, and is not registered either.
    let listed = deployment.chanceryd(&["ceremony", "list", "--config", "chanceryd.toml", "--token", "kms"]);
    assert_eq!(listed.matches("imported-master").count(), 1, "{listed}");
}

#[test]
fn a_transport_key_follows_another_and_orders_leave_under_the_newest() {
    let deployment = Deployment::found();
    let who = ["--organization", "RSP Test", "--country", "IT", "--out", "eum-next"];
    deployment.chancery(&[&["identity", "create", "--kind", "eum", "--name", "eum"][..], &who].concat());
    let register = ["transport-key", "register", "--party", "eum", "--name", "orders", "--reason", "next"];
    let key = ["--public-key", "eum-next/transport-key.pub.pem", "--expires", "300d"];
    deployment.two_persons(&[&register[..], &key].concat(), None);
    let place = |order: &str, number: usize| {
        let file = format!("{order}.csv");
        fs::write(deployment.path(&file), csv(&[eid(GRANTED, number)])).unwrap();
        [
            "order",
            "place",
            "--order",
            order,
            "--issuer",
            ISSUER,
            "--devices",
            &file,
            "--kvn",
            "0x30",
            "--algorithm",
            "AES-128",
            "--identity",
            "eum",
        ]
        .map(str::to_owned)
    };
    let first = place("first", 1);
    deployment.chancery(&first.each_ref().map(String::as_str));
    deployment.chancery(&["order", "fetch", "--order", "first", "--out", "first.jsonl", "--identity", "eum"]);
    let opened =
        devices::unwrap(&deployment.path("eum-next/transport-key.pem"), &deployment.path("first.jsonl"));
    assert_eq!(opened.len(), 1, "the new key opens what was ordered after its registration");

    let again = [&register[..], &key, &["--identity", "officer"]].concat();
    assert!(deployment.refused("chancery", &again).contains("DUPLICATE_KEY"));
    let retire = ["transport-key", "retire", "--party", "eum", "--name", "orders", "--number", "1"];
    deployment.two_persons(&[&retire[..], &["--reason", "lost"]].concat(), None);
    let second = place("second", 2);
    let said = deployment.refused("chancery", &second.each_ref().map(String::as_str));
    assert!(said.contains("TRANSPORT_KEY_ENDED"), "{said}");
    let own: Value = serde_json::from_str(&deployment.chancery(&[
        "transport-key",
        "list",
        "--identity",
        "eum",
        "--output",
        "json",
    ]))
    .unwrap();
    assert_eq!(own[0]["state"], "retired");
    let others = ["transport-key", "list", "--party", "provisioner", "--identity", "eum"];
    assert!(deployment.refused("chancery", &others).contains("UNKNOWN_PARTY"));
}
