//! A manufacturer's end of an order: from the output file and its own private key to the keys for each card.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use crate::aes::AesKey;

/// What one card is personalised with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PersonalisationData {
    /// Packed decimal.
    pub eid: [u8; 16],
    /// Key version number.
    pub kvn: u8,
    /// Key-ENC, 16, 24 or 32 bytes.
    pub enc: Vec<u8>,
    /// Key-MAC, as long.
    pub mac: Vec<u8>,
    /// Key-DEK, as long.
    pub dek: Vec<u8>,
}

/// Why an order's output cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransportError {
    /// From 1; 0 for the private key.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for TransportError {}

/// The manufacturer's RSA key, which opens the transport keys of its orders.
pub struct TransportPrivateKey(OaepPrivateDecryptingKey);

impl TransportPrivateKey {
    /// Reads an unencrypted PKCS#8 key in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TransportError> {
        let fault = |reason: String| TransportError { line: 0, reason };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|error| fault(error.to_string()))?;
        let key = PrivateDecryptingKey::from_pkcs8(der.secret_pkcs8_der())
            .map_err(|error| fault(error.to_string()))?;
        let key = OaepPrivateDecryptingKey::new(key).map_err(|error| fault(error.to_string()))?;
        Ok(Self(key))
    }

    /// Unwraps every device of `output.jsonl`, in its order; one wrong line spoils the file.
    pub fn unwrap_order(&self, jsonl: &str) -> Result<Vec<PersonalisationData>, TransportError> {
        let mut transport_keys = HashMap::new();
        let mut devices = Vec::new();
        for (index, text) in jsonl.lines().enumerate() {
            let fault = |reason: String| TransportError { line: index + 1, reason };
            match serde_json::from_str(text).map_err(|error| fault(error.to_string()))? {
                Line::Header(header) => {
                    let key = self.unwrap_transport_key(&header).map_err(fault)?;
                    transport_keys.insert(header.transport_key, key);
                }
                Line::Device(device) => {
                    let key = transport_keys.get(&device.transport_key).ok_or_else(|| {
                        fault(format!("no header before it names {}", device.transport_key))
                    })?;
                    devices.push(device.unwrap(key).map_err(fault)?);
                }
            }
        }
        Ok(devices)
    }

    fn unwrap_transport_key(&self, header: &Header) -> Result<Vec<u8>, String> {
        let wrapped = hex::decode(&header.wrapped).map_err(|error| error.to_string())?;
        self.open_oaep(&header.oaep_hash, &wrapped)
    }

    /// Opens a 32-byte key under RSA-OAEP with this hash.
    pub fn open_oaep(&self, hash: &str, wrapped: &[u8]) -> Result<Vec<u8>, String> {
        let algorithm: &'static OaepAlgorithm = match hash {
            "SHA-1" => &OAEP_SHA1_MGF1SHA1,
            "SHA-256" => &OAEP_SHA256_MGF1SHA256,
            other => return Err(format!("OAEP with {other} is not known")),
        };
        let mut buffer = vec![0; self.0.min_output_size()];
        let key = self
            .0
            .decrypt(algorithm, wrapped, &mut buffer, None)
            .map_err(|_| "the transport key does not open with this private key".to_owned())?;
        match key.len() {
            32 => Ok(key.to_vec()),
            other => Err(format!("the transport key has {other} bytes, not 32")),
        }
    }
}

/// AES-KWP (RFC 5649) under a 32-byte key; `None` when the blob was made under another or changed.
pub fn unwrap_key(transport_key: &[u8], blob: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = vec![0; blob.len()];
    let key = AesKek::new(&AES_256, transport_key).ok()?.unwrap_with_padding(blob, &mut buffer).ok()?;
    Some(key.to_vec())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Header(Header),
    Device(Device),
}

#[derive(Deserialize)]
struct Header {
    transport_key: String,
    wrapped: String,
    oaep_hash: String,
}

#[derive(Deserialize)]
struct Device {
    eid: String,
    kvn: u8,
    algorithm: String,
    transport_key: String,
    enc: String,
    mac: String,
    dek: String,
    kcv: CheckValues,
}

#[derive(Deserialize)]
struct CheckValues {
    enc: String,
    mac: String,
    dek: String,
}

impl Device {
    fn unwrap(&self, transport_key: &[u8]) -> Result<PersonalisationData, String> {
        let mut eid = [0; 16];
        hex::decode_to_slice(&self.eid, &mut eid).map_err(|error| format!("eid: {error}"))?;
        let key_len = match self.algorithm.as_str() {
            "AES-128" => 16,
            "AES-192" => 24,
            "AES-256" => 32,
            other => return Err(format!("algorithm {other} is not known")),
        };
        let key = |name: &str, blob: &str, check_value: &str| {
            let blob = hex::decode(blob).map_err(|error| format!("{name}: {error}"))?;
            let key = unwrap_key(transport_key, &blob)
                .filter(|key| key.len() == key_len)
                .ok_or_else(|| format!("{name} does not open to a key of {}", self.algorithm))?;
            let actual = AesKey::new(&key).map(|aes| hex::encode(aes.check_value()));
            if actual.as_deref() == Some(check_value) {
                Ok(key)
            } else {
                Err(format!("{name} has another check value than the file says"))
            }
        };
        Ok(PersonalisationData {
            eid,
            kvn: self.kvn,
            enc: key("enc", &self.enc, &self.kcv.enc)?,
            mac: key("mac", &self.mac, &self.kcv.mac)?,
            dek: key("dek", &self.dek, &self.kcv.dek)?,
        })
    }
}
