//! Secured packets.

use audit::{EventType, Fact, Outcome, Pseudonyms};
use domain::{Protocol, Refusal, Timestamp};
use hsm::{OtaJob, OtaOutcome, OtaWork};
use keys::scp80::{CommandPacket, Counter, secured_data};
use store::Commit;

use super::counter::{self, Reservation};
use super::{Allowed, PacketRequest, Platform, Subject, bytes_fact, instructions, refuse_key_management};
use crate::allowance::Need;
use crate::{Engines, KmsError};

/// What may be answered once the commit is durable.
#[derive(Clone, Debug)]
pub struct SecuredPacket {
    /// From CPL on.
    pub packet: Vec<u8>,
    /// Its counter.
    pub counter: u64,
    /// SPI, from which its answer is opened.
    pub security_parameters: [u8; 2],
}

/// Steps 3 to 6 of `docs/cycles/ota.md`: decides, takes a counter (its own commit), has the token make the packet, and
/// returns the commit that must be durable before it leaves.
pub async fn secure_packet(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    platform: &Platform,
    request: &PacketRequest,
    now: Timestamp,
    options: hsm::CallOptions,
) -> Result<(Commit, SecuredPacket), KmsError> {
    let object = pseudonyms.device(&request.eid);
    let subject = Subject { eid: &request.eid, keyset: &request.keyset, purpose: &request.purpose, object };
    // 3. Decide.
    refuse_key_management(&request.commands).map_err(|refusal| subject.refuse(refusal))?;
    if request.keyset.protocol != Protocol::Scp80 {
        return Err(subject.invalid("secured packets take a keyset of SCP80"));
    }
    let mut needs = instructions(&request.commands);
    needs.push(Need::Tar(request.tar.0));
    let allowed = subject.allowed(engines, platform, Protocol::Scp80, &needs, now)?;
    let may_run = |ins| allowed.terms.allowance.allows(Need::Instruction(ins));
    let data = secured_data(request.format, &request.commands, may_run)
        .map_err(|e| subject.invalid(e.to_string()))?;
    // 4. The counter.
    let counter = taken(engines, pseudonyms, platform, request, &subject, &allowed, now).await?;
    // 5. The packet.
    let spi = request.security_parameters();
    let packet = CommandPacket::new(spi, request.keyset.kvn, request.tar, counter, data)
        .map_err(|e| subject.invalid(e.to_string()))?;
    let keyset = engines.sourced(&request.eid, &request.keyset, &allowed.keyset)?;
    let job = OtaJob { items: vec![(keyset, OtaWork::Packet(packet))] };
    let Some(OtaOutcome::Packet(packet)) = engines.token.ota(job, options).await?.pop() else {
        return Err(KmsError::Record("packet"));
    };
    // 6. The entry.
    let outcome = if request.id.is_repeat { Outcome::Repeated } else { Outcome::Done };
    let made = (EventType::OtaPacketMade, outcome);
    let mut commit = allowed.commit();
    commit.entries.push(
        allowed
            .entry(made, pseudonyms, platform, &subject, request.id.digest)?
            .fact("tar", bytes_fact(&request.tar.0)?)
            .fact("counter", Fact::Number(counter.value()))
            .fact("commands", Fact::Number(request.commands.len() as u64))
            .fact("packet", Fact::Digest(audit::sha256(&packet))),
    );
    let answer = SecuredPacket { packet, counter: counter.value(), security_parameters: spi.to_bytes() };
    Ok((commit, answer))
}

/// The counter that the request has taken, or takes now, durably.
async fn taken(
    engines: &Engines,
    pseudonyms: &Pseudonyms,
    platform: &Platform,
    request: &PacketRequest,
    subject: &Subject<'_>,
    allowed: &Allowed,
    now: Timestamp,
) -> Result<Counter, KmsError> {
    let store = engines.store.as_ref();
    let refuse = |refusal: Refusal| subject.refuse(refusal);
    let _turn = engines.ota.turn(&request.eid).await;
    if let Some(earlier) = counter::reserved(store, platform, &request.id, now)?.map_err(refuse)? {
        return Counter::new(earlier.counter).map_err(|_| KmsError::Record("reservation"));
    }
    if request.id.is_repeat {
        return Err(KmsError::Record("reservation"));
    }
    let mut commit = allowed.commit();
    commit.preconditions.push(platform.unchanged.clone());
    counter::count(store, &allowed.terms, &request.eid, now, &mut commit)?.map_err(refuse)?;
    let keyset = (&request.eid, &request.keyset);
    let counter = counter::take(store, keyset, request.counter, &mut commit)?.map_err(refuse)?;
    let reservation = Reservation { counter: counter.value(), host_challenge: Vec::new() };
    counter::reserve(store, &engines.ota, platform, &request.id, &reservation, now, &mut commit)?;
    let taken = (EventType::OtaCounterTaken, Outcome::Intent);
    commit.entries.push(
        allowed
            .entry(taken, pseudonyms, platform, subject, request.id.digest)?
            .fact("counter", Fact::Number(counter.value())),
    );
    store.commit(commit).await?;
    Ok(counter)
}
