//! Orders: the key side of the cycle in `docs/cycles/issuance.md`. A chunk is reserved, its keys are made in one job of
//! the token under one fresh transport key, its output is written, and then the devices are registered.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{
    DeviceState, Eid, Ein, KekEpoch, KeyState, KeysetAlgorithm, MasterGeneration, OrderFormat, PrincipalId,
    ReasonCode, Refusal, Role, Timestamp,
};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store};

use crate::devices::{DeviceRecord, KeysetName, KeysetRecord};
use crate::fleet::Fleet;
use crate::keyset_source::{KeysetSource, StoredOrigin};
use crate::keysets;
use crate::keyspaces::{DEVICES, DEVICES_ORDERED, FROZEN, KEYSETS, ORDER_LINES, ORDERS};
use crate::output::{self, Chunk};
use crate::receipt::check_values_digest;
use crate::session_keys::algorithm_name;
use crate::storage_keys::StorageEpoch;
use crate::{ChunkKeyPairs, Engines, KmsError, OutputFiles};

/// The manufacturer whose order it is, as its enrolment and its connection say.
#[derive(Clone, Debug)]
pub struct Manufacturer {
    /// Its name.
    pub name: String,
    /// The credential of this connection.
    pub principal: PrincipalId,
    /// The EID ranges delegated to it.
    pub eins: Vec<Ein>,
    /// How many devices it may order in all.
    pub quota: u64,
    /// Its RSA transport key: SubjectPublicKeyInfo, DER.
    pub transport_key: Vec<u8>,
    /// Size of the transport key's modulus.
    pub transport_key_bits: u32,
}

/// What every device of an order gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderTerms {
    /// Name, unique for the manufacturer.
    pub order: String,
    /// The issuer of the eUICC certificates.
    pub issuer: String,
    /// Their profile; empty for the issuer's own.
    pub certificate_profile: String,
    /// The keyset that is made.
    pub keyset: KeysetName,
    /// Length of its keys.
    pub algorithm: KeysetAlgorithm,
    /// The form in which they leave.
    pub format: OrderFormat,
    /// What is made, in the manufacturer's words; may be empty.
    pub product: String,
    /// For which devices.
    pub devices: OrderedDevices,
    /// How the keys are made.
    pub mode: KeyMode,
}

/// How an order's keys are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyMode {
    /// Derived from the newest master.
    Derived,
    /// At random, and stored under the newest storage keys.
    Random,
}

/// What an order finds and what it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderedDevices {
    /// Devices that nobody knows yet: they become registered, and certified, with their first keyset.
    New,
    /// Registered devices that are in no use yet: each gets one more keyset.
    Registered,
    /// Devices in the field, whose keys another authority made: nothing leaves.
    MovedIn(Fleet),
}

impl OrderedDevices {
    /// Under which event each line is recorded.
    pub const fn event(&self) -> EventType {
        if self.are_registered() { EventType::KeysetMade } else { EventType::DeviceRegistered }
    }

    /// Whether they are registered before, and get a keyset beside those they have.
    pub const fn are_registered(&self) -> bool {
        match self {
            Self::New => false,
            Self::Registered => true,
            Self::MovedIn(fleet) => fleet.further_keysets,
        }
    }
}

/// One line, parsed.
#[derive(Clone, Copy, Debug)]
pub struct OrderLine {
    /// Its number, from 1.
    pub line: u64,
    /// The device.
    pub eid: Eid,
    /// SHA-256 of the line's message.
    pub digest: [u8; 32],
}

/// What becomes of a line.
#[derive(Clone, Debug)]
pub enum LineCheck {
    /// It may be produced.
    New,
    /// It was produced before: the serial number of its certificate.
    Repeated(Vec<u8>),
    /// It is refused.
    Refused(Refusal),
}

/// A line whose reservation is durable.
#[derive(Clone, Copy, Debug)]
pub struct ReservedLine {
    /// The line.
    pub line: OrderLine,
    /// Version of its device row since the reservation.
    pub version: u64,
}

/// The keys of one chunk as they leave: ready-made output, nothing secret in clear.
#[derive(Debug)]
pub struct ChunkKeys {
    chunk: hsm::OrderChunk,
    made_from: MadeFrom,
}

/// From what the keys of a chunk were made.
#[derive(Clone, Copy, Debug)]
enum MadeFrom {
    Master(MasterGeneration),
    Epoch(KekEpoch),
}

impl MadeFrom {
    fn source(self, stored: &[hsm::StoredBlob]) -> KeysetSource {
        match self {
            Self::Master(generation) => KeysetSource::derived(generation),
            Self::Epoch(epoch) => {
                KeysetSource::Stored { origin: StoredOrigin::Made, epoch, blobs: stored.to_vec() }
            }
        }
    }
}

/// What was made for a chunk.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    /// The certificates' serial numbers, in the order of the lines; none for further keysets.
    pub serials: &'a [Vec<u8>],
    /// The keysets.
    pub keys: &'a ChunkKeys,
    /// The key pairs, where lines asked for some.
    pub key_pairs: Option<&'a ChunkKeyPairs>,
}

/// One order of one manufacturer.
pub struct Orders<'a> {
    pub(crate) engines: &'a Engines,
    pub(crate) manufacturer: &'a Manufacturer,
    pub(crate) terms: &'a OrderTerms,
}

impl<'a> Orders<'a> {
    /// Opens an order, new or begun before; its terms never change.
    pub fn open(
        engines: &'a Engines,
        manufacturer: &'a Manufacturer,
        terms: &'a OrderTerms,
        pseudonyms: &Pseudonyms,
        now: Timestamp,
    ) -> Result<Self, KmsError> {
        let orders = Self { engines, manufacturer, terms };
        if terms.format == OrderFormat::PysimCsv {
            check_cells(terms)?;
        }
        if engines.token.is_inside_only() && !terms.format.is_made_inside() {
            return Err(KmsError::refused(
                ReasonCode::FormatRefused,
                format!("this authority's token makes no order as {}", terms.format.as_str()),
                Some(pseudonyms.order(&terms.order)),
            ));
        }
        match &terms.devices {
            OrderedDevices::MovedIn(fleet) => fleet.check(engines, &manufacturer.name, terms, now)?,
            OrderedDevices::New | OrderedDevices::Registered => {
                let transport_key = Sha256::digest(&manufacturer.transport_key).into();
                let store = engines.store.as_ref();
                match terms.mode {
                    KeyMode::Derived => {
                        keysets::check_usable(store, engines.masters.newest(store)?.0, &transport_key)?;
                    }
                    KeyMode::Random => {
                        StorageEpoch::newest(store)?;
                        keysets::check_transport(store, &transport_key)?;
                    }
                }
            }
        }
        if let Some((record, _)) = orders.record()?
            && record
                != (records::Order {
                    chunks: record.chunks.clone(),
                    confirmed_digest: record.confirmed_digest.clone(),
                    ..orders.new_record()
                })
        {
            return Err(KmsError::refused(
                ReasonCode::IdempotencyKeyReused,
                "an order of this name has other terms",
                Some(pseudonyms.order(&terms.order)),
            ));
        }
        Ok(orders)
    }

    /// Whether a line may be produced. `taken` is how many lines of this chunk were accepted before it.
    pub fn check(&self, line: &OrderLine, taken: u64) -> Result<LineCheck, KmsError> {
        let store = self.engines.store.as_ref();
        if let Some(row) = store.get(ORDER_LINES, &self.line_key(line.line))? {
            let record =
                records::OrderLine::decode(&*row.value).map_err(|_| KmsError::Record("order line"))?;
            return Ok(if record.request_digest == line.digest {
                LineCheck::Repeated(record.serial_number)
            } else {
                refused(
                    ReasonCode::IdempotencyKeyReused,
                    "this line of the order was another device or key before",
                )
            });
        }
        if !self.manufacturer.eins.iter().any(|ein| line.eid.is_in(ein)) {
            return Ok(refused(ReasonCode::EidOutOfRange, "the EID is in no range delegated to you"));
        }
        if self.terms.devices.are_registered() {
            return self.check_registered(line);
        }
        if self.ordered()?.0 + taken >= self.manufacturer.quota {
            return Ok(refused(
                ReasonCode::QuotaExceeded,
                format!("the quota is {} devices", self.manufacturer.quota),
            ));
        }
        if store.get(DEVICES, line.eid.bcd())?.is_some() {
            return Ok(refused(
                ReasonCode::DuplicateDevice,
                "the device is registered or being made already",
            ));
        }
        Ok(LineCheck::New)
    }

    /// Once a device is in use, or frozen, its manufacturer adds nothing to it: a rotation does.
    fn check_registered(&self, line: &OrderLine) -> Result<LineCheck, KmsError> {
        let store = self.engines.store.as_ref();
        let device = DeviceRecord::read(store, &line.eid)?;
        let Some(device) = device.filter(|device| device.eum == self.manufacturer.name) else {
            return Ok(refused(ReasonCode::UnknownDevice, "you have registered no device of this EID"));
        };
        if device.state != Some(DeviceState::Registered) {
            return Ok(refused(
                ReasonCode::DeviceNotActive,
                "further keysets are ordered before a device is in use, and not while it is frozen",
            ));
        }
        if store.get(KEYSETS, &self.terms.keyset.row_key(&line.eid))?.is_some() {
            return Ok(refused(ReasonCode::DuplicateKeyset, "the device has this keyset already"));
        }
        Ok(LineCheck::New)
    }

    /// The lines of a chunk of further keysets as they stand now. Nothing of them is reserved: a derived keyset that nobody
    /// recorded is none.
    pub fn registered_lines(&self, lines: &[OrderLine]) -> Result<Vec<ReservedLine>, KmsError> {
        lines
            .iter()
            .map(|line| {
                let device = DeviceRecord::read(self.engines.store.as_ref(), &line.eid)?;
                let version = device.ok_or(KmsError::Record("device"))?.version;
                Ok(ReservedLine { line: *line, version })
            })
            .collect()
    }

    /// The writes that reserve devices and quota for a chunk, to be committed with the certificates' intents.
    pub fn reserve(&self, lines: &[OrderLine]) -> Result<(Vec<Change>, Vec<Precondition>), KmsError> {
        let mut changes = Vec::with_capacity(lines.len() + 1);
        let mut preconditions = Vec::with_capacity(lines.len() + 1);
        for line in lines {
            preconditions.push(Precondition::Absent { keyspace: DEVICES, key: line.eid.bcd().to_vec() });
            changes.push(Change::put(DEVICES, *line.eid.bcd(), self.device(line, None).encode(&line.eid)));
        }
        let (change, precondition) = self.take_quota(lines.len())?;
        changes.push(change);
        preconditions.push(precondition);
        Ok((changes, preconditions))
    }

    /// Has the token derive and wrap the keys of a chunk: one job, one fresh transport key.
    pub async fn make_keys(
        &self,
        lines: &[ReservedLine],
        options: hsm::CallOptions,
    ) -> Result<ChunkKeys, KmsError> {
        let store = self.engines.store.as_ref();
        let (made_from, order_keys) = match self.terms.mode {
            KeyMode::Derived => {
                let (generation, master) = self.engines.masters.newest(store)?;
                (MadeFrom::Master(generation), hsm::OrderKeys::Derived { master })
            }
            KeyMode::Random => {
                let newest = StorageEpoch::newest(store)?;
                (MadeFrom::Epoch(newest.epoch), hsm::OrderKeys::Random(newest.keys))
            }
        };
        let job = hsm::OrderChunkJob {
            keys: order_keys,
            protocol: self.terms.keyset.protocol,
            security_domain: self.terms.keyset.security_domain,
            kvn: self.terms.keyset.kvn,
            algorithm: self.terms.algorithm,
            recipient_spki: self.manufacturer.transport_key.clone(),
            eids: lines.iter().map(|l| l.line.eid).collect(),
            format: self.terms.format,
        };
        let chunk = self.engines.token.order_chunk(job, options).await?;
        Ok(ChunkKeys { chunk, made_from })
    }

    /// Writes the chunk's output file and returns the commit that registers its devices. Blocks on the disk.
    pub fn finish(
        &self,
        files: &OutputFiles,
        pseudonyms: &Pseudonyms,
        lines: &[ReservedLine],
        made: Made<'_>,
        now: Timestamp,
    ) -> Result<Commit, KmsError> {
        let Made { serials, keys, key_pairs } = made;
        let (mut record, version) = match self.record()? {
            Some((record, version)) => (record, Some(version)),
            None => (self.new_record(), None),
        };
        let number = record.chunks.len();
        let transport_key = format!("{}/{}/{number}", self.manufacturer.name, self.terms.order);
        let recipient: [u8; 32] = Sha256::digest(&self.manufacturer.transport_key).into();
        let chunk =
            Chunk { terms: self.terms, transport_key: &transport_key, recipient: &recipient, key_pairs };
        let content = output::render(&chunk, lines, &keys.chunk)?;
        let (file, digest) = files.write(&self.manufacturer.name, &self.terms.order, number, &content)?;

        let order = pseudonyms.order(&self.order_name());
        let actor = pseudonyms.principal(&self.manufacturer.principal);
        let strength = effective_strength(self.terms.algorithm, self.manufacturer.transport_key_bits);
        let mut commit = Commit { entries: vec![], changes: vec![], preconditions: vec![] };
        for (at, (reserved, blobs)) in lines.iter().zip(&keys.chunk.devices).enumerate() {
            let eid = &reserved.line.eid;
            commit.preconditions.push(Precondition::Version {
                keyspace: DEVICES,
                key: eid.bcd().to_vec(),
                version: reserved.version,
            });
            match &self.terms.devices {
                OrderedDevices::New | OrderedDevices::MovedIn(_) => {
                    let device = self.device(&reserved.line, Some(DeviceState::Registered));
                    commit.changes.push(Change::put(DEVICES, *eid.bcd(), device.encode(eid)));
                }
                OrderedDevices::Registered => {
                    let key = self.terms.keyset.row_key(eid);
                    commit.preconditions.push(Precondition::Absent { keyspace: KEYSETS, key });
                    // Not frozen meanwhile: the row of the device does not tell, the set of the frozen ones does.
                    let key = eid.bcd().to_vec();
                    commit.preconditions.push(Precondition::Absent { keyspace: FROZEN, key });
                }
            }
            let keyset = KeysetRecord {
                algorithm: self.terms.algorithm,
                state: KeyState::PreActivation,
                source: keys.made_from.source(&blobs.stored),
                delivered_under: transport_key.clone(),
                effective_strength: strength,
                check_values: blobs.keys.iter().map(|key| key.kcv).collect(),
                created: now,
                rotation: None,
                ends: None,
                taint: None,
                version: 0,
            };
            commit.changes.push(Change::put(KEYSETS, self.terms.keyset.row_key(eid), keyset.encode()));
            let line = records::OrderLine {
                version: 1,
                request_digest: reserved.line.digest.to_vec(),
                serial_number: serials.get(at).cloned().unwrap_or_default(),
            };
            commit.changes.push(Change::put(
                ORDER_LINES,
                self.line_key(reserved.line.line),
                line.encode_to_vec(),
            ));
            commit.entries.push(self.registered_entry(
                actor,
                pseudonyms.device(eid),
                order,
                reserved,
                &keyset.source,
                strength,
            ));
        }
        let made = key_pairs.map_or(0, |pairs| {
            lines.iter().filter(|reserved| pairs.public_key(reserved.line.line).is_some()).count() as u64
        });
        record.chunks.push(records::OrderChunk {
            file,
            digest: digest.to_vec(),
            devices: lines.len() as u64,
            first_line: lines.first().map_or(0, |reserved| reserved.line.line),
            check_values_digest: check_values_digest(
                lines
                    .iter()
                    .map(|l| &l.line.eid)
                    .zip(keys.chunk.devices.iter().map(|d| d.keys.iter().map(|key| key.kcv))),
            )
            .to_vec(),
            key_pairs: made,
        });
        let key = self.order_key();
        commit.preconditions.push(match version {
            Some(version) => Precondition::Version { keyspace: ORDERS, key: key.clone(), version },
            None => Precondition::Absent { keyspace: ORDERS, key: key.clone() },
        });
        commit.changes.push(Change::put(ORDERS, key, record.encode_to_vec()));
        commit.entries.push(
            EntryDraft::new(EventType::OrderChunkWritten, Outcome::Done)
                .role(Role::Eum)
                .actor(actor)
                .object(order)
                .fact("chunk", Fact::Number(number as u64))
                .fact("devices", Fact::Number(lines.len() as u64))
                .fact("output", Fact::Digest(digest))
                .fact("bytes", Fact::Number(content.len() as u64))
                .fact("format", Fact::fixed_name(self.terms.format.as_str()))
                .fact("key_pairs", Fact::Number(made))
                .fact("transport_key", Fact::Digest(recipient)),
        );
        Ok(commit)
    }

    /// The writes that give back what a chunk reserved when it cannot be finished.
    pub fn release(&self, lines: &[ReservedLine]) -> Result<(Vec<Change>, Vec<Precondition>), KmsError> {
        let (ordered, version) = self.ordered()?;
        let (change, precondition) = self.count(ordered.saturating_sub(lines.len() as u64), version);
        let mut changes = vec![change];
        let mut preconditions = vec![precondition];
        for line in lines {
            let key = line.line.eid.bcd().to_vec();
            changes.push(Change::delete(DEVICES, key.clone()));
            preconditions.push(Precondition::Version { keyspace: DEVICES, key, version: line.version });
        }
        Ok((changes, preconditions))
    }

    fn registered_entry(
        &self,
        actor: Pseudonym,
        device: Pseudonym,
        order: Pseudonym,
        reserved: &ReservedLine,
        source: &KeysetSource,
        strength: u32,
    ) -> EntryDraft {
        let entry = EntryDraft::new(self.terms.devices.event(), Outcome::Done)
            .role(Role::Eum)
            .actor(actor)
            .object(device)
            .request(reserved.line.digest)
            .fact("order", Fact::Pseudonym(order))
            .fact("line", Fact::Number(reserved.line.line))
            .fact("kvn", Fact::Number(u64::from(self.terms.keyset.kvn.value())))
            .fact("protocol", Fact::fixed_name(self.terms.keyset.protocol.as_str()))
            .fact("security_domain", Fact::fixed_name(self.terms.keyset.security_domain.as_str()))
            .fact("algorithm", algorithm_name(self.terms.algorithm))
            .fact("mode", Fact::fixed_name(source.mode()))
            .fact("effective_strength", Fact::Number(u64::from(strength)));
        source.facts(entry)
    }

    pub(crate) fn device(&self, line: &OrderLine, state: Option<DeviceState>) -> DeviceRecord {
        DeviceRecord {
            state,
            eum: self.manufacturer.name.clone(),
            order: self.terms.order.clone(),
            line: line.line,
            freeze: None,
            version: 0,
        }
    }

    pub(crate) fn new_record(&self) -> records::Order {
        let mut record = records::Order {
            version: 1,
            party: self.manufacturer.name.clone(),
            name: self.terms.order.clone(),
            issuer: self.terms.issuer.clone(),
            certificate_profile: self.terms.certificate_profile.clone(),
            security_domain: u32::from(self.terms.keyset.security_domain.code()),
            protocol: u32::from(self.terms.keyset.protocol.code()),
            key_version_number: u32::from(self.terms.keyset.kvn.value()),
            key_bits: u32::from(self.terms.algorithm.key_bits()),
            chunks: Vec::new(),
            confirmed_digest: Vec::new(),
            format: self.terms.format.code(),
            product: self.terms.product.clone(),
            further_keysets: self.terms.devices == OrderedDevices::Registered,
            random_keys: self.terms.mode == KeyMode::Random,
            ..records::Order::default()
        };
        if let OrderedDevices::MovedIn(fleet) = &self.terms.devices {
            fleet.record(&mut record);
        }
        record
    }

    pub(crate) fn record(&self) -> Result<Option<(records::Order, u64)>, KmsError> {
        read_order(self.engines.store.as_ref(), &self.manufacturer.name, &self.terms.order)
    }

    /// Devices ordered so far and the version of that count.
    pub(crate) fn ordered(&self) -> Result<(u64, Option<u64>), KmsError> {
        let Some(row) = self.engines.store.get(DEVICES_ORDERED, self.manufacturer.name.as_bytes())? else {
            return Ok((0, None));
        };
        let record = records::Counter::decode(&*row.value).map_err(|_| KmsError::Record("counter"))?;
        Ok((record.value, Some(row.version)))
    }

    /// The write that counts so many more devices. Refused when others took the room since the lines were looked at.
    pub(crate) fn take_quota(&self, devices: usize) -> Result<(Change, Precondition), KmsError> {
        let (ordered, version) = self.ordered()?;
        let value = ordered + devices as u64;
        if value > self.manufacturer.quota {
            let message = format!("the quota is {} devices", self.manufacturer.quota);
            return Err(KmsError::refused(ReasonCode::QuotaExceeded, message, None));
        }
        Ok(self.count(value, version))
    }

    fn count(&self, value: u64, version: Option<u64>) -> (Change, Precondition) {
        let key = self.manufacturer.name.clone().into_bytes();
        let precondition = match version {
            Some(version) => Precondition::Version { keyspace: DEVICES_ORDERED, key: key.clone(), version },
            None => Precondition::Absent { keyspace: DEVICES_ORDERED, key: key.clone() },
        };
        (
            Change::put(DEVICES_ORDERED, key, records::Counter { version: 1, value }.encode_to_vec()),
            precondition,
        )
    }

    /// The order's name among all orders, for its pseudonym.
    pub(crate) fn order_name(&self) -> String {
        format!("{}/{}", self.manufacturer.name, self.terms.order)
    }

    pub(crate) fn order_key(&self) -> Vec<u8> {
        order_key(&self.manufacturer.name, &self.terms.order)
    }

    pub(crate) fn line_key(&self, line: u64) -> Vec<u8> {
        line_key(&self.manufacturer.name, &self.terms.order, line)
    }
}

/// The writes that free a device whose order was cut off by a crash, and its place in the quota. `before` are the writes
/// of the same commit so far, whose counts are carried on.
pub fn free_reserved(
    store: &dyn Store,
    eid: &Eid,
    before: &[Change],
) -> Result<(Vec<Change>, Vec<Precondition>), KmsError> {
    let Some(device) = DeviceRecord::read(store, eid)?.filter(|device| device.state.is_none()) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let key = device.eum.clone().into_bytes();
    let earlier = before.iter().rev().find(|change| change.keyspace == DEVICES_ORDERED && change.key == key);
    let stored = match earlier.and_then(|change| change.value.clone()) {
        Some(value) => Some(value),
        None => store.get(DEVICES_ORDERED, &key)?.map(|row| row.value.to_vec()),
    };
    let ordered = stored
        .map(|value| records::Counter::decode(value.as_slice()).map_err(|_| KmsError::Record("counter")))
        .transpose()?
        .map_or(0, |counter| counter.value);
    let counter = records::Counter { version: 1, value: ordered.saturating_sub(1) };
    let changes =
        vec![Change::delete(DEVICES, *eid.bcd()), Change::put(DEVICES_ORDERED, key, counter.encode_to_vec())];
    let precondition =
        Precondition::Version { keyspace: DEVICES, key: eid.bcd().to_vec(), version: device.version };
    Ok((changes, vec![precondition]))
}

pub(crate) fn order_key(party: &str, order: &str) -> Vec<u8> {
    [party.as_bytes(), &[0], order.as_bytes()].concat()
}

pub(crate) fn line_key(party: &str, order: &str, line: u64) -> Vec<u8> {
    let mut key = order_key(party, order);
    key.push(0);
    key.extend(line.to_be_bytes());
    key
}

/// pySim has columns for some keysets only, and its cells hold whole blocks.
fn check_cells(terms: &OrderTerms) -> Result<(), KmsError> {
    let KeysetName { security_domain, protocol, kvn } = terms.keyset;
    let has_columns = protocol
        .usages()
        .iter()
        .all(|usage| keys::pysim_csv::column(protocol, security_domain, kvn, *usage).is_some());
    if has_columns && terms.algorithm.key_bytes().is_multiple_of(16) {
        return Ok(());
    }
    Err(KmsError::refused(
        ReasonCode::InvalidField,
        format!(
            "pySim's CSV has no cells for {} {} keys of {}",
            terms.algorithm.as_str(),
            protocol.as_str(),
            security_domain.as_str()
        ),
        None,
    ))
}

pub(crate) fn read_order(
    store: &dyn Store,
    party: &str,
    order: &str,
) -> Result<Option<(records::Order, u64)>, KmsError> {
    let Some(row) = store.get(ORDERS, &order_key(party, order))? else { return Ok(None) };
    let mut record = records::Order::decode(&*row.value).map_err(|_| KmsError::Record("order"))?;
    // 0 in records of before there were several.
    record.format = OrderFormat::from_code(record.format).map_err(|_| KmsError::Record("order"))?.code();
    Ok(Some((record, row.version)))
}

fn refused(reason: ReasonCode, message: impl Into<String>) -> LineCheck {
    LineCheck::Refused(Refusal::new(reason, message))
}

/// What keys are worth that left under an RSA key: NIST SP 800-57 Part 1 Rev. 5, table 2.
fn effective_strength(algorithm: KeysetAlgorithm, rsa_bits: u32) -> u32 {
    let path = match rsa_bits {
        0..3072 => 112,
        3072..7680 => 128,
        7680..15360 => 192,
        15360.. => 256,
    };
    path.min(algorithm.strength_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_key_is_worth_no_more_than_the_key_it_travelled_under() {
        assert_eq!(effective_strength(KeysetAlgorithm::Aes256, 3072), 128);
        assert_eq!(effective_strength(KeysetAlgorithm::Aes128, 15_360), 128);
        assert_eq!(effective_strength(KeysetAlgorithm::Aes256, 7680), 192);
    }
}
