//! Facts: the typed values an entry may hold beside its header. There is no free text.

use std::borrow::Cow;
use std::fmt;

use domain::{Eid, Timestamp};

use crate::{AuditError, Hash, Pseudonym};

/// A public name: profile, algorithm, purpose, kind of operation. One to 64 of `a-z 0-9 . _ -`, starting with a letter
/// or digit, and never nine digits in a row, so that no EID, ICCID, IMSI or number of a subscriber fits in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(Cow<'static, str>);

impl Name {
    /// A name met at run time.
    pub fn new(text: &str) -> Result<Self, AuditError> {
        if is_name(text.as_bytes()) {
            Ok(Self(Cow::Owned(text.to_owned())))
        } else {
            Err(AuditError::Name(text.to_owned()))
        }
    }

    /// A name written in the code.
    ///
    /// # Panics
    /// When the text is no name; in a `const`, at compile time.
    pub const fn fixed(text: &'static str) -> Self {
        assert!(is_name(text.as_bytes()), "not a public name");
        Self(Cow::Borrowed(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const fn is_name(text: &[u8]) -> bool {
    if text.is_empty() || text.len() > 64 || !text[0].is_ascii_digit() && !text[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    let mut digits = 0;
    while at < text.len() {
        let c = text[at];
        if !(c.is_ascii_digit() || c.is_ascii_lowercase() || c == b'.' || c == b'_' || c == b'-') {
            return false;
        }
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 8 {
            return false;
        }
        at += 1;
    }
    true
}

/// One to 64 bytes that are no secret and no EID: a serial number, a challenge, an identifier.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShortBytes(Vec<u8>);

impl ShortBytes {
    /// Checks length, and that the bytes are neither an EID in packed decimal nor nine or more digits of text.
    pub fn new(bytes: &[u8]) -> Result<Self, AuditError> {
        let is_eid = <[u8; 16]>::try_from(bytes).is_ok_and(|packed| Eid::from_bcd(packed).is_ok());
        let is_digits = bytes.len() > 8 && bytes.iter().all(u8::is_ascii_digit);
        if bytes.is_empty() || bytes.len() > 64 || is_eid || is_digits {
            return Err(AuditError::ShortBytes);
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One value of an entry. Each kind has its own form in JSON, so an entry reads back without a table.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Fact {
    /// A count, number or size: a JSON number.
    Number(u64),
    /// A SHA-256 value: `sha256:` and 64 hex digits.
    Digest(Hash),
    /// A public name: the name itself.
    Name(Name),
    /// A pseudonym: `p:` and 32 hex digits.
    Pseudonym(Pseudonym),
    /// A time: RFC 3339 in UTC with six decimals.
    Time(Timestamp),
    /// Short bytes: `x:` and hex digits.
    Bytes(ShortBytes),
}

impl Fact {
    /// A name met at run time.
    pub fn name(text: &str) -> Result<Self, AuditError> {
        Name::new(text).map(Self::Name)
    }

    /// A name written in the code.
    ///
    /// # Panics
    /// When the text is no name.
    pub const fn fixed_name(text: &'static str) -> Self {
        Self::Name(Name::fixed(text))
    }

    /// Short bytes.
    pub fn bytes(bytes: &[u8]) -> Result<Self, AuditError> {
        ShortBytes::new(bytes).map(Self::Bytes)
    }

    /// One octet of zero: for bytes that no entry may hold.
    pub fn withheld() -> Self {
        Self::Bytes(ShortBytes(vec![0]))
    }

    /// Which kind this is.
    pub const fn kind(&self) -> FactKind {
        match self {
            Self::Number(_) => FactKind::Number,
            Self::Digest(_) => FactKind::Digest,
            Self::Name(_) => FactKind::Name,
            Self::Pseudonym(_) => FactKind::Pseudonym,
            Self::Time(_) => FactKind::Time,
            Self::Bytes(_) => FactKind::Bytes,
        }
    }

    /// Appends the JSON form. No kind needs escaping.
    pub(crate) fn write(&self, out: &mut String) {
        use fmt::Write;
        let written = match self {
            Self::Number(number) => write!(out, "{number}"),
            Self::Digest(digest) => write_hex(out, "\"sha256:", digest),
            Self::Name(name) => write!(out, "\"{name}\""),
            Self::Pseudonym(pseudonym) => write_hex(out, "\"p:", pseudonym.as_bytes()),
            Self::Time(time) => write!(out, "\"{time}\""),
            Self::Bytes(bytes) => write_hex(out, "\"x:", bytes.as_bytes()),
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
    }

    pub(crate) fn read(value: &serde_json::Value) -> Option<Self> {
        if let Some(number) = value.as_u64() {
            return Some(Self::Number(number));
        }
        let text = value.as_str()?;
        if let Some(digits) = text.strip_prefix("sha256:") {
            let mut digest = [0; 32];
            return hex::decode_to_slice(digits, &mut digest).ok().map(|()| Self::Digest(digest));
        }
        if let Some(digits) = text.strip_prefix("p:") {
            return read_pseudonym(digits).map(Self::Pseudonym);
        }
        if let Some(digits) = text.strip_prefix("x:") {
            return Self::bytes(&hex::decode(digits).ok()?).ok();
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            return Some(Self::Time(time));
        }
        Self::name(text).ok()
    }
}

/// Appends an opening, at most 64 bytes in hex, and the closing quote. Every entry has several of these, and all are
/// written by the one thread of the committer: no string is made for each.
fn write_hex(out: &mut String, opening: &str, bytes: &[u8]) -> fmt::Result {
    let mut digits = [0; 128];
    let digits = digits.get_mut(..2 * bytes.len()).ok_or(fmt::Error)?;
    hex::encode_to_slice(bytes, digits).map_err(|_| fmt::Error)?;
    out.push_str(opening);
    out.push_str(std::str::from_utf8(digits).map_err(|_| fmt::Error)?);
    out.push('"');
    Ok(())
}

pub(crate) fn read_pseudonym(digits: &str) -> Option<Pseudonym> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(digits, &mut bytes).ok().map(|()| Pseudonym::from_bytes(bytes))
}

/// The kinds of facts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FactKind {
    /// [`Fact::Number`].
    Number,
    /// [`Fact::Digest`].
    Digest,
    /// [`Fact::Name`].
    Name,
    /// [`Fact::Pseudonym`].
    Pseudonym,
    /// [`Fact::Time`].
    Time,
    /// [`Fact::Bytes`].
    Bytes,
}

impl FactKind {
    /// The word of the field table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Digest => "digest",
            Self::Name => "name",
            Self::Pseudonym => "pseudonym",
            Self::Time => "time",
            Self::Bytes => "bytes",
        }
    }
}

/// A row of the field table.
#[derive(Clone, Copy, Debug)]
pub struct FactField {
    /// The name in the entry.
    pub name: &'static str,
    /// The one kind of value it has.
    pub kind: FactKind,
    /// What it means.
    pub meaning: &'static str,
}

const fn row(name: &'static str, kind: FactKind, meaning: &'static str) -> FactField {
    FactField { name, kind, meaning }
}

/// The field table: every fact an entry may hold, in alphabetical order. `docs/formats/log-entry.md` prints it.
pub const FACT_FIELDS: &[FactField] = &[
    row("accepted", FactKind::Number, "items accepted"),
    row("accreditation", FactKind::Digest, "reference of an accreditation's evidence"),
    row("alert", FactKind::Name, "TLS alert sent"),
    row("algorithm", FactKind::Name, "algorithm of the keys or the signature"),
    row("anchor", FactKind::Name, "name of a certificate issuer elsewhere"),
    row("approvals", FactKind::Number, "distinct persons who signed the operation, the requester included"),
    row("basis", FactKind::Digest, "reference of the lawful basis or consent"),
    row("build", FactKind::Name, "version of the software"),
    row("bytes", FactKind::Number, "size in bytes"),
    row("card_challenge", FactKind::Bytes, "challenge of the card"),
    row("cause", FactKind::Name, "class of the error behind a failure"),
    row("certificate", FactKind::Digest, "certificate, DER"),
    row("certificate_policy", FactKind::Name, "certificate policy and practice statement in force"),
    row(
        "certificate_role",
        FactKind::Name,
        "what a certificate is for, where its profile is of another name",
    ),
    row("checkpoint", FactKind::Digest, "checkpoint file"),
    row("chunk", FactKind::Number, "number of the chunk in its order, from 0"),
    row("commands", FactKind::Number, "commands in a packet or script"),
    row("configuration", FactKind::Digest, "configuration in force"),
    row("confirmed", FactKind::Number, "devices that proved their new keyset"),
    row("count", FactKind::Number, "how many"),
    row("counter", FactKind::Number, "counter value of what was signed or sent"),
    row("crl", FactKind::Digest, "certificate revocation list, DER"),
    row("csr", FactKind::Digest, "certification request, DER"),
    row("delivered_under", FactKind::Digest, "key under which keys left"),
    row("delivery", FactKind::Name, "how keys left, where not sealed to the caller's key"),
    row("deny_list", FactKind::Digest, "lines of a deny list"),
    row("device", FactKind::Pseudonym, "device, where the object is something else"),
    row("devices", FactKind::Number, "number of devices"),
    row("effective_strength", FactKind::Number, "strength of the keys in bits"),
    row("encryption_key", FactKind::Digest, "SubjectPublicKeyInfo of a party's encryption key"),
    row("entry", FactKind::Number, "index of an earlier entry that this one refers to"),
    row("epoch", FactKind::Number, "epoch of the log or of a key-encryption key"),
    row("expires", FactKind::Time, "end of validity"),
    row("extra", FactKind::Number, "keys that a card names and the records do not"),
    row("failed", FactKind::Number, "devices that failed"),
    row("first_line", FactKind::Number, "first line of a part of an order"),
    row("format", FactKind::Name, "form in which keys leave"),
    row("generation", FactKind::Number, "generation of the master"),
    row("grant", FactKind::Bytes, "identifier of the grant"),
    row("group", FactKind::Name, "TLS key-exchange group"),
    row("host_challenge", FactKind::Bytes, "challenge of the host"),
    row("instructions", FactKind::Number, "instruction bytes a grant names"),
    row("invalid_since", FactKind::Time, "since when the key of a revoked certificate may be in other hands"),
    row("issuer", FactKind::Name, "name of the issuer in the authority"),
    row("issuer_key", FactKind::Digest, "SubjectPublicKeyInfo of the issuer"),
    row("k", FactKind::Number, "distinct persons who must sign, the requester included"),
    row("kept", FactKind::Number, "devices whose old keyset had ended, which keep the new one"),
    row(
        "key",
        FactKind::Digest,
        "SubjectPublicKeyInfo: the approval key in operation entries, else the subject's key",
    ),
    row("key_agreement", FactKind::Number, "1: the grant allows sessions of SCP11"),
    row("key_pairs", FactKind::Number, "key pairs made for devices"),
    row(
        "key_source",
        FactKind::Name,
        "where the keys come from: `derived` from a master, `random` of the token, `imported` from outside",
    ),
    row("kind", FactKind::Name, "kind of the operation or of the object"),
    row("kvn", FactKind::Number, "key version number"),
    row("last_line", FactKind::Number, "last line of a part of an order"),
    row("lease", FactKind::Bytes, "identifier of a lease"),
    row("leases", FactKind::Number, "how often the item was leased"),
    row("level", FactKind::Number, "release level"),
    row("line", FactKind::Number, "line of the order"),
    row("lines", FactKind::Number, "lines in a part of an order"),
    row("list", FactKind::Name, "revocation list other than the issuer's full one"),
    row(
        "lists_required",
        FactKind::Number,
        "1: nothing under the anchor is accepted without a current revocation list",
    ),
    row("method", FactKind::Name, "call, in lower case with dots"),
    row("missing", FactKind::Number, "keys that the records name and a card does not"),
    row("mode", FactKind::Name, "mode of the keyset or of the protocol"),
    row("node", FactKind::Name, "node of the authority"),
    row("not_after", FactKind::Time, "end of a certificate's validity"),
    row("not_before", FactKind::Time, "begin of validity"),
    row("number", FactKind::Number, "number of the certificate revocation list"),
    row("old_kvn", FactKind::Number, "key version number of the keyset that is replaced"),
    row("one_time_key", FactKind::Digest, "one-time public key of an eUICC, uncompressed point"),
    row("operation", FactKind::Digest, "canonical bytes of the operation"),
    row("order", FactKind::Pseudonym, "order, where the object is something else"),
    row("output", FactKind::Digest, "output file"),
    row("packet", FactKind::Digest, "secured packet, from CPL on"),
    row(
        "packets_per_minute",
        FactKind::Number,
        "most packets and scripts a minute for one device under a grant",
    ),
    row("party", FactKind::Pseudonym, "party, where the object is something else"),
    row("person", FactKind::Pseudonym, "person, where the object is something else"),
    row("policy", FactKind::Number, "version of the policy that decided"),
    row("principal", FactKind::Pseudonym, "credential, where the object is something else"),
    row("profile", FactKind::Name, "certificate profile"),
    row("profile_rules", FactKind::Digest, "rules of the certificate profile, as rendered"),
    row("protocol", FactKind::Name, "secure-channel protocol"),
    row("protocols", FactKind::Bytes, "codes of the protocols a grant is for"),
    row("purpose", FactKind::Name, "purpose of use"),
    row("quota", FactKind::Number, "number of devices a party may order"),
    row("range", FactKind::Digest, "EID range, by its digits"),
    row("ranges", FactKind::Number, "number of EID ranges"),
    row("receipt", FactKind::Digest, "text of an order's receipt"),
    row("record", FactKind::Name, "kind of record that was read"),
    row("reference", FactKind::Digest, "the report or case that a person refers to"),
    row("refused", FactKind::Number, "items refused"),
    row("request", FactKind::Digest, "request bytes"),
    row("result", FactKind::Name, "what became of the item"),
    row("revocation_policy", FactKind::Name, "what a grant does about revoked certificates"),
    row("revocation_reason", FactKind::Name, "why the certificate was revoked (RFC 5280 CRLReason)"),
    row("revoked_certificates", FactKind::Number, "revoked certificates in a chain that was accepted"),
    row("role", FactKind::Name, "role given to the object"),
    row("root", FactKind::Digest, "root of the tree"),
    row("rotation", FactKind::Digest, "name of the rotation"),
    row("scheme", FactKind::Name, "key derivation scheme"),
    row("security_domain", FactKind::Name, "security domain on the card"),
    row("security_level", FactKind::Number, "security level of the channel, P1 of EXTERNAL AUTHENTICATE"),
    row("sequence_counter", FactKind::Number, "sequence counter of the card"),
    row("serial", FactKind::Bytes, "certificate serial number"),
    row("signature", FactKind::Digest, "approval signature, DER"),
    row("size", FactKind::Number, "size of the tree"),
    row("snapshot", FactKind::Digest, "state snapshot"),
    row("stage", FactKind::Number, "stage of a rotation, from 0"),
    row("state", FactKind::Name, "new state of the object"),
    row("tar", FactKind::Bytes, "toolkit application reference of a packet"),
    row("tars", FactKind::Number, "toolkit application references a grant names"),
    row("tbs", FactKind::Digest, "the exact bytes given to the token to sign"),
    row("tls_delivery", FactKind::Number, "1: the grant allows unsealed keys in the TLS channel"),
    row("token", FactKind::Name, "configured name of the token"),
    row("transaction", FactKind::Bytes, "identifier of an RSP transaction"),
    row("transcript", FactKind::Digest, "ceremony transcript"),
    row(
        "transport_key",
        FactKind::Digest,
        "SubjectPublicKeyInfo of a party's transport key; of an AES key label, 00 and id on the token",
    ),
    row("version", FactKind::Number, "version of the key"),
    row(
        "without_device_proof",
        FactKind::Number,
        "1: the keys left, or may leave under the grant, without a proof of the device",
    ),
    row("worker", FactKind::Number, "number of the token worker"),
    row("wrong", FactKind::Number, "keys that are of another kind or length on a card"),
];

pub(crate) fn field(name: &str) -> Option<&'static FactField> {
    FACT_FIELDS.binary_search_by(|row| row.name.cmp(name)).ok().map(|at| &FACT_FIELDS[at])
}
