//! Keys under which keys leave for a party: registered, followed by newer ones, ended by time or by hand.

use domain::{KeyCheckValue, ReasonCode, Timestamp};
use hsm::KeyRef;
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Precondition, Row, Store};

use crate::KmsError;
use crate::keyspaces::TRANSPORT_KEYS;

/// Name of the key under which a manufacturer's orders leave, once one is registered.
pub const ORDERS_KEY: &str = "orders";
/// Most versions of the keys of a party.
const VERSIONS_MAX: usize = 1_000;
/// Most transport keys in all.
const KEYS_MAX: usize = 100_000;

/// One version of a transport key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportKey {
    /// Whose it is.
    pub party: String,
    /// Its name, one for all versions.
    pub name: String,
    /// Its version, from 1.
    pub number: u32,
    /// The key.
    pub material: TransportMaterial,
    /// When it was registered.
    pub registered: Timestamp,
    /// From then on nothing leaves under it.
    pub expires: Timestamp,
    /// Whether it was ended by hand.
    pub retired: bool,
    /// How it is restored when its token is lost.
    pub backup: String,
    /// Version of the row; 0 before it is stored.
    pub version: u64,
}

/// What a transport key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportMaterial {
    /// The party's RSA key: SubjectPublicKeyInfo, DER.
    Rsa(Vec<u8>),
    /// The party's AES-256 key on the kms token, under which keys leave for it.
    Aes {
        /// Which one.
        key: KeyRef,
        /// As the party knows it.
        key_check_value: KeyCheckValue,
    },
    /// The party's AES-256 key on the kms token, under which keys come in from it. Nothing leaves under it.
    Import {
        /// Which one.
        key: KeyRef,
        /// As the party knows it.
        key_check_value: KeyCheckValue,
    },
}

/// Whether and why a version serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKeyState {
    /// Keys leave under it.
    InForce,
    /// A newer one serves.
    Followed,
    /// Its time is over.
    Expired,
    /// It was ended by hand.
    Retired,
}

impl TransportKey {
    /// The newest version of this name that is neither retired nor expired, or the refusal.
    pub fn current(store: &dyn Store, party: &str, name: &str, now: Timestamp) -> Result<Self, KmsError> {
        let versions = Self::versions(store, party, name)?;
        match versions.iter().rev().find(|key| key.is_usable(now)) {
            Some(key) => Ok(key.clone()),
            None if versions.is_empty() => Err(KmsError::refused(
                ReasonCode::UnknownTransportKey,
                format!("{party} has no transport key {name}"),
                None,
            )),
            None => Err(KmsError::refused(
                ReasonCode::TransportKeyEnded,
                format!("every version of transport key {name} of {party} has expired or was retired"),
                None,
            )),
        }
    }

    /// A named version, or the refusal when it does not serve any more.
    pub fn version(
        store: &dyn Store,
        party: &str,
        name: &str,
        number: u32,
        now: Timestamp,
    ) -> Result<Self, KmsError> {
        let found = Self::versions(store, party, name)?.into_iter().find(|key| key.number == number);
        let refused = |reason, what: &str| {
            Err(KmsError::refused(reason, format!("transport key {name} {number} of {party} {what}"), None))
        };
        match found {
            None => refused(ReasonCode::UnknownTransportKey, "is not registered"),
            Some(key) if !key.is_usable(now) => {
                refused(ReasonCode::TransportKeyEnded, "has expired or was retired")
            }
            Some(key) => Ok(key),
        }
    }

    /// Every version of a name, oldest first.
    pub fn versions(store: &dyn Store, party: &str, name: &str) -> Result<Vec<Self>, KmsError> {
        let rows = store.scan(TRANSPORT_KEYS, &prefix(party, name), None, VERSIONS_MAX)?;
        rows.iter().map(Self::decode).collect()
    }

    /// Every key of a party, or of all, by party and name.
    pub fn all(store: &dyn Store, party: Option<&str>) -> Result<Vec<Self>, KmsError> {
        let prefix = party.map(|party| [party.as_bytes(), &[0]].concat()).unwrap_or_default();
        store.scan(TRANSPORT_KEYS, &prefix, None, KEYS_MAX)?.iter().map(Self::decode).collect()
    }

    /// Whether keys may leave under it.
    pub fn is_usable(&self, now: Timestamp) -> bool {
        !self.retired && now < self.expires
    }

    /// Its state beside the other versions of its name.
    pub fn state(&self, others: &[Self], now: Timestamp) -> TransportKeyState {
        let follows = |other: &Self| {
            other.party == self.party
                && other.name == self.name
                && other.number > self.number
                && other.is_usable(now)
        };
        match self {
            Self { retired: true, .. } => TransportKeyState::Retired,
            key if !key.is_usable(now) => TransportKeyState::Expired,
            _ if others.iter().any(follows) => TransportKeyState::Followed,
            _ => TransportKeyState::InForce,
        }
    }

    /// The name in records of what was delivered under it.
    pub fn identifier(&self) -> String {
        format!("{}/{}/{}", self.party, self.name, self.number)
    }

    /// The digest that entries carry: of the SubjectPublicKeyInfo, or of label and id of a key on the token.
    pub fn digest(&self) -> [u8; 32] {
        match &self.material {
            TransportMaterial::Rsa(spki) => Sha256::digest(spki).into(),
            TransportMaterial::Aes { key, .. } | TransportMaterial::Import { key, .. } => Sha256::new()
                .chain_update(&key.label)
                .chain_update([0])
                .chain_update(key.id)
                .finalize()
                .into(),
        }
    }

    /// Its strength in bits (SP 800-57 Part 1, table 2).
    pub fn strength(&self) -> u32 {
        match &self.material {
            TransportMaterial::Aes { .. } | TransportMaterial::Import { .. } => 256,
            TransportMaterial::Rsa(spki) => match spki.len() {
                // The modulus is all but some forty bytes.
                0..=650 => 128,
                651..=1000 => 152,
                _ => 192,
            },
        }
    }

    /// The write that registers it as a new version.
    pub fn create(&self) -> (Change, Precondition) {
        let key = self.row_key();
        (
            Change::put(TRANSPORT_KEYS, key.clone(), self.encode()),
            Precondition::Absent { keyspace: TRANSPORT_KEYS, key },
        )
    }

    /// The write that retires it.
    pub fn retire(mut self) -> (Change, Precondition) {
        let key = self.row_key();
        self.retired = true;
        (
            Change::put(TRANSPORT_KEYS, key.clone(), self.encode()),
            Precondition::Version { keyspace: TRANSPORT_KEYS, key, version: self.version },
        )
    }

    /// That it is still as it was read: named by every delivery under it.
    pub fn unchanged(&self) -> Precondition {
        Precondition::Version { keyspace: TRANSPORT_KEYS, key: self.row_key(), version: self.version }
    }

    fn row_key(&self) -> Vec<u8> {
        let mut key = prefix(&self.party, &self.name);
        key.extend(self.number.to_be_bytes());
        key
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = records::TransportKey {
            version: 1,
            party: self.party.clone(),
            name: self.name.clone(),
            number: self.number,
            registered_micros: self.registered.micros(),
            expires_micros: self.expires.micros(),
            retired: self.retired,
            backup: self.backup.clone(),
            ..records::TransportKey::default()
        };
        match &self.material {
            TransportMaterial::Rsa(spki) => record.rsa_public_key.clone_from(spki),
            TransportMaterial::Aes { key, key_check_value }
            | TransportMaterial::Import { key, key_check_value } => {
                record.incoming = matches!(self.material, TransportMaterial::Import { .. });
                record.label.clone_from(&key.label);
                record.id = key.id.to_vec();
                record.key_check_value = key_check_value.0.to_vec();
            }
        }
        record.encode_to_vec()
    }

    fn decode((_, row): &Row) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("transport key");
        let record = records::TransportKey::decode(&*row.value).map_err(|_| unreadable())?;
        let material = if record.rsa_public_key.is_empty() {
            let key = KeyRef { label: record.label, id: record.id.try_into().map_err(|_| unreadable())? };
            let key_check_value = KeyCheckValue(record.key_check_value.try_into().map_err(|_| unreadable())?);
            if record.incoming {
                TransportMaterial::Import { key, key_check_value }
            } else {
                TransportMaterial::Aes { key, key_check_value }
            }
        } else {
            TransportMaterial::Rsa(record.rsa_public_key)
        };
        Ok(Self {
            party: record.party,
            name: record.name,
            number: record.number,
            material,
            registered: Timestamp::from_micros(record.registered_micros),
            expires: Timestamp::from_micros(record.expires_micros),
            retired: record.retired,
            backup: record.backup,
            version: row.version,
        })
    }
}

/// Names hold no zero byte.
fn prefix(party: &str, name: &str) -> Vec<u8> {
    [party.as_bytes(), &[0], name.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32, expires: i64, retired: bool) -> TransportKey {
        TransportKey {
            party: "eum".into(),
            name: "orders".into(),
            number,
            material: TransportMaterial::Rsa(vec![1, 2, 3]),
            registered: Timestamp::from_seconds(0),
            expires: Timestamp::from_seconds(expires),
            retired,
            backup: String::new(),
            version: 1,
        }
    }

    #[test]
    fn a_new_version_takes_over_and_the_old_one_serves_until_it_ends() {
        let now = Timestamp::from_seconds(10);
        let all = [key(1, 20, false), key(2, 20, false), key(3, 20, true), key(4, 5, false)];
        let states = all.each_ref().map(|key| key.state(&all, now));
        use TransportKeyState::{Expired, Followed, InForce, Retired};
        assert_eq!(states, [Followed, InForce, Retired, Expired]);
        assert!(all[0].is_usable(now), "what names it by its number may still use it");
        assert!(!all[0].is_usable(Timestamp::from_seconds(20)));
    }

    #[test]
    fn both_kinds_of_key_come_out_of_their_record_as_they_went_in() {
        let rsa = key(7, 20, true);
        let aes = TransportKey {
            material: TransportMaterial::Aes {
                key: KeyRef { label: "chancery/party-transport/dp/1".into(), id: [3; 16] },
                key_check_value: KeyCheckValue([1, 2, 3]),
            },
            ..key(8, 20, false)
        };
        let import = TransportKey {
            material: TransportMaterial::Import {
                key: KeyRef { label: "chancery/party-import/eum/1".into(), id: [4; 16] },
                key_check_value: KeyCheckValue([4, 5, 6]),
            },
            ..key(9, 20, false)
        };
        for key in [rsa, aes, import] {
            let row = store::Versioned { value: key.encode().into(), version: 1 };
            assert_eq!(TransportKey::decode(&(Vec::new(), row)).unwrap(), key);
        }
    }
}
