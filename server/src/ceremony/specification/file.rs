//! The specification as written: TOML, unknown fields refused.

use std::path::PathBuf;

use serde::Deserialize;
use toml::value::Datetime;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) format: String,
    pub(super) title: String,
    pub(super) authority: String,
    #[serde(rename = "participant", default)]
    pub(super) participants: Vec<Participant>,
    #[serde(rename = "earlier-issuer", default)]
    pub(super) earlier_issuers: Vec<EarlierIssuer>,
    #[serde(rename = "key", default)]
    pub(super) keys: Vec<Key>,
    #[serde(rename = "certificate", default)]
    pub(super) certificates: Vec<Certificate>,
    #[serde(rename = "request", default)]
    pub(super) requests: Vec<Request>,
    #[serde(rename = "list", default)]
    pub(super) lists: Vec<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Participant {
    pub(super) name: String,
    pub(super) duty: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlierIssuer {
    pub(super) name: String,
    pub(super) key_file: PathBuf,
    pub(super) certificate: NamedFile,
}

/// A file of which the reviewers saw these bytes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedFile {
    pub(super) file: PathBuf,
    pub(super) sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) role: String,
    #[serde(default = "first")]
    pub(super) epoch: u32,
    pub(super) party: Option<String>,
}

const fn first() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificate {
    pub(super) name: String,
    pub(super) profile: String,
    pub(super) profile_rules: Option<String>,
    pub(super) key: Option<String>,
    pub(super) csr: Option<NamedFile>,
    pub(super) issuer: Option<String>,
    pub(super) subject: Subject,
    pub(super) registered_id: Option<String>,
    pub(super) dns_name: Option<String>,
    #[serde(default)]
    pub(super) permitted_eins: Vec<String>,
    pub(super) not_before: Option<Datetime>,
    pub(super) not_after: Option<Datetime>,
    pub(super) validity_days: Option<u32>,
    pub(super) serial: Option<String>,
    #[serde(default)]
    pub(super) crl_urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subject {
    pub(super) country: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) organizational_unit: Option<String>,
    pub(super) common_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) name: String,
    pub(super) profile: String,
    pub(super) profile_rules: Option<String>,
    pub(super) key: String,
    pub(super) subject: Subject,
    pub(super) registered_id: Option<String>,
    #[serde(default)]
    pub(super) permitted_eins: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) name: String,
    pub(super) issuer: String,
    pub(super) number: u64,
    pub(super) this_update: Option<Datetime>,
    pub(super) next_update: Option<Datetime>,
    pub(super) validity_days: Option<u32>,
    pub(super) previous: Option<NamedFile>,
    #[serde(default)]
    pub(super) revoked: Vec<Revoked>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoked {
    pub(super) serial: String,
    pub(super) date: Datetime,
    pub(super) reason: String,
    pub(super) invalidity_date: Option<Datetime>,
}
