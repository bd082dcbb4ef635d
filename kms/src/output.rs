//! The files of order output: one per chunk, durable before the entry that names its digest
//! (`docs/formats/order-output.md`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use domain::Eid;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::KmsError;
use crate::orders::OrderTerms;

/// The folder of output files: `<party>/<order>/<chunk>.jsonl`.
#[derive(Clone, Debug)]
pub struct OutputFiles {
    root: PathBuf,
}

impl OutputFiles {
    /// Output files below `root`, which is created.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, KmsError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(failed("create the folder of", &root))?;
        Ok(Self { root })
    }

    /// Writes a chunk: temporary file, fsync, rename, fsync of the folder. Returns the file's name and SHA-256.
    /// Blocks on the disk. A file that a crash left behind under the same name is replaced; no entry names it.
    pub fn write(
        &self,
        party: &str,
        order: &str,
        chunk: usize,
        content: &[u8],
    ) -> Result<(String, [u8; 32]), KmsError> {
        let name = format!("{party}/{order}/{chunk:06}.jsonl");
        let path = self.root.join(&name);
        let write = || -> io::Result<()> {
            let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            fs::create_dir_all(folder)?;
            let part = path.with_extension("part");
            let mut file = File::create(&part)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            // The names above must survive a power cut as well.
            for ancestor in folder.ancestors().take(3) {
                File::open(ancestor)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(failed("write", &path))?;
        Ok((name, Sha256::digest(content).into()))
    }

    /// Reads a chunk back and compares its digest. Blocks on the disk.
    pub fn read(&self, name: &str, digest: &[u8]) -> Result<Vec<u8>, KmsError> {
        let path = self.root.join(name);
        let content = fs::read(&path).map_err(failed("read", &path))?;
        if Sha256::digest(&content)[..] != *digest {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its SHA-256 is not the recorded one");
            return Err(failed("trust", &path)(source));
        }
        Ok(content)
    }
}

/// The lines of a chunk: its transport key, then one line per device.
pub(crate) fn render(
    terms: &OrderTerms,
    transport_key: &str,
    recipient_digest: &[u8; 32],
    eids: &[Eid],
    keys: &hsm::OrderChunk,
) -> Result<Vec<u8>, KmsError> {
    let mut out = Vec::with_capacity(512 * (eids.len() + 2));
    let mut line = |value: &dyn ErasedLine| -> Result<(), KmsError> {
        value.write(&mut out).map_err(|_| KmsError::Record("output line"))?;
        out.push(b'\n');
        Ok(())
    };
    line(&HeaderLine {
        transport_key,
        wrapped: hex::encode(&keys.wrapped_transport_key),
        oaep_hash: keys.oaep_hash.as_str(),
        recipient: hex::encode(recipient_digest),
    })?;
    for (eid, device) in eids.iter().zip(&keys.devices) {
        let [enc, mac, dek] = &device.keys[..] else { return Err(KmsError::Record("output line")) };
        line(&DeviceLine {
            eid: eid.to_string(),
            security_domain: terms.keyset.security_domain.code(),
            kvn: terms.keyset.kvn.value(),
            algorithm: terms.algorithm.as_str(),
            transport_key,
            enc: hex::encode(&enc.wrapped),
            mac: hex::encode(&mac.wrapped),
            dek: hex::encode(&dek.wrapped),
            kcv: KeyCheckValues {
                enc: enc.kcv.to_string(),
                mac: mac.kcv.to_string(),
                dek: dek.kcv.to_string(),
            },
        })?;
    }
    Ok(out)
}

trait ErasedLine {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()>;
}

impl<T: Serialize> ErasedLine for T {
    fn write(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, self)
    }
}

#[derive(Serialize)]
struct HeaderLine<'a> {
    transport_key: &'a str,
    wrapped: String,
    oaep_hash: &'static str,
    recipient: String,
}

#[derive(Serialize)]
struct DeviceLine<'a> {
    eid: String,
    security_domain: u8,
    kvn: u8,
    algorithm: &'static str,
    transport_key: &'a str,
    enc: String,
    mac: String,
    dek: String,
    kcv: KeyCheckValues,
}

#[derive(Serialize)]
struct KeyCheckValues {
    enc: String,
    mac: String,
    dek: String,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KmsError {
    let file = path.display().to_string();
    move |source| KmsError::OutputFile { action, file, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_back_and_a_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let files = OutputFiles::open(folder.path()).unwrap();
        let (name, digest) = files.write("eum", "order-1", 0, b"line\n").unwrap();
        assert_eq!(files.read(&name, &digest).unwrap(), b"line\n");
        fs::write(folder.path().join(&name), b"lime\n").unwrap();
        assert!(files.read(&name, &digest).is_err());
    }
}
