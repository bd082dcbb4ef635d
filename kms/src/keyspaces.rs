//! The keyspaces of this crate. Codes are for ever.

use store::{Home, Keyspace};

/// Grants: provisioner 00 name -> `records::Grant`.
pub(crate) const GRANTS: Keyspace = Keyspace { code: 16, name: "grants", home: Home::Memory };
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

/// Every keyspace of this crate.
pub const KEYSPACES: [Keyspace; 6] = [GRANTS, DEVICES, KEYSETS, ORDERS, ORDER_LINES, DEVICES_ORDERED];
