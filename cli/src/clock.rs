//! Time: the tool's one clock, and expiries as operators write them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use domain::{Clock, Timestamp};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The clocks of this machine.
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Starts the monotonic count at zero.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place of the tool that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    fn monotonic_micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// An end of validity: a number of days, hours, minutes or seconds from now, or a point in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// Seconds from now.
    In(i64),
    /// RFC 3339.
    At(Timestamp),
}

impl Expiry {
    /// The point in time meant, when it is `now`.
    pub const fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::In(seconds) => now.plus_seconds(seconds),
            Self::At(at) => at,
        }
    }
}

/// Reads `7d`, `12h`, `30m`, `90s` or an RFC 3339 time. For clap.
pub fn parse_expiry(text: &str) -> Result<Expiry, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Expiry::At(Timestamp::from_seconds(at.unix_timestamp())));
    }
    let wrong = || "give a duration such as 7d, 12h, 30m, 90s, or an RFC 3339 time".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds_per_unit: i64 = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(wrong()),
    };
    let count: i64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match count.checked_mul(seconds_per_unit) {
        Some(seconds) if seconds > 0 => Ok(Expiry::In(seconds)),
        _ => Err(wrong()),
    }
}

/// As the contract carries it.
pub fn to_wire(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.seconds(),
        nanos: i32::try_from(at.micros().rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}

/// From the contract; finer than microseconds is cut off.
pub fn from_wire(at: &prost_types::Timestamp) -> Timestamp {
    Timestamp::from_seconds(at.seconds).plus_micros(i64::from(at.nanos) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_duration_or_a_time() {
        let now = Timestamp::from_seconds(1_000);
        assert_eq!(parse_expiry("7d").unwrap().from(now).seconds(), 1_000 + 7 * 86_400);
        assert_eq!(parse_expiry("90s").unwrap().from(now).seconds(), 1_090);
        assert_eq!(parse_expiry("1970-01-01T02:00:00+01:00").unwrap().from(now).seconds(), 3_600);
        for wrong in ["", "d", "7", "7w", "-1d", "0h", "9223372036854775807d", "1d2h", "µ"] {
            assert!(parse_expiry(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wire_times_keep_microseconds() {
        let at = Timestamp::from_micros(1_795_550_803_000_042);
        assert_eq!(from_wire(&to_wire(at)), at);
        let before_epoch = Timestamp::from_micros(-1);
        assert_eq!(from_wire(&to_wire(before_epoch)), before_epoch);
    }
}
