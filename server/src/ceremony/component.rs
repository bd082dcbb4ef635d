//! Files of components and of their custodians' keys (`docs/formats/key-component.md`).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hsm::HsmError;
use hsm::ceremony::{Component, CreatedKey, Custodian, SealedComponent, open_component};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{parse_check_value, write, wrong};

const FORMAT: &str = "chancery-key-component/1";
/// No component file is longer.
const FILE_BYTES_MAX: u64 = 16 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ComponentFile {
    format: String,
    pub(super) custodian: String,
    check_value: String,
    /// Clear, of a key that comes from elsewhere ...
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<ClearValue>,
    /// ... or sealed to the custodian, of one that was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedPart>,
}

/// Hex, zeroized on drop.
#[derive(Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(transparent)]
struct ClearValue(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedPart {
    /// Label of the key it is part of.
    key: String,
    key_check_value: String,
    number: usize,
    of: usize,
    encapsulated_key: String,
    ciphertext: String,
}

impl ComponentFile {
    pub(super) fn sealed(created: &CreatedKey, part: &SealedComponent, number: usize, of: usize) -> Self {
        Self {
            format: FORMAT.to_owned(),
            custodian: part.custodian.clone(),
            check_value: hex::encode(part.check_value),
            value: None,
            sealed: Some(SealedPart {
                key: created.key.label.clone(),
                key_check_value: created.key_check_value.map(hex::encode).unwrap_or_default(),
                number,
                of,
                encapsulated_key: hex::encode(&part.encapsulated_key),
                ciphertext: hex::encode(&part.ciphertext),
            }),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), HsmError> {
        write(path, &serde_json::to_vec_pretty(self).map_err(|e| wrong(&e.to_string()))?)
    }

    pub(super) fn read(path: &Path) -> Result<Self, HsmError> {
        let failed = |what: String| wrong(&format!("component {}: {what}", path.display()));
        let length = fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if length > FILE_BYTES_MAX {
            return Err(failed("it is too long".to_owned()));
        }
        let bytes = Zeroizing::new(fs::read(path).map_err(|e| failed(e.to_string()))?);
        let file: Self = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
        if file.format != FORMAT {
            return Err(failed(format!("its format is not {FORMAT}")));
        }
        Ok(file)
    }

    /// The component, opened by whichever of the custodians' keys fits.
    pub(super) fn open(
        &self,
        path: &Path,
        label: Option<&str>,
        keys: &[Zeroizing<Vec<u8>>],
    ) -> Result<Component, HsmError> {
        let failed = |what: &str| wrong(&format!("component {}: {what}", path.display()));
        let check_value = parse_check_value(&self.check_value).map_err(|e| failed(&e))?;
        match (&self.value, &self.sealed) {
            (Some(value), None) => {
                let mode = fs::metadata(path).map_err(|e| failed(&e.to_string()))?.mode();
                if mode & 0o077 != 0 {
                    return Err(failed("others may read it; set its mode to 0600"));
                }
                let mut bytes = Zeroizing::new(vec![0; value.0.len() / 2]);
                hex::decode_to_slice(value.0.as_bytes(), &mut bytes[..])
                    .map_err(|_| failed("value is hex"))?;
                Ok(Component::new(&self.custodian, bytes, check_value))
            }
            (None, Some(part)) => {
                if label.is_some_and(|label| label != part.key) {
                    return Err(failed(&format!("it is part of {}", part.key)));
                }
                let decode = |text: &str| hex::decode(text).map_err(|_| failed("it is not hex"));
                let sealed = SealedComponent {
                    custodian: self.custodian.clone(),
                    encapsulated_key: decode(&part.encapsulated_key)?,
                    ciphertext: decode(&part.ciphertext)?,
                    check_value,
                };
                keys.iter()
                    .find_map(|key| open_component(key, &part.key, part.number, part.of, &sealed))
                    .ok_or_else(|| failed("none of the --custodian-key files opens it"))
            }
            _ => Err(failed("it has either value or sealed")),
        }
    }
}

pub(super) fn parse_custodian(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("a custodian is NAME=FILE")?;
    audit::Name::new(name).map_err(|e| e.to_string())?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

/// Custodians with the public keys of their files. One key in two hands would be one custodian.
pub(super) fn custodians(
    named: &[(String, PathBuf)],
    known_keys: pki::KnownKeys,
) -> Result<Vec<Custodian>, HsmError> {
    let mut custodians: Vec<Custodian> = Vec::new();
    for (name, path) in named {
        let failed = |what: String| wrong(&format!("custodian key {}: {what}", path.display()));
        let pem = fs::read(path).map_err(|e| failed(e.to_string()))?;
        let key = pki::PublicKey::from_pem(&pem, known_keys).map_err(|e| failed(e.to_string()))?;
        let public_key = *key.point();
        if custodians.iter().any(|other| other.name == *name || other.public_key == public_key) {
            return Err(failed("another custodian has this name or key".to_owned()));
        }
        custodians.push(Custodian { name: name.clone(), public_key });
    }
    Ok(custodians)
}

pub(super) fn private_keys(paths: &[PathBuf]) -> Result<Vec<Zeroizing<Vec<u8>>>, HsmError> {
    let read = |path: &PathBuf| {
        let failed = |what: String| wrong(&format!("custodian key {}: {what}", path.display()));
        let pem = Zeroizing::new(fs::read(path).map_err(|e| failed(e.to_string()))?);
        pki::private_key_from_pem(&pem).map_err(|e| failed(e.to_string()))
    };
    paths.iter().map(read).collect()
}

pub(super) fn make_custodian_key(name: &str, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    audit::Name::new(name)?;
    fs::create_dir_all(out)?;
    let pkcs8 = pki::generate_p256()?;
    let pem = pki::private_key_to_pem(&pkcs8);
    let path = out.join(format!("{name}.key.pem"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    let spki = pki::PrivateKey::from_pkcs8(&pkcs8)?.spki()?;
    let public = pki::PublicKey::parse(&spki, pki::KnownKeys::Refuse)?.to_pem();
    write(&out.join(format!("{name}.pub.pem")), public.as_bytes())?;
    Ok(())
}
