//! Where a bundle's files are: a folder, or memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{AuditError, OutputFile};

/// Largest file of a bundle that is read; a manifest of 100 million entries fits.
const FILE_MAX: u64 = 256 << 20;

/// Read access to a bundle. Paths are relative with `/`.
pub trait BundleFiles {
    /// Every file of the bundle, in any order. Fails on anything that is neither a file nor a folder.
    fn list(&self) -> Result<Vec<String>, AuditError>;

    /// The whole file. Fails when it is absent or unreadable.
    fn read(&self, path: &str) -> Result<Vec<u8>, AuditError>;
}

impl BundleFiles for BTreeMap<String, Vec<u8>> {
    fn list(&self) -> Result<Vec<String>, AuditError> {
        Ok(self.keys().cloned().collect())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, AuditError> {
        self.get(path).cloned().ok_or_else(|| file_error(path, "no such file"))
    }
}

/// Whether a path may stand in a bundle: relative, of `A-Z a-z 0-9 . _ -`, no part of dots alone.
pub fn is_bundle_path(path: &str) -> bool {
    path.len() <= 256
        && path.split('/').all(|part| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
                && part.bytes().any(|c| c != b'.')
        })
}

/// A bundle in a folder of the file system.
#[derive(Clone, Debug)]
pub struct BundleFolder {
    root: PathBuf,
}

impl BundleFolder {
    /// The folder at this path; it need not exist before the first write.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Writes one file of a bundle and syncs it. Refuses paths that would leave the folder, and existing files: a
    /// bundle is written once. The folder entries themselves are not synced.
    pub fn write(&self, file: &OutputFile) -> Result<(), AuditError> {
        let target = self.resolve(&file.path)?;
        let wrong = |error: std::io::Error| file_error(&file.path, &error.to_string());
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(wrong)?;
        }
        let mut handle = fs::File::create_new(&target).map_err(wrong)?;
        handle.write_all(&file.bytes).and_then(|()| handle.sync_data()).map_err(wrong)
    }

    fn resolve(&self, path: &str) -> Result<PathBuf, AuditError> {
        if is_bundle_path(path) {
            Ok(self.root.join(path))
        } else {
            Err(file_error(path, "not a path of a bundle"))
        }
    }

    fn walk(&self, folder: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<(), AuditError> {
        let wrong = |error: std::io::Error| file_error(prefix, &error.to_string());
        for item in fs::read_dir(folder).map_err(wrong)? {
            let item = item.map_err(wrong)?;
            let name = item.file_name();
            let name = name.to_str().ok_or_else(|| file_error(prefix, "a file name is not text"))?;
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            // A link could lead out of the folder, so it is no part of a bundle; `file_type` does not follow it.
            let kind = item.file_type().map_err(wrong)?;
            if kind.is_dir() {
                self.walk(&item.path(), &path, paths)?;
            } else if kind.is_file() {
                paths.push(path);
            } else {
                return Err(file_error(&path, "neither a file nor a folder"));
            }
        }
        Ok(())
    }
}

impl BundleFiles for BundleFolder {
    fn list(&self) -> Result<Vec<String>, AuditError> {
        let mut paths = Vec::new();
        self.walk(&self.root, "", &mut paths)?;
        Ok(paths)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, AuditError> {
        let wrong = |error: std::io::Error| file_error(path, &error.to_string());
        let handle = fs::File::open(self.resolve(path)?).map_err(wrong)?;
        let mut bytes = Vec::new();
        handle.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
        if bytes.len() as u64 > FILE_MAX { Err(file_error(path, "too large")) } else { Ok(bytes) }
    }
}

pub(crate) fn file_error(path: &str, problem: &str) -> AuditError {
    AuditError::File { path: path.to_owned(), problem: problem.to_owned() }
}
