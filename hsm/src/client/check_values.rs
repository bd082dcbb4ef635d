//! Check values of keysets, for registers that learn of keys which exist already.

use domain::KeyCheckValue;

use super::wire::{bounded, received, unexpected};
use super::{CallOptions, HsmError, Job, JobOutput, Token};
use crate::source::SourcedKeyset;
use crate::wire_keysets::WireKeysets;

/// Keysets of one job.
pub const CHECKED_KEYSETS_MAX: usize = 1_000;

impl Token {
    /// The check values of each keyset's keys, in the order of key identifiers. No key leaves.
    pub async fn check_values(
        &self,
        keysets: Vec<SourcedKeyset>,
        options: CallOptions,
    ) -> Result<Vec<Vec<KeyCheckValue>>, HsmError> {
        let inner = self.inner();
        bounded("a job", "keysets", keysets.len(), CHECKED_KEYSETS_MAX)?;
        let expected = keysets.len();
        for keyset in &keysets {
            inner.known_source(&keyset.source)?;
        }
        let wire = Job::CheckValues(Box::new(WireKeysets::of(keysets)));
        match received(inner.submit(wire, options)?.await)? {
            JobOutput::CheckValues(all) if all.len() == expected => {
                Ok(all.into_iter().map(|values| values.into_iter().map(KeyCheckValue).collect()).collect())
            }
            other => Err(unexpected(&other)),
        }
    }
}
