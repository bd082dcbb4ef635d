//! Remote SIM provisioning between certificates and keys: which keys of the SM-DP+ serve a transaction, and whether an
//! eUICC's certificates are in force. The steps are those of `docs/cycles/rsp.md`.

use std::cmp::Reverse;

use domain::{EuiccCurve, ReasonCode, Timestamp};
use hsm::{KeyCheck, KeyKind, KeyRef, KeyRole, RegisteredKey};
use keys::rsp::{EuiccAuthentication, EuiccInfo1};
use kms::rsp::{ProvedEuicc, RspKey, ServerKey, Transaction};
use pki::{Certificate, CertificateRole, PublicKey};
use proto::v1;

use crate::execution::invalid;
use crate::init::check_name;
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
    /// Subject key identifier of the certificate issuer (CI) above it, ours or an anchor.
    pub(crate) ci_key_id: Vec<u8>,
}

impl RspDesk {
    /// The engines, or the refusal where no token holds such keys.
    pub(crate) fn engines(&self) -> Result<&kms::rsp::Engines, ServiceError> {
        self.rsp.as_ref().ok_or_else(|| {
            ServiceError::refused(ReasonCode::UnknownRspKey, "no keys of SM-DP+ are served here")
        })
    }

    /// The DPauth and DPpb keys for a server address: certified, in force, of one entity, under one certificate issuer that the
    /// eUICC knows. Of several issuers the one that it ranks first, of several keys the newest.
    pub(crate) fn server_keys(
        &self,
        party: &str,
        server_address: &str,
        euicc: &EuiccInfo1,
        now: Timestamp,
    ) -> Result<ServerKeys, ServiceError> {
        let store = self.ca.store.as_ref();
        RspKey::check_any(store, party)?;
        let refuse = |reason, message: &str| ServiceError::refused(reason, message.to_owned());
        let is_auth = |role| matches!(role, KeyRole::RspAuth(_));
        let is_pb = |role| matches!(role, KeyRole::RspPb(_));
        let auth = RspKey::of_server(store, party, is_auth, server_address)?;
        let pb = RspKey::of_server(store, party, is_pb, server_address)?;
        if auth.is_empty() || pb.is_empty() {
            return Err(refuse(
                ReasonCode::ServerAddressMismatch,
                "no DPauth and DPpb key of yours is registered for this server address",
            ));
        }
        let (auth, pb) = (self.certified(auth, now)?, self.certified(pb, now)?);
        if auth.is_empty() || pb.is_empty() {
            return Err(refuse(
                ReasonCode::UnknownRspKey,
                "a key for this server address has no certificate in force",
            ));
        }
        let ranked =
            |key: &Certified| Some((euicc.rank(&key.ci_key_id)?, Reverse(key.certificate.not_before())));
        let best = |keys: Vec<Certified>| {
            keys.into_iter().filter_map(|key| Some((ranked(&key)?, key))).min_by_key(|(rank, _)| *rank)
        };
        let (Some((_, auth)), pb) = (best(auth), pb) else {
            return Err(refuse(
                ReasonCode::CiNotSupported,
                "the eUICC lists no certificate issuer under which your keys are certified",
            ));
        };
        let ci_key_id = auth.ci_key_id.clone();
        let same = |key: &Certified| key.ci_key_id == ci_key_id;
        let Some((_, pb)) = best(pb.into_iter().filter(same).collect()) else {
            return Err(refuse(
                ReasonCode::UnknownRspKey,
                "no DPpb key of yours for this server address is certified under the issuer of your DPauth key",
            ));
        };
        // SGP.22 §5.7.5: both certificates are of one entity.
        pki::chain::check_same_entity(&auth.certificate, &pb.certificate)
            .map_err(|refusal| ServiceError::refused(ReasonCode::UnknownRspKey, refusal.to_string()))?;
        Ok(ServerKeys { auth, pb, ci_key_id })
    }

    /// The DPpb key of a transaction, with its newest certificate in force under the certificate issuer that the eUICC was told to
    /// use.
    pub(crate) fn pb_key(
        &self,
        party: &str,
        transaction: &Transaction,
        now: Timestamp,
    ) -> Result<Certified, ServiceError> {
        let store = self.ca.store.as_ref();
        let key = RspKey::find(store, party, transaction.pb_key())?.into_iter().collect();
        let under =
            self.certified(key, now)?.into_iter().filter(|key| key.ci_key_id == transaction.ci_key_id());
        under.max_by_key(|key| key.certificate.not_before()).ok_or_else(|| {
            ServiceError::refused(
                ReasonCode::UnknownRspKey,
                "the key that the transaction began with has no certificate in force any more",
            )
        })
    }

    /// The keys with each certificate of theirs that is in force.
    fn certified(&self, keys: Vec<RspKey>, now: Timestamp) -> Result<Vec<Certified>, ServiceError> {
        let mut certified = Vec::new();
        for key in keys {
            for held in ca::in_force_for_key(self.ca.store.as_ref(), &key.public_key, now)? {
                let key = ServerKey { key: key.clone(), unchanged: held.unrevoked };
                certified.push(Certified { key, certificate: held.certificate, ci_key_id: held.ci_key_id });
            }
        }
        Ok(certified)
    }

    /// The newest key of the party's eIM of this name; the last by name where there are several.
    pub(crate) fn eim_key(&self, party: &str, eim_id: &str) -> Result<RspKey, ServiceError> {
        let keys = RspKey::of_server(self.ca.store.as_ref(), party, |role| role == KeyRole::EimSign, eim_id)?;
        keys.into_iter().last().ok_or_else(|| {
            ServiceError::refused(
                ReasonCode::UnknownRspKey,
                "no eim-sign key of yours is registered for this eimId",
            )
        })
    }

    /// The eUICC whose certificates these are (DER), verified up to the certificate issuer above the DPpb key: the one that the
    /// eUICC was told to use (SGP.22 §5.6.1, euiccCiPKIdToBeUsed).
    pub(crate) fn euicc(
        &self,
        pb: &Certified,
        sent: &EuiccAuthentication,
        now: Timestamp,
    ) -> Result<ProvedEuicc, ServiceError> {
        let EuiccAuthentication { euicc_certificate, eum_certificate, other_certificates, .. } = sent;
        let verified = ca::verify_euicc(
            &self.ca,
            &pb.ci_key_id,
            euicc_certificate,
            eum_certificate,
            other_certificates,
            now,
        )?;
        // An eUICC of another hierarchy than ours may have any key.
        EuiccCurve::try_from(verified.public_key.curve())
            .map_err(|e| ServiceError::refused(ReasonCode::EuiccCertificateRefused, e.to_string()))?;
        Ok(ProvedEuicc {
            eid: verified.eid,
            public_key: verified.public_key,
            serial_numbers: verified.rows,
            revoked: verified.revoked.into_iter().map(|(serial, _)| serial).collect(),
            unchanged: verified.unrevoked,
        })
    }
}

/// The keys that serve one transaction.
pub(crate) struct ServerKeys {
    pub(crate) auth: Certified,
    pub(crate) pb: Certified,
    /// Key identifier of the certificate issuer above both.
    pub(crate) ci_key_id: Vec<u8>,
}

/// A key of an SM-DP+ on its way into the records, checked but for the party.
pub(crate) fn parse_key(
    register: &v1::RegisterRspKey,
    known_keys: pki::KnownKeys,
) -> Result<(RspKey, RegisteredKey), ServiceError> {
    check_name("name", &register.name)?;
    let role = KeyRole::ALL
        .into_iter()
        .filter(|role| matches!(role, KeyRole::RspAuth(_) | KeyRole::RspPb(_) | KeyRole::EimSign))
        .find(|role| role.as_str() == register.role)
        .ok_or_else(|| {
            // SGP.22 has no other curve for these keys.
            invalid("role is rsp-auth or rsp-pb (or either with -brainpool-p256r1), or eim-sign")
        })?;
    if !register.key_label.starts_with(&format!("chancery/{}/", role.as_str())) {
        return Err(invalid("key_label names no key of this role"));
    }
    let id = register.key_id.as_slice().try_into().map_err(|_| invalid("key_id has 16 bytes"))?;
    let public_key = PublicKey::parse(&register.public_key, known_keys)
        .map_err(|e| ServiceError::refused(ReasonCode::WeakKey, format!("the key is refused: {e}")))?;
    if role.kind() != KeyKind::Ec(public_key.curve()) {
        return Err(invalid("public_key is on another curve than keys of this role"));
    }
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
pub(crate) const fn profile_of(role: KeyRole) -> Option<CertificateRole> {
    match role {
        KeyRole::RspAuth(_) => Some(CertificateRole::DpAuth),
        KeyRole::RspPb(_) => Some(CertificateRole::DpPb),
        KeyRole::EimSign => Some(CertificateRole::EimSign),
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
