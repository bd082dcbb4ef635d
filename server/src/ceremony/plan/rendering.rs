//! The plan as text, for persons who review it line by line.

use std::fmt;

use super::{Fact, Plan};

/// Characters before the value of a fact.
const NAME_WIDTH: usize = 44;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in [
            ("specification", format!("sha256 {}", self.specification_sha256)),
            ("title", self.title.clone()),
            ("authority", self.authority.clone()),
            ("mode", self.mode.to_owned()),
            ("machine", format!("{}; {} signs the transcript", self.machine, self.transcript_key)),
        ] {
            line(f, "", &Fact::new(name, value))?;
        }
        for participant in &self.participants {
            line(f, "", &Fact::new("participant", format!("{}: {}", participant.name, participant.value)))?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "\n{number}. {} {}", step.kind, step.name)?;
            for fact in &step.facts {
                line(f, "   ", fact)?;
            }
            line(f, "   ", &Fact::new("written to", step.products.join(", ")))?;
        }
        writeln!(f)?;
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        writeln!(
            f,
            "every certificate, request and list was built with throw-away keys and passed the lint"
        )?;
        writeln!(f, "reviewed: chanceryd ceremony run ... --reviewed {}", self.specification_sha256)
    }
}

fn line(f: &mut fmt::Formatter<'_>, indent: &str, fact: &Fact) -> fmt::Result {
    let width = NAME_WIDTH - indent.len();
    // A value of somebody else's request must not change what the terminal shows.
    let value: String = fact.value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    writeln!(f, "{indent}{:width$}{value}", fact.name)
}
