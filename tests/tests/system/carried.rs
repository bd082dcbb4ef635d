//! Rotations whose scripts the authority carries: over a channel that it prepared for each card, with the card's next sequence
//! counter, and with nothing left for the provisioner but to send three commands. And old keysets that leave their cards.

use std::fs;
use std::time::Duration;

use proto::v1::{RotationReport, RotationScript, RotationState, ScriptChannel};
use serde_json::Value;
use tests::card::ChallengeSource;

use crate::devices::{Device, KVN, eid};
use crate::fleet::{Card, NEW_KVN, Provisioner, TwoPersons, new_key, terms};
use crate::support::{Deployment, GRANTED};

const ISD_R: [u8; 16] = [0xa0, 0, 0, 0x05, 0x59, 0x10, 0x10, 0xff, 0xff, 0xff, 0xff, 0x89, 0, 0, 0x01, 0];
const FIRST: u32 = 7;

fn card(device: &Device, counter: u32) -> Card {
    let mut card = device.card();
    card.chip.set_i_parameter(0x70);
    card.chip.set_challenge(ChallengeSource::Sequence { counter, aid: ISD_R });
    card
}

/// What a provisioner does with a carried script; it has no key of any kind.
fn send(card: &mut Card, script: &RotationScript) -> RotationReport {
    assert!(script.put_key.is_empty());
    let [begin, authenticate, put_key] = &script.commands[..] else { panic!("three commands") };
    assert_eq!(begin[..5], [0x80, 0x50, KVN, 0x00, 0x08]);
    let mut report = RotationReport { eid: script.eid.clone(), ..RotationReport::default() };
    let shown = card.chip.begin(&begin[5..13], KVN).unwrap();
    if (&shown.card_challenge, &shown.card_cryptogram) != (&script.card_challenge, &script.card_cryptogram) {
        report.status_word = 0x6300;
        return report;
    }
    card.chip.external_authenticate(authenticate).expect("the card accepts the prepared channel");
    report.put_key_response = card.chip.process(put_key).unwrap().response;
    report.proof = Some(card.proof().unwrap());
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_are_loaded_by_commands_that_no_provisioner_could_have_made() {
    let mut deployment = Deployment::found();
    let mut devices = deployment.order("first", &[1, 2, 3].map(|number| eid(GRANTED, number)));
    devices.sort_by(|a, b| a.eid.cmp(&b.eid));
    let eids: Vec<String> = devices.iter().map(|device| device.eid.clone()).collect();
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    let mut carried = terms("carried", &eids);
    carried.channel = Some(channel(0x03, FIRST));
    persons.start(carried).await;

    // The same call again, also by another daemon: the same commands, no further counter.
    let key = new_key();
    let first = provisioner.fetch_under(&key, "carried", 2, 3_600).await.unwrap();
    assert_eq!(provisioner.fetch_under(&key, "carried", 2, 3_600).await.unwrap().scripts, first.scripts);
    deployment.kill9();
    deployment.serve();
    let provisioner = Provisioner::of(&deployment).await;
    assert_eq!(provisioner.fetch_under(&key, "carried", 2, 3_600).await.unwrap().scripts, first.scripts);
    let rest = provisioner.fetch("carried", 5).await.unwrap();
    let scripts: Vec<_> = first.scripts.iter().chain(&rest).collect();
    assert_eq!(scripts.len(), 3);

    let mut reports = Vec::new();
    for script in scripts {
        assert_eq!(script.sequence_counter, [0, 0, 7]);
        let device = devices.iter().find(|device| device.eid == script.eid).unwrap();
        // One card is at another counter: it is not the card that the script was made for.
        let counter = if script.eid == eids[2] { FIRST + 1 } else { FIRST };
        let mut card = card(device, counter);
        reports.push(send(&mut card, script));
        if counter == FIRST {
            assert_eq!(card.chip.kvns(), [KVN, NEW_KVN]);
        }
    }
    let answer = provisioner.report("carried", reports).await.unwrap();
    let mut states: Vec<_> = answer.results.iter().map(|result| result.state().as_str_name()).collect();
    states.sort_unstable();
    assert_eq!(
        states,
        ["ROTATION_ITEM_STATE_CONFIRMED", "ROTATION_ITEM_STATE_CONFIRMED", "ROTATION_ITEM_STATE_FAILED"]
    );
    let persons = TwoPersons::of(&deployment).await;
    assert_eq!(persons.rotation("carried").await.state(), RotationState::Completed);

    // A later rotation of the card that failed goes on with the next counter.
    let mut again = terms("again", &eids[2..]);
    (again.channel, again.to_key_version_number) = (Some(channel(0x01, 0)), 0x32);
    persons.start(again).await;
    let script = provisioner.fetch("again", 1).await.unwrap().remove(0);
    assert_eq!(script.sequence_counter, [0, 0, 8]);
}

fn channel(security_level: u32, first_sequence_counter: u32) -> ScriptChannel {
    ScriptChannel { i_parameter: 0x70, security_level, aid: Vec::new(), first_sequence_counter }
}

/// The lines of a file.
fn lines(deployment: &Deployment, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(deployment.path(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_keyset_leaves_its_card_once_it_has_ended_and_the_terms_say_so() {
    let deployment = Deployment::found();
    let mut devices = deployment.order("first", &[1, 2].map(|number| eid(GRANTED, number)));
    devices.sort_by(|a, b| a.eid.cmp(&b.eid));
    let eids: Vec<String> = devices.iter().map(|device| device.eid.clone()).collect();
    let (persons, provisioner) = (TwoPersons::of(&deployment).await, Provisioner::of(&deployment).await);
    let mut moved = terms("moved", &eids);
    (moved.channel, moved.deletes_old_keys, moved.overlap_seconds) = (Some(channel(0x03, FIRST)), true, 1);
    persons.start(moved).await;
    let scripts = provisioner.fetch("moved", 2).await.unwrap();
    let mut cards: Vec<Card> = devices.iter().map(|device| card(device, FIRST)).collect();
    for card in &mut cards {
        let script = scripts.iter().find(|script| script.eid == card.eid).unwrap();
        let report = send(card, script);
        provisioner.report("moved", vec![report]).await.unwrap();
    }
    let fetch =
        ["rotation", "fetch-deletions", "moved", "--out", "deletions.jsonl", "--identity", "provisioner"];
    let early: Value =
        serde_json::from_str(&deployment.chancery(&[&fetch[..], &["--output", "json"]].concat())).unwrap();
    assert!(early["scripts"].as_u64().unwrap() <= 2);
    let _ = fs::remove_file(deployment.path("deletions.jsonl"));
    for eid in &eids {
        while persons.keyset_of(eid, KVN).await.unwrap().state != "deactivated" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    // The same call again: the same commands.
    let key = ["--idempotency-key", "deletions-of-moved"];
    deployment.chancery(&[&fetch[..], &key].concat());
    let first = lines(&deployment, "deletions.jsonl");
    fs::remove_file(deployment.path("deletions.jsonl")).unwrap();
    deployment.chancery(&[&fetch[..], &key].concat());
    assert_eq!(lines(&deployment, "deletions.jsonl"), first);
    assert_eq!(first.len(), 2);
    let mut answers = String::new();
    for (card, status) in cards.iter_mut().zip(["9000", "6a88"]) {
        let line = first.iter().find(|line| line["eid"] == card.eid).unwrap();
        assert_eq!((&line["under_kvn"], &line["old_kvn"]), (&0x31.into(), &0x30.into()));
        let command = |at: usize| hex::decode(line["commands"][at].as_str().unwrap()).unwrap();
        // Under the new keyset the card counts anew.
        let counter = u32::from_str_radix(line["sequence_counter"].as_str().unwrap(), 16).unwrap();
        card.chip.set_challenge(ChallengeSource::Sequence { counter, aid: ISD_R });
        let begin = command(0);
        let shown = card.chip.begin(&begin[5..13], NEW_KVN).unwrap();
        assert_eq!(hex::encode(&shown.card_cryptogram), line["card_cryptogram"].as_str().unwrap());
        card.chip.external_authenticate(&command(1)).expect("the card accepts the prepared channel");
        let processed = card.chip.process(&command(2)).unwrap();
        assert_eq!((processed.command.header[1], processed.command.data), (0xe4, vec![0xd2, 1, 0x30]));
        answers.push_str(&format!("{{\"eid\":\"{}\",\"status_word\":\"{status}\"}}\n", card.eid));
    }
    fs::write(deployment.path("answers.jsonl"), answers).unwrap();
    let report =
        ["rotation", "report-deletions", "moved", "--file", "answers.jsonl", "--identity", "provisioner"];
    assert_eq!(deployment.try_chancery(&report).status.code(), Some(3));
    assert_eq!(persons.keyset_of(&eids[0], KVN).await.unwrap().state, "destroyed");
    assert_eq!(persons.keyset_of(&eids[1], KVN).await.unwrap().state, "deactivated");

    // Terms that say nothing delete nothing.
    let mut other = terms("other", &eids);
    (other.from, other.to_key_version_number) = (Some(crate::fleet::keyset(NEW_KVN)), 0x32);
    persons.start(other).await;
    let refused =
        ["rotation", "fetch-deletions", "other", "--out", "none.jsonl", "--identity", "provisioner"];
    assert!(deployment.refused("chancery", &refused).contains("POLICY_VIOLATION"));
}
