//! What a ceremony signs from a reviewed specification: certificates, requests and revocation lists, of keys that no register
//! knows yet or ever (`docs/cycles/specification-ceremony.md`).
//!
//! Each is linted first, by the code that lints what the service issues; what is rehearsed at the review is what is signed at
//! the ceremony, but for keys, times and random serial numbers.

use domain::{ReasonCode, Timestamp};
use hsm::{CallOptions, Digest, KeyCheck, RegisteredKey, Signature, Token};
use pki::crl::{Crl, CrlInputs, LintedTbsCertList};
use pki::csr::{UnsignedRequest, Wishes};
use pki::{
    Algorithm, Certificate, CertificateInputs, CertificateProfile, CertificateRole, CivilTime, KnownKeys,
    LintedTbs, PkiError, PublicKey, SerialNumber, SubjectValues,
};

use crate::CaError;
use crate::issuance::{build, check_algorithms, crl_count, key_identifier, random_serial};

/// What a certificate is to say: all but the key and who stands above it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its profile.
    pub profile: &'static CertificateProfile,
    /// The subject's attributes.
    pub subject: SubjectValues,
    /// Object identifier, where the profile has one.
    pub registered_id: Option<String>,
    /// Host name, where the profile has one.
    pub dns_name: Option<String>,
    /// (organisation, EIN) pairs, where the profile has some.
    pub permitted: Vec<(String, String)>,
    /// A random one when absent.
    pub serial: Option<SerialNumber>,
    /// Start of its validity.
    pub not_before: CivilTime,
    /// End of its validity, at most as far off as the profile says.
    pub not_after: CivilTime,
    /// URLs of the CRL distribution points.
    pub crl_urls: Vec<String>,
}

/// Builds and lints the certificate of `key` below `above`; a root stands below nobody.
pub fn lint_draft(
    draft: Draft,
    key: &PublicKey,
    above: Option<&Certificate>,
    now: Timestamp,
) -> Result<LintedTbs, CaError> {
    let profile = draft.profile;
    check_key(key, now)?;
    if draft.not_after > draft.not_before.plus_days(profile.validity_days).map_err(invalid)? {
        return Err(CaError::refused(
            ReasonCode::InvalidField,
            format!(
                "a certificate of profile {} is valid for {} days at most",
                profile.name, profile.validity_days
            ),
        ));
    }
    let issuer_curve = match above {
        Some(issuer) => pki::curve_of(issuer.spki()).map_err(invalid)?,
        None => key.curve(),
    };
    let (issuer_name_der, issuer_key_identifier) = match (above, profile.is_root()) {
        (None, true) => (pki::subject_name_der(profile, &draft.subject).map_err(invalid)?, None),
        (Some(issuer), false) => {
            check_above(issuer, &draft, key)?;
            (issuer.subject_name_der().to_vec(), Some(key_identifier(issuer)?))
        }
        (None, false) => return Err(policy(format!("a {} certificate needs an issuer", profile.name))),
        (Some(_), true) => return Err(policy(format!("a {} certificate is self-signed", profile.name))),
    };
    let inputs = CertificateInputs {
        serial: draft.serial.map_or_else(random_serial, Ok)?,
        issuer_curve,
        issuer_name_der,
        issuer_key_identifier,
        subject: draft.subject,
        subject_spki: key.spki().to_vec(),
        not_before: draft.not_before,
        not_after: draft.not_after,
        registered_id: draft.registered_id,
        dns_name: draft.dns_name,
        ip_addresses: Vec::new(),
        crl_urls: draft.crl_urls,
        permitted: draft.permitted,
    };
    build(profile, &inputs).map(|(_, linted)| linted)
}

/// The token signs the linted bytes with `key`; the certificate is verified by other code before it is given out.
pub async fn sign_draft(
    token: &Token,
    key: &RegisteredKey,
    linted: LintedTbs,
    options: CallOptions,
) -> Result<Certificate, CaError> {
    let KeyCheck::PublicKey(issuer) = &key.check else { return Err(CaError::Record("key")) };
    let signature = signature(token, key, linted.digest(), options).await?;
    linted.assemble(&signature, issuer).map_err(CaError::Verification)
}

/// The request for a certificate of `profile` by an issuer elsewhere. A certificate of these values would pass our lint, so that
/// what is asked for can be had.
pub fn lint_request(
    profile: &CertificateProfile,
    key: &PublicKey,
    wishes: &Wishes,
    now: Timestamp,
) -> Result<UnsignedRequest, CaError> {
    check_key(key, now)?;
    if profile.is_root() {
        return Err(policy(format!("a {} certificate is self-signed: nobody is asked for it", profile.name)));
    }
    let elsewhere = SubjectValues { common_name: Some("elsewhere".to_owned()), ..SubjectValues::default() };
    let not_before = CivilTime::from_timestamp(now).map_err(invalid)?;
    let inputs = CertificateInputs {
        serial: random_serial()?,
        issuer_curve: key.curve(),
        issuer_name_der: pki::subject_name_der(CertificateRole::OperatorRoot.profile(), &elsewhere)
            .map_err(invalid)?,
        issuer_key_identifier: Some([0; 20]),
        subject: wishes.subject.clone(),
        subject_spki: key.spki().to_vec(),
        not_before,
        not_after: not_before.plus_days(profile.validity_days).map_err(invalid)?,
        registered_id: wishes.registered_id.clone(),
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: (0..crl_count(profile))
            .map(|point| format!("http://elsewhere.invalid/{point}.crl"))
            .collect(),
        permitted: wishes.permitted.clone(),
    };
    build(profile, &inputs)?;
    UnsignedRequest::new(profile, key.spki(), wishes).map_err(invalid)
}

/// The token signs the request with the key that it is for; it is read back by the code that reads requests from outside. DER.
pub async fn sign_request(
    token: &Token,
    key: &RegisteredKey,
    request: UnsignedRequest,
    options: CallOptions,
) -> Result<Vec<u8>, CaError> {
    let signature = signature(token, key, request.digest(), options).await?;
    request.assemble(&signature).map_err(|_| CaError::Verification(PkiError::SignatureInvalid))
}

/// Builds and lints a revocation list.
pub fn lint_list(inputs: &CrlInputs<'_>, now: Timestamp) -> Result<LintedTbsCertList, CaError> {
    check_key(&PublicKey::parse(inputs.issuer.spki(), KnownKeys::Allow).map_err(invalid)?, now)?;
    let tbs = pki::crl::build_tbs(inputs).map_err(invalid)?;
    pki::crl::lint(inputs, tbs).map_err(|e| CaError::refused(ReasonCode::LintFailed, e.to_string()))
}

/// The token signs the list with its issuer's key; the list is verified by other code before it is given out.
pub async fn sign_list(
    token: &Token,
    key: &RegisteredKey,
    linted: LintedTbsCertList,
    issuer: &Certificate,
    options: CallOptions,
) -> Result<Crl, CaError> {
    let signature = signature(token, key, linted.digest(), options).await?;
    linted.assemble(&signature, issuer).map_err(CaError::Verification)
}

async fn signature(
    token: &Token,
    key: &RegisteredKey,
    digest: Digest,
    options: CallOptions,
) -> Result<Signature, CaError> {
    let signatures = token.sign(&key.key, &[digest], options).await?;
    signatures.into_iter().next().ok_or(CaError::Record("signature"))
}

fn check_key(key: &PublicKey, now: Timestamp) -> Result<(), CaError> {
    check_algorithms(&[key.curve().as_str(), Algorithm::of_signatures_on(key.curve())], now)
}

/// What verifies chains would refuse anything else.
fn check_above(issuer: &Certificate, draft: &Draft, key: &PublicKey) -> Result<(), CaError> {
    let profile = draft.profile;
    if !pki::chain::may_issue(issuer, profile) {
        return Err(policy(format!(
            "its issuer issues no {} certificates: the issuer's own would be {}",
            profile.name,
            profile.issued_by.join(" or ")
        )));
    }
    // A manufacturer's sub CA permits no more than the CA above it.
    if profile.role == CertificateRole::EumSubCa
        && let Some((_, ein)) =
            draft.permitted.iter().find(|(organization, ein)| !pki::chain::permits(issuer, organization, ein))
    {
        return Err(policy(format!("its issuer's own certificate does not permit {ein}")));
    }
    // SGP.22 §2.6.4: a chain is of one curve.
    let above = PublicKey::parse(issuer.spki(), KnownKeys::Allow).map_err(invalid)?.curve();
    if above == key.curve() {
        return Ok(());
    }
    Err(CaError::refused(
        ReasonCode::WeakKey,
        format!("the key is on {}, but its issuer's is on {above}", key.curve()),
    ))
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn invalid(error: PkiError) -> CaError {
    CaError::invalid(&error)
}

fn policy(message: String) -> CaError {
    CaError::refused(ReasonCode::PolicyViolation, message)
}
