//! The rows of a rotation as types: its state and counts, and the state of each device.

use domain::{Eid, ReasonCode, Timestamp};
use prost::Message;
use proto::{records, v1};
use store::{Change, Precondition, Store};

use super::terms::RotationTerms;
use crate::KmsError;
use crate::keyspaces::{ROTATION_ITEMS, ROTATIONS};

/// Devices after which the failures are weighed, apart from the ends of stages.
const WEIGHED_EVERY: u64 = 20;
/// Most rotations that a listing shows.
const LISTED_MAX: usize = 1_000;

/// What a rotation is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RotationState {
    /// Its devices are being collected.
    Preparing,
    /// Scripts are given out.
    Running,
    /// A person stopped it for a while.
    Paused,
    /// Too many failed.
    Halted,
    /// Every device ended.
    Completed,
    /// Devices are being taken back.
    RollingBack,
    /// Done taking back.
    RolledBack,
}

impl RotationState {
    const ALL: [Self; 7] = [
        Self::Preparing,
        Self::Running,
        Self::Paused,
        Self::Halted,
        Self::Completed,
        Self::RollingBack,
        Self::RolledBack,
    ];

    /// The stable name used in records and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Completed => "completed",
            Self::RollingBack => "rolling-back",
            Self::RolledBack => "rolled-back",
        }
    }

    /// The state in a rotation's row, without its terms.
    pub(crate) fn of_record(bytes: &[u8]) -> Result<Self, KmsError> {
        let record = records::Rotation::decode(bytes).map_err(|_| KmsError::Record("rotation"))?;
        let state = Self::ALL.into_iter().find(|state| state.as_str() == record.state);
        state.ok_or(KmsError::Record("rotation"))
    }

    /// Whether it goes on by itself, with no lease to wait for.
    pub(crate) const fn is_moving(self) -> bool {
        matches!(self, Self::Preparing | Self::RollingBack)
    }

    const fn message(self) -> v1::RotationState {
        match self {
            Self::Preparing => v1::RotationState::Preparing,
            Self::Running => v1::RotationState::Running,
            Self::Paused => v1::RotationState::Paused,
            Self::Halted => v1::RotationState::Halted,
            Self::Completed => v1::RotationState::Completed,
            Self::RollingBack => v1::RotationState::RollingBack,
            Self::RolledBack => v1::RotationState::RolledBack,
        }
    }

    /// Whether cards may still be reported: what was given out before a pause or halt is not lost, and a failed card
    /// may prove itself after the end.
    pub(crate) const fn takes_reports(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Halted | Self::Completed)
    }
}

/// Why a device stays on its old keyset. The place in [`Failure::ALL`] is the place of its count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The card reported other check values than the keys have.
    CheckValueWrong,
    /// The cryptogram under the new key version is not that of the new keyset.
    ProofWrong,
    /// Check values were reported and no proof while the lease lasted.
    ProofMissing,
    /// The card answered a command with an error.
    CardRefused,
    /// The device was frozen or retired meanwhile.
    DeviceNotActive,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 5] = [
        Self::CheckValueWrong,
        Self::ProofWrong,
        Self::ProofMissing,
        Self::CardRefused,
        Self::DeviceNotActive,
    ];

    /// The stable name used in answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CheckValueWrong => "check_value_wrong",
            Self::ProofWrong => "proof_wrong",
            Self::ProofMissing => "proof_missing",
            Self::CardRefused => "card_refused",
            Self::DeviceNotActive => "device_not_active",
        }
    }

    /// As in messages.
    pub const fn message(self) -> v1::RotationFailure {
        match self {
            Self::CheckValueWrong => v1::RotationFailure::CheckValueWrong,
            Self::ProofWrong => v1::RotationFailure::ProofWrong,
            Self::ProofMissing => v1::RotationFailure::ProofMissing,
            Self::CardRefused => v1::RotationFailure::CardRefused,
            Self::DeviceNotActive => v1::RotationFailure::DeviceNotActive,
        }
    }

    const fn place(self) -> usize {
        self as usize
    }
}

/// State of one device in a rotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemState {
    /// Waits for a script.
    Pending,
    /// Its script is out.
    Leased,
    /// The check values are right, the proof is outstanding.
    Loaded,
    /// Proved.
    Confirmed,
    /// Stays on its old keyset.
    Failed(Failure),
    /// Back on its old keyset.
    RolledBack,
    /// Not taken back, because its old keyset had ended.
    Kept,
}

impl ItemState {
    /// As in messages.
    pub const fn message(self) -> v1::RotationItemState {
        match self {
            Self::Pending => v1::RotationItemState::Pending,
            Self::Leased => v1::RotationItemState::Leased,
            Self::Loaded => v1::RotationItemState::Loaded,
            Self::Confirmed => v1::RotationItemState::Confirmed,
            Self::Failed(_) => v1::RotationItemState::Failed,
            Self::RolledBack => v1::RotationItemState::RolledBack,
            Self::Kept => v1::RotationItemState::Kept,
        }
    }

    /// The stable name used in answers and entries.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Leased => "leased",
            Self::Loaded => "loaded",
            Self::Confirmed => "confirmed",
            Self::Failed(_) => "failed",
            Self::RolledBack => "rolled-back",
            Self::Kept => "kept",
        }
    }

    const fn has_ended(self) -> bool {
        matches!(self, Self::Confirmed | Self::Failed(_) | Self::RolledBack | Self::Kept)
    }
}

/// One device of a rotation.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) state: ItemState,
    pub(crate) stage: u32,
    pub(crate) rank: u32,
    pub(crate) lease: Option<[u8; 16]>,
    pub(crate) leases: u32,
    /// Of a rotation that carries its scripts: what this lease's channel is prepared with.
    pub(crate) channel: Option<ItemChannel>,
    pub(crate) version: u64,
}

/// The sequence counter that a lease has taken, and the host's challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ItemChannel {
    pub(crate) counter: [u8; 3],
    pub(crate) host_challenge: Vec<u8>,
}

impl Item {
    pub(crate) const fn new(stage: u32, rank: u32) -> Self {
        Self { state: ItemState::Pending, stage, rank, lease: None, leases: 0, channel: None, version: 0 }
    }

    pub(crate) fn key(rotation: &str, eid: &[u8; 16]) -> Vec<u8> {
        [&prefix(rotation)[..], eid].concat()
    }

    /// That the device's row is still as it was read.
    pub(crate) fn unchanged(&self, rotation: &str, eid: &Eid) -> Precondition {
        Precondition::Version {
            keyspace: ROTATION_ITEMS,
            key: Self::key(rotation, eid.bcd()),
            version: self.version,
        }
    }

    pub(crate) fn read(store: &dyn Store, rotation: &str, eid: &Eid) -> Result<Option<Self>, KmsError> {
        let row = store.get(ROTATION_ITEMS, &Self::key(rotation, eid.bcd()))?;
        row.map(|row| Self::decode(&row.value, row.version)).transpose()
    }

    pub(crate) fn decode(bytes: &[u8], version: u64) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("rotation item");
        let record = records::RotationItem::decode(bytes).map_err(|_| unreadable())?;
        let failure = Failure::ALL.into_iter().find(|f| f.message() as u32 == record.failure);
        let states = [
            ItemState::Pending,
            ItemState::Leased,
            ItemState::Loaded,
            ItemState::Confirmed,
            ItemState::RolledBack,
            ItemState::Kept,
        ]
        .into_iter();
        Ok(Self {
            state: states
                .chain(failure.map(ItemState::Failed))
                .find(|state| state.message() as u32 == record.state)
                .ok_or_else(unreadable)?,
            stage: record.stage,
            rank: record.rank,
            lease: if record.lease.is_empty() {
                None
            } else {
                Some(record.lease.try_into().map_err(|_| unreadable())?)
            },
            leases: record.leases,
            channel: if record.host_challenge.is_empty() {
                None
            } else {
                let [0, high, middle, low] = record.sequence_counter.to_be_bytes() else {
                    return Err(unreadable());
                };
                let counter = [high, middle, low];
                Some(ItemChannel { counter, host_challenge: record.host_challenge })
            },
            version,
        })
    }

    pub(crate) fn put(&self, rotation: &str, eid: &Eid) -> Change {
        let failure = match self.state {
            ItemState::Failed(failure) => failure.message() as u32,
            _ => 0,
        };
        let record = records::RotationItem {
            version: 1,
            state: self.state.message() as u32,
            stage: self.stage,
            rank: self.rank,
            lease: self.lease.map(|lease| lease.to_vec()).unwrap_or_default(),
            leases: self.leases,
            failure,
            sequence_counter: self.channel.as_ref().map_or(0, |channel| {
                let [high, middle, low] = channel.counter;
                u32::from_be_bytes([0, high, middle, low])
            }),
            host_challenge: self
                .channel
                .as_ref()
                .map(|channel| channel.host_challenge.clone())
                .unwrap_or_default(),
        };
        Change::put(ROTATION_ITEMS, Self::key(rotation, eid.bcd()), record.encode_to_vec())
    }
}

/// A rotation with its counts.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// As approved.
    pub terms: RotationTerms,
    /// What it is doing.
    pub state: RotationState,
    /// When it was started.
    pub started: Timestamp,
    pub(crate) record: records::Rotation,
    version: u64,
}

impl Rotation {
    pub(crate) fn new(terms: RotationTerms, now: Timestamp) -> Self {
        let stages = terms.stages.len();
        let record = records::Rotation {
            version: 1,
            terms: terms.encode(),
            started_micros: now.micros(),
            stage_devices: vec![0; stages],
            stage_ended: vec![0; stages],
            failed: vec![0; Failure::ALL.len()],
            ..records::Rotation::default()
        };
        Self { terms, state: RotationState::Preparing, started: now, record, version: 0 }
    }

    /// Reads a rotation.
    pub fn read(store: &dyn Store, name: &str) -> Result<Option<Self>, KmsError> {
        let row = store.get(ROTATIONS, name.as_bytes())?;
        row.map(|row| Self::decode(&row.value, row.version)).transpose()
    }

    /// Every rotation, by name.
    pub fn all(store: &dyn Store) -> Result<Vec<Self>, KmsError> {
        let rows = store.scan(ROTATIONS, &[], None, LISTED_MAX)?;
        rows.into_iter().map(|(_, row)| Self::decode(&row.value, row.version)).collect()
    }

    /// Reads a rotation that must exist, for `provisioner` if one is given: another party's does not exist for it.
    pub fn find(store: &dyn Store, name: &str, provisioner: Option<&str>) -> Result<Self, KmsError> {
        match Self::read(store, name)? {
            Some(rotation) if provisioner.is_none_or(|party| party == rotation.terms.provisioner) => {
                Ok(rotation)
            }
            _ => {
                Err(KmsError::refused(ReasonCode::UnknownRotation, "there is no rotation of this name", None))
            }
        }
    }

    fn decode(bytes: &[u8], version: u64) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("rotation");
        let mut record = records::Rotation::decode(bytes).map_err(|_| unreadable())?;
        let terms = RotationTerms::decode(&record.terms)?;
        let stages = terms.stages.len();
        if record.stage_devices.len() != stages || record.stage_ended.len() != stages {
            return Err(unreadable());
        }
        record.failed.resize(Failure::ALL.len(), 0);
        Ok(Self {
            state: RotationState::ALL
                .into_iter()
                .find(|state| state.as_str() == record.state)
                .ok_or_else(unreadable)?,
            started: Timestamp::from_micros(record.started_micros),
            terms,
            record,
            version,
        })
    }

    /// The write of what stands here and that nobody wrote since it was read.
    pub(crate) fn put(&self) -> (Change, Precondition) {
        let record = records::Rotation { state: self.state.as_str().to_owned(), ..self.record.clone() };
        let key = self.terms.name.as_bytes().to_vec();
        let precondition = match self.version {
            0 => Precondition::Absent { keyspace: ROTATIONS, key: key.clone() },
            version => Precondition::Version { keyspace: ROTATIONS, key: key.clone(), version },
        };
        (Change::put(ROTATIONS, key, record.encode_to_vec()), precondition)
    }

    /// Moves a device from one state to another in the counts.
    pub(crate) fn count(&mut self, item: &Item, to: ItemState) {
        let stage = item.stage as usize;
        let ended = &mut self.record.stage_ended[stage];
        match (item.state.has_ended(), to.has_ended()) {
            (false, true) => *ended += 1,
            (true, false) => *ended = ended.saturating_sub(1),
            _ => {}
        }
        let from = self.counter(item.state);
        *from = from.saturating_sub(1);
        *self.counter(to) += 1;
    }

    pub(crate) fn counter(&mut self, state: ItemState) -> &mut u64 {
        match state {
            ItemState::Pending => &mut self.record.pending,
            ItemState::Leased => &mut self.record.leased,
            ItemState::Loaded => &mut self.record.loaded,
            ItemState::Confirmed => &mut self.record.confirmed,
            ItemState::Failed(failure) => &mut self.record.failed[failure.place()],
            ItemState::RolledBack => &mut self.record.rolled_back,
            ItemState::Kept => &mut self.record.kept,
        }
    }

    /// Devices in all.
    pub fn devices(&self) -> u64 {
        self.record.stage_devices.iter().sum()
    }

    /// Devices that were confirmed.
    pub fn confirmed(&self) -> u64 {
        self.record.confirmed
    }

    /// Devices that failed.
    pub fn failed(&self) -> u64 {
        self.record.failed.iter().sum()
    }

    /// After devices ended: does it halt, does the next stage begin, is it complete? Pure.
    pub(crate) fn advance(&mut self) {
        if self.state != RotationState::Running {
            return;
        }
        let stage_ends = |record: &records::Rotation| {
            let stage = record.stage as usize;
            record.stage_ended[stage] >= record.stage_devices[stage]
        };
        let ended: u64 = self.record.stage_ended.iter().sum();
        let due = ended >= self.record.weighed_at + WEIGHED_EVERY
            || stage_ends(&self.record) && ended > self.record.weighed_at;
        if due {
            self.record.weighed_at = ended;
            if self.failed() * 100 > u64::from(self.terms.halt_failures_percent) * ended {
                self.state = RotationState::Halted;
                return;
            }
        }
        while stage_ends(&self.record) {
            if self.record.stage as usize + 1 == self.terms.stages.len() {
                self.state = RotationState::Completed;
                return;
            }
            self.record.stage += 1;
        }
    }

    /// The highest rank (exclusive) whose devices may have scripts.
    pub(crate) fn rank_limit(&self) -> u32 {
        self.terms.stages[self.record.stage as usize] * (super::terms::RANKS / 100)
    }

    /// As a message.
    pub fn status(&self) -> v1::RotationStatus {
        let record = &self.record;
        v1::RotationStatus {
            terms: Some(self.terms.message().clone()),
            state: self.state.message().into(),
            devices: self.devices(),
            stage: record.stage,
            pending: record.pending,
            leased: record.leased,
            loaded: record.loaded,
            confirmed: record.confirmed,
            failed: self.failed(),
            failures: Failure::ALL
                .into_iter()
                .zip(&record.failed)
                .filter(|(_, devices)| **devices > 0)
                .map(|(failure, devices)| v1::FailureCount {
                    reason: failure.as_str().to_owned(),
                    devices: *devices,
                })
                .collect(),
            started: Some(prost_types::Timestamp { seconds: self.started.seconds(), nanos: 0 }),
            rolled_back: record.rolled_back,
            kept: record.kept,
        }
    }
}

pub(crate) fn prefix(rotation: &str) -> Vec<u8> {
    let mut prefix = rotation.as_bytes().to_vec();
    // Names hold no zero byte, so no rotation's prefix is another's.
    prefix.push(0);
    prefix
}
