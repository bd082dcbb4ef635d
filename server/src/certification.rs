//! Issuers that are taken into use, and the certificates that persons approve: [`crate::execution`]'s plans of both.

use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::{CertificateRequest, Issuer, KeyRegistration, SubjectKey};
use domain::{ReasonCode, Role, Timestamp};
use hsm::{KeyCheck, KeyRef, KeyRole, RegisteredKey};
use pki::{AttributeKind, CertificateProfile, CertificateRole, PublicKey, SubjectValues};
use proto::v1;
use store::Commit;

use crate::accreditation;
use crate::authority::Party;
use crate::deeds::Deed;
use crate::execution::{Execution, check_text, invalid};
use crate::gate::Call;
use crate::init::{CERTIFICATE_ISSUER, OPERATOR_ISSUER, check_name};
use crate::status::ServiceError;

/// An issuer whose key is to be taken into use.
pub(crate) struct NewIssuer {
    pub(crate) name: String,
    /// Empty: the authority itself.
    pub(crate) party: String,
    pub(crate) key: KeyRegistration,
    /// The certificate that it comes with, and its list.
    pub(crate) adoption: Option<ca::Adoption>,
}

impl Execution {
    /// An issuer of a manufacturer, or, without a party, a further certificate issuer (CI) of the authority.
    pub(crate) fn plan_issuer(
        &self,
        issuer: &v1::RegisterIssuer,
        now: Timestamp,
    ) -> Result<NewIssuer, ServiceError> {
        check_name("name", &issuer.name)?;
        let party = match &issuer.party[..] {
            "" => String::new(),
            party => self.party(party, Role::Eum)?.name.clone(),
        };
        if self.ca.issuers.find(self.ca.store.as_ref(), &issuer.name).is_ok() {
            return Err(ServiceError::refused(ReasonCode::Conflict, "an issuer of this name exists"));
        }
        let id = issuer.key_id.as_slice().try_into().map_err(|_| invalid("key_id has 16 bytes"))?;
        let public_key = PublicKey::parse(&issuer.public_key, self.ca.known_keys).map_err(|e| {
            ServiceError::refused(ReasonCode::WeakKey, format!("the issuer's key is refused: {e}"))
        })?;
        let curve = public_key.curve();
        let role = [KeyRole::CertificateIssuer(curve), KeyRole::AdoptedIssuer(curve)]
            .into_iter()
            .find(|role| issuer.key_label.starts_with(&format!("chancery/{}/", role.as_str())))
            .ok_or_else(|| {
                invalid("key_label names no certificate issuer's key on the curve of public_key")
            })?;
        let adoption = self.plan_adoption(issuer, now)?;
        let key = self.on_ca_token(RegisteredKey {
            key: KeyRef { label: issuer.key_label.clone(), id },
            role,
            check: KeyCheck::PublicKey(issuer.public_key.clone()),
        });
        Ok(NewIssuer { name: issuer.name.clone(), party, key, adoption })
    }

    /// What an issuer brings with it, if it comes with a certificate.
    fn plan_adoption(
        &self,
        issuer: &v1::RegisterIssuer,
        now: Timestamp,
    ) -> Result<Option<ca::Adoption>, ServiceError> {
        if issuer.certificate.is_empty() {
            if issuer.list.is_empty() && !issuer.without_list {
                return Ok(None);
            }
            return Err(invalid("a revocation list comes with a certificate"));
        }
        let request = ca::AdoptionRequest {
            name: &issuer.name,
            party: &issuer.party,
            spki: &issuer.public_key,
            certificate: &issuer.certificate,
            list: &issuer.list,
        };
        let adoption = ca::Adoption::judge(&self.ca, &request, now)?;
        // Nobody forgets what an issuer revoked by leaving it out.
        if adoption.certificate.may_sign_crls() && issuer.list.is_empty() != issuer.without_list {
            return Err(invalid(
                "its certificate lets it sign revocation lists: bring the last one, or say that it never signed any",
            ));
        }
        if !issuer.party.is_empty() {
            let party = self.party(&issuer.party, Role::Eum)?;
            self.permits_ranges(&adoption.certificate, &party)?;
        }
        Ok(Some(adoption))
    }

    /// A manufacturer's certificate permits every range that is delegated to it: else no device that it certifies would be accepted.
    pub(crate) fn permits_ranges(
        &self,
        certificate: &pki::Certificate,
        party: &Party,
    ) -> Result<(), ServiceError> {
        let permits = |ein: &domain::Ein| pki::chain::permits(certificate, &party.organization, ein.as_str());
        match party.eins.iter().find(|ein| !permits(ein)) {
            None => Ok(()),
            Some(ein) => Err(invalid(&format!(
                "the certificate's name constraints do not permit {ein} for {}",
                party.organization
            ))),
        }
    }

    /// The responder of a certificate issuer of the authority.
    pub(crate) fn plan_responder(&self, responder: &v1::RegisterResponder) -> Result<Deed, ServiceError> {
        let id = responder.key_id.as_slice().try_into().map_err(|_| invalid("key_id has 16 bytes"))?;
        let public_key = PublicKey::parse(&responder.public_key, self.ca.known_keys).map_err(|e| {
            ServiceError::refused(ReasonCode::WeakKey, format!("the responder's key is refused: {e}"))
        })?;
        let key = RegisteredKey {
            key: KeyRef { label: responder.key_label.clone(), id },
            role: KeyRole::OcspResponder(public_key.curve()),
            check: KeyCheck::PublicKey(responder.public_key.clone()),
        };
        self.authority_issuer(&responder.issuer)?;
        let issuer = ca::check_responder(&self.ca, &responder.issuer, &key)?;
        Ok(Deed::Responder { issuer: issuer.name.clone(), key: Box::new(self.on_ca_token(key)) })
    }

    /// Every worker of the token resolves the key, reads its template back and tries it; then it is in the records.
    pub(crate) async fn register_responder(
        &self,
        call: &Call,
        operation: [u8; 32],
        issuer: &str,
        key: KeyRegistration,
    ) -> Result<Commit, ServiceError> {
        self.ca.token.add_key(key.key.clone()).await?;
        let (change, is_new) = key.create();
        let mut entry = EntryDraft::new(EventType::ResponderRegistered, Outcome::Done)
            .fact("operation", Fact::Digest(operation))
            .role(call.caller.role())
            .actor(call.pseudonyms.principal(&call.caller.principal()))
            .object(call.pseudonyms.party(&ca::responder_name(issuer)))
            .fact("issuer", Fact::name(issuer)?);
        if let KeyCheck::PublicKey(spki) = &key.key.check {
            entry = entry.fact("key", Fact::Digest(audit::sha256(spki)));
        }
        Ok(Commit { entries: vec![entry], changes: vec![change], preconditions: vec![is_new] })
    }

    fn on_ca_token(&self, key: RegisteredKey) -> KeyRegistration {
        KeyRegistration {
            token: "ca".to_owned(),
            token_serial: self.ca.token.report().token_serial,
            key,
            epoch: 1,
            backup: String::new(),
        }
    }

    pub(crate) fn plan_certificate(
        &self,
        certificate: &v1::IssueCertificate,
        now: Timestamp,
    ) -> Result<CertificateRequest, ServiceError> {
        let profile = pki::profile::find(&certificate.profile)
            .map_err(|_| invalid(&format!("there is no certificate profile {:?}", certificate.profile)))?;
        let needed = match profile.role {
            CertificateRole::Eum | CertificateRole::EumSubCa => Role::Eum,
            CertificateRole::DpAuth
            | CertificateRole::DpPb
            | CertificateRole::DpTls
            | CertificateRole::DsAuth
            | CertificateRole::DsTls
            | CertificateRole::EimSign
            | CertificateRole::EimTls => Role::Provisioner,
            CertificateRole::CertificateIssuer => return self.plan_root(certificate, profile, now),
            CertificateRole::CiSubCa | CertificateRole::DpSubCa | CertificateRole::DsSubCa => {
                return self.plan_sub_ca(certificate, profile, now);
            }
            CertificateRole::CrossCertificate => return self.plan_cross(certificate, profile, now),
            CertificateRole::Euicc
            | CertificateRole::OperatorRoot
            | CertificateRole::OperatorClient
            | CertificateRole::OperatorServer
            | CertificateRole::OcspResponder => {
                return Err(invalid(
                    "certificates of this profile come by orders, enrolments and the service",
                ));
            }
        };
        let party = self.party(&certificate.party, needed)?;
        let accreditation = accreditation::in_force(&party, now)?.digest();
        check_text("common_name", &certificate.common_name, 64)?;
        let (key, certifies) = match (&certificate.key, profile.is_ca()) {
            (Some(v1::issue_certificate::Key::Issuer(name)), true) => {
                let issuer = self.partys_issuer(&party, name)?;
                (SubjectKey::without_proof(&issuer.public_key, self.ca.known_keys)?, Some(issuer))
            }
            (Some(v1::issue_certificate::Key::Csr(csr)), _) => {
                (SubjectKey::from_request(csr, self.ca.known_keys)?, None)
            }
            (Some(v1::issue_certificate::Key::RspKey(name)), _) => {
                (self.rsp_key_to_certify(certificate, profile.role, &party.name, name)?, None)
            }
            (Some(v1::issue_certificate::Key::Issuer(_)), _) => {
                return Err(invalid("only a CA's certificate is for an issuer's key"));
            }
            (None, _) => return Err(invalid("key is missing")),
        };
        // SGP.29: one constraint per range. SGP.22 v2 knows ranges of eight digits only: the profile refuses others.
        let permitted = match profile.permits_eids() {
            true => party.eins.iter().map(|ein| (party.organization.clone(), ein.to_string())).collect(),
            false => Vec::new(),
        };
        // A manufacturer's sub CA stands below the manufacturer's own issuer.
        let issuer = match profile.role {
            CertificateRole::EumSubCa => self.partys_issuer(&party, &certificate.under)?,
            _ => self.authority_issuer(&certificate.under)?,
        };
        let dns_name = Some(certificate.dns_name.clone()).filter(|name| !name.is_empty());
        let request = CertificateRequest {
            profile,
            issuer,
            subject: subject(profile, party.as_ref(), &certificate.common_name),
            key,
            registered_id: Some(certificate.registered_id.clone()).filter(|id| !id.is_empty()),
            dns_name,
            ip_addresses: Vec::new(),
            permitted,
            holder: party.name.clone(),
            certifies,
            renews: Some(certificate.renews.clone()).filter(|serial| !serial.is_empty()),
            accreditation: Some(accreditation),
        };
        ca::check_request(&self.ca, &request, now)?;
        Ok(request)
    }

    /// The certificate of a further certificate issuer: self-signed, its subject that of the first but for the name.
    fn plan_root(
        &self,
        certificate: &v1::IssueCertificate,
        profile: &'static CertificateProfile,
        now: Timestamp,
    ) -> Result<CertificateRequest, ServiceError> {
        let v1::IssueCertificate { party, common_name, key, registered_id, dns_name, renews, under, .. } =
            certificate;
        let is_plain = [party, registered_id, dns_name, under].into_iter().all(String::is_empty);
        let (Some(v1::issue_certificate::Key::Issuer(name)), true, true) = (key, is_plain, renews.is_empty())
        else {
            return Err(invalid("a ci certificate has a common name and the issuer that it is for, no more"));
        };
        let subject = self.uncertified_issuer(name)?;
        self.for_own_issuer(profile, common_name, Arc::clone(&subject), subject, now)
    }

    /// The certificate of a sub CA of the authority, below one of its certificate issuers.
    fn plan_sub_ca(
        &self,
        certificate: &v1::IssueCertificate,
        profile: &'static CertificateProfile,
        now: Timestamp,
    ) -> Result<CertificateRequest, ServiceError> {
        let v1::IssueCertificate { party, common_name, key, registered_id, dns_name, renews, under, .. } =
            certificate;
        let is_plain = [party, registered_id, dns_name].into_iter().all(String::is_empty);
        let (Some(v1::issue_certificate::Key::Issuer(name)), true, true) = (key, is_plain, renews.is_empty())
        else {
            return Err(invalid(
                "a sub CA's certificate has a common name, the issuer that it is for and the one above, no more",
            ));
        };
        let (subject, issuer) = (self.uncertified_issuer(name)?, self.authority_issuer(under)?);
        self.for_own_issuer(profile, common_name, subject, issuer, now)
    }

    /// An issuer of the authority that waits for its certificate.
    fn uncertified_issuer(&self, name: &str) -> Result<Arc<Issuer>, ServiceError> {
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), name)?;
        if !issuer.party.is_empty() || issuer.name == OPERATOR_ISSUER {
            return Err(invalid(
                "the certificate is for an issuer of the authority, registered without a party",
            ));
        }
        if issuer.certificate.is_some() {
            return Err(ServiceError::refused(
                ReasonCode::Conflict,
                "the issuer has its certificate already",
            ));
        }
        Ok(issuer)
    }

    /// The certificate of an issuer of the authority: its subject is that of the first one but for the name.
    fn for_own_issuer(
        &self,
        profile: &'static CertificateProfile,
        common_name: &str,
        subject: Arc<Issuer>,
        issuer: Arc<Issuer>,
        now: Timestamp,
    ) -> Result<CertificateRequest, ServiceError> {
        check_text("common_name", common_name, 64)?;
        let first = self.authority_issuer("")?;
        let first = first.certificate()?;
        let request = CertificateRequest {
            profile,
            subject: authority_subject(first, common_name),
            key: SubjectKey::without_proof(&subject.public_key, self.ca.known_keys)?,
            registered_id: first.registered_id(),
            dns_name: None,
            ip_addresses: Vec::new(),
            permitted: Vec::new(),
            holder: subject.name.clone(),
            certifies: Some(subject),
            renews: None,
            accreditation: None,
            issuer,
        };
        ca::check_request(&self.ca, &request, now)?;
        Ok(request)
    }

    /// An issuer of a manufacturer.
    fn partys_issuer(&self, party: &Party, name: &str) -> Result<Arc<Issuer>, ServiceError> {
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), name)?;
        if issuer.party == party.name {
            return Ok(issuer);
        }
        Err(ServiceError::refused(ReasonCode::PolicyViolation, "the issuer belongs to another party"))
    }

    /// The certificate of one certificate issuer of the authority by another: its subject and key are those of its own.
    fn plan_cross(
        &self,
        certificate: &v1::IssueCertificate,
        profile: &'static CertificateProfile,
        now: Timestamp,
    ) -> Result<CertificateRequest, ServiceError> {
        let v1::IssueCertificate { party, common_name, key, registered_id, dns_name, renews, under, .. } =
            certificate;
        let is_plain = [party, common_name, registered_id, dns_name].into_iter().all(String::is_empty);
        let (Some(v1::issue_certificate::Key::Issuer(name)), true, true) = (key, is_plain, renews.is_empty())
        else {
            return Err(invalid(
                "a ci-cross certificate has the issuer that it is for and the one above, no more",
            ));
        };
        let (subject, issuer) = (self.authority_issuer(name)?, self.authority_issuer(under)?);
        let own = subject.certificate()?;
        if subject.name == issuer.name || own.subject_name_der() == issuer.certificate()?.subject_name_der() {
            return Err(invalid("a certificate issuer is certified by one of another name"));
        }
        let request = CertificateRequest {
            profile,
            subject: SubjectValues {
                country: own.country(),
                organization: own.organization(),
                organizational_unit: own.organizational_unit(),
                common_name: own.common_name(),
                eid: None,
            },
            key: SubjectKey::without_proof(&subject.public_key, self.ca.known_keys)?,
            registered_id: own.registered_id(),
            dns_name: None,
            ip_addresses: Vec::new(),
            permitted: Vec::new(),
            holder: subject.name.clone(),
            certifies: None,
            renews: None,
            accreditation: None,
            issuer,
        };
        ca::check_request(&self.ca, &request, now)?;
        Ok(request)
    }

    /// A certificate issuer (CI) of the authority by its name; the first one without a name.
    fn authority_issuer(&self, name: &str) -> Result<Arc<Issuer>, ServiceError> {
        let name = if name.is_empty() { CERTIFICATE_ISSUER } else { name };
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), name)?;
        if !issuer.party.is_empty() || issuer.name == OPERATOR_ISSUER {
            return Err(ServiceError::refused(
                ReasonCode::UnknownIssuer,
                "under names no certificate issuer of the authority",
            ));
        }
        Ok(issuer)
    }
}

/// The subject of a party's certificate; the profile says which attributes it has (ESIM 1.3).
fn subject(profile: &CertificateProfile, party: &Party, common_name: &str) -> SubjectValues {
    let has = |kind| profile.names(kind);
    SubjectValues {
        country: has(AttributeKind::Country).then(|| party.country.clone()),
        organization: has(AttributeKind::Organization).then(|| party.organization.clone()),
        organizational_unit: None,
        common_name: Some(common_name.to_owned()),
        eid: None,
    }
}

/// The subject of the authority's further issuers: that of its first CI but for the name.
pub(crate) fn authority_subject(first: &pki::Certificate, common_name: &str) -> SubjectValues {
    SubjectValues {
        country: first.country(),
        organization: first.organization(),
        organizational_unit: first.organizational_unit(),
        common_name: Some(common_name.to_owned()),
        eid: None,
    }
}
