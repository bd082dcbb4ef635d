//! The table: every profile, as data.

use super::{
    AlternativeName, AttributeKind, CertificateProfile, ExtensionRule, ExtensionValue, KeyUsageBit, Presence,
    ProfileName, Purpose, SubjectAttribute,
};
use crate::oid;

use AlternativeName::{DnsNameAndIpAddresses, DnsNameAsCommonName, RegisteredId};
use AttributeKind::{CommonName, Country, Organization, OrganizationalUnit};
use ExtensionValue::{
    AuthorityKeyIdentifier, CertificateAuthority, CertificatePolicy, CrlDistributionPoints,
    EumNameConstraints, ExtendedKeyUsage, KeyUsage, OcspNoCheck, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use KeyUsageBit::{CrlSign, DigitalSignature, KeyCertSign};

const fn required(kind: AttributeKind) -> SubjectAttribute {
    SubjectAttribute { kind, presence: Presence::Required }
}

const fn optional(kind: AttributeKind) -> SubjectAttribute {
    SubjectAttribute { kind, presence: Presence::Optional }
}

const fn critical(value: ExtensionValue) -> ExtensionRule {
    ExtensionRule { critical: true, value }
}

const fn plain(value: ExtensionValue) -> ExtensionRule {
    ExtensionRule { critical: false, value }
}

// SGP.26 v3.0.2 Variant O, CERT_CI_SIG_NIST and its predecessor of 2020.
pub(super) static CERTIFICATE_ISSUER: CertificateProfile = CertificateProfile {
    name: ProfileName::CertificateIssuer,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: None }),
        critical(CertificatePolicy(oid::ROLE_CI)),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 12_783,
};

pub(super) static EUM: CertificateProfile = CertificateProfile {
    name: ProfileName::Eum,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(Country), required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[KeyCertSign])),
        critical(CertificatePolicy(oid::ROLE_EUM)),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(CertificateAuthority { path_length: Some(0) }),
        plain(CrlDistributionPoints { count: 1 }),
        critical(EumNameConstraints),
    ],
    validity_days: 12_410,
};

pub(super) static EUICC: CertificateProfile = CertificateProfile {
    name: ProfileName::Euicc,
    issued_by: ProfileName::Eum,
    subject: &[
        required(Country),
        required(Organization),
        required(AttributeKind::SerialNumber),
        required(CommonName),
    ],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicy(oid::ROLE_EUICC)),
    ],
    validity_days: 2_000_000,
};

// A certificate issuer certified by another of the same authority: who trusts the one can go on to the other (RFC 5280 §3.2,
// cross-certificate; RFC 4210 §4.4, new with old and old with new).
pub(super) static CROSS_CERTIFICATE: CertificateProfile = CertificateProfile {
    name: ProfileName::CrossCertificate,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: None }),
        critical(CertificatePolicy(oid::ROLE_CI)),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
};

pub(super) static DP_AUTH: CertificateProfile = CertificateProfile {
    name: ProfileName::DpAuth,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicy(oid::ROLE_DP_AUTH)),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
};

pub(super) static DP_PB: CertificateProfile = CertificateProfile {
    name: ProfileName::DpPb,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicy(oid::ROLE_DP_PB)),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
};

pub(super) static DP_TLS: CertificateProfile = CertificateProfile {
    name: ProfileName::DpTls,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::ServerAuthentication, Purpose::ClientAuthentication])),
        plain(CertificatePolicy(oid::ROLE_DP_TLS)),
        plain(SubjectKeyIdentifier),
        plain(AuthorityKeyIdentifier),
        plain(SubjectAlternativeName(&[DnsNameAsCommonName, RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 398,
};

pub(super) static OPERATOR_ROOT: CertificateProfile = CertificateProfile {
    name: ProfileName::OperatorRoot,
    issued_by: ProfileName::OperatorRoot,
    subject: &[optional(Organization), required(CommonName)],
    extensions: &[
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: Some(0) }),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
    ],
    validity_days: 3_650,
};

pub(super) static OPERATOR_CLIENT: CertificateProfile = CertificateProfile {
    name: ProfileName::OperatorClient,
    issued_by: ProfileName::OperatorRoot,
    subject: &[optional(Organization), required(OrganizationalUnit), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        plain(ExtendedKeyUsage(&[Purpose::ClientAuthentication])),
    ],
    validity_days: 398,
};

pub(super) static OPERATOR_SERVER: CertificateProfile = CertificateProfile {
    name: ProfileName::OperatorServer,
    issued_by: ProfileName::OperatorRoot,
    subject: &[optional(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        plain(ExtendedKeyUsage(&[Purpose::ServerAuthentication])),
        plain(SubjectAlternativeName(&[DnsNameAndIpAddresses])),
    ],
    validity_days: 398,
};

// No list names it and nobody asks about it, so it ends soon and is renewed by the service.
pub(super) static OCSP_RESPONDER: CertificateProfile = CertificateProfile {
    name: ProfileName::OcspResponder,
    issued_by: ProfileName::CertificateIssuer,
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::OcspSigning])),
        plain(OcspNoCheck),
    ],
    validity_days: 90,
};
