//! The authority is founded, served, and gets its manufacturer and its provisioner.

use crate::stage::{Daemon, Failure, Stage};

/// Name of the authority.
const AUTHORITY: &str = "demo-authority";
/// Its configuration.
pub const CONFIG: &str = "state/chanceryd.toml";

/// Persons' keys, the founding ceremony, the persons' certificates.
pub fn found(stage: &Stage) -> Result<(), Failure> {
    stage.write("state/README", "What the service keeps: its log, its view, its tokens.\n")?;
    for (kind, name) in [("officer", "olivia"), ("approver", "anton"), ("auditor", "aurel")] {
        let folder = format!("people/{name}");
        stage.chancery(&["identity", "create", "--kind", kind, "--name", name, "--out", &folder])?;
    }
    let [grpc, http, metrics] = stage.ports.map(|port| port.to_string());
    let configuration = [
        "config",
        "--data",
        "state/data",
        "--authority",
        AUTHORITY,
        "--grpc-port",
        &grpc,
        "--http-port",
        &http,
    ];
    let configuration = [&configuration[..], &["--metrics-port", &metrics, "--out", CONFIG]].concat();
    stage.expect("chanceryd", &configuration, 0)?;
    // Lists beside the full ones, for the judges.
    let text = stage.read(CONFIG)?;
    let lists = "delta = true\nshards = 0\npart_entries = 50";
    stage.write(CONFIG, text.replace("delta = false\nshards = 0\npart_entries = 0", lists))?;
    let persons = ["--person", "people/olivia", "--person", "people/anton", "--person", "people/aurel"];
    let init = [&["init", "--config", CONFIG][..], &persons, &["--out", "state/handover"]].concat();
    stage.expect("chanceryd", &init, 0)?;
    for (from, to) in [("ci.pem", "ci.pem"), ("ci.der", "ci.der"), ("transcript.txt", "transcript.txt")] {
        stage.copy(&format!("state/handover/{from}"), to)?;
    }
    for name in ["olivia", "anton", "aurel"] {
        install(stage, &format!("people/{name}"), &format!("state/handover/{name}.pem"))?;
    }
    let transcript = stage.read("transcript.txt")?;
    let lines = transcript.lines().count();
    stage.say(format_args!(
        "transcript.txt: {lines} lines, signed by the log key; its digest is entry 0 of the log"
    ));
    Ok(())
}

/// Starts the daemon.
pub fn serve(stage: &Stage) -> Result<Daemon, Failure> {
    stage.start_daemon(CONFIG, "state/chanceryd.log")
}

/// Starts it again after its death; what it says goes to another file.
pub fn serve_again(stage: &Stage) -> Result<Daemon, Failure> {
    stage.start_daemon(CONFIG, "state/chanceryd-again.log")
}

/// The manufacturer: its range, quota and transport key, its signing key in our token, its certificate.
pub fn enrol_manufacturer(stage: &Stage) -> Result<(), Failure> {
    enrol_party(
        stage,
        "eum",
        "eum-one",
        "RSP Test EUM",
        &["--ein", "89049032", "--quota", "5000", "--reason", "contract 12/2026"],
    )?;
    let ceremony =
        ["ceremony", "create-key", "--config", CONFIG, "--name", "eum-one-ca", "--party", "eum-one"];
    stage.expect("chanceryd", &[&ceremony[..], &["--out", "state/eum-one-ca.key.json"]].concat(), 0)?;
    stage.two_persons(
        &[
            "issuer",
            "register",
            "--key-file",
            "state/eum-one-ca.key.json",
            "--reason",
            "key ceremony of the day",
        ],
        None,
    )?;
    let subject = ["--common-name", "EUM Test", "--registered-id", "2.999.5"];
    let request =
        ["certificate", "request", "--profile", "eum", "--party", "eum-one", "--issuer", "eum-one-ca"];
    let request = [&request[..], &subject, &["--reason", "contract 12/2026"]].concat();
    certify(stage, &request, "eum")
}

/// The provisioner: its encryption key and its three certificates, for keys that it made itself.
pub fn enrol_provisioner(stage: &Stage) -> Result<(), Failure> {
    enrol_party(stage, "provisioner", "dp-one", "ACME", &["--reason", "licence 7"])?;
    for (profile, common_name) in
        [("dpauth", "TEST SM-DP+"), ("dppb", "TEST SM-DP+"), ("dptls", "smdp.example.com")]
    {
        certify_provisioner(stage, profile, common_name, "licence 7")?;
    }
    Ok(())
}

/// A certificate of the provisioner for a new key of its own.
pub fn certify_provisioner(
    stage: &Stage,
    profile: &str,
    common_name: &str,
    reason: &str,
) -> Result<(), Failure> {
    let (key, csr) =
        (format!("parties/dp-one/{profile}-key.pem"), format!("parties/dp-one/{profile}.csr.pem"));
    let subject = format!("/O=ACME/CN={common_name}");
    openssl_request(stage, &key, &csr, &subject, "PEM")?;
    let mut request = vec!["certificate", "request", "--profile", profile, "--party", "dp-one"];
    request.extend(["--csr", &csr, "--common-name", common_name, "--registered-id", "2.999.10"]);
    if profile == "dptls" {
        request.extend(["--dns-name", "smdp.example.com"]);
    }
    request.extend(["--reason", reason]);
    certify(stage, &request, profile)
}

/// A new P-256 key and a request for it, made by OpenSSL.
pub fn openssl_request(
    stage: &Stage,
    key: &str,
    csr: &str,
    subject: &str,
    form: &str,
) -> Result<(), Failure> {
    let request = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let files = ["-keyout", key, "-out", csr, "-outform", form, "-subj", subject];
    stage.expect("openssl", &[&request[..], &files].concat(), 0).map(|_| ())
}

fn enrol_party(
    stage: &Stage,
    kind: &str,
    name: &str,
    organization: &str,
    terms: &[&str],
) -> Result<(), Failure> {
    let folder = format!("parties/{name}");
    let mut create =
        vec!["identity", "create", "--kind", kind, "--name", name, "--organization", organization];
    create.extend(["--country", "IT", "--out", &folder]);
    stage.chancery(&create)?;
    let received = format!("state/received/{name}");
    let accreditation =
        ["--accreditation", "SAS site 0417, audit of June 2026", "--accreditation-until", "365d"];
    let enrol = [&["party", "enrol", "--folder", &folder][..], &accreditation, terms].concat();
    stage.two_persons(&enrol, Some(&received))?;
    install(stage, &folder, &format!("{received}/certificate.pem"))
}

fn certify(stage: &Stage, request: &[&str], name: &str) -> Result<(), Failure> {
    // A successor goes beside the one before.
    let earlier = stage.path(format!("state/received/{name}-certificate")).exists();
    let received = format!("state/received/{name}-{}", if earlier { "successor" } else { "certificate" });
    stage.two_persons(request, Some(&received))?;
    for form in ["pem", "der"] {
        stage.copy(&format!("{received}/certificate.{form}"), &format!("{name}.{form}"))?;
    }
    Ok(())
}

fn install(stage: &Stage, folder: &str, certificate: &str) -> Result<(), Failure> {
    let server = format!("127.0.0.1:{}", stage.ports[0]);
    let ca = "state/handover/authority-ca.pem";
    let certificates = ["--certificate", certificate, "--authority-ca", ca];
    let place = ["--server", &server, "--authority", AUTHORITY];
    stage.chancery(&[&["identity", "install", folder][..], &certificates, &place].concat()).map(|_| ())
}
