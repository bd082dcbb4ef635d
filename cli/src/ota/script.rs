//! Scripts for cards that are not there.

use clap::Args;
use proto::v1::WrapScriptRequest;
use proto::v1::ota_service_client::OtaServiceClient;
use serde::{Deserialize, Serialize};

use super::{Bytes, CardArgs, Command, parse_bytes, parse_command};
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::output::{Output, fields};

/// Arguments of `ota script`.
#[derive(Debug, Args)]
pub struct Script {
    #[command(flatten)]
    card: CardArgs,
    /// A command in hex, CLA INS P1 P2 [Lc data] [Le], of class 00 or 80; may be repeated
    #[arg(long = "command", required = true, value_name = "HEX", value_parser = parse_command)]
    commands: Vec<Command>,
    /// The i parameter of the card in hex: 10 pseudo-random challenge, 30 with R-MAC, 70 with R-MAC and R-ENC; 01 mode S16
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    i: Bytes,
    /// Level of the channel, P1 of EXTERNAL AUTHENTICATE in hex: 01, 03, 11, 13 or 33
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    security_level: Bytes,
    /// The sequence counter that the card will have, 3 bytes in hex [default: the one after the last that is known]
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    sequence_counter: Option<Bytes>,
    /// AID of the security domain in hex [default: that of the ISD-R or ECASD]
    #[arg(long, value_name = "HEX", value_parser = parse_bytes)]
    aid: Option<Bytes>,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// The script as it is printed, and read again to open its answers.
#[derive(Serialize, Deserialize)]
pub(super) struct Made {
    initialize_update: String,
    /// What the card answers to it, or it is another card or session.
    card_challenge: String,
    card_cryptogram: String,
    external_authenticate: String,
    pub(super) commands: Vec<String>,
    pub(super) host_challenge: String,
    pub(super) sequence_counter: String,
    pub(super) security_level: String,
    pub(super) aid: String,
    #[serde(default)]
    entry_index: u64,
}

impl Script {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let aid = self.aid.clone().map(|aid| aid.0).unwrap_or_default();
        let message = WrapScriptRequest {
            idempotency_key: self.idempotency.key()?,
            eid: self.card.eid.to_string(),
            keyset: Some(self.card.keyset()),
            commands: self.commands.iter().map(|command| command.0.clone()).collect(),
            i_parameter: byte(&self.i, "--i")?,
            security_level: byte(&self.security_level, "--security-level")?,
            sequence_counter: self.sequence_counter.clone().map(|counter| counter.0).unwrap_or_default(),
            aid: aid.clone(),
            purpose: self.card.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = OtaServiceClient::new(connection.channel());
                async move { client.wrap_script(request).await }
            })
            .await?;
        let made = Made {
            initialize_update: hex::encode(&answer.initialize_update),
            card_challenge: hex::encode(&answer.card_challenge),
            card_cryptogram: hex::encode(&answer.card_cryptogram),
            external_authenticate: hex::encode(&answer.external_authenticate),
            commands: answer.commands.iter().map(hex::encode).collect(),
            host_challenge: hex::encode(&answer.host_challenge),
            sequence_counter: hex::encode(&answer.sequence_counter),
            security_level: hex::encode(&self.security_level.0),
            aid: hex::encode(aid),
            entry_index: answer.entry_index,
        };
        output.print(&made, |made| {
            let mut lines = vec![
                ("INITIALIZE UPDATE", made.initialize_update.clone()),
                ("card will answer", format!("{} {}", made.card_challenge, made.card_cryptogram)),
                ("EXTERNAL AUTHENTICATE", made.external_authenticate.clone()),
            ];
            lines.extend(made.commands.iter().map(|command| ("command", command.clone())));
            lines.extend([
                ("sequence counter", made.sequence_counter.clone()),
                ("log entry", made.entry_index.to_string()),
            ]);
            fields(lines)
        })
    }
}

fn byte(bytes: &Bytes, option: &str) -> Result<u32, CliError> {
    match bytes.0[..] {
        [byte] => Ok(byte.into()),
        _ => Err(CliError::invalid(format!("{option} is one byte"), "give 2 hexadecimal digits")),
    }
}
