//! PUT KEY blocks: new device keys leave encrypted under the card's DEK, both inside the token.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use domain::{KeyUsage, KeysetAlgorithm};

use super::order::check_value;
use super::probe::Abilities;
use super::source::{OpenKeysets, device_key};
use super::token_session::TokenSession;
use crate::error::HsmError;
use crate::protocol::{JobOutput, WireKey};
use crate::template::SessionKeyUse;

/// GP Amendment D §7.2: the key blocks of PUT KEY are AES-CBC with an IV of zero.
const PUT_KEY: Mechanism<'static> = Mechanism::AesCbc([0; 16]);

/// Per device: its old DEK, which wraps and does nothing else, and one new key at a time. All destroyed by their guards.
pub(crate) fn put_key(
    session: &TokenSession,
    abilities: &Abilities,
    old: &OpenKeysets<'_>,
    new: &OpenKeysets<'_>,
    mut before_device: impl FnMut() -> Result<(), HsmError>,
) -> Result<JobOutput, HsmError> {
    if !abilities.cbc_wrap {
        return Err(HsmError::policy("the token wraps no key by AES-CBC; no PUT KEY"));
    }
    let mut devices = Vec::with_capacity(old.len());
    for at in 0..old.len() {
        before_device()?;
        let (old, new) = (old.get(at)?, new.get(at)?);
        let dek = device_key(session, &old, KeyUsage::Dek, SessionKeyUse::PutKeyDek)?;
        let mut keys = Vec::with_capacity(3);
        for usage in new.keyset.protocol.usages() {
            let key = device_key(session, &new, *usage, SessionKeyUse::Outgoing)?;
            let kcv = check_value(session, key.handle(), new.keyset.algorithm)?;
            let wrapped = wrap_cbc(session, dek.handle(), key.handle(), new.keyset.algorithm)?;
            keys.push(WireKey { wrapped, kcv });
        }
        devices.push(keys);
    }
    Ok(JobOutput::PutKey(devices))
}

/// One key block, as long as the key: 16 or 32 bytes.
pub(crate) fn wrap_cbc(
    session: &TokenSession,
    dek: ObjectHandle,
    key: ObjectHandle,
    algorithm: KeysetAlgorithm,
) -> Result<Vec<u8>, HsmError> {
    let mut block = vec![0; algorithm.key_bytes()];
    let len = session.wrap_into(&PUT_KEY, dek, key, &mut block)?;
    if len == block.len() {
        Ok(block)
    } else {
        Err(HsmError::policy(format!("the token wrapped a {} key into {len} bytes", algorithm.as_str())))
    }
}
