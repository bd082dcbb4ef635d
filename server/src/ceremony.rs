//! `chanceryd ceremony`: keys made in a process of their own, beside the running service.

use std::path::Path;

use hsm::ceremony::{Ceremony, TokenObject};
use hsm::{ErrorClass, HsmError, KeyCheck, KeyRole};
use serde::Serialize;

use crate::config::Config;
use crate::foundation::write_durably;
use crate::tokens::{CEREMONY_CHILD, this_binary};

/// `docs/formats/issuer-key-file.md`.
#[derive(Serialize)]
struct KeyFile<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    party: Option<&'a str>,
    token: &'static str,
    token_serial: String,
    label: String,
    id: String,
    public_key: String,
}

/// Makes an issuer's key on the ca token and writes its public description.
pub(crate) fn create_key(
    config: &Config,
    name: &str,
    party: Option<&str>,
    out: &Path,
) -> Result<(), HsmError> {
    let mut ceremony = open(config, "ca")?;
    let created = ceremony.create_key(KeyRole::CertificateIssuer, name, 1)?;
    let KeyCheck::PublicKey(spki) = created.check else {
        return Err(HsmError::new(ErrorClass::Token, "the token gave no public key"));
    };
    let file = KeyFile {
        name,
        party,
        token: "ca",
        token_serial: created.token_serial,
        label: created.key.label,
        id: hex::encode(created.key.id),
        public_key: hex::encode(spki),
    };
    let failed = |what: String| {
        HsmError::new(ErrorClass::Token, format!("{} cannot be written: {what}", out.display()))
    };
    let bytes = serde_json::to_vec_pretty(&file).map_err(|e| failed(e.to_string()))?;
    write_durably(out, &bytes).map_err(|e| failed(e.to_string()))
}

/// Lists a token's objects.
pub(crate) fn list(config: &Config, token: &str) -> Result<Vec<TokenObject>, HsmError> {
    open(config, token)?.list()
}

fn open(config: &Config, token: &str) -> Result<Ceremony, HsmError> {
    let configured = config.token(token).ok_or_else(|| {
        HsmError::new(ErrorClass::Policy, format!("no token {token} is configured; log, ca or kms"))
    })?;
    Ceremony::start(configured.clone(), &this_binary(CEREMONY_CHILD)?)
}
