//! eUICC packages of an eIM: signed with the next counter value.

use std::path::PathBuf;

use clap::Args;
use domain::Eid;
use proto::v1::SignEuiccPackageRequest;
use proto::v1::rsp_service_client::RspServiceClient;
use serde::Serialize;

use super::download::{Hex, parse_hex};
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::output::{Output, fields};

/// Arguments of `rsp sign-package`.
#[derive(Debug, Args)]
pub struct SignPackage {
    /// eimId, as registered with the key
    #[arg(long)]
    eim_id: String,
    /// The device
    #[arg(long)]
    eid: Eid,
    /// The psmoList (tag A0) or ecoList (tag A1), DER
    #[arg(long, value_name = "FILE")]
    package: PathBuf,
    /// eimTransactionId, at most 16 bytes in hex
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    eim_transaction_id: Option<Hex>,
    /// The association token that the eUICC gave; absent: none
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    association_token: u64,
    /// What it is for; must be the purpose of a grant
    #[arg(long)]
    purpose: String,
    /// File to write: EuiccPackageRequest, DER, tag BF51
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Signed {
    eid: String,
    counter: u64,
    file: String,
    entry_index: u64,
}

impl SignPackage {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<(), CliError> {
        let message = SignEuiccPackageRequest {
            idempotency_key: self.idempotency.key()?,
            eim_id: self.eim_id.clone(),
            eid: self.eid.to_string(),
            euicc_package: files::read(&self.package)?,
            eim_transaction_id: self.eim_transaction_id.clone().map(Hex::into_bytes).unwrap_or_default(),
            association_token: self.association_token,
            purpose: self.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = RspServiceClient::new(connection.channel());
                async move { client.sign_euicc_package(request).await }
            })
            .await?;
        let request = keys::rsp::euicc_package_request(&answer.euicc_package_signed, &answer.eim_signature);
        files::write_new(&self.out, &request, Readers::All)?;
        let signed = Signed {
            eid: self.eid.to_string(),
            counter: answer.counter,
            file: self.out.display().to_string(),
            entry_index: answer.entry_index,
        };
        output.print(&signed, |signed| {
            fields([
                ("EID", signed.eid.clone()),
                ("counter", signed.counter.to_string()),
                ("file", signed.file.clone()),
                ("log entry", signed.entry_index.to_string()),
            ])
        })
    }
}
