//! What cards answer, and keys in the formats of other systems.

use domain::{DeviceKeyset, KeyUsage, KeyVersionNumber, KeysetAlgorithm, Protocol, SecurityDomain};
use keys::derivation::{Scheme, SchemeName};
use keys::key_information::{ANSWER_BYTES_MAX, parse_key_information};
use keys::put_key::PutKeyAnswer;
use keys::scp03::InitializeUpdateAnswer;
use keys::tr31::BlockProtection;
use keys::{SecretKey, SoftwareKey, pysim_csv};

pub fn run(bytes: &[u8]) {
    if let Ok(keys) = parse_key_information(bytes) {
        assert!(bytes.len() <= ANSWER_BYTES_MAX);
        // Each key takes a tag, a length and at least its identifier and version.
        assert!(keys.len() * 4 <= bytes.len());
    }
    if let Ok(answer) = PutKeyAnswer::parse(bytes) {
        assert_eq!(&answer.to_bytes()[..], bytes);
    }
    if let Ok(answer) = InitializeUpdateAnswer::parse(bytes) {
        let mode = answer.mode().bytes();
        assert_eq!((answer.card_challenge.len(), answer.card_cryptogram.len()), (mode, mode));
        let counter = answer.sequence_counter.map_or(0, |counter| counter.len());
        assert_eq!(13 + 2 * mode + counter, bytes.len());
        assert!(answer.sequence_counter.is_some() || !answer.i.is_pseudo_random());
    }
}

pub fn key_formats(bytes: &[u8]) {
    let key = SecretKey::from_slice(&[7; 32]).expect("32 bytes are an AES key");
    let protection = BlockProtection::new(&key);
    if let Ok(text) = std::str::from_utf8(bytes) {
        // Bytes chosen without the key have no right MAC.
        let _ = protection.unwrap(text).map(|_| ());
        let _ = SchemeName::from_name(text);
    }
    let cell_key = SoftwareKey::new(&key);
    if let Ok(read) = pysim_csv::decrypt_cell(&cell_key, bytes) {
        let again = pysim_csv::encrypt_cell(&cell_key, &read).expect("a key that was read can be written");
        assert_eq!(again, bytes);
    }
    for name in SchemeName::ALL {
        if let Ok(scheme) = Scheme::parse(name, bytes) {
            assert_eq!(scheme.inputs(), bytes);
            make(&scheme);
        }
    }
}

/// A scheme says for each keyset how its keys are made, or that it makes none.
fn make(scheme: &Scheme) {
    let kvn = KeyVersionNumber::new(Protocol::Scp03, 0x30).expect("a key version of SCP03");
    for algorithm in KeysetAlgorithm::ALL {
        let keyset = DeviceKeyset {
            eid: "89049032123451234512345678901235".parse().expect("an EID"),
            protocol: Protocol::Scp03,
            security_domain: SecurityDomain::IsdR,
            kvn,
            algorithm,
        };
        for usage in KeyUsage::ALL {
            let _ = scheme.recipe(&keyset, usage, 16).map(|_| ());
        }
    }
}
