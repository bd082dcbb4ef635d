//! The lists beside the full one: delta lists, shards, and the parts of SGP.22 v2.

use std::collections::BTreeSet;

use crate::authority::{Authority, START, about, day, soon};
use crate::lists::openssl;
use ca::{DueReason, ListKind, ListName, ListPolicy, Shard};
use domain::RevocationReason::{CertificateHold, KeyCompromise, Superseded};
use domain::Timestamp;
use pki::chain::verify_chain;
use pki::crl::Crl;
use pki::revocation::{RevocationRefusal, Standing, check};
use pki::{CertificateRole, CivilTime};

async fn founded(lists: ListPolicy) -> Authority {
    let mut authority = Authority::found().await;
    authority.engines.lists = lists;
    authority
}

/// What lists say of a DPauth or DPpb certificate, as a relying party sees it.
fn judged(
    authority: &Authority,
    issued: &ca::Issued,
    lists: &[Crl],
    at: Timestamp,
) -> Result<Standing, Vec<RevocationRefusal>> {
    let at = CivilTime::from_timestamp(at).unwrap();
    let ci = authority.issuer("ci");
    let roots = std::slice::from_ref(ci.certificate().unwrap());
    let role = pki::chain::gsma_role(&issued.certificate).unwrap();
    let chain = verify_chain(&issued.certificate, &[], roots, role, Some(at)).unwrap();
    check(&chain, lists, at).map(|standings| standings[0])
}

async fn release(authority: &Authority, issued: &ca::Issued) {
    let releasing = ca::release(&authority.engines, issued.serial(), "").unwrap();
    authority.apply(releasing.outcome(&about())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_list_says_what_changed_since_its_base() {
    let authority = founded(ListPolicy { delta: true, ..ListPolicy::default() }).await;
    let [kept, held, late] = [
        authority.issue_dp(CertificateRole::DpAuth).await,
        authority.issue_dp(CertificateRole::DpPb).await,
        authority.issue_dp(CertificateRole::DpAuth).await,
    ];
    authority.revoke(kept.serial(), Superseded, START).await;
    authority.revoke(held.serial(), CertificateHold, START).await;
    authority.publish(START).await;
    let base = authority.newest();
    assert_eq!(
        base.scope().freshest,
        ["a", "b"].map(|p| format!("http://crl.example.org/crl/ci~delta-{p}.crl"))
    );
    let delta = authority.newest_of(ListKind::Delta).unwrap();
    assert_eq!(
        (delta.number(), delta.scope().base),
        (Some(1), Some(1)),
        "the first full list is its own base"
    );
    assert!(delta.revoked().is_empty() && delta.removed().is_empty());

    release(&authority, &held).await;
    authority.revoke(late.serial(), KeyCompromise, day(1)).await;
    assert_eq!(authority.due(day(1)), [("ci".to_owned(), DueReason::Revocation)]);
    authority.publish(day(1)).await;
    let delta = authority.newest_of(ListKind::Delta).unwrap();
    assert_eq!((delta.number(), delta.scope().base), (Some(2), Some(1)));
    assert_eq!(delta.revoked().iter().map(|entry| &entry.serial).collect::<Vec<_>>(), [late.serial()]);
    assert_eq!(delta.removed().iter().map(|entry| &entry.serial).collect::<Vec<_>>(), [held.serial()]);
    // Base and delta say what the full list says.
    let (full, both) = (authority.newest(), [base.clone(), delta]);
    assert_eq!(full.number(), Some(2));
    for issued in [&kept, &held, &late] {
        let at = day(1).plus_seconds(1);
        let by_full = judged(&authority, issued, std::slice::from_ref(&full), at);
        assert_eq!(judged(&authority, issued, &both, at), by_full);
    }

    // A hold that becomes permanent is a change; half a validity later the next full list is the base.
    authority.revoke(held.serial(), CertificateHold, day(2)).await;
    authority.publish(day(2)).await;
    authority.revoke(held.serial(), KeyCompromise, day(2)).await;
    authority.publish(day(2)).await;
    let delta = authority.newest_of(ListKind::Delta).unwrap();
    assert_eq!(delta.scope().base, Some(1));
    assert_eq!(delta.find(held.serial()).unwrap().reason, KeyCompromise);
    let due = day(4);
    assert_eq!(authority.due(due), [], "made two days ago");
    authority.publish(due).await;
    let delta = authority.newest_of(ListKind::Delta).unwrap();
    assert_eq!((delta.number(), delta.scope().base), (Some(5), Some(5)));
    assert!(delta.revoked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_makes_no_more_goes_and_is_made_again() {
    let mut authority = founded(ListPolicy { delta: true, part_entries: 1, ..ListPolicy::default() }).await;
    let dp = authority.issue_dp(CertificateRole::DpPb).await;
    let other = authority.issue_dp(CertificateRole::DpAuth).await;
    for issued in [&dp, &other] {
        authority.revoke(issued.serial(), Superseded, START).await;
    }
    authority.publish(START).await;
    assert!(authority.newest_of(ListKind::Part(2)).is_some());
    assert_eq!(authority.due(START), []);
    authority.engines.lists = ListPolicy::default();
    assert_eq!(authority.due(START), [("ci".to_owned(), DueReason::None)]);
    authority.publish(START).await;
    for kind in [ListKind::Delta, ListKind::Part(1), ListKind::Part(2)] {
        assert!(authority.newest_of(kind).is_none(), "{kind}");
    }
    assert_eq!(authority.due(START), []);
    assert!(authority.newest().scope().freshest.is_empty());
    authority.engines.lists.delta = true;
    assert_eq!(authority.due(START), [("ci".to_owned(), DueReason::None)]);
    authority.publish(START).await;
    assert_eq!(authority.newest_of(ListKind::Delta).unwrap().scope().base, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_are_together_the_full_list_and_say_when_certificates_end() {
    let authority = founded(ListPolicy { part_entries: 2, ..ListPolicy::default() }).await;
    let mut revoked = Vec::new();
    for _ in 0..5 {
        let dp = authority.issue_dp(CertificateRole::DpPb).await;
        authority.revoke(dp.serial(), CertificateHold, START).await;
        revoked.push(dp);
    }
    let good = authority.issue_dp(CertificateRole::DpAuth).await;
    authority.publish(START).await;
    let parts: Vec<_> = (1..=3).map(|part| authority.newest_of(ListKind::Part(part)).unwrap()).collect();
    assert!(authority.newest_of(ListKind::Part(4)).is_none());
    let full = authority.newest();
    let serials = |crl: &Crl| crl.revoked().iter().map(|entry| entry.serial.clone()).collect::<BTreeSet<_>>();
    assert_eq!(parts.iter().flat_map(serials).collect::<BTreeSet<_>>(), serials(&full));
    for (part, crl) in (1..).zip(&parts) {
        assert_eq!(crl.scope().part, Some((part, 3)));
        assert_eq!(crl.number(), full.number());
    }
    for dp in &revoked {
        let entry = parts.iter().find_map(|part| part.find(dp.serial())).unwrap();
        assert_eq!(entry.expires, Some(dp.certificate.not_after()));
        assert_eq!(full.find(dp.serial()).unwrap().expires, None);
    }
    let at = START.plus_seconds(1);
    assert_eq!(judged(&authority, &good, &parts, at), Ok(Standing::NotRevoked));
    assert!(judged(&authority, &good, &parts[1..], at).is_err(), "one is missing");
    assert!(judged(&authority, &revoked[0], &parts, at).is_err());
    // With one fewer there are two parts; what was left of the third is gone.
    release(&authority, &revoked[0]).await;
    authority.publish(START).await;
    assert_eq!(authority.newest_of(ListKind::Part(2)).unwrap().scope().part, Some((2, 2)));
    assert!(authority.newest_of(ListKind::Part(3)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_names_the_list_of_its_shard_for_ever() {
    let mut authority = founded(ListPolicy { shards: 4, ..ListPolicy::default() }).await;
    let name = |shard: Shard| ListName { kind: ListKind::Shard(shard), ..ListName::full("ci") };
    let all: Vec<_> = (0..4).map(|index| Shard { index, of: 4 }).collect();
    let names = |due: DueReason| {
        let shards = all.iter().map(|shard| (name(*shard).to_string(), due));
        [("ci".to_owned(), due)].into_iter().chain(shards).collect::<Vec<_>>()
    };
    assert_eq!(authority.due(START), names(DueReason::None));
    let mut issued = Vec::new();
    for _ in 0..12 {
        issued.push(authority.issue_dp(CertificateRole::DpPb).await);
    }
    for list in all.iter().map(|shard| name(*shard)).chain([ListName::full("ci")]) {
        authority.publish_list(&list, START).await;
    }
    assert_eq!(authority.due(START), []);

    let shard_of = |issued: &ca::Issued| {
        let url = issued.certificate.crl_urls()[0].clone();
        let file = url.strip_prefix("http://crl.example.org/crl/").unwrap().to_owned();
        let ListKind::Shard(shard) = ListName::of_file(&file).unwrap().kind else { panic!("{url}") };
        shard
    };
    let revoked = &issued[0];
    authority.revoke(revoked.serial(), KeyCompromise, day(1)).await;
    let shard = shard_of(revoked);
    // The full list and that shard alone are due.
    let due = [("ci".to_owned(), DueReason::Revocation), (name(shard).to_string(), DueReason::Revocation)];
    assert_eq!(authority.due(day(1)), due);
    for list in [name(shard), ListName::full("ci")] {
        authority.publish_list(&list, day(1)).await;
    }
    let at = day(1).plus_seconds(1);
    let list_of = |authority: &Authority, shard: Shard| authority.newest_of(ListKind::Shard(shard)).unwrap();
    for one in &issued {
        let list = list_of(&authority, shard_of(one));
        assert_eq!(list.scope().distribution_points, one.certificate.crl_urls());
        let found = judged(&authority, one, &[list], at);
        assert_eq!(found.is_ok(), one.serial() != revoked.serial(), "{found:?}");
        let other = all.iter().find(|other| **other != shard_of(one)).unwrap();
        let unknown = judged(&authority, one, &[list_of(&authority, *other)], at);
        assert_eq!(unknown, Err(vec![RevocationRefusal::Unknown { depth: 0 }]));
    }
    let numbers = |kind| authority.newest_of(kind).unwrap().number();
    assert_eq!((numbers(ListKind::Full), numbers(ListKind::Shard(shard))), (Some(2), Some(2)));

    // Other shards from now on; certificates of before keep theirs, whose lists are made on.
    authority.engines.lists.shards = 2;
    let half = START.plus_seconds(ca::CRL_REFRESH_AFTER_SECONDS);
    let due: Vec<_> = authority.due(half).into_iter().map(|(list, _)| list).collect();
    let old = all.iter().filter(|other| **other != shard).map(|shard| name(*shard).to_string());
    let new = (0..2).map(|index| name(Shard { index, of: 2 }).to_string());
    let expected: BTreeSet<_> = old.chain(new).collect();
    assert_eq!(due.into_iter().collect::<BTreeSet<_>>(), expected);
    authority.revoke(issued[1].serial(), Superseded, half).await;
    let list = name(shard_of(&issued[1]));
    authority.publish_list(&list, half).await;
    assert!(list_of(&authority, shard_of(&issued[1])).find(issued[1].serial()).is_some());

    // A judge that is not ours.
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca = file("ci.pem", authority.issuer("ci").certificate().unwrap().pem());
    let seconds = half.plus_seconds(60).seconds().to_string();
    for (one, accepted) in [(&issued[1], false), (&issued[2], true)] {
        let leaf = file("dp.pem", one.certificate.pem());
        let list = file("shard.pem", list_of(&authority, shard_of(one)).pem());
        let options = ["verify", "-crl_check", "-extended_crl", "-attime", &seconds, "-CAfile", &ca];
        let Some((found, text)) = openssl(&[&options[..], &["-CRLfile", &list, &leaf]].concat()) else {
            return;
        };
        assert_eq!(found, accepted, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_list_is_none_to_be_asked_for_alone() {
    let authority = founded(ListPolicy { delta: true, ..ListPolicy::default() }).await;
    let delta = ListName { kind: ListKind::Delta, ..ListName::full("ci") };
    assert!(ca::publish_crl(&authority.engines, &delta, START, soon()).await.is_err());
    assert!(ca::newest_crl(authority.log.as_ref(), &delta).unwrap().is_none());
}
