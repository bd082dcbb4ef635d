//! Sessions of SCP11a and SCP11c (docs/cycles/scp11.md).
//!
//! The platform's static key stays in the token. Its one-time key is made of a seed in the token, for one session, in zeroized
//! worker memory; so is everything that is derived. Between the two calls of a session nothing is kept but what it is made of.

use domain::{Eid, PrincipalId};
use keys::scp11::{CardAnswer, RECEIPT_BYTES, SessionTerms};
use serde::{Deserialize, Serialize};

use crate::error::HsmError;
use crate::key::KeyRef;

/// A session: what its one-time key is made of.
#[derive(Debug, Clone)]
pub struct Scp11Session {
    /// A key of the role oce-agreement.
    pub agreement: KeyRef,
    /// A key of the role oce-seed.
    pub seed: KeyRef,
    /// SHA-256 over all that the session is for, a random part of it included: another context, another one-time key.
    pub context: [u8; 32],
    /// What it is to be.
    pub terms: SessionTerms,
}

/// The second part of a session: the agreement, the card's proof, the keys sealed.
#[derive(Debug, Clone)]
pub struct Scp11Job {
    /// As in the first part.
    pub session: Scp11Session,
    /// PK.SD.ECKA as it is registered: an uncompressed point of P-256.
    pub card_key: [u8; 65],
    /// What the card answered; none: released without any proof, which only SCP11c can be.
    pub answer: Option<CardAnswer>,
    /// For whom and for what the keys are: of it the HPKE info is made.
    pub sealing: Scp11Sealing,
    /// To whom they are sealed: an uncompressed P-256 point.
    pub recipient: Box<[u8; 65]>,
}

/// [`keys::scp11::Sealing`], owned.
#[derive(Debug, Clone)]
pub struct Scp11Sealing {
    /// Who asked.
    pub principal: PrincipalId,
    /// The device.
    pub eid: Eid,
    /// Of the card's key.
    pub kvn: u8,
    /// The session.
    pub session_id: [u8; 16],
    /// The caller's.
    pub request_id: Vec<u8>,
}

/// What [`Scp11Job`] ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scp11Outcome {
    /// The card proved itself, or none was asked to. Opens into [`keys::scp11::OpenedKeys::decode`].
    Released {
        /// HPKE encapsulated key, an uncompressed P-256 point.
        encapsulated_key: [u8; 65],
        /// The sealed keys.
        ciphertext: Vec<u8>,
    },
    /// The receipt is not that of the card with this key.
    NotProved,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireScp11 {
    /// Agreement and seed.
    pub(crate) keys: [KeyRef; 2],
    pub(crate) context: [u8; 32],
    pub(crate) variant: u8,
    pub(crate) enciphered: bool,
    pub(crate) key_bytes: u8,
    /// None: only the one-time public key is asked for.
    pub(crate) agreement: Option<WireAgreement>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireAgreement {
    pub(crate) card_key: Vec<u8>,
    /// The card's key of this session and its receipt.
    pub(crate) answer: Option<(Vec<u8>, [u8; RECEIPT_BYTES])>,
    pub(crate) principal: [u8; 32],
    pub(crate) eid: [u8; 16],
    pub(crate) kvn: u8,
    pub(crate) session_id: [u8; 16],
    pub(crate) request_id: Vec<u8>,
    pub(crate) recipient: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireScp11Outcome {
    OneTimeKey(Vec<u8>),
    Released { encapsulated_key: Vec<u8>, ciphertext: Vec<u8> },
    NotProved,
}

impl Scp11Session {
    pub(crate) fn wire(self, agreement: Option<WireAgreement>) -> WireScp11 {
        WireScp11 {
            keys: [self.agreement, self.seed],
            context: self.context,
            variant: self.terms.variant.code(),
            enciphered: self.terms.enciphered,
            key_bytes: self.terms.key_bytes,
            agreement,
        }
    }
}

impl Scp11Job {
    pub(crate) fn wire(self) -> WireScp11 {
        let Scp11Sealing { principal, eid, kvn, session_id, request_id } = self.sealing;
        let agreement = WireAgreement {
            card_key: self.card_key.to_vec(),
            answer: self.answer.map(|answer| (answer.public_key.to_vec(), answer.receipt)),
            principal: principal.0,
            eid: *eid.bcd(),
            kvn,
            session_id,
            request_id,
            recipient: self.recipient.to_vec(),
        };
        self.session.wire(Some(agreement))
    }
}

impl WireScp11 {
    pub(crate) fn terms(&self) -> Result<SessionTerms, HsmError> {
        SessionTerms::new(self.variant.into(), self.enciphered, self.key_bytes.into())
            .ok_or_else(|| HsmError::caller("the job names no session of SCP11"))
    }
}
