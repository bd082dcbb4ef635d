//! Why a certificate is revoked.

use std::fmt;
use std::str::FromStr;

macro_rules! revocation_reasons {
    ($( $(#[$doc:meta])* $name:ident = $code:literal, $text:literal; )*) => {
        /// Why a certificate is revoked: the CRLReason of RFC 5280 §5.3.1 that this authority uses. removeFromCRL (8) stands on
        /// delta lists alone, aACompromise (10) is of attribute certificates: neither has a place here.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum RevocationReason { $( $(#[$doc])* $name, )* }

        impl RevocationReason {
            /// Every reason, by its code.
            pub const ALL: &[RevocationReason] = &[ $( RevocationReason::$name, )* ];

            /// The number of CRLReason.
            pub const fn code(self) -> u8 {
                match self { $( Self::$name => $code, )* }
            }

            /// The stable name used in requests, records and entries.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }

            /// The reason with this number of CRLReason.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )* _ => None }
            }
        }
    };
}

revocation_reasons! {
    /// Not said. RFC 5280 §5.3.1: a list then carries no reason at all.
    Unspecified = 0, "unspecified";
    /// The certificate's private key is, or may be, in other hands.
    KeyCompromise = 1, "key-compromise";
    /// The same of a key that certifies others.
    CaCompromise = 2, "ca-compromise";
    /// A name or other fact in the certificate has changed.
    AffiliationChanged = 3, "affiliation-changed";
    /// Another certificate has taken its place.
    Superseded = 4, "superseded";
    /// Its holder does not need it any more.
    CessationOfOperation = 5, "cessation-of-operation";
    /// For the time being: it is released, or revoked for another reason.
    CertificateHold = 6, "certificate-hold";
    /// What the certificate allowed was taken back.
    PrivilegeWithdrawn = 9, "privilege-withdrawn";
}

impl RevocationReason {
    /// Whether nothing takes it back.
    pub const fn is_for_good(self) -> bool {
        !matches!(self, Self::CertificateHold)
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`RevocationReason`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a revocation reason is one of unspecified, key-compromise, ca-compromise, affiliation-changed, superseded, \
     cessation-of-operation, certificate-hold, privilege-withdrawn"
)]
pub struct UnknownRevocationReason;

/// Reads the stable name, nothing else.
impl FromStr for RevocationReason {
    type Err = UnknownRevocationReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or(UnknownRevocationReason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_reads_back_from_its_name_and_from_its_number() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(RevocationReason::from_code(reason.code()), Some(*reason));
            assert!(UnknownRevocationReason.to_string().contains(reason.as_str()));
        }
    }

    #[test]
    fn what_stands_on_no_full_list_is_no_reason() {
        for code in [7, 8, 10, 255] {
            assert_eq!(RevocationReason::from_code(code), None);
        }
        for text in ["", "remove-from-crl", "keyCompromise", "key-compromise ", "KEY-COMPROMISE"] {
            assert_eq!(text.parse::<RevocationReason>(), Err(UnknownRevocationReason), "{text}");
        }
    }
}
