//! Devices and their keysets: stored records as types.

use domain::{
    DeviceState, Eid, KeyCheckValue, KeyState, KeyVersionNumber, KeysetAlgorithm, MasterGeneration, Protocol,
    SecurityDomain, Timestamp,
};
use prost::Message;
use proto::records;
use store::Store;

use crate::KmsError;
use crate::keyspaces::{DEVICES, KEYSETS};

/// Name of our own derivation scheme in keyset records.
pub(crate) const SCHEME: &str = "chancery-cmac-v1";

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
    /// Version of the row, for preconditions.
    pub version: u64,
}

impl DeviceRecord {
    /// Reads a device.
    pub fn read(store: &dyn Store, eid: &Eid) -> Result<Option<Self>, KmsError> {
        let Some(row) = store.get(DEVICES, eid.bcd())? else { return Ok(None) };
        let record = records::Device::decode(&*row.value).map_err(|_| KmsError::Record("device"))?;
        Ok(Some(Self {
            state: read_device_state(&record.state)?,
            eum: record.eum,
            order: record.order,
            line: record.line,
            version: row.version,
        }))
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

/// A derived keyset and the version of its row.
#[derive(Clone, Debug)]
pub struct KeysetRecord {
    /// Length of its keys.
    pub algorithm: KeysetAlgorithm,
    /// SP 800-57 state.
    pub state: KeyState,
    /// The master it is derived from.
    pub master_generation: MasterGeneration,
    /// The key under which it was delivered.
    pub delivered_under: String,
    /// What it is worth in bits, given how it was delivered.
    pub effective_strength: u32,
    /// Check values of ENC, MAC and DEK.
    pub check_values: [KeyCheckValue; 3],
    /// When it was made.
    pub created: Timestamp,
    /// Version of the row, for preconditions.
    pub version: u64,
}

impl KeysetRecord {
    /// Reads a keyset.
    pub fn read(store: &dyn Store, eid: &Eid, name: &KeysetName) -> Result<Option<Self>, KmsError> {
        let Some(row) = store.get(KEYSETS, &name.row_key(eid))? else { return Ok(None) };
        let unreadable = || KmsError::Record("keyset");
        let record = records::Keyset::decode(&*row.value).map_err(|_| unreadable())?;
        if record.scheme != SCHEME {
            return Err(unreadable());
        }
        let check = |bytes: &[u8]| <[u8; 3]>::try_from(bytes).map(KeyCheckValue).map_err(|_| unreadable());
        Ok(Some(Self {
            algorithm: KeysetAlgorithm::from_code(record.key_bits).map_err(|_| unreadable())?,
            state: KeyState::ALL.into_iter().find(|s| s.as_str() == record.state).ok_or_else(unreadable)?,
            master_generation: MasterGeneration(record.master_generation),
            delivered_under: record.delivered_under,
            effective_strength: record.effective_strength,
            check_values: [check(&record.kcv_enc)?, check(&record.kcv_mac)?, check(&record.kcv_dek)?],
            created: Timestamp::from_micros(record.created_micros),
            version: row.version,
        }))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let [enc, mac, dek] = self.check_values.map(|kcv| kcv.0.to_vec());
        records::Keyset {
            version: 1,
            key_bits: u32::from(self.algorithm.key_bits()),
            state: self.state.as_str().to_owned(),
            master_generation: self.master_generation.0,
            scheme: SCHEME.to_owned(),
            delivered_under: self.delivered_under.clone(),
            effective_strength: self.effective_strength,
            kcv_enc: enc,
            kcv_mac: mac,
            kcv_dek: dek,
            created_micros: self.created.micros(),
        }
        .encode_to_vec()
    }
}

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
