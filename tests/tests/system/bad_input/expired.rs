//! Client certificates whose time is over end in the handshake, and are counted.

use std::fs;
use std::time::{Duration, Instant};

use audit::EventType;
use proto::v1::GetCheckpointRequest;
use proto::v1::audit_service_client::AuditServiceClient;
use tonic::Code;

use super::{PATIENCE, openssl};
use crate::caller::{Caller, reason};
use crate::support::Deployment;

const CONFIGURATION: &str = "
[ca]
default_ca = here
[here]
database = index.txt
serial = serial
new_certs_dir = .
policy = policy
default_md = sha256
unique_subject = no
x509_extensions = client
[policy]
commonName = supplied
[client]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = clientAuth
[req]
distinguished_name = name
x509_extensions = root
[name]
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
";

/// A certificate authority that the daemon trusts beside its own, so that nothing but the dates tells two clients apart.
fn trust_another_authority(deployment: &Deployment) {
    fs::create_dir(deployment.path("other")).unwrap();
    let write = |name: &str, text: &str| fs::write(deployment.path(name), text).unwrap();
    write("other.cnf", CONFIGURATION);
    write("index.txt", "");
    write("serial", "01");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "other-ca.key"];
    let root = ["-subj", "/CN=other", "-days", "30", "-out", "other-ca.pem"];
    openssl(deployment, &[&["req", "-x509", "-config", "other.cnf"][..], &key, &root].concat());
    let trusted = deployment.path("data/tls/operator-ca.pem");
    let both = [fs::read(&trusted).unwrap(), fs::read(deployment.path("other-ca.pem")).unwrap()];
    fs::write(&trusted, both.concat()).unwrap();
}

/// A client's folder, certified from and until.
fn certify(deployment: &Deployment, name: &str, from: &str, until: &str) {
    let path = |file: &str| format!("{name}/{file}");
    fs::create_dir(deployment.path(name)).unwrap();
    let (key, csr, certificate) = (path("tls-key.pem"), path("tls.csr"), path("tls.pem"));
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", &key];
    let request = ["req", "-new", "-config", "other.cnf", "-subj", "/CN=client", "-out", &csr];
    openssl(deployment, &[&request[..], &new].concat());
    let issue = ["ca", "-batch", "-config", "other.cnf", "-cert", "other-ca.pem", "-keyfile", "other-ca.key"];
    let dates = ["-startdate", from, "-enddate", until, "-notext", "-in", &csr, "-out", &certificate];
    openssl(deployment, &[&issue[..], &dates].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_client_certificate_ends_in_the_handshake_and_is_counted_in_the_log() {
    let mut deployment = Deployment::found();
    trust_another_authority(&deployment);
    certify(&deployment, "expired", "20200101000000Z", "20210101000000Z");
    certify(&deployment, "early", "20480101000000Z", "20490101000000Z");
    certify(&deployment, "valid", "20200101000000Z", "20490101000000Z");
    deployment.restart();
    let refused = |deployment: &Deployment| {
        let text = deployment.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix("chancery_handshakes_refused_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let call = async |name: &str| {
        let ca = deployment.path("handover/authority-ca.pem");
        // In TLS 1.3 the client hears of the refusal with its first read, so connecting may seem to succeed.
        let caller = Caller::connect(&deployment.path(name), &ca, deployment.port()).await.ok()?;
        let request = GetCheckpointRequest::default();
        Some(AuditServiceClient::new(caller.channel).get_checkpoint(request).await.unwrap_err())
    };
    // The same authority, in time: let in, and unknown to the authority records.
    let status = call("valid").await.unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNKNOWN_PRINCIPAL"));
    // A client may try several times.
    let mut count = refused(&deployment);
    for name in ["expired", "early"] {
        let status = call(name).await;
        assert!(status.is_none_or(|status| status.code() != Code::Unauthenticated), "{name} was let in");
        // The client may hear of it before the daemon has counted it.
        let started = Instant::now();
        while refused(&deployment) == count {
            assert!(started.elapsed() < PATIENCE, "{name} is not counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        count = refused(&deployment);
    }
    let counted = |deployment: &Deployment| {
        let entries = deployment.entries();
        let refused = entries.iter().filter(|entry| entry.header.event == EventType::HandshakeRefused);
        refused.filter_map(|entry| entry.number("count")).sum::<u64>()
    };
    let started = Instant::now();
    while counted(&deployment) < count {
        assert!(started.elapsed() < PATIENCE, "the refused handshakes are not in the log");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
