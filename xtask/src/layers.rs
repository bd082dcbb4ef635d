//! The layer rule: which of our crates may see which. Dependencies point one way, down.

use crate::workspace::{Kind, Workspace};

/// A crate, its layer (0 is the lowest) and, where it sees less than everything below it, what it sees and why.
struct Crate {
    name: &'static str,
    layer: u8,
    only: Option<(&'static [&'static str], &'static str)>,
}

const fn whole(name: &'static str, layer: u8) -> Crate {
    Crate { name, layer, only: None }
}

const fn part(name: &'static str, layer: u8, sees: &'static [&'static str], why: &'static str) -> Crate {
    Crate { name, layer, only: Some((sees, why)) }
}

/// The map of ARCHITECTURE.md as data. A crate that is not in it is refused: a new one needs a decision note.
const CRATES: &[Crate] = &[
    whole("domain", 0),
    whole("ecc", 1),
    whole("proto", 2),
    whole("pki", 2),
    whole("keys", 2),
    whole("audit", 2),
    part(
        "hsm",
        3,
        &["domain", "ecc", "keys"],
        "an engine knows key formats for its whole jobs, no contract and no certificates",
    ),
    part("store", 3, &["domain", "audit"], "an engine knows leaves, and records only as bytes"),
    whole("kms", 4),
    whole("ca", 4),
    whole("server", 5),
    whole("cli", 5),
    whole("fuzz", 6),
    part("xtask", 6, &[], "the developer tool judges the product from outside"),
];

/// The tests crate: its programs hold the simulated cards, which must be an implementation of their own.
const TESTS: &str = "tests";
const UNSEEN_BY_SIMULATED_CARDS: &[&str] = &["keys", "hsm", "kms"];

/// One finding per edge against the layers and per crate that the table does not know or that is gone.
pub fn findings(workspace: &Workspace) -> Vec<String> {
    let mut findings = Vec::new();
    for member in workspace.members() {
        if member.name != TESTS && find(&member.name).is_none() {
            findings.push(format!(
                "crate `{}` has no layer: decide its place (docs/decisions/) and add it to xtask/src/layers.rs",
                member.name
            ));
        }
    }
    for row in CRATES {
        if !workspace.members().any(|member| member.name == row.name) {
            findings.push(format!("crate `{}` has a layer in xtask/src/layers.rs but is gone", row.name));
        }
    }
    for edge in workspace.edges() {
        if !workspace.is_member(edge.from) || !workspace.is_member(edge.to) {
            continue;
        }
        if let Some(why) = refused(&edge.from.name, &edge.to.name, edge.kind) {
            findings.push(format!("`{}` must not see `{}`: {why}", edge.from.name, edge.to.name));
        }
    }
    findings
}

fn find(name: &str) -> Option<&'static Crate> {
    CRATES.iter().find(|row| row.name == name)
}

/// Why an edge between two of our crates is refused; none when it is allowed or a name is unknown (found above).
fn refused(from: &str, to: &str, kind: Kind) -> Option<&'static str> {
    if from == TESTS {
        let hidden = kind != Kind::Dev && UNSEEN_BY_SIMULATED_CARDS.contains(&to);
        return hidden.then_some(
            "the simulated cards share no key code with the product (a test may, as a dev-dependency)",
        );
    }
    if to == TESTS {
        return Some("the product does not know its tests");
    }
    let (from, to) = (find(from)?, find(to)?);
    if let Some((sees, why)) = from.only {
        return (!sees.contains(&to.name)).then_some(why);
    }
    if from.layer == to.layer {
        return Some("siblings of a layer do not see each other");
    }
    (from.layer < to.layer).then_some("dependencies point down the layers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::sample::graph;

    const ALL: &[&str] = &[
        "domain", "ecc", "proto", "pki", "keys", "audit", "hsm", "store", "kms", "ca", "server", "cli",
        "fuzz", "xtask", "tests",
    ];

    #[test]
    fn the_edges_of_the_design_are_allowed() {
        let edges = [
            ("kms", "hsm"),
            ("kms", "proto"),
            ("ca", "pki"),
            ("hsm", "keys"),
            ("store", "audit"),
            ("server", "kms"),
            ("server", "domain"),
            ("cli", "audit"),
            ("fuzz", "cli"),
            ("tests", "dev:kms"),
            ("tests", "proto"),
        ];
        assert_eq!(findings(&graph(ALL, &edges)), Vec::<String>::new());
    }

    #[test]
    fn an_edge_up_the_layers_is_found() {
        for edge in [("domain", "keys"), ("ecc", "pki"), ("hsm", "kms"), ("kms", "server"), ("pki", "store")]
        {
            assert_eq!(findings(&graph(ALL, &[edge])).len(), 1, "{edge:?}");
        }
    }

    #[test]
    fn an_edge_between_siblings_is_found() {
        for edge in [("kms", "ca"), ("store", "hsm"), ("pki", "keys"), ("cli", "server"), ("audit", "proto")]
        {
            assert_eq!(findings(&graph(ALL, &[edge])).len(), 1, "{edge:?}");
        }
    }

    #[test]
    fn an_engine_sees_only_its_own_pure_crate() {
        for edge in [("hsm", "audit"), ("hsm", "proto"), ("store", "proto"), ("store", "pki")] {
            assert_eq!(findings(&graph(ALL, &[edge])).len(), 1, "{edge:?}");
        }
    }

    #[test]
    fn a_dev_dependency_on_a_sibling_is_found_outside_the_tests_crate() {
        assert_eq!(findings(&graph(ALL, &[("ca", "dev:kms")])).len(), 1);
        assert_eq!(findings(&graph(ALL, &[("ca", "build:kms")])).len(), 1);
    }

    #[test]
    fn simulated_cards_that_borrow_key_code_are_found() {
        for edge in [("tests", "keys"), ("tests", "hsm"), ("tests", "build:kms")] {
            assert_eq!(findings(&graph(ALL, &[edge])).len(), 1, "{edge:?}");
        }
    }

    #[test]
    fn the_product_and_the_tool_stay_apart() {
        for edge in [("server", "dev:tests"), ("server", "xtask"), ("cli", "fuzz"), ("xtask", "domain")] {
            assert_eq!(findings(&graph(ALL, &[edge])).len(), 1, "{edge:?}");
        }
    }

    #[test]
    fn a_crate_without_a_layer_and_a_layer_without_a_crate_are_found() {
        let mut members = ALL.to_vec();
        members.push("util");
        assert!(findings(&graph(&members, &[]))[0].contains("`util` has no layer"));
        assert!(findings(&graph(&ALL[1..], &[]))[0].contains("`domain` has a layer"));
    }
}
