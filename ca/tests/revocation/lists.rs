//! The lists: what is on them, when they are due, and that OpenSSL agrees.

use std::process::Command;

use crate::authority::{Authority, START, day, soon};
use audit::{EntryDraft, EventType, Outcome};
use ca::{CaError, DueReason, ListName};
use domain::{ReasonCode, RevocationReason};
use pki::CertificateRole;
use prost::Message as _;
use proto::records;
use store::{Change, Commit, Store as _};

fn due(reason: DueReason) -> Vec<(String, DueReason)> {
    vec![("ci".into(), reason)]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_list_is_empty_and_due_at_once_for_the_ci_only() {
    let authority = Authority::found().await;
    assert_eq!(authority.due(START), due(DueReason::None));
    let published = authority.publish(START).await;
    assert_eq!((published.number, published.entries), (1, 0));
    assert_eq!(published.next_update, day(7));
    assert_eq!(authority.newest().der(), published.der);
    assert_eq!(authority.due(START), []);
    assert_eq!(authority.told(), ["crl.intent intent 1", "crl.signed done 1"]);

    for issuer in ["operator", "maker"] {
        let refused = ca::publish_crl(&authority.engines, &ListName::full(issuer), START, soon()).await;
        assert!(
            matches!(&refused, Err(CaError::Refused(r)) if r.refusal.reason == ReasonCode::PolicyViolation),
            "{issuer}"
        );
    }
    assert!(ca::newest_crl(authority.log.as_ref(), &ListName::full("maker")).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_due_again_at_half_of_its_validity_and_after_a_revocation() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    authority.publish(START).await;
    let half = START.plus_seconds(ca::CRL_REFRESH_AFTER_SECONDS);
    assert_eq!(authority.due(half.plus_micros(-1)), []);
    assert_eq!(authority.due(half), due(DueReason::Age));
    authority.publish(half).await;
    assert_eq!(authority.due(half), []);

    authority.revoke(pb.serial(), RevocationReason::PrivilegeWithdrawn, half).await;
    assert_eq!(authority.due(half), due(DueReason::Revocation));
    authority.publish(half).await;
    assert_eq!(authority.due(half), []);
    assert_eq!(authority.newest().number(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_stays_on_every_later_list() {
    let authority = Authority::found().await;
    let mut revoked = Vec::new();
    for (days, reason) in RevocationReason::ALL.iter().enumerate() {
        let dp = authority.issue_dp(CertificateRole::DpAuth).await;
        authority.revoke(dp.serial(), *reason, day(days as i64)).await;
        revoked.push((dp.serial().clone(), *reason));
        assert_eq!(authority.publish(day(days as i64)).await.number, days as u64 + 1);
        let crl = authority.newest();
        assert_eq!(crl.revoked().len(), revoked.len());
        for (serial, reason) in &revoked {
            assert_eq!(crl.find(serial).unwrap().reason, *reason);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_back_makes_no_list_older_than_the_one_before() {
    let authority = Authority::found().await;
    authority.publish(day(2)).await;
    let again = authority.publish(day(1)).await;
    assert_eq!((again.number, again.this_update), (2, day(2)));
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    authority.revoke(pb.serial(), RevocationReason::Superseded, day(3)).await;
    assert_eq!(authority.publish(day(1)).await.this_update, day(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_asked_for_at_once_are_made_one_after_the_other() {
    let authority = Authority::found().await;
    let lists = (0..8).map(|_| {
        let engines = authority.engines.clone();
        let list = ListName::full("ci");
        tokio::spawn(async move { ca::publish_crl(&engines, &list, START, soon()).await.unwrap().number })
    });
    let mut numbers = Vec::new();
    for list in lists.collect::<Vec<_>>() {
        numbers.push(list.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    assert_eq!(authority.newest().number(), Some(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fullest_list_fits_and_what_would_not_fit_is_not_revoked() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    let index = ca::KEYSPACES.into_iter().find(|keyspace| keyspace.name == "revocations").unwrap();
    let row = records::Revocation {
        version: 1,
        revoked_micros: START.micros(),
        reason: RevocationReason::KeyCompromise.as_str().into(),
        invalid_since_micros: START.micros(),
        shard: String::new(),
        expires_seconds: day(1_000).seconds(),
    };
    let entry = EntryDraft::new(EventType::CertificateRevoked, Outcome::Done);
    // With so many beyond the bound as may be under way at once; every entry as long as one can be.
    let numbers: Vec<u32> = (0..ca::REVOCATIONS_MAX as u32 + 100).collect();
    for part in numbers.chunks(2_000) {
        let mut commit = Commit::of(vec![entry.clone()]);
        for n in part {
            let serial = [&[0x7f; 16][..], &n.to_be_bytes()].concat();
            let key = [b"ci\0".as_slice(), &serial].concat();
            commit.changes.push(Change::put(index, key, row.encode_to_vec()));
        }
        authority.log.commit(commit).await.unwrap();
    }

    assert_eq!(authority.publish(START).await.entries, 100_100);
    assert_eq!(authority.newest().revoked().len(), 100_100);
    assert_eq!(authority.due(START), []);
    let (reason, message) = authority.refusal(pb.serial());
    assert_eq!(reason, ReasonCode::PolicyViolation);
    assert!(message.contains("all that its list can hold"), "{message}");
}

/// A certificate names the very files under which the lists are served.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_name_the_files_of_their_issuers_lists() {
    let authority = Authority::found().await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    let der = hex::encode(pb.certificate.der());
    for file in ListName::full("ci").files() {
        assert!(
            der.contains(&hex::encode(format!("http://crl.example.org{}{file}", ca::CRL_PATH))),
            "{file}"
        );
        assert_eq!(ListName::of_file(&file), Some(ListName::full("ci")));
    }
}

/// Whether OpenSSL accepts, and what it prints.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must see what was not judged")]
pub fn openssl(arguments: &[&str]) -> Option<(bool, String)> {
    match Command::new("openssl").args(arguments).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) => {
            eprintln!("SKIPPED: openssl cannot be run ({error}); this test judged nothing");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_finds_the_revoked_dppb_and_accepts_dpauth() {
    let authority = Authority::found().await;
    let auth = authority.issue_dp(CertificateRole::DpAuth).await;
    let pb = authority.issue_dp(CertificateRole::DpPb).await;
    authority.revoke(pb.serial(), RevocationReason::KeyCompromise, START).await;
    authority.publish(START).await;
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ci.pem", authority.issuer("ci").certificate().unwrap().pem());
    let list = file("ci.crl", authority.newest().pem());
    let at = START.plus_seconds(60).seconds().to_string();
    let leaves = [("auth.pem", &auth, None), ("pb.pem", &pb, Some("error 23 at 0 depth"))];
    for (name, issued, error) in leaves {
        let leaf = file(name, issued.certificate.pem());
        let options = ["-x509_strict", "-crl_check", "-attime", &at, "-CAfile", &ca, "-CRLfile", &list];
        let Some((accepted, text)) = openssl(&[&["verify"], &options[..], &[leaf.as_str()]].concat()) else {
            return;
        };
        assert_eq!(accepted, error.is_none(), "{text}");
        assert!(text.contains(error.unwrap_or("OK")), "{text}");
    }
}
