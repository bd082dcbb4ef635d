//! Certification requests, PKCS#10 (RFC 2986) and CRMF (RFC 4211): proof of possession is checked, the key is taken, nothing
//! else is copied. Our own requests are for keys in our tokens.

mod for_token;

pub use for_token::{UnsignedRequest, Wishes};

use crate::der::{self, Reader};
use crate::error::PkiError;
use crate::key::{KnownKeys, PublicKey};
use crate::private_key::PrivateKey;
use crate::{oid, pem};
use ecc::Hash;
use rcgen::{CertificateParams, DistinguishedName, DnType};

/// Bytes of the largest request that is read, PEM or DER.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
const ALTERNATIVE_NAMES_MAX: usize = 32;
const ATTRIBUTE_CHARACTERS_MAX: usize = 128;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than 16 KiB.
    #[error("the request exceeds {REQUEST_BYTES_MAX} bytes")]
    TooLarge,
    /// Neither one PEM `CERTIFICATE REQUEST` block, nor DER of that structure, nor one certificate request message.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// RFC 2986 §4.1: the version is 0.
    #[error("the request's version is not 0")]
    Version,
    /// The subject holds a control character, such as NUL, an overlong text, or text in no known string type.
    #[error("the request's subject holds text that cannot be shown")]
    SubjectText,
    /// An attribute of the same type twice, or one with several values.
    #[error("the request holds the attribute {0} twice")]
    DuplicateAttribute(String),
    /// The same extension asked for twice.
    #[error("the request asks for the extension {0} twice")]
    DuplicateExtension(String),
    /// A critical extension that we do not know.
    #[error("the request asks for the unknown critical extension {0}")]
    UnknownCriticalExtension(String),
    /// More alternative names than any certificate of ours has.
    #[error("the request asks for more than {ALTERNATIVE_NAMES_MAX} alternative names")]
    TooManyNames,
    /// Not a key on a named curve of ours with an uncompressed point.
    #[error("the request's key is unsupported: {0}")]
    UnsupportedKey(String),
    /// The point does not lie on the curve.
    #[error("the point of the request's key is not on its curve")]
    PointNotOnCurve,
    /// The private half is published.
    #[error("the private half of the request's key is published")]
    KnownTestKey,
    /// CRMF: possession is not proved by a signature over the request itself (RFC 4211 §4.1).
    #[error("the request message does not prove possession by a signature over its certificate request")]
    ProofOfPossession,
    /// A signature algorithm that does not belong to the key.
    #[error("the request is signed with the unsupported algorithm {0}")]
    UnsupportedSignature(String),
    /// The signature does not verify under the key in the request.
    #[error("the request's signature does not verify under its own key")]
    BadSignature,
}

/// A request whose sender has proved possession of the key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCsr {
    key: PublicKey,
    subject: SubjectSummary,
}

/// What the request's subject says, to be shown to a person; certificates get their names from the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectSummary {
    /// The first commonName.
    pub common_name: Option<String>,
    /// The first organizationName.
    pub organization: Option<String>,
    /// The first organizationalUnitName.
    pub organizational_unit: Option<String>,
}

impl VerifiedCsr {
    /// Parses and verifies one request of at most 16 KiB: PKCS#10 in DER or PEM, or CRMF (CertReqMessages with one message) in
    /// DER. Published test keys pass only with
    /// [`KnownKeys::Allow`].
    pub fn parse(bytes: &[u8], known_keys: KnownKeys) -> Result<Self, CsrError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(CsrError::TooLarge);
        }
        if pem::is_pem(bytes) {
            let der = pem::decode(bytes, "CERTIFICATE REQUEST", REQUEST_BYTES_MAX)
                .map_err(|_| CsrError::Malformed("not one PEM block"))?;
            Self::parse_der(&der, known_keys)
        } else if is_crmf(bytes) {
            Self::parse_crmf(bytes, known_keys)
        } else {
            Self::parse_der(bytes, known_keys)
        }
    }

    /// The key's SubjectPublicKeyInfo in DER, byte for byte.
    pub fn spki(&self) -> &[u8] {
        self.key.spki()
    }

    /// The key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// What the subject says.
    pub const fn subject(&self) -> &SubjectSummary {
        &self.subject
    }

    fn parse_der(bytes: &[u8], known_keys: KnownKeys) -> Result<Self, CsrError> {
        let mut request = der::enter_only(bytes, der::SEQUENCE).map_err(|_| NOT_DER)?;
        if !der::is_canonical(bytes) {
            return Err(NOT_DER);
        }
        let information = request.expect(der::SEQUENCE).map_err(|_| NOT_DER)?;
        let mut algorithm = request.enter(der::SEQUENCE).map_err(|_| NOT_DER)?;
        let signature = request.expect(der::BIT_STRING).map_err(|_| NOT_DER)?;
        request.finish().map_err(|_| NOT_DER)?;

        let mut fields = Reader::new(information.content);
        if fields.expect(der::INTEGER).map_err(|_| NOT_DER)?.content != [0] {
            return Err(CsrError::Version);
        }
        let subject = summarize(fields.enter(der::SEQUENCE).map_err(|_| NOT_DER)?)?;
        let spki = fields.expect(der::SEQUENCE).map_err(|_| NOT_DER)?.raw;
        let attributes = fields
            .enter(der::context_constructed(0))
            .map_err(|_| CsrError::Malformed("the attributes field [0] is missing"))?;
        fields.finish().map_err(|_| NOT_DER)?;
        check_attributes(attributes)?;

        let key = possessed(spki, &mut algorithm, information.raw, signature.content, known_keys)?;
        Ok(Self { key, subject })
    }

    /// RFC 4211 §3 and §4.1: one message whose signature is over the certificate request in it.
    fn parse_crmf(bytes: &[u8], known_keys: KnownKeys) -> Result<Self, CsrError> {
        if !der::is_canonical(bytes) {
            return Err(NOT_CRMF);
        }
        let mut messages = der::enter_only(bytes, der::SEQUENCE).map_err(|_| NOT_CRMF)?;
        let mut message = messages.enter(der::SEQUENCE).map_err(|_| NOT_CRMF)?;
        messages.finish().map_err(|_| CsrError::Malformed("more than one certificate request message"))?;
        let request = message.expect(der::SEQUENCE).map_err(|_| NOT_CRMF)?;
        let mut proof =
            message.enter(der::context_constructed(1)).map_err(|_| CsrError::ProofOfPossession)?;
        // regInfo is for a registration authority, of which there is none here.
        while !message.is_empty() {
            message.expect(der::SEQUENCE).map_err(|_| NOT_CRMF)?;
        }
        // With poposkInput, [0], the signature is over something else than the request.
        let mut algorithm = proof.enter(der::SEQUENCE).map_err(|_| CsrError::ProofOfPossession)?;
        let signature = proof.expect(der::BIT_STRING).map_err(|_| CsrError::ProofOfPossession)?;
        proof.finish().map_err(|_| CsrError::ProofOfPossession)?;

        let mut fields = Reader::new(request.content);
        fields.expect(der::INTEGER).map_err(|_| NOT_CRMF)?;
        let (subject, spki) = template(fields.enter(der::SEQUENCE).map_err(|_| NOT_CRMF)?)?;
        let key = possessed(&spki, &mut algorithm, request.raw, signature.content, known_keys)?;
        Ok(Self { key, subject })
    }
}

/// Subject and key (SubjectPublicKeyInfo) of a CertTemplate. RFC 4211 §4.1: both are there when possession is proved so.
fn template(mut template: Reader<'_>) -> Result<(SubjectSummary, Vec<u8>), CsrError> {
    let (mut subject, mut spki, mut before) = (None, None, None);
    while !template.is_empty() {
        let field = template.next().map_err(|_| NOT_CRMF)?;
        // Context-specific tags 0 to 9, each once, in order.
        let number = field.tag & 0x1f;
        if field.tag & 0xc0 != 0x80 || number > 9 || before.is_some_and(|before| number <= before) {
            return Err(NOT_CRMF);
        }
        before = Some(number);
        match field.tag {
            tag if tag == der::context_constructed(5) => {
                let name = der::enter_only(field.content, der::SEQUENCE).map_err(|_| NOT_CRMF)?;
                subject = Some(summarize(name)?);
            }
            tag if tag == der::context_constructed(6) => {
                spki = Some(der::element(der::SEQUENCE, field.content))
            }
            _ => {}
        }
    }
    let missing = CsrError::Malformed("the certificate template names no subject or no public key");
    subject.zip(spki).ok_or(missing)
}

/// Whether DER begins as CertReqMessages do: where a PKCS#10 request has its version, a message has another SEQUENCE.
fn is_crmf(bytes: &[u8]) -> bool {
    let mut messages = Reader::new(bytes);
    let inside = messages.enter(der::SEQUENCE).and_then(|mut messages| messages.enter(der::SEQUENCE));
    inside.is_ok_and(|message| message.peek_tag() == Some(der::SEQUENCE))
}

/// The key, once the signature over `signed` verifies under it.
fn possessed(
    spki: &[u8],
    algorithm: &mut Reader<'_>,
    signed: &[u8],
    signature: &[u8],
    known_keys: KnownKeys,
) -> Result<PublicKey, CsrError> {
    let key = PublicKey::parse(spki, known_keys).map_err(|error| match error {
        PkiError::UnsupportedKey { algorithm } => CsrError::UnsupportedKey(algorithm),
        PkiError::PointNotOnCurve => CsrError::PointNotOnCurve,
        PkiError::KnownTestKey => CsrError::KnownTestKey,
        PkiError::Malformed { why, .. } => CsrError::Malformed(why),
        _ => CsrError::Malformed("the public key"),
    })?;
    let hash = hash_of(algorithm)?;
    let signature = match signature.split_first() {
        Some((0, octets)) => octets,
        _ => return Err(CsrError::Malformed("the signature is no whole number of octets")),
    };
    key.verify_with(hash, signed, signature).map_err(|_| CsrError::BadSignature)?;
    Ok(key)
}

const NOT_CRMF: CsrError = CsrError::Malformed("not a certificate request message in DER");
const NOT_DER: CsrError = CsrError::Malformed("not a certification request in DER");

/// The hash of the signature: the curve comes from the key.
fn hash_of(algorithm: &mut Reader<'_>) -> Result<Hash, CsrError> {
    let name = algorithm.expect(der::OBJECT_IDENTIFIER).map_err(|_| NOT_DER)?;
    let unsupported = || CsrError::UnsupportedSignature(oid::describe(name.content));
    // RFC 5758 §3.2: ecdsa-with-SHA2 has no parameters.
    algorithm.finish().map_err(|_| unsupported())?;
    match oid::decode(name.content).as_deref() {
        Some(oid::ECDSA_WITH_SHA256) => Ok(Hash::Sha256),
        Some(oid::ECDSA_WITH_SHA384) => Ok(Hash::Sha384),
        Some(oid::ECDSA_WITH_SHA512) => Ok(Hash::Sha512),
        _ => Err(unsupported()),
    }
}

fn summarize(mut name: Reader<'_>) -> Result<SubjectSummary, CsrError> {
    let mut summary = SubjectSummary::default();
    while !name.is_empty() {
        let mut rdn = name.enter(der::SET).map_err(|_| NOT_DER)?;
        while !rdn.is_empty() {
            let mut attribute = rdn.enter(der::SEQUENCE).map_err(|_| NOT_DER)?;
            let kind = attribute.expect(der::OBJECT_IDENTIFIER).map_err(|_| NOT_DER)?;
            let value = attribute.next().map_err(|_| NOT_DER)?;
            attribute.finish().map_err(|_| NOT_DER)?;
            let text = std::str::from_utf8(value.content).map_err(|_| CsrError::SubjectText)?;
            if text.chars().any(char::is_control) || text.chars().count() > ATTRIBUTE_CHARACTERS_MAX {
                return Err(CsrError::SubjectText);
            }
            let place = match oid::decode(kind.content).as_deref() {
                Some(oid::COMMON_NAME) => &mut summary.common_name,
                Some(oid::ORGANIZATION) => &mut summary.organization,
                Some(oid::ORGANIZATIONAL_UNIT) => &mut summary.organizational_unit,
                _ => continue,
            };
            place.get_or_insert_with(|| text.to_owned());
        }
    }
    Ok(summary)
}

/// Nothing asked for is granted, but a request that contradicts itself is refused.
fn check_attributes(mut attributes: Reader<'_>) -> Result<(), CsrError> {
    let mut seen = Vec::new();
    while !attributes.is_empty() {
        let mut attribute = attributes.enter(der::SEQUENCE).map_err(|_| NOT_DER)?;
        let kind = attribute.expect(der::OBJECT_IDENTIFIER).map_err(|_| NOT_DER)?.content;
        let mut values = attribute.enter(der::SET).map_err(|_| NOT_DER)?;
        attribute.finish().map_err(|_| NOT_DER)?;
        if seen.contains(&kind) {
            return Err(CsrError::DuplicateAttribute(oid::describe(kind)));
        }
        seen.push(kind);
        if oid::decode(kind).as_deref() == Some(oid::EXTENSION_REQUEST) {
            let extensions = values.enter(der::SEQUENCE).map_err(|_| NOT_DER)?;
            // RFC 2985 §5.4.2: single valued.
            values.finish().map_err(|_| CsrError::DuplicateAttribute(oid::describe(kind)))?;
            check_extensions(extensions)?;
        }
    }
    Ok(())
}

fn check_extensions(mut extensions: Reader<'_>) -> Result<(), CsrError> {
    const KNOWN: [oid::Arcs; 7] = [
        oid::SUBJECT_KEY_IDENTIFIER,
        oid::KEY_USAGE,
        oid::SUBJECT_ALTERNATIVE_NAME,
        oid::BASIC_CONSTRAINTS,
        oid::CERTIFICATE_POLICIES,
        oid::EXTENDED_KEY_USAGE,
        oid::NAME_CONSTRAINTS,
    ];
    let mut seen = Vec::new();
    while !extensions.is_empty() {
        let mut extension = extensions.enter(der::SEQUENCE).map_err(|_| NOT_DER)?;
        let kind = extension.expect(der::OBJECT_IDENTIFIER).map_err(|_| NOT_DER)?.content;
        let critical = match extension.peek_tag() {
            Some(der::BOOLEAN) => extension.next().map_err(|_| NOT_DER)?.content == [0xff],
            _ => false,
        };
        let value = extension.expect(der::OCTET_STRING).map_err(|_| NOT_DER)?;
        extension.finish().map_err(|_| NOT_DER)?;
        if seen.contains(&kind) {
            return Err(CsrError::DuplicateExtension(oid::describe(kind)));
        }
        seen.push(kind);
        let arcs = oid::decode(kind).unwrap_or_default();
        if critical && !KNOWN.contains(&arcs.as_slice()) {
            return Err(CsrError::UnknownCriticalExtension(oid::dotted(&arcs)));
        }
        if arcs == oid::SUBJECT_ALTERNATIVE_NAME {
            let mut names = der::enter_only(value.content, der::SEQUENCE).map_err(|_| NOT_DER)?;
            let mut count = 0;
            while !names.is_empty() {
                names.next().map_err(|_| NOT_DER)?;
                count += 1;
            }
            if count > ALTERNATIVE_NAMES_MAX {
                return Err(CsrError::TooManyNames);
            }
        }
    }
    Ok(())
}

/// Makes a request in DER for a key of [`PrivateKey`] in PKCS#8; the request asks for no extension.
pub fn create_csr(pkcs8: &[u8], common_name: &str, organization: &str) -> Result<Vec<u8>, PkiError> {
    let key = PrivateKey::from_pkcs8(pkcs8)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, organization);
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    let request = parameters.serialize_request(&key).map_err(PkiError::Builder)?;
    Ok(request.der().to_vec())
}

/// A request in DER as a PEM block.
pub fn csr_pem(der: &[u8]) -> String {
    pem::encode(der, "CERTIFICATE REQUEST").to_string()
}
