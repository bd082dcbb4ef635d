//! Scripts: devices are leased to a caller, durable, and only then their PUT KEY commands are made in the token.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{DeviceKeyset, DeviceState, Eid, KeyState, PrincipalId, ReasonCode, Role, Timestamp};
use hsm::{PutKeyDevice, PutKeyJob, SourcedKeyset};
use keys::put_key::PutKey;
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store};

use super::carried::{CarriedScript, Carrying, carry, take_channel};
use super::progress::{Failure, Item, ItemState, Rotation, RotationState, prefix};
use super::terms::RANKS;
use crate::Turns;
use crate::devices::{DeviceRecord, KeysetRecord};
use crate::keyset_source::KeysetSource;
use crate::keysets::delivered_under_keyset;
use crate::keyspaces::{KEYSETS, ROTATION_LEASES, ROTATION_QUEUE};
use crate::session_keys::algorithm_name;
use crate::{Engines, KmsError};

/// Most scripts of one call.
pub(crate) const SCRIPTS_MAX: usize = hsm::PUT_KEY_DEVICES_MAX;
/// Shortest and longest lease, and the one of who names none, in seconds.
const LEASE_SECONDS: (i64, i64, i64) = (5, 3_600, 600);

/// The party that carries the rotation out, as its enrolment and its connection say.
#[derive(Clone)]
pub struct Carrier {
    /// Its name.
    pub name: String,
    /// The credential of this connection.
    pub principal: PrincipalId,
    /// That its record is still as it was admitted: it takes no lease behind its suspension.
    pub unchanged: Precondition,
}

/// What it asks for.
#[derive(Clone, Debug)]
pub struct ScriptsRequest {
    /// The rotation.
    pub rotation: String,
    /// At most this many scripts.
    pub limit: u32,
    /// How long the caller wants; 0 for ten minutes.
    pub lease_seconds: u32,
    /// The caller's idempotency key: the lease's name.
    pub request_id: Vec<u8>,
    /// SHA-256 of the request, for the entries.
    pub request_digest: [u8; 32],
    /// Whether this request was answered before under its idempotency key.
    pub is_repeat: bool,
}

/// Devices that are given to a caller until a time.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Its identifier.
    pub id: [u8; 16],
    /// When it ends.
    pub ends: Timestamp,
    /// The devices.
    pub eids: Vec<Eid>,
}

/// The script of one device.
#[derive(Clone, Debug)]
pub struct Script {
    /// The device.
    pub eid: Eid,
    /// The PUT KEY command before secure messaging; empty when it is carried.
    pub put_key: Vec<u8>,
    /// Of a rotation with a channel: the commands as the card takes them.
    pub carried: Option<CarriedScript>,
    /// How often a script of it was given out before.
    pub earlier_leases: u32,
}

/// What may be answered once the commit is durable.
#[derive(Debug)]
pub struct Scripts {
    /// The terms they belong to.
    pub rotation: Rotation,
    /// The scripts; fewer than leased when a device was frozen since.
    pub scripts: Vec<Script>,
    /// End of the lease; none when no device waits.
    pub ends: Option<Timestamp>,
}

/// Steps 4 to 6 of `docs/cycles/rotation.md`: leases devices (its own commit), has the token make their scripts, and
/// returns the commit that must be durable before they leave. A repeat finds its lease again and gets what is not
/// reported yet.
pub async fn fetch_scripts(
    engines: &Engines,
    rotations: &Turns,
    pseudonyms: &Pseudonyms,
    caller: &Carrier,
    request: &ScriptsRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, Scripts), KmsError> {
    let store = engines.store.as_ref();
    if !(1..=SCRIPTS_MAX as u32).contains(&request.limit) {
        return Err(invalid(format!("limit must be 1 to {SCRIPTS_MAX}")));
    }
    let rotation = Rotation::find(store, &request.rotation, Some(&caller.name))?;
    if !matches!(rotation.state, RotationState::Running | RotationState::Completed) {
        return Err(KmsError::refused(
            ReasonCode::RotationNotRunning,
            format!("the rotation is {}", rotation.state.as_str()),
            None,
        ));
    }
    let id = lease_id(&caller.principal, &request.request_id);
    let leased = match find_lease(store, &rotation.terms.name, &id)? {
        Some(leased) if leased.ends > now => Some(leased),
        // A repeat whose lease is over gets nothing new: its devices may be with somebody else.
        Some(_) => None,
        None if request.is_repeat => None,
        None => take(store, rotations, pseudonyms, caller, request, id, now).await?,
    };
    let rotation = Rotation::find(store, &request.rotation, Some(&caller.name))?;
    let (commit, scripts) =
        make(engines, pseudonyms, caller, request, &rotation, leased.as_ref(), now, options).await?;
    Ok((commit, Scripts { rotation, scripts, ends: leased.map(|leased| leased.ends) }))
}

/// 4. The lease: the next devices of the stage at work leave the queue.
pub(crate) async fn take(
    store: &dyn Store,
    rotations: &Turns,
    pseudonyms: &Pseudonyms,
    caller: &Carrier,
    request: &ScriptsRequest,
    id: [u8; 16],
    now: Timestamp,
) -> Result<Option<Leased>, KmsError> {
    let (least, most, usual) = LEASE_SECONDS;
    let seconds = match i64::from(request.lease_seconds) {
        0 => usual,
        seconds if (least..=most).contains(&seconds) => seconds,
        _ => return Err(invalid(format!("lease_seconds must be {least} to {most}"))),
    };
    let _turn = rotations.turn(&request.rotation).await;
    let mut rotation = Rotation::find(store, &request.rotation, Some(&caller.name))?;
    if rotation.state != RotationState::Running {
        return Ok(None);
    }
    let name = rotation.terms.name.clone();
    let mut commit = Commit::default();
    let mut leased = Leased { id, ends: now.plus_seconds(seconds), eids: Vec::new() };
    // More than are wanted: some may not be ready, and an empty answer says that none waits.
    let rows = store.scan(ROTATION_QUEUE, &prefix(&name), None, SCRIPTS_MAX)?;
    let limit = rotation.rank_limit();
    for (key, _) in rows {
        let (rank, eid) = queue_entry(&name, &key)?;
        if rank >= limit || leased.eids.len() >= request.limit as usize {
            break;
        }
        let mut item = Item::read(store, &name, &eid)?.ok_or(KmsError::Record("rotation item"))?;
        commit.changes.push(Change::delete(ROTATION_QUEUE, key));
        let mut state = ItemState::Leased;
        item.channel = match &rotation.terms.channel {
            Some(channel) => take_channel(store, channel, (&eid, &rotation.terms.from), &mut commit)?,
            None => None,
        };
        let is_carried = rotation.terms.channel.is_some() == item.channel.is_some();
        if !is_carried || !is_ready(store, &rotation, &eid, now)? {
            state = ItemState::Failed(Failure::DeviceNotActive);
            commit.entries.push(reported(&rotation, pseudonyms, &eid, state));
        }
        rotation.count(&item, state);
        item.state = state;
        if state == ItemState::Leased {
            item.lease = Some(id);
            item.leases += 1;
            leased.eids.push(eid);
        }
        commit.changes.push(item.put(&name, &eid));
    }
    if commit.changes.is_empty() {
        return Ok(None);
    }
    rotation.advance();
    commit.entries.extend(turned(&rotation));
    if !leased.eids.is_empty() {
        let record = records::RotationLease {
            version: 1,
            eids: leased.eids.iter().map(|eid| eid.bcd().to_vec()).collect(),
        };
        commit.changes.extend(put_lease(&name, leased.ends, &id, &record));
        commit.entries.push(
            EntryDraft::new(EventType::RotationLeased, Outcome::Intent)
                .role(Role::Provisioner)
                .actor(pseudonyms.principal(&caller.principal))
                .request(request.request_digest)
                .fact("rotation", Fact::Digest(rotation.terms.digest()))
                .fact("lease", Fact::bytes(&id).map_err(|_| KmsError::Record("lease"))?)
                .fact("devices", Fact::Number(leased.eids.len() as u64)),
        );
    }
    let (change, unchanged) = rotation.put();
    commit.changes.push(change);
    commit.preconditions.extend([unchanged, caller.unchanged.clone()]);
    store.commit(commit).await?;
    Ok(Some(leased).filter(|leased| !leased.eids.is_empty()))
}

/// 5. and 6. The PUT KEY blocks, made in the token, and the commit that lets them go.
#[expect(clippy::too_many_arguments, reason = "the one place where call, rotation and lease meet")]
async fn make(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Carrier,
    request: &ScriptsRequest,
    rotation: &Rotation,
    leased: Option<&Leased>,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, Vec<Script>), KmsError> {
    let store = engines.store.as_ref();
    let terms = &rotation.terms;
    let actor = pseudonyms.principal(&caller.principal);
    let outcome = if request.is_repeat { Outcome::Repeated } else { Outcome::Done };
    let (generation, master) = engines.masters.newest(store)?;
    let mut commit = Commit::default();
    let mut ready = Vec::new();
    for eid in leased.map(|leased| leased.eids.as_slice()).unwrap_or_default() {
        let item = Item::read(store, &terms.name, eid)?.ok_or(KmsError::Record("rotation item"))?;
        let is_ours = item.state == ItemState::Leased && item.lease == leased.map(|leased| leased.id);
        // A device that was frozen since stays where it is; the end of the lease counts it.
        if !is_ours || !is_ready(store, rotation, eid, now)? {
            continue;
        }
        let device = DeviceRecord::read(store, eid)?.ok_or(KmsError::Record("device"))?;
        let old = KeysetRecord::read(store, eid, &terms.from)?.ok_or(KmsError::Record("keyset"))?;
        let new = KeysetRecord::read(store, eid, &terms.to())?;
        commit.preconditions.push(item.unchanged(&terms.name, eid));
        commit.preconditions.push(device.unchanged(eid));
        commit.preconditions.push(old.unchanged(eid, &terms.from));
        ready.push((*eid, item, old, new));
    }
    let mut devices = Vec::with_capacity(ready.len());
    for (eid, _, old, new) in &ready {
        let old = engines.sourced(eid, &terms.from, old)?;
        let new = match new {
            // What was given out once is given out again unchanged, whatever master came since.
            Some(new) => engines.sourced(eid, &terms.to(), new)?,
            None => SourcedKeyset::derived(
                master.clone(),
                DeviceKeyset { kvn: terms.to_kvn, algorithm: terms.to_algorithm, ..old.keyset },
            ),
        };
        devices.push(PutKeyDevice { old, new });
    }
    let blocks = match devices.is_empty() {
        true => Vec::new(),
        false => engines.token.put_key(PutKeyJob { devices }, options).await?,
    };
    let (mut scripts, mut carrying) = (Vec::with_capacity(ready.len()), Vec::new());
    for ((eid, item, old, new), blocks) in ready.iter().zip(blocks) {
        let check_values: Vec<_> = blocks.iter().map(|key| key.kcv).collect();
        let to_key = terms.to().row_key(eid);
        match new {
            Some(new) if new.check_values == check_values => {
                commit.preconditions.push(new.unchanged(eid, &terms.to()));
            }
            Some(_) => return Err(KmsError::Record("keyset")),
            None => {
                let keyset = KeysetRecord {
                    algorithm: terms.to_algorithm,
                    state: KeyState::PreActivation,
                    source: KeysetSource::derived(generation),
                    delivered_under: delivered_under_keyset(&terms.from),
                    // AES-256 sent under AES-128 is worth 128 bits (SP 800-57 Part 1 §5.6.2).
                    effective_strength: terms.to_algorithm.strength_bits().min(old.effective_strength),
                    check_values,
                    created: now,
                    rotation: Some(terms.name.clone()),
                    ends: None,
                    taint: None,
                    version: 0,
                };
                commit.changes.push(Change::put(KEYSETS, to_key.clone(), keyset.encode()));
                commit.preconditions.push(Precondition::Absent { keyspace: KEYSETS, key: to_key });
            }
        }
        let put_key = PutKey::new(None, terms.to_kvn, terms.to_algorithm, blocks)
            .map_err(|_| KmsError::Record("PUT KEY"))?;
        commit.entries.push(
            EntryDraft::new(EventType::RotationScriptReleased, outcome)
                .role(Role::Provisioner)
                .actor(actor)
                .object(pseudonyms.device(eid))
                .request(request.request_digest)
                .fact("rotation", Fact::Digest(terms.digest()))
                .fact("old_kvn", Fact::Number(u64::from(terms.from.kvn.value())))
                .fact("kvn", Fact::Number(u64::from(terms.to_kvn.value())))
                .fact("algorithm", algorithm_name(terms.to_algorithm))
                .fact("level", Fact::Number(1))
                .fact("leases", Fact::Number(u64::from(item.leases))),
        );
        let put_key = put_key.to_apdu(terms.dialect);
        let earlier_leases = item.leases.saturating_sub(1);
        if terms.channel.is_some() {
            carrying.push(Carrying {
                eid: *eid,
                keyset: engines.sourced(eid, &terms.from, old)?,
                channel: item.channel.clone().ok_or(KmsError::Record("rotation item"))?,
                command: put_key,
            });
            scripts.push(Script { eid: *eid, put_key: Vec::new(), carried: None, earlier_leases });
        } else {
            scripts.push(Script { eid: *eid, put_key, carried: None, earlier_leases });
        }
    }
    if let Some(channel) = &terms.channel {
        let when = (request.is_repeat, now);
        let carried = carry(engines, (&terms.from, channel), carrying, when, options, &mut commit).await?;
        for (script, carried) in scripts.iter_mut().zip(carried) {
            script.carried = Some(carried);
        }
    }
    if commit.entries.is_empty() {
        commit.entries.push(
            EntryDraft::new(EventType::RotationScriptReleased, outcome)
                .role(Role::Provisioner)
                .actor(actor)
                .request(request.request_digest)
                .fact("rotation", Fact::Digest(terms.digest()))
                .fact("devices", Fact::Number(0)),
        );
    }
    Ok((commit, scripts))
}

/// Whether a script may be made for the device as things are.
pub(crate) fn is_ready(
    store: &dyn Store,
    rotation: &Rotation,
    eid: &Eid,
    now: Timestamp,
) -> Result<bool, KmsError> {
    let device = DeviceRecord::read(store, eid)?.and_then(|device| device.state);
    let old = KeysetRecord::read(store, eid, &rotation.terms.from)?;
    Ok(device.is_some_and(DeviceState::releases_keys)
        && old.is_some_and(|old| old.state_at(now).releases_session_keys()))
}

/// The entry about what became of a device.
pub(crate) fn reported(
    rotation: &Rotation,
    pseudonyms: &Pseudonyms,
    eid: &Eid,
    state: ItemState,
) -> EntryDraft {
    let result = match state {
        ItemState::Failed(failure) => failure.as_str(),
        state => state.as_str(),
    };
    EntryDraft::new(EventType::RotationReported, Outcome::Done)
        .object(pseudonyms.device(eid))
        .fact("rotation", Fact::Digest(rotation.terms.digest()))
        .fact("result", Fact::fixed_name(result))
}

/// The entry of a turn that the rotation took by itself.
pub(crate) fn turned(rotation: &Rotation) -> Option<EntryDraft> {
    let event = match rotation.state {
        RotationState::Halted => EventType::RotationHalted,
        RotationState::Completed => EventType::RotationCompleted,
        _ => return None,
    };
    Some(
        EntryDraft::new(event, Outcome::Done)
            .fact("rotation", Fact::Digest(rotation.terms.digest()))
            .fact("stage", Fact::Number(u64::from(rotation.record.stage)))
            .fact("confirmed", Fact::Number(rotation.confirmed()))
            .fact("failed", Fact::Number(rotation.failed())),
    )
}

pub(crate) fn queue_key(rotation: &str, rank: u32, eid: &Eid) -> Vec<u8> {
    // Ranks are below 10,000.
    let rank = u16::try_from(rank.min(RANKS)).unwrap_or(u16::MAX);
    [&prefix(rotation)[..], &rank.to_be_bytes(), eid.bcd()].concat()
}

fn queue_entry(rotation: &str, key: &[u8]) -> Result<(u32, Eid), KmsError> {
    let unreadable = || KmsError::Record("rotation queue");
    let rest = key.get(rotation.len() + 1..).ok_or_else(unreadable)?;
    let (rank, eid) = rest.split_at_checked(2).ok_or_else(unreadable)?;
    let eid =
        <[u8; 16]>::try_from(eid).ok().and_then(|bcd| Eid::from_bcd(bcd).ok()).ok_or_else(unreadable)?;
    Ok((u32::from(u16::from_be_bytes([rank[0], rank[1]])), eid))
}

fn lease_key(rotation: &str, ends: Timestamp, id: &[u8; 16]) -> Vec<u8> {
    [&prefix(rotation)[..], &ends.micros().to_be_bytes(), id].concat()
}

/// Reads a lease row.
pub(crate) fn read_lease(rotation: &str, key: &[u8], value: &[u8]) -> Result<Leased, KmsError> {
    let unreadable = || KmsError::Record("lease");
    let rest = key.get(rotation.len() + 1..).ok_or_else(unreadable)?;
    let (ends, id) = rest.split_at_checked(8).ok_or_else(unreadable)?;
    let record = records::RotationLease::decode(value).map_err(|_| unreadable())?;
    Ok(Leased {
        id: id.try_into().map_err(|_| unreadable())?,
        ends: Timestamp::from_micros(i64::from_be_bytes(ends.try_into().map_err(|_| unreadable())?)),
        eids: record
            .eids
            .iter()
            .map(|eid| <[u8; 16]>::try_from(eid.as_slice()).ok().and_then(|bcd| Eid::from_bcd(bcd).ok()))
            .collect::<Option<_>>()
            .ok_or_else(unreadable)?,
    })
}

/// Where the end of a lease stands, by which its row is found. Names hold no byte 01, so these rows are no leases.
fn lease_end_key(rotation: &str, id: &[u8; 16]) -> Vec<u8> {
    [rotation.as_bytes(), &[1], id].concat()
}

/// The writes that make a lease.
pub(crate) fn put_lease(
    rotation: &str,
    ends: Timestamp,
    id: &[u8; 16],
    record: &records::RotationLease,
) -> [Change; 2] {
    let end = ends.micros().to_be_bytes();
    [
        Change::put(ROTATION_LEASES, lease_key(rotation, ends, id), record.encode_to_vec()),
        Change::put(ROTATION_LEASES, lease_end_key(rotation, id), end),
    ]
}

/// The writes that take a lease away.
pub(crate) fn drop_lease(rotation: &str, ends: Timestamp, id: &[u8; 16]) -> [Change; 2] {
    [lease_key(rotation, ends, id), lease_end_key(rotation, id)]
        .map(|key| Change::delete(ROTATION_LEASES, key))
}

pub(crate) fn find_lease(
    store: &dyn Store,
    rotation: &str,
    id: &[u8; 16],
) -> Result<Option<Leased>, KmsError> {
    let Some(end) = store.get(ROTATION_LEASES, &lease_end_key(rotation, id))? else { return Ok(None) };
    let end = <[u8; 8]>::try_from(&*end.value).map_err(|_| KmsError::Record("lease"))?;
    let key = lease_key(rotation, Timestamp::from_micros(i64::from_be_bytes(end)), id);
    store.get(ROTATION_LEASES, &key)?.map(|row| read_lease(rotation, &key, &row.value)).transpose()
}

/// The same request of the same caller names the same lease.
pub(crate) fn lease_id(principal: &PrincipalId, request_id: &[u8]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(principal.0);
    hasher.update(request_id);
    let hash: [u8; 32] = hasher.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

fn invalid(message: String) -> KmsError {
    KmsError::refused(ReasonCode::InvalidField, message, None)
}
