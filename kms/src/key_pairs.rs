//! Key pairs made for an order's devices: step 2b of `docs/cycles/orders.md`.

use std::collections::BTreeMap;

use domain::{EuiccCurve, ReasonCode};

use crate::{KmsError, Orders};

/// The key pairs of one chunk: public keys, and private keys that only the manufacturer can unwrap.
#[derive(Debug)]
pub struct ChunkKeyPairs {
    pub(crate) made: hsm::KeyPairs,
    /// Line -> its place among the pairs.
    of_line: BTreeMap<u64, usize>,
}

impl ChunkKeyPairs {
    /// The public key made for a line: SubjectPublicKeyInfo, DER.
    pub fn public_key(&self, line: u64) -> Option<&[u8]> {
        self.pair(line).map(|pair| pair.public_key.as_slice())
    }

    /// The wrapped private key made for a line.
    pub(crate) fn private_key(&self, line: u64) -> Option<&[u8]> {
        self.pair(line).map(|pair| pair.private_key.as_slice())
    }

    fn pair(&self, line: u64) -> Option<&hsm::WrappedKeyPair> {
        self.of_line.get(&line).and_then(|at| self.made.pairs.get(*at))
    }
}

impl Orders<'_> {
    /// Has the token make a key pair for each of `lines`, at most a chunk's worth; no lines, no job. Nothing stays on
    /// the token and nothing is durable yet: what is not used is gone.
    pub async fn make_key_pairs(
        &self,
        curve: EuiccCurve,
        lines: &[u64],
        options: hsm::CallOptions,
    ) -> Result<Option<ChunkKeyPairs>, KmsError> {
        if lines.is_empty() {
            return Ok(None);
        }
        let of_line: BTreeMap<u64, usize> = lines.iter().enumerate().map(|(at, line)| (*line, at)).collect();
        if of_line.len() != lines.len() {
            let message = "line numbers start at 1 and are unique";
            return Err(KmsError::refused(ReasonCode::InvalidField, message, None));
        }
        let job = hsm::KeyPairsJob {
            curve,
            count: lines.len(),
            recipient_spki: self.manufacturer.transport_key.clone(),
        };
        let made = self.engines.token.key_pairs(job, options).await?;
        Ok(Some(ChunkKeyPairs { made, of_line }))
    }
}
