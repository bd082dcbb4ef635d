//! Cryptography done for an OTA platform: secured packets of SCP80 and whole scripts of SCP03, and what cards answer to
//! them.
//!
//! KIc and KID stay in the token. Session keys of SCP03 are derived there, are in worker memory while a script is made,
//! and end with it.

use keys::scp03::{Answer, SecurityLevel};
use keys::scp80::{CommandPacket, Counter, ProofOfReceipt, ResponsePacket, Spi, Tar};
use serde::{Deserialize, Serialize};

use crate::error::HsmError;
use crate::session::SequenceOrigin;
use crate::source::SourcedKeyset;
use crate::wire_keysets::WireKeysets;

/// The most items of one [`OtaJob`].
pub const OTA_ITEMS_MAX: usize = 200;

/// The most bytes that the items of one [`OtaJob`] hold: it travels in one frame.
pub const OTA_BYTES_MAX: usize = 1024 * 1024;

/// Packets and scripts for cards, of any keysets of one token.
#[derive(Debug, Clone)]
pub struct OtaJob {
    /// The items, in the order of the answer.
    pub items: Vec<(SourcedKeyset, OtaWork)>,
}

/// What is to be done with one keyset.
#[derive(Debug, Clone)]
pub enum OtaWork {
    /// Protects a packet. A keyset of SCP80.
    Packet(CommandPacket),
    /// Opens the card's answer to one. A keyset of SCP80.
    OpenResponse {
        /// As it came, with or without its user data header.
        packet: Vec<u8>,
        /// What was asked of the card. Must have a checksum: nothing is deciphered without proof.
        receipt: ProofOfReceipt,
    },
    /// Opens a channel without a card and carries a script over it. An AES keyset of SCP03.
    Script {
        /// The channel.
        channel: PreparedChannel,
        /// The commands in clear.
        commands: Vec<Vec<u8>>,
    },
    /// Opens the card's answers to such a script.
    OpenAnswers {
        /// The channel, as it was prepared.
        channel: PreparedChannel,
        /// The commands after EXTERNAL AUTHENTICATE, as they were made, as many as were answered.
        wrapped: Vec<Vec<u8>>,
        /// One answer for each of them.
        answers: Vec<Vec<u8>>,
    },
}

/// A channel of SCP03 that is prepared for a card with pseudo-random challenges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedChannel {
    /// 8 bytes in mode S8, 16 in S16.
    pub host_challenge: Vec<u8>,
    /// What the card's challenge will follow from.
    pub origin: SequenceOrigin,
    /// The security level: P1 of EXTERNAL AUTHENTICATE.
    pub level: u8,
}

/// What became of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OtaOutcome {
    /// A secured packet, from CPL on.
    Packet(Vec<u8>),
    /// A response packet whose checksum is right.
    Response(ResponsePacket),
    /// A script.
    Script(WrappedScript),
    /// Answers to a script. Those that the level protects are proved.
    Answers(Vec<Answer>),
    /// The card, or the keyset, is another one; or what came was changed on its way. Nothing of it is told.
    NotAuthentic,
    /// The commands cannot be carried.
    Refused(String),
}

/// A script as the card takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedScript {
    /// EXTERNAL AUTHENTICATE, which goes out after INITIALIZE UPDATE with the host's challenge.
    pub external_authenticate: Vec<u8>,
    /// The commands after it.
    pub commands: Vec<Vec<u8>>,
    /// What the card will answer to INITIALIZE UPDATE: its challenge and its cryptogram.
    pub card_challenge: Vec<u8>,
    /// See [`Self::card_challenge`].
    pub card_cryptogram: Vec<u8>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireOta {
    pub(crate) keysets: WireKeysets,
    /// One per keyset.
    pub(crate) work: Vec<WireOtaWork>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireOtaWork {
    Packet { spi: [u8; 2], tar: [u8; 3], counter: u64, data: Vec<u8> },
    OpenResponse { packet: Vec<u8>, receipt: u8 },
    Script { channel: PreparedChannel, commands: Vec<Vec<u8>> },
    OpenAnswers { channel: PreparedChannel, wrapped: Vec<Vec<u8>>, answers: Vec<Vec<u8>> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum WireOtaOutcome {
    Packet(Vec<u8>),
    Response { tar: [u8; 3], counter: u64, status: u8, data: Vec<u8> },
    Script(WrappedScript),
    Answers(Vec<WireAnswer>),
    NotAuthentic,
    Refused(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireAnswer {
    pub(crate) data: Vec<u8>,
    pub(crate) status_word: [u8; 2],
    pub(crate) is_proved: bool,
}

impl OtaWork {
    /// Bytes that travel.
    pub(crate) fn bytes(&self) -> usize {
        let sum = |parts: &[Vec<u8>]| parts.iter().map(Vec::len).sum::<usize>();
        match self {
            Self::Packet(packet) => packet.data().len(),
            Self::OpenResponse { packet, .. } => packet.len(),
            Self::Script { commands, .. } => sum(commands),
            Self::OpenAnswers { wrapped, answers, .. } => sum(wrapped) + sum(answers),
        }
    }

    pub(crate) fn wire(self) -> WireOtaWork {
        match self {
            Self::Packet(packet) => WireOtaWork::Packet {
                spi: packet.spi().to_bytes(),
                tar: packet.tar().0,
                counter: packet.counter().value(),
                data: packet.data().to_vec(),
            },
            Self::OpenResponse { packet, receipt } => {
                WireOtaWork::OpenResponse { packet, receipt: receipt.to_byte() }
            }
            Self::Script { channel, commands } => WireOtaWork::Script { channel, commands },
            Self::OpenAnswers { channel, wrapped, answers } => {
                WireOtaWork::OpenAnswers { channel, wrapped, answers }
            }
        }
    }
}

impl From<WireOtaOutcome> for OtaOutcome {
    fn from(wire: WireOtaOutcome) -> Self {
        match wire {
            WireOtaOutcome::Packet(packet) => Self::Packet(packet),
            WireOtaOutcome::Response { tar, counter, status, data } => Self::Response(ResponsePacket {
                tar: Tar(tar),
                counter,
                status: keys::scp80::ResponseStatus(status),
                data,
            }),
            WireOtaOutcome::Script(script) => Self::Script(script),
            WireOtaOutcome::Answers(answers) => Self::Answers(
                answers
                    .into_iter()
                    .map(|WireAnswer { data, status_word, is_proved }| Answer {
                        data,
                        status_word,
                        is_proved,
                    })
                    .collect(),
            ),
            WireOtaOutcome::NotAuthentic => Self::NotAuthentic,
            WireOtaOutcome::Refused(why) => Self::Refused(why),
        }
    }
}

impl From<ResponsePacket> for WireOtaOutcome {
    fn from(packet: ResponsePacket) -> Self {
        let ResponsePacket { tar, counter, status, data } = packet;
        Self::Response { tar: tar.0, counter, status: status.0, data }
    }
}

impl From<Answer> for WireAnswer {
    fn from(Answer { data, status_word, is_proved }: Answer) -> Self {
        Self { data, status_word, is_proved }
    }
}

/// The packet of a frame, for its keyset.
pub(crate) fn packet_of(
    kvn: domain::KeyVersionNumber,
    (spi, tar, counter): ([u8; 2], [u8; 3], u64),
    data: &[u8],
) -> Result<CommandPacket, HsmError> {
    let build =
        || CommandPacket::new(Spi::from_bytes(spi)?, kvn, Tar(tar), Counter::new(counter)?, data.to_vec());
    build().map_err(|e| HsmError::caller(e.to_string()))
}

/// The level of a frame.
pub(crate) fn level_of(level: u8) -> Result<SecurityLevel, HsmError> {
    SecurityLevel::new(level).map_err(|e| HsmError::caller(e.to_string()))
}
