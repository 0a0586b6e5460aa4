//! Tasks, runs and their logs, as far as they can be read. This node takes none yet, so there are none.

use common::Error;
use common::error::NOT_FOUND;
use common::http::{Answer, Request};
use common::wire::{Field, Record};
use serde_json::json;

use crate::api::Node;

/// The longest a reader of logs may wait for a line, in milliseconds.
const MAX_WAIT_MS: i64 = 600_000;

/// Query of the list of tasks.
pub(crate) const TASKS_QUERY: &[Field] = common::fields![
    optional "status": one_of("queued", "running", "completed", "failed", "canceled"), "Only tasks in this state.";
    optional "limit": integer(1, 100), "How many at most; 20 by default.";
];

/// Query of a task's log.
pub(crate) const LOGS_QUERY: &[Field] = common::fields![
    optional "limit": integer(1, 500), "How many lines at most; 200 by default.";
    optional "run_id": string(128), "Only lines of this run.";
    optional "after": integer(0, i64::MAX), "Begins behind this line.";
    optional "wait_ms": integer(0, MAX_WAIT_MS), "Waits so long for a first line.";
];

/// Query of the list of runs.
pub(crate) const RUNS_QUERY: &[Field] = common::fields![
    optional "limit": integer(1, 100), "How many at most; 20 by default.";
];

static TASK: Record = Record {
    name: "Task",
    fields: common::fields![
        required "task_id": string, "Its name.";
        optional "title": string, "What it is about.";
        required "status": one_of("queued", "running", "completed", "failed", "canceled"), "How it stands.";
        required "priority": integer, "The highest is taken first.";
        required "steps": array, "What is to be done, in order: kind `codex` with input, or `exec` with command.";
        optional "cwd": string, "Where.";
        optional "model": string, "With which model.";
        optional "sandbox": string, "What commands may touch.";
        optional "approval_policy": any, "When the agent asks.";
        optional "timeout_ms": integer(0, i64::MAX), "How long an attempt may take.";
        required "max_attempts": integer(0, i64::MAX), "How often it is tried.";
        required "attempts": integer(0, i64::MAX), "How often it was tried.";
        optional "not_before": string, "RFC 3339.";
        required "created_at": string, "RFC 3339.";
        required "updated_at": string, "RFC 3339.";
        optional "started_at": string, "RFC 3339.";
        optional "finished_at": string, "RFC 3339.";
        optional "result": object, "What came of it.";
        optional "error": object, "Why it failed.";
        optional "metadata": object, "The caller's own.";
    ],
};

static RUN: Record = Record {
    name: "Run",
    fields: common::fields![
        required "run_id": string, "Its name.";
        required "task_id": string, "Its task.";
        required "attempt": integer(1, i64::MAX), "Which attempt it is.";
        required "status": string, "How it stands.";
        optional "session_id": string, "The Codex session that it works in.";
        required "step_index": integer(0, i64::MAX), "The step that it is at.";
        required "started_at": string, "RFC 3339.";
        optional "finished_at": string, "RFC 3339.";
        optional "error": object, "Why it failed.";
    ],
};

static LINE: Record = Record {
    name: "LogLine",
    fields: common::fields![
        required "seq": integer(1, i64::MAX), "Its number.";
        required "run_id": string, "The run that wrote it.";
        required "level": string, "How much it matters.";
        required "message": string, "What happened.";
        required "created_at": string, "RFC 3339.";
    ],
};

/// What the list of tasks answers.
pub(crate) const TASKS_ANSWER: &[Field] = common::fields![
    required "count": integer(0, i64::MAX), "How many follow.";
    required "tasks": records(&TASK), "The newest first.";
];
/// What the read of a task answers.
pub(crate) const TASK_ANSWER: &[Field] = common::fields![required "task": record(&TASK), "The task.";];
/// What the read of a log answers.
pub(crate) const LOGS_ANSWER: &[Field] = common::fields![
    required "count": integer(0, i64::MAX), "How many follow.";
    required "logs": records(&LINE), "In order.";
];
/// What the list of runs answers.
pub(crate) const RUNS_ANSWER: &[Field] = common::fields![
    required "count": integer(0, i64::MAX), "How many follow.";
    required "runs": records(&RUN), "The newest first.";
];
/// What the read of a run answers.
pub(crate) const RUN_ANSWER: &[Field] = common::fields![required "run": record(&RUN), "The run.";];

/// `GET /v1/tasks`.
pub(crate) fn list(_: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(Answer::Json { status: 200, data: json!({ "count": 0, "tasks": [] }) })
}

/// `GET /v1/tasks/:task_id`, and its log.
pub(crate) fn read(_: &Node, request: &Request) -> Result<Answer, Error> {
    Err(Error::new(NOT_FOUND, format!("Unknown task \"{}\".", request.param("task_id"))))
}

/// `GET /v1/runs`.
pub(crate) fn runs(_: &Node, _: &Request) -> Result<Answer, Error> {
    Ok(Answer::Json { status: 200, data: json!({ "count": 0, "runs": [] }) })
}

/// `GET /v1/runs/:run_id`.
pub(crate) fn run(_: &Node, request: &Request) -> Result<Answer, Error> {
    Err(Error::new(NOT_FOUND, format!("Unknown run \"{}\".", request.param("run_id"))))
}
