//! A second certificate issuer of the authority, certified by the first and the other way round.

use std::fs;
use std::process::Command;

use crate::support::Deployment;

const NEXT: &str = "ci-next";

fn openssl(deployment: &Deployment, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(deployment.path("")).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn who_trusts_one_certificate_issuer_can_go_on_to_the_next() {
    let deployment = Deployment::found();
    fs::write(
        deployment.path("ci.pem"),
        pki::Certificate::from_der(&deployment.ci_certificate()).unwrap().pem(),
    )
    .unwrap();
    let why = ["--reason", "key change"];
    let create =
        ["ceremony", "create-key", "--config", "chanceryd.toml", "--name", NEXT, "--out", "next.json"];
    deployment.chanceryd(&create);
    let register = ["issuer", "register", "--key-file", "next.json", "--authority"];
    deployment.two_persons(&[&register[..], &why].concat(), None);
    // Nobody is certified before it has its own certificate, and nobody by itself.
    let cross = |issuer: &str, under: &str| {
        ["issuer", "cross-certify", "--issuer", issuer, "--under", under].map(str::to_owned).to_vec()
    };
    let refused = |issuer: &str, under: &str| {
        let cross = cross(issuer, under);
        let cross: Vec<&str> = cross.iter().map(String::as_str).collect();
        deployment.refused("chancery", &[&cross[..], &why, &["--identity", "officer"]].concat())
    };
    assert!(refused(NEXT, "ci").contains("has no certificate yet"));
    let certify = ["issuer", "certify", "--issuer", NEXT, "--common-name", "Test CI 2"];
    deployment.two_persons(&[&certify[..], &why].concat(), Some("next"));
    assert!(refused("ci", "ci").contains("by one of another name"));
    assert!(refused("operator", "ci").contains("no certificate issuer of the authority"));
    for (issuer, under, received) in [(NEXT, "ci", "new-with-old"), ("ci", NEXT, "old-with-new")] {
        let cross = cross(issuer, under);
        let cross: Vec<&str> = cross.iter().map(String::as_str).collect();
        deployment.two_persons(&[&cross[..], &why].concat(), Some(received));
    }

    let key = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let files = ["-keyout", "dp.key", "-out", "dp.csr", "-subj", "/CN=dp"];
    assert!(openssl(&deployment, &[&key[..], &files].concat()).0);
    let request =
        ["certificate", "request", "--profile", "dppb", "--party", "provisioner", "--csr", "dp.csr"];
    let subject = ["--common-name", "SM-DP+", "--registered-id", "2.999.10", "--under", NEXT];
    deployment.two_persons(&[&request[..], &subject, &why].concat(), Some("dp"));
    let [leaf, cross, back] =
        ["dp", "new-with-old", "old-with-new"].map(|name| format!("received/{name}/certificate.pem"));

    // Trusting the old one alone: only with the certificate between them.
    let (passes, said) = openssl(&deployment, &["verify", "-CAfile", "ci.pem", &leaf]);
    assert!(!passes, "{said}");
    let verify = ["verify", "-x509_strict", "-CAfile", "ci.pem", "-untrusted", &cross, &leaf];
    assert_eq!(openssl(&deployment, &verify).1, format!("{leaf}: OK\n"));
    let next = "received/next/certificate.pem";
    let back = ["verify", "-x509_strict", "-CAfile", next, &back];
    assert!(openssl(&deployment, &back).1.ends_with("OK\n"));
    let ours = ["certificate", "verify", &leaf, "--ci", "ci.pem", "--chain", &cross];
    deployment.chancery(&ours);
    assert!(
        deployment.try_chancery(&["certificate", "verify", &leaf, "--ci", "ci.pem"]).status.code() == Some(1)
    );

    // It is revoked as others are: the old one's list names it.
    let certificate = pki::Certificate::from_pem(&fs::read(deployment.path(&cross)).unwrap()).unwrap();
    let serial = hex::encode(certificate.serial().as_bytes());
    let revoke = ["certificate", "revoke", "--serial", &serial, "--reason", "superseded"];
    deployment.two_persons(&revoke, None);
    let due = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let list = crate::revocation::get(deployment.http_port(), "/crl/ci-a.crl").unwrap();
        if pki::crl::Crl::from_der(&list).unwrap().find(certificate.serial()).is_some() {
            break;
        }
        assert!(std::time::Instant::now() < due, "the list does not show it");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    deployment.export("export-cross");
}
