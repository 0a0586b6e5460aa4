//! The step's part that does the node's own work: which task starts, what its run does next, and when it is over.
//!
//! What a run has reached is State; here is what is being done for it now, and what it waits for. `worker` does it. A run
//! that is to end before its time just ends: its session is closed then, which interrupts what still runs in it.

mod outcomes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::log::Seq;
use common::time::{Now, Timestamp};
use serde_json::Value;

use crate::core::{Core, Effect};
use crate::event::{Event, Level};
use crate::state::{Fault, Mode, Place, Run, Spec, Status, Step, Task};
use outcomes::timed_out;

/// The pause after the first failed attempt, or call; each further one takes twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often one step may be cut off by the end of a process: after that it may be what ends it.
pub(crate) const MAX_CUT_OFFS: u64 = 10;
/// Lines of one run; the rest is in codexd's transcript.
pub(crate) const MAX_RUN_LINES: u64 = 2000;
/// One line.
pub(crate) const MAX_LINE_BYTES: usize = 8 * 1024;
/// How long a stop waits for commands to end by themselves: with what follows it, below launchd's patience.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// And then for those that were killed.
const KILL_PATIENCE: Duration = Duration::from_secs(3);
/// Tasks that become due in one step; the next ones follow at once.
const DUE_AT_ONCE: usize = 256;

/// Tells one thing that is done for a run from all others in this process, and of which step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) run: Seq,
    step: usize,
    /// A core that was made again counts anew.
    core: u64,
    number: u64,
}

/// What is to be done for a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    /// Open a session for it.
    Open { task_id: String, run_id: String, attempt: u64, spec: Arc<Spec>, thread_id: Option<String> },
    /// Send the turn of a step, once under `key`.
    Turn { session_id: String, key: String, input: Value, timeout_ms: u64 },
    /// See how a turn stands.
    Look { turn_id: String },
    /// Run the command of a step.
    Exec { task_id: String, cwd: Option<String>, command: String, timeout: Duration },
    /// Close its session.
    Close { session_id: String },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Worked {
    Opened {
        session_id: String,
        thread_id: Option<String>,
    },
    Taken {
        turn_id: String,
    },
    /// None: the turn still runs.
    Looked(Option<TurnEnd>),
    Ran(Ran),
    Closed,
    /// It could not be done now; perhaps later.
    Unavailable(String),
    /// It went wrong; another attempt may do better.
    Failed(Fault),
    /// It cannot be done.
    Refused(Fault),
    /// codexd does not know it any more.
    Lost(String),
}

/// How a turn ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TurnEnd {
    pub(crate) status: String,
    pub(crate) text: Option<String>,
    pub(crate) usage: Option<Value>,
    pub(crate) error: Option<String>,
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ran {
    pub(crate) exit_code: Option<i32>,
    /// The end of what it printed.
    pub(crate) output: String,
    pub(crate) duration_ms: u64,
    /// Why it did not end well: a code, and a sentence. None with exit code 0.
    pub(crate) fault: Option<Fault>,
    /// It was killed, since nobody wanted it any more.
    pub(crate) unwanted: bool,
}

/// What comes from codexd's events.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    /// The stream is there; the newest event has this number.
    Connected { latest: Seq },
    /// Something happened in a session.
    Told { seq: Seq, session_id: String, line: Option<(Level, String)>, turn_over: bool },
    /// Nothing is known up to this number.
    Gap { to: Seq },
    /// The stream is gone.
    Gone(String),
}

/// What is being done, and what is waited for. It dies with the process.
#[derive(Debug, Default)]
pub(crate) struct Live {
    hands: BTreeMap<Seq, Hand>,
    stream: Stream,
    /// Distinguishes one stream from the next.
    epoch: u64,
    /// How much was asked for.
    tickets: u64,
    /// Until when a stop waits.
    stopping: Option<(Duration, &'static str)>,
    /// The lease is not renewed in time: nothing starts.
    pub(crate) degraded: bool,
    /// When to look again.
    wake: Option<Duration>,
}

/// What is done for one run now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Hand {
    busy: bool,
    /// What was asked for last; none of what an earlier core asked for.
    ticket: Option<Ticket>,
    /// Its command was told to end.
    killed: bool,
    /// Nothing before then.
    not_before: Option<Duration>,
    /// Calls that failed in a row.
    failures: u32,
    /// The turn was looked at, and runs: codexd's events tell when it ends.
    watching: bool,
    /// They told so while it was looked at.
    over: bool,
}

/// codexd's events.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stream {
    #[default]
    Off,
    /// So many tries have failed.
    Connecting {
        failures: u32,
    },
    On {
        latest: Seq,
    },
    /// It is tried again then.
    Down {
        until: Duration,
        failures: u32,
    },
}

impl Live {
    pub(crate) fn wake(&self) -> Option<Duration> {
        self.wake
    }

    /// A command that the log says has begun still runs in this process.
    pub(crate) fn assume_busy(&mut self, run: Seq) {
        self.hands.entry(run).or_default().busy = true;
    }

    pub(crate) fn stop(&mut self, now: Now, reason: &'static str) {
        self.stopping.get_or_insert((now.mono + STOP_PATIENCE, reason));
    }

    fn earlier(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

impl Core {
    fn running(&self) -> Vec<Arc<Run>> {
        self.state.tasks().live().filter(|run| run.status == Status::Running).cloned().collect()
    }

    /// Does whatever can be done now.
    pub(crate) fn schedule(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.live.wake = None;
        self.follow(now, out);
        let live: Vec<Seq> = self.state.tasks().live().map(|run| run.seq).collect();
        for seq in live {
            self.advance(now, seq, out);
        }
        self.due(now, out); // also those that just ended, and are to be tried again
        while self.may_start() {
            let Some(task) = self.state.tasks().next().cloned() else { break };
            let (task_id, run_id) = (self.state.id("task", task.seq), self.state.id("run", self.next_seq()));
            let run = self.next_seq();
            let attempt = task.runs.len() as u64 + 1;
            self.emit(now, Event::RunStarted { run_id, task_id, attempt }, out);
            self.follow(now, out);
            self.advance(now, run, out);
        }
        let live = self.state.tasks();
        self.live.hands.retain(|seq, _| {
            live.run(*seq).is_some_and(|run| run.session_open || run.status == Status::Running)
        });
        self.may_exit(now, out);
    }

    fn may_start(&self) -> bool {
        self.state.system().mode == Mode::Running
            && self.live.stopping.is_none()
            && !self.live.degraded
            && self.state.tasks().active_runs() < self.max_active_runs()
    }

    /// Lets tasks be ready whose time has come.
    fn due(&mut self, now: Now, out: &mut Vec<Effect>) {
        for _ in 0..DUE_AT_ONCE {
            match self.state.tasks().next_due() {
                Some((at, seq)) if at <= now.wall => {
                    let task_id = self.state.id("task", seq);
                    self.emit(now, Event::TaskDue { task_id }, out);
                }
                Some((at, _)) => return self.live.earlier(mono(now, at)),
                None => return,
            }
        }
        self.live.earlier(now.mono);
    }

    /// Has codexd's events followed as long as a run waits for them, from the first one that it may lack.
    fn follow(&mut self, now: Now, out: &mut Vec<Effect>) {
        let runs = self.running();
        let codex = |run: &&Arc<Run>| matches!(self.step_of(run), Some(Step::Codex { .. }));
        if !runs.iter().any(|run| codex(&run)) {
            if self.live.stream != Stream::Off {
                self.live.stream = Stream::Off;
                self.live.epoch += 1;
                out.push(Effect::Unfollow);
            }
            return;
        }
        let failures = match self.live.stream {
            Stream::Connecting { .. } | Stream::On { .. } => return,
            Stream::Down { until, .. } if until > now.mono => return self.live.earlier(until),
            Stream::Down { failures, .. } => failures,
            Stream::Off => 0,
        };
        self.live.stream = Stream::Connecting { failures };
        self.live.epoch += 1;
        let begun = runs.iter().filter(|run| run.place != Place::Between).map(|run| run.codexd_seq);
        out.push(Effect::Follow { epoch: self.live.epoch, after: begun.min() });
    }

    /// The step that a run is at.
    pub(crate) fn step_of(&self, run: &Run) -> Option<&Step> {
        self.state.tasks().task(run.task)?.spec.steps.get(run.step_index)
    }

    /// Does the next thing for a run, if there is one that can be done.
    fn advance(&mut self, now: Now, seq: Seq, out: &mut Vec<Effect>) {
        let tasks = self.state.tasks();
        let Some((run, task)) =
            tasks.run(seq).and_then(|run| Some((run.clone(), tasks.task(run.task)?.clone())))
        else {
            return;
        };
        let hand = self.live.hands.get(&seq).copied().unwrap_or_default();
        if run.status != Status::Running {
            return match run.session_id.clone() {
                _ if !run.session_open => {}
                Some(session_id) => self.work(now, &run, Work::Close { session_id }, out),
                None => self.open(now, &run, &task, out), // it may be there, and has to be known to be closed
            };
        }
        let ends_at = Timestamp::from_millis(run.started_at.millis() + task.spec.timeout_ms);
        let late = now.wall >= ends_at;
        if !late {
            self.live.earlier(mono(now, ends_at));
        }
        let step = task.spec.steps.get(run.step_index);
        if hand.busy && matches!(step, Some(Step::Exec { .. })) {
            let stopped = self.live.stopping.is_some_and(|(until, _)| until <= now.mono);
            if (late || stopped || task.cancel.is_some()) && !hand.killed {
                self.live.hands.entry(seq).or_default().killed = true;
                out.push(Effect::Kill(seq));
            }
            return;
        }
        if task.cancel.is_some() {
            return self.end(now, &run, Status::Canceled, None, false, out);
        }
        if late {
            return self.end(now, &run, Status::Failed, timed_out(task.spec.timeout_ms), true, out);
        }
        match (step, &run.place) {
            (None, _) => self.end(now, &run, Status::Completed, None, false, out),
            (Some(Step::Exec { command, timeout_ms }), Place::Between) if self.live.stopping.is_none() => {
                let left = ends_at.millis().saturating_sub(now.wall.millis());
                let timeout = Duration::from_millis(timeout_ms.map_or(left, |timeout| timeout.min(left)));
                let task_id = self.state.id("task", task.seq);
                let work =
                    Work::Exec { task_id, cwd: task.spec.cwd.clone(), command: command.clone(), timeout };
                self.begin_step(now, &run, None, out);
                self.work(now, &run, work, out);
            }
            (Some(Step::Exec { .. }), Place::Between) => {}
            (Some(Step::Exec { .. }), _) => {
                self.cut_off(now, &run, "The process that ran the command ended.", out);
            }
            (Some(Step::Codex { input }), _) => {
                self.advance_turn(now, &run, &task, input, out);
            }
        }
    }

    fn advance_turn(&mut self, now: Now, run: &Run, task: &Task, input: &Value, out: &mut Vec<Effect>) {
        let Stream::On { latest } = self.live.stream else { return };
        match &run.place {
            Place::Between if self.live.stopping.is_some() => return,
            Place::Between => self.begin_step(now, run, Some(latest), out),
            Place::Begun { .. } => {}
            Place::Taken { turn_id, .. } => {
                let watching = self.live.hands.get(&run.seq).is_some_and(|hand| hand.watching);
                if !watching {
                    self.work(now, run, Work::Look { turn_id: turn_id.clone() }, out);
                }
                return;
            }
        }
        let Some(session_id) = run.session_id.clone() else {
            return self.open(now, run, task, out);
        };
        // The same whenever it is sent: under one key there is one request.
        let timeout_ms = task.spec.timeout_ms;
        let key = format!("{}-step-{}", self.state.id("run", run.seq), run.step_index);
        self.work(now, run, Work::Turn { session_id, key, input: input.clone(), timeout_ms }, out);
    }

    /// The same session however often it is asked for.
    fn open(&mut self, now: Now, run: &Run, task: &Task, out: &mut Vec<Effect>) {
        let (task_id, run_id) = (self.state.id("task", task.seq), self.state.id("run", run.seq));
        let (attempt, spec, thread_id) = (run.attempt, task.spec.clone(), task.thread_id.clone());
        self.work(now, run, Work::Open { task_id, run_id, attempt, spec, thread_id }, out);
    }

    /// Has something done for a run, unless something is, or it is too early.
    fn work(&mut self, now: Now, run: &Run, work: Work, out: &mut Vec<Effect>) {
        let ticket = self.ticket(run.seq, run.step_index);
        let hand = self.live.hands.entry(run.seq).or_default();
        if hand.busy {
            return;
        }
        if let Some(at) = hand.not_before.filter(|at| *at > now.mono) {
            return self.live.earlier(at);
        }
        (hand.busy, hand.ticket) = (true, Some(ticket));
        out.push(Effect::Work { ticket, work });
    }

    fn ticket(&mut self, run: Seq, step: usize) -> Ticket {
        self.live.tickets += 1;
        Ticket { run, step, core: self.incarnation(), number: self.live.tickets }
    }

    fn begin_step(&mut self, now: Now, run: &Run, codexd_seq: Option<Seq>, out: &mut Vec<Effect>) {
        let run_id = self.state.id("run", run.seq);
        self.emit(now, Event::StepStarted { run_id, step_index: run.step_index, codexd_seq }, out);
        let steps = self.state.tasks().task(run.task).map_or(0, |task| task.spec.steps.len());
        let what = match self.step_of(run) {
            Some(Step::Exec { command, .. }) => format!("$ {command}"),
            _ => "a turn of Codex.".to_owned(),
        };
        let text = format!("Step {} of {steps}: {what}", run.step_index + 1); // for people, who count from one
        self.note(now, run, Level::Info, &text, None, out);
    }

    /// Ends the process once nothing of its own runs in it; turns of codexd go on without it.
    fn may_exit(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some((until, reason)) = self.live.stopping else { return };
        let at_work =
            self.running().iter().any(|run| self.live.hands.get(&run.seq).is_some_and(|hand| hand.busy));
        if at_work && now.mono < until + KILL_PATIENCE {
            let next = if now.mono < until { until } else { until + KILL_PATIENCE };
            return self.live.earlier(next);
        }
        self.emit(now, Event::DaemonStopping { reason: reason.to_owned() }, out);
        out.push(Effect::Exit);
    }
}

/// The pause before the next try after so many that failed before.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE)
}

/// When the wall clock will show this, as the other clock has it.
fn mono(now: Now, at: Timestamp) -> Duration {
    now.mono + Duration::from_millis(at.millis().saturating_sub(now.wall.millis()))
}

#[cfg(test)]
mod tests;
