//! Session keys: the steps of `docs/cycles/session-keys.md` from reading the records to the commit.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{DeviceState, Eid, KeyState, KeysetAlgorithm, Protocol, ReasonCode, Refusal, Role, Timestamp};
use hsm::CardSession;
use store::{Change, Commit, Store};

use crate::allowance::Need;
use crate::devices::{DeviceRecord, KeysetName, KeysetRecord};
use crate::grants::{self, GrantFinding};
use crate::keyspaces::{DEVICES, KEYSETS};
use crate::sequence::{self, Named};
use crate::session_request::{KeyDelivery, Provisioner, SessionKeysRequest};
use crate::transport_keys::{TransportKey, TransportMaterial};
use crate::{Engines, KmsError};

/// What may be answered once the commit is durable.
#[derive(Debug)]
pub struct SessionKeysAnswer {
    /// The keys as they leave, and what goes with them.
    pub released: hsm::ReleasedKeys,
    /// Length of the session keys.
    pub algorithm: KeysetAlgorithm,
    /// Version of the transport key that wraps them; 0 when none does.
    pub transport_key_version: u32,
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
    let needs = [
        Some(Need::Protocol(request.keyset.protocol)),
        (!request.has_proof()).then_some(Need::ReleaseWithoutProof),
        (request.delivery == KeyDelivery::TlsChannel).then_some(Need::TlsDelivery),
    ];
    let needs: Vec<Need> = needs.into_iter().flatten().collect();
    let grant = engines.grants.find(store, &caller.name, eid, &request.purpose, &needs, now)?;
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
    let (GrantFinding::Granted { terms, version: grant_version }, Some(device), Some(keyset)) =
        (grant, device, keyset)
    else {
        return Err(KmsError::Record("device"));
    };
    if request.delivery == KeyDelivery::TlsChannel && !engines.allows_tls_delivery {
        return Err(refuse(Refusal::new(
            ReasonCode::PolicyViolation,
            "this authority answers no unsealed keys (session_keys_in_tls_channel)",
        )));
    }
    // Each counter opens one session, and each pair of challenges.
    let mut commit = Commit {
        entries: Vec::new(),
        changes: Vec::new(),
        preconditions: vec![
            device.unchanged(eid),
            keyset.unchanged(eid, &request.keyset),
            grants::unchanged(&terms, grant_version),
        ],
    };
    if !request.is_repeat {
        take(engines, request, now, &mut commit)?.map_err(refuse)?;
    }
    let transport = match &request.delivery {
        KeyDelivery::Wrapped(name) => {
            let (transport, key) = party_key(store, &caller.name, name, now)?;
            commit.preconditions.push(transport.unchanged());
            Some((transport, key))
        }
        KeyDelivery::Sealed | KeyDelivery::TlsChannel => None,
    };
    // 5. to 8. Derive, verify the card cryptogram, derive the session keys, seal: one job inside the worker.
    let job = hsm::SessionKeysJob {
        keyset: engines.sourced(eid, &request.keyset, &keyset)?,
        session: request.session.clone(),
        context: hsm::SessionContext { principal: caller.principal, request_id: request.request_id.clone() },
        delivery: match (&request.delivery, &transport) {
            (_, Some((_, key))) => hsm::Delivery::Wrapped { key: key.clone() },
            (KeyDelivery::TlsChannel, None) => hsm::Delivery::DangerInClear,
            (KeyDelivery::Sealed | KeyDelivery::Wrapped(_), None) => {
                hsm::Delivery::Sealed { recipient: Box::new(caller.encryption_key) }
            }
        },
    };
    let released = match engines.token.session_keys(job, options).await? {
        hsm::SessionKeysOutcome::Released(released) => *released,
        hsm::SessionKeysOutcome::CardCryptogramMismatch => {
            return Err(refuse(Refusal::new(
                ReasonCode::CardCryptogramMismatch,
                "the card cryptogram does not match this keyset",
            )));
        }
        hsm::SessionKeysOutcome::CardChallengeMismatch => {
            return Err(refuse(Refusal::new(
                ReasonCode::CardChallengeMismatch,
                "the card's challenge does not follow from its sequence counter and this AID",
            )));
        }
    };
    // 9. The entry and its preconditions.
    let mut entry = EntryDraft::new(
        EventType::SessionKeysReleased,
        if request.is_repeat { Outcome::Repeated } else { Outcome::Done },
    )
    .role(Role::Provisioner)
    .actor(pseudonyms.principal(&caller.principal))
    .object(object)
    .request(request.request_digest)
    .fact("kvn", Fact::Number(u64::from(request.keyset.kvn.value())))
    .fact("protocol", Fact::fixed_name("scp03"))
    .fact("mode", Fact::fixed_name(request.i.mode().as_str()))
    .fact("level", Fact::Number(2))
    .fact("algorithm", algorithm_name(keyset.algorithm))
    .fact("grant", Fact::bytes(&terms.identifier()).map_err(|_| KmsError::Record("grant"))?);
    entry = keyset.source.facts(entry);
    let (host_challenge, card_challenge) = match &request.session {
        CardSession::Present { host_challenge, card_challenge, .. } => (host_challenge, card_challenge),
        CardSession::Prepared { host_challenge, .. } => {
            entry = entry.fact("without_device_proof", Fact::Number(1));
            if !request.is_repeat {
                let pair = [&host_challenge[..], &released.card_challenge].concat();
                let keyset = (eid, &request.keyset);
                engines.challenges.claim(store, keyset, &pair, now, &mut commit)?.map_err(refuse)?;
            }
            (host_challenge, &released.card_challenge)
        }
    };
    entry = entry
        .fact("host_challenge", challenge(host_challenge)?)
        .fact("card_challenge", challenge(card_challenge)?);
    if let Some(level) = request.level {
        entry = entry.fact("security_level", Fact::Number(u64::from(level.value())));
    }
    if let Some(origin) = request.origin() {
        let [high, middle, low] = origin.counter;
        let counter = u32::from_be_bytes([0, high, middle, low]);
        entry = entry.fact("sequence_counter", Fact::Number(u64::from(counter)));
    }
    if request.delivery != KeyDelivery::Sealed {
        entry = entry.fact("delivery", Fact::fixed_name(request.delivery.as_str()));
    }
    let transport_key_version = transport.as_ref().map_or(0, |(transport, _)| transport.number);
    if let Some((transport, _)) = &transport {
        entry = entry.fact("transport_key", Fact::Digest(transport.digest()));
    }
    commit.entries.push(entry);
    if !request.has_proof() {
        // Nothing has shown that the card holds the keys: no state follows from it.
        return Ok((
            commit,
            SessionKeysAnswer { released, algorithm: keyset.algorithm, transport_key_version },
        ));
    }
    let algorithm = keyset.algorithm;
    activate(device, keyset, (eid, &request.keyset), &mut commit);
    Ok((commit, SessionKeysAnswer { released, algorithm, transport_key_version }))
}

/// The card has proved that it holds this keyset: what was only registered becomes active.
pub(crate) fn activate(
    mut device: DeviceRecord,
    mut keyset: KeysetRecord,
    (eid, name): (&Eid, &KeysetName),
    commit: &mut Commit,
) {
    if device.state == Some(DeviceState::Registered) {
        device.state = Some(DeviceState::Active);
        commit.changes.push(Change::put(DEVICES, *eid.bcd(), device.encode(eid)));
    }
    if keyset.state == KeyState::PreActivation {
        keyset.state = KeyState::Active;
        commit.changes.push(Change::put(KEYSETS, name.row_key(eid), keyset.encode()));
    }
}

/// The party's own AES key on the token, under which its keys can leave.
fn party_key(
    store: &dyn Store,
    party: &str,
    name: &str,
    now: Timestamp,
) -> Result<(TransportKey, hsm::KeyRef), KmsError> {
    let transport = TransportKey::current(store, party, name, now)?;
    match &transport.material {
        TransportMaterial::Aes { key, .. } => {
            let key = key.clone();
            Ok((transport, key))
        }
        TransportMaterial::Rsa(_) | TransportMaterial::Import { .. } => Err(KmsError::refused(
            ReasonCode::InvalidField,
            "session keys leave under an AES transport key; this one is RSA, or an import key",
            None,
        )),
    }
}

/// That nobody has used the counter or the pair of challenges, and that nobody will.
fn take(
    engines: &Engines,
    request: &SessionKeysRequest,
    now: Timestamp,
    commit: &mut Commit,
) -> Result<Result<(), Refusal>, KmsError> {
    let store = engines.store.as_ref();
    let keyset = (&request.eid, &request.keyset);
    let named = if request.has_proof() { Named::ByCard } else { Named::ByProvisioner };
    if let Some(origin) = request.origin()
        && let Err(refusal) = sequence::take(store, keyset, origin.counter, named, commit)?
    {
        return Ok(Err(refusal));
    }
    match &request.session {
        CardSession::Present { host_challenge, card_challenge, .. } => {
            let pair = [&host_challenge[..], card_challenge].concat();
            engines.challenges.claim(store, keyset, &pair, now, commit)
        }
        // The token has yet to say which pair it is.
        CardSession::Prepared { .. } => Ok(Ok(())),
    }
}

/// 16 bytes that look like an EID are shown by their digest: no entry holds one.
fn challenge(bytes: &[u8]) -> Result<Fact, KmsError> {
    Fact::bytes(bytes)
        .or_else(|_| Fact::bytes(&audit::sha256(bytes)))
        .map_err(|_| KmsError::Record("challenge"))
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
