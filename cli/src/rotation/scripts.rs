//! Scripts for the cards of a rotation: fetched under a lease, written as lines of JSON.

use std::path::PathBuf;

use clap::Args;
use proto::v1::{FetchRotationScriptsRequest, FetchRotationScriptsResponse};
use serde::Serialize;

use crate::clock;
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::parse_name;
use crate::output::{Output, fields};
use crate::rotation::client;
use crate::rotation::terms::parse_duration_s;

/// Arguments of `rotation fetch-scripts`.
#[derive(Debug, Args)]
pub struct FetchScripts {
    /// The rotation
    #[arg(value_parser = parse_name)]
    name: String,
    /// At most so many scripts
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// How long the devices are this identity's to load and report: 5s to 1h; one that is not reported by then is given
    /// out again
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = parse_lease_s)]
    lease: u32,
    /// File to write: one line of JSON for each device
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// A line of docs/formats/rotation-scripts.md.
#[derive(Serialize)]
struct ScriptLine<'a> {
    rotation: &'a str,
    eid: &'a str,
    security_domain: u32,
    from_kvn: u32,
    to_kvn: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    put_key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    commands: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    card_challenge: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    card_cryptogram: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sequence_counter: String,
    earlier_leases: u32,
    lease_ends: &'a str,
}

#[derive(Serialize)]
struct Fetched {
    rotation: String,
    scripts: usize,
    file: Option<PathBuf>,
    lease_ends: String,
    entry_index: u64,
    /// Repeats the fetch: the scripts of the same lease that are not reported yet.
    idempotency_key: String,
}

impl FetchScripts {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        if self.out.exists() {
            return Err(CliError::invalid(
                format!("{} exists already", self.out.display()),
                "name another file: the scripts in it may be unreported",
            ));
        }
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = FetchRotationScriptsRequest {
            idempotency_key: key.clone(),
            rotation: self.name.clone(),
            limit: self.limit,
            lease_seconds: self.lease,
        };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.fetch_rotation_scripts(request).await }
            })
            .await?;
        let lease_ends =
            answer.lease_ends.as_ref().map_or_else(String::new, |at| clock::from_wire(at).to_string());
        let file = match lines(&self.name, &answer, &lease_ends)? {
            text if text.is_empty() => None,
            text => {
                // The blocks are encrypted under the card's own Key-DEK, but are nobody else's business.
                files::write_new(&self.out, text.as_bytes(), Readers::Owner)?;
                Some(self.out.clone())
            }
        };
        let fetched = Fetched {
            rotation: self.name.clone(),
            scripts: answer.scripts.len(),
            file,
            lease_ends,
            entry_index: answer.entry_index,
            idempotency_key: key,
        };
        output.print(&fetched, |fetched| match &fetched.file {
            None => format!(
                "no device of the stage at work waits for a script; nothing was written\nnext: chancery rotation show {}",
                fetched.rotation
            ),
            Some(file) => fields([
                ("scripts", fetched.scripts.to_string()),
                ("file", file.display().to_string()),
                ("lease ends", fetched.lease_ends.clone()),
                ("log entry", fetched.entry_index.to_string()),
                ("next", format!("load the cards, then chancery rotation report {}", fetched.rotation)),
            ]),
        })
    }
}

/// Reads `10m`, `90s`. For clap.
fn parse_lease_s(text: &str) -> Result<u32, String> {
    parse_duration_s(text)
        .ok()
        .filter(|seconds| (5..=3_600).contains(seconds))
        .ok_or_else(|| "give 5s to 1h".to_owned())
}

fn lines(
    rotation: &str,
    answer: &FetchRotationScriptsResponse,
    lease_ends: &str,
) -> Result<String, CliError> {
    let mut text = String::new();
    for script in &answer.scripts {
        let from = script.from.ok_or_else(|| {
            CliError::Answer("a script names no keyset to open the channel with".to_owned())
        })?;
        // It becomes a line that somebody's tool acts on: only what is an EID goes there.
        let eid = script.eid.parse::<domain::Eid>();
        let eid = eid.map_err(|_| CliError::Answer("a script names no EID".to_owned()))?.to_string();
        let line = ScriptLine {
            rotation,
            eid: &eid,
            security_domain: from.security_domain,
            from_kvn: from.key_version_number,
            to_kvn: script.to_key_version_number,
            put_key: hex::encode(&script.put_key),
            commands: script.commands.iter().map(hex::encode).collect(),
            card_challenge: hex::encode(&script.card_challenge),
            card_cryptogram: hex::encode(&script.card_cryptogram),
            sequence_counter: hex::encode(&script.sequence_counter),
            earlier_leases: script.earlier_leases,
            lease_ends,
        };
        text.push_str(&serde_json::to_string(&line).map_err(|error| CliError::Local(error.to_string()))?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_bounds() {
        assert_eq!(parse_lease_s("10m"), Ok(600));
        for wrong in ["4s", "2h", "10", "2027-01-01T00:00:00Z"] {
            assert!(parse_lease_s(wrong).is_err(), "{wrong}");
        }
    }
}
