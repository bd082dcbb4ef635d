//! Finished certificates: read, described, and assembled from linted bytes and a token's signature.

use crate::civil_time::CivilTime;
use crate::der;
use crate::error::PkiError;
use crate::key::{KnownKeys, PublicKey};
use crate::lint::LintedTbs;
use crate::serial::SerialNumber;
use crate::{oid, pem};
use domain::Eid;
use ecc::Signature;
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Bytes of the largest certificate that is read, PEM or DER.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// A certificate that parses; nothing more is said about it (see [`crate::chain`]).
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    spki: Range<usize>,
    signature: Range<usize>,
    serial: SerialNumber,
    not_before: CivilTime,
    not_after: CivilTime,
    subject_key_identifier: Option<Vec<u8>>,
    authority_key_identifier: Option<Vec<u8>>,
}

impl Certificate {
    /// Parses one certificate in DER of at most 64 KiB; nothing may follow it.
    pub fn from_der(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > CERTIFICATE_BYTES_MAX {
            return Err(PkiError::TooLarge { what: "the certificate", limit: CERTIFICATE_BYTES_MAX });
        }
        let (rest, parsed) = X509Certificate::from_der(bytes).map_err(|_| malformed("not a certificate"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes after the certificate"));
        }
        if !der::is_canonical(bytes) {
            return Err(malformed("not DER"));
        }
        let tbs = &parsed.tbs_certificate;
        let mut subject_key_identifier = None;
        let mut authority_key_identifier = None;
        let mut seen = Vec::with_capacity(tbs.extensions().len());
        for extension in tbs.extensions() {
            if seen.contains(&extension.oid.as_bytes()) {
                return Err(malformed("an extension occurs twice"));
            }
            seen.push(extension.oid.as_bytes());
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => {
                    subject_key_identifier = Some(identifier.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                    authority_key_identifier = identifier.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::ParseError { .. } => return Err(malformed("an extension does not parse")),
                _ => {}
            }
        }
        let range = |part: &[u8]| range_in(bytes, part).ok_or_else(|| malformed("not DER"));
        Ok(Self {
            tbs: range(tbs.as_ref())?,
            issuer: range(tbs.issuer.as_raw())?,
            subject: range(tbs.subject.as_raw())?,
            spki: range(tbs.subject_pki.raw)?,
            signature: range(&parsed.signature_value.data)?,
            serial: SerialNumber::from_content(parsed.raw_serial())?,
            not_before: CivilTime::from_datetime(tbs.validity.not_before.to_datetime())?,
            not_after: CivilTime::from_datetime(tbs.validity.not_after.to_datetime())?,
            subject_key_identifier,
            authority_key_identifier,
            der: bytes.to_vec(),
        })
    }

    /// Parses one PEM `CERTIFICATE` block.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::from_der(&pem::decode(text, "CERTIFICATE", CERTIFICATE_BYTES_MAX)?)
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as a PEM block.
    pub fn pem(&self) -> String {
        pem::encode(&self.der, "CERTIFICATE").to_string()
    }

    /// The serial number.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// The signed bytes.
    pub fn tbs_der(&self) -> &[u8] {
        &self.der[self.tbs.clone()]
    }

    /// The subject name in DER.
    pub fn subject_name_der(&self) -> &[u8] {
        &self.der[self.subject.clone()]
    }

    /// The issuer name in DER.
    pub fn issuer_name_der(&self) -> &[u8] {
        &self.der[self.issuer.clone()]
    }

    /// The subject's SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.der[self.spki.clone()]
    }

    /// The octets of the signature's BIT STRING.
    pub fn signature(&self) -> &[u8] {
        &self.der[self.signature.clone()]
    }

    /// The subject key identifier, when the extension is there.
    pub fn subject_key_identifier(&self) -> Option<&[u8]> {
        self.subject_key_identifier.as_deref()
    }

    /// The keyIdentifier of the authority key identifier, when it is there.
    pub fn authority_key_identifier(&self) -> Option<&[u8]> {
        self.authority_key_identifier.as_deref()
    }

    /// Start of the validity period.
    pub const fn not_before(&self) -> CivilTime {
        self.not_before
    }

    /// End of the validity period, included.
    pub const fn not_after(&self) -> CivilTime {
        self.not_after
    }

    /// SHA-256 of the DER.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what a principal is named by.
    pub fn spki_digest(&self) -> [u8; 32] {
        Sha256::digest(self.spki()).into()
    }

    /// The EID in the subject's serialNumber; absent when there is none or its check digits are wrong.
    pub fn eid(&self) -> Option<Eid> {
        self.subject_text(oid::SERIAL_NUMBER)?.parse().ok()
    }

    /// The subject's commonName.
    pub fn common_name(&self) -> Option<String> {
        self.subject_text(oid::COMMON_NAME)
    }

    /// Whether issuer and subject are the same.
    pub fn is_self_issued(&self) -> bool {
        self.issuer_name_der() == self.subject_name_der()
    }

    /// The subject's countryName.
    pub fn country(&self) -> Option<String> {
        self.subject_text(oid::COUNTRY)
    }

    /// The subject's organizationName.
    pub fn organization(&self) -> Option<String> {
        self.subject_text(oid::ORGANIZATION)
    }

    /// The subject's organizationalUnitName.
    pub fn organizational_unit(&self) -> Option<String> {
        self.subject_text(oid::ORGANIZATIONAL_UNIT)
    }

    /// The registeredID of the subject's alternative names, dotted.
    pub fn registered_id(&self) -> Option<String> {
        self.with_parsed(|parsed| {
            let names = parsed.subject_alternative_name().ok()??;
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::RegisteredID(id) => Some(oid::describe(id.as_bytes())),
                _ => None,
            })
        })
    }

    /// The policies of the certificatePolicies extension; none when it is not there.
    pub(crate) fn policies(&self) -> Vec<Vec<u64>> {
        self.with_parsed(|parsed| {
            parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::CertificatePolicies(policies) => Some(
                    policies.iter().filter_map(|policy| oid::decode(policy.policy_id.as_bytes())).collect(),
                ),
                _ => None,
            })
        })
        .unwrap_or_default()
    }

    /// Whether keyUsage holds cRLSign (RFC 5280 §4.2.1.3).
    pub fn may_sign_crls(&self) -> bool {
        self.with_parsed(|parsed| Some(parsed.key_usage().ok()??.value.crl_sign())).unwrap_or(false)
    }

    /// Whether it is a CA's (basicConstraints).
    pub fn is_authority(&self) -> bool {
        self.with_parsed(|parsed| Some(parsed.basic_constraints().ok()??.value.ca)).unwrap_or(false)
    }

    /// Whether it names a CRL distribution point.
    pub fn names_crls(&self) -> bool {
        let points = |extension: &X509Extension<'_>| {
            matches!(extension.parsed_extension(),
                ParsedExtension::CRLDistributionPoints(points) if !points.points.is_empty())
        };
        self.with_parsed(|parsed| Some(parsed.extensions().iter().any(points))).unwrap_or(false)
    }

    /// The URLs of the CRL distribution points.
    pub fn crl_urls(&self) -> Vec<String> {
        let read = |extension: &X509Extension<'_>| match extension.parsed_extension() {
            ParsedExtension::CRLDistributionPoints(points) => {
                let names = points.points.iter().filter_map(|point| match &point.distribution_point {
                    Some(DistributionPointName::FullName(names)) => Some(names),
                    _ => None,
                });
                let urls = names.flatten().filter_map(|name| match name {
                    GeneralName::URI(url) => Some((*url).to_owned()),
                    _ => None,
                });
                Some(urls.collect())
            }
            _ => None,
        };
        self.with_parsed(|parsed| parsed.extensions().iter().find_map(read)).unwrap_or_default()
    }

    /// Whether the signature verifies under `issuer` (ECDSA with the hash of its curve).
    pub fn verify_signature(&self, issuer: &PublicKey) -> Result<(), PkiError> {
        issuer.verify(self.tbs_der(), self.signature())
    }

    /// The text of the only attribute of this type in the subject.
    pub(crate) fn subject_text(&self, kind: oid::Arcs) -> Option<String> {
        let encoded = oid::encode(kind);
        self.with_parsed(|parsed| {
            let mut found =
                parsed.subject().iter_attributes().filter(|a| a.attr_type().as_bytes() == encoded);
            let text = found.next()?.as_str().ok()?.to_owned();
            found.next().is_none().then_some(text)
        })
    }

    /// Reads with the parser that accepted these bytes in [`Self::from_der`].
    pub(crate) fn with_parsed<T>(&self, read: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        read(&parsed)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, {})", self.serial, hex::encode(self.digest()))
    }
}

impl LintedTbs {
    /// The certificate that these bytes would become, with a signature that verifies under no key: for a rehearsal, in which it
    /// stands above others.
    pub fn rehearse(self) -> Result<Certificate, PkiError> {
        Certificate::from_der(&signed(self.bytes(), &Signature::rehearsed(&self.digest())))
    }

    /// Joins the linted bytes with the token's signature r||s over their digest, reads the result back with other code, and
    /// verifies it under the issuer's key before it leaves.
    pub fn assemble(self, signature_rs: &Signature, issuer_spki: &[u8]) -> Result<Certificate, PkiError> {
        // The issuer may be a test authority; whether its key may be used was decided when it was registered.
        let issuer = PublicKey::parse(issuer_spki, KnownKeys::Allow)?;
        let expected_issuer_key = match &self.issuer_key_identifier {
            Some(identifier) => identifier == &issuer.key_identifier(),
            None => self.subject_spki == issuer_spki,
        };
        if !expected_issuer_key {
            return Err(PkiError::IssuerKeyDiffers);
        }
        let certificate = Certificate::from_der(&signed(self.bytes(), signature_rs))?;
        let read_back = [
            ("body", certificate.tbs_der() == self.bytes()),
            ("issuer", certificate.issuer_name_der() == self.issuer_name_der),
            ("serial number", certificate.serial() == &self.serial),
            ("public key", certificate.spki() == self.subject_spki),
        ];
        if let Some((field, _)) = read_back.into_iter().find(|(_, same)| !same) {
            return Err(PkiError::ReadBackDiffers { field });
        }
        certificate.verify_signature(&issuer)?;
        Ok(certificate)
    }
}

/// The bytes and an ECDSA signature over them, as certificates and revocation lists carry it.
pub(crate) fn signed(tbs: &[u8], signature_rs: &Signature) -> Vec<u8> {
    signed_with(tbs, signature_rs, |_| {})
}

/// The same, and what follows the signature.
pub(crate) fn signed_with(
    tbs: &[u8],
    signature_rs: &Signature,
    after: impl FnOnce(&mut der::Writer),
) -> Vec<u8> {
    let (r, s) = signature_rs.halves();
    let signature = der::nested(der::SEQUENCE, |value| {
        value.raw(&der::unsigned_integer(r)).raw(&der::unsigned_integer(s));
    });
    der::nested(der::SEQUENCE, |signed| {
        signed.raw(tbs);
        signed.nested(der::SEQUENCE, |algorithm| {
            algorithm.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::ecdsa_with(signature_rs.hash())));
        });
        let mut bits = Vec::with_capacity(signature.len() + 1);
        bits.push(0);
        bits.extend_from_slice(&signature);
        signed.element(der::BIT_STRING, &bits);
        after(signed);
    })
}

/// Where `part`, a slice of `whole`, lies in it.
pub(crate) fn range_in(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

const fn malformed(why: &'static str) -> PkiError {
    PkiError::Malformed { what: "the certificate", why }
}
