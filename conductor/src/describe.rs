//! What a caller reads first: the table of routes and a few facts of the node as JSON, so that nothing else need be read.
//!
//! No call goes upstream. Knows no route beyond those that its examples name, and leaves out the ones that are not there.

mod endpoints;

use common::Error;
use common::config::LocalUrl;
use common::example::Examples;
use common::http::{Answer, Kind, Request, Route, Style, Surface};
use common::openapi::{self, About};
use serde_json::{Value, json};

use crate::access;
use crate::api::Node;
use crate::config::firefox_ws_url;
use crate::lease::lock;
use crate::routes::ROUTES;

use endpoints::{brief, full, is_shown, types};

/// What it is called by those who look for it.
const NAME: &str = "baa-conductor-daemon";
const DESCRIPTION: &str = "The front door of a node on which Codex works: health, discovery, system mode, tasks, host \
    operations, and everything that codexd can do.";
const TOKEN_HEADER: &str = "Authorization: Bearer <BAA_SHARED_TOKEN>";
/// How a host operation can fail, in `data.error.code`.
const HOST_ERRORS: [&str; 13] = [
    "INVALID_INPUT",
    "FILE_NOT_FOUND",
    "FILE_ALREADY_EXISTS",
    "FILE_TOO_LARGE",
    "NOT_A_FILE",
    "NOT_A_DIRECTORY",
    "NOT_UTF8",
    "PERMISSION_DENIED",
    "EXEC_EXIT_NON_ZERO",
    "EXEC_TIMEOUT",
    "EXEC_OUTPUT_LIMIT",
    "EXEC_FAILED",
    "TCC_PERMISSION_DENIED",
];

/// A call that is shown: a title, the row's id, and a query string.
type Shown = (&'static str, &'static str, &'static str);

const FIRST_EXAMPLES: &[Shown] = &[
    ("Read what work can be asked for", "service.describe.business", ""),
    ("Read what can be done with the node itself", "service.describe.control", ""),
    ("List everything in short", "system.capabilities", ""),
    ("Inspect codex", "codex.status", ""),
    ("Read the system state", "system.state", ""),
    ("Pause the node", "system.pause", ""),
    ("Let it work again", "system.resume", ""),
    ("Run a command on the host", "host.exec", ""),
];
const BUSINESS_EXAMPLES: &[Shown] = &[
    ("List tasks", "tasks.list", "limit=5"),
    ("Give the node a task", "tasks.create", ""),
    ("Follow a task", "tasks.logs.read", "after=0&wait_ms=10000"),
    ("Inspect codex", "codex.status", ""),
    ("Create a session", "codex.sessions.create", ""),
    ("Send a turn and wait for what comes of it", "codex.turn.create", "waitMs=60000"),
    ("Read a conversation back", "codex.sessions.transcript", ""),
    ("Read the oldest events", "codex.events", ""),
];
const CONTROL_EXAMPLES: &[Shown] = &[
    ("Read the system state", "system.state", ""),
    ("Pause the node", "system.pause", ""),
    ("Let it work again", "system.resume", ""),
    ("Run a command on the host", "host.exec", ""),
    ("Write a file", "host.files.write", ""),
    ("Read a file", "host.files.read", ""),
];

/// `GET /describe`.
pub(crate) fn all(node: &Node, request: &Request) -> Result<Answer, Error> {
    let _describing = lock(&node.describing);
    let at = |path: &str, summary: &str| json!({ "path": path, "summary": summary });
    let data = json!({
        "name": NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "description": DESCRIPTION,
        "origin": access::origin(node, request),
        "auth": auth(node),
        "system": node.system(),
        "websocket": websocket(node),
        "codex": codex(node),
        "describe_endpoints": {
            "business": at("/describe/business", "Work: Codex sessions and turns, tasks. Read this first to have work done."),
            "control": at("/describe/control", "The node itself: system mode, commands and files of the host."),
            "openapi": at("/openapi.json", "The same for programs, as OpenAPI 3.1."),
        },
        "host_operations": host_operations(node),
        "capabilities": {
            "read_endpoints": of_kind(node, Kind::Read),
            "write_endpoints": of_kind(node, Kind::Write),
            "diagnostics": of_kind(node, Kind::Probe),
        },
        "examples": examples(node, request, FIRST_EXAMPLES),
        "notes": [
            "To have work done read /describe/business, to change the node itself /describe/control.",
            "Answers are {\"ok\": true, \"data\": …} or {\"ok\": false, \"error\": CODE, \"message\": …, \"details\": …}.",
            "/v1/codex is passed on to codexd, a daemon of its own; conductor keeps no session.",
            "/healthz, /readyz, /rolez and /v1/runtime are probes, for whoever watches the node.",
        ],
    });
    answer(data)
}

/// `GET /describe/business`.
pub(crate) fn business(node: &Node, request: &Request) -> Result<Answer, Error> {
    let _describing = lock(&node.describing);
    let data = json!({
        "surface": "business",
        "recommended_flow": [
            "POST /v1/codex/sessions makes a session: keep data.session.sessionId.",
            "POST /v1/codex/turn?waitMs=60000 with sessionId and input says something in it, and waits for data.turn.text.",
            "If the turn still runs then (202), GET /v1/codex/turns/:turn_id?waitMs=60000 waits on.",
            "GET /v1/codex/approvals tells what the agent waits for; what nobody answers is declined.",
            "POST /v1/tasks with steps has the node do something by itself, across restarts: keep data.task.task_id.",
            "GET /v1/tasks/:task_id/logs?after=0&wait_ms=60000 follows it: go on with data.next_after until data.status is completed, failed or canceled.",
        ],
        "system": node.system(),
        "websocket": websocket(node),
        "codex": codex(node),
        "endpoints": on(node, Surface::Business),
        "types": types(shown_on(Surface::Business)),
        "examples": examples(node, request, BUSINESS_EXAMPLES),
        "notes": [
            "A value that is not `always` there may be null.",
            "Bodies and query strings of /v1/codex may be spelt in camelCase or snake_case; unknown fields are left out.",
            "With the header `Accept: text/event-stream` an endpoint with `event_stream` sends events as they come.",
            "With the header `Idempotency-Key` a retry does nothing twice, where `idempotency_key` says so.",
            "A task with a step of kind exec needs the token, as host operations do; tasks wait while the mode is not running.",
            "System mode and host operations are in /describe/control.",
        ],
    });
    answer(data)
}

/// `GET /describe/control`.
pub(crate) fn control(node: &Node, request: &Request) -> Result<Answer, Error> {
    let _describing = lock(&node.describing);
    let data = json!({
        "surface": "control",
        "recommended_flow": [
            "GET /v1/system/state tells the mode and who leads.",
            "POST /v1/system/pause, /resume or /drain changes the mode, and answers with the new state.",
            "Host operations need the token; look at host_operations first.",
        ],
        "system": node.system(),
        "websocket": websocket(node),
        "auth": auth(node),
        "codex": codex(node),
        "host_operations": host_operations(node),
        "endpoints": on(node, Surface::Control),
        "types": types(shown_on(Surface::Control)),
        "examples": examples(node, request, CONTROL_EXAMPLES),
        "notes": [
            "A value that is not `always` there may be null.",
            "A host operation that fails past the token is HTTP 200 with data.ok false and data.error.",
            "Codex sessions and tasks are in /describe/business.",
        ],
    });
    answer(data)
}

/// `GET /v1/capabilities`.
pub(crate) fn capabilities(node: &Node, _: &Request) -> Result<Answer, Error> {
    let _describing = lock(&node.describing);
    let config = &node.config;
    let data = json!({
        "recommended_flow": [
            "GET /describe",
            "GET /describe/business to have work done: /v1/codex, /v1/tasks",
            "GET /describe/control for the system mode, and for commands and files of the host",
            "Endpoints of kind read change nothing; call those of kind write only if that is meant",
        ],
        "read_endpoints": of_kind(node, Kind::Read),
        "write_endpoints": of_kind(node, Kind::Write),
        "diagnostics": of_kind(node, Kind::Probe),
        "codex": codex(node),
        "runtime": {
            "identity": config.identity(),
            "lease_state": node.lease_state().name(),
            "node_id": config.node_id,
            "host": config.host,
            "role": config.role.name(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": node.started_at,
        },
        "system": node.system(),
        "websocket": websocket(node),
        "host_operations": host_operations(node),
        "notes": [
            "/describe/business and /describe/control have parameters, bodies and answers of every endpoint.",
            "POST /v1/system/… changes the system mode at once.",
            "Host operations need the token, and answer with a union in data.",
        ],
    });
    answer(data)
}

/// `GET /openapi.json`.
pub(crate) fn openapi(node: &Node, request: &Request) -> Result<Answer, Error> {
    let origin = access::origin(node, request);
    let [local, public] = &node.openapi;
    // Callers that take their time with it, and many, share the work.
    let document = if origin == node.local_api.to_string() { local } else { public };
    let body = document.get_or_init(|| document_for(node, &origin)).clone();
    Ok(Answer::Text { status: 200, content_type: "application/json; charset=utf-8", body })
}

/// The document for callers of that base.
fn document_for(node: &Node, origin: &str) -> String {
    let document = openapi::document(&About {
        title: NAME,
        version: env!("CARGO_PKG_VERSION"),
        description: DESCRIPTION,
        server: origin,
        style: Style::Snake,
        routes: ROUTES,
        token: &|route| access::token(node, route),
    });
    format!("{document:#}\n")
}

/// The rows under `/v1/codex`, in short.
pub(crate) fn codex_routes(node: &Node) -> Vec<Value> {
    briefs(node, |route| route.path == "/v1/codex" || route.path.starts_with("/v1/codex/"))
}

fn answer(data: Value) -> Result<Answer, Error> {
    Ok(Answer::Json { status: 200, data })
}

fn briefs(node: &Node, wanted: impl Fn(&Route<Node>) -> bool) -> Vec<Value> {
    let rows = ROUTES.iter().filter(|route| is_shown(route) && wanted(route));
    rows.map(|route| brief(route, access::token(node, route))).collect()
}

fn of_kind(node: &Node, kind: Kind) -> Vec<Value> {
    briefs(node, |route| route.kind == kind && !route.only_upgrades())
}

fn shown_on(surface: Surface) -> impl Iterator<Item = &'static Route<Node>> {
    ROUTES.iter().filter(move |route| is_shown(route) && [surface, Surface::Both].contains(&route.surface))
}

fn on(node: &Node, surface: Surface) -> Vec<Value> {
    shown_on(surface).map(|route| full(route, access::token(node, route))).collect()
}

fn examples(node: &Node, request: &Request, shown: &[Shown]) -> Vec<Value> {
    let (origin, outside) = (access::origin(node, request), access::comes_from_outside(node, request));
    let token = |route: &Route<Node>| access::asks_token(node, route, outside);
    let examples = Examples { base: &origin, routes: ROUTES, token: &token };
    let one = |(title, id, query): &Shown| {
        let route = ROUTES.iter().find(|route| route.id == *id && is_shown(route))?;
        let mark = if query.is_empty() { "" } else { "?" };
        let path = format!("{}{mark}{query}", route.path);
        let curl = examples.curl_with(route, query)?;
        Some(json!({ "title": title, "method": route.method.as_str(), "path": path, "curl": curl }))
    };
    shown.iter().filter_map(one).collect()
}

fn auth(node: &Node) -> Value {
    json!({
        "mode": node.config.auth.name(),
        "header": TOKEN_HEADER,
        "configured": node.config.token.is_some(),
        "values": {
            "none": "Nobody needs the token.",
            "token_from_outside": "Callers from outside of this machine need the token: by another name than a loopback one, or through a proxy.",
            "token": "Every caller needs the token; a missing or wrong one is 401.",
        },
    })
}

fn websocket(node: &Node) -> Value {
    json!({
        "auth_mode": "local_network_only",
        "path": "/ws/firefox",
        "url": firefox_ws_url(&node.local_api),
    })
}

fn codex(node: &Node) -> Value {
    let notes = match node.config.codexd {
        None => [
            "Codex routes stay unavailable until independent codexd is configured.",
            "Set BAA_CODEXD_LOCAL_API_BASE to the codexd local HTTP base URL before using /v1/codex.",
        ],
        Some(_) => [
            "/v1/codex is passed on to codexd, a daemon of its own, by local HTTP: one call is one request.",
            "Work goes by sessions and turns; nothing here starts a codex process of its own for a call.",
        ],
    };
    json!({
        "auth_mode": "local_network_only",
        "backend": "independent_codexd",
        "enabled": node.config.codexd.is_some(),
        "route_prefix": "/v1/codex",
        "routes": codex_routes(node),
        "target_base_url": node.config.codexd.as_ref().map(LocalUrl::to_string),
        "transport": "local_http",
        "notes": notes,
    })
}

fn host_operations(node: &Node) -> Value {
    let operations: Vec<_> = ROUTES
        .iter()
        .filter(|route| is_shown(route))
        .filter_map(|route| {
            let operation = route.id.strip_prefix("host.")?.replace('.', "/");
            let shown = brief(route, access::token(node, route));
            Some(json!({ "operation": operation, "method": shown["method"], "path": shown["path"], "summary": shown["summary"] }))
        })
        .collect();
    let configured = node.config.token.is_some();
    json!({
        "enabled": configured && !operations.is_empty(),
        "auth": { "header": TOKEN_HEADER, "configured": configured },
        "operations": operations,
        "answer": {
            "status": "200 past the token, whether it worked or not",
            "data": {
                "ok": "boolean",
                "operation": "exec, files/read or files/write",
                "input": "what was asked, with defaults",
                "result": "what came of it; exec has the same keys, empty, if it did not run",
                "error": "only if not ok: code, message, retryable, details",
            },
        },
        "error_codes": HOST_ERRORS,
    })
}
