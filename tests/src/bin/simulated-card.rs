//! A simulated card of an order at the end of a pipe, for provisioning servers that are not written in Rust: a command
//! APDU in hex on each line of standard input, data and status word of its answer on each line of standard output.
//!
//! `simulated-card --order OUTPUT.jsonl --transport-key KEY.pem --eid EID [--i HEX] [--wrong-cryptogram]`

use std::error::Error;
use std::io::Write;

use tests::card::{CryptogramBehaviour, SimulatedCard, StatusWord};
use tests::transport::TransportPrivateKey;

fn main() -> Result<(), Box<dyn Error>> {
    let mut card = card(std::env::args().skip(1))?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lines() {
        let mut answer = match answer(&mut card, &hex::decode(line?.trim())?) {
            Ok((data, status)) => [data, status.0.to_be_bytes().to_vec()].concat(),
            Err(status) => status.0.to_be_bytes().to_vec(),
        };
        answer = hex::encode(answer).into_bytes();
        answer.push(b'\n');
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

/// The card that the manufacturer made of one device of its order.
fn card(mut arguments: impl Iterator<Item = String>) -> Result<SimulatedCard, Box<dyn Error>> {
    let (mut order, mut transport_key, mut eid) = (None, None, None);
    let (mut i_parameter, mut cryptogram) = (0x00, CryptogramBehaviour::Honest);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--order" => order = Some(value()?),
            "--transport-key" => transport_key = Some(value()?),
            "--eid" => eid = Some(value()?),
            "--i" => i_parameter = u8::from_str_radix(&value()?, 16)?,
            "--wrong-cryptogram" => cryptogram = CryptogramBehaviour::Wrong,
            other => return Err(format!("no option {other}").into()),
        }
    }
    let order = std::fs::read_to_string(order.ok_or("--order is missing")?)?;
    let key =
        TransportPrivateKey::from_pem(&std::fs::read(transport_key.ok_or("--transport-key is missing")?)?)?;
    let eid = eid.ok_or("--eid is missing")?;
    let devices = key.unwrap_order(&order)?;
    let data =
        devices.iter().find(|data| hex::encode(data.eid) == eid).ok_or("no such device in the order")?;
    let mut card = SimulatedCard::personalised(data);
    card.set_i_parameter(i_parameter);
    card.set_cryptogram(cryptogram);
    Ok(card)
}

fn answer(card: &mut SimulatedCard, command: &[u8]) -> Result<(Vec<u8>, StatusWord), StatusWord> {
    match *command {
        [0x80, 0x50, kvn, 0x00, 0x08, ref rest @ ..] => {
            let challenge = rest.first_chunk().ok_or(StatusWord::WRONG_LENGTH)?;
            card.initialize_update(*challenge, kvn).map(|answer| (answer.bytes, StatusWord::OK))
        }
        [_, 0x82, ..] => card.external_authenticate(command).map(|_| (Vec::new(), StatusWord::OK)),
        _ => card.process(command).map(|processed| (processed.response, processed.status)),
    }
}
