//! Session keys of SCP03: what a job says, and what comes of it.

use std::fmt;

use domain::PrincipalId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::KeyRef;
use crate::source::SourcedKeyset;

/// Session keys of one SCP03 session.
#[derive(Debug, Clone)]
pub struct SessionKeysJob {
    /// The card's keyset: AES, of SCP03.
    pub keyset: SourcedKeyset,
    /// The session, and what the card has shown.
    pub session: CardSession,
    /// For whom and for what the keys are: [`keys::seal::session_keys_info`] is made of it.
    pub context: SessionContext,
    /// How they leave.
    pub delivery: Delivery,
}

/// A session of a card. Challenges and cryptograms have 8 bytes in mode S8, 16 in S16, all the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardSession {
    /// The card has answered INITIALIZE UPDATE. Its keys are released only when its cryptogram is right.
    Present {
        /// The host's challenge.
        host_challenge: Vec<u8>,
        /// The card's challenge.
        card_challenge: Vec<u8>,
        /// The card's proof.
        card_cryptogram: Vec<u8>,
        /// What the challenge must follow from, where it is pseudo-random.
        origin: Option<SequenceOrigin>,
    },
    /// No card has answered: the challenge it will have is computed. Released without any proof.
    Prepared {
        /// The host's challenge.
        host_challenge: Vec<u8>,
        /// What the card's challenge will follow from.
        origin: SequenceOrigin,
    },
}

/// What a pseudo-random card challenge follows from (Amendment D §6.2.2.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceOrigin {
    /// The card's sequence counter of this session.
    pub counter: [u8; 3],
    /// Application identifier of the security domain, 5 to 16 bytes.
    pub aid: Vec<u8>,
}

/// For whom session keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionContext {
    /// The credential that asks.
    pub principal: PrincipalId,
    /// Its request, at most [`keys::seal::REQUEST_ID_MAX`] bytes.
    pub request_id: Vec<u8>,
}

/// How session keys leave the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Sealed (HPKE) to an uncompressed P-256 point.
    Sealed {
        /// The point.
        recipient: Box<[u8; 65]>,
    },
    /// By AES-KWP (RFC 5649) under a party's AES key on this token.
    Wrapped {
        /// The key.
        key: KeyRef,
    },
    /// In clear, through the daemon, into the caller's TLS channel.
    DangerInClear,
}

/// What a session-keys job ends with.
#[derive(Debug)]
pub enum SessionKeysOutcome {
    /// The card proved itself, or none was there to do so.
    Released(Box<ReleasedKeys>),
    /// The card, or the keyset, is another one. S-ENC was never derived.
    CardCryptogramMismatch,
    /// The card's challenge does not follow from its sequence counter. Nothing but Key-ENC and Key-MAC was derived.
    CardChallengeMismatch,
}

/// Session keys on their way.
#[derive(Debug)]
pub struct ReleasedKeys {
    /// The keys: [`keys::scp03::SessionKeys::encode`], as the job says they leave.
    pub keys: DeliveredKeys,
    /// What the host sends with EXTERNAL AUTHENTICATE.
    pub host_cryptogram: Vec<u8>,
    /// Of a prepared session: what the card will answer, challenge and cryptogram. Empty otherwise.
    pub card_challenge: Vec<u8>,
    /// See [`Self::card_challenge`].
    pub card_cryptogram: Vec<u8>,
}

/// Session keys as they left the worker.
#[derive(Debug)]
pub enum DeliveredKeys {
    /// Opens with [`keys::seal::open`].
    Sealed {
        /// HPKE encapsulated key, an uncompressed P-256 point.
        encapsulated_key: [u8; 65],
        /// The sealed keys.
        ciphertext: Vec<u8>,
    },
    /// S-ENC, S-MAC and S-RMAC, each by AES-KWP.
    Wrapped([Vec<u8>; 3]),
    /// In clear.
    InClear(ClearKeys),
}

/// Encoded session keys in clear, wiped when dropped.
pub struct ClearKeys(pub(crate) Zeroizing<Vec<u8>>);

impl ClearKeys {
    /// The bytes of [`keys::scp03::SessionKeys::encode`], for the one answer they are for.
    pub fn danger_expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClearKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClearKeys(..)")
    }
}
