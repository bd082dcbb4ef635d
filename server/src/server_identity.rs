//! What the listener shows its callers: certificate and key, in one file so that they change together, renewed by the service
//! before they end.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ca::{About, CertificateRequest, SubjectKey};
use domain::Timestamp;
use pki::{Certificate, CertificateRole, PkiError, PrivateKey, SubjectValues};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use store::Commit;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::execution::issue;
use crate::init::OPERATOR_ISSUER;
use crate::status::ServiceError;
use crate::tls::{self, TlsError};

/// Certificate (PEM) and its private key (PKCS#8, PEM), mode 0600.
pub(crate) const FILE: &str = "tls/server.pem";
/// The operator CA: roots of the callers' certificates.
pub(crate) const ROOTS: &str = "tls/operator-ca.pem";
/// Renewed when less than a third of 398 days is left.
const RENEW_BEFORE_SECONDS: i64 = 132 * 86_400;

/// The server's certificate or key is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{FILE} holds no certificate and PKCS#8 key")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("{FILE} holds a certificate or key that cannot be used")]
    Pki(#[from] PkiError),
    #[error("{FILE} holds a key that is not the certificate's")]
    KeyDiffers,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no certificate was issued")]
    Issuance(#[from] ServiceError),
}

/// Certificate and key, read and fitting.
pub(crate) struct Pair {
    pub(crate) certificate: Certificate,
    pem: Zeroizing<Vec<u8>>,
}

impl Pair {
    /// Reads [`FILE`].
    pub(crate) fn read(config: &Config) -> Result<Self, IdentityError> {
        Self::parse(Zeroizing::new(read(&config.path(FILE))?))
    }

    fn parse(pem: Zeroizing<Vec<u8>>) -> Result<Self, IdentityError> {
        let certificate = Certificate::from_der(&CertificateDer::from_pem_slice(&pem)?)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)?;
        if PrivateKey::from_pkcs8(key.secret_pkcs8_der())?.spki() != certificate.spki() {
            return Err(IdentityError::KeyDiffers);
        }
        Ok(Self { certificate, pem })
    }

    /// The listener's configuration with these.
    pub(crate) fn tls(&self, roots: &[u8]) -> Result<Arc<ServerConfig>, IdentityError> {
        Ok(tls::server_config(&self.pem, &self.pem, roots)?)
    }

    /// Puts certificate and key in place at once.
    pub(crate) fn write(path: &Path, certificate: &Certificate, pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let key = Zeroizing::new(pki::private_key_to_pem(pkcs8));
        let pem = Zeroizing::new([certificate.pem().as_bytes(), key.as_bytes()].concat());
        let failed = |source| IdentityError::Write { path: path.to_owned(), source };
        let part = path.with_extension("part");
        // One that a stop left behind.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let write = || -> io::Result<()> {
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
            file.write_all(&pem)?;
            file.sync_all()?;
            std::fs::rename(&part, path)?;
            std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(failed)?;
        Self::parse(pem)
    }
}

/// The pair in use; handshakes take the one of their moment.
pub(crate) struct ServerIdentity {
    config: Config,
    roots: Vec<u8>,
    tls: ArcSwap<ServerConfig>,
    not_after: ArcSwap<Timestamp>,
}

impl ServerIdentity {
    /// As the data directory has it.
    pub(crate) fn open(config: &Config) -> Result<Self, IdentityError> {
        let pair = Pair::read(config)?;
        let roots = read(&config.path(ROOTS))?;
        Ok(Self {
            tls: ArcSwap::new(pair.tls(&roots)?),
            not_after: ArcSwap::from_pointee(ends(&pair.certificate)),
            config: config.clone(),
            roots,
        })
    }

    /// For the next handshake.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.load_full()
    }

    /// The node whose certificate it is.
    pub(crate) fn node(&self) -> &str {
        &self.config.node
    }

    /// Whether the certificate is near its end.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now.plus_seconds(RENEW_BEFORE_SECONDS) >= **self.not_after.load()
    }

    /// A new key and certificate: issued, durable in log and file, then shown. Connections that stand are left alone.
    pub(crate) async fn renew(
        &self,
        engines: &ca::Engines,
        about: &About,
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        let pkcs8 = pki::generate_p256()?;
        let request = server_request(engines, &self.config, &pkcs8)?;
        let issued = issue(engines, request, about, now).await?;
        let (entry, changes, preconditions) = issued.outcome(about);
        let commit = Commit { entries: vec![entry], changes, preconditions };
        engines.store.commit(commit).await.map_err(ServiceError::from)?;
        let pair = Pair::write(&self.config.path(FILE), &issued.certificate, &pkcs8)?;
        self.tls.store(pair.tls(&self.roots)?);
        self.not_after.store(Arc::new(ends(&pair.certificate)));
        Ok(())
    }
}

/// The certificate of the configuration's names and addresses.
fn server_request(
    engines: &ca::Engines,
    config: &Config,
    pkcs8: &[u8],
) -> Result<CertificateRequest, IdentityError> {
    let issuer = engines.issuers.find(engines.store.as_ref(), OPERATOR_ISSUER).map_err(ServiceError::from)?;
    request(config, issuer, pkcs8)
}

/// The same under an issuer that is not in the records yet.
pub(crate) fn request(
    config: &Config,
    issuer: Arc<ca::Issuer>,
    pkcs8: &[u8],
) -> Result<CertificateRequest, IdentityError> {
    let spki = PrivateKey::from_pkcs8(pkcs8)?.spki();
    Ok(CertificateRequest {
        profile: CertificateRole::OperatorServer.profile(),
        issuer,
        subject: SubjectValues { common_name: Some(config.node.clone()), ..SubjectValues::default() },
        key: SubjectKey::without_proof(&spki, config.known_keys()).map_err(ServiceError::from)?,
        registered_id: None,
        dns_name: config.server_names.first().cloned(),
        ip_addresses: config.server_addresses.clone(),
        permitted: Vec::new(),
        holder: config.node.clone(),
        certifies: None,
        renews: None,
        accreditation: None,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

fn ends(certificate: &Certificate) -> Timestamp {
    Timestamp::from_seconds(certificate.not_after().unix_seconds())
}
