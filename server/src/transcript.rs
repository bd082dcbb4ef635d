//! The ceremony's transcript: what was made, by whom it may be used, signed by the log key
//! (`docs/formats/ceremony-transcript.md`).

use std::fmt::Write as _;

use audit::signature_line;
use ca::KeyRegistration;
use hsm::{KeyCheck, Token};
use sha2::{Digest, Sha256};

use crate::status::ServiceError;
use crate::tokens::own_call;

/// A transcript being written, line by line.
pub(crate) struct Transcript {
    text: String,
}

impl Transcript {
    /// Begins with the origin, as every note of ours does.
    pub(crate) fn begin(origin: &str) -> Self {
        Self { text: format!("{origin}\nceremony transcript v1\n") }
    }

    /// One fact: a name and a value without line breaks.
    pub(crate) fn line(&mut self, name: &str, value: &str) {
        let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}: {value}");
    }

    /// A key that was made.
    pub(crate) fn key(&mut self, key: &KeyRegistration, template: &[(String, String)]) {
        let proof = match &key.key.check {
            KeyCheck::PublicKey(spki) => format!("spki-sha256 {}", hex::encode(Sha256::digest(spki))),
            KeyCheck::CheckValue(value) => format!("check-value {}", hex::encode(value)),
        };
        self.line(
            "key",
            &format!("{} on {} id {} {proof}", key.key.key.label, key.token, hex::encode(key.key.key.id)),
        );
        let flags: Vec<String> = template.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.line("template", &flags.join(" "));
    }

    /// Signs it with the log key: a signed note (C2SP) whose text is the transcript.
    pub(crate) async fn sign(
        self,
        token: &Token,
        signer: &KeyRegistration,
        key_name: &str,
        public_key: &[u8; 32],
    ) -> Result<Vec<u8>, ServiceError> {
        let message = self.text.clone().into_bytes();
        let signature = token.sign_message(&signer.key.key, message, own_call(hsm::Priority::Normal)).await?;
        Ok(format!("{}\n{}", self.text, signature_line(key_name, public_key, &signature)).into_bytes())
    }
}
