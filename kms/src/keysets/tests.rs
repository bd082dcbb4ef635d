//! States and taint against a log of their own, without a token.

use audit::EventType;
use domain::{
    Eid, KeyCheckValue, KeyState, KeyVersionNumber, KeysetAlgorithm, MasterGeneration, Protocol, Role,
    SecurityDomain, Timestamp,
};
use store::{Change, LogStore, Store as _};

use super::*;
use crate::KeysetSource;
use crate::keyspaces::{KEYSETS, TAINT_WALKS};
use crate::rotation::tests::{NOW, log, pseudonyms, write};

fn eid(number: u128) -> Eid {
    let first = format!("890490321234512345{number:012}");
    let remainder = format!("{first}00").bytes().fold(0_u32, |sum, c| (sum * 10 + u32::from(c - b'0')) % 97);
    format!("{first}{:02}", 98 - remainder).parse().unwrap()
}

fn name(kvn: u32) -> KeysetName {
    KeysetName {
        security_domain: SecurityDomain::IsdR,
        protocol: Protocol::Scp03,
        kvn: KeyVersionNumber::scp03(kvn).unwrap(),
    }
}

fn keyset(state: KeyState, delivered_under: &str) -> KeysetRecord {
    KeysetRecord {
        algorithm: KeysetAlgorithm::Aes128,
        state,
        source: KeysetSource::derived(MasterGeneration(1)),
        delivered_under: delivered_under.to_owned(),
        effective_strength: 128,
        check_values: vec![KeyCheckValue([1; 3]), KeyCheckValue([2; 3]), KeyCheckValue([3; 3])],
        created: NOW,
        rotation: None,
        ends: None,
        taint: None,
        version: 0,
    }
}

fn put(log: &LogStore, eid: &Eid, kvn: u32, keyset: &KeysetRecord) {
    write(log, vec![Change::put(KEYSETS, name(kvn).row_key(eid), keyset.encode())]);
}

fn read(log: &LogStore, eid: &Eid, kvn: u32) -> KeysetRecord {
    KeysetRecord::read(log, eid, &name(kvn)).unwrap().unwrap()
}

fn stored(log: &LogStore, eid: &Eid, kvn: u32) -> KeysetRecord {
    KeysetRecord::decode(&log.get(KEYSETS, &name(kvn).row_key(eid)).unwrap().unwrap()).unwrap()
}

fn who() -> (Role, audit::Pseudonym) {
    (Role::Officer, pseudonyms().person("olivia"))
}

fn to(eid: &Eid, kvn: u32, to: KeyState, consequence: Consequence) -> StateChange {
    StateChange { eid: *eid, keyset: name(kvn), to, consequence }
}

#[test]
fn one_person_suspends_and_an_operation_takes_up_again_only_what_was_suspended() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory);
    let device = eid(1);
    put(&log, &device, 0x30, &keyset(KeyState::Active, "eum/o/0"));
    let again = to(&device, 0x30, KeyState::Active, Consequence::Compromised);
    assert!(check_change(&log, &again, NOW).is_err(), "an active keyset was activated");
    let commit = suspend(&log, &pseudonyms(), who(), (&device, &name(0x30)), [1; 32], NOW).unwrap();
    log.commit(commit).wait().unwrap();
    assert_eq!(read(&log, &device, 0x30).state, KeyState::Suspended);
    assert!(suspend(&log, &pseudonyms(), who(), (&device, &name(0x30)), [1; 32], NOW).is_err());
    log.commit(change(&log, &pseudonyms(), who(), [2; 32], &again, NOW).unwrap()).wait().unwrap();
    assert_eq!(read(&log, &device, 0x30).state, KeyState::Active);

    // Only a card's proof activates a keyset for the first time, and states that persons do not set are refused.
    put(&log, &device, 0x31, &keyset(KeyState::PreActivation, ""));
    for state in [KeyState::Active, KeyState::Suspended, KeyState::PreActivation, KeyState::Deactivated] {
        let change = to(&device, 0x31, state, Consequence::Compromised);
        assert!(check_change(&log, &change, NOW).is_err(), "{state:?}");
    }
    assert!(suspend(&log, &pseudonyms(), who(), (&device, &name(0x31)), [1; 32], NOW).is_err());
}

#[test]
fn a_compromised_keyset_taints_what_was_delivered_under_it_and_under_that() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory);
    let device = eid(1);
    put(&log, &device, 0x30, &keyset(KeyState::Active, "eum/o/0"));
    put(&log, &device, 0x32, &keyset(KeyState::Active, "keyset/0x30"));
    put(&log, &device, 0x31, &keyset(KeyState::Active, "keyset/0x32"));
    put(&log, &device, 0x33, &keyset(KeyState::Active, "keyset/0x34"));
    let wanted = to(&device, 0x30, KeyState::Compromised, Consequence::Flagged);
    let commit = change(&log, &pseudonyms(), who(), [2; 32], &wanted, NOW).unwrap();
    let events: Vec<_> = commit.entries.iter().map(audit::EntryDraft::event).collect();
    assert_eq!(events, [EventType::KeysetStateChanged, EventType::KeysetTainted, EventType::KeysetTainted]);
    log.commit(commit).wait().unwrap();
    assert_eq!(read(&log, &device, 0x30).state, KeyState::Compromised);
    for kvn in [0x31, 0x32] {
        let tainted = read(&log, &device, kvn);
        assert_eq!((tainted.state, tainted.effective_strength), (KeyState::Active, 0), "{kvn:#x}");
        assert_eq!(tainted.taint.unwrap().operation, [2; 32]);
    }
    assert_eq!(read(&log, &device, 0x33).taint, None);
    let again = to(&device, 0x32, KeyState::Compromised, Consequence::Compromised);
    log.commit(change(&log, &pseudonyms(), who(), [3; 32], &again, NOW).unwrap()).wait().unwrap();
    assert_eq!(read(&log, &device, 0x32).state, KeyState::Compromised);
}

#[test]
fn a_mark_counts_at_once_and_is_written_down_in_steps_that_a_stop_does_not_lose() {
    const DEVICES: u128 = 450;
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory);
    let mut rows = Vec::new();
    for number in 0..DEVICES {
        let under = if number % 3 == 0 { "eum/other/0" } else { "eum/leaked/4" };
        let device = eid(number);
        rows.push(Change::put(
            KEYSETS,
            name(0x30).row_key(&device),
            keyset(KeyState::Active, under).encode(),
        ));
        rows.push(Change::put(
            KEYSETS,
            name(0x31).row_key(&device),
            keyset(KeyState::Active, "keyset/0x30").encode(),
        ));
    }
    for rows in rows.chunks(400) {
        write(&log, rows.to_vec());
    }
    let key = CompromisedKey::Order { party: "eum".into(), order: "leaked".into() };
    let wanted = (&key, Consequence::Compromised);
    log.commit(mark(&log, &pseudonyms(), who(), [9; 32], wanted, NOW).unwrap()).wait().unwrap();
    assert!(mark(&log, &pseudonyms(), who(), [8; 32], wanted, NOW).is_err(), "marked twice");
    // Before any row is written.
    assert_eq!(read(&log, &eid(1), 0x30).state, KeyState::Compromised);
    assert_eq!(stored(&log, &eid(1), 0x30).state, KeyState::Active);
    assert_eq!(read(&log, &eid(0), 0x30).state, KeyState::Active);
    let later = KeysetRecord {
        created: Timestamp::from_micros(NOW.micros() + 1),
        ..keyset(KeyState::Active, "eum/leaked/5")
    };
    put(&log, &eid(DEVICES), 0x30, &later);

    let mut steps = 0;
    while let Some(commit) = walk(&log, &pseudonyms()).unwrap() {
        assert!(commit.changes.len() <= 512, "a step is bounded");
        log.commit(commit).wait().unwrap();
        steps += 1;
    }
    assert!(steps > 2, "in several steps: {steps}");
    assert!(log.scan(TAINT_WALKS, &[], None, 1).unwrap().is_empty());
    for number in 0..DEVICES {
        for kvn in [0x30, 0x31] {
            let keyset = stored(&log, &eid(number), kvn);
            let expected = if number % 3 == 0 { KeyState::Active } else { KeyState::Compromised };
            assert_eq!(keyset.state, expected, "{number} {kvn:#x}");
        }
    }
    assert_eq!(stored(&log, &eid(DEVICES), 0x30).taint, None, "ordered after the mark");
}

#[test]
fn nothing_new_is_made_from_a_marked_master_or_for_a_marked_transport_key() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory);
    let usable =
        |generation, transport: u8| check_usable(&log, MasterGeneration(generation), &[transport; 32]);
    let master_key = hsm::KeyRef { label: "chancery/master/fleet/1".into(), id: [1; 16] };
    let masters = crate::Masters::founded([(MasterGeneration(1), master_key)].into());
    assert!(usable(1, 1).is_ok() && masters.newest(&log).is_ok());
    let master = CompromisedKey::Master(MasterGeneration(1));
    let party = CompromisedKey::Party { party: "eum".into(), registered: [1; 32] };
    for (key, operation) in [(&master, [1; 32]), (&party, [2; 32])] {
        let wanted = (key, Consequence::Flagged);
        log.commit(mark(&log, &pseudonyms(), who(), operation, wanted, NOW).unwrap()).wait().unwrap();
    }
    assert!(usable(1, 2).is_err() && usable(2, 1).is_err() && usable(2, 2).is_ok());
    // A rotation and an order alike ask for the newest.
    assert!(matches!(masters.newest(&log), Err(KmsError::Refused(_))));
    // A flag may be made stricter.
    assert!(check_mark(&log, &master, Consequence::Compromised).is_ok());
    assert!(check_mark(&log, &master, Consequence::Flagged).is_err());
}

#[test]
fn keysets_are_paged_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory);
    let device = eid(1);
    for kvn in [0x32, 0x30, 0x31] {
        put(&log, &device, kvn, &keyset(KeyState::Active, ""));
    }
    put(&log, &eid(2), 0x30, &keyset(KeyState::Active, ""));
    let kvns = |after: Option<u32>, limit| {
        let (keysets, more) = page(&log, &device, after.map(name).as_ref(), limit).unwrap();
        (keysets.iter().map(|(name, _)| name.kvn.value()).collect::<Vec<_>>(), more)
    };
    assert_eq!(kvns(None, 2), (vec![0x30, 0x31], true));
    assert_eq!(kvns(Some(0x31), 2), (vec![0x32], false));
    assert_eq!(kvns(None, 100), (vec![0x30, 0x31, 0x32], false));
}
