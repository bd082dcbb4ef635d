//! The fast mode: a master that signs, and is the derivation itself. Everything that is derived from it serves as ever.

use serde_json::Value;
use tests::card::SimulatedCard;

use crate::devices::{KVN, eid};
use crate::fleet::{NEW_KVN, Provisioner, TwoPersons, terms};
use crate::secrets::look_into_memory;
use crate::support::{Deployment, GRANTED};

/// Makes a master of a role at a ceremony and takes it into use.
pub fn master(deployment: &Deployment, role: &str, generation: &str, schemes: &[&str]) -> Result<(), String> {
    let file = format!("{role}-{generation}.json");
    let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", role, "--name", "quick"];
    deployment.chanceryd(&[&create[..], &["--epoch", generation, "--out", &file]].concat());
    let register = ["master", "register", "--key-file", &file, "--generation", generation];
    let mut rest = vec!["--backup", "vendor clone", "--reason", "policy: fast mode"];
    for scheme in schemes {
        rest.extend(["--scheme", scheme]);
    }
    let request = [&register[..], &rest].concat();
    if schemes != ["chancery-cmac-v1"] {
        let officer = ["--identity", "officer"];
        return Err(deployment.refused("chancery", &[&request[..], &officer].concat()));
    }
    deployment.two_persons(&request, None);
    Ok(())
}

fn shown(deployment: &Deployment, eid: &str, kvn: &str) -> Value {
    let show = ["keyset", "show", eid, "--kvn", kvn, "--identity", "officer", "--output", "json"];
    serde_json::from_str(&deployment.chancery(&show)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keysets_of_a_fast_master_are_ordered_served_rotated_and_told_apart() {
    let mut deployment = Deployment::found();
    let before = deployment.order("before", &[eid(GRANTED, 1)]).remove(0);
    let wrong = master(&deployment, "fast-master", "2", &["kdf3"]).unwrap_err();
    assert!(wrong.contains("INVALID_FIELD"), "{wrong}");
    master(&deployment, "fast-master", "3", &["chancery-cmac-v1"]).unwrap();
    let listed = deployment.chancery(&["master", "list", "--identity", "officer"]);
    assert!(listed.contains("fast-master"), "{listed}");

    let device = deployment.order("after", &[eid(GRANTED, 2)]).remove(0);
    assert_eq!(shown(&deployment, &device.eid, "0x30")["source"], "derived: master 3, chancery-cmac-v1");
    let (mut old, mut new) = (before.card(), device.card());
    for round in 0..2 {
        let provisioner = Provisioner::of(&deployment).await;
        for card in [&mut old, &mut new] {
            provisioner.open(card, KVN).await.unwrap();
        }
        if round == 0 {
            deployment.restart();
        }
    }
    // A card with other keys is refused as ever.
    let mut forged = device.card();
    forged.chip = SimulatedCard::new(hex::decode(&device.eid).unwrap().try_into().unwrap());
    forged.chip.install_keyset(KVN, &[1; 16], &[2; 16], &[3; 16]);
    let provisioner = Provisioner::of(&deployment).await;
    assert_eq!(provisioner.refused_keys(&mut forged, KVN).await, "CARD_CRYPTOGRAM_MISMATCH");

    // From an old master's keyset to one of the fast master's.
    let persons = TwoPersons::of(&deployment).await;
    persons.start(terms("rotation", std::slice::from_ref(&before.eid))).await;
    let script = provisioner.fetch("rotation", 1).await.unwrap().remove(0);
    let report = provisioner.load(&mut old, &script).await.unwrap();
    provisioner.report("rotation", vec![report]).await.unwrap();
    provisioner.open(&mut old, NEW_KVN).await.unwrap();

    // No job leaves a device key behind, although each was in the worker's memory.
    let keys = device.static_keys().map(<[u8]>::to_vec).to_vec();
    let point = deployment.caller("provisioner").await.encryption_point();
    look_into_memory(&deployment, &[("a device key", keys)], &point, b"chancery/fast-master/quick/3");
}
