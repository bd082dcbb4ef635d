//! The three calls of a profile download, each reading and writing files of one folder.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use domain::{Eid, PrincipalId};
use keys::bsp::{BoundKeys, BspKeys, bound_keys_info};
use keys::rsp::TransactionId;
use keys::seal::{self, Sealed};
use proto::v1::rsp_service_client::RspServiceClient;
use proto::v1::{
    AuthenticateClientRequest, BindProfileRequest, BindProfileResponse, InitiateAuthenticationRequest,
    ProfileProtection,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::connect::{Connection, IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::output::{Output, fields, printable};

const TRANSACTION_ID: &str = "transaction-id.hex";
const EID: &str = "eid.txt";
const KEYS: &str = "bsp-keys.json";

/// Arguments of `rsp initiate`.
#[derive(Debug, Args)]
pub struct Initiate {
    /// euiccChallenge, 16 bytes in hex
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    euicc_challenge: Hex,
    /// EUICCInfo1 of the eUICC (DER, tag BF20)
    #[arg(long, value_name = "FILE")]
    euicc_info1: PathBuf,
    /// The server address that the LPA used
    #[arg(long, value_name = "HOST")]
    server_address: String,
    /// What the download is for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
    /// Folder to make for the transaction
    #[arg(long, value_name = "DIR")]
    transaction: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `rsp authenticate`.
#[derive(Debug, Args)]
pub struct Authenticate {
    /// Folder of the transaction
    #[arg(long, value_name = "DIR")]
    transaction: PathBuf,
    /// AuthenticateServerResponse of the eUICC (DER, tag BF38)
    #[arg(long, value_name = "FILE")]
    response: PathBuf,
    /// File with the confirmation code, when the download needs one; only its SHA-256 leaves
    #[arg(long, value_name = "FILE")]
    confirmation_code_file: Option<PathBuf>,
    /// As at the initiation
    #[arg(long)]
    purpose: String,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `rsp bind`.
#[derive(Debug, Args)]
pub struct Bind {
    /// Folder of the transaction
    #[arg(long, value_name = "DIR")]
    transaction: PathBuf,
    /// PrepareDownloadResponse of the eUICC (DER, tag BF21)
    #[arg(long, value_name = "FILE")]
    response: PathBuf,
    /// Host id of the SM-DP+, 1 to 16 bytes in hex
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    host_id: Hex,
    /// How the profile itself is protected in the package
    #[arg(long, value_enum, default_value_t = Protection::SessionKeys)]
    protection: Protection,
    /// As at the initiation
    #[arg(long)]
    purpose: String,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// How the profile itself is protected (SGP.22 §2.5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Protection {
    /// Under the keys agreed with the eUICC
    SessionKeys,
    /// Under fresh keys of the profile (PPK), brought by ReplaceSessionKeys
    ProfileKeys,
}

/// Bytes given in hex.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hex(Vec<u8>);

impl Hex {
    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Reads bytes in hex.
pub fn parse_hex(text: &str) -> Result<Hex, String> {
    hex::decode(text).map(Hex).map_err(|_| "give pairs of hexadecimal digits".to_owned())
}

#[derive(Serialize)]
struct Done {
    transaction: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    eid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matching_id: Option<String>,
    /// Serial numbers in the eUICC's chain, where the grant warns of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revoked_certificates: Vec<String>,
    files: Vec<String>,
    entry_index: u64,
}

impl Done {
    fn print(&self, output: Output) -> Result<(), CliError> {
        output.print(self, |done| {
            let mut rows = vec![("transaction", done.transaction.clone())];
            rows.extend(done.eid.clone().map(|eid| ("EID", eid)));
            rows.extend(done.matching_id.as_deref().map(|id| ("matching id", printable(id))));
            rows.extend(
                done.revoked_certificates
                    .iter()
                    .map(|serial| ("WARNING: revoked in the eUICC's chain", serial.clone())),
            );
            rows.push(("files", done.files.join(" ")));
            rows.push(("log entry", done.entry_index.to_string()));
            fields(rows)
        })
    }
}

impl Initiate {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        files::check_empty_or_absent(&self.transaction)?;
        let message = InitiateAuthenticationRequest {
            idempotency_key: self.idempotency.key()?,
            euicc_challenge: self.euicc_challenge.0.clone(),
            server_address: self.server_address.clone(),
            euicc_info1: files::read(&self.euicc_info1)?,
            purpose: self.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = RspServiceClient::new(connection.channel());
                async move { client.initiate_authentication(request).await }
            })
            .await?;
        files::create_folder(&self.transaction)?;
        let id = hex::encode(&answer.transaction_id);
        let files = write_all(
            &self.transaction,
            &[
                (TRANSACTION_ID, id.as_bytes()),
                ("server-signed1.der", &answer.server_signed1),
                ("server-signature1.bin", &answer.server_signature1),
                ("ci-key-id.hex", hex::encode(&answer.ci_key_id).as_bytes()),
                ("dpauth.der", &answer.server_certificate),
            ],
        )?;
        Done {
            transaction: id,
            eid: None,
            matching_id: None,
            revoked_certificates: Vec::new(),
            files,
            entry_index: answer.entry_index,
        }
        .print(output)
    }
}

impl Authenticate {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let transaction_id = transaction_id(&self.transaction)?;
        let confirmation_code_digest = match &self.confirmation_code_file {
            Some(path) => {
                let code = Zeroizing::new(files::read_text(path)?);
                Sha256::digest(code.trim_end_matches(['\r', '\n'])).to_vec()
            }
            None => Vec::new(),
        };
        let message = AuthenticateClientRequest {
            idempotency_key: self.idempotency.key()?,
            transaction_id: transaction_id.0.to_vec(),
            authenticate_server_response: files::read(&self.response)?,
            confirmation_code_digest,
            purpose: self.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = RspServiceClient::new(connection.channel());
                async move { client.authenticate_client(request).await }
            })
            .await?;
        let files = write_all(
            &self.transaction,
            &[
                (EID, answer.eid.as_bytes()),
                ("matching-id.txt", answer.matching_id.as_bytes()),
                ("smdp-signed2.der", &answer.smdp_signed2),
                ("smdp-signature2.bin", &answer.smdp_signature2),
                ("dppb.der", &answer.smdp_certificate),
            ],
        )?;
        Done {
            transaction: hex::encode(transaction_id.0),
            eid: Some(answer.eid),
            matching_id: Some(answer.matching_id),
            revoked_certificates: answer.revoked_serial_numbers.iter().map(hex::encode).collect(),
            files,
            entry_index: answer.entry_index,
        }
        .print(output)
    }
}

impl Bind {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let transaction_id = transaction_id(&self.transaction)?;
        let eid: Eid = files::read_text(&self.transaction.join(EID))?
            .trim()
            .parse()
            .map_err(|_| CliError::invalid(format!("{EID} holds no EID"), "authenticate the eUICC first"))?;
        let encryption_key =
            PrivateKey::load(&self.remote.identity.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let protection = match self.protection {
            Protection::SessionKeys => ProfileProtection::SessionKeys,
            Protection::ProfileKeys => ProfileProtection::ProfileKeys,
        };
        let message = BindProfileRequest {
            idempotency_key: self.idempotency.key()?,
            transaction_id: transaction_id.0.to_vec(),
            prepare_download_response: files::read(&self.response)?,
            host_id: self.host_id.0.clone(),
            protection: protection.into(),
            purpose: self.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = call_bind(&connection, &message, output).await?;
        let principal = PrincipalId(connection.principal);
        let keys = open(&answer, &principal, &eid, &transaction_id, &encryption_key)?;
        let (session, profile) = (hex_keys(&keys.session), keys.profile.as_ref().map(hex_keys));
        let opened = KeysFile {
            format: "chancery-bsp-keys/v1",
            session: one_set(&session),
            profile: profile.as_ref().map(one_set),
        };
        // The text holds keys, so it is sized once and wiped.
        let mut text = Zeroizing::new(Vec::with_capacity(2048));
        serde_json::to_writer_pretty(&mut *text, &opened)
            .map_err(|error| CliError::Local(error.to_string()))?;
        files::replace(&self.transaction.join(KEYS), &text, Readers::Owner)?;
        let mut files = write_all(
            &self.transaction,
            &[("initialise-secure-channel.der", &answer.initialise_secure_channel)],
        )?;
        files.push(KEYS.to_owned());
        Done {
            transaction: hex::encode(transaction_id.0),
            eid: Some(eid.to_string()),
            matching_id: None,
            revoked_certificates: Vec::new(),
            files,
            entry_index: answer.entry_index,
        }
        .print(output)
    }
}

async fn call_bind(
    connection: &Connection,
    message: &BindProfileRequest,
    output: Output,
) -> Result<BindProfileResponse, CliError> {
    connection
        .call(output, Some(&message.idempotency_key), || {
            let request = connection.request(message.clone());
            let mut client = RspServiceClient::new(connection.channel());
            async move { client.bind_profile(request).await }
        })
        .await
}

/// Opens the keys of an answer in the context that it names.
pub fn open(
    answer: &BindProfileResponse,
    principal: &PrincipalId,
    eid: &Eid,
    transaction_id: &TransactionId,
    encryption_key: &[u8; 32],
) -> Result<BoundKeys, CliError> {
    let does_not_hold = |why: &str| CliError::Answer(format!("the keys of the profile: {why}"));
    let info = bound_keys_info(principal, eid, transaction_id, answer.request_id.as_bytes())
        .map_err(|error| does_not_hold(&error.to_string()))?;
    let sealed = Sealed {
        encapsulated_key: answer.encapsulated_key[..]
            .try_into()
            .map_err(|_| does_not_hold("the encapsulated key has not 65 bytes"))?,
        ciphertext: answer.ciphertext.clone(),
    };
    let plain = seal::open(encryption_key, &info, &sealed)
        .map_err(|_| does_not_hold("they do not open with this identity's encryption key"))?;
    BoundKeys::decode(&plain).map_err(|error| does_not_hold(&error.to_string()))
}

/// What `bsp-keys.json` holds.
#[derive(Serialize)]
struct KeysFile<'a> {
    format: &'static str,
    session: OneSet<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<OneSet<'a>>,
}

/// Keys of one protection.
#[derive(Serialize)]
struct OneSet<'a> {
    enc: &'a str,
    mac: &'a str,
    initial_mac_chaining_value: &'a str,
}

/// The same in hex.
type HexKeys = [Zeroizing<String>; 3];

fn hex_keys(keys: &BspKeys) -> HexKeys {
    [keys.s_enc.expose(), keys.s_mac.expose(), &keys.initial_mac_chaining_value[..]]
        .map(|key| Zeroizing::new(hex::encode(key)))
}

fn one_set([enc, mac, initial_mac_chaining_value]: &HexKeys) -> OneSet<'_> {
    OneSet { enc, mac, initial_mac_chaining_value }
}

fn transaction_id(folder: &Path) -> Result<TransactionId, CliError> {
    let path = folder.join(TRANSACTION_ID);
    let mut id = [0; 16];
    hex::decode_to_slice(files::read_text(&path)?.trim(), &mut id).map_err(|_| {
        CliError::invalid(
            format!("{} holds no transaction id", path.display()),
            "name the folder of rsp initiate",
        )
    })?;
    Ok(TransactionId(id))
}

/// Writes files of a transaction; a step that is repeated writes the same again.
fn write_all(folder: &Path, contents: &[(&str, &[u8])]) -> Result<Vec<String>, CliError> {
    contents
        .iter()
        .map(|(name, bytes)| {
            files::replace(&folder.join(name), bytes, Readers::All)?;
            Ok((*name).to_owned())
        })
        .collect()
}
