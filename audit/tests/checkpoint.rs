//! Checkpoints: notes as other implementations read and write them, and the torture of TRUST A6.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise, and says so")]

mod support;

use audit::{AuditError, CheckpointBody, LogKey, verify_checkpoint};
use signed_note::{Note, StandardVerifier, VerifierList};
use support::{LogSigner, ORIGIN};

fn body() -> CheckpointBody {
    CheckpointBody { origin: ORIGIN.to_owned(), size: 70_000, root: [9; 32] }
}

#[test]
fn a_verifier_key_of_another_implementation_reads_and_prints_back() {
    // From the Go module golang.org/x/mod/sumdb/note.
    let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let key = LogKey::from_vkey(vkey).unwrap();
    assert_eq!((key.name(), key.id_hex().as_str(), key.vkey().as_str()), ("PeterNeumann", "c74f20a3", vkey));
    let text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    let note = format!(
        "{text}\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    );
    // A good signature over something that is no checkpoint.
    assert!(matches!(verify_checkpoint(note.as_bytes(), &[key]), Err(AuditError::Checkpoint(_))));
    for wrong in
        ["", "a", "a+c74f20a3+AR", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"]
    {
        assert!(matches!(LogKey::from_vkey(wrong), Err(AuditError::VerifierKey(_))), "{wrong}");
    }
    assert!(LogKey::new("two words", [1; 32]).is_err());
}

#[test]
fn a_signed_checkpoint_verifies_here_and_by_the_library() {
    let signer = LogSigner::new(1);
    let note = signer.checkpoint(&body());
    let verified = verify_checkpoint(&note, &[LogSigner::new(2).key, signer.key.clone()]).unwrap();
    assert_eq!((verified.body, verified.signers), (body(), vec![signer.key.clone()]));
    let verifier = StandardVerifier::new(&signer.key.vkey()).unwrap();
    let parsed = Note::from_bytes(&note).unwrap();
    assert!(parsed.verify(&VerifierList::new(vec![Box::new(verifier)])).is_ok());
    assert!(!signer.key.verifies(b"other text", &[0; 64]));
}

#[test]
fn every_flipped_bit_of_a_checkpoint_is_noticed() {
    let signer = LogSigner::new(1);
    let note = signer.checkpoint(&body());
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut changed = note.clone();
            changed[at] ^= 1 << bit;
            assert!(
                verify_checkpoint(&changed, std::slice::from_ref(&signer.key)).is_err(),
                "byte {at} bit {bit}"
            );
        }
    }
}

#[test]
fn notes_are_judged_as_the_specification_says() {
    let (signer, other) = (LogSigner::new(1), LogSigner::new(2));
    let keys = [signer.key.clone()];
    let text = body().unsigned_text();
    let (known, unknown) = (signer.line(&text), other.line(&text));
    let with = |lines: &str| format!("{text}\n{lines}").into_bytes();
    let accepted = |note: &[u8]| verify_checkpoint(note, &keys).is_ok();

    assert!(accepted(&with(&known)));
    assert!(accepted(&with(&format!("{unknown}{known}"))), "unknown keys are ignored");
    assert!(accepted(&with(&known.repeat(2))), "a repeated line adds nothing");
    assert!(accepted(&with(&format!("{}{known}", unknown.repeat(15)))), "at least 16 signatures are read");
    assert!(!accepted(&with(&format!("{}{known}", unknown.repeat(100)))), "more than 100 are not");
    assert!(!accepted(&with(&unknown)), "nobody known signed");
    assert!(!accepted(&with("")), "nobody signed");
    assert!(!accepted(text.as_bytes()), "no blank line");
    assert!(!accepted(&with(&known.replace('\u{2014}', "\u{2013}"))), "an en dash");
    assert!(!accepted(&with(known.trim_end())), "no last newline");
    assert!(!accepted(&with(&known.replace('\n', "\r\n"))), "carriage returns");
    assert!(!accepted(&with(&format!("{known}\n"))), "an empty line at the end");
    assert!(!accepted(&with(&known).repeat(2)), "two notes in one");
    assert!(!accepted(&format!("{}\n{known}", "a".repeat(1 << 20)).into_bytes()), "a megabyte of text");

    // A wrong signature of a known key condemns the note whatever else is there.
    let wrong = signer.line(&text.replace("70000", "70001"));
    assert!(!accepted(&with(&format!("{wrong}{known}"))));
    let both = [signer.key.clone(), other.key.clone()];
    let wrong = other.line(&text.replace("70000", "70001"));
    assert!(verify_checkpoint(&with(&format!("{known}{wrong}")), &both).is_err());
    assert_eq!(verify_checkpoint(&with(&format!("{known}{unknown}")), &both).unwrap().signers, both);
}

#[test]
fn texts_that_are_almost_checkpoints_are_refused() {
    let signer = LogSigner::new(1);
    let good = body().unsigned_text();
    let texts = [
        good.replace("70000", "070000"),
        good.replace("70000", "+70000"),
        good.replace("70000", "-1"),
        good.replace("70000", "18446744073709551616"),
        good.replace('=', ""),
        good.replace(ORIGIN, ""),
        good.replace(ORIGIN, "two words"),
        format!("{good}an extension\n"),
        good.trim_end().to_owned(),
    ];
    for text in texts {
        assert_ne!(text, good);
        assert!(CheckpointBody::parse(text.as_bytes()).is_err(), "{text:?}");
        let note = format!("{text}\n{}", signer.line(&text));
        assert!(verify_checkpoint(note.as_bytes(), std::slice::from_ref(&signer.key)).is_err(), "{text:?}");
    }
}

#[test]
fn a_key_counts_only_for_the_log_it_is_named_after() {
    let signer = LogSigner::new(1);
    let foreign = CheckpointBody { origin: "elsewhere.example/log".to_owned(), ..body() };
    assert!(verify_checkpoint(&signer.checkpoint(&foreign), std::slice::from_ref(&signer.key)).is_err());
}
