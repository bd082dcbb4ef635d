//! Tokens that are not what they were: another PIN, gone, initialised again; before the daemon starts and while it runs.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use audit::{EventType, Outcome};
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;
use tests::process::{Signal, signal};
use tonic::Code;
use tonic_types::StatusExt;

use super::{PATIENCE, token_metric};
use crate::caller::reason;
use crate::devices::eid;
use crate::support::{Deployment, GRANTED, PURPOSE, program};

/// The folder in which SoftHSM keeps the token of this label.
fn token_folder(deployment: &Deployment, label: &str) -> PathBuf {
    let holds = |folder: &PathBuf| {
        let object = fs::read(folder.join("token.object")).unwrap_or_default();
        object.windows(label.len()).any(|window| window == label.as_bytes())
    };
    let tokens = fs::read_dir(deployment.path("data/tokens/store")).unwrap();
    tokens.map(|token| token.unwrap().path()).find(holds).unwrap()
}

/// A daemon that must not start: what it says.
fn refuses_to_serve(deployment: &Deployment) -> String {
    let said = deployment.path("refused.log");
    let mut daemon = Command::new(program("chanceryd"))
        .current_dir(deployment.path(""))
        .args(["serve", "--config", "chanceryd.toml"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = daemon.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            panic!("chanceryd serves: {}", fs::read_to_string(&said).unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert!(!status.success());
    let said = fs::read_to_string(said).unwrap();
    let lines: Vec<_> = said.lines().collect();
    lines[lines.len() - 2..].join("\n")
}

#[test]
fn a_daemon_whose_pin_or_token_is_not_the_one_it_knows_does_not_start_and_says_why() {
    let mut deployment = Deployment::found();
    let size = deployment.log_size();
    deployment.stop();

    let pin = deployment.path("data/pins/kms.pin");
    let right = fs::read(&pin).unwrap();
    fs::write(&pin, "00000000").unwrap();
    let said = refuses_to_serve(&deployment);
    assert!(said.contains("token kms") && said.contains("CKR_PIN_INCORRECT"), "{said}");
    assert!(said.contains("next: correct the PIN file"), "{said}");
    fs::write(&pin, right).unwrap();

    let (folder, away) = (token_folder(&deployment, "chancery-kms"), deployment.path("kms-token-away"));
    fs::rename(&folder, &away).unwrap();
    let said = refuses_to_serve(&deployment);
    assert!(said.contains("token kms") && said.contains("is not there"), "{said}");
    assert!(said.contains("next: "), "{said}");

    // One of the same name, without its keys.
    let output = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "chancery-kms", "--so-pin", "87654321"])
        .args(["--pin", "12345678"])
        .env("SOFTHSM2_CONF", deployment.path("data/tokens/softhsm2.conf"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = refuses_to_serve(&deployment);
    assert!(said.contains("token kms") && said.contains("with serial"), "{said}");
    assert!(said.contains("next: "), "{said}");
    fs::remove_dir_all(token_folder(&deployment, "chancery-kms")).unwrap();

    // With the cause gone it serves, and none of it is in the log: who does not start does nothing.
    fs::rename(&away, &folder).unwrap();
    deployment.serve();
    let stopped_and_started = 2;
    assert_eq!(deployment.log_size(), size + stopped_and_started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_vanishes_is_said_to_be_away_and_serves_again_when_it_is_back() {
    let deployment = Deployment::found();
    let device = deployment.order("first", &[eid(GRANTED, 1)]).remove(0);
    let mut client = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    let fetch = |key: &str| device.request(key, PURPOSE, CryptogramBehaviour::Honest);
    client.fetch_session_keys(fetch("before")).await.unwrap();

    let (folder, away) = (token_folder(&deployment, "chancery-kms"), deployment.path("kms-token-away"));
    fs::rename(&folder, &away).unwrap();
    // Workers that know the token go on until they look; their successors find none.
    for pid in deployment.worker_pids() {
        signal(pid, Signal::KILL).unwrap();
    }
    let started = Instant::now();
    while token_metric(&deployment, "workers_ready", "kms") > 0 {
        assert!(started.elapsed() < PATIENCE, "a worker without its token");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut refused = Vec::new();
    for attempt in 0..3 {
        let status = client.fetch_session_keys(fetch(&format!("away-{attempt}"))).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "TOKEN_UNAVAILABLE"));
        assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["retryable"], "true");
        assert!(!info.metadata["next_step"].is_empty());
        let index = status.metadata().get("chancery-entry-index").unwrap().to_str().unwrap();
        refused.push(index.parse::<usize>().unwrap());
    }
    // The other tokens are back meanwhile: their log is written and signed.
    let entries = deployment.entries();
    for index in refused {
        let header = &entries[index].header;
        let Outcome::Failed(reason) = header.outcome else { panic!("{:?}", header.outcome) };
        assert_eq!((header.event, reason.as_str()), (EventType::SessionKeysReleased, "TOKEN_UNAVAILABLE"));
        assert!(header.actor.is_some());
    }

    fs::rename(&away, &folder).unwrap();
    let started = Instant::now();
    let mut attempt = 0;
    while let Err(status) = client.fetch_session_keys(fetch(&format!("back-{attempt}"))).await {
        assert_eq!(reason(&status), "TOKEN_UNAVAILABLE");
        assert!(started.elapsed() < PATIENCE, "the token is back and not used");
        attempt += 1;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
