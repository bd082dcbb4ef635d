//! Digests and signatures in frames: their bytes, whose number says which they are. Others do not read.

use std::fmt;

use ecc::{Digest, Signature};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireDigest(pub(crate) Digest);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireSignature(pub(crate) Signature);

impl Serialize for WireDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<'de> Deserialize<'de> for WireDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(OfBytes(Digest::from_bytes)).map(Self)
    }
}

impl Serialize for WireSignature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<'de> Deserialize<'de> for WireSignature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(OfBytes(Signature::from_bytes)).map(Self)
    }
}

/// Reads bytes without a copy of their own.
struct OfBytes<T>(fn(&[u8]) -> Option<T>);

impl<T> Visitor<'_> for OfBytes<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest or a signature of a known length")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.0)(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_no_curve_s_does_not_read() {
        for bytes in [[7; 32].to_vec(), [7; 48].to_vec()] {
            let digest = WireDigest(Digest::from_bytes(&bytes).unwrap());
            assert_eq!(postcard::from_bytes(&postcard::to_allocvec(&digest).unwrap()), Ok(digest));
        }
        for bytes in [[7; 64].to_vec(), [7; 96].to_vec()] {
            let signature = WireSignature(Signature::from_bytes(&bytes).unwrap());
            assert_eq!(postcard::from_bytes(&postcard::to_allocvec(&signature).unwrap()), Ok(signature));
        }
        for length in [0, 31, 33, 47, 64, 96] {
            let message = postcard::to_allocvec(&vec![7u8; length]).unwrap();
            assert!(postcard::from_bytes::<WireDigest>(&message).is_err(), "{length}");
        }
        for length in [0, 32, 63, 65, 95, 97] {
            let message = postcard::to_allocvec(&vec![7u8; length]).unwrap();
            assert!(postcard::from_bytes::<WireSignature>(&message).is_err(), "{length}");
        }
    }
}
