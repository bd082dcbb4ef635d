//! Session keys for many cards: challenges in, opened keys out, as lines of JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use domain::{Eid, PrincipalId};
use futures_util::StreamExt;
use proto::v1::FetchSessionKeysRequest;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Eight, Fetched, Triple, call, open, parse_8_bytes};
use crate::connect::{Connection, IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::names;
use crate::json_lines::{self, LinesFile};
use crate::key_file::PrivateKey;
use crate::order::KeysetArgs;
use crate::output::{Output, fields};

/// Calls under way at the same time.
const IN_FLIGHT: usize = 64;
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

struct Challenge {
    eid: Eid,
    host: Eight,
    card: Eight,
    cryptogram: Eight,
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

impl FetchMany {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let challenges = json_lines::read(&self.file, "docs/formats/session-key-lines.md", parse)?;
        let encryption_key =
            PrivateKey::load(&self.remote.identity.join(names::ENCRYPTION_KEY))?.p256_scalar()?;
        let key = self.idempotency.key()?;
        let connection = self.remote.connect(output).await?;
        let mut out = LinesFile::create(&self.out)?;
        let mut progress = output.progress("fetching session keys", challenges.len() as u64);
        let mut done =
            FetchedMany { fetched: 0, refused: 0, file: self.out.clone(), idempotency_key: key.clone() };
        let lines = futures_util::stream::iter(challenges.iter().zip(0u64..))
            .map(|(challenge, number)| {
                self.fetch(&connection, challenge, line_key(&key, number), &encryption_key, output)
            })
            .buffered(IN_FLIGHT);
        let mut lines = std::pin::pin!(lines);
        let mut ended = Ok(());
        while let Some(line) = lines.next().await {
            match line {
                Ok((line, is_refused)) => {
                    *if is_refused { &mut done.refused } else { &mut done.fetched } += 1;
                    out.line(&line)?;
                    progress.advance(1);
                }
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        out.finish()?;
        progress.finish(&format!("{} fetched", done.fetched));
        ended?;
        output.print(&done, |done| {
            fields([
                ("fetched", done.fetched.to_string()),
                ("refused", done.refused.to_string()),
                ("file", done.file.display().to_string()),
            ])
        })?;
        Ok(if done.refused == 0 { ExitCode::SUCCESS } else { ExitCode::from(SOME_REFUSED) })
    }

    /// The line of one card, and whether it is a refusal. Only what is no answer of the service ends the whole.
    async fn fetch(
        &self,
        connection: &Connection,
        challenge: &Challenge,
        key: String,
        encryption_key: &[u8; 32],
        output: Output,
    ) -> Result<(Zeroizing<Vec<u8>>, bool), CliError> {
        let message = FetchSessionKeysRequest {
            idempotency_key: key,
            eid: challenge.eid.to_string(),
            keyset: Some(self.keyset.name()),
            host_challenge: challenge.host.0.to_vec(),
            card_challenge: challenge.card.0.to_vec(),
            card_cryptogram: challenge.cryptogram.0.to_vec(),
            purpose: self.purpose.clone(),
        };
        let answer = call(connection, &message, output).await;
        // Sized once: a growing buffer would leave copies of the keys behind.
        let mut line = Zeroizing::new(Vec::with_capacity(2048));
        let local = |error: serde_json::Error| CliError::Local(error.to_string());
        let answer = match answer {
            Ok(answer) => answer,
            Err(CliError::Refused(refused)) if !refused.retryable => {
                let refused = RefusedLine {
                    eid: challenge.eid.to_string(),
                    reason: &refused.reason,
                    message: &refused.message,
                };
                serde_json::to_writer(&mut *line, &refused).map_err(local)?;
                return Ok((line, true));
            }
            Err(error) => return Err(error),
        };
        let opened = open(&answer, &message, &PrincipalId(connection.principal), encryption_key)?;
        let keys = &opened.keys;
        let digests =
            [&keys.s_enc, &keys.s_mac, &keys.s_rmac].map(|key| hex::encode(Sha256::digest(key.expose())));
        let [s_enc, s_mac, s_rmac] =
            [&keys.s_enc, &keys.s_mac, &keys.s_rmac].map(|key| Zeroizing::new(hex::encode(key.expose())));
        let fetched = Fetched {
            eid: challenge.eid.to_string(),
            kvn: format!("0x{:02x}", self.keyset.kvn),
            algorithm: keys.s_enc.algorithm().as_str(),
            mode: "S8",
            host_challenge: hex::encode(challenge.host.0),
            card_challenge: hex::encode(challenge.card.0),
            card_cryptogram: hex::encode(challenge.cryptogram.0),
            host_cryptogram: hex::encode(opened.host_cryptogram),
            entry_index: answer.entry_index,
            session_key_digests: Triple { s_enc: &digests[0], s_mac: &digests[1], s_rmac: &digests[2] },
            session: Some(Triple { s_enc: &s_enc, s_mac: &s_mac, s_rmac: &s_rmac }),
        };
        serde_json::to_writer(&mut *line, &fetched).map_err(local)?;
        Ok((line, false))
    }
}

/// Each line has a key of its own, the same whenever the file is sent again under the same key.
fn line_key(key: &str, number: u64) -> String {
    hex::encode(&Sha256::digest(format!("{key}/{number}"))[..16])
}

fn parse(line: ChallengeLine) -> Result<Challenge, String> {
    let eight = |name: &str, text: &str| parse_8_bytes(text).map_err(|why| format!("{name}: {why}"));
    Ok(Challenge {
        eid: line.eid.parse().map_err(|e: domain::EidError| format!("eid: {e}"))?,
        host: eight("host_challenge", &line.host_challenge)?,
        card: eight("card_challenge", &line.card_challenge)?,
        cryptogram: eight("card_cryptogram", &line.card_cryptogram)?,
    })
}
