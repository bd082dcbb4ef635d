//! The log-first engine: what happened is in an append-only log, what stands is a view of it.
//!
//! A commit is entries and the row changes they record. One committer thread gathers waiting commits into a batch,
//! writes it to a zero-filled segment with one `fdatasync`, makes the changed rows visible, and only then answers. Rows
//! live in memory or, a moment later, in sled. The log is the truth: every batch carries the hash of the one before and
//! an HMAC under a key from the log token; the view may be lost at any time. The docs of the modules `segment` and
//! `batch` describe the bytes.
//!
//! The crate sees records as bytes; entries come from `audit`.

mod commit;
mod error;
mod keyspace;
pub mod limits;
mod store;

mod committer;
mod inspect;
mod log_store;
mod open;
mod prepare;
mod read;
mod tail;
mod verify;
mod walk;

mod batch;
mod current;
mod disk;
mod mac;
mod memory;
mod segment;
mod values;
mod view;

pub use commit::{CommitError, CommitTicket, Receipt};
pub use disk::{Disk, DiskDirectory, DiskFile};
pub use error::StoreError;
pub use inspect::{InspectError, Inspection, ViewFinding};
pub use keyspace::{Change, Commit, Home, Keyspace, Precondition};
pub use log_store::{LogStore, OpenOptions};
pub use mac::LogMacKey;
pub use open::{Recovery, ViewRecovery};
pub use segment::LogIdentity;
pub use store::{Row, Store, TreeHead, Versioned};
pub use verify::{RowProblem, RowProblemKind, ViewReport};
