//! What a relying party asks. Everything here comes from strangers: bounded, strict DER, never a panic.

use crate::certificate::Certificate;
use crate::der::{self, Element, NotDer, Reader};
use crate::error::PkiError;
use crate::key::key_identifier;
use crate::oid;
use crate::serial::SerialNumber;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

/// Bytes of the largest request that is read. One question takes about 100, and RFC 5019 allows one only.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// The most certificates that one request may ask about.
pub const QUESTIONS_MAX: usize = 16;
/// RFC 9654 §2.1: the longest nonce that must be accepted; longer ones are refused.
pub const NONCE_BYTES_MAX: usize = 128;

/// The hash in a certificate identifier. It finds the issuer, no security rests on it (RFC 6960 §4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdHash {
    /// SHA-1, which RFC 5019 §2.1.1 asks clients to use.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// Which certificate is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateId {
    raw: Vec<u8>,
    hash: IdHash,
    issuer_name_hash: Vec<u8>,
    issuer_key_hash: Vec<u8>,
    serial: SerialNumber,
}

impl CertificateId {
    /// The serial number.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// Its DER, which the answer repeats octet for octet.
    pub fn der(&self) -> &[u8] {
        &self.raw
    }

    /// Whether the certificate asked about names this issuer: hash of the subject name and of the key's BIT STRING.
    pub fn is_of(&self, issuer: &Certificate) -> bool {
        let key_bits = || -> Result<&[u8], NotDer> {
            let mut spki = der::enter_only(issuer.spki(), der::SEQUENCE)?;
            spki.expect(der::SEQUENCE)?;
            Ok(spki.expect(der::BIT_STRING)?.content.get(1..).unwrap_or_default())
        };
        match self.hash {
            IdHash::Sha1 => {
                self.issuer_name_hash[..] == Sha1::digest(issuer.subject_name_der())[..]
                    && key_identifier(issuer.spki()).is_ok_and(|key| self.issuer_key_hash == key)
            }
            IdHash::Sha256 => {
                self.issuer_name_hash[..] == Sha256::digest(issuer.subject_name_der())[..]
                    && key_bits().is_ok_and(|bits| self.issuer_key_hash[..] == Sha256::digest(bits)[..])
            }
        }
    }
}

/// A request that parses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OcspRequest {
    /// What it asks about: 1 to [`QUESTIONS_MAX`].
    pub questions: Vec<CertificateId>,
    /// RFC 9654: 1 to [`NONCE_BYTES_MAX`] octets that the answer repeats.
    pub nonce: Option<Vec<u8>>,
}

const MALFORMED: PkiError =
    PkiError::Malformed { what: "the OCSP request", why: "not an OCSPRequest in DER" };

impl OcspRequest {
    /// Reads a request of at most [`REQUEST_BYTES_MAX`] bytes. A requestor's name and signature are read over: answers
    /// are public. An unknown critical extension is refused (RFC 6960 §4.4).
    pub fn from_der(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(PkiError::TooLarge { what: "the OCSP request", limit: REQUEST_BYTES_MAX });
        }
        if !der::is_canonical(bytes) {
            return Err(MALFORMED);
        }
        read(bytes).map_err(|NotDer| MALFORMED)
    }
}

/// The request of a relying party about one certificate of `issuer`, its identifier by SHA-1 as RFC 5019 §2.1.1 asks.
pub fn ask(issuer: &Certificate, serial: &SerialNumber, nonce: Option<&[u8]>) -> Result<Vec<u8>, PkiError> {
    let key = key_identifier(issuer.spki())?;
    let name = Sha1::digest(issuer.subject_name_der());
    Ok(der::nested(der::SEQUENCE, |request| {
        request.nested(der::SEQUENCE, |tbs| {
            tbs.nested(der::SEQUENCE, |list| {
                list.nested(der::SEQUENCE, |question| {
                    question.nested(der::SEQUENCE, |id| {
                        id.nested(der::SEQUENCE, |algorithm| {
                            algorithm.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::SHA_1));
                            algorithm.element(der::NULL, &[]);
                        });
                        id.element(der::OCTET_STRING, &name);
                        id.element(der::OCTET_STRING, &key);
                        id.raw(&der::unsigned_integer(serial.as_bytes()));
                    });
                });
            });
            if let Some(nonce) = nonce {
                tbs.nested(der::context_constructed(2), |wrapper| {
                    wrapper.nested(der::SEQUENCE, |extensions| {
                        extensions.nested(der::SEQUENCE, |extension| {
                            extension.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::OCSP_NONCE));
                            extension.element(der::OCTET_STRING, &der::element(der::OCTET_STRING, nonce));
                        });
                    });
                });
            }
        });
    }))
}

fn read(bytes: &[u8]) -> Result<OcspRequest, NotDer> {
    let mut request = der::enter_only(bytes, der::SEQUENCE)?;
    let mut tbs = request.enter(der::SEQUENCE)?;
    skip(&mut request, der::context_constructed(0))?;
    request.finish()?;
    // The version is the default and so must be absent; requestorName [1].
    skip(&mut tbs, der::context_constructed(1))?;
    let mut list = tbs.enter(der::SEQUENCE)?;
    let mut questions = Vec::new();
    while !list.is_empty() {
        if questions.len() == QUESTIONS_MAX {
            return Err(NotDer);
        }
        let mut question = list.enter(der::SEQUENCE)?;
        questions.push(read_id(question.expect(der::SEQUENCE)?)?);
        if let Some(extensions) = maybe(&mut question, der::context_constructed(0))? {
            each_extension(extensions.content, |_, critical, _| if critical { Err(NotDer) } else { Ok(()) })?;
        }
        question.finish()?;
    }
    if questions.is_empty() {
        return Err(NotDer);
    }
    let mut nonce = None;
    if let Some(extensions) = maybe(&mut tbs, der::context_constructed(2))? {
        each_extension(extensions.content, |name, critical, value| {
            if name == oid::OCSP_NONCE {
                let octets = der::enter_only_primitive(value, der::OCTET_STRING)?;
                let fits = (1..=NONCE_BYTES_MAX).contains(&octets.len()) && nonce.is_none();
                nonce = Some(octets.to_vec());
                return if fits { Ok(()) } else { Err(NotDer) };
            }
            if critical { Err(NotDer) } else { Ok(()) }
        })?;
    }
    tbs.finish()?;
    Ok(OcspRequest { questions, nonce })
}

fn read_id(element: Element<'_>) -> Result<CertificateId, NotDer> {
    let mut id = Reader::new(element.content);
    let mut algorithm = id.enter(der::SEQUENCE)?;
    let hash = match oid::decode(algorithm.expect(der::OBJECT_IDENTIFIER)?.content).as_deref() {
        Some(arcs) if arcs == oid::SHA_1 => IdHash::Sha1,
        Some(arcs) if arcs == oid::SHA_256 => IdHash::Sha256,
        _ => return Err(NotDer),
    };
    maybe(&mut algorithm, der::NULL)?;
    algorithm.finish()?;
    let issuer_name_hash = id.expect(der::OCTET_STRING)?.content.to_vec();
    let issuer_key_hash = id.expect(der::OCTET_STRING)?.content.to_vec();
    let serial = SerialNumber::from_content(id.expect(der::INTEGER)?.content).map_err(|_| NotDer)?;
    id.finish()?;
    Ok(CertificateId { raw: element.raw.to_vec(), hash, issuer_name_hash, issuer_key_hash, serial })
}

/// The next element if it carries `tag`.
fn maybe<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<Option<Element<'a>>, NotDer> {
    if reader.peek_tag() == Some(tag) { reader.next().map(Some) } else { Ok(None) }
}

fn skip(reader: &mut Reader<'_>, tag: u8) -> Result<(), NotDer> {
    maybe(reader, tag).map(drop)
}

/// Each extension of a list once: its arcs, whether it is critical, and its value.
pub(super) fn each_extension(
    list: &[u8],
    mut take: impl FnMut(&[u64], bool, &[u8]) -> Result<(), NotDer>,
) -> Result<(), NotDer> {
    let mut extensions = der::enter_only(list, der::SEQUENCE)?;
    let mut seen: Vec<Vec<u64>> = Vec::new();
    while !extensions.is_empty() {
        let mut extension = extensions.enter(der::SEQUENCE)?;
        let name = oid::decode(extension.expect(der::OBJECT_IDENTIFIER)?.content).ok_or(NotDer)?;
        let critical = maybe(&mut extension, der::BOOLEAN)?.is_some_and(|value| value.content == [0xff]);
        let value = extension.expect(der::OCTET_STRING)?.content;
        extension.finish()?;
        if seen.contains(&name) {
            return Err(NotDer);
        }
        take(&name, critical, value)?;
        seen.push(name);
    }
    Ok(())
}
