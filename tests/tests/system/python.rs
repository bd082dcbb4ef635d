//! Provisioning servers, a manufacturer and eUICCs in Python, from the `.proto` files and the pages of docs/formats alone: tests/python/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::devices::{KVN, eid};
use crate::masters::{component, kcv};
use crate::rsp::download;
use crate::support::{Deployment, GRANTED, ISSUER, PURPOSE};

/// The device of the published derivation vectors.
const PUBLISHED_EID: &str = "89049032123451234512345678901235";

/// The interpreter of the environment that `cargo xtask install` makes of the pinned requirements.
fn interpreter(scripts: &Path) -> PathBuf {
    let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python");
    let wanted = fs::read_to_string(scripts.join("requirements.txt")).unwrap();
    let installed = fs::read_to_string(environment.join("installed")).unwrap_or_default();
    assert!(
        installed == wanted,
        "the Python environment of the tests is not there or not of today's requirements: run `cargo xtask install`"
    );
    environment.join("bin/python")
}

/// Runs a script of tests/python with what it finds in the deployment; its failure is ours.
fn run(script: &str, deployment: &Deployment, scene: &Value) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let path = deployment.path("scene.json");
    fs::write(&path, scene.to_string()).unwrap();
    let output = Command::new(interpreter(&scripts))
        .args(["-B", script, "--verbose"])
        .current_dir(&scripts)
        .env("CHANCERY_SCENE", path)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{script}: {text}");
    assert!(!text.contains("skipped"), "{script}: {text}");
}

#[test]
fn parties_in_python_use_session_keys_download_profiles_and_find_published_keys() {
    let deployment = Deployment::found_with(&["--rsp"]);
    let (granted, not_granted) = (eid(GRANTED, 1), eid("890490327", 2));
    deployment.order("first", &[granted.clone(), not_granted.clone()]);
    let scene = json!({
        "provisioner": deployment.path("provisioner"),
        "officer": deployment.path("officer"),
        "card_program": env!("CARGO_BIN_EXE_simulated-card"),
        "order": deployment.path("first.jsonl"),
        "transport_key": deployment.path("eum/transport-key.pem"),
        "granted": granted,
        "not_granted": not_granted,
        "kvn": KVN,
        "purpose": PURPOSE,
    });
    run("test_provisioner.py", &deployment, &scene);

    download::provide(&deployment);
    let scene = json!({
        "eum": deployment.path("eum"),
        "provisioner": deployment.path("provisioner"),
        "ci": deployment.path("handover/ci.pem"),
        "issuer": ISSUER,
        "eids": [eid(GRANTED, 3), eid(GRANTED, 4)],
        "kvn": KVN,
        "server_address": download::ADDRESS,
        "purpose": download::PURPOSE,
        "vectors": Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"),
    });
    run("test_download.py", &deployment, &scene);

    let master = import_master(&deployment);
    let scene = json!({
        "eum": deployment.path("eum"),
        "provisioner": deployment.path("provisioner"),
        "issuer": ISSUER,
        "master": hex::encode(master),
        "eids": [eid(GRANTED, 5), eid(GRANTED, 6)],
        "form_eids": [eid(GRANTED, 11), eid(GRANTED, 12), eid(GRANTED, 13)],
        "purpose": PURPOSE,
        "vectors": Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"),
    });
    run("test_vectors.py", &deployment, &scene);

    // Two of the devices that the script ordered, with keysets of 128 and 256 bits.
    let rotations = json!({
        "dialect-a": rotation(&deployment, "dialect-a", "a", PUBLISHED_EID, 128),
        "dialect-b": rotation(&deployment, "dialect-b", "b", &eid(GRANTED, 6), 256),
    });
    let scene = json!({
        "provisioner": deployment.path("provisioner"),
        "master": hex::encode(master),
        "rotations": rotations,
        "vectors": Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"),
    });
    run("test_put_key.py", &deployment, &scene);

    let scene = over_the_air(&deployment, &eid(GRANTED, 7), &master);
    run("test_ota.py", &deployment, &scene);
}

/// A device with a keyset for the air beside its first, and a grant that lets the authority's cryptography be used for it.
fn over_the_air(deployment: &Deployment, eid: &str, master: &[u8]) -> Value {
    const TAR: &str = "b00011";
    const GRANT_PURPOSE: &str = "over-the-air";
    deployment.order("air", &[eid.to_owned()]);
    let place = ["order", "place", "--order", "air-further", "--devices", "air.csv", "--further-keysets"];
    let terms = ["--kvn", "0x01", "--algorithm", "AES-128", "--identity", "eum"];
    deployment.chancery(&[&place[..], &terms].concat());
    let grant = ["grant", "create", "--name", "air", "--provisioner", "provisioner", "--eid", eid];
    let allows = ["--protocol", "scp80", "--protocol", "scp03", "--tar", TAR, "--ins", "f2", "--ins", "ca"];
    let terms = ["--without-device-proof", "--purpose", GRANT_PURPOSE, "--lawful-basis", "licence"];
    let end = ["--expires", "9d", "--reason", "vectors"];
    deployment.two_persons(&[&grant[..], &allows, &terms, &end].concat(), None);
    json!({
        "provisioner": deployment.path("provisioner"),
        "master": hex::encode(master),
        "eid": eid,
        "scp80_kvn": 0x01,
        "scp03_kvn": 0x30,
        "tar": TAR,
        "purpose": GRANT_PURPOSE,
        "vectors": Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"),
    })
}

/// A rotation of one device, approved and begun; its terms.
fn rotation(deployment: &Deployment, name: &str, dialect: &str, eid: &str, from_bits: u32) -> Value {
    let request = ["rotation", "request", "--name", name, "--provisioner", "provisioner", "--eid", eid];
    let keysets =
        ["--from-kvn", "0x30", "--to-kvn", "0x31", "--to-algorithm", "AES-256", "--dialect", dialect];
    let course = ["--stages", "100", "--overlap", "60s", "--halt-failures", "100", "--reason", "vectors"];
    deployment.two_persons(&[&request[..], &keysets, &course].concat(), None);
    json!({
        "eid": eid,
        "from_kvn": 0x30,
        "from_bits": from_bits,
        "to_kvn": 0x31,
        "to_bits": 256,
        "dialect": dialect,
    })
}

/// The master of the published vectors, which only development takes, moves in by two components.
fn import_master(deployment: &Deployment) -> [u8; 32] {
    let master: [u8; 32] = std::array::from_fn(|at| at as u8);
    let first = [0x5c; 32].map(|byte: u8| byte.rotate_left(3));
    let second: Vec<u8> = master.iter().zip(first).map(|(a, b)| a ^ b).collect();
    let (first, second) = (component(deployment, "alice", &first), component(deployment, "bob", &second));
    let import =
        ["ceremony", "import-key", "--config", "chanceryd.toml", "--name", "published", "--epoch", "2"];
    let role = ["--role", "imported-master-aes-256", "--kcv", &kcv(&master), "--out", "published.json"];
    let parts = ["--component", &first, "--component", &second];
    deployment.chanceryd(&[&import[..], &role, &parts].concat());
    let register = ["master", "register", "--key-file", "published.json", "--generation", "2"];
    let scheme = ["--scheme", "chancery-cmac-v1", "--reason", "ceremony"];
    deployment.two_persons(&[&register[..], &scheme].concat(), None);
    master
}
