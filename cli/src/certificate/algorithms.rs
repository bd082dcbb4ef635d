//! The algorithms and what may be done with them, now or at another time.

use clap::Args;
use domain::Timestamp;
use pki::{ALGORITHMS, Algorithm, CivilTime};
use serde::Serialize;

use super::verify::{civil, parse_time};
use crate::error::CliError;
use crate::output::{Output, table};

/// Arguments of `certificate algorithms`.
#[derive(Debug, Args)]
pub struct Algorithms {
    /// The time in question, RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    oid: Option<String>,
    status: &'static str,
    /// What comes later, with its first day.
    later: Vec<String>,
    used_for: &'static str,
    source: &'static str,
}

impl Algorithms {
    /// Runs it.
    pub fn run(&self, output: Output) -> Result<(), CliError> {
        let at = civil(self.at)?;
        let listed: Vec<_> = ALGORITHMS.iter().map(|algorithm| listed(algorithm, at)).collect();
        output.print(&listed, |listed| {
            table(
                ["algorithm", "status", "later", "used for", "source"],
                listed.iter().map(|row| {
                    [
                        row.name.to_owned(),
                        row.status.to_owned(),
                        row.later.join(", "),
                        row.used_for.to_owned(),
                        row.source.to_owned(),
                    ]
                }),
            )
        })
    }
}

fn listed(algorithm: &'static Algorithm, at: CivilTime) -> Listed {
    let later = algorithm.statuses.iter().filter_map(|(status, day)| {
        let (year, month, day) = (*day)?;
        let first = CivilTime::new(year, month, day, 0, 0, 0).ok().filter(|first| *first > at);
        first.map(|_| format!("{} from {year}-{month:02}-{day:02}", status.as_str()))
    });
    Listed {
        name: algorithm.name,
        oid: algorithm.dotted_oid(),
        status: algorithm.status(at).as_str(),
        later: later.collect(),
        used_for: algorithm.used_for,
        source: algorithm.source,
    }
}
