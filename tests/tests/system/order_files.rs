//! Orders from a file: key blocks and key pairs, a receipt that verifies offline, and nothing twice however often it is run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use audit::{EventType, Outcome};
use serde_json::Value;

use crate::devices::{KVN, eid};
use crate::fleet::Provisioner;
use crate::support::{Deployment, GRANTED, ISSUER, files_below};

/// A counted order whose devices' key pairs are made.
fn order(deployment: &Deployment, name: &str, format: &str, first: usize, quantity: usize) {
    let body = format!("{GRANTED}{first:0width$}", width = 30 - GRANTED.len());
    let text = format!(
        "order = \"{name}\"\nissuer = \"{ISSUER}\"\nproduct = \"meter\"\nformat = \"{format}\"\nkvn = 0x30\n\
         algorithm = \"AES-256\"\n[devices]\nfirst_eid_body = \"{body}\"\nquantity = {quantity}\n\
         make_key_pairs = \"P-256\"\n"
    );
    fs::write(deployment.path(&format!("{name}.toml")), text).unwrap();
}

fn log_key(deployment: &Deployment) -> String {
    fs::read_to_string(deployment.path("handover/log-key.vkey")).unwrap().trim().to_owned()
}

fn submit(deployment: &Deployment, name: &str) -> Value {
    let (file, key) = (format!("{name}.toml"), log_key(deployment));
    let arguments = ["order", "submit", &file, "--out", name, "--log-key", &key, "--identity", "eum"];
    serde_json::from_str(&deployment.chancery(&[&arguments[..], &["--output", "json"]].concat())).unwrap()
}

fn certificates(deployment: &Deployment, name: &str) -> BTreeMap<String, Vec<u8>> {
    files_below(&deployment.path(name).join("certificates"))
        .into_iter()
        .map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&file).unwrap()))
        .collect()
}

fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The private key of a device, opened by OpenSSL with nothing but the manufacturer's own key: its public half.
fn opened_key_pair(deployment: &Deployment, header: &Value, device: &Value) -> Vec<u8> {
    let folder = deployment.path("");
    let put = |name: &str, hex_text: &Value| {
        fs::write(folder.join(name), hex::decode(hex_text.as_str().unwrap()).unwrap()).unwrap();
    };
    put("transport.bin", &header["wrapped"]);
    let oaep = match header["oaep_hash"].as_str().unwrap() {
        "SHA-1" => "rsa_oaep_md:sha1",
        _ => "rsa_oaep_md:sha256",
    };
    let decrypt = ["pkeyutl", "-decrypt", "-inkey", "eum/transport-key.pem", "-in", "transport.bin"];
    let padding = ["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", oaep];
    let transport = hex::encode(openssl(&folder, &[&decrypt[..], &padding].concat()));
    put("private.bin", &device["private_key"]);
    let unwrap = ["enc", "-d", "-id-aes256-wrap-pad", "-iv", "A65959A6", "-in", "private.bin"];
    openssl(&folder, &[&unwrap[..], &["-K", &transport, "-out", "private.der"]].concat());
    openssl(&folder, &["pkey", "-inform", "DER", "-in", "private.der", "-pubout", "-outform", "DER"])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_file_gives_key_blocks_and_key_pairs_and_a_receipt_and_repeats_nothing() {
    const DEVICES: usize = 7;
    let deployment = Deployment::found();
    order(&deployment, "blocks", "tr31", 1, DEVICES);
    let submitted = submit(&deployment, "blocks");
    assert_eq!(submitted["placed"]["accepted"], DEVICES, "{submitted}");
    let first = certificates(&deployment, "blocks");
    assert_eq!(first.len(), DEVICES);

    let output = fs::read_to_string(deployment.path("blocks/output.jsonl")).unwrap();
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let header = lines.iter().find(|line| line["format"] == "pkcs8-kwp").unwrap();
    let devices: Vec<&Value> = lines.iter().filter(|line| line.get("eid").is_some()).collect();
    assert_eq!(devices.len(), DEVICES);
    for device in &devices {
        // Version D, AES-256 transport key: the judges of the bytes stand in `keys` and `hsm`.
        assert!(device["enc"].as_str().unwrap().starts_with('D'), "{device}");
    }
    let certified =
        pki::Certificate::from_der(&first[&format!("{}.der", devices[0]["eid"].as_str().unwrap())]);
    assert_eq!(opened_key_pair(&deployment, header, devices[0]), certified.unwrap().spki());
    let table = fs::read_to_string(deployment.path("blocks/documents/000000.csv")).unwrap();
    assert_eq!(table.lines().count(), DEVICES + 1);

    // Run again: the same certificates and output, and no device of its own.
    let again = submit(&deployment, "blocks");
    assert_eq!(again["placed"]["accepted"], DEVICES);
    assert_eq!(certificates(&deployment, "blocks"), first);
    assert_eq!(fs::read_to_string(deployment.path("blocks/output.jsonl")).unwrap(), output);

    // The receipt is checked offline, and an output that somebody touched is told.
    let key = log_key(&deployment);
    let verify = |output: &str| {
        let arguments = ["order", "verify", "--receipt", "blocks/receipt.note", "--order-output", output];
        deployment.try_chancery(&[&arguments[..], &["--log-key", &key]].concat())
    };
    assert!(verify("blocks/output.jsonl").status.success());
    fs::write(deployment.path("touched.jsonl"), output.replacen("\"kvn\":48", "\"kvn\":49", 1)).unwrap();
    assert!(!verify("touched.jsonl").status.success());

    let entries = deployment.entries();
    let registered = entries
        .iter()
        .filter(|e| e.header.event == EventType::DeviceRegistered && e.header.outcome == Outcome::Done);
    assert_eq!(registered.count(), DEVICES);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_killed_on_both_sides_goes_on_where_it_was() {
    const DEVICES: usize = 300;
    let mut deployment = Deployment::found();
    order(&deployment, "cut", "pskc", 1_000, DEVICES);
    let before = deployment.log_size();
    let mut tool =
        deployment.start_chancery(&["order", "submit", "cut.toml", "--out", "cut", "--identity", "eum"]);
    let started = Instant::now();
    while deployment.log_size() == before {
        assert!(started.elapsed() < Duration::from_secs(30), "the order does not begin");
    }
    deployment.kill9();
    let _ = tool.kill();
    let _ = tool.wait();
    deployment.serve();
    let submitted = submit(&deployment, "cut");
    assert_eq!(submitted["placed"]["accepted"], DEVICES, "{submitted}");
    assert_eq!(certificates(&deployment, "cut").len(), DEVICES);
    let documents = files_below(&deployment.path("cut/documents"));
    assert!(!documents.is_empty());
    let keys: usize =
        documents.iter().map(|file| fs::read_to_string(file).unwrap().matches("<KeyPackage>").count()).sum();
    assert_eq!(keys, 3 * DEVICES);

    let mut registered = BTreeMap::new();
    for entry in deployment.entries() {
        if entry.header.event == EventType::DeviceRegistered && entry.header.outcome == Outcome::Done {
            *registered.entry(entry.header.object.unwrap()).or_insert(0) += 1;
        }
    }
    assert_eq!(registered.len(), DEVICES);
    assert!(registered.values().all(|times| *times == 1), "a device was registered twice");
}

/// A keyset of the register, as the tool shows it.
fn shown(deployment: &Deployment, eid: &str, kvn: &str) -> Value {
    let show = ["keyset", "show", eid, "--kvn", kvn, "--identity", "officer", "--output", "json"];
    serde_json::from_str(&deployment.chancery(&show)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn registered_devices_get_keysets_for_the_air_until_they_are_in_use() {
    let deployment = Deployment::found();
    let devices = deployment.order("first", &[1, 2, 3].map(|number| eid(GRANTED, number)));
    let provisioner = Provisioner::of(&deployment).await;
    let (used, frozen) = (&devices[0], &devices[1]);
    provisioner.open(&mut used.card(), KVN).await.unwrap();
    let freeze = ["device", "freeze", &frozen.eid, "--reason", "stolen", "--reference", "4711", "--yes"];
    deployment.chancery(&[&freeze[..], &["--identity", "officer"]].concat());

    let foreign = eid(GRANTED, 9);
    let eids =
        [&used.eid, &frozen.eid, &devices[2].eid, &devices[2].eid, &foreign].map(|eid| format!("{eid}\n"));
    fs::write(deployment.path("registered.csv"), format!("eid\n{}", eids.concat())).unwrap();
    let keyset = |order: &str, kvn: u8| {
        format!(
            "order = \"{order}\"\nfurther_keysets = true\nkvn = {kvn}\nalgorithm = \"AES-128\"\n\
             [devices]\nfile = \"registered.csv\"\n"
        )
    };
    for (order, kvn, protocol, keys) in [("ota", 0x01, "scp80", 3), ("psk", 0x40, "scp81", 2)] {
        fs::write(deployment.path(&format!("{order}.toml")), keyset(order, kvn)).unwrap();
        let (file, key) = (format!("{order}.toml"), log_key(&deployment));
        let submit = ["order", "submit", &file, "--out", order, "--log-key", &key, "--identity", "eum"];
        let submit = [&submit[..], &["--output", "json"]].concat();
        for _ in 0..2 {
            let output = deployment.try_chancery(&submit);
            assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
            let placed = &serde_json::from_slice::<Value>(&output.stdout).unwrap()["placed"];
            assert_eq!(placed["accepted"], 1);
            let reasons: Vec<_> = placed["refusals"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| line["reason"].as_str().unwrap())
                .collect();
            // Sent again, the second line of one device finds the keyset of the first.
            assert_eq!(reasons[..2], ["DEVICE_NOT_ACTIVE"; 2]);
            assert!(["DUPLICATE_DEVICE", "DUPLICATE_KEYSET"].contains(&reasons[2]), "{reasons:?}");
            assert_eq!(reasons[3], "UNKNOWN_DEVICE");
        }
        let of_device = shown(&deployment, &devices[2].eid, &format!("0x{kvn:02x}"));
        assert_eq!(
            (&of_device["protocol"], &of_device["state"]),
            (&Value::from(protocol.to_uppercase()), &Value::from("pre-activation"))
        );
        assert_eq!(of_device["effective_strength"], 128);
        let output = fs::read_to_string(deployment.path(order).join("output.jsonl")).unwrap();
        let line: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&line["protocol"], line["kcv"].as_object().unwrap().len()),
            (&Value::from(protocol), keys)
        );
        if protocol == "scp81" {
            assert!(
                line["psk"].is_string() && line["psk-dek"].is_string() && line.get("enc").is_none(),
                "{line}"
            );
        }
    }
    // The keyset it had is as it was, and serves sessions; one for the air serves none.
    let mut card = devices[2].card();
    provisioner.open(&mut card, KVN).await.unwrap();
    let made = deployment.entries().into_iter().filter(|entry| entry.header.event == EventType::KeysetMade);
    let (done, refused): (Vec<_>, Vec<_>) = made.partition(|entry| entry.header.outcome == Outcome::Done);
    assert_eq!((done.len(), refused.len()), (2, 16));
}
