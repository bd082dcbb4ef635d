//! Time as a value that is passed in.

use std::fmt;

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the Unix epoch; saturates.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time plus so many seconds; saturates.
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// This time plus so many microseconds; saturates.
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// The calendar year in UTC.
    pub fn year(self) -> i32 {
        self.utc().year()
    }

    fn utc(self) -> time::OffsetDateTime {
        time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC with six decimals, always 27 characters for four-digit years.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.utc();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.microsecond()
        )
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no timestamp in the one form [`Timestamp`] prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a timestamp is RFC 3339 in UTC with six decimals and Z, 27 characters")]
pub struct TimestampError;

/// Reads exactly what `Display` prints for the years 0000 to 9999, and nothing else.
impl std::str::FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        use time::format_description::well_known::Rfc3339;
        let parsed = time::OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError)?;
        let micros = i64::try_from(parsed.unix_timestamp_nanos() / 1_000).map_err(|_| TimestampError)?;
        let timestamp = Self(micros);
        if timestamp.to_string() == text { Ok(timestamp) } else { Err(TimestampError) }
    }
}

/// Where time comes from. The daemon and the tools own one each; everything else is handed a value.
pub trait Clock: Send + Sync {
    /// The wall clock, UTC.
    fn now(&self) -> Timestamp;
    /// Microseconds of a clock that never steps; only differences mean anything.
    fn monotonic_micros(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_only_in_the_form_it_prints() {
        let text = "2026-11-24T20:06:43.000042Z";
        assert_eq!(text.parse::<Timestamp>().map(|t| t.micros()), Ok(1_795_550_803_000_042));
        for other in [
            "2026-11-24T20:06:43.00004Z",
            "2026-11-24T20:06:43.0000420Z",
            "2026-11-24t20:06:43.000042z",
            "2026-11-24T21:06:43.000042+01:00",
            "2026-11-24 20:06:43.000042Z",
            "2026-02-30T20:06:43.000042Z",
            "",
        ] {
            assert_eq!(other.parse::<Timestamp>(), Err(TimestampError), "{other}");
        }
    }

    #[test]
    fn a_timestamp_prints_as_rfc_3339_with_microseconds() {
        assert_eq!(Timestamp::from_micros(1_795_550_803_000_042).to_string(), "2026-11-24T20:06:43.000042Z");
        assert_eq!(Timestamp::from_seconds(0).to_string(), "1970-01-01T00:00:00.000000Z");
    }
}
