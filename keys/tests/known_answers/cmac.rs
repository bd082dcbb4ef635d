use keys::kdf::kbkdf_counter;
use keys::{KeyError, Prf, SecretKey, SoftwareKey};

use crate::{bytes, key, list, vectors};

#[test]
fn the_software_prf_agrees_with_every_wycheproof_cmac_vector() {
    let file = vectors("wycheproof/aes_cmac_test.json");
    let mut checked = 0;
    for group in list(&file["testGroups"]) {
        let tag_len = usize::try_from(group["tagSize"].as_u64().unwrap()).unwrap() / 8;
        for test in list(&group["tests"]) {
            checked += 1;
            let valid = test["result"] == "valid";
            match SecretKey::from_slice(&bytes(&test["key"])) {
                Ok(key) => {
                    let Ok(tag) = SoftwareKey::new(&key).cmac(&bytes(&test["msg"]));
                    assert_eq!(tag[..tag_len] == bytes(&test["tag"]), valid, "tcId {}", test["tcId"]);
                }
                Err(error) => {
                    assert_eq!(error, KeyError::KeyLength(bytes(&test["key"]).len()));
                    assert!(!valid, "tcId {}", test["tcId"]);
                }
            }
        }
    }
    assert_eq!(checked, file["numberOfTests"].as_u64().unwrap());
}

#[test]
fn the_counter_mode_kdf_agrees_with_nist_wherever_the_counter_stands() {
    let file = vectors("kbkdf_ctr_cmac_aes_r8.json");
    for vector in list(&file["vectors"]) {
        let (before, after) = match vector["CTRLOCATION"].as_str().unwrap() {
            "BEFORE_FIXED" => (vec![], bytes(&vector["FixedInputData"])),
            "AFTER_FIXED" => (bytes(&vector["FixedInputData"]), vec![]),
            "MIDDLE_FIXED" => (bytes(&vector["DataBeforeCtrData"]), bytes(&vector["DataAfterCtrData"])),
            other => panic!("{other}"),
        };
        let bits: usize = vector["L"].as_str().unwrap().parse().unwrap();
        let mut output = vec![0; bits / 8];
        let Ok(()) = kbkdf_counter(&SoftwareKey::new(&key(&vector["KI"])), &before, &after, &mut output);
        assert_eq!(output, bytes(&vector["KO"]), "{vector}");
    }
}

#[test]
#[should_panic(expected = "an 8-bit counter numbers at most 255 blocks")]
fn the_counter_never_wraps() {
    let prf = SoftwareKey::new(&SecretKey::from_slice(&[0; 16]).unwrap());
    let Ok(()) = kbkdf_counter(&prf, &[], &[], &mut [0; 255 * 16 + 1]);
}
