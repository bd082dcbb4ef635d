//! What must be known before the log can be opened: the keys on the log token, since one of them authenticates the log.
//! Public data; a changed file ends in a token or log that does not verify.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use ca::KeyRegistration;
use hsm::{KeyCheck, KeyRef, KeyRole, RegisteredKey};
use serde::{Deserialize, Serialize};

pub(crate) const FILE: &str = "foundation.json";

/// The founding of an authority.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Foundation {
    pub(crate) format: String,
    pub(crate) authority: String,
    pub(crate) node: String,
    pub(crate) token_serial: String,
    /// Year of the log, part of its origin.
    pub(crate) year: i32,
    pub(crate) keys: Vec<FoundingKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FoundingKey {
    label: String,
    id: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_value: Option<String>,
}

pub(crate) const FORMAT: &str = "chancery-foundation/1";

impl Foundation {
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let foundation: Self = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)?;
        if foundation.format != FORMAT {
            return Err(io::Error::other("unknown format"));
        }
        Ok(foundation)
    }

    /// Durable when it returns.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_durably(path, &bytes)
    }

    /// The log token's keys.
    pub(crate) fn registrations(&self) -> io::Result<Vec<KeyRegistration>> {
        self.keys.iter().map(|key| key.registration(&self.token_serial)).collect()
    }

    /// Name of the log: `<authority>/<node>/<year>`.
    pub(crate) fn origin(&self) -> String {
        format!("{}/{}/{}", self.authority, self.node, self.year)
    }
}

impl FoundingKey {
    pub(crate) fn of(key: &RegisteredKey) -> Self {
        let (public_key, check_value) = match &key.check {
            KeyCheck::PublicKey(spki) => (Some(hex::encode(spki)), None),
            KeyCheck::CheckValue(value) => (None, Some(hex::encode(value))),
        };
        Self {
            label: key.key.label.clone(),
            id: hex::encode(key.key.id),
            role: key.role.as_str().to_owned(),
            public_key,
            check_value,
        }
    }

    pub(crate) fn registration(&self, token_serial: &str) -> io::Result<KeyRegistration> {
        let wrong = || io::Error::other("a key of the foundation cannot be read");
        let mut id = [0; 16];
        hex::decode_to_slice(&self.id, &mut id).map_err(|_| wrong())?;
        let check = match (&self.public_key, &self.check_value) {
            (Some(spki), None) => KeyCheck::PublicKey(hex::decode(spki).map_err(|_| wrong())?),
            (None, Some(value)) => {
                let mut bytes = [0; 3];
                hex::decode_to_slice(value, &mut bytes).map_err(|_| wrong())?;
                KeyCheck::CheckValue(bytes)
            }
            _ => return Err(wrong()),
        };
        let role = KeyRole::ALL.into_iter().find(|role| role.as_str() == self.role).ok_or_else(wrong)?;
        Ok(KeyRegistration {
            token: "log".to_owned(),
            token_serial: token_serial.to_owned(),
            key: RegisteredKey { key: KeyRef { label: self.label.clone(), id }, role, check },
            epoch: 1,
            backup: String::new(),
        })
    }
}

/// Temporary file, fsync, rename, fsync of the folder.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
