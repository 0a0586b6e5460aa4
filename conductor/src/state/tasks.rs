//! Tasks and their runs, as the log says; and who is next.
//!
//! A task is named by the event that made it, a run by the one that started it: `task-<log>-<seq>`. Only `State::apply`
//! changes what is here. What is over is kept for a while, bounded in count.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::log::Seq;
use common::time::Timestamp;
use common::wire::Object;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tasks that are over and can still be read; the oldest goes first. Some 10 MB of a checkpoint at the most likely.
pub(crate) const MAX_FINISHED: usize = 1000;
/// What they take in memory, with what their steps said: half of what all tasks may take, so that they never fill the queue.
pub(crate) const MAX_FINISHED_BYTES: u64 = MAX_TASKS_BYTES / 2;
/// What all tasks that are known take in memory, and in each checkpoint, about.
pub(crate) const MAX_TASKS_BYTES: u64 = 64 * 1024 * 1024;
/// What is kept of a run's newest line, for whoever looks at what runs.
const MAX_LAST_LINE_BYTES: usize = 512;

/// What a caller wants done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) title: Option<String>,
    pub(crate) steps: Vec<Step>,
    pub(crate) cwd: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) sandbox: Option<String>,
    pub(crate) approval_policy: Option<Value>,
    pub(crate) priority: i64,
    /// Of one attempt.
    pub(crate) timeout_ms: u64,
    pub(crate) max_attempts: u64,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) metadata: Option<Object>,
}

/// One thing after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Step {
    /// A turn of Codex.
    Codex { input: Value },
    /// A command for `sh -c`.
    Exec { command: String, timeout_ms: Option<u64> },
}

/// How a task or a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// It waits for its turn; runs never do.
    Queued,
    Running,
    Completed,
    Failed,
    Canceled,
    /// A run that its process did not end; tasks are never that.
    Interrupted,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Canceled => "canceled",
            Status::Interrupted => "interrupted",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Status> {
        use Status::{Canceled, Completed, Failed, Interrupted, Queued, Running};
        [Queued, Running, Completed, Failed, Canceled, Interrupted]
            .into_iter()
            .find(|status| status.name() == text)
    }

    pub(crate) fn is_over(self) -> bool {
        !matches!(self, Status::Queued | Status::Running)
    }
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What the agent said last, or what the command printed last, up to a bound.
    pub(crate) text: Option<String>,
    pub(crate) usage: Option<Value>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) duration_ms: u64,
}

/// A step that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// The attempt that did it.
    pub(crate) attempt: u64,
    pub(crate) outcome: Outcome,
    /// How often it was begun before, and cut off.
    pub(crate) cut_off: u64,
}

/// A task as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) seq: Seq,
    pub(crate) spec: Arc<Spec>,
    /// What it takes in memory, about.
    pub(crate) bytes: u64,
    pub(crate) status: Status,
    /// Runs so far, the oldest first.
    pub(crate) runs: Vec<Seq>,
    /// Of them, those that count against `max_attempts`.
    pub(crate) failures: u64,
    /// The steps that are done.
    pub(crate) done: Vec<Done>,
    /// How often the step that comes next was begun and cut off.
    pub(crate) cut_off: u64,
    /// The conversation that the steps share.
    pub(crate) thread_id: Option<String>,
    /// Not before: the caller's, or after a failure the pause.
    pub(crate) due_at: Option<Timestamp>,
    /// Somebody wants it ended, and says why.
    pub(crate) cancel: Option<String>,
    pub(crate) error: Option<Fault>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// Its newest line.
    pub(crate) last_line: Seq,
}

/// How far a run is with the step that it is at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// Before it.
    #[default]
    Between,
    /// It may have begun.
    Begun { at: Timestamp },
    /// codexd has taken the turn.
    Taken { at: Timestamp, turn_id: String },
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seq: Seq,
    pub(crate) task: Seq,
    pub(crate) attempt: u64,
    pub(crate) status: Status,
    pub(crate) session_id: Option<String>,
    /// Whether there may be a session that is not closed.
    pub(crate) session_open: bool,
    pub(crate) step_index: usize,
    pub(crate) place: Place,
    /// What has been taken in of codexd's events.
    pub(crate) codexd_seq: Seq,
    /// Its lines so far.
    pub(crate) lines: u64,
    /// The newest of them, while it runs.
    pub(crate) last_line: Option<String>,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) error: Option<Fault>,
}

impl Place {
    /// When the step began.
    pub(crate) fn begun_at(&self) -> Option<Timestamp> {
        match self {
            Place::Between => None,
            Place::Begun { at } | Place::Taken { at, .. } => Some(*at),
        }
    }
}

impl Run {
    pub(super) fn new(seq: Seq, task: Seq, attempt: u64, step_index: usize, at: Timestamp) -> Run {
        Run {
            seq,
            task,
            attempt,
            status: Status::Running,
            session_id: None,
            session_open: false,
            step_index,
            place: Place::Between,
            codexd_seq: 0,
            lines: 0,
            last_line: None,
            started_at: at,
            finished_at: None,
            error: None,
        }
    }

    pub(super) fn said(&mut self, message: &str) {
        self.lines += 1;
        self.last_line = Some(message[..message.floor_char_boundary(MAX_LAST_LINE_BYTES)].to_owned());
    }
}

/// What was done since the log began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) canceled: u64,
    /// Runs that began.
    pub(crate) runs: u64,
    /// Steps that are done.
    pub(crate) steps: u64,
}

/// All of them. What can be found out from tasks and runs is not written down, but made again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub(crate) struct Tasks {
    tasks: BTreeMap<Seq, Arc<Task>>,
    runs: BTreeMap<Seq, Arc<Run>>,
    /// Tasks that could start, the next one first.
    ready: BTreeSet<(Reverse<i64>, Seq)>,
    /// Tasks that must wait until then.
    later: BTreeSet<(Timestamp, Seq)>,
    by_status: BTreeSet<(Status, Seq)>,
    /// Tasks in the order of their ends.
    over: BTreeSet<(Timestamp, Seq)>,
    /// Runs that run, or whose session is not closed.
    live: BTreeSet<Seq>,
    /// What tasks take in memory, and of that those that are over.
    bytes: u64,
    over_bytes: u64,
    totals: Totals,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    tasks: Vec<Arc<Task>>,
    runs: Vec<Arc<Run>>,
    totals: Totals,
}

impl From<Saved> for Tasks {
    fn from(saved: Saved) -> Tasks {
        let mut tasks = Tasks { totals: saved.totals, ..Tasks::default() };
        for task in saved.tasks {
            tasks.enter(&task);
            tasks.tasks.insert(task.seq, task);
        }
        for run in saved.runs {
            tasks.enter_run(&run);
            tasks.runs.insert(run.seq, run);
        }
        tasks
    }
}

impl From<Tasks> for Saved {
    fn from(tasks: Tasks) -> Saved {
        let (runs, totals) = (tasks.runs.into_values().collect(), tasks.totals);
        Saved { tasks: tasks.tasks.into_values().collect(), runs, totals }
    }
}

impl Tasks {
    pub(crate) fn task(&self, seq: Seq) -> Option<&Arc<Task>> {
        self.tasks.get(&seq)
    }

    pub(crate) fn run(&self, seq: Seq) -> Option<&Arc<Run>> {
        self.runs.get(&seq)
    }

    /// The newest tasks before `before`, of one status or of all.
    pub(crate) fn newest(&self, status: Option<Status>, before: Seq, limit: usize) -> Vec<Arc<Task>> {
        let all: Box<dyn Iterator<Item = Seq>> = match status {
            Some(status) => {
                Box::new(self.by_status.range((status, 0)..(status, before)).rev().map(|(_, seq)| *seq))
            }
            None => Box::new(self.tasks.range(..before).rev().map(|(seq, _)| *seq)),
        };
        all.filter_map(|seq| self.tasks.get(&seq).cloned()).take(limit).collect()
    }

    /// The newest runs before `before`.
    pub(crate) fn newest_runs(&self, before: Seq, limit: usize) -> Vec<Arc<Run>> {
        self.runs.range(..before).rev().map(|(_, run)| run.clone()).take(limit).collect()
    }

    /// Runs that run, or whose session is not closed, the oldest first.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.live.iter().filter_map(|seq| self.runs.get(seq))
    }

    pub(crate) fn active_runs(&self) -> usize {
        self.live().filter(|run| run.status == Status::Running).count()
    }

    pub(crate) fn queued(&self) -> usize {
        self.ready.len() + self.later.len()
    }

    /// What all tasks take in memory, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// The task that is to start next.
    pub(crate) fn next(&self) -> Option<&Arc<Task>> {
        self.ready.first().and_then(|(_, seq)| self.tasks.get(seq))
    }

    /// The first of those that must wait, and until when.
    pub(crate) fn next_due(&self) -> Option<(Timestamp, Seq)> {
        self.later.first().copied()
    }

    pub(super) fn create(&mut self, seq: Seq, at: Timestamp, spec: Spec, bytes: u64) {
        let task = Task {
            seq,
            bytes,
            status: Status::Queued,
            runs: Vec::new(),
            failures: 0,
            done: Vec::new(),
            cut_off: 0,
            thread_id: None,
            due_at: spec.not_before,
            cancel: None,
            error: None,
            created_at: at,
            updated_at: at,
            started_at: None,
            finished_at: None,
            last_line: seq,
            spec: Arc::new(spec),
        };
        self.enter(&task);
        self.tasks.insert(seq, Arc::new(task));
    }

    /// Changes a task; it is found under what it is now.
    pub(super) fn change(&mut self, seq: Seq, at: Timestamp, change: impl FnOnce(&mut Task)) {
        let Some(mut task) = self.tasks.remove(&seq) else { return };
        self.leave(&task);
        let (before, done) = (task.status, task.done.len());
        let changed = Arc::make_mut(&mut task);
        changed.updated_at = at;
        change(changed);
        self.count(before, done, &task);
        self.enter(&task);
        self.tasks.insert(seq, task);
        while self.over.len() > MAX_FINISHED || self.over_bytes > MAX_FINISHED_BYTES {
            // One whose session is not closed yet stays until it is.
            let is_closed = |(_, seq): &&(Timestamp, Seq)| {
                self.tasks.get(seq).is_none_or(|task| !task.runs.iter().any(|run| self.live.contains(run)))
            };
            let Some((_, oldest)) = self.over.iter().find(is_closed).copied() else { return };
            self.forget(oldest);
        }
    }

    fn count(&mut self, before: Status, done: usize, task: &Task) {
        self.totals.steps += (task.done.len() - done) as u64;
        match task.status {
            status if status == before => {}
            Status::Completed => self.totals.completed += 1,
            Status::Failed => self.totals.failed += 1,
            Status::Canceled => self.totals.canceled += 1,
            _ => {}
        }
    }

    /// The same for a run.
    pub(super) fn change_run(&mut self, seq: Seq, change: impl FnOnce(&mut Run)) {
        let Some(run) = self.runs.get_mut(&seq) else { return };
        change(Arc::make_mut(run));
        let run = run.clone();
        self.enter_run(&run);
    }

    pub(super) fn start_run(&mut self, run: Run) {
        self.enter_run(&run);
        self.totals.runs += 1;
        self.runs.insert(run.seq, Arc::new(run));
    }

    fn forget(&mut self, seq: Seq) {
        let Some(task) = self.tasks.remove(&seq) else { return };
        self.leave(&task);
        for run in &task.runs {
            self.runs.remove(run);
            self.live.remove(run);
        }
    }

    fn enter(&mut self, task: &Task) {
        self.bytes += task.bytes;
        self.by_status.insert((task.status, task.seq));
        match (task.status, task.due_at) {
            (Status::Queued, None) => drop(self.ready.insert((Reverse(task.spec.priority), task.seq))),
            (Status::Queued, Some(due_at)) => drop(self.later.insert((due_at, task.seq))),
            (Status::Running, _) => {}
            _ => {
                self.over.insert((task.finished_at.unwrap_or(task.updated_at), task.seq));
                self.over_bytes += task.bytes;
            }
        }
    }

    fn leave(&mut self, task: &Task) {
        self.bytes -= task.bytes;
        self.by_status.remove(&(task.status, task.seq));
        self.ready.remove(&(Reverse(task.spec.priority), task.seq));
        if let Some(due_at) = task.due_at {
            self.later.remove(&(due_at, task.seq));
        }
        if task.status.is_over() {
            self.over.remove(&(task.finished_at.unwrap_or(task.updated_at), task.seq));
            self.over_bytes -= task.bytes;
        }
    }

    fn enter_run(&mut self, run: &Run) {
        match run.status.is_over() && !run.session_open {
            true => self.live.remove(&run.seq),
            false => self.live.insert(run.seq),
        };
    }
}
