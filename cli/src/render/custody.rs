//! Operations on masters and transport keys, field by field.

use proto::v1::{
    ExportKeyset, RegisterImportKey, RegisterMaster, RegisterOceKey, RegisterStorageKeys,
    RegisterTransportKey, RetireTransportKey, TokenKey, register_transport_key::Key,
};

use super::Fields;
use crate::output::printable;

pub(super) fn register_master(out: &mut Fields, master: &RegisterMaster) {
    let RegisterMaster { generation, name, schemes, key, backup } = master;
    out.add("generation", generation.to_string());
    out.text("name", name);
    out.list("schemes", schemes.iter().map(|scheme| printable(scheme)));
    token_key(out, key.as_ref());
    out.text("backup", backup);
    out.add(
        "effect",
        if schemes.iter().any(|scheme| scheme == "chancery-cmac-v1") {
            "keysets made from now on are derived from it"
        } else {
            "keysets that are imported with these schemes may be derived from it"
        },
    );
}

pub(super) fn register_storage_keys(out: &mut Fields, keys: &RegisterStorageKeys) {
    let RegisterStorageKeys { epoch, kek, blob_mac, backup } = keys;
    out.add("epoch", epoch.to_string());
    token_key(out, kek.as_ref());
    token_key(out, blob_mac.as_ref());
    out.text("backup", backup);
    out.add("effect", "random keys made from now on are stored under these; without them they are lost");
}

pub(super) fn register_oce_key(out: &mut Fields, key: &RegisterOceKey) {
    let RegisterOceKey { name, party, agreement, seed, backup } = key;
    out.text("name", name);
    out.text("party", party);
    token_key(out, agreement.as_ref());
    token_key(out, seed.as_ref());
    out.text("backup", backup);
    out.add("effect", "the party opens sessions of SCP11 with it, where a grant allows them");
}

pub(super) fn register_transport_key(out: &mut Fields, key: &RegisterTransportKey) {
    let RegisterTransportKey { party, name, key, expires, backup } = key;
    out.text("party", party);
    out.text("name", name);
    match key {
        Some(Key::Imported(key)) => token_key(out, Some(key)),
        Some(Key::RsaPublicKey(spki)) => out.key("rsa_public_key", spki),
        None => out.add("key", "none"),
    }
    out.time("expires", expires.as_ref());
    out.text("backup", backup);
    out.add("effect", "keys leave for the party under it; an older version of this name is followed by it");
}

pub(super) fn retire_transport_key(out: &mut Fields, key: &RetireTransportKey) {
    let RetireTransportKey { party, name, number } = key;
    out.text("party", party);
    out.text("name", name);
    out.add("version", number.to_string());
    out.add("effect", "nothing leaves under it any more, for good");
}

pub(super) fn register_import_key(out: &mut Fields, key: &RegisterImportKey) {
    let RegisterImportKey { key, backup } = key;
    token_key(out, key.as_ref());
    out.text("backup", backup);
    out.add("effect", "keys are encrypted to it on their way in");
}

pub(super) fn export_keyset(out: &mut Fields, export: &ExportKeyset) {
    let ExportKeyset { eid, keyset, party, transport_key } = export;
    out.text("eid", eid);
    out.add(
        "keyset",
        keyset.as_ref().map_or_else(
            || "NO KEYSET NAMED".to_owned(),
            |name| {
                format!(
                    "{:#04x} of security domain {}, protocol {}",
                    name.key_version_number, name.security_domain, name.protocol
                )
            },
        ),
    );
    out.text("party", party);
    out.text("transport_key", transport_key);
    out.add(
        "effect",
        "THE STATIC KEYS OF THE DEVICE LEAVE for this party, which can then do all that we can",
    );
}

fn token_key(out: &mut Fields, key: Option<&TokenKey>) {
    let Some(TokenKey { label, id, check_value, public_key, key_check_value }) = key else {
        out.add("key", "none");
        return;
    };
    let hex = |bytes: &[u8]| if bytes.is_empty() { "-".to_owned() } else { hex::encode(bytes) };
    out.text("key_label", label);
    out.add("key_id", hex(id));
    out.add("check_value", hex(check_value));
    out.key("public_key", public_key);
    out.add("key_check_value", hex(key_check_value));
}
