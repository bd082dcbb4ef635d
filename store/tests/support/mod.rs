//! What the store's tests have in common.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use audit::{EntryDraft, EventType, Fact, Outcome};
use domain::{Clock, Timestamp};
use store::{Commit, Home, Keyspace, LogIdentity, LogMacKey, OpenOptions};
use zeroize::Zeroizing;

pub const PARTIES: Keyspace = Keyspace { code: 1, name: "parties", home: Home::Memory };
pub const DEVICES: Keyspace = Keyspace { code: 2, name: "devices", home: Home::View };
pub const COUNTERS: Keyspace = Keyspace { code: 3, name: "counters", home: Home::View };

/// A clock the test moves; every look at it takes 10 us.
pub struct TestClock {
    pub wall: AtomicI64,
    pub steady: AtomicI64,
}

impl TestClock {
    pub fn at(seconds: i64) -> Arc<Self> {
        Arc::new(Self { wall: AtomicI64::new(seconds * 1_000_000), steady: AtomicI64::new(0) })
    }

    pub fn step_wall(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
    }

    pub fn pass(&self, micros: i64) {
        self.wall.fetch_add(micros, Ordering::SeqCst);
        self.steady.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.pass(10);
        Timestamp::from_micros(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic_micros(&self) -> u64 {
        self.steady.load(Ordering::SeqCst).cast_unsigned()
    }
}

pub const START: i64 = 1_800_000_000;

pub fn options(directory: &Path) -> OpenOptions {
    options_with(directory, TestClock::at(START))
}

pub fn options_with(directory: &Path, clock: Arc<dyn Clock>) -> OpenOptions {
    let identity = LogIdentity { authority: "authority.test".into(), node: "a".into(), epoch: 1 };
    let mut options = OpenOptions::new(
        directory,
        identity,
        LogMacKey::new(Zeroizing::new([0x5A; 32])),
        clock,
        vec![PARTIES, DEVICES, COUNTERS],
    );
    options.segment_bytes = 64 * 1024;
    options.reserve_bytes = 0;
    options
}

pub fn draft() -> EntryDraft {
    EntryDraft::new(EventType::ServiceStarted, Outcome::Done).fact("request", Fact::Digest([7; 32]))
}

/// A commit of one entry and one put.
pub fn put(keyspace: Keyspace, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Commit {
    Commit {
        entries: vec![draft()],
        changes: vec![store::Change::put(keyspace, key, value)],
        preconditions: Vec::new(),
    }
}
