//! Both curves side by side: one SM-DP+ with certificates under two certificate issuers, chosen by what each eUICC knows.

use std::fs;
use std::process::Command;

use proto::v1::ProfileProtection;
use tests::euicc::tlv::tlv;

use super::{bound_package, profile, refused};
use crate::rsp::download::{ADDRESS, BRAINPOOL_CI, BRAINPOOL_ISSUER, PURPOSE, Site, provide_brainpool};
use crate::support::Deployment;

#[tokio::test(flavor = "multi_thread")]
async fn profiles_are_bound_on_the_curve_whose_issuer_the_euicc_knows() {
    let deployment = Deployment::found_with(&["--rsp"]);
    provide_brainpool(&deployment);
    let mut site = Site::build(&deployment, 2).await;

    // Before the SM-DP+ has keys on it, a card that knows the second curve alone is told so.
    let brainpool = fs::read(deployment.path("received/ci-brainpool/certificate.pem")).unwrap();
    let brainpool = pki::Certificate::from_pem(&brainpool).unwrap();
    let list = tlv(0x04, &[brainpool.subject_key_identifier().unwrap()]);
    let info1 = tlv(0xbf20, &[&tlv(0x82, &[&[2, 2, 2]]), &tlv(0xa9, &[&list]), &tlv(0xaa, &[&list])]);
    let unknown = site.begin(&site.euiccs[0], ADDRESS, PURPOSE, Some(info1.clone())).await;
    assert_eq!(refused(unknown), "CI_NOT_SUPPORTED");

    site.add_brainpool(&deployment, 2);
    for number in [0, 2] {
        let mut download = site.initiate(number).await.unwrap();
        let offer = download.authenticate(&site, None).await.unwrap();
        let prepared = download.prepare(&offer, None);
        let request = download.bind_request("bind", &prepared, ProfileProtection::SessionKeys);
        let bound = site.bind(&request).await.unwrap();
        let package = bound_package(&site, &download, &bound);
        assert_eq!(download.euicc.clone().install(&package), Ok(profile()), "device {number}");
    }

    // A card of both gets the one that it ranks first in its signing list.
    let first = site.begin(&site.euiccs[0], ADDRESS, PURPOSE, None).await.unwrap().ci_key_id;
    let other = tlv(0x04, &[&first]);
    let ranked =
        |lists: [&[u8]; 2]| tlv(0xbf20, &[&tlv(0x82, &[&[2, 2, 2]]), &tlv(0xa9, &lists), &tlv(0xaa, &lists)]);
    for (info, chosen) in [
        (ranked([&list, &other]), brainpool.subject_key_identifier().unwrap()),
        (ranked([&other, &list]), &first[..]),
    ] {
        let offered = site.begin(&site.euiccs[0], ADDRESS, PURPOSE, Some(info)).await.unwrap();
        assert_eq!(offered.ci_key_id, chosen);
    }

    // An eUICC that answers with its chain under another issuer than it was told to use is refused.
    let mut crossed = site.initiate(2).await.unwrap();
    let stranger = site.initiate(0).await.unwrap().euicc_response(Some("MATCH"));
    let answer = site.authenticate("crossed", &crossed.id, &stranger, None).await;
    assert_eq!(refused(answer), "EUICC_CERTIFICATE_REFUSED");

    // A one-time key of the other curve binds nothing.
    let offer = crossed.authenticate(&site, None).await.unwrap();
    let forged = crossed.prepare_on_p256(&offer);
    let request = crossed.bind_request("forged", &forged, ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&request).await), "INVALID_FIELD");

    openssl_accepts(&deployment, &site);
    its_own_responder_answers(&deployment);
    one_curve_for_a_chain(&deployment);
}

/// The chain of a device as openssl sees it: its key, its manufacturer's and the root are on brainpoolP256r1.
fn openssl_accepts(deployment: &Deployment, site: &Site) {
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(deployment.path("")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let eid = site.eid(2);
    let (device, eum) = (format!("{eid}.der"), format!("{eid}.issuer.der"));
    for (name, der) in
        [("bp-ci", "received/ci-brainpool/certificate.pem"), ("bp-eum", &*eum), ("bp-device", &*device)]
    {
        openssl(&["x509", "-in", der, "-out", &format!("{name}.pem")]);
        let text = openssl(&["x509", "-in", der, "-noout", "-text"]);
        assert!(text.contains("ASN1 OID: brainpoolP256r1"), "{text}");
        assert!(text.contains("ecdsa-with-SHA256"), "{text}");
    }
    openssl(&["verify", "-CAfile", "bp-ci.pem", "bp-eum.pem"]);
    // The list that the new issuer's certificates name is published, and signed by it.
    let list = format!("/crl/{BRAINPOOL_CI}-a.crl");
    let due = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let list = loop {
        match crate::revocation::get(deployment.http_port(), &list) {
            Some(list) => break list,
            None => assert!(std::time::Instant::now() < due, "no list is published"),
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    fs::write(deployment.path("bp.crl"), list).unwrap();
    openssl(&["crl", "-inform", "DER", "-in", "bp.crl", "-CAfile", "bp-ci.pem", "-noout"]);
    // The GSMA's name constraints are its own (SGP.22 §4.5.2.2), so of the device only the signature is openssl's to judge.
    let certificate = pki::Certificate::from_der(&fs::read(deployment.path(&device)).unwrap()).unwrap();
    fs::write(deployment.path("bp-tbs"), certificate.tbs_der()).unwrap();
    fs::write(deployment.path("bp-signature"), certificate.signature()).unwrap();
    openssl(&["x509", "-in", "bp-eum.pem", "-noout", "-pubkey", "-out", "bp-eum-key.pem"]);
    openssl(&["dgst", "-sha256", "-verify", "bp-eum-key.pem", "-signature", "bp-signature", "bp-tbs"]);
    let chain = ["--ci", "bp-ci.pem", "--chain", "bp-eum.pem"];
    deployment.chancery(&[&["certificate", "verify", "bp-device.pem"][..], &chain].concat());
}

/// The second certificate issuer gets a responder of its own, on its curve; until then nobody answers for it.
fn its_own_responder_answers(deployment: &Deployment) {
    let url = format!("http://127.0.0.1:{}/ocsp", deployment.http_port());
    let ask = || {
        let ask =
            ["ocsp", "-issuer", "bp-ci.pem", "-CAfile", "bp-ci.pem", "-cert", "bp-eum.pem", "-url", &url];
        let output = Command::new("openssl").args(ask).current_dir(deployment.path("")).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(ask().contains("unauthorized"));
    let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--name", BRAINPOOL_CI];
    let register = ["issuer", "register-responder", "--issuer", BRAINPOOL_CI, "--reason", "second curve"];
    // A key on the other curve answers for nothing here.
    for (role, file) in
        [("ocsp-responder", "wrong.json"), ("ocsp-responder-brainpool-p256r1", "bp-ocsp.json")]
    {
        deployment.chanceryd(&[&create[..], &["--role", role, "--out", file]].concat());
    }
    let wrong = [&register[..], &["--key-file", "wrong.json", "--identity", "officer"]].concat();
    assert!(deployment.refused("chancery", &wrong).contains("on the issuer's curve"));
    deployment.two_persons(&[&register[..], &["--key-file", "bp-ocsp.json"]].concat(), None);
    let due = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let said = ask();
        if said.contains("bp-eum.pem: good") {
            assert!(said.contains("Response verify OK"), "{said}");
            break;
        }
        assert!(std::time::Instant::now() < due, "{said}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let metrics = deployment.metrics();
    for issuer in ["ci", BRAINPOOL_CI] {
        let name = format!("chancery_revocation_list_ends_seconds{{issuer=\"{issuer}\"}}");
        assert!(metrics.contains(&name), "{metrics}");
    }
}

/// Keys of the other curve get no certificate, and the order's key pairs are on its issuer's curve.
fn one_curve_for_a_chain(deployment: &Deployment) {
    let request =
        ["certificate", "request", "--profile", "dppb", "--party", "provisioner", "--rsp-key", "dppb"];
    let subject = ["--common-name", "SM-DP+", "--registered-id", "2.999.7", "--under", BRAINPOOL_CI];
    let who = ["--reason", "wrong", "--identity", "officer"];
    let refused = deployment.refused("chancery", &[&request[..], &subject, &who].concat());
    assert!(
        refused.contains("the key is on P-256, but issuer ci-brainpool is on brainpoolP256r1"),
        "{refused}"
    );

    let eid = crate::devices::eid(crate::support::GRANTED, 190);
    let order = |name: &str, curve: &str| {
        fs::write(deployment.path("pairs.csv"), format!("eid,make_key_pair\n{eid},{curve}\n")).unwrap();
        let place =
            ["order", "place", "--order", name, "--issuer", BRAINPOOL_ISSUER, "--devices", "pairs.csv"];
        let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
        [&place[..], &terms].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let wrong = order("pairs-p256", "P-256");
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
    let refused = deployment.refused("chancery", &wrong);
    assert!(refused.contains("on the curve of the order's issuer"), "{refused}");
    let right = order("pairs-brainpool", "brainpoolP256r1");
    deployment.chancery(&right.iter().map(String::as_str).collect::<Vec<_>>());
    let get = ["certificate", "get", "--eid", &eid, "--out", "pair.der", "--identity", "eum"];
    deployment.chancery(&get);
    let certificate = pki::Certificate::from_der(&fs::read(deployment.path("pair.der")).unwrap()).unwrap();
    let key = pki::PublicKey::parse(certificate.spki(), pki::KnownKeys::Refuse).unwrap();
    assert_eq!(key.curve(), domain::Curve::BrainpoolP256r1);
}
