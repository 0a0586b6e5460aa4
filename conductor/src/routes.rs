//! Every route on one screen: dispatch and documents read this table.

use common::codexd_api::{
    ApprovalAnswer, EVENTS_QUERY, SESSIONS_QUERY, SessionCreate, TRANSCRIPT_QUERY, TURN_QUERY, TurnCreate,
};
use common::http::{Access, Handler, Kind, Method, Route, Surface};
use common::wire::Field;

use crate::api::{self, Node};
use crate::codex;

/// The table. What lies under `/v1/codex` goes to codexd, and so do the fields that its rows name.
pub(crate) static ROUTES: &[Route<Node>] = &[
    probe("probe.healthz", "/healthz", "Whether the process serves: `ok`.", api::healthz),
    probe("probe.readyz", "/readyz", "Whether the node can work: `ready`, or 503.", api::readyz),
    probe("probe.rolez", "/rolez", "Whether the node leads: `leader` or `standby`.", api::rolez),
    probe(
        "probe.runtime",
        "/v1/runtime",
        "The runtime snapshot: identity, lease, addresses, warnings.",
        api::runtime,
    ),
    read("service.health", "/health", Surface::Both, "Health as JSON.", &[], api::health),
    read("service.version", "/version", Surface::Both, "Version and build.", &[], api::version),
    read(
        "codex.status",
        "/v1/codex",
        Surface::Business,
        "State of codexd, and what can be done with it.",
        &[],
        codex::status,
    ),
    read(
        "codex.sessions.list",
        "/v1/codex/sessions",
        Surface::Business,
        "The Codex sessions, in order of creation.",
        SESSIONS_QUERY,
        codex::sessions,
    ),
    read(
        "codex.sessions.read",
        "/v1/codex/sessions/:session_id",
        Surface::Business,
        "One session, with its recent events.",
        &[],
        codex::session,
    ),
    write(
        "codex.sessions.create",
        "/v1/codex/sessions",
        "Creates a session, or resumes a thread as one.",
        &[],
        SessionCreate::FIELDS,
        codex::create_session,
    ),
    write(
        "codex.sessions.interrupt",
        "/v1/codex/sessions/:session_id/interrupt",
        "Ends the running turn of a session.",
        &[],
        &[],
        codex::interrupt,
    ),
    write(
        "codex.sessions.close",
        "/v1/codex/sessions/:session_id/close",
        "Ends a session, which stays readable.",
        &[],
        &[],
        codex::close,
    ),
    read(
        "codex.sessions.transcript",
        "/v1/codex/sessions/:session_id/transcript",
        Surface::Business,
        "A session's turns in order: what was asked, said and done.",
        TRANSCRIPT_QUERY,
        codex::transcript,
    ),
    write(
        "codex.turn.create",
        "/v1/codex/turn",
        "Submits a turn; with `Accept: text/event-stream` its events follow.",
        TURN_QUERY,
        TurnCreate::FIELDS,
        codex::create_turn,
    ),
    read(
        "codex.turn.read",
        "/v1/codex/turns/:turn_id",
        Surface::Business,
        "One turn: its status, text, usage and error.",
        TURN_QUERY,
        codex::turn,
    ),
    read(
        "codex.events",
        "/v1/codex/events",
        Surface::Business,
        "Events: a page of them, or all as they come by WebSocket or with `Accept: text/event-stream`.",
        EVENTS_QUERY,
        codex::events,
    ),
    read(
        "codex.approvals.list",
        "/v1/codex/approvals",
        Surface::Business,
        "What the agent asks and waits for.",
        &[],
        codex::approvals,
    ),
    write(
        "codex.approvals.answer",
        "/v1/codex/approvals/:approval_id",
        "Answers what the agent asks: a decision, or answers to its questions.",
        &[],
        ApprovalAnswer::FIELDS,
        codex::answer_approval,
    ),
    read(
        "codex.models",
        "/v1/codex/models",
        Surface::Business,
        "The models that a turn may use.",
        &[],
        codex::models,
    ),
];

const fn probe(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    handler: Handler<Node>,
) -> Route<Node> {
    Route { kind: Kind::Probe, ..read(id, path, Surface::Diagnostics, summary, &[], handler) }
}

const fn read(
    id: &'static str,
    path: &'static str,
    surface: Surface,
    summary: &'static str,
    query: &'static [Field],
    handler: Handler<Node>,
) -> Route<Node> {
    let (method, kind, access) = (Method::Get, Kind::Read, Access::Open);
    Route { id, method, path, kind, surface, access, describe: true, summary, query, body: None, handler }
}

const fn write(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [Field],
    body: &'static [Field],
    handler: Handler<Node>,
) -> Route<Node> {
    let row = read(id, path, Surface::Business, summary, query, handler);
    Route { method: Method::Post, kind: Kind::Write, body: Some(body), ..row }
}
