//! `cargo xtask check`: every rule that needs no token and no test run. All of them run before it fails.

use std::path::Path;

use crate::policy::Policy;
use crate::run::{Failure, cargo, step};
use crate::workspace::Workspace;
use crate::{dependency_page, layers, text};

/// Runs the rules, then rustfmt, then clippy; fails at the end with the names of those that found something.
pub fn run(root: &Path) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for (name, findings) in rules(root)? {
        println!("== {name}: {}", if findings.is_empty() { "ok" } else { "FAILED" });
        findings.iter().for_each(|finding| println!("   {finding}"));
        if !findings.is_empty() {
            failed.push(name);
        }
    }
    for notice in text::long_files(&text::read(root)?) {
        println!("-- notice: {notice}");
    }
    if step("rustfmt", cargo(root).args(["fmt", "--all", "--check"])).is_err() {
        failed.push("rustfmt");
    }
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    if step("clippy", cargo(root).args(clippy)).is_err() {
        failed.push("clippy");
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("found something: {}", failed.join(", "))))
    }
}

fn rules(root: &Path) -> Result<Vec<(&'static str, Vec<String>)>, Failure> {
    let policy = Policy::read(&root.join("deny.toml"))?;
    let workspace = Workspace::read(root, Some(policy.platform()))?;
    let page = root.join("docs/dependencies.md");
    let page = std::fs::read_to_string(&page)
        .map_err(|error| Failure::new(format!("{}: {error}", page.display())))?;
    let texts = text::read(root)?;
    Ok(vec![
        ("layers", layers::findings(&workspace)),
        ("one home per engine", policy.homes(&workspace)),
        ("licences", policy.licences(&workspace)),
        ("sources", policy.sources(&workspace)),
        ("ignored advisories", policy.advisories(&workspace)),
        ("dependency page", dependency_page::findings(&page, &workspace)),
        ("machine paths", text::machine_paths(&texts)),
        ("lost pages", text::lost_pages(&texts)),
    ])
}
