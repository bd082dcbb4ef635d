//! Rotations: moving keysets of many devices to a new key version (`docs/cycles/rotation.md`).
//!
//! A rotation is one row with its counts, a row per device, and a queue of the devices that wait. Whatever changes the
//! counts takes the rotation's turn and names the row's version, so counts and items never part.

mod carried;
mod deletion;
mod lease;
mod plan;
mod progress;
mod report;
mod terms;
#[cfg(test)]
pub(crate) mod tests;
mod upkeep;

pub use carried::CarriedScript;
pub use deletion::{
    Deletion, DeletionReport, DeletionResult, Deletions, DeletionsRequest, fetch_deletions, report_deletions,
};
pub use lease::{Carrier, Script, Scripts, ScriptsRequest, fetch_scripts};
pub use plan::{ExclusionReason, RotationPlan};
pub use progress::{Failure, ItemState, Rotation, RotationState};
pub use report::{Cryptogram, ItemReport, ItemResult, Proofs, check_proofs, report};
pub use terms::RotationTerms;
pub use upkeep::{
    check_roll_back, check_start, device_rotations, roll_back_rotation, set_paused, start_rotation, upkeep,
};
