//! What the log costs, for `GET /metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Feed, Limits};
use crate::metrics::{Page, Timing};
use crate::trace;

/// A sync that takes longer is told: everybody waits for it, and it is a thousand times what a healthy disk takes.
pub const SLOW_SYNC: Duration = Duration::from_secs(1);

/// The syncs of a log; counted by the one writer, read by whoever asks.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    all: Timing,
    longest_nanos: AtomicU64,
}

impl Syncs {
    /// One more was done; `true` if it was slow, which is told.
    pub(super) fn add(&self, took: Duration) -> bool {
        self.all.add(took);
        self.longest_nanos.fetch_max(took.as_nanos().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        let slow = took > SLOW_SYNC;
        if slow {
            trace::warn(None, format_args!("the disk is slow: a sync of the log took {took:.1?}"));
        }
        slow
    }
}

impl Feed {
    /// The log's own metrics.
    pub fn metrics(&self, page: &mut Page, limits: Limits) {
        page.gauge("baa_log_latest_seq", "Number of the newest event.").is(self.latest());
        page.gauge("baa_log_oldest_seq", "Number of the oldest event that is retained.").is(self.oldest());
        page.gauge("baa_log_bytes", "Size of the log on disk.").is(self.bytes());
        page.gauge("baa_log_limit_bytes", "Size from which on its oldest segments go.")
            .is(limits.total_bytes);
        page.summary(
            "baa_log_sync_duration_seconds",
            "Commits of the log, and the time that their syncs took.",
        )
        .timing(&[], &self.syncs().all);
        let longest = Duration::from_nanos(self.syncs().longest_nanos.load(Ordering::Relaxed));
        page.gauge("baa_log_longest_sync_seconds", "The longest of these syncs.").is(longest.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_over_its_bound_is_slow_and_the_longest_stays() {
        let syncs = Syncs::default();
        assert!(!syncs.add(SLOW_SYNC));
        assert!(syncs.add(SLOW_SYNC + Duration::from_millis(1)));
        assert!(!syncs.add(Duration::from_millis(3)));
        assert_eq!(syncs.longest_nanos.load(Ordering::Relaxed), 1_001_000_000);
    }
}
