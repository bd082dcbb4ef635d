//! The daemon's side of [`KeyPairsJob`].

use super::Token;
use super::wire::{bounded, received, unexpected};
use crate::error::HsmError;
use crate::job::CallOptions;
use crate::key_pair_job::{KEY_PAIRS_MAX, KeyPairs, KeyPairsJob, WrappedKeyPair};
use crate::protocol::{Job, JobOutput};
use crate::spki;

impl Token {
    /// Whether this token refuses what it cannot do itself ([`crate::TokenConfig::inside_only`]).
    pub fn is_inside_only(&self) -> bool {
        self.inner().config.inside_only
    }

    /// Makes key pairs for devices, their private keys wrapped for the recipient and readable nowhere; see
    /// [`KeyPairsJob`]. Nothing of them stays on the token.
    pub async fn key_pairs(&self, job: KeyPairsJob, options: CallOptions) -> Result<KeyPairs, HsmError> {
        bounded("a key-pairs job", "key pairs", job.count, KEY_PAIRS_MAX)?;
        spki::rsa_public_key(&job.recipient_spki)?;
        let count = u16::try_from(job.count).map_err(|_| HsmError::caller("too many key pairs"))?;
        let wire =
            Job::KeyPairs { curve: job.curve.curve().code(), recipient_spki: job.recipient_spki, count };
        match received(self.inner().submit(wire, options)?.await)? {
            JobOutput::KeyPairs { wrapped_transport_key, oaep_hash, pairs } if pairs.len() == job.count => {
                let pairs = pairs
                    .into_iter()
                    .map(|pair| WrappedKeyPair { public_key: pair.spki, private_key: pair.wrapped })
                    .collect();
                Ok(KeyPairs { wrapped_transport_key, oaep_hash, pairs })
            }
            JobOutput::KeyPairs { .. } => {
                Err(HsmError::token("the worker answered with another number of key pairs"))
            }
            other => Err(unexpected(&other)),
        }
    }
}
