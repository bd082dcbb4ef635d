//! The ceremony process.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::UserType;
use cryptoki_sys::{CKA_CLASS, CKA_ID, CKA_LABEL};

use super::adopt::Found;
use super::import::new_id;
use super::{CreatedKey, TokenObject};
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyCheck, KeyKind, KeyRef, KeyRole, RegisteredKey};
use crate::protocol::{FromCeremony, ToCeremony, TokenAccess, read_frame, write_frame};
use crate::worker::{self, Module, TokenSession, Wrapping};

/// CK_TOKEN_INFO's label field has 32 bytes.
const TOKEN_LABEL_MAX: usize = 32;
/// The longest name of a key.
const NAME_MAX: usize = 40;

/// Runs a ceremony process until its input ends: the other end of [`super::Ceremony`]. Call it first thing in `main`.
pub fn run_child() -> ExitCode {
    let Ok(stream) = worker::harden().and_then(|()| worker::inherited_socket()) else {
        return ExitCode::FAILURE;
    };
    let mut steps = Steps::default();
    while let Ok(Some(request)) = read_frame::<ToCeremony>(&stream) {
        let answer = steps.take(request).unwrap_or_else(FromCeremony::Failed);
        if write_frame(&stream, &answer).is_err() {
            break;
        }
    }
    worker::leave()
}

#[derive(Default)]
struct Steps {
    /// A module is initialised once in the life of a process.
    module: Option<(PathBuf, Arc<Module>)>,
    token: Option<OpenToken>,
}

pub(super) struct OpenToken {
    pub(super) serial: String,
    pub(super) session: TokenSession,
    /// How the token wraps; probed when it is first needed.
    wrapping: OnceCell<Wrapping>,
}

impl Steps {
    fn take(&mut self, request: ToCeremony) -> Result<FromCeremony, HsmError> {
        match request {
            ToCeremony::InitToken { module, label, pin_file, so_pin_file } => {
                let module = self.module(&module)?;
                let serial = init_token(&module, &label, &pin_file, &so_pin_file)?;
                Ok(FromCeremony::TokenMade { serial })
            }
            ToCeremony::Open(access) => {
                let token = OpenToken::open(&self.module(&access.module)?, &access)?;
                let serial = token.serial.clone();
                self.token = Some(token);
                Ok(FromCeremony::Opened { serial })
            }
            ToCeremony::CreateKey { role, name, epoch } => {
                Ok(FromCeremony::Created(Box::new(self.token()?.create_key(role, &name, epoch)?)))
            }
            ToCeremony::CreateFromComponents { role, name, epoch, custodians, needed } => {
                let (key, components) =
                    self.token()?.create_from_components(role, &name, epoch, &custodians, needed)?;
                Ok(FromCeremony::CreatedFromComponents(Box::new(key), components))
            }
            ToCeremony::ImportComponents { role, name, epoch, components, expected, refuse_known } => {
                let names = (role, name.as_str(), epoch);
                let key = self.token()?.import_components(names, &components, expected, refuse_known)?;
                Ok(FromCeremony::Created(Box::new(key)))
            }
            ToCeremony::ImportWrapped { role, name, epoch, under, wrapped, expected, refuse_known } => {
                let names = (role, name.as_str(), epoch);
                let key = self.token()?.import_wrapped(names, &under, &wrapped, expected, refuse_known)?;
                Ok(FromCeremony::Created(Box::new(key)))
            }
            ToCeremony::AdoptKey { role, name, epoch, label, id, public_key } => {
                let found = Found { label: &label, id: id.as_deref(), public_key };
                Ok(FromCeremony::Created(Box::new(self.token()?.adopt_key(role, &name, epoch, found)?)))
            }
            ToCeremony::Wipe { label, so_pin_file } => self.wipe(&label, &so_pin_file),
            ToCeremony::List => Ok(FromCeremony::Objects(self.token()?.objects()?)),
        }
    }

    fn module(&mut self, path: &Path) -> Result<Arc<Module>, HsmError> {
        if let Some((loaded, module)) = &self.module {
            return if loaded == path {
                Ok(Arc::clone(module))
            } else {
                Err(HsmError::caller("one ceremony process serves one PKCS#11 module"))
            };
        }
        let module = Module::load(path)?;
        self.module = Some((path.to_owned(), Arc::clone(&module)));
        Ok(module)
    }

    /// C_InitToken wants no session open.
    fn wipe(&mut self, label: &str, so_pin_file: &Path) -> Result<FromCeremony, HsmError> {
        let serial = self.token()?.serial.clone();
        self.token = None;
        let (_, module) =
            self.module.as_ref().ok_or_else(|| HsmError::caller("the ceremony has opened no token"))?;
        let (slot, _) = module.find_token(label, Some(&serial))?;
        let so_pin = worker::read_pin(so_pin_file)?;
        module
            .pkcs11
            .init_token(slot, &so_pin, label)
            .map_err(|e| HsmError::from(e).context(&format!("wiping token {label}")))?;
        Ok(FromCeremony::Wiped)
    }

    fn token(&self) -> Result<&OpenToken, HsmError> {
        self.token.as_ref().ok_or_else(|| HsmError::caller("the ceremony has opened no token"))
    }
}

/// Makes a token in a free slot and sets both PINs.
fn init_token(
    module: &Arc<Module>,
    label: &str,
    pin_file: &Path,
    so_pin_file: &Path,
) -> Result<String, HsmError> {
    if label.is_empty() || label.len() > TOKEN_LABEL_MAX {
        return Err(HsmError::caller(format!("a token label has 1 to {TOKEN_LABEL_MAX} bytes")));
    }
    let (pin, so_pin) = (worker::read_pin(pin_file)?, worker::read_pin(so_pin_file)?);
    let mut free = None;
    for slot in module.pkcs11.get_slots_with_token()? {
        let Ok(info) = module.pkcs11.get_token_info(slot) else { continue };
        if !info.token_initialized() {
            free = free.or(Some(slot));
        } else if info.label() == label {
            return Err(HsmError::policy(format!(
                "token {label} exists already (serial {})",
                info.serial_number()
            )));
        }
    }
    let slot =
        free.ok_or_else(|| HsmError::new(ErrorClass::Capacity, "there is no slot with a blank token"))?;
    let context =
        |e: cryptoki::error::Error| HsmError::from(e).context(&format!("initialising token {label}"));
    module.pkcs11.init_token(slot, &so_pin, label).map_err(context)?;
    {
        let session = module.pkcs11.open_rw_session(slot).map_err(context)?;
        session.login(UserType::So, Some(&so_pin)).map_err(context)?;
        session.init_pin(&pin).map_err(context)?;
        // Its end is the logout of the security officer.
    }
    let info = module.pkcs11.get_token_info(slot).map_err(context)?;
    Ok(info.serial_number().to_owned())
}

impl OpenToken {
    fn open(module: &Arc<Module>, access: &TokenAccess) -> Result<Self, HsmError> {
        let (slot, info) = module.find_token(&access.token_label, access.token_serial.as_deref())?;
        let session = module.open_logged_in(access, slot)?;
        Ok(Self { serial: info.serial_number().to_owned(), session, wrapping: OnceCell::new() })
    }

    pub(super) fn wrapping(&self) -> Result<Wrapping, HsmError> {
        if let Some(known) = self.wrapping.get() {
            return Ok(*known);
        }
        let (abilities, _) = worker::probe(&self.session)?;
        Ok(*self.wrapping.get_or_init(|| abilities.wrapping()))
    }

    /// The label of a key that does not exist yet.
    pub(super) fn new_label(&self, role: KeyRole, name: &str, epoch: u32) -> Result<String, HsmError> {
        let is_name = (1..=NAME_MAX).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !is_name {
            return Err(HsmError::caller(format!(
                "a key's name is 1 to {NAME_MAX} of a-z, 0-9 and -, not {name:?}"
            )));
        }
        let label = role.label(name, epoch);
        if !self
            .session
            .find(&[Attribute::Token(true), Attribute::Label(label.clone().into_bytes())])?
            .is_empty()
        {
            return Err(HsmError::policy(format!("key {label} exists already")));
        }
        Ok(label)
    }

    /// See [`super::Ceremony::create_key`].
    fn create_key(&self, role: KeyRole, name: &str, epoch: u32) -> Result<CreatedKey, HsmError> {
        if role.is_adopted() {
            return Err(HsmError::caller("an adopted key is on the token already: adopt-key takes it"));
        }
        if role.is_imported() {
            return Err(HsmError::caller(format!(
                "a {} comes from outside: import it, or make it from components",
                role.as_str()
            )));
        }
        let label = self.new_label(role, name, epoch)?;
        // Only these are about wrapping; the others spare the probes.
        let wrapping = match role {
            KeyRole::TransportImport | KeyRole::Kek => self.wrapping()?,
            _ => Wrapping::default(),
        };
        let context = |e: HsmError| e.context(&format!("making key {label}"));
        let (registered, handle) = self.make(role, label.clone(), wrapping).map_err(context)?;
        let template = worker::key_template(&self.session, role.kind(), handle).map_err(context)?;
        worker::prove_value(&self.session, wrapping, &registered, handle).map_err(context)?;
        Ok(CreatedKey {
            key: registered.key,
            role,
            check: registered.check,
            key_check_value: None,
            template,
            token_serial: self.serial.clone(),
        })
    }

    /// Generates the key on the token and says what proves its value. The public half of a pair stays a session object:
    /// the record keeps it, and a half-made pair cannot leave it behind.
    fn make(
        &self,
        role: KeyRole,
        label: String,
        wrapping: Wrapping,
    ) -> Result<(RegisteredKey, ObjectHandle), HsmError> {
        let (session, kind) = (&self.session, role.kind());
        let key = KeyRef { label, id: new_id()? };
        let attributes = kind.creation_attributes(&key, wrapping.kwp);
        let (handle, check) = match kind {
            KeyKind::Ec(_)
            | KeyKind::AdoptedEc(_)
            | KeyKind::EcAgreement
            | KeyKind::Ed25519
            | KeyKind::RsaUnwrap => {
                let (public, private) = worker::generate_pair(session, kind, &attributes)?;
                (private, KeyCheck::PublicKey(worker::public_key_info(session, kind, &public)?))
            }
            KeyKind::AesDerive
            | KeyKind::AesCmac
            | KeyKind::ImportedDerive(_)
            | KeyKind::AesWrap
            | KeyKind::AesImport
            | KeyKind::AesKek => {
                let secret = session.generate_on_token(&Mechanism::AesKeyGen, &attributes)?;
                (secret, worker::key_check(session, wrapping, kind, secret)?)
            }
        };
        Ok((RegisteredKey { key, role, check }, handle))
    }

    fn objects(&self) -> Result<Vec<TokenObject>, HsmError> {
        let mut objects = Vec::new();
        for handle in self.session.find(&[Attribute::Token(true)])? {
            // An attribute that an object lacks is listed as empty.
            let text = |attribute| self.session.attribute(handle, attribute).unwrap_or_default();
            objects.push(TokenObject {
                class: worker::class_name(&text(CKA_CLASS)).to_owned(),
                label: String::from_utf8_lossy(&text(CKA_LABEL)).into_owned(),
                id: hex::encode(text(CKA_ID)),
            });
        }
        objects.sort_by(|a, b| a.label.cmp(&b.label));
        Ok(objects)
    }
}
