//! An order's lines on their way: sent, answered once each, resumed when the stream breaks.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use domain::Eid;
use proto::v1::{
    OrderHeader, OrderLineResult, PlaceOrderRequest, order_line_result, place_order_request,
    place_order_response,
};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::{Connection, resumes_after};
use crate::error::{CliError, Refused};
use crate::files;
use crate::order::client;
use crate::order_devices::Devices;
use crate::output::{Output, Progress, printable};

/// Lines read ahead of the network.
const LINES_AHEAD: usize = 256;
/// Refusals kept for the report; the results file has all of them.
const REFUSALS_SHOWN_MAX: usize = 1_000;

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
    KeysetMade {
        line: u64,
        eid: &'a str,
        accepted: bool,
        /// Of a device that moved in: the check values of its keys.
        #[serde(skip_serializing_if = "String::is_empty")]
        kcv: String,
    },
    Refused {
        accepted: bool,
        #[serde(flatten)]
        refusal: &'a Refusal,
    },
}

/// An order on its way: what is said of all of its devices, the devices, and where the results go.
pub struct Placing {
    /// The order's terms.
    pub header: OrderHeader,
    /// Its devices.
    pub devices: Devices,
    /// Folder for certificates.
    pub certificates_out: Option<PathBuf>,
    /// File for the results.
    pub results: Option<PathBuf>,
    /// Whether a results file that exists is replaced: an order that is continued answers all of its lines again.
    pub replace_results: bool,
}

impl Placing {
    /// Places the order and shows progress.
    pub async fn run(&self, connection: &Connection, output: Output) -> Result<Placed, CliError> {
        let total = self.devices.count()?;
        let mut progress = output.progress("ordering devices", total);
        let placed = self.place(connection, total, &mut progress).await;
        match &placed {
            Ok(placed) => {
                progress.finish(&format!("{} accepted, {} refused", placed.accepted, placed.refused))
            }
            Err(_) => progress.finish("stopped"),
        }
        placed
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
        results.finish(&self.header.order)
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
            let (devices, header) = (self.devices.clone(), self.header.clone());
            let (answered, on_their_way) = (Arc::clone(answered), Arc::clone(&on_their_way));
            let (unsent, not_sent) = mpsc::channel(LINES_AHEAD);
            let task = tokio::task::spawn_blocking(move || {
                send_lines(&devices, header, &sender, &unsent, &answered, &on_their_way)
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
            Some(order_line_result::Result::KeysetMade(_)) => results.keyset_made(result.line, &eid, &[])?,
            Some(order_line_result::Result::MovedIn(check_values)) => {
                results.keyset_made(result.line, &eid, &check_values)?;
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

/// Reads the devices and sends what has no answer yet. Ends quietly when the stream is gone.
fn send_lines(
    devices: &Devices,
    header: OrderHeader,
    sender: &mpsc::Sender<PlaceOrderRequest>,
    not_sent: &mpsc::Sender<Refusal>,
    answered: &Answered,
    on_their_way: &OnTheirWay,
) -> Result<(), CliError> {
    let mut lines = devices.open()?;
    let message = |part| PlaceOrderRequest { part: Some(part) };
    if sender.blocking_send(message(place_order_request::Part::Header(header))).is_err() {
        return Ok(());
    }
    while let Some(device) = lines.next_device()? {
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
    fn create(place: &Placing) -> Result<Self, CliError> {
        if let Some(folder) = &place.certificates_out {
            files::create_folder(folder)?;
        }
        let file = match &place.results {
            Some(path) => {
                let made = if place.replace_results { File::create(path) } else { File::create_new(path) };
                let file = made.map_err(CliError::file("create", path))?;
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

    fn keyset_made(&mut self, line: u64, eid: &str, check_values: &[u8]) -> Result<(), CliError> {
        self.accepted += 1;
        self.write(&ResultLine::KeysetMade { line, eid, accepted: true, kcv: hex::encode(check_values) })
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

#[cfg(test)]
mod tests {
    use super::*;

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
