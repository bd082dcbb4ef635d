//! TLS master secrets: the job on its way to a worker and back.

use super::wire::{received, unexpected};
use super::{CallOptions, HsmError, Job, JobOutput, Token};
use crate::source::KeySource;
use crate::tls_psk::{TlsSecretJob, TlsSecretOutcome};

impl Token {
    /// Checks what the client has shown and gives the master secret of its connection; see [`TlsSecretJob`].
    pub async fn tls_secret(
        &self,
        job: TlsSecretJob,
        options: CallOptions,
    ) -> Result<TlsSecretOutcome, HsmError> {
        let inner = self.inner();
        inner.known_source(&job.keyset.source)?;
        if self.is_inside_only() {
            return Err(HsmError::policy(
                "TLS secrets are made outside the token, and this token is inside_only",
            ));
        }
        if matches!(job.keyset.source, KeySource::Stored(_)) {
            return Err(HsmError::policy(
                "a stored key never leaves the token, and TLS secrets are made outside",
            ));
        }
        match received(inner.submit(Job::TlsSecret(Box::new(job.wire())), options)?.await)? {
            JobOutput::TlsSecret(Some((encapsulated_key, ciphertext))) => Ok(TlsSecretOutcome::Released {
                encapsulated_key: encapsulated_key
                    .try_into()
                    .map_err(|_| HsmError::token("the worker's encapsulated key is no P-256 point"))?,
                ciphertext,
            }),
            JobOutput::TlsSecret(None) => Ok(TlsSecretOutcome::NotProved),
            other => Err(unexpected(&other)),
        }
    }
}
