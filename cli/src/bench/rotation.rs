//! A rotation under load: scripts fetched, loaded by simulated cards, proved and confirmed, as a provisioner does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::Eid;
use keys::scp03::{CardChallenge, Challenges, HostChallenge};
use proto::v1::rotation_service_client::RotationServiceClient;
use proto::v1::{
    CardProof, FetchRotationScriptsRequest, GetRotationRequest, ReportRotationRequest, RotationItemState,
    RotationReport, RotationScript, RotationState, RotationStatus,
};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::bench::authority::{EIN, PROVISIONER, ScratchAuthority};
use crate::bench::cards::Card;
use crate::bench::load::{CONNECTIONS, Measured, micros};
use crate::bench::report::{TokenRate, TokenWork, Usage};
use crate::bench::{BenchArgs, connect};
use crate::connect::random_key;
use crate::error::CliError;
use crate::output::{Output, fields};
use crate::rotation::reports::item_state_name;
use crate::rotation::status::state_name;

const ROTATION: &str = "bench-rotation";
/// Scripts of one fetch, and reports of one call.
const BATCH: u32 = 100;
/// Provisioner calls at once when nothing else is asked for.
const LANES: usize = 4;
/// Between two looks at a rotation that gives out nothing.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const PREPARE_TIMEOUT: Duration = Duration::from_secs(120);
/// Token whose time is counted.
const WORK: &[TokenWork] = &[TokenWork { token: "kms", kind: "put-key" }];
/// What a rotated keyset asks of the token: its PUT KEY blocks, and the card's proof.
const ALONE: &[TokenWork] =
    &[TokenWork { token: "kms", kind: "put-key" }, TokenWork { token: "kms", kind: "card-proof" }];

/// What it came to.
#[derive(Serialize)]
struct Report {
    benchmark: &'static str,
    /// Devices that proved their new keyset.
    keysets: u64,
    from: &'static str,
    to: &'static str,
    in_flight: usize,
    batch: u32,
    seconds: f64,
    per_second: f64,
    fetch_p50_us: u32,
    fetch_p99_us: u32,
    report_p50_us: u32,
    report_p99_us: u32,
    /// Of the daemon without its workers, for a keyset: script, report, log.
    daemon_cpu_us_per_keyset: f64,
    worker_cpu_us_per_keyset: f64,
    /// Of this tool, which plays the cards.
    client_cpu_us_per_keyset: f64,
    /// Time inside calls of the token, in this same run.
    token_us_per_keyset: f64,
    workers_per_token: u64,
    cores: usize,
    token_delay_us: u64,
    /// Each kind of work alone, in this same run.
    token_alone: Vec<TokenRate>,
    /// What the PKCS#11 calls of both allow, one after the other, on as many cores as there are workers.
    raw_per_second: f64,
    ratio_to_raw: f64,
}

/// Orders devices, starts a rotation of all of them, and carries it out.
pub async fn measure(
    args: &BenchArgs,
    authority: &mut ScratchAuthority,
    output: Output,
) -> Result<(), CliError> {
    let lanes = args.level_of_one(LANES)?;
    let cards = args.cards(authority, output)?;
    let devices = cards.len() as u64;
    tokio::task::block_in_place(|| {
        authority.protected(&[
            "rotation",
            "request",
            "--name",
            ROTATION,
            "--provisioner",
            PROVISIONER,
            "--ein",
            EIN,
            "--from-kvn",
            "0x30",
            "--to-kvn",
            "0x31",
            "--to-algorithm",
            "AES-256",
            "--stages",
            "100",
            "--overlap",
            "1d",
            "--halt-failures",
            "100",
        ])
    })?;
    let connections = connect(authority, authority.path(PROVISIONER), output).await?;
    let clients: Vec<_> =
        connections.iter().map(|connection| RotationServiceClient::new(connection.channel())).collect();
    output.step("waiting until the devices are collected");
    prepared(&clients[0]).await?;

    output.step(&format!("{lanes} provisioner calls at once, {BATCH} devices each"));
    let cards: Arc<HashMap<Eid, Card>> = Arc::new(cards.into_iter().map(|card| (card.eid, card)).collect());
    let before = Usage::read(authority, WORK)?;
    let started = Instant::now();
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        running.spawn(carry_out(clients[lane % CONNECTIONS].clone(), Arc::clone(&cards)));
    }
    let mut times = Times::default();
    while let Some(done) = running.join_next().await {
        times.add(done.map_err(|error| CliError::Local(error.to_string()))??);
    }
    let elapsed = started.elapsed();
    let used = Usage::read(authority, WORK)?.since(before);
    let end = status(&clients[0]).await?;
    if end.confirmed != devices || times.confirmed != devices {
        return Err(CliError::Answer(format!(
            "of {devices} devices {} were confirmed to the cards and {} to the rotation, which is {}",
            times.confirmed,
            end.confirmed,
            state_name(end.state())
        )));
    }
    let alone = args.token_alone(authority, ALONE, None, output)?;
    output.print(&times.report(args, lanes, elapsed, used, alone), human)
}

async fn status(client: &RotationServiceClient<Channel>) -> Result<RotationStatus, CliError> {
    let request = GetRotationRequest { name: ROTATION.to_owned() };
    let answer = client.clone().get_rotation(request).await?.into_inner();
    answer.status.ok_or_else(|| CliError::Answer("the rotation has no status".to_owned()))
}

async fn prepared(client: &RotationServiceClient<Channel>) -> Result<(), CliError> {
    let started = Instant::now();
    loop {
        match status(client).await?.state() {
            RotationState::Running => return Ok(()),
            RotationState::Preparing if started.elapsed() < PREPARE_TIMEOUT => {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            other => return Err(CliError::Answer(format!("the rotation is {}", state_name(other)))),
        }
    }
}

/// Times of the calls in µs, and what they came to.
#[derive(Default)]
struct Times {
    fetches: Vec<u32>,
    reports: Vec<u32>,
    confirmed: u64,
}

/// Fetches, loads and reports until no device is left.
async fn carry_out(
    mut client: RotationServiceClient<Channel>,
    cards: Arc<HashMap<Eid, Card>>,
) -> Result<Times, CliError> {
    let mut times = Times::default();
    loop {
        let fetch = FetchRotationScriptsRequest {
            idempotency_key: random_key()?,
            rotation: ROTATION.to_owned(),
            limit: BATCH,
            lease_seconds: 0,
        };
        let sent = Instant::now();
        let scripts = match client.fetch_rotation_scripts(fetch).await {
            Ok(answer) => answer.into_inner().scripts,
            // Another lane may have reported the last device between our look and this call.
            Err(_) if status(&client).await?.state() == RotationState::Completed => return Ok(times),
            Err(refused) => return Err(refused.into()),
        };
        if scripts.is_empty() {
            match status(&client).await?.state() {
                RotationState::Running | RotationState::Preparing => tokio::time::sleep(LOOK_EVERY).await,
                _ => return Ok(times),
            }
            continue;
        }
        times.fetches.push(micros(sent.elapsed()));
        let reports = scripts.iter().map(|script| play(script, &cards)).collect::<Result<Vec<_>, _>>()?;
        let report =
            ReportRotationRequest { idempotency_key: random_key()?, rotation: ROTATION.to_owned(), reports };
        let sent = Instant::now();
        let results = client.report_rotation(report).await?.into_inner().results;
        times.reports.push(micros(sent.elapsed()));
        if results.len() != scripts.len() {
            return Err(CliError::Answer("some reports have no result".to_owned()));
        }
        for result in results {
            if result.state() != RotationItemState::Confirmed {
                return Err(CliError::Answer(format!(
                    "a card that proved its keys is {}: {:?} {}",
                    item_state_name(result.state()),
                    result.failure(),
                    result.reason
                )));
            }
            times.confirmed += 1;
        }
    }
}

/// What a card does with its script.
fn play(script: &RotationScript, cards: &HashMap<Eid, Card>) -> Result<RotationReport, CliError> {
    let card = script
        .eid
        .parse()
        .ok()
        .and_then(|eid: Eid| cards.get(&eid))
        .ok_or_else(|| CliError::Answer("a script is for no device of the benchmark".to_owned()))?;
    let loaded = card.load(&script.put_key)?;
    let mut fresh = [0; 16];
    getrandom::fill(&mut fresh).map_err(|error| CliError::Local(format!("no entropy: {error}")))?;
    let [host, card] = [&fresh[..8], &fresh[8..]].map(|half| half.try_into().unwrap_or([0; 8]));
    let challenges = Challenges { host: HostChallenge(host), card: CardChallenge(card) };
    Ok(RotationReport {
        eid: script.eid.clone(),
        put_key_response: loaded.answer,
        proof: Some(CardProof {
            host_challenge: host.to_vec(),
            card_challenge: card.to_vec(),
            card_cryptogram: loaded.card.cryptogram(&challenges).0.to_vec(),
        }),
        status_word: 0,
    })
}

impl Times {
    fn add(&mut self, other: Self) {
        self.fetches.extend(other.fetches);
        self.reports.extend(other.reports);
        self.confirmed += other.confirmed;
    }

    fn report(
        self,
        args: &BenchArgs,
        lanes: usize,
        elapsed: Duration,
        used: Usage,
        alone: Vec<TokenRate>,
    ) -> Report {
        let keysets = self.confirmed;
        let each = |micros: u64| micros as f64 / keysets.max(1) as f64;
        let (fetches, reports) = (Measured::new(elapsed, self.fetches), Measured::new(elapsed, self.reports));
        let per_second = keysets as f64 / elapsed.as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let at_once = args.workers.min(cores as u64) as f64;
        let raw_us: f64 =
            alone.iter().map(|rate| rate.token_us_per_operation + args.token_delay_us as f64).sum();
        let raw_per_second = 1e6 * at_once / raw_us;
        Report {
            benchmark: "rotation",
            keysets,
            from: "KVN 0x30, AES-128",
            to: "KVN 0x31, AES-256",
            in_flight: lanes,
            batch: BATCH,
            seconds: elapsed.as_secs_f64(),
            per_second,
            fetch_p50_us: fetches.percentile_us(50),
            fetch_p99_us: fetches.percentile_us(99),
            report_p50_us: reports.percentile_us(50),
            report_p99_us: reports.percentile_us(99),
            daemon_cpu_us_per_keyset: each(used.service.own_us),
            worker_cpu_us_per_keyset: each(used.service.descendants_us),
            client_cpu_us_per_keyset: each(used.client_us),
            token_us_per_keyset: each(used.token_us),
            workers_per_token: args.workers,
            cores,
            token_delay_us: args.token_delay_us,
            token_alone: alone,
            raw_per_second,
            ratio_to_raw: per_second / raw_per_second,
        }
    }
}

fn human(report: &Report) -> String {
    let ms = |micros: u32| format!("{:.1} ms", f64::from(micros) / 1_000.0);
    fields([
        ("keysets rotated", format!("{} from {} to {}", report.keysets, report.from, report.to)),
        ("per second", format!("{:.0}", report.per_second)),
        ("provisioner calls at once", format!("{} of {} devices", report.in_flight, report.batch)),
        ("fetch p50, p99", format!("{}, {}", ms(report.fetch_p50_us), ms(report.fetch_p99_us))),
        ("report p50, p99", format!("{}, {}", ms(report.report_p50_us), ms(report.report_p99_us))),
        ("daemon CPU us per keyset", format!("{:.0}", report.daemon_cpu_us_per_keyset)),
        ("worker CPU us per keyset", format!("{:.0}", report.worker_cpu_us_per_keyset)),
        ("client CPU us per keyset", format!("{:.0}", report.client_cpu_us_per_keyset)),
        ("token us per keyset", format!("{:.0}", report.token_us_per_keyset)),
        ("workers per token, cores", format!("{}, {}", report.workers_per_token, report.cores)),
        ("raw PKCS#11 calls allow", format!("{:.0} per second", report.raw_per_second)),
        ("ratio to raw", format!("{:.2}", report.ratio_to_raw)),
    ])
}
