//! Receipts: what the authority says it delivered, checked offline against what arrived.

use std::path::{Path, PathBuf};

use audit::{LogKey, ORDER_RECEIPT, verify_statement};
use clap::Args;
use proto::v1::FetchOrderReceiptRequest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::connect::{Connection, RemoteArgs};
use crate::error::CliError;
use crate::files;
use crate::identity::parse_name;
use crate::order::client;
use crate::order_lines::{DeviceKeys, KEY_PAIR_FORM, OutputLine, OutputReader};
use crate::output::{Output, fields};

/// Arguments of `order receipt`.
#[derive(Debug, Args)]
pub struct Receipt {
    /// Name of the order
    #[arg(long, value_parser = parse_name)]
    order: String,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace FILE if it exists
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `order verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The receipt
    #[arg(long, value_name = "FILE")]
    receipt: PathBuf,
    /// The fetched output
    #[arg(long = "order-output", value_name = "FILE")]
    order_output: PathBuf,
    /// The authority's log key (from the ceremony's transcript)
    #[arg(long, value_name = "VKEY", value_parser = parse_log_key)]
    log_key: LogKey,
}

/// A log key as text. For clap.
pub fn parse_log_key(text: &str) -> Result<LogKey, String> {
    LogKey::from_vkey(text).map_err(|error| error.to_string())
}

/// What a receipt says, as far as it is compared.
#[derive(Debug, Deserialize)]
struct Document {
    party: String,
    order: String,
    format: String,
    devices: u64,
    output_sha256: String,
    chunks: Vec<Chunk>,
}

#[derive(Debug, Deserialize)]
struct Chunk {
    transport_key: String,
    devices: u64,
    sha256: String,
    check_values_sha256: Option<String>,
    entry: Option<u64>,
}

/// A receipt that holds.
#[derive(Debug, Serialize)]
pub struct Verified {
    party: String,
    order: String,
    format: String,
    devices: u64,
    chunks: usize,
    output_sha256: String,
    first_entry: Option<u64>,
    last_entry: Option<u64>,
    signed_by: String,
}

impl Verified {
    /// For people.
    pub fn human(&self) -> String {
        let entries = match (self.first_entry, self.last_entry) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "not in this receipt".to_owned(),
        };
        fields([
            ("order", format!("{}/{}", self.party, self.order)),
            ("format", self.format.clone()),
            ("devices", self.devices.to_string()),
            ("chunks", self.chunks.to_string()),
            ("SHA-256", self.output_sha256.clone()),
            ("log entries of the chunks", entries),
            ("signed by", self.signed_by.clone()),
        ])
    }
}

impl Receipt {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        if self.out.exists() && !self.yes {
            return Err(CliError::invalid(
                format!("{} exists already", self.out.display()),
                "name another file, or pass --yes to replace it",
            ));
        }
        let connection = self.remote.connect(output).await?;
        let entry_index = fetch_receipt(&connection, output, &self.order, &self.out).await?;
        let done = serde_json::json!({ "order": self.order, "file": self.out, "entry_index": entry_index });
        output.print(&done, |_| {
            fields([
                ("order", self.order.clone()),
                ("file", self.out.display().to_string()),
                ("log entry", entry_index.to_string()),
            ])
        })
    }
}

/// Fetches a receipt into a file; the log entry of it.
pub async fn fetch_receipt(
    connection: &Connection,
    output: Output,
    order: &str,
    out: &Path,
) -> Result<u64, CliError> {
    let message = FetchOrderReceiptRequest { order: order.to_owned() };
    let answer = connection
        .call(output, None, || {
            let request = connection.request(message.clone());
            let mut client = client(connection);
            async move { client.fetch_order_receipt(request).await }
        })
        .await?;
    files::replace(out, &answer.receipt, files::Readers::Owner)?;
    Ok(answer.entry_index)
}

impl Verify {
    /// Runs it.
    pub fn run(&self, output: Output) -> Result<(), CliError> {
        let verified = verify(&self.receipt, &self.order_output, &self.log_key)?;
        output.print(&verified, |verified| format!("{}\nVERIFIED", verified.human()))
    }
}

/// What an output holds, counted from its lines.
#[derive(Default)]
struct Found {
    transport_key: String,
    devices: u64,
    sha256: Sha256,
    check_values: Sha256,
}

/// Checks the signature of a receipt, then every digest and count against the output. Memory: one line.
pub fn verify(receipt: &Path, order_output: &Path, key: &LogKey) -> Result<Verified, CliError> {
    let body = verify_statement(&files::read(receipt)?, ORDER_RECEIPT, key).map_err(|error| {
        CliError::invalid(
            format!("{} is no receipt of this authority: {error}", receipt.display()),
            "fetch it again, or name the right log key",
        )
    })?;
    let document: Document = serde_json::from_str(&body)
        .map_err(|error| CliError::Answer(format!("the receipt does not read: {error}")))?;
    let mut whole = Sha256::new();
    let mut devices = 0;
    let mut chunks = document.chunks.iter();
    let mut found: Option<Found> = None;
    let mut reader = OutputReader::open(order_output)?;
    while let Some((bytes, line)) = reader.next_line()? {
        whole.update(&bytes);
        if let OutputLine::TransportKey(key) = &line
            && key.format != KEY_PAIR_FORM
        {
            if let Some(found) = found.take() {
                compare(found, chunks.next())?;
            }
            found = Some(Found { transport_key: key.transport_key.clone(), ..Found::default() });
        }
        let Some(found) = &mut found else {
            return Err(differs("the output begins without a transport key"));
        };
        found.sha256.update(&bytes);
        if let OutputLine::Device(device) = &line {
            devices += 1;
            found.devices += 1;
            add_check_values(&mut found.check_values, device)?;
        }
    }
    if let Some(found) = found {
        compare(found, chunks.next())?;
    }
    if chunks.next().is_some() || devices != document.devices {
        return Err(differs(&format!("the output holds {devices} devices of {}", document.devices)));
    }
    if hex::encode(whole.finalize()) != document.output_sha256 {
        return Err(differs("the output has another SHA-256"));
    }
    Ok(Verified {
        first_entry: document.chunks.first().and_then(|chunk| chunk.entry),
        last_entry: document.chunks.last().and_then(|chunk| chunk.entry),
        chunks: document.chunks.len(),
        party: document.party,
        order: document.order,
        format: document.format,
        devices: document.devices,
        output_sha256: document.output_sha256,
        signed_by: key.vkey(),
    })
}

fn compare(found: Found, said: Option<&Chunk>) -> Result<(), CliError> {
    let name = found.transport_key;
    let said = said.ok_or_else(|| differs(&format!("the receipt knows nothing of {name}")))?;
    let check_values = hex::encode(found.check_values.finalize());
    if said.transport_key != name
        || said.devices != found.devices
        || said.sha256 != hex::encode(found.sha256.finalize())
        || said.check_values_sha256.as_ref().is_some_and(|digest| *digest != check_values)
    {
        return Err(differs(&format!("chunk {name} differs in its devices, bytes or check values")));
    }
    Ok(())
}

fn add_check_values(digest: &mut Sha256, device: &DeviceKeys) -> Result<(), CliError> {
    digest.update(&device.eid);
    let (protocol, ..) = device.keyset()?;
    for (_, value) in device.kcv.of(protocol)? {
        let value = hex::decode(value).map_err(|_| differs("a check value is not hexadecimal"))?;
        digest.update(value);
    }
    Ok(())
}

fn differs(what: &str) -> CliError {
    CliError::Answer(format!("{what}; this is not what the receipt was given for"))
}
