//! Keysets of devices: looked at, suspended by one person, changed by two, compared with the card.

mod reconcile;
mod show;

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use domain::{Eid, KeyVersionNumber, Protocol, SecurityDomain};
use proto::v1::keyset_service_client::KeysetServiceClient;
use proto::v1::operation::Kind;
use proto::v1::{
    ChangeKeysetState, CompromisedTransport, KeysetName, MarkCompromised, SuspendKeysetRequest,
    TaintConsequence, mark_compromised,
};
use serde::Serialize;
use tonic::transport::Channel;

use crate::connect::{Connection, IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::Output;
use crate::rotation::terms::keyset_words;

/// `chancery keyset ...`
#[derive(Debug, Subcommand)]
pub enum KeysetCommand {
    /// List the keysets of a device with their check values (KCV).
    ///
    /// `worth` is the effective strength: AES-256 that travelled under AES-128 is worth 128 bits, and 0 when a key
    /// it was delivered under is known to others. The look itself is recorded in the log.
    #[command(after_help = "Example:
  chancery keyset list 89049032123451234512345678901235 --identity alice/")]
    List(show::List),
    /// Show one keyset: state, KCVs, where its keys come from, what it was delivered under, what it is worth.
    #[command(after_help = "Examples:
  chancery keyset show 89049032123451234512345678901235 --kvn 0x30 --identity alice/
  chancery keyset show 89049032123451234512345678901235 --kvn 0x01 --protocol scp80 --security-domain mno-sd \\
      --identity alice/")]
    Show(show::Show),
    /// Take an active keyset out of use at once: one person is enough.
    ///
    /// From the log entry on no session key of it leaves. `chancery keyset change --state active` takes it up again, with
    /// another person's approval.
    #[command(after_help = "Example:
  chancery keyset suspend 89049032123451234512345678901235 --kvn 0x30 --yes --identity alice/")]
    Suspend(Suspend),
    /// Request that a keyset changes its state (NIST SP 800-57); another person must approve.
    ///
    /// active takes up a suspended one again; deactivated ends its use; compromised says that its keys are known to others
    /// and taints what was delivered under its DEK by PUT KEY; destroyed is final.
    #[command(after_help = "Examples:
  chancery keyset change 89049032123451234512345678901235 --kvn 0x30 --state active --reason 'INC-7 closed' \\
      --identity alice/
  chancery keyset change 89049032123451234512345678901235 --kvn 0x30 --state compromised --consequence flagged \\
      --reason 'keys found in a dump, INC-9' --identity alice/")]
    Change(Change),
    /// Request that a master generation or a manufacturer's transport keys are marked as known to others.
    ///
    /// Every keyset that was derived from the master, or delivered under the transport key, is tainted from the
    /// execution on, and so is what was delivered under those. --consequence says whether they stop at once
    /// (compromised) or stay usable, at a worth of 0 bits, until the devices are rotated (flagged).
    #[command(after_help = "Examples:
  chancery keyset mark-compromised --party acme --order batch-7 --consequence flagged \\
      --reason 'output file and key found on a stolen laptop' --identity alice/
  chancery keyset mark-compromised --master-generation 1 --consequence compromised --reason 'HSM clone missing' \\
      --identity alice/")]
    MarkCompromised(Mark),
    /// Compare what a card says it holds (GET DATA 00E0) with the records: missing, extra, wrong length, wrong type.
    ///
    /// The answer is the key information template of GP Card Specification 11.3.3.1: E0 { C0 { key identifier, KVN, type,
    /// length } ... }. Read it with `80 CA 00 E0 00` after selecting the security domain. Exit code 1 when they differ.
    #[command(after_help = "Examples:
  chancery keyset reconcile 89049032123451234512345678901235 --key-information e012c00401308810c00402308810c00403308810 \\
      --purpose remote-management --identity otaco/
  chancery keyset reconcile 89049032123451234512345678901235 --security-domain ecasd --key-information-file e0.hex \\
      --identity alice/")]
    Reconcile(reconcile::Reconcile),
}

/// Which keyset of a device.
#[derive(Debug, Clone, Copy, Args)]
pub struct NameArgs {
    /// Key version number: SCP80 0x01-0x0F, SCP02 0x20-0x2F, SCP03 0x30-0x3F, SCP81 0x40-0x4F
    #[arg(long, value_parser = parse_kvn)]
    kvn: u8,
    /// Secure-channel protocol; by default the one whose range the KVN is in
    #[arg(long)]
    protocol: Option<ProtocolArg>,
    /// Security domain that holds the keyset
    #[arg(long, default_value = "isd-r")]
    security_domain: DomainArg,
}

/// Protocols by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ProtocolArg {
    /// 3DES secure channel of imported fleets
    Scp02,
    /// AES secure channel (GP Amendment D)
    Scp03,
    /// OTA packets over SMS (TS 102 225)
    Scp80,
    /// OTA over HTTPS with a pre-shared key (GP Amendment B)
    Scp81,
}

impl ProtocolArg {
    fn code(self) -> u32 {
        u32::from(match self {
            Self::Scp02 => Protocol::Scp02.code(),
            Self::Scp03 => Protocol::Scp03.code(),
            Self::Scp80 => Protocol::Scp80.code(),
            Self::Scp81 => Protocol::Scp81.code(),
        })
    }

    /// GP Card Specification §11.2.2.1, TS 102 225 A.1.
    const fn of_kvn(kvn: u8) -> Self {
        match kvn {
            0..=0x0f => Self::Scp80,
            0x20..=0x2f => Self::Scp02,
            0x40..=0x4f => Self::Scp81,
            _ => Self::Scp03,
        }
    }
}

/// Security domains by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DomainArg {
    /// Issuer security domain root
    IsdR,
    /// eUICC controlling authority security domain
    Ecasd,
    /// The operator's security domain in a profile
    MnoSd,
}

impl DomainArg {
    pub(crate) fn code(self) -> u32 {
        u32::from(match self {
            Self::IsdR => SecurityDomain::IsdR.code(),
            Self::Ecasd => SecurityDomain::Ecasd.code(),
            Self::MnoSd => SecurityDomain::MnoSd.code(),
        })
    }
}

impl NameArgs {
    /// The protocol that is meant.
    pub fn protocol_of(&self) -> Protocol {
        match self.protocol.unwrap_or_else(|| ProtocolArg::of_kvn(self.kvn)) {
            ProtocolArg::Scp02 => Protocol::Scp02,
            ProtocolArg::Scp03 => Protocol::Scp03,
            ProtocolArg::Scp80 => Protocol::Scp80,
            ProtocolArg::Scp81 => Protocol::Scp81,
        }
    }

    /// The security domain and key version number; `None` when the number is of another protocol.
    pub fn domain_and_kvn(&self) -> Option<(SecurityDomain, KeyVersionNumber)> {
        let domain = match self.security_domain {
            DomainArg::IsdR => SecurityDomain::IsdR,
            DomainArg::Ecasd => SecurityDomain::Ecasd,
            DomainArg::MnoSd => SecurityDomain::MnoSd,
        };
        Some((domain, KeyVersionNumber::new(self.protocol_of(), self.kvn.into()).ok()?))
    }

    /// As the contract names it.
    pub fn name(self) -> KeysetName {
        KeysetName {
            security_domain: self.security_domain.code(),
            protocol: self.protocol.unwrap_or(ProtocolArg::of_kvn(self.kvn)).code(),
            key_version_number: self.kvn.into(),
        }
    }
}

/// `0x30` or `48`.
fn parse_kvn(text: &str) -> Result<u8, String> {
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match number {
        Ok(kvn @ (0x01..=0x0f | 0x20..=0x4f)) => Ok(kvn),
        _ => Err("a key version number is 0x01-0x0F, 0x20-0x2F, 0x30-0x3F or 0x40-0x4F".to_owned()),
    }
}

/// Arguments of `keyset suspend`.
#[derive(Debug, Args)]
pub struct Suspend {
    /// The device
    eid: Eid,
    #[command(flatten)]
    name: NameArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `keyset change`.
#[derive(Debug, Args)]
pub struct Change {
    /// The device
    eid: Eid,
    #[command(flatten)]
    name: NameArgs,
    /// The state it shall have
    #[arg(long)]
    state: StateArg,
    /// With --state compromised: what becomes of keysets that were delivered under it
    #[arg(long, required_if_eq("state", "compromised"))]
    consequence: Option<ConsequenceArg>,
    #[command(flatten)]
    request: RequestArgs,
}

/// States that an operation gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum StateArg {
    /// In use again, after it was suspended
    Active,
    /// Not used any more
    Deactivated,
    /// Known to others
    Compromised,
    /// Gone for good
    Destroyed,
}

impl StateArg {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
        }
    }
}

/// What becomes of tainted keysets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ConsequenceArg {
    /// They are compromised too: no session key of them leaves any more
    Compromised,
    /// They are worth 0 bits and stay usable until the devices are rotated
    Flagged,
}

impl ConsequenceArg {
    const fn to_wire(self) -> TaintConsequence {
        match self {
            Self::Compromised => TaintConsequence::Compromised,
            Self::Flagged => TaintConsequence::Flagged,
        }
    }
}

/// Arguments of `keyset mark-compromised`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("key").required(true).args(["party", "master_generation"]))]
pub struct Mark {
    /// The manufacturer whose transport keys are known to others
    #[arg(long, value_parser = parse_name)]
    party: Option<String>,
    /// Only those of this order
    #[arg(long, value_parser = parse_name, requires = "party")]
    order: Option<String>,
    /// The generation of the derivation master that is known to others
    #[arg(long, value_name = "NUMBER")]
    master_generation: Option<u32>,
    /// What becomes of the keysets behind it
    #[arg(long)]
    consequence: ConsequenceArg,
    #[command(flatten)]
    request: RequestArgs,
}

impl KeysetCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::List(list) => list.run(output).await,
            Self::Show(show) => show.run(output).await,
            Self::Suspend(suspend) => suspend.run(output).await,
            Self::Change(change) => change.run(output).await,
            Self::MarkCompromised(mark) => mark.run(output).await,
            Self::Reconcile(reconcile) => return reconcile.run(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct Suspended {
    eid: String,
    keyset: String,
    entry_index: u64,
}

impl Suspend {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let name = self.name.name();
        let words = keyset_words(&name);
        output.explain(&format!(
            "suspend the {words} of {}\n- from the log entry on no session key of it leaves, and no script under it\n\
             - session keys that left before stay usable on the card until its session ends\n\
             - to use it again takes an officer's request and another person's approval\n",
            self.eid
        ))?;
        output.confirm("Suspend this keyset now?", self.yes)?;
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = SuspendKeysetRequest {
            idempotency_key: key.clone(),
            eid: self.eid.to_string(),
            keyset: Some(name),
        };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.suspend_keyset(request).await }
            })
            .await?;
        let suspended = Suspended { eid: message.eid, keyset: words, entry_index: answer.entry_index };
        output.print(&suspended, |suspended| {
            format!(
                "suspended: the {} of {} (log entry {})",
                suspended.keyset, suspended.eid, suspended.entry_index
            )
        })
    }
}

impl Change {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let consequence = self.consequence.map_or(TaintConsequence::Unspecified, ConsequenceArg::to_wire);
        let change = ChangeKeysetState {
            eid: self.eid.to_string(),
            keyset: Some(self.name.name()),
            state: self.state.as_str().to_owned(),
            consequence: consequence.into(),
        };
        operation::request(Kind::ChangeKeysetState(change), &self.request, output).await
    }
}

impl Mark {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let key = match (&self.party, self.master_generation) {
            (Some(party), _) => mark_compromised::Key::Transport(CompromisedTransport {
                party: party.clone(),
                order: self.order.clone().unwrap_or_default(),
            }),
            (None, generation) => mark_compromised::Key::MasterGeneration(generation.unwrap_or_default()),
        };
        let mark = MarkCompromised { key: Some(key), consequence: self.consequence.to_wire().into() };
        operation::request(Kind::MarkCompromised(mark), &self.request, output).await
    }
}

fn client(connection: &Connection) -> KeysetServiceClient<Channel> {
    KeysetServiceClient::new(connection.channel())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_version_number_tells_its_protocol() {
        for (text, protocol) in [
            ("0x01", ProtocolArg::Scp80),
            ("15", ProtocolArg::Scp80),
            ("0x20", ProtocolArg::Scp02),
            ("0x3F", ProtocolArg::Scp03),
            ("0x40", ProtocolArg::Scp81),
        ] {
            assert_eq!(ProtocolArg::of_kvn(parse_kvn(text).unwrap()), protocol);
        }
        for wrong in ["0", "0x10", "0x50", "0xff", "256", "x"] {
            assert!(parse_kvn(wrong).is_err(), "{wrong}");
        }
    }
}
