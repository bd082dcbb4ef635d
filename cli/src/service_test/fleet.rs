//! Devices, rotations and standing: what the commands send, and what they make of the answers.

use proto::v1::device_service_server::DeviceService;
use proto::v1::operation::Kind;
use proto::v1::rotation_service_server::RotationService;
use proto::v1::standing_service_server::StandingService;
use proto::v1::{FetchDenyListRequest, FetchDenyListResponse, fetch_deny_list_response};

use super::*;

const EID: &str = "89049032123451234512345678901235";

/// What the fleet's services do next, and what they saw.
#[derive(Default)]
pub struct FleetScript {
    frozen: Vec<FreezeDeviceRequest>,
    suspended: Vec<SuspendPartyRequest>,
    /// States that the next looks at a rotation see; the last one stays.
    statuses: VecDeque<RotationStatus>,
    planned: Vec<RotationTerms>,
    devices_planned: u64,
    scripts: Vec<RotationScript>,
    reported: Vec<ReportRotationRequest>,
    /// Results by device; confirmed where there is none.
    results: HashMap<String, ReportResult>,
}

#[tonic::async_trait]
impl DeviceService for TestService {
    type FetchDenyListStream = Answers<FetchDenyListResponse>;

    /// Lines without a head.
    async fn fetch_deny_list(
        &self,
        _: Request<FetchDenyListRequest>,
    ) -> Result<Response<Self::FetchDenyListStream>, Status> {
        let part = Some(fetch_deny_list_response::Part::Lines(b"{}\n".to_vec()));
        let pieces = [FetchDenyListResponse { part }];
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces).map(Ok))))
    }

    async fn get_device(
        &self,
        request: Request<GetDeviceRequest>,
    ) -> Result<Response<GetDeviceResponse>, Status> {
        let eid = request.into_inner().eid;
        Ok(Response::new(GetDeviceResponse { eid, ..GetDeviceResponse::default() }))
    }

    async fn freeze_device(
        &self,
        request: Request<FreezeDeviceRequest>,
    ) -> Result<Response<FreezeDeviceResponse>, Status> {
        self.script().fleet.frozen.push(request.into_inner());
        Ok(Response::new(FreezeDeviceResponse { entry_index: 7 }))
    }
}

#[tonic::async_trait]
impl StandingService for TestService {
    async fn suspend_party(
        &self,
        request: Request<SuspendPartyRequest>,
    ) -> Result<Response<SuspendPartyResponse>, Status> {
        self.script().fleet.suspended.push(request.into_inner());
        Ok(Response::new(SuspendPartyResponse { entry_index: 8 }))
    }
}

#[tonic::async_trait]
impl RotationService for TestService {
    async fn plan_rotation(
        &self,
        request: Request<PlanRotationRequest>,
    ) -> Result<Response<PlanRotationResponse>, Status> {
        let terms = request.into_inner().terms.unwrap();
        let mut script = self.script();
        let devices = script.fleet.devices_planned;
        let stage_devices = terms.stages.iter().map(|percent| devices * u64::from(*percent) / 100).collect();
        script.fleet.planned.push(terms);
        Ok(Response::new(PlanRotationResponse { devices, stage_devices, ..PlanRotationResponse::default() }))
    }

    async fn list_rotations(
        &self,
        _: Request<ListRotationsRequest>,
    ) -> Result<Response<ListRotationsResponse>, Status> {
        Ok(Response::new(ListRotationsResponse { rotations: self.script().fleet.statuses.clone().into() }))
    }

    async fn get_rotation(
        &self,
        _: Request<GetRotationRequest>,
    ) -> Result<Response<GetRotationResponse>, Status> {
        let statuses = &mut self.script().fleet.statuses;
        let status = if statuses.len() > 1 { statuses.pop_front() } else { statuses.front().cloned() };
        Ok(Response::new(GetRotationResponse { status }))
    }

    async fn pause_rotation(
        &self,
        _: Request<PauseRotationRequest>,
    ) -> Result<Response<PauseRotationResponse>, Status> {
        self.script().fleet.statuses = [status(RotationState::Paused)].into();
        Ok(Response::new(PauseRotationResponse { entry_index: 1 }))
    }

    async fn resume_rotation(
        &self,
        _: Request<ResumeRotationRequest>,
    ) -> Result<Response<ResumeRotationResponse>, Status> {
        self.script().fleet.statuses = [status(RotationState::Completed)].into();
        Ok(Response::new(ResumeRotationResponse { entry_index: 2 }))
    }

    async fn fetch_rotation_scripts(
        &self,
        request: Request<FetchRotationScriptsRequest>,
    ) -> Result<Response<FetchRotationScriptsResponse>, Status> {
        let limit = request.into_inner().limit as usize;
        let mut script = self.script();
        let taken = script.fleet.scripts.len().min(limit);
        let scripts = script.fleet.scripts.drain(..taken).collect();
        Ok(Response::new(FetchRotationScriptsResponse { scripts, lease_ends: None, entry_index: 3 }))
    }

    async fn fetch_deletion_scripts(
        &self,
        _request: Request<FetchDeletionScriptsRequest>,
    ) -> Result<Response<FetchDeletionScriptsResponse>, Status> {
        Err(Status::unimplemented("played by the system tests"))
    }

    async fn report_deletions(
        &self,
        _request: Request<ReportDeletionsRequest>,
    ) -> Result<Response<ReportDeletionsResponse>, Status> {
        Err(Status::unimplemented("played by the system tests"))
    }

    async fn report_rotation(
        &self,
        request: Request<ReportRotationRequest>,
    ) -> Result<Response<ReportRotationResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.script();
        let results = request.reports.iter().map(|report| {
            let confirmed = ReportResult {
                eid: report.eid.clone(),
                state: RotationItemState::Confirmed.into(),
                ..ReportResult::default()
            };
            script.fleet.results.get(&report.eid).cloned().unwrap_or(confirmed)
        });
        let results = results.collect();
        script.fleet.reported.push(request);
        Ok(Response::new(ReportRotationResponse { results, entry_index: 4 }))
    }
}

fn status(state: RotationState) -> RotationStatus {
    let terms = RotationTerms { name: "r1".to_owned(), stages: vec![100], ..RotationTerms::default() };
    RotationStatus {
        terms: Some(terms),
        state: state.into(),
        devices: 10,
        confirmed: 4,
        ..RotationStatus::default()
    }
}

const ROTATION_REQUEST: [&str; 18] = [
    "rotation",
    "request",
    "--name",
    "r1",
    "--provisioner",
    "otaco",
    "--ein",
    "89049032",
    "--from-kvn",
    "0x30",
    "--to-kvn",
    "0x31",
    "--stages",
    "10,100",
    "--overlap",
    "2d",
    "--reason",
    "programme",
];

fn requested(setting: &Setting) -> Kind {
    let request = setting.service.script().requested.pop().unwrap();
    Operation::decode(&request.operation[..]).unwrap().kind.unwrap()
}

fn exit(code: ExitCode) -> String {
    format!("{code:?}")
}

#[tokio::test]
async fn a_freeze_needs_a_yes_and_says_reason_and_reference() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let freeze =
        ["device", "freeze", EID, "--reason", "stolen", "--reference", "case 7", "--identity", &alice];
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        assert_eq!(run(&freeze).await.unwrap_err().reason(), "NOT_CONFIRMED");
        assert!(setting.service.script().fleet.frozen.is_empty());
    }
    run(&[&freeze[..], &["--yes"]].concat()).await.unwrap();
    let sent = setting.service.script().fleet.frozen.pop().unwrap();
    assert_eq!((sent.eid.as_str(), sent.reason()), (EID, FreezeReason::Stolen));
    assert_eq!((sent.reference.as_str(), sent.idempotency_key.len()), ("case 7", 32));

    run(&["device", "show", EID, "--identity", &alice]).await.unwrap();
    run(&["device", "restore", EID, "--reason", "found", "--identity", &alice]).await.unwrap();
    assert_eq!(requested(&setting), Kind::RestoreDevice(RestoreDevice { eid: EID.to_owned() }));
}

#[tokio::test]
async fn a_party_is_suspended_at_once_and_every_other_change_of_standing_is_requested() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    run(&["party", "suspend", "otaco", "--yes", "--identity", &alice]).await.unwrap();
    assert_eq!(setting.service.script().fleet.suspended.pop().unwrap().name, "otaco");
    assert!(setting.service.script().requested.is_empty());
    for (noun, verb, name, suspended) in [
        ("party", "restore", "otaco", false),
        ("person", "suspend", "dave", true),
        ("person", "restore", "dave", false),
    ] {
        run(&[noun, verb, name, "--reason", "because", "--identity", &alice]).await.unwrap();
        let expected = ChangeStanding { name: name.to_owned(), suspended };
        assert_eq!(requested(&setting), Kind::ChangeStanding(expected));
    }
}

#[tokio::test]
async fn a_revocation_is_requested_with_serial_number_and_reason() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let revoke =
        ["certificate", "revoke", "--serial", "0A:1b", "--reason", "superseded", "--identity", &alice];
    run(&revoke).await.unwrap();
    let expected = RevokeCertificate {
        serial_number: vec![0x0a, 0x1b],
        reason: "superseded".to_owned(),
        invalid_since: None,
        issuer: String::new(),
    };
    assert_eq!(requested(&setting), Kind::RevokeCertificate(expected));
}

#[tokio::test]
async fn a_rotation_is_planned_first_and_requested_with_the_same_terms() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let request = [&ROTATION_REQUEST[..], &["--identity", &alice]].concat();
    let error = run(&request).await.unwrap_err();
    assert!(error.to_string().contains("no device would be rotated"));
    assert!(setting.service.script().requested.is_empty());

    setting.service.script().fleet.devices_planned = 50;
    run(&request).await.unwrap();
    let planned = setting.service.script().fleet.planned.pop().unwrap();
    assert_eq!((planned.to_key_bits, planned.overlap_seconds), (256, 172_800));
    assert_eq!(requested(&setting), Kind::StartRotation(StartRotation { terms: Some(planned) }));

    let plan = ["rotation", "plan", "--file", "x.json", "--name", "r1", "--identity", &alice];
    let both = Cli::try_parse_from([&["chancery"], &plan[..]].concat());
    assert!(both.is_err(), "a file and options together say two things");
}

#[tokio::test]
async fn watching_ends_with_the_rotation_and_its_exit_code_tells_how() {
    let setting = setting().await;
    let alice = setting.identity("alice", "officer").await;
    let watch = ["rotation", "watch", "r1", "--interval-ms", "50", "--identity", &alice];
    let states = [RotationState::Preparing, RotationState::Running, RotationState::Completed];
    setting.service.script().fleet.statuses = states.map(status).into();
    assert_eq!(exit(run(&watch).await.unwrap()), exit(ExitCode::SUCCESS));
    setting.service.script().fleet.statuses =
        [RotationState::Running, RotationState::Halted].map(status).into();
    assert_eq!(exit(run(&watch).await.unwrap()), exit(ExitCode::FAILURE));

    run(&["rotation", "pause", "r1", "--identity", &alice]).await.unwrap();
    assert_eq!(exit(run(&watch).await.unwrap()), exit(ExitCode::FAILURE));
    run(&["rotation", "resume", "r1", "--identity", &alice]).await.unwrap();
    assert_eq!(exit(run(&watch).await.unwrap()), exit(ExitCode::SUCCESS));
    for verb in ["list", "show"] {
        let name = if verb == "show" { &["r1"][..] } else { &[] };
        run(&[&["rotation", verb], name, &["--identity", &alice]].concat()).await.unwrap();
    }
    run(&["rotation", "roll-back", "r1", "--reason", "bad cards", "--yes", "--identity", &alice])
        .await
        .unwrap();
    assert_eq!(requested(&setting), Kind::RollBackRotation(RollBackRotation { name: "r1".to_owned() }));
    assert!(
        run(&["rotation", "show", "r2", "--identity", &alice]).await.is_err(),
        "another rotation's status"
    );
}

fn json_lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn scripts_are_written_as_lines_and_reports_are_answered_line_by_line() {
    let setting = setting().await;
    let otaco = setting.identity("otaco", "provisioner").await;
    let eids: Vec<String> = (0..201)
        .map(|n| domain::Eid::from_body(&format!("890490321234512345123456{n:06}")).unwrap().to_string())
        .collect();
    setting.service.script().fleet.scripts = eids[..2]
        .iter()
        .map(|eid| RotationScript {
            eid: eid.clone(),
            from: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
            to_key_version_number: 0x31,
            put_key: vec![0x80, 0xd8],
            earlier_leases: 1,
            ..RotationScript::default()
        })
        .collect();
    let scripts = setting.authority.path("scripts.jsonl");
    let fetch = [
        "rotation",
        "fetch-scripts",
        "r1",
        "--limit",
        "5",
        "--out",
        scripts.to_str().unwrap(),
        "--identity",
        &otaco,
    ];
    run(&fetch).await.unwrap();
    let lines = json_lines(&scripts);
    assert_eq!((lines.len(), &lines[1]["eid"]), (2, &serde_json::json!(eids[1])));
    assert_eq!(
        (&lines[0]["put_key"], &lines[0]["to_kvn"]),
        (&serde_json::json!("80d8"), &serde_json::json!(49))
    );
    assert!(run(&fetch).await.is_err(), "scripts that may be unreported are not replaced");

    let results = setting.authority.path("results.jsonl");
    let report = setting.authority.path("report.jsonl");
    let text: String =
        eids.iter().map(|eid| format!("{{\"eid\":\"{eid}\",\"put_key_response\":\"31\"}}\n")).collect();
    std::fs::write(&results, text).unwrap();
    let failed = ReportResult {
        eid: eids[3].clone(),
        state: RotationItemState::Failed.into(),
        failure: RotationFailure::ProofWrong.into(),
        reason: String::new(),
    };
    let refused =
        ReportResult { eid: eids[200].clone(), reason: "NOT_LEASED".to_owned(), ..ReportResult::default() };
    setting.service.script().fleet.results =
        [failed, refused].map(|result| (result.eid.clone(), result)).into();
    let command = |out: &Path| {
        let [file, out] = [&results, out].map(|path| path.to_str().unwrap().to_owned());
        [
            "rotation",
            "report",
            "r1",
            "--file",
            &file,
            "--out",
            &out,
            "--idempotency-key",
            "k",
            "--identity",
            &otaco,
        ]
        .map(str::to_owned)
    };
    let first = command(&report);
    let code = run(&first.each_ref().map(String::as_str)).await.unwrap();
    assert_eq!(exit(code), exit(ExitCode::from(3)));
    let lines = json_lines(&report);
    assert_eq!((lines.len(), &lines[0]["state"]), (201, &serde_json::json!("confirmed")));
    assert_eq!(lines[3]["failure"], "proof_wrong");
    assert_eq!(lines[200]["reason"], "NOT_LEASED");

    let again = command(&setting.authority.path("again.jsonl"));
    run(&again.each_ref().map(String::as_str)).await.unwrap();
    let keys: Vec<_> = setting
        .service
        .script()
        .fleet
        .reported
        .iter()
        .map(|call| (call.reports.len(), call.idempotency_key.clone()))
        .collect();
    assert_eq!(keys.iter().map(|(reports, _)| *reports).collect::<Vec<_>>(), [200, 1, 200, 1]);
    assert_eq!(keys[..2], keys[2..]);
    assert_ne!(keys[0].1, keys[1].1);
}

#[tokio::test]
async fn a_deny_list_without_its_head_is_no_list() {
    let setting = setting().await;
    let otaco = setting.identity("otaco", "provisioner").await;
    let out = setting.authority.path("denied.jsonl").display().to_string();
    // RFC 8032 §7.1, test 1.
    let point = hex::decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a").unwrap();
    let key = audit::LogKey::new("chancery/node-1/2026", point.try_into().unwrap()).unwrap().vkey();
    let fetch = ["deny-list", "fetch", "--out", &out, "--log-key", &key, "--identity", &otaco];
    let error = run(&fetch).await.unwrap_err();
    assert!(error.to_string().contains("ended before its head"), "{error}");
    assert!(!std::path::Path::new(&out).exists());
}
