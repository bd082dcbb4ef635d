use super::*;

/// The example of the format's page, which a reader will start from.
const PAGE: &str = include_str!("../../../../docs/formats/ceremony-specification.md");

fn example() -> String {
    let (_, rest) = PAGE.split_once("```toml\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn refusal(text: &str) -> String {
    Specification::parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_example_of_the_page_is_a_specification() {
    let text = example();
    let read = Specification::parse(text.as_bytes()).unwrap();
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    assert_eq!(read.digest, digest);
    assert_eq!(read.participants.len(), 3);
    assert_eq!(read.keys.len(), 3);
    assert_eq!(read.certificates[0].issuer, None);
    assert_eq!(read.certificates[1].issuer, Some(Signer::Certificate(0)));
    assert!(matches!(read.certificates[0].key, Subject::Key(0)));
    // One name, two roles: the profile says whose certificate it is.
    assert_eq!(
        (&read.keys[0].name, &read.keys[1].name),
        (&"north-root".to_owned(), &"north-root".to_owned())
    );
    assert!(matches!(read.certificates[1].key, Subject::Key(1)));
    assert_eq!(read.lists[0].revoked.len(), 1);
    let products: Vec<_> = read.products().collect();
    assert!(products.contains(&"north-root.ocsp-responder.key.json".to_owned()), "{products:?}");
    let unique: HashSet<_> = products.iter().collect();
    assert_eq!(unique.len(), products.len());
}

/// Each a change of the example, and what it is refused for.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("format = \"chancery-ceremony/v1\"", "format = \"chancery-ceremony/v2\"", "format: is"),
    ("title = ", "subtitle = \"x\"\ntitle = ", "unknown field `subtitle`"),
    ("title = \"Root of the north, 2026\"", "title = \"\"", "title: has 1 to 128 octets"),
    ("title = \"Root of the north, 2026\"", "title = \"a\\nb\"", "no control characters"),
    ("authority = \"example-authority\"", "authority = \"Example Authority\"", "authority: "),
    ("duty = \"holds the PIN of the token ca\"", "duty = \" \"", "participant.duty: "),
    ("[[participant]]", "[[present]]", "unknown field `present`"),
    ("name = \"north-sub\"\nrole", "name = \"../north\"\nrole", "none of 1 to 40 small letters"),
    ("name = \"north-sub\"\nrole", "name = \"North\"\nrole", "none of 1 to 40 small letters"),
    ("name = \"north-sub\"\nrole", "name = \"north-root\"\nrole", "\"north-root\") occurs twice"),
    ("role = \"ocsp-responder\"", "role = \"master\"", "none of a certificate issuer or OCSP responder"),
    (
        "role = \"ocsp-responder\"",
        "role = \"operator-issuer\"",
        "none of a certificate issuer or OCSP responder",
    ),
    ("role = \"ocsp-responder\"", "role = \"ocsp-responder\"\nepoch = 0", "epoch is 1 or more"),
    ("role = \"ocsp-responder\"", "role = \"ocsp-responder\"\nepoch = -1", "invalid value"),
    ("role = \"ocsp-responder\"", "role = \"ocsp-responder\"\nparty = \"a b\"", "party: "),
    (
        "role = \"ocsp-responder\"",
        "role = \"ocsp-responder\"\nextractable = true",
        "unknown field `extractable`",
    ),
    ("profile = \"ci\"", "profile = \"web\"", "there is no certificate profile \"web\""),
    ("profile = \"ci\"", "profile = \"euicc\"", "certificates of devices come by orders"),
    ("profile = \"ci\"", "profile = \"operator-root\"", "persons and servers"),
    ("profile = \"ci\"", "profile = \"ci\"\nprofile_rules = \"00\"", "profile_rules of ci are"),
    (
        "profile = \"ci\"",
        "profile = \"ci\"\nissuer = \"north-root\"",
        "a root signs itself: it has no issuer",
    ),
    ("profile = \"ci\"\nkey = \"north-root\"", "profile = \"ci\"\nkey = \"south\"", "no key \"south\""),
    ("profile = \"ci\"\nkey = \"north-root\"", "profile = \"ci\"", "is for either a key or a csr"),
    (
        "profile = \"ci\"\nkey = \"north-root\"",
        "profile = \"ci\"\ncsr = { file = \"x\", sha256 = \"00\" }",
        "sha256 of x has 64 hex digits",
    ),
    ("issuer = \"north-root\"\nsubject", "subject", "issuer is missing"),
    (
        "issuer = \"north-root\"\nsubject",
        "issuer = \"south\"\nsubject",
        "neither a certificate of this specification",
    ),
    ("issuer = \"north-root\"\nsubject", "issuer = \"north-root-ocsp\"\nsubject", "comes later"),
    ("validity_days = 12783", "validity_days = 12784", "validity_days is 1 to 12783"),
    ("validity_days = 12783", "validity_days = 0", "validity_days is 1 to 12783"),
    (
        "validity_days = 12783",
        "validity_days = 9\nnot_after = 2030-01-01T00:00:00Z",
        "either not_after or validity_days",
    ),
    ("not_before = 2026-12-01T00:00:00Z", "not_before = 2026-12-01", "not_before is a time in UTC"),
    ("not_before = 2026-12-01T00:00:00Z", "not_before = 2026-12-01T00:00:00", "not_before is a time in UTC"),
    (
        "not_before = 2026-12-01T00:00:00Z",
        "not_before = 2026-12-01T00:00:00+01:00",
        "not_before is a time in UTC",
    ),
    (
        "not_before = 2026-12-01T00:00:00Z",
        "not_before = 2026-12-01T00:00:00.5Z",
        "not_before is a time in UTC",
    ),
    ("not_before = 2026-12-01T00:00:00Z", "not_before = 1900-01-01T00:00:00Z", "not_before is a time in UTC"),
    ("not_before = 2026-12-01T00:00:00Z", "serial = \"00\"", "serial \"00\""),
    ("not_before = 2026-12-01T00:00:00Z", "serial = \"xyz\"", "serial \"xyz\""),
    ("country = \"NO\"", "country = \"NO\", eid = \"89\"", "unknown field `eid`"),
    ("permitted_eins = [\"89049032\"]", "permitted_eins = [\"8904903x\"]", "permitted_eins: "),
    ("permitted_eins = [\"89049032\"]", "permitted_eins = [\"89049032\", \"89049032\"]", "occurs twice"),
    ("profile = \"eum\"", "profile = \"ci\"", "a root signs itself: nobody elsewhere is asked for it"),
    ("profile = \"eum\"", "profile = \"dptls\"", "is for a key of somebody else's"),
    ("number = 1", "number = 0", "number is 1 or more"),
    ("number = 1", "number = 1\nnext_update = 2027-01-01T00:00:00Z", "either next_update or validity_days"),
    ("validity_days = 365", "validity_days = 401", "validity_days is 1 to 400"),
    ("validity_days = 365\n", "", "either next_update or validity_days"),
    ("reason = \"superseded\"", "reason = \"lost\"", "a revocation reason is one of"),
    ("reason = \"superseded\"", "reason = \"superseded\"\nnote = \"x\"", "unknown field `note`"),
    ("date = 2026-11-02T09:00:00Z", "date = \"2026-11-02\"", "invalid type"),
    (
        "name = \"north-root\"\nissuer = \"north-root\"\nnumber",
        "name = \"north-root\"\nissuer = \"north-root-ocsp\"\nnumber",
        "no CA's certificate",
    ),
];

#[test]
fn what_breaks_a_rule_is_refused_with_its_place() {
    let text = example();
    for (from, to, why) in REFUSALS {
        assert!(text.contains(from), "the example has {from:?}");
        let said = refusal(&text.replacen(from, to, 1));
        assert!(said.contains(why), "{to:?}: {said}");
    }
}

#[test]
fn an_empty_ceremony_and_one_with_nobody_present_are_refused() {
    let head = "format = \"chancery-ceremony/v1\"\ntitle = \"x\"\nauthority = \"a\"\n";
    assert!(refusal(head).contains("nobody is present"));
    let present = format!("{head}[[participant]]\nname = \"a\"\nduty = \"b\"\n");
    assert!(refusal(&present).contains("has no step"));
    assert!(refusal(&format!("{present}{}", "#".repeat(BYTES_MAX))).contains("is longer than"));
    assert!(Specification::parse(&[0xff]).is_err());
}

#[test]
fn every_kind_of_step_has_a_bound() {
    let head = "format = \"chancery-ceremony/v1\"\ntitle = \"x\"\nauthority = \"a\"\n";
    let present = "[[participant]]\nname = \"a\"\nduty = \"b\"\n";
    let key = |name: usize| format!("[[key]]\nname = \"k{name}\"\nrole = \"certificate-issuer\"\n");
    let keys = |count: usize| (0..count).map(key).collect::<String>();
    assert!(Specification::parse(format!("{head}{present}{}", keys(16)).as_bytes()).is_ok());
    assert!(refusal(&format!("{head}{present}{}", keys(17))).contains("key: there are 17; at most 16"));
    assert!(
        refusal(&format!("{head}{}{}", present.repeat(33), keys(1))).contains("there are 33; at most 32")
    );
    let earlier = |name: usize| {
        let zeros = "0".repeat(64);
        format!(
            "[[earlier-issuer]]\nname = \"e{name}\"\nkey_file = \"k\"\ncertificate = {{ file = \"c\", sha256 = \"{zeros}\" }}\n"
        )
    };
    let many: String = (0..17).map(earlier).collect();
    assert!(refusal(&format!("{head}{present}{many}")).contains("earlier-issuer: there are 17"));
    let certificate = |at: usize| {
        format!("[[certificate]]\nname = \"c{at}\"\nprofile = \"ci\"\nkey = \"k0\"\nsubject = {{}}\n")
    };
    let certificates = |count: usize| (0..count).map(certificate).collect::<String>();
    assert!(
        Specification::parse(format!("{head}{present}{}{}", keys(1), certificates(32)).as_bytes()).is_ok()
    );
    assert!(
        refusal(&format!("{head}{present}{}{}", keys(1), certificates(33)))
            .contains("there are 33; at most 32")
    );
    let revoked = |at: usize| {
        format!(
            "[[list.revoked]]\nserial = \"{:06x}\"\ndate = 2026-01-01T00:00:00Z\nreason = \"superseded\"\n",
            at + 1
        )
    };
    let list = "[[list]]\nname = \"l\"\nissuer = \"e1\"\nnumber = 1\nvalidity_days = 1\n";
    let whole = |count: usize| {
        format!("{head}{present}{}{list}{}", earlier(1), (0..count).map(revoked).collect::<String>())
    };
    assert!(Specification::parse(whole(5_000).as_bytes()).is_ok());
    assert!(refusal(&whole(5_001)).contains("there are 5001; at most 5000"));
}

#[test]
fn one_issuer_gives_no_serial_number_twice() {
    let text = example();
    let fixed = text.replace("validity_days = 90", "validity_days = 90\nserial = \"0102030405060708\"");
    assert_ne!(text, fixed);
    let read = Specification::parse(fixed.as_bytes()).unwrap();
    assert_eq!(read.certificates[1].serial.as_ref().unwrap().to_string(), "0102030405060708");
    let (before, step) = fixed.split_once("[[certificate]]\nname = \"north-root-ocsp\"").unwrap();
    let (step, after) = step.split_once("\n\n").unwrap();
    let twice = format!(
        "{before}[[certificate]]\nname = \"north-root-ocsp\"{step}\n\n[[certificate]]\nname = \"again\"{step}\n\n{after}"
    );
    assert!(refusal(&twice).contains("the same serial"), "{}", refusal(&twice));
}

#[test]
fn an_issuer_whose_key_is_elsewhere_signs_nothing_here() {
    let text = example();
    let zeros = "0".repeat(64);
    let sub = format!(
        "[[certificate]]\nname = \"sub\"\nprofile = \"eum\"\ncsr = {{ file = \"x\", sha256 = \"{zeros}\" }}\nissuer = \"north-root\"\nsubject = {{}}\n\n[[request]]"
    );
    let text = text.replacen("[[request]]", &sub, 1);
    assert!(Specification::parse(text.as_bytes()).is_ok());
    let list = text.replacen("issuer = \"north-root\"\nnumber", "issuer = \"sub\"\nnumber", 1);
    assert!(refusal(&list).contains("the key of issuer \"sub\" is elsewhere"), "{}", refusal(&list));
}
