//! The two commands of a ceremony by specification: `ceremony plan` and `ceremony run`
//! (`docs/cycles/specification-ceremony.md`).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use domain::Clock as _;

use super::plan::Plan;
use super::prepared::{self, Prepared};
use super::run;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::doctor::Output;

#[derive(Args)]
pub(crate) struct PlanCeremony {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// What the ceremony is to do (docs/formats/ceremony-specification.md).
    #[arg(long)]
    specification: PathBuf,
    /// Text to review, or JSON with stable fields.
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct RunCeremony {
    /// The configuration.
    #[arg(long)]
    config: PathBuf,
    /// The specification that was reviewed.
    #[arg(long)]
    specification: PathBuf,
    /// SHA-256 of that file, as the plan showed it; another file is refused.
    #[arg(long, value_name = "SHA256", value_parser = parse_digest)]
    reviewed: [u8; 32],
    /// Folder for what is made; no file of the same name may be in it.
    #[arg(long)]
    out: PathBuf,
}

impl PlanCeremony {
    pub(super) fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let config = Config::read(&self.config)?;
        config.install_profiles();
        let now = SystemClock::new().now();
        let bytes = prepared::read(&self.specification)?;
        let folder = self.specification.parent().unwrap_or(Path::new(""));
        let prepared = Prepared::new(&config, folder, &bytes, now)?;
        let plan = Plan::rehearse(&config, &prepared, folder, now)?;
        match self.output {
            Output::Human => write!(io::stdout(), "{plan}")?,
            Output::Json => writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&plan)?)?,
        }
        Ok(())
    }
}

impl RunCeremony {
    pub(super) fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        let config = Config::read(&self.config)?;
        config.install_profiles();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run::run(&config, &self.specification, &self.reviewed, &self.out))
    }
}

fn parse_digest(text: &str) -> Result<[u8; 32], String> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).map_err(|_| "a SHA-256 has 64 hex digits".to_owned())?;
    Ok(digest)
}
