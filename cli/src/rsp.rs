//! Remote SIM provisioning: the keys of an SM-DP+, and a profile download step by step from files.

mod download;
mod package;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use proto::v1::RegisterRspKey;
use proto::v1::operation::Kind;

pub use self::download::open;
use self::download::{Authenticate, Bind, Initiate};
use self::package::SignPackage;
use crate::error::CliError;
use crate::identity::parse_name;
use crate::issuer::register_issuer;
use crate::operation::{self, RequestArgs};
use crate::output::Output;

/// `chancery rsp ...`
#[derive(Debug, Subcommand)]
pub enum RspCommand {
    /// Request that a DPauth or DPpb key of the `rsp` token becomes that of a provisioner's SM-DP+.
    ///
    /// Its certificate is requested afterwards: chancery certificate request --profile dpauth|dppb --rsp-key NAME.
    #[command(after_help = "Examples:
  chanceryd ceremony create-key --config chanceryd.toml --role rsp-auth --name otaco-dpauth --party otaco --out dpauth.json
  chancery rsp key-register --key-file dpauth.json --server-address smdpplus.example \\
      --registered-id 1.3.6.1.4.1.99999.2 --reason 'ceremony of 2026-11-20' --identity alice/
  chancery certificate request --profile dpauth --party otaco --common-name 'SM-DP+' --rsp-key otaco-dpauth \\
      --registered-id 1.3.6.1.4.1.99999.2 --reason 'ceremony of 2026-11-20' --identity alice/")]
    KeyRegister(KeyRegister),
    /// Begin a download (ES9+.InitiateAuthentication): a challenge of ours, signed with the DPauth key.
    ///
    /// Makes the folder of the transaction with transaction-id.hex, server-signed1.der, server-signature1.bin (r || s, the
    /// value of tag 5F37), ci-key-id.hex (euiccCiPKIdToBeUsed) and dpauth.der. A transaction lasts ten minutes.
    #[command(after_help = "Example:
  chancery rsp initiate --euicc-challenge 00112233445566778899aabbccddeeff --euicc-info1 info1.der \\
      --server-address smdpplus.example --purpose profile-download --transaction tx/ --identity otaco/")]
    Initiate(Initiate),
    /// Verify the eUICC (ES9+.AuthenticateClient) and sign smdpSigned2 with the DPpb key.
    ///
    /// The eUICC's certificate must lead to our CI, its signature must be over our challenge, and a grant must cover the
    /// device. Adds eid.txt, matching-id.txt, smdp-signed2.der, smdp-signature2.bin and dppb.der to the folder.
    #[command(after_help = "Example:
  chancery rsp authenticate --transaction tx/ --response authenticate-server-response.der \\
      --confirmation-code-file code.txt --purpose profile-download --identity otaco/")]
    Authenticate(Authenticate),
    /// Bind the profile to this eUICC (the keys of ES9+.GetBoundProfilePackage) and open the keys here.
    ///
    /// Adds initialise-secure-channel.der (BF23, the first part of the bound profile package) and bsp-keys.json to the
    /// folder: S-ENC, S-MAC and the initial MAC chaining value, with --protection profile-keys also PPK-ENC, PPK-CMAC and
    /// theirs. That file is readable only by its owner: use it and delete it. For the same one-time key of the eUICC the
    /// answer is the same; for another one all keys are new.
    #[command(after_help = "Example:
  chancery rsp bind --transaction tx/ --response prepare-download-response.der --host-id 736d6470 \\
      --protection session-keys --purpose profile-download --identity otaco/")]
    Bind(Bind),
    /// Sign an eUICC package of an eIM (SGP.32), with the next counter value for this eUICC.
    ///
    /// The key is an eim-sign key: chanceryd ceremony create-key --role eim-sign, then rsp key-register with the eimId as
    /// --server-address. A counter value is never given twice.
    #[command(after_help = "Example:
  chancery rsp sign-package --eim-id eim.example --eid 89049032123451234512345678901235 --package psmo-list.der \
      --purpose profile-management --out euicc-package-request.der --identity otaco/")]
    SignPackage(SignPackage),
}

/// Arguments of `rsp key-register`.
#[derive(Debug, Args)]
pub struct KeyRegister {
    /// The JSON that `chanceryd ceremony create-key --role rsp-auth|rsp-pb|eim-sign` wrote; its label says which role
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Name of the key; the one in the file when absent
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// The provisioner whose SM-DP+ it is; the one in the file when absent
    #[arg(long, value_parser = parse_name)]
    party: Option<String>,
    /// Address of the SM-DP+ as in its activation codes; eim-sign: the eimId
    #[arg(long, value_name = "HOST")]
    server_address: String,
    /// Object identifier of the SM-DP+; DPauth and DPpb have the same, an eim-sign key has none
    #[arg(long, value_name = "OID", default_value = "", hide_default_value = true)]
    registered_id: String,
    #[command(flatten)]
    request: RequestArgs,
}

impl RspCommand {
    /// Runs it.
    pub async fn run(&self, output: Output) -> Result<ExitCode, CliError> {
        match self {
            Self::KeyRegister(register) => register.run(output).await,
            Self::Initiate(initiate) => initiate.run(output).await,
            Self::Authenticate(authenticate) => authenticate.run(output).await,
            Self::Bind(bind) => bind.run(output).await,
            Self::SignPackage(package) => package.run(output).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

impl KeyRegister {
    async fn run(&self, output: Output) -> Result<(), CliError> {
        let key = register_issuer(&self.key_file, self.name.as_deref(), self.party.as_deref())?;
        let role = role_of(&key.key_label).ok_or_else(|| {
            CliError::invalid(
                format!("{} is of no key of an SM-DP+", self.key_file.display()),
                "make one: chanceryd ceremony create-key --role rsp-auth, rsp-pb or eim-sign",
            )
        })?;
        let register = RegisterRspKey {
            name: key.name,
            party: key.party,
            role: role.to_owned(),
            key_label: key.key_label,
            key_id: key.key_id,
            public_key: key.public_key,
            server_address: self.server_address.clone(),
            registered_id: self.registered_id.clone(),
        };
        operation::request(Kind::RegisterRspKey(register), &self.request, output).await
    }
}

/// The role in a label `chancery/<role>/<name>/<epoch>`.
fn role_of(label: &str) -> Option<&'static str> {
    const ROLES: [&str; 5] =
        ["rsp-auth", "rsp-auth-brainpool-p256r1", "rsp-pb", "rsp-pb-brainpool-p256r1", "eim-sign"];
    let role = label.strip_prefix("chancery/")?.split('/').next()?;
    ROLES.into_iter().find(|known| *known == role)
}

#[cfg(test)]
mod tests {
    use super::role_of;

    #[test]
    fn the_role_of_a_key_is_in_its_label() {
        assert_eq!(role_of("chancery/rsp-auth/one/1"), Some("rsp-auth"));
        assert_eq!(role_of("chancery/rsp-pb/rsp-auth/1"), Some("rsp-pb"));
        assert_eq!(role_of("chancery/rsp-pb-brainpool-p256r1/b/1"), Some("rsp-pb-brainpool-p256r1"));
        for other in ["chancery/certificate-issuer/rsp-pb/1", "rsp-auth", "", "chancery/rsp-authentic/x/1"] {
            assert_eq!(role_of(other), None, "{other}");
        }
    }
}
