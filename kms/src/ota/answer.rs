//! What cards answer to packets and scripts. Opened only when the card's checksum or MAC is right, and only when it answers
//! something that was made here.

use audit::{EventType, Fact, Outcome, Pseudonyms};
use domain::{Protocol, ReasonCode, Refusal, Timestamp};
use hsm::{OtaJob, OtaOutcome, OtaWork, PreparedChannel, SequenceOrigin};
use keys::scp03::Answer;
use keys::scp80::ResponsePacket;
use store::Commit;

use super::request::{AnswerRequest, CardAnswer};
use super::{Platform, Subject, bytes_fact, counter};
use crate::allowance::Need;
use crate::{Engines, KmsError, sequence};

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub enum AnswerOpened {
    /// A response packet.
    Packet(ResponsePacket),
    /// One answer for each command of a script.
    Script(Vec<Answer>),
}

/// Step 8 of `docs/cycles/ota.md`.
pub async fn open_answer(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    platform: &Platform,
    request: &AnswerRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, AnswerOpened), KmsError> {
    let object = pseudonyms.device(&request.eid);
    let subject = Subject { eid: &request.eid, keyset: &request.keyset, purpose: &request.purpose, object };
    let (protocol, needs, work) = match &request.answer {
        CardAnswer::Packet { packet, receipt } => {
            let tar = ResponsePacket::tar_of(packet)
                .ok_or_else(|| subject.invalid("response_packet is no response packet"))?;
            let work = OtaWork::OpenResponse { packet: packet.clone(), receipt: *receipt };
            (Protocol::Scp80, vec![Need::Tar(tar.0)], work)
        }
        CardAnswer::Script { host_challenge, sequence_counter, aid, level, commands, answers } => {
            let origin = SequenceOrigin { counter: *sequence_counter, aid: aid.clone() };
            let channel =
                PreparedChannel { host_challenge: host_challenge.clone(), origin, level: level.value() };
            let (wrapped, answers) = (commands.clone(), answers.clone());
            (Protocol::Scp03, Vec::new(), OtaWork::OpenAnswers { channel, wrapped, answers })
        }
    };
    if request.keyset.protocol != protocol {
        return Err(subject.invalid("packets are of SCP80 keysets, scripts of SCP03 keysets"));
    }
    let allowed = subject.allowed(engines, platform, protocol, &needs, now)?;
    let foreign = || {
        subject.refuse(Refusal::new(
            ReasonCode::ResponseNotAuthentic,
            "this is no answer of the card to what was made here, or it was changed on its way",
        ))
    };
    let keyset = engines.sourced(&request.eid, &request.keyset, &allowed.keyset)?;
    let opened = engines.token.ota(OtaJob { items: vec![(keyset, work)] }, options).await?.pop();
    let store = engines.store.as_ref();
    let name = (&request.eid, &request.keyset);
    let outcome = (EventType::OtaResponseOpened, Outcome::Done);
    let mut entry = allowed.entry(outcome, pseudonyms, platform, &subject, request.request_digest)?;
    let answer = match (opened, &request.answer) {
        (Some(OtaOutcome::Response(response)), CardAnswer::Packet { .. }) => {
            // A counter that was never taken here belongs to somebody else's packet.
            if counter::last_taken(store, name)?.is_none_or(|last| response.counter > last) {
                return Err(foreign());
            }
            entry = entry
                .fact("tar", bytes_fact(&response.tar.0)?)
                .fact("counter", Fact::Number(response.counter))
                .fact("result", Fact::fixed_name(response.status.as_str()));
            AnswerOpened::Packet(response)
        }
        (Some(OtaOutcome::Answers(answers)), CardAnswer::Script { sequence_counter, .. }) => {
            let [high, middle, low] = *sequence_counter;
            let counter = u32::from_be_bytes([0, high, middle, low]);
            if sequence::last(store, name)?.is_none_or(|last| counter > last) {
                return Err(foreign());
            }
            entry = entry
                .fact("sequence_counter", Fact::Number(u64::from(counter)))
                .fact("count", Fact::Number(answers.len() as u64));
            AnswerOpened::Script(answers)
        }
        (Some(OtaOutcome::NotAuthentic), _) => return Err(foreign()),
        _ => return Err(KmsError::Record("answer")),
    };
    let mut commit = allowed.commit();
    commit.entries.push(entry);
    Ok((commit, answer))
}
