//! Registered keys of SM-DP+: whose they are, for which server address.

use domain::ReasonCode;
use hsm::{KeyRef, KeyRole};
use prost::Message;
use proto::records;
use store::{Change, Precondition, Store, Versioned};

use crate::KmsError;
use crate::keyspaces::RSP_KEYS;

/// Keys of one party that are looked at.
const KEYS_PER_PARTY_MAX: usize = 1_000;

/// A key of an SM-DP+ in the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RspKey {
    /// Its name, unique for the party.
    pub name: String,
    /// The provisioner whose key it is.
    pub party: String,
    /// [`KeyRole::RspAuth`], [`KeyRole::RspPb`] or [`KeyRole::EimSign`].
    pub role: KeyRole,
    /// Where it is.
    pub key: KeyRef,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// The address under which LPAs reach the SM-DP+; of an eIM its eimId.
    pub server_address: String,
    /// Object identifier of the SM-DP+, which its certificates carry; of an eIM empty.
    pub registered_id: String,
}

impl RspKey {
    /// The write that registers it, and that it must be new.
    pub fn create(&self) -> (Change, Precondition) {
        let record = records::RspKey {
            version: 1,
            name: self.name.clone(),
            party: self.party.clone(),
            role: self.role.as_str().to_owned(),
            key_label: self.key.label.clone(),
            key_id: self.key.id.to_vec(),
            public_key: self.public_key.clone(),
            server_address: self.server_address.clone(),
            registered_id: self.registered_id.clone(),
        };
        let key = row_key(&self.party, &self.name);
        (
            Change::put(RSP_KEYS, key.clone(), record.encode_to_vec()),
            Precondition::Absent { keyspace: RSP_KEYS, key },
        )
    }

    /// A key of a party by its name.
    pub fn find(store: &dyn Store, party: &str, name: &str) -> Result<Option<Self>, KmsError> {
        store.get(RSP_KEYS, &row_key(party, name))?.map(|row| Self::decode(&row)).transpose()
    }

    /// The party's keys of the wanted roles for one server address, in the order of their names.
    pub fn of_server(
        store: &dyn Store,
        party: &str,
        is_wanted: impl Fn(KeyRole) -> bool,
        server_address: &str,
    ) -> Result<Vec<Self>, KmsError> {
        let all = store.scan(RSP_KEYS, &row_key(party, ""), None, KEYS_PER_PARTY_MAX)?;
        let keys = all.into_iter().map(|(_, row)| Self::decode(&row)).collect::<Result<Vec<_>, _>>()?;
        Ok(keys
            .into_iter()
            .filter(|key| is_wanted(key.role) && key.server_address.eq_ignore_ascii_case(server_address))
            .collect())
    }

    /// Whether the party has any key at all; the refusal when it has none.
    pub fn check_any(store: &dyn Store, party: &str) -> Result<(), KmsError> {
        if store.scan(RSP_KEYS, &row_key(party, ""), None, 1)?.is_empty() {
            return Err(KmsError::refused(
                ReasonCode::UnknownRspKey,
                "no key of your SM-DP+ is registered here",
                None,
            ));
        }
        Ok(())
    }

    fn decode(row: &Versioned) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("RSP key");
        let record = records::RspKey::decode(&*row.value).map_err(|_| unreadable())?;
        let role = KeyRole::ALL.into_iter().find(|role| role.as_str() == record.role);
        Ok(Self {
            name: record.name,
            party: record.party,
            role: role.ok_or_else(unreadable)?,
            key: KeyRef { label: record.key_label, id: record.key_id.try_into().map_err(|_| unreadable())? },
            public_key: record.public_key,
            server_address: record.server_address,
            registered_id: record.registered_id,
        })
    }
}

fn row_key(party: &str, name: &str) -> Vec<u8> {
    // Names hold no zero byte, so no party's prefix is another's.
    [party.as_bytes(), &[0], name.as_bytes()].concat()
}
