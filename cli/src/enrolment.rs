//! Persons and parties: requests that enrol them, from the public files of their identity folders, and their standing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use domain::{Clock, Ein};
use proto::options::v1::Role;
use proto::v1::operation::Kind as OperationKind;
use proto::v1::{Accreditation, EnrolParty, EnrolPerson, RecordAccreditation, RenewCredential};

use crate::clock::{Expiry, SystemClock, parse_expiry, to_wire};
use crate::error::CliError;
use crate::identity::{self, Kind, names};
use crate::operation::{self, RequestArgs};
use crate::output::Output;
use crate::standing::{Change, SuspendParty};

/// `chancery person ...`
#[derive(Debug, Subcommand)]
pub enum PersonCommand {
    /// Request the enrolment of a person.
    ///
    /// Reads identity.toml, tls.csr.pem and approval.csr.pem of the folder the person made; private keys are not needed
    /// and should not be there.
    #[command(after_help = "Example:
  chancery person enrol --identity-folder carol/ --role auditor --reason 'external audit 2026' --identity alice/")]
    Enrol(EnrolPersonArgs),
    /// Request one more TLS credential for a person; another person must approve.
    ///
    /// The person makes key and request with `chancery identity renew`. The earlier credentials stay until they end,
    /// unless --ends-others says that the earlier keys are lost or in other hands.
    #[command(after_help = "Example:
  chancery person renew bob --csr bob/tls.next.csr.pem --reason 'ends on 2027-01-10' --identity alice/")]
    Renew(Renewal),
    /// Request that a person is suspended; another person must approve.
    #[command(after_help = "Example:
  chancery person suspend dave --reason 'left on 2026-11-30' --identity alice/")]
    Suspend(Change),
    /// Request that a suspended person is restored; another person must approve.
    #[command(after_help = "Example:
  chancery person restore dave --reason 'back from leave' --identity alice/")]
    Restore(Change),
}

/// `chancery party ...`
#[derive(Debug, Subcommand)]
pub enum PartyCommand {
    /// Request the enrolment of a manufacturer (EUM) or provisioner.
    ///
    /// Reads identity.toml, tls.csr.pem and the public transport or encryption key of the folder the party made.
    #[command(after_help = "Examples:
  chancery party enrol --folder acme/ --ein 89049032 --quota 5000 --accreditation 'SAS-UP AC-UP-0417' \\
      --accreditation-until 2028-06-30T00:00:00Z --reason 'contract 12/2026' --identity alice/
  chancery party enrol --folder otaco/ --reason 'licence 7' --identity alice/")]
    Enrol(EnrolPartyArgs),
    /// Request one more TLS credential for a party; another person must approve.
    ///
    /// The party makes key and request with `chancery identity renew`. The earlier credentials stay until they end,
    /// unless --ends-others says that the earlier keys are lost or in other hands.
    #[command(after_help = "Example:
  chancery party renew otaco --csr tls.next.csr.pem --reason 'server replaced' --ends-others --identity alice/")]
    Renew(Renewal),
    /// Request that a party's accreditation is recorded in the place of the one before; another person must approve.
    ///
    /// Without one in force no certificate of the GSMA's hierarchy is issued for the party and none by its issuers.
    #[command(after_help = "Example:
  chancery party accredit acme --accreditation 'SAS-UP AC-UP-0417' --accreditation-until 2028-06-30T00:00:00Z \\
      --reason 'audit of 2026-06' --identity alice/")]
    Accredit(Accredit),
    /// Suspend a party at once: one person is enough, and from the log entry on each of its calls is refused.
    #[command(after_help = "Example:
  chancery party suspend otaco --yes --identity bob/")]
    Suspend(SuspendParty),
    /// Request that a suspended party is restored; another person must approve.
    #[command(after_help = "Example:
  chancery party restore otaco --reason 'incident 118 closed' --identity alice/")]
    Restore(Change),
}

/// Roles of persons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PersonRole {
    /// Requests and executes operations
    Officer,
    /// Approves operations
    Approver,
    /// Exports the log
    Auditor,
}

impl PersonRole {
    const fn role(self) -> Role {
        match self {
            Self::Officer => Role::Officer,
            Self::Approver => Role::Approver,
            Self::Auditor => Role::Auditor,
        }
    }
}

/// Arguments of `person enrol`.
#[derive(Debug, Args)]
pub struct EnrolPersonArgs {
    /// Folder with the person's public files
    #[arg(long, value_name = "DIR")]
    identity_folder: PathBuf,
    /// Role; may be repeated; the kind of the identity when absent
    #[arg(long = "role")]
    roles: Vec<PersonRole>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `party enrol`.
#[derive(Debug, Args)]
pub struct EnrolPartyArgs {
    /// Folder with the party's public files
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// EUM: leading digits of the EIDs delegated to it; may be repeated
    #[arg(long = "ein", value_name = "DIGITS")]
    eins: Vec<Ein>,
    /// EUM: how many devices it may order in all
    #[arg(long, default_value_t = 0)]
    quota: u64,
    /// Evidence of its accreditation (SAS-UP, SAS-SM), without which it gets no certificate of the GSMA's hierarchy; can
    /// be recorded later
    #[arg(long, value_name = "REFERENCE", requires = "accreditation_until")]
    accreditation: Option<String>,
    /// End of the accreditation: 365d, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry, requires = "accreditation")]
    accreditation_until: Option<Expiry>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `party accredit`.
#[derive(Debug, Args)]
pub struct Accredit {
    /// The party
    #[arg(value_parser = identity::parse_name)]
    name: String,
    /// Evidence of the accreditation: scheme, site, number of the certificate
    #[arg(long, value_name = "REFERENCE")]
    accreditation: String,
    /// Its end: 365d, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = parse_expiry)]
    accreditation_until: Expiry,
    #[command(flatten)]
    request: RequestArgs,
}

impl Accredit {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let kind = OperationKind::RecordAccreditation(RecordAccreditation {
            party: self.name.clone(),
            accreditation: Some(accreditation(&self.accreditation, self.accreditation_until)),
        });
        operation::request(kind, &self.request, output).await
    }
}

fn accreditation(reference: &str, until: Expiry) -> Accreditation {
    let expires = Some(to_wire(until.from(SystemClock::new().now())));
    Accreditation { reference: reference.to_owned(), expires }
}

/// Arguments of `person renew` and `party renew`.
#[derive(Debug, Args)]
pub struct Renewal {
    /// The person or party
    #[arg(value_parser = identity::parse_name)]
    name: String,
    /// Request (PKCS#10) for the next TLS key: tls.next.csr.pem of its folder
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// The earlier credentials end with the execution
    #[arg(long)]
    ends_others: bool,
    #[command(flatten)]
    request: RequestArgs,
}

impl Renewal {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let kind = OperationKind::RenewCredential(RenewCredential {
            name: self.name.clone(),
            tls_csr: identity::read_request(&self.csr)?,
            ends_others: self.ends_others,
        });
        operation::request(kind, &self.request, output).await
    }
}

impl PersonCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Enrol(args) => {
                let person = enrol_person(&args.identity_folder, &args.roles)?;
                operation::request(OperationKind::EnrolPerson(person), &args.request, output).await
            }
            Self::Renew(renewal) => renewal.run(output).await,
            Self::Suspend(change) => change.suspend(output).await,
            Self::Restore(change) => change.restore(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl PartyCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Enrol(args) => {
                let mut party = enrol_party(&args.folder, &args.eins, args.quota)?;
                if let (Some(reference), Some(until)) = (&args.accreditation, args.accreditation_until) {
                    party.accreditation = Some(accreditation(reference, until));
                }
                operation::request(OperationKind::EnrolParty(party), &args.request, output).await
            }
            Self::Renew(renewal) => renewal.run(output).await,
            Self::Accredit(accredit) => accredit.run(output).await,
            Self::Suspend(suspend) => suspend.run(output).await,
            Self::Restore(change) => change.restore(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

/// What is requested for the person of `folder`.
pub fn enrol_person(folder: &Path, roles: &[PersonRole]) -> Result<EnrolPerson, CliError> {
    let identity = identity::read_identity(folder)?;
    if !identity.kind.is_person() {
        return Err(CliError::invalid(
            format!("{} holds the identity of a party", folder.display()),
            "use `chancery party enrol`",
        ));
    }
    let mut roles: Vec<i32> = roles.iter().map(|role| role.role().into()).collect();
    if roles.is_empty() {
        roles.push(identity.kind.role().into());
    }
    roles.sort_unstable();
    roles.dedup();
    Ok(EnrolPerson {
        name: identity.name,
        roles,
        tls_csr: identity::read_request(&folder.join(names::TLS_CSR))?,
        approval_csr: identity::read_request(&folder.join(names::APPROVAL_CSR))?,
    })
}

/// What is requested for the party of `folder`.
pub fn enrol_party(folder: &Path, eins: &[Ein], quota: u64) -> Result<EnrolParty, CliError> {
    let identity = identity::read_identity(folder)?;
    let mut party = EnrolParty {
        role: identity.kind.role().into(),
        organization: identity.organization.unwrap_or_default(),
        country: identity.country.unwrap_or_default(),
        tls_csr: identity::read_request(&folder.join(names::TLS_CSR))?,
        name: identity.name,
        ..EnrolParty::default()
    };
    match identity.kind {
        Kind::Eum => {
            if eins.is_empty() || quota == 0 {
                return Err(CliError::invalid(
                    "a manufacturer needs its ranges and its quota",
                    "pass --ein and --quota",
                ));
            }
            party.eins = eins.iter().map(|ein| ein.as_str().to_owned()).collect();
            party.device_quota = quota;
            party.transport_key = identity::read_public_key(&folder.join(names::TRANSPORT_PUBLIC))?;
        }
        Kind::Provisioner => {
            if !eins.is_empty() || quota != 0 {
                return Err(CliError::invalid(
                    "a provisioner has neither ranges nor a quota",
                    "leave --ein and --quota out; devices are granted with `chancery grant create`",
                ));
            }
            party.encryption_key = identity::read_public_key(&folder.join(names::ENCRYPTION_PUBLIC))?;
        }
        Kind::Officer | Kind::Approver | Kind::Auditor => {
            return Err(CliError::invalid(
                format!("{} holds the identity of a person", folder.display()),
                "use `chancery person enrol`",
            ));
        }
    }
    Ok(party)
}
