//! `docs/dependencies.md` against the graph: one line per direct third-party dependency, none missing, none stale,
//! each with the licence that the package states.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::Workspace;

/// The columns of a line, after the crate's name in backticks.
const COLUMNS: [&str; 4] = ["why", "who maintains it", "licence", "how we would leave it"];

/// Direct dependencies without a line, lines without a dependency, incomplete lines and wrong licences.
pub fn findings(page: &str, workspace: &Workspace) -> Vec<String> {
    let mut findings = Vec::new();
    let mut direct: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for edge in workspace.edges() {
        if workspace.is_member(edge.from) && !workspace.is_member(edge.to) {
            let licence = edge.to.license.as_deref().unwrap_or("none");
            direct.entry(&edge.to.name).or_default().insert(licence);
        }
    }
    let mut lines = BTreeSet::new();
    for row in page.lines().filter_map(row) {
        if !lines.insert(row.name) {
            findings.push(format!("`{}` has two lines", row.name));
        }
        for (column, cell) in COLUMNS.iter().zip(row.cells) {
            if cell.is_empty() {
                findings.push(format!("the line of `{}` does not say: {column}", row.name));
            }
        }
        match direct.get(row.name) {
            None => findings.push(format!("`{}` is no direct dependency any more, drop its line", row.name)),
            Some(licences) if !licences.contains(row.cells[2]) => {
                findings.push(format!(
                    "`{}` states the licence {licences:?}, its line {:?}",
                    row.name, row.cells[2]
                ));
            }
            Some(_) => {}
        }
    }
    for name in direct.keys().filter(|name| !lines.contains(*name)) {
        findings.push(format!("`{name}` has no line in docs/dependencies.md"));
    }
    findings
}

struct Row<'a> {
    name: &'a str,
    cells: [&'a str; 4],
}

/// A line of a table whose first cell is a name in backticks; missing cells are empty.
fn row(line: &str) -> Option<Row<'_>> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    Some(Row { name, cells: std::array::from_fn(|_| cells.next().unwrap_or_default()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::sample::graph;

    const PAGE: &str = "\
        | crate | why | maintainer | licence | leaving |\n\
        | --- | --- | --- | --- | --- |\n\
        | `sled` | the view | one person | MIT | rebuild elsewhere |\n";

    fn sled() -> Workspace {
        graph(&["store"], &[("store", "sled"), ("sled", "fxhash")])
    }

    #[test]
    fn a_page_with_one_complete_line_per_direct_dependency_is_accepted() {
        assert_eq!(findings(PAGE, &sled()), Vec::<String>::new());
    }

    #[test]
    fn a_dependency_without_a_line_is_found_in_every_kind() {
        for edge in [("store", "toml"), ("store", "dev:toml"), ("store", "build:toml")] {
            let workspace = graph(&["store"], &[("store", "sled"), edge]);
            assert_eq!(findings(PAGE, &workspace), ["`toml` has no line in docs/dependencies.md"]);
        }
    }

    #[test]
    fn a_line_without_a_dependency_is_found() {
        let found = findings(PAGE, &graph(&["store"], &[]));
        assert_eq!(found, ["`sled` is no direct dependency any more, drop its line"]);
    }

    #[test]
    fn a_line_that_leaves_a_question_open_is_found() {
        assert_eq!(findings(&PAGE.replace("rebuild elsewhere", ""), &sled()).len(), 1);
        assert_eq!(findings(&PAGE.replace("| rebuild elsewhere |", ""), &sled()).len(), 1);
    }

    #[test]
    fn a_line_with_another_licence_than_the_package_states_is_found() {
        assert_eq!(findings(&PAGE.replace("| MIT |", "| ISC |"), &sled()).len(), 1);
    }

    #[test]
    fn a_second_line_for_one_crate_is_found() {
        let twice = format!("{PAGE}{}", PAGE.lines().last().unwrap());
        assert_eq!(findings(&twice, &sled()), ["`sled` has two lines"]);
    }
}
