//! One module, one session, every call counted and timed.

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CKA_UNWRAP_TEMPLATE};
use zeroize::Zeroizing;

use crate::error::{ErrorClass, HsmError};
use crate::inspect::{PinTries, TokenSeen};
use crate::nested;
use crate::pkcs11_gaps::Functions;
use crate::protocol::{TokenAccess, Usage};

/// A loaded and initialised PKCS#11 module. Never finalised: see [`super::leave`].
pub(crate) struct Module {
    pub(crate) pkcs11: Pkcs11,
    functions: Functions,
}

impl Module {
    pub(crate) fn load(path: &Path) -> Result<Arc<Self>, HsmError> {
        let context = |e: HsmError| e.context(&format!("PKCS#11 module {}", path.display()));
        let pkcs11 = Pkcs11::new(path).map_err(|e| context(e.into()))?;
        let functions = Functions::load(path).map_err(|e| context(e.into()))?;
        pkcs11
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(|e| context(e.into()))?;
        Ok(Arc::new(Self { pkcs11, functions }))
    }

    /// The slot of the one token with this label, and this serial where it is known: slot numbers change.
    pub(crate) fn find_token(
        &self,
        label: &str,
        serial: Option<&str>,
    ) -> Result<(Slot, TokenInfo), HsmError> {
        let mut found = Vec::new();
        for slot in self.pkcs11.get_slots_with_token()? {
            // A slot whose information cannot be read is not ours; opencryptoki reports an unreadable clock.
            let Ok(info) = self.pkcs11.get_token_info(slot) else { continue };
            if info.token_initialized()
                && info.label() == label
                && serial.is_none_or(|serial| info.serial_number() == serial)
            {
                found.push((slot, info));
            }
        }
        let name = || match serial {
            Some(serial) => format!("token {label} with serial {serial}"),
            None => format!("token {label}"),
        };
        match found.len() {
            0 => Err(HsmError::token(format!("{} is not there", name()))),
            1 => Ok(found.swap_remove(0)),
            n => Err(HsmError::policy(format!("{} exists {n} times; name its serial", name()))),
        }
    }

    /// Every initialised token, as it shows itself without a login.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenSeen>, HsmError> {
        let mut seen = Vec::new();
        for slot in self.pkcs11.get_slots_with_token()? {
            let Ok(info) = self.pkcs11.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            let pin = if !info.user_pin_initialized() {
                PinTries::NotInitialized
            } else if info.user_pin_locked() {
                PinTries::Locked
            } else if info.user_pin_final_try() {
                PinTries::FinalTry
            } else if info.user_pin_count_low() {
                PinTries::CountLow
            } else {
                PinTries::Full
            };
            seen.push(TokenSeen {
                label: info.label().to_owned(),
                serial: info.serial_number().to_owned(),
                model: info.model().to_owned(),
                pin,
            });
        }
        Ok(seen)
    }

    /// Opens a session and logs in, once. A refused PIN is never tried again.
    pub(crate) fn open_logged_in(
        self: &Arc<Self>,
        access: &TokenAccess,
        slot: Slot,
    ) -> Result<TokenSession, HsmError> {
        let pin = read_pin(&access.pin_file)?;
        let session = self.open_session(slot)?;
        match session.session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => {
                Err(HsmError::from(error).context(&format!("login to token {}", access.token_label)))
            }
        }
    }

    pub(crate) fn open_session(self: &Arc<Self>, slot: Slot) -> Result<TokenSession, HsmError> {
        let session = self.pkcs11.open_rw_session(slot)?;
        Ok(TokenSession {
            session,
            module: Arc::clone(self),
            calls: Cell::new(0),
            busy_ns: Cell::new(0),
            objects_made: Cell::new(0),
        })
    }
}

/// Reads a PIN file: one line, nobody else's business.
pub(crate) fn read_pin(path: &Path) -> Result<AuthPin, HsmError> {
    let failed = |why: String| HsmError::new(ErrorClass::Pin, format!("PIN file {}: {why}", path.display()));
    if !is_private_file(path).map_err(|e| failed(e.to_string()))? {
        return Err(failed("others may read it; set its mode to 0600".to_owned()));
    }
    let text = Zeroizing::new(std::fs::read(path).map_err(|e| failed(e.to_string()))?);
    let text = std::str::from_utf8(&text).map_err(|_| failed("is not UTF-8".to_owned()))?;
    let pin = text.trim_end_matches(['\r', '\n']);
    if pin.is_empty() {
        return Err(failed("is empty".to_owned()));
    }
    Ok(AuthPin::from(pin.to_owned()))
}

/// Whether only its owner may read the file.
fn is_private_file(path: &Path) -> std::io::Result<bool> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// A PKCS#11 session, pinned to one thread.
pub(crate) struct TokenSession {
    pub(crate) session: Session,
    pub(crate) module: Arc<Module>,
    calls: Cell<u64>,
    busy_ns: Cell<u64>,
    objects_made: Cell<u64>,
}

impl TokenSession {
    /// Counts and times what goes to the token; `calls` is how many C_* functions that is.
    fn timed<T>(&self, calls: u64, call: impl FnOnce() -> cryptoki::error::Result<T>) -> Result<T, HsmError> {
        let begun = Instant::now();
        let result = call();
        let ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns.set(self.busy_ns.get().saturating_add(ns));
        self.calls.set(self.calls.get() + calls);
        result.map_err(HsmError::from)
    }

    /// What was used since the last time this was asked.
    pub(crate) fn take_usage(&self) -> Usage {
        Usage { pkcs11_calls: self.calls.take(), busy_us: self.busy_ns.take() / 1_000 }
    }

    pub(crate) fn take_objects_made(&self) -> u64 {
        self.objects_made.take()
    }

    /// C_SignInit and C_Sign; fails unless the result has N bytes.
    pub(crate) fn sign<const N: usize>(
        &self,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Zeroizing<[u8; N]>, HsmError> {
        self.timed(2, || {
            self.session.sign_init(mechanism, key)?;
            let mut output = Zeroizing::new([0; N]);
            match self.module.functions.sign_into(&self.session, data, &mut output[..])? {
                len if len == N => Ok(output),
                _ => Err(Error::InvalidValue),
            }
        })
    }

    /// C_EncryptInit and C_Encrypt (twice: the crate asks for the size first).
    pub(crate) fn encrypt(
        &self,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, HsmError> {
        self.timed(3, || self.session.encrypt(mechanism, key, data))
    }

    /// C_DecryptInit and C_Decrypt (twice: the crate asks for the size first).
    pub(crate) fn decrypt(
        &self,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        self.timed(3, || self.session.decrypt(mechanism, key, data).map(Zeroizing::new))
    }

    /// C_WrapKey into `output`; returns the bytes written.
    pub(crate) fn wrap_into(
        &self,
        mechanism: &Mechanism<'_>,
        wrapping_key: ObjectHandle,
        key: ObjectHandle,
        output: &mut [u8],
    ) -> Result<usize, HsmError> {
        self.timed(1, || self.module.functions.wrap_into(&self.session, mechanism, wrapping_key, key, output))
    }

    /// C_DeriveKey to a session object.
    pub(crate) fn derive(
        &self,
        mechanism: &Mechanism<'_>,
        base: ObjectHandle,
        template: &[Attribute],
    ) -> Result<SessionObject<'_>, HsmError> {
        self.made(self.timed(1, || self.session.derive_key(mechanism, base, template)))
    }

    /// C_GenerateKey to a session object.
    pub(crate) fn generate(
        &self,
        mechanism: &Mechanism<'_>,
        template: &[Attribute],
    ) -> Result<SessionObject<'_>, HsmError> {
        self.made(self.timed(1, || self.session.generate_key(mechanism, template)))
    }

    /// C_GenerateKeyPair: the public key as a session object, the private one as its template says.
    pub(crate) fn generate_pair(
        &self,
        mechanism: &Mechanism<'_>,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(SessionObject<'_>, ObjectHandle), HsmError> {
        let (public, private) =
            self.timed(1, || self.session.generate_key_pair(mechanism, public, private))?;
        Ok((self.guard(public), private))
    }

    /// C_GenerateKey to the token: what is made stays.
    pub(crate) fn generate_on_token(
        &self,
        mechanism: &Mechanism<'_>,
        template: &[Attribute],
    ) -> Result<ObjectHandle, HsmError> {
        self.timed(1, || self.session.generate_key(mechanism, template))
    }

    /// C_CopyObject to a long-lived object: an adopted key.
    pub(crate) fn copy(
        &self,
        object: ObjectHandle,
        template: &[Attribute],
    ) -> Result<ObjectHandle, HsmError> {
        self.timed(1, || self.session.copy_object(object, template))
    }

    /// Destroys a session object with its guard.
    pub(crate) fn guard(&self, handle: ObjectHandle) -> SessionObject<'_> {
        self.objects_made.set(self.objects_made.get() + 1);
        SessionObject { session: self, handle }
    }

    /// C_CreateObject to a session object.
    pub(crate) fn create(&self, template: &[Attribute]) -> Result<SessionObject<'_>, HsmError> {
        self.made(self.timed(1, || self.session.create_object(template)))
    }

    /// CKA_VALUE of an object made to be read.
    pub(crate) fn key_value<const N: usize>(
        &self,
        object: ObjectHandle,
    ) -> Result<Zeroizing<[u8; N]>, HsmError> {
        self.timed(1, || self.module.functions.key_value(&self.session, object))
    }

    /// C_CreateObject of a secret key whose value stays in zeroizing memory.
    pub(crate) fn create_secret(
        &self,
        template: &[Attribute],
        value: &[u8],
    ) -> Result<ObjectHandle, HsmError> {
        self.timed(1, || self.module.functions.create_secret(&self.session, template, value))
    }

    /// C_UnwrapKey.
    pub(crate) fn unwrap(
        &self,
        mechanism: &Mechanism<'_>,
        unwrapping_key: ObjectHandle,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<ObjectHandle, HsmError> {
        self.timed(1, || self.session.unwrap_key(mechanism, unwrapping_key, wrapped, template))
    }

    /// C_GenerateRandom.
    pub(crate) fn random(&self, bytes: &mut [u8]) -> Result<(), HsmError> {
        self.timed(1, || self.session.generate_random_slice(bytes))
    }

    /// Any attribute but a key's value; of a template within, its canonical form ([`crate::nested`]).
    pub(crate) fn attribute(
        &self,
        object: ObjectHandle,
        attribute: CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<u8>, HsmError> {
        if attribute == CKA_UNWRAP_TEMPLATE {
            let read = || self.module.functions.nested_attribute(&self.session, object, attribute);
            return self.timed(2, read).map(nested::canonical_of);
        }
        self.timed(2, || self.module.functions.attribute(&self.session, object, attribute))
    }

    /// C_FindObjects, all of them. 15 us per object on the token: at start and after a lost handle only.
    pub(crate) fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, HsmError> {
        self.timed(3, || self.session.find_objects(template))
    }

    fn made(&self, handle: Result<ObjectHandle, HsmError>) -> Result<SessionObject<'_>, HsmError> {
        handle.map(|handle| self.guard(handle))
    }
}

/// A session object that is destroyed with its guard, on every path.
pub(crate) struct SessionObject<'s> {
    session: &'s TokenSession,
    handle: ObjectHandle,
}

impl SessionObject<'_> {
    pub(crate) fn handle(&self) -> ObjectHandle {
        self.handle
    }
}

impl Drop for SessionObject<'_> {
    fn drop(&mut self) {
        // A session that broke took its objects with it.
        let _ = self.session.timed(1, || self.session.session.destroy_object(self.handle));
    }
}
