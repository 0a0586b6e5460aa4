//! What each route does: a request becomes a call of the core, its answer becomes JSON.

use std::path::Path;
use std::sync::Arc;

use common::codexd_api::{MAX_PAGE, SessionCreate, TurnCreate};
use common::http::{Answer, Request};
use common::log::Feed;
use common::wire::{Field, Object};
use common::{Error, error};
use serde_json::{Value, json};

use crate::core::{Call, Create, Page, Reply, Snapshot, StartTurn};
use crate::events::{self, Readers};
use crate::shell::Desk;
use crate::views::{self, Place};

/// The parameters of a session, `metadata` included: they live in memory and in every checkpoint.
pub const MAX_SESSION_BYTES: usize = 64 * 1024;

/// What handlers share.
pub struct App {
    /// The way to the core.
    pub desk: Arc<Desk>,
    /// The log.
    pub feed: Arc<Feed>,
    /// Who reads it.
    pub readers: Arc<Readers>,
    /// What views show.
    pub place: Place,
    /// What `service` shows.
    pub service: Service,
}

/// The daemon's own address.
#[derive(Clone, Debug)]
pub struct Service {
    /// As configured.
    pub configured_base_url: String,
    /// As bound.
    pub resolved_base_url: String,
    /// Path of the event stream.
    pub event_stream_path: String,
}

/// `GET /healthz`
pub fn healthz(_: &App, _: &Request) -> Result<Answer, Error> {
    Ok(plain(200, "ok\n".into()))
}

/// `GET /readyz`
pub fn readyz(app: &App, _: &Request) -> Result<Answer, Error> {
    Ok(match app.desk.ask(Call::Readiness) {
        Ok(_) => plain(200, "ready\n".into()),
        Err(error) => plain(503, format!("not_ready: {}\n", error.message)),
    })
}

/// `GET /v1/codexd/status`
pub fn status(app: &App, _: &Request) -> Result<Answer, Error> {
    let Reply::Status(snapshot) = app.desk.ask(Call::Status)? else { return Err(mismatch()) };
    let service = &app.service;
    let websocket_base = service.resolved_base_url.replacen("http", "ws", 1);
    let service = json!({
        "configuredBaseUrl": service.configured_base_url,
        "eventStreamPath": service.event_stream_path,
        "eventStreamUrl": format!("{websocket_base}{}", service.event_stream_path),
        "listening": true,
        "resolvedBaseUrl": service.resolved_base_url,
        "websocketClients": app.readers.websockets(),
    });
    let snapshot = snapshot_view(&snapshot, &app.place, &app.feed)?;
    Ok(Answer::Json { status: 200, data: json!({ "service": service, "snapshot": snapshot }) })
}

/// The snapshot that `status` shows, by HTTP and on the command line.
///
/// # Errors
/// `internal_error` if the log cannot be read.
pub fn snapshot_view(snapshot: &Snapshot, place: &Place, feed: &Feed) -> Result<Value, Error> {
    Ok(json!({
        "identity": views::identity(place, &snapshot.daemon.version),
        "daemon": views::daemon(snapshot, place),
        "sessionRegistry": views::registry(snapshot, place, views::MAX_SESSIONS_BYTES),
        "recentEvents": views::recent(snapshot, feed).map_err(unreadable)?,
        "runRegistry": views::runs(),
        "disk": { "logBytes": feed.bytes(), "oldestSeq": feed.oldest(), "latestSeq": feed.latest() },
    }))
}

/// `GET /v1/codexd/sessions`
pub fn list_sessions(app: &App, request: &Request) -> Result<Answer, Error> {
    let cursor = request.query_value("cursor").map(|text| {
        text.parse().map_err(|_| {
            invalid(
                "cursor",
                format!("Query value `cursor` must be the `nextCursor` of a page, not `{text}`."),
            )
        })
    });
    let page = Page {
        open: request.query_value("status").map(|status| status == "active"),
        purpose: request.query_value("purpose").map(str::to_owned),
        before: cursor.transpose()?,
        limit: request.query_value("limit").and_then(|text| text.parse().ok()).unwrap_or(MAX_PAGE as usize),
    };
    let reply = app.desk.ask(Call::Sessions(page))?;
    let Reply::Sessions { sessions, next_cursor, child_pid } = reply else { return Err(mismatch()) };
    let shown = views::sessions(&sessions, child_pid, &app.place, views::MAX_SESSIONS_BYTES);
    let next_cursor = match sessions.len() - shown.len() {
        0 => next_cursor,
        left_out => sessions.get(left_out).map(|oldest| oldest.seq),
    };
    let next_cursor = next_cursor.map(|seq| seq.to_string());
    Ok(Answer::Json { status: 200, data: json!({ "sessions": shown, "nextCursor": next_cursor }) })
}

/// `GET /v1/codexd/sessions/:id`
pub fn read_session(app: &App, request: &Request) -> Result<Answer, Error> {
    let id = request.param("id").to_owned();
    let Reply::Session(seen) = app.desk.ask(Call::Session { id })? else { return Err(mismatch()) };
    let events = views::session_events(&seen.session, &app.feed).map_err(unreadable)?;
    let data = json!({
        "session": views::session(&seen, &app.place),
        "recentEvents": events,
        "pendingApprovals": [],
    });
    Ok(Answer::Json { status: 200, data })
}

/// `POST /v1/codexd/sessions`
pub fn create_session(app: &App, request: &Request) -> Result<Answer, Error> {
    let map = request.object()?;
    let body = SessionCreate::parse(&map)?;
    if serde_json::to_vec(&map).map_or(0, |text| text.len()) > MAX_SESSION_BYTES {
        let message =
            format!("A session's parameters and metadata may have {MAX_SESSION_BYTES} bytes together.");
        return Err(Error::new(error::PAYLOAD_TOO_LARGE, message));
    }
    check_cwd(body.cwd.as_deref())?;
    let create = Create {
        purpose: body.purpose.unwrap_or_else(|| "duplex".to_owned()),
        metadata: body.metadata.map_or(Value::Null, Value::Object),
        thread_id: body.thread_id,
        params: params(&map, SessionCreate::FIELDS, &["metadata", "purpose", "threadId"]),
    };
    let Reply::Session(seen) = app.desk.ask(Call::Create(Box::new(create)))? else { return Err(mismatch()) };
    Ok(Answer::Json { status: 201, data: json!({ "session": views::session(&seen, &app.place) }) })
}

/// `POST /v1/codexd/turn`
pub fn start_turn(app: &App, request: &Request) -> Result<Answer, Error> {
    let map = request.object()?;
    let body = TurnCreate::parse(&map)?;
    check_cwd(body.cwd.as_deref())?;
    let turn = StartTurn {
        session_id: body.session_id,
        input: input_items(body.input)?,
        expected_turn_id: body.expected_turn_id,
        params: params(&map, TurnCreate::FIELDS, &["sessionId", "input", "expectedTurnId"]),
    };
    // A turn that nobody could be shown must not begin.
    let seat = request.accepts("text/event-stream").then(|| app.readers.enter()).transpose()?;
    let reply = app.desk.ask(Call::StartTurn(Box::new(turn)))?;
    let Reply::Turn { session, turn_id, seq } = reply else { return Err(mismatch()) };
    if let Some(seat) = seat {
        return Ok(events::turn(&app.feed, seat, turn_id, seq));
    }
    let session = views::session(&session, &app.place);
    Ok(Answer::Json { status: 202, data: json!({ "accepted": true, "session": session, "turnId": turn_id }) })
}

/// `GET /v1/codexd/events`
pub fn read_events(app: &App, request: &Request) -> Result<Answer, Error> {
    events::answer(request, &app.feed, &app.readers)
}

fn plain(status: u16, body: String) -> Answer {
    Answer::Text { status, content_type: "text/plain; charset=utf-8", body }
}

/// The fields that reach the child; a `null` is an absent one.
fn params(map: &Object, fields: &[Field], own: &[&str]) -> Object {
    let reaches = |key: &str| fields.iter().any(|field| field.name == key) && !own.contains(&key);
    let taken = map.iter().filter(|(key, value)| reaches(key) && !value.is_null());
    taken.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// A text becomes the one item that the child takes for it.
fn input_items(input: Value) -> Result<Value, Error> {
    match input {
        Value::String(text) => Ok(json!([{ "type": "text", "text": text }])),
        Value::Array(items) if items.iter().all(Value::is_object) => Ok(Value::Array(items)),
        _ => Err(invalid("input", "Field `input` must be a string or a list of input items.")),
    }
}

/// The child takes any `cwd`, and only its commands fail; so it is looked at here.
fn check_cwd(cwd: Option<&str>) -> Result<(), Error> {
    let Some(cwd) = cwd.map(Path::new) else { return Ok(()) };
    let fault = match (cwd.is_absolute(), cwd.is_dir()) {
        (false, _) => "must be an absolute path",
        (true, false) => "is no directory",
        (true, true) => return Ok(()),
    };
    Err(invalid("cwd", format!("Field `cwd` {fault}: {}", cwd.display())))
}

fn invalid(field: &str, message: impl Into<String>) -> Error {
    Error::new(error::INVALID_REQUEST, message).details(json!({ "field": field }))
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(error::INTERNAL_ERROR, "The log could not be read.").because(error)
}

fn mismatch() -> Error {
    Error::new(error::INTERNAL_ERROR, "codexd gave another answer than was asked for.")
}
