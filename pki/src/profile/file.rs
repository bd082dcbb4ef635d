//! An operator's own profile: its file, and the rules that keep its certificates what their role needs.

use serde::Deserialize;
use std::collections::HashSet;

use super::{
    AlternativeName, AttributeKind, CertificateProfile, ExtensionRule, ExtensionValue, KeyUsageBit, Presence,
    Purpose, SerialNumberRule, SubjectAttribute, built_in,
};
use crate::der;
use crate::oid;
use crate::role::CertificateRole;

/// Longest file.
const BYTES_MAX: usize = 64 * 1024;
const NAME_CHARACTERS_MAX: usize = 32;
const EXTENSIONS_MAX: usize = 24;
const POLICIES_MAX: usize = 8;
/// Octets of an extension of the operator's own.
const FIXED_BYTES_MAX: usize = 2_048;
/// Distribution points of an issuer.
const DISTRIBUTION_POINTS_MAX: usize = 2;
/// As of an eUICC: further ahead than any other.
const VALIDITY_DAYS_MAX: u32 = 2_000_000;

/// Why a profile is not taken into use.
#[derive(Debug, thiserror::Error)]
#[error("the certificate profile {from}: {why}")]
pub struct ProfileFault {
    /// Where it was read.
    pub from: String,
    /// What is wrong.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    like: String,
    validity_days: Option<u32>,
    serial_number: Option<SerialNumber>,
    subject: Option<Vec<String>>,
    #[serde(rename = "extension")]
    extensions: Option<Vec<Extension>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SerialNumber {
    Random,
    Eid,
}

#[derive(Deserialize)]
struct Extension {
    #[serde(default)]
    critical: bool,
    #[serde(flatten)]
    value: Value,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Value {
    SubjectKeyIdentifier,
    AuthorityKeyIdentifier,
    KeyUsage { values: Vec<Usage> },
    CertificatePolicies { values: Vec<String> },
    SubjectAlternativeName { values: Vec<Alternative> },
    BasicConstraints { path_length: Option<u8> },
    CrlDistributionPoints { count: usize },
    NameConstraints,
    PermittedEins,
    ExtendedKeyUsage { values: Vec<ExtendedUsage> },
    OcspNoCheck,
    Fixed { oid: String, value: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Usage {
    DigitalSignature,
    KeyCertSign,
    CrlSign,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Alternative {
    RegisteredId,
    DnsName,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ExtendedUsage {
    ServerAuthentication,
    ClientAuthentication,
    OcspSigning,
}

/// Reads a profile and checks it; what is wrong with it is said.
pub(super) fn parse(text: &str) -> Result<CertificateProfile, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("is longer than {BYTES_MAX} octets"));
    }
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    check_name(&file.name)?;
    let like = built_in()
        .find(|profile| profile.name == file.like)
        .ok_or_else(|| format!("like = {:?} is no built-in profile", file.like))?;
    let subject = match file.subject {
        Some(names) => attributes(&names)?.leak(),
        None => like.subject,
    };
    let extensions = match file.extensions {
        Some(list) => list.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?.leak(),
        None => like.extensions,
    };
    let name: &'static str = file.name.leak();
    let profile = CertificateProfile {
        name,
        role: like.role,
        issued_by: if like.is_root() { vec![name].leak() } else { like.issued_by },
        subject,
        extensions,
        validity_days: file.validity_days.unwrap_or(like.validity_days),
        serial_number: match file.serial_number {
            Some(SerialNumber::Eid) => SerialNumberRule::Eid,
            Some(SerialNumber::Random) => SerialNumberRule::Random,
            None => like.serial_number,
        },
    };
    check(&profile, like)?;
    Ok(profile)
}

fn check_name(name: &str) -> Result<(), String> {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = (1..=NAME_CHARACTERS_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(is_word);
    if is_name {
        return Ok(());
    }
    Err(format!("name = {name:?} is none of 1 to 32 lower-case letters, digits and hyphens"))
}

fn attributes(names: &[String]) -> Result<Vec<SubjectAttribute>, String> {
    let attribute = |text: &String| {
        let (name, presence) = match text.strip_suffix('?') {
            Some(name) => (name, Presence::Optional),
            None => (text.as_str(), Presence::Required),
        };
        let kind = match name {
            "country" => AttributeKind::Country,
            "organization" => AttributeKind::Organization,
            "organizational-unit" => AttributeKind::OrganizationalUnit,
            "serial-number" => AttributeKind::SerialNumber,
            "common-name" => AttributeKind::CommonName,
            _ => return Err(format!("subject holds {text:?}, which is no attribute")),
        };
        Ok(SubjectAttribute { kind, presence })
    };
    names.iter().map(attribute).collect()
}

fn rule(extension: Extension) -> Result<ExtensionRule, String> {
    let value = match extension.value {
        Value::SubjectKeyIdentifier => ExtensionValue::SubjectKeyIdentifier,
        Value::AuthorityKeyIdentifier => ExtensionValue::AuthorityKeyIdentifier,
        Value::KeyUsage { values } => {
            let bits = values.into_iter().map(|usage| match usage {
                Usage::DigitalSignature => KeyUsageBit::DigitalSignature,
                Usage::KeyCertSign => KeyUsageBit::KeyCertSign,
                Usage::CrlSign => KeyUsageBit::CrlSign,
            });
            ExtensionValue::KeyUsage(bits.collect::<Vec<_>>().leak())
        }
        Value::CertificatePolicies { values } => {
            let policies = values.iter().map(|text| {
                let arcs = oid::parse(text).ok_or_else(|| format!("{text:?} is no object identifier"))?;
                Ok::<_, String>(&*arcs.leak())
            });
            ExtensionValue::CertificatePolicies(policies.collect::<Result<Vec<_>, _>>()?.leak())
        }
        Value::SubjectAlternativeName { values } => {
            let parts = values.into_iter().map(|part| match part {
                Alternative::RegisteredId => AlternativeName::RegisteredId,
                Alternative::DnsName => AlternativeName::DnsNameAsCommonName,
            });
            ExtensionValue::SubjectAlternativeName(parts.collect::<Vec<_>>().leak())
        }
        Value::BasicConstraints { path_length } => ExtensionValue::CertificateAuthority { path_length },
        Value::CrlDistributionPoints { count } => ExtensionValue::CrlDistributionPoints { count },
        Value::NameConstraints => ExtensionValue::EumNameConstraints,
        Value::PermittedEins => ExtensionValue::PermittedEins,
        Value::ExtendedKeyUsage { values } => {
            let purposes = values.into_iter().map(|purpose| match purpose {
                ExtendedUsage::ServerAuthentication => Purpose::ServerAuthentication,
                ExtendedUsage::ClientAuthentication => Purpose::ClientAuthentication,
                ExtendedUsage::OcspSigning => Purpose::OcspSigning,
            });
            ExtensionValue::ExtendedKeyUsage(purposes.collect::<Vec<_>>().leak())
        }
        Value::OcspNoCheck => ExtensionValue::OcspNoCheck,
        Value::Fixed { oid: text, value } => {
            let arcs = oid::parse(&text).ok_or_else(|| format!("{text:?} is no object identifier"))?;
            let value = hex::decode(&value).map_err(|_| format!("the value of {text} is no hexadecimal"))?;
            ExtensionValue::Fixed { oid: arcs.leak(), value: value.leak() }
        }
    };
    Ok(ExtensionRule { critical: extension.critical, value })
}

/// That a certificate of `profile` holds wherever one of `like` does: what a relying party looks at is the same.
fn check(profile: &CertificateProfile, like: &CertificateProfile) -> Result<(), String> {
    if !(1..=VALIDITY_DAYS_MAX).contains(&profile.validity_days) {
        return Err(format!("validity_days is 1 to {VALIDITY_DAYS_MAX}"));
    }
    if profile.serial_number == SerialNumberRule::Eid && profile.role != CertificateRole::Euicc {
        return Err("serial_number = \"eid\" is for certificates of devices".to_owned());
    }
    check_subject(profile, like)?;
    if profile.extensions.len() > EXTENSIONS_MAX {
        return Err(format!("has more than {EXTENSIONS_MAX} extensions"));
    }
    let mut seen = HashSet::new();
    for rule in profile.extensions {
        if !seen.insert(rule.value.oid()) {
            return Err(format!("has the extension {} twice", oid::dotted(rule.value.oid())));
        }
        check_extension(rule, like)?;
    }
    for rule in like.extensions {
        if !seen.contains(rule.value.oid()) {
            return Err(format!("lacks the extension {}, which {} has", rule.value.as_str(), like.name));
        }
    }
    Ok(())
}

fn check_subject(profile: &CertificateProfile, like: &CertificateProfile) -> Result<(), String> {
    for (index, attribute) in profile.subject.iter().enumerate() {
        let name = attribute.kind.as_str();
        if profile.subject[..index].iter().any(|other| other.kind == attribute.kind) {
            return Err(format!("subject has {name} twice"));
        }
        // Nobody else asks for one, so that it would never be there.
        if !like.names(attribute.kind) {
            return Err(format!(
                "subject has {name}, for which a certificate like {} has no value",
                like.name
            ));
        }
    }
    for attribute in like.subject.iter().filter(|attribute| attribute.presence == Presence::Required) {
        if !profile.subject.contains(attribute) {
            return Err(format!("subject lacks {}, which {} requires", attribute.kind.as_str(), like.name));
        }
    }
    Ok(())
}

fn check_extension(rule: &ExtensionRule, like: &CertificateProfile) -> Result<(), String> {
    let name = rule.value.as_str();
    let own = like.extensions.iter().find(|other| other.value.oid() == rule.value.oid());
    let (ExtensionValue::Fixed { oid, value }, None) = (rule.value, own) else {
        let Some(own) = own else {
            return Err(format!("has the extension {name}, which {} has not", like.name));
        };
        if own.critical != rule.critical {
            let word = if own.critical { "critical" } else { "not critical" };
            return Err(format!("the extension {name} is {word} in {}", like.name));
        }
        let is_kept = match (rule.value, own.value) {
            (ExtensionValue::CertificatePolicies(policies), ExtensionValue::CertificatePolicies(own)) => {
                policies.first() == own.first() && (1..=POLICIES_MAX).contains(&policies.len())
            }
            (
                ExtensionValue::CrlDistributionPoints { count },
                ExtensionValue::CrlDistributionPoints { .. },
            ) => (1..=DISTRIBUTION_POINTS_MAX).contains(&count),
            (ExtensionValue::SubjectAlternativeName(parts), ExtensionValue::SubjectAlternativeName(own)) => {
                parts.len() == own.len() && own.iter().all(|part| parts.contains(part))
            }
            (ExtensionValue::ExtendedKeyUsage(purposes), ExtensionValue::ExtendedKeyUsage(own)) => {
                purposes.len() == own.len() && own.iter().all(|purpose| purposes.contains(purpose))
            }
            (ExtensionValue::KeyUsage(bits), ExtensionValue::KeyUsage(own)) => {
                bits.len() == own.len() && own.iter().all(|bit| bits.contains(bit))
            }
            (value, own) => value == own,
        };
        if is_kept {
            return Ok(());
        }
        return Err(format!("the extension {name} does not say what that of {} says", like.name));
    };
    let name = oid::dotted(oid);
    if rule.critical {
        return Err(format!(
            "the extension {name} is critical: who does not know it must refuse the certificate"
        ));
    }
    if built_in().any(|profile| profile.extensions.iter().any(|known| known.value.oid() == oid)) {
        return Err(format!("the extension {name} has a kind of its own"));
    }
    if value.is_empty() || value.len() > FIXED_BYTES_MAX || !der::is_canonical(value) {
        return Err(format!("the value of {name} is not 1 to {FIXED_BYTES_MAX} octets of DER"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NINETY: &str = "name = \"dptls-90\"\nlike = \"dptls\"\nvalidity_days = 90\n";

    #[test]
    fn what_a_file_leaves_out_is_that_of_its_model() {
        let profile = parse(NINETY).unwrap();
        let model = CertificateRole::DpTls.profile();
        assert_eq!((profile.name, profile.role, profile.validity_days), ("dptls-90", model.role, 90));
        assert_eq!((profile.subject, profile.extensions), (model.subject, model.extensions));
        assert_ne!(profile.digest(), model.digest());
        let root = parse("name = \"ci-10-years\"\nlike = \"ci\"\nvalidity_days = 3652\n").unwrap();
        assert!(root.is_root());
    }

    const EXTENSIONS: &str = r#"
subject = ["organization", "common-name"]
[[extension]]
kind = "key-usage"
critical = true
values = ["digital-signature"]
[[extension]]
kind = "extended-key-usage"
critical = true
values = ["client-authentication", "server-authentication"]
[[extension]]
kind = "certificate-policies"
values = ["2.23.146.1.2.1.3", "1.3.6.1.4.1.99999.1"]
[[extension]]
kind = "authority-key-identifier"
[[extension]]
kind = "subject-key-identifier"
[[extension]]
kind = "subject-alternative-name"
values = ["dns-name", "registered-id"]
[[extension]]
kind = "crl-distribution-points"
count = 1
[[extension]]
kind = "fixed"
oid = "1.3.6.1.4.1.99999.2"
value = "0c0474657374"
"#;

    #[test]
    fn order_policies_and_further_extensions_are_the_operators() {
        let profile = parse(&format!("{NINETY}{EXTENSIONS}")).unwrap();
        let names: Vec<_> = profile.extensions.iter().map(|rule| rule.value.as_str()).collect();
        assert_eq!(names[2..4], ["certificatePolicies", "authorityKeyIdentifier"]);
        assert!(
            profile.rendering().contains("2.23.146.1.2.1.3 1.3.6.1.4.1.99999.1"),
            "{}",
            profile.rendering()
        );
        assert!(profile.rendering().contains("0c0474657374"));
    }

    #[test]
    fn what_a_relying_party_would_miss_is_refused_with_the_reason() {
        let whole = format!("{NINETY}{EXTENSIONS}");
        for (from, to, why) in [
            ("name = \"dptls-90\"", "name = \"DPtls\"", "lower-case"),
            ("like = \"dptls\"", "like = \"web\"", "no built-in profile"),
            ("validity_days = 90", "validity_days = 0", "validity_days"),
            ("validity_days = 90", "serial_number = \"eid\"", "for certificates of devices"),
            ("validity_days = 90", "validity = 90", "unknown field"),
            ("\"organization\", ", "", "subject lacks organizationName"),
            ("\"organization\", ", "\"organization?\", ", "subject lacks organizationName"),
            ("\"organization\", ", "\"organization\", \"organization\", ", "twice"),
            ("\"organization\", ", "\"organization\", \"country\", ", "has no value"),
            (
                "critical = true\nvalues = [\"digital-signature\"]",
                "values = [\"digital-signature\"]",
                "is critical",
            ),
            ("[\"digital-signature\"]", "[\"digital-signature\", \"key-cert-sign\"]", "does not say"),
            ("\"2.23.146.1.2.1.3\", ", "", "does not say"),
            ("\"client-authentication\", ", "", "does not say"),
            ("\"dns-name\", ", "", "does not say"),
            ("count = 1", "count = 0", "does not say"),
            ("kind = \"authority-key-identifier\"", "kind = \"subject-key-identifier\"", "twice"),
            (
                "[[extension]]\nkind = \"subject-key-identifier\"\n",
                "",
                "lacks the extension subjectKeyIdentifier",
            ),
            ("kind = \"authority-key-identifier\"", "kind = \"ocsp-no-check\"", "has not"),
            ("kind = \"fixed\"", "kind = \"fixed\"\ncritical = true", "must refuse"),
            ("oid = \"1.3.6.1.4.1.99999.2\"", "oid = \"2.5.29.30\"", "kind of its own"),
            ("value = \"0c0474657374\"", "value = \"0c05\"", "octets of DER"),
            ("value = \"0c0474657374\"", "value = \"xx\"", "no hexadecimal"),
        ] {
            assert!(whole.contains(from), "{from}");
            let refusal = parse(&whole.replacen(from, to, 1)).unwrap_err();
            assert!(refusal.contains(why), "{to}: {refusal}");
        }
        assert!(parse(&" ".repeat(BYTES_MAX + 1)).is_err());
    }
}
