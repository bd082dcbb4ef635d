//! Session keys: the steps of `docs/cycles/session-keys.md` from reading the records to the commit.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{
    DeviceState, Eid, KeyState, KeysetAlgorithm, PrincipalId, Protocol, ReasonCode, Refusal, Role, Timestamp,
};
use keys::scp03::{CardChallenge, Challenges, HostChallenge};
use store::{Change, Commit};

use crate::allowance::Need;
use crate::devices::{DeviceRecord, KeysetName, KeysetRecord};
use crate::grants::{self, GrantFinding};
use crate::keyspaces::{DEVICES, KEYSETS};
use crate::{Engines, KmsError};

/// The party that asks, as its enrolment and its connection say.
#[derive(Clone, Debug)]
pub struct Provisioner {
    /// Its name.
    pub name: String,
    /// The credential of this connection.
    pub principal: PrincipalId,
    /// Its registered encryption key: an uncompressed P-256 point.
    pub encryption_key: [u8; 65],
}

/// What it asks for.
#[derive(Clone, Debug)]
pub struct SessionKeysRequest {
    /// The device.
    pub eid: Eid,
    /// The keyset that the card named in its answer to INITIALIZE UPDATE.
    pub keyset: KeysetName,
    /// 8 bytes of the host.
    pub host_challenge: [u8; 8],
    /// 8 bytes of the card.
    pub card_challenge: [u8; 8],
    /// The card's proof.
    pub card_cryptogram: [u8; 8],
    /// Must be the purpose of a grant.
    pub purpose: String,
    /// The caller's idempotency key, at most 64 bytes; part of the sealing context.
    pub request_id: Vec<u8>,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
    /// Whether this request was answered before under its idempotency key.
    pub is_repeat: bool,
}

/// What may be answered once the commit is durable.
#[derive(Debug)]
pub struct SessionKeysAnswer {
    /// HPKE encapsulated key.
    pub encapsulated_key: [u8; 65],
    /// HPKE ciphertext of the session keys.
    pub ciphertext: Vec<u8>,
    /// For EXTERNAL AUTHENTICATE.
    pub host_cryptogram: [u8; 8],
    /// Length of the session keys.
    pub algorithm: KeysetAlgorithm,
}

/// What the decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct ReleaseFacts<'a> {
    /// What the caller's grants say.
    pub grant: &'a GrantFinding,
    /// State of the device; none when unknown or still being made.
    pub device: Option<DeviceState>,
    /// State of the keyset at this time; none when unknown.
    pub keyset: Option<KeyState>,
    /// Whether a rotation made the keyset and waits for the card's proof of it.
    pub awaits_proof: bool,
}

/// Whether session keys may be released. Pure. The grant comes first, so that a caller learns nothing about devices
/// that are none of its business.
pub fn decide_release(facts: ReleaseFacts<'_>) -> Result<(), Refusal> {
    match facts.grant {
        GrantFinding::Granted { .. } => {}
        GrantFinding::Lacks(need) => return Err(need.refusal()),
        GrantFinding::Expired => {
            return Err(Refusal::new(ReasonCode::GrantExpired, "the grant over this device has expired"));
        }
        GrantFinding::NotGranted => {
            return Err(Refusal::new(ReasonCode::NotGranted, "no grant covers this device for this purpose"));
        }
    }
    let Some(device) = facts.device else {
        return Err(Refusal::new(ReasonCode::UnknownDevice, "no device is registered under this EID"));
    };
    if !device.releases_keys() {
        return Err(Refusal::new(ReasonCode::DeviceNotActive, format!("the device is {}", device.as_str())));
    }
    let Some(keyset) = facts.keyset else {
        return Err(Refusal::new(ReasonCode::UnknownKeyset, "the device has no such keyset"));
    };
    if !keyset.releases_session_keys() {
        return Err(Refusal::new(ReasonCode::KeysetNotActive, format!("the keyset is {}", keyset.as_str())));
    }
    // One way to activate a rotated keyset: the report, which also ends the old one (docs/cycles/rotation.md 8).
    if facts.awaits_proof {
        return Err(Refusal::new(
            ReasonCode::KeysetNotActive,
            "the keyset waits for the card's proof; report it to the rotation first",
        ));
    }
    Ok(())
}

/// Steps 3 to 8: reads, decides, has the token verify the card and seal the keys. The answer must not leave before the
/// commit is durable; the commit fails if device, keyset or grant changed meanwhile.
pub async fn release(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &SessionKeysRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, SessionKeysAnswer), KmsError> {
    let store = engines.store.as_ref();
    let eid = &request.eid;
    let object = pseudonyms.device(eid);
    let refuse = |refusal: Refusal| KmsError::refused(refusal.reason, refusal.message, Some(object));
    // 3. Read device, keyset, grant.
    let grant = engines.grants.find(
        store,
        &caller.name,
        eid,
        &request.purpose,
        &[Need::Protocol(request.keyset.protocol)],
        now,
    )?;
    let device = DeviceRecord::read(store, eid)?;
    let keyset = KeysetRecord::read(store, eid, &request.keyset)?;
    // 4. Decide.
    decide_release(ReleaseFacts {
        grant: &grant,
        device: device.as_ref().and_then(|d| d.state),
        keyset: keyset.as_ref().map(|k| k.state_at(now)),
        awaits_proof: keyset.as_ref().is_some_and(|k| k.rotation.is_some()),
    })
    .map_err(refuse)?;
    if request.keyset.protocol != Protocol::Scp03
        || !keyset.as_ref().is_some_and(|k| k.algorithm.may_be_made())
    {
        return Err(refuse(Refusal::new(
            ReasonCode::InvalidField,
            "session keys come from AES keysets of SCP03",
        )));
    }
    let (GrantFinding::Granted { terms, version: grant_version }, Some(mut device), Some(mut keyset)) =
        (grant, device, keyset)
    else {
        return Err(KmsError::Record("device"));
    };
    // 5. to 8. Derive, verify the card cryptogram, derive the session keys, seal: one job inside the worker.
    let challenges = Challenges {
        host: HostChallenge(request.host_challenge),
        card: CardChallenge(request.card_challenge),
    };
    let info = keys::seal::session_keys_info(
        &caller.principal,
        eid,
        request.keyset.kvn,
        &challenges,
        &request.request_id,
    )
    .map_err(|e| KmsError::refused(ReasonCode::InvalidField, e.to_string(), Some(object)))?;
    let job = hsm::SessionKeysJob {
        keyset: engines.sourced(eid, &request.keyset, &keyset)?,
        host_challenge: request.host_challenge,
        card_challenge: request.card_challenge,
        card_cryptogram: request.card_cryptogram,
        recipient: caller.encryption_key,
        info,
    };
    let outcome = engines.token.session_keys(job, options).await?;
    let hsm::SessionKeysOutcome::Released { encapsulated_key, ciphertext, host_cryptogram } = outcome else {
        return Err(KmsError::refused(
            ReasonCode::CardCryptogramMismatch,
            "the card cryptogram does not match this keyset",
            Some(object),
        ));
    };
    // 9. The entry and its preconditions.
    let preconditions = vec![
        device.unchanged(eid),
        keyset.unchanged(eid, &request.keyset),
        grants::unchanged(&terms, grant_version),
    ];
    let entry = EntryDraft::new(
        EventType::SessionKeysReleased,
        if request.is_repeat { Outcome::Repeated } else { Outcome::Done },
    )
    .role(Role::Provisioner)
    .actor(pseudonyms.principal(&caller.principal))
    .object(object)
    .request(request.request_digest)
    .fact("kvn", Fact::Number(u64::from(request.keyset.kvn.value())))
    .fact("protocol", Fact::fixed_name("scp03"))
    .fact("mode", Fact::fixed_name("s8"))
    .fact("level", Fact::Number(2))
    .fact("algorithm", algorithm_name(keyset.algorithm))
    .fact("key_source", Fact::fixed_name(keyset.source.mode()))
    .fact("generation", Fact::Number(u64::from(keyset.source.generation_or_epoch())))
    .fact("host_challenge", challenge(request.host_challenge)?)
    .fact("card_challenge", challenge(request.card_challenge)?)
    .fact("grant", Fact::bytes(&terms.identifier()).map_err(|_| KmsError::Record("grant"))?);
    // The card has proved that it holds this keyset: what was only registered becomes active.
    let mut changes = Vec::new();
    if device.state == Some(DeviceState::Registered) {
        device.state = Some(DeviceState::Active);
        changes.push(Change::put(DEVICES, *eid.bcd(), device.encode(eid)));
    }
    if keyset.state == KeyState::PreActivation {
        keyset.state = KeyState::Active;
        changes.push(Change::put(KEYSETS, request.keyset.row_key(eid), keyset.encode()));
    }
    let commit = Commit { entries: vec![entry], changes, preconditions };
    Ok((
        commit,
        SessionKeysAnswer { encapsulated_key, ciphertext, host_cryptogram, algorithm: keyset.algorithm },
    ))
}

fn challenge(bytes: [u8; 8]) -> Result<Fact, KmsError> {
    Fact::bytes(&bytes).map_err(|_| KmsError::Record("challenge"))
}

pub(crate) const fn algorithm_name(algorithm: KeysetAlgorithm) -> Fact {
    match algorithm {
        KeysetAlgorithm::Aes128 => Fact::fixed_name("aes-128"),
        KeysetAlgorithm::Aes192 => Fact::fixed_name("aes-192"),
        KeysetAlgorithm::Aes256 => Fact::fixed_name("aes-256"),
        KeysetAlgorithm::TripleDes2Key => Fact::fixed_name("3des-2key"),
        KeysetAlgorithm::TripleDes3Key => Fact::fixed_name("3des-3key"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::{Allowance, GrantTerms};

    fn granted() -> GrantFinding {
        let terms = GrantTerms {
            name: "g".into(),
            provisioner: "p".into(),
            eids: HashSet::new(),
            eins: Vec::new(),
            purpose: "remote-management".into(),
            lawful_basis: "contract".into(),
            expires: Timestamp::from_seconds(1),
            allowance: Allowance::default(),
        };
        GrantFinding::Granted { terms: Arc::new(terms), version: 7 }
    }

    #[test]
    fn keys_are_released_for_every_good_combination_of_states_and_for_no_other() {
        let granted = granted();
        let devices = [
            None,
            Some(DeviceState::Registered),
            Some(DeviceState::Active),
            Some(DeviceState::Frozen),
            Some(DeviceState::Retired),
        ];
        for device in devices {
            for keyset in KeyState::ALL.into_iter().map(Some).chain([None]) {
                let decision =
                    decide_release(ReleaseFacts { grant: &granted, device, keyset, awaits_proof: false });
                let good = matches!(device, Some(DeviceState::Registered | DeviceState::Active))
                    && matches!(keyset, Some(KeyState::PreActivation | KeyState::Active));
                assert_eq!(decision.is_ok(), good, "{device:?} {keyset:?}");
                for grant in [GrantFinding::Expired, GrantFinding::NotGranted] {
                    assert!(
                        decide_release(ReleaseFacts { grant: &grant, device, keyset, awaits_proof: false })
                            .is_err()
                    );
                }
            }
        }
    }

    #[test]
    fn a_caller_without_grant_does_not_learn_whether_the_device_exists() {
        let answer = |device| {
            decide_release(ReleaseFacts {
                grant: &GrantFinding::NotGranted,
                device,
                keyset: None,
                awaits_proof: false,
            })
            .unwrap_err()
        };
        assert_eq!(answer(None), answer(Some(DeviceState::Frozen)));
        assert_eq!(answer(None).reason, ReasonCode::NotGranted);
    }
}
