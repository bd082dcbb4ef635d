//! What is refused, why the caller hears, and that the log knows.

use audit::{Entry, Outcome};
use domain::Role;
use proto::Rules;
use proto::v1::session_key_service_client::SessionKeyServiceClient;
use proto::v1::{OrderHeader, PlaceOrderRequest, place_order_request};
use tests::card::CryptogramBehaviour;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::caller::{Caller, reason};
use crate::devices::eid;
use crate::support::{Deployment, GRANTED, PURPOSE};

/// A device that may be ordered and is not granted.
const NOT_GRANTED: &str = "890490327";
pub const ROLES: [(&str, Role); 5] = [
    ("officer", Role::Officer),
    ("approver", Role::Approver),
    ("auditor", Role::Auditor),
    ("eum", Role::Eum),
    ("provisioner", Role::Provisioner),
];

/// What a refusal said, to be found in the log.
pub struct Refused {
    what: String,
    reason: &'static str,
    entry_index: usize,
}

impl Refused {
    pub fn new(what: String, expected: (Code, &'static str), status: &Status) -> Self {
        assert_eq!((status.code(), reason(status).as_str()), expected, "{what}");
        let index = status.metadata().get("chancery-entry-index");
        let index = index.unwrap_or_else(|| panic!("{what}: the refusal names no entry"));
        Self { what, reason: expected.1, entry_index: index.to_str().unwrap().parse().unwrap() }
    }

    /// The entry that records it, which says the same.
    pub fn entry<'e>(&self, entries: &'e [Entry]) -> &'e Entry {
        let entry = &entries[self.entry_index];
        let Outcome::Refused(reason) = entry.header.outcome else {
            panic!("{}: entry {} is no refusal", self.what, self.entry_index)
        };
        assert_eq!(reason.as_str(), self.reason, "{}", self.what);
        entry
    }
}

/// Calls any RPC with one message and gives how it is refused.
async fn refusal<M: prost::Message + Default + 'static>(caller: &Caller, path: &str, message: M) -> Status {
    let mut client = Grpc::new(caller.channel.clone());
    client.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    // Refused calls have no answer, so its type does not matter; () reads any.
    let answer = client.server_streaming(Request::new(message), path, ProstCodec::<M, ()>::default()).await;
    match answer {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_reason_and_its_entry_and_no_entry_tells_an_eid() {
    let deployment = Deployment::found();
    let eids = [eid(GRANTED, 1), eid(NOT_GRANTED, 2)];
    let devices = deployment.order("first", &eids);
    let device = |eid: &str| devices.iter().find(|device| device.eid == eid).unwrap();
    let mut refused = Vec::new();

    // The main job.
    let provisioner = deployment.caller("provisioner").await;
    let mut client = SessionKeyServiceClient::new(provisioner.channel.clone());
    let granted = device(&eids[0]);
    let mut unknown = granted.request("unknown", PURPOSE, CryptogramBehaviour::Honest);
    unknown.eid = eid(GRANTED, 9);
    for (request, code, reason) in [
        (
            granted.request("wrong", PURPOSE, CryptogramBehaviour::Wrong),
            Code::PermissionDenied,
            "CARD_CRYPTOGRAM_MISMATCH",
        ),
        (
            device(&eids[1]).request("ungranted", PURPOSE, CryptogramBehaviour::Honest),
            Code::PermissionDenied,
            "NOT_GRANTED",
        ),
        (
            granted.request("purpose", "curiosity", CryptogramBehaviour::Honest),
            Code::PermissionDenied,
            "NOT_GRANTED",
        ),
        (unknown, Code::NotFound, "UNKNOWN_DEVICE"),
    ] {
        let status = client.fetch_session_keys(request).await.unwrap_err();
        refused.push(Refused::new(reason.to_owned(), (code, reason), &status));
    }

    // Every RPC by every role that it does not admit, and by one that it admits with bytes that are no message.
    let rules = Rules::of_contract().unwrap();
    let header =
        || PlaceOrderRequest { part: Some(place_order_request::Part::Header(OrderHeader::default())) };
    for (name, role) in ROLES {
        let caller = deployment.caller(name).await;
        for rule in rules.iter() {
            let path = rule.path.as_str();
            if rule.roles.contains(&role) {
                // Field 1 as a varint, where a request has a string, bytes or a message.
                if rule.changes_state {
                    let status = refusal(&caller, path, 7_u64).await;
                    let expected = (Code::InvalidArgument, "MALFORMED_MESSAGE");
                    refused.push(Refused::new(format!("{path} malformed"), expected, &status));
                }
                continue;
            }
            let status = if path.ends_with("/PlaceOrder") {
                refusal(&caller, path, header()).await
            } else {
                refusal(&caller, path, ()).await
            };
            let expected = (Code::PermissionDenied, "ROLE_NOT_ALLOWED");
            refused.push(Refused::new(format!("{path} as {name}"), expected, &status));
        }
    }

    let entries = deployment.entries();
    for refusal in &refused {
        refusal.entry(&entries);
    }
    let text: Vec<u8> = entries.iter().flat_map(Entry::to_bytes).collect();
    let text = String::from_utf8(text).unwrap();
    for eid in &eids {
        assert!(!text.contains(&eid[8..]), "an entry holds an EID");
    }
}
