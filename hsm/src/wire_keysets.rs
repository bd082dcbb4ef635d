//! Keysets in frames: identities, schemes and blobs, never a key in clear. The token keys behind them are named once.

use domain::{DeviceKeyset, Eid, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::derivation::SchemeName;
use serde::{Deserialize, Serialize};

use crate::error::HsmError;
use crate::key::KeyRef;
use crate::source::{KeySource, SourcedKeyset, StoredBlob};

/// The keysets of a job, in the order of its answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct WireKeysets {
    /// The token keys that the keysets name by their place here.
    pub(crate) keys: Vec<KeyRef>,
    pub(crate) keysets: Vec<WireKeyset>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireKeyset {
    pub(crate) eid: [u8; 16],
    pub(crate) kind: WireKind,
    pub(crate) source: WireSource,
}

/// Everything of a [`DeviceKeyset`] but the device.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct WireKind {
    protocol: u8,
    security_domain: u8,
    kvn: u8,
    key_bits: u16,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireSource {
    Derived {
        master: u16,
        /// Its place in [`SchemeName::ALL`]: both ends are the same build.
        scheme: u8,
        inputs: Vec<u8>,
    },
    Stored {
        kek: u16,
        blob_mac: u16,
        blobs: Vec<StoredBlob>,
    },
}

impl WireKeysets {
    pub(crate) fn of(keysets: impl IntoIterator<Item = SourcedKeyset>) -> Self {
        let mut wire = Self::default();
        for SourcedKeyset { keyset, source } in keysets {
            let source = match source {
                KeySource::Derived { master, scheme } => WireSource::Derived {
                    master: wire.place_of(master),
                    scheme: scheme_place(scheme.name()),
                    inputs: scheme.inputs(),
                },
                KeySource::Stored(stored) => WireSource::Stored {
                    kek: wire.place_of(stored.storage.kek),
                    blob_mac: wire.place_of(stored.storage.blob_mac),
                    blobs: stored.blobs,
                },
            };
            wire.keysets.push(WireKeyset { eid: *keyset.eid.bcd(), kind: WireKind::of(&keyset), source });
        }
        wire
    }

    /// A job has few masters, and at most some hundred keysets, so its keys number fewer than 65,536.
    fn place_of(&mut self, key: KeyRef) -> u16 {
        let place = self.keys.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

impl WireKind {
    pub(crate) fn of(keyset: &DeviceKeyset) -> Self {
        Self::new(keyset.protocol, keyset.security_domain, keyset.kvn, keyset.algorithm)
    }

    pub(crate) fn new(
        protocol: Protocol,
        security_domain: SecurityDomain,
        kvn: KeyVersionNumber,
        algorithm: KeysetAlgorithm,
    ) -> Self {
        Self {
            protocol: protocol.code(),
            security_domain: security_domain.code(),
            kvn: kvn.value(),
            key_bits: algorithm.key_bits(),
        }
    }

    pub(crate) fn protocol(self) -> Result<Protocol, HsmError> {
        Protocol::from_code(self.protocol.into()).map_err(|e| HsmError::caller(e.to_string()))
    }

    pub(crate) fn of_device(self, eid: &[u8; 16]) -> Result<DeviceKeyset, HsmError> {
        let unknown = |e: domain::UnknownCode| HsmError::caller(e.to_string());
        let protocol = Protocol::from_code(self.protocol.into()).map_err(unknown)?;
        Ok(DeviceKeyset {
            eid: Eid::from_bcd(*eid).map_err(|e| HsmError::caller(e.to_string()))?,
            protocol,
            security_domain: SecurityDomain::from_code(self.security_domain.into()).map_err(unknown)?,
            kvn: KeyVersionNumber::new(protocol, self.kvn.into()).map_err(unknown)?,
            algorithm: KeysetAlgorithm::from_code(self.key_bits.into()).map_err(unknown)?,
        })
    }
}

/// The scheme at a place of [`SchemeName::ALL`].
pub(crate) fn scheme_at(place: u8) -> Result<SchemeName, HsmError> {
    SchemeName::ALL
        .get(usize::from(place))
        .copied()
        .ok_or_else(|| HsmError::caller(format!("no derivation scheme has number {place}")))
}

fn scheme_place(name: SchemeName) -> u8 {
    let place = SchemeName::ALL.iter().position(|scheme| *scheme == name);
    place.and_then(|place| u8::try_from(place).ok()).expect("every scheme is one of the few of ALL")
}
