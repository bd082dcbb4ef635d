//! What the operations on masters and transport keys do (`docs/cycles/key-ceremony.md`). A ceremony has made or imported the
//! key; here it is taken into use.

use audit::{EntryDraft, EventType, Fact, Outcome};
use ca::KeyRegistration;
use domain::{KekEpoch, KeyCheckValue, MasterGeneration, ReasonCode, Role, Timestamp};
use hsm::{KeyCheck, KeyRef, KeyRole, Priority, RegisteredKey, StorageKeys};
use kms::scp11::OceKey;
use kms::{ExportRequest, MasterRecord, StorageEpoch, TransportKey, TransportMaterial};
use pki::TransportPublicKey;
use proto::v1;
use store::{Change, Commit, Precondition};

use crate::deeds::parse_eid;
use crate::execution::{Execution, check_text, invalid};
use crate::gate::Call;
use crate::init::check_name;
use crate::status::ServiceError;
use crate::tokens::own_call;

/// Longest life of a transport key: three years (SP 800-57 Part 1, symmetric key-wrapping keys).
const TRANSPORT_KEY_SECONDS_MAX: i64 = 3 * 366 * 86_400;
/// Longest statement of how a key is restored.
const BACKUP_CHARACTERS_MAX: usize = 200;

/// A deed of this module, checked.
pub(crate) enum Custody {
    Master { record: MasterRecord, key: KeyRegistration },
    TransportKey { record: TransportKey, key: Option<KeyRegistration> },
    Retire(TransportKey),
    ImportKey(KeyRegistration),
    Export(ExportRequest),
    Storage { record: StorageEpoch, keys: [KeyRegistration; 2] },
    Oce { record: OceKey, keys: [KeyRegistration; 2] },
}

impl Execution {
    pub(crate) fn plan_master(
        &self,
        master: &v1::RegisterMaster,
        now: Timestamp,
    ) -> Result<Custody, ServiceError> {
        check_name("name", &master.name)?;
        check_text("backup", &master.backup, BACKUP_CHARACTERS_MAX)?;
        let generation = MasterGeneration(master.generation);
        let next = self.kms.masters.next_generation(self.kms.store.as_ref())?;
        // Never one that could be confused with an older one; gaps are in order.
        if generation < next || generation.0 > next.0.saturating_add(1_000) {
            return Err(invalid(&format!("generation must be {} or a little above", next.0)));
        }
        let key = self.token_key(master.key.as_ref(), generation.0, &master.backup)?;
        let record = MasterRecord {
            generation,
            name: master.name.clone(),
            key: key.key.key.clone(),
            role: key.key.role,
            key_check_value: check_value(master.key.as_ref())?,
            schemes: master.schemes.clone(),
            backup: master.backup.clone(),
            registered: now,
        };
        record.check()?;
        Ok(Custody::Master { record, key })
    }

    pub(crate) fn plan_storage_keys(
        &self,
        request: &v1::RegisterStorageKeys,
        now: Timestamp,
    ) -> Result<Custody, ServiceError> {
        check_text("backup", &request.backup, BACKUP_CHARACTERS_MAX)?;
        let next = StorageEpoch::all(self.kms.store.as_ref())?.last().map_or(0, |newest| newest.epoch.0) + 1;
        if request.epoch != next {
            return Err(invalid(&format!("epoch must be {next}")));
        }
        let key = |key: Option<&v1::TokenKey>, role: KeyRole| {
            let registration = self.token_key(key, next, &request.backup)?;
            if registration.key.role == role {
                Ok(registration)
            } else {
                Err(invalid(&format!("label names no {} key", role.as_str())))
            }
        };
        let keys =
            [key(request.kek.as_ref(), KeyRole::Kek)?, key(request.blob_mac.as_ref(), KeyRole::BlobMac)?];
        let [kek, blob_mac] = keys.each_ref().map(|key| key.key.key.clone());
        let record = StorageEpoch {
            epoch: KekEpoch(next),
            keys: StorageKeys { kek, blob_mac },
            backup: request.backup.clone(),
            registered: now,
        };
        Ok(Custody::Storage { record, keys })
    }

    pub(crate) fn plan_oce_key(&self, request: &v1::RegisterOceKey) -> Result<Custody, ServiceError> {
        check_name("name", &request.name)?;
        check_text("backup", &request.backup, BACKUP_CHARACTERS_MAX)?;
        let party = self.party(&request.party, Role::Provisioner)?;
        if OceKey::find(self.kms.store.as_ref(), &party.name, &request.name)?.is_some() {
            return Err(ServiceError::refused(ReasonCode::Conflict, "the party has a key of this name"));
        }
        let key = |key: Option<&v1::TokenKey>, role: KeyRole| {
            let registration = self.token_key(key, 1, &request.backup)?;
            if registration.key.role == role {
                Ok(registration)
            } else {
                Err(invalid(&format!("label names no {} key", role.as_str())))
            }
        };
        let agreement = key(request.agreement.as_ref(), KeyRole::OceAgreement)?;
        let seed = key(request.seed.as_ref(), KeyRole::OceSeed)?;
        let KeyCheck::PublicKey(public_key) = agreement.key.check.clone() else {
            return Err(invalid("agreement: a key pair has a public_key"));
        };
        pki::PublicKey::parse(&public_key, self.ca.known_keys)
            .and_then(|key| key.on(domain::Curve::P256))
            .map_err(|e| ServiceError::refused(ReasonCode::WeakKey, format!("the key is refused: {e}")))?;
        let record = OceKey {
            name: request.name.clone(),
            party: party.name.clone(),
            agreement: agreement.key.key.clone(),
            seed: seed.key.key.clone(),
            public_key,
        };
        Ok(Custody::Oce { record, keys: [agreement, seed] })
    }

    pub(crate) fn plan_transport_key(
        &self,
        request: &v1::RegisterTransportKey,
        now: Timestamp,
    ) -> Result<Custody, ServiceError> {
        check_name("name", &request.name)?;
        let party = match self.authority.party(&request.party)? {
            Some(party) => party,
            None => return Err(ServiceError::refused(ReasonCode::UnknownParty, "there is no such party")),
        };
        let expires = request
            .expires
            .as_ref()
            .map(|time| Timestamp::from_seconds(time.seconds))
            .ok_or_else(|| invalid("expires is missing"))?;
        if expires <= now || expires > now.plus_seconds(TRANSPORT_KEY_SECONDS_MAX) {
            return Err(invalid("expires must lie ahead, at most three years"));
        }
        let versions = TransportKey::versions(self.kms.store.as_ref(), &party.name, &request.name)?;
        let number = versions.last().map_or(0, |key| key.number) + 1;
        let (material, key) = match &request.key {
            Some(v1::register_transport_key::Key::Imported(imported)) => {
                if request.name == kms::ORDERS_KEY && party.role == Role::Eum {
                    return Err(invalid("orders leave under an RSA key"));
                }
                check_text("backup", &request.backup, BACKUP_CHARACTERS_MAX)?;
                let key = self.token_key(Some(imported), number, &request.backup)?;
                let (token_key, key_check_value) = (key.key.key.clone(), check_value(Some(imported))?);
                let material = match key.key.role {
                    KeyRole::PartyTransport => TransportMaterial::Aes { key: token_key, key_check_value },
                    KeyRole::PartyImport => TransportMaterial::Import { key: token_key, key_check_value },
                    _ => return Err(invalid("label names no key of a party")),
                };
                // Who names a key says by it which way keys go, in all versions.
                let is_import =
                    |material: &TransportMaterial| matches!(material, TransportMaterial::Import { .. });
                if versions.iter().any(|known| is_import(&known.material) != is_import(&material)) {
                    return Err(invalid(
                        "the versions of a key go one way: give the import key a name of its own",
                    ));
                }
                (material, Some(key))
            }
            Some(v1::register_transport_key::Key::RsaPublicKey(spki)) => {
                TransportPublicKey::parse(spki).map_err(|e| {
                    ServiceError::refused(ReasonCode::WeakKey, format!("the transport key is refused: {e}"))
                })?;
                // The private half is the party's own to keep.
                if !request.backup.is_empty() {
                    return Err(invalid("backup is said of keys on our token; an RSA key is the party's"));
                }
                (TransportMaterial::Rsa(spki.clone()), None)
            }
            None => return Err(invalid("key is missing")),
        };
        if versions.iter().any(|known| known.material == material) {
            return Err(ServiceError::refused(
                ReasonCode::DuplicateKey,
                "this key is a version of this transport key already; a rotation needs another",
            ));
        }
        let record = TransportKey {
            party: party.name.clone(),
            name: request.name.clone(),
            number,
            material,
            registered: now,
            expires,
            retired: false,
            backup: request.backup.clone(),
            version: 0,
        };
        Ok(Custody::TransportKey { record, key })
    }

    pub(crate) fn plan_retirement(
        &self,
        retire: &v1::RetireTransportKey,
        now: Timestamp,
    ) -> Result<Custody, ServiceError> {
        let store = self.kms.store.as_ref();
        let key = TransportKey::version(store, &retire.party, &retire.name, retire.number, now)?;
        Ok(Custody::Retire(key))
    }

    pub(crate) fn plan_import_key(&self, request: &v1::RegisterImportKey) -> Result<Custody, ServiceError> {
        check_text("backup", &request.backup, BACKUP_CHARACTERS_MAX)?;
        let key = self.token_key(request.key.as_ref(), 1, &request.backup)?;
        if key.key.role != KeyRole::TransportImport {
            return Err(invalid("label names no transport-import key"));
        }
        Ok(Custody::ImportKey(key))
    }

    pub(crate) fn plan_export(
        &self,
        export: &v1::ExportKeyset,
        now: Timestamp,
    ) -> Result<Custody, ServiceError> {
        let request = ExportRequest {
            eid: parse_eid(&export.eid)?,
            keyset: kms::KeysetName::parse(export.keyset.as_ref())?,
            party: export.party.clone(),
            transport_key: export.transport_key.clone(),
        };
        if self.authority.party(&request.party)?.is_none_or(|party| party.suspended) {
            return Err(ServiceError::refused(
                ReasonCode::UnknownParty,
                "there is no such party, or it is suspended",
            ));
        }
        kms::check_export(&self.kms, &request, now)?;
        Ok(Custody::Export(request))
    }

    /// A key of the kms token as its key file tells it. That it is there, as it is said to be, is seen at the execution.
    fn token_key(
        &self,
        key: Option<&v1::TokenKey>,
        epoch: u32,
        backup: &str,
    ) -> Result<KeyRegistration, ServiceError> {
        let key = key.ok_or_else(|| invalid("key is missing"))?;
        let id = key.id.as_slice().try_into().map_err(|_| invalid("key: id has 16 bytes"))?;
        let role = KeyRole::ALL
            .into_iter()
            .find(|role| key.label.starts_with(&format!("chancery/{}/", role.as_str())))
            .ok_or_else(|| invalid("key: label names no role of ours"))?;
        let check = match (key.check_value.as_slice(), key.public_key.is_empty()) {
            (value, true) => {
                KeyCheck::CheckValue(value.try_into().map_err(|_| invalid("key: check_value has 3 bytes"))?)
            }
            ([], false) => KeyCheck::PublicKey(key.public_key.clone()),
            _ => return Err(invalid("key: either check_value or public_key")),
        };
        let registered = KeyRegistration::all(self.kms.store.as_ref())?;
        if registered.iter().any(|other| other.key.key.label == key.label) {
            return Err(ServiceError::refused(ReasonCode::Conflict, "a key of this label is registered"));
        }
        Ok(KeyRegistration {
            token: "kms".to_owned(),
            token_serial: self.kms.token.report().token_serial,
            key: RegisteredKey { key: KeyRef { label: key.label.clone(), id }, role, check },
            epoch,
            backup: backup.to_owned(),
        })
    }

    /// Two keys that serve together.
    async fn take_two(
        &self,
        entry: EntryDraft,
        (change, is_new): (Change, Precondition),
        keys: [KeyRegistration; 2],
    ) -> Result<Commit, ServiceError> {
        let mut commit = Commit { entries: vec![entry], changes: vec![change], preconditions: vec![is_new] };
        for key in keys {
            self.kms.token.add_key(key.key.clone()).await?;
            let (change, is_new) = key.create();
            commit.changes.push(change);
            commit.preconditions.push(is_new);
        }
        Ok(commit)
    }

    /// Carries out, up to the commit. Every worker of the token finds the key, reads its template back and sees it work
    /// before it is recorded.
    pub(crate) async fn take_into_custody(
        &self,
        call: &Call,
        operation: [u8; 32],
        custody: Custody,
    ) -> Result<Commit, ServiceError> {
        let entry = |event| {
            EntryDraft::new(event, Outcome::Done)
                .fact("operation", Fact::Digest(operation))
                .role(call.caller.role())
                .actor(call.pseudonyms.principal(&call.caller.principal()))
        };
        let (entry, writes, key) = match custody {
            Custody::Export(request) => {
                let who = (call.caller.role(), call.pseudonyms.principal(&call.caller.principal()));
                let options = own_call(Priority::Normal);
                let names = &call.pseudonyms;
                return Ok(kms::export(&self.kms, names, who, operation, &request, call.now, options).await?);
            }
            Custody::Storage { record, keys } => {
                let entry = entry(EventType::StorageKeysRegistered)
                    .fact("epoch", Fact::Number(record.epoch.0.into()));
                return self.take_two(entry, record.create(), keys).await;
            }
            Custody::Oce { record, keys } => {
                let entry = entry(EventType::OceKeyRegistered)
                    .object(call.pseudonyms.party(&record.party))
                    .fact("key", Fact::Digest(audit::sha256(&record.public_key)));
                return self.take_two(entry, record.create(), keys).await;
            }
            Custody::Master { record, key } => {
                let entry = entry(EventType::MasterRegistered)
                    .fact("generation", Fact::Number(record.generation.0.into()))
                    .fact("kind", Fact::name(record.role.as_str())?)
                    .fact("scheme", Fact::name(&record.schemes[0])?);
                (entry, record.create(), Some(key))
            }
            Custody::TransportKey { record, key } => {
                let entry = entry(EventType::TransportKeyRegistered)
                    .object(call.pseudonyms.party(&record.party))
                    .fact("transport_key", Fact::Digest(record.digest()))
                    .fact("version", Fact::Number(record.number.into()))
                    .fact("effective_strength", Fact::Number(record.strength().into()))
                    .fact("expires", Fact::Time(record.expires));
                (entry, record.create(), key)
            }
            Custody::Retire(record) => {
                let entry = entry(EventType::TransportKeyRetired)
                    .object(call.pseudonyms.party(&record.party))
                    .fact("transport_key", Fact::Digest(record.digest()))
                    .fact("version", Fact::Number(record.number.into()));
                (entry, record.retire(), None)
            }
            Custody::ImportKey(key) => {
                let digest = match &key.key.check {
                    KeyCheck::PublicKey(spki) => audit::sha256(spki),
                    KeyCheck::CheckValue(_) => return Err(invalid("key: public_key is missing")),
                };
                self.kms.token.add_key(key.key.clone()).await?;
                let entry = entry(EventType::ImportKeyRegistered).fact("transport_key", Fact::Digest(digest));
                (entry, key.create(), None)
            }
        };
        let (mut changes, mut preconditions) = (vec![writes.0], vec![writes.1]);
        if let Some(key) = key {
            self.kms.token.add_key(key.key.clone()).await?;
            let (change, is_new) = key.create();
            changes.push(change);
            preconditions.push(is_new);
        }
        Ok(Commit { entries: vec![entry], changes, preconditions })
    }
}

fn check_value(key: Option<&v1::TokenKey>) -> Result<KeyCheckValue, ServiceError> {
    key.and_then(|key| key.key_check_value.as_slice().try_into().ok())
        .map(KeyCheckValue)
        .ok_or_else(|| invalid("key: key_check_value has 3 bytes"))
}

/// The registered transport key `orders` that a manufacturer's orders leave under; none: that of its enrolment.
pub(crate) fn order_key(
    store: &dyn store::Store,
    party: &str,
    now: Timestamp,
) -> Result<Option<Vec<u8>>, ServiceError> {
    if TransportKey::versions(store, party, kms::ORDERS_KEY)?.is_empty() {
        return Ok(None);
    }
    match TransportKey::current(store, party, kms::ORDERS_KEY, now)?.material {
        TransportMaterial::Rsa(spki) => Ok(Some(spki)),
        TransportMaterial::Aes { .. } | TransportMaterial::Import { .. } => {
            Err(ServiceError::Internal("orders leave under an RSA key"))
        }
    }
}
