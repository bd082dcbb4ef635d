//! The crate as its users see it, against published certificates and requests and against OpenSSL.

#![expect(clippy::unwrap_used, reason = "what tests build from is known to be good")]

mod authority;
mod chain;
mod crl;
mod crl_scope;
mod csr;
mod der;
mod issuance;
mod keys;
mod lint;
mod ocsp;
mod openssl;
mod p384;
mod revocation;
mod sgp26;
mod version_3;
