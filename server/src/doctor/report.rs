//! What was found, for a person and for a program.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use super::title;
use crate::config::Mode;

/// Format of the JSON report; fields are only ever added.
const FORMAT: &str = "chancery-doctor/1";

/// What a check came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Skipped,
    Ok,
    Warning,
    Fault,
}

/// One thing that was checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) id: String,
    pub(crate) title: &'static str,
    pub(crate) verdict: Verdict,
    /// What was seen, one sentence each; why, when it was skipped.
    pub(crate) details: Vec<String>,
    /// What to do, one step each.
    pub(crate) advice: Vec<String>,
}

impl Check {
    /// Passed so far.
    pub(crate) fn new(id: &str) -> Self {
        let (details, advice) = (Vec::new(), Vec::new());
        Self { id: id.to_owned(), title: title(id), verdict: Verdict::Ok, details, advice }
    }

    pub(crate) fn skipped(id: &str, reason: &str) -> Self {
        let mut check = Self::new(id);
        check.verdict = Verdict::Skipped;
        check.detail(reason);
        check
    }

    pub(crate) fn detail(&mut self, what: impl Into<String>) {
        self.details.push(what.into());
    }

    pub(crate) fn warn(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.find(Verdict::Warning, what.into(), advice.into());
    }

    pub(crate) fn fault(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.find(Verdict::Fault, what.into(), advice.into());
    }

    fn find(&mut self, verdict: Verdict, what: String, advice: String) {
        self.verdict = self.verdict.max(verdict);
        self.details.push(what);
        if !self.advice.contains(&advice) {
            self.advice.push(advice);
        }
    }
}

/// Checks that could not be made, all for one reason.
pub(crate) fn skip(ids: &[&str], reason: &str) -> Vec<Check> {
    ids.iter().map(|id| Check::skipped(id, reason)).collect()
}

/// Everything that was found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) mode: Option<Mode>,
    pub(crate) daemon_running: bool,
    pub(crate) checks: Vec<Check>,
}

#[derive(Serialize)]
struct Summary {
    ok: usize,
    warnings: usize,
    faults: usize,
    skipped: usize,
}

#[derive(Serialize)]
struct Written<'a> {
    format: &'static str,
    mode: Option<&'static str>,
    daemon_running: bool,
    summary: Summary,
    checks: &'a [Check],
}

impl Report {
    pub(crate) fn has_faults(&self) -> bool {
        self.count(Verdict::Fault) > 0
    }

    /// In the order of `ids`, whatever the order in which they were made.
    pub(crate) fn sort(&mut self, ids: &[&str]) {
        self.checks.sort_by_key(|check| ids.iter().position(|id| *id == check.id));
    }

    pub(crate) fn json(&self) -> io::Result<String> {
        let written = Written {
            format: FORMAT,
            mode: self.mode.map(Mode::as_word),
            daemon_running: self.daemon_running,
            summary: self.summary(),
            checks: &self.checks,
        };
        Ok(serde_json::to_string_pretty(&written).map_err(io::Error::other)? + "\n")
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
        // Writing to a string cannot fail.
        for check in &self.checks {
            let mark = match check.verdict {
                Verdict::Ok => "✓",
                Verdict::Warning => "!",
                Verdict::Fault => "✗",
                Verdict::Skipped => "-",
            };
            let _ = writeln!(text, "  {mark} {:width$}  {}", check.id, check.title);
            for detail in &check.details {
                let _ = writeln!(text, "    {:width$}  {detail}", "");
            }
            for advice in &check.advice {
                let _ = writeln!(text, "    {:width$}  -> {advice}", "");
            }
        }
        let Summary { ok, warnings, faults, skipped } = self.summary();
        let _ = writeln!(text, "  {ok} ok, {warnings} warnings, {faults} faults, {skipped} skipped");
        text
    }

    fn summary(&self) -> Summary {
        Summary {
            ok: self.count(Verdict::Ok),
            warnings: self.count(Verdict::Warning),
            faults: self.count(Verdict::Fault),
            skipped: self.count(Verdict::Skipped),
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

impl Mode {
    const fn as_word(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_as_bad_as_the_worst_it_found_and_warnings_alone_are_no_failure() {
        let mut report = Report::default();
        let mut check = Check::new("daemon");
        check.warn("a", "do b");
        report.checks.push(check.clone());
        assert!(!report.has_faults());
        check.fault("c", "do d");
        check.warn("e", "do b");
        assert_eq!((check.verdict, check.advice.len()), (Verdict::Fault, 2));
        report.checks.push(check);
        report.checks.push(Check::skipped("log.chain", "no key"));
        assert!(report.has_faults());
        assert!(report.table().contains("0 ok, 1 warnings, 1 faults, 1 skipped"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["checks"][1]["verdict"], "fault");
        assert_eq!(json["summary"]["skipped"], 1);
    }
}
