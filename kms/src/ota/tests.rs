//! Counters and reservations against a log of their own, without a token.

use std::collections::HashSet;

use audit::{EntryDraft, EventType, Outcome};
use domain::{Eid, KeyVersionNumber, PrincipalId, Protocol, ReasonCode, SecurityDomain, Timestamp};
use store::{Commit, CommitError, LogStore, Store as _};
use tempfile::TempDir;

use super::counter::{Reservation, count, last_taken, reserve, reserved, take};
use super::*;
use crate::allowance::Allowance;
use crate::keyspaces::OTA_RESERVATIONS;
use crate::rotation::tests::{NOW, log};

fn eid() -> Eid {
    "89049032123451234512345678901235".parse().unwrap()
}

fn keyset() -> KeysetName {
    KeysetName {
        security_domain: SecurityDomain::IsdR,
        protocol: Protocol::Scp80,
        kvn: KeyVersionNumber::new(Protocol::Scp80, 1).unwrap(),
    }
}

fn platform(number: u8) -> Platform {
    let unchanged = Precondition::Absent { keyspace: OTA_RESERVATIONS, key: Vec::new() };
    Platform { name: "ota-one".into(), principal: PrincipalId([number; 32]), unchanged }
}

fn request(key: &str, digest: u8) -> RequestId {
    RequestId { idempotency_key: key.into(), digest: [digest; 32], is_repeat: false }
}

fn commit() -> Commit {
    Commit::of(vec![EntryDraft::new(EventType::OtaCounterTaken, Outcome::Intent)])
}

/// Takes the next counter in a commit that is not made yet.
fn taken(log: &LogStore) -> (u64, Commit) {
    let mut commit = commit();
    let counter = take(log, (&eid(), &keyset()), None, &mut commit).unwrap().unwrap();
    (counter.value(), commit)
}

#[test]
fn a_counter_is_taken_by_its_commit_and_by_one_alone() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    assert_eq!(last_taken(&log, (&eid(), &keyset())).unwrap(), None);
    // Two nodes at a time: both read the same, one commit happens.
    let ((first, one), (second, other)) = (taken(&log), taken(&log));
    assert_eq!((first, second), (1, 1));
    log.commit(one).wait().unwrap();
    let lost = log.commit(other).wait().unwrap_err();
    assert!(matches!(lost, CommitError::PreconditionFailed { keyspace: "ota_counters" }), "{lost}");
    assert_eq!(last_taken(&log, (&eid(), &keyset())).unwrap(), Some(1));
    let (next, commit) = taken(&log);
    log.commit(commit).wait().unwrap();
    assert_eq!(next, 2);
    // A keyset of another number counts for itself.
    let other = keyset().with_kvn(KeyVersionNumber::new(Protocol::Scp80, 2).unwrap());
    assert_eq!(last_taken(&log, (&eid(), &other)).unwrap(), None);
}

#[test]
fn a_request_finds_what_it_has_taken_for_a_day_and_no_other_request_does() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let turns = Turns::default();
    let (platform, other) = (platform(1), platform(2));
    let kept = Reservation { counter: 7, host_challenge: vec![3; 8] };
    let reserving = || {
        let mut commit = commit();
        reserve(&log, &turns, &platform, &request("a", 1), &kept, NOW, &mut commit).unwrap();
        commit
    };
    let twice = reserving();
    log.commit(reserving()).wait().unwrap();
    let lost = log.commit(twice).wait().unwrap_err();
    assert!(matches!(lost, CommitError::PreconditionFailed { keyspace: "ota_reservations" }), "{lost}");
    let found =
        |platform: &Platform, request: &RequestId, now| reserved(&log, platform, request, now).unwrap();
    assert_eq!(found(&platform, &request("a", 1), NOW), Ok(Some(kept.clone())));
    assert_eq!(found(&platform, &request("a", 1), NOW.plus_seconds(86_399)), Ok(Some(kept)));
    let reason = found(&platform, &request("a", 2), NOW).unwrap_err().reason;
    assert_eq!(reason, ReasonCode::IdempotencyKeyReused);
    assert_eq!(found(&platform, &request("b", 1), NOW), Ok(None));
    assert_eq!(found(&other, &request("a", 1), NOW), Ok(None));
    assert_eq!(found(&platform, &request("a", 1), NOW.plus_seconds(2 * 86_400)), Ok(None));
}

#[test]
fn reservations_of_past_days_go_with_later_ones() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let turns = Turns::default();
    let later = NOW.plus_seconds(3 * 86_400);
    let take = |key: &str, now: Timestamp| {
        let mut commit = commit();
        let kept = Reservation { counter: 1, host_challenge: Vec::new() };
        reserve(&log, &turns, &platform(1), &request(key, 1), &kept, now, &mut commit).unwrap();
        log.commit(commit).wait().unwrap();
        log.scan(OTA_RESERVATIONS, &[], None, 100).unwrap().len()
    };
    for key in ["a", "b", "c"] {
        take(key, NOW);
    }
    assert_eq!(take("d", later), 1);
    assert_eq!(take("e", later), 2);
}

#[test]
fn a_grant_lets_so_many_packets_a_minute_be_made_for_each_device() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let allowance = Allowance::parse(&proto::v1::CreateGrant {
        tars: vec![vec![0xb0, 0, 0x10]],
        instructions: vec![0xf2],
        packets_per_minute: 2,
        ..proto::v1::CreateGrant::default()
    })
    .unwrap();
    let terms = GrantTerms {
        name: "g".into(),
        provisioner: "ota-one".into(),
        eids: HashSet::new(),
        eins: Vec::new(),
        purpose: "p".into(),
        lawful_basis: "b".into(),
        expires: NOW.plus_seconds(1),
        allowance,
    };
    let packet = |eid: &Eid, now: Timestamp| {
        let mut commit = commit();
        let counted = count(&log, &terms, eid, now, &mut commit).unwrap();
        if counted.is_ok() {
            log.commit(commit).wait().unwrap();
        }
        counted.map_err(|refusal| refusal.reason)
    };
    let other: Eid = "89882119900000000000000000000005".parse().unwrap();
    assert_eq!(packet(&eid(), NOW), Ok(()));
    assert_eq!(packet(&eid(), NOW), Ok(()));
    assert_eq!(packet(&eid(), NOW), Err(ReasonCode::PacketRateExceeded));
    assert_eq!(packet(&other, NOW), Ok(()));
    assert_eq!(packet(&eid(), NOW.plus_seconds(60)), Ok(()));
}

#[test]
fn no_command_that_manages_keys_passes_whoever_asks() {
    for ins in 0..=u8::MAX {
        let commands = [0xf2, ins].map(|ins| Apdu::new([0x80, ins, 0, 0], Vec::new(), None));
        let refused = refuse_key_management(&commands).map_err(|refusal| refusal.reason);
        let manages = [0xd8, 0xe4, 0xe2, 0xe6, 0xf0, 0x50, 0x82, 0x88, 0x2a, 0x22].contains(&ins);
        assert_eq!(refused.is_err(), manages, "{ins:02x}");
    }
}
