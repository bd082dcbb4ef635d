//! An order's output: fetched whole or resumed, checked, durable, then confirmed.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use proto::v1::{
    ConfirmOrderOutputRequest, FetchOrderOutputRequest, OutputEnd, fetch_order_output_response::Part,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::connect::{Connection, IdempotencyArgs, RemoteArgs, resumes_after};
use crate::error::{CliError, Refused};
use crate::files;
use crate::identity::parse_name;
use crate::order::client;
use crate::order_lines::LINE_MAX_BYTES;
use crate::output::{Output, Progress, fields};

/// Arguments of `order fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// Name of the order
    #[arg(long, value_parser = parse_name)]
    pub order: String,
    /// File to write; an interrupted fetch is continued from FILE.part
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Only the device lines from this one on, from 0; what is fetched so cannot be checked against the digest and is
    /// not confirmed
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub from_line: u64,
    /// Replace FILE if it exists
    #[arg(long)]
    pub yes: bool,
    /// Under which key the confirmation can be repeated
    #[command(flatten)]
    pub idempotency: IdempotencyArgs,
    /// Who calls, and where to
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// What was fetched.
#[derive(Serialize)]
pub struct Fetched {
    order: String,
    file: PathBuf,
    /// Devices in the file.
    pub devices: u64,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    confirmed: bool,
    entry_index: Option<u64>,
}

impl Fetch {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        if self.out.exists() && !self.yes {
            return Err(CliError::invalid(
                format!("{} exists already", self.out.display()),
                "name another file, or pass --yes to replace it",
            ));
        }
        let connection = self.remote.connect(output).await?;
        let fetched = self.fetch(&connection, output).await?;
        output.print(&fetched, |fetched| {
            fields([
                ("order", fetched.order.clone()),
                ("file", fetched.file.display().to_string()),
                ("devices", fetched.devices.to_string()),
                ("SHA-256", fetched.sha256.clone()),
                (
                    "confirmed",
                    fetched.entry_index.map_or_else(
                        || "no: only a part was asked for".to_owned(),
                        |index| format!("yes (log entry {index})"),
                    ),
                ),
            ])
        })
    }

    /// Fetches, checks, puts in place and confirms.
    pub async fn fetch(&self, connection: &Connection, output: Output) -> Result<Fetched, CliError> {
        let mut part = PartFile::open(&self.out, self.from_line)?;
        let mut progress = output.progress("fetching the order's output", 0);
        progress.advance(part.devices);
        let fetched = self.stream_all(connection, &mut part, &mut progress).await;
        progress.finish(if fetched.is_ok() { "complete" } else { "stopped; what arrived is kept" });
        let end = fetched?;

        let whole = self.from_line == 0;
        if whole {
            part.check(&end)?;
        }
        let (devices, digest) = part.put_in_place(&self.out)?;
        let entry_index = if whole { Some(self.confirm(connection, digest, output).await?) } else { None };
        Ok(Fetched {
            order: self.order.clone(),
            file: self.out.clone(),
            devices,
            sha256: hex::encode(digest),
            confirmed: whole,
            entry_index,
        })
    }

    async fn stream_all(
        &self,
        connection: &Connection,
        part: &mut PartFile,
        progress: &mut Progress,
    ) -> Result<OutputEnd, CliError> {
        let mut attempt = 1;
        loop {
            let before = part.devices;
            let broken = match self.stream(connection, part, progress).await? {
                Ok(end) => return Ok(end),
                Err(refused) => refused,
            };
            part.sync()?;
            if part.devices > before {
                attempt = 1;
            }
            let Some(wait) = resumes_after(&broken, attempt) else {
                return Err(CliError::Refused(Box::new(broken)));
            };
            progress.say(&format!("{}: {}; going on from there", broken.reason, broken.message));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    async fn stream(
        &self,
        connection: &Connection,
        part: &mut PartFile,
        progress: &mut Progress,
    ) -> Result<Result<OutputEnd, Refused>, CliError> {
        let request =
            FetchOrderOutputRequest { order: self.order.clone(), from_line: self.from_line + part.devices };
        let mut client = client(connection);
        let silence = || Refused::from(tonic::Status::unavailable("the service fell silent"));
        let mut answers =
            match tokio::time::timeout(connection.timeout(), client.fetch_order_output(request)).await {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return Ok(Err(status.into())),
                Err(_) => return Ok(Err(silence())),
            };
        loop {
            match tokio::time::timeout(connection.timeout(), answers.message()).await {
                Err(_) => return Ok(Err(silence())),
                Ok(Err(status)) => return Ok(Err(status.into())),
                Ok(Ok(None)) => {
                    return Ok(Err(tonic::Status::unavailable("the stream ended before its digest").into()));
                }
                Ok(Ok(Some(answer))) => match answer.part {
                    Some(Part::Lines(lines)) => progress.advance(part.take(&lines)?),
                    Some(Part::End(end)) => return Ok(Ok(end)),
                    None => return Err(CliError::Answer("a piece without content".to_owned())),
                },
            }
        }
    }

    async fn confirm(
        &self,
        connection: &Connection,
        digest: [u8; 32],
        output: Output,
    ) -> Result<u64, CliError> {
        let key = self.idempotency.key()?;
        let message = ConfirmOrderOutputRequest {
            idempotency_key: key.clone(),
            order: self.order.clone(),
            digest: digest.to_vec(),
        };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = client(connection);
                async move { client.confirm_order_output(request).await }
            })
            .await?;
        Ok(answer.entry_index)
    }
}

/// FILE.part: whole lines that have arrived.
struct PartFile {
    path: PathBuf,
    file: File,
    digest: Sha256,
    devices: u64,
    /// Digests of the header lines it holds: a resumed stream repeats the header of the transport key in use.
    headers: HashSet<[u8; 32]>,
}

/// What a line of an output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LineKind {
    /// A transport key, wrapped for the manufacturer.
    TransportKey,
    /// A device's keyset.
    Device,
}

fn line_kind(line: &[u8]) -> Option<LineKind> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).ok()?;
    match (object.contains_key("eid"), object.contains_key("wrapped")) {
        (true, false) => Some(LineKind::Device),
        (false, true) => Some(LineKind::TransportKey),
        _ => None,
    }
}

impl PartFile {
    /// Opens FILE.part. A whole fetch goes on after the last whole line that is there; a fetch of the tail begins anew.
    fn open(out: &Path, from_line: u64) -> Result<Self, CliError> {
        let mut path = out.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(CliError::file("open", &path))?;
        let mut part = Self { path, file, digest: Sha256::new(), devices: 0, headers: HashSet::new() };
        let mut kept = 0;
        if from_line == 0 {
            kept = part.read_back()?;
        }
        part.file.set_len(kept).map_err(CliError::file("shorten", &part.path))?;
        Ok(part)
    }

    /// Takes the lines of an earlier run into account; bytes that are whole, known lines from the start.
    fn read_back(&mut self) -> Result<u64, CliError> {
        let mut reader = BufReader::new(self.file.try_clone().map_err(CliError::file("read", &self.path))?);
        let mut kept = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(CliError::file("read", &self.path))?;
            if line.last() != Some(&b'\n') {
                return Ok(kept);
            }
            let Some(kind) = line_kind(&line) else { return Ok(kept) };
            self.count(kind, &line);
            kept += line.len() as u64;
        }
    }

    /// Appends whole lines, leaving out headers that are there already. Returns how many devices they hold.
    fn take(&mut self, lines: &[u8]) -> Result<u64, CliError> {
        let before = self.devices;
        if lines.last().is_some_and(|last| *last != b'\n') {
            return Err(CliError::Answer("a piece of the output ends within a line".to_owned()));
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let kind =
                (line.len() <= LINE_MAX_BYTES).then(|| line_kind(line)).flatten().ok_or_else(|| {
                    CliError::Answer("a line of the output is neither a device nor a key".to_owned())
                })?;
            if kind == LineKind::TransportKey && self.headers.contains(&sha256(line)) {
                continue;
            }
            self.file.write_all(line).map_err(CliError::file("write", &self.path))?;
            self.count(kind, line);
        }
        Ok(self.devices - before)
    }

    fn count(&mut self, kind: LineKind, line: &[u8]) {
        self.digest.update(line);
        match kind {
            LineKind::Device => self.devices += 1,
            LineKind::TransportKey => {
                self.headers.insert(sha256(line));
            }
        }
    }

    /// Compares with what the service says it sent. What does not match is thrown away, so that the next run begins anew.
    fn check(&self, end: &OutputEnd) -> Result<(), CliError> {
        let digest: [u8; 32] = self.digest.clone().finalize().into();
        if digest[..] == end.digest[..] && self.devices == end.devices {
            return Ok(());
        }
        std::fs::remove_file(&self.path).map_err(CliError::file("remove", &self.path))?;
        Err(CliError::Answer(format!(
            "{} devices with SHA-256 {} arrived, the service says {} with {}; the file was removed, fetch it again",
            self.devices,
            hex::encode(digest),
            end.devices,
            hex::encode(&end.digest)
        )))
    }

    fn sync(&self) -> Result<(), CliError> {
        self.file.sync_data().map_err(CliError::file("sync", &self.path))
    }

    /// Makes it durable under its final name. Devices and SHA-256 of what it holds.
    fn put_in_place(self, out: &Path) -> Result<(u64, [u8; 32]), CliError> {
        self.file.sync_all().map_err(CliError::file("sync", &self.path))?;
        files::rename(&self.path, out)?;
        Ok((self.devices, self.digest.finalize().into()))
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_1: &[u8] = b"{\"transport_key\":\"t1\",\"wrapped\":\"00\",\"oaep_hash\":\"SHA-1\"}\n";
    const KEY_2: &[u8] = b"{\"transport_key\":\"t2\",\"wrapped\":\"01\",\"oaep_hash\":\"SHA-1\"}\n";
    const DEVICE_A: &[u8] = b"{\"eid\":\"a\",\"transport_key\":\"t1\"}\n";
    const DEVICE_B: &[u8] = b"{\"eid\":\"b\",\"transport_key\":\"t1\"}\n";
    const DEVICE_C: &[u8] = b"{\"eid\":\"c\",\"transport_key\":\"t2\"}\n";

    fn end(whole: &[u8], devices: u64) -> OutputEnd {
        OutputEnd { digest: sha256(whole).to_vec(), devices }
    }

    #[test]
    fn an_interrupted_fetch_goes_on_after_its_last_whole_line_and_ends_with_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("output.jsonl");
        let whole = [KEY_1, DEVICE_A, DEVICE_B, KEY_2, DEVICE_C].concat();

        let mut part = PartFile::open(&out, 0).unwrap();
        assert_eq!(part.take(&[KEY_1, DEVICE_A].concat()).unwrap(), 1);
        drop(part);
        // The machine stopped within the next line.
        let path = folder.path().join("output.jsonl.part");
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(&DEVICE_B[..7]);
        std::fs::write(&path, torn).unwrap();

        let mut part = PartFile::open(&out, 0).unwrap();
        assert_eq!(part.devices, 1);
        assert_eq!(part.take(&[KEY_1, DEVICE_B, KEY_2, DEVICE_C].concat()).unwrap(), 2);
        part.check(&end(&whole, 3)).unwrap();
        let (devices, digest) = part.put_in_place(&out).unwrap();
        assert_eq!((devices, digest), (3, sha256(&whole)));
        assert_eq!(std::fs::read(&out).unwrap(), whole);
    }

    #[test]
    fn an_output_of_another_digest_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("output.jsonl");
        let mut part = PartFile::open(&out, 0).unwrap();
        part.take(&[KEY_1, DEVICE_A].concat()).unwrap();
        assert!(part.check(&end(&[KEY_1, DEVICE_B].concat(), 1)).is_err());
        assert!(part.check(&end(&[KEY_1, DEVICE_A].concat(), 1)).is_ok());
        assert!(!folder.path().join("output.jsonl.part").exists() && !out.exists());
    }

    #[test]
    fn pieces_that_are_no_whole_known_lines_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = PartFile::open(&folder.path().join("output.jsonl"), 0).unwrap();
        for piece in [&DEVICE_A[..5], b"{}\n", b"no json\n", b"\n", b"{\"eid\":1,\"wrapped\":2}\n"] {
            assert!(part.take(piece).is_err());
        }
        assert_eq!(part.devices, 0);
    }

    #[test]
    fn a_tail_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("tail.jsonl");
        PartFile::open(&out, 0).unwrap().take(&[KEY_1, DEVICE_A].concat()).unwrap();
        let part = PartFile::open(&out, 7).unwrap();
        assert_eq!(part.devices, 0);
        assert_eq!(std::fs::metadata(&part.path).unwrap().len(), 0);
    }
}
