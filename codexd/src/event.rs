//! What happened, as the log keeps it and as readers see it: one line, one form.
//!
//! Owns the words of events. What `State` needs to be rebuilt is in them, so they are also what recovery reads.

use common::record;
use common::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use notice::Notice;

use crate::state::{Key, Settings, TurnStatus};
use notice::Known;

mod notice;

/// An event with its place and time.
pub type Record = record::Record<Event>;

/// Everything that changes the state, and every notification of the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum Event {
    /// A log without a past begins, and this is its name.
    #[serde(rename = "log.created")]
    LogCreated { log_id: String },
    /// A process of codexd took up the state.
    #[serde(rename = "daemon.started")]
    DaemonStarted { pid: u32, process_mark: String, process_started_at: Timestamp, version: String },
    /// It stops in good order.
    #[serde(rename = "daemon.stopping")]
    DaemonStopping { reason: String },
    /// A child process runs; it has not answered yet.
    #[serde(rename = "child.spawned")]
    ChildSpawned { epoch: u64, pid: u32, process_mark: String },
    /// An app-server that somebody else runs was reached; it has not answered yet.
    #[serde(rename = "child.connected")]
    ChildConnected { epoch: u64, endpoint: String },
    /// The child has answered the handshake and takes work.
    #[serde(rename = "child.ready")]
    ChildReady {
        epoch: u64,
        version: Option<String>,
        user_agent: String,
        login_required: bool,
        warning: Option<String>,
    },
    /// The child is gone.
    #[serde(rename = "child.exited")]
    ChildExited { epoch: u64, reason: String, retry_in_ms: Option<u64> },
    /// The child cannot be brought up by trying soon again.
    #[serde(rename = "child.failed")]
    ChildFailed { epoch: u64, reason: String, retry_in_ms: u64 },
    /// The child sent a line that is longer than anyone may send.
    #[serde(rename = "child.line_dropped")]
    ChildLineDropped { epoch: u64, bytes: u64 },
    /// A request of the child that codexd does not know was refused.
    #[serde(rename = "child.request_refused")]
    ChildRequestRefused {
        epoch: u64,
        method: String,
        session_id: Option<String>,
        thread_id: Option<String>,
        turn_id: Option<String>,
    },
    /// A session begins; its id is made of this event's number.
    #[serde(rename = "session.created")]
    SessionCreated(Box<SessionCreated>),
    /// A session's thread is loaded in a new child.
    #[serde(rename = "session.resumed")]
    SessionResumed {
        session_id: String,
        thread_id: String,
        previous_thread_id: String,
        settings: Box<Settings>,
    },
    /// A session takes no more turns.
    #[serde(rename = "session.closed")]
    SessionClosed { session_id: String, thread_id: String, reason: String },
    /// A session is forgotten, to make room for others.
    #[serde(rename = "session.removed")]
    SessionRemoved { session_id: String, thread_id: String },
    /// A turn is about to be asked of the child.
    #[serde(rename = "turn.requested")]
    TurnRequested(Box<TurnRequested>),
    /// The child took the turn.
    #[serde(rename = "turn.accepted")]
    TurnAccepted { session_id: String, thread_id: String, turn_id: String },
    /// The child did not take the turn.
    #[serde(rename = "turn.refused")]
    TurnRefused { session_id: String, thread_id: String, reason: String },
    /// The caller's text went into the running turn.
    #[serde(rename = "turn.steered")]
    TurnSteered {
        session_id: String,
        thread_id: String,
        turn_id: String,
        #[serde(default)]
        input: Value,
        key: Option<Key>,
    },
    /// Somebody wants the running turn to end; the child is told as soon as it can hear.
    #[serde(rename = "turn.interrupt_requested")]
    TurnInterruptRequested { session_id: String, thread_id: String, turn_id: Option<String>, reason: String },
    /// How a turn stands, by the child's history: nobody was told when it happened.
    #[serde(rename = "turn.settled")]
    TurnSettled { session_id: String, thread_id: String, turn_id: String, status: TurnStatus },
    /// The turn ended without the child saying so.
    #[serde(rename = "turn.interrupted")]
    TurnInterrupted { session_id: String, thread_id: String, turn_id: Option<String>, reason: String },
    /// An item began, and no end of it will be told.
    #[serde(rename = "item.closed")]
    ItemClosed {
        session_id: String,
        thread_id: String,
        turn_id: Option<String>,
        item_id: String,
        reason: String,
    },
    /// The child waits for somebody's word; its id is made of this event's number.
    #[serde(rename = "approval.requested")]
    ApprovalRequested(Box<ApprovalRequested>),
    /// It waits no more.
    #[serde(rename = "approval.resolved")]
    ApprovalResolved {
        approval_id: String,
        session_id: Option<String>,
        thread_id: Option<String>,
        turn_id: Option<String>,
        resolution: Resolution,
        decision: Option<String>,
        answers: Option<Value>,
        execpolicy_amendment: Option<Value>,
        reason: Option<String>,
    },
    /// What was kept of a session's turns went, to make room for others.
    #[serde(rename = "transcript.removed")]
    TranscriptRemoved { session_id: String, thread_id: String, bytes: u64 },
    /// A notification of the child.
    #[serde(skip)]
    App(Notice),
    /// A type that this version does not know; it changes nothing.
    #[serde(other)]
    Other,
}

/// What a session is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionCreated {
    /// `session-` and what makes it unique.
    pub session_id: String,
    /// The child's name for it.
    pub thread_id: String,
    /// `duplex` or `worker`.
    pub purpose: String,
    /// Lost with its child.
    pub ephemeral: bool,
    /// The caller's own object.
    pub metadata: Value,
    /// What the child made of the caller's parameters.
    pub settings: Settings,
    /// What the child cannot be asked for again, and must be told when a thread is begun anew.
    pub origin: Map<String, Value>,
    /// The caller's name for the request.
    pub key: Option<Key>,
}

/// What a turn is asked for with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TurnRequested {
    /// Where.
    pub session_id: String,
    /// The child's name for it.
    pub thread_id: String,
    /// What marks the turn in the child's history, where a version of it keeps that.
    pub client_turn_id: String,
    /// The settings that it will leave behind once the child takes it.
    pub changes: Settings,
    /// The input items; cut as a detail of the child's is.
    #[serde(default)]
    pub input: Value,
    /// The deadline that its caller gave it.
    pub timeout_ms: Option<u64>,
    /// The caller's name for the request.
    pub key: Option<Key>,
}

/// A request of the child that somebody must answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalRequested {
    /// `approval-…`.
    pub approval_id: String,
    /// What is wanted.
    pub kind: ApprovalKind,
    /// The session it belongs to.
    pub session_id: String,
    /// The child's name for it.
    pub thread_id: String,
    /// The turn that waits.
    pub turn_id: Option<String>,
    /// The item of the turn.
    pub item_id: Option<String>,
    /// The child's name for the request.
    pub request_id: Value,
    /// The child that asked.
    pub epoch: u64,
    /// When it is declined, if nobody has answered.
    pub deadline_at: Timestamp,
    /// What it asks, in its words.
    pub request: Map<String, Value>,
}

/// What an approval is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApprovalKind {
    /// A command is to run.
    Command,
    /// Files are to be changed.
    FileChange,
    /// The agent asks its user something.
    Question,
}

/// How an approval came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Resolution {
    /// Somebody answered.
    Answered,
    /// Nobody did in time: declined.
    Expired,
    /// The child that asked does not wait any more.
    Lost,
    /// Too many waited already: declined.
    Overflow,
}

impl Event {
    /// The session that it is about, if that is there already.
    pub fn session_id(&self) -> Option<&str> {
        match self {
            Event::SessionResumed { session_id, .. }
            | Event::SessionClosed { session_id, .. }
            | Event::SessionRemoved { session_id, .. }
            | Event::TurnAccepted { session_id, .. }
            | Event::TurnRefused { session_id, .. }
            | Event::TurnSteered { session_id, .. }
            | Event::TurnSettled { session_id, .. }
            | Event::TurnInterruptRequested { session_id, .. }
            | Event::TurnInterrupted { session_id, .. }
            | Event::ItemClosed { session_id, .. }
            | Event::TranscriptRemoved { session_id, .. } => Some(session_id),
            Event::TurnRequested(requested) => Some(&requested.session_id),
            Event::ApprovalRequested(asked) => Some(&asked.session_id),
            Event::ApprovalResolved { session_id, .. } | Event::ChildRequestRefused { session_id, .. } => {
                session_id.as_deref()
            }
            Event::App(notice) => notice.session_id.as_deref(),
            _ => None,
        }
    }

    /// The session whose transcript keeps this event.
    pub fn transcribed(&self) -> Option<&str> {
        let kept = match self {
            Event::TurnRequested(_)
            | Event::TurnAccepted { .. }
            | Event::TurnRefused { .. }
            | Event::TurnSteered { .. }
            | Event::TurnSettled { .. }
            | Event::TurnInterruptRequested { .. }
            | Event::TurnInterrupted { .. }
            | Event::ItemClosed { .. } => true,
            Event::App(notice) => notice.is_transcribed(),
            _ => false,
        };
        self.session_id().filter(|_| kept)
    }

    /// The turn that ends with this event.
    pub fn ends_turn(&self) -> Option<&str> {
        match self {
            Event::App(notice) if notice.method == "turn/completed" => notice.turn_id.as_deref(),
            Event::TurnInterrupted { turn_id, .. } => turn_id.as_deref(),
            Event::TurnSettled { turn_id, .. } => Some(turn_id),
            _ => None,
        }
    }

    /// How a turn ends with this event, if one does.
    pub fn turn_end(&self) -> Option<TurnStatus> {
        match self {
            Event::App(notice) if notice.method == "turn/completed" => {
                notice.end.as_ref().map(|end| end.status)
            }
            Event::TurnInterrupted { .. } => Some(TurnStatus::Interrupted),
            Event::TurnSettled { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// How much an event matters to whoever reads the log.
fn level(event: &Event) -> &'static str {
    match event {
        Event::ChildFailed { .. } => "error",
        Event::ChildExited { retry_in_ms: None, .. } => "info", // it was asked to
        Event::ChildExited { .. }
        | Event::ChildLineDropped { .. }
        | Event::ChildRequestRefused { .. }
        | Event::ChildReady { warning: Some(_), .. }
        | Event::ItemClosed { .. }
        | Event::TranscriptRemoved { .. }
        | Event::TurnInterrupted { .. }
        | Event::TurnRefused { .. } => "warn",
        Event::ApprovalResolved { resolution, .. } if *resolution != Resolution::Answered => "warn",
        // A rule in the child's home holds for everybody, and for good.
        Event::ApprovalResolved { execpolicy_amendment: Some(_), .. } => "warn",
        Event::App(notice) if notice.is_delta() => "debug",
        Event::App(notice) if matches!(notice.method.as_str(), "error" | "configWarning" | "warning") => {
            "warn"
        }
        _ => "info",
    }
}

fn message(event: &Event) -> String {
    match event {
        Event::LogCreated { log_id } => format!("Log {log_id} begins."),
        Event::DaemonStarted { version, .. } => format!("codexd {version} started."),
        Event::DaemonStopping { reason } => format!("codexd stops: {reason}."),
        Event::ChildSpawned { pid, .. } => format!("app-server runs as process {pid}."),
        Event::ChildConnected { endpoint, .. } => format!("app-server is reached at {endpoint}."),
        Event::ChildReady { warning: Some(warning), .. } => format!("app-server is ready, but {warning}."),
        Event::ChildReady { version: Some(version), .. } => format!("app-server {version} is ready."),
        Event::ChildReady { .. } => "app-server is ready.".to_owned(),
        Event::ChildExited { reason, .. } => format!("app-server ended: {reason}."),
        Event::ChildFailed { reason, .. } => format!("app-server does not come up: {reason}."),
        Event::ChildLineDropped { bytes, .. } => {
            format!("A line of {bytes} bytes from app-server was dropped.")
        }
        Event::ChildRequestRefused { method, .. } => format!("app-server's request {method} was refused."),
        Event::SessionCreated(created) => format!("Session {} created.", created.session_id),
        Event::SessionResumed { session_id, .. } => format!("Session {session_id} resumed."),
        Event::SessionClosed { session_id, reason, .. } => format!("Session {session_id} closed: {reason}."),
        Event::SessionRemoved { session_id, .. } => format!("Session {session_id} removed to make room."),
        Event::TurnRequested(requested) => format!("Turn requested on session {}.", requested.session_id),
        Event::TurnAccepted { turn_id, .. } => format!("Turn {turn_id} accepted."),
        Event::TurnRefused { reason, .. } => format!("Turn refused: {reason}."),
        Event::TurnSteered { turn_id, .. } => format!("Turn {turn_id} steered."),
        Event::TurnSettled { turn_id, .. } => format!("Turn {turn_id} settled from app-server's history."),
        Event::TurnInterruptRequested { reason, .. } => format!("The turn is to be interrupted: {reason}."),
        Event::TurnInterrupted { reason, .. } => format!("Turn interrupted: {reason}."),
        Event::ItemClosed { item_id, reason, .. } => format!("Item {item_id} closed: {reason}."),
        Event::ApprovalRequested(asked) => format!("Approval {} requested.", asked.approval_id),
        Event::ApprovalResolved { approval_id, execpolicy_amendment: Some(_), .. } => {
            format!("Approval {approval_id} resolved, with a rule that holds for good.")
        }
        Event::ApprovalResolved { approval_id, resolution, .. } => match resolution {
            Resolution::Answered => format!("Approval {approval_id} answered."),
            Resolution::Expired => format!("Approval {approval_id} declined: nobody answered in time."),
            Resolution::Lost => format!("Approval {approval_id} lost."),
            Resolution::Overflow => format!("Approval {approval_id} declined: too many wait already."),
        },
        Event::TranscriptRemoved { session_id, .. } => {
            format!("The transcript of session {session_id} was removed to make room.")
        }
        Event::App(notice) => format!("app-server sent {}.", notice.method),
        Event::Other => String::new(),
    }
}

/// The line of the log, which is also what readers get. It begins `{"seq":N,`.
pub fn render(record: &Record) -> String {
    let (level, message) = (level(&record.event), message(&record.event));
    if let Event::App(notice) = &record.event {
        return record::render(record, level, &notice.event_type(), &message, &notice.detail);
    }
    let (r#type, detail) = record::parts(&record.event).unwrap_or_default();
    record::render(record, level, &r#type, &message, &detail)
}

impl record::Event for Event {
    const CREATED_AT: &str = "createdAt";

    fn read<'de, D: Deserializer<'de>>(r#type: &str, detail: D) -> Result<Event, D::Error> {
        let method = match r#type.strip_prefix("app-server.") {
            Some("turn.message.delta") => "item/agentMessage/delta".to_owned(),
            Some(method) => method.replace('.', "/"),
            None => return record::variant(r#type, detail),
        };
        Ok(Event::App(Known::deserialize(detail)?.into_notice(method)))
    }
}

/// Reads a line that `render` wrote, of this version or another.
///
/// # Errors
/// A sentence for the log: what the line lacks.
pub fn parse(line: &str) -> Result<Record, String> {
    record::parse(line)
}

#[cfg(test)]
mod tests;
