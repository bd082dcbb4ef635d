//! The keyspaces of this crate. Codes are for ever.

use store::{Home, Keyspace};

/// Keys of the tokens: label -> `records::KeyRecord`.
pub(crate) const KEYS: Keyspace = Keyspace { code: 24, name: "keys", home: Home::Memory };
/// Issuers: name -> `records::Issuer`.
pub(crate) const ISSUERS: Keyspace = Keyspace { code: 25, name: "issuers", home: Home::Memory };
/// Certificates: serial number -> `records::Certificate`.
pub(crate) const CERTIFICATES: Keyspace = Keyspace { code: 80, name: "certificates", home: Home::View };
/// Certified keys: SHA-256 of the SubjectPublicKeyInfo -> serial number.
pub(crate) const CERTIFIED_KEYS: Keyspace = Keyspace { code: 81, name: "certified_keys", home: Home::View };
/// Certificates whose intent has no outcome yet: serial number -> `records::Certificate`.
pub(crate) const RESERVATIONS: Keyspace = Keyspace { code: 82, name: "reservations", home: Home::View };
/// eUICC certificates: EID (32 digits) -> serial number.
pub(crate) const DEVICE_CERTIFICATES: Keyspace =
    Keyspace { code: 83, name: "device_certificates", home: Home::View };

/// Revoked certificates: issuer's name, a zero byte, serial number -> `records::Revocation`. Only the release of
/// a hold takes one out.
pub(crate) const REVOCATIONS: Keyspace = Keyspace { code: 84, name: "revocations", home: Home::Memory };
/// The newest revocation lists: issuer's name, and for others than full lists a tilde and the kind -> `records::CrlRecord`.
pub(crate) const CRLS: Keyspace = Keyspace { code: 85, name: "crls", home: Home::View };
/// The DER of the newest revocation lists: key of the list, a zero byte, number of the list (8 bytes, big endian), number of the row
/// (2 bytes) -> at most 60 KiB.
pub(crate) const CRL_PARTS: Keyspace = Keyspace { code: 122, name: "crl_parts", home: Home::View };
/// Numbers of revocation lists: key of the full list or shard -> `records::CrlNumber`.
pub(crate) const CRL_NUMBERS: Keyspace = Keyspace { code: 86, name: "crl_numbers", home: Home::View };
/// The newest certificate of an issuer's OCSP responder: issuer's name -> serial number.
pub(crate) const RESPONDERS: Keyspace = Keyspace { code: 87, name: "responders", home: Home::View };

/// Certificates of persons, parties and the service: holder's name, a zero byte, serial number -> nothing. Devices have
/// [`DEVICE_CERTIFICATES`].
pub(crate) const HOLDER_CERTIFICATES: Keyspace =
    Keyspace { code: 128, name: "holder_certificates", home: Home::View };

/// Certificate issuers elsewhere that are trusted: name -> `records::Anchor`.
pub(crate) const ANCHORS: Keyspace = Keyspace { code: 145, name: "anchors", home: Home::Memory };
/// The newest revocation lists of anchors: name -> `records::AnchorList`.
pub(crate) const ANCHOR_LISTS: Keyspace = Keyspace { code: 146, name: "anchor_lists", home: Home::Memory };
/// What those lists revoke: anchor's name, a zero byte, serial number -> `records::Revocation`.
pub(crate) const ANCHOR_REVOCATIONS: Keyspace =
    Keyspace { code: 147, name: "anchor_revocations", home: Home::Memory };
/// Certificates that hierarchies elsewhere issued for keys of ours: SHA-256 of the SubjectPublicKeyInfo, SHA-256 of the
/// certificate -> `records::ImportedCertificate`.
pub(crate) const IMPORTED_CERTIFICATES: Keyspace =
    Keyspace { code: 148, name: "imported_certificates", home: Home::View };

/// Every keyspace of this crate.
pub const KEYSPACES: [Keyspace; 16] = [
    KEYS,
    ISSUERS,
    CERTIFICATES,
    CERTIFIED_KEYS,
    RESERVATIONS,
    DEVICE_CERTIFICATES,
    REVOCATIONS,
    CRLS,
    CRL_PARTS,
    CRL_NUMBERS,
    RESPONDERS,
    HOLDER_CERTIFICATES,
    ANCHORS,
    ANCHOR_LISTS,
    ANCHOR_REVOCATIONS,
    IMPORTED_CERTIFICATES,
];
