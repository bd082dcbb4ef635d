//! What a certificate is for.

use std::fmt;
use std::str::FromStr;

use crate::profile::{CertificateProfile, tables, version_3};

/// What a certificate is for in the hierarchy. A role has one layout of its own, and may have others: those of SGP.22 v3, and the
/// operator's ([`crate::profile`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CertificateRole {
    /// GSMA Certificate Issuer, the root.
    CertificateIssuer,
    /// A CA between the CI and everything else (SGP.22 v3 variants B and C).
    CiSubCa,
    /// eUICC manufacturer, a CA below the CI for its own eUICCs.
    Eum,
    /// A CA between a manufacturer and its eUICCs (variants A and C).
    EumSubCa,
    /// An eUICC, below its EUM.
    Euicc,
    /// A CA for SM-DP+ alone (variants A and C).
    DpSubCa,
    /// SM-DP+ authentication.
    DpAuth,
    /// SM-DP+ profile binding.
    DpPb,
    /// SM-DP+ TLS.
    DpTls,
    /// A CA for SM-DS alone (variants A and C).
    DsSubCa,
    /// SM-DS authentication.
    DsAuth,
    /// SM-DS TLS.
    DsTls,
    /// Signs the packages of an eIM (SGP.32).
    EimSign,
    /// eIM TLS and DTLS.
    EimTls,
    /// The operator CA: issues the mTLS certificates of persons, parties and the service; never part of the GSMA PKI.
    OperatorRoot,
    /// mTLS client below the operator CA.
    OperatorClient,
    /// mTLS server below the operator CA.
    OperatorServer,
    /// Signs OCSP answers about certificates of a CI (RFC 6960 §4.2.2.2).
    OcspResponder,
    /// A CI certified by another one of the same authority.
    CrossCertificate,
}

impl CertificateRole {
    /// Every role.
    pub const ALL: [Self; 19] = [
        Self::CertificateIssuer,
        Self::CiSubCa,
        Self::Eum,
        Self::EumSubCa,
        Self::Euicc,
        Self::DpSubCa,
        Self::DpAuth,
        Self::DpPb,
        Self::DpTls,
        Self::DsSubCa,
        Self::DsAuth,
        Self::DsTls,
        Self::EimSign,
        Self::EimTls,
        Self::OperatorRoot,
        Self::OperatorClient,
        Self::OperatorServer,
        Self::OcspResponder,
        Self::CrossCertificate,
    ];

    /// The stable text used in records, messages and files; also the name of the role's own profile.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CertificateIssuer => "ci",
            Self::CiSubCa => "ci-sub",
            Self::Eum => "eum",
            Self::EumSubCa => "eum-sub",
            Self::Euicc => "euicc",
            Self::DpSubCa => "dp-sub",
            Self::DpAuth => "dpauth",
            Self::DpPb => "dppb",
            Self::DpTls => "dptls",
            Self::DsSubCa => "ds-sub",
            Self::DsAuth => "dsauth",
            Self::DsTls => "dstls",
            Self::EimSign => "eimsign",
            Self::EimTls => "eimtls",
            Self::OperatorRoot => "operator-root",
            Self::OperatorClient => "operator-client",
            Self::OperatorServer => "operator-server",
            Self::OcspResponder => "ocsp-responder",
            Self::CrossCertificate => "ci-cross",
        }
    }

    /// The role's own profile: that of SGP.22 v2 where there are several.
    pub const fn profile(self) -> &'static CertificateProfile {
        match self {
            Self::CertificateIssuer => &tables::CERTIFICATE_ISSUER,
            Self::CiSubCa => &version_3::CI_SUB_CA,
            Self::Eum => &tables::EUM,
            Self::EumSubCa => &version_3::EUM_SUB_CA,
            Self::Euicc => &tables::EUICC,
            Self::DpSubCa => &version_3::DP_SUB_CA,
            Self::DpAuth => &tables::DP_AUTH,
            Self::DpPb => &tables::DP_PB,
            Self::DpTls => &tables::DP_TLS,
            Self::DsSubCa => &version_3::DS_SUB_CA,
            Self::DsAuth => &tables::DS_AUTH,
            Self::DsTls => &tables::DS_TLS,
            Self::EimSign => &tables::EIM_SIGN,
            Self::EimTls => &tables::EIM_TLS,
            Self::OperatorRoot => &tables::OPERATOR_ROOT,
            Self::OperatorClient => &tables::OPERATOR_CLIENT,
            Self::OperatorServer => &tables::OPERATOR_SERVER,
            Self::OcspResponder => &tables::OCSP_RESPONDER,
            Self::CrossCertificate => &tables::CROSS_CERTIFICATE,
        }
    }

    /// Every built-in profile of the role, its own first.
    pub fn profiles(self) -> impl Iterator<Item = &'static CertificateProfile> {
        crate::profile::built_in().filter(move |profile| profile.role == self)
    }
}

impl fmt::Display for CertificateRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CertificateRole {
    type Err = crate::PkiError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(crate::PkiError::UnknownRole)
    }
}
