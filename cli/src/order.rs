//! Orders: a device file goes in line by line, results come out line by line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use domain::{KeyUsage, KeysetAlgorithm, OrderFormat, Protocol, SecurityDomain};
use proto::v1::order_service_client::OrderServiceClient;
use proto::v1::{KeysetName, MovedInFleet, OrderHeader};
use tonic::transport::Channel;

use crate::connect::{ANSWER_MAX_BYTES, Connection, RemoteArgs};
use crate::device_file::MovingKeys;
use crate::error::CliError;
use crate::files;
use crate::identity::parse_name;
use crate::keyset::NameArgs;
use crate::order_devices::Devices;
use crate::order_documents::Render;
use crate::order_output::Fetch;
use crate::order_place::{Placed, Placing};
use crate::order_receipt::{Receipt, Verify};
use crate::order_submit::Submit;
use crate::output::{Output, fields, table};

/// Exit code when the order went through but some lines were refused.
const SOME_REFUSED: u8 = 3;

/// `chancery order ...`
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Order devices: each line's device is registered, keyed and certified, or refused alone.
    ///
    /// Exit code 0 when every line was accepted, 3 when some were refused. Placing the same order again answers the
    /// lines that are there already with their recorded results.
    #[command(after_help = "Examples:
  chancery order place --order batch-1 --issuer acme-2026 --devices devices.csv --kvn 0x30 --algorithm AES-128 \\
      --certificates-out euicc/ --results results.jsonl --identity acme/
  chancery order place --order batch-1-ota --further-keysets --devices devices.csv --kvn 0x01 --algorithm AES-256 \\
      --identity acme/
  chancery order place --order fleet-2019 --moved-in-scheme kdf3 --master-generation 100 --devices fleet.csv --kvn 0x30 \\
      --algorithm AES-256 --results results.jsonl --identity acme/
  chancery order place --order fleet-2017 --moved-in-under incoming --devices wrapped.csv --kvn 0x30 --algorithm AES-128 \\
      --results results.jsonl --identity acme/
  chancery order place --order fleet-2017-scp02 --moved-in-under incoming --further-keysets --devices pysim.csv --kvn 0x20 \\
      --algorithm 3DES-2KEY --column-key columns.hex --key-columns UICC_SCP02_KIC1,UICC_SCP02_KID1,UICC_SCP02_KIK1 \\
      --identity acme/

devices.csv begins with the line eid,public_key or eid,csr; keys and requests are DER in hex or base64. A column
make_key_pair with the word P-256 (or brainpoolP256r1, for an issuer on that curve) instead has the authority make the key pair of a chip that cannot make its own: the
private key comes back wrapped in the order's output.

The key version number tells the protocol: SCP80 0x01-0x0F, SCP02 0x20-0x2F, SCP03 0x30-0x3F, SCP81 0x40-0x4F. A device gets its
first keyset when it is registered, and others by --further-keysets until it is in use; of that file only the column eid is read.

A fleet that moves in has its keys in the field already. Either a master derived them (--moved-in-scheme): the file has eid, kdd
(the key diversification data of INITIALIZE UPDATE; or scheme_inputs, as docs/formats/key-derivation.md says). Or they come
themselves (--moved-in-under): the file has eid,enc,mac,dek, each key in hex wrapped by AES-KWP (RFC 5649) under your import key,
as docs/formats/keyset-import.md says. A column kcv has the check values, if they are known: three octets for each key; a
line whose keys have others is refused. SCP02 and 3DES keysets only move in.")]
    Place(Place),
    /// Fetch the wrapped keysets of an order, check their digest, and confirm it.
    #[command(after_help = "Examples:
  chancery order fetch --order batch-1 --out output.jsonl --identity acme/
  chancery order fetch --order batch-1 --out tail.jsonl --from-line 5000 --identity acme/")]
    Fetch(Fetch),
    /// Do a whole order from a file: place it, fetch and confirm the output, write the documents, fetch the receipt.
    ///
    /// Run it again after any interruption: it goes on where it was, and nothing is issued twice. Exit code 3 when some
    /// lines were refused.
    #[command(after_help = "Example:
  chancery order submit batch-7.toml --out batch-7/ --log-key demo-authority/node-1/2026+0fba3bfe+AdUv... --identity acme/

batch-7.toml:
  order = \"batch-7\"
  issuer = \"acme-2026\"
  product = \"meter-4g\"
  format = \"tr31\"             # jsonl-kwp, tr31, pskc or pysim-csv
  kvn = 0x30                   # SCP80 0x01-0x0F, SCP03 0x30-0x3F, SCP81 0x40-0x4F
  algorithm = \"AES-256\"
  transport_keys = [\"5f0c...\"] # SHA-256 of the RSA keys (SubjectPublicKeyInfo) that may open it; optional
  [devices]
  file = \"devices.csv\"        # or first_eid_body, quantity and make_key_pairs = \"P-256\"; or eids = [...]
  certificate_profile = \"\"   # of the certificates; empty: the issuer's own
                             # further_keysets = true instead of issuer: one more keyset for registered devices")]
    Submit(Submit),
    /// Fetch what the authority says it delivered: a receipt signed by the log key.
    #[command(after_help = "Example:
  chancery order receipt --order batch-7 --out receipt.note --identity acme/")]
    Receipt(Receipt),
    /// Check an output against its receipt, offline: signature, counts, digests, check values.
    #[command(after_help = "Example:
  chancery order verify --receipt receipt.note --order-output output.jsonl --log-key demo-authority/node-1/2026+0fba3bfe+AdUv...")]
    Verify(Verify),
    /// Write an output as the documents of its format: PSKC containers, or CSV for pySim; offline.
    #[command(after_help = "Example:
  chancery order documents --order-output output.jsonl --out documents/")]
    Documents(Render),
}

/// Key length of the keysets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Algorithm {
    /// Three keys of 128 bits
    #[value(name = "AES-128")]
    Aes128,
    /// Three keys of 192 bits
    #[value(name = "AES-192")]
    Aes192,
    /// Three keys of 256 bits
    #[value(name = "AES-256")]
    Aes256,
}

impl Algorithm {
    /// Bits of one key.
    pub fn key_bits(self) -> u32 {
        u32::from(match self {
            Self::Aes128 => KeysetAlgorithm::Aes128.key_bits(),
            Self::Aes192 => KeysetAlgorithm::Aes192.key_bits(),
            Self::Aes256 => KeysetAlgorithm::Aes256.key_bits(),
        })
    }
}

/// Which keyset of a device.
#[derive(Debug, Clone, Copy, Args)]
pub struct KeysetArgs {
    /// Key version number, 0x30 to 0x3F for SCP03
    #[arg(long, value_parser = parse_kvn)]
    pub kvn: u8,
    /// Security domain that holds the keyset
    #[arg(long, default_value = "isd-r")]
    pub security_domain: SecurityDomainArg,
}

/// Security domains by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SecurityDomainArg {
    /// Issuer security domain root
    IsdR,
    /// eUICC controlling authority security domain
    Ecasd,
    /// Security domain of the operator in a profile
    MnoSd,
}

impl KeysetArgs {
    /// As the contract names it.
    pub fn name(self) -> KeysetName {
        let domain = match self.security_domain {
            SecurityDomainArg::IsdR => SecurityDomain::IsdR,
            SecurityDomainArg::Ecasd => SecurityDomain::Ecasd,
            SecurityDomainArg::MnoSd => SecurityDomain::MnoSd,
        };
        KeysetName {
            security_domain: domain.code().into(),
            protocol: Protocol::Scp03.code().into(),
            key_version_number: self.kvn.into(),
        }
    }
}

/// `0x30` or `48`. For clap.
pub fn parse_kvn(text: &str) -> Result<u8, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number
        .ok()
        .and_then(|number| domain::KeyVersionNumber::scp03(number).ok())
        .map(domain::KeyVersionNumber::value)
        .ok_or_else(|| "an SCP03 key version number is 0x30 to 0x3F".to_owned())
}

/// Arguments of `order place`.
#[derive(Debug, Args)]
pub struct Place {
    /// Name of the order, unique for the manufacturer
    #[arg(long, value_parser = parse_name)]
    pub order: String,
    /// The issuer that certifies the devices
    #[arg(long, value_parser = parse_name, required_unless_present_any = ["further_keysets", "moved_in_scheme", "moved_in_under"])]
    pub issuer: Option<String>,
    /// The profile of the certificates, one for eUICCs; the one that is the issuer's when absent
    #[arg(long, value_name = "NAME", value_parser = parse_name, requires = "issuer")]
    pub certificate_profile: Option<String>,
    /// The device file (CSV)
    #[arg(long, value_name = "FILE")]
    pub devices: PathBuf,
    /// The devices are registered by you and in no use yet: each gets this keyset beside those it has, nothing is certified
    #[arg(long, conflicts_with = "issuer")]
    pub further_keysets: bool,
    /// The devices are in the field with keys that another authority derived by this scheme: they are registered, and nothing
    /// leaves. an10922, kdf3, sp800-108, emv-cps11 or visa2
    #[arg(long, value_name = "SCHEME", requires = "master_generation", conflicts_with = "issuer")]
    pub moved_in_scheme: Option<String>,
    /// Generation of the registered master that came with them
    #[arg(long, value_name = "NUMBER", requires = "moved_in_scheme")]
    pub master_generation: Option<u32>,
    /// The devices are in the field, and their keys come in the file, under your import key of this name
    #[arg(long, value_name = "NAME", value_parser = parse_name, conflicts_with_all = ["issuer", "moved_in_scheme"])]
    pub moved_in_under: Option<String>,
    /// Version of the import key
    #[arg(long, value_name = "NUMBER", default_value_t = 1, requires = "moved_in_under")]
    pub import_key_number: u32,
    /// The file is a CSV of pySim: this file has the key of its columns in hex, wrapped by AES-KWP under the import key. One for
    /// all columns, or one for each key. Compatibility only: such cells have no integrity
    #[arg(long, value_name = "FILE", requires = "moved_in_under")]
    pub column_key: Vec<PathBuf>,
    /// Columns that hold the keys, in the order of their key identifiers, instead of enc,mac,dek (psk,psk-dek; pySim's names)
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "moved_in_under")]
    pub key_columns: Vec<String>,
    /// Make the keys at random, to be stored, instead of deriving them from the master
    #[arg(long, conflicts_with_all = ["moved_in_scheme", "moved_in_under"])]
    pub random_keys: bool,
    /// Which keyset
    #[command(flatten)]
    pub keyset: NameArgs,
    /// Cipher and key length: AES-128, AES-192 or AES-256; of a fleet that moves in also 3DES-2KEY or 3DES-3KEY
    #[arg(long, value_parser = parse_algorithm)]
    pub algorithm: KeysetAlgorithm,
    /// Form in which the keys leave
    #[arg(long, value_parser = parse_format, default_value = "jsonl-kwp")]
    pub format: OrderFormat,
    /// Folder for the certificates: one <EID>.der for each accepted device
    #[arg(long, value_name = "DIR")]
    pub certificates_out: Option<PathBuf>,
    /// File for the results: one JSON line for each device line, in the order they are answered
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,
    /// Who calls, and where to
    #[command(flatten)]
    pub remote: RemoteArgs,
}

impl OrderCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Place(place) => place.run(output).await,
            Self::Fetch(fetch) => fetch.run(output).await.map(|()| ExitCode::SUCCESS),
            Self::Submit(submit) => submit.run(output).await,
            Self::Receipt(receipt) => receipt.run(output).await.map(|()| ExitCode::SUCCESS),
            Self::Verify(verify) => verify.run(output).map(|()| ExitCode::SUCCESS),
            Self::Documents(render) => render.run(output).map(|()| ExitCode::SUCCESS),
        }
    }
}

impl Place {
    async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let placing = Placing {
            header: OrderHeader {
                order: self.order.clone(),
                issuer: self.issuer.clone().unwrap_or_default(),
                keyset: Some(self.keyset.name()),
                key_bits: self.algorithm.key_bits().into(),
                format: format_code(self.format),
                transport_key: Vec::new(),
                product: String::new(),
                further_keysets: self.further_keysets,
                random_keys: self.random_keys,
                fleet: self.fleet()?,
                certificate_profile: self.certificate_profile.clone().unwrap_or_default(),
            },
            devices: self.devices()?,
            certificates_out: self.certificates_out.clone(),
            results: self.results.clone(),
            replace_results: false,
        };
        let connection = self.remote.connect(output).await?;
        let placed = placing.run(&connection, output).await?;
        output.print(&placed, human)?;
        Ok(exit_code(&placed))
    }
}

impl Place {
    fn devices(&self) -> Result<Devices, CliError> {
        let path = self.devices.clone();
        Ok(if self.moved_in_scheme.is_some() {
            Devices::MovingIn(path, MovingKeys::Derived)
        } else if self.moved_in_under.is_some() {
            Devices::MovingIn(path, MovingKeys::Wrapped(self.columns()?))
        } else if self.further_keysets {
            Devices::Registered(path)
        } else {
            Devices::File(path)
        })
    }

    fn fleet(&self) -> Result<Option<MovedInFleet>, CliError> {
        if let Some(scheme) = &self.moved_in_scheme {
            let master_generation = self.master_generation.unwrap_or_default();
            return Ok(Some(MovedInFleet {
                scheme: scheme.clone(),
                master_generation,
                ..MovedInFleet::default()
            }));
        }
        let Some(name) = &self.moved_in_under else { return Ok(None) };
        let mut column_keys = Vec::new();
        for path in &self.column_key {
            let text = files::read(path)?;
            let digits = String::from_utf8_lossy(&text);
            column_keys.push(hex::decode(digits.trim()).map_err(|_| {
                CliError::invalid(
                    format!("{} does not hold a wrapped key in hexadecimal", path.display()),
                    "wrap the column key by AES-KWP (RFC 5649) under the import key",
                )
            })?);
        }
        let keys = self.keyset.protocol_of().usages().len();
        if column_keys.len() == 1 {
            column_keys = vec![column_keys.swap_remove(0); keys];
        }
        Ok(Some(MovedInFleet {
            import_key: name.clone(),
            import_key_number: self.import_key_number,
            column_keys,
            ..MovedInFleet::default()
        }))
    }

    /// The columns of the file that hold keys.
    fn columns(&self) -> Result<Vec<String>, CliError> {
        let protocol = self.keyset.protocol_of();
        let usages = protocol.usages();
        if !self.key_columns.is_empty() {
            return if self.key_columns.len() == usages.len() {
                Ok(self.key_columns.clone())
            } else {
                let problem = format!("{} keysets have {} keys", protocol.as_str(), usages.len());
                Err(CliError::invalid(problem, "name one column for each in --key-columns"))
            };
        }
        let column = |usage: &KeyUsage| {
            if self.column_key.is_empty() {
                return Some(usage.as_str().to_owned());
            }
            let (domain, kvn) = self.keyset.domain_and_kvn()?;
            keys::pysim_csv::column(protocol, domain, kvn, *usage)
        };
        usages.iter().map(column).collect::<Option<_>>().ok_or_else(|| {
            CliError::invalid("pySim has no columns for this keyset", "name yours in --key-columns")
        })
    }
}

/// A keyset's algorithm by name. For clap.
fn parse_algorithm(text: &str) -> Result<KeysetAlgorithm, String> {
    KeysetAlgorithm::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
        format!("an algorithm is {}", KeysetAlgorithm::ALL.map(KeysetAlgorithm::as_str).join(", "))
    })
}

/// 3 when some lines were refused.
pub fn exit_code(placed: &Placed) -> ExitCode {
    if placed.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(SOME_REFUSED) }
}

/// The number of a format in messages.
pub fn format_code(format: OrderFormat) -> i32 {
    i32::try_from(format.code()).unwrap_or_default()
}

/// `jsonl-kwp`, `tr31`, `pskc`, `pysim-csv`. For clap and order files.
pub fn parse_format(text: &str) -> Result<OrderFormat, String> {
    OrderFormat::ALL.into_iter().find(|format| format.as_str() == text).ok_or_else(|| {
        format!("an order's format is {}", OrderFormat::ALL.map(OrderFormat::as_str).join(", "))
    })
}

/// An order's counts and refusals, for people.
pub fn human(placed: &Placed) -> String {
    let counts = fields([
        ("order", placed.order.clone()),
        ("accepted", placed.accepted.to_string()),
        ("refused", placed.refused.to_string()),
    ]);
    if placed.refusals.is_empty() {
        return counts;
    }
    let rows = placed.refusals.iter().map(|refusal| {
        [
            refusal.line.to_string(),
            refusal.eid.clone(),
            refusal.reason.clone(),
            refusal.message.clone(),
            refusal.next_step.clone(),
        ]
    });
    format!("{counts}\n{}", table(["line", "eid", "reason", "message", "next step"], rows))
}

/// A client with room for large answers.
pub fn client(connection: &Connection) -> OrderServiceClient<Channel> {
    OrderServiceClient::new(connection.channel()).max_decoding_message_size(ANSWER_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_version_number_is_read_in_both_bases_and_checked() {
        assert_eq!(parse_kvn("0x30"), Ok(0x30));
        assert_eq!(parse_kvn("63"), Ok(0x3f));
        for wrong in ["0x40", "30", "x", ""] {
            assert!(parse_kvn(wrong).is_err(), "{wrong}");
        }
    }
}
