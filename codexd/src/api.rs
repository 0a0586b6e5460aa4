//! What each route does: a request becomes a call of the core, its answer becomes JSON.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::codexd_api::{ApprovalAnswer, MAX_PAGE, SessionCreate, TRANSCRIPT_PAGE, TurnCreate};
use common::http::{Answer, Request, Route, Style};
use common::log::{Feed, Seq};
use common::openapi::{self, About, Token};
use common::wire::{self, Field, Object, invalid};
use common::{Error, error, trace};
use serde_json::{Value, json};

use crate::ceilings::Ceilings;
use crate::core::{self, CALL_DEADLINE, Call, Create, Given, Page, Reply, Snapshot, StartTurn, Work};
use crate::disk::Disk;
use crate::events::{self, Readers};
use crate::metrics::Metrics;
use crate::shell::Desk;
use crate::state::{Key, Session};
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
    /// What may be asked for.
    pub limits: Asked,
    /// What is measured, and where transcripts are.
    pub disk: Disk,
    /// What is counted.
    pub metrics: Metrics,
}

/// What callers may ask for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// At the most.
    pub ceilings: Arc<Ceilings>,
    /// Where sessions work that do not say it, if that is known before the child tells it.
    pub default_cwd: Option<PathBuf>,
}

/// The daemon's own address.
#[derive(Clone)]
pub struct Service {
    /// As configured.
    pub configured_base_url: String,
    /// As bound.
    pub resolved_base_url: String,
    /// Path of the event stream.
    pub event_stream_path: String,
    /// The table that is served.
    pub routes: &'static [Route<App>],
    /// The document that is made of it.
    pub openapi: OnceLock<String>,
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

/// `GET /openapi.json`
pub fn openapi(app: &App, _: &Request) -> Result<Answer, Error> {
    let body = app.service.openapi.get_or_init(|| document(&app.service)).clone();
    Ok(Answer::Text { status: 200, content_type: "application/json; charset=utf-8", body })
}

fn document(service: &Service) -> String {
    let document = openapi::document(&About {
        title: "codexd",
        version: env!("CARGO_PKG_VERSION"),
        description: "The only place where Codex runs: sessions, turns, their events and their recovery. Loopback only.",
        server: &service.resolved_base_url,
        style: Style::Camel,
        routes: service.routes,
        token: &|_| Token::Never,
    });
    format!("{document:#}\n")
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
    let snapshot = snapshot_view(&snapshot, &app.place, &app.feed, &app.disk)?;
    Ok(Answer::Json { status: 200, data: json!({ "service": service, "snapshot": snapshot }) })
}

/// The snapshot that `status` shows, by HTTP and on the command line.
///
/// # Errors
/// `internal_error` if the log cannot be read.
pub fn snapshot_view(snapshot: &Snapshot, place: &Place, feed: &Feed, disk: &Disk) -> Result<Value, Error> {
    Ok(json!({
        "identity": views::identity(place, &snapshot.daemon.version),
        "daemon": views::daemon(snapshot, place),
        "sessionRegistry": views::registry(snapshot, place, views::MAX_SESSIONS_BYTES),
        "recentEvents": views::recent(snapshot, feed).map_err(unreadable)?,
        "runRegistry": views::runs(),
        "disk": disk.view(feed),
    }))
}

/// `GET /v1/codexd/sessions`
pub fn list_sessions(app: &App, request: &Request) -> Result<Answer, Error> {
    let before = request.query_value("cursor").map(cursor).transpose()?;
    let page = Page {
        open: request.query_value("status").map(|status| status == "active"),
        purpose: request.query_value("purpose").map(str::to_owned),
        before,
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
    let Reply::Session { seen, pending } = app.desk.ask(Call::Session { id })? else {
        return Err(mismatch());
    };
    let events = views::session_events(&seen.session, &app.feed).map_err(unreadable)?;
    let data = json!({
        "session": views::session(&seen, &app.place),
        "recentEvents": events,
        "pendingApprovals": views::approvals(&pending),
    });
    Ok(Answer::Json { status: 200, data })
}

/// `GET /v1/codexd/sessions/:id/transcript`
pub fn read_transcript(app: &App, request: &Request) -> Result<Answer, Error> {
    let before = request.query_value("cursor").map(cursor).transpose()?;
    let limit = request.query_value("limit").and_then(|text| text.parse().ok());
    let id = request.param("id").to_owned();
    let Reply::Session { seen, .. } = app.desk.ask(Call::Session { id })? else { return Err(mismatch()) };
    let (session, limit) = (&seen.session, limit.unwrap_or(TRANSCRIPT_PAGE as usize));
    let page = app.disk.transcripts().page(&session.id, session.transcript_from, before, limit);
    let page = page.map_err(unread)?;
    let data = json!({
        "turns": page.turns,
        "nextCursor": page.next_cursor.map(|seq| seq.to_string()),
        "truncated": session.transcript_from > 0,
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
    let mut params = params(&map, SessionCreate::FIELDS, &["metadata", "purpose", "threadId"]);
    check_asked(&app.limits, &mut params, body.thread_id.is_none())?;
    let create = Create {
        purpose: body.purpose.unwrap_or_else(|| "duplex".to_owned()),
        metadata: body.metadata.map_or(Value::Null, Value::Object),
        thread_id: body.thread_id,
        params,
        key: Key::of(request, "sessions", SessionCreate::FIELDS, &map)?,
    };
    show_session(app, 201, Call::Work(Work::Create(Box::new(create))))
}

/// `POST /v1/codexd/turn`
pub fn start_turn(app: &App, request: &Request) -> Result<Answer, Error> {
    let map = request.object()?;
    let body = TurnCreate::parse(&map)?;
    let own = ["sessionId", "input", "expectedTurnId", "timeoutMs"];
    let mut params = params(&map, TurnCreate::FIELDS, &own);
    check_asked(&app.limits, &mut params, false)?;
    let turn = StartTurn {
        session_id: body.session_id,
        input: input_items(body.input)?,
        expected_turn_id: body.expected_turn_id,
        params,
        timeout_ms: body.timeout_ms.map(i64::unsigned_abs),
        key: Key::of(request, "turn", TurnCreate::FIELDS, &map)?,
    };
    let wait = wait(request);
    // A turn that nobody could be shown must not begin.
    let seat = request.accepts("text/event-stream").then(|| app.readers.enter()).transpose()?;
    let reply = app.desk.ask(Call::Work(Work::StartTurn(Box::new(turn))))?;
    let Reply::Turn { session, turn_id, seq } = reply else { return Err(mismatch()) };
    if let Some(seat) = seat {
        return Ok(events::turn(&app.feed, seat, turn_id, seq));
    }
    let accepted =
        |session: Value| json!({ "accepted": true, "session": session, "turnId": turn_id, "turn": null });
    let seen = if wait.is_zero() { None } else { turn_seen(app, request, &turn_id, wait)? };
    let Some(seen) = seen else {
        return Ok(Answer::Json { status: 202, data: accepted(views::session(&session, &app.place)) });
    };
    let ended = has_ended(&seen, &turn_id);
    let mut data = accepted(views::session_of(&seen, session.child_pid, &app.place));
    if ended {
        data["turn"] = turn_view(app, &seen, &turn_id);
    }
    Ok(Answer::Json { status: if ended { 200 } else { 202 }, data })
}

/// `GET /v1/codexd/turns/:id`
pub fn read_turn(app: &App, request: &Request) -> Result<Answer, Error> {
    let id = request.param("id");
    let turn = match turn_seen(app, request, id, wait(request))? {
        Some(session) => turn_view(app, &session, id),
        None => {
            let found = app.disk.transcripts().turn_of_log(&app.feed, id).map_err(unreadable)?;
            let message = format!(
                "Turn {id} is no session's current or last one and not in the retained log; \
                 older ones are in their session's transcript."
            );
            found.ok_or_else(|| Error::new(error::NOT_FOUND, message))?.1
        }
    };
    Ok(Answer::Json { status: 200, data: json!({ "turn": turn }) })
}

/// `POST /v1/codexd/sessions/:id/interrupt`
pub fn interrupt(app: &App, request: &Request) -> Result<Answer, Error> {
    show_session(app, 202, Call::Interrupt { id: request.param("id").to_owned() })
}

/// `POST /v1/codexd/sessions/:id/close`
pub fn close(app: &App, request: &Request) -> Result<Answer, Error> {
    show_session(app, 200, Call::Close { id: request.param("id").to_owned() })
}

/// `GET /v1/codexd/approvals`
pub fn list_approvals(app: &App, _: &Request) -> Result<Answer, Error> {
    let Reply::Approvals(pending) = app.desk.ask(Call::Approvals)? else { return Err(mismatch()) };
    Ok(Answer::Json { status: 200, data: json!({ "approvals": views::approvals(&pending) }) })
}

/// `POST /v1/codexd/approvals/:id`
pub fn answer_approval(app: &App, request: &Request) -> Result<Answer, Error> {
    let body = ApprovalAnswer::parse(&request.object()?)?;
    let given = match (body.decision, body.answers) {
        (Some(word), None) => Given::Decision(word),
        (None, Some(answers)) => Given::Answers(answers),
        (None, None) => return Err(invalid("decision", "Field `decision` or `answers` is required.")),
        (Some(_), Some(_)) => {
            return Err(invalid("answers", "Field `answers` and field `decision` exclude each other."));
        }
    };
    let call = Call::Answer(core::Answer { id: request.param("id").to_owned(), given });
    let reply = app.desk.ask(call)?;
    let Reply::Answered { approval, decision, answers } = reply else { return Err(mismatch()) };
    let mut view = views::approval(&approval);
    view["resolution"] = "answered".into();
    view["decision"] = decision.into();
    view["answers"] = answers.into();
    Ok(Answer::Json { status: 200, data: json!({ "approval": view }) })
}

/// `GET /v1/codexd/models`
pub fn models(app: &App, _: &Request) -> Result<Answer, Error> {
    let Reply::Json(answer) = app.desk.ask(Call::Work(Work::Models))? else { return Err(mismatch()) };
    Ok(Answer::Json { status: 200, data: json!({ "models": answer["data"] }) })
}

/// `GET /v1/codexd/events`
pub fn read_events(app: &App, request: &Request) -> Result<Answer, Error> {
    events::answer(request, &app.feed, &app.readers)
}

/// Answers with the session that a call comes to.
fn show_session(app: &App, status: u16, call: Call) -> Result<Answer, Error> {
    let Reply::Session { seen, .. } = app.desk.ask(call)? else { return Err(mismatch()) };
    Ok(Answer::Json { status, data: json!({ "session": views::session(&seen, &app.place) }) })
}

fn plain(status: u16, body: String) -> Answer {
    Answer::Text { status, content_type: "text/plain; charset=utf-8", body }
}

/// The fields that reach the child; a `null` is an absent one.
fn params(map: &Object, fields: &[Field], own: &[&str]) -> Object {
    let reaches = |key: &str| fields.iter().any(|field| field.name == key) && !own.contains(&key);
    let taken = map.iter().filter(|(key, value)| reaches(key) && !value.is_null());
    wire::object_of(taken.map(|(key, value)| (key, value.clone())))
}

/// A text becomes the one item that the child takes for it.
fn input_items(input: Value) -> Result<Value, Error> {
    match input {
        Value::String(text) => Ok(json!([{ "type": "text", "text": text }])),
        Value::Array(items) if items.iter().all(Value::is_object) => Ok(Value::Array(items)),
        _ => Err(invalid("input", "Field `input` must be a string or a list of input items.")),
    }
}

/// Where the page of older ones ends.
fn cursor(text: &str) -> Result<Seq, Error> {
    text.parse().map_err(|_| {
        let message = format!("Query value `cursor` must be the `nextCursor` of a page, not `{text}`.");
        invalid("cursor", message)
    })
}

/// How long the caller wants to wait for the end of a turn.
fn wait(request: &Request) -> Duration {
    let text = request.query_value("waitMs").and_then(|text| text.parse().ok());
    Duration::from_millis(text.unwrap_or(0))
}

/// The session whose current or last turn this is, once the turn has ended or `wait` is over.
fn turn_seen(app: &App, request: &Request, id: &str, wait: Duration) -> Result<Option<Arc<Session>>, Error> {
    let call = Call::Turn { id: id.to_owned(), wait };
    match app.desk.ask_for(call, wait + CALL_DEADLINE, &|| request.abandoned())? {
        Reply::TurnSeen(session) => Ok(session),
        _ => Err(mismatch()),
    }
}

fn has_ended(session: &Session, turn_id: &str) -> bool {
    let last = session.last.as_ref().filter(|last| last.id == turn_id);
    last.is_none_or(|last| !last.status.runs())
}

/// How a turn stands, by the state, and what it said and cost, by the transcript.
fn turn_view(app: &App, session: &Session, turn_id: &str) -> Value {
    let last = session.last.as_ref().filter(|last| last.id == turn_id);
    let begin = last.map_or(0, |last| last.begin).max(session.transcript_from);
    // How it stands is to be told even if what it said cannot be.
    let kept = app.disk.transcripts().turn(&session.id, turn_id, begin).unwrap_or_else(|error| {
        trace::warn(None, format_args!("the transcript of session {} cannot be read: {error}", session.id));
        Some(json!({ "truncated": true }))
    });
    let kept = kept.unwrap_or_default();
    json!({
        "turnId": turn_id,
        "status": last.map(|last| last.status),
        "text": kept["text"],
        "truncated": kept["truncated"] == true,
        "usage": kept["usage"],
        "error": last.and_then(|last| last.error.clone()),
    })
}

/// What is asked for must be within the node's ceilings. The child takes any `cwd`, and only its commands fail; so it is
/// looked at here.
fn check_asked(limits: &Asked, params: &mut Object, is_new: bool) -> Result<(), Error> {
    let beyond = |(field, why): (&str, String)| invalid(field, format!("Field `{field}`: {why}."));
    limits.ceilings.asked(params).map_err(beyond)?;
    let asked = params.get("cwd").and_then(Value::as_str).map(PathBuf::from);
    if let Some(cwd) = &asked {
        let fault = match (cwd.is_absolute(), cwd.is_dir()) {
            (false, _) => Some("must be an absolute path"),
            (true, false) => Some("is no directory"),
            (true, true) => None,
        };
        if let Some(fault) = fault {
            return Err(invalid("cwd", format!("Field `cwd` {fault}: {}", cwd.display())));
        }
    }
    let Some(cwd) = asked.clone().or_else(|| limits.default_cwd.clone().filter(|_| is_new)) else {
        return Ok(());
    };
    if limits.ceilings.cwd_roots.is_empty() {
        return Ok(());
    }
    let resolved = cwd.canonicalize().map_err(|error| invalid("cwd", format!("Field `cwd`: {error}.")))?;
    limits.ceilings.cwd(&resolved).map_err(|why| beyond(("cwd", why)))?;
    if asked.is_some() {
        // What was looked at is what is worked in, whatever becomes of a link meanwhile.
        params.insert("cwd".into(), resolved.display().to_string().into());
    }
    Ok(())
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(error::INTERNAL_ERROR, "The log could not be read.").because(error)
}

fn unread(error: std::io::Error) -> Error {
    Error::new(error::INTERNAL_ERROR, "The transcript could not be read.").because(error)
}

fn mismatch() -> Error {
    Error::new(error::INTERNAL_ERROR, "codexd gave another answer than was asked for.")
}
