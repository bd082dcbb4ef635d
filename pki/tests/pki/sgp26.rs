//! The published SGP.26 Variant O certificates on NIST P-256 and the inputs that describe them.

use pki::*;

/// The certificate in `tests/vectors/<path>`.
pub fn certificate(path: &str) -> Certificate {
    Certificate::from_der(&vector(path)).unwrap()
}

/// The file `tests/vectors/<path>`.
pub fn vector(path: &str) -> Vec<u8> {
    let path = format!("{}/../tests/vectors/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub const CI_2020: &str = "sgp26_varO_2020/CERT_CI_ECDSA_NIST.der";
pub const EUM_2020: &str = "sgp26_varO_2020/CERT_EUM_ECDSA_NIST.der";
pub const DP_AUTH_2020: &str = "sgp26_varO_2020/CERT_S_SM_DPauth_ECDSA_NIST.der";
pub const DP_PB_2020: &str = "sgp26_varO_2020/CERT_S_SM_DPpb_ECDSA_NIST.der";
pub const DP_TLS_2020: &str = "sgp26_varO_2020/CERT_S_SM_DP_TLS_NIST.der";
pub const CI_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_CI_SIG_NIST.der";
pub const EUM_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_EUM_SIG_NIST.der";
pub const EUICC_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_EUICC_SIG_NIST.der";
pub const EIM_SIGN_2024: &str = "sgp26_v3.0.2_varO_2024/CERT_S_EIMsign_ECDSA_NIST.der";

const CI_KEY: &str = "f54172bdf98a95d65cbeb88a38a1c11d800a85c3";
const EUM_KEY: &str = "dd3da24d350c1cc5d0af0965f40ec34c5ee409f1";

/// One published certificate.
pub struct Published {
    pub path: &'static str,
    pub issuer: &'static str,
    pub profile: &'static CertificateProfile,
    pub inputs: CertificateInputs,
}

/// Every published certificate with its inputs.
pub fn all() -> Vec<Published> {
    let crls = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("http://ci.test.example.com/CRL-{name}.crl")).collect()
    };
    let mut all = Vec::new();
    for (path, urls, from) in
        [(CI_2020, ["A", "B"], time("20200401082751")), (CI_2024, ["1", "2"], time("20240716095205"))]
    {
        let mut inputs = inputs(path, "00b874f3abfa6c44d3", None, from, 12_783);
        inputs.subject = SubjectValues {
            common_name: Some("Test CI".into()),
            organizational_unit: Some("TESTCERT".into()),
            organization: Some("RSPTEST".into()),
            country: Some("IT".into()),
            eid: None,
        };
        inputs.registered_id = Some("2.999.1".into());
        inputs.crl_urls = crls(&urls);
        all.push(published(path, path, CertificateRole::CertificateIssuer, inputs));
    }
    for (path, issuer, serial, url, from) in [
        (EUM_2020, CI_2020, "12345678", "B", time("20200401092837")),
        (EUM_2024, CI_2024, "0101", "2", time("20240716095405")),
    ] {
        let mut inputs = inputs(path, serial, Some(CI_KEY), from, 12_410);
        inputs.subject = SubjectValues {
            country: Some("ES".into()),
            organization: Some("RSP Test EUM".into()),
            common_name: Some("EUM Test".into()),
            ..SubjectValues::default()
        };
        inputs.registered_id = Some("2.999.5".into());
        inputs.crl_urls = crls(&[url]);
        inputs.permitted = vec![("RSP Test EUM".into(), "89049032".into())];
        all.push(published(path, issuer, CertificateRole::Eum, inputs));
    }
    let mut euicc = inputs(
        EUICC_2024,
        "0089049032123451234512345678901235",
        Some(EUM_KEY),
        time("20240716095458"),
        2_000_000,
    );
    euicc.subject = SubjectValues {
        country: Some("ES".into()),
        organization: Some("RSP Test EUM".into()),
        eid: Some("89049032123451234512345678901235".parse().unwrap()),
        common_name: Some("Test eUICC".into()),
        ..SubjectValues::default()
    };
    all.push(published(EUICC_2024, EUM_2024, CertificateRole::Euicc, euicc));

    for (path, profile, serial, from, days, name) in [
        (DP_AUTH_2020, CertificateRole::DpAuth, "0100", time("20200401083130"), 3_650, "TEST SM-DP+"),
        (DP_PB_2020, CertificateRole::DpPb, "0101", time("20200401083445"), 3_650, "TEST SM-DP+"),
        (DP_TLS_2020, CertificateRole::DpTls, "09", time("20250630131438"), 398, "testsmdpplus1.example.com"),
    ] {
        let mut inputs = inputs(path, serial, Some(CI_KEY), from, days);
        inputs.subject = SubjectValues {
            organization: Some("ACME".into()),
            common_name: Some(name.into()),
            ..SubjectValues::default()
        };
        inputs.registered_id = Some("2.999.10".into());
        inputs.dns_name = (profile == CertificateRole::DpTls).then(|| name.into());
        inputs.crl_urls = crls(&["A", "B"]);
        all.push(published(path, CI_2020, profile, inputs));
    }
    let mut eim =
        inputs(EIM_SIGN_2024, "03ff0aff0009990101ff01", Some(CI_KEY), time("20240716100949"), 2_555);
    eim.subject = SubjectValues {
        country: Some("DE".into()),
        common_name: Some("eim.example.com".into()),
        ..SubjectValues::default()
    };
    all.push(Published {
        profile: CertificateRole::EimSign.profile(),
        ..published(EIM_SIGN_2024, CI_2024, CertificateRole::DpAuth, eim)
    });
    all
}

fn published(
    path: &'static str,
    issuer: &'static str,
    profile: CertificateRole,
    inputs: CertificateInputs,
) -> Published {
    let issuer_name_der = certificate(issuer).subject_name_der().to_vec();
    Published {
        path,
        issuer,
        profile: profile.profile(),
        inputs: CertificateInputs { issuer_name_der, ..inputs },
    }
}

fn inputs(
    path: &str,
    serial: &str,
    issuer_key: Option<&str>,
    from: CivilTime,
    days: u32,
) -> CertificateInputs {
    CertificateInputs {
        serial: serial.parse().unwrap(),
        issuer_name_der: Vec::new(),
        issuer_curve: domain::Curve::P256,
        issuer_key_identifier: issuer_key.map(|key| hex::decode(key).unwrap().try_into().unwrap()),
        subject: SubjectValues::default(),
        subject_spki: certificate(path).spki().to_vec(),
        not_before: from,
        not_after: from.plus_days(days).unwrap(),
        registered_id: None,
        dns_name: None,
        ip_addresses: Vec::new(),
        crl_urls: Vec::new(),
        permitted: Vec::new(),
    }
}

/// A time from the digits YYYYMMDDhhmmss.
pub fn time(digits: &str) -> CivilTime {
    let part = |range: std::ops::Range<usize>| digits[range].parse::<u8>().unwrap();
    CivilTime::new(
        digits[..4].parse().unwrap(),
        part(4..6),
        part(6..8),
        part(8..10),
        part(10..12),
        part(12..14),
    )
    .unwrap()
}
