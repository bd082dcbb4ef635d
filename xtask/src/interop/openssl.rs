//! OpenSSL: reads certificates, compares them field by field with the published ones, verifies chains and lists.

use std::path::Path;
use std::process::Command;

use super::artefacts::{Artefacts, Certificate, REVOKED};
use super::{Judgement, ask};
use crate::run::{Failure, output};

/// Extensions whose values are the profile's: the rest are names, keys and places.
const FIXED: &[&str] = &[
    "X509v3 Basic Constraints",
    "X509v3 Key Usage",
    "X509v3 Extended Key Usage",
    "X509v3 Certificate Policies",
];
/// Values that each certificate has of its own.
const FREE: &[&str] =
    &["INTEGER", "UTF8STRING", "PRINTABLESTRING", "UTCTIME", "GENERALIZEDTIME", "BIT STRING"];

/// Asks it everything.
pub fn judge(artefacts: &Artefacts) -> Result<Vec<Judgement>, Failure> {
    let mut judgements = Vec::new();
    for certificate in &artefacts.certificates {
        judgements.push(x509(certificate)?);
    }
    for certificate in artefacts.certificates.iter().filter(|one| one.published.is_some()) {
        judgements.push(asn1parse(certificate)?);
    }
    for certificate in &artefacts.certificates {
        judgements.push(verify(artefacts, certificate)?);
    }
    let revoked =
        verify_errors(&artefacts.revoked, &[], artefacts.file("ci"), &["-crl_check"], Some(&artefacts.list))?;
    judgements.push(must_refuse("openssl verify", REVOKED, &revoked, "error 23"));
    for (name, file) in artefacts.lists() {
        judgements.push(list(artefacts, name, file)?);
    }
    Ok(judgements)
}

/// A judgement that is content when exactly `refusal` was said.
pub fn must_refuse(
    judge: &'static str,
    artefact: &'static str,
    said: &[String],
    refusal: &'static str,
) -> Judgement {
    let refused = said.iter().any(|finding| finding == refusal);
    let missing = (!refused).then(|| format!("accepts it without `{refusal}`"));
    let others = said.iter().filter(|finding| *finding != refusal).cloned();
    Judgement::new(judge, artefact, others.chain(missing)).noted("must be refused as revoked")
}

fn openssl() -> Command {
    Command::new("openssl")
}

fn x509(certificate: &Certificate) -> Result<Judgement, Failure> {
    let mut findings = Vec::new();
    for file in &certificate.files {
        let answer =
            ask(openssl().args(["x509", "-noout", "-text", "-certopt", "ext_error"]).arg("-in").arg(file))?;
        if !answer.content {
            findings.push("does not read it".to_owned());
        } else if !answer.text.contains("NIST CURVE: P-256") {
            findings.push("another curve than P-256".to_owned());
        }
        for bad in ["<Not Supported>", "<Parse Error>"] {
            findings.extend(answer.text.contains(bad).then(|| bad.to_owned()));
        }
    }
    Ok(Judgement::new("openssl x509", certificate.name, findings))
}

/// A field as asn1parse shows it.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    depth: usize,
    tag: String,
    value: String,
}

/// The fields of a certificate, with those inside the extensions' values.
fn fields(file: &Path) -> Result<Vec<Field>, Failure> {
    let mut all = Vec::new();
    let mut extension = String::new();
    for (offset, field) in parse(&shown(file, None)?) {
        let is_value = field.tag == "OCTET STRING";
        if field.tag == "OBJECT" {
            extension.clone_from(&field.value);
        }
        let is_fixed = FIXED.contains(&extension.as_str());
        if is_value && !is_fixed {
            let inside = parse(&shown(file, Some(offset))?);
            all.push(Field { value: String::new(), ..field });
            all.extend(inside.into_iter().map(|(_, inner)| Field {
                // A primitive value inside is the certificate's own: a key identifier, a name, an address.
                value: if inner.tag == "OBJECT" { inner.value } else { String::new() },
                ..inner
            }));
        } else {
            let is_version = field.tag == "INTEGER" && field.depth == 3;
            let is_free = FREE.contains(&field.tag.as_str()) && !is_version;
            all.push(if is_free { Field { value: String::new(), ..field } } else { field });
        }
    }
    Ok(all)
}

fn shown(file: &Path, inside: Option<usize>) -> Result<String, Failure> {
    let mut command = openssl();
    let form = if file.extension().is_some_and(|extension| extension == "der") { "DER" } else { "PEM" };
    command.args(["asn1parse", "-inform", form, "-in"]).arg(file);
    if let Some(offset) = inside {
        command.args(["-strparse", &offset.to_string()]);
    }
    output(&mut command).map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// Lines such as `   10:d=2  hl=2 l=   8 prim: OBJECT            :ecdsa-with-SHA256`, with their offsets.
fn parse(text: &str) -> Vec<(usize, Field)> {
    let line = |line: &str| {
        let (offset, rest) = line.split_once(":d=")?;
        let (depth, rest) = rest.split_once(' ')?;
        let (_, rest) = rest.split_once(": ")?;
        // Tags of context have no value of their own here; `cont [ 0 ]` holds no colon.
        let (tag, value) = rest.split_once(':').unwrap_or((rest, ""));
        // An OCTET STRING shows its octets as `[HEX DUMP]:...`.
        let tag = tag.replace("[HEX DUMP]", "");
        let field =
            Field { depth: depth.trim().parse().ok()?, tag: tag.trim().to_owned(), value: value.to_owned() };
        Some((offset.trim().parse().ok()?, field))
    };
    text.lines().filter_map(line).collect()
}

/// Field by field against the published certificate of its kind.
fn asn1parse(certificate: &Certificate) -> Result<Judgement, Failure> {
    let published = fields(certificate.published.as_deref().unwrap_or(Path::new("")))?;
    let mut findings = Vec::new();
    for file in &certificate.files {
        findings.extend(difference(&fields(file)?, &published));
    }
    Ok(Judgement::new("openssl asn1parse", certificate.name, findings).noted("as published in SGP.26"))
}

/// The first field that differs; those after it only follow.
fn difference(ours: &[Field], published: &[Field]) -> Option<String> {
    let show = |field: Option<&Field>| {
        field.map_or("nothing".to_owned(), |field| format!("{} {}", field.tag, field.value).trim().to_owned())
    };
    let place =
        (0..ours.len().max(published.len())).find(|place| ours.get(*place) != published.get(*place))?;
    Some(format!("field {place} is {}, published {}", show(ours.get(place)), show(published.get(place))))
}

fn verify(artefacts: &Artefacts, certificate: &Certificate) -> Result<Judgement, Failure> {
    let above = artefacts.above(certificate);
    let (root, between) = match above.split_last() {
        Some((root, between)) => (*root, between),
        None => (certificate.files[0].as_path(), &[][..]),
    };
    let is_below_ci = certificate.issuer == Some("ci");
    let mut options = vec!["-check_ss_sig"];
    let mut list = None;
    if is_below_ci {
        options.push("-crl_check");
        list = Some(artefacts.list.as_path());
    }
    let purposes: &[&str] = match certificate.name {
        "dptls" | "dptls-v3" | "dstls-v3" => &["sslserver", "sslclient"],
        "operator-server" => &["sslserver"],
        "operator-client" => &["sslclient"],
        _ => &["any"],
    };
    let mut findings = Vec::new();
    for file in &certificate.files {
        for purpose in purposes {
            let options = [&options[..], &["-purpose", purpose]].concat();
            findings.extend(verify_errors(file, between, root, &options, list)?);
        }
    }
    let note = if is_below_ci { "strict, with the revocation list" } else { "strict" };
    Ok(Judgement::new("openssl verify", certificate.name, findings).noted(note))
}

/// The numbers of the errors that `openssl verify` reports.
fn verify_errors(
    file: &Path,
    between: &[&Path],
    root: &Path,
    options: &[&str],
    list: Option<&Path>,
) -> Result<Vec<String>, Failure> {
    let mut command = openssl();
    command.args(["verify", "-x509_strict"]).args(options).arg("-CAfile").arg(root);
    for certificate in between {
        command.arg("-untrusted").arg(certificate);
    }
    if let Some(list) = list {
        command.arg("-CRLfile").arg(list);
    }
    let answer = ask(command.arg(file))?;
    let mut errors: Vec<String> = answer
        .text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("error ")?.split_once(" at ").map(|(number, _)| format!("error {number}"))
        })
        .collect();
    if !answer.content && errors.is_empty() {
        errors.push(format!("fails: {}", answer.text.trim().replace('\n', "; ")));
    }
    Ok(errors)
}

fn list(artefacts: &Artefacts, name: &'static str, file: &Path) -> Result<Judgement, Failure> {
    let answer = ask(openssl()
        .args(["crl", "-noout", "-text", "-verify", "-in"])
        .arg(file)
        .arg("-CAfile")
        .arg(artefacts.file("ci")))?;
    let mut findings = Vec::new();
    for expected in [
        "verify OK",
        "Version 2 (0x1)",
        "ecdsa-with-SHA256",
        "X509v3 CRL Number",
        "X509v3 Authority Key Identifier",
    ] {
        findings.extend((!answer.text.contains(expected)).then(|| format!("does not say {expected}")));
    }
    Ok(Judgement::new("openssl crl", name, findings))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "    0:d=0  hl=4 l= 334 cons: SEQUENCE          \n   12:d=3  hl=2 l=   8 prim: OBJECT            :ecdsa-with-SHA256\n  204:d=2  hl=2 l=  47 cons: cont [ 0 ]        \n  215:d=5  hl=2 l=  24 prim: OCTET STRING      [HEX DUMP]:0A0104\n";

    #[test]
    fn lines_of_asn1parse_are_read_with_depth_tag_and_value() {
        let read = parse(LINES);
        let field =
            |depth, tag: &str, value: &str| Field { depth, tag: tag.to_owned(), value: value.to_owned() };
        assert_eq!(
            read,
            [
                (0, field(0, "SEQUENCE", "")),
                (12, field(3, "OBJECT", "ecdsa-with-SHA256")),
                (204, field(2, "cont [ 0 ]", "")),
                (215, field(5, "OCTET STRING", "0A0104")),
            ]
        );
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let one = || parse(LINES).into_iter().map(|(_, field)| field).collect::<Vec<_>>();
        assert_eq!(difference(&one(), &one()), None);
        let mut other = one();
        other[1].value = "ecdsa-with-SHA384".to_owned();
        let expected = "field 1 is OBJECT ecdsa-with-SHA256, published OBJECT ecdsa-with-SHA384";
        assert_eq!(difference(&one(), &other).unwrap(), expected);
        other = one();
        other.pop();
        assert_eq!(difference(&one(), &other).unwrap(), "field 3 is OCTET STRING 0A0104, published nothing");
    }

    #[test]
    fn a_revoked_certificate_must_be_refused_for_that_and_nothing_else() {
        let judged = |said: &[&str]| {
            let said: Vec<_> = said.iter().map(|one| (*one).to_owned()).collect();
            must_refuse("judge", REVOKED, &said, "error 23").findings.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(judged(&["error 23"]), [""; 0]);
        assert_eq!(judged(&[]), ["accepts it without `error 23`"]);
        assert_eq!(judged(&["error 23", "error 47"]), ["error 47"]);
    }
}
