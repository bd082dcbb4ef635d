//! Whoever owns the disk changes it: what is found, where, and what is not an alarm.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{fs, path::Path};

use store::{Inspection, LogStore, RowProblemKind, Store, StoreError, ViewFinding, ViewRecovery};
use support::{COUNTERS, DEVICES, PARTIES, options, put};

const SECTOR: usize = 512;

/// A log of several segments and batches; gives the used length of each segment.
fn filled(directory: &Path) -> Vec<usize> {
    let store = LogStore::create(options(directory)).unwrap();
    for n in 0..30_u8 {
        store.commit(put(DEVICES, [n], vec![n | 1; 4000])).wait().unwrap();
        store.commit(put(PARTIES, [n % 3], [n])).wait().unwrap();
    }
    drop(store);
    (1..)
        .map_while(|n| fs::read(segment(directory, n)).ok())
        .map(|bytes| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1))
        .filter(|used| *used > 0)
        .collect()
}

fn segment(directory: &Path, number: usize) -> std::path::PathBuf {
    directory.join(format!("log/{number:08}.segment"))
}

fn lose_view(directory: &Path) {
    let _ = fs::remove_dir_all(directory.join("view"));
}

fn alarm(directory: &Path) -> StoreError {
    let error = LogStore::open(options(directory)).map(|_| ()).unwrap_err();
    assert!(error.is_alarm(), "{error}");
    error
}

#[test]
fn a_flipped_byte_anywhere_in_the_used_log_is_found_and_its_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let used = filled(directory.path());
    assert!(used.len() >= 3);
    for (at, used) in used.iter().enumerate() {
        let path = segment(directory.path(), at + 1);
        let good = fs::read(&path).unwrap();
        for offset in (0..*used).step_by(509).chain([*used - 1]) {
            let mut bad = good.clone();
            bad[offset] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let error = alarm(directory.path());
            assert!(
                error.to_string().contains(path.file_name().unwrap().to_str().unwrap()),
                "{offset}: {error}"
            );
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(LogStore::open(options(directory.path())).is_ok());
}

#[test]
fn a_hole_in_the_log_is_an_alarm_even_when_the_view_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    lose_view(directory.path());
    let path = segment(directory.path(), 1);
    let good = fs::read(&path).unwrap();
    // The second batch: the first begins behind the header sector and the search is for the next magic.
    let second = (2..).map(|n| n * SECTOR).find(|at| good[*at..].starts_with(b"CHANBAT1")).unwrap();
    let mut bad = good.clone();
    bad[second..second + SECTOR].fill(0);
    fs::write(&path, &bad).unwrap();
    assert!(alarm(directory.path()).to_string().contains(&format!("at byte {second}")));
    // Everything from there to the end of the segment: the next segment shows it.
    bad[second..].fill(0);
    fs::write(&path, &bad).unwrap();
    assert!(alarm(directory.path()).to_string().contains("00000002.segment"));
}

#[test]
fn a_missing_segment_is_an_alarm() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    fs::remove_file(segment(directory.path(), 2)).unwrap();
    assert!(
        matches!(alarm(directory.path()), StoreError::SegmentMissing { file } if file == "00000002.segment")
    );
    let other = tempfile::tempdir().unwrap();
    filled(other.path());
    fs::remove_file(segment(other.path(), 1)).unwrap();
    assert!(matches!(alarm(other.path()), StoreError::SegmentMissing { .. }));
}

#[test]
fn a_log_under_another_key_is_an_alarm() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let mut other = options(directory.path());
    other.mac_key = store::LogMacKey::new(zeroize::Zeroizing::new([1; 32]));
    assert!(LogStore::open(other).map(|_| ()).unwrap_err().is_alarm());
}

#[test]
fn acknowledged_batches_cut_off_the_end_are_an_alarm_while_the_view_remembers_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    store.commit(put(DEVICES, "a", "1")).wait().unwrap();
    let path = segment(directory.path(), 1);
    let before = fs::read(&path).unwrap();
    store.commit(put(DEVICES, "b", "2")).wait().unwrap();
    drop(store);
    fs::write(&path, &before).unwrap();
    assert!(matches!(alarm(directory.path()), StoreError::ViewAheadOfLog { view_batch: 2, .. }));
    // Another history of the same length.
    let aside = directory.path().join("aside");
    fs::rename(directory.path().join("view"), &aside).unwrap();
    let (store, _) = LogStore::open(options(directory.path())).unwrap();
    store.commit(put(DEVICES, "c", "3")).wait().unwrap();
    drop(store);
    fs::remove_dir_all(directory.path().join("view")).unwrap();
    fs::rename(&aside, directory.path().join("view")).unwrap();
    assert!(matches!(alarm(directory.path()), StoreError::ViewAheadOfLog { .. }));
}

#[test]
fn a_torn_last_batch_is_an_ordinary_start_and_the_log_grows_over_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    store.commit(put(DEVICES, "a", "1")).wait().unwrap();
    let path = segment(directory.path(), 1);
    let before = fs::read(&path).unwrap();
    let start = before.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(SECTOR);
    store.commit(put(DEVICES, "b", vec![9; 3000])).wait().unwrap();
    drop(store);
    let after = fs::read(&path).unwrap();
    let sectors = (after.iter().rposition(|byte| *byte != 0).unwrap() + 1 - start).div_ceil(SECTOR);
    assert!(sectors >= 7);
    // Choices of the sectors that reached the disk, from none to all but one; the first among them or not.
    for reached in (0..(1_usize << sectors) - 1).step_by(9) {
        let mut torn = before.clone();
        for sector in (0..sectors).filter(|sector| reached & 1 << sector != 0) {
            let range = start + sector * SECTOR..start + (sector + 1) * SECTOR;
            torn[range.clone()].copy_from_slice(&after[range]);
        }
        fs::write(&path, &torn).unwrap();
        lose_view(directory.path());
        let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
        assert_eq!(recovery.entries, 1);
        assert_eq!(recovery.torn_tail, (reached != 0).then(|| ("00000001.segment".to_owned(), start as u64)));
        assert!(store.get(DEVICES, b"b").unwrap().is_none());
        store.commit(put(DEVICES, "c", "3")).wait().unwrap();
        drop(store);
        lose_view(directory.path());
        let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
        assert_eq!((recovery.entries, recovery.torn_tail), (2, None));
        assert!(store.get(DEVICES, b"c").unwrap().is_some());
    }
}

/// Opens sled beside the store, which must be closed.
fn with_sled(directory: &Path, act: impl FnOnce(&sled::Db)) {
    let open = || sled::Config::new().path(directory.join("view")).open();
    let db = (0..100)
        .find_map(|_| {
            open().ok().or_else(|| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                None
            })
        })
        .unwrap();
    act(&db);
    db.flush().unwrap();
}

#[test]
fn a_row_edited_in_the_view_is_found_at_the_start_and_made_again_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    with_sled(directory.path(), |db| {
        let key = [DEVICES.code, 4];
        let mut row = db.get(key).unwrap().unwrap().to_vec();
        *row.last_mut().unwrap() ^= 1;
        db.insert(key, row).unwrap();
    });
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert!(recovery.ended_clean);
    assert!(matches!(recovery.view, ViewRecovery::Rebuilt { .. }));
    assert_eq!(&store.get(DEVICES, &[4]).unwrap().unwrap().value[..], [5; 4000]);
    assert!(store.verify_view().unwrap().is_sound());
}

#[test]
fn old_missing_moved_and_surplus_rows_are_found_by_comparing_with_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    for key in ["old", "gone", "deleted", "good"] {
        store.commit(put(COUNTERS, key, "first")).wait().unwrap();
    }
    drop(store);
    let (mut old, mut deleted) = (None, None);
    let key = |name: &str| [&[COUNTERS.code], name.as_bytes()].concat();
    with_sled(directory.path(), |db| {
        old = db.get(key("old")).unwrap();
        deleted = db.get(key("deleted")).unwrap();
    });
    let (store, _) = LogStore::open(options(directory.path())).unwrap();
    store.commit(put(COUNTERS, "old", "second")).wait().unwrap();
    let mut delete = put(COUNTERS, "deleted", "");
    delete.changes[0].value = None;
    store.commit(delete).wait().unwrap();
    assert!(store.verify_view().unwrap().is_sound());
    drop(store);
    with_sled(directory.path(), |db| {
        db.insert(key("old"), old.unwrap()).unwrap();
        db.insert(key("deleted"), deleted.unwrap()).unwrap();
        db.remove(key("gone")).unwrap();
        db.insert(key("moved"), db.get(key("good")).unwrap().unwrap()).unwrap();
    });
    let seen = Inspection::read(&options(directory.path()), &[], 0, &mut |_, _| ()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory.path().join("view")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let compared = seen.compare_view(&options(directory.path()), copy.path()).unwrap();
    let ViewFinding::Compared { report, .. } = compared else { panic!("the copy opens") };
    let found: Vec<_> = report.problems.iter().map(|p| (&p.key[..], p.kind)).collect();
    assert_eq!(
        found,
        [
            (&b"deleted"[..], RowProblemKind::Surplus),
            (b"gone", RowProblemKind::Missing),
            (b"moved", RowProblemKind::WrongHmac),
            (b"old", RowProblemKind::NotTheLatest),
        ]
    );
    // The start does not serve them, though the end was clean.
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert!(recovery.ended_clean && matches!(recovery.view, ViewRecovery::Rebuilt { .. }));
    assert_eq!(&store.get(COUNTERS, b"old").unwrap().unwrap().value[..], b"second");
    assert!(store.verify_view().unwrap().is_sound());
}

#[test]
fn one_old_row_put_back_after_a_clean_end_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    store.commit(put(COUNTERS, "state", "active")).wait().unwrap();
    drop(store);
    let key = [&[COUNTERS.code], &b"state"[..]].concat();
    let mut old = None;
    with_sled(directory.path(), |db| old = db.get(&key).unwrap());
    let (store, _) = LogStore::open(options(directory.path())).unwrap();
    store.commit(put(COUNTERS, "state", "deactivated")).wait().unwrap();
    drop(store);
    with_sled(directory.path(), |db| drop(db.insert(&key, old.unwrap()).unwrap()));
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert!(recovery.ended_clean && matches!(recovery.view, ViewRecovery::Rebuilt { .. }));
    assert_eq!(&store.get(COUNTERS, b"state").unwrap().unwrap().value[..], b"deactivated");
}

#[test]
fn a_value_that_changes_in_the_log_while_the_store_serves_is_an_alarm_at_its_next_read() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    let (store, _) = LogStore::open(options(directory.path())).unwrap();
    assert_eq!(&store.get(DEVICES, &[4]).unwrap().unwrap().value[..], [5; 4000]);
    let path = segment(directory.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    let value = bytes.windows(4000).position(|window| window == [5; 4000]).unwrap();
    bytes[value + 1234] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for read in [store.get(DEVICES, &[4]).map(drop), store.scan(DEVICES, &[], None, 100).map(drop)] {
        let error = read.unwrap_err();
        assert!(error.is_alarm() && error.to_string().contains("00000001.segment"), "{error}");
    }
    assert!(store.stopped().is_some());
}

#[test]
fn a_view_made_by_an_earlier_version_is_made_again_and_nobody_is_suspected() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    with_sled(directory.path(), |db| {
        let position = db.remove([0, b'q']).unwrap().unwrap();
        db.insert([0, b'p'], position).unwrap();
    });
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert!(
        matches!(recovery.view, ViewRecovery::Rebuilt { reason } if reason.contains("an earlier version"))
    );
    assert!(store.verify_view().unwrap().is_sound());
}

#[test]
fn a_stale_or_missing_row_after_an_unclean_end_makes_the_view_again() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    with_sled(directory.path(), |db| {
        db.remove([DEVICES.code, 4]).unwrap();
    });
    fs::remove_file(directory.path().join("view.clean")).unwrap();
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert!(matches!(recovery.view, ViewRecovery::Rebuilt { .. }));
    assert!(store.verify_view().unwrap().is_sound());
}

#[test]
fn a_lost_view_and_a_view_with_random_bytes_flipped_are_made_again_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    lose_view(directory.path());
    let (store, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert_eq!(recovery.view, ViewRecovery::CaughtUp { batches: recovery.batches });
    drop(store);
    let mut state = 0x2545_F491_u32;
    for _ in 0..6 {
        let path = directory.path().join("view/db");
        let mut bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for _ in 0..40 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            bytes[state as usize % used] ^= 0x41;
        }
        fs::write(&path, bytes).unwrap();
        let _ = fs::remove_file(directory.path().join("view.clean"));
        let (store, _) = LogStore::open(options(directory.path())).unwrap();
        assert_eq!(&store.get(DEVICES, &[4]).unwrap().unwrap().value[..], [5; 4000]);
        assert!(store.verify_view().unwrap().is_sound());
        drop(store);
    }
}

#[test]
fn a_snapshot_that_sled_left_half_written_does_not_brick_the_view() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path());
    fs::write(directory.path().join("view/snap.00000000000FFFFF.generating"), b"torn").unwrap();
    let (_, recovery) = LogStore::open(options(directory.path())).unwrap();
    assert_eq!(recovery.view, ViewRecovery::CaughtUp { batches: 0 });
}
