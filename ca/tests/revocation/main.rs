//! Revocation and revocation lists over a real store and a real SoftHSM token.
#![expect(clippy::unwrap_used, reason = "what tests build from is known to be good")]

mod adopted;
mod authority;
mod crash;
mod lists;
mod ocsp;
mod other_lists;
mod revoke;
