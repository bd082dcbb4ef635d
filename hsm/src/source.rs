//! Where the keys of a keyset come from: a master and a scheme.

use domain::DeviceKeyset;
use keys::derivation::Scheme;

use crate::key::KeyRef;

/// Where the keys of one keyset come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Derived when it is needed; nothing secret is stored.
    Derived {
        /// The master.
        master: KeyRef,
        /// The scheme and its inputs.
        scheme: Scheme,
    },
}

/// One keyset of one device, and where its keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcedKeyset {
    /// Which keyset.
    pub keyset: DeviceKeyset,
    /// Where from.
    pub source: KeySource,
}

impl SourcedKeyset {
    /// A keyset by our scheme.
    pub const fn derived(master: KeyRef, keyset: DeviceKeyset) -> Self {
        Self { keyset, source: KeySource::Derived { master, scheme: Scheme::Chancery } }
    }
}
