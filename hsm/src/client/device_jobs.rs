//! The jobs on devices and their keys: orders, PUT KEY, export, proofs of cards.

use domain::{KeysetAlgorithm, Protocol};

use super::Token;
use super::wire::{bounded, order_device, put_key_blocks, received, unexpected, wire_eids, wire_proofs};
use crate::error::HsmError;
use crate::job::{
    CARD_PROOFS_MAX, CallOptions, CardProofJob, ExportJob, ExportRecipient, ExportedKeys,
    ORDER_CHUNK_DEVICES_MAX, OrderChunk, OrderChunkJob, OrderKeys, PUT_KEY_DEVICES_MAX, PutKeyBlocks,
    PutKeyDevice, PutKeyJob, WrappedKey,
};
use crate::protocol::{Job, JobOutput, WireExport, WireOrderChunk, WireOrderKeys, WirePutKey};
use crate::source::StorageKeys;
use crate::spki;
use crate::wire_keysets::{WireKeysets, WireKind};

impl Token {
    /// Derives and wraps the keysets of one chunk of an order under a fresh transport key; see [`OrderChunkJob`].
    pub async fn order_chunk(
        &self,
        job: OrderChunkJob,
        options: CallOptions,
    ) -> Result<OrderChunk, HsmError> {
        let inner = self.inner();
        let keys = match job.keys {
            OrderKeys::Derived { master } => {
                inner.known_master(&master)?;
                WireOrderKeys::Derived { master }
            }
            OrderKeys::Random(StorageKeys { kek, blob_mac }) => {
                inner.known_storage(&kek, &blob_mac)?;
                WireOrderKeys::Random { kek, blob_mac }
            }
        };
        bounded("an order chunk", "devices", job.eids.len(), ORDER_CHUNK_DEVICES_MAX)?;
        if !job.algorithm.may_be_made() {
            return Err(HsmError::caller(format!("no {} keyset is made", job.algorithm.as_str())));
        }
        spki::rsa_public_key(&job.recipient_spki)?;
        let devices = job.eids.len();
        let wire = Job::OrderChunk(Box::new(WireOrderChunk {
            kind: WireKind::new(job.protocol, job.security_domain, job.kvn, job.algorithm),
            keys,
            recipient_spki: job.recipient_spki,
            eids: wire_eids(&job.eids),
            format: job.format.code(),
        }));
        match received(inner.submit(wire, options)?.await)? {
            JobOutput::OrderChunk { wrapped_transport_key, oaep_hash, devices: wrapped } => {
                if wrapped.len() != devices {
                    return Err(HsmError::token("the worker answered for another number of devices"));
                }
                let devices = wrapped.into_iter().map(order_device).collect();
                Ok(OrderChunk { wrapped_transport_key, oaep_hash, devices })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Derives and encrypts the new keysets of a batch of devices for PUT KEY; see [`PutKeyJob`]. One entry per EID, in
    /// their order. Neither key is ever readable: all of it happens inside the token.
    pub async fn put_key(&self, job: PutKeyJob, options: CallOptions) -> Result<Vec<PutKeyBlocks>, HsmError> {
        let inner = self.inner();
        bounded("a PUT KEY job", "devices", job.devices.len(), PUT_KEY_DEVICES_MAX)?;
        for device in &job.devices {
            inner.known_source(&device.old.source)?;
            inner.known_source(&device.new.source)?;
            may_be_put(device)?;
        }
        let asked = job.devices.len();
        let (old, new): (Vec<_>, Vec<_>) = job.devices.into_iter().map(|d| (d.old, d.new)).unzip();
        let wire = WirePutKey { old: WireKeysets::of(old), new: WireKeysets::of(new) };
        match received(inner.submit(Job::PutKey(Box::new(wire)), options)?.await)? {
            JobOutput::PutKey(devices) if devices.len() == asked => devices
                .into_iter()
                .map(put_key_blocks)
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| HsmError::token("the worker answered with another number of keys")),
            JobOutput::PutKey(_) => Err(HsmError::token("the worker answered for another number of devices")),
            other => Err(unexpected(&other)),
        }
    }

    /// Wraps the static keys of one keyset in the token, for the party that will have them; see [`ExportJob`]. Derived
    /// keysets only: of a stored key, every wrap that may leave was made with it.
    pub async fn export(&self, job: ExportJob, options: CallOptions) -> Result<ExportedKeys, HsmError> {
        let inner = self.inner();
        inner.known_source(&job.keyset.source)?;
        let usages = job.keyset.keyset.protocol.usages().len();
        let (party_key, party_spki) = match job.recipient {
            ExportRecipient::Aes(key) => (Some(key), Vec::new()),
            ExportRecipient::Rsa(spki) => (None, spki),
        };
        if let Some(key) = &party_key {
            inner.known_key(key)?;
        }
        let wire = WireExport { keysets: WireKeysets::of([job.keyset]), party_key, party_spki };
        match received(inner.submit(Job::Export(Box::new(wire)), options)?.await)? {
            JobOutput::Exported { wrapped_transport_key, oaep_hash, keys } if keys.len() == usages => {
                let keys = keys
                    .into_iter()
                    .map(|key| WrappedKey { wrapped: key.wrapped, kcv: domain::KeyCheckValue(key.kcv) })
                    .collect();
                Ok(ExportedKeys { wrapped_transport_key, oaep_hash, keys })
            }
            JobOutput::Exported { .. } => {
                Err(HsmError::token("the worker answered with another number of keys"))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Checks the cryptograms of a batch of cards, each in constant time; see [`CardProofJob`]. `true` for every card
    /// that holds its keyset, in the order given. Nothing else is made and nothing is released.
    pub async fn card_proofs(&self, job: CardProofJob, options: CallOptions) -> Result<Vec<bool>, HsmError> {
        let inner = self.inner();
        bounded("a card-proof job", "proofs", job.proofs.len(), CARD_PROOFS_MAX)?;
        for proof in &job.proofs {
            inner.known_source(&proof.keyset.source)?;
        }
        let asked = job.proofs.len();
        let wire = Box::new(wire_proofs(job.proofs));
        match received(inner.submit(Job::CardProofs(wire), options)?.await)? {
            JobOutput::CardProofs(outcomes) if outcomes.len() == asked => Ok(outcomes),
            JobOutput::CardProofs(_) => {
                Err(HsmError::token("the worker answered for another number of cards"))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// What a token can put on a card by PUT KEY.
fn may_be_put(device: &PutKeyDevice) -> Result<(), HsmError> {
    let (old, new) = (&device.old.keyset, &device.new.keyset);
    if old.eid != new.eid {
        return Err(HsmError::caller("the old keyset and the new one are of two devices"));
    }
    if old.protocol != Protocol::Scp03 || new.protocol.usages().len() != 3 {
        return Err(HsmError::caller("PUT KEY puts keysets of three keys in an SCP03 session"));
    }
    match new.algorithm {
        KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes256 => Ok(()),
        // SP 800-131A: no new 3DES keys.
        KeysetAlgorithm::TripleDes2Key | KeysetAlgorithm::TripleDes3Key => {
            Err(HsmError::caller("no 3DES keyset is made; take AES-256"))
        }
        // 24 bytes are no whole blocks, and a token pads no key that it wraps by AES-CBC.
        KeysetAlgorithm::Aes192 => Err(HsmError::caller(
            "no AES-192 keyset leaves by PUT KEY, because the token cannot pad a key inside; take AES-256",
        )),
    }
}
