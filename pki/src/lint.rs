//! Checks the exact bytes before a token signs them, with a reader that shares no code with the writer.

mod extensions;
pub(crate) mod shape;

use crate::civil_time::CivilTime;
use crate::der::{self, Element};
use crate::key::{KnownKeys, PublicKey};
use crate::oid;
use crate::profile::{AttributeKind, CertificateProfile, StringType};
use crate::serial::SerialNumber;
use crate::tbs::{CertificateInputs, Tbs, check_inputs};
use ecc::Hash;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use std::fmt;
use x509_parser::certificate::TbsCertificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name, X509Version};

/// One thing that is wrong with a TBSCertificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Finding {
    /// The inputs themselves break a rule.
    #[error("the inputs are refused: {0}")]
    Inputs(String),
    /// The reader cannot read it as a TBSCertificate.
    #[error("not a TBSCertificate")]
    Unreadable,
    /// Something follows the TBSCertificate.
    #[error("bytes after the TBSCertificate")]
    TrailingBytes,
    /// Readable, but not in DER, or not with the tags of RFC 5280 appendix A.
    #[error("not a TBSCertificate in DER")]
    NotDer,
    /// RFC 5280 §4.1.2.1: not version 3.
    #[error("the version is not 3")]
    Version,
    /// RFC 5280 §4.1.2.2: zero, negative, not minimal, or more than 20 octets.
    #[error("the serial number is not positive, not minimal, or takes more than 20 octets")]
    SerialNumber,
    /// Another serial number than the one recorded.
    #[error("another serial number than was recorded")]
    SerialNumberDiffers,
    /// Not the ecdsa-with-SHA2 of the issuer's curve without parameters (RFC 5758 §3.2).
    #[error("the signature algorithm is not that of the issuer's curve without parameters")]
    SignatureAlgorithm,
    /// Not the issuer's subject name byte for byte.
    #[error("the issuer name is not the issuer's subject name byte for byte")]
    IssuerDiffers,
    /// A root whose issuer is not its subject, or another certificate whose issuer is its subject.
    #[error("issuer and subject are equal exactly in a root")]
    SelfIssue,
    /// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050, both to the second in Z.
    #[error("{0} is encoded in another form than RFC 5280 §4.1.2.5 says")]
    ValidityEncoding(Bound),
    /// The end is not after the start.
    #[error("notAfter is not after notBefore")]
    ValidityOrder,
    /// Another time than was asked for.
    #[error("{0} is another time than was asked for")]
    ValidityDiffers(Bound),
    /// An RDN of several attributes, or other attributes or another order than the profile's.
    #[error("the subject's attributes are not those of the profile in its order")]
    SubjectAttributes,
    /// An attribute in another string type.
    #[error("the subject's {0} has another string type than the profile's")]
    SubjectStringType(&'static str),
    /// An attribute with another value.
    #[error("the subject's {0} has another value than was asked for")]
    SubjectValue(&'static str),
    /// Not a key that the profile admits.
    #[error("the subject's key is refused: {0}")]
    SubjectKey(String),
    /// Another key than was asked for.
    #[error("the subject's key is another than was asked for")]
    SubjectKeyDiffers,
    /// The subject's key is the issuer's.
    #[error("the subject's key is the issuer's")]
    SubjectKeyIsIssuers,
    /// RFC 5280 §4.1.2.8: unique identifiers are never generated.
    #[error("a unique identifier")]
    UniqueIdentifier,
    /// An extension of the profile is not there.
    #[error("the extension {0} is missing")]
    ExtensionMissing(&'static str),
    /// An extension that the profile does not have, by its dotted object identifier.
    #[error("the extension {0} is not the profile's")]
    ExtensionUnexpected(String),
    /// An extension twice, by its dotted object identifier.
    #[error("the extension {0} occurs twice")]
    ExtensionRepeated(String),
    /// The extensions stand in another order.
    #[error("the extensions are not in the profile's order")]
    ExtensionOrder,
    /// Marked critical, or not, against the profile.
    #[error("the extension {0} has the wrong criticality")]
    ExtensionCriticality(&'static str),
    /// The extension says something else.
    #[error("the extension {0} has another value than the profile and the inputs give")]
    ExtensionValue(&'static str),
    /// The extension is readable but not in DER, or not with the tags of RFC 5280 appendix A.
    #[error("the extension {0} is not in the DER of its type")]
    ExtensionEncoding(String),
}

/// One end of the validity period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// notBefore.
    NotBefore,
    /// notAfter.
    NotAfter,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBefore => "notBefore",
            Self::NotAfter => "notAfter",
        })
    }
}

/// Why bytes may not be signed: one finding or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LintFindings {
    /// Name of the profile they were measured by.
    pub profile: &'static str,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl fmt::Display for LintFindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate breaks the profile {}", self.profile)?;
        for (index, finding) in self.findings.iter().enumerate() {
            write!(f, "{}{finding}", if index == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for LintFindings {}

/// A TBSCertificate that passed [`lint`]: the only thing whose digest goes to a token, and used up by
/// [`LintedTbs::assemble`].
#[derive(Debug)]
pub struct LintedTbs {
    bytes: Vec<u8>,
    digest: ecc::Digest,
    profile: &'static str,
    pub(crate) serial: SerialNumber,
    pub(crate) issuer_name_der: Vec<u8>,
    pub(crate) issuer_key_identifier: Option<[u8; 20]>,
    pub(crate) subject_spki: Vec<u8>,
}

impl LintedTbs {
    /// The bytes that are signed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the bytes for the issuer's curve: what the token signs.
    pub const fn digest(&self) -> ecc::Digest {
        self.digest
    }

    /// SHA-256 of the bytes, whatever is signed: what they are known by.
    pub fn sha256(&self) -> [u8; 32] {
        sha256_of(&self.bytes, &self.digest)
    }

    /// Name of the profile they keep.
    pub const fn profile(&self) -> &'static str {
        self.profile
    }

    /// The serial number in them.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }
}

/// Reads the exact bytes and compares every field with RFC 5280, the profile and the inputs. All findings are reported.
pub fn lint(
    profile: &CertificateProfile,
    inputs: &CertificateInputs,
    tbs: Tbs,
) -> Result<LintedTbs, LintFindings> {
    let findings = findings(profile, inputs, tbs.bytes());
    if !findings.is_empty() {
        return Err(LintFindings { profile: profile.name, findings });
    }
    Ok(LintedTbs {
        digest: ecc::Digest::of(inputs.issuer_curve, tbs.bytes()),
        bytes: tbs.into_bytes(),
        profile: profile.name,
        serial: inputs.serial.clone(),
        issuer_name_der: inputs.issuer_name_der.clone(),
        issuer_key_identifier: inputs.issuer_key_identifier,
        subject_spki: inputs.subject_spki.clone(),
    })
}

fn findings(profile: &CertificateProfile, inputs: &CertificateInputs, bytes: &[u8]) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(error) = check_inputs(profile, inputs) {
        found.push(Finding::Inputs(error.to_string()));
    }
    let fields = top_level_fields(bytes);
    if !shape::TBS_CERTIFICATE.is_all_of(bytes) || !der::is_canonical(bytes) {
        found.push(Finding::NotDer);
    }
    // The reader refuses a bad serial number without saying so; it gets its own finding.
    if let Some(serial) = fields.as_ref().and_then(|fields| fields.get(1)) {
        match SerialNumber::from_content(serial.content) {
            Err(_) => found.push(Finding::SerialNumber),
            Ok(serial) if serial != inputs.serial => found.push(Finding::SerialNumberDiffers),
            Ok(_) => {}
        }
    }
    let Ok((rest, tbs)) = TbsCertificate::from_der(bytes) else {
        found.push(Finding::Unreadable);
        return found;
    };
    if !rest.is_empty() {
        found.push(Finding::TrailingBytes);
    }
    if tbs.version != X509Version::V3 {
        found.push(Finding::Version);
    }
    let algorithm = oid::decode(tbs.signature.algorithm.as_bytes());
    let expected = oid::ecdsa_with(Hash::of(inputs.issuer_curve));
    if algorithm.as_deref() != Some(expected) || tbs.signature.parameters.is_some() {
        found.push(Finding::SignatureAlgorithm);
    }
    if tbs.issuer.as_raw() != inputs.issuer_name_der {
        found.push(Finding::IssuerDiffers);
    }
    if (tbs.issuer.as_raw() == tbs.subject.as_raw()) != profile.is_root() {
        found.push(Finding::SelfIssue);
    }
    let times = fields.as_ref().and_then(|fields| fields.get(4)).map(|validity| validity.content);
    check_validity(inputs, times, tbs.validity.not_before, tbs.validity.not_after, &mut found);
    check_subject(profile, inputs, &tbs.subject, &mut found);
    check_subject_key(profile, inputs, &tbs.subject_pki, &mut found);
    if tbs.issuer_uid.is_some() || tbs.subject_uid.is_some() {
        found.push(Finding::UniqueIdentifier);
    }
    let written = fields.as_ref().and_then(|fields| fields.get(7)).map(|extensions| extensions.content);
    extensions::check(profile, inputs, &tbs, written, &mut found);
    found
}

/// SHA-256 of bytes of which `digest` is one; where it is the same, it is not computed again.
pub(crate) fn sha256_of(bytes: &[u8], digest: &ecc::Digest) -> [u8; 32] {
    match digest.as_bytes().try_into() {
        Ok(sha256) => sha256,
        Err(_) => Sha256::digest(bytes).into(),
    }
}

pub(crate) fn top_level_fields(bytes: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut reader = der::Reader::new(bytes).enter(der::SEQUENCE).ok()?;
    let mut fields = Vec::with_capacity(8);
    while !reader.is_empty() {
        fields.push(reader.next().ok()?);
    }
    Some(fields)
}

fn check_validity(
    inputs: &CertificateInputs,
    written: Option<&[u8]>,
    not_before: ASN1Time,
    not_after: ASN1Time,
    found: &mut Vec<Finding>,
) {
    if not_after.to_datetime() <= not_before.to_datetime() {
        found.push(Finding::ValidityOrder);
    }
    let mut times = der::Reader::new(written.unwrap_or_default());
    for (bound, asked, read) in
        [(Bound::NotBefore, inputs.not_before, not_before), (Bound::NotAfter, inputs.not_after, not_after)]
    {
        let read = CivilTime::from_datetime(read.to_datetime()).ok();
        if read != Some(asked) {
            found.push(Finding::ValidityDiffers(bound));
        }
        let well_formed = times.next().is_ok_and(|time| {
            let digits = if time.tag == der::UTC_TIME { 12 } else { 14 };
            let in_form = time.content.len() == digits + 1
                && time.content[..digits].iter().all(u8::is_ascii_digit)
                && time.content[digits] == b'Z';
            in_form && read.is_some_and(|read| read.tag() == time.tag)
        });
        if !well_formed {
            found.push(Finding::ValidityEncoding(bound));
        }
    }
}

fn check_subject(
    profile: &CertificateProfile,
    inputs: &CertificateInputs,
    subject: &X509Name<'_>,
    found: &mut Vec<Finding>,
) {
    let expected: Vec<_> = profile
        .subject
        .iter()
        .filter_map(|attribute| Some((attribute.kind, inputs.subject.value(attribute.kind)?)))
        .collect();
    let expected: Vec<_> = expected.iter().map(|(kind, value)| (*kind, value.as_ref())).collect();
    check_name(&expected, subject, found);
}

/// Compares a name with attributes that stand in an RDN each.
fn check_name(expected: &[(AttributeKind, &str)], name: &X509Name<'_>, found: &mut Vec<Finding>) {
    let rdns: Vec<_> = name.iter_rdn().collect();
    if rdns.len() != expected.len() {
        found.push(Finding::SubjectAttributes);
        return;
    }
    for ((kind, value), rdn) in expected.iter().zip(rdns) {
        let mut attributes = rdn.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            found.push(Finding::SubjectAttributes);
            continue;
        };
        if oid::decode(attribute.attr_type().as_bytes()).as_deref() != Some(kind.oid()) {
            found.push(Finding::SubjectAttributes);
            continue;
        }
        let tag = match kind.string_type() {
            StringType::Printable => der::PRINTABLE_STRING,
            StringType::Utf8 => der::UTF8_STRING,
        };
        if attribute.attr_value().tag().0 != u32::from(tag) {
            found.push(Finding::SubjectStringType(kind.as_str()));
        }
        if attribute.as_slice() != value.as_bytes() {
            found.push(Finding::SubjectValue(kind.as_str()));
        }
    }
}

fn check_subject_key(
    profile: &CertificateProfile,
    inputs: &CertificateInputs,
    key: &SubjectPublicKeyInfo<'_>,
    found: &mut Vec<Finding>,
) {
    if key.raw != inputs.subject_spki {
        found.push(Finding::SubjectKeyDiffers);
    }
    // Whether published keys may be used is decided where keys come in.
    if let Err(error) = PublicKey::parse(key.raw, KnownKeys::Allow) {
        found.push(Finding::SubjectKey(error.to_string()));
    }
    let identifier: [u8; 20] = Sha1::digest(&key.subject_public_key.data).into();
    if !profile.is_root() && inputs.issuer_key_identifier == Some(identifier) {
        found.push(Finding::SubjectKeyIsIssuers);
    }
}
