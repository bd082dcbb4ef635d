//! The words of the field as types that cannot be wrong: parsed once at the edge, trusted inside.
//!
//! Pure: no network, token, store or clock of its own. `docs/glossary.md` settles what each word means.

mod clock;
mod curve;
mod device;
mod eid;
mod keyset;
mod order;
mod principal;
mod reason;
mod revocation;
mod sgp22;

pub use clock::{Clock, Timestamp, TimestampError};
pub use curve::{Curve, EuiccCurve, NoEuiccCurve, UnknownCurve, UnknownEuiccCurve};
pub use device::{DeviceState, FreezeReason};
pub use eid::{Eid, EidError, Ein};
pub use keyset::{
    DeviceKeyset, KekEpoch, KeyCheckValue, KeyState, KeyUsage, KeyVersionNumber, KeysetAlgorithm,
    MasterGeneration, Protocol, SecurityDomain, UnknownCode,
};
pub use order::OrderFormat;
pub use principal::{PrincipalId, Role};
pub use reason::{ReasonCode, Refusal};
pub use revocation::{RevocationReason, UnknownRevocationReason};
pub use sgp22::Sgp22Status;
