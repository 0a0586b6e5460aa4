//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// What a test waits at most for anything that should come soon; generous, for a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The first value that `look` finds, looking every 5 ms; panics when `within` has passed, saying what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
