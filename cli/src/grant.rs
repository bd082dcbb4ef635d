//! Requests for grants: which provisioner may use which devices' keysets.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use domain::{Clock, Eid, Ein};
use proto::v1::CreateGrant;
use proto::v1::operation::Kind;

use crate::clock::{Expiry, SystemClock, parse_expiry, to_wire};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::Output;

/// `chancery grant ...`
#[derive(Debug, Subcommand)]
pub enum GrantCommand {
    /// Request a grant over single devices or whole ranges.
    #[command(after_help = "Examples:
  chancery grant create --name g-2026-1 --provisioner otaco --ein 89049032 --purpose remote-management \\
      --lawful-basis 'licence 7, clause 3' --expires 90d --reason 'service start' --identity alice/
  chancery grant create --name g-2026-2 --provisioner otaco --eid 89049032123451234512345678901235 \\
      --purpose field-test --lawful-basis 'consent 4711' --expires 2027-01-01T00:00:00Z --reason test --identity alice/
  chancery grant create --name g-ota --provisioner otaco --ein 89049032 --purpose ota --protocol scp80 \\
      --tar B00010 --ins F2 --ins CA --lawful-basis 'licence 7' --expires 90d --reason 'OTA' --identity alice/")]
    Create(Create),
}

/// Arguments of `grant create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Unique name of the grant
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// Who may use the keysets
    #[arg(long, value_parser = parse_name)]
    provisioner: String,
    /// A device; may be repeated
    #[arg(long = "eid", required_unless_present = "eins")]
    eids: Vec<Eid>,
    /// A range: leading digits of EIDs; may be repeated
    #[arg(long = "ein", value_name = "DIGITS")]
    eins: Vec<Ein>,
    /// What the keys may be used for
    #[arg(long)]
    purpose: String,
    /// Lawful basis or consent reference
    #[arg(long)]
    lawful_basis: String,
    /// End of the grant: 90d, 12h, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
    expires: Expiry,
    /// A protocol whose keysets may be used; may be repeated. None: scp03
    #[arg(long = "protocol", value_parser = parse_protocol, value_name = "scp03|scp80|scp81")]
    protocols: Vec<ProtocolCode>,
    /// Release keys although the device has proved nothing: prepared SCP03 sessions
    #[arg(long)]
    without_device_proof: bool,
    /// A toolkit application that secured packets may address, 3 bytes in hex; may be repeated
    #[arg(long = "tar", value_parser = parse_tar, value_name = "HEX")]
    tars: Vec<Tar>,
    /// An instruction byte of commands that packets and scripts may hold, in hex; may be repeated. Never of
    /// key management: D8, E4, E2, E6, F0, 50, 82, 88, 2A, 22
    #[arg(long = "ins", value_parser = parse_instruction, value_name = "HEX")]
    instructions: Vec<u8>,
    /// Most packets and scripts a minute for one device [default with --tar or --ins: 60]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=6000))]
    packets_per_minute: Option<u32>,
    /// Allow sessions of SCP11a and SCP11c with the devices
    #[arg(long)]
    key_agreement: bool,
    /// Profile downloads to eUICCs with a revoked certificate above them: refused, served with a warning to the SM-DP+, or served
    #[arg(long, value_name = "POLICY", default_value = "block", value_parser = ["block", "warn", "allow"])]
    revoked_certificates: String,
    /// Allow session keys that are not sealed, in the TLS channel alone
    #[arg(long)]
    tls_delivery: bool,
    #[command(flatten)]
    request: RequestArgs,
}

/// Packets a minute for one device when a grant for packets does not say.
const PACKETS_PER_MINUTE: u32 = 60;

/// Code of a protocol in the contract.
#[derive(Clone, Copy, Debug)]
struct ProtocolCode(u32);

/// Protocols by the name of the command line, the code of the contract and the name people know.
const PROTOCOLS: [(&str, u32, &str); 3] = [
    ("scp03", 0x03, "SCP03"),
    ("scp80", 0x80, "SCP80 (OTA over SMS)"),
    ("scp81", 0x81, "SCP81 (OTA over HTTPS)"),
];

fn parse_protocol(text: &str) -> Result<ProtocolCode, String> {
    PROTOCOLS
        .iter()
        .find(|(name, ..)| *name == text)
        .map(|(_, code, _)| ProtocolCode(*code))
        .ok_or_else(|| "give scp03, scp80 or scp81".to_owned())
}

/// What an approver reads for a protocol's code.
pub fn protocol_words(code: u32) -> String {
    PROTOCOLS
        .iter()
        .find(|(_, known, _)| *known == code)
        .map_or_else(|| format!("UNKNOWN PROTOCOL {code}"), |(.., words)| (*words).to_owned())
}

/// A toolkit application reference.
#[derive(Clone, Copy, Debug)]
pub struct Tar(pub [u8; 3]);

/// For clap.
pub fn parse_tar(text: &str) -> Result<Tar, String> {
    let mut tar = [0; 3];
    hex::decode_to_slice(text, &mut tar).map_err(|_| "give 6 hexadecimal digits".to_owned())?;
    Ok(Tar(tar))
}

fn parse_instruction(text: &str) -> Result<u8, String> {
    let mut ins = [0; 1];
    hex::decode_to_slice(text, &mut ins).map_err(|_| "give 2 hexadecimal digits".to_owned())?;
    Ok(ins[0])
}

impl GrantCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let Self::Create(args) = self;
        let grant = CreateGrant {
            name: args.name.clone(),
            provisioner: args.provisioner.clone(),
            eids: args.eids.iter().map(Eid::to_string).collect(),
            eins: args.eins.iter().map(Ein::to_string).collect(),
            purpose: args.purpose.clone(),
            lawful_basis: args.lawful_basis.clone(),
            expires: Some(to_wire(args.expires.from(SystemClock::new().now()))),
            protocols: args.protocols.iter().map(|protocol| protocol.0).collect(),
            without_device_proof: args.without_device_proof,
            tars: args.tars.iter().map(|tar| tar.0.to_vec()).collect(),
            instructions: args.instructions.clone(),
            packets_per_minute: args.packets_per_minute.unwrap_or(
                if args.tars.is_empty() && args.instructions.is_empty() { 0 } else { PACKETS_PER_MINUTE },
            ),
            tls_delivery: args.tls_delivery,
            key_agreement: args.key_agreement,
            revoked_certificates: args.revoked_certificates.clone(),
        };
        operation::request(Kind::CreateGrant(grant), &args.request, output).await?;
        Ok(ExitCode::SUCCESS)
    }
}
