//! Keys from outside: their check values, and the key that unwraps them.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::MechanismType;
use cryptoki::mechanism::misc::KeyDerivationStringData;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys::CKM_DES3_ECB_ENCRYPT_DATA;
use domain::KeysetAlgorithm;
use keys::{SecretKey, key_check_value};
use zeroize::Zeroizing;

use super::derive::readable_block;
use super::order::wrap_kwp;
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::key::{KeyKind, MasterAlgorithm, OaepHash};
use crate::pkcs11_gaps::mechanism_type;
use crate::template::SessionKeyUse;

/// How a token wraps keys, as its probes showed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wrapping {
    /// The mechanism number of AES-KWP.
    pub(crate) kwp: Option<u64>,
    /// The hash of RSA-OAEP.
    pub(crate) oaep_hash: Option<OaepHash>,
}

impl Wrapping {
    pub(crate) fn kwp(self) -> Result<u64, HsmError> {
        self.kwp.ok_or_else(|| HsmError::policy("the token has no AES-KWP"))
    }
}

/// The key check value of a DERIVE key: AES over 16 bytes of 01, triple DES over 8 bytes of 00 (GP Card Specification
/// §B.6), the first three bytes.
pub(crate) fn check_value(
    session: &TokenSession,
    algorithm: MasterAlgorithm,
    key: ObjectHandle,
) -> Result<[u8; 3], HsmError> {
    if algorithm.is_triple_des() {
        let block = readable_triple_des(session, key, &[0; 8])?;
        Ok([block[0], block[1], block[2]])
    } else {
        let block = readable_block(session, key, &[0x01; 16])?;
        Ok([block[0], block[1], block[2]])
    }
}

/// 3DES(key, block) of a DERIVE-only key: derived as an object that is no key, read, destroyed.
pub(crate) fn readable_triple_des(
    session: &TokenSession,
    key: ObjectHandle,
    block: &[u8; 8],
) -> Result<Zeroizing<[u8; 8]>, HsmError> {
    let data = KeyDerivationStringData::new(block);
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new(
        mechanism_type(CKM_DES3_ECB_ENCRYPT_DATA),
        Some(&data),
    ));
    let object = session.derive(&mechanism, key, &SessionKeyUse::ReadableBlock.attributes(8))?;
    session.key_value(object.handle())
}

/// What a key that only wraps can be known by: the first three bytes of the AES-KWP of a published key.
pub(crate) fn wrap_check(
    session: &TokenSession,
    wrapping: Wrapping,
    key: ObjectHandle,
) -> Result<[u8; 3], HsmError> {
    let published = published_key(session)?;
    let wrapped = wrap_kwp(session, wrapping.kwp()?, key, published.handle(), KeysetAlgorithm::Aes128)?;
    wrapped.first_chunk().copied().ok_or_else(|| HsmError::token("the token wrapped a key into less"))
}

/// An AES key of 16 bytes of 01, which protects nothing and may leave.
pub(super) fn published_key(session: &TokenSession) -> Result<SessionObject<'_>, HsmError> {
    session.create(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(vec![0x01; 16]),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ])
}

/// C_UnwrapKey by RSA-OAEP. The template must repeat what the key's own unwrap template demands.
pub(crate) fn unwrap_oaep(
    session: &TokenSession,
    hash: OaepHash,
    key: ObjectHandle,
    wrapped: &[u8],
    template: &[Attribute],
) -> Result<ObjectHandle, HsmError> {
    let (hash, mgf) = match hash {
        OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    let mechanism = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()));
    // SoftHSM takes the attributes one by one, and none after the one that says nothing may be changed.
    let mut template = template.to_vec();
    template.sort_by_key(|attribute| matches!(attribute, Attribute::Modifiable(_)));
    session.unwrap(&mechanism, key, wrapped, &template)
}

/// Whether the private key unwraps what was encrypted to this public key, by other code: a fresh AES key, known by its
/// check value.
pub(crate) fn unwraps(
    session: &TokenSession,
    wrapping: Wrapping,
    key: ObjectHandle,
    spki: &[u8],
) -> Result<bool, HsmError> {
    let hash = wrapping.oaep_hash.ok_or_else(|| HsmError::policy("the token wraps by no RSA-OAEP"))?;
    let malformed = |_| HsmError::policy("the registered public key does not fit the key's role");
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let public = PublicEncryptingKey::from_der(spki).map_err(|_| malformed(()))?;
    let public = OaepPublicEncryptingKey::new(public).map_err(|_| malformed(()))?;
    let mut value = Zeroizing::new([0; 32]);
    getrandom::fill(&mut value[..])
        .map_err(|e| HsmError::token(format!("the kernel gives no entropy: {e}")))?;
    let mut wrapped = vec![0; public.ciphertext_size()];
    public.encrypt(algorithm, &value[..], &mut wrapped, None).map_err(|_| malformed(()))?;
    let kind = KeyKind::ImportedDerive(MasterAlgorithm::Aes256);
    let unwrapped = unwrap_oaep(session, hash, key, &wrapped, &kind.probe_attributes())?;
    let unwrapped = session.guard(unwrapped);
    let expected = SecretKey::from_slice(&value[..]).map_err(|e| HsmError::token(e.to_string()))?;
    let found = check_value(session, MasterAlgorithm::Aes256, unwrapped.handle())?;
    Ok(key_check_value(&expected).0 == found)
}
