//! The terms of a rotation: read from the approved message, checked once.

use std::collections::HashSet;

use domain::{Eid, Ein, KeyVersionNumber, KeysetAlgorithm, Protocol, ReasonCode, Refusal};
use keys::put_key::Dialect;
use keys::scp03::{IParameter, Mode, SecurityLevel};
use prost::Message;
use proto::v1;
use sha2::{Digest, Sha256};

use crate::KmsError;
use crate::devices::KeysetName;
use crate::session_request::aid;

/// Most single devices of one rotation.
const EIDS_MAX: usize = 1_000;
/// Most ranges.
const EINS_MAX: usize = 64;
/// Most stages.
const STAGES_MAX: usize = 10;
/// Longest overlap: 90 days.
const OVERLAP_SECONDS_MAX: u32 = 90 * 86_400;
/// Ranks of devices: basis points of the fleet.
pub(crate) const RANKS: u32 = 10_000;

/// What is to be rotated, by whom and how carefully.
#[derive(Clone, Debug)]
pub struct RotationTerms {
    /// Unique name.
    pub name: String,
    /// The party that loads the scripts.
    pub provisioner: String,
    /// Single devices ...
    pub eids: HashSet<Eid>,
    /// ... and whole ranges.
    pub eins: Vec<Ein>,
    /// The keyset they have.
    pub from: KeysetName,
    /// The key version number they get.
    pub to_kvn: KeyVersionNumber,
    /// The key length they get.
    pub to_algorithm: KeysetAlgorithm,
    /// How PUT KEY is written for these cards.
    pub dialect: Dialect,
    /// Percentages of the fleet, ascending, the last one 100.
    pub stages: Vec<u32>,
    /// Seconds the old keyset lives after the new one was proved.
    pub overlap_seconds: u32,
    /// Percentage of failures above which it halts.
    pub halt_failures_percent: u32,
    /// The channel over which scripts are carried, where they are.
    pub channel: Option<ScriptChannel>,
    /// Whether old keysets leave the cards once they have ended.
    pub deletes_old_keys: bool,
    message: v1::RotationTerms,
}

/// The channel that is prepared for each card of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptChannel {
    /// What the cards offer.
    pub i: IParameter,
    /// The channel's level: one without protection of answers.
    pub level: SecurityLevel,
    /// AID of the security domain.
    pub aid: Vec<u8>,
    /// The sequence counter of a card of which none is known.
    pub first_counter: [u8; 3],
}

impl ScriptChannel {
    fn parse(message: &v1::ScriptChannel, from: &KeysetName) -> Result<Self, Refusal> {
        let invalid = |text: &str| Refusal::new(ReasonCode::InvalidField, format!("channel: {text}"));
        let i = u8::try_from(message.i_parameter)
            .ok()
            .and_then(|value| IParameter::new(value).ok())
            .filter(|i| i.is_pseudo_random() && i.mode() == Mode::S8)
            .ok_or_else(|| {
                invalid("i_parameter is one of pseudo-random challenges in mode S8: 10, 30 or 70")
            })?;
        let level = u8::try_from(message.security_level)
            .ok()
            .filter(|level| matches!(level, 0x01 | 0x03))
            .and_then(|level| SecurityLevel::new(level).ok())
            .ok_or_else(|| invalid("security_level is 01 or 03: the answer to PUT KEY must stay readable"))?;
        let [0, high, middle, low] = message.first_sequence_counter.to_be_bytes() else {
            return Err(invalid("first_sequence_counter has three bytes"));
        };
        let aid = aid(&message.aid, from.security_domain)?;
        Ok(Self { i, level, aid, first_counter: [high, middle, low] })
    }
}

impl RotationTerms {
    /// Reads and checks the message.
    pub fn parse(message: &v1::RotationTerms) -> Result<Self, Refusal> {
        let invalid = |text: String| Refusal::new(ReasonCode::InvalidField, text);
        if !is_name(&message.name) {
            return Err(invalid(
                "name has 1 to 64 of a-z, 0-9, dot, underscore, dash, the first a letter or digit".into(),
            ));
        }
        if message.eids.is_empty() && message.eins.is_empty() {
            return Err(invalid("the rotation names no devices: give eids or eins".into()));
        }
        if message.eids.len() > EIDS_MAX || message.eins.len() > EINS_MAX {
            return Err(invalid(format!("at most {EIDS_MAX} EIDs and {EINS_MAX} ranges")));
        }
        let eids: HashSet<Eid> = message
            .eids
            .iter()
            .map(|eid| eid.parse())
            .collect::<Result<_, domain::EidError>>()
            .map_err(|e| Refusal::new(ReasonCode::InvalidEid, e.to_string()))?;
        let eins: Vec<Ein> = message
            .eins
            .iter()
            .map(|ein| ein.parse())
            .collect::<Result<_, domain::EidError>>()
            .map_err(|e| invalid(e.to_string()))?;
        let from = KeysetName::parse(message.from.as_ref())?;
        if from.protocol != Protocol::Scp03 {
            return Err(invalid("keysets are changed in an SCP03 session".into()));
        }
        let to_kvn =
            KeyVersionNumber::scp03(message.to_key_version_number).map_err(|e| invalid(e.to_string()))?;
        if to_kvn == from.kvn {
            // PUT KEY over a present key must keep type and length (GP Card Specification 11.8.2.3.3).
            return Err(invalid("the new key version number must be another than the old one".into()));
        }
        let to_algorithm = match KeysetAlgorithm::from_code(message.to_key_bits) {
            Ok(algorithm @ (KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes256)) => algorithm,
            _ => return Err(invalid("to_key_bits must be 128 or 256".into())),
        };
        let dialect = match message.dialect() {
            v1::PutKeyDialect::A => Dialect::A,
            v1::PutKeyDialect::B => Dialect::B,
            v1::PutKeyDialect::Unspecified => return Err(invalid("dialect is missing".into())),
        };
        let ascending = message.stages.windows(2).all(|pair| pair[0] < pair[1]);
        if message.stages.len() > STAGES_MAX
            || message.stages.first().is_none_or(|first| *first == 0)
            || message.stages.last() != Some(&100)
            || !ascending
        {
            return Err(invalid(format!(
                "stages are 1 to {STAGES_MAX} ascending percentages that end with 100"
            )));
        }
        if message.overlap_seconds > OVERLAP_SECONDS_MAX {
            return Err(invalid("overlap_seconds is at most 90 days".into()));
        }
        if !(1..=100).contains(&message.halt_failures_percent) {
            return Err(invalid("halt_failures_percent must be 1 to 100".into()));
        }
        let channel =
            message.channel.as_ref().map(|channel| ScriptChannel::parse(channel, &from)).transpose()?;
        Ok(Self {
            channel,
            deletes_old_keys: message.deletes_old_keys,
            name: message.name.clone(),
            provisioner: message.provisioner.clone(),
            eids,
            eins,
            from,
            to_kvn,
            to_algorithm,
            dialect,
            stages: message.stages.clone(),
            overlap_seconds: message.overlap_seconds,
            halt_failures_percent: message.halt_failures_percent,
            message: message.clone(),
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, KmsError> {
        let message = v1::RotationTerms::decode(bytes).map_err(|_| KmsError::Record("rotation"))?;
        Self::parse(&message).map_err(|_| KmsError::Record("rotation"))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.message.encode_to_vec()
    }

    /// The message they were read from.
    pub fn message(&self) -> &v1::RotationTerms {
        &self.message
    }

    /// The keyset that the devices get.
    pub fn to(&self) -> KeysetName {
        self.from.with_kvn(self.to_kvn)
    }

    /// What entries carry in place of the name.
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.name)
    }

    pub(crate) fn names(&self, eid: &Eid) -> bool {
        self.eids.contains(eid) || self.eins.iter().any(|ein| eid.is_in(ein))
    }

    /// Place of a device in the order of the fleet: a canary is a fair sample, and nobody chooses who is in it.
    pub(crate) fn rank(&self, eid: &Eid) -> u32 {
        let mut hasher = Sha256::new();
        hasher.update(self.name.as_bytes());
        hasher.update([0]);
        hasher.update(eid.bcd());
        let hash: [u8; 32] = hasher.finalize().into();
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % RANKS
    }

    /// The stage a rank belongs to.
    pub(crate) fn stage(&self, rank: u32) -> u32 {
        let stage = self.stages.iter().position(|percent| rank < percent * (RANKS / 100));
        u32::try_from(stage.unwrap_or(self.stages.len() - 1)).unwrap_or(0)
    }
}

pub(crate) fn digest(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && (bytes[0].is_ascii_lowercase() || bytes[0].is_ascii_digit())
        && bytes.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(c))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn message() -> v1::RotationTerms {
        v1::RotationTerms {
            name: "to-aes-256".into(),
            provisioner: "ota-one".into(),
            eids: Vec::new(),
            eins: vec!["89049032".into()],
            from: Some(v1::KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
            to_key_version_number: 0x31,
            to_key_bits: 256,
            dialect: v1::PutKeyDialect::A.into(),
            stages: vec![1, 10, 100],
            overlap_seconds: 60,
            halt_failures_percent: 5,
            channel: None,
            deletes_old_keys: false,
        }
    }

    type Change = fn(&mut v1::RotationTerms);

    #[test]
    fn terms_that_would_be_dangerous_or_unclear_are_refused_one_by_one() {
        assert!(RotationTerms::parse(&message()).is_ok());
        let channel = |i_parameter, security_level| v1::ScriptChannel {
            i_parameter,
            security_level,
            aid: Vec::new(),
            first_sequence_counter: 1,
        };
        let carried = v1::RotationTerms { channel: Some(channel(0x70, 0x03)), ..message() };
        assert!(RotationTerms::parse(&carried).unwrap().channel.is_some());
        for wrong in [
            channel(0x60, 0x03),
            channel(0x70, 0x33),
            channel(0x71, 0x03),
            channel(0x170, 0x01),
            channel(0x70, 0),
        ] {
            let carried = v1::RotationTerms { channel: Some(wrong), ..message() };
            assert!(RotationTerms::parse(&carried).is_err(), "{carried:?}");
        }
        let cases: [(&str, Change); 11] = [
            ("no name", |m| m.name.clear()),
            ("nobody", |m| m.eins.clear()),
            ("a wrong EID", |m| m.eids.push("89049032123451234512345678901236".into())),
            ("no keyset", |m| m.from = None),
            ("the same KVN", |m| m.to_key_version_number = 0x30),
            ("a KVN of another protocol", |m| m.to_key_version_number = 0x40),
            ("AES-192", |m| m.to_key_bits = 192),
            ("no dialect", |m| m.dialect = 0),
            ("stages that fall", |m| m.stages = vec![10, 1, 100]),
            ("stages that leave devices out", |m| m.stages = vec![1, 10]),
            ("no halt", |m| m.halt_failures_percent = 0),
        ];
        for (what, change) in cases {
            let mut message = message();
            change(&mut message);
            assert!(RotationTerms::parse(&message).is_err(), "{what}");
        }
    }

    #[test]
    fn every_rank_has_its_stage_and_the_shares_are_those_of_the_terms() {
        let terms = RotationTerms::parse(&message()).unwrap();
        let mut counts = [0; 3];
        for rank in 0..RANKS {
            counts[terms.stage(rank) as usize] += 1;
        }
        assert_eq!(counts, [100, 900, 9_000]);
    }
}
