//! Secured packets.

use clap::{Args, ValueEnum};
use proto::v1::ota_service_client::OtaServiceClient;
use proto::v1::{CounterCheck, PacketReceipt, ReceiptWhen, ScriptFormat, SecurePacketRequest};
use serde::{Deserialize, Serialize};

use super::{CardArgs, Command, parse_command};
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::grant::{Tar, parse_tar};
use crate::output::{Output, fields};

/// Arguments of `ota packet`.
#[derive(Debug, Args)]
pub struct Packet {
    #[command(flatten)]
    card: CardArgs,
    /// The toolkit application it is for, 3 bytes in hex
    #[arg(long, value_parser = parse_tar, value_name = "HEX")]
    tar: Tar,
    /// A command in hex, CLA INS P1 P2 [Lc data] [Le]; may be repeated
    #[arg(long = "command", required = true, value_name = "HEX", value_parser = parse_command)]
    commands: Vec<Command>,
    /// How the commands are written (ETSI TS 102 226)
    #[arg(long, value_enum, default_value_t = FormatArg::Expanded)]
    format: FormatArg,
    /// Ask the card for a proof of receipt, with a checksum
    #[arg(long, value_enum)]
    receipt: Option<ReceiptArg>,
    /// The proof of receipt is not ciphered
    #[arg(long, requires = "receipt")]
    receipt_in_clear: bool,
    /// The proof of receipt comes as SMS-SUBMIT, not in the SMS-DELIVER-REPORT
    #[arg(long, requires = "receipt")]
    receipt_by_submit: bool,
    /// The card takes the packet only when its counter is the last one and one, instead of any higher one
    #[arg(long)]
    next_only: bool,
    /// The counter, ahead of the last one by at most 1,000 [default: the next; 1 for the first packet of a keyset]
    #[arg(long)]
    counter: Option<u64>,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// How commands are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FormatArg {
    /// CLA INS P1 P2 P3 data, one after the other
    Compact,
    /// Each in a TLV
    Expanded,
}

/// When the card answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ReceiptArg {
    /// Always
    Always,
    /// When something went wrong
    OnError,
}

/// The packet as it is printed, and read again to open its answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Made {
    packet: String,
    counter: u64,
    /// SPI.
    pub(super) security_parameters: String,
    #[serde(default)]
    entry_index: u64,
}

impl Packet {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let message = SecurePacketRequest {
            idempotency_key: self.idempotency.key()?,
            eid: self.card.eid.to_string(),
            keyset: Some(self.card.keyset()),
            tar: self.tar.0.to_vec(),
            commands: self.commands.iter().map(|command| command.0.clone()).collect(),
            format: match self.format {
                FormatArg::Compact => ScriptFormat::Compact.into(),
                FormatArg::Expanded => ScriptFormat::Expanded.into(),
            },
            counter_check: match self.next_only {
                true => CounterCheck::Next.into(),
                false => CounterCheck::Higher.into(),
            },
            counter: self.counter,
            receipt: self.receipt.map(|when| PacketReceipt {
                when: match when {
                    ReceiptArg::Always => ReceiptWhen::Always.into(),
                    ReceiptArg::OnError => ReceiptWhen::OnError.into(),
                },
                ciphered: !self.receipt_in_clear,
                by_submit: self.receipt_by_submit,
            }),
            purpose: self.card.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = OtaServiceClient::new(connection.channel());
                async move { client.secure_packet(request).await }
            })
            .await?;
        let made = Made {
            packet: hex::encode(&answer.packet),
            counter: answer.counter,
            security_parameters: hex::encode(&answer.security_parameters),
            entry_index: answer.entry_index,
        };
        output.print(&made, |made| {
            fields([
                ("packet", made.packet.clone()),
                ("counter", made.counter.to_string()),
                ("security parameters", made.security_parameters.clone()),
                ("log entry", made.entry_index.to_string()),
            ])
        })
    }
}
