//! OCSP: what the register says about a certificate, signed by the issuer's delegated responder. The steps of
//! `docs/cycles/ocsp.md`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use domain::{Curve, ReasonCode, Timestamp};
use hsm::{CallOptions, KeyCheck, KeyRef, KeyRole, RegisteredKey};
use pki::ocsp::{
    AnswerInputs, CertificateId, CertificateStatus, ErrorStatus, OcspRequest, SingleAnswer, ask, build,
    error_answer,
};
use pki::{Certificate, CertificateRole, CivilTime, PkiError, SerialNumber, SubjectValues};
use sha2::{Digest, Sha256};
use store::Store;

use crate::issuance::{CertificateRequest, SubjectKey};
use crate::issuers::{Issuer, KeyRegistration};
use crate::keyspaces::{HOLDER_CERTIFICATES, RESPONDERS};
use crate::register_key::{RegisterKey, Registered};
use crate::revocation::{listed, revocation_of};
use crate::{CaError, Engines};

/// How long a relying party may rely on an answer.
pub const OCSP_VALIDITY_SECONDS: i64 = 3_600;
/// A kept answer older than this is signed again, so that what is handed out is good for half an hour at least.
const KEPT_SECONDS: i64 = OCSP_VALIDITY_SECONDS / 2;
/// Kept answers of about 1 KiB each: at most twice this many.
const KEPT_MAX: usize = 20_000;
/// An answer that is made ahead is renewed at this age, so that nobody who asks waits for the token.
const AHEAD_SECONDS: i64 = KEPT_SECONDS / 2;
/// Certificates whose answers can be made ahead: those of parties and of the authority, not of devices.
pub const OCSP_AHEAD_MAX: usize = KEPT_MAX;
/// A responder's certificate is renewed when less than this is left of it: half of its validity.
const RENEW_BEFORE_SECONDS: i64 = 45 * 86_400;

/// The name under which the certificate of an issuer's responder stands in the register.
pub fn responder_name(issuer: &str) -> String {
    format!("ocsp-{issuer}")
}

/// An answer and how it may be kept by caches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OcspAnswer {
    /// OCSPResponse, DER.
    pub der: Vec<u8>,
    /// Present when others who ask the same may get the same: until when it is right, and since when.
    pub validity: Option<(Timestamp, Timestamp)>,
}

/// Answers one process keeps, and how often it answered.
#[derive(Default)]
pub struct Responder {
    kept: Mutex<Kept>,
    current: Mutex<HashMap<String, Arc<Delegate>>>,
    /// Answers that were signed.
    pub signed: AtomicU64,
    /// Answers that were kept from before.
    pub repeated: AtomicU64,
    /// Questions that got an unsigned error.
    pub refused: AtomicU64,
    /// Answers that were signed before anybody asked.
    pub ahead: AtomicU64,
}

/// Two generations: what nobody asked for in the time the young one took to fill is forgotten.
#[derive(Default)]
struct Kept {
    young: HashMap<[u8; 32], KeptAnswer>,
    old: HashMap<[u8; 32], KeptAnswer>,
}

#[derive(Clone)]
struct KeptAnswer {
    status: CertificateStatus,
    signed_at: Timestamp,
    der: Arc<[u8]>,
}

/// When an answer was signed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// For whoever asks.
    Now,
    /// For somebody who asked before, or ahead.
    Before,
}

/// An issuer's responder: its key and certificate.
struct Delegate {
    issuer: Arc<Issuer>,
    serial: Vec<u8>,
    key: KeyRef,
    certificate: Certificate,
}

impl Responder {
    /// The answer to a request. Never an error: what cannot be answered is one of OCSP's own (RFC 6960 §2.3).
    ///
    /// The register is read for every answer, kept or not: a revocation shows from the moment its commit is durable.
    pub async fn answer(
        &self,
        engines: &Engines,
        request: &[u8],
        now: Timestamp,
        options: CallOptions,
    ) -> OcspAnswer {
        let outcome = match OcspRequest::from_der(request) {
            Ok(request) => self.signed_answer(engines, &request, now, KEPT_SECONDS, options).await,
            Err(_) => Err(ErrorStatus::MalformedRequest),
        };
        let (counter, answer) = match outcome {
            Ok((Made::Now, answer)) => (&self.signed, answer),
            Ok((Made::Before, answer)) => (&self.repeated, answer),
            Err(status) => (&self.refused, OcspAnswer { der: error_answer(status).to_vec(), validity: None }),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        answer
    }

    async fn signed_answer(
        &self,
        engines: &Engines,
        request: &OcspRequest,
        now: Timestamp,
        kept_seconds: i64,
        options: CallOptions,
    ) -> Result<(Made, OcspAnswer), ErrorStatus> {
        let store = engines.store.as_ref();
        // 2. Whose certificates? A delegated responder speaks for one issuer.
        let delegate =
            self.find(engines, &request.questions).map_err(status_of)?.ok_or(ErrorStatus::Unauthorized)?;
        // 3. What does the register say now?
        let mut answers = Vec::with_capacity(request.questions.len());
        for id in &request.questions {
            let status = status(store, &delegate.issuer, id).map_err(status_of)?;
            answers.push(SingleAnswer { id: id.clone(), status });
        }
        // 4. The same answer from before, if it still says so.
        let alone = match (&request.nonce, answers.as_slice()) {
            (None, [only]) => Some((digest(only.id.der(), &delegate.serial), only.status)),
            _ => None,
        };
        if let Some((key, status)) = alone
            && let Some(kept) = self.kept(&key, status, now, kept_seconds)
        {
            let answer = OcspAnswer { der: kept.der.to_vec(), validity: Some(validity(kept.signed_at)) };
            return Ok((Made::Before, answer));
        }
        // 5. to 7. Build, sign, verify.
        let to_second = |time| CivilTime::from_timestamp(time).map_err(|_| ErrorStatus::InternalError);
        let data = build(&AnswerInputs {
            responder: &delegate.certificate,
            answers,
            this_update: to_second(now)?,
            next_update: to_second(validity(now).1)?,
            nonce: request.nonce.clone(),
        })
        .map_err(|_| ErrorStatus::InternalError)?;
        // Verified below, in the answer itself.
        let signatures = engines
            .token
            .danger_sign_unverified(&delegate.key, &[data.digest()], options)
            .await
            .map_err(|error| status_of(error.into()))?;
        let signature = signatures.first().ok_or(ErrorStatus::InternalError)?;
        let der = data.assemble(signature).map_err(|error| {
            if matches!(error, PkiError::SignatureInvalid) {
                // Counted and logged there.
                let _ = engines.token.signature_failed(&delegate.key);
            }
            ErrorStatus::InternalError
        })?;
        if let Some((key, status)) = alone {
            self.keep(key, KeptAnswer { status, signed_at: now, der: der.as_slice().into() });
        }
        Ok((Made::Now, OcspAnswer { der, validity: alone.map(|_| validity(now)) }))
    }

    /// Signs the answers about so many certificates of parties and of the authority before anybody asks (without nonce, identifiers by SHA-1 as
    /// RFC 5019 §2.1.1 wants them): those that are not kept, or will not be for long. Returns how many. The first that the token
    /// does not sign ends it; the next turn goes on.
    pub async fn sign_ahead(
        &self,
        engines: &Engines,
        at_most: usize,
        now: Timestamp,
        options: impl Fn() -> CallOptions,
    ) -> Result<usize, CaError> {
        let store = engines.store.as_ref();
        let mut signed = 0;
        for (key, _) in store.scan(HOLDER_CERTIFICATES, &[], None, at_most.min(OCSP_AHEAD_MAX))? {
            let row = key.iter().position(|octet| *octet == 0).map(|at| &key[at + 1..]).unwrap_or_default();
            let found = Registered::of_key(store, RegisterKey::from_bytes(row))?;
            let Some(Registered { record, .. }) = found else { continue };
            if store.get(RESPONDERS, record.issuer.as_bytes())?.is_none() {
                continue;
            }
            let issuer = engines.issuers.find(store, &record.issuer)?;
            let serial = SerialNumber::from_bytes(&record.serial_number).map_err(CaError::Verification)?;
            let asked = ask(issuer.certificate()?, &serial, None).map_err(CaError::Verification)?;
            let Ok(request) = OcspRequest::from_der(&asked) else { continue };
            match self.signed_answer(engines, &request, now, AHEAD_SECONDS, options()).await {
                Ok((Made::Now, _)) => signed += 1,
                Ok((Made::Before, _)) => {}
                Err(_) => break,
            }
        }
        self.ahead.fetch_add(signed as u64, Ordering::Relaxed);
        Ok(signed)
    }

    /// The responder of the issuer that every question is about.
    fn find(&self, engines: &Engines, questions: &[CertificateId]) -> Result<Option<Arc<Delegate>>, CaError> {
        let store = engines.store.as_ref();
        for (name, row) in store.scan(RESPONDERS, &[], None, 1_000)? {
            let name = String::from_utf8(name).map_err(|_| CaError::Record("responder"))?;
            let issuer = engines.issuers.find(store, &name)?;
            let certificate = issuer.certificate()?;
            if questions.iter().all(|id| id.is_of(certificate)) {
                return self.delegate(store, issuer, &row.value).map(Some);
            }
        }
        Ok(None)
    }

    fn delegate(
        &self,
        store: &dyn Store,
        issuer: Arc<Issuer>,
        serial: &[u8],
    ) -> Result<Arc<Delegate>, CaError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(delegate) = current.get(&issuer.name)
            && delegate.serial == serial
            && delegate.issuer.version == issuer.version
        {
            return Ok(Arc::clone(delegate));
        }
        let certificate = certificate(store, serial)?;
        let key = responder_key(store, &issuer.name)?.ok_or(CaError::Record("responder"))?;
        let name = issuer.name.clone();
        let delegate = Arc::new(Delegate { issuer, serial: serial.to_vec(), key: key.key.key, certificate });
        current.insert(name, Arc::clone(&delegate));
        Ok(delegate)
    }

    fn kept(
        &self,
        key: &[u8; 32],
        status: CertificateStatus,
        now: Timestamp,
        seconds: i64,
    ) -> Option<KeptAnswer> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = kept.young.get(key).or_else(|| kept.old.get(key))?;
        // A clock that was set back makes no answer of the future.
        let fresh = answer.signed_at <= now && now < answer.signed_at.plus_seconds(seconds);
        (fresh && answer.status == status).then(|| answer.clone())
    }

    fn keep(&self, key: [u8; 32], answer: KeptAnswer) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.young.len() >= KEPT_MAX {
            kept.old = std::mem::take(&mut kept.young);
        }
        kept.young.insert(key, answer);
    }
}

/// A key on its way to be an issuer's responder: the issuer is the authority's own, certified, and has none; the key is named for it,
/// on its curve.
pub fn check_responder(engines: &Engines, issuer: &str, key: &RegisteredKey) -> Result<Arc<Issuer>, CaError> {
    let store = engines.store.as_ref();
    let invalid = |why: &str| CaError::refused(ReasonCode::InvalidField, why);
    let issuer = engines.issuers.find(store, issuer)?;
    if !issuer.party.is_empty() || !issuer.certificate()?.may_sign_crls() {
        return Err(invalid("only a certificate issuer (CI) of the authority has a responder"));
    }
    if responder_key(store, &issuer.name)?.is_some() {
        return Err(CaError::refused(ReasonCode::Conflict, "the issuer has a responder already"));
    }
    let curve = pki::curve_of(&issuer.public_key).map_err(|_| CaError::Record("issuer"))?;
    let role = KeyRole::OcspResponder(curve);
    if key.role != role || key.key.label != role.label(&issuer.name, 1) {
        return Err(invalid(
            "the key is none of the role ocsp-responder on the issuer's curve, of its name and epoch 1",
        ));
    }
    Ok(issuer)
}

/// The certificate request of an issuer's responder, when it needs a certificate: it has none, or less than half of its time
/// is left. Absent when there is no responder's key for the issuer.
pub fn responder_due(
    engines: &Engines,
    issuer: &str,
    now: Timestamp,
) -> Result<Option<CertificateRequest>, CaError> {
    let store = engines.store.as_ref();
    let Some(key) = responder_key(store, issuer)? else { return Ok(None) };
    if let Some(row) = store.get(RESPONDERS, issuer.as_bytes())? {
        let ends = Timestamp::from_seconds(certificate(store, &row.value)?.not_after().unix_seconds());
        if now.plus_seconds(RENEW_BEFORE_SECONDS) < ends {
            return Ok(None);
        }
    }
    let issuer = engines.issuers.find(store, issuer)?;
    responder_request(issuer, &key, engines.known_keys).map(Some)
}

/// What a responder's certificate is asked to say.
pub fn responder_request(
    issuer: Arc<Issuer>,
    key: &KeyRegistration,
    known_keys: pki::KnownKeys,
) -> Result<CertificateRequest, CaError> {
    let KeyCheck::PublicKey(spki) = &key.key.check else { return Err(CaError::Record("key")) };
    let own = issuer.certificate()?;
    let organization = own.organization().ok_or(CaError::Record("issuer"))?;
    let holder = responder_name(&issuer.name);
    Ok(CertificateRequest {
        profile: CertificateRole::OcspResponder.profile(),
        subject: SubjectValues {
            organization: Some(organization),
            common_name: Some(format!("OCSP responder of {}", issuer.name)),
            ..SubjectValues::default()
        },
        key: SubjectKey::without_proof(spki, known_keys)?,
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        permitted: Vec::new(),
        holder,
        certifies: None,
        renews: None,
        accreditation: None,
        issuer,
    })
}

fn responder_key(store: &dyn Store, issuer: &str) -> Result<Option<KeyRegistration>, CaError> {
    for curve in Curve::ALL {
        let found = KeyRegistration::find(store, &KeyRole::OcspResponder(curve).label(issuer, 1))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn certificate(store: &dyn Store, serial: &[u8]) -> Result<Certificate, CaError> {
    let found = Registered::of_key(store, RegisterKey::issued(serial))?;
    let record = found.ok_or(CaError::Record("responder"))?.record;
    Certificate::from_der(&record.der).map_err(CaError::Verification)
}

/// RFC 6960 §2.2: good only for what was issued; what was reserved and never issued is as unknown as what never was.
fn status(store: &dyn Store, issuer: &Issuer, id: &CertificateId) -> Result<CertificateStatus, CaError> {
    let serial = id.serial().as_bytes();
    let Some(Registered { record, .. }) = Registered::of_issuer(store, &issuer.name, serial)? else {
        return revoked_elsewhere(store, &issuer.name, serial);
    };
    Ok(match revocation_of(&record)? {
        Some(revocation) => CertificateStatus::Revoked {
            at: CivilTime::from_timestamp(revocation.at).map_err(|_| CaError::Record("certificate"))?,
            reason: revocation.reason,
        },
        None if record.state == "issued" => CertificateStatus::Good,
        None => CertificateStatus::Unknown,
    })
}

/// Of a certificate that the register does not have: what the issuer's last list from elsewhere said of it.
fn revoked_elsewhere(store: &dyn Store, issuer: &str, serial: &[u8]) -> Result<CertificateStatus, CaError> {
    let Some(revocation) = listed(store, issuer, serial)? else { return Ok(CertificateStatus::Unknown) };
    let at = CivilTime::from_timestamp(revocation.at).map_err(|_| CaError::Record("revocation"))?;
    Ok(CertificateStatus::Revoked { at, reason: revocation.reason })
}

fn validity(signed_at: Timestamp) -> (Timestamp, Timestamp) {
    (signed_at, signed_at.plus_seconds(OCSP_VALIDITY_SECONDS))
}

fn digest(id: &[u8], responder: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(responder);
    hasher.update([0]);
    hasher.update(id);
    hasher.finalize().into()
}

/// What a client should do: later, when a queue is full or a token away; a fault of ours otherwise.
fn status_of(error: CaError) -> ErrorStatus {
    let later = match &error {
        CaError::Token(error) => error.retry_after().is_some(),
        CaError::Refused(refused) => refused.refusal.reason == ReasonCode::Overloaded,
        _ => false,
    };
    if later {
        ErrorStatus::TryLater
    } else {
        tracing::error!(%error, "an OCSP question cannot be answered");
        ErrorStatus::InternalError
    }
}
