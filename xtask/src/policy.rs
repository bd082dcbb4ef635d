//! The rules of `deny.toml` applied to the graph: homes of foreign engines, licences, sources, explained advisories.
//!
//! The file is in cargo-deny's format and this module gives it cargo-deny's meaning, so that both tools agree; a key
//! that is not applied here is refused. The advisory database itself is cargo-deny's affair.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use crate::run::Failure;
use crate::spdx;
use crate::workspace::Workspace;

/// `deny.toml`, parsed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    graph: Graph,
    advisories: Advisories,
    licenses: Licences,
    #[expect(dead_code, reason = "its one permitted value is what the source rule does")]
    sources: Sources,
    bans: Bans,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Graph {
    targets: [String; 1],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advisories {
    ignore: Vec<IgnoredAdvisory>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IgnoredAdvisory {
    id: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licences {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<LicenceException>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenceException {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    #[expect(dead_code, reason = "read to refuse every other value")]
    unknown_registry: Deny,
    #[expect(dead_code, reason = "read to refuse every other value")]
    unknown_git: Deny,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deny {
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    #[serde(default)]
    wrappers: Vec<String>,
    reason: String,
}

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Families that an allow list must not name: they would reach over to the code that links them, or restrict its use.
const REFUSED_FAMILIES: &[&str] = &["AGPL-", "GPL-", "LGPL-", "BUSL-", "SSPL-", "OSL-", "EUPL-", "CC-BY-NC"];

impl Policy {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        Self::parse(&text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The one platform the rules are about, as a target triple.
    pub fn platform(&self) -> &str {
        &self.graph.targets[0]
    }

    /// Direct uses of an engine by a crate that is not one of its homes, in any kind of dependency.
    pub fn homes(&self, workspace: &Workspace) -> Vec<String> {
        let mut findings = BTreeSet::new();
        for edge in workspace.edges() {
            let ban = self.bans.deny.iter().find(|ban| ban.name == edge.to.name);
            if let Some(ban) = ban.filter(|ban| !ban.wrappers.contains(&edge.from.name)) {
                let Ban { name, reason, .. } = ban;
                findings.insert(format!("`{}` must not depend on `{name}`: {reason}", edge.from.name));
            }
        }
        findings.into_iter().collect()
    }

    /// Shipped packages whose licence is not accepted, and accepted licences that nothing needs or nobody should.
    pub fn licences(&self, workspace: &Workspace) -> Vec<String> {
        let mut findings = Vec::new();
        let exceptions = self.licenses.exceptions.iter().flat_map(|exception| &exception.allow);
        for licence in self.licenses.allow.iter().chain(exceptions) {
            if REFUSED_FAMILIES.iter().any(|family| licence.starts_with(family)) {
                findings.push(format!("deny.toml accepts `{licence}`, which is never acceptable here"));
            }
        }
        let used = std::cell::RefCell::new(BTreeSet::new());
        for package in workspace.shipped() {
            let Some(expression) = &package.license else {
                findings.push(format!("`{}` states no licence", package.name));
                continue;
            };
            let accepted = |licence: &str| {
                used.borrow_mut().insert(licence.to_owned());
                let own = self.licenses.exceptions.iter().filter(|exception| exception.name == package.name);
                self.licenses
                    .allow
                    .iter()
                    .chain(own.flat_map(|own| &own.allow))
                    .any(|allowed| allowed == licence)
            };
            match spdx::satisfied(expression, &accepted) {
                Ok(true) => {}
                Ok(false) => {
                    findings.push(format!("`{}` is under `{expression}`, not accepted", package.name));
                }
                Err(reason) => {
                    findings.push(format!("the licence of `{}` is not SPDX: {reason}", package.name))
                }
            }
        }
        for licence in &self.licenses.allow {
            if !used.borrow().contains(licence) {
                findings.push(format!("deny.toml accepts `{licence}`, which nothing needs"));
            }
        }
        findings
    }

    /// Packages that come neither from this tree nor from crates.io.
    pub fn sources(&self, workspace: &Workspace) -> Vec<String> {
        let mut findings = Vec::new();
        for package in workspace.packages() {
            match &package.source {
                None if !workspace.is_member(package) => {
                    findings.push(format!("`{}` comes from a path outside the workspace", package.name));
                }
                Some(source) if source != CRATES_IO => {
                    findings.push(format!("`{}` comes from {source}, not from crates.io", package.name));
                }
                None | Some(_) => {}
            }
        }
        findings
    }

    /// Ignored advisories without a crate and a reason, or whose crate has left the graph.
    pub fn advisories(&self, workspace: &Workspace) -> Vec<String> {
        let mut findings = Vec::new();
        for IgnoredAdvisory { id, reason } in &self.advisories.ignore {
            match reason.split_once(": ") {
                None => findings.push(format!("{id}: its reason must read `<crate>: <why it is bearable>`")),
                Some((name, _)) if !workspace.packages().iter().any(|package| package.name == name) => {
                    findings.push(format!("{id}: `{name}` has left the graph, drop the ignore"));
                }
                Some(_) => {}
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::sample::{graph, graph_with_licences};

    const POLICY: &str = r#"
        [graph]
        targets = ["x86_64-unknown-linux-gnu"]
        [advisories]
        ignore = [{ id = "RUSTSEC-2025-0057", reason = "fxhash: only through sled" }]
        [licenses]
        allow = ["MIT", "ISC"]
        exceptions = [{ crate = "notes", allow = ["MPL-2.0"] }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
        [bans]
        deny = [
            { crate = "sled", wrappers = ["store"], reason = "one owner" },
            { crate = "openssl", reason = "one library" },
        ]
    "#;

    fn policy() -> Policy {
        Policy::parse(POLICY).unwrap()
    }

    #[test]
    fn an_engine_outside_its_home_is_found_in_every_kind_of_dependency() {
        assert_eq!(policy().homes(&graph(&["store"], &[("store", "sled")])), Vec::<String>::new());
        for edge in [("kms", "sled"), ("kms", "dev:sled"), ("kms", "build:sled")] {
            let findings = policy().homes(&graph(&["kms"], &[edge]));
            assert_eq!(findings, ["`kms` must not depend on `sled`: one owner"], "{edge:?}");
        }
    }

    #[test]
    fn an_engine_that_comes_in_through_another_package_is_found() {
        let findings = policy().homes(&graph(&["kms"], &[("kms", "cache"), ("cache", "sled")]));
        assert_eq!(findings, ["`cache` must not depend on `sled`: one owner"]);
    }

    #[test]
    fn a_package_without_any_home_is_found_wherever_it_comes_from() {
        assert_eq!(policy().homes(&graph(&["cli"], &[("cli", "web"), ("web", "openssl")])).len(), 1);
    }

    #[test]
    fn a_copyleft_or_missing_licence_is_found_in_what_is_shipped() {
        for licence in [
            Some("GPL-3.0-only"),
            Some("AGPL-3.0"),
            Some("BUSL-1.1"),
            Some("SSPL-1.0"),
            Some("MPL-2.0"),
            None,
        ] {
            let workspace = graph_with_licences(
                &["cli"],
                &[("cli", "a"), ("cli", "b")],
                &[("a", licence), ("b", Some("ISC"))],
            );
            assert_eq!(policy().licences(&workspace).len(), 1, "{licence:?}");
        }
    }

    #[test]
    fn a_licence_is_excepted_for_one_crate_only() {
        let notes = graph_with_licences(
            &["cli"],
            &[("cli", "notes"), ("cli", "b")],
            &[("notes", Some("MPL-2.0")), ("b", Some("ISC"))],
        );
        assert_eq!(policy().licences(&notes), Vec::<String>::new());
    }

    #[test]
    fn an_expression_that_is_not_spdx_is_found() {
        let workspace = graph_with_licences(
            &["cli"],
            &[("cli", "a"), ("cli", "b")],
            &[("a", Some("MIT,ISC or so")), ("b", Some("ISC"))],
        );
        assert!(policy().licences(&workspace)[0].contains("is not SPDX"));
    }

    #[test]
    fn an_accepted_licence_that_nothing_needs_is_found() {
        let findings = policy().licences(&graph(&["cli"], &[]));
        assert_eq!(findings, ["deny.toml accepts `ISC`, which nothing needs"]);
    }

    #[test]
    fn accepting_a_refused_family_is_found_in_the_file_itself() {
        let text = POLICY.replace(r#"allow = ["MPL-2.0"]"#, r#"allow = ["SSPL-1.0"]"#);
        let findings = Policy::parse(&text).unwrap().licences(&graph_with_licences(
            &["cli"],
            &[("cli", "b")],
            &[("b", Some("ISC"))],
        ));
        assert_eq!(findings, ["deny.toml accepts `SSPL-1.0`, which is never acceptable here"]);
    }

    #[test]
    fn a_package_from_elsewhere_is_found() {
        let json = |source: &str| {
            format!(
                r#"{{"packages": [{{"id": "a", "name": "a", "license": "MIT", "source": {source}}}],
                    "workspace_members": [], "target_directory": "target", "resolve": {{"nodes": []}}}}"#
            )
        };
        for source in ["null", r#""git+https://example.org/a""#, r#""registry+https://example.org/index""#] {
            let workspace = Workspace::parse(json(source).as_bytes()).unwrap();
            assert_eq!(policy().sources(&workspace).len(), 1, "{source}");
        }
        let workspace = Workspace::parse(json(&format!("{CRATES_IO:?}")).as_bytes()).unwrap();
        assert_eq!(policy().sources(&workspace), Vec::<String>::new());
    }

    #[test]
    fn an_ignored_advisory_whose_crate_is_gone_or_whose_reason_is_missing_is_found() {
        let with = graph(&["store"], &[("store", "sled"), ("sled", "fxhash")]);
        assert_eq!(policy().advisories(&with), Vec::<String>::new());
        assert!(policy().advisories(&graph(&["store"], &[]))[0].contains("has left the graph"));
        let unexplained = Policy::parse(&POLICY.replace("fxhash: only through sled", "later")).unwrap();
        assert!(unexplained.advisories(&with)[0].contains("must read"));
    }

    #[test]
    fn a_key_that_nobody_applies_is_refused() {
        for (place, key) in [
            ("[graph]", "all-features = true"),
            ("[sources]", "allow-git = []"),
            ("[bans]", "highlight = 'all'"),
        ] {
            assert!(Policy::parse(&POLICY.replace(place, &format!("{place}\n{key}"))).is_err(), "{key}");
        }
        assert!(
            Policy::parse(&POLICY.replace(r#"unknown-git = "deny""#, r#"unknown-git = "warn""#)).is_err()
        );
    }

    #[test]
    fn the_policy_of_this_workspace_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
        assert!(Policy::read(&path).is_ok());
    }
}
