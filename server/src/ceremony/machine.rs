//! Where a ceremony takes place: in the data directory of a founded authority, or on a machine of its own that never meets a
//! network. The difference is who signs the transcript, and which keys may sign.

use std::fs;
use std::io;
use std::path::Path;

use audit::LogKey;
use ca::KeyRegistration;
use hsm::{ErrorClass, HsmError, KeyRole, RegisteredKey, Token};
use serde::{Deserialize, Serialize};

use super::{open, wrong};
use crate::config::Config;
use crate::foundation::{self, Foundation, FoundingKey};
use crate::init::{self, write_pin};
use crate::tokens;

/// The key that signs the transcripts of a machine without an authority; public data.
pub(crate) const SIGNER_FILE: &str = "ceremony-signer.json";
const SIGNER_FORMAT: &str = "chancery-ceremony-signer/1";
/// Name of that key, and last part of the origin of its transcripts.
const SIGNER: &str = "ceremony";

/// Whose machine it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// An authority is founded here: what its registered issuers sign is the service's.
    Founded,
    /// No authority is.
    Offline,
}

impl Place {
    pub(super) fn of(config: &Config) -> Self {
        if config.path(foundation::FILE).exists() { Self::Founded } else { Self::Offline }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Founded => "founded",
            Self::Offline => "offline",
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignerFile {
    format: String,
    token_serial: String,
    key: FoundingKey,
}

/// The open tokens `log` and `ca`, and the key that signs the transcript.
pub(super) struct Machine {
    pub(super) log: Token,
    pub(super) ca: Token,
    pub(super) signer: KeyRegistration,
    pub(super) log_key: LogKey,
}

impl Machine {
    /// Opens the tokens, which are made where they are missing and no authority is founded. The token `ca` must hold the keys of
    /// earlier ceremonies.
    pub(super) async fn open(
        config: &Config,
        place: Place,
        earlier: &[KeyRegistration],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let (signer, origin) = match place {
            Place::Founded => {
                let foundation = Foundation::read(&config.path(foundation::FILE))?;
                let keys = foundation.registrations()?;
                let signer = keys.into_iter().find(|key| key.key.role == KeyRole::LogSigner);
                (signer.ok_or_else(|| wrong("the foundation names no log-signer key"))?, foundation.origin())
            }
            Place::Offline => {
                init::prepare_directories(config)?;
                make_when_missing(config, "log")?;
                make_when_missing(config, "ca")?;
                (transcript_signer(config)?, format!("{}/{}/{SIGNER}", config.authority, config.node))
            }
        };
        let log_key = LogKey::new(&origin, init::ed25519_key(&signer)?)?;
        let log = tokens::start_for_ceremony(config, "log", std::slice::from_ref(&signer)).await?;
        let ca = match tokens::start_for_ceremony(config, "ca", earlier).await {
            Ok(ca) => ca,
            Err(error) => {
                log.shutdown().await;
                return Err(error.into());
            }
        };
        Ok(Self { log, ca, signer, log_key })
    }

    pub(super) async fn close(self) {
        self.log.shutdown().await;
        self.ca.shutdown().await;
    }
}

/// A registration of a key on a token; it is in no record.
pub(super) fn registration(token: &str, serial: &str, key: RegisteredKey, epoch: u32) -> KeyRegistration {
    KeyRegistration {
        token: token.to_owned(),
        token_serial: serial.to_owned(),
        key,
        epoch,
        backup: String::new(),
    }
}

/// Initialises a token that does not open. Where one of its label exists, that is refused and the first error stands.
fn make_when_missing(config: &Config, name: &str) -> Result<(), HsmError> {
    let (Some(token), Some(so_pin)) = (config.token(name), config.so_pin_file(name)) else {
        return Err(wrong(&format!("no token {name} is configured")));
    };
    let failed = |e: init::InitError| HsmError::new(ErrorClass::Pin, e.to_string());
    write_pin(&token.pin_file).map_err(failed)?;
    write_pin(so_pin).map_err(failed)?;
    let Err(error) = open(config, name)?.token_serial() else { return Ok(()) };
    match open(config, name)?.init_token(so_pin) {
        Ok(_) => Ok(()),
        Err(making) => Err(HsmError::new(
            error.class,
            format!("token {name} can neither be opened ({error}) nor made ({making})"),
        )),
    }
}

/// The key that signs transcripts here: that of the ceremonies before, or a new one.
fn transcript_signer(config: &Config) -> Result<KeyRegistration, Box<dyn std::error::Error>> {
    let path = config.path(SIGNER_FILE);
    if path.exists() {
        return Ok(read_signer(&path)?);
    }
    let mut ceremony = open(config, "log")?;
    // A stop before the file was written left a key that nobody knows: the next epoch.
    let taken: Vec<String> = ceremony.list()?.into_iter().map(|object| object.label).collect();
    let epoch = (1..)
        .find(|epoch| !taken.contains(&KeyRole::LogSigner.label(SIGNER, *epoch)))
        .ok_or_else(|| wrong("no epoch is free"))?;
    let created = ceremony.create_key(KeyRole::LogSigner, SIGNER, epoch)?;
    drop(ceremony);
    let file = SignerFile {
        format: SIGNER_FORMAT.to_owned(),
        token_serial: created.token_serial.clone(),
        key: FoundingKey::of(&created.registered()),
    };
    super::write(&path, &serde_json::to_vec_pretty(&file)?)?;
    Ok(registration("log", &created.token_serial, created.registered(), epoch))
}

fn read_signer(path: &Path) -> io::Result<KeyRegistration> {
    let file: SignerFile = serde_json::from_slice(&fs::read(path)?).map_err(io::Error::other)?;
    if file.format != SIGNER_FORMAT {
        return Err(io::Error::other(format!("{} has an unknown format", path.display())));
    }
    file.key.registration(&file.token_serial)
}
