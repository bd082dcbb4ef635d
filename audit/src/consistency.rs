//! Consistency: the newer log holds the older one unchanged (RFC 6962 §2.1.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tlog_tiles::{Hash as TlogHash, check_tree};

use crate::{AuditError, CheckpointBody, Frontier, Hash};

/// Makes the proof from one size to another while the leaves stream by; holds a frontier per node of the proof.
#[derive(Clone, Debug)]
pub struct ConsistencyProver {
    pushed: u64,
    // Begin and end of the leaves under each node, in the order of the proof.
    nodes: Vec<(u64, u64, Frontier)>,
}

impl ConsistencyProver {
    /// For the proof that the tree of `new` leaves extends the one of `old`; `old` is at most `new`.
    pub fn new(old: u64, new: u64) -> Self {
        let mut ranges = Vec::new();
        if old > 0 && old < new {
            subproof(old, 0, new, true, &mut ranges);
        }
        Self { pushed: 0, nodes: ranges.into_iter().map(|(from, to)| (from, to, Frontier::new())).collect() }
    }

    /// The next leaf of the newer tree.
    pub fn push(&mut self, leaf: Hash) {
        for (from, to, frontier) in &mut self.nodes {
            if (*from..*to).contains(&self.pushed) {
                frontier.push(leaf);
            }
        }
        self.pushed += 1;
    }

    /// The proof, once every leaf was pushed. Empty when the sizes are equal or the older one is 0.
    pub fn finish(self) -> Vec<Hash> {
        self.nodes.into_iter().map(|(_, _, frontier)| frontier.root()).collect()
    }
}

// RFC 6962 §2.1.2: SUBPROOF(m, D[n], b) over the leaves from `begin` to `end`; `m` counts from `begin`.
fn subproof(m: u64, begin: u64, end: u64, complete: bool, nodes: &mut Vec<(u64, u64)>) {
    let n = end - begin;
    if m == n {
        if !complete {
            nodes.push((begin, end));
        }
        return;
    }
    let k = (n - 1).checked_ilog2().map_or(1, |log| 1 << log);
    if m <= k {
        subproof(m, begin, begin + k, complete, nodes);
        nodes.push((begin + k, end));
    } else {
        subproof(m - k, begin + k, end, false, nodes);
        nodes.push((begin, begin + k));
    }
}

/// Checks that `new` extends `old`. Both must already be verified notes of one log.
pub fn check_consistency(
    old: &CheckpointBody,
    new: &CheckpointBody,
    proof: &[Hash],
) -> Result<(), AuditError> {
    let wrong = |what: &str| AuditError::Consistency(what.to_owned());
    if old.origin != new.origin {
        return Err(wrong("the checkpoints are of two logs"));
    }
    if old.size > new.size {
        return Err(wrong("the older log is larger than the newer one"));
    }
    if old.size == 0 || old.size == new.size {
        let same = old.size == 0 || old.root == new.root;
        return if proof.is_empty() && same { Ok(()) } else { Err(wrong("same size with another root")) };
    }
    let proof = proof.iter().map(|hash| TlogHash(*hash)).collect();
    check_tree(&proof, new.size, TlogHash(new.root), old.size, TlogHash(old.root))
        .map_err(|_| wrong("the older log is not a part of the newer one"))
}

/// The body a witness takes (C2SP tlog-witness): old size, proof, blank line, new checkpoint.
pub fn witness_request(old_size: u64, proof: &[Hash], checkpoint: &[u8]) -> Vec<u8> {
    let mut body = format!("old {old_size}\n");
    for hash in proof {
        body.push_str(&BASE64.encode(hash));
        body.push('\n');
    }
    body.push('\n');
    [body.as_bytes(), checkpoint].concat()
}

/// Reads a witness request whose checkpoint is `checkpoint`, byte for byte: old size and proof.
pub fn parse_witness_request(request: &[u8], checkpoint: &[u8]) -> Result<(u64, Vec<Hash>), AuditError> {
    let wrong = || AuditError::Consistency("malformed request".to_owned());
    let head =
        request.strip_suffix(checkpoint).and_then(|head| std::str::from_utf8(head).ok()).ok_or_else(wrong)?;
    let mut lines = head.lines();
    let old = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or_else(wrong)?;
    let old = old.parse().map_err(|_| wrong())?;
    let mut proof: Vec<Hash> = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let hash = BASE64.decode(line).map_err(|_| wrong())?;
        proof.push(hash.try_into().map_err(|_| wrong())?);
    }
    // C2SP tlog-witness: at most 63 hashes.
    if proof.len() > 63 || witness_request(old, &proof, checkpoint) != request {
        return Err(wrong());
    }
    Ok((old, proof))
}
