//! Where callers find the loop that owns the state, and the loop its callers.
//!
//! A caller puts its call into the loop's queue and waits for the one answer, with a deadline of its own beyond the
//! loop's: whatever becomes of the loop, nobody hangs. Knows nothing of calls and answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::Error;
use crate::error;
use crate::http::LOOK_EVERY;

/// Names a call until it is answered.
pub type CallId = u64;

/// Calls that wait for the loop: as many as there can be connections, so a full one means that the loop stands still.
pub const CALLS: usize = 1024;
/// How long a caller waits for the loop after the loop's own deadline: it means that the loop stands still.
const GRACE: Duration = Duration::from_secs(1);
/// How long a caller waits for room in the queue; it is empty but for a moment, or the loop stands still.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);

/// A desk whose loop takes inputs `I` and answers with `R`.
pub struct Desk<I, R> {
    daemon: &'static str,
    calls: Sender<I>,
    waiting: Mutex<HashMap<CallId, Sender<Result<R, Error>>>>,
    next: AtomicU64,
}

impl<I, R> Desk<I, R> {
    /// A desk of `daemon` whose calls go into `calls`.
    pub fn new(daemon: &'static str, calls: Sender<I>) -> Desk<I, R> {
        Desk { daemon, calls, waiting: Mutex::default(), next: AtomicU64::new(1) }
    }

    /// Asks the loop for an answer that it may take `patience` to give; `call` makes the input.
    ///
    /// # Errors
    /// The loop's own; `overloaded` if it takes no calls, `internal_error` if it gives no answer.
    pub fn ask(&self, patience: Duration, call: impl FnOnce(CallId) -> I) -> Result<R, Error> {
        self.ask_while(patience, call, &|| false, |_| None)
    }

    /// The same for one who may be `gone` meanwhile: the loop is told by the input that `left` makes, and nobody waits on.
    ///
    /// # Errors
    /// As `ask`; `request_timeout`, which nobody reads, once it is gone.
    pub fn ask_while(
        &self,
        patience: Duration,
        call: impl FnOnce(CallId) -> I,
        gone: &dyn Fn() -> bool,
        left: impl Fn(CallId) -> Option<I>,
    ) -> Result<R, Error> {
        let (slot, answer) = bounded(1);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting().insert(id, slot);
        let outcome = match self.calls.send_timeout(call(id), QUEUE_PATIENCE) {
            Ok(()) => {
                let answer = self.answer(&answer, Instant::now() + patience + GRACE, gone);
                answer.unwrap_or_else(|| {
                    // One that finds no room is let go of at its deadline.
                    let _ = left(id).map(|input| self.calls.try_send(input));
                    Err(Error::new(error::REQUEST_TIMEOUT, "Nobody waits for the answer any more."))
                })
            }
            Err(_) => {
                let message = format!("{} is busy.", self.daemon);
                Err(Error::new(error::OVERLOADED, message).header("Retry-After", "1"))
            }
        };
        self.waiting().remove(&id);
        outcome
    }

    /// `None` once who asked is gone.
    fn answer(
        &self,
        answer: &Receiver<Result<R, Error>>,
        until: Instant,
        gone: &dyn Fn() -> bool,
    ) -> Option<Result<R, Error>> {
        while Instant::now() < until {
            if let Ok(outcome) = answer.recv_deadline(until.min(Instant::now() + LOOK_EVERY)) {
                return Some(outcome);
            }
            if gone() {
                return None;
            }
        }
        let message = format!("{} gave no answer in time.", self.daemon);
        Some(Err(Error::new(error::INTERNAL_ERROR, message)))
    }

    /// Puts something into the loop's queue that nobody waits for; what finds no room is lost.
    pub fn tell(&self, input: I) {
        let _ = self.calls.try_send(input);
    }

    /// The same, once there is room; false if there is no loop any more.
    pub fn tell_surely(&self, input: I) -> bool {
        self.calls.send(input).is_ok()
    }

    /// Answers a call, once; what comes later nobody hears.
    pub fn reply(&self, id: CallId, outcome: Result<R, Error>) {
        if let Some(slot) = self.waiting().remove(&id) {
            let _ = slot.try_send(outcome); // it has room for the one answer; nobody may listen any more
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<CallId, Sender<Result<R, Error>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
