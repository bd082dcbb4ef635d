//! What can go wrong with a token, sorted by who must act.

use std::fmt;
use std::time::Duration;

use cryptoki::error::{Error, RvError};
use serde::{Deserialize, Serialize};

/// A failed call to a token, a worker, or the queue in front of them. Carries no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct HsmError {
    /// Who must act, and how.
    pub class: ErrorClass,
    /// The PKCS#11 function that failed, if one did.
    pub function: Option<String>,
    /// Its return code, e.g. `CKR_GENERAL_ERROR`.
    pub return_code: Option<String>,
    /// What was being done, named by public ids.
    pub detail: String,
}

/// The classes of failure. Each has one action; the layer has already taken it when the error arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The call itself is wrong for this key or token. Nothing is retried.
    Caller,
    /// The input made the token fail while its canary still passes: the record is bad, the token is not.
    Blob,
    /// An object is gone. It was searched again and the job retried once.
    Handle,
    /// The PKCS#11 session broke. It was reopened and the job retried once.
    Session,
    /// The login state is gone. The worker is replaced.
    Login,
    /// The PIN was refused. Never retried: every worker start of this token stops until an operator acts.
    Pin,
    /// The token is out of memory or sessions. The caller may retry later.
    Capacity,
    /// The token or the worker failed. The worker is replaced; the caller may retry.
    Token,
    /// The deadline passed. A job still queued was not begun.
    Deadline,
    /// The queue of this priority is full. Nothing was begun.
    Overloaded,
    /// The token handle is shutting down. Nothing was begun.
    ShuttingDown,
    /// What was found on the token, or asked of it, breaks a rule of this layer; service is refused.
    Policy,
}

impl ErrorClass {
    /// The stable name used in logs, metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Blob => "blob",
            Self::Handle => "handle",
            Self::Session => "session",
            Self::Login => "login",
            Self::Pin => "pin",
            Self::Capacity => "capacity",
            Self::Token => "token",
            Self::Deadline => "deadline",
            Self::Overloaded => "overloaded",
            Self::ShuttingDown => "shutting-down",
            Self::Policy => "policy",
        }
    }

    /// When a caller may send the same job again; `None` when that cannot help. Jobs leave nothing on the token, so
    /// a retry is always safe.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Caller | Self::Blob | Self::Policy => None,
            // An operator has to act first.
            Self::Pin => Some(Duration::from_secs(300)),
            Self::Handle | Self::Session | Self::Login | Self::Token => Some(Duration::from_secs(1)),
            Self::Capacity | Self::Overloaded | Self::Deadline => Some(Duration::from_millis(200)),
            Self::ShuttingDown => Some(Duration::from_secs(5)),
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl HsmError {
    /// An error that no PKCS#11 call gave.
    pub fn new(class: ErrorClass, detail: impl Into<String>) -> Self {
        Self { class, function: None, return_code: None, detail: detail.into() }
    }

    /// See [`ErrorClass::retry_after`].
    pub const fn retry_after(&self) -> Option<Duration> {
        self.class.retry_after()
    }

    pub(crate) fn caller(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Caller, detail)
    }

    pub(crate) fn policy(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Policy, detail)
    }

    pub(crate) fn token(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Token, detail)
    }

    /// Says what was being done when a call failed.
    pub(crate) fn context(mut self, what: &str) -> Self {
        self.detail =
            if self.detail.is_empty() { what.to_owned() } else { format!("{what}: {}", self.detail) };
        self
    }

    /// Whether the return code says "something failed" and no more: only a canary can tell a bad input from a bad
    /// token then.
    pub(crate) fn is_ambiguous(&self) -> bool {
        matches!(
            self.return_code.as_deref(),
            Some("CKR_GENERAL_ERROR" | "CKR_DEVICE_ERROR" | "CKR_FUNCTION_FAILED")
        )
    }
}

impl fmt::Display for HsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if let (Some(function), Some(code)) = (&self.function, &self.return_code) {
            let separator = if self.detail.is_empty() { "" } else { ": " };
            write!(f, "{separator}{function} gave {code}")?;
        }
        write!(f, " [{}]", self.class)
    }
}

impl From<Error> for HsmError {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(code, function) => Self {
                class: class_of(&code),
                function: Some(format!("C_{function:?}")),
                return_code: Some(return_code_name(&code)),
                detail: String::new(),
            },
            Error::LibraryLoading(cause) => Self::token(format!("the PKCS#11 module does not load: {cause}")),
            other => Self::token(format!("the PKCS#11 module misbehaves: {other}")),
        }
    }
}

/// The class of a PKCS#11 return code. What the standard leaves open counts as the token's fault.
fn class_of(code: &RvError) -> ErrorClass {
    match code {
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::ArgumentsBad
        | RvError::KeyFunctionNotPermitted
        | RvError::KeyUnextractable
        | RvError::KeyNotWrappable
        | RvError::KeyIndigestible
        | RvError::KeyTypeInconsistent
        | RvError::KeyNeeded
        | RvError::KeyNotNeeded
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::KeySizeRange
        | RvError::WrappingKeySizeRange
        | RvError::WrappingKeyTypeInconsistent
        | RvError::UnwrappingKeySizeRange
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::DomainParamsInvalid
        | RvError::CurveNotSupported
        | RvError::PublicKeyInvalid
        | RvError::ActionProhibited
        | RvError::FunctionNotSupported
        | RvError::BufferTooSmall => ErrorClass::Caller,
        RvError::WrappedKeyInvalid
        | RvError::WrappedKeyLenRange
        | RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::SignatureInvalid
        | RvError::SignatureLenRange => ErrorClass::Blob,
        RvError::ObjectHandleInvalid
        | RvError::KeyHandleInvalid
        | RvError::WrappingKeyHandleInvalid
        | RvError::UnwrappingKeyHandleInvalid => ErrorClass::Handle,
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::OperationActive
        | RvError::OperationNotInitialized => ErrorClass::Session,
        RvError::UserNotLoggedIn => ErrorClass::Login,
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinLocked
        | RvError::PinExpired
        | RvError::PinTooWeak
        | RvError::UserPinNotInitialized => ErrorClass::Pin,
        RvError::SessionCount | RvError::HostMemory | RvError::DeviceMemory => ErrorClass::Capacity,
        _ => ErrorClass::Token,
    }
}

/// The name of the standard: `GeneralError` becomes `CKR_GENERAL_ERROR`.
fn return_code_name(code: &RvError) -> String {
    match code {
        RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) => format!("CKR_{number:#010X}"),
        named => {
            let mut name = String::from("CKR");
            for c in format!("{named:?}").chars() {
                if c.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(c.to_ascii_uppercase());
            }
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn a_return_code_keeps_its_standard_name_its_function_and_its_class() {
        let error = HsmError::from(Error::Pkcs11(RvError::KeyFunctionNotPermitted, Function::EncryptInit));
        assert_eq!(error.class, ErrorClass::Caller);
        assert_eq!(
            error.context("order line 3").to_string(),
            "order line 3: C_EncryptInit gave CKR_KEY_FUNCTION_NOT_PERMITTED [caller]"
        );
        let general = HsmError::from(Error::Pkcs11(RvError::GeneralError, Function::DeriveKey));
        assert!(general.is_ambiguous() && general.class == ErrorClass::Token);
    }

    #[test]
    fn only_what_a_retry_can_cure_names_a_time_to_retry() {
        for class in [ErrorClass::Caller, ErrorClass::Blob, ErrorClass::Policy] {
            assert_eq!(class.retry_after(), None);
        }
        for class in
            [ErrorClass::Token, ErrorClass::Overloaded, ErrorClass::Deadline, ErrorClass::ShuttingDown]
        {
            assert!(class.retry_after().is_some());
        }
    }
}
