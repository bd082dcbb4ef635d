//! Orders: a device file goes in line by line, results come out line by line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand, ValueEnum};
use domain::{Eid, KeysetAlgorithm, Protocol, SecurityDomain};
use proto::v1::order_service_client::OrderServiceClient;
use proto::v1::{
    KeysetName, OrderHeader, OrderLineResult, PlaceOrderRequest, order_line_result, place_order_request,
    place_order_response,
};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::connect::{ANSWER_MAX_BYTES, Connection, RemoteArgs, resumes_after};
use crate::device_file::DeviceFile;
use crate::error::{CliError, Refused};
use crate::files;
use crate::identity::parse_name;
use crate::order_output::Fetch;
use crate::output::{Output, Progress, fields, printable, table};

/// Exit code when the order went through but some lines were refused.
const SOME_REFUSED: u8 = 3;
/// Lines read ahead of the network.
const LINES_AHEAD: usize = 256;
/// Refusals kept for the report; the results file has all of them.
const REFUSALS_SHOWN_MAX: usize = 1_000;

/// `chancery order ...`
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// Order devices: each line's device is registered, keyed and certified, or refused alone.
    ///
    /// Exit code 0 when every line was accepted, 3 when some were refused. Placing the same order again answers the
    /// lines that are there already with their recorded results.
    #[command(after_help = "Example:
  chancery order place --order batch-1 --issuer acme-2026 --devices devices.csv --kvn 0x30 --algorithm AES-128 \\
      --certificates-out euicc/ --results results.jsonl --identity acme/

devices.csv begins with the line eid,public_key or eid,csr; keys and requests are DER in hex or base64.")]
    Place(Place),
    /// Fetch the wrapped keysets of an order, check their digest, and confirm it.
    #[command(after_help = "Examples:
  chancery order fetch --order batch-1 --out output.jsonl --identity acme/
  chancery order fetch --order batch-1 --out tail.jsonl --from-line 5000 --identity acme/")]
    Fetch(Fetch),
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
    #[arg(long, value_parser = parse_name)]
    pub issuer: String,
    /// The device file (CSV)
    #[arg(long, value_name = "FILE")]
    pub devices: PathBuf,
    /// Which keyset
    #[command(flatten)]
    pub keyset: KeysetArgs,
    /// Key length
    #[arg(long, ignore_case = true)]
    pub algorithm: Algorithm,
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
        }
    }
}

/// What became of an order.
#[derive(Debug, Serialize)]
pub struct Placed {
    /// Its name.
    pub order: String,
    /// Lines that were accepted.
    pub accepted: u64,
    /// Lines that were refused.
    pub refused: u64,
    /// The refused lines, the first thousand.
    pub refusals: Vec<Refusal>,
}

/// One refused line.
#[derive(Debug, Clone, Serialize)]
pub struct Refusal {
    /// Its number, from 1.
    pub line: u64,
    /// Its device, as the file says.
    pub eid: String,
    /// Stable code.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What to do.
    pub next_step: String,
}

/// A line of the results file.
#[derive(Serialize)]
#[serde(untagged)]
enum ResultLine<'a> {
    Accepted {
        line: u64,
        eid: &'a str,
        accepted: bool,
        certificate: String,
    },
    Refused {
        accepted: bool,
        #[serde(flatten)]
        refusal: &'a Refusal,
    },
}

impl Place {
    async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let total = DeviceFile::count(&self.devices)?;
        let connection = self.remote.connect(output).await?;
        let mut progress = output.progress("ordering devices", total);
        let placed = self.place(&connection, total, &mut progress).await;
        match &placed {
            Ok(placed) => {
                progress.finish(&format!("{} accepted, {} refused", placed.accepted, placed.refused))
            }
            Err(_) => progress.finish("stopped"),
        }
        let placed = placed?;
        output.print(&placed, human)?;
        Ok(if placed.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(SOME_REFUSED) })
    }

    /// Streams the order until every line is answered. Memory is bounded: a bit for each line of the file, the lines on
    /// their way, and the first refusals.
    async fn place(
        &self,
        connection: &Connection,
        total: u64,
        progress: &mut Progress,
    ) -> Result<Placed, CliError> {
        let mut results = Results::create(self)?;
        let answered = Arc::new(Answered::new(total));
        let mut attempt = 1;
        loop {
            let before = answered.count();
            let broken = match self.stream(connection, &answered, &mut results, progress).await? {
                StreamEnd::Complete => break,
                StreamEnd::Broken(refused) => refused,
            };
            if answered.count() > before {
                attempt = 1;
            }
            let Some(wait) = resumes_after(&broken, attempt) else {
                return Err(CliError::Refused(Box::new(broken)));
            };
            progress.say(&format!("{}: {}; opening the stream again", broken.reason, broken.message));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
        if answered.count() != total {
            return Err(CliError::Answer(format!(
                "the stream ended with {} of {total} lines answered",
                answered.count()
            )));
        }
        results.finish(&self.order)
    }

    /// One stream: sends every line that has no answer yet, takes the answers.
    async fn stream(
        &self,
        connection: &Connection,
        answered: &Arc<Answered>,
        results: &mut Results,
        progress: &mut Progress,
    ) -> Result<StreamEnd, CliError> {
        let (sender, receiver) = mpsc::channel(LINES_AHEAD);
        let on_their_way: OnTheirWay = Arc::default();
        let (task, mut not_sent) = {
            let (path, answered, on_their_way) =
                (self.devices.clone(), Arc::clone(answered), Arc::clone(&on_their_way));
            let header = OrderHeader {
                order: self.order.clone(),
                issuer: self.issuer.clone(),
                keyset: Some(self.keyset.name()),
                key_bits: self.algorithm.key_bits(),
            };
            let (unsent, not_sent) = mpsc::channel(LINES_AHEAD);
            let task = tokio::task::spawn_blocking(move || {
                send_lines(&path, header, &sender, &unsent, &answered, &on_their_way)
            });
            (task, not_sent)
        };
        let mut client = client(connection);
        let opened =
            tokio::time::timeout(connection.timeout(), client.place_order(ReceiverStream::new(receiver)))
                .await;
        let mut answers = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ok(StreamEnd::Broken(status.into())),
            Err(_) => return Ok(StreamEnd::Broken(silence())),
        };
        let mut end = None;
        let mut reading = true;
        while end.is_none() || reading {
            tokio::select! {
                refusal = not_sent.recv(), if reading => match refusal {
                    Some(refusal) => {
                        answered.mark(refusal.line);
                        results.refused(refusal)?;
                        progress.advance(1);
                    }
                    None => reading = false,
                },
                answer = tokio::time::timeout(connection.timeout(), answers.message()), if end.is_none() => {
                    match answer {
                        Err(_) => return Ok(StreamEnd::Broken(silence())),
                        Ok(Err(status)) => return Ok(StreamEnd::Broken(status.into())),
                        Ok(Ok(None)) => {
                            let early = tonic::Status::unavailable("the stream ended before its summary");
                            return Ok(StreamEnd::Broken(early.into()));
                        }
                        Ok(Ok(Some(answer))) => match answer.part {
                            Some(place_order_response::Part::Line(line)) => {
                                self.take(line, answered, &on_their_way, results, progress)?;
                            }
                            Some(place_order_response::Part::Summary(_)) => end = Some(()),
                            None => return Err(CliError::Answer("a result without content".to_owned())),
                        },
                    }
                }
            }
        }
        task.await.map_err(|error| CliError::Local(error.to_string()))??;
        Ok(StreamEnd::Complete)
    }

    fn take(
        &self,
        result: OrderLineResult,
        answered: &Answered,
        on_their_way: &OnTheirWay,
        results: &mut Results,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let eid = lock(on_their_way).remove(&result.line).ok_or_else(|| {
            CliError::Answer(format!("a result for line {}, which is not waited for", result.line))
        })?;
        match result.result {
            Some(order_line_result::Result::Certificate(certificate)) => {
                results.accepted(result.line, &eid, &certificate)?;
            }
            Some(order_line_result::Result::Refusal(refusal)) => results.refused(Refusal {
                line: result.line,
                eid,
                reason: printable(&refusal.reason),
                message: printable(&refusal.message),
                next_step: printable(&refusal.next_step),
            })?,
            None => return Err(CliError::Answer(format!("line {} has no result", result.line))),
        }
        answered.mark(result.line);
        progress.advance(1);
        Ok(())
    }
}

fn silence() -> Refused {
    tonic::Status::unavailable("the service fell silent").into()
}

enum StreamEnd {
    Complete,
    Broken(Refused),
}

/// Lines that were sent and have no answer yet, with their EIDs.
type OnTheirWay = Arc<Mutex<HashMap<u64, String>>>;

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the device file and sends what has no answer yet. Ends quietly when the stream is gone.
fn send_lines(
    path: &Path,
    header: OrderHeader,
    sender: &mpsc::Sender<PlaceOrderRequest>,
    not_sent: &mpsc::Sender<Refusal>,
    answered: &Answered,
    on_their_way: &OnTheirWay,
) -> Result<(), CliError> {
    let mut file = DeviceFile::open(path)?;
    let message = |part| PlaceOrderRequest { part: Some(part) };
    if sender.blocking_send(message(place_order_request::Part::Header(header))).is_err() {
        return Ok(());
    }
    while let Some(device) = file.next_device().map_err(CliError::file("read", path))? {
        if answered.is_marked(device.line) {
            continue;
        }
        let gone = match device.order_line {
            Ok(line) => {
                lock(on_their_way).insert(device.line, printable(&device.eid));
                sender.blocking_send(message(place_order_request::Part::Line(line))).is_err()
            }
            Err(why) => {
                let refusal = Refusal {
                    line: device.line,
                    eid: printable(&device.eid),
                    reason: domain::ReasonCode::InvalidField.as_str().to_owned(),
                    message: format!("not sent: {why}"),
                    next_step: "correct the line and place the order again".to_owned(),
                };
                not_sent.blocking_send(refusal).is_err()
            }
        };
        if gone {
            break;
        }
    }
    Ok(())
}

/// Which lines have their answer: a bit each.
struct Answered(Mutex<(Vec<u64>, u64)>);

impl Answered {
    fn new(total: u64) -> Self {
        let words = usize::try_from(total / 64 + 1).unwrap_or(usize::MAX);
        Self(Mutex::new((vec![0; words], 0)))
    }

    /// Lines outside the file have no bit; they are never asked for.
    fn mark(&self, line: u64) {
        let (bits, count) = &mut *lock(&self.0);
        let Some(word) = usize::try_from(line / 64).ok().and_then(|at| bits.get_mut(at)) else { return };
        let bit = 1 << (line % 64);
        if *word & bit == 0 {
            *word |= bit;
            *count += 1;
        }
    }

    fn is_marked(&self, line: u64) -> bool {
        let (bits, _) = &*lock(&self.0);
        usize::try_from(line / 64)
            .ok()
            .and_then(|at| bits.get(at))
            .is_some_and(|word| word & (1 << (line % 64)) != 0)
    }

    fn count(&self) -> u64 {
        lock(&self.0).1
    }
}

/// Where results go as they come.
struct Results {
    certificates: Option<PathBuf>,
    file: Option<(BufWriter<File>, PathBuf)>,
    accepted: u64,
    refused: u64,
    refusals: Vec<Refusal>,
}

impl Results {
    fn create(place: &Place) -> Result<Self, CliError> {
        if let Some(folder) = &place.certificates_out {
            files::create_folder(folder)?;
        }
        let file = match &place.results {
            Some(path) => {
                let file = File::create_new(path).map_err(CliError::file("create", path))?;
                Some((BufWriter::new(file), path.clone()))
            }
            None => None,
        };
        Ok(Self {
            certificates: place.certificates_out.clone(),
            file,
            accepted: 0,
            refused: 0,
            refusals: Vec::new(),
        })
    }

    fn accepted(&mut self, line: u64, eid: &str, certificate: &[u8]) -> Result<(), CliError> {
        self.accepted += 1;
        if let Some(folder) = &self.certificates {
            // The service accepted the line, so its EID is one; as a file name it must be, whatever is answered.
            let eid: Eid = eid
                .parse()
                .map_err(|_| CliError::Answer(format!("line {line} was accepted with no valid EID")))?;
            let path = folder.join(format!("{eid}.der"));
            // Not synced: it can be fetched again, and a sync for each device would cost more than the order.
            std::fs::write(&path, certificate).map_err(CliError::file("write", &path))?;
        }
        self.write(&ResultLine::Accepted { line, eid, accepted: true, certificate: hex::encode(certificate) })
    }

    fn refused(&mut self, refusal: Refusal) -> Result<(), CliError> {
        self.refused += 1;
        self.write(&ResultLine::Refused { accepted: false, refusal: &refusal })?;
        if self.refusals.len() < REFUSALS_SHOWN_MAX {
            self.refusals.push(refusal);
        }
        Ok(())
    }

    fn write(&mut self, line: &ResultLine<'_>) -> Result<(), CliError> {
        let Some((writer, path)) = &mut self.file else { return Ok(()) };
        serde_json::to_writer(&mut *writer, line)
            .map_err(std::io::Error::from)
            .and_then(|()| writer.write_all(b"\n"))
            .map_err(CliError::file("write", path))
    }

    fn finish(self, order: &str) -> Result<Placed, CliError> {
        if let Some((mut writer, path)) = self.file {
            writer
                .flush()
                .and_then(|()| writer.get_ref().sync_all())
                .map_err(CliError::file("write", &path))?;
            files::sync_folder_of(&path)?;
        }
        let mut refusals = self.refusals;
        refusals.sort_by_key(|refusal| refusal.line);
        Ok(Placed { order: order.to_owned(), accepted: self.accepted, refused: self.refused, refusals })
    }
}

fn human(placed: &Placed) -> String {
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

    #[test]
    fn a_line_is_counted_once_however_often_it_is_answered() {
        let answered = Answered::new(130);
        for line in [1, 64, 130, 64, 10_000] {
            answered.mark(line);
        }
        assert_eq!(answered.count(), 3);
        assert!(answered.is_marked(64) && !answered.is_marked(63) && !answered.is_marked(10_000));
    }
}
