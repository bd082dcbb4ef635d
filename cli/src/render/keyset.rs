//! Operations on keysets and compromised keys, for the person who signs them.

use proto::v1::{
    ChangeKeysetState, CompromisedTransport, MarkCompromised, TaintConsequence, mark_compromised::Key,
};

use super::Fields;
use crate::output::printable;
use crate::rotation::terms::keyset_words;

pub(super) fn change_keyset_state(out: &mut Fields, change: &ChangeKeysetState) {
    let ChangeKeysetState { eid, keyset, state, consequence } = change;
    out.text("eid", eid);
    out.add("keyset", keyset.as_ref().map_or_else(|| "NO KEYSET".to_owned(), keyset_words));
    out.add(
        "state",
        match state.as_str() {
            "active" => "active: it was suspended and releases session keys again".to_owned(),
            "deactivated" => "deactivated: it releases no session keys any more, for good".to_owned(),
            "compromised" => {
                "compromised: its keys are known to others; it releases nothing any more".to_owned()
            }
            "destroyed" => "destroyed: it can never be used again, not even to replace it".to_owned(),
            other => format!("{} (UNKNOWN)", printable(other)),
        },
    );
    if state == "compromised" || *consequence != 0 {
        out.add("consequence", consequence_words(*consequence));
    }
}

pub(super) fn mark_compromised(out: &mut Fields, mark: &MarkCompromised) {
    let MarkCompromised { key, consequence } = mark;
    match key {
        Some(Key::MasterGeneration(generation)) => {
            out.add("key", format!("the derivation master, generation {generation}"));
            out.add("behind_it", "EVERY KEYSET that was derived from this generation");
        }
        Some(Key::Transport(CompromisedTransport { party, order })) if order.is_empty() => {
            out.text("party", party);
            out.add("key", "all transport keys of this manufacturer, its registered one included");
            out.add(
                "behind_it",
                "every keyset of every order it was delivered; it can order nothing under this key",
            );
        }
        Some(Key::Transport(CompromisedTransport { party, order })) => {
            out.text("party", party);
            out.text("order", order);
            out.add("key", "the transport keys of this order");
            out.add("behind_it", "every keyset of the order, and what was delivered under these");
        }
        None => out.add("key", "NONE"),
    }
    out.add("consequence", consequence_words(*consequence));
}

fn consequence_words(consequence: i32) -> &'static str {
    match TaintConsequence::try_from(consequence) {
        Ok(TaintConsequence::Compromised) => {
            "compromised: every keyset behind it stops at once; these devices cannot be reached with it any more"
        }
        Ok(TaintConsequence::Flagged) => {
            "flagged: every keyset behind it is worth 0 bits and keeps its state, so that devices can be rotated"
        }
        Ok(TaintConsequence::Unspecified) => "not said",
        Err(_) => "UNKNOWN",
    }
}
