//! The register walked in pages.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use audit::{EntryDraft, EventType, Outcome};
use ca::{CertificateFilter, list_certificates};
use domain::{Clock, Timestamp};
use prost::Message as _;
use proto::records;
use store::{Change, Commit, LogIdentity, LogMacKey, LogStore, OpenOptions, Store as _};
use zeroize::Zeroizing;

struct Standing;

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_795_478_400)
    }

    fn monotonic_micros(&self) -> u64 {
        0
    }
}

/// So many certificates, every ninth of the issuer `rare`.
fn register(directory: &tempfile::TempDir, certificates: u16) -> LogStore {
    let identity = LogIdentity { authority: "test".into(), node: "a".into(), epoch: 1 };
    let mac = LogMacKey::new(Zeroizing::new([1; 32]));
    let keyspaces = ca::KEYSPACES.to_vec();
    let mut options = OpenOptions::new(directory.path(), identity, mac, Arc::new(Standing), keyspaces);
    options.segment_bytes = 4 << 20;
    options.reserve_bytes = 0;
    let store = LogStore::create(options).unwrap();
    let rows = ca::KEYSPACES.into_iter().find(|keyspace| keyspace.name == "certificates").unwrap();
    let record = |number: u16| records::Certificate {
        version: 1,
        serial_number: serial(number),
        issuer: if number.is_multiple_of(9) { "rare" } else { "usual" }.to_owned(),
        state: "issued".to_owned(),
        ..records::Certificate::default()
    };
    let changes = (0..certificates)
        .map(|number| Change::put(rows, serial(number), record(number).encode_to_vec()))
        .collect::<Vec<_>>();
    let mut commit = Commit::of(vec![EntryDraft::new(EventType::CertificateIssued, Outcome::Done)]);
    commit.changes = changes;
    store.commit(commit).wait().unwrap();
    store
}

fn serial(number: u16) -> Vec<u8> {
    [&[0x40; 18][..], &number.to_be_bytes()].concat()
}

#[test]
fn pages_of_every_length_give_each_certificate_once_in_the_order_of_serial_numbers() {
    const COUNT: u16 = 5_000;
    let directory = tempfile::tempdir().unwrap();
    let store = register(&directory, COUNT);
    for (issuer, step) in [("", 1), ("rare", 9)] {
        let expected: Vec<Vec<u8>> = (0..COUNT).step_by(step).map(serial).collect();
        for limit in [7, 100, 200] {
            let filter = CertificateFilter { issuer: issuer.to_owned(), ..CertificateFilter::default() };
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = list_certificates(&store, &filter, after.as_deref(), limit).unwrap();
                assert!(page.certificates.len() <= limit);
                found.extend(page.certificates.into_iter().map(|certificate| certificate.serial));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{issuer} {limit}");
        }
    }
}
