//! `chancery keyset list` and `show`.

use clap::Args;
use domain::{Eid, Protocol};
use proto::v1::keyset_details::Source;
use proto::v1::{KeysetDetails, ListKeysetsRequest, ShowKeysetRequest};
use serde::Serialize;

use super::{NameArgs, client};
use crate::clock;
use crate::connect::RemoteArgs;
use crate::error::CliError;
use crate::output::{Output, fields, printable, table};
use crate::rotation::terms::domain_name;

/// Keysets asked for at a time.
const PAGE: u32 = 100;

/// Arguments of `keyset list`.
#[derive(Debug, Args)]
pub struct List {
    /// The device
    eid: Eid,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `keyset show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The device
    eid: Eid,
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Serialize)]
struct Shown {
    security_domain: String,
    protocol: String,
    kvn: String,
    algorithm: String,
    state: String,
    effective_strength: u32,
    source: String,
    delivered_under: String,
    created: Option<String>,
    ends: Option<String>,
    /// In the order of the key identifiers.
    check_values: Vec<String>,
    rotation: Option<String>,
    taint: Option<ShownTaint>,
}

#[derive(Serialize)]
struct ShownTaint {
    operation: String,
    time: Option<String>,
}

impl From<&KeysetDetails> for Shown {
    fn from(keyset: &KeysetDetails) -> Self {
        let name = keyset.name.unwrap_or_default();
        let time = |at: Option<&prost_types::Timestamp>| at.map(|at| clock::from_wire(at).to_string());
        Self {
            security_domain: domain_name(name.security_domain),
            protocol: Protocol::from_code(name.protocol).map_or_else(
                |_| format!("protocol {}", name.protocol),
                |protocol| protocol.as_str().to_uppercase(),
            ),
            kvn: format!("0x{:02x}", name.key_version_number),
            algorithm: printable(&keyset.algorithm),
            state: printable(&keyset.state),
            effective_strength: keyset.effective_strength,
            source: match &keyset.source {
                Some(Source::Derived(derived)) => {
                    format!("derived: master {}, {}", derived.master_generation, printable(&derived.scheme))
                }
                Some(Source::Stored(stored)) => {
                    let made = if stored.imported { "imported" } else { "random" };
                    format!("{made}: stored under epoch {}", stored.epoch)
                }
                None => "unknown".to_owned(),
            },
            delivered_under: printable(&keyset.delivered_under),
            created: time(keyset.created.as_ref()),
            ends: time(keyset.ends.as_ref()),
            check_values: keyset.check_values.iter().map(hex::encode).collect(),
            rotation: Some(printable(&keyset.rotation)).filter(|name| !name.is_empty()),
            taint: keyset.taint.as_ref().map(|taint| ShownTaint {
                operation: hex::encode(&taint.operation),
                time: time(taint.time.as_ref()),
            }),
        }
    }
}

impl List {
    pub(super) async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let mut keysets = Vec::new();
        let mut after = None;
        loop {
            let message = ListKeysetsRequest { eid: self.eid.to_string(), limit: PAGE, after };
            let answer = connection
                .call(output, None, || {
                    let request = connection.request(message.clone());
                    let mut client = client(&connection);
                    async move { client.list_keysets(request).await }
                })
                .await?;
            keysets.extend(answer.keysets.iter().map(Shown::from));
            after = answer.keysets.last().and_then(|keyset| keyset.name);
            if !answer.more || after.is_none() {
                break;
            }
        }
        output.print(&keysets, |keysets| listed(keysets))
    }
}

fn listed(keysets: &[Shown]) -> String {
    let rows = keysets.iter().map(|keyset| {
        [
            keyset.security_domain.clone(),
            keyset.protocol.clone(),
            keyset.kvn.clone(),
            keyset.algorithm.clone(),
            keyset.state.clone(),
            worth(keyset),
            keyset.delivered_under.clone(),
            keyset.check_values.join(" "),
        ]
    });
    table(["domain", "protocol", "KVN", "keys", "state", "worth", "delivered under", "KCVs"], rows)
}

fn worth(keyset: &Shown) -> String {
    match &keyset.taint {
        Some(_) => format!("{} bits, TAINTED", keyset.effective_strength),
        None => format!("{} bits", keyset.effective_strength),
    }
}

impl Show {
    pub(super) async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let message = ShowKeysetRequest { eid: self.eid.to_string(), keyset: Some(self.name.name()) };
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = client(&connection);
                async move { client.show_keyset(request).await }
            })
            .await?;
        let keyset = answer.keyset.ok_or_else(|| CliError::Answer("it has no keyset".to_owned()))?;
        if answer.eid != message.eid || keyset.name != message.keyset {
            return Err(CliError::Answer("it is about another keyset".to_owned()));
        }
        output.print(&Shown::from(&keyset), shown)
    }
}

fn shown(keyset: &Shown) -> String {
    let mut lines = vec![
        ("keyset", format!("{} {} of the {}", keyset.protocol, keyset.kvn, keyset.security_domain)),
        ("keys", keyset.algorithm.clone()),
        ("state", keyset.state.clone()),
        ("worth", worth(keyset)),
        ("source", keyset.source.clone()),
        ("delivered under", keyset.delivered_under.clone()),
        ("KCVs", keyset.check_values.join(" ")),
        ("made", keyset.created.clone().unwrap_or_default()),
    ];
    if let Some(ends) = &keyset.ends {
        lines.push(("ends", ends.clone()));
    }
    if let Some(rotation) = &keyset.rotation {
        lines.push(("waits for its card in", format!("rotation {rotation}")));
    }
    if let Some(taint) = &keyset.taint {
        let since = taint.time.clone().unwrap_or_default();
        lines.push(("TAINTED", format!("a key behind it is known to others since {since}")));
        lines.push(("said by", format!("operation {}", taint.operation)));
        lines.push((
            "next",
            "rotate the device over a path of other keys; then deactivate this keyset".to_owned(),
        ));
    }
    fields(lines)
}

#[cfg(test)]
mod tests {
    use proto::v1::{DerivedSource, KeysetName, Taint};

    use super::*;

    #[test]
    fn a_tainted_keyset_says_so_and_what_to_do() {
        let keyset = KeysetDetails {
            name: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x31 }),
            algorithm: "AES-256".to_owned(),
            state: "active".to_owned(),
            effective_strength: 0,
            source: Some(Source::Derived(DerivedSource {
                master_generation: 2,
                scheme: "chancery-cmac-v1".to_owned(),
            })),
            delivered_under: "keyset/0x30".to_owned(),
            check_values: vec![vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9]],
            taint: Some(Taint { operation: vec![0xab; 32], time: None }),
            ..KeysetDetails::default()
        };
        let text = shown(&Shown::from(&keyset));
        for words in
            ["SCP03 0x31 of the ISD-R", "0 bits, TAINTED", "master 2", "keyset/0x30", "070809", "abab"]
        {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert!(listed(&[Shown::from(&keyset)]).contains("TAINTED"));
    }
}
