//! Who is let in: certificates of another authority end in the handshake, and a grant ends when it says.

use std::time::{Duration, Instant};

use audit::EventType;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;
use tonic::Code;

use crate::caller::{Caller, reason};
use crate::devices::eid;
use crate::support::{Deployment, GRANTED};

#[tokio::test(flavor = "multi_thread")]
async fn another_authoritys_certificate_ends_in_the_handshake_and_is_counted_in_the_log() {
    let (ours, theirs) = (Deployment::found(), Deployment::found());
    let device = theirs.order("first", &[eid(GRANTED, 1)]).remove(0);
    let ca = ours.path("handover/authority-ca.pem");
    // In TLS 1.3 the client hears of the refusal with its first read, so connecting may seem to succeed.
    if let Ok(stranger) = Caller::connect(&theirs.path("provisioner"), &ca, ours.port()).await {
        let request = device.request("stranger", "remote-management", CryptogramBehaviour::Honest);
        SessionKeyServiceClient::new(stranger.channel).fetch_session_keys(request).await.unwrap_err();
    }
    let counted = |deployment: &Deployment| {
        let entries = deployment.entries();
        let refused = entries.iter().filter(|entry| entry.header.event == EventType::HandshakeRefused);
        refused.filter_map(|entry| entry.number("count")).sum::<u64>()
    };
    let started = Instant::now();
    while counted(&ours) == 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "the refused handshake is not in the log");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_releases_keys_until_it_expires_and_none_after() {
    let deployment = Deployment::found();
    let device = deployment.order("first", &[eid(GRANTED, 1)]).remove(0);
    deployment.grant("short", "field-test", GRANTED, "10s");
    let mut client = SessionKeyServiceClient::new(deployment.caller("provisioner").await.channel);
    let started = Instant::now();
    let refusal = loop {
        let key = format!("fetch-{}", started.elapsed().as_micros());
        let request = device.request(&key, "field-test", CryptogramBehaviour::Honest);
        if let Err(status) = client.fetch_session_keys(request).await {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "an expired grant still releases keys");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((refusal.code(), reason(&refusal).as_str()), (Code::PermissionDenied, "GRANT_EXPIRED"));
}
