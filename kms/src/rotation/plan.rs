//! What a rotation would do, and which devices it takes. Changes nothing.

use domain::{DeviceState, Eid, Timestamp};
use store::Store;

use super::progress::{Item, ItemState, Rotation, RotationState};
use super::terms::RotationTerms;
use crate::KmsError;
use crate::devices::{DeviceRecord, KeysetRecord};
use crate::keyspaces::{DEVICE_ROTATIONS, DEVICES};

/// Devices read at a time.
pub(crate) const DEVICES_PER_SCAN: usize = 500;

/// Why a device that the terms name is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExclusionReason {
    /// No device has this EID, or it is just being registered.
    NoSuchDevice,
    /// It is frozen.
    DeviceFrozen,
    /// It is retired.
    DeviceRetired,
    /// It has no usable keyset of the old version.
    NoOldKeyset,
    /// It had a keyset of the new version before; a key version is used once.
    KeyVersionUsed,
    /// Another rotation that is not over holds it.
    InOtherRotation,
}

impl ExclusionReason {
    const ALL: [Self; 6] = [
        Self::NoSuchDevice,
        Self::DeviceFrozen,
        Self::DeviceRetired,
        Self::NoOldKeyset,
        Self::KeyVersionUsed,
        Self::InOtherRotation,
    ];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchDevice => "no_such_device",
            Self::DeviceFrozen => "device_frozen",
            Self::DeviceRetired => "device_retired",
            Self::NoOldKeyset => "no_old_keyset",
            Self::KeyVersionUsed => "key_version_used",
            Self::InOtherRotation => "in_other_rotation",
        }
    }
}

/// What a rotation would do.
#[derive(Clone, Debug)]
pub struct RotationPlan {
    /// Devices of each stage.
    pub stage_devices: Vec<u64>,
    /// Devices left out, by reason; reasons without devices are absent.
    pub excluded: Vec<(ExclusionReason, u64)>,
    /// What will happen, in order, each step with its reason.
    pub steps: Vec<String>,
}

impl RotationPlan {
    /// Looks at every device that the terms name. Reads the whole fleet for ranges: seconds for a million devices.
    pub fn make(store: &dyn Store, terms: &RotationTerms, now: Timestamp) -> Result<Self, KmsError> {
        let mut stage_devices = vec![0; terms.stages.len()];
        let mut excluded = [0_u64; ExclusionReason::ALL.len()];
        let mut after = None;
        loop {
            let eids = candidates(store, terms, after.as_ref())?;
            let Some(last) = eids.last() else { break };
            after = Some(last.1);
            for (named, eid) in eids {
                if !named {
                    continue;
                }
                match examine(store, terms, &eid, now)? {
                    None => stage_devices[terms.stage(terms.rank(&eid)) as usize] += 1,
                    Some(reason) => excluded[reason as usize] += 1,
                }
            }
        }
        let excluded: Vec<_> =
            ExclusionReason::ALL.into_iter().zip(excluded).filter(|(_, devices)| *devices > 0).collect();
        let steps = steps(terms, &stage_devices);
        Ok(Self { stage_devices, excluded, steps })
    }

    /// Devices in all.
    pub fn devices(&self) -> u64 {
        self.stage_devices.iter().sum()
    }
}

/// The next devices in the order of their EIDs, each with whether the terms name it.
pub(crate) fn candidates(
    store: &dyn Store,
    terms: &RotationTerms,
    after: Option<&Eid>,
) -> Result<Vec<(bool, Eid)>, KmsError> {
    if terms.eins.is_empty() {
        let mut eids: Vec<Eid> = terms.eids.iter().copied().collect();
        eids.sort_unstable_by_key(|eid| *eid.bcd());
        return Ok(eids
            .into_iter()
            .filter(|eid| after.is_none_or(|after| after.bcd() < eid.bcd()))
            .take(DEVICES_PER_SCAN)
            .map(|eid| (true, eid))
            .collect());
    }
    let rows = store.scan(DEVICES, &[], after.map(|eid| &eid.bcd()[..]), DEVICES_PER_SCAN)?;
    rows.into_iter()
        .map(|(key, _)| {
            let eid = <[u8; 16]>::try_from(key.as_slice())
                .ok()
                .and_then(|bcd| Eid::from_bcd(bcd).ok())
                .ok_or(KmsError::Record("device"))?;
            Ok((terms.names(&eid), eid))
        })
        .collect()
}

/// Why a device cannot be part of the rotation; none when it can.
pub(crate) fn examine(
    store: &dyn Store,
    terms: &RotationTerms,
    eid: &Eid,
    now: Timestamp,
) -> Result<Option<ExclusionReason>, KmsError> {
    let state = DeviceRecord::read(store, eid)?.and_then(|device| device.state);
    match state {
        None => return Ok(Some(ExclusionReason::NoSuchDevice)),
        Some(DeviceState::Frozen) => return Ok(Some(ExclusionReason::DeviceFrozen)),
        Some(DeviceState::Retired) => return Ok(Some(ExclusionReason::DeviceRetired)),
        Some(DeviceState::Registered | DeviceState::Active) => {}
    }
    let old = KeysetRecord::read(store, eid, &terms.from)?;
    // One with an end is being replaced already; one that waits for its own proof is nothing to stand on.
    let usable = old.is_some_and(|old| {
        old.state_at(now).releases_session_keys() && old.ends.is_none() && old.rotation.is_none()
    });
    if !usable {
        return Ok(Some(ExclusionReason::NoOldKeyset));
    }
    for name in rotations_of(store, eid)? {
        if name == terms.name {
            continue;
        }
        let is_open = Rotation::read(store, &name)?.is_some_and(|other| {
            !matches!(other.state, RotationState::Completed | RotationState::RolledBack)
        });
        let waits = Item::read(store, &name, eid)?.is_some_and(|item| {
            matches!(item.state, ItemState::Pending | ItemState::Leased | ItemState::Loaded)
        });
        if is_open && waits {
            return Ok(Some(ExclusionReason::InOtherRotation));
        }
    }
    if KeysetRecord::read(store, eid, &terms.to())?.is_some() {
        return Ok(Some(ExclusionReason::KeyVersionUsed));
    }
    Ok(None)
}

/// The rotations that a device is or was part of.
pub(crate) fn rotations_of(store: &dyn Store, eid: &Eid) -> Result<Vec<String>, KmsError> {
    let rows = store.scan(DEVICE_ROTATIONS, eid.bcd(), None, 1_000)?;
    rows.into_iter()
        .map(|(key, _)| {
            String::from_utf8(key[16..].to_vec()).map_err(|_| KmsError::Record("device rotation"))
        })
        .collect()
}

fn steps(terms: &RotationTerms, stage_devices: &[u64]) -> Vec<String> {
    let mut steps = vec![format!(
        "collect the devices that hold {} when the rotation starts, in an order nobody chooses (a hash of name and EID)",
        terms.from.kvn
    )];
    for (percent, devices) in terms.stages.iter().zip(stage_devices) {
        steps.push(format!(
            "up to {percent} % of the fleet: {devices} devices get a PUT KEY script from {}; the next stage waits until each has ended",
            terms.provisioner
        ));
    }
    steps.extend([
        format!(
            "a device counts as rotated when the token has verified its cryptogram under {}; check values alone prove nothing",
            terms.to_kvn
        ),
        format!(
            "{} s after its proof the old keyset is deactivated; until then both serve and a roll back is possible",
            terms.overlap_seconds
        ),
        format!(
            "when more than {} % of the devices that ended failed, the rotation halts and waits for a person",
            terms.halt_failures_percent
        ),
    ]);
    steps
}
