//! A store looked at without being changed.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::{fs, path::Path};

use store::{Inspection, LogStore, Store, StoreError, ViewFinding};
use support::{COUNTERS, DEVICES, PARTIES, options, put};

fn filled(directory: &Path, rows: u8) {
    let store = LogStore::create(options(directory)).unwrap();
    for n in 0..rows {
        store.commit(put(DEVICES, [n], vec![n; 3000])).wait().unwrap();
        store.commit(put(PARTIES, [n % 3], [n])).wait().unwrap();
    }
    drop(store);
}

fn copy_view(directory: &Path, to: &Path) {
    for entry in fs::read_dir(directory.join("view")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn a_sound_store_is_walked_its_rows_kept_and_its_view_found_to_agree() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 20);
    let options = options(directory.path());
    let (mut heard, mut most) = (0, 0);
    let seen = Inspection::read(&options, &[DEVICES], 7, &mut |done, total| {
        heard += 1;
        most = done.max(most);
        assert!(done <= total);
    })
    .unwrap();
    assert_eq!((seen.tree.size, seen.ended_clean, seen.torn_tail.is_none()), (40, true, true));
    assert!(heard > 1 && most > 0 && seen.last_time > seen.first_time);
    assert_eq!(&*seen.get(PARTIES, &[1]).unwrap().unwrap().value, [19]);
    assert_eq!(seen.scan(DEVICES, &[], None, 100).unwrap().len(), 20);
    assert!(matches!(seen.get(COUNTERS, &[]), Err(StoreError::UnknownKeyspace { code: 3 })));
    let mut frontier = audit::Frontier::new();
    seen.entries(0, 7).unwrap().iter().for_each(|entry| frontier.push(audit::leaf_hash(entry)));
    assert_eq!(seen.prefix_root, Some(frontier.root()));
    let copy = tempfile::tempdir().unwrap();
    copy_view(directory.path(), copy.path());
    match seen.compare_view(&options, copy.path()).unwrap() {
        ViewFinding::Compared { report, .. } => assert!(report.is_sound() && report.rows == 20),
        ViewFinding::Unfit { reason } => panic!("{reason}"),
    }
    // Looked at, not taken: the next start still ends clean.
    let (store, recovery) = LogStore::open(options).unwrap();
    assert!(recovery.ended_clean);
    drop(store);
}

#[test]
fn a_changed_byte_stops_the_walk_and_says_how_far_the_log_is_vouched_for() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 3);
    let path = directory.path().join("log/00000001.segment");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.windows(8).enumerate().filter(|(_, w)| *w == b"CHANBAT1").nth(1).unwrap().0;
    bytes[second + 300] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = Inspection::read(&options(directory.path()), &[], 0, &mut |_, _| ()).map(drop).unwrap_err();
    assert_eq!((error.batches, error.entries), (1, 1));
    assert!(error.source.is_alarm());
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_view_of_another_log_is_an_alarm() {
    let (shorter, longer) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    filled(shorter.path(), 2);
    filled(longer.path(), 5);
    let options = options(shorter.path());
    let seen = Inspection::read(&options, &[], 0, &mut |_, _| ()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_view(longer.path(), copy.path());
    let error = seen.compare_view(&options, copy.path()).unwrap_err();
    assert!(matches!(error, StoreError::ViewAheadOfLog { .. }), "{error}");
}
