//! Every route on one screen: dispatch and documents read this table.

use common::codexd_api::{
    APPROVAL_ANSWER, APPROVAL_EXAMPLE, APPROVALS_ANSWER, ApprovalAnswer, EVENTS_ANSWER, EVENTS_QUERY,
    MODELS_ANSWER, SESSION_ANSWER, SESSION_EXAMPLE, SESSION_READ_ANSWER, SESSIONS_ANSWER, SESSIONS_QUERY,
    SessionCreate, TRANSCRIPT_ANSWER, TRANSCRIPT_QUERY, TURN_ANSWER, TURN_EXAMPLE, TURN_QUERY,
    TURN_READ_ANSWER, TurnCreate,
};
use common::http::{Asks, Route, Surface};

use crate::answers;
use crate::api::{self, Node};
use crate::host::{self, Exec, ReadFile, UNION, WriteFile};
use crate::system::{self, ChangeBody};
use crate::{codex, controllers, describe, firefox, metrics, tasks};

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
    )
    .returns(answers::RUNTIME),
    Route::probe("probe.metrics", "/metrics", "Metrics in Prometheus' text format.", metrics::metrics),
    Route::read("service.describe", "/describe", "What this node is, and where to read on.", describe::all)
        .on(Surface::None)
        .returns(answers::DESCRIBE),
    Route::read(
        "service.describe.business",
        "/describe/business",
        "How to have work done: every endpoint, with its parameters, body and answer.",
        describe::business,
    )
    .on(Surface::None)
    .returns(answers::BUSINESS),
    Route::read(
        "service.describe.control",
        "/describe/control",
        "How to change the node itself: every endpoint, with its parameters, body and answer.",
        describe::control,
    )
    .on(Surface::None)
    .returns(answers::CONTROL),
    Route::read("service.openapi", "/openapi.json", "All of it as OpenAPI 3.1.", describe::openapi)
        .on(Surface::Both)
        .bare("application/json"),
    Route::read("service.health", "/health", "Health as JSON.", api::health)
        .on(Surface::Both)
        .returns(answers::HEALTH),
    Route::read("service.version", "/version", "Version and build.", api::version)
        .on(Surface::Both)
        .returns(answers::VERSION),
    Route::read(
        "system.capabilities",
        "/v1/capabilities",
        "Every endpoint in short, and how the node is.",
        describe::capabilities,
    )
    .on(Surface::Both)
    .returns(answers::CAPABILITIES),
    Route::read("system.state", "/v1/system/state", "The mode, who set it, and the lease.", system::state)
        .on(Surface::Control)
        .returns(answers::SYSTEM.fields),
    Route::write(
        "system.pause",
        "/v1/system/pause",
        "Starts no more runs.",
        ChangeBody::FIELDS,
        system::pause,
    )
    .on(Surface::Control)
    .example(system::EXAMPLE)
    .returns(answers::SYSTEM.fields),
    Route::write(
        "system.resume",
        "/v1/system/resume",
        "Starts runs again.",
        ChangeBody::FIELDS,
        system::resume,
    )
    .on(Surface::Control)
    .example(system::EXAMPLE)
    .returns(answers::SYSTEM.fields),
    Route::write(
        "system.drain",
        "/v1/system/drain",
        "Lets the runs that there are finish, and starts none.",
        ChangeBody::FIELDS,
        system::drain,
    )
    .on(Surface::Control)
    .example(system::EXAMPLE)
    .returns(answers::SYSTEM.fields),
    Route::read(
        "controllers.list",
        "/v1/controllers",
        "The nodes that could lead, by their last heartbeat.",
        controllers::list,
    )
    .query(controllers::QUERY)
    .returns(controllers::ANSWER),
    Route::read("tasks.list", "/v1/tasks", "The tasks, newest first.", tasks::list)
        .example("limit=5")
        .query(tasks::TASKS_QUERY)
        .returns(tasks::TASKS_ANSWER),
    Route::write(
        "tasks.create",
        "/v1/tasks",
        "Has the node do something by itself, once: turns of Codex and commands, one after the other.",
        tasks::TaskCreate::FIELDS,
        tasks::create,
    )
    .keyed()
    .example(tasks::EXAMPLE)
    .success(&[201])
    .returns(tasks::TASK_ANSWER),
    Route::write(
        "tasks.cancel",
        "/v1/tasks/:task_id/cancel",
        "Ends a task: at once if it waits, else what runs of it is ended.",
        tasks::CancelBody::FIELDS,
        tasks::cancel,
    )
    .example(tasks::CANCEL_EXAMPLE)
    .returns(tasks::TASK_ANSWER),
    Route::read("tasks.read", "/v1/tasks/:task_id", "One task.", tasks::read).returns(tasks::TASK_ANSWER),
    Route::read("tasks.logs.read", "/v1/tasks/:task_id/logs", "What a task's runs wrote.", tasks::logs)
        .query(tasks::LOGS_QUERY)
        .example("after=0&wait_ms=10000")
        .returns(tasks::LOGS_ANSWER),
    Route::read("runs.list", "/v1/runs", "The runs, newest first.", tasks::runs)
        .query(tasks::RUNS_QUERY)
        .on(Surface::Hidden)
        .returns(tasks::RUNS_ANSWER),
    Route::read("runs.read", "/v1/runs/:run_id", "One run.", tasks::run)
        .on(Surface::Hidden)
        .returns(tasks::RUN_ANSWER),
    Route::read(
        "firefox.ws",
        "/ws/firefox",
        "The browser bridge: a WebSocket with the system state, pushed, and actions on it.",
        firefox::connect,
    )
    .on(Surface::None)
    .success(&[101]),
    Route::read("codex.status", "/v1/codex", "State of codexd, and what can be done with it.", codex::status)
        .asks(Asks::Codexd)
        .returns(answers::CODEX_STATUS),
    Route::read(
        "codex.sessions.list",
        "/v1/codex/sessions",
        "The Codex sessions, in order of creation.",
        codex::sessions,
    )
    .query(SESSIONS_QUERY)
    .asks(Asks::Codexd)
    .returns(SESSIONS_ANSWER),
    Route::read(
        "codex.sessions.read",
        "/v1/codex/sessions/:session_id",
        "One session, with its recent events.",
        codex::session,
    )
    .asks(Asks::Codexd)
    .returns(SESSION_READ_ANSWER),
    Route::write(
        "codex.sessions.create",
        "/v1/codex/sessions",
        "Creates a session, or resumes a thread as one.",
        SessionCreate::FIELDS,
        codex::create_session,
    )
    .success(&[201])
    .keyed()
    .asks(Asks::Codexd)
    .example(SESSION_EXAMPLE)
    .returns(SESSION_ANSWER),
    Route::write(
        "codex.sessions.interrupt",
        "/v1/codex/sessions/:session_id/interrupt",
        "Ends the running turn of a session.",
        &[],
        codex::interrupt,
    )
    .success(&[202])
    .asks(Asks::Codexd)
    .after("codex.turn.create")
    .returns(SESSION_ANSWER),
    Route::write(
        "codex.sessions.close",
        "/v1/codex/sessions/:session_id/close",
        "Ends a session, which stays readable.",
        &[],
        codex::close,
    )
    .asks(Asks::Codexd)
    .returns(SESSION_ANSWER),
    Route::read(
        "codex.sessions.transcript",
        "/v1/codex/sessions/:session_id/transcript",
        "A session's turns in order: what was asked, said and done.",
        codex::transcript,
    )
    .query(TRANSCRIPT_QUERY)
    .asks(Asks::Codexd)
    .returns(TRANSCRIPT_ANSWER),
    Route::write(
        "codex.turn.create",
        "/v1/codex/turn",
        "Submits a turn; with `Accept: text/event-stream` its events follow.",
        TurnCreate::FIELDS,
        codex::create_turn,
    )
    .query(TURN_QUERY)
    .success(&[200, 202])
    .streams()
    .keyed()
    .asks(Asks::Codexd)
    .example(TURN_EXAMPLE)
    .returns(TURN_ANSWER),
    Route::read(
        "codex.turn.read",
        "/v1/codex/turns/:turn_id",
        "One turn: its status, text, usage and error.",
        codex::turn,
    )
    .query(TURN_QUERY)
    .asks(Asks::Codexd)
    .returns(TURN_READ_ANSWER),
    Route::read(
        "codex.events",
        "/v1/codex/events",
        "Events: a page of them, or all as they come by WebSocket or with `Accept: text/event-stream`.",
        codex::events,
    )
    .query(EVENTS_QUERY)
    .success(&[101, 200])
    .streams()
    .asks(Asks::Codexd)
    .example("limit=5")
    .returns(EVENTS_ANSWER),
    Route::read(
        "codex.approvals.list",
        "/v1/codex/approvals",
        "What the agent asks and waits for.",
        codex::approvals,
    )
    .asks(Asks::Codexd)
    .returns(APPROVALS_ANSWER),
    Route::write(
        "codex.approvals.answer",
        "/v1/codex/approvals/:approval_id",
        "Answers what the agent asks: a decision, or answers to its questions.",
        ApprovalAnswer::FIELDS,
        codex::answer_approval,
    )
    .asks(Asks::Codexd)
    .example(APPROVAL_EXAMPLE)
    .returns(APPROVAL_ANSWER),
    Route::read("codex.models", "/v1/codex/models", "The models that a turn may use.", codex::models)
        .asks(Asks::Codexd)
        .returns(MODELS_ANSWER),
    Route::write("host.exec", "/v1/exec", "Runs a command with `sh -c`.", Exec::FIELDS, host::exec)
        .on(Surface::Control)
        .token()
        .keyed()
        .example(host::EXEC_EXAMPLE)
        .returns(UNION),
    Route::write(
        "host.files.read",
        "/v1/files/read",
        "Reads a whole file of at most 10 MiB.",
        ReadFile::FIELDS,
        host::read,
    )
    .reads()
    .on(Surface::Control)
    .token()
    .example(host::READ_EXAMPLE)
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
    .example(host::WRITE_EXAMPLE)
    .returns(UNION),
];
