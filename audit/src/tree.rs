//! The Merkle tree of RFC 6962 §2.1, grown one leaf at a time.

use sha2::{Digest, Sha256};

use crate::AuditError;

/// A SHA-256 value: leaf, node or root.
pub type Hash = [u8; 32];

/// The leaf of an entry's stored bytes.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    // RFC 6962 §2.1: MTH({d}) = SHA-256(0x00 || d).
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The node over two subtrees.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    // RFC 6962 §2.1: SHA-256(0x01 || left || right).
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// SHA-256 of bytes, as facts and manifests quote it.
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The right edge of a growing tree: the roots of its perfect subtrees, largest first. All that appending needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

impl Frontier {
    /// The empty tree.
    pub const fn new() -> Self {
        Self { size: 0, hashes: Vec::new() }
    }

    /// From a stored size and its hashes, largest subtree first; there is one hash per one-bit of the size.
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Result<Self, AuditError> {
        if hashes.len() != size.count_ones() as usize {
            return Err(AuditError::Frontier { size, expected: size.count_ones(), found: hashes.len() });
        }
        Ok(Self { size, hashes })
    }

    /// The hashes to store beside the size.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends one leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one of the size is a perfect subtree that the new leaf completes to a larger one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// The root over all leaves; of the empty tree, SHA-256 of nothing.
    pub fn root(&self) -> Hash {
        self.hashes
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(|| sha256(b""))
    }
}
