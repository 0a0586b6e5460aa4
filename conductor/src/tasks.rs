//! Tasks, runs and their logs, as far as they can be read. This node takes none yet, so there are none.

use common::Error;
use common::error::NOT_FOUND;
use common::http::{Answer, Request};
use common::wire::Field;
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
