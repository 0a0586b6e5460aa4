//! What callers want of the queue: a task more, one less, and to see what there is.

use common::Error;
use common::error::{CONFLICT, NOT_FOUND, TOO_MANY_REQUESTS};
use common::keys::Key;
use common::log::Seq;
use common::time::Now;
use common::wire::invalid;

use super::{Core, Effect, Read, Reply};
use crate::event::Event;
use crate::state::{MAX_TASKS_BYTES, Spec, State, Status};

/// Tasks that wait.
pub(crate) const MAX_QUEUED: usize = 20_000;

impl Core {
    /// Takes a task, once under a key.
    pub(super) fn submit(
        &mut self,
        now: Now,
        key: Option<Key>,
        spec: Spec,
        bytes: u64,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Error> {
        let known = match &key {
            Some(key) => self.state.submits().admit(key, now.wall)?.map(|known| known.outcome),
            None => None,
        };
        if let Some(seq) = known {
            let known = look(&self.state, &Read::Task(self.state.id("task", seq)));
            // Long over, and no longer kept; it is not done again.
            let gone =
                |_| Error::new(CONFLICT, "The task of this Idempotency-Key is over, and not kept any more.");
            return known.map_err(gone);
        }
        let tasks = self.state.tasks();
        let full = if tasks.queued() >= MAX_QUEUED {
            Some(format!("{MAX_QUEUED} tasks wait, which is the bound."))
        } else if tasks.bytes() + bytes > MAX_TASKS_BYTES {
            Some(format!(
                "With this one all tasks would take more than {MAX_TASKS_BYTES} bytes, which is the bound."
            ))
        } else {
            None
        };
        if let Some(message) = full {
            return Err(Error::new(TOO_MANY_REQUESTS, message).header("Retry-After", "60"));
        }
        let task_id = self.state.id("task", self.next_seq());
        self.emit(now, Event::TaskCreated { task_id: task_id.clone(), key, bytes, spec }, out);
        look(&self.state, &Read::Task(task_id))
    }

    /// Has a task ended.
    pub(super) fn cancel(
        &mut self,
        now: Now,
        task_id: &str,
        reason: String,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Error> {
        let read = Read::Task(task_id.to_owned());
        let Reply::Tasks(_, tasks) = look(&self.state, &read)? else { return Ok(Reply::Done) };
        let task = tasks.first().map(|task| (task.status, task.cancel.is_some()));
        match task {
            Some((Status::Queued | Status::Running, false)) => {
                self.emit(now, Event::TaskCanceled { task_id: task_id.to_owned(), reason }, out);
                look(&self.state, &read)
            }
            Some((Status::Running | Status::Canceled, _)) => look(&self.state, &read), // it is on its way
            Some((status, _)) => {
                let message = format!("Task \"{task_id}\" is {} already.", status.name());
                Err(Error::new(CONFLICT, message).details(serde_json::json!({ "status": status.name() })))
            }
            None => Ok(Reply::Done),
        }
    }
}

/// What somebody wants to see of tasks and runs.
///
/// # Errors
/// `not_found`; `invalid_request` for a cursor that is none.
pub(crate) fn look(state: &State, read: &Read) -> Result<Reply, Error> {
    let (tasks, log) = (state.tasks(), state.log_id().to_owned());
    let unknown = |what: &str, id: &str| Error::new(NOT_FOUND, format!("Unknown {what} \"{id}\"."));
    let before = |kind: &str, before: &Option<String>| match before {
        None => Ok(Seq::MAX),
        Some(id) => state.seq_of(kind, id).ok_or_else(|| {
            invalid("before", format!("Query value `before` must be the id of a {kind} of this node."))
        }),
    };
    let task = |id: &str| {
        state.seq_of("task", id).and_then(|seq| tasks.task(seq).cloned()).ok_or_else(|| unknown("task", id))
    };
    match read {
        Read::Task(id) => Ok(Reply::Tasks(log, vec![task(id)?])),
        Read::Tasks { status, before: cursor, limit } => {
            Ok(Reply::Tasks(log, tasks.newest(*status, before("task", cursor)?, *limit)))
        }
        Read::Run(id) => {
            let run = state.seq_of("run", id).and_then(|seq| tasks.run(seq).cloned());
            Ok(Reply::Runs(log, vec![run.ok_or_else(|| unknown("run", id))?]))
        }
        Read::Runs { task_id: Some(id), before: cursor, limit } => {
            let (task, before) = (task(id)?, before("run", cursor)?);
            let runs = task.runs.iter().rev().filter(|seq| **seq < before);
            Ok(Reply::Runs(log, runs.filter_map(|seq| tasks.run(*seq).cloned()).take(*limit).collect()))
        }
        Read::Runs { task_id: None, before: cursor, limit } => {
            Ok(Reply::Runs(log, tasks.newest_runs(before("run", cursor)?, *limit)))
        }
    }
}
