//! Keysets: looked at, suspended by one person, changed by two, tainted when a key behind them is known to others, and
//! compared with what their card says.

use audit::{Entry, EventType, Outcome};
use proto::v1::keyset_details::Source;
use proto::v1::keyset_service_client::KeysetServiceClient;
use proto::v1::operation::Kind;
use proto::v1::{
    ChangeKeysetState, CompromisedTransport, InventoryDifference, KeysetDetails, ListKeysetsRequest,
    MarkCompromised, ReconcileInventoryRequest, ShowKeysetRequest, SuspendKeysetRequest, TaintConsequence,
    mark_compromised,
};
use serde_json::Value;
use tonic::{Code, Status};

use crate::devices::{KVN, csv, eid};
use crate::fleet::{NEW_KVN, Provisioner, TwoPersons, keyset, new_key, terms};
use crate::refusals::Refused;
use crate::support::{Deployment, GRANTED, ISSUER, PURPOSE};

async fn listed(persons: &TwoPersons, eid: &str) -> Vec<KeysetDetails> {
    let request = ListKeysetsRequest { eid: eid.to_owned(), limit: 0, after: None };
    persons.keysets().list_keysets(request).await.unwrap().into_inner().keysets
}

async fn shown(persons: &TwoPersons, eid: &str, kvn: u8) -> KeysetDetails {
    let request = ShowKeysetRequest { eid: eid.to_owned(), keyset: Some(keyset(kvn)) };
    persons.keysets().show_keyset(request).await.unwrap().into_inner().keyset.unwrap()
}

async fn suspend(persons: &TwoPersons, eid: &str, kvn: u8) -> Result<u64, Status> {
    let request =
        SuspendKeysetRequest { idempotency_key: new_key(), eid: eid.to_owned(), keyset: Some(keyset(kvn)) };
    persons.keysets().suspend_keyset(request).await.map(|answer| answer.into_inner().entry_index)
}

fn change(eid: &str, kvn: u8, state: &str, consequence: TaintConsequence) -> Kind {
    Kind::ChangeKeysetState(ChangeKeysetState {
        eid: eid.to_owned(),
        keyset: Some(keyset(kvn)),
        state: state.to_owned(),
        consequence: consequence.into(),
    })
}

fn mark(order: &str, consequence: TaintConsequence) -> Kind {
    let transport = CompromisedTransport { party: "eum".to_owned(), order: order.to_owned() };
    Kind::MarkCompromised(MarkCompromised {
        key: Some(mark_compromised::Key::Transport(transport)),
        consequence: consequence.into(),
    })
}

/// As a card of one SCP03 keyset of 16-byte AES keys answers GET DATA 00E0.
fn answer(kvns: &[u8], bytes: u8) -> Vec<u8> {
    let keys: Vec<u8> =
        kvns.iter().flat_map(|kvn| (1..=3).flat_map(|id| [0xc0, 4, id, *kvn, 0x88, bytes])).collect();
    [&[0xe0, u8::try_from(keys.len()).unwrap()][..], &keys].concat()
}

fn inventory(eid: &str, key_information: Vec<u8>, purpose: &str) -> ReconcileInventoryRequest {
    ReconcileInventoryRequest {
        eid: eid.to_owned(),
        security_domain: 1,
        key_information,
        purpose: purpose.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyset_is_suspended_by_one_changed_by_two_and_tainted_by_what_it_came_under() {
    let mut deployment = Deployment::found();
    let devices = deployment.order("first", &[1, 2, 3].map(|number| eid(GRANTED, number)));
    let persons = TwoPersons::of(&deployment).await;
    let provisioner = Provisioner::of(&deployment).await;
    let mut refused = Vec::new();
    let mut refuse = |what: &str, code, reason, status: Status| {
        refused.push(Refused::new(what.to_owned(), (code, reason), &status));
    };

    // What is known of it.
    let device = &devices[0].eid;
    let mut card = devices[0].card();
    let status = suspend(&persons, device, KVN).await.unwrap_err();
    refuse("suspended before its proof", Code::FailedPrecondition, "KEYSET_NOT_ACTIVE", status);
    provisioner.open(&mut card, KVN).await.unwrap();
    let [of_device] = &listed(&persons, device).await[..] else { panic!("one keyset") };
    assert_eq!(*of_device, shown(&persons, device, KVN).await);
    assert_eq!((of_device.state.as_str(), of_device.algorithm.as_str()), ("active", "AES-128"));
    assert_eq!((of_device.effective_strength, of_device.delivered_under.as_str()), (128, "eum/first/0"));
    assert_eq!(of_device.check_values.len(), 3);
    assert!(matches!(&of_device.source, Some(Source::Derived(source)) if source.master_generation == 1));

    // Suspended by one, taken up again by two.
    suspend(&persons, device, KVN).await.unwrap();
    assert_eq!(provisioner.refused_keys(&mut card, KVN).await, "KEYSET_NOT_ACTIVE");
    let status = suspend(&persons, device, KVN).await.unwrap_err();
    refuse("suspended twice", Code::FailedPrecondition, "KEYSET_NOT_ACTIVE", status);
    let again = || change(device, KVN, "active", TaintConsequence::Unspecified);
    let digest = persons.request(again()).await.unwrap();
    let status = persons.execute(digest).await.unwrap_err();
    refuse("taken up by one", Code::FailedPrecondition, "APPROVALS_MISSING", status);
    persons.carry_out(again()).await.unwrap();
    provisioner.open(&mut card, KVN).await.unwrap();
    let status = persons.request(again()).await.unwrap_err();
    refuse("taken up twice", Code::FailedPrecondition, "POLICY_VIOLATION", status);
    let status =
        persons.request(change(device, KVN, "lost", TaintConsequence::Unspecified)).await.unwrap_err();
    refuse("no such state", Code::InvalidArgument, "INVALID_FIELD", status);
    let silent = change(device, KVN, "compromised", TaintConsequence::Unspecified);
    let status = persons.request(silent).await.unwrap_err();
    refuse("without consequence", Code::InvalidArgument, "INVALID_FIELD", status);

    // What the card says.
    let mut carrier = KeysetServiceClient::new(deployment.caller("provisioner").await.channel);
    let agreed = carrier
        .reconcile_inventory(inventory(device, answer(&[KVN], 16), PURPOSE))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((agreed.agreed, agreed.findings.len()), (3, 0));
    let differs = persons.keysets().reconcile_inventory(inventory(device, answer(&[0xff], 16), "")).await;
    let differs = differs.unwrap().into_inner();
    let found: Vec<_> = differs.findings.iter().map(|f| (f.key_version_number, f.difference())).collect();
    let of = |kvn: u8, difference| [(u32::from(kvn), difference); 3];
    assert_eq!(found, [of(KVN, InventoryDifference::Missing), of(0xff, InventoryDifference::Extra)].concat());
    for (what, request, code, reason) in [
        (
            "no grant",
            inventory(device, answer(&[KVN], 16), "curiosity"),
            Code::PermissionDenied,
            "NOT_GRANTED",
        ),
        ("no template", inventory(device, vec![0xe0, 9], PURPOSE), Code::InvalidArgument, "INVALID_FIELD"),
        ("unknown", inventory(&eid(GRANTED, 9), Vec::new(), PURPOSE), Code::NotFound, "UNKNOWN_DEVICE"),
    ] {
        refuse(what, code, reason, carrier.reconcile_inventory(request).await.unwrap_err());
    }
    let json = |arguments: &[&str]| -> Value {
        let arguments = [&["keyset"][..], arguments, &["--identity", "officer", "--output", "json"]].concat();
        serde_json::from_str(&deployment.chancery(&arguments)).unwrap()
    };
    assert_eq!(json(&["show", device, "--kvn", "0x30"])["state"], "active");
    assert_eq!(json(&["list", device])[0]["delivered_under"], "eum/first/0");
    let same = hex::encode(answer(&[KVN], 16));
    assert_eq!(json(&["reconcile", device, "--key-information", &same])["agreed"], 3);

    // A new keyset that came under the old DEK is worth nothing once that one is known to others.
    let rotated = [devices[1].eid.clone()];
    persons.start(terms("rotation", &rotated)).await;
    let script = provisioner.fetch("rotation", 1).await.unwrap().remove(0);
    let mut moved = devices[1].card();
    let report = provisioner.load(&mut moved, &script).await.unwrap();
    provisioner.report("rotation", vec![report]).await.unwrap();
    let before = shown(&persons, &rotated[0], NEW_KVN).await;
    assert_eq!((before.state.as_str(), before.effective_strength), ("active", 128));
    assert_eq!(before.delivered_under, "keyset/0x30");
    let known = change(&rotated[0], KVN, "compromised", TaintConsequence::Flagged);
    persons.carry_out(known).await.unwrap();
    let after = shown(&persons, &rotated[0], NEW_KVN).await;
    assert_eq!((after.state.as_str(), after.effective_strength), ("active", 0));
    assert!(after.taint.is_some());
    assert_eq!(shown(&persons, &rotated[0], KVN).await.state, "compromised");
    provisioner.open(&mut moved, NEW_KVN).await.unwrap();
    assert_eq!(provisioner.refused_keys(&mut moved, KVN).await, "KEYSET_NOT_ACTIVE");

    // The order's transport keys are known to others: everything that came under them stops at once.
    persons.carry_out(mark("first", TaintConsequence::Compromised)).await.unwrap();
    for (device, kvn) in [(0, KVN), (1, KVN), (2, KVN)] {
        assert_eq!(shown(&persons, &devices[device].eid, kvn).await.state, "compromised", "device {device}");
    }
    assert_eq!(provisioner.refused_keys(&mut card, KVN).await, "KEYSET_NOT_ACTIVE");
    let status = persons.request(mark("first", TaintConsequence::Flagged)).await.unwrap_err();
    refuse("marked already", Code::FailedPrecondition, "POLICY_VIOLATION", status);
    // A kill in between loses nothing, and the walk comes to what was delivered under those.
    deployment.kill9();
    deployment.serve();
    let persons = TwoPersons::of(&deployment).await;
    let started = std::time::Instant::now();
    while shown(&persons, &rotated[0], NEW_KVN).await.state != "compromised" {
        assert!(started.elapsed() < std::time::Duration::from_secs(30), "the walk does not end");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // Under a transport key that is known to others nothing is ordered any more.
    persons.carry_out(mark("", TaintConsequence::Flagged)).await.unwrap();
    std::fs::write(deployment.path("second.csv"), csv(&[eid(GRANTED, 4)])).unwrap();
    let place = ["order", "place", "--order", "second", "--issuer", ISSUER, "--devices", "second.csv"];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
    let mut placed = deployment.start_chancery(&[&place[..], &terms].concat());
    assert!(!placed.wait().unwrap().success(), "an order was placed under a compromised key");

    let entries = deployment.entries();
    for refused in &refused {
        refused.entry(&entries);
    }
    let done = |event| {
        let is = |entry: &&Entry| entry.header.event == event && entry.header.outcome == Outcome::Done;
        entries.iter().filter(is).count()
    };
    assert_eq!(done(EventType::KeysetSuspended), 1);
    assert_eq!(done(EventType::KeysetStateChanged), 2);
    assert_eq!(done(EventType::KeyCompromised), 2);
    assert!(done(EventType::KeysetReconciled) >= 3);
    assert!(entries.iter().any(|entry| {
        entry.header.event == EventType::OrderChunkWritten
            && matches!(entry.header.outcome, Outcome::Refused(reason) if reason.as_str() == "POLICY_VIOLATION")
    }));
}
