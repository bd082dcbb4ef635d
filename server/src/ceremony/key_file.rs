//! The public description of a key (`docs/formats/token-key-file.md`, `docs/formats/issuer-key-file.md`).

use std::path::Path;

use hsm::ceremony::CreatedKey;
use hsm::{HsmError, KeyCheck, KeyRef, KeyRole};
use serde::{Deserialize, Serialize};

use super::{parse_check_value, parse_role, write, wrong};

#[derive(Serialize, Deserialize)]
pub(super) struct KeyFile {
    name: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    party: Option<String>,
    token: String,
    pub(super) token_serial: String,
    pub(super) label: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_check_value: Option<String>,
    backup: String,
}

impl KeyFile {
    pub(super) fn of(
        created: &CreatedKey,
        token: &str,
        name: &str,
        party: Option<&str>,
        backup: &str,
    ) -> Self {
        let (public_key, check_value) = match &created.check {
            KeyCheck::PublicKey(spki) => (Some(hex::encode(spki)), None),
            KeyCheck::CheckValue(value) => (None, Some(hex::encode(value))),
        };
        // What a DERIVE key shows at every start is its key check value.
        let own = check_value.clone().filter(|_| created.role.is_master());
        Self {
            name: name.to_owned(),
            role: created.role.as_str().to_owned(),
            party: party.map(str::to_owned),
            token: token.to_owned(),
            token_serial: created.token_serial.clone(),
            label: created.key.label.clone(),
            id: hex::encode(created.key.id),
            public_key,
            check_value,
            key_check_value: created.key_check_value.map(hex::encode).or(own),
            backup: backup.to_owned(),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), HsmError> {
        write(path, &serde_json::to_vec_pretty(self).map_err(|e| wrong(&e.to_string()))?)
    }

    pub(super) fn read(path: &Path) -> Result<Self, HsmError> {
        let failed = |what: String| wrong(&format!("{}: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))
    }

    pub(super) fn role(&self) -> Result<KeyRole, HsmError> {
        parse_role(&self.role).map_err(|e| wrong(&e))
    }

    pub(super) fn key_ref(&self) -> Result<KeyRef, HsmError> {
        let mut id = [0; 16];
        hex::decode_to_slice(&self.id, &mut id).map_err(|_| wrong("id has 32 hex digits"))?;
        Ok(KeyRef { label: self.label.clone(), id })
    }

    /// Of a key pair: SubjectPublicKeyInfo.
    pub(super) fn public_key(&self) -> Result<Vec<u8>, HsmError> {
        let public_key = self.public_key.as_deref().unwrap_or_default();
        hex::decode(public_key).map_err(|_| wrong("public_key is hex digits of a SubjectPublicKeyInfo"))
    }

    pub(super) fn check(&self) -> Result<KeyCheck, HsmError> {
        let value = self.check_value.as_deref().unwrap_or_default();
        parse_check_value(value).map(KeyCheck::CheckValue).map_err(|e| wrong(&e))
    }

    pub(super) fn key_check_value(&self) -> Result<[u8; 3], HsmError> {
        let value = self.key_check_value.as_deref().unwrap_or_default();
        parse_check_value(value).map_err(|e| wrong(&format!("the key file has no key_check_value: {e}")))
    }

    /// As in the label: `chancery/<role>/<name>/<epoch>`.
    pub(super) fn name_and_epoch(&self) -> Result<(String, u32), HsmError> {
        let unreadable = || wrong("label is chancery/<role>/<name>/<epoch>");
        let (rest, epoch) = self.label.rsplit_once('/').ok_or_else(unreadable)?;
        let (_, name) = rest.rsplit_once('/').ok_or_else(unreadable)?;
        Ok((name.to_owned(), epoch.parse().map_err(|_| unreadable())?))
    }
}
