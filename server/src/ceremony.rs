//! `chanceryd ceremony`: keys made, imported and restored in a process of their own, beside the running service
//! (`docs/cycles/key-ceremony.md`).

mod component;
mod key_file;
mod machine;
mod plan;
mod prepared;
mod run;
mod specification;
mod specified;
mod terminal;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hsm::ceremony::{Ceremony, Component, CreatedKey, FoundKey, ImportedKey, KnownValues};
use hsm::{ErrorClass, HsmError, KeyRole};
use pki::{Certificate, PublicKey};

use self::component::{ComponentFile, Place, parse_custodian};
use self::key_file::KeyFile;
pub(crate) use self::machine::SIGNER_FILE;
use self::specified::{PlanCeremony, RunCeremony};
use crate::config::{Config, Mode, RSP_TOKEN};
use crate::foundation::write_durably;
use crate::init::write_pin;
use crate::tokens::{CEREMONY_CHILD, this_binary};

#[derive(Subcommand)]
pub(crate) enum CeremonyCommand {
    /// Makes a key on its token. It is used only once an approved operation has registered it.
    ///
    /// With custodians the key is the sum of random components that are sealed to them: all of them, or any --needed of them,
    /// can restore it. Without, the key never leaves the token, and the vendor's clone of the token is its backup.
    #[command(after_help = "Examples:
  chanceryd ceremony create-key --config chanceryd.toml --name eum-one --out eum-one.key.json
  chanceryd ceremony create-key --config chanceryd.toml --role rsp-auth --name otaco-dpauth --party otaco --out dpauth.json
  chanceryd ceremony create-key --config chanceryd.toml --role transport-import --name kms --out import.key.json
  chanceryd ceremony create-key --config chanceryd.toml --role imported-master-aes-256 --name devices --epoch 2 \\
      --custodian alice=alice.pub.pem --custodian bob=bob.pub.pem --custodian carol=carol.pub.pem --needed 2 \\
      --out devices-2.key.json")]
    CreateKey(CreateKey),
    /// Imports a key: from components of its custodians, or wrapped to the token's transport-import key.
    #[command(after_help = "Examples:
  chanceryd ceremony import-key --config chanceryd.toml --role imported-master-aes-128 --name fleet-2019 --kcv 8baf47 \\
      --component alice.component.json --component bob.component.json --out fleet-2019.key.json
  chanceryd ceremony import-key --config chanceryd.toml --role party-transport --name dp-one --kcv 0a1b2c \\
      --wrapped dp-one.bin --under import.key.json --out dp-one.key.json")]
    ImportKey(ImportKey),
    /// Takes a key into use that other software made on the ca token: that of a CA that moves here, as a limited copy.
    ///
    /// The key that is there stays as it is, and must be the certificate's. What the token tells of it is printed: a key that other
    /// software made may have been outside, and a token may let it sign by other mechanisms than ours.
    #[command(after_help = "Example:
  chanceryd ceremony adopt-key --config chanceryd.toml --key-label 'National CI 2019' --certificate ci-2019.pem \\
      --name ci-2019 --out ci-2019.key.json")]
    AdoptKey(AdoptKey),
    /// Restores a key from its components onto an empty scratch token, compares it with its key file, and wipes the token.
    #[command(after_help = "Example:
  chanceryd ceremony rehearse-restore --config chanceryd.toml --key-file devices-2.key.json \\
      --component alice.component.json --custodian-key alice.key.pem \\
      --component bob.component.json --custodian-key bob.key.pem \\
      --scratch-label scratch --pin-file scratch.pin --so-pin-file scratch.so-pin")]
    RehearseRestore(RehearseRestore),
    /// Makes a custodian's own key pair, to which components are sealed: NAME.key.pem to keep, NAME.pub.pem to give.
    #[command(after_help = "Example:
  chanceryd ceremony custodian-key --name alice --out custodians/")]
    CustodianKey {
        /// Name of the custodian.
        #[arg(long)]
        name: String,
        /// Folder.
        #[arg(long)]
        out: PathBuf,
    },
    /// Shows everything that a specification file would do, in its order and with every value, and rehearses it. Touches no token.
    #[command(after_help = "Example:
  chanceryd ceremony plan --config chanceryd.toml --specification root.toml")]
    Plan(PlanCeremony),
    /// Does what a reviewed specification file says: keys, certificates, requests, revocation lists, and a signed transcript.
    #[command(after_help = "Example:
  chanceryd ceremony run --config chanceryd.toml --specification root.toml --reviewed 5d0c... --out root/")]
    Run(RunCeremony),
    /// Lists the objects on a token.
    List {
        /// The configuration.
        #[arg(long)]
        config: PathBuf,
        /// log, ca, kms or rsp.
        #[arg(long)]
        token: String,
    },
}

#[derive(Args)]
pub(crate) struct CreateKey {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// What the key is for.
    #[arg(long, default_value = "certificate-issuer", value_parser = parse_role)]
    role: KeyRole,
    /// Name of the key: of the issuer, master or party it is for.
    #[arg(long)]
    name: String,
    /// Generation of a master, version of another key.
    #[arg(long, default_value_t = 1)]
    epoch: u32,
    /// Party it is meant for; noted in the file.
    #[arg(long)]
    party: Option<String>,
    /// A custodian and the PEM file of their public key, NAME=FILE; 2 to 8 of them. Component files go beside --out.
    #[arg(long = "custodian", value_name = "NAME=FILE", value_parser = parse_custodian)]
    custodians: Vec<(String, PathBuf)>,
    /// How many of the custodians restore the key, 2 or more; all of them when absent.
    #[arg(long, value_name = "COUNT", requires = "custodians")]
    needed: Option<usize>,
    /// The key's public description, for `chancery issuer|master|transport-key register --key-file`.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
pub(crate) struct ImportKey {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// What the key will be: imported-master-aes-128 (-192, -256), imported-master-3des-2key (-3key), party-transport (keys leave
    /// under it), party-import (keys come in under it).
    #[arg(long, value_parser = parse_role)]
    role: KeyRole,
    /// Name of the key.
    #[arg(long)]
    name: String,
    /// Generation of a master, version of another key.
    #[arg(long, default_value_t = 1)]
    epoch: u32,
    /// Party it is of; noted in the file.
    #[arg(long)]
    party: Option<String>,
    /// Key check value of the whole key, 6 hex digits (AES over 01..01, 3DES over 00..00).
    #[arg(long, value_parser = parse_check_value)]
    kcv: [u8; 3],
    #[command(flatten)]
    components: Components,
    /// The key, encrypted to the transport-import key by RSA-OAEP (SHA-1 on SoftHSM, else SHA-256).
    #[arg(long, value_name = "FILE", requires = "under", conflicts_with_all = ["files", "typed"])]
    wrapped: Option<PathBuf>,
    /// Key file of the transport-import key.
    #[arg(long, value_name = "FILE", requires = "wrapped")]
    under: Option<PathBuf>,
    /// The key's public description, for `chancery master|transport-key register --key-file`.
    #[arg(long)]
    out: PathBuf,
}

/// Where components come from; never from the command line.
#[derive(Args)]
struct Components {
    /// File of a component (docs/formats/key-component.md), one for each.
    #[arg(long = "component", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// PEM file of the private key of a custodian whose component is sealed.
    #[arg(long = "custodian-key", value_name = "FILE")]
    custodian_keys: Vec<PathBuf>,
    /// How many components are typed at the terminal, without echo.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    typed: usize,
}

#[derive(Args)]
pub(crate) struct AdoptKey {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// CKA_LABEL of the private key on the ca token.
    #[arg(long, value_name = "LABEL")]
    key_label: String,
    /// Its CKA_ID in hex, where several keys have the label.
    #[arg(long, value_name = "HEX", value_parser = parse_id)]
    key_id: Option<KeyId>,
    /// The CA's certificate, PEM or DER.
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Name of the issuer here.
    #[arg(long)]
    name: String,
    /// Version of the key.
    #[arg(long, default_value_t = 1)]
    epoch: u32,
    /// The manufacturer it is of; noted in the file.
    #[arg(long)]
    party: Option<String>,
    /// The key's public description, for `chancery issuer register --key-file`.
    #[arg(long)]
    out: PathBuf,
}

/// A CKA_ID.
#[derive(Clone)]
struct KeyId(Vec<u8>);

#[derive(Args)]
pub(crate) struct RehearseRestore {
    /// The configuration: its PKCS#11 module and environment are used.
    #[arg(long)]
    config: PathBuf,
    /// The key's public description, as its ceremony wrote it.
    #[arg(long)]
    key_file: PathBuf,
    #[command(flatten)]
    components: Components,
    /// Label of the scratch token, which is made in a free slot and must not exist.
    #[arg(long)]
    scratch_label: String,
    /// File with its user PIN, mode 0600.
    #[arg(long)]
    pin_file: PathBuf,
    /// File with its security officer's PIN, mode 0600.
    #[arg(long)]
    so_pin_file: PathBuf,
}

impl CeremonyCommand {
    pub(crate) fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        match self {
            Self::CreateKey(args) => args.run(),
            Self::ImportKey(args) => args.run(),
            Self::AdoptKey(args) => args.run(),
            Self::RehearseRestore(args) => args.run(),
            Self::Plan(args) => args.run(),
            Self::Run(args) => args.run(),
            Self::CustodianKey { name, out } => component::make_custodian_key(&name, &out),
            Self::List { config, token } => {
                for object in open(&Config::read(&config)?, &token)?.list()? {
                    writeln!(io::stdout(), "{} {} {}", object.class, object.label, object.id)?;
                }
                Ok(())
            }
        }
    }
}

impl CreateKey {
    fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let config = Config::read(&self.config)?;
        let token = token_of(self.role)?;
        let custodians = component::custodians(&self.custodians, config.known_keys())?;
        if self.role.is_imported() && custodians.is_empty() {
            return Err(
                wrong("a key of this role is imported, or made with --custodian (two at least)").into()
            );
        }
        if token == RSP_TOKEN {
            make_when_missing(&config, token)?;
        }
        let mut ceremony = open(&config, token)?;
        if custodians.is_empty() {
            let created = ceremony.create_key(self.role, &self.name, self.epoch)?;
            let file = KeyFile::of(&created, token, &self.name, self.party.as_deref(), "");
            return Ok(file.write(&self.out)?);
        }
        let (of, needed) = (custodians.len(), self.needed.unwrap_or(custodians.len()));
        let (created, sealed) =
            ceremony.create_from_components(self.role, &self.name, self.epoch, &custodians, needed)?;
        let names: Vec<&str> = custodians.iter().map(|custodian| custodian.name.as_str()).collect();
        let backup = format!("components of any {needed} of {of} custodians: {}", names.join(", "));
        for name in names {
            let path = self.out.with_file_name(format!("{}-{name}.component.json", self.name));
            ComponentFile::sealed(&created, name, &sealed, (needed, of)).write(&path)?;
            writeln!(io::stdout(), "{name} keeps {}", path.display())?;
        }
        writeln!(io::stdout(), "any {needed} of the {of} restore the key; fewer know nothing of it")?;
        report(&created)?;
        KeyFile::of(&created, token, &self.name, self.party.as_deref(), &backup).write(&self.out)?;
        Ok(())
    }
}

impl ImportKey {
    fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let config = Config::read(&self.config)?;
        let token = token_of(self.role)?;
        let key = ImportedKey {
            role: self.role,
            name: &self.name,
            epoch: self.epoch,
            expected: self.kcv,
            known: known(&config),
        };
        let (created, backup) = match (&self.wrapped, &self.under) {
            (Some(wrapped), Some(under)) => {
                let under = KeyFile::read(under)?.key_ref()?;
                let wrapped = std::fs::read(wrapped)?;
                (open(&config, token)?.import_wrapped(&key, &under, &wrapped)?, String::new())
            }
            _ => {
                let (components, names) = self.components.read(None)?;
                let backup = format!("all of {} components: {}", names.len(), names.join(", "));
                (open(&config, token)?.import_components(&key, components)?, backup)
            }
        };
        report(&created)?;
        KeyFile::of(&created, token, &self.name, self.party.as_deref(), &backup).write(&self.out)?;
        Ok(())
    }
}

impl AdoptKey {
    fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let config = Config::read(&self.config)?;
        let bytes = std::fs::read(&self.certificate)?;
        let unread = |e: &dyn std::fmt::Display| wrong(&format!("{}: {e}", self.certificate.display()));
        let certificate = Certificate::from_pem(&bytes)
            .or_else(|_| Certificate::from_der(&bytes))
            .map_err(|e| unread(&e))?;
        let key = PublicKey::parse(certificate.spki(), config.known_keys()).map_err(|e| unread(&e))?;
        let role = KeyRole::AdoptedIssuer(key.curve());
        let found = FoundKey {
            label: &self.key_label,
            id: self.key_id.as_ref().map(|id| id.0.as_slice()),
            public_key: certificate.spki(),
        };
        let token = token_of(role)?;
        let adopted = open(&config, token)?.adopt_key(role, &self.name, self.epoch, &found)?;
        writeln!(
            io::stdout(),
            "{}: signs for {}; the token says of it:",
            adopted.key,
            self.certificate.display()
        )?;
        for (name, value) in &adopted.template {
            writeln!(io::stdout(), "  {name} {value}")?;
        }
        let backup = "as the CA that it comes from kept it";
        KeyFile::of(&adopted, token, &self.name, self.party.as_deref(), backup).write(&self.out)?;
        Ok(())
    }
}

impl RehearseRestore {
    fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let config = Config::read(&self.config)?;
        let file = KeyFile::read(&self.key_file)?;
        let role = file.role()?;
        let expected = file.key_check_value()?;
        let (components, names) = self.components.read(Some(&file.label))?;
        let (name, epoch) = file.name_and_epoch()?;
        let mut scratch = config.token(token_of(role)?).ok_or_else(|| wrong("no such token"))?.clone();
        scratch.name = "scratch".to_owned();
        scratch.token_label.clone_from(&self.scratch_label);
        scratch.token_serial = None;
        scratch.pin_file = std::path::absolute(&self.pin_file)?;
        scratch.lock_file = config.path("scratch.token-lock");
        let so_pin_file = std::path::absolute(&self.so_pin_file)?;
        let command = this_binary(CEREMONY_CHILD)?;
        let serial = Ceremony::start(scratch.clone(), &command)?.init_token(&so_pin_file)?;
        scratch.token_serial = Some(serial);
        let mut ceremony = Ceremony::start(scratch, &command)?;
        if !ceremony.list()?.is_empty() {
            return Err(wrong("the scratch token is not empty").into());
        }
        // Published values are a matter of the import, not of the restore.
        let key = ImportedKey { role, name: &name, epoch, expected, known: KnownValues::Allow };
        let restored = ceremony.import_components(&key, components);
        // Whatever came of it, no copy of the key stays behind.
        ceremony.danger_wipe_token(&so_pin_file)?;
        let restored = restored?;
        if file.check()? != restored.check {
            return Err(wrong("the restored key does another thing than the recorded one").into());
        }
        writeln!(
            io::stdout(),
            "restored {} from the components of {}: check value {} as recorded; the scratch token is wiped",
            file.label,
            names.join(", "),
            hex::encode(expected)
        )?;
        Ok(())
    }
}

impl Components {
    /// The components and whose they are. `label`: of the key they must be of; any when it is being imported.
    fn read(&self, label: Option<&str>) -> Result<(Vec<Component>, Vec<String>), Box<dyn std::error::Error>> {
        let keys = component::private_keys(&self.custodian_keys)?;
        let (mut components, mut names) = (Vec::new(), Vec::new());
        let mut places: Vec<Place> = Vec::new();
        for path in &self.files {
            let file = ComponentFile::read(path)?;
            names.push(file.custodian.clone());
            for opened in file.open(path, label, &keys)? {
                // Several custodians hold the same component, which counts once.
                match opened.place {
                    Some(place) if places.contains(&place) => continue,
                    Some(place) => places.push(place),
                    None => {}
                }
                components.push(opened.component);
            }
        }
        if let Some(Place { of, needed, custodians, .. }) = places.first().copied()
            && places.len() < of
        {
            return Err(wrong(&format!(
                "a component is missing: any {needed} of the {custodians} custodians have them all, {} came",
                self.files.len()
            ))
            .into());
        }
        for number in 1..=self.typed {
            let (custodian, component) = terminal::component(number)?;
            names.push(custodian);
            components.push(component);
        }
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(
                    wrong(&format!("{name} gives two components; each is of another custodian")).into()
                );
            }
        }
        Ok((components, names))
    }
}

fn report(created: &CreatedKey) -> io::Result<()> {
    let value = created.key_check_value.map(hex::encode).unwrap_or_default();
    writeln!(io::stdout(), "{}: check value {value}, every attribute read back", created.key)
}

fn known(config: &Config) -> KnownValues {
    match config.mode {
        Mode::Development => KnownValues::Allow,
        Mode::Production => KnownValues::Refuse,
    }
}

/// The token that holds keys of a role; those of the founding are made by `init` alone.
fn token_of(role: KeyRole) -> Result<&'static str, HsmError> {
    match role {
        KeyRole::CertificateIssuer(_) | KeyRole::AdoptedIssuer(_) | KeyRole::OcspResponder(_) => Ok("ca"),
        KeyRole::RspAuth(_) | KeyRole::RspPb(_) | KeyRole::EimSign => Ok(RSP_TOKEN),
        KeyRole::Master
        | KeyRole::FastMaster
        | KeyRole::ImportedMaster(_)
        | KeyRole::PartyTransport
        | KeyRole::PartyImport
        | KeyRole::TransportImport
        | KeyRole::Kek
        | KeyRole::BlobMac
        | KeyRole::OceAgreement
        | KeyRole::OceSeed => Ok("kms"),
        other => Err(wrong(&format!("a {} is made by `chanceryd init` alone", other.as_str()))),
    }
}

/// A token that was configured after the founding, and whose PIN is not written yet, is initialised.
fn make_when_missing(config: &Config, name: &str) -> Result<(), HsmError> {
    let (Some(token), Some(so_pin)) = (config.token(name), config.so_pin_file(name)) else {
        return Ok(());
    };
    if token.pin_file.exists() {
        return Ok(());
    }
    let failed = |e: crate::init::InitError| HsmError::new(ErrorClass::Pin, e.to_string());
    write_pin(&token.pin_file).map_err(failed)?;
    write_pin(so_pin).map_err(failed)?;
    open(config, name)?.init_token(so_pin).map(drop)
}

fn open(config: &Config, token: &str) -> Result<Ceremony, HsmError> {
    let configured = config.token(token).ok_or_else(|| {
        wrong(&format!(
            "no token {token} is configured; log, ca, kms, and rsp where an SM-DP+ has its keys here"
        ))
    })?;
    Ceremony::start(configured.clone(), &this_binary(CEREMONY_CHILD)?)
}

/// What a ceremony by this specification would leave, when it is one; for the fuzz targets.
pub(crate) fn products_of(specification: &[u8]) -> Option<Vec<String>> {
    Some(specification::Specification::parse(specification).ok()?.products().collect())
}

fn parse_role(text: &str) -> Result<KeyRole, String> {
    KeyRole::ALL
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| format!("a role is one of {}", KeyRole::ALL.map(KeyRole::as_str).join(", ")))
}

fn parse_id(text: &str) -> Result<KeyId, String> {
    hex::decode(text).map(KeyId).map_err(|_| "an id is whole octets in hex".to_owned())
}

fn parse_check_value(text: &str) -> Result<[u8; 3], String> {
    let mut value = [0; 3];
    hex::decode_to_slice(text, &mut value).map_err(|_| "a check value has 6 hex digits".to_owned())?;
    Ok(value)
}

fn wrong(what: &str) -> HsmError {
    HsmError::new(ErrorClass::Policy, what)
}

/// As [`write_durably`], with the path in the error.
fn write(path: &Path, bytes: &[u8]) -> Result<(), HsmError> {
    write_durably(path, bytes).map_err(|e| wrong(&format!("{} cannot be written: {e}", path.display())))
}
