//! What the authority says it delivered for an order (`docs/formats/order-receipt.md`).

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{KeyCheckValue, KeyVersionNumber, KeysetAlgorithm, OrderFormat, Protocol, Role, SecurityDomain};
use proto::records;
use serde::Serialize;
use sha2::{Digest, Sha256};
use store::{Commit, Store};

use crate::keyspaces::ORDER_LINES;
use crate::orders::line_key;
use crate::{KmsError, Manufacturer, OrderOutput, OutputFiles};

/// The receipt of an order as it is now: one JSON object, and its entry.
pub struct Receipt {
    /// The JSON text, one line.
    pub text: String,
    /// Durable before the receipt leaves.
    pub commit: Commit,
}

#[derive(Serialize)]
struct ReceiptDocument<'a> {
    party: &'a str,
    order: &'a str,
    issuer: &'a str,
    product: &'a str,
    format: &'static str,
    security_domain: &'static str,
    protocol: &'static str,
    kvn: u8,
    algorithm: &'static str,
    devices: u64,
    key_pairs: u64,
    output_sha256: String,
    output_bytes: u64,
    confirmed: bool,
    recipient: String,
    chunks: Vec<ReceiptChunk>,
}

#[derive(Serialize)]
struct ReceiptChunk {
    chunk: usize,
    transport_key: String,
    devices: u64,
    key_pairs: u64,
    sha256: String,
    check_values_sha256: Option<String>,
    first_entry: Option<u64>,
    entry: Option<u64>,
}

impl OrderOutput {
    /// The receipt over all that is written. Blocks on the disk: the digest of the whole is made from the files, and each
    /// file is compared with its recorded digest on the way.
    pub fn receipt(
        &self,
        store: &dyn Store,
        files: &OutputFiles,
        pseudonyms: &Pseudonyms,
        manufacturer: &Manufacturer,
    ) -> Result<Receipt, KmsError> {
        let record = self.record();
        let mut whole = Sha256::new();
        let mut bytes = 0;
        let mut chunks = Vec::with_capacity(record.chunks.len());
        for (number, chunk) in record.chunks.iter().enumerate() {
            let content = files.read(&chunk.file, &chunk.digest)?;
            whole.update(&content);
            bytes += content.len() as u64;
            let first_entry = first_entry(store, record, chunk)?;
            chunks.push(ReceiptChunk {
                chunk: number,
                transport_key: format!("{}/{}/{number}", record.party, record.name),
                devices: chunk.devices,
                key_pairs: chunk.key_pairs,
                sha256: hex::encode(&chunk.digest),
                check_values_sha256: Some(&chunk.check_values_digest)
                    .filter(|digest| !digest.is_empty())
                    .map(hex::encode),
                first_entry,
                // The entries of the devices, then that of the chunk.
                entry: first_entry.map(|first| first + chunk.devices),
            });
        }
        let output: [u8; 32] = whole.finalize().into();
        let unreadable = |_| KmsError::Record("order");
        let protocol = Protocol::from_code(record.protocol).map_err(unreadable)?;
        let document = ReceiptDocument {
            party: &record.party,
            order: &record.name,
            issuer: &record.issuer,
            product: &record.product,
            format: OrderFormat::from_code(record.format).map_err(unreadable)?.as_str(),
            security_domain: SecurityDomain::from_code(record.security_domain).map_err(unreadable)?.as_str(),
            protocol: protocol.as_str(),
            kvn: KeyVersionNumber::new(protocol, record.key_version_number).map_err(unreadable)?.value(),
            algorithm: KeysetAlgorithm::from_code(record.key_bits).map_err(unreadable)?.as_str(),
            devices: self.devices(),
            key_pairs: record.chunks.iter().map(|chunk| chunk.key_pairs).sum(),
            output_sha256: hex::encode(output),
            output_bytes: bytes,
            confirmed: record.confirmed_digest == output,
            recipient: hex::encode(Sha256::digest(&manufacturer.transport_key)),
            chunks,
        };
        let text = serde_json::to_string(&document).map_err(|_| KmsError::Record("receipt"))?;
        let entry = EntryDraft::new(EventType::OrderReceiptSigned, Outcome::Done)
            .role(Role::Eum)
            .actor(pseudonyms.principal(&manufacturer.principal))
            .object(pseudonyms.order(&self.name()))
            .fact("output", Fact::Digest(output))
            .fact("devices", Fact::Number(self.devices()))
            .fact("receipt", Fact::Digest(Sha256::digest(&text).into()));
        Ok(Receipt { text, commit: Commit::of(vec![entry]) })
    }
}

/// Where the entries of a chunk's commit begin: the version of the rows it wrote, of which those of the lines stay as
/// they are.
fn first_entry(
    store: &dyn Store,
    order: &records::Order,
    chunk: &records::OrderChunk,
) -> Result<Option<u64>, KmsError> {
    if chunk.first_line == 0 {
        return Ok(None);
    }
    let key = line_key(&order.party, &order.name, chunk.first_line);
    let row = store.get(ORDER_LINES, &key)?.ok_or(KmsError::Record("order line"))?;
    Ok(Some(row.version))
}

/// The digest over the check values of a chunk: for each device its EID in 32 digits, then the check values of its keys.
pub(crate) fn check_values_digest<'a, V: IntoIterator<Item = KeyCheckValue>>(
    devices: impl IntoIterator<Item = (&'a domain::Eid, V)>,
) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (eid, check_values) in devices {
        digest.update(eid.to_string());
        for value in check_values {
            digest.update(value.0);
        }
    }
    digest.finalize().into()
}
