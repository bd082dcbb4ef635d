//! Certificates judged for others: the GSMA chain rules up to an issuer of this authority, and what the register says.

use domain::Timestamp;
use pki::chain::{ChainRefusal, check_same_entity, gsma_role, verify_chain};
use pki::{Certificate, CertificateRole, CivilTime};
use store::Store;

use crate::anchors::{Anchor, revoked_by_anchor};
use crate::hierarchy::Hierarchy;
use crate::register_key::{RegisterKey, Registered};
use crate::revocation::revocation_of;
use crate::{CaError, Engines};

/// What is to be judged.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// DER.
    pub certificate: &'a [u8],
    /// DER, in any order, without the root.
    pub intermediates: &'a [Vec<u8>],
    /// The role it must hold; the one of its policy when absent.
    pub role: Option<CertificateRole>,
    /// Of a DPauth or DPpb certificate the other one, DER.
    pub pair: Option<&'a [u8]>,
    /// The time in question.
    pub at: Timestamp,
}

/// The answer; it holds when there is no finding.
#[derive(Debug, Default)]
pub struct Judgement {
    /// The role judged, if one was known.
    pub role: Option<CertificateRole>,
    /// Leaf first; empty when the chain is refused.
    pub chain: Vec<JudgedLink>,
    /// Each reason against it.
    pub findings: Vec<Finding>,
}

/// A certificate of a verified chain.
#[derive(Debug)]
pub struct JudgedLink {
    /// The certificate.
    pub certificate: Certificate,
    /// What the register says of it.
    pub standing: RegisterStanding,
}

/// What the register says of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterStanding {
    /// Issued here and not revoked.
    InForce,
    /// Issued here and revoked.
    Revoked,
    /// A root that is trusted here.
    Trusted,
    /// Not issued here: a manufacturer certifies its devices with a key of its own.
    NotRegistered,
}

impl RegisterStanding {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InForce => "in-force",
            Self::Revoked => "revoked",
            Self::Trusted => "trusted",
            Self::NotRegistered => "not-registered",
        }
    }
}

/// One reason against a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Its stable name (`docs/formats/certificate-verdict.md`).
    pub finding: &'static str,
    /// In words.
    pub problem: String,
    /// The certificate's place in the chain, 0 the leaf.
    pub depth: usize,
}

/// Judges a certificate. What is wrong with it is a finding; an error is ours.
pub fn judge(engines: &Engines, question: &Question<'_>) -> Result<Judgement, CaError> {
    let store = engines.store.as_ref();
    let mut judgement = Judgement::default();
    let mut against = |finding, problem: String, depth| {
        judgement.findings.push(Finding { finding, problem, depth });
    };
    let Ok(at) = CivilTime::from_timestamp(question.at) else {
        against("time", "the time in question is none that certificates can hold".to_owned(), 0);
        return Ok(judgement);
    };
    let leaf = match Certificate::from_der(question.certificate) {
        Ok(leaf) => leaf,
        Err(error) => {
            against("malformed", format!("it is no certificate: {error}"), 0);
            return Ok(judgement);
        }
    };
    let mut intermediates = Vec::with_capacity(question.intermediates.len());
    for der in question.intermediates {
        match Certificate::from_der(der) {
            Ok(certificate) => intermediates.push(certificate),
            Err(error) => against("malformed", format!("an intermediate is no certificate: {error}"), 1),
        }
    }
    let Some(role) = question.role.or_else(|| gsma_role(&leaf)) else {
        against("role-unknown", "it names the policy of no GSMA role, or of several".to_owned(), 0);
        return Ok(judgement);
    };
    judgement.role = Some(role);
    let own = Hierarchy::of(engines)?;
    let anchors = Anchor::all(store)?.into_iter().filter(|anchor| !anchor.retired);
    let roots: Vec<_> = own.roots.into_iter().chain(anchors.map(|anchor| anchor.certificate)).collect();
    intermediates.extend(own.below);
    match verify_chain(&leaf, &intermediates, &roots, role, Some(at)) {
        Ok(chain) => {
            let root = chain.certificates().len() - 1;
            let identifier = chain.certificates()[root].subject_key_identifier().unwrap_or_default();
            let anchor = Anchor::of_key(store, identifier)?;
            if let Some(why) =
                anchor.as_ref().map(|anchor| anchor.in_force(store, &[], question.at)).transpose()?
                && let Err(problem) = why
            {
                judgement.findings.push(Finding { finding: "revocation-unknown", problem, depth: root });
            }
            for (depth, certificate) in chain.certificates().iter().enumerate() {
                let standing = if depth == root {
                    RegisterStanding::Trusted
                } else {
                    let (standing, finding) = match &anchor {
                        Some(anchor) => standing_elsewhere(store, anchor, certificate, depth)?,
                        None => standing(store, certificate, depth)?,
                    };
                    judgement.findings.extend(finding);
                    standing
                };
                judgement.chain.push(JudgedLink { certificate: certificate.clone(), standing });
            }
        }
        Err(refusal) => judgement.findings.push(chain_finding(&refusal)),
    }
    if let Some(pair) = question.pair {
        judgement.findings.extend(judge_pair(&leaf, role, pair, &intermediates, &roots, at));
    }
    Ok(judgement)
}

/// What an anchor's list says of a certificate of its hierarchy; one that our own issuers made under it is in the register too.
fn standing_elsewhere(
    store: &dyn Store,
    anchor: &Anchor,
    certificate: &Certificate,
    depth: usize,
) -> Result<(RegisterStanding, Option<Finding>), CaError> {
    let serial = certificate.serial().as_bytes();
    if let Some((at, reason)) = revoked_by_anchor(store, &anchor.name, serial)? {
        let problem = format!("{} revoked it at {at}: {reason}", anchor.name);
        return Ok((RegisterStanding::Revoked, Some(Finding { finding: "revoked", problem, depth })));
    }
    match Registered::of_certificate(store, certificate)? {
        Some(_) => standing(store, certificate, depth),
        None => Ok((RegisterStanding::NotRegistered, None)),
    }
}

fn standing(
    store: &dyn Store,
    certificate: &Certificate,
    depth: usize,
) -> Result<(RegisterStanding, Option<Finding>), CaError> {
    let Some(found) = Registered::of_certificate(store, certificate)? else {
        let issued = RegisterKey::issued(certificate.serial().as_bytes());
        let differs = Registered::of_key(store, issued)?.map(|_| Finding {
            finding: "register-differs",
            problem: "the register has another certificate of this serial number".to_owned(),
            depth,
        });
        return Ok((RegisterStanding::NotRegistered, differs));
    };
    Ok(match revocation_of(&found.record)? {
        None => (RegisterStanding::InForce, None),
        Some(revocation) => {
            let problem = format!("it was revoked at {}: {}", revocation.at, revocation.reason);
            (RegisterStanding::Revoked, Some(Finding { finding: "revoked", problem, depth }))
        }
    })
}

/// Whether the other of DPauth and DPpb holds too, and belongs to the same entity.
fn judge_pair(
    leaf: &Certificate,
    role: CertificateRole,
    pair: &[u8],
    intermediates: &[Certificate],
    roots: &[Certificate],
    at: CivilTime,
) -> Option<Finding> {
    let against = |finding, problem: String| Some(Finding { finding, problem, depth: 0 });
    let other_role = match role {
        CertificateRole::DpAuth => CertificateRole::DpPb,
        CertificateRole::DpPb => CertificateRole::DpAuth,
        _ => return against("pair-role", "only dpauth and dppb certificates come in pairs".to_owned()),
    };
    let other = match Certificate::from_der(pair) {
        Ok(other) => other,
        Err(error) => return against("malformed", format!("the other of the pair is none: {error}")),
    };
    if let Err(refusal) = verify_chain(&other, intermediates, roots, other_role, Some(at)) {
        let finding = chain_finding(&refusal);
        return Some(Finding { problem: format!("the other of the pair: {}", finding.problem), ..finding });
    }
    let (auth, pb) = if role == CertificateRole::DpAuth { (leaf, &other) } else { (&other, leaf) };
    check_same_entity(auth, pb).err().map(|refusal| chain_finding(&refusal))
}

fn chain_finding(refusal: &ChainRefusal) -> Finding {
    Finding { finding: refusal.reason.finding(), problem: refusal.reason.to_string(), depth: refusal.depth }
}
