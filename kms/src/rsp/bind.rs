//! Bind: the keys that protect one profile for one eUICC (docs/cycles/rsp.md 10 to 16).

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{Eid, ReasonCode, Role, Timestamp};
use hsm::KeyRole;
use keys::bsp::{HOST_ID_MAX, ProfileProtection, bound_keys_info};
use keys::rsp::{DownloadPreparation, confirms, with_signature};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition};

use super::authenticate::check_purpose;
use super::initiate::transaction_fact;
use super::{
    BINDINGS_MAX, CODE_TRIES_MAX, CODE_TRIES_SECONDS, Engines, Granted, ServerKey, Step, Transaction,
};
use crate::keyspaces::{RSP_CODE_ENDS, RSP_CODE_TRIES};
use crate::{KmsError, Provisioner};

/// What an SM-DP+ asks for.
#[derive(Clone)]
pub struct Binding {
    /// What the eUICC answered.
    pub euicc: DownloadPreparation,
    /// 1 to 16 bytes.
    pub host_id: Vec<u8>,
    /// Whether the profile has keys of its own.
    pub protection: ProfileProtection,
    /// As at the initiation.
    pub purpose: String,
    /// The caller's idempotency key, part of the sealing context.
    pub request_id: String,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
    /// That the certificates of eUICC and manufacturer still are in force when the deed is committed.
    pub unchanged: Vec<Precondition>,
}

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub struct Bound {
    /// InitialiseSecureChannelRequest, DER, signed.
    pub initialise_secure_channel: Vec<u8>,
    /// HPKE encapsulated key.
    pub encapsulated_key: Vec<u8>,
    /// The sealed keys.
    pub ciphertext: Vec<u8>,
    /// The request id of the context they are sealed in: that of the call which made them.
    pub request_id: String,
}

/// Verifies the eUICC's second proof and the confirmation code, and has the token bind. The same one-time key of the eUICC
/// gets the same answer again; another one gets another key pair of the server.
#[expect(clippy::too_many_arguments, reason = "who, what, with which proofs, and when: each is one thing")]
pub async fn bind(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    transaction: &Transaction,
    request: &Binding,
    pb: &ServerKey,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, Bound), KmsError> {
    let record = &transaction.record;
    if transaction.step == Step::Initiated {
        return Err(transaction.wrong_step("comes after the eUICC has proved itself"));
    }
    let eid = transaction.eid()?;
    let object = pseudonyms.device(&eid);
    let refuse = |reason, message: &str| KmsError::refused(reason, message, Some(object));
    if !(1..=HOST_ID_MAX).contains(&request.host_id.len()) {
        return Err(refuse(ReasonCode::InvalidField, "host_id has 1 to 16 bytes"));
    }
    // 11. Decide again, as things are now.
    check_purpose(record, &request.purpose)?;
    let granted = engines.granted(&caller.name, &eid, &request.purpose, now, object)?;
    // 12. The eUICC's signature over its one-time key and our signature before.
    let said = &request.euicc;
    let Ok(before) = record.smdp_signature2.as_slice().try_into() else {
        return Err(KmsError::Record("RSP transaction"));
    };
    if !transaction.euicc_key()?.verifies(&with_signature(&said.euicc_signed2, before), &said.signature)
        || said.transaction_id != transaction.id.0
    {
        return Err(refuse(
            ReasonCode::EuiccSignatureMismatch,
            "euiccSignature2 does not verify over this transaction",
        ));
    }
    // 13. The confirmation code.
    let code =
        check_code(engines, pseudonyms, caller, transaction, (&eid, object), said.hash_cc, now).await?;
    // 14. One otSK.DP for one otPK.EUICC.
    if let Some(kept) = &record.binding
        && kept.euicc_key == said.one_time_key
    {
        if kept.host_id != request.host_id
            || kept.protection != u32::from(request.protection.code())
            || kept.principal != caller.principal.0
        {
            return Err(refuse(
                ReasonCode::TransactionStep,
                "this one-time key is bound already, with another host id, protection or credential",
            ));
        }
        let bound = Bound {
            initialise_secure_channel: kept.initialise_secure_channel.clone(),
            encapsulated_key: kept.encapsulated_key.clone(),
            ciphertext: kept.ciphertext.clone(),
            request_id: kept.request_id.clone(),
        };
        let entry = entry(Outcome::Repeated, pseudonyms, caller, transaction, request, (&granted, object))?;
        let mut commit = Commit::of(vec![entry]);
        commit.preconditions.push(transaction.unchanged());
        rest_on(&mut commit, granted, request, pb, code);
        return Ok((commit, bound));
    }
    if record.bindings >= BINDINGS_MAX {
        return Err(refuse(ReasonCode::TransactionStep, "the transaction has bound too many one-time keys"));
    }
    // SGP.22 §2.6.4: the curve of CERT.DPpb is that of both one-time keys.
    let KeyRole::RspPb(curve) = pb.key.role else { return Err(KmsError::Record("RSP key")) };
    if !ecc::is_point(curve.curve(), &said.one_time_key) {
        let message = format!("otPK.EUICC.ECKA is no point of {curve}, the curve of CERT.DPpb");
        return Err(refuse(ReasonCode::InvalidField, &message));
    }
    // 15. Key pair, agreement, derivation, signature, sealing: one job inside the worker.
    let info = bound_keys_info(&caller.principal, &eid, &transaction.id, request.request_id.as_bytes())
        .map_err(|e| refuse(ReasonCode::InvalidField, &e.to_string()))?;
    let job = hsm::RspBindJob {
        key: pb.key.key.clone(),
        euicc_key: said.one_time_key,
        transaction_id: transaction.id,
        host_id: request.host_id.clone(),
        eid,
        protection: request.protection,
        recipient: caller.encryption_key,
        info,
    };
    let made = engines.token.rsp_bind(job, options).await?;
    // 16. The sealed answer is kept for a retry, with the entry and all that it rests on.
    let bound = Bound {
        initialise_secure_channel: made.initialise_secure_channel,
        encapsulated_key: made.encapsulated_key.to_vec(),
        ciphertext: made.ciphertext,
        request_id: request.request_id.clone(),
    };
    let kept = records::RspBinding {
        euicc_key: said.one_time_key.to_vec(),
        host_id: request.host_id.clone(),
        protection: u32::from(request.protection.code()),
        principal: caller.principal.0.to_vec(),
        request_id: bound.request_id.clone(),
        initialise_secure_channel: bound.initialise_secure_channel.clone(),
        encapsulated_key: bound.encapsulated_key.clone(),
        ciphertext: bound.ciphertext.clone(),
    };
    let next =
        records::RspTransaction { bindings: record.bindings + 1, binding: Some(kept), ..record.clone() };
    let (change, unchanged) = transaction.update(Step::Bound, next);
    let entry = entry(Outcome::Done, pseudonyms, caller, transaction, request, (&granted, object))?;
    let mut commit = Commit { entries: vec![entry], changes: vec![change], preconditions: vec![unchanged] };
    rest_on(&mut commit, granted, request, pb, code);
    Ok((commit, bound))
}

fn entry(
    outcome: Outcome,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    transaction: &Transaction,
    request: &Binding,
    (granted, object): (&Granted, Pseudonym),
) -> Result<EntryDraft, KmsError> {
    let mode = match request.protection {
        ProfileProtection::SessionKeys => Fact::fixed_name("session-keys"),
        ProfileProtection::ProfileKeys => Fact::fixed_name("profile-keys"),
    };
    Ok(EntryDraft::new(EventType::RspBound, outcome)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .object(object)
        .request(request.request_digest)
        .fact("transaction", transaction_fact(&transaction.id)?)
        .fact("level", Fact::Number(2))
        .fact("mode", mode)
        .fact("algorithm", Fact::fixed_name("aes-128"))
        .fact("one_time_key", Fact::Digest(audit::sha256(&request.euicc.one_time_key)))
        .fact("grant", Fact::bytes(&granted.terms.identifier()).map_err(|_| KmsError::Record("grant"))?))
}

/// Device, grant, certificates and the count of codes: all as they were read.
fn rest_on(commit: &mut Commit, granted: Granted, request: &Binding, pb: &ServerKey, code: CodeGood) {
    commit.preconditions.extend(granted.unchanged);
    commit.preconditions.extend(request.unchanged.iter().chain(&pb.unchanged).cloned());
    commit.preconditions.extend(code.precondition);
    commit.changes.extend(code.changes);
}

/// That no code is needed, or that it was right: earlier wrong ones are forgotten in the same commit.
#[derive(Default)]
struct CodeGood {
    changes: Vec<Change>,
    precondition: Option<Precondition>,
}

/// Compares hashCc in constant time. A wrong one is counted durably before the caller hears of it; a right one commits only
/// while the count is as it was read, so that many tries at a time are no more than [`CODE_TRIES_MAX`] one after the other.
async fn check_code(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    transaction: &Transaction,
    (eid, object): (&Eid, Pseudonym),
    hash_cc: Option<[u8; 32]>,
    now: Timestamp,
) -> Result<CodeGood, KmsError> {
    let record = &transaction.record;
    if record.confirmation_code_digest.is_empty() {
        return Ok(CodeGood::default());
    }
    let refuse = |reason, message: &str| KmsError::refused(reason, message, Some(object));
    let unreadable = || KmsError::Record("confirmation code");
    let digest: [u8; 32] = record.confirmation_code_digest.as_slice().try_into().map_err(|_| unreadable())?;
    let key = tries_key(&caller.name, &record.matching_id, eid, &digest);
    let row = engines.store.get(RSP_CODE_TRIES, &key)?;
    let (tries, precondition, old_end) = match &row {
        Some(row) => {
            let tries = records::RspCodeTries::decode(&*row.value).map_err(|_| unreadable())?;
            let unchanged =
                Precondition::Version { keyspace: RSP_CODE_TRIES, key: key.to_vec(), version: row.version };
            (tries.tries, unchanged, Some(end_key(tries.ends_micros, &key)))
        }
        None => (0, Precondition::Absent { keyspace: RSP_CODE_TRIES, key: key.to_vec() }, None),
    };
    if tries >= CODE_TRIES_MAX {
        return Err(refuse(
            ReasonCode::ConfirmationCodeTriesExceeded,
            "the confirmation code of this profile was wrong too often",
        ));
    }
    let mut changes: Vec<Change> =
        old_end.into_iter().map(|end| Change::delete(RSP_CODE_ENDS, end)).collect();
    let Some(hash_cc) = hash_cc else {
        return Err(refuse(ReasonCode::ConfirmationCodeMismatch, "this download needs a confirmation code"));
    };
    if confirms(&hash_cc, &digest, &transaction.id) {
        if row.is_some() {
            changes.push(Change::delete(RSP_CODE_TRIES, key));
        }
        return Ok(CodeGood { changes, precondition: Some(precondition) });
    }
    let ends_micros = now.plus_seconds(CODE_TRIES_SECONDS).micros();
    let counted = records::RspCodeTries { version: 1, tries: tries + 1, ends_micros };
    changes.push(Change::put(RSP_CODE_TRIES, key, counted.encode_to_vec()));
    changes.push(Change::put(RSP_CODE_ENDS, end_key(ends_micros, &key), Vec::new()));
    let entry = EntryDraft::new(EventType::RspCodeCounted, Outcome::Done)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .object(object)
        .fact("transaction", transaction_fact(&transaction.id)?)
        .fact("count", Fact::Number(u64::from(tries) + 1));
    engines.store.commit(Commit { entries: vec![entry], changes, preconditions: vec![precondition] }).await?;
    Err(refuse(ReasonCode::ConfirmationCodeMismatch, "the confirmation code is wrong"))
}

/// Tries count for a profile and its code, whichever transaction or device they come with: the profile is named by the
/// matching id, or by the device where there is none. A new code starts anew.
fn tries_key(provisioner: &str, matching_id: &str, eid: &Eid, code_digest: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(provisioner.as_bytes());
    hasher.update([0]);
    if matching_id.is_empty() {
        hasher.update([1]);
        hasher.update(eid.bcd());
    } else {
        hasher.update([0]);
        hasher.update(matching_id.as_bytes());
    }
    hasher.update(code_digest);
    hasher.finalize().into()
}

fn end_key(ends_micros: i64, key: &[u8; 32]) -> Vec<u8> {
    [&ends_micros.to_be_bytes()[..], key].concat()
}
