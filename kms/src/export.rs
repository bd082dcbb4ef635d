//! Static keys for a party (release level 3): wrapped in the token by an approved operation, kept until the party fetches
//! them, once.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{DeviceState, Eid, KeyState, ReasonCode, Refusal, Role, Timestamp};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition, Store};

use crate::devices::{DeviceRecord, KeysetName, KeysetRecord};
use crate::keysets;
use crate::keyspaces::{KEYSET_EXPORTS, KEYSETS};
use crate::session_keys::algorithm_name;
use crate::transport_keys::{TransportKey, TransportMaterial};
use crate::{Engines, KeysetSource, KmsError};

/// Exports of one party that are counted.
const EXPORTS_MAX: usize = 100_000;

/// Which keyset for whom.
#[derive(Clone, Debug)]
pub struct ExportRequest {
    /// The device.
    pub eid: Eid,
    /// Its keyset.
    pub keyset: KeysetName,
    /// The party that will have it.
    pub party: String,
    /// Name of the party's transport key.
    pub transport_key: String,
}

/// What the decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct ExportFacts {
    /// State of the device; none when unknown or still being made.
    pub device: Option<DeviceState>,
    /// State of the keyset at this time; none when unknown.
    pub keyset: Option<KeyState>,
    /// Whether its keys are derived when they are needed.
    pub is_derived: bool,
}

/// Whether the static keys may leave. Pure. A key that is not in use, or belongs to a stolen device, goes to nobody.
pub fn decide_export(facts: ExportFacts) -> Result<(), Refusal> {
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
    if !facts.is_derived {
        return Err(Refusal::new(
            ReasonCode::PolicyViolation,
            "the keyset is stored, and a stored key never leaves the token again",
        ));
    }
    Ok(())
}

/// A checked export.
struct Checked {
    device: DeviceRecord,
    keyset: KeysetRecord,
    transport: TransportKey,
}

/// Whether the export could be made as things are.
pub fn check_export(engines: &Engines, request: &ExportRequest, now: Timestamp) -> Result<(), KmsError> {
    check(engines, request, now).map(drop)
}

fn check(engines: &Engines, request: &ExportRequest, now: Timestamp) -> Result<Checked, KmsError> {
    let store = engines.store.as_ref();
    let transport = TransportKey::current(store, &request.party, &request.transport_key, now)?;
    if matches!(transport.material, TransportMaterial::Import { .. }) {
        let message = "keys come in under an import key, none leave";
        return Err(KmsError::refused(ReasonCode::InvalidField, message, None));
    }
    let device = DeviceRecord::read(store, &request.eid)?;
    let keyset = KeysetRecord::read(store, &request.eid, &request.keyset)?;
    decide_export(ExportFacts {
        device: device.as_ref().and_then(|device| device.state),
        keyset: keyset.as_ref().map(|keyset| keyset.state_at(now)),
        is_derived: keyset.as_ref().is_some_and(|k| matches!(k.source, KeysetSource::Derived { .. })),
    })
    .map_err(|refusal| KmsError::refused(refusal.reason, refusal.message, None))?;
    let (Some(device), Some(keyset)) = (device, keyset) else { return Err(KmsError::Record("device")) };
    // Nothing leaves under a key that is known to others.
    if let Some(generation) = keyset.source.generation() {
        keysets::check_usable(store, generation, &transport.digest())?;
    }
    Ok(Checked { device, keyset, transport })
}

/// Has the token wrap the keys, and gives the commit that keeps the wraps for the party. What the keyset is worth is from
/// then on at most what its transport key is.
pub async fn export(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    (role, actor): (Role, audit::Pseudonym),
    operation: [u8; 32],
    request: &ExportRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<Commit, KmsError> {
    let store = engines.store.as_ref();
    let Checked { device, mut keyset, transport } = check(engines, request, now)?;
    let job = hsm::ExportJob {
        keyset: engines.sourced(&request.eid, &request.keyset, &keyset)?,
        recipient: match &transport.material {
            TransportMaterial::Aes { key, .. } => hsm::ExportRecipient::Aes(key.clone()),
            TransportMaterial::Rsa(spki) => hsm::ExportRecipient::Rsa(spki.clone()),
            TransportMaterial::Import { .. } => return Err(KmsError::Record("transport key")),
        },
    };
    let exported = engines.token.export(job, options).await?;
    let kcvs: Vec<_> = exported.keys.iter().map(|key| key.kcv).collect();
    // What the token wrapped is what the records say the card has.
    if kcvs != keyset.check_values {
        return Err(KmsError::Record("keyset"));
    }
    let count = store.scan(KEYSET_EXPORTS, &prefix(&request.party), None, EXPORTS_MAX)?.len() + 1;
    let record = records::KeysetExport {
        version: 1,
        party: request.party.clone(),
        eid: request.eid.bcd().to_vec(),
        security_domain: request.keyset.security_domain.code().into(),
        protocol: request.keyset.protocol.code().into(),
        key_version_number: request.keyset.kvn.value().into(),
        key_bits: keyset.algorithm.key_bits().into(),
        transport_key: transport.identifier(),
        wrapped_transport_key: exported.wrapped_transport_key,
        oaep_hash: exported.oaep_hash.map(|hash| hash.as_str().to_owned()).unwrap_or_default(),
        wrapped_keys: exported.keys.iter().map(|key| key.wrapped.clone()).collect(),
        key_check_values: kcvs.iter().map(|kcv| kcv.0.to_vec()).collect(),
        made_micros: now.micros(),
        fetched_micros: 0,
    };
    let entry = EntryDraft::new(EventType::KeysetExported, Outcome::Done)
        .fact("operation", Fact::Digest(operation))
        .role(role)
        .actor(actor)
        .object(pseudonyms.device(&request.eid))
        .fact("party", Fact::Pseudonym(pseudonyms.party(&request.party)))
        .fact("kvn", Fact::Number(u64::from(request.keyset.kvn.value())))
        .fact("algorithm", algorithm_name(keyset.algorithm))
        .fact("transport_key", Fact::Digest(transport.digest()))
        .fact("version", Fact::Number(transport.number.into()))
        .fact("level", Fact::Number(3))
        .fact("count", Fact::Number(count as u64));
    let key = row_key(&request.party, &operation);
    let mut commit = Commit {
        entries: vec![entry],
        changes: vec![Change::put(KEYSET_EXPORTS, key.clone(), record.encode_to_vec())],
        preconditions: vec![
            device.unchanged(&request.eid),
            keyset.unchanged(&request.eid, &request.keyset),
            transport.unchanged(),
            Precondition::Absent { keyspace: KEYSET_EXPORTS, key },
        ],
    };
    let strength = keyset.effective_strength.min(transport.strength());
    if strength < keyset.effective_strength {
        keyset.effective_strength = strength;
        let key = request.keyset.row_key(&request.eid);
        commit.changes.push(Change::put(KEYSETS, key, keyset.encode()));
    }
    Ok(commit)
}

/// An export on its way to its party.
pub struct FetchedExport {
    /// What leaves.
    pub record: records::KeysetExport,
    /// Its entry, and that it leaves once.
    pub commit: Commit,
}

/// The export that an operation made for the party. It leaves once; what is kept after is that it did.
pub fn fetch_export(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    (party, role, actor): (&str, Role, audit::Pseudonym),
    operation: &[u8],
    now: Timestamp,
) -> Result<FetchedExport, KmsError> {
    let unknown = || {
        KmsError::refused(
            ReasonCode::UnknownOperation,
            "no operation of this digest exported keys to you",
            None,
        )
    };
    let operation: [u8; 32] = operation.try_into().map_err(|_| unknown())?;
    let key = row_key(party, &operation);
    let row = store.get(KEYSET_EXPORTS, &key)?.ok_or_else(unknown)?;
    let unreadable = || KmsError::Record("keyset export");
    let record = records::KeysetExport::decode(&*row.value).map_err(|_| unreadable())?;
    let eid = <[u8; 16]>::try_from(record.eid.as_slice()).map_err(|_| unreadable())?;
    let eid = Eid::from_bcd(eid).map_err(|_| unreadable())?;
    let object = pseudonyms.device(&eid);
    if record.fetched_micros != 0 {
        return Err(KmsError::refused(
            ReasonCode::PolicyViolation,
            "the keys were fetched before, and leave once; another export takes another approval",
            Some(object),
        ));
    }
    // Frozen since: nothing of the device leaves.
    let device = DeviceRecord::read(store, &eid)?.ok_or_else(unreadable)?;
    match device.state {
        Some(state) if state.releases_keys() => {}
        other => {
            let state = other.map_or("unknown", DeviceState::as_str);
            return Err(KmsError::refused(
                ReasonCode::DeviceNotActive,
                format!("the device is {state}"),
                Some(object),
            ));
        }
    }
    let kept = records::KeysetExport {
        wrapped_keys: Vec::new(),
        wrapped_transport_key: Vec::new(),
        fetched_micros: now.micros(),
        ..record.clone()
    };
    let entry = EntryDraft::new(EventType::KeysetExportFetched, Outcome::Done)
        .role(role)
        .actor(actor)
        .object(object)
        .fact("operation", Fact::Digest(operation))
        .fact("kvn", Fact::Number(record.key_version_number.into()))
        .fact("level", Fact::Number(3));
    let commit = Commit {
        entries: vec![entry],
        changes: vec![Change::put(KEYSET_EXPORTS, key.clone(), kept.encode_to_vec())],
        preconditions: vec![
            Precondition::Version { keyspace: KEYSET_EXPORTS, key, version: row.version },
            device.unchanged(&eid),
        ],
    };
    Ok(FetchedExport { record, commit })
}

fn prefix(party: &str) -> Vec<u8> {
    [party.as_bytes(), &[0]].concat()
}

fn row_key(party: &str, operation: &[u8; 32]) -> Vec<u8> {
    [party.as_bytes(), &[0], operation].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_keys_leave_for_every_good_combination_of_states_and_for_no_other() {
        let devices = [
            None,
            Some(DeviceState::Registered),
            Some(DeviceState::Active),
            Some(DeviceState::Frozen),
            Some(DeviceState::Retired),
        ];
        for device in devices {
            for keyset in KeyState::ALL.into_iter().map(Some).chain([None]) {
                for is_derived in [true, false] {
                    let good = matches!(device, Some(DeviceState::Registered | DeviceState::Active))
                        && matches!(keyset, Some(KeyState::PreActivation | KeyState::Active))
                        && is_derived;
                    let decision = decide_export(ExportFacts { device, keyset, is_derived });
                    assert_eq!(decision.is_ok(), good, "{device:?} {keyset:?} {is_derived}");
                }
            }
        }
    }
}
