//! The transparency log's bytes: entries, leaves, tiles, checkpoints, the export bundle and its offline verifier.
//!
//! Pure: no network, token, clock or database; the verifier reads files through [`BundleFiles`]. Signatures of
//! checkpoints and approvals are made elsewhere and come in as bytes. `docs/formats/log-entry.md` and
//! `docs/formats/audit-export.md` describe what leaves the authority.

mod error;

mod event;
mod fact;
mod pseudonym;

mod entry;

mod tree;

mod tiles;

mod checkpoint;
mod consistency;
mod deny_list;
mod statement;

mod approval;
mod quorum;

mod files;
mod guide;
mod manifest;

mod bundle;

mod report;

mod evidence;
mod verify;

pub use approval::{APPROVAL_CONTEXT, ApprovalKey, approval_message};
pub use bundle::{ApprovalEvidence, BundleHead, BundleWriter};
pub use checkpoint::{CheckpointBody, LogKey, VerifiedCheckpoint, signature_line, verify_checkpoint};
pub use consistency::{ConsistencyProver, check_consistency, parse_witness_request, witness_request};
pub use deny_list::{
    DENY_LIST, DENY_LIST_SECONDS, Denial, Denials, DenyListHead, deny_list_digest, deny_list_line,
    deny_list_lines, verify_deny_list, verify_whole_list,
};
pub use entry::{ENTRY_MAX, Entry, EntryDraft, FACTS_MAX, Header};
pub use error::AuditError;
pub use event::{EventType, Outcome};
pub use fact::{FACT_FIELDS, Fact, FactField, FactKind, Name, ShortBytes};
pub use files::{BundleFiles, BundleFolder, is_bundle_path};
pub use guide::{SCHEMA_PATH, entry_schema};
pub use manifest::{BUNDLE_FORMAT, Counts, FileRecord, LogKeyRecord, MANIFEST_PATH, Manifest, Part, Range};
pub use pseudonym::{Pseudonym, Pseudonyms};
pub use report::{Check, FINDINGS_MAX, Finding, TrustAnchors, VerifyFailure, VerifyReport};
pub use statement::{ORDER_RECEIPT, signed_statement, statement_text, verify_statement};
pub use tiles::{
    OutputFile, TILE_WIDTH, TileWriter, entry_bundle_path, hash_tile_path, split_bundle, tile_paths,
};
pub use tree::{Frontier, Hash, leaf_hash, node_hash, sha256};
pub use verify::{verify_bundle, verify_bundle_observed, verify_bundle_until};
