//! Opening a token: find it, log in once, find every key, compare every flag, see every key work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::slot::Slot;
use cryptoki_sys::{CK_ULONG, CKA_CLASS, CKA_ID, CKA_LABEL, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY, CKO_SECRET_KEY};
use domain::Curve;
use ecc::{Digest, Signature};

use super::boundary::Boundary;
use super::derive::{self, MasterConstants};
use super::import::{self, Wrapping};
use super::probe::{self, Abilities};
use super::rsp;
use super::stored;
use super::token_session::{Module, TokenSession};
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyCheck, KeyKind, KeyRef, KeyRole, MasterAlgorithm, RegisteredKey};
use crate::protocol::TokenAccess;
use crate::report::{Probe, StartReport};
use crate::signature::Verifier;

/// What canaries sign and derive from; a constant of ours, so that a canary's output means nothing else.
const CANARY: &[u8] = b"chancery canary, constant input.";
/// What a check value is computed over (GP Card Specification §B.6).
const CHECK_BLOCK: [u8; 16] = [0x01; 16];

/// A key found on the token, in the shape and with the value that its record says.
pub(crate) struct ResolvedKey {
    pub(crate) registered: RegisteredKey,
    pub(crate) handle: ObjectHandle,
    /// Of a master: what its derivations start from.
    pub(crate) constants: Option<MasterConstants>,
}

/// A token that is open and checked; shared by the threads of a worker.
pub(crate) struct OpenToken {
    pub(crate) module: Arc<Module>,
    pub(crate) slot: Slot,
    pub(crate) abilities: Abilities,
    pub(crate) boundary: Boundary,
    pub(crate) report: StartReport,
    keys: Mutex<HashMap<KeyRef, Arc<ResolvedKey>>>,
    /// Keeps the login alive whatever the worker threads do with theirs.
    _anchor: Mutex<TokenSession>,
}

impl OpenToken {
    /// Fails on the first deviation, naming it.
    pub(crate) fn open(
        access: &TokenAccess,
        boundary: Boundary,
        keys: Vec<RegisteredKey>,
    ) -> Result<Self, HsmError> {
        let module = Module::load(&access.module)?;
        let (slot, info) = module.find_token(&access.token_label, access.token_serial.as_deref())?;
        let session = module.open_logged_in(access, slot)?;
        let (abilities, probes) = probe::run(&session)?;
        let mut resolved = HashMap::new();
        let mut leaves = Vec::new();
        for key in keys {
            abilities.suffice_for(key.role, boundary).map_err(|e| explain(e, &probes))?;
            leaves.extend(leaves_the_token(&key, &abilities, boundary));
            let found = resolve(&session, abilities.wrapping(), key)?;
            resolved.insert(found.registered.key.clone(), Arc::new(found));
        }
        let unknown_objects = unknown_objects(&session, &resolved)?;
        let mut verified_keys: Vec<KeyRef> = resolved.keys().cloned().collect();
        verified_keys.sort_by(|a, b| a.label.cmp(&b.label));
        let firmware = info.firmware_version();
        let report = StartReport {
            token_label: info.label().to_owned(),
            token_serial: info.serial_number().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            firmware: format!("{}.{}", firmware.major(), firmware.minor()),
            probes,
            kwp_mechanism: abilities.kwp,
            oaep_hash: abilities.oaep_hash,
            leaves_the_token: leaves,
            verified_keys,
            unknown_objects,
        };
        let (keys, _anchor) = (Mutex::new(resolved), Mutex::new(session));
        Ok(Self { module, slot, abilities, boundary, report, keys, _anchor })
    }

    pub(crate) fn key(&self, key: &KeyRef) -> Result<Arc<ResolvedKey>, HsmError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key)
            .cloned()
            .ok_or_else(|| HsmError::caller(format!("key {key} is not known to the worker")))
    }

    /// Finds and checks one more key.
    pub(crate) fn add(&self, session: &TokenSession, key: RegisteredKey) -> Result<(), HsmError> {
        self.abilities.suffice_for(key.role, self.boundary)?;
        let found = Arc::new(resolve(session, self.abilities.wrapping(), key)?);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(found.registered.key.clone(), found);
        Ok(())
    }

    /// Searches a key again whose handle went stale, and checks it as at the start.
    pub(crate) fn find_again(&self, session: &TokenSession, key: &KeyRef) -> Result<(), HsmError> {
        let registered = self.key(key)?.registered.clone();
        self.add(session, registered)
    }

    /// The token's canary: the key made for it, else any key. `Ok` means the token is alive and the same.
    pub(crate) fn canary(&self, session: &TokenSession) -> Result<(), HsmError> {
        let chosen = {
            let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.values().find(|k| k.registered.role.is_canary()).or_else(|| keys.values().next()).cloned()
        };
        match chosen {
            Some(key) => prove_value(session, self.abilities.wrapping(), &key.registered, key.handle)
                .map_err(|e| e.context("canary")),
            // A token without keys: all there is to ask is whether the session lives.
            None => session.find(&[Attribute::Token(true)]).map(|_| ()),
        }
    }
}

/// Adds what the failed probes saw: the operator of another module has nothing else to go by.
fn explain(error: HsmError, probes: &[Probe]) -> HsmError {
    let failed: Vec<String> =
        probes.iter().filter(|p| !p.passed).map(|p| format!("{}: {}", p.name, p.detail)).collect();
    HsmError { detail: format!("{} (failed probes: {})", error.detail, failed.join("; ")), ..error }
}

/// Finds the one object of this label, id and class, compares its template, and sees it work.
fn resolve(
    session: &TokenSession,
    wrapping: Wrapping,
    registered: RegisteredKey,
) -> Result<ResolvedKey, HsmError> {
    let (key, kind) = (&registered.key, registered.role.kind());
    if !key.label.starts_with(&format!("chancery/{}/", registered.role.as_str())) {
        return Err(HsmError::policy(format!("key {key} is not labelled as a {}", registered.role.as_str())));
    }
    let handle = find_one(session, kind, key)?;
    let context = |e: HsmError| e.context(&format!("key {key}"));
    key_template(session, kind, handle).map_err(context)?;
    prove_value(session, wrapping, &registered, handle).map_err(context)?;
    let constants = match registered.role {
        KeyRole::ImportedMaster(algorithm) if algorithm.is_triple_des() => None,
        KeyRole::FastMaster => None,
        role if role.is_master() => Some(MasterConstants::read(session, handle).map_err(context)?),
        _ => None,
    };
    Ok(ResolvedKey { registered, handle, constants })
}

fn find_one(session: &TokenSession, kind: KeyKind, key: &KeyRef) -> Result<ObjectHandle, HsmError> {
    let found = session.find(&[
        Attribute::Class(kind.object_class()),
        Attribute::Token(true),
        Attribute::Label(key.label.clone().into_bytes()),
        Attribute::Id(key.id.to_vec()),
    ])?;
    match found[..] {
        [handle] => Ok(handle),
        // Also what a token that was initialised again, or lost its login, answers.
        [] => Err(HsmError::new(ErrorClass::Handle, format!("key {key} is not on the token"))),
        _ => Err(HsmError::policy(format!("key {key} is {} times on the token", found.len()))),
    }
}

/// Reads every attribute of the template back: name and value of each. The error lists every deviation.
pub(crate) fn key_template(
    session: &TokenSession,
    kind: KeyKind,
    handle: ObjectHandle,
) -> Result<Vec<(String, String)>, HsmError> {
    let mut read = Vec::new();
    let mut deviations = Vec::new();
    for expected in kind.template() {
        let (text, matches) = match session.attribute(handle, expected.attribute) {
            Ok(bytes) => (expected.read(&bytes), expected.matches(&bytes)),
            Err(e) if e.class == ErrorClass::Caller => ("unreadable".to_owned(), expected.may_be_absent()),
            Err(e) => return Err(e.context(&format!("CKA_{}", expected.name))),
        };
        if !matches {
            let (name, must) = (expected.name, expected.expected());
            deviations.push(format!("CKA_{name} is {text} on the token and must be {must}"));
        }
        read.push((expected.name.to_owned(), text));
    }
    if deviations.is_empty() { Ok(read) } else { Err(HsmError::policy(deviations.join("; "))) }
}

/// Whether the key on the token is the one that was recorded.
pub(crate) fn prove_value(
    session: &TokenSession,
    wrapping: Wrapping,
    registered: &RegisteredKey,
    handle: ObjectHandle,
) -> Result<(), HsmError> {
    let kind = registered.role.kind();
    let another =
        || HsmError::policy(format!("the token's key {} is not the one that was recorded", registered.key));
    match &registered.check {
        KeyCheck::PublicKey(spki) if kind == KeyKind::RsaUnwrap => {
            if import::unwraps(session, wrapping, handle, spki)? { Ok(()) } else { Err(another()) }
        }
        KeyCheck::PublicKey(spki) if kind == KeyKind::EcAgreement => {
            if rsp::agrees(session, handle, spki)? {
                Ok(())
            } else {
                Err(another())
            }
        }
        KeyCheck::PublicKey(spki) => {
            if signs_as(session, kind, handle, spki, CANARY)? {
                Ok(())
            } else {
                Err(another())
            }
        }
        KeyCheck::CheckValue(recorded) => match key_check(session, wrapping, kind, handle)? {
            KeyCheck::CheckValue(found) if found == *recorded && kind == KeyKind::AesKek => {
                stored::canary(session, wrapping, handle)
            }
            KeyCheck::CheckValue(found) if found == *recorded => Ok(()),
            _ => Err(another()),
        },
    }
}

/// The check value of a secret key, over the only function it has.
pub(crate) fn key_check(
    session: &TokenSession,
    wrapping: Wrapping,
    kind: KeyKind,
    handle: ObjectHandle,
) -> Result<KeyCheck, HsmError> {
    let block = match kind {
        KeyKind::AesDerive => derive::readable_block(session, handle, &CHECK_BLOCK)?,
        KeyKind::ImportedDerive(algorithm) => {
            return import::check_value(session, algorithm, handle).map(KeyCheck::CheckValue);
        }
        KeyKind::AesCmac => session.sign::<16>(&Mechanism::AesCMac, handle, &CHECK_BLOCK)?,
        KeyKind::AesWrap | KeyKind::AesImport | KeyKind::AesKek => {
            return import::wrap_check(session, wrapping, handle).map(KeyCheck::CheckValue);
        }
        KeyKind::Ec(_)
        | KeyKind::AdoptedEc(_)
        | KeyKind::EcAgreement
        | KeyKind::Ed25519
        | KeyKind::RsaUnwrap => {
            return Err(HsmError::policy("a key pair has no check value"));
        }
    };
    Ok(KeyCheck::CheckValue([block[0], block[1], block[2]]))
}

/// r || s over a digest.
pub(crate) fn sign(
    session: &TokenSession,
    kind: KeyKind,
    handle: ObjectHandle,
    digest: &Digest,
) -> Result<Signature, HsmError> {
    if !matches!(kind, KeyKind::Ec(curve) | KeyKind::AdoptedEc(curve) if digest.is_for(curve)) {
        return Err(HsmError::caller("a key of this role signs no such digests"));
    }
    // SoftHSM 2.6 has no CKM_ECDSA_SHA256: the digest is computed by the caller.
    let digest = digest.as_bytes();
    Ok(match kind {
        KeyKind::Ec(Curve::P384) | KeyKind::AdoptedEc(Curve::P384) => {
            Signature::bits_384(*session.sign(&Mechanism::Ecdsa, handle, digest)?)
        }
        _ => Signature::bits_256(*session.sign(&Mechanism::Ecdsa, handle, digest)?),
    })
}

/// An Ed25519 signature over a message (RFC 8032).
pub(crate) fn sign_message(
    session: &TokenSession,
    kind: KeyKind,
    handle: ObjectHandle,
    message: &[u8],
) -> Result<[u8; 64], HsmError> {
    if kind != KeyKind::Ed25519 {
        return Err(HsmError::caller("a key of this role signs no messages"));
    }
    let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
    Ok(*session.sign(&mechanism, handle, message)?)
}

/// Whether the key's signature of a constant of ours verifies under its public key.
pub(crate) fn signs_as(
    session: &TokenSession,
    kind: KeyKind,
    handle: ObjectHandle,
    spki: &[u8],
    constant: &[u8],
) -> Result<bool, HsmError> {
    let Some(verifier) = Verifier::new(kind, spki)? else { return Ok(false) };
    Ok(match &verifier {
        Verifier::Ecdsa(key) => {
            let digest = Digest::of(key.curve(), constant);
            verifier.accepts(&digest, &sign(session, kind, handle, &digest)?)
        }
        Verifier::Ed25519(_) => {
            verifier.accepts_message(constant, &sign_message(session, kind, handle, constant)?)
        }
    })
}

/// What this role brings out of the token in clear, for the report.
fn leaves_the_token(key: &RegisteredKey, abilities: &Abilities, boundary: Boundary) -> Vec<String> {
    let key_name = &key.key;
    let mut sentences = match key.role {
        KeyRole::Master | KeyRole::ImportedMaster(_) => vec![
            format!(
                "{key_name}: the CMAC subkey block and constant first blocks, kept in zeroized worker memory; no device key"
            ),
            format!(
                "{key_name}: SCP03 session keys, made by CMAC in the token, sealed, used for one script, or (of a card proof, S-MAC only) dropped in zeroized worker memory"
            ),
            format!(
                "{key_name}: chaining values of CMACs by schemes of other fleets, in zeroized worker memory; no device key"
            ),
            match boundary {
                Boundary::Worker => format!(
                    "{key_name}: pre-shared keys of SCP81 keysets, from which TLS master secrets are made and sealed in zeroized worker memory; inside_only refuses them"
                ),
                Boundary::InsideOnly => format!("{key_name}: TLS master secrets are refused (inside_only)"),
            },
            match boundary {
                Boundary::Worker => format!(
                    "{key_name}: device keys of orders as tr31 or pysim-csv, opened from their wrap in zeroized worker memory to be written in that form; inside_only refuses such orders"
                ),
                Boundary::InsideOnly => {
                    format!("{key_name}: orders as tr31 or pysim-csv are refused (inside_only)")
                }
            },
        ],
        KeyRole::FastMaster => vec![format!(
            "{key_name}: fast mode: device keys themselves, made by CMAC in the token, in zeroized worker memory for as long as a job takes; inside_only refuses this master"
        )],
        KeyRole::LogMac | KeyRole::Pseudonym => {
            vec![format!("{key_name}: service secrets, CMAC outputs used in zeroized memory of the daemon")]
        }
        KeyRole::RspPb(_) => vec![if abilities.x963 {
            format!(
                "{key_name}: keys of bound profile packages, derived in the token and sealed in zeroized worker memory"
            )
        } else {
            format!(
                "{key_name}: shared secrets of key agreements, from which keys of bound profile packages are derived and sealed in zeroized worker memory: the token has no X9.63"
            )
        }],
        KeyRole::AdoptedIssuer(_) => vec![format!(
            "{key_name}: adopted; other software made it: whether it has been outside, and by which mechanisms of its type it may sign, is as `chanceryd ceremony adopt-key` read it from the token"
        )],
        KeyRole::CertificateIssuer(_)
        | KeyRole::RspAuth(_)
        | KeyRole::EimSign
        | KeyRole::OperatorIssuer
        | KeyRole::OcspResponder(_)
        | KeyRole::LogSigner
        | KeyRole::CanarySign
        | KeyRole::CanaryDerive => Vec::new(),
        KeyRole::PartyTransport => vec![format!(
            "{key_name}: session keys that it wraps for its party are made in zeroized worker memory; static keys it wraps in the token"
        )],
        KeyRole::PartyImport => vec![match boundary {
            Boundary::Worker => format!(
                "{key_name}: device keys of pySim's CSV, decrypted in zeroized worker memory to become keys of the token; inside_only refuses them. Others it unwraps in the token"
            ),
            Boundary::InsideOnly => format!("{key_name}: imports of pySim's CSV are refused (inside_only)"),
        }],
        KeyRole::OceAgreement => vec![format!(
            "{key_name}: shared secrets with cards of SCP11, from which session keys are derived and sealed in zeroized worker memory"
        )],
        KeyRole::OceSeed => vec![format!(
            "{key_name}: one-time keys of SCP11 sessions, made of its CMAC in zeroized worker memory for as long as a job takes"
        )],
        KeyRole::TransportImport | KeyRole::Kek | KeyRole::BlobMac => Vec::new(),
    };
    if key.role == KeyRole::ImportedMaster(MasterAlgorithm::Aes192) {
        sentences.push(match boundary {
            Boundary::Worker => format!(
                "{key_name}: AES-192 device keys by an10922, joined in zeroized worker memory from two blocks; inside_only refuses them"
            ),
            Boundary::InsideOnly => format!("{key_name}: AES-192 keys by an10922 are refused (inside_only)"),
        });
    }
    if key.role.is_imported() {
        sentences.push(format!(
            "{key_name}: imported; its value has been outside, and where is not for the token to say (LOCAL, ALWAYS_SENSITIVE and NEVER_EXTRACTABLE are no evidence)"
        ));
    }
    sentences
}

/// Key objects on the token that nobody registered, e.g. left by a ceremony that was interrupted.
fn unknown_objects(
    session: &TokenSession,
    known: &HashMap<KeyRef, Arc<ResolvedKey>>,
) -> Result<Vec<String>, HsmError> {
    let mut unknown = Vec::new();
    for handle in session.find(&[Attribute::Token(true)])? {
        if known.values().any(|k| k.handle == handle) {
            continue;
        }
        // An object without a label or id is unknown all the more.
        let label = session.attribute(handle, CKA_LABEL).unwrap_or_default();
        let id = session.attribute(handle, CKA_ID).unwrap_or_default();
        let class = session.attribute(handle, CKA_CLASS).unwrap_or_default();
        unknown.push(format!(
            "{} {}#{}",
            class_name(&class),
            String::from_utf8_lossy(&label),
            hex::encode(id)
        ));
    }
    unknown.sort();
    Ok(unknown)
}

/// The word for a CKA_CLASS value.
pub(crate) fn class_name(class: &[u8]) -> &'static str {
    match class.try_into().map(CK_ULONG::from_ne_bytes) {
        Ok(CKO_PRIVATE_KEY) => "private-key",
        Ok(CKO_PUBLIC_KEY) => "public-key",
        Ok(CKO_SECRET_KEY) => "secret-key",
        _ => "object",
    }
}
