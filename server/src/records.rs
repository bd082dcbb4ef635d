//! The keyspaces of the server itself, and the list of all. Codes are for ever.

use store::{Home, Keyspace};

/// The authority: "authority" -> `records::Authority`; "policy" -> `records::Policy`.
pub(crate) const AUTHORITY: Keyspace = Keyspace { code: 1, name: "authority", home: Home::Memory };
/// Persons: name -> `records::Person`.
pub(crate) const PERSONS: Keyspace = Keyspace { code: 2, name: "persons", home: Home::Memory };
/// Parties: name -> `records::Party`.
pub(crate) const PARTIES: Keyspace = Keyspace { code: 3, name: "parties", home: Home::Memory };
/// Credentials: principal (32 bytes) -> "person:" or "party:" and the name.
pub(crate) const CREDENTIALS: Keyspace = Keyspace { code: 4, name: "credentials", home: Home::Memory };
/// Operations: digest -> `records::Operation`.
pub(crate) const OPERATIONS: Keyspace = Keyspace { code: 96, name: "operations", home: Home::View };
/// Answers kept for repeats: principal, key -> `records::Idempotency`.
pub(crate) const IDEMPOTENCY: Keyspace = Keyspace { code: 97, name: "idempotency", home: Home::View };

const OWN: [Keyspace; 6] = [AUTHORITY, PERSONS, PARTIES, CREDENTIALS, OPERATIONS, IDEMPOTENCY];

/// Every keyspace of the service.
pub(crate) fn all() -> Vec<Keyspace> {
    OWN.into_iter().chain(kms::KEYSPACES).chain(ca::KEYSPACES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_keyspace_code_is_used_twice() {
        let mut codes: Vec<u8> = all().iter().map(|keyspace| keyspace.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all().len());
    }
}
