//! The entry: one line of JSON, at most 4 KiB, hashed as stored. No secret, no personal data, no free text.

use std::collections::BTreeMap;

use domain::{Role, Timestamp};
use serde::Deserialize;

use crate::fact::{field, read_pseudonym};
use crate::{AuditError, EventType, Fact, Hash, Outcome, Pseudonym};

/// Longest entry in bytes. A sealed draft is always shorter.
pub const ENTRY_MAX: usize = 4096;

/// Most facts in one entry: so many of the longest ones fit into [`ENTRY_MAX`].
pub const FACTS_MAX: usize = 20;

/// What an entry will say; index and time come from the committer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryDraft {
    event: EventType,
    outcome: Outcome,
    role: Option<Role>,
    actor: Option<Pseudonym>,
    object: Option<Pseudonym>,
    // Sorted by name.
    facts: Vec<(&'static str, Fact)>,
}

impl EntryDraft {
    /// An entry about `event` that ended as `outcome`.
    pub const fn new(event: EventType, outcome: Outcome) -> Self {
        Self { event, outcome, role: None, actor: None, object: None, facts: Vec::new() }
    }

    /// The role in which the actor acted.
    #[must_use]
    pub const fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// Who acted. In operation entries the person, elsewhere the credential or party.
    #[must_use]
    pub const fn actor(mut self, actor: Pseudonym) -> Self {
        self.actor = Some(actor);
        self
    }

    /// What was acted on.
    #[must_use]
    pub const fn object(mut self, object: Pseudonym) -> Self {
        self.object = Some(object);
        self
    }

    /// SHA-256 of the request: the fact `request`.
    #[must_use]
    pub fn request(self, digest: Hash) -> Self {
        self.fact("request", Fact::Digest(digest))
    }

    /// Adds a fact of the field table.
    ///
    /// # Panics
    /// When the name is not in [`FACT_FIELDS`](crate::FACT_FIELDS), has another kind there, is set already, or is one
    /// too many. All four are mistakes in the code that any run of the line shows; none depends on data.
    #[must_use]
    pub fn fact(mut self, name: &'static str, fact: Fact) -> Self {
        let row = field(name);
        assert!(
            row.is_some_and(|row| row.kind == fact.kind()),
            "fact {name} of kind {:?} is not in the field table",
            fact.kind()
        );
        assert!(self.facts.len() < FACTS_MAX, "an entry holds at most {FACTS_MAX} facts");
        match self.facts.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(_) => panic!("fact {name} is set twice"),
            Err(at) => self.facts.insert(at, (name, fact)),
        }
        self
    }

    /// What the entry is about.
    pub const fn event(&self) -> EventType {
        self.event
    }

    /// How it ended.
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The bytes of the entry at its place in the log: the leaf's input, stored and exported as they are.
    /// Deterministic; at most [`ENTRY_MAX`] bytes; no newline.
    pub fn seal(&self, index: u64, time: Timestamp) -> Vec<u8> {
        let header = Header {
            index,
            time,
            event: self.event,
            outcome: self.outcome,
            role: self.role,
            actor: self.actor,
            object: self.object,
        };
        write_entry(&header, self.facts.iter().map(|(name, fact)| (*name, fact)))
    }
}

/// The columns every entry has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Place in the log, from 0.
    pub index: u64,
    /// When; later than the entry before.
    pub time: Timestamp,
    /// What it is about.
    pub event: EventType,
    /// How it ended.
    pub outcome: Outcome,
    /// The role in which the actor acted.
    pub role: Option<Role>,
    /// Who acted.
    pub actor: Option<Pseudonym>,
    /// What was acted on.
    pub object: Option<Pseudonym>,
}

/// An entry read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The columns every entry has.
    pub header: Header,
    /// Its facts by name.
    pub facts: BTreeMap<String, Fact>,
}

impl Entry {
    /// Reads stored bytes. Strict: the bytes are exactly those that sealing the same content gives.
    pub fn parse(bytes: &[u8]) -> Result<Self, AuditError> {
        if bytes.len() > ENTRY_MAX {
            return Err(AuditError::Entry(format!("{} bytes, at most {ENTRY_MAX} are allowed", bytes.len())));
        }
        let line: Line = serde_json::from_slice(bytes)
            .map_err(|error| AuditError::Entry(format!("malformed JSON: {error}")))?;
        let entry = line.into_entry()?;
        if entry.to_bytes() != bytes {
            return Err(AuditError::Entry("not in the one form of its content".to_owned()));
        }
        Ok(entry)
    }

    /// The stored bytes again.
    pub fn to_bytes(&self) -> Vec<u8> {
        write_entry(&self.header, self.facts.iter().map(|(name, fact)| (name.as_str(), fact)))
    }

    /// A fact that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.facts.get(name) {
            Some(Fact::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// A fact that is a digest.
    pub fn digest(&self, name: &str) -> Option<Hash> {
        match self.facts.get(name) {
            Some(Fact::Digest(digest)) => Some(*digest),
            _ => None,
        }
    }

    /// A fact that is a name.
    pub fn name(&self, name: &str) -> Option<&str> {
        match self.facts.get(name) {
            Some(Fact::Name(text)) => Some(text.as_str()),
            _ => None,
        }
    }
}

/// The one function that writes entries. Every value is a number, lower-case hex, a checked name or a fixed word, so
/// nothing needs escaping and no input can forge a field.
fn write_entry<'a>(header: &Header, facts: impl Iterator<Item = (&'a str, &'a Fact)>) -> Vec<u8> {
    let mut out = String::with_capacity(512);
    out.push_str("{\"v\":1,\"index\":");
    out.push_str(&header.index.to_string());
    out.push_str(",\"time\":\"");
    out.push_str(&header.time.to_string());
    out.push('"');
    let outcome = header.outcome;
    let mut column = |name: &str, value: Option<&str>| {
        out.push_str(",\"");
        out.push_str(name);
        match value {
            Some(value) => {
                out.push_str("\":\"");
                out.push_str(value);
                out.push('"');
            }
            None => out.push_str("\":null"),
        }
    };
    column("event", Some(header.event.as_str()));
    column("outcome", Some(outcome.as_str()));
    column("reason", outcome.reason().map(|reason| reason.as_str()));
    column("role", header.role.map(|role| role.as_str()));
    column("actor", header.actor.map(|actor| actor.to_string()).as_deref());
    column("object", header.object.map(|object| object.to_string()).as_deref());
    out.push_str(",\"facts\":{");
    for (at, (name, fact)) in facts.enumerate() {
        out.push_str(if at == 0 { "\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":");
        fact.write(&mut out);
    }
    out.push_str("}}");
    out.into_bytes()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    v: u64,
    index: u64,
    time: String,
    event: String,
    outcome: String,
    reason: Option<String>,
    role: Option<String>,
    actor: Option<String>,
    object: Option<String>,
    facts: BTreeMap<String, serde_json::Value>,
}

impl Line {
    fn into_entry(self) -> Result<Entry, AuditError> {
        let wrong = |what: &str, value: &str| AuditError::Entry(format!("{what} {value:?} is not known"));
        if self.v != 1 {
            return Err(AuditError::Entry(format!("version {} is not known", self.v)));
        }
        let pseudonym = |what: &str, text: Option<String>| match text {
            Some(digits) => read_pseudonym(&digits).map(Some).ok_or_else(|| wrong(what, &digits)),
            None => Ok(None),
        };
        let role = match self.role {
            Some(text) => Some(
                Role::ALL
                    .into_iter()
                    .find(|role| role.as_str() == text)
                    .ok_or_else(|| wrong("role", &text))?,
            ),
            None => None,
        };
        let mut facts = BTreeMap::new();
        for (name, value) in self.facts {
            // Names and values are checked by form, not by the field table: a later field stays readable.
            let fact = Fact::read(&value).ok_or_else(|| wrong("fact", &name))?;
            if !is_fact_name(&name) {
                return Err(wrong("fact", &name));
            }
            facts.insert(name, fact);
        }
        Ok(Entry {
            header: Header {
                index: self.index,
                time: self.time.parse().map_err(|_| wrong("time", &self.time))?,
                event: self.event.parse()?,
                outcome: Outcome::from_parts(&self.outcome, self.reason.as_deref())
                    .ok_or_else(|| wrong("outcome", &self.outcome))?,
                role,
                actor: pseudonym("actor", self.actor)?,
                object: pseudonym("object", self.object)?,
            },
            facts,
        })
    }
}

fn is_fact_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')
}
