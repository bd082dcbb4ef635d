//! `chanceryd init`: the founding ceremony. Tokens and keys are made, the roots sign themselves, the first persons are
//! seated from their own requests, and the signed transcript's digest becomes entry 0 of the log.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit::{EntryDraft, EventType, Fact, LogKey, Outcome, Pseudonyms};
use ca::{About, CertificateRequest, Issuer, Issuers, KeyRegistration, SubjectKey};
use domain::{Clock, Curve, PrincipalId, ReasonCode, Role, Timestamp};
use hsm::ceremony::Ceremony;
use hsm::{KeyCheck, KeyRole, Priority, Token};
use pki::{Certificate, CertificateRole, SubjectValues};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use store::{
    Change, Commit, LogIdentity, LogMacKey, LogStore, OpenOptions as StoreOptions, Precondition, Store,
};
use zeroize::Zeroizing;

use crate::authority::{Credential, Person, Policy};
use crate::ceremony;
use crate::clock::SystemClock;
use crate::config::{Config, RSP_TOKEN};
use crate::foundation::{self, Foundation, FoundingKey};
use crate::records;
use crate::server_identity;
use crate::status::ServiceError;
use crate::tokens::{self, CEREMONY_CHILD, own_call, this_binary};
use crate::transcript::Transcript;

/// Persons whose signatures a protected operation needs from the founding on.
const PERSONS_REQUIRED: u32 = 2;
/// Context of the log's HMAC key and of the pseudonym keys.
pub(crate) const LOG_MAC_CONTEXT: &str = "log-mac/v1";
/// Names of the founding issuers.
pub(crate) const CERTIFICATE_ISSUER: &str = "ci";
pub(crate) const OPERATOR_ISSUER: &str = "operator";

/// The founding cannot go on. Nothing of a half-made authority is of use: remove its data directory and start again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds an authority already; choose another data_directory", .0.display())]
    Exists(PathBuf),
    #[error(
        "{} is where ceremonies without an authority take place; choose another data_directory, and take the keys over with their files",
        .0.display()
    )]
    CeremonyMachine(PathBuf),
    #[error("{}: {problem}", folder.display())]
    Identity { folder: PathBuf, problem: String },
    #[error("{0}")]
    Persons(&'static str),
    #[error("token {token}")]
    Token { token: &'static str, source: hsm::HsmError },
    #[error("the ceremony failed")]
    Service(#[from] ServiceError),
    #[error("the log cannot be made")]
    Store(#[from] store::StoreError),
    #[error("no random bytes")]
    Entropy(#[from] getrandom::Error),
    #[error("the key of the server's certificate")]
    Pki(#[from] pki::PkiError),
    #[error("the server's certificate")]
    ServerIdentity(#[from] server_identity::IdentityError),
}

/// A person to be seated: the public part of an identity folder.
struct Seat {
    name: String,
    role: Role,
    tls_request: Vec<u8>,
    approval_request: Vec<u8>,
}

#[derive(Deserialize)]
struct IdentityFile {
    name: String,
    kind: String,
}

/// Founds the authority. Results for the persons go to `out`.
pub(crate) async fn found(config: &Config, folders: &[PathBuf], out: &Path) -> Result<(), InitError> {
    let seats = folders.iter().map(|folder| read_seat(folder)).collect::<Result<Vec<_>, _>>()?;
    check_seats(&seats, config.known_keys())?;
    let clock = Arc::new(SystemClock::new());
    let now = clock.now();
    prepare_directories(config)?;
    let foundation_file = config.path(foundation::FILE);
    if foundation_file.exists() {
        return Err(InitError::Exists(config.data_directory.clone()));
    }
    if config.path(ceremony::SIGNER_FILE).exists() {
        return Err(InitError::CeremonyMachine(config.data_directory.clone()));
    }
    let origin = format!("{}/{}/{}", config.authority, config.node, now.year());
    let mut transcript = Transcript::begin(&origin);
    transcript.line("time", &now.to_string());
    transcript.line("mode", &format!("{:?}", config.mode).to_lowercase());
    transcript.line("software", env!("CARGO_PKG_VERSION"));
    transcript.line("persons-required", &PERSONS_REQUIRED.to_string());

    step("making tokens and keys");
    let keys = make_keys(config, &mut transcript)?;
    let [ci_key, operator_key, signer, log_mac, pseudonym] =
        ["certificate-issuer", "operator-issuer", "log-signer", "log-mac", "pseudonym"]
            .map(|role| find(&keys, role));
    let log_key = LogKey::new(&origin, ed25519_key(signer)?).map_err(ServiceError::from)?;
    transcript.line("log-key", &log_key.vkey());

    step("opening the tokens");
    let token_error = |token| move |source| InitError::Token { token, source };
    let log_token = tokens::start(config, "log", &keys).await.map_err(token_error("log"))?;
    let ca_token = tokens::start(config, "ca", &keys).await.map_err(token_error("ca"))?;

    step("signing the roots");
    let (ci, operator) = sign_roots(config, &ca_token, ci_key, operator_key, now).await?;
    for (name, certificate) in [(CERTIFICATE_ISSUER, &ci), (OPERATOR_ISSUER, &operator)] {
        transcript.line("root", &format!("{name} certificate-sha256 {}", hex::encode(certificate.digest())));
    }

    step("making the log");
    let mac_key =
        log_token.service_secret(&log_mac.key.key, LOG_MAC_CONTEXT).await.map_err(token_error("log"))?;
    let pseudonyms = pseudonyms(&log_token, pseudonym, now).await?;
    let store = Arc::new(LogStore::create(store_options(config, mac_key, clock.clone(), 1))?);
    let engines = ca::Engines {
        store: store.clone(),
        token: ca_token.clone(),
        issuers: Arc::new(Issuers::default()),
        known_keys: config.known_keys(),
        crl_base_url: config.crl_base_url.as_str().into(),
        lists: config.revocation_lists,
        policy: config.certificate_policy.clone(),
    };

    step("seating the first persons");
    let operator_issuer = issuer(OPERATOR_ISSUER, operator_key, operator.clone());
    let mut commit = Commit::default();
    let mut certificates = Vec::new();
    for seat in &seats {
        let key =
            SubjectKey::from_request(&seat.tls_request, config.known_keys()).map_err(ServiceError::from)?;
        let approval = SubjectKey::from_request(&seat.approval_request, config.known_keys())
            .map_err(ServiceError::from)?;
        let credential =
            Credential { principal: PrincipalId(key.public_key().digest()), not_after: client_expiry(now) };
        let person = Person {
            name: seat.name.clone(),
            roles: vec![seat.role],
            credentials: vec![credential],
            approval_key: approval.public_key().spki().to_vec(),
            suspended: false,
            version: 0,
        };
        let request = client_request(&operator_issuer, &seat.name, seat.role, key);
        let issued = issue(&engines, request, now).await?;
        transcript.line(
            "person",
            &format!(
                "{} role {} tls-key-sha256 {} approval-key-sha256 {} certificate-sha256 {}",
                seat.name,
                seat.role.as_str(),
                hex::encode(credential.principal.0),
                hex::encode(approval.public_key().digest()),
                hex::encode(issued.certificate.digest()),
            ),
        );
        let object = pseudonyms.person(&seat.name);
        let about = About { role: Some(seat.role), actor: object, object };
        commit.entries.push(
            EntryDraft::new(EventType::PersonEnrolled, Outcome::Done)
                .object(object)
                .fact("role", Fact::fixed_name(seat.role.as_str()))
                .fact("principal", Fact::Pseudonym(pseudonyms.principal(&credential.principal)))
                .fact("key", Fact::Digest(approval.public_key().digest())),
        );
        add(&mut commit, person.create());
        add_entry(&mut commit, issued.founding(&about));
        certificates.push((seat.name.clone(), issued.certificate));
    }
    let server_key = pki::generate_p256()?;
    let server =
        issue(&engines, server_identity::request(config, Arc::clone(&operator_issuer), &server_key)?, now)
            .await?;
    let node = pseudonyms.party(&config.node);
    add_entry(&mut commit, server.founding(&About { role: None, actor: node, object: node }));
    transcript.line("server", &format!("certificate-sha256 {}", hex::encode(server.certificate.digest())));

    let responder = find(&keys, "ocsp-responder");
    let request =
        ca::responder_request(issuer(CERTIFICATE_ISSUER, ci_key, ci.clone()), responder, config.known_keys())
            .map_err(ServiceError::from)?;
    let responder = issue(&engines, request, now).await?;
    add_entry(&mut commit, responder.founding(&About { role: None, actor: node, object: node }));
    transcript.line(
        "ocsp-responder",
        &format!("certificate-sha256 {}", hex::encode(responder.certificate.digest())),
    );

    step("signing the transcript");
    let transcript = transcript.sign(&log_token, signer, &origin, log_key.public_key()).await?;
    let digest: [u8; 32] = Sha256::digest(&transcript).into();
    commit.entries.insert(
        0,
        EntryDraft::new(EventType::AuthorityCreated, Outcome::Done)
            .fact("transcript", Fact::Digest(digest))
            .fact("node", Fact::name(&config.node).map_err(ServiceError::from)?)
            .fact("k", Fact::Number(u64::from(PERSONS_REQUIRED))),
    );
    commit.changes.push(Policy::found(PERSONS_REQUIRED));
    for key in &keys {
        let (change, precondition) = key.create();
        commit.changes.push(change);
        commit.preconditions.push(precondition);
    }
    for (name, key, certificate) in
        [(CERTIFICATE_ISSUER, ci_key, &ci), (OPERATOR_ISSUER, operator_key, &operator)]
    {
        let (change, precondition) = Issuers::create(name, "", &key.key.key.label, Some(certificate), None);
        commit.changes.push(change);
        commit.preconditions.push(precondition);
        commit.entries.push(
            EntryDraft::new(EventType::IssuerRegistered, Outcome::Done)
                .fact("issuer", Fact::name(name).map_err(ServiceError::from)?)
                .fact("certificate", Fact::Digest(certificate.digest())),
        );
    }
    store.commit(commit).await.map_err(ServiceError::from)?;
    store.shutdown();

    let tls = config.path("tls");
    server_identity::Pair::write(&config.path(server_identity::FILE), &server.certificate, &server_key)?;
    write_public(&tls.join("operator-ca.pem"), operator.pem().as_bytes())?;
    write_public(&config.path("transcript.txt"), &transcript)?;
    fs::create_dir_all(out).map_err(failed("create", out))?;
    for (name, certificate) in &certificates {
        write_public(&out.join(format!("{name}.pem")), certificate.pem().as_bytes())?;
    }
    write_public(&out.join("authority-ca.pem"), operator.pem().as_bytes())?;
    write_public(&out.join("ci.pem"), ci.pem().as_bytes())?;
    write_public(&out.join("ci.der"), ci.der())?;
    write_public(&out.join("transcript.txt"), &transcript)?;
    write_public(&out.join("log-key.vkey"), format!("{}\n", log_key.vkey()).as_bytes())?;
    // Last: with this file the authority exists.
    let foundation = Foundation {
        format: foundation::FORMAT.to_owned(),
        authority: config.authority.clone(),
        node: config.node.clone(),
        token_serial: signer.token_serial.clone(),
        year: now.year(),
        keys: keys.iter().filter(|key| key.token == "log").map(|key| FoundingKey::of(&key.key)).collect(),
    };
    foundation.write(&foundation_file).map_err(failed("write", &foundation_file))?;
    log_token.shutdown().await;
    ca_token.shutdown().await;
    Ok(())
}

/// How this node opens its store.
pub(crate) fn store_options(
    config: &Config,
    mac_key: Zeroizing<[u8; 32]>,
    clock: Arc<dyn Clock>,
    epoch: u32,
) -> StoreOptions {
    let identity = LogIdentity { authority: config.authority.clone(), node: config.node.clone(), epoch };
    let mut options =
        StoreOptions::new(config.path("log"), identity, LogMacKey::new(mac_key), clock, records::all());
    options.segment_bytes = config.segment_bytes;
    options.view_cache_bytes = config.view_cache_bytes;
    options
}

/// The pseudonyms of the year of `now`.
pub(crate) async fn pseudonyms(
    token: &Token,
    key: &KeyRegistration,
    now: Timestamp,
) -> Result<Pseudonyms, ServiceError> {
    let year = now.year();
    let secret = token.service_secret(&key.key.key, &format!("pseudonyms/v1/{year}")).await?;
    Ok(Pseudonyms::new(secret, year))
}

/// The Ed25519 public key of the log signer, from its SubjectPublicKeyInfo (RFC 8410: a fixed head of twelve bytes).
pub(crate) fn ed25519_key(signer: &KeyRegistration) -> Result<[u8; 32], ServiceError> {
    let KeyCheck::PublicKey(spki) = &signer.key.check else {
        return Err(ServiceError::Internal("the log key has no public key"));
    };
    spki.get(12..)
        .and_then(|key| key.try_into().ok())
        .ok_or(ServiceError::Internal("the log key is no Ed25519 key"))
}

/// The certificate request of a person's or party's mTLS key.
pub(crate) fn client_request(
    issuer: &Arc<Issuer>,
    name: &str,
    role: Role,
    key: SubjectKey,
) -> CertificateRequest {
    CertificateRequest {
        profile: CertificateRole::OperatorClient.profile(),
        issuer: Arc::clone(issuer),
        subject: SubjectValues {
            common_name: Some(name.to_owned()),
            organizational_unit: Some(role.as_str().to_owned()),
            ..SubjectValues::default()
        },
        key,
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        permitted: Vec::new(),
        holder: name.to_owned(),
        certifies: None,
        renews: None,
        accreditation: None,
    }
}

/// When an mTLS certificate issued at `now` ends.
pub(crate) fn client_expiry(now: Timestamp) -> Timestamp {
    now.plus_seconds(i64::from(CertificateRole::OperatorClient.profile().validity_days) * 86_400)
}

async fn issue(
    engines: &ca::Engines,
    request: CertificateRequest,
    now: Timestamp,
) -> Result<ca::Issued, ServiceError> {
    let prepared = ca::prepare(engines, request, now)?;
    let issued = ca::sign(&engines.token, vec![prepared], own_call(Priority::Normal)).await?;
    issued.into_iter().next().ok_or(ServiceError::Internal("nothing was issued"))
}

async fn sign_roots(
    config: &Config,
    token: &Token,
    ci: &KeyRegistration,
    operator: &KeyRegistration,
    now: Timestamp,
) -> Result<(Certificate, Certificate), ServiceError> {
    let issuer = &config.certificate_issuer;
    let ci_root = ca::Root {
        profile: CertificateRole::CertificateIssuer.profile(),
        name: CERTIFICATE_ISSUER,
        subject: SubjectValues {
            common_name: Some(issuer.common_name.clone()),
            organizational_unit: Some(issuer.organizational_unit.clone()),
            organization: Some(issuer.organization.clone()),
            country: Some(issuer.country.clone()),
            eid: None,
        },
        registered_id: Some(issuer.registered_id.clone()),
    };
    let operator_root = ca::Root {
        profile: CertificateRole::OperatorRoot.profile(),
        name: OPERATOR_ISSUER,
        subject: SubjectValues {
            common_name: Some(format!("{} operator CA", config.authority)),
            ..SubjectValues::default()
        },
        registered_id: None,
    };
    let options = own_call(Priority::Normal);
    let ci = ca::self_sign(token, &ci.key, ci_root, &config.crl_base_url, now, options).await?;
    let operator =
        ca::self_sign(token, &operator.key, operator_root, &config.crl_base_url, now, options).await?;
    Ok((ci, operator))
}

fn issuer(name: &str, key: &KeyRegistration, certificate: Certificate) -> Arc<Issuer> {
    Arc::new(Issuer {
        name: name.to_owned(),
        party: String::new(),
        key: key.key.key.clone(),
        public_key: certificate.spki().to_vec(),
        certificate: Some(certificate),
        adopts_until: None,
        version: 0,
    })
}

/// The founding keys, each token in a ceremony process of its own.
fn make_keys(config: &Config, transcript: &mut Transcript) -> Result<Vec<KeyRegistration>, InitError> {
    let mut registrations = Vec::new();
    for name in config.token_names() {
        let failed = |source| InitError::Token { token: name, source };
        let roles: &[(KeyRole, &str)] = match name {
            "log" => &[
                (KeyRole::CanarySign, "log"),
                (KeyRole::LogSigner, "log"),
                (KeyRole::LogMac, "log"),
                (KeyRole::Pseudonym, "log"),
            ],
            "ca" => &[
                (KeyRole::CanarySign, "ca"),
                (KeyRole::CertificateIssuer(Curve::P256), CERTIFICATE_ISSUER),
                (KeyRole::OperatorIssuer, OPERATOR_ISSUER),
                (KeyRole::OcspResponder(Curve::P256), CERTIFICATE_ISSUER),
            ],
            RSP_TOKEN => &[(KeyRole::CanarySign, "rsp")],
            _ => &[(KeyRole::CanaryDerive, "kms"), (KeyRole::Master, "devices")],
        };
        let (Some(token), Some(so_pin)) = (config.token(name), config.so_pin_file(name)) else {
            return Err(InitError::Persons("a token is not configured"));
        };
        write_pin(&token.pin_file)?;
        write_pin(so_pin)?;
        let command = this_binary(CEREMONY_CHILD).map_err(failed)?;
        let mut ceremony = Ceremony::start(token.clone(), &command).map_err(failed)?;
        let serial = ceremony.init_token(so_pin).map_err(failed)?;
        transcript.line("token", &format!("{name} label {} serial {serial}", token.token_label));
        drop(ceremony);
        let mut token = token.clone();
        token.token_serial = Some(serial.clone());
        let mut ceremony = Ceremony::start(token, &command).map_err(failed)?;
        for (role, key_name) in roles {
            let created = ceremony.create_key(*role, key_name, 1).map_err(failed)?;
            let registration = KeyRegistration {
                token: name.to_owned(),
                token_serial: serial.clone(),
                key: created.registered(),
                epoch: 1,
                backup: String::new(),
            };
            transcript.key(&registration, &created.template);
            registrations.push(registration);
        }
    }
    Ok(registrations)
}

fn find<'k>(keys: &'k [KeyRegistration], role: &str) -> &'k KeyRegistration {
    // make_keys has just made one of each.
    keys.iter().find(|key| key.key.role.as_str() == role).unwrap_or(&keys[0])
}

fn read_seat(folder: &Path) -> Result<Seat, InitError> {
    let problem = |problem: String| InitError::Identity { folder: folder.to_owned(), problem };
    let read = |name: &str| fs::read(folder.join(name)).map_err(failed("read", &folder.join(name)));
    let text = String::from_utf8(read("identity.toml")?).map_err(|e| problem(e.to_string()))?;
    let identity: IdentityFile = toml::from_str(&text).map_err(|e| problem(e.to_string()))?;
    audit::Name::new(&identity.name).map_err(|e| problem(e.to_string()))?;
    let role = match identity.kind.as_str() {
        "officer" => Role::Officer,
        "approver" => Role::Approver,
        "auditor" => Role::Auditor,
        other => return Err(problem(format!("a person is officer, approver or auditor, not {other}"))),
    };
    Ok(Seat {
        name: identity.name,
        role,
        tls_request: read("tls.csr.pem")?,
        approval_request: read("approval.csr.pem")?,
    })
}

fn check_seats(seats: &[Seat], known_keys: pki::KnownKeys) -> Result<(), InitError> {
    for role in [Role::Officer, Role::Approver] {
        if !seats.iter().any(|seat| seat.role == role) {
            return Err(InitError::Persons(
                "an officer and an approver must be seated, or nobody could do anything",
            ));
        }
    }
    let mut names: Vec<&str> = seats.iter().map(|seat| seat.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(InitError::Persons("two persons have the same name"));
    }
    // One key in two places would let one person be two.
    let mut keys = HashSet::new();
    for (request, is_approval) in
        seats.iter().flat_map(|seat| [(&seat.tls_request, false), (&seat.approval_request, true)])
    {
        let key = SubjectKey::from_request(request, known_keys).map_err(ServiceError::from)?;
        if is_approval && key.public_key().curve() != Curve::P256 {
            return Err(InitError::Persons("an approval key is on another curve than P-256"));
        }
        if !keys.insert(key.public_key().digest()) {
            return Err(InitError::Persons(
                "a key stands in two requests; each person has a TLS key and an approval key of their own",
            ));
        }
    }
    Ok(())
}

pub(crate) fn prepare_directories(config: &Config) -> Result<(), InitError> {
    for folder in ["", "pins", "tokens", "tokens/store", "tls", "log", "orders"] {
        let path = config.path(folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("create", &path))?;
    }
    let softhsm = config.path("tokens/softhsm2.conf");
    if !softhsm.exists() && config.environment.iter().any(|(_, value)| Path::new(value) == softhsm) {
        let text = hsm::softhsm::configuration(&config.path("tokens/store"));
        write_public(&softhsm, text.as_bytes())?;
    }
    Ok(())
}

/// Writes a random PIN, unless the file is there: production puts its own there before.
pub(crate) fn write_pin(path: &Path) -> Result<(), InitError> {
    if path.exists() {
        return Ok(());
    }
    let mut bytes = Zeroizing::new([0u8; 16]);
    getrandom::fill(bytes.as_mut())?;
    write_private(path, Zeroizing::new(hex::encode(bytes.as_ref())).as_bytes())
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("write", path))
}

fn write_public(path: &Path, bytes: &[u8]) -> Result<(), InitError> {
    foundation::write_durably(path, bytes).map_err(failed("write", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InitError {
    let path = path.to_owned();
    move |source| InitError::Io { action, path, source }
}

fn add(commit: &mut Commit, (changes, preconditions): (Vec<Change>, Vec<Precondition>)) {
    commit.changes.extend(changes);
    commit.preconditions.extend(preconditions);
}

fn add_entry(
    commit: &mut Commit,
    (entry, changes, preconditions): (EntryDraft, Vec<Change>, Vec<Precondition>),
) {
    commit.entries.push(entry);
    add(commit, (changes, preconditions));
}

fn step(what: &str) {
    tracing::info!("{what}");
}

/// Refuses a name that entries and file names could not carry.
pub(crate) fn check_name(field: &'static str, name: &str) -> Result<(), ServiceError> {
    audit::Name::new(name)
        .map(drop)
        .map_err(|e| ServiceError::refused(ReasonCode::InvalidField, format!("{field}: {e}")))
}
