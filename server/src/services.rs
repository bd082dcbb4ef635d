//! One thin module per gRPC service: convert, have the gate admit, call one operation, convert.

mod audit;
mod certificate;
mod messages;
mod operation;
mod order;
mod session_keys;

pub(crate) use audit::AuditApi;
pub(crate) use certificate::CertificateApi;
pub(crate) use operation::OperationApi;
pub(crate) use order::OrderApi;
pub(crate) use session_keys::SessionKeyApi;
