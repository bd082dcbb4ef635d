//! Checkpoints: signed notes (C2SP signed-note, tlog-checkpoint) over size and root of the log.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use signed_note::{Note, StandardVerifier, Verifier, VerifierList};
use tlog_tiles::Checkpoint;

use crate::{AuditError, Hash};

/// Signature type of an Ed25519 note (C2SP signed-note).
const ED25519_NOTE: u8 = 0x01;

// RFC 8410 §4: SubjectPublicKeyInfo of id-Ed25519 without parameters, up to the key.
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What a checkpoint says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointBody {
    /// The log's name: `<authority>/<node>/<year>`; a schema-less URL without spaces and plus signs.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

impl CheckpointBody {
    /// The text of the note: exactly these bytes are signed.
    pub fn unsigned_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    /// Reads the text of a note. Extension lines are refused: our logs write none.
    pub fn parse(text: &[u8]) -> Result<Self, AuditError> {
        let wrong = |what: &str| AuditError::Checkpoint(what.to_owned());
        let parsed = Checkpoint::from_bytes(text).map_err(|_| wrong("malformed text"))?;
        if !parsed.extension().is_empty() {
            return Err(wrong("extension lines"));
        }
        if !signed_note::is_key_name_valid(parsed.origin()) {
            return Err(wrong("the origin holds a space or plus sign"));
        }
        let body = Self { origin: parsed.origin().to_owned(), size: parsed.size(), root: parsed.hash().0 };
        if body.unsigned_text().as_bytes() != text {
            return Err(wrong("malformed text"));
        }
        Ok(body)
    }

    /// The note: text, blank line, signature lines as [`signature_line`] makes them.
    pub fn signed(&self, signature_lines: &[String]) -> Vec<u8> {
        format!("{}\n{}", self.unsigned_text(), signature_lines.concat()).into_bytes()
    }
}

/// One signature line of a note, with its newline. The signature is made elsewhere, over the note's text.
pub fn signature_line(name: &str, public_key: &[u8; 32], signature: &[u8; 64]) -> String {
    let mut bytes = key_id(name, public_key).to_be_bytes().to_vec();
    bytes.extend_from_slice(signature);
    format!("\u{2014} {name} {}\n", BASE64.encode(bytes))
}

fn key_id(name: &str, public_key: &[u8; 32]) -> u32 {
    signed_note::key_id(name, &[&[ED25519_NOTE], public_key.as_slice()].concat())
}

/// The public key that verifies a log's checkpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogKey {
    name: String,
    public_key: [u8; 32],
}

impl LogKey {
    /// A raw Ed25519 public key under its log's name.
    pub fn new(name: &str, public_key: [u8; 32]) -> Result<Self, AuditError> {
        let key = Self { name: name.to_owned(), public_key };
        key.verifier()?;
        Ok(key)
    }

    /// Reads a verifier key: `<name>+<key id>+<base64(0x01 || public key)>`.
    pub fn from_vkey(vkey: &str) -> Result<Self, AuditError> {
        let wrong = || AuditError::VerifierKey(vkey.to_owned());
        StandardVerifier::new(vkey).map_err(|error| AuditError::VerifierKey(format!("{vkey:?}: {error}")))?;
        let (name, rest) = vkey.split_once('+').ok_or_else(wrong)?;
        let (_, key) = rest.split_once('+').ok_or_else(wrong)?;
        let bytes = BASE64.decode(key).map_err(|_| wrong())?;
        let public_key = bytes.strip_prefix(&[ED25519_NOTE]).ok_or_else(wrong)?;
        let key = Self { name: name.to_owned(), public_key: public_key.try_into().map_err(|_| wrong())? };
        if key.vkey() == vkey { Ok(key) } else { Err(wrong()) }
    }

    /// The key's name, which is the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The raw Ed25519 public key.
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The key's number in signature lines, as eight hex digits.
    pub fn id_hex(&self) -> String {
        format!("{:08x}", key_id(&self.name, &self.public_key))
    }

    /// The verifier key as text.
    pub fn vkey(&self) -> String {
        let key = [&[ED25519_NOTE], self.public_key.as_slice()].concat();
        format!("{}+{}+{}", self.name, self.id_hex(), BASE64.encode(key))
    }

    /// DER SubjectPublicKeyInfo; its SHA-256 is the fact `key` of a `log_key.added` entry.
    pub fn spki_der(&self) -> Vec<u8> {
        [ED25519_SPKI_PREFIX.as_slice(), &self.public_key].concat()
    }

    /// The key as a PEM SubjectPublicKeyInfo, for tools that know no notes.
    pub fn to_pem(&self) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64.encode(self.spki_der()))
    }

    /// Whether the signature verifies over a note's text. To be called on every signature of a token before its use.
    pub fn verifies(&self, text: &[u8], signature: &[u8; 64]) -> bool {
        self.verifier().is_ok_and(|verifier| verifier.verify(text, signature))
    }

    pub(crate) fn verifier(&self) -> Result<StandardVerifier, AuditError> {
        let vkey = self.vkey();
        StandardVerifier::new(&vkey).map_err(|error| AuditError::VerifierKey(format!("{vkey:?}: {error}")))
    }
}

/// A checkpoint whose signature was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedCheckpoint {
    /// What it says.
    pub body: CheckpointBody,
    /// The known keys that signed it; at least one, each named like the origin.
    pub signers: Vec<LogKey>,
}

/// Verifies a note under known keys. Unknown signatures are ignored, a wrong signature of a known key condemns the note,
/// and no known signature is a refusal (C2SP signed-note). A key counts only for the log whose origin it is named after.
pub fn verify_checkpoint(note: &[u8], keys: &[LogKey]) -> Result<VerifiedCheckpoint, AuditError> {
    let wrong = |what: String| AuditError::Checkpoint(what);
    let parsed = Note::from_bytes(note).map_err(|error| wrong(error.to_string()))?;
    let body = CheckpointBody::parse(parsed.text())?;
    let mut verifiers: Vec<Box<dyn Verifier>> = Vec::new();
    let mut known: Vec<&LogKey> = Vec::new();
    for key in keys.iter().filter(|key| key.name == body.origin) {
        if !known.contains(&key) {
            known.push(key);
            verifiers.push(Box::new(key.verifier()?));
        }
    }
    let (verified, _) =
        parsed.verify(&VerifierList::new(verifiers)).map_err(|error| wrong(error.to_string()))?;
    let signers = known
        .into_iter()
        .filter(|key| {
            verified.iter().any(|s| s.name() == key.name && s.id() == key_id(&key.name, &key.public_key))
        })
        .cloned()
        .collect();
    Ok(VerifiedCheckpoint { body, signers })
}
