//! What an extension will say, in words.

use ca::ceremony::Draft;
use pki::{AlternativeName, ExtensionValue, KeyUsageBit, Purpose};

pub(super) fn value(value: ExtensionValue, draft: &Draft) -> String {
    match value {
        ExtensionValue::SubjectKeyIdentifier => "SHA-1 of the subject key".to_owned(),
        ExtensionValue::AuthorityKeyIdentifier => "that of the issuer's key".to_owned(),
        ExtensionValue::KeyUsage(bits) => bits.iter().map(|bit| usage(*bit)).collect::<Vec<_>>().join(", "),
        ExtensionValue::CertificatePolicies(policies) => {
            policies.iter().map(|policy| dotted(policy)).collect::<Vec<_>>().join(", ")
        }
        ExtensionValue::SubjectAlternativeName(parts) => {
            parts.iter().map(|part| alternative_name(*part, draft)).collect::<Vec<_>>().join(", ")
        }
        ExtensionValue::CertificateAuthority { path_length } => match path_length {
            Some(length) => format!("CA, path length {length}"),
            None => "CA, any path length".to_owned(),
        },
        ExtensionValue::CrlDistributionPoints { .. } => draft.crl_urls.join(", "),
        ExtensionValue::EumNameConstraints => {
            let permitted = draft.permitted.iter().map(|(organization, iin)| format!("{organization} {iin}"));
            format!("permitted: {}", permitted.collect::<Vec<_>>().join(", "))
        }
        ExtensionValue::PermittedEins => {
            draft.permitted.iter().map(|(_, ein)| ein.as_str()).collect::<Vec<_>>().join(", ")
        }
        ExtensionValue::ExtendedKeyUsage(purposes) => {
            purposes.iter().map(|purpose| self::purpose(*purpose)).collect::<Vec<_>>().join(", ")
        }
        ExtensionValue::OcspNoCheck => "NULL".to_owned(),
        ExtensionValue::Fixed { oid, value } => format!("{}: {}", dotted(oid), hex::encode(value)),
    }
}

const fn usage(bit: KeyUsageBit) -> &'static str {
    match bit {
        KeyUsageBit::DigitalSignature => "digitalSignature",
        KeyUsageBit::KeyCertSign => "keyCertSign",
        KeyUsageBit::CrlSign => "cRLSign",
    }
}

const fn purpose(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::ServerAuthentication => "serverAuth",
        Purpose::ClientAuthentication => "clientAuth",
        Purpose::OcspSigning => "OCSPSigning",
    }
}

fn alternative_name(part: AlternativeName, draft: &Draft) -> String {
    match part {
        AlternativeName::RegisteredId => {
            format!("registeredID {}", draft.registered_id.as_deref().unwrap_or("-"))
        }
        AlternativeName::DnsNameAsCommonName | AlternativeName::DnsNameAndIpAddresses => {
            format!("dNSName {}", draft.dns_name.as_deref().unwrap_or("-"))
        }
    }
}

fn dotted(arcs: &[u64]) -> String {
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}
