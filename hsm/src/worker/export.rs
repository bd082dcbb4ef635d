//! Static keys on their way out of the authority: wrapped in the token, under a key of the party that will have them.

use cryptoki::mechanism::Mechanism;

use super::open::ResolvedKey;
use super::order::{check_value, recipient_key, wrap_kwp, wrap_oaep};
use super::probe::Abilities;
use super::source::{OpenKeyset, device_key};
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::protocol::{JobOutput, WireKey};
use crate::spki::rsa_public_key;
use crate::template::SessionKeyUse;

/// Under what the keys leave.
pub(crate) enum Recipient<'r> {
    /// The party's AES key on this token.
    Party(&'r ResolvedKey),
    /// A fresh AES key, which leaves under the party's RSA key.
    Rsa(&'r [u8]),
}

/// Every key of one keyset. None is ever readable here.
pub(crate) fn export(
    session: &TokenSession,
    abilities: &Abilities,
    keyset: &OpenKeyset<'_>,
    recipient: &Recipient<'_>,
) -> Result<JobOutput, HsmError> {
    let kwp = abilities.wrapping().kwp()?;
    let fresh: SessionObject<'_>;
    let (transport, wrapped_transport_key, oaep_hash) = match recipient {
        Recipient::Party(key) => (key.handle, Vec::new(), None),
        Recipient::Rsa(spki) => {
            let hash = abilities
                .oaep_hash
                .ok_or_else(|| HsmError::policy("the token wraps by no RSA-OAEP; no export under RSA"))?;
            let rsa = recipient_key(session, &rsa_public_key(spki)?)?;
            fresh =
                session.generate(&Mechanism::AesKeyGen, &SessionKeyUse::Transport { kwp }.attributes(32))?;
            let wrapped = wrap_oaep(session, hash, rsa.handle(), fresh.handle())?;
            (fresh.handle(), wrapped, Some(hash))
        }
    };
    let mut keys = Vec::with_capacity(3);
    for usage in keyset.keyset.protocol.usages() {
        let key = device_key(session, keyset, *usage, SessionKeyUse::Outgoing)?;
        let kcv = check_value(session, key.handle(), keyset.keyset.algorithm)?;
        let wrapped = wrap_kwp(session, kwp, transport, key.handle(), keyset.keyset.algorithm)?;
        keys.push(WireKey { wrapped, kcv });
    }
    Ok(JobOutput::Exported { wrapped_transport_key, oaep_hash, keys })
}
