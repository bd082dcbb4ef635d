//! A hierarchy on P-384: issuer, sub CA, manufacturer, devices, servers, lists and answers, judged by openssl; and persons whose
//! TLS is on it.

use std::fs;
use std::process::Command;

use pki::{Certificate, KnownKeys, PublicKey};

use crate::devices::eid;
use crate::support::{Deployment, GRANTED, eventually};

const CI: &str = "ci-384";
const ISSUER: &str = "eum-384";
const WHY: [&str; 2] = ["--reason", "longer keys"];

/// Whether openssl succeeds, and what it says.
fn try_openssl(deployment: &Deployment, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(deployment.path("")).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn openssl(deployment: &Deployment, arguments: &[&str]) -> String {
    let (succeeded, said) = try_openssl(deployment, arguments);
    assert!(succeeded, "{arguments:?}: {said}");
    said
}

fn create_key(deployment: &Deployment, role: &str, name: &str, more: &[&str]) {
    let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", role, "--name", name];
    deployment.chanceryd(&[&create[..], more].concat());
}

/// A key of the `ca` token that becomes an issuer of the authority, with its certificate.
fn authority_issuer(deployment: &Deployment, name: &str, how: &[&str]) {
    let file = format!("{name}.json");
    create_key(deployment, "certificate-issuer-p-384", name, &["--out", &file]);
    let register = ["issuer", "register", "--authority", "--key-file", &file];
    deployment.two_persons(&[&register[..], &WHY].concat(), None);
    let common_name = format!("Test {name}");
    let certify = ["issuer", "certify", "--issuer", name, "--common-name", &common_name];
    deployment.two_persons(&[&certify[..], how, &WHY].concat(), Some(name));
}

/// The manufacturer's issuer, known and not certified.
fn manufacturers_issuer(deployment: &Deployment, name: &str) {
    let file = format!("{name}.json");
    create_key(deployment, "certificate-issuer-p-384", name, &["--party", "eum", "--out", &file]);
    deployment.two_persons(&[&["issuer", "register", "--key-file", &file][..], &WHY].concat(), None);
}

/// The words of a request for a server's certificate, whose key openssl has just made on this curve.
fn server_request(deployment: &Deployment, profile: &str, curve: &str, under: &str) -> Vec<String> {
    let (key, csr) = (format!("{profile}-{curve}.key"), format!("{profile}-{curve}.csr"));
    let curve = format!("ec_paramgen_curve:{curve}");
    let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", &curve, "-nodes", "-subj", "/CN=x"];
    openssl(deployment, &[&new[..], &["-keyout", &key, "-out", &csr]].concat());
    let request = ["certificate", "request", "--profile", profile, "--party", "provisioner", "--csr", &csr];
    let subject = ["--common-name", "dp.example", "--registered-id", "2.999.231", "--under", under];
    let dns_name: &[&str] = if profile == "dptls" { &["--dns-name", "dp.example"] } else { &[] };
    [&request[..], &subject, dns_name, &WHY].concat().into_iter().map(str::to_owned).collect()
}

fn words(request: &[String]) -> Vec<&str> {
    request.iter().map(String::as_str).collect()
}

fn certificate(deployment: &Deployment, name: &str) -> Certificate {
    let file = deployment.path(&format!("received/{name}/certificate.pem"));
    Certificate::from_pem(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_hierarchy_on_p_384_is_issued_revoked_and_answered_for() {
    let mut deployment = Deployment::found();
    authority_issuer(&deployment, CI, &[]);
    fs::write(deployment.path("ci-384.pem"), certificate(&deployment, CI).pem()).unwrap();
    manufacturers_issuer(&deployment, ISSUER);
    let request = ["certificate", "request", "--profile", "eum", "--party", "eum", "--issuer", ISSUER];
    let subject = ["--common-name", "EUM P-384", "--registered-id", "2.999.5", "--under", CI];
    deployment.two_persons(&[&request[..], &subject, &WHY].concat(), Some("eum-384"));
    for profile in ["dptls", "dpauth"] {
        let request = server_request(&deployment, profile, "P-384", CI);
        deployment.two_persons(&words(&request), Some(profile));
    }
    for name in ["eum-384", "dptls", "dpauth"] {
        let leaf = format!("received/{name}/certificate.pem");
        openssl(&deployment, &["verify", "-x509_strict", "-CAfile", "ci-384.pem", &leaf]);
        let text = openssl(&deployment, &["x509", "-in", &leaf, "-noout", "-text"]);
        assert!(text.contains("NIST CURVE: P-384") && text.contains("ecdsa-with-SHA384"), "{text}");
        deployment.chancery(&["certificate", "verify", &leaf, "--ci", "ci-384.pem"]);
        let asked = deployment.chancery(&["certificate", "ask", &leaf, "--identity", "officer"]);
        assert!(asked.contains("VERIFIED"), "{asked}");
    }
    sub_authority(&deployment);
    devices(&deployment);
    refusals(&deployment);
    // Every key is found, read back and tried again.
    deployment.restart();
    revoked_and_answered_for(&deployment);
    deployment.export("export-p384");
}

/// A sub CA of SGP.22 v3 and who stands below it.
fn sub_authority(deployment: &Deployment) {
    authority_issuer(deployment, "national-384", &["--profile", "ci-sub", "--under", CI]);
    authority_issuer(deployment, "servers-384", &["--profile", "dp-sub", "--under", "national-384"]);
    let request = server_request(deployment, "dpauth-v3", "P-384", "servers-384");
    deployment.two_persons(&words(&request), Some("dpauth-v3"));
    let between = ["national-384", "servers-384"].map(|name| certificate(deployment, name).pem()).concat();
    fs::write(deployment.path("between.pem"), between).unwrap();
    let leaf = "received/dpauth-v3/certificate.pem";
    let chain = ["-CAfile", "ci-384.pem", "-untrusted", "between.pem"];
    openssl(deployment, &[&["verify", "-x509_strict"][..], &chain, &[leaf]].concat());
    deployment.chancery(&["certificate", "verify", leaf, "--ci", "ci-384.pem", "--chain", "between.pem"]);
}

/// Devices by a bare key and by a request; a key on another curve, and one to be made here, fail alone.
fn devices(deployment: &Deployment) {
    let eids: Vec<String> = (0..5).map(|number| eid(GRANTED, number + 300)).collect();
    let mut lines = "eid,public_key,csr,make_key_pair\n".to_owned();
    for (number, eid) in eids.iter().enumerate() {
        let pkcs8 = if number == 3 { pki::generate_p256() } else { pki::generate_p384() }.unwrap();
        let key = hex::encode(pki::PrivateKey::from_pkcs8(&pkcs8).unwrap().spki());
        let csr = hex::encode(pki::csr::create_csr(&pkcs8, "device", "Maker").unwrap());
        lines += &match number {
            1 => format!("{eid},,{csr},\n"),
            4 => format!("{eid},,,P-256\n"),
            _ => format!("{eid},{key},,\n"),
        };
    }
    fs::write(deployment.path("devices-384.csv"), lines).unwrap();
    let place = ["order", "place", "--order", "p384", "--issuer", ISSUER, "--devices", "devices-384.csv"];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
    let placed = deployment.try_chancery(&[&place[..], &terms].concat());
    let said = String::from_utf8_lossy(&[placed.stdout, placed.stderr].concat()).into_owned();
    for refusal in [
        "WEAK_KEY",
        "the key is on P-256, but issuer eum-384 is on P-384",
        "key pairs are made on the curve of the order's issuer, when that is P-256 or brainpoolP256r1",
    ] {
        assert!(said.contains(refusal), "{refusal} in {said}");
    }

    let eum = "received/eum-384/certificate.pem";
    openssl(deployment, &["x509", "-in", eum, "-noout", "-pubkey", "-out", "eum-384-key.pem"]);
    for eid in &eids[..3] {
        let file = format!("{eid}.der");
        deployment.chancery(&["certificate", "get", "--eid", eid, "--out", &file, "--identity", "eum"]);
        let made = Certificate::from_der(&fs::read(deployment.path(&file)).unwrap()).unwrap();
        let key = PublicKey::parse(made.spki(), KnownKeys::Refuse).unwrap();
        assert_eq!(key.curve(), domain::Curve::P384);
        // The GSMA's name constraints are its own (SGP.22 §4.5.2.2), so only the signature is openssl's to judge.
        fs::write(deployment.path("tbs"), made.tbs_der()).unwrap();
        fs::write(deployment.path("signature"), made.signature()).unwrap();
        let judge = ["dgst", "-sha384", "-verify", "eum-384-key.pem", "-signature", "signature", "tbs"];
        openssl(deployment, &judge);
        let verify = ["certificate", "verify", &file, "--ci", "ci-384.pem", "--chain", eum];
        deployment.chancery(&[&verify[..], &["--role", "euicc"]].concat());
    }
}

fn refusals(deployment: &Deployment) {
    let refused = |arguments: &[&str]| {
        deployment.refused("chancery", &[arguments, &["--identity", "officer"]].concat())
    };
    // A chain is of one curve, whichever is the longer.
    for (curve, under, why) in [
        ("P-256", CI, "the key is on P-256, but issuer ci-384 is on P-384"),
        ("P-384", "ci", "the key is on P-384, but issuer ci is on P-256"),
    ] {
        let said = refused(&words(&server_request(deployment, "dppb", curve, under)));
        assert!(said.contains("WEAK_KEY") && said.contains(why), "{said}");
    }
    for (issuer, under) in [(CI, "ci"), ("ci", CI)] {
        let cross = ["issuer", "cross-certify", "--issuer", issuer, "--under", under];
        assert!(refused(&[&cross[..], &WHY].concat()).contains("WEAK_KEY"));
    }
    // SGP.22 knows no such keys of an SM-DP+: neither a ceremony makes one nor is one registered.
    let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", "rsp-auth-p-384"];
    let said = deployment.refused("chanceryd", &[&create[..], &["--name", "x", "--out", "x.json"]].concat());
    assert!(said.contains("a role is one of"), "{said}");
    let key = fs::read_to_string(deployment.path("eum-384.json")).unwrap();
    let key = key.replace("certificate-issuer-p-384", "rsp-auth").replace("\"eum\"", "\"provisioner\"");
    fs::write(deployment.path("rsp.json"), key).unwrap();
    let register = ["rsp", "key-register", "--key-file", "rsp.json", "--server-address", "dp.example"];
    let said = refused(&[&register[..], &["--registered-id", "2.999.231"], &WHY].concat());
    assert!(said.contains("on another curve than keys of this role"), "{said}");
}

/// The list names it, the responder says so; of the others both say nothing bad.
fn revoked_and_answered_for(deployment: &Deployment) {
    let serial = hex::encode(certificate(deployment, "dptls").serial().as_bytes());
    let revoke = ["certificate", "revoke", "--serial", &serial, "--reason", "superseded"];
    deployment.two_persons(&revoke, None);
    let path = format!("/crl/{CI}-a.crl");
    eventually("the list shows it", || {
        let list = crate::revocation::get(deployment.http_port(), &path);
        let list = list.and_then(|list| pki::crl::Crl::from_der(&list).ok());
        let Some(list) = list else { return false };
        fs::write(deployment.path("ci-384.crl"), list.pem()).unwrap();
        list.find(certificate(deployment, "dptls").serial()).is_some()
    });
    let check = ["verify", "-x509_strict", "-crl_check", "-CAfile", "ci-384.pem", "-CRLfile", "ci-384.crl"];
    for (name, good) in [("dptls", false), ("dpauth", true), ("eum-384", true)] {
        let leaf = format!("received/{name}/certificate.pem");
        let (accepted, said) = try_openssl(deployment, &[&check[..], &[&leaf]].concat());
        assert_eq!(accepted, good, "{said}");
        assert!(good || said.contains("certificate revoked"), "{said}");
    }

    let create = ["--out", "ocsp-384.json"];
    create_key(deployment, "ocsp-responder-p-384", CI, &create);
    let register = ["issuer", "register-responder", "--issuer", CI, "--key-file", "ocsp-384.json"];
    deployment.two_persons(&[&register[..], &WHY].concat(), None);
    let url = format!("http://127.0.0.1:{}/ocsp", deployment.http_port());
    let ask = |name: &str| {
        let leaf = format!("received/{name}/certificate.pem");
        let ask = ["ocsp", "-issuer", "ci-384.pem", "-CAfile", "ci-384.pem", "-cert", &leaf, "-url", &url];
        try_openssl(deployment, &[&ask[..], &["-resp_text"]].concat()).1
    };
    for (name, state) in [("dptls", "revoked"), ("dpauth", "good")] {
        let mut said = String::new();
        eventually("the responder answers", || {
            said = ask(name);
            said.contains(&format!("certificate.pem: {state}"))
        });
        assert!(said.contains("Response verify OK"), "{said}");
        assert!(said.contains("Signature Algorithm: ecdsa-with-SHA384"), "{said}");
    }
}

const ELSEWHERE: &str = "\
[req]
distinguished_name = none
[none]
[root]
subjectKeyIdentifier = hash
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
certificatePolicies = critical, 2.23.146.1.2.1.0
subjectAltName = RID:2.999.100
[eum]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
crlDistributionPoints = URI:http://elsewhere.example/ci.crl
";

#[test]
fn a_manufacturers_key_on_p_384_is_certified_elsewhere_and_its_certificate_taken_in() {
    let deployment = Deployment::found();
    fs::write(deployment.path("elsewhere.cnf"), ELSEWHERE).unwrap();
    openssl(&deployment, &["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "there.key"]);
    let root = ["req", "-x509", "-new", "-sha384", "-key", "there.key", "-days", "3650", "-utf8"];
    let subject = ["-subj", "/CN=Other CI/OU=Tests/O=Elsewhere/C=DE", "-config", "elsewhere.cnf"];
    openssl(&deployment, &[&root[..], &subject, &["-extensions", "root", "-out", "there.pem"]].concat());
    let register = ["anchor", "register", "--name", "there", "--certificate", "there.pem", "--ein", GRANTED];
    deployment.two_persons(&[&register[..], &["--without-lists"], &WHY].concat(), None);

    manufacturers_issuer(&deployment, ISSUER);
    let csr = ["anchor", "csr", "--issuer", ISSUER, "--common-name", "EUM there"];
    let more = ["--registered-id", "2.999.5", "--out", "eum.csr.pem", "--identity", "officer"];
    deployment.chancery(&[&csr[..], &more].concat());
    let text = openssl(&deployment, &["req", "-in", "eum.csr.pem", "-verify", "-noout", "-text"]);
    assert!(text.contains("self-signature verify OK") && text.contains("ecdsa-with-SHA384"), "{text}");
    let sign = ["x509", "-req", "-sha384", "-in", "eum.csr.pem", "-CA", "there.pem", "-CAkey", "there.key"];
    let how = ["-CAcreateserial", "-days", "365", "-copy_extensions", "copyall"];
    let where_to = ["-extfile", "elsewhere.cnf", "-extensions", "eum", "-out", "eum-there.pem"];
    openssl(&deployment, &[&sign[..], &how, &where_to].concat());
    let import = ["anchor", "import", "--anchor", "there", "--certificate", "eum-there.pem"];
    deployment.two_persons(&[&import[..], &["--party", "eum", "--issuer", ISSUER], &WHY].concat(), None);

    let eid = eid(GRANTED, 320);
    let key = pki::PrivateKey::from_pkcs8(&pki::generate_p384().unwrap()).unwrap();
    let line = format!("eid,public_key\n{eid},{}\n", hex::encode(key.spki()));
    fs::write(deployment.path("there.csv"), line).unwrap();
    let place = ["order", "place", "--order", "there", "--issuer", ISSUER, "--devices", "there.csv"];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
    deployment.chancery(&[&place[..], &terms].concat());
    deployment.chancery(&["certificate", "get", "--eid", &eid, "--out", "there.der", "--identity", "eum"]);
    let verify = ["certificate", "verify", "there.der", "--ci", "there.pem", "--chain", "eum-there.pem"];
    deployment.chancery(&[&verify[..], &["--role", "euicc"]].concat());
}

#[test]
fn tls_may_be_on_p_384_and_approvals_may_not() {
    let deployment = Deployment::found();
    let create = ["identity", "create", "--kind", "auditor", "--name", "long", "--out", "long"];
    deployment.chancery(&[&create[..], &["--tls-curve", "P-384"]].concat());
    let enrol = ["person", "enrol", "--identity-folder", "long", "--role", "auditor", "--reason", "hired"];
    // With an approval key on it, nobody could verify what the person approves.
    let approval = fs::read(deployment.path("long/approval.csr.pem")).unwrap();
    let longer = pki::csr::create_csr(&pki::generate_p384().unwrap(), "long", "long").unwrap();
    fs::write(deployment.path("long/approval.csr.pem"), pki::csr::csr_pem(&longer)).unwrap();
    let said = deployment.refused("chancery", &[&enrol[..], &["--identity", "officer"]].concat());
    assert!(said.contains("the approval key is on P-384, where P-256 is needed"), "{said}");
    fs::write(deployment.path("long/approval.csr.pem"), approval).unwrap();

    deployment.two_persons(&enrol, Some("long"));
    deployment.install("long", "received/long/certificate.pem");
    let text = openssl(&deployment, &["x509", "-in", "received/long/certificate.pem", "-noout", "-text"]);
    // The operator's CA, which signs, is on P-256.
    assert!(text.contains("NIST CURVE: P-384") && text.contains("ecdsa-with-SHA256"), "{text}");
    deployment.chancery(&["audit", "export", "--out", "by-long", "--identity", "long"]);

    // The next key is on the same curve, and serves.
    deployment.chancery(&["identity", "renew", "long"]);
    let renew = ["person", "renew", "long", "--csr", "long/tls.next.csr.pem", "--reason", "due"];
    deployment.two_persons(&renew, Some("long-2"));
    deployment.install("long", "received/long-2/certificate.pem");
    deployment.chancery(&["audit", "export", "--out", "by-long-2", "--identity", "long"]);
}
