//! Old keysets leave the cards: DELETE KEY for devices that proved their new keyset, once the old one has ended. Part of a
//! rotation only where its approved terms say so.

use std::collections::HashSet;

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{DeviceState, Eid, KeyState, ReasonCode, Role, Timestamp};
use keys::delete_key::delete_keyset;
use store::{Change, Commit, Store};

use super::carried::{CarriedScript, Carrying, carry, take_channel};
use super::lease::{Carrier, SCRIPTS_MAX, lease_id};
use super::progress::{Item, ItemState, Rotation, RotationState, prefix};
use crate::devices::{DeviceRecord, KeysetRecord};
use crate::keyspaces::{KEYSETS, ROTATION_ITEMS};
use crate::{Engines, KmsError};

/// Items that one call looks at.
const LOOKED_AT_MAX: usize = 2_000;

/// What a provisioner asks for.
#[derive(Clone, Debug)]
pub struct DeletionsRequest {
    /// The rotation.
    pub rotation: String,
    /// At most this many scripts.
    pub limit: u32,
    /// Go on after this device; none: from the first.
    pub after: Option<Eid>,
    /// The caller's idempotency key.
    pub request_id: Vec<u8>,
    /// SHA-256 of the request, for the entries.
    pub request_digest: [u8; 32],
    /// Whether this request was answered before under its idempotency key.
    pub is_repeat: bool,
}

/// The script of one device.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// The device.
    pub eid: Eid,
    /// DELETE KEY before secure messaging, under a channel of the new keyset; empty when it is carried.
    pub delete_key: Vec<u8>,
    /// Of a rotation with a channel: the commands as the card takes them.
    pub carried: Option<CarriedScript>,
}

/// What may be answered once the commit is durable.
#[derive(Debug)]
pub struct Deletions {
    /// The rotation.
    pub rotation: Rotation,
    /// The scripts.
    pub scripts: Vec<Deletion>,
    /// Where the next call goes on; none: every device was looked at.
    pub next_after: Option<Eid>,
}

/// A device whose old keyset may leave its card, as it was read.
struct Ready {
    eid: Eid,
    item: Item,
    device: DeviceRecord,
    old: KeysetRecord,
    new: KeysetRecord,
}

/// Step 13 of `docs/cycles/rotation.md`: the next devices whose old keyset has ended; where scripts are carried, the next
/// sequence counters under the new keyset are taken in a commit of their own before the token makes anything.
pub async fn fetch_deletions(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    caller: &Carrier,
    request: &DeletionsRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, Deletions), KmsError> {
    let store = engines.store.as_ref();
    let rotation = open(store, &request.rotation, caller)?;
    if !(1..=SCRIPTS_MAX as u32).contains(&request.limit) {
        let message = format!("limit must be 1 to {SCRIPTS_MAX}");
        return Err(KmsError::refused(ReasonCode::InvalidField, message, None));
    }
    let (mut ready, next_after) = find(store, &rotation, request, now)?;
    let terms = &rotation.terms;
    let id = lease_id(&caller.principal, &request.request_id);
    if let Some(channel) = &terms.channel {
        let mut taken = Commit { preconditions: vec![caller.unchanged.clone()], ..Commit::default() };
        let mut kept = Vec::with_capacity(ready.len());
        for mut one in ready {
            if one.item.lease != Some(id) {
                let to = (&one.eid, &terms.to());
                let Some(channel) = take_channel(store, channel, to, &mut taken)? else { continue };
                taken.preconditions.push(one.item.unchanged(&terms.name, &one.eid));
                (one.item.lease, one.item.channel) = (Some(id), Some(channel));
                taken.changes.push(one.item.put(&terms.name, &one.eid));
            }
            kept.push(one.eid);
        }
        if !taken.changes.is_empty() {
            taken.entries.push(
                EntryDraft::new(EventType::RotationLeased, Outcome::Intent)
                    .role(Role::Provisioner)
                    .actor(pseudonyms.principal(&caller.principal))
                    .request(request.request_digest)
                    .fact("rotation", Fact::Digest(terms.digest()))
                    .fact("lease", Fact::bytes(&id).map_err(|_| KmsError::Record("lease"))?)
                    .fact("devices", Fact::Number(kept.len() as u64)),
            );
            store.commit(taken).await?;
        }
        ready = read(store, &rotation, kept, now)?;
    }
    let mut commit = Commit::default();
    let mut scripts = Vec::with_capacity(ready.len());
    let mut carrying = Vec::new();
    let outcome = if request.is_repeat { Outcome::Repeated } else { Outcome::Done };
    let released = || {
        EntryDraft::new(EventType::RotationScriptReleased, outcome)
            .role(Role::Provisioner)
            .actor(pseudonyms.principal(&caller.principal))
            .request(request.request_digest)
            .fact("rotation", Fact::Digest(terms.digest()))
            .fact("mode", Fact::fixed_name("delete-key"))
    };
    for Ready { eid, item, device, old, new } in &ready {
        commit.preconditions.extend([
            item.unchanged(&terms.name, eid),
            device.unchanged(eid),
            old.unchanged(eid, &terms.from),
            new.unchanged(eid, &terms.to()),
        ]);
        let command = delete_keyset(terms.from.kvn).to_bytes();
        commit.entries.push(
            released()
                .object(pseudonyms.device(eid))
                .fact("old_kvn", Fact::Number(u64::from(terms.from.kvn.value())))
                .fact("kvn", Fact::Number(u64::from(terms.to_kvn.value())))
                .fact("level", Fact::Number(1)),
        );
        if terms.channel.is_some() {
            carrying.push(Carrying {
                eid: *eid,
                keyset: engines.sourced(eid, &terms.to(), new)?,
                channel: item.channel.clone().ok_or(KmsError::Record("rotation item"))?,
                command,
            });
            scripts.push(Deletion { eid: *eid, delete_key: Vec::new(), carried: None });
        } else {
            scripts.push(Deletion { eid: *eid, delete_key: command, carried: None });
        }
    }
    if let Some(channel) = &terms.channel {
        let (when, name) = ((request.is_repeat, now), terms.to());
        let carried = carry(engines, (&name, channel), carrying, when, options, &mut commit).await?;
        for (script, carried) in scripts.iter_mut().zip(carried) {
            script.carried = Some(carried);
        }
    }
    if commit.entries.is_empty() {
        commit.entries.push(released().fact("devices", Fact::Number(0)));
    }
    Ok((commit, Deletions { rotation, scripts, next_after }))
}

/// What a card answered to DELETE KEY.
#[derive(Clone, Copy, Debug)]
pub struct DeletionReport {
    /// The device.
    pub eid: Eid,
    /// The status word.
    pub status_word: u32,
}

/// What became of a report.
#[derive(Clone, Copy, Debug)]
pub struct DeletionResult {
    /// The device.
    pub eid: Eid,
    /// Whether the old keyset is destroyed in the records now.
    pub deleted: bool,
    /// Why the report changed nothing.
    pub refused: Option<ReasonCode>,
}

/// Step 14: a card that answered 9000 has its old keyset destroyed. A report, not a proof: a card's inventory shows whether it is
/// true (`keysets::reconcile`).
pub fn report_deletions(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    caller: &Carrier,
    rotation: &str,
    reports: &[DeletionReport],
    request_digest: [u8; 32],
    now: Timestamp,
) -> Result<(Commit, Vec<DeletionResult>), KmsError> {
    let rotation = open(store, rotation, caller)?;
    let distinct: HashSet<_> = reports.iter().map(|report| report.eid).collect();
    if reports.is_empty() || reports.len() > SCRIPTS_MAX || distinct.len() != reports.len() {
        let message = format!("a call has 1 to {SCRIPTS_MAX} reports, each device once");
        return Err(KmsError::refused(ReasonCode::InvalidField, message, None));
    }
    let terms = &rotation.terms;
    let mut commit = Commit { preconditions: vec![caller.unchanged.clone()], ..Commit::default() };
    let mut results = Vec::with_capacity(reports.len());
    for DeletionReport { eid, status_word } in reports {
        let entry = |event, result: &'static str| {
            EntryDraft::new(event, Outcome::Done)
                .role(Role::Provisioner)
                .actor(pseudonyms.principal(&caller.principal))
                .object(pseudonyms.device(eid))
                .request(request_digest)
                .fact("rotation", Fact::Digest(terms.digest()))
                .fact("result", Fact::fixed_name(result))
        };
        let item = Item::read(store, &terms.name, eid)?.filter(|item| item.state == ItemState::Confirmed);
        let old = KeysetRecord::read(store, eid, &terms.from)?;
        let (Some(_), Some(mut old)) = (item, old) else {
            results.push(DeletionResult { eid: *eid, deleted: false, refused: Some(ReasonCode::NotLeased) });
            continue;
        };
        if old.state == KeyState::Destroyed {
            // A second report, for example after a lost answer, is told what stands.
            results.push(DeletionResult { eid: *eid, deleted: true, refused: None });
            continue;
        }
        if old.state_at(now) != KeyState::Deactivated {
            let refused = Some(ReasonCode::KeysetNotActive);
            results.push(DeletionResult { eid: *eid, deleted: false, refused });
            continue;
        }
        let deleted = *status_word == 0x9000;
        if deleted {
            commit.preconditions.push(old.unchanged(eid, &terms.from));
            old.state = KeyState::Destroyed;
            commit.changes.push(Change::put(KEYSETS, terms.from.row_key(eid), old.encode()));
            commit.entries.push(
                entry(EventType::KeysetDeactivated, "deleted")
                    .fact("kvn", Fact::Number(u64::from(terms.from.kvn.value())))
                    .fact("state", Fact::fixed_name(old.state.as_str())),
            );
        } else {
            commit.entries.push(entry(EventType::RotationReported, "card_refused"));
        }
        results.push(DeletionResult { eid: *eid, deleted, refused: None });
    }
    if commit.entries.is_empty() {
        commit.entries.push(
            EntryDraft::new(EventType::RotationReported, Outcome::Done)
                .role(Role::Provisioner)
                .actor(pseudonyms.principal(&caller.principal))
                .request(request_digest)
                .fact("rotation", Fact::Digest(terms.digest()))
                .fact("devices", Fact::Number(0)),
        );
    }
    Ok((commit, results))
}

/// The rotation, where it deletes old keys and may do so now.
fn open(store: &dyn Store, name: &str, caller: &Carrier) -> Result<Rotation, KmsError> {
    let rotation = Rotation::find(store, name, Some(&caller.name))?;
    if !rotation.terms.deletes_old_keys {
        let message = "the approved terms of this rotation delete no keys";
        return Err(KmsError::refused(ReasonCode::PolicyViolation, message, None));
    }
    if matches!(rotation.state, RotationState::Running | RotationState::Completed) {
        return Ok(rotation);
    }
    let message = format!("the rotation is {}", rotation.state.as_str());
    Err(KmsError::refused(ReasonCode::RotationNotRunning, message, None))
}

/// The next devices, and where to go on.
fn find(
    store: &dyn Store,
    rotation: &Rotation,
    request: &DeletionsRequest,
    now: Timestamp,
) -> Result<(Vec<Ready>, Option<Eid>), KmsError> {
    let prefix = prefix(&rotation.terms.name);
    let after = request.after.map(|eid| Item::key(&rotation.terms.name, eid.bcd()));
    let rows = store.scan(ROTATION_ITEMS, &prefix, after.as_deref(), LOOKED_AT_MAX)?;
    let is_last_page = rows.len() < LOOKED_AT_MAX;
    let (mut ready, mut last) = (Vec::new(), None);
    for (key, _) in rows {
        if ready.len() == request.limit as usize {
            return Ok((ready, last));
        }
        let eid = key
            .get(prefix.len()..)
            .and_then(|bcd| Eid::from_bcd(bcd.try_into().ok()?).ok())
            .ok_or(KmsError::Record("rotation item"))?;
        ready.extend(read(store, rotation, [eid], now)?);
        last = Some(eid);
    }
    Ok((ready, last.filter(|_| !is_last_page)))
}

/// Those of the devices whose old keyset may leave the card as things are.
fn read(
    store: &dyn Store,
    rotation: &Rotation,
    eids: impl IntoIterator<Item = Eid>,
    now: Timestamp,
) -> Result<Vec<Ready>, KmsError> {
    let terms = &rotation.terms;
    let mut ready = Vec::new();
    for eid in eids {
        let item = Item::read(store, &terms.name, &eid)?.filter(|item| item.state == ItemState::Confirmed);
        let device = DeviceRecord::read(store, &eid)?;
        let old = KeysetRecord::read(store, &eid, &terms.from)?;
        let new = KeysetRecord::read(store, &eid, &terms.to())?;
        let (Some(item), Some(device), Some(old), Some(new)) = (item, device, old, new) else { continue };
        let may = device.state.is_some_and(DeviceState::releases_keys)
            && old.state_at(now) == KeyState::Deactivated
            && new.state_at(now).releases_session_keys();
        if may {
            ready.push(Ready { eid, item, device, old, new });
        }
    }
    Ok(ready)
}
