//! Random lives of a node at work: conductor and codexd die at any moment, calls are lost, batches are refused. Whatever
//! happens, the state is what the disk says, each step is done once, and in the end all is done.

use std::collections::{BTreeMap, BTreeSet};

use common::desk::CallId;
use common::engine::Machine;

use super::*;
use crate::core::tests::Random;
use crate::core::{Birth, Call, Change, Input};
use crate::event;
use crate::state::{Spec, State};

/// A codexd: what was asked under a key is done once; turns run until they end, or the child dies.
#[derive(Default)]
struct Codexd {
    keys: BTreeMap<String, String>,
    sessions: BTreeMap<String, bool>,
    /// By id: the session, the key, and how it ended.
    turns: BTreeMap<String, (String, String, Option<&'static str>)>,
    events: Vec<News>,
    next: u64,
}

impl Codexd {
    fn tell(&mut self, session_id: &str, turn_over: bool) {
        let seq = self.events.len() as Seq + 1;
        let line = Some((Level::Info, "said".to_owned()));
        self.events.push(News::Told { seq, session_id: session_id.to_owned(), line, turn_over });
    }

    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    /// A running turn ends.
    fn end_turn(&mut self, random: &mut Random, how: &'static str) {
        let running: Vec<String> =
            self.turns.iter().filter(|(_, turn)| turn.2.is_none()).map(|(id, _)| id.clone()).collect();
        if running.is_empty() {
            return;
        }
        let id = &running[random.below(running.len() as u64) as usize];
        let Some(turn) = self.turns.get_mut(id) else { return };
        turn.2 = Some(how);
        let session = turn.0.clone();
        self.tell(&session, true);
    }

    fn ask(&mut self, work: &Work) -> Worked {
        match work {
            Work::Open { run_id, .. } => {
                if let Some(session_id) = self.keys.get(run_id).cloned() {
                    return Worked::Opened { session_id, thread_id: Some("thread".into()) };
                }
                let session_id = self.id("session");
                self.keys.insert(run_id.clone(), session_id.clone());
                self.sessions.insert(session_id.clone(), true);
                Worked::Opened { session_id, thread_id: Some("thread".into()) }
            }
            Work::Turn { session_id, key, .. } => {
                if let Some(turn_id) = self.keys.get(key) {
                    return Worked::Taken { turn_id: turn_id.clone() };
                }
                if self.sessions.get(session_id) != Some(&true) {
                    return Worked::Lost("closed".into());
                }
                let turn_id = self.id("turn");
                self.keys.insert(key.clone(), turn_id.clone());
                self.turns.insert(turn_id.clone(), (session_id.clone(), key.clone(), None));
                self.tell(session_id, false);
                Worked::Taken { turn_id }
            }
            Work::Look { turn_id } => match self.turns.get(turn_id) {
                None => Worked::Lost("unknown".into()),
                Some((.., None)) => Worked::Looked(None),
                Some((.., Some(how))) => {
                    Worked::Looked(Some(TurnEnd { status: (*how).to_owned(), ..TurnEnd::default() }))
                }
            },
            Work::Close { session_id } => {
                self.sessions.insert(session_id.clone(), false);
                let running =
                    self.turns.values_mut().filter(|turn| turn.0 == *session_id && turn.2.is_none());
                running.for_each(|turn| turn.2 = Some("interrupted"));
                Worked::Closed
            }
            Work::Exec { .. } => panic!("codexd is asked for {work:?}"),
        }
    }
}

struct Life {
    random: Random,
    core: Core,
    codexd: Codexd,
    disk: Vec<String>,
    /// What the disk adds up to.
    written: State,
    /// Milliseconds.
    at: u64,
    next_call: CallId,
    /// What threads do, and what they are about to tell.
    doing: Vec<(Ticket, Work, Option<Worked>)>,
    killed: BTreeSet<Seq>,
    /// How often the process died.
    lives: u64,
    incarnations: u64,
    /// The stream: its epoch, and how many events it has told; none before it is connected.
    stream: Option<(u64, Option<usize>, Option<Seq>)>,
    mode: Mode,
    stopping: Option<&'static str>,
    exited: bool,
    submitted: u64,
    canceled: u64,
    /// Commands that ran to their end, by task and step.
    ran: BTreeMap<(Seq, usize), u64>,
    /// How often the process died under a command.
    deaths: u64,
    calm: bool,
}

fn born(
    state: State,
    incarnation: u64,
    cut_off: bool,
    stopping: Option<&'static str>,
) -> (Core, Vec<Effect>) {
    let new_log_id = state.log_id().is_empty().then(|| "0123456789".to_owned());
    let birth = Birth {
        new_log_id,
        cut_off,
        damaged: false,
        next: state.seq() + 1,
        holder_id: "a".to_owned(),
        holder_host: "h".to_owned(),
        term: state.term() + 1,
        pid: 1,
        max_active_runs: 2,
        incarnation,
        stopping,
    };
    (Core::new(state, birth), Vec::new())
}

impl Life {
    fn new(seed: u64) -> Life {
        let (core, _) = born(State::default(), 0, true, None);
        let mut life = Life {
            random: Random(seed),
            core,
            codexd: Codexd::default(),
            disk: Vec::new(),
            written: State::default(),
            at: 1_000_000,
            next_call: 1,
            doing: Vec::new(),
            killed: BTreeSet::new(),
            lives: 0,
            incarnations: 0,
            stream: None,
            mode: Mode::Running,
            stopping: None,
            exited: false,
            submitted: 0,
            canceled: 0,
            ran: BTreeMap::new(),
            deaths: 0,
            calm: false,
        };
        life.take(Input::Start);
        life
    }

    fn write(&mut self, lines: &[String]) {
        lines.iter().for_each(|line| self.written.apply(&event::parse(line).unwrap()));
        self.disk.extend_from_slice(lines);
    }

    fn replayed(&self) -> State {
        let mut state = State::default();
        self.disk.iter().for_each(|line| state.apply(&event::parse(line).unwrap()));
        // And a checkpoint of it is the same.
        assert_eq!(serde_json::from_str::<State>(&serde_json::to_string(&state).unwrap()).unwrap(), state);
        state
    }

    /// One step and what becomes of it; false if its batch was refused.
    fn take(&mut self, input: Input) -> bool {
        let now =
            Now { mono: Duration::from_millis(self.at), wall: Timestamp::from_millis(self.at + 5_000_000) };
        let mut out = Vec::new();
        self.core.step(now, input, &mut out);
        let lines: Vec<String> = out.iter().filter_map(Core::line).map(str::to_owned).collect();
        if !self.calm && self.random.one_in(60) {
            let kept = self.random.below(lines.len() as u64 + 1) as usize;
            self.write(&lines[..kept]);
            self.die();
            return false;
        }
        if !self.calm && self.random.one_in(60) {
            self.rebuild(false); // a full disk: nothing of it is written, and what runs goes on
            return false;
        }
        self.write(&lines);
        assert_eq!(self.core.state(), &self.written, "the state is what the log says");
        out.into_iter().for_each(|effect| self.perform(effect));
        let active = self.core.state().tasks().active_runs();
        assert!(active <= 2, "{active} runs at once");
        if let Some((at, seq)) = self.core.state().tasks().next_due() {
            let wakes = self.core.deadline().is_some_and(|wake| wake <= mono(now, at));
            assert!(wakes, "nobody wakes for task {seq}, which is due at {at}");
        }
        true
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Kill(run) => drop(self.killed.insert(run)),
            Effect::Work { ticket, work } => {
                let same = |(other, doing, told): &&(Ticket, Work, Option<Worked>)| {
                    other.run == ticket.run
                        && told.is_none()
                        && matches!(doing, Work::Exec { .. })
                        && matches!(work, Work::Exec { .. })
                };
                assert!(!self.doing.iter().any(|doing| same(&doing)), "a command of one run twice at once");
                self.doing.push((ticket, work, None));
            }
            Effect::Follow { epoch, after } => self.stream = Some((epoch, None, after)),
            Effect::Unfollow => self.stream = None,
            Effect::Publish(shown) => self.mode = shown.system.mode,
            Effect::Stopping(reason) => self.stopping = Some(reason),
            Effect::Exit => self.exited = true,
            Effect::Append(_) | Effect::Reply { .. } | Effect::Forget(_) => {}
        }
    }

    /// The process is killed: what it ran is killed with it; what it had asked of codexd may have come there.
    fn die(&mut self) {
        for (_, work, told) in std::mem::take(&mut self.doing) {
            match work {
                Work::Exec { .. } => self.deaths += 1,
                asked if told.is_none() && self.random.one_in(2) => drop(self.codexd.ask(&asked)),
                _ => {}
            }
        }
        self.killed.clear();
        self.lives += 1;
        self.stream = None;
        (self.stopping, self.exited) = (None, false);
        self.rebuild(true);
    }

    fn rebuild(&mut self, cut_off: bool) {
        self.incarnations += 1;
        self.core = born(self.replayed(), self.incarnations, cut_off, self.stopping).0;
        while !self.take(Input::Start) {}
    }

    fn act(&mut self) {
        self.at += self.random.below(400);
        match self.random.below(14) {
            0 if !self.calm => self.submit(),
            1 if !self.calm => self.change(),
            2 if !self.calm && self.random.one_in(3) => self.cancel(),
            3 if !self.calm && self.random.one_in(6) => drop(self.take(Input::Stop("SIGTERM"))),
            4 if !self.calm && self.random.one_in(4) => {
                let codexd = &mut self.codexd;
                (0..2).for_each(|_| codexd.end_turn(&mut self.random, "interrupted")); // its child dies
            }
            4 | 5 => self.codexd.end_turn(&mut self.random, "completed"),
            6 if !self.calm && self.random.one_in(3) => self.lose_stream(),
            6..=8 => self.hear(),
            9..=12 => self.work(),
            _ => drop(self.take(Input::Tick)),
        }
        if self.exited {
            self.at += 50;
            self.die(); // the next process
        }
    }

    fn call(&mut self, call: Call) -> bool {
        self.next_call += 1;
        self.take(Input::Call { id: self.next_call, call })
    }

    fn submit(&mut self) {
        let steps = (0..1 + self.random.below(3)).map(|_| match self.random.below(2) {
            0 => Step::Codex { input: "x".into() },
            _ => Step::Exec { command: "x".to_owned(), timeout_ms: None },
        });
        let spec = Spec {
            title: None,
            steps: steps.collect(),
            cwd: None,
            model: None,
            sandbox: None,
            approval_policy: None,
            priority: self.random.below(3) as i64,
            timeout_ms: 10_000_000_000,
            max_attempts: 3,
            not_before: self.random.one_in(4).then(|| Timestamp::from_millis(self.at + 5_002_000)),
            metadata: None,
        };
        if self.call(Call::Submit { key: None, spec: Box::new(spec), bytes: 100 }) {
            self.submitted += 1;
        }
    }

    fn change(&mut self) {
        let mode =
            [Mode::Running, Mode::Running, Mode::Paused, Mode::Draining][self.random.below(4) as usize];
        self.call(Call::System(Change { mode, requested_by: None, reason: None, source: None }));
    }

    fn cancel(&mut self) {
        let tasks = self.core.state().tasks().newest(None, Seq::MAX, 100);
        if tasks.is_empty() {
            return;
        }
        let task = &tasks[self.random.below(tasks.len() as u64) as usize];
        let task_id = self.core.state().id("task", task.seq);
        if self.call(Call::Cancel { task_id, reason: "r".to_owned() }) {
            self.canceled += 1;
        }
    }

    fn lose_stream(&mut self) {
        if let Some((epoch, ..)) = self.stream.take() {
            while !self.take(Input::Heard { epoch, news: News::Gone("x".to_owned()) })
                && self.stream.is_none()
            {
                if self.core.live.epoch != epoch {
                    break;
                }
            }
        }
    }

    fn hear(&mut self) {
        let Some((epoch, told, after)) = self.stream else { return };
        let latest = self.codexd.events.len();
        let (news, told) = match told {
            None if !self.calm && self.random.one_in(5) => return self.lose_stream(),
            None => (News::Connected { latest: latest as Seq }, after.map_or(latest, |after| after as usize)),
            Some(told) if told < latest => (self.codexd.events[told].clone(), told + 1),
            Some(_) => return,
        };
        self.stream = Some((epoch, Some(told), after));
        self.take(Input::Heard { epoch, news });
    }

    /// A thread does its work, or tells what came of it.
    fn work(&mut self) {
        if self.doing.is_empty() {
            return;
        }
        let index = self.random.below(self.doing.len() as u64) as usize;
        let (ticket, work, told) = self.doing.remove(index);
        let worked = match (told, &work) {
            (Some(worked), _) => worked,
            (None, Work::Exec { .. }) => {
                let unwanted = self.killed.remove(&ticket.run);
                if let (false, Some(run)) = (unwanted, self.core.state().tasks().run(ticket.run)) {
                    *self.ran.entry((run.task, run.step_index)).or_default() += 1;
                }
                let fault = unwanted.then(|| Fault { code: "EXEC_FAILED".into(), message: "killed".into() });
                Worked::Ran(Ran { exit_code: Some(0), unwanted, fault, ..Ran::default() })
            }
            (None, _) if !self.calm && self.random.one_in(6) => Worked::Unavailable("no codexd".to_owned()),
            (None, work) => self.codexd.ask(work),
        };
        let lives = self.lives;
        let told = self.call(Call::Worked { ticket, worked: Box::new(worked.clone()) });
        // Told until it is known to be written down, now and then once more; a process that died tells nothing.
        if self.lives == lives && (!told || self.random.one_in(20)) {
            self.doing.push((ticket, work, Some(worked)));
        } else if self.lives != lives && matches!(work, Work::Exec { .. }) {
            self.deaths += 1; // it ran, and nobody knows
        }
    }

    fn settle(&mut self) {
        self.calm = true;
        if self.mode != Mode::Running {
            self.call(Call::System(Change {
                mode: Mode::Running,
                requested_by: None,
                reason: None,
                source: None,
            }));
        }
        for _ in 0..200_000 {
            self.act();
            let tasks = self.core.state().tasks();
            if tasks.queued() == 0 && tasks.live().next().is_none() {
                break;
            }
        }
    }

    fn check(&self) {
        let tasks = self.core.state().tasks();
        let open: Vec<_> = tasks.live().map(|run| (run.clone(), tasks.task(run.task).cloned())).collect();
        assert_eq!(
            (tasks.queued(), open.len()),
            (0, 0),
            "all is done in the end: {open:#?} {:?}",
            self.doing
        );
        let all = tasks.newest(None, Seq::MAX, 1000);
        assert!(all.len() as u64 >= self.submitted, "none that was acknowledged is lost");
        let mut repeated = 0;
        for task in &all {
            match task.status {
                Status::Completed => assert_eq!(task.done.len(), task.spec.steps.len()),
                Status::Canceled => {}
                other => panic!("{other:?}: {task:#?}"),
            }
            for (index, step) in task.spec.steps.iter().enumerate().take(task.done.len()) {
                match step {
                    Step::Exec { .. } => repeated += self.ran[&(task.seq, index)] - 1,
                    Step::Codex { .. } => {
                        let completed = self.codexd.turns.values().filter(|(_, key, how)| {
                            let (run, step) = key.split_once("-step-").unwrap();
                            let run = self.core.state().seq_of("run", run).unwrap();
                            *how == Some("completed") && step == index.to_string() && task.runs.contains(&run)
                        });
                        assert_eq!(completed.count(), 1, "step {index} of {task:#?}");
                    }
                }
            }
        }
        assert!(repeated <= self.deaths, "{repeated} commands ran again, and {} were cut off", self.deaths);
        assert!(self.codexd.sessions.values().all(|open| !open), "every session is closed");
        self.check_log();
    }

    fn check_log(&self) {
        let (mut mode, mut told) = (Mode::Running, BTreeSet::new());
        for line in &self.disk {
            match event::parse(line).unwrap().event {
                Event::SystemChanged { mode: new, .. } => mode = new,
                Event::RunStarted { run_id, .. } => assert_eq!(mode, Mode::Running, "{run_id}"),
                Event::RunLine { run_id, codexd_seq: Some(seq), .. } => {
                    assert!(told.insert((run_id.clone(), seq)), "event {seq} of codexd twice in {run_id}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn over_random_lives_every_step_is_done_once_and_in_the_end_all_is_done() {
    for seed in 0..200 {
        let mut life = Life::new(seed);
        (0..600).for_each(|_| life.act());
        life.settle();
        life.check();
    }
}

#[test]
fn an_attempt_that_fails_is_no_cut_off_and_one_that_is_cut_off_no_failure() {
    let mut state = State::default();
    let mut apply = |seq: Seq, event: Event| {
        state.apply(&event::Record { seq, at: Timestamp::from_millis(seq), event });
        state.tasks().task(1).map(|task| (task.failures, task.cut_off))
    };
    let steps = vec![Step::Exec { command: "x".to_owned(), timeout_ms: None }];
    let spec = Spec {
        title: None,
        steps,
        cwd: None,
        model: None,
        sandbox: None,
        approval_policy: None,
        priority: 0,
        timeout_ms: 1,
        max_attempts: 3,
        not_before: None,
        metadata: None,
    };
    let (task_id, key) = ("task-00000000-1".to_owned(), None);
    apply(1, Event::TaskCreated { task_id: task_id.clone(), key, bytes: 1, spec });
    for (seq, status, counted) in [(2, Status::Failed, (1, 0)), (5, Status::Interrupted, (1, 1))] {
        let (run_id, retry_at) = (format!("run-00000000-{seq}"), Some(Timestamp::from_millis(1)));
        apply(seq, Event::RunStarted { run_id: run_id.clone(), task_id: task_id.clone(), attempt: 1 });
        apply(seq + 1, Event::StepStarted { run_id: run_id.clone(), step_index: 0, codexd_seq: None });
        let ended = Event::RunEnded { run_id, status, error: None, retry_at };
        assert_eq!(apply(seq + 2, ended), Some(counted));
    }
}
