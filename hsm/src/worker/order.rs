//! Order output: device keys leave wrapped, and were never readable (HSM session objects, single-call wraps).

use std::sync::Arc;
use std::time::Instant;

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use domain::{KeyUsage, KeysetAlgorithm};

use super::derive::device_key;
use super::open::ResolvedKey;
use super::order_form::ChunkTransport;
use super::probe::Abilities;
use super::source::{self, OpenKeyset};
use super::stored::OpenStorage;
use super::token_session::{SessionObject, TokenSession};
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyRole, OaepHash};
use crate::pkcs11_gaps::mechanism_type;
use crate::protocol::{JobOutput, WireDeviceKeys, WireKey, WireOrderChunk};
use crate::spki::{RSA_BITS_MAX, RsaPublicKey, rsa_public_key};
use crate::template::SessionKeyUse;

/// What a key check value is computed over (GP Card Specification §B.6).
const CHECK_BLOCK: [u8; 16] = [0x01; 16];
/// The same of a 3DES key.
const TRIPLE_DES_CHECK_BLOCK: [u8; 8] = [0; 8];

/// Where an order's keys come from.
pub(crate) enum OrderSource<'k> {
    /// A master of ours.
    Derived(&'k ResolvedKey),
    /// The token's random generator; stored under these.
    Random(OpenStorage<'k>),
}

impl<'k> OrderSource<'k> {
    /// By the roles of the job's token keys: a master, or a key-encryption key and the key that binds its blobs.
    pub(crate) fn open(keys: &'k [Arc<ResolvedKey>], abilities: &Abilities) -> Result<Self, HsmError> {
        match keys {
            [master] if master.registered.role.is_master() => Ok(Self::Derived(master)),
            [kek, blob_mac]
                if (kek.registered.role, blob_mac.registered.role) == (KeyRole::Kek, KeyRole::BlobMac) =>
            {
                Ok(Self::Random(OpenStorage { kek, blob_mac, kwp: abilities.wrapping().kwp()? }))
            }
            _ => Err(HsmError::caller(
                "an order takes a master, or a key-encryption key and a key that binds blobs",
            )),
        }
    }
}

/// One chunk: its transport key, wrapped once to the recipient; three keys per device, wrapped under it.
pub(crate) fn order_chunk(
    session: &TokenSession,
    abilities: &Abilities,
    source: &OrderSource<'_>,
    job: &WireOrderChunk,
    transport: &ChunkTransport<'_>,
    mut before_line: impl FnMut() -> Result<(), HsmError>,
) -> Result<JobOutput, HsmError> {
    let oaep_hash =
        abilities.oaep_hash.ok_or_else(|| HsmError::policy("the token wraps by no RSA-OAEP; no orders"))?;
    let recipient = recipient_key(session, &rsa_public_key(&job.recipient_spki)?)?;
    let wrapped_transport_key = wrap_oaep(session, oaep_hash, recipient.handle(), transport.handle())?;
    drop(recipient);
    let mut devices = Vec::with_capacity(job.eids.len());
    for eid in &job.eids {
        before_line()?;
        let keyset = job.kind.of_device(eid)?;
        let mut device = WireDeviceKeys { keys: Vec::with_capacity(3), blobs: Vec::new() };
        for usage in keyset.protocol.usages() {
            let key = match source {
                OrderSource::Derived(master) => {
                    device_key(session, master, &keyset, *usage, SessionKeyUse::Outgoing)?
                }
                OrderSource::Random(storage) => {
                    let (key, blob) = storage.make(session, &keyset, *usage)?;
                    device.blobs.push(blob);
                    key
                }
            };
            let kcv = check_value(session, key.handle(), keyset.algorithm)?;
            let wrapped = transport.wrap(session, key.handle(), &keyset, *usage)?;
            device.keys.push(WireKey { wrapped, kcv });
        }
        devices.push(device);
    }
    Ok(JobOutput::OrderChunk { wrapped_transport_key, oaep_hash, devices })
}

/// The recipient's key as a session object that wraps and does nothing else.
pub(crate) fn recipient_key<'s>(
    session: &'s TokenSession,
    key: &RsaPublicKey,
) -> Result<SessionObject<'s>, HsmError> {
    session.create(&[
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::RSA),
        Attribute::Token(false),
        Attribute::Private(false),
        Attribute::Modulus(key.modulus.clone()),
        Attribute::PublicExponent(key.exponent.clone()),
        Attribute::Wrap(true),
        Attribute::Encrypt(false),
        Attribute::Verify(false),
        Attribute::VerifyRecover(false),
        Attribute::Derive(false),
    ])
}

pub(crate) fn wrap_oaep(
    session: &TokenSession,
    hash: OaepHash,
    recipient: ObjectHandle,
    key: ObjectHandle,
) -> Result<Vec<u8>, HsmError> {
    let (hash, mgf) = match hash {
        OaepHash::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        OaepHash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    let mechanism = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()));
    let mut wrapped = vec![0; RSA_BITS_MAX / 8];
    let len = session.wrap_into(&mechanism, recipient, key, &mut wrapped)?;
    wrapped.truncate(len);
    Ok(wrapped)
}

/// AES-KWP of an AES key: 8 bytes more than the key, which is a multiple of 8 (RFC 5649 §3).
pub(crate) fn wrap_kwp(
    session: &TokenSession,
    kwp: u64,
    transport: ObjectHandle,
    key: ObjectHandle,
    algorithm: KeysetAlgorithm,
) -> Result<Vec<u8>, HsmError> {
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism_type(kwp), None));
    let mut wrapped = vec![0; algorithm.key_bytes() + 8];
    let expected = wrapped.len();
    let len = session.wrap_into(&mechanism, transport, key, &mut wrapped)?;
    if len == expected {
        Ok(wrapped)
    } else {
        Err(HsmError::policy(format!("the token wrapped a {} key into {len} bytes", algorithm.as_str())))
    }
}

/// The check values of the keys of a keyset, which stay where they are.
pub(crate) fn check_values(
    session: &TokenSession,
    keyset: &OpenKeyset<'_>,
) -> Result<Vec<[u8; 3]>, HsmError> {
    let of = |usage: &KeyUsage| {
        let key = source::device_key(session, keyset, *usage, SessionKeyUse::KeyCheck)?;
        check_value(session, key.handle(), keyset.keyset.algorithm)
    };
    keyset.keyset.protocol.usages().iter().map(of).collect()
}

/// The check value of a key, computed in the token.
pub(crate) fn check_value(
    session: &TokenSession,
    key: ObjectHandle,
    algorithm: KeysetAlgorithm,
) -> Result<[u8; 3], HsmError> {
    let block = if algorithm.may_be_made() {
        session.encrypt(&Mechanism::AesEcb, key, &CHECK_BLOCK)?
    } else {
        session.encrypt(&Mechanism::Des3Ecb, key, &TRIPLE_DES_CHECK_BLOCK)?
    };
    block.first_chunk().copied().ok_or_else(|| HsmError::token("the token encrypted a block into less"))
}

/// Stops a long batch that nobody waits for any more.
pub(crate) fn in_time(deadline: Option<Instant>) -> Result<(), HsmError> {
    match deadline {
        Some(deadline) if Instant::now() >= deadline => Err(HsmError::new(
            ErrorClass::Deadline,
            "the deadline passed within the batch; nothing was released",
        )),
        _ => Ok(()),
    }
}
