//! What can go wrong here, by who must act.

/// Why a key, certificate, or value was refused, or could not be built. Requests, chains and linted bytes have their own:
/// [`crate::csr::CsrError`], [`crate::chain::ChainRefusal`], [`crate::LintFindings`].
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    // The caller must act.
    /// The profile needs a value that the inputs lack.
    #[error("the certificate profile {profile} needs {field}")]
    MissingValue {
        /// The profile.
        profile: &'static str,
        /// The input.
        field: &'static str,
    },
    /// The inputs hold a value for which the profile has no place.
    #[error("the certificate profile {profile} has no place for {field}")]
    UnexpectedValue {
        /// The profile.
        profile: &'static str,
        /// The input.
        field: &'static str,
    },
    /// A value breaks the rule of its field.
    #[error("{field} {rule}")]
    InvalidValue {
        /// The input.
        field: &'static str,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// No positive number of at most 20 octets.
    #[error("a serial number is positive and takes at most 20 octets")]
    SerialNumber,
    /// Not a time of the years 1950 to 9999.
    #[error("a certificate's time lies in the years 1950 to 9999, to the second")]
    Time,
    /// A name that is no role of a certificate.
    #[error("no certificate has this role")]
    UnknownRole,
    /// A name that is no certificate profile.
    #[error("no certificate profile has this name")]
    UnknownProfile,
    /// Larger than the bound.
    #[error("{what} exceeds {limit} bytes")]
    TooLarge {
        /// What was read.
        what: &'static str,
        /// The bound in bytes.
        limit: usize,
    },
    /// Not the structure it should be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// A key of a kind that no profile admits.
    #[error("unsupported key: {algorithm}")]
    UnsupportedKey {
        /// What was found.
        algorithm: String,
    },
    /// The point does not lie on the curve.
    #[error("the public key's point is not on its curve")]
    PointNotOnCurve,
    /// A key whose private half is published.
    #[error("the public key's private half is published")]
    KnownTestKey,
    /// The private key does not parse or is on another curve.
    #[error("the private key is no P-256 or P-384 key in PKCS#8")]
    PrivateKey,

    // We must act: a certificate that is not what was asked for never leaves.
    /// The token's signature does not verify under the issuer's key.
    #[error("the signature does not verify under the issuer's key")]
    SignatureInvalid,
    /// The issuer's key is not the one the certificate points to.
    #[error("the issuer's key does not match the authority key identifier")]
    IssuerKeyDiffers,
    /// The revocation list names another issuer than the one it is judged by.
    #[error("the revocation list is of another issuer")]
    CrlIssuerDiffers,
    /// The issuer's certificate lacks the keyUsage cRLSign.
    #[error("the issuer's certificate does not allow it to sign revocation lists")]
    CrlSigningNotAllowed,
    /// What was assembled reads differently from what went in.
    #[error("what was assembled has another {field} than was asked for")]
    ReadBackDiffers {
        /// The field.
        field: &'static str,
    },
    /// The certificate builder failed.
    #[error("the certificate builder failed")]
    Builder(#[source] rcgen::Error),
    /// The cryptographic library failed at something that cannot fail with valid input.
    #[error("the cryptographic library failed to {what}")]
    Cryptography {
        /// The act.
        what: &'static str,
    },
}
