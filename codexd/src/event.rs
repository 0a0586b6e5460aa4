//! What happened, as the log keeps it and as readers see it: one line, one form.
//!
//! Owns the words of events. What `State` needs to be rebuilt is in them, so they are also what recovery reads.

use common::log::Seq;
use common::time::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::state::{Settings, TurnStatus};

/// An event with its place and time.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number.
    pub seq: Seq,
    /// When it was written down.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Everything that changes the state, and every notification of the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "detail", rename_all_fields = "camelCase")]
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
    /// The child has answered the handshake and takes work.
    #[serde(rename = "child.ready")]
    ChildReady { epoch: u64, version: Option<String>, user_agent: String, login_required: bool },
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
    TurnRequested { session_id: String, thread_id: String, client_turn_id: String, changes: Box<Settings> },
    /// The child took the turn.
    #[serde(rename = "turn.accepted")]
    TurnAccepted { session_id: String, thread_id: String, turn_id: String },
    /// The child did not take the turn.
    #[serde(rename = "turn.refused")]
    TurnRefused { session_id: String, thread_id: String, reason: String },
    /// The caller's text went into the running turn.
    #[serde(rename = "turn.steered")]
    TurnSteered { session_id: String, thread_id: String, turn_id: String },
    /// How a turn stands, by the child's history: nobody was told when it happened.
    #[serde(rename = "turn.settled")]
    TurnSettled { session_id: String, thread_id: String, turn_id: String, status: TurnStatus },
    /// The turn ended without the child saying so.
    #[serde(rename = "turn.interrupted")]
    TurnInterrupted { session_id: String, thread_id: String, turn_id: Option<String>, reason: String },
    /// A notification of the child.
    #[serde(skip)]
    App(Notice),
    /// A type that this version does not know; it changes nothing.
    #[serde(skip)]
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
}

/// A notification of the child, with what the state needs of it picked out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notice {
    /// As the child names it: `turn/started`.
    pub method: String,
    /// The session it belongs to, if codexd has one.
    pub session_id: Option<String>,
    /// The child's thread.
    pub thread_id: Option<String>,
    /// The child's turn.
    pub turn_id: Option<String>,
    /// The item of the turn.
    pub item_id: Option<String>,
    /// What `turn/completed` says of the turn.
    pub end: Option<TurnEnd>,
    /// All parameters, ids added; empty in replay, where nobody asks.
    pub detail: Map<String, Value>,
    /// How long its line was.
    pub bytes: usize,
}

/// How a turn ended, in the child's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnEnd {
    /// The status that the child gives.
    pub status: TurnStatus,
    /// The message of its error.
    pub error: Option<String>,
}

impl Notice {
    /// Picks the ids out of a notification's parameters, and adds those that stand deeper to the top.
    pub fn new(method: String, detail: Map<String, Value>) -> Notice {
        let whole = Value::Object(detail);
        let known = Known::deserialize(&whole).unwrap_or_default();
        let mut notice = known.into_notice(method);
        if let Value::Object(detail) = whole {
            notice.detail = detail;
        }
        let ids = [("threadId", notice.thread_id.clone()), ("turnId", notice.turn_id.clone())];
        for (key, id) in ids {
            if let Some(id) = id {
                notice.detail.insert(key.to_owned(), Value::String(id));
            }
        }
        notice
    }

    /// Whether it is a piece of something that comes whole later.
    pub fn is_delta(&self) -> bool {
        self.method.ends_with("/delta") || self.method.ends_with("Delta")
    }

    /// Whether readers of recent events are spared it: deltas, token usage, rate limits.
    pub fn is_noise(&self) -> bool {
        self.is_delta()
            || matches!(self.method.as_str(), "thread/tokenUsage/updated" | "account/rateLimits/updated")
    }

    fn event_type(&self) -> String {
        match self.method.as_str() {
            "item/agentMessage/delta" => "app-server.turn.message.delta".to_owned(),
            method => format!("app-server.{}", method.replace('/', ".")),
        }
    }
}

/// What of a notification's parameters is looked at. Whatever has a wrong type is not there: the same when it comes from
/// the child as when it is read back from the log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Known {
    session_id: Lenient<String>,
    thread_id: Lenient<String>,
    turn_id: Lenient<String>,
    item_id: Lenient<String>,
    thread: Lenient<Identified>,
    turn: Lenient<Identified>,
    item: Lenient<Identified>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Identified {
    id: Lenient<String>,
    status: Lenient<TurnStatus>,
    error: Lenient<TurnError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TurnError {
    message: Lenient<String>,
}

/// A value of this type, or nothing.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Is(T),
    IsNot(IgnoredAny),
}

impl<T> Default for Lenient<T> {
    fn default() -> Lenient<T> {
        Lenient::IsNot(IgnoredAny)
    }
}

impl<T> Lenient<T> {
    fn get(self) -> Option<T> {
        if let Lenient::Is(value) = self { Some(value) } else { None }
    }
}

impl Known {
    fn into_notice(self, method: String) -> Notice {
        let inner = |part: Lenient<Identified>| part.get().unwrap_or_default();
        let (thread, turn, item) = (inner(self.thread), inner(self.turn), inner(self.item));
        let end = (method == "turn/completed").then(|| TurnEnd {
            status: turn.status.get().unwrap_or_default(),
            error: turn.error.get().and_then(|error| error.message.get()),
        });
        Notice {
            thread_id: self.thread_id.get().or(thread.id.get()),
            turn_id: self.turn_id.get().or(turn.id.get()),
            item_id: self.item_id.get().or(item.id.get()),
            session_id: self.session_id.get(),
            end,
            method,
            detail: Map::new(),
            bytes: 0,
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
        | Event::TurnInterrupted { .. }
        | Event::TurnRefused { .. } => "warn",
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
        Event::TurnRequested { session_id, .. } => format!("Turn requested on session {session_id}."),
        Event::TurnAccepted { turn_id, .. } => format!("Turn {turn_id} accepted."),
        Event::TurnRefused { reason, .. } => format!("Turn refused: {reason}."),
        Event::TurnSteered { turn_id, .. } => format!("Turn {turn_id} steered."),
        Event::TurnSettled { turn_id, .. } => format!("Turn {turn_id} settled from app-server's history."),
        Event::TurnInterrupted { reason, .. } => format!("Turn interrupted: {reason}."),
        Event::App(notice) => format!("app-server sent {}.", notice.method),
        Event::Other => String::new(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    seq: Seq,
    created_at: Timestamp,
    level: &'a str,
    r#type: &'a str,
    message: &'a str,
    detail: &'a Map<String, Value>,
}

/// The line of the log, which is also what readers get. It begins `{"seq":N,`.
pub fn render(record: &Record) -> String {
    let (level, message) = (level(&record.event), message(&record.event));
    let line = |r#type: &str, detail: &Map<String, Value>| {
        let line = Line { seq: record.seq, created_at: record.at, level, r#type, message: &message, detail };
        serde_json::to_string(&line).unwrap_or_default() // strings and maps of strings: nothing in them can fail
    };
    if let Event::App(notice) = &record.event {
        return line(&notice.event_type(), &notice.detail);
    }
    match serde_json::to_value(&record.event) {
        Ok(Value::Object(mut tagged)) => match (tagged.remove("type"), tagged.remove("detail")) {
            (Some(Value::String(r#type)), Some(Value::Object(detail))) => line(&r#type, &detail),
            _ => line("unknown", &Map::new()),
        },
        _ => line("unknown", &Map::new()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    seq: Seq,
    created_at: Timestamp,
    r#type: String,
}

#[derive(Deserialize)]
struct AppBody {
    detail: Known,
}

/// Reads a line that `render` wrote, of this version or another.
///
/// # Errors
/// A sentence for the log: what the line lacks.
pub fn parse(line: &str) -> Result<Record, String> {
    let head: Head = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let event = match head.r#type.strip_prefix("app-server.") {
        Some("turn.message.delta") => Event::App(app(line, "item/agentMessage/delta".to_owned())?),
        Some(method) => Event::App(app(line, method.replace('.', "/"))?),
        None => match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) if error.to_string().starts_with("unknown variant") => Event::Other,
            Err(error) => return Err(error.to_string()),
        },
    };
    Ok(Record { seq: head.seq, at: head.created_at, event })
}

fn app(line: &str, method: String) -> Result<Notice, String> {
    let body: AppBody = serde_json::from_str(line).map_err(|error| error.to_string())?;
    Ok(body.detail.into_notice(method))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn events() -> Vec<Event> {
        let ids = || ("session-1".to_owned(), "t".to_owned());
        let text = || "why \"so\"\n".to_owned();
        let settings =
            Settings { cwd: Some("/w".into()), sandbox: json!({"type": "readOnly"}), ..Settings::default() };
        let (session_id, thread_id) = ids();
        let created = SessionCreated {
            session_id,
            thread_id,
            purpose: "duplex".into(),
            ephemeral: false,
            metadata: json!({"a": [1, null]}),
            settings: settings.clone(),
            origin: Map::new(),
        };
        let with_ids = |make: fn(String, String) -> Event| make(ids().0, ids().1);
        vec![
            Event::LogCreated { log_id: "abc".into() },
            Event::DaemonStarted {
                pid: 1,
                process_mark: "m".into(),
                process_started_at: Timestamp::from_millis(1),
                version: "0".into(),
            },
            Event::DaemonStopping { reason: text() },
            Event::ChildSpawned { epoch: 1, pid: 2, process_mark: "m".into() },
            Event::ChildReady { epoch: 1, version: None, user_agent: "x".into(), login_required: true },
            Event::ChildExited { epoch: 1, reason: text(), retry_in_ms: None },
            Event::ChildFailed { epoch: 1, reason: text(), retry_in_ms: 5 },
            Event::ChildLineDropped { epoch: 1, bytes: u64::MAX },
            Event::ChildRequestRefused {
                epoch: 1,
                method: "x/y".into(),
                session_id: Some("s".into()),
                thread_id: None,
                turn_id: Some("u".into()),
            },
            Event::SessionCreated(Box::new(created)),
            Event::SessionResumed {
                session_id: ids().0,
                thread_id: "t2".into(),
                previous_thread_id: "t".into(),
                settings: Box::new(settings.clone()),
            },
            with_ids(|session_id, thread_id| Event::SessionClosed {
                session_id,
                thread_id,
                reason: "done".into(),
            }),
            with_ids(|session_id, thread_id| Event::SessionRemoved { session_id, thread_id }),
            Event::TurnRequested {
                session_id: ids().0,
                thread_id: ids().1,
                client_turn_id: "c".into(),
                changes: Box::new(settings),
            },
            with_ids(|session_id, thread_id| Event::TurnAccepted {
                session_id,
                thread_id,
                turn_id: "u".into(),
            }),
            with_ids(|session_id, thread_id| Event::TurnRefused {
                session_id,
                thread_id,
                reason: "no".into(),
            }),
            with_ids(|session_id, thread_id| Event::TurnSteered {
                session_id,
                thread_id,
                turn_id: "u".into(),
            }),
            with_ids(|session_id, thread_id| {
                let status = TurnStatus::Failed;
                Event::TurnSettled { session_id, thread_id, turn_id: "u".into(), status }
            }),
            with_ids(|session_id, thread_id| Event::TurnInterrupted {
                session_id,
                thread_id,
                turn_id: None,
                reason: "gone".into(),
            }),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (index, event) in events().into_iter().enumerate() {
            let record = Record { seq: index as Seq + 1, at: Timestamp::from_millis(1), event };
            let line = render(&record);
            assert!(line.starts_with(&format!("{{\"seq\":{},\"createdAt\":\"", record.seq)), "{line}");
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(parse(&line), Ok(record), "{line}");
        }
    }

    #[test]
    fn a_notification_keeps_what_the_state_needs() {
        let detail = json!({"threadId": "t", "turn": {"id": "u", "status": "failed", "error": {"message": "m"}, "x": 1}});
        let mut notice = Notice::new("turn/completed".into(), detail.as_object().unwrap().clone());
        notice.detail.insert("sessionId".into(), "s".into());
        let record = Record { seq: 7, at: Timestamp::from_millis(1), event: Event::App(notice) };
        let line = render(&record);
        assert!(
            line.contains("\"type\":\"app-server.turn.completed\"") && line.contains("\"turnId\":\"u\""),
            "{line}"
        );
        let Ok(Record { event: Event::App(read), .. }) = parse(&line) else { panic!("{line}") };
        let end = TurnEnd { status: TurnStatus::Failed, error: Some("m".into()) };
        assert_eq!(
            (read.method.as_str(), read.session_id.as_deref(), read.end),
            ("turn/completed", Some("s"), Some(end))
        );
        let delta = Notice::new("item/agentMessage/delta".into(), Map::new());
        let line = render(&Record { seq: 8, at: Timestamp::from_millis(1), event: Event::App(delta) });
        assert!(line.contains("\"level\":\"debug\",\"type\":\"app-server.turn.message.delta\""), "{line}");
    }

    #[test]
    fn ids_of_a_wrong_type_are_no_ids_live_and_in_replay() {
        let odd = [
            json!({"threadId": 7, "turnId": null}),
            json!({"threadId": "t", "item": "abc", "turn": [1]}),
            json!({"thread": {"id": {}}, "turn": {"id": "u", "status": "odd", "error": "text"}}),
            json!({"threadId": "t", "turn": {"status": 5, "error": {"message": 1}}}),
        ];
        for detail in odd {
            for method in ["x/y", "turn/completed", "", "a.b", "turn.message.delta"] {
                let live = Notice::new(method.to_owned(), detail.as_object().unwrap().clone());
                let (thread_id, turn_id, end) =
                    (live.thread_id.clone(), live.turn_id.clone(), live.end.clone());
                let line = render(&Record { seq: 1, at: Timestamp::from_millis(1), event: Event::App(live) });
                let Ok(Record { event: Event::App(read), .. }) = parse(&line) else { panic!("{line}") };
                assert_eq!((read.thread_id, read.turn_id, read.end), (thread_id, turn_id, end), "{line}");
            }
        }
    }

    #[test]
    fn an_event_of_a_newer_version_changes_nothing_and_a_broken_one_is_an_error() {
        let line = |kind: &str| {
            format!(
                "{{\"seq\":1,\"createdAt\":\"2026-01-01T00:00:00.000Z\",\"type\":\"{kind}\",\"detail\":{{}}}}"
            )
        };
        assert_eq!(parse(&line("session.sung")).map(|record| record.event), Ok(Event::Other));
        assert!(parse(&line("turn.accepted")).is_err());
        assert!(parse("{\"seq\":1").is_err());
    }
}
