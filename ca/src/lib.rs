//! Authorities and issuance: the operations.
