//! The two calls of a session. Nothing is kept between them: the one-time key is made again of all that the session is for.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{DeviceState, Eid, KeyState, ReasonCode, Refusal, Role, Timestamp};
use hsm::{Scp11Job, Scp11Outcome, Scp11Sealing, Scp11Session};
use keys::scp11::{ANSWER_BYTES_MAX, CardAnswer, SessionTerms, Variant};
use proto::v1;
use sha2::{Digest, Sha256};
use store::{Change, Commit};

use super::keys::{CardKey, CardKeyName, OceKey};
use crate::allowance::Need;
use crate::devices::DeviceRecord;
use crate::grants::{self, GrantFinding, GrantTerms};
use crate::keyspaces::DEVICES;
use crate::session_keys::{ReleaseFacts, decide_release};
use crate::session_request::Provisioner;
use crate::{Engines, KmsError};

/// What a session is for, as both calls name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// The device.
    pub eid: Eid,
    /// Its key.
    pub card_key: CardKeyName,
    /// Name of the platform's key.
    pub oce_key: String,
    /// Variant, key usage, key length.
    pub terms: SessionTerms,
    /// Must be the purpose of a grant.
    pub purpose: String,
}

impl SessionRequest {
    /// Reads the part that both calls have.
    pub fn parse(message: Option<&v1::Scp11Session>) -> Result<Self, Refusal> {
        let message = message.ok_or_else(|| invalid("the session is missing"))?;
        let eid = message
            .eid
            .parse()
            .map_err(|e: domain::EidError| Refusal::new(ReasonCode::InvalidEid, e.to_string()))?;
        if message.key_bits % 8 != 0 {
            return Err(invalid("key_bits is 128, 192 or 256"));
        }
        let variant = u32::try_from(message.variant).unwrap_or(0);
        Ok(Self {
            eid,
            card_key: CardKeyName::parse(message.card_key.as_ref())?,
            oce_key: message.oce_key.clone(),
            terms: SessionTerms::new(variant, !message.mac_only, message.key_bits / 8)
                .ok_or_else(|| invalid("variant is A or C, key_bits 128, 192 or 256"))?,
            purpose: message.purpose.clone(),
        })
    }

    /// Another session of anything else, or of another party, has another one-time key.
    fn context(&self, party: &str, oce: &OceKey, session_id: &[u8; 16]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [party.as_bytes(), self.purpose.as_bytes(), &oce.public_key] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.update(self.card_key.row_key(&self.eid));
        hasher.update([self.terms.variant.code(), u8::from(self.terms.enciphered), self.terms.key_bytes]);
        hasher.update(session_id);
        hasher.finalize().into()
    }
}

/// What begins a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedSession {
    /// Random.
    pub session_id: [u8; 16],
    /// Data of MUTUAL AUTHENTICATE.
    pub command_data: Vec<u8>,
}

/// What fetches the keys of a session.
#[derive(Clone, Debug)]
pub struct Scp11Fetch {
    /// As in the first call.
    pub session: SessionRequest,
    /// From the first call.
    pub session_id: [u8; 16],
    /// The card's answer; none: released without proof.
    pub answer: Option<CardAnswer>,
    /// The caller's idempotency key, at most 64 bytes; part of the sealing context.
    pub request_id: Vec<u8>,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
    /// Whether this request was answered before under its idempotency key.
    pub is_repeat: bool,
}

impl Scp11Fetch {
    /// Reads a request.
    pub fn parse(
        message: &v1::FetchScp11KeysRequest,
        request_digest: [u8; 32],
        is_repeat: bool,
    ) -> Result<Self, Refusal> {
        let session = SessionRequest::parse(message.session.as_ref())?;
        let answer = match (message.card_answer.as_slice(), message.without_device_proof) {
            ([], true) if session.terms.variant == Variant::C => None,
            ([], true) => return Err(invalid("SCP11a has no keys before the card answers")),
            ([], false) => return Err(invalid("card_answer is missing")),
            (_, true) => {
                return Err(invalid("a card_answer is a proof: it is looked at or not sent"));
            }
            (bytes, false) => Some(
                Some(bytes)
                    .filter(|bytes| bytes.len() <= ANSWER_BYTES_MAX)
                    .and_then(CardAnswer::parse)
                    .filter(|answer| ecc::is_point(domain::Curve::P256, &answer.public_key))
                    .ok_or_else(|| {
                        invalid("card_answer is 5F49 41 key, 86 10 receipt; the key a point of P-256")
                    })?,
            ),
        };
        Ok(Self {
            session,
            session_id: message
                .session_id
                .as_slice()
                .try_into()
                .map_err(|_| invalid("session_id has 16 bytes"))?,
            answer,
            request_id: message.idempotency_key.clone().into_bytes(),
            request_digest,
            is_repeat,
        })
    }
}

/// What may be answered once the commit is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedScp11Keys {
    /// HPKE encapsulated key, an uncompressed P-256 point.
    pub encapsulated_key: [u8; 65],
    /// The sealed keys.
    pub ciphertext: Vec<u8>,
}

/// Steps 1 to 3: decides, and has the token make the one-time public key. Nothing is kept, and nothing secret leaves.
pub async fn open_scp11_session(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &SessionRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<OpenedSession, KmsError> {
    let decided = decide(engines, pseudonyms, caller, request, true, now)?;
    let mut session_id = [0; 16];
    getrandom::fill(&mut session_id).map_err(KmsError::Entropy)?;
    let session = decided.session(caller, request, &session_id);
    let one_time_key = engines.token.scp11_one_time_key(session, options).await?;
    Ok(OpenedSession { session_id, command_data: request.terms.command_data(&one_time_key) })
}

/// Steps 4 to 8: decides again, has the card's receipt checked and the keys sealed in one job. The answer must not leave before
/// the commit is durable; the commit fails if device, card key or grant changed meanwhile, or the session was answered.
pub async fn fetch_scp11_keys(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &Scp11Fetch,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, SealedScp11Keys), KmsError> {
    let (store, wanted) = (engines.store.as_ref(), &request.session);
    let object = pseudonyms.device(&wanted.eid);
    let refuse = |refusal: Refusal| KmsError::refused(refusal.reason, refusal.message, Some(object));
    // 4. Decide, as things are now.
    let decided = decide(engines, pseudonyms, caller, wanted, request.answer.is_some(), now)?;
    let mut commit = Commit::default();
    commit.preconditions.extend([
        decided.device.unchanged(&wanted.eid),
        decided.card.unchanged.clone(),
        grants::unchanged(&decided.terms, decided.grant_version),
    ]);
    // 5. A session is answered once.
    if !request.is_repeat {
        let scope = [b"scp11\0", &wanted.card_key.row_key(&wanted.eid)[..]].concat();
        engines
            .challenges
            .claim_within(store, &scope, &request.session_id, now, &mut commit)?
            .map_err(refuse)?;
    }
    // 6. and 7. One job inside the worker.
    let job = Scp11Job {
        session: decided.session(caller, wanted, &request.session_id),
        card_key: decided.card.public_key,
        answer: request.answer,
        sealing: Scp11Sealing {
            principal: caller.principal,
            eid: wanted.eid,
            kvn: wanted.card_key.kvn,
            session_id: request.session_id,
            request_id: request.request_id.clone(),
        },
        recipient: Box::new(caller.encryption_key),
    };
    let (encapsulated_key, ciphertext) = match engines.token.scp11(job, options).await? {
        Scp11Outcome::Released { encapsulated_key, ciphertext } => (encapsulated_key, ciphertext),
        Scp11Outcome::NotProved => {
            return Err(refuse(Refusal::new(
                ReasonCode::CardCryptogramMismatch,
                "the receipt is not that of the card with this key in this session",
            )));
        }
    };
    // 8. The entry, and the device's first proof.
    let outcome = if request.is_repeat { Outcome::Repeated } else { Outcome::Done };
    let bytes = |bytes: &[u8]| {
        Fact::bytes(bytes)
            .or_else(|_| Fact::bytes(&audit::sha256(bytes)))
            .map_err(|_| KmsError::Record("session"))
    };
    let mut entry = EntryDraft::new(EventType::SessionKeysReleased, outcome)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .object(object)
        .request(request.request_digest)
        .fact("kvn", Fact::Number(wanted.card_key.kvn.into()))
        .fact("protocol", Fact::fixed_name("scp11"))
        .fact("mode", Fact::fixed_name(wanted.terms.variant.as_str()))
        .fact("level", Fact::Number(2))
        .fact("algorithm", algorithm(wanted.terms.key_bytes))
        .fact("grant", bytes(&decided.terms.identifier())?)
        .fact("host_challenge", bytes(&request.session_id)?)
        .fact("key", Fact::Digest(audit::sha256(&decided.oce.public_key)));
    if request.answer.is_none() {
        entry = entry.fact("without_device_proof", Fact::Number(1));
    }
    commit.entries.push(entry);
    let mut device = decided.device;
    if request.answer.is_some() && device.state == Some(DeviceState::Registered) {
        device.state = Some(DeviceState::Active);
        commit.changes.push(Change::put(DEVICES, *wanted.eid.bcd(), device.encode(&wanted.eid)));
    }
    Ok((commit, SealedScp11Keys { encapsulated_key, ciphertext }))
}

/// What a session rests on.
struct Decided {
    terms: std::sync::Arc<GrantTerms>,
    grant_version: u64,
    device: DeviceRecord,
    card: CardKey,
    oce: OceKey,
}

impl Decided {
    fn session(&self, caller: &Provisioner, request: &SessionRequest, session_id: &[u8; 16]) -> Scp11Session {
        Scp11Session {
            agreement: self.oce.agreement.clone(),
            seed: self.oce.seed.clone(),
            context: request.context(&caller.name, &self.oce, session_id),
            terms: request.terms,
        }
    }
}

/// Grant, device, card key and platform key. The grant comes first, so that a caller learns nothing about devices that are none
/// of its business.
fn decide(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &SessionRequest,
    has_proof: bool,
    now: Timestamp,
) -> Result<Decided, KmsError> {
    let (store, eid) = (engines.store.as_ref(), &request.eid);
    let object = pseudonyms.device(eid);
    let refuse = |refusal: Refusal| KmsError::refused(refusal.reason, refusal.message, Some(object));
    let mut needs = vec![Need::KeyAgreement];
    needs.extend((!has_proof).then_some(Need::ReleaseWithoutProof));
    let grant = engines.grants.find(store, &caller.name, eid, &request.purpose, &needs, now)?;
    let device = DeviceRecord::read(store, eid)?;
    let card = CardKey::find(store, eid, request.card_key)?;
    decide_release(ReleaseFacts {
        grant: &grant,
        device: device.as_ref().and_then(|device| device.state),
        keyset: card.as_ref().map(|_| KeyState::Active),
        awaits_proof: false,
    })
    .map_err(refuse)?;
    let (GrantFinding::Granted { terms, version }, Some(device), Some(card)) = (grant, device, card) else {
        return Err(KmsError::Record("device"));
    };
    let oce = OceKey::find(store, &caller.name, &request.oce_key)?.ok_or_else(|| {
        refuse(Refusal::new(ReasonCode::UnknownOceKey, "no key of this name is registered for your platform"))
    })?;
    Ok(Decided { terms, grant_version: version, device, card, oce })
}

fn algorithm(key_bytes: u8) -> Fact {
    match key_bytes {
        16 => Fact::fixed_name("aes-128"),
        24 => Fact::fixed_name("aes-192"),
        _ => Fact::fixed_name("aes-256"),
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ReasonCode::InvalidField, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(variant: i32) -> v1::Scp11Session {
        v1::Scp11Session {
            eid: "89049032123451234512345678901235".to_owned(),
            card_key: Some(v1::CardKeyName { security_domain: 1, key_version_number: 3 }),
            oce_key: "oce".to_owned(),
            variant,
            mac_only: false,
            key_bits: 128,
            purpose: "ota".to_owned(),
        }
    }

    fn fetch(variant: i32, card_answer: Vec<u8>, without_device_proof: bool) -> v1::FetchScp11KeysRequest {
        v1::FetchScp11KeysRequest {
            idempotency_key: "k".to_owned(),
            session: Some(session(variant)),
            session_id: vec![1; 16],
            card_answer,
            without_device_proof,
        }
    }

    fn parse(message: &v1::FetchScp11KeysRequest) -> Result<Scp11Fetch, Refusal> {
        Scp11Fetch::parse(message, [0; 32], false)
    }

    #[test]
    fn only_a_prepared_session_of_scp11c_does_without_an_answer() {
        assert!(parse(&fetch(3, Vec::new(), true)).unwrap().answer.is_none());
        // The base point of P-256.
        let base = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let answer = [&[0x5f, 0x49, 0x41][..], &hex::decode(base).unwrap(), &[0x86, 0x10], &[7; 16]].concat();
        assert!(parse(&fetch(1, answer.clone(), false)).unwrap().answer.is_some());
        let mut off_curve = answer.clone();
        off_curve[10] ^= 1;
        let wrong = [
            fetch(1, Vec::new(), true),
            fetch(1, Vec::new(), false),
            fetch(3, answer.clone(), true),
            fetch(3, off_curve, false),
            fetch(2, answer.clone(), false),
            fetch(1, answer[1..].to_vec(), false),
            v1::FetchScp11KeysRequest { session_id: vec![1; 15], ..fetch(1, answer.clone(), false) },
            v1::FetchScp11KeysRequest { session: None, ..fetch(1, answer, false) },
        ];
        for asked in wrong {
            assert_eq!(parse(&asked).unwrap_err().reason, ReasonCode::InvalidField, "{asked:?}");
        }
    }

    #[test]
    fn whatever_a_session_is_for_changes_its_one_time_key() {
        let oce = OceKey {
            name: "oce".to_owned(),
            party: "otaco".to_owned(),
            agreement: hsm::KeyRef { label: String::new(), id: [0; 16] },
            seed: hsm::KeyRef { label: String::new(), id: [1; 16] },
            public_key: vec![1; 91],
        };
        let parse = |message: &v1::Scp11Session| SessionRequest::parse(Some(message)).unwrap();
        let first = parse(&session(1));
        let of = |request: &SessionRequest| request.context("otaco", &oce, &[1; 16]);
        let others = [
            v1::Scp11Session { eid: "89049032123451234512345678901041".to_owned(), ..session(1) },
            v1::Scp11Session {
                card_key: Some(v1::CardKeyName { security_domain: 1, key_version_number: 4 }),
                ..session(1)
            },
            session(3),
            v1::Scp11Session { mac_only: true, ..session(1) },
            v1::Scp11Session { key_bits: 256, ..session(1) },
            v1::Scp11Session { purpose: "otb".to_owned(), ..session(1) },
        ];
        let mut contexts = vec![
            of(&first),
            first.context("otacp", &oce, &[1; 16]),
            first.context("otaco", &oce, &[2; 16]),
            first.context("otaco", &OceKey { public_key: vec![2; 91], ..oce.clone() }, &[1; 16]),
        ];
        for other in others {
            contexts.push(of(&parse(&other)));
        }
        let count = contexts.len();
        contexts.sort_unstable();
        contexts.dedup();
        assert_eq!(contexts.len(), count);
    }
}
