//! What the operations on certificate issuers elsewhere do (`docs/cycles/foreign-certificates.md`): anchors, and certificates
//! that come from them for keys in our tokens.

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{Anchor, Import, ImportRequest};
use domain::{ReasonCode, Role, Timestamp};
use kms::rsp::RspKey;
use pki::csr::{UnsignedRequest, Wishes};
use pki::{Certificate, CertificateProfile, CertificateRole, SubjectValues};
use proto::v1;
use store::{Change, Commit, Precondition};

use crate::authority::Party;
use crate::certification::authority_subject;
use crate::execution::{Execution, check_text, invalid, parse_ein};
use crate::gate::Call;
use crate::init::{OPERATOR_ISSUER, check_name};
use crate::status::ServiceError;

/// Most ranges that an anchor vouches for.
const RANGES_MAX: usize = 64;

/// A deed of this module, checked.
pub(crate) enum Elsewhere {
    Anchor(Anchor),
    Retire(Anchor),
    Import {
        import: Import,
        /// The issuer that it is for.
        issuer: Option<std::sync::Arc<ca::Issuer>>,
    },
}

impl Execution {
    pub(crate) fn plan_anchor(
        &self,
        register: &v1::RegisterAnchor,
        now: Timestamp,
    ) -> Result<Elsewhere, ServiceError> {
        check_name("name", &register.name)?;
        if !(1..=RANGES_MAX).contains(&register.eins.len()) {
            return Err(invalid("an anchor vouches for 1 to 64 EID ranges"));
        }
        let eins = register.eins.iter().map(|ein| parse_ein(ein)).collect::<Result<Vec<_>, _>>()?;
        let anchor = Anchor::new(
            self.ca.store.as_ref(),
            &register.name,
            &register.certificate,
            eins,
            register.lists_required,
            self.ca.known_keys,
            now,
        )?;
        Ok(Elsewhere::Anchor(anchor))
    }

    pub(crate) fn plan_anchor_end(&self, retire: &v1::RetireAnchor) -> Result<Elsewhere, ServiceError> {
        Ok(Elsewhere::Retire(Anchor::find(self.ca.store.as_ref(), &retire.name)?))
    }

    pub(crate) fn plan_import(
        &self,
        import: &v1::ImportCertificate,
        now: Timestamp,
    ) -> Result<Elsewhere, ServiceError> {
        use v1::import_certificate::Key;
        let store = self.ca.store.as_ref();
        let request = ImportRequest {
            certificate: &import.certificate,
            intermediates: &import.intermediates,
            anchor: &import.anchor,
            profile: CertificateRole::Eum,
            spki: &[],
            party: &import.party,
            key: "",
        };
        match &import.key {
            Some(Key::RspKey(name)) => {
                let party = self.party(&import.party, Role::Provisioner)?;
                let (key, profile) = rsp_key(store, &party, name)?;
                let request = ImportRequest { profile, spki: &key.public_key, key: name, ..request };
                let import = Import::judge(store, &request, now)?;
                if import.certificate.registered_id().as_deref() != Some(&key.registered_id) {
                    return Err(invalid("the certificate has another registered_id than the key"));
                }
                Ok(Elsewhere::Import { import, issuer: None })
            }
            Some(Key::Issuer(name)) => {
                let party = match import.party.as_str() {
                    "" => None,
                    party => Some(self.party(party, Role::Eum)?),
                };
                let issuer = self.issuer_of(&import.party, name)?;
                if issuer.certificate.is_some() {
                    return Err(ServiceError::refused(
                        ReasonCode::Conflict,
                        "the issuer has its certificate already; a chain for another CI needs an issuer of its own",
                    ));
                }
                let profile = profile_of_issuer(&import.certificate, party.is_some())?;
                let request = ImportRequest { profile, spki: &issuer.public_key, key: name, ..request };
                let import = Import::judge(store, &request, now)?;
                if let Some(party) = party {
                    self.permits_ranges(&import.certificate, &party)?;
                }
                Ok(Elsewhere::Import { import, issuer: Some(issuer) })
            }
            None => Err(invalid("key is missing")),
        }
    }

    /// Of a party, or of the authority where it is empty.
    fn issuer_of(&self, party: &str, name: &str) -> Result<std::sync::Arc<ca::Issuer>, ServiceError> {
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), name)?;
        if issuer.party == party && name != OPERATOR_ISSUER {
            return Ok(issuer);
        }
        Err(ServiceError::refused(ReasonCode::PolicyViolation, "the issuer belongs to another party"))
    }

    /// Carries out, up to the commit.
    pub(crate) fn perform_elsewhere(
        call: &Call,
        operation: [u8; 32],
        deed: Elsewhere,
    ) -> Result<Commit, ServiceError> {
        let draft = |event| {
            EntryDraft::new(event, Outcome::Done)
                .fact("operation", Fact::Digest(operation))
                .role(call.caller.role())
                .actor(call.pseudonyms.principal(&call.caller.principal()))
        };
        let (entry, changes, preconditions): (_, Vec<Change>, Vec<Precondition>) = match deed {
            Elsewhere::Anchor(anchor) => {
                let entry = draft(EventType::AnchorRegistered)
                    .object(call.pseudonyms.party(&anchor.name))
                    .fact("anchor", Fact::name(&anchor.name)?)
                    .fact("certificate", Fact::Digest(anchor.certificate.digest()))
                    .fact("ranges", Fact::Number(anchor.eins.len() as u64))
                    .fact("lists_required", Fact::Number(u64::from(anchor.lists_required)));
                let (change, is_new) = anchor.create();
                (entry, vec![change], vec![is_new])
            }
            Elsewhere::Retire(anchor) => {
                let entry = draft(EventType::AnchorRetired)
                    .object(call.pseudonyms.party(&anchor.name))
                    .fact("anchor", Fact::name(&anchor.name)?);
                let (change, unchanged) = anchor.retire();
                (entry, vec![change], vec![unchanged])
            }
            Elsewhere::Import { import, issuer } => {
                let entry = draft(EventType::CertificateImported)
                    .object(call.pseudonyms.party(if import.party.is_empty() {
                        &import.key
                    } else {
                        &import.party
                    }))
                    .fact("anchor", Fact::name(&import.anchor)?)
                    .fact("profile", Fact::fixed_name(import.profile.as_str()))
                    .fact("certificate", Fact::Digest(import.certificate.digest()))
                    .fact("key", Fact::Digest(import.certificate.spki_digest()));
                let (change, mut preconditions) = import.create();
                let mut changes = vec![change];
                if let Some(issuer) = issuer {
                    let (change, unchanged) = issuer.certified(&import.certificate);
                    changes.push(change);
                    preconditions.push(unchanged);
                }
                (entry, changes, preconditions)
            }
        };
        Ok(Commit { entries: vec![entry], changes, preconditions })
    }
}

/// A DPauth or DPpb key of a party by its name, and the profile that its certificates have.
pub(crate) fn rsp_key(
    store: &dyn store::Store,
    party: &Party,
    name: &str,
) -> Result<(RspKey, CertificateRole), ServiceError> {
    let key = RspKey::find(store, &party.name, name)?.ok_or_else(|| {
        ServiceError::refused(ReasonCode::UnknownRspKey, "the party has no registered key of this name")
    })?;
    let profile = crate::rsp::profile_of(key.role)
        .filter(|role| *role != CertificateRole::EimSign)
        .ok_or_else(|| invalid("only DPauth and DPpb keys have certificates of a certificate issuer"))?;
    Ok((key, profile))
}

/// Whether issuers of manufacturers, or those of the authority, have certificates of this role under a root elsewhere.
const fn is_of_issuers(role: CertificateRole, manufacturers: bool) -> bool {
    match role {
        CertificateRole::Eum | CertificateRole::EumSubCa => manufacturers,
        CertificateRole::CiSubCa | CertificateRole::DpSubCa | CertificateRole::DsSubCa => !manufacturers,
        _ => false,
    }
}

/// The profile that an issuer asks for by name; `eum` when none is named.
pub(crate) fn issuer_profile(
    name: &str,
    manufacturers: bool,
) -> Result<&'static CertificateProfile, ServiceError> {
    let name = if name.is_empty() && manufacturers { CertificateRole::Eum.as_str() } else { name };
    let profile = pki::profile::find(name).ok().filter(|profile| is_of_issuers(profile.role, manufacturers));
    profile.ok_or_else(|| {
        invalid(if manufacturers {
            "profile is that of a manufacturer's CA: eum, eum-v3, eum-v3-sub or eum-sub"
        } else {
            "profile is that of a sub CA of the authority: ci-sub, dp-sub or ds-sub"
        })
    })
}

/// The role of an issuer's certificate from elsewhere, by the policy that it names.
fn profile_of_issuer(certificate: &[u8], manufacturers: bool) -> Result<CertificateRole, ServiceError> {
    let certificate =
        Certificate::from_der(certificate).map_err(|e| invalid(&format!("the certificate: {e}")))?;
    pki::chain::gsma_role(&certificate).filter(|role| is_of_issuers(*role, manufacturers)).ok_or_else(|| {
        invalid(
            "the certificate is not that of such an issuer: it names another policy, or the party is missing",
        )
    })
}

/// What a party's certificate is to say: its subject is that of the party's registration.
pub(crate) fn wishes_of(
    party: &Party,
    profile: &CertificateProfile,
    common_name: &str,
    registered_id: &str,
) -> Result<Wishes, ServiceError> {
    check_text("common_name", common_name, 64)?;
    let permits = profile.permits_eids();
    let permitted =
        party.eins.iter().filter(|_| permits).map(|ein| (party.organization.clone(), ein.to_string()));
    Ok(Wishes {
        subject: SubjectValues {
            country: (party.role == Role::Eum).then(|| party.country.clone()),
            organization: Some(party.organization.clone()),
            organizational_unit: None,
            common_name: Some(common_name.to_owned()),
            eid: None,
        },
        registered_id: Some(registered_id.to_owned()),
        permitted: permitted.collect(),
    })
}

/// What the certificate of a sub CA of the authority is to say: its subject is that of the first CI but for the name.
pub(crate) fn authority_wishes(first: &Certificate, common_name: &str) -> Result<Wishes, ServiceError> {
    check_text("common_name", common_name, 64)?;
    Ok(Wishes {
        subject: authority_subject(first, common_name),
        registered_id: first.registered_id(),
        permitted: Vec::new(),
    })
}

/// The body of a certification request.
pub(crate) fn unsigned_request(
    profile: &'static CertificateProfile,
    spki: &[u8],
    wishes: &Wishes,
) -> Result<UnsignedRequest, ServiceError> {
    UnsignedRequest::new(profile, spki, wishes).map_err(|e| invalid(&e.to_string()))
}
