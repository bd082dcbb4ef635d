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
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ComponentFile {
    format: String,
    pub(super) custodian: String,
    /// Clear, of a key that comes from elsewhere, and its check value ...
    #[serde(skip_serializing_if = "Option::is_none")]
    check_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<ClearValue>,
    /// ... or sealed to the custodian, of one that was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedParts>,
}

/// Hex, zeroized on drop.
#[derive(Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
#[serde(transparent)]
struct ClearValue(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedParts {
    /// Label of the key they are part of.
    key: String,
    key_check_value: String,
    /// How many custodians restore it, of how many.
    needed: usize,
    custodians: usize,
    /// How many components there are in all.
    of: usize,
    components: Vec<SealedPart>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedPart {
    number: usize,
    check_value: String,
    encapsulated_key: String,
    ciphertext: String,
}

/// A component of a file: one that somebody brought, or one of those that a key was made of.
pub(super) struct Opened {
    pub(super) component: Component,
    /// Of a key that was made here.
    pub(super) place: Option<Place>,
}

/// The how-manieth component of how many, and how many custodians restore the key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) of: usize,
    pub(super) needed: usize,
    pub(super) custodians: usize,
}

impl ComponentFile {
    /// The file of a custodian, with every component that is sealed to them.
    pub(super) fn sealed(
        created: &CreatedKey,
        custodian: &str,
        parts: &[SealedComponent],
        (needed, custodians): (usize, usize),
    ) -> Self {
        let held = parts.iter().filter(|part| part.custodian == custodian);
        let components = held.map(|part| SealedPart {
            number: part.number,
            check_value: hex::encode(part.check_value),
            encapsulated_key: hex::encode(&part.encapsulated_key),
            ciphertext: hex::encode(&part.ciphertext),
        });
        Self {
            format: FORMAT.to_owned(),
            custodian: custodian.to_owned(),
            check_value: None,
            value: None,
            sealed: Some(SealedParts {
                key: created.key.label.clone(),
                key_check_value: created.key_check_value.map(hex::encode).unwrap_or_default(),
                needed,
                custodians,
                of: parts.first().map_or(0, |part| part.of),
                components: components.collect(),
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

    /// Its components, opened by whichever of the custodians' keys fits.
    pub(super) fn open(
        &self,
        path: &Path,
        label: Option<&str>,
        keys: &[Zeroizing<Vec<u8>>],
    ) -> Result<Vec<Opened>, HsmError> {
        let failed = |what: &str| wrong(&format!("component {}: {what}", path.display()));
        match (&self.value, &self.check_value, &self.sealed) {
            (Some(value), Some(check_value), None) => {
                let check_value = parse_check_value(check_value).map_err(|e| failed(&e))?;
                let mode = fs::metadata(path).map_err(|e| failed(&e.to_string()))?.mode();
                if mode & 0o077 != 0 {
                    return Err(failed("others may read it; set its mode to 0600"));
                }
                let mut bytes = Zeroizing::new(vec![0; value.0.len() / 2]);
                hex::decode_to_slice(value.0.as_bytes(), &mut bytes[..])
                    .map_err(|_| failed("value is hex"))?;
                let component = Component::new(&self.custodian, bytes, check_value);
                Ok(vec![Opened { component, place: None }])
            }
            (None, None, Some(parts)) => {
                if label.is_some_and(|label| label != parts.key) {
                    return Err(failed(&format!("it is part of {}", parts.key)));
                }
                let SealedParts { of, needed, custodians, .. } = *parts;
                let decode = |text: &str| hex::decode(text).map_err(|_| failed("it is not hex"));
                let open = |part: &SealedPart| {
                    let sealed = SealedComponent {
                        custodian: self.custodian.clone(),
                        encapsulated_key: decode(&part.encapsulated_key)?,
                        ciphertext: decode(&part.ciphertext)?,
                        check_value: parse_check_value(&part.check_value).map_err(|e| failed(&e))?,
                        number: part.number,
                        of,
                    };
                    let component = keys
                        .iter()
                        .find_map(|key| open_component(key, &parts.key, &sealed))
                        .ok_or_else(|| failed("none of the --custodian-key files opens it"))?;
                    let place = Some(Place { number: part.number, of, needed, custodians });
                    Ok(Opened { component, place })
                };
                parts.components.iter().map(open).collect()
            }
            _ => Err(failed("it has either value and check_value, or sealed")),
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
        let public_key = key.p256_point().map_err(|e| failed(e.to_string()))?;
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
    let spki = pki::PrivateKey::from_pkcs8(&pkcs8)?.spki();
    let public = pki::PublicKey::parse(&spki, pki::KnownKeys::Refuse)?.to_pem();
    write(&out.join(format!("{name}.pub.pem")), public.as_bytes())?;
    Ok(())
}
