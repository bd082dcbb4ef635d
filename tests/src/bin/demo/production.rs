//! The manufacturer's side: a device file, the order, and cards personalised from its output.

use std::fmt::Write as _;
use std::fs;

use ::tests::transport::{PersonalisationData, TransportPrivateKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::authority::openssl_request;
use crate::stage::{Failure, Stage};

/// The EID of SGP.26's certificates.
pub const SGP26_EID: &str = "89049032123451234512345678901235";
/// The manufacturer's range.
const EIN: &str = "89049032";
/// How the EIDs go on that will be granted, and those that will not. The first is the SGP.26 EID's own next digit.
const GRANTED_DIGIT: char = '1';
const OTHER_DIGIT: char = '7';
/// Devices whose key arrives as a request made by OpenSSL.
const REQUESTS: usize = 3;
/// Exit code of an order of which some lines were refused.
const SOME_REFUSED: i32 = 3;

/// The devices of the order.
pub struct Order {
    /// Devices that are ordered and lie in the range to be granted; the SGP.26 one first.
    pub granted: Vec<String>,
    /// Devices that are ordered and lie outside of it.
    pub others: Vec<String>,
}

impl Order {
    /// The range that will be granted: leading digits of EIDs.
    pub fn granted_range() -> String {
        format!("{EIN}{GRANTED_DIGIT}")
    }

    /// An EID of that range that nobody ordered.
    pub fn unknown_device() -> String {
        with_check_digits(&format!("{EIN}{GRANTED_DIGIT}{}", "9".repeat(21)))
    }
}

/// Makes the device file, orders, and fetches the output.
pub fn order(stage: &Stage, devices: usize) -> Result<Order, Failure> {
    let mut order = Order { granted: vec![SGP26_EID.to_owned()], others: Vec::new() };
    let mut lines = vec![device_line(SGP26_EID)?];
    for number in 1..devices {
        let (digit, list) = match number % 10 {
            9 => (OTHER_DIGIT, &mut order.others),
            _ => (GRANTED_DIGIT, &mut order.granted),
        };
        let eid = with_check_digits(&format!("{EIN}{digit}{number:021}"));
        lines.push(if number <= REQUESTS { request_line(stage, number, &eid)? } else { device_line(&eid)? });
        list.push(eid);
    }
    stage.write("devices.csv", csv(&lines))?;
    // What is sent has one line more, whose check digits are wrong; it must not spoil the others.
    let wrong = wrong_check_digits(&with_check_digits(&format!("{EIN}{OTHER_DIGIT}{devices:021}")));
    let mut sent = lines;
    sent.insert(devices / 2, device_line(&wrong)?);
    stage.write("order/devices-sent.csv", csv(&sent))?;
    stage.say(format_args!(
        "order/devices-sent.csv: {devices} devices ({REQUESTS} of them with a CSR), and {wrong}, whose check digits are wrong"
    ));

    let place = ["order", "place", "--order", "batch-1", "--issuer", "eum-one-ca"];
    let devices_sent = ["--devices", "order/devices-sent.csv", "--kvn", "0x30", "--algorithm", "AES-128"];
    let results = ["--certificates-out", "euicc", "--results", "order/results.jsonl"];
    let identity = ["--identity", "parties/eum-one"];
    let answer =
        stage.expect("chancery", &[&place[..], &devices_sent, &results, &identity].concat(), SOME_REFUSED)?;
    for expected in [wrong.as_str(), "INVALID_EID"] {
        if !answer.contains(expected) {
            return Err(Failure::new(format!("expected the refusal of one line to say {expected}")));
        }
    }
    let certificates = fs::read_dir(stage.path("euicc")).map_err(Failure::at("cannot list euicc"))?.count();
    if certificates != devices {
        return Err(Failure::new(format!("expected {devices} device certificates, got {certificates}")));
    }
    let fetch = ["order", "fetch", "--order", "batch-1", "--out", "order/output.jsonl"];
    stage.chancery(&[&fetch[..], &identity].concat())?;
    stage.copy("parties/eum-one/transport-key.pem", "order/eum-transport-key.pem")?;
    Ok(order)
}

/// Opens the order's output with the manufacturer's own key: what its cards get, from this file and nothing else.
pub fn personalise(stage: &Stage, order: &Order) -> Result<Vec<PersonalisationData>, Failure> {
    let key = TransportPrivateKey::from_pem(stage.read("order/eum-transport-key.pem")?.as_bytes())
        .map_err(Failure::at("order/eum-transport-key.pem"))?;
    let cards =
        key.unwrap_order(&stage.read("order/output.jsonl")?).map_err(Failure::at("order/output.jsonl"))?;
    let expected = order.granted.len() + order.others.len();
    if cards.len() != expected {
        return Err(Failure::new(format!("expected the keysets of {expected} cards, got {}", cards.len())));
    }
    stage.say(format_args!(
        "{expected} cards personalised from order/output.jsonl: each key opens under the transport key and has its check value"
    ));
    Ok(cards)
}

fn csv(lines: &[String]) -> String {
    format!("eid,public_key,csr\n{}", lines.concat())
}

/// A device with a new key, by its public key.
fn device_line(eid: &str) -> Result<String, Failure> {
    let failed = |_| Failure::new("no device key could be made");
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
    let public_key = key.public_key().as_der().map_err(failed)?;
    Ok(format!("{eid},{},\n", hex::encode(public_key.as_ref())))
}

fn request_line(stage: &Stage, number: usize, eid: &str) -> Result<String, Failure> {
    let csr = format!("state/device-{number}.csr.der");
    let subject = format!("/CN=device {number}");
    openssl_request(stage, &format!("state/device-{number}-key.pem"), &csr, &subject, "DER")?;
    let request = fs::read(stage.path(&csr)).map_err(Failure::at(format!("cannot read {csr}")))?;
    let mut line = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(line, "{eid},,{}", hex::encode(request));
    Ok(line)
}

/// SGP.29 §4.2: the last two digits make the whole number 1 modulo 97.
fn with_check_digits(digits: &str) -> String {
    let remainder =
        digits.bytes().chain(*b"00").fold(0_u32, |value, digit| (value * 10 + u32::from(digit - b'0')) % 97);
    format!("{digits}{:02}", 98 - remainder)
}

fn wrong_check_digits(eid: &str) -> String {
    let (body, last) = eid.split_at(eid.len() - 1);
    format!("{body}{}", if last == "0" { '1' } else { '0' })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_are_those_of_the_published_eid() {
        assert_eq!(with_check_digits(&SGP26_EID[..30]), SGP26_EID);
        assert_ne!(wrong_check_digits(SGP26_EID), SGP26_EID);
    }
}
