//! What the demonstration left for others to judge.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, output};

/// eUICC certificates that are judged: the first, the last, and those between at equal distances.
const EUICCS: usize = 3;

/// A certificate with the one above it, by the names under which the page tells of them.
pub struct Certificate {
    pub name: &'static str,
    /// PEM; several of one kind for eUICCs.
    pub files: Vec<PathBuf>,
    /// Absent for roots.
    pub issuer: Option<&'static str>,
    /// The published SGP.26 certificate of its kind, DER.
    pub published: Option<PathBuf>,
}

/// Everything that is judged.
pub struct Artefacts {
    /// Where the demonstration left them.
    pub demo: PathBuf,
    pub certificates: Vec<Certificate>,
    /// The CI's revocation list, PEM.
    pub list: PathBuf,
    /// The same as it was published, DER.
    pub list_der: PathBuf,
    /// The lists that came with it, by name, PEM.
    pub more_lists: Vec<(&'static str, PathBuf)>,
    /// A certificate that is on it.
    pub revoked: PathBuf,
    /// An OCSP answer about that one and its successor, DER.
    pub answer: PathBuf,
}

/// The list's name on the page.
pub const LIST: &str = "ci.crl";
/// Lists beside it: delta list, and part in the form of SGP.22 v2.
const MORE_LISTS: [&str; 2] = ["ci-delta.crl", "ci-part.crl"];
/// The OCSP answer's name on the page.
pub const ANSWER: &str = "ocsp.der";
/// The revoked certificate's name on the page.
pub const REVOKED: &str = "dppb-revoked";

/// Name, issuer, and published model, in the order of the table.
const CERTIFICATES: &[(&str, Option<&str>, &str)] = &[
    ("ci", None, "sgp26_varO_2020/CERT_CI_ECDSA_NIST.der"),
    ("eum", Some("ci"), "sgp26_varO_2020/CERT_EUM_ECDSA_NIST.der"),
    ("dpauth", Some("ci"), "sgp26_varO_2020/CERT_S_SM_DPauth_ECDSA_NIST.der"),
    ("dppb", Some("ci"), "sgp26_varO_2020/CERT_S_SM_DPpb_ECDSA_NIST.der"),
    ("dptls", Some("ci"), "sgp26_varO_2020/CERT_S_SM_DP_TLS_NIST.der"),
    ("euicc", Some("eum"), "sgp26_v3.0.2_varO_2024/CERT_EUICC_SIG_NIST.der"),
];

impl Artefacts {
    /// Finds what a demonstration left in `demo`, or says what to do; it stays as it was left.
    pub fn find(root: &Path, demo: PathBuf) -> Result<Self, Failure> {
        let there = |name: &str| {
            let path = demo.join(name);
            if path.exists() {
                Ok(path)
            } else {
                Err(Failure::new(format!("{} is not there: run first: cargo xtask demo", path.display())))
            }
        };
        let mut certificates = Vec::new();
        for (name, issuer, published) in CERTIFICATES {
            let files = if *name == "euicc" {
                spread(folder(&there("euicc")?)?)
            } else {
                vec![there(&format!("{name}.der"))?]
            };
            let published = Some(root.join("tests/vectors").join(published));
            certificates.push(Certificate { name, files, issuer: *issuer, published });
        }
        for (name, file, issuer) in [
            ("ci-sub", "ci-sub.der", Some("ci")),
            ("dp-sub", "dp-sub.der", Some("ci-sub")),
            ("ds-sub", "ds-sub.der", Some("ci-sub")),
            ("dpauth-v3", "dpauth-v3.der", Some("dp-sub")),
            ("dppb-v3", "dppb-v3.der", Some("dp-sub")),
            ("dptls-v3", "dptls-v3.der", Some("dp-sub")),
            ("dsauth-v3", "dsauth-v3.der", Some("ds-sub")),
            ("dstls-v3", "dstls-v3.der", Some("ds-sub")),
            ("ocsp-responder", "state/ocsp-responder.pem", Some("ci")),
            ("operator-ca", "state/data/tls/operator-ca.pem", None),
            ("operator-server", "state/data/tls/server.pem", Some("operator-ca")),
            ("operator-client", "parties/dp-one/tls.pem", Some("operator-ca")),
        ] {
            certificates.push(Certificate { name, files: vec![there(file)?], issuer, published: None });
        }
        let list = there("ci.crl")?;
        let more_lists =
            MORE_LISTS.iter().map(|name| Ok((*name, there(name)?))).collect::<Result<_, Failure>>()?;
        let (revoked, answer) = (there("dppb-revoked.der")?, there(ANSWER)?);
        Ok(Self { certificates, list: list.clone(), list_der: list, more_lists, revoked, answer, demo })
    }

    /// Copies all of them as PEM into `scratch`: the one form that every judge reads as anchor, chain and list.
    pub fn into_pem(mut self, scratch: &Path) -> Result<Self, Failure> {
        let copy = |kind: &str, from: &Path, name: String| {
            let to = scratch.join(name);
            output(Command::new("openssl").arg(kind).arg("-in").arg(from).arg("-out").arg(&to)).map(|_| to)
        };
        for certificate in &mut self.certificates {
            for (number, file) in certificate.files.iter_mut().enumerate() {
                *file = copy("x509", file, format!("{}-{number}.pem", certificate.name))?;
            }
        }
        self.list = copy("crl", &self.list_der, format!("{LIST}.pem"))?;
        for (name, file) in &mut self.more_lists {
            *file = copy("crl", file, format!("{name}.pem"))?;
        }
        self.revoked = copy("x509", &self.revoked, format!("{REVOKED}.pem"))?;
        Ok(self)
    }

    /// How many artefacts there are.
    pub fn count(&self) -> usize {
        self.certificates.iter().map(|certificate| certificate.files.len()).sum::<usize>()
            + 3
            + self.more_lists.len()
    }

    /// Every list, by its name, PEM.
    pub fn lists(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let more = self.more_lists.iter().map(|(name, file)| (*name, file.as_path()));
        std::iter::once((LIST, self.list.as_path())).chain(more)
    }

    /// The file of a certificate of which there is one.
    pub fn file(&self, name: &str) -> &Path {
        let found = self.certificates.iter().find(|certificate| certificate.name == name);
        &found.expect("the names are those of this module").files[0]
    }

    /// The certificates above one, nearest first.
    pub fn above(&self, certificate: &Certificate) -> Vec<&Path> {
        let mut above = Vec::new();
        let mut next = certificate.issuer;
        while let Some(name) = next {
            above.push(self.file(name));
            next = self.certificates.iter().find(|one| one.name == name).and_then(|one| one.issuer);
        }
        above
    }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        files.push(entry.map_err(failed)?.path());
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::new(format!("{} is empty: run first: cargo xtask demo", path.display())));
    }
    Ok(files)
}

/// A few of many, the ends included.
fn spread(files: Vec<PathBuf>) -> Vec<PathBuf> {
    if files.len() <= EUICCS {
        return files;
    }
    let last = files.len() - 1;
    (0..EUICCS).map(|place| files[place * last / (EUICCS - 1)].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_many_are_taken_with_both_ends() {
        let files = |count: usize| (0..count).map(|n| PathBuf::from(n.to_string())).collect::<Vec<_>>();
        assert_eq!(spread(files(1_000)), ["0", "499", "999"].map(PathBuf::from));
        assert_eq!(spread(files(2)), files(2));
    }
}
