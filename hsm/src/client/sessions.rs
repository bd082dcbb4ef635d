//! Session keys: the job on its way to a worker and back.

use super::wire::{received, unexpected};
use super::{CallOptions, HsmError, Job, JobOutput, Token};
use crate::protocol::{WireDelivered, WireDelivery, WireReleased, WireSessionKeys};
use crate::session::{ClearKeys, DeliveredKeys, Delivery, ReleasedKeys, SessionKeysJob, SessionKeysOutcome};
use crate::wire_keysets::WireKeysets;

impl Token {
    /// Derives, checks what the card has shown, and gives the session keys of one SCP03 session; see [`SessionKeysJob`].
    pub async fn session_keys(
        &self,
        job: SessionKeysJob,
        options: CallOptions,
    ) -> Result<SessionKeysOutcome, HsmError> {
        let inner = self.inner();
        inner.known_source(&job.keyset.source)?;
        let wire = WireSessionKeys {
            keysets: WireKeysets::of([job.keyset]),
            session: job.session,
            principal: job.context.principal.0,
            request_id: job.context.request_id,
            delivery: match job.delivery {
                Delivery::Sealed { recipient } => WireDelivery::Sealed(recipient.to_vec()),
                Delivery::Wrapped { key } => {
                    inner.known_key(&key)?;
                    WireDelivery::Wrapped(key)
                }
                Delivery::DangerInClear => WireDelivery::InClear,
            },
        };
        match received(inner.submit(Job::SessionKeys(Box::new(wire)), options)?.await)? {
            JobOutput::SessionKeys(released) => {
                Ok(SessionKeysOutcome::Released(Box::new(released_keys(*released)?)))
            }
            JobOutput::CardCryptogramMismatch => Ok(SessionKeysOutcome::CardCryptogramMismatch),
            JobOutput::CardChallengeMismatch => Ok(SessionKeysOutcome::CardChallengeMismatch),
            other => Err(unexpected(&other)),
        }
    }
}

fn released_keys(released: WireReleased) -> Result<ReleasedKeys, HsmError> {
    let WireReleased { keys, host_cryptogram, card_challenge, card_cryptogram } = released;
    let keys = match keys {
        WireDelivered::Sealed { encapsulated_key, ciphertext } => DeliveredKeys::Sealed {
            encapsulated_key: encapsulated_key
                .try_into()
                .map_err(|_| HsmError::token("the worker's encapsulated key is no P-256 point"))?,
            ciphertext,
        },
        WireDelivered::Wrapped(keys) => DeliveredKeys::Wrapped(keys),
        WireDelivered::InClear(mut keys) => {
            DeliveredKeys::InClear(ClearKeys(std::mem::take(&mut keys.0).into()))
        }
    };
    Ok(ReleasedKeys { keys, host_cryptogram, card_challenge, card_cryptogram })
}
