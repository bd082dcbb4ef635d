//! TLS with cards of SCP81: OpenSSL is the card, which has the key; the platform has none and asks for the secret of each
//! connection, which it gets for a client that proved itself.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use audit::{EventType, Outcome};
use keys::seal::tls_secret_info;
use keys::tls_psk::CipherSuite;
use proto::v1::fetch_tls_secret_request::Client;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::{FetchTlsSecretRequest, FetchTlsSecretResponse, KeysetName, NamedKeyset};
use serde_json::Value;
use tests::transport::{TransportPrivateKey, unwrap_key};
use tonic::Status;

use crate::caller::{Caller, reason};
use crate::devices::eid;
use crate::fleet::new_key;
use crate::psk_platform::{Waiting, accept};
use crate::support::{Deployment, GRANTED};

const PURPOSE: &str = "ota-https";

/// The pre-shared key that the manufacturer finds in its output.
fn pre_shared_key(deployment: &Deployment, output: &str, eid: &str) -> Vec<u8> {
    let private = fs::read(deployment.path("eum/transport-key.pem")).unwrap();
    let private = TransportPrivateKey::from_pem(&private).unwrap();
    let text = fs::read_to_string(deployment.path(output)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
    let transport =
        private.open_oaep(lines[0]["oaep_hash"].as_str().unwrap(), &bytes(&lines[0]["wrapped"])).unwrap();
    let line = lines.iter().find(|line| line["eid"] == eid).unwrap();
    unwrap_key(&transport, &bytes(&line["psk"])).unwrap()
}

/// A card that connects, says something and prints what it hears.
fn card(port: u16, suite: &str, identity: &str, key: &[u8]) -> Child {
    let mut card = Command::new("openssl")
        .args(["s_client", "-quiet", "-tls1_2", "-connect", &format!("127.0.0.1:{port}"), "-cipher", suite])
        .args(["-psk_identity", identity, "-psk", &hex::encode(key)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    card.stdin.as_mut().unwrap().write_all(b"GET /admin\n").unwrap();
    card
}

/// What OpenSSL printed when its connection is over.
fn heard(mut card: Child) -> String {
    drop(card.stdin.take());
    let (mut text, mut errors) = (String::new(), String::new());
    card.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    card.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    card.wait().unwrap();
    text + &errors
}

fn request(waiting: &Waiting) -> FetchTlsSecretRequest {
    FetchTlsSecretRequest {
        idempotency_key: new_key(),
        client: Some(Client::PskIdentity(waiting.identity.clone())),
        cipher_suite: waiting.handshake.suite.code().into(),
        client_random: waiting.handshake.client_random.to_vec(),
        server_random: waiting.handshake.server_random.to_vec(),
        handshake_hash: waiting.handshake.hash.clone(),
        extended_master_secret: waiting.handshake.extended_master_secret,
        encrypt_then_mac: waiting.encrypt_then_mac,
        client_finished: waiting.finished.clone(),
        purpose: PURPOSE.to_owned(),
        ..FetchTlsSecretRequest::default()
    }
}

async fn ask(caller: &Caller, request: &FetchTlsSecretRequest) -> Result<FetchTlsSecretResponse, Status> {
    let mut client = SessionKeyServiceClient::new(caller.channel.clone());
    client.fetch_tls_secret(request.clone()).await.map(tonic::Response::into_inner)
}

fn unseal(caller: &Caller, request: &FetchTlsSecretRequest, answer: &FetchTlsSecretResponse) -> [u8; 48] {
    let kvn = domain::KeyVersionNumber::new(domain::Protocol::Scp81, 0x40).unwrap();
    let random = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
    let (client, server) = (random(&request.client_random), random(&request.server_random));
    let key = request.idempotency_key.as_bytes();
    let eid = answer.eid.parse().unwrap();
    let info = tls_secret_info(&caller.principal(), &eid, kvn, (&client, &server), key).unwrap();
    caller.open(&info, &answer.encapsulated_key, &answer.ciphertext).try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_openssl_plays_talks_over_a_secret_that_it_proved_and_its_key_stays() {
    let deployment = Deployment::found();
    let eids = [1, 2].map(|number| eid(GRANTED, number));
    deployment.order("first", &eids);
    fs::write(deployment.path("psk.csv"), format!("eid\n{}\n{}\n", eids[0], eids[1])).unwrap();
    let place =
        ["order", "place", "--order", "psk", "--further-keysets", "--devices", "psk.csv", "--kvn", "0x40"];
    deployment.chancery(&[&place[..], &["--algorithm", "AES-128", "--identity", "eum"]].concat());
    deployment.chancery(&["order", "fetch", "--order", "psk", "--out", "psk.jsonl", "--identity", "eum"]);
    let key = pre_shared_key(&deployment, "psk.jsonl", &eids[0]);
    let grant = |name: &str, more: &[&str]| {
        let grant = ["grant", "create", "--name", name, "--provisioner", "provisioner", "--ein", GRANTED];
        let rest = ["--protocol", "scp81", "--lawful-basis", "licence", "--expires", "9d", "--reason", "x"];
        deployment.two_persons(&[&grant[..], &rest, more].concat(), None);
    };
    grant("https", &["--purpose", PURPOSE]);
    grant("unproved", &["--purpose", "unproved", "--without-device-proof"]);
    let caller = deployment.caller("provisioner").await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let identity = format!("{}.40", eids[0]);
    let connect = |suite: CipherSuite, name: &str, with_extensions: bool, key: &[u8]| {
        let card = card(port, name, &identity, key);
        let waiting = accept(listener.accept().unwrap().0, suite, with_extensions).unwrap();
        (card, waiting)
    };

    let suites = [
        (CipherSuite::Aes128Gcm, "PSK-AES128-GCM-SHA256"),
        (CipherSuite::Aes256Gcm, "PSK-AES256-GCM-SHA384"),
        (CipherSuite::Aes128Cbc, "PSK-AES128-CBC-SHA256"),
        (CipherSuite::Aes256Cbc, "PSK-AES256-CBC-SHA384"),
    ];
    for (suite, name) in suites {
        for with_extensions in [true, false] {
            let (card, waiting) = connect(suite, name, with_extensions, &key);
            assert_eq!(
                (waiting.handshake.extended_master_secret, waiting.identity.clone()),
                (with_extensions, identity.clone().into_bytes())
            );
            let asked = request(&waiting);
            let answer = ask(&caller, &asked).await.unwrap();
            assert_eq!(answer.eid, eids[0]);
            let secret = unseal(&caller, &asked, &answer);
            let mut open = waiting.open(&secret).unwrap();
            assert_eq!(open.read().unwrap(), b"GET /admin\n");
            open.write(b"204 nothing to do\n").unwrap();
            drop(open);
            assert!(heard(card).contains("204 nothing to do"), "{name} {with_extensions}");
        }
    }
    let show = ["keyset", "show", &eids[0], "--kvn", "0x40", "--identity", "officer", "--output", "json"];
    let shown: Value = serde_json::from_str(&deployment.chancery(&show)).unwrap();
    assert_eq!(shown["state"], "active");

    // A card with another key, a changed proof, another's identity; and each connection once.
    let (other, waiting) = connect(suites[0].0, suites[0].1, true, &[7; 16]);
    assert_eq!(reason(&ask(&caller, &request(&waiting)).await.unwrap_err()), "CARD_CRYPTOGRAM_MISMATCH");
    drop(waiting);
    heard(other);
    let (card, waiting) = connect(suites[2].0, suites[2].1, true, &key);
    let asked = request(&waiting);
    let refused = async |change: &dyn Fn(&mut FetchTlsSecretRequest)| {
        let mut changed = FetchTlsSecretRequest { idempotency_key: new_key(), ..asked.clone() };
        change(&mut changed);
        reason(&ask(&caller, &changed).await.unwrap_err())
    };
    assert_eq!(refused(&|asked| asked.client_finished[20] ^= 1).await, "CARD_CRYPTOGRAM_MISMATCH");
    assert_eq!(refused(&|asked| asked.server_random[0] ^= 1).await, "CARD_CRYPTOGRAM_MISMATCH");
    let another = Client::PskIdentity(format!("{}.40", eids[1]).into_bytes());
    assert_eq!(refused(&|asked| asked.client = Some(another.clone())).await, "CARD_CRYPTOGRAM_MISMATCH");
    assert_eq!(
        refused(&|asked| asked.client = Some(Client::PskIdentity(b"card".to_vec()))).await,
        "INVALID_FIELD"
    );
    assert_eq!(refused(&|asked| asked.purpose = "other".to_owned()).await, "NOT_GRANTED");
    let unproved = |asked: &mut FetchTlsSecretRequest| {
        (asked.client_finished, asked.without_device_proof) = (Vec::new(), true);
    };
    assert_eq!(refused(&|asked| unproved(asked)).await, "GRANT_TOO_NARROW");
    let first = ask(&caller, &asked).await.unwrap();
    let again = ask(&caller, &asked).await.unwrap();
    assert_eq!(unseal(&caller, &asked, &first), unseal(&caller, &asked, &again));
    assert_eq!(refused(&|_| {}).await, "CHALLENGE_REUSED");
    drop(waiting);
    heard(card);

    // Without a proof, under a grant that says so; by the device's name, through the tool.
    let (card, waiting) = connect(suites[2].0, suites[2].1, false, &key);
    let hex = |bytes: &[u8]| hex::encode(bytes);
    let (client, server) = (hex(&waiting.handshake.client_random), hex(&waiting.handshake.server_random));
    let tls = ["session-keys", "tls", "--eid", &eids[0], "--kvn", "0x40", "--cipher-suite", "00ae"];
    let randoms = ["--client-random", &client, "--server-random", &server, "--without-device-proof"];
    let rest = ["--out", "secret.keylog", "--purpose", "unproved", "--identity", "provisioner"];
    deployment.chancery(&[&tls[..], &randoms, &rest].concat());
    let line = fs::read_to_string(deployment.path("secret.keylog")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..2], ["CLIENT_RANDOM", &client]);
    let mut open = waiting.open(&::hex::decode(words[2]).unwrap().try_into().unwrap()).unwrap();
    assert_eq!(open.read().unwrap(), b"GET /admin\n");
    open.write(b"200\n").unwrap();
    drop(open);
    assert!(heard(card).contains("200"));
    assert!(deployment.metrics().contains("chancery_releases_without_proof_total 1"));

    // A stored key is in no memory, so no secret is made of it.
    let released = deployment.entries().into_iter().filter(|entry| {
        (entry.header.event, entry.header.outcome) == (EventType::SessionKeysReleased, Outcome::Done)
    });
    assert_eq!(released.count(), 8 + 1 + 1);
    let scp03 = Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 });
    let named = NamedKeyset { eid: eids[0].clone(), keyset: scp03 };
    assert_eq!(refused(&|asked| asked.client = Some(Client::Named(named.clone()))).await, "INVALID_FIELD");
}
