//! A whole order from one file: placed, fetched, confirmed, rendered, and its receipt checked. Every step can be repeated,
//! so running it again goes on where it was.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use audit::LogKey;
use clap::Args;
use domain::{KeyVersionNumber, KeysetAlgorithm, OrderFormat, Protocol, SecurityDomain};
use proto::v1::{KeysetName, OrderHeader};
use serde::{Deserialize, Serialize};

use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files;
use crate::identity::parse_name;
use crate::order::{exit_code, format_code, human, parse_format};
use crate::order_devices::{Devices, LineKeys};
use crate::order_documents::{Documents, write_documents};
use crate::order_lines::{OutputLine, OutputReader};
use crate::order_output::{Fetch, Fetched};
use crate::order_place::{Placed, Placing};
use crate::order_receipt::{Verified, fetch_receipt, parse_log_key, verify};
use crate::output::{Output, fields};

/// The order was placed, but no line of it was accepted: there is no output.
const NOTHING_ACCEPTED: u64 = 0;

/// Arguments of `order submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// The order file: TOML, or JSON when its name ends in .json
    #[arg(value_name = "ORDER")]
    file: PathBuf,
    /// Folder for what comes back: results.jsonl, certificates/, output.jsonl, documents/, receipt.note
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The authority's log key: with it the receipt's signature is checked and every digest compared
    #[arg(long, value_name = "VKEY", value_parser = parse_log_key)]
    log_key: Option<LogKey>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// The order file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderFile {
    order: String,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    certificate_profile: String,
    #[serde(default)]
    further_keysets: bool,
    #[serde(default)]
    random_keys: bool,
    #[serde(default)]
    product: String,
    #[serde(default = "first_format")]
    format: String,
    /// The one whose range the KVN is in, when absent.
    protocol: Option<String>,
    #[serde(default = "isd_r")]
    security_domain: String,
    kvn: u32,
    algorithm: String,
    /// SHA-256 of the RSA keys that may open the output; none: whichever is registered.
    #[serde(default)]
    transport_keys: Vec<String>,
    devices: DeviceSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceSection {
    file: Option<PathBuf>,
    eids: Option<Vec<String>>,
    first_eid_body: Option<String>,
    quantity: Option<u64>,
    make_key_pairs: Option<String>,
}

fn first_format() -> String {
    OrderFormat::JsonlKwp.as_str().to_owned()
}

fn isd_r() -> String {
    SecurityDomain::IsdR.as_str().to_owned()
}

/// An order file, understood.
#[derive(Debug)]
pub(crate) struct Order {
    header: OrderHeader,
    format: OrderFormat,
    devices: Devices,
    transport_keys: Vec<String>,
}

impl Order {
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let text = files::read_text(path)?;
        let wrong = |what: String| {
            CliError::invalid(format!("{}: {what}", path.display()), "see chancery order submit --help")
        };
        let file: OrderFile = if path.extension().is_some_and(|extension| extension == "json") {
            serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?
        } else {
            toml::from_str(&text).map_err(|error| wrong(error.to_string()))?
        };
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        file.understand(&base).map_err(wrong)
    }
}

impl OrderFile {
    fn understand(self, base: &Path) -> Result<Order, String> {
        parse_name(&self.order)?;
        match (self.further_keysets, self.issuer.as_str()) {
            (true, "") => {}
            (true, _) => {
                return Err("further_keysets and issuer exclude each other: nothing is certified".into());
            }
            (false, issuer) => drop(parse_name(issuer)?),
        }
        let format = parse_format(&self.format)?;
        let protocol = match &self.protocol {
            Some(name) => named(&Protocol::ALL, Protocol::as_str, name, "protocol")?,
            None => Protocol::ALL
                .into_iter()
                .find(|protocol| KeyVersionNumber::new(*protocol, self.kvn).is_ok())
                .ok_or("kvn is 0x01-0x0F, 0x30-0x3F or 0x40-0x4F")?,
        };
        let domain =
            named(&SecurityDomain::ALL, SecurityDomain::as_str, &self.security_domain, "security_domain")?;
        let algorithm = named(&KeysetAlgorithm::ALL, KeysetAlgorithm::as_str, &self.algorithm, "algorithm")?;
        let kvn = KeyVersionNumber::new(protocol, self.kvn).map_err(|error| error.to_string())?;
        for key in &self.transport_keys {
            if hex::decode(key).map(|digest| digest.len()) != Ok(32) {
                return Err("transport_keys are SHA-256 in 64 hexadecimal digits".to_owned());
            }
        }
        // One that is named goes with the order, so that another registered key is refused before anything is made; of
        // several each is looked for in the output.
        let transport_key = match self.transport_keys.as_slice() {
            [one] => hex::decode(one).unwrap_or_default(),
            _ => Vec::new(),
        };
        Ok(Order {
            header: OrderHeader {
                order: self.order,
                issuer: self.issuer,
                certificate_profile: self.certificate_profile,
                keyset: Some(KeysetName {
                    security_domain: domain.code().into(),
                    protocol: protocol.code().into(),
                    key_version_number: kvn.value().into(),
                }),
                key_bits: algorithm.key_bits().into(),
                format: format_code(format),
                transport_key,
                product: self.product,
                further_keysets: self.further_keysets,
                fleet: None,
                random_keys: self.random_keys,
            },
            format,
            devices: self.devices.understand(base, self.further_keysets)?,
            transport_keys: self.transport_keys.iter().map(|key| key.to_ascii_lowercase()).collect(),
        })
    }
}

impl DeviceSection {
    fn understand(self, base: &Path, further_keysets: bool) -> Result<Devices, String> {
        let made = |curve: Option<String>| match curve.as_deref() {
            None if further_keysets => Ok(LineKeys::None),
            Some(_) if further_keysets => {
                Err("registered devices have their keys: leave make_key_pairs out".to_owned())
            }
            Some(curve) => curve
                .parse()
                .map(LineKeys::Made)
                .map_err(|_| format!("make_key_pairs is \"P-256\" or \"brainpoolP256r1\", not {curve:?}")),
            None => Err("EIDs alone need make_key_pairs = \"P-256\": a device must have a key".to_owned()),
        };
        match self {
            Self {
                file: Some(file),
                eids: None,
                first_eid_body: None,
                quantity: None,
                make_key_pairs: None,
            } if further_keysets => Ok(Devices::Registered(base.join(file))),
            Self {
                file: Some(file),
                eids: None,
                first_eid_body: None,
                quantity: None,
                make_key_pairs: None,
            } => Ok(Devices::File(base.join(file))),
            Self { file: None, eids: Some(eids), first_eid_body: None, quantity: None, make_key_pairs } => {
                Ok(Devices::Listed(eids, made(make_key_pairs)?))
            }
            Self {
                file: None,
                eids: None,
                first_eid_body: Some(body),
                quantity: Some(quantity),
                make_key_pairs,
            } => {
                let keys = made(make_key_pairs)?;
                let first_body = Some(body.as_str())
                    .filter(|body| body.len() == 30 && body.bytes().all(|digit| digit.is_ascii_digit()))
                    .and_then(|body| body.parse().ok())
                    .ok_or("first_eid_body has 30 digits: an EID without its check digits")?;
                Ok(Devices::Counted { first_body, quantity, keys })
            }
            _ => Err("[devices] has file, or eids, or first_eid_body and quantity".to_owned()),
        }
    }
}

fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, text: &str, field: &str) -> Result<T, String> {
    all.iter().copied().find(|one| name(*one).eq_ignore_ascii_case(text)).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
        format!("{field} is one of {}", names.join(", "))
    })
}

/// What came of an order.
#[derive(Serialize)]
struct Submitted {
    placed: Placed,
    output: Option<Fetched>,
    documents: Option<Documents>,
    receipt_entry: Option<u64>,
    verified: Option<Verified>,
}

impl Submit {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let order = Order::read(&self.file)?;
        files::create_private_folder(&self.out)?;
        let connection = self.remote.connect(output).await?;
        let placing = Placing {
            header: order.header.clone(),
            devices: order.devices.clone(),
            certificates_out: Some(self.out.join("certificates")),
            results: Some(self.out.join("results.jsonl")),
            replace_results: true,
        };
        let placed = placing.run(&connection, output).await?;
        let code = exit_code(&placed);
        let mut submitted =
            Submitted { placed, output: None, documents: None, receipt_entry: None, verified: None };
        if submitted.placed.accepted > NOTHING_ACCEPTED {
            let fetched = self.out.join("output.jsonl");
            let fetch = Fetch {
                order: order.header.order.clone(),
                out: fetched.clone(),
                from_line: 0,
                yes: true,
                idempotency: IdempotencyArgs { idempotency_key: None },
                remote: self.remote.clone(),
            };
            submitted.output = Some(fetch.fetch(&connection, output).await?);
            check_recipients(&fetched, &order.transport_keys)?;
            if order.format != OrderFormat::JsonlKwp {
                submitted.documents = Some(write_documents(&fetched, &self.out.join("documents"))?);
            }
            let receipt = self.out.join("receipt.note");
            let entry = fetch_receipt(&connection, output, &order.header.order, &receipt).await?;
            submitted.receipt_entry = Some(entry);
            if let Some(key) = &self.log_key {
                submitted.verified = Some(verify(&receipt, &fetched, key)?);
            }
        }
        output.print(&submitted, |submitted| self.human(submitted))?;
        Ok(code)
    }

    fn human(&self, submitted: &Submitted) -> String {
        let mut text = human(&submitted.placed);
        if let Some(fetched) = &submitted.output {
            let documents = submitted.documents.as_ref().map_or_else(
                || "none: the output is the document".to_owned(),
                |documents| format!("{} in {}", documents.documents, documents.folder.display()),
            );
            text.push('\n');
            text.push_str(&fields([
                ("output", self.out.join("output.jsonl").display().to_string()),
                ("devices", fetched.devices.to_string()),
                ("SHA-256", fetched.sha256.clone()),
                ("documents", documents),
                ("receipt", self.out.join("receipt.note").display().to_string()),
                (
                    "receipt verified",
                    if submitted.verified.is_some() { "yes" } else { "no: pass --log-key" }.to_owned(),
                ),
            ]));
        }
        text
    }
}

/// Whether every transport key of an output is wrapped for a key that the order file names.
fn check_recipients(order_output: &Path, expected: &[String]) -> Result<(), CliError> {
    if expected.is_empty() {
        return Ok(());
    }
    let mut reader = OutputReader::open(order_output)?;
    while let Some((_, line)) = reader.next_line()? {
        if let OutputLine::TransportKey(key) = line
            && !expected.contains(&key.recipient)
        {
            return Err(CliError::Answer(format!(
                "{} is wrapped for {}, which the order file does not name",
                key.transport_key, key.recipient
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDER: &str = r#"
order = "batch-7"
issuer = "acme-2026"
product = "meter-4g"
format = "tr31"
kvn = 0x30
algorithm = "AES-256"
[devices]
"#;

    fn read(devices: &str) -> Result<Order, String> {
        let file: OrderFile = toml::from_str(&format!("{ORDER}{devices}")).map_err(|e| e.to_string())?;
        file.understand(Path::new("orders"))
    }

    #[test]
    fn an_order_file_says_all_that_a_stream_needs() {
        let order = read("file = \"devices.csv\"").unwrap();
        assert_eq!(order.devices, Devices::File(PathBuf::from("orders/devices.csv")));
        assert_eq!(order.header.key_bits, 256);
        assert_eq!(order.header.keyset.unwrap().key_version_number, 0x30);
        let counted = "first_eid_body = \"890490321234512345123456789012\"\nquantity = 100000\nmake_key_pairs = \"P-256\"";
        assert_eq!(read(counted).unwrap().devices.count().unwrap(), 100_000);
        let json = serde_json::json!({
            "order": "batch-7", "issuer": "acme-2026", "kvn": 48, "algorithm": "aes-128",
            "devices": { "eids": ["89049032123451234512345678901235"], "make_key_pairs": "P-256" },
        });
        let file: OrderFile = serde_json::from_value(json).unwrap();
        assert_eq!(file.understand(Path::new("")).unwrap().format, OrderFormat::JsonlKwp);
    }

    #[test]
    fn what_an_order_file_leaves_open_is_refused() {
        for devices in [
            "",
            "eids = [\"89049032123451234512345678901235\"]",
            "first_eid_body = \"89\"\nquantity = 1\nmake_key_pairs = \"P-256\"",
            "file = \"devices.csv\"\nmake_key_pairs = \"P-256\"",
            "eids = []\nmake_key_pairs = \"P-384\"",
            "file = \"devices.csv\"\nsurprise = 1",
        ] {
            assert!(read(devices).is_err(), "{devices}");
        }
    }
}
