//! Marks: keys that are known to others, said so by an approved operation. They stand in memory, rebuilt from the verified
//! log, and every read of a keyset looks at them; what they mean is then written down device by device ([`super::walk`]).

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym, Pseudonyms};
use domain::{MasterGeneration, ReasonCode, Role, Timestamp};
use prost::Message;
use proto::records;
use store::{Change, Commit, Precondition, Store};

use super::taint::{Consequence, Taint, taint};
use crate::KmsError;
use crate::devices::KeysetRecord;
use crate::keyspaces::{COMPROMISE_MARKS, TAINT_WALKS};

/// Marks of an authority, at most: each one is an approved operation.
const MARKS_MAX: usize = 1_000;

/// Which key is known to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompromisedKey {
    /// A generation of the master.
    Master(MasterGeneration),
    /// Every transport key of a manufacturer, the registered one (by the SHA-256 of its SubjectPublicKeyInfo) with them.
    Party {
        /// Its name.
        party: String,
        /// See there.
        registered: [u8; 32],
    },
    /// The transport keys of one order's chunks.
    Order {
        /// The manufacturer's name.
        party: String,
        /// The order's name.
        order: String,
    },
}

/// A mark as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(super) key: CompromisedKey,
    pub(super) consequence: Consequence,
    pub(super) time: Timestamp,
}

impl Mark {
    /// Whether the key is behind a keyset: it was made from it, or delivered under it.
    pub(super) fn is_behind(&self, keyset: &KeysetRecord) -> bool {
        let under = |prefix: String| {
            // `party/order/chunk`; paths of other kinds have two parts.
            keyset.created <= self.time
                && keyset.delivered_under.split('/').count() == 3
                && keyset.delivered_under.starts_with(&prefix)
        };
        match &self.key {
            CompromisedKey::Master(generation) => keyset.is_derived_from(*generation),
            CompromisedKey::Party { party, .. } => under(format!("{party}/")),
            CompromisedKey::Order { party, order } => under(format!("{party}/{order}/")),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("compromise mark");
        let record = records::CompromiseMark::decode(bytes).map_err(|_| unreadable())?;
        let key = if record.party.is_empty() {
            CompromisedKey::Master(MasterGeneration(record.master_generation))
        } else if record.order.is_empty() {
            let registered = record.transport_key_digest.try_into().map_err(|_| unreadable())?;
            CompromisedKey::Party { party: record.party, registered }
        } else {
            CompromisedKey::Order { party: record.party, order: record.order }
        };
        Ok(Self {
            key,
            consequence: if record.flagged_only { Consequence::Flagged } else { Consequence::Compromised },
            time: Timestamp::from_micros(record.time_micros),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = records::CompromiseMark {
            version: 1,
            flagged_only: self.consequence == Consequence::Flagged,
            time_micros: self.time.micros(),
            ..records::CompromiseMark::default()
        };
        match &self.key {
            CompromisedKey::Master(generation) => record.master_generation = generation.0,
            CompromisedKey::Party { party, registered } => {
                record.party.clone_from(party);
                record.transport_key_digest = registered.to_vec();
            }
            CompromisedKey::Order { party, order } => {
                record.party.clone_from(party);
                record.order.clone_from(order);
            }
        }
        record.encode_to_vec()
    }
}

/// Every mark there is.
pub(crate) struct Marks(Vec<([u8; 32], Mark)>);

impl Marks {
    pub(crate) fn load(store: &dyn Store) -> Result<Self, KmsError> {
        store
            .scan(COMPROMISE_MARKS, &[], None, MARKS_MAX)?
            .into_iter()
            .map(|(key, row)| {
                let operation = key.try_into().map_err(|_| KmsError::Record("compromise mark"))?;
                Ok((operation, Mark::decode(&row.value)?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn find(store: &dyn Store, operation: &[u8; 32]) -> Result<Option<Mark>, KmsError> {
        store.get(COMPROMISE_MARKS, operation)?.map(|row| Mark::decode(&row.value)).transpose()
    }

    /// What the marks say of a keyset, whether or not it is written down yet.
    pub(crate) fn apply(&self, keyset: &mut KeysetRecord) {
        for (operation, mark) in &self.0 {
            if mark.is_behind(keyset) {
                taint(keyset, Taint { operation: *operation, time: mark.time }, mark.consequence);
            }
        }
    }
}

/// That neither the master nor the transport key (SHA-256 of its SubjectPublicKeyInfo) is known to others: before
/// anything new is made from the one and leaves under the other.
pub fn check_usable(
    store: &dyn Store,
    generation: MasterGeneration,
    transport_key: &[u8; 32],
) -> Result<(), KmsError> {
    check_master(store, generation)?;
    check_transport(store, transport_key)
}

/// That a transport key is not known to others: before anything leaves under it.
pub(crate) fn check_transport(store: &dyn Store, transport_key: &[u8; 32]) -> Result<(), KmsError> {
    let is_marked = |(_, mark): &([u8; 32], Mark)| matches!(mark.key, CompromisedKey::Party { registered, .. } if registered == *transport_key);
    if Marks::load(store)?.0.iter().any(is_marked) {
        let why = "your transport key is marked as compromised; register another one";
        return Err(KmsError::refused(ReasonCode::PolicyViolation, why, None));
    }
    Ok(())
}

/// That a master is not known to others: before anything new is made from it.
pub(crate) fn check_master(store: &dyn Store, generation: MasterGeneration) -> Result<(), KmsError> {
    let is_marked = |(_, mark): &([u8; 32], Mark)| mark.key == CompromisedKey::Master(generation);
    if Marks::load(store)?.0.iter().any(is_marked) {
        let why = "this master generation is marked as compromised; no keys are made from it";
        return Err(KmsError::refused(ReasonCode::PolicyViolation, why, None));
    }
    Ok(())
}

/// Whether a key can be marked: before and at the execution of the operation.
pub fn check_mark(store: &dyn Store, key: &CompromisedKey, consequence: Consequence) -> Result<(), KmsError> {
    let marks = Marks::load(store)?.0;
    if marks.len() >= MARKS_MAX {
        return Err(KmsError::refused(ReasonCode::PolicyViolation, "there are too many marks", None));
    }
    // A flag may be followed by the stricter consequence, nothing by a weaker one.
    let is_marked = marks.iter().any(|(_, mark)| {
        mark.key == *key && (mark.consequence == consequence || mark.consequence == Consequence::Compromised)
    });
    if is_marked {
        return Err(KmsError::refused(ReasonCode::PolicyViolation, "this key is marked already", None));
    }
    Ok(())
}

/// The commit that marks a key; `operation` is the digest of the approved operation. From here on each read of a keyset
/// behind it finds it tainted.
pub fn mark(
    store: &dyn Store,
    pseudonyms: &Pseudonyms,
    (role, actor): (Role, Pseudonym),
    operation: [u8; 32],
    (key, consequence): (&CompromisedKey, Consequence),
    now: Timestamp,
) -> Result<Commit, KmsError> {
    check_mark(store, key, consequence)?;
    let mut entry = EntryDraft::new(EventType::KeyCompromised, Outcome::Done)
        .role(role)
        .actor(actor)
        .fact("operation", Fact::Digest(operation))
        .fact("result", Fact::fixed_name(consequence.as_str()));
    entry = match key {
        CompromisedKey::Master(generation) => entry
            .fact("kind", Fact::fixed_name("master"))
            .fact("generation", Fact::Number(u64::from(generation.0))),
        CompromisedKey::Party { party, registered } => entry
            .object(pseudonyms.party(party))
            .fact("kind", Fact::fixed_name("transport-key"))
            .fact("transport_key", Fact::Digest(*registered)),
        CompromisedKey::Order { party, order } => entry
            .object(pseudonyms.party(party))
            .fact("kind", Fact::fixed_name("order"))
            .fact("order", Fact::Pseudonym(pseudonyms.order(&format!("{party}/{order}")))),
    };
    let mark = Mark { key: key.clone(), consequence, time: now };
    let walk = records::TaintWalk { version: 1, ..records::TaintWalk::default() };
    Ok(Commit {
        entries: vec![entry],
        changes: vec![
            Change::put(COMPROMISE_MARKS, operation, mark.encode()),
            Change::put(TAINT_WALKS, operation, walk.encode_to_vec()),
        ],
        preconditions: vec![Precondition::Absent { keyspace: COMPROMISE_MARKS, key: operation.to_vec() }],
    })
}
