//! The bounded queue in front of a token. A stopped worker makes every state of it hold still.

use std::time::{Duration, Instant};

use domain::Curve;
use hsm::{CallOptions, Digest, ErrorClass, KeyRef, KeyRole, Priority, Signature, Token};
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::faults::sign_one;
use crate::support::{Fixture, eventually, signal};

type Outcome = Result<Vec<Signature>, hsm::HsmError>;

fn sign(token: &Token, key: &KeyRef, priority: Priority, time: Duration) -> JoinHandle<Outcome> {
    let (token, key) = (token.clone(), key.clone());
    tokio::spawn(async move {
        let options = CallOptions { deadline: Instant::now() + time, priority };
        token.sign(&key, &[Digest::sha256([7; 32])], options).await
    })
}

async fn queued(token: &Token, count: usize) {
    eventually("jobs are queued", || token.health().queued == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_other_priorities_still_wait_and_all_that_waited_is_done() {
    let mut fixture = Fixture::new("ca");
    fixture.config.queue_depth_max = 2;
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let token = fixture.start(&keys).await.unwrap();
    let key = &keys[0].key;
    let worker = token.worker_pids()[0];
    signal(worker, Signal::STOP);
    let long = Duration::from_secs(20);
    let jobs_before = token.counters().jobs;
    let mut waiting = vec![sign(&token, key, Priority::Normal, long)];
    // The first is in the worker's hands, the next two fill the queue.
    eventually("the first is sent", || {
        token.counters().jobs == jobs_before + 1 && token.health().queued == 0
    })
    .await;
    waiting.extend([sign(&token, key, Priority::Normal, long), sign(&token, key, Priority::Normal, long)]);
    queued(&token, 2).await;
    let error = sign(&token, key, Priority::Normal, long).await.unwrap().unwrap_err();
    assert_eq!(error.class, ErrorClass::Overloaded);
    assert_eq!(token.counters().jobs_refused, 1);
    waiting.push(sign(&token, key, Priority::Incident, long));
    queued(&token, 3).await;
    signal(worker, Signal::CONT);
    for job in waiting {
        assert_eq!(job.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(token.counters().worker_restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_or_without_a_caller_never_reaches_the_token() {
    let fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let token = fixture.start(&keys).await.unwrap();
    let key = &keys[0].key;
    sign_one(&token, key, Duration::from_secs(10)).await.unwrap();
    let start = token.counters().pkcs11_calls;
    sign_one(&token, key, Duration::from_secs(10)).await.unwrap();
    let per_signature = token.counters().pkcs11_calls - start;

    let worker = token.worker_pids()[0];
    signal(worker, Signal::STOP);
    let start = token.counters().pkcs11_calls;
    let jobs = token.counters().jobs;
    let first = sign(&token, key, Priority::Normal, Duration::from_secs(20));
    // An empty queue alone could also mean that it has not come yet, and the short-lived one would be sent first.
    eventually("the first is sent", || token.counters().jobs == jobs + 1 && token.health().queued == 0).await;
    let late = sign(&token, key, Priority::Normal, Duration::from_millis(50));
    let abandoned = sign(&token, key, Priority::Normal, Duration::from_secs(20));
    assert_eq!(late.await.unwrap().unwrap_err().class, ErrorClass::Deadline);
    eventually("the abandoned one is admitted", || token.counters().jobs == jobs + 3).await;
    abandoned.abort();
    queued(&token, 0).await;
    signal(worker, Signal::CONT);
    first.await.unwrap().unwrap();
    sign_one(&token, key, Duration::from_secs(10)).await.unwrap();
    assert_eq!(token.counters().pkcs11_calls - start, 2 * per_signature);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_what_has_begun_and_refuses_what_comes_after() {
    let fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let token = fixture.start(&keys).await.unwrap();
    let key = &keys[0].key;
    let worker = token.worker_pids()[0];
    signal(worker, Signal::STOP);
    let jobs = token.counters().jobs;
    let begun: Vec<_> =
        (0..5).map(|_| sign(&token, key, Priority::Normal, Duration::from_secs(20))).collect();
    eventually("all are admitted", || token.counters().jobs == jobs + 5).await;
    let ending = tokio::spawn({
        let token = token.clone();
        async move { token.shutdown().await }
    });
    eventually("new jobs are refused", || {
        let token = token.clone();
        let key = key.clone();
        let refused = futures_now(async move { sign_one(&token, &key, Duration::from_secs(5)).await });
        matches!(refused, Some(Err(e)) if e.class == ErrorClass::ShuttingDown)
    })
    .await;
    signal(worker, Signal::CONT);
    for job in begun {
        job.await.unwrap().unwrap();
    }
    ending.await.unwrap();
    // A second one has nothing to wait for.
    token.shutdown().await;
}

/// Polls a future once: a refusal is ready at once, an admitted job is not and is dropped.
fn futures_now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
