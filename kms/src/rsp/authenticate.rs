//! Authenticate client: the eUICC proves itself over our challenge (docs/cycles/rsp.md 5 to 9).

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{ReasonCode, Role, Timestamp};
use keys::rsp::{EuiccAuthentication, SmdpSigned2};
use proto::records;
use store::Commit;

use super::initiate::transaction_fact;
use super::{Engines, Granted, ProvedEuicc, ServerKey, Step, Transaction};
use crate::allowance::RevokedCertificates;
use crate::{KmsError, Provisioner};

/// What an SM-DP+ asks for.
#[derive(Clone, Debug)]
pub struct Authentication {
    /// What the eUICC answered.
    pub euicc: EuiccAuthentication,
    /// SHA-256 of the confirmation code, where the download needs one.
    pub code_digest: Option<[u8; 32]>,
    /// As at the initiation.
    pub purpose: String,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
}

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// SmdpSigned2, DER.
    pub smdp_signed2: Vec<u8>,
    /// r || s, over it and the eUICC's signature.
    pub smdp_signature2: [u8; 64],
    /// Serial numbers of revoked certificates in the chain, where the grant warns of them.
    pub warned: Vec<Vec<u8>>,
}

/// Verifies the eUICC's proof, decides about the device, and has the DPpb key sign. `proved` is the eUICC whose certificate
/// came with the answer.
#[expect(clippy::too_many_arguments, reason = "who, what, with which proofs, and when: each is one thing")]
pub async fn authenticate(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    transaction: &Transaction,
    request: &Authentication,
    (proved, pb): (&ProvedEuicc, &ServerKey),
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, Authenticated), KmsError> {
    let object = pseudonyms.device(&proved.eid);
    if transaction.step != Step::Initiated {
        return Err(transaction.wrong_step("comes once, after the initiation"));
    }
    let record = &transaction.record;
    // 6. The device's proof: its signature over what names our challenge, our address and our transaction.
    let said = &request.euicc;
    if !proved.public_key.verifies(&said.euicc_signed1, &said.signature) {
        return Err(KmsError::refused(
            ReasonCode::EuiccSignatureMismatch,
            "euiccSignature1 does not verify under the eUICC's certificate",
            Some(object),
        ));
    }
    if said.transaction_id != transaction.id.0
        || said.server_challenge[..] != record.server_challenge
        || said.server_address != record.server_address
    {
        return Err(KmsError::refused(
            ReasonCode::EuiccSignatureMismatch,
            "the eUICC signed another transaction, challenge or server address",
            Some(object),
        ));
    }
    // 7. Decide: purpose, grant, device.
    check_purpose(record, &request.purpose)?;
    let granted = engines.granted(&caller.name, &proved.eid, &request.purpose, now, object)?;
    let on_revoked = granted.terms.allowance.revoked_certificates();
    if !proved.revoked.is_empty() && on_revoked == RevokedCertificates::Block {
        return Err(KmsError::refused(
            ReasonCode::EuiccCertificateRefused,
            "a certificate of the chain was revoked, and the grant blocks such downloads",
            Some(object),
        ));
    }
    // 8. The DPpb key signs.
    let signed = SmdpSigned2 {
        transaction_id: transaction.id,
        confirmation_code_required: request.code_digest.is_some(),
    };
    let smdp_signed2 = signed.encode();
    let input =
        hsm::RspInput::SmdpSigned2 { smdp_signed2: smdp_signed2.clone(), euicc_signature1: said.signature };
    let smdp_signature2 = engines.token.rsp_sign(&pb.key.key, input, options).await?;
    // 9. The row, the entry, and that nothing it rests on has changed.
    let next = records::RspTransaction {
        eid: proved.eid.bcd().to_vec(),
        euicc_key: proved.public_key.point().to_vec(),
        euicc_curve: proved.public_key.curve().code(),
        serial_numbers: proved.serial_numbers.clone(),
        revoked_serial_numbers: proved.revoked.clone(),
        matching_id: said.matching_id.clone(),
        smdp_signature2: smdp_signature2.to_vec(),
        confirmation_code_digest: request.code_digest.map(Vec::from).unwrap_or_default(),
        ..record.clone()
    };
    let (change, unchanged) = transaction.update(Step::Authenticated, next);
    let Granted { terms, unchanged: rests_on } = granted;
    let mut preconditions = vec![unchanged];
    preconditions.extend(rests_on);
    preconditions.extend(proved.unchanged.iter().chain(&pb.unchanged).cloned());
    let mut entry = EntryDraft::new(EventType::RspAuthenticated, Outcome::Done)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .object(object)
        .request(request.request_digest)
        .fact("transaction", transaction_fact(&transaction.id)?)
        .fact("grant", Fact::bytes(&terms.identifier()).map_err(|_| KmsError::Record("grant"))?)
        .fact("key", Fact::Digest(audit::sha256(&pb.key.public_key)));
    if !proved.revoked.is_empty() {
        entry = entry
            .fact("revoked_certificates", Fact::Number(proved.revoked.len() as u64))
            .fact("revocation_policy", Fact::fixed_name(on_revoked.as_str()));
    }
    let warned = if on_revoked == RevokedCertificates::Warn { proved.revoked.clone() } else { Vec::new() };
    let commit = Commit { entries: vec![entry], changes: vec![change], preconditions };
    Ok((commit, Authenticated { smdp_signed2, smdp_signature2, warned }))
}

/// A transaction serves the purpose it began with.
pub(super) fn check_purpose(record: &records::RspTransaction, purpose: &str) -> Result<(), KmsError> {
    if record.purpose == purpose {
        return Ok(());
    }
    Err(KmsError::refused(
        ReasonCode::InvalidField,
        "purpose is not the one that the transaction began with",
        None,
    ))
}
