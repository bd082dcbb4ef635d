//! The keyspaces of this crate. Codes are for ever.

use store::{Home, Keyspace};

/// Grants: provisioner 00 name -> `records::Grant`.
pub(crate) const GRANTS: Keyspace = Keyspace { code: 16, name: "grants", home: Home::Memory };
/// Frozen devices: EID (16 bytes) -> `records::Freeze`. In memory, from the verified log: whoever edits the view cannot
/// un-freeze a device.
pub(crate) const FROZEN: Keyspace = Keyspace { code: 17, name: "frozen", home: Home::Memory };
/// Devices whose freeze was lifted, for the differences of the deny list: EID (16 bytes) -> `records::Thaw`.
pub(crate) const THAWED: Keyspace = Keyspace { code: 32, name: "thawed", home: Home::Memory };
/// Masters after the founding one: generation (4 bytes, big endian) -> `records::Master`.
pub(crate) const MASTERS: Keyspace = Keyspace { code: 23, name: "masters", home: Home::Memory };
/// Transport keys of parties: party 00 name 00 number (4 bytes, big endian) -> `records::TransportKey`.
pub(crate) const TRANSPORT_KEYS: Keyspace = Keyspace { code: 27, name: "transport_keys", home: Home::Memory };
/// Devices: EID (16 bytes) -> `records::Device`.
pub(crate) const DEVICES: Keyspace = Keyspace { code: 64, name: "devices", home: Home::View };
/// Keysets: EID, security domain, protocol, KVN -> `records::Keyset`.
pub(crate) const KEYSETS: Keyspace = Keyspace { code: 65, name: "keysets", home: Home::View };
/// Orders: party 00 order -> `records::Order`.
pub(crate) const ORDERS: Keyspace = Keyspace { code: 66, name: "orders", home: Home::View };
/// Accepted lines: party 00 order 00 line (8 bytes, big endian) -> `records::OrderLine`.
pub(crate) const ORDER_LINES: Keyspace = Keyspace { code: 67, name: "order_lines", home: Home::View };
/// Devices ordered so far: party -> `records::Counter`.
pub(crate) const DEVICES_ORDERED: Keyspace = Keyspace { code: 68, name: "devices_ordered", home: Home::View };

/// Rotations: name -> `records::Rotation`.
pub(crate) const ROTATIONS: Keyspace = Keyspace { code: 69, name: "rotations", home: Home::View };
/// Devices of rotations: rotation 00 EID -> `records::RotationItem`.
pub(crate) const ROTATION_ITEMS: Keyspace = Keyspace { code: 70, name: "rotation_items", home: Home::View };
/// Devices that wait for a script: rotation 00 rank (2 bytes) EID -> empty.
pub(crate) const ROTATION_QUEUE: Keyspace = Keyspace { code: 71, name: "rotation_queue", home: Home::View };
/// Leases: rotation 00 end (8 bytes, microseconds) lease (16 bytes) -> `records::RotationLease`, and rotation 01 lease ->
/// its end.
pub(crate) const ROTATION_LEASES: Keyspace = Keyspace { code: 72, name: "rotation_leases", home: Home::View };
/// Keysets with an end: end (8 bytes, microseconds), then the key of the keyset -> empty.
pub(crate) const KEYSET_ENDS: Keyspace = Keyspace { code: 73, name: "keyset_ends", home: Home::View };
/// Rotations of a device: EID rotation -> empty.
pub(crate) const DEVICE_ROTATIONS: Keyspace =
    Keyspace { code: 74, name: "device_rotations", home: Home::View };
/// Challenge pairs that were accepted: week (2 bytes), digest of keyset and challenges (16 bytes) -> empty.
pub(crate) const CHALLENGE_PAIRS: Keyspace =
    Keyspace { code: 108, name: "challenge_pairs", home: Home::View };
/// Sequence counters that were used: EID, security domain, protocol, KVN -> `records::SequenceCounter`.
pub(crate) const SEQUENCES: Keyspace = Keyspace { code: 109, name: "sequences", home: Home::View };

/// Keys of SM-DP+: party 00 name -> `records::RspKey`.
pub(crate) const RSP_KEYS: Keyspace = Keyspace { code: 20, name: "rsp_keys", home: Home::Memory };
/// RSP transactions: identifier (16 bytes) -> `records::RspTransaction`.
pub(crate) const RSP_TRANSACTIONS: Keyspace =
    Keyspace { code: 90, name: "rsp_transactions", home: Home::View };
/// Ends of RSP transactions: end (8 bytes, microseconds), identifier -> name of the provisioner.
pub(crate) const RSP_EXPIRIES: Keyspace = Keyspace { code: 91, name: "rsp_expiries", home: Home::View };
/// Wrong confirmation codes: SHA-256 of the profile and its code -> `records::RspCodeTries`.
pub(crate) const RSP_CODE_TRIES: Keyspace = Keyspace { code: 92, name: "rsp_code_tries", home: Home::View };
/// When wrong codes are forgotten: end (8 bytes, microseconds), then the key of their count -> empty.
pub(crate) const RSP_CODE_ENDS: Keyspace = Keyspace { code: 93, name: "rsp_code_ends", home: Home::View };

/// Keys of platforms for sessions of SCP11: party 00 name -> `records::OceKey`.
pub(crate) const OCE_KEYS: Keyspace = Keyspace { code: 31, name: "oce_keys", home: Home::Memory };
/// Keys PK.SD.ECKA of cards: EID, security domain, KVN -> `records::CardKey`.
pub(crate) const CARD_KEYS: Keyspace = Keyspace { code: 115, name: "card_keys", home: Home::View };

/// Counter values of eIMs: party 00 eimId 00 EID -> `records::Counter`.
pub(crate) const EIM_COUNTERS: Keyspace = Keyspace { code: 94, name: "eim_counters", home: Home::View };
/// Static keys for parties: party 00 digest of the operation -> `records::KeysetExport`.
pub(crate) const KEYSET_EXPORTS: Keyspace = Keyspace { code: 99, name: "keyset_exports", home: Home::View };

/// Keys that are known to others: digest of the operation that said so -> `records::CompromiseMark`. In memory, from the
/// verified log: whoever edits the view cannot clear a key.
pub(crate) const COMPROMISE_MARKS: Keyspace =
    Keyspace { code: 22, name: "compromise_marks", home: Home::Memory };
/// Marks whose keysets are being written down: digest of the operation -> `records::TaintWalk`.
pub(crate) const TAINT_WALKS: Keyspace = Keyspace { code: 95, name: "taint_walks", home: Home::View };

/// Keys under which random keys are stored: epoch (4 bytes) -> `records::StorageKeys`.
pub(crate) const STORAGE_KEYS: Keyspace = Keyspace { code: 26, name: "storage_keys", home: Home::Memory };

/// Counters of secured packets: EID, security domain, protocol, KVN -> `records::Counter`, the last one taken.
pub(crate) const OTA_COUNTERS: Keyspace = Keyspace { code: 105, name: "ota_counters", home: Home::View };
/// Packets of a minute: grant identifier (16 bytes), EID -> `records::OtaRate`.
pub(crate) const OTA_RATES: Keyspace = Keyspace { code: 106, name: "ota_rates", home: Home::View };
/// What requests have taken: day (4 bytes), digest of credential and idempotency key (16 bytes) -> `records::OtaReservation`.
pub(crate) const OTA_RESERVATIONS: Keyspace =
    Keyspace { code: 107, name: "ota_reservations", home: Home::View };

/// Every keyspace of this crate.
pub const KEYSPACES: [Keyspace; 33] = [
    GRANTS,
    FROZEN,
    THAWED,
    MASTERS,
    TRANSPORT_KEYS,
    DEVICES,
    KEYSETS,
    ORDERS,
    ORDER_LINES,
    DEVICES_ORDERED,
    ROTATIONS,
    ROTATION_ITEMS,
    ROTATION_QUEUE,
    ROTATION_LEASES,
    KEYSET_ENDS,
    DEVICE_ROTATIONS,
    RSP_KEYS,
    RSP_TRANSACTIONS,
    RSP_EXPIRIES,
    RSP_CODE_TRIES,
    RSP_CODE_ENDS,
    EIM_COUNTERS,
    OCE_KEYS,
    CARD_KEYS,
    CHALLENGE_PAIRS,
    SEQUENCES,
    KEYSET_EXPORTS,
    COMPROMISE_MARKS,
    TAINT_WALKS,
    STORAGE_KEYS,
    OTA_COUNTERS,
    OTA_RATES,
    OTA_RESERVATIONS,
];
