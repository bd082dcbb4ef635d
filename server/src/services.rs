//! One thin module per gRPC service: convert, have the gate admit, call one operation, convert.

mod anchor;
mod audit;
mod certificate;
mod device;
mod keyset;
mod messages;
mod operation;
mod order;
mod ota;
mod rotation;
mod rsp;
mod scp11;
mod session_keys;
mod standing;
mod transport_key;

pub(crate) use anchor::AnchorApi;
pub(crate) use audit::AuditApi;
pub(crate) use certificate::CertificateApi;
pub(crate) use device::DeviceApi;
pub(crate) use keyset::KeysetApi;
pub(crate) use operation::OperationApi;
pub(crate) use order::OrderApi;
pub(crate) use ota::OtaApi;
pub(crate) use rotation::RotationApi;
pub(crate) use rsp::RspApi;
pub(crate) use scp11::Scp11Api;
pub(crate) use session_keys::SessionKeyApi;
pub(crate) use standing::StandingApi;
pub(crate) use transport_key::{TransportKeyApi, backup_statement};
