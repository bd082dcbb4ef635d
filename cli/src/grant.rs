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
      --purpose field-test --lawful-basis 'consent 4711' --expires 2027-01-01T00:00:00Z --reason test --identity alice/")]
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
    #[command(flatten)]
    request: RequestArgs,
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
        };
        operation::request(Kind::CreateGrant(grant), &args.request, output).await?;
        Ok(ExitCode::SUCCESS)
    }
}
