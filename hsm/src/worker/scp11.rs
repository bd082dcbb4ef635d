//! SCP11: the one-time key of a session, the agreements, the card's receipt, the sealed keys.

use domain::{Eid, PrincipalId};
use keys::scp11::{AgreedKeys, CardAnswer, OneTimeKey, Sealing, Variant};
use keys::seal::{EphemeralKey, seal};
use zeroize::Zeroizing;

use super::derive;
use super::open::ResolvedKey;
use super::rsp::agree;
use super::token_session::TokenSession;
use crate::error::HsmError;
use crate::protocol::JobOutput;
use crate::rsp::fixed;
use crate::scp11::{WireAgreement, WireScp11, WireScp11Outcome};

/// Secrets of the seed that are tried until one is a scalar of P-256: each fails once in 2^32.
const TRIES: u8 = 8;

/// One part of a session: its one-time public key, or the rest.
pub(crate) fn scp11(
    session: &TokenSession,
    (agreement, seed): (&ResolvedKey, &ResolvedKey),
    job: &WireScp11,
) -> Result<JobOutput, HsmError> {
    let one_time = one_time_key(session, seed, &job.context)?;
    let outcome = match &job.agreement {
        None => WireScp11Outcome::OneTimeKey(one_time.public_key().map_err(token)?.to_vec()),
        Some(wanted) => agreed(session, agreement, &one_time, job, wanted)?,
    };
    Ok(JobOutput::Scp11(outcome))
}

/// eSK.OCE.ECKA of this context, the same each time.
fn one_time_key(
    session: &TokenSession,
    seed: &ResolvedKey,
    context: &[u8; 32],
) -> Result<OneTimeKey, HsmError> {
    for counter in 0..TRIES {
        let name = format!("scp11/{counter}/{}", hex::encode(context));
        let secret = Zeroizing::new(derive::service_secret(session, seed.handle, &name)?);
        if let Some(key) = OneTimeKey::from_secret(&secret) {
            return Ok(key);
        }
    }
    Err(HsmError::token("no secret of the seed is a scalar of P-256"))
}

fn agreed(
    session: &TokenSession,
    agreement: &ResolvedKey,
    one_time: &OneTimeKey,
    job: &WireScp11,
    wanted: &WireAgreement,
) -> Result<WireScp11Outcome, HsmError> {
    let terms = job.terms()?;
    let card_key: [u8; 65] = fixed(&wanted.card_key, "the card's key")?;
    let answer = match &wanted.answer {
        None => None,
        Some((key, receipt)) => {
            Some(CardAnswer { public_key: fixed(key, "the card's one-time key")?, receipt: *receipt })
        }
    };
    let of_the_session = match (terms.variant, &answer) {
        (Variant::A, Some(answer)) => answer.public_key,
        (Variant::A, None) => return Err(HsmError::caller("SCP11a has no keys before the card answers")),
        (Variant::C, answer) if answer.is_none_or(|answer| answer.public_key == card_key) => card_key,
        (Variant::C, _) => return Ok(WireScp11Outcome::NotProved),
    };
    let of_one_time_keys = one_time
        .agree(&of_the_session)
        .ok_or_else(|| HsmError::caller("the card's one-time key is no point of P-256"))?;
    let of_static_keys = agree(session, agreement.handle, &card_key)?;
    let keys = AgreedKeys::derive(terms, &of_one_time_keys, &of_static_keys).map_err(token)?;
    let command = terms.command_data(&one_time.public_key().map_err(token)?);
    if let Some(answer) = &answer
        && !keys.is_proved_by(&command, answer)
    {
        return Ok(WireScp11Outcome::NotProved);
    }
    let receipt = keys.receipt(&command, &of_the_session);
    let eid = Eid::from_bcd(wanted.eid).map_err(|e| HsmError::caller(e.to_string()))?;
    let sealing = Sealing {
        principal: &PrincipalId(wanted.principal),
        eid: &eid,
        kvn: wanted.kvn,
        session_id: &wanted.session_id,
        request_id: &wanted.request_id,
    };
    let info = sealing.info().map_err(|e| HsmError::caller(e.to_string()))?;
    let recipient: [u8; 65] = fixed(&wanted.recipient, "the recipient's key")?;
    let ephemeral = EphemeralKey::generate().map_err(token)?;
    let sealed = seal(&recipient, &info, &keys.encode(&receipt), ephemeral)
        .map_err(|e| HsmError::caller(e.to_string()))?;
    Ok(WireScp11Outcome::Released {
        encapsulated_key: sealed.encapsulated_key.to_vec(),
        ciphertext: sealed.ciphertext,
    })
}

fn token(error: keys::KeyError) -> HsmError {
    HsmError::token(error.to_string())
}
