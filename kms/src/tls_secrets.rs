//! Master secrets of TLS connections with cards of SCP81: the steps of `docs/cycles/psk.md` from the request to the commit.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{Eid, KeyVersionNumber, Protocol, ReasonCode, Refusal, Role, SecurityDomain, Timestamp};
use keys::tls_psk::{CipherSuite, FINISHED_RECORD_MAX, FinishedRecord, Handshake, RANDOM_BYTES};
use proto::v1;
use store::Commit;

use crate::allowance::Need;
use crate::devices::{DeviceRecord, KeysetName, KeysetRecord};
use crate::grants::{self, GrantFinding};
use crate::keyset_source::KeysetSource;
use crate::session_keys::{ReleaseFacts, activate, algorithm_name, decide_release};
use crate::session_request::Provisioner;
use crate::{Engines, KmsError};

/// What a provisioner asks for.
#[derive(Clone, Debug)]
pub struct TlsSecretRequest {
    /// The device.
    pub eid: Eid,
    /// Its keyset.
    pub keyset: KeysetName,
    /// The handshake.
    pub handshake: Handshake,
    /// The client's Finished; none: the device proves nothing.
    pub proof: Option<FinishedRecord>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedTlsSecret {
    /// The device that the request meant.
    pub eid: Eid,
    /// HPKE encapsulated key, an uncompressed P-256 point.
    pub encapsulated_key: [u8; 65],
    /// HPKE ciphertext of the 48 bytes.
    pub ciphertext: Vec<u8>,
}

impl TlsSecretRequest {
    /// Reads a request; suite, hash and proof must fit together.
    pub fn parse(
        message: &v1::FetchTlsSecretRequest,
        request_digest: [u8; 32],
        is_repeat: bool,
    ) -> Result<Self, Refusal> {
        use v1::fetch_tls_secret_request::Client;
        let (eid, keyset) = match &message.client {
            Some(Client::PskIdentity(identity)) => identified(identity)?,
            Some(Client::Named(named)) => {
                let eid = named
                    .eid
                    .parse()
                    .map_err(|e: domain::EidError| Refusal::new(ReasonCode::InvalidEid, e.to_string()))?;
                (eid, KeysetName::parse(named.keyset.as_ref())?)
            }
            None => return Err(invalid("the client is missing: its psk_identity, or its EID and keyset")),
        };
        if keyset.protocol != Protocol::Scp81 {
            return Err(invalid("TLS secrets take a keyset of SCP81"));
        }
        let suite = u16::try_from(message.cipher_suite)
            .ok()
            .and_then(CipherSuite::from_code)
            .ok_or_else(|| invalid("cipher_suite is 0x00A8, 0x00A9, 0x00AE or 0x00AF (RFC 5487)"))?;
        let random = |bytes: &[u8], field: &str| {
            <[u8; RANDOM_BYTES]>::try_from(bytes).map_err(|_| invalid(&format!("{field} has 32 bytes")))
        };
        let proof = match (message.client_finished.as_slice(), message.without_device_proof) {
            ([], false) => {
                return Err(invalid(
                    "client_finished is missing: what the client sent after ChangeCipherSpec",
                ));
            }
            ([], true) => None,
            (_, true) => return Err(invalid("a client_finished is a proof: it is looked at or not sent")),
            (fragment, false) if fragment.len() <= FINISHED_RECORD_MAX => Some(FinishedRecord {
                fragment: fragment.to_vec(),
                encrypt_then_mac: message.encrypt_then_mac,
            }),
            _ => return Err(invalid("client_finished is too long")),
        };
        if message.encrypt_then_mac && !suite.is_cbc() {
            return Err(invalid("encrypt_then_mac belongs to the suites with CBC (RFC 7366 §3)"));
        }
        let needs_hash = proof.is_some() || message.extended_master_secret;
        if message.handshake_hash.len() != if needs_hash { suite.hash_bytes() } else { 0 } {
            return Err(invalid(if needs_hash {
                "handshake_hash has the length of the suite's hash: 32 or 48 bytes"
            } else {
                "handshake_hash belongs to a proof or to the extended master secret"
            }));
        }
        Ok(Self {
            eid,
            keyset,
            handshake: Handshake {
                suite,
                client_random: random(&message.client_random, "client_random")?,
                server_random: random(&message.server_random, "server_random")?,
                hash: message.handshake_hash.clone(),
                extended_master_secret: message.extended_master_secret,
            },
            proof,
            purpose: message.purpose.clone(),
            request_id: message.idempotency_key.clone().into_bytes(),
            request_digest,
            is_repeat,
        })
    }
}

/// The device and keyset that an identity of ours names: the EID, a dot, the key version number in two hexadecimal digits. The
/// keyset is that of the ISD-R.
fn identified(identity: &[u8]) -> Result<(Eid, KeysetName), Refusal> {
    let unknown = || invalid("psk_identity is none of ours: name the client by its EID and keyset");
    let text = std::str::from_utf8(identity).map_err(|_| unknown())?;
    let (eid, kvn) = text.split_once('.').ok_or_else(unknown)?;
    let eid = eid.parse().map_err(|_| unknown())?;
    let kvn = (kvn.len() == 2).then(|| u8::from_str_radix(kvn, 16).ok()).flatten().ok_or_else(unknown)?;
    let kvn = KeyVersionNumber::new(Protocol::Scp81, kvn.into()).map_err(|_| unknown())?;
    Ok((eid, KeysetName { security_domain: SecurityDomain::IsdR, protocol: Protocol::Scp81, kvn }))
}

/// Steps 3 to 8: reads, decides, has the client checked and the secret sealed in one job. The answer must not leave before the
/// commit is durable; the commit fails if device, keyset or grant changed meanwhile.
pub async fn fetch_tls_secret(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &TlsSecretRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, SealedTlsSecret), KmsError> {
    let store = engines.store.as_ref();
    let (eid, name) = (&request.eid, &request.keyset);
    let object = pseudonyms.device(eid);
    let refuse = |refusal: Refusal| KmsError::refused(refusal.reason, refusal.message, Some(object));
    // 3. and 4. Read and decide.
    let mut needs = vec![Need::Protocol(Protocol::Scp81)];
    needs.extend(request.proof.is_none().then_some(Need::ReleaseWithoutProof));
    let grant = engines.grants.find(store, &caller.name, eid, &request.purpose, &needs, now)?;
    let device = DeviceRecord::read(store, eid)?;
    let keyset = KeysetRecord::read(store, eid, name)?;
    decide_release(ReleaseFacts {
        grant: &grant,
        device: device.as_ref().and_then(|device| device.state),
        keyset: keyset.as_ref().map(|keyset| keyset.state_at(now)),
        awaits_proof: keyset.as_ref().is_some_and(|keyset| keyset.rotation.is_some()),
    })
    .map_err(refuse)?;
    let (GrantFinding::Granted { terms, version }, Some(device), Some(keyset)) = (grant, device, keyset)
    else {
        return Err(KmsError::Record("device"));
    };
    if engines.token.is_inside_only() || matches!(keyset.source, KeysetSource::Stored { .. }) {
        return Err(refuse(Refusal::new(
            ReasonCode::PolicyViolation,
            "TLS makes its secrets outside the token, where this key may not be: a stored keyset, or inside_only",
        )));
    }
    let mut commit = Commit {
        preconditions: vec![
            device.unchanged(eid),
            keyset.unchanged(eid, name),
            grants::unchanged(&terms, version),
        ],
        ..Commit::default()
    };
    let Handshake { suite, client_random, server_random, .. } = &request.handshake;
    if !request.is_repeat {
        let pair = [&client_random[..], server_random].concat();
        engines.challenges.claim(store, (eid, name), &pair, now, &mut commit)?.map_err(refuse)?;
    }
    // 5. to 8. One job inside the worker.
    let job = hsm::TlsSecretJob {
        keyset: engines.sourced(eid, name, &keyset)?,
        handshake: request.handshake.clone(),
        proof: request.proof.clone(),
        context: hsm::SessionContext { principal: caller.principal, request_id: request.request_id.clone() },
        recipient: Box::new(caller.encryption_key),
    };
    let (encapsulated_key, ciphertext) = match engines.token.tls_secret(job, options).await? {
        hsm::TlsSecretOutcome::Released { encapsulated_key, ciphertext } => (encapsulated_key, ciphertext),
        hsm::TlsSecretOutcome::NotProved => {
            return Err(refuse(Refusal::new(
                ReasonCode::CardCryptogramMismatch,
                "the client's Finished is not that of a card with this keyset in this handshake",
            )));
        }
    };
    // 9. The entry.
    let outcome = if request.is_repeat { Outcome::Repeated } else { Outcome::Done };
    let bytes = |bytes: &[u8]| Fact::bytes(bytes).map_err(|_| KmsError::Record("random"));
    let mut entry = EntryDraft::new(EventType::SessionKeysReleased, outcome)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .object(object)
        .request(request.request_digest)
        .fact("kvn", Fact::Number(u64::from(name.kvn.value())))
        .fact("protocol", Fact::fixed_name("scp81"))
        .fact("mode", Fact::fixed_name(suite.as_str()))
        .fact("level", Fact::Number(2))
        .fact("algorithm", algorithm_name(keyset.algorithm))
        .fact("grant", bytes(&terms.identifier())?)
        .fact("host_challenge", bytes(server_random)?)
        .fact("card_challenge", bytes(client_random)?);
    entry = keyset.source.facts(entry);
    if request.proof.is_none() {
        entry = entry.fact("without_device_proof", Fact::Number(1));
    }
    commit.entries.push(entry);
    if request.proof.is_some() {
        activate(device, keyset, (eid, name), &mut commit);
    }
    Ok((commit, SealedTlsSecret { eid: *eid, encapsulated_key, ciphertext }))
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ReasonCode::InvalidField, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EID: &str = "89049032123451234512345678901235";

    fn message() -> v1::FetchTlsSecretRequest {
        v1::FetchTlsSecretRequest {
            idempotency_key: "k".to_owned(),
            client: Some(v1::fetch_tls_secret_request::Client::PskIdentity(format!("{EID}.40").into_bytes())),
            cipher_suite: 0x00ae,
            client_random: vec![1; 32],
            server_random: vec![2; 32],
            handshake_hash: vec![3; 32],
            client_finished: vec![4; 96],
            purpose: "ota".to_owned(),
            ..v1::FetchTlsSecretRequest::default()
        }
    }

    fn parse(message: &v1::FetchTlsSecretRequest) -> Result<TlsSecretRequest, Refusal> {
        TlsSecretRequest::parse(message, [0; 32], false)
    }

    #[test]
    fn an_identity_names_device_and_keyset() {
        let parsed = parse(&message()).unwrap();
        assert_eq!((parsed.eid.to_string().as_str(), parsed.keyset.kvn.value()), (EID, 0x40));
        let others = ["", "x", EID, &format!("{EID}.30"), &format!("{EID}.4"), &format!("{EID}.040")];
        for identity in others.map(|text| text.as_bytes().to_vec()).into_iter().chain([vec![0xff; 40]]) {
            let client = Some(v1::fetch_tls_secret_request::Client::PskIdentity(identity.clone()));
            let refused = parse(&v1::FetchTlsSecretRequest { client, ..message() }).unwrap_err();
            assert_eq!(refused.reason, ReasonCode::InvalidField, "{identity:?}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let without = v1::FetchTlsSecretRequest {
            client_finished: Vec::new(),
            handshake_hash: Vec::new(),
            without_device_proof: true,
            ..message()
        };
        assert!(parse(&without).unwrap().proof.is_none());
        let wrong = [
            v1::FetchTlsSecretRequest { client: None, ..message() },
            v1::FetchTlsSecretRequest { cipher_suite: 0x008c, ..message() },
            v1::FetchTlsSecretRequest { cipher_suite: 0x00af, ..message() },
            v1::FetchTlsSecretRequest { client_random: vec![1; 31], ..message() },
            v1::FetchTlsSecretRequest { client_finished: Vec::new(), ..message() },
            v1::FetchTlsSecretRequest { client_finished: vec![0; 300], ..message() },
            v1::FetchTlsSecretRequest { without_device_proof: true, ..message() },
            v1::FetchTlsSecretRequest { handshake_hash: Vec::new(), ..message() },
            v1::FetchTlsSecretRequest { encrypt_then_mac: true, cipher_suite: 0x00a8, ..message() },
            v1::FetchTlsSecretRequest { extended_master_secret: true, ..without.clone() },
            v1::FetchTlsSecretRequest { handshake_hash: vec![3; 32], ..without },
        ];
        for asked in wrong {
            assert_eq!(parse(&asked).unwrap_err().reason, ReasonCode::InvalidField, "{asked:?}");
        }
    }
}
