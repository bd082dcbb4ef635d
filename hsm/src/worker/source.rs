//! The keys of a keyset, wherever they come from, as session objects of the token.

use std::sync::Arc;

use domain::{DeviceKeyset, KeyUsage};
use keys::derivation::Scheme;
use keys::{Prf, SoftwareKey};
use zeroize::Zeroizing;

use super::boundary::Boundary;
use super::derive;
use super::import::Wrapping;
use super::open::ResolvedKey;
use super::stored::OpenStorage;
use super::token_session::{SessionObject, TokenSession};
use crate::error::HsmError;
use crate::key::KeyRole;
use crate::source::StoredBlob;
use crate::template::SessionKeyUse;
use crate::wire_keysets::{WireKeyset, WireKeysets, WireSource, scheme_at};

/// One keyset of a job, parsed, its token keys at hand.
pub(crate) struct OpenKeyset<'k> {
    pub(crate) keyset: DeviceKeyset,
    boundary: Boundary,
    source: OpenSource<'k>,
}

enum OpenSource<'k> {
    Derived { master: &'k ResolvedKey, scheme: Scheme },
    Stored { keys: OpenStorage<'k>, blobs: &'k [StoredBlob] },
}

/// The keysets of a job and the token keys behind them.
pub(crate) struct OpenKeysets<'j> {
    keys: Vec<Arc<ResolvedKey>>,
    boundary: Boundary,
    wrapping: Wrapping,
    keysets: &'j [WireKeyset],
}

impl<'j> OpenKeysets<'j> {
    /// `find` looks a token key up.
    pub(crate) fn open(
        wire: &'j WireKeysets,
        (boundary, wrapping): (Boundary, Wrapping),
        find: impl FnMut(&crate::key::KeyRef) -> Result<Arc<ResolvedKey>, HsmError>,
    ) -> Result<Self, HsmError> {
        let keys = wire.keys.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Self { keys, boundary, wrapping, keysets: &wire.keysets })
    }

    pub(crate) const fn len(&self) -> usize {
        self.keysets.len()
    }

    /// The keyset at a place of the job.
    pub(crate) fn get(&self, at: usize) -> Result<OpenKeyset<'_>, HsmError> {
        let wire = self.keysets.get(at).ok_or_else(|| HsmError::caller("the job names no such keyset"))?;
        let keyset = wire.kind.of_device(&wire.eid)?;
        let source = match &wire.source {
            WireSource::Derived { master, scheme, inputs } => OpenSource::Derived {
                master: self.key(*master, KeyRole::is_master, "master")?,
                scheme: Scheme::parse(scheme_at(*scheme)?, inputs)
                    .map_err(|e| HsmError::caller(e.to_string()))?,
            },
            WireSource::Stored { kek, blob_mac, blobs } => OpenSource::Stored {
                keys: OpenStorage {
                    kek: self.key(*kek, |role| role == KeyRole::Kek, "key-encryption key")?,
                    blob_mac: self.key(*blob_mac, |role| role == KeyRole::BlobMac, "key that binds blobs")?,
                    kwp: self.wrapping.kwp()?,
                },
                blobs,
            },
        };
        Ok(OpenKeyset { keyset, boundary: self.boundary, source })
    }

    fn key(
        &self,
        place: u16,
        fits: impl FnOnce(KeyRole) -> bool,
        needed: &str,
    ) -> Result<&ResolvedKey, HsmError> {
        let key = self
            .keys
            .get(usize::from(place))
            .ok_or_else(|| HsmError::caller("the job names no such token key"))?;
        let found = key.registered.role;
        if fits(found) {
            Ok(key)
        } else {
            let (key, is) = (&key.registered.key, found.as_str());
            Err(HsmError::caller(format!("key {key} is a {is}, no {needed}")))
        }
    }
}

/// A key of a keyset that computes CMACs: in the token, or, under a master of the fast mode, in this process.
pub(crate) enum DevicePrf<'s> {
    InToken(&'s TokenSession, SessionObject<'s>),
    InMemory(Box<SoftwareKey>),
}

impl Prf for DevicePrf<'_> {
    type Error = HsmError;

    fn cmac(&self, message: &[u8]) -> Result<Zeroizing<[u8; 16]>, HsmError> {
        match self {
            Self::InToken(session, key) => derive::TokenPrf { session, key: key.handle() }.cmac(message),
            Self::InMemory(key) => {
                let Ok(mac) = key.cmac(message);
                Ok(mac)
            }
        }
    }
}

/// One key of a keyset, for CMACs alone.
pub(crate) fn device_prf<'s>(
    session: &'s TokenSession,
    keyset: &OpenKeyset<'_>,
    usage: KeyUsage,
) -> Result<DevicePrf<'s>, HsmError> {
    match &keyset.source {
        OpenSource::Derived { master, scheme: Scheme::Chancery }
            if master.registered.role == KeyRole::FastMaster =>
        {
            let key = derive::key_in_memory(session, master, &keyset.keyset, usage)?;
            Ok(DevicePrf::InMemory(Box::new(SoftwareKey::new(&key))))
        }
        _ => device_key(session, keyset, usage, SessionKeyUse::Cmac)
            .map(|key| DevicePrf::InToken(session, key)),
    }
}

/// One key of a keyset, as a session object that may do `may` and nothing else.
pub(crate) fn device_key<'s>(
    session: &'s TokenSession,
    keyset: &OpenKeyset<'_>,
    usage: KeyUsage,
    may: SessionKeyUse,
) -> Result<SessionObject<'s>, HsmError> {
    match &keyset.source {
        OpenSource::Derived { master, scheme: Scheme::Chancery } => {
            derive::device_key(session, master, &keyset.keyset, usage, may)
        }
        OpenSource::Derived { master, scheme } => {
            derive::key_by_scheme(session, keyset.boundary, master, (scheme, &keyset.keyset), usage, may)
        }
        OpenSource::Stored { keys, blobs } => {
            let blob =
                blobs.get(usage.index()).ok_or_else(|| HsmError::caller("a keyset lacks a stored key"))?;
            keys.open(session, &keyset.keyset, usage, blob, may)
        }
    }
}
