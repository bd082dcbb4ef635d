//! Scripts of SCP03 for a card that is not there: its challenge follows from its sequence counter, which is kept here.

use audit::{EventType, Fact, Outcome, Pseudonyms};
use domain::{Protocol, ReasonCode, Refusal, Timestamp};
use hsm::{OtaJob, OtaOutcome, OtaWork, PreparedChannel, SequenceOrigin};
use keys::apdu::Apdu;
use store::Commit;

use super::counter::{self, Reservation};
use super::{Allowed, Platform, ScriptRequest, Subject, bytes_fact, instructions, refuse_key_management};
use crate::sequence::{self, Named};
use crate::{Engines, KmsError};

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub struct PreparedScript {
    /// INITIALIZE UPDATE with the host's challenge.
    pub initialize_update: Vec<u8>,
    /// The rest of it, and what the card will answer.
    pub script: hsm::WrappedScript,
    /// The sequence counter that the card will have.
    pub sequence_counter: [u8; 3],
    /// The host's challenge.
    pub host_challenge: Vec<u8>,
}

/// Steps 3 to 6 of `docs/cycles/ota.md` for a script: decides, takes a sequence counter (its own commit), has the token open
/// the channel and carry the commands over it, and returns the commit that must be durable before they leave.
pub async fn wrap_script(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    platform: &Platform,
    request: &ScriptRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, PreparedScript), KmsError> {
    let object = pseudonyms.device(&request.eid);
    let subject = Subject { eid: &request.eid, keyset: &request.keyset, purpose: &request.purpose, object };
    // 3. Decide.
    refuse_key_management(&request.commands).map_err(|refusal| subject.refuse(refusal))?;
    if request.keyset.protocol != Protocol::Scp03 {
        return Err(subject.invalid("scripts take a keyset of SCP03"));
    }
    let needs = instructions(&request.commands);
    let allowed = subject.allowed(engines, platform, Protocol::Scp03, &needs, now)?;
    // 4. The sequence counter.
    let taken = taken(engines, pseudonyms, platform, request, &subject, &allowed, now).await?;
    let [.., high, middle, low] = taken.counter.to_be_bytes();
    let sequence_counter = [high, middle, low];
    // 5. The script.
    let channel = PreparedChannel {
        host_challenge: taken.host_challenge,
        origin: SequenceOrigin { counter: sequence_counter, aid: request.aid.clone() },
        level: request.level.value(),
    };
    let host_challenge = channel.host_challenge.clone();
    let commands = request.commands.iter().map(Apdu::to_bytes).collect();
    let keyset = engines.sourced(&request.eid, &request.keyset, &allowed.keyset)?;
    let job = OtaJob { items: vec![(keyset, OtaWork::Script { channel, commands })] };
    let script = match engines.token.ota(job, options).await?.pop() {
        Some(OtaOutcome::Script(script)) => script,
        Some(OtaOutcome::Refused(why)) => return Err(subject.invalid(why)),
        _ => return Err(KmsError::Record("script")),
    };
    // 6. The entry.
    let outcome = if request.id.is_repeat { Outcome::Repeated } else { Outcome::Done };
    let mut commit = allowed.commit();
    if !request.id.is_repeat {
        // A session with these challenges is not to be opened by anybody else, with or without a card.
        let pair = [&host_challenge[..], &script.card_challenge].concat();
        let keyset = (&request.eid, &request.keyset);
        engines
            .challenges
            .claim(engines.store.as_ref(), keyset, &pair, now, &mut commit)?
            .map_err(|refusal| subject.refuse(refusal))?;
    }
    let made = (EventType::OtaScriptMade, outcome);
    commit.entries.push(
        allowed
            .entry(made, pseudonyms, platform, &subject, request.id.digest)?
            .fact("sequence_counter", Fact::Number(taken.counter))
            .fact("security_level", Fact::Number(u64::from(request.level.value())))
            .fact("mode", Fact::fixed_name(request.i.mode().as_str()))
            .fact("commands", Fact::Number(request.commands.len() as u64))
            .fact("host_challenge", bytes_fact(&host_challenge)?)
            .fact("card_challenge", bytes_fact(&script.card_challenge)?),
    );
    let kvn = request.keyset.kvn.value();
    let initialize_update = Apdu::new([0x80, 0x50, kvn, 0], host_challenge.clone(), Some(0)).to_bytes();
    Ok((commit, PreparedScript { initialize_update, script, sequence_counter, host_challenge }))
}

/// The sequence counter and host challenge that the request has taken, or takes now, durably.
async fn taken(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    platform: &Platform,
    request: &ScriptRequest,
    subject: &Subject<'_>,
    allowed: &Allowed,
    now: Timestamp,
) -> Result<Reservation, KmsError> {
    let store = engines.store.as_ref();
    let refuse = |refusal: Refusal| subject.refuse(refusal);
    let _turn = engines.ota.turn(&request.eid).await;
    if let Some(earlier) = counter::reserved(store, platform, &request.id, now)?.map_err(refuse)? {
        return Ok(earlier);
    }
    if request.id.is_repeat {
        return Err(KmsError::Record("reservation"));
    }
    let mut commit = allowed.commit();
    commit.preconditions.push(platform.unchanged.clone());
    counter::count(store, &allowed.terms, &request.eid, now, &mut commit)?.map_err(refuse)?;
    let keyset = (&request.eid, &request.keyset);
    let wanted = match (request.sequence_counter, sequence::last(store, keyset)?) {
        (Some(wanted), _) => wanted,
        (None, Some(last)) => match (last + 1).to_be_bytes() {
            [0, high, middle, low] => [high, middle, low],
            _ => {
                let ended = "the 3-byte sequence counter of this keyset has ended";
                return Err(refuse(Refusal::new(ReasonCode::PacketCounterExhausted, ended)));
            }
        },
        (None, None) => {
            return Err(subject.invalid(
                "no sequence counter of this card is known: say in sequence_counter which one it will have",
            ));
        }
    };
    sequence::take(store, keyset, wanted, Named::ByProvisioner, &mut commit)?.map_err(refuse)?;
    let mut host_challenge = vec![0; request.i.mode().bytes()];
    getrandom::fill(&mut host_challenge).map_err(KmsError::Entropy)?;
    let [high, middle, low] = wanted;
    let counter = u64::from(u32::from_be_bytes([0, high, middle, low]));
    let reservation = Reservation { counter, host_challenge };
    counter::reserve(store, &engines.ota, platform, &request.id, &reservation, now, &mut commit)?;
    let taken = (EventType::OtaCounterTaken, Outcome::Intent);
    commit.entries.push(
        allowed
            .entry(taken, pseudonyms, platform, subject, request.id.digest)?
            .fact("sequence_counter", Fact::Number(counter)),
    );
    store.commit(commit).await?;
    Ok(reservation)
}
