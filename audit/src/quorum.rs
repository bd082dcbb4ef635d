//! Quorum decisions, recomputed from the entries alone.

use std::collections::BTreeMap;

use crate::{Entry, EventType, Hash, Outcome, Pseudonym};

/// One person's signature as the log tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SignedBy {
    /// Entry that recorded it.
    pub index: u64,
    /// The person.
    pub person: Pseudonym,
    /// SHA-256 of the approval key's SubjectPublicKeyInfo.
    pub key: Hash,
    /// SHA-256 of the DER signature.
    pub signature: Hash,
}

/// What the log says about one operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Distinct persons who must sign.
    pub k: u64,
    /// What they sign, as the request named it.
    kind: String,
    /// The requester's signature first, then the approvals in order.
    pub signed: Vec<SignedBy>,
    /// The first entry that says execution began or ended well.
    pub executed: Option<u64>,
    rejected: Option<u64>,
    done: Option<u64>,
    /// The entry of what it was approved for.
    deed: Option<u64>,
    /// Certificates that are still to follow a `certificates.revoked`.
    to_revoke: u64,
}

/// Follows every operation through the log.
#[derive(Default)]
pub(crate) struct QuorumBook {
    operations: BTreeMap<Hash, Operation>,
    /// Protected deeds of the founding ceremony, before the service first started: no operation could precede them.
    founding: u64,
    in_service: bool,
}

impl QuorumBook {
    /// The operations by digest.
    pub fn operations(&self) -> &BTreeMap<Hash, Operation> {
        &self.operations
    }

    /// How many protected deeds belong to the founding ceremony, whose transcript vouches for them.
    pub const fn founding(&self) -> u64 {
        self.founding
    }

    /// Takes the next entry; the error says what is wrong with it.
    pub fn observe(&mut self, entry: &Entry) -> Result<(), String> {
        let outcome = entry.header.outcome;
        match (entry.header.event, outcome) {
            (EventType::ServiceStarted, _) => {
                self.in_service = true;
                Ok(())
            }
            (EventType::OperationRequested, Outcome::Done) => self.requested(entry),
            (EventType::OperationApproved, Outcome::Done) => self.approved(entry),
            (EventType::OperationRejected, Outcome::Done) => self.rejected(entry),
            (EventType::OperationExecuted, Outcome::Intent | Outcome::Done) => self.executed(entry),
            (
                EventType::PersonEnrolled
                | EventType::PartyEnrolled
                | EventType::GrantCreated
                | EventType::IssuerRegistered
                | EventType::ResponderRegistered
                | EventType::MasterRegistered
                | EventType::TransportKeyRegistered
                | EventType::TransportKeyRetired
                | EventType::ImportKeyRegistered
                | EventType::KeysetExported
                | EventType::DeviceRestored
                | EventType::RotationStarted
                | EventType::RotationRollBackStarted
                | EventType::CertificateRevoked
                | EventType::CertificatesRevoked
                | EventType::CertificateReleased
                | EventType::StandingChanged
                | EventType::AccreditationRecorded
                | EventType::StorageKeysRegistered
                | EventType::OceKeyRegistered
                | EventType::AnchorRegistered
                | EventType::AnchorRetired
                | EventType::CertificateImported
                | EventType::CredentialRenewed
                | EventType::RspKeyRegistered
                | EventType::KeysetStateChanged
                | EventType::KeyCompromised
                | EventType::LogKeyAdded,
                Outcome::Done,
            ) => self.consequence(entry),
            (EventType::CertificateIssued, Outcome::Done) if is_for_a_party(entry) => self.consequence(entry),
            _ => Ok(()),
        }
    }

    fn requested(&mut self, entry: &Entry) -> Result<(), String> {
        let digest = fact(entry.digest("operation"), "operation")?;
        let kind = fact(entry.name("kind"), "kind")?.to_owned();
        let k = fact(entry.number("k"), "k")?;
        // TRUST rule "an empty requirement denies": with k of 1 the requester would approve alone.
        if k < 2 {
            return Err(format!("the operation asks for {k} persons; at least 2 must sign"));
        }
        let operation = Operation {
            k,
            kind,
            signed: vec![signed_by(entry)?],
            executed: None,
            rejected: None,
            done: None,
            deed: None,
            to_revoke: 0,
        };
        match self.operations.insert(digest, operation) {
            None => Ok(()),
            Some(_) => Err("the operation was requested before".to_owned()),
        }
    }

    fn approved(&mut self, entry: &Entry) -> Result<(), String> {
        let operation = self.find(entry)?;
        let signed = signed_by(entry)?;
        if entry.number("k") != Some(operation.k) {
            return Err(format!("k is not the requested {}", operation.k));
        }
        if let Some(rejected) = operation.rejected {
            return Err(format!("the operation was rejected by entry {rejected}"));
        }
        let first = &operation.signed[0];
        if first.person == signed.person {
            return Err(format!("the approver is the requester of entry {}", first.index));
        }
        for earlier in &operation.signed {
            if earlier.person == signed.person
                || earlier.key == signed.key
                || earlier.signature == signed.signature
            {
                return Err(format!(
                    "the person, key or signature counted already in entry {}",
                    earlier.index
                ));
            }
        }
        operation.signed.push(signed);
        Ok(())
    }

    fn rejected(&mut self, entry: &Entry) -> Result<(), String> {
        let operation = self.find(entry)?;
        operation.rejected = Some(entry.header.index);
        match operation.done {
            None => Ok(()),
            Some(done) => Err(format!("the operation was executed by entry {done}")),
        }
    }

    fn executed(&mut self, entry: &Entry) -> Result<(), String> {
        let operation = self.find(entry)?;
        let persons = operation.signed.len() as u64;
        let index = entry.header.index;
        operation.executed.get_or_insert(index);
        if let Some(rejected) = operation.rejected {
            return Err(format!("the operation was rejected by entry {rejected}"));
        }
        if entry.header.outcome == Outcome::Done
            && let Some(done) = operation.done.replace(index)
        {
            return Err(format!("the operation was executed before, by entry {done}"));
        }
        if entry.number("k") != Some(operation.k) {
            return Err(format!("k is not the requested {}", operation.k));
        }
        if entry.number("approvals") != Some(persons) {
            return Err(format!(
                "approvals is not {persons}, the number of distinct persons who signed before"
            ));
        }
        if persons < operation.k {
            return Err(format!("executed with {persons} persons' signatures; {} are required", operation.k));
        }
        Ok(())
    }

    /// A protected deed: it names the operation behind it, which must be of its kind, have its quorum and be executed, and
    /// covers no second one; only the founding has none.
    fn consequence(&mut self, entry: &Entry) -> Result<(), String> {
        if !entry.facts.contains_key("operation") {
            if self.in_service {
                return Err("a protected deed names no operation that approved it".to_owned());
            }
            self.founding += 1;
            return Ok(());
        }
        let operation = self.find(entry)?;
        let persons = operation.signed.len() as u64;
        if persons < operation.k {
            return Err(format!("done with {persons} persons' signatures; {} are required", operation.k));
        }
        if entry.header.event == EventType::CertificateRevoked && operation.kind == REVOKE_CERTIFICATES {
            operation.to_revoke = operation
                .to_revoke
                .checked_sub(1)
                .ok_or("more certificates were revoked than the operation was said to revoke")?;
            return Ok(());
        }
        if entry.header.event == EventType::CertificatesRevoked {
            operation.to_revoke = fact(entry.number("count"), "count")?;
        }
        // Who approved one thing approved no other (no approval is wider than what was shown).
        if kind_behind(entry.header.event) != Some(operation.kind.as_str()) {
            return Err(format!("what was approved is {}, not this", operation.kind));
        }
        if let Some(earlier) = operation.deed.replace(entry.header.index) {
            return Err(format!("what was approved was done before, by entry {earlier}"));
        }
        if let Some(rejected) = operation.rejected {
            return Err(format!("the operation was rejected by entry {rejected}"));
        }
        // The execution and what it does are one commit, the execution first.
        match operation.done {
            Some(_) => Ok(()),
            None => Err("no earlier entry executed this operation".to_owned()),
        }
    }

    fn find(&mut self, entry: &Entry) -> Result<&mut Operation, String> {
        let digest = fact(entry.digest("operation"), "operation")?;
        self.operations.get_mut(&digest).ok_or_else(|| "no earlier entry requested this operation".to_owned())
    }
}

/// The one kind whose deed has many entries: a head with their count, and they.
const REVOKE_CERTIFICATES: &str = "revoke-certificates";

/// Whether the certificate is one that only an approved operation issues: not a device's, which an approved order
/// covers, and not a credential, whose enrolment is the deed.
fn is_for_a_party(entry: &Entry) -> bool {
    let role = entry.name("certificate_role").or_else(|| entry.name("profile"));
    !matches!(
        role,
        Some("euicc" | "operator-root" | "operator-client" | "operator-server" | "ocsp-responder")
    )
}

/// The kind of the operations that a protected deed can come from (`docs/formats/log-entry.md`).
const fn kind_behind(event: EventType) -> Option<&'static str> {
    Some(match event {
        EventType::PersonEnrolled => "enrol-person",
        EventType::PartyEnrolled => "enrol-party",
        EventType::GrantCreated => "create-grant",
        EventType::IssuerRegistered => "register-issuer",
        EventType::ResponderRegistered => "register-responder",
        EventType::MasterRegistered => "register-master",
        EventType::TransportKeyRegistered => "register-transport-key",
        EventType::TransportKeyRetired => "retire-transport-key",
        EventType::ImportKeyRegistered => "register-import-key",
        EventType::KeysetExported => "export-keyset",
        EventType::DeviceRestored => "restore-device",
        EventType::RotationStarted => "start-rotation",
        EventType::RotationRollBackStarted => "roll-back-rotation",
        EventType::CertificateIssued => "issue-certificate",
        EventType::CertificateRevoked => "revoke-certificate",
        EventType::CertificatesRevoked => REVOKE_CERTIFICATES,
        EventType::CertificateReleased => "release-certificate",
        EventType::StandingChanged => "change-standing",
        EventType::AccreditationRecorded => "record-accreditation",
        EventType::StorageKeysRegistered => "register-storage-keys",
        EventType::OceKeyRegistered => "register-oce-key",
        EventType::AnchorRegistered => "register-anchor",
        EventType::AnchorRetired => "retire-anchor",
        EventType::CertificateImported => "import-certificate",
        EventType::CredentialRenewed => "renew-credential",
        EventType::RspKeyRegistered => "register-rsp-key",
        EventType::KeysetStateChanged => "change-keyset-state",
        EventType::KeyCompromised => "mark-compromised",
        _ => return None,
    })
}

fn signed_by(entry: &Entry) -> Result<SignedBy, String> {
    Ok(SignedBy {
        index: entry.header.index,
        person: entry.header.actor.ok_or("the entry names no actor")?,
        key: fact(entry.digest("key"), "key")?,
        signature: fact(entry.digest("signature"), "signature")?,
    })
}

fn fact<T>(value: Option<T>, name: &str) -> Result<T, String> {
    value.ok_or_else(|| format!("the entry lacks the fact {name}"))
}
