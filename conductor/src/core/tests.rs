//! The step, by what goes in and what comes out; then random lives with a crash at every point.

use common::time::Timestamp;

use super::*;
use crate::state::MAX_TASKS_BYTES;

/// A core that has started, and what it said at its start.
fn started(state: State, cut_off: bool) -> (Core, Vec<Effect>) {
    let new_log_id = state.log_id().is_empty().then(|| "log".to_owned());
    let (next, term) = (state.seq() + 1, state.term() + 1);
    let (holder_id, holder_host) = ("a".to_owned(), "h".to_owned());
    let (max_active_runs, stopping) = (2, None);
    let birth = Birth {
        new_log_id,
        cut_off,
        damaged: false,
        next,
        holder_id,
        holder_host,
        term,
        pid: 1,
        max_active_runs,
        incarnation: 0,
        stopping,
    };
    let mut core = Core::new(state, birth);
    let out = step(&mut core, 0, Input::Start);
    (core, out)
}

fn step(core: &mut Core, at: u64, input: Input) -> Vec<Effect> {
    let mut out = Vec::new();
    let now = Now { mono: Duration::from_secs(at), wall: Timestamp::from_millis(at * 1000) };
    core.step(now, input, &mut out);
    out
}

fn call(core: &mut Core, at: u64, id: CallId, call: Call) -> String {
    told(&step(core, at, Input::Call { id, call }))
}

fn told(out: &[Effect]) -> String {
    let word = |effect: &Effect| match effect {
        Effect::Append(line) => {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].as_str().unwrap().to_owned()
        }
        Effect::Publish(system) => format!("publish {}", system.system.mode.name()),
        Effect::Reply { id, outcome: Ok(reply) } => format!("reply {id} {reply:?}"),
        Effect::Reply { id, outcome: Err(error) } => format!("reply {id} {}", error.code.name),
        Effect::Work { ticket, work } => format!("work {} {work:?}", ticket.run),
        Effect::Kill(run) => format!("kill {run}"),
        Effect::Follow { epoch, after } => format!("follow {epoch} {after:?}"),
        Effect::Unfollow => "unfollow".to_owned(),
        Effect::Stopping(_) => "stopping".to_owned(),
        Effect::Forget(hash) => format!("forget {hash}"),
        Effect::Exit => "exit".to_owned(),
    };
    out.iter().map(word).collect::<Vec<_>>().join("; ")
}

fn begin(hash: &str, body: &str) -> Call {
    let key = Key { hash: hash.to_owned(), body: body.to_owned() };
    Call::BeginExec { key, patience: Duration::from_secs(5) }
}

fn end(hash: &str, ended: Ended) -> Call {
    Call::EndExec { hash: hash.to_owned(), ended }
}

#[test]
fn a_change_is_written_then_shown_then_answered_and_outlives_the_process() {
    let (mut core, out) = started(State::default(), true);
    assert_eq!(told(&out), "log.created; lease.acquired; publish running");
    let (requested_by, reason) = (Some("me".to_owned()), Some("a reason".to_owned()));
    let change = Change { mode: Mode::Draining, requested_by, reason, source: None };
    let said = call(&mut core, 1, 7, Call::System(change));
    assert_eq!(said, "system.changed; publish draining; reply 7 Done");
    assert_eq!(told(&step(&mut core, 2, Input::Stop("SIGTERM"))), "stopping; daemon.stopping; exit");
    let (next, out) = started(core.state().clone(), true);
    assert_eq!(told(&out), "lease.acquired; publish draining");
    assert_eq!(
        (next.state().term(), next.state().system().updated_at),
        (2, Some(Timestamp::from_millis(1000)))
    );
}

#[test]
fn a_node_whose_log_was_damaged_starts_nothing() {
    let (core, _) = started(State::default(), true);
    let birth = Birth { damaged: true, next: 9, ..core.birth };
    let mut core = Core::new(State::default(), birth);
    let out = step(&mut core, 0, Input::Start);
    assert_eq!(told(&out), "lease.acquired; system.changed; publish paused");
    // Whoever resumes it is not overruled when a later batch is refused and the core is made again.
    let mut birth = core.birth;
    birth.settle();
    let mut again = Core::new(State::default(), birth);
    assert_eq!(told(&step(&mut again, 1, Input::Start)), "lease.acquired; publish running");
}

#[test]
fn a_key_runs_a_command_once() {
    let (mut core, _) = started(State::default(), true);
    assert_eq!(call(&mut core, 1, 1, begin("k", "b")), "exec.started; reply 1 Begun");
    assert_eq!(call(&mut core, 2, 2, begin("k", "b")), "", "it waits for the first");
    assert_eq!(core.deadline(), Some(Duration::from_secs(7)));
    assert_eq!(call(&mut core, 2, 3, begin("k", "other")), "reply 3 conflict");
    let said = call(&mut core, 3, 4, end("k", Ended::Kept(100)));
    assert_eq!(said, "exec.finished; reply 2 Finished; reply 4 Done");
    assert_eq!(call(&mut core, 4, 5, begin("k", "b")), "reply 5 Finished");
    let day = 24 * 60 * 60 + 1;
    assert_eq!(call(&mut core, day, 6, begin("l", "b")), "forget k; exec.started; reply 6 Begun");
    assert_eq!(call(&mut core, day, 7, end("l", Ended::Refused)), "exec.refused; reply 7 Done");
    assert_eq!(call(&mut core, day, 8, begin("l", "b")), "exec.started; reply 8 Begun", "it never ran");
}

#[test]
fn who_waits_for_a_command_is_answered_in_time_and_who_left_is_not() {
    let (mut core, _) = started(State::default(), true);
    call(&mut core, 1, 1, begin("k", "b"));
    call(&mut core, 1, 2, begin("k", "b"));
    call(&mut core, 2, 3, begin("k", "b"));
    assert_eq!(core.callers().collect::<Vec<_>>(), [2, 3]);
    assert_eq!(told(&step(&mut core, 3, Input::Gone { id: 3 })), "");
    assert_eq!(told(&step(&mut core, 6, Input::Tick)), "reply 2 conflict");
    assert_eq!(core.deadline(), None);
}

#[test]
fn a_command_that_a_crash_cut_off_is_lost_and_one_that_still_runs_is_not() {
    for (cut_off, said) in [(true, "reply 2 Lost"), (false, "")] {
        let (mut core, _) = started(State::default(), true);
        call(&mut core, 1, 1, begin("k", "b"));
        let (mut next, _) = started(core.state().clone(), cut_off);
        assert_eq!(call(&mut next, 2, 2, begin("k", "b")), said);
    }
}

#[test]
fn results_that_are_kept_have_a_bound() {
    let (mut core, _) = started(State::default(), true);
    call(&mut core, 1, 1, begin("k", "b"));
    call(&mut core, 1, 2, end("k", Ended::Kept(MAX_KEPT_BYTES - 2 * MAX_RESULT_BYTES)));
    assert_eq!(call(&mut core, 1, 3, begin("l", "b")), "exec.started; reply 3 Begun");
    assert_eq!(call(&mut core, 1, 4, begin("m", "b")), "exec.started; reply 4 Begun");
    assert_eq!(call(&mut core, 1, 5, begin("n", "b")), "reply 5 too_many_requests");
    call(&mut core, 1, 6, end("m", Ended::Lost));
    assert_eq!(call(&mut core, 1, 7, begin("n", "b")), "exec.started; reply 7 Begun");
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

fn submit(metadata: &str, bytes: u64) -> Call {
    let spec = serde_json::from_value(serde_json::json!({
        "steps": [{"kind": "codex", "input": "x"}], "priority": 0, "timeout_ms": 1, "max_attempts": 1,
        "metadata": {"a": metadata},
    }));
    Call::Submit { key: None, spec: Box::new(spec.unwrap()), bytes }
}

#[test]
fn tasks_that_are_over_leave_room_for_others_and_are_counted() {
    let (mut core, _) = started(State::default(), false);
    let pause = Change { mode: Mode::Paused, requested_by: None, reason: None, source: None };
    call(&mut core, 1, 1, Call::System(pause));
    // Far more than all may take together: the oldest of those that are over make room.
    for n in 0..200 {
        let task_id = core.state.id("task", core.next_seq());
        let said = call(&mut core, 2, 2, submit("large", 1024 * 1024));
        assert!(said.starts_with("task.created; "), "{n}: {said}");
        let said = call(&mut core, 3, 3, Call::Cancel { task_id, reason: "enough".to_owned() });
        assert!(said.starts_with("task.canceled; "), "{n}: {said}");
    }
    assert!(core.state.tasks().bytes() <= MAX_TASKS_BYTES / 2, "{}", core.state.tasks().bytes());
    assert_eq!(core.state.tasks().newest(None, Seq::MAX, 1000).len(), 32);
    // What waits is not forgotten: it is the next one that is refused.
    let waiting =
        (0..100).take_while(|_| call(&mut core, 4, 4, submit("waits", 1024 * 1024)).starts_with("task"));
    assert_eq!(waiting.count(), 32);
    assert_eq!(call(&mut core, 5, 5, submit("more", 1024 * 1024)), "reply 5 too_many_requests");
    let totals = core.state.tasks().totals();
    assert_eq!((totals.canceled, totals.completed, totals.runs), (200, 0, 0));
    let read: State = serde_json::from_value(serde_json::to_value(&core.state).unwrap()).unwrap();
    assert_eq!(read, core.state, "a checkpoint holds it all");
}

#[test]
fn a_cursor_that_is_none_is_named() {
    let (mut core, _) = started(State::default(), false);
    let before = Some("x".to_owned());
    let read = Call::Read(Read::Tasks { status: None, before, limit: 1 });
    assert_eq!(call(&mut core, 1, 1, read), "reply 1 invalid_request");
}

/// A node over several lives: its disk, and what its callers know.
struct Life {
    random: Random,
    core: Core,
    disk: Vec<String>,
    at: u64,
    next_call: CallId,
    /// Calls that are not answered, with what they ask for.
    open: BTreeMap<CallId, String>,
    /// Commands that run now.
    running: Vec<String>,
    /// How often each key's command was begun, since it last was refused or too old.
    begun: BTreeMap<String, (u32, u64)>,
    mode: Mode,
}

impl Life {
    fn new(seed: u64) -> Life {
        let (core, out) = started(State::default(), true);
        let disk = out.iter().filter_map(Core::line).map(str::to_owned).collect();
        let (open, running, begun) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Life {
            random: Random(seed),
            core,
            disk,
            at: 1,
            next_call: 1,
            open,
            running,
            begun,
            mode: Mode::Running,
        }
    }

    fn replayed(&self) -> State {
        let mut state = State::default();
        self.disk.iter().for_each(|line| state.apply(&event::parse(line).unwrap()));
        state
    }

    fn act(&mut self) {
        self.at += self.random.below(4);
        let key = format!("k{}", self.random.below(6));
        let input = match self.random.below(10) {
            0 => Input::Tick,
            1..=2 => {
                let mode = [Mode::Running, Mode::Paused, Mode::Draining][self.random.below(3) as usize];
                self.call(
                    "mode",
                    Call::System(Change { mode, requested_by: None, reason: None, source: None }),
                )
            }
            3..=6 => self.call(&key, begin(&key, "b")),
            7 => match self.open.keys().next().copied() {
                Some(id) if self.random.below(2) == 0 => {
                    self.open.remove(&id);
                    Input::Gone { id }
                }
                _ => Input::Tick,
            },
            _ => match self.running.pop() {
                Some(hash) => {
                    let ended = [Ended::Kept(10), Ended::Lost, Ended::Refused][self.random.below(3) as usize];
                    if ended == Ended::Refused {
                        self.begun.remove(&hash);
                    }
                    self.call("end", end(&hash, ended))
                }
                None => Input::Tick,
            },
        };
        let out = step(&mut self.core, self.at, input);
        match self.random.below(12) {
            0 => self.crash(&out),
            1 => self.refuse(),
            _ => self.commit(out),
        }
    }

    fn call(&mut self, what: &str, call: Call) -> Input {
        let id = self.next_call;
        self.next_call += 1;
        self.open.insert(id, what.to_owned());
        Input::Call { id, call }
    }

    fn commit(&mut self, out: Vec<Effect>) {
        self.disk.extend(out.iter().filter_map(Core::line).map(str::to_owned));
        assert_eq!(self.core.state(), &self.replayed(), "the state is what the log says");
        for effect in out {
            match effect {
                Effect::Reply { id, outcome } => {
                    let what = self.open.remove(&id).expect("answered once, and who is there");
                    if matches!(outcome, Ok(Reply::Begun)) {
                        let (count, at) = self.begun.entry(what.clone()).or_insert((0, self.at));
                        *count = if *at + 24 * 60 * 60 <= self.at { 1 } else { *count + 1 };
                        assert_eq!(*count, 1, "{what} ran twice");
                        self.running.push(what);
                    }
                }
                Effect::Publish(system) => self.mode = system.system.mode,
                _ => {}
            }
        }
        assert_eq!(self.core.callers().count(), self.open.len(), "who is not answered waits");
    }

    /// A prefix of the batch may be on disk; callers hear nothing more, and their commands end with the process.
    fn crash(&mut self, out: &[Effect]) {
        let lines: Vec<&str> = out.iter().filter_map(Core::line).collect();
        let kept = self.random.below(lines.len() as u64 + 1) as usize;
        for line in &lines[..kept] {
            self.disk.push((*line).to_owned());
            // Begun on disk, though nobody was told: it must not be begun again.
            let event = event::parse(line).unwrap().event;
            if let Event::ExecStarted { key } = event {
                self.begun.insert(key.hash, (1, self.at));
            }
        }
        self.open.clear();
        self.running.clear();
        self.born(true);
    }

    /// The batch is refused: nothing of it is on disk, and everybody in it is told so; commands run on.
    fn refuse(&mut self) {
        self.open.clear();
        self.born(false);
    }

    fn born(&mut self, cut_off: bool) {
        let (core, out) = started(self.replayed(), cut_off);
        self.core = core;
        self.disk.extend(out.iter().filter_map(Core::line).map(str::to_owned));
        assert_eq!(self.core.state(), &self.replayed());
    }
}

#[test]
fn over_random_lives_nothing_is_lost_and_no_command_runs_twice() {
    for seed in 0..150 {
        let mut life = Life::new(seed);
        (0..200).for_each(|_| life.act());
    }
}
