use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::super::published::*;
use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bundle: Bundle,
}

/// The page that describes what is written.
const PAGE: &str = include_str!("../../../../docs/formats/sm-dp-plus-bundle.md");

/// A folder with the published keys in PKCS#8.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("certs")
    }

    fn key(&self, name: &str) -> String {
        let path = self.0.path().join(name.rsplit('/').next().unwrap());
        files::write_new(&path, pki::private_key_to_pem(&key(name)).as_bytes(), Readers::Owner).unwrap();
        path.display().to_string()
    }

    /// With the published three, when they all were valid, unless `arguments` say another.
    fn bundle(&self, three: [&str; 3], arguments: &[&str]) -> Result<Written, CliError> {
        let [auth, pb, tls] = three.map(|name| path(name).display().to_string());
        let (ci, out) = (path(CI).display().to_string(), self.out().display().to_string());
        let line =
            ["bundle", "--for", "sm-dp+", "--dpauth", &auth, "--dppb", &pb, "--dptls", &tls, "--ci", &ci];
        let line = [&line[..], &["--out", &out], arguments].concat();
        Line::try_parse_from(line).unwrap().bundle.write()
    }
}

const THREE: [&str; 3] = [DP_AUTH, DP_PB, DP_TLS];
const JUNE: [&str; 2] = ["--at", "2026-06-01T00:00:00Z"];

#[test]
fn certificates_lie_where_osmo_smdpp_looks_for_them_and_read_back_the_same() {
    let scratch = Scratch::new();
    let eum = path(EUM).display().to_string();
    let written = scratch.bundle(THREE, &[&JUNE[..], &["--eum", &eum]].concat()).unwrap();
    assert_eq!(written.address.as_deref(), Some("testsmdpplus1.example.com"));
    assert_eq!(written.registered_id.as_deref(), Some("2.999.10"));
    assert_eq!(written.ci_key_identifier.as_deref(), Some("f54172bdf98a95d65cbeb88a38a1c11d800a85c3"));
    for (name, original) in [
        ("CertificateIssuer/CERT_CI_ECDSA_NIST", CI),
        ("DPauth/CERT_S_SM_DPauth_ECDSA_NIST", DP_AUTH),
        ("DPpb/CERT_S_SM_DPpb_ECDSA_NIST", DP_PB),
        ("DPtls/CERT_S_SM_DP_TLS_NIST", DP_TLS),
        ("EUM/CERT_EUM_ECDSA_NIST_dd3da24d350c1cc5d0af0965f40ec34c5ee409f1", EUM),
    ] {
        for form in ["der", "pem"] {
            let relative = PathBuf::from(format!("{name}.{form}"));
            assert_eq!(reading::certificate(&scratch.out().join(&relative)).unwrap(), certificate(original));
            assert!(written.files.contains(&relative));
            let shown =
                relative.display().to_string().replace("dd3da24d350c1cc5d0af0965f40ec34c5ee409f1", "SKI");
            assert!(PAGE.contains(&format!("`{shown}`")), "{shown}");
        }
    }
    assert_eq!(written.files.len(), 10);
}

#[test]
fn keys_are_copied_only_when_named_and_for_their_owner_only() {
    let scratch = Scratch::new();
    let (auth, tls) = (scratch.key(DP_AUTH_KEY), scratch.key(DP_TLS_KEY));
    let keys = ["--dpauth-key", &auth, "--dptls-key", &tls];
    let written = scratch.bundle(THREE, &[&JUNE[..], &keys].concat()).unwrap();
    for (name, original) in
        [("DPauth/SK_S_SM_DPauth_ECDSA_NIST.pem", &auth), ("DPtls/SK_S_SM_DP_TLS_NIST.pem", &tls)]
    {
        let path = scratch.out().join(name);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(original).unwrap());
        assert!(PAGE.contains(&format!("`{name}`")), "{name}");
    }
    let keys = written.files.iter().filter(|file| file.display().to_string().contains("SK_"));
    assert_eq!(keys.count(), 2);
}

/// What is refused leaves no file behind.
fn refused(scratch: &Scratch, three: [&str; 3], arguments: &[&str]) -> String {
    let message = scratch.bundle(three, arguments).unwrap_err().to_string();
    assert!(!scratch.out().exists());
    message
}

#[test]
fn an_expired_certificate_and_one_in_another_role_are_refused() {
    let scratch = Scratch::new();
    let message = refused(&scratch, THREE, &["--at", "2026-11-01T00:00:00Z"]);
    assert!(message.contains("CERT_S_SM_DP_TLS_NIST.der: it has expired (expired)"), "{message}");
    let message = refused(&scratch, [DP_PB, DP_AUTH, DP_TLS], &JUNE);
    assert_eq!(message.matches("(policy)").count(), 2, "{message}");
    let message = refused(&scratch, [DP_AUTH, DP_AUTH, DP_TLS], &JUNE);
    assert!(message.contains("(key-in-two-roles)"), "{message}");
}

#[test]
fn a_manufacturer_or_certificates_of_another_entity_are_refused() {
    let scratch = Scratch::new();
    let message = refused(&scratch, [EUM, DP_PB, DP_TLS], &JUNE);
    assert_eq!(message.matches("(registered-id-differs)").count(), 2, "{message}");
    let leaf = path(DP_AUTH).display().to_string();
    let message = refused(&scratch, THREE, &[&JUNE[..], &["--eum", &leaf]].concat());
    assert!(message.contains("(key-usage)"), "{message}");
}

#[test]
fn a_key_of_another_certificate_or_open_to_others_is_refused() {
    let scratch = Scratch::new();
    let (auth, pb) = (scratch.key(DP_AUTH_KEY), scratch.key(DP_PB_KEY));
    let message =
        refused(&scratch, THREE, &[&JUNE[..], &["--dpauth-key", &pb, "--dppb-key", &auth]].concat());
    assert_eq!(message.matches("(key-differs)").count(), 2, "{message}");
    std::fs::set_permissions(&auth, std::fs::Permissions::from_mode(0o644)).unwrap();
    let message = refused(&scratch, THREE, &[&JUNE[..], &["--dpauth-key", &auth]].concat());
    assert!(message.contains("others may use the private key"), "{message}");
}

#[test]
fn a_folder_that_holds_anything_is_left_alone() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.out()).unwrap();
    std::fs::write(scratch.out().join("x"), "x").unwrap();
    let message = scratch.bundle(THREE, &JUNE).unwrap_err().to_string();
    assert!(message.contains("is not empty"), "{message}");
    assert_eq!(std::fs::read_dir(scratch.out()).unwrap().count(), 1);
}
