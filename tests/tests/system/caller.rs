//! One who calls: a connection of its own over mTLS, and the keys of its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use domain::{KeyVersionNumber, PrincipalId};
use hyper_util::rt::TokioIo;
use keys::scp03::{CardChallenge, Challenges, HostChallenge};
use keys::seal::{self, Sealed};
use proto::v1::{FetchSessionKeysRequest, FetchSessionKeysResponse};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_types::StatusExt;
use tower::service_fn;

pub struct Caller {
    pub channel: Channel,
    folder: PathBuf,
    principal: PrincipalId,
}

impl Caller {
    /// As the identity of a folder.
    pub async fn connect(folder: &Path, ca: &Path, port: u16) -> Result<Self, tonic::transport::Error> {
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&read("tls.pem")).unwrap();
        let principal = pki::Certificate::from_der(&certificate).unwrap().spki_digest();
        let key = PrivatePkcs8KeyDer::from_pem_slice(&read("tls-key.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&fs::read(ca).unwrap()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        let connector = service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                // Else each call waits for an acknowledgement that the kernel delays by 40 ms.
                stream.set_nodelay(true)?;
                tls.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::new(format!("http://127.0.0.1:{port}")).unwrap();
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { channel, folder: folder.to_owned(), principal: PrincipalId(principal) })
    }

    /// A person's signature over an operation, by its digest.
    pub fn approve(&self, operation: &[u8]) -> Vec<u8> {
        let message = [b"chancery-approval/v1\0", operation].concat();
        self.key("approval-key.pem").sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec()
    }

    /// What a provisioner finds in an answer: S-ENC, S-MAC and S-RMAC in their encoding.
    pub fn unseal(&self, request: &FetchSessionKeysRequest, answer: &FetchSessionKeysResponse) -> Vec<u8> {
        match request.host_challenge.len() {
            16 => self.unseal_mode::<16>(request, answer),
            _ => self.unseal_mode::<8>(request, answer),
        }
    }

    fn unseal_mode<const N: usize>(
        &self,
        request: &FetchSessionKeysRequest,
        answer: &FetchSessionKeysResponse,
    ) -> Vec<u8> {
        let challenges = Challenges::<N> {
            host: HostChallenge(request.host_challenge[..].try_into().unwrap()),
            card: CardChallenge(request.card_challenge[..].try_into().unwrap()),
        };
        let kvn = KeyVersionNumber::scp03(request.keyset.unwrap().key_version_number).unwrap();
        let eid = request.eid.parse().unwrap();
        let key = request.idempotency_key.as_bytes();
        let info = seal::session_keys_info(&self.principal, &eid, kvn, &challenges, key).unwrap();
        let sealed = Sealed {
            encapsulated_key: answer.encapsulated_key[..].try_into().unwrap(),
            ciphertext: answer.ciphertext.clone(),
        };
        let private = self.key("encryption-key.pem").private_key().as_be_bytes().unwrap();
        seal::open(private.as_ref().try_into().unwrap(), &info, &sealed).unwrap().to_vec()
    }

    /// Whose credential this is.
    pub const fn principal(&self) -> PrincipalId {
        self.principal
    }

    /// Opens what was sealed to this identity's encryption key.
    pub fn open(&self, info: &[u8], encapsulated_key: &[u8], ciphertext: &[u8]) -> Vec<u8> {
        let sealed = Sealed {
            encapsulated_key: encapsulated_key.try_into().unwrap(),
            ciphertext: ciphertext.to_vec(),
        };
        let private = self.key("encryption-key.pem").private_key().as_be_bytes().unwrap();
        seal::open(private.as_ref().try_into().unwrap(), info, &sealed).unwrap().to_vec()
    }

    /// The public point to which answers are sealed, as the authority has it from the enrolment.
    pub fn encryption_point(&self) -> Vec<u8> {
        self.key("encryption-key.pem").public_key().as_ref().to_vec()
    }

    fn key(&self, name: &str) -> EcdsaKeyPair {
        let pem = fs::read(self.folder.join(name)).unwrap();
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).unwrap();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der()).unwrap()
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// The reason code of a refusal.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.unwrap_or_else(|| panic!("a refusal without reason: {status:?}")).reason
}
