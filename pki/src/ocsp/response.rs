//! What is answered: the bytes to sign, the assembled answer, and its reader.

use super::request::{CertificateId, each_extension};
use crate::certificate::{Certificate, signed_with};
use crate::civil_time::CivilTime;
use crate::der::{self, NotDer, Reader, Writer};
use crate::error::PkiError;
use crate::key::{KnownKeys, PublicKey, curve_of, key_identifier};
use crate::oid;
use crate::serial::SerialNumber;
use domain::RevocationReason;
use ecc::{Digest, Hash, Signature};

/// The state of one certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateStatus {
    /// Issued and not revoked.
    Good,
    /// Revoked.
    Revoked {
        /// When.
        at: CivilTime,
        /// Why; unspecified is not written.
        reason: RevocationReason,
    },
    /// Nothing was issued under this serial number, or not by this issuer.
    Unknown,
}

/// One line of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SingleAnswer {
    /// The identifier as it was asked.
    pub id: CertificateId,
    /// Its state.
    pub status: CertificateStatus,
}

/// Everything that an answer says.
#[derive(Clone, Debug)]
pub struct AnswerInputs<'a> {
    /// The delegated responder's certificate (RFC 6960 §4.2.2.2), which travels with the answer.
    pub responder: &'a Certificate,
    /// The answers, in the order of the questions.
    pub answers: Vec<SingleAnswer>,
    /// When this was known to be right; producedAt is the same.
    pub this_update: CivilTime,
    /// Until when it may be relied on.
    pub next_update: CivilTime,
    /// The nonce of the request.
    pub nonce: Option<Vec<u8>>,
}

/// The bytes that the signature covers.
#[derive(Debug)]
pub struct ResponseData {
    bytes: Vec<u8>,
    digest: Digest,
    responder: Certificate,
    statuses: Vec<(SerialNumber, CertificateStatus)>,
}

/// Builds the bytes that an answer's signature covers.
pub fn build(inputs: &AnswerInputs<'_>) -> Result<ResponseData, PkiError> {
    let responder_key = key_identifier(inputs.responder.spki())?;
    let bytes = der::nested(der::SEQUENCE, |data| {
        // byKey [2]: SHA-1 of the responder's key.
        data.nested(der::context_constructed(2), |by_key| {
            by_key.element(der::OCTET_STRING, &responder_key);
        });
        write_time(data, inputs.this_update);
        data.nested(der::SEQUENCE, |list| {
            for answer in &inputs.answers {
                list.nested(der::SEQUENCE, |single| write_single(single, answer, inputs));
            }
        });
        if let Some(nonce) = &inputs.nonce {
            data.nested(der::context_constructed(1), |wrapper| {
                wrapper.nested(der::SEQUENCE, |extensions| {
                    extensions.nested(der::SEQUENCE, |extension| {
                        extension.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::OCSP_NONCE));
                        extension.nested(der::OCTET_STRING, |value| {
                            value.element(der::OCTET_STRING, nonce);
                        });
                    });
                });
            });
        }
    });
    Ok(ResponseData {
        digest: Digest::of(curve_of(inputs.responder.spki())?, &bytes),
        bytes,
        responder: inputs.responder.clone(),
        statuses: inputs.answers.iter().map(|answer| (answer.id.serial().clone(), answer.status)).collect(),
    })
}

fn write_single(single: &mut Writer, answer: &SingleAnswer, inputs: &AnswerInputs<'_>) {
    single.raw(answer.id.der());
    match answer.status {
        CertificateStatus::Good => {
            single.element(der::context(0), &[]);
        }
        CertificateStatus::Revoked { at, reason } => {
            single.nested(der::context_constructed(1), |revoked| {
                write_time(revoked, at);
                if reason != RevocationReason::Unspecified {
                    revoked.nested(der::context_constructed(0), |wrapper| {
                        wrapper.element(der::ENUMERATED, &[reason.code()]);
                    });
                }
            });
        }
        CertificateStatus::Unknown => {
            single.element(der::context(2), &[]);
        }
    }
    write_time(single, inputs.this_update);
    single.nested(der::context_constructed(0), |wrapper| write_time(wrapper, inputs.next_update));
}

/// RFC 6960 §4.2.1: times are GeneralizedTime in every year.
fn write_time(writer: &mut Writer, time: CivilTime) {
    let digits: String = time.to_string().chars().filter(|c| c.is_ascii_digit()).collect();
    writer.element(der::GENERALIZED_TIME, format!("{digits}Z").as_bytes());
}

impl ResponseData {
    /// The bytes that are signed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the bytes for the responder's curve: what a token signs.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The whole OCSPResponse in DER, read back with other code and verified under the responder's key.
    pub fn assemble(self, signature_rs: &Signature) -> Result<Vec<u8>, PkiError> {
        let basic = signed_with(&self.bytes, signature_rs, |basic| {
            basic.nested(der::context_constructed(0), |wrapper| {
                wrapper.nested(der::SEQUENCE, |certificates| {
                    certificates.raw(self.responder.der());
                });
            });
        });
        let answer = der::nested(der::SEQUENCE, |response| {
            response.element(der::ENUMERATED, &[0]);
            response.nested(der::context_constructed(0), |wrapper| {
                wrapper.nested(der::SEQUENCE, |bytes| {
                    bytes.element(der::OBJECT_IDENTIFIER, &oid::encode(oid::OCSP_BASIC));
                    bytes.element(der::OCTET_STRING, &basic);
                });
            });
        });
        let read = BasicAnswer::from_der(&answer)?;
        if read.statuses != self.statuses {
            return Err(PkiError::ReadBackDiffers { field: "status" });
        }
        read.verify(&self.responder)?;
        Ok(answer)
    }
}

/// Why a question gets no answer; unsigned (RFC 6960 §4.2.1, RFC 5019 §2.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorStatus {
    /// No request that we read.
    MalformedRequest = 1,
    /// A fault of ours.
    InternalError = 2,
    /// Ask again later.
    TryLater = 3,
    /// The issuer asked about is none of ours.
    Unauthorized = 6,
}

/// The OCSPResponse that carries an error.
pub const fn error_answer(status: ErrorStatus) -> [u8; 5] {
    [der::SEQUENCE, 3, der::ENUMERATED, 1, status as u8]
}

/// An answer as a relying party reads it; see [`Self::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BasicAnswer {
    tbs: Vec<u8>,
    hash: Hash,
    signature: Vec<u8>,
    /// The state of each certificate, by serial number, in their order.
    pub statuses: Vec<(SerialNumber, CertificateStatus)>,
    /// The nonce, if the answer has one.
    pub nonce: Option<Vec<u8>>,
    /// The certificate that came with the answer.
    pub responder: Option<Certificate>,
}

const MALFORMED: PkiError =
    PkiError::Malformed { what: "the OCSP answer", why: "not a successful answer in DER" };
/// Bytes of the largest answer that is read.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

impl BasicAnswer {
    /// Reads a successful answer of at most 128 KiB.
    pub fn from_der(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(PkiError::TooLarge { what: "the OCSP answer", limit: ANSWER_BYTES_MAX });
        }
        if !der::is_canonical(bytes) {
            return Err(MALFORMED);
        }
        read(bytes).map_err(|NotDer| MALFORMED)
    }

    /// Whether `responder`'s key signed the answer.
    pub fn verify(&self, responder: &Certificate) -> Result<(), PkiError> {
        let key = PublicKey::parse(responder.spki(), KnownKeys::Allow)?;
        if self.hash != Hash::of(key.curve()) {
            return Err(PkiError::SignatureInvalid);
        }
        key.verify(&self.tbs, &self.signature)
    }
}

fn read(bytes: &[u8]) -> Result<BasicAnswer, NotDer> {
    let mut response = der::enter_only(bytes, der::SEQUENCE)?;
    if response.expect(der::ENUMERATED)?.content != [0] {
        return Err(NotDer);
    }
    let mut typed = der::enter_only(response.expect(der::context_constructed(0))?.content, der::SEQUENCE)?;
    response.finish()?;
    if typed.expect(der::OBJECT_IDENTIFIER)?.content != oid::encode(oid::OCSP_BASIC) {
        return Err(NotDer);
    }
    let basic = typed.expect(der::OCTET_STRING)?.content;
    typed.finish()?;
    if !der::is_canonical(basic) {
        return Err(NotDer);
    }
    let mut basic = der::enter_only(basic, der::SEQUENCE)?;
    let tbs = basic.expect(der::SEQUENCE)?;
    let mut algorithm = basic.enter(der::SEQUENCE)?;
    let hash = match oid::decode(algorithm.expect(der::OBJECT_IDENTIFIER)?.content).as_deref() {
        Some(oid::ECDSA_WITH_SHA256) => Hash::Sha256,
        Some(oid::ECDSA_WITH_SHA384) => Hash::Sha384,
        _ => return Err(NotDer),
    };
    algorithm.finish()?;
    let signature = basic.expect(der::BIT_STRING)?.content.get(1..).unwrap_or_default().to_vec();
    let mut responder = None;
    if basic.peek_tag() == Some(der::context_constructed(0)) {
        let mut certificates = der::enter_only(basic.next()?.content, der::SEQUENCE)?;
        let first = certificates.expect(der::SEQUENCE)?;
        responder = Some(Certificate::from_der(first.raw).map_err(|_| NotDer)?);
    }
    basic.finish()?;
    let (statuses, nonce) = read_data(tbs.content)?;
    Ok(BasicAnswer { tbs: tbs.raw.to_vec(), hash, signature, statuses, nonce, responder })
}

type Data = (Vec<(SerialNumber, CertificateStatus)>, Option<Vec<u8>>);

fn read_data(content: &[u8]) -> Result<Data, NotDer> {
    let mut data = Reader::new(content);
    // byName [1] or byKey [2].
    let named = data.next()?.tag;
    if named != der::context_constructed(1) && named != der::context_constructed(2) {
        return Err(NotDer);
    }
    data.expect(der::GENERALIZED_TIME)?;
    let mut list = data.enter(der::SEQUENCE)?;
    let mut statuses = Vec::new();
    while !list.is_empty() {
        let mut single = list.enter(der::SEQUENCE)?;
        let mut id = single.enter(der::SEQUENCE)?;
        id.expect(der::SEQUENCE)?;
        id.expect(der::OCTET_STRING)?;
        id.expect(der::OCTET_STRING)?;
        let serial = SerialNumber::from_content(id.expect(der::INTEGER)?.content).map_err(|_| NotDer)?;
        statuses.push((serial, read_status(&mut single)?));
        single.expect(der::GENERALIZED_TIME)?;
        if single.peek_tag() == Some(der::context_constructed(0)) {
            let next = single.next()?.content;
            der::enter_only_primitive(next, der::GENERALIZED_TIME)?;
        }
        single.finish()?;
    }
    let mut nonce = None;
    if data.peek_tag() == Some(der::context_constructed(1)) {
        each_extension(data.next()?.content, |name, critical, value| {
            if name == oid::OCSP_NONCE {
                nonce = Some(der::enter_only_primitive(value, der::OCTET_STRING)?.to_vec());
                return Ok(());
            }
            if critical { Err(NotDer) } else { Ok(()) }
        })?;
    }
    data.finish()?;
    Ok((statuses, nonce))
}

fn read_status(single: &mut Reader<'_>) -> Result<CertificateStatus, NotDer> {
    let element = single.next()?;
    match element.tag {
        tag if tag == der::context(0) && element.content.is_empty() => Ok(CertificateStatus::Good),
        tag if tag == der::context(2) && element.content.is_empty() => Ok(CertificateStatus::Unknown),
        tag if tag == der::context_constructed(1) => {
            let mut revoked = Reader::new(element.content);
            let at = read_time(revoked.expect(der::GENERALIZED_TIME)?.content)?;
            let mut reason = RevocationReason::Unspecified;
            if revoked.peek_tag() == Some(der::context_constructed(0)) {
                let code = der::enter_only_primitive(revoked.next()?.content, der::ENUMERATED)?;
                reason = match code {
                    [code] => RevocationReason::from_code(*code).ok_or(NotDer)?,
                    _ => return Err(NotDer),
                };
            }
            revoked.finish()?;
            Ok(CertificateStatus::Revoked { at, reason })
        }
        _ => Err(NotDer),
    }
}

/// `YYYYMMDDHHMMSSZ`.
fn read_time(content: &[u8]) -> Result<CivilTime, NotDer> {
    let digits = content.strip_suffix(b"Z").filter(|d| d.len() == 14).ok_or(NotDer)?;
    let number = |range: std::ops::Range<usize>| -> Result<u16, NotDer> {
        let text = std::str::from_utf8(&digits[range]).map_err(|_| NotDer)?;
        if text.bytes().all(|c| c.is_ascii_digit()) { text.parse().map_err(|_| NotDer) } else { Err(NotDer) }
    };
    let small = |range| number(range).and_then(|n| u8::try_from(n).map_err(|_| NotDer));
    CivilTime::new(number(0..4)?, small(4..6)?, small(6..8)?, small(8..10)?, small(10..12)?, small(12..14)?)
        .map_err(|_| NotDer)
}
