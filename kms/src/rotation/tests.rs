//! Rotations against a log of their own, without a token: what needs none.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Outcome, Pseudonyms};
use domain::{
    Clock, DeviceState, Eid, KeyCheckValue, KeyState, KeysetAlgorithm, MasterGeneration, PrincipalId,
    ReasonCode, Timestamp,
};
use keys::put_key::PutKeyAnswer;
use prost::Message;
use proto::records;
use store::{Change, Commit, LogIdentity, LogMacKey, LogStore, OpenOptions, Precondition, Store as _};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::lease::{find_lease, put_lease, take};
use super::progress::{Item, ItemState};
use super::report::Proofs;
use super::upkeep::{end_lease, take_back};
use super::*;
use crate::KmsError;
use crate::devices::{DeviceRecord, KeysetRecord};
use crate::keyset_source::KeysetSource;
use crate::keyspaces::{DEVICES, KEYSETS, ROTATION_ITEMS, ROTATION_LEASES, ROTATION_QUEUE, ROTATIONS};

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_795_478_400);

struct Standing;

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn monotonic_micros(&self) -> u64 {
        0
    }
}

pub(crate) fn log(directory: &TempDir) -> LogStore {
    let identity = LogIdentity { authority: "authority.test".into(), node: "a".into(), epoch: 1 };
    let mac = LogMacKey::new(Zeroizing::new([0x5a; 32]));
    let keyspaces = crate::KEYSPACES.to_vec();
    let mut options = OpenOptions::new(directory.path(), identity, mac, Arc::new(Standing), keyspaces);
    options.segment_bytes = 1024 * 1024;
    options.reserve_bytes = 0;
    let log = LogStore::create(options).unwrap();
    // Entry 0 is the founding's, as everywhere.
    write(&log, Vec::new());
    log
}

pub(crate) fn pseudonyms() -> Pseudonyms {
    Pseudonyms::new(Zeroizing::new([7; 32]), 2026)
}

pub(crate) fn write(log: &LogStore, changes: Vec<Change>) {
    let mut commit = Commit::of(vec![EntryDraft::new(EventType::RotationPrepared, Outcome::Done)]);
    commit.changes = changes;
    log.commit(commit).wait().unwrap();
}

/// A rotation of no devices that is running.
fn running(log: &LogStore) -> Rotation {
    let terms = RotationTerms::parse(&terms::tests::message()).unwrap();
    let mut rotation = Rotation::new(terms, NOW);
    rotation.state = RotationState::Running;
    write(log, vec![rotation.put().0]);
    read(log, &rotation.terms.name)
}

fn read(log: &LogStore, name: &str) -> Rotation {
    Rotation::read(log, name).unwrap().unwrap()
}

fn lease(number: u16) -> [u8; 16] {
    let mut id = [0xff; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    id
}

fn carrier() -> Carrier {
    Carrier {
        name: "ota-one".into(),
        principal: PrincipalId([1; 32]),
        unchanged: Precondition::Absent { keyspace: ROTATION_ITEMS, key: Vec::new() },
    }
}

pub(crate) fn device(state: DeviceState) -> DeviceRecord {
    DeviceRecord {
        state: Some(state),
        eum: "eum".into(),
        order: "order".into(),
        line: 1,
        freeze: None,
        version: 0,
    }
}

/// As a script leaves it.
fn keyset(rotation: &str) -> KeysetRecord {
    KeysetRecord {
        algorithm: KeysetAlgorithm::Aes256,
        state: KeyState::PreActivation,
        source: KeysetSource::derived(MasterGeneration(1)),
        delivered_under: String::new(),
        effective_strength: 128,
        check_values: vec![KeyCheckValue([1; 3]), KeyCheckValue([2; 3]), KeyCheckValue([3; 3])],
        created: NOW,
        rotation: Some(rotation.to_owned()),
        ends: None,
        taint: None,
        version: 0,
    }
}

fn rows(log: &LogStore) -> usize {
    log.scan(ROTATION_LEASES, &[], None, 10_000).unwrap().len()
}

#[test]
fn a_lease_is_found_by_its_name_until_it_ends_and_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let rotation = running(&log);
    let name = rotation.terms.name.clone();
    let changes = (0..50).flat_map(|number| {
        put_lease(
            &name,
            NOW.plus_seconds(i64::from(number)),
            &lease(number),
            &records::RotationLease::default(),
        )
    });
    write(&log, changes.collect());
    let found = find_lease(&log, &name, &lease(7)).unwrap().unwrap();
    assert_eq!((found.id, found.ends), (lease(7), NOW.plus_seconds(7)));
    assert!(find_lease(&log, &name, &lease(50)).unwrap().is_none());
    assert!(find_lease(&log, "to-aes", &lease(7)).unwrap().is_none(), "a lease of another rotation");

    // The first ones to end go first.
    for number in 0..50 {
        let later = NOW.plus_seconds(100);
        let commit = end_lease(&log, &pseudonyms(), read(&log, &name), later).unwrap().unwrap();
        log.commit(commit).wait().unwrap();
        assert!(find_lease(&log, &name, &lease(number)).unwrap().is_none());
    }
    assert!(end_lease(&log, &pseudonyms(), read(&log, &name), NOW.plus_seconds(100)).unwrap().is_none());
    assert_eq!(rows(&log), 0);
}

#[test]
fn a_roll_back_is_not_over_before_the_last_lease_is_gone() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let mut rotation = running(&log);
    let name = rotation.terms.name.clone();
    for batch in 0..13 {
        let changes = (0..100).flat_map(|number| {
            let id = lease(batch * 100 + number);
            put_lease(&name, NOW.plus_seconds(600), &id, &records::RotationLease::default())
        });
        write(&log, changes.collect());
    }
    rotation.state = RotationState::RollingBack;
    write(&log, vec![rotation.put().0]);
    for _ in 0..20 {
        let rotation = read(&log, &name);
        if rotation.state == RotationState::RolledBack {
            break;
        }
        log.commit(take_back(&log, &pseudonyms(), rotation, NOW).unwrap()).wait().unwrap();
    }
    assert_eq!(read(&log, &name).state, RotationState::RolledBack);
    assert_eq!(rows(&log), 0);
}

#[test]
fn no_report_is_taken_when_a_roll_back_began_while_its_proofs_were_checked() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let mut rotation = running(&log);
    let name = rotation.terms.name.clone();
    let eid = "89049032123451234512345678901235".parse().unwrap();
    let item = Item { state: ItemState::Leased, leases: 1, ..Item::new(0, 0) };
    write(&log, vec![item.put(&name, &eid)]);
    let reports = [ItemReport { eid, put_key_response: Vec::new(), proof: None, status_word: 0x6a88 }];
    let report = |rotation| {
        let proofs = Proofs(vec![None]);
        report(&log, &pseudonyms(), &carrier(), rotation, (&reports, &proofs), [0; 32], NOW)
    };
    assert!(report(rotation.clone()).is_ok());
    rotation.state = RotationState::RollingBack;
    let refused = report(rotation).err().unwrap();
    assert!(
        matches!(&refused, KmsError::Refused(r) if r.refusal.reason == ReasonCode::RotationNotRunning),
        "{refused}"
    );
}

#[test]
fn check_values_reported_after_the_lease_leave_the_device_waiting_for_its_next_script() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let mut rotation = running(&log);
    let name = rotation.terms.name.clone();
    let eid = "89049032123451234512345678901235".parse().unwrap();
    *rotation.counter(ItemState::Pending) += 1;
    rotation.record.stage_devices[2] = 1;
    // Given out once; the lease ended unreported.
    let item = Item { leases: 1, ..Item::new(2, 9_999) };
    let queued = super::lease::queue_key(&name, item.rank, &eid);
    write(
        &log,
        vec![
            rotation.put().0,
            item.put(&name, &eid),
            Change::put(ROTATION_QUEUE, queued.clone(), Vec::new()),
            Change::put(DEVICES, *eid.bcd(), device(DeviceState::Active).encode(&eid)),
            Change::put(KEYSETS, rotation.terms.to().row_key(&eid), keyset(&name).encode()),
        ],
    );
    let put_key_response =
        PutKeyAnswer { kvn: rotation.terms.to_kvn, kcvs: keyset(&name).check_values.try_into().unwrap() }
            .to_bytes()
            .to_vec();
    let reports = [ItemReport { eid, put_key_response, proof: None, status_word: 0 }];
    let report = |proof| {
        let proofs = Proofs(vec![proof]);
        let at_work = (&reports[..], &proofs);
        let (commit, results) =
            report(&log, &pseudonyms(), &carrier(), read(&log, &name), at_work, [0; 32], NOW).unwrap();
        log.commit(commit).wait().unwrap();
        results[0]
    };
    let result = report(None);
    assert_eq!((result.state, result.refused), (Some(ItemState::Pending), Some(ReasonCode::NotLeased)));
    assert!(log.get(ROTATION_QUEUE, &queued).unwrap().is_some(), "it gets no script any more");
    assert_eq!(report(Some(true)).state, Some(ItemState::Confirmed));
    assert_eq!(read(&log, &name).confirmed(), 1);
}

#[test]
fn a_device_that_is_not_ready_does_not_stand_in_the_way_of_one_that_is() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let mut rotation = running(&log);
    let name = rotation.terms.name.clone();
    let frozen: Eid = "89049032123451234512345678901235".parse().unwrap();
    let ready = Eid::from_body("890490321234512345123456789013").unwrap();
    let mut changes = Vec::new();
    for (eid, rank, state) in [(frozen, 1, DeviceState::Frozen), (ready, 2, DeviceState::Active)] {
        *rotation.counter(ItemState::Pending) += 1;
        rotation.record.stage_devices[0] += 1;
        changes.push(Item::new(0, rank).put(&name, &eid));
        changes.push(Change::put(ROTATION_QUEUE, super::lease::queue_key(&name, rank, &eid), Vec::new()));
        changes.push(Change::put(DEVICES, *eid.bcd(), device(state).encode(&eid)));
        let old = KeysetRecord { state: KeyState::Active, rotation: None, ..keyset(&name) };
        changes.push(Change::put(KEYSETS, rotation.terms.from.row_key(&eid), old.encode()));
    }
    changes.push(rotation.put().0);
    write(&log, changes);
    let request = ScriptsRequest {
        rotation: name.clone(),
        limit: 1,
        lease_seconds: 60,
        request_id: vec![1],
        request_digest: [0; 32],
        is_repeat: false,
    };
    let rotations = crate::Turns::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pseudonyms = pseudonyms();
    let carrier = carrier();
    let taking = take(&log, &rotations, &pseudonyms, &carrier, &request, lease(1), NOW);
    let lease = runtime.block_on(taking).unwrap();
    assert_eq!(lease.unwrap().eids, [ready]);
    assert_eq!(read(&log, &name).failed(), 1);
}

#[test]
fn the_state_of_a_rotation_is_read_without_its_terms() {
    let directory = TempDir::new().unwrap();
    let log = log(&directory);
    let name = running(&log).terms.name;
    let row = log.get(ROTATIONS, name.as_bytes()).unwrap().unwrap();
    assert_eq!(RotationState::of_record(&row.value).unwrap(), RotationState::Running);
    let mut record = records::Rotation::decode(&*row.value).unwrap();
    record.terms.clear();
    assert_eq!(RotationState::of_record(&record.encode_to_vec()).unwrap(), RotationState::Running);
    record.state = "unheard-of".into();
    assert!(RotationState::of_record(&record.encode_to_vec()).is_err());
}
