//! Certificate profiles as data: one table from which certificates are built, linted and verified.
//!
//! Those of SGP.22 v2 are the published SGP.26 Variant O certificates, extension order included. An operator may add its own
//! ([`install`]): each stands for a built-in one, whose rules of verification its certificates keep.

mod file;
pub(crate) mod tables;
pub(crate) mod version_3;

use crate::error::PkiError;
use crate::oid::{self, Arcs};
use crate::role::CertificateRole;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::sync::OnceLock;

pub use file::ProfileFault;

/// The profiles of this installation, beside the built-in ones.
static INSTALLED: OnceLock<Vec<&'static CertificateProfile>> = OnceLock::new();

/// Every built-in profile.
pub fn built_in() -> impl Iterator<Item = &'static CertificateProfile> {
    CertificateRole::ALL.into_iter().map(CertificateRole::profile).chain(version_3::FURTHER)
}

/// Every profile, built in or installed.
pub fn all() -> impl Iterator<Item = &'static CertificateProfile> {
    built_in().chain(INSTALLED.get().into_iter().flatten().copied())
}

/// The profile of this name.
pub fn find(name: &str) -> Result<&'static CertificateProfile, PkiError> {
    all().find(|profile| profile.name == name).ok_or(PkiError::UnknownProfile)
}

/// Reads an operator's profiles, each the text of a file (`docs/formats/certificate-profile.md`): all of them or none. They live as
/// long as the process, since every certificate refers to one; so this is for its start.
pub fn read<'a>(
    texts: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<&'static CertificateProfile>, ProfileFault> {
    let mut read: Vec<&'static CertificateProfile> = Vec::new();
    for (from, text) in texts {
        let fault = |why: String| ProfileFault { from: from.to_owned(), why };
        let profile = file::parse(text).map_err(fault)?;
        if built_in().chain(read.iter().copied()).any(|other| other.name == profile.name) {
            return Err(fault(format!("there is a profile {} already", profile.name)));
        }
        read.push(Box::leak(Box::new(profile)));
    }
    Ok(read)
}

/// Takes profiles that were read into use, once in a process and before [`find`]; of a second call nothing is taken.
pub fn install(profiles: Vec<&'static CertificateProfile>) {
    let _ = INSTALLED.set(profiles);
}

/// What a certificate of one kind looks like; data only.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct CertificateProfile {
    /// Its name.
    pub name: &'static str,
    /// What its certificates are for.
    pub role: CertificateRole,
    /// Names of the built-in profiles whose certificates may issue it; its own name for a root.
    pub issued_by: &'static [&'static str],
    /// The subject's attributes in their order, each in an RDN of its own.
    pub subject: &'static [SubjectAttribute],
    /// The extensions in their order; no other may appear.
    pub extensions: &'static [ExtensionRule],
    /// Days from notBefore to notAfter when nobody asks for another period.
    pub validity_days: u32,
    /// Where the serial number comes from.
    pub serial_number: SerialNumberRule,
}

/// Where a certificate's serial number comes from.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum SerialNumberRule {
    /// 20 random octets (RFC 5280 §4.1.2.2, CA/Browser Forum's 64 bits and more).
    Random,
    /// The EID's 32 digits, two an octet, as SGP.26 v3 has it; random for any further certificate of the device.
    Eid,
}

/// One attribute of a profile's subject.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct SubjectAttribute {
    /// Which attribute.
    pub kind: AttributeKind,
    /// Whether every certificate has it.
    pub presence: Presence,
}

/// The attribute types our subjects use.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum AttributeKind {
    /// countryName, a PrintableString of two upper-case letters.
    Country,
    /// organizationName, UTF8String.
    Organization,
    /// organizationalUnitName, UTF8String.
    OrganizationalUnit,
    /// serialNumber, a PrintableString: the EID's 32 digits.
    SerialNumber,
    /// commonName, UTF8String.
    CommonName,
}

impl AttributeKind {
    /// The attribute type.
    pub const fn oid(self) -> Arcs {
        match self {
            Self::Country => oid::COUNTRY,
            Self::Organization => oid::ORGANIZATION,
            Self::OrganizationalUnit => oid::ORGANIZATIONAL_UNIT,
            Self::SerialNumber => oid::SERIAL_NUMBER,
            Self::CommonName => oid::COMMON_NAME,
        }
    }

    /// The string type, as in the published certificates.
    pub const fn string_type(self) -> StringType {
        match self {
            Self::Country | Self::SerialNumber => StringType::Printable,
            Self::Organization | Self::OrganizationalUnit | Self::CommonName => StringType::Utf8,
        }
    }

    /// The name in messages and renderings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Country => "countryName",
            Self::Organization => "organizationName",
            Self::OrganizationalUnit => "organizationalUnitName",
            Self::SerialNumber => "serialNumber",
            Self::CommonName => "commonName",
        }
    }
}

/// The ASN.1 string type of an attribute.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum StringType {
    /// PrintableString.
    Printable,
    /// UTF8String.
    Utf8,
}

/// Whether something must be there.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Presence {
    /// Always.
    Required,
    /// When the inputs hold a value.
    Optional,
}

/// One extension of a profile.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct ExtensionRule {
    /// Whether it is marked critical.
    pub critical: bool,
    /// What it holds.
    pub value: ExtensionValue,
}

/// What an extension holds.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum ExtensionValue {
    /// SHA-1 of the subject key's BIT STRING (RFC 5280 §4.2.1.2, method 1).
    SubjectKeyIdentifier,
    /// The issuer's key identifier, nothing else.
    AuthorityKeyIdentifier,
    /// The usages of the key.
    KeyUsage(&'static [KeyUsageBit]),
    /// The policies without qualifiers, in their order; the first is the role's.
    CertificatePolicies(&'static [Arcs]),
    /// The alternative names in their order.
    SubjectAlternativeName(&'static [AlternativeName]),
    /// cA true, with this path length.
    CertificateAuthority {
        /// pathLenConstraint.
        path_length: Option<u8>,
    },
    /// So many distribution points, each one URL.
    CrlDistributionPoints {
        /// How many.
        count: usize,
    },
    /// One permitted directoryName of (organizationName, serialNumber = IIN) per pair (SGP.22 §4.5.2.1).
    EumNameConstraints,
    /// The EID prefixes that may be certified, each a PrintableString (SGP.22 v3, id-rsp-permittedEins).
    PermittedEins,
    /// The purposes, in their order.
    ExtendedKeyUsage(&'static [Purpose]),
    /// NULL: the responder's own revocation is not asked for (RFC 6960 §4.2.2.2.1), so its certificate lives shortly.
    OcspNoCheck,
    /// The same octets in each certificate: an operator's own.
    Fixed {
        /// The extension.
        oid: Arcs,
        /// Its value in DER.
        value: &'static [u8],
    },
}

impl ExtensionValue {
    /// The extension's object identifier.
    pub const fn oid(self) -> Arcs {
        match self {
            Self::SubjectKeyIdentifier => oid::SUBJECT_KEY_IDENTIFIER,
            Self::AuthorityKeyIdentifier => oid::AUTHORITY_KEY_IDENTIFIER,
            Self::KeyUsage(_) => oid::KEY_USAGE,
            Self::CertificatePolicies(_) => oid::CERTIFICATE_POLICIES,
            Self::SubjectAlternativeName(_) => oid::SUBJECT_ALTERNATIVE_NAME,
            Self::CertificateAuthority { .. } => oid::BASIC_CONSTRAINTS,
            Self::CrlDistributionPoints { .. } => oid::CRL_DISTRIBUTION_POINTS,
            Self::EumNameConstraints => oid::NAME_CONSTRAINTS,
            Self::PermittedEins => oid::PERMITTED_EINS,
            Self::ExtendedKeyUsage(_) => oid::EXTENDED_KEY_USAGE,
            Self::OcspNoCheck => oid::OCSP_NO_CHECK,
            Self::Fixed { oid, .. } => oid,
        }
    }

    /// The extension's name in RFC 5280.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubjectKeyIdentifier => "subjectKeyIdentifier",
            Self::AuthorityKeyIdentifier => "authorityKeyIdentifier",
            Self::KeyUsage(_) => "keyUsage",
            Self::CertificatePolicies(_) => "certificatePolicies",
            Self::SubjectAlternativeName(_) => "subjectAltName",
            Self::CertificateAuthority { .. } => "basicConstraints",
            Self::CrlDistributionPoints { .. } => "cRLDistributionPoints",
            Self::EumNameConstraints => "nameConstraints",
            Self::PermittedEins => "permittedEins",
            Self::ExtendedKeyUsage(_) => "extKeyUsage",
            Self::OcspNoCheck => "ocspNoCheck",
            Self::Fixed { .. } => "of the operator",
        }
    }
}

/// A usage of a key; the discriminant is the bit's number in RFC 5280 §4.2.1.3.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum KeyUsageBit {
    /// digitalSignature.
    DigitalSignature = 0,
    /// keyCertSign.
    KeyCertSign = 5,
    /// cRLSign.
    CrlSign = 6,
}

/// A part of the subject's alternative names.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum AlternativeName {
    /// registeredID: the object identifier that GSMA assigned to the entity.
    RegisteredId,
    /// dNSName, which the subject's commonName repeats.
    DnsNameAsCommonName,
    /// dNSName, then any number of iPAddress; at least one of both.
    DnsNameAndIpAddresses,
}

/// A purpose of the extended key usage.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Purpose {
    /// id-kp-serverAuth.
    ServerAuthentication,
    /// id-kp-clientAuth.
    ClientAuthentication,
    /// id-kp-OCSPSigning.
    OcspSigning,
}

impl Purpose {
    /// The purpose's object identifier.
    pub const fn oid(self) -> Arcs {
        match self {
            Self::ServerAuthentication => oid::SERVER_AUTHENTICATION,
            Self::ClientAuthentication => oid::CLIENT_AUTHENTICATION,
            Self::OcspSigning => oid::OCSP_SIGNING,
        }
    }
}

impl CertificateProfile {
    /// Whether subject and issuer are the same.
    pub fn is_root(&self) -> bool {
        self.issued_by == [self.name]
    }

    /// The policy that names the role of certificates of this profile.
    pub fn policy(&self) -> Option<Arcs> {
        self.extensions.iter().find_map(|rule| match rule.value {
            ExtensionValue::CertificatePolicies(policies) => policies.first().copied(),
            _ => None,
        })
    }

    /// Whether certificates of this profile have an extension of this kind.
    pub fn has(&self, kind: fn(&ExtensionValue) -> bool) -> bool {
        self.extensions.iter().any(|rule| kind(&rule.value))
    }

    /// Whether certificates of this profile say which EIDs their holder may certify.
    pub fn permits_eids(&self) -> bool {
        self.has(|value| matches!(value, ExtensionValue::EumNameConstraints | ExtensionValue::PermittedEins))
    }

    /// Whether a certificate of this profile has an attribute of this kind in its subject.
    pub fn names(&self, kind: AttributeKind) -> bool {
        self.subject.iter().any(|attribute| attribute.kind == kind)
    }

    /// Whether its holder signs certificates.
    pub fn is_ca(&self) -> bool {
        self.key_usage().contains(&KeyUsageBit::KeyCertSign)
    }

    /// The usages of the key.
    pub fn key_usage(&self) -> &'static [KeyUsageBit] {
        self.extensions
            .iter()
            .find_map(|rule| match rule.value {
                ExtensionValue::KeyUsage(bits) => Some(bits),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// The profile as text, one line for each part in its order; a change of any part changes it.
    pub fn rendering(&self) -> String {
        let mut text = format!(
            "chancery certificate profile v2\nname {}\nrole {}\nissued by {}\n",
            self.name,
            self.role,
            self.issued_by.join(" ")
        );
        let mut line = |parts: &[&str]| {
            text.push_str(&parts.join(" "));
            text.push('\n');
        };
        line(&["version 3"]);
        line(&["signature ecdsa with the hash of the issuer's curve"]);
        line(&["subject key named curve uncompressed"]);
        line(&["validity days", &self.validity_days.to_string()]);
        let serial = match self.serial_number {
            SerialNumberRule::Random => "20 random octets",
            SerialNumberRule::Eid => "the EID",
        };
        line(&["serial number", serial]);
        for attribute in self.subject {
            let presence = match attribute.presence {
                Presence::Required => "required",
                Presence::Optional => "optional",
            };
            let string = match attribute.kind.string_type() {
                StringType::Printable => "PrintableString",
                StringType::Utf8 => "UTF8String",
            };
            line(&["subject", attribute.kind.as_str(), &oid::dotted(attribute.kind.oid()), string, presence]);
        }
        for rule in self.extensions {
            let critical = if rule.critical { "critical" } else { "non-critical" };
            let value = rule.value.rendering();
            line(&["extension", rule.value.as_str(), &oid::dotted(rule.value.oid()), critical, &value]);
        }
        text
    }

    /// SHA-256 of [`Self::rendering`]: which rules a certificate was issued under.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.rendering()).into()
    }
}

impl ExtensionValue {
    fn rendering(self) -> String {
        let mut text = String::new();
        let result = match self {
            Self::SubjectKeyIdentifier => write!(text, "SHA-1 of the subject key"),
            Self::AuthorityKeyIdentifier => write!(text, "keyIdentifier of the issuer"),
            Self::KeyUsage(bits) => write!(text, "{bits:?}"),
            Self::CertificatePolicies(policies) => {
                let policies: Vec<_> = policies.iter().map(|policy| oid::dotted(policy)).collect();
                write!(text, "{}", policies.join(" "))
            }
            Self::SubjectAlternativeName(parts) => write!(text, "{parts:?}"),
            Self::CertificateAuthority { path_length } => match path_length {
                Some(length) => write!(text, "cA pathLenConstraint {length}"),
                None => write!(text, "cA"),
            },
            Self::CrlDistributionPoints { count } => write!(text, "{count}"),
            Self::EumNameConstraints => write!(text, "permitted directoryName organizationName serialNumber"),
            Self::PermittedEins => write!(text, "PrintableString"),
            Self::ExtendedKeyUsage(purposes) => write!(text, "{purposes:?}"),
            Self::OcspNoCheck => write!(text, "NULL"),
            Self::Fixed { value, .. } => write!(text, "{}", hex::encode(value)),
        };
        debug_assert!(result.is_ok(), "writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::ExtensionValue::{CertificateAuthority, EumNameConstraints, KeyUsage};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for role in CertificateRole::ALL {
            assert_eq!(role.to_string().parse::<CertificateRole>().unwrap(), role);
            assert_eq!(role.profile().role, role);
            assert_eq!(role.profile().name, role.as_str(), "a role's own profile has its name");
        }
        let names: HashSet<_> = built_in().map(|profile| profile.name).collect();
        assert_eq!(names.len(), built_in().count());
        for profile in built_in() {
            assert_eq!(find(profile.name).unwrap(), profile);
        }
        assert!("CI".parse::<CertificateRole>().is_err());
        assert!("".parse::<CertificateRole>().is_err());
        assert!(find("").is_err());
    }

    #[test]
    fn every_profile_of_the_table_is_consistent() {
        for profile in built_in() {
            let name = profile.name;
            let oids: HashSet<_> = profile.extensions.iter().map(|rule| rule.value.oid()).collect();
            assert_eq!(oids.len(), profile.extensions.len(), "{name}: no extension twice");
            let kinds: HashSet<_> = profile.subject.iter().map(|attribute| attribute.kind.as_str()).collect();
            assert_eq!(kinds.len(), profile.subject.len(), "{name}: no attribute twice");
            assert!(kinds.contains("commonName"), "{name}");
            assert!(profile.validity_days > 0);
            assert!(!profile.issued_by.is_empty());
            for issuer in profile.issued_by.iter().map(|above| find(above).unwrap()) {
                assert!(issuer.is_ca(), "{name}: its issuer signs certificates");
                assert!(cas_above(issuer) <= 3, "{name}: at most four CAs above");
            }
            // RFC 5280 §4.2.1.1, §4.2.1.2: a subject key identifier always for a CA, an authority's unless self-signed.
            // SGP.26 gives the eIM's signing certificate none.
            assert_eq!(oids.contains(oid::SUBJECT_KEY_IDENTIFIER), profile.role != CertificateRole::EimSign);
            assert_eq!(oids.contains(oid::AUTHORITY_KEY_IDENTIFIER), !profile.is_root(), "{name}");
            // RFC 5280 §4.2.1.3 and §4.2.1.9: who signs certificates is a CA, and says both critically.
            assert_eq!(oids.contains(oid::BASIC_CONSTRAINTS), profile.is_ca(), "{name}");
            for rule in profile.extensions {
                if matches!(rule.value, CertificateAuthority { .. } | KeyUsage(_) | EumNameConstraints) {
                    assert!(rule.critical, "{name}: {}", rule.value.as_str());
                }
            }
            // SGP.22 knows no OCSP, SGP.32 no policies: neither has a role there.
            let has_policy = !name.starts_with("operator-")
                && ![CertificateRole::OcspResponder, CertificateRole::EimSign, CertificateRole::EimTls]
                    .contains(&profile.role);
            assert_eq!(profile.policy().is_some(), has_policy, "{name}");
        }
    }

    /// CAs above certificates of `profile`, at most; a cycle would not end.
    fn cas_above(profile: &CertificateProfile) -> usize {
        let above = profile.issued_by.iter().filter(|above| **above != profile.name);
        above.map(|above| 1 + cas_above(find(above).unwrap())).max().unwrap_or(0)
    }

    #[test]
    fn every_profile_has_a_digest_of_its_own() {
        let digests: HashSet<_> = built_in().map(CertificateProfile::digest).collect();
        assert_eq!(digests.len(), built_in().count());
        assert!(
            CertificateRole::Euicc
                .profile()
                .rendering()
                .contains("extension certificatePolicies 2.5.29.32 critical 2.23.146.1.2.1.1\n")
        );
    }
}
