//! Everything around a core: the disk, the child, who waits for what, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use common::child::Signal;
use common::time::Timestamp;

use super::model::Model;
use super::peer::{Peer, Start, Traits, VERSIONS};
use super::*;
use crate::state::Key;

mod checks;

/// Who waits, and for what.
pub(super) struct Asked {
    /// When an answer is due.
    pub(super) until: u64,
    pub(super) kind: &'static str,
    /// What the call is about.
    pub(super) of: String,
    pub(super) key: Option<Key>,
}

/// One life.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) disk: Vec<String>,
    /// The disk, replayed.
    replayed: State,
    /// How many lines it holds, and the state then.
    checkpoint: (usize, String),
    pub(super) core: Core,
    pub(super) peer: Peer,
    pub(super) model: Model,
    pub(super) mono: u64,
    pub(super) out: Vec<Effect>,
    pub(super) next_call: CallId,
    pub(super) waiting: BTreeMap<CallId, Asked>,
    /// Callers that went away; an answer to them is one to nobody.
    gone: BTreeSet<CallId>,
    /// What a child said that is gone.
    pub(super) stale: VecDeque<(Epoch, FromChild)>,
    /// A child has died, and codexd does not know it yet.
    pub(super) exited: Option<Epoch>,
    /// When the last child died.
    died_at: u64,
    closed_stdin: bool,
    rules: Rules,
    max_sessions: usize,
    epoch_floor: Epoch,
    past: &'static str,
    /// Until then nothing can be written.
    full_until: u64,
    /// The core has committed something.
    started: bool,
    /// Faults come one in so many times less often.
    pub(super) calm: u64,
    /// When codexd was told to stop.
    pub(super) stopping: Option<u64>,
    /// Why each answer is waited for.
    pub(super) methods: BTreeMap<u64, String>,
    pub(super) seen: BTreeMap<String, u64>,
    /// One life is replayed, and tells what happens.
    told: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let (version, lists_turns, marks_turns, killed) = *random.pick(&VERSIONS).unwrap();
        let external = random.one_in(4);
        let silent = random.one_in(10);
        let traits = Traits { version, lists_turns, marks_turns, killed, external, silent };
        let approval_timeout = Duration::from_secs(if random.one_in(2) { 20 } else { 600 });
        let rules = Rules { external, approval_timeout, ceilings: Arc::default() };
        let max_sessions = if random.one_in(3) { 3 } else { crate::sessions::MAX_SESSIONS };
        let calm = [1, 3, 12][random.below(3) as usize];
        let state = State::default();
        let birth = birth(&state, 0, "codexd ended", rules.clone());
        let mut world = World {
            random,
            disk: Vec::new(),
            replayed: state.clone(),
            checkpoint: (0, serde_json::to_string(&state).unwrap()),
            core: Core::new(state, birth),
            peer: Peer::new(traits),
            model: Model::default(),
            mono: 0,
            out: Vec::new(),
            next_call: 1,
            waiting: BTreeMap::new(),
            gone: BTreeSet::new(),
            stale: VecDeque::new(),
            exited: None,
            died_at: 0,
            closed_stdin: false,
            rules,
            max_sessions,
            epoch_floor: 0,
            past: "codexd ended",
            full_until: 0,
            started: false,
            calm,
            stopping: None,
            methods: BTreeMap::new(),
            seen: BTreeMap::new(),
            told: setting("BAA_SIMULATION_SEED").is_some(),
        };
        world.core.max_sessions = max_sessions;
        world.input(Input::Start);
        world
    }

    pub(super) fn count(&mut self, what: impl Into<String>) {
        *self.seen.entry(what.into()).or_default() += 1;
    }

    fn fault(&mut self, one_in: u64) -> bool {
        !self.peer.healthy && self.random.one_in(one_in * self.calm)
    }

    pub(super) fn input(&mut self, input: Input) {
        self.count(names::input(&input));
        if self.told {
            println!("{:>8} < {input:?}", self.mono);
        }
        let asked_history = names::history(self, &input);
        let from = self.out.len();
        self.step(input);
        if let Some(session) = asked_history {
            let outcome = names::doubt(self, session, from);
            self.count(outcome);
        }
        let spawns = self.out[from..].iter().any(|effect| matches!(effect, Effect::Spawn(_)));
        assert!(!spawns || self.stopping.is_none(), "who stops starts no child");
        // What was due may have made something else due at once; the loop would never sleep if that had no end.
        for tick in 0..4 {
            if self.core.deadline().is_none_or(|at| at > Duration::from_millis(self.mono)) {
                break;
            }
            assert!(tick < 3, "what is due is done");
            self.step(Input::Tick);
        }
        self.check();
    }

    fn step(&mut self, input: Input) {
        let mono = Duration::from_millis(self.mono);
        let wall = Timestamp::from_millis(1_000_000 + self.mono);
        self.core.step(Now { mono, wall }, input, &mut self.out);
    }

    pub(super) fn call(&mut self, asked: Asked, call: Call) {
        self.count(names::call(&call));
        let id = self.next_call;
        self.next_call += 1;
        self.waiting.insert(id, asked);
        self.input(Input::Call { id, call });
    }

    /// Somebody who waits goes away.
    pub(super) fn leave(&mut self) {
        let ids: Vec<_> = self.waiting.keys().copied().collect();
        if let Some(&id) = self.random.pick(&ids) {
            self.waiting.remove(&id);
            self.gone.insert(id);
            self.input(Input::Gone { id });
        }
    }

    /// Time passes; what is under way inside the machine is faster than that.
    pub(super) fn pass(&mut self, ms: u64) {
        /// How late a deadline may be seen: a slow commit.
        const LATE: u64 = 200;
        let until = self.mono + ms;
        while self.mono < until {
            if until > self.mono + LATE || self.mono > self.died_at + LATE {
                self.deliver_exit();
                self.commit();
                self.deliver_exit(); // of a child that was just killed
                self.commit();
            }
            let due = self.core.deadline().map_or(until, |at| at.as_millis() as u64);
            self.mono = until.min(due.max(self.mono) + if ms > LATE { 0 } else { LATE }).max(self.mono + 1);
            self.input(Input::Tick);
        }
    }

    /// The next line of the child arrives.
    pub(super) fn deliver(&mut self) {
        if self.peer.hung {
            return;
        }
        let line = match self.peer.late.len() as u64 {
            n if n > 0 && (self.peer.healthy || self.random.one_in(6)) => {
                Some(self.peer.late.remove(self.random.below(n) as usize))
            }
            _ => self.peer.lines.pop_front(),
        };
        let (Some(epoch), Some(mut event)) = (self.peer.epoch, line) else { return };
        if self.fault(150) && !matches!(event, FromChild::Spawned { .. } | FromChild::Connected { .. }) {
            if let FromChild::Asked { id, .. } = &event {
                self.peer.forget_question(id.as_u64().unwrap()); // nobody can know of it
            }
            if let FromChild::Notice(notice) = &mut event {
                self.peer.untold.extend(notice.item_id.take()); // a command may outlive its turn
            }
            event = FromChild::LineDropped { bytes: 70_000_000 };
        }
        self.input(Input::Child { epoch, event });
    }

    /// The child dies, or the connection to it is lost; the news comes later.
    pub(super) fn death(&mut self) {
        let Some(epoch) = self.peer.epoch else { return };
        (self.exited, self.died_at) = (Some(epoch), self.mono);
        // Some of its last lines come after the news of its end.
        let Peer { lines, untold, .. } = &mut self.peer;
        for line in lines.iter() {
            if let FromChild::Notice(notice) = line
                && notice.method == "turn/completed"
            {
                untold.extend(notice.turn_id.clone());
            }
        }
        let late = self.random.below(4) as usize;
        self.stale.extend(lines.drain(..).rev().take(late).map(|line| (epoch, line)));
        match self.rules.external && !self.random.one_in(3) {
            true => self.peer.disconnect(&mut self.random),
            false => self.peer.die(),
        }
    }

    pub(super) fn deliver_exit(&mut self) {
        if let Some(epoch) = self.exited.take() {
            self.input(Input::Child { epoch, event: FromChild::Exited { reason: "signal 9".into() } });
        }
    }

    /// Commits what has been decided, and does it; or fails, or dies, at any point of that.
    pub(super) fn commit(&mut self) {
        let effects = std::mem::take(&mut self.out);
        let lines: Vec<_> = effects.iter().filter_map(Core::line).map(str::to_owned).collect();
        if !lines.is_empty() && (self.mono < self.full_until || self.fault(60)) {
            return self.refuse(effects);
        }
        if !lines.is_empty() && self.fault(if lines.len() > 1 { 20 } else { 100 }) {
            let kept = self.random.below(lines.len() as u64 + 1) as usize;
            let point = match kept {
                0 => "crash before the write",
                n if n == lines.len() => "crash after the write",
                _ => "crash inside the write",
            };
            self.count(point);
            self.write(&lines[..kept]);
            return self.crash();
        }
        self.write(&lines);
        self.started = true;
        self.past_is("codexd ended");
        assert_eq!(&self.replayed, self.core.state(), "the state is a function of the log");
        let mut exit = false;
        for effect in effects {
            let frequent =
                matches!(effect, Effect::Append { .. } | Effect::Reply { .. } | Effect::Send { .. });
            if self.fault(if frequent { 250 } else { 8 }) {
                self.count(format!("crash before {}", names::effect(&effect)));
                return self.crash();
            }
            exit |= self.perform(effect);
        }
        if exit {
            assert!(self.waiting.is_empty(), "nobody waits for who has stopped: {:?}", self.waiting.keys());
            self.crash();
        }
    }

    fn past_is(&mut self, past: &'static str) {
        self.past = past;
    }

    fn write(&mut self, lines: &[String]) {
        for line in lines {
            let kind = self.model.line(line);
            self.count(format!("event {kind}").replace("event app-server.", "notice "));
            self.replayed.apply(&event::parse(line).unwrap());
            self.disk.push(line.clone());
        }
        if self.random.one_in(50) {
            self.checkpoint = (self.disk.len(), serde_json::to_string(&self.replayed).unwrap());
        }
    }

    /// The batch could not be made durable: who waits for it or for the core is told, and the core is made again.
    fn refuse(&mut self, effects: Vec<Effect>) {
        self.count(if self.started { "commit failed" } else { "commit failed at start" });
        let replied = effects.iter().filter_map(|effect| match effect {
            Effect::Reply { id, .. } => Some(*id),
            _ => None,
        });
        for id in replied.chain(self.core.callers()).collect::<Vec<_>>() {
            self.answered(id);
        }
        assert_eq!(self.waiting.len(), 0, "a core that is thrown away knows all its callers");
        if self.random.one_in(4) {
            self.full_until = self.mono + self.random.below(5000);
        }
        self.end_child();
        self.past_is("the state could not be made durable");
        self.rebuild();
        if !self.started {
            self.mono += 1000;
        }
        self.take_up();
    }

    /// The process dies: its callers see a closed connection, and its child the end of its stdin.
    pub(super) fn crash(&mut self) {
        if self.told {
            println!("{:>8} ! crash", self.mono);
        }
        self.epoch_floor = 0;
        self.stale.clear();
        self.waiting.clear();
        self.end_child();
        self.past_is("codexd ended");
        self.rebuild();
        self.take_up();
    }

    fn end_child(&mut self) {
        self.peer.disconnect(&mut self.random);
        if !self.rules.external {
            self.peer.die();
        }
        (self.exited, self.closed_stdin) = (None, false);
    }

    fn rebuild(&mut self) {
        let (from, state) = if self.random.one_in(2) { self.checkpoint.clone() } else { (0, String::new()) };
        let mut state = match from {
            0 => State::default(),
            _ => serde_json::from_str::<State>(&state).unwrap().index(),
        };
        self.disk[from..].iter().for_each(|line| state.apply(&event::parse(line).unwrap()));
        assert_eq!(state, self.replayed, "checkpoint and log make the state");
        let birth = birth(&state, self.epoch_floor, self.past, self.rules.clone());
        self.core = Core::new(state, birth);
        self.core.max_sessions = self.max_sessions;
    }

    fn take_up(&mut self) {
        self.out.clear();
        (self.started, self.stopping) = (false, None);
        self.input(Input::Start);
    }

    fn answered(&mut self, id: CallId) -> Option<Asked> {
        let asked = self.waiting.remove(&id);
        assert!(asked.is_some() || self.gone.remove(&id), "call {id} is answered once");
        asked
    }

    /// Does one effect; `true` says that the process has ended.
    fn perform(&mut self, effect: Effect) -> bool {
        self.count(names::effect(&effect));
        if self.told {
            println!("{:>8} > {effect:?}", self.mono);
        }
        match effect {
            Effect::Append { line, session_id, .. } => Model::transcribed(&line, session_id.as_deref()),
            Effect::Checkpointed(_) | Effect::Forget { .. } => {}
            Effect::Reply { id, outcome } => self.reply(id, outcome),
            Effect::Spawn(epoch) => {
                assert_eq!((self.peer.epoch, self.exited), (None, None), "one child at a time");
                assert!(epoch > self.epoch_floor, "an epoch is never used again");
                self.epoch_floor = epoch;
                let wrong =
                    [Start::Silent, Start::Refused, Start::BadConfig, Start::ConfigWarning, Start::TooOld];
                let start = if self.fault(12) { *self.random.pick(&wrong).unwrap() } else { Start::Fine };
                self.closed_stdin = false;
                self.peer.begin(epoch, start);
            }
            Effect::Send { epoch, message } => self.send(epoch, message),
            Effect::CloseStdin(epoch) => {
                self.closed_stdin = self.peer.epoch == Some(epoch);
                if self.closed_stdin && !self.random.one_in(4) {
                    self.death();
                }
            }
            Effect::Signal { epoch, signal } => {
                let deaf = signal == Signal::Term && self.random.one_in(3);
                if self.peer.epoch == Some(epoch) && !deaf {
                    self.death();
                }
            }
            Effect::Exit => {
                let by = self.stopping.expect("somebody told it to stop");
                assert!(self.mono <= by + 10_000, "it stops in time");
                assert_eq!(self.peer.epoch, None, "the child goes first");
                assert!(self.model.stopped, "that it stops is on disk");
                return true;
            }
        }
        false
    }

    fn send(&mut self, epoch: Epoch, message: Value) {
        assert_eq!(epoch, self.epoch_floor, "{message} is sent to a child that was replaced");
        self.model.sent(epoch, &message);
        if message["method"] == "turn/start" && self.peer.epoch == Some(epoch) {
            self.count("turn sent");
        }
        if let (Some(method), Some(rpc)) = (message["method"].as_str(), message["id"].as_u64()) {
            self.methods.insert(rpc, method.to_owned());
        }
        if self.peer.epoch == Some(epoch) && !self.closed_stdin {
            self.peer.stdin.push_back(message);
        }
    }

    /// The child takes the next message in.
    pub(super) fn hear(&mut self) {
        let mark = self.peer.stdin.front().map(|message| message["params"]["clientUserMessageId"].clone());
        self.peer.hear(&mut self.random);
        if let Some(mark) = mark.as_ref().and_then(Value::as_str)
            && self.peer.started.contains(mark)
        {
            self.model.one_key_is_one_turn(mark, &self.peer.started);
        }
        for what in std::mem::take(&mut self.peer.seen) {
            self.count(what);
        }
    }
}

fn birth(state: &State, epoch_floor: Epoch, past: &'static str, rules: Rules) -> Birth {
    Birth {
        new_log_id: state.log_id().is_empty().then(|| "feedc0de00000000".to_owned()),
        next: state.seq() + 1,
        past,
        epoch_floor,
        pid: 1,
        process_mark: "mark".into(),
        process_started_at: Timestamp::default(),
        version: "0".into(),
        rules,
    }
}
