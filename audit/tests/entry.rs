//! Entries: one form, nothing personal, nothing free.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise, and says so")]

mod support;

use audit::{
    AuditError, ENTRY_MAX, Entry, EntryDraft, EventType, FACT_FIELDS, FACTS_MAX, Fact, FactKind, Name,
    Outcome, Pseudonym, Pseudonyms, ShortBytes,
};
use domain::{Eid, PrincipalId, ReasonCode, Role, Timestamp};
use proptest::prelude::*;
use support::{at, pseudonyms};
use zeroize::Zeroizing;

const EID: &str = "89049032123451234512345678901235";

#[test]
fn a_sealed_entry_is_this_line() {
    let eid: Eid = EID.parse().unwrap();
    let draft = EntryDraft::new(EventType::SessionKeysReleased, Outcome::Refused(ReasonCode::GrantExpired))
        .role(Role::Provisioner)
        .actor(Pseudonym::from_bytes([0xab; 16]))
        .object(pseudonyms().device(&eid))
        .request([1; 32])
        .fact("protocol", Fact::fixed_name("scp03"))
        .fact("kvn", Fact::Number(48))
        .fact("host_challenge", Fact::bytes(&[0, 1, 2]).unwrap())
        .fact("expires", Fact::Time(at(0)));
    let object = pseudonyms().device(&eid).to_string();
    let expected = format!(
        "{{\"v\":1,\"index\":9,\"time\":\"2026-11-24T20:06:43.009000Z\",\"event\":\"session_keys.released\",\
         \"outcome\":\"refused\",\"reason\":\"GRANT_EXPIRED\",\"role\":\"provisioner\",\
         \"actor\":\"abababababababababababababababab\",\"object\":\"{object}\",\"facts\":{{\
         \"expires\":\"2026-11-24T20:06:43.000000Z\",\"host_challenge\":\"x:000102\",\"kvn\":48,\
         \"protocol\":\"scp03\",\"request\":\"sha256:{}\"}}}}",
        "01".repeat(32)
    );
    let bytes = draft.seal(9, at(9));
    assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
    let entry = Entry::parse(&bytes).unwrap();
    assert_eq!(
        (entry.header.outcome, entry.number("kvn"), entry.name("protocol")),
        (draft.outcome(), Some(48), Some("scp03"))
    );
}

#[test]
fn an_entry_in_any_other_form_is_refused() {
    let line = String::from_utf8(support::released(1).seal(3, at(3))).unwrap();
    assert!(Entry::parse(line.as_bytes()).is_ok());
    let others = [
        line.replace("\"v\":1", "\"v\":2"),
        line.replace("\"v\":1", "\"v\": 1"),
        line.replace("\"index\":3", "\"index\":03"),
        line.replace("\"index\":3", "\"index\":3.0"),
        line.replace("\"index\":3", "\"index\":3,\"index\":3"),
        line.replace("\"reason\":null,", ""),
        line.replace("\"reason\":null", "\"reason\":\"NOT_GRANTED\""),
        line.replace("\"reason\":null", "\"reason\":null,\"note\":\"x\""),
        line.replace("\"kvn\":48", "\"kvn\":-1"),
        line.replace("\"kvn\":48", "\"kvn\":\"Free text\""),
        line.replace("\"kvn\":48", "\"kvn\":{\"a\":1}"),
        line.replace("\"kvn\":48", "\"kvn\":48,\"kvn\":48"),
        line.replace("\"kvn\":48", "\"kvn\":48,\"alert\":\"late\""),
        line.replace("\"kvn\":48", "\"k\\u0076n\":48"),
        line.replace("\"kvn\":48", &format!("\"kvn\":\"x:{EID}\"")),
        line.replace("session_keys.released", "session_keys.leaked"),
        line.replace("provisioner", "Provisioner"),
        line.replace("Z\"", "+00:00\""),
        line.replace("p", "\\u0070"),
        format!("{line}\n"),
        format!(" {line}"),
        format!("{}{}", line, " ".repeat(ENTRY_MAX)),
        String::new(),
    ];
    for other in others {
        assert_ne!(other, line);
        assert!(matches!(Entry::parse(other.as_bytes()), Err(AuditError::Entry(_))), "{other}");
    }
}

#[test]
fn every_event_outcome_role_and_fact_reads_back() {
    for event in EventType::ALL {
        assert_eq!(event.as_str().parse::<EventType>().unwrap(), *event);
    }
    let mut outcomes = vec![Outcome::Done, Outcome::Intent, Outcome::Repeated];
    outcomes.extend(
        ReasonCode::ALL.iter().flat_map(|reason| [Outcome::Refused(*reason), Outcome::Failed(*reason)]),
    );
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let role = Role::ALL[index % Role::ALL.len()];
        let bytes = EntryDraft::new(EventType::RecordRead, outcome).role(role).seal(index as u64, at(0));
        let entry = Entry::parse(&bytes).unwrap();
        assert_eq!((entry.header.outcome, entry.header.role, entry.to_bytes()), (outcome, Some(role), bytes));
    }
    for row in FACT_FIELDS {
        let bytes = EntryDraft::new(EventType::RecordRead, Outcome::Done)
            .fact(row.name, longest(row.kind))
            .seal(0, at(0));
        assert_eq!(Entry::parse(&bytes).unwrap().facts[row.name], longest(row.kind));
    }
}

#[test]
fn the_field_table_is_sorted_and_printed_in_the_documentation() {
    assert!(FACT_FIELDS.windows(2).all(|pair| pair[0].name < pair[1].name));
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats/log-entry.md"))
        .unwrap();
    for row in FACT_FIELDS {
        let line = format!("| `{}` | {} | {} |", row.name, row.kind.as_str(), row.meaning);
        assert!(page.contains(&line), "docs/formats/log-entry.md lacks: {line}");
    }
    for event in EventType::ALL {
        assert!(
            page.contains(&format!("| `{}` |", event.as_str())),
            "docs/formats/log-entry.md lacks {}",
            event.as_str()
        );
    }
}

fn longest(kind: FactKind) -> Fact {
    match kind {
        FactKind::Number => Fact::Number(u64::MAX),
        FactKind::Digest => Fact::Digest([0xff; 32]),
        FactKind::Name => Fact::name(&"a".repeat(64)).unwrap(),
        FactKind::Pseudonym => Fact::Pseudonym(Pseudonym::from_bytes([0xff; 16])),
        FactKind::Time => Fact::Time(at(0)),
        FactKind::Bytes => Fact::bytes(&[0xff; 64]).unwrap(),
    }
}

#[test]
fn the_longest_entry_fits() {
    let mut rows: Vec<_> = FACT_FIELDS.iter().collect();
    let written = |row: &audit::FactField| {
        row.name.len()
            + EntryDraft::new(EventType::RecordRead, Outcome::Done)
                .fact(row.name, longest(row.kind))
                .seal(0, at(0))
                .len()
    };
    rows.sort_by_key(|row| std::cmp::Reverse(written(row)));
    let reason = *ReasonCode::ALL.iter().max_by_key(|reason| reason.as_str().len()).unwrap();
    let mut draft = EntryDraft::new(EventType::OrderOutputConfirmed, Outcome::Refused(reason))
        .role(Role::Provisioner)
        .actor(Pseudonym::from_bytes([0xff; 16]))
        .object(Pseudonym::from_bytes([0xff; 16]));
    for row in rows.into_iter().take(FACTS_MAX) {
        draft = draft.fact(row.name, longest(row.kind));
    }
    let bytes = draft.seal(u64::MAX, at(0));
    assert!(bytes.len() <= ENTRY_MAX, "{}", bytes.len());
    assert!(Entry::parse(&bytes).is_ok());
}

#[test]
fn a_fact_outside_the_field_table_cannot_be_written() {
    let draft = || EntryDraft::new(EventType::RecordRead, Outcome::Done);
    let refused: [fn(EntryDraft) -> EntryDraft; 4] = [
        |draft| draft.fact("imsi", Fact::Number(1)),
        |draft| draft.fact("kvn", Fact::fixed_name("scp03")),
        |draft| draft.fact("kvn", Fact::Number(1)).fact("kvn", Fact::Number(2)),
        |draft| FACT_FIELDS.iter().fold(draft, |draft, row| draft.fact(row.name, longest(row.kind))),
    ];
    for fact in refused {
        assert!(std::panic::catch_unwind(move || fact(draft())).is_err());
    }
}

#[test]
fn a_name_is_no_place_for_numbers_of_subscribers_or_free_text() {
    for name in ["scp03", "p-256", "sgp22.v3_euicc", "x25519mlkem768", "0", "20261124"] {
        assert_eq!(Name::new(name).unwrap().as_str(), name);
    }
    let long = "a".repeat(65);
    for text in
        ["", EID, "901700000000001", "eid-89049032123451", "Free", "a b", "-a", "ü", "a\"b", "a:b", &long]
    {
        assert_eq!(Name::new(text), Err(AuditError::Name(text.to_owned())), "{text}");
    }
}

#[test]
fn short_bytes_are_no_eid_and_no_body() {
    let eid: Eid = EID.parse().unwrap();
    assert_eq!(ShortBytes::new(eid.bcd()), Err(AuditError::ShortBytes));
    assert_eq!(ShortBytes::new(&[]), Err(AuditError::ShortBytes));
    assert_eq!(ShortBytes::new(&[0; 65]), Err(AuditError::ShortBytes));
    assert!(ShortBytes::new(&[0; 16]).is_ok());
}

#[test]
fn pseudonyms_differ_by_kind_value_and_year_and_match_hmac() {
    let one = pseudonyms();
    assert_ne!(one.party("a"), one.person("a"));
    assert_ne!(one.person("a"), one.order("a"));
    assert_ne!(one.person("a"), one.person("b"));
    let principal = PrincipalId([3; 32]);
    assert_eq!(one.principal(&principal), pseudonyms().principal(&principal));
    let next = Pseudonyms::new(Zeroizing::new([8; 32]), 2027);
    assert_ne!(next.person("a"), one.person("a"));
    assert_eq!(next.year(), 2027);
    // printf 'person\0a' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07, first 16 bytes.
    assert_eq!(one.person("a").to_string(), PERSON_A);
}

const PERSON_A: &str = "03b1dfda87f6de11d4e9752d6fc24952";

proptest! {
    #[test]
    fn no_entry_about_a_device_holds_its_eid(body in "[0-9]{30}", index: u64, micros in 0i64..4_000_000_000_000_000) {
        let eid = Eid::from_body(&body).unwrap();
        let names = pseudonyms();
        let text = eid.to_string();
        prop_assert!(Fact::name(&text).is_err());
        prop_assert!(Fact::bytes(eid.bcd()).is_err());
        prop_assert!(Fact::bytes(text.as_bytes()).is_err());
        let bytes = EntryDraft::new(EventType::DeviceRegistered, Outcome::Done)
            .role(Role::Eum)
            .actor(names.party("eum.example"))
            .object(names.device(&eid))
            .fact("order", Fact::Pseudonym(names.order("2026-1")))
            .fact("line", Fact::Number(index))
            .seal(index, Timestamp::from_micros(micros));
        let line = String::from_utf8(bytes.clone()).unwrap();
        prop_assert!(!line.contains(&text) && !line.contains(&text[..20]));
        prop_assert_eq!(Entry::parse(&bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Entry::parse(&bytes).is_err());
    }
}
