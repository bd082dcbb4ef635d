//! What the operations on certificate issuers elsewhere do (`docs/cycles/foreign-certificates.md`): anchors, and certificates
//! that come from them for keys in our tokens.

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{Anchor, Import, ImportRequest};
use domain::{ReasonCode, Role, Timestamp};
use kms::rsp::RspKey;
use pki::csr::{UnsignedRequest, Wishes};
use pki::{CertificateRole, SubjectValues};
use proto::v1;
use store::{Change, Commit, Precondition};

use crate::authority::Party;
use crate::execution::{Execution, check_text, invalid, parse_ein};
use crate::gate::Call;
use crate::init::check_name;
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
                let party = self.party(&import.party, Role::Eum)?;
                let issuer = self.eum_issuer(&party, name)?;
                if issuer.certificate.is_some() {
                    return Err(ServiceError::refused(
                        ReasonCode::Conflict,
                        "the issuer has its certificate already; a chain for another CI needs an issuer of its own",
                    ));
                }
                let request = ImportRequest { spki: &issuer.public_key, key: name, ..request };
                let import = Import::judge(store, &request, now)?;
                self.permits_ranges(&import.certificate, &party)?;
                Ok(Elsewhere::Import { import, issuer: Some(issuer) })
            }
            None => Err(invalid("key is missing")),
        }
    }

    fn eum_issuer(&self, party: &Party, name: &str) -> Result<std::sync::Arc<ca::Issuer>, ServiceError> {
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), name)?;
        if issuer.party == party.name {
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
                    .object(call.pseudonyms.party(&import.party))
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

/// The body of a certification request for a key of a party: its subject is that of the party's registration.
pub(crate) fn unsigned_request(
    party: &Party,
    profile: CertificateRole,
    spki: &[u8],
    common_name: &str,
    registered_id: &str,
) -> Result<UnsignedRequest, ServiceError> {
    check_text("common_name", common_name, 64)?;
    let is_eum = profile == CertificateRole::Eum;
    let permitted =
        party.eins.iter().filter(|_| is_eum).map(|ein| (party.organization.clone(), ein.to_string()));
    let wishes = Wishes {
        subject: SubjectValues {
            country: is_eum.then(|| party.country.clone()),
            organization: Some(party.organization.clone()),
            organizational_unit: None,
            common_name: Some(common_name.to_owned()),
            eid: None,
        },
        registered_id: Some(registered_id.to_owned()),
        permitted: permitted.collect(),
    };
    UnsignedRequest::new(profile.profile(), spki, &wishes).map_err(|e| invalid(&e.to_string()))
}
