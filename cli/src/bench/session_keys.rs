//! The main job under load: session keys for cards that prove themselves, distinct challenges, a sample opened.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::{PrincipalId, ReasonCode};
use keys::scp03::{CardChallenge, Challenges, HostChallenge};
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::session_keys_result::Outcome;
use proto::v1::{FetchSessionKeysRequest, KeysetName, StreamSessionKeysRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::bench::cards::Card;
use crate::bench::load::{self, Measured};
use crate::connect::Connection;
use crate::error::CliError;
use crate::session_keys::open;

/// One answer in so many is opened and checked against the card.
const SAMPLE_EVERY: u64 = 64;

/// Fetches session keys for a set of cards.
#[derive(Clone)]
pub struct SessionKeyLoad(Arc<Parts>);

struct Parts {
    cards: Vec<Card>,
    clients: Vec<SessionKeyServiceClient<Channel>>,
    principal: PrincipalId,
    encryption_key: Zeroizing<[u8; 32]>,
    keyset: KeysetName,
    purpose: &'static str,
    /// Makes challenges and idempotency keys of this run differ from those of any other.
    run: [u8; 4],
    checked: AtomicU64,
}

impl SessionKeyLoad {
    /// For these cards, over these connections.
    pub fn new(
        cards: Vec<Card>,
        connections: &[Connection],
        encryption_key: Zeroizing<[u8; 32]>,
        keyset: KeysetName,
        purpose: &'static str,
    ) -> Result<Self, CliError> {
        let principal = match (connections.first(), cards.is_empty()) {
            (Some(connection), false) => PrincipalId(connection.principal),
            _ => return Err(CliError::Local("nothing to bench with: no connection or no card".to_owned())),
        };
        let mut run = [0; 4];
        getrandom::fill(&mut run).map_err(|error| CliError::Local(format!("no entropy: {error}")))?;
        let clients =
            connections.iter().map(|connection| SessionKeyServiceClient::new(connection.channel())).collect();
        Ok(Self(Arc::new(Parts {
            cards,
            clients,
            principal,
            encryption_key,
            keyset,
            purpose,
            run,
            checked: AtomicU64::new(0),
        })))
    }

    /// Keeps `in_flight` fetches going for `time`.
    pub async fn run(
        &self,
        in_flight: usize,
        time: Duration,
        numbers: &Arc<AtomicU64>,
    ) -> Result<Measured, CliError> {
        let load = self.clone();
        load::run(in_flight, time, numbers, move |connection, number| {
            let load = load.clone();
            async move { load.fetch(connection, number).await }
        })
        .await
    }

    /// Keeps `streams` streams going for `time`, each with one batch of `batch` cards at a time. Every card of a batch counts
    /// as one operation that took as long as its batch.
    pub async fn run_batches(
        &self,
        streams: usize,
        batch: usize,
        time: Duration,
        numbers: &Arc<AtomicU64>,
    ) -> Result<Measured, CliError> {
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for stream in 0..streams {
            let (load, numbers) = (self.clone(), Arc::clone(numbers));
            tasks.spawn(async move { load.stream(stream, batch, started + time, &numbers).await });
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            latencies.extend(done.map_err(|error| CliError::Local(error.to_string()))??);
        }
        Ok(Measured::new(started.elapsed(), latencies))
    }

    async fn stream(
        &self,
        stream: usize,
        batch: usize,
        until: Instant,
        numbers: &AtomicU64,
    ) -> Result<Vec<u32>, CliError> {
        let parts = &*self.0;
        let (sender, receiver) = mpsc::channel(1);
        let mut client = parts.clients[stream % parts.clients.len()].clone();
        let mut answers = client.stream_session_keys(ReceiverStream::new(receiver)).await?.into_inner();
        let mut latencies = Vec::new();
        while Instant::now() < until {
            let first = numbers.fetch_add(batch as u64, Ordering::Relaxed);
            let items: Vec<_> = (first..first + batch as u64).map(|number| parts.request(number)).collect();
            let samples: Vec<_> = (0..batch)
                .filter(|at| (first + *at as u64).is_multiple_of(SAMPLE_EVERY))
                .map(|at| (at, items[at].clone()))
                .collect();
            let sent = Instant::now();
            let closed = |_| CliError::Answer("the stream was closed".to_owned());
            sender.send(StreamSessionKeysRequest { items }).await.map_err(closed)?;
            let answer = answers.message().await?;
            let results = answer.map(|answer| answer.results).unwrap_or_default();
            if results.len() != batch {
                return Err(CliError::Answer("a batch was not answered whole".to_owned()));
            }
            latencies.extend(std::iter::repeat_n(load::micros(sent.elapsed()), batch));
            if let Some(refusal) = results.iter().find_map(|result| match &result.outcome {
                Some(Outcome::Keys(_)) => None,
                other => Some(format!("{other:?}")),
            }) {
                return Err(CliError::Answer(format!("an item was refused: {refusal}")));
            }
            for (at, request) in samples {
                if let Some(Outcome::Keys(answer)) = &results[at].outcome {
                    open(answer, &request, &parts.principal, &parts.encryption_key)?;
                    parts.checked.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(latencies)
    }

    /// One fetch for the card at this place. The index of the entry that records the release; none when the device is
    /// frozen.
    pub async fn fetch_unless_frozen(
        &self,
        connection: usize,
        card: usize,
        number: u64,
    ) -> Result<Option<u64>, CliError> {
        let request = self.0.request_of(card, number);
        match self.0.clients[connection].clone().fetch_session_keys(request).await {
            Ok(answer) => Ok(Some(answer.into_inner().entry_index)),
            Err(status) => match CliError::from(status) {
                error if error.reason() == ReasonCode::DeviceNotActive.as_str() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// How many answers were opened and found right.
    pub fn checked(&self) -> u64 {
        self.0.checked.load(Ordering::Relaxed)
    }

    /// Writes proofs of the cards for `chanceryd token-rate`, a line each, so that the token alone gets the same work.
    pub fn write_proofs(&self, path: &Path, proofs: u64, numbers: &AtomicU64) -> Result<(), CliError> {
        let mut text = String::new();
        for _ in 0..proofs {
            let request = self.0.request(numbers.fetch_add(1, Ordering::Relaxed));
            let line = serde_json::json!({
                "eid": request.eid,
                "kvn": self.0.keyset.key_version_number,
                "host_challenge": hex::encode(&request.host_challenge),
                "card_challenge": hex::encode(&request.card_challenge),
                "card_cryptogram": hex::encode(&request.card_cryptogram),
            });
            text.push_str(&format!("{line}\n"));
        }
        std::fs::write(path, text).map_err(CliError::file("write", path))
    }

    async fn fetch(&self, connection: usize, number: u64) -> Result<(), CliError> {
        let parts = &*self.0;
        let request = parts.request(number);
        let sample = number.is_multiple_of(SAMPLE_EVERY).then(|| request.clone());
        let answer = parts.clients[connection].clone().fetch_session_keys(request).await?.into_inner();
        if let Some(request) = sample {
            open(&answer, &request, &parts.principal, &parts.encryption_key)?;
            parts.checked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Parts {
    fn request(&self, number: u64) -> FetchSessionKeysRequest {
        self.request_of(usize::try_from(number % self.cards.len() as u64).unwrap_or(0), number)
    }

    fn request_of(&self, card: usize, number: u64) -> FetchSessionKeysRequest {
        let card = &self.cards[card];
        let number = number.to_be_bytes();
        let mut host = number;
        host[..4].copy_from_slice(&self.run);
        let challenges = Challenges { host: HostChallenge(host), card: CardChallenge(number) };
        FetchSessionKeysRequest {
            idempotency_key: hex::encode([&self.run[..], &number].concat()),
            eid: card.eid.to_string(),
            keyset: Some(self.keyset),
            host_challenge: challenges.host.0.to_vec(),
            card_challenge: challenges.card.0.to_vec(),
            card_cryptogram: card.cryptogram(&challenges).0.to_vec(),
            purpose: self.purpose.to_owned(),
            ..FetchSessionKeysRequest::default()
        }
    }
}
