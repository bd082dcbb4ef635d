//! SCP11 sessions: the jobs on their way to a worker and back.

use super::wire::{received, unexpected};
use super::{CallOptions, HsmError, Job, JobOutput, KeyRef, KeyRole, Token};
use crate::rsp::fixed;
use crate::scp11::{Scp11Job, Scp11Outcome, Scp11Session, WireScp11Outcome};

impl Token {
    /// ePK.OCE.ECKA of a session, an uncompressed point: the same for the same session.
    pub async fn scp11_one_time_key(
        &self,
        session: Scp11Session,
        options: CallOptions,
    ) -> Result<[u8; 65], HsmError> {
        self.check_scp11(&session)?;
        match received(self.inner().submit(Job::Scp11(Box::new(session.wire(None))), options)?.await)? {
            JobOutput::Scp11(WireScp11Outcome::OneTimeKey(point)) => fixed(&point, "a one-time key"),
            other => Err(unexpected(&other)),
        }
    }

    /// Agrees with the card, checks its receipt and gives the session keys, sealed; see [`Scp11Job`]. A key of the card that is
    /// no point of P-256 is refused with class `caller`.
    pub async fn scp11(&self, job: Scp11Job, options: CallOptions) -> Result<Scp11Outcome, HsmError> {
        self.check_scp11(&job.session)?;
        let points = [Some(&job.card_key), job.answer.as_ref().map(|answer| &answer.public_key)];
        if !points.into_iter().flatten().all(|point| ecc::is_point(domain::Curve::P256, point)) {
            return Err(HsmError::caller("a key of the card is no point of P-256"));
        }
        match received(self.inner().submit(Job::Scp11(Box::new(job.wire())), options)?.await)? {
            JobOutput::Scp11(WireScp11Outcome::Released { encapsulated_key, ciphertext }) => {
                let encapsulated_key = fixed(&encapsulated_key, "an encapsulated key")?;
                Ok(Scp11Outcome::Released { encapsulated_key, ciphertext })
            }
            JobOutput::Scp11(WireScp11Outcome::NotProved) => Ok(Scp11Outcome::NotProved),
            other => Err(unexpected(&other)),
        }
    }

    fn check_scp11(&self, session: &Scp11Session) -> Result<(), HsmError> {
        let is = |key: &KeyRef, role: KeyRole| -> Result<(), HsmError> {
            let found = self.inner().known_key(key)?.role;
            if found == role {
                return Ok(());
            }
            Err(HsmError::caller(format!("key {key} is a {}, no {}", found.as_str(), role.as_str())))
        };
        is(&session.agreement, KeyRole::OceAgreement)?;
        is(&session.seed, KeyRole::OceSeed)
    }
}
