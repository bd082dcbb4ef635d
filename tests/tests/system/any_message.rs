//! Messages that decode and mean nothing: each call with many, made of values that mean something elsewhere. Every one is
//! answered with a reason, none is a fault of ours, and the service goes on.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value,
};
use proto::Rules;
use proto::v1::Operation;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::caller::{Caller, reason};
use crate::devices::eid;
use crate::fleet::TwoPersons;
use crate::refusals::ROLES;
use crate::support::{AUTHORITY, Deployment, GRANTED, ISSUER, PURPOSE, files_below};

/// Messages for each call; the same in each run.
const MESSAGES: u64 = 12;
/// Operations of each kind.
const OPERATIONS: u64 = 4;
/// Messages lie within messages only so deep.
const DEPTH_MAX: u32 = 5;

/// Numbers that look like chance and are the same in each run (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn one_of<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }
}

/// What messages are made of.
struct Words {
    eids: Vec<String>,
    texts: Vec<String>,
    bytes: Vec<Vec<u8>>,
    numbers: Vec<u64>,
}

impl Words {
    fn of(eids: &[String]) -> Self {
        let known = [
            "first",
            "officer",
            "approver",
            "eum",
            "provisioner",
            ISSUER,
            PURPOSE,
            "grant",
            AUTHORITY,
            "dppb",
            "euicc",
            "superseded",
            "2.999.5",
            "89049032",
            "AES-128",
            "http://example.org/a",
            "",
            "x",
            "\u{202e}",
            "chancery/certificate-issuer/ci/1",
            "chancery-cmac-v1",
            "2027-01-01T00:00:00Z",
        ];
        let mut texts: Vec<String> = known.map(str::to_owned).to_vec();
        texts.extend_from_slice(eids);
        texts.push("a".repeat(65));
        texts.push("9".repeat(32));
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut bytes: Vec<Vec<u8>> = ["rsp", "certificate", "request", "card", "packets", "contract"]
            .iter()
            .flat_map(|target| {
                let mut files = files_below(&corpus.join(target));
                files.sort();
                files.into_iter().step_by(7).map(|file| std::fs::read(file).unwrap())
            })
            .collect();
        bytes.extend([0, 1, 2, 3, 8, 16, 20, 32, 64, 65, 255].map(|length| vec![0x42; length]));
        bytes.extend(eids.iter().map(|eid| hex::decode(eid).unwrap()));
        let numbers =
            vec![0, 1, 2, 3, 7, 8, 16, 0x30, 0x31, 0x3f, 0x70, 100, 128, 255, 256, 1_000_000, u64::MAX];
        Self { eids: eids.to_vec(), texts, bytes, numbers }
    }

    fn message(&self, descriptor: &MessageDescriptor, chance: &mut Chance, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let is_too_deep = matches!(field.kind(), Kind::Message(_)) && depth == DEPTH_MAX;
            // Of the members of a choice the last one that is set stays.
            if is_too_deep || field.is_map() || chance.below(5) == 0 {
                continue;
            }
            let value = if field.is_list() {
                let count = chance.below(4);
                Value::List((0..count).map(|_| self.value(&field, chance, depth)).collect())
            } else {
                self.value(&field, chance, depth)
            };
            message.set_field(&field, value);
        }
        message
    }

    /// What a field of this name usually holds, so that more than its first check is reached.
    fn usual(&self, field: &FieldDescriptor, chance: &mut Chance) -> Option<Value> {
        if chance.below(4) == 0 {
            return None;
        }
        let text = |text: &str| Some(Value::String(text.to_owned()));
        match (field.name(), field.kind()) {
            ("eid", Kind::String) => Some(Value::String(chance.one_of(&self.eids).clone())),
            ("purpose", _) => text(PURPOSE),
            ("order", Kind::String) => text("first"),
            ("issuer", Kind::String) => text(ISSUER),
            ("provisioner" | "party", Kind::String) => text("provisioner"),
            ("name", Kind::String) => Some(Value::String(format!("name-{:x}", chance.next()))),
            ("reason" | "lawful_basis" | "reference", Kind::String) => text("a reason"),
            ("ein" | "eins", Kind::String) => text(GRANTED),
            ("expires", Kind::Message(_)) => {
                let mut time = DynamicMessage::new(field.kind().as_message()?.clone());
                time.set_field_by_name("seconds", Value::I64(1_800_000_000));
                Some(Value::Message(time))
            }
            ("security_domain", Kind::Uint32) => Some(Value::U32(1)),
            ("protocol", Kind::Uint32) => Some(Value::U32(3)),
            ("key_version_number", Kind::Uint32) => Some(Value::U32(0x30)),
            ("host_challenge" | "card_challenge" | "card_cryptogram", Kind::Bytes) => {
                Some(Value::Bytes(Bytes::from(vec![0x42; 8])))
            }
            _ => None,
        }
    }

    fn value(&self, field: &FieldDescriptor, chance: &mut Chance, depth: u32) -> Value {
        if let Some(usual) = self.usual(field, chance) {
            return usual;
        }
        let number = *chance.one_of(&self.numbers);
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any number will do")]
        match field.kind() {
            Kind::String if field.name() == "idempotency_key" => {
                Value::String(format!("{:x}", chance.next()))
            }
            Kind::String => Value::String(chance.one_of(&self.texts).clone()),
            Kind::Bytes => Value::Bytes(Bytes::from(chance.one_of(&self.bytes).clone())),
            Kind::Bool => Value::Bool(number % 2 == 1),
            Kind::Enum(kind) => {
                let known: Vec<i32> = kind.values().map(|value| value.number()).chain([99, -1]).collect();
                Value::EnumNumber(*chance.one_of(&known))
            }
            Kind::Message(inner) => Value::Message(self.message(&inner, chance, depth + 1)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(number as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number),
            Kind::Float => Value::F32(0.5),
            Kind::Double => Value::F64(0.5),
        }
    }
}

/// The status that ends the call.
async fn call(channel: &Channel, path: &str, message: &[u8]) -> Status {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0][..], &length, message].concat();
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "20S")
        .body(Body::new(Full::new(Bytes::from(frame))))
        .unwrap();
    let answer = channel.clone().ready().await.unwrap().call(request).await.unwrap();
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let body = answer.into_body().collect().await.unwrap();
    Status::from_header_map(body.trailers().expect("trailers")).expect("a status")
}

fn is_fault(status: &Status) -> bool {
    let faults = [Code::Internal, Code::Unknown, Code::DataLoss, Code::DeadlineExceeded, Code::Cancelled];
    faults.contains(&status.code())
}

/// Operations of every kind, requested, approved and executed by two persons as far as each goes.
async fn operations(deployment: &Deployment, pool: &DescriptorPool, words: &Words, chance: &mut Chance) {
    let persons = TwoPersons::of(deployment).await;
    let operation = pool.get_message_by_name("chancery.v1.Operation").unwrap();
    let mut kinds: Vec<FieldDescriptor> =
        operation.oneofs().flat_map(|kinds| kinds.fields().collect::<Vec<_>>()).collect();
    // What takes keys, credentials or parties away comes last.
    let last = ["mark_compromised", "change_standing", "renew_credential"];
    kinds.sort_by_key(|kind| last.iter().position(|name| *name == kind.name()));
    for kind in &kinds {
        for number in 0..OPERATIONS {
            let mut message = DynamicMessage::new(operation.clone());
            message.set_field(kind, words.value(kind, chance, 0));
            let decoded = Operation::decode(&message.encode_to_vec()[..]).unwrap();
            if let Err(status) = persons.carry_out(decoded.kind.unwrap()).await {
                assert!(!is_fault(&status), "{} {number}: {status:?} to {message}", kind.name());
                assert!(!reason(&status).is_empty(), "{} {number}: {status:?}", kind.name());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_any_values_are_answered_with_a_reason_and_never_with_a_fault() {
    let deployment = Deployment::found();
    let eids = [eid(GRANTED, 1), eid(GRANTED, 2)];
    deployment.order("first", &eids);
    let mut callers: Vec<Caller> = Vec::new();
    for (name, _) in ROLES {
        callers.push(deployment.caller(name).await);
    }
    let words = Words::of(&eids);
    let rules = Rules::of_contract().unwrap();
    let pool = DescriptorPool::decode(proto::DESCRIPTOR).unwrap();
    let mut methods: Vec<MethodDescriptor> =
        pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    // What stops a party or a device comes last.
    methods.sort_by_key(|method| ["Suspend", "Freeze"].iter().any(|verb| method.name().starts_with(verb)));
    let (mut chance, mut refused, mut answered) = (Chance(2026), 0, 0);
    for method in &methods {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let rule = rules.get(&path).unwrap();
        let at = ROLES.iter().position(|(_, role)| rule.roles.contains(role)).unwrap();
        for number in 0..MESSAGES {
            let message = words.message(&method.input(), &mut chance, 0);
            let status = call(&callers[at].channel, &path, &message.encode_to_vec()).await;
            assert!(!is_fault(&status), "{path} {number}: {status:?} to {message}");
            if status.code() == Code::Ok {
                answered += 1;
            } else {
                refused += 1;
                assert!(!reason(&status).is_empty(), "{path} {number}: {status:?}");
            }
        }
    }
    operations(&deployment, &pool, &words, &mut chance).await;
    assert!(refused > answered && answered > 0, "{refused} refused, {answered} answered");
    // It goes on: its metrics answer, and no thread of it has panicked.
    assert!(deployment.log_size() > refused);
    let log = std::fs::read_to_string(deployment.path("serve.log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
}
