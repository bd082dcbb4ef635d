//! Session keys: fetched for a card's challenges, opened with the caller's own key, checked against the card.

mod many;
mod tls;

pub(crate) use many::read_lines;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use domain::{Eid, KeyVersionNumber, PrincipalId};
use keys::scp03::{
    CardChallenge, Challenges, Cryptogram, HostChallenge, InitializeUpdateAnswer, SessionKeys,
};
use keys::seal::{self, Sealed};
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::{FetchSessionKeysRequest, FetchSessionKeysResponse, KeyDelivery};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::many::FetchMany;
use self::tls::Tls;
use crate::connect::{Connection, IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::names;
use crate::key_file::PrivateKey;
use crate::order::KeysetArgs;
use crate::output::{Format, Output, fields};

/// `chancery session-keys ...`
#[derive(Debug, Subcommand)]
pub enum SessionKeysCommand {
    /// Fetch the SCP03 session keys for one challenge pair of a card that has proved its keys.
    ///
    /// The keys arrive sealed to this identity's encryption key. They are opened here and checked against the card's
    /// cryptogram; they are shown only with both --output json and --reveal, otherwise their digests are.
    #[command(after_help = "Examples:
  chancery session-keys fetch --eid 89049032123451234512345678901235 --kvn 0x30 \\
      --host-challenge 0001020304050607 --card-challenge 08090a0b0c0d0e0f --card-cryptogram 1122334455667788 \\
      --purpose remote-management --identity otaco/
  chancery session-keys fetch --eid 89049032123451234512345678901235 --kvn 0x30 --host-challenge b13e5f938fc108c4 \\
      --answer 000000000000000000003003703eb51047495b249f66c484c1d2ef1948000002 --security-level 33 \\
      --purpose remote-management --identity otaco/
  chancery session-keys fetch --eid 89049032123451234512345678901235 --kvn 0x30 --host-challenge b13e5f938fc108c4 \\
      --prepared --i 70 --sequence-counter 000003 --purpose night-scripts --identity otaco/
  chancery session-keys fetch ... --output json --reveal")]
    Fetch(Box<Fetch>),
    /// Fetch the session keys of many cards over one stream, from a file of challenges into a file of opened keys.
    ///
    /// A card that is refused gets a line with the reason; the others go on. The file of keys is readable only by its
    /// owner: use it and delete it.
    #[command(after_help = "Examples:
  chancery session-keys fetch-many --file challenges.jsonl --out keys.jsonl --kvn 0x30 \\
      --purpose remote-management --identity otaco/")]
    FetchMany(FetchMany),
    /// Fetch the master secret of one TLS connection with a card of SCP81 (TLS 1.2, pre-shared key).
    ///
    /// For a platform in the middle of a handshake: the client has sent ClientKeyExchange and its Finished, which proves its key.
    /// The secret of this connection leaves, the card's key never does.
    #[command(after_help = "Examples:
  chancery session-keys tls --psk-identity 89049032123451234512345678901235.40 --cipher-suite 00ae \\
      --client-random 0011... --server-random 2233... --handshake-hash 4455... --client-finished 6677... \\
      --out secret.keylog --purpose remote-management --identity otaco/
  chancery session-keys tls --eid 89049032123451234512345678901235 --kvn 0x40 --cipher-suite 00a8 \\
      --client-random 0011... --server-random 2233... --without-device-proof --out secret.keylog \\
      --purpose ota-https --identity otaco/")]
    Tls(Box<Tls>),
}

/// Arguments of `session-keys fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// The device
    #[arg(long)]
    eid: Eid,
    #[command(flatten)]
    keyset: KeysetArgs,
    /// Our challenge of INITIALIZE UPDATE in hex: 8 bytes, or 16 for a card in mode S16
    #[arg(long, value_name = "HEX", value_parser = parse_challenge)]
    host_challenge: Challenge,
    #[command(flatten)]
    card: CardArgs,
    /// Level of the channel, P1 of EXTERNAL AUTHENTICATE in hex: 01 C-MAC, 03 and C-DECRYPTION, 11 and 13 the same with
    /// R-MAC, 33 all with R-ENCRYPTION
    #[arg(long, value_name = "HEX", value_parser = parse_byte)]
    security_level: Option<u8>,
    /// How the keys leave: sealed to this identity's encryption key, or in the TLS channel alone, where the grant and the
    /// authority's configuration allow it
    #[arg(long, value_enum, default_value_t = DeliveryArg::Sealed)]
    delivery: DeliveryArg,
    /// With --delivery wrapped: name of this party's AES transport key
    #[arg(long, value_name = "NAME", value_parser = crate::identity::parse_name, required_if_eq("delivery", "wrapped"))]
    transport_key: Option<String>,
    /// What the keys are for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
    /// With --output json: print the session keys themselves
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What the card said, or will say.
#[derive(Debug, Args)]
struct CardArgs {
    /// The card's whole answer to INITIALIZE UPDATE in hex, without the status word; instead of the next four
    #[arg(long, value_name = "HEX", value_parser = parse_answer, conflicts_with_all = ["card_challenge", "card_cryptogram", "i", "sequence_counter", "prepared"])]
    answer: Option<InitializeUpdateAnswer>,
    /// The card's challenge in hex
    #[arg(long, value_name = "HEX", value_parser = parse_challenge, required_unless_present_any = ["answer", "prepared"], requires = "card_cryptogram")]
    card_challenge: Option<Challenge>,
    /// The card's proof in hex
    #[arg(long, value_name = "HEX", value_parser = parse_challenge, requires = "card_challenge")]
    card_cryptogram: Option<Challenge>,
    /// The i parameter of the card's answer in hex: 10 pseudo-random challenge, 20 R-MAC, 60 R-MAC and R-ENC, 01 mode S16
    #[arg(long, value_name = "HEX", value_parser = parse_byte)]
    i: Option<u8>,
    /// The card's sequence counter in hex, 3 bytes, with a pseudo-random challenge
    #[arg(long, value_name = "HEX", value_parser = parse_counter)]
    sequence_counter: Option<Counter>,
    /// AID of the security domain in hex, with a pseudo-random challenge [default: that of the ISD-R or ECASD]
    #[arg(long, value_name = "HEX", value_parser = parse_aid)]
    aid: Option<Aid>,
    /// Prepare the session for the sequence counter that the card will have; no card is there. Needs a grant that allows
    /// release without the device's proof
    #[arg(long, conflicts_with = "card_challenge", requires = "sequence_counter")]
    prepared: bool,
}

/// How session keys leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum DeliveryArg {
    /// HPKE to this identity's encryption key
    Sealed,
    /// In the TLS channel alone
    TlsChannel,
    /// By AES-KWP under this party's AES transport key, for its own HSM to unwrap; this tool cannot check them
    Wrapped,
}

/// 8 or 16 bytes of a challenge or cryptogram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge(Vec<u8>);

/// A sequence counter.
#[derive(Clone, Copy, Debug)]
struct Counter([u8; 3]);

/// An application identifier.
#[derive(Clone, Debug)]
struct Aid(Vec<u8>);

fn parse_challenge(text: &str) -> Result<Challenge, String> {
    match hex::decode(text) {
        Ok(bytes) if matches!(bytes.len(), 8 | 16) => Ok(Challenge(bytes)),
        _ => Err("give 16 hexadecimal digits, or 32 in mode S16".to_owned()),
    }
}

fn parse_byte(text: &str) -> Result<u8, String> {
    let mut byte = [0; 1];
    hex::decode_to_slice(text, &mut byte).map_err(|_| "give 2 hexadecimal digits".to_owned())?;
    Ok(byte[0])
}

fn parse_counter(text: &str) -> Result<Counter, String> {
    let mut counter = [0; 3];
    hex::decode_to_slice(text, &mut counter).map_err(|_| "give 6 hexadecimal digits".to_owned())?;
    Ok(Counter(counter))
}

fn parse_aid(text: &str) -> Result<Aid, String> {
    match hex::decode(text) {
        Ok(bytes) if (5..=16).contains(&bytes.len()) => Ok(Aid(bytes)),
        _ => Err("an AID has 5 to 16 bytes in hexadecimal digits".to_owned()),
    }
}

fn parse_answer(text: &str) -> Result<InitializeUpdateAnswer, String> {
    let bytes = hex::decode(text).map_err(|_| "give hexadecimal digits".to_owned())?;
    InitializeUpdateAnswer::parse(&bytes).map_err(|error| error.to_string())
}

/// Keys that were opened and proved right.
pub struct OpenedSessionKeys {
    /// The keys.
    pub keys: SessionKeys,
    /// For EXTERNAL AUTHENTICATE.
    pub host_cryptogram: Vec<u8>,
}

impl SessionKeysCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Fetch(fetch) => fetch.run(output).await.map(|()| ExitCode::SUCCESS),
            Self::FetchMany(fetch) => fetch.run(output).await,
            Self::Tls(tls) => tls.run(output).await.map(|()| ExitCode::SUCCESS),
        }
    }
}

#[derive(Serialize)]
struct Fetched<'a> {
    eid: String,
    kvn: String,
    algorithm: &'static str,
    mode: &'static str,
    host_challenge: String,
    card_challenge: String,
    card_cryptogram: String,
    host_cryptogram: String,
    entry_index: u64,
    session_key_digests: Triple<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Triple<&'a str>>,
}

#[derive(Serialize)]
struct Wrapped {
    eid: String,
    kvn: String,
    key_bits: u32,
    transport_key: String,
    transport_key_version: u32,
    host_cryptogram: String,
    wrapped: Triple<String>,
    entry_index: u64,
}

#[derive(Serialize, Clone, Copy)]
struct Triple<T> {
    s_enc: T,
    s_mac: T,
    s_rmac: T,
}

impl Fetch {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        if self.reveal && output.format != Format::Json {
            return Err(CliError::invalid(
                "session keys are not shown on a screen",
                "pass --output json too",
            ));
        }
        let encryption_key =
            PrivateKey::load(&self.remote.identity.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let connection = self.remote.connect(output).await?;
        let message = self.request()?;
        let answer = call(&connection, &message, output).await?;
        if self.delivery == DeliveryArg::Wrapped {
            return self.report_wrapped(&message, &answer, output);
        }
        let opened = open(&answer, &message, &PrincipalId(connection.principal), &encryption_key)?;
        self.report(&message, &answer, &opened, output)
    }

    /// Keys that only this party's HSM opens: nothing of them can be checked here.
    fn report_wrapped(
        &self,
        request: &FetchSessionKeysRequest,
        answer: &FetchSessionKeysResponse,
        output: Output,
    ) -> Result<(), CliError> {
        let [s_enc, s_mac, s_rmac] = &answer.wrapped_keys[..] else {
            return Err(CliError::Answer("the session keys: three wrapped ones are missing".to_owned()));
        };
        let wrapped = Wrapped {
            eid: request.eid.clone(),
            kvn: format!("{:#04x}", self.keyset.kvn),
            key_bits: answer.key_bits,
            transport_key: request.transport_key.clone(),
            transport_key_version: answer.transport_key_version,
            host_cryptogram: hex::encode(&answer.host_cryptogram),
            wrapped: Triple {
                s_enc: hex::encode(s_enc),
                s_mac: hex::encode(s_mac),
                s_rmac: hex::encode(s_rmac),
            },
            entry_index: answer.entry_index,
        };
        output.print(&wrapped, |wrapped| {
            fields([
                ("EID", wrapped.eid.clone()),
                ("KVN", wrapped.kvn.clone()),
                ("transport key", format!("{} {}", wrapped.transport_key, wrapped.transport_key_version)),
                ("host cryptogram", wrapped.host_cryptogram.clone()),
                ("S-ENC, AES-KWP", wrapped.wrapped.s_enc.clone()),
                ("S-MAC, AES-KWP", wrapped.wrapped.s_mac.clone()),
                ("S-RMAC, AES-KWP", wrapped.wrapped.s_rmac.clone()),
                ("log entry", wrapped.entry_index.to_string()),
            ])
        })
    }

    fn request(&self) -> Result<FetchSessionKeysRequest, CliError> {
        let mut message = FetchSessionKeysRequest {
            idempotency_key: self.idempotency.key()?,
            eid: self.eid.to_string(),
            keyset: Some(self.keyset.name()),
            host_challenge: self.host_challenge.0.clone(),
            purpose: self.purpose.clone(),
            security_level: self.security_level.map_or(0, u32::from),
            aid: self.card.aid.as_ref().map(|aid| aid.0.clone()).unwrap_or_default(),
            prepared: self.card.prepared,
            delivery: match self.delivery {
                DeliveryArg::Sealed => KeyDelivery::Sealed.into(),
                DeliveryArg::TlsChannel => KeyDelivery::TlsChannel.into(),
                DeliveryArg::Wrapped => KeyDelivery::Wrapped.into(),
            },
            transport_key: self.transport_key.clone().unwrap_or_default(),
            ..FetchSessionKeysRequest::default()
        };
        if let Some(answer) = &self.card.answer {
            if u32::from(answer.kvn) != self.keyset.name().key_version_number {
                return Err(CliError::invalid(
                    format!("the card answered with its keyset {:#04x}", answer.kvn),
                    "pass that as --kvn",
                ));
            }
            message.card_challenge.clone_from(&answer.card_challenge);
            message.card_cryptogram.clone_from(&answer.card_cryptogram);
            message.i_parameter = Some(answer.i.value().into());
            if answer.i.is_pseudo_random() {
                message.sequence_counter = answer.sequence_counter.map(Vec::from).unwrap_or_default();
            }
        } else {
            let bytes = |given: &Option<Challenge>| given.as_ref().map(|c| c.0.clone()).unwrap_or_default();
            message.card_challenge = bytes(&self.card.card_challenge);
            message.card_cryptogram = bytes(&self.card.card_cryptogram);
            message.i_parameter = self.card.i.map(u32::from);
            message.sequence_counter =
                self.card.sequence_counter.map(|counter| counter.0.to_vec()).unwrap_or_default();
        }
        Ok(message)
    }

    fn report(
        &self,
        request: &FetchSessionKeysRequest,
        answer: &FetchSessionKeysResponse,
        opened: &OpenedSessionKeys,
        output: Output,
    ) -> Result<(), CliError> {
        let keys = &opened.keys;
        let digest = |key: &keys::SecretKey| hex::encode(Sha256::digest(key.expose()));
        let digests = [digest(&keys.s_enc), digest(&keys.s_mac), digest(&keys.s_rmac)];
        let revealed = self.reveal.then(|| {
            [&keys.s_enc, &keys.s_mac, &keys.s_rmac].map(|key| Zeroizing::new(hex::encode(key.expose())))
        });
        let (card_challenge, card_cryptogram) = of_card(request, answer);
        let fetched = Fetched {
            eid: self.eid.to_string(),
            kvn: format!("0x{:02x}", self.keyset.kvn),
            algorithm: keys.s_enc.algorithm().as_str(),
            mode: mode_name(&self.host_challenge.0),
            host_challenge: hex::encode(&self.host_challenge.0),
            card_challenge: hex::encode(card_challenge),
            card_cryptogram: hex::encode(card_cryptogram),
            host_cryptogram: hex::encode(&opened.host_cryptogram),
            entry_index: answer.entry_index,
            session_key_digests: Triple { s_enc: &digests[0], s_mac: &digests[1], s_rmac: &digests[2] },
            session: revealed.as_ref().map(|[s_enc, s_mac, s_rmac]| Triple {
                s_enc: s_enc.as_str(),
                s_mac: s_mac.as_str(),
                s_rmac: s_rmac.as_str(),
            }),
        };
        if self.reveal {
            // The text holds keys, so it is sized once and wiped.
            let mut text = Zeroizing::new(Vec::with_capacity(2048));
            serde_json::to_writer_pretty(&mut *text, &fetched)
                .map_err(|error| CliError::Local(error.to_string()))?;
            return output.print_text(&String::from_utf8_lossy(&text));
        }
        output.print(&fetched, |fetched| {
            fields([
                ("EID", fetched.eid.clone()),
                ("KVN", fetched.kvn.clone()),
                ("algorithm", fetched.algorithm.to_owned()),
                ("mode", fetched.mode.to_owned()),
                ("card challenge", fetched.card_challenge.clone()),
                ("card cryptogram", fetched.card_cryptogram.clone()),
                ("host cryptogram", fetched.host_cryptogram.clone()),
                ("SHA-256 of S-ENC", fetched.session_key_digests.s_enc.to_owned()),
                ("SHA-256 of S-MAC", fetched.session_key_digests.s_mac.to_owned()),
                ("SHA-256 of S-RMAC", fetched.session_key_digests.s_rmac.to_owned()),
                ("log entry", fetched.entry_index.to_string()),
            ])
        })
    }
}

/// Sends a request, again under its key when that helps.
async fn call(
    connection: &Connection,
    message: &FetchSessionKeysRequest,
    output: Output,
) -> Result<FetchSessionKeysResponse, CliError> {
    connection
        .call(output, Some(&message.idempotency_key), || {
            let request = connection.request(message.clone());
            let mut client = SessionKeyServiceClient::new(connection.channel());
            async move { client.fetch_session_keys(request).await }
        })
        .await
}

/// S8 or S16, by the length of a challenge.
fn mode_name(challenge: &[u8]) -> &'static str {
    if challenge.len() == 16 { "S16" } else { "S8" }
}

/// Challenge and cryptogram of the card: what it said, or of a prepared session what it will say.
fn of_card<'a>(
    request: &'a FetchSessionKeysRequest,
    answer: &'a FetchSessionKeysResponse,
) -> (&'a [u8], &'a [u8]) {
    if request.prepared {
        (&answer.card_challenge, &answer.card_cryptogram)
    } else {
        (&request.card_challenge, &request.card_cryptogram)
    }
}

/// Opens an answer in the context of its request, and checks the keys against both cryptograms.
pub fn open(
    answer: &FetchSessionKeysResponse,
    request: &FetchSessionKeysRequest,
    principal: &PrincipalId,
    encryption_key: &[u8; 32],
) -> Result<OpenedSessionKeys, CliError> {
    match request.host_challenge.len() {
        16 => open_mode::<16>(answer, request, principal, encryption_key),
        _ => open_mode::<8>(answer, request, principal, encryption_key),
    }
}

fn open_mode<const N: usize>(
    answer: &FetchSessionKeysResponse,
    request: &FetchSessionKeysRequest,
    principal: &PrincipalId,
    encryption_key: &[u8; 32],
) -> Result<OpenedSessionKeys, CliError> {
    let does_not_hold = |why: &str| CliError::Answer(format!("the session keys: {why}"));
    let fixed = |bytes: &[u8]| {
        <[u8; N]>::try_from(bytes).map_err(|_| does_not_hold("a challenge has another length"))
    };
    let (card_challenge, card_cryptogram) = of_card(request, answer);
    let challenges = Challenges {
        host: HostChallenge(fixed(&request.host_challenge)?),
        card: CardChallenge(fixed(card_challenge)?),
    };
    let eid: Eid = request.eid.parse().map_err(|_| does_not_hold("not for an EID"))?;
    let kvn = request.keyset.map_or(0, |keyset| keyset.key_version_number);
    let kvn = KeyVersionNumber::scp03(kvn).map_err(|_| does_not_hold("not of an SCP03 keyset"))?;
    let plain = if request.delivery() == KeyDelivery::TlsChannel {
        Zeroizing::new(answer.unsealed_keys.clone())
    } else {
        let request_id = request.idempotency_key.as_bytes();
        let info = seal::session_keys_info(principal, &eid, kvn, &challenges, request_id)
            .map_err(|error| CliError::Local(error.to_string()))?;
        let sealed = Sealed {
            encapsulated_key: answer.encapsulated_key[..]
                .try_into()
                .map_err(|_| does_not_hold("the encapsulated key has not 65 bytes"))?,
            ciphertext: answer.ciphertext.clone(),
        };
        seal::open(encryption_key, &info, &sealed)
            .map_err(|_| does_not_hold("they do not open with this identity's encryption key"))?
    };
    let keys = SessionKeys::decode(&plain).map_err(|error| does_not_hold(&error.to_string()))?;
    if u32::from(keys.s_enc.algorithm().key_bits()) != answer.key_bits {
        return Err(does_not_hold("they have another length than the answer says"));
    }
    if keys.card_cryptogram(&challenges) != Cryptogram(fixed(card_cryptogram)?) {
        return Err(does_not_hold("the card's cryptogram does not match them"));
    }
    let host_cryptogram = keys.host_cryptogram(&challenges);
    if host_cryptogram != Cryptogram(fixed(&answer.host_cryptogram)?) {
        return Err(does_not_hold("the host cryptogram does not match them"));
    }
    Ok(OpenedSessionKeys { keys, host_cryptogram: host_cryptogram.0.to_vec() })
}

#[cfg(test)]
mod tests {
    use keys::SecretKey;
    use keys::seal::EphemeralSeed;
    use proto::v1::KeysetName;

    use super::*;

    fn exchange() -> (FetchSessionKeysRequest, FetchSessionKeysResponse, PrincipalId, Zeroizing<[u8; 32]>) {
        let key = PrivateKey::generate_p256().unwrap();
        let principal = PrincipalId([7; 32]);
        let eid: Eid = "89049032123451234512345678901235".parse().unwrap();
        let challenges = Challenges { host: HostChallenge([1; 8]), card: CardChallenge([2; 8]) };
        let secret = |byte| SecretKey::from_slice(&[byte; 16]).unwrap();
        let keys = SessionKeys { s_enc: secret(1), s_mac: secret(2), s_rmac: secret(3) };
        let kvn = KeyVersionNumber::scp03(0x30).unwrap();
        let info = seal::session_keys_info(&principal, &eid, kvn, &challenges, b"request-1").unwrap();
        let public = pki::PublicKey::parse(&key.p256_spki().unwrap(), pki::KnownKeys::Refuse).unwrap();
        let seed = EphemeralSeed::from_entropy(Zeroizing::new([9; 32]));
        let sealed = seal::seal(&public.p256_point().unwrap(), &info, &keys.encode(), seed).unwrap();
        let request = FetchSessionKeysRequest {
            idempotency_key: "request-1".to_owned(),
            eid: eid.to_string(),
            keyset: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
            host_challenge: challenges.host.0.to_vec(),
            card_challenge: challenges.card.0.to_vec(),
            card_cryptogram: keys.card_cryptogram(&challenges).0.to_vec(),
            purpose: "test".to_owned(),
            ..FetchSessionKeysRequest::default()
        };
        let answer = FetchSessionKeysResponse {
            encapsulated_key: sealed.encapsulated_key.to_vec(),
            ciphertext: sealed.ciphertext,
            host_cryptogram: keys.host_cryptogram(&challenges).0.to_vec(),
            entry_index: 5,
            key_bits: 128,
            ..FetchSessionKeysResponse::default()
        };
        (request, answer, principal, key.p256_scalar().unwrap())
    }

    #[test]
    fn keys_open_for_the_request_they_were_sealed_for_and_for_no_other() {
        let (request, answer, principal, key) = exchange();
        let opened = open(&answer, &request, &principal, &key).unwrap();
        assert_eq!(opened.keys.s_rmac.expose(), [3; 16]);
        assert_eq!(opened.host_cryptogram[..], answer.host_cryptogram[..]);

        let other = FetchSessionKeysRequest { idempotency_key: "request-2".to_owned(), ..request.clone() };
        assert!(open(&answer, &other, &principal, &key).is_err());
        assert!(open(&answer, &request, &PrincipalId([8; 32]), &key).is_err());
    }

    #[test]
    fn keys_that_contradict_a_cryptogram_are_not_used() {
        let (request, answer, principal, key) = exchange();
        let wrong_card = FetchSessionKeysRequest { card_cryptogram: vec![0; 8], ..request.clone() };
        assert!(
            open(&answer, &wrong_card, &principal, &key)
                .err()
                .unwrap()
                .to_string()
                .contains("card's cryptogram")
        );
        let wrong_host = FetchSessionKeysResponse { host_cryptogram: vec![0; 8], ..answer };
        assert!(
            open(&wrong_host, &request, &principal, &key)
                .err()
                .unwrap()
                .to_string()
                .contains("host cryptogram")
        );
    }
}
