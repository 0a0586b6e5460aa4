//! The loop of a daemon: take a batch of inputs, step, commit, then act.
//!
//! Owns the order that makes "acknowledged" mean "durable": what a step decides is appended and synced, after what its
//! lines refer to, before any of it leaves, and a batch that cannot be made durable is refused whole and forgotten. Knows
//! nothing of what the machine does; both daemons bring their own.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, SelectTimeoutError};

use crate::log::{CommitError, Log, Seq};
use crate::time::{Clock, Now};

/// Inputs taken between two commits: large enough to share a sync, small enough to answer the first soon.
pub const BATCH_INPUTS: usize = 256;
/// Bytes taken between two commits, so that what a batch holds in memory has a bound.
pub const BATCH_BYTES: usize = 1024 * 1024;
/// How long a daemon that cannot write refuses before it tries again.
pub const STORAGE_RETRY: Duration = Duration::from_secs(1);

/// The pure part: state, and what each input does to it.
pub trait Machine: Sized {
    /// Everything that can happen.
    type Input;
    /// Everything that can be done about it.
    type Effect;

    /// The first input of a machine.
    fn start() -> Self::Input;
    /// The input that says only that time has passed.
    fn tick() -> Self::Input;
    /// How much memory an input holds, about.
    fn size(input: &Self::Input) -> usize;
    /// The line that an effect adds to the log, if it does.
    fn line(effect: &Self::Effect) -> Option<&str>;
    /// Handles one input; what is to be done is added to `out` in order.
    fn step(&mut self, now: Now, input: Self::Input, out: &mut Vec<Self::Effect>);
    /// The `mono` time at which a `tick` is due.
    fn deadline(&self) -> Option<Duration>;
}

/// The part with hands: everything that touches the world. None of it may block on a client or a child.
pub trait Shell<M: Machine> {
    /// The machine as the disk has it.
    ///
    /// # Errors
    /// What the disk says.
    fn rebuild(&mut self, log: &Log) -> io::Result<M>;
    /// Makes durable what the lines of a batch refer to, before the lines are.
    ///
    /// # Errors
    /// What the disk says; the batch is refused then.
    fn prepare(&mut self, effects: &[M::Effect]) -> io::Result<()>;
    /// A batch is durable, and its effects are done. `closed` is the last number of a segment that was closed with it.
    fn committed(&mut self, machine: &M, now: Now, log: &mut Log, closed: Option<Seq>);
    /// Does one effect of a batch that is durable; `true` ends the loop.
    fn perform(&mut self, effect: M::Effect) -> bool;
    /// A batch could not be made durable: answer every caller in it and in the machine, end the child.
    fn refuse(&mut self, effects: Vec<M::Effect>, machine: &M, why: &io::Error);
    /// The log takes no line: answer an input from the state that is durable, or refuse it. `true` ends the loop.
    fn refuse_input(&mut self, input: M::Input, durable: &M, why: &io::Error) -> bool;
    /// When the shell itself wants `committed` called again.
    fn wake_at(&self) -> Option<Duration>;
}

/// Where inputs come from: two queues, so that a flood of one does not starve the other.
pub struct Inbox<I> {
    /// Callers and signals.
    pub calls: Receiver<I>,
    /// The child.
    pub child: Receiver<I>,
}

/// Runs until an effect ends it.
///
/// # Errors
/// If the disk cannot be read, or a sync failed: then nobody knows what the disk holds, and the process must end.
pub fn run<M: Machine, S: Shell<M>>(
    clock: Clock,
    inbox: &Inbox<M::Input>,
    log: &mut Log,
    shell: &mut S,
) -> io::Result<()> {
    let mut machine = shell.rebuild(log)?;
    loop {
        match live(clock, inbox, log, shell, &mut machine)? {
            Outcome::Exit => return Ok(()),
            Outcome::Refused { started: true, .. } => machine = shell.rebuild(log)?,
            Outcome::Refused { started: false, why } => {
                machine = shell.rebuild(log)?;
                if refuse_for_a_while(inbox, shell, &machine, &why) {
                    return Ok(());
                }
            }
        }
    }
}

enum Outcome {
    Exit,
    /// A batch was refused; `started` says that an earlier one was committed.
    Refused {
        started: bool,
        why: io::Error,
    },
}

fn live<M: Machine, S: Shell<M>>(
    clock: Clock,
    inbox: &Inbox<M::Input>,
    log: &mut Log,
    shell: &mut S,
    machine: &mut M,
) -> io::Result<Outcome> {
    let (mut out, mut batch, mut started) = (Vec::new(), Vec::new(), false);
    machine.step(clock.now(), M::start(), &mut out);
    loop {
        if let Err(why) = shell.prepare(&out) {
            shell.refuse(out, machine, &why);
            return Ok(Outcome::Refused { started, why });
        }
        for line in out.iter().filter_map(M::line) {
            log.append(line);
        }
        let closed = match log.commit() {
            Ok(closed) => closed,
            Err(CommitError::Unknown(error)) => return Err(error),
            Err(CommitError::Rejected(why)) => {
                shell.refuse(out, machine, &why);
                return Ok(Outcome::Refused { started, why });
            }
        };
        started = true;
        let mut exit = false;
        for effect in out.drain(..) {
            exit |= shell.perform(effect);
        }
        shell.committed(machine, clock.now(), log, closed);
        if exit {
            return Ok(Outcome::Exit);
        }
        let wake_at = [machine.deadline(), shell.wake_at()].into_iter().flatten().min();
        inbox.batch(wake_at.map(|at| clock.instant(at)), M::size, &mut batch);
        if batch.is_empty() {
            machine.step(clock.now(), M::tick(), &mut out);
        }
        for input in batch.drain(..) {
            machine.step(clock.now(), input, &mut out);
        }
    }
}

fn refuse_for_a_while<M: Machine, S: Shell<M>>(
    inbox: &Inbox<M::Input>,
    shell: &mut S,
    durable: &M,
    why: &io::Error,
) -> bool {
    let until = Instant::now() + STORAGE_RETRY;
    let mut batch = Vec::new();
    while Instant::now() < until {
        inbox.batch(Some(until), M::size, &mut batch);
        for input in batch.drain(..) {
            if shell.refuse_input(input, durable, why) {
                return true;
            }
        }
    }
    false
}

impl<I> Inbox<I> {
    /// Waits for an input or `until`, then takes what is there, up to the bounds of a batch. Empty means: it is `until`.
    fn batch(&self, until: Option<Instant>, size: fn(&I) -> usize, batch: &mut Vec<I>) {
        let Some(first) = self.wait(until) else { return };
        let mut bytes = size(&first);
        batch.push(first);
        // In turn, so that neither waits for the other to be empty.
        let mut dry = 0;
        for queue in [&self.calls, &self.child].into_iter().cycle() {
            if dry == 2 || batch.len() >= BATCH_INPUTS || bytes >= BATCH_BYTES {
                return;
            }
            match queue.try_recv() {
                Ok(input) => {
                    bytes += size(&input);
                    batch.push(input);
                    dry = 0;
                }
                Err(_) => dry += 1,
            }
        }
    }

    fn wait(&self, until: Option<Instant>) -> Option<I> {
        let mut select = Select::new();
        select.recv(&self.calls);
        select.recv(&self.child);
        let operation = match until {
            None => Ok(select.select()),
            Some(until) => select.select_deadline(until),
        };
        match operation {
            Ok(operation) if operation.index() == 0 => operation.recv(&self.calls).ok(),
            Ok(operation) => operation.recv(&self.child).ok(),
            Err(SelectTimeoutError) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Limits, replay};
    use crate::test::folder;
    use crossbeam_channel::{Sender, bounded};

    /// Counts what it is told; each `Add` is a line, each answer the sum.
    struct Sum {
        total: u64,
        next: Seq,
    }

    enum In {
        Start,
        Tick,
        Add(u64),
        Stop,
    }

    enum Out {
        Line(String),
        Answer(u64),
        Exit,
    }

    impl Machine for Sum {
        type Input = In;
        type Effect = Out;
        fn start() -> In {
            In::Start
        }
        fn tick() -> In {
            In::Tick
        }
        fn size(_: &In) -> usize {
            8
        }
        fn line(effect: &Out) -> Option<&str> {
            if let Out::Line(line) = effect { Some(line) } else { None }
        }
        fn step(&mut self, _: Now, input: In, out: &mut Vec<Out>) {
            match input {
                In::Start | In::Tick => {}
                In::Add(n) => {
                    self.total += n;
                    out.push(Out::Line(format!("{{\"seq\":{},\"add\":{n}}}", self.next)));
                    self.next += 1;
                    out.push(Out::Answer(self.total));
                }
                In::Stop => out.push(Out::Exit),
            }
        }
        fn deadline(&self) -> Option<Duration> {
            None
        }
    }

    struct Hands {
        answers: Sender<u64>,
        /// At each commit the newest number, and how many were answered before it was told.
        latest: Vec<(Seq, usize)>,
        folder: std::path::PathBuf,
        /// Told to stop when a batch is refused.
        refused: Option<Sender<In>>,
    }

    impl Shell<Sum> for Hands {
        fn rebuild(&mut self, log: &Log) -> io::Result<Sum> {
            let mut total = 0;
            replay(&self.folder, 0, |_, line| {
                let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
                total += value["add"].as_u64().unwrap_or(0);
                Ok(())
            })?;
            Ok(Sum { total, next: log.next() })
        }
        fn prepare(&mut self, effects: &[Out]) -> io::Result<()> {
            let unlucky = |effect: &Out| matches!(effect, Out::Line(line) if line.ends_with(":1313}"));
            if effects.iter().any(unlucky) { Err(io::Error::other("unlucky")) } else { Ok(()) }
        }
        fn committed(&mut self, _: &Sum, _: Now, log: &mut Log, _: Option<Seq>) {
            self.latest.push((log.feed().latest(), self.answers.len()));
        }
        fn perform(&mut self, effect: Out) -> bool {
            match effect {
                Out::Answer(total) => self.answers.send(total).unwrap(),
                Out::Exit => return true,
                Out::Line(_) => {}
            }
            false
        }
        fn refuse(&mut self, _: Vec<Out>, _: &Sum, _: &io::Error) {
            if let Some(calls) = self.refused.take() {
                calls.send(In::Stop).unwrap();
            }
        }
        fn refuse_input(&mut self, _: In, _: &Sum, _: &io::Error) -> bool {
            false
        }
        fn wake_at(&self) -> Option<Duration> {
            None
        }
    }

    #[test]
    fn a_batch_shares_one_commit_and_answers_come_after_it() {
        let folder = folder("engine");
        let limits = Limits { segment_bytes: 1 << 20, total_bytes: 1 << 20 };
        let (calls, receiver) = bounded(1000);
        let (_child, child) = bounded(1);
        let (answers, answered) = bounded(1000);
        for n in 1..=300 {
            calls.send(In::Add(n)).unwrap();
        }
        calls.send(In::Stop).unwrap();
        let mut log = Log::open(&folder, limits, 0, |_, _| Ok(())).unwrap().log;
        let mut hands = Hands { answers, latest: Vec::new(), folder: folder.clone(), refused: None };
        run(Clock::start(), &Inbox { calls: receiver, child }, &mut log, &mut hands).unwrap();
        assert_eq!(
            hands.latest,
            [(0, 0), (256, 256), (300, 300)],
            "one commit for start, one for a full batch, one for the rest; told when their effects are done"
        );
        assert_eq!(answered.try_iter().last(), Some(45_150));
        assert_eq!(hands.rebuild(&log).unwrap().total, 45_150);
    }

    #[test]
    fn a_batch_that_cannot_be_prepared_is_refused_whole() {
        let folder = folder("engine-prepare");
        let limits = Limits { segment_bytes: 1 << 20, total_bytes: 1 << 20 };
        let (calls, receiver) = bounded(10);
        let (_child, child) = bounded(1);
        let (answers, answered) = bounded(10);
        for n in [12, 1313, 14] {
            calls.send(In::Add(n)).unwrap();
        }
        let mut log = Log::open(&folder, limits, 0, |_, _| Ok(())).unwrap().log;
        let mut hands = Hands { answers, latest: Vec::new(), folder, refused: Some(calls) };
        run(Clock::start(), &Inbox { calls: receiver, child }, &mut log, &mut hands).unwrap();
        assert_eq!((hands.rebuild(&log).unwrap().total, log.next()), (0, 1), "nothing of it is in the log");
        assert_eq!(answered.len(), 0, "and nobody was answered");
    }

    #[test]
    fn a_flood_of_the_child_does_not_starve_callers() {
        let (calls, callers) = bounded(10);
        let (flood, child) = bounded(1000);
        for _ in 0..1000 {
            flood.send(1).unwrap();
        }
        for _ in 0..10 {
            calls.send(2).unwrap();
        }
        let mut batch = Vec::new();
        Inbox { calls: callers, child }.batch(None, |_| 1, &mut batch);
        assert_eq!(batch.len(), BATCH_INPUTS);
        assert_eq!(batch.iter().filter(|&&input| input == 2).count(), 10);
    }

    #[test]
    fn a_batch_is_bounded_in_bytes() {
        let (flood, child) = bounded(10);
        let (_calls, calls) = bounded(1);
        for n in 0..10 {
            flood.send(n).unwrap();
        }
        let mut batch = Vec::new();
        Inbox { calls, child }.batch(None, |_| BATCH_BYTES / 2, &mut batch);
        assert_eq!(batch.len(), 2);
    }
}
