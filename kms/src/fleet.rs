//! Fleets that move in: devices in the field whose keys another authority derived, from a master that came by a ceremony. They
//! become registered under the quota of their manufacturer; no key is made and none leaves.

use audit::{EntryDraft, Fact, Outcome, Pseudonyms};
use domain::{
    DeviceState, KeyCheckValue, KeyState, KeysetAlgorithm, MasterGeneration, ReasonCode, Refusal, Role,
    Timestamp,
};
use hsm::{KeySource, SourcedKeyset};
use keys::derivation::{Scheme, SchemeName};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition};

use crate::devices::KeysetRecord;
use crate::keyset_source::KeysetSource;
use crate::keysets::check_master;
use crate::keyspaces::{DEVICES, KEYSETS, ORDER_LINES, ORDERS};
use crate::orders::{OrderLine, OrderTerms, Orders};
use crate::session_keys::algorithm_name;
use crate::{Engines, KmsError};

/// What a keyset that came from elsewhere is delivered under: nobody here knows.
const DELIVERED_ELSEWHERE: &str = "elsewhere";

/// How the keys of a fleet were derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// The scheme.
    pub scheme: SchemeName,
    /// Generation of the master.
    pub generation: MasterGeneration,
}

/// One device that moves in.
#[derive(Clone, Debug)]
pub struct MovingDevice {
    /// Its line.
    pub line: OrderLine,
    scheme: Scheme,
    /// The check values that its keys are known to have; empty: not compared.
    expected: Vec<KeyCheckValue>,
}

impl Fleet {
    /// Whether the master is there, serves the scheme, and is known to nobody else; and whether the scheme makes such keys.
    pub(crate) fn check(self, engines: &Engines, terms: &OrderTerms) -> Result<(), KmsError> {
        let store = engines.store.as_ref();
        engines.masters.check_scheme(store, self.generation, self.scheme.as_str())?;
        check_master(store, self.generation)?;
        let fits = if self.scheme.is_triple_des() {
            terms.algorithm == KeysetAlgorithm::TripleDes2Key
        } else {
            terms.algorithm.may_be_made()
        };
        if fits {
            return Ok(());
        }
        let message = format!("{} makes no keys of {}", self.scheme.as_str(), terms.algorithm.as_str());
        Err(KmsError::refused(ReasonCode::InvalidField, message, None))
    }
}

impl Orders<'_> {
    /// Parses what a line says of a device that moves in.
    pub fn moving_device(
        &self,
        fleet: Fleet,
        line: OrderLine,
        scheme_inputs: &[u8],
        check_values: &[u8],
    ) -> Result<MovingDevice, Refusal> {
        let invalid = |message: String| Refusal::new(ReasonCode::InvalidField, message);
        let scheme = Scheme::parse(fleet.scheme, scheme_inputs).map_err(|e| invalid(e.to_string()))?;
        let keys = self.terms.keyset.protocol.usages().len();
        let (expected, rest) = check_values.as_chunks::<3>();
        if !rest.is_empty() || !(expected.is_empty() || expected.len() == keys) {
            return Err(invalid(format!(
                "check_values has three octets for each of {keys} keys, or is empty"
            )));
        }
        Ok(MovingDevice { line, scheme, expected: expected.iter().copied().map(KeyCheckValue).collect() })
    }

    /// The check values of the devices' keys, by the token.
    pub async fn moving_check_values(
        &self,
        fleet: Fleet,
        devices: &[MovingDevice],
        options: hsm::CallOptions,
    ) -> Result<Vec<Vec<KeyCheckValue>>, KmsError> {
        let master = self.engines.master(fleet.generation)?;
        let name = self.terms.keyset;
        let keysets = devices.iter().map(|device| SourcedKeyset {
            keyset: domain::DeviceKeyset {
                eid: device.line.eid,
                protocol: name.protocol,
                security_domain: name.security_domain,
                kvn: name.kvn,
                algorithm: self.terms.algorithm,
            },
            source: KeySource::Derived { master: master.clone(), scheme: device.scheme.clone() },
        });
        Ok(self.engines.token.check_values(keysets.collect(), options).await?)
    }

    /// The commit that registers devices and their keysets, with what the token computed.
    pub fn move_in(
        &self,
        pseudonyms: &Pseudonyms,
        fleet: Fleet,
        devices: &[(MovingDevice, Vec<KeyCheckValue>)],
        now: Timestamp,
    ) -> Result<Commit, KmsError> {
        let order = pseudonyms.order(&self.order_name());
        let actor = pseudonyms.principal(&self.manufacturer.principal);
        let mut commit = Commit { entries: vec![], changes: vec![], preconditions: vec![] };
        for (device, check_values) in devices {
            let (line, name) = (&device.line, self.terms.keyset);
            let key = line.eid.bcd().to_vec();
            commit.preconditions.push(Precondition::Absent { keyspace: DEVICES, key });
            let record = self.device(line, Some(DeviceState::Registered));
            commit.changes.push(Change::put(DEVICES, *line.eid.bcd(), record.encode(&line.eid)));
            let keyset = KeysetRecord {
                algorithm: self.terms.algorithm,
                state: KeyState::PreActivation,
                source: KeysetSource::Derived { generation: fleet.generation, scheme: device.scheme.clone() },
                delivered_under: DELIVERED_ELSEWHERE.to_owned(),
                effective_strength: self.terms.algorithm.strength_bits(),
                check_values: check_values.clone(),
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
                serial_number: octets(check_values),
            };
            commit.changes.push(Change::put(ORDER_LINES, self.line_key(line.line), answered.encode_to_vec()));
            commit.entries.push(
                EntryDraft::new(self.terms.devices.event(), Outcome::Done)
                    .role(Role::Eum)
                    .actor(actor)
                    .object(pseudonyms.device(&line.eid))
                    .request(line.digest)
                    .fact("order", Fact::Pseudonym(order))
                    .fact("line", Fact::Number(line.line))
                    .fact("kvn", Fact::Number(u64::from(name.kvn.value())))
                    .fact("protocol", Fact::fixed_name(name.protocol.as_str()))
                    .fact("security_domain", Fact::fixed_name(name.security_domain.as_str()))
                    .fact("algorithm", algorithm_name(self.terms.algorithm))
                    .fact("mode", Fact::fixed_name("derived"))
                    .fact("scheme", Fact::fixed_name(fleet.scheme.as_str()))
                    .fact("generation", Fact::Number(u64::from(fleet.generation.0)))
                    .fact("effective_strength", Fact::Number(u64::from(keyset.effective_strength))),
            );
        }
        let (ordered, version) = self.ordered()?;
        let (change, precondition) = self.count(ordered + devices.len() as u64, version);
        commit.changes.push(change);
        commit.preconditions.push(precondition);
        // The order has no chunk: nothing of it leaves. Its terms stand from the first device on.
        if self.record()?.is_none() {
            let key = self.order_key();
            commit.preconditions.push(Precondition::Absent { keyspace: ORDERS, key: key.clone() });
            commit.changes.push(Change::put(ORDERS, key, self.new_record().encode_to_vec()));
        }
        Ok(commit)
    }
}

impl MovingDevice {
    /// Whether the keys are those that the manufacturer knows.
    pub fn compare(&self, found: &[KeyCheckValue]) -> Result<(), Refusal> {
        if self.expected.is_empty() || self.expected == found {
            return Ok(());
        }
        let message = format!(
            "its keys have the check values {}, not those of the line: another master, scheme or input",
            hex::encode(octets(found))
        );
        Err(Refusal::new(ReasonCode::InvalidField, message))
    }
}

/// Check values one after the other.
pub fn octets(check_values: &[KeyCheckValue]) -> Vec<u8> {
    check_values.iter().flat_map(|value| value.0).collect()
}
