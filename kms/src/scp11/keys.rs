//! SK.OCE.ECKA of platforms and PK.SD.ECKA of cards.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{Curve, Eid, PrincipalId, ReasonCode, Refusal, Role, SecurityDomain, Timestamp};
use hsm::KeyRef;
use prost::Message;
use proto::{records, v1};
use store::{Change, Commit, Precondition, Store};

use crate::devices::DeviceRecord;
use crate::keyspaces::{CARD_KEYS, OCE_KEYS};
use crate::{Engines, KmsError};

/// Card keys of one registration.
const CARD_KEYS_MAX: usize = 200;

/// A platform's key for sessions of SCP11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OceKey {
    /// Its name, unique for the party.
    pub name: String,
    /// The provisioner whose platform it is.
    pub party: String,
    /// SK.OCE.ECKA on the token.
    pub agreement: KeyRef,
    /// The seed of its one-time keys.
    pub seed: KeyRef,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

impl OceKey {
    /// The write that registers it, and that it must be new.
    pub fn create(&self) -> (Change, Precondition) {
        let record = records::OceKey {
            version: 1,
            name: self.name.clone(),
            party: self.party.clone(),
            agreement_label: self.agreement.label.clone(),
            agreement_id: self.agreement.id.to_vec(),
            seed_label: self.seed.label.clone(),
            seed_id: self.seed.id.to_vec(),
            public_key: self.public_key.clone(),
        };
        let key = oce_row(&self.party, &self.name);
        (
            Change::put(OCE_KEYS, key.clone(), record.encode_to_vec()),
            Precondition::Absent { keyspace: OCE_KEYS, key },
        )
    }

    /// A key of a party by its name; those of others do not exist for it.
    pub fn find(store: &dyn Store, party: &str, name: &str) -> Result<Option<Self>, KmsError> {
        let Some(row) = store.get(OCE_KEYS, &oce_row(party, name))? else { return Ok(None) };
        let unreadable = || KmsError::Record("OCE key");
        let record = records::OceKey::decode(&*row.value).map_err(|_| unreadable())?;
        let id = |bytes: Vec<u8>| bytes.try_into().map_err(|_| unreadable());
        Ok(Some(Self {
            name: record.name,
            party: record.party,
            agreement: KeyRef { label: record.agreement_label, id: id(record.agreement_id)? },
            seed: KeyRef { label: record.seed_label, id: id(record.seed_id)? },
            public_key: record.public_key,
        }))
    }
}

fn oce_row(party: &str, name: &str) -> Vec<u8> {
    // Names hold no zero byte, so no party's prefix is another's.
    [party.as_bytes(), &[0], name.as_bytes()].concat()
}

/// Which key of a card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CardKeyName {
    /// Where it is.
    pub security_domain: SecurityDomain,
    /// 1 to 127.
    pub kvn: u8,
}

impl CardKeyName {
    /// Reads the name in a message.
    pub fn parse(message: Option<&v1::CardKeyName>) -> Result<Self, Refusal> {
        let invalid = |message: String| Refusal::new(ReasonCode::InvalidField, message);
        let message = message.ok_or_else(|| invalid("the card's key is not named".to_owned()))?;
        let kvn = u8::try_from(message.key_version_number).ok().filter(|kvn| (1..=127).contains(kvn));
        Ok(Self {
            security_domain: SecurityDomain::from_code(message.security_domain)
                .map_err(|e| invalid(e.to_string()))?,
            kvn: kvn.ok_or_else(|| invalid("a key version number is 1 to 127".to_owned()))?,
        })
    }

    pub(super) fn row_key(self, eid: &Eid) -> Vec<u8> {
        [&eid.bcd()[..], &[self.security_domain.code(), self.kvn]].concat()
    }
}

/// PK.SD.ECKA of a card, as its manufacturer registered it.
#[derive(Clone)]
pub struct CardKey {
    /// An uncompressed point of P-256.
    pub public_key: [u8; 65],
    /// That it is still the one.
    pub unchanged: Precondition,
}

impl CardKey {
    /// A card's key by its name.
    pub fn find(store: &dyn Store, eid: &Eid, name: CardKeyName) -> Result<Option<Self>, KmsError> {
        let key = name.row_key(eid);
        let Some(row) = store.get(CARD_KEYS, &key)? else { return Ok(None) };
        let unreadable = || KmsError::Record("card key");
        let record = records::CardKey::decode(&*row.value).map_err(|_| unreadable())?;
        Ok(Some(Self {
            public_key: record.public_key.try_into().map_err(|_| unreadable())?,
            unchanged: Precondition::Version { keyspace: CARD_KEYS, key, version: row.version },
        }))
    }
}

/// A card's key on its way into the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCardKey {
    /// The device.
    pub eid: Eid,
    /// Which key.
    pub name: CardKeyName,
    /// A point of P-256.
    pub public_key: [u8; 65],
}

impl NewCardKey {
    /// Reads the keys of a registration: 1 to 200, each once, each on the curve.
    pub fn parse_all(message: &v1::RegisterCardKeysRequest) -> Result<Vec<Self>, Refusal> {
        let invalid = |message: String| Refusal::new(ReasonCode::InvalidField, message);
        if !(1..=CARD_KEYS_MAX).contains(&message.keys.len()) {
            return Err(invalid("a registration has 1 to 200 keys".to_owned()));
        }
        let mut keys: Vec<Self> = Vec::with_capacity(message.keys.len());
        for card in &message.keys {
            let eid: Eid = card
                .eid
                .parse()
                .map_err(|e| Refusal::new(ReasonCode::InvalidEid, format!("{}: {e}", card.eid)))?;
            let public_key: [u8; 65] = card
                .public_key
                .as_slice()
                .try_into()
                .ok()
                .filter(|point: &[u8; 65]| ecc::is_point(Curve::P256, point))
                .ok_or_else(|| invalid(format!("{eid}: public_key is no point of P-256")))?;
            let name = CardKeyName::parse(card.name.as_ref())?;
            if keys.iter().any(|other| other.eid == eid && other.name == name) {
                return Err(invalid(format!("{eid}: a key is named twice")));
            }
            keys.push(Self { eid, name, public_key });
        }
        Ok(keys)
    }
}

/// Registers keys of a manufacturer's own devices: all of them or none, each with an entry.
pub fn register_card_keys(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    (manufacturer, principal): (&str, &PrincipalId),
    keys: &[NewCardKey],
    request_digest: [u8; 32],
    now: Timestamp,
) -> Result<Commit, KmsError> {
    let store = engines.store.as_ref();
    let mut commit = Commit::default();
    for key in keys {
        let object = pseudonyms.device(&key.eid);
        let refuse = |reason, message: &str| KmsError::refused(reason, message, Some(object));
        let device = DeviceRecord::read(store, &key.eid)?
            .filter(|device| device.state.is_some() && device.eum == manufacturer)
            .ok_or_else(|| {
                refuse(ReasonCode::UnknownDevice, "you have registered no device under this EID")
            })?;
        if CardKey::find(store, &key.eid, key.name)?.is_some() {
            return Err(refuse(
                ReasonCode::Conflict,
                "the device has a key of this version; a further key has another number",
            ));
        }
        let record = records::CardKey {
            version: 1,
            public_key: key.public_key.to_vec(),
            party: manufacturer.to_owned(),
            registered_micros: now.micros(),
        };
        let row = key.name.row_key(&key.eid);
        commit.entries.push(
            EntryDraft::new(EventType::CardKeyRegistered, Outcome::Done)
                .role(Role::Eum)
                .actor(pseudonyms.principal(principal))
                .object(object)
                .request(request_digest)
                .fact("kvn", Fact::Number(key.name.kvn.into()))
                .fact("security_domain", Fact::fixed_name(key.name.security_domain.as_str()))
                .fact("key", Fact::Digest(audit::sha256(&key.public_key))),
        );
        commit.preconditions.push(device.unchanged(&key.eid));
        commit.preconditions.push(Precondition::Absent { keyspace: CARD_KEYS, key: row.clone() });
        commit.changes.push(Change::put(CARD_KEYS, row, record.encode_to_vec()));
    }
    Ok(commit)
}
