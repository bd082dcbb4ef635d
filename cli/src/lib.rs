//! The operator tool: `chancery <noun> <verb>`.
//!
//! Exit codes: 0 done, 1 refused, failed, or findings, 2 wrong arguments, 3 an order or report with refused lines.
#![expect(clippy::print_stderr, reason = "a command line tool talks to its user")]

mod anchor;
mod audit;
mod audit_export;
mod audit_verify;
mod bench;
mod canonical;
mod certificate;
mod clock;
mod connect;
mod custody;
mod deny_list;
mod device;
mod device_file;
mod enrolment;
mod error;
mod files;
mod grant;
mod identity;
mod issuer;
mod json_lines;
mod key_file;
mod keyset;
mod operation;
mod order;
mod order_devices;
mod order_documents;
mod order_lines;
mod order_output;
mod order_place;
mod order_receipt;
mod order_submit;
mod ota;
mod output;
mod render;
mod rotation;
mod rsp;
mod scp11;
mod session_keys;
mod standing;

#[doc(hidden)]
pub mod decoders;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::CliError;
use crate::output::{Format, Output};

/// The operator tool of a Chancery key authority.
///
/// Every person and party makes its own keys with `chancery identity create`; an officer enrols their requests, an
/// approver approves, and `chancery identity install` puts the certificate in place. Then --identity names the folder
/// that calls (or CHANCERY_IDENTITY).
#[derive(Debug, Parser)]
#[command(name = "chancery", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    /// How results are written; steps and errors go to standard error
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, env = "CHANCERY_OUTPUT")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keys and requests of persons and parties
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Officers, approvers, auditors
    #[command(subcommand)]
    Person(enrolment::PersonCommand),
    /// Manufacturers and provisioners
    #[command(subcommand)]
    Party(enrolment::PartyCommand),
    /// Signing keys of manufacturers in our token
    #[command(subcommand)]
    Issuer(issuer::IssuerCommand),
    /// Masters that device keys are derived from: register, list
    #[command(subcommand)]
    Master(custody::MasterCommand),
    /// Keys under which keys leave for parties: register, retire, list
    #[command(subcommand)]
    TransportKey(custody::TransportKeyCommand),
    /// Certificates of parties and devices
    #[command(subcommand)]
    Certificate(certificate::CertificateCommand),
    /// Who may use which devices' keysets
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    /// Protected operations: list, show, approve, reject, execute
    #[command(subcommand)]
    Operation(operation::OperationCommand),
    /// Devices ordered by a manufacturer
    #[command(subcommand)]
    Order(order::OrderCommand),
    /// Devices: show, freeze at once, restore
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// The list of devices that no SM-DP+ should serve: fetch, verify, check
    #[command(subcommand)]
    DenyList(deny_list::DenyListCommand),
    /// Keysets of devices: list, show, suspend at once, change, compare with the card
    #[command(subcommand)]
    Keyset(Box<keyset::KeysetCommand>),
    /// New keysets for many devices: plan, request, watch, scripts for the cards
    #[command(subcommand)]
    Rotation(Box<rotation::RotationCommand>),
    /// Certificate issuers (CI) elsewhere, and their certificates for keys in our token
    #[command(subcommand)]
    Anchor(Box<anchor::AnchorCommand>),
    /// Profile downloads of an SM-DP+ whose DPauth and DPpb keys are in our token
    #[command(subcommand)]
    Rsp(rsp::RspCommand),
    /// Session keys for a card
    #[command(subcommand)]
    SessionKeys(session_keys::SessionKeysCommand),
    /// Sessions of SCP11a and SCP11c, and the keys that they need
    #[command(subcommand)]
    Scp11(scp11::Scp11Command),
    /// Packets and scripts for cards, made by the authority: no key leaves it
    #[command(subcommand)]
    Ota(Box<ota::OtaCommand>),
    /// The log: export, checkpoint, verify
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Speed of the service, measured on a scratch authority
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Reads the arguments, does what they say, reports.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output { format: cli.output };
    match run(&cli.command, output) {
        Ok(code) => code,
        Err(error) => {
            output.failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command, output: Output) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Local(format!("the runtime did not start: {error}")))?;
    runtime.block_on(command.run(output))
}

impl Command {
    async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Identity(command) => command.run(output),
            Self::Person(command) => command.run(output).await,
            Self::Party(command) => command.run(output).await,
            Self::Issuer(command) => command.run(output).await,
            Self::Master(command) => command.run(output).await,
            Self::TransportKey(command) => command.run(output).await,
            Self::Certificate(command) => command.run(output).await,
            Self::Grant(command) => command.run(output).await,
            Self::Operation(command) => command.run(output).await,
            Self::Order(command) => command.run(output).await,
            Self::Device(command) => command.run(output).await,
            Self::Keyset(command) => command.run(output).await,
            Self::Rotation(command) => command.run(output).await,
            Self::DenyList(command) => command.run(output).await,
            Self::Anchor(command) => command.run(output).await,
            Self::Rsp(command) => command.run(output).await,
            Self::SessionKeys(command) => command.run(output).await,
            Self::Ota(command) => command.run(output).await,
            Self::Scp11(command) => command.run(output).await,
            Self::Audit(command) => command.run(output).await,
            Self::Bench(command) => command.run(output).await,
        }
    }
}

#[cfg(test)]
mod service_test;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent_and_every_verb_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for noun in command.get_subcommands() {
            for verb in noun.get_subcommands() {
                let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("chancery "), "{} {}", noun.get_name(), verb.get_name());
            }
        }
    }

    #[test]
    fn no_option_takes_a_secret() {
        for noun in Cli::command().get_subcommands() {
            let arguments = noun.get_subcommands().flat_map(clap::Command::get_arguments);
            for argument in arguments.filter(|argument| argument.get_action().takes_values()) {
                let name = argument.get_id().as_str();
                for word in ["password", "passphrase", "secret", "pin", "private"] {
                    assert!(!name.split('_').any(|part| part == word), "{name}");
                }
            }
        }
    }
}
