//! Sessions of SCP11 with cards of our own: the platform's key is in the token, the card proves itself by its receipt.

use std::fs;

use audit::{EventType, Outcome};
use keys::scp11::{OpenedKeys, Sealing};
use proto::v1::scp11_service_client::Scp11ServiceClient;
use proto::v1::{
    CardKey, CardKeyName, FetchScp11KeysRequest, FetchScp11KeysResponse, OpenScp11SessionRequest,
    OpenScp11SessionResponse, RegisterCardKeysRequest, Scp11Session, Scp11Variant,
};
use serde_json::Value;
use tests::Apdu;
use tests::euicc::curve::{Curve, PrivateKey};
use tests::scp11_card::{self, Scp11Card};
use tonic::Status;

use crate::caller::{Caller, reason};
use crate::devices::eid;
use crate::fleet::new_key;
use crate::support::{Deployment, GRANTED};

const PURPOSE: &str = "key-agreement";
const KVN: u32 = 3;

fn session(eid: &str, variant: Scp11Variant, key_bits: u32) -> Scp11Session {
    Scp11Session {
        eid: eid.to_owned(),
        card_key: Some(CardKeyName { security_domain: 1, key_version_number: KVN }),
        oce_key: "otaco".to_owned(),
        variant: variant.into(),
        mac_only: false,
        key_bits,
        purpose: PURPOSE.to_owned(),
    }
}

async fn open(caller: &Caller, session: &Scp11Session) -> Result<OpenScp11SessionResponse, Status> {
    let request = OpenScp11SessionRequest { session: Some(session.clone()) };
    Ok(Scp11ServiceClient::new(caller.channel.clone()).open_scp11_session(request).await?.into_inner())
}

async fn fetch(caller: &Caller, request: &FetchScp11KeysRequest) -> Result<FetchScp11KeysResponse, Status> {
    Ok(Scp11ServiceClient::new(caller.channel.clone()).fetch_scp11_keys(request.clone()).await?.into_inner())
}

fn request(
    session: &Scp11Session,
    opened: &OpenScp11SessionResponse,
    answer: &[u8],
) -> FetchScp11KeysRequest {
    FetchScp11KeysRequest {
        idempotency_key: new_key(),
        session: Some(session.clone()),
        session_id: opened.session_id.clone(),
        card_answer: answer.to_vec(),
        without_device_proof: false,
    }
}

fn unseal(caller: &Caller, request: &FetchScp11KeysRequest, answer: &FetchScp11KeysResponse) -> OpenedKeys {
    let session = request.session.as_ref().unwrap();
    let sealing = Sealing {
        principal: &caller.principal(),
        eid: &session.eid.parse().unwrap(),
        kvn: KVN as u8,
        session_id: request.session_id[..].try_into().unwrap(),
        request_id: request.idempotency_key.as_bytes(),
    };
    let opened = caller.open(&sealing.info().unwrap(), &answer.encapsulated_key, &answer.ciphertext);
    OpenedKeys::decode(&opened).unwrap()
}

/// The platform's side with the keys that it was given.
fn platform(keys: &OpenedKeys) -> scp11_card::Scp11Session {
    let [s_enc, s_mac, s_rmac, _] = keys.keys.each_ref().map(|key| key.expose());
    scp11_card::Scp11Session::with(s_enc, s_mac, s_rmac, keys.receipt).unwrap()
}

/// A command over the open channel, both ways seen.
fn talk(card: &mut scp11_card::Scp11Session, platform: &mut scp11_card::Scp11Session) {
    for data in [&b"first"[..], b"second command"] {
        let command = Apdu { header: [0x80, 0xe2, 0x80, 0], data: data.to_vec(), le: None };
        assert_eq!(card.unwrap(platform.wrap(command)).as_deref(), Some(data));
    }
}

/// The platform's keys at a ceremony, and its public point.
fn provide(deployment: &Deployment) -> Vec<u8> {
    for (role, file) in [("oce-agreement", "oce.json"), ("oce-seed", "seed.json")] {
        let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", role];
        deployment.chanceryd(&[&create[..], &["--name", "otaco", "--out", file]].concat());
    }
    let register = ["scp11", "key-register", "--key-file", "oce.json", "--seed-file", "seed.json"];
    let rest = ["--party", "provisioner", "--backup", "vendor clone", "--reason", "ceremony"];
    deployment.two_persons(&[&register[..], &rest].concat(), None);
    let file: Value = serde_json::from_slice(&fs::read(deployment.path("oce.json")).unwrap()).unwrap();
    let spki = hex::decode(file["public_key"].as_str().unwrap()).unwrap();
    spki[spki.len() - 65..].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_proves_its_key_shares_session_keys_with_the_platform() {
    let mut deployment = Deployment::found_with(&[]);
    let point = provide(&deployment);
    let eids: Vec<String> = (0..3).map(|number| eid(GRANTED, number + 40)).collect();
    deployment.order("scp11", &eids);
    let cards: Vec<Scp11Card> = eids.iter().map(|_| Scp11Card::new(&point)).collect();
    let lines = eids.iter().zip(&cards).take(2);
    let lines: String =
        lines.map(|(eid, card)| format!("{eid},{}\n", hex::encode(card.public_key()))).collect();
    fs::write(deployment.path("cards.csv"), format!("eid,public_key\n{lines}")).unwrap();
    let register = ["scp11", "card-register", "--keys", "cards.csv", "--kvn", "0x03", "--identity", "eum"];
    deployment.chancery(&register);
    let caller = deployment.caller("provisioner").await;

    // Without a grant that names it there is no session.
    deployment.grant("plain", PURPOSE, GRANTED, "9d");
    let first = session(&eids[0], Scp11Variant::A, 128);
    assert_eq!(reason(&open(&caller, &first).await.unwrap_err()), "GRANT_TOO_NARROW");
    let grant = |name: &str, more: &[&str]| {
        let grant = ["grant", "create", "--name", name, "--provisioner", "provisioner", "--ein", GRANTED];
        let rest = ["--key-agreement", "--lawful-basis", "licence", "--expires", "9d", "--reason", "x"];
        deployment.two_persons(&[&grant[..], &rest, more].concat(), None);
    };
    grant("agreement", &["--purpose", PURPOSE]);
    grant("unproved", &["--purpose", "unproved", "--without-device-proof"]);

    // Both protocols, every key length.
    let mut seen = Vec::new();
    for variant in [Scp11Variant::A, Scp11Variant::C] {
        for bits in [128, 192, 256] {
            let wanted = session(&eids[0], variant, bits);
            let opened = open(&caller, &wanted).await.unwrap();
            let (answer, mut card) = cards[0].mutual_authenticate(&opened.command_data).unwrap();
            let asked = request(&wanted, &opened, &answer);
            let answered = fetch(&caller, &asked).await.unwrap();
            let keys = unseal(&caller, &asked, &answered);
            assert_eq!(keys.keys[3].expose().len() * 8, bits as usize);
            talk(&mut card, &mut platform(&keys));
            seen.extend(keys.keys.map(|key| key.expose().to_vec()));

            // The same call again is answered again; another call finds the session used.
            let again = fetch(&caller, &asked).await.unwrap();
            assert_eq!(unseal(&caller, &asked, &again).receipt, keys.receipt);
            let other = request(&wanted, &opened, &answer);
            assert_eq!(reason(&fetch(&caller, &other).await.unwrap_err()), "CHALLENGE_REUSED");
        }
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "no two session keys are the same");

    refused(&caller, &cards, &eids).await;
    prepared(&caller, &cards[0], &eids[0]).await;
    card_keys(&deployment, &eids).await;
    after_a_restart(&mut deployment, &cards[0], &eids[0]).await;
    recorded(&deployment);
}

/// Other cards, changed proofs, sessions of something else.
async fn refused(caller: &Caller, cards: &[Scp11Card], eids: &[String]) {
    let wanted = session(&eids[0], Scp11Variant::A, 128);
    let opened = open(caller, &wanted).await.unwrap();
    let (answer, _) = cards[0].mutual_authenticate(&opened.command_data).unwrap();
    let (of_another, _) = cards[1].mutual_authenticate(&opened.command_data).unwrap();
    let mut forged = answer.clone();
    *forged.last_mut().unwrap() ^= 1;
    // Who knows no key of the card but makes a one-time key of its own.
    let stranger = PrivateKey::random(Curve::P256).public_key().point();
    let stranger = [&[0x5f, 0x49, 0x41][..], &stranger, &[0x86, 0x10], &[0; 16]].concat();
    for wrong in [&of_another, &forged, &stranger] {
        let error = fetch(caller, &request(&wanted, &opened, wrong)).await.unwrap_err();
        assert_eq!(reason(&error), "CARD_CRYPTOGRAM_MISMATCH");
    }
    // The session is of one device, variant, level, length and purpose: of another it has another one-time key.
    let changed = [
        session(&eids[1], Scp11Variant::A, 128),
        session(&eids[0], Scp11Variant::C, 128),
        session(&eids[0], Scp11Variant::A, 256),
        Scp11Session { mac_only: true, ..wanted.clone() },
        Scp11Session { purpose: "unproved".to_owned(), ..wanted.clone() },
    ];
    for other in &changed {
        let error = fetch(caller, &request(other, &opened, &answer)).await.unwrap_err();
        assert_eq!(reason(&error), "CARD_CRYPTOGRAM_MISMATCH", "{other:?}");
    }
    for (other, why) in [
        (session(&eids[2], Scp11Variant::A, 128), "UNKNOWN_KEYSET"),
        (Scp11Session { oce_key: "another".to_owned(), ..wanted.clone() }, "UNKNOWN_OCE_KEY"),
        (Scp11Session { purpose: "none".to_owned(), ..wanted.clone() }, "NOT_GRANTED"),
        (Scp11Session { key_bits: 129, ..wanted.clone() }, "INVALID_FIELD"),
        (Scp11Session { variant: 2, ..wanted.clone() }, "INVALID_FIELD"),
    ] {
        assert_eq!(reason(&open(caller, &other).await.unwrap_err()), why);
    }
    // SCP11c takes no other key of the card than the registered one.
    let wanted = session(&eids[0], Scp11Variant::C, 128);
    let opened = open(caller, &wanted).await.unwrap();
    let (answer, _) = cards[1].mutual_authenticate(&opened.command_data).unwrap();
    let error = fetch(caller, &request(&wanted, &opened, &answer)).await.unwrap_err();
    assert_eq!(reason(&error), "CARD_CRYPTOGRAM_MISMATCH");
}

/// SCP11c for a card that is not there: only where a grant says so, and it opens at the card.
async fn prepared(caller: &Caller, card: &Scp11Card, eid: &str) {
    let wanted = session(eid, Scp11Variant::C, 128);
    let opened = open(caller, &wanted).await.unwrap();
    let unproved = |session: &Scp11Session, opened: &OpenScp11SessionResponse| FetchScp11KeysRequest {
        without_device_proof: true,
        ..request(session, opened, &[])
    };
    let error = fetch(caller, &unproved(&wanted, &opened)).await.unwrap_err();
    assert_eq!(reason(&error), "GRANT_TOO_NARROW");
    let wanted = Scp11Session { purpose: "unproved".to_owned(), ..wanted };
    let opened = open(caller, &wanted).await.unwrap();
    let asked = unproved(&wanted, &opened);
    let keys = unseal(caller, &asked, &fetch(caller, &asked).await.unwrap());
    let mut platform = platform(&keys);
    let script = Apdu { header: [0x80, 0xe2, 0x80, 0], data: b"script".to_vec(), le: None };
    let script = platform.wrap(script);
    // Later, at the card.
    let (answer, mut at_card) = card.mutual_authenticate(&opened.command_data).unwrap();
    assert_eq!(answer[answer.len() - 16..], keys.receipt);
    assert_eq!(at_card.unwrap(script).as_deref(), Some(&b"script"[..]));
    let scp11a = Scp11Session { variant: Scp11Variant::A.into(), ..wanted };
    let error = fetch(caller, &unproved(&scp11a, &opened)).await.unwrap_err();
    assert_eq!(reason(&error), "INVALID_FIELD");
}

/// Card keys are the manufacturer's to register: of its own devices, each once.
async fn card_keys(deployment: &Deployment, eids: &[String]) {
    let point = PrivateKey::random(Curve::P256).public_key().point();
    let key = |eid: &str, kvn: u32, public_key: &[u8]| CardKey {
        eid: eid.to_owned(),
        name: Some(CardKeyName { security_domain: 1, key_version_number: kvn }),
        public_key: public_key.to_vec(),
    };
    let eum = deployment.caller("eum").await;
    let register = async |keys: Vec<CardKey>, idempotency_key: String| {
        let request = RegisterCardKeysRequest { idempotency_key, keys };
        Scp11ServiceClient::new(eum.channel.clone()).register_card_keys(request).await
    };
    let mut off_curve = point;
    off_curve[64] ^= 1;
    for (keys, why) in [
        (vec![key(&eids[0], KVN, &point)], "CONFLICT"),
        // All or none: the good one beside it is not registered either.
        (vec![key(&eids[2], 5, &point), key(&eids[0], KVN, &point)], "CONFLICT"),
        (vec![key(&eid(GRANTED, 999), 5, &point)], "UNKNOWN_DEVICE"),
        (vec![key(&eids[2], 0, &point)], "INVALID_FIELD"),
        (vec![key(&eids[2], 128, &point)], "INVALID_FIELD"),
        (vec![key(&eids[2], 5, &off_curve)], "INVALID_FIELD"),
        (vec![key(&eids[2], 5, &point), key(&eids[2], 5, &point)], "INVALID_FIELD"),
        (Vec::new(), "INVALID_FIELD"),
    ] {
        assert_eq!(reason(&register(keys, new_key()).await.unwrap_err()), why);
    }
    let (good, again) = (vec![key(&eids[2], 5, &point)], new_key());
    let first = register(good.clone(), again.clone()).await.unwrap().into_inner();
    // Sent again under its idempotency key it is the same answer, and no second registration.
    assert_eq!(register(good, again).await.unwrap().into_inner(), first);
}

/// The one-time key of a session that was begun before a restart is made again.
async fn after_a_restart(deployment: &mut Deployment, card: &Scp11Card, eid: &str) {
    let wanted = session(eid, Scp11Variant::A, 128);
    let opened = open(&deployment.caller("provisioner").await, &wanted).await.unwrap();
    let (answer, mut at_card) = card.mutual_authenticate(&opened.command_data).unwrap();
    deployment.restart();
    let caller = deployment.caller("provisioner").await;
    let asked = request(&wanted, &opened, &answer);
    let keys = unseal(&caller, &asked, &fetch(&caller, &asked).await.unwrap());
    talk(&mut at_card, &mut platform(&keys));

    // Through the tool, as a person does it; a frozen device gets nothing.
    let common = ["--eid", eid, "--kvn", "3", "--oce-key", "otaco", "--variant", "a", "--purpose", PURPOSE];
    let identity = ["--identity", "provisioner", "--output", "json"];
    let opened = deployment.chancery(&[&["scp11", "open"][..], &common, &identity].concat());
    let opened: Value = serde_json::from_str(&opened).unwrap();
    let data = hex::decode(opened["command_data"].as_str().unwrap()).unwrap();
    let (answer, _) = card.mutual_authenticate(&data).unwrap();
    let answer = hex::encode(&answer);
    let rest = ["--session-id", opened["session_id"].as_str().unwrap(), "--card-answer", &answer];
    let out = ["--out", "scp11-keys.json"];
    deployment.chancery(&[&["scp11", "fetch"][..], &common, &rest, &out, &identity].concat());
    let keys: Value = serde_json::from_slice(&fs::read(deployment.path("scp11-keys.json")).unwrap()).unwrap();
    assert_eq!(keys["mac_chaining_value"].as_str().unwrap(), &answer[answer.len() - 32..]);
    let freeze = ["device", "freeze", eid, "--reason", "stolen", "--reference", "case 7", "--yes"];
    deployment.chancery(&[&freeze[..], &["--identity", "officer"]].concat());
    let refused = deployment.refused("chancery", &[&["scp11", "open"][..], &common, &identity[..2]].concat());
    assert!(refused.contains("DEVICE_NOT_ACTIVE"), "{refused}");
}

fn recorded(deployment: &Deployment) {
    let entries = deployment.entries();
    let released: Vec<_> = entries
        .iter()
        .filter(|entry| entry.header.event == EventType::SessionKeysReleased)
        .filter(|entry| entry.name("protocol") == Some("scp11"))
        .collect();
    let of = |outcome: Outcome| released.iter().filter(|entry| entry.header.outcome == outcome).count();
    // Six proved, one prepared, one after the restart, one by the tool; each of the six repeated.
    assert_eq!((of(Outcome::Done), of(Outcome::Repeated)), (9, 6));
    let unproved = released.iter().filter(|entry| entry.number("without_device_proof") == Some(1)).count();
    assert_eq!(unproved, 1);
    let count = |event: EventType| {
        let is_done = |entry: &&audit::Entry| entry.header.outcome == Outcome::Done;
        entries.iter().filter(|entry| entry.header.event == event).filter(is_done).count()
    };
    assert_eq!((count(EventType::CardKeyRegistered), count(EventType::OceKeyRegistered)), (3, 1));
}
