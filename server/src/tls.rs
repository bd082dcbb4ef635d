//! The listener: TLS 1.3 only, client certificates of the operator CA only, each handshake in a task of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::PrincipalId;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::gate::Gate;
use crate::server_identity::ServerIdentity;

/// A handshake that takes longer is ended.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at the same time; more wait in the listener's backlog.
const HANDSHAKES_MAX: usize = 256;
/// Connections that finished their handshake and wait to be served.
const READY_MAX: usize = 64;

/// The listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the TLS certificate or key cannot be read")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the TLS certificate, key or client roots do not fit together")]
    Config(#[from] rustls::Error),
    #[error("the client roots cannot be used")]
    Roots(#[from] rustls::server::VerifierBuilderError),
}

/// TLS 1.3, X25519MLKEM768 preferred, no resumption: a ticket would outlive a suspended credential.
pub(crate) fn server_config(
    certificates: &[u8],
    key: &[u8],
    client_roots: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(client_roots) {
        roots.add(root?)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// SHA-256 of the client certificate's SubjectPublicKeyInfo.
    pub(crate) principal: PrincipalId,
}

/// An authenticated connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Accepts until told to stop; authenticated connections come out of the returned channel.
pub(crate) fn accept(
    listener: TcpListener,
    identity: Arc<ServerIdentity>,
    gate: Arc<Gate>,
    mut stop: watch::Receiver<bool>,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Ok((stream, address)) = accepted else {
                // Out of file descriptors, most likely: wait for connections to end.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let acceptor = TlsAcceptor::from(identity.tls());
            let (ready, gate) = (ready.clone(), Arc::clone(&gate));
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(acceptor, stream)).await {
                    // The receiver is gone only when the service stops.
                    Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                    Ok(Err(error)) => refuse(&gate, address, &error.to_string()),
                    Err(_) => refuse(&gate, address, "timed out"),
                }
                drop(slot);
            });
        }
    });
    connections
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let (_, session) = stream.get_ref();
    let group = session.negotiated_key_exchange_group().map(|group| group.name());
    tracing::debug!(?group, "handshake");
    let certificate = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| io::Error::other("no client certificate"))?;
    let certificate = pki::Certificate::from_der(certificate).map_err(io::Error::other)?;
    let principal = PrincipalId(Sha256::digest(certificate.spki()).into());
    Ok(Connection { stream, peer: Peer { principal } })
}

/// Counted; the count goes to the log with the next checkpoint, so that a flood of handshakes is no flood of entries.
fn refuse(gate: &Gate, address: SocketAddr, why: &str) {
    gate.counters.handshakes_refused.fetch_add(1, Ordering::Relaxed);
    tracing::info!(%address, why, "handshake refused");
}
