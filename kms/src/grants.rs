//! Grants: which provisioner may use which devices' keysets, for what, until when. No grant, no key.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use domain::{Eid, Ein, Timestamp};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Precondition, Row, Store};

use crate::KmsError;
use crate::allowance::{Allowance, Need};
use crate::keyspaces::GRANTS;

/// Most grants of one provisioner that a decision looks at.
const GRANTS_PER_PROVISIONER_MAX: usize = 10_000;

/// The content of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTerms {
    /// Its name, unique for the provisioner.
    pub name: String,
    /// The party that may fetch.
    pub provisioner: String,
    /// Single devices ...
    pub eids: HashSet<Eid>,
    /// ... and whole ranges.
    pub eins: Vec<Ein>,
    /// The purpose it is for.
    pub purpose: String,
    /// Lawful basis or consent reference.
    pub lawful_basis: String,
    /// From this time on it grants nothing.
    pub expires: Timestamp,
    /// What it allows beyond sessions of cards that prove themselves.
    pub allowance: Allowance,
}

impl GrantTerms {
    /// The row key.
    fn row_key(&self) -> Vec<u8> {
        let mut key = prefix(&self.provisioner);
        key.extend(self.name.as_bytes());
        key
    }

    /// The write that makes this grant, and that it must be new.
    pub fn create(&self) -> (Change, Precondition) {
        let mut eids: Vec<String> = self.eids.iter().map(Eid::to_string).collect();
        eids.sort_unstable();
        let mut record = records::Grant {
            version: 1,
            name: self.name.clone(),
            provisioner: self.provisioner.clone(),
            eids,
            eins: self.eins.iter().map(Ein::to_string).collect(),
            purpose: self.purpose.clone(),
            lawful_basis: self.lawful_basis.clone(),
            expires_micros: self.expires.micros(),
            ..records::Grant::default()
        };
        self.allowance.write(&mut record);
        let key = self.row_key();
        (
            Change::put(GRANTS, key.clone(), record.encode_to_vec()),
            Precondition::Absent { keyspace: GRANTS, key },
        )
    }

    /// The identifier entries carry: the first 16 bytes of SHA-256 over the row key.
    pub fn identifier(&self) -> [u8; 16] {
        let mut identifier = [0; 16];
        identifier.copy_from_slice(&Sha256::digest(self.row_key())[..16]);
        identifier
    }

    fn covers(&self, eid: &Eid, purpose: &str) -> bool {
        self.purpose == purpose && (self.eids.contains(eid) || self.eins.iter().any(|ein| eid.is_in(ein)))
    }

    fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let unreadable = || KmsError::Record("grant");
        let record = records::Grant::decode(bytes).map_err(|_| unreadable())?;
        Ok(Self {
            allowance: Allowance::read(&record)?,
            name: record.name,
            provisioner: record.provisioner,
            eids: record
                .eids
                .iter()
                .map(|e| e.parse())
                .collect::<Result<_, _>>()
                .map_err(|_| unreadable())?,
            eins: record
                .eins
                .iter()
                .map(|e| e.parse())
                .collect::<Result<_, _>>()
                .map_err(|_| unreadable())?,
            purpose: record.purpose,
            lawful_basis: record.lawful_basis,
            expires: Timestamp::from_micros(record.expires_micros),
        })
    }
}

/// What the grants say about one request.
#[derive(Clone, Debug)]
pub enum GrantFinding {
    /// A grant covers it.
    Granted {
        /// The grant.
        terms: Arc<GrantTerms>,
        /// Version of its row: the release holds only while it stays the same.
        version: u64,
    },
    /// One covers the device and the purpose, but does not allow this.
    Lacks(Need),
    /// One would, had it not expired.
    Expired,
    /// None does.
    NotGranted,
}

/// The version of a row and what it says.
type Decoded = (u64, Arc<GrantTerms>);

/// Reads grants from the authority records, each decoded once per version.
#[derive(Default)]
pub struct Grants {
    decoded: Mutex<HashMap<Vec<u8>, Decoded>>,
}

impl Grants {
    /// What the provisioner's grants say about a device, a purpose, all that the request needs, and a time. One grant
    /// must allow all of it.
    pub fn find(
        &self,
        store: &dyn Store,
        provisioner: &str,
        eid: &Eid,
        purpose: &str,
        needs: &[Need],
        now: Timestamp,
    ) -> Result<GrantFinding, KmsError> {
        let mut finding = GrantFinding::NotGranted;
        for row in store.scan(GRANTS, &prefix(provisioner), None, GRANTS_PER_PROVISIONER_MAX)? {
            let (terms, version) = self.terms(row)?;
            if !terms.covers(eid, purpose) {
                continue;
            }
            if now >= terms.expires {
                if matches!(finding, GrantFinding::NotGranted) {
                    finding = GrantFinding::Expired;
                }
                continue;
            }
            match needs.iter().find(|need| !terms.allowance.allows(**need)) {
                None => return Ok(GrantFinding::Granted { terms, version }),
                Some(need) => finding = GrantFinding::Lacks(*need),
            }
        }
        Ok(finding)
    }

    fn terms(&self, (key, row): Row) -> Result<(Arc<GrantTerms>, u64), KmsError> {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, terms)) = decoded.get(&key)
            && *version == row.version
        {
            return Ok((Arc::clone(terms), row.version));
        }
        let terms = Arc::new(GrantTerms::decode(&row.value)?);
        decoded.insert(key, (row.version, Arc::clone(&terms)));
        Ok((terms, row.version))
    }
}

/// That the grant is still the one that was found.
pub(crate) fn unchanged(terms: &GrantTerms, version: u64) -> Precondition {
    Precondition::Version { keyspace: GRANTS, key: terms.row_key(), version }
}

fn prefix(provisioner: &str) -> Vec<u8> {
    let mut prefix = provisioner.as_bytes().to_vec();
    // Names hold no zero byte, so no provisioner's prefix is another's.
    prefix.push(0);
    prefix
}
