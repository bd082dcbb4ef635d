//! The page of departures from standards, as far as judges find them: one table.

use crate::run::Failure;

/// Where it is.
pub const PAGE: &str = "docs/divergences.md";

/// The columns of the table; the last two are for readers.
const HEADER: [&str; 5] = ["judge", "artefacts", "finding", "clause", "why it stays"];

/// A finding that is known and justified.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub judge: String,
    pub artefacts: Vec<String>,
    pub finding: String,
}

impl Row {
    /// Judge, artefact and finding, one for each artefact.
    pub fn cases(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.artefacts.iter().map(|artefact| (self.judge.as_str(), artefact.as_str(), self.finding.as_str()))
    }
}

/// Reads the table; a row with an open cell is refused.
pub fn rows(page: &str) -> Result<Vec<Row>, Failure> {
    let mut lines = page.lines().map(cells).skip_while(|cells| *cells != HEADER);
    if lines.next().is_none() {
        return Err(Failure::new(format!("{PAGE} has no table with the columns {}", HEADER.join(", "))));
    }
    // After the header comes the line of dashes.
    lines.skip(1).take_while(|cells| !cells.is_empty()).map(row).collect()
}

fn row(cells: Vec<&str>) -> Result<Row, Failure> {
    let refuse = || Failure::new(format!("{PAGE}: a row with an open cell: {}", cells.join(" | ")));
    let [judge, artefacts, finding, ..] = cells.as_slice() else { return Err(refuse()) };
    if cells.len() != HEADER.len() || cells.iter().any(|cell| cell.is_empty()) {
        return Err(refuse());
    }
    Ok(Row {
        judge: (*judge).to_owned(),
        artefacts: artefacts.split(',').map(|artefact| artefact.trim().to_owned()).collect(),
        finding: finding.trim_matches('`').to_owned(),
    })
}

/// The cells of a table's line; none when it is no such line.
fn cells(line: &str) -> Vec<&str> {
    line.trim()
        .strip_prefix('|')
        .and_then(|line| line.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "words\n\n| judge | artefacts | finding | clause | why it stays |\n| --- | --- | --- | --- | --- |\n";

    #[test]
    fn rows_are_read_up_to_the_end_of_the_table() {
        let page = format!("{TABLE}| openssl verify | ci, eum | `error 1` | RFC | why |\n\n| not | this |\n");
        let expected = Row {
            judge: "openssl verify".to_owned(),
            artefacts: vec!["ci".to_owned(), "eum".to_owned()],
            finding: "error 1".to_owned(),
        };
        assert_eq!(rows(&page).unwrap(), [expected]);
    }

    #[test]
    fn a_row_without_a_justification_and_a_page_without_a_table_are_refused() {
        for row in ["| j | a | `f` | c |  |", "| j | a | `f` |"] {
            assert!(rows(&format!("{TABLE}{row}\n")).is_err(), "{row}");
        }
        assert!(rows("| judge | finding |\n").is_err());
    }
}
