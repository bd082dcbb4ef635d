//! A log read by docs/formats/log-segment.md alone, with none of the store's own reading.

#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use audit::{Frontier, leaf_hash, sha256};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use store::{LogStore, Store};
use support::{DEVICES, PARTIES, options, put};

fn hmac(bytes: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&[0x5A; 32]).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Entries and changes (code, key, value, version) of one batch.
type Changes = Vec<(u8, Vec<u8>, Option<Vec<u8>>, usize)>;

fn changes(state: &[u8], first_index: usize) -> Changes {
    let (mut at, mut found) = (32, Vec::new());
    while at < state.len() {
        let (offset, count) = (number(&state[at..at + 4]), number(&state[at + 4..at + 8]));
        at += 8;
        for _ in 0..count {
            let (code, key) = (state[at], number(&state[at + 1..at + 3]));
            let value = &state[at + 3..at + 7];
            let length = if value == [0xFF; 4] { None } else { Some(number(value)) };
            at += 7;
            let end = at + key + length.unwrap_or(0);
            let value = length.map(|_| state[at + key..end].to_vec());
            found.push((code, state[at..at + key].to_vec(), value, first_index + offset));
            at = end;
        }
    }
    found
}

#[test]
fn a_log_reads_by_the_published_format_to_its_entries_its_rows_and_its_root() {
    let directory = tempfile::tempdir().unwrap();
    let store = LogStore::create(options(directory.path())).unwrap();
    for n in 0..40_u8 {
        store.commit(put(DEVICES, [n], vec![n; 3000])).wait().unwrap();
    }
    let delete = store::Change::delete(PARTIES, "gone");
    let last = store::Commit { changes: vec![delete], ..put(PARTIES, "p", "q") };
    store.commit(last).wait().unwrap();
    let (tree, entries) = (store.tree(), store.entries(0, 1000).unwrap());
    drop(store);

    let (mut frontier, mut rows) = (Frontier::new(), Vec::new());
    let (mut batches, mut previous, mut segments) = (0, vec![0; 32], 0);
    for segment in 1.. {
        let path = directory.path().join(format!("log/{segment:08}.segment"));
        let Ok(bytes) = fs::read(path) else { break };
        if bytes[..512] == [0; 512] {
            break;
        }
        segments += 1;
        assert_eq!(&bytes[..10], b"CHANSEG1\0\x01");
        assert_eq!((number(&bytes[14..22]), number(&bytes[22..30])), (segment, batches + 1));
        assert_eq!(bytes[30..62], previous[..]);
        assert_eq!(&bytes[62..80], b"\x0eauthority.test\x01a\0");
        assert_eq!(bytes[480..512], hmac(&bytes[..480])[..]);
        let mut at = 512;
        while bytes.get(at..at + 512).is_some_and(|sector| sector != [0; 512]) {
            let header = &bytes[at..at + 240];
            assert_eq!(&header[..14], b"CHANBAT1\0\x01\0\0\0\x01");
            assert_eq!(header[208..], hmac(&header[..208])[..]);
            batches += 1;
            assert_eq!((number(&header[14..22]), &header[22..54]), (batches, &previous[..]));
            let (first, count) = (number(&header[54..62]), number(&header[62..66]));
            assert_eq!(first as u64, frontier.size());
            let entries_end = at + 240 + number(&header[114..118]);
            let state_end = entries_end + number(&header[118..122]);
            let (section, state) = (&bytes[at + 240..entries_end], &bytes[entries_end..state_end]);
            assert_eq!((&header[122..154], &header[154..186]), (&sha256(section)[..], &sha256(state)[..]));
            let mut entry = 0;
            while entry < section.len() {
                let end = entry + 2 + number(&section[entry..entry + 2]);
                assert_eq!(section[entry + 2..end], entries[frontier.size() as usize][..]);
                frontier.push(leaf_hash(&section[entry + 2..end]));
                entry = end;
            }
            assert_eq!(frontier.size(), (first + count) as u64);
            assert_eq!(
                (number(&header[66..74]) as u64, &header[74..106]),
                (frontier.size(), &frontier.root()[..])
            );
            rows.extend(changes(state, first));
            previous = sha256(header).to_vec();
            let end = state_end.next_multiple_of(512);
            let zeros = bytes[at + 512..end].chunks(512).filter(|sector| **sector == [0; 512]).count();
            assert_eq!(number(&header[186..190]), zeros);
            at = end;
        }
    }
    assert!(segments > 1);
    assert_eq!((frontier.size(), frontier.root()), (tree.size, tree.root));
    assert_eq!(rows[7], (2, vec![7], Some(vec![7; 3000]), 7));
    assert_eq!(rows[40], (1, b"gone".to_vec(), None, 40));
}
