//! Session keys for many cards: challenges in, opened keys out, as lines of JSON.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use domain::{Eid, PrincipalId};
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::session_keys_result::Outcome;
use proto::v1::{
    FetchSessionKeysRequest, FetchSessionKeysResponse, SessionKeysRefusal, StreamSessionKeysRequest,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tonic::Status;
use zeroize::Zeroizing;

use super::{Challenge, Fetched, Triple, mode_name, open, parse_challenge};
use crate::connect::{Connection, IdempotencyArgs, RemoteArgs, resumes_after};
use crate::error::{CliError, Refused};
use crate::identity::names;
use crate::json_lines::{self, LinesFile};
use crate::key_file::PrivateKey;
use crate::order::KeysetArgs;
use crate::output::{Output, Progress, fields, printable};

/// Cards of one message of the stream.
const BATCH: usize = 64;
/// Exit code when some lines were refused.
const SOME_REFUSED: u8 = 3;

/// Arguments of `session-keys fetch-many`.
#[derive(Debug, Args)]
pub struct FetchMany {
    /// One line of JSON for each card: eid, host_challenge, card_challenge, card_cryptogram
    /// (docs/formats/session-key-lines.md)
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// File to write, readable only by its owner: one line of JSON with the opened session keys for each card
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    keyset: KeysetArgs,
    /// What the keys are for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChallengeLine {
    eid: String,
    host_challenge: String,
    card_challenge: String,
    card_cryptogram: String,
}

pub(crate) struct Line {
    eid: Eid,
    host: Challenge,
    card: Challenge,
    cryptogram: Challenge,
}

/// A line of a card whose keys were refused.
#[derive(Serialize)]
struct RefusedLine<'a> {
    eid: String,
    reason: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct FetchedMany {
    fetched: u64,
    refused: u64,
    file: PathBuf,
    idempotency_key: String,
}

/// The lines to write, in the order of the challenges.
struct Lines {
    /// Lines whose turn has not come; none where there is no answer yet.
    waiting: Vec<Option<Zeroizing<Vec<u8>>>>,
    /// Whether the line of this place is final.
    answered: Vec<bool>,
    next: usize,
    out: LinesFile,
    fetched: u64,
    refused: u64,
}

impl Lines {
    fn take(&mut self, at: usize, line: Zeroizing<Vec<u8>>, is_refused: bool) -> Result<(), CliError> {
        *if is_refused { &mut self.refused } else { &mut self.fetched } += 1;
        self.answered[at] = true;
        self.waiting[at] = Some(line);
        while let Some(line) = self.waiting.get_mut(self.next).and_then(Option::take) {
            self.out.line(&line)?;
            self.next += 1;
        }
        Ok(())
    }
}

/// How a stream ended.
enum StreamEnd {
    /// Every batch was answered; some items may have to be sent again, the last of them for this reason.
    Whole(Option<Refused>),
    /// It broke off.
    Broken(Refused),
}

/// Reads the cards' challenges.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<Line>, CliError> {
    json_lines::read(path, "docs/formats/session-key-lines.md", parse)
}

impl FetchMany {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let challenges = read_lines(&self.file)?;
        let encryption_key =
            PrivateKey::load(&self.remote.identity.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let key = self.idempotency.key()?;
        let connection = self.remote.connect(output).await?;
        let mut lines = Lines {
            waiting: challenges.iter().map(|_| None).collect(),
            answered: vec![false; challenges.len()],
            next: 0,
            out: LinesFile::create(&self.out)?,
            fetched: 0,
            refused: 0,
        };
        let mut progress = output.progress("fetching session keys", challenges.len() as u64);
        let ended =
            self.fetch_all(&connection, &challenges, &key, &encryption_key, &mut lines, &mut progress).await;
        lines.out.finish()?;
        progress.finish(&format!("{} fetched", lines.fetched));
        ended?;
        let done = FetchedMany {
            fetched: lines.fetched,
            refused: lines.refused,
            file: self.out.clone(),
            idempotency_key: key,
        };
        output.print(&done, |done| {
            fields([
                ("fetched", done.fetched.to_string()),
                ("refused", done.refused.to_string()),
                ("file", done.file.display().to_string()),
            ])
        })?;
        Ok(if done.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(SOME_REFUSED) })
    }

    /// Streams until every line has its answer; what broke off or may succeed later is sent again under the same keys.
    async fn fetch_all(
        &self,
        connection: &Connection,
        challenges: &[Line],
        key: &str,
        encryption_key: &[u8; 32],
        lines: &mut Lines,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let mut attempt = 1;
        loop {
            let open: Vec<usize> = (0..challenges.len()).filter(|at| !lines.answered[*at]).collect();
            if open.is_empty() {
                return Ok(());
            }
            let requests: Vec<FetchSessionKeysRequest> =
                open.iter().map(|at| self.request(&challenges[*at], line_key(key, *at as u64))).collect();
            let before = lines.next;
            let end = self.stream(connection, &open, &requests, encryption_key, lines, progress).await?;
            if lines.next > before {
                attempt = 1;
            }
            let refused = match end {
                StreamEnd::Whole(None) => continue,
                StreamEnd::Whole(Some(refused)) | StreamEnd::Broken(refused) => refused,
            };
            let Some(wait) = resumes_after(&refused, attempt) else {
                let refused = Refused { idempotency_key: Some(key.to_owned()), ..refused };
                return Err(CliError::Refused(Box::new(refused)));
            };
            progress.say(&format!("{}: {}; opening the stream again", refused.reason, refused.message));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// One stream over the lines at these places.
    async fn stream(
        &self,
        connection: &Connection,
        places: &[usize],
        requests: &[FetchSessionKeysRequest],
        encryption_key: &[u8; 32],
        lines: &mut Lines,
        progress: &mut Progress,
    ) -> Result<StreamEnd, CliError> {
        let batches: Vec<StreamSessionKeysRequest> =
            requests.chunks(BATCH).map(|items| StreamSessionKeysRequest { items: items.to_vec() }).collect();
        let mut client = SessionKeyServiceClient::new(connection.channel());
        let opening = client.stream_session_keys(tokio_stream::iter(batches));
        let silence = || Refused::from(Status::unavailable("the service has been silent for too long"));
        let mut answers = match tokio::time::timeout(connection.timeout(), opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ok(StreamEnd::Broken(status.into())),
            Err(_) => return Ok(StreamEnd::Broken(silence())),
        };
        let mut again = None;
        for (places, items) in places.chunks(BATCH).zip(requests.chunks(BATCH)) {
            let answer = match tokio::time::timeout(connection.timeout(), answers.message()).await {
                Ok(Ok(Some(answer))) => answer,
                Ok(Ok(None)) => {
                    let early = Status::unavailable("the stream ended before its last batch");
                    return Ok(StreamEnd::Broken(early.into()));
                }
                Ok(Err(status)) => return Ok(StreamEnd::Broken(status.into())),
                Err(_) => return Ok(StreamEnd::Broken(silence())),
            };
            if answer.results.len() != items.len() {
                return Err(CliError::Answer("a batch has another number of results than items".to_owned()));
            }
            for ((at, item), result) in places.iter().zip(items).zip(answer.results) {
                match result.outcome {
                    Some(Outcome::Keys(keys)) => {
                        let line = self.fetched_line(connection, item, &keys, encryption_key)?;
                        lines.take(*at, line, false)?;
                        progress.advance(1);
                    }
                    Some(Outcome::Refusal(refusal)) if refusal.retryable => again = Some(refused(&refusal)),
                    Some(Outcome::Refusal(refusal)) => {
                        lines.take(*at, refused_line(item, &refusal)?, true)?;
                        progress.advance(1);
                    }
                    None => return Err(CliError::Answer("a result without content".to_owned())),
                }
            }
        }
        Ok(StreamEnd::Whole(again))
    }

    fn request(&self, challenge: &Line, key: String) -> FetchSessionKeysRequest {
        FetchSessionKeysRequest {
            idempotency_key: key,
            eid: challenge.eid.to_string(),
            keyset: Some(self.keyset.name()),
            host_challenge: challenge.host.0.clone(),
            card_challenge: challenge.card.0.clone(),
            card_cryptogram: challenge.cryptogram.0.clone(),
            purpose: self.purpose.clone(),
            ..FetchSessionKeysRequest::default()
        }
    }

    /// The line of a card whose keys came, opened and checked.
    fn fetched_line(
        &self,
        connection: &Connection,
        request: &FetchSessionKeysRequest,
        answer: &FetchSessionKeysResponse,
        encryption_key: &[u8; 32],
    ) -> Result<Zeroizing<Vec<u8>>, CliError> {
        let opened = open(answer, request, &PrincipalId(connection.principal), encryption_key)?;
        let keys = &opened.keys;
        let digests =
            [&keys.s_enc, &keys.s_mac, &keys.s_rmac].map(|key| hex::encode(Sha256::digest(key.expose())));
        let [s_enc, s_mac, s_rmac] =
            [&keys.s_enc, &keys.s_mac, &keys.s_rmac].map(|key| Zeroizing::new(hex::encode(key.expose())));
        let fetched = Fetched {
            eid: request.eid.clone(),
            kvn: format!("0x{:02x}", self.keyset.kvn),
            algorithm: keys.s_enc.algorithm().as_str(),
            mode: mode_name(&request.host_challenge),
            host_challenge: hex::encode(&request.host_challenge),
            card_challenge: hex::encode(&request.card_challenge),
            card_cryptogram: hex::encode(&request.card_cryptogram),
            host_cryptogram: hex::encode(opened.host_cryptogram),
            entry_index: answer.entry_index,
            session_key_digests: Triple { s_enc: &digests[0], s_mac: &digests[1], s_rmac: &digests[2] },
            session: Some(Triple { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac }),
        };
        to_line(&fetched)
    }
}

fn refused_line(
    request: &FetchSessionKeysRequest,
    refusal: &SessionKeysRefusal,
) -> Result<Zeroizing<Vec<u8>>, CliError> {
    to_line(&RefusedLine {
        eid: request.eid.clone(),
        reason: &printable(&refusal.reason),
        message: &printable(&refusal.message),
    })
}

fn to_line(line: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    // Sized once: a growing buffer would leave copies of the keys behind.
    let mut text = Zeroizing::new(Vec::with_capacity(2048));
    serde_json::to_writer(&mut *text, line).map_err(|error| CliError::Local(error.to_string()))?;
    Ok(text)
}

/// A refused item as a refusal of the whole: for waiting, and for when waiting does not help.
fn refused(refusal: &SessionKeysRefusal) -> Refused {
    let mut refused = Refused::from(Status::unavailable(refusal.message.as_str()));
    refused.reason = printable(&refusal.reason);
    refused.next_step = Some(printable(&refusal.next_step));
    refused.entry_index = (refusal.entry_index > 0).then_some(refusal.entry_index);
    refused
}

/// Each line has a key of its own, the same whenever the file is sent again under the same key.
fn line_key(key: &str, number: u64) -> String {
    hex::encode(&Sha256::digest(format!("{key}/{number}"))[..16])
}

fn parse(line: ChallengeLine) -> Result<Line, String> {
    let bytes = |name: &str, text: &str| parse_challenge(text).map_err(|why| format!("{name}: {why}"));
    Ok(Line {
        eid: line.eid.parse().map_err(|e: domain::EidError| format!("eid: {e}"))?,
        host: bytes("host_challenge", &line.host_challenge)?,
        card: bytes("card_challenge", &line.card_challenge)?,
        cryptogram: bytes("card_cryptogram", &line.card_cryptogram)?,
    })
}
