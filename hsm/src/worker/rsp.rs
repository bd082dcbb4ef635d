//! The jobs of remote SIM provisioning: signatures of SM-DP+ keys, and the key agreement that binds a profile.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys::{CKA_EC_POINT, CKM_ECDH1_DERIVE};
use domain::{Curve, EuiccCurve};
use ecc::Digest;
use keys::bsp::{
    BoundKeys, BspKeys, HOST_ID_MAX, KEY_DATA_BYTES, ProfileProtection, SecureChannel, key_data, shared_info,
};
use keys::rsp::TransactionId;
use keys::seal::{EphemeralKey, seal};
use zeroize::Zeroizing;

use super::open::{ResolvedKey, sign};
use super::probe::Abilities;
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::key::{KeyCheck, KeyRole};
use crate::pkcs11_gaps::mechanism_type;
use crate::protocol::JobOutput;
use crate::rsp::{RspInput, WireRspBind, fixed, sha256};
use crate::spki::{ec_parameters, ec_point, point_of_ec_point};
use crate::wire_signature::WireSignature;

/// Signs one input, whose role the engine has compared with the key's.
pub(crate) fn rsp_sign(
    session: &TokenSession,
    key: &ResolvedKey,
    input: &RspInput,
) -> Result<JobOutput, HsmError> {
    let KeyCheck::PublicKey(spki) = &key.registered.check else {
        return Err(HsmError::caller("an SM-DP+'s key is a key pair"));
    };
    let digest = Digest::sha256(input.digest(spki)?);
    let signature = sign(session, key.registered.role.kind(), key.handle, &digest)?;
    Ok(JobOutput::Signatures(vec![WireSignature(signature)]))
}

/// Steps of docs/cycles/rsp.md, "bind": key pair, agreement, derivation, signature, sealing. otSK.DP ends with this.
pub(crate) fn rsp_bind(
    session: &TokenSession,
    abilities: &Abilities,
    key: &ResolvedKey,
    job: &WireRspBind,
) -> Result<JobOutput, HsmError> {
    let recipient: [u8; 65] = fixed(&job.recipient, "the recipient's key")?;
    let euicc_key: [u8; 65] = fixed(&job.euicc_key, "a one-time key")?;
    let protection = ProfileProtection::from_code(job.protection)
        .ok_or_else(|| HsmError::caller("an unknown protection of the profile"))?;
    if !(1..=HOST_ID_MAX).contains(&job.host_id.len()) {
        return Err(HsmError::caller("a host id has 1 to 16 bytes"));
    }
    let KeyRole::RspPb(curve) = key.registered.role else {
        return Err(HsmError::caller("only a DPpb key answers for a key agreement"));
    };
    let pair = one_time_pair(session, curve)?;
    let info = shared_info(&job.host_id, &job.eid);
    let material = if abilities.x963 {
        agree_inside(session, &pair.private, &euicc_key, &info)?
    } else {
        key_data(&*agree(session, pair.private.handle(), &euicc_key)?, &info)
    };
    let profile = match protection {
        ProfileProtection::SessionKeys => None,
        ProfileProtection::ProfileKeys => {
            let mut entropy = Zeroizing::new([0; KEY_DATA_BYTES]);
            getrandom::fill(&mut entropy[..])
                .map_err(|e| HsmError::token(format!("the kernel gives no entropy: {e}")))?;
            Some(BspKeys::from_entropy(&entropy))
        }
    };
    let bound = BoundKeys { session: BspKeys::from_key_data(&material), profile };
    let channel = SecureChannel {
        transaction_id: TransactionId(job.transaction_id),
        host_id: job.host_id.clone(),
        server_key: pair.public,
    };
    let digest = Digest::sha256(sha256(&channel.signed(&euicc_key)));
    let signature = sign(session, key.registered.role.kind(), key.handle, &digest)?;
    let ephemeral = EphemeralKey::generate().map_err(|e| HsmError::token(e.to_string()))?;
    let sealed = seal(&recipient, &job.info, &bound.encode(), ephemeral)
        .map_err(|e| HsmError::caller(e.to_string()))?;
    Ok(JobOutput::RspBound {
        server_key: pair.public.to_vec(),
        signature: signature.as_bytes().to_vec(),
        encapsulated_key: sealed.encapsulated_key.to_vec(),
        ciphertext: sealed.ciphertext,
    })
}

/// A one-time key pair: both halves are session objects that end with it.
pub(crate) struct OneTimePair<'s> {
    pub(crate) public: [u8; 65],
    pub(crate) private: SessionObject<'s>,
}

/// Generates a pair whose private half does nothing but ECDH and never leaves the token.
pub(crate) fn one_time_pair(session: &TokenSession, curve: EuiccCurve) -> Result<OneTimePair<'_>, HsmError> {
    let public = [
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
        Attribute::EcParams(ec_parameters(curve.curve())),
    ];
    let private = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(false),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(true),
        Attribute::AllowedMechanisms(vec![mechanism_type(CKM_ECDH1_DERIVE)]),
    ];
    let (public, private) = session.generate_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    let private = session.guard(private);
    let point = session.attribute(public.handle(), CKA_EC_POINT)?;
    let public = point_of_ec_point(curve.curve(), &point)
        .and_then(|point| point.try_into().ok())
        .ok_or_else(|| HsmError::policy("the token's CKA_EC_POINT is no point of the curve asked for"))?;
    Ok(OneTimePair { public, private })
}

/// Z of the key agreement, in zeroizing memory of this worker: CKD_NULL.
pub(crate) fn agree(
    session: &TokenSession,
    private: ObjectHandle,
    peer: &[u8; 65],
) -> Result<Zeroizing<[u8; 32]>, HsmError> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer));
    let secret = session.derive(&mechanism, private, &readable_secret(32))?;
    session.key_value(secret.handle())
}

/// The key data of the agreement, with X9.63-SHA256 inside the token: Z never leaves it.
pub(crate) fn agree_inside(
    session: &TokenSession,
    private: &SessionObject<'_>,
    peer: &[u8; 65],
    info: &[u8],
) -> Result<Zeroizing<[u8; KEY_DATA_BYTES]>, HsmError> {
    let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::sha256(info), peer));
    let secret = session.derive(&mechanism, private.handle(), &readable_secret(KEY_DATA_BYTES))?;
    session.key_value(secret.handle())
}

/// A secret that is made to be read: no key of the token.
fn readable_secret(bytes: usize) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::ValueLen((bytes as cryptoki_sys::CK_ULONG).into()),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// Two key pairs of the token agree on one secret: what ECDH is for.
pub(crate) fn both_sides_agree(session: &TokenSession, curve: EuiccCurve) -> Result<(), HsmError> {
    let (ours, theirs) = (one_time_pair(session, curve)?, one_time_pair(session, curve)?);
    let there = agree(session, ours.private.handle(), &theirs.public)?;
    if there == agree(session, theirs.private.handle(), &ours.public)? {
        Ok(())
    } else {
        Err(HsmError::policy("the two sides of a key agreement differ"))
    }
}

/// Whether a key of the token is the private half of a P-256 key: both sides of an agreement with it come to the same.
pub(crate) fn agrees(session: &TokenSession, key: ObjectHandle, spki: &[u8]) -> Result<bool, HsmError> {
    let public = ec_point(Curve::P256, spki).and_then(|point| point.try_into().ok());
    let Some(public) = public else { return Ok(false) };
    let other = one_time_pair(session, EuiccCurve::P256)?;
    let there = agree(session, other.private.handle(), public)?;
    Ok(there == agree(session, key, &other.public)?)
}

/// X9.63-SHA256 of the token against our own over the same secret.
pub(crate) fn x963_is_right(session: &TokenSession) -> Result<(), HsmError> {
    const INFO: &[u8] = b"chancery probe";
    let (ours, theirs) =
        (one_time_pair(session, EuiccCurve::P256)?, one_time_pair(session, EuiccCurve::P256)?);
    let expected = key_data(&*agree(session, ours.private.handle(), &theirs.public)?, INFO);
    if agree_inside(session, &ours.private, &theirs.public, INFO)? == expected {
        Ok(())
    } else {
        Err(HsmError::policy("X9.63-SHA256 gave another answer than the standard's"))
    }
}
