//! Stops and faults between the steps: no number is used twice, no revocation is forgotten.

use std::time::Instant;

use crate::authority::{Authority, START, soon};
use ca::{CaError, DueReason};
use domain::RevocationReason;
use hsm::{CallOptions, Priority};
use pki::CertificateRole;
use store::{CommitError, Store as _};

fn due(reason: DueReason) -> Vec<(String, DueReason)> {
    vec![("ci".into(), reason)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_without_its_list_is_due_after_a_stop() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    authority.publish(START).await;
    authority.revoke(pb.serial(), RevocationReason::KeyCompromise, START).await;

    let authority = authority.restart();
    assert_eq!(authority.newest().number(), Some(1));
    assert_eq!(authority.due(START), due(DueReason::Revocation));
    authority.publish(START).await;
    assert_eq!(authority.due(START), []);
    let crl = authority.newest();
    assert_eq!(crl.number(), Some(2));
    assert_eq!(crl.find(pb.serial()).unwrap().reason, RevocationReason::KeyCompromise);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_taken_before_a_stop_is_never_used_again() {
    let authority = Authority::found().await;
    authority.publish(START).await;
    // Stopped after the intent, before the token was asked.
    let prepared = ca::prepare_crl(&authority.engines, &ca::ListName::full("ci"), START).unwrap();
    assert_eq!(prepared.number(), 2);
    authority.log.commit(prepared.intent()).await.unwrap();

    let authority = authority.restart();
    assert_eq!(authority.newest().number(), Some(1));
    // Stopped again, after the token has signed and before the list was stored.
    let prepared = ca::prepare_crl(&authority.engines, &ca::ListName::full("ci"), START).unwrap();
    assert_eq!(prepared.number(), 3);
    let receipt = authority.log.commit(prepared.intent()).await.unwrap();
    let reserved = prepared.reserved(receipt.first_index);
    let signed = ca::sign_crl(&authority.engines, reserved, soon()).await;
    assert!(signed.is_ok());

    let authority = authority.restart();
    assert_eq!(authority.publish(START).await.number, 4);
    assert_eq!(authority.newest().number(), Some(4));
    assert_eq!(
        authority.told(),
        [
            "crl.intent intent 1",
            "crl.signed done 1",
            "crl.intent intent 2",
            "crl.intent intent 3",
            "crl.failed failed SHUTTING_DOWN 2",
            "crl.intent intent 4",
            "crl.failed failed SHUTTING_DOWN 3",
            "crl.signed done 4",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_overtaken_is_never_stored() {
    let authority = Authority::found().await;
    let first = ca::prepare_crl(&authority.engines, &ca::ListName::full("ci"), START).unwrap();
    let rival = ca::prepare_crl(&authority.engines, &ca::ListName::full("ci"), START).unwrap();
    let receipt = authority.log.commit(first.intent()).await.unwrap();
    // Two nodes cannot take one number.
    let lost = authority.log.commit(rival.intent()).await;
    assert!(matches!(lost, Err(CommitError::PreconditionFailed { keyspace: "crl_numbers" })), "{lost:?}");

    let first = ca::sign_crl(&authority.engines, first.reserved(receipt.first_index), soon()).await;
    let first = first.map_err(|(error, _)| error).unwrap();
    assert_eq!(authority.publish(START).await.number, 2);
    let lost = authority.log.commit(first.outcome()).await;
    assert!(matches!(lost, Err(CommitError::PreconditionFailed { .. })), "{lost:?}");
    assert_eq!(authority.newest().number(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_sign_costs_a_number_and_leaves_the_issuer_due() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    authority.publish(START).await;
    authority.revoke(pb.serial(), RevocationReason::Unspecified, START).await;
    let too_late = CallOptions { deadline: Instant::now(), priority: Priority::Incident };
    let failed = ca::publish_crl(&authority.engines, &ca::ListName::full("ci"), START, too_late).await;
    assert!(matches!(failed, Err(CaError::Token(_))), "{:?}", failed.map(|_| ()));
    assert_eq!(authority.due(START), due(DueReason::Revocation));
    assert_eq!(authority.newest().number(), Some(1));

    assert_eq!(authority.publish(START).await.number, 3);
    assert!(authority.newest().find(pb.serial()).is_some());
    assert_eq!(
        authority.told()[2..],
        [
            "certificate.revoked done",
            "crl.intent intent 2",
            "crl.failed failed TOKEN_UNAVAILABLE 2",
            "crl.intent intent 3",
            "crl.signed done 3",
        ]
    );
}
