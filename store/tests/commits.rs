//! What a commit promises, and what is refused.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use audit::Frontier;
use domain::Timestamp;
use store::{
    Change, Commit, CommitError, Home, Keyspace, LogStore, Precondition, Store, StoreError, ViewRecovery,
};
use support::{COUNTERS, DEVICES, PARTIES, START, TestClock, draft, options, options_with, put};

#[test]
fn a_commit_is_visible_once_acknowledged_and_stays_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    let first = store.commit(put(PARTIES, "p", "party")).wait().unwrap();
    let second = store.commit(put(DEVICES, "d", "device")).wait().unwrap();
    assert_eq!((first.first_index, second.first_index), (0, 1));
    assert!(second.time > first.time);
    let check = |store: &LogStore| {
        let party = store.get(PARTIES, b"p").unwrap().unwrap();
        assert_eq!((&party.value[..], party.version), (&b"party"[..], 0));
        let device = store.get(DEVICES, b"d").unwrap().unwrap();
        assert_eq!((&device.value[..], device.version), (&b"device"[..], 1));
        assert!(store.get(DEVICES, b"p").unwrap().is_none());
    };
    check(&store);
    drop(store);
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    check(&store);
    assert!(recovery.ended_clean);
    assert_eq!((recovery.entries, recovery.batches), (2, 2));
    assert_eq!(recovery.view, ViewRecovery::CaughtUp { batches: 0 });
}

#[test]
fn entries_read_back_as_sealed_and_the_tree_is_over_exactly_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    assert_eq!(store.tree().root, Frontier::new().root());
    let mut expected = Vec::new();
    let mut frontier = Frontier::new();
    // Enough to fill several segments.
    for round in 0..120 {
        let count = 1 + round % 5;
        let mut commit = Commit::of(vec![draft(); count]);
        commit.changes.push(Change::put(DEVICES, [round as u8], vec![1; 1500]));
        let receipt = store.commit(commit).wait().unwrap();
        for offset in 0..count as u64 {
            let entry =
                draft().seal(receipt.first_index + offset, receipt.time.plus_micros(offset.cast_signed()));
            assert_eq!(receipt.leaf_hashes[offset as usize], audit::leaf_hash(&entry));
            frontier.push(audit::leaf_hash(&entry));
            expected.push(entry);
        }
    }
    let check = |store: &LogStore| {
        assert_eq!((store.tree().size, store.tree().root), (frontier.size(), frontier.root()));
        assert_eq!(store.entries(0, usize::MAX).unwrap(), expected);
        for (from, limit) in [(0, 1), (7, 3), (63, 130), (359, 5), (360, 5), (9999, 1), (5, 0)] {
            let from_index = (from as usize).min(expected.len());
            let until = (from_index + limit).min(expected.len());
            assert_eq!(store.entries(from, limit).unwrap(), expected[from_index..until]);
        }
    };
    check(&store);
    drop(store);
    assert!(directory.path().join("log/00000003.segment").exists());
    check(&LogStore::open(options(directory.path())).unwrap().0);
}

#[test]
fn of_commits_with_the_same_precondition_in_flight_together_exactly_one_happens() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    for keyspace in [PARTIES, DEVICES] {
        let absent = |n: u8| Commit {
            preconditions: vec![Precondition::Absent { keyspace, key: b"one".to_vec() }],
            ..put(keyspace, "one", [n])
        };
        let tickets: Vec<_> = (0..40).map(|n| store.commit(absent(n))).collect();
        let outcomes: Vec<_> = tickets.into_iter().map(store::CommitTicket::wait).collect();
        assert!(outcomes[0].is_ok());
        let failed = CommitError::PreconditionFailed { keyspace: keyspace.name };
        assert!(outcomes[1..].iter().all(|outcome| outcome.as_ref() == Err(&failed)));

        let version = store.get(keyspace, b"one").unwrap().unwrap().version;
        let replace = || Commit {
            preconditions: vec![Precondition::Version { keyspace, key: b"one".to_vec(), version }],
            ..put(keyspace, "one", "new")
        };
        let tickets: Vec<_> = (0..40).map(|_| store.commit(replace())).collect();
        let happened = tickets.into_iter().filter_map(|ticket| ticket.wait().ok()).count();
        assert_eq!(happened, 1);
    }
    // Only what happened has entries.
    assert_eq!(store.tree().size, 4);
}

#[test]
fn a_freeze_before_it_in_the_queue_fails_a_commit_that_expected_the_device_unfrozen() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    let version = store.commit(put(DEVICES, "d", "active")).wait().unwrap().first_index;
    let freeze = store.commit(put(DEVICES, "d", "frozen"));
    let fetch = store.commit(Commit {
        entries: vec![draft()],
        changes: Vec::new(),
        preconditions: vec![Precondition::Version { keyspace: DEVICES, key: b"d".to_vec(), version }],
    });
    assert!(freeze.wait().is_ok());
    assert_eq!(fetch.wait(), Err(CommitError::PreconditionFailed { keyspace: "devices" }));
}

#[test]
fn scans_are_in_key_order_within_prefix_after_and_limit() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    for keyspace in [PARTIES, DEVICES] {
        for key in ["b2", "a", "b", "b1", "c", "b3"] {
            store.commit(put(keyspace, key, key)).wait().unwrap();
        }
        store
            .commit(Commit { changes: vec![Change::delete(keyspace, "b2")], ..Commit::of(vec![draft()]) })
            .wait()
            .unwrap();
        let keys = |prefix: &str, after: Option<&str>, limit| {
            let rows = store.scan(keyspace, prefix.as_bytes(), after.map(str::as_bytes), limit).unwrap();
            rows.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(keys("", None, 99), ["a", "b", "b1", "b3", "c"]);
        assert_eq!(keys("b", None, 99), ["b", "b1", "b3"]);
        assert_eq!(keys("b", Some("b"), 99), ["b1", "b3"]);
        assert_eq!(keys("b", Some("a"), 1), ["b"]);
        assert_eq!(keys("b", Some("b3"), 9), Vec::<String>::new());
    }
}

#[test]
fn a_commit_of_three_thousand_rows_is_applied_and_survives_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut large = options(directory.path());
    large.segment_bytes = 1 << 20;
    let store = LogStore::create(large).unwrap();
    let changes = (0..3000_u32).map(|n| Change::put(DEVICES, n.to_be_bytes(), [9; 40])).collect();
    store.commit(Commit { changes, ..Commit::of(vec![draft()]) }).wait().unwrap();
    assert_eq!(store.scan(DEVICES, b"", None, 9999).unwrap().len(), 3000);
    drop(store);
    std::fs::remove_dir_all(directory.path().join("view")).unwrap();
    let (store, _) = LogStore::open(options(directory.path())).unwrap();
    assert_eq!(store.scan(DEVICES, b"", None, 9999).unwrap().len(), 3000);
    assert!(store.verify_view().unwrap().is_sound());
}

#[test]
fn the_view_verifies_while_commits_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..4000_u32 {
                let mut commit =
                    put([DEVICES, PARTIES][n as usize % 2], (n % 300).to_be_bytes(), n.to_be_bytes());
                if n % 7 == 0 {
                    commit.changes[0].value = None;
                }
                store.commit(commit).wait().unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            assert_eq!(store.verify_view().unwrap().problems, []);
            let size = store.tree().size;
            assert_eq!(store.entries(size.saturating_sub(5), 5).unwrap().len() as u64, size.min(5));
        }
    });
}

#[test]
fn what_is_malformed_or_too_large_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    let refused = |commit| store.commit(commit).wait().unwrap_err();
    let unknown = Keyspace { code: 77, name: "unknown", home: Home::View };
    assert!(matches!(refused(Commit::default()), CommitError::Malformed { .. }));
    assert!(matches!(refused(put(unknown, "k", "v")), CommitError::Malformed { .. }));
    assert!(matches!(refused(put(DEVICES, vec![0; 1025], "v")), CommitError::TooLarge { .. }));
    assert!(matches!(refused(put(DEVICES, "k", vec![0; 65_537])), CommitError::TooLarge { .. }));
    // Larger than any batch of these small segments.
    assert!(matches!(refused(put(DEVICES, "k", vec![0; 64_000])), CommitError::TooLarge { .. }));
    assert!(matches!(refused(Commit::of(vec![draft(); 5000])), CommitError::TooLarge { .. }));
    assert_eq!(store.tree().size, 0);
    store.shutdown();
    assert_eq!(refused(put(DEVICES, "k", "v")), CommitError::ShuttingDown);
}

#[test]
fn a_full_queue_sheds_commits_and_every_other_one_happens() {
    let directory = tempfile::tempdir().unwrap();
    let mut shallow = options(directory.path());
    shallow.queue_depth_max = 1;
    let store = LogStore::create(shallow).unwrap();
    let tickets: Vec<_> = (0..2000_u32).map(|n| store.commit(put(DEVICES, n.to_be_bytes(), "v"))).collect();
    let outcomes: Vec<_> = tickets.into_iter().map(store::CommitTicket::wait).collect();
    let happened = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let shed = outcomes.iter().filter(|outcome| **outcome == Err(CommitError::Overloaded)).count();
    assert!(shed > 0);
    assert_eq!(happened + shed, 2000);
    assert_eq!(store.tree().size, happened as u64);
    assert_eq!(store.scan(DEVICES, b"", None, 9999).unwrap().len(), happened);
}

#[test]
fn a_ticket_resolves_as_a_future() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (good, bad) = runtime.block_on(async {
        (store.commit(put(PARTIES, "k", "v")).await, store.commit(Commit::default()).await)
    });
    assert_eq!(good.unwrap().first_index, 0);
    assert_eq!(bad, Err(CommitError::Malformed { what: "no entry" }));
}

#[test]
fn entry_times_rise_by_a_microsecond_when_the_clock_stands_still_or_steps_back_a_little() {
    let directory = tempfile::tempdir().unwrap();
    let clock = TestClock::at(START);
    let store = LogStore::create(options_with(directory.path(), Arc::clone(&clock) as _)).unwrap();
    let before = store.commit(Commit::of(vec![draft(); 3])).wait().unwrap();
    clock.step_wall(-900_000);
    let after = store.commit(Commit::of(vec![draft()])).wait().unwrap();
    assert_eq!(after.time, before.time.plus_micros(3));
    assert!(before.time >= Timestamp::from_seconds(START));
}

#[test]
fn a_clock_more_than_a_second_behind_the_log_stops_acknowledging() {
    let directory = tempfile::tempdir().unwrap();
    let clock = TestClock::at(START);
    let store = LogStore::create(options_with(directory.path(), Arc::clone(&clock) as _)).unwrap();
    store.commit(put(COUNTERS, "k", "v")).wait().unwrap();
    clock.step_wall(-1_100_000);
    assert!(matches!(store.commit(put(COUNTERS, "k", "w")).wait(), Err(CommitError::Stopped { .. })));
    assert!(store.stopped().unwrap().contains("behind the last entry"));
    // It does not come back by itself, and reads go on.
    clock.step_wall(5_000_000);
    assert!(matches!(store.commit(put(COUNTERS, "k", "w")).wait(), Err(CommitError::Stopped { .. })));
    assert_eq!(&store.get(COUNTERS, b"k").unwrap().unwrap().value[..], b"v");
}

#[test]
fn a_clock_that_drifts_five_seconds_from_the_monotonic_one_stops_acknowledging() {
    let directory = tempfile::tempdir().unwrap();
    let clock = TestClock::at(START);
    let store = LogStore::create(options_with(directory.path(), Arc::clone(&clock) as _)).unwrap();
    clock.pass(3_600_000_000);
    clock.step_wall(4_000_000);
    assert!(store.commit(put(COUNTERS, "k", "v")).wait().is_ok());
    clock.step_wall(1_100_000);
    assert!(matches!(store.commit(put(COUNTERS, "k", "w")).wait(), Err(CommitError::Stopped { .. })));
    assert!(store.stopped().unwrap().contains("drifted"));
}

#[test]
fn a_start_behind_the_log_needs_the_officers_word_and_then_goes_on_from_the_last_entry() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    let last = store.commit(Commit::of(vec![draft()])).wait().unwrap().time;
    drop(store);
    let back = || options_with(directory.path(), TestClock::at(START - 60));
    assert!(
        matches!(LogStore::open(back()), Err(StoreError::ClockBehindLog { behind_micros }) if behind_micros > 59_000_000)
    );
    let mut allowed = back();
    allowed.allow_clock_behind_log = true;
    let (store, _) = LogStore::open(allowed).unwrap();
    assert_eq!(store.commit(Commit::of(vec![draft()])).wait().unwrap().time, last.plus_micros(1));
}

#[test]
fn a_directory_has_one_user_and_one_log() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(LogStore::open(options(directory.path())), Err(StoreError::NotFound { .. })));
    let store = LogStore::create(options(directory.path())).unwrap();
    assert!(matches!(LogStore::open(options(directory.path())), Err(StoreError::Locked { .. })));
    drop(store);
    assert!(matches!(LogStore::create(options(directory.path())), Err(StoreError::AlreadyExists { .. })));
}

#[test]
fn another_authority_another_node_and_an_earlier_epoch_are_refused_a_later_epoch_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let with = |authority: &str, node: &str, epoch| {
        let mut options = options(directory.path());
        options.identity = store::LogIdentity { authority: authority.into(), node: node.into(), epoch };
        options
    };
    let store = LogStore::create(with("x", "a", 2)).unwrap();
    store.commit(put(DEVICES, "k", "v")).wait().unwrap();
    drop(store);
    for (authority, node, epoch) in [("y", "a", 2), ("x", "b", 2), ("x", "a", 1)] {
        assert!(matches!(LogStore::open(with(authority, node, epoch)), Err(StoreError::Identity { .. })));
    }
    let (store, _) = LogStore::open(with("x", "a", 3)).unwrap();
    store.commit(put(DEVICES, "k", "w")).wait().unwrap();
    drop(store);
    // The hand-over is in the batch already, though the segment is of the epoch before.
    assert!(matches!(LogStore::open(with("x", "a", 2)), Err(StoreError::Identity { .. })));
}

#[test]
fn values_of_every_length_read_back_at_once_and_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let lengths = [0, 1, 255, 256, 257, 258, 4000, 30_000];
    let value = |n: usize| (0..lengths[n]).map(|at| (at % 251) as u8 ^ n as u8).collect::<Vec<_>>();
    let mut store = LogStore::create(options(directory.path())).unwrap();
    for n in 0..lengths.len() {
        store.commit(put(DEVICES, [n as u8], value(n))).wait().unwrap();
    }
    for _ in 0..2 {
        let rows = store.scan(DEVICES, &[], None, 100).unwrap();
        assert_eq!(rows.len(), lengths.len());
        for (n, (key, row)) in rows.iter().enumerate() {
            assert_eq!((&key[..], &row.value[..]), (&[n as u8][..], &value(n)[..]));
            assert!(store.get(DEVICES, key).unwrap().as_ref() == Some(row));
        }
        assert!(store.verify_view().unwrap().is_sound());
        drop(store);
        store = LogStore::open(options(directory.path())).unwrap().0;
    }
}
