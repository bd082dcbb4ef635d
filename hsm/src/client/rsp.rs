//! The daemon's side of the jobs of remote SIM provisioning.

use ecc::{Digest, Signature};
use keys::bsp::SecureChannel;

use super::Token;
use super::wire::{received, unexpected};
use crate::error::HsmError;
use crate::job::CallOptions;
use crate::key::{KeyRef, KeyRole};
use crate::protocol::{Job, JobOutput};
use crate::rsp::{RspBindJob, RspBound, RspInput, WireRspBind, WireRspSign, fixed, sha256};
use crate::wire_signature::WireSignature;

impl Token {
    /// Signs one input of an SM-DP+ with a key of the role it is for; r || s. Verified in software under the registered
    /// public key before it is returned, as [`Token::sign`] does. A key of another role is refused with class `caller`.
    pub async fn rsp_sign(
        &self,
        key: &KeyRef,
        input: RspInput,
        options: CallOptions,
    ) -> Result<[u8; 64], HsmError> {
        let inner = self.inner();
        let known = inner.known_key(key)?;
        if !input.is_for(known.role) {
            return Err(wrong_role(key, known.role));
        }
        let digest = input.digest(&known.spki)?;
        let job = Job::RspSign(Box::new(WireRspSign { key: key.clone(), input: input.into() }));
        let signatures = match received(inner.submit(job, options)?.await)? {
            JobOutput::Signatures(signatures) => signatures,
            other => return Err(unexpected(&other)),
        };
        // These keys are on curves of 256 bits.
        match signatures[..] {
            [WireSignature(signature)]
                if known.public_key(key)?.verifies_digest(&Digest::sha256(digest), &signature) =>
            {
                fixed(signature.as_bytes(), "a signature")
            }
            _ => Err(self.signature_failed(key)),
        }
    }

    /// Binds a profile to an eUICC's one-time key; see [`RspBindJob`]. The signature of the secure channel is verified in
    /// software before it is returned. A one-time key that is no point of the DPpb key's curve is refused with class `caller`.
    pub async fn rsp_bind(&self, job: RspBindJob, options: CallOptions) -> Result<RspBound, HsmError> {
        let inner = self.inner();
        let known = inner.known_key(&job.key)?;
        let KeyRole::RspPb(curve) = known.role else { return Err(wrong_role(&job.key, known.role)) };
        if !ecc::is_point(curve.curve(), &job.euicc_key) {
            return Err(HsmError::caller(format!("the one-time key is no point of {curve}")));
        }
        let key = job.key.clone();
        let wire = WireRspBind {
            key: job.key,
            euicc_key: job.euicc_key.to_vec(),
            transaction_id: job.transaction_id.0,
            host_id: job.host_id.clone(),
            eid: *job.eid.bcd(),
            protection: job.protection.code(),
            recipient: job.recipient.to_vec(),
            info: job.info,
        };
        let output = received(inner.submit(Job::RspBind(Box::new(wire)), options)?.await)?;
        let JobOutput::RspBound { server_key, signature, encapsulated_key, ciphertext } = output else {
            return Err(unexpected(&output));
        };
        let channel = SecureChannel {
            transaction_id: job.transaction_id,
            host_id: job.host_id,
            server_key: fixed(&server_key, "a one-time key")?,
        };
        let digest = Digest::sha256(sha256(&channel.signed(&job.euicc_key)));
        let signature = fixed(&signature, "a signature")?;
        if !known.public_key(&key)?.verifies_digest(&digest, &Signature::bits_256(signature)) {
            return Err(self.signature_failed(&key));
        }
        Ok(RspBound {
            initialise_secure_channel: channel.encode(&signature),
            encapsulated_key: fixed(&encapsulated_key, "an encapsulated key")?,
            ciphertext,
        })
    }
}

fn wrong_role(key: &KeyRef, is: KeyRole) -> HsmError {
    HsmError::caller(format!("key {key} is a {}, whose keys do not do this", is.as_str()))
}
