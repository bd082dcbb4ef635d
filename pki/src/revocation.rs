//! What revocation lists say of a verified chain (RFC 5280 §6.3), for relying parties who hold the lists themselves.
//!
//! Strict: a list that belongs to no authority of the chain, does not verify or is not current is a refusal, and so is a
//! certificate that names lists when none of its issuer's is at hand. A policy milder than that is the caller's to write.

use crate::certificate::Certificate;
use crate::chain::VerifiedChain;
use crate::civil_time::CivilTime;
use crate::crl::{CertificateKinds, Crl, RevokedCertificate};
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
    #[error("it names revocation lists, but none of its issuer's is given that covers it")]
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
        let of_issuer: Vec<&Crl> = signed.iter().copied().filter(|list| is_of_issuer(list)).collect();
        if let Some(entry) = entry_of(certificate, &of_issuer) {
            refusals.push(RevocationRefusal::Revoked { depth, at: entry.revoked_at, reason: entry.reason });
        } else if covers(certificate, &lists.iter().filter(|list| is_of_issuer(list)).collect::<Vec<_>>()) {
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

/// What the lists of its issuer say of a certificate. A delta list takes from full lists between its base and itself, and adds to
/// them.
fn entry_of<'a>(certificate: &Certificate, lists: &[&'a Crl]) -> Option<&'a RevokedCertificate> {
    let serial = certificate.serial();
    let is_removed = |list: &Crl| {
        lists.iter().any(|delta| {
            delta
                .scope()
                .base
                .is_some_and(|base| Some(base) <= list.number() && list.number() < delta.number())
                && delta.removed().iter().any(|removed| removed.serial == *serial)
        })
    };
    lists
        .iter()
        .filter_map(|list| list.find(serial).map(|entry| (list, entry)))
        .find(|(list, _)| list.scope().base.is_some() || !is_removed(list))
        .map(|(_, entry)| entry)
}

/// Whether what the lists do not say of a certificate is not so: a full list, one of a distribution point that the certificate
/// names, or all parts of one.
fn covers(certificate: &Certificate, lists: &[&Crl]) -> bool {
    let urls = certificate.crl_urls();
    lists.iter().any(|list| {
        let scope = list.scope();
        let is_kind = match scope.certificates {
            CertificateKinds::All => true,
            CertificateKinds::EndEntities => !certificate.is_authority(),
            CertificateKinds::Authorities => certificate.is_authority(),
        };
        let is_point = scope.distribution_points.is_empty()
            || scope.distribution_points.iter().any(|point| urls.contains(point));
        let has_part = |part: u64, total: u64| {
            lists
                .iter()
                .any(|other| other.number() == list.number() && other.scope().part == Some((part, total)))
        };
        let is_whole = scope.part.is_none_or(|(_, total)| {
            total <= lists.len() as u64 && (1..=total).all(|part| has_part(part, total))
        });
        scope.base.is_none() && is_kind && is_point && is_whole
    })
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
