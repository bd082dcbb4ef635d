//! The master secret of a TLS connection with a card of SCP81.
//!
//! TLS makes it by HMAC over the pre-shared key, which no token does with the keys it derives: the pre-shared key is in zeroized
//! worker memory for as long as one secret takes. A token that is inside only makes none.

use keys::tls_psk::{CipherSuite, FinishedRecord, Handshake};
use serde::{Deserialize, Serialize};

use crate::error::HsmError;
use crate::session::SessionContext;
use crate::source::SourcedKeyset;
use crate::wire_keysets::WireKeysets;

/// The master secret of one connection.
#[derive(Debug, Clone)]
pub struct TlsSecretJob {
    /// The card's keyset: derived, of SCP81.
    pub keyset: SourcedKeyset,
    /// The handshake.
    pub handshake: Handshake,
    /// What the client has shown; none: released without any proof.
    pub proof: Option<FinishedRecord>,
    /// For whom and for what the secret is: [`keys::seal::tls_secret_info`] is made of it.
    pub context: SessionContext,
    /// To whom it is sealed: an uncompressed P-256 point.
    pub recipient: Box<[u8; 65]>,
}

/// What a TLS-secret job ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSecretOutcome {
    /// The client proved itself, or none was asked to. HPKE of the 48 bytes of the master secret.
    Released {
        /// HPKE encapsulated key, an uncompressed P-256 point.
        encapsulated_key: [u8; 65],
        /// The sealed secret.
        ciphertext: Vec<u8>,
    },
    /// The Finished is not that of a client with this pre-shared key in this handshake.
    NotProved,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WireTlsSecret {
    /// One.
    pub(crate) keysets: WireKeysets,
    pub(crate) suite: u16,
    pub(crate) client_random: [u8; 32],
    pub(crate) server_random: [u8; 32],
    pub(crate) hash: Vec<u8>,
    pub(crate) extended_master_secret: bool,
    /// The fragment, and whether encrypt-then-MAC was negotiated.
    pub(crate) proof: Option<(Vec<u8>, bool)>,
    pub(crate) principal: [u8; 32],
    pub(crate) request_id: Vec<u8>,
    pub(crate) recipient: Vec<u8>,
}

impl TlsSecretJob {
    pub(crate) fn wire(self) -> WireTlsSecret {
        let Handshake { suite, client_random, server_random, hash, extended_master_secret } = self.handshake;
        WireTlsSecret {
            keysets: WireKeysets::of([self.keyset]),
            suite: suite.code(),
            client_random,
            server_random,
            hash,
            extended_master_secret,
            proof: self.proof.map(|proof| (proof.fragment, proof.encrypt_then_mac)),
            principal: self.context.principal.0,
            request_id: self.context.request_id,
            recipient: self.recipient.to_vec(),
        }
    }
}

impl WireTlsSecret {
    pub(crate) fn handshake(&self) -> Result<Handshake, HsmError> {
        Ok(Handshake {
            suite: CipherSuite::from_code(self.suite)
                .ok_or_else(|| HsmError::caller("the job names no cipher suite that is served"))?,
            client_random: self.client_random,
            server_random: self.server_random,
            hash: self.hash.clone(),
            extended_master_secret: self.extended_master_secret,
        })
    }

    pub(crate) fn finished(&self) -> Option<FinishedRecord> {
        let (fragment, encrypt_then_mac) = self.proof.clone()?;
        Some(FinishedRecord { fragment, encrypt_then_mac })
    }
}
