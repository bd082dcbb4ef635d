//! Authorities, issuance and revocation: the operations on the certificate side.
//!
//! A certificate is prepared (profile, lint), its serial number and intent are committed, the token signs exactly the
//! linted bytes, other code verifies, and the outcome is committed (`docs/cycles/issuance.md`). A revocation is committed, then
//! the issuer's next list and every OCSP
//! answer show it (`docs/cycles/revocation.md`, `docs/cycles/ocsp.md`). Knows no transport.

mod adopted;
mod anchors;
pub mod ceremony;
mod error;
mod hierarchy;
mod imported;
mod issuance;
mod issuers;
mod keyspaces;
mod ocsp;
mod publication;
mod register;
mod register_key;
mod revocation;
mod standing;
mod staple;
mod verification;

use std::sync::Arc;

pub use adopted::{
    ADOPTED_CERTIFICATES_MAX, ADOPTED_LIST_ENTRIES_MAX, ADOPTION_SECONDS, Adopted, Adoption, AdoptionRequest,
    Taken, adopt_certificates,
};
pub use anchors::{ANCHOR_LIST_ENTRIES_MAX, ANCHORS_MAX, Anchor, AnchorList};
pub use error::{CaError, Refused};
pub use imported::{INTERMEDIATES_MAX, Import, ImportRequest, list_imported};
pub use issuance::{
    About, CertificateRequest, Issued, Prepared, Root, SubjectKey, check_request, prepare, self_sign, sign,
};
pub use issuers::{Issuer, Issuers, KeyRegistration};
pub use keyspaces::KEYSPACES;
pub use ocsp::{
    OCSP_AHEAD_MAX, OCSP_VALIDITY_SECONDS, OcspAnswer, Responder, check_responder, responder_due,
    responder_name, responder_request,
};
pub use publication::{
    CRL_DISTRIBUTION_POINTS, CRL_PATH, CRL_REFRESH_AFTER_SECONDS, CRL_SHARDS_MAX, CRL_VALIDITY_DAYS, Due,
    DueReason, ListKind, ListName, ListPolicy, PreparedCrl, PublishedCrl, ReservedCrl, Shard, SignedCrl,
    crls_due, newest_crl, prepare_crl, publish_crl, sign_crl,
};
pub use register::{
    CERTIFICATES_PER_PAGE, CertificateFilter, CertificateIndex, CertificatePage, CertificateView,
    Reservation, find_by_eid, find_by_serial, list_certificates, reservations,
};
pub use register_key::serial_of;
pub use revocation::{
    HOLDS_MAX, REVOCATIONS_MAX, Releasing, Revocation, RevocationRequest, Revoking, hold, release, revoke,
    revoke_many,
};
pub use standing::{InForce, VerifiedEuicc, in_force_for_key, still_in_force, verify_euicc};
pub use staple::staple;
pub use verification::{Finding, JudgedLink, Judgement, Question, RegisterStanding, judge};

/// What every operation of this crate works with.
#[derive(Clone)]
pub struct Engines {
    /// The log and the state.
    pub store: Arc<dyn store::Store>,
    /// The token that holds the issuers' keys.
    pub token: hsm::Token,
    /// The issuers.
    pub issuers: Arc<Issuers>,
    /// Public keys whose private half is published: refused outside development.
    pub known_keys: pki::KnownKeys,
    /// Where CRLs are published, without slash at the end: `http://crl.example.org`.
    pub crl_base_url: Arc<str>,
    /// Which revocation lists are made beside the full ones.
    pub lists: ListPolicy,
    /// Certificate policy and practice statement in force, named by each issuance entry.
    pub policy: audit::Name,
}
