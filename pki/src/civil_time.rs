//! Calendar time to the second, to the year 9999: eUICC certificates end in 7500, beyond what nanosecond counters hold.

use crate::der;
use crate::error::PkiError;
use domain::Timestamp;
use std::fmt;
use time::{Date, Duration, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// A UTC date and time to the second, years 1950 to 9999, as RFC 5280 §4.1.2.5 can carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CivilTime(PrimitiveDateTime);

impl CivilTime {
    /// From calendar fields.
    pub fn new(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Result<Self, PkiError> {
        let invalid = |_| PkiError::Time;
        let month = Month::try_from(month).map_err(invalid)?;
        let date = Date::from_calendar_date(i32::from(year), month, day).map_err(invalid)?;
        let time = Time::from_hms(hour, minute, second).map_err(invalid)?;
        Self::in_range(PrimitiveDateTime::new(date, time))
    }

    /// The second that `timestamp` lies in.
    pub fn from_timestamp(timestamp: Timestamp) -> Result<Self, PkiError> {
        let at = OffsetDateTime::from_unix_timestamp(timestamp.seconds()).map_err(|_| PkiError::Time)?;
        Self::in_range(PrimitiveDateTime::new(at.date(), at.time()))
    }

    /// This time and so many days later; an error past the year 9999.
    pub fn plus_days(self, days: u32) -> Result<Self, PkiError> {
        Self::in_range(self.0.checked_add(Duration::days(i64::from(days))).ok_or(PkiError::Time)?)
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(self) -> i64 {
        self.0.assume_utc().unix_timestamp()
    }

    pub(crate) fn from_datetime(at: OffsetDateTime) -> Result<Self, PkiError> {
        let at = at.to_offset(time::UtcOffset::UTC);
        Self::in_range(PrimitiveDateTime::new(at.date(), at.time()))
    }

    pub(crate) fn datetime(self) -> OffsetDateTime {
        self.0.assume_utc()
    }

    /// RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050.
    pub(crate) fn tag(self) -> u8 {
        if self.0.year() < 2050 { der::UTC_TIME } else { der::GENERALIZED_TIME }
    }

    fn in_range(at: PrimitiveDateTime) -> Result<Self, PkiError> {
        if (1950..=9999).contains(&at.year()) && at.nanosecond() == 0 {
            Ok(Self(at))
        } else {
            Err(PkiError::Time)
        }
    }
}

/// RFC 3339 in UTC, to the second.
impl fmt::Display for CivilTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.0.to_calendar_date();
        let (hour, minute, second) = self.0.as_hms();
        write!(f, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", u8::from(month))
    }
}

impl fmt::Debug for CivilTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_million_days_reach_the_year_7500() {
        let start = CivilTime::new(2024, 7, 16, 9, 54, 58).unwrap();
        assert_eq!(start.plus_days(2_000_000).unwrap().to_string(), "7500-05-10T09:54:58Z");
        assert!(start.plus_days(3_000_000).is_err());
    }

    #[test]
    fn times_that_no_certificate_can_carry_are_refused() {
        assert!(CivilTime::new(1949, 12, 31, 23, 59, 59).is_err());
        assert!(CivilTime::new(2026, 2, 29, 0, 0, 0).is_err());
        assert!(CivilTime::new(2026, 1, 1, 24, 0, 0).is_err());
        let end = CivilTime::new(9999, 12, 31, 23, 59, 59).unwrap();
        assert_eq!(end.to_string(), "9999-12-31T23:59:59Z");
        assert!(end.plus_days(1).is_err());
    }

    #[test]
    fn a_timestamp_is_cut_to_its_second() {
        let at = CivilTime::from_timestamp(Timestamp::from_micros(1_795_550_803_999_999)).unwrap();
        assert_eq!(at.to_string(), "2026-11-24T20:06:43Z");
        assert_eq!(at.unix_seconds(), 1_795_550_803);
    }
}
