//! The form in which an order's keys leave: AES-KWP and AES-KW by the token; key blocks (TR-31) and pySim's cells by
//! the worker, from the token's own wrap.
//!
//! Even for those two a device key is a sensitive object of the token. What is readable is the chunk's transport key,
//! which leaves for the manufacturer anyway; with it the worker opens each wrap in zeroized memory and writes the other form.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::object::ObjectHandle;
use cryptoki_sys::CKM_AES_KEY_WRAP;
use domain::{DeviceKeyset, KeyUsage, OrderFormat, Protocol};
use keys::pysim_csv::encrypt_cell;
use keys::tr31::{BlockProtection, FILLER_BYTES, Header, cmac_check_value};
use keys::{SecretKey, SoftwareKey};
use zeroize::Zeroizing;

use super::boundary::Boundary;
use super::order::wrap_kwp;
use super::probe::Abilities;
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::pkcs11_gaps::mechanism_type;
use crate::template::SessionKeyUse;

/// Bytes of a transport key.
const TRANSPORT_KEY_BYTES: usize = 32;

/// The transport key of one chunk, and the form of what is wrapped under it.
pub(crate) struct ChunkTransport<'s> {
    key: SessionObject<'s>,
    form: Form,
}

enum Form {
    /// RFC 5649, by this mechanism.
    Kwp(u64),
    /// RFC 3394.
    KeyWrap,
    KeyBlocks {
        kwp: u64,
        transport: SecretKey,
        protection: Box<BlockProtection>,
    },
    Cells {
        kwp: u64,
        transport: SecretKey,
        column: Box<SoftwareKey>,
    },
}

impl<'s> ChunkTransport<'s> {
    /// Makes a fresh transport key for a format; refused where the format needs what the boundary forbids.
    pub(crate) fn generate(
        session: &'s TokenSession,
        abilities: &Abilities,
        boundary: Boundary,
        format: OrderFormat,
    ) -> Result<Self, HsmError> {
        if boundary == Boundary::InsideOnly && !format.is_made_inside() {
            return Err(HsmError::policy(format!(
                "orders as {} need device keys outside the token, and this token is inside_only",
                format.as_str()
            )));
        }
        let kwp = abilities.kwp.ok_or_else(|| HsmError::policy("the token has no AES-KWP; no orders"))?;
        let make = |usage: SessionKeyUse| {
            session.generate(&Mechanism::AesKeyGen, &usage.attributes(TRANSPORT_KEY_BYTES))
        };
        match format {
            OrderFormat::JsonlKwp => {
                Ok(Self { key: make(SessionKeyUse::Transport { kwp })?, form: Form::Kwp(kwp) })
            }
            OrderFormat::Pskc if !abilities.key_wrap => {
                Err(HsmError::policy("the token has no AES Key Wrap (RFC 3394); no orders as pskc"))
            }
            OrderFormat::Pskc => {
                let usage = SessionKeyUse::Transport { kwp: CKM_AES_KEY_WRAP };
                Ok(Self { key: make(usage)?, form: Form::KeyWrap })
            }
            OrderFormat::Tr31 | OrderFormat::PysimCsv => {
                let key = make(SessionKeyUse::ReadableTransport { kwp })?;
                let value = session.key_value::<TRANSPORT_KEY_BYTES>(key.handle())?;
                let transport =
                    SecretKey::from_slice(&value[..]).map_err(|e| HsmError::token(e.to_string()))?;
                let form = if format == OrderFormat::Tr31 {
                    Form::KeyBlocks { kwp, protection: Box::new(BlockProtection::new(&transport)), transport }
                } else {
                    Form::Cells { kwp, column: Box::new(SoftwareKey::new(&transport)), transport }
                };
                Ok(Self { key, form })
            }
        }
    }

    /// The transport key, to be wrapped for the recipient.
    pub(crate) fn handle(&self) -> ObjectHandle {
        self.key.handle()
    }

    /// One device key as it leaves.
    pub(crate) fn wrap(
        &self,
        session: &TokenSession,
        key: ObjectHandle,
        keyset: &DeviceKeyset,
        usage: KeyUsage,
    ) -> Result<Vec<u8>, HsmError> {
        let kwp = |kwp: u64| wrap_kwp(session, kwp, self.handle(), key, keyset.algorithm);
        match &self.form {
            Form::Kwp(mechanism) => kwp(*mechanism),
            Form::KeyWrap => wrap_3394(session, self.handle(), key, keyset.algorithm.key_bytes()),
            Form::KeyBlocks { kwp: mechanism, transport, protection } => {
                let key = open(transport, &kwp(*mechanism)?)?;
                let mut filler = Zeroizing::new([0; FILLER_BYTES]);
                aws_lc_rs::rand::fill(&mut filler[..])
                    .map_err(|_| HsmError::token("the random generator gave nothing"))?;
                protection
                    .wrap(&block_header(keyset, usage, &key), &key, &filler)
                    .map(String::into_bytes)
                    .map_err(|e| HsmError::caller(e.to_string()))
            }
            Form::Cells { kwp: mechanism, transport, column } => {
                let key = open(transport, &kwp(*mechanism)?)?;
                encrypt_cell(column, &key).map_err(|e| HsmError::caller(e.to_string()))
            }
        }
    }
}

/// AES Key Wrap: 8 bytes more than the key, as AES-KWP, but of another initial value (RFC 3394 §2.2.3.1).
pub(crate) fn wrap_3394(
    session: &TokenSession,
    wrapping: ObjectHandle,
    key: ObjectHandle,
    key_bytes: usize,
) -> Result<Vec<u8>, HsmError> {
    let mechanism =
        Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism_type(CKM_AES_KEY_WRAP), None));
    let mut wrapped = vec![0; key_bytes + 8];
    let len = session.wrap_into(&mechanism, wrapping, key, &mut wrapped)?;
    if len == wrapped.len() {
        Ok(wrapped)
    } else {
        Err(HsmError::policy(format!("the token wrapped a key of {key_bytes} bytes into {len}")))
    }
}

/// The device key in a wrap of the token, in zeroized memory.
fn open(transport: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, HsmError> {
    let broken = |_| HsmError::token("the token's own wrap does not open");
    let mut buffer = Zeroizing::new([0; 64]);
    let kek = AesKek::new(&AES_256, transport.expose()).map_err(broken)?;
    let opened = kek.unwrap_with_padding(wrapped, &mut buffer[..]).map_err(broken)?;
    SecretKey::from_slice(opened).map_err(|e| HsmError::token(e.to_string()))
}

/// What a key block says of its key: a derivation key of one device, or the key that wraps new keys on its card.
fn block_header(keyset: &DeviceKeyset, usage: KeyUsage, key: &SecretKey) -> Header {
    // X9.143 tables 4 and 6: B3 is a key derivation key that is not of X9.24, D0 encrypts data, M6 is for CMAC, K0 encrypts or
    // wraps keys. The static ENC and MAC of SCP03 only derive session keys, as does a PSK; those of SCP80 protect packets
    // themselves.
    let name = usage.as_str();
    let (key_usage, mode) = match (usage, keyset.protocol) {
        (KeyUsage::Enc, Protocol::Scp80) => (*b"D0", b'B'),
        (KeyUsage::Mac, Protocol::Scp80) => (*b"M6", b'C'),
        (KeyUsage::Enc | KeyUsage::Mac | KeyUsage::Psk, _) => (*b"B3", b'X'),
        (KeyUsage::Dek | KeyUsage::PskDek, _) => (*b"K0", b'B'),
    };
    let mut version = [b'0'; 2];
    for (digit, nibble) in version.iter_mut().zip([keyset.kvn.value() >> 4, keyset.kvn.value() & 0x0f]) {
        *digit = b"0123456789ABCDEF"[usize::from(nibble)];
    }
    let (protocol, domain) = (keyset.protocol.as_str(), keyset.security_domain.as_str());
    Header {
        usage: key_usage,
        mode,
        version,
        exportability: b'E',
        optional: vec![
            (*b"KC", cmac_check_value(key)),
            (*b"LB", format!("{}/{protocol}/{domain}/{name}", keyset.eid)),
        ],
    }
}
