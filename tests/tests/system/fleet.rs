//! The provisioner's side of a rotation: cards with a memory, the channel to them, and the calls that move them to new
//! keys. And the two persons who allow it.

use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand;
use keys::scp03::SessionKeys as OpenedKeys;
use prost::Message;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::keyset_service_client::KeysetServiceClient;
use proto::v1::operation::Kind;
use proto::v1::operation_service_client::OperationServiceClient;
use proto::v1::rotation_service_client::RotationServiceClient;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::{
    CardProof, DecideOperationRequest, Decision, ExecuteOperationRequest, ExecuteOperationResponse,
    FetchRotationScriptsRequest, FetchRotationScriptsResponse, FetchSessionKeysRequest,
    FetchSessionKeysResponse, GetDeviceRequest, GetDeviceResponse, GetRotationRequest, Keyset, KeysetName,
    Operation, PutKeyDialect, ReportRotationRequest, ReportRotationResponse, RequestOperationRequest,
    RotationReport, RotationScript, RotationState, RotationStatus, RotationTerms, StartRotation,
};
use tests::SecurityLevel;
use tests::card::{SimulatedCard, StatusWord};
use tests::host::{HostChannel, SessionKeys};
use tonic::Status;
use tonic::transport::Channel;

use crate::caller::{Caller, reason, sha256};
use crate::devices::KVN;
use crate::support::{AUTHORITY, Deployment, PURPOSE};

/// The key version that rotations move to.
pub const NEW_KVN: u8 = 0x31;
/// How long anything of a rotation may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A keyset of the ISD-R under SCP03.
pub fn keyset(kvn: u8) -> KeysetName {
    KeysetName { security_domain: 1, protocol: 3, key_version_number: kvn.into() }
}

/// AES-128 under 0x30 to AES-256 under 0x31, in one stage, with time for everything.
pub fn terms(name: &str, eids: &[String]) -> RotationTerms {
    RotationTerms {
        name: name.to_owned(),
        provisioner: "provisioner".to_owned(),
        eids: eids.to_vec(),
        eins: Vec::new(),
        from: Some(keyset(KVN)),
        to_key_version_number: NEW_KVN.into(),
        to_key_bits: 256,
        dialect: PutKeyDialect::A.into(),
        stages: vec![100],
        overlap_seconds: 600,
        halt_failures_percent: 100,
        channel: None,
        deletes_old_keys: false,
    }
}

/// A call's own idempotency key.
pub fn new_key() -> String {
    hex::encode(random::<16>())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).unwrap();
    bytes
}

/// An officer who requests and executes, and an approver who agrees.
pub struct TwoPersons {
    officer: Caller,
    approver: Caller,
}

impl TwoPersons {
    pub async fn of(deployment: &Deployment) -> Self {
        Self { officer: deployment.caller("officer").await, approver: deployment.caller("approver").await }
    }

    /// Requests, approves and executes.
    pub async fn carry_out(&self, kind: Kind) -> Result<ExecuteOperationResponse, Status> {
        let digest = self.approve(kind).await?;
        self.execute(digest).await
    }

    /// Requests and approves; the digest.
    pub async fn approve(&self, kind: Kind) -> Result<Vec<u8>, Status> {
        let digest = self.request(kind).await?;
        let decide = DecideOperationRequest {
            idempotency_key: new_key(),
            digest: digest.clone(),
            decision: Decision::Approve.into(),
            signature: self.approver.approve(&digest),
        };
        OperationServiceClient::new(self.approver.channel.clone()).decide_operation(decide).await?;
        Ok(digest)
    }

    /// Requests only; the digest.
    pub async fn request(&self, kind: Kind) -> Result<Vec<u8>, Status> {
        #[expect(clippy::disallowed_methods, reason = "the daemon under test has the real clock too")]
        let expires = SystemTime::now() + Duration::from_secs(3600);
        let operation = Operation {
            version: 1,
            salt: random::<32>().to_vec(),
            authority: AUTHORITY.to_owned(),
            reason: "test".to_owned(),
            expires: Some(expires.into()),
            kind: Some(kind),
        };
        let operation = operation.encode_to_vec();
        let digest = sha256(&operation);
        let request = RequestOperationRequest {
            idempotency_key: new_key(),
            signature: self.officer.approve(&digest),
            operation,
        };
        self.officer_operations().request_operation(request).await?;
        Ok(digest)
    }

    pub async fn execute(&self, digest: Vec<u8>) -> Result<ExecuteOperationResponse, Status> {
        let execute = ExecuteOperationRequest { idempotency_key: new_key(), digest };
        self.officer_operations().execute_operation(execute).await.map(tonic::Response::into_inner)
    }

    /// Starts a rotation and waits until its devices are collected.
    pub async fn start(&self, terms: RotationTerms) -> RotationStatus {
        let name = terms.name.clone();
        self.carry_out(Kind::StartRotation(StartRotation { terms: Some(terms) })).await.unwrap();
        self.until(&name, |status| status.state() != RotationState::Preparing).await
    }

    /// The rotation as soon as it is so.
    pub async fn until(&self, name: &str, so: impl Fn(&RotationStatus) -> bool) -> RotationStatus {
        let started = Instant::now();
        loop {
            let status = self.rotation(name).await;
            if so(&status) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the rotation does not proceed: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn rotation(&self, name: &str) -> RotationStatus {
        let request = GetRotationRequest { name: name.to_owned() };
        self.rotations().get_rotation(request).await.unwrap().into_inner().status.unwrap()
    }

    pub async fn device(&self, eid: &str) -> GetDeviceResponse {
        let request = GetDeviceRequest { eid: eid.to_owned() };
        self.devices().get_device(request).await.unwrap().into_inner()
    }

    /// A keyset of a device as an officer sees it.
    pub async fn keyset_of(&self, eid: &str, kvn: u8) -> Option<Keyset> {
        let keysets = self.device(eid).await.keysets;
        keysets.into_iter().find(|found| found.name == Some(keyset(kvn)))
    }

    pub fn keysets(&self) -> KeysetServiceClient<Channel> {
        KeysetServiceClient::new(self.officer.channel.clone())
    }

    pub fn rotations(&self) -> RotationServiceClient<Channel> {
        RotationServiceClient::new(self.officer.channel.clone())
    }

    pub fn devices(&self) -> DeviceServiceClient<Channel> {
        DeviceServiceClient::new(self.officer.channel.clone())
    }

    fn officer_operations(&self) -> OperationServiceClient<Channel> {
        OperationServiceClient::new(self.officer.channel.clone())
    }
}

/// A card in the field, which keeps what was loaded.
pub struct Card {
    pub eid: String,
    pub chip: SimulatedCard,
}

impl Card {
    /// INITIALIZE UPDATE under a keyset, as a request for its session keys.
    pub fn session_request(&mut self, kvn: u8) -> Result<FetchSessionKeysRequest, StatusWord> {
        let host_challenge = random();
        let answer = self.chip.initialize_update(host_challenge, kvn)?;
        Ok(FetchSessionKeysRequest {
            idempotency_key: new_key(),
            eid: self.eid.clone(),
            keyset: Some(keyset(kvn)),
            host_challenge: host_challenge.to_vec(),
            card_challenge: answer.card_challenge.to_vec(),
            card_cryptogram: answer.card_cryptogram.to_vec(),
            purpose: PURPOSE.to_owned(),
            ..FetchSessionKeysRequest::default()
        })
    }

    /// What the card shows of its new keys.
    pub fn proof(&mut self) -> Result<CardProof, StatusWord> {
        self.session_request(NEW_KVN).map(|request| CardProof {
            host_challenge: request.host_challenge,
            card_challenge: request.card_challenge,
            card_cryptogram: request.card_cryptogram,
        })
    }

    /// A report of the proof alone.
    pub fn proof_report(&mut self) -> RotationReport {
        let proof = self.proof().unwrap();
        RotationReport { eid: self.eid.clone(), proof: Some(proof), ..RotationReport::default() }
    }
}

/// The provisioner: fetches, loads, reports.
#[derive(Clone)]
pub struct Provisioner {
    caller: std::sync::Arc<Caller>,
}

impl Provisioner {
    pub async fn of(deployment: &Deployment) -> Self {
        Self::named(deployment, "provisioner").await
    }

    pub async fn named(deployment: &Deployment, name: &str) -> Self {
        Self { caller: std::sync::Arc::new(deployment.caller(name).await) }
    }

    /// Opens a channel to the card with session keys of the service.
    pub async fn open(&self, card: &mut Card, kvn: u8) -> Result<HostChannel, Status> {
        let request = card.session_request(kvn).unwrap();
        let mut client = SessionKeyServiceClient::new(self.caller.channel.clone());
        let answer = client.fetch_session_keys(request.clone()).await?.into_inner();
        let keys = OpenedKeys::decode(&self.caller.unseal(&request, &answer)).unwrap();
        let keys = SessionKeys {
            s_enc: keys.s_enc.expose(),
            s_mac: keys.s_mac.expose(),
            s_rmac: keys.s_rmac.expose(),
        };
        let level = SecurityLevel::C_MAC_C_ENC;
        let cryptogram = answer.host_cryptogram[..].try_into().unwrap();
        let (channel, command) = HostChannel::external_authenticate(&keys, cryptogram, level);
        card.chip.external_authenticate(&command).expect("the card accepts the keys of the service");
        Ok(channel)
    }

    /// Why no channel can be opened: the reason code.
    pub async fn refused_keys(&self, card: &mut Card, kvn: u8) -> String {
        match self.open(card, kvn).await {
            Ok(_) => panic!("session keys under {kvn:#x} were released"),
            Err(status) => reason(&status),
        }
    }

    pub async fn fetch(&self, rotation: &str, limit: u32) -> Result<Vec<RotationScript>, Status> {
        self.fetch_under(&new_key(), rotation, limit, 0).await.map(|answer| answer.scripts)
    }

    pub async fn fetch_under(
        &self,
        key: &str,
        rotation: &str,
        limit: u32,
        lease_seconds: u32,
    ) -> Result<FetchRotationScriptsResponse, Status> {
        let request = FetchRotationScriptsRequest {
            idempotency_key: key.to_owned(),
            rotation: rotation.to_owned(),
            limit,
            lease_seconds,
        };
        let mut client = RotationServiceClient::new(self.caller.channel.clone());
        client.fetch_rotation_scripts(request).await.map(tonic::Response::into_inner)
    }

    /// Loads a script through a channel under the old keyset; what is to be reported of it, with the card's proof.
    pub async fn load(&self, card: &mut Card, script: &RotationScript) -> Result<RotationReport, Status> {
        assert_eq!(card.eid, script.eid);
        let mut channel = self.open(card, KVN).await?;
        let mut report = RotationReport { eid: script.eid.clone(), ..RotationReport::default() };
        match channel.send(&mut card.chip, &script.put_key) {
            Ok(answer) => report.put_key_response = answer,
            Err(status) => report.status_word = status.0.into(),
        }
        match card.proof() {
            Ok(proof) => report.proof = Some(proof),
            Err(status) => report.status_word = status.0.into(),
        }
        Ok(report)
    }

    pub async fn report(
        &self,
        rotation: &str,
        reports: Vec<RotationReport>,
    ) -> Result<ReportRotationResponse, Status> {
        self.report_under(&new_key(), rotation, reports).await
    }

    pub async fn report_under(
        &self,
        key: &str,
        rotation: &str,
        reports: Vec<RotationReport>,
    ) -> Result<ReportRotationResponse, Status> {
        let request =
            ReportRotationRequest { idempotency_key: key.to_owned(), rotation: rotation.to_owned(), reports };
        let mut client = RotationServiceClient::new(self.caller.channel.clone());
        client.report_rotation(request).await.map(tonic::Response::into_inner)
    }

    /// The keys in a sealed answer, in their encoding.
    pub fn unseal(&self, request: &FetchSessionKeysRequest, answer: &FetchSessionKeysResponse) -> Vec<u8> {
        self.caller.unseal(request, answer)
    }

    pub fn sessions(&self) -> SessionKeyServiceClient<Channel> {
        SessionKeyServiceClient::new(self.caller.channel.clone())
    }
}
