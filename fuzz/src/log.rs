//! The log: documents of an export, and the segments on disk.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use audit::{
    CheckpointBody, Entry, LogKey, Manifest, ORDER_RECEIPT, parse_witness_request, split_bundle,
    verify_checkpoint, verify_statement, witness_request,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use store::{Inspection, LogIdentity, LogMacKey, OpenOptions};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub fn documents(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        assert_eq!(entry.to_bytes(), bytes);
    }
    if let Ok(entries) = split_bundle(bytes) {
        let lengths: usize = entries.iter().map(|entry| entry.len() + 2).sum();
        assert_eq!(lengths, bytes.len());
    }
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(manifest.to_bytes(), bytes);
    }
    if let Ok(body) = CheckpointBody::parse(bytes) {
        assert_eq!(body.unsigned_text().as_bytes(), bytes);
    }
    let key = LogKey::new("authority.example/node-1/2026", [9; 32]).expect("a name and 32 bytes");
    assert!(verify_checkpoint(bytes, std::slice::from_ref(&key)).is_err(), "nobody has this key");
    assert!(verify_statement(bytes, ORDER_RECEIPT, &key).is_err(), "nobody has this key");
    if let Some(at) = bytes.windows(2).position(|pair| pair == b"\n\n") {
        let checkpoint = &bytes[at + 2..];
        if let Ok((old, proof)) = parse_witness_request(bytes, checkpoint) {
            assert_eq!(witness_request(old, &proof, checkpoint), bytes);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(key) = LogKey::from_vkey(text) {
            assert_eq!(LogKey::from_vkey(&key.vkey()).expect("its own text reads").vkey(), key.vkey());
        }
        let _ = audit::ApprovalKey::from_pem(text);
    }
    let _ = audit::ApprovalKey::from_spki_der(bytes);
}

const SECTOR: usize = 512;
const BATCH_HEADER: usize = 240;
const MAC: usize = 32;
const MAC_KEY: [u8; 32] = [7; 32];

/// Where the segment lies: one folder for the process, in memory where that is possible.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let folder = made.expect("a folder for the segment");
    fs::create_dir_all(folder.path().join("log")).expect("a folder below it");
    folder
});

#[derive(Debug)]
struct NoClock;

impl domain::Clock for NoClock {
    fn now(&self) -> domain::Timestamp {
        domain::Timestamp::from_seconds(0)
    }

    fn monotonic_micros(&self) -> u64 {
        0
    }
}

/// The bytes are a first segment without its zeros at the end. An attacker who owns the disk has no HMAC key and gets no
/// further than a wrong HMAC, which is shown elsewhere; here everything that an HMAC covers is made right first, so that
/// the reader behind it is reached.
pub fn segment(bytes: &[u8]) {
    let mut segment = bytes.to_vec();
    segment.resize(bytes.len().next_multiple_of(SECTOR).max(2 * SECTOR) + SECTOR, 0);
    sign(&mut segment);
    let name = |at: usize| -> Option<String> {
        let length = usize::from(segment[at]);
        String::from_utf8(segment[at + 1..at + 1 + length].to_vec()).ok()
    };
    let authority = name(62).unwrap_or_default();
    let node = name(63 + usize::from(segment[62])).unwrap_or_default();
    let epoch = u32::from_be_bytes(segment[10..14].try_into().expect("four bytes"));
    fs::write(FOLDER.path().join("log/00000001.segment"), &segment).expect("the segment is written");
    let options = OpenOptions::new(
        FOLDER.path(),
        LogIdentity { authority, node, epoch },
        LogMacKey::new(Zeroizing::new(MAC_KEY)),
        std::sync::Arc::new(NoClock),
        kms::KEYSPACES.to_vec(),
    );
    if let Ok(read) = Inspection::read(&options, &options.keyspaces, 1, &mut |_, _| ()) {
        assert!(read.batches > 0 || read.tree.size == 0);
        assert!(read.batch_bytes <= segment.len() as u64);
    }
}

/// Puts right digests and HMACs into the header and into each batch.
fn sign(segment: &mut [u8]) {
    let mac = |bytes: &[u8]| -> [u8; MAC] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&MAC_KEY).expect("any length is a key");
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    };
    let tag = mac(&segment[..SECTOR - MAC]);
    segment[SECTOR - MAC..SECTOR].copy_from_slice(&tag);
    let (mut at, mut previous) = (SECTOR, segment[30..62].to_vec());
    while segment.get(at..at + SECTOR).is_some_and(|sector| sector.starts_with(b"CHANBAT1")) {
        let length = |from: usize| {
            u32::from_be_bytes(segment[at + from..at + from + 4].try_into().expect("four bytes")) as usize
        };
        let (entries, state) = (at + BATCH_HEADER, at + BATCH_HEADER + length(114));
        let end = state + length(118);
        if end > segment.len() {
            break;
        }
        segment[at + 22..at + 54].copy_from_slice(&previous);
        for (from, until, place) in [(entries, state, 122), (state, end, 154)] {
            let digest = Sha256::digest(&segment[from..until]);
            segment[at + place..at + place + 32].copy_from_slice(&digest);
        }
        let tag = mac(&segment[at..at + BATCH_HEADER - MAC]);
        segment[at + BATCH_HEADER - MAC..at + BATCH_HEADER].copy_from_slice(&tag);
        previous = Sha256::digest(&segment[at..at + BATCH_HEADER]).to_vec();
        at = end.next_multiple_of(SECTOR);
    }
}
