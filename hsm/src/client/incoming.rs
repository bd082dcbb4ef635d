//! Device keys that come in: the job on its way to a worker and back.

use super::wire::{bounded, received, unexpected};
use super::{CallOptions, HsmError, Job, JobOutput, Token};
use crate::incoming::{INCOMING_DEVICES_MAX, IncomingForm, IncomingJob, IncomingOutcome};
use crate::key::KeyRole;

impl Token {
    /// Unwraps the keys of devices and stores them; see [`IncomingJob`]. One outcome for each device, in their order.
    pub async fn take_in(
        &self,
        job: IncomingJob,
        options: CallOptions,
    ) -> Result<Vec<IncomingOutcome>, HsmError> {
        let inner = self.inner();
        bounded("a job", "devices", job.devices.len(), INCOMING_DEVICES_MAX)?;
        inner.known_storage(&job.storage.kek, &job.storage.blob_mac)?;
        let role = inner.known_key(&job.under)?.role;
        if role != KeyRole::PartyImport {
            let under = &job.under;
            return Err(HsmError::caller(format!("key {under} is a {}, no import key", role.as_str())));
        }
        if self.is_inside_only() && matches!(job.form, IncomingForm::PysimCells(_)) {
            return Err(HsmError::policy(
                "cells of pySim's CSV are decrypted outside the token (inside_only)",
            ));
        }
        let expected = job.devices.len();
        match received(inner.submit(Job::Incoming(Box::new(job.wire())), options)?.await)? {
            JobOutput::Incoming(outcomes) if outcomes.len() == expected => {
                Ok(outcomes.into_iter().map(IncomingOutcome::from).collect())
            }
            other => Err(unexpected(&other)),
        }
    }
}
