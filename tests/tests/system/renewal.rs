//! New credentials: with the tool as an operator would, beside the old ones or in their place.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use audit::{EventType, Outcome};
use proto::v1::operation::Kind;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::{FetchSessionKeysRequest, KeysetName, RenewCredential};
use tonic::Code;

use crate::caller::{Caller, reason};
use crate::devices::eid;
use crate::fleet::TwoPersons;
use crate::refusals::Refused;
use crate::support::{Deployment, GRANTED, PURPOSE};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a provisioner's call comes to; an unknown device is as far as a caller gets who is admitted.
async fn call(caller: &Caller) -> String {
    let request = FetchSessionKeysRequest {
        idempotency_key: "probe".to_owned(),
        eid: eid(GRANTED, 9),
        keyset: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
        host_challenge: vec![1; 8],
        card_challenge: vec![2; 8],
        card_cryptogram: vec![3; 8],
        purpose: PURPOSE.to_owned(),
        ..FetchSessionKeysRequest::default()
    };
    let status =
        SessionKeyServiceClient::new(caller.channel.clone()).fetch_session_keys(request).await.unwrap_err();
    reason(&status)
}

/// Makes the next key of the provisioner, has it certified, and takes it into use.
fn renew(deployment: &Deployment, options: &[&str]) {
    deployment.chancery(&["identity", "renew", "provisioner"]);
    let csr = "provisioner/tls.next.csr.pem";
    let request = ["party", "renew", "provisioner", "--csr", csr, "--reason", "ends soon"];
    let received = format!("renewed-{}", options.len());
    deployment.two_persons(&[&request[..], options].concat(), Some(&received));
    let certificate = format!("received/{received}/certificate.pem");
    deployment.chancery(&["identity", "install", "provisioner", "--certificate", &certificate]);
    assert!(!deployment.path("provisioner/tls-key.next.pem").exists());
}

fn keep(deployment: &Deployment, folder: &str) {
    fs::create_dir(deployment.path(folder)).unwrap();
    for file in ["tls.pem", "tls-key.pem"] {
        let from = deployment.path("provisioner").join(file);
        fs::copy(from, Path::new(&deployment.path(folder)).join(file)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_credential_serves_beside_the_old_one_until_one_is_asked_to_end_the_others() {
    let deployment = Deployment::found();
    let first = deployment.caller("provisioner").await;
    keep(&deployment, "first");
    renew(&deployment, &[]);
    let second = deployment.caller("provisioner").await;
    keep(&deployment, "second");
    for caller in [&first, &second, &deployment.caller("first").await] {
        assert_eq!(call(caller).await, "UNKNOWN_DEVICE");
    }

    renew(&deployment, &["--ends-others"]);
    let third = deployment.caller("provisioner").await;
    assert_eq!(call(&third).await, "UNKNOWN_DEVICE");
    // Connections that were open before, and new ones that TLS lets in, for the certificates have not ended.
    for caller in [&first, &second, &deployment.caller("first").await, &deployment.caller("second").await] {
        assert_eq!(call(caller).await, "UNKNOWN_PRINCIPAL");
    }

    // The officer renews itself, by its own execution of what another approved.
    let persons = TwoPersons::of(&deployment).await;
    deployment.chancery(&["identity", "renew", "officer"]);
    let csr = |file: &str| {
        let pem = fs::read_to_string(deployment.path(file)).unwrap();
        use rustls_pki_types::CertificateSigningRequestDer;
        use rustls_pki_types::pem::PemObject;
        CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    };
    let renewal = |name: &str, file: &str| {
        Kind::RenewCredential(RenewCredential {
            name: name.to_owned(),
            tls_csr: csr(file),
            ends_others: false,
        })
    };
    persons.carry_out(renewal("officer", "officer/tls.next.csr.pem")).await.unwrap();

    let mut refused = Vec::new();
    for (what, kind, code, expected) in [
        ("twice", renewal("officer", "officer/tls.next.csr.pem"), Code::AlreadyExists, "DUPLICATE_KEY"),
        ("anothers", renewal("eum", "provisioner/tls.csr.pem"), Code::AlreadyExists, "DUPLICATE_KEY"),
        ("approval", renewal("approver", "approver/approval.csr.pem"), Code::InvalidArgument, "WEAK_KEY"),
        ("nobody", renewal("nobody", "eum/tls.csr.pem"), Code::NotFound, "UNKNOWN_PARTY"),
    ] {
        let status = persons.carry_out(kind).await.unwrap_err();
        refused.push(Refused::new(what.to_owned(), (code, expected), &status));
    }

    let entries = deployment.entries();
    for refused in &refused {
        refused.entry(&entries);
    }
    let renewed: Vec<_> =
        entries.iter().filter(|entry| entry.header.event == EventType::CredentialRenewed).collect();
    let ended: Vec<_> = renewed.iter().map(|entry| entry.number("count").unwrap()).collect();
    assert_eq!(ended, [0, 2, 0]);
    assert!(renewed.iter().all(|entry| entry.header.outcome == Outcome::Done));
    // Approvals, deeds and their kinds were judged by the auditor's verifier when the entries were read.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_certificate_near_its_end_is_renewed_by_the_service_while_it_runs() {
    let mut deployment = Deployment::found();
    deployment.stop();
    // Of another root, so that callers tell the two apart; its dates are what the service looks at.
    let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let about = ["-subj", "/CN=near its end", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "100"];
    let files = ["-keyout", "near-key.pem", "-out", "near.pem"];
    let made = std::process::Command::new("openssl")
        .args([&make[..], &about, &files].concat())
        .current_dir(deployment.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| fs::read(deployment.path(name)).unwrap();
    let near = [read("near.pem"), read("near-key.pem")].concat();
    fs::write(deployment.path("data/tls/server.pem"), &near).unwrap();
    deployment.serve();

    let began = Instant::now();
    let (identity, ca) = (deployment.path("provisioner"), deployment.path("handover/authority-ca.pem"));
    let caller = loop {
        match Caller::connect(&identity, &ca, deployment.port()).await {
            Ok(caller) => break caller,
            Err(error) => assert!(began.elapsed() < PATIENCE, "still the old certificate: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(call(&caller).await, "UNKNOWN_DEVICE");
    let renewed = fs::read(deployment.path("data/tls/server.pem")).unwrap();
    assert_ne!(renewed, near);
    // What was renewed is what the next start finds.
    deployment.restart();
    assert_eq!(call(&deployment.caller("provisioner").await).await, "UNKNOWN_DEVICE");
    assert_eq!(fs::read(deployment.path("data/tls/server.pem")).unwrap(), renewed);

    let entries = deployment.entries();
    let issued: Vec<_> = entries
        .iter()
        .filter(|entry| {
            entry.header.event == EventType::CertificateIssued
                && entry.name("profile") == Some("operator-server")
        })
        .collect();
    assert_eq!(issued.len(), 2, "at the founding and now");
    assert!(issued.iter().all(|entry| entry.header.role.is_none()), "nobody asked for it");
}
