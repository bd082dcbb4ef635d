//! The HSM layer on real SoftHSM tokens, each in a directory of its own.
#![expect(clippy::unwrap_used, reason = "clippy does not see that this whole binary is tests")]

mod ceremony;
mod faults;
mod forms;
mod imports;
mod model;
mod ota;
mod p384;
mod put_key;
mod queue;
mod rsp;
mod sessions;
mod start;
mod stored;
mod support;
mod trace;
