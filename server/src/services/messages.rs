//! Which requests carry an idempotency key and which answers an entry index.

use proto::v1;

use crate::gate::{Indexed, Keyed};

macro_rules! keyed {
    ($($message:ty),*) => { $( impl Keyed for $message {
        fn idempotency_key(&self) -> Option<&str> {
            Some(&self.idempotency_key)
        }
    } )* };
}

macro_rules! unkeyed {
    ($($message:ty),*) => { $( impl Keyed for $message {
        fn idempotency_key(&self) -> Option<&str> {
            None
        }
    } )* };
}

macro_rules! indexed {
    ($($message:ty),*) => { $( impl Indexed for $message {
        fn set_entry_index(&mut self, index: u64) {
            self.entry_index = index;
        }
    } )* };
}

macro_rules! unindexed {
    ($($message:ty),*) => { $( impl Indexed for $message {
        fn set_entry_index(&mut self, _index: u64) {}
    } )* };
}

keyed!(
    v1::RequestOperationRequest,
    v1::DecideOperationRequest,
    v1::ExecuteOperationRequest,
    v1::ConfirmOrderOutputRequest,
    v1::FetchSessionKeysRequest
);
unkeyed!(
    v1::ListOperationsRequest,
    v1::GetOperationRequest,
    v1::GetCertificateRequest,
    v1::GetCheckpointRequest
);
indexed!(
    v1::RequestOperationResponse,
    v1::DecideOperationResponse,
    v1::ExecuteOperationResponse,
    v1::ConfirmOrderOutputResponse,
    v1::FetchSessionKeysResponse
);
unindexed!(
    v1::ListOperationsResponse,
    v1::GetOperationResponse,
    v1::GetCertificateResponse,
    v1::GetCheckpointResponse
);
