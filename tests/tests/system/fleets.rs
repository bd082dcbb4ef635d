//! Fleets that move in: published masters imported at a ceremony, cards with the published keys of each scheme, and what the
//! service makes of them.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use audit::{EventType, Outcome};
use serde_json::Value;
use tests::card::SimulatedCard;

use crate::devices::eid;
use crate::fleet::{Card, Provisioner};
use crate::masters::{component_with, kcv};
use crate::support::{Deployment, GRANTED};

/// A file of `tests/vectors`.
fn vectors(name: &str) -> Value {
    let path = format!("{}/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// The first three bytes of 3DES-ECB over 8 bytes of 00, by OpenSSL.
pub fn triple_des_check_value(key: &[u8]) -> String {
    let mut openssl = Command::new("openssl")
        .args(["enc", "-des-ede", "-nopad", "-K", &hex::encode(key)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(&[0; 8]).unwrap();
    hex::encode(&openssl.wait_with_output().unwrap().stdout[..3])
}

/// A master in two components, imported and registered for one scheme.
fn import(deployment: &Deployment, name: &str, role: &str, generation: u32, master: &[u8], scheme: &str) {
    let first = vec![0x5a; master.len()];
    let second: Vec<u8> = master.iter().zip(&first).map(|(a, b)| a ^ b).collect();
    let check_value =
        |value: &[u8]| if role.contains("3des") { triple_des_check_value(value) } else { kcv(value) };
    let component =
        |custodian: String, value: &[u8]| component_with(deployment, &custodian, value, &check_value(value));
    let (one, two) = (component(format!("{name}-one"), &first), component(format!("{name}-two"), &second));
    let whole = check_value(master);
    let (epoch, out) = (generation.to_string(), format!("{name}.key.json"));
    let import = ["ceremony", "import-key", "--config", "chanceryd.toml", "--name", name, "--role", role];
    let parts = ["--epoch", &epoch, "--component", &one, "--component", &two, "--out", &out, "--kcv", &whole];
    deployment.chanceryd(&[&import[..], &parts].concat());
    let register = ["master", "register", "--key-file", &out, "--generation", &epoch, "--scheme", scheme];
    deployment.two_persons(&[&register[..], &["--reason", "the fleet moves in"]].concat(), None);
}

struct Fleet<'a> {
    name: &'a str,
    scheme: &'a str,
    generation: u32,
    kvn: &'a str,
    algorithm: &'a str,
}

impl Fleet<'_> {
    /// Registers the devices of a file; the exit code and the results by line.
    fn place(&self, deployment: &Deployment, lines: &str) -> (Option<i32>, Vec<Value>) {
        let (file, results) = (format!("{}.csv", self.name), format!("{}.jsonl", self.name));
        fs::write(deployment.path(&file), lines).unwrap();
        let _ = fs::remove_file(deployment.path(&results));
        let generation = self.generation.to_string();
        let place = ["order", "place", "--order", self.name, "--moved-in-scheme", self.scheme];
        let how = ["--master-generation", &generation, "--devices", &file, "--kvn", self.kvn];
        let rest = ["--algorithm", self.algorithm, "--results", &results, "--identity", "eum"];
        let output = deployment.try_chancery(&[&place[..], &how, &rest].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = fs::read_to_string(deployment.path(&results)).unwrap_or_else(|_| panic!("{said}"));
        let mut results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        results.sort_by_key(|line| line["line"].as_u64());
        (output.status.code(), results)
    }
}

pub fn card(eid: &str, kvn: u8, keys: &[Vec<u8>; 3]) -> Card {
    let mut chip = SimulatedCard::new(hex::decode(eid).unwrap().try_into().unwrap());
    chip.install_keyset(kvn, &keys[0], &keys[1], &keys[2]);
    Card { eid: eid.to_owned(), chip }
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_with_published_keys_of_other_schemes_move_in_and_are_served() {
    let deployment = Deployment::found();
    let provisioner = Provisioner::of(&deployment).await;
    let kdf3 = vectors("static_key_diversification.json");
    let an10922 = vectors("an10922.json");
    let of = |scheme: &str| {
        let found = kdf3["vectors"].as_array().unwrap().iter().find(|vector| vector["scheme"] == scheme);
        found.unwrap().clone()
    };
    let three = |vector: &Value| ["enc", "mac", "dek"].map(|name| bytes(&vector[name]));
    let kcvs = |vector: &Value| {
        ["enc_kcv", "mac_kcv", "dek_kcv"].map(|name| vector[name].as_str().unwrap().to_owned()).concat()
    };
    let mut served = 0;
    for (generation, scheme, algorithm, role) in [
        (10, "kdf3 AES-128", "AES-128", "imported-master-aes-128"),
        (11, "kdf3 AES-256", "AES-256", "imported-master-aes-256"),
    ] {
        let vector = of(scheme);
        let name = format!("kdf3-{generation}");
        import(&deployment, &name, role, generation, &bytes(&vector["master"]), "kdf3");
        let fleet = Fleet { name: &name, scheme: "kdf3", generation, kvn: "0x30", algorithm };
        let kdd = vector["kdd"].as_str().unwrap();
        let [right, wrong, foreign, short] =
            [1, 2, 3, 4].map(|at| eid(GRANTED, 100 * generation as usize + at));
        let foreign = foreign.replacen(GRANTED, "89049099", 1);
        let lines = format!(
            "eid,kdd,kcv\n{right},{kdd},{}\n{wrong},{kdd},000000111111222222\n{foreign},{kdd},\n{short},{kdd}00,\n",
            kcvs(&vector)
        );
        for _ in 0..2 {
            let (code, results) = fleet.place(&deployment, &lines);
            assert_eq!(code, Some(3), "{results:?}");
            assert_eq!(results[0]["kcv"], kcvs(&vector), "{results:?}");
            let reasons: Vec<_> = results[1..].iter().map(|line| line["reason"].as_str().unwrap()).collect();
            assert_eq!(reasons[0], "INVALID_FIELD");
            assert!(["INVALID_EID", "EID_OUT_OF_RANGE"].contains(&reasons[1]), "{reasons:?}");
            assert_eq!(reasons[2], "INVALID_FIELD");
        }
        let mut chip = card(&right, 0x30, &three(&vector));
        provisioner.open(&mut chip, 0x30).await.unwrap();
        served += 1;
        // The master serves the scheme it was registered for and no other.
        let other = Fleet { name: "other", scheme: "sp800-108", ..fleet };
        let refused = deployment.refused(
            "chancery",
            &[
                "order",
                "place",
                "--order",
                other.name,
                "--moved-in-scheme",
                other.scheme,
                "--master-generation",
                &generation.to_string(),
                "--devices",
                &format!("{name}.csv"),
                "--kvn",
                "0x30",
                "--algorithm",
                "AES-128",
                "--identity",
                "eum",
            ],
        );
        assert!(refused.contains("POLICY_VIOLATION"), "{refused}");
    }
    // AN10922 names its inputs itself.
    let vector = &an10922["vectors"][0];
    import(&deployment, "an", "imported-master-aes-128", 12, &bytes(&vector["master"]), "an10922");
    let input = bytes(&vector["M"]);
    let field = [&[u8::try_from(input.len()).unwrap()][..], &input].concat();
    let device = eid(GRANTED, 1_200);
    let fleet = Fleet { name: "an", scheme: "an10922", generation: 12, kvn: "0x30", algorithm: "AES-128" };
    let inputs = hex::encode(field.repeat(3));
    let (code, results) = fleet.place(&deployment, &format!("eid,scheme_inputs\n{device},{inputs}\n"));
    assert_eq!(code, Some(0), "{results:?}");
    let key = bytes(&vector["key"]);
    let mut chip = card(&device, 0x30, &[key.clone(), key.clone(), key]);
    provisioner.open(&mut chip, 0x30).await.unwrap();
    served += 1;

    // 3DES: check values by the token, states and reconciliation; no session keys.
    let vector = of("emv");
    import(&deployment, "emv", "imported-master-3des-2key", 13, &bytes(&vector["master"]), "emv-cps11");
    let device = eid(GRANTED, 1_300);
    let fleet =
        Fleet { name: "emv", scheme: "emv-cps11", generation: 13, kvn: "0x20", algorithm: "3DES-2KEY" };
    let lines = format!("eid,kdd,kcv\n{device},{},{}\n", vector["kdd"].as_str().unwrap(), kcvs(&vector));
    let (code, results) = fleet.place(&deployment, &lines);
    assert_eq!(code, Some(0), "{results:?}");
    let show = ["keyset", "show", &device, "--kvn", "0x20", "--identity", "officer", "--output", "json"];
    let shown: Value = serde_json::from_str(&deployment.chancery(&show)).unwrap();
    assert_eq!((&shown["protocol"], &shown["effective_strength"]), (&Value::from("SCP02"), &Value::from(80)));

    let registered = deployment.entries().into_iter().filter(|entry| {
        entry.header.event == EventType::DeviceRegistered && entry.header.outcome == Outcome::Done
    });
    assert_eq!(registered.count(), served + 1);
}
