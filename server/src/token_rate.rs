//! `chanceryd token-rate`: what the tokens do by themselves, for comparison with the service in front of them.
//!
//! The jobs are the service's own, so the token gets the same calls: session keys for cards whose cryptograms hold,
//! signatures over digests, chunks of an order, PUT KEY blocks and card proofs of a rotation.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use domain::{
    Curve, DeviceKeyset, Eid, EuiccCurve, KeyVersionNumber, KeysetAlgorithm, PrincipalId, Protocol,
    SecurityDomain,
};
use hsm::{
    CardProof, CardProofJob, CardSession, Delivery, Digest, ErrorClass, HsmError, KeyRef, KeyRole,
    OrderChunkJob, OrderKeys, Priority, PutKeyDevice, PutKeyJob, RspBindJob, RspInput, SessionContext,
    SessionKeysJob, SessionKeysOutcome, SourcedKeyset, Token,
};
use keys::bsp::ProfileProtection;
use keys::rsp::{SmdpSigned2, TransactionId};
use serde::Deserialize;
use serde_json::json;

use crate::command::RateKind;
use crate::config::Config;
use crate::serve::{ServeError, open_records};
use crate::tokens;

/// Jobs in flight: enough to keep every worker busy.
const IN_FLIGHT: u64 = 64;
/// Chunks in flight; each is many devices of work.
const CHUNKS_IN_FLIGHT: u64 = 8;
/// Devices of a measured chunk.
const CHUNK_DEVICES: u64 = 250;
/// Devices of a measured batch of a rotation.
const BATCH: u64 = 100;

/// The measuring itself, as opposed to the token, failed.
fn malformed() -> HsmError {
    HsmError::new(ErrorClass::Caller, "the measuring job is malformed")
}

/// Runs one kind of job for a while and reports rate and time inside the token as a line of JSON. Session keys need
/// `devices`, a file with a [`DeviceLine`] per line. A job that fails, or a card that is not believed, ends it.
pub(crate) async fn measure(
    config: &Config,
    kind: RateKind,
    devices: Option<&Path>,
    seconds: u64,
) -> Result<String, ServeError> {
    let (name, role) = match kind {
        RateKind::SessionKeys | RateKind::Order | RateKind::PutKey | RateKind::CardProof => {
            ("kms", KeyRole::Master)
        }
        RateKind::Sign => ("ca", KeyRole::CertificateIssuer(Curve::P256)),
        RateKind::Rsp => (crate::config::RSP_TOKEN, KeyRole::RspPb(EuiccCurve::P256)),
    };
    let mut work = Work::prepare(kind, devices)?;
    let records = open_records(config).await?;
    let keys = ca::KeyRegistration::all(records.store.as_ref()).map_err(crate::status::ServiceError::from)?;
    if let Work::Rsp { auth, .. } = &mut work {
        *auth = keys
            .iter()
            .find(|key| key.key.role == KeyRole::RspAuth(EuiccCurve::P256))
            .map(|key| key.key.key.clone());
    }
    let failed = |source| ServeError::Token { token: name, source };
    let token = tokens::start(config, name, &keys).await.map_err(failed)?;
    // Of several masters the one that keysets are made under now.
    let is_for = |key: &KeyRole| *key == role || (role == KeyRole::Master && *key == KeyRole::FastMaster);
    let key = keys
        .iter()
        .filter(|key| is_for(&key.key.role))
        .max_by_key(|key| key.epoch)
        .map(|key| key.key.key.clone())
        .ok_or(ServeError::Foundation("the token lacks the key to measure with"))?;
    let before = token.counters();
    let started = Instant::now();
    let outcome = run_for(&token, &key, &Arc::new(work), started + Duration::from_secs(seconds)).await;
    let elapsed = started.elapsed();
    let after = token.counters();
    token.shutdown().await;
    records.store.shutdown();
    records.log_token.shutdown().await;
    let operations = outcome.map_err(failed)?;
    let per = |amount: u64| if operations == 0 { 0.0 } else { amount as f64 / operations as f64 };
    Ok(json!({
        "kind": kind.as_str(),
        "operations": operations,
        "seconds": elapsed.as_secs_f64(),
        "per_second": operations as f64 / elapsed.as_secs_f64(),
        "token_us_per_operation": per(after.busy_us - before.busy_us),
        "pkcs11_calls_per_operation": per(after.pkcs11_calls - before.pkcs11_calls),
    })
    .to_string())
}

async fn run_for(token: &Token, key: &KeyRef, work: &Arc<Work>, end: Instant) -> Result<u64, HsmError> {
    let in_flight = match **work {
        Work::Order { .. } | Work::PutKey | Work::CardProof => CHUNKS_IN_FLIGHT,
        Work::SessionKeys { .. } | Work::Sign | Work::Rsp { .. } => IN_FLIGHT,
    };
    let next = Arc::new(AtomicU64::new(0));
    let lanes: Vec<_> = (0..in_flight)
        .map(|_| {
            let (token, key, next, work) = (token.clone(), key.clone(), Arc::clone(&next), Arc::clone(work));
            tokio::spawn(async move {
                let mut done = 0;
                while Instant::now() < end {
                    done += work.run(&token, &key, next.fetch_add(1, Ordering::Relaxed)).await?;
                }
                Ok::<u64, HsmError>(done)
            })
        })
        .collect();
    let mut operations = 0;
    for lane in lanes {
        operations += lane.await.map_err(|_| malformed())??;
    }
    Ok(operations)
}

/// A line of the devices file: a keyset and a card's proof under it. Bytes in hex.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceLine {
    eid: String,
    kvn: u32,
    host_challenge: String,
    card_challenge: String,
    card_cryptogram: String,
}

/// A card's proof, ready to be put into a job.
struct Proof {
    keyset: DeviceKeyset,
    session: CardSession,
}

/// What the token is kept busy with.
enum Work {
    SessionKeys { proofs: Vec<Proof>, recipient: [u8; 65] },
    Sign,
    Order { recipient_spki: Vec<u8> },
    PutKey,
    CardProof,
    Rsp { auth: Option<KeyRef>, peer: [u8; 65] },
}

impl Work {
    fn prepare(kind: RateKind, devices: Option<&Path>) -> Result<Self, ServeError> {
        const NO_KEY: ServeError = ServeError::Foundation("a recipient's key cannot be made");
        match kind {
            RateKind::Sign => Ok(Self::Sign),
            RateKind::PutKey => Ok(Self::PutKey),
            RateKind::CardProof => Ok(Self::CardProof),
            RateKind::Rsp => {
                let peer = PrivateKey::generate(&ECDH_P256).map_err(|_| NO_KEY)?;
                let point = peer.compute_public_key().map_err(|_| NO_KEY)?;
                Ok(Self::Rsp { auth: None, peer: point.as_ref().try_into().map_err(|_| NO_KEY)? })
            }
            RateKind::Order => {
                let private = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa3072).map_err(|_| NO_KEY)?;
                let public = aws_lc_rs::signature::KeyPair::public_key(&private);
                let spki: PublicKeyX509Der<'_> = public.as_der().map_err(|_| NO_KEY)?;
                Ok(Self::Order { recipient_spki: spki.as_ref().to_vec() })
            }
            RateKind::SessionKeys => {
                let path =
                    devices.ok_or(ServeError::Foundation("session keys are measured with --devices"))?;
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ServeError::Read { path: path.to_owned(), source })?;
                let proofs: Option<Vec<Proof>> = text.lines().map(proof).collect();
                let proofs = proofs
                    .filter(|proofs| !proofs.is_empty())
                    .ok_or(ServeError::Foundation("the devices file does not hold what it should"))?;
                let recipient = PrivateKey::generate(&ECDH_P256).map_err(|_| NO_KEY)?;
                let point = recipient.compute_public_key().map_err(|_| NO_KEY)?;
                let recipient = point.as_ref().try_into().map_err(|_| NO_KEY)?;
                Ok(Self::SessionKeys { proofs, recipient })
            }
        }
    }

    /// One job; returns how many operations it was.
    async fn run(&self, token: &Token, key: &KeyRef, number: u64) -> Result<u64, HsmError> {
        match self {
            Self::Sign => {
                let mut digest = [0; 32];
                digest[..8].copy_from_slice(&number.to_be_bytes());
                let options = tokens::own_call(Priority::Normal);
                token.sign(key, &[Digest::sha256(digest)], options).await?;
                Ok(1)
            }
            Self::Rsp { auth, peer } => {
                let auth = auth.as_ref().ok_or_else(malformed)?;
                let options = || tokens::own_call(Priority::Normal);
                let id =
                    TransactionId([number.to_be_bytes(); 2].concat().try_into().map_err(|_| malformed())?);
                let signed = SmdpSigned2 { transaction_id: id, confirmation_code_required: false }.encode();
                token.rsp_sign(auth, RspInput::ServerSigned1(signed.clone()), options()).await?;
                let input = RspInput::SmdpSigned2 { smdp_signed2: signed, euicc_signature1: [7; 64] };
                token.rsp_sign(key, input, options()).await?;
                let job = RspBindJob {
                    key: key.clone(),
                    euicc_key: *peer,
                    transaction_id: id,
                    host_id: b"bench".to_vec(),
                    eid: eids(number % 1_000, 1)?.remove(0),
                    protection: ProfileProtection::SessionKeys,
                    recipient: *peer,
                    info: Vec::new(),
                };
                token.rsp_bind(job, options()).await?;
                Ok(1)
            }
            Self::SessionKeys { proofs, recipient } => {
                let at = usize::try_from(number).unwrap_or(0) % proofs.len();
                let proof = &proofs[at];
                let job = SessionKeysJob {
                    keyset: SourcedKeyset::derived(key.clone(), proof.keyset),
                    session: proof.session.clone(),
                    context: SessionContext {
                        principal: PrincipalId([0; 32]),
                        request_id: b"token-rate".to_vec(),
                    },
                    delivery: Delivery::Sealed { recipient: Box::new(*recipient) },
                };
                match token.session_keys(job, tokens::own_call(Priority::Normal)).await? {
                    SessionKeysOutcome::Released(_) => Ok(1),
                    // It would stop half way and be measured as too fast.
                    SessionKeysOutcome::CardCryptogramMismatch
                    | SessionKeysOutcome::CardChallengeMismatch => Err(HsmError::new(
                        ErrorClass::Caller,
                        "a cryptogram of the devices file does not hold",
                    )),
                }
            }
            Self::Order { recipient_spki } => {
                let job = OrderChunkJob {
                    format: domain::OrderFormat::JsonlKwp,
                    keys: OrderKeys::Derived { master: key.clone() },
                    protocol: Protocol::Scp03,
                    security_domain: SecurityDomain::IsdR,
                    kvn: kvn(0x30)?,
                    algorithm: KeysetAlgorithm::Aes128,
                    recipient_spki: recipient_spki.clone(),
                    eids: eids(number, CHUNK_DEVICES)?,
                };
                token.order_chunk(job, tokens::own_call(Priority::Bulk)).await?;
                Ok(CHUNK_DEVICES)
            }
            Self::PutKey => {
                let device = |eid| {
                    Ok::<_, HsmError>(PutKeyDevice {
                        old: keyset(key, eid, 0x30, KeysetAlgorithm::Aes128)?,
                        new: keyset(key, eid, 0x31, KeysetAlgorithm::Aes256)?,
                    })
                };
                let devices = eids(number, BATCH)?.into_iter().map(device).collect::<Result<_, _>>()?;
                let job = PutKeyJob { devices };
                token.put_key(job, tokens::own_call(Priority::Bulk)).await?;
                Ok(BATCH)
            }
            Self::CardProof => {
                // Whether a cryptogram holds makes no difference to the work.
                let proof = |eid| {
                    Ok::<_, HsmError>(CardProof {
                        keyset: keyset(key, eid, 0x31, KeysetAlgorithm::Aes256)?,
                        host_challenge: [1; 8],
                        card_challenge: [2; 8],
                        card_cryptogram: [3; 8],
                    })
                };
                let proofs = eids(number, BATCH)?.into_iter().map(proof).collect::<Result<_, _>>()?;
                token.card_proofs(CardProofJob { proofs }, tokens::own_call(Priority::Normal)).await?;
                Ok(BATCH)
            }
        }
    }
}

/// The devices of one batch, each batch others.
fn eids(number: u64, devices: u64) -> Result<Vec<Eid>, HsmError> {
    let first = number * devices;
    (first..first + devices)
        .map(|body| Eid::from_body(&format!("89049032{body:022}")).map_err(|_| malformed()))
        .collect()
}

/// A derived keyset of a device's ISD-R.
fn keyset(
    master: &KeyRef,
    eid: Eid,
    number: u32,
    algorithm: KeysetAlgorithm,
) -> Result<SourcedKeyset, HsmError> {
    let keyset = DeviceKeyset {
        eid,
        protocol: Protocol::Scp03,
        security_domain: SecurityDomain::IsdR,
        kvn: kvn(number)?,
        algorithm,
    };
    Ok(SourcedKeyset::derived(master.clone(), keyset))
}

fn kvn(value: u32) -> Result<KeyVersionNumber, HsmError> {
    KeyVersionNumber::scp03(value).map_err(|_| malformed())
}

fn proof(line: &str) -> Option<Proof> {
    let line: DeviceLine = serde_json::from_str(line).ok()?;
    let eid: Eid = line.eid.parse().ok()?;
    let kvn = KeyVersionNumber::scp03(line.kvn).ok()?;
    Some(Proof {
        keyset: DeviceKeyset {
            eid,
            protocol: Protocol::Scp03,
            security_domain: SecurityDomain::IsdR,
            kvn,
            algorithm: KeysetAlgorithm::Aes128,
        },
        session: CardSession::Present {
            host_challenge: hex::decode(&line.host_challenge).ok()?,
            card_challenge: hex::decode(&line.card_challenge).ok()?,
            card_cryptogram: hex::decode(&line.card_cryptogram).ok()?,
            origin: None,
        },
    })
}
