//! Order output on its way to the manufacturer: fetched from any line, confirmed by its digest.

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonyms};
use domain::{ReasonCode, Role};
use prost::Message;
use proto::records;
use sha2::{Digest, Sha256};
use store::{Change, Commit, Precondition, Store};

use crate::keyspaces::ORDERS;
use crate::orders::{order_key, read_order};
use crate::{KmsError, Manufacturer, OutputFiles, output};

/// The output of one order of one manufacturer, as far as it is written.
pub struct OrderOutput {
    record: records::Order,
    version: u64,
}

impl OrderOutput {
    /// Finds the output of an order; other manufacturers' orders do not exist for the caller.
    pub fn find(
        store: &dyn Store,
        pseudonyms: &Pseudonyms,
        manufacturer: &Manufacturer,
        order: &str,
    ) -> Result<Self, KmsError> {
        match read_order(store, &manufacturer.name, order)? {
            Some((record, version)) => Ok(Self { record, version }),
            None => Err(KmsError::refused(
                ReasonCode::UnknownOrder,
                "you have no order of this name with output",
                Some(pseudonyms.order(&format!("{}/{order}", manufacturer.name))),
            )),
        }
    }

    pub(crate) const fn record(&self) -> &records::Order {
        &self.record
    }

    /// Devices in all.
    pub fn devices(&self) -> u64 {
        self.record.chunks.iter().map(|chunk| chunk.devices).sum()
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.record.chunks.len()
    }

    /// The content of a chunk from its `skip`th device line on, its transport-key line first; and how many device lines
    /// the chunk has. Blocks on the disk. Past the last chunk: nothing.
    pub fn chunk(&self, files: &OutputFiles, number: usize) -> Result<Option<ChunkOutput>, KmsError> {
        let Some(chunk) = self.record.chunks.get(number) else { return Ok(None) };
        let content = files.read(&chunk.file, &chunk.digest)?;
        Ok(Some(ChunkOutput { content, devices: chunk.devices }))
    }

    /// The entry of a fetch; durable before the first byte leaves.
    pub fn fetched(&self, pseudonyms: &Pseudonyms, manufacturer: &Manufacturer, from_line: u64) -> Commit {
        Commit::of(vec![
            EntryDraft::new(EventType::OrderOutputFetched, Outcome::Done)
                .role(Role::Eum)
                .actor(pseudonyms.principal(&manufacturer.principal))
                .object(pseudonyms.order(&self.name()))
                .fact("first_line", Fact::Number(from_line))
                .fact("devices", Fact::Number(self.devices())),
        ])
    }

    /// The commit of a confirmation, refused when the digest is not that of the whole output. Blocks on the disk.
    pub fn confirm(
        mut self,
        files: &OutputFiles,
        pseudonyms: &Pseudonyms,
        manufacturer: &Manufacturer,
        digest: &[u8],
    ) -> Result<Commit, KmsError> {
        let object = pseudonyms.order(&self.name());
        let mut hasher = Sha256::new();
        for number in 0..self.chunks() {
            if let Some(chunk) = self.chunk(files, number)? {
                hasher.update(&chunk.content);
            }
        }
        let actual: [u8; 32] = hasher.finalize().into();
        if actual[..] != *digest {
            return Err(KmsError::refused(
                ReasonCode::OutputDigestMismatch,
                "the digest is not that of the order's output",
                Some(object),
            ));
        }
        self.record.confirmed_digest = actual.to_vec();
        let key = order_key(&self.record.party, &self.record.name);
        Ok(Commit {
            entries: vec![
                EntryDraft::new(EventType::OrderOutputConfirmed, Outcome::Done)
                    .role(Role::Eum)
                    .actor(pseudonyms.principal(&manufacturer.principal))
                    .object(object)
                    .fact("output", Fact::Digest(actual))
                    .fact("devices", Fact::Number(self.devices())),
            ],
            changes: vec![Change::put(ORDERS, key.clone(), self.record.encode_to_vec())],
            preconditions: vec![Precondition::Version { keyspace: ORDERS, key, version: self.version }],
        })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.record.party, self.record.name)
    }
}

/// One chunk of output.
pub struct ChunkOutput {
    content: Vec<u8>,
    devices: u64,
}

impl ChunkOutput {
    /// How many devices it holds.
    pub const fn devices(&self) -> u64 {
        self.devices
    }

    /// Every byte, for the digest of the whole output.
    pub fn bytes(&self) -> &[u8] {
        &self.content
    }

    /// The lines without the first `skip` devices; the lines of transport keys always come first.
    pub fn lines_from(&self, skip: u64) -> Vec<u8> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let mut lines = self.content.split_inclusive(|byte| *byte == b'\n').peekable();
        let mut out = Vec::new();
        while let Some(header) = lines.next_if(|line| line.starts_with(output::TRANSPORT_KEY_LINE)) {
            out.extend_from_slice(header);
        }
        lines.skip(skip).for_each(|line| out.extend_from_slice(line));
        out
    }
}
