//! eUICC packages of an eIM (SGP.32): signed with a counter value that no eUICC sees twice (docs/cycles/rsp.md).

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{Eid, ReasonCode, Role, Timestamp};
use keys::rsp::{EuiccPackage, is_euicc_package};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition};

use super::{Engines, Granted, RspKey};
use crate::keyspaces::EIM_COUNTERS;
use crate::{KmsError, Provisioner};

/// What an eIM asks for.
#[derive(Clone, Debug)]
pub struct PackageRequest {
    /// The device.
    pub eid: Eid,
    /// The psmoList or ecoList, DER.
    pub package: Vec<u8>,
    /// eimTransactionId, at most 16 bytes; empty: none.
    pub eim_transaction_id: Vec<u8>,
    /// The association token that the eUICC gave; 0: none.
    pub association_token: u64,
    /// Must be the purpose of a grant.
    pub purpose: String,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
}

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub struct SignedPackage {
    /// EuiccPackageSigned, DER.
    pub euicc_package_signed: Vec<u8>,
    /// r || s.
    pub eim_signature: [u8; 64],
    /// The counter value in it.
    pub counter: u64,
}

/// Signs a package with the key of an eIM. The commit takes the counter value: of two calls at a time one is made again
/// with the next value, and its first signature never leaves.
pub async fn sign_package(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Provisioner,
    request: &PackageRequest,
    key: &RspKey,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, SignedPackage), KmsError> {
    let object = pseudonyms.device(&request.eid);
    let refuse = |message: &str| KmsError::refused(ReasonCode::InvalidField, message, Some(object));
    if !is_euicc_package(&request.package) {
        return Err(refuse("euicc_package is no psmoList or ecoList of at most 16 KiB"));
    }
    if request.eim_transaction_id.len() > 16 {
        return Err(refuse("eim_transaction_id has at most 16 bytes"));
    }
    let granted = engines.granted(&caller.name, &request.eid, &request.purpose, now, object)?;
    let row_key =
        [key.party.as_bytes(), &[0], key.server_address.as_bytes(), &[0], request.eid.bcd()].concat();
    let (last, as_read) = match engines.store.get(EIM_COUNTERS, &row_key)? {
        Some(row) => {
            let record =
                records::Counter::decode(&*row.value).map_err(|_| KmsError::Record("eIM counter"))?;
            let key = row_key.clone();
            (record.value, Precondition::Version { keyspace: EIM_COUNTERS, key, version: row.version })
        }
        None => (0, Precondition::Absent { keyspace: EIM_COUNTERS, key: row_key.clone() }),
    };
    let counter = last.checked_add(1).ok_or(KmsError::Record("eIM counter"))?;
    let signed = EuiccPackage {
        eim_id: key.server_address.clone(),
        eid: *request.eid.bcd(),
        counter,
        eim_transaction_id: request.eim_transaction_id.clone(),
        package: request.package.clone(),
    }
    .encode();
    let input = hsm::RspInput::EuiccPackage {
        euicc_package_signed: signed.clone(),
        association_token: request.association_token,
    };
    let eim_signature = engines.token.rsp_sign(&key.key, input, options).await?;
    let Granted { terms, unchanged } = granted;
    let mut preconditions = vec![as_read];
    preconditions.extend(unchanged);
    let record = records::Counter { version: 1, value: counter };
    let entry = EntryDraft::new(EventType::EimPackageSigned, Outcome::Done)
        .role(Role::Provisioner)
        .actor(pseudonyms.principal(&caller.principal))
        .object(object)
        .request(request.request_digest)
        .fact("counter", Fact::Number(counter))
        .fact("tbs", Fact::Digest(audit::sha256(&signed)))
        .fact("grant", Fact::bytes(&terms.identifier()).map_err(|_| KmsError::Record("grant"))?)
        .fact("key", Fact::Digest(audit::sha256(&key.public_key)));
    let changes = vec![Change::put(EIM_COUNTERS, row_key, record.encode_to_vec())];
    let answer = SignedPackage { euicc_package_signed: signed, eim_signature, counter };
    Ok((Commit { entries: vec![entry], changes, preconditions }, answer))
}
