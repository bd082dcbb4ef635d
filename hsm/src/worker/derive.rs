//! Device keys by a master: derived in the token.
//!
//! A device key exists only as a sensitive session object. What is read from the token under a master is L (the CMAC
//! subkey block) and the constant first blocks; keys are in one more AES step from there, which the token makes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cryptoki::mechanism::misc::KeyDerivationStringData;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki_sys::{CKM_AES_ECB_ENCRYPT_DATA, CKM_DES3_ECB_ENCRYPT_DATA};
use domain::{DeviceKeyset, KeyUsage};
use keys::derivation::chancery::{self, KeyKind, second_block};
use keys::derivation::{Join, Recipe, Scheme, block_count, final_block};
use keys::kdf::kbkdf_counter;
use keys::{Prf, SecretKey};
use zeroize::Zeroizing;

use super::boundary::Boundary;
use super::open::ResolvedKey;
use super::stored::without_length;
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::key::KeyRole;
use crate::pkcs11_gaps::mechanism_type;
use crate::template::SessionKeyUse;

/// What all derivations under one master begin with. As sensitive as the device keys, hence zeroized; in a box each,
/// so that a growing map moves no secret.
pub(crate) struct MasterConstants {
    /// AES(master, 00..), from which CMAC's subkeys follow.
    l: Zeroizing<[u8; 16]>,
    /// AES(master, first block) per kind of key: at most a few hundred (2 domains, 3 usages, 16 KVNs, 5 blocks).
    first_blocks: Mutex<HashMap<KeyKind, Box<Zeroizing<[u8; 16]>>>>,
}

impl MasterConstants {
    pub(crate) fn read(session: &TokenSession, master: ObjectHandle) -> Result<Self, HsmError> {
        Ok(Self { l: readable_block(session, master, &[0; 16])?, first_blocks: Mutex::default() })
    }

    fn first_block(
        &self,
        session: &TokenSession,
        master: ObjectHandle,
        kind: KeyKind,
    ) -> Result<Zeroizing<[u8; 16]>, HsmError> {
        if let Some(known) = self.first_blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&kind) {
            return Ok(Zeroizing::new(***known));
        }
        // Outside the lock: two threads may read the same block once each.
        let block = readable_block(session, master, &kind.first_block())?;
        let kept = Box::new(Zeroizing::new(*block));
        self.first_blocks.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, kept);
        Ok(block)
    }
}

/// AES(key, block) of a DERIVE-only key, in zeroizing memory: derived as an object that is no key, read, destroyed.
pub(crate) fn readable_block(
    session: &TokenSession,
    key: ObjectHandle,
    block: &[u8; 16],
) -> Result<Zeroizing<[u8; 16]>, HsmError> {
    let object = derive_from(session, key, block, SessionKeyUse::ReadableBlock, 16)?;
    session.key_value(object.handle())
}

/// C_DeriveKey(CKM_AES_ECB_ENCRYPT_DATA): the leading `key_bytes` of AES-ECB(key, data).
pub(crate) fn derive_from<'s>(
    session: &'s TokenSession,
    key: ObjectHandle,
    data: &[u8],
    usage: SessionKeyUse,
    key_bytes: usize,
) -> Result<SessionObject<'s>, HsmError> {
    derive_with(session, CKM_AES_ECB_ENCRYPT_DATA, key, data, &usage.attributes(key_bytes))
}

/// One key of a device by our scheme, as a sensitive session object.
pub(crate) fn device_key<'s>(
    session: &'s TokenSession,
    master: &ResolvedKey,
    derivation: &DeviceKeyset,
    usage: KeyUsage,
    may: SessionKeyUse,
) -> Result<SessionObject<'s>, HsmError> {
    if master.registered.role == KeyRole::FastMaster {
        let key = key_in_memory(session, master, derivation, usage)?;
        let template = without_length(may.attributes_for(derivation.algorithm));
        return session.create_secret(&template, key.expose()).map(|handle| session.guard(handle));
    }
    let constants = constants_of(master)?;
    let blocks = block_count(derivation.algorithm);
    let mut inputs = Zeroizing::new([0; 32]);
    for (counter, input) in (1..=blocks).zip(inputs.chunks_exact_mut(16)) {
        let first = constants.first_block(session, master.handle, KeyKind::of(derivation, usage, counter))?;
        input.copy_from_slice(&final_block(&constants.l, &first, second_block(&derivation.eid))[..]);
    }
    let data = &inputs[..16 * usize::from(blocks)];
    derive_from(session, master.handle, data, may, derivation.algorithm.key_bytes())
}

/// One key of a device under a master of the fast mode: the token computes CMACs, which are the key.
pub(crate) fn key_in_memory(
    session: &TokenSession,
    master: &ResolvedKey,
    keyset: &DeviceKeyset,
    usage: KeyUsage,
) -> Result<SecretKey, HsmError> {
    chancery::derive(&TokenPrf { session, key: master.handle }, keyset, usage)
}

/// One key of a device by another scheme than ours, as a sensitive session object.
pub(crate) fn key_by_scheme<'s>(
    session: &'s TokenSession,
    boundary: Boundary,
    master: &ResolvedKey,
    (scheme, keyset): (&Scheme, &DeviceKeyset),
    usage: KeyUsage,
    may: SessionKeyUse,
) -> Result<SessionObject<'s>, HsmError> {
    let master_bytes = master.registered.role.key_bytes().unwrap_or_default();
    let recipe = scheme.recipe(keyset, usage, master_bytes).map_err(|e| HsmError::caller(e.to_string()))?;
    let algorithm = keyset.algorithm;
    let template = may.attributes_for(algorithm);
    match recipe {
        Recipe::TripleDesEcb(blocks) => {
            if !matches!(master.registered.role, KeyRole::ImportedMaster(key) if key.is_triple_des()) {
                return Err(HsmError::caller(format!("key {} is no 3DES master", master.registered.key)));
            }
            derive_with(session, CKM_DES3_ECB_ENCRYPT_DATA, master.handle, &blocks, &template)
        }
        Recipe::Cmac { inputs, join } => {
            let constants = constants_of(master)?;
            let encrypt = |block: &[u8; 16]| readable_block(session, master.handle, block);
            let mut data = Zeroizing::new(Vec::with_capacity(16 * inputs.len()));
            for input in &inputs {
                data.extend_from_slice(&input.last_block(&constants.l, encrypt)?[..]);
            }
            match join {
                Join::Concatenated => {
                    derive_with(session, CKM_AES_ECB_ENCRYPT_DATA, master.handle, &data, &template)
                }
                // AN10922 §2.3 adds halves of two outputs, which no mechanism does.
                Join::Overlapped if boundary == Boundary::InsideOnly => Err(HsmError::policy(
                    "AES-192 keys by an10922 are joined outside the token, and this token is inside_only",
                )),
                Join::Overlapped => {
                    let outputs =
                        data.as_chunks().0.iter().map(encrypt).collect::<Result<Vec<_>, HsmError>>()?;
                    let key = join.key(algorithm, &outputs).map_err(|e| HsmError::token(e.to_string()))?;
                    let template: Vec<_> = template
                        .into_iter()
                        .filter(|attribute| attribute.attribute_type() != AttributeType::ValueLen)
                        .collect();
                    session.create_secret(&template, key.expose()).map(|handle| session.guard(handle))
                }
            }
        }
    }
}

fn constants_of(master: &ResolvedKey) -> Result<&MasterConstants, HsmError> {
    let key = &master.registered.key;
    master.constants.as_ref().ok_or_else(|| HsmError::caller(format!("key {key} is no AES master")))
}

/// C_DeriveKey by ECB encryption of data.
fn derive_with<'s>(
    session: &'s TokenSession,
    mechanism: u64,
    key: ObjectHandle,
    data: &[u8],
    template: &[Attribute],
) -> Result<SessionObject<'s>, HsmError> {
    let data = KeyDerivationStringData::new(data);
    let mechanism =
        Mechanism::VendorDefined(VendorDefinedMechanism::new(mechanism_type(mechanism), Some(&data)));
    session.derive(&mechanism, key, template)
}

/// AES-CMAC by a key inside the token.
pub(crate) struct TokenPrf<'s> {
    pub(crate) session: &'s TokenSession,
    pub(crate) key: ObjectHandle,
}

impl Prf for TokenPrf<'_> {
    type Error = HsmError;

    fn cmac(&self, message: &[u8]) -> Result<Zeroizing<[u8; 16]>, HsmError> {
        self.session.sign(&Mechanism::AesCMac, self.key, message)
    }
}

/// The two blocks of a service secret (docs/formats/service-secrets.md).
pub(crate) fn service_secret(
    session: &TokenSession,
    key: ObjectHandle,
    context: &str,
) -> Result<[u8; 32], HsmError> {
    // SP 800-108r1 §4.1: label, 00, context, L; the counter leads.
    let fixed =
        [keys::derivation::chancery::LABEL, &[0][..], context.as_bytes(), &256u16.to_be_bytes()].concat();
    let mut secret = [0; 32];
    kbkdf_counter(&TokenPrf { session, key }, &[], &fixed, &mut secret)?;
    Ok(secret)
}

/// CKM_AES_CMAC by its name, for templates of throw-away keys.
pub(crate) const CMAC: MechanismType = MechanismType::AES_CMAC;

#[cfg(test)]
mod tests {
    use cryptoki::object::{KeyType, ObjectClass};
    use domain::{Eid, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
    use keys::{SecretKey, SoftwareKey};

    use super::super::token_session::Module;
    use super::*;
    use crate::key::{KeyCheck, KeyRef, MasterAlgorithm, RegisteredKey};

    /// SoftHSM reads its configuration from the environment, so the test runs itself again as a process with one.
    #[test]
    fn the_token_derives_the_device_keys_of_the_software_model() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("softhsm2.conf");
        std::fs::create_dir(dir.path().join("tokens")).unwrap();
        std::fs::write(&conf, crate::softhsm::configuration(&dir.path().join("tokens"))).unwrap();
        let run = |program: &std::path::Path, args: &[&str]| {
            let output =
                std::process::Command::new(program).args(args).env("SOFTHSM2_CONF", &conf).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}");
            text
        };
        let init = ["--init-token", "--free", "--label", "model", "--pin", "1234", "--so-pin", "5678"];
        run(std::path::Path::new("softhsm2-util"), &init);
        let child = "worker::derive::tests::child_compares_token_and_model";
        let text = run(&std::env::current_exe().unwrap(), &["--exact", "--ignored", child]);
        assert!(text.contains("1 passed"), "{text}");
    }

    #[test]
    #[ignore = "run by another test in a process of its own"]
    fn child_compares_token_and_model() {
        let value = *b"a master whose value is known...";
        let module = Module::load(&crate::softhsm::module().unwrap()).unwrap();
        let (slot, _) = module.find_token("model", None).unwrap();
        let session = module.open_session(slot).unwrap();
        let pin = cryptoki::types::AuthPin::from("1234".to_owned());
        session.session.login(cryptoki::session::UserType::User, Some(&pin)).unwrap();
        let object = session
            .create(&[
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::Value(value.to_vec()),
                Attribute::Token(false),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Derive(true),
            ])
            .unwrap();
        let master = ResolvedKey {
            registered: RegisteredKey {
                key: KeyRef { label: "chancery/master/model/1".to_owned(), id: [0; 16] },
                role: KeyRole::Master,
                check: KeyCheck::CheckValue([0; 3]),
            },
            handle: object.handle(),
            constants: Some(MasterConstants::read(&session, object.handle()).unwrap()),
        };
        the_token_follows_every_recipe(&session, &master, &value);
        let model = SoftwareKey::new(&SecretKey::from_slice(&value).unwrap());
        for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
            for usage in KeyUsage::ALL {
                let derivation = DeviceKeyset {
                    eid: "89049032123451234512345678901235".parse::<Eid>().unwrap(),
                    protocol: Protocol::Scp03,
                    security_domain: SecurityDomain::Ecasd,
                    kvn: KeyVersionNumber::scp03(0x3f).unwrap(),
                    algorithm,
                };
                let Ok(expected) = keys::derivation::chancery::derive(&model, &derivation, usage);
                let derived = device_key(&session, &master, &derivation, usage, SessionKeyUse::Cmac).unwrap();
                // It cannot be read, so it is compared by what it does.
                assert!(session.key_value::<16>(derived.handle()).is_err());
                let Ok(expected) = SoftwareKey::new(&expected).cmac(b"a message");
                let found = TokenPrf { session: &session, key: derived.handle() }.cmac(b"a message").unwrap();
                assert_eq!(*found, *expected, "{algorithm:?} {usage:?}");
            }
        }
    }
    /// Keys by the schemes of others: compared by their check values, which the token computes.
    fn the_token_follows_every_recipe(session: &TokenSession, master: &ResolvedKey, value: &[u8]) {
        let keyset = |algorithm| DeviceKeyset {
            eid: "89049032123451234512345678901235".parse::<Eid>().unwrap(),
            protocol: Protocol::Scp03,
            security_domain: SecurityDomain::IsdR,
            kvn: KeyVersionNumber::scp03(0x30).unwrap(),
            algorithm,
        };
        let inside = |master: &ResolvedKey, scheme: &Scheme, algorithm, boundary| {
            let (keyset, may) = (keyset(algorithm), SessionKeyUse::KeyCheck);
            let usage = KeyUsage::Mac;
            let key = key_by_scheme(session, boundary, master, (scheme, &keyset), usage, may)?;
            assert!(session.key_value::<16>(key.handle()).is_err());
            super::super::order::check_value(session, key.handle(), algorithm)
        };
        let model = |scheme: &Scheme, algorithm, value: &[u8]| {
            let recipe = scheme.recipe(&keyset(algorithm), KeyUsage::Mac, value.len()).unwrap();
            recipe.derive(value, algorithm).unwrap()
        };
        let label = |name: &str| name.as_bytes().to_vec();
        let labels = vec![label("ENC"), label("MAC of a card of the fleet"), label("DEK")];
        let fixed = keys::derivation::Sp800108::new(4, labels, vec![0x5a; 40]).unwrap();
        let aes = |scheme, algorithm| {
            let expected =
                keys::key_check_value(&SecretKey::from_slice(&model(&scheme, algorithm, value)).unwrap());
            let found = inside(master, &scheme, algorithm, Boundary::InsideOnly).unwrap();
            assert_eq!(found, expected.0, "{scheme:?} {algorithm:?}");
        };
        for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes192, KeysetAlgorithm::Aes256] {
            aes(Scheme::Chancery, algorithm);
            aes(Scheme::Kdf3(*b"0123456789"), algorithm);
            aes(Scheme::Sp800108(fixed.clone()), algorithm);
        }
        for length in [1, 15, 16, 31] {
            aes(Scheme::An10922(vec![vec![0x41; length]; 3]), KeysetAlgorithm::Aes256);
        }
        // A key shorter than its master is none of AN10922, one of 3DES none of an AES master.
        let short = Scheme::An10922(vec![vec![1]; 3]);
        assert!(inside(master, &short, KeysetAlgorithm::Aes128, Boundary::Worker).is_err());
        let visa2 = Scheme::Visa2(*b"0123456789");
        assert!(inside(master, &visa2, KeysetAlgorithm::TripleDes2Key, Boundary::Worker).is_err());

        let object = |key_type, value: &[u8]| {
            session
                .create(&[
                    Attribute::Class(ObjectClass::SECRET_KEY),
                    Attribute::KeyType(key_type),
                    Attribute::Value(value.to_vec()),
                    Attribute::Token(false),
                    Attribute::Private(true),
                    Attribute::Sensitive(true),
                    Attribute::Derive(true),
                ])
                .unwrap()
        };
        let resolved = |algorithm, handle| ResolvedKey {
            registered: RegisteredKey {
                key: KeyRef { label: "chancery/model".to_owned(), id: [1; 16] },
                role: KeyRole::ImportedMaster(algorithm),
                check: KeyCheck::CheckValue([0; 3]),
            },
            handle,
            constants: match algorithm {
                MasterAlgorithm::Aes192 => Some(MasterConstants::read(session, handle).unwrap()),
                _ => None,
            },
        };
        // The published example, joined outside the token and only there.
        let value = hex::decode("00112233445566778899aabbccddeeff0102030405060708").unwrap();
        let aes192 = object(KeyType::AES, &value);
        let master = resolved(MasterAlgorithm::Aes192, aes192.handle());
        let input = hex::decode("04782e21801d803042f54e585020416275").unwrap();
        let scheme = Scheme::An10922(vec![input; 3]);
        let expected = hex::decode("ce39c8e1cd82d9a7bedbe9d74af59b23176755ee7586e12c").unwrap();
        let expected = keys::key_check_value(&SecretKey::from_slice(&expected).unwrap());
        let found = inside(&master, &scheme, KeysetAlgorithm::Aes192, Boundary::Worker).unwrap();
        assert_eq!(found, expected.0);
        assert!(inside(&master, &scheme, KeysetAlgorithm::Aes192, Boundary::InsideOnly).is_err());
        // The published check values of GlobalPlatformPro's EMV keys.
        let value = hex::decode("404142434445464748494a4b4c4d4e4f").unwrap();
        let triple_des = object(KeyType::DES2, &value);
        let master = resolved(MasterAlgorithm::TripleDes2Key, triple_des.handle());
        let emv = Scheme::EmvCps11([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let found = inside(&master, &emv, KeysetAlgorithm::TripleDes2Key, Boundary::InsideOnly).unwrap();
        assert_eq!(hex::encode(found), "6f4ca6");
    }
}
