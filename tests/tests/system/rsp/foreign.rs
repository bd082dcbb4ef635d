//! A certificate issuer elsewhere, played by openssl: trusted for some eUICCs, it certifies keys in our tokens.

use std::fs;

use audit::Outcome;
use proto::v1::ProfileProtection;
use tests::euicc::certificate::subject_public_key_info;
use tests::euicc::curve::{Curve, PrivateKey};
use tests::euicc::tlv::tlv;
use tests::euicc::{Euicc, Personality};

use super::{bound_package, profile, refused};
use crate::devices::eid;
use crate::openssl_ca::OpensslCa;
use crate::rsp::download::{ADDRESS, Download, OID, PURPOSE, Site};
use crate::support::{Deployment, GRANTED};

const ANCHOR: &str = "gsma-test";
/// The hierarchy elsewhere, with a manufacturer.
fn found_elsewhere(deployment: &Deployment) -> OpensslCa {
    let subject = "/CN=Other CI/OU=Tests/O=Elsewhere/C=DE";
    let ca = OpensslCa::found(deployment, "elsewhere", subject, "Other Maker", 10);
    ca.key("eum");
    ca.request("eum", "/C=DE/O=Other Maker/CN=Other EUM", "eum.csr");
    ca.sign("eum.csr", ("ci", "eum"), &[], "eum.pem");
    ca
}

fn der(ca: &OpensslCa, name: &str) -> Vec<u8> {
    ca.certificate(name).der().to_vec()
}

/// An eUICC that the manufacturer there certified.
fn euicc(ca: &OpensslCa, eid: &str) -> Euicc {
    let key = PrivateKey::random(Curve::P256);
    let spki = subject_public_key_info(&key.public_key());
    euicc_certified_for(ca, eid, key, &spki)
}

/// The same with a certificate for this key.
fn euicc_certified_for(ca: &OpensslCa, eid: &str, key: PrivateKey, spki: &[u8]) -> Euicc {
    let spki = pki::PublicKey::parse(spki, pki::KnownKeys::Refuse).unwrap().to_pem();
    fs::write(ca.folder.join("euicc.pub"), spki).unwrap();
    let (subject, file) = (format!("/C=DE/O=Other Maker/serialNumber={eid}/CN=eUICC"), format!("{eid}.pem"));
    ca.openssl(&[
        "x509",
        "-new",
        "-force_pubkey",
        "euicc.pub",
        "-subj",
        &subject,
        "-CA",
        "eum.pem",
        "-CAkey",
        "eum.key",
        "-CAcreateserial",
        "-days",
        "365",
        "-extfile",
        "openssl.cnf",
        "-extensions",
        "euicc",
        "-out",
        &file,
    ]);
    Euicc::new(Personality {
        eid: hex::decode(eid).unwrap().try_into().unwrap(),
        key,
        certificate: der(ca, &file),
        eum_certificate: der(ca, "eum.pem"),
        other_certificates: Vec::new(),
        ci_certificate: der(ca, "ci.pem"),
    })
    .unwrap()
}

fn import(deployment: &Deployment, elsewhere: &OpensslCa, file: &str, whose: &[&str]) {
    let certificate = elsewhere.path(file);
    let import = ["anchor", "import", "--anchor", ANCHOR, "--certificate", &certificate];
    deployment.two_persons(&[&import[..], whose, &["--reason", "order 4711"]].concat(), None);
}

/// Gives the list twice under one key: the answer is the same.
fn publish(deployment: &Deployment, elsewhere: &OpensslCa, file: &str) -> String {
    let list = elsewhere.path(file);
    let publish = ["anchor", "publish-list", "--anchor", ANCHOR, "--crl", &list, "--identity", "officer"];
    let publish = [&publish[..], &["--idempotency-key", file]].concat();
    let first = deployment.chancery(&publish);
    assert_eq!(deployment.chancery(&publish), first);
    first
}

async fn download(site: &mut Site, number: usize) -> Download {
    let mut download = site.initiate(number).await.unwrap();
    let offer = download.authenticate(site, None).await.unwrap();
    let prepared = download.prepare(&offer, None);
    let request = download.bind_request("bind", &prepared, ProfileProtection::SessionKeys);
    let bound = site.bind(&request).await.unwrap();
    let package = bound_package(site, &download, &bound);
    assert_eq!(download.euicc.clone().install(&package), Ok(profile()), "device {number}");
    download
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_our_token_serve_under_a_certificate_issuer_elsewhere() {
    let deployment = Deployment::found_with(&["--rsp"]);
    let mut site = Site::build(&deployment, 2).await;
    let elsewhere = found_elsewhere(&deployment);
    // The card of device 1, as a manufacturer elsewhere made it; and one whose EID is none of the ranges.
    let outside = eid("8904903299", 1);
    site.add(&site.eid(1), euicc(&elsewhere, &site.eid(1)));
    site.add(&outside, euicc(&elsewhere, &outside));

    // Nobody trusts it yet.
    assert_eq!(refused(site.initiate(2).await), "CI_NOT_SUPPORTED");
    let root = elsewhere.path("ci.pem");
    let register = ["anchor", "register", "--name", ANCHOR, "--certificate", &root, "--ein", GRANTED];
    deployment.two_persons(&[&register[..], &["--reason", "handsets of commerce"]].concat(), None);
    assert_eq!(refused(site.initiate(2).await), "CI_NOT_SUPPORTED");

    // Requests for the keys in the token, which openssl verifies and certifies.
    for (key, profile) in [("dpauth", "dpauth"), ("dppb", "dppb")] {
        let out = elsewhere.path(&format!("{key}.csr.pem"));
        let csr = ["anchor", "csr", "--party", "provisioner", "--rsp-key", key, "--common-name", "SM-DP+"];
        let made = deployment.chancery(&[&csr[..], &["--out", &out, "--identity", "officer"]].concat());
        assert!(made.contains(profile), "{made}");
        let text = elsewhere.openssl(&["req", "-in", &out, "-verify", "-noout", "-text"]);
        assert!(text.contains("self-signature verify OK"), "{text}");
        assert!(text.contains(&format!("Registered ID:{OID}")), "{text}");
        let copied = ["-copy_extensions", "copyall"];
        elsewhere.sign(&out, ("ci", "leaf"), &copied, &format!("{key}.pem"));
    }
    // Asked again under its key: the same request, which no second signature would give.
    for out in ["one.csr.der", "two.csr.der"] {
        let csr = ["anchor", "csr", "--party", "provisioner", "--rsp-key", "dppb", "--common-name", "SM-DP+"];
        let more = ["--idempotency-key", "again", "--out", out, "--identity", "officer"];
        deployment.chancery(&[&csr[..], &more].concat());
    }
    let made = ["one.csr.der", "two.csr.der"].map(|name| fs::read(deployment.path(name)).unwrap());
    assert_eq!(made[0], made[1]);
    let dpauth = ["--party", "provisioner", "--rsp-key", "dpauth"];
    let dppb = ["--party", "provisioner", "--rsp-key", "dppb"];
    let who = ["--reason", "order 4711", "--identity", "officer"];
    let certificate = elsewhere.path("dpauth.pem");
    let ask = ["anchor", "import", "--anchor", ANCHOR, "--certificate", &certificate];

    // Without a current list of it nothing is accepted; then each certificate for its own key only.
    let why = deployment.refused("chancery", &[&ask[..], &dpauth, &who].concat());
    assert!(why.contains("no current revocation list"), "{why}");
    elsewhere.list("1.crl");
    assert!(publish(&deployment, &elsewhere, "1.crl").contains("10"));
    let why = deployment.refused("chancery", &[&ask[..], &dppb, &who].concat());
    assert!(why.contains("policy"), "{why}");
    import(&deployment, &elsewhere, "dpauth.pem", &dpauth);
    // With one of the two keys certified there, there is no download under it.
    assert_eq!(refused(site.initiate(2).await), "UNKNOWN_RSP_KEY");
    import(&deployment, &elsewhere, "dppb.pem", &dppb);
    let why = deployment.refused("chancery", &[&ask[..], &dpauth, &who].concat());
    assert!(why.contains("imported already"), "{why}");
    let listed = deployment.chancery(&["anchor", "certificates", "--identity", "officer"]);
    assert_eq!(listed.matches(ANCHOR).count(), 2, "{listed}");

    // Cards of both worlds are served with the same keys, each under the certificate issuer that it knows.
    download(&mut site, 0).await;
    let done = download(&mut site, 2).await;
    let ci = elsewhere.certificate("ci.pem");
    assert_eq!(done.ci_key_id(), ci.subject_key_identifier().unwrap());
    // The anchor vouches for its ranges and for no other EID, whatever its manufacturer certified.
    let mut beyond = site.initiate(3).await.unwrap();
    assert_eq!(refused(beyond.authenticate(&site, None).await), "EUICC_CERTIFICATE_REFUSED");
    // A card that knows both gets what it ranks first.
    let own = site.begin(&site.euiccs[0], ADDRESS, PURPOSE, None).await.unwrap().ci_key_id;
    let (own, other) = (tlv(0x04, &[&own]), tlv(0x04, &[done.ci_key_id()]));
    for (lists, first) in [([&own[..], &other], &own), ([&other, &own], &other)] {
        let info = tlv(0xbf20, &[&tlv(0x82, &[&[2, 2, 2]]), &tlv(0xa9, &lists), &tlv(0xaa, &lists)]);
        let offered = site.begin(&site.euiccs[0], ADDRESS, PURPOSE, Some(info)).await.unwrap();
        assert_eq!(tlv(0x04, &[&offered.ci_key_id]), *first);
    }

    manufacturer_under_it(&deployment, &elsewhere, &mut site).await;
    sub_ca_under_it(&deployment, &elsewhere);
    a_key_that_no_euicc_has(&elsewhere, &mut site).await;
    ends(&deployment, &elsewhere, &mut site).await;
    let below = below_sub_ca(&elsewhere);
    let below: Vec<&str> = below.iter().map(String::as_str).collect();
    let said = deployment.refused("chancery", &[&below[..], &["--identity", "officer"]].concat());
    assert!(said.contains("trusted no more"), "{said}");

    let done = |event: &str| {
        let is_it = |entry: &&audit::Entry| {
            entry.header.event.as_str() == event && entry.header.outcome == Outcome::Done
        };
        deployment.entries().iter().filter(is_it).count()
    };
    let counted = [
        ("anchor.registered", 1),
        ("anchor.retired", 1),
        ("anchor.list_published", 2),
        ("certificate.imported", 4),
        ("certification_request.made", 5),
    ];
    for (event, count) in counted {
        assert_eq!(done(event), count, "{event}");
    }
    deployment.export("export-foreign");
}

/// A sub CA of the authority whose certificate is from elsewhere: what it issues leads to the root there, and has lists here.
fn sub_ca_under_it(deployment: &Deployment, elsewhere: &OpensslCa) {
    let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--name", "national"];
    deployment.chanceryd(&[&create[..], &["--out", "national.json"]].concat());
    let register = ["issuer", "register", "--key-file", "national.json", "--authority", "--reason", "x"];
    deployment.two_persons(&register, None);
    let out = elsewhere.path("national.csr.pem");
    let csr = ["anchor", "csr", "--issuer", "national", "--common-name", "National sub CA", "--out", &out];
    let csr = [&csr[..], &["--identity", "officer"]].concat();
    let said = deployment.refused("chancery", &csr);
    assert!(said.contains("ci-sub, dp-sub or ds-sub"), "{said}");
    deployment.chancery(&[&csr[..], &["--profile", "ci-sub"]].concat());
    elsewhere.sign(&out, ("ci", "leaf"), &["-copy_extensions", "copyall"], "national.pem");
    let certificate = elsewhere.path("national.pem");
    let ask = ["anchor", "import", "--anchor", ANCHOR, "--certificate", &certificate, "--issuer", "national"];
    let whose = ["--party", "eum", "--reason", "x", "--identity", "officer"];
    let said = deployment.refused("chancery", &[&ask[..], &whose].concat());
    assert!(said.contains("belongs to another party"), "{said}");
    import(deployment, elsewhere, "national.pem", &["--issuer", "national"]);

    let below = below_sub_ca(elsewhere);
    let below: Vec<&str> = below.iter().map(String::as_str).collect();
    deployment.two_persons(&below, Some("below"));
    let leaf = deployment.path("received/below/certificate.pem").display().to_string();
    let verify = ["verify", "-x509_strict", "-CAfile", "ci.pem", "-untrusted", "national.pem", &leaf];
    assert!(elsewhere.openssl(&verify).contains("OK"));
    let asked = deployment.chancery(&["certificate", "ask", &leaf, "--identity", "officer"]);
    assert!(asked.contains("VERIFIED"), "{asked}");
    let list = crate::revocation::get(deployment.http_port(), "/crl/national-a.crl").unwrap();
    assert_eq!(pki::crl::Crl::from_der(&list).unwrap().number(), Some(1));
}

/// A certificate below the sub CA, for a new key.
fn below_sub_ca(elsewhere: &OpensslCa) -> Vec<String> {
    elsewhere.key("below");
    elsewhere.request("below", "/CN=x", "below.csr");
    let csr = elsewhere.path("below.csr");
    let request =
        ["certificate", "request", "--profile", "dpauth-v3", "--party", "provisioner", "--csr", &csr];
    let subject =
        ["--common-name", "SM-DP+ 3", "--registered-id", OID, "--under", "national", "--reason", "x"];
    [&request[..], &subject].concat().into_iter().map(str::to_owned).collect()
}

/// A manufacturer put a key on its eUICC that SGP.22 does not know.
async fn a_key_that_no_euicc_has(elsewhere: &OpensslCa, site: &mut Site) {
    let longer = pki::PrivateKey::from_pkcs8(&pki::generate_p384().unwrap()).unwrap().spki();
    let key = PrivateKey::random(Curve::P256);
    site.add(&site.eid(0), euicc_certified_for(elsewhere, &site.eid(0), key, &longer));
    let mut download = site.initiate(site.euiccs.len() - 1).await.unwrap();
    let said = download.authenticate(site, None).await.unwrap_err();
    assert!(said.message().contains("eUICCs know P-256 and brainpoolP256r1 (SGP.22), not P-384"), "{said}");
    assert_eq!(refused(Err::<(), _>(said)), "EUICC_CERTIFICATE_REFUSED");
}

/// An issuer in our token whose certificate is from elsewhere: its devices are the other world's.
async fn manufacturer_under_it(deployment: &Deployment, elsewhere: &OpensslCa, site: &mut Site) {
    let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", "certificate-issuer"];
    deployment.chanceryd(
        &[&create[..], &["--name", "eum-there", "--party", "eum", "--out", "there.json"]].concat(),
    );
    deployment
        .two_persons(&["issuer", "register", "--key-file", "there.json", "--reason", "order 4712"], None);
    let out = elsewhere.path("there.csr.pem");
    let csr = ["anchor", "csr", "--issuer", "eum-there", "--common-name", "EUM there"];
    let more = ["--registered-id", "2.999.5", "--out", &out, "--identity", "officer"];
    deployment.chancery(&[&csr[..], &more].concat());
    elsewhere.sign(&out, ("ci", "leaf"), &["-copy_extensions", "copyall"], "there.pem");
    import(deployment, elsewhere, "there.pem", &["--party", "eum", "--issuer", "eum-there"]);

    let (eid, key) = (eid(GRANTED, 230), PrivateKey::random(Curve::P256));
    let spki = hex::encode(subject_public_key_info(&key.public_key()));
    fs::write(deployment.path("there.csv"), format!("eid,public_key\n{eid},{spki}\n")).unwrap();
    let place = ["order", "place", "--order", "there", "--issuer", "eum-there", "--devices", "there.csv"];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
    deployment.chancery(&[&place[..], &terms].concat());
    deployment.chancery(&["certificate", "get", "--eid", &eid, "--out", "there.der", "--identity", "eum"]);
    let euicc = Euicc::new(Personality {
        eid: hex::decode(&eid).unwrap().try_into().unwrap(),
        key,
        certificate: fs::read(deployment.path("there.der")).unwrap(),
        eum_certificate: der(elsewhere, "there.pem"),
        other_certificates: Vec::new(),
        ci_certificate: der(elsewhere, "ci.pem"),
    });
    site.add(&eid, euicc.unwrap());
    download(site, 4).await;
    let there = elsewhere.path("there.pem");
    let ask = ["certificate", "ask", "there.der", "--chain", &there, "--identity", "officer"];
    assert!(deployment.chancery(&ask).contains("VERIFIED"));
}

/// A manufacturer that the list revokes, and an anchor that is trusted no more.
async fn ends(deployment: &Deployment, elsewhere: &OpensslCa, site: &mut Site) {
    // Begun before, bound after: the revocation is looked at again.
    let mut begun = site.initiate(2).await.unwrap();
    let offer = begun.authenticate(site, None).await.unwrap();
    let revoke = ["ca", "-config", "openssl.cnf", "-cert", "ci.pem", "-keyfile", "ci.key"];
    elsewhere.openssl(&[&revoke[..], &["-revoke", "eum.pem", "-crl_reason", "keyCompromise"]].concat());
    elsewhere.list("2.crl");
    publish(deployment, elsewhere, "2.crl");
    let prepared = begun.prepare(&offer, None);
    let request = begun.bind_request("late", &prepared, ProfileProtection::SessionKeys);
    assert_eq!(refused(site.bind(&request).await), "EUICC_CERTIFICATE_REFUSED");
    let mut next = site.initiate(2).await.unwrap();
    assert_eq!(refused(next.authenticate(site, None).await), "EUICC_CERTIFICATE_REFUSED");
    // Under a grant that warns it is served, and the SM-DP+ is told which certificate is revoked.
    let grant = ["grant", "create", "--name", "warn", "--provisioner", "provisioner", "--ein", GRANTED];
    let terms = ["--purpose", "warn", "--lawful-basis", "licence", "--expires", "9d", "--reason", "SGP.02"];
    deployment.two_persons(&[&grant[..], &terms, &["--revoked-certificates", "warn"]].concat(), None);
    let mut served = site.initiate_for(2, "warn").await.unwrap();
    let (id, response) = (served.id.clone(), served.euicc_response(None));
    let offer = site.authenticate_for("warn", &id, &response, None, "warn").await.unwrap();
    let eum = elsewhere.certificate("eum.pem");
    assert_eq!(offer.revoked_serial_numbers, [eum.serial().as_bytes()]);
    let prepared = served.prepare(&offer, None);
    let mut request = served.bind_request("warn", &prepared, ProfileProtection::SessionKeys);
    request.purpose = "warn".to_owned();
    site.bind(&request).await.unwrap();
    // The one before comes again, and one that somebody else signed.
    for (file, anchor, why) in [("1.crl", ANCHOR, "no newer"), ("own.crl", ANCHOR, "another issuer")] {
        if file == "own.crl" {
            let list = crate::revocation::get(deployment.http_port(), "/crl/ci-a.crl").unwrap();
            fs::write(elsewhere.folder.join(file), list).unwrap();
        }
        let list = elsewhere.path(file);
        let publish = ["anchor", "publish-list", "--anchor", anchor, "--crl", &list, "--identity", "officer"];
        let refused = deployment.refused("chancery", &publish);
        assert!(refused.contains(why), "{refused}");
    }
    // The other manufacturer under it is served until the anchor is trusted no more.
    download(site, 4).await;
    deployment.two_persons(&["anchor", "retire", ANCHOR, "--reason", "its key is stolen"], None);
    assert_eq!(refused(site.initiate(4).await), "CI_NOT_SUPPORTED");
    let listed = deployment.chancery(&["anchor", "list", "--identity", "officer"]);
    assert!(listed.contains("retired"), "{listed}");
    // Nor does the issuer under it certify a device any more.
    let spki = hex::encode(subject_public_key_info(&PrivateKey::random(Curve::P256).public_key()));
    let line = format!("eid,public_key\n{},{spki}\n", eid(GRANTED, 231));
    fs::write(deployment.path("more.csv"), line).unwrap();
    let place = ["order", "place", "--order", "more", "--issuer", "eum-there", "--devices", "more.csv"];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
    let placed = deployment.try_chancery(&[&place[..], &terms].concat());
    let said =
        String::from_utf8_lossy(&placed.stdout).into_owned() + &String::from_utf8_lossy(&placed.stderr);
    assert!(said.contains("the anchor gsma-test is trusted no more"), "{said}");
    let own = site.begin(&site.euiccs[0], ADDRESS, PURPOSE, None).await;
    assert!(own.is_ok(), "{own:?}");
}
