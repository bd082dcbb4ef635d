//! What travels between the daemon and a worker: frames of a 4-byte big-endian length and postcard.
//!
//! Both ends are the same build of the same binary, so the messages carry no version.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::HsmError;
use crate::incoming::{WireIncoming, WireIncomingOutcome};
use crate::key::{KeyRef, KeyRole, OaepHash, RegisteredKey};
use crate::ota::{WireOta, WireOtaOutcome};
use crate::report::StartReport;
use crate::rsp::{WireRspBind, WireRspSign};
use crate::scp11::{WireScp11, WireScp11Outcome};
use crate::session::CardSession;
use crate::source::StoredBlob;
use crate::tls_psk::WireTlsSecret;
use crate::wire_keysets::{WireKeysets, WireKind};
use crate::wire_signature::{WireDigest, WireSignature};

/// The longest frame either side accepts. The largest real one is an order chunk's answer as key blocks, below 1 MiB.
const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which token, and how to open it. The PIN stays a path: only the process that logs in reads it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TokenAccess {
    pub(crate) module: PathBuf,
    pub(crate) token_label: String,
    pub(crate) token_serial: Option<String>,
    pub(crate) pin_file: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// First and once.
    Start {
        access: TokenAccess,
        threads: usize,
        injected_delay_us: u64,
        session_objects_max: u64,
        inside_only: bool,
        keys: Vec<RegisteredKey>,
    },
    /// A batch.
    Work { frame: u64, jobs: Vec<TimedJob> },
    /// First and only: which tokens are there. Answered with `Result<Vec<TokenSeen>, HsmError>`.
    Inspect { module: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TimedJob {
    /// Microseconds until its deadline when the frame was sent.
    pub(crate) budget_us: u64,
    pub(crate) job: Job,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Job {
    Sign {
        key: KeyRef,
        digests: Vec<WireDigest>,
    },
    /// By an Ed25519 key.
    SignMessage {
        key: KeyRef,
        message: Vec<u8>,
    },
    SessionKeys(Box<WireSessionKeys>),
    OrderChunk(Box<WireOrderChunk>),
    KeyPairs {
        curve: u32,
        recipient_spki: Vec<u8>,
        count: u16,
    },
    PutKey(Box<WirePutKey>),
    CardProofs(Box<WireCardProofs>),
    Export(Box<WireExport>),
    CheckValues(Box<WireKeysets>),
    ServiceSecret {
        key: KeyRef,
        context: String,
    },
    RspSign(Box<WireRspSign>),
    RspBind(Box<WireRspBind>),
    Ota(Box<WireOta>),
    Incoming(Box<WireIncoming>),
    TlsSecret(Box<WireTlsSecret>),
    Scp11(Box<WireScp11>),
    AddKey(RegisteredKey),
    Canary,
}

impl Job {
    /// The token keys that the job uses.
    pub(crate) fn token_keys(&self) -> Vec<&KeyRef> {
        match self {
            Self::Sign { key, .. } | Self::SignMessage { key, .. } | Self::ServiceSecret { key, .. } => {
                vec![key]
            }
            Self::SessionKeys(job) => {
                let wrapping = match &job.delivery {
                    WireDelivery::Wrapped(key) => Some(key),
                    WireDelivery::Sealed(_) | WireDelivery::InClear => None,
                };
                job.keysets.keys.iter().chain(wrapping).collect()
            }
            Self::OrderChunk(job) => job.keys.token_keys(),
            Self::PutKey(job) => job.old.keys.iter().chain(&job.new.keys).collect(),
            Self::CardProofs(job) => job.keysets.keys.iter().collect(),
            Self::RspSign(job) => vec![&job.key],
            Self::RspBind(job) => vec![&job.key],
            Self::Ota(job) => job.keysets.keys.iter().collect(),
            Self::Incoming(job) => job.keys.iter().collect(),
            Self::TlsSecret(job) => job.keysets.keys.iter().collect(),
            Self::Scp11(job) => job.keys.iter().collect(),
            Self::CheckValues(keysets) => keysets.keys.iter().collect(),
            Self::Export(job) => job.keysets.keys.iter().chain(&job.party_key).collect(),
            // Both search for themselves, or are the answer.
            Self::AddKey(_) | Self::Canary => Vec::new(),
            // Uses no key of the token.
            Self::KeyPairs { .. } => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireSessionKeys {
    /// One.
    pub(crate) keysets: WireKeysets,
    pub(crate) session: CardSession,
    pub(crate) principal: [u8; 32],
    pub(crate) request_id: Vec<u8>,
    pub(crate) delivery: WireDelivery,
}

/// How session keys leave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireDelivery {
    /// HPKE to an uncompressed P-256 point.
    Sealed(Vec<u8>),
    /// AES-KWP under a key of the token.
    Wrapped(KeyRef),
    InClear,
}

/// Session keys that are released.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireReleased {
    pub(crate) keys: WireDelivered,
    pub(crate) host_cryptogram: Vec<u8>,
    /// Of a prepared session: what the card will answer.
    pub(crate) card_challenge: Vec<u8>,
    pub(crate) card_cryptogram: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireDelivered {
    Sealed { encapsulated_key: Vec<u8>, ciphertext: Vec<u8> },
    Wrapped([Vec<u8>; 3]),
    InClear(WireKeys),
}

/// Session keys for the caller's TLS channel, where grant and configuration say so. Frames are zeroized after use.
#[derive(Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub(crate) struct WireKeys(pub(crate) Vec<u8>);

impl std::fmt::Debug for WireKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireKeys(..)")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireExport {
    /// One.
    pub(crate) keysets: WireKeysets,
    /// The party's AES key, or none and:
    pub(crate) party_key: Option<KeyRef>,
    /// SubjectPublicKeyInfo of its RSA key.
    pub(crate) party_spki: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireCardProofs {
    pub(crate) keysets: WireKeysets,
    /// One per keyset.
    pub(crate) proofs: Vec<WireProof>,
}

/// What a card showed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct WireProof {
    pub(crate) host_challenge: [u8; 8],
    pub(crate) card_challenge: [u8; 8],
    pub(crate) card_cryptogram: [u8; 8],
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireOrderChunk {
    pub(crate) kind: WireKind,
    pub(crate) keys: WireOrderKeys,
    pub(crate) recipient_spki: Vec<u8>,
    pub(crate) eids: Vec<[u8; 16]>,
    /// Of [`domain::OrderFormat`].
    pub(crate) format: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireOrderKeys {
    Derived { master: KeyRef },
    Random { kek: KeyRef, blob_mac: KeyRef },
}

impl WireOrderKeys {
    /// A master, or a key-encryption key and the key that binds blobs.
    pub(crate) fn token_keys(&self) -> Vec<&KeyRef> {
        match self {
            Self::Derived { master } => vec![master],
            Self::Random { kek, blob_mac } => vec![kek, blob_mac],
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WirePutKey {
    pub(crate) old: WireKeysets,
    /// As many, of the same devices.
    pub(crate) new: WireKeysets,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    Started(Box<StartReport>),
    Refused(HsmError),
    Done { frame: u64, results: Vec<Result<JobOutput, HsmError>>, usage: Usage, retire: Option<Retire> },
}

/// Why a worker wants to be replaced.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Retire {
    /// Its memory has grown (SoftHSM keeps 240 bytes per session object): replace first, then drain.
    Recycle,
    /// It cannot serve any more: kill and replace.
    Poisoned(HsmError),
}

/// What a frame cost inside the token.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) pkcs11_calls: u64,
    pub(crate) busy_us: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum JobOutput {
    Signatures(Vec<WireSignature>),
    /// Ed25519, 64 bytes.
    MessageSignature(Vec<u8>),
    SessionKeys(Box<WireReleased>),
    CardCryptogramMismatch,
    CardChallengeMismatch,
    OrderChunk {
        wrapped_transport_key: Vec<u8>,
        oaep_hash: OaepHash,
        devices: Vec<WireDeviceKeys>,
    },
    KeyPairs {
        wrapped_transport_key: Vec<u8>,
        oaep_hash: OaepHash,
        pairs: Vec<WireKeyPair>,
    },
    PutKey(Vec<Vec<WireKey>>),
    CardProofs(Vec<bool>),
    Exported {
        wrapped_transport_key: Vec<u8>,
        oaep_hash: Option<OaepHash>,
        keys: Vec<WireKey>,
    },
    CheckValues(Vec<Vec<[u8; 3]>>),
    Secret(WireSecret),
    Ota(Vec<WireOtaOutcome>),
    Incoming(Vec<WireIncomingOutcome>),
    /// Encapsulated key and ciphertext; none: the client has not proved itself.
    TlsSecret(Option<(Vec<u8>, Vec<u8>)>),
    Scp11(WireScp11Outcome),
    RspBound {
        server_key: Vec<u8>,
        signature: Vec<u8>,
        encapsulated_key: Vec<u8>,
        ciphertext: Vec<u8>,
    },
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireDeviceKeys {
    pub(crate) keys: Vec<WireKey>,
    /// Of random keys: how they are stored.
    pub(crate) blobs: Vec<StoredBlob>,
}

/// One key on its way out, wrapped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireKey {
    pub(crate) wrapped: Vec<u8>,
    pub(crate) kcv: [u8; 3],
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireKeyPair {
    pub(crate) spki: Vec<u8>,
    pub(crate) wrapped: Vec<u8>,
}

/// A service secret, made for the daemon: with [`WireKeys`] the only secrets that cross the socket. Frames are zeroized after use.
#[derive(Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub(crate) struct WireSecret(pub(crate) [u8; 32]);

impl std::fmt::Debug for WireSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WireSecret(..)")
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToCeremony {
    /// Makes a token in a free slot.
    InitToken {
        module: PathBuf,
        label: String,
        pin_file: PathBuf,
        so_pin_file: PathBuf,
    },
    /// Opens a token and logs in.
    Open(TokenAccess),
    CreateKey {
        role: KeyRole,
        name: String,
        epoch: u32,
    },
    /// Makes a key as the sum of random components, each sealed to the custodians who hold it.
    CreateFromComponents {
        role: KeyRole,
        name: String,
        epoch: u32,
        custodians: Vec<WireCustodian>,
        needed: usize,
    },
    ImportComponents {
        role: KeyRole,
        name: String,
        epoch: u32,
        components: Vec<WireComponent>,
        expected: [u8; 3],
        refuse_known: bool,
    },
    ImportWrapped {
        role: KeyRole,
        name: String,
        epoch: u32,
        under: KeyRef,
        wrapped: Vec<u8>,
        expected: [u8; 3],
        refuse_known: bool,
    },
    /// Takes a key into use that other software made.
    AdoptKey {
        role: KeyRole,
        name: String,
        epoch: u32,
        label: String,
        id: Option<Vec<u8>>,
        public_key: Vec<u8>,
    },
    /// Initialises the open token again: everything on it is gone.
    Wipe {
        label: String,
        so_pin_file: PathBuf,
    },
    List,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireCustodian {
    pub(crate) name: String,
    /// An uncompressed P-256 point.
    pub(crate) public_key: Vec<u8>,
}

/// A key component on its way to the ceremony process. Frames are zeroized after use.
#[derive(Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub(crate) struct WireComponent {
    pub(crate) custodian: String,
    pub(crate) value: Vec<u8>,
    pub(crate) check_value: [u8; 3],
}

impl std::fmt::Debug for WireComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireComponent({}, ..)", self.custodian)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromCeremony {
    TokenMade { serial: String },
    Opened { serial: String },
    Created(Box<crate::ceremony::CreatedKey>),
    CreatedFromComponents(Box<crate::ceremony::CreatedKey>, Vec<crate::ceremony::SealedComponent>),
    Wiped,
    Objects(Vec<crate::ceremony::TokenObject>),
    Failed(HsmError),
}

/// Writes one frame with a single `write`.
pub(crate) fn write_frame<T: Serialize>(mut writer: impl Write, message: &T) -> io::Result<()> {
    // Measured first, so that the buffer never grows and leaves copies behind.
    let len = postcard::experimental::serialized_size(message).map_err(io::Error::other)?;
    let prefix = u32::try_from(len).ok().filter(|_| len <= FRAME_BYTES_MAX);
    let prefix = prefix.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "frame too long"))?;
    let mut frame = Zeroizing::new(vec![0; 4 + len]);
    frame[..4].copy_from_slice(&prefix.to_be_bytes());
    postcard::to_slice(message, &mut frame[4..]).map_err(io::Error::other)?;
    writer.write_all(&frame)
}

/// Reads one frame; `None` at a clean end.
pub(crate) fn read_frame<T: DeserializeOwned>(mut reader: impl Read) -> io::Result<Option<T>> {
    let mut prefix = [0; 4];
    match reader.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let len = u32::from_be_bytes(prefix) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut frame = Zeroizing::new(vec![0; len]);
    reader.read_exact(&mut frame)?;
    postcard::from_bytes(&frame).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_out_as_it_went_in_and_a_cut_one_is_an_error() {
        let message = ToWorker::Work {
            frame: 7,
            jobs: vec![TimedJob {
                budget_us: 5,
                job: Job::ServiceSecret { key: sample_key(), context: "log".into() },
            }],
        };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &message).unwrap();
        assert_eq!(bytes.len() - 4, u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize);
        let read: ToWorker = read_frame(&bytes[..]).unwrap().unwrap();
        assert_eq!(format!("{read:?}"), format!("{message:?}"));
        assert!(read_frame::<ToWorker>(&bytes[..bytes.len() - 1]).is_err());
        assert!(read_frame::<ToWorker>(&[][..]).unwrap().is_none());
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_read() {
        assert!(read_frame::<ToWorker>(&u32::MAX.to_be_bytes()[..]).is_err());
        let huge = Job::SignMessage { key: sample_key(), message: vec![0; FRAME_BYTES_MAX] };
        assert!(write_frame(Vec::new(), &huge).is_err());
    }

    fn sample_key() -> KeyRef {
        KeyRef { label: "chancery/log-mac/test/1".into(), id: [3; 16] }
    }
}
