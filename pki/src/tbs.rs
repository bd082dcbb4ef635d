//! Builds the bytes that a certificate's signature covers, from a profile and values, never from a request.
//!
//! rcgen lays out the certificate with a key that captures instead of signing; issuer, subject and subject key are then put
//! in as raw bytes, since rcgen would reorder or drop what it cannot represent (repeated attributes, other curves).

use crate::civil_time::CivilTime;
use crate::der::{self, Reader, Writer};
use crate::error::PkiError;
use crate::key::key_identifier;
use crate::oid;
use crate::profile::{
    AlternativeName, AttributeKind, CertificateProfile, ExtensionValue, KeyUsageBit, Presence, StringType,
};
use crate::serial::SerialNumber;
use domain::{Curve, Eid};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, Issuer, PublicKeyData, SigningKey};
use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;

/// Characters of a name's attribute: ub-common-name and its kin in RFC 5280 appendix A.
const ATTRIBUTE_CHARACTERS_MAX: usize = 64;
const URL_BYTES_MAX: usize = 512;
/// (organisation, IIN) pairs of one EUM certificate.
const PERMITTED_MAX: usize = 64;
const IP_ADDRESSES_MAX: usize = 16;
/// An EIN and an ESIN have 30 digits together (SGP.29).
const EIN_DIGITS_MAX: usize = 30;

/// Values for the subject's attributes; the profile says which are needed and in which order they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectValues {
    /// countryName: two upper-case letters.
    pub country: Option<String>,
    /// organizationName.
    pub organization: Option<String>,
    /// organizationalUnitName.
    pub organizational_unit: Option<String>,
    /// commonName.
    pub common_name: Option<String>,
    /// serialNumber: the EID's 32 digits.
    pub eid: Option<Eid>,
}

impl SubjectValues {
    /// The text of one attribute.
    pub fn value(&self, kind: AttributeKind) -> Option<Cow<'_, str>> {
        match kind {
            AttributeKind::Country => self.country.as_deref().map(Cow::Borrowed),
            AttributeKind::Organization => self.organization.as_deref().map(Cow::Borrowed),
            AttributeKind::OrganizationalUnit => self.organizational_unit.as_deref().map(Cow::Borrowed),
            AttributeKind::CommonName => self.common_name.as_deref().map(Cow::Borrowed),
            AttributeKind::SerialNumber => self.eid.map(|eid| Cow::Owned(eid.to_string())),
        }
    }
}

/// Everything that differs between two certificates of one profile.
#[derive(Clone, Debug)]
pub struct CertificateInputs {
    /// The serial number, durable before anything is signed.
    pub serial: SerialNumber,
    /// The issuer's subject name in DER, byte for byte; for a root the subject's own ([`subject_name_der`]).
    pub issuer_name_der: Vec<u8>,
    /// The curve of the issuer's key, from which the signature algorithm follows; for a root that of the subject's.
    pub issuer_curve: Curve,
    /// The issuer's subject key identifier; absent for a root only.
    pub issuer_key_identifier: Option<[u8; 20]>,
    /// The subject's attributes.
    pub subject: SubjectValues,
    /// The subject's SubjectPublicKeyInfo in DER, put in byte for byte.
    pub subject_spki: Vec<u8>,
    /// Start of the validity period.
    pub not_before: CivilTime,
    /// End of the validity period, included.
    pub not_after: CivilTime,
    /// The entity's registered object identifier, dotted, such as `2.999.10`.
    pub registered_id: Option<String>,
    /// A fully qualified domain name.
    pub dns_name: Option<String>,
    /// Addresses of an operator server.
    pub ip_addresses: Vec<IpAddr>,
    /// One URL per CRL distribution point.
    pub crl_urls: Vec<String>,
    /// (organizationName, IIN of 8 digits) pairs that an EUM may certify.
    pub permitted: Vec<(String, String)>,
}

impl CertificateInputs {
    /// What a request can know: the rest is the issuer's.
    pub(crate) fn of_request(wishes: &crate::csr::Wishes, spki: &[u8]) -> Result<Self, PkiError> {
        let never = CivilTime::from_timestamp(domain::Timestamp::from_seconds(0))?;
        Ok(Self {
            serial: SerialNumber::from_random([0; 20]),
            issuer_name_der: Vec::new(),
            issuer_curve: crate::key::curve_of(spki)?,
            issuer_key_identifier: None,
            subject: wishes.subject.clone(),
            subject_spki: spki.to_vec(),
            not_before: never,
            not_after: never,
            registered_id: wishes.registered_id.clone(),
            dns_name: None,
            ip_addresses: Vec::new(),
            crl_urls: Vec::new(),
            permitted: wishes.permitted.clone(),
        })
    }
}

/// A TBSCertificate in DER that nobody has checked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tbs(Vec<u8>);

impl Tbs {
    /// Takes bytes from elsewhere; only [`crate::lint`] says whether they are any good.
    pub const fn from_der(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The subject name in DER that `profile` makes of `subject`.
pub fn subject_name_der(profile: &CertificateProfile, subject: &SubjectValues) -> Result<Vec<u8>, PkiError> {
    let mut attributes = Vec::with_capacity(profile.subject.len());
    for attribute in profile.subject {
        let kind = attribute.kind;
        match (subject.value(kind), attribute.presence) {
            (Some(value), _) => {
                check_attribute(kind, &value)?;
                attributes.push((kind, value));
            }
            (None, Presence::Optional) => {}
            (None, Presence::Required) => {
                return Err(PkiError::MissingValue { profile: profile.name, field: kind.as_str() });
            }
        }
    }
    for kind in [
        AttributeKind::Country,
        AttributeKind::Organization,
        AttributeKind::OrganizationalUnit,
        AttributeKind::SerialNumber,
        AttributeKind::CommonName,
    ] {
        let has_place = profile.subject.iter().any(|attribute| attribute.kind == kind);
        if !has_place && subject.value(kind).is_some() {
            return Err(PkiError::UnexpectedValue { profile: profile.name, field: kind.as_str() });
        }
    }
    Ok(der::nested(der::SEQUENCE, |name| {
        for (kind, value) in &attributes {
            name.nested(der::SET, |rdn| write_attribute(rdn, *kind, value));
        }
    }))
}

/// Lays out a TBSCertificate. The inputs must hold exactly what the profile needs.
pub fn build_tbs(profile: &CertificateProfile, inputs: &CertificateInputs) -> Result<Tbs, PkiError> {
    check_inputs(profile, inputs)?;
    let subject = subject_name_der(profile, &inputs.subject)?;
    let subject_key_identifier = key_identifier(&inputs.subject_spki)?;

    let mut parameters = CertificateParams::default();
    parameters.not_before = inputs.not_before.datetime();
    parameters.not_after = inputs.not_after.datetime();
    parameters.serial_number = Some(inputs.serial.as_bytes().to_vec().into());
    parameters.distinguished_name = DistinguishedName::new();
    for rule in profile.extensions {
        let content = extension_content(rule.value, inputs, &subject_key_identifier)?;
        let mut extension = CustomExtension::from_oid_content(rule.value.oid(), content);
        extension.set_criticality(rule.critical);
        parameters.custom_extensions.push(extension);
    }

    let capture = Capture { curve: inputs.issuer_curve, captured: RefCell::default() };
    parameters.signed_by(&capture, &Issuer::from_params(&parameters, &capture)).map_err(PkiError::Builder)?;
    splice(&capture.captured.into_inner(), &inputs.issuer_name_der, &subject, &inputs.subject_spki).map(Tbs)
}

/// The builder's name of the signature algorithm on a curve.
pub(crate) const fn builder_algorithm(curve: Curve) -> &'static rcgen::SignatureAlgorithm {
    match curve {
        // Only the identifier of the algorithm stays of it, which names the hash and no curve.
        Curve::P256 | Curve::BrainpoolP256r1 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
    }
}

/// A key that keeps what it should sign.
struct Capture {
    curve: Curve,
    captured: RefCell<Vec<u8>>,
}

impl PublicKeyData for Capture {
    fn der_bytes(&self) -> &[u8] {
        // Replaced by the real key when spliced.
        &[]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        builder_algorithm(self.curve)
    }
}

impl SigningKey for Capture {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.captured.replace(message.to_vec());
        Ok(Vec::new())
    }
}

/// Puts raw issuer, subject and subject key in the place of what the builder wrote.
fn splice(tbs: &[u8], issuer: &[u8], subject: &[u8], spki: &[u8]) -> Result<Vec<u8>, PkiError> {
    let unreadable = |_| PkiError::Malformed { what: "the builder's output", why: "not DER" };
    let mut fields = der::enter_only(tbs, der::SEQUENCE).map_err(unreadable)?;
    let mut kept = Vec::with_capacity(8);
    while !fields.is_empty() {
        kept.push(fields.next().map_err(unreadable)?.raw);
    }
    // RFC 5280 §4.1: version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, extensions.
    let [version, serial, signature, _, validity, _, _, extensions] = kept.as_slice() else {
        return Err(PkiError::Malformed { what: "the builder's output", why: "not eight fields" });
    };
    Ok(der::nested(der::SEQUENCE, |tbs| {
        for field in [version, serial, signature, issuer, validity, subject, spki, extensions] {
            tbs.raw(field);
        }
    }))
}

fn write_attribute(rdn: &mut Writer, kind: AttributeKind, value: &str) {
    let tag = match kind.string_type() {
        StringType::Printable => der::PRINTABLE_STRING,
        StringType::Utf8 => der::UTF8_STRING,
    };
    rdn.nested(der::SEQUENCE, |attribute| {
        attribute.element(der::OBJECT_IDENTIFIER, &oid::encode(kind.oid()));
        attribute.element(tag, value.as_bytes());
    });
}

pub(crate) fn extension_content(
    value: ExtensionValue,
    inputs: &CertificateInputs,
    subject_key_identifier: &[u8; 20],
) -> Result<Vec<u8>, PkiError> {
    Ok(match value {
        ExtensionValue::SubjectKeyIdentifier => der::element(der::OCTET_STRING, subject_key_identifier),
        ExtensionValue::AuthorityKeyIdentifier => der::nested(der::SEQUENCE, |aki| {
            if let Some(identifier) = &inputs.issuer_key_identifier {
                aki.element(der::context(0), identifier);
            }
        }),
        ExtensionValue::KeyUsage(bits) => der::element(der::BIT_STRING, &named_bits(bits)),
        ExtensionValue::CertificatePolicies(named) => der::nested(der::SEQUENCE, |policies| {
            for policy in named {
                policies.nested(der::SEQUENCE, |information| {
                    information.element(der::OBJECT_IDENTIFIER, &oid::encode(policy));
                });
            }
        }),
        ExtensionValue::SubjectAlternativeName(parts) => alternative_names(parts, inputs)?,
        ExtensionValue::CertificateAuthority { path_length } => der::nested(der::SEQUENCE, |constraints| {
            constraints.element(der::BOOLEAN, &[0xff]);
            if let Some(length) = path_length {
                constraints.raw(&der::unsigned_integer(&[length]));
            }
        }),
        ExtensionValue::CrlDistributionPoints { .. } => der::nested(der::SEQUENCE, |points| {
            for url in &inputs.crl_urls {
                // RFC 5280 §4.2.1.13: distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] } }.
                points.nested(der::SEQUENCE, |point| {
                    point.nested(der::context_constructed(0), |name| {
                        name.nested(der::context_constructed(0), |full_name| {
                            full_name.element(der::context(6), url.as_bytes());
                        });
                    });
                });
            }
        }),
        ExtensionValue::EumNameConstraints => der::nested(der::SEQUENCE, |constraints| {
            constraints.nested(der::context_constructed(0), |permitted| {
                for (organization, iin) in &inputs.permitted {
                    permitted.nested(der::SEQUENCE, |subtree| {
                        subtree.nested(der::context_constructed(4), |directory_name| {
                            directory_name.nested(der::SEQUENCE, |name| {
                                name.nested(der::SET, |rdn| {
                                    write_attribute(rdn, AttributeKind::Organization, organization);
                                });
                                name.nested(der::SET, |rdn| {
                                    write_attribute(rdn, AttributeKind::SerialNumber, iin)
                                });
                            });
                        });
                    });
                }
            });
        }),
        ExtensionValue::ExtendedKeyUsage(purposes) => der::nested(der::SEQUENCE, |usage| {
            for purpose in purposes {
                usage.element(der::OBJECT_IDENTIFIER, &oid::encode(purpose.oid()));
            }
        }),
        ExtensionValue::PermittedEins => der::nested(der::SEQUENCE, |eins| {
            for (_, ein) in &inputs.permitted {
                eins.element(der::PRINTABLE_STRING, ein.as_bytes());
            }
        }),
        ExtensionValue::OcspNoCheck => der::element(der::NULL, &[]),
        ExtensionValue::Fixed { value, .. } => value.to_vec(),
    })
}

/// X.690 §11.2.2: a named bit list without trailing zero bits; our bits lie in the first octet.
fn named_bits(bits: &[KeyUsageBit]) -> [u8; 2] {
    let octet = bits.iter().fold(0u8, |octet, bit| octet | 0x80 >> (*bit as u8));
    [octet.trailing_zeros() as u8 % 8, octet]
}

fn alternative_names(parts: &[AlternativeName], inputs: &CertificateInputs) -> Result<Vec<u8>, PkiError> {
    let mut names = Writer::default();
    for part in parts {
        match part {
            AlternativeName::RegisteredId => {
                let arcs = inputs.registered_id.as_deref().and_then(oid::parse).ok_or(REGISTERED_ID_RULE)?;
                names.element(der::context(8), &oid::encode(&arcs));
            }
            AlternativeName::DnsNameAsCommonName | AlternativeName::DnsNameAndIpAddresses => {
                if let Some(name) = &inputs.dns_name {
                    names.element(der::context(2), name.as_bytes());
                }
                for address in &inputs.ip_addresses {
                    match address {
                        IpAddr::V4(address) => names.element(der::context(7), &address.octets()),
                        IpAddr::V6(address) => names.element(der::context(7), &address.octets()),
                    };
                }
            }
        }
    }
    Ok(der::element(der::SEQUENCE, &names.finish()))
}

const REGISTERED_ID_RULE: PkiError =
    PkiError::InvalidValue { field: "registered_id", rule: "is a dotted object identifier such as 2.999.10" };

/// The inputs hold what the profile needs, nothing more, and each value keeps the rule of its field.
pub(crate) fn check_inputs(profile: &CertificateProfile, inputs: &CertificateInputs) -> Result<(), PkiError> {
    let mut uses = Uses::default();
    for rule in profile.extensions {
        match rule.value {
            ExtensionValue::AuthorityKeyIdentifier => uses.issuer_key_identifier = true,
            ExtensionValue::CrlDistributionPoints { count } => uses.crl_urls = count,
            ExtensionValue::EumNameConstraints => (uses.permitted, uses.iin) = (true, true),
            ExtensionValue::PermittedEins => uses.permitted = true,
            ExtensionValue::SubjectAlternativeName(parts) => {
                for part in parts {
                    match part {
                        AlternativeName::RegisteredId => uses.registered_id = true,
                        AlternativeName::DnsNameAsCommonName => uses.dns_name_as_common_name = true,
                        AlternativeName::DnsNameAndIpAddresses => uses.addresses = true,
                    }
                }
            }
            ExtensionValue::SubjectKeyIdentifier
            | ExtensionValue::KeyUsage(_)
            | ExtensionValue::CertificatePolicies(_)
            | ExtensionValue::CertificateAuthority { .. }
            | ExtensionValue::ExtendedKeyUsage(_)
            | ExtensionValue::OcspNoCheck
            | ExtensionValue::Fixed { .. } => {}
        }
    }
    let name = profile.name;
    let must_match = |needed: bool, present: bool, field: &'static str| match (needed, present) {
        (true, false) => Err(PkiError::MissingValue { profile: name, field }),
        (false, true) => Err(PkiError::UnexpectedValue { profile: name, field }),
        _ => Ok(()),
    };
    must_match(uses.issuer_key_identifier, inputs.issuer_key_identifier.is_some(), "issuer_key_identifier")?;
    must_match(uses.registered_id, inputs.registered_id.is_some(), "registered_id")?;
    must_match(uses.permitted, !inputs.permitted.is_empty(), "permitted")?;
    must_match(uses.crl_urls > 0, !inputs.crl_urls.is_empty(), "crl_urls")?;
    if uses.addresses {
        must_match(
            true,
            inputs.dns_name.is_some() || !inputs.ip_addresses.is_empty(),
            "dns_name or ip_addresses",
        )?;
    } else {
        must_match(uses.dns_name_as_common_name, inputs.dns_name.is_some(), "dns_name")?;
        must_match(false, !inputs.ip_addresses.is_empty(), "ip_addresses")?;
    }
    if inputs.crl_urls.len() != uses.crl_urls {
        return Err(invalid("crl_urls", "holds as many URLs as the profile has distribution points"));
    }
    if inputs.permitted.len() > PERMITTED_MAX || inputs.ip_addresses.len() > IP_ADDRESSES_MAX {
        return Err(invalid("permitted or ip_addresses", "holds more entries than one certificate carries"));
    }
    if uses.dns_name_as_common_name && inputs.dns_name != inputs.subject.common_name {
        return Err(invalid("dns_name", "repeats the common name"));
    }
    if inputs.registered_id.as_deref().is_some_and(|id| oid::parse(id).is_none()) {
        return Err(REGISTERED_ID_RULE);
    }
    if inputs.dns_name.as_deref().is_some_and(|name| !is_dns_name(name)) {
        return Err(invalid("dns_name", "is a host name of letters, digits and hyphens, without wildcard"));
    }
    if !inputs.crl_urls.iter().all(|url| is_http_url(url)) {
        return Err(invalid("crl_urls", "are http:// URLs of printable ASCII characters"));
    }
    for (organization, iin) in &inputs.permitted {
        check_attribute(AttributeKind::Organization, organization)?;
        if !iin.bytes().all(|c| c.is_ascii_digit()) || !(1..=EIN_DIGITS_MAX).contains(&iin.len()) {
            return Err(invalid("permitted", "pairs an organisation with 1 to 30 digits"));
        }
        if uses.iin && iin.len() != 8 {
            return Err(invalid("permitted", "pairs an organisation with an IIN of 8 digits"));
        }
        // The extension has no place for another organisation than the holder's own.
        if !uses.iin && inputs.subject.organization.as_ref() != Some(organization) {
            return Err(invalid("permitted", "is for the organisation of the subject"));
        }
    }
    if inputs.not_after <= inputs.not_before {
        return Err(invalid("not_after", "lies after not_before"));
    }
    der::enter_only(&inputs.issuer_name_der, der::SEQUENCE)
        .ok()
        .filter(|name: &Reader<'_>| !name.is_empty() && der::is_canonical(&inputs.issuer_name_der))
        .ok_or(invalid("issuer_name_der", "is a non-empty name in DER"))?;
    Ok(())
}

/// Which inputs a profile's extensions draw on.
#[derive(Default)]
struct Uses {
    issuer_key_identifier: bool,
    registered_id: bool,
    permitted: bool,
    /// Each an IIN, with an organisation of its own.
    iin: bool,
    addresses: bool,
    dns_name_as_common_name: bool,
    crl_urls: usize,
}

fn check_attribute(kind: AttributeKind, value: &str) -> Result<(), PkiError> {
    let field = kind.as_str();
    match kind {
        AttributeKind::Country => {
            if value.len() != 2 || !value.bytes().all(|c| c.is_ascii_uppercase()) {
                return Err(invalid(field, "is two upper-case letters"));
            }
        }
        AttributeKind::SerialNumber => {
            if !value.bytes().all(|c| c.is_ascii_digit()) {
                return Err(invalid(field, "is decimal digits"));
            }
        }
        AttributeKind::Organization | AttributeKind::OrganizationalUnit | AttributeKind::CommonName => {
            let characters = value.chars().count();
            if !(1..=ATTRIBUTE_CHARACTERS_MAX).contains(&characters) {
                return Err(invalid(field, "has 1 to 64 characters"));
            }
            if value.chars().any(char::is_control) || value.trim() != value {
                return Err(invalid(field, "has no control characters and no spaces at its ends"));
            }
        }
    }
    Ok(())
}

fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        })
}

fn is_http_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").unwrap_or_default();
    url.len() <= URL_BYTES_MAX
        && host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && url.bytes().all(|c| c.is_ascii_graphic())
}

const fn invalid(field: &'static str, rule: &'static str) -> PkiError {
    PkiError::InvalidValue { field, rule }
}
