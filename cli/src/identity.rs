//! Identities: a folder with somebody's keys, made by and staying with that person or party.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use proto::options::v1::Role;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::CliError;
use crate::files::{self, Readers};
use crate::key_file::{PrivateKey, TlsCurve};
use crate::output::{Output, fields};

/// File names in an identity's folder.
pub mod names {
    /// Who this is; public.
    pub const IDENTITY: &str = "identity.toml";
    /// Where the service is.
    pub const PROFILE: &str = "profile.toml";
    /// Private key of the mTLS certificate.
    pub const TLS_KEY: &str = "tls-key.pem";
    /// Its request; public.
    pub const TLS_CSR: &str = "tls.csr.pem";
    /// The key that `identity renew` made, until its certificate is installed.
    pub const NEXT_TLS_KEY: &str = "tls-key.next.pem";
    /// Its request; public.
    pub const NEXT_TLS_CSR: &str = "tls.next.csr.pem";
    /// Its certificate.
    pub const TLS_CERTIFICATE: &str = "tls.pem";
    /// The CA of the service's certificate.
    pub const AUTHORITY_CA: &str = "authority-ca.pem";
    /// Person: private key that signs approvals.
    pub const APPROVAL_KEY: &str = "approval-key.pem";
    /// Person: its request; public.
    pub const APPROVAL_CSR: &str = "approval.csr.pem";
    /// Provisioner: private key to which session keys are sealed.
    pub const ENCRYPTION_KEY: &str = "encryption-key.pem";
    /// Provisioner: its public half.
    pub const ENCRYPTION_PUBLIC: &str = "encryption-key.pub.pem";
    /// EUM: private key under which order outputs are delivered.
    pub const TRANSPORT_KEY: &str = "transport-key.pem";
    /// EUM: its public half.
    pub const TRANSPORT_PUBLIC: &str = "transport-key.pub.pem";
}

/// `chancery identity ...`
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Make the keys and requests of a person or party in a new folder.
    ///
    /// The private keys never leave the folder; an officer enrols the requests (*.csr.pem) and public keys (*.pub.pem)
    /// beside them.
    #[command(after_help = "Examples:
  chancery identity create --kind officer --name alice --out alice/
  chancery identity create --kind eum --name acme-eum --organization 'ACME Cards' --country DE --out acme/")]
    Create(Create),
    /// Make the next TLS key and its request, before the certificate ends or when the key may be in other hands.
    ///
    /// The present key stays in use until `identity install` brings the new certificate. An officer requests it with
    /// `chancery person renew` or `chancery party renew`.
    #[command(after_help = "Example:
  chancery identity renew acme/
  chancery party renew acme-eum --csr acme/tls.next.csr.pem --reason 'ends in June' --identity alice/
  chancery identity install acme/ --certificate acme-eum.pem")]
    Renew(Renew),
    /// Put the certificate received and the service's address into an identity's folder.
    ///
    /// A certificate for the key of `identity renew` takes that key into use; address and CA may then be left out.
    #[command(after_help = "Example:
  chancery identity install alice/ --certificate alice.pem --authority-ca operator-ca.pem \\
      --server authority.example:7443 --authority demo")]
    Install(Install),
}

/// Who an identity is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Runs the authority.
    Officer,
    /// Approves operations.
    Approver,
    /// Exports and judges the log.
    Auditor,
    /// Manufacturer.
    Eum,
    /// Provisioning server.
    Provisioner,
}

impl Kind {
    /// The role this kind has by default.
    pub const fn role(self) -> Role {
        match self {
            Self::Officer => Role::Officer,
            Self::Approver => Role::Approver,
            Self::Auditor => Role::Auditor,
            Self::Eum => Role::Eum,
            Self::Provisioner => Role::Provisioner,
        }
    }

    /// Whether it is a person, who has an approval key, and no party.
    pub const fn is_person(self) -> bool {
        match self {
            Self::Officer | Self::Approver | Self::Auditor => true,
            Self::Eum | Self::Provisioner => false,
        }
    }
}

/// Arguments of `identity create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Who it is for
    #[arg(long)]
    kind: Kind,
    /// Lower-case name, unique in the authority: [a-z0-9][a-z0-9._-]{0,63}
    #[arg(long, value_parser = parse_name)]
    name: String,
    /// Organisation as certificates carry it; parties need one
    #[arg(long)]
    organization: Option<String>,
    /// ISO 3166 two-letter country code; parties need one
    #[arg(long, value_parser = parse_country)]
    country: Option<String>,
    /// Curve of the key for TLS; keys for approvals and for sealed answers are on P-256
    #[arg(long, value_enum, default_value_t = TlsCurve::P256)]
    tls_curve: TlsCurve,
    /// The folder to make
    #[arg(long)]
    out: PathBuf,
}

/// Arguments of `identity renew`.
#[derive(Debug, Args)]
pub struct Renew {
    /// The identity's folder
    folder: PathBuf,
    /// Curve of the next key; that of the present one when absent
    #[arg(long, value_enum)]
    tls_curve: Option<TlsCurve>,
}

/// Arguments of `identity install`.
#[derive(Debug, Args)]
pub struct Install {
    /// The identity's folder
    folder: PathBuf,
    /// The mTLS certificate that was issued for it
    #[arg(long)]
    certificate: PathBuf,
    /// CA certificate under which the service's own certificate is verified; what is there stays when absent
    #[arg(long)]
    authority_ca: Option<PathBuf>,
    /// Address of the service, HOST:PORT; what is there stays when absent
    #[arg(long, requires = "authority")]
    server: Option<String>,
    /// Name of the authority; operations for another one are not signed
    #[arg(long, requires = "server")]
    authority: Option<String>,
}

/// identity.toml: who this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFile {
    /// Unique name.
    pub name: String,
    /// Person or party, and which.
    pub kind: Kind,
    /// Organisation as certificates carry it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Two-letter code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// profile.toml: where the service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// HOST:PORT.
    pub server: String,
    /// Name of the authority.
    pub authority: String,
}

impl IdentityCommand {
    /// Runs it.
    pub fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Create(create) => create.run(output),
            Self::Renew(renew) => renew.run(output),
            Self::Install(install) => install.run(output),
        }
    }
}

#[derive(Serialize)]
struct Created {
    folder: PathBuf,
    name: String,
    kind: Kind,
    /// Hex; what the log and the registry call it.
    principal: String,
    send: Vec<PathBuf>,
}

impl Create {
    /// Makes the folder.
    pub fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        if !self.kind.is_person() && (self.organization.is_none() || self.country.is_none()) {
            return Err(CliError::invalid(
                "a party needs its organisation and country",
                "pass --organization and --country",
            ));
        }
        files::check_empty_or_absent(&self.out)?;
        files::create_private_folder(&self.out)?;
        let created = self.write()?;
        output.print(&created, |created| {
            format!(
                "{}\nGive these files to an officer: {}\nKeep the rest; nobody needs it.",
                fields([
                    ("folder", created.folder.display().to_string()),
                    ("name", created.name.clone()),
                    ("principal", created.principal.clone()),
                ]),
                created.send.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "),
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn write(&self) -> Result<Created, CliError> {
        let at = |name: &str| self.out.join(name);
        let mut send = vec![at(names::IDENTITY), at(names::TLS_CSR)];
        let identity = IdentityFile {
            name: self.name.clone(),
            kind: self.kind,
            organization: self.organization.clone(),
            country: self.country.clone(),
        };
        let text = toml::to_string(&identity).map_err(|error| CliError::Local(error.to_string()))?;
        files::write_new(&at(names::IDENTITY), text.as_bytes(), Readers::All)?;

        let tls = PrivateKey::generate_for_tls(self.tls_curve)?;
        tls.save_new(&at(names::TLS_KEY))?;
        self.write_request(&tls, &at(names::TLS_CSR))?;
        if self.kind.is_person() {
            let approval = PrivateKey::generate_p256()?;
            approval.save_new(&at(names::APPROVAL_KEY))?;
            self.write_request(&approval, &at(names::APPROVAL_CSR))?;
            send.push(at(names::APPROVAL_CSR));
        }
        match self.kind {
            Kind::Provisioner => {
                let key = PrivateKey::generate_p256()?;
                key.save_new(&at(names::ENCRYPTION_KEY))?;
                write_public(&key.p256_spki()?, &at(names::ENCRYPTION_PUBLIC))?;
                send.push(at(names::ENCRYPTION_PUBLIC));
            }
            Kind::Eum => {
                let key = PrivateKey::generate_rsa_3072()?;
                key.save_new(&at(names::TRANSPORT_KEY))?;
                write_public(&key.rsa_spki()?, &at(names::TRANSPORT_PUBLIC))?;
                send.push(at(names::TRANSPORT_PUBLIC));
            }
            Kind::Officer | Kind::Approver | Kind::Auditor => {}
        }
        files::sync_folder_of(&at(names::IDENTITY))?;
        Ok(Created {
            folder: self.out.clone(),
            name: self.name.clone(),
            kind: self.kind,
            principal: hex::encode(Sha256::digest(tls.ec_spki()?)),
            send,
        })
    }

    fn write_request(&self, key: &PrivateKey, path: &Path) -> Result<(), CliError> {
        write_request(key, &self.name, self.organization.as_deref(), path)
    }
}

fn write_request(
    key: &PrivateKey,
    name: &str,
    organization: Option<&str>,
    path: &Path,
) -> Result<(), CliError> {
    // Certificates take their names from the registry; this one is for whoever reads the request.
    let der = pki::csr::create_csr(key.der(), name, organization.unwrap_or(name))
        .map_err(|error| CliError::Local(format!("the request could not be made: {error}")))?;
    files::write_new(path, pki::csr::csr_pem(&der).as_bytes(), Readers::All)
}

#[derive(Serialize)]
struct Renewed {
    name: String,
    /// Hex, of the next key.
    principal: String,
    send: PathBuf,
}

impl Renew {
    /// Makes key and request beside the present ones.
    pub fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let identity = read_identity(&self.folder)?;
        let at = |name: &str| self.folder.join(name);
        if at(names::NEXT_TLS_KEY).exists() {
            return Err(CliError::invalid(
                format!("{} has a next key already", self.folder.display()),
                format!(
                    "have {} certified and install it, or remove both *.next.* files",
                    at(names::NEXT_TLS_CSR).display()
                ),
            ));
        }
        let curve = match self.tls_curve {
            Some(curve) => curve,
            None => PrivateKey::load(&at(names::TLS_KEY))?.tls_curve()?,
        };
        let key = PrivateKey::generate_for_tls(curve)?;
        key.save_new(&at(names::NEXT_TLS_KEY))?;
        let request = at(names::NEXT_TLS_CSR);
        // One that was left without its key is of no use.
        files::remove_if_there(&request)?;
        write_request(&key, &identity.name, identity.organization.as_deref(), &request)?;
        files::sync_folder_of(&request)?;
        let renewed = Renewed {
            name: identity.name,
            principal: hex::encode(Sha256::digest(key.ec_spki()?)),
            send: request,
        };
        output.print(&renewed, |renewed| {
            format!(
                "{}\nGive this file to an officer: {}\nThe present key stays in use until the new certificate is installed.",
                fields([("name", renewed.name.clone()), ("principal", renewed.principal.clone())]),
                renewed.send.display(),
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write_public(spki: &[u8], path: &Path) -> Result<(), CliError> {
    files::write_new(path, files::pem("PUBLIC KEY", spki).as_bytes(), Readers::All)
}

impl Install {
    /// Checks and puts the files beside the keys.
    pub fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        let identity = read_identity(&self.folder)?;
        let at = |name: &str| self.folder.join(name);
        let certificate = read_certificate(&self.certificate)?;
        let next = match PrivateKey::load(&at(names::NEXT_TLS_KEY)) {
            Ok(next) if certificate.spki() == next.ec_spki()? => Some(next),
            _ => None,
        };
        if next.is_none() && certificate.spki() != PrivateKey::load(&at(names::TLS_KEY))?.ec_spki()? {
            return Err(CliError::invalid(
                format!("the certificate {} is not for this identity's TLS key", self.certificate.display()),
                "install the certificate that was issued for this folder's request",
            ));
        }
        let authority_ca = self.authority_ca.as_deref().map(read_certificate).transpose()?;
        if authority_ca.is_none() && !at(names::AUTHORITY_CA).exists() {
            return Err(CliError::invalid(
                "the CA of the service's certificate is not installed yet",
                "pass --authority-ca",
            ));
        }
        let profile = match (&self.server, &self.authority) {
            (Some(server), Some(authority)) => {
                crate::connect::split_address(server)?;
                Profile { server: server.clone(), authority: authority.clone() }
            }
            _ => read_profile(&self.folder)?,
        };
        let text = toml::to_string(&profile).map_err(|error| CliError::Local(error.to_string()))?;
        if let Some(ca) = authority_ca {
            files::replace(&at(names::AUTHORITY_CA), ca.pem().as_bytes(), Readers::All)?;
        }
        files::replace(&at(names::PROFILE), text.as_bytes(), Readers::All)?;
        // A stop between the two leaves the new key with the old certificate: installing again mends it.
        if next.is_some() {
            files::rename(&at(names::NEXT_TLS_KEY), &at(names::TLS_KEY))?;
            files::rename(&at(names::NEXT_TLS_CSR), &at(names::TLS_CSR))?;
        }
        files::replace(&at(names::TLS_CERTIFICATE), certificate.pem().as_bytes(), Readers::All)?;

        let installed = Installed {
            name: identity.name,
            principal: hex::encode(certificate.spki_digest()),
            server: profile.server,
            authority: profile.authority,
        };
        output.print(&installed, |installed| {
            fields([
                ("name", installed.name.clone()),
                ("principal", installed.principal.clone()),
                ("server", installed.server.clone()),
                ("authority", installed.authority.clone()),
            ])
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Serialize)]
struct Installed {
    name: String,
    principal: String,
    server: String,
    authority: String,
}

/// Reads identity.toml of a folder.
pub fn read_identity(folder: &Path) -> Result<IdentityFile, CliError> {
    read_toml(&folder.join(names::IDENTITY), "name the folder that `chancery identity create` made")
}

/// Reads profile.toml of a folder.
pub fn read_profile(folder: &Path) -> Result<Profile, CliError> {
    read_toml(&folder.join(names::PROFILE), "run `chancery identity install` first")
}

fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path, next_step: &str) -> Result<T, CliError> {
    if !path.exists() {
        return Err(CliError::invalid(format!("there is no {}", path.display()), next_step));
    }
    toml::from_str(&files::read_text(path)?).map_err(|error| {
        CliError::invalid(
            format!("{} is not as it should be: {}", path.display(), error.message()),
            next_step,
        )
    })
}

/// Reads one certificate, PEM or DER.
pub fn read_certificate(path: &Path) -> Result<pki::Certificate, CliError> {
    let der = files::pem_or_der(files::read(path)?, "CERTIFICATE", &path.display().to_string())?;
    pki::Certificate::from_der(&der).map_err(|error| {
        CliError::invalid(format!("{}: {error}", path.display()), "name a file with one certificate")
    })
}

/// Reads a PKCS#10 request, PEM or DER, as DER.
pub fn read_request(path: &Path) -> Result<Vec<u8>, CliError> {
    files::pem_or_der(files::read(path)?, "CERTIFICATE REQUEST", &path.display().to_string())
}

/// Reads a SubjectPublicKeyInfo, PEM or DER, as DER.
pub fn read_public_key(path: &Path) -> Result<Vec<u8>, CliError> {
    files::pem_or_der(files::read(path)?, "PUBLIC KEY", &path.display().to_string())
}

/// A name of the registry. For clap.
pub fn parse_name(text: &str) -> Result<String, String> {
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let rest =
        text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-'));
    if first && rest && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("a name is [a-z0-9][a-z0-9._-]{0,63}".to_owned())
    }
}

fn parse_country(text: &str) -> Result<String, String> {
    if text.len() == 2 && text.bytes().all(|c| c.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err("a country is two capital letters of ISO 3166".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::output::Format;

    const OUTPUT: Output = Output { format: Format::Json };

    fn create(kind: Kind, out: &Path) -> Result<ExitCode, CliError> {
        Create {
            kind,
            name: "somebody".to_owned(),
            organization: Some("Some Body".to_owned()),
            country: Some("DE".to_owned()),
            tls_curve: TlsCurve::P256,
            out: out.to_owned(),
        }
        .run(OUTPUT)
    }

    #[test]
    fn each_kind_gets_the_keys_it_needs_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let common = ["identity.toml", "tls-key.pem", "tls.csr.pem"];
        let person = ["approval-key.pem", "approval.csr.pem"];
        let kinds: [(Kind, &[&str]); 5] = [
            (Kind::Officer, &person),
            (Kind::Approver, &person),
            (Kind::Auditor, &person),
            (Kind::Eum, &["transport-key.pem", "transport-key.pub.pem"]),
            (Kind::Provisioner, &["encryption-key.pem", "encryption-key.pub.pem"]),
        ];
        for (kind, own) in kinds {
            let out = folder.path().join(format!("{kind:?}"));
            create(kind, &out).unwrap();
            let mut found: Vec<String> = std::fs::read_dir(&out)
                .unwrap()
                .map(|item| item.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let mut expected: Vec<&str> = common.iter().chain(own).copied().collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{kind:?}");
            for name in found.iter().filter(|name| name.ends_with("-key.pem")) {
                let mode = std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{name}");
            }
            assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o700);
            assert_eq!(read_identity(&out).unwrap().kind, kind);
        }
    }

    #[test]
    fn the_tls_key_may_be_on_p_384_and_the_next_one_is_on_the_same_curve() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("officer");
        let create = Create {
            kind: Kind::Officer,
            name: "somebody".to_owned(),
            organization: None,
            country: None,
            tls_curve: TlsCurve::P384,
            out: out.clone(),
        };
        create.run(OUTPUT).unwrap();
        Renew { folder: out.clone(), tls_curve: None }.run(OUTPUT).unwrap();
        let curve_of = |name: &str| {
            let request = std::fs::read(out.join(name)).unwrap();
            let request = pki::csr::VerifiedCsr::parse(&request, pki::KnownKeys::Refuse).unwrap();
            request.public_key().curve()
        };
        assert_eq!(curve_of(names::TLS_CSR), domain::Curve::P384);
        assert_eq!(curve_of(names::NEXT_TLS_CSR), domain::Curve::P384);
        assert_eq!(curve_of(names::APPROVAL_CSR), domain::Curve::P256);
    }

    #[test]
    fn an_existing_identity_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("officer");
        create(Kind::Officer, &out).unwrap();
        let before = std::fs::read(out.join(names::TLS_KEY)).unwrap();
        assert!(create(Kind::Officer, &out).is_err());
        assert_eq!(std::fs::read(out.join(names::TLS_KEY)).unwrap(), before);
    }

    #[test]
    fn a_party_without_organisation_or_country_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let create = Create {
            kind: Kind::Eum,
            name: "eum".to_owned(),
            organization: None,
            country: Some("DE".to_owned()),
            tls_curve: TlsCurve::P256,
            out: folder.path().join("eum"),
        };
        assert!(create.run(OUTPUT).is_err());
        assert!(!folder.path().join("eum").exists());
    }

    #[test]
    fn names_and_countries_are_checked_where_they_enter() {
        for good in ["a", "acme-eum", "0.a_b"] {
            assert!(parse_name(good).is_ok());
        }
        for bad in ["", "-a", "A", "a b", "ä", &"a".repeat(65)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
        assert!(parse_country("DE").is_ok());
        assert!(parse_country("de").is_err() && parse_country("DEU").is_err());
    }
}
