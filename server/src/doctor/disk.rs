//! Room on the disk, and how long it will last.

use std::path::Path;

use store::Inspection;

use super::report::Check;
use crate::config::Config;

/// Below so many segments free the daemon cannot prepare the next one with any margin: a fault.
const SEGMENTS_FAULT: u64 = 2;
/// Below so many segments free an operator should act: a warning.
const SEGMENTS_WARNING: u64 = 16;
/// Below so many days at the log's average growth: a warning.
const DAYS_WARNING: u64 = 30;
/// Free inodes below which new files may fail: a fault.
const INODES_FAULT: u64 = 1_000;
/// Free inodes below which an operator should act: a warning.
const INODES_WARNING: u64 = 20_000;
/// A log younger than this tells nothing about growth.
const AGE_DAYS_MIN: u64 = 1;
const DAY_MICROS: u64 = 86_400_000_000;

const MAKE_ROOM: &str = "enlarge the file system, or remove what is not Chancery's; \
                         delete nothing in the data directory";

/// What the file system of the data directory says.
#[derive(Clone, Copy)]
pub(crate) struct Space {
    free_bytes: u64,
    /// `None` on file systems that count none.
    free_inodes: Option<u64>,
}

impl Space {
    pub(crate) fn of(directory: &Path) -> Result<Self, String> {
        let found = rustix::fs::statvfs(directory).map_err(|error| error.to_string())?;
        Ok(Self {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            free_inodes: (found.f_files > 0).then_some(found.f_favail),
        })
    }
}

/// How a log has grown so far.
struct Growth {
    batches: u64,
    bytes: u64,
    age_micros: u64,
}

pub(crate) fn checks(
    space: Result<Space, String>,
    walked: Option<&Inspection>,
    config: &Config,
) -> Vec<Check> {
    let (mut bytes, mut inodes) = (Check::new("disk.bytes"), Check::new("disk.inodes"));
    match space {
        Ok(space) => {
            let growth = walked.map(|walked| Growth {
                batches: walked.batches,
                bytes: walked.batch_bytes,
                age_micros: match (walked.first_time, walked.last_time) {
                    (Some(first), Some(last)) => last.micros().abs_diff(first.micros()),
                    _ => 0,
                },
            });
            judge_bytes(&mut bytes, space.free_bytes, config.segment_bytes, growth.as_ref());
            judge_inodes(&mut inodes, space.free_inodes);
        }
        Err(error) => {
            for check in [&mut bytes, &mut inodes] {
                check.fault(
                    format!("the data directory cannot be measured: {error}"),
                    "correct data_directory in the configuration",
                );
            }
        }
    }
    vec![bytes, inodes]
}

fn judge_bytes(check: &mut Check, free: u64, segment: u64, growth: Option<&Growth>) {
    let segments = free / segment.max(1);
    check.detail(format!("{} MiB free, {segments} log segments", free >> 20));
    let mut days = None;
    if let Some(growth) = growth.filter(|growth| growth.batches > 0) {
        let average = (growth.bytes / growth.batches).max(1);
        check.detail(format!("about {} more batches of {average} bytes, the average so far", free / average));
        if growth.age_micros / DAY_MICROS >= AGE_DAYS_MIN {
            let a_day = u128::from(growth.bytes) * u128::from(DAY_MICROS) / u128::from(growth.age_micros);
            let left = u64::try_from(u128::from(free) / a_day.max(1)).unwrap_or(u64::MAX);
            check.detail(format!("about {left} days at the log's average growth; orders' files come on top"));
            days = Some(left);
        }
    }
    if segments < SEGMENTS_FAULT {
        check.fault(format!("less than {SEGMENTS_FAULT} segments are free: writing will stop"), MAKE_ROOM);
    } else if segments < SEGMENTS_WARNING {
        check.warn(format!("less than {SEGMENTS_WARNING} segments are free"), MAKE_ROOM);
    } else if days.is_some_and(|days| days < DAYS_WARNING) {
        check.warn(format!("less than {DAYS_WARNING} days are left"), MAKE_ROOM);
    }
}

fn judge_inodes(check: &mut Check, free: Option<u64>) {
    match free {
        None => check.detail("this file system has no fixed number of them"),
        Some(free) if free < INODES_FAULT => check.fault(format!("{free} free"), MAKE_ROOM),
        Some(free) if free < INODES_WARNING => check.warn(format!("{free} free"), MAKE_ROOM),
        Some(free) => check.detail(format!("{free} free")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn room_is_judged_by_segments_and_by_growth() {
        const SEGMENT: u64 = 64 << 20;
        let judge = |free, growth: Option<Growth>| {
            let mut check = Check::new("disk.bytes");
            judge_bytes(&mut check, free, SEGMENT, growth.as_ref());
            check.verdict
        };
        assert_eq!(judge(SEGMENT, None), Verdict::Fault);
        assert_eq!(judge(2 * SEGMENT, None), Verdict::Warning);
        assert_eq!(judge(16 * SEGMENT, None), Verdict::Ok);
        // 1 GiB a day for two days, 29 GiB left.
        let fast = || Growth { batches: 10, bytes: 2 << 30, age_micros: 2 * DAY_MICROS };
        assert_eq!(judge(29 << 30, Some(fast())), Verdict::Warning);
        assert_eq!(judge(31 << 30, Some(fast())), Verdict::Ok);
        // A log of an hour says nothing about days.
        let young = Growth { batches: 10, bytes: 2 << 30, age_micros: DAY_MICROS / 24 };
        assert_eq!(judge(29 << 30, Some(young)), Verdict::Ok);
    }

    #[test]
    fn few_inodes_are_a_warning_and_very_few_a_fault() {
        for (free, verdict) in [
            (None, Verdict::Ok),
            (Some(999), Verdict::Fault),
            (Some(1_000), Verdict::Warning),
            (Some(20_000), Verdict::Ok),
        ] {
            let mut check = Check::new("disk.inodes");
            judge_inodes(&mut check, free);
            assert_eq!(check.verdict, verdict);
        }
    }
}
