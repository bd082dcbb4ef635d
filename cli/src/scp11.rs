//! `chancery scp11 ...`: sessions of SCP11a and SCP11c, and the keys that they need.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use domain::{Eid, PrincipalId};
use keys::scp11::{OpenedKeys, Sealing};
use keys::seal::{self, Sealed};
use proto::v1::operation::Kind;
use proto::v1::scp11_service_client::Scp11ServiceClient;
use proto::v1::{
    CardKey, CardKeyName, FetchScp11KeysRequest, FetchScp11KeysResponse, OpenScp11SessionRequest,
    RegisterCardKeysRequest, RegisterOceKey, Scp11Session, Scp11Variant,
};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::custody::KeyFile;
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::{names, parse_name};
use crate::key_file::PrivateKey;
use crate::keyset::DomainArg;
use crate::operation::{self, RequestArgs};
use crate::output::{Output, fields};

/// Card keys of one request.
const KEYS_PER_REQUEST: usize = 200;

/// `chancery scp11 ...`
#[derive(Debug, Subcommand)]
pub enum Scp11Command {
    /// Request that a platform's key SK.OCE.ECKA and the seed of its one-time keys are taken into use.
    #[command(after_help = "Example:
  chanceryd ceremony create-key --config chanceryd.toml --role oce-agreement --name otaco --party otaco --out oce.json
  chanceryd ceremony create-key --config chanceryd.toml --role oce-seed --name otaco --out seed.json
  chancery scp11 key-register --key-file oce.json --seed-file seed.json --party otaco \\
      --backup 'vendor clone in the vault' --reason 'ceremony of 2026-11-25' --identity alice/

The card issuer certifies the public key in oce.json (CERT.OCE.ECKA); the platform presents that certificate to the card itself.")]
    KeyRegister(KeyRegister),
    /// Register the keys PK.SD.ECKA of your devices (manufacturers).
    #[command(after_help = "Example:
  chancery scp11 card-register --keys keys.csv --kvn 0x03 --identity acme/

keys.csv begins with the line eid,public_key; a key is an uncompressed point of P-256 in hex (65 bytes). Keys go in requests of 200,
each all or none.")]
    CardRegister(CardRegister),
    /// Begin a session: the data of MUTUAL AUTHENTICATE.
    #[command(after_help = "Example:
  chancery scp11 open --eid 89049032123451234512345678901235 --kvn 0x03 --oce-key otaco --variant a \\
      --purpose remote-management --identity otaco/

Send the card PERFORM SECURITY OPERATION with the platform's certificates, then 80 82 KVN KID with the command data.")]
    Open(Open),
    /// Fetch the session keys with the card's answer, whose receipt proves the card.
    #[command(after_help = "Examples:
  chancery scp11 fetch --eid 89049032123451234512345678901235 --kvn 0x03 --oce-key otaco --variant a \\
      --session-id 00112233... --card-answer 5f4941...8610... --out keys.json --purpose remote-management --identity otaco/
  chancery scp11 fetch --eid 89049032123451234512345678901235 --kvn 0x03 --oce-key otaco --variant c \\
      --session-id 00112233... --without-device-proof --out keys.json --purpose script --identity otaco/")]
    Fetch(Box<Fetch>),
}

/// Arguments of `scp11 key-register`.
#[derive(Debug, Args)]
pub struct KeyRegister {
    /// The JSON that the ceremony wrote for the role oce-agreement
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// The JSON that the ceremony wrote for the role oce-seed
    #[arg(long, value_name = "FILE")]
    seed_file: PathBuf,
    /// Name of the key; the one in the file when absent
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// The provisioner whose platform it is
    #[arg(long, value_parser = parse_name)]
    party: String,
    /// How both are restored when their token is lost
    #[arg(long, value_name = "TEXT")]
    backup: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `scp11 card-register`.
#[derive(Debug, Args)]
pub struct CardRegister {
    /// CSV file: eid,public_key
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    #[command(flatten)]
    name: CardKeyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Which key of a card.
#[derive(Debug, Args)]
struct CardKeyArgs {
    /// Key version number of PK.SD.ECKA, 1 to 127: 3 or 0x03
    #[arg(long, value_parser = parse_kvn)]
    kvn: u8,
    /// Security domain that holds the key
    #[arg(long, default_value = "isd-r")]
    security_domain: DomainArg,
}

/// What a session is for; the same in both calls.
#[derive(Debug, Args)]
struct SessionArgs {
    /// The device
    #[arg(long)]
    eid: Eid,
    #[command(flatten)]
    card_key: CardKeyArgs,
    /// The platform's key, as it was registered
    #[arg(long, value_parser = parse_name)]
    oce_key: String,
    /// a: both sides make one-time keys; c: the card has its static key alone
    #[arg(long)]
    variant: VariantArg,
    /// Only MACs (key usage 34), where commands and responses are else enciphered as well (3C)
    #[arg(long)]
    mac_only: bool,
    /// Bits of each session key
    #[arg(long, default_value_t = 128, value_parser = parse_bits)]
    key_bits: u32,
    /// What it is for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum VariantArg {
    /// SCP11a
    A,
    /// SCP11c
    C,
}

/// Arguments of `scp11 open`.
#[derive(Debug, Args)]
pub struct Open {
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `scp11 fetch`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("proof").required(true).args(["card_answer", "without_device_proof"]))]
pub struct Fetch {
    #[command(flatten)]
    session: SessionArgs,
    /// From `scp11 open`, in hex
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    session_id: Bytes,
    /// What the card answered in hex, without status words: 5F49 41 key, 86 10 receipt
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    card_answer: Option<Bytes>,
    /// SCP11c: no card is there yet. Needs a grant that allows release without the device's proof
    #[arg(long)]
    without_device_proof: bool,
    /// File for the session keys, readable only by its owner: JSON of s_enc, s_mac, s_rmac, s_dek, mac_chaining_value in hex
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes).map_err(|_| "give hexadecimal digits".to_owned())
}

fn parse_kvn(text: &str) -> Result<u8, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    number.filter(|kvn| (1..=127).contains(kvn)).ok_or_else(|| "a key version number is 1 to 127".to_owned())
}

fn parse_bits(text: &str) -> Result<u32, String> {
    match text {
        "128" => Ok(128),
        "192" => Ok(192),
        "256" => Ok(256),
        _ => Err("give 128, 192 or 256".to_owned()),
    }
}

impl CardKeyArgs {
    fn message(&self) -> CardKeyName {
        CardKeyName { security_domain: self.security_domain.code(), key_version_number: u32::from(self.kvn) }
    }
}

impl SessionArgs {
    fn message(&self) -> Scp11Session {
        Scp11Session {
            eid: self.eid.to_string(),
            card_key: Some(self.card_key.message()),
            oce_key: self.oce_key.clone(),
            variant: match self.variant {
                VariantArg::A => Scp11Variant::A.into(),
                VariantArg::C => Scp11Variant::C.into(),
            },
            mac_only: self.mac_only,
            key_bits: self.key_bits,
            purpose: self.purpose.clone(),
        }
    }
}

impl Scp11Command {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::KeyRegister(register) => register.run(output).await,
            Self::CardRegister(register) => register.run(output).await,
            Self::Open(open) => open.run(output).await,
            Self::Fetch(fetch) => fetch.run(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl KeyRegister {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let key = KeyFile::read(&self.key_file)?;
        let register = RegisterOceKey {
            name: self.name.clone().unwrap_or_else(|| key.name().to_owned()),
            party: self.party.clone(),
            agreement: Some(key.token_key()?),
            seed: Some(KeyFile::read(&self.seed_file)?.token_key()?),
            backup: self.backup.clone(),
        };
        operation::request(Kind::RegisterOceKey(register), &self.request, output).await
    }
}

/// The keys in a CSV file `eid,public_key`.
pub fn read_card_keys(bytes: &[u8]) -> Result<Vec<(Eid, Vec<u8>)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some("eid,public_key") {
        return Err("its first line is eid,public_key".to_owned());
    }
    let mut keys = Vec::new();
    for (at, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &str| format!("line {}: {what}", at + 2);
        let (eid, key) = line.trim().split_once(',').ok_or_else(|| wrong("it has two columns"))?;
        let eid = eid.trim().parse().map_err(|error: domain::EidError| wrong(&error.to_string()))?;
        let key = hex::decode(key.trim()).map_err(|_| wrong("the key is not hexadecimal"))?;
        if key.len() != 65 {
            return Err(wrong("a key has 65 bytes: 04, x, y"));
        }
        keys.push((eid, key));
    }
    if keys.is_empty() {
        return Err("it has no keys".to_owned());
    }
    Ok(keys)
}

#[derive(Serialize)]
struct Registered {
    keys: usize,
    entry_index: u64,
}

impl CardRegister {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let keys = read_card_keys(&files::read(&self.keys)?).map_err(|why| {
            CliError::invalid(format!("{}: {why}", self.keys.display()), "correct the file and send it again")
        })?;
        let connection = self.remote.connect(output).await?;
        let mut registered = Registered { keys: 0, entry_index: 0 };
        for part in keys.chunks(KEYS_PER_REQUEST) {
            let message = RegisterCardKeysRequest {
                idempotency_key: crate::connect::random_key()?,
                keys: part
                    .iter()
                    .map(|(eid, key)| CardKey {
                        eid: eid.to_string(),
                        name: Some(self.name.message()),
                        public_key: key.clone(),
                    })
                    .collect(),
            };
            let answer = connection
                .call(output, Some(&message.idempotency_key), || {
                    let request = connection.request(message.clone());
                    let mut client = Scp11ServiceClient::new(connection.channel());
                    async move { client.register_card_keys(request).await }
                })
                .await?;
            registered.keys += part.len();
            registered.entry_index = answer.entry_index;
            output.step(&format!("{} of {} keys are registered", registered.keys, keys.len()));
        }
        output.print(&registered, |registered| {
            fields([
                ("keys", registered.keys.to_string()),
                ("last log entry", registered.entry_index.to_string()),
            ])
        })
    }
}

#[derive(Serialize)]
struct Opened {
    session_id: String,
    command_data: String,
}

impl Open {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let message = OpenScp11SessionRequest { session: Some(self.session.message()) };
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = Scp11ServiceClient::new(connection.channel());
                async move { client.open_scp11_session(request).await }
            })
            .await?;
        let opened = Opened {
            session_id: hex::encode(answer.session_id),
            command_data: hex::encode(answer.command_data),
        };
        output.print(&opened, |opened| {
            fields([
                ("session id", opened.session_id.clone()),
                ("data of MUTUAL AUTHENTICATE", opened.command_data.clone()),
            ])
        })
    }
}

#[derive(Serialize)]
struct Fetched {
    keys: String,
    entry_index: u64,
}

impl Fetch {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let encryption_key =
            PrivateKey::load(&self.remote.identity.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let connection = self.remote.connect(output).await?;
        let message = FetchScp11KeysRequest {
            idempotency_key: self.idempotency.key()?,
            session: Some(self.session.message()),
            session_id: self.session_id.0.clone(),
            card_answer: self.card_answer.as_ref().map(|answer| answer.0.clone()).unwrap_or_default(),
            without_device_proof: self.without_device_proof,
        };
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = Scp11ServiceClient::new(connection.channel());
                async move { client.fetch_scp11_keys(request).await }
            })
            .await?;
        let opened = self.open(
            &answer,
            &PrincipalId(connection.principal),
            &message.idempotency_key,
            &encryption_key,
        )?;
        let [s_enc, s_mac, s_rmac, s_dek] =
            opened.keys.each_ref().map(|key| Zeroizing::new(hex::encode(key.expose())));
        let text = Zeroizing::new(
            json!({
                "s_enc": *s_enc, "s_mac": *s_mac, "s_rmac": *s_rmac, "s_dek": *s_dek,
                "mac_chaining_value": hex::encode(opened.receipt),
            })
            .to_string(),
        );
        files::write_new(&self.out, text.as_bytes(), Readers::Owner)?;
        let fetched = Fetched { keys: self.out.display().to_string(), entry_index: answer.entry_index };
        output.print(&fetched, |fetched| {
            fields([
                ("session keys", format!("{} (use them and delete the file)", fetched.keys)),
                ("log entry", fetched.entry_index.to_string()),
            ])
        })
    }

    fn open(
        &self,
        answer: &FetchScp11KeysResponse,
        principal: &PrincipalId,
        request_id: &str,
        encryption_key: &[u8; 32],
    ) -> Result<OpenedKeys, CliError> {
        let wrong = |what: &str| CliError::Answer(format!("the session keys: {what}"));
        let session_id =
            self.session_id.0.as_slice().try_into().map_err(|_| wrong("a session id has 16 bytes"))?;
        let sealing = Sealing {
            principal,
            eid: &self.session.eid,
            kvn: self.session.card_key.kvn,
            session_id: &session_id,
            request_id: request_id.as_bytes(),
        };
        let info = sealing.info().map_err(|error| wrong(&error.to_string()))?;
        let sealed = Sealed {
            encapsulated_key: answer
                .encapsulated_key
                .as_slice()
                .try_into()
                .map_err(|_| wrong("the encapsulated key is no point"))?,
            ciphertext: answer.ciphertext.clone(),
        };
        let opened = seal::open(encryption_key, &info, &sealed)
            .map_err(|_| wrong("they do not open with this identity's encryption key"))?;
        OpenedKeys::decode(&opened).map_err(|error| wrong(&error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_card_keys_is_read_whole_or_refused_with_its_line() {
        let key = format!("04{}", "11".repeat(64));
        let eid = "89049032123451234512345678901235";
        let good = format!("eid,public_key\n{eid},{key}\n\n");
        assert_eq!(read_card_keys(good.as_bytes()).unwrap().len(), 1);
        for (text, why) in [
            (String::new(), "first line"),
            ("eid,public_key\n".to_owned(), "no keys"),
            (format!("eid,public_key\n{eid}\n"), "line 2"),
            (format!("eid,public_key\n{eid},{key}\n89,{key}\n"), "line 3"),
            (format!("eid,public_key\n{eid},{}\n", &key[2..]), "65 bytes"),
            (format!("eid,public_key\n{eid},zz\n"), "hexadecimal"),
        ] {
            assert!(read_card_keys(text.as_bytes()).unwrap_err().contains(why), "{text}");
        }
        assert!(parse_kvn("0").is_err() && parse_kvn("128").is_err() && parse_kvn("0x7f") == Ok(127));
    }
}
