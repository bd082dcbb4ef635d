//! Session keys on their way to a party's own HSM: AES-KWP under its AES key, opened by OpenSSL.

use std::fs;
use std::process::Command;

use proto::v1::{FetchSessionKeysRequest, FetchSessionKeysResponse, KeyDelivery};
use tests::SecurityLevel;
use tests::host::{HostChannel, SessionKeys};
use tonic::Status;

use crate::caller::reason;
use crate::devices::{KVN, eid};
use crate::fleet::{Card, Provisioner};
use crate::masters::{component, kcv};
use crate::support::{Deployment, GRANTED};

const FIRST: [u8; 32] = *b"half of what the party's HSM has";
const SECOND: [u8; 32] = *b"and the other half that it holds";

async fn fetch(
    provisioner: &Provisioner,
    request: &FetchSessionKeysRequest,
) -> Result<FetchSessionKeysResponse, Status> {
    provisioner.sessions().fetch_session_keys(request.clone()).await.map(tonic::Response::into_inner)
}

fn wrapped(card: &mut Card, transport_key: &str) -> FetchSessionKeysRequest {
    FetchSessionKeysRequest {
        delivery: KeyDelivery::Wrapped.into(),
        transport_key: transport_key.to_owned(),
        ..card.session_request(KVN).unwrap()
    }
}

/// RFC 5649, by OpenSSL.
fn unwrap(deployment: &Deployment, key: &[u8], wrapped: &[u8]) -> Vec<u8> {
    let (input, output) = (deployment.path("wrapped.bin"), deployment.path("key.bin"));
    fs::write(&input, wrapped).unwrap();
    let opened = Command::new("openssl")
        .args(["enc", "-d", "-id-aes256-wrap-pad", "-iv", "A65959A6", "-K", &hex::encode(key), "-in"])
        .arg(&input)
        .arg("-out")
        .arg(&output)
        .output()
        .unwrap();
    assert!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    fs::read(output).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn session_keys_leave_under_a_party_s_own_aes_key_until_it_is_retired() {
    let deployment = Deployment::found();
    let device = deployment.order("first", &[eid(GRANTED, 1)]).remove(0);
    let provisioner = Provisioner::of(&deployment).await;
    let mut card = device.card();
    let refused =
        async |request: FetchSessionKeysRequest| reason(&fetch(&provisioner, &request).await.unwrap_err());
    assert_eq!(refused(wrapped(&mut card, "hsm")).await, "UNKNOWN_TRANSPORT_KEY");
    assert_eq!(refused(wrapped(&mut card, "")).await, "INVALID_FIELD");

    let value: Vec<u8> = FIRST.iter().zip(SECOND).map(|(a, b)| a ^ b).collect();
    let (one, two) = (component(&deployment, "one", &FIRST), component(&deployment, "two", &SECOND));
    let import = ["ceremony", "import-key", "--config", "chanceryd.toml", "--name", "dp-hsm", "--epoch", "1"];
    let parts =
        ["--role", "party-transport", "--component", &one, "--component", &two, "--kcv", &kcv(&value)];
    deployment.chanceryd(&[&import[..], &parts, &["--out", "dp-hsm.json"]].concat());
    let register = ["transport-key", "register", "--party", "provisioner", "--name", "hsm"];
    let key = ["--key-file", "dp-hsm.json", "--expires", "300d", "--reason", "contract"];
    deployment.two_persons(&[&register[..], &key].concat(), None);

    let request = wrapped(&mut card, "hsm");
    let answer = fetch(&provisioner, &request).await.unwrap();
    assert!(
        answer.encapsulated_key.is_empty() && answer.ciphertext.is_empty() && answer.unsealed_keys.is_empty()
    );
    assert_eq!((answer.transport_key_version, answer.wrapped_keys.len()), (1, 3));
    let keys: Vec<_> = answer.wrapped_keys.iter().map(|key| unwrap(&deployment, &value, key)).collect();
    let keys = SessionKeys { s_enc: &keys[0], s_mac: &keys[1], s_rmac: &keys[2] };
    let (_, command) = HostChannel::authenticate(&keys, &answer.host_cryptogram, SecurityLevel::C_MAC_C_ENC);
    card.chip.external_authenticate(&command).expect("the card accepts the keys of the service");
    // The proof is asked for as ever.
    let forged = FetchSessionKeysRequest { card_cryptogram: vec![0; 8], ..wrapped(&mut card, "hsm") };
    assert_eq!(refused(forged).await, "CARD_CRYPTOGRAM_MISMATCH");
    let stray = FetchSessionKeysRequest { delivery: KeyDelivery::Sealed.into(), ..wrapped(&mut card, "hsm") };
    assert_eq!(refused(stray).await, "INVALID_FIELD");

    let retire = ["transport-key", "retire", "--party", "provisioner", "--name", "hsm", "--number", "1"];
    deployment.two_persons(&[&retire[..], &["--reason", "moved"]].concat(), None);
    assert_eq!(refused(wrapped(&mut card, "hsm")).await, "TRANSPORT_KEY_ENDED");
    // Lost answers too: they are wrapped again, or not.
    assert_eq!(refused(request).await, "TRANSPORT_KEY_ENDED");
}
