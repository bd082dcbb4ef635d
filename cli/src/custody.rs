//! Masters and transport keys: what a ceremony made or imported is taken into use, and listed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use domain::{Clock, Eid};
use proto::v1::operation::Kind;
use proto::v1::register_transport_key::Key;
use proto::v1::transport_key_service_client::TransportKeyServiceClient;
use proto::v1::{
    ExportKeyset, FetchKeysetExportRequest, ListMastersRequest, ListTransportKeysRequest, Master,
    RegisterImportKey, RegisterMaster, RegisterStorageKeys, RegisterTransportKey, RetireTransportKey,
    TokenKey, TransportKey, TransportKeyState,
};
use serde::{Deserialize, Serialize};

use crate::clock::{self, Expiry, SystemClock, parse_expiry};
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::order::KeysetArgs;
use crate::output::{Output, printable, table};

/// `chancery master ...`
#[derive(Debug, Subcommand)]
pub enum MasterCommand {
    /// Request that a master made or imported by a ceremony is taken into use, without a restart.
    #[command(after_help = "Examples:
  chancery master register --key-file devices-2.key.json --generation 2 --scheme chancery-cmac-v1 \\
      --reason 'new generation, ceremony of 2026-11-20' --identity alice/
  chancery master register --key-file fleet-2019.key.json --generation 100 --scheme kdf3 \\
      --reason 'fleet of 2019 moves in' --identity alice/")]
    Register(RegisterMasterArgs),
    /// Request that an epoch of storage keys is taken into use, under which random device keys are kept.
    ///
    /// What was stored before is opened under its own epoch. Without these keys every random key is lost: have them cloned.
    #[command(after_help = "Example:
  chancery master register-storage --kek-file kek-1.key.json --blob-mac-file blob-mac-1.key.json --epoch 1 \\
      --backup 'vendor clone on token 2' --reason 'ceremony of 2026-11-20' --identity alice/")]
    RegisterStorage(RegisterStorageArgs),
    /// List the masters by generation.
    #[command(after_help = "Example:
  chancery master list --identity alice/")]
    List(ListArgs),
}

/// `chancery transport-key ...`
#[derive(Debug, Subcommand)]
pub enum TransportKeyCommand {
    /// Request that a key is taken into use under which keys leave for a party. A second one of the name follows the first.
    #[command(after_help = "Examples:
  chancery transport-key register --party acme-eum --name orders --public-key acme-2027.pem --expires 365d \\
      --reason 'key change 2027' --identity alice/
  chancery transport-key register --party dp-one --name hsm --key-file dp-one.key.json --expires 365d \\
      --reason 'ceremony of 2026-11-20' --identity alice/")]
    Register(RegisterTransportKeyArgs),
    /// Request that the transport-import key, to which keys are encrypted on their way in, is taken into use.
    #[command(after_help = "Example:
  chancery transport-key register-import --key-file import.key.json --backup 'vendor clone on token 2' \\
      --reason 'ceremony of 2026-11-20' --identity alice/")]
    RegisterImport(RegisterImportArgs),
    /// Request that a transport key is retired before it expires.
    #[command(after_help = "Example:
  chancery transport-key retire --party acme-eum --name orders --number 1 --reason 'lost at the plant' --identity alice/")]
    Retire(RetireArgs),
    /// Request that the static keys of one keyset leave for a party, wrapped under its transport key. Keys that leave so
    /// cannot be taken back: a rotation replaces them.
    #[command(after_help = "Example:
  chancery transport-key export --eid 89049032123451234512345678901235 --kvn 0x30 --party dp-one --name hsm \\
      --reason 'court order 4711/26' --identity alice/")]
    Export(ExportArgs),
    /// Party: fetch the static keys that an approved operation exported. They leave once.
    #[command(after_help = "Example:
  chancery transport-key fetch-export 4a49de2a20a50f58... --out export.json --identity dp-one/")]
    FetchExport(FetchExportArgs),
    /// List transport keys; a party sees its own.
    #[command(after_help = "Example:
  chancery transport-key list --party acme-eum --identity alice/")]
    List(ListKeysArgs),
}

/// Arguments of `master register`.
#[derive(Debug, Args)]
pub struct RegisterMasterArgs {
    /// The JSON that `chanceryd ceremony create-key` or `import-key` wrote
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Its generation, greater than every one there is
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    generation: u32,
    /// A derivation scheme it may be used with; several times for several
    #[arg(long = "scheme", value_name = "SCHEME", required = true)]
    schemes: Vec<String>,
    /// How it is restored when its token is lost; as in the file when absent
    #[arg(long, value_name = "TEXT")]
    backup: Option<String>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `master register-storage`.
#[derive(Debug, Args)]
pub struct RegisterStorageArgs {
    /// The JSON that `chanceryd ceremony create-key --role kek` wrote
    #[arg(long, value_name = "FILE")]
    kek_file: PathBuf,
    /// The JSON that `chanceryd ceremony create-key --role blob-mac` wrote
    #[arg(long, value_name = "FILE")]
    blob_mac_file: PathBuf,
    /// Their epoch, one more than the newest there is
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    epoch: u32,
    /// How both are restored when their token is lost
    #[arg(long, value_name = "TEXT")]
    backup: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `transport-key register`.
#[derive(Debug, Args)]
pub struct RegisterTransportKeyArgs {
    /// The party
    #[arg(long, value_parser = parse_name)]
    party: String,
    /// Name of the key; orders leave under "orders"
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// The party's RSA key, PEM or DER, 3072 bits or more
    #[arg(long, value_name = "FILE", required_unless_present = "key_file", conflicts_with = "key_file")]
    public_key: Option<PathBuf>,
    /// The JSON that `chanceryd ceremony import-key` wrote for the party's AES key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// When it ends: 365d, or an RFC 3339 time; three years at most
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
    expires: Expiry,
    /// AES: how it is restored when its token is lost; as in the file when absent
    #[arg(long, value_name = "TEXT")]
    backup: Option<String>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `transport-key register-import`.
#[derive(Debug, Args)]
pub struct RegisterImportArgs {
    /// The JSON that `chanceryd ceremony create-key --role transport-import` wrote
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// How it is restored when its token is lost
    #[arg(long, value_name = "TEXT")]
    backup: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `transport-key retire`.
#[derive(Debug, Args)]
pub struct RetireArgs {
    /// The party
    #[arg(long, value_parser = parse_name)]
    party: String,
    /// Name of the key
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// Its version
    #[arg(long)]
    number: u32,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `transport-key export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The device
    #[arg(long)]
    eid: Eid,
    #[command(flatten)]
    keyset: KeysetArgs,
    /// The party that will have the keys
    #[arg(long, value_parser = parse_name)]
    party: String,
    /// Name of its transport key
    #[arg(long, value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `transport-key fetch-export`.
#[derive(Debug, Args)]
pub struct FetchExportArgs {
    /// Digest of the operation in hex
    operation: String,
    /// File for the wrapped keys (docs/formats/keyset-export.md)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `master list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `transport-key list`.
#[derive(Debug, Args)]
pub struct ListKeysArgs {
    /// Only those of this party
    #[arg(long, value_parser = parse_name)]
    party: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What a ceremony reports about a key (docs/formats/token-key-file.md).
#[derive(Deserialize)]
pub(crate) struct KeyFile {
    name: String,
    label: String,
    id: String,
    public_key: Option<String>,
    check_value: Option<String>,
    key_check_value: Option<String>,
    #[serde(default)]
    backup: String,
}

impl KeyFile {
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        serde_json::from_slice(&files::read(path)?).map_err(|error| {
            CliError::invalid(
                format!("{}: {error}", path.display()),
                "name the JSON file that the ceremony wrote",
            )
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn token_key(&self) -> Result<TokenKey, CliError> {
        let bytes = |name: &str, text: Option<&String>| {
            hex::decode(text.map(String::as_str).unwrap_or_default()).map_err(|_| {
                CliError::invalid(format!("{name} is not hex"), "name the JSON file that the ceremony wrote")
            })
        };
        Ok(TokenKey {
            label: self.label.clone(),
            id: bytes("id", Some(&self.id))?,
            check_value: bytes("check_value", self.check_value.as_ref())?,
            public_key: bytes("public_key", self.public_key.as_ref())?,
            key_check_value: bytes("key_check_value", self.key_check_value.as_ref())?,
        })
    }

    fn backup(&self, told: Option<&String>) -> Result<String, CliError> {
        match told {
            Some(told) => Ok(told.clone()),
            None if self.backup.is_empty() => Err(CliError::invalid(
                "it is not said how the key is restored when its token is lost".to_owned(),
                "pass --backup, for example 'vendor clone on token 2, in the vault'",
            )),
            None => Ok(self.backup.clone()),
        }
    }
}

impl MasterCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Register(args) => {
                let file = KeyFile::read(&args.key_file)?;
                let master = RegisterMaster {
                    generation: args.generation,
                    name: file.name.clone(),
                    schemes: args.schemes.clone(),
                    key: Some(file.token_key()?),
                    backup: file.backup(args.backup.as_ref())?,
                };
                operation::request(Kind::RegisterMaster(master), &args.request, output).await?;
            }
            Self::RegisterStorage(args) => {
                let keys = RegisterStorageKeys {
                    epoch: args.epoch,
                    kek: Some(KeyFile::read(&args.kek_file)?.token_key()?),
                    blob_mac: Some(KeyFile::read(&args.blob_mac_file)?.token_key()?),
                    backup: args.backup.clone(),
                };
                operation::request(Kind::RegisterStorageKeys(keys), &args.request, output).await?;
            }
            Self::List(args) => args.run(output).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl TransportKeyCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Register(args) => args.run(output).await?,
            Self::RegisterImport(args) => {
                let key = KeyFile::read(&args.key_file)?.token_key()?;
                let import = RegisterImportKey { key: Some(key), backup: args.backup.clone() };
                operation::request(Kind::RegisterImportKey(import), &args.request, output).await?;
            }
            Self::Retire(args) => {
                let retire = RetireTransportKey {
                    party: args.party.clone(),
                    name: args.name.clone(),
                    number: args.number,
                };
                operation::request(Kind::RetireTransportKey(retire), &args.request, output).await?;
            }
            Self::Export(args) => {
                let export = ExportKeyset {
                    eid: args.eid.to_string(),
                    keyset: Some(args.keyset.name()),
                    party: args.party.clone(),
                    transport_key: args.name.clone(),
                };
                operation::request(Kind::ExportKeyset(export), &args.request, output).await?;
            }
            Self::FetchExport(args) => args.run(output).await?,
            Self::List(args) => args.run(output).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// docs/formats/keyset-export.md.
#[derive(Serialize)]
struct ExportFile {
    format: &'static str,
    operation: String,
    eid: String,
    security_domain: u32,
    protocol: u32,
    kvn: u32,
    key_bits: u32,
    transport_key: String,
    oaep_hash: String,
    wrapped_transport_key: String,
    keys: Vec<ExportedKey>,
    entry_index: u64,
}

#[derive(Serialize)]
struct ExportedKey {
    wrapped: String,
    key_check_value: String,
}

impl FetchExportArgs {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let operation = hex::decode(&self.operation).map_err(|_| {
            CliError::invalid("the digest is not hex".to_owned(), "give the 64 digits of the operation")
        })?;
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = FetchKeysetExportRequest { idempotency_key: key.clone(), operation };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = TransportKeyServiceClient::new(connection.channel());
                async move { client.fetch_keyset_export(request).await }
            })
            .await?;
        let name = answer.keyset.unwrap_or_default();
        let file = ExportFile {
            format: "chancery-keyset-export/1",
            operation: self.operation.clone(),
            eid: answer.eid,
            security_domain: name.security_domain,
            protocol: name.protocol,
            kvn: name.key_version_number,
            key_bits: answer.key_bits,
            transport_key: answer.transport_key,
            oaep_hash: answer.oaep_hash,
            wrapped_transport_key: hex::encode(answer.wrapped_transport_key),
            keys: answer
                .keys
                .into_iter()
                .map(|key| ExportedKey {
                    wrapped: hex::encode(key.wrapped),
                    key_check_value: hex::encode(key.key_check_value),
                })
                .collect(),
            entry_index: answer.entry_index,
        };
        let bytes = serde_json::to_vec_pretty(&file)
            .map_err(|error| CliError::Answer(format!("the export cannot be written: {error}")))?;
        files::write_new(&self.out, &bytes, Readers::Owner)?;
        output.print(&file, |file| {
            format!(
                "{} keys of {} wrapped under {} (log entry {})",
                file.keys.len(),
                file.eid,
                file.transport_key,
                file.entry_index
            )
        })
    }
}

impl RegisterTransportKeyArgs {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let (key, backup) = match (&self.public_key, &self.key_file) {
            (Some(path), _) => {
                let spki = files::pem_or_der(files::read(path)?, "PUBLIC KEY", &path.display().to_string())?;
                (Key::RsaPublicKey(spki), String::new())
            }
            (None, Some(path)) => {
                let file = KeyFile::read(path)?;
                (Key::Imported(file.token_key()?), file.backup(self.backup.as_ref())?)
            }
            (None, None) => {
                return Err(CliError::invalid(
                    "no key is named".to_owned(),
                    "pass --public-key or --key-file",
                ));
            }
        };
        let expires = self.expires.from(SystemClock::new().now());
        let request = RegisterTransportKey {
            party: self.party.clone(),
            name: self.name.clone(),
            key: Some(key),
            expires: Some(clock::to_wire(expires)),
            backup,
        };
        operation::request(Kind::RegisterTransportKey(request), &self.request, output).await
    }
}

#[derive(Serialize)]
struct MasterRow {
    generation: u32,
    name: String,
    role: String,
    key_check_value: String,
    schemes: Vec<String>,
    backup: String,
}

impl ListArgs {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(ListMastersRequest {});
                let mut client = TransportKeyServiceClient::new(connection.channel());
                async move { client.list_masters(request).await }
            })
            .await?;
        let rows: Vec<MasterRow> = answer
            .masters
            .into_iter()
            .map(|Master { generation, name, role, key_check_value, schemes, backup }| MasterRow {
                generation,
                name,
                role,
                key_check_value: hex::encode(key_check_value),
                schemes,
                backup,
            })
            .collect();
        output.print(&rows, |rows| {
            table(
                ["generation", "name", "kind", "KCV", "schemes", "backup"],
                rows.iter().map(|row| {
                    [
                        row.generation.to_string(),
                        printable(&row.name),
                        printable(&row.role),
                        row.key_check_value.clone(),
                        printable(&row.schemes.join(", ")),
                        printable(&row.backup),
                    ]
                }),
            )
        })
    }
}

#[derive(Serialize)]
struct TransportKeyRow {
    party: String,
    name: String,
    number: u32,
    algorithm: String,
    key_check_value: String,
    expires: String,
    state: &'static str,
    /// Whether keys leave under it, or come in.
    direction: &'static str,
    backup: String,
}

impl ListKeysArgs {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let message = ListTransportKeysRequest { party: self.party.clone().unwrap_or_default() };
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = TransportKeyServiceClient::new(connection.channel());
                async move { client.list_transport_keys(request).await }
            })
            .await?;
        let rows: Vec<TransportKeyRow> = answer.keys.into_iter().map(row).collect();
        output.print(&rows, |rows| {
            table(
                ["party", "name", "version", "algorithm", "KCV", "keys", "expires", "state"],
                rows.iter().map(|row| {
                    [
                        printable(&row.party),
                        printable(&row.name),
                        row.number.to_string(),
                        printable(&row.algorithm),
                        row.key_check_value.clone(),
                        row.direction.to_owned(),
                        row.expires.clone(),
                        row.state.to_owned(),
                    ]
                }),
            )
        })
    }
}

fn row(key: TransportKey) -> TransportKeyRow {
    let state = match key.state() {
        TransportKeyState::InForce => "in-force",
        TransportKeyState::Followed => "followed",
        TransportKeyState::Expired => "expired",
        TransportKeyState::Retired => "retired",
        TransportKeyState::Unspecified => "unknown",
    };
    TransportKeyRow {
        state,
        direction: if key.incoming { "come in" } else { "leave" },
        expires: key.expires.as_ref().map(|at| clock::from_wire(at).to_string()).unwrap_or_default(),
        party: key.party,
        name: key.name,
        number: key.number,
        algorithm: key.algorithm,
        key_check_value: hex::encode(key.key_check_value),
        backup: key.backup,
    }
}
