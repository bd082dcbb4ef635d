//! The further profiles of SGP.22 v3, variants Ov3, A, B and C: one set, since a variant is nothing but who issues what
//! (`docs/cycles/hierarchies.md`). Roles that v2 has too keep their layout but for the policy, which is critical throughout, and
//! the EIDs that a manufacturer may certify, which have an extension of their own.

use super::tables::{critical, plain, required};
use super::{
    AlternativeName, AttributeKind, CertificateProfile, ExtensionValue, KeyUsageBit, Purpose,
    SerialNumberRule,
};
use crate::oid;
use crate::role::CertificateRole;

use AlternativeName::{DnsNameAsCommonName, RegisteredId};
use AttributeKind::{CommonName, Country, Organization, OrganizationalUnit};
use ExtensionValue::{
    AuthorityKeyIdentifier, CertificateAuthority, CertificatePolicies, CrlDistributionPoints,
    ExtendedKeyUsage, KeyUsage, PermittedEins, SubjectAlternativeName, SubjectKeyIdentifier,
};
use KeyUsageBit::{CrlSign, DigitalSignature, KeyCertSign};

/// Those that are not their role's own.
pub(super) static FURTHER: [&CertificateProfile; 8] =
    [&EUM, &EUM_ABOVE_SUB_CA, &EUICC, &DP_AUTH, &DP_PB, &DP_TLS, &DS_AUTH, &DS_TLS];

// Variants B and C.
pub(crate) static CI_SUB_CA: CertificateProfile = CertificateProfile {
    name: CertificateRole::CiSubCa.as_str(),
    role: CertificateRole::CiSubCa,
    issued_by: &["ci"],
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: None }),
        critical(CertificatePolicies(&[oid::ROLE_CI_SUB_CA])),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 12_783,
    serial_number: SerialNumberRule::Random,
};

// Ov3 below the CI, B below its sub CA.
pub(crate) static EUM: CertificateProfile = CertificateProfile {
    name: "eum-v3",
    role: CertificateRole::Eum,
    issued_by: &["ci", "ci-sub"],
    subject: &[required(Country), required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        critical(CertificatePolicies(&[oid::ROLE_EUM_V3])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(CertificateAuthority { path_length: Some(0) }),
        plain(CrlDistributionPoints { count: 2 }),
        critical(PermittedEins),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

// A below the CI, C below its sub CA: a manufacturer that certifies its own sub CAs, which certify the eUICCs.
pub(crate) static EUM_ABOVE_SUB_CA: CertificateProfile = CertificateProfile {
    name: "eum-v3-sub",
    role: CertificateRole::Eum,
    issued_by: &["ci", "ci-sub"],
    subject: &[required(Country), required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        critical(CertificatePolicies(&[oid::ROLE_EUM_V3])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(CertificateAuthority { path_length: Some(1) }),
        plain(CrlDistributionPoints { count: 2 }),
        critical(PermittedEins),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static EUM_SUB_CA: CertificateProfile = CertificateProfile {
    name: CertificateRole::EumSubCa.as_str(),
    role: CertificateRole::EumSubCa,
    issued_by: &["eum-v3-sub"],
    subject: &[required(Country), required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        critical(CertificatePolicies(&[oid::ROLE_EUM_SUB_CA])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(CertificateAuthority { path_length: Some(0) }),
        plain(CrlDistributionPoints { count: 2 }),
        critical(PermittedEins),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static EUICC: CertificateProfile = CertificateProfile {
    name: "euicc-v3",
    role: CertificateRole::Euicc,
    issued_by: &["eum-v3", "eum-sub"],
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
        critical(CertificatePolicies(&[oid::ROLE_EUICC_V3])),
    ],
    validity_days: 2_000_000,
    serial_number: SerialNumberRule::Random,
};

// A and C.
pub(crate) static DP_SUB_CA: CertificateProfile = CertificateProfile {
    name: CertificateRole::DpSubCa.as_str(),
    role: CertificateRole::DpSubCa,
    issued_by: &["ci", "ci-sub"],
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: Some(0) }),
        critical(CertificatePolicies(&[oid::ROLE_DP_SUB_CA])),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DP_AUTH: CertificateProfile = CertificateProfile {
    name: "dpauth-v3",
    role: CertificateRole::DpAuth,
    issued_by: &["ci", "ci-sub", "dp-sub"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicies(&[oid::ROLE_DP_AUTH_V3])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DP_PB: CertificateProfile = CertificateProfile {
    name: "dppb-v3",
    role: CertificateRole::DpPb,
    issued_by: &["ci", "ci-sub", "dp-sub"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicies(&[oid::ROLE_DP_PB_V3])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DP_TLS: CertificateProfile = CertificateProfile {
    name: "dptls-v3",
    role: CertificateRole::DpTls,
    issued_by: &["ci", "ci-sub", "dp-sub"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::ServerAuthentication, Purpose::ClientAuthentication])),
        critical(CertificatePolicies(&[oid::ROLE_DP_TLS_V3])),
        plain(SubjectKeyIdentifier),
        plain(AuthorityKeyIdentifier),
        plain(SubjectAlternativeName(&[DnsNameAsCommonName, RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DS_SUB_CA: CertificateProfile = CertificateProfile {
    name: CertificateRole::DsSubCa.as_str(),
    role: CertificateRole::DsSubCa,
    issued_by: &["ci", "ci-sub"],
    subject: &[required(CommonName), required(OrganizationalUnit), required(Organization), required(Country)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        critical(CertificateAuthority { path_length: Some(0) }),
        critical(CertificatePolicies(&[oid::ROLE_DS_SUB_CA])),
        critical(KeyUsage(&[KeyCertSign, CrlSign])),
        plain(SubjectAlternativeName(&[RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DS_AUTH: CertificateProfile = CertificateProfile {
    name: "dsauth-v3",
    role: CertificateRole::DsAuth,
    issued_by: &["ci", "ci-sub", "ds-sub"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        plain(AuthorityKeyIdentifier),
        plain(SubjectKeyIdentifier),
        plain(SubjectAlternativeName(&[RegisteredId])),
        critical(KeyUsage(&[DigitalSignature])),
        critical(CertificatePolicies(&[oid::ROLE_DS_AUTH_V3])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 1_095,
    serial_number: SerialNumberRule::Random,
};

pub(crate) static DS_TLS: CertificateProfile = CertificateProfile {
    name: "dstls-v3",
    role: CertificateRole::DsTls,
    issued_by: &["ci", "ci-sub", "ds-sub"],
    subject: &[required(Organization), required(CommonName)],
    extensions: &[
        critical(KeyUsage(&[DigitalSignature])),
        critical(ExtendedKeyUsage(&[Purpose::ServerAuthentication, Purpose::ClientAuthentication])),
        critical(CertificatePolicies(&[oid::ROLE_DS_TLS_V3])),
        plain(SubjectKeyIdentifier),
        plain(AuthorityKeyIdentifier),
        plain(SubjectAlternativeName(&[DnsNameAsCommonName, RegisteredId])),
        plain(CrlDistributionPoints { count: 2 }),
    ],
    validity_days: 398,
    serial_number: SerialNumberRule::Random,
};
