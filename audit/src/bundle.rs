//! Writing an export: entries go in, files come out, nothing is held but the digests of what left.

use std::collections::BTreeMap;

use crate::approval::ApprovalKey;
use crate::consistency::{ConsistencyProver, check_consistency, witness_request};
use crate::guide::{SCHEMA_PATH, entry_schema, verify_guide};
use crate::manifest::{LogKeyRecord, MANIFEST_PATH, Manifest, write_log_keys, write_policy};
use crate::{
    AuditError, Frontier, Hash, LogKey, OutputFile, TileWriter, VerifiedCheckpoint, is_bundle_path,
    leaf_hash, sha256, verify_checkpoint,
};

/// What an export is made of beside the entries.
#[derive(Clone, Debug)]
pub struct BundleHead {
    /// Version of the software that writes the export.
    pub software: String,
    /// Every key that signs or signed this log's checkpoints.
    pub log_keys: Vec<LogKeyRecord>,
    /// The checkpoint to export up to: a signed note. Its size is the number of entries to push.
    pub checkpoint: Vec<u8>,
    /// The checkpoint of the last export handed to this auditor, if it brought one.
    pub previous: Option<Vec<u8>>,
}

/// One person's approval, as stored: the proof, not the claim.
#[derive(Clone, Debug)]
pub struct ApprovalEvidence {
    /// DER ECDSA signature over the approval message.
    pub signature: Vec<u8>,
    /// DER SubjectPublicKeyInfo of the person's approval key.
    pub spki: Vec<u8>,
}

/// Makes the files of an export, one call at a time. Every returned file must be written, in any order; the manifest is
/// the last one of [`BundleWriter::finish`]. Memory grows by some 100 bytes a file, a file being 256 entries.
///
/// The same input gives the same bytes: an export holds no time of its own.
pub struct BundleWriter {
    head: BundleHead,
    checkpoint: VerifiedCheckpoint,
    previous: Option<VerifiedCheckpoint>,
    prover: ConsistencyProver,
    frontier: Frontier,
    tiles: TileWriter,
    written: BTreeMap<String, (Hash, u64)>,
}

impl BundleWriter {
    /// Begins an export. Both checkpoints must verify under the given keys and be of one log.
    pub fn new(head: BundleHead) -> Result<Self, AuditError> {
        let keys: Vec<LogKey> =
            head.log_keys.iter().map(|record| LogKey::from_vkey(&record.vkey)).collect::<Result<_, _>>()?;
        let checkpoint = verify_checkpoint(&head.checkpoint, &keys)?;
        let previous = head.previous.as_deref().map(|note| verify_checkpoint(note, &keys)).transpose()?;
        let old_size = previous.as_ref().map_or(0, |previous| previous.body.size);
        if old_size > checkpoint.body.size {
            return Err(AuditError::Export(
                "the earlier checkpoint is larger than the one to export".to_owned(),
            ));
        }
        Ok(Self {
            prover: ConsistencyProver::new(old_size, checkpoint.body.size),
            head,
            checkpoint,
            previous,
            frontier: Frontier::new(),
            tiles: TileWriter::new(),
            written: BTreeMap::new(),
        })
    }

    /// How many entries the checkpoint covers: all of them are to be pushed, in order from 0.
    pub const fn size(&self) -> u64 {
        self.checkpoint.body.size
    }

    /// The next entry, as stored. It is not judged here: an export shows the log as it is.
    pub fn push_entry(&mut self, entry: &[u8]) -> Result<Vec<OutputFile>, AuditError> {
        if self.frontier.size() == self.size() {
            return Err(AuditError::Export("more entries than the checkpoint covers".to_owned()));
        }
        let leaf = leaf_hash(entry);
        self.frontier.push(leaf);
        self.prover.push(leaf);
        let files = self.tiles.push(leaf, entry)?;
        self.record(files)
    }

    /// An operation's canonical bytes and its signatures: the requester's first, then the approvals in their order.
    pub fn push_operation(
        &mut self,
        operation: &[u8],
        evidence: &[ApprovalEvidence],
    ) -> Result<Vec<OutputFile>, AuditError> {
        let folder = format!("approvals/{}", hex::encode(sha256(operation)));
        let mut files =
            vec![OutputFile { path: format!("{folder}/operation.bin"), bytes: operation.to_vec() }];
        for (at, one) in (1..).zip(evidence) {
            let key = ApprovalKey::from_spki_der(&one.spki)?;
            files.push(OutputFile { path: format!("{folder}/{at}.der"), bytes: one.signature.clone() });
            files.push(OutputFile { path: format!("{folder}/{at}.pem"), bytes: key.to_pem().into_bytes() });
        }
        self.record(files)
    }

    /// A certificate or revocation list of an actor or approver, under `certs/` with this file name.
    pub fn push_certificate(&mut self, name: &str, bytes: &[u8]) -> Result<Vec<OutputFile>, AuditError> {
        if name.contains('/') {
            return Err(AuditError::Export(format!("{name:?} is no file name")));
        }
        self.record(vec![OutputFile { path: format!("certs/{name}"), bytes: bytes.to_vec() }])
    }

    /// Ends the export: partial tiles, checkpoint, keys, guide, and the manifest as the last file. Refuses when the
    /// pushed entries are not those of the checkpoint, or do not extend the earlier one.
    pub fn finish(mut self) -> Result<Vec<OutputFile>, AuditError> {
        let body = &self.checkpoint.body;
        if self.frontier.size() != body.size || self.frontier.root() != body.root {
            return Err(AuditError::Export(format!(
                "the {} entries given are not the {} of the checkpoint",
                self.frontier.size(),
                body.size
            )));
        }
        let mut files = std::mem::take(&mut self.tiles).finish();
        let mut add = |path: &str, bytes: Vec<u8>| files.push(OutputFile { path: path.to_owned(), bytes });
        if let (Some(previous), Some(note)) = (&self.previous, &self.head.previous) {
            let proof = std::mem::replace(&mut self.prover, ConsistencyProver::new(0, 0)).finish();
            check_consistency(&previous.body, body, &proof)?;
            add("previous/checkpoint", note.clone());
            add("consistency.txt", witness_request(previous.body.size, &proof, &self.head.checkpoint));
        }
        let key = self.checkpoint.signers.first();
        let key = key.ok_or_else(|| AuditError::Export("no known key signed the checkpoint".to_owned()))?;
        add("checkpoint", self.head.checkpoint.clone());
        add("policy.txt", write_policy(&self.head.log_keys));
        add("log-keys.json", write_log_keys(&self.head.log_keys));
        add("VERIFY.md", verify_guide(body.size, key).into_bytes());
        add(SCHEMA_PATH, entry_schema().into_bytes());
        let mut files = self.record(files)?;
        let body = &self.checkpoint.body;
        let manifest = Manifest::new(&body.origin, body.size, &self.head.software, self.written);
        files.push(OutputFile { path: MANIFEST_PATH.to_owned(), bytes: manifest.to_bytes() });
        Ok(files)
    }

    fn record(&mut self, files: Vec<OutputFile>) -> Result<Vec<OutputFile>, AuditError> {
        for file in &files {
            let digest = (sha256(&file.bytes), file.bytes.len() as u64);
            if !is_bundle_path(&file.path) || self.written.insert(file.path.clone(), digest).is_some() {
                return Err(AuditError::Export(format!("{:?} is no path, or was written before", file.path)));
            }
        }
        Ok(files)
    }
}
