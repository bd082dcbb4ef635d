//! Remote SIM provisioning: the transactions of an SM-DP+ whose keys are in our token, step by step as in
//! `docs/cycles/rsp.md`. What a certificate says is decided before, by who knows certificates ([`ServerKey`],
//! [`ProvedEuicc`]).

mod authenticate;
mod bind;
mod initiate;
mod keys;
mod package;
mod transaction;
mod upkeep;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use audit::Pseudonym;
use domain::{Eid, ReasonCode, Refusal};
use ecc::EcPublicKey;
use store::Precondition;

pub use authenticate::{Authenticated, Authentication, authenticate};
pub use bind::{Binding, Bound, bind};
pub use initiate::{Initiated, Initiation, initiate};
pub use keys::RspKey;
pub use package::{PackageRequest, SignedPackage, sign_package};
pub use transaction::{OpenTransactions, Step, Transaction};
pub use upkeep::upkeep;

use crate::devices::DeviceRecord;
use crate::grants::{GrantFinding, GrantTerms};
use crate::{Grants, KmsError};

/// How long a transaction lasts: what a download over a slow bearer may take.
pub const TRANSACTION_SECONDS: i64 = 600;
/// Transactions of one SM-DP+ that may be there at a time, ended ones included until they expire.
pub const TRANSACTIONS_MAX: u32 = 50_000;
/// One-time keys of the eUICC that one transaction binds: it makes a new one when its first was lost.
pub const BINDINGS_MAX: u32 = 4;
/// Wrong confirmation codes for one profile before it is refused.
pub const CODE_TRIES_MAX: u32 = 3;
/// How long wrong codes are remembered after the last one.
pub const CODE_TRIES_SECONDS: i64 = 86_400;

/// What every operation of this module works with.
#[derive(Clone)]
pub struct Engines {
    /// The log and the state.
    pub store: Arc<dyn store::Store>,
    /// The token that holds the keys of SM-DP+.
    pub token: hsm::Token,
    /// The provisioners' grants.
    pub grants: Arc<Grants>,
    /// How many transactions each SM-DP+ has.
    pub open: Arc<OpenTransactions>,
}

/// A registered key whose certificate is in force.
#[derive(Clone)]
pub struct ServerKey {
    /// The key.
    pub key: RspKey,
    /// That its certificate, and those above it, still are when the deed is committed.
    pub unchanged: Vec<Precondition>,
}

/// An eUICC whose certificate leads to our certificate issuer and is in force, by whoever verified it.
#[derive(Clone)]
pub struct ProvedEuicc {
    /// The EID in the certificate.
    pub eid: Eid,
    /// PK.EUICC.ECDSA.
    pub public_key: EcPublicKey,
    /// Serial numbers of its certificate and of those above it, to look at again at the binding.
    pub serial_numbers: Vec<Vec<u8>>,
    /// Those of them that are revoked.
    pub revoked: Vec<Vec<u8>>,
    /// That the others still are in force when the deed is committed.
    pub unchanged: Vec<Precondition>,
}

/// A device that a grant covers, and that both still are so when the deed is committed.
struct Granted {
    terms: Arc<GrantTerms>,
    unchanged: [Precondition; 2],
}

impl Engines {
    /// Whether a grant of the SM-DP+ covers the device for the purpose, and the device may be served. The grant comes
    /// first, so that a caller learns nothing about devices that are none of its business.
    fn granted(
        &self,
        provisioner: &str,
        eid: &Eid,
        purpose: &str,
        now: domain::Timestamp,
        object: Pseudonym,
    ) -> Result<Granted, KmsError> {
        let refuse = |reason, message: &str| Err(KmsError::refused(reason, message, Some(object)));
        let (terms, version) =
            match self.grants.find(self.store.as_ref(), provisioner, eid, purpose, &[], now)? {
                GrantFinding::Granted { terms, version } => (terms, version),
                GrantFinding::Lacks(need) => return Err(with_object(need.refusal(), object)),
                GrantFinding::Expired => {
                    return refuse(ReasonCode::GrantExpired, "the grant over this device has expired");
                }
                GrantFinding::NotGranted => {
                    return refuse(ReasonCode::NotGranted, "no grant covers this device for this purpose");
                }
            };
        let device = DeviceRecord::read(self.store.as_ref(), eid)?;
        let Some((device, state)) = device.and_then(|device| device.state.map(|state| (device, state)))
        else {
            return refuse(ReasonCode::UnknownDevice, "no device is registered under this EID");
        };
        if !state.releases_keys() {
            return refuse(ReasonCode::DeviceNotActive, &format!("the device is {}", state.as_str()));
        }
        let unchanged = [device.unchanged(eid), crate::grants::unchanged(&terms, version)];
        Ok(Granted { terms, unchanged })
    }
}

fn with_object(refusal: Refusal, object: Pseudonym) -> KmsError {
    KmsError::refused(refusal.reason, refusal.message, Some(object))
}
