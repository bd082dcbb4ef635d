//! What may be revoked, what may not, and what is left of it.

use crate::authority::{Authority, START, about, day};
use audit::EventType;
use ca::RevocationRequest;
use domain::{ReasonCode, RevocationReason};
use pki::{CertificateRole, SerialNumber};

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_shows_in_the_register_and_in_the_log() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    authority.revoke(pb.serial(), RevocationReason::KeyCompromise, day(1)).await;

    let view = ca::find_by_serial(authority.log.as_ref(), pb.serial().as_bytes(), "").unwrap().unwrap();
    assert_eq!(view.state, "revoked");
    assert_eq!(view.der, pb.certificate.der());
    let revocation = view.revocation.unwrap();
    assert_eq!((revocation.at, revocation.reason), (day(1), RevocationReason::KeyCompromise));

    let entries = authority.entries();
    let entry = entries.iter().find(|e| e.header.event == EventType::CertificateRevoked).unwrap();
    assert_eq!(entry.header.actor, Some(about().actor));
    assert_eq!(entry.name("revocation_reason"), Some("key-compromise"));
    assert_eq!(entry.name("issuer"), Some("ci"));
    assert_eq!(entry.name("profile"), Some("dppb"));
    assert_eq!(entry.digest("certificate"), Some(pb.certificate.digest()));
    let serial = audit::Fact::bytes(pb.serial().as_bytes()).unwrap();
    assert_eq!(entry.facts.get("serial"), Some(&serial));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_list_can_show_is_not_revoked() {
    let authority = Authority::found().await;
    let unknown = SerialNumber::from_random([9; 20]);
    assert_eq!(authority.refusal(&unknown).0, ReasonCode::UnknownCertificate);

    let prepared =
        ca::prepare(&authority.engines, authority.request(CertificateRole::DpAuth, "ci", "dp"), START)
            .unwrap();
    authority.apply(prepared.intent(&about())).await.unwrap();
    let (reason, message) = authority.refusal(prepared.serial());
    assert_eq!(reason, ReasonCode::Conflict);
    assert!(message.contains("not issued yet"), "{message}");

    for (serial, words) in [
        (authority.issue(authority.euicc_request()).await.serial().clone(), "freeze the device"),
        (authority.issue(authority.client_request()).await.serial().clone(), "suspend its holder"),
        (authority.issuer("ci").certificate().unwrap().serial().clone(), "root ci"),
    ] {
        let (reason, message) = authority.refusal(&serial);
        assert_eq!(reason, ReasonCode::PolicyViolation);
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(authority.told(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_revoked_once_whoever_asks() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    let request = |reason| RevocationRequest {
        serial: pb.serial().clone(),
        issuer: String::new(),
        reason,
        invalid_since: None,
    };
    let first = ca::revoke(&authority.engines, &request(RevocationReason::Superseded), START).unwrap();
    let second = ca::revoke(&authority.engines, &request(RevocationReason::KeyCompromise), START).unwrap();
    authority.apply(first.outcome(&about())).await.unwrap();
    let lost = authority.apply(second.outcome(&about())).await;
    assert!(matches!(lost, Err(store::CommitError::PreconditionFailed { .. })), "{lost:?}");

    let (reason, message) = authority.refusal(pb.serial());
    assert_eq!(reason, ReasonCode::Conflict);
    assert!(message.contains("revoked already, for superseded"), "{message}");
    assert_eq!(authority.told(), ["certificate.revoked done"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manufacturer_whose_certificate_is_revoked_issues_no_more() {
    let authority = Authority::found().await;
    let under_way = ca::prepare(&authority.engines, authority.euicc_request(), START).unwrap();
    let eum = authority.issuer("maker").certificate().unwrap().serial().clone();
    authority.revoke(&eum, RevocationReason::CaCompromise, START).await;

    let refused = ca::prepare(&authority.engines, authority.euicc_request(), START);
    let Err(ca::CaError::Refused(refused)) = refused else { panic!("{:?}", refused.map(|_| ())) };
    assert_eq!(refused.refusal.reason, ReasonCode::PolicyViolation);
    assert!(refused.refusal.message.contains("issuer maker is revoked, for ca-compromise"));
    // Nor does what was prepared before.
    assert!(authority.apply(under_way.intent(&about())).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_certificate_is_released_or_revoked_from_the_hold_on() {
    let authority = Authority::found().await;
    let (pb, auth) =
        (authority.issue_dp(CertificateRole::DpPb).await, authority.issue_dp(CertificateRole::DpAuth).await);
    for held in [&pb, &auth] {
        let holding = ca::hold(&authority.engines, held.serial(), "", day(1)).unwrap();
        authority.apply(holding.outcome(&about())).await.unwrap();
    }
    let view = |serial: &SerialNumber| {
        ca::find_by_serial(authority.log.as_ref(), serial.as_bytes(), "").unwrap().unwrap()
    };
    let revocation = view(pb.serial()).revocation.unwrap();
    assert_eq!((revocation.at, revocation.reason), (day(1), RevocationReason::CertificateHold));
    authority.publish(day(1)).await;
    assert_eq!(authority.newest().revoked().len(), 2);
    // Held already; and a hold is no revocation that can be made in its place.
    assert!(ca::hold(&authority.engines, pb.serial(), "", day(2)).is_err());

    // Released: in force, and the next list, which is due, does not show it.
    let releasing = ca::release(&authority.engines, pb.serial(), "").unwrap();
    let late = ca::release(&authority.engines, pb.serial(), "").unwrap();
    authority.apply(releasing.outcome(&about())).await.unwrap();
    assert!(authority.apply(late.outcome(&about())).await.is_err());
    assert_eq!(view(pb.serial()).state, "issued");
    assert!(ca::release(&authority.engines, pb.serial(), "").is_err());
    assert_eq!(authority.due(day(2)), [("ci".to_owned(), ca::DueReason::Revocation)]);
    authority.publish(day(2)).await;
    assert_eq!(authority.newest().revoked().len(), 1);
    assert_eq!(authority.due(day(2)), []);

    // Revoked for good: from the hold on, with the date since when the key was in other hands.
    let request = |invalid_since| RevocationRequest {
        serial: auth.serial().clone(),
        issuer: String::new(),
        reason: RevocationReason::KeyCompromise,
        invalid_since: Some(invalid_since),
    };
    for wrong in [START.plus_seconds(-86_400), day(4)] {
        assert!(ca::revoke(&authority.engines, &request(wrong), day(3)).is_err());
    }
    let revoking = ca::revoke(&authority.engines, &request(START), day(3)).unwrap();
    authority.apply(revoking.outcome(&about())).await.unwrap();
    let revocation = view(auth.serial()).revocation.unwrap();
    assert_eq!((revocation.at, revocation.reason), (day(1), RevocationReason::KeyCompromise));
    assert_eq!(authority.due(day(3)), [("ci".to_owned(), ca::DueReason::Revocation)]);
    authority.publish(day(3)).await;
    let entry = authority.newest().revoked()[0].clone();
    assert_eq!(entry.reason, RevocationReason::KeyCompromise);
    assert_eq!(entry.invalid_since.unwrap().unix_seconds(), START.seconds());
    assert!(ca::release(&authority.engines, auth.serial(), "").is_err());
    assert_eq!(
        authority.told().into_iter().filter(|told| told.starts_with("certificate.")).collect::<Vec<_>>(),
        [
            "certificate.held done",
            "certificate.held done",
            "certificate.released done",
            "certificate.revoked done"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_certified_with_an_algorithm_whose_time_is_over() {
    let authority = Authority::found().await;
    let request = || authority.request(CertificateRole::DpAuth, "ci", "dp");
    assert!(ca::prepare(&authority.engines, request(), START).is_ok());
    let disallowed = domain::Timestamp::from_seconds(2_082_758_400);
    match ca::prepare(&authority.engines, request(), disallowed) {
        Err(ca::CaError::Refused(refused)) => {
            assert_eq!(refused.refusal.reason, ReasonCode::WeakKey);
            assert!(refused.refusal.message.contains("P-256 is disallowed"), "{}", refused.refusal.message);
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert!(ca::prepare(&authority.engines, request(), disallowed.plus_seconds(-1)).is_ok());
}
