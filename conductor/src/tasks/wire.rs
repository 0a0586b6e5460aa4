//! The words of tasks, runs and their logs: bodies, queries and answers, with their bounds.

use common::wire::{Field, Record};

use crate::host::MAX_COMMAND_BYTES;

/// An hour, for those who do not say how long an attempt may take.
pub(super) const TIMEOUT_MS: i64 = 60 * 60 * 1000;
/// A week.
pub(super) const MAX_TIMEOUT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// For those who do not say how often a task is tried.
pub(super) const ATTEMPTS: i64 = 3;
/// Each attempt is kept beside its task.
pub(super) const MAX_ATTEMPTS: i64 = 100;
/// A rank needs an order, not a range.
pub(super) const MAX_PRIORITY: i64 = 1_000_000;
/// A list that a person reads.
pub(super) const MAX_STEPS: usize = 100;
/// Everything that a task says, as JSON: it is in the log, in memory and in each checkpoint.
pub(super) const MAX_SPEC_BYTES: usize = 1024 * 1024;
/// A line.
pub(super) const MAX_TITLE_BYTES: usize = 1024;
/// The longest path that systems take.
pub(super) const MAX_PATH_BYTES: usize = 4096;

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
pub(super) const MAX_WAIT_MS: i64 = 600_000;

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
