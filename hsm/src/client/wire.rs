//! Between the daemon's types and those of the workers' frames.

use domain::{Eid, KeyCheckValue};
use keys::put_key::EncryptedKey;
use tokio::sync::oneshot;

use crate::error::{ErrorClass, HsmError};
use crate::job::{CardProof, DeviceKeyBlobs, PutKeyBlocks, WrappedKey};
use crate::protocol::{JobOutput, WireCardProofs, WireDeviceKeys, WireKey, WireProof};
use crate::wire_keysets::WireKeysets;

pub(super) fn wire_proofs(proofs: Vec<CardProof>) -> WireCardProofs {
    let shown = proofs
        .iter()
        .map(|proof| WireProof {
            host_challenge: proof.host_challenge,
            card_challenge: proof.card_challenge,
            card_cryptogram: proof.card_cryptogram,
        })
        .collect();
    let keysets = WireKeysets::of(proofs.into_iter().map(|proof| proof.keyset));
    WireCardProofs { keysets, proofs: shown }
}

pub(super) fn wire_eids(eids: &[Eid]) -> Vec<[u8; 16]> {
    eids.iter().map(|eid| *eid.bcd()).collect()
}

/// The blocks of one device; `None` when they are not three.
pub(super) fn put_key_blocks(keys: Vec<WireKey>) -> Option<PutKeyBlocks> {
    let blocks = keys.into_iter().map(|key| EncryptedKey { block: key.wrapped, kcv: KeyCheckValue(key.kcv) });
    blocks.collect::<Vec<_>>().try_into().ok()
}

pub(super) fn order_device(device: WireDeviceKeys) -> DeviceKeyBlobs {
    let wrapped = |key: WireKey| WrappedKey { wrapped: key.wrapped, kcv: KeyCheckValue(key.kcv) };
    DeviceKeyBlobs { keys: device.keys.into_iter().map(wrapped).collect(), stored: device.blobs }
}

/// Refuses a batch that is empty or longer than one job may be.
pub(super) fn bounded(batch: &str, items: &str, len: usize, max: usize) -> Result<(), HsmError> {
    if (1..=max).contains(&len) {
        Ok(())
    } else {
        Err(HsmError::caller(format!("{batch} has 1 to {max} {items}, not {len}")))
    }
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
            JobOutput::Signatures(_) | JobOutput::MessageSignature(_) => "signatures",
            JobOutput::SessionKeys(_)
            | JobOutput::CardCryptogramMismatch
            | JobOutput::CardChallengeMismatch => "session keys",
            JobOutput::OrderChunk { .. } => "an order chunk",
            JobOutput::KeyPairs { .. } => "key pairs",
            JobOutput::PutKey(_) => "PUT KEY blocks",
            JobOutput::Exported { .. } => "an export",
            JobOutput::CardProofs(_) => "card proofs",
            JobOutput::CheckValues(_) => "check values",
            JobOutput::Secret(_) => "a secret",
            JobOutput::Ota(_) => "packets and scripts",
            JobOutput::Incoming(_) => "stored keys",
            JobOutput::TlsSecret(_) => "a TLS secret",
            JobOutput::Scp11(_) => "an SCP11 session",
            JobOutput::RspBound { .. } => "a bound profile",
            JobOutput::Done => "done",
        }
    ))
}
