//! Orders sent again and cut off: every device ends with exactly one certificate and one registration.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use audit::{EventType, Outcome};
use domain::ReasonCode;
use proto::v1::order_service_client::OrderServiceClient;
use proto::v1::place_order_request::Part;
use proto::v1::standing_service_client::StandingServiceClient;
use proto::v1::{
    OrderHeader, OrderLine, PlaceOrderRequest, SuspendPartyRequest, order_line, order_line_result,
    place_order_response,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::caller::reason;
use crate::devices::{KVN, csv, eid, new_public_key};
use crate::fleet::keyset;
use crate::support::{Deployment, GRANTED, ISSUER};

/// Enough for a chunk to take a while in the tokens.
const DEVICES: usize = 400;

fn place(deployment: &Deployment, devices: &str, out: &str) -> Child {
    deployment.start_chancery(&[
        "order",
        "place",
        "--order",
        "cut",
        "--issuer",
        ISSUER,
        "--devices",
        devices,
        "--kvn",
        "0x30",
        "--algorithm",
        "AES-128",
        "--certificates-out",
        out,
        "--identity",
        "eum",
    ])
}

fn certificates(deployment: &Deployment, folder: &str) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(deployment.path(folder))
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect()
}

#[test]
fn an_order_cut_off_by_a_kill_and_sent_again_gives_each_device_exactly_one_certificate() {
    let mut deployment = Deployment::found();
    let eids: Vec<String> = (0..DEVICES).map(|number| eid(GRANTED, number)).collect();
    fs::write(deployment.path("cut.csv"), csv(&eids)).unwrap();
    let before = deployment.log_size();
    let mut first = place(&deployment, "cut.csv", "first-try");
    let started = Instant::now();
    // The intents are durable: the kill falls between step 6 and step 9, or soon after.
    while deployment.log_size() == before {
        assert!(started.elapsed() < Duration::from_secs(30), "the order does not begin");
    }
    deployment.kill9();
    let _ = first.kill();
    let _ = first.wait();
    deployment.serve();

    assert!(place(&deployment, "cut.csv", "second-try").wait().unwrap().success());
    let second = certificates(&deployment, "second-try");
    assert!(second.len() >= DEVICES);
    assert!(place(&deployment, "cut.csv", "third-try").wait().unwrap().success());
    assert_eq!(certificates(&deployment, "third-try"), second, "a repeat got other certificates");

    let mut registered = BTreeMap::new();
    let mut settled = 0;
    for entry in deployment.entries() {
        if entry.header.event == EventType::CertificateFailed {
            settled += 1;
        }
        if entry.header.event == EventType::DeviceRegistered && entry.header.outcome == Outcome::Done {
            *registered.entry(entry.header.object.unwrap()).or_insert(0) += 1;
        }
    }
    println!("{settled} certificates stood between intent and outcome at the kill");
    assert_eq!(registered.len(), DEVICES);
    assert!(registered.values().all(|times| *times == 1), "a device was registered twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_under_way_ends_with_the_suspension_of_its_manufacturer() {
    let deployment = Deployment::found();
    let mut eum = OrderServiceClient::new(deployment.caller("eum").await.channel);
    let mut standing = StandingServiceClient::new(deployment.caller("approver").await.channel);
    let (parts, requests) = mpsc::channel(4);
    let send = async |part| parts.send(PlaceOrderRequest { part: Some(part) }).await.unwrap();
    let line = |number: usize| {
        let key = order_line::Key::PublicKey(new_public_key());
        Part::Line(OrderLine {
            line: number as u64,
            eid: eid(GRANTED, number),
            key: Some(key),
            ..OrderLine::default()
        })
    };
    send(Part::Header(OrderHeader {
        order: "long".to_owned(),
        issuer: ISSUER.to_owned(),
        keyset: Some(keyset(KVN)),
        key_bits: 128,
        ..OrderHeader::default()
    }))
    .await;
    send(line(1)).await;
    let mut results = eum.place_order(ReceiverStream::new(requests)).await.unwrap().into_inner();
    assert!(results.message().await.unwrap().is_some(), "the first line has no result");

    let suspend = SuspendPartyRequest { idempotency_key: "stop".to_owned(), name: "eum".to_owned() };
    let suspended = standing.suspend_party(suspend).await.unwrap().into_inner().entry_index;
    send(line(2)).await;
    assert_eq!(reason(&results.message().await.unwrap_err()), "PRINCIPAL_SUSPENDED");

    let entries = deployment.entries();
    let behind = &entries[usize::try_from(suspended).unwrap() + 1..];
    assert!(
        behind.iter().any(|entry| entry.header.outcome == Outcome::Refused(ReasonCode::PrincipalSuspended))
    );
    let made = |event| matches!(event, EventType::CertificateIssued | EventType::DeviceRegistered);
    assert!(behind.iter().all(|entry| !made(entry.header.event)), "something was made behind the suspension");
}

/// A range of a manufacturer with a small quota.
const SMALL: &str = "89033023";

/// An order of one device; why its line was refused, if it was.
async fn place_one(channel: Channel, number: usize) -> Option<String> {
    let header = OrderHeader {
        order: format!("order-{number}"),
        issuer: "small-ca".to_owned(),
        keyset: Some(keyset(KVN)),
        key_bits: 128,
        ..OrderHeader::default()
    };
    let key = Some(order_line::Key::PublicKey(new_public_key()));
    let line = OrderLine { line: 1, eid: eid(SMALL, number), key, ..OrderLine::default() };
    let parts = [Part::Header(header), Part::Line(line)].map(|part| PlaceOrderRequest { part: Some(part) });
    let mut eum = OrderServiceClient::new(channel);
    let mut results = eum.place_order(tokio_stream::iter(parts)).await.unwrap().into_inner();
    let result = results.message().await.unwrap().unwrap().part;
    let Some(place_order_response::Part::Line(line)) = result else { panic!("{result:?}") };
    match line.result.unwrap() {
        order_line_result::Result::Certificate(_) => None,
        order_line_result::Result::Refusal(refusal) => Some(refusal.reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_a_manufacturer_places_at_once_wait_for_each_other_and_keep_to_its_quota() {
    const QUOTA: usize = 12;
    const ORDERS: usize = 24;
    let deployment = Deployment::found();
    deployment.enrol_party("eum", "small", &["--ein", SMALL, "--quota", &QUOTA.to_string()]);
    crate::hierarchies::issuer(&deployment, "eum", "small-ca", "ci", Some("small"));
    let channel = deployment.caller("small").await.channel;
    let mut orders = JoinSet::new();
    for number in 0..ORDERS {
        orders.spawn(place_one(channel.clone(), number));
    }
    let outcomes = orders.join_all().await;
    let refused: Vec<String> = outcomes.into_iter().flatten().collect();
    assert_eq!(refused, vec!["QUOTA_EXCEEDED"; ORDERS - QUOTA]);
}
