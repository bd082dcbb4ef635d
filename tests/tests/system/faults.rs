//! The daemon killed under load, and its workers one by one: what was acknowledged stays, callers hear only "come again".

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use audit::{EventType, Outcome};
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;
use tests::process::{Signal, signal};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::caller::{Caller, reason};
use crate::devices::{Device, eid};
use crate::support::{Deployment, GRANTED, PURPOSE};

/// Callers at the same time.
const LANES: usize = 4;
/// Longest time anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the callers of a load saw.
#[derive(Default)]
struct Seen {
    entries: BTreeSet<u64>,
    errors: Vec<Status>,
    last_answer: Option<Instant>,
}

/// Callers that fetch session keys, each call under a key of its own, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    lanes: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(caller: &Caller, device: &Arc<Device>) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let lanes = (0..LANES)
            .map(|lane| {
                let (stop, seen, device) = (Arc::clone(&stop), Arc::clone(&seen), Arc::clone(device));
                let mut client = SessionKeyServiceClient::new(caller.channel.clone());
                tokio::spawn(async move {
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) {
                        number += 1;
                        let key = format!("load-{lane}-{number}");
                        let request = device.request(&key, PURPOSE, CryptogramBehaviour::Honest);
                        let answer = client.fetch_session_keys(request).await;
                        let mut seen = seen.lock().unwrap();
                        match answer {
                            Ok(answer) => {
                                assert!(
                                    seen.entries.insert(answer.into_inner().entry_index),
                                    "an entry for two"
                                );
                                seen.last_answer = Some(Instant::now());
                            }
                            Err(status) => seen.errors.push(status),
                        }
                    }
                })
            })
            .collect();
        Self { stop, seen, lanes }
    }

    fn answers(&self) -> usize {
        self.seen.lock().unwrap().entries.len()
    }

    /// Waits until so many more calls were answered, and how long that took.
    async fn await_answers(&self, more: usize) -> Duration {
        let (started, wanted) = (Instant::now(), self.answers() + more);
        while self.answers() < wanted {
            assert!(
                started.elapsed() < PATIENCE,
                "no more answers after {:?}",
                self.seen.lock().unwrap().last_answer
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        started.elapsed()
    }

    async fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes {
            lane.await.unwrap();
        }
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_release_that_was_acknowledged_before_a_kill_is_in_the_log_after_it() {
    let mut deployment = Deployment::found();
    let device = Arc::new(deployment.order("first", &[eid(GRANTED, 1)]).remove(0));
    let load = Load::start(&deployment.caller("provisioner").await, &device);
    load.await_answers(60).await;
    deployment.kill9();
    let seen = load.end().await;
    deployment.serve();
    let released: BTreeSet<u64> = deployment
        .entries()
        .iter()
        .filter(|entry| {
            entry.header.event == EventType::SessionKeysReleased && entry.header.outcome == Outcome::Done
        })
        .map(|entry| entry.header.index)
        .collect();
    assert!(seen.entries.len() >= 60);
    assert!(seen.entries.is_subset(&released), "an acknowledged release is gone");
    // And it serves again.
    let mut client = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    let request = device.request("after", PURPOSE, CryptogramBehaviour::Honest);
    client.fetch_session_keys(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_under_load_are_replaced_and_callers_hear_only_to_come_again() {
    let deployment = Deployment::found();
    let device = Arc::new(deployment.order("first", &[eid(GRANTED, 1)]).remove(0));
    let load = Load::start(&deployment.caller("provisioner").await, &device);
    load.await_answers(20).await;
    let workers = deployment.worker_pids();
    assert!(workers.len() >= 3, "a worker for each token at least");
    for worker in workers {
        signal(worker, Signal::KILL).unwrap();
        // Both workers of one token may be gone for a moment; then the calls go on.
        println!("calls answered again after {:?}", load.await_answers(8).await);
    }
    let seen = load.end().await;
    for status in seen.errors {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "TOKEN_UNAVAILABLE"),
            "{status}"
        );
        assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status}");
    }
}
