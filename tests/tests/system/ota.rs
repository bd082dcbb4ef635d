//! Packets and scripts made for a provisioner: opened by cards of the tests' own, counted once whatever ends in between, and
//! nothing that the grant does not say.

use std::collections::BTreeSet;
use std::fs;

use audit::{EventType, Outcome};
use proto::v1::open_response_request::Answer;
use proto::v1::open_response_response::Opened;
use proto::v1::ota_service_client::OtaServiceClient;
use proto::v1::{
    KeysetName, OpenResponseRequest, PacketAnswer, PacketReceipt, ReceiptWhen, ScriptAnswers, ScriptFormat,
    SecurePacketRequest, SecurePacketResponse, WrapScriptRequest,
};
use tests::card::{ChallengeSource, SimulatedCard};
use tests::ota_card::{OtaCard, Refused};
use tonic::Status;
use tonic::transport::Channel;

use crate::caller::reason;
use crate::devices::{self, Device, KVN, eid};
use crate::fleet::{keyset, new_key};
use crate::support::{Deployment, GRANTED};

const PURPOSE: &str = "ota";
const TAR: [u8; 3] = [0xb0, 0x00, 0x10];
const SELECT: [u8; 7] = [0x00, 0xa4, 0x00, 0x04, 0x02, 0x3f, 0x00];
const AID_OF_ISD_R: [u8; 16] =
    [0xa0, 0, 0, 0x05, 0x59, 0x10, 0x10, 0xff, 0xff, 0xff, 0xff, 0x89, 0, 0, 0x01, 0];

/// Devices with an SCP80 keyset beside the first, and a grant over them.
fn fleet(deployment: &Deployment) -> (Vec<Device>, Vec<Device>) {
    let eids = [1, 2].map(|number| eid(GRANTED, number));
    let mut first = deployment.order("first", &eids);
    fs::write(deployment.path("air.csv"), format!("eid\n{}\n{}\n", eids[0], eids[1])).unwrap();
    let place =
        ["order", "place", "--order", "air", "--further-keysets", "--devices", "air.csv", "--kvn", "0x01"];
    deployment.chancery(&[&place[..], &["--algorithm", "AES-256", "--identity", "eum"]].concat());
    deployment.chancery(&["order", "fetch", "--order", "air", "--out", "air.jsonl", "--identity", "eum"]);
    let mut air = devices::unwrap(&deployment.path("eum/transport-key.pem"), &deployment.path("air.jsonl"));
    for devices in [&mut first, &mut air] {
        devices.sort_by(|a, b| a.eid.cmp(&b.eid));
    }
    let grant = ["grant", "create", "--name", "air", "--provisioner", "provisioner", "--ein", GRANTED];
    let terms = ["--purpose", PURPOSE, "--protocol", "scp80", "--protocol", "scp03", "--tar", "B00010"];
    let limits = ["--ins", "A4", "--ins", "B0", "--ins", "CA", "--packets-per-minute", "12"];
    let rest = ["--lawful-basis", "licence", "--expires", "9d", "--reason", "x"];
    deployment.two_persons(&[&grant[..], &terms, &limits, &rest].concat(), None);
    (first, air)
}

fn card(device: &Device) -> OtaCard {
    let [kic, kid, _] = device.static_keys();
    OtaCard::new(1, kic, kid)
}

fn packet(eid: &str) -> SecurePacketRequest {
    SecurePacketRequest {
        idempotency_key: new_key(),
        eid: eid.to_owned(),
        keyset: Some(KeysetName { security_domain: 1, protocol: 0x80, key_version_number: 1 }),
        tar: TAR.to_vec(),
        commands: vec![SELECT.to_vec(), vec![0x00, 0xb0, 0x00, 0x00, 0x0a]],
        format: ScriptFormat::Expanded.into(),
        receipt: Some(PacketReceipt { when: ReceiptWhen::Always.into(), ciphered: true, by_submit: false }),
        purpose: PURPOSE.to_owned(),
        ..SecurePacketRequest::default()
    }
}

async fn client(deployment: &Deployment) -> OtaServiceClient<Channel> {
    OtaServiceClient::new(deployment.caller("provisioner").await.channel)
}

async fn secure(
    client: &mut OtaServiceClient<Channel>,
    request: &SecurePacketRequest,
) -> Result<SecurePacketResponse, Status> {
    client.secure_packet(request.clone()).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_open_on_the_card_with_counters_that_only_grow_and_their_answers_open_here() {
    let deployment = Deployment::found();
    let (_, air) = fleet(&deployment);
    let mut client = client(&deployment).await;
    let mut chip = card(&air[0]);
    let request = packet(&air[0].eid);
    let made = secure(&mut client, &request).await.unwrap();
    let opened = chip.take(&made.packet).unwrap();
    assert_eq!((opened.tar, opened.counter, made.counter), (TAR, 1, 1));
    // TS 102 226 §5.2: the commands in a template.
    let expected = [&[0xaa, 16, 0x22, 7][..], &SELECT, &[0x22, 5, 0x00, 0xb0, 0x00, 0x00, 0x0a]].concat();
    assert_eq!(opened.data, expected);
    // The answer was lost: the same packet, which the card takes once.
    let again = secure(&mut client, &request).await.unwrap();
    assert_eq!((&again.packet, again.counter), (&made.packet, 1));
    assert_eq!(chip.take(&again.packet), Err(Refused::Counter));
    let next = secure(&mut client, &packet(&air[0].eid)).await.unwrap();
    assert_eq!((next.counter, chip.take(&next.packet).unwrap().counter), (2, 2));
    // Of another device it opens nothing.
    assert_eq!(card(&air[1]).take(&next.packet), Err(Refused::Integrity));

    let open = |response_packet: Vec<u8>| OpenResponseRequest {
        eid: air[0].eid.clone(),
        keyset: request.keyset,
        purpose: PURPOSE.to_owned(),
        answer: Some(Answer::Packet(PacketAnswer {
            response_packet,
            security_parameters: made.security_parameters.clone(),
        })),
    };
    let answer = chip.answer(&opened, 0, &[0x02, 0x90, 0x00, 0x77]);
    let said = client.open_response(open(answer.clone())).await.unwrap().into_inner();
    let Some(Opened::Packet(said)) = said.opened else { panic!("no packet") };
    assert_eq!((said.counter, said.status_name.as_str(), said.data), (1, "por-ok", vec![2, 0x90, 0, 0x77]));
    let mut forged = answer;
    *forged.last_mut().unwrap() ^= 1;
    let status = client.open_response(open(forged)).await.unwrap_err();
    assert_eq!(reason(&status), "RESPONSE_NOT_AUTHENTIC");

    // What the grant does not say, and what no grant can say.
    let wrong = |change: &dyn Fn(&mut SecurePacketRequest)| {
        let mut request = packet(&air[0].eid);
        change(&mut request);
        request
    };
    let cases = [
        (wrong(&|r| r.tar = vec![0, 0, 0]), "TAR_NOT_GRANTED"),
        (wrong(&|r| r.commands = vec![vec![0x00, 0xd6, 0, 0, 1, 1]]), "INSTRUCTION_NOT_GRANTED"),
        (wrong(&|r| r.commands = vec![vec![0x80, 0xd8, 0, 0x81, 1, 1]]), "KEY_MANAGEMENT_COMMAND"),
        (wrong(&|r| r.commands = vec![vec![0x80, 0xe4, 0, 0, 1, 1]]), "KEY_MANAGEMENT_COMMAND"),
        (wrong(&|r| r.commands = vec![vec![0x00]]), "INVALID_FIELD"),
        (wrong(&|r| r.commands = Vec::new()), "INVALID_FIELD"),
        (wrong(&|r| r.counter = Some(2)), "PACKET_COUNTER_REFUSED"),
        (wrong(&|r| r.counter = Some(1_003)), "PACKET_COUNTER_REFUSED"),
        (wrong(&|r| r.purpose = "another".to_owned()), "NOT_GRANTED"),
        (wrong(&|r| r.keyset = Some(keyset(KVN))), "INVALID_FIELD"),
    ];
    for (request, expected) in cases {
        assert_eq!(reason(&secure(&mut client, &request).await.unwrap_err()), expected, "{request:?}");
    }
    // A counter that the caller moved forward stands.
    let ahead = secure(&mut client, &wrong(&|r| r.counter = Some(500))).await.unwrap();
    assert_eq!(chip.take(&ahead.packet).unwrap().counter, 500);
    let reused = SecurePacketRequest {
        tar: TAR.to_vec(),
        idempotency_key: request.idempotency_key.clone(),
        ..packet(&air[0].eid)
    };
    let reused = SecurePacketRequest { commands: vec![SELECT.to_vec()], ..reused };
    assert_eq!(reason(&secure(&mut client, &reused).await.unwrap_err()), "IDEMPOTENCY_KEY_REUSED");

    // So many a minute, and none once the device is frozen. The minute may turn once while this runs.
    let mut outcomes = Vec::new();
    for _ in 0..25 {
        outcomes.push(secure(&mut client, &packet(&air[0].eid)).await.map_err(|status| reason(&status)));
    }
    assert!(outcomes.contains(&Err("PACKET_RATE_EXCEEDED".to_owned())), "{outcomes:?}");
    let freeze = ["device", "freeze", &air[1].eid, "--reason", "stolen", "--reference", "4711", "--yes"];
    deployment.chancery(&[&freeze[..], &["--identity", "officer"]].concat());
    let frozen = secure(&mut client, &packet(&air[1].eid)).await.unwrap_err();
    assert_eq!(reason(&frozen), "DEVICE_NOT_ACTIVE");

    let entries = deployment.entries();
    let of = |event, outcome: fn(&Outcome) -> bool| {
        entries.iter().filter(|entry| entry.header.event == event && outcome(&entry.header.outcome)).count()
    };
    let done = |outcome: &Outcome| matches!(outcome, Outcome::Done);
    let made = of(EventType::OtaPacketMade, done);
    assert_eq!(of(EventType::OtaCounterTaken, |outcome| matches!(outcome, Outcome::Intent)), made);
    assert_eq!(of(EventType::OtaPacketMade, |outcome| matches!(outcome, Outcome::Repeated)), 1);
    assert_eq!(of(EventType::OtaResponseOpened, done), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_gives_no_counter_twice() {
    let mut deployment = Deployment::found();
    let (_, air) = fleet(&deployment);
    let mut chip = card(&air[0]);
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        let connected = client(&deployment).await;
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let (mut client, request) = (connected.clone(), packet(&air[0].eid));
                tokio::spawn(async move { (secure(&mut client, &request).await, request) })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(2 + 6 * round)).await;
        deployment.kill9();
        deployment.serve();
        let mut client = client(&deployment).await;
        for call in calls {
            let (first, request) = call.await.unwrap();
            // Whether it was answered or not: under its key it gets what it has taken, or takes it now.
            let again = secure(&mut client, &request).await.unwrap();
            if let Ok(first) = first {
                assert_eq!((&first.packet, first.counter), (&again.packet, again.counter));
            }
            assert!(seen.insert(again.counter), "counter {} was given twice", again.counter);
        }
    }
    let last = secure(&mut client(&deployment).await, &packet(&air[0].eid)).await.unwrap();
    assert!(seen.iter().all(|counter| *counter < last.counter));
    assert_eq!(chip.take(&last.packet).unwrap().counter, last.counter);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_on_the_card_in_the_session_it_was_made_for() {
    let deployment = Deployment::found();
    let (first, _) = fleet(&deployment);
    let mut client = client(&deployment).await;
    let device = &first[0];
    let get_data = vec![0x80, 0xca, 0x00, 0xe0, 0x00];
    let mut request = WrapScriptRequest {
        idempotency_key: new_key(),
        eid: device.eid.clone(),
        keyset: Some(keyset(KVN)),
        commands: vec![get_data.clone(), get_data],
        i_parameter: 0x70,
        security_level: 0x33,
        sequence_counter: Vec::new(),
        aid: Vec::new(),
        purpose: PURPOSE.to_owned(),
    };
    let unknown = client.wrap_script(request.clone()).await.unwrap_err();
    assert_eq!(reason(&unknown), "INVALID_FIELD");
    request.sequence_counter = vec![0, 0, 5];
    let script = client.wrap_script(request.clone()).await.unwrap().into_inner();
    let again = client.wrap_script(request.clone()).await.unwrap().into_inner();
    assert_eq!(script.commands, again.commands);

    let mut chip: SimulatedCard = device.card().chip;
    chip.set_i_parameter(0x70);
    chip.set_challenge(ChallengeSource::Sequence { counter: 5, aid: AID_OF_ISD_R });
    let shown = chip.begin(&script.host_challenge, KVN).unwrap();
    assert_eq!(
        (&shown.card_challenge, &shown.card_cryptogram),
        (&script.card_challenge, &script.card_cryptogram)
    );
    chip.external_authenticate(&script.external_authenticate).expect("the card accepts the script's channel");
    let mut answers = Vec::new();
    for command in &script.commands {
        let processed = chip.process(command).unwrap();
        assert_eq!(processed.command.header[1], 0xca);
        answers.push([processed.response, processed.status.0.to_be_bytes().to_vec()].concat());
    }
    let open = OpenResponseRequest {
        eid: device.eid.clone(),
        keyset: request.keyset,
        purpose: PURPOSE.to_owned(),
        answer: Some(Answer::Script(ScriptAnswers {
            host_challenge: script.host_challenge.clone(),
            sequence_counter: script.sequence_counter.clone(),
            aid: Vec::new(),
            security_level: 0x33,
            commands: script.commands.clone(),
            answers,
        })),
    };
    let said = client.open_response(open).await.unwrap().into_inner();
    let Some(Opened::Script(said)) = said.opened else { panic!("no script") };
    assert_eq!(said.answers.len(), 2);

    // The next session, without a word about the counter; keys come from a rotation only; a used counter is used.
    let next =
        WrapScriptRequest { idempotency_key: new_key(), sequence_counter: Vec::new(), ..request.clone() };
    assert_eq!(client.wrap_script(next).await.unwrap().into_inner().sequence_counter, [0, 0, 6]);
    let put_key = vec![0x80, 0xd8, 0x00, 0x81, 0x01, 0x00];
    for (commands, counter, expected) in [
        (vec![put_key], vec![0, 0, 7], "KEY_MANAGEMENT_COMMAND"),
        (request.commands.clone(), vec![0, 0, 5], "SEQUENCE_COUNTER_REUSED"),
        (vec![vec![0x80, 0xf2, 0x40, 0x00, 0x00]], vec![0, 0, 7], "INSTRUCTION_NOT_GRANTED"),
    ] {
        let request = WrapScriptRequest {
            idempotency_key: new_key(),
            commands,
            sequence_counter: counter,
            ..request.clone()
        };
        assert_eq!(reason(&client.wrap_script(request).await.unwrap_err()), expected);
    }
}
