//! An eUICC as far as the download of a profile goes (SGP.22 §5.7): mutual authentication with an SM-DP+, the key
//! agreement, and the bound profile package. Signatures and the agreement are those of `p256` and `bp256`, which the token
//! does not use, and the authority only to verify on brainpoolP256r1; objects are written and read here.

pub mod bsp;
pub mod certificate;
pub mod curve;
pub mod lpa;
pub mod package;
pub mod tlv;

use aws_lc_rs::rand;

use bsp::{Agreement, BspKeys};
use certificate::{Certificate, DP_AUTH, DP_PB};
use curve::{PrivateKey, PublicKey};
use package::{Parts, Profile};
use tlv::{Malformed, Reader, tlv};

/// The codes of AuthenticateErrorCode and DownloadErrorCode that an eUICC answers with (SGP.22 §5.7.13, §5.7.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// 1.
    InvalidCertificate,
    /// 2.
    InvalidSignature,
    /// 4: no challenge given, or no server authenticated.
    NoSessionContext,
    /// 5, of AuthenticateServer: the certificate is for another role.
    InvalidOid,
    /// 5, of PrepareDownload.
    InvalidTransactionId,
    /// 6.
    ChallengeMismatch,
    /// 7: the CI is none of this eUICC's.
    UnknownCi,
    /// 127: what was sent does not read.
    Undefined,
}

impl ErrorCode {
    const fn number(self) -> u8 {
        match self {
            Self::InvalidCertificate => 1,
            Self::InvalidSignature => 2,
            Self::NoSessionContext => 4,
            Self::InvalidOid | Self::InvalidTransactionId => 5,
            Self::ChallengeMismatch => 6,
            Self::UnknownCi => 7,
            Self::Undefined => 127,
        }
    }
}

impl From<Malformed> for ErrorCode {
    fn from(_: Malformed) -> Self {
        Self::Undefined
    }
}

/// Why a bound profile package was not installed (ErrorReason of ProfileInstallationResult).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstallError {
    /// 1: no download was prepared, or the package does not read.
    IncorrectInput,
    /// 2: the server's signature is wrong.
    InvalidSignature,
    /// 3.
    InvalidTransactionId,
    /// 4: another key type or length than AES-128.
    UnsupportedTemplate,
    /// 8: a segment's MAC, padding or order is wrong.
    SecurityError,
}

impl From<Malformed> for InstallError {
    fn from(_: Malformed) -> Self {
        Self::IncorrectInput
    }
}

/// What an eUICC is made with.
pub struct Personality {
    /// Packed decimal.
    pub eid: [u8; 16],
    /// SK.EUICC.ECDSA.
    pub key: PrivateKey,
    /// CERT.EUICC.ECDSA, DER.
    pub certificate: Vec<u8>,
    /// CERT.EUM.ECDSA, DER.
    pub eum_certificate: Vec<u8>,
    /// What stands between that and the CI (otherCertsInChain of SGP.22 v3), DER.
    pub other_certificates: Vec<Vec<u8>>,
    /// CERT.CI.ECDSA, DER; of it the eUICC keeps the public key and its identifier.
    pub ci_certificate: Vec<u8>,
}

/// One simulated eUICC; a copy is the same eUICC at that moment.
#[derive(Clone)]
pub struct Euicc {
    eid: [u8; 16],
    key: PrivateKey,
    certificate: Vec<u8>,
    eum_certificate: Vec<u8>,
    other_certificates: Vec<Vec<u8>>,
    ci: PublicKey,
    ci_key_id: Vec<u8>,
    session: Session,
    /// The one-time key of the last prepared download, kept for a retry (SGP.22 §3.1.3).
    kept: Option<PrivateKey>,
}

#[derive(Clone)]
enum Session {
    None,
    Challenged([u8; 16]),
    Authenticated { transaction_id: Vec<u8>, registered_id: Vec<u8>, euicc_signature1: Vec<u8> },
    Prepared { transaction_id: Vec<u8>, server: PublicKey, one_time: PrivateKey },
}

impl Euicc {
    /// An eUICC as it leaves its manufacturer.
    pub fn new(personality: Personality) -> Result<Self, Malformed> {
        let ci = Certificate::read(&personality.ci_certificate)?;
        Ok(Self {
            eid: personality.eid,
            key: personality.key,
            ci_key_id: ci.key_id.ok_or(Malformed)?.to_vec(),
            ci: ci.key,
            certificate: personality.certificate,
            eum_certificate: personality.eum_certificate,
            other_certificates: personality.other_certificates,
            session: Session::None,
            kept: None,
        })
    }

    /// From now on it sends so many of the certificates behind its manufacturer's.
    pub fn keep_other_certificates(&mut self, count: usize) {
        self.other_certificates.truncate(count);
    }

    /// GetEUICCInfo1.
    pub fn info1(&self) -> Vec<u8> {
        let cis = tlv(0x04, &[&self.ci_key_id]);
        tlv(0xbf20, &[&tlv(0x82, &[&[2, 2, 2]]), &tlv(0xa9, &[&cis]), &tlv(0xaa, &[&cis])])
    }

    /// GetEUICCInfo2.
    pub fn info2(&self) -> Vec<u8> {
        let cis = tlv(0x04, &[&self.ci_key_id]);
        tlv(
            0xbf22,
            &[
                &tlv(0x81, &[&[2, 3, 1]]),
                &tlv(0x82, &[&[2, 2, 2]]),
                &tlv(0x83, &[&[1, 0, 0]]),
                // Installed applications, free non-volatile and volatile memory (TS 102 226 §8.2.1.7.2).
                &tlv(0x84, &[&[0x81, 1, 0, 0x82, 4, 0, 8, 0, 0, 0x83, 2, 0x20, 0]]),
                // usim, isim, milenage, tuak-128; javacard.
                &tlv(0x85, &[&[0x01, 0x6a, 0x02]]),
                &tlv(0x86, &[&[9, 0, 0]]),
                &tlv(0x87, &[&[2, 3, 0]]),
                // additionalProfile, crlSupport.
                &tlv(0x88, &[&[0x06, 0xc0]]),
                &tlv(0xa9, &[&cis]),
                &tlv(0xaa, &[&cis]),
                &tlv(0x8b, &[&[2]]),
                &tlv(0x04, &[&[1, 0, 0]]),
                &tlv(0x0c, &[b"TS-EU-0000"]),
            ],
        )
    }

    /// GetEUICCChallenge: 16 random bytes, and a new session.
    ///
    /// # Panics
    /// When the system has no random bytes.
    pub fn challenge(&mut self) -> [u8; 16] {
        let mut challenge = [0; 16];
        rand::fill(&mut challenge).expect("the system has random bytes");
        self.session = Session::Challenged(challenge);
        challenge
    }

    /// AuthenticateServer: its response, BF38, which is a signature or an error.
    pub fn authenticate_server(&mut self, request: &[u8]) -> Vec<u8> {
        let session = std::mem::replace(&mut self.session, Session::None);
        match self.authenticated(session, request) {
            Ok(response) => tlv(0xbf38, &[&tlv(0xa0, &[&response])]),
            Err(code) => error(request, 0xbf38, code),
        }
    }

    fn authenticated(&mut self, session: Session, request: &[u8]) -> Result<Vec<u8>, ErrorCode> {
        let Session::Challenged(challenge) = session else { return Err(ErrorCode::NoSessionContext) };
        let mut fields = Reader::inside(request, 0xbf38)?;
        let signed = fields.expect(0x30)?;
        let signature = fields.expect(0x5f37)?;
        let ci_key_id = fields.expect(0x04)?;
        let certificate = fields.expect(0x30)?;
        let context = fields.expect(0xa0)?;
        fields.end()?;

        if ci_key_id.value != self.ci_key_id {
            return Err(ErrorCode::UnknownCi);
        }
        let certificate = self.server_certificate(certificate.whole, &DP_AUTH)?;
        verify(&certificate.key, signed.whole, signature.value)?;
        let mut server = Reader::new(signed.value);
        let transaction_id = server.expect(0x80)?;
        if server.expect(0x81)?.value != challenge {
            return Err(ErrorCode::ChallengeMismatch);
        }
        let address = server.expect(0x83)?;
        let server_challenge = server.expect(0x84)?;
        server.end()?;

        let info2 = self.info2();
        let signed1 =
            tlv(0x30, &[transaction_id.whole, address.whole, server_challenge.whole, &info2, context.whole]);
        let signature1 = tlv(0x5f37, &[&self.key.sign(&signed1)]);
        self.session = Session::Authenticated {
            transaction_id: transaction_id.value.to_vec(),
            registered_id: certificate.registered_id.ok_or(ErrorCode::InvalidCertificate)?.to_vec(),
            euicc_signature1: signature1.clone(),
        };
        let mut answer = vec![signed1, signature1, self.certificate.clone(), self.eum_certificate.clone()];
        if !self.other_certificates.is_empty() {
            answer.push(tlv(0xa1, &[&self.other_certificates.concat()]));
        }
        Ok(answer.concat())
    }

    /// PrepareDownload: its response, BF21, which is a signature over a one-time key or an error.
    pub fn prepare_download(&mut self, request: &[u8]) -> Vec<u8> {
        let session = std::mem::replace(&mut self.session, Session::None);
        match self.prepared(session, request) {
            Ok(response) => tlv(0xbf21, &[&tlv(0xa0, &[&response])]),
            Err(code) => error(request, 0xbf21, code),
        }
    }

    fn prepared(&mut self, session: Session, request: &[u8]) -> Result<Vec<u8>, ErrorCode> {
        let Session::Authenticated { transaction_id, registered_id, euicc_signature1 } = session else {
            return Err(ErrorCode::NoSessionContext);
        };
        let mut fields = Reader::inside(request, 0xbf21)?;
        let signed = fields.expect(0x30)?;
        let signature = fields.expect(0x5f37)?;
        let hash_cc = fields.optional(0x04)?;
        let certificate = fields.expect(0x30)?;
        fields.end()?;

        // SGP.22 §5.7.5: both certificates are one entity's.
        let certificate =
            self.server_certificate(certificate.whole, &DP_PB).map_err(|_| ErrorCode::InvalidCertificate)?;
        if certificate.registered_id != Some(&registered_id[..]) {
            return Err(ErrorCode::InvalidCertificate);
        }
        verify(&certificate.key, &[signed.whole, &euicc_signature1].concat(), signature.value)?;
        let mut server = Reader::new(signed.value);
        if server.expect(0x80)?.value != transaction_id {
            return Err(ErrorCode::InvalidTransactionId);
        }
        server.expect(0x01)?;
        let used_before = server.optional(0x5f49)?;
        server.end()?;

        let kept = self.kept.take();
        let again = kept.filter(|key| used_before.is_some_and(|used| used.value == key.public_key().point()));
        let one_time = again.unwrap_or_else(|| PrivateKey::random(certificate.key.curve()));
        let public = tlv(0x5f49, &[&one_time.public_key().point()]);
        let hash_cc = hash_cc.map(|hash| hash.whole).unwrap_or_default();
        let signed2 = tlv(0x30, &[&tlv(0x80, &[&transaction_id]), &public, hash_cc]);
        let signature2 = self.key.sign(&[&signed2, signature.whole].concat());
        self.kept = Some(one_time.clone());
        self.session = Session::Prepared { transaction_id, server: certificate.key, one_time };
        Ok([signed2, tlv(0x5f37, &[&signature2])].concat())
    }

    /// LoadBoundProfilePackage, all of it at once: the profile that is now installed.
    pub fn install(&mut self, package: &[u8]) -> Result<Profile, InstallError> {
        let Session::Prepared { transaction_id, server, one_time } =
            std::mem::replace(&mut self.session, Session::None)
        else {
            return Err(InstallError::IncorrectInput);
        };
        let parts = Parts::read(package)?;
        let mut fields = Reader::new(parts.initialise_secure_channel);
        let operation = fields.expect(0x82)?;
        let named = fields.expect(0x80)?;
        let template = fields.expect(0xa6)?;
        let server_key = fields.expect(0x5f49)?;
        let signature = fields.expect(0x5f37)?;
        fields.end()?;
        if operation.value != [0x01] {
            return Err(InstallError::IncorrectInput);
        }
        if named.value != transaction_id {
            return Err(InstallError::InvalidTransactionId);
        }
        let own_key = tlv(0x5f49, &[&one_time.public_key().point()]);
        let signed = [operation.whole, named.whole, template.whole, server_key.whole, &own_key].concat();
        verify(&server, &signed, signature.value).map_err(|_| InstallError::InvalidSignature)?;

        let mut template = Reader::new(template.value);
        let (key_type, key_len, host_id) =
            (template.expect(0x80)?.value, template.expect(0x81)?.value, template.expect(0x84)?.value);
        template.end()?;
        let ([key_type @ 0x88], [key_len @ 16], 1..=16) = (key_type, key_len, host_id.len()) else {
            return Err(InstallError::UnsupportedTemplate);
        };
        let shared = PublicKey::from_point(one_time.curve(), server_key.value)
            .and_then(|server_key| one_time.agree(&server_key))
            .ok_or(InstallError::IncorrectInput)?;
        let agreement = Agreement { key_type: *key_type, key_len: *key_len, host_id, eid: &self.eid };
        let keys = BspKeys::derive(&shared, &agreement);
        let profile = parts.open(&keys).map_err(|_| InstallError::SecurityError)?;
        self.kept = None;
        Ok(profile)
    }

    /// What no eUICC does: a signature over bytes of a test's choice, to see what a server does with them.
    pub fn sign_for_a_test(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message)
    }

    /// SGP.22 §4.5.2: signed by our CI, for this role. An eUICC has no clock, so it looks at no dates.
    fn server_certificate<'a>(&self, der: &'a [u8], role: &[u8]) -> Result<Certificate<'a>, ErrorCode> {
        let certificate = Certificate::read(der).map_err(|_| ErrorCode::InvalidCertificate)?;
        let ours =
            certificate.issuer_key_id == Some(&self.ci_key_id[..]) && certificate.is_signed_by(&self.ci);
        if !ours || !certificate.signs || certificate.unknown_critical {
            return Err(ErrorCode::InvalidCertificate);
        }
        if certificate.policy != Some(role) {
            return Err(ErrorCode::InvalidOid);
        }
        Ok(certificate)
    }
}

/// The code in an error response of AuthenticateServer or PrepareDownload; `None` when it is no error.
pub fn error_code(response: &[u8]) -> Option<u8> {
    let choice = Reader::new(response).object().ok()??.value;
    let error = Reader::inside(choice, 0xa1).ok()?;
    let mut fields = error;
    let _ = fields.optional(0x80).ok()?;
    match fields.expect(0x02).ok()?.value {
        [code] => Some(*code),
        _ => None,
    }
}

fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> Result<(), ErrorCode> {
    if key.verifies(message, signature) { Ok(()) } else { Err(ErrorCode::InvalidSignature) }
}

fn error(request: &[u8], tag: u16, code: ErrorCode) -> Vec<u8> {
    let named = || Reader::new(Reader::inside(request, tag)?.expect(0x30)?.value).expect(0x80);
    // Zero stands for a transaction that does not read.
    let transaction_id = named().map_or(&[0][..], |id| id.value);
    tlv(tag, &[&tlv(0xa1, &[&tlv(0x80, &[transaction_id]), &tlv(0x02, &[&[code.number()]])])])
}
