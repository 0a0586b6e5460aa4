//! What conductor itself answers, for documents. An optional value may be `null`. What codexd answers stands with its
//! contract, in `common::codexd_api`.

use common::fields;
use common::wire::{Field, Record};

/// Of `/health`.
pub(crate) const HEALTH: &[Field] = fields![
    required "status": one_of("ok"), "That it serves.";
    required "identity": string, "node@host(role).";
    required "lease_state": one_of("leader", "standby", "degraded"), "Whether it leads.";
];

/// Of `/version`.
pub(crate) const VERSION: &[Field] = fields![
    required "name": string, "The program.";
    required "version": string, "Its version.";
    required "os": string, "What it was built for.";
    required "arch": string, "And for which processor.";
    required "profile": one_of("debug", "release"), "How it was built.";
];

/// The system state.
pub(crate) static SYSTEM: Record = Record {
    name: "SystemState",
    fields: fields![
        required "mode": one_of("running", "paused", "draining"), "Whether runs are started, and may go on.";
        optional "holder_id": string, "The node that holds the lease.";
        optional "holder_host": string, "Its machine.";
        required "lease_state": one_of("leader", "standby", "degraded"), "Whether this node leads.";
        optional "lease_expires_at": string, "RFC 3339.";
        optional "term": integer(0, i64::MAX), "Grows with each new holder.";
        optional "requested_by": string, "Who set the mode.";
        optional "reason": string, "And why.";
        optional "source": string, "And by what way.";
        optional "updated_at": string, "And when.";
        required "queued_tasks": integer(0, i64::MAX), "Tasks that wait.";
        required "active_runs": integer(0, i64::MAX), "Runs that go on.";
        required "drained": boolean, "Whether it drains and nothing runs any more.";
    ],
};

/// Of the runtime snapshot.
pub(crate) const RUNTIME: &[Field] = fields![
    required "identity": string, "node@host(role).";
    required "daemon": object, "nodeId, host, role, leaseState (leader, standby, degraded), schedulerEnabled, intervals.";
    required "controlApi": object, "baseUrl, localApiBase, firefoxWsUrl, hasSharedToken, usesPlaceholderToken.";
    required "codexd": object, "localApiBase, or null if there is none.";
    required "runtime": object, "pid, started, startedAt, version.";
    required "paths": object, "stateDir, logsDir, runsDir.";
    required "warnings": strings, "What works, and yet should be looked at.";
];

static CHILD: Record = Record {
    name: "CodexChild",
    fields: fields![
        optional "endpoint": string, "How it is reached.";
        optional "last_error": string, "Why it ended, or does not come up.";
        optional "pid": integer, "While it runs.";
        optional "status": string, "running; idle, starting, backoff, stopped, failed.";
        optional "strategy": string, "spawn or external.";
    ],
};

static CODEXD: Record = Record {
    name: "CodexDaemon",
    fields: fields![
        optional "daemon_id": string, "Of its state directory.";
        optional "node_id": string, "Of the node.";
        optional "version": string, "Of the program.";
        optional "started": boolean, "Whether it runs.";
        optional "started_at": string, "RFC 3339.";
        optional "updated_at": string, "RFC 3339.";
        required "child": record(&CHILD), "Its app-server.";
    ],
};

/// A row of the table, in short.
static ROUTE: Record = Record {
    name: "RouteBrief",
    fields: fields![
        required "id": string, "Its name.";
        required "method": one_of("GET", "POST"), "The method.";
        required "path": string, "A segment that begins with `:` is a parameter.";
        required "kind": one_of("probe", "read", "write"), "What a call does.";
        required "auth": one_of("none", "token_from_outside", "token"), "Who needs the token.";
        required "summary": string, "A sentence.";
    ],
};

/// Of codexd's status, as conductor shows it.
pub(crate) const CODEX_STATUS: &[Field] = fields![
    required "backend": one_of("independent_codexd"), "What runs Codex.";
    required "daemon": record(&CODEXD), "codexd and its child.";
    required "proxy": object, "route_prefix, target_base_url, transport.";
    required "recent_events": object, "count, updated_at.";
    required "routes": records(&ROUTE), "What can be done with it.";
    required "service": object, "event_stream_url, listening, resolved_base_url, websocket_clients.";
    required "sessions": object, "active_count, count, updated_at.";
    required "surface": strings, "What the surface consists of.";
    required "notes": strings, "What should be known.";
];

static CODEX: Record = Record {
    name: "CodexSurface",
    fields: fields![
        required "auth_mode": one_of("local_network_only"), "Who may call.";
        required "backend": one_of("independent_codexd"), "What runs Codex.";
        required "enabled": boolean, "Whether codexd is configured, reachable or not.";
        required "route_prefix": string, "Where its routes are.";
        required "routes": records(&ROUTE), "Its routes.";
        optional "target_base_url": string, "Where codexd is.";
        required "transport": one_of("local_http"), "How it is reached.";
        required "notes": strings, "What should be known.";
    ],
};

static EXAMPLE: Record = Record {
    name: "Example",
    fields: fields![
        required "title": string, "What it does.";
        required "method": one_of("GET", "POST"), "The method.";
        required "path": string, "The path, with its query.";
        required "curl": string, "A line of shell that runs as it stands.";
    ],
};

/// Of `/describe`.
pub(crate) const DESCRIBE: &[Field] = fields![
    required "name": string, "The service.";
    required "version": string, "Its version.";
    required "description": string, "What it is.";
    required "origin": string, "The base of every path here.";
    required "auth": object, "mode, header, configured, and what the values of an endpoint's auth mean.";
    required "system": record(&SYSTEM), "The system state.";
    required "websocket": object, "auth_mode, path, url of the browser bridge.";
    required "codex": record(&CODEX), "How Codex is reached.";
    required "describe_endpoints": object, "business, control, openapi: each with path and summary.";
    required "host_operations": object, "enabled, auth, operations, answer, error_codes.";
    required "capabilities": object, "read_endpoints, write_endpoints, diagnostics.";
    required "examples": records(&EXAMPLE), "Calls to begin with.";
    required "notes": strings, "What should be known.";
];

/// Of `/describe/business`.
pub(crate) const BUSINESS: &[Field] = fields![
    required "surface": one_of("business"), "Which surface this is.";
    required "recommended_flow": strings, "What to do in which order.";
    required "system": record(&SYSTEM), "The system state.";
    required "websocket": object, "auth_mode, path, url of the browser bridge.";
    required "codex": record(&CODEX), "How Codex is reached.";
    required "endpoints": array, "Each with id, method, path, kind, auth, summary, parameters, body and answer.";
    required "types": object, "What the named types of those consist of.";
    required "examples": records(&EXAMPLE), "Calls to begin with.";
    required "notes": strings, "What should be known.";
];

/// Of `/describe/control`.
pub(crate) const CONTROL: &[Field] = fields![
    required "surface": one_of("control"), "Which surface this is.";
    required "recommended_flow": strings, "What to do in which order.";
    required "system": record(&SYSTEM), "The system state.";
    required "websocket": object, "auth_mode, path, url of the browser bridge.";
    required "auth": object, "mode, header, configured, and what the values of an endpoint's auth mean.";
    required "codex": record(&CODEX), "How Codex is reached.";
    required "host_operations": object, "enabled, auth, operations, answer, error_codes.";
    required "endpoints": array, "Each with id, method, path, kind, auth, summary, parameters, body and answer.";
    required "types": object, "What the named types of those consist of.";
    required "examples": records(&EXAMPLE), "Calls to begin with.";
    required "notes": strings, "What should be known.";
];

/// Of `/v1/capabilities`.
pub(crate) const CAPABILITIES: &[Field] = fields![
    required "recommended_flow": strings, "What to do in which order.";
    required "read_endpoints": records(&ROUTE), "What changes nothing.";
    required "write_endpoints": records(&ROUTE), "What changes something.";
    required "diagnostics": records(&ROUTE), "The probes.";
    required "codex": record(&CODEX), "How Codex is reached.";
    required "runtime": object, "identity, lease_state, node_id, host, role, version, started_at.";
    required "system": record(&SYSTEM), "The system state.";
    required "websocket": object, "auth_mode, path, url of the browser bridge.";
    required "host_operations": object, "enabled, auth, operations, answer, error_codes.";
    required "notes": strings, "What should be known.";
];
