//! An operation in full, for the person who signs it: every field, from the bytes, in one order.

use domain::Role;
use pki::KnownKeys;
use proto::v1::operation::Kind;
use proto::v1::{
    CreateGrant, EnrolParty, EnrolPerson, IssueCertificate, Operation, RegisterIssuer, issue_certificate,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::clock;
use crate::output::{fields, printable};

/// One field of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Field {
    /// As in the contract.
    pub name: String,
    /// For reading; bytes are described and given as a digest.
    pub value: String,
}

/// The kind as commands, answers and the log name it.
pub const fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::EnrolPerson(_) => "enrol_person",
        Kind::EnrolParty(_) => "enrol_party",
        Kind::RegisterIssuer(_) => "register_issuer",
        Kind::IssueCertificate(_) => "issue_certificate",
        Kind::CreateGrant(_) => "create_grant",
    }
}

/// Every field of `operation`, empty ones included: what is not there is said, too.
pub fn operation_fields(operation: &Operation) -> Vec<Field> {
    // Destructured without `..`: a field added to the contract does not compile until it is shown.
    let Operation { version, salt, authority, reason, expires, kind } = operation;
    let mut out = Fields::default();
    out.add("kind", kind.as_ref().map_or("none", kind_name));
    out.text("authority", authority);
    out.text("reason", reason);
    out.time("expires", expires.as_ref());
    match kind {
        Some(Kind::EnrolPerson(person)) => enrol_person(&mut out, person),
        Some(Kind::EnrolParty(party)) => enrol_party(&mut out, party),
        Some(Kind::RegisterIssuer(issuer)) => register_issuer(&mut out, issuer),
        Some(Kind::IssueCertificate(issue)) => issue_certificate(&mut out, issue),
        Some(Kind::CreateGrant(grant)) => create_grant(&mut out, grant),
        None => {}
    }
    out.add("version", version.to_string());
    out.add("salt", hex::encode(salt));
    out.0
}

/// The fields as aligned lines.
pub fn human(list: &[Field]) -> String {
    fields(list.iter().map(|field| (field.name.as_str(), field.value.clone())))
}

fn enrol_person(out: &mut Fields, person: &EnrolPerson) {
    let EnrolPerson { name, roles, tls_csr, approval_csr } = person;
    out.text("name", name);
    out.list("roles", roles.iter().map(|role| role_name(*role)));
    out.csr("tls_csr", tls_csr);
    out.csr("approval_csr", approval_csr);
}

fn enrol_party(out: &mut Fields, party: &EnrolParty) {
    let EnrolParty {
        name,
        role,
        organization,
        country,
        tls_csr,
        eins,
        device_quota,
        transport_key,
        encryption_key,
    } = party;
    out.text("name", name);
    out.add("role", role_name(*role));
    out.text("organization", organization);
    out.text("country", country);
    out.csr("tls_csr", tls_csr);
    out.list("eins", eins.iter().map(|ein| printable(ein)));
    out.add("device_quota", device_quota.to_string());
    out.key("transport_key", transport_key);
    out.key("encryption_key", encryption_key);
}

fn register_issuer(out: &mut Fields, issuer: &RegisterIssuer) {
    let RegisterIssuer { name, party, key_label, key_id, public_key } = issuer;
    out.text("name", name);
    out.text("party", party);
    out.text("key_label", key_label);
    out.add("key_id", hex::encode(key_id));
    out.key("public_key", public_key);
}

fn issue_certificate(out: &mut Fields, issue: &IssueCertificate) {
    let IssueCertificate { profile, party, common_name, key, registered_id, dns_name } = issue;
    out.text("profile", profile);
    out.text("party", party);
    out.text("common_name", common_name);
    match key {
        Some(issue_certificate::Key::Csr(csr)) => out.csr("csr", csr),
        Some(issue_certificate::Key::Issuer(issuer)) => out.text("issuer", issuer),
        None => out.add("key", "none"),
    }
    out.text("registered_id", registered_id);
    out.text("dns_name", dns_name);
}

fn create_grant(out: &mut Fields, grant: &CreateGrant) {
    let CreateGrant { name, provisioner, eids, eins, purpose, lawful_basis, expires } = grant;
    out.text("name", name);
    out.text("provisioner", provisioner);
    out.list("eids", eids.iter().map(|eid| printable(eid)));
    out.list("eins", eins.iter().map(|ein| printable(ein)));
    out.text("purpose", purpose);
    out.text("lawful_basis", lawful_basis);
    out.time("grant_expires", expires.as_ref());
}

fn role_name(role: i32) -> String {
    proto::options::v1::Role::try_from(role)
        .ok()
        .and_then(proto::domain_role)
        .map_or_else(|| format!("unknown role {role}"), |role: Role| role.as_str().to_owned())
}

#[derive(Default)]
struct Fields(Vec<Field>);

impl Fields {
    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(Field { name: name.to_owned(), value: value.into() });
    }

    fn text(&mut self, name: &str, value: &str) {
        self.add(name, if value.is_empty() { "-".to_owned() } else { printable(value) });
    }

    fn time(&mut self, name: &str, value: Option<&prost_types::Timestamp>) {
        self.add(name, value.map_or_else(|| "-".to_owned(), |at| clock::from_wire(at).to_string()));
    }

    fn list(&mut self, name: &str, values: impl Iterator<Item = String>) {
        let values: Vec<_> = values.collect();
        self.add(name, if values.is_empty() { "-".to_owned() } else { values.join(", ") });
    }

    fn key(&mut self, name: &str, spki: &[u8]) {
        self.add(name, describe_key(spki));
    }

    fn csr(&mut self, name: &str, der: &[u8]) {
        self.add(name, describe_csr(der));
    }
}

fn describe_key(spki: &[u8]) -> String {
    if spki.is_empty() {
        return "-".to_owned();
    }
    let kind = if let Ok(key) = pki::TransportPublicKey::parse(spki) {
        format!("RSA-{}", key.modulus().len() * 8)
    } else if let Ok(key) = pki::PublicKey::parse(spki, KnownKeys::Allow) {
        if key.is_known() { "P-256, PRIVATE KEY IS PUBLISHED".to_owned() } else { "P-256".to_owned() }
    } else {
        "NOT A KEY THIS TOOL KNOWS".to_owned()
    };
    format!("{kind}, SHA-256 of SubjectPublicKeyInfo {}", hex::encode(Sha256::digest(spki)))
}

fn describe_csr(der: &[u8]) -> String {
    if der.is_empty() {
        return "-".to_owned();
    }
    match pki::csr::VerifiedCsr::parse(der, KnownKeys::Allow) {
        Ok(csr) => {
            let subject = csr.subject();
            let subject: Vec<_> = [
                ("CN", &subject.common_name),
                ("O", &subject.organization),
                ("OU", &subject.organizational_unit),
            ]
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", printable(value))))
            .collect();
            format!("request of {}, signature valid; key {}", subject.join(", "), describe_key(csr.spki()))
        }
        Err(error) => format!("REQUEST NOT VALID ({error}), SHA-256 {}", hex::encode(Sha256::digest(der))),
    }
}
