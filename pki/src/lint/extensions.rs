//! The extensions: which, in which order, how critical, and what they say.

use super::{Finding, check_name, shape};
use crate::der;
use crate::oid;
use crate::profile::{AlternativeName, AttributeKind, CertificateProfile, ExtensionValue};
use crate::tbs::CertificateInputs;
use sha1::{Digest, Sha1};
use std::net::IpAddr;
use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension};

/// `written` is the content of field [3], from which the reader drops how it was encoded.
pub(super) fn check(
    profile: &CertificateProfile,
    inputs: &CertificateInputs,
    tbs: &TbsCertificate<'_>,
    written: Option<&[u8]>,
    found: &mut Vec<Finding>,
) {
    let present: Vec<_> =
        tbs.extensions().iter().map(|e| oid::decode(e.oid.as_bytes()).unwrap_or_default()).collect();
    let expected: Vec<_> = profile.extensions.iter().map(|rule| rule.value.oid()).collect();

    let mut complete = true;
    for (index, oid) in present.iter().enumerate() {
        if present[..index].contains(oid) {
            found.push(Finding::ExtensionRepeated(oid::dotted(oid)));
            complete = false;
        } else if !expected.contains(&oid.as_slice()) {
            found.push(Finding::ExtensionUnexpected(oid::dotted(oid)));
            complete = false;
        }
    }
    for rule in profile.extensions {
        let name = rule.value.as_str();
        let Some(index) = present.iter().position(|oid| oid == rule.value.oid()) else {
            found.push(Finding::ExtensionMissing(name));
            complete = false;
            continue;
        };
        let extension = &tbs.extensions()[index];
        if extension.critical != rule.critical {
            found.push(Finding::ExtensionCriticality(name));
        }
        if !says(extension, rule.value, inputs, tbs) {
            found.push(Finding::ExtensionValue(name));
        }
    }
    if complete && present != expected {
        found.push(Finding::ExtensionOrder);
    }
    check_encoding(written, found);
}

/// X.690: each value in DER, and criticality FALSE, the default, not written (§11.5).
fn check_encoding(written: Option<&[u8]>, found: &mut Vec<Finding>) {
    let Some(Ok(mut list)) = written.map(|content| der::enter_only(content, der::SEQUENCE)) else {
        return;
    };
    while let Ok(mut extension) = list.enter(der::SEQUENCE) {
        let Ok(name) = extension.expect(der::OBJECT_IDENTIFIER) else { return };
        let mut in_der = true;
        if extension.peek_tag() == Some(der::BOOLEAN) {
            in_der &= extension.next().is_ok_and(|critical| critical.content == [0xff]);
        }
        let oid = oid::decode(name.content).unwrap_or_default();
        in_der &= extension.expect(der::OCTET_STRING).is_ok_and(|value| {
            der::is_canonical(value.content) && shape::is_extension_value(&oid, value.content)
        });
        in_der &= extension.finish().is_ok();
        if !in_der {
            found.push(Finding::ExtensionEncoding(oid::describe(name.content)));
        }
    }
}

/// Whether an extension says what the profile and the inputs give.
fn says(
    extension: &X509Extension<'_>,
    rule: ExtensionValue,
    inputs: &CertificateInputs,
    tbs: &TbsCertificate<'_>,
) -> bool {
    match (rule, extension.parsed_extension()) {
        (ExtensionValue::SubjectKeyIdentifier, ParsedExtension::SubjectKeyIdentifier(identifier)) => {
            identifier.0 == Sha1::digest(&tbs.subject_pki.subject_public_key.data).as_slice()
        }
        (ExtensionValue::AuthorityKeyIdentifier, ParsedExtension::AuthorityKeyIdentifier(identifier)) => {
            let key = identifier.key_identifier.as_ref().map(|key| key.0);
            key.is_some()
                && key == inputs.issuer_key_identifier.as_ref().map(|key| key.as_slice())
                && identifier.authority_cert_issuer.is_none()
                && identifier.authority_cert_serial.is_none()
        }
        (ExtensionValue::KeyUsage(bits), ParsedExtension::KeyUsage(usage)) => {
            let flags = bits.iter().fold(0u16, |flags, bit| flags | 1 << (*bit as u16));
            // X.690 §11.2.2: no trailing zero bits, which the reader does not report.
            let minimal = matches!(extension.value, [3, 2, unused, octet] if octet.trailing_zeros() == u32::from(*unused));
            usage.flags == flags && minimal
        }
        (ExtensionValue::CertificatePolicies(expected), ParsedExtension::CertificatePolicies(policies)) => {
            policies.len() == expected.len()
                && policies.iter().zip(expected).all(|(found, policy)| {
                    found.policy_qualifiers.is_none()
                        && oid::decode(found.policy_id.as_bytes()).as_deref() == Some(policy)
                })
        }
        (ExtensionValue::SubjectAlternativeName(parts), ParsedExtension::SubjectAlternativeName(names)) => {
            alternative_names(parts, inputs, &names.general_names)
        }
        (
            ExtensionValue::CertificateAuthority { path_length },
            ParsedExtension::BasicConstraints(constraints),
        ) => constraints.ca && constraints.path_len_constraint == path_length.map(u32::from),
        (ExtensionValue::CrlDistributionPoints { count }, ParsedExtension::CRLDistributionPoints(points)) => {
            points.points.len() == count
                && points.points.iter().zip(&inputs.crl_urls).all(|(point, url)| {
                    let name = match &point.distribution_point {
                        Some(DistributionPointName::FullName(names)) => names.as_slice(),
                        _ => return false,
                    };
                    matches!(name, [GeneralName::URI(only)] if only == url)
                        && point.reasons.is_none()
                        && point.crl_issuer.is_none()
                })
        }
        (ExtensionValue::EumNameConstraints, ParsedExtension::NameConstraints(constraints)) => {
            let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
            constraints.excluded_subtrees.is_none()
                && permitted.len() == inputs.permitted.len()
                && permitted.iter().zip(&inputs.permitted).all(|(subtree, (organization, iin))| {
                    let GeneralName::DirectoryName(name) = &subtree.base else { return false };
                    let mut differences = Vec::new();
                    let expected = [
                        (AttributeKind::Organization, organization.as_str()),
                        (AttributeKind::SerialNumber, iin),
                    ];
                    check_name(&expected, name, &mut differences);
                    differences.is_empty()
                })
        }
        (ExtensionValue::ExtendedKeyUsage(purposes), ParsedExtension::ExtendedKeyUsage(_)) => {
            // The reader keeps no order; the object identifiers are read here one by one.
            let Ok(mut list) = der::enter_only(extension.value, der::SEQUENCE) else { return false };
            purposes.iter().all(|purpose| {
                list.expect(der::OBJECT_IDENTIFIER)
                    .is_ok_and(|found| oid::decode(found.content).as_deref() == Some(purpose.oid()))
            }) && list.is_empty()
        }
        // The reader has no name for these. SEQUENCE OF PrintableString.
        (ExtensionValue::PermittedEins, _) => {
            let Ok(mut list) = der::enter_only(extension.value, der::SEQUENCE) else { return false };
            inputs.permitted.iter().all(|(_, ein)| {
                list.expect(der::PRINTABLE_STRING).is_ok_and(|found| found.content == ein.as_bytes())
            }) && list.is_empty()
        }
        (ExtensionValue::Fixed { value, .. }, _) => extension.value == value,
        (ExtensionValue::OcspNoCheck, _) => extension.value == [der::NULL, 0],
        _ => false,
    }
}

fn alternative_names(
    parts: &[AlternativeName],
    inputs: &CertificateInputs,
    names: &[GeneralName<'_>],
) -> bool {
    let mut names = names.iter();
    let in_order = parts.iter().all(|part| match part {
        AlternativeName::RegisteredId => {
            let expected = inputs.registered_id.as_deref();
            matches!(names.next(), Some(GeneralName::RegisteredID(id)) if Some(oid::describe(id.as_bytes()).as_str()) == expected)
        }
        AlternativeName::DnsNameAsCommonName => {
            matches!(names.next(), Some(GeneralName::DNSName(name)) if Some(*name) == inputs.dns_name.as_deref())
        }
        AlternativeName::DnsNameAndIpAddresses => {
            inputs.dns_name.iter().all(|expected| {
                matches!(names.next(), Some(GeneralName::DNSName(name)) if name == expected)
            }) && inputs.ip_addresses.iter().all(|expected| match (names.next(), expected) {
                (Some(GeneralName::IPAddress(bytes)), IpAddr::V4(address)) => *bytes == address.octets(),
                (Some(GeneralName::IPAddress(bytes)), IpAddr::V6(address)) => *bytes == address.octets(),
                _ => false,
            })
        }
    });
    in_order && names.next().is_none()
}
