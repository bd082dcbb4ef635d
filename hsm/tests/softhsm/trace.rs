//! What the workers ask of PKCS#11, as pkcs11-spy saw it: device keys are never readable and never read.

use std::collections::{HashMap, HashSet};
use std::fs;

use domain::KeysetAlgorithm;
use hsm::{CardProofJob, KeyRole, SessionKeysOutcome};

use crate::faults::through_spy;
use crate::model::{Manufacturer, device, order, recipient, session};
use crate::put_key::{proof, put_key};
use crate::support::{Fixture, soon};

/// One C_* call of the trace.
struct Call<'t> {
    function: &'t str,
    lines: Vec<&'t str>,
}

impl<'t> Call<'t> {
    fn all(trace: &'t str) -> Vec<Self> {
        let mut calls: Vec<Self> = Vec::new();
        for line in trace.lines() {
            match line.split_once(": C_") {
                Some((number, function)) if number.bytes().all(|c| c.is_ascii_digit()) => {
                    calls.push(Self { function, lines: Vec::new() });
                }
                _ => {
                    if let Some(call) = calls.last_mut() {
                        call.lines.push(line);
                    }
                }
            }
        }
        calls
    }

    fn is_ok(&self) -> bool {
        self.lines.iter().any(|line| line.contains("CKR_OK"))
    }

    /// The value of `[in] name = value` or `[out] name = value`.
    fn value(&self, name: &str) -> Option<&'t str> {
        self.lines
            .iter()
            .find_map(|line| line.split_once("] ")?.1.strip_prefix(name)?.trim().strip_prefix("= "))
    }

    /// The value of an attribute in a template.
    fn attribute(&self, name: &str) -> Option<&'t str> {
        self.lines.iter().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(' ').map(str::trim))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_device_key_is_ever_readable_or_read_and_nothing_made_for_a_job_outlives_it() {
    let mut fixture = Fixture::new("kms");
    let keys = fixture.create_all(&[KeyRole::Master]);
    let trace = through_spy(&mut fixture);
    let token = fixture.start(&keys).await.unwrap();
    let at_start = fs::read_to_string(&trace).unwrap().len();
    let manufacturer = Manufacturer::new();
    let (_, public) = recipient();
    let master = &keys[0].key;
    for algorithm in [KeysetAlgorithm::Aes128, KeysetAlgorithm::Aes256] {
        let (_, cryptogram) = device(&token, master, algorithm, &manufacturer).await;
        token.order_chunk(order(master, algorithm, &manufacturer.spki, 5), soon()).await.unwrap();
        token.session_keys(session(master, algorithm, 1, cryptogram, public), soon()).await.unwrap();
        token.put_key(put_key(master, algorithm, 2), soon()).await.unwrap();
        let proofs = vec![proof(master, algorithm, cryptogram)];
        assert_eq!(token.card_proofs(CardProofJob { proofs }, soon()).await.unwrap(), [true]);
    }
    let before_mismatch = fs::read_to_string(&trace).unwrap().len();
    let outcome =
        token.session_keys(session(master, KeysetAlgorithm::Aes128, 1, [0; 8], public), soon()).await;
    assert!(matches!(outcome.unwrap(), SessionKeysOutcome::CardCryptogramMismatch));
    token.shutdown().await;

    let trace = fs::read_to_string(&trace).unwrap();
    let mut readable = HashMap::new();
    let (mut device_keys, mut blocks, mut values_read) = (0, 0, 0);
    let (mut made, mut destroyed) = (0, 0);
    let mut deks = HashSet::new();
    let mut key_blocks = 0;
    for call in Call::all(&trace[at_start..]) {
        match call.function {
            "DeriveKey" => {
                let is_sensitive = call.attribute("CKA_SENSITIVE").expect("every derivation says") == "True";
                if call.attribute("CKA_KEY_TYPE") == Some("CKK_AES") {
                    assert!(is_sensitive, "{:?}", call.lines);
                    device_keys += 1;
                    if call.attribute("CKA_WRAP") == Some("True") {
                        // A card's DEK, the only device key that wraps: it does nothing else and never leaves.
                        for flag in
                            ["CKA_EXTRACTABLE", "CKA_ENCRYPT", "CKA_DECRYPT", "CKA_SIGN", "CKA_UNWRAP"]
                        {
                            assert_eq!(call.attribute(flag), Some("False"), "{flag}");
                        }
                        deks.insert(call.value("hKey").expect("a handle"));
                    }
                } else {
                    // L and the constant first blocks: no keys, one block each.
                    assert_eq!(call.attribute("CKA_KEY_TYPE"), Some("CKK_GENERIC_SECRET"));
                    blocks += 1;
                }
                readable.insert(call.value("hKey").expect("a handle"), !is_sensitive);
                made += 1;
            }
            "GetAttributeValue" if call.attribute("CKA_VALUE").is_some() => {
                assert!(readable[call.value("hObject").expect("a handle")], "{:?}", call.lines);
                values_read += 1;
            }
            "WrapKey" if call.value("pMechanism->type") == Some("CKM_AES_CBC") => {
                assert!(deks.contains(call.value("hWrappingKey").expect("a handle")), "{:?}", call.lines);
                key_blocks += 1;
            }
            "GenerateKey" | "CreateObject" => made += 1,
            "DestroyObject" => destroyed += 1,
            "DecryptInit" | "UnwrapKey" | "CopyObject" | "SetAttributeValue" | "Logout" | "Finalize" => {
                panic!("C_{} was called", call.function)
            }
            _ => {}
        }
        assert!(call.is_ok(), "C_{}: {:?}", call.function, call.lines);
    }
    // Per algorithm: 6 devices ordered with 3 keys each, a session with K-MAC and K-ENC, 2 devices moved with a DEK and
    // 3 new keys each, a card proof with K-MAC; one K-MAC at the end.
    assert_eq!(device_keys, 2 * (6 * 3 + 2 + 2 * 4 + 1) + 1);
    assert_eq!((deks.len(), key_blocks), (2 * 2, 2 * 2 * 3));
    // 3 usages, of one block for AES-128 and two for AES-256, and two for the keysets moved to; each read once and cached.
    assert_eq!((blocks, values_read), (15, 15));
    assert_eq!(made, destroyed);
    let after_mismatch = Call::all(&trace[before_mismatch..]);
    assert_eq!(
        after_mismatch.iter().filter(|call| call.function == "DeriveKey").count(),
        1,
        "S-ENC was derived"
    );
}
