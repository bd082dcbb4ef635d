//! What a commit is made of: keyspaces, changes, preconditions.

use std::fmt;

use audit::EntryDraft;

use crate::limits;

/// Where the rows of a keyspace live. The log holds every change of both kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Home {
    /// Authority records: in memory, rebuilt at each start from the verified log, never read from sled.
    Memory,
    /// Everything else: the sled view, each row under an HMAC, disposable and rebuilt from the log.
    View,
}

/// An ordered space of keys with one meaning. Codes are for ever: they are written in the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keyspace {
    /// The code written in the log and in front of each key of the view; 0 is reserved.
    pub code: u8,
    /// The name used in errors and metrics; never written to the log.
    pub name: &'static str,
    /// Where the rows live.
    pub home: Home,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, self.code)
    }
}

/// One write of a commit: put a row, or delete it.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// The keyspace of the row.
    pub keyspace: Keyspace,
    /// The key, at most [`limits::KEY_BYTES_MAX`] bytes; ordered as bytes.
    pub key: Vec<u8>,
    /// The new value, at most [`limits::VALUE_BYTES_MAX`] bytes (4 KiB and less is fast); `None` deletes.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Writes `value` under `key`, whether or not a row is there.
    pub fn put(keyspace: Keyspace, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { keyspace, key: key.into(), value: Some(value.into()) }
    }

    /// Deletes the row under `key`; deleting an absent row is not an error.
    pub fn delete(keyspace: Keyspace, key: impl Into<Vec<u8>>) -> Self {
        Self { keyspace, key: key.into(), value: None }
    }
}

/// What must be true, at the moment the commit gets its place in the log, for it to happen at all.
#[derive(Clone, PartialEq, Eq)]
pub enum Precondition {
    /// No row stands under the key.
    Absent {
        /// The keyspace of the row.
        keyspace: Keyspace,
        /// The key of the row.
        key: Vec<u8>,
    },
    /// A row stands under the key and has exactly this version.
    Version {
        /// The keyspace of the row.
        keyspace: Keyspace,
        /// The key of the row.
        key: Vec<u8>,
        /// The version read earlier ([`crate::Versioned::version`]).
        version: u64,
    },
}

impl Precondition {
    /// The keyspace it speaks about.
    pub fn keyspace(&self) -> Keyspace {
        match self {
            Self::Absent { keyspace, .. } | Self::Version { keyspace, .. } => *keyspace,
        }
    }

    /// The key it speaks about.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Absent { key, .. } | Self::Version { key, .. } => key,
        }
    }
}

/// Entries and the changes they record: durable together, or not at all.
///
/// At least one entry: there is no deed without its record.
#[derive(Default)]
pub struct Commit {
    /// The log entries, in order; their indexes are consecutive.
    pub entries: Vec<EntryDraft>,
    /// The writes, in order; of two writes to one key the later wins.
    pub changes: Vec<Change>,
    /// All must hold, checked against the rows including every commit before this one.
    pub preconditions: Vec<Precondition>,
}

impl Commit {
    /// A commit of these entries and nothing else.
    pub fn of(entries: Vec<EntryDraft>) -> Self {
        Self { entries, changes: Vec::new(), preconditions: Vec::new() }
    }

    /// Bytes its changes take in a state section.
    pub(crate) fn state_bytes(&self) -> usize {
        self.changes
            .iter()
            .map(|change| {
                limits::CHANGE_OVERHEAD + change.key.len() + change.value.as_ref().map_or(0, Vec::len)
            })
            .sum()
    }
}

/// The keyspaces of one store by code.
pub(crate) struct Keyspaces {
    by_code: [Option<Keyspace>; 256],
}

impl Keyspaces {
    pub fn new(list: &[Keyspace]) -> Result<Self, crate::StoreError> {
        let mut by_code = [None; 256];
        for keyspace in list {
            let slot = &mut by_code[usize::from(keyspace.code)];
            if keyspace.code == 0 || slot.is_some() {
                return Err(crate::StoreError::Configuration { what: "a keyspace code is 0 or used twice" });
            }
            *slot = Some(*keyspace);
        }
        Ok(Self { by_code })
    }

    pub fn home(&self, code: u8) -> Option<Home> {
        self.by_code[usize::from(code)].map(|keyspace| keyspace.home)
    }

    pub fn name(&self, code: u8) -> &'static str {
        self.by_code[usize::from(code)].map_or("unknown", |keyspace| keyspace.name)
    }

    pub fn knows(&self, keyspace: Keyspace) -> bool {
        self.by_code[usize::from(keyspace.code)] == Some(keyspace)
    }
}
