//! What the token really does, by known answers on throw-away session keys. Mechanism lists are not believed: the same
//! number means RFC 5649 on one module, PKCS#7 padding on another and nothing on a third.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys::{
    CKA_EC_POINT, CKA_MODULUS, CKA_PUBLIC_EXPONENT, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD,
};

use super::boundary::Boundary;
use super::derive::{CMAC, readable_block};
use super::import::{Wrapping, readable_triple_des};
use super::open::signs_as;
use super::order::{recipient_key, wrap_oaep};
use super::order_form::wrap_3394;
use super::put_key::wrap_cbc;
use super::rsp::{both_sides_agree, x963_is_right};
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::key::{KeyKind, KeyRole, OaepHash};
use crate::pkcs11_gaps::mechanism_type;
use crate::report::Probe;
use crate::spki::{self, RsaPublicKey};
use crate::template::SessionKeyUse;
use domain::{Curve, EuiccCurve, KeysetAlgorithm};

/// What the known answers showed.
pub(crate) struct Abilities {
    /// The mechanism number that wraps as RFC 5649 says.
    pub(crate) kwp: Option<u64>,
    /// The better OAEP hash that works.
    pub(crate) oaep_hash: Option<OaepHash>,
    /// AES-CBC wraps keys of whole blocks as it encrypts data. Without it nothing but PUT KEY is refused.
    pub(crate) cbc_wrap: bool,
    /// ECDH with X9.63-SHA256 inside the token. Without it Z is in worker memory.
    pub(crate) x963: bool,
    ecdh: bool,
    /// CKM_AES_KEY_WRAP wraps as RFC 3394 says. Without it nothing but orders as PSKC is refused.
    pub(crate) key_wrap: bool,
    /// AES-CBC encrypts and decrypts. Without it nothing but packets of AES keysets is refused.
    pub(crate) aes_cbc: bool,
    /// The same of 3DES.
    pub(crate) triple_des_cbc: bool,
    ecb_derive: bool,
    triple_des_derive: bool,
    cmac: bool,
    ecdsa: bool,
    /// Without it nothing but keys of that curve is refused.
    pub(crate) brainpool: bool,
    /// Without it nothing but keys of that curve is refused.
    p384: bool,
    eddsa: bool,
    /// SENSITIVE, EXTRACTABLE and ALLOWED_MECHANISMS are enforced.
    rules: bool,
}

impl Abilities {
    /// How keys are wrapped.
    pub(crate) fn wrapping(&self) -> Wrapping {
        Wrapping { kwp: self.kwp, oaep_hash: self.oaep_hash }
    }

    /// Whether a key of this role can do its work on this token, and is held to it.
    pub(crate) fn suffice_for(&self, role: KeyRole, boundary: Boundary) -> Result<(), HsmError> {
        let needed: &[(&str, bool)] = match role.kind() {
            KeyKind::Ec(Curve::BrainpoolP256r1) | KeyKind::AdoptedEc(Curve::BrainpoolP256r1) => &[
                ("brainpoolP256r1", self.brainpool),
                (
                    "X9.63-SHA256 (and is inside_only)",
                    !role.agrees_on_keys() || self.x963 || boundary == Boundary::Worker,
                ),
            ],
            KeyKind::Ec(Curve::P256) if role.agrees_on_keys() => &[
                ("CKM_ECDSA", self.ecdsa),
                ("CKM_ECDH1_DERIVE", self.ecdh),
                ("X9.63-SHA256 (and is inside_only)", self.x963 || boundary == Boundary::Worker),
            ],
            KeyKind::Ec(Curve::P256) | KeyKind::AdoptedEc(Curve::P256) => &[("CKM_ECDSA", self.ecdsa)],
            KeyKind::Ec(Curve::P384) | KeyKind::AdoptedEc(Curve::P384) => &[("P-384", self.p384)],
            KeyKind::EcAgreement => &[
                ("CKM_ECDH1_DERIVE", self.ecdh),
                ("session keys in memory of the worker (and is inside_only)", boundary == Boundary::Worker),
            ],
            KeyKind::Ed25519 => &[("CKM_EDDSA", self.eddsa)],
            KeyKind::AesCmac if role == KeyRole::FastMaster => &[
                ("CKM_AES_CMAC", self.cmac),
                ("device keys in memory of the worker (and is inside_only)", boundary == Boundary::Worker),
                ("AES-KWP", self.kwp.is_some()),
                ("RSA-OAEP", self.oaep_hash.is_some()),
            ],
            KeyKind::AesCmac if role == KeyRole::OceSeed => &[
                ("CKM_AES_CMAC", self.cmac),
                ("one-time keys in memory of the worker (and is inside_only)", boundary == Boundary::Worker),
            ],
            KeyKind::AesCmac => &[("CKM_AES_CMAC", self.cmac)],
            KeyKind::ImportedDerive(algorithm) if algorithm.is_triple_des() => {
                &[("CKM_DES3_ECB_ENCRYPT_DATA", self.triple_des_derive)]
            }
            KeyKind::AesDerive | KeyKind::ImportedDerive(_) if role.is_master() => &[
                ("CKM_AES_ECB_ENCRYPT_DATA", self.ecb_derive),
                ("CKM_AES_CMAC", self.cmac),
                ("AES-KWP", self.kwp.is_some()),
                ("RSA-OAEP", self.oaep_hash.is_some()),
            ],
            KeyKind::AesDerive | KeyKind::ImportedDerive(_) => {
                &[("CKM_AES_ECB_ENCRYPT_DATA", self.ecb_derive)]
            }
            KeyKind::AesWrap | KeyKind::AesImport | KeyKind::AesKek => &[("AES-KWP", self.kwp.is_some())],
            KeyKind::RsaUnwrap => &[("RSA-OAEP", self.oaep_hash.is_some())],
        };
        let missing: Vec<_> = needed.iter().filter(|(_, works)| !works).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            return Err(HsmError::policy(format!(
                "the token cannot hold a {}: it lacks {}",
                role.as_str(),
                missing.join(", ")
            )));
        }
        if !self.rules {
            return Err(HsmError::policy(
                "the token does not enforce SENSITIVE, EXTRACTABLE or ALLOWED_MECHANISMS",
            ));
        }
        Ok(())
    }
}

/// Runs every probe. An error of the token is a probe that failed; only a lost session is an error here.
pub(crate) fn run(session: &TokenSession) -> Result<(Abilities, Vec<Probe>), HsmError> {
    let mut probes = Vec::new();
    let mut note = |name: &str, outcome: Result<(), HsmError>| {
        let detail = outcome.as_ref().err().map(HsmError::to_string).unwrap_or_default();
        probes.push(Probe { name: name.to_owned(), passed: outcome.is_ok(), detail });
        outcome.is_ok()
    };
    let kwp_standard = note("AES-KWP 0x210b (RFC 5649)", kwp(session, CKM_AES_KEY_WRAP_KWP));
    let kwp_pad = note("AES-KWP 0x210a (RFC 5649)", kwp(session, CKM_AES_KEY_WRAP_PAD));
    let oaep_sha256 = note("RSA-OAEP SHA-256 wrap", oaep(session, OaepHash::Sha256));
    let oaep_sha1 = note("RSA-OAEP SHA-1 wrap", oaep(session, OaepHash::Sha1));
    let abilities = Abilities {
        kwp: if kwp_standard { Some(CKM_AES_KEY_WRAP_KWP) } else { kwp_pad.then_some(CKM_AES_KEY_WRAP_PAD) },
        oaep_hash: if oaep_sha256 { Some(OaepHash::Sha256) } else { oaep_sha1.then_some(OaepHash::Sha1) },
        cbc_wrap: note("AES-CBC wrap (SP 800-38A)", cbc_wrap(session)),
        key_wrap: note("AES Key Wrap (RFC 3394)", key_wrap(session)),
        aes_cbc: note("AES-CBC (SP 800-38A)", aes_cbc(session)),
        triple_des_cbc: note("3DES-CBC (SP 800-67)", triple_des_cbc(session)),
        ecb_derive: note("AES-ECB derive (FIPS 197)", ecb_derive(session)),
        triple_des_derive: note("3DES-ECB derive (SP 800-67)", triple_des_derive(session)),
        x963: note("ECDH with X9.63-SHA256 inside", x963_is_right(session)),
        ecdh: note("ECDH P-256", both_sides_agree(session, EuiccCurve::P256)),
        cmac: note("AES-CMAC (RFC 4493)", cmac(session)),
        ecdsa: note("ECDSA P-256", signs(session, KeyKind::Ec(Curve::P256))),
        brainpool: note(
            "ECDSA and ECDH brainpoolP256r1",
            signs(session, KeyKind::Ec(Curve::BrainpoolP256r1))
                .and_then(|()| both_sides_agree(session, EuiccCurve::BrainpoolP256r1)),
        ),
        p384: note("ECDSA P-384", signs(session, KeyKind::Ec(Curve::P384))),
        eddsa: note("EdDSA Ed25519", signs(session, KeyKind::Ed25519)),
        rules: [
            note("rule: SENSITIVE keys are not read", sensitive_is_enforced(session)),
            note(
                "rule: keys that are not EXTRACTABLE are not wrapped",
                extractable_is_enforced(session, kwp_pad),
            ),
            note("rule: ALLOWED_MECHANISMS binds", allowed_mechanisms_is_enforced(session)),
        ]
        .iter()
        .all(|enforced| *enforced),
    };
    Ok((abilities, probes))
}

/// A session key with a published value.
fn known_key<'s>(
    session: &'s TokenSession,
    key_type: KeyType,
    value: &[u8],
    flags: &[Attribute],
) -> Result<SessionObject<'s>, HsmError> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Value(value.to_vec()),
        Attribute::Token(false),
        Attribute::Private(true),
    ];
    template.extend_from_slice(flags);
    session.create(&template)
}

/// The usage flags of a probe key: one true, the others stated false.
fn only(usage: &Attribute, sensitive: bool, extractable: bool) -> Vec<Attribute> {
    let mut flags = vec![
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    flags.retain(|flag| flag.attribute_type() != usage.attribute_type());
    flags.extend([usage.clone(), Attribute::Sensitive(sensitive), Attribute::Extractable(extractable)]);
    flags
}

fn differs(what: &str) -> HsmError {
    HsmError::policy(format!("{what} gave another answer than the published one"))
}

/// Compared with other code: the keys that the RFC's examples wrap have 20 and 7 bytes, and SoftHSM pads such a key
/// before it wraps it, which says nothing about the whole blocks that we wrap.
fn kwp(session: &TokenSession, number: u64) -> Result<(), HsmError> {
    const KEK: [u8; 32] = *b"a published kek, not a secret...";
    const KEY: [u8; 32] = *b"a published key, not a secret...";
    let unusable = |_| HsmError::policy("the probe's own AES-KWP fails");
    let mut buffer = [0; 48];
    let kek = AesKek::new(&AES_256, &KEK).map_err(unusable)?;
    let expected = kek.wrap_with_padding(&KEY, &mut buffer).map_err(unusable)?;
    let kek = known_key(session, KeyType::AES, &KEK, &only(&Attribute::Wrap(true), true, false))?;
    let key = known_key(session, KeyType::AES, &KEY, &only(&Attribute::Sign(false), true, true))?;
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism_type(number), None));
    let mut wrapped = [0; 64];
    let len = session.wrap_into(&mechanism, kek.handle(), key.handle(), &mut wrapped)?;
    if wrapped[..len] == *expected { Ok(()) } else { Err(differs("AES-KWP")) }
}

/// RFC 3394 §4.6.
fn key_wrap(session: &TokenSession) -> Result<(), HsmError> {
    const ANSWER: [u8; 40] =
        *b"\x28\xc9\xf4\x04\xc4\xb8\x10\xf4\xcb\xcc\xb3\x5c\xfb\x87\xf8\x26\x3f\x57\x86\xe2\
        \xd8\x0e\xd3\x26\xcb\xc7\xf0\xe7\x1a\x99\xf4\x3b\xfb\x98\x8b\x9b\x7a\x02\xdd\x21";
    const KEY: [u8; 32] =
        *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff\x00\x01\x02\x03\x04\x05\
        \x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f";
    let mut kek = [0; 32];
    (0..).zip(&mut kek).for_each(|(i, byte)| *byte = i);
    let kek = known_key(session, KeyType::AES, &kek, &only(&Attribute::Wrap(true), true, false))?;
    let key = known_key(session, KeyType::AES, &KEY, &only(&Attribute::Sign(false), true, true))?;
    if wrap_3394(session, kek.handle(), key.handle(), KEY.len())? == ANSWER {
        Ok(())
    } else {
        Err(differs("AES Key Wrap"))
    }
}

/// SP 800-38A §F.2.5: AES-256 in CBC mode. It has an IV that PUT KEY and packets do not have: XORed into the first block, it
/// is the same known answer with IV 0.
const CBC_KEY: [u8; 32] = *b"\x60\x3d\xeb\x10\x15\xca\x71\xbe\x2b\x73\xae\xf0\x85\x7d\x77\x81\
    \x1f\x35\x2c\x07\x3b\x61\x08\xd7\x2d\x98\x10\xa3\x09\x14\xdf\xf4";
const CBC_DATA: [u8; 32] = *b"\x6b\xc1\xbe\xe2\x2e\x40\x9f\x96\xe9\x3d\x7e\x11\x73\x93\x17\x2a\
    \xae\x2d\x8a\x57\x1e\x03\xac\x9c\x9e\xb7\x6f\xac\x45\xaf\x8e\x51";
const CBC_ANSWER: [u8; 32] = *b"\xf5\x8c\x4c\x04\xd6\xe5\xf1\xba\x77\x9e\xab\xfb\x5f\x7b\xfb\xd6\
    \x9c\xfc\x4e\x96\x7e\xdb\x80\x8d\x67\x9f\x77\x7b\xc6\x70\x2c\x7d";

/// The data of the known answer as IV 0 has it.
fn cbc_data() -> [u8; 32] {
    let mut data = CBC_DATA;
    // The published IV is 00, 01, ... 0f.
    (0..16).zip(&mut data).for_each(|(iv, byte): (u8, _)| *byte ^= iv);
    data
}

fn cbc_wrap(session: &TokenSession) -> Result<(), HsmError> {
    let dek = known_key(session, KeyType::AES, &CBC_KEY, &only(&Attribute::Wrap(true), true, false))?;
    let key = known_key(session, KeyType::AES, &cbc_data(), &only(&Attribute::Sign(false), true, true))?;
    if wrap_cbc(session, dek.handle(), key.handle(), KeysetAlgorithm::Aes256)? == CBC_ANSWER {
        Ok(())
    } else {
        Err(differs("AES-CBC wrap"))
    }
}

fn aes_cbc(session: &TokenSession) -> Result<(), HsmError> {
    both_ways(session, KeyType::AES, &CBC_KEY, &Mechanism::AesCbc([0; 16]), (&cbc_data(), &CBC_ANSWER))
}

/// SP 800-67 appendix B: two blocks of its example, the second one so that CBC makes it what the example encrypts.
fn triple_des_cbc(session: &TokenSession) -> Result<(), HsmError> {
    const ANSWER: [u8; 16] = *b"\xa8\x26\xfd\x8c\xe5\x3b\x85\x5f\xcc\xe2\x1c\x81\x12\x25\x6f\xe6";
    let mut data = *b"The qufck brown ";
    (0..8).for_each(|at| data[8 + at] ^= ANSWER[at]);
    both_ways(session, KeyType::DES3, &TRIPLE_DES_KEY, &Mechanism::Des3Cbc([0; 8]), (&data, &ANSWER))
}

/// A known answer of a cipher, in both directions.
fn both_ways(
    session: &TokenSession,
    key_type: KeyType,
    key: &[u8],
    mechanism: &Mechanism<'_>,
    (clear, ciphered): (&[u8], &[u8]),
) -> Result<(), HsmError> {
    let flags = |usage| only(&usage, true, false);
    let encrypts = known_key(session, key_type, key, &flags(Attribute::Encrypt(true)))?;
    let decrypts = known_key(session, key_type, key, &flags(Attribute::Decrypt(true)))?;
    if session.encrypt(mechanism, encrypts.handle(), clear)? == ciphered
        && session.decrypt(mechanism, decrypts.handle(), ciphered)?[..] == *clear
    {
        Ok(())
    } else {
        Err(differs("CBC"))
    }
}

/// FIPS 197 C.3.
fn ecb_derive(session: &TokenSession) -> Result<(), HsmError> {
    const BLOCK: [u8; 16] = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    const ANSWER: [u8; 16] = *b"\x8e\xa2\xb7\xca\x51\x67\x45\xbf\xea\xfc\x49\x90\x4b\x49\x60\x89";
    let mut value = [0; 32];
    (0..).zip(&mut value).for_each(|(i, byte)| *byte = i);
    let key = known_key(session, KeyType::AES, &value, &only(&Attribute::Derive(true), true, false))?;
    if *readable_block(session, key.handle(), &BLOCK)? == ANSWER {
        Ok(())
    } else {
        Err(differs("AES-ECB derive"))
    }
}

/// SP 800-67 appendix B: the key of its example of 3-key triple DES.
const TRIPLE_DES_KEY: [u8; 24] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x23\x45\x67\x89\xab\xcd\xef\x01\
    \x45\x67\x89\xab\xcd\xef\x01\x23";

fn triple_des_derive(session: &TokenSession) -> Result<(), HsmError> {
    const ANSWER: [u8; 8] = *b"\xa8\x26\xfd\x8c\xe5\x3b\x85\x5f";
    let key =
        known_key(session, KeyType::DES3, &TRIPLE_DES_KEY, &only(&Attribute::Derive(true), true, false))?;
    if *readable_triple_des(session, key.handle(), b"The qufc")? == ANSWER {
        Ok(())
    } else {
        Err(differs("3DES-ECB derive"))
    }
}

/// RFC 4493 §4, example 2.
fn cmac(session: &TokenSession) -> Result<(), HsmError> {
    const KEY: [u8; 16] = *b"\x2b\x7e\x15\x16\x28\xae\xd2\xa6\xab\xf7\x15\x88\x09\xcf\x4f\x3c";
    const MESSAGE: [u8; 16] = *b"\x6b\xc1\xbe\xe2\x2e\x40\x9f\x96\xe9\x3d\x7e\x11\x73\x93\x17\x2a";
    const ANSWER: [u8; 16] = *b"\x07\x0a\x16\xb4\x6b\x4d\x41\x44\xf7\x9b\xdd\x9d\xd0\x4a\x28\x7c";
    let key = known_key(session, KeyType::AES, &KEY, &only(&Attribute::Sign(true), true, false))?;
    if *session.sign::<16>(&Mechanism::AesCMac, key.handle(), &MESSAGE)? == ANSWER {
        Ok(())
    } else {
        Err(differs("AES-CMAC"))
    }
}

/// Wraps a known key to an RSA key whose private half is public: it is in this repository and protects nothing.
fn oaep(session: &TokenSession, hash: OaepHash) -> Result<(), HsmError> {
    const VALUE: [u8; 32] = *b"a published value, not a secret.";
    let unusable = |_| HsmError::policy("the probe's own RSA key does not load");
    let private = PrivateDecryptingKey::from_pkcs8(include_bytes!("probe_rsa3072.pk8"))
        .map_err(|_| HsmError::policy("the probe's own RSA key does not load"))?;
    let spki = private.public_key().as_der().map_err(unusable)?;
    let recipient = recipient_key(session, &spki::rsa_public_key(spki.as_ref())?)?;
    let key = known_key(session, KeyType::AES, &VALUE, &only(&Attribute::Wrap(true), true, true))?;
    let wrapped = wrap_oaep(session, hash, recipient.handle(), key.handle())?;
    let algorithm = match hash {
        OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let private = OaepPrivateDecryptingKey::new(private).map_err(unusable)?;
    let mut buffer = vec![0; private.min_output_size()];
    match private.decrypt(algorithm, &wrapped, &mut buffer, None) {
        Ok(value) if *value == VALUE => Ok(()),
        _ => Err(differs("RSA-OAEP")),
    }
}

/// A fresh key pair signs, and other code verifies.
fn signs(session: &TokenSession, kind: KeyKind) -> Result<(), HsmError> {
    const CONSTANT: &[u8] = b"chancery probe, constant input..";
    let (public, private) = generate_pair(session, kind, &kind.probe_attributes())?;
    // Destroyed when this ends, like its public half.
    let private = session.guard(private);
    let spki = public_key_info(session, kind, &public)?;
    if signs_as(session, kind, private.handle(), &spki, CONSTANT)? {
        Ok(())
    } else {
        Err(differs("a signature"))
    }
}

/// A key pair: its public half is a session object, the private one what `private` says.
pub(crate) fn generate_pair<'s>(
    session: &'s TokenSession,
    kind: KeyKind,
    private: &[Attribute],
) -> Result<(SessionObject<'s>, ObjectHandle), HsmError> {
    let mechanism = match kind {
        KeyKind::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        KeyKind::RsaUnwrap => Mechanism::RsaPkcsKeyPairGen,
        _ => Mechanism::EccKeyPairGen,
    };
    session.generate_pair(&mechanism, &kind.public_attributes(), private)
}

/// The SubjectPublicKeyInfo of a public key object.
pub(crate) fn public_key_info(
    session: &TokenSession,
    kind: KeyKind,
    public: &SessionObject<'_>,
) -> Result<Vec<u8>, HsmError> {
    if kind == KeyKind::RsaUnwrap {
        let read = |attribute| session.attribute(public.handle(), attribute);
        let key = RsaPublicKey { modulus: read(CKA_MODULUS)?, exponent: read(CKA_PUBLIC_EXPONENT)? };
        return Ok(spki::rsa_spki(&key));
    }
    let point = session.attribute(public.handle(), CKA_EC_POINT)?;
    match kind {
        KeyKind::Ec(curve) | KeyKind::AdoptedEc(curve) => spki::spki_of_ec_point(curve, &point),
        KeyKind::EcAgreement => spki::spki_of_ec_point(Curve::P256, &point),
        _ => spki::ed25519_from_ec_point(&point),
    }
    .ok_or_else(|| HsmError::policy("the token's CKA_EC_POINT is no point of the curve asked for"))
}

fn sensitive_is_enforced(session: &TokenSession) -> Result<(), HsmError> {
    let key = session.generate(&Mechanism::AesKeyGen, &SessionKeyUse::Cmac.attributes(16))?;
    refused("a sensitive key was read", session.key_value::<16>(key.handle()).map(drop))
}

fn extractable_is_enforced(session: &TokenSession, pad: bool) -> Result<(), HsmError> {
    let kwp = if pad { CKM_AES_KEY_WRAP_PAD } else { CKM_AES_KEY_WRAP_KWP };
    let transport =
        session.generate(&Mechanism::AesKeyGen, &SessionKeyUse::Transport { kwp }.attributes(32))?;
    let key = session.generate(&Mechanism::AesKeyGen, &SessionKeyUse::Cmac.attributes(16))?;
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(mechanism_type(kwp), None));
    let wrapped = session.wrap_into(&mechanism, transport.handle(), key.handle(), &mut [0; 64]);
    refused("a key that is not extractable was wrapped", wrapped.map(drop))
}

/// A key that may encrypt, but only by a mechanism that cannot.
fn allowed_mechanisms_is_enforced(session: &TokenSession) -> Result<(), HsmError> {
    let mut template = only(&Attribute::Encrypt(true), true, false);
    template.retain(|flag| !matches!(flag, Attribute::Sign(_)));
    template.extend([
        Attribute::Sign(true),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::ValueLen(16.into()),
        Attribute::AllowedMechanisms(vec![CMAC]),
    ]);
    let key = session.generate(&Mechanism::AesKeyGen, &template)?;
    session.sign::<16>(&Mechanism::AesCMac, key.handle(), &[0; 16])?;
    refused(
        "a mechanism that is not allowed was used",
        session.encrypt(&Mechanism::AesEcb, key.handle(), &[0; 16]).map(drop),
    )
}

fn refused(what: &str, outcome: Result<(), HsmError>) -> Result<(), HsmError> {
    match outcome {
        Ok(()) => Err(HsmError::policy(what)),
        Err(_) => Ok(()),
    }
}
