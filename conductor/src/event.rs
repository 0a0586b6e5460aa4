//! What happened to the node, as conductor's log keeps it: one line, one form.
//!
//! Owns the words of events. What `State` needs to be rebuilt is in them, so they are also what recovery reads. Renewals
//! and heartbeats are documents, never events.

use common::keys::Key;
use common::log::Seq;
use common::record;
use common::time::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::state::{Fault, Mode, Outcome, Spec, Status};

/// An event with its place and time.
pub(crate) type Record = record::Record<Event>;

/// Everything that changes the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A log without a past begins, and this is its name.
    #[serde(rename = "log.created")]
    LogCreated { log_id: String },
    /// A process took the lead.
    #[serde(rename = "lease.acquired")]
    LeaseAcquired { holder_id: String, holder_host: String, term: u64, pid: u32, version: String },
    /// Somebody set the mode.
    #[serde(rename = "system.changed")]
    SystemChanged { mode: Mode, requested_by: Option<String>, reason: Option<String>, source: Option<String> },
    /// A command with an idempotency key is about to run.
    #[serde(rename = "exec.started")]
    ExecStarted { key: Key },
    /// It has run, and its result is kept in so many bytes.
    #[serde(rename = "exec.finished")]
    ExecFinished { hash: String, kept_bytes: u64 },
    /// Nobody knows what became of it.
    #[serde(rename = "exec.lost")]
    ExecLost { hash: String },
    /// It did not run.
    #[serde(rename = "exec.refused")]
    ExecRefused { hash: String },
    /// Somebody wants something done.
    #[serde(rename = "task.created")]
    TaskCreated { task_id: String, key: Option<Key>, bytes: u64, spec: Spec },
    /// The time has come that a task had to wait for.
    #[serde(rename = "task.due")]
    TaskDue { task_id: String },
    /// Somebody wants a task ended; one that does not run has ended with it.
    #[serde(rename = "task.canceled")]
    TaskCanceled { task_id: String, reason: String },
    /// An attempt begins.
    #[serde(rename = "run.started")]
    RunStarted { run_id: String, task_id: String, attempt: u64 },
    /// It has a session.
    #[serde(rename = "run.session")]
    RunSession { run_id: String, session_id: String, thread_id: Option<String> },
    /// Which is closed.
    #[serde(rename = "run.session_closed")]
    RunSessionClosed { run_id: String },
    /// A step is about to begin; codexd's events after this number belong to it, if it is a turn.
    #[serde(rename = "step.started")]
    StepStarted { run_id: String, step_index: usize, codexd_seq: Option<Seq> },
    /// codexd has taken its turn.
    #[serde(rename = "step.accepted")]
    StepAccepted { run_id: String, turn_id: String },
    /// It is done.
    #[serde(rename = "step.finished")]
    StepFinished { run_id: String, step_index: usize, outcome: Outcome },
    /// A line of a run's log.
    #[serde(rename = "run.line")]
    RunLine { run_id: String, task_id: String, level: Level, message: String, codexd_seq: Option<Seq> },
    /// An attempt is over; with a time the task is tried again then.
    #[serde(rename = "run.ended")]
    RunEnded { run_id: String, status: Status, error: Option<Fault>, retry_at: Option<Timestamp> },
    /// The process stops in good order.
    #[serde(rename = "daemon.stopping")]
    DaemonStopping { reason: String },
    /// Of another version.
    #[serde(other)]
    Other,
}

/// How much a line of a run's log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

/// The line of the log. It begins `{"seq":N,`.
pub(crate) fn render(record: &Record) -> String {
    let level = match &record.event {
        Event::ExecLost { .. } | Event::RunEnded { status: Status::Failed | Status::Interrupted, .. } => {
            "warn"
        }
        _ => "info",
    };
    let (r#type, detail) = record::parts(&record.event).unwrap_or_default();
    record::render(record, level, &r#type, &message(&record.event), &detail)
}

impl record::Event for Event {
    const CREATED_AT: &str = "created_at";

    fn read<'de, D: Deserializer<'de>>(r#type: &str, detail: D) -> Result<Event, D::Error> {
        record::variant(r#type, detail)
    }
}

/// Reads a line that `render` wrote, of this version or another.
///
/// # Errors
/// A sentence for the log: what the line lacks.
pub(crate) fn parse(line: &str) -> Result<Record, String> {
    record::parse(line)
}

fn message(event: &Event) -> String {
    match event {
        Event::LogCreated { log_id } => format!("Log {log_id} begins."),
        Event::LeaseAcquired { holder_id, term, .. } => format!("{holder_id} leads, term {term}."),
        Event::SystemChanged { mode, .. } => format!("The mode is {}.", mode.name()),
        Event::ExecStarted { .. } => "A command with an idempotency key starts.".to_owned(),
        Event::ExecFinished { .. } => "A command with an idempotency key has run.".to_owned(),
        Event::ExecLost { .. } => "What became of a command with an idempotency key is not known.".to_owned(),
        Event::ExecRefused { .. } => "A command with an idempotency key did not run.".to_owned(),
        Event::TaskCreated { task_id, .. } => format!("{task_id} is queued."),
        Event::TaskDue { task_id } => format!("{task_id} may start."),
        Event::TaskCanceled { task_id, .. } => format!("{task_id} is to end."),
        Event::RunStarted { task_id, attempt, .. } => format!("Attempt {attempt} of {task_id} begins."),
        Event::RunSession { run_id, session_id, .. } => format!("{run_id} works in {session_id}."),
        Event::RunSessionClosed { run_id } => format!("The session of {run_id} is closed."),
        Event::StepStarted { run_id, step_index, .. } => format!("Step {step_index} of {run_id} begins."),
        Event::StepAccepted { run_id, turn_id } => format!("{run_id} waits for {turn_id}."),
        Event::StepFinished { run_id, step_index, .. } => format!("Step {step_index} of {run_id} is done."),
        Event::RunLine { run_id, .. } => format!("A line of {run_id}."),
        Event::RunEnded { run_id, status, .. } => format!("{run_id} is {}.", status.name()),
        Event::DaemonStopping { reason } => format!("conductor stops: {reason}."),
        Event::Other => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_one_of_another_version_too() {
        let at = Timestamp::from_millis(0);
        let event = Event::SystemChanged {
            mode: Mode::Paused,
            requested_by: Some("me".into()),
            reason: None,
            source: Some("http".into()),
        };
        let record = Record { seq: 7, at, event };
        let line = render(&record);
        assert_eq!(
            line,
            r#"{"seq":7,"created_at":"1970-01-01T00:00:00.000Z","level":"info","type":"system.changed","message":"The mode is paused.","detail":{"mode":"paused","reason":null,"requested_by":"me","source":"http"}}"#
        );
        assert_eq!(parse(&line), Ok(record));
        let later = line.replace("system.changed", "moon.risen");
        assert_eq!(parse(&later).map(|record| record.event), Ok(Event::Other));
        assert!(parse(r#"{"seq":7}"#).is_err());
        assert!(
            parse(&line.replace("\"mode\":\"paused\"", "\"mode\":\"paXsed\"")).is_err(),
            "that is damage"
        );
    }
}
