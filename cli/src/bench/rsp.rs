//! Profile downloads under load: whole RSP transactions of an SM-DP+ whose keys are in the token, with eUICCs that sign as
//! theirs do. A sample of the released keys is compared with what its eUICC derives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::agreement::{self, ECDH_P256, UnparsedPublicKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use domain::{Eid, PrincipalId};
use keys::bsp::{BspKeys, key_data, shared_info};
use keys::rsp::{TransactionId, with_signature};
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::get_certificate_request::By;
use proto::v1::rsp_service_client::RspServiceClient;
use proto::v1::{
    AuthenticateClientRequest, BindProfileRequest, GetCertificateRequest, InitiateAuthenticationRequest,
    ProfileProtection,
};
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::bench::authority::{EIN, EUM, ISSUER, PROVISIONER, PURPOSE, ScratchAuthority};
use crate::bench::load::{self, Measured};
use crate::connect::Connection;
use crate::error::CliError;
use crate::key_file::PrivateKey;
use crate::rsp::open;

/// eUICCs that take turns.
const EUICCS: u64 = 50;
/// One transaction in so many is compared.
const SAMPLE_EVERY: u64 = 16;
const ADDRESS: &str = "smdpplus.bench.example";
const OID: &str = "2.999.3";
const HOST_ID: &[u8] = b"bench";

/// Runs transactions for a set of eUICCs.
#[derive(Clone)]
pub struct RspLoad(Arc<Parts>);

struct Parts {
    euiccs: Vec<Euicc>,
    clients: Vec<RspServiceClient<Channel>>,
    principal: PrincipalId,
    encryption_key: Zeroizing<[u8; 32]>,
    /// Makes idempotency keys of this run differ from those of any other.
    run: [u8; 8],
    checked: AtomicU64,
}

/// As much of an eUICC as a transaction asks for.
struct Euicc {
    eid: Eid,
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    eum_certificate: Vec<u8>,
    info1: Vec<u8>,
}

/// Makes, registers and certifies the keys of the SM-DP+.
pub fn make_keys(authority: &ScratchAuthority) -> Result<(), CliError> {
    for (role, profile) in [("rsp-auth", "dpauth"), ("rsp-pb", "dppb")] {
        let file = authority.path(&format!("{profile}.json")).display().to_string();
        authority.create_key(&["--role", role, "--name", profile, "--party", PROVISIONER, "--out", &file])?;
        let register = ["rsp", "key-register", "--key-file", &file, "--server-address", ADDRESS];
        authority.protected(&[&register[..], &["--registered-id", OID]].concat())?;
        let request = ["certificate", "request", "--profile", profile, "--party", PROVISIONER];
        let subject = ["--common-name", "SM-DP+", "--rsp-key", profile, "--registered-id", OID];
        authority.protected(&[&request[..], &subject].concat())?;
    }
    Ok(())
}

impl RspLoad {
    /// Orders the eUICCs, whose keys stay here, and prepares to run over these connections of the SM-DP+.
    pub async fn new(
        authority: &ScratchAuthority,
        manufacturer: &Connection,
        connections: &[Connection],
        encryption_key: Zeroizing<[u8; 32]>,
    ) -> Result<Self, CliError> {
        let principal = connections
            .first()
            .map(|connection| PrincipalId(connection.principal))
            .ok_or_else(|| CliError::Local("no connection to bench with".to_owned()))?;
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|error| CliError::Local(format!("no entropy: {error}")))?;
        Ok(Self(Arc::new(Parts {
            euiccs: order(authority, manufacturer).await?,
            clients: connections.iter().map(|c| RspServiceClient::new(c.channel())).collect(),
            principal,
            encryption_key,
            run,
            checked: AtomicU64::new(0),
        })))
    }

    /// Keeps `in_flight` transactions going for `time`.
    pub async fn run(
        &self,
        in_flight: usize,
        time: Duration,
        numbers: &Arc<AtomicU64>,
    ) -> Result<Measured, CliError> {
        let load = self.clone();
        load::run(in_flight, time, numbers, move |connection, number| {
            let load = load.clone();
            async move { load.0.transaction(connection, number).await }
        })
        .await
    }

    /// How many transactions were compared and found right.
    pub fn checked(&self) -> u64 {
        self.0.checked.load(Ordering::Relaxed)
    }
}

async fn order(authority: &ScratchAuthority, manufacturer: &Connection) -> Result<Vec<Euicc>, CliError> {
    let local = |error: &dyn std::error::Error| CliError::Local(error.to_string());
    let mut keys = Vec::new();
    let mut csv = "eid,public_key\n".to_owned();
    for number in 0..EUICCS {
        let width = 30 - EIN.len();
        let eid = Eid::from_body(&format!("{EIN}{number:0width$}")).map_err(|error| local(&error))?;
        let key = PrivateKey::generate_p256()?;
        csv.push_str(&format!("{eid},{}\n", hex::encode(key.p256_spki()?)));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.der())
            .map_err(|error| local(&error))?;
        keys.push((eid, key));
    }
    let (devices, eum) = (authority.path("euiccs.csv"), authority.path(EUM));
    std::fs::write(&devices, csv).map_err(CliError::file("write", &devices))?;
    let [devices, eum] = [&devices, &eum].map(|path| path.display().to_string());
    let place = ["order", "place", "--order", "euiccs", "--issuer", ISSUER, "--devices", &devices];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", &eum];
    tokio::task::block_in_place(|| authority.chancery(&[&place[..], &terms].concat()))?;
    let mut client = CertificateServiceClient::new(manufacturer.channel());
    let mut euiccs = Vec::new();
    for (eid, key) in keys {
        let request = GetCertificateRequest { by: Some(By::Eid(eid.to_string())), issuer: String::new() };
        let answer = client.get_certificate(request).await?.into_inner();
        let eum = pki::Certificate::from_der(&answer.issuer_certificate).map_err(|error| local(&error))?;
        let ci = eum.authority_key_identifier().ok_or_else(|| unreadable("the EUM's certificate"))?;
        euiccs.push(Euicc {
            eid,
            info1: info1(ci),
            key,
            certificate: answer.certificate,
            eum_certificate: answer.issuer_certificate,
        });
    }
    Ok(euiccs)
}

impl Parts {
    /// All three calls.
    async fn transaction(&self, connection: usize, number: u64) -> Result<(), CliError> {
        let at = usize::try_from(number).unwrap_or(0) % self.euiccs.len();
        let euicc = &self.euiccs[at];
        let mut client = self.clients[connection].clone();
        let key = |step: &str| format!("{step}-{}", hex::encode([self.run, number.to_be_bytes()].concat()));
        let initiated = client
            .initiate_authentication(InitiateAuthenticationRequest {
                idempotency_key: key("initiate"),
                euicc_challenge: vec![7; 16],
                server_address: ADDRESS.to_owned(),
                euicc_info1: euicc.info1.clone(),
                purpose: PURPOSE.to_owned(),
            })
            .await?
            .into_inner();
        let id: [u8; 16] =
            initiated.transaction_id.as_slice().try_into().map_err(|_| unreadable("the transaction id"))?;
        let signed1 = euicc.signed1(&initiated.server_signed1)?;
        let signature1 = euicc.sign(&signed1)?;
        let certificates = [&euicc.certificate[..], &euicc.eum_certificate].concat();
        let response =
            tlv(0xbf38, &tlv(0xa0, &[with_signature(&signed1, &signature1), certificates].concat()));
        let authenticated = client
            .authenticate_client(AuthenticateClientRequest {
                idempotency_key: key("authenticate"),
                transaction_id: id.to_vec(),
                authenticate_server_response: response,
                confirmation_code_digest: Vec::new(),
                purpose: PURPOSE.to_owned(),
            })
            .await?
            .into_inner();
        let one_time = agreement::PrivateKey::generate(&ECDH_P256).map_err(|_| unreadable("a fresh key"))?;
        let public = one_time.compute_public_key().map_err(|_| unreadable("a fresh key"))?;
        let signed2 = tlv(0x30, &[tlv(0x80, &id), tlv(0x5f49, public.as_ref())].concat());
        let before: &[u8; 64] =
            authenticated.smdp_signature2.as_slice().try_into().map_err(|_| unreadable("smdpSignature2"))?;
        let signature2 = euicc.sign(&with_signature(&signed2, before))?;
        let bound = client
            .bind_profile(BindProfileRequest {
                idempotency_key: key("bind"),
                transaction_id: id.to_vec(),
                prepare_download_response: tlv(0xbf21, &tlv(0xa0, &with_signature(&signed2, &signature2))),
                host_id: HOST_ID.to_vec(),
                protection: ProfileProtection::SessionKeys.into(),
                purpose: PURPOSE.to_owned(),
            })
            .await?
            .into_inner();
        if number.is_multiple_of(SAMPLE_EVERY) {
            let opened = open(&bound, &self.principal, &euicc.eid, &TransactionId(id), &self.encryption_key)?;
            let derived = euicc.derive(&one_time, &bound.initialise_secure_channel)?;
            if opened.session.s_enc != derived.s_enc || opened.session.s_mac != derived.s_mac {
                return Err(CliError::Answer("the released keys are not those of the eUICC".to_owned()));
            }
            self.checked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Euicc {
    /// EuiccSigned1 that answers serverSigned1: 30 LL, 80 10 id, 81 10 our challenge, 83 LL address, 84 10 challenge.
    fn signed1(&self, server_signed1: &[u8]) -> Result<Vec<u8>, CliError> {
        let fields = server_signed1.get(2..).filter(|fields| fields.len() > 36);
        let fields = fields.ok_or_else(|| unreadable("serverSigned1"))?;
        let context = tlv(0xa0, &[tlv(0x80, b"BENCH"), tlv(0xa1, &tlv(0x80, &[1; 4]))].concat());
        // EUICCInfo2 of about the size that real ones have.
        let info2 = tlv(0xbf22, &[3; 160]);
        Ok(tlv(0x30, &[&fields[..18], &fields[36..], &info2, &context].concat()))
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], CliError> {
        let signature =
            self.key.sign(&SystemRandom::new(), message).map_err(|_| unreadable("a signature"))?;
        signature.as_ref().try_into().map_err(|_| unreadable("a signature"))
    }

    /// The keys that this eUICC agrees on. otPK.DP is in front of the signature: 5F49 41 (65) 5F37 40 (64) end the object.
    fn derive(&self, one_time: &agreement::PrivateKey, channel: &[u8]) -> Result<BspKeys, CliError> {
        let at = channel.len().checked_sub(65 + 67).ok_or_else(|| unreadable("the secure channel"))?;
        let peer = UnparsedPublicKey::new(&ECDH_P256, &channel[at..at + 65]);
        let info = shared_info(HOST_ID, self.eid.bcd());
        agreement::agree(one_time, peer, unreadable("otPK.DP"), |secret| {
            let secret = secret.try_into().map_err(|_| unreadable("the shared secret"))?;
            Ok(BspKeys::from_key_data(&key_data(secret, &info)))
        })
    }
}

fn info1(ci_key_identifier: &[u8]) -> Vec<u8> {
    let list = tlv(0x04, ci_key_identifier);
    tlv(0xbf20, &[tlv(0x82, &[2, 2, 2]), tlv(0xa9, &list), tlv(0xaa, &list)].concat())
}

/// An element of at most 65,535 bytes.
fn tlv(tag: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = if tag > 0xff { tag.to_be_bytes().to_vec() } else { vec![tag as u8] };
    match content.len() {
        length @ 0..=0x7f => bytes.push(length as u8),
        length @ 0x80..=0xff => bytes.extend([0x81, length as u8]),
        length => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(content);
    bytes
}

fn unreadable(what: &str) -> CliError {
    CliError::Answer(format!("{what} is not what it should be"))
}
