//! Random device keys: made in the token, stored as blobs under a key-encryption key, opened in the token alone.
//!
//! AES-KWP binds a key to nothing, so each blob has a MAC over what its key is for. It is checked before the token unwraps:
//! a blob that was moved or changed is told from a token that is ill.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use domain::{DeviceKeyset, KeyUsage};
use keys::Prf;

use super::derive::TokenPrf;
use super::import::{self, Wrapping};
use super::open::ResolvedKey;
use super::order::{check_value, wrap_kwp};
use super::token_session::{SessionObject, TokenSession};
use crate::error::{ErrorClass, HsmError};
use crate::pkcs11_gaps::mechanism_type;
use crate::source::StoredBlob;
use crate::template::SessionKeyUse;

/// What the MAC of a blob begins with.
const BLOB_CONTEXT: &[u8] = b"chancery-stored-key/v1\0";

/// The token keys of an epoch.
#[derive(Clone, Copy)]
pub(crate) struct OpenStorage<'k> {
    pub(crate) kek: &'k ResolvedKey,
    pub(crate) blob_mac: &'k ResolvedKey,
    pub(crate) kwp: u64,
}

impl OpenStorage<'_> {
    /// A fresh key of a device, and its blob. Extractable until its guard ends, for the wraps of this one job.
    pub(crate) fn make<'s>(
        &self,
        session: &'s TokenSession,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
    ) -> Result<(SessionObject<'s>, StoredBlob), HsmError> {
        let template = SessionKeyUse::Outgoing.attributes(keyset.algorithm.key_bytes());
        let key = session.generate(&Mechanism::AesKeyGen, &template)?;
        let blob = self.store(session, keyset, usage, key.handle())?;
        Ok((key, blob))
    }

    /// The blob of a key of a device, which must be extractable until it is made.
    pub(crate) fn store(
        &self,
        session: &TokenSession,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
        key: ObjectHandle,
    ) -> Result<StoredBlob, HsmError> {
        let wrapped = wrap_kwp(session, self.kwp, self.kek.handle, key, keyset.algorithm)?;
        let mac = self.mac(session, keyset, usage, &wrapped)?;
        Ok(StoredBlob { wrapped, mac })
    }

    /// The key in a blob, to be used so. What leaves left when the key was made.
    pub(crate) fn open<'s>(
        &self,
        session: &'s TokenSession,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
        blob: &StoredBlob,
        may: SessionKeyUse,
    ) -> Result<SessionObject<'s>, HsmError> {
        if matches!(may, SessionKeyUse::Outgoing | SessionKeyUse::ReadablePsk) {
            return Err(HsmError::policy("a stored key never leaves again: its wraps were made with it"));
        }
        let expected = self.mac(session, keyset, usage, &blob.wrapped)?;
        if verify_slices_are_equal(&expected, &blob.mac).is_err() {
            return Err(HsmError::new(
                ErrorClass::Blob,
                "a stored key is not that of this device and purpose, or was changed",
            ));
        }
        let template = without_length(may.attributes_for(keyset.algorithm));
        unwrap_kwp(session, self.kwp, self.kek.handle, &blob.wrapped, &template)
    }

    /// docs/formats/stored-key-blob.md. The KEK's identifier is random, so it names the authority and the epoch too.
    fn mac(
        &self,
        session: &TokenSession,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
        wrapped: &[u8],
    ) -> Result<[u8; 16], HsmError> {
        let [bits_high, bits_low] = keyset.algorithm.key_bits().to_be_bytes();
        let purpose = [
            keyset.protocol.code(),
            keyset.security_domain.code(),
            keyset.kvn.value(),
            usage.code(),
            bits_high,
            bits_low,
        ];
        let kek = &self.kek.registered.key.id;
        let message = [BLOB_CONTEXT, kek, keyset.eid.bcd(), &purpose, wrapped].concat();
        let prf = TokenPrf { session, key: self.blob_mac.handle };
        prf.cmac(&message).map(|mac| *mac)
    }
}

/// A key that is unwrapped, or whose value is given, takes its length from there.
pub(crate) fn without_length(template: Vec<Attribute>) -> Vec<Attribute> {
    template.into_iter().filter(|attribute| !matches!(attribute, Attribute::ValueLen(_))).collect()
}

/// C_UnwrapKey by AES-KWP. The template must repeat what the key's own unwrap template demands.
pub(crate) fn unwrap_kwp<'s>(
    session: &'s TokenSession,
    kwp: u64,
    kek: ObjectHandle,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<SessionObject<'s>, HsmError> {
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism_type(kwp), None));
    session.unwrap(&mechanism, kek, wrapped, template).map(|handle| session.guard(handle))
}

/// A published key, wrapped and unwrapped again, still computes its check value: the key-encryption key is the one recorded
/// (its wrap was compared before) and works both ways.
pub(crate) fn canary(session: &TokenSession, wrapping: Wrapping, kek: ObjectHandle) -> Result<(), HsmError> {
    let algorithm = domain::KeysetAlgorithm::Aes128;
    let kwp = wrapping.kwp()?;
    let published = import::published_key(session)?;
    let wrapped = wrap_kwp(session, kwp, kek, published.handle(), algorithm)?;
    let template = without_length(SessionKeyUse::KeyCheck.attributes(algorithm.key_bytes()));
    let unwrapped = unwrap_kwp(session, kwp, kek, &wrapped, &template)?;
    let expected = keys::SecretKey::from_slice(&[0x01; 16]).map_err(|e| HsmError::token(e.to_string()))?;
    if check_value(session, unwrapped.handle(), algorithm)? == keys::key_check_value(&expected).0 {
        Ok(())
    } else {
        Err(HsmError::token("the key-encryption key unwraps another key than it wrapped"))
    }
}
