//! Rules on the texts of the tree: long files are mentioned; machine paths and pointers to pages that are not here
//! are refused.

use std::path::{Path, PathBuf};

use crate::run::Failure;

/// Past this a file probably hides a noun of its own. A notice, never a failure.
const COMFORTABLE_LINES: usize = 800;

/// Paths of somebody's machine: they mean nothing to the next reader. Written in halves, so that this file passes.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    SCRATCH,
    concat!("sha", "red/"),
];

/// In code a scratch path is one machine's habit (tests have `tempfile`); a page may show it in a reader's commands.
const SCRATCH: &str = concat!("/tm", "p/");

/// Not ours to edit or not text of ours: published vectors stay as they were published.
const NOT_READ: &[&str] = &["target", ".git", "tests/vectors", "Cargo.lock"];

/// A text file of the tree.
pub struct Text {
    path: PathBuf,
    content: String,
}

/// Every text of the tree, paths relative to the root; files that are not UTF-8 are not texts.
pub fn read(root: &Path) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", relative.display()));
        for entry in std::fs::read_dir(root.join(&relative)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = relative.join(entry.file_name());
            let kind = entry.file_type().map_err(failed)?;
            if NOT_READ.iter().any(|skipped| path == Path::new(skipped)) {
            } else if kind.is_dir() {
                open.push(path);
            } else if kind.is_file()
                && let Ok(content) = String::from_utf8(std::fs::read(entry.path()).map_err(failed)?)
            {
                texts.push(Text { path, content });
            }
        }
    }
    texts.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(texts)
}

/// Rust files longer than is comfortable.
pub fn long_files(texts: &[Text]) -> Vec<String> {
    let rust = texts.iter().filter(|text| text.path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|text| (text, text.content.lines().count()))
        .filter(|(_, lines)| *lines > COMFORTABLE_LINES)
        .map(|(text, lines)| format!("{}: {lines} lines, is there a noun hiding in it?", text.path.display()))
        .collect()
}

/// Lines that name a path of a machine.
pub fn machine_paths(texts: &[Text]) -> Vec<String> {
    let mut findings = Vec::new();
    for text in texts {
        for (number, line) in (1..).zip(text.content.lines()) {
            let refused = |path: &&&str| !(**path == SCRATCH && is_page(&text.path)) && names(line, path);
            if let Some(path) = MACHINE_PATHS.iter().find(refused) {
                findings.push(format!("{}:{number}: names `{path}`", text.path.display()));
            }
        }
    }
    findings
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// Whether the path stands in the line on its own: `target/tmp/` and `chancery.shared/` are other paths.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || "_-.}".contains(before))
            || line[..at].ends_with("..")
    })
}

/// Lines that send the reader to a page of this project that does not exist: `docs/….md`, or a page whose name is in
/// capitals, as README.md, anywhere in the tree.
pub fn lost_pages(texts: &[Text]) -> Vec<String> {
    let is_here = |page: &str| texts.iter().any(|text| text.path.ends_with(page));
    let mut findings = Vec::new();
    for text in texts {
        for (number, line) in (1..).zip(text.content.lines()) {
            for page in pages(line).filter(|page| !is_here(page)) {
                findings.push(format!("{}:{number}: there is no {page}", text.path.display()));
            }
        }
    }
    findings
}

fn pages(line: &str) -> impl Iterator<Item = &str> {
    let part_of_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    line.split(move |c: char| !part_of_path(c)).map(|word| word.trim_end_matches('.')).filter(|word| {
        let Some(stem) = word.strip_suffix(".md") else { return false };
        stem.starts_with("docs/") || (!stem.is_empty() && stem.chars().all(|c| c.is_ascii_uppercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str, content: &str) -> Vec<Text> {
        vec![Text { path: path.into(), content: content.into() }]
    }

    #[test]
    fn each_machine_path_is_found_with_its_line() {
        for path in MACHINE_PATHS {
            let found = machine_paths(&text("a.rs", &format!("fine\nlet x = \"{path}x\";")));
            assert_eq!(found, [format!("a.rs:2: names `{path}`")]);
        }
    }

    #[test]
    fn a_relative_way_out_of_the_tree_is_found() {
        assert_eq!(machine_paths(&text("a.md", concat!("see ../sha", "red/X"))).len(), 1);
    }

    #[test]
    fn a_longer_path_that_ends_alike_is_another_path() {
        let line = concat!("target/tm", "p/x of the net", "wo", "rk/x, un", "sha", "red/x, a-ro", "ot/x");
        assert_eq!(machine_paths(&text("a.md", line)), Vec::<String>::new());
    }

    #[test]
    fn a_page_may_show_a_scratch_path_and_no_other() {
        assert_eq!(machine_paths(&text("a.md", &format!("cd {SCRATCH}x"))), Vec::<String>::new());
        assert_eq!(machine_paths(&text("a.rs", &format!("cd {SCRATCH}x"))).len(), 1);
    }

    #[test]
    fn a_pointer_to_a_page_that_is_not_here_is_found() {
        let content =
            concat!("see docs/nowhere", ".md and NOWHERE", ".md, not (docs/here", ".md) and HERE", ".md.");
        let mut texts = text("a.rs", content);
        texts.extend(
            [concat!("docs/here", ".md"), concat!("guide/HERE", ".md")].map(|path| text(path, "").remove(0)),
        );
        let expected = ["docs/nowhere", "NOWHERE"].map(|page| format!("a.rs:1: there is no {page}.md"));
        assert_eq!(lost_pages(&texts), expected);
    }

    #[test]
    fn a_long_rust_file_is_mentioned_and_a_long_page_is_not() {
        let long = "x\n".repeat(COMFORTABLE_LINES + 1);
        assert_eq!(long_files(&text("a.rs", &long)).len(), 1);
        assert_eq!(long_files(&text("a.md", &long)).len(), 0);
        assert_eq!(long_files(&text("a.rs", &"x\n".repeat(COMFORTABLE_LINES))).len(), 0);
    }
}
