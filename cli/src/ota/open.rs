//! What cards answered.

use std::path::{Path, PathBuf};

use clap::Args;
use keys::scp80::CompactAnswer;
use proto::v1::open_response_request::Answer;
use proto::v1::open_response_response::Opened;
use proto::v1::ota_service_client::OtaServiceClient;
use proto::v1::{OpenResponseRequest, PacketAnswer, ScriptAnswers};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Bytes, CardArgs, packet, parse_bytes, script};
use crate::connect::RemoteArgs;
use crate::error::CliError;
use crate::files;
use crate::output::{Output, fields};

/// Arguments of `ota open-response`.
#[derive(Debug, Args)]
pub struct OpenResponse {
    #[command(flatten)]
    card: CardArgs,
    /// The JSON that `ota packet --output json` printed
    #[arg(long, value_name = "FILE", requires = "response")]
    packet: Option<PathBuf>,
    /// Instead of the file: the security parameters (SPI) of the packet, 2 bytes in hex
    #[arg(long, value_name = "HEX", value_parser = parse_bytes, conflicts_with = "packet", requires = "response")]
    security_parameters: Option<Bytes>,
    /// The response packet in hex, from RPL on, with or without the user data header 02 71 00
    #[arg(long, value_name = "HEX", value_parser = parse_bytes, conflicts_with = "script")]
    response: Option<Bytes>,
    /// The JSON that `ota script --output json` printed
    #[arg(long, value_name = "FILE", required_unless_present = "response")]
    script: Option<PathBuf>,
    /// The card's answer to each command of the script, in order, in hex and with its status word
    #[arg(long = "answer", value_name = "HEX", value_parser = parse_bytes, requires = "script")]
    answers: Vec<Bytes>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Packet {
        tar: String,
        counter: u64,
        status: String,
        data: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        compact: Option<Compact>,
        entry_index: u64,
    },
    Script {
        answers: Vec<ShownAnswer>,
        entry_index: u64,
    },
}

/// Data that read as an answer to compact commands.
#[derive(Serialize)]
struct Compact {
    commands: u8,
    status_word: String,
    data: String,
}

#[derive(Serialize)]
struct ShownAnswer {
    data: String,
    status_word: String,
    proved: bool,
}

impl OpenResponse {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let message = OpenResponseRequest {
            eid: self.card.eid.to_string(),
            keyset: Some(self.card.keyset()),
            purpose: self.card.purpose.clone(),
            answer: Some(self.answer()?),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = OtaServiceClient::new(connection.channel());
                async move { client.open_response(request).await }
            })
            .await?;
        let entry_index = answer.entry_index;
        let shown = match answer.opened {
            Some(Opened::Packet(packet)) => Shown::Packet {
                tar: hex::encode(&packet.tar),
                counter: packet.counter,
                status: packet.status_name,
                data: hex::encode(&packet.data),
                compact: CompactAnswer::parse(&packet.data).map(|answer| Compact {
                    commands: answer.commands,
                    status_word: hex::encode(answer.status_word),
                    data: hex::encode(answer.data),
                }),
                entry_index,
            },
            Some(Opened::Script(script)) => Shown::Script {
                answers: script
                    .answers
                    .iter()
                    .map(|answer| ShownAnswer {
                        data: hex::encode(&answer.data),
                        status_word: format!("{:04x}", answer.status_word),
                        proved: answer.proved,
                    })
                    .collect(),
                entry_index,
            },
            None => return Err(CliError::Answer("the service opened nothing".to_owned())),
        };
        output.print(&shown, table)
    }

    fn answer(&self) -> Result<Answer, CliError> {
        if let Some(path) = &self.script {
            let script: script::Made = read(path)?;
            let commands = script.commands.iter().take(self.answers.len()).map(|text| bytes(path, text));
            return Ok(Answer::Script(ScriptAnswers {
                host_challenge: bytes(path, &script.host_challenge)?,
                sequence_counter: bytes(path, &script.sequence_counter)?,
                aid: bytes(path, &script.aid)?,
                security_level: bytes(path, &script.security_level)?.first().copied().map_or(0, u32::from),
                commands: commands.collect::<Result<_, _>>()?,
                answers: self.answers.iter().map(|answer| answer.0.clone()).collect(),
            }));
        }
        let security_parameters = match (&self.packet, &self.security_parameters) {
            (Some(path), _) => {
                let packet: packet::Made = read(path)?;
                bytes(path, &packet.security_parameters)?
            }
            (None, Some(given)) => given.0.clone(),
            (None, None) => {
                return Err(CliError::invalid(
                    "what was asked of the card is missing",
                    "pass --packet with the JSON of the packet, or --security-parameters",
                ));
            }
        };
        let response_packet = self.response.clone().map(|response| response.0).unwrap_or_default();
        Ok(Answer::Packet(PacketAnswer { response_packet, security_parameters }))
    }
}

fn table(shown: &Shown) -> String {
    match shown {
        Shown::Packet { tar, counter, status, data, compact, entry_index } => {
            let mut lines = vec![
                ("TAR", tar.clone()),
                ("counter", counter.to_string()),
                ("status", status.clone()),
                ("data", data.clone()),
            ];
            if let Some(compact) = compact {
                lines.push(("as a compact answer", {
                    let Compact { commands, status_word, data } = compact;
                    format!("{commands} commands, last status {status_word}, data {data}")
                }));
            }
            lines.push(("log entry", entry_index.to_string()));
            fields(lines)
        }
        Shown::Script { answers, entry_index } => {
            let mut lines: Vec<_> = answers
                .iter()
                .map(|answer| {
                    let proved = if answer.proved { "proved" } else { "NOT PROVED" };
                    ("answer", format!("{} {} ({proved})", answer.data, answer.status_word))
                })
                .collect();
            lines.push(("log entry", entry_index.to_string()));
            fields(lines)
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    serde_json::from_slice(&files::read(path)?).map_err(|error| {
        CliError::invalid(
            format!("{}: {error}", path.display()),
            "pass what the command printed with --output json",
        )
    })
}

fn bytes(path: &Path, text: &str) -> Result<Vec<u8>, CliError> {
    hex::decode(text).map_err(|_| {
        CliError::invalid(
            format!("{} holds a value that is not hexadecimal", path.display()),
            "pass what the command printed with --output json",
        )
    })
}
