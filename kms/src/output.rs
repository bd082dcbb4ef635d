//! The files of order output: one per chunk, durable before the entry that names its digest
//! (`docs/formats/order-output.md`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use domain::OrderFormat;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::orders::{OrderTerms, ReservedLine};
use crate::{ChunkKeyPairs, KmsError};

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

/// What the line of a transport key begins with, and no other line.
pub(crate) const TRANSPORT_KEY_LINE: &[u8] = b"{\"transport_key\":";

/// What all lines of a chunk have in common.
pub(crate) struct Chunk<'a> {
    pub(crate) terms: &'a OrderTerms,
    /// Name of its transport key.
    pub(crate) transport_key: &'a str,
    /// SHA-256 of the recipient's SubjectPublicKeyInfo.
    pub(crate) recipient: &'a [u8; 32],
    /// Key pairs made for some of its devices.
    pub(crate) key_pairs: Option<&'a ChunkKeyPairs>,
}

/// The lines of a chunk: its transport key, that of its key pairs where there are some, then one line per device.
pub(crate) fn render(
    chunk: &Chunk<'_>,
    lines: &[ReservedLine],
    keys: &hsm::OrderChunk,
) -> Result<Vec<u8>, KmsError> {
    let mut out = Vec::with_capacity(512 * (lines.len() + 2));
    let mut line = |value: &dyn ErasedLine| -> Result<(), KmsError> {
        value.write(&mut out).map_err(|_| KmsError::Record("output line"))?;
        out.push(b'\n');
        Ok(())
    };
    let (transport_key, format) = (chunk.transport_key, chunk.terms.format);
    let recipient = hex::encode(chunk.recipient);
    line(&HeaderLine {
        transport_key,
        wrapped: hex::encode(&keys.wrapped_transport_key),
        oaep_hash: keys.oaep_hash.as_str(),
        recipient: &recipient,
        format: format.as_str(),
    })?;
    let key_pair_key = format!("{transport_key}/key-pairs");
    if let Some(pairs) = chunk.key_pairs {
        line(&HeaderLine {
            transport_key: &key_pair_key,
            wrapped: hex::encode(&pairs.made.wrapped_transport_key),
            oaep_hash: pairs.made.oaep_hash.as_str(),
            recipient: &recipient,
            format: "pkcs8-kwp",
        })?;
    }
    let keyset = &chunk.terms.keyset;
    for (reserved, device) in lines.iter().zip(&keys.devices) {
        let usages = keyset.protocol.usages();
        if device.keys.len() != usages.len() {
            return Err(KmsError::Record("output line"));
        }
        let named = || usages.iter().map(|usage| usage.as_str()).zip(&device.keys);
        let private_key = chunk.key_pairs.and_then(|pairs| pairs.private_key(reserved.line.line));
        line(&DeviceLine {
            eid: reserved.line.eid.to_string(),
            security_domain: keyset.security_domain.code(),
            protocol: keyset.protocol.as_str(),
            kvn: keyset.kvn.value(),
            algorithm: chunk.terms.algorithm.as_str(),
            transport_key,
            keys: ByUsage(
                named()
                    .map(|(name, key)| Ok((name, text_of(format, &key.wrapped)?)))
                    .collect::<Result<_, KmsError>>()?,
            ),
            kcv: ByUsage(named().map(|(name, key)| (name, key.kcv.to_string())).collect()),
            private_key: private_key.map(hex::encode),
        })?;
    }
    Ok(out)
}

/// A key as its line says it: key blocks are text already.
fn text_of(format: OrderFormat, key: &[u8]) -> Result<String, KmsError> {
    match format {
        OrderFormat::Tr31 => String::from_utf8(key.to_vec()).map_err(|_| KmsError::Record("key block")),
        OrderFormat::JsonlKwp | OrderFormat::Pskc | OrderFormat::PysimCsv => Ok(hex::encode(key)),
    }
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
    recipient: &'a str,
    format: &'a str,
}

#[derive(Serialize)]
struct DeviceLine<'a> {
    eid: String,
    security_domain: u8,
    protocol: &'static str,
    kvn: u8,
    algorithm: &'static str,
    transport_key: &'a str,
    /// By usage: enc, mac, dek, or psk and psk-dek.
    #[serde(flatten)]
    keys: ByUsage,
    kcv: ByUsage,
    /// PKCS#8, AES-KWP under the transport key of the chunk's key pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
}

/// An object with a member for each usage, in the order of key identifiers.
struct ByUsage(Vec<(&'static str, String)>);

impl Serialize for ByUsage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, text)| (name, text)))
    }
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
