//! Calls that last: what ends them before their time, when conductor stops or the client has left.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use common::http::{Client, LOOK_EVERY};
use common::trace;

/// It looks at a flag and at a socket.
const STACK_BYTES: usize = 64 * 1024;

/// Everything that is open and has no end of its own.
#[derive(Default)]
pub(super) struct Lasting(Mutex<Open>);

#[derive(Default)]
struct Open {
    over: bool,
    next: u64,
    ends: HashMap<u64, Box<dyn Fn() + Send>>,
}

impl Lasting {
    /// Takes up what `end` ends; `None` if everything was ended already.
    pub(super) fn enter(self: &Arc<Lasting>, end: impl Fn() + Send + 'static) -> Option<Lasts> {
        let mut open = self.lock();
        if open.over {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.ends.insert(number, Box::new(end));
        Some(Lasts { all: self.clone(), number })
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.lock().ends.len()
    }

    /// Ends all there is, and takes up nothing more.
    pub(super) fn end_all(&self) {
        let mut open = self.lock();
        open.over = true;
        open.ends.values().for_each(|end| end());
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that lasts, as long as this does.
pub(super) struct Lasts {
    all: Arc<Lasting>,
    number: u64,
}

impl Drop for Lasts {
    fn drop(&mut self) {
        self.all.lock().ends.remove(&self.number);
    }
}

/// Does `work`, and calls `end` if the client leaves meanwhile, so that codexd hears of it: what it holds for a reader
/// that has left, others may wait for.
pub(super) fn while_there<T>(client: &Client, end: &(impl Fn() + Sync), work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let watch = || {
        while !done.load(Ordering::SeqCst) {
            thread::park_timeout(LOOK_EVERY);
            if !done.load(Ordering::SeqCst) && client.has_left() {
                return end();
            }
        }
    };
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("watch".to_string()).stack_size(STACK_BYTES);
        let watching = builder.spawn_scoped(scope, watch);
        if let Err(error) = &watching {
            // Then it is noticed by the next write, or by the end of the wait.
            trace::warn(None, format_args!("no thread to watch a client: {error}"));
        }
        let _done = Done(&done, watching.ok().map(|watching| watching.thread().clone()));
        work()
    })
}

/// Ends the watch, also when the work panics.
struct Done<'a>(&'a AtomicBool, Option<Thread>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        let _ = self.1.as_ref().map(Thread::unpark);
    }
}
