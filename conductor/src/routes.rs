//! Every route on one screen: dispatch and documents read this table.

use common::codexd_api::{
    ApprovalAnswer, EVENTS_QUERY, SESSIONS_QUERY, SessionCreate, TRANSCRIPT_QUERY, TURN_QUERY, TurnCreate,
};
use common::http::{Route, Surface};

use crate::api::{self, Node};
use crate::host::{self, Exec, ReadFile, UNION, WriteFile};
use crate::system::{self, ChangeBody};
use crate::{codex, controllers, firefox, metrics, tasks};

/// The table. What lies under `/v1/codex` goes to codexd, and so do the fields that its rows name.
pub(crate) static ROUTES: &[Route<Node>] = &[
    Route::probe("probe.healthz", "/healthz", "Whether the process serves: `ok`.", api::healthz),
    Route::probe("probe.readyz", "/readyz", "Whether the node can work: `ready`, or 503.", api::readyz),
    Route::probe("probe.rolez", "/rolez", "Whether the node leads: `leader` or `standby`.", api::rolez),
    Route::probe(
        "probe.runtime",
        "/v1/runtime",
        "The runtime snapshot: identity, lease, addresses, warnings.",
        api::runtime,
    ),
    Route::probe("probe.metrics", "/metrics", "Metrics in Prometheus' text format.", metrics::metrics),
    Route::read("service.health", "/health", "Health as JSON.", api::health).on(Surface::Both),
    Route::read("service.version", "/version", "Version and build.", api::version).on(Surface::Both),
    Route::read("system.state", "/v1/system/state", "The mode, who set it, and the lease.", system::state)
        .on(Surface::Control),
    Route::write(
        "system.pause",
        "/v1/system/pause",
        "Starts no more runs.",
        ChangeBody::FIELDS,
        system::pause,
    )
    .on(Surface::Control),
    Route::write(
        "system.resume",
        "/v1/system/resume",
        "Starts runs again.",
        ChangeBody::FIELDS,
        system::resume,
    )
    .on(Surface::Control),
    Route::write(
        "system.drain",
        "/v1/system/drain",
        "Lets the runs that there are finish, and starts none.",
        ChangeBody::FIELDS,
        system::drain,
    )
    .on(Surface::Control),
    Route::read(
        "controllers.list",
        "/v1/controllers",
        "The nodes that could lead, by their last heartbeat.",
        controllers::list,
    )
    .query(controllers::QUERY),
    Route::read("tasks.list", "/v1/tasks", "The tasks, newest first.", tasks::list).query(tasks::TASKS_QUERY),
    Route::read("tasks.read", "/v1/tasks/:task_id", "One task.", tasks::read),
    Route::read("tasks.logs.read", "/v1/tasks/:task_id/logs", "What a task's runs wrote.", tasks::read)
        .query(tasks::LOGS_QUERY),
    Route::read("runs.list", "/v1/runs", "The runs, newest first.", tasks::runs)
        .query(tasks::RUNS_QUERY)
        .on(Surface::Hidden),
    Route::read("runs.read", "/v1/runs/:run_id", "One run.", tasks::run).on(Surface::Hidden),
    Route::read(
        "firefox.ws",
        "/ws/firefox",
        "The browser bridge: a WebSocket with the system state, pushed, and actions on it.",
        firefox::connect,
    )
    .on(Surface::None),
    Route::read("codex.status", "/v1/codex", "State of codexd, and what can be done with it.", codex::status),
    Route::read(
        "codex.sessions.list",
        "/v1/codex/sessions",
        "The Codex sessions, in order of creation.",
        codex::sessions,
    )
    .query(SESSIONS_QUERY),
    Route::read(
        "codex.sessions.read",
        "/v1/codex/sessions/:session_id",
        "One session, with its recent events.",
        codex::session,
    ),
    Route::write(
        "codex.sessions.create",
        "/v1/codex/sessions",
        "Creates a session, or resumes a thread as one.",
        SessionCreate::FIELDS,
        codex::create_session,
    )
    .success(&[201]),
    Route::write(
        "codex.sessions.interrupt",
        "/v1/codex/sessions/:session_id/interrupt",
        "Ends the running turn of a session.",
        &[],
        codex::interrupt,
    )
    .success(&[202]),
    Route::write(
        "codex.sessions.close",
        "/v1/codex/sessions/:session_id/close",
        "Ends a session, which stays readable.",
        &[],
        codex::close,
    ),
    Route::read(
        "codex.sessions.transcript",
        "/v1/codex/sessions/:session_id/transcript",
        "A session's turns in order: what was asked, said and done.",
        codex::transcript,
    )
    .query(TRANSCRIPT_QUERY),
    Route::write(
        "codex.turn.create",
        "/v1/codex/turn",
        "Submits a turn; with `Accept: text/event-stream` its events follow.",
        TurnCreate::FIELDS,
        codex::create_turn,
    )
    .query(TURN_QUERY)
    .success(&[200, 202]),
    Route::read(
        "codex.turn.read",
        "/v1/codex/turns/:turn_id",
        "One turn: its status, text, usage and error.",
        codex::turn,
    )
    .query(TURN_QUERY),
    Route::read(
        "codex.events",
        "/v1/codex/events",
        "Events: a page of them, or all as they come by WebSocket or with `Accept: text/event-stream`.",
        codex::events,
    )
    .query(EVENTS_QUERY),
    Route::read(
        "codex.approvals.list",
        "/v1/codex/approvals",
        "What the agent asks and waits for.",
        codex::approvals,
    ),
    Route::write(
        "codex.approvals.answer",
        "/v1/codex/approvals/:approval_id",
        "Answers what the agent asks: a decision, or answers to its questions.",
        ApprovalAnswer::FIELDS,
        codex::answer_approval,
    ),
    Route::read("codex.models", "/v1/codex/models", "The models that a turn may use.", codex::models),
    Route::write("host.exec", "/v1/exec", "Runs a command with `sh -c`.", Exec::FIELDS, host::exec)
        .on(Surface::Control)
        .token()
        .returns(UNION),
    Route::write(
        "host.files.read",
        "/v1/files/read",
        "Reads a whole file of at most 10 MiB.",
        ReadFile::FIELDS,
        host::read,
    )
    .on(Surface::Control)
    .token()
    .returns(UNION),
    Route::write(
        "host.files.write",
        "/v1/files/write",
        "Writes a whole file: readers see the old one or the new one.",
        WriteFile::FIELDS,
        host::write,
    )
    .on(Surface::Control)
    .token()
    .returns(UNION),
];
