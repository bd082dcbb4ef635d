//! What can go wrong with the store as a whole.

use std::{io, path::PathBuf, sync::Arc};

/// Why the store could not be opened, or a read could not be answered.
///
/// Sorted by who must act: the caller, the operator, or (alarms, [`StoreError::is_alarm`]) whoever investigates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The options do not fit together.
    #[error("store options are wrong: {what}")]
    Configuration {
        /// What does not fit.
        what: &'static str,
    },
    /// A keyspace was used that the store was not opened with.
    #[error("keyspace code {code} is not known to this store; it was opened with an older list of keyspaces")]
    UnknownKeyspace {
        /// The code.
        code: u8,
    },
    /// There is no log in the directory.
    #[error("no log in {}; create one first", directory.display())]
    NotFound {
        /// The directory looked in.
        directory: PathBuf,
    },
    /// There is already a log in the directory.
    #[error("{} already holds a log", directory.display())]
    AlreadyExists {
        /// The directory.
        directory: PathBuf,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The log belongs to another authority or node, or to a later epoch: this process is fenced off.
    #[error("the log belongs to {found}, this process is {expected}")]
    Identity {
        /// What the segment header says.
        found: String,
        /// What the options say.
        expected: String,
    },
    /// The wall clock stands more than a second before the last entry of the log; needs an officer's word.
    #[error("the wall clock is {behind_micros} us behind the last entry of the log")]
    ClockBehindLog {
        /// How far behind, in microseconds.
        behind_micros: i64,
    },
    /// The disk refused something.
    #[error("cannot {action} {file}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file's name.
        file: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Alarm: bytes that were durable are not what was written, or a row carries a wrong HMAC.
    #[error("tampering or decay in {place}: {what}")]
    Tampered {
        /// The file and offset, or the keyspace of the row.
        place: String,
        /// What does not hold.
        what: &'static str,
    },
    /// Alarm: a segment that must exist does not.
    #[error("segment {file} is missing though a later one exists")]
    SegmentMissing {
        /// The file's name.
        file: String,
    },
    /// Alarm: the view has seen a log that goes further than, or differs from, this one. Acknowledged entries are
    /// gone, or the log was put back to an earlier state. After an authorised restore, delete the view directory.
    #[error(
        "the view was built from a log that this one does not continue: it holds batch {view_batch}, {what}"
    )]
    ViewAheadOfLog {
        /// The number of the last batch the view holds.
        view_batch: u64,
        /// How the log differs.
        what: &'static str,
    },
    /// The view engine failed; the service stops, and the next start rebuilds the view if it must.
    #[error("the view failed: {reason}")]
    View {
        /// What the engine said.
        reason: String,
    },
    /// The store no longer serves.
    #[error("the store has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
}

impl StoreError {
    /// Whether this is evidence of tampering or lost acknowledged data rather than an ordinary fault.
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::Tampered { .. } | Self::SegmentMissing { .. } | Self::ViewAheadOfLog { .. } => true,
            Self::Configuration { .. }
            | Self::UnknownKeyspace { .. }
            | Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::Locked { .. }
            | Self::Identity { .. }
            | Self::ClockBehindLog { .. }
            | Self::Io { .. }
            | Self::View { .. }
            | Self::Stopped { .. } => false,
        }
    }

    pub(crate) fn io(action: &'static str, file: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let file = file.into();
        move |source| Self::Io { action, file, source }
    }

    pub(crate) fn in_file(file: &str, offset: u64, what: &'static str) -> Self {
        Self::Tampered { place: format!("{file} at byte {offset}"), what }
    }
}
