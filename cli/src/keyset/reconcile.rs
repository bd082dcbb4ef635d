//! `chancery keyset reconcile`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use domain::Eid;
use proto::v1::{InventoryDifference, InventoryFinding, InventoryKey, ReconcileInventoryRequest};
use serde::Serialize;

use super::{DomainArg, client};
use crate::connect::RemoteArgs;
use crate::error::CliError;
use crate::output::{Output, printable, table};

/// Longest file that is read: the longest answer in hex, with line ends.
const FILE_BYTES_MAX: usize = 16 * 1024;

/// Arguments of `keyset reconcile`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("answer").required(true).args(["key_information", "key_information_file"]))]
pub struct Reconcile {
    /// The device
    eid: Eid,
    /// Security domain that answered
    #[arg(long, default_value = "isd-r")]
    security_domain: DomainArg,
    /// The answer to GET DATA 00E0 in hex, with or without the status word 9000
    #[arg(long, value_name = "HEX")]
    key_information: Option<String>,
    /// A file with it
    #[arg(long, value_name = "FILE")]
    key_information_file: Option<PathBuf>,
    /// A provisioner names the purpose of its grant
    #[arg(long, default_value = "")]
    purpose: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Reconciled {
    eid: String,
    agreed: u32,
    unmanaged: u32,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    difference: &'static str,
    kvn: String,
    key_identifier: u32,
    recorded: Option<String>,
    on_card: Option<String>,
    state: String,
    next_step: &'static str,
}

impl From<&InventoryFinding> for Finding {
    fn from(finding: &InventoryFinding) -> Self {
        let (difference, next_step) = words(finding.difference());
        Self {
            difference,
            kvn: format!("0x{:02x}", finding.key_version_number),
            key_identifier: finding.key_identifier,
            recorded: finding.recorded.as_ref().map(key_words),
            on_card: finding.on_card.as_ref().map(key_words),
            state: printable(&finding.state),
            next_step,
        }
    }
}

const fn words(difference: InventoryDifference) -> (&'static str, &'static str) {
    match difference {
        InventoryDifference::Missing => {
            ("missing", "the card lost it or never got it: rotate the device, or deactivate the keyset")
        }
        InventoryDifference::Extra => {
            ("extra", "nobody here manages it: find out who loaded it, then have it deleted (DELETE KEY)")
        }
        InventoryDifference::WrongLength => {
            ("wrong length", "another key than the recorded one: rotate the device under a new KVN")
        }
        InventoryDifference::WrongType => {
            ("wrong type", "another key than the recorded one: rotate the device under a new KVN")
        }
        InventoryDifference::Unspecified => ("unknown", "use a newer version of this tool"),
    }
}

/// `AES, 16 bytes`.
fn key_words(key: &InventoryKey) -> String {
    let kind = match key.key_type {
        0x80..=0x84 => "DES".to_owned(),
        0x85 => "PSK".to_owned(),
        0x88 => "AES".to_owned(),
        other => format!("type {other:02x}"),
    };
    format!("{kind}, {} bytes", key.bytes)
}

impl Reconcile {
    pub(super) async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let text = match (&self.key_information, &self.key_information_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => {
                let bytes = std::fs::read(path).map_err(CliError::file("read", path))?;
                if bytes.len() > FILE_BYTES_MAX {
                    return Err(wrong());
                }
                String::from_utf8(bytes).map_err(|_| wrong())?
            }
            (None, None) => return Err(wrong()),
        };
        let message = ReconcileInventoryRequest {
            eid: self.eid.to_string(),
            security_domain: self.security_domain.code(),
            key_information: answer_bytes(&text).ok_or_else(wrong)?,
            purpose: self.purpose.clone(),
        };
        let connection = self.remote.connect(output).await?;
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.reconcile_inventory(request).await }
            })
            .await?;
        let reconciled = Reconciled {
            eid: message.eid,
            agreed: answer.agreed,
            unmanaged: answer.unmanaged,
            findings: answer.findings.iter().map(Finding::from).collect(),
        };
        output.print(&reconciled, human)?;
        Ok(if reconciled.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn wrong() -> CliError {
    CliError::invalid(
        "the key information is no hexadecimal answer to GET DATA 00E0".to_owned(),
        "give the bytes that the card answered, for example e012c00401308810c00402308810c00403308810",
    )
}

/// Hex with blanks; the status word goes when the template says that it is none of its own bytes.
fn answer_bytes(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    let mut bytes = hex::decode(digits).ok()?;
    let announced = match bytes.as_slice() {
        [0xe0, length @ 0..=0x7f, ..] => Some(2 + usize::from(*length)),
        [0xe0, 0x81, length, ..] => Some(3 + usize::from(*length)),
        [0xe0, 0x82, high, low, ..] => Some(4 + usize::from(u16::from_be_bytes([*high, *low]))),
        _ => None,
    };
    if announced.is_some_and(|length| bytes.len() == length + 2) && bytes.ends_with(&[0x90, 0x00]) {
        bytes.truncate(bytes.len() - 2);
    }
    Some(bytes)
}

fn human(reconciled: &Reconciled) -> String {
    let mut text = match reconciled.findings.len() {
        0 => format!("card and records agree on {} keys", reconciled.agreed),
        differences => format!("{} keys agree, {differences} differ", reconciled.agreed),
    };
    if reconciled.unmanaged > 0 {
        text.push_str(&format!("; {} keys of kinds that are not managed here", reconciled.unmanaged));
    }
    if !reconciled.findings.is_empty() {
        let absent = || "-".to_owned();
        let rows = reconciled.findings.iter().map(|finding| {
            [
                finding.kvn.clone(),
                finding.key_identifier.to_string(),
                finding.difference.to_owned(),
                finding.recorded.clone().unwrap_or_else(absent),
                finding.on_card.clone().unwrap_or_else(absent),
                if finding.state.is_empty() { absent() } else { finding.state.clone() },
                finding.next_step.to_owned(),
            ]
        });
        text.push('\n');
        text.push_str(&table(
            ["KVN", "key", "difference", "recorded", "on the card", "state", "next step"],
            rows,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_blanks_and_without_its_status_word() {
        let plain = vec![0xe0, 6, 0xc0, 4, 2, 3, 0x88, 16];
        for text in ["e006c00402038810", "E0 06 C0 04 02 03 88 10 90 00\n", "e0:06:c0:04:02:03:88:10"] {
            assert_eq!(answer_bytes(text).unwrap(), plain, "{text}");
        }
        // A template that ends with these bytes keeps them.
        assert_eq!(answer_bytes("e002 9000").unwrap(), [0xe0, 2, 0x90, 0]);
        assert!(answer_bytes("e0 0").is_none());
    }
}
