//! Tasks, runs and their logs, as callers submit and see them.
//!
//! `wire` has the words, `logs` the lines. What becomes of a task is the scheduler's.

mod logs;
mod wire;

use std::sync::Arc;

use common::Error;
use common::error::{CODEXD_NOT_CONFIGURED, INTERNAL_ERROR};
use common::http::{Answer, Request};
use common::keys::Key;
use common::log::Feed;
use common::time::Timestamp;
use common::wire::invalid;
use serde_json::{Value, json};

use crate::access;
use crate::api::Node;
use crate::codex::forward;
use crate::core::{self, Call, Read, Reply};
use crate::state::{self, Run, Spec, State, Status, Step, Task};

pub(crate) use logs::logs;
pub(crate) use wire::*;

/// A page of tasks as JSON; one task alone may be larger.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// `POST /v1/tasks`.
pub(crate) fn create(node: &Node, request: &Request) -> Result<Answer, Error> {
    let given = forward(TaskCreate::FIELDS, request.object()?);
    let key = Key::of(request, "tasks", TaskCreate::FIELDS, &given)?;
    let bytes = serde_json::to_vec(&given).unwrap_or_default().len();
    let spec = spec(TaskCreate::parse(&given)?)?;
    if bytes > MAX_SPEC_BYTES {
        return Err(Error::new(
            common::error::PAYLOAD_TOO_LARGE,
            format!("A task takes {MAX_SPEC_BYTES} bytes at the most."),
        ));
    }
    if spec.steps.iter().any(|step| matches!(step, Step::Exec { .. })) {
        access::needs_token(node, request)?;
    }
    if spec.steps.iter().any(|step| matches!(step, Step::Codex { .. })) && !node.codexd.is_configured() {
        return Err(Error::new(
            CODEXD_NOT_CONFIGURED,
            "A step is a turn of Codex, and there is no codexd to ask.",
        )
        .details(json!({ "env_var": "BAA_CODEXD_LOCAL_API_BASE" })));
    }
    let call = Call::Submit { key, spec: Box::new(spec), bytes: bytes as u64 + 512 };
    Ok(Answer::Json { status: 201, data: json!({ "task": only(task_views(node.ask(call)?)) }) })
}

fn spec(given: TaskCreate) -> Result<Spec, Error> {
    if given.steps.is_empty() || given.steps.len() > MAX_STEPS {
        return Err(invalid("steps", format!("Field `steps` must have 1 to {MAX_STEPS} steps.")));
    }
    let steps = given.steps.iter().enumerate().map(|(index, step)| read_step(index, step));
    let not_before = given.not_before.as_deref().map(|text| {
        Timestamp::parse(text).ok_or_else(|| {
            invalid(
                "not_before",
                "Field `not_before` must be a time like 2026-01-31T04:00:00.000Z.".to_owned(),
            )
        })
    });
    if given.cwd.as_deref().is_some_and(|cwd| !cwd.starts_with('/') || cwd.contains('\0')) {
        return Err(invalid("cwd", "Field `cwd` must be an absolute path.".to_owned()));
    }
    if !matches!(given.approval_policy, None | Some(Value::Null | Value::String(_) | Value::Object(_))) {
        return Err(invalid(
            "approval_policy",
            "Field `approval_policy` must be a text or an object.".to_owned(),
        ));
    }
    Ok(Spec {
        title: given.title,
        steps: steps.collect::<Result<_, _>>()?,
        cwd: given.cwd,
        model: given.model,
        sandbox: given.sandbox,
        approval_policy: given.approval_policy.filter(|policy| !policy.is_null()),
        priority: given.priority.unwrap_or(0),
        timeout_ms: given.timeout_ms.unwrap_or(TIMEOUT_MS).unsigned_abs(),
        max_attempts: given.max_attempts.unwrap_or(ATTEMPTS).unsigned_abs(),
        not_before: not_before.transpose()?,
        metadata: given.metadata,
    })
}

/// A step that its table has taken.
fn read_step(index: usize, step: &Value) -> Result<Step, Error> {
    let wrong = |name: &str, what: &str| {
        let field = format!("steps[{index}].{name}");
        invalid(&field, format!("Field `{field}` {what}."))
    };
    let is_said = |text: &str| !text.trim().is_empty();
    if step["kind"] == "codex" {
        let input = &step["input"];
        let takes = match input {
            Value::String(text) => is_said(text),
            Value::Array(items) => !items.is_empty(),
            _ => false,
        };
        return match takes {
            true => Ok(Step::Codex { input: input.clone() }),
            false => Err(wrong("input", "must be a text or a list of input items")),
        };
    }
    match step["command"].as_str().filter(|command| is_said(command)) {
        None => Err(wrong("command", "must be a command")),
        Some(command) if command.contains('\0') => Err(wrong("command", "has a zero byte")),
        Some(command) => {
            Ok(Step::Exec { command: command.to_owned(), timeout_ms: step["timeout_ms"].as_u64() })
        }
    }
}

/// `POST /v1/tasks/:task_id/cancel`.
pub(crate) fn cancel(node: &Node, request: &Request) -> Result<Answer, Error> {
    let body = CancelBody::parse(&forward(CancelBody::FIELDS, request.object()?))?;
    let reason = body.reason.unwrap_or_else(|| "somebody wanted it".to_owned());
    let call = Call::Cancel { task_id: request.param("task_id").to_owned(), reason };
    Ok(Answer::Json { status: 200, data: json!({ "task": only(task_views(node.ask(call)?)) }) })
}

/// `GET /v1/tasks`.
pub(crate) fn list(node: &Node, request: &Request) -> Result<Answer, Error> {
    let status = request.query_value("status").and_then(Status::parse);
    let before = request.query_value("before").map(|before| before.to_string());
    let limit = limit(request, 20);
    let Reply::Tasks(log, found) = node.see(Read::Tasks { status, before, limit })? else {
        return Err(unreadable("no tasks"));
    };
    let (mut tasks, mut bytes) = (Vec::new(), 0);
    for task in &found {
        let view = task_view(&log, task);
        bytes += view.to_string().len();
        if bytes > MAX_LIST_BYTES && !tasks.is_empty() {
            break;
        }
        tasks.push(view);
    }
    let more = found.len() == limit || tasks.len() < found.len();
    let next_before = tasks.last().filter(|_| more).map(|task| task["task_id"].clone());
    let data = json!({ "count": tasks.len(), "tasks": tasks, "next_before": next_before });
    Ok(Answer::Json { status: 200, data })
}

/// `GET /v1/tasks/:task_id`.
pub(crate) fn read(node: &Node, request: &Request) -> Result<Answer, Error> {
    let tasks = node.see(Read::Task(request.param("task_id").to_owned()))?;
    Ok(Answer::Json { status: 200, data: json!({ "task": only(task_views(tasks)) }) })
}

/// `GET /v1/runs`.
pub(crate) fn runs(node: &Node, request: &Request) -> Result<Answer, Error> {
    let text = |name: &str| request.query_value(name).map(|value| value.to_string());
    let (task_id, before) = (text("task_id"), text("before"));
    let runs = run_views(node.see(Read::Runs { task_id, before, limit: limit(request, 20) })?);
    Ok(Answer::Json { status: 200, data: json!({ "count": runs.len(), "runs": runs }) })
}

/// `GET /v1/runs/:run_id`.
pub(crate) fn run(node: &Node, request: &Request) -> Result<Answer, Error> {
    let runs = node.see(Read::Run(request.param("run_id").to_owned()))?;
    Ok(Answer::Json { status: 200, data: json!({ "run": only(run_views(runs)) }) })
}

fn limit(request: &Request, default: usize) -> usize {
    request.query_value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(default)
}

fn only(views: Vec<Value>) -> Value {
    views.into_iter().next().unwrap_or_default()
}

fn task_views(reply: Reply) -> Vec<Value> {
    match reply {
        Reply::Tasks(log, tasks) => tasks.iter().map(|task| task_view(&log, task)).collect(),
        _ => Vec::new(),
    }
}

fn run_views(reply: Reply) -> Vec<Value> {
    match reply {
        Reply::Runs(log, runs) => runs.iter().map(|run| run_view(&log, run)).collect(),
        _ => Vec::new(),
    }
}

fn task_view(log: &str, task: &Task) -> Value {
    let Spec { title, steps, cwd, model, sandbox, approval_policy, priority, timeout_ms, .. } = &*task.spec;
    json!({
        "task_id": state::id(log, "task", task.seq),
        "title": title,
        "status": task.status.name(),
        "canceling": task.cancel.is_some() && task.status == Status::Running,
        "priority": priority,
        "steps": steps.iter().map(step_view).collect::<Vec<_>>(),
        "step_index": task.done.len(),
        "cwd": cwd,
        "model": model,
        "sandbox": sandbox,
        "approval_policy": approval_policy,
        "timeout_ms": timeout_ms,
        "max_attempts": task.spec.max_attempts,
        "attempts": task.runs.len(),
        "failures": task.failures,
        "not_before": task.due_at.or(task.spec.not_before),
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "result": result(task),
        "error": task.error,
        "cancel_reason": task.cancel,
        "metadata": task.spec.metadata,
        "run_id": task.runs.last().map(|run| state::id(log, "run", *run)),
    })
}

fn step_view(step: &Step) -> Value {
    let (kind, input, command, timeout_ms) = match step {
        Step::Codex { input } => ("codex", Some(input), None, None),
        Step::Exec { command, timeout_ms } => ("exec", None, Some(command), *timeout_ms),
    };
    json!({ "kind": kind, "input": input, "command": command, "timeout_ms": timeout_ms })
}

/// What the task came to so far: of the last turn the text, of the last command the exit code, and each step's own.
fn result(task: &Task) -> Value {
    if task.done.is_empty() {
        return Value::Null;
    }
    let turns =
        task.done.iter().zip(&task.spec.steps).rev().find(|(_, step)| matches!(step, Step::Codex { .. }));
    let last_turn = turns.map(|(done, _)| &done.outcome);
    let steps = task.done.iter().zip(&task.spec.steps).enumerate().map(|(index, (done, step))| {
        json!({
            "step_index": index,
            "kind": if matches!(step, Step::Codex { .. }) { "codex" } else { "exec" },
            "attempt": done.attempt,
            "times_cut_off": done.cut_off,
            "text": done.outcome.text,
            "usage": done.outcome.usage,
            "exit_code": done.outcome.exit_code,
            "duration_ms": done.outcome.duration_ms,
        })
    });
    json!({
        "text": last_turn.and_then(|outcome| outcome.text.clone()),
        "usage": last_turn.and_then(|outcome| outcome.usage.clone()),
        "exit_code": task.done.iter().rev().find_map(|done| done.outcome.exit_code),
        "duration_ms": task.done.iter().map(|done| done.outcome.duration_ms).sum::<u64>(),
        "steps": steps.collect::<Vec<_>>(),
    })
}

fn run_view(log: &str, run: &Run) -> Value {
    json!({
        "run_id": state::id(log, "run", run.seq),
        "task_id": state::id(log, "task", run.task),
        "attempt": run.attempt,
        "status": run.status.name(),
        "session_id": run.session_id,
        "step_index": run.step_index,
        "last_line": run.last_line,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "error": run.error,
    })
}

fn unreadable(why: &str) -> Error {
    Error::new(INTERNAL_ERROR, "The log could not be read.").because(why)
}

impl Node {
    /// Tasks and runs: from the core where this node leads, else from what the leader wrote.
    ///
    /// # Errors
    /// `not_found`; the core's own.
    pub(crate) fn see(&self, read: Read) -> Result<Reply, Error> {
        self.follow();
        match self.with_followed(|state: &State| core::look(state, &read)) {
            Some(seen) => seen,
            None => self.ask(Call::Read(read)),
        }
    }

    /// The log that lines are read from.
    fn lines(&self) -> Result<Arc<Feed>, Error> {
        match self.feed.get() {
            Some(feed) => Ok(feed.clone()),
            None => Feed::open(&self.config.logs_dir)
                .map(Arc::new)
                .map_err(|error| unreadable(&error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::wire;

    use super::*;

    fn read(text: &str) -> Result<Spec, String> {
        let given = wire::object(text.as_bytes(), None).unwrap();
        TaskCreate::parse(&given).and_then(spec).map_err(|error| error.message)
    }

    #[test]
    fn a_wrong_task_is_refused_by_the_name_of_its_field() {
        for (steps, message) in [
            ("[]", "Field `steps` must have 1 to 100 steps."),
            (r#"[{"kind":"x"}]"#, "Field `steps[0].kind` must be one of codex, exec."),
            (r#"[{"kind":"codex","input":"a"},7]"#, "Field `steps[1]` must be an object (TaskStep)."),
            (r#"[{"input":"a"}]"#, "Field `steps[0].kind` is required."),
            (
                r#"[{"kind":"codex","input":" "}]"#,
                "Field `steps[0].input` must be a text or a list of input items.",
            ),
            (r#"[{"kind":"exec"}]"#, "Field `steps[0].command` must be a command."),
            (
                r#"[{"kind":"exec","command":"true","timeout_ms":0}]"#,
                "Field `steps[0].timeout_ms` must be an integer from 1 to 604800000.",
            ),
        ] {
            assert_eq!(read(&format!(r#"{{"steps":{steps}}}"#)), Err(message.to_owned()));
        }
        let steps = r#""steps":[{"kind":"exec","command":"true"}]"#;
        for (field, message) in [
            (r#""cwd":"a""#, "Field `cwd` must be an absolute path."),
            (
                r#""not_before":"tomorrow""#,
                "Field `not_before` must be a time like 2026-01-31T04:00:00.000Z.",
            ),
        ] {
            assert_eq!(read(&format!("{{{steps},{field}}}")), Err(message.to_owned()));
        }
        let spec = read(&format!("{{{steps}}}")).unwrap();
        assert_eq!((spec.priority, spec.timeout_ms, spec.max_attempts), (0, 3_600_000, 3));
    }
}
