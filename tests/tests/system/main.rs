//! The whole system, called over mTLS as its parties call it, and stopped and killed as machines do.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod caller;
mod devices;
mod fleet;
mod fleets;
mod openssl_ca;
mod support;

mod adoption;
mod any_message;
mod approvals;
mod bad_input;
mod carried;
mod ceremony;
mod cross;
mod delivery;
mod demo;
mod deny_list;
mod doctor;
mod fast;
mod faults;
mod freeze;
mod hierarchies;
mod idempotency;
mod imports;
mod keysets;
mod masters;
mod order_files;
mod orders;
mod ota;
mod p384;
mod psk;
mod psk_platform;
mod python;
mod random;
mod refusals;
mod renewal;
mod revocation;
mod rotation;
mod rsp;
mod scp11;
mod secrets;
mod session_modes;
mod session_streams;
mod spy;
mod strangers;
mod wire;
