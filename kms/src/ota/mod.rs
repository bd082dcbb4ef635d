//! Cryptography done for OTA platforms (`docs/cycles/ota.md`): secured packets of SCP80, scripts of SCP03 for cards that are
//! not there, and what cards answer to them. No key leaves, so a device proves nothing; whether it may be addressed at all
//! is decided where session keys are.
//!
//! A counter is taken durably, for one request, before the token makes anything with it. Whatever happens then, it is never
//! taken again: the request that took it gets the same packet, and no other gets one.

mod answer;
mod counter;
mod packet;
mod request;
mod script;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{Eid, PrincipalId, Protocol, ReasonCode, Refusal, Role, Timestamp};
use keys::apdu::Apdu;
use store::{Commit, Precondition};
use tokio::sync::MutexGuard;

use crate::allowance::{KEY_MANAGEMENT_INSTRUCTIONS, Need};
use crate::devices::{DeviceRecord, KeysetName, KeysetRecord};
use crate::grants::{GrantFinding, GrantTerms};
use crate::session_keys::{ReleaseFacts, algorithm_name, decide_release};
use crate::{Engines, KmsError, grants};

pub use answer::{AnswerOpened, open_answer};
pub use packet::{SecuredPacket, secure_packet};
pub use request::{AnswerRequest, CardAnswer, PacketRequest, ScriptRequest};
pub use script::{PreparedScript, wrap_script};

/// The most that the counter of a keyset may be moved forward by a request.
pub const PACKETS_AHEAD_MAX: u64 = 1_000;
/// The highest counter with which a keyset may begin here: what a fleet that was imported has used before.
pub const FIRST_COUNTER_MAX: u64 = u32::MAX as u64;

/// Turns of cards: those of one card wait for each other instead of losing races. Another node still may win one.
pub struct Turns {
    shards: Vec<tokio::sync::Mutex<()>>,
    /// The day before which no reservation is left.
    swept: AtomicU32,
}

impl Default for Turns {
    fn default() -> Self {
        Self { shards: (0..1024).map(|_| tokio::sync::Mutex::default()).collect(), swept: AtomicU32::new(0) }
    }
}

impl Turns {
    async fn turn(&self, eid: &Eid) -> MutexGuard<'_, ()> {
        // The digits before the check digits count up within a fleet.
        let bytes = eid.bcd();
        let place = usize::from(bytes[14]) << 8 | usize::from(bytes[15]);
        self.shards[place % self.shards.len()].lock().await
    }
}

/// The party that asks, as its enrolment and its connection say.
#[derive(Clone)]
pub struct Platform {
    /// Its name.
    pub name: String,
    /// The credential of this connection.
    pub principal: PrincipalId,
    /// That its record is still as it was admitted: it takes no counter behind its suspension.
    pub unchanged: Precondition,
}

/// Which request of which caller: what a counter is taken for.
#[derive(Clone, Debug)]
pub struct RequestId {
    /// The caller's idempotency key, 1 to 64 bytes.
    pub idempotency_key: Vec<u8>,
    /// SHA-256 of the request.
    pub digest: [u8; 32],
    /// Whether it was answered before under its idempotency key.
    pub is_repeat: bool,
}

/// A device, its keyset and a grant that allow it, and that all three still do when something is committed.
struct Allowed {
    keyset: KeysetRecord,
    terms: Arc<GrantTerms>,
    unchanged: [Precondition; 3],
}

/// What is asked about which keyset.
struct Subject<'a> {
    eid: &'a Eid,
    keyset: &'a KeysetName,
    purpose: &'a str,
    object: Pseudonym,
}

impl Subject<'_> {
    fn refuse(&self, refusal: Refusal) -> KmsError {
        KmsError::refused(refusal.reason, refusal.message, Some(self.object))
    }

    fn invalid(&self, message: impl Into<String>) -> KmsError {
        KmsError::refused(ReasonCode::InvalidField, message, Some(self.object))
    }

    /// Reads grant, device and keyset and decides, in the place where the release of session keys is decided.
    fn allowed(
        &self,
        engines: &Engines,
        platform: &Platform,
        protocol: Protocol,
        needs: &[Need],
        now: Timestamp,
    ) -> Result<Allowed, KmsError> {
        let store = engines.store.as_ref();
        let needs = [&[Need::Protocol(protocol)], needs].concat();
        let grant = engines.grants.find(store, &platform.name, self.eid, self.purpose, &needs, now)?;
        let device = DeviceRecord::read(store, self.eid)?;
        let keyset = KeysetRecord::read(store, self.eid, self.keyset)?;
        decide_release(ReleaseFacts {
            grant: &grant,
            device: device.as_ref().and_then(|device| device.state),
            keyset: keyset.as_ref().map(|keyset| keyset.state_at(now)),
            awaits_proof: keyset.as_ref().is_some_and(|keyset| keyset.rotation.is_some()),
        })
        .map_err(|refusal| self.refuse(refusal))?;
        let (GrantFinding::Granted { terms, version }, Some(device), Some(keyset)) = (grant, device, keyset)
        else {
            return Err(KmsError::Record("device"));
        };
        let unchanged = [
            device.unchanged(self.eid),
            keyset.unchanged(self.eid, self.keyset),
            grants::unchanged(&terms, version),
        ];
        Ok(Allowed { keyset, terms, unchanged })
    }
}

impl Allowed {
    /// The begin of each entry about a packet or script.
    fn entry(
        &self,
        (event, outcome): (EventType, Outcome),
        pseudonyms: &Pseudonyms,
        platform: &Platform,
        subject: &Subject<'_>,
        request_digest: [u8; 32],
    ) -> Result<EntryDraft, KmsError> {
        let grant = Fact::bytes(&self.terms.identifier()).map_err(|_| KmsError::Record("grant"))?;
        let entry = EntryDraft::new(event, outcome)
            .role(Role::Provisioner)
            .actor(pseudonyms.principal(&platform.principal))
            .object(subject.object)
            .request(request_digest)
            .fact("kvn", Fact::Number(u64::from(subject.keyset.kvn.value())))
            .fact("protocol", Fact::fixed_name(subject.keyset.protocol.as_str()))
            .fact("security_domain", Fact::fixed_name(subject.keyset.security_domain.as_str()))
            .fact("algorithm", algorithm_name(self.keyset.algorithm))
            .fact("level", Fact::Number(1))
            .fact("grant", grant);
        Ok(self.keyset.source.facts(entry))
    }

    fn commit(&self) -> Commit {
        Commit { preconditions: self.unchanged.to_vec(), ..Commit::default() }
    }
}

/// Refuses the first command that changes keys or what holds them, whoever asks and under whatever grant.
fn refuse_key_management(commands: &[Apdu]) -> Result<(), Refusal> {
    match commands.iter().find(|command| KEY_MANAGEMENT_INSTRUCTIONS.contains(&command.ins)) {
        Some(command) => Err(Refusal::new(
            ReasonCode::KeyManagementCommand,
            format!("instruction {:02X} manages keys: it comes from an approved rotation only", command.ins),
        )),
        None => Ok(()),
    }
}

/// The instructions of commands, each once.
fn instructions(commands: &[Apdu]) -> Vec<Need> {
    let mut instructions: Vec<u8> = commands.iter().map(|command| command.ins).collect();
    instructions.sort_unstable();
    instructions.dedup();
    instructions.into_iter().map(Need::Instruction).collect()
}

/// Bytes of a fact; those that look like an EID are shown by their digest, since no entry holds one.
fn bytes_fact(bytes: &[u8]) -> Result<Fact, KmsError> {
    Fact::bytes(bytes)
        .or_else(|_| Fact::bytes(&audit::sha256(bytes)))
        .map_err(|_| KmsError::Record("challenge"))
}
