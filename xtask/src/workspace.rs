//! The dependency graph as `cargo metadata` gives it: packages, what they declare, what was resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::run::{Failure, cargo, output};

/// The workspace and every package that its members reach on one platform.
#[derive(Deserialize)]
pub struct Workspace {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    /// Where cargo puts what it builds, absolute.
    pub target_directory: PathBuf,
    resolve: Resolve,
}

/// One package of the graph.
#[derive(Deserialize)]
pub struct Package {
    id: String,
    /// The name as published.
    pub name: String,
    /// The SPDX expression of its manifest, if it has one.
    pub license: Option<String>,
    /// The registry it comes from; none for a path in this tree.
    pub source: Option<String>,
}

/// For what a dependency is used.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Linked into the crate.
    #[serde(skip)]
    Normal,
    /// Used by its build script.
    Build,
    /// Used by its tests alone.
    Dev,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<Kind>,
}

/// A direct use of one package by another.
pub struct Edge<'a> {
    /// Who uses.
    pub from: &'a Package,
    /// What is used.
    pub to: &'a Package,
    /// For what.
    pub kind: Kind,
}

impl Workspace {
    /// Asks cargo for the graph, on one platform (target triple) or on all.
    pub fn read(root: &Path, platform: Option<&str>) -> Result<Self, Failure> {
        let mut command = cargo(root);
        command.args(["metadata", "--format-version", "1"]);
        if let Some(platform) = platform {
            command.args(["--filter-platform", platform]);
        }
        Self::parse(&output(&mut command)?)
    }

    /// Reads the JSON of `cargo metadata --format-version 1`.
    pub fn parse(json: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(json).map_err(|error| Failure::new(format!("cargo metadata: {error}")))
    }

    /// The crates of this workspace.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.is_member(package))
    }

    /// Whether a package is one of ours.
    pub fn is_member(&self, package: &Package) -> bool {
        self.workspace_members.contains(&package.id)
    }

    /// Every resolved use of one package by another, each kind apart.
    pub fn edges(&self) -> Vec<Edge<'_>> {
        let by_id: BTreeMap<&str, &Package> =
            self.packages.iter().map(|package| (package.id.as_str(), package)).collect();
        let mut edges = Vec::new();
        for node in &self.resolve.nodes {
            for dependency in &node.deps {
                for kind in &dependency.dep_kinds {
                    edges.push(Edge {
                        from: by_id[node.id.as_str()],
                        to: by_id[dependency.pkg.as_str()],
                        kind: kind.kind.unwrap_or(Kind::Normal),
                    });
                }
            }
        }
        edges
    }

    /// The packages that end up in our programs or build them: reached from the members without dev-dependencies.
    pub fn shipped(&self) -> Vec<&Package> {
        let edges = self.edges();
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = self.members().map(|member| member.id.as_str()).collect();
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                let next = edges.iter().filter(|edge| edge.from.id == id && edge.kind != Kind::Dev);
                open.extend(next.map(|edge| edge.to.id.as_str()));
            }
        }
        self.packages.iter().filter(|package| reached.contains(package.id.as_str())).collect()
    }

    /// Every package of the graph, tests' own included.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }
}

/// Graphs written by hand for the tests of the rules.
#[cfg(test)]
pub mod sample {
    use serde_json::{Value, json};

    use super::Workspace;

    /// A graph in a few words: `("hsm", "cryptoki")` a normal edge, `("hsm", "dev:tempfile")` and
    /// `("proto", "build:protox")` the others. Names in `members` are ours; all else is from crates.io under MIT.
    pub fn graph(members: &[&str], edges: &[(&str, &str)]) -> Workspace {
        graph_with_licences(members, edges, &[])
    }

    /// The same, with the licence of some packages given.
    pub fn graph_with_licences(
        members: &[&str],
        edges: &[(&str, &str)],
        licences: &[(&str, Option<&str>)],
    ) -> Workspace {
        let split = |to: &str| -> (Value, String) {
            match to.split_once(':') {
                Some((kind, name)) => (json!(kind), name.to_owned()),
                None => (Value::Null, to.to_owned()),
            }
        };
        let mut names: Vec<String> = members.iter().map(|name| (*name).to_owned()).collect();
        for (from, to) in edges {
            for name in [(*from).to_owned(), split(to).1] {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        let packages: Vec<Value> = names
            .iter()
            .map(|name| {
                let source = if members.contains(&name.as_str()) { None } else { Some(registry) };
                let licence =
                    licences.iter().find(|(of, _)| of == name).map_or(Some("MIT"), |(_, licence)| *licence);
                json!({ "id": name, "name": name, "license": licence, "source": source })
            })
            .collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = edges
                    .iter()
                    .filter(|(from, _)| from == name)
                    .map(|(_, to)| {
                        let (kind, name) = split(to);
                        json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] })
                    })
                    .collect();
                json!({ "id": name, "deps": deps })
            })
            .collect();
        let text = json!({
            "packages": packages, "workspace_members": members, "target_directory": "target",
            "resolve": { "nodes": nodes },
        })
        .to_string();
        Workspace::parse(text.as_bytes()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::sample::graph;

    #[test]
    fn what_only_tests_reach_is_not_shipped() {
        let workspace =
            graph(&["hsm"], &[("hsm", "cryptoki"), ("hsm", "dev:tempfile"), ("tempfile", "fastrand")]);
        let shipped: Vec<&str> = workspace.shipped().iter().map(|package| package.name.as_str()).collect();
        assert_eq!(shipped, ["hsm", "cryptoki"]);
    }

    #[test]
    fn what_a_build_script_reaches_is_shipped() {
        let workspace = graph(&["proto"], &[("proto", "build:protox"), ("protox", "logos")]);
        assert_eq!(workspace.shipped().len(), 3);
    }
}
