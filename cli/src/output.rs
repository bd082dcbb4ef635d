//! What the operator sees: tables or JSON on standard output, progress and errors on standard error.

use std::io::{BufRead, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::CliError;

/// How results are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON value, for programs.
    Json,
}

/// Where results, steps and questions go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// How results are written.
    pub format: Format,
}

impl Output {
    /// Prints a result: `value` as JSON, or what `human` makes of it.
    pub fn print<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => human(value),
            Format::Json => {
                serde_json::to_string_pretty(value).map_err(|error| CliError::Local(error.to_string()))?
            }
        };
        self.print_text(&text)
    }

    /// Prints a text that is ready.
    pub fn print_text(self, text: &str) -> Result<(), CliError> {
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|error| CliError::Local(format!("cannot write the result: {error}"))),
        }
    }

    /// Shows what an answer will be about, before anything is done: to people only.
    pub fn explain(self, text: &str) -> Result<(), CliError> {
        match self.format {
            Format::Table => self.print_text(text),
            Format::Json => Ok(()),
        }
    }

    /// Says on standard error what is being done.
    pub fn step(self, text: &str) {
        eprintln!("{text}");
    }

    /// Asks for a yes, unless `yes` was given on the command line.
    pub fn confirm(self, question: &str, yes: bool) -> Result<(), CliError> {
        if yes {
            return Ok(());
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Err(CliError::NotConfirmed);
        }
        eprint!("{question} Type yes to go on: ");
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer).map_err(|error| CliError::Local(error.to_string()))?;
        if answer.trim() == "yes" { Ok(()) } else { Err(CliError::NotConfirmed) }
    }

    /// Starts showing progress; `total` 0 when unknown.
    pub fn progress(self, what: &'static str, total: u64) -> Progress {
        Progress::start(what, total, std::io::stderr().is_terminal())
    }

    /// Reports a failure on standard error.
    pub fn failure(self, error: &CliError) {
        let next_step = error.next_step();
        match self.format {
            Format::Table => {
                eprintln!("error: {}: {}", error.reason(), printable(&error.to_string()));
                if let Some(step) = next_step {
                    eprintln!("  next: {}", printable(&step));
                }
                if let Some(index) = error.entry_index() {
                    eprintln!("  log entry: {index}");
                }
            }
            Format::Json => eprintln!(
                "{}",
                serde_json::json!({ "error": {
                    "reason": error.reason(),
                    "message": error.to_string(),
                    "next_step": next_step,
                    "retryable": error.is_retryable(),
                    "entry_index": error.entry_index(),
                }})
            ),
        }
    }
}

/// Progress of long work: a bar on a terminal, now and then a line elsewhere.
pub struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    next_line_at: u64,
    note: String,
    bar: Option<ProgressBar>,
}

/// Lines that a whole known work prints where there is no terminal.
const PROGRESS_LINES: u64 = 10;
/// Distance of those lines where the total is unknown.
const PROGRESS_LINE_EVERY: u64 = 10_000;

impl Progress {
    fn start(what: &'static str, total: u64, terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let target = ProgressDrawTarget::stderr();
            let (bar, template) = if total == 0 {
                (ProgressBar::with_draw_target(None, target), "{msg} {pos} {per_sec} {elapsed}")
            } else {
                (
                    ProgressBar::with_draw_target(Some(total), target),
                    "{msg} {bar:30} {pos}/{len} {per_sec} {eta}",
                )
            };
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(what);
            bar
        });
        if bar.is_none() {
            eprintln!("{what} ...");
        }
        let mut progress = Self { what, total, done: 0, next_line_at: 0, note: String::new(), bar };
        progress.next_line_at = progress.line_distance();
        progress
    }

    /// So much more is done.
    pub fn advance(&mut self, by: u64) {
        self.done = self.done.saturating_add(by);
        self.show();
    }

    /// So much is done of so much, with a word about it. The total may have grown.
    pub fn set(&mut self, done: u64, total: u64, note: String) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_message(format!("{} ({note})", self.what));
        }
        (self.done, self.total, self.note) = (done, total, format!(" ({note})"));
        self.show();
    }

    fn show(&mut self) {
        match &self.bar {
            Some(bar) => bar.set_position(self.done),
            None if self.done >= self.next_line_at => {
                self.next_line_at = self.done + self.line_distance();
                if self.total == 0 {
                    eprintln!("{}: {}{}", self.what, self.done, self.note);
                } else {
                    eprintln!("{}: {}/{}{}", self.what, self.done, self.total, self.note);
                }
            }
            None => {}
        }
    }

    /// Says something without breaking the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bar away and says how it ended.
    pub fn finish(self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}: {text}", self.what);
    }

    const fn line_distance(&self) -> u64 {
        if self.total == 0 { PROGRESS_LINE_EVERY } else { self.total.div_ceil(PROGRESS_LINES) }
    }
}

/// A table with a header.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    table.trim_fmt()
}

/// Names and values, one a line, aligned.
pub fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs.into_iter().collect();
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A text of somebody else made safe for a terminal: what could move the cursor, hide or reorder text is escaped.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        let hides = c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
        if hides { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_cannot_move_the_cursor_or_reorder_what_is_read() {
        assert_eq!(printable("Bär & Söhne\u{1b}[1A\n\u{202e}txt"), "Bär & Söhne\\u{1b}[1A\\u{a}\\u{202e}txt");
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields([("a", "1".to_owned()), ("long", "2".to_owned())]), "a     1\nlong  2\n");
    }
}
