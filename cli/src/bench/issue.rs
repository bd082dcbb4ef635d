//! Issuance under load: orders whose lines are keyed and certified, every device with a fresh key.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use domain::Eid;
use proto::v1::{
    KeysetName, OrderHeader, OrderLine, OrderLineResult, PlaceOrderRequest, order_line, order_line_result,
    place_order_request, place_order_response,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::bench::load::{CONNECTIONS, Measured, micros};
use crate::connect::Connection;
use crate::error::CliError;
use crate::key_file::PrivateKey;
use crate::{order, order_place};

/// Devices of each stream of orders: two whole chunks, when it is one order.
pub const DEVICES_PER_STREAM: u64 = 2_000;
/// One certificate in so many of an order is parsed and compared with what was ordered, or the only one.
const SAMPLE_EVERY: u64 = 64;

/// Places orders for devices nobody has seen before.
pub struct IssueLoad {
    connections: Arc<Vec<Connection>>,
    issuer: &'static str,
    ein: &'static str,
    keyset: KeysetName,
    run: &'static str,
    order_size: usize,
    next_device: AtomicU64,
    next_stream: AtomicU64,
    checked: Arc<AtomicU64>,
}

/// Orders that can be placed.
pub struct Prepared(Vec<Vec<Device>>);

/// A device to be ordered.
struct Device {
    eid: Eid,
    spki: Vec<u8>,
}

impl IssueLoad {
    /// Over these connections of the manufacturer; each order is of so many devices, or of a whole stream.
    pub fn new(
        connections: Vec<Connection>,
        issuer: &'static str,
        ein: &'static str,
        keyset: KeysetName,
        run: &'static str,
        order_size: Option<u16>,
        first_device: u64,
    ) -> Self {
        Self {
            connections: Arc::new(connections),
            issuer,
            ein,
            keyset,
            run,
            order_size: order_size.map_or(DEVICES_PER_STREAM as usize, usize::from),
            next_device: AtomicU64::new(first_device),
            next_stream: AtomicU64::new(0),
            checked: Arc::default(),
        }
    }

    /// Makes the devices of `streams` streams of orders: their keys are not part of what is measured.
    pub fn prepare(&self, streams: usize) -> Result<Prepared, CliError> {
        tokio::task::block_in_place(|| (0..streams).map(|_| self.devices()).collect::<Result<_, _>>())
            .map(Prepared)
    }

    /// Places orders, those of each stream one after the other, the streams at once, and waits for every certificate.
    pub async fn run(&self, prepared: Prepared) -> Result<Measured, CliError> {
        let started = Instant::now();
        let mut streams = JoinSet::new();
        for (at, mut devices) in prepared.0.into_iter().enumerate() {
            let header = OrderHeader {
                format: 0,
                transport_key: Vec::new(),
                product: String::new(),
                further_keysets: false,
                fleet: None,
                random_keys: false,
                certificate_profile: String::new(),
                order: format!("{}-{}", self.run, self.next_stream.fetch_add(1, Ordering::Relaxed)),
                issuer: self.issuer.to_owned(),
                keyset: Some(self.keyset),
                key_bits: 128,
            };
            let (connections, checked) = (Arc::clone(&self.connections), Arc::clone(&self.checked));
            let order_size = self.order_size;
            streams.spawn(async move {
                let mut latencies = Vec::with_capacity(devices.len());
                for number in 0.. {
                    let rest = devices.split_off(devices.len().min(order_size));
                    let order = std::mem::replace(&mut devices, rest);
                    if order.is_empty() {
                        break;
                    }
                    let header =
                        OrderHeader { order: format!("{}-{number}", header.order), ..header.clone() };
                    latencies.extend(place(&connections[at % CONNECTIONS], header, order, &checked).await?);
                }
                Ok::<_, CliError>(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(stream) = streams.join_next().await {
            latencies.extend(stream.map_err(|error| CliError::Local(error.to_string()))??);
        }
        Ok(Measured::new(started.elapsed(), latencies))
    }

    /// How many certificates were compared with their order line and found right.
    pub fn checked(&self) -> u64 {
        self.checked.load(Ordering::Relaxed)
    }

    fn devices(&self) -> Result<Vec<Device>, CliError> {
        let first = self.next_device.fetch_add(DEVICES_PER_STREAM, Ordering::Relaxed);
        (first..first + DEVICES_PER_STREAM).map(|number| device(self.ein, number)).collect()
    }
}

/// The `number`th device of a range, with a fresh key.
fn device(ein: &str, number: u64) -> Result<Device, CliError> {
    let width = 30 - ein.len();
    let eid = Eid::from_body(&format!("{ein}{number:0width$}"))
        .map_err(|error| CliError::Local(error.to_string()))?;
    Ok(Device { eid, spki: PrivateKey::generate_p256()?.p256_spki()? })
}

/// Lines of a device file with fresh keys, from the `first` device of the range on.
pub fn device_file(ein: &str, first: u64, devices: u64) -> Result<String, CliError> {
    let mut csv = "eid,public_key\n".to_owned();
    for number in first..first + devices {
        let device = device(ein, number)?;
        csv.push_str(&format!("{},{}\n", device.eid, hex::encode(device.spki)));
    }
    Ok(csv)
}

async fn place(
    connection: &Connection,
    header: OrderHeader,
    devices: Vec<Device>,
    checked: &AtomicU64,
) -> Result<Vec<u32>, CliError> {
    let (sender, receiver) = mpsc::channel(64);
    let devices = Arc::new(devices);
    let sent: Arc<std::sync::Mutex<HashMap<u64, Instant>>> = Arc::default();
    let sending = tokio::spawn({
        let (devices, sent) = (Arc::clone(&devices), Arc::clone(&sent));
        async move {
            let message = |part| PlaceOrderRequest { part: Some(part) };
            let mut part = message(place_order_request::Part::Header(header));
            for (line, device) in (1..).zip(devices.iter()) {
                if sender.send(part).await.is_err() {
                    return;
                }
                let key = Some(order_line::Key::PublicKey(device.spki.clone()));
                let order_line = OrderLine { line, eid: device.eid.to_string(), key, ..OrderLine::default() };
                order_place::lock(&sent).insert(line, Instant::now());
                part = message(place_order_request::Part::Line(order_line));
            }
            // A receiver that is gone shows as the stream's own failure.
            let _ = sender.send(part).await;
        }
    });
    let mut answers =
        order::client(connection).place_order(ReceiverStream::new(receiver)).await?.into_inner();
    let mut latencies = Vec::with_capacity(devices.len());
    while let Some(answer) = answers.message().await? {
        if let Some(place_order_response::Part::Line(result)) = answer.part {
            let at = order_place::lock(&sent).remove(&result.line);
            let at =
                at.ok_or_else(|| CliError::Answer(format!("an unexpected result for line {}", result.line)))?;
            latencies.push(micros(at.elapsed()));
            if result.line.is_multiple_of(SAMPLE_EVERY) || devices.len() == 1 {
                check(&result, &devices)?;
                checked.fetch_add(1, Ordering::Relaxed);
            } else if let Some(order_line_result::Result::Refusal(refusal)) = &result.result {
                return Err(refused(refusal));
            }
        }
    }
    sending.await.map_err(|error| CliError::Local(error.to_string()))?;
    if latencies.len() == devices.len() {
        Ok(latencies)
    } else {
        Err(CliError::Answer("an order ended before all its lines were answered".to_owned()))
    }
}

fn check(result: &OrderLineResult, devices: &[Device]) -> Result<(), CliError> {
    let device = usize::try_from(result.line - 1).ok().and_then(|at| devices.get(at));
    match (&result.result, device) {
        (Some(order_line_result::Result::Certificate(der)), Some(device)) => {
            let certificate =
                pki::Certificate::from_der(der).map_err(|error| CliError::Answer(error.to_string()))?;
            if certificate.eid() == Some(device.eid) && certificate.spki() == device.spki {
                Ok(())
            } else {
                Err(CliError::Answer(format!(
                    "the certificate of line {} is for something else",
                    result.line
                )))
            }
        }
        (Some(order_line_result::Result::Refusal(refusal)), _) => Err(refused(refusal)),
        (
            Some(order_line_result::Result::KeysetMade(_) | order_line_result::Result::MovedIn(_)) | None,
            _,
        )
        | (_, None) => Err(CliError::Answer("a result that fits no line".to_owned())),
    }
}

fn refused(refusal: &proto::v1::LineRefusal) -> CliError {
    CliError::Answer(format!(
        "a device of the benchmark was refused: {}: {}",
        refusal.reason, refusal.message
    ))
}
