//! The key that makes the log and the view ours.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The length of every MAC and digest in the formats.
pub(crate) const MAC_BYTES: usize = 32;

/// The key under which segments, batches and (through a derived key) view rows carry their HMACs.
///
/// Only the log token can produce it; it is derived once at start and lives in zeroized memory.
pub struct LogMacKey(Zeroizing<[u8; 32]>);

impl LogMacKey {
    /// Takes over 32 bytes from the log token.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The MAC of log segments and batches.
    pub(crate) fn log(&self) -> KeyedMac {
        KeyedMac::new(&self.0)
    }

    /// The MAC of view rows, under a key of its own so that no row can pass for a batch.
    pub(crate) fn view(&self) -> KeyedMac {
        let key = Zeroizing::new(self.log().over(&[b"chancery view rows v1"]));
        KeyedMac::new(&key)
    }
}

/// HMAC-SHA256 with the key already absorbed.
#[derive(Clone)]
pub(crate) struct KeyedMac(Hmac<Sha256>);

impl KeyedMac {
    fn new(key: &[u8; 32]) -> Self {
        // RFC 2104 §2: a key shorter than the block is filled up with zeros.
        let mut block = Zeroizing::new([0; 64]);
        block[..key.len()].copy_from_slice(key);
        Self(Hmac::new((&*block).into()))
    }

    /// The MAC over the parts one after the other; callers make the split unambiguous.
    pub fn over(&self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.absorb(parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC over the parts, in constant time.
    pub fn matches(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.absorb(parts).verify_slice(mac).is_ok()
    }

    fn absorb(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut state = self.0.clone();
        for part in parts {
            state.update(part);
        }
        state
    }
}
