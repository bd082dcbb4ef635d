//! Profile downloads of an SM-DP+ whose keys are in the authority's token, with an eUICC of our own.

pub mod curves;
pub mod download;
mod foreign;
mod version_3;

use audit::{Entry, Outcome};
use proto::v1::{BindProfileResponse, ProfileProtection, SignEuiccPackageRequest};
use tests::euicc::bsp::BspKeys;
use tests::euicc::{package, tlv};
use tonic::Status;

use crate::caller::reason;
use crate::rsp::download::{ADDRESS, CODE, Download, EIM_ID, PURPOSE, Site};
use crate::secrets;
use crate::support::{Deployment, GRANTED};

fn refused<T>(answer: Result<T, Status>) -> String {
    reason(&answer.err().expect("a refusal"))
}

fn profile() -> package::Profile {
    package::Profile {
        metadata: package::metadata(&[0x98; 10], "Operator", "Profile"),
        elements: (0..3_000_u32).map(|at| at as u8).collect(),
    }
}

fn keys(bytes: &[u8]) -> BspKeys {
    let part = |at: usize| bytes[at..at + 16].try_into().unwrap();
    BspKeys { s_enc: part(0), s_mac: part(16), initial_mac_chaining_value: part(32) }
}

/// Opens an answer and builds the package for the eUICC.
fn bound_package(site: &Site, download: &Download, answer: &BindProfileResponse) -> Vec<u8> {
    let opened = site.sm_dp_plus.unseal_bound(&download.eid, &download.id, answer);
    let own = (opened[1] == 2).then(|| keys(&opened[50..]));
    package::bind(&answer.initialise_secure_channel, &keys(&opened[2..50]), own.as_ref(), &profile())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_downloaded_in_three_calls_and_everything_else_is_refused() {
    let mut deployment = Deployment::found_with(&["--rsp"]);
    let mut site = Site::build(&deployment, 4).await;
    let mut bsp_keys = Vec::new();

    // Both ways to protect the profile, with and without a confirmation code.
    for (number, protection) in [(0, ProfileProtection::SessionKeys), (1, ProfileProtection::ProfileKeys)] {
        let code = (number == 1).then_some(CODE);
        let mut download = site.initiate(number).await.unwrap();
        let offer = download.authenticate(&site, code).await.unwrap();
        assert_eq!((offer.eid.as_str(), offer.matching_id.as_str()), (download.eid.as_str(), "MATCH"));
        let prepared = download.prepare(&offer, code);
        let request = download.bind_request("bind", &prepared, protection);
        let bound = site.bind(&request).await.unwrap();
        let package = bound_package(&site, &download, &bound);
        assert_eq!(download.euicc.clone().install(&package), Ok(profile()));
        let opened = site.sm_dp_plus.unseal_bound(&download.eid, &download.id, &bound);
        bsp_keys.extend(opened[2..].chunks(16).map(<[u8]>::to_vec));

        // The same one-time key again, under the same and under another idempotency key: the same sealed answer.
        let again = site.bind(&request).await.unwrap();
        let other_key = site.bind(&download.bind_request("other", &prepared, protection)).await.unwrap();
        for repeat in [&again, &other_key] {
            assert_eq!(repeat.ciphertext, bound.ciphertext);
            assert_eq!(repeat.initialise_secure_channel, bound.initialise_secure_channel);
            assert_eq!(repeat.request_id, bound.request_id);
        }
        let other_host = [0x30; 3].to_vec();
        let changed = download.bind_request("host", &prepared, protection);
        let changed = proto::v1::BindProfileRequest { host_id: other_host, ..changed };
        assert_eq!(refused(site.bind(&changed).await), "TRANSACTION_STEP");

        // Another one-time key: another key pair of the server, and keys that open on the card.
        let prepared = download.prepare(&offer, code);
        let bound = site.bind(&download.bind_request("second", &prepared, protection)).await.unwrap();
        assert_ne!(bound.initialise_secure_channel, again.initialise_secure_channel);
        let package = bound_package(&site, &download, &bound);
        assert_eq!(download.euicc.clone().install(&package), Ok(profile()));
    }

    assert_eq!(bsp_keys.len(), 3 + 6);
    let (point, label) = (site.sm_dp_plus.encryption_point(), b"chancery/rsp-pb/dppb/1");
    secrets::look_into_memory(&deployment, &[("a BSP key", bsp_keys)], &point, label);

    out_of_order_and_forged(&mut site).await;
    codes_are_counted(&mut site, &mut deployment).await;
    packages_have_counters(&site, &deployment).await;
    nothing_after_a_change(&mut site, &deployment).await;
    recorded(&deployment);
}

async fn out_of_order_and_forged(site: &mut Site) {
    let other = site.euiccs[1].clone();
    let mut download = site.initiate(0).await.unwrap();
    // Bind before the eUICC has proved itself; a transaction of nobody.
    let early =
        download.bind_request("early", &download.prepared_for_nothing(), ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&early).await), "TRANSACTION_STEP");
    let unknown = proto::v1::BindProfileRequest { transaction_id: vec![7; 16], ..early };
    assert_eq!(refused(site.bind(&unknown).await), "UNKNOWN_TRANSACTION");

    // The answer of an eUICC to another transaction, and one whose signature is another's.
    let mut stale = site.initiate(0).await.unwrap();
    let response = stale.euicc_response(Some("MATCH"));
    assert_eq!(
        refused(site.authenticate("stale", &download.id, &response, None).await),
        "EUICC_SIGNATURE_MISMATCH"
    );
    let mut forged = response.clone();
    let at = forged.windows(3).position(|bytes| bytes == [0x5f, 0x37, 0x40]).unwrap();
    forged[at + 10] ^= 1;
    assert_eq!(
        refused(site.authenticate("forged", &stale.id, &forged, None).await),
        "EUICC_SIGNATURE_MISMATCH"
    );
    // An eUICC that is not of this ecosystem: its own CI.
    let stranger = site.stranger(&download);
    assert_eq!(
        refused(site.authenticate("stranger", &download.id, &stranger, None).await),
        "EUICC_CERTIFICATE_REFUSED"
    );
    // An eUICC that refused, bytes that are none of its, and other wrong fields of the first call.
    let error =
        tlv::tlv(0xbf38, &[&tlv::tlv(0xa1, &[&tlv::tlv(0x80, &[&download.id]), &tlv::tlv(0x02, &[&[6]])])]);
    assert_eq!(refused(site.authenticate("error", &download.id, &error, None).await), "EUICC_REPORTED_ERROR");
    assert_eq!(refused(site.authenticate("none", &download.id, &[0x30, 0], None).await), "INVALID_FIELD");
    assert_eq!(
        refused(site.begin(&other, "elsewhere.example", PURPOSE, None).await),
        "SERVER_ADDRESS_MISMATCH"
    );
    let unknown_ci = tlv::tlv(
        0xbf20,
        &[
            &tlv::tlv(0x82, &[&[2, 2, 2]]),
            &tlv::tlv(0xa9, &[&tlv::tlv(0x04, &[&[1; 20]])]),
            &tlv::tlv(0xaa, &[&tlv::tlv(0x04, &[&[1; 20]])]),
        ],
    );
    assert_eq!(refused(site.begin(&other, ADDRESS, PURPOSE, Some(unknown_ci)).await), "CI_NOT_SUPPORTED");

    // The second proof: signed over another transaction's offer.
    let response = download.euicc_response(Some("MATCH"));
    let offer = site.authenticate("first", &download.id, &response, None).await.unwrap();
    assert_eq!(refused(site.authenticate("again", &download.id, &response, None).await), "TRANSACTION_STEP");
    let mut prepared = download.prepare(&offer, None);
    let last = prepared.len() - 1;
    prepared[last] ^= 1;
    let request = download.bind_request("forged", &prepared, ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&request).await), "EUICC_SIGNATURE_MISMATCH");

    // A device that no grant covers for the purpose, and another purpose than the transaction's.
    let mut download = site.initiate_for(0, "curiosity").await.unwrap();
    let response = download.euicc_response(Some("MATCH"));
    let answer = site.authenticate_for("curious", &download.id, &response, None, "curiosity").await;
    assert_eq!(refused(answer), "NOT_GRANTED");
    assert_eq!(refused(site.authenticate("purpose", &download.id, &response, None).await), "INVALID_FIELD");
}

/// Three wrong codes end the profile's download, across transactions and a restart; a right one in between starts anew.
async fn codes_are_counted(site: &mut Site, deployment: &mut Deployment) {
    let wrong = async |site: &mut Site, code: &str| {
        let mut download = site.initiate(2).await.unwrap();
        let offer = download.authenticate(site, Some(CODE)).await.unwrap();
        let prepared = download.prepare(&offer, Some(code));
        let request = download.bind_request(code, &prepared, ProfileProtection::SessionKeys);
        site.bind(&request).await
    };
    for code in ["0000", "1111"] {
        assert_eq!(refused(wrong(site, code).await), "CONFIRMATION_CODE_MISMATCH");
    }
    wrong(site, CODE).await.unwrap();
    for code in ["2222", "3333"] {
        assert_eq!(refused(wrong(site, code).await), "CONFIRMATION_CODE_MISMATCH");
    }
    let (first, second) = site.requests_of_a_download(3).await;
    let before = (
        site.client().initiate_authentication(first.clone()).await.unwrap().into_inner(),
        site.client().authenticate_client(second.clone()).await.unwrap().into_inner(),
    );
    deployment.restart();
    site.connect(deployment).await;
    // The first two calls give their stored answers again, and nothing else under their keys.
    let again = (
        site.client().initiate_authentication(first.clone()).await.unwrap().into_inner(),
        site.client().authenticate_client(second.clone()).await.unwrap().into_inner(),
    );
    assert_eq!(before, again);
    let first = proto::v1::InitiateAuthenticationRequest { euicc_challenge: vec![8; 16], ..first };
    assert_eq!(refused(site.client().initiate_authentication(first).await), "IDEMPOTENCY_KEY_REUSED");
    let second = proto::v1::AuthenticateClientRequest { purpose: "other".to_owned(), ..second };
    assert_eq!(refused(site.client().authenticate_client(second).await), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(refused(wrong(site, "4444").await), "CONFIRMATION_CODE_MISMATCH");
    for code in ["5555", CODE] {
        assert_eq!(refused(wrong(site, code).await), "CONFIRMATION_CODE_TRIES_EXCEEDED");
    }
}

/// Each package of an eIM has the next counter value, and its signature is over the association token too.
async fn packages_have_counters(site: &Site, deployment: &Deployment) {
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(deployment.path("eim.json")).unwrap()).unwrap();
    let spki = hex::decode(file["public_key"].as_str().unwrap()).unwrap();
    let key = pki::PublicKey::parse(&spki, pki::KnownKeys::Refuse).unwrap();
    let request = |key: &str, package: &[u8]| SignEuiccPackageRequest {
        idempotency_key: key.to_owned(),
        eim_id: EIM_ID.to_owned(),
        eid: site.eid(0),
        euicc_package: package.to_vec(),
        eim_transaction_id: Vec::new(),
        association_token: 0,
        purpose: PURPOSE.to_owned(),
    };
    for counter in 1..=2 {
        let request = request(&format!("package-{counter}"), &[0xa0, 0]);
        let signed = site.client().sign_euicc_package(request.clone()).await.unwrap().into_inner();
        assert_eq!(signed.counter, counter);
        let message = [&signed.euicc_package_signed[..], &[0x84, 1, 0]].concat();
        key.verify_plain(&message, signed.eim_signature[..].try_into().unwrap()).unwrap();
        let again = site.client().sign_euicc_package(request).await.unwrap().into_inner();
        assert_eq!(again, signed);
    }
    let no_package = request("none", &[0x30, 0]);
    assert_eq!(refused(site.client().sign_euicc_package(no_package).await), "INVALID_FIELD");
    let other_eim = SignEuiccPackageRequest { eim_id: ADDRESS.to_owned(), ..request("other", &[0xa0, 0]) };
    assert_eq!(refused(site.client().sign_euicc_package(other_eim).await), "UNKNOWN_RSP_KEY");
    let curious =
        SignEuiccPackageRequest { purpose: "curiosity".to_owned(), ..request("curious", &[0xa0, 0]) };
    assert_eq!(refused(site.client().sign_euicc_package(curious).await), "NOT_GRANTED");

    // The same key gets the certificate of SGP.32, and no other.
    let certify = |profile| {
        let request = ["certificate", "request", "--profile", profile, "--party", "provisioner"];
        let subject = ["--rsp-key", "eim", "--common-name", EIM_ID, "--no-registered-id", "--reason", "x"];
        [&request[..], &subject].concat()
    };
    let other = [&certify("dppb")[..], &["--identity", "officer"]].concat();
    assert!(deployment.refused("chancery", &other).contains("eim-sign keys eimsign"));
    deployment.two_persons(&certify("eimsign"), Some("eim"));
    let ci = pki::Certificate::from_der(&deployment.ci_certificate()).unwrap();
    std::fs::write(deployment.path("eim-ci.pem"), ci.pem()).unwrap();
    let verify = ["certificate", "verify", "received/eim/certificate.pem", "--ci", "eim-ci.pem"];
    deployment.chancery(&[&verify[..], &["--role", "eimsign"]].concat());
}

/// Freeze, revocation and suspension between the steps.
async fn nothing_after_a_change(site: &mut Site, deployment: &Deployment) {
    let mut frozen = site.initiate(3).await.unwrap();
    let offer = frozen.authenticate(site, None).await.unwrap();
    let prepared = frozen.prepare(&offer, None);
    let request = frozen.bind_request("before", &prepared, ProfileProtection::SessionKeys);
    site.bind(&request).await.unwrap();
    deployment.chancery(&[
        "device",
        "freeze",
        &frozen.eid,
        "--reason",
        "stolen",
        "--reference",
        "case 7",
        "--yes",
        "--identity",
        "officer",
    ]);
    // The sealed answer that was given before is not given again, under any key.
    assert_eq!(refused(site.bind(&request).await), "DEVICE_NOT_ACTIVE");
    let later = frozen.bind_request("after", &prepared, ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&later).await), "DEVICE_NOT_ACTIVE");
    let mut next = site.initiate(3).await.unwrap();
    assert_eq!(refused(next.authenticate(site, None).await), "DEVICE_NOT_ACTIVE");

    revoked_manufacturer(site, deployment).await;

    let mut last = site.initiate(0).await.unwrap();
    let offer = last.authenticate(site, None).await.unwrap();
    let prepared = last.prepare(&offer, None);
    site.revoke_dppb(deployment, &offer.smdp_certificate);
    let request = last.bind_request("revoked", &prepared, ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&request).await), "UNKNOWN_RSP_KEY");
    assert_eq!(refused(site.initiate(0).await.map(|_| ())), "UNKNOWN_RSP_KEY");
}

/// SGP.02 §2.3.2.3: whether a revoked certificate ends the service is the tenant's to say, by its grant.
async fn revoked_manufacturer(site: &mut Site, deployment: &Deployment) {
    for policy in ["warn", "allow"] {
        let grant = ["grant", "create", "--name", policy, "--provisioner", "provisioner", "--ein", GRANTED];
        let terms = ["--purpose", policy, "--lawful-basis", "licence", "--expires", "9d"];
        let tolerant = ["--revoked-certificates", policy, "--reason", "SGP.02"];
        deployment.two_persons(&[&grant[..], &terms, &tolerant].concat(), None);
    }
    let mut begun = site.initiate(0).await.unwrap();
    let (_, eum) = begun.certificates();
    let offer = begun.authenticate(site, None).await.unwrap();
    let prepared = begun.prepare(&offer, None);
    let serial = pki::Certificate::from_der(&eum).unwrap().serial().as_bytes().to_vec();
    let serial_text = hex::encode(&serial);
    let hold = ["certificate", "hold", "--serial", &serial_text, "--reference", "case 8"];
    deployment.chancery(&[&hold[..], &["--identity", "officer"]].concat());
    // The default blocks, also what was under way.
    let mut blocked = site.initiate(0).await.unwrap();
    assert_eq!(refused(blocked.authenticate(site, None).await), "EUICC_CERTIFICATE_REFUSED");
    let request = begun.bind_request("blocked", &prepared, ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&request).await), "EUICC_CERTIFICATE_REFUSED");
    for (policy, warned) in [("warn", vec![serial.clone()]), ("allow", Vec::new())] {
        let mut served = site.initiate_for(0, policy).await.unwrap();
        let (id, response) = (served.id.clone(), served.euicc_response(None));
        let offer = site.authenticate_for(policy, &id, &response, None, policy).await.unwrap();
        assert_eq!(offer.revoked_serial_numbers, warned, "{policy}");
        let prepared = served.prepare(&offer, None);
        let mut request = served.bind_request(policy, &prepared, ProfileProtection::SessionKeys);
        request.purpose = policy.to_owned();
        site.bind(&request).await.unwrap();
    }
    let told = |policy: &str| {
        let is_it = |entry: &&Entry| {
            entry.header.event.as_str() == "rsp.authenticated"
                && entry.name("revocation_policy") == Some(policy)
        };
        deployment.entries().iter().filter(is_it).count()
    };
    assert_eq!(["warn", "allow", "block"].map(told), [1, 1, 0]);
    let release = ["certificate", "release", "--serial", &serial_text, "--because", "case 8 closed"];
    deployment.two_persons(&release, None);
}

/// Each binding has its entry, and no entry holds an EID.
fn recorded(deployment: &Deployment) {
    let entries: Vec<Entry> = deployment.entries();
    let count = |event: &str, outcome: Outcome| {
        let of = |entry: &&Entry| entry.header.event.as_str() == event && entry.header.outcome == outcome;
        entries.iter().filter(of).count()
    };
    assert_eq!(count("rsp_key.registered", Outcome::Done), 3);
    assert_eq!(count("eim.package_signed", Outcome::Done), 2);
    assert_eq!(count("rsp.bound", Outcome::Repeated), 4);
    assert_eq!(count("rsp.bound", Outcome::Done), 8);
    assert_eq!(count("rsp.code_counted", Outcome::Done), 5);
    assert!(count("rsp.authenticated", Outcome::Done) >= 8);
}
