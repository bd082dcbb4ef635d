//! Load: a fixed number of calls in flight over a few connections, for a fixed time, every one timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::error::CliError;

/// Connections that carry the load.
pub const CONNECTIONS: usize = 4;

/// What a stretch of load came to.
pub struct Measured {
    /// Calls that were answered as asked.
    pub operations: u64,
    /// How long it took, from the first call to the last answer.
    pub elapsed: Duration,
    /// Times of the calls in µs, sorted.
    latencies: Vec<u32>,
}

impl Measured {
    /// From the times of the calls, in any order.
    pub fn new(elapsed: Duration, mut latencies: Vec<u32>) -> Self {
        latencies.sort_unstable();
        Self { operations: latencies.len() as u64, elapsed, latencies }
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// The time within which this share of the calls was answered, in µs; nearest rank.
    pub fn percentile_us(&self, percent: usize) -> u32 {
        let rank = (self.latencies.len() * percent).div_ceil(100).max(1);
        self.latencies.get(rank - 1).copied().unwrap_or(0)
    }
}

/// Microseconds of a call.
pub fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// Keeps `in_flight` calls going for `time`. `call` gets its connection's number and a number that is never used twice
/// with the same `numbers`. The first failure stops everything.
pub async fn run<C, F>(
    in_flight: usize,
    time: Duration,
    numbers: &Arc<AtomicU64>,
    call: C,
) -> Result<Measured, CliError>
where
    C: Fn(usize, u64) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), CliError>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..in_flight {
        let (call, numbers, stop) = (call.clone(), Arc::clone(numbers), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < time && !stop.load(Ordering::Relaxed) {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let sent = Instant::now();
                if let Err(error) = call(task % CONNECTIONS, number).await {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                latencies.push(micros(sent.elapsed()));
            }
            Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    let mut failure = None;
    while let Some(done) = tasks.join_next().await {
        match done.map_err(|error| CliError::Local(error.to_string()))? {
            Ok(times) => latencies.extend(times),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(Measured::new(started.elapsed(), latencies)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let measured = Measured::new(Duration::from_secs(2), (1..=100).rev().collect());
        assert_eq!(measured.percentile_us(50), 50);
        assert_eq!(measured.percentile_us(99), 99);
        assert_eq!(measured.rate(), 50.0);
        assert_eq!(Measured::new(Duration::from_secs(1), vec![7]).percentile_us(99), 7);
        assert_eq!(Measured::new(Duration::from_secs(1), vec![]).percentile_us(50), 0);
    }

    #[tokio::test]
    async fn every_call_gets_a_number_of_its_own_and_a_failure_ends_the_load() {
        let numbers = Arc::new(AtomicU64::new(0));
        let sum = Arc::new(AtomicU64::new(0));
        let measured = run(8, Duration::from_millis(20), &numbers, {
            let sum = Arc::clone(&sum);
            move |connection, number| {
                assert!(connection < CONNECTIONS);
                sum.fetch_add(number, Ordering::Relaxed);
                async {
                    tokio::task::yield_now().await;
                    Ok(())
                }
            }
        })
        .await
        .unwrap();
        let n = measured.operations;
        assert!(n >= 8);
        assert_eq!(sum.load(Ordering::Relaxed), n * (n - 1) / 2);

        let failing = run(8, Duration::from_secs(600), &numbers, |_, number| async move {
            if number > 1_000 { Err(CliError::Local("enough".to_owned())) } else { Ok(()) }
        });
        assert!(failing.await.is_err());
    }
}
