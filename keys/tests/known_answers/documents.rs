use serde_json::Value;

use crate::{list, vectors};

fn document(name: &str) -> String {
    let path = format!("{}/../docs/formats/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).expect(&path)
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap()
}

#[test]
fn the_published_derivation_page_shows_the_vectors_and_no_other_rows() {
    let (page, file) = (document("key-derivation.md"), vectors("chancery_derivation.json"));
    let rows: Vec<&str> = page.lines().filter(|line| line.contains("| AES-")).collect();
    let expected: Vec<String> = list(&file["vectors"])
        .iter()
        .map(|v| {
            let [domain, algorithm, usage, key, kcv] =
                ["security_domain", "algorithm", "usage", "key", "kcv"].map(|member| text(v, member));
            let kvn = v["kvn"].as_u64().unwrap();
            format!("| {domain} | 0x{kvn:02x} | {algorithm} | {usage} | `{key}` | `{kcv}` |")
        })
        .collect();
    assert_eq!(rows, expected);
    for member in ["master", "eid"] {
        assert!(page.contains(&format!("`{}`", text(&file, member))), "{member}");
    }
    for member in ["l", "c1", "x"] {
        assert!(page.contains(text(&file["final_block"], member)), "{member}");
    }
    assert!(page.contains(file["vectors"][0]["messages"][0].as_str().unwrap()));
}

#[test]
fn the_published_sealing_page_shows_the_vector() {
    let file = vectors("chancery_sealed_session_keys.json");
    // Long values are broken over lines.
    let page: String = document("sealed-session-keys.md").split_whitespace().collect();
    for member in [
        "recipient_private_key",
        "recipient_public_key",
        "principal",
        "eid",
        "host_challenge",
        "card_challenge",
    ] {
        assert!(page.contains(text(&file, member)), "{member}");
    }
    let example = &file["vectors"][0];
    let members =
        example.as_object().unwrap().keys().filter(|name| !["algorithm", "pyca"].contains(&name.as_str()));
    for member in members {
        assert!(page.contains(text(example, member)), "{member}");
    }
}
