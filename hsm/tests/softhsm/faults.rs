//! Workers that die, hang and grow; tokens that change under us; PINs that are wrong.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use domain::{Curve, KeysetAlgorithm};
use hsm::{Digest, ErrorClass, KeyRole, Signature, Token};
use rustix::process::Signal;

use crate::model::{Manufacturer, device, order, recipient, session};
use crate::support::{Fixture, PIN, command, eventually, kill, signal, soon, within, write_private};

pub const SPY: &str = "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so";

#[tokio::test(flavor = "multi_thread")]
async fn killing_every_worker_under_load_costs_retryable_errors_only_and_service_returns() {
    let mut fixture = Fixture::new("kms");
    fixture.config.workers = 2;
    let keys = fixture.create_all(&[KeyRole::Master, KeyRole::CanaryDerive]);
    let token = fixture.start(&keys).await.unwrap();
    let master = keys[0].key.clone();
    let (_, cryptogram) = device(&token, &master, KeysetAlgorithm::Aes128, &Manufacturer::new()).await;
    let (_, public) = recipient();
    let until = Instant::now() + Duration::from_millis(1500);
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (token, master) = (token.clone(), master.clone());
        callers.push(tokio::spawn(async move {
            let (mut good, mut bad) = (0, 0);
            while Instant::now() < until {
                match token
                    .session_keys(session(&master, KeysetAlgorithm::Aes128, 1, cryptogram, public), soon())
                    .await
                {
                    Ok(hsm::SessionKeysOutcome::Released { .. }) => good += 1,
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        assert!(error.retry_after().is_some(), "{error}");
                        bad += 1;
                    }
                }
            }
            (good, bad)
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let killed = token.worker_pids();
    for pid in &killed {
        kill(*pid);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let from = Instant::now();
    eventually("two new workers", || {
        let now = token.worker_pids();
        now.len() == 2 && now.iter().all(|pid| !killed.contains(pid))
    })
    .await;
    println!("two workers back after {:?}", from.elapsed());
    for caller in callers {
        let (good, _) = caller.await.unwrap();
        assert!(good > 0);
    }
    assert!(token.counters().worker_restarts >= 2);
    assert!(token.health().is_serving());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_worker_costs_its_callers_a_deadline_and_is_replaced() {
    let fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let token = fixture.start(&keys).await.unwrap();
    let hanging = token.worker_pids()[0];
    signal(hanging, Signal::STOP);
    let error = sign_one(&token, &keys[0].key, Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Deadline);
    eventually("the hanging worker is gone", || !Path::new(&format!("/proc/{hanging}")).exists()).await;
    eventually("a new worker", || token.health().is_serving()).await;
    sign_one(&token, &keys[0].key, Duration::from_secs(10)).await.unwrap();
    assert_eq!(token.counters().worker_restarts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_recycled_without_losing_a_job_or_counting_as_a_failure() {
    let mut fixture = Fixture::new("kms");
    fixture.config.session_objects_max = 40;
    let keys = fixture.create_all(&[KeyRole::Master]);
    let token = fixture.start(&keys).await.unwrap();
    let manufacturer = Manufacturer::new();
    let first = token.worker_pids();
    // 1 + 1 + 3 per device: the second chunk crosses the limit, and the third may still meet the old worker.
    let mut unwrapped = Vec::new();
    for _ in 0..6 {
        let job = order(&keys[0].key, KeysetAlgorithm::Aes128, &manufacturer.spki, 8);
        let chunk = token.order_chunk(job, soon()).await.unwrap();
        unwrapped.push(manufacturer.unwrap(&chunk));
    }
    assert!(unwrapped.iter().all(|keys| *keys == unwrapped[0]));
    eventually("another worker alone", || {
        let now = token.worker_pids();
        now.len() == 1 && now != first
    })
    .await;
    eventually("the old worker is gone", || !Path::new(&format!("/proc/{}", first[0])).exists()).await;
    assert_eq!(token.counters().worker_restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pin_is_tried_once_by_all_workers_together() {
    let mut fixture = Fixture::new("kms");
    fixture.config.workers = 3;
    let trace = through_spy(&mut fixture);
    write_private(&fixture.config.pin_file, "not-the-pin");
    let error = fixture.start(&[]).await.err().unwrap();
    assert_eq!(error.class, ErrorClass::Pin);
    assert_eq!(error.return_code.as_deref(), Some("CKR_PIN_INCORRECT"));
    let logins = fs::read_to_string(trace).unwrap().matches(": C_Login\n").count();
    assert_eq!(logins, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_changed_under_a_running_service_stops_it_after_one_attempt() {
    let mut fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let trace = through_spy(&mut fixture);
    let token = fixture.start(&keys).await.unwrap();
    write_private(&fixture.config.pin_file, "not-the-pin");
    kill(token.worker_pids()[0]);
    eventually("the token stops", || token.health().stopped.is_some()).await;
    // Neither callers nor time bring a second attempt.
    for _ in 0..3 {
        let error = sign_one(&token, &keys[0].key, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Pin, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let logins = fs::read_to_string(trace).unwrap().matches(": C_Login\n").count();
    assert_eq!(logins, 2, "one of the first start, one of the replacement");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_initialised_again_is_found_out_by_the_canary_and_not_served() {
    let fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256), KeyRole::CanarySign]);
    let token = fixture.start(&keys).await.unwrap();
    token.check().await.unwrap();
    let (name, value) = fixture.environment();
    let label = &fixture.config.token_label;
    let so_pin = "1357-test-so-pin";
    let again = Command::new("softhsm2-util")
        .args(["--init-token", "--token", label, "--label", label, "--pin", PIN, "--so-pin", so_pin])
        .env(name, value)
        .output()
        .unwrap();
    assert!(again.status.success(), "{again:?}");
    let error = token.check().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Token, "{error}");
    eventually("the replacement refuses", || {
        let health = token.health();
        health.workers_ready == 0 && health.start_failure.is_some()
    })
    .await;
    let error = sign_one(&token, &keys[0].key, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Token, "{error}");
    assert!(error.detail.contains("is not on the token"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_directory_that_disappears_is_a_token_fault_and_service_returns_with_it() {
    let fixture = Fixture::new("ca");
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let token = fixture.start(&keys).await.unwrap();
    let (here, away) = (fixture.token_files(), fixture.dir.path().join("away"));
    fs::rename(&here, &away).unwrap();
    let error = sign_one(&token, &keys[0].key, Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Token, "{error}");
    fs::rename(&away, &here).unwrap();
    eventually("service is back", || token.health().is_serving()).await;
    sign_one(&token, &keys[0].key, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_end_with_the_last_handle() {
    let mut fixture = Fixture::new("ca");
    fixture.config.workers = 2;
    let keys = fixture.create_all(&[KeyRole::CertificateIssuer(Curve::P256)]);
    let token = fixture.start(&keys).await.unwrap();
    let pids = token.worker_pids();
    drop(token);
    eventually("no worker is left", || pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
        .await;
    // And the token can be opened again at once.
    fixture.start(&keys).await.unwrap().shutdown().await;
}

#[test]
fn a_worker_whose_input_ends_before_its_start_leaves() {
    let mut child = Command::new(command(&[]).program).stdin(std::process::Stdio::null()).spawn().unwrap();
    assert!(!child.wait().unwrap().success());
}

/// Puts pkcs11-spy between the workers and the module; the trace file comes back.
pub fn through_spy(fixture: &mut Fixture) -> std::path::PathBuf {
    assert!(Path::new(SPY).exists(), "the tests need pkcs11-spy (package opensc)");
    let trace = fixture.dir.path().join("trace");
    let module = std::mem::replace(&mut fixture.config.module, SPY.into());
    fixture.config.environment.extend([
        ("PKCS11SPY".to_owned(), module.display().to_string()),
        ("PKCS11SPY_OUTPUT".to_owned(), trace.display().to_string()),
    ]);
    trace
}

pub async fn sign_one(
    token: &Token,
    key: &hsm::KeyRef,
    time: Duration,
) -> Result<Vec<Signature>, hsm::HsmError> {
    token.sign(key, &[Digest::sha256([7; 32])], within(time)).await
}
