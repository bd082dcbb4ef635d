//! Scripts that leave carried over a channel prepared for each card: what a lease takes for it, and the channel itself.

use domain::{Eid, Timestamp};
use hsm::{OtaJob, OtaOutcome, OtaWork, PreparedChannel, SequenceOrigin, SourcedKeyset};
use keys::apdu::Apdu;
use store::{Commit, Store};

use super::progress::ItemChannel;
use super::terms::ScriptChannel;
use crate::devices::KeysetName;
use crate::sequence::{self, Named};
use crate::{Engines, KmsError};

/// The commands of one card as it takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedScript {
    /// INITIALIZE UPDATE, EXTERNAL AUTHENTICATE, PUT KEY or DELETE.
    pub commands: Vec<Vec<u8>>,
    /// What the card must answer to the first: its challenge.
    pub card_challenge: Vec<u8>,
    /// See [`Self::card_challenge`].
    pub card_cryptogram: Vec<u8>,
    /// The sequence counter that the card must have.
    pub sequence_counter: [u8; 3],
}

/// One card whose script is to be carried.
pub(super) struct Carrying {
    pub(super) eid: Eid,
    /// Which opens the channel.
    pub(super) keyset: SourcedKeyset,
    pub(super) channel: ItemChannel,
    pub(super) command: Vec<u8>,
}

/// The next sequence counter of a card and a host challenge, taken in this commit; none when the card's counters have ended.
pub(super) fn take_channel(
    store: &dyn Store,
    channel: &ScriptChannel,
    keyset: (&Eid, &KeysetName),
    commit: &mut Commit,
) -> Result<Option<ItemChannel>, KmsError> {
    let counter = match sequence::last(store, keyset)? {
        None => channel.first_counter,
        Some(last) => match (last + 1).to_be_bytes() {
            [0, high, middle, low] => [high, middle, low],
            _ => return Ok(None),
        },
    };
    if sequence::take(store, keyset, counter, Named::ByProvisioner, commit)?.is_err() {
        return Ok(None);
    }
    let mut host_challenge = vec![0; channel.i.mode().bytes()];
    getrandom::fill(&mut host_challenge).map_err(KmsError::Entropy)?;
    Ok(Some(ItemChannel { counter, host_challenge }))
}

/// Has the token carry the scripts, in one job; and adds to the commit, unless it is a repeat, that nobody else opens a session
/// with these challenges.
pub(super) async fn carry(
    engines: &Engines,
    (name, channel): (&KeysetName, &ScriptChannel),
    cards: Vec<Carrying>,
    (is_repeat, now): (bool, Timestamp),
    options: hsm::CallOptions,
    commit: &mut Commit,
) -> Result<Vec<CarriedScript>, KmsError> {
    if cards.is_empty() {
        return Ok(Vec::new());
    }
    let (mut items, mut known) = (Vec::with_capacity(cards.len()), Vec::with_capacity(cards.len()));
    for Carrying { eid, keyset, channel: taken, command } in cards {
        let origin = SequenceOrigin { counter: taken.counter, aid: channel.aid.clone() };
        let prepared = PreparedChannel {
            host_challenge: taken.host_challenge.clone(),
            origin,
            level: channel.level.value(),
        };
        items.push((keyset, OtaWork::Script { channel: prepared, commands: vec![command] }));
        known.push((eid, taken));
    }
    let outcomes = engines.token.ota(OtaJob { items }, options).await?;
    let mut scripts = Vec::with_capacity(known.len());
    for ((eid, taken), outcome) in known.iter().zip(outcomes) {
        let OtaOutcome::Script(script) = outcome else { return Err(KmsError::Record("script")) };
        if !is_repeat {
            let pair = [&taken.host_challenge[..], &script.card_challenge].concat();
            let keyset = (eid, name);
            engines
                .challenges
                .claim(engines.store.as_ref(), keyset, &pair, now, commit)?
                .map_err(|refusal| KmsError::refused(refusal.reason, refusal.message, None))?;
        }
        let kvn = name.kvn.value();
        let begin = Apdu::new([0x80, 0x50, kvn, 0], taken.host_challenge.clone(), Some(0)).to_bytes();
        scripts.push(CarriedScript {
            commands: [vec![begin, script.external_authenticate], script.commands].concat(),
            card_challenge: script.card_challenge,
            card_cryptogram: script.card_cryptogram,
            sequence_counter: taken.counter,
        });
    }
    Ok(scripts)
}
