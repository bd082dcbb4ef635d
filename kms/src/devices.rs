//! Devices and their keysets: stored records as types.

use domain::{
    DeviceState, Eid, FreezeReason, KeyCheckValue, KeyState, KeyVersionNumber, KeysetAlgorithm,
    MasterGeneration, Protocol, ReasonCode, Refusal, SecurityDomain, Timestamp, UnknownCode,
};
use prost::Message;
use proto::{records, v1};
use store::{Precondition, Store, Versioned};

use crate::KmsError;
use crate::keyset_source::KeysetSource;
use crate::keysets::{Marks, Taint};
use crate::keyspaces::{DEVICES, FROZEN, KEYSETS};

/// Which keyset of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeysetName {
    /// The security domain on the card.
    pub security_domain: SecurityDomain,
    /// The protocol it serves.
    pub protocol: Protocol,
    /// The key version number on the card.
    pub kvn: KeyVersionNumber,
}

impl KeysetName {
    /// Reads the name in a message.
    pub fn parse(message: Option<&v1::KeysetName>) -> Result<Self, Refusal> {
        let invalid = |e: UnknownCode| Refusal::new(ReasonCode::InvalidField, e.to_string());
        let message =
            message.ok_or_else(|| Refusal::new(ReasonCode::InvalidField, "the keyset is missing"))?;
        let protocol = Protocol::from_code(message.protocol).map_err(invalid)?;
        Ok(Self {
            security_domain: SecurityDomain::from_code(message.security_domain).map_err(invalid)?,
            protocol,
            kvn: KeyVersionNumber::new(protocol, message.key_version_number).map_err(invalid)?,
        })
    }

    /// As a message.
    pub fn message(&self) -> v1::KeysetName {
        v1::KeysetName {
            security_domain: u32::from(self.security_domain.code()),
            protocol: u32::from(self.protocol.code()),
            key_version_number: u32::from(self.kvn.value()),
        }
    }

    /// The keyset of the same domain and protocol under another key version number.
    #[must_use]
    pub const fn with_kvn(self, kvn: KeyVersionNumber) -> Self {
        Self { kvn, ..self }
    }

    /// Reads the last three bytes of a row key.
    pub(crate) fn of_codes(codes: &[u8]) -> Option<Self> {
        let [security_domain, protocol, kvn] = *codes else { return None };
        let protocol = Protocol::from_code(protocol.into()).ok()?;
        Some(Self {
            security_domain: SecurityDomain::from_code(security_domain.into()).ok()?,
            protocol,
            kvn: KeyVersionNumber::new(protocol, kvn.into()).ok()?,
        })
    }

    pub(crate) fn row_key(&self, eid: &Eid) -> Vec<u8> {
        let mut key = eid.bcd().to_vec();
        key.extend([self.security_domain.code(), self.protocol.code(), self.kvn.value()]);
        key
    }
}

/// A device and the version of its row.
#[derive(Clone, Debug)]
pub struct DeviceRecord {
    /// Its state; none while its order is being carried out.
    pub state: Option<DeviceState>,
    /// The manufacturer's name.
    pub eum: String,
    /// Its order and line there.
    pub order: String,
    /// See [`Self::order`].
    pub line: u64,
    /// Present while it is frozen.
    pub freeze: Option<Freeze>,
    /// Version of the row, for preconditions.
    pub version: u64,
}

/// Why, by whom and since when a device is frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The reason.
    pub reason: FreezeReason,
    /// The report it rests on.
    pub reference: String,
    /// Name of the person.
    pub person: String,
    /// When.
    pub time: Timestamp,
    /// The state to which a restore returns.
    pub state_before: DeviceState,
}

impl DeviceRecord {
    /// Reads a device.
    pub fn read(store: &dyn Store, eid: &Eid) -> Result<Option<Self>, KmsError> {
        let Some(row) = store.get(DEVICES, eid.bcd())? else { return Ok(None) };
        let record = records::Device::decode(&*row.value).map_err(|_| KmsError::Record("device"))?;
        // The frozen set decides, whatever the row says; a row that says frozen without it is as frozen.
        let frozen = store.get(FROZEN, eid.bcd())?;
        let freeze = frozen.map(|row| Freeze::decode(&row.value)).transpose()?;
        let state =
            if freeze.is_some() { Some(DeviceState::Frozen) } else { read_device_state(&record.state)? };
        Ok(Some(Self {
            state,
            eum: record.eum,
            order: record.order,
            line: record.line,
            freeze,
            version: row.version,
        }))
    }

    /// That the device is still as it was read.
    pub(crate) fn unchanged(&self, eid: &Eid) -> Precondition {
        Precondition::Version { keyspace: DEVICES, key: eid.bcd().to_vec(), version: self.version }
    }

    pub(crate) fn encode(&self, eid: &Eid) -> Vec<u8> {
        records::Device {
            version: 1,
            eid: eid.bcd().to_vec(),
            eum: self.eum.clone(),
            state: self.state.map_or(RESERVED, DeviceState::as_str).to_owned(),
            order: self.order.clone(),
            line: self.line,
        }
        .encode_to_vec()
    }
}

impl Freeze {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("freeze");
        let record = records::Freeze::decode(bytes).map_err(|_| unreadable())?;
        Ok(Self {
            reason: FreezeReason::ALL
                .into_iter()
                .find(|reason| reason.as_str() == record.reason)
                .ok_or_else(unreadable)?,
            reference: record.reference,
            person: record.person,
            time: Timestamp::from_micros(record.time_micros),
            state_before: read_device_state(&record.state_before)?.ok_or_else(unreadable)?,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        records::Freeze {
            version: 1,
            reason: self.reason.as_str().to_owned(),
            reference: self.reference.clone(),
            person: self.person.clone(),
            time_micros: self.time.micros(),
            state_before: self.state_before.as_str().to_owned(),
        }
        .encode_to_vec()
    }
}

/// A keyset and the version of its row.
#[derive(Clone, Debug)]
pub struct KeysetRecord {
    /// Length of its keys.
    pub algorithm: KeysetAlgorithm,
    /// SP 800-57 state.
    pub state: KeyState,
    /// Where its keys come from.
    pub source: KeysetSource,
    /// The key under which it was delivered.
    pub delivered_under: String,
    /// What it is worth in bits, given how it was delivered.
    pub effective_strength: u32,
    /// Check values of its keys, in the order of [`Protocol::usages`].
    pub check_values: Vec<KeyCheckValue>,
    /// When it was made.
    pub created: Timestamp,
    /// The rotation that made it and still waits for its proof.
    pub rotation: Option<String>,
    /// From then on it serves no session.
    pub ends: Option<Timestamp>,
    /// Present when a key behind it is known to others.
    pub taint: Option<Taint>,
    /// Version of the row, for preconditions.
    pub version: u64,
}

impl KeysetRecord {
    /// Reads a keyset, as the marks of compromised keys leave it.
    pub fn read(store: &dyn Store, eid: &Eid, name: &KeysetName) -> Result<Option<Self>, KmsError> {
        let Some(row) = store.get(KEYSETS, &name.row_key(eid))? else { return Ok(None) };
        let mut keyset = Self::decode(&row)?;
        Marks::load(store)?.apply(&mut keyset);
        Ok(Some(keyset))
    }

    /// The keysets of a device, in the order of domain, protocol and key version number.
    pub fn of_device(store: &dyn Store, eid: &Eid) -> Result<Vec<(KeysetName, Self)>, KmsError> {
        let unreadable = || KmsError::Record("keyset");
        let rows = store.scan(KEYSETS, eid.bcd(), None, KEYSETS_OF_DEVICE_MAX)?;
        let marks = Marks::load(store)?;
        rows.iter()
            .map(|(key, row)| {
                let name = KeysetName::of_codes(&key[16..]).ok_or_else(unreadable)?;
                let mut keyset = Self::decode(row)?;
                marks.apply(&mut keyset);
                Ok((name, keyset))
            })
            .collect()
    }

    /// Whether its keys are derived from this master.
    pub(crate) fn is_derived_from(&self, generation: MasterGeneration) -> bool {
        self.source.generation() == Some(generation)
    }

    /// Its state at a time: an end that has passed counts whether or not it was written down yet.
    pub fn state_at(&self, now: Timestamp) -> KeyState {
        match (self.state, self.ends) {
            (KeyState::Active | KeyState::PreActivation, Some(ends)) if ends <= now => KeyState::Deactivated,
            (state, _) => state,
        }
    }

    /// That the keyset is still as it was read.
    pub(crate) fn unchanged(&self, eid: &Eid, name: &KeysetName) -> Precondition {
        Precondition::Version { keyspace: KEYSETS, key: name.row_key(eid), version: self.version }
    }

    pub(crate) fn decode(row: &Versioned) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("keyset");
        let record = records::Keyset::decode(&*row.value).map_err(|_| unreadable())?;
        let check = |bytes: &[u8]| <[u8; 3]>::try_from(bytes).map(KeyCheckValue).map_err(|_| unreadable());
        Ok(Self {
            algorithm: KeysetAlgorithm::from_code(record.key_bits).map_err(|_| unreadable())?,
            state: KeyState::ALL.into_iter().find(|s| s.as_str() == record.state).ok_or_else(unreadable)?,
            source: KeysetSource::decode(&record).ok_or_else(unreadable)?,
            delivered_under: record.delivered_under,
            effective_strength: record.effective_strength,
            check_values: [&record.kcv_enc, &record.kcv_mac, &record.kcv_dek]
                .into_iter()
                .filter(|kcv| !kcv.is_empty())
                .map(|kcv| check(kcv))
                .collect::<Result<_, _>>()?,
            created: Timestamp::from_micros(record.created_micros),
            rotation: Some(record.rotation).filter(|name| !name.is_empty()),
            ends: (record.ends_micros != 0).then(|| Timestamp::from_micros(record.ends_micros)),
            taint: match record.tainted_by.as_slice() {
                [] => None,
                operation => Some(Taint {
                    operation: operation.try_into().map_err(|_| unreadable())?,
                    time: Timestamp::from_micros(record.tainted_micros),
                }),
            },
            version: row.version,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let kcv = |at: usize| self.check_values.get(at).map(|kcv| kcv.0.to_vec()).unwrap_or_default();
        let mut record = records::Keyset {
            version: 1,
            key_bits: u32::from(self.algorithm.key_bits()),
            state: self.state.as_str().to_owned(),
            delivered_under: self.delivered_under.clone(),
            effective_strength: self.effective_strength,
            kcv_enc: kcv(0),
            kcv_mac: kcv(1),
            kcv_dek: kcv(2),
            created_micros: self.created.micros(),
            rotation: self.rotation.clone().unwrap_or_default(),
            ends_micros: self.ends.map_or(0, Timestamp::micros),
            tainted_by: self.taint.map(|taint| taint.operation.to_vec()).unwrap_or_default(),
            tainted_micros: self.taint.map_or(0, |taint| taint.time.micros()),
            ..records::Keyset::default()
        };
        self.source.encode(&mut record);
        record.encode_to_vec()
    }
}

/// More keysets than the key version numbers of every domain and protocol allow.
const KEYSETS_OF_DEVICE_MAX: usize = 256;

/// The word in a device row between an order line's intent and its outcome.
const RESERVED: &str = "reserved";

fn read_device_state(text: &str) -> Result<Option<DeviceState>, KmsError> {
    if text == RESERVED {
        return Ok(None);
    }
    [DeviceState::Registered, DeviceState::Active, DeviceState::Frozen, DeviceState::Retired]
        .into_iter()
        .find(|state| state.as_str() == text)
        .map(Some)
        .ok_or(KmsError::Record("device"))
}
