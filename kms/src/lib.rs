//! Devices, keysets, grants, orders, session keys and the transactions of SM-DP+: the operations on the key side.
//!
//! Each operation reads, decides purely, has the token do the cryptography and returns the [`store::Commit`] that must be
//! durable before its answer may leave (`docs/cycles/session-keys.md`, `docs/cycles/issuance.md`). Knows no transport.

mod allowance;
mod challenges;
mod delivery;
mod deny_list;
mod devices;
mod error;
mod export;
mod fleet;
mod freeze;
mod grants;
mod key_pairs;
mod keyset_source;
pub mod keysets;
mod keyspaces;
mod masters;
mod orders;
pub mod ota;
mod output;
mod receipt;
pub mod rotation;
pub mod rsp;
pub mod scp11;
mod sequence;
mod session_keys;
mod session_request;
mod storage_keys;
mod tls_secrets;
mod transport_keys;
mod turns;

use std::sync::Arc;

use domain::MasterGeneration;

pub use allowance::{Allowance, KEY_MANAGEMENT_INSTRUCTIONS, Need, RevokedCertificates};
pub use challenges::ChallengePairs;
pub use delivery::{ChunkOutput, OrderOutput};
pub use deny_list::{DenyList, denied_devices};
pub use devices::{DeviceRecord, Freeze, KeysetName, KeysetRecord};
pub use error::{KmsError, Refused};
pub use export::{
    ExportFacts, ExportRequest, FetchedExport, check_export, decide_export, export, fetch_export,
};
pub use fleet::{Fleet, FleetKeys, MovedIn, MovingDevice, octets as check_value_octets};
pub use freeze::{FreezeRequest, check_restore, freeze, restore};
pub use grants::{GrantFinding, GrantTerms, Grants};
pub use key_pairs::ChunkKeyPairs;
pub use keyset_source::{KeysetSource, StoredOrigin};
pub use keyspaces::KEYSPACES;
pub use masters::{MasterRecord, Masters, SCHEME as OUR_SCHEME};
pub use orders::{
    ChunkKeys, KeyMode, LineCheck, Made, Manufacturer, OrderLine, OrderTerms, OrderedDevices, Orders,
    ReservedLine, free_reserved,
};
pub use output::OutputFiles;
pub use receipt::Receipt;
pub use session_keys::{ReleaseFacts, SessionKeysAnswer, decide_release, release};
pub use session_request::{KeyDelivery, Provisioner, SessionKeysRequest};
pub use storage_keys::StorageEpoch;
pub use tls_secrets::{SealedTlsSecret, TlsSecretRequest, fetch_tls_secret};
pub use transport_keys::{ORDERS_KEY, TransportKey, TransportKeyState, TransportMaterial};
pub use turns::{Turn, Turns};

/// What every operation of this crate works with.
#[derive(Clone)]
pub struct Engines {
    /// The log and the state.
    pub store: Arc<dyn store::Store>,
    /// The token that holds the masters.
    pub token: hsm::Token,
    /// The masters in use, by generation.
    pub masters: Arc<Masters>,
    /// The provisioners' grants.
    pub grants: Arc<Grants>,
    /// Challenge pairs that were accepted.
    pub challenges: Arc<ChallengePairs>,
    /// Turns of cards at the counters of packets and scripts.
    pub ota: Arc<ota::Turns>,
    /// Whether published test and default keys are refused: outside of development.
    pub refuses_published_keys: bool,
    /// Whether the configuration allows session keys that are not sealed, in the TLS channel alone.
    pub allows_tls_delivery: bool,
}

impl Engines {
    fn master(&self, generation: MasterGeneration) -> Result<hsm::KeyRef, KmsError> {
        self.masters.key(self.store.as_ref(), generation)
    }
}
