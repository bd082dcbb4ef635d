//! Master secrets of TLS: the pre-shared key derived to be read, the client checked, the secret sealed.

use domain::{KeyUsage, KeysetAlgorithm, PrincipalId, Protocol};
use keys::SecretKey;
use keys::seal::{EphemeralKey, seal, tls_secret_info};
use keys::tls_psk::MasterSecret;

use super::boundary::Boundary;
use super::source::{self, OpenKeyset};
use super::token_session::TokenSession;
use crate::error::HsmError;
use crate::protocol::JobOutput;
use crate::template::SessionKeyUse;
use crate::tls_psk::WireTlsSecret;

/// `NotProved` before anything is sealed when the client's Finished is not right.
pub(crate) fn tls_secret(
    session: &TokenSession,
    boundary: Boundary,
    keyset: &OpenKeyset<'_>,
    job: &WireTlsSecret,
) -> Result<JobOutput, HsmError> {
    if matches!(boundary, Boundary::InsideOnly) {
        return Err(HsmError::policy(
            "TLS secrets are made outside the token, and this token is inside_only",
        ));
    }
    if keyset.keyset.protocol != Protocol::Scp81 || !keyset.keyset.algorithm.may_be_made() {
        return Err(HsmError::caller("TLS secrets take a keyset of SCP81"));
    }
    let handshake = job.handshake()?;
    let psk = read(session, keyset)?;
    let secret = MasterSecret::derive(&psk, &handshake)
        .ok_or_else(|| HsmError::caller("the handshake's hash has not the length of its suite"))?;
    drop(psk);
    if let Some(finished) = job.finished()
        && !secret.is_proved_by(&finished)
    {
        return Ok(JobOutput::TlsSecret(None));
    }
    let recipient = job
        .recipient
        .as_slice()
        .try_into()
        .map_err(|_| HsmError::caller("the recipient key is no uncompressed P-256 point"))?;
    let (eid, kvn) = (&keyset.keyset.eid, keyset.keyset.kvn);
    let randoms = (&handshake.client_random, &handshake.server_random);
    let info = tls_secret_info(&PrincipalId(job.principal), eid, kvn, randoms, &job.request_id)
        .map_err(|e| HsmError::caller(e.to_string()))?;
    let ephemeral = EphemeralKey::generate().map_err(|e| HsmError::token(e.to_string()))?;
    let sealed =
        seal(recipient, &info, secret.expose(), ephemeral).map_err(|e| HsmError::caller(e.to_string()))?;
    Ok(JobOutput::TlsSecret(Some((sealed.encapsulated_key.to_vec(), sealed.ciphertext))))
}

fn read(session: &TokenSession, keyset: &OpenKeyset<'_>) -> Result<SecretKey, HsmError> {
    let key = source::device_key(session, keyset, KeyUsage::Psk, SessionKeyUse::ReadablePsk)?;
    let handle = key.handle();
    let read = match keyset.keyset.algorithm {
        KeysetAlgorithm::Aes128 => SecretKey::from_slice(&session.key_value::<16>(handle)?[..]),
        KeysetAlgorithm::Aes192 => SecretKey::from_slice(&session.key_value::<24>(handle)?[..]),
        _ => SecretKey::from_slice(&session.key_value::<32>(handle)?[..]),
    };
    read.map_err(|e| HsmError::token(e.to_string()))
}
