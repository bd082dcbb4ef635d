//! After a run: no key, no PIN anywhere outside the tokens and their PIN files, and no EID in any entry.

use std::fs;
use std::path::{Path, PathBuf};

use proto::v1::session_key_service_client::SessionKeyServiceClient;
use tests::card::CryptogramBehaviour;

use crate::devices::eid;
use crate::support::{Deployment, GRANTED, PURPOSE, files_below};

/// Bytes to be searched, and where they are from.
struct Found {
    place: PathBuf,
    bytes: Vec<u8>,
}

/// The forms in which a secret might have been written.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let lower = hex::encode(secret);
    let listed = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    vec![secret.to_vec(), lower.to_uppercase().into_bytes(), lower.into_bytes(), listed.into_bytes()]
}

/// Where any of the secrets occurs.
fn occurrences<'f>(found: &'f [Found], secrets: &[Vec<u8>]) -> Vec<&'f Path> {
    let needles: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    let holds = |file: &&Found| {
        // A first look at two bytes spares most comparisons.
        let mut starts = vec![Vec::new(); 1 << 16];
        for needle in &needles {
            starts[usize::from(u16::from_be_bytes([needle[0], needle[1]]))].push(needle);
        }
        file.bytes.windows(2).enumerate().any(|(at, pair)| {
            let candidates = &starts[usize::from(u16::from_be_bytes([pair[0], pair[1]]))];
            candidates.iter().any(|needle| file.bytes[at..].starts_with(needle))
        })
    };
    found.iter().filter(holds).map(|file| file.place.as_path()).collect()
}

fn read(files: Vec<PathBuf>) -> Vec<Found> {
    files.into_iter().map(|place| Found { bytes: fs::read(&place).unwrap(), place }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_or_pin_is_stored_logged_or_exported_and_no_entry_holds_an_eid() {
    let mut deployment = Deployment::found();
    let eids: Vec<String> = (0..4).map(|number| eid(GRANTED, 1_234_567 + number)).collect();
    let devices = deployment.order("first", &eids);
    let mut secrets: Vec<Vec<u8>> =
        devices.iter().flat_map(|device| device.static_keys().map(<[u8]>::to_vec)).collect();
    let provisioner = deployment.caller("provisioner").await;
    let mut client = SessionKeyServiceClient::new(provisioner.channel.clone());
    for device in &devices {
        for (purpose, behaviour) in [
            (PURPOSE, CryptogramBehaviour::Honest),
            (PURPOSE, CryptogramBehaviour::Wrong),
            ("curiosity", CryptogramBehaviour::Honest),
        ] {
            let key = format!("{}-{purpose}-{behaviour:?}", &device.eid[20..]);
            let request = device.request(&key, purpose, behaviour);
            if let Ok(answer) = client.fetch_session_keys(request.clone()).await {
                let opened = provisioner.unseal(&request, answer.get_ref());
                // Three keys in their encoding: every stretch as long as a key, whatever stands around them.
                secrets.extend(opened.windows(16).map(<[u8]>::to_vec));
            }
        }
    }
    let is_distinct = |secret: &Vec<u8>| secret.iter().collect::<std::collections::BTreeSet<_>>().len() > 6;
    secrets.retain(is_distinct);
    assert!(secrets.len() > devices.len() * (3 + 3 * 2), "the keys are known");
    let pins = files_below(&deployment.path("data/pins"));
    assert!(pins.len() >= 6, "two PINs for each token");
    secrets.extend(pins.iter().map(|pin| fs::read_to_string(pin).unwrap().trim().as_bytes().to_vec()));
    let metrics = deployment.metrics();
    deployment.export("exported");
    deployment.stop();

    // The tokens hold keys, encrypted; the PIN files are the PINs' place.
    let is_searched = |file: &PathBuf| !pins.contains(file);
    let mut found = read(files_below(&deployment.path("data")).into_iter().filter(is_searched).collect());
    assert!(found.iter().any(|file| file.place.starts_with(deployment.path("data/orders"))), "the orders");
    found.extend(read(files_below(&deployment.path("exported"))));
    found.extend(read(files_below(&deployment.path("handover"))));
    found.extend(read(vec![deployment.path("serve.log")]));
    found.push(Found { place: "metrics".into(), bytes: metrics.into_bytes() });
    assert_eq!(occurrences(&found, &secrets), Vec::<&Path>::new());

    let entries = deployment.path("exported/tile/entries");
    let entries = read(files_below(&entries));
    assert!(!entries.is_empty());
    let mut numbers: Vec<Vec<u8>> = eids.iter().map(|eid| hex::decode(eid).unwrap()).collect();
    // Without the issuer's part as well, for an EID that is cut.
    numbers.extend(eids.iter().map(|eid| eid.as_bytes()[9..].to_vec()));
    assert_eq!(occurrences(&entries, &numbers), Vec::<&Path>::new());

    // The search finds what is there: each kind of secret, in each form, in a file of its own.
    for secret in [&secrets[0], &secrets[secrets.len() / 2], secrets.last().unwrap(), &numbers[0]] {
        for form in forms(secret) {
            let planted = deployment.path("data/orders/planted");
            fs::write(&planted, [&[0; 99][..], &form, b"after"].concat()).unwrap();
            let found = read(files_below(&deployment.path("data/orders")));
            let places = occurrences(&found, std::slice::from_ref(secret));
            assert!(places.contains(&planted.as_path()), "not found where it was planted");
        }
    }
}
