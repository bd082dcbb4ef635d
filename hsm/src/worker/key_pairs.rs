//! Key pairs for devices whose chip cannot make its own: generated in the token, and gone from it when the job ends.
//!
//! The private key is a sensitive object that may sign one block, so that the pair is seen to be one, and is wrapped
//! once for the manufacturer; nobody here can read it.

use std::time::Instant;

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki_sys::CKM_ECDSA;
use domain::EuiccCurve;

use super::open::signs_as;
use super::order::{in_time, recipient_key, wrap_oaep};
use super::probe::{Abilities, generate_pair, public_key_info};
use super::token_session::TokenSession;
use crate::error::HsmError;
use crate::key::KeyKind;
use crate::pkcs11_gaps::mechanism_type;
use crate::protocol::{JobOutput, WireKeyPair};
use crate::spki::rsa_public_key;
use crate::template::SessionKeyUse;

/// Bytes of the longest wrap: PKCS#8 of a P-256 key with its public key and parameters is below 200 bytes.
const WRAPPED_MAX: usize = 512;
/// What a new pair signs to show that it is one; a constant of ours, so that the signature means nothing else.
const PAIR_CHECK: &[u8] = b"chancery device key, pair check.";

/// `count` key pairs under one fresh transport key.
pub(crate) fn key_pairs(
    session: &TokenSession,
    abilities: &Abilities,
    curve: EuiccCurve,
    recipient_spki: &[u8],
    count: u16,
    deadline: Option<Instant>,
) -> Result<JobOutput, HsmError> {
    if curve == EuiccCurve::BrainpoolP256r1 && !abilities.brainpool {
        return Err(HsmError::policy("the token has no brainpoolP256r1"));
    }
    let kind = KeyKind::Ec(curve.curve());
    let kwp = abilities.kwp.ok_or_else(|| HsmError::policy("the token has no AES-KWP; no key pairs"))?;
    let oaep_hash = abilities
        .oaep_hash
        .ok_or_else(|| HsmError::policy("the token wraps by no RSA-OAEP; no key pairs"))?;
    let recipient = recipient_key(session, &rsa_public_key(recipient_spki)?)?;
    let transport =
        session.generate(&Mechanism::AesKeyGen, &SessionKeyUse::Transport { kwp }.attributes(32))?;
    let wrapped_transport_key = wrap_oaep(session, oaep_hash, recipient.handle(), transport.handle())?;
    drop(recipient);
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism_type(kwp), None));
    let mut pairs = Vec::with_capacity(count.into());
    for _ in 0..count {
        in_time(deadline)?;
        let (public, private) = generate_pair(session, kind, &private_attributes())?;
        // Destroyed when this round ends, like its public half.
        let private = session.guard(private);
        let spki = public_key_info(session, kind, &public)?;
        if !signs_as(session, kind, private.handle(), &spki, PAIR_CHECK)? {
            return Err(HsmError::token("a new key pair does not verify its own signature"));
        }
        let mut wrapped = vec![0; WRAPPED_MAX];
        let len = session.wrap_into(&mechanism, transport.handle(), private.handle(), &mut wrapped)?;
        wrapped.truncate(len);
        pairs.push(WireKeyPair { spki, wrapped });
    }
    Ok(JobOutput::KeyPairs { wrapped_transport_key, oaep_hash, pairs })
}

/// A private key that lives for one round, signs once and leaves wrapped.
fn private_attributes() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::AllowedMechanisms(vec![mechanism_type(CKM_ECDSA)]),
    ]
}
