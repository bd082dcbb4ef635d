//! What an export says about itself: VERIFY.md and the JSON schema of entries.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use domain::{ReasonCode, Role};
use serde_json::{Map, Value, json};

use crate::{EventType, FACT_FIELDS, FactKind, LogKey};

/// The schema's path in an export.
pub const SCHEMA_PATH: &str = "schema/entry.schema.json";

const GUIDE: &str = include_str!("../guide/VERIFY.md");
const PYTHON: &str = include_str!("../guide/verify.py");
const GO: &str = include_str!("../guide/verify.go");

/// VERIFY.md: the commands for this export's origin and key.
pub(crate) fn verify_guide(size: u64, key: &LogKey) -> String {
    // A signature line begins with the four bytes of the key's id; three of them are four whole base64 digits.
    let id = hex::decode(key.id_hex()).unwrap_or_default();
    GUIDE
        .replace("@ORIGIN@", key.name())
        .replace("@SIZE@", &size.to_string())
        .replace("@VKEY@", &key.vkey())
        .replace("@PEM@", &key.to_pem())
        .replace("@SIGNATURE_START@", &BASE64.encode(id.get(..3).unwrap_or_default()))
        .replace("@PYTHON@", PYTHON)
        .replace("@GO@", GO)
}

/// The JSON schema of an entry, from the field table.
pub fn entry_schema() -> String {
    let words = |words: Vec<&str>| json!({ "enum": words });
    let nullable = |pattern: &str| json!({ "type": ["string", "null"], "pattern": pattern });
    let mut facts = Map::new();
    for row in FACT_FIELDS {
        let mut schema = kind_schema(row.kind);
        schema["description"] = Value::from(row.meaning);
        facts.insert(row.name.to_owned(), schema);
    }
    let reasons: Vec<Value> =
        ReasonCode::ALL.iter().map(|reason| Value::from(reason.as_str())).chain([Value::Null]).collect();
    let roles: Vec<Value> =
        Role::ALL.iter().map(|role| Value::from(role.as_str())).chain([Value::Null]).collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Entry of a Chancery log, version 1",
        "description": "One line of JSON without white space, members in this order, hashed as stored.",
        "type": "object",
        "additionalProperties": false,
        "required": ["v", "index", "time", "event", "outcome", "reason", "role", "actor", "object", "facts"],
        "properties": {
            "v": { "const": 1 },
            "index": { "type": "integer", "minimum": 0 },
            "time": kind_schema(FactKind::Time),
            "event": words(EventType::ALL.iter().map(|event| event.as_str()).collect()),
            "outcome": words(vec!["done", "intent", "refused", "failed", "repeated"]),
            "reason": { "enum": reasons },
            "role": { "enum": roles },
            "actor": nullable("^[0-9a-f]{32}$"),
            "object": nullable("^[0-9a-f]{32}$"),
            "facts": { "type": "object", "additionalProperties": false, "properties": facts },
        },
    });
    format!("{schema:#}\n")
}

fn kind_schema(kind: FactKind) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match kind {
        FactKind::Number => json!({ "type": "integer", "minimum": 0 }),
        FactKind::Digest => text("^sha256:[0-9a-f]{64}$"),
        FactKind::Name => text("^[a-z0-9][a-z0-9._-]{0,63}$"),
        FactKind::Pseudonym => text("^p:[0-9a-f]{32}$"),
        FactKind::Time => text("^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z$"),
        FactKind::Bytes => text("^x:([0-9a-f]{2}){1,64}$"),
    }
}
