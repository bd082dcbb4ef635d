//! Remote SIM provisioning between certificates and keys: which keys of the SM-DP+ serve a transaction, and whether an
//! eUICC's certificates are in force. The steps are those of `docs/cycles/rsp.md`.

use domain::{ReasonCode, Timestamp};
use hsm::{KeyCheck, KeyRef, KeyRole, RegisteredKey};
use kms::rsp::{ProvedEuicc, RspKey, ServerKey};
use pki::{Certificate, ProfileName, PublicKey};
use proto::v1;

use crate::execution::invalid;
use crate::init::{CERTIFICATE_ISSUER, check_name};
use crate::status::ServiceError;

/// Longest server address.
const SERVER_ADDRESS_MAX: usize = 255;

/// Everything the three calls need.
#[derive(Clone)]
pub(crate) struct RspDesk {
    /// None without a token for keys of SM-DP+.
    pub(crate) rsp: Option<kms::rsp::Engines>,
    pub(crate) ca: ca::Engines,
}

/// A key with the certificate that goes with it.
pub(crate) struct Certified {
    pub(crate) key: ServerKey,
    pub(crate) certificate: Certificate,
}

impl RspDesk {
    /// The engines, or the refusal where no token holds such keys.
    pub(crate) fn engines(&self) -> Result<&kms::rsp::Engines, ServiceError> {
        self.rsp.as_ref().ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownRspKey, "no keys of SM-DP+ are served here")
        })
    }

    /// The DPauth and DPpb keys for a server address: certified, in force, of one entity. Of several the newest.
    pub(crate) fn server_keys(
        &self,
        party: &str,
        server_address: &str,
        now: Timestamp,
    ) -> Result<(Certified, Certified), ServiceError> {
        let store = self.ca.store.as_ref();
        RspKey::check_any(store, party)?;
        let auth = self.newest(RspKey::of_server(store, party, KeyRole::RspAuth, server_address)?, now)?;
        let pb = self.newest(RspKey::of_server(store, party, KeyRole::RspPb, server_address)?, now)?;
        match (auth, pb) {
            (Found::None, _) | (_, Found::None) => Err(ServiceError::refused(
                ReasonCode::ServerAddressMismatch,
                "no DPauth and DPpb key of yours is registered for this server address",
            )),
            (Found::Certified(auth), Found::Certified(pb)) => {
                // SGP.22 §5.7.5: both certificates are of one entity.
                pki::chain::check_same_entity(&auth.certificate, &pb.certificate).map_err(|refusal| {
                    ServiceError::refused(ReasonCode::UnknownRspKey, refusal.to_string())
                })?;
                Ok((*auth, *pb))
            }
            _ => Err(ServiceError::refused(
                ReasonCode::UnknownRspKey,
                "a key for this server address has no certificate in force",
            )),
        }
    }

    /// The key of that name, with its certificate still in force.
    pub(crate) fn key(&self, party: &str, name: &str, now: Timestamp) -> Result<Certified, ServiceError> {
        let key = RspKey::find(self.ca.store.as_ref(), party, name)?.into_iter().collect();
        match self.newest(key, now)? {
            Found::Certified(certified) => Ok(*certified),
            Found::None | Found::Uncertified => Err(ServiceError::refused(
                ReasonCode::UnknownRspKey,
                "the key that the transaction began with has no certificate in force any more",
            )),
        }
    }

    fn newest(&self, keys: Vec<RspKey>, now: Timestamp) -> Result<Found, ServiceError> {
        let mut found = if keys.is_empty() { Found::None } else { Found::Uncertified };
        for key in keys {
            let Some(held) = ca::in_force_for_key(self.ca.store.as_ref(), &key.public_key, now)? else {
                continue;
            };
            if let Found::Certified(other) = &found
                && other.certificate.not_before() >= held.certificate.not_before()
            {
                continue;
            }
            let key = ServerKey { key, unchanged: vec![held.unrevoked] };
            found = Found::Certified(Box::new(Certified { key, certificate: held.certificate }));
        }
        Ok(found)
    }

    /// The newest key of the party's eIM of this name; the last by name where there are several.
    pub(crate) fn eim_key(&self, party: &str, eim_id: &str) -> Result<RspKey, ServiceError> {
        let keys = RspKey::of_server(self.ca.store.as_ref(), party, KeyRole::EimSign, eim_id)?;
        keys.into_iter().last().ok_or_else(|| {
            ServiceError::refused(
                ReasonCode::UnknownRspKey,
                "no eim-sign key of yours is registered for this eimId",
            )
        })
    }

    /// Key identifier of the certificate issuer.
    pub(crate) fn ci_key_identifier(&self) -> Result<Vec<u8>, ServiceError> {
        let issuer = self.ca.issuers.find(self.ca.store.as_ref(), CERTIFICATE_ISSUER)?;
        let identifier = issuer.certificate()?.subject_key_identifier().map(<[u8]>::to_vec);
        identifier.ok_or(ServiceError::Internal("the certificate issuer has no key identifier"))
    }

    /// The eUICC whose certificates these are (DER), verified up to our certificate issuer.
    pub(crate) fn euicc(
        &self,
        euicc: &[u8],
        eum: &[u8],
        now: Timestamp,
    ) -> Result<ProvedEuicc, ServiceError> {
        let verified = ca::verify_euicc(&self.ca, CERTIFICATE_ISSUER, euicc, eum, now)?;
        Ok(ProvedEuicc {
            eid: verified.eid,
            public_key: verified.public_key,
            serial_numbers: verified.serial_numbers,
            unchanged: verified.unrevoked,
        })
    }
}

enum Found {
    None,
    Uncertified,
    Certified(Box<Certified>),
}

/// A key of an SM-DP+ on its way into the records, checked but for the party.
pub(crate) fn parse_key(
    register: &v1::RegisterRspKey,
    known_keys: pki::KnownKeys,
) -> Result<(RspKey, RegisteredKey), ServiceError> {
    check_name("name", &register.name)?;
    let role = [KeyRole::RspAuth, KeyRole::RspPb, KeyRole::EimSign]
        .into_iter()
        .find(|role| role.as_str() == register.role)
        .ok_or_else(|| invalid("role is rsp-auth, rsp-pb or eim-sign"))?;
    if !register.key_label.starts_with(&format!("chancery/{}/", role.as_str())) {
        return Err(invalid("key_label names no key of this role"));
    }
    let id = register.key_id.as_slice().try_into().map_err(|_| invalid("key_id has 16 bytes"))?;
    PublicKey::parse(&register.public_key, known_keys)
        .map_err(|e| ServiceError::refused(ReasonCode::WeakKey, format!("the key is refused: {e}")))?;
    check_server_address(&register.server_address)?;
    // The certificate's profile says what an identifier is; here only that there is one to compare.
    let is_of_eim = role == KeyRole::EimSign;
    if register.registered_id.is_empty() != is_of_eim || register.registered_id.len() > 100 {
        return Err(invalid(
            "registered_id is the object identifier of the SM-DP+; an eim-sign key has none",
        ));
    }
    let key = KeyRef { label: register.key_label.clone(), id };
    let registered =
        RegisteredKey { key: key.clone(), role, check: KeyCheck::PublicKey(register.public_key.clone()) };
    let record = RspKey {
        name: register.name.clone(),
        party: register.party.clone(),
        role,
        key,
        public_key: register.public_key.clone(),
        server_address: register.server_address.clone(),
        registered_id: register.registered_id.clone(),
    };
    Ok((record, registered))
}

/// The profile of the certificate for a key of this role.
pub(crate) const fn profile_of(role: KeyRole) -> Option<ProfileName> {
    match role {
        KeyRole::RspAuth => Some(ProfileName::DpAuth),
        KeyRole::RspPb => Some(ProfileName::DpPb),
        _ => None,
    }
}

/// A host name, with a port where it is not 443: what an activation code carries (SGP.22 §4.1).
fn check_server_address(address: &str) -> Result<(), ServiceError> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':');
    if (1..=SERVER_ADDRESS_MAX).contains(&address.len()) && address.bytes().all(is_plain) {
        return Ok(());
    }
    Err(invalid("server_address is a host name of at most 255 characters"))
}
