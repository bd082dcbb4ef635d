//! What requests say, read and checked before anything is looked up.

use domain::{Eid, ReasonCode, Refusal};
use keys::apdu::Apdu;
use keys::scp03::{IParameter, Mode, SecurityLevel};
use keys::scp80::{
    COMMANDS_MAX, CounterCheck, DATA_BYTES_MAX, Integrity, ProofOfReceipt, ReceiptWhen, ScriptFormat, Spi,
    Tar,
};
use proto::v1;

use super::RequestId;
use crate::devices::KeysetName;
use crate::session_request::aid;

/// A secured packet is asked for.
#[derive(Clone, Debug)]
pub struct PacketRequest {
    /// Which request it is.
    pub id: RequestId,
    /// The device.
    pub eid: Eid,
    /// The keyset that protects it.
    pub keyset: KeysetName,
    /// The application it is for.
    pub tar: Tar,
    /// What the application gets.
    pub commands: Vec<Apdu>,
    /// How they are written.
    pub format: ScriptFormat,
    /// What the card does with the counter.
    pub counter_check: CounterCheck,
    /// The counter it is to have, where the next one is not wanted.
    pub counter: Option<u64>,
    /// The answer that is asked of the card.
    pub receipt: ProofOfReceipt,
    /// Must be the purpose of a grant.
    pub purpose: String,
}

/// A script is asked for.
#[derive(Clone, Debug)]
pub struct ScriptRequest {
    /// Which request it is.
    pub id: RequestId,
    /// The device.
    pub eid: Eid,
    /// The keyset that opens the channel.
    pub keyset: KeysetName,
    /// The commands in clear.
    pub commands: Vec<Apdu>,
    /// What the card offers.
    pub i: IParameter,
    /// The level of the channel.
    pub level: SecurityLevel,
    /// The sequence counter that the card will have, where the next one is not meant.
    pub sequence_counter: Option<[u8; 3]>,
    /// Of the security domain that opens the channel.
    pub aid: Vec<u8>,
    /// Must be the purpose of a grant.
    pub purpose: String,
}

/// What a card has answered is to be opened.
#[derive(Clone, Debug)]
pub struct AnswerRequest {
    /// The device.
    pub eid: Eid,
    /// The keyset of the packet or script.
    pub keyset: KeysetName,
    /// What came.
    pub answer: CardAnswer,
    /// Must be the purpose of a grant.
    pub purpose: String,
    /// SHA-256 of the request.
    pub request_digest: [u8; 32],
}

/// What a card has answered.
#[derive(Clone, Debug)]
pub enum CardAnswer {
    /// To a packet.
    Packet {
        /// The response packet.
        packet: Vec<u8>,
        /// What was asked of the card.
        receipt: ProofOfReceipt,
    },
    /// To a script.
    Script {
        /// Of the script.
        host_challenge: Vec<u8>,
        /// Of the script.
        sequence_counter: [u8; 3],
        /// Of the security domain that opened the channel.
        aid: Vec<u8>,
        /// Of the channel.
        level: SecurityLevel,
        /// The commands as they were made, after EXTERNAL AUTHENTICATE.
        commands: Vec<Vec<u8>>,
        /// One for each of them, with its status word.
        answers: Vec<Vec<u8>>,
    },
}

impl PacketRequest {
    /// Reads a request.
    pub fn parse(message: &v1::SecurePacketRequest, id: RequestId) -> Result<Self, Refusal> {
        let format = match message.format() {
            v1::ScriptFormat::Compact => ScriptFormat::Compact,
            v1::ScriptFormat::Expanded => ScriptFormat::Expanded,
            v1::ScriptFormat::Unspecified => return Err(invalid("format is missing: compact or expanded")),
        };
        let counter_check = match (message.counter_check(), message.counter_check) {
            (v1::CounterCheck::Next, _) => CounterCheck::Next,
            (v1::CounterCheck::Higher, _) | (v1::CounterCheck::Unspecified, 0) => CounterCheck::Higher,
            (v1::CounterCheck::Unspecified, _) => return Err(invalid("an unknown counter_check")),
        };
        let receipt = match &message.receipt {
            None => ProofOfReceipt::NONE,
            Some(receipt) => ProofOfReceipt {
                when: match receipt.when() {
                    v1::ReceiptWhen::Always => ReceiptWhen::Always,
                    v1::ReceiptWhen::OnError => ReceiptWhen::OnError,
                    v1::ReceiptWhen::Unspecified => {
                        return Err(invalid("receipt.when is missing: always or on error"));
                    }
                },
                integrity: Integrity::Checksum,
                is_ciphered: receipt.ciphered,
                by_submit: receipt.by_submit,
            },
        };
        Ok(Self {
            id,
            eid: eid(&message.eid)?,
            keyset: KeysetName::parse(message.keyset.as_ref())?,
            tar: Tar(message.tar.as_slice().try_into().map_err(|_| invalid("tar has 3 bytes"))?),
            commands: commands(&message.commands)?,
            format,
            counter_check,
            counter: message.counter,
            receipt,
            purpose: message.purpose.clone(),
        })
    }

    /// Always with a checksum and ciphered: what a card takes without is nobody's business of ours.
    pub(super) const fn security_parameters(&self) -> Spi {
        Spi {
            integrity: Integrity::Checksum,
            is_ciphered: true,
            counter: self.counter_check,
            receipt: self.receipt,
        }
    }
}

impl ScriptRequest {
    /// Reads a request; i parameter, level and counter must fit together.
    pub fn parse(message: &v1::WrapScriptRequest, id: RequestId) -> Result<Self, Refusal> {
        let keyset = KeysetName::parse(message.keyset.as_ref())?;
        let i = u8::try_from(message.i_parameter)
            .map_err(|_| invalid("i_parameter is one byte"))
            .and_then(|value| IParameter::new(value).map_err(|e| invalid(&e.to_string())))?;
        if !i.is_pseudo_random() {
            return Err(invalid("a script is for cards with pseudo-random challenges: i with bit 10"));
        }
        let level = level(message.security_level)?;
        if !i.allows(level) {
            return Err(invalid("the i parameter does not offer this security level"));
        }
        let commands = commands(&message.commands)?;
        if commands.iter().any(|command| command.cla & 0x7f != 0) {
            return Err(invalid("commands of a script have the class 00 or 80"));
        }
        let sequence_counter = match message.sequence_counter.as_slice() {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| invalid("sequence_counter has 3 bytes"))?),
        };
        Ok(Self {
            id,
            eid: eid(&message.eid)?,
            aid: aid(&message.aid, keyset.security_domain)?,
            keyset,
            commands,
            i,
            level,
            sequence_counter,
            purpose: message.purpose.clone(),
        })
    }
}

impl AnswerRequest {
    /// Reads a request.
    pub fn parse(message: &v1::OpenResponseRequest, request_digest: [u8; 32]) -> Result<Self, Refusal> {
        use v1::open_response_request::Answer;
        let keyset = KeysetName::parse(message.keyset.as_ref())?;
        let answer = match &message.answer {
            Some(Answer::Packet(answer)) => packet_answer(answer)?,
            Some(Answer::Script(answer)) => {
                let aid = aid(&answer.aid, keyset.security_domain)?;
                script_answer(answer, aid)?
            }
            None => return Err(invalid("the answer is missing")),
        };
        Ok(Self { eid: eid(&message.eid)?, keyset, answer, purpose: message.purpose.clone(), request_digest })
    }
}

fn packet_answer(answer: &v1::PacketAnswer) -> Result<CardAnswer, Refusal> {
    let spi = <[u8; 2]>::try_from(answer.security_parameters.as_slice())
        .map_err(|_| invalid("security_parameters has 2 bytes"))?;
    let receipt = Spi::from_bytes(spi).map_err(|e| invalid(&e.to_string()))?.receipt;
    if receipt.integrity != Integrity::Checksum {
        return Err(invalid("an answer is opened only where a checksum of it was asked for"));
    }
    if answer.response_packet.len() > DATA_BYTES_MAX {
        return Err(invalid("response_packet is too long"));
    }
    Ok(CardAnswer::Packet { packet: answer.response_packet.clone(), receipt })
}

fn script_answer(answer: &v1::ScriptAnswers, aid: Vec<u8>) -> Result<CardAnswer, Refusal> {
    let (commands, answers) = (&answer.commands, &answer.answers);
    if Mode::of_bytes(answer.host_challenge.len()).is_none() {
        return Err(invalid("host_challenge has 8 or 16 bytes"));
    }
    if !(1..=COMMANDS_MAX).contains(&commands.len()) || commands.len() != answers.len() {
        return Err(invalid("a script has 1 to 64 commands, and one answer for each"));
    }
    if commands.iter().chain(answers).any(|bytes| bytes.len() > ANSWER_BYTES_MAX) {
        return Err(invalid("a command or an answer is too long"));
    }
    Ok(CardAnswer::Script {
        host_challenge: answer.host_challenge.clone(),
        sequence_counter: answer
            .sequence_counter
            .as_slice()
            .try_into()
            .map_err(|_| invalid("sequence_counter has 3 bytes"))?,
        aid,
        level: level(answer.security_level)?,
        commands: commands.clone(),
        answers: answers.clone(),
    })
}

/// The longest command has 261 bytes, the longest answer 258.
const ANSWER_BYTES_MAX: usize = 261;

fn commands(bytes: &[Vec<u8>]) -> Result<Vec<Apdu>, Refusal> {
    if !(1..=COMMANDS_MAX).contains(&bytes.len()) {
        return Err(invalid("there are 1 to 64 commands"));
    }
    let numbered = bytes.iter().zip(1..);
    numbered
        .map(|(bytes, number)| Apdu::parse(bytes).map_err(|e| invalid(&format!("command {number}: {e}"))))
        .collect()
}

fn level(value: u32) -> Result<SecurityLevel, Refusal> {
    u8::try_from(value)
        .map_err(|_| invalid("security_level is one byte"))
        .and_then(|value| SecurityLevel::new(value).map_err(|e| invalid(&e.to_string())))
}

fn eid(text: &str) -> Result<Eid, Refusal> {
    text.parse().map_err(|e: domain::EidError| Refusal::new(ReasonCode::InvalidEid, e.to_string()))
}

fn invalid(message: &str) -> Refusal {
    Refusal::new(ReasonCode::InvalidField, message)
}
