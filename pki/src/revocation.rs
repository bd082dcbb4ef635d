//! What revocation lists say of a verified chain (RFC 5280 §6.3), for relying parties who hold the lists themselves.
//!
//! Strict: a list that belongs to no authority of the chain, does not verify or is not current is a refusal, and so is a
//! certificate that names lists when none of its issuer's is at hand. A policy milder than that is the caller's to write.

use crate::certificate::Certificate;
use crate::chain::VerifiedChain;
use crate::civil_time::CivilTime;
use crate::crl::Crl;
use crate::error::PkiError;
use domain::RevocationReason;

/// What the lists say of one certificate of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A current list of its issuer does not hold it.
    NotRevoked,
    /// It names no list and its issuer's is not at hand: SGP.26 eUICC certificates, which their EUM cannot revoke.
    NamesNoList,
    /// The root: trusted or not, no list of its own decides.
    Root,
}

impl Standing {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRevoked => "not-revoked",
            Self::NamesNoList => "names-no-list",
            Self::Root => "root",
        }
    }
}

/// What the lists refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationRefusal {
    /// A list of an issuer that is not in the chain.
    #[error("the revocation list is of none of the chain's authorities")]
    IssuerDiffers {
        /// Its place among the given ones, from 0.
        list: usize,
    },
    /// A list that names its issuer's name but another key.
    #[error("the revocation list names another key than its issuer's")]
    IssuerKeyDiffers {
        /// Its place among the given ones, from 0.
        list: usize,
    },
    /// The issuer may not sign lists.
    #[error("the revocation list is of an authority whose certificate does not allow it to sign lists")]
    SigningNotAllowed {
        /// Its place among the given ones, from 0.
        list: usize,
    },
    /// The signature is not the issuer's.
    #[error("the signature of the revocation list does not verify under its issuer's key")]
    BadSignature {
        /// Its place among the given ones, from 0.
        list: usize,
    },
    /// Made after the time in question.
    #[error("the revocation list was made at {this_update}, after the time in question")]
    NotYetValid {
        /// Its place among the given ones, from 0.
        list: usize,
        /// Its thisUpdate.
        this_update: CivilTime,
    },
    /// Past its nextUpdate.
    #[error("the revocation list is out of date: a newer one was due by {next_update}")]
    Overdue {
        /// Its place among the given ones, from 0.
        list: usize,
        /// Its nextUpdate.
        next_update: CivilTime,
    },
    /// A certificate is on its issuer's list.
    #[error("it was revoked at {at}: {}", reason.as_str())]
    Revoked {
        /// 0 is the leaf.
        depth: usize,
        /// Since when.
        at: CivilTime,
        /// Why.
        reason: RevocationReason,
    },
    /// A certificate names lists, and none of its issuer's is at hand.
    #[error("it names revocation lists, but none of its issuer's is given")]
    Unknown {
        /// 0 is the leaf.
        depth: usize,
    },
}

impl RevocationRefusal {
    /// The stable name for programs.
    pub const fn finding(&self) -> &'static str {
        match self {
            Self::IssuerDiffers { .. } => "crl-issuer-differs",
            Self::IssuerKeyDiffers { .. } => "crl-issuer-key-differs",
            Self::SigningNotAllowed { .. } => "crl-signing-not-allowed",
            Self::BadSignature { .. } => "crl-bad-signature",
            Self::NotYetValid { .. } => "crl-not-yet-valid",
            Self::Overdue { .. } => "crl-overdue",
            Self::Revoked { .. } => "revoked",
            Self::Unknown { .. } => "revocation-unknown",
        }
    }
}

/// Checks every certificate of `chain` against `lists` at the time `at`; the standings are in the chain's order, leaf first.
/// Everything that is wrong is told, lists first, then certificates from the leaf up.
pub fn check(
    chain: &VerifiedChain,
    lists: &[Crl],
    at: CivilTime,
) -> Result<Vec<Standing>, Vec<RevocationRefusal>> {
    let certificates = chain.certificates();
    // A chain of the root alone has it as its only authority.
    let authorities = if certificates.len() == 1 { certificates } else { &certificates[1..] };
    let mut refusals = Vec::new();
    let mut signed = Vec::with_capacity(lists.len());
    for (place, list) in lists.iter().enumerate() {
        match check_signed(place, list, authorities) {
            Ok(()) => signed.push(list),
            Err(refusal) => refusals.push(refusal),
        }
        refusals.extend(check_current(place, list, at).err());
    }
    let mut standings = Vec::with_capacity(certificates.len());
    for (depth, certificate) in certificates.iter().enumerate() {
        let Some(issuer) = certificates.get(depth + 1) else {
            standings.push(Standing::Root);
            continue;
        };
        let is_of_issuer = |list: &Crl| list.issuer_name_der() == issuer.subject_name_der();
        // An entry of a list that is out of date is true all the same; one of a list that nobody signed is nothing.
        let entry =
            signed.iter().filter(|list| is_of_issuer(list)).find_map(|list| list.find(certificate.serial()));
        if let Some(entry) = entry {
            refusals.push(RevocationRefusal::Revoked { depth, at: entry.revoked_at, reason: entry.reason });
        } else if lists.iter().any(is_of_issuer) {
            standings.push(Standing::NotRevoked);
        } else if certificate.names_crls() {
            refusals.push(RevocationRefusal::Unknown { depth });
        } else {
            standings.push(Standing::NamesNoList);
        }
    }
    // A list that cannot be believed is among the refusals, so the standings it would have given never leave.
    if refusals.is_empty() { Ok(standings) } else { Err(refusals) }
}

fn check_signed(list: usize, crl: &Crl, authorities: &[Certificate]) -> Result<(), RevocationRefusal> {
    let issuer = authorities
        .iter()
        .find(|authority| authority.subject_name_der() == crl.issuer_name_der())
        .ok_or(RevocationRefusal::IssuerDiffers { list })?;
    crl.verify(issuer).map_err(|error| match error {
        PkiError::CrlSigningNotAllowed => RevocationRefusal::SigningNotAllowed { list },
        PkiError::SignatureInvalid => RevocationRefusal::BadSignature { list },
        _ => RevocationRefusal::IssuerKeyDiffers { list },
    })
}

fn check_current(list: usize, crl: &Crl, at: CivilTime) -> Result<(), RevocationRefusal> {
    if at < crl.this_update() {
        return Err(RevocationRefusal::NotYetValid { list, this_update: crl.this_update() });
    }
    if at > crl.next_update() {
        return Err(RevocationRefusal::Overdue { list, next_update: crl.next_update() });
    }
    Ok(())
}
