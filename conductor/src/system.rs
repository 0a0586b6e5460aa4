//! The node's mode: pause, resume and drain, over HTTP and over the bridge, through this one implementation.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};

use common::Error;
use common::error::CONFLICT;
use common::http::{Answer, Request};
use serde_json::{Value, json};

use crate::api::Node;
use crate::codex::forward;
use crate::core::{CALL_DEADLINE, Call, Change, Input};
use crate::lease::lock;
use crate::state::{Mode, Shown, System};

/// A name, a reason: a line that a person reads.
const MAX_TEXT_BYTES: usize = 1024;

common::body! {
    /// Body of pause, resume and drain.
    pub(crate) struct ChangeBody {
        optional requested_by "requested_by": string(MAX_TEXT_BYTES), "Who wants it.";
        optional reason "reason": string(MAX_TEXT_BYTES), "Why.";
        optional source "source": string(MAX_TEXT_BYTES), "By which way; `http` if it is not said.";
    }
}

/// What the documents show of these bodies.
pub(crate) const EXAMPLE: &str = r#"{"requested_by":"me","reason":"maintenance"}"#;

/// The newest system state, and who waits for a newer one.
#[derive(Default)]
pub(crate) struct Board {
    posted: Mutex<Shown>,
    version: AtomicU64,
    counted: AtomicU64,
    watchers: Mutex<HashMap<thread::ThreadId, Thread>>,
}

/// A thread that is unparked at each change, until this is dropped.
pub(crate) struct Watch<'a>(&'a Board, thread::ThreadId);

impl Board {
    pub(crate) fn shown(&self) -> Shown {
        lock(&self.posted).clone()
    }

    /// Shows a state, and wakes who watches if it is another.
    pub(crate) fn post(&self, shown: Shown) {
        let before = std::mem::replace(&mut *lock(&self.posted), shown.clone());
        let counts = |shown: &Shown| (shown.queued_tasks, shown.active_runs);
        if before.system != shown.system {
            self.stir();
        } else if counts(&before) != counts(&shown) {
            self.changed(&self.counted);
        }
    }

    /// Wakes who watches: what is shown beside the state has changed.
    pub(crate) fn stir(&self) {
        self.changed(&self.version);
    }

    fn changed(&self, version: &AtomicU64) {
        version.fetch_add(1, Ordering::SeqCst);
        lock(&self.watchers).values().for_each(Thread::unpark);
    }

    /// Counts the changes: those of the mode and the lease, and those of how much waits and runs.
    pub(crate) fn versions(&self) -> (u64, u64) {
        (self.version.load(Ordering::SeqCst), self.counted.load(Ordering::SeqCst))
    }

    /// Has the calling thread unparked at each change.
    pub(crate) fn watch(&self) -> Watch<'_> {
        let thread = thread::current();
        let id = thread.id();
        lock(&self.watchers).insert(id, thread);
        Watch(self, id)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        lock(&self.0.watchers).remove(&self.1);
    }
}

impl Node {
    /// The system state: the mode, who set it, and the lease.
    pub(crate) fn system(&self) -> Value {
        self.follow(); // a standby learns from the disk what the leader did
        let Shown { system, queued_tasks, active_runs, .. } = self.board.shown();
        let System { mode, requested_by, reason, source, updated_at } = system;
        let lease = self.lease.document();
        json!({
            "mode": mode.name(),
            "holder_id": lease.as_ref().map(|lease| &lease.holder_id),
            "holder_host": lease.as_ref().map(|lease| &lease.holder_host),
            "lease_state": self.lease.state().name(),
            "lease_expires_at": lease.as_ref().map(|lease| lease.expires_at),
            "term": lease.as_ref().map(|lease| lease.term),
            "requested_by": requested_by,
            "reason": reason,
            "source": source,
            "updated_at": updated_at,
            "queued_tasks": queued_tasks,
            "active_runs": active_runs,
            "drained": mode == Mode::Draining && active_runs == 0,
        })
    }

    /// Sets the mode; the newest system state.
    ///
    /// # Errors
    /// `conflict` on a node that does not lead, with the holder in the details; `storage_failed`.
    pub(crate) fn change(&self, change: Change) -> Result<Value, Error> {
        self.ask(Call::System(change))?;
        Ok(self.system())
    }

    /// Asks the core.
    ///
    /// # Errors
    /// `conflict` on a node that does not lead, with the holder in the details; the core's own.
    pub(crate) fn ask(&self, call: Call) -> Result<crate::core::Reply, Error> {
        self.desk()?.ask(CALL_DEADLINE, |id| Input::Call { id, call })
    }

    /// What only the node that leads has.
    ///
    /// # Errors
    /// `conflict`, with the holder in the details.
    pub(crate) fn desk(&self) -> Result<&crate::shell::Desk, Error> {
        self.desk.get().ok_or_else(|| {
            let holder = self.lease.document().map(|lease| lease.holder_id);
            let message = match &holder {
                Some(holder) => format!("This node does not lead; {holder} does."),
                None => "This node does not lead yet.".to_string(),
            };
            Error::new(CONFLICT, message).details(json!({ "holder_id": holder }))
        })
    }
}

/// `GET /v1/system/state`.
pub(crate) fn state(node: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(Answer::Json { status: 200, data: node.system() })
}

/// `POST /v1/system/pause`.
pub(crate) fn pause(node: &Node, request: &Request) -> Result<Answer, Error> {
    set(node, request, Mode::Paused)
}

/// `POST /v1/system/resume`.
pub(crate) fn resume(node: &Node, request: &Request) -> Result<Answer, Error> {
    set(node, request, Mode::Running)
}

/// `POST /v1/system/drain`.
pub(crate) fn drain(node: &Node, request: &Request) -> Result<Answer, Error> {
    set(node, request, Mode::Draining)
}

fn set(node: &Node, request: &Request, mode: Mode) -> Result<Answer, Error> {
    let given = forward(ChangeBody::FIELDS, request.object()?);
    let ChangeBody { requested_by, reason, source } = ChangeBody::parse(&given)?;
    let source = source.or_else(|| Some("http".to_owned()));
    let data = node.change(Change { mode, requested_by, reason, source })?;
    Ok(Answer::Json { status: 200, data })
}
