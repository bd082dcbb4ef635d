//! The ceremony process's side of keys that other software made on the token.

use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki_sys::CKA_ID;

use super::CreatedKey;
use super::child::OpenToken;
use super::import::new_id;
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyCheck, KeyRef, KeyRole, RegisteredKey};
use crate::template::CopyLimits;
use crate::worker::{self, Wrapping};

/// Longest CKA_ID that is looked for.
const ID_MAX: usize = 64;

/// See [`super::FoundKey`].
pub(super) struct Found<'a> {
    pub(super) label: &'a str,
    pub(super) id: Option<&'a [u8]>,
    pub(super) public_key: Vec<u8>,
}

impl OpenToken {
    /// See [`super::Ceremony::adopt_key`].
    pub(super) fn adopt_key(
        &self,
        role: KeyRole,
        name: &str,
        epoch: u32,
        found: Found<'_>,
    ) -> Result<CreatedKey, HsmError> {
        if !role.is_adopted() {
            return Err(HsmError::caller(format!("a {} is made by a ceremony, not adopted", role.as_str())));
        }
        let context = |e: HsmError| e.context(&format!("adopting key {:?}", found.label));
        let original = self.original(&found).map_err(context)?;
        let check = KeyCheck::PublicKey(found.public_key);
        let (key, handle) = if found.label == role.label(name, epoch) {
            let id = self.session.attribute(original, CKA_ID).map_err(context)?;
            let id = id.try_into().map_err(|_| context(HsmError::caller("its id has not 16 bytes")))?;
            (KeyRef { label: found.label.to_owned(), id }, original)
        } else {
            let key = KeyRef { label: self.new_label(role, name, epoch)?, id: new_id()? };
            // Before there is a copy: another key than the certificate's is not touched.
            let seen = RegisteredKey { key: key.clone(), role, check: check.clone() };
            worker::prove_value(&self.session, Wrapping::default(), &seen, original).map_err(context)?;
            let copy = self.copy(role, &key, original).map_err(context)?;
            (key, copy)
        };
        let registered = RegisteredKey { key, role, check };
        let template = worker::key_template(&self.session, role.kind(), handle).map_err(context)?;
        worker::prove_value(&self.session, Wrapping::default(), &registered, handle).map_err(context)?;
        Ok(CreatedKey {
            key: registered.key,
            role,
            check: registered.check,
            key_check_value: None,
            template,
            token_serial: self.serial.clone(),
        })
    }

    /// The one private key of this label, and id where it is given.
    fn original(&self, found: &Found<'_>) -> Result<ObjectHandle, HsmError> {
        let mut wanted = vec![
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Token(true),
            Attribute::Label(found.label.as_bytes().to_vec()),
        ];
        if let Some(id) = found.id {
            if id.is_empty() || id.len() > ID_MAX {
                return Err(HsmError::caller(format!("a key's id has 1 to {ID_MAX} bytes")));
            }
            wanted.push(Attribute::Id(id.to_vec()));
        }
        match self.session.find(&wanted)?[..] {
            [handle] => Ok(handle),
            [] => Err(HsmError::caller(
                "the token holds no private key of this label and id; `chanceryd ceremony list` shows what it holds",
            )),
            _ => Err(HsmError::caller("the token holds several private keys of this label; name the id too")),
        }
    }

    /// Not every token limits a copy as we ask; each copies, or says that it does not.
    fn copy(&self, role: KeyRole, key: &KeyRef, original: ObjectHandle) -> Result<ObjectHandle, HsmError> {
        let differs = |attribute, wanted: &[u8]| {
            self.session.attribute(original, attribute).map_or(true, |is| is != wanted)
        };
        let limited = role.kind().copy_attributes(key, differs, CopyLimits::Asked);
        if let Ok(copy) = self.session.copy(original, &limited) {
            return Ok(copy);
        }
        let plain = role.kind().copy_attributes(key, differs, CopyLimits::Left);
        self.session.copy(original, &plain).map_err(|e| {
            let way = format!(
                "the token makes no such copy of the key: give it the label {} and an id of 16 bytes with the vendor's tool, and name that label",
                key.label
            );
            HsmError { class: ErrorClass::Policy, ..e.context(&way) }
        })
    }
}
