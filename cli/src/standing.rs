//! Standing: a party is stopped at once by one person; persons are stopped, and anybody is given back, by two.

use clap::Args;
use proto::v1::operation::Kind;
use proto::v1::standing_service_client::StandingServiceClient;
use proto::v1::{ChangeStanding, SuspendPartyRequest};
use serde::Serialize;

use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::identity::parse_name;
use crate::operation::{self, RequestArgs};
use crate::output::Output;

/// Arguments of `party suspend`.
#[derive(Debug, Args)]
pub struct SuspendParty {
    /// The party
    #[arg(value_parser = parse_name)]
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `party restore`, `person suspend` and `person restore`.
#[derive(Debug, Args)]
pub struct Change {
    /// The person or party
    #[arg(value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Serialize)]
struct Suspended {
    name: String,
    entry_index: u64,
}

impl SuspendParty {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        output.explain(&format!(
            "suspend {}\n- from the log entry on each of its calls is refused, whichever credential it uses\n\
             - its devices, keysets and grants stay as they are\n\
             - to restore it takes an officer's request and another person's approval\n",
            self.name
        ))?;
        output.confirm("Suspend this party now?", self.yes)?;
        let connection = self.remote.connect(output).await?;
        let key = self.idempotency.key()?;
        let message = SuspendPartyRequest { idempotency_key: key.clone(), name: self.name.clone() };
        let answer = connection
            .call(output, Some(&key), || {
                let request = connection.request(message.clone());
                let mut client = StandingServiceClient::new(connection.channel());
                async move { client.suspend_party(request).await }
            })
            .await?;
        let suspended = Suspended { name: self.name.clone(), entry_index: answer.entry_index };
        output.print(&suspended, |suspended| {
            format!(
                "suspended: {} (log entry {})\nnext: chancery party restore {} --reason ... when it may call again",
                suspended.name, suspended.entry_index, suspended.name
            )
        })
    }
}

impl Change {
    /// Requests the suspension.
    pub async fn suspend(&self, output: Output) -> Result<(), CliError> {
        self.request(true, output).await
    }

    /// Requests the restoration.
    pub async fn restore(&self, output: Output) -> Result<(), CliError> {
        self.request(false, output).await
    }

    async fn request(&self, suspended: bool, output: Output) -> Result<(), CliError> {
        let kind = Kind::ChangeStanding(ChangeStanding { name: self.name.clone(), suspended });
        operation::request(kind, &self.request, output).await
    }
}
