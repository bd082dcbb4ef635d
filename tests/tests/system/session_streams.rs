//! Session keys in batches over one stream: each item decided alone, the whole durable at once.

use audit::{EventType, Outcome};
use domain::ReasonCode;
use proto::v1::session_keys_result::Outcome as Result_;
use proto::v1::{FetchSessionKeysRequest, SessionKeysResult, StreamSessionKeysRequest};
use tests::card::CryptogramBehaviour;
use tonic::{Code, Status};

use crate::caller::reason;
use crate::devices::eid;
use crate::fleet::{Provisioner, new_key};
use crate::support::{Deployment, GRANTED, PURPOSE};

/// Sends batches over one stream; the results of each.
async fn stream(
    provisioner: &Provisioner,
    batches: Vec<Vec<FetchSessionKeysRequest>>,
) -> Result<Vec<Vec<SessionKeysResult>>, Status> {
    let batches: Vec<_> = batches.into_iter().map(|items| StreamSessionKeysRequest { items }).collect();
    let mut client = provisioner.sessions();
    let mut answers = client.stream_session_keys(tokio_stream::iter(batches)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.push(answer.results);
    }
    Ok(all)
}

/// What became of each item: `ok` or the reason code, and the entry it names.
fn outcomes(results: &[SessionKeysResult]) -> Vec<(String, u64)> {
    results
        .iter()
        .map(|result| match result.outcome.clone().unwrap() {
            Result_::Keys(keys) => ("ok".to_owned(), keys.entry_index),
            Result_::Refusal(refusal) => (refusal.reason, refusal.entry_index),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_a_batch_are_decided_alone_and_recorded_together() {
    let deployment = Deployment::found();
    let granted: Vec<String> = (1..=6).map(|number| eid(GRANTED, number)).collect();
    let devices = deployment.order("streams", &granted);
    let provisioner = Provisioner::of(&deployment).await;
    let good = |at: usize| devices[at].request(&new_key(), PURPOSE, CryptogramBehaviour::Honest);

    let wrong = devices[1].request(&new_key(), PURPOSE, CryptogramBehaviour::Wrong);
    let other_purpose = devices[2].request(&new_key(), "another", CryptogramBehaviour::Honest);
    let double = FetchSessionKeysRequest { idempotency_key: wrong.idempotency_key.clone(), ..good(3) };
    let keyless = FetchSessionKeysRequest { idempotency_key: String::new(), ..good(3) };
    let first = good(0);
    let batch = vec![first.clone(), wrong, other_purpose, double, keyless, good(0), good(4)];
    let results = stream(&provisioner, vec![batch.clone()]).await.unwrap();
    let expected =
        ["ok", "CARD_CRYPTOGRAM_MISMATCH", "NOT_GRANTED", "INVALID_FIELD", "INVALID_FIELD", "ok", "ok"];
    let found = outcomes(&results[0]);
    assert_eq!(found.iter().map(|(outcome, _)| outcome.as_str()).collect::<Vec<_>>(), expected);
    // One commit: the entries follow each other as the items do, refusals among them.
    let indexes: Vec<u64> = found.iter().map(|(_, index)| *index).collect();
    let consecutive: Vec<u64> = (indexes[0]..indexes[0] + 7).collect();
    assert_eq!(indexes, consecutive);
    let entries = deployment.entries();
    for ((outcome, index), entry) in found.iter().zip(&entries[usize::try_from(indexes[0]).unwrap()..]) {
        assert_eq!(entry.header.index, *index);
        assert_eq!(entry.header.event, EventType::SessionKeysReleased);
        match (outcome.as_str(), entry.header.outcome) {
            ("ok", Outcome::Done) => {}
            (expected, Outcome::Refused(reason)) => assert_eq!(reason.as_str(), expected),
            other => panic!("{other:?}"),
        }
    }

    // An item is the same request as a single call: sent again alone it is a repeat.
    let Some(Result_::Keys(keys)) = &results[0][0].outcome else { panic!("no keys") };
    let alone = provisioner.sessions().fetch_session_keys(first.clone()).await.unwrap().into_inner();
    assert_eq!(alone.host_cryptogram, keys.host_cryptogram);
    let entries = deployment.entries();
    let repeated = &entries[usize::try_from(alone.entry_index).unwrap()];
    assert_eq!((repeated.header.index, repeated.header.outcome), (alone.entry_index, Outcome::Repeated));

    // Batches of one stream overlap; their results come in order all the same, also for devices used the first time.
    let many: Vec<Vec<_>> = (0..6).map(|_| vec![good(5), good(2), good(5)]).collect();
    let results = stream(&provisioner, many).await.unwrap();
    assert_eq!(results.len(), 6);
    for results in &results {
        assert!(outcomes(results).iter().all(|(outcome, _)| outcome == "ok"), "{:?}", outcomes(results));
    }
    // A batch again: what was released is a repeat, what was refused is refused again.
    let again = outcomes(&stream(&provisioner, vec![batch]).await.unwrap()[0]);
    assert_eq!(again.iter().map(|(outcome, _)| outcome.as_str()).collect::<Vec<_>>(), expected);

    // What is no batch ends the stream, on the record.
    for batch in [Vec::new(), vec![first; 257]] {
        let status = stream(&provisioner, vec![batch]).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    }
    // Nobody else may open one.
    let eum = Provisioner::named(&deployment, "eum").await;
    let status = stream(&eum, vec![vec![good(0)]]).await.unwrap_err();
    assert_eq!(reason(&status), "ROLE_NOT_ALLOWED");
    let is_recorded = |entry: &audit::Entry| {
        let header = &entry.header;
        header.event == EventType::SessionKeysReleased
            && header.outcome == Outcome::Refused(ReasonCode::RoleNotAllowed)
    };
    assert!(deployment.entries().iter().any(is_recorded));

    // A party that is suspended in the middle gets nothing more.
    deployment.chancery(&["party", "suspend", "provisioner", "--yes", "--identity", "officer"]);
    let status = stream(&provisioner, vec![vec![good(0)]]).await.unwrap_err();
    assert_eq!(reason(&status), "PRINCIPAL_SUSPENDED");
}
