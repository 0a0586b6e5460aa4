//! What conductor's log says: who leads, in which mode the node is, and which commands have run under which key.
//!
//! Only `apply` changes it, live and in replay alike. Time in it is the event's time.

mod tasks;

use common::keys::Keys;
use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Record};

pub(crate) use tasks::{
    Done, Fault, MAX_TASKS_BYTES, Outcome, Place, Run, Spec, Status, Step, Task, Tasks, Totals,
};

/// What the node does with work of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Runs start.
    #[default]
    Running,
    /// No run starts.
    Paused,
    /// No run starts, those that run finish.
    Draining,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Running => "running",
            Mode::Paused => "paused",
            Mode::Draining => "draining",
        }
    }
}

/// The mode, and who set it why and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    pub(crate) mode: Mode,
    pub(crate) requested_by: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) source: Option<String>,
    /// None as long as nobody has set anything.
    pub(crate) updated_at: Option<Timestamp>,
}

/// What all may see of the node's own work.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) system: System,
    pub(crate) queued_tasks: usize,
    pub(crate) active_runs: usize,
    pub(crate) totals: Totals,
}

impl State {
    /// What of it all may see.
    pub(crate) fn shown(&self) -> Shown {
        let (queued_tasks, active_runs) = (self.tasks.queued(), self.tasks.active_runs());
        Shown { system: self.system.clone(), queued_tasks, active_runs, totals: self.tasks.totals() }
    }
}

/// What became of a command with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exec {
    Running,
    /// Its result is kept, in so many bytes.
    Finished(u64),
    /// It ran, and nobody knows how it ended.
    Lost,
}

/// Everything that outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    log_id: String,
    seq: Seq,
    term: u64,
    system: System,
    #[serde(default)]
    execs: Keys<Exec>,
    /// Tasks by the keys that they were submitted under.
    #[serde(default)]
    submits: Keys<Seq>,
    #[serde(default)]
    tasks: Tasks,
}

impl State {
    /// The name of the log; empty before its first event.
    pub(crate) fn log_id(&self) -> &str {
        &self.log_id
    }

    /// The number of the last event that is in it.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// How often the lead has been taken.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    pub(crate) fn system(&self) -> &System {
        &self.system
    }

    /// Commands by their keys.
    pub(crate) fn execs(&self) -> &Keys<Exec> {
        &self.execs
    }

    /// Tasks by the keys that they were submitted under.
    pub(crate) fn submits(&self) -> &Keys<Seq> {
        &self.submits
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// `task-…` or `run-…` of what an event of this log made.
    pub(crate) fn id(&self, kind: &str, seq: Seq) -> String {
        id(&self.log_id, kind, seq)
    }

    /// The task or run that this is the id of, if it ever was one's.
    pub(crate) fn seq_of(&self, kind: &str, id: &str) -> Option<Seq> {
        number(id).filter(|&seq| self.id(kind, seq) == id)
    }

    /// Takes an event in.
    pub(crate) fn apply(&mut self, record: &Record) {
        self.seq = record.seq;
        match &record.event {
            Event::LogCreated { log_id } => self.log_id.clone_from(log_id),
            Event::LeaseAcquired { term, .. } => self.term = *term,
            Event::SystemChanged { mode, requested_by, reason, source } => {
                self.system = System {
                    mode: *mode,
                    requested_by: requested_by.clone(),
                    reason: reason.clone(),
                    source: source.clone(),
                    updated_at: Some(record.at),
                };
            }
            Event::ExecStarted { key } => {
                self.execs.remember(key, Exec::Running, record.seq, record.at);
            }
            Event::ExecFinished { hash, kept_bytes } => {
                self.execs.settle(hash, Exec::Finished(*kept_bytes));
            }
            Event::ExecLost { hash } => self.execs.settle(hash, Exec::Lost),
            Event::ExecRefused { hash } => self.execs.forget(hash),
            Event::DaemonStopping { .. } | Event::Other => {}
            event => self.apply_work(record, event),
        }
    }

    fn apply_work(&mut self, record: &Record, event: &Event) {
        let (seq, at, tasks) = (record.seq, record.at, &mut self.tasks);
        match event {
            Event::TaskCreated { key, spec, bytes, .. } => {
                tasks.create(seq, at, spec.clone(), *bytes);
                if let Some(key) = key {
                    self.submits.remember(key, seq, seq, at);
                }
            }
            Event::TaskDue { task_id } => tasks.change(of(task_id), at, |task| task.due_at = None),
            Event::TaskCanceled { task_id, reason } => tasks.change(of(task_id), at, |task| {
                task.cancel = Some(reason.clone());
                if task.status == Status::Queued {
                    (task.status, task.finished_at) = (Status::Canceled, Some(at));
                }
            }),
            Event::RunStarted { task_id, attempt, .. } => {
                let task = of(task_id);
                let step_index = tasks.task(task).map_or(0, |task| task.done.len());
                tasks.start_run(Run::new(seq, task, *attempt, step_index, at));
                tasks.change(task, at, |task| {
                    task.status = Status::Running;
                    task.runs.push(seq);
                    task.started_at.get_or_insert(at);
                });
            }
            Event::RunSession { run_id, session_id, thread_id } => {
                let run = of(run_id);
                tasks.change_run(run, |run| {
                    (run.session_id, run.session_open) = (Some(session_id.clone()), true);
                });
                if let Some(task) = tasks.run(run).map(|run| run.task) {
                    tasks.change(task, at, |task| task.thread_id.clone_from(thread_id));
                }
            }
            Event::RunSessionClosed { run_id } => {
                tasks.change_run(of(run_id), |run| run.session_open = false);
            }
            Event::StepStarted { run_id, codexd_seq, .. } => tasks.change_run(of(run_id), |run| {
                run.place = Place::Begun { at };
                if let Some(seq) = codexd_seq {
                    (run.codexd_seq, run.session_open) = (*seq, true);
                }
            }),
            Event::StepAccepted { run_id, turn_id } => tasks.change_run(of(run_id), |run| {
                let begun = run.place.begun_at().unwrap_or(at);
                run.place = Place::Taken { at: begun, turn_id: turn_id.clone() };
            }),
            Event::StepFinished { run_id, outcome, .. } => {
                let run = of(run_id);
                tasks.change_run(run, |run| {
                    (run.place, run.step_index) = (Place::Between, run.step_index + 1)
                });
                if let Some((task, attempt)) = tasks.run(run).map(|run| (run.task, run.attempt)) {
                    tasks.change(task, at, |task| {
                        let cut_off = std::mem::take(&mut task.cut_off);
                        task.bytes += 256 + outcome.text.as_ref().map_or(0, |text| text.len() as u64);
                        task.done.push(Done { attempt, outcome: outcome.clone(), cut_off });
                    });
                }
            }
            Event::RunLine { run_id, task_id, message, codexd_seq, .. } => {
                tasks.change_run(of(run_id), |run| {
                    run.said(message);
                    run.codexd_seq = codexd_seq.unwrap_or(run.codexd_seq);
                });
                tasks.change(of(task_id), at, |task| task.last_line = seq);
            }
            Event::RunEnded { run_id, status, error, retry_at } => {
                self.end_run(record, of(run_id), *status, error.as_ref(), *retry_at);
            }
            _ => {}
        }
    }

    fn end_run(
        &mut self,
        record: &Record,
        run: Seq,
        status: Status,
        error: Option<&Fault>,
        retry_at: Option<Timestamp>,
    ) {
        let at = record.at;
        let Some(before) = self.tasks.run(run).cloned() else { return };
        self.tasks.change_run(run, |run| {
            (run.status, run.finished_at, run.error) = (status, Some(at), error.cloned());
            run.last_line = None;
        });
        self.tasks.change(before.task, at, |task| {
            task.cut_off += u64::from(status == Status::Interrupted && before.place != Place::Between);
            task.failures += u64::from(status == Status::Failed);
            task.error = error.cloned();
            match retry_at {
                Some(due_at) => (task.status, task.due_at) = (Status::Queued, Some(due_at)),
                None if status == Status::Interrupted => {
                    (task.status, task.finished_at) = (Status::Failed, Some(at));
                }
                None => (task.status, task.finished_at) = (status, Some(at)),
            }
        });
    }
}

/// `task-…` or `run-…` of what event `seq` of the log `log_id` made.
pub(crate) fn id(log_id: &str, kind: &str, seq: Seq) -> String {
    let log = log_id.get(..8).unwrap_or("00000000");
    format!("{kind}-{log}-{seq}")
}

/// The number at the end of an id.
fn number(id: &str) -> Option<Seq> {
    id.rsplit_once('-')?.1.parse().ok()
}

/// The number of an id that an event of ours tells; 0, which is nobody's, if it is none.
fn of(id: &str) -> Seq {
    number(id).unwrap_or(0)
}
