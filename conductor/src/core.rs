//! The one pure step of conductor: what happened goes in, what is to be done comes out.
//!
//! No I/O, no clock, no thread. `State` is what the log says; `waiting` dies with the process. `queue` is what callers want
//! of tasks, `scheduler` what becomes of them.

mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::desk::CallId;
use common::engine::Machine;
use common::error::{CONFLICT, TOO_MANY_REQUESTS};
use common::keys::{Key, Keyed};
use common::log::Seq;
use common::time::Now;

use crate::event::{self, Event, Record};
use crate::scheduler::{Live, News, Ticket, Work, Worked};
use crate::state::{Exec, Mode, Place, Run, Shown, Spec, State, Status, Step, Task};

pub(crate) use queue::look;

/// How long a call takes at the most: a commit, on a slow disk.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// All results that are kept for retries: some of each of the 10 000 keys, or all of fewer large ones.
pub(crate) const MAX_KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// One kept result, at the most: two outputs of 64 KiB, each byte written as `\u0000`, and the command.
pub(crate) const MAX_RESULT_BYTES: u64 = 2 * 1024 * 1024;

/// Everything that happens.
#[derive(Debug)]
pub(crate) enum Input {
    /// The process has taken the lead; the first input.
    Start,
    /// Somebody wants something.
    Call { id: CallId, call: Call },
    /// codexd's events, by the stream that was asked for last.
    Heard { epoch: u64, news: News },
    /// The lease was renewed, or could not be: too often, and this node is degraded.
    Renewed { degraded: bool },
    /// Who made this call is gone.
    Gone { id: CallId },
    /// A deadline has come.
    Tick,
    /// The process is asked to end.
    Stop(&'static str),
}

/// What somebody wants.
#[derive(Debug)]
pub(crate) enum Call {
    /// Set the mode.
    System(Change),
    /// Run a command under this key, once; who finds it running waits so long for its end.
    BeginExec { key: Key, patience: Duration },
    /// The command of this key has ended.
    EndExec { hash: String, ended: Ended },
    /// Do a task, once under a key.
    Submit { key: Option<Key>, spec: Box<Spec>, bytes: u64 },
    /// End a task.
    Cancel { task_id: String, reason: String },
    /// Something was done for a run.
    Worked { ticket: Ticket, worked: Box<Worked> },
    /// See tasks and runs.
    Read(Read),
}

/// What somebody wants to see.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    Task(String),
    Tasks { status: Option<Status>, before: Option<String>, limit: usize },
    Run(String),
    Runs { task_id: Option<String>, before: Option<String>, limit: usize },
}

/// The mode that is wanted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) mode: Mode,
    pub(crate) requested_by: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) source: Option<String>,
}

/// How a command with a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its result is kept, in so many bytes.
    Kept(u64),
    /// It ran, and its result could not be kept.
    Lost,
    /// It did not run.
    Refused,
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Done,
    /// The command is this caller's to run.
    Begun,
    /// It has run, and its result is kept.
    Finished,
    /// It may have run, and nobody knows what came of it.
    Lost,
    /// Tasks, with the name of the log.
    Tasks(String, Vec<Arc<Task>>),
    /// Runs, each with the session, and the name of the log.
    Runs(String, Vec<Arc<Run>>),
}

/// Everything that can be done.
#[derive(Debug)]
pub(crate) enum Effect {
    Append(String),
    /// The system state is this from now on, for all to see.
    Publish(Box<Shown>),
    /// Something is to be done for a run; a call tells what came of it.
    Work {
        ticket: Ticket,
        work: Work,
    },
    /// The command that runs for this run is to end.
    Kill(Seq),
    /// codexd's events are to be followed, in place of any stream before.
    Follow {
        epoch: u64,
        after: Option<Seq>,
    },
    /// They are not needed any more.
    Unfollow,
    /// The process is to end as soon as it can.
    Stopping(&'static str),
    Reply {
        id: CallId,
        outcome: Result<Reply, Error>,
    },
    /// The kept result of this key is of no use any more.
    Forget(String),
    Exit,
}

/// What a process brings to the core.
#[derive(Clone, Debug)]
pub(crate) struct Birth {
    /// The name of a log that begins with this process.
    pub(crate) new_log_id: Option<String>,
    /// Commands that run by the log ran in a process that is gone.
    pub(crate) cut_off: bool,
    /// There was a log before, and what it said last is not known.
    pub(crate) damaged: bool,
    pub(crate) next: Seq,
    pub(crate) holder_id: String,
    pub(crate) holder_host: String,
    pub(crate) term: u64,
    pub(crate) pid: u32,
    /// How many runs there may be at once.
    pub(crate) max_active_runs: usize,
    /// How many cores this process has made before.
    pub(crate) incarnation: u64,
    /// It was asked to end already.
    pub(crate) stopping: Option<&'static str>,
}

impl Birth {
    /// What the past left has been written down: a core that is made again in this process finds nothing of it.
    pub(crate) fn settle(&mut self) {
        (self.new_log_id, self.cut_off, self.damaged) = (None, false, false);
    }
}

struct Waiting {
    hash: String,
    until: Duration,
}

/// State and what becomes of it.
pub(crate) struct Core {
    pub(crate) state: State,
    birth: Birth,
    pub(crate) live: Live,
    /// What was shown last.
    shown: Option<Shown>,
    /// Callers that wait for the end of a command that runs under their key.
    waiting: BTreeMap<CallId, Waiting>,
}

impl Core {
    pub(crate) fn new(state: State, birth: Birth) -> Core {
        Core { state, birth, live: Live::default(), shown: None, waiting: BTreeMap::new() }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Every caller that waits, for the shell when it throws this core away.
    pub(crate) fn callers(&self) -> impl Iterator<Item = CallId> {
        self.waiting.keys().copied()
    }

    /// The number of the event that comes next.
    pub(crate) fn next_seq(&self) -> Seq {
        self.birth.next
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.birth.incarnation
    }

    pub(crate) fn max_active_runs(&self) -> usize {
        self.birth.max_active_runs
    }

    pub(crate) fn emit(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        let record = Record { seq: self.birth.next, at: now.wall, event };
        self.birth.next += 1;
        let line = event::render(&record);
        // The line itself is taken in, so that no replay can see anything else than this did.
        match event::parse(&line) {
            Ok(read) => self.state.apply(&read),
            Err(why) => panic!("a line of the log cannot be read back ({why}): {line}"),
        }
        out.push(Effect::Append(line));
    }

    fn start(&mut self, now: Now, out: &mut Vec<Effect>) {
        if let Some(log_id) = self.birth.new_log_id.take() {
            self.emit(now, Event::LogCreated { log_id }, out);
        }
        let Birth { holder_id, holder_host, term, pid, .. } = self.birth.clone();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.emit(now, Event::LeaseAcquired { holder_id, holder_host, term, pid, version }, out);
        let cut_off = |keyed: &Keyed<Exec>| self.birth.cut_off && keyed.outcome == Exec::Running;
        let running = self.state.execs().all().filter(|(_, keyed)| cut_off(keyed));
        let lost: Vec<String> = running.map(|(hash, _)| hash.to_owned()).collect();
        for hash in lost {
            self.emit(now, Event::ExecLost { hash }, out);
        }
        if self.birth.damaged {
            // It may have been paused: what starts nothing does no harm.
            let text = |text: &str| Some(text.to_owned());
            let (mode, requested_by, source) = (Mode::Paused, text("conductor"), text("recovery"));
            let reason = text("the log was damaged or removed, and the mode that was set last is not known");
            self.emit(now, Event::SystemChanged { mode, requested_by, reason, source }, out);
        }
        if let Some(reason) = self.birth.stopping {
            self.live.stop(now, reason);
        }
        if !self.birth.cut_off {
            // This process has not ended: what it runs goes on, and will tell what came of it.
            let begun = |run: &&Arc<Run>| run.status == Status::Running && run.place != Place::Between;
            let commands: Vec<Seq> = self
                .state
                .tasks()
                .live()
                .filter(begun)
                .filter(|run| matches!(self.step_of(run), Some(Step::Exec { .. })))
                .map(|run| run.seq)
                .collect();
            commands.into_iter().for_each(|run| self.live.assume_busy(run));
        }
    }

    fn call(&mut self, now: Now, id: CallId, call: Call, out: &mut Vec<Effect>) {
        match call {
            Call::System(Change { mode, requested_by, reason, source }) => {
                self.emit(now, Event::SystemChanged { mode, requested_by, reason, source }, out);
                // Before the answer: who was told of the change sees it everywhere.
                self.show(out);
                out.push(Effect::Reply { id, outcome: Ok(Reply::Done) });
            }
            Call::BeginExec { key, patience } => self.begin(now, id, key, patience, out),
            Call::EndExec { hash, ended } => {
                let event = match ended {
                    Ended::Kept(kept_bytes) => Event::ExecFinished { hash: hash.clone(), kept_bytes },
                    Ended::Lost => Event::ExecLost { hash: hash.clone() },
                    Ended::Refused => Event::ExecRefused { hash: hash.clone() },
                };
                self.emit(now, event, out);
                self.tell(&hash, ended, out);
                out.push(Effect::Reply { id, outcome: Ok(Reply::Done) });
            }
            Call::Submit { key, spec, bytes } => {
                let outcome = self.submit(now, key, *spec, bytes, out);
                self.show(out);
                out.push(Effect::Reply { id, outcome });
            }
            Call::Cancel { task_id, reason } => {
                let outcome = self.cancel(now, &task_id, reason, out);
                self.show(out);
                out.push(Effect::Reply { id, outcome });
            }
            Call::Worked { ticket, worked } => {
                self.worked(now, ticket, *worked, out);
                out.push(Effect::Reply { id, outcome: Ok(Reply::Done) });
            }
            Call::Read(read) => out.push(Effect::Reply { id, outcome: look(&self.state, &read) }),
        }
    }

    /// Shows what there is to be seen of the whole, if it has changed.
    fn show(&mut self, out: &mut Vec<Effect>) {
        let shown = self.state.shown();
        if self.shown.as_ref() != Some(&shown) {
            self.shown = Some(shown.clone());
            out.push(Effect::Publish(Box::new(shown)));
        }
    }

    fn begin(&mut self, now: Now, id: CallId, key: Key, patience: Duration, out: &mut Vec<Effect>) {
        let known = self.state.execs().admit(&key, now.wall).map(|known| known.map(|known| known.outcome));
        let outcome = match known {
            Ok(Some(Exec::Running)) => {
                self.waiting.insert(id, Waiting { hash: key.hash, until: now.mono + patience });
                return;
            }
            Ok(Some(Exec::Finished(_))) => Ok(Reply::Finished),
            Ok(Some(Exec::Lost)) => Ok(Reply::Lost),
            Ok(None) if self.kept_bytes() + MAX_RESULT_BYTES > MAX_KEPT_BYTES => {
                let message =
                    format!("Results of {MAX_KEPT_BYTES} bytes are kept, which is all that may be.");
                Err(Error::new(TOO_MANY_REQUESTS, message).header("Retry-After", "600"))
            }
            Ok(None) => {
                let forgotten: Vec<String> =
                    self.state.execs().expired(now.wall).map(str::to_owned).collect();
                out.extend(forgotten.into_iter().map(Effect::Forget));
                self.emit(now, Event::ExecStarted { key }, out);
                Ok(Reply::Begun)
            }
            Err(error) => Err(error),
        };
        out.push(Effect::Reply { id, outcome });
    }

    /// What the results on disk may take; of those that run, the most.
    fn kept_bytes(&self) -> u64 {
        let kept = |exec: Exec| match exec {
            Exec::Running => MAX_RESULT_BYTES,
            Exec::Finished(bytes) => bytes,
            Exec::Lost => 0,
        };
        self.state.execs().all().map(|(_, keyed)| kept(keyed.outcome)).sum()
    }

    /// Answers those who wait for a command that has ended.
    fn tell(&mut self, hash: &str, ended: Ended, out: &mut Vec<Effect>) {
        let waits: Vec<CallId> =
            self.waiting.iter().filter(|(_, waiting)| waiting.hash == hash).map(|(id, _)| *id).collect();
        for id in waits {
            self.waiting.remove(&id);
            let outcome = match ended {
                Ended::Kept(_) => Ok(Reply::Finished),
                Ended::Lost => Ok(Reply::Lost),
                Ended::Refused => {
                    Err(Error::new(CONFLICT, "The command of this Idempotency-Key did not run."))
                }
            };
            out.push(Effect::Reply { id, outcome });
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        let late: Vec<CallId> =
            self.waiting.iter().filter(|(_, waiting)| waiting.until <= now.mono).map(|(id, _)| *id).collect();
        for id in late {
            self.waiting.remove(&id);
            out.push(Effect::Reply { id, outcome: Err(still_runs()) });
        }
    }
}

/// What one hears who cannot wait on for a command that runs under the same key.
pub(crate) fn still_runs() -> Error {
    let error = Error::new(CONFLICT, "The command of this Idempotency-Key still runs.");
    error.header("Retry-After", "5")
}

impl Machine for Core {
    type Input = Input;
    type Effect = Effect;

    fn start() -> Input {
        Input::Start
    }

    fn tick() -> Input {
        Input::Tick
    }

    fn size(input: &Input) -> usize {
        match input {
            Input::Call { call: Call::System(change), .. } => {
                let texts = [&change.requested_by, &change.reason, &change.source];
                128 + texts.into_iter().flatten().map(String::len).sum::<usize>()
            }
            Input::Call { call: Call::Submit { bytes, .. }, .. } => {
                usize::try_from(*bytes).unwrap_or(usize::MAX)
            }
            Input::Call { call: Call::Worked { .. }, .. } | Input::Heard { .. } => 16 * 1024, // lines have a bound
            _ => 256, // a key has two hashes
        }
    }

    fn line(effect: &Effect) -> Option<&str> {
        if let Effect::Append(line) = effect { Some(line) } else { None }
    }

    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Start => self.start(now, out),
            Input::Call { id, call } => self.call(now, id, call, out),
            Input::Heard { epoch, news } => self.heard(now, epoch, news, out),
            Input::Renewed { degraded } => self.live.degraded = degraded,
            Input::Gone { id } => drop(self.waiting.remove(&id)),
            Input::Tick => {}
            Input::Stop(name) => {
                self.live.stop(now, name);
                out.push(Effect::Stopping(name));
            }
        }
        self.tick(now, out);
        self.schedule(now, out);
        self.show(out);
    }

    fn deadline(&self) -> Option<Duration> {
        self.waiting.values().map(|waiting| waiting.until).chain(self.live.wake()).min()
    }
}

#[cfg(test)]
pub(crate) mod tests;
