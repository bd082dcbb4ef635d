//! What an entry is about and how it ended.

use domain::ReasonCode;

macro_rules! events {
    ($( $(#[$doc:meta])* $name:ident = $text:literal; )*) => {
        /// The kind of deed an entry records. The text is part of the stored format and never changes its meaning.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum EventType { $( $(#[$doc])* $name, )* }

        impl EventType {
            /// Every event, in the order of the field table.
            pub const ALL: &[EventType] = &[ $( EventType::$name, )* ];

            /// The stored text, such as `session_keys.released`.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$name => $text, )* }
            }
        }
    };
}

events! {
    /// The ceremony founded the authority; entry 0 holds the digest of its transcript.
    AuthorityCreated = "authority.created";
    /// The daemon began to serve.
    ServiceStarted = "service.started";
    /// The daemon stopped in good order.
    ServiceStopped = "service.stopped";
    /// A person, or a credential or role of one, was enrolled.
    PersonEnrolled = "person.enrolled";
    /// A party, or a credential, range, quota or key of one, was enrolled.
    PartyEnrolled = "party.enrolled";
    /// A provisioner may use keysets of devices.
    GrantCreated = "grant.created";
    /// A certificate issuer's key was registered.
    IssuerRegistered = "issuer.registered";
    /// The key of an issuer's OCSP responder was registered.
    ResponderRegistered = "responder.registered";
    /// A derivation master was taken into use.
    MasterRegistered = "master.registered";
    /// A key under which keys leave for a party, or come in from it, was taken into use.
    TransportKeyRegistered = "transport_key.registered";
    /// A transport key serves no more.
    TransportKeyRetired = "transport_key.retired";
    /// The key to which keys are encrypted on their way in was taken into use.
    ImportKeyRegistered = "import_key.registered";
    /// Static keys of a device were wrapped for a party.
    KeysetExported = "keyset.exported";
    /// The party has fetched static keys that were wrapped for it.
    KeysetExportFetched = "keyset.export_fetched";
    /// A protected operation was asked for, signed by its requester.
    OperationRequested = "operation.requested";
    /// One more person signed the operation.
    OperationApproved = "operation.approved";
    /// A person rejected the operation; it is closed.
    OperationRejected = "operation.rejected";
    /// The operation was carried out, once.
    OperationExecuted = "operation.executed";
    /// A serial number is taken and the token will be asked to sign.
    CertificateIntent = "certificate.intent";
    /// A certificate was signed, verified and stored.
    CertificateIssued = "certificate.issued";
    /// A certificate with an intent will never exist.
    CertificateFailed = "certificate.failed";
    /// A certificate was revoked for good; the next revocation list shows it.
    CertificateRevoked = "certificate.revoked";
    /// Many certificates were revoked for good by one approved operation; an entry for each follows.
    CertificatesRevoked = "certificates.revoked";
    /// A certificate is revoked for the time being, by one person.
    CertificateHeld = "certificate.held";
    /// A held certificate is in force again.
    CertificateReleased = "certificate.released";
    /// A certificate issuer elsewhere is trusted.
    AnchorRegistered = "anchor.registered";
    /// Nothing of an anchor is trusted any more.
    AnchorRetired = "anchor.retired";
    /// A revocation list of an anchor was taken.
    AnchorListPublished = "anchor.list_published";
    /// A certificate of an anchor's hierarchy for a key in our token was taken into use.
    CertificateImported = "certificate.imported";
    /// A certificate that an issuer issued before it came here was taken into the register.
    CertificateAdopted = "certificate.adopted";
    /// A key in our token signed a certification request for a certificate issuer elsewhere.
    CertificationRequestMade = "certification_request.made";
    /// The number of a revocation list is taken and the token will be asked to sign it.
    CrlIntent = "crl.intent";
    /// A revocation list was signed, verified and stored.
    CrlSigned = "crl.signed";
    /// A revocation list with an intent will never exist.
    CrlFailed = "crl.failed";
    /// A line of an order is taken and will not be produced twice.
    OrderLineReserved = "order.line_reserved";
    /// A device and its keyset exist.
    DeviceRegistered = "device.registered";
    /// A registered device has one more keyset, made for its manufacturer.
    KeysetMade = "keyset.made";
    /// The output file of a chunk is durable.
    OrderChunkWritten = "order.chunk_written";
    /// The manufacturer fetched an order's output.
    OrderOutputFetched = "order.output_fetched";
    /// The manufacturer confirmed the digest of an order's output.
    OrderOutputConfirmed = "order.output_confirmed";
    /// The receipt of an order is signed and leaves.
    OrderReceiptSigned = "order.receipt_signed";
    /// Session keys left, sealed to the caller's key.
    SessionKeysReleased = "session_keys.released";
    /// A counter is taken for a packet or script, which the token will be asked to make; it is never taken again.
    OtaCounterTaken = "ota.counter_taken";
    /// A secured packet was made for an OTA platform; no key left.
    OtaPacketMade = "ota.packet_made";
    /// A script was carried over a channel prepared for a card; no key left.
    OtaScriptMade = "ota.script_made";
    /// What a card answered to a packet or script was opened.
    OtaResponseOpened = "ota.response_opened";
    /// From here on no key of the device leaves.
    DeviceFrozen = "device.frozen";
    /// The freeze was lifted.
    DeviceRestored = "device.restored";
    /// The deny list left, signed.
    DenyListFetched = "deny_list.fetched";
    /// From here on each call of the party is refused.
    PartySuspended = "party.suspended";
    /// A person or party was suspended or restored by an approved operation.
    StandingChanged = "standing.changed";
    /// An epoch of keys under which random keys are stored was taken into use.
    StorageKeysRegistered = "storage_keys.registered";
    /// The key of a platform for sessions of SCP11 was taken into use.
    OceKeyRegistered = "oce_key.registered";
    /// The key of a card for sessions of SCP11 was registered by its manufacturer.
    CardKeyRegistered = "card_key.registered";
    /// A party's accreditation is another, or ends at another time.
    AccreditationRecorded = "accreditation.recorded";
    /// A person or party has one more credential; the certificate is an entry of its own.
    CredentialRenewed = "credential.renewed";
    /// A rotation was approved and begins.
    RotationStarted = "rotation.started";
    /// Devices were taken into a rotation.
    RotationPrepared = "rotation.prepared";
    /// A rotation gives out no further scripts.
    RotationPaused = "rotation.paused";
    /// A rotation goes on.
    RotationResumed = "rotation.resumed";
    /// Too many devices of a rotation failed; it waits for a person.
    RotationHalted = "rotation.halted";
    /// Every device of a rotation was confirmed or failed.
    RotationCompleted = "rotation.completed";
    /// The roll back of a rotation was approved and begins.
    RotationRollBackStarted = "rotation.roll_back_started";
    /// Devices of a rotation went back to their old keysets.
    RotationRolledBack = "rotation.rolled_back";
    /// Devices of a rotation are given to a caller; their scripts follow.
    RotationLeased = "rotation.leased";
    /// A lease ended without report; its devices wait again or failed.
    RotationLeaseEnded = "rotation.lease_ended";
    /// The script that loads a device's new keyset left.
    RotationScriptReleased = "rotation.script_released";
    /// What a card answered to its script.
    RotationReported = "rotation.reported";
    /// A card proved the keyset; it is in use.
    KeysetActivated = "keyset.activated";
    /// A keyset is not used any more.
    KeysetDeactivated = "keyset.deactivated";
    /// From here on no session key of the keyset leaves until two persons take it up again.
    KeysetSuspended = "keyset.suspended";
    /// A keyset was moved to another state by an approved operation.
    KeysetStateChanged = "keyset.state_changed";
    /// A key behind the keyset is known to others; it is worth nothing any more.
    KeysetTainted = "keyset.tainted";
    /// What a card says it holds was compared with the records.
    KeysetReconciled = "keyset.reconciled";
    /// A master or transport key is known to others, and with it everything behind it.
    KeyCompromised = "key.compromised";
    /// A certificate was handed out.
    CertificateFetched = "certificate.fetched";
    /// The log was exported.
    LogExported = "log.exported";
    /// TLS handshakes were refused; counted.
    HandshakeRefused = "handshake.refused";
    /// A protected record was read.
    RecordRead = "record.read";
    /// A token worker was killed and replaced.
    TokenWorkerReplaced = "token_worker.replaced";
    /// An RSP transaction began: our challenge is signed for an SM-DP+.
    RspInitiated = "rsp.initiated";
    /// An eUICC proved itself in an RSP transaction; smdpSigned2 is signed.
    RspAuthenticated = "rsp.authenticated";
    /// The keys that bind a profile to an eUICC left, sealed to the caller's key.
    RspBound = "rsp.bound";
    /// RSP transactions ended and were forgotten; counted.
    RspExpired = "rsp.expired";
    /// A wrong confirmation code was counted; too many end the profile's download.
    RspCodeCounted = "rsp.code_counted";
    /// An eUICC package of an eIM was signed, with a counter value of its own.
    EimPackageSigned = "eim.package_signed";
    /// A signing key of an SM-DP+ or eIM was registered for its party.
    RspKeyRegistered = "rsp_key.registered";
    /// Another log key signs from here on.
    LogKeyAdded = "log_key.added";
}

impl std::str::FromStr for EventType {
    type Err = crate::AuditError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|event| event.as_str() == text)
            .ok_or_else(|| crate::AuditError::Entry(format!("unknown event {text:?}")))
    }
}

/// How the deed ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It is about to be done; a later entry tells the outcome.
    Intent,
    /// It was refused by a rule.
    Refused(ReasonCode),
    /// It was allowed and did not succeed.
    Failed(ReasonCode),
    /// The same request came again under its idempotency key and was answered again.
    Repeated,
}

impl Outcome {
    /// The stored text, without the reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Intent => "intent",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::Repeated => "repeated",
        }
    }

    /// The reason of a refusal or failure.
    pub const fn reason(self) -> Option<ReasonCode> {
        match self {
            Self::Refused(reason) | Self::Failed(reason) => Some(reason),
            Self::Done | Self::Intent | Self::Repeated => None,
        }
    }

    pub(crate) fn from_parts(outcome: &str, reason: Option<&str>) -> Option<Self> {
        let reason = match reason {
            Some(text) => Some(ReasonCode::ALL.iter().copied().find(|code| code.as_str() == text)?),
            None => None,
        };
        match (outcome, reason) {
            ("done", None) => Some(Self::Done),
            ("intent", None) => Some(Self::Intent),
            ("repeated", None) => Some(Self::Repeated),
            ("refused", Some(reason)) => Some(Self::Refused(reason)),
            ("failed", Some(reason)) => Some(Self::Failed(reason)),
            _ => None,
        }
    }
}
