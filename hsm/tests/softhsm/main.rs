//! The HSM layer on real SoftHSM tokens, each in a directory of its own.

mod ceremony;
mod faults;
mod model;
mod queue;
mod sessions;
mod start;
mod support;
mod trace;
