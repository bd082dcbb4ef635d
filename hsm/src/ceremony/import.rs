//! The ceremony process's side of keys from outside.

use cryptoki::object::{Attribute, ObjectHandle};
use keys::seal::{EphemeralKey, seal};
use zeroize::Zeroizing;

use super::CreatedKey;
use super::child::OpenToken;
use super::component::{
    COMPONENTS_MIN, SealedComponent, component_info, is_published_value, published_values, sum,
};
use super::sharing::{COMPONENTS_MAX, holders};
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyKind, KeyRef, KeyRole, MasterAlgorithm, RegisteredKey};
use crate::protocol::{WireComponent, WireCustodian};
use crate::worker::{self, Wrapping};

/// A value that is to become a key.
pub(super) enum Value<'a> {
    Clear(&'a [u8]),
    Wrapped { under: ObjectHandle, ciphertext: &'a [u8] },
}

impl OpenToken {
    /// See [`super::Ceremony::create_from_components`].
    pub(super) fn create_from_components(
        &self,
        role: KeyRole,
        name: &str,
        epoch: u32,
        custodians: &[WireCustodian],
        needed: usize,
    ) -> Result<(CreatedKey, Vec<SealedComponent>), HsmError> {
        let algorithm = algorithm_of(role)?;
        let held = holders(custodians.len(), needed)?;
        let label = self.new_label(role, name, epoch)?;
        let (of, mut components, mut sealed) = (held.len(), Vec::new(), Vec::new());
        for (at, holders) in held.iter().enumerate() {
            let number = at + 1;
            let value = self.random(algorithm.key_bytes())?;
            let check_value = self.check_value_of(algorithm, &Value::Clear(&value), Wrapping::default())?;
            for custodian in holders.iter().map(|place| &custodians[*place]) {
                let recipient: &[u8; 65] = custodian.public_key.as_slice().try_into().map_err(|_| {
                    HsmError::caller(format!("the key of custodian {} is no P-256 point", custodian.name))
                })?;
                let ephemeral = EphemeralKey::generate().map_err(|e| HsmError::token(e.to_string()))?;
                let opened = seal(recipient, &component_info(&label, number, of), &value, ephemeral)
                    .map_err(|e| {
                        HsmError::caller(format!(
                            "the key of custodian {} takes no component: {e}",
                            custodian.name
                        ))
                    })?;
                sealed.push(SealedComponent {
                    custodian: custodian.name.clone(),
                    encapsulated_key: opened.encapsulated_key.to_vec(),
                    ciphertext: opened.ciphertext,
                    check_value,
                    number,
                    of,
                });
            }
            let mut value = value;
            let value = std::mem::take(&mut *value);
            components.push(WireComponent { custodian: String::new(), value, check_value });
        }
        let value = sum(&components);
        let check_value = self.check_value_of(algorithm, &Value::Clear(&value), Wrapping::default())?;
        let made = self.bring_in(role, label, &Value::Clear(&value), check_value)?;
        Ok((made, sealed))
    }

    /// See [`super::Ceremony::import_components`].
    pub(super) fn import_components(
        &self,
        (role, name, epoch): (KeyRole, &str, u32),
        components: &[WireComponent],
        expected: [u8; 3],
        refuse_known: bool,
    ) -> Result<CreatedKey, HsmError> {
        let algorithm = algorithm_of(role)?;
        bounded(components.len())?;
        let label = self.new_label(role, name, epoch)?;
        for component in components {
            let custodian = &component.custodian;
            if component.value.len() != algorithm.key_bytes() {
                return Err(HsmError::caller(format!(
                    "the component of {custodian} has {} bytes; the key has {}",
                    component.value.len(),
                    algorithm.key_bytes()
                )));
            }
            let value = Value::Clear(&component.value);
            let found = self.check_value_of(algorithm, &value, Wrapping::default())?;
            if found != component.check_value {
                return Err(HsmError::caller(format!(
                    "the component of {custodian} has the check value {} and not {}: it was mistyped, or is another",
                    hex::encode(found),
                    hex::encode(component.check_value)
                )));
            }
        }
        let value = sum(components);
        if refuse_known && is_published_value(&value) {
            return Err(published());
        }
        let clear = Value::Clear(&value);
        compare(self.check_value_of(algorithm, &clear, Wrapping::default())?, expected)?;
        self.bring_in(role, label, &clear, expected)
    }

    /// See [`super::Ceremony::import_wrapped`].
    pub(super) fn import_wrapped(
        &self,
        (role, name, epoch): (KeyRole, &str, u32),
        under: &KeyRef,
        ciphertext: &[u8],
        expected: [u8; 3],
        refuse_known: bool,
    ) -> Result<CreatedKey, HsmError> {
        if role == KeyRole::PartyImport {
            return Err(HsmError::caller(
                "a party-import key comes in components: the transport-import key makes no keys that unwrap",
            ));
        }
        let algorithm = algorithm_of(role)?;
        let label = self.new_label(role, name, epoch)?;
        let wrapping = self.wrapping()?;
        let under = self.transport_import(under)?;
        let value = Value::Wrapped { under, ciphertext };
        let found = self
            .check_value_of(algorithm, &value, wrapping)
            .map_err(|e| e.context("unwrapping the key by RSA-OAEP"))?;
        compare(found, expected)?;
        if refuse_known {
            for value in published_values(algorithm.key_bytes()) {
                if self.check_value_of(algorithm, &Value::Clear(&value), wrapping)? == found {
                    return Err(published());
                }
            }
        }
        self.bring_in(role, label, &value, expected)
    }

    /// Makes the key on the token, reads every flag back and sees it work.
    fn bring_in(
        &self,
        role: KeyRole,
        label: String,
        value: &Value<'_>,
        check_value: [u8; 3],
    ) -> Result<CreatedKey, HsmError> {
        let (kind, wrapping) = (role.kind(), self.wrapping()?);
        let context = |e: HsmError| e.context(&format!("making key {label}"));
        let key = KeyRef { label: label.clone(), id: new_id()? };
        let attributes = kind.creation_attributes(&key, wrapping.kwp);
        let handle = self.object(value, &attributes, wrapping).map_err(context)?;
        let check = worker::key_check(&self.session, wrapping, kind, handle).map_err(context)?;
        let registered = RegisteredKey { key, role, check };
        let template = worker::key_template(&self.session, kind, handle).map_err(context)?;
        worker::prove_value(&self.session, wrapping, &registered, handle).map_err(context)?;
        Ok(CreatedKey {
            key: registered.key,
            role,
            check: registered.check,
            key_check_value: Some(check_value),
            template,
            token_serial: self.serial.clone(),
        })
    }

    /// The check value that the value has as a key: as a session object, which is destroyed.
    fn check_value_of(
        &self,
        algorithm: MasterAlgorithm,
        value: &Value<'_>,
        wrapping: Wrapping,
    ) -> Result<[u8; 3], HsmError> {
        let attributes = KeyKind::ImportedDerive(algorithm).probe_attributes();
        let object = self.session.guard(self.object(value, &attributes, wrapping)?);
        worker::check_value(&self.session, algorithm, object.handle())
    }

    fn object(
        &self,
        value: &Value<'_>,
        attributes: &[Attribute],
        wrapping: Wrapping,
    ) -> Result<ObjectHandle, HsmError> {
        match value {
            Value::Clear(value) => self.session.create_secret(attributes, value),
            Value::Wrapped { under, ciphertext } => {
                let hash =
                    wrapping.oaep_hash.ok_or_else(|| HsmError::policy("the token unwraps by no RSA-OAEP"))?;
                worker::unwrap_oaep(&self.session, hash, *under, ciphertext, attributes)
            }
        }
    }

    fn transport_import(&self, key: &KeyRef) -> Result<ObjectHandle, HsmError> {
        let kind = KeyRole::TransportImport.kind();
        if !key.label.starts_with(&format!("chancery/{}/", KeyRole::TransportImport.as_str())) {
            return Err(HsmError::caller(format!("key {key} is no transport-import key")));
        }
        let found = self.session.find(&[
            Attribute::Class(kind.object_class()),
            Attribute::Token(true),
            Attribute::Label(key.label.clone().into_bytes()),
            Attribute::Id(key.id.to_vec()),
        ])?;
        let [handle] = found[..] else {
            return Err(HsmError::new(ErrorClass::Handle, format!("key {key} is not on the token")));
        };
        worker::key_template(&self.session, kind, handle).map_err(|e| e.context(&format!("key {key}")))?;
        Ok(handle)
    }

    /// Random bytes of the token and of the kernel, so that neither alone decides.
    fn random(&self, len: usize) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let (mut value, mut own) = (Zeroizing::new(vec![0; len]), Zeroizing::new(vec![0; len]));
        self.session.random(&mut value)?;
        getrandom::fill(&mut own)
            .map_err(|e| HsmError::token(format!("the kernel gives no entropy: {e}")))?;
        value.iter_mut().zip(own.iter()).for_each(|(byte, other)| *byte ^= other);
        Ok(value)
    }
}

/// A new CKA_ID. Random for key pairs too: an id made from the SPKI would have to be set after the generation, and a key
/// with MODIFIABLE=0 and COPYABLE=0 takes no later change.
pub(super) fn new_id() -> Result<[u8; 16], HsmError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| HsmError::token(format!("the kernel gives no entropy: {e}")))?;
    Ok(id)
}

fn algorithm_of(role: KeyRole) -> Result<MasterAlgorithm, HsmError> {
    match role {
        KeyRole::ImportedMaster(algorithm) => Ok(algorithm),
        KeyRole::PartyTransport | KeyRole::PartyImport => Ok(MasterAlgorithm::Aes256),
        other => Err(HsmError::caller(format!("a {} is made inside the token only", other.as_str()))),
    }
}

fn bounded(count: usize) -> Result<(), HsmError> {
    if (COMPONENTS_MIN..=COMPONENTS_MAX).contains(&count) {
        Ok(())
    } else {
        Err(HsmError::caller(format!("a key has {COMPONENTS_MIN} to {COMPONENTS_MAX} components")))
    }
}

fn compare(found: [u8; 3], expected: [u8; 3]) -> Result<(), HsmError> {
    if found == expected {
        return Ok(());
    }
    Err(HsmError::caller(format!(
        "the key has the check value {} and not {}: a component is missing or is one of another key",
        hex::encode(found),
        hex::encode(expected)
    )))
}

fn published() -> HsmError {
    HsmError::policy("the key is a published test or default key; only development takes those")
}
