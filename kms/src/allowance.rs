//! What a grant allows beyond session keys of a card that proves itself. Nothing, unless it says so.

use std::collections::BTreeSet;

use domain::{Protocol, ReasonCode, Refusal};
use proto::{records, v1};

use crate::KmsError;

/// Most toolkit application references of one grant.
const TARS_MAX: usize = 64;
/// Most packets and scripts a minute for one device that a grant may say.
const PACKETS_PER_MINUTE_MAX: u32 = 6_000;

/// Instructions that change keys or what holds them. They come from an approved rotation, never from a grant nor from a
/// caller's script (GP Card Specification §11, Amendments D and F): PUT KEY, DELETE, STORE DATA (personalisation, keys
/// among it), INSTALL (for personalisation, extradition and more), SET STATUS (locks domains and cards); and those that open
/// a secure channel of their own: INITIALIZE UPDATE, EXTERNAL and MUTUAL AUTHENTICATE, INTERNAL AUTHENTICATE, PERFORM
/// SECURITY OPERATION, MANAGE SECURITY ENVIRONMENT.
pub const KEY_MANAGEMENT_INSTRUCTIONS: [u8; 10] =
    [0xd8, 0xe4, 0xe2, 0xe6, 0xf0, 0x50, 0x82, 0x88, 0x2a, 0x22];

/// What a grant allows. The default is the strictest: SCP03 sessions of cards that prove themselves, keys sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    protocols: Vec<Protocol>,
    without_device_proof: bool,
    tars: Vec<[u8; 3]>,
    instructions: Vec<u8>,
    packets_per_minute: u32,
    tls_delivery: bool,
    key_agreement: bool,
    revoked: RevokedCertificates,
}

/// What becomes of a profile download when a certificate in the eUICC's chain is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RevokedCertificates {
    /// It is refused.
    #[default]
    Block,
    /// It is served, and the SM-DP+ is told.
    Warn,
    /// It is served.
    Allow,
}

impl RevokedCertificates {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Warn => "warn",
            Self::Allow => "allow",
        }
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            protocols: vec![Protocol::Scp03],
            without_device_proof: false,
            tars: Vec::new(),
            instructions: Vec::new(),
            packets_per_minute: 0,
            tls_delivery: false,
            key_agreement: false,
            revoked: RevokedCertificates::Block,
        }
    }
}

/// What a request needs of a grant beside its device and purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Keysets of this protocol.
    Protocol(Protocol),
    /// Keys for a device that has proved nothing.
    ReleaseWithoutProof,
    /// Packets to this application.
    Tar([u8; 3]),
    /// Commands with this instruction byte.
    Instruction(u8),
    /// Keys that are not sealed, in the TLS channel alone.
    TlsDelivery,
    /// Sessions of SCP11.
    KeyAgreement,
}

impl Need {
    /// The refusal when the grant that covers the device lacks this.
    pub fn refusal(self) -> Refusal {
        let reason = match self {
            Self::Tar(_) => ReasonCode::TarNotGranted,
            Self::Instruction(_) => ReasonCode::InstructionNotGranted,
            Self::Protocol(_) | Self::ReleaseWithoutProof | Self::TlsDelivery | Self::KeyAgreement => {
                ReasonCode::GrantTooNarrow
            }
        };
        let message = match self {
            Self::Protocol(_) => "the grant over this device is not for this protocol".to_owned(),
            Self::ReleaseWithoutProof => {
                "the grant over this device allows no release without the device's proof".to_owned()
            }
            Self::Tar(tar) => {
                format!("the grant over this device does not name the TAR {}", hex::encode(tar))
            }
            Self::Instruction(ins) => {
                format!("the grant over this device does not name the instruction {ins:02X}")
            }
            Self::KeyAgreement => "the grant over this device does not allow sessions of SCP11".to_owned(),
            Self::TlsDelivery => "the grant over this device does not allow unsealed keys".to_owned(),
        };
        Refusal::new(reason, message)
    }
}

impl Allowance {
    /// Reads and checks what a request for a grant says.
    pub fn parse(grant: &v1::CreateGrant) -> Result<Self, Refusal> {
        let invalid = |message: &str| Refusal::new(ReasonCode::InvalidField, message);
        let protocols = grant
            .protocols
            .iter()
            .map(|code| Protocol::from_code(*code).map_err(|e| invalid(&e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let tars = grant
            .tars
            .iter()
            .map(|tar| <[u8; 3]>::try_from(tar.as_slice()).map_err(|_| invalid("a TAR has 3 bytes")))
            .collect::<Result<Vec<_>, _>>()?;
        if has_repeats(&protocols) || has_repeats(&tars) || has_repeats(&grant.instructions) {
            return Err(invalid("a grant names each protocol, TAR and instruction once"));
        }
        if tars.len() > TARS_MAX {
            return Err(invalid("a grant names at most 64 TARs"));
        }
        if let Some(ins) = grant.instructions.iter().find(|ins| KEY_MANAGEMENT_INSTRUCTIONS.contains(ins)) {
            return Err(Refusal::new(
                ReasonCode::PolicyViolation,
                format!("instruction {ins:02X} changes keys: it comes from an approved rotation only"),
            ));
        }
        let is_for_packets = !tars.is_empty() || !grant.instructions.is_empty();
        let rates = if is_for_packets { 1..=PACKETS_PER_MINUTE_MAX } else { 0..=0 };
        if !rates.contains(&grant.packets_per_minute) {
            return Err(invalid("packets_per_minute is 1 to 6,000 with TARs or instructions, else absent"));
        }
        let revoked = match grant.revoked_certificates.as_str() {
            "" | "block" => RevokedCertificates::Block,
            "warn" => RevokedCertificates::Warn,
            "allow" => RevokedCertificates::Allow,
            _ => return Err(invalid("revoked_certificates is block, warn or allow")),
        };
        Ok(Self {
            revoked,
            protocols: if protocols.is_empty() { vec![Protocol::Scp03] } else { protocols },
            without_device_proof: grant.without_device_proof,
            tars,
            instructions: grant.instructions.clone(),
            packets_per_minute: grant.packets_per_minute,
            tls_delivery: grant.tls_delivery,
            key_agreement: grant.key_agreement,
        })
    }

    /// The protocols whose keysets may be used.
    pub fn protocols(&self) -> &[Protocol] {
        &self.protocols
    }

    /// Whether keys may be released for a device that has proved nothing.
    pub const fn without_device_proof(&self) -> bool {
        self.without_device_proof
    }

    /// Toolkit application references that packets may address.
    pub fn tars(&self) -> &[[u8; 3]] {
        &self.tars
    }

    /// Instruction bytes that commands may have.
    pub fn instructions(&self) -> &[u8] {
        &self.instructions
    }

    /// Most packets and scripts a minute for one device; 0 when none are allowed.
    pub const fn packets_per_minute(&self) -> u32 {
        self.packets_per_minute
    }

    /// Whether keys may leave unsealed, in the TLS channel alone.
    pub const fn tls_delivery(&self) -> bool {
        self.tls_delivery
    }

    /// Whether sessions of SCP11 may be opened.
    pub const fn key_agreement(&self) -> bool {
        self.key_agreement
    }

    /// What becomes of downloads to eUICCs with revoked certificates above them.
    pub const fn revoked_certificates(&self) -> RevokedCertificates {
        self.revoked
    }

    /// Whether this is allowed.
    pub fn allows(&self, need: Need) -> bool {
        match need {
            Need::Protocol(protocol) => self.protocols.contains(&protocol),
            Need::ReleaseWithoutProof => self.without_device_proof,
            Need::Tar(tar) => self.tars.contains(&tar),
            Need::Instruction(ins) => {
                self.instructions.contains(&ins) && !KEY_MANAGEMENT_INSTRUCTIONS.contains(&ins)
            }
            Need::TlsDelivery => self.tls_delivery,
            Need::KeyAgreement => self.key_agreement,
        }
    }

    pub(crate) fn write(&self, record: &mut records::Grant) {
        record.protocols = self.protocols.iter().map(|protocol| u32::from(protocol.code())).collect();
        record.without_device_proof = self.without_device_proof;
        record.tars = self.tars.iter().map(|tar| tar.to_vec()).collect();
        record.instructions.clone_from(&self.instructions);
        record.packets_per_minute = self.packets_per_minute;
        record.tls_delivery = self.tls_delivery;
        record.key_agreement = self.key_agreement;
        record.revoked_certificates = self.revoked.as_str().to_owned();
    }

    pub(crate) fn read(record: &records::Grant) -> Result<Self, KmsError> {
        // Grants made before there was a choice name no protocol: the same default. What came to the list of instructions
        // that no grant allows after a grant was made is not in it any more.
        let mut kept = record.instructions.clone();
        kept.retain(|ins| !KEY_MANAGEMENT_INSTRUCTIONS.contains(ins));
        let is_for_packets = !record.tars.is_empty() || !kept.is_empty();
        Self::parse(&v1::CreateGrant {
            protocols: record.protocols.clone(),
            without_device_proof: record.without_device_proof,
            tars: record.tars.clone(),
            instructions: kept,
            packets_per_minute: if is_for_packets { record.packets_per_minute } else { 0 },
            tls_delivery: record.tls_delivery,
            key_agreement: record.key_agreement,
            revoked_certificates: record.revoked_certificates.clone(),
            ..v1::CreateGrant::default()
        })
        .map_err(|_| KmsError::Record("grant"))
    }
}

fn has_repeats<T: Ord>(values: &[T]) -> bool {
    values.iter().collect::<BTreeSet<_>>().len() != values.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> v1::CreateGrant {
        v1::CreateGrant {
            protocols: vec![3],
            without_device_proof: true,
            tars: vec![vec![0xb0, 0x00, 0x10]],
            instructions: vec![0xf2],
            packets_per_minute: 60,
            tls_delivery: true,
            key_agreement: true,
            revoked_certificates: "warn".to_owned(),
            ..v1::CreateGrant::default()
        }
    }

    #[test]
    fn a_grant_that_says_nothing_allows_only_scp03_sessions_of_cards_that_prove_themselves() {
        let allowance = Allowance::parse(&v1::CreateGrant::default()).unwrap();
        assert_eq!(allowance, Allowance::default());
        assert!(allowance.allows(Need::Protocol(Protocol::Scp03)));
        for need in [
            Need::ReleaseWithoutProof,
            Need::Tar([0xb0, 0x00, 0x10]),
            Need::Instruction(0xf2),
            Need::TlsDelivery,
        ] {
            assert!(!allowance.allows(need), "{need:?}");
            let reason = match need {
                Need::Tar(_) => ReasonCode::TarNotGranted,
                Need::Instruction(_) => ReasonCode::InstructionNotGranted,
                _ => ReasonCode::GrantTooNarrow,
            };
            assert_eq!(need.refusal().reason, reason);
        }
    }

    #[test]
    fn what_a_grant_says_is_allowed_and_survives_its_record() {
        let allowance = Allowance::parse(&grant()).unwrap();
        for need in [
            Need::Protocol(Protocol::Scp03),
            Need::ReleaseWithoutProof,
            Need::Tar([0xb0, 0x00, 0x10]),
            Need::Instruction(0xf2),
            Need::TlsDelivery,
        ] {
            assert!(allowance.allows(need), "{need:?}");
        }
        assert!(
            !allowance.allows(Need::Tar([0xb0, 0x00, 0x11])) && !allowance.allows(Need::Instruction(0xca))
        );
        let mut record = records::Grant::default();
        allowance.write(&mut record);
        assert_eq!(Allowance::read(&record).unwrap(), allowance);
    }

    #[test]
    fn no_grant_allows_a_command_that_changes_keys() {
        for ins in KEY_MANAGEMENT_INSTRUCTIONS {
            let asked = v1::CreateGrant { instructions: vec![0xf2, ins], ..grant() };
            assert_eq!(Allowance::parse(&asked).unwrap_err().reason, ReasonCode::PolicyViolation);
            // Of a grant that was made when the list was shorter.
            let mut record = records::Grant::default();
            Allowance::parse(&grant()).unwrap().write(&mut record);
            record.instructions.push(ins);
            let allowance = Allowance::read(&record).unwrap();
            assert!(allowance.allows(Need::Instruction(0xf2)) && !allowance.allows(Need::Instruction(ins)));
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused = |asked: v1::CreateGrant| Allowance::parse(&asked).unwrap_err().reason;
        let wrong = [
            v1::CreateGrant { protocols: vec![9], ..grant() },
            v1::CreateGrant { revoked_certificates: "ignore".to_owned(), ..grant() },
            v1::CreateGrant { protocols: vec![3, 3], ..grant() },
            v1::CreateGrant { tars: vec![vec![1, 2]], ..grant() },
            v1::CreateGrant { tars: vec![vec![1, 2, 3]; 2], ..grant() },
            v1::CreateGrant { tars: (0..65).map(|i| vec![0, 0, i]).collect(), ..grant() },
            v1::CreateGrant { instructions: vec![0xf2, 0xf2], ..grant() },
            v1::CreateGrant { packets_per_minute: 0, ..grant() },
            v1::CreateGrant { packets_per_minute: 6_001, ..grant() },
            v1::CreateGrant { packets_per_minute: 1, ..v1::CreateGrant::default() },
        ];
        for asked in wrong {
            assert_eq!(refused(asked.clone()), ReasonCode::InvalidField, "{asked:?}");
        }
    }
}
