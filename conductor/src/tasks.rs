//! Tasks, runs and their logs, as callers submit and see them.
//!
//! Owns the words on the wire. What becomes of a task is the scheduler's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Error;
use common::error::{CODEXD_NOT_CONFIGURED, INTERNAL_ERROR};
use common::http::{Answer, LOOK_EVERY, Request};
use common::keys::Key;
use common::log::{Cursor, Feed, Got, Seq};
use common::time::Timestamp;
use common::wire::{Field, Record, invalid};
use serde_json::{Value, json};

use crate::access;
use crate::api::Node;
use crate::codex::forward;
use crate::core::{self, Call, Read, Reply};
use crate::event::{self, Event};
use crate::host::MAX_COMMAND_BYTES;
use crate::state::{self, Run, Spec, State, Status, Step, Task};

/// An hour, for those who do not say how long an attempt may take.
const TIMEOUT_MS: i64 = 60 * 60 * 1000;
/// A week.
const MAX_TIMEOUT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// For those who do not say how often a task is tried.
const ATTEMPTS: i64 = 3;
/// Each attempt is kept beside its task.
const MAX_ATTEMPTS: i64 = 100;
/// A rank needs an order, not a range.
const MAX_PRIORITY: i64 = 1_000_000;
/// A list that a person reads.
const MAX_STEPS: usize = 100;
/// Everything that a task says, as JSON: it is in the log, in memory and in each checkpoint.
const MAX_SPEC_BYTES: usize = 1024 * 1024;
/// A line.
const MAX_TITLE_BYTES: usize = 1024;
/// The longest path that systems take.
const MAX_PATH_BYTES: usize = 4096;
/// A page of tasks as JSON; one task alone may be larger.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;
/// How much of a log one page is looked for in.
const MAX_SCAN_BYTES: usize = 64 * 1024 * 1024;
/// One read of the log.
const READ_BYTES: usize = 256 * 1024;

static STEP: Record = Record {
    name: "TaskStep",
    fields: common::fields![
        required "kind": one_of("codex", "exec"), "A turn of Codex, or a command for `sh -c`.";
        optional "input": any, "Of codex, which needs it: a text, or a list of app-server input items.";
        optional "command": string(MAX_COMMAND_BYTES), "Of exec, which needs it.";
        optional "timeout_ms": integer(1, MAX_TIMEOUT_MS), "Of exec: how long it may take; else as long as the attempt.";
    ],
};

common::body! {
    /// Body of `POST /v1/tasks`.
    pub(crate) struct TaskCreate {
        optional title "title": string(MAX_TITLE_BYTES), "What it is about.";
        required steps "steps": records(&STEP), "What is to be done, in order, 1 to 100; a step of kind exec needs the token.";
        optional cwd "cwd": string(MAX_PATH_BYTES), "Absolute path of the folder to work in; else one of its own below `--runs-dir`.";
        optional model "model": string, "Model of the turns.";
        optional sandbox "sandbox": one_of("read-only", "workspace-write", "danger-full-access"), "What the agent's commands may touch.";
        optional approval_policy "approval_policy": any, "When the agent asks: untrusted, on-request, never, or an object.";
        optional priority "priority": integer(-MAX_PRIORITY, MAX_PRIORITY), "The highest is taken first; 0 by default.";
        optional timeout_ms "timeout_ms": integer(1, MAX_TIMEOUT_MS), "How long an attempt may take (3 600 000).";
        optional max_attempts "max_attempts": integer(1, MAX_ATTEMPTS), "How often it is tried (3).";
        optional not_before "not_before": string(64), "RFC 3339 in UTC with milliseconds: 2026-01-31T04:00:00.000Z.";
        optional metadata "metadata": object, "The caller's own; comes back with the task.";
    }
}

/// What the documents show of it.
pub(crate) const EXAMPLE: &str =
    r#"{"title":"say hello","steps":[{"kind":"codex","input":"Say hello in one sentence."}]}"#;

common::body! {
    /// Body of `POST /v1/tasks/:task_id/cancel`.
    pub(crate) struct CancelBody {
        optional reason "reason": string(MAX_TITLE_BYTES), "Why.";
    }
}

/// What the documents show of it.
pub(crate) const CANCEL_EXAMPLE: &str = r#"{"reason":"not needed any more"}"#;

/// The longest a reader of logs may wait for a line, in milliseconds.
const MAX_WAIT_MS: i64 = 600_000;

/// Query of the list of tasks.
pub(crate) const TASKS_QUERY: &[Field] = common::fields![
    optional "status": one_of("queued", "running", "completed", "failed", "canceled"), "Only tasks in this state.";
    optional "limit": integer(1, 100), "How many at most; 20 by default.";
    optional "before": string(128), "Only tasks that are older than this one: `next_before` of the page before.";
];

/// Query of a task's log.
pub(crate) const LOGS_QUERY: &[Field] = common::fields![
    optional "limit": integer(1, 500), "How many lines at most; 200 by default.";
    optional "run_id": string(128), "Only lines of this run.";
    optional "after": integer(0, i64::MAX), "Begins behind this line, else with the newest ones.";
    optional "wait_ms": integer(0, MAX_WAIT_MS), "Waits so long for a first line.";
];

/// Query of the list of runs.
pub(crate) const RUNS_QUERY: &[Field] = common::fields![
    optional "limit": integer(1, 100), "How many at most; 20 by default.";
    optional "task_id": string(128), "Only runs of this task.";
    optional "before": string(128), "Only runs that are older than this one.";
];

static FAULT: Record = Record {
    name: "TaskError",
    fields: common::fields![
        required "code": string, "A code to branch on.";
        required "message": string, "A sentence for people.";
    ],
};

static STEP_RESULT: Record = Record {
    name: "StepResult",
    fields: common::fields![
        required "step_index": integer(0, i64::MAX), "Which step.";
        required "kind": one_of("codex", "exec"), "Of which kind.";
        required "attempt": integer(1, i64::MAX), "The attempt that did it.";
        required "times_cut_off": integer(0, i64::MAX), "How often it was begun before, and cut off by the end of a process.";
        optional "text": string, "What the agent said last, or the end of what the command printed; at most 64 KiB.";
        optional "usage": object, "Tokens of a turn.";
        optional "exit_code": integer, "Of a command.";
        required "duration_ms": integer(0, i64::MAX), "How long it took.";
    ],
};

static RESULT: Record = Record {
    name: "TaskResult",
    fields: common::fields![
        optional "text": string, "Of the last turn.";
        optional "usage": object, "Of the last turn.";
        optional "exit_code": integer, "Of the last command.";
        required "duration_ms": integer(0, i64::MAX), "Of all steps that are done.";
        required "steps": records(&STEP_RESULT), "The steps that are done, in order.";
    ],
};

static TASK: Record = Record {
    name: "Task",
    fields: common::fields![
        required "task_id": string, "Its name.";
        optional "title": string, "What it is about.";
        required "status": one_of("queued", "running", "completed", "failed", "canceled"), "How it stands.";
        required "canceling": boolean, "It runs, and is being ended.";
        required "priority": integer, "The highest is taken first.";
        required "steps": records(&STEP), "What is to be done, in order.";
        required "step_index": integer(0, i64::MAX), "How many of them are done: the place of the next one.";
        optional "cwd": string, "Where; null: in a folder of its own.";
        optional "model": string, "With which model.";
        optional "sandbox": string, "What commands may touch.";
        optional "approval_policy": any, "When the agent asks.";
        required "timeout_ms": integer(1, i64::MAX), "How long an attempt may take.";
        required "max_attempts": integer(1, i64::MAX), "How often it is tried.";
        required "attempts": integer(0, i64::MAX), "How often it was begun: runs, those that were cut off among them.";
        required "failures": integer(0, i64::MAX), "Of these, those that count against `max_attempts`.";
        optional "not_before": string, "When it may start, or be tried again. RFC 3339.";
        required "created_at": string, "RFC 3339.";
        required "updated_at": string, "RFC 3339.";
        optional "started_at": string, "RFC 3339.";
        optional "finished_at": string, "RFC 3339.";
        optional "result": record(&RESULT), "What came of it so far.";
        optional "error": record(&FAULT), "Why it failed, or the attempt before.";
        optional "cancel_reason": string, "Why somebody wanted it ended.";
        optional "metadata": object, "The caller's own.";
        optional "run_id": string, "Its newest run.";
    ],
};

static RUN: Record = Record {
    name: "Run",
    fields: common::fields![
        required "run_id": string, "Its name.";
        required "task_id": string, "Its task.";
        required "attempt": integer(1, i64::MAX), "Which attempt it is.";
        required "status": one_of("running", "completed", "failed", "canceled", "interrupted"), "How it stands.";
        optional "session_id": string, "The Codex session that it works in.";
        required "step_index": integer(0, i64::MAX), "The step that it is at.";
        optional "last_line": string, "Its newest line, while it runs; at most 512 bytes.";
        required "started_at": string, "RFC 3339.";
        optional "finished_at": string, "RFC 3339.";
        optional "error": record(&FAULT), "Why it failed.";
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
    optional "next_before": string, "If there may be older ones: the page of them, as `before`.";
];
/// What the read of a task answers.
pub(crate) const TASK_ANSWER: &[Field] = common::fields![required "task": record(&TASK), "The task.";];
/// What the read of a log answers.
pub(crate) const LOGS_ANSWER: &[Field] = common::fields![
    required "status": one_of("queued", "running", "completed", "failed", "canceled"), "How the task stands; of one that is over no line comes any more.";
    required "count": integer(0, i64::MAX), "How many follow.";
    required "logs": records(&LINE), "In order.";
    required "next_after": integer(0, i64::MAX), "Where to go on, as `after`.";
];
/// What the list of runs answers.
pub(crate) const RUNS_ANSWER: &[Field] = common::fields![
    required "count": integer(0, i64::MAX), "How many follow.";
    required "runs": records(&RUN), "The newest first.";
];
/// What the read of a run answers.
pub(crate) const RUN_ANSWER: &[Field] = common::fields![required "run": record(&RUN), "The run.";];

/// `POST /v1/tasks`.
pub(crate) fn create(node: &Node, request: &Request) -> Result<Answer, Error> {
    let given = forward(TaskCreate::FIELDS, request.object()?);
    let key = Key::of(request, "tasks", TaskCreate::FIELDS, &given)?;
    let bytes = serde_json::to_vec(&given).unwrap_or_default().len();
    if bytes > MAX_SPEC_BYTES {
        return Err(Error::new(
            common::error::PAYLOAD_TOO_LARGE,
            format!("A task takes {MAX_SPEC_BYTES} bytes at the most."),
        ));
    }
    let spec = spec(TaskCreate::parse(&given)?)?;
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

/// `GET /v1/tasks/:task_id/logs`.
pub(crate) fn logs(node: &Node, request: &Request) -> Result<Answer, Error> {
    let number = |name: &str| request.query_value(name).and_then(|value| value.parse::<u64>().ok());
    let task_id = request.param("task_id").to_owned();
    let run_id = request.query_value("run_id").map(|run| run.to_string());
    let mut task = one(node, &task_id)?;
    let feed = node.lines()?;
    let limit = limit(request, 200);
    let (after, newest) = match number("after") {
        Some(after) => (after.max(task.seq), false),
        None => (task.seq, true),
    };
    let mut page = Page {
        task_id: task_id.clone(),
        run_id,
        limit,
        newest,
        lines: VecDeque::new(),
        reached: after,
        scanned: 0,
    };
    let mut cursor = Cursor::after(after);
    page.read(&feed, &mut cursor, task.last_line)?;
    let until = Instant::now() + Duration::from_millis(number("wait_ms").unwrap_or(0));
    let waits = || Instant::now() < until && !node.host.is_stopping() && !request.abandoned();
    while page.lines.is_empty() && !task.status.is_over() && waits() {
        feed.sleep(cursor.seq, until.min(Instant::now() + LOOK_EVERY));
        task = one(node, &task_id)?; // before its lines: of one that is over, all are there
        page.read(&feed, &mut cursor, Seq::MAX)?;
    }
    let data = json!({
        "status": task.status.name(),
        "count": page.lines.len(),
        "logs": page.lines,
        "next_after": page.reached,
    });
    Ok(Answer::Json { status: 200, data })
}

fn one(node: &Node, task_id: &str) -> Result<Arc<Task>, Error> {
    match node.see(Read::Task(task_id.to_owned()))? {
        Reply::Tasks(_, tasks) => tasks.into_iter().next(),
        _ => None,
    }
    .ok_or_else(|| unreadable("no task"))
}

struct Page {
    task_id: String,
    run_id: Option<String>,
    limit: usize,
    /// The newest lines are wanted, else the first ones.
    newest: bool,
    lines: VecDeque<Value>,
    /// The last number that was looked at.
    reached: Seq,
    scanned: usize,
}

impl Page {
    /// Reads up to a number, or as far as there is something.
    fn read(&mut self, feed: &Feed, cursor: &mut Cursor, to: Seq) -> Result<(), Error> {
        while cursor.seq < to && !self.is_full() && self.scanned < MAX_SCAN_BYTES {
            let got = feed.read(cursor, READ_BYTES, |seq, line| self.look(seq, line, to));
            match got.map_err(|error| unreadable(&error.to_string()))? {
                Got::Lines | Got::Gap { .. } => {}
                Got::Nothing | Got::Closed => return Ok(()),
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        !self.newest && self.lines.len() >= self.limit
    }

    fn look(&mut self, seq: Seq, line: &str, to: Seq) {
        if self.is_full() || seq > to {
            return;
        }
        (self.reached, self.scanned) = (seq, self.scanned + line.len());
        if !line.contains("\"type\":\"run.line\"") || !line.contains(&self.task_id) {
            return;
        }
        let Ok(event::Record { seq, at, event: Event::RunLine { run_id, task_id, level, message, .. } }) =
            event::parse(line)
        else {
            return;
        };
        if task_id != self.task_id || self.run_id.as_ref().is_some_and(|wanted| *wanted != run_id) {
            return;
        }
        self.lines.push_back(
            json!({ "seq": seq, "run_id": run_id, "level": level, "message": message, "created_at": at }),
        );
        if self.lines.len() > self.limit {
            self.lines.pop_front();
        }
    }
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
        match self.desk.get() {
            Some(_) => self.ask(Call::Read(read)),
            None => {
                self.follow();
                self.with_followed(|state: &State| core::look(state, &read))
            }
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
