//! `cargo xtask interop`: judges that are not ours on what the demonstration left. Every finding must be a row of the
//! page of departures from standards, and every row of that page must still be found.

mod artefacts;
mod divergences;
mod gnutls;
mod handover;
mod nss;
mod openssl;
mod pkilint;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::install::{self, Purpose};
use crate::run::Failure;
use artefacts::Artefacts;
use divergences::{PAGE, Row};

/// What one judge says of one artefact.
struct Judgement {
    /// The judge, with the subcommand or library that spoke.
    judge: &'static str,
    artefact: &'static str,
    /// Stable names of what it finds wrong; none when it is content.
    findings: BTreeSet<String>,
    /// What it was asked, when not simply whether the artefact is good.
    note: &'static str,
}

impl Judgement {
    fn new(judge: &'static str, artefact: &'static str, findings: impl IntoIterator<Item = String>) -> Self {
        Self { judge, artefact, findings: findings.into_iter().collect(), note: "" }
    }

    fn noted(self, note: &'static str) -> Self {
        Self { note, ..self }
    }
}

/// Asks every judge about what a demonstration left in `demo`, our own `tool` among them, prints what each says, and fails on what the page does not explain.
pub fn run(root: &Path, demo: PathBuf, tool: &Path) -> Result<(), Failure> {
    let started = Instant::now();
    let artefacts = Artefacts::find(root, demo)?;
    let page = root.join(PAGE);
    let page = std::fs::read_to_string(&page)
        .map_err(|error| Failure::new(format!("{}: {error}", page.display())))?;
    let rows = divergences::rows(&page)?;
    install::run(Purpose::Interop)?;
    let scratch = root.join("target/interop");
    std::fs::create_dir_all(&scratch)
        .map_err(|error| Failure::new(format!("{}: {error}", scratch.display())))?;
    let pkilint = pkilint::Pkilint::install(&scratch)?;
    let artefacts = artefacts.into_pem(&scratch)?;

    let judging = Instant::now();
    let mut judgements = openssl::judge(&artefacts)?;
    judgements.extend(gnutls::judge(&artefacts, &scratch)?);
    judgements.extend(nss::judge(&artefacts, &scratch)?);
    judgements.extend(pkilint.judge(&artefacts)?);
    judgements.extend(handover::judge(tool, &artefacts, &scratch, pkilint.python())?);
    print_table(&judgements, &rows);
    let problems = compare(&judgements, &rows);
    println!(
        "\n{} judgements on {} artefacts in {:.1} s, {:.1} s with what was installed",
        judgements.len(),
        artefacts.count(),
        judging.elapsed().as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    if problems.is_empty() {
        println!("every finding is a row of {PAGE}, and every row was found");
        return Ok(());
    }
    problems.iter().for_each(|problem| println!("-- {problem}"));
    Err(Failure::new(format!("{} findings that {PAGE} does not explain, or rows not found", problems.len())))
}

/// Findings without a row, then rows without a finding.
fn compare(judgements: &[Judgement], rows: &[Row]) -> Vec<String> {
    let found: BTreeSet<(&str, &str, &str)> = judgements
        .iter()
        .flat_map(|said| said.findings.iter().map(|finding| (said.judge, said.artefact, finding.as_str())))
        .collect();
    let listed: BTreeSet<(&str, &str, &str)> = rows.iter().flat_map(Row::cases).collect();
    let unlisted = found.difference(&listed).map(|(judge, artefact, finding)| {
        format!("{judge} finds `{finding}` in {artefact}, which is no row of {PAGE}")
    });
    let stale = listed.difference(&found).map(|(judge, artefact, finding)| {
        format!("{PAGE} says that {judge} finds `{finding}` in {artefact}, which it does not any more")
    });
    unlisted.chain(stale).collect()
}

fn print_table(judgements: &[Judgement], rows: &[Row]) {
    let listed: BTreeSet<(&str, &str, &str)> = rows.iter().flat_map(Row::cases).collect();
    let width =
        |cell: fn(&Judgement) -> &str| judgements.iter().map(|said| cell(said).len()).max().unwrap_or(0);
    let (judges, artefacts) = (width(|said| said.judge), width(|said| said.artefact));
    println!("\n{:judges$}  {:artefacts$}  verdict", "judge", "artefact");
    for said in judgements {
        let words = |finding: &String| {
            let known = listed.contains(&(said.judge, said.artefact, finding.as_str()));
            format!("{} {finding}", if known { "listed:" } else { "FINDS" })
        };
        let verdict = if said.findings.is_empty() {
            "ok".to_owned()
        } else {
            said.findings.iter().map(words).collect::<Vec<_>>().join(", ")
        };
        let note = if said.note.is_empty() { String::new() } else { format!(" ({})", said.note) };
        println!("{:judges$}  {:artefacts$}  {verdict}{note}", said.judge, said.artefact);
    }
}

/// What a judge's program printed, both streams, and whether it was content.
struct Answer {
    content: bool,
    text: String,
}

/// Runs a judge's program; that it is not content is an answer and no failure.
fn ask(command: &mut Command) -> Result<Answer, Failure> {
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| Failure::new(format!("cannot start {command:?}: {error}")))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Answer { content: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(findings: &[&str]) -> Vec<Judgement> {
        vec![Judgement::new("judge", "ci", findings.iter().map(|finding| (*finding).to_owned()))]
    }

    fn row(artefacts: &[&str], finding: &str) -> Row {
        Row {
            judge: "judge".to_owned(),
            artefacts: artefacts.iter().map(|artefact| (*artefact).to_owned()).collect(),
            finding: finding.to_owned(),
        }
    }

    #[test]
    fn a_finding_needs_its_row_and_a_row_its_finding() {
        assert_eq!(compare(&said(&["a"]), &[row(&["ci"], "a")]), [""; 0]);
        let unlisted = compare(&said(&["a", "b"]), &[row(&["ci"], "a")]);
        assert!(matches!(unlisted.as_slice(), [only] if only.contains("judge finds `b` in ci")));
        let stale = compare(&said(&["a"]), &[row(&["ci", "eum"], "a")]);
        assert!(matches!(stale.as_slice(), [only] if only.contains("finds `a` in eum, which it does not")));
    }
}
