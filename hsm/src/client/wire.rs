//! Between the daemon's types and those of the workers' frames.

use domain::{Eid, KeyCheckValue};
use keys::put_key::EncryptedKey;
use tokio::sync::oneshot;

use super::dispatch::FRAME_WEIGHT_MAX;
use crate::error::{ErrorClass, HsmError};
use crate::job::{CardProof, INPUT_BYTES_MAX, PutKeyBlocks};
use crate::protocol::{JobOutput, WireCardProof, WireDeviceKeys, WireKeyset};

impl From<CardProof> for WireCardProof {
    fn from(proof: CardProof) -> Self {
        let d = &proof.derivation;
        Self {
            keyset: WireKeyset::new(d.protocol, d.security_domain, d.kvn, d.algorithm),
            eid: *d.eid.bcd(),
            master: proof.master,
            host_challenge: proof.host_challenge,
            card_challenge: proof.card_challenge,
            card_cryptogram: proof.card_cryptogram,
        }
    }
}

pub(super) fn wire_eids(eids: &[Eid]) -> Vec<[u8; 16]> {
    eids.iter().map(|eid| *eid.bcd()).collect()
}

pub(super) fn put_key_blocks(device: WireDeviceKeys) -> PutKeyBlocks {
    let [enc, mac, dek] = device.wrapped;
    let [kcv_enc, kcv_mac, kcv_dek] = device.kcv.map(KeyCheckValue);
    [(enc, kcv_enc), (mac, kcv_mac), (dek, kcv_dek)].map(|(block, kcv)| EncryptedKey { block, kcv })
}

/// Refuses a batch that is empty or longer than one job may be.
pub(super) fn bounded(batch: &str, items: &str, len: usize, max: usize) -> Result<(), HsmError> {
    if (1..=max).contains(&len) {
        Ok(())
    } else {
        Err(HsmError::caller(format!("{batch} has 1 to {max} {items}, not {len}")))
    }
}

/// Cuts inputs into jobs of one frame each, by number and by bytes.
pub(super) fn parts(inputs: &[Vec<u8>]) -> Vec<&[Vec<u8>]> {
    let mut parts = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, input) in inputs.iter().enumerate() {
        if at > from && (at - from == FRAME_WEIGHT_MAX || bytes + input.len() > INPUT_BYTES_MAX) {
            parts.push(&inputs[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += input.len();
    }
    if from < inputs.len() {
        parts.push(&inputs[from..]);
    }
    parts
}

pub(super) fn received(
    outcome: Result<Result<JobOutput, HsmError>, oneshot::error::RecvError>,
) -> Result<JobOutput, HsmError> {
    outcome.unwrap_or_else(|_| Err(HsmError::new(ErrorClass::ShuttingDown, "the token handle was closed")))
}

pub(super) fn unexpected(output: &JobOutput) -> HsmError {
    HsmError::token(format!(
        "the worker answered something else: {}",
        match output {
            JobOutput::Signatures(_) => "signatures",
            JobOutput::SessionKeys { .. } | JobOutput::CardCryptogramMismatch => "session keys",
            JobOutput::OrderChunk { .. } => "an order chunk",
            JobOutput::PutKey(_) => "PUT KEY blocks",
            JobOutput::CardProofs(_) => "card proofs",
            JobOutput::Secret(_) => "a secret",
            JobOutput::Done => "done",
        }
    ))
}
