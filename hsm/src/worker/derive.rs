//! Device keys by our scheme: derived in the token.
//!
//! A device key exists only as a sensitive session object. What is read from the token under a master is L (the CMAC
//! subkey block) and the constant first blocks; keys are in one more AES step from there, which the token makes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cryptoki::mechanism::misc::KeyDerivationStringData;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki_sys::CKM_AES_ECB_ENCRYPT_DATA;
use domain::{DeviceKeyset, KeyUsage};
use keys::Prf;
use keys::derivation::chancery::{KeyKind, second_block};
use keys::derivation::{block_count, final_block};
use keys::kdf::kbkdf_counter;
use zeroize::Zeroizing;

use super::open::ResolvedKey;
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
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
    let data = KeyDerivationStringData::new(data);
    let mechanism = Mechanism::VendorDefined(VendorDefinedMechanism::new(
        mechanism_type(CKM_AES_ECB_ENCRYPT_DATA),
        Some(&data),
    ));
    session.derive(&mechanism, key, &usage.attributes(key_bytes))
}

/// One key of a device by our scheme, as a sensitive session object.
pub(crate) fn device_key<'s>(
    session: &'s TokenSession,
    master: &ResolvedKey,
    derivation: &DeviceKeyset,
    usage: KeyUsage,
    may: SessionKeyUse,
) -> Result<SessionObject<'s>, HsmError> {
    let constants = master
        .constants
        .as_ref()
        .ok_or_else(|| HsmError::caller(format!("key {} is no master", master.registered.key)))?;
    let blocks = block_count(derivation.algorithm);
    let mut inputs = Zeroizing::new([0; 32]);
    for (counter, input) in (1..=blocks).zip(inputs.chunks_exact_mut(16)) {
        let first = constants.first_block(session, master.handle, KeyKind::of(derivation, usage, counter))?;
        input.copy_from_slice(&final_block(&constants.l, &first, second_block(&derivation.eid))[..]);
    }
    let data = &inputs[..16 * usize::from(blocks)];
    derive_from(session, master.handle, data, may, derivation.algorithm.key_bytes())
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
    use cryptoki::object::{Attribute, KeyType, ObjectClass};
    use domain::{Eid, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
    use keys::{SecretKey, SoftwareKey};

    use super::super::token_session::Module;
    use super::*;
    use crate::key::{KeyCheck, KeyRef, KeyRole, RegisteredKey};

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
}
