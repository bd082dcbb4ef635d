//! Short texts: what is accepted is written back as a text that means the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use audit::EventType;
use domain::{Eid, Ein, RevocationReason, Timestamp};
use pki::{CertificateRole, SerialNumber};

pub fn run(bytes: &[u8]) {
    if let Ok(bcd) = <[u8; 16]>::try_from(bytes)
        && let Ok(eid) = Eid::from_bcd(bcd)
    {
        assert_eq!(eid.bcd(), &bcd);
        means_the_same::<Eid>(&eid.to_string());
    }
    if let Ok(serial) = SerialNumber::from_bytes(bytes) {
        means_the_same::<SerialNumber>(&serial.to_string());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(eid) = means_the_same::<Eid>(text) {
        // One number, one text.
        assert_eq!(eid.to_string(), text);
    }
    means_the_same::<Ein>(text);
    means_the_same::<Timestamp>(text);
    means_the_same::<SerialNumber>(text);
    means_the_same::<RevocationReason>(text);
    means_the_same::<CertificateRole>(text);
    if let Ok(event) = text.parse::<EventType>() {
        assert_eq!(event.as_str(), text);
    }
    let _ = Eid::from_body(text);
    if let Ok(name) = audit::Name::new(text) {
        assert_eq!(name.as_str(), text);
    }
}

fn means_the_same<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    let again = read.to_string().parse().ok();
    assert_eq!(again.as_ref(), Some(&read), "{text:?}");
    Some(read)
}
