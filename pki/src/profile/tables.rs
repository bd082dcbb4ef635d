//! The table: every role's own profile, as data.

use super::{
    AlternativeName, AttributeKind, CertificateProfile, ExtensionRule, ExtensionValue, KeyUsageBit, Presence,
    Purpose, SerialNumberRule, SubjectAttribute,
};
use crate::oid;
use crate::role::CertificateRole;

use AlternativeName::{DnsNameAndIpAddresses, DnsNameAsCommonName, RegisteredId};
use AttributeKind::{CommonName, Country, Organization, OrganizationalUnit};
use ExtensionValue::{
    AuthorityKeyIdentifier, CertificateAuthority, CertificatePolicies, CrlDistributionPoints,
    EumNameConstraints, ExtendedKeyUsage, KeyUsage, OcspNoCheck, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use KeyUsageBit::{CrlSign, DigitalSignature, KeyCertSign};

pub(super) const fn required(kind: AttributeKind) -> SubjectAttribute {
    SubjectAttribute { kind, presence: Presence::Required }
}

pub(super) const fn optional(kind: AttributeKind) -> SubjectAttribute {
    SubjectAttribute { kind, presence: Presence::Optional }
}

pub(super) const fn critical(value: ExtensionValue) -> ExtensionRule {
    ExtensionRule { critical: true, value }
}

pub(super) const fn plain(value: ExtensionValue) -> ExtensionRule {
    ExtensionRule { critical: false, value }
}

// SGP.26 v3.0.2 Variant O, CERT_CI_SIG_NIST and its predecessor of 2020.
pub(crate) static CERTIFICATE_ISSUER: CertificateProfile = CertificateProfile {
    name: CertificateRole::CertificateIssuer.as_str(),
    role: CertificateRole::CertificateIssuer,
    issued_by: &[CertificateRole::CertificateIssuer.as_str()],
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: None }),
        critical(CertificatePolicies(&[oid::ROLE_CI])),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 12_783,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static EUM: CertificateProfile = CertificateProfile {
    name: CertificateRole::Eum.as_str(),
    role: CertificateRole::Eum,
    issued_by: &[CertificateRole::CertificateIssuer.as_str()],
    subject: &[required(Country), required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[KeyCertSign])),
        critical(CertificatePolicies(&[oid::ROLE_EUM])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(CertificateAuthority { path_length: Some(0) }),
        plain(CrlDistributionPoints { count: 1 }),
        critical(EumNameConstraints),
    ],
    validity_days: 12_410,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static EUICC: CertificateProfile = CertificateProfile {
    name: CertificateRole::Euicc.as_str(),
    role: CertificateRole::Euicc,
    issued_by: &[CertificateRole::Eum.as_str()],
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
        critical(CertificatePolicies(&[oid::ROLE_EUICC])),
    ],
    validity_days: 2_000_000,
    serial_number: SerialNumberRule::Random,
};

// A certificate issuer certified by another of the same authority: who trusts the one can go on to the other (RFC 5280 §3.2,
// cross-certificate; RFC 4210 §4.4, new with old and old with new).
pub(crate) static CROSS_CERTIFICATE: CertificateProfile = CertificateProfile {
    name: CertificateRole::CrossCertificate.as_str(),
    role: CertificateRole::CrossCertificate,
    issued_by: &[CertificateRole::CertificateIssuer.as_str()],
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: None }),
        critical(CertificatePolicies(&[oid::ROLE_CI])),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DP_AUTH: CertificateProfile = CertificateProfile {
    name: CertificateRole::DpAuth.as_str(),
    role: CertificateRole::DpAuth,
    issued_by: &[CertificateRole::CertificateIssuer.as_str()],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicies(&[oid::ROLE_DP_AUTH])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DP_PB: CertificateProfile = CertificateProfile {
    name: CertificateRole::DpPb.as_str(),
    role: CertificateRole::DpPb,
    issued_by: &[CertificateRole::CertificateIssuer.as_str()],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicies(&[oid::ROLE_DP_PB])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DP_TLS: CertificateProfile = CertificateProfile {
    name: CertificateRole::DpTls.as_str(),
    role: CertificateRole::DpTls,
    issued_by: &[CertificateRole::CertificateIssuer.as_str()],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::ServerAuthentication, Purpose::ClientAuthentication])),
        plain(CertificatePolicies(&[oid::ROLE_DP_TLS])),
        plain(SubjectKeyIdentifier),
        plain(AuthorityKeyIdentifier),
        plain(SubjectAlternativeName(&[DnsNameAsCommonName, RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};

// SM-DS: as the SM-DP+ but for the role (SGP.22 v2 §4.5.2.1).
pub(crate) static DS_AUTH: CertificateProfile = CertificateProfile {
    name: CertificateRole::DsAuth.as_str(),
    role: CertificateRole::DsAuth,
    issued_by: &["ci"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicies(&[oid::ROLE_DS_AUTH])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 3_650,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DS_TLS: CertificateProfile = CertificateProfile {
    name: CertificateRole::DsTls.as_str(),
    role: CertificateRole::DsTls,
    issued_by: &["ci"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::ServerAuthentication, Purpose::ClientAuthentication])),
        plain(CertificatePolicies(&[oid::ROLE_DS_TLS])),
        plain(SubjectKeyIdentifier),
        plain(AuthorityKeyIdentifier),
        plain(SubjectAlternativeName(&[DnsNameAsCommonName, RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};

// SGP.26 v3.0.2 CERT_EIM_SIG: no policy, no name of its key. Below the CI itself in every variant; no list names it.
pub(crate) static EIM_SIGN: CertificateProfile = CertificateProfile {
    name: CertificateRole::EimSign.as_str(),
    role: CertificateRole::EimSign,
    issued_by: &["ci"],
    subject: &[required(Country), required(CommonName)],
    extensions: &[plain(AuthorityKeyIdentifier), critical(KeyUsage(&[DigitalSignature]))],
    validity_days: 2_555,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static EIM_TLS: CertificateProfile = CertificateProfile {
    name: CertificateRole::EimTls.as_str(),
    role: CertificateRole::EimTls,
    issued_by: &["ci"],
    subject: &[required(Country), required(CommonName)],
    extensions: &[
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::ServerAuthentication, Purpose::ClientAuthentication])),
        plain(SubjectKeyIdentifier),
        plain(AuthorityKeyIdentifier),
        plain(SubjectAlternativeName(&[DnsNameAsCommonName, RegisteredId])),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static OPERATOR_ROOT: CertificateProfile = CertificateProfile {
    name: CertificateRole::OperatorRoot.as_str(),
    role: CertificateRole::OperatorRoot,
    issued_by: &[CertificateRole::OperatorRoot.as_str()],
    subject: &[optional(Organization), required(CommonName)],
    extensions: &[
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: Some(0) }),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
    ],
    validity_days: 3_650,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static OPERATOR_CLIENT: CertificateProfile = CertificateProfile {
    name: CertificateRole::OperatorClient.as_str(),
    role: CertificateRole::OperatorClient,
    issued_by: &[CertificateRole::OperatorRoot.as_str()],
    subject: &[optional(Organization), required(OrganizationalUnit), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        plain(ExtendedKeyUsage(&[Purpose::ClientAuthentication])),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static OPERATOR_SERVER: CertificateProfile = CertificateProfile {
    name: CertificateRole::OperatorServer.as_str(),
    role: CertificateRole::OperatorServer,
    issued_by: &[CertificateRole::OperatorRoot.as_str()],
    subject: &[optional(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        plain(ExtendedKeyUsage(&[Purpose::ServerAuthentication])),
        plain(SubjectAlternativeName(&[DnsNameAndIpAddresses])),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};

// No list names it and nobody asks about it, so it ends soon and is renewed by the service.
pub(crate) static OCSP_RESPONDER: CertificateProfile = CertificateProfile {
    name: CertificateRole::OcspResponder.as_str(),
    role: CertificateRole::OcspResponder,
    issued_by: &["ci", "ci-sub", "dp-sub", "ds-sub"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::OcspSigning])),
        plain(OcspNoCheck),
    ],
    validity_days: 90,
    serial_number: SerialNumberRule::Random,
};
