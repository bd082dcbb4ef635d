//! Packets and scripts for cards: the job on its way to a worker and back.

use super::wire::{bounded, received, unexpected};
use super::{CallOptions, HsmError, Job, JobOutput, Token};
use crate::ota::{OTA_BYTES_MAX, OTA_ITEMS_MAX, OtaJob, OtaOutcome, WireOta};
use crate::wire_keysets::WireKeysets;

impl Token {
    /// Makes packets and scripts for cards, and opens what cards answer; see [`OtaJob`]. One outcome for each item, in
    /// their order.
    pub async fn ota(&self, job: OtaJob, options: CallOptions) -> Result<Vec<OtaOutcome>, HsmError> {
        let inner = self.inner();
        bounded("a job", "packets and scripts", job.items.len(), OTA_ITEMS_MAX)?;
        let bytes: usize = job.items.iter().map(|(_, work)| work.bytes()).sum();
        if bytes > OTA_BYTES_MAX {
            return Err(HsmError::caller(format!("a job has at most {OTA_BYTES_MAX} bytes, not {bytes}")));
        }
        let expected = job.items.len();
        let (mut keysets, mut work) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        for (keyset, item) in job.items {
            inner.known_source(&keyset.source)?;
            keysets.push(keyset);
            work.push(item.wire());
        }
        let wire = WireOta { keysets: WireKeysets::of(keysets), work };
        match received(inner.submit(Job::Ota(Box::new(wire)), options)?.await)? {
            JobOutput::Ota(outcomes) if outcomes.len() == expected => {
                Ok(outcomes.into_iter().map(OtaOutcome::from).collect())
            }
            other => Err(unexpected(&other)),
        }
    }
}
