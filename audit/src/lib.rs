//! The transparency log's bytes: entries, leaves, tiles, checkpoints, the export bundle and its offline verifier.
//!
//! Pure: no network, token, clock or database; the verifier reads files through a small trait. Signatures of
//! checkpoints and approvals are made elsewhere and come in as bytes. `docs/formats/log-entry.md` and
//! `docs/formats/audit-export.md` describe what leaves the authority.

mod checkpoint;
mod entry;
mod error;
mod event;
mod fact;
mod pseudonym;
mod tiles;
mod tree;

pub use checkpoint::{CheckpointBody, LogKey, VerifiedCheckpoint, signature_line, verify_checkpoint};
pub use entry::{ENTRY_MAX, Entry, EntryDraft, FACTS_MAX, Header};
pub use error::AuditError;
pub use event::{EventType, Outcome};
pub use fact::{FACT_FIELDS, Fact, FactField, FactKind, Name, ShortBytes};
pub use pseudonym::{Pseudonym, Pseudonyms};
pub use tiles::{
    OutputFile, TILE_WIDTH, TileWriter, entry_bundle_path, hash_tile_path, split_bundle, tile_paths,
};
pub use tree::{Frontier, Hash, leaf_hash, node_hash, sha256};
