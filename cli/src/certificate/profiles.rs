//! The certificate profiles: the built-in ones, and an operator's own before they come into use.

use std::path::PathBuf;

use clap::Args;
use pki::{CertificateProfile, PkiError, profile};
use serde::Serialize;

use crate::error::CliError;
use crate::files;
use crate::output::{Output, table};

/// Arguments of `certificate profiles`.
#[derive(Debug, Args)]
pub struct Profiles {
    /// Show this one whole: every field in its order
    name: Option<String>,
    /// A file of an operator's own profile, checked as the service checks it at its start; may be repeated
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: &'static str,
    role: &'static str,
    issued_by: &'static [&'static str],
    validity_days: u32,
    /// SHA-256 of the rules, as `certificate.issued` entries name it.
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<String>,
}

impl Profiles {
    /// Runs it.
    pub fn run(&self, output: Output) -> Result<(), CliError> {
        let mut texts = Vec::with_capacity(self.file.len());
        for path in &self.file {
            texts.push((path.display().to_string(), files::read_text(path)?));
        }
        let own = profile::read(texts.iter().map(|(path, text)| (path.as_str(), text.as_str()))).map_err(
            |fault| CliError::invalid(fault.to_string(), "see docs/formats/certificate-profile.md"),
        )?;
        let all = profile::built_in().chain(own);
        let listed: Vec<_> = match &self.name {
            None => all.map(|profile| listed(profile, false)).collect(),
            Some(name) => {
                let found = all.into_iter().find(|profile| profile.name == name);
                let unknown = || {
                    CliError::invalid(
                        format!("{name}: {}", PkiError::UnknownProfile),
                        "`chancery certificate profiles` lists them; name an own one's file with --file",
                    )
                };
                vec![listed(found.ok_or_else(unknown)?, true)]
            }
        };
        output.print(&listed, |listed| match listed.as_slice() {
            [Listed { rules: Some(rules), sha256, .. }] => format!("{rules}sha256 {sha256}"),
            _ => table(
                ["name", "role", "issued by", "days", "sha256"],
                listed.iter().map(|profile| {
                    [
                        profile.name.to_owned(),
                        profile.role.to_owned(),
                        profile.issued_by.join(", "),
                        profile.validity_days.to_string(),
                        profile.sha256[..16].to_owned(),
                    ]
                }),
            ),
        })
    }
}

fn listed(profile: &'static CertificateProfile, whole: bool) -> Listed {
    Listed {
        name: profile.name,
        role: profile.role.as_str(),
        issued_by: profile.issued_by,
        validity_days: profile.validity_days,
        sha256: hex::encode(profile.digest()),
        rules: whole.then(|| profile.rendering()),
    }
}
