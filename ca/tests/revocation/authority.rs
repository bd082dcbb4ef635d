//! A small authority: a CI with its key in a token, an operator root, a manufacturer, and a log that can be opened again.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{Entry, Pseudonym};
use ca::{
    About, CertificateRequest, Engines, Issued, Issuers, KeyRegistration, PublishedCrl, RevocationRequest,
    Root, SubjectKey,
};
use domain::Curve;
use domain::{Clock, ReasonCode, RevocationReason, Role, Timestamp};
use hsm::ceremony::Ceremony;
use hsm::{CallOptions, KeyRole, Priority, Token, TokenConfig, WorkerCommand};
use pki::crl::Crl;
use pki::{CertificateRole, KnownKeys, SerialNumber, SubjectValues};
use store::{Commit, LogIdentity, LogMacKey, LogStore, OpenOptions, Store as _};
use tempfile::TempDir;
use zeroize::Zeroizing;

/// 2026-11-24T00:00:00Z.
pub const START: Timestamp = Timestamp::from_seconds(1_795_478_400);

/// A worker or ceremony of the token is this test program itself, told to run one of the two below.
fn process(name: &str) -> WorkerCommand {
    WorkerCommand {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "--ignored", name].map(str::to_owned).to_vec(),
    }
}

#[test]
#[ignore = "no test: the token's worker, started by the tests"]
fn token_worker() {
    hsm::worker::run();
}

#[test]
#[ignore = "no test: the token's ceremony, started by the tests"]
fn token_ceremony() {
    hsm::ceremony::run_child();
}

/// Stands still: the tests say what time it is.
struct Standing;

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        START
    }

    fn monotonic_micros(&self) -> u64 {
        0
    }
}

pub struct Authority {
    directory: TempDir,
    pub log: Arc<LogStore>,
    pub engines: Engines,
}

impl Authority {
    /// The CI `ci`, the operator's root `operator`, and the manufacturer's issuer `maker` under the CI.
    pub async fn found() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        let config = token_config(directory.path());
        let mut ceremony = Ceremony::start(config.clone(), &process("authority::token_ceremony")).unwrap();
        ceremony.init_token(&directory.path().join("so-pin")).unwrap();
        let mut create = |role, name| ceremony.create_key(role, name, 1).unwrap().registered();
        let keys = [
            create(KeyRole::CertificateIssuer(Curve::P256), "ci"),
            create(KeyRole::OperatorIssuer, "operator"),
            create(KeyRole::CertificateIssuer(Curve::P256), "maker"),
            create(KeyRole::OcspResponder(domain::Curve::P256), "ci"),
        ];
        drop(ceremony);
        let token = Token::start(config, keys.to_vec(), process("authority::token_worker")).await.unwrap();
        let log = Arc::new(LogStore::create(options(directory.path())).unwrap());
        let engines = engines(&log, token);
        let authority = Self { directory, log, engines };
        authority.seat(&keys).await;
        authority
    }

    async fn seat(&self, keys: &[hsm::RegisteredKey; 4]) {
        let mut commit = Commit::of(vec![audit::EntryDraft::new(
            audit::EventType::AuthorityCreated,
            audit::Outcome::Done,
        )]);
        for key in keys {
            let registration = KeyRegistration {
                token: "ca".into(),
                token_serial: "1".into(),
                key: key.clone(),
                epoch: 1,
                backup: String::new(),
            };
            let (change, precondition) = registration.create();
            commit.changes.push(change);
            commit.preconditions.push(precondition);
        }
        for (key, profile, name, registered_id) in [
            (&keys[0], CertificateRole::CertificateIssuer, "ci", Some("2.999.1".to_owned())),
            (&keys[1], CertificateRole::OperatorRoot, "operator", None),
        ] {
            let operator = profile == CertificateRole::OperatorRoot;
            let subject = SubjectValues {
                common_name: Some(format!("Test {name}")),
                organizational_unit: (!operator).then(|| "Tests".to_owned()),
                organization: (!operator).then(|| "Regulator".to_owned()),
                country: (!operator).then(|| "SE".to_owned()),
                eid: None,
            };
            let root = Root { profile: profile.profile(), name, subject, registered_id };
            let url = &self.engines.crl_base_url;
            let certificate =
                ca::self_sign(&self.engines.token, key, root, url, START, soon()).await.unwrap();
            let (change, precondition) = Issuers::create(name, "", &key.key.label, Some(&certificate), None);
            commit.changes.push(change);
            commit.preconditions.push(precondition);
        }
        let (change, precondition) = Issuers::create("maker", "maker", &keys[2].key.label, None, None);
        commit.changes.push(change);
        commit.preconditions.push(precondition);
        self.log.commit(commit).await.unwrap();

        let maker = self.issuer("maker");
        let request = CertificateRequest {
            subject: SubjectValues {
                country: Some("SE".into()),
                organization: Some("Maker".into()),
                common_name: Some("Maker EUM".into()),
                ..SubjectValues::default()
            },
            key: SubjectKey::without_proof(&maker.public_key, KnownKeys::Refuse).unwrap(),
            registered_id: Some("2.999.5".into()),
            permitted: vec![("Maker".into(), "89049032".into())],
            certifies: Some(maker),
            ..self.request(CertificateRole::Eum, "ci", "maker")
        };
        self.issue(request).await;
    }

    pub fn issuer(&self, name: &str) -> Arc<ca::Issuer> {
        self.engines.issuers.find(self.log.as_ref(), name).unwrap()
    }

    /// A request with a fresh key and what an SM-DP+ certificate needs.
    pub fn request(&self, profile: CertificateRole, issuer: &str, holder: &str) -> CertificateRequest {
        let key = pki::PrivateKey::from_pkcs8(&pki::generate_p256().unwrap()).unwrap();
        CertificateRequest {
            profile: profile.profile(),
            issuer: self.issuer(issuer),
            subject: SubjectValues {
                organization: Some("Operator".into()),
                common_name: Some("dp.example.org".into()),
                ..SubjectValues::default()
            },
            key: SubjectKey::without_proof(&key.spki(), KnownKeys::Refuse).unwrap(),
            registered_id: Some("2.999.10".into()),
            dns_name: None,
            ip_addresses: Vec::new(),
            permitted: Vec::new(),
            holder: holder.into(),
            certifies: None,
            renews: None,
            accreditation: None,
        }
    }

    pub fn euicc_request(&self) -> CertificateRequest {
        let eid = "89049032123451234512345678901235";
        CertificateRequest {
            subject: SubjectValues {
                country: Some("SE".into()),
                organization: Some("Maker".into()),
                eid: Some(eid.parse().unwrap()),
                common_name: Some("eUICC".into()),
                organizational_unit: None,
            },
            registered_id: None,
            ..self.request(CertificateRole::Euicc, "maker", eid)
        }
    }

    pub fn client_request(&self) -> CertificateRequest {
        CertificateRequest {
            subject: SubjectValues {
                organizational_unit: Some("officer".into()),
                common_name: Some("ada".into()),
                ..SubjectValues::default()
            },
            registered_id: None,
            ..self.request(CertificateRole::OperatorClient, "operator", "ada")
        }
    }

    pub async fn issue(&self, request: CertificateRequest) -> Issued {
        let prepared = ca::prepare(&self.engines, request, START).unwrap();
        self.apply(prepared.intent(&about())).await.unwrap();
        let mut issued = ca::sign(&self.engines.token, vec![prepared], soon()).await.unwrap();
        let issued = issued.remove(0);
        self.apply(issued.outcome(&about())).await.unwrap();
        issued
    }

    pub async fn issue_dp(&self, profile: CertificateRole) -> Issued {
        self.issue(self.request(profile, "ci", "dp")).await
    }

    pub async fn apply(
        &self,
        (entry, changes, preconditions): (audit::EntryDraft, Vec<store::Change>, Vec<store::Precondition>),
    ) -> Result<store::Receipt, store::CommitError> {
        self.log.commit(Commit { entries: vec![entry], changes, preconditions }).await
    }

    pub async fn revoke(&self, serial: &SerialNumber, reason: RevocationReason, now: Timestamp) {
        let request =
            RevocationRequest { serial: serial.clone(), issuer: String::new(), reason, invalid_since: None };
        let revoking = ca::revoke(&self.engines, &request, now).unwrap();
        self.apply(revoking.outcome(&about())).await.unwrap();
    }

    /// Why a revocation is refused.
    pub fn refusal(&self, serial: &SerialNumber) -> (ReasonCode, String) {
        let request = RevocationRequest {
            issuer: String::new(),
            serial: serial.clone(),
            reason: RevocationReason::Superseded,
            invalid_since: None,
        };
        match ca::revoke(&self.engines, &request, START) {
            Err(ca::CaError::Refused(refused)) => (refused.refusal.reason, refused.refusal.message),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    pub async fn publish(&self, now: Timestamp) -> PublishedCrl {
        self.publish_list(&ca::ListName::full("ci"), now).await
    }

    pub async fn publish_list(&self, list: &ca::ListName, now: Timestamp) -> PublishedCrl {
        ca::publish_crl(&self.engines, list, now, soon()).await.unwrap()
    }

    pub fn due(&self, now: Timestamp) -> Vec<(String, ca::DueReason)> {
        let due = ca::crls_due(&self.engines, now).unwrap();
        due.into_iter().map(|due| (due.list.to_string(), due.reason)).collect()
    }

    /// The stored list, read and verified as a relying party would.
    pub fn newest(&self) -> Crl {
        self.newest_of(ca::ListKind::Full).unwrap()
    }

    pub fn newest_of(&self, kind: ca::ListKind) -> Option<Crl> {
        let list = ca::ListName { kind, ..ca::ListName::full("ci") };
        let newest = ca::newest_crl(self.log.as_ref(), &list).unwrap()?;
        let crl = Crl::parse(&newest.der).unwrap();
        crl.verify(self.issuer("ci").certificate().unwrap()).unwrap();
        assert_eq!(crl.number(), Some(newest.number));
        assert_eq!((crl.revoked().len() + crl.removed().len()) as u64, newest.entries);
        assert_eq!(crl.this_update().unix_seconds(), newest.this_update.seconds());
        assert_eq!(crl.next_update().unix_seconds(), newest.next_update.seconds());
        Some(crl)
    }

    /// The entries about revocation and lists: event, outcome with reason, number of the list.
    pub fn told(&self) -> Vec<String> {
        self.entries()
            .iter()
            .filter(|entry| {
                matches!(
                    entry.header.event.as_str().split_once('.'),
                    Some(("crl", _) | (_, "revoked" | "held" | "released"))
                )
            })
            .map(|entry| {
                let header = &entry.header;
                let reason = header.outcome.reason().map(|reason| format!(" {reason}")).unwrap_or_default();
                let number = match entry.facts.get("number") {
                    Some(audit::Fact::Number(number)) => format!(" {number}"),
                    _ => String::new(),
                };
                format!("{} {}{reason}{number}", header.event.as_str(), header.outcome.as_str())
            })
            .collect()
    }

    pub fn entries(&self) -> Vec<Entry> {
        let stored = self.log.entries(0, 10_000).unwrap();
        stored.iter().map(|bytes| Entry::parse(bytes).unwrap()).collect()
    }

    /// The service stops wherever it is, and starts again on its log.
    pub fn restart(self) -> Self {
        let Self { directory, log, engines } = self;
        let token = engines.token.clone();
        log.shutdown();
        // Both hold the store, and with it the lock of its directory.
        drop((log, engines));
        let log = Arc::new(LogStore::open(options(directory.path())).unwrap().0);
        let engines = self::engines(&log, token);
        Self { directory, log, engines }
    }
}

fn engines(log: &Arc<LogStore>, token: Token) -> Engines {
    Engines {
        store: log.clone(),
        token,
        issuers: Arc::new(Issuers::default()),
        known_keys: KnownKeys::Refuse,
        crl_base_url: "http://crl.example.org".into(),
        lists: ca::ListPolicy::default(),
        policy: audit::Name::fixed("cp-test"),
    }
}

pub fn about() -> About {
    let someone = Pseudonym::from_bytes([7; 16]);
    About { role: Some(Role::Officer), actor: someone, object: someone }
}

pub fn soon() -> CallOptions {
    CallOptions { deadline: Instant::now() + Duration::from_secs(20), priority: Priority::Incident }
}

/// After so many days.
pub fn day(days: i64) -> Timestamp {
    START.plus_seconds(days * 86_400)
}

fn options(directory: &Path) -> OpenOptions {
    fs::create_dir_all(directory.join("log")).unwrap();
    let identity = LogIdentity { authority: "authority.test".into(), node: "a".into(), epoch: 1 };
    let mac = LogMacKey::new(Zeroizing::new([0x5a; 32]));
    let mut options =
        OpenOptions::new(directory.join("log"), identity, mac, Arc::new(Standing), ca::KEYSPACES.to_vec());
    options.segment_bytes = 12 * 1024 * 1024;
    options.reserve_bytes = 0;
    options
}

fn token_config(directory: &Path) -> TokenConfig {
    let tokens = directory.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = directory.join("softhsm2.conf");
    fs::write(&conf, hsm::softhsm::configuration(&tokens)).unwrap();
    for (file, pin) in [("pin", "2468-test-pin"), ("so-pin", "1357-test-so-pin")] {
        let mut file = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(directory.join(file))
            .unwrap();
        writeln!(file, "{pin}").unwrap();
    }
    TokenConfig {
        name: "ca".into(),
        module: hsm::softhsm::module().expect("the tests need SoftHSM 2 (package softhsm2)"),
        token_label: "chancery-ca".into(),
        token_serial: None,
        pin_file: directory.join("pin"),
        environment: vec![("SOFTHSM2_CONF".into(), conf.display().to_string())],
        lock_file: directory.join("token.lock"),
        workers: 1,
        threads_per_worker: 1,
        queue_depth_max: 64,
        injected_delay_us: 0,
        session_objects_max: hsm::SESSION_OBJECTS_MAX,
        inside_only: false,
    }
}
