//! Variant C of SGP.22 v3: sub CAs of the authority, and the certificates of an SM-DP+ and an SM-DS below them.

use crate::authority::{CONFIG, openssl_request};
use crate::stage::{Failure, Stage};

const REASON: [&str; 2] = ["--reason", "SGP.22 v3"];

/// Sub CAs from the top: profile, name, the one above.
const SUB_CAS: [(&str, &str, &str); 3] = [
    ("ci-sub", "national-sub", "ci"),
    ("dp-sub", "dp-sub-one", "national-sub"),
    ("ds-sub", "ds-sub-one", "national-sub"),
];
/// Leaves: profile, the sub CA that issues it, and the host that a TLS certificate names.
const LEAVES: [(&str, &str, &str); 5] = [
    ("dpauth-v3", "dp-sub-one", ""),
    ("dppb-v3", "dp-sub-one", ""),
    ("dptls-v3", "dp-sub-one", "smdp3.example.com"),
    ("dsauth-v3", "ds-sub-one", ""),
    ("dstls-v3", "ds-sub-one", "smds.example.com"),
];

/// Builds it; each certificate stays for other judges, under the name of its profile.
pub fn play(stage: &Stage) -> Result<(), Failure> {
    for (profile, name, under) in SUB_CAS {
        let file = format!("state/{name}.key.json");
        let create = ["ceremony", "create-key", "--config", CONFIG, "--name", name, "--out", &file];
        stage.expect("chanceryd", &create, 0)?;
        let register = ["issuer", "register", "--key-file", &file, "--authority"];
        stage.two_persons(&[&register[..], &REASON].concat(), None)?;
        let certify = ["issuer", "certify", "--profile", profile, "--issuer", name, "--under", under];
        let subject = ["--common-name", name];
        keep(stage, &[&certify[..], &subject, &REASON].concat(), profile)?;
    }
    for (profile, under, host) in LEAVES {
        let (key, csr) = (format!("parties/dp-one/{profile}-key.pem"), format!("state/{profile}.csr.pem"));
        let common_name = if host.is_empty() { "TEST v3" } else { host };
        openssl_request(stage, &key, &csr, &format!("/O=ACME/CN={common_name}"), "PEM")?;
        let request = ["certificate", "request", "--profile", profile, "--party", "dp-one", "--csr", &csr];
        let subject = ["--common-name", common_name, "--registered-id", "2.999.10", "--under", under];
        let host = if host.is_empty() { vec![] } else { vec!["--dns-name", host] };
        keep(stage, &[&request[..], &subject, &host, &REASON].concat(), profile)?;
    }
    let between: Result<Vec<String>, Failure> =
        SUB_CAS.iter().map(|(profile, ..)| stage.read(&format!("{profile}.pem"))).collect();
    stage.write("state/v3-between.pem", between?.concat())?;
    for (profile, ..) in LEAVES {
        let leaf = format!("{profile}.pem");
        let verify = ["certificate", "verify", &leaf, "--ci", "ci.pem", "--chain", "state/v3-between.pem"];
        stage.chancery(&verify)?;
    }
    Ok(())
}

fn keep(stage: &Stage, request: &[&str], profile: &str) -> Result<(), Failure> {
    let received = format!("state/received/{profile}");
    stage.two_persons(request, Some(&received))?;
    for form in ["pem", "der"] {
        stage.copy(&format!("{received}/certificate.{form}"), &format!("{profile}.{form}"))?;
    }
    Ok(())
}
