//! Fleets that move in: devices in the field whose keys another authority made. Either it derived them, from a master that came
//! by a ceremony, or the keys themselves come, under a key of their manufacturer that came by one. The devices become registered
//! under the quota of their manufacturer; no key is made and none leaves.

use audit::{EntryDraft, Fact, Outcome, Pseudonyms};
use domain::{
    DeviceState, KeyCheckValue, KeyState, KeysetAlgorithm, MasterGeneration, Protocol, ReasonCode, Refusal,
    Role, Timestamp,
};
use hsm::{IncomingDevice, IncomingForm, IncomingJob, IncomingOutcome, KeySource, SourcedKeyset};
use keys::derivation::{Scheme, SchemeName};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store};

use crate::devices::{DeviceRecord, KeysetRecord};
use crate::keyset_source::{KeysetSource, StoredOrigin};
use crate::keysets::{check_master, check_transport};
use crate::keyspaces::{DEVICES, FROZEN, KEYSETS, ORDER_LINES, ORDERS};
use crate::orders::{OrderLine, OrderTerms, Orders};
use crate::session_keys::algorithm_name;
use crate::storage_keys::StorageEpoch;
use crate::transport_keys::{TransportKey, TransportMaterial};
use crate::{Engines, KmsError};

/// What a keyset that came from elsewhere is delivered under: nobody here knows.
const DELIVERED_ELSEWHERE: &str = "elsewhere";
/// Octets of a wrapped key or cell: from a cell of 16 to the AES-KWP of 32.
const WRAPPED_OCTETS: std::ops::RangeInclusive<usize> = 16..=40;

/// A fleet that moves in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// How its keys come.
    pub keys: FleetKeys,
    /// The devices are registered already, and in no use yet: each gets one more keyset that it has in the field.
    pub further_keysets: bool,
}

/// How the keys of a fleet come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FleetKeys {
    /// They were derived, and are derived again.
    Derived {
        /// The scheme.
        scheme: SchemeName,
        /// Generation of the master.
        generation: MasterGeneration,
    },
    /// Themselves, under an import key of the manufacturer.
    Imported {
        /// Name of the import key.
        name: String,
        /// Its version.
        number: u32,
        /// Column keys of pySim's CSV, wrapped; none when the keys are wrapped themselves.
        columns: Vec<Vec<u8>>,
    },
}

/// One device that moves in.
#[derive(Clone, Debug)]
pub struct MovingDevice {
    /// Its line.
    pub line: OrderLine,
    origin: Origin,
    /// The check values that its keys are known to have; empty: not compared.
    expected: Vec<KeyCheckValue>,
}

#[derive(Clone, Debug)]
enum Origin {
    Scheme(Scheme),
    Keys(Vec<Vec<u8>>),
}

/// What the token found of a device's keys.
#[derive(Clone, Debug)]
pub struct MovedIn {
    /// Its line.
    pub line: OrderLine,
    /// The check values of its keys.
    pub check_values: Vec<KeyCheckValue>,
    source: KeysetSource,
}

impl Fleet {
    /// Whether the key behind the fleet is there, serves it, and is known to nobody else; and whether such keys exist.
    pub(crate) fn check(
        &self,
        engines: &Engines,
        party: &str,
        terms: &OrderTerms,
        now: Timestamp,
    ) -> Result<(), KmsError> {
        let store = engines.store.as_ref();
        let is_triple_des = !terms.algorithm.may_be_made();
        // SCP02 knows 3DES alone, SCP03 and TLS-PSK keys are AES keys; OTA packets know both.
        let fits_protocol = match terms.keyset.protocol {
            Protocol::Scp02 => is_triple_des,
            Protocol::Scp03 | Protocol::Scp81 => !is_triple_des,
            Protocol::Scp80 => true,
        };
        let refused = |reason, message: String| Err(KmsError::refused(reason, message, None));
        if !fits_protocol {
            let (protocol, algorithm) = (terms.keyset.protocol.as_str(), terms.algorithm.as_str());
            return refused(ReasonCode::InvalidField, format!("{protocol} has no keys of {algorithm}"));
        }
        match &self.keys {
            FleetKeys::Derived { scheme, generation } => {
                engines.masters.check_scheme(store, *generation, scheme.as_str())?;
                check_master(store, *generation)?;
                let fits = if scheme.is_triple_des() {
                    terms.algorithm == KeysetAlgorithm::TripleDes2Key
                } else {
                    terms.algorithm.may_be_made()
                };
                if !fits {
                    let message =
                        format!("{} makes no keys of {}", scheme.as_str(), terms.algorithm.as_str());
                    return refused(ReasonCode::InvalidField, message);
                }
            }
            FleetKeys::Imported { name, number, columns } => {
                let key = TransportKey::version(store, party, name, *number, now)?;
                check_transport(store, &key.digest())?;
                import_key(&key)?;
                StorageEpoch::newest(store)?;
                if columns.is_empty() {
                    return Ok(());
                }
                if engines.token.is_inside_only() {
                    let message = "this authority's token takes no cells of pySim's CSV".to_owned();
                    return refused(ReasonCode::FormatRefused, message);
                }
                let (keys, bytes) = (terms.keyset.protocol.usages().len(), terms.algorithm.key_bytes());
                if columns.len() != keys || !bytes.is_multiple_of(16) {
                    let message =
                        format!("cells are of whole blocks, under one column key for each of {keys} keys");
                    return refused(ReasonCode::InvalidField, message);
                }
            }
        }
        Ok(())
    }

    /// Its part of an order's record.
    pub(crate) fn record(&self, record: &mut records::Order) {
        match &self.keys {
            FleetKeys::Derived { scheme, generation } => {
                record.fleet_scheme = scheme.as_str().to_owned();
                record.fleet_master_generation = generation.0;
            }
            FleetKeys::Imported { name, number, columns } => {
                record.fleet_import_key.clone_from(name);
                record.fleet_import_key_number = *number;
                if !columns.is_empty() {
                    let mut hasher = Sha256::new();
                    columns.iter().for_each(|column| hasher.update(column));
                    record.fleet_column_keys = hasher.finalize().to_vec();
                }
            }
        }
        record.further_keysets = self.further_keysets;
    }

    fn form(columns: &[Vec<u8>]) -> IncomingForm {
        if columns.is_empty() { IncomingForm::Kwp } else { IncomingForm::PysimCells(columns.to_vec()) }
    }
}

impl Orders<'_> {
    /// Parses what a line says of a device that moves in.
    pub fn moving_device(
        &self,
        fleet: &Fleet,
        line: OrderLine,
        (scheme_inputs, wrapped_keys): (&[u8], &[Vec<u8>]),
        check_values: &[u8],
    ) -> Result<MovingDevice, Refusal> {
        let invalid = |message: String| Err(Refusal::new(ReasonCode::InvalidField, message));
        let keys = self.terms.keyset.protocol.usages().len();
        let origin = match &fleet.keys {
            FleetKeys::Derived { .. } if !wrapped_keys.is_empty() => {
                return invalid("the keys of this fleet are derived: the line has none".to_owned());
            }
            FleetKeys::Derived { scheme, .. } => match Scheme::parse(*scheme, scheme_inputs) {
                Ok(scheme) => Origin::Scheme(scheme),
                Err(error) => return invalid(error.to_string()),
            },
            FleetKeys::Imported { .. } => {
                let fits = |key: &Vec<u8>| WRAPPED_OCTETS.contains(&key.len());
                if !scheme_inputs.is_empty() || wrapped_keys.len() != keys || !wrapped_keys.iter().all(fits) {
                    return invalid(format!(
                        "the line has {keys} wrapped keys of 16 to 40 octets, nothing else"
                    ));
                }
                Origin::Keys(wrapped_keys.to_vec())
            }
        };
        let (expected, rest) = check_values.as_chunks::<3>();
        if !rest.is_empty() || !(expected.is_empty() || expected.len() == keys) {
            return invalid(format!("check_values has three octets for each of {keys} keys, or is empty"));
        }
        Ok(MovingDevice { line, origin, expected: expected.iter().copied().map(KeyCheckValue).collect() })
    }

    /// What the token finds of the devices' keys, or why a device cannot move in; in their order.
    pub async fn look_at(
        &self,
        fleet: &Fleet,
        devices: &[MovingDevice],
        now: Timestamp,
        options: hsm::CallOptions,
    ) -> Result<Vec<Result<MovedIn, Refusal>>, KmsError> {
        let found = match &fleet.keys {
            FleetKeys::Derived { generation, .. } => self.derived(*generation, devices, options).await?,
            FleetKeys::Imported { name, number, columns } => {
                let store = self.engines.store.as_ref();
                let key = TransportKey::version(store, &self.manufacturer.name, name, *number, now)?;
                self.imported(&key, columns, devices, options).await?
            }
        };
        let judged = devices.iter().zip(found).map(|(device, found)| {
            let (check_values, source) = found?;
            device.compare(&check_values)?;
            if self.engines.refuses_published_keys && is_published(self.terms.algorithm, &check_values) {
                let message = "one of its keys is a published test or default key";
                return Err(Refusal::new(ReasonCode::WeakKey, message));
            }
            Ok(MovedIn { line: device.line, check_values, source })
        });
        Ok(judged.collect())
    }

    async fn derived(
        &self,
        generation: MasterGeneration,
        devices: &[MovingDevice],
        options: hsm::CallOptions,
    ) -> Result<Vec<Found>, KmsError> {
        let master = self.engines.master(generation)?;
        let name = self.terms.keyset;
        let mut keysets = Vec::with_capacity(devices.len());
        let mut sources = Vec::with_capacity(devices.len());
        for device in devices {
            let Origin::Scheme(scheme) = &device.origin else { return Err(KmsError::Record("fleet")) };
            keysets.push(SourcedKeyset {
                keyset: domain::DeviceKeyset {
                    eid: device.line.eid,
                    protocol: name.protocol,
                    security_domain: name.security_domain,
                    kvn: name.kvn,
                    algorithm: self.terms.algorithm,
                },
                source: KeySource::Derived { master: master.clone(), scheme: scheme.clone() },
            });
            sources.push(KeysetSource::Derived { generation, scheme: scheme.clone() });
        }
        let check_values = self.engines.token.check_values(keysets, options).await?;
        Ok(check_values.into_iter().zip(sources).map(Ok).collect())
    }

    async fn imported(
        &self,
        key: &TransportKey,
        columns: &[Vec<u8>],
        devices: &[MovingDevice],
        options: hsm::CallOptions,
    ) -> Result<Vec<Found>, KmsError> {
        let newest = StorageEpoch::newest(self.engines.store.as_ref())?;
        let incoming = devices.iter().map(|device| match &device.origin {
            Origin::Keys(keys) => Ok(IncomingDevice::new(&device.line.eid, keys.clone())),
            Origin::Scheme(_) => Err(KmsError::Record("fleet")),
        });
        let job = IncomingJob {
            under: import_key(key)?,
            storage: newest.keys,
            form: Fleet::form(columns),
            protocol: self.terms.keyset.protocol,
            security_domain: self.terms.keyset.security_domain,
            kvn: self.terms.keyset.kvn,
            algorithm: self.terms.algorithm,
            devices: incoming.collect::<Result<_, _>>()?,
        };
        let outcomes = match self.engines.token.take_in(job, options).await {
            // Of a whole job only a column key can be that.
            Err(error) if error.class == hsm::ErrorClass::Blob => {
                let message = "a column key does not open under the import key";
                return Err(KmsError::refused(ReasonCode::InvalidField, message, None));
            }
            other => other?,
        };
        let found = outcomes.into_iter().map(|outcome| match outcome {
            IncomingOutcome::Stored(keys) => {
                let (blobs, check_values) = keys.into_iter().unzip();
                let origin = StoredOrigin::Imported;
                Ok((check_values, KeysetSource::Stored { origin, epoch: newest.epoch, blobs }))
            }
            IncomingOutcome::NotOpened => {
                let message = "its keys do not open under the import key, or have another length";
                Err(Refusal::new(ReasonCode::InvalidField, message))
            }
        });
        Ok(found.collect())
    }

    /// The commit that registers devices and their keysets, with what the token found.
    pub fn move_in(
        &self,
        pseudonyms: &Pseudonyms,
        fleet: &Fleet,
        devices: &[MovedIn],
        now: Timestamp,
    ) -> Result<Commit, KmsError> {
        let store = self.engines.store.as_ref();
        let mut commit = Commit { entries: vec![], changes: vec![], preconditions: vec![] };
        let under = match &fleet.keys {
            FleetKeys::Derived { .. } => None,
            FleetKeys::Imported { name, number, .. } => {
                let key = TransportKey::version(store, &self.manufacturer.name, name, *number, now)?;
                commit.preconditions.push(key.unchanged());
                Some(key)
            }
        };
        for device in devices {
            self.take_place(store, fleet, &device.line, &mut commit)?;
            self.record_keyset(pseudonyms, fleet, device, (under.as_ref(), now), &mut commit);
        }
        if !fleet.further_keysets {
            let (change, precondition) = self.take_quota(devices.len())?;
            commit.changes.push(change);
            commit.preconditions.push(precondition);
        }
        // The order has no chunk: nothing of it leaves. Its terms stand from the first device on.
        if self.record()?.is_none() {
            let key = self.order_key();
            commit.preconditions.push(Precondition::Absent { keyspace: ORDERS, key: key.clone() });
            commit.changes.push(Change::put(ORDERS, key, self.new_record().encode_to_vec()));
        }
        Ok(commit)
    }

    /// That the device is new, and the writes that register it; or, for a further keyset, that it is there without it.
    fn take_place(
        &self,
        store: &dyn Store,
        fleet: &Fleet,
        line: &OrderLine,
        commit: &mut Commit,
    ) -> Result<(), KmsError> {
        let key = line.eid.bcd().to_vec();
        if fleet.further_keysets {
            let device = DeviceRecord::read(store, &line.eid)?.ok_or(KmsError::Record("device"))?;
            commit.preconditions.push(device.unchanged(&line.eid));
            // The row of the device does not tell whether it is frozen, the set of the frozen ones does.
            commit.preconditions.push(Precondition::Absent { keyspace: FROZEN, key });
            let key = self.terms.keyset.row_key(&line.eid);
            commit.preconditions.push(Precondition::Absent { keyspace: KEYSETS, key });
        } else {
            commit.preconditions.push(Precondition::Absent { keyspace: DEVICES, key });
            let record = self.device(line, Some(DeviceState::Registered));
            commit.changes.push(Change::put(DEVICES, *line.eid.bcd(), record.encode(&line.eid)));
        }
        Ok(())
    }

    fn record_keyset(
        &self,
        pseudonyms: &Pseudonyms,
        fleet: &Fleet,
        device: &MovedIn,
        (under, now): (Option<&TransportKey>, Timestamp),
        commit: &mut Commit,
    ) {
        let (line, name) = (&device.line, self.terms.keyset);
        // The way to the card is not known here; the way to us is, and bounds what the keys are worth.
        let own = self.terms.algorithm.strength_bits();
        let keyset = KeysetRecord {
            algorithm: self.terms.algorithm,
            state: KeyState::PreActivation,
            source: device.source.clone(),
            delivered_under: under.map_or_else(|| DELIVERED_ELSEWHERE.to_owned(), TransportKey::identifier),
            effective_strength: under.map_or(own, |key| own.min(key.strength())),
            check_values: device.check_values.clone(),
            created: now,
            rotation: None,
            ends: None,
            taint: None,
            version: 0,
        };
        commit.changes.push(Change::put(KEYSETS, name.row_key(&line.eid), keyset.encode()));
        let answered = records::OrderLine {
            version: 1,
            request_digest: line.digest.to_vec(),
            // The answer of a line sent again.
            serial_number: octets(&device.check_values),
        };
        commit.changes.push(Change::put(ORDER_LINES, self.line_key(line.line), answered.encode_to_vec()));
        let mut entry = EntryDraft::new(self.terms.devices.event(), Outcome::Done)
            .role(Role::Eum)
            .actor(pseudonyms.principal(&self.manufacturer.principal))
            .object(pseudonyms.device(&line.eid))
            .request(line.digest)
            .fact("order", Fact::Pseudonym(pseudonyms.order(&self.order_name())))
            .fact("line", Fact::Number(line.line))
            .fact("kvn", Fact::Number(u64::from(name.kvn.value())))
            .fact("protocol", Fact::fixed_name(name.protocol.as_str()))
            .fact("security_domain", Fact::fixed_name(name.security_domain.as_str()))
            .fact("algorithm", algorithm_name(self.terms.algorithm))
            .fact("mode", Fact::fixed_name(keyset.source.mode()))
            .fact("effective_strength", Fact::Number(u64::from(keyset.effective_strength)));
        entry = match (&fleet.keys, under) {
            (FleetKeys::Derived { scheme, generation }, _) => entry
                .fact("scheme", Fact::fixed_name(scheme.as_str()))
                .fact("generation", Fact::Number(u64::from(generation.0))),
            (FleetKeys::Imported { .. }, under) => {
                let epoch = keyset.source.epoch().map_or(0, |epoch| epoch.0);
                let entry = entry.fact("epoch", Fact::Number(u64::from(epoch)));
                match under {
                    Some(key) => entry.fact("transport_key", Fact::Digest(key.digest())),
                    None => entry,
                }
            }
        };
        commit.entries.push(entry);
    }
}

/// Check values and where the keys are now, or why there are none.
type Found = Result<(Vec<KeyCheckValue>, KeysetSource), Refusal>;

impl MovingDevice {
    /// Whether the keys are those that the manufacturer knows.
    fn compare(&self, found: &[KeyCheckValue]) -> Result<(), Refusal> {
        if self.expected.is_empty() || self.expected == found {
            return Ok(());
        }
        let message = format!(
            "its keys have the check values {}, not those of the line: another key, scheme or input",
            hex::encode(octets(found))
        );
        Err(Refusal::new(ReasonCode::InvalidField, message))
    }
}

/// The key on the token under which keys come in.
fn import_key(key: &TransportKey) -> Result<hsm::KeyRef, KmsError> {
    match &key.material {
        TransportMaterial::Import { key, .. } => Ok(key.clone()),
        TransportMaterial::Aes { .. } | TransportMaterial::Rsa(_) => Err(KmsError::refused(
            ReasonCode::InvalidField,
            format!("{} is no import key: keys leave under it, none come in", key.name),
            None,
        )),
    }
}

/// Whether one of the check values is that of a published AES key. Three octets: one key in two million is refused wrongly.
fn is_published(algorithm: KeysetAlgorithm, check_values: &[KeyCheckValue]) -> bool {
    algorithm.may_be_made()
        && hsm::ceremony::published_check_values(algorithm.key_bytes())
            .iter()
            .any(|published| check_values.contains(published))
}

/// Check values one after the other.
pub fn octets(check_values: &[KeyCheckValue]) -> Vec<u8> {
    check_values.iter().flat_map(|value| value.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_keys_of_globalplatform_are_published_and_others_are_not() {
        // AES of 16 bytes of 01 under 40 41 ... 4F.
        let default = KeyCheckValue([0x50, 0x4a, 0x77]);
        let other = KeyCheckValue([1, 2, 3]);
        assert!(is_published(KeysetAlgorithm::Aes128, &[other, default]));
        assert!(!is_published(KeysetAlgorithm::Aes128, &[other]));
        assert!(!is_published(KeysetAlgorithm::TripleDes2Key, &[default]));
    }
}
