//! A certificate issuer that openssl plays: files in one folder, `ci.pem` with `ci.key` at the top.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::Deployment;

/// Its root and what it signs, by SGP.22 version 2; `leaf` has what every certificate has, and takes the rest from its request.
const CONFIG: &str = "\
[ca]
default_ca = issuer
[issuer]
database = index.txt
crlnumber = number.txt
default_md = sha256
default_crl_days = 30
crl_extensions = list
[list]
authorityKeyIdentifier = keyid
[req]
distinguished_name = none
[none]
[root]
subjectKeyIdentifier = hash
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
certificatePolicies = critical, 2.23.146.1.2.1.0
subjectAltName = RID:2.999.100
crlDistributionPoints = URI:http://elsewhere.example/ci.crl
[leaf]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
crlDistributionPoints = URI:http://elsewhere.example/ci.crl
[eum]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign
certificatePolicies = critical, 2.23.146.1.2.1.2
subjectAltName = RID:2.999.105
nameConstraints = critical, permitted;dirName:permitted
crlDistributionPoints = URI:http://elsewhere.example/ci.crl
[euicc]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
certificatePolicies = critical, 2.23.146.1.2.1.1
[dptls]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, serverAuth, clientAuth
certificatePolicies = 2.23.146.1.2.1.3
subjectAltName = DNS:elsewhere.example, RID:2.999.110
crlDistributionPoints = URI:http://elsewhere.example/ci.crl
[dppb]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
certificatePolicies = critical, 2.23.146.1.2.1.5
subjectAltName = RID:2.999.110
crlDistributionPoints = URI:http://elsewhere.example/ci.crl
";

pub struct OpensslCa {
    pub folder: PathBuf,
}

impl OpensslCa {
    /// With the root of this subject; manufacturers below it certify devices of this organisation. `number` is that of the next list.
    pub fn found(
        deployment: &Deployment,
        name: &str,
        subject: &str,
        organization: &str,
        number: u64,
    ) -> Self {
        let ca = Self { folder: deployment.path(name) };
        fs::create_dir(&ca.folder).unwrap();
        let permitted = format!("[permitted]\nO = {organization}\nserialNumber = 89049032\n");
        fs::write(ca.folder.join("openssl.cnf"), format!("{CONFIG}{permitted}")).unwrap();
        fs::write(ca.folder.join("index.txt"), "").unwrap();
        fs::write(ca.folder.join("number.txt"), format!("{number:02X}\n")).unwrap();
        ca.key("ci");
        let root = ["req", "-x509", "-new", "-key", "ci.key", "-subj", subject, "-set_serial", "1"];
        let terms =
            ["-days", "3650", "-config", "openssl.cnf", "-extensions", "root", "-utf8", "-out", "ci.pem"];
        ca.openssl(&[root, terms].concat());
        ca
    }

    /// Runs it in the folder; it must succeed.
    pub fn openssl(&self, arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).current_dir(&self.folder).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &errors
    }

    /// A key on P-256, `name.key`.
    pub fn key(&self, name: &str) {
        let out = format!("{name}.key");
        let curve = "ec_paramgen_curve:P-256";
        self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &out]);
    }

    /// A request for a key that is there.
    pub fn request(&self, key: &str, subject: &str, out: &str) {
        let key = format!("{key}.key");
        let new = ["req", "-new", "-key", &key, "-subj", subject, "-utf8", "-config", "openssl.cnf"];
        self.openssl(&[&new[..], &["-out", out]].concat());
    }

    /// A certificate for a request, by the CA of that name and with the extensions of a section.
    pub fn sign(&self, request: &str, (ca, section): (&str, &str), more: &[&str], out: &str) {
        let (certificate, key) = (format!("{ca}.pem"), format!("{ca}.key"));
        let sign = ["x509", "-req", "-in", request, "-CA", &certificate, "-CAkey", &key, "-days", "365"];
        let terms = ["-extfile", "openssl.cnf", "-extensions", section, "-out", out];
        let serial: &[&str] = if more.contains(&"-set_serial") { &[] } else { &["-CAcreateserial"] };
        self.openssl(&[&sign[..], &terms, serial, more].concat());
    }

    /// The next revocation list.
    pub fn list(&self, out: &str) {
        let list = ["ca", "-gencrl", "-config", "openssl.cnf", "-cert", "ci.pem", "-keyfile", "ci.key"];
        self.openssl(&[&list[..], &["-out", out]].concat());
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub fn certificate(&self, name: &str) -> pki::Certificate {
        pki::Certificate::from_pem(&fs::read(self.folder.join(name)).unwrap()).unwrap()
    }
}
