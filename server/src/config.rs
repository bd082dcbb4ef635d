//! Configuration: [`ConfigFile`] as written, with unknown fields refused, becomes [`Config`], already valid.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use pki::CertificateProfile;
use serde::Deserialize;

/// The names of the tokens, in the order in which they are opened.
pub(crate) const TOKENS: [&str; 3] = ["log", "ca", "kms"];
/// OCSP answers that are signed ahead, unless the configuration says otherwise.
const OCSP_ANSWERS_AHEAD: usize = 5_000;
/// Files of certificate profiles.
const CERTIFICATE_PROFILES_MAX: usize = 64;
/// The name of the token for keys of SM-DP+, which an authority may do without.
pub(crate) const RSP_TOKEN: &str = "rsp";

/// How strict the service is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// SoftHSM and published test keys are allowed; visible in the log and at every start.
    Development,
    /// Neither is.
    Production,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    mode: Mode,
    authority: String,
    node: String,
    data_directory: PathBuf,
    listen: SocketAddr,
    http_listen: SocketAddr,
    metrics_listen: SocketAddr,
    server_names: Vec<String>,
    server_addresses: Vec<IpAddr>,
    crl_base_url: String,
    certificate_policy: String,
    #[serde(default)]
    certificate_profiles: Vec<PathBuf>,
    segment_mib: Option<u64>,
    view_cache_mib: Option<u64>,
    #[serde(default)]
    session_keys_in_tls_channel: bool,
    ocsp_answers_ahead: Option<usize>,
    #[serde(default)]
    revocation_lists: RevocationLists,
    certificate_issuer: CertificateIssuer,
    pkcs11: Pkcs11,
    tokens: Tokens,
}

/// Which lists are made beside the full ones.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationLists {
    #[serde(default)]
    delta: bool,
    #[serde(default)]
    shards: u16,
    #[serde(default)]
    part_entries: u32,
}

/// What the CI root certificate says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificateIssuer {
    pub(crate) common_name: String,
    pub(crate) organizational_unit: String,
    pub(crate) organization: String,
    pub(crate) country: String,
    pub(crate) registered_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pkcs11 {
    module: PathBuf,
    #[serde(default)]
    environment: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    log: TokenSection,
    ca: TokenSection,
    kms: TokenSection,
    rsp: Option<TokenSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenSection {
    label: String,
    serial: Option<String>,
    pin_file: PathBuf,
    so_pin_file: PathBuf,
    workers: usize,
    #[serde(default = "one")]
    threads_per_worker: usize,
    #[serde(default = "queue_depth")]
    queue_depth_max: usize,
    #[serde(default)]
    injected_delay_us: u64,
    #[serde(default)]
    inside_only: bool,
}

const fn one() -> usize {
    1
}

const fn queue_depth() -> usize {
    4_096
}

/// The configuration, valid.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    pub(crate) authority: String,
    pub(crate) node: String,
    pub(crate) data_directory: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) http_listen: SocketAddr,
    pub(crate) metrics_listen: SocketAddr,
    pub(crate) server_names: Vec<String>,
    pub(crate) server_addresses: Vec<IpAddr>,
    pub(crate) crl_base_url: String,
    /// Certificate policy and practice statement in force.
    pub(crate) certificate_policy: audit::Name,
    /// The operator's own.
    certificate_profiles: Vec<&'static CertificateProfile>,
    pub(crate) segment_bytes: u64,
    /// Bytes of the view that are kept in memory.
    pub(crate) view_cache_bytes: u64,
    /// Whether session keys may be answered unsealed where a grant says so.
    pub(crate) session_keys_in_tls_channel: bool,
    pub(crate) revocation_lists: ca::ListPolicy,
    /// Certificates whose OCSP answers are signed before anybody asks.
    pub(crate) ocsp_answers_ahead: usize,
    pub(crate) certificate_issuer: CertificateIssuer,
    pub(crate) environment: Vec<(String, String)>,
    tokens: Vec<(hsm::TokenConfig, PathBuf)>,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is no valid configuration", path.display())]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("configuration field {field}: {problem}")]
    Field { field: &'static str, problem: String },
}

impl Config {
    /// Reads and checks a file. Relative paths in it start at its folder.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let file: ConfigFile = toml::from_str(&text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::check(file, &base)
    }

    /// Takes the operator's certificate profiles into use, for the life of the process.
    pub(crate) fn install_profiles(&self) {
        pki::profile::install(self.certificate_profiles.clone());
    }

    /// The names of the configured tokens, in the order in which they are opened.
    pub(crate) fn token_names(&self) -> impl Iterator<Item = &'static str> + use<> {
        let rsp = self.token(RSP_TOKEN).map(|_| RSP_TOKEN);
        TOKENS.into_iter().chain(rsp)
    }

    /// A token's client configuration by name.
    pub(crate) fn token(&self, name: &str) -> Option<&hsm::TokenConfig> {
        self.tokens.iter().map(|(token, _)| token).find(|token| token.name == name)
    }

    /// Where a token's security-officer PIN is read from, for its initialisation only.
    pub(crate) fn so_pin_file(&self, name: &str) -> Option<&Path> {
        self.tokens.iter().find(|(token, _)| token.name == name).map(|(_, path)| path.as_path())
    }

    pub(crate) fn known_keys(&self) -> pki::KnownKeys {
        match self.mode {
            Mode::Development => pki::KnownKeys::Allow,
            Mode::Production => pki::KnownKeys::Refuse,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.data_directory.join(name)
    }

    fn check(file: ConfigFile, base: &Path) -> Result<Self, ConfigError> {
        let wrong = |field, problem: String| ConfigError::Field { field, problem };
        for (field, name) in [("authority", &file.authority), ("node", &file.node)] {
            audit::Name::new(name).map_err(|e| wrong(field, e.to_string()))?;
        }
        if !file.metrics_listen.ip().is_loopback() {
            return Err(wrong("metrics_listen", "metrics are served on a loopback address only".into()));
        }
        let http = file.crl_base_url.starts_with("http://");
        if !http || file.crl_base_url.ends_with('/') {
            return Err(wrong("crl_base_url", "must start with http:// and not end with a slash".into()));
        }
        let certificate_policy = audit::Name::new(&file.certificate_policy)
            .map_err(|e| wrong("certificate_policy", e.to_string()))?;
        let certificate_profiles = read_profiles(&file.certificate_profiles, base)?;
        let segment_mib = file.segment_mib.unwrap_or(64);
        if !(1..=1024).contains(&segment_mib) {
            return Err(wrong("segment_mib", "must be 1 to 1024".into()));
        }
        let view_cache_mib = file.view_cache_mib.unwrap_or(64);
        if !(16..=65_536).contains(&view_cache_mib) {
            return Err(wrong("view_cache_mib", "must be 16 to 65536".into()));
        }
        let ocsp_answers_ahead = file.ocsp_answers_ahead.unwrap_or(OCSP_ANSWERS_AHEAD);
        if ocsp_answers_ahead > ca::OCSP_AHEAD_MAX {
            return Err(wrong("ocsp_answers_ahead", format!("must be 0 to {}", ca::OCSP_AHEAD_MAX)));
        }
        let RevocationLists { delta, shards, part_entries } = file.revocation_lists;
        if shards > ca::CRL_SHARDS_MAX {
            return Err(wrong("revocation_lists.shards", format!("must be 0 to {}", ca::CRL_SHARDS_MAX)));
        }
        if file.server_names.is_empty() && file.server_addresses.is_empty() {
            return Err(wrong("server_names", "the server needs a name or an address".into()));
        }
        let absolute = |path: &Path| base.join(path);
        let data_directory = absolute(&file.data_directory);
        let mut tokens = Vec::new();
        let mandatory = TOKENS.into_iter().zip([file.tokens.log, file.tokens.ca, file.tokens.kms]);
        let optional = file.tokens.rsp.map(|section| (RSP_TOKEN, section));
        for (name, section) in mandatory.chain(optional) {
            if !(1..=64).contains(&section.workers) || !(1..=64).contains(&section.threads_per_worker) {
                return Err(wrong("tokens", format!("token {name}: workers and threads are 1 to 64")));
            }
            let token = hsm::TokenConfig {
                name: name.to_owned(),
                module: absolute(&file.pkcs11.module),
                token_label: section.label,
                token_serial: section.serial,
                pin_file: absolute(&section.pin_file),
                environment: file.pkcs11.environment.clone(),
                lock_file: data_directory.join(format!("{name}.token-lock")),
                workers: section.workers,
                threads_per_worker: section.threads_per_worker,
                queue_depth_max: section.queue_depth_max,
                injected_delay_us: section.injected_delay_us,
                session_objects_max: hsm::SESSION_OBJECTS_MAX,
                inside_only: section.inside_only,
            };
            tokens.push((token, absolute(&section.so_pin_file)));
        }
        if file.mode == Mode::Production && tokens.iter().any(|(t, _)| t.injected_delay_us > 0) {
            return Err(wrong("tokens", "injected_delay_us is for development".into()));
        }
        Ok(Self {
            mode: file.mode,
            authority: file.authority,
            node: file.node,
            data_directory,
            listen: file.listen,
            http_listen: file.http_listen,
            metrics_listen: file.metrics_listen,
            server_names: file.server_names,
            server_addresses: file.server_addresses,
            crl_base_url: file.crl_base_url,
            certificate_policy,
            certificate_profiles,
            segment_bytes: segment_mib * 1024 * 1024,
            view_cache_bytes: view_cache_mib * 1024 * 1024,
            session_keys_in_tls_channel: file.session_keys_in_tls_channel,
            ocsp_answers_ahead,
            revocation_lists: ca::ListPolicy { delta, shards, part_entries },
            certificate_issuer: file.certificate_issuer,
            environment: file.pkcs11.environment,
            tokens,
        })
    }
}

fn read_profiles(paths: &[PathBuf], base: &Path) -> Result<Vec<&'static CertificateProfile>, ConfigError> {
    if paths.len() > CERTIFICATE_PROFILES_MAX {
        let problem = format!("names more than {CERTIFICATE_PROFILES_MAX} files");
        return Err(ConfigError::Field { field: "certificate_profiles", problem });
    }
    let mut texts = Vec::with_capacity(paths.len());
    for path in paths {
        let path = base.join(path);
        let text =
            fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        texts.push((path.display().to_string(), text));
    }
    pki::profile::read(texts.iter().map(|(path, text)| (path.as_str(), text.as_str())))
        .map_err(|fault| ConfigError::Field { field: "certificate_profiles", problem: fault.to_string() })
}

/// A configuration for development below `data`, with SoftHSM. `ports` are those of gRPC, HTTP and metrics.
pub(crate) fn example(
    data: &Path,
    authority: &str,
    ports: [u16; 3],
    workers: usize,
) -> Result<String, ConfigError> {
    let module = hsm::softhsm::module().ok_or_else(|| ConfigError::Field {
        field: "pkcs11.module",
        problem: "SoftHSM's module was not found; install it (Debian: apt-get install softhsm2)".into(),
    })?;
    let mut text = String::new();
    let data_text = data.display();
    let [grpc, http, metrics] = ports;
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        r#"# Configuration of chanceryd, made by `chanceryd config`. Unknown fields are refused.

# development: SoftHSM and published test keys are allowed. production: neither is.
mode = "development"
# Name of the authority: part of the log's origin; never changes.
authority = "{authority}"
# Name of this node: part of the log's origin; never changes.
node = "node-1"
# Everything the service keeps. Made by `chanceryd init`, mode 0700.
data_directory = "{data_text}"
# gRPC over mTLS.
listen = "127.0.0.1:{grpc}"
# Public HTTP: CA certificates, log checkpoint, health.
http_listen = "127.0.0.1:{http}"
# Prometheus metrics; loopback only.
metrics_listen = "127.0.0.1:{metrics}"
# What the server's certificate names.
server_names = ["localhost"]
server_addresses = ["127.0.0.1"]
# Where relying parties will find CRLs; written into certificates.
crl_base_url = "http://127.0.0.1:{http}"
# Version of the certificate policy and practice statement (CP/CPS) in force; named by the log entry of each certificate.
certificate_policy = "cp-1"
# Certificate profiles of your own, beside the built-in ones: files as docs/formats/certificate-profile.md describes them. One that
# certificates were issued by stays here as long as any of them is in use.
certificate_profiles = []
# Size of one log segment. Zero-filled ahead, so it is also the disk space taken at once.
segment_mib = 64
# Memory for rows of the view. A register of a million certificates is written and read about twice as fast with 1024, and the
# daemon then takes up to 3 GiB.
view_cache_mib = 64
# For how many certificates of parties and of the authority OCSP answers are signed before anybody asks; 0: for none.
ocsp_answers_ahead = 5000
# true: session keys may be answered unsealed, in the TLS channel alone, under grants that say so. They then pass through
# this process in clear. A grant alone does not allow it.
session_keys_in_tls_channel = false

# Revocation lists beside each issuer's full one; all off is what SGP.22 v3 wants. delta: a delta list (RFC 5280 section 5.2.4), which the
# full list names. shards: certificates issued from now on name the list of one of so many shards, 0 to 256. part_entries: the partial
# lists of SGP.22 v2 (ES10b.LoadCRL), with so many entries each; 0: none.
[revocation_lists]
delta = false
shards = 0
part_entries = 0

# What the root certificate of the GSMA PKI says.
[certificate_issuer]
common_name = "{authority} CI"
organizational_unit = "Certificate Issuer"
organization = "{authority}"
country = "IT"
registered_id = "2.999.1"

[pkcs11]
module = "{module}"
# Given to the token workers, whose environment is otherwise empty.
environment = [["SOFTHSM2_CONF", "{data_text}/tokens/softhsm2.conf"]]
"#,
        module = module.display(),
    );
    for (name, comment) in [
        ("log", "signs the log's checkpoints; holds the keys of its HMACs and pseudonyms"),
        ("ca", "certificate issuers"),
        ("kms", "derivation masters"),
    ] {
        let workers = if name == "log" { 1 } else { workers };
        text.push_str(&token_section(data, name, comment, workers));
    }
    Ok(text)
}

/// The section of the optional token for keys of SM-DP+, to stand after an [`example`].
pub(crate) fn rsp_section(data: &Path, workers: usize) -> String {
    token_section(data, RSP_TOKEN, "DPauth and DPpb keys of SM-DP+; only where those are kept here", workers)
}

fn token_section(data: &Path, name: &str, comment: &str, workers: usize) -> String {
    let data_text = data.display();
    format!(
        r#"
# {comment}
[tokens.{name}]
label = "chancery-{name}"
# Files with the PINs, mode 0600. Only the token's workers open the first, only `chanceryd init` the second.
pin_file = "{data_text}/pins/{name}.pin"
so_pin_file = "{data_text}/pins/{name}.so-pin"
# Worker processes, and sessions in each. SoftHSM: as many processes as cores, one thread each.
workers = {workers}
threads_per_worker = 1
# Jobs that may wait; more are refused with OVERLOADED.
queue_depth_max = 4096
# true: what the token cannot do itself is refused, instead of done in zeroized memory of its workers.
inside_only = false
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chanceryd.toml");
        fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn the_example_is_valid_and_unknown_fields_are_refused() {
        let text =
            example(Path::new("/var/lib/chancery"), "example-authority", [7400, 7401, 7402], 2).unwrap();
        let config_read = config(&text).unwrap();
        assert_eq!(config_read.token("kms").unwrap().workers, 2);
        assert!(matches!(config(&format!("surprise = 1\n{text}")), Err(ConfigError::Syntax { .. })));
        assert!(config_read.token("rsp").is_none());
        let with_rsp = text.clone() + &rsp_section(Path::new("/var/lib/chancery"), 2);
        let with_rsp = config(&with_rsp).unwrap();
        assert_eq!(with_rsp.token("rsp").unwrap().token_label, "chancery-rsp");
        assert_eq!(with_rsp.token_names().collect::<Vec<_>>(), ["log", "ca", "kms", "rsp"]);
        let open = text.replace("metrics_listen = \"127.0.0.1", "metrics_listen = \"0.0.0.0");
        assert!(matches!(config(&open), Err(ConfigError::Field { field: "metrics_listen", .. })));
    }
}
