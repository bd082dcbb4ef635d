//! An operation in full, for the person who signs it: every field, from the bytes, in one order.

mod anchor;
mod custody;
mod keyset;

use domain::Role;
use pki::KnownKeys;
use proto::v1::operation::Kind;
use proto::v1::{
    Accreditation, CertificateToRevoke, ChangeStanding, CreateGrant, EnrolParty, EnrolPerson,
    IssueCertificate, Operation, RecordAccreditation, RegisterIssuer, RegisterResponder, RegisterRspKey,
    ReleaseCertificate, RenewCredential, RestoreDevice, RevokeCertificate, RevokeCertificates,
    RollBackRotation, StartRotation, issue_certificate,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::clock;
use crate::grant;
use crate::output::{fields, printable};
use crate::rotation::terms;

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
        Kind::RegisterResponder(_) => "register_responder",
        Kind::IssueCertificate(_) => "issue_certificate",
        Kind::CreateGrant(_) => "create_grant",
        Kind::RestoreDevice(_) => "restore_device",
        Kind::StartRotation(_) => "start_rotation",
        Kind::RollBackRotation(_) => "roll_back_rotation",
        Kind::RevokeCertificate(_) => "revoke_certificate",
        Kind::RevokeCertificates(_) => "revoke_certificates",
        Kind::ChangeStanding(_) => "change_standing",
        Kind::RecordAccreditation(_) => "record_accreditation",
        Kind::RegisterStorageKeys(_) => "register_storage_keys",
        Kind::ReleaseCertificate(_) => "release_certificate",
        Kind::RegisterOceKey(_) => "register_oce_key",
        Kind::RegisterAnchor(_) => "register_anchor",
        Kind::RetireAnchor(_) => "retire_anchor",
        Kind::ImportCertificate(_) => "import_certificate",
        Kind::RegisterMaster(_) => "register_master",
        Kind::RegisterTransportKey(_) => "register_transport_key",
        Kind::RetireTransportKey(_) => "retire_transport_key",
        Kind::RegisterImportKey(_) => "register_import_key",
        Kind::ExportKeyset(_) => "export_keyset",
        Kind::RenewCredential(_) => "renew_credential",
        Kind::RegisterRspKey(_) => "register_rsp_key",
        Kind::ChangeKeysetState(_) => "change_keyset_state",
        Kind::MarkCompromised(_) => "mark_compromised",
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
        Some(Kind::RegisterResponder(responder)) => register_responder(&mut out, responder),
        Some(Kind::IssueCertificate(issue)) => issue_certificate(&mut out, issue),
        Some(Kind::CreateGrant(grant)) => create_grant(&mut out, grant),
        Some(Kind::RestoreDevice(restore)) => restore_device(&mut out, restore),
        Some(Kind::StartRotation(start)) => start_rotation(&mut out, start),
        Some(Kind::RollBackRotation(roll_back)) => roll_back_rotation(&mut out, roll_back),
        Some(Kind::RevokeCertificate(revoke)) => revoke_certificate(&mut out, revoke),
        Some(Kind::RevokeCertificates(revoke)) => revoke_certificates(&mut out, revoke),
        Some(Kind::ChangeStanding(change)) => change_standing(&mut out, change),
        Some(Kind::RegisterStorageKeys(keys)) => custody::register_storage_keys(&mut out, keys),
        Some(Kind::ReleaseCertificate(release)) => release_certificate(&mut out, release),
        Some(Kind::RegisterOceKey(key)) => custody::register_oce_key(&mut out, key),
        Some(Kind::RegisterAnchor(anchor)) => anchor::register_anchor(&mut out, anchor),
        Some(Kind::RetireAnchor(retire)) => anchor::retire_anchor(&mut out, retire),
        Some(Kind::ImportCertificate(import)) => anchor::import_certificate(&mut out, import),
        Some(Kind::RecordAccreditation(record)) => record_accreditation(&mut out, record),
        Some(Kind::RegisterMaster(master)) => custody::register_master(&mut out, master),
        Some(Kind::RegisterTransportKey(key)) => custody::register_transport_key(&mut out, key),
        Some(Kind::RetireTransportKey(key)) => custody::retire_transport_key(&mut out, key),
        Some(Kind::RegisterImportKey(key)) => custody::register_import_key(&mut out, key),
        Some(Kind::ExportKeyset(export)) => custody::export_keyset(&mut out, export),
        Some(Kind::RenewCredential(renew)) => renew_credential(&mut out, renew),
        Some(Kind::RegisterRspKey(key)) => register_rsp_key(&mut out, key),
        Some(Kind::ChangeKeysetState(change)) => keyset::change_keyset_state(&mut out, change),
        Some(Kind::MarkCompromised(mark)) => keyset::mark_compromised(&mut out, mark),
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
        accreditation,
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
    if let Some(evidence) = accreditation {
        show_accreditation(out, evidence);
    }
}

fn record_accreditation(out: &mut Fields, record: &RecordAccreditation) {
    let RecordAccreditation { party, accreditation } = record;
    out.text("party", party);
    match accreditation {
        Some(evidence) => show_accreditation(out, evidence),
        None => out.add("accreditation", "none"),
    }
}

fn show_accreditation(out: &mut Fields, evidence: &Accreditation) {
    let Accreditation { reference, expires } = evidence;
    out.text("accreditation", reference);
    out.time("accreditation_expires", expires.as_ref());
}

fn register_issuer(out: &mut Fields, issuer: &RegisterIssuer) {
    let RegisterIssuer { name, party, key_label, key_id, public_key, certificate, list, without_list } =
        issuer;
    out.text("name", name);
    out.text("party", party);
    out.text("key_label", key_label);
    out.add("key_id", hex::encode(key_id));
    out.key("public_key", public_key);
    out.add(
        "key_origin",
        if key_label.starts_with("chancery/adopted-issuer") {
            "OTHER SOFTWARE made this key: the ceremony's output says what the token tells of it"
        } else {
            "a ceremony made it in the token"
        },
    );
    out.certificate("certificate", certificate);
    match (&list[..], *without_list) {
        ([], true) => out.add("list", "none: it is said that this issuer never signed a revocation list"),
        ([], false) => out.add("list", "none"),
        (list, _) => out.list_of("list", list),
    }
}

fn register_responder(out: &mut Fields, responder: &RegisterResponder) {
    let RegisterResponder { issuer, key_label, key_id, public_key } = responder;
    out.text("issuer", issuer);
    out.text("key_label", key_label);
    out.add("key_id", hex::encode(key_id));
    out.key("public_key", public_key);
    out.add("effect", "it signs the OCSP answers about certificates of the issuer");
}

fn register_rsp_key(out: &mut Fields, key: &RegisterRspKey) {
    let RegisterRspKey { name, party, role, key_label, key_id, public_key, server_address, registered_id } =
        key;
    out.text("name", name);
    out.text("party", party);
    out.text("role", role);
    out.text("key_label", key_label);
    out.add("key_id", hex::encode(key_id));
    out.key("public_key", public_key);
    out.text("server_address", server_address);
    out.text("registered_id", registered_id);
}

fn issue_certificate(out: &mut Fields, issue: &IssueCertificate) {
    let IssueCertificate { profile, party, common_name, key, registered_id, dns_name, renews, under } = issue;
    out.text("profile", profile);
    out.text("party", party);
    out.text("common_name", common_name);
    match key {
        Some(issue_certificate::Key::Csr(csr)) => out.csr("csr", csr),
        Some(issue_certificate::Key::Issuer(issuer)) => out.text("issuer", issuer),
        Some(issue_certificate::Key::RspKey(key)) => out.text("rsp_key", key),
        None => out.add("key", "none"),
    }
    out.text("registered_id", registered_id);
    out.text("dns_name", dns_name);
    if !renews.is_empty() {
        out.add("renews", hex::encode(renews));
    }
    if !under.is_empty() {
        out.text("under", under);
    }
}

fn create_grant(out: &mut Fields, grant: &CreateGrant) {
    let CreateGrant {
        name,
        provisioner,
        eids,
        eins,
        purpose,
        lawful_basis,
        expires,
        protocols,
        without_device_proof,
        tars,
        instructions,
        packets_per_minute,
        tls_delivery,
        key_agreement,
        revoked_certificates,
    } = grant;
    out.text("name", name);
    out.text("provisioner", provisioner);
    out.list("eids", eids.iter().map(|eid| printable(eid)));
    out.list("eins", eins.iter().map(|ein| printable(ein)));
    out.text("purpose", purpose);
    out.text("lawful_basis", lawful_basis);
    out.time("grant_expires", expires.as_ref());
    if protocols.is_empty() {
        out.add("protocols", "SCP03 only");
    } else {
        out.list("protocols", protocols.iter().map(|code| grant::protocol_words(*code)));
    }
    if *without_device_proof {
        out.add(
            "without_device_proof",
            "YES: keys leave although the device has proved nothing; each is counted",
        );
    } else {
        out.add("without_device_proof", "no: the device must prove its keys");
    }
    if *key_agreement {
        out.add("key_agreement", "YES: sessions of SCP11 may be opened");
    } else {
        out.add("key_agreement", "no: no sessions of SCP11");
    }
    out.add(
        "revoked_certificates",
        match revoked_certificates.as_str() {
            "" | "block" => "block: no downloads to eUICCs with a revoked certificate above them",
            "warn" => "WARN: downloads although a certificate above the eUICC is revoked; the SM-DP+ is told",
            _ => "ALLOW: downloads although a certificate above the eUICC is revoked",
        },
    );
    out.list("tars", tars.iter().map(hex::encode));
    out.list("instructions", instructions.iter().map(|ins| format!("{ins:02X}")));
    out.add("packets_per_minute", packets_per_minute.to_string());
    if *tls_delivery {
        out.add("tls_delivery", "YES: session keys may be answered unsealed, in the TLS channel alone");
    } else {
        out.add("tls_delivery", "no: session keys leave sealed to the provisioner's key");
    }
}

fn restore_device(out: &mut Fields, restore: &RestoreDevice) {
    let RestoreDevice { eid } = restore;
    out.text("eid", eid);
    out.add("effect", "the freeze is lifted; keys of the device may leave again");
}

fn start_rotation(out: &mut Fields, start: &StartRotation) {
    let StartRotation { terms } = start;
    match terms {
        Some(terms) => out.0.extend(terms::term_fields(terms)),
        None => out.add("terms", "none"),
    }
}

fn release_certificate(out: &mut Fields, release: &ReleaseCertificate) {
    let ReleaseCertificate { serial_number, issuer } = release;
    out.add("serial_number", hex::encode(serial_number));
    out.text("issuer", issuer);
    out.add("effect", "in force again; the next revocation list (CRL) does not show it");
}

fn roll_back_rotation(out: &mut Fields, roll_back: &RollBackRotation) {
    let RollBackRotation { name } = roll_back;
    out.text("name", name);
    out.add("effect", "its devices go back to their old keysets, where these have not ended");
}

fn revoke_certificate(out: &mut Fields, revoke: &RevokeCertificate) {
    let RevokeCertificate { serial_number, reason, invalid_since, issuer } = revoke;
    out.add(
        "serial_number",
        if serial_number.is_empty() { "-".to_owned() } else { hex::encode(serial_number) },
    );
    out.text("issuer", issuer);
    out.text("revocation_reason", reason);
    if let Some(since) = invalid_since {
        out.time("invalid_since", Some(since));
    }
    out.add("effect", "revoked for good; the next revocation list (CRL) shows it");
}

fn revoke_certificates(out: &mut Fields, revoke: &RevokeCertificates) {
    let RevokeCertificates { certificates, reason, invalid_since } = revoke;
    out.text("revocation_reason", reason);
    if let Some(since) = invalid_since {
        out.time("invalid_since", Some(since));
    }
    out.add("count", certificates.len().to_string());
    for CertificateToRevoke { serial_number, holder, profile, replacement, issuer } in certificates {
        let stays = match &replacement[..] {
            [] => "NOTHING stays in force in its place".to_owned(),
            serial => format!("{} stays in force", hex::encode(serial)),
        };
        let (serial, profile, holder) = (hex::encode(serial_number), printable(profile), printable(holder));
        let by = if issuer.is_empty() { String::new() } else { format!(" by {}", printable(issuer)) };
        out.add("certificate", format!("{serial}, {profile} of {holder}{by}: {stays}"));
    }
    out.add("effect", "all of them are revoked for good; the next revocation lists (CRL) show it");
}

fn change_standing(out: &mut Fields, change: &ChangeStanding) {
    let ChangeStanding { name, suspended } = change;
    out.text("name", name);
    out.add("suspended", suspended.to_string());
    out.add(
        "effect",
        if *suspended {
            "each of its calls is refused until it is restored"
        } else {
            "its calls are served again"
        },
    );
}

fn renew_credential(out: &mut Fields, renew: &RenewCredential) {
    let RenewCredential { name, tls_csr, ends_others } = renew;
    out.text("name", name);
    out.csr("tls_csr", tls_csr);
    out.add("ends_others", ends_others.to_string());
    out.add(
        "effect",
        if *ends_others {
            "it calls with this key only: its earlier credentials end at once"
        } else {
            "it calls with this key too; its earlier credentials stay until they end"
        },
    );
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

    /// A certificate: whose it is and until when, and its digest.
    fn certificate(&mut self, name: &str, der: &[u8]) {
        let text = match der {
            [] => "none yet".to_owned(),
            der => match pki::Certificate::from_der(der) {
                Ok(certificate) => format!(
                    "{}, {} to {}, SHA-256 {}",
                    printable(&certificate.common_name().unwrap_or_else(|| "no common name".to_owned())),
                    certificate.not_before(),
                    certificate.not_after(),
                    hex::encode(certificate.digest())
                ),
                Err(error) => format!("NO CERTIFICATE: {error}"),
            },
        };
        self.add(name, text);
    }

    /// A revocation list: its number, its age, how many it revokes.
    fn list_of(&mut self, name: &str, der: &[u8]) {
        let text = match pki::crl::Crl::parse(der) {
            Ok(list) => format!(
                "number {}, of {}, {} certificates revoked, SHA-256 {}",
                list.number().map_or_else(|| "of more than 64 bits".to_owned(), |number| number.to_string()),
                list.this_update(),
                list.revoked().len(),
                hex::encode(list.digest())
            ),
            Err(error) => format!("NO REVOCATION LIST: {error}"),
        };
        self.add(name, text);
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
        let curve = key.curve();
        if key.is_known() { format!("{curve}, PRIVATE KEY IS PUBLISHED") } else { curve.to_string() }
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

#[cfg(test)]
mod tests {
    use proto::v1::{KeysetName, RotationTerms};

    use super::*;

    fn shown(kind: Kind) -> String {
        human(&operation_fields(&Operation { kind: Some(kind), ..Operation::default() }))
    }

    #[test]
    fn a_key_is_shown_with_its_curve() {
        for (curve, pkcs8) in [("P-256", pki::generate_p256()), ("P-384", pki::generate_p384())] {
            let key = pki::PrivateKey::from_pkcs8(&pkcs8.unwrap()).unwrap();
            assert!(describe_key(&key.spki()).starts_with(&format!("{curve}, SHA-256 of")));
        }
        // RFC 5639 §3.4: the base point; its private key is 1.
        let base = hex::decode(
            "048bd2aeb9cb7e57cb2c4b482ffc81b7afb9de27e1e3bd23c23a4453bd9ace3262547ef835c3dac4fd97f8461a14611dc9c27745132ded8e545c1d54c72f046997",
        );
        let spki = pki::ec_spki(domain::Curve::BrainpoolP256r1, &base.unwrap());
        assert!(describe_key(&spki).starts_with("brainpoolP256r1, PRIVATE KEY IS PUBLISHED"));
    }

    #[test]
    fn a_rotation_is_shown_with_each_of_its_terms_in_words() {
        let terms = RotationTerms {
            name: "aes-256".to_owned(),
            provisioner: "otaco".to_owned(),
            eids: Vec::new(),
            eins: vec!["89049032".to_owned()],
            from: Some(KeysetName { security_domain: 1, protocol: 3, key_version_number: 0x30 }),
            to_key_version_number: 0x31,
            to_key_bits: 256,
            dialect: 1,
            stages: vec![1, 100],
            overlap_seconds: 7 * 86_400,
            halt_failures_percent: 5,
            channel: None,
            deletes_old_keys: false,
        };
        let text = shown(Kind::StartRotation(StartRotation { terms: Some(terms.clone()) }));
        for words in [
            "start_rotation",
            "aes-256",
            "otaco",
            "every device of 89049032",
            "SCP03 keyset 0x30 of the ISD-R",
            "key version 0x31, AES-256",
            "GP Card Specification 2.3",
            "1 %, then 100 %",
            "7 days",
            "more than 5 %",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        let strange = RotationTerms { dialect: 9, to_key_bits: 64, from: None, ..terms };
        let text = shown(Kind::StartRotation(StartRotation { terms: Some(strange) }));
        for words in ["UNKNOWN DIALECT 9", "UNKNOWN KEY LENGTH 64", "NO KEYSET NAMED"] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert!(shown(Kind::StartRotation(StartRotation { terms: None })).contains("terms      none"));
    }

    #[test]
    fn what_a_grant_allows_beyond_the_strict_default_stands_out() {
        let text = shown(Kind::CreateGrant(CreateGrant::default()));
        for words in ["SCP03 only", "must prove its keys", "leave sealed"] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        let text = shown(Kind::CreateGrant(CreateGrant {
            protocols: vec![0x03, 0x80, 7],
            without_device_proof: true,
            tars: vec![vec![0xb0, 0x00, 0x10]],
            instructions: vec![0xf2],
            packets_per_minute: 60,
            tls_delivery: true,
            key_agreement: true,
            revoked_certificates: "warn".to_owned(),
            ..CreateGrant::default()
        }));
        for words in [
            "SCP03, SCP80 (OTA over SMS), UNKNOWN PROTOCOL 7",
            "YES: keys leave although",
            "b00010",
            "F2",
            "60",
            "YES: session keys may be answered unsealed",
            "YES: sessions of SCP11",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn the_other_protected_deeds_say_on_what_and_to_what_effect() {
        let eid = "89049032123451234512345678901235";
        let text = shown(Kind::RestoreDevice(RestoreDevice { eid: eid.to_owned() }));
        assert!(text.contains("restore_device") && text.contains(eid) && text.contains("freeze is lifted"));
        let text = shown(Kind::RevokeCertificate(RevokeCertificate {
            serial_number: vec![0x0a, 0x1b],
            reason: "key-compromise".to_owned(),
            invalid_since: None,
            issuer: "ci-2019".to_owned(),
        }));
        assert!(text.contains("0a1b") && text.contains("key-compromise") && text.contains("for good"));
        let text = shown(Kind::RollBackRotation(RollBackRotation { name: "r1".to_owned() }));
        assert!(text.contains("roll_back_rotation") && text.contains("old keysets"));
        let suspend =
            |suspended| shown(Kind::ChangeStanding(ChangeStanding { name: "otaco".to_owned(), suspended }));
        assert!(suspend(true).contains("is refused") && suspend(false).contains("served again"));
    }
}
