//! What `GET /metrics` shows of codexd.
//!
//! The loop says after each commit how things stand, and whoever asks reads that: a page never waits for the loop, so it
//! also comes when the disk hangs, and nothing happens for it while nobody asks. What the log's readers, the disk and the
//! server know is read where it is.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use common::Error;
use common::http::{Answer, Request, Stats};
use common::keys::MAX_KEYS;
use common::log::Limits;
use common::metrics::Page;

use crate::api::App;
use crate::events::{MAX_READERS, Readers};
use crate::sessions::MAX_SESSIONS;
use crate::state::{ChildStatus, State, TurnStatus};

/// What a page shows and no other part of the daemon holds.
pub struct Metrics {
    /// The server's own.
    pub http: Arc<Stats>,
    /// What the loop says.
    pub tally: Arc<Tally>,
    /// How large the log may get.
    pub log_limits: Limits,
    /// How large all transcripts may get.
    pub transcripts_limit: u64,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
}

/// How things stood at the last commit, and what was counted since the process began.
#[derive(Default)]
pub struct Tally(Mutex<Numbers>);

#[derive(Clone, Default)]
struct Numbers {
    child_up: bool,
    restarts: u64,
    open: usize,
    closed: usize,
    running: usize,
    approvals: usize,
    keys: usize,
    completed: u64,
    failed: u64,
    interrupted: u64,
    storage_failures: u64,
}

impl Tally {
    /// This is durable.
    pub fn stands(&self, state: &State) {
        let mut numbers = self.lock();
        numbers.child_up = state.child().status == ChildStatus::Running;
        numbers.restarts = state.child().restarts;
        numbers.open = state.open_count();
        numbers.closed = state.session_count() - state.open_count();
        numbers.running = state.running_count();
        numbers.approvals = state.approvals().count();
        numbers.keys = state.keys().count();
    }

    /// The state was taken up from the disk: whatever it says of a child, there is none now.
    pub fn taken_up(&self, state: &State) {
        self.stands(state);
        self.lock().child_up = false;
    }

    /// A turn has ended so.
    pub fn turn_ended(&self, status: TurnStatus) {
        let mut numbers = self.lock();
        match status {
            TurnStatus::Completed => numbers.completed += 1,
            TurnStatus::Failed => numbers.failed += 1,
            TurnStatus::Interrupted => numbers.interrupted += 1,
            TurnStatus::Accepted | TurnStatus::InProgress => {}
        }
    }

    /// A batch could not be made durable.
    pub fn storage_failed(&self) {
        self.lock().storage_failures += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // numbers are whole whoever panicked
    }
}

/// `GET /metrics`
pub fn metrics(app: &App, _: &Request) -> Result<Answer, Error> {
    let metrics = &app.metrics;
    Ok(metrics.http.answer("codexd", env!("CARGO_PKG_VERSION"), |page| {
        let numbers = metrics.tally.lock().clone();
        numbers.show(page);
        readers(page, &app.readers);
        app.feed.metrics(page, metrics.log_limits);
        metrics.files(page, app.disk.transcripts().bytes());
    }))
}

impl Numbers {
    fn show(&self, page: &mut Page) {
        page.gauge("baa_codexd_child_up", "1 while app-server takes work.").is(u8::from(self.child_up));
        page.counter(
            "baa_codexd_child_restarts_total",
            "Children that ended without being asked to, in the life of the state directory.",
        )
        .is(self.restarts);
        page.gauge("baa_codexd_sessions", "Sessions, by whether they take turns.")
            .with(&[("status", "active")], self.open)
            .with(&[("status", "closed")], self.closed);
        page.gauge("baa_codexd_sessions_limit", "Sessions that are kept.").is(MAX_SESSIONS);
        page.gauge("baa_codexd_turns_running", "Turns that were asked for and have not ended.")
            .is(self.running);
        page.counter("baa_codexd_turns_ended_total", "Turns that ended, by how they did first.")
            .with(&[("status", "completed")], self.completed)
            .with(&[("status", "failed")], self.failed)
            .with(&[("status", "interrupted")], self.interrupted);
        page.gauge("baa_codexd_approvals_pending", "Approvals and questions that wait for an answer.")
            .is(self.approvals);
        page.gauge("baa_codexd_idempotency_keys", "Idempotency keys that are remembered.").is(self.keys);
        page.gauge("baa_codexd_idempotency_keys_limit", "Keys that may be remembered.").is(MAX_KEYS);
        page.counter(
            "baa_codexd_storage_failures_total",
            "Batches that could not be made durable, and were refused.",
        )
        .is(self.storage_failures);
    }
}

fn readers(page: &mut Page, readers: &Readers) {
    page.gauge("baa_codexd_readers", "Readers of events; a page counts while it waits.")
        .with(&[("kind", "websocket")], readers.websockets())
        .with(&[("kind", "sse")], readers.streams())
        .with(&[("kind", "page")], readers.pages());
    page.gauge("baa_codexd_readers_limit", "Readers that there may be.").is(MAX_READERS);
}

impl Metrics {
    fn files(&self, page: &mut Page, transcripts: u64) {
        page.gauge("baa_codexd_transcripts_bytes", "Size of all transcripts.").is(transcripts);
        page.gauge("baa_codexd_transcripts_limit_bytes", "Size from which on whole transcripts go.")
            .is(self.transcripts_limit);
        let family = page.gauge(
            "baa_codexd_checkpoint_timestamp_seconds",
            "When the newest checkpoint was written, in seconds since 1970; nothing before the first.",
        );
        let written = fs::metadata(&self.checkpoint).and_then(|data| data.modified());
        if let Some(since) = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()) {
            family.is(since.as_secs_f64());
        }
    }
}
