//! `chancery session-keys tls`: the master secret of one TLS connection with a card of SCP81.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use domain::{Eid, KeyVersionNumber, PrincipalId, Protocol};
use keys::seal::{self, Sealed};
use proto::v1::fetch_tls_secret_request::Client;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::{FetchTlsSecretRequest, FetchTlsSecretResponse, NamedKeyset};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::keyset::NameArgs;
use crate::output::{Output, fields};

/// Arguments of `session-keys tls`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("client").required(true).args(["psk_identity", "eid"]))]
#[command(group = ArgGroup::new("proof").required(true).args(["client_finished", "without_device_proof"]))]
pub struct Tls {
    /// The psk_identity of ClientKeyExchange, where it is EID.KVN: 89049032123451234512345678901235.40
    #[arg(long, value_name = "TEXT", value_parser = parse_identity)]
    psk_identity: Option<Identity>,
    /// The device, where its psk_identity is another
    #[arg(long)]
    eid: Option<Eid>,
    /// Which keyset; with --eid
    #[command(flatten)]
    keyset: OptionalKeyset,
    /// IANA number of the cipher suite: 00a8 AES-128-GCM, 00a9 AES-256-GCM, 00ae AES-128-CBC, 00af AES-256-CBC
    #[arg(long, value_name = "HEX", value_parser = parse_suite)]
    cipher_suite: u32,
    /// Random of ClientHello in hex, 32 bytes
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    client_random: Bytes,
    /// Random of ServerHello in hex, 32 bytes
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    server_random: Bytes,
    /// Hash of all handshake messages up to and with ClientKeyExchange in hex: SHA-256, or SHA-384 for the suites of 256 bits
    #[arg(long, value_name = "HEX", value_parser = parse_bytes, required_if_eq("extended_master_secret", "true"))]
    handshake_hash: Option<Bytes>,
    /// The extended master secret (RFC 7627) was negotiated
    #[arg(long)]
    extended_master_secret: bool,
    /// Encrypt-then-MAC (RFC 7366) was negotiated
    #[arg(long)]
    encrypt_then_mac: bool,
    /// Fragment of the client's first record after ChangeCipherSpec in hex: its Finished, which proves its key
    #[arg(long, value_name = "HEX", value_parser = parse_bytes, requires = "handshake_hash")]
    client_finished: Option<Bytes>,
    /// No Finished is there yet. Needs a grant that allows release without the device's proof
    #[arg(long)]
    without_device_proof: bool,
    /// File for the secret, readable only by its owner: one line of an NSS key log (CLIENT_RANDOM ...)
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What it is for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// The keyset of a device that is named by its EID.
#[derive(Debug, Args)]
struct OptionalKeyset {
    #[command(flatten)]
    name: Option<NameArgs>,
}

#[derive(Clone, Debug)]
struct Identity(Vec<u8>, KeyVersionNumber);

#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

fn parse_identity(text: &str) -> Result<Identity, String> {
    let wrong = || "an identity is the EID, a dot and the KVN in two hexadecimal digits".to_owned();
    let (eid, kvn) = text.split_once('.').ok_or_else(wrong)?;
    eid.parse::<Eid>().map_err(|error| error.to_string())?;
    let kvn = u32::from_str_radix(kvn, 16).map_err(|_| wrong())?;
    let kvn = KeyVersionNumber::new(Protocol::Scp81, kvn).map_err(|error| error.to_string())?;
    Ok(Identity(text.as_bytes().to_vec(), kvn))
}

fn parse_suite(text: &str) -> Result<u32, String> {
    let digits = text.trim_start_matches("0x").trim_start_matches("0X");
    u16::from_str_radix(digits, 16)
        .ok()
        .filter(|code| keys::tls_psk::CipherSuite::from_code(*code).is_some())
        .map(u32::from)
        .ok_or_else(|| "a cipher suite is 00a8, 00a9, 00ae or 00af".to_owned())
}

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes).map_err(|_| "give hexadecimal digits".to_owned())
}

#[derive(Serialize)]
struct Fetched {
    eid: String,
    kvn: String,
    secret: String,
    entry_index: u64,
}

impl Tls {
    pub(super) async fn run(&self, output: Output) -> Result<(), CliError> {
        let encryption_key =
            PrivateKey::load(&self.remote.identity.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let connection = self.remote.connect(output).await?;
        let message = self.request()?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = SessionKeyServiceClient::new(connection.channel());
                async move { client.fetch_tls_secret(request).await }
            })
            .await?;
        let (secret, kvn) =
            self.open(&message, &answer, &PrincipalId(connection.principal), &encryption_key)?;
        let line = Zeroizing::new(format!(
            "CLIENT_RANDOM {} {}\n",
            hex::encode(&message.client_random),
            *Zeroizing::new(hex::encode(&secret))
        ));
        files::write_new(&self.out, line.as_bytes(), Readers::Owner)?;
        let fetched = Fetched {
            eid: answer.eid,
            kvn: format!("{:#04x}", kvn.value()),
            secret: self.out.display().to_string(),
            entry_index: answer.entry_index,
        };
        output.print(&fetched, |fetched| {
            fields([
                ("EID", fetched.eid.clone()),
                ("KVN", fetched.kvn.clone()),
                ("master secret", format!("{} (use it and delete it)", fetched.secret)),
                ("log entry", fetched.entry_index.to_string()),
            ])
        })
    }

    fn request(&self) -> Result<FetchTlsSecretRequest, CliError> {
        let bytes = |given: &Option<Bytes>| given.as_ref().map(|bytes| bytes.0.clone()).unwrap_or_default();
        let client = match (&self.psk_identity, &self.eid, &self.keyset.name) {
            (Some(identity), _, _) => Client::PskIdentity(identity.0.clone()),
            (None, Some(eid), Some(name)) => {
                Client::Named(NamedKeyset { eid: eid.to_string(), keyset: Some(name.name()) })
            }
            _ => return Err(CliError::invalid("no keyset is named", "pass --kvn with --eid")),
        };
        Ok(FetchTlsSecretRequest {
            idempotency_key: self.idempotency.key()?,
            client: Some(client),
            cipher_suite: self.cipher_suite,
            client_random: self.client_random.0.clone(),
            server_random: self.server_random.0.clone(),
            handshake_hash: bytes(&self.handshake_hash),
            extended_master_secret: self.extended_master_secret,
            encrypt_then_mac: self.encrypt_then_mac,
            client_finished: bytes(&self.client_finished),
            without_device_proof: self.without_device_proof,
            purpose: self.purpose.clone(),
        })
    }

    fn open(
        &self,
        request: &FetchTlsSecretRequest,
        answer: &FetchTlsSecretResponse,
        principal: &PrincipalId,
        encryption_key: &[u8; 32],
    ) -> Result<(Zeroizing<Vec<u8>>, KeyVersionNumber), CliError> {
        let wrong = |what: &str| CliError::Answer(format!("the TLS secret: {what}"));
        let kvn = match (&self.psk_identity, &self.keyset.name) {
            (Some(identity), _) => identity.1,
            (None, name) => name
                .as_ref()
                .and_then(|name| name.domain_and_kvn())
                .map(|(_, kvn)| kvn)
                .ok_or_else(|| wrong("no keyset of SCP81"))?,
        };
        let eid = answer.eid.parse().map_err(|_| wrong("no EID"))?;
        let random = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| wrong("a random has 32 bytes"));
        let (client, server) = (random(&request.client_random)?, random(&request.server_random)?);
        let key = request.idempotency_key.as_bytes();
        let info = seal::tls_secret_info(principal, &eid, kvn, (&client, &server), key)
            .map_err(|error| wrong(&error.to_string()))?;
        let sealed = Sealed {
            encapsulated_key: answer
                .encapsulated_key
                .as_slice()
                .try_into()
                .map_err(|_| wrong("the encapsulated key is no point"))?,
            ciphertext: answer.ciphertext.clone(),
        };
        let secret = seal::open(encryption_key, &info, &sealed)
            .map_err(|_| wrong("it does not open with this identity's encryption key"))?;
        if secret.len() == keys::tls_psk::MASTER_SECRET_BYTES {
            Ok((secret, kvn))
        } else {
            Err(wrong("it has not 48 bytes"))
        }
    }
}
