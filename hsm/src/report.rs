//! What a token showed when it was opened.

use serde::{Deserialize, Serialize};

use crate::key::{KeyRef, OaepHash};

/// The outcome of a start: who the token is, what it was seen to do, and what does not stay inside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartReport {
    /// CK_TOKEN_INFO label.
    pub token_label: String,
    /// CK_TOKEN_INFO serialNumber; with the label it names the token.
    pub token_serial: String,
    /// CK_TOKEN_INFO manufacturerID.
    pub manufacturer: String,
    /// CK_TOKEN_INFO model; names SoftHSM, which production mode refuses.
    pub model: String,
    /// CK_TOKEN_INFO firmwareVersion, major.minor.
    pub firmware: String,
    /// What the token was seen to do, by known answers on throw-away session keys.
    pub probes: Vec<Probe>,
    /// The AES-KWP mechanism number that gave the RFC 5649 answer, preferring the standard's 0x210B.
    pub kwp_mechanism: Option<u64>,
    /// The OAEP hash under which the token wraps, preferring SHA-256.
    pub oaep_hash: Option<OaepHash>,
    /// What leaves the token in clear, one sentence each: the boundary as it really is.
    pub leaves_the_token: Vec<String>,
    /// Keys found with exactly their template and their recorded value.
    pub verified_keys: Vec<KeyRef>,
    /// Private and secret objects on the token that are not registered, as `label#id`.
    pub unknown_objects: Vec<String>,
}

/// One start-up probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The mechanism or rule.
    pub name: String,
    /// Whether it gave the known answer, or the rule was enforced.
    pub passed: bool,
    /// The return code or difference, when it did not.
    pub detail: String,
}
