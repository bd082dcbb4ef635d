//! What the verifier answers.

use std::fmt;

use crate::manifest::Counts;
use crate::{CheckpointBody, LogKey};

/// What the auditor knows from elsewhere than the export.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    /// The log's keys. Empty: the keys of the export's own policy.txt are used, and the report says so.
    pub log_keys: Vec<LogKey>,
    /// Checkpoints of this log got elsewhere: receipts, earlier exports, another auditor's. Already verified, or
    /// trusted for where they come from.
    pub known_checkpoints: Vec<CheckpointBody>,
}

/// A check that passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What holds.
    pub what: String,
    /// Whom it defeats: who could not have got this export past the check.
    pub defeats: &'static str,
}

/// The answer when everything holds.
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// The verified checkpoint.
    pub checkpoint: CheckpointBody,
    /// The keys that signed it.
    pub signers: Vec<LogKey>,
    /// What the export holds.
    pub counts: Counts,
    /// What was checked, in order.
    pub checks: Vec<Check>,
    /// What the reader must know to judge the rest. To be shown as loudly as the result.
    pub warnings: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The file, as its path in the export.
    pub file: String,
    /// The entry concerned, by its number in the log.
    pub index: Option<u64>,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "{} entry {index}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

/// The answer when something is wrong. At least one finding; the first are nearest to the cause.
#[derive(Clone, Debug)]
pub struct VerifyFailure {
    /// What was found, at most as many as were asked for.
    pub findings: Vec<Finding>,
    /// Whether the search stopped at that number.
    pub stopped_early: bool,
}

/// [`verify_bundle`](crate::verify_bundle) stops after so many findings.
pub const FINDINGS_MAX: usize = 100;

impl fmt::Display for VerifyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = if self.stopped_early { " or more" } else { "" };
        write!(f, "the export does not verify: {}{more} findings", self.findings.len())?;
        for finding in &self.findings {
            write!(f, "\n{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for VerifyFailure {}
