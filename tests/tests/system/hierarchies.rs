//! SGP.22 v3, variant C: sub CAs of the certificate issuer, of SM-DP+ and of a manufacturer, and a profile of the operator's own.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use audit::EventType;
use pki::Certificate;

use crate::devices::eid;
use crate::support::{Deployment, GRANTED, files_below};

const PROFILE: &str = r#"
name = "dptls-90"
like = "dptls-v3"
validity_days = 90
[[extension]]
kind = "key-usage"
critical = true
values = ["digital-signature"]
[[extension]]
kind = "extended-key-usage"
critical = true
values = ["server-authentication", "client-authentication"]
[[extension]]
kind = "certificate-policies"
critical = true
values = ["2.23.146.1.2.1.0.0.1.0", "1.3.6.1.4.1.99999.7"]
[[extension]]
kind = "subject-key-identifier"
[[extension]]
kind = "authority-key-identifier"
[[extension]]
kind = "subject-alternative-name"
values = ["dns-name", "registered-id"]
[[extension]]
kind = "crl-distribution-points"
count = 1
"#;
const EUICC_PROFILE: &str = "name = \"euicc-eid\"\nlike = \"euicc-v3\"\nserial_number = \"eid\"\n";
const WHY: [&str; 2] = ["--reason", "variant C"];

fn openssl(deployment: &Deployment, arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).current_dir(deployment.path("")).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// A key of the `ca` token that becomes an issuer, with its certificate.
pub fn issuer(
    deployment: &Deployment,
    profile: &str,
    name: &str,
    under: &str,
    party: Option<&str>,
) -> Certificate {
    let file = format!("{name}.json");
    let create =
        ["ceremony", "create-key", "--config", "chanceryd.toml", "--name", name, "--out", &file].to_vec();
    let owner = party.map_or_else(Vec::new, |party| vec!["--party", party]);
    deployment.chanceryd(&[create, owner.clone()].concat());
    let owner = if owner.is_empty() { vec!["--authority"] } else { owner };
    let register = ["issuer", "register", "--key-file", &file].to_vec();
    deployment.two_persons(&[register, owner, WHY.to_vec()].concat(), None);
    let common_name = format!("Test {name}");
    let certify = match party {
        None => ["issuer", "certify", "--profile", profile, "--issuer", name, "--under", under].to_vec(),
        Some(party) => [
            "certificate",
            "request",
            "--profile",
            profile,
            "--issuer",
            name,
            "--under",
            under,
            "--party",
            party,
            "--registered-id",
            "2.999.5",
        ]
        .to_vec(),
    };
    let subject = ["--common-name", &common_name];
    deployment.two_persons(&[&certify[..], &subject, &WHY].concat(), Some(name));
    certificate(deployment, name)
}

fn certificate(deployment: &Deployment, name: &str) -> Certificate {
    let file = deployment.path(&format!("received/{name}/certificate.pem"));
    Certificate::from_pem(&fs::read(file).unwrap()).unwrap()
}

fn request(deployment: &Deployment, profile: &str, name: &str, under: &str) -> Vec<String> {
    let (key, csr) = (format!("{name}.key"), format!("{name}.csr"));
    let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(deployment, &[&new[..], &["-keyout", &key, "-out", &csr, "-subj", "/CN=x"]].concat());
    let mut request =
        ["certificate", "request", "--profile", profile, "--party", "provisioner", "--csr", &csr]
            .map(str::to_owned)
            .to_vec();
    let subject = ["--common-name", "dp.example", "--registered-id", "2.999.231", "--under", under];
    request.extend(subject.iter().chain(&WHY).map(|word| (*word).to_owned()));
    request
}

fn texts(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn variant_c_and_a_profile_of_the_operators_own() {
    let mut deployment = Deployment::found();
    deployment.stop();
    fs::write(deployment.path("dptls-90.toml"), PROFILE).unwrap();
    fs::write(deployment.path("euicc-eid.toml"), EUICC_PROFILE).unwrap();
    let configured = fs::read_to_string(deployment.path("chanceryd.toml")).unwrap();
    let own = "certificate_profiles = [\"dptls-90.toml\", \"euicc-eid.toml\"]";
    fs::write(
        deployment.path("chanceryd.toml"),
        configured.replace("certificate_profiles = []", "certificate_profiles = [\"absent.toml\"]"),
    )
    .unwrap();
    assert!(
        deployment.refused("chanceryd", &["doctor", "--config", "chanceryd.toml"]).contains("absent.toml")
    );
    let configured = configured
        .replace("certificate_profiles = []", own)
        .replace("ocsp_answers_ahead = 0", "ocsp_answers_ahead = 5000")
        .replace("delta = false\nshards = 0\npart_entries = 0", "delta = true\nshards = 2\npart_entries = 1");
    fs::write(deployment.path("chanceryd.toml"), configured).unwrap();
    deployment.serve();

    let ci = Certificate::from_der(&deployment.ci_certificate()).unwrap();
    fs::write(deployment.path("ci.pem"), ci.pem()).unwrap();
    issuer(&deployment, "ci-sub", "national", "ci", None);
    let dp_sub = issuer(&deployment, "dp-sub", "servers", "national", None);
    issuer(&deployment, "eum-v3-sub", "maker", "national", Some("eum"));
    let factory = issuer(&deployment, "eum-sub", "factory", "maker", Some("eum"));

    // Each issuer issues what its own certificate says, no more; refused before anybody approves.
    for (profile, under, why) in [
        ("dpauth", "servers", "issuer servers issues no dpauth certificates"),
        ("dsauth-v3", "servers", "its own would be ci or ci-sub or ds-sub"),
        ("euicc-v3", "factory", "come by orders"),
        ("dpauth-v3", "factory", "no certificate issuer of the authority"),
        ("dpauth-v4", "servers", "there is no certificate profile"),
    ] {
        let request = request(&deployment, profile, "wrong", under);
        let said =
            deployment.refused("chancery", &[&texts(&request)[..], &["--identity", "officer"]].concat());
        assert!(said.contains(why), "{said}");
    }

    // SM-DP+: below its sub CA; openssl and we follow the chain.
    deployment.two_persons(&texts(&request(&deployment, "dpauth-v3", "auth", "servers")), Some("auth"));
    let tls =
        [request(&deployment, "dptls-90", "tls", "servers"), vec!["--dns-name".into(), "dp.example".into()]];
    deployment.two_persons(&texts(&tls.concat()), Some("tls"));
    let tls = certificate(&deployment, "tls");
    let days = (tls.not_after().unix_seconds() - tls.not_before().unix_seconds()) / 86_400;
    assert_eq!(days, 90);
    let between = ["national", "servers"].map(|name| certificate(&deployment, name).pem()).concat();
    fs::write(deployment.path("between.pem"), between).unwrap();
    for name in ["auth", "tls"] {
        let leaf = format!("received/{name}/certificate.pem");
        let verify = ["verify", "-x509_strict", "-CAfile", "ci.pem", "-untrusted", "between.pem", &leaf];
        assert_eq!(openssl(&deployment, &verify), format!("{leaf}: OK\n"));
        deployment.chancery(&["certificate", "verify", &leaf, "--ci", "ci.pem", "--chain", "between.pem"]);
        // The service knows its own sub CAs.
        let asked = deployment.chancery(&["certificate", "ask", &leaf, "--identity", "officer"]);
        assert!(asked.contains("VERIFIED"), "{asked}");
    }
    assert!(
        openssl(&deployment, &["x509", "-in", "received/tls/certificate.pem", "-text", "-noout"])
            .contains("1.3.6.1.4.1.99999.7")
    );

    // Devices: below the manufacturer's sub CA, their serial numbers the EIDs.
    let body = format!("{GRANTED}{:0width$}", 7, width = 30 - GRANTED.len());
    let order = |name: &str, profile: &str| {
        format!(
            "order = \"{name}\"\nissuer = \"factory\"\ncertificate_profile = \"{profile}\"\nkvn = 0x30\n\
             algorithm = \"AES-128\"\n[devices]\nfirst_eid_body = \"{body}\"\nquantity = 3\nmake_key_pairs = \"P-256\"\n"
        )
    };
    let key = fs::read_to_string(deployment.path("handover/log-key.vkey")).unwrap();
    let submit = |name: &str| {
        let file = format!("{name}.toml");
        ["order", "submit", &file, "--out", name, "--log-key", key.trim(), "--identity", "eum"]
            .map(str::to_owned)
            .to_vec()
    };
    fs::write(deployment.path("wrong.toml"), order("wrong", "euicc")).unwrap();
    let said = deployment.refused("chancery", &texts(&submit("wrong")));
    assert!(said.contains("no profile of eUICC certificates that the issuer issues"), "{said}");
    fs::write(deployment.path("first.toml"), order("first", "euicc-eid")).unwrap();
    deployment.chancery(&texts(&submit("first")));
    let made = files_below(&deployment.path("first/certificates"));
    assert_eq!(made.len(), 3);
    let chain = ["national", "maker", "factory"].map(|name| certificate(&deployment, name).pem()).concat();
    fs::write(deployment.path("maker.pem"), chain).unwrap();
    for file in &made {
        let euicc = Certificate::from_der(&fs::read(file).unwrap()).unwrap();
        assert_eq!(hex::encode(euicc.serial().as_bytes()), euicc.eid().unwrap().to_string());
        assert_eq!(euicc.authority_key_identifier(), factory.subject_key_identifier());
        let file = file.to_str().unwrap();
        let verify =
            ["certificate", "verify", file, "--ci", "ci.pem", "--chain", "maker.pem", "--role", "euicc"];
        deployment.chancery(&verify);
    }

    // Revocation: the sub CA has lists of its own, and a responder of its own.
    let auth = hex::encode(certificate(&deployment, "auth").serial().as_bytes());
    let revoke = ["certificate", "revoke", "--serial", &auth, "--reason", "superseded"];
    deployment.two_persons(&revoke, None);
    let due = Instant::now() + Duration::from_secs(20);
    loop {
        let list = crate::revocation::get(deployment.http_port(), "/crl/servers-a.crl");
        let names = |list: &Vec<u8>| {
            let list = pki::crl::Crl::from_der(list).unwrap();
            list.find(certificate(&deployment, "auth").serial()).is_some()
        };
        if list.as_ref().is_some_and(names) {
            break;
        }
        assert!(Instant::now() < due, "the list of the sub CA does not show it");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(dp_sub.may_sign_crls() && factory.may_sign_crls());
    for name in ["national", "maker", "factory"] {
        let list = crate::revocation::get(deployment.http_port(), &format!("/crl/{name}-a.crl")).unwrap();
        assert!(pki::crl::Crl::from_der(&list).is_ok(), "{name}");
    }

    // The list of the certificate's shard, and what a server staples: other people's tools and ours agree.
    let auth = certificate(&deployment, "auth");
    let shard = auth.crl_urls()[0].rsplit_once("/crl/").unwrap().1.to_owned();
    assert!(shard.starts_with("servers~s"), "{shard}");
    let fetch = |path: &str| crate::revocation::get(deployment.http_port(), path);
    let due = Instant::now() + Duration::from_secs(20);
    while fetch(&format!("/crl/{shard}"))
        .is_none_or(|list| pki::crl::Crl::from_der(&list).unwrap().find(auth.serial()).is_none())
    {
        assert!(Instant::now() < due, "the list of the shard does not show it");
        std::thread::sleep(Duration::from_millis(100));
    }
    for file in ["servers~delta-a.crl", "servers~p1-b.crl"] {
        let list = pki::crl::Crl::from_der(&fetch(&format!("/crl/{file}")).unwrap()).unwrap();
        assert!(!list.scope().is_full() && list.revoked().len() == 1, "{file}: {list:?}");
    }
    assert!(fetch("/crl/servers~p2-a.crl").is_none() && fetch("/crl/servers~base-a.crl").is_none());
    for (name, code) in [("auth", 1), ("tls", 0)] {
        let shard = certificate(&deployment, name).crl_urls()[0].rsplit_once("/crl/").unwrap().1.to_owned();
        let staple = fetch(&format!("/staple/{}.p7c", shard.strip_suffix("-a.crl").unwrap())).unwrap();
        fs::write(deployment.path("staple.p7c"), &staple).unwrap();
        let leaf = format!("received/{name}/certificate.pem");
        let verify = ["certificate", "verify", &leaf, "--ci", "ci.pem", "--staple", "staple.p7c"];
        let judged = deployment.try_chancery(&verify);
        assert_eq!(judged.status.code(), Some(code), "{}", String::from_utf8_lossy(&judged.stdout));
    }
    let print = ["pkcs7", "-inform", "DER", "-in", "staple.p7c", "-print_certs", "-noout"];
    let printed = openssl(&deployment, &print);
    for authority in ["Test servers", "Test national", "Next Update"] {
        assert!(printed.contains(authority), "{printed}");
    }

    let due = Instant::now() + Duration::from_secs(20);
    let ahead = |line: &str| {
        let count = line.strip_prefix("chancery_ocsp_answers_total{kind=\"ahead\"} ");
        count.is_some_and(|count| count.parse::<u64>().unwrap() > 0)
    };
    while !deployment.metrics().lines().any(ahead) {
        assert!(Instant::now() < due, "no answers are signed ahead");
        std::thread::sleep(Duration::from_millis(100));
    }

    // Entries name the rules; no EID stands in one.
    let entries = deployment.entries();
    let issued: Vec<_> = entries.iter().filter(|e| e.header.event == EventType::CertificateIssued).collect();
    let of = |profile: &str| issued.iter().find(|entry| entry.name("profile") == Some(profile)).unwrap();
    assert_eq!(of("dptls-90").name("certificate_role"), Some("dptls"));
    assert_eq!(of("euicc-eid").name("certificate_role"), Some("euicc"));
    assert!(of("dptls-90").digest("profile_rules") != of("dpauth-v3").digest("profile_rules"));
    let shown = deployment.chancery(&["certificate", "profiles", "dptls-90", "--file", "dptls-90.toml"]);
    let digest = of("dptls-90").digest("profile_rules").unwrap();
    assert!(shown.contains(&hex::encode(digest)), "{shown}");
    deployment.export("export-hierarchies");
    let first = eid(GRANTED, 7);
    for file in files_below(&deployment.path("export-hierarchies")) {
        let bytes = fs::read(&file).unwrap();
        let packed = hex::decode(&first).unwrap();
        assert!(!bytes.windows(16).any(|window| window == packed), "{}", file.display());
    }
}
