//! Operations on certificate issuers elsewhere.

use pki::Certificate;
use proto::v1::{ImportCertificate, RegisterAnchor, RetireAnchor, import_certificate};

use super::Fields;
use crate::output::printable;

pub(super) fn register_anchor(out: &mut Fields, anchor: &RegisterAnchor) {
    let RegisterAnchor { name, certificate, eins, lists_required } = anchor;
    out.text("name", name);
    show_certificate(out, certificate);
    out.list("eins", eins.iter().map(|ein| printable(ein)));
    out.add(
        "lists_required",
        if *lists_required {
            "yes: nothing under it is accepted without a current revocation list"
        } else {
            "NO: what is under it is accepted without a current revocation list"
        },
    );
    out.add("effect", "eUICCs of these ranges are believed when its manufacturers vouch for them");
}

pub(super) fn retire_anchor(out: &mut Fields, retire: &RetireAnchor) {
    let RetireAnchor { name } = retire;
    out.text("name", name);
    out.add("effect", "nothing under it is accepted any more, for good");
}

pub(super) fn import_certificate(out: &mut Fields, import: &ImportCertificate) {
    let ImportCertificate { certificate, intermediates, anchor, party, key } = import;
    out.text("anchor", anchor);
    out.text("party", party);
    match key {
        Some(import_certificate::Key::RspKey(key)) => out.text("rsp_key", key),
        Some(import_certificate::Key::Issuer(issuer)) => out.text("issuer", issuer),
        None => out.add("key", "none"),
    }
    show_certificate(out, certificate);
    out.add("intermediates", intermediates.len().to_string());
}

fn show_certificate(out: &mut Fields, der: &[u8]) {
    let Ok(certificate) = Certificate::from_der(der) else {
        return out.add("certificate", "UNREADABLE");
    };
    out.add("common_name", printable(&certificate.common_name().unwrap_or_default()));
    out.add("organization", printable(&certificate.organization().unwrap_or_default()));
    out.add("serial_number", certificate.serial().to_string());
    out.add("key_identifier", hex::encode(certificate.subject_key_identifier().unwrap_or_default()));
    out.add("not_after", certificate.not_after().to_string());
    out.add("certificate_sha256", hex::encode(certificate.digest()));
}
