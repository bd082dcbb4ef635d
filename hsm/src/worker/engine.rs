//! Does jobs on one session, and takes the one action each class of error has.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use domain::{Curve, NoEuiccCurve, OrderFormat};

use super::incoming::Incoming;
use super::open::{OpenToken, ResolvedKey, sign, sign_message};
use super::order_form::ChunkTransport;
use super::source::OpenKeysets;
use super::stored::OpenStorage;
use super::token_session::TokenSession;
use super::{derive, export, key_pairs, order, ota, put_key, rsp, scp03, scp11, tls_psk};
use crate::error::{ErrorClass, HsmError};
use crate::key::{KeyKind, KeyRef, KeyRole};
use crate::protocol::{Job, JobOutput, Usage, WireDelivery, WireSecret};
use crate::rsp::RspInput;
use crate::wire_keysets::WireKeysets;
use crate::wire_signature::{WireDigest, WireSignature};

/// One worker thread's view of the token.
pub(super) struct Engine {
    token: Arc<OpenToken>,
    pub(super) session: TokenSession,
    delay: Duration,
    poison: Option<HsmError>,
}

impl Engine {
    pub(super) fn new(token: &Arc<OpenToken>, delay: Duration) -> Result<Self, HsmError> {
        let session = token.module.open_session(token.slot)?;
        Ok(Self { token: Arc::clone(token), session, delay, poison: None })
    }

    /// What this session used since the last time.
    pub(super) fn take_usage(&self) -> Usage {
        self.session.take_usage()
    }

    /// Why this worker must be replaced, if it must.
    pub(super) fn take_poison(&mut self) -> Option<HsmError> {
        self.poison.take()
    }

    /// Runs a job to its end. Jobs leave nothing on the token, so one that met a stale handle or a broken session is
    /// simply done again, once.
    pub(super) fn run(&mut self, job: Job, deadline: Option<Instant>) -> Result<JobOutput, HsmError> {
        let first = self.execute(&job, deadline);
        let result = match first {
            Err(error) if error.class == ErrorClass::Handle => self
                .find_again(&job)
                // Gone, or another key under the same name: the token was initialised again.
                .map_err(|e| HsmError { class: ErrorClass::Token, ..e })
                .and_then(|()| self.execute(&job, deadline)),
            Err(error) if error.class == ErrorClass::Session => {
                self.reopen().and_then(|()| self.execute(&job, deadline))
            }
            other => other,
        };
        match (result, job) {
            (Ok(output), _) => Ok(output),
            (Err(error), Job::Canary) => {
                let error = HsmError { class: ErrorClass::Token, ..error };
                self.poison = Some(error.clone());
                Err(error)
            }
            (Err(error), _) => Err(self.judge(error)),
        }
    }

    fn execute(&self, job: &Job, deadline: Option<Instant>) -> Result<JobOutput, HsmError> {
        let session = &self.session;
        match job {
            Job::Sign { key, digests } => {
                let key = self.key_of(key, |_, role| !role.is_bound_to_a_purpose())?;
                let mut signatures = Vec::with_capacity(digests.len());
                for WireDigest(digest) in digests {
                    order::in_time(deadline)?;
                    self.dawdle();
                    let signature = sign(session, key.registered.role.kind(), key.handle, digest)?;
                    signatures.push(WireSignature(signature));
                }
                Ok(JobOutput::Signatures(signatures))
            }
            Job::SignMessage { key, message } => {
                let key = self.key_of(key, |kind, _| kind == KeyKind::Ed25519)?;
                self.dawdle();
                let signature = sign_message(session, key.registered.role.kind(), key.handle, message)?;
                Ok(JobOutput::MessageSignature(signature.to_vec()))
            }
            Job::SessionKeys(job) => {
                let keysets = self.keysets(&job.keysets)?;
                let wrapping = match &job.delivery {
                    WireDelivery::Wrapped(key) => {
                        Some(self.key_of(key, |_, role| role == KeyRole::PartyTransport)?)
                    }
                    WireDelivery::Sealed(_) | WireDelivery::InClear => None,
                };
                self.dawdle();
                scp03::session_keys(
                    session,
                    &self.token.abilities,
                    &keysets.get(0)?,
                    job,
                    wrapping.as_deref(),
                )
            }
            Job::OrderChunk(job) => {
                let token_keys = job
                    .keys
                    .token_keys()
                    .into_iter()
                    .map(|key| self.token.key(key))
                    .collect::<Result<Vec<_>, HsmError>>()?;
                let source = order::OrderSource::open(&token_keys, &self.token.abilities)?;
                let format =
                    OrderFormat::from_code(job.format).map_err(|e| HsmError::caller(e.to_string()))?;
                let (abilities, boundary) = (&self.token.abilities, self.token.boundary);
                let transport = ChunkTransport::generate(session, abilities, boundary, format)?;
                order::order_chunk(session, abilities, &source, job, &transport, || {
                    self.dawdle();
                    order::in_time(deadline)
                })
            }
            Job::KeyPairs { curve, recipient_spki, count } => {
                self.dawdle();
                let curve = Curve::from_code(*curve).map_err(|e| HsmError::caller(e.to_string()))?;
                let curve = curve.try_into().map_err(|e: NoEuiccCurve| HsmError::caller(e.to_string()))?;
                key_pairs::key_pairs(session, &self.token.abilities, curve, recipient_spki, *count, deadline)
            }
            Job::PutKey(job) => {
                let (old, new) = (self.keysets(&job.old)?, self.keysets(&job.new)?);
                put_key::put_key(session, &self.token.abilities, &old, &new, || {
                    self.dawdle();
                    order::in_time(deadline)
                })
            }
            Job::Export(job) => {
                let keysets = self.keysets(&job.keysets)?;
                self.dawdle();
                let party = match &job.party_key {
                    Some(key) => Some(self.key_of(key, |_, role| role == KeyRole::PartyTransport)?),
                    None => None,
                };
                let recipient = match &party {
                    Some(key) => export::Recipient::Party(key),
                    None => export::Recipient::Rsa(&job.party_spki),
                };
                export::export(session, &self.token.abilities, &keysets.get(0)?, &recipient)
            }
            Job::CardProofs(job) => {
                let keysets = self.keysets(&job.keysets)?;
                let mut outcomes = Vec::with_capacity(job.proofs.len());
                for (at, proof) in job.proofs.iter().enumerate() {
                    order::in_time(deadline)?;
                    self.dawdle();
                    outcomes.push(scp03::card_proof(session, &keysets.get(at)?, proof)?);
                }
                Ok(JobOutput::CardProofs(outcomes))
            }
            Job::ServiceSecret { key, context } => {
                let key = self.key_of(key, |_, role| matches!(role, KeyRole::LogMac | KeyRole::Pseudonym))?;
                derive::service_secret(session, key.handle, context)
                    .map(|secret| JobOutput::Secret(WireSecret(secret)))
            }
            Job::RspSign(job) => {
                let input = RspInput::try_from(&job.input)?;
                let key = self.key_of(&job.key, |_, role| input.is_for(role))?;
                self.dawdle();
                rsp::rsp_sign(session, &key, &input)
            }
            Job::RspBind(job) => {
                let key = self.key_of(&job.key, |_, role| matches!(role, KeyRole::RspPb(_)))?;
                self.dawdle();
                rsp::rsp_bind(session, &self.token.abilities, &key, job)
            }
            Job::Ota(job) => {
                let keysets = self.keysets(&job.keysets)?;
                ota::ota(session, &self.token.abilities, &keysets, &job.work, || {
                    self.dawdle();
                    order::in_time(deadline)
                })
                .map(JobOutput::Ota)
            }
            Job::Incoming(job) => {
                let [under, kek, blob_mac] = &job.keys;
                let under = self.key_of(under, |_, role| role == KeyRole::PartyImport)?;
                let kek = self.key_of(kek, |_, role| role == KeyRole::Kek)?;
                let blob_mac = self.key_of(blob_mac, |_, role| role == KeyRole::BlobMac)?;
                let wrapping = self.token.abilities.wrapping();
                let storage = OpenStorage { kek: &kek, blob_mac: &blob_mac, kwp: wrapping.kwp()? };
                let incoming = Incoming { under: &under, storage, wrapping, boundary: self.token.boundary };
                incoming
                    .take(session, job, || {
                        self.dawdle();
                        order::in_time(deadline)
                    })
                    .map(JobOutput::Incoming)
            }
            Job::TlsSecret(job) => {
                let keysets = self.keysets(&job.keysets)?;
                self.dawdle();
                tls_psk::tls_secret(session, self.token.boundary, &keysets.get(0)?, job)
            }
            Job::Scp11(job) => {
                let [agreement, seed] = &job.keys;
                let agreement = self.key_of(agreement, |_, role| role == KeyRole::OceAgreement)?;
                let seed = self.key_of(seed, |_, role| role == KeyRole::OceSeed)?;
                self.dawdle();
                scp11::scp11(session, (&agreement, &seed), job)
            }
            Job::CheckValues(keysets) => {
                let keysets = self.keysets(keysets)?;
                let mut all = Vec::with_capacity(keysets.len());
                for at in 0..keysets.len() {
                    order::in_time(deadline)?;
                    self.dawdle();
                    all.push(order::check_values(session, &keysets.get(at)?)?);
                }
                Ok(JobOutput::CheckValues(all))
            }
            Job::AddKey(key) => self.token.add(session, key.clone()).map(|()| JobOutput::Done),
            Job::Canary => self.token.canary(session).map(|()| JobOutput::Done),
        }
    }

    fn keysets<'j>(&self, keysets: &'j WireKeysets) -> Result<OpenKeysets<'j>, HsmError> {
        let (boundary, wrapping) = (self.token.boundary, self.token.abilities.wrapping());
        OpenKeysets::open(keysets, (boundary, wrapping), |key| self.token.key(key))
    }

    fn key_of(
        &self,
        key: &KeyRef,
        fits: impl FnOnce(KeyKind, KeyRole) -> bool,
    ) -> Result<Arc<ResolvedKey>, HsmError> {
        let found = self.token.key(key)?;
        let role = found.registered.role;
        if fits(role.kind(), role) {
            Ok(found)
        } else {
            Err(HsmError::caller(format!("key {key} is a {} and does not do that", role.as_str())))
        }
    }

    /// A stale handle: the object is searched and checked again. One that is gone means another token.
    fn find_again(&self, job: &Job) -> Result<(), HsmError> {
        let keys: HashSet<&KeyRef> = job.token_keys().into_iter().collect();
        keys.into_iter().try_for_each(|key| self.token.find_again(&self.session, key))
    }

    /// The new session first: closing the last one would end the login.
    fn reopen(&mut self) -> Result<(), HsmError> {
        self.session = self.token.module.open_session(self.token.slot)?;
        Ok(())
    }

    /// Decides whether an error that is left is the input's fault or the token's; the token's ends this worker.
    fn judge(&mut self, error: HsmError) -> HsmError {
        let fatal = match error.class {
            ErrorClass::Caller
            | ErrorClass::Blob
            | ErrorClass::Policy
            | ErrorClass::Deadline
            | ErrorClass::Overloaded
            | ErrorClass::ShuttingDown
            | ErrorClass::Capacity => return error,
            ErrorClass::Token | ErrorClass::Handle | ErrorClass::Session => {
                match self.token.canary(&self.session) {
                    // "General error" on a token that is well: what it was given is bad.
                    Ok(()) if error.is_ambiguous() => return HsmError { class: ErrorClass::Blob, ..error },
                    Ok(()) => return error,
                    Err(canary) => HsmError { class: ErrorClass::Token, ..error.clone() }
                        .context(&format!("the canary fails too ({canary})")),
                }
            }
            ErrorClass::Login => error.clone(),
            ErrorClass::Pin => error.clone(),
        };
        self.poison = Some(fatal.clone());
        fatal
    }

    /// Bench only: a slower token.
    fn dawdle(&self) {
        if !self.delay.is_zero() {
            thread::sleep(self.delay);
        }
    }
}
