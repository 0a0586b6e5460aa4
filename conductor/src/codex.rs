//! The routes under `/v1/codex`: what of a call is passed on, and the mapping of codexd's status.
//!
//! Keeps no session and understands no event; `upstream` makes the request and knows how it can fail.

use std::time::Duration;

use common::Error;
use common::codexd_api::{
    APPROVAL, APPROVALS, ApprovalAnswer, CLOSE, EVENTS, EVENTS_QUERY, INTERRUPT, MAX_WAIT_MS, MODELS,
    SESSION, SESSIONS, SESSIONS_QUERY, STATUS, SessionCreate, TRANSCRIPT, TRANSCRIPT_QUERY, TURN, TURN_QUERY,
    TURN_READ, TurnCreate, encoded, with_id,
};
use common::config::LocalUrl;
use common::http::{Answer, Request};
use common::wire::{self, Field, Object};
use serde_json::{Value, json};

use crate::api::Node;
use crate::describe::codex_routes;
use crate::upstream::{Call, Codexd};

/// `GET /v1/codex`.
pub(crate) fn status(node: &Node, request: &Request) -> Result<Answer, Error> {
    let (_, data) = node.codexd.call(&call(request, STATUS, &[]))?;
    Ok(Answer::Json {
        status: 200,
        data: status_view(&data, node.config.codexd.as_ref(), codex_routes(node)),
    })
}

/// `GET /v1/codex/sessions`.
pub(crate) fn sessions(node: &Node, request: &Request) -> Result<Answer, Error> {
    node.codexd.pass(&call(request, SESSIONS, SESSIONS_QUERY))
}

/// `GET /v1/codex/sessions/:session_id`.
pub(crate) fn session(node: &Node, request: &Request) -> Result<Answer, Error> {
    node.codexd.pass(&call(request, &with_id(SESSION, request.param("session_id")), &[]))
}

/// `GET /v1/codex/sessions/:session_id/transcript`.
pub(crate) fn transcript(node: &Node, request: &Request) -> Result<Answer, Error> {
    node.codexd.pass(&call(request, &with_id(TRANSCRIPT, request.param("session_id")), TRANSCRIPT_QUERY))
}

/// `POST /v1/codex/sessions`.
pub(crate) fn create_session(node: &Node, request: &Request) -> Result<Answer, Error> {
    post(node, call(request, SESSIONS, &[]), SessionCreate::FIELDS, request.object()?)
}

/// `POST /v1/codex/sessions/:session_id/interrupt`.
pub(crate) fn interrupt(node: &Node, request: &Request) -> Result<Answer, Error> {
    let path = with_id(INTERRUPT, request.param("session_id"));
    post(node, call(request, &path, &[]), &[], request.object()?)
}

/// `POST /v1/codex/sessions/:session_id/close`.
pub(crate) fn close(node: &Node, request: &Request) -> Result<Answer, Error> {
    post(node, call(request, &with_id(CLOSE, request.param("session_id")), &[]), &[], request.object()?)
}

/// `POST /v1/codex/turn`, also as a stream.
pub(crate) fn create_turn(node: &Node, request: &Request) -> Result<Answer, Error> {
    let mut given = request.object()?;
    if let Some(prompt) = given.remove("prompt") {
        given.entry("input").or_insert(prompt);
    }
    post(node, Call { may_stream: true, ..call(request, TURN, TURN_QUERY) }, TurnCreate::FIELDS, given)
}

/// `GET /v1/codex/turns/:turn_id`.
pub(crate) fn turn(node: &Node, request: &Request) -> Result<Answer, Error> {
    node.codexd.pass(&call(request, &with_id(TURN_READ, request.param("turn_id")), TURN_QUERY))
}

/// `GET /v1/codex/events`: a page, a stream or a WebSocket.
pub(crate) fn events(node: &Node, request: &Request) -> Result<Answer, Error> {
    follow(&node.codexd, request)
}

/// codexd's events in the form that the request asks for.
///
/// # Errors
/// The ways in which codexd can fail.
pub fn follow(codexd: &Codexd, request: &Request) -> Result<Answer, Error> {
    let call = Call { may_stream: true, ..call(request, EVENTS, EVENTS_QUERY) };
    if request.wants_websocket() { codexd.tunnel(&call) } else { codexd.pass(&call) }
}

/// `GET /v1/codex/approvals`.
pub(crate) fn approvals(node: &Node, request: &Request) -> Result<Answer, Error> {
    node.codexd.pass(&call(request, APPROVALS, &[]))
}

/// `POST /v1/codex/approvals/:approval_id`.
pub(crate) fn answer_approval(node: &Node, request: &Request) -> Result<Answer, Error> {
    let path = with_id(APPROVAL, request.param("approval_id"));
    post(node, call(request, &path, &[]), ApprovalAnswer::FIELDS, request.object()?)
}

/// `GET /v1/codex/models`.
pub(crate) fn models(node: &Node, request: &Request) -> Result<Answer, Error> {
    node.codexd.pass(&call(request, MODELS, &[]))
}

/// The call with a body: those of the given fields that codexd knows.
fn post(node: &Node, call: Call, fields: &[Field], given: Object) -> Result<Answer, Error> {
    node.codexd.pass(&Call { body: Some(Value::Object(forward(fields, given)).to_string()), ..call })
}

/// A call without a body to a path of codexd, with those query values that `query` names.
fn call<'a>(request: &'a Request, path: &str, query: &[Field]) -> Call<'a> {
    let query = forward_query(query, request.query());
    let wait = wait(&query);
    let encode = |(name, value): &(&str, &str)| format!("{name}={}", encoded(value));
    let query: Vec<String> = query.iter().map(encode).collect();
    Call { request, path: path.to_string(), query: query.join("&"), body: None, may_stream: false, wait }
}

/// The fields of `given` that the table has, under its names; they may be spelt in the other case, too, and the table's
/// own wins. Values stay as they are.
pub(crate) fn forward(fields: &[Field], mut given: Object) -> Object {
    let mut take = |name: &str| {
        let own = given.remove(name);
        own.or_else(|| given.remove(&snake(name))).or_else(|| given.remove(&camel(name)))
    };
    wire::object_of(fields.iter().filter_map(|field| Some((field.name, take(field.name)?))))
}

fn forward_query<'a>(fields: &[Field], given: &'a [(String, String)]) -> Vec<(&'static str, &'a str)> {
    let find = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let pick = |field: &Field| Some((field.name, find(field.name).or_else(|| find(&snake(field.name)))?));
    fields.iter().filter_map(pick).collect()
}

/// How long the caller wants codexd to wait; at most what codexd takes.
fn wait(query: &[(&str, &str)]) -> Duration {
    let wait =
        query.iter().find(|(name, _)| *name == "waitMs").and_then(|(_, value)| value.parse::<u64>().ok());
    Duration::from_millis(wait.unwrap_or(0).min(MAX_WAIT_MS.unsigned_abs()))
}

/// `threadId` as `thread_id`.
fn snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// `thread_id` as `threadId`.
fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let mut out = words.next().unwrap_or_default().to_string();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.push_str(letters.as_str());
    }
    out
}

/// codexd's status as conductor shows it. What is missing or of another type is `null`; a missing list counts 0.
fn status_view(data: &Value, base: Option<&LocalUrl>, routes: Vec<Value>) -> Value {
    let pick = |pointer: &str, fits: fn(&Value) -> bool| {
        data.pointer(pointer).filter(|value| fits(value)).cloned().unwrap_or(Value::Null)
    };
    let text = |pointer: &str| pick(pointer, Value::is_string);
    let flag = |pointer: &str| pick(pointer, Value::is_boolean);
    let number = |pointer: &str| pick(pointer, Value::is_number);
    let list = |pointer: &str| data.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let sessions = list("/snapshot/sessionRegistry/sessions");
    let counted = |name: &str, count: usize| {
        let own = data.pointer(&format!("/snapshot/sessionRegistry/{name}")).and_then(Value::as_u64);
        own.unwrap_or(count as u64)
    };
    let active = sessions.iter().filter(|session| session["status"] == "active").count();
    json!({
        "backend": "independent_codexd",
        "daemon": {
            "daemon_id": text("/snapshot/identity/daemonId"),
            "node_id": text("/snapshot/identity/nodeId"),
            "version": text("/snapshot/identity/version"),
            "started": flag("/snapshot/daemon/started"),
            "started_at": text("/snapshot/daemon/startedAt"),
            "updated_at": text("/snapshot/daemon/updatedAt"),
            "child": {
                "endpoint": text("/snapshot/daemon/child/endpoint"),
                "last_error": text("/snapshot/daemon/child/lastError"),
                "pid": number("/snapshot/daemon/child/pid"),
                "status": text("/snapshot/daemon/child/status"),
                "strategy": text("/snapshot/daemon/child/strategy"),
            },
        },
        "proxy": {
            "route_prefix": "/v1/codex",
            "target_base_url": base.map(LocalUrl::to_string),
            "transport": "local_http",
        },
        "recent_events": {
            "count": list("/snapshot/recentEvents/events").len(),
            "updated_at": text("/snapshot/recentEvents/updatedAt"),
        },
        "routes": routes,
        "service": {
            "event_stream_url": text("/service/eventStreamUrl"),
            "listening": flag("/service/listening"),
            "resolved_base_url": text("/service/resolvedBaseUrl"),
            "websocket_clients": number("/service/websocketClients"),
        },
        "sessions": {
            "active_count": counted("activeCount", active),
            "count": counted("count", sessions.len()),
            "updated_at": text("/snapshot/sessionRegistry/updatedAt"),
        },
        "surface": ["status", "sessions", "turn"],
        "notes": [
            "codexd is a daemon of its own; conductor passes these calls on and keeps no session.",
            "A turn's progress is in the events, and in the session's lastTurnStatus and recentEvents.",
        ],
    })
}

#[cfg(test)]
mod tests;
