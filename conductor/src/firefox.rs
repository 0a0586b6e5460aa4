//! The browser bridge: the system state pushed to extensions, and their actions, over one WebSocket each.
//!
//! An action is what the HTTP routes do, through the same implementation and under the same rule of who may. Keeps no
//! queue of states: a client that reads slowly gets the newest one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::Error;
use common::error::OVERLOADED;
use common::http::{Answer, Request};
use common::websocket::{self, Flow, Frames};
use common::wire::{self, Object};
use serde_json::{Value, json};

use crate::access;
use crate::api::Node;
use crate::codex::forward;
use crate::core::Change;
use crate::state::Mode;

/// Extensions at once: a person has a few browsers.
pub(crate) const MAX_CLIENTS: usize = 32;
/// Answers that a client has not taken yet; one that asks on without reading waits.
const MAX_ANSWERS: usize = 64;

/// Between two snapshots that differ in counts alone: as fast as a person can follow.
const COUNTS_EVERY: Duration = Duration::from_millis(500);

/// A client's name for what it asks: a UUID with a prefix, and more.
const MAX_ID_BYTES: usize = 128;

common::body! {
    /// A message of a client.
    struct Message {
        required kind "type": one_of("hello", "state_request", "action_request"), "What it wants.";
        optional action "action": one_of("pause", "resume", "drain"), "Of an action_request: what to do.";
        optional request_id "requestId": string(MAX_ID_BYTES), "Comes back with the answer.";
        optional requested_by "requestedBy": string(1024), "Who wants it.";
        optional reason "reason": string(1024), "Why.";
    }
}

/// The clients of the bridge.
#[derive(Default)]
pub(crate) struct Bridge {
    clients: AtomicUsize,
    closing: AtomicBool,
}

impl Bridge {
    /// Clients that are connected now.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Has every client closed, and takes none any more. They see it when they are woken.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn enter(self: &Arc<Bridge>) -> Result<Seat, Error> {
        let seat = Seat(self.clone());
        if self.clients.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS || self.closing.load(Ordering::SeqCst) {
            let message = format!("{MAX_CLIENTS} clients use the bridge, which is all that may.");
            return Err(Error::new(OVERLOADED, message).header("Retry-After", "5"));
        }
        Ok(seat)
    }
}

/// A client's place, for as long as it is connected.
struct Seat(Arc<Bridge>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What both threads of a client share.
#[derive(Default)]
struct Client {
    answers: Mutex<Answers>,
    taken: Condvar,
}

/// What waits to be sent.
#[derive(Default)]
struct Answers {
    waiting: VecDeque<String>,
    /// Nobody sends any more.
    ended: bool,
}

impl Client {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a message sent; waits while there are too many, so that who does not read is not heard either.
    fn answer(&self, message: &Value) {
        let full = |answers: &mut Answers| answers.waiting.len() >= MAX_ANSWERS && !answers.ended;
        let waited = self.taken.wait_while(self.answers(), full);
        waited.unwrap_or_else(PoisonError::into_inner).waiting.push_back(message.to_string());
    }
}

/// Whoever sends to a client; its end, however it comes, is told.
struct Sender<'a>(&'a Client);

impl Sender<'_> {
    fn take(&self) -> Option<String> {
        let answer = self.0.answers().waiting.pop_front();
        self.0.taken.notify_one();
        answer
    }
}

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        self.0.answers().ended = true;
        self.0.taken.notify_one();
    }
}

/// `GET /ws/firefox`.
pub(crate) fn connect(node: &Node, request: &Request) -> Result<Answer, Error> {
    // A read of the state lets it in where reads are open; each action is judged as a write.
    let may_write = access::may_write(node, request);
    let (seat, me, client) = (node.bridge.enter()?, node.me.clone(), Client::default());
    websocket::upgrade(request, move |peer| {
        let Some(node) = me.upgrade() else { return };
        let _seat = seat;
        let hear = |text: &str| hear(&node, &client, &may_write, text);
        peer.run("firefox", hear, source(&node, &client));
    })
}

/// Sends a snapshot at first and at each change, and answers as they come. Tasks may come and go by the hundred in a second:
/// of changes of their counts alone each client is told the newest, now and then.
fn source<'a>(node: &'a Node, client: &'a Client) -> impl FnMut(&mut Frames, Instant) -> Flow + 'a {
    let (sender, mut watch, mut shown) = (Sender(client), None, None);
    let mut told = Instant::now();
    move |frames, until| {
        watch.get_or_insert_with(|| node.board.watch()); // of the thread that sends
        if node.bridge.closing.load(Ordering::SeqCst) {
            return Flow::Close(1001, "the node stops".to_string());
        }
        while frames.room() > 0
            && let Some(answer) = sender.take()
        {
            frames.text(&answer);
        }
        let (versions, now) = (node.board.versions(), Instant::now());
        let only_counts = shown.is_some_and(|(version, _)| version == versions.0);
        let mut wake = until;
        if only_counts && shown != Some(versions) && now < told + COUNTS_EVERY {
            wake = until.min(told + COUNTS_EVERY);
        } else if shown != Some(versions) {
            let reason = if shown.is_none() { "connected" } else { "changed" };
            (shown, told) = (Some(versions), now);
            frames.text(&snapshot(node, reason).to_string());
        }
        if frames.is_empty() {
            thread::park_timeout(wake.saturating_duration_since(Instant::now()));
        }
        Flow::Go
    }
}

fn hear(node: &Node, client: &Client, may_write: &Result<(), Error>, text: &str) {
    let given = match wire::object(text.as_bytes(), None) {
        Ok(given) => forward(Message::FIELDS, given),
        Err(error) => return client.answer(&failure(&error, &Object::new())),
    };
    let Message { kind, action, request_id, requested_by, reason } = match Message::parse(&given) {
        Ok(message) => message,
        Err(error) => return client.answer(&failure(&error, &given)),
    };
    match kind.as_str() {
        "hello" => {
            client.answer(&json!({
                "type": "hello_ack",
                "requestId": request_id,
                "nodeId": node.config.node_id,
                "version": env!("CARGO_PKG_VERSION"),
                "actions": ["pause", "resume", "drain"],
            }));
            client.answer(&snapshot(node, "hello"));
        }
        "state_request" => client.answer(&snapshot(node, "state_request")),
        _ => {
            let mode = match action.as_deref() {
                Some("pause") => Mode::Paused,
                Some("resume") => Mode::Running,
                Some("drain") => Mode::Draining,
                _ => {
                    let error = wire::invalid("action", "Field `action` is required.");
                    return client.answer(&failure(&error, &given));
                }
            };
            let source = Some("firefox".to_string());
            let change = Change { mode, requested_by, reason, source };
            let result = may_write.clone().and_then(|()| node.change(change));
            let (ok, state, error) = match result {
                Ok(state) => (true, state, Value::Null),
                Err(error) => (false, Value::Null, told(&error)),
            };
            client.answer(&json!({
                "type": "action_result",
                "requestId": request_id,
                "action": action,
                "ok": ok,
                "state": state,
                "error": error,
            }));
        }
    }
}

fn snapshot(node: &Node, reason: &str) -> Value {
    json!({
        "type": "state_snapshot",
        "reason": reason,
        "snapshot": {
            "identity": node.config.identity(),
            "nodeId": node.config.node_id,
            "leaseState": node.lease_state().name(),
            "localApiBase": node.local_api.to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "system": node.system(),
        },
    })
}

/// What cannot be understood, with the request's id as far as there is one.
fn failure(error: &Error, given: &Object) -> Value {
    let request_id =
        given.get("requestId").filter(|id| id.as_str().is_some_and(|id| id.len() <= MAX_ID_BYTES));
    json!({ "type": "error", "requestId": request_id, "error": told(error) })
}

fn told(error: &Error) -> Value {
    json!({ "code": error.code.name, "message": error.message, "details": error.details })
}
