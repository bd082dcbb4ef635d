//! After a run: no key, no PIN anywhere outside the tokens and their PIN files, and no EID in any entry. While it runs:
//! none of them in the memory of the daemon, which the network reaches.

mod memory;
mod needles;

use std::fs;
use std::path::{Path, PathBuf};

use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;
use tests::transport::TransportPrivateKey;

use self::needles::{Needles, forms};
use crate::devices::eid;
use crate::masters::{component, kcv};
use crate::support::{Deployment, GRANTED, PURPOSE, files_below};

/// Bytes to be searched, and where they are from.
struct Found {
    place: PathBuf,
    bytes: Vec<u8>,
}

/// Where any of the secrets occurs.
fn occurrences<'f>(found: &'f [Found], secrets: &[Vec<u8>]) -> Vec<&'f Path> {
    let needles = Needles::new(secrets);
    let holds = |file: &&Found| !needles.found_in(&file.bytes).is_empty();
    found.iter().filter(holds).map(|file| file.place.as_path()).collect()
}

fn read(files: Vec<PathBuf>) -> Vec<Found> {
    files.into_iter().map(|place| Found { bytes: fs::read(&place).unwrap(), place }).collect()
}

/// Two components of a master, and their sum.
const COMPONENTS: [[u8; 32]; 2] =
    [*b"what a custodian in Rome brought", *b"and what one in Oslo had at home"];

/// Secrets of one kind.
pub type Kind = (&'static str, Vec<Vec<u8>>);

/// A master that moves in, by the ceremony's process, and two persons who take it into use.
fn import_master(deployment: &Deployment) -> Vec<Vec<u8>> {
    let master: Vec<u8> = COMPONENTS[0].iter().zip(COMPONENTS[1]).map(|(a, b)| a ^ b).collect();
    let [rome, oslo] = ["rome", "oslo"]
        .map(|custodian| component(deployment, custodian, &COMPONENTS[usize::from(custodian == "oslo")]));
    let import =
        ["ceremony", "import-key", "--config", "chanceryd.toml", "--name", "moved-in", "--epoch", "2"];
    let role = ["--role", "imported-master-aes-256", "--kcv", &kcv(&master), "--out", "moved-in.json"];
    let parts = ["--component", &rome, "--component", &oslo];
    deployment.chanceryd(&[&import[..], &role, &parts].concat());
    let register = ["master", "register", "--key-file", "moved-in.json", "--generation", "2"];
    let scheme = ["--scheme", "chancery-cmac-v1", "--reason", "ceremony"];
    deployment.two_persons(&[&register[..], &scheme].concat(), None);
    [COMPONENTS.map(Vec::from).to_vec(), vec![master]].concat()
}

/// The keys under which an order's keys were wrapped for its manufacturer.
fn transport_keys(deployment: &Deployment, order: &str) -> Vec<Vec<u8>> {
    let pem = fs::read(deployment.path("eum/transport-key.pem")).unwrap();
    let private_key = TransportPrivateKey::from_pem(&pem).unwrap();
    let output = fs::read_to_string(deployment.path(&format!("{order}.jsonl"))).unwrap();
    let lines = output.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let open = |line: serde_json::Value| {
        let wrapped = hex::decode(line["wrapped"].as_str()?).unwrap();
        Some(private_key.open_oaep(line["oaep_hash"].as_str().unwrap(), &wrapped).unwrap())
    };
    lines.filter_map(open).collect()
}

/// As a core dump of each process would show. Nothing that a worker alone may have is in the daemon. Between jobs the
/// workers hold no device key, session key or master of their own accord, and no PIN; what a module keeps inside, it keeps
/// encrypted. `daemon_holds` and `worker_holds` are there, so that the search is known to find.
pub fn look_into_memory(deployment: &Deployment, kinds: &[Kind], daemon_holds: &[u8], worker_holds: &[u8]) {
    let all: Vec<Vec<u8>> = kinds.iter().flat_map(|(_, secrets)| secrets.clone()).collect();
    let names: Vec<&str> =
        kinds.iter().flat_map(|(name, secrets)| secrets.iter().map(move |_| *name)).collect();
    let secrets = Needles::new(&all);
    let search = |pid: u32, holds: &Needles| -> std::io::Result<bool> {
        let mut held = false;
        for mapping in memory::written(pid)? {
            held |= !holds.found_in(&mapping.bytes).is_empty();
            let found: Vec<&str> =
                secrets.found_in(&mapping.bytes).into_iter().map(|number| names[number]).collect();
            assert!(found.is_empty(), "{found:?} in {} of process {pid}", mapping.name);
        }
        Ok(held)
    };
    let held = search(deployment.daemon_pid(), &Needles::new(&[daemon_holds.to_vec()])).unwrap();
    assert!(held, "what the daemon holds is found");
    let workers = deployment.worker_pids();
    assert!(workers.len() >= 3, "a worker for each token");
    let holds = Needles::new(&[worker_holds.to_vec()]);
    let (mut closed, mut held) = (0, 0);
    for pid in &workers {
        match search(*pid, &holds) {
            Ok(found) => held += usize::from(found),
            // Only root can look into a process that is not dumpable.
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
                closed += 1;
            }
        }
    }
    assert!(held > 0 || closed == workers.len(), "what a worker holds is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_or_pin_is_stored_logged_or_exported_and_no_entry_holds_an_eid() {
    let mut deployment = Deployment::found();
    let eids: Vec<String> = (0..4).map(|number| eid(GRANTED, 1_234_567 + number)).collect();
    let mut devices = deployment.order("first", &eids[..2]);
    let masters = import_master(&deployment);
    devices.extend(deployment.order("second", &eids[2..]));
    let mut session_keys: Vec<Vec<u8>> = Vec::new();
    let provisioner = deployment.caller("provisioner").await;
    let mut client = SessionKeyServiceClient::new(provisioner.channel.clone());
    for device in &devices {
        for (purpose, behaviour) in [
            (PURPOSE, CryptogramBehaviour::Honest),
            (PURPOSE, CryptogramBehaviour::Wrong),
            ("curiosity", CryptogramBehaviour::Honest),
        ] {
            let key = format!("{}-{purpose}-{behaviour:?}", &device.eid[20..]);
            let request = device.request(&key, purpose, behaviour);
            if let Ok(answer) = client.fetch_session_keys(request.clone()).await {
                let opened = provisioner.unseal(&request, answer.get_ref());
                // Three keys in their encoding: every stretch as long as a key, whatever stands around them.
                session_keys.extend(opened.windows(16).map(<[u8]>::to_vec));
            }
        }
    }
    let is_distinct = |secret: &Vec<u8>| secret.iter().collect::<std::collections::BTreeSet<_>>().len() > 6;
    session_keys.retain(is_distinct);
    assert!(session_keys.len() > devices.len() * 3 * 2, "the keys are known");
    let pins = files_below(&deployment.path("data/pins"));
    assert!(pins.len() >= 6, "two PINs for each token");
    let kinds = [
        (
            "a device key",
            devices.iter().flat_map(|device| device.static_keys().map(<[u8]>::to_vec)).collect(),
        ),
        ("a session key", session_keys),
        ("a master or its component", masters),
        (
            "a transport key",
            ["first", "second"].iter().flat_map(|o| transport_keys(&deployment, o)).collect(),
        ),
        (
            "a PIN",
            pins.iter().map(|pin| fs::read_to_string(pin).unwrap().trim().as_bytes().to_vec()).collect(),
        ),
    ];
    let label = b"chancery/imported-master-aes-256/moved-in/2";
    look_into_memory(&deployment, &kinds, &provisioner.encryption_point(), label);
    let secrets: Vec<Vec<u8>> = kinds.into_iter().flat_map(|(_, secrets): Kind| secrets).collect();
    let metrics = deployment.metrics();
    deployment.export("exported");
    deployment.stop();

    // The tokens hold keys, encrypted; the PIN files are the PINs' place.
    let is_searched = |file: &PathBuf| !pins.contains(file);
    let mut found = read(files_below(&deployment.path("data")).into_iter().filter(is_searched).collect());
    assert!(found.iter().any(|file| file.place.starts_with(deployment.path("data/orders"))), "the orders");
    found.extend(read(files_below(&deployment.path("exported"))));
    found.extend(read(files_below(&deployment.path("handover"))));
    found.extend(read(vec![deployment.path("serve.log")]));
    found.push(Found { place: "metrics".into(), bytes: metrics.into_bytes() });
    assert_eq!(occurrences(&found, &secrets), Vec::<&Path>::new());

    let entries = deployment.path("exported/tile/entries");
    let entries = read(files_below(&entries));
    assert!(!entries.is_empty());
    let mut numbers: Vec<Vec<u8>> = eids.iter().map(|eid| hex::decode(eid).unwrap()).collect();
    // Without the issuer's part as well, for an EID that is cut.
    numbers.extend(eids.iter().map(|eid| eid.as_bytes()[9..].to_vec()));
    assert_eq!(occurrences(&entries, &numbers), Vec::<&Path>::new());

    // The search finds what is there: each kind of secret, in each form, in a file of its own.
    for secret in [&secrets[0], &secrets[secrets.len() / 2], secrets.last().unwrap(), &numbers[0]] {
        for form in forms(secret) {
            let planted = deployment.path("data/orders/planted");
            fs::write(&planted, [&[0; 99][..], &form, b"after"].concat()).unwrap();
            let found = read(files_below(&deployment.path("data/orders")));
            let places = occurrences(&found, std::slice::from_ref(secret));
            assert!(places.contains(&planted.as_path()), "not found where it was planted");
        }
    }
}
