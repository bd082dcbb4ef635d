//! The `Store` trait: what every engine promises.

use std::sync::Arc;

use crate::{Commit, CommitTicket, Keyspace, StoreError};

/// A row and the version it has.
#[derive(Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value as it was committed.
    pub value: Arc<[u8]>,
    /// The index of the first entry of the commit that wrote it; what [`crate::Precondition::Version`] compares.
    pub version: u64,
}

/// A row of a scan: its key and its versioned value.
pub type Row = (Vec<u8>, Versioned);

/// The Merkle tree over all durable entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeHead {
    /// How many entries there are.
    pub size: u64,
    /// RFC 6962 §2.1: the root over exactly these entries.
    pub root: [u8; 32],
}

/// Ordered keyspaces with an append-only log of entries beside them, changed only by atomic commits.
///
/// Every method may be called from any thread at the same time. Reads block the thread (memory keyspaces for
/// nanoseconds, the view for a disk read at worst).
pub trait Store: Send + Sync {
    /// Hands in a commit. Returns at once; the ticket resolves when the commit is durable *and* visible to
    /// [`Store::get`], or did not happen. Commits get their places in the order they were handed in by one thread.
    ///
    /// After [`crate::CommitError::Stopped`] the outcome of a commit that was under way is unknown until the next
    /// start reads the log; every other error means that nothing happened. The store never retries; the caller
    /// may, under its own idempotency key.
    fn commit(&self, commit: Commit) -> CommitTicket;

    /// The row under a key, `None` when there is none. Sees every commit acknowledged before the call.
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StoreError>;

    /// Rows whose key starts with `prefix`, in key order, after the key `after` (exclusive) if given, at most
    /// `limit` of them. Each row is whole; rows of one commit may appear in part when it lands during the scan of
    /// a view keyspace.
    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// The tree over the acknowledged entries.
    fn tree(&self) -> TreeHead;

    /// The stored bytes of entries from index `from` on, at most `limit`; fewer at the end of the log.
    /// The bytes are verified against the log's HMAC before they are returned.
    fn entries(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Why the store no longer acknowledges, or `None` while it does. Once it has stopped it never serves again;
    /// the process should report NOT_SERVING and exit.
    fn stopped(&self) -> Option<Arc<str>>;
}
