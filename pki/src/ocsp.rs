//! OCSP (RFC 6960, the profile of RFC 5019, the nonce of RFC 9654): requests are read, answers built, read back and
//! verified.
//!
//! An answer is made in three steps: [`AnswerInputs`] give [`ResponseData`], a token signs its digest with the key of a
//! delegated responder, [`ResponseData::assemble`] reads the result back with other code and verifies it. Errors are not
//! signed and need no token ([`error_answer`]).

mod request;
mod response;

pub use request::{
    CertificateId, IdHash, NONCE_BYTES_MAX, OcspRequest, QUESTIONS_MAX, REQUEST_BYTES_MAX, ask,
};
pub use response::{
    AnswerInputs, BasicAnswer, CertificateStatus, ErrorStatus, ResponseData, SingleAnswer, build,
    error_answer,
};
