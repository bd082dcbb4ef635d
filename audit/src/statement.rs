//! Statements of the authority that are no checkpoints: signed notes (C2SP) by the log key, such as the receipt of an
//! order.
//!
//! The first line is the log's origin, the second the kind, which no size of a tree can be; so no statement is ever
//! taken for a checkpoint, nor one kind for another.

use signed_note::{Note, Verifier, VerifierList};

use crate::{AuditError, LogKey, signature_line};

/// The kind of an order's receipt.
pub const ORDER_RECEIPT: &str = "order receipt v1";

/// The text that is signed: origin, kind, and a body of one line, e.g. of JSON.
///
/// # Errors
/// When the body has a line break or another control character, which a note cannot hold.
pub fn statement_text(origin: &str, kind: &str, body: &str) -> Result<String, AuditError> {
    if body.chars().any(char::is_control) {
        return Err(AuditError::Checkpoint("a statement's body is one line of text".to_owned()));
    }
    Ok(format!("{origin}\n{kind}\n{body}\n"))
}

/// The note: the text and its signature.
pub fn signed_statement(text: &str, key: &LogKey, signature: &[u8; 64]) -> Vec<u8> {
    format!("{text}\n{}", signature_line(key.name(), key.public_key(), signature)).into_bytes()
}

/// Verifies a statement of a kind under the log key and gives its body.
pub fn verify_statement(note: &[u8], kind: &str, key: &LogKey) -> Result<String, AuditError> {
    let wrong = |what: &str| AuditError::Checkpoint(what.to_owned());
    let parsed = Note::from_bytes(note).map_err(|error| wrong(&error.to_string()))?;
    let verifier: Box<dyn Verifier> = Box::new(key.verifier()?);
    parsed.verify(&VerifierList::new(vec![verifier])).map_err(|error| wrong(&error.to_string()))?;
    let text = std::str::from_utf8(parsed.text()).map_err(|_| wrong("the statement is no text"))?;
    let body = text
        .strip_prefix(key.name())
        .and_then(|rest| rest.strip_prefix('\n'))
        .and_then(|rest| rest.strip_prefix(kind))
        .and_then(|rest| rest.strip_prefix('\n'))
        .and_then(|rest| rest.strip_suffix('\n'))
        .filter(|body| !body.contains('\n'))
        .ok_or_else(|| wrong("the statement is of another log or of another kind"))?;
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn signed(text: &str, name: &str) -> (Vec<u8>, LogKey) {
        let private = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = LogKey::new(name, private.public_key().as_ref().try_into().unwrap()).unwrap();
        let signature = private.sign(text.as_bytes()).as_ref().try_into().unwrap();
        let note = signed_statement(text, &key, &signature);
        (note, key)
    }

    #[test]
    fn a_statement_verifies_under_its_key_and_kind_only() {
        let text = statement_text("authority/node-1/2026", ORDER_RECEIPT, "{\"devices\":3}").unwrap();
        let (note, key) = signed(&text, "authority/node-1/2026");
        assert_eq!(verify_statement(&note, ORDER_RECEIPT, &key).unwrap(), "{\"devices\":3}");
        assert!(verify_statement(&note, "another kind v1", &key).is_err());
        let mut changed = note.clone();
        let at = changed.iter().position(|b| *b == b'3').unwrap();
        changed[at] = b'4';
        assert!(verify_statement(&changed, ORDER_RECEIPT, &key).is_err());
        let (_, other) = signed(&text, "another/node-1/2026");
        assert!(verify_statement(&note, ORDER_RECEIPT, &other).is_err());
        // Never taken for a checkpoint.
        assert!(crate::verify_checkpoint(&note, &[key]).is_err());
    }

    #[test]
    fn a_body_of_two_lines_is_refused() {
        assert!(statement_text("a/b/2026", ORDER_RECEIPT, "one\ntwo").is_err());
    }
}
