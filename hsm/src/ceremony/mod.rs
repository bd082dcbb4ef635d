//! The ceremony's side: makes tokens and keys, in a process of its own, under the token's lock.
//!
//! Its own process because a PKCS#11 module reads its configuration from the environment of the process that loads it,
//! and because only a process that ends gives its memory of SO PINs and modules back.

mod adopt;
mod child;
mod component;
mod import;
mod sharing;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::child::run_child;
pub use self::component::{
    Component, Custodian, ImportedKey, KnownValues, SealedComponent, component_info, is_published_value,
    open_component, published_check_values,
};
use crate::client::{TokenConfig, WorkerCommand, spawn};
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyCheck, KeyRef, KeyRole, RegisteredKey};
use crate::lock::TokenLock;
use crate::protocol::{FromCeremony, ToCeremony, TokenAccess, read_frame, write_frame};

/// How long to wait for workers that are just starting.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// No step of a ceremony takes longer; RSA and file systems included.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// A key that a ceremony has made, seen working, and read back from the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedKey {
    /// Its name.
    pub key: KeyRef,
    /// Its role.
    pub role: KeyRole,
    /// What proves its value from now on.
    pub check: KeyCheck,
    /// Of a secret key from outside: its key check value (GP Card Specification §B.6), as its custodians know it.
    pub key_check_value: Option<[u8; 3]>,
    /// Every attribute of its template as the token reports it: name without `CKA_`, value. For the transcript.
    pub template: Vec<(String, String)>,
    /// The token that holds it.
    pub token_serial: String,
}

impl CreatedKey {
    /// The record that the service keeps.
    pub fn registered(&self) -> RegisteredKey {
        RegisteredKey { key: self.key.clone(), role: self.role, check: self.check.clone() }
    }
}

/// A private key that other software made on a token.
#[derive(Debug, Clone, Copy)]
pub struct FoundKey<'a> {
    /// Its CKA_LABEL.
    pub label: &'a str,
    /// Its CKA_ID, where the label alone names several.
    pub id: Option<&'a [u8]>,
    /// SubjectPublicKeyInfo, DER.
    pub public_key: &'a [u8],
}

/// An object found on a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenObject {
    /// `private-key`, `public-key`, `secret-key` or `object`.
    pub class: String,
    /// CKA_LABEL.
    pub label: String,
    /// CKA_ID, hex.
    pub id: String,
}

/// A running ceremony on one token. Holds the token's lock until it is dropped; its calls block.
pub struct Ceremony {
    config: TokenConfig,
    stream: UnixStream,
    child: Child,
    is_open: bool,
    _lock: TokenLock,
}

impl Ceremony {
    /// Takes the token's lock and starts the ceremony process, in the environment of `config`. `command` must lead to
    /// [`run_child`].
    pub fn start(config: TokenConfig, command: &WorkerCommand) -> Result<Self, HsmError> {
        let lock = TokenLock::acquire(&config.lock_file, LOCK_PATIENCE, || false)?;
        let failed = |e: std::io::Error| {
            HsmError::new(
                ErrorClass::Token,
                format!("ceremony {} does not start: {e}", command.program.display()),
            )
        };
        let (child, stream) = spawn(command, &config.environment).map_err(failed)?;
        let ceremony = Self { config, stream, child, is_open: false, _lock: lock };
        ceremony.stream.set_read_timeout(Some(STEP_TIME_MAX)).map_err(failed)?;
        Ok(ceremony)
    }

    /// Initialises a token in a free slot, with the label and PIN file of the configuration, and returns its serial
    /// number. Refused when a token of that label exists. Both PIN files hold one line and are for their owner only.
    pub fn init_token(&mut self, so_pin_file: &Path) -> Result<String, HsmError> {
        let request = ToCeremony::InitToken {
            module: self.config.module.clone(),
            label: self.config.token_label.clone(),
            pin_file: self.config.pin_file.clone(),
            so_pin_file: so_pin_file.to_owned(),
        };
        match self.ask(&request)? {
            FromCeremony::TokenMade { serial } => Ok(serial),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a key on the token, sees it work, and reads every flag back. Refused when a key of that role, name and
    /// epoch exists. When it fails after the generation, or the process dies, the key stays on the token (it is not
    /// destroyable) and every start reports it as unknown; the next attempt takes another name or epoch.
    ///
    /// `name` is 1 to 40 of `a-z`, `0-9`, `-`.
    pub fn create_key(&mut self, role: KeyRole, name: &str, epoch: u32) -> Result<CreatedKey, HsmError> {
        self.open()?;
        match self.ask(&ToCeremony::CreateKey { role, name: name.to_owned(), epoch })? {
            FromCeremony::Created(key) => Ok(*key),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a key as the sum (XOR) of random components, sealed to custodians so that any `needed` of them hold every one and
    /// can restore it; fewer lack one, and what they have says nothing about the key. For roles that take keys from outside
    /// ([`KeyRole::is_imported`]): the value was in this process for a moment.
    ///
    /// 2 to 8 custodians, of whom 2 or more are needed.
    pub fn create_from_components(
        &mut self,
        role: KeyRole,
        name: &str,
        epoch: u32,
        custodians: &[Custodian],
        needed: usize,
    ) -> Result<(CreatedKey, Vec<SealedComponent>), HsmError> {
        self.open()?;
        let custodians = custodians.iter().map(Custodian::wire).collect();
        let name = name.to_owned();
        let request = ToCeremony::CreateFromComponents { role, name, epoch, custodians, needed };
        match self.ask(&request)? {
            FromCeremony::CreatedFromComponents(key, components) => Ok((*key, components)),
            other => Err(unexpected(&other)),
        }
    }

    /// Imports a key as the sum of components, each checked by its own check value, the sum by `expected`. Nothing stays on
    /// the token when one is wrong.
    pub fn import_components(
        &mut self,
        key: &ImportedKey<'_>,
        components: Vec<Component>,
    ) -> Result<CreatedKey, HsmError> {
        self.open()?;
        let request = ToCeremony::ImportComponents {
            role: key.role,
            name: key.name.to_owned(),
            epoch: key.epoch,
            components: components.into_iter().map(Component::into_wire).collect(),
            expected: key.expected,
            refuse_known: key.known == KnownValues::Refuse,
        };
        match self.ask(&request)? {
            FromCeremony::Created(key) => Ok(*key),
            other => Err(unexpected(&other)),
        }
    }

    /// Imports a key that was encrypted to a transport-import key of this token (RSA-OAEP, the hash of
    /// [`crate::StartReport::oaep_hash`]). Its value is never in our memory; `expected` is compared before anything stays on
    /// the token.
    pub fn import_wrapped(
        &mut self,
        key: &ImportedKey<'_>,
        under: &KeyRef,
        wrapped: &[u8],
    ) -> Result<CreatedKey, HsmError> {
        self.open()?;
        let request = ToCeremony::ImportWrapped {
            role: key.role,
            name: key.name.to_owned(),
            epoch: key.epoch,
            under: under.clone(),
            wrapped: wrapped.to_vec(),
            expected: key.expected,
            refuse_known: key.known == KnownValues::Refuse,
        };
        match self.ask(&request)? {
            FromCeremony::Created(key) => Ok(*key),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes a key into use that other software made on the token: a copy of it with our label and template, as far as the token
    /// sets it in a copy, seen to sign for `public_key` (SubjectPublicKeyInfo, DER) and read back. The one that is there stays as it
    /// is. A token that copies no keys is told so; there the vendor's tool makes the copy, or renames the key, and this call, with
    /// the label of the role and an id of 16 bytes, only checks it.
    pub fn adopt_key(
        &mut self,
        role: KeyRole,
        name: &str,
        epoch: u32,
        found: &FoundKey<'_>,
    ) -> Result<CreatedKey, HsmError> {
        self.open()?;
        let request = ToCeremony::AdoptKey {
            role,
            name: name.to_owned(),
            epoch,
            label: found.label.to_owned(),
            id: found.id.map(<[u8]>::to_vec),
            public_key: found.public_key.to_vec(),
        };
        match self.ask(&request)? {
            FromCeremony::Created(key) => Ok(*key),
            other => Err(unexpected(&other)),
        }
    }

    /// Initialises the token again: every key on it is gone, for good. For the scratch token of a rehearsal.
    pub fn danger_wipe_token(&mut self, so_pin_file: &Path) -> Result<(), HsmError> {
        self.open()?;
        let request =
            ToCeremony::Wipe { label: self.config.token_label.clone(), so_pin_file: so_pin_file.to_owned() };
        match self.ask(&request)? {
            FromCeremony::Wiped => {
                self.is_open = false;
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Every object on the token.
    pub fn list(&mut self) -> Result<Vec<TokenObject>, HsmError> {
        self.open()?;
        match self.ask(&ToCeremony::List)? {
            FromCeremony::Objects(objects) => Ok(objects),
            other => Err(unexpected(&other)),
        }
    }

    /// The serial number of the token, which is opened for it.
    pub fn token_serial(&mut self) -> Result<String, HsmError> {
        self.is_open = false;
        self.open()
    }

    fn open(&mut self) -> Result<String, HsmError> {
        if self.is_open {
            return Ok(String::new());
        }
        let access = TokenAccess {
            module: self.config.module.clone(),
            token_label: self.config.token_label.clone(),
            token_serial: self.config.token_serial.clone(),
            pin_file: self.config.pin_file.clone(),
        };
        match self.ask(&ToCeremony::Open(access))? {
            FromCeremony::Opened { serial } => {
                self.is_open = true;
                Ok(serial)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: &ToCeremony) -> Result<FromCeremony, HsmError> {
        let lost = |e: std::io::Error| HsmError::token(format!("the ceremony process does not answer: {e}"));
        write_frame(&self.stream, request).map_err(lost)?;
        match read_frame(&self.stream).map_err(lost)? {
            Some(FromCeremony::Failed(error)) => Err(error),
            Some(answer) => Ok(answer),
            None => Err(HsmError::token("the ceremony process ended")),
        }
    }

    /// Module path of this ceremony's token, for transcripts.
    pub fn module(&self) -> &PathBuf {
        &self.config.module
    }
}

impl Drop for Ceremony {
    fn drop(&mut self) {
        // The lock is released after this: nobody opens the token while the process may still hold it.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(answer: &FromCeremony) -> HsmError {
    HsmError::token(format!("the ceremony process answered something else: {answer:?}"))
}
