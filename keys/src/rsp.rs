//! Objects of remote SIM provisioning (SGP.22 v2, module RSPDefinitions): what an eUICC answers, read from outside bytes,
//! and what an SM-DP+ signs. Signatures are raw r || s under tag 5F37 (BSI TR-03111).
//!
//! Readers accept DER alone, every field in its place and nothing after it, and keep the exact bytes that were signed.

mod tlv;

use aws_lc_rs::digest::{SHA256, digest};
use subtle::ConstantTimeEq;

use self::tlv::{NotDer, Reader, element, enter_only};

/// Bytes of the longest object that is read: certificates of an eUICC and its EUM, and EUICCInfo2.
pub const OBJECT_BYTES_MAX: usize = 16 * 1024;
/// Characters of the longest server address and matching id that are read.
pub const TEXT_MAX: usize = 255;
/// Key identifiers of one list of EUICCInfo1 that are read.
const KEY_IDENTIFIERS_MAX: usize = 32;

const BOOLEAN: u16 = 0x01;
const INTEGER: u16 = 0x02;
const OCTET_STRING: u16 = 0x04;
const SEQUENCE: u16 = 0x30;
const TRANSACTION_ID: u16 = 0x80;
const EUICC_CHALLENGE: u16 = 0x81;
const SERVER_ADDRESS: u16 = 0x83;
const SERVER_CHALLENGE: u16 = 0x84;
const EUICC_INFO1: u16 = 0xbf20;
/// otherCertsInChain [1].
const OTHER_CERTIFICATES: u16 = 0xa1;
const EUICC_INFO2: u16 = 0xbf22;
const PREPARE_DOWNLOAD_RESPONSE: u16 = 0xbf21;
const AUTHENTICATE_SERVER_RESPONSE: u16 = 0xbf38;
/// `[APPLICATION 55]`: a signature.
const SIGNATURE: u16 = 0x5f37;
/// `[APPLICATION 73]`: a one-time public key.
pub(crate) const ONE_TIME_KEY: u16 = 0x5f49;

/// Bytes from outside that are not the RSP object they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {object} of SGP.22 v2: {problem}")]
pub struct RspObjectError {
    /// The ASN.1 name of the object.
    pub object: &'static str,
    /// What is wrong.
    pub problem: &'static str,
}

/// What we call a transaction: 16 random bytes of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 16]);

/// EUICCInfo1 (tag BF20), as far as it is used: which certificate issuers the eUICC knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EuiccInfo1 {
    verification: Vec<Vec<u8>>,
    signing: Vec<Vec<u8>>,
}

impl EuiccInfo1 {
    /// Reads the DER object. Further fields of later versions are passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, RspObjectError> {
        bounded("EUICCInfo1", bytes)?;
        Self::read(bytes).map_err(malformed("EUICCInfo1"))
    }

    fn read(bytes: &[u8]) -> Result<Self, NotDer> {
        let mut fields = enter_only(bytes, EUICC_INFO1)?;
        let _svn: [u8; 3] = fields.array(0x82)?;
        let verification = key_identifiers(fields.enter(0xa9)?)?;
        let signing = key_identifiers(fields.enter(0xaa)?)?;
        while !fields.is_empty() {
            fields.next()?;
        }
        Ok(Self { verification, signing })
    }

    /// How high the eUICC ranks an issuer key under which it verifies servers and has a certificate of its own: 0 is the
    /// first of its signing list (SGP.22 §5.6.1). `None` when it lacks one of the two.
    pub fn rank(&self, ci_key_identifier: &[u8]) -> Option<usize> {
        let place = |list: &[Vec<u8>]| list.iter().position(|known| known == ci_key_identifier);
        place(&self.verification).and(place(&self.signing))
    }
}

fn key_identifiers(mut list: Reader<'_>) -> Result<Vec<Vec<u8>>, NotDer> {
    let mut identifiers = Vec::new();
    while !list.is_empty() {
        let identifier = list.expect(OCTET_STRING)?.content;
        if identifiers.len() == KEY_IDENTIFIERS_MAX || !(1..=64).contains(&identifier.len()) {
            return Err(NotDer);
        }
        identifiers.push(identifier.to_vec());
    }
    Ok(identifiers)
}

/// ServerSigned1: what the DPauth key signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSigned1 {
    /// Ours.
    pub transaction_id: TransactionId,
    /// As the eUICC sent it.
    pub euicc_challenge: [u8; 16],
    /// At most [`TEXT_MAX`] bytes.
    pub server_address: String,
    /// Ours.
    pub server_challenge: [u8; 16],
}

impl ServerSigned1 {
    /// The DER SEQUENCE.
    pub fn encode(&self) -> Vec<u8> {
        let fields = [
            element(TRANSACTION_ID, &self.transaction_id.0),
            element(EUICC_CHALLENGE, &self.euicc_challenge),
            element(SERVER_ADDRESS, self.server_address.as_bytes()),
            element(SERVER_CHALLENGE, &self.server_challenge),
        ];
        element(SEQUENCE, &fields.concat())
    }
}

/// AuthenticateServerResponse (tag BF38) of an eUICC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthenticateServerResponse {
    /// It accepted us and proves itself.
    Accepted(Box<EuiccAuthentication>),
    /// It refused, with its authenticateErrorCode.
    Refused(u32),
}

/// What an eUICC that accepted the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EuiccAuthentication {
    /// The exact bytes of euiccSigned1, over which the signature is.
    pub euicc_signed1: Vec<u8>,
    /// As it says.
    pub transaction_id: Vec<u8>,
    /// As it says.
    pub server_address: String,
    /// As it says.
    pub server_challenge: [u8; 16],
    /// From ctxParams1; empty where it has none.
    pub matching_id: String,
    /// r || s.
    pub signature: [u8; 64],
    /// CERT.EUICC.ECDSA, DER.
    pub euicc_certificate: Vec<u8>,
    /// CERT.EUM.ECDSA, DER; of SGP.22 v3 the next certificate in the chain.
    pub eum_certificate: Vec<u8>,
    /// otherCertsInChain of SGP.22 v3, DER each: what stands between that one and the root.
    pub other_certificates: Vec<Vec<u8>>,
}

/// Certificates between the manufacturer's sub CA and the root, at most.
const OTHER_CERTIFICATES_MAX: usize = 4;

impl AuthenticateServerResponse {
    /// Reads the DER object.
    pub fn parse(bytes: &[u8]) -> Result<Self, RspObjectError> {
        bounded("AuthenticateServerResponse", bytes)?;
        Self::read(bytes).map_err(malformed("AuthenticateServerResponse"))
    }

    fn read(bytes: &[u8]) -> Result<Self, NotDer> {
        let mut fields = match choice(bytes, AUTHENTICATE_SERVER_RESPONSE)? {
            Choice::Ok(fields) => fields,
            Choice::Error(code) => return Ok(Self::Refused(code)),
        };
        let signed = fields.expect(SEQUENCE)?;
        let signature = fields.array(SIGNATURE)?;
        let euicc_certificate = fields.expect(SEQUENCE)?.raw.to_vec();
        let eum_certificate = fields.expect(SEQUENCE)?.raw.to_vec();
        let mut other_certificates = Vec::new();
        if fields.peek() == Some(OTHER_CERTIFICATES) {
            let mut others = fields.enter(OTHER_CERTIFICATES)?;
            while others.peek().is_some() {
                if other_certificates.len() == OTHER_CERTIFICATES_MAX {
                    return Err(NotDer);
                }
                other_certificates.push(others.expect(SEQUENCE)?.raw.to_vec());
            }
        }
        fields.finish()?;
        let mut inside = Reader::new(signed.content);
        let transaction_id = transaction_id(&mut inside)?;
        let server_address = text(inside.expect(SERVER_ADDRESS)?.content)?;
        let server_challenge = inside.array(SERVER_CHALLENGE)?;
        inside.expect(EUICC_INFO2)?;
        let mut parameters = inside.enter(0xa0)?;
        inside.finish()?;
        let matching_id = match parameters.peek() {
            Some(0x80) => text(parameters.expect(0x80)?.content)?,
            _ => String::new(),
        };
        parameters.expect(0xa1)?;
        parameters.finish()?;
        Ok(Self::Accepted(Box::new(EuiccAuthentication {
            euicc_signed1: signed.raw.to_vec(),
            transaction_id,
            server_address,
            server_challenge,
            matching_id,
            signature,
            euicc_certificate,
            eum_certificate,
            other_certificates,
        })))
    }
}

/// SmdpSigned2: what the DPpb key signs, together with the eUICC's signature before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmdpSigned2 {
    /// Ours.
    pub transaction_id: TransactionId,
    /// ccRequiredFlag.
    pub confirmation_code_required: bool,
}

impl SmdpSigned2 {
    /// The DER SEQUENCE.
    pub fn encode(&self) -> Vec<u8> {
        let flag = if self.confirmation_code_required { 0xff } else { 0 };
        let fields = [element(TRANSACTION_ID, &self.transaction_id.0), element(BOOLEAN, &[flag])];
        element(SEQUENCE, &fields.concat())
    }
}

/// PrepareDownloadResponse (tag BF21) of an eUICC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareDownloadResponse {
    /// It accepted the offer and gives its one-time key.
    Accepted(Box<DownloadPreparation>),
    /// It refused, with its downloadErrorCode.
    Refused(u32),
}

/// What an eUICC that is ready for a profile says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadPreparation {
    /// The exact bytes of euiccSigned2.
    pub euicc_signed2: Vec<u8>,
    /// As it says.
    pub transaction_id: Vec<u8>,
    /// otPK.EUICC.ECKA: an uncompressed point; not yet checked to be on a curve.
    pub one_time_key: [u8; 65],
    /// SHA-256(SHA-256(confirmation code) || transaction id), where a code was asked for.
    pub hash_cc: Option<[u8; 32]>,
    /// r || s.
    pub signature: [u8; 64],
}

impl PrepareDownloadResponse {
    /// Reads the DER object.
    pub fn parse(bytes: &[u8]) -> Result<Self, RspObjectError> {
        bounded("PrepareDownloadResponse", bytes)?;
        Self::read(bytes).map_err(malformed("PrepareDownloadResponse"))
    }

    fn read(bytes: &[u8]) -> Result<Self, NotDer> {
        let mut fields = match choice(bytes, PREPARE_DOWNLOAD_RESPONSE)? {
            Choice::Ok(fields) => fields,
            Choice::Error(code) => return Ok(Self::Refused(code)),
        };
        let signed = fields.expect(SEQUENCE)?;
        let signature = fields.array(SIGNATURE)?;
        fields.finish()?;
        let mut inside = Reader::new(signed.content);
        let transaction_id = transaction_id(&mut inside)?;
        let one_time_key: [u8; 65] = inside.array(ONE_TIME_KEY)?;
        let hash_cc = if inside.is_empty() { None } else { Some(inside.array(OCTET_STRING)?) };
        inside.finish()?;
        if one_time_key[0] != 4 {
            return Err(NotDer);
        }
        Ok(Self::Accepted(Box::new(DownloadPreparation {
            euicc_signed2: signed.raw.to_vec(),
            transaction_id,
            one_time_key,
            hash_cc,
            signature,
        })))
    }
}

/// EuiccPackageSigned of an eIM (SGP.32).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EuiccPackage {
    /// At most [`TEXT_MAX`] bytes.
    pub eim_id: String,
    /// Packed decimal.
    pub eid: [u8; 16],
    /// Greater than each one before.
    pub counter: u64,
    /// Empty: none.
    pub eim_transaction_id: Vec<u8>,
    /// The psmoList or ecoList, as [`is_euicc_package`] accepts it.
    pub package: Vec<u8>,
}

impl EuiccPackage {
    /// The DER SEQUENCE.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = element(0x80, self.eim_id.as_bytes());
        fields.extend(element(0x5a, &self.eid));
        fields.extend(element(0x81, &unsigned(self.counter)));
        if !self.eim_transaction_id.is_empty() {
            fields.extend(element(0x82, &self.eim_transaction_id));
        }
        fields.extend(&self.package);
        element(SEQUENCE, &fields)
    }
}

/// Whether `bytes` are one DER element of an EuiccPackage, psmoList (A0) or ecoList (A1), of at most 16 KiB.
pub fn is_euicc_package(bytes: &[u8]) -> bool {
    bytes.len() <= OBJECT_BYTES_MAX && (enter_only(bytes, 0xa0).is_ok() || enter_only(bytes, 0xa1).is_ok())
}

/// `signed || 84 LL association token`: what an eIM signs; 84 01 00 when there is none.
pub fn with_association_token(signed: &[u8], token: u64) -> Vec<u8> {
    [signed, &element(0x84, &unsigned(token))].concat()
}

/// EuiccPackageRequest (tag BF51): the signed package and its signature.
pub fn euicc_package_request(signed: &[u8], signature: &[u8]) -> Vec<u8> {
    element(0xbf51, &[signed, &element(SIGNATURE, signature)].concat())
}

/// The content of an INTEGER that is not negative (X.690 §8.3).
fn unsigned(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let sign = if bytes[first] >= 0x80 { &[0][..] } else { &[] };
    [sign, &bytes[first..]].concat()
}

/// `signed || 5F37 40 signature`: what the next signature of the chain is made over (SGP.22 §5.7.5, §5.6.2).
pub fn with_signature(signed: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    [signed, &element(SIGNATURE, signature)].concat()
}

/// Whether `hash_cc` is SHA-256(`code_digest` || transaction id), in constant time (SGP.22 §5.7.5).
pub fn confirms(hash_cc: &[u8; 32], code_digest: &[u8; 32], transaction_id: &TransactionId) -> bool {
    let expected = digest(&SHA256, &[&code_digest[..], &transaction_id.0].concat());
    expected.as_ref().ct_eq(hash_cc).into()
}

/// Whether `bytes` are one DER SEQUENCE and nothing else: what a DPauth key signs, and what a DPpb key never does.
pub fn is_one_sequence(bytes: &[u8]) -> bool {
    enter_only(bytes, SEQUENCE).is_ok()
}

/// Whether `bytes` are ServerSigned1 or SmdpSigned2 as far as a signer must know: one SEQUENCE that begins with the transaction
/// identifier, as nothing else does that such a key may sign (SGP.22 §5.6.1).
pub fn is_transaction_object(bytes: &[u8]) -> bool {
    enter_only(bytes, SEQUENCE)
        .and_then(|mut fields| fields.expect(0x80))
        .is_ok_and(|identifier| (1..=16).contains(&identifier.content.len()))
}

/// Whether `bytes` are one CertificationRequestInfo for exactly this key (SubjectPublicKeyInfo, DER): version 0, a subject, the
/// key, attributes (RFC 2986 §4.1).
pub fn is_request_for(bytes: &[u8], spki: &[u8]) -> bool {
    let read = || -> Result<bool, NotDer> {
        let mut fields = enter_only(bytes, SEQUENCE)?;
        let is_version_0 = fields.expect(INTEGER)?.content == [0];
        fields.expect(SEQUENCE)?;
        let is_of_key = element(SEQUENCE, fields.expect(SEQUENCE)?.content) == spki;
        fields.expect(0xa0)?;
        fields.finish()?;
        Ok(is_version_0 && is_of_key)
    };
    read().unwrap_or(false)
}

/// An element for other modules of this crate.
pub(crate) fn tlv(tag: u16, content: &[u8]) -> Vec<u8> {
    element(tag, content)
}

enum Choice<'a> {
    Ok(Reader<'a>),
    Error(u32),
}

/// The two alternatives that both answers of an eUICC have.
fn choice(bytes: &[u8], tag: u16) -> Result<Choice<'_>, NotDer> {
    let mut outer = enter_only(bytes, tag)?;
    let chosen = outer.next()?;
    outer.finish()?;
    let mut fields = Reader::new(chosen.content);
    match chosen.tag {
        0xa0 => Ok(Choice::Ok(fields)),
        0xa1 => {
            transaction_id(&mut fields)?;
            let code = fields.expect(INTEGER)?.content;
            fields.finish()?;
            match code {
                [code @ 0..=0x7f] => Ok(Choice::Error(u32::from(*code))),
                [0, code @ 0x80..=0xff] => Ok(Choice::Error(u32::from(*code))),
                _ => Err(NotDer),
            }
        }
        _ => Err(NotDer),
    }
}

fn transaction_id(fields: &mut Reader<'_>) -> Result<Vec<u8>, NotDer> {
    let id = fields.expect(TRANSACTION_ID)?.content;
    if (1..=16).contains(&id.len()) { Ok(id.to_vec()) } else { Err(NotDer) }
}

fn text(bytes: &[u8]) -> Result<String, NotDer> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= TEXT_MAX && !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(NotDer),
    }
}

fn bounded(object: &'static str, bytes: &[u8]) -> Result<(), RspObjectError> {
    if bytes.len() > OBJECT_BYTES_MAX {
        return Err(RspObjectError { object, problem: "longer than 16 KiB" });
    }
    Ok(())
}

fn malformed(object: &'static str) -> impl Fn(NotDer) -> RspObjectError {
    move |NotDer| RspObjectError { object, problem: "its DER or its fields are not as the module says" }
}
