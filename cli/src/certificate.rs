//! Certificates: requested for a party, fetched, revoked; judged and handed over from files alone.

mod adopt;
mod algorithms;
mod ask;
mod bundle;
mod list;
mod profiles;
#[cfg(test)]
mod published;
pub mod reading;
mod revoke_many;
mod verify;

pub use self::verify::parse_time;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use domain::{Eid, Timestamp};
use proto::v1::certificate_service_client::CertificateServiceClient;
use proto::v1::operation::Kind;
use proto::v1::{
    GetCertificateRequest, HoldCertificateRequest, IssueCertificate, ReleaseCertificate, RevokeCertificate,
    get_certificate_request, issue_certificate,
};
use serde::Serialize;

use crate::clock::to_wire;
use crate::connect::{IdempotencyArgs, RemoteArgs};
use crate::error::CliError;
use crate::files::{self, Readers};
use crate::identity::{self, parse_name};
use crate::operation::{self, RequestArgs, SendArgs};
use crate::output::{Output, fields, printable};

/// `chancery certificate ...`
#[derive(Debug, Subcommand)]
pub enum CertificateCommand {
    /// Request a certificate for a party, issued by the certificate issuer (CI).
    #[command(after_help = "Examples:
  chancery certificate request --profile eum --party acme-eum --common-name 'ACME EUM' --issuer acme-2026 \\
      --registered-id 1.3.6.1.4.1.99999.1 --reason 'contract 12/2026' --identity alice/
  chancery certificate request --profile dptls --party otaco --common-name 'SM-DP+' --csr dptls.csr.pem \\
      --registered-id 1.3.6.1.4.1.99999.2 --dns-name smdpplus.example --reason 'licence 7' --identity alice/")]
    Request(Box<Request>),
    /// List the certificate profiles, show one whole, or check a file of your own.
    #[command(after_help = "Examples:
  chancery certificate profiles
  chancery certificate profiles eum-v3
  chancery certificate profiles dptls-90 --file dptls-90.toml")]
    Profiles(profiles::Profiles),
    /// List the algorithms of certificates and keys, and what may be done with them until when.
    #[command(after_help = "Example:
  chancery certificate algorithms --at 2036-01-01T00:00:00Z")]
    Algorithms(algorithms::Algorithms),
    /// Fetch an issued certificate by serial number, or a device's by EID.
    #[command(after_help = "Examples:
  chancery certificate get --eid 89049032123451234512345678901235 --out device.pem --identity acme/
  chancery certificate get --serial 0a1b2c --out certificate.der --identity alice/")]
    Get(Get),
    /// List certificates of the register: a holder's, a device's, a key's, or all.
    #[command(after_help = "Examples:
  chancery certificate list --holder otaco --identity alice/
  chancery certificate list --key device-key.pem --identity alice/
  chancery certificate list --issuer acme-2026 --state revoked --output json --identity alice/")]
    List(list::List),
    /// Have the service judge a certificate in a file: by the chain rules and by its register of what was issued and revoked.
    ///
    /// Exit code 0 when it holds; 1 with the reason of each refusal. `certificate verify` judges without a service.
    #[command(after_help = "Example:
  chancery certificate ask device.pem --chain eum.pem --identity otaco/")]
    Ask(ask::Ask),
    /// Request that a certificate of the certificate issuer (CI) is revoked, for good; another person must approve.
    ///
    /// Once executed, the next revocation list (CRL) shows it; `certificate get` tells its state.
    #[command(after_help = "Examples:
  chancery certificate revoke --serial 0a1b2c --reason superseded --identity alice/
  chancery certificate revoke --serial 0a1b2c --reason key-compromise --because 'incident 118' --identity alice/")]
    Revoke(Revoke),
    /// Request that many certificates are revoked, all of them or none; or hold them at once.
    ///
    /// What is affected is shown first: whose certificates, and what stays in force in their place. --dry-run stops there.
    #[command(after_help = "Examples:
  chancery certificate revoke-many --holder otaco --reason cessation-of-operation --dry-run --identity alice/
  chancery certificate revoke-many --issuer ci --profile dptls --issued-before 2026-06-01T00:00:00Z \\
      --reason superseded --because 'profile 2026-2' --identity alice/
  chancery certificate revoke-many --serials serials.txt --hold 'incident 118' --identity alice/")]
    RevokeMany(Box<revoke_many::RevokeMany>),
    /// Revoke a certificate for the time being, alone and at once; it is released, or revoked for good, by two persons.
    ///
    /// At most 100 certificates are held at a time. OCSP and the next revocation list say certificateHold.
    #[command(after_help = "Example:
  chancery certificate hold --serial 0a1b2c --reference 'incident 118' --identity alice/")]
    Hold(Hold),
    /// Request that a held certificate is in force again
    #[command(after_help = "Example:
  chancery certificate release --serial 0a1b2c --because 'incident 118 is closed' --identity alice/")]
    Release(Release),
    /// Take certificates into the register that an issuer issued before it came here; each proves itself by that issuer's signature.
    ///
    /// Within 30 days of `issuer register`. Then they can be listed, revoked and asked about like all others. What the issuer's last list (`issuer register --list`) named is
    /// revoked. Exit code 1 when one was refused, with the reasons; the others are taken all the same, and again is no harm.
    #[command(after_help = "Example:
  chancery certificate adopt --issuer ci-2019 old-ca/issued/ --identity alice/
  chancery certificate adopt --issuer acme-2019 --output json devices.pem --identity alice/")]
    Adopt(adopt::Adopt),
    /// Judge a certificate in a file by the GSMA's chain rules; nothing needs to run.
    ///
    /// Exit code 0 when it holds; 1 with the reason of each refusal and its stable name when not. Generic tools refuse every
    /// genuine eUICC chain: the GSMA reads the manufacturer's name constraints in its own way (SGP.22 §4.5.2.2).
    #[command(after_help = "Examples:
  chancery certificate verify device.pem --ci ci.pem --chain eum.pem
  chancery certificate verify dppb.pem --ci ci.pem --crl ci.crl --role dppb --pair dpauth.pem --output json
  chancery certificate verify dptls.der --ci ci.pem --at 2027-01-01T00:00:00Z")]
    Verify(verify::Verify),
    /// Write what an SM-DP+ loads: its certificates and the CI's, in the folders of osmo-smdpp; nothing needs to run.
    ///
    /// First everything is judged: each certificate in its role, all of one entity and one CI, keys with their certificates.
    #[command(after_help = "Examples:
  chancery certificate bundle --for sm-dp+ --dpauth dpauth.pem --dppb dppb.pem --dptls dptls.pem --ci ci.pem --out certs/
  chancery certificate bundle --for sm-dp+ --dpauth dpauth.pem --dpauth-key dpauth-key.pem --dppb dppb.pem \\
      --dppb-key dppb-key.pem --dptls dptls.pem --dptls-key dptls-key.pem --ci ci.pem --eum eum.pem --out certs/")]
    Bundle(Box<bundle::Bundle>),
}

/// Why a certificate is revoked (RFC 5280 §5.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum RevocationReason {
    /// No reason is given
    Unspecified,
    /// The private key may be known to others
    KeyCompromise,
    /// The private key of an authority may be known to others
    CaCompromise,
    /// The subject's name or affiliation changed
    AffiliationChanged,
    /// Another certificate took its place
    Superseded,
    /// It is not needed any more
    CessationOfOperation,
    /// What it allowed is not allowed any more
    PrivilegeWithdrawn,
}

impl RevocationReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::CaCompromise => "ca-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
        }
    }
}

/// The built-in profiles whose certificates name a host.
const TLS_PROFILES: [(&str, &str); 5] = [
    ("profile", "dptls"),
    ("profile", "dptls-v3"),
    ("profile", "dstls"),
    ("profile", "dstls-v3"),
    ("profile", "eimtls"),
];

/// Arguments of `certificate request`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("key").required(true).args(["csr", "issuer", "rsp_key"])))]
pub struct Request {
    /// Which certificate profile, for example eum, dpauth, dppb, dptls; `certificate profiles` lists them
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    profile: String,
    /// Whose certificate
    #[arg(long, value_parser = parse_name)]
    party: String,
    /// commonName of the subject
    #[arg(long)]
    common_name: String,
    /// The party's own key: its request, PKCS#10 (PEM or DER) or CRMF (DER)
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// A key of our token: the issuer registered for it
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: Option<String>,
    /// dpauth, dppb: a key of our token, registered for the party by `rsp key-register`
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    rsp_key: Option<String>,
    /// Object identifier of the party, for the subjectAltName; all but eimsign have one
    #[arg(
        long,
        value_name = "OID",
        default_value = "",
        required_unless_present = "no_registered_id",
        hide_default_value = true
    )]
    registered_id: String,
    /// eimsign: the certificate has no object identifier
    #[arg(long, conflicts_with = "registered_id")]
    no_registered_id: bool,
    /// TLS profiles: host name
    #[arg(long, default_value = "", required_if_eq_any(TLS_PROFILES), hide_default_value = true)]
    dns_name: String,
    /// The certificate issuer (CI) or sub CA that signs: `ci`, the first one, when absent. A chain is of one curve
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    under: Option<String>,
    /// Serial number in hex of the certificate in force that this one follows, whose key it may keep
    #[arg(long, value_name = "HEX", value_parser = parse_serial)]
    renews: Option<SerialArg>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Arguments of `certificate get`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("by").required(true).args(["eid", "serial"])))]
pub struct Get {
    /// The device
    #[arg(long)]
    eid: Option<Eid>,
    /// Serial number in hex
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// Its issuer, where certificates of several have this serial number
    #[arg(long, value_name = "NAME", value_parser = parse_name, requires = "serial")]
    issuer: Option<String>,
    /// File to write: PEM, or DER when its name ends in .der; the issuer's certificate goes to FILE.issuer.pem or .der
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Names a certificate of the register.
#[derive(Debug, Args)]
pub struct Number {
    /// Serial number in hex
    #[arg(long, value_name = "HEX", value_parser = parse_serial)]
    serial: SerialArg,
    /// Its issuer, where certificates of several have this serial number
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    issuer: Option<String>,
}

impl Number {
    fn issuer(&self) -> String {
        self.issuer.clone().unwrap_or_default()
    }
}

/// Arguments of `certificate revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    #[command(flatten)]
    number: Number,
    /// Why, as the revocation list will say it
    #[arg(long)]
    reason: RevocationReason,
    /// Since when its key is, or may be, in other hands: 2026-11-20T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = verify::parse_time)]
    invalid_since: Option<Timestamp>,
    /// Why, for the approver to read; the reason again when absent
    #[arg(long, value_name = "TEXT")]
    because: Option<String>,
    #[command(flatten)]
    send: SendArgs,
}

/// Arguments of `certificate hold`.
#[derive(Debug, Args)]
pub struct Hold {
    #[command(flatten)]
    number: Number,
    /// The report or case, at most 100 characters
    #[arg(long, value_name = "TEXT")]
    reference: String,
    #[command(flatten)]
    idempotency: IdempotencyArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Arguments of `certificate release`.
#[derive(Debug, Args)]
pub struct Release {
    #[command(flatten)]
    number: Number,
    /// Why, for the approver to read
    #[arg(long, value_name = "TEXT")]
    because: String,
    #[command(flatten)]
    send: SendArgs,
}

/// Octets of a serial number, as certificates hold them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SerialArg(Vec<u8>);

/// Hex as openssl and this tool print it: colons are passed over. For clap.
fn parse_serial(text: &str) -> Result<SerialArg, String> {
    match hex::decode(text.replace(':', "")) {
        // RFC 5280 §4.1.2.2: at most 20 octets.
        Ok(octets) if (1..=20).contains(&octets.len()) => Ok(SerialArg(octets)),
        _ => Err("a serial number has 1 to 20 whole octets in hex".to_owned()),
    }
}

impl CertificateCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Request(request) => request.run(output).await,
            Self::Profiles(profiles) => profiles.run(output),
            Self::Algorithms(algorithms) => algorithms.run(output),
            Self::Get(get) => get.run(output).await,
            Self::List(list) => list.run(output).await,
            Self::Ask(ask) => return ask.run(output).await,
            Self::Adopt(adopt) => return adopt.run(output).await,
            Self::Revoke(revoke) => revoke.run(output).await,
            Self::RevokeMany(many) => many.run(output).await,
            Self::Hold(hold) => hold.run(output).await,
            Self::Release(release) => release.run(output).await,
            Self::Verify(verify) => return verify.run(output),
            Self::Bundle(bundle) => bundle.run(output),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl Request {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let key = match (&self.csr, &self.issuer, &self.rsp_key) {
            (Some(path), _, _) => issue_certificate::Key::Csr(identity::read_request(path)?),
            (None, Some(issuer), _) => issue_certificate::Key::Issuer(issuer.clone()),
            (None, None, Some(key)) => issue_certificate::Key::RspKey(key.clone()),
            (None, None, None) => {
                return Err(CliError::invalid("no key is named", "pass --csr, --issuer or --rsp-key"));
            }
        };
        let issue = IssueCertificate {
            profile: self.profile.clone(),
            party: self.party.clone(),
            common_name: self.common_name.clone(),
            key: Some(key),
            registered_id: self.registered_id.clone(),
            dns_name: self.dns_name.clone(),
            renews: self.renews.as_ref().map(|serial| serial.0.clone()).unwrap_or_default(),
            under: self.under.clone().unwrap_or_default(),
        };
        operation::request(Kind::IssueCertificate(issue), &self.request, output).await
    }
}

impl Revoke {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let reason = self.reason.as_str();
        let kind = Kind::RevokeCertificate(RevokeCertificate {
            serial_number: self.number.serial.0.clone(),
            reason: reason.to_owned(),
            invalid_since: self.invalid_since.map(to_wire),
            issuer: self.number.issuer(),
        });
        let because = self.because.clone().unwrap_or_else(|| format!("revocation: {reason}"));
        operation::request_because(kind, &because, &self.send, output).await
    }
}

#[derive(Serialize)]
struct Held {
    serial_number: String,
    entry_index: u64,
}

impl Hold {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let connection = self.remote.connect(output).await?;
        let message = HoldCertificateRequest {
            idempotency_key: self.idempotency.key()?,
            serial_number: self.number.serial.0.clone(),
            reference: self.reference.clone(),
            issuer: self.number.issuer(),
        };
        let answer = connection
            .call(output, Some(&message.idempotency_key), || {
                let request = connection.request(message.clone());
                let mut client = CertificateServiceClient::new(connection.channel());
                async move { client.hold_certificate(request).await }
            })
            .await?;
        let held =
            Held { serial_number: hex::encode(&self.number.serial.0), entry_index: answer.entry_index };
        output.print(&held, |held| {
            fields([
                ("held", held.serial_number.clone()),
                ("log entry", held.entry_index.to_string()),
                (
                    "next",
                    "two persons release it (certificate release) or revoke it (certificate revoke)"
                        .to_owned(),
                ),
            ])
        })
    }
}

impl Release {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let kind = Kind::ReleaseCertificate(ReleaseCertificate {
            serial_number: self.number.serial.0.clone(),
            issuer: self.number.issuer(),
        });
        operation::request_because(kind, &self.because, &self.send, output).await
    }
}

#[derive(Serialize)]
struct Fetched {
    serial_number: String,
    common_name: Option<String>,
    profile: String,
    state: String,
    file: PathBuf,
    issuer_file: Option<PathBuf>,
}

impl Get {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let by = match (&self.eid, &self.serial) {
            (Some(eid), _) => get_certificate_request::By::Eid(eid.to_string()),
            (None, Some(serial)) => {
                get_certificate_request::By::SerialNumber(hex::decode(serial).map_err(|_| {
                    CliError::invalid("the serial number is not hex", "give whole octets in hex")
                })?)
            }
            (None, None) => {
                return Err(CliError::invalid("no certificate is named", "pass --eid or --serial"));
            }
        };
        let connection = self.remote.connect(output).await?;
        let message = GetCertificateRequest { by: Some(by), issuer: self.issuer.clone().unwrap_or_default() };
        let answer = connection
            .call(output, None, || {
                let request = connection.request(message.clone());
                let mut client = CertificateServiceClient::new(connection.channel());
                async move { client.get_certificate(request).await }
            })
            .await?;
        let does_not_hold = |error| CliError::Answer(format!("it holds no certificate: {error}"));
        let certificate = pki::Certificate::from_der(&answer.certificate).map_err(does_not_hold)?;
        if self.eid.is_some() && certificate.eid() != self.eid {
            return Err(CliError::Answer("the certificate is another device's".to_owned()));
        }
        let extension =
            if self.out.extension().is_some_and(|extension| extension == "der") { "der" } else { "pem" };
        let write = |path: &PathBuf, der: &[u8]| {
            let bytes =
                if extension == "der" { der.to_vec() } else { files::pem("CERTIFICATE", der).into_bytes() };
            files::write_new(path, &bytes, Readers::All)
        };
        write(&self.out, &answer.certificate)?;
        let issuer_file = (!answer.issuer_certificate.is_empty())
            .then(|| self.out.with_extension(format!("issuer.{extension}")));
        if let Some(path) = &issuer_file {
            write(path, &answer.issuer_certificate)?;
        }
        let fetched = Fetched {
            serial_number: certificate.serial().to_string(),
            common_name: certificate.common_name().map(|name| printable(&name)),
            profile: printable(&answer.profile),
            state: printable(&answer.state),
            file: self.out.clone(),
            issuer_file,
        };
        output.print(&fetched, |fetched| {
            fields([
                ("serial number", fetched.serial_number.clone()),
                ("common name", fetched.common_name.clone().unwrap_or_default()),
                ("profile", fetched.profile.clone()),
                ("state", fetched.state.clone()),
                ("file", fetched.file.display().to_string()),
                (
                    "issuer",
                    fetched.issuer_file.as_ref().map_or_else(String::new, |p| p.display().to_string()),
                ),
            ])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_read_as_tools_print_it() {
        assert_eq!(parse_serial("0a:1B:2c").unwrap(), SerialArg(vec![0x0a, 0x1b, 0x2c]));
        for wrong in ["", "a", "zz", &"00".repeat(21)] {
            assert!(parse_serial(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_reason_is_typed_as_the_contract_names_it() {
        for reason in RevocationReason::value_variants() {
            assert_eq!(reason.to_possible_value().unwrap().get_name(), reason.as_str());
        }
    }
}
