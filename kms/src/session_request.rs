//! What a request for session keys says, read and checked before anything is looked up.

use domain::{Eid, PrincipalId, ReasonCode, Refusal, SecurityDomain};
use hsm::{CardSession, SequenceOrigin};
use keys::scp03::{IParameter, Mode, SecurityLevel};
use proto::v1;

use crate::devices::KeysetName;

/// The party that asks, as its enrolment and its connection say.
#[derive(Clone, Debug)]
pub struct Provisioner {
    /// Its name.
    pub name: String,
    /// The credential of this connection.
    pub principal: PrincipalId,
    /// Its registered encryption key: an uncompressed P-256 point.
    pub encryption_key: [u8; 65],
}

/// What it asks for.
#[derive(Clone, Debug)]
pub struct SessionKeysRequest {
    /// The device.
    pub eid: Eid,
    /// The keyset that the card named in its answer to INITIALIZE UPDATE.
    pub keyset: KeysetName,
    /// What the card offers.
    pub i: IParameter,
    /// The level that the channel will have, where it is said.
    pub level: Option<SecurityLevel>,
    /// The session, with the card's proof or without a card.
    pub session: CardSession,
    /// How the keys leave.
    pub delivery: KeyDelivery,
    /// Must be the purpose of a grant.
    pub purpose: String,
    /// The caller's idempotency key, at most 64 bytes; part of the sealing context.
    pub request_id: Vec<u8>,
    /// SHA-256 of the request, for the entry.
    pub request_digest: [u8; 32],
    /// Whether this request was answered before under its idempotency key.
    pub is_repeat: bool,
}

/// How session keys leave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyDelivery {
    /// Sealed to the caller's registered key.
    Sealed,
    /// In the TLS channel alone.
    TlsChannel,
    /// By AES-KWP under the caller's AES transport key of this name.
    Wrapped(String),
}

impl KeyDelivery {
    /// The stable name used in entries.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::TlsChannel => "tls-channel",
            Self::Wrapped(_) => "aes-kwp",
        }
    }
}

impl SessionKeysRequest {
    /// Reads a request; lengths, the i parameter and the level must fit together.
    pub fn parse(
        message: &v1::FetchSessionKeysRequest,
        request_digest: [u8; 32],
        is_repeat: bool,
    ) -> Result<Self, Refusal> {
        let eid = message
            .eid
            .parse()
            .map_err(|e: domain::EidError| Refusal::new(ReasonCode::InvalidEid, e.to_string()))?;
        let keyset = KeysetName::parse(message.keyset.as_ref())?;
        let mode = Mode::of_bytes(message.host_challenge.len())
            .ok_or_else(|| invalid("host_challenge has 8 bytes (S8) or 16 (S16)"))?;
        let i = match message.i_parameter {
            Some(value) => u8::try_from(value)
                .map_err(|_| invalid("i_parameter is one byte"))
                .and_then(|value| IParameter::new(value).map_err(|e| invalid(&e.to_string())))?,
            None => IParameter::plain(mode),
        };
        if i.mode() != mode {
            return Err(invalid("the i parameter is of the mode that has challenges of another length"));
        }
        let level = match message.security_level {
            0 => None,
            value => Some(
                u8::try_from(value)
                    .map_err(|_| invalid("security_level is one byte"))
                    .and_then(|value| SecurityLevel::new(value).map_err(|e| invalid(&e.to_string())))?,
            ),
        };
        if level.is_some_and(|level| !i.allows(level)) {
            return Err(invalid("the i parameter does not offer this security level"));
        }
        Ok(Self {
            eid,
            keyset,
            i,
            level,
            session: session(message, &keyset, mode, i)?,
            delivery: delivery(message)?,
            purpose: message.purpose.clone(),
            request_id: message.idempotency_key.clone().into_bytes(),
            request_digest,
            is_repeat,
        })
    }

    /// What a pseudo-random challenge follows from.
    pub(crate) const fn origin(&self) -> Option<&SequenceOrigin> {
        match &self.session {
            CardSession::Present { origin, .. } => origin.as_ref(),
            CardSession::Prepared { origin, .. } => Some(origin),
        }
    }

    /// Whether the device has shown a proof of its keys.
    pub const fn has_proof(&self) -> bool {
        matches!(self.session, CardSession::Present { .. })
    }
}

fn delivery(message: &v1::FetchSessionKeysRequest) -> Result<KeyDelivery, Refusal> {
    let delivery = match message.delivery() {
        v1::KeyDelivery::Wrapped if message.transport_key.is_empty() => {
            return Err(invalid("transport_key is missing: the name of your AES transport key"));
        }
        v1::KeyDelivery::Wrapped => return Ok(KeyDelivery::Wrapped(message.transport_key.clone())),
        v1::KeyDelivery::TlsChannel => KeyDelivery::TlsChannel,
        v1::KeyDelivery::Sealed => KeyDelivery::Sealed,
        v1::KeyDelivery::Unspecified if message.delivery == 0 => KeyDelivery::Sealed,
        v1::KeyDelivery::Unspecified => return Err(invalid("an unknown way of delivery")),
    };
    if message.transport_key.is_empty() {
        Ok(delivery)
    } else {
        Err(invalid("transport_key belongs to the delivery WRAPPED"))
    }
}

fn session(
    message: &v1::FetchSessionKeysRequest,
    keyset: &KeysetName,
    mode: Mode,
    i: IParameter,
) -> Result<CardSession, Refusal> {
    let origin = if i.is_pseudo_random() {
        let counter = message.sequence_counter.as_slice().try_into().map_err(|_| {
            invalid("sequence_counter has 3 bytes where the card's challenge is pseudo-random")
        })?;
        Some(SequenceOrigin { counter, aid: aid(&message.aid, keyset.security_domain)? })
    } else if message.sequence_counter.is_empty() && message.aid.is_empty() {
        None
    } else {
        return Err(invalid("sequence_counter and aid belong to a pseudo-random challenge: i with bit 10"));
    };
    let host_challenge = message.host_challenge.clone();
    if message.prepared {
        if !message.card_challenge.is_empty() || !message.card_cryptogram.is_empty() {
            return Err(invalid("a prepared session has no answer of a card"));
        }
        let origin = origin.ok_or_else(|| {
            invalid("a session can be prepared for a card with pseudo-random challenges only: i with bit 10")
        })?;
        return Ok(CardSession::Prepared { host_challenge, origin });
    }
    for (field, bytes) in
        [("card_challenge", &message.card_challenge), ("card_cryptogram", &message.card_cryptogram)]
    {
        if bytes.len() != mode.bytes() {
            return Err(invalid(&format!("{field} has {} bytes, as the host's challenge", mode.bytes())));
        }
    }
    Ok(CardSession::Present {
        host_challenge,
        card_challenge: message.card_challenge.clone(),
        card_cryptogram: message.card_cryptogram.clone(),
        origin,
    })
}

/// The AID in the request, or that of a security domain that has one name on every eUICC (SGP.02 §2.2.1.3).
pub(crate) fn aid(given: &[u8], security_domain: SecurityDomain) -> Result<Vec<u8>, Refusal> {
    const ISD_R: [u8; 16] = [0xa0, 0, 0, 0x05, 0x59, 0x10, 0x10, 0xff, 0xff, 0xff, 0xff, 0x89, 0, 0, 0x01, 0];
    const ECASD: [u8; 16] = [0xa0, 0, 0, 0x05, 0x59, 0x10, 0x10, 0xff, 0xff, 0xff, 0xff, 0x89, 0, 0, 0x02, 0];
    match (given.len(), security_domain) {
        (5..=16, _) => Ok(given.to_vec()),
        (0, SecurityDomain::IsdR) => Ok(ISD_R.to_vec()),
        (0, SecurityDomain::Ecasd) => Ok(ECASD.to_vec()),
        (0, SecurityDomain::MnoSd) => Err(invalid("an MNO-SD has an AID of its own: say it in aid")),
        _ => Err(invalid("aid has 5 to 16 bytes")),
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ReasonCode::InvalidField, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> v1::FetchSessionKeysRequest {
        v1::FetchSessionKeysRequest {
            idempotency_key: "k".to_owned(),
            eid: "89049032123451234512345678901235".to_owned(),
            keyset: Some(v1::KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
            host_challenge: vec![1; 8],
            card_challenge: vec![2; 8],
            card_cryptogram: vec![3; 8],
            purpose: "test".to_owned(),
            ..v1::FetchSessionKeysRequest::default()
        }
    }

    fn parse(message: &v1::FetchSessionKeysRequest) -> Result<SessionKeysRequest, Refusal> {
        SessionKeysRequest::parse(message, [0; 32], false)
    }

    #[test]
    fn a_request_that_says_nothing_more_is_of_a_plain_card_that_is_there() {
        let plain = parse(&message()).unwrap();
        assert_eq!((plain.i.value(), plain.level, &plain.delivery), (0, None, &KeyDelivery::Sealed));
        assert!(plain.has_proof() && matches!(plain.session, CardSession::Present { origin: None, .. }));
        let long = v1::FetchSessionKeysRequest {
            host_challenge: vec![1; 16],
            card_challenge: vec![2; 16],
            card_cryptogram: vec![3; 16],
            ..message()
        };
        assert_eq!(parse(&long).unwrap().i.value(), 0x01);
    }

    #[test]
    fn a_pseudo_random_challenge_needs_its_counter_and_the_name_of_its_domain() {
        let asked = v1::FetchSessionKeysRequest {
            i_parameter: Some(0x70),
            security_level: 0x33,
            sequence_counter: vec![0, 0, 2],
            ..message()
        };
        let CardSession::Present { origin: Some(origin), .. } = parse(&asked).unwrap().session else {
            panic!("no origin")
        };
        assert_eq!(hex::encode(&origin.aid), "a0000005591010ffffffff8900000100");
        let ecasd = Some(v1::KeysetName { security_domain: 2, protocol: 3, key_version_number: 0x30 });
        let of_ecasd = v1::FetchSessionKeysRequest { keyset: ecasd, ..asked.clone() };
        let CardSession::Present { origin: Some(origin), .. } = parse(&of_ecasd).unwrap().session else {
            panic!("no origin")
        };
        assert_eq!(hex::encode(&origin.aid), "a0000005591010ffffffff8900000200");
        let prepared = v1::FetchSessionKeysRequest {
            card_challenge: Vec::new(),
            card_cryptogram: Vec::new(),
            prepared: true,
            aid: vec![0xa0, 0, 0, 1, 0x51],
            ..asked
        };
        let prepared = parse(&prepared).unwrap();
        assert!(!prepared.has_proof());
        let CardSession::Prepared { origin, .. } = prepared.session else { panic!("not prepared") };
        assert_eq!(origin.aid, [0xa0, 0, 0, 1, 0x51]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let pseudo = v1::FetchSessionKeysRequest {
            i_parameter: Some(0x10),
            sequence_counter: vec![0, 0, 2],
            ..message()
        };
        let mno = Some(v1::KeysetName { security_domain: 3, protocol: 3, key_version_number: 0x30 });
        let wrong = [
            v1::FetchSessionKeysRequest { host_challenge: vec![1; 9], ..message() },
            v1::FetchSessionKeysRequest { card_challenge: vec![1; 16], ..message() },
            v1::FetchSessionKeysRequest { card_cryptogram: Vec::new(), ..message() },
            v1::FetchSessionKeysRequest { i_parameter: Some(0x01), ..message() },
            v1::FetchSessionKeysRequest { i_parameter: Some(0x02), ..message() },
            v1::FetchSessionKeysRequest { i_parameter: Some(0x100), ..message() },
            v1::FetchSessionKeysRequest { security_level: 0x11, ..message() },
            v1::FetchSessionKeysRequest { security_level: 0x02, ..message() },
            v1::FetchSessionKeysRequest { sequence_counter: vec![0, 0, 1], ..message() },
            v1::FetchSessionKeysRequest { aid: vec![1; 16], ..message() },
            v1::FetchSessionKeysRequest { prepared: true, ..message() },
            v1::FetchSessionKeysRequest { delivery: 7, ..message() },
            v1::FetchSessionKeysRequest { sequence_counter: vec![0, 1], ..pseudo.clone() },
            v1::FetchSessionKeysRequest { aid: vec![1; 17], ..pseudo.clone() },
            v1::FetchSessionKeysRequest { keyset: mno, ..pseudo.clone() },
            v1::FetchSessionKeysRequest { prepared: true, ..pseudo },
        ];
        for asked in wrong {
            assert_eq!(parse(&asked).unwrap_err().reason, ReasonCode::InvalidField, "{asked:?}");
        }
        let nobody = v1::FetchSessionKeysRequest { eid: "1".to_owned(), ..message() };
        assert_eq!(parse(&nobody).unwrap_err().reason, ReasonCode::InvalidEid);
    }
}
