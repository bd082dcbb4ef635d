//! Every decoder of bytes that come from outside, each with what must hold whatever the bytes are.
//!
//! A target takes any bytes and panics when a rule is broken: a decoder never panics, never asks for memory out of
//! proportion (runs are limited, tests/replay.rs), and where a format has one form for each content, what was read is
//! written again as it was. `cargo xtask fuzz` runs a target under AFL++ (runner/, a package of its own, so that no
//! fuzzer is part of the workspace); the normal tests replay the corpus that it left.

mod card;
mod ceremony;
mod certificates;
mod contract;
mod export;
mod files;
mod log;
mod packets;
mod remote_provisioning;
mod texts;
mod worker;

/// Longest input that a target looks at: beyond it decoders refuse by length, which tests of their own show.
pub const INPUT_BYTES_MAX: usize = 128 * 1024;

/// One decoder, or several that read the same kind of thing.
pub struct Target {
    /// Its name: the argument of the runner and the folder of its corpus.
    pub name: &'static str,
    /// What bytes it reads, and from whom they come.
    pub line: &'static str,
    run: fn(&[u8]),
}

impl Target {
    /// Decodes the bytes.
    ///
    /// # Panics
    /// When the decoder breaks one of its rules.
    pub fn run(&self, bytes: &[u8]) {
        if bytes.len() <= INPUT_BYTES_MAX {
            (self.run)(bytes);
        }
    }

    /// The target of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "texts", line: "EIDs, times, serial numbers, names: callers and files", run: texts::run },
    Target {
        name: "certificate",
        line: "X.509 certificates and keys: eUICCs, parties, foreign issuers",
        run: certificates::certificate,
    },
    Target {
        name: "request",
        line: "PKCS#10 requests, DER and PEM: parties and chips",
        run: certificates::request,
    },
    Target { name: "crl", line: "revocation lists: files given to the tool", run: certificates::crl },
    Target { name: "ocsp", line: "OCSP requests from anybody, answers to the tool", run: certificates::ocsp },
    Target {
        name: "private-key",
        line: "private keys of parties and custodians, PEM and PKCS#8",
        run: certificates::private_key,
    },
    Target {
        name: "rsp",
        line: "objects of SGP.22 and SGP.32: eUICCs, through an SM-DP+ or eIM",
        run: remote_provisioning::run,
    },
    Target {
        name: "card",
        line: "answers of cards: INITIALIZE UPDATE, PUT KEY, GET DATA 00E0",
        run: card::run,
    },
    Target {
        name: "packets",
        line: "command APDUs of callers; answers of cards to SCP80 packets and over SCP03 channels",
        run: packets::run,
    },
    Target {
        name: "key-formats",
        line: "TR-31 blocks, pySim cells, opened envelopes: keys from elsewhere",
        run: card::key_formats,
    },
    Target {
        name: "log-entry",
        line: "entries, checkpoints, manifests, statements, witness requests of an export",
        run: log::documents,
    },
    Target { name: "export", line: "a whole export, as the offline verifier gets it", run: export::run },
    Target {
        name: "log-segment",
        line: "segments and batches of the log, under right HMACs",
        run: log::segment,
    },
    Target { name: "worker-frame", line: "frames between the daemon and a token's worker", run: worker::run },
    Target {
        name: "contract",
        line: "operations and requests in protobuf: callers, after TLS",
        run: contract::run,
    },
    Target {
        name: "cli-files",
        line: "files given to the tool: devices, orders, outputs, receipts",
        run: files::run,
    },
    Target {
        name: "ceremony-specification",
        line: "what a ceremony is to do: a file that persons wrote",
        run: ceremony::run,
    },
];
