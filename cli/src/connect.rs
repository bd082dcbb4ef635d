//! The way to the service: mTLS of this tool's own making, deadlines, bounded retries under one idempotency key.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use crate::error::{CliError, Refused, caused_by_io, chain};
use crate::identity::{self, names};
use crate::key_file::PrivateKey;
use crate::output::Output;

/// Largest answer: a piece of an export or of an order's output.
pub const ANSWER_MAX_BYTES: usize = 16 << 20;
/// How often a call is sent at most, the first time included.
const ATTEMPTS_MAX: u32 = 6;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Who calls, and where to.
#[derive(Debug, Clone, Args)]
pub struct RemoteArgs {
    /// Folder of the identity that calls
    #[arg(long, env = "CHANCERY_IDENTITY", value_name = "DIR")]
    pub identity: PathBuf,
    /// Another address than the one in the identity's profile.toml
    #[arg(long, env = "CHANCERY_SERVER", value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Seconds that one attempt at a call, or a silence in a stream, may last
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_s: u64,
}

/// The key under which a call can be repeated safely.
#[derive(Debug, Clone, Args)]
pub struct IdempotencyArgs {
    /// Repeat an earlier call under its key, instead of a new random one
    #[arg(long, value_name = "KEY", value_parser = parse_idempotency_key)]
    pub idempotency_key: Option<String>,
}

impl IdempotencyArgs {
    /// The key given, or a fresh one of 128 random bits.
    pub fn key(&self) -> Result<String, CliError> {
        match &self.idempotency_key {
            Some(key) => Ok(key.clone()),
            None => random_key(),
        }
    }
}

/// A fresh idempotency key: 128 random bits in hex.
pub fn random_key() -> Result<String, CliError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| CliError::Local(format!("no entropy: {error}")))?;
    Ok(hex::encode(bytes))
}

fn parse_idempotency_key(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("an idempotency key has 1 to 64 visible ASCII characters".to_owned())
    }
}

/// A connection as one identity.
pub struct Connection {
    channel: Channel,
    timeout: Duration,
    /// Name of the authority, from the profile.
    pub authority: String,
    /// SHA-256 of the SubjectPublicKeyInfo of the mTLS certificate: what the service calls us.
    pub principal: [u8; 32],
}

impl RemoteArgs {
    /// Connects, trying again for a while when nobody listens.
    pub async fn connect(&self, output: Output) -> Result<Connection, CliError> {
        let profile = identity::read_profile(&self.identity)?;
        let server = self.server.clone().unwrap_or(profile.server);
        let (config, principal) = tls_config(&self.identity)?;
        let config = Arc::new(config);
        let mut attempt = 1;
        loop {
            match connect(&server, Arc::clone(&config), self.timeout()).await {
                Ok(channel) => {
                    return Ok(Connection {
                        channel,
                        timeout: self.timeout(),
                        authority: profile.authority,
                        principal,
                    });
                }
                Err(Failure { error, nobody_listens: true }) if attempt < ATTEMPTS_MAX => {
                    output.step(&format!("{error}; trying again"));
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

impl Connection {
    /// For a generated client.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// How long an attempt at a call, or a silence in a stream, may last.
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Calls until it succeeds, is refused for good, or the attempts are used up. `call` must send the same request,
    /// under the same idempotency key, every time.
    pub async fn call<T, F>(
        &self,
        output: Output,
        idempotency_key: Option<&str>,
        call: impl Fn() -> F,
    ) -> Result<T, CliError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut attempt = 1;
        loop {
            let status = match call().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            let mut refused = Refused::from(status);
            if !sends_again(&refused) || attempt == ATTEMPTS_MAX {
                refused.idempotency_key = idempotency_key.map(str::to_owned);
                return Err(CliError::Refused(Box::new(refused)));
            }
            let wait = refused.retry_after.unwrap_or_default().max(backoff(attempt)).min(BACKOFF_MAX);
            output.step(&format!("{}: {}; trying again", refused.reason, refused.message));
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// A request with the deadline of one attempt.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// Whether sending the same again by itself can help. A passed deadline needs a longer one, and a wrong digest another
/// fetch: retryable, but not by this loop.
pub const fn sends_again(refused: &Refused) -> bool {
    refused.retryable && matches!(refused.code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
}

/// How long to wait after so many attempts.
pub fn backoff(attempt: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1 << (attempt - 1).min(10)).min(BACKOFF_MAX)
}

/// Whether a stream that broke off so is worth opening again, and when.
pub fn resumes_after(refused: &Refused, attempt: u32) -> Option<Duration> {
    (sends_again(refused) && attempt < ATTEMPTS_MAX)
        .then(|| refused.retry_after.unwrap_or_default().max(backoff(attempt)).min(BACKOFF_MAX))
}

struct Failure {
    error: CliError,
    nobody_listens: bool,
}

async fn connect(server: &str, config: Arc<ClientConfig>, timeout: Duration) -> Result<Channel, Failure> {
    let for_good = |error| Failure { error, nobody_listens: false };
    let (host, port) = split_address(server).map_err(for_good)?;
    let name = ServerName::try_from(host.clone()).map_err(|_| {
        for_good(CliError::invalid(format!("{host:?} is no host name or address"), "correct --server"))
    })?;
    let tls = TlsConnector::from(config);
    let connector = service_fn(move |_: Uri| {
        let (tls, name, host) = (tls.clone(), name.clone(), host.clone());
        async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    // The connector above does TLS; for tonic the transport is plain, so the scheme is http.
    Endpoint::new(format!("http://{server}"))
        .map_err(|error| for_good(CliError::invalid(chain(&error), "correct --server")))?
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure {
            nobody_listens: caused_by_io(&error, |kind| {
                matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
            }),
            error: CliError::Connect { server: server.to_owned(), problem: chain(&error) },
        })
}

/// Host (without brackets) and port of HOST:PORT.
pub fn split_address(server: &str) -> Result<(String, u16), CliError> {
    let wrong =
        || CliError::invalid(format!("{server:?} is no address"), "give HOST:PORT, IPv6 as [::1]:PORT");
    let (host, port) = server.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host,
        None if host.contains(':') => return Err(wrong()),
        None => host,
    };
    if host.is_empty() { Err(wrong()) } else { Ok((host.to_owned(), port)) }
}

/// TLS 1.3 only, X25519MLKEM768 first, our certificate, only the authority's CA. With the principal of the certificate.
fn tls_config(folder: &std::path::Path) -> Result<(ClientConfig, [u8; 32]), CliError> {
    let chain_path = folder.join(names::TLS_CERTIFICATE);
    let ca_path = folder.join(names::AUTHORITY_CA);
    let certificates = certificates(&chain_path)?;
    let leaf = pki::Certificate::from_der(&certificates[0]).map_err(|error| {
        CliError::invalid(format!("{}: {error}", chain_path.display()), "install it again")
    })?;
    let principal = Sha256::digest(leaf.spki()).into();

    let mut roots = RootCertStore::empty();
    for certificate in self::certificates(&ca_path)? {
        roots.add(certificate).map_err(|error| {
            CliError::invalid(format!("{}: {error}", ca_path.display()), "install it again")
        })?;
    }
    let key = PrivateKey::load(&folder.join(names::TLS_KEY))?;
    // rustls takes ownership and hands the key to aws-lc-rs, which wipes its own form.
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.der().to_vec()));
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| CliError::Local(error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates, key)
        .map_err(|error| {
            CliError::invalid(
                format!("certificate and key of {} do not serve mTLS: {error}", folder.display()),
                "install the certificate that was issued for this folder's tls.csr.pem",
            )
        })?;
    Ok((with_http2(config), principal))
}

fn with_http2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// The server takes the client's order, so what is to be used stands first.
fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1], ..aws_lc_rs::default_provider() }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    if !path.exists() {
        return Err(CliError::invalid(
            format!("there is no {}", path.display()),
            "run `chancery identity install` first",
        ));
    }
    let bytes = fs::read(path).map_err(CliError::file("read", path))?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().unwrap_or_default();
    if list.is_empty() {
        return Err(CliError::invalid(
            format!("{} holds no certificate", path.display()),
            "install it again",
        ));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(split_address("a.example:7443").unwrap(), ("a.example".to_owned(), 7443));
        assert_eq!(split_address("[::1]:1").unwrap(), ("::1".to_owned(), 1));
        for wrong in ["a.example", ":7443", "a:b", "::1:7443", "a:70000", ""] {
            assert!(split_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn waiting_grows_and_stays_bounded() {
        assert_eq!(backoff(1), BACKOFF_FIRST);
        assert_eq!(backoff(2), 2 * BACKOFF_FIRST);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    #[test]
    fn the_hybrid_group_is_offered_first() {
        assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn only_what_may_pass_by_itself_is_sent_again() {
        let refused = |code, retryable: &str| {
            let metadata = [("retryable".to_owned(), retryable.to_owned())];
            let details = tonic_types::ErrorDetails::with_error_info("R", "chancery", metadata);
            Refused::from(<Status as tonic_types::StatusExt>::with_error_details(code, "m", details))
        };
        assert!(sends_again(&refused(Code::Unavailable, "true")));
        assert!(!sends_again(&refused(Code::Unavailable, "false")));
        assert!(!sends_again(&refused(Code::DeadlineExceeded, "true")));
        assert!(!sends_again(&refused(Code::FailedPrecondition, "true")));
        assert!(sends_again(&Refused::from(Status::unavailable("gone"))));
    }
}
