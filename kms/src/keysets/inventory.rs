//! Reconciliation: what a card says it holds (GET DATA 00E0) against the records. Pure but for reading them.

use std::collections::BTreeMap;

use audit::{EntryDraft, EventType, Fact, Outcome, Pseudonym};
use domain::{Eid, KeyState, KeyUsage, KeysetAlgorithm, ReasonCode, Role, SecurityDomain, Timestamp};
use keys::key_information::{KeyInformation, parse_key_information};
use store::Store;

use crate::KmsError;
use crate::devices::{KeysetName, KeysetRecord};

/// Key types (GP Card Specification table 11-16).
const DES: u8 = 0x80;
const PSK_TLS: u8 = 0x85;
const AES: u8 = 0x88;

/// How a key differs between records and card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Active or suspended in the records, not named by the card.
    Missing,
    /// Named by the card, unknown to the records or destroyed there.
    Extra,
    /// Of another length.
    WrongLength,
    /// Of another kind.
    WrongType,
}

/// Kind and length of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InventoryKey {
    /// Type (GP Card Specification table 11-16).
    pub key_type: u8,
    /// Length.
    pub bytes: u16,
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InventoryFinding {
    /// Which.
    pub difference: Difference,
    /// Key version number.
    pub kvn: u8,
    /// Key identifier.
    pub key_identifier: u8,
    /// As the records say.
    pub recorded: Option<InventoryKey>,
    /// As the card says.
    pub on_card: Option<InventoryKey>,
    /// State of the keyset in the records.
    pub state: Option<KeyState>,
}

/// What a comparison comes to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reconciliation {
    /// Keys that are where the records say.
    pub agreed: u32,
    /// The differences, by key version number and key identifier.
    pub findings: Vec<InventoryFinding>,
    /// Keys of kinds that are not managed here.
    pub unmanaged: u32,
}

impl Reconciliation {
    fn count(&self, differences: &[Difference]) -> u64 {
        self.findings.iter().filter(|finding| differences.contains(&finding.difference)).count() as u64
    }
}

/// Reads the card's answer and the records of one security domain, and compares them. Changes nothing.
pub fn reconcile(
    store: &dyn Store,
    eid: &Eid,
    domain: SecurityDomain,
    answer: &[u8],
    object: Pseudonym,
    now: Timestamp,
) -> Result<Reconciliation, KmsError> {
    let keys = parse_key_information(answer)
        .map_err(|e| KmsError::refused(ReasonCode::InvalidField, e.to_string(), Some(object)))?;
    let keysets = KeysetRecord::of_device(store, eid)?;
    let of_domain: Vec<_> = keysets
        .iter()
        .filter(|(name, _)| name.security_domain == domain)
        .map(|(name, keyset)| (*name, keyset.algorithm, keyset.state_at(now)))
        .collect();
    Ok(reconciliation(&of_domain, &keys))
}

/// The comparison. Pure.
///
/// Active and suspended keysets must be on the card and destroyed ones must not; one before its activation, deactivated
/// or compromised may be there or not, but what is there has the right kind and length.
pub fn reconciliation(
    keysets: &[(KeysetName, KeysetAlgorithm, KeyState)],
    keys: &[KeyInformation],
) -> Reconciliation {
    let mut recorded = BTreeMap::new();
    for (name, algorithm, state) in keysets {
        for usage in name.protocol.usages() {
            let bytes = u16::try_from(algorithm.key_bytes()).unwrap_or(u16::MAX);
            let key = InventoryKey { key_type: key_type(*usage, *algorithm), bytes };
            recorded.insert((name.kvn.value(), usage.code()), (key, *state));
        }
    }
    let mut result = Reconciliation::default();
    let mut seen = BTreeMap::new();
    for key in keys {
        match key.components.first() {
            Some(part) if is_symmetric(part.key_type) => {
                let on_card = InventoryKey { key_type: part.key_type, bytes: part.bytes };
                seen.insert((key.kvn, key.key_identifier), on_card);
            }
            _ => result.unmanaged += 1,
        }
    }
    let mut places: Vec<_> = recorded.keys().chain(seen.keys()).copied().collect();
    places.sort_unstable();
    places.dedup();
    for place in places {
        let (known, on_card) = (recorded.get(&place).copied(), seen.get(&place).copied());
        let difference = match (known, on_card) {
            (Some((_, KeyState::Active | KeyState::Suspended)), None) => Some(Difference::Missing),
            (None | Some((_, KeyState::Destroyed)), Some(_)) => Some(Difference::Extra),
            (Some((recorded, _)), Some(found)) if family(recorded.key_type) != family(found.key_type) => {
                Some(Difference::WrongType)
            }
            (Some((recorded, _)), Some(found)) if recorded.bytes != found.bytes => {
                Some(Difference::WrongLength)
            }
            (Some(_), Some(_)) => {
                result.agreed += 1;
                None
            }
            (Some(_) | None, None) => None,
        };
        result.findings.extend(difference.map(|difference| InventoryFinding {
            difference,
            kvn: place.0,
            key_identifier: place.1,
            recorded: known.map(|(key, _)| key),
            on_card,
            state: known.map(|(_, state)| state),
        }));
    }
    result
}

/// The entry of a comparison.
pub fn reconciled_entry(
    (role, actor): (Role, Pseudonym),
    device: Pseudonym,
    request_digest: [u8; 32],
    result: &Reconciliation,
) -> EntryDraft {
    EntryDraft::new(EventType::KeysetReconciled, Outcome::Done)
        .role(role)
        .actor(actor)
        .object(device)
        .request(request_digest)
        .fact("count", Fact::Number(u64::from(result.agreed)))
        .fact("missing", Fact::Number(result.count(&[Difference::Missing])))
        .fact("extra", Fact::Number(result.count(&[Difference::Extra])))
        .fact("wrong", Fact::Number(result.count(&[Difference::WrongLength, Difference::WrongType])))
}

/// The type that a card names for a key of a keyset.
const fn key_type(usage: KeyUsage, algorithm: KeysetAlgorithm) -> u8 {
    match (usage, algorithm) {
        (KeyUsage::Psk, _) => PSK_TLS,
        (_, KeysetAlgorithm::Aes128 | KeysetAlgorithm::Aes192 | KeysetAlgorithm::Aes256) => AES,
        (_, KeysetAlgorithm::TripleDes2Key | KeysetAlgorithm::TripleDes3Key) => DES,
    }
}

/// DES in its modes is one family: cards name 80 to 84 for the same key.
const fn family(key_type: u8) -> u8 {
    match key_type {
        DES..=0x84 => DES,
        other => other,
    }
}

const fn is_symmetric(key_type: u8) -> bool {
    matches!(key_type, DES..=PSK_TLS | AES)
}

#[cfg(test)]
mod tests {
    use domain::{KeyVersionNumber, Protocol};
    use keys::key_information::KeyComponent;

    use super::*;

    fn keyset(
        kvn: u32,
        algorithm: KeysetAlgorithm,
        state: KeyState,
    ) -> (KeysetName, KeysetAlgorithm, KeyState) {
        let name = KeysetName {
            security_domain: SecurityDomain::IsdR,
            protocol: Protocol::Scp03,
            kvn: KeyVersionNumber::scp03(kvn).unwrap(),
        };
        (name, algorithm, state)
    }

    fn on_card(kvn: u8, key_type: u8, bytes: u16) -> Vec<KeyInformation> {
        let key = |key_identifier| KeyInformation {
            key_identifier,
            kvn,
            components: vec![KeyComponent { key_type, bytes }],
            usage: Vec::new(),
            access: Vec::new(),
        };
        (1..=3).map(key).collect()
    }

    fn differences(result: &Reconciliation) -> Vec<(u8, u8, Difference)> {
        result.findings.iter().map(|f| (f.kvn, f.key_identifier, f.difference)).collect()
    }

    #[test]
    fn a_card_that_holds_what_the_records_say_has_no_differences() {
        let records = [keyset(0x30, KeysetAlgorithm::Aes128, KeyState::Active)];
        let result = reconciliation(&records, &on_card(0x30, 0x88, 16));
        assert_eq!((result.agreed, result.findings.len(), result.unmanaged), (3, 0, 0));
    }

    #[test]
    fn each_kind_of_difference_is_named_with_its_key() {
        let records = [
            keyset(0x30, KeysetAlgorithm::Aes128, KeyState::Active),
            keyset(0x31, KeysetAlgorithm::Aes256, KeyState::Active),
            keyset(0x32, KeysetAlgorithm::Aes128, KeyState::Suspended),
            keyset(0x33, KeysetAlgorithm::Aes128, KeyState::Destroyed),
        ];
        let mut card = on_card(0x31, 0x88, 16);
        card.extend(on_card(0x32, 0x80, 16));
        card.extend(on_card(0x33, 0x88, 16));
        card.extend(on_card(0xff, 0x88, 16));
        card.push(KeyInformation {
            key_identifier: 1,
            kvn: 0x70,
            components: vec![
                KeyComponent { key_type: 0xa1, bytes: 128 },
                KeyComponent { key_type: 0xa0, bytes: 3 },
            ],
            usage: Vec::new(),
            access: Vec::new(),
        });
        let result = reconciliation(&records, &card);
        let three = |kvn, difference| (1..=3).map(move |id| (kvn, id, difference));
        let expected: Vec<_> = three(0x30, Difference::Missing)
            .chain(three(0x31, Difference::WrongLength))
            .chain(three(0x32, Difference::WrongType))
            .chain(three(0x33, Difference::Extra))
            .chain(three(0xff, Difference::Extra))
            .collect();
        assert_eq!(differences(&result), expected);
        assert_eq!((result.agreed, result.unmanaged), (0, 1));
    }

    #[test]
    fn keysets_of_every_protocol_are_expected_with_their_own_keys_and_types() {
        let of = |protocol: Protocol, kvn, algorithm| {
            let kvn = KeyVersionNumber::new(protocol, kvn).unwrap();
            let name = KeysetName { security_domain: SecurityDomain::MnoSd, protocol, kvn };
            (name, algorithm, KeyState::Active)
        };
        let records = [
            of(Protocol::Scp80, 0x01, KeysetAlgorithm::TripleDes3Key),
            of(Protocol::Scp81, 0x40, KeysetAlgorithm::Aes256),
        ];
        let mut card = on_card(0x01, 0x82, 24);
        card.extend(on_card(0x40, 0x85, 32));
        card.truncate(5);
        // A TLS keyset has two keys, and its second one is no pre-shared key.
        let result = reconciliation(&records, &card);
        assert_eq!((result.agreed, differences(&result)), (4, vec![(0x40, 2, Difference::WrongType)]));
    }

    #[test]
    fn a_keyset_that_may_be_on_the_card_or_not_is_no_difference_unless_it_is_another_there() {
        for state in [KeyState::PreActivation, KeyState::Deactivated, KeyState::Compromised] {
            let records = [keyset(0x30, KeysetAlgorithm::Aes256, state)];
            assert_eq!(reconciliation(&records, &[]), Reconciliation::default());
            assert_eq!(reconciliation(&records, &on_card(0x30, 0x88, 32)).agreed, 3);
            assert_eq!(reconciliation(&records, &on_card(0x30, 0x88, 16)).findings.len(), 3);
        }
    }
}
