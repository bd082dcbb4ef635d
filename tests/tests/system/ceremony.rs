//! Roots by ceremony from a reviewed specification: on a machine of its own, and beside a founded authority. What comes out is
//! judged by openssl.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use audit::sha256 as digest_of;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use crate::support::{AUTHORITY, Deployment, program};

const PAGE: &str = include_str!("../../../docs/formats/ceremony-specification.md");

/// The example of the format's page, for this authority.
fn example() -> String {
    let (_, rest) = PAGE.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.replace("example-authority", AUTHORITY)
}

fn head(title: &str) -> String {
    format!(
        "format = \"chancery-ceremony/v1\"\ntitle = \"{title}\"\nauthority = \"{AUTHORITY}\"\n\
         [[participant]]\nname = \"Olivia Berg\"\nduty = \"reads each step aloud\"\n"
    )
}

/// A root that begins now, and its first list.
fn root(name: &str, epoch: u32) -> String {
    head("Root")
        + &format!(
            r#"
[[key]]
name = "{name}"
role = "certificate-issuer"
epoch = {epoch}

[[certificate]]
name = "{name}"
profile = "ci"
key = "{name}"
subject = {{ common_name = "North Root", organizational_unit = "TESTCERT", organization = "Example", country = "NO" }}
registered_id = "2.999.1"
crl_urls = ["http://ci.example.org/crl/{name}-a.crl", "http://ci.example.org/crl/{name}-b.crl"]

[[list]]
name = "{name}"
issuer = "{name}"
number = 1
validity_days = 365
"#
        )
}

fn sha256(deployment: &Deployment, file: &str) -> String {
    hex::encode(digest_of(&fs::read(deployment.path(file)).unwrap()))
}

fn write(deployment: &Deployment, file: &str, text: &str) -> String {
    fs::write(deployment.path(file), text).unwrap();
    sha256(deployment, file)
}

fn plan(file: &str) -> [&str; 6] {
    ["ceremony", "plan", "--config", "chanceryd.toml", "--specification", file]
}

fn run<'a>(file: &'a str, reviewed: &'a str, out: &'a str) -> Vec<&'a str> {
    let what = ["ceremony", "run", "--config", "chanceryd.toml", "--specification", file];
    [&what[..], &["--reviewed", reviewed, "--out", out]].concat()
}

fn openssl(deployment: &Deployment, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).current_dir(deployment.path("")).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn accepted(deployment: &Deployment, arguments: &[&str]) {
    let (passes, said) = openssl(deployment, arguments);
    assert!(passes, "openssl {}: {said}", arguments.join(" "));
}

/// The transcript's text, once openssl has accepted its signature under the key beside it.
fn transcript(deployment: &Deployment, out: &str) -> String {
    let note = fs::read_to_string(deployment.path(out).join("transcript.txt")).unwrap();
    let (text, signature) = note.split_once("\n\n").unwrap();
    let signature = BASE64_STANDARD.decode(signature.trim().rsplit(' ').next().unwrap()).unwrap();
    let vkey = fs::read_to_string(deployment.path(out).join("transcript-key.vkey")).unwrap();
    let key = BASE64_STANDARD.decode(vkey.trim().splitn(3, '+').nth(2).unwrap()).unwrap();
    let spki =
        [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00][..], &key[1..]].concat();
    let text = format!("{text}\n");
    for (name, bytes) in
        [("text", text.clone().into_bytes()), ("sig", signature[4..].to_vec()), ("key.der", spki)]
    {
        fs::write(deployment.path(name), bytes).unwrap();
    }
    let verify = ["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin"];
    accepted(deployment, &[&verify[..], &["-in", "text", "-sigfile", "sig"]].concat());
    assert!(text.contains(&format!("log-key: {}\n", vkey.trim())), "{text}");
    text
}

#[test]
fn a_plan_shows_every_value_and_touches_no_token() {
    let machine = Deployment::unfounded();
    let digest = write(&machine, "root.toml", &example());
    let text = machine.chanceryd(&plan("root.toml"));
    for shown in [
        digest.as_str(),
        "Root of the north, 2026",
        "Anton Dahl: holds the PIN of the token ca",
        "chancery/certificate-issuer/north-root/1",
        "subject commonName",
        "North Root OCSP",
        "registeredID 2.999.1",
        "2061-11-30T00:00:00Z",
        "keyCertSign, cRLSign",
        "random, 20 octets",
        "http://ci.example.org/crl/north-root-a.crl, http://ci.example.org/crl/north-root-b.crl",
        "revoked 0a0b0c0d0e0f1011",
        "keyUsage, certificatePolicies, subjectAltName, basicConstraints, nameConstraints",
        "north-root.ocsp-responder.key.json",
        "the transcript key of this machine signs the transcript",
        "passed the lint",
    ] {
        assert!(text.contains(shown), "{shown} is not in\n{text}");
    }
    let order: Vec<_> = ["commonName", "organizationalUnitName", "organizationName", "countryName"]
        .map(|name| text.find(&format!("subject {name}")).unwrap())
        .into();
    assert!(order.is_sorted(), "the subject stands in its order:\n{text}");
    let json: Value =
        serde_json::from_str(&machine.chanceryd(&[&plan("root.toml")[..], &["--output", "json"]].concat()))
            .unwrap();
    assert_eq!(json["specification_sha256"], digest);
    assert_eq!(json["steps"].as_array().unwrap().len(), 7);
    assert!(!machine.path("data").exists(), "a plan makes nothing");

    // What cannot succeed fails at the review.
    for (from, to, why) in [
        ("registered_id = \"2.999.1\"", "", "registered_id"),
        (
            "country = \"NO\" }\nregistered_id = \"2.999.1\"",
            "country = \"no\" }\nregistered_id = \"2.999.1\"",
            "two upper-case",
        ),
        ("organizational_unit = \"TESTCERT\", ", "", "organizationalUnitName"),
        (", \"http://ci.example.org/crl/north-root-b.crl\"", "", "as many URLs"),
        ("permitted_eins = [\"89049032\"]", "permitted_eins = [\"8904\"]", "IIN of 8 digits"),
        ("date = 2026-11-02", "date = 2027-11-02", "revoked after thisUpdate"),
        (
            "this_update = 2026-12-01",
            "this_update = 2020-12-01",
            "outside the validity of the issuer's certificate",
        ),
        ("validity_days = 365", "next_update = 2029-01-01T00:00:00Z", "400 days"),
        ("validity_days = 12783", "not_after = 2099-01-01T00:00:00Z", "12783 days at most"),
        (
            "role = \"ocsp-responder\"",
            "role = \"ocsp-responder-brainpool-p256r1\"",
            "but its issuer's is on P-256",
        ),
        (AUTHORITY, "another", "the specification is for authority another"),
    ] {
        let text = example();
        assert!(text.contains(from), "{from}");
        write(&machine, "wrong.toml", &text.replacen(from, to, 1));
        let said = machine.refused("chanceryd", &plan("wrong.toml"));
        assert!(said.contains(why), "{to}: {said}");
    }
}

#[test]
fn an_offline_machine_makes_a_root_that_later_signs_a_request_and_its_lists() {
    let machine = Deployment::unfounded();
    let text = root("north-root", 1)
        + r#"
[[key]]
name = "north-eum"
role = "certificate-issuer"

[[request]]
name = "north-eum"
profile = "eum"
key = "north-eum"
subject = { country = "NO", organization = "Example Cards", common_name = "North EUM" }
registered_id = "2.999.5"
permitted_eins = ["89049032"]
"#;
    let digest = write(&machine, "root.toml", &text);
    let other = sha256(&machine, "chanceryd.toml");
    let said = machine.refused("chanceryd", &run("root.toml", &other, "root"));
    assert!(said.contains("another one than was reviewed") && said.contains(&digest), "{said}");
    assert!(!machine.path("root").exists() && !machine.path("data").exists(), "nothing was made");

    machine.chanceryd(&run("root.toml", &digest, "root"));
    accepted(&machine, &["verify", "-x509_strict", "-CAfile", "root/north-root.pem", "root/north-root.pem"]);
    let list = ["crl", "-inform", "DER", "-in", "root/north-root.crl", "-noout"];
    let (_, said) = openssl(&machine, &[&list[..], &["-CAfile", "root/north-root.pem"]].concat());
    assert!(said.contains("verify OK"), "{said}");
    let (_, said) =
        openssl(&machine, &["req", "-in", "root/north-eum.csr.pem", "-verify", "-noout", "-text"]);
    assert!(said.contains("verify OK") && said.contains("CN = North EUM"), "{said}");
    let record = transcript(&machine, "root");
    for file in ["root/north-root.der", "root/north-root.crl"] {
        assert!(record.contains(&sha256(&machine, file)), "{file} in {record}");
    }
    assert!(
        record.contains(&format!("specification: sha256 {digest}\nreviewed: sha256 {digest}\n")),
        "{record}"
    );
    assert!(record.contains("participant: Olivia Berg: reads each step aloud\n"), "{record}");
    assert!(record.contains("template: ") && record.contains("EXTRACTABLE=false"), "{record}");
    assert!(record.ends_with("outcome: complete\n"), "{record}");

    // Neither its files nor its keys are made twice; the refusal of the token is in a signed transcript too.
    let said = machine.refused("chanceryd", &run("root.toml", &digest, "root"));
    assert!(said.contains("is there already"), "{said}");
    let said = machine.refused("chanceryd", &run("root.toml", &digest, "again"));
    assert!(said.contains("is on the token already"), "{said}");
    let record = transcript(&machine, "again");
    assert!(record.contains("failure: ") && record.ends_with("outcome: failed\n"), "{record}");
    assert!(!machine.path("again/north-root.key.json").exists());

    // A year later: the same root certifies the key of somebody else's request, and lists what is revoked.
    let new = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    accepted(&machine, &[&new[..], &["-keyout", "eum.key", "-out", "eum.csr", "-subj", "/CN=they"]].concat());
    let second = head("Second")
        + &format!(
            r#"
[[earlier-issuer]]
name = "north"
key_file = "root/north-root.key.json"
certificate = {{ file = "root/north-root.pem", sha256 = "{}" }}

[[certificate]]
name = "eum"
profile = "eum"
csr = {{ file = "eum.csr", sha256 = "{}" }}
issuer = "north"
subject = {{ country = "NO", organization = "Example Cards", common_name = "Cards" }}
registered_id = "2.999.5"
permitted_eins = ["89049032"]
validity_days = 3650
serial = "0102030405060708090a"
crl_urls = ["http://ci.example.org/crl/north-root-a.crl"]

[[list]]
name = "two"
issuer = "north"
number = 2
validity_days = 365
previous = {{ file = "root/north-root.crl", sha256 = "{}" }}

[[list]]
name = "three"
issuer = "north"
number = 3
validity_days = 365

[[list.revoked]]
serial = "0102030405060708090a"
date = 2025-11-02T09:00:00Z
reason = "key-compromise"
invalidity_date = 2025-11-01T00:00:00Z
"#,
            sha256(&machine, "root/north-root.pem"),
            sha256(&machine, "eum.csr"),
            sha256(&machine, "root/north-root.crl"),
        );
    let digest = write(&machine, "second.toml", &second);
    let text = machine.chanceryd(&plan("second.toml"));
    assert!(text.contains("north, of an earlier ceremony") && text.contains("they, -; not taken"), "{text}");
    assert!(text.contains("warning: list three: names no previous list"), "{text}");
    machine.chanceryd(&run("second.toml", &digest, "second"));
    let judged = |list: &str| {
        let pem = format!("{list}.pem");
        accepted(&machine, &["crl", "-inform", "DER", "-in", list, "-out", &pem]);
        let verify = ["verify", "-x509_strict", "-crl_check", "-CAfile", "root/north-root.pem"];
        openssl(&machine, &[&verify[..], &["-CRLfile", &pem, "second/eum.pem"]].concat())
    };
    assert_eq!(judged("second/two.crl"), (true, "second/eum.pem: OK\n".to_owned()));
    let (passes, said) = judged("second/three.crl");
    assert!(!passes && said.contains("certificate revoked"), "{said}");
    let record = transcript(&machine, "second");
    assert!(
        record.contains("earlier-issuer: north key chancery/certificate-issuer/north-root/1"),
        "{record}"
    );
    let vkey = |out: &str| fs::read(machine.path(out).join("transcript-key.vkey")).unwrap();
    assert_eq!(vkey("root"), vkey("second"), "one key signs the transcripts of one machine");

    // What the reviewers saw is what is read: not another request, certificate or list.
    for (from, to, why) in [
        (
            "file = \"eum.csr\"",
            "file = \"root/north-eum.csr.pem\"",
            "another file than the specification names",
        ),
        (
            "file = \"root/north-root.pem\"",
            "file = \"root/north-root.der\"",
            "another file than the specification names",
        ),
        (
            "key_file = \"root/north-root.key.json\"",
            "key_file = \"root/north-eum.key.json\"",
            "for another key than",
        ),
        ("number = 2", "number = 1", "has number 1; the next one's is higher"),
        (
            "serial = \"0102030405060708090a\"\ncrl",
            "serial = \"0102030405060708090a\"\nnot_before = 2020-01-01T00:00:00Z\ncrl",
            "",
        ),
    ] {
        write(&machine, "changed.toml", &second.replacen(from, to, 1));
        match why {
            "" => assert!(machine.chanceryd(&plan("changed.toml")).contains("begins before its issuer's")),
            why => {
                let said = machine.refused("chanceryd", &plan("changed.toml"));
                assert!(said.contains(why), "{to}: {said}");
            }
        }
    }
    // The machine of the ceremonies is no authority's, and a token that lacks the key signs nothing.
    machine.chancery(&["identity", "create", "--kind", "officer", "--name", "o", "--out", "o"]);
    machine.chancery(&["identity", "create", "--kind", "approver", "--name", "a", "--out", "a"]);
    let init = ["init", "--config", "chanceryd.toml", "--person", "o", "--person", "a", "--out", "handover"];
    let said = machine.refused("chanceryd", &init);
    assert!(said.contains("ceremonies without an authority"), "{said}");
    let elsewhere = Deployment::unfounded();
    for file in ["north-root.key.json", "north-root.pem", "north-root.crl"] {
        fs::create_dir_all(elsewhere.path("root")).unwrap();
        fs::copy(machine.path("root").join(file), elsewhere.path("root").join(file)).unwrap();
    }
    fs::copy(machine.path("eum.csr"), elsewhere.path("eum.csr")).unwrap();
    fs::copy(machine.path("second.toml"), elsewhere.path("second.toml")).unwrap();
    let said = elsewhere.refused("chanceryd", &run("second.toml", &digest, "second"));
    assert!(said.contains("chancery-ca with serial") && said.contains("is not there"), "{said}");
    assert!(!elsewhere.path("second/eum.pem").exists());
}

#[test]
fn the_example_of_the_page_is_done_on_either_curve() {
    for curve in ["", "-brainpool-p256r1"] {
        let machine = Deployment::unfounded();
        let text = example()
            .replace("\"certificate-issuer\"", &format!("\"certificate-issuer{curve}\""))
            .replace("\"ocsp-responder\"\n\n", &format!("\"ocsp-responder{curve}\"\n\n"));
        let digest = write(&machine, "root.toml", &text);
        machine.chanceryd(&run("root.toml", &digest, "root"));
        let record = transcript(&machine, "root");
        assert!(record.ends_with("outcome: complete\n"), "{record}");
        // They begin on a day of the file's.
        let verify = ["verify", "-x509_strict", "-attime", "1800000000", "-CAfile", "root/north-root.pem"];
        accepted(&machine, &[&verify[..], &["root/north-root.pem", "root/north-root-ocsp.pem"]].concat());
        let (_, said) = openssl(&machine, &["req", "-in", "root/north-sub.csr.pem", "-verify", "-noout"]);
        assert!(said.contains("verify OK"), "{said}");
        let list = ["crl", "-inform", "DER", "-in", "root/north-root.crl", "-noout", "-text"];
        let (_, said) = openssl(&machine, &[&list[..], &["-CAfile", "root/north-root.pem"]].concat());
        assert!(said.contains("verify OK") && said.contains("0A0B0C0D0E0F1011"), "{said}");
        let key: Value =
            serde_json::from_slice(&fs::read(machine.path("root/north-sub.key.json")).unwrap()).unwrap();
        assert_eq!((&key["party"], &key["token"]), (&"eum-one".into(), &"ca".into()));
        assert_eq!(key["role"], format!("certificate-issuer{curve}"));
    }
}

/// The hierarchy of SGP.22 v3 below a root, each CA with a key of the specification.
const HIERARCHY: &str = r#"
[[key]]
name = "sub"
role = "certificate-issuer"

[[key]]
name = "maker"
role = "certificate-issuer"

[[key]]
name = "maker-sub"
role = "certificate-issuer"

[[certificate]]
name = "sub"
profile = "ci-sub"
key = "sub"
issuer = "north-root"
subject = { common_name = "National", organizational_unit = "TESTCERT", organization = "Example", country = "NO" }
registered_id = "2.999.2"
crl_urls = ["http://ci.example.org/crl/north-root-a.crl", "http://ci.example.org/crl/north-root-b.crl"]
validity_days = 700

[[certificate]]
name = "maker"
profile = "eum-v3-sub"
key = "maker"
issuer = "sub"
subject = { country = "NO", organization = "Cards", common_name = "Maker" }
registered_id = "2.999.5"
permitted_eins = ["89049032"]
crl_urls = ["http://ci.example.org/crl/sub-a.crl", "http://ci.example.org/crl/sub-b.crl"]
validity_days = 600

[[certificate]]
name = "maker-sub"
profile = "eum-sub"
key = "maker-sub"
issuer = "maker"
subject = { country = "NO", organization = "Cards", common_name = "Line 7" }
registered_id = "2.999.5"
permitted_eins = ["890490321"]
crl_urls = ["http://ci.example.org/crl/maker-a.crl", "http://ci.example.org/crl/maker-b.crl"]
validity_days = 500

[[list]]
name = "sub"
issuer = "sub"
number = 1
validity_days = 30
"#;

#[test]
fn a_hierarchy_is_made_in_one_ceremony_and_no_link_of_it_may_more_than_the_one_above() {
    let machine = Deployment::unfounded();
    let (keys, certificates) = HIERARCHY.split_once("[[certificate]]").unwrap();
    let text = root("north-root", 1).replacen("[[certificate]]", &format!("{keys}[[certificate]]"), 1);
    let (before, list) = text.split_once("[[list]]").unwrap();
    let text = format!("{before}[[certificate]]{certificates}\n[[list]]{list}");
    let digest = write(&machine, "all.toml", &text);
    machine.chanceryd(&run("all.toml", &digest, "all"));
    let chain = ["-untrusted", "all/sub.pem", "-untrusted", "all/maker.pem", "all/maker-sub.pem"];
    // permittedEins is critical, and the GSMA's alone: our own verifier knows it.
    let verify = ["verify", "-x509_strict", "-ignore_critical", "-CAfile", "all/north-root.pem"];
    accepted(&machine, &[&verify[..], &chain].concat());
    let verify = ["certificate", "verify", "all/maker-sub.pem", "--ci", "all/north-root.pem"];
    machine.chancery(&[&verify[..], &["--chain", "all/maker.pem", "--chain", "all/sub.pem"]].concat());
    let list = ["crl", "-inform", "DER", "-in", "all/sub.crl", "-noout"];
    let (_, said) = openssl(&machine, &[&list[..], &["-CAfile", "all/sub.pem"]].concat());
    assert!(said.contains("verify OK"), "{said}");

    for (from, to, why) in [
        ("\"890490321\"", "\"8904\"", "does not permit 8904"),
        ("issuer = \"maker\"", "issuer = \"sub\"", "issues no eum-sub certificates"),
        ("validity_days = 600", "validity_days = 701", ""),
    ] {
        assert!(text.contains(from), "{from}");
        write(&machine, "wrong.toml", &text.replacen(from, to, 1));
        if why.is_empty() {
            let said = machine.chanceryd(&plan("wrong.toml"));
            assert!(said.contains("warning: certificate maker: ends after its issuer's"), "{said}");
        } else {
            let said = machine.refused("chanceryd", &plan("wrong.toml"));
            assert!(said.contains(why), "{to}: {said}");
        }
    }
}

#[test]
fn a_profile_of_the_operators_own_is_named_by_its_rules() {
    let machine = Deployment::unfounded();
    let profile = |days: u32| format!("name = \"ci-short\"\nlike = \"ci\"\nvalidity_days = {days}\n");
    write(&machine, "ci-short.toml", &profile(3652));
    let config = fs::read_to_string(machine.path("chanceryd.toml")).unwrap();
    let own = config.replace("certificate_profiles = []", "certificate_profiles = [\"ci-short.toml\"]");
    write(&machine, "chanceryd.toml", &own);
    let text = root("short", 1).replace("profile = \"ci\"", "profile = \"ci-short\"");
    write(&machine, "root.toml", &text);
    let said = machine.refused("chanceryd", &plan("root.toml"));
    let rules = said.trim().rsplit(' ').next().unwrap().trim_matches('"').to_owned();
    assert!(said.contains("is your own: profile_rules names its rules") && rules.len() == 64, "{said}");
    let named = format!("profile = \"ci-short\"\nprofile_rules = \"{rules}\"");
    let digest = write(&machine, "root.toml", &text.replace("profile = \"ci-short\"", &named));
    machine.chanceryd(&run("root.toml", &digest, "root"));
    assert!(transcript(&machine, "root").contains(&format!("profile ci-short profile-rules-sha256 {rules}")));
    // The file is the one that was reviewed, the configuration is not.
    write(&machine, "ci-short.toml", &profile(3653));
    let said = machine.refused("chanceryd", &run("root.toml", &digest, "again"));
    assert!(said.contains("profile_rules of ci-short are"), "{said}");
}

#[test]
fn production_takes_no_published_key_and_no_software_token() {
    let machine = Deployment::unfounded();
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/sgp26_varO_2020/SK_EUM_ECDSA_NIST.pem");
    accepted(&machine, &["req", "-new", "-key", vectors, "-out", "eum.csr", "-subj", "/CN=they"]);
    let certificate = format!(
        r#"
[[certificate]]
name = "eum"
profile = "eum"
csr = {{ file = "eum.csr", sha256 = "{}" }}
issuer = "north-root"
subject = {{ country = "NO", organization = "Example Cards", common_name = "Cards" }}
registered_id = "2.999.5"
permitted_eins = ["89049032"]
validity_days = 3650
crl_urls = ["http://ci.example.org/crl/north-root-a.crl"]
"#,
        sha256(&machine, "eum.csr")
    );
    write(&machine, "known.toml", &(root("north-root", 1) + &certificate));
    let text = machine.chanceryd(&plan("known.toml"));
    assert!(text.contains("warning: the configuration is for development"), "{text}");
    let config = fs::read_to_string(machine.path("chanceryd.toml")).unwrap();
    write(&machine, "chanceryd.toml", &config.replace("mode = \"development\"", "mode = \"production\""));
    let said = machine.refused("chanceryd", &plan("known.toml"));
    assert!(said.contains("the private half of the request's key is published"), "{said}");
    let digest = write(&machine, "root.toml", &root("north-root", 1));
    assert!(!machine.chanceryd(&plan("root.toml")).contains("development"));
    let said = machine.refused("chanceryd", &run("root.toml", &digest, "root"));
    assert!(said.contains("SoftHSM, which production mode refuses"), "{said}");
    assert!(!machine.path("root/north-root.key.json").exists());
}

#[test]
fn what_a_failed_ceremony_made_is_in_its_transcript_and_the_next_epoch_goes_on() {
    let machine = Deployment::unfounded();
    let digest = write(&machine, "root.toml", &root("north-root", 1));
    // The certificate cannot be written, as on a full disk.
    fs::create_dir_all(machine.path("first/north-root.part")).unwrap();
    let said = machine.refused("chanceryd", &run("root.toml", &digest, "first"));
    assert!(said.contains("cannot be written"), "{said}");
    let record = transcript(&machine, "first");
    assert!(record.contains("key: chancery/certificate-issuer/north-root/1 on ca"), "{record}");
    assert!(record.contains("failure: ") && !record.contains("list: "), "{record}");
    let list = machine.chanceryd(&["ceremony", "list", "--config", "chanceryd.toml", "--token", "ca"]);
    assert!(list.contains("chancery/certificate-issuer/north-root/1"), "{list}");
    let digest = write(&machine, "root.toml", &root("north-root", 2));
    machine.chanceryd(&run("root.toml", &digest, "second"));
    assert!(transcript(&machine, "second").ends_with("outcome: complete\n"));
}

#[test]
fn a_stop_in_the_middle_leaves_keys_that_are_seen_and_no_transcript() {
    let machine = Deployment::unfounded();
    let key = |epoch: u32| {
        move |number: u32| {
            format!("[[key]]\nname = \"k{number}\"\nrole = \"certificate-issuer\"\nepoch = {epoch}\n")
        }
    };
    let keys = |epoch: u32| head("Keys") + &(0..16).map(key(epoch)).collect::<String>();
    let digest = write(&machine, "keys.toml", &keys(1));
    let mut child = Command::new(program("chanceryd"))
        .args(run("keys.toml", &digest, "first"))
        .current_dir(machine.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let made = said.lines().find(|line| line.as_ref().unwrap().starts_with("key ")).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(made.contains("chancery/certificate-issuer/k0/1"), "{made}");
    assert!(machine.path("first/k0.key.json").exists() && !machine.path("first/transcript.txt").exists());
    let list = machine.chanceryd(&["ceremony", "list", "--config", "chanceryd.toml", "--token", "ca"]);
    assert!(list.contains("chancery/certificate-issuer/k0/1"), "{list}");
    let digest = write(&machine, "keys.toml", &keys(2));
    machine.chanceryd(&run("keys.toml", &digest, "second"));
    assert_eq!(transcript(&machine, "second").matches("\nkey: ").count(), 16);
}

#[test]
fn beside_a_founded_authority_only_keys_of_the_specification_sign() {
    let deployment = Deployment::found();
    let digest = write(&deployment, "root.toml", &root("ci-north", 1));
    assert!(
        deployment.chanceryd(&plan("root.toml")).contains("the authority's log key signs the transcript")
    );
    deployment.chanceryd(&run("root.toml", &digest, "root"));
    transcript(&deployment, "root");
    let vkey = fs::read_to_string(deployment.path("handover/log-key.vkey")).unwrap();
    assert_eq!(fs::read_to_string(deployment.path("root/transcript-key.vkey")).unwrap(), vkey);
    accepted(&deployment, &["verify", "-x509_strict", "-CAfile", "root/ci-north.pem", "root/ci-north.pem"]);

    let earlier = head("Earlier")
        + &format!(
            "[[earlier-issuer]]\nname = \"ci-north\"\nkey_file = \"root/ci-north.key.json\"\n\
         certificate = {{ file = \"root/ci-north.pem\", sha256 = \"{}\" }}\n\
         [[list]]\nname = \"two\"\nissuer = \"ci-north\"\nnumber = 2\nvalidity_days = 7\n",
            sha256(&deployment, "root/ci-north.pem")
        );
    let digest = write(&deployment, "earlier.toml", &earlier);
    for arguments in [plan("earlier.toml").to_vec(), run("earlier.toml", &digest, "earlier")] {
        let said = deployment.refused("chanceryd", &arguments);
        assert!(said.contains("only keys that this specification makes may sign"), "{said}");
    }
    // What two persons take into use: the key, its certificate, its list, whose numbers go on.
    let register = ["issuer", "register", "--key-file", "root/ci-north.key.json", "--authority"];
    let products = ["--certificate", "root/ci-north.pem", "--list", "root/ci-north.crl"];
    deployment.two_persons(&[&register[..], &products, &["--reason", "ceremony"]].concat(), None);
    let due = Instant::now() + Duration::from_secs(20);
    let list = || crate::revocation::get(deployment.http_port(), "/crl/ci-north-a.crl");
    while list().is_none_or(|list| pki::crl::Crl::from_der(&list).unwrap().number() != Some(2)) {
        assert!(Instant::now() < due, "the list of the root does not follow the ceremony's");
        std::thread::sleep(Duration::from_millis(100));
    }
}
