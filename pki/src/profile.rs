//! Certificate profiles as data: one table from which certificates are built, linted and verified.
//!
//! The GSMA profiles are those of the published SGP.26 Variant O certificates, extension order included.

mod tables;

use crate::oid::{self, Arcs};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// The name of a certificate profile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ProfileName {
    /// GSMA Certificate Issuer, the root.
    CertificateIssuer,
    /// eUICC manufacturer, a CA below the CI for its own eUICCs.
    Eum,
    /// An eUICC, below its EUM.
    Euicc,
    /// SM-DP+ authentication.
    DpAuth,
    /// SM-DP+ profile binding.
    DpPb,
    /// SM-DP+ TLS.
    DpTls,
    /// The operator CA: issues the mTLS certificates of persons, parties and the service; never part of the GSMA PKI.
    OperatorRoot,
    /// mTLS client below the operator CA.
    OperatorClient,
    /// mTLS server below the operator CA.
    OperatorServer,
    /// Signs OCSP answers about certificates of the CI (RFC 6960 §4.2.2.2).
    OcspResponder,
    /// A CI certified by another one of the same authority.
    CrossCertificate,
}

impl ProfileName {
    /// Every name.
    pub const ALL: [Self; 11] = [
        Self::CertificateIssuer,
        Self::Eum,
        Self::Euicc,
        Self::DpAuth,
        Self::DpPb,
        Self::DpTls,
        Self::OperatorRoot,
        Self::OperatorClient,
        Self::OperatorServer,
        Self::OcspResponder,
        Self::CrossCertificate,
    ];

    /// The stable text used in records, messages and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateIssuer => "ci",
            Self::Eum => "eum",
            Self::Euicc => "euicc",
            Self::DpAuth => "dpauth",
            Self::DpPb => "dppb",
            Self::DpTls => "dptls",
            Self::OperatorRoot => "operator-root",
            Self::OperatorClient => "operator-client",
            Self::OperatorServer => "operator-server",
            Self::OcspResponder => "ocsp-responder",
            Self::CrossCertificate => "ci-cross",
        }
    }

    /// The profile of this name.
    pub const fn profile(self) -> &'static CertificateProfile {
        match self {
            Self::CertificateIssuer => &tables::CERTIFICATE_ISSUER,
            Self::Eum => &tables::EUM,
            Self::Euicc => &tables::EUICC,
            Self::DpAuth => &tables::DP_AUTH,
            Self::DpPb => &tables::DP_PB,
            Self::DpTls => &tables::DP_TLS,
            Self::OperatorRoot => &tables::OPERATOR_ROOT,
            Self::OperatorClient => &tables::OPERATOR_CLIENT,
            Self::OperatorServer => &tables::OPERATOR_SERVER,
            Self::OcspResponder => &tables::OCSP_RESPONDER,
            Self::CrossCertificate => &tables::CROSS_CERTIFICATE,
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ProfileName {
    type Err = crate::PkiError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or(crate::PkiError::UnknownProfile)
    }
}

/// What a certificate of one kind looks like; data only.
#[derive(Debug, PartialEq, Eq)]
pub struct CertificateProfile {
    /// Its name.
    pub name: ProfileName,
    /// The profile that issues it; its own name for a root.
    pub issued_by: ProfileName,
    /// The subject's attributes in their order, each in an RDN of its own.
    pub subject: &'static [SubjectAttribute],
    /// The extensions in their order; no other may appear.
    pub extensions: &'static [ExtensionRule],
    /// Days from notBefore to notAfter when nobody asks for another period.
    pub validity_days: u32,
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
    /// One policy without qualifiers.
    CertificatePolicy(Arcs),
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
    /// The purposes, in their order.
    ExtendedKeyUsage(&'static [Purpose]),
    /// NULL: the responder's own revocation is not asked for (RFC 6960 §4.2.2.2.1), so its certificate lives shortly.
    OcspNoCheck,
}

impl ExtensionValue {
    /// The extension's object identifier.
    pub const fn oid(self) -> Arcs {
        match self {
            Self::SubjectKeyIdentifier => oid::SUBJECT_KEY_IDENTIFIER,
            Self::AuthorityKeyIdentifier => oid::AUTHORITY_KEY_IDENTIFIER,
            Self::KeyUsage(_) => oid::KEY_USAGE,
            Self::CertificatePolicy(_) => oid::CERTIFICATE_POLICIES,
            Self::SubjectAlternativeName(_) => oid::SUBJECT_ALTERNATIVE_NAME,
            Self::CertificateAuthority { .. } => oid::BASIC_CONSTRAINTS,
            Self::CrlDistributionPoints { .. } => oid::CRL_DISTRIBUTION_POINTS,
            Self::EumNameConstraints => oid::NAME_CONSTRAINTS,
            Self::ExtendedKeyUsage(_) => oid::EXTENDED_KEY_USAGE,
            Self::OcspNoCheck => oid::OCSP_NO_CHECK,
        }
    }

    /// The extension's name in RFC 5280.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SubjectKeyIdentifier => "subjectKeyIdentifier",
            Self::AuthorityKeyIdentifier => "authorityKeyIdentifier",
            Self::KeyUsage(_) => "keyUsage",
            Self::CertificatePolicy(_) => "certificatePolicies",
            Self::SubjectAlternativeName(_) => "subjectAltName",
            Self::CertificateAuthority { .. } => "basicConstraints",
            Self::CrlDistributionPoints { .. } => "cRLDistributionPoints",
            Self::EumNameConstraints => "nameConstraints",
            Self::ExtendedKeyUsage(_) => "extKeyUsage",
            Self::OcspNoCheck => "ocspNoCheck",
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
        self.issued_by == self.name
    }

    /// The policy of certificates of this profile.
    pub fn policy(&self) -> Option<Arcs> {
        self.extensions.iter().find_map(|rule| match rule.value {
            ExtensionValue::CertificatePolicy(policy) => Some(policy),
            _ => None,
        })
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
        let mut text =
            format!("chancery certificate profile v1\nname {}\nissued by {}\n", self.name, self.issued_by);
        let mut line = |parts: &[&str]| {
            text.push_str(&parts.join(" "));
            text.push('\n');
        };
        line(&["version 3"]);
        line(&["signature", &oid::dotted(oid::ECDSA_WITH_SHA256)]);
        line(&["subject key P-256 named curve uncompressed"]);
        line(&["validity days", &self.validity_days.to_string()]);
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
            Self::CertificatePolicy(policy) => write!(text, "{}", oid::dotted(policy)),
            Self::SubjectAlternativeName(parts) => write!(text, "{parts:?}"),
            Self::CertificateAuthority { path_length } => match path_length {
                Some(length) => write!(text, "cA pathLenConstraint {length}"),
                None => write!(text, "cA"),
            },
            Self::CrlDistributionPoints { count } => write!(text, "{count}"),
            Self::EumNameConstraints => write!(text, "permitted directoryName organizationName serialNumber"),
            Self::ExtendedKeyUsage(purposes) => write!(text, "{purposes:?}"),
            Self::OcspNoCheck => write!(text, "NULL"),
        };
        debug_assert!(result.is_ok(), "writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::ExtensionValue::{CertificateAuthority, EumNameConstraints, KeyUsage};
    use super::KeyUsageBit::KeyCertSign;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for name in ProfileName::ALL {
            assert_eq!(name.to_string().parse::<ProfileName>().unwrap(), name);
            assert_eq!(name.profile().name, name);
        }
        assert!("CI".parse::<ProfileName>().is_err());
        assert!("".parse::<ProfileName>().is_err());
    }

    #[test]
    fn every_profile_of_the_table_is_consistent() {
        for name in ProfileName::ALL {
            let profile = name.profile();
            let issuer = profile.issued_by.profile();
            let oids: HashSet<_> = profile.extensions.iter().map(|rule| rule.value.oid()).collect();
            assert_eq!(oids.len(), profile.extensions.len(), "{name}: no extension twice");
            let kinds: HashSet<_> = profile.subject.iter().map(|attribute| attribute.kind.as_str()).collect();
            assert_eq!(kinds.len(), profile.subject.len(), "{name}: no attribute twice");
            assert!(kinds.contains("commonName"), "{name}");
            assert!(profile.validity_days > 0);
            assert!(issuer.key_usage().contains(&KeyCertSign), "{name}: its issuer signs certificates");
            assert!(
                issuer.is_root() || issuer.issued_by.profile().is_root(),
                "{name}: at most two CAs above"
            );
            // RFC 5280 §4.2.1.1, §4.2.1.2: a subject key identifier always here, an authority's unless self-signed.
            assert!(oids.contains(oid::SUBJECT_KEY_IDENTIFIER), "{name}");
            assert_eq!(oids.contains(oid::AUTHORITY_KEY_IDENTIFIER), !profile.is_root(), "{name}");
            // RFC 5280 §4.2.1.3 and §4.2.1.9: who signs certificates is a CA, and says both critically.
            let is_ca = profile.key_usage().contains(&KeyCertSign);
            assert_eq!(oids.contains(oid::BASIC_CONSTRAINTS), is_ca, "{name}");
            for rule in profile.extensions {
                if matches!(rule.value, CertificateAuthority { .. } | KeyUsage(_) | EumNameConstraints) {
                    assert!(rule.critical, "{name}: {}", rule.value.as_str());
                }
            }
            // SGP.22 knows no OCSP: a responder has no role there.
            let is_gsma = !name.as_str().starts_with("operator-") && name != ProfileName::OcspResponder;
            assert_eq!(profile.policy().is_some(), is_gsma, "{name}");
        }
    }

    #[test]
    fn every_profile_has_a_digest_of_its_own() {
        let digests: HashSet<_> = ProfileName::ALL.map(|name| name.profile().digest()).into_iter().collect();
        assert_eq!(digests.len(), ProfileName::ALL.len());
        assert!(
            ProfileName::Euicc
                .profile()
                .rendering()
                .contains("extension certificatePolicies 2.5.29.32 critical 2.23.146.1.2.1.1\n")
        );
    }
}
