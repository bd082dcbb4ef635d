//! Initiate: a transaction with our challenge (docs/cycles/rsp.md 1 to 4).

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{ReasonCode, Role, Timestamp};
use keys::rsp::{ServerSigned1, TransactionId};
use proto::records;
use store::Commit;

use super::transaction::{Transaction, end_of, first_step};
use super::{Engines, ServerKey};
use crate::{KmsError, Provisioner};

/// Longest purpose that is kept with a transaction.
const PURPOSE_MAX: usize = 64;

/// What an SM-DP+ asks for.
#[derive(Clone, Debug)]
pub struct Initiation {
    /// As the eUICC sent it.
    pub euicc_challenge: [u8; 16],
    /// The purpose for which a grant must cover the device.
    pub purpose: String,
    /// Subject key identifier of the certificate issuer (CI) above both keys.
    pub ci_key_id: Vec<u8>,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
}

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub struct Initiated {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// ServerSigned1, DER.
    pub server_signed1: Vec<u8>,
    /// r || s.
    pub server_signature1: [u8; 64],
}

/// Begins a transaction of the SM-DP+ whose keys are `auth` and `pb`.
pub async fn initiate(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &Initiation,
    (auth, pb): (&ServerKey, &ServerKey),
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, Initiated), KmsError> {
    if !(1..=PURPOSE_MAX).contains(&request.purpose.len()) {
        return Err(KmsError::refused(ReasonCode::InvalidField, "purpose has 1 to 64 characters", None));
    }
    // 2. Room, and our own randomness.
    engines.open.take(engines.store.as_ref(), &caller.name, now)?;
    let signed = ServerSigned1 {
        transaction_id: transaction_id()?,
        euicc_challenge: request.euicc_challenge,
        server_address: auth.key.server_address.clone(),
        server_challenge: random()?,
    };
    // 3. The DPauth key signs.
    let object = signed.encode();
    let input = hsm::RspInput::ServerSigned1(object.clone());
    let signature = engines.token.rsp_sign(&auth.key.key, input, options).await?;
    // 4. The row and the entry.
    let record = records::RspTransaction {
        version: 1,
        provisioner: caller.name.clone(),
        step: first_step(),
        expires_micros: end_of(now).micros(),
        purpose: request.purpose.clone(),
        server_address: signed.server_address,
        server_challenge: signed.server_challenge.to_vec(),
        auth_key: auth.key.name.clone(),
        pb_key: pb.key.name.clone(),
        ci_key_id: request.ci_key_id.clone(),
        ..records::RspTransaction::default()
    };
    let (changes, mut preconditions) = Transaction::create(signed.transaction_id, record);
    preconditions.extend(auth.unchanged.iter().chain(&pb.unchanged).cloned());
    let entry = EntryDraft::new(EventType::RspInitiated, Outcome::Done)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .request(request.request_digest)
        .fact("transaction", transaction_fact(&signed.transaction_id)?)
        .fact("key", Fact::Digest(audit::sha256(&auth.key.public_key)));
    let answer = Initiated {
        transaction_id: signed.transaction_id,
        server_signed1: object,
        server_signature1: signature,
    };
    Ok((Commit { entries: vec![entry], changes, preconditions }, answer))
}

pub(super) fn transaction_fact(id: &TransactionId) -> Result<Fact, KmsError> {
    Fact::bytes(&id.0).map_err(|_| KmsError::Record("transaction identifier"))
}

/// Its first digit is none of a decimal number, since no entry holds what reads as an EID (docs/formats/log-entry.md).
fn transaction_id() -> Result<TransactionId, KmsError> {
    let mut id = random()?;
    id[0] |= 0xa0;
    Ok(TransactionId(id))
}

fn random() -> Result<[u8; 16], KmsError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(KmsError::Entropy)?;
    Ok(bytes)
}
