//! Fleets whose keys come themselves: wrapped by OpenSSL under an import key, or as cells of pySim's CSV.

use std::fs;
use std::process::Command;

use audit::{EventType, Outcome};
use serde_json::Value;

use crate::devices::eid;
use crate::fleet::Provisioner;
use crate::fleets::{card, triple_des_check_value};
use crate::masters::{component, kcv};
use crate::random::{nothing_is_in_clear, storage_keys};
use crate::support::{Deployment, GRANTED};

const FIRST: [u8; 32] = *b"half of what wraps the old fleet";
const SECOND: [u8; 32] = *b"and the other half that wraps it";

/// By OpenSSL.
fn openssl(deployment: &Deployment, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let (from, to) = (deployment.path("openssl.in"), deployment.path("openssl.out"));
    fs::write(&from, input).unwrap();
    let done = Command::new("openssl").args(arguments).arg("-in").arg(&from).arg("-out").arg(&to).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read(to).unwrap()
}

/// RFC 5649, in hex.
fn wrap(deployment: &Deployment, under: &[u8], key: &[u8]) -> String {
    let cipher = ["enc", "-id-aes256-wrap-pad", "-iv", "A65959A6", "-K", &hex::encode(under)];
    hex::encode(openssl(deployment, &cipher, key))
}

/// A cell of pySim's CSV.
fn cell(deployment: &Deployment, column: &[u8], key: &[u8]) -> String {
    let (iv, column) = ("23".repeat(16), hex::encode(column));
    let cipher = ["enc", "-aes-256-cbc", "-nopad", "-iv", &iv, "-K", &column];
    hex::encode(openssl(deployment, &cipher, key))
}

/// An AES key of a party, brought in by two custodians and registered.
fn import_key(deployment: &Deployment, name: &str, value: &[u8]) {
    let second: Vec<u8> = value.iter().zip(FIRST).map(|(a, b)| a ^ b).collect();
    let one = component(deployment, &format!("{name}-one"), &FIRST);
    let two = component(deployment, &format!("{name}-two"), &second);
    let import = ["ceremony", "import-key", "--config", "chanceryd.toml", "--name", name, "--epoch", "1"];
    let parts = ["--role", "party-import", "--component", &one, "--component", &two, "--kcv", &kcv(value)];
    let file = format!("{name}.json");
    deployment.chanceryd(&[&import[..], &parts, &["--out", &file]].concat());
    let register = ["transport-key", "register", "--party", "eum", "--name", name, "--key-file", &file];
    let terms = ["--expires", "30d", "--reason", "the fleet of 2017 moves in"];
    deployment.two_persons(&[&register[..], &terms].concat(), None);
}

/// Places an order of a file of devices; the exit code and the results by line, or what was said instead.
fn place(
    deployment: &Deployment,
    order: &str,
    lines: &str,
    terms: &[&str],
) -> Result<(Option<i32>, Vec<Value>), String> {
    let (file, results) = (format!("{order}.csv"), format!("{order}.jsonl"));
    fs::write(deployment.path(&file), lines).unwrap();
    let _ = fs::remove_file(deployment.path(&results));
    let place = ["order", "place", "--order", order, "--devices", &file, "--results", &results];
    let output = deployment.try_chancery(&[&place[..], terms, &["--identity", "eum"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let Ok(text) = fs::read_to_string(deployment.path(&results)) else { return Err(said) };
    let mut results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    if results.is_empty() {
        return Err(said);
    }
    results.sort_by_key(|line| line["line"].as_u64());
    Ok((output.status.code(), results))
}

fn shown(deployment: &Deployment, eid: &str, kvn: &str) -> Value {
    let show = ["keyset", "show", eid, "--kvn", kvn, "--identity", "officer", "--output", "json"];
    serde_json::from_str(&deployment.chancery(&show)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_moves_in_with_its_keys_and_none_of_them_is_ever_in_clear_here() {
    let mut deployment = Deployment::found();
    let under: Vec<u8> = FIRST.iter().zip(SECOND).map(|(a, b)| a ^ b).collect();
    let terms = ["--moved-in-under", "incoming", "--kvn", "0x30", "--algorithm", "AES-128"];
    let known: [Vec<u8>; 3] = [11_u8, 12, 13].map(|first| (first..first + 16).collect());
    let [enc, mac, dek] = known.each_ref().map(|key| wrap(&deployment, &under, key));
    let check: String = known.iter().map(|key| kcv(key)).collect();
    let [right, wrong, foreign, cut, derived, outside] = [1, 2, 3, 4, 5, 6].map(|at| eid(GRANTED, at));
    let outside = outside.replacen(GRANTED, "89049099", 1);
    let other = wrap(&deployment, &SECOND, &known[0]);
    let lines = format!(
        "eid,enc,mac,dek,kcv\n{right},{enc},{mac},{dek},{check}\n{wrong},{enc},{mac},{dek},{}\n\
         {foreign},{other},{mac},{dek},\n{cut},{},{mac},{dek},\n{derived},{enc},{mac},,\n{outside},{enc},{mac},{dek},\n",
        "0".repeat(18),
        &enc[..46]
    );
    // Neither the import key nor the keys under which they would be stored.
    assert!(place(&deployment, "old", &lines, &terms).unwrap_err().contains("UNKNOWN_TRANSPORT_KEY"));
    import_key(&deployment, "incoming", &under);
    assert!(place(&deployment, "old", &lines, &terms).unwrap_err().contains("POLICY_VIOLATION"));
    storage_keys(&deployment, 1);

    for _ in 0..2 {
        let (code, results) = place(&deployment, "old", &lines, &terms).unwrap();
        assert_eq!((code, &results[0]["kcv"]), (Some(3), &Value::from(check.clone())), "{results:?}");
        let reasons: Vec<_> = results[1..].iter().map(|line| line["reason"].as_str().unwrap()).collect();
        assert_eq!(reasons[..4], ["INVALID_FIELD"; 4], "{results:?}");
        assert!(["INVALID_EID", "EID_OUT_OF_RANGE"].contains(&reasons[4]), "{results:?}");
    }
    let keyset = shown(&deployment, &right, "0x30");
    assert_eq!(keyset["source"], "imported: stored under epoch 1");
    assert_eq!(
        (&keyset["delivered_under"], &keyset["effective_strength"]),
        (&"eum/incoming/1".into(), &128.into())
    );

    // The card with those keys is served, before and after a restart.
    let mut chip = card(&right, 0x30, &known);
    for round in 0..2 {
        Provisioner::of(&deployment).await.open(&mut chip, 0x30).await.unwrap();
        if round == 0 {
            deployment.restart();
        }
    }

    // Its 3DES keys, from a CSV of pySim, beside. Of another device, which is in no use yet.
    let (code, _) =
        place(&deployment, "second", &format!("eid,enc,mac,dek\n{wrong},{enc},{mac},{dek}\n"), &terms)
            .unwrap();
    assert_eq!(code, Some(0));
    let column = [0x77; 32];
    let old: [Vec<u8>; 3] = [0x21_u8, 0x22, 0x23].map(|first| (0..16).map(|at| first ^ (at * 5)).collect());
    let cells = old.each_ref().map(|key| cell(&deployment, &column, key));
    fs::write(deployment.path("column.hex"), wrap(&deployment, &under, &column)).unwrap();
    fs::write(deployment.path("stray.hex"), wrap(&deployment, &SECOND, &column)).unwrap();
    let names = "UICC_SCP02_KIC1,UICC_SCP02_KID1,UICC_SCP02_KIK1";
    let pysim = |key: &'static str, kvn: &'static str, algorithm: &'static str| {
        let terms = ["--moved-in-under", "incoming", "--further-keysets", "--column-key", key];
        [&terms[..], &["--key-columns", names, "--kvn", kvn, "--algorithm", algorithm]].concat()
    };
    let lines = format!("EID,ICCID,{names}\n{wrong},8988211000000000000,{}\n", cells.join(","));
    let stray = place(&deployment, "stray", &lines, &pysim("stray.hex", "0x20", "3DES-2KEY")).unwrap_err();
    assert!(stray.contains("INVALID_FIELD") && stray.contains("column key"), "{stray}");
    let aes = place(&deployment, "aes", &lines, &pysim("column.hex", "0x20", "AES-128")).unwrap_err();
    assert!(aes.contains("INVALID_FIELD") && aes.contains("scp02"), "{aes}");
    let (code, results) =
        place(&deployment, "scp02", &lines, &pysim("column.hex", "0x20", "3DES-2KEY")).unwrap();
    let check: String = old.iter().map(|key| triple_des_check_value(key)).collect();
    assert_eq!((code, &results[0]["kcv"]), (Some(0), &Value::from(check)), "{results:?}");
    let keyset = shown(&deployment, &wrong, "0x20");
    assert_eq!((&keyset["protocol"], &keyset["effective_strength"]), (&"SCP02".into(), &80.into()));
    let (_, again) = place(&deployment, "twice", &lines, &pysim("column.hex", "0x20", "3DES-2KEY")).unwrap();
    assert_eq!(again[0]["reason"], "DUPLICATE_KEYSET");

    let made = |event| {
        deployment
            .entries()
            .into_iter()
            .filter(move |entry| (entry.header.event, entry.header.outcome) == (event, Outcome::Done))
    };
    assert_eq!((made(EventType::DeviceRegistered).count(), made(EventType::KeysetMade).count()), (2, 1));

    // An import key that has ended brings nothing in.
    let retire = ["transport-key", "retire", "--party", "eum", "--name", "incoming", "--number", "1"];
    deployment.two_persons(&[&retire[..], &["--reason", "the fleet is in"]].concat(), None);
    let ended =
        place(&deployment, "late", &format!("eid,enc,mac,dek\n{foreign},{enc},{mac},{dek}\n"), &terms);
    assert!(ended.unwrap_err().contains("TRANSPORT_KEY_ENDED"));

    deployment.stop();
    let keys: Vec<&[u8]> = known.iter().chain(&old).map(Vec::as_slice).chain([&column[..], &under]).collect();
    nothing_is_in_clear(&deployment, &right, &keys);
}
