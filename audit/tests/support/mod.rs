//! A small authority: log key, persons with approval keys, a log with operations, and its export in memory.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use audit::{
    ApprovalEvidence, BundleHead, BundleWriter, CheckpointBody, EntryDraft, EventType, Fact, Frontier,
    LogKey, LogKeyRecord, Outcome, OutputFile, Pseudonyms, TrustAnchors, approval_message, leaf_hash, sha256,
    signature_line,
};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use domain::{Eid, ReasonCode, Role, Timestamp};
use zeroize::Zeroizing;

pub const ORIGIN: &str = "authority.example/node-1/2026";

pub type Files = BTreeMap<String, Vec<u8>>;

pub fn pseudonyms() -> Pseudonyms {
    Pseudonyms::new(Zeroizing::new([7; 32]), 2026)
}

pub fn at(index: u64) -> Timestamp {
    Timestamp::from_micros(1_795_550_803_000_000 + index as i64 * 1_000)
}

pub struct LogSigner {
    pair: Ed25519KeyPair,
    pub key: LogKey,
}

impl LogSigner {
    pub fn new(seed: u8) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = LogKey::new(ORIGIN, pair.public_key().as_ref().try_into().unwrap()).unwrap();
        Self { pair, key }
    }

    pub fn line(&self, text: &str) -> String {
        let signature: [u8; 64] = self.pair.sign(text.as_bytes()).as_ref().try_into().unwrap();
        assert!(self.key.verifies(text.as_bytes(), &signature));
        signature_line(self.key.name(), self.key.public_key(), &signature)
    }

    pub fn checkpoint(&self, body: &CheckpointBody) -> Vec<u8> {
        body.signed(&[self.line(&body.unsigned_text())])
    }

    pub fn anchors(&self) -> TrustAnchors {
        TrustAnchors { log_keys: vec![self.key.clone()], known_checkpoints: Vec::new() }
    }
}

pub struct Person {
    pub name: String,
    pair: EcdsaKeyPair,
}

/// The operation that revokes many certificates; every other one enrols a party.
pub const MANY: &[u8] = b"revoke many";

impl Person {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap() }
    }

    pub fn spki(&self) -> Vec<u8> {
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        [prefix.as_slice(), self.pair.public_key().as_ref()].concat()
    }

    pub fn approve(&self, operation: &[u8]) -> ApprovalEvidence {
        let message = approval_message(&sha256(operation));
        let signature = self.pair.sign(&SystemRandom::new(), &message).unwrap();
        ApprovalEvidence { signature: signature.as_ref().to_vec(), spki: self.spki() }
    }

    pub fn entry(&self, event: EventType, operation: &[u8], evidence: &ApprovalEvidence) -> EntryDraft {
        EntryDraft::new(event, Outcome::Done)
            .role(Role::Officer)
            .actor(pseudonyms().person(&self.name))
            .fact("operation", Fact::Digest(sha256(operation)))
            .fact(
                "kind",
                Fact::fixed_name(if operation == MANY { "revoke-certificates" } else { "enrol-party" }),
            )
            .fact("k", Fact::Number(2))
            .fact("key", Fact::Digest(sha256(&evidence.spki)))
            .fact("signature", Fact::Digest(sha256(&evidence.signature)))
    }
}

pub fn executed(operation: &[u8], approvals: u64) -> EntryDraft {
    EntryDraft::new(EventType::OperationExecuted, Outcome::Done)
        .role(Role::Officer)
        .fact("operation", Fact::Digest(sha256(operation)))
        .fact("k", Fact::Number(2))
        .fact("approvals", Fact::Number(approvals))
}

pub fn released(number: u64) -> EntryDraft {
    let eid = Eid::from_body(&format!("8904903212345123451234{:08}", number % 100_000_000)).unwrap();
    let outcome = match number % 5 {
        0 => Outcome::Refused(ReasonCode::NotGranted),
        _ => Outcome::Done,
    };
    EntryDraft::new(EventType::SessionKeysReleased, outcome)
        .role(Role::Provisioner)
        .actor(pseudonyms().party("smdp.example"))
        .object(pseudonyms().device(&eid))
        .fact("kvn", Fact::Number(0x30))
}

/// A log under construction with the evidence of its operations.
#[derive(Default)]
pub struct Log {
    pub entries: Vec<Vec<u8>>,
    pub operations: Vec<(Vec<u8>, Vec<ApprovalEvidence>)>,
}

impl Log {
    pub fn push(&mut self, draft: &EntryDraft) {
        let index = self.entries.len() as u64;
        self.entries.push(draft.seal(index, at(index)));
    }

    /// An operation requested by one person, approved by another, executed.
    pub fn run_operation(&mut self, operation: &[u8], requester: &Person, approver: &Person) {
        let (first, second) = (requester.approve(operation), approver.approve(operation));
        self.push(&requester.entry(EventType::OperationRequested, operation, &first));
        self.push(&approver.entry(EventType::OperationApproved, operation, &second));
        self.push(&executed(operation, 2));
        self.operations.push((operation.to_vec(), vec![first, second]));
    }

    /// `size` entries with one operation among the first ones.
    pub fn of(size: u64) -> Self {
        let mut log = Self::default();
        log.push(&EntryDraft::new(EventType::AuthorityCreated, Outcome::Done));
        log.run_operation(b"enrol the EUM", &Person::new("alice"), &Person::new("bob"));
        log.fill(size);
        log
    }

    pub fn fill(&mut self, size: u64) {
        while (self.entries.len() as u64) < size {
            self.push(&released(self.entries.len() as u64));
        }
    }

    pub fn body(&self, size: usize) -> CheckpointBody {
        let mut frontier = Frontier::new();
        self.entries[..size].iter().for_each(|entry| frontier.push(leaf_hash(entry)));
        CheckpointBody { origin: ORIGIN.to_owned(), size: frontier.size(), root: frontier.root() }
    }

    pub fn export(&self, signer: &LogSigner, previous: Option<usize>) -> Files {
        let mut writer = BundleWriter::new(BundleHead {
            software: "0.1.0".to_owned(),
            log_keys: vec![LogKeyRecord::first(&signer.key)],
            checkpoint: signer.checkpoint(&self.body(self.entries.len())),
            previous: previous.map(|size| signer.checkpoint(&self.body(size))),
        })
        .unwrap();
        let mut files = Files::new();
        let mut keep = |output: Vec<OutputFile>| {
            for file in output {
                assert!(files.insert(file.path.clone(), file.bytes).is_none(), "{} written twice", file.path);
            }
        };
        for entry in &self.entries {
            keep(writer.push_entry(entry).unwrap());
        }
        for (operation, evidence) in &self.operations {
            keep(writer.push_operation(operation, evidence).unwrap());
        }
        keep(writer.finish().unwrap());
        files
    }
}

/// The same files with a manifest made anew, as whoever changes an export would.
pub fn remanifest(files: &Files) -> Files {
    let mut manifest = audit::Manifest::parse(&files["MANIFEST.json"]).unwrap();
    manifest.files = files
        .iter()
        .filter(|(path, _)| path.as_str() != "MANIFEST.json")
        .map(|(path, bytes)| audit::FileRecord {
            path: path.clone(),
            sha256: hex::encode(sha256(bytes)),
            size: bytes.len() as u64,
        })
        .collect();
    let under = |ending: &str| {
        manifest.files.iter().filter(|f| f.path.starts_with("approvals/") && f.path.ends_with(ending)).count()
            as u64
    };
    manifest.counts.operations = under("/operation.bin");
    manifest.counts.signatures = under(".der");
    let mut files = files.clone();
    files.insert("MANIFEST.json".to_owned(), manifest.to_bytes());
    files
}
