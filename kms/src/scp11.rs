//! Sessions of SCP11a and SCP11c: the platform's and the cards' keys, and the steps of `docs/cycles/scp11.md`.

mod keys;
mod session;

pub use keys::{CardKey, CardKeyName, NewCardKey, OceKey, register_card_keys};
pub use session::{
    OpenedSession, Scp11Fetch, SealedScp11Keys, SessionRequest, fetch_scp11_keys, open_scp11_session,
};
