//! Files the tool reads and writes: bounded reads; writes that replace nothing and are durable when they return.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::error::CliError;

/// Who may read a new file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readers {
    /// Only the owner: mode 0600.
    Owner,
    /// Whoever may enter the folder: mode 0644.
    All,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Largest file that is read whole: keys, certificates, requests, checkpoints.
const READ_MAX_BYTES: u64 = 1 << 20;

/// Reads a file of at most 1 MiB.
pub fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let file = File::open(path).map_err(CliError::file("read", path))?;
    let mut bytes = Vec::new();
    file.take(READ_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(CliError::file("read", path))?;
    if bytes.len() as u64 > READ_MAX_BYTES {
        return Err(CliError::invalid(
            format!("{} is larger than 1 MiB", path.display()),
            "name the right file",
        ));
    }
    Ok(bytes)
}

/// Reads a text file of at most 1 MiB.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    String::from_utf8(read(path)?)
        .map_err(|_| CliError::invalid(format!("{} is no text", path.display()), "name the right file"))
}

/// Writes a file that did not exist; refuses to replace one.
pub fn write_new(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), CliError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(readers.mode())
        .open(path)
        .map_err(CliError::file("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(CliError::file("write", path))
}

/// Puts a file in place at once, over an older one if there is one.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), CliError> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    remove_if_there(part)?;
    write_new(part, bytes, readers)?;
    rename(part, path)
}

/// Removes a file, or finds none.
pub fn remove_if_there(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Renames and makes the new name durable.
pub fn rename(from: &Path, to: &Path) -> Result<(), CliError> {
    fs::rename(from, to).map_err(CliError::file("rename to", to))?;
    sync_folder_of(to)
}

/// Creates a folder for secrets (mode 0700), with its parents; it may exist.
pub fn create_private_folder(path: &Path) -> Result<(), CliError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(CliError::file("create", path))
}

/// Creates a folder with its parents; it may exist.
pub fn create_folder(path: &Path) -> Result<(), CliError> {
    fs::create_dir_all(path).map_err(CliError::file("create", path))
}

/// Refuses a folder that holds anything.
pub fn check_empty_or_absent(path: &Path) -> Result<(), CliError> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CliError::file("read", path)(error)),
        Ok(mut items) => match items.next() {
            None => Ok(()),
            Some(_) => Err(CliError::invalid(
                format!("the folder {} is not empty", path.display()),
                "name a folder that does not exist or is empty",
            )),
        },
    }
}

/// Makes the names in the folder of `path` durable.
pub fn sync_folder_of(path: &Path) -> Result<(), CliError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(CliError::file("sync", folder))
}

/// One PEM block, or DER as it is.
pub fn pem_or_der(bytes: Vec<u8>, label: &str, what: &str) -> Result<Vec<u8>, CliError> {
    if !bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Ok(bytes);
    }
    let wrong = |why: String| CliError::invalid(format!("{what}: {why}"), "name the right file");
    let block = pem::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    if block.tag() != label {
        return Err(wrong(format!("it holds a {}, not a {label}", block.tag())));
    }
    Ok(block.into_contents())
}

/// A PEM block of something public.
pub fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}
