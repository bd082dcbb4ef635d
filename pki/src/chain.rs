//! GSMA chain verification (SGP.22 v2 §4.5.2.2) and that of the operator CA.
//!
//! RFC 5280 path validation refuses every genuine eUICC chain, because the EUM's directoryName constraint is no prefix of the
//! eUICC's subject. GSMA has a rule of its own, which is the one here; no eUICC chain may go to a general verifier.
//! Revocation is not decided here: see [`crate::revocation`], for callers who hold lists.

use crate::certificate::Certificate;
use crate::civil_time::CivilTime;
use crate::der;
use crate::error::PkiError;
use crate::key::{KnownKeys, PublicKey};
use crate::oid;
use crate::profile::{self, AttributeKind, CertificateProfile, ExtensionValue, KeyUsageBit, Purpose};
use crate::role::CertificateRole;
use ecc::Hash;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::x509::X509Name;

/// Certificates offered as intermediates or roots; more are refused unread.
const CANDIDATES_MAX: usize = 256;

/// A chain that passed, from the leaf to the root, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    role: CertificateRole,
    certificates: Vec<Certificate>,
}

impl VerifiedChain {
    /// The role that the leaf was verified for.
    pub const fn role(&self) -> CertificateRole {
        self.role
    }

    /// Leaf first, root last.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The verified certificate.
    pub fn leaf(&self) -> &Certificate {
        &self.certificates[0]
    }

    /// The trusted root it leads to.
    pub fn root(&self) -> &Certificate {
        &self.certificates[self.certificates.len() - 1]
    }
}

/// Why a chain is refused: at which certificate, counted from the leaf (0), and for what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate {depth} of the chain is refused: {reason}")]
pub struct ChainRefusal {
    /// 0 is the leaf, 1 its issuer, and so on.
    pub depth: usize,
    /// For what.
    pub reason: ChainReason,
}

/// What a certificate of a chain can be refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainReason {
    /// More certificates offered than are looked at.
    #[error("more than {CANDIDATES_MAX} certificates offered")]
    TooManyCandidates,
    /// The certificate names no issuer key.
    #[error("it has no authority key identifier")]
    NoAuthorityKeyIdentifier,
    /// No certificate with that key is offered or trusted.
    #[error("no certificate has the key {0} that it names as its issuer's")]
    IssuerNotFound(String),
    /// A root that is not one of the trusted ones.
    #[error("it is not one of the trusted roots")]
    NotTrusted,
    /// The signature does not verify under the issuer's key.
    #[error("its signature does not verify under the issuer's key")]
    BadSignature,
    /// The issuer's key, or its own, is on no curve of ours.
    #[error("its key is refused: {0}")]
    UnsupportedKey(String),
    /// Signed with something other than the ecdsa-with-SHA2 of the issuer's curve.
    #[error("it is signed with another algorithm than that of its issuer's curve")]
    SignatureAlgorithm,
    /// Before notBefore.
    #[error("it is not valid yet")]
    NotYetValid,
    /// After notAfter.
    #[error("it has expired")]
    Expired,
    /// A critical extension that its profile does not have.
    #[error("it has the unknown critical extension {0}")]
    UnknownCriticalExtension(String),
    /// The key usage lacks what the role needs.
    #[error("its key usage is not that of the role")]
    KeyUsage,
    /// The certificate policy is not the role's.
    #[error("its certificate policy is not that of the role")]
    Policy,
    /// The extended key usage lacks what the role needs.
    #[error("its extended key usage is not that of the role")]
    ExtendedKeyUsage,
    /// An issuer that is no CA.
    #[error("it is no certificate authority")]
    NotAnAuthority,
    /// A leaf that is a CA.
    #[error("it is a certificate authority")]
    IsAnAuthority,
    /// The path length is not the role's.
    #[error("its path length is not that of the role")]
    PathLength,
    /// An EUM without name constraints.
    #[error("it has no name constraints")]
    NameConstraintsMissing,
    /// Name constraints of another form than (organizationName, serialNumber) pairs.
    #[error("its name constraints are no pairs of organisation and IIN")]
    NameConstraintsMalformed,
    /// The eUICC's organisation is none of the EUM's.
    #[error("its organisation is none that its issuer may certify")]
    OrganizationNotPermitted,
    /// The EID does not start with the IIN paired with the organisation.
    #[error("its EID does not start with an IIN that its issuer may certify for the organisation")]
    EidNotPermitted,
    /// No serialNumber of 32 digits in the subject.
    #[error("its subject holds no EID of 32 digits")]
    EidMissing,
    /// The alternative names hold no registered identifier.
    #[error("it has no registered identifier")]
    NoRegisteredId,
    /// DPauth and DPpb belong to different entities.
    #[error("its registered identifier differs from that of its partner")]
    RegisteredIdDiffers,
}

impl ChainReason {
    /// The stable name for programs; the words of [`std::fmt::Display`] may change, these do not.
    pub const fn finding(&self) -> &'static str {
        match self {
            Self::TooManyCandidates => "too-many-candidates",
            Self::NoAuthorityKeyIdentifier => "no-authority-key-identifier",
            Self::IssuerNotFound(_) => "issuer-not-found",
            Self::NotTrusted => "not-trusted",
            Self::BadSignature => "bad-signature",
            Self::UnsupportedKey(_) => "unsupported-key",
            Self::SignatureAlgorithm => "signature-algorithm",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::UnknownCriticalExtension(_) => "unknown-critical-extension",
            Self::KeyUsage => "key-usage",
            Self::Policy => "policy",
            Self::ExtendedKeyUsage => "extended-key-usage",
            Self::NotAnAuthority => "not-an-authority",
            Self::IsAnAuthority => "is-an-authority",
            Self::PathLength => "path-length",
            Self::NameConstraintsMissing => "name-constraints-missing",
            Self::NameConstraintsMalformed => "name-constraints-malformed",
            Self::OrganizationNotPermitted => "organization-not-permitted",
            Self::EidNotPermitted => "eid-not-permitted",
            Self::EidMissing => "eid-missing",
            Self::NoRegisteredId => "no-registered-id",
            Self::RegisteredIdDiffers => "registered-id-differs",
        }
    }
}

/// The GSMA role whose policy the certificate names; absent when it names none of them or several.
pub fn gsma_role(certificate: &Certificate) -> Option<CertificateRole> {
    let policies = certificate.policies();
    // A cross-certificate has the CI's policy; it is no leaf of any chain.
    let mut roles = CertificateRole::ALL
        .into_iter()
        .filter(|role| *role != CertificateRole::CrossCertificate)
        .filter(|role| role.profiles().any(|profile| names_policy_of(&policies, profile)));
    roles.next().filter(|_| roles.next().is_none())
}

fn names_policy_of(policies: &[Vec<u64>], profile: &CertificateProfile) -> bool {
    profile.policy().is_some_and(|policy| policies.iter().any(|found| found == policy))
}

/// The built-in profile that a certificate keeps by what it says itself, whenever it is valid; the refusal is that of the one whose policy
/// it names. Names no eIM's signing certificates of SGP.32, which have no policy.
pub fn profile_of(certificate: &Certificate) -> Result<&'static CertificateProfile, ChainReason> {
    let role = gsma_role(certificate).ok_or(ChainReason::Policy)?;
    kept_profile(certificate, &role.profiles().collect::<Vec<_>>(), None)
}

/// Whether the holder of `issuer` may issue certificates of `profile`, by what its own certificate says.
pub fn may_issue(issuer: &Certificate, profile: &CertificateProfile) -> bool {
    profile::built_in()
        .filter(|above| profile.issued_by.contains(&above.name))
        .any(|above| check_certificate(issuer, above, None).is_ok())
}

/// The first of `profiles` that the certificate keeps; the refusal is that of the first one whose policy it names.
fn kept_profile(
    certificate: &Certificate,
    profiles: &[&'static CertificateProfile],
    at: Option<CivilTime>,
) -> Result<&'static CertificateProfile, ChainReason> {
    let policies = certificate.policies();
    let named = profiles.iter().filter(|profile| names_policy_of(&policies, profile));
    let mut refusal = None;
    for profile in named.chain(profiles.first()) {
        match check_certificate(certificate, profile, at) {
            Ok(()) => return Ok(profile),
            Err(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    Err(refusal.unwrap_or(ChainReason::Policy))
}

/// Verifies `leaf` for `role` up to one of `roots`, building the chain by key identifiers among `intermediates`. A CA may have
/// several certificates for one key; each is tried, those whose name matches first. `at` is the time to check validity
/// periods against; without it they are not checked (cards and some devices have no clock).
pub fn verify_chain(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    role: CertificateRole,
    at: Option<CivilTime>,
) -> Result<VerifiedChain, ChainRefusal> {
    if intermediates.len() > CANDIDATES_MAX || roots.len() > CANDIDATES_MAX {
        return Err(ChainRefusal { depth: 0, reason: ChainReason::TooManyCandidates });
    }
    let search = Search { intermediates, roots, at };
    let profiles: Vec<_> = role.profiles().collect();
    let links = search.extend(leaf, &profiles, 0)?;
    Ok(VerifiedChain { role, certificates: links.into_iter().map(|link| link.certificate.clone()).collect() })
}

/// Whether a DPauth and a DPpb certificate belong to one entity: the same registered identifier (SGP.22 §5.7.5). The refusal
/// counts DPauth as 0 and DPpb as 1.
pub fn check_same_entity(dp_auth: &Certificate, dp_pb: &Certificate) -> Result<(), ChainRefusal> {
    let id = |certificate: &Certificate, depth| {
        certificate.registered_id().ok_or(ChainRefusal { depth, reason: ChainReason::NoRegisteredId })
    };
    if id(dp_auth, 0)? == id(dp_pb, 1)? {
        Ok(())
    } else {
        Err(ChainRefusal { depth: 1, reason: ChainReason::RegisteredIdDiffers })
    }
}

struct Search<'a> {
    intermediates: &'a [Certificate],
    roots: &'a [Certificate],
    at: Option<CivilTime>,
}

/// A certificate of a chain and the profile that it keeps.
struct Link<'a> {
    certificate: &'a Certificate,
    profile: &'static CertificateProfile,
}

impl<'a> Search<'a> {
    /// The chain from `certificate` upward, which must keep one of `profiles`. The depth is bounded by the profiles: each step
    /// goes to one that issues, and no built-in profile issues what stands above it.
    fn extend(
        &self,
        certificate: &'a Certificate,
        profiles: &[&'static CertificateProfile],
        depth: usize,
    ) -> Result<Vec<Link<'a>>, ChainRefusal> {
        let refuse = |reason| ChainRefusal { depth, reason };
        let profile = kept_profile(certificate, profiles, self.at).map_err(refuse)?;
        let link = Link { certificate, profile };
        if profile.is_root() {
            if !self.roots.contains(certificate) {
                return Err(refuse(ChainReason::NotTrusted));
            }
            check_signature(certificate, certificate).map_err(refuse)?;
            return Ok(vec![link]);
        }
        let Some(issuer_key) = certificate.authority_key_identifier() else {
            return Err(refuse(ChainReason::NoAuthorityKeyIdentifier));
        };
        let mut first_refusal = refuse(ChainReason::IssuerNotFound(hex::encode(issuer_key)));
        for (index, (issuer, above)) in self.issuers(certificate, profile, issuer_key).into_iter().enumerate()
        {
            let attempt = check_signature(certificate, issuer)
                .map_err(refuse)
                .and_then(|()| self.extend(issuer, &above, depth + 1))
                .and_then(|links| {
                    check_permitted(certificate, profile, &links[0]).map_err(refuse).map(|()| links)
                });
            match attempt {
                Ok(mut above) => {
                    above.insert(0, link);
                    return Ok(above);
                }
                Err(refusal) if index == 0 => first_refusal = refusal,
                Err(_) => {}
            }
        }
        Err(first_refusal)
    }

    /// The certificates that may have issued one of `profile` whose issuer's key is `issuer_key`, each with the profiles that it
    /// may keep; the one that the issuer's name points to first.
    fn issuers(
        &self,
        certificate: &Certificate,
        profile: &CertificateProfile,
        issuer_key: &[u8],
    ) -> Vec<(&'a Certificate, Vec<&'static CertificateProfile>)> {
        let named = |issuer: &&Certificate| issuer.subject_key_identifier() == Some(issuer_key);
        let (roots, others): (Vec<_>, Vec<_>) = profile::built_in()
            .filter(|above| profile.issued_by.contains(&above.name))
            .partition(|above| above.is_root());
        let mut candidates = Vec::new();
        if !roots.is_empty() {
            candidates.extend(self.roots.iter().filter(named).map(|issuer| (issuer, roots.clone())));
        }
        if !others.is_empty() {
            let offered = self.intermediates.iter().filter(named);
            candidates.extend(offered.map(|issuer| (issuer, others.clone())));
        }
        // A CI that is no root here may be certified by one that is; one step, so that no chain goes round.
        if !roots.is_empty() && profile.role != CertificateRole::CrossCertificate {
            let crossed = self.intermediates.iter().filter(named).filter(|issuer| !issuer.is_self_issued());
            let cross = CertificateRole::CrossCertificate.profile();
            candidates.extend(crossed.map(|issuer| (issuer, vec![cross])));
        }
        // Several certificates of one CA key (the GSMA test CI has three).
        candidates.sort_by_key(|(issuer, _)| issuer.subject_name_der() != certificate.issuer_name_der());
        candidates
    }
}

fn check_signature(certificate: &Certificate, issuer: &Certificate) -> Result<(), ChainReason> {
    let algorithm = certificate.with_parsed(|parsed| {
        let inside = &parsed.tbs_certificate.signature;
        (inside == &parsed.signature_algorithm && inside.parameters.is_none())
            .then(|| oid::decode(inside.algorithm.as_bytes()))
            .flatten()
    });
    // Which roots are trusted, test roots among them, is the caller's decision.
    let key = PublicKey::parse(issuer.spki(), KnownKeys::Allow).map_err(unsupported_key)?;
    if algorithm.as_deref() != Some(oid::ecdsa_with(Hash::of(key.curve()))) {
        return Err(ChainReason::SignatureAlgorithm);
    }
    certificate.verify_signature(&key).map_err(|_| ChainReason::BadSignature)
}

fn unsupported_key(error: PkiError) -> ChainReason {
    ChainReason::UnsupportedKey(error.to_string())
}

/// What a certificate must say by itself to hold `profile`'s role.
fn check_certificate(
    certificate: &Certificate,
    profile: &CertificateProfile,
    at: Option<CivilTime>,
) -> Result<(), ChainReason> {
    if let Some(at) = at {
        if at < certificate.not_before() {
            return Err(ChainReason::NotYetValid);
        }
        if at > certificate.not_after() {
            return Err(ChainReason::Expired);
        }
    }
    PublicKey::parse(certificate.spki(), KnownKeys::Allow).map_err(unsupported_key)?;
    let found = Extensions::read(certificate, profile)?;
    let must_sign_certificates = profile.key_usage().contains(&KeyUsageBit::KeyCertSign);
    // SGP.22 §4.5.2.2: keyCertSign for a CA, digitalSignature for the others; never both.
    let needed =
        if must_sign_certificates { KeyUsageBit::KeyCertSign } else { KeyUsageBit::DigitalSignature };
    let has = |bit: KeyUsageBit| found.key_usage >> (bit as u16) & 1 == 1;
    if !has(needed) || has(KeyUsageBit::KeyCertSign) != must_sign_certificates {
        return Err(ChainReason::KeyUsage);
    }
    // A role without a policy of its own is not for a certificate that names another's.
    let keeps_policy = match profile.policy() {
        Some(_) => names_policy_of(&found.policies, profile),
        None => !profile::built_in().any(|other| names_policy_of(&found.policies, other)),
    };
    if !keeps_policy {
        return Err(ChainReason::Policy);
    }
    match (must_sign_certificates, found.authority) {
        (true, None) => return Err(ChainReason::NotAnAuthority),
        (false, Some(_)) => return Err(ChainReason::IsAnAuthority),
        _ => {}
    }
    for rule in profile.extensions {
        match rule.value {
            ExtensionValue::CertificateAuthority { path_length: Some(length) }
                if found.authority != Some(Some(u32::from(length))) =>
            {
                return Err(ChainReason::PathLength);
            }
            ExtensionValue::ExtendedKeyUsage(purposes)
                if !purposes.iter().all(|p| found.purposes.contains(p)) =>
            {
                return Err(ChainReason::ExtendedKeyUsage);
            }
            _ => {}
        }
    }
    Ok(())
}

/// That the issuer may certify these EIDs: the eUICC's own, or those that a sub CA may certify in its turn.
fn check_permitted(
    certificate: &Certificate,
    profile: &CertificateProfile,
    issuer: &Link<'_>,
) -> Result<(), ChainReason> {
    let of_euicc = profile.role == CertificateRole::Euicc;
    if !of_euicc && !issuer.profile.permits_eids() {
        return Ok(());
    }
    let digits = if of_euicc {
        let eid = certificate
            .subject_text(oid::SERIAL_NUMBER)
            .filter(|eid| eid.len() == 32 && eid.bytes().all(|c| c.is_ascii_digit()));
        vec![eid.ok_or(ChainReason::EidMissing)?]
    } else {
        permitted_pairs(certificate, profile)?.into_iter().map(|(_, ein)| ein).collect()
    };
    // SGP.22 §4.5.2.2: organizationName equals one of the EUM's, and the EID starts with digits that go with it.
    let organization =
        certificate.subject_text(oid::ORGANIZATION).ok_or(ChainReason::OrganizationNotPermitted)?;
    let pairs = permitted_pairs(issuer.certificate, issuer.profile)?;
    if !pairs.iter().any(|(permitted, _)| *permitted == organization) {
        return Err(ChainReason::OrganizationNotPermitted);
    }
    let may =
        |digits: &String| pairs.iter().any(|(o, start)| *o == organization && digits.starts_with(start));
    if digits.iter().all(may) { Ok(()) } else { Err(ChainReason::EidNotPermitted) }
}

/// Whether an EUM certificate permits every EID that begins with `digits` for the organisation.
pub fn permits(eum: &Certificate, organization: &str, digits: &str) -> bool {
    profile::built_in()
        .filter(|profile| profile.permits_eids() && names_policy_of(&eum.policies(), profile))
        .find_map(|profile| permitted_pairs(eum, profile).ok())
        .is_some_and(|pairs| pairs.iter().any(|(o, start)| o == organization && digits.starts_with(start)))
}

/// The organisations and the first digits of EIDs that a manufacturer's certificate permits, as its profile says it.
fn permitted_pairs(
    eum: &Certificate,
    profile: &CertificateProfile,
) -> Result<Vec<(String, String)>, ChainReason> {
    if profile.has(|value| *value == ExtensionValue::PermittedEins) {
        let organization =
            eum.subject_text(oid::ORGANIZATION).ok_or(ChainReason::OrganizationNotPermitted)?;
        let eins = permitted_eins(eum)?;
        return Ok(eins.into_iter().map(|ein| (organization.clone(), ein)).collect());
    }
    eum.with_parsed(|parsed| {
        Some(match parsed.name_constraints() {
            Ok(Some(constraints)) => {
                let permitted = constraints.value.permitted_subtrees.as_deref().unwrap_or_default();
                let pairs: Option<Vec<_>> = permitted
                    .iter()
                    .map(|subtree| match &subtree.base {
                        GeneralName::DirectoryName(name) => organization_and_iin(name),
                        _ => None,
                    })
                    .collect();
                let well_formed = constraints.value.excluded_subtrees.is_none() && !permitted.is_empty();
                pairs.filter(|_| well_formed).ok_or(ChainReason::NameConstraintsMalformed)
            }
            Ok(None) => Err(ChainReason::NameConstraintsMissing),
            Err(_) => Err(ChainReason::NameConstraintsMalformed),
        })
    })
    .unwrap_or(Err(ChainReason::NameConstraintsMalformed))
}

/// The EID prefixes of a permittedEins extension (SGP.22 v3): SEQUENCE OF PrintableString.
fn permitted_eins(eum: &Certificate) -> Result<Vec<String>, ChainReason> {
    let value = eum.with_parsed(|parsed| {
        let is_it = |oid: &[u8]| oid::decode(oid).as_deref() == Some(oid::PERMITTED_EINS);
        parsed.extensions().iter().find(|e| is_it(e.oid.as_bytes())).map(|e| e.value.to_vec())
    });
    let value = value.ok_or(ChainReason::NameConstraintsMissing)?;
    let malformed = |_| ChainReason::NameConstraintsMalformed;
    let mut list = der::enter_only(&value, der::SEQUENCE).map_err(malformed)?;
    let mut eins = Vec::new();
    while !list.is_empty() {
        let ein = list.expect(der::PRINTABLE_STRING).map_err(malformed)?.content;
        eins.push(digits(ein).ok_or(ChainReason::NameConstraintsMalformed)?);
    }
    if eins.is_empty() { Err(ChainReason::NameConstraintsMalformed) } else { Ok(eins) }
}

/// The first digits of EIDs; none at all would permit every EID.
fn digits(text: &[u8]) -> Option<String> {
    let is_digits = (1..=30).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_digits.then(|| String::from_utf8_lossy(text).into_owned())
}

fn organization_and_iin(name: &X509Name<'_>) -> Option<(String, String)> {
    let mut attributes = name.iter_attributes();
    let mut next = |kind: AttributeKind| {
        let attribute = attributes.next()?;
        (oid::decode(attribute.attr_type().as_bytes()).as_deref() == Some(kind.oid()))
            .then(|| attribute.as_str().ok().map(str::to_owned))
            .flatten()
    };
    let pair = (next(AttributeKind::Organization)?, next(AttributeKind::SerialNumber)?);
    (attributes.next().is_none() && digits(pair.1.as_bytes()).is_some()).then_some(pair)
}

/// What the extensions of a certificate say, as far as a role asks.
#[derive(Default)]
struct Extensions {
    key_usage: u16,
    policies: Vec<Vec<u64>>,
    /// Present for a CA; its path length inside.
    authority: Option<Option<u32>>,
    purposes: Vec<Purpose>,
}

impl Extensions {
    fn read(certificate: &Certificate, profile: &CertificateProfile) -> Result<Self, ChainReason> {
        certificate
            .with_parsed(|parsed| {
                let mut found = Self::default();
                for extension in parsed.extensions() {
                    let arcs = oid::decode(extension.oid.as_bytes()).unwrap_or_default();
                    let is_known = profile.extensions.iter().any(|rule| rule.value.oid() == arcs)
                        || arcs == oid::BASIC_CONSTRAINTS;
                    if extension.critical && !is_known {
                        return Some(Err(ChainReason::UnknownCriticalExtension(oid::dotted(&arcs))));
                    }
                    match extension.parsed_extension() {
                        ParsedExtension::KeyUsage(usage) => found.key_usage = usage.flags,
                        ParsedExtension::CertificatePolicies(policies) => {
                            found.policies = policies
                                .iter()
                                .filter_map(|policy| oid::decode(policy.policy_id.as_bytes()))
                                .collect();
                        }
                        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                            found.authority = Some(constraints.path_len_constraint);
                        }
                        ParsedExtension::ExtendedKeyUsage(usage) => {
                            if usage.server_auth {
                                found.purposes.push(Purpose::ServerAuthentication);
                            }
                            if usage.client_auth {
                                found.purposes.push(Purpose::ClientAuthentication);
                            }
                            if usage.ocsp_signing {
                                found.purposes.push(Purpose::OcspSigning);
                            }
                        }
                        _ => {}
                    }
                }
                Some(Ok(found))
            })
            .unwrap_or_else(|| Ok(Self::default()))
    }
}
