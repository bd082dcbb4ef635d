//! An SM-DP+ with its keys in the token, the eUICCs it serves, and one download at a time.

use std::fs;

use domain::PrincipalId;
use proto::v1::rsp_service_client::RspServiceClient;
use proto::v1::{
    AuthenticateClientRequest, AuthenticateClientResponse, BindProfileRequest, BindProfileResponse,
    InitiateAuthenticationRequest, InitiateAuthenticationResponse, ProfileProtection,
};
use tests::euicc::certificate::subject_public_key_info;
use tests::euicc::curve::{Curve, PrivateKey};
use tests::euicc::{Euicc, Personality, lpa};
use tonic::Status;

use crate::caller::Caller;
use crate::devices::eid;
use crate::fleet::new_key as new_idempotency_key;
use crate::support::{Deployment, GRANTED, ISSUER};

pub const ADDRESS: &str = "smdpplus.example";
pub const PURPOSE: &str = "profile-download";
pub const CODE: &str = "1234";
pub const EIM_ID: &str = "eim.example";
pub const OID: &str = "2.999.7";

/// The SM-DP+ and its world.
pub struct Site {
    pub sm_dp_plus: Caller,
    pub euiccs: Vec<Euicc>,
    eids: Vec<String>,
}

/// One transaction with one eUICC.
pub struct Download {
    pub id: Vec<u8>,
    pub eid: String,
    pub euicc: Euicc,
    offered: InitiateAuthenticationResponse,
    /// As it was when the server had accepted it: it prepares as often as it is asked.
    before: Option<Euicc>,
}

/// The certificate issuer and the manufacturer's of the second curve.
pub const BRAINPOOL_CI: &str = "ci-brainpool";
pub const BRAINPOOL_ISSUER: &str = "eum-brainpool";

/// Which issuers a site lives under, and the suffix of its keys' roles and names.
struct Hierarchy {
    curve: Curve,
    suffix: &'static str,
    ci: &'static str,
    issuer: &'static str,
    /// Issuers between that and the CI, whose certificates were received under their names.
    between: &'static [&'static str],
}

impl Hierarchy {
    const fn on(curve: Curve) -> Self {
        match curve {
            Curve::P256 => Self { curve, suffix: "", ci: "ci", issuer: ISSUER, between: &[] },
            Curve::BrainpoolP256r1 => {
                let (ci, issuer) = (BRAINPOOL_CI, BRAINPOOL_ISSUER);
                Self { curve, suffix: "-brainpool-p256r1", ci, issuer, between: &[] }
            }
        }
    }

    fn ci_certificate(&self, deployment: &Deployment) -> Vec<u8> {
        match self.curve {
            Curve::P256 => deployment.ci_certificate(),
            Curve::BrainpoolP256r1 => {
                let path = deployment.path("received/ci-brainpool/certificate.pem");
                pki::Certificate::from_pem(&fs::read(path).unwrap()).unwrap().der().to_vec()
            }
        }
    }
}

/// A second certificate issuer of the authority, on the second curve, and the manufacturer's issuer under it.
pub fn provide_brainpool(deployment: &Deployment) {
    let role = "certificate-issuer-brainpool-p256r1";
    let create = |name: &str, more: &[&str]| {
        let create = ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", role, "--name", name];
        deployment.chanceryd(&[&create[..], more].concat());
    };
    create(BRAINPOOL_CI, &["--out", "ci-brainpool.json"]);
    let register = ["issuer", "register", "--key-file", "ci-brainpool.json", "--authority"];
    deployment.two_persons(&[&register[..], &["--reason", "second curve"]].concat(), None);
    let certify = ["issuer", "certify", "--issuer", BRAINPOOL_CI, "--common-name", "CI brainpoolP256r1"];
    deployment.two_persons(&[&certify[..], &["--reason", "second curve"]].concat(), Some("ci-brainpool"));
    create(BRAINPOOL_ISSUER, &["--party", "eum", "--out", "eum-brainpool.json"]);
    let register = ["issuer", "register", "--key-file", "eum-brainpool.json", "--reason", "second curve"];
    deployment.two_persons(&register, None);
    let request = ["certificate", "request", "--profile", "eum", "--party", "eum"];
    let which = ["--issuer", BRAINPOOL_ISSUER, "--under", BRAINPOOL_CI, "--reason", "second curve"];
    let subject = ["--common-name", "EUM brainpoolP256r1", "--registered-id", "2.999.5"];
    deployment.two_persons(&[&request[..], &which, &subject].concat(), None);
}

/// The SM-DP+'s keys at a ceremony, registered and certified by two persons, and a grant to download profiles.
pub fn provide(deployment: &Deployment) {
    provide_keys(deployment, &Hierarchy::on(Curve::P256));
    deployment.grant("downloads", PURPOSE, GRANTED, "9d");
}

fn provide_keys(deployment: &Deployment, hierarchy: &Hierarchy) {
    for (role, profile) in [("rsp-auth", "dpauth"), ("rsp-pb", "dppb")] {
        let (role, name) = (format!("{role}{}", hierarchy.suffix), format!("{profile}{}", hierarchy.suffix));
        let file = format!("{name}.json");
        let create =
            ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", &role, "--name", &name];
        deployment.chanceryd(&[&create[..], &["--party", "provisioner", "--out", &file]].concat());
        let register = ["rsp", "key-register", "--key-file", &file, "--server-address", ADDRESS];
        let terms = ["--registered-id", OID, "--reason", "ceremony"];
        deployment.two_persons(&[&register[..], &terms].concat(), None);
        let request = ["certificate", "request", "--profile", profile, "--party", "provisioner"];
        let subject =
            ["--common-name", "SM-DP+", "--rsp-key", &name, "--registered-id", OID, "--under", hierarchy.ci];
        deployment.two_persons(&[&request[..], &subject, &["--reason", "ceremony"]].concat(), None);
    }
}

impl Site {
    /// Its keys, and devices of which we hold the keys.
    pub async fn build(deployment: &Deployment, devices: usize) -> Self {
        provide(deployment);
        let create =
            ["ceremony", "create-key", "--config", "chanceryd.toml", "--role", "eim-sign", "--name", "eim"];
        deployment.chanceryd(&[&create[..], &["--party", "provisioner", "--out", "eim.json"]].concat());
        let register =
            ["rsp", "key-register", "--key-file", "eim.json", "--server-address", EIM_ID, "--reason", "x"];
        deployment.two_persons(&register, None);
        let eids: Vec<String> = (0..devices).map(|number| eid(GRANTED, number + 70)).collect();
        let euiccs = make_euiccs(deployment, &Hierarchy::on(Curve::P256), &eids);
        Self { sm_dp_plus: deployment.caller("provisioner").await, euiccs, eids }
    }

    /// The same SM-DP+ with keys on the second curve too, and further devices whose certificates are on it alone.
    pub fn add_brainpool(&mut self, deployment: &Deployment, devices: usize) {
        let hierarchy = Hierarchy::on(Curve::BrainpoolP256r1);
        provide_keys(deployment, &hierarchy);
        let eids: Vec<String> = (0..devices).map(|number| eid(GRANTED, number + 170)).collect();
        self.euiccs.extend(make_euiccs(deployment, &hierarchy, &eids));
        self.eids.extend(eids);
    }

    /// A device of variant C of SGP.22 v3, below these issuers; the number of it.
    pub fn add_of_variant_c(
        &mut self,
        deployment: &Deployment,
        issuer: &'static str,
        between: &'static [&'static str],
    ) -> usize {
        let hierarchy = Hierarchy { suffix: "-v3", issuer, between, ..Hierarchy::on(Curve::P256) };
        let eids = [eid(GRANTED, 270)];
        self.euiccs.extend(make_euiccs(deployment, &hierarchy, &eids));
        self.eids.extend(eids);
        self.eids.len() - 1
    }

    /// Connects again, after a restart.
    pub async fn connect(&mut self, deployment: &Deployment) {
        self.sm_dp_plus = deployment.caller("provisioner").await;
    }

    /// One more device, made elsewhere.
    pub fn add(&mut self, eid: &str, euicc: Euicc) {
        self.eids.push(eid.to_owned());
        self.euiccs.push(euicc);
    }

    /// The EID of one of them.
    pub fn eid(&self, number: usize) -> String {
        self.eids[number].clone()
    }

    pub fn client(&self) -> RspServiceClient<tonic::transport::Channel> {
        RspServiceClient::new(self.sm_dp_plus.channel.clone())
    }

    pub async fn initiate(&mut self, number: usize) -> Result<Download, Status> {
        self.initiate_for(number, PURPOSE).await
    }

    pub async fn initiate_for(&mut self, number: usize, purpose: &str) -> Result<Download, Status> {
        let mut euicc = self.euiccs[number].clone();
        let challenge = euicc.challenge();
        let request = InitiateAuthenticationRequest {
            idempotency_key: new_idempotency_key(),
            euicc_challenge: challenge.to_vec(),
            server_address: ADDRESS.to_owned(),
            euicc_info1: euicc.info1(),
            purpose: purpose.to_owned(),
        };
        let offered = self.client().initiate_authentication(request).await?.into_inner();
        Ok(Download {
            id: offered.transaction_id.clone(),
            eid: self.eids[number].clone(),
            euicc,
            offered,
            before: None,
        })
    }

    /// The first two requests of a download, of which the first was answered once.
    pub async fn requests_of_a_download(
        &mut self,
        number: usize,
    ) -> (InitiateAuthenticationRequest, AuthenticateClientRequest) {
        let mut euicc = self.euiccs[number].clone();
        let first = InitiateAuthenticationRequest {
            idempotency_key: new_idempotency_key(),
            euicc_challenge: euicc.challenge().to_vec(),
            server_address: ADDRESS.to_owned(),
            euicc_info1: euicc.info1(),
            purpose: PURPOSE.to_owned(),
        };
        let offered = self.client().initiate_authentication(first.clone()).await.unwrap().into_inner();
        let id = offered.transaction_id.clone();
        let mut download = Download { id, eid: self.eids[number].clone(), euicc, offered, before: None };
        let second = AuthenticateClientRequest {
            idempotency_key: new_idempotency_key(),
            transaction_id: download.id.clone(),
            authenticate_server_response: download.euicc_response(Some("MATCH")),
            confirmation_code_digest: Vec::new(),
            purpose: PURPOSE.to_owned(),
        };
        (first, second)
    }

    /// The first call with fields that are wrong.
    pub async fn begin(
        &self,
        euicc: &Euicc,
        address: &str,
        purpose: &str,
        info1: Option<Vec<u8>>,
    ) -> Result<InitiateAuthenticationResponse, Status> {
        let request = InitiateAuthenticationRequest {
            idempotency_key: new_idempotency_key(),
            euicc_challenge: vec![1; 16],
            server_address: address.to_owned(),
            euicc_info1: info1.unwrap_or_else(|| euicc.info1()),
            purpose: purpose.to_owned(),
        };
        Ok(self.client().initiate_authentication(request).await?.into_inner())
    }

    pub async fn authenticate(
        &self,
        key: &str,
        id: &[u8],
        response: &[u8],
        code: Option<&str>,
    ) -> Result<AuthenticateClientResponse, Status> {
        self.authenticate_for(key, id, response, code, PURPOSE).await
    }

    pub async fn authenticate_for(
        &self,
        key: &str,
        id: &[u8],
        response: &[u8],
        code: Option<&str>,
        purpose: &str,
    ) -> Result<AuthenticateClientResponse, Status> {
        let request = AuthenticateClientRequest {
            idempotency_key: format!("{key}-{}", new_idempotency_key()),
            transaction_id: id.to_vec(),
            authenticate_server_response: response.to_vec(),
            confirmation_code_digest: code
                .map(|code| lpa::confirmation_code_digest(code).to_vec())
                .unwrap_or_default(),
            purpose: purpose.to_owned(),
        };
        Ok(self.client().authenticate_client(request).await?.into_inner())
    }

    pub async fn bind(&self, request: &BindProfileRequest) -> Result<BindProfileResponse, Status> {
        Ok(self.client().bind_profile(request.clone()).await?.into_inner())
    }

    /// What an eUICC of this EID would answer whose manufacturer certified itself.
    pub fn stranger(&self, download: &Download) -> Vec<u8> {
        let mut response = download.clone_response();
        // The eUICC's own certificate stands for its manufacturer's too: no chain leads from it to the CI.
        let (euicc, eum) = download.certificates();
        let at = response.windows(eum.len()).position(|part| part == eum).unwrap();
        response.splice(at..at + eum.len(), euicc.clone());
        tests::euicc::tlv::tlv(0xbf38, &[&tests::euicc::tlv::tlv(0xa0, &[&inside(&response)])])
    }

    /// Revokes the certificate of the DPpb key.
    pub fn revoke_dppb(&self, deployment: &Deployment, certificate: &[u8]) {
        let certificate = pki::Certificate::from_der(certificate).unwrap();
        let serial = hex::encode(certificate.serial().as_bytes());
        let revoke = ["certificate", "revoke", "--serial", &serial, "--reason", "superseded"];
        deployment.two_persons(&[&revoke[..], &["--because", "test"]].concat(), None);
    }
}

/// Devices of which we hold the keys, certified by an order.
fn make_euiccs(deployment: &Deployment, hierarchy: &Hierarchy, eids: &[String]) -> Vec<Euicc> {
    let keys: Vec<_> = eids.iter().map(|_| PrivateKey::random(hierarchy.curve)).collect();
    let spki = |key: &PrivateKey| hex::encode(subject_public_key_info(&key.public_key()));
    let lines = eids.iter().zip(&keys).map(|(eid, key)| format!("{eid},{}\n", spki(key)));
    let (order, file) = (format!("euiccs{}", hierarchy.suffix), format!("euiccs{}.csv", hierarchy.suffix));
    fs::write(deployment.path(&file), format!("eid,public_key\n{}", lines.collect::<String>())).unwrap();
    let place = ["order", "place", "--order", &order, "--issuer", hierarchy.issuer, "--devices", &file];
    let terms = ["--kvn", "0x30", "--algorithm", "AES-128", "--identity", "eum"];
    deployment.chancery(&[&place[..], &terms].concat());
    let ci_certificate = hierarchy.ci_certificate(deployment);
    let read = |name: &str| fs::read(deployment.path(name)).unwrap();
    eids.iter()
        .zip(keys)
        .map(|(eid, key)| {
            let file = format!("{eid}.der");
            deployment.chancery(&["certificate", "get", "--eid", eid, "--out", &file, "--identity", "eum"]);
            Euicc::new(Personality {
                eid: hex::decode(eid).unwrap().try_into().unwrap(),
                key,
                certificate: read(&file),
                eum_certificate: read(&format!("{eid}.issuer.der")),
                other_certificates: hierarchy
                    .between
                    .iter()
                    .map(|name| {
                        let pem = read(&format!("received/{name}/certificate.pem"));
                        pki::Certificate::from_pem(&pem).unwrap().der().to_vec()
                    })
                    .collect(),
                ci_certificate: ci_certificate.clone(),
            })
            .unwrap()
        })
        .collect()
}

/// The content of the choice in an answer that does not fit its lengths any more.
fn inside(response: &[u8]) -> Vec<u8> {
    // BF38 82 LL LL A0 82 LL LL
    response[9..].to_vec()
}

impl Download {
    /// The certificate issuer that the eUICC was told to use.
    pub fn ci_key_id(&self) -> &[u8] {
        &self.offered.ci_key_id
    }

    /// The eUICC's answer to the offer.
    pub fn euicc_response(&mut self, matching_id: Option<&str>) -> Vec<u8> {
        let server = lpa::ServerAuthentication {
            server_signed1: &self.offered.server_signed1,
            server_signature1: &self.offered.server_signature1,
            ci_key_id: &self.offered.ci_key_id,
            server_certificate: &self.offered.server_certificate,
        };
        self.euicc.authenticate_server(&lpa::authenticate_server(&server, matching_id))
    }

    fn clone_response(&self) -> Vec<u8> {
        let mut copy = Self {
            id: self.id.clone(),
            eid: self.eid.clone(),
            euicc: self.euicc.clone(),
            offered: self.offered.clone(),
            before: None,
        };
        copy.euicc_response(Some("MATCH"))
    }

    /// The eUICC's certificate and its manufacturer's.
    /// The eUICC's certificate and the next one of its chain.
    pub fn certificates(&self) -> (Vec<u8>, Vec<u8>) {
        let keys::rsp::AuthenticateServerResponse::Accepted(read) =
            keys::rsp::AuthenticateServerResponse::parse(&self.clone_response()).unwrap()
        else {
            panic!("it accepts")
        };
        (read.euicc_certificate, read.eum_certificate)
    }

    pub async fn authenticate(
        &mut self,
        site: &Site,
        code: Option<&str>,
    ) -> Result<AuthenticateClientResponse, Status> {
        // The state that the eUICC is in afterwards matters only when this succeeds.
        let mut euicc = self.euicc.clone();
        std::mem::swap(&mut euicc, &mut self.euicc);
        let response = self.euicc_response(Some("MATCH"));
        let answer = site.authenticate("authenticate", &self.id, &response, code).await;
        if answer.is_err() {
            self.euicc = euicc;
        }
        answer
    }

    /// PrepareDownloadResponse of a copy of the eUICC, which keeps the one-time key that it made.
    pub fn prepare(&mut self, offer: &AuthenticateClientResponse, code: Option<&str>) -> Vec<u8> {
        let hash = code.map(|code| lpa::hash_cc(code, &self.id));
        let request =
            lpa::prepare_download(&offer.smdp_signed2, &offer.smdp_signature2, &offer.smdp_certificate, hash);
        let before = self.before.take().unwrap_or_else(|| self.euicc.clone());
        self.euicc = before.clone();
        self.before = Some(before);
        self.euicc.prepare_download(&request)
    }

    /// PrepareDownloadResponse that the eUICC signs over a one-time key on P-256, whatever its curve.
    pub fn prepare_on_p256(&mut self, offer: &AuthenticateClientResponse) -> Vec<u8> {
        use tests::euicc::tlv::tlv;
        let one_time = PrivateKey::random(Curve::P256).public_key().point();
        let signed2 = tlv(0x30, &[&tlv(0x80, &[&self.id]), &tlv(0x5f49, &[&one_time])]);
        let before = tlv(0x5f37, &[&offer.smdp_signature2]);
        let signature = self.euicc.sign_for_a_test(&[&signed2[..], &before].concat());
        tlv(0xbf21, &[&tlv(0xa0, &[&signed2, &tlv(0x5f37, &[&signature])])])
    }

    /// A well-formed response that nobody signed.
    pub fn prepared_for_nothing(&self) -> Vec<u8> {
        use tests::euicc::tlv::tlv;
        let signed2 = tlv(0x30, &[&tlv(0x80, &[&self.id]), &tlv(0x5f49, &[&[4; 65]])]);
        tlv(0xbf21, &[&tlv(0xa0, &[&signed2, &tlv(0x5f37, &[&[1; 64]])])])
    }

    pub fn bind_request(
        &self,
        key: &str,
        prepared: &[u8],
        protection: ProfileProtection,
    ) -> BindProfileRequest {
        BindProfileRequest {
            idempotency_key: format!("{key}-{}", hex::encode(&self.id)),
            transaction_id: self.id.clone(),
            prepare_download_response: prepared.to_vec(),
            host_id: b"smdp".to_vec(),
            protection: protection.into(),
            purpose: PURPOSE.to_owned(),
        }
    }
}

impl Caller {
    /// What an SM-DP+ finds in an answer: the plaintext of docs/formats/sealed-bsp-keys.md.
    pub fn unseal_bound(&self, eid: &str, transaction_id: &[u8], answer: &BindProfileResponse) -> Vec<u8> {
        let principal: PrincipalId = self.principal();
        let id = keys::rsp::TransactionId(transaction_id.try_into().unwrap());
        let eid = eid.parse().unwrap();
        let info = keys::bsp::bound_keys_info(&principal, &eid, &id, answer.request_id.as_bytes()).unwrap();
        self.open(&info, &answer.encapsulated_key, &answer.ciphertext)
    }
}
