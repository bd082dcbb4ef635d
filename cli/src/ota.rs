//! Cryptography done by the authority for an OTA platform: secured packets, scripts, and what cards answer.

mod open;
mod packet;
mod script;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use domain::{Eid, KeyVersionNumber, Protocol};
use keys::apdu::Apdu;
use proto::v1::KeysetName;

use self::open::OpenResponse;
use self::packet::Packet;
use self::script::Script;
use crate::error::CliError;
use crate::order::{KeysetArgs, SecurityDomainArg};
use crate::output::Output;

/// `chancery ota ...`
#[derive(Debug, Subcommand)]
pub enum OtaCommand {
    /// Have a secured packet (SCP80, ETSI TS 102 225) made for a card, with the next counter of the keyset.
    ///
    /// The packet is ciphered and has a cryptographic checksum; it begins with CPL and goes into short messages after the user
    /// data header 02 70 00. No key leaves the authority. The grant must name the TAR and the instruction of each command.
    /// A counter is given once: with --idempotency-key of a call whose answer was lost, the same packet comes again.
    /// PUT KEY, DELETE, STORE DATA, INSTALL and SET STATUS come from an approved rotation only.
    #[command(after_help = "Examples:
  chancery ota packet --eid 89049032123451234512345678901235 --kvn 0x01 --tar B00010 --receipt always \\
      --command 00A40004023F00 --command 00B000000A --purpose remote-management --identity otaco/
  chancery ota packet --eid 89049032123451234512345678901235 --kvn 0x01 --tar B00000 --format compact \\
      --command 80F24000024F00 --purpose remote-management --identity otaco/ --output json > packet.json")]
    Packet(Packet),
    /// Have a script carried over an SCP03 channel that is prepared for a card with pseudo-random challenges.
    ///
    /// Nothing is needed of the card but its next sequence counter, which the authority keeps; say it for the first session of
    /// a keyset. The script runs in that session alone. With --output json the result is what open-response --script reads.
    #[command(after_help = "Examples:
  chancery ota script --eid 89049032123451234512345678901235 --kvn 0x30 --i 70 --security-level 33 \\
      --sequence-counter 000001 --command 80CA00E000 --purpose remote-management --identity otaco/ \\
      --output json > script.json")]
    Script(Script),
    /// Open what a card answered to a packet or a script, when its checksum or MAC is right.
    #[command(after_help = "Examples:
  chancery ota open-response --eid 89049032123451234512345678901235 --kvn 0x01 --packet packet.json \\
      --response 027100002412B00010... --purpose remote-management --identity otaco/
  chancery ota open-response --eid 89049032123451234512345678901235 --kvn 0x30 --script script.json \\
      --answer E0300C...9000 --purpose remote-management --identity otaco/")]
    OpenResponse(OpenResponse),
}

impl OtaCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Packet(packet) => packet.run(output).await,
            Self::Script(script) => script.run(output).await,
            Self::OpenResponse(open) => open.run(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// The card and the keyset.
#[derive(Debug, Args)]
struct CardArgs {
    /// The device
    #[arg(long)]
    eid: Eid,
    /// Key version number: 0x01 to 0x0F for packets, 0x30 to 0x3F for scripts
    #[arg(long, value_parser = parse_kvn)]
    kvn: u8,
    /// Security domain that holds the keyset
    #[arg(long, default_value = "isd-r")]
    security_domain: SecurityDomainArg,
    /// What it is for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
}

impl CardArgs {
    /// The keyset as the contract names it; its number says the protocol.
    fn keyset(&self) -> KeysetName {
        let name = KeysetArgs { kvn: self.kvn, security_domain: self.security_domain }.name();
        let protocol = if self.kvn <= 0x0f { Protocol::Scp80 } else { Protocol::Scp03 };
        KeysetName { protocol: protocol.code().into(), ..name }
    }
}

fn parse_kvn(text: &str) -> Result<u8, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let of = |protocol| number.as_ref().ok().and_then(|n| KeyVersionNumber::new(protocol, *n).ok());
    of(Protocol::Scp80)
        .or_else(|| of(Protocol::Scp03))
        .map(KeyVersionNumber::value)
        .ok_or_else(|| "give 0x01 to 0x0F (SCP80) or 0x30 to 0x3F (SCP03)".to_owned())
}

/// A command for the card.
#[derive(Clone, Debug)]
struct Command(Vec<u8>);

fn parse_command(text: &str) -> Result<Command, String> {
    let bytes = hex::decode(text).map_err(|_| "give hexadecimal digits".to_owned())?;
    Apdu::parse(&bytes).map_err(|error| error.to_string())?;
    Ok(Command(bytes))
}

/// Bytes in hexadecimal digits.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

fn parse_bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes).map_err(|_| "give hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_keyset_says_its_protocol() {
        let of = |kvn: &str| {
            let card = CardArgs {
                eid: "89049032123451234512345678901235".parse().unwrap(),
                kvn: parse_kvn(kvn).unwrap(),
                security_domain: SecurityDomainArg::IsdR,
                purpose: String::new(),
            };
            card.keyset().protocol
        };
        assert_eq!((of("0x01"), of("0x0F"), of("0x30"), of("63")), (0x80, 0x80, 0x03, 0x03));
        for wrong in ["0", "0x10", "0x40", "x"] {
            assert!(parse_kvn(wrong).is_err(), "{wrong}");
        }
    }
}
