//! The authority's records of persons, parties and their credentials, as types. Read from memory, rebuilt from the
//! verified log at each start; authorisation reads nothing else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::{Ein, PrincipalId, Role, Timestamp};
use prost::Message;
use proto::records as stored;
use store::{Change, Precondition, Store, StoreError, Versioned};

use crate::records::{AUTHORITY, CREDENTIALS, PARTIES, PERSONS};

const PERSON: &str = "person:";
const PARTY: &str = "party:";
const POLICY_KEY: &[u8] = b"policy";

/// A record of the authority does not read, or the store does not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    #[error("a {0} record cannot be read")]
    Record(&'static str),
}

/// A key that somebody calls with, until its certificate ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credential {
    pub(crate) principal: PrincipalId,
    pub(crate) not_after: Timestamp,
}

/// A person.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) roles: Vec<Role>,
    pub(crate) credentials: Vec<Credential>,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) approval_key: Vec<u8>,
    pub(crate) suspended: bool,
    /// Version of the row; 0 before it is stored.
    pub(crate) version: u64,
}

/// A party.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) organization: String,
    pub(crate) country: String,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) eins: Vec<Ein>,
    pub(crate) device_quota: u64,
    pub(crate) transport_key: Vec<u8>,
    /// Uncompressed P-256 point; provisioners have one.
    pub(crate) encryption_key: Option<[u8; 65]>,
    pub(crate) accreditation: Option<Accreditation>,
    pub(crate) suspended: bool,
    /// Version of the row; 0 before it is stored.
    pub(crate) version: u64,
}

/// Evidence that a party may hold GSMA certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Accreditation {
    pub(crate) reference: String,
    pub(crate) expires: Timestamp,
}

/// Whoever a credential belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Actor {
    Person(Arc<Person>),
    Party(Arc<Party>),
}

impl Actor {
    pub(crate) fn roles(&self) -> &[Role] {
        match self {
            Self::Person(person) => &person.roles,
            Self::Party(party) => std::slice::from_ref(&party.role),
        }
    }

    /// Whether a connection that was opened with this key may still call: it may outlive its certificate.
    pub(crate) fn has_credential(&self, principal: &PrincipalId, now: Timestamp) -> bool {
        let credentials = match self {
            Self::Person(person) => &person.credentials,
            Self::Party(party) => &party.credentials,
        };
        credentials.iter().any(|held| held.principal == *principal && now < held.not_after)
    }

    pub(crate) fn credentials(&self) -> &[Credential] {
        match self {
            Self::Person(person) => &person.credentials,
            Self::Party(party) => &party.credentials,
        }
    }

    pub(crate) fn is_suspended(&self) -> bool {
        match self {
            Self::Person(person) => person.suspended,
            Self::Party(party) => party.suspended,
        }
    }

    /// That the record is still as it was read: named by every deed of the actor.
    pub(crate) fn unchanged(&self) -> Precondition {
        let (keyspace, name, version) = match self {
            Self::Person(person) => (PERSONS, &person.name, person.version),
            Self::Party(party) => (PARTIES, &party.name, party.version),
        };
        Precondition::Version { keyspace, key: name.as_bytes().to_vec(), version }
    }
}

/// Reads the authority's records; each is decoded once per version.
pub(crate) struct Authority {
    pub(crate) name: String,
    store: Arc<dyn Store>,
    decoded: Mutex<HashMap<Vec<u8>, (u64, Actor)>>,
}

impl Authority {
    pub(crate) fn new(name: String, store: Arc<dyn Store>) -> Self {
        Self { name, store, decoded: Mutex::default() }
    }

    /// Whose credential this is.
    pub(crate) fn actor(&self, principal: &PrincipalId) -> Result<Option<Actor>, AuthorityError> {
        let Some(row) = self.store.get(CREDENTIALS, &principal.0)? else { return Ok(None) };
        let owner = std::str::from_utf8(&row.value).map_err(|_| AuthorityError::Record("credential"))?;
        if let Some(name) = owner.strip_prefix(PERSON) {
            Ok(self.person(name)?.map(Actor::Person))
        } else if let Some(name) = owner.strip_prefix(PARTY) {
            Ok(self.party(name)?.map(Actor::Party))
        } else {
            Err(AuthorityError::Record("credential"))
        }
    }

    pub(crate) fn person(&self, name: &str) -> Result<Option<Arc<Person>>, AuthorityError> {
        let Some(row) = self.store.get(PERSONS, name.as_bytes())? else { return Ok(None) };
        let key = format!("{PERSON}{name}").into_bytes();
        let actor = self.decoded(key, row.version, || Ok(Actor::Person(Arc::new(Person::decode(&row)?))))?;
        match actor {
            Actor::Person(person) => Ok(Some(person)),
            Actor::Party(_) => Err(AuthorityError::Record("person")),
        }
    }

    pub(crate) fn party(&self, name: &str) -> Result<Option<Arc<Party>>, AuthorityError> {
        let Some(row) = self.store.get(PARTIES, name.as_bytes())? else { return Ok(None) };
        let key = format!("{PARTY}{name}").into_bytes();
        let actor = self.decoded(key, row.version, || Ok(Actor::Party(Arc::new(Party::decode(&row)?))))?;
        match actor {
            Actor::Party(party) => Ok(Some(party)),
            Actor::Person(_) => Err(AuthorityError::Record("party")),
        }
    }

    /// Whoever has the name: no person and party share one.
    pub(crate) fn named(&self, name: &str) -> Result<Option<Actor>, AuthorityError> {
        Ok(match self.person(name)? {
            Some(person) => Some(Actor::Person(person)),
            None => self.party(name)?.map(Actor::Party),
        })
    }

    /// The write that changes somebody's standing, and that nothing else did meanwhile.
    pub(crate) fn set_suspended(
        &self,
        actor: &Actor,
        suspended: bool,
    ) -> Result<(Change, Precondition), AuthorityError> {
        let change =
            self.change(actor, |person| person.suspended = suspended, |party| party.suspended = suspended)?;
        Ok((change, actor.unchanged()))
    }

    /// The write that records a party's accreditation, and that nothing else changed the party meanwhile.
    pub(crate) fn set_accreditation(
        &self,
        party: Arc<Party>,
        accreditation: &Accreditation,
    ) -> Result<(Change, Precondition), AuthorityError> {
        let actor = Actor::Party(party);
        let change = self.change(
            &actor,
            |_| {},
            |party| {
                party.accreditation.clone_from(&accreditation.reference);
                party.accreditation_expires_micros = accreditation.expires.micros();
            },
        )?;
        Ok((change, actor.unchanged()))
    }

    /// The writes that give somebody one more credential beside the `kept` ones and end others, and that nothing else
    /// changed the record meanwhile.
    pub(crate) fn set_credentials(
        &self,
        actor: &Actor,
        kept: Vec<Credential>,
        added: Credential,
        ended: &[Credential],
    ) -> Result<(Vec<Change>, Vec<Precondition>), AuthorityError> {
        let credentials: Vec<_> = kept.iter().chain([&added]).map(Credential::encode).collect();
        let in_person = credentials.clone();
        let record = self.change(
            actor,
            |person| person.credentials = in_person,
            |party| party.credentials = credentials,
        )?;
        let owner = match actor {
            Actor::Person(person) => format!("{PERSON}{}", person.name),
            Actor::Party(party) => format!("{PARTY}{}", party.name),
        };
        let mut changes = vec![record, Change::put(CREDENTIALS, added.principal.0, owner)];
        changes.extend(ended.iter().map(|held| Change::delete(CREDENTIALS, held.principal.0)));
        let new = Precondition::Absent { keyspace: CREDENTIALS, key: added.principal.0.to_vec() };
        Ok((changes, vec![actor.unchanged(), new]))
    }

    fn change(
        &self,
        actor: &Actor,
        of_person: impl FnOnce(&mut stored::Person),
        of_party: impl FnOnce(&mut stored::Party),
    ) -> Result<Change, AuthorityError> {
        let gone = AuthorityError::Record("person or party");
        match actor {
            Actor::Person(person) => {
                let key = person.name.as_bytes();
                let row = self.store.get(PERSONS, key)?.ok_or(gone)?;
                let mut record =
                    stored::Person::decode(&*row.value).map_err(|_| AuthorityError::Record("person"))?;
                of_person(&mut record);
                Ok(Change::put(PERSONS, key, record.encode_to_vec()))
            }
            Actor::Party(party) => {
                let key = party.name.as_bytes();
                let row = self.store.get(PARTIES, key)?.ok_or(gone)?;
                let mut record =
                    stored::Party::decode(&*row.value).map_err(|_| AuthorityError::Record("party"))?;
                of_party(&mut record);
                Ok(Change::put(PARTIES, key, record.encode_to_vec()))
            }
        }
    }

    /// Every person.
    pub(crate) fn persons(&self) -> Result<Vec<Person>, AuthorityError> {
        self.store
            .scan(PERSONS, &[], None, 10_000)?
            .into_iter()
            .map(|(_, row)| Person::decode(&row))
            .collect()
    }

    /// Every party.
    pub(crate) fn parties(&self) -> Result<Vec<Party>, AuthorityError> {
        self.store.scan(PARTIES, &[], None, 10_000)?.into_iter().map(|(_, row)| Party::decode(&row)).collect()
    }

    /// How many persons must sign a protected operation, the requester included, and the version of that policy.
    pub(crate) fn policy(&self) -> Result<Policy, AuthorityError> {
        let unreadable = || AuthorityError::Record("policy");
        let row = self.store.get(AUTHORITY, POLICY_KEY)?.ok_or_else(unreadable)?;
        let record = stored::Policy::decode(&*row.value).map_err(|_| unreadable())?;
        // A threshold below two is no dual control; such a record cannot have been written by us.
        if record.persons_required < 2 {
            return Err(unreadable());
        }
        Ok(Policy { persons_required: record.persons_required, version: row.version })
    }

    fn decoded(
        &self,
        key: Vec<u8>,
        version: u64,
        decode: impl FnOnce() -> Result<Actor, AuthorityError>,
    ) -> Result<Actor, AuthorityError> {
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, actor)) = decoded.get(&key)
            && *seen == version
        {
            return Ok(actor.clone());
        }
        let actor = decode()?;
        decoded.insert(key, (version, actor.clone()));
        Ok(actor)
    }
}

/// The policy in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) persons_required: u32,
    pub(crate) version: u64,
}

impl Policy {
    /// The write that sets the founding policy.
    pub(crate) fn found(persons_required: u32) -> Change {
        Change::put(AUTHORITY, POLICY_KEY, stored::Policy { version: 1, persons_required }.encode_to_vec())
    }
}

impl Person {
    /// The writes that enrol a new person with its credentials.
    pub(crate) fn create(&self) -> (Vec<Change>, Vec<Precondition>) {
        let record = stored::Person {
            version: 1,
            name: self.name.clone(),
            roles: self.roles.iter().map(|r| r.as_str().to_owned()).collect(),
            credentials: self.credentials.iter().map(Credential::encode).collect(),
            approval_key: self.approval_key.clone(),
            suspended: self.suspended,
        };
        create(PERSONS, &self.name, record.encode_to_vec(), PERSON, &self.credentials)
    }

    fn decode(row: &Versioned) -> Result<Self, AuthorityError> {
        let unreadable = || AuthorityError::Record("person");
        let record = stored::Person::decode(&*row.value).map_err(|_| unreadable())?;
        Ok(Self {
            name: record.name,
            roles: record.roles.iter().map(|r| role(r)).collect::<Option<_>>().ok_or_else(unreadable)?,
            credentials: credentials(&record.credentials).ok_or_else(unreadable)?,
            approval_key: record.approval_key,
            suspended: record.suspended,
            version: row.version,
        })
    }
}

impl Party {
    /// The writes that enrol a new party with its credentials.
    pub(crate) fn create(&self) -> (Vec<Change>, Vec<Precondition>) {
        let record = stored::Party {
            version: 1,
            name: self.name.clone(),
            role: self.role.as_str().to_owned(),
            organization: self.organization.clone(),
            country: self.country.clone(),
            credentials: self.credentials.iter().map(Credential::encode).collect(),
            eins: self.eins.iter().map(Ein::to_string).collect(),
            device_quota: self.device_quota,
            transport_key: self.transport_key.clone(),
            encryption_key: self.encryption_key.map(|key| key.to_vec()).unwrap_or_default(),
            suspended: self.suspended,
            accreditation: self.accreditation.as_ref().map(|a| a.reference.clone()).unwrap_or_default(),
            accreditation_expires_micros: self.accreditation.as_ref().map_or(0, |a| a.expires.micros()),
        };
        create(PARTIES, &self.name, record.encode_to_vec(), PARTY, &self.credentials)
    }

    fn decode(row: &Versioned) -> Result<Self, AuthorityError> {
        let unreadable = || AuthorityError::Record("party");
        let record = stored::Party::decode(&*row.value).map_err(|_| unreadable())?;
        let encryption_key = if record.encryption_key.is_empty() {
            None
        } else {
            Some(record.encryption_key.try_into().map_err(|_| unreadable())?)
        };
        Ok(Self {
            name: record.name,
            role: role(&record.role).ok_or_else(unreadable)?,
            organization: record.organization,
            country: record.country,
            credentials: credentials(&record.credentials).ok_or_else(unreadable)?,
            eins: record
                .eins
                .iter()
                .map(|e| e.parse())
                .collect::<Result<_, _>>()
                .map_err(|_| unreadable())?,
            device_quota: record.device_quota,
            transport_key: record.transport_key,
            encryption_key,
            accreditation: (!record.accreditation.is_empty()).then(|| Accreditation {
                reference: record.accreditation,
                expires: Timestamp::from_micros(record.accreditation_expires_micros),
            }),
            suspended: record.suspended,
            version: row.version,
        })
    }
}

fn create(
    keyspace: store::Keyspace,
    name: &str,
    record: Vec<u8>,
    kind: &str,
    credentials: &[Credential],
) -> (Vec<Change>, Vec<Precondition>) {
    let mut changes = vec![Change::put(keyspace, name.as_bytes(), record)];
    let mut preconditions = vec![Precondition::Absent { keyspace, key: name.as_bytes().to_vec() }];
    for Credential { principal, .. } in credentials {
        changes.push(Change::put(CREDENTIALS, principal.0, format!("{kind}{name}")));
        preconditions.push(Precondition::Absent { keyspace: CREDENTIALS, key: principal.0.to_vec() });
    }
    (changes, preconditions)
}

impl Credential {
    fn encode(&self) -> stored::Credential {
        stored::Credential { principal: self.principal.0.to_vec(), not_after_micros: self.not_after.micros() }
    }
}

fn credentials(stored: &[stored::Credential]) -> Option<Vec<Credential>> {
    let read = |credential: &stored::Credential| {
        Some(Credential {
            principal: PrincipalId(credential.principal.as_slice().try_into().ok()?),
            not_after: Timestamp::from_micros(credential.not_after_micros),
        })
    };
    stored.iter().map(read).collect()
}

fn role(name: &str) -> Option<Role> {
    Role::ALL.into_iter().find(|role| role.as_str() == name)
}
