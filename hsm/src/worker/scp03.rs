//! Sessions of SCP03: the card checked, the session keys derived, and sealed before they leave the worker.

use cryptoki::object::Attribute;
use domain::{KeyUsage, PrincipalId, Protocol};
use keys::SecretKey;
use keys::scp03::{
    CardChallenge, ChallengeOrigin, Challenges, Cryptogram, DerivationConstant, HostChallenge, SessionKeys,
    cryptogram, session_key,
};
use keys::seal::{EphemeralKey, seal, session_keys_info};

use super::open::ResolvedKey;
use super::order::wrap_kwp;
use super::probe::Abilities;
use super::source::{self, DevicePrf, OpenKeyset};
use super::token_session::TokenSession;
use crate::error::HsmError;
use crate::protocol::{
    JobOutput, WireDelivered, WireDelivery, WireKeys, WireProof, WireReleased, WireSessionKeys,
};
use crate::session::{CardSession, SequenceOrigin};
use crate::template::SessionKeyUse;

/// Whether the card holds its keys (mode S8); S-MAC ends here.
pub(crate) fn card_proof(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
    proof: &WireProof,
) -> Result<bool, HsmError> {
    check(keyset)?;
    let challenges =
        Challenges { host: HostChallenge(proof.host_challenge), card: CardChallenge(proof.card_challenge) };
    let keys = MacKeys::derive(session, keyset, challenges)?;
    Ok(keys.is_proof(&Cryptogram(proof.card_cryptogram)))
}

/// Steps 5 to 8 of the session-keys cycle (DESIGN §5): derive, check the card, derive the rest, seal.
pub(crate) fn session_keys(
    session: &TokenSession,
    abilities: &Abilities,
    keyset: &OpenKeyset<'_>,
    job: &WireSessionKeys,
    wrapping: Option<&ResolvedKey>,
) -> Result<JobOutput, HsmError> {
    check(keyset)?;
    let (CardSession::Present { host_challenge, .. } | CardSession::Prepared { host_challenge, .. }) =
        &job.session;
    match host_challenge.len() {
        8 => release::<8>(session, abilities, keyset, job, wrapping),
        16 => release::<16>(session, abilities, keyset, job, wrapping),
        length => Err(HsmError::caller(format!("a challenge has 8 or 16 bytes, not {length}"))),
    }
}

fn check(keyset: &OpenKeyset<'_>) -> Result<(), HsmError> {
    if keyset.keyset.protocol == Protocol::Scp03 && keyset.keyset.algorithm.may_be_made() {
        Ok(())
    } else {
        Err(HsmError::caller("sessions of SCP03 take an AES keyset of SCP03"))
    }
}

fn release<const N: usize>(
    session: &TokenSession,
    abilities: &Abilities,
    keyset: &OpenKeyset<'_>,
    job: &WireSessionKeys,
    wrapping: Option<&ResolvedKey>,
) -> Result<JobOutput, HsmError> {
    let (mac, key_enc) = match &job.session {
        CardSession::Present { host_challenge, card_challenge, card_cryptogram, origin } => {
            let challenges = Challenges {
                host: HostChallenge(fixed::<N>(host_challenge)?),
                card: CardChallenge(fixed::<N>(card_challenge)?),
            };
            let mac = MacKeys::derive(session, keyset, challenges)?;
            // Before anything else is derived.
            if !mac.is_proof(&Cryptogram(fixed::<N>(card_cryptogram)?)) {
                return Ok(JobOutput::CardCryptogramMismatch);
            }
            let key_enc = source::device_prf(session, keyset, KeyUsage::Enc)?;
            if let Some(origin) = origin
                && card_challenge_of::<N>(&key_enc, origin)? != mac.challenges.card
            {
                return Ok(JobOutput::CardChallengeMismatch);
            }
            (mac, key_enc)
        }
        CardSession::Prepared { host_challenge, origin } => {
            let (challenges, key_enc) = prepared::<N>(session, keyset, host_challenge, origin)?;
            (MacKeys::derive(session, keyset, challenges)?, key_enc)
        }
    };
    let MacKeys { challenges, key_mac, s_mac } = mac;
    let algorithm = keyset.keyset.algorithm;
    let keys = SessionKeys {
        s_enc: session_key(&key_enc, DerivationConstant::SEnc, algorithm, &challenges)?,
        s_rmac: session_key(&key_mac, DerivationConstant::SRmac, algorithm, &challenges)?,
        s_mac,
    };
    let mut released = WireReleased {
        host_cryptogram: keys.host_cryptogram(&challenges).0.to_vec(),
        card_challenge: Vec::new(),
        card_cryptogram: Vec::new(),
        keys: match (&job.delivery, wrapping) {
            (WireDelivery::Sealed(recipient), _) => {
                let recipient = recipient
                    .as_slice()
                    .try_into()
                    .map_err(|_| HsmError::caller("the recipient key is no uncompressed P-256 point"))?;
                let principal = PrincipalId(job.principal);
                let (eid, kvn) = (&keyset.keyset.eid, keyset.keyset.kvn);
                let info = session_keys_info(&principal, eid, kvn, &challenges, &job.request_id)
                    .map_err(|e| HsmError::caller(e.to_string()))?;
                let ephemeral = EphemeralKey::generate().map_err(|e| HsmError::token(e.to_string()))?;
                let sealed = seal(recipient, &info, &keys.encode(), ephemeral)
                    .map_err(|e| HsmError::caller(e.to_string()))?;
                WireDelivered::Sealed {
                    encapsulated_key: sealed.encapsulated_key.to_vec(),
                    ciphertext: sealed.ciphertext,
                }
            }
            (WireDelivery::Wrapped(_), Some(wrapping)) => {
                let kwp = abilities.wrapping().kwp()?;
                let wrap = |key: &SecretKey| wrap_session_key(session, kwp, wrapping, key);
                WireDelivered::Wrapped([wrap(&keys.s_enc)?, wrap(&keys.s_mac)?, wrap(&keys.s_rmac)?])
            }
            (WireDelivery::Wrapped(_), None) => {
                return Err(HsmError::caller("the job names no wrapping key"));
            }
            (WireDelivery::InClear, _) => WireDelivered::InClear(WireKeys(keys.encode().to_vec())),
        },
    };
    if matches!(job.session, CardSession::Prepared { .. }) {
        released.card_challenge = challenges.card.0.to_vec();
        released.card_cryptogram = keys.card_cryptogram(&challenges).0.to_vec();
    }
    Ok(JobOutput::SessionKeys(Box::new(released)))
}

/// A session key by AES-KWP under a party's key, by the token: it goes in as a session object and is destroyed after.
fn wrap_session_key(
    session: &TokenSession,
    kwp: u64,
    wrapping: &ResolvedKey,
    key: &SecretKey,
) -> Result<Vec<u8>, HsmError> {
    let algorithm = key.algorithm();
    let template: Vec<_> = SessionKeyUse::Outgoing
        .attributes(algorithm.key_bytes())
        .into_iter()
        .filter(|attribute| !matches!(attribute, Attribute::ValueLen(_)))
        .collect();
    let object = session.guard(session.create_secret(&template, key.expose())?);
    wrap_kwp(session, kwp, wrapping.handle, object.handle(), algorithm)
}

/// Key-MAC and S-MAC of a session, nothing else: what a card's proof is checked with.
struct MacKeys<'s, const N: usize> {
    challenges: Challenges<N>,
    key_mac: DevicePrf<'s>,
    s_mac: SecretKey,
}

impl<'s, const N: usize> MacKeys<'s, N> {
    fn derive(
        session: &'s TokenSession,
        keyset: &OpenKeyset<'_>,
        challenges: Challenges<N>,
    ) -> Result<Self, HsmError> {
        let key_mac = source::device_prf(session, keyset, KeyUsage::Mac)?;
        let s_mac = session_key(&key_mac, DerivationConstant::SMac, keyset.keyset.algorithm, &challenges)?;
        Ok(Self { challenges, key_mac, s_mac })
    }

    /// In constant time.
    fn is_proof(&self, presented: &Cryptogram<N>) -> bool {
        cryptogram(&self.s_mac, DerivationConstant::CardCryptogram, &self.challenges) == *presented
    }
}

/// The challenges of a session that is prepared without a card, and Key-ENC, from which the card's follows.
pub(super) fn prepared<'s, const N: usize>(
    session: &'s TokenSession,
    keyset: &OpenKeyset<'_>,
    host_challenge: &[u8],
    origin: &SequenceOrigin,
) -> Result<(Challenges<N>, DevicePrf<'s>), HsmError> {
    check(keyset)?;
    let key_enc = source::device_prf(session, keyset, KeyUsage::Enc)?;
    let challenges = Challenges {
        host: HostChallenge(fixed::<N>(host_challenge)?),
        card: card_challenge_of::<N>(&key_enc, origin)?,
    };
    Ok((challenges, key_enc))
}

fn card_challenge_of<const N: usize>(
    key_enc: &DevicePrf<'_>,
    origin: &SequenceOrigin,
) -> Result<CardChallenge<N>, HsmError> {
    ChallengeOrigin { sequence_counter: origin.counter, aid: &origin.aid }.card_challenge(key_enc)
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], HsmError> {
    bytes
        .try_into()
        .map_err(|_| HsmError::caller("the challenges and cryptograms of a session have one length"))
}
