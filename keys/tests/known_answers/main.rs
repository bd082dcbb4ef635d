//! The crate against published vectors and against answers computed by other software; origins in
//! `tests/vectors/SOURCES.md`.

#![expect(clippy::unwrap_used, reason = "a vector file that does not read fails its test")]

mod bsp;
mod cmac;
mod derivation;
mod documents;
mod put_key;
mod rsp;
mod scp03;
mod scp80;
mod sealing;

use keys::SecretKey;
use serde_json::Value;

/// A file of `tests/vectors`.
fn vectors(name: &str) -> Value {
    let path = format!("{}/../tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).expect(&path)).expect(name)
}

/// A list of a vector file; an empty one would test nothing.
fn list(value: &Value) -> &[Value] {
    let list = value.as_array().unwrap();
    assert!(!list.is_empty());
    list
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

fn key(value: &Value) -> SecretKey {
    SecretKey::from_slice(&bytes(value)).unwrap()
}

fn kvn(value: &Value) -> domain::KeyVersionNumber {
    let number = match value {
        Value::String(text) => u32::from_str_radix(text, 16).unwrap(),
        number => u32::try_from(number.as_u64().unwrap()).unwrap(),
    };
    domain::KeyVersionNumber::scp03(number).unwrap()
}
