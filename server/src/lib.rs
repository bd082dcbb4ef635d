//! The daemon `chanceryd`: founding ceremony, listeners, mTLS, callers, authorisation, approvals, composition.
//!
//! Reading order: [`command`] (what can be run), `config`, `init` (the founding), `serve` (the composition), then the way of
//! one call: `tls`, `layer`, `authorize`, `gate`, `services`.

pub mod command;
pub mod decoders;

mod accreditation;
mod adoption;
mod anchors;
mod approval;
mod authority;
mod authorize;
mod bulk_revocation;
mod ceremony;
mod certification;
mod checkpoint;
mod clock;
mod config;
mod custody;
mod deeds;
mod doctor;
mod execution;
mod foundation;
mod gate;
mod http;
mod http_ocsp;
mod init;
mod keyset_deeds;
mod layer;
mod operations;
mod orders;
mod records;
mod renewal;
mod rsp;
mod serve;
mod server_identity;
mod services;
mod standing;
mod status;
mod tiles;
mod tls;
mod token_rate;
mod tokens;
mod transcript;
mod upkeep;
