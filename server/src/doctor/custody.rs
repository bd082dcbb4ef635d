//! How each long-lived key would be restored, and which transport keys end soon.

use ca::KeyRegistration;
use domain::Timestamp;
use kms::{TransportKey, TransportKeyState};
use store::Store;

use super::report::Check;
use crate::services::backup_statement;

/// A transport key that ends sooner is said: a party needs time for its next one.
const WARNING_SECONDS: i64 = 30 * 86_400;

/// The checks; skipped when the records were not read.
pub(super) fn checks(records: Option<&impl Store>, now: Timestamp) -> Vec<Check> {
    let (backup, ends) = ("keys.backup", "keys.transport");
    let Some(store) = records else {
        let why = "the records are in the log, which was not read";
        return vec![Check::skipped(backup, why), Check::skipped(ends, why)];
    };
    vec![restorable(Check::new(backup), store), transport(Check::new(ends), store, now)]
}

fn restorable(mut check: Check, store: &impl Store) -> Check {
    let Ok(keys) = KeyRegistration::all(store) else {
        check.fault("the records of the keys cannot be read", "restore the log from its backup");
        return check;
    };
    for key in keys {
        let imported = if key.key.role.is_imported() {
            "; imported: where its value has been is not for the token to say"
        } else {
            ""
        };
        check.detail(format!("{}: {}{imported}", key.key.key, backup_statement(&key.backup)));
    }
    check
}

fn transport(mut check: Check, store: &impl Store, now: Timestamp) -> Check {
    let Ok(keys) = TransportKey::all(store, None) else {
        check.fault("the records of transport keys cannot be read", "restore the log from its backup");
        return check;
    };
    let soon = now.plus_seconds(WARNING_SECONDS);
    for key in &keys {
        let name = format!("{} (of {}, version {})", key.name, key.party, key.number);
        match key.state(&keys, now) {
            TransportKeyState::InForce if key.expires <= soon => check.warn(
                format!("{name} ends {}", key.expires),
                "have the party make its next key and register it: `chancery transport-key register`",
            ),
            TransportKeyState::InForce => check.detail(format!("{name} until {}", key.expires)),
            TransportKeyState::Followed | TransportKeyState::Expired | TransportKeyState::Retired => {}
        }
    }
    check
}
