//! Random lives of a core: calls, answers, deaths, delays, failed commits and crashes at every point, against a child
//! that behaves as the real one does. `BAA_SIMULATION_SEED` replays one life, `BAA_SIMULATION_STEPS` makes it longer.

use std::collections::BTreeMap;

use super::*;
use common::time::Timestamp;
use serde_json::json;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Default)]
struct Thread {
    turns: u32,
    loaded: bool,
    running: Option<String>,
    newest: Option<(String, &'static str, Value)>,
}

/// The child: what it has stored outlives it, what it says arrives later or never.
#[derive(Default)]
struct Peer {
    epoch: Option<Epoch>,
    threads: BTreeMap<String, Thread>,
    ids: u64,
    lines: VecDeque<FromChild>,
}

impl Peer {
    fn id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}-{}", self.ids)
    }

    fn say(&mut self, method: &str, detail: Value) {
        let notice = Notice::new(method.to_owned(), detail.as_object().unwrap().clone());
        self.lines.push_back(FromChild::Notice(Box::new(notice)));
    }

    fn answer(&mut self, rpc: u64, result: Result<Value, RpcError>) {
        self.lines.push_back(FromChild::Answer { rpc, result });
    }

    fn hear(&mut self, message: &Value, random: &mut Random) {
        let Some(rpc) = message["id"].as_u64() else { return };
        let Some(method) = message["method"].as_str() else { return };
        if random.one_in(60) {
            return; // it never answers some
        }
        if random.one_in(40) && method.contains('/') && !method.starts_with("config") {
            return self.answer(
                rpc,
                Err(RpcError { code: -32001, message: "Server overloaded; retry later.".into() }),
            );
        }
        let thread_id = message["params"]["threadId"].as_str().unwrap_or_default().to_owned();
        let unknown =
            || Err(RpcError { code: -32600, message: format!("no rollout found for thread id {thread_id}") });
        match method {
            "initialize" => self.answer(rpc, Ok(json!({"userAgent": "codexd/0.169.0 (x)"}))),
            "config/read" | "account/read" => self.answer(rpc, Ok(json!({}))),
            "thread/start" => {
                let id = self.id("thread");
                self.threads.insert(id.clone(), Thread { loaded: true, ..Thread::default() });
                let ephemeral = message["params"]["ephemeral"].clone();
                self.answer(rpc, Ok(json!({"thread": {"id": id, "ephemeral": ephemeral}, "cwd": "/w"})));
            }
            "thread/resume" => match self.threads.get_mut(&thread_id) {
                Some(thread) if thread.turns > 0 => {
                    thread.loaded = true;
                    self.answer(rpc, Ok(json!({"thread": {"id": thread_id}})));
                }
                _ => self.answer(rpc, unknown()),
            },
            "turn/start" => {
                let id = self.id("turn");
                let thread =
                    self.threads.get_mut(&thread_id).expect("a turn goes to a thread that was begun");
                assert!(thread.loaded, "a turn goes to a thread that is loaded");
                assert_eq!(thread.running, None, "a second turn/start would steer in silence");
                thread.running = Some(id.clone());
                let mark = message["params"]["clientUserMessageId"].clone();
                thread.newest = Some((id.clone(), "inProgress", mark));
                thread.turns += 1;
                self.answer(rpc, Ok(json!({"turn": {"id": id}})));
                self.say("turn/started", json!({"threadId": thread_id, "turn": {"id": id}}));
            }
            "turn/steer" => self.answer(rpc, Ok(json!({}))),
            "thread/turns/list" => match self.threads[&thread_id].newest.clone() {
                Some((id, status, mark)) => {
                    let items = json!([{"type": "userMessage", "clientId": mark}]);
                    self.answer(rpc, Ok(json!({"data": [{"id": id, "status": status, "items": items}]})));
                }
                None => self.answer(rpc, Ok(json!({"data": []}))),
            },
            other => panic!("{other} was never asked before"),
        }
    }

    fn go_on(&mut self, random: &mut Random) {
        let running: Vec<_> =
            self.threads.iter().filter_map(|(id, t)| Some((id.clone(), t.running.clone()?))).collect();
        if running.is_empty() {
            return;
        }
        let (thread_id, turn_id) = running[random.below(running.len() as u64) as usize].clone();
        if random.one_in(3) {
            let turn = json!({"id": turn_id, "status": "completed"});
            self.say("turn/completed", json!({"threadId": thread_id, "turn": turn}));
            let thread = self.threads.get_mut(&thread_id).unwrap();
            thread.running = None;
            if let Some((_, status, _)) = &mut thread.newest {
                *status = "completed";
            }
        } else {
            let detail = json!({"threadId": thread_id, "turnId": turn_id, "itemId": "i", "delta": "x"});
            self.say("item/agentMessage/delta", detail);
        }
    }

    fn die(&mut self) {
        self.epoch = None;
        self.lines.clear();
        self.threads.retain(|_, thread| thread.turns > 0);
        for thread in self.threads.values_mut() {
            (thread.loaded, thread.running) = (false, None);
            if let Some((_, status, _)) =
                thread.newest.as_mut().filter(|(_, status, _)| *status == "inProgress")
            {
                *status = "interrupted";
            }
        }
    }
}

/// Everything: the disk, the core, the child, and who waits for what.
struct World {
    random: Random,
    disk: Vec<String>,
    core: Core,
    peer: Peer,
    mono: u64,
    out: Vec<Effect>,
    next_call: CallId,
    waiting: BTreeSet<CallId>,
    stale: Vec<(Epoch, FromChild)>,
    epoch_floor: Epoch,
    seen: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: Random(seed),
            disk: Vec::new(),
            core: Core::new(State::default(), birth(&State::default(), 1, 0)),
            peer: Peer::default(),
            mono: 0,
            out: Vec::new(),
            next_call: 1,
            waiting: BTreeSet::new(),
            stale: Vec::new(),
            epoch_floor: 0,
            seen: BTreeMap::new(),
        };
        world.input(Input::Start);
        world
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn input(&mut self, input: Input) {
        let now = Now { mono: Duration::from_millis(self.mono), wall: Timestamp::from_millis(self.mono) };
        self.core.step(now, input, &mut self.out);
    }

    fn act(&mut self) {
        match self.random.below(12) {
            0 => {
                let ephemeral = self.random.one_in(5);
                let params = json!({"ephemeral": ephemeral}).as_object().unwrap().clone();
                let create =
                    Create { purpose: "duplex".into(), metadata: Value::Null, thread_id: None, params };
                self.call("create", Call::Create(Box::new(create)));
            }
            1..=3 => {
                let ids: Vec<_> =
                    self.core.state().sessions().map(|s| (s.id.clone(), s.turn.clone())).collect();
                let (session_id, turn) = match ids.len() as u64 {
                    0 => ("session-none".to_owned(), None),
                    n => ids[self.random.below(n.min(6)) as usize].clone(),
                };
                let steer = self.random.one_in(4);
                let expected_turn_id = turn.filter(|_| steer).and_then(|turn| turn.id().map(str::to_owned));
                let turn = StartTurn { session_id, input: json!([]), expected_turn_id, params: Map::new() };
                self.call("turn", Call::StartTurn(Box::new(turn)));
            }
            4..=7 => {
                if let (Some(epoch), Some(event)) = (self.peer.epoch, self.peer.lines.pop_front()) {
                    self.count("line");
                    self.input(Input::Child { epoch, event });
                }
            }
            8 | 9 => {
                let World { peer, random, .. } = self;
                peer.go_on(random);
            }
            10 => {
                self.count("tick");
                let jump = [1, 30, 60, 1000, 5000, 21_000][self.random.below(6) as usize];
                self.mono += jump;
                self.input(Input::Tick);
            }
            _ => match self.peer.epoch {
                Some(epoch) if self.random.one_in(6) => {
                    self.count("death");
                    // Some of its last lines come after the news of its end.
                    let late = self.peer.lines.drain(..).map(|event| (epoch, event));
                    self.stale.extend(late.take(3));
                    self.peer.die();
                    self.input(Input::Child {
                        epoch,
                        event: FromChild::Exited { reason: "signal 9".into() },
                    });
                }
                _ => {
                    if let Some((epoch, event)) = self.stale.pop() {
                        self.count("stale line");
                        self.input(Input::Child { epoch, event });
                    }
                }
            },
        }
    }

    fn call(&mut self, kind: &'static str, call: Call) {
        self.count(kind);
        let id = self.next_call;
        self.next_call += 1;
        self.waiting.insert(id);
        self.input(Input::Call { id, call });
    }

    /// Commits what has been decided, and does it; or fails, or dies, at any point of that.
    fn commit(&mut self) {
        let effects = std::mem::take(&mut self.out);
        let lines: Vec<_> = effects.iter().filter_map(Core::line).map(str::to_owned).collect();
        if !lines.is_empty() && self.random.one_in(80) {
            self.count("failed commit");
            let replied = effects
                .iter()
                .filter_map(|e| if let Effect::Reply { id, .. } = e { Some(*id) } else { None });
            for id in replied.chain(self.core.callers()).collect::<Vec<_>>() {
                assert!(self.waiting.remove(&id), "call {id} is refused once");
            }
            assert!(self.waiting.is_empty(), "a core that is thrown away knows all its callers");
            return self.take_up();
        }
        if self.random.one_in(150) {
            self.count("crash in the write");
            let kept = self.random.below(lines.len() as u64 + 1) as usize;
            self.disk.extend_from_slice(&lines[..kept]);
            return self.crash();
        }
        self.disk.extend(lines);
        self.check();
        for effect in effects {
            if self.random.one_in(400) {
                self.count("crash between effects");
                return self.crash();
            }
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Append(_) | Effect::Checkpointed(_) => {}
            Effect::Reply { id, outcome } => {
                assert!(self.waiting.remove(&id), "call {id} is answered once");
                match outcome {
                    Ok(Reply::Turn { session, turn_id, .. }) => {
                        self.count("turn taken");
                        let kept =
                            |line: &&String| line.contains(&turn_id) && line.contains(&session.session.id);
                        assert!(self.disk.iter().rev().any(|line| kept(&line)), "{turn_id} is on disk");
                    }
                    Ok(Reply::Session(seen)) => {
                        self.count("session made");
                        assert!(
                            self.disk.iter().rev().any(|line| line.contains(&seen.session.id)),
                            "it is on disk"
                        );
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let allowed = [
                            "conflict",
                            "not_found",
                            "app_server_error",
                            "app_server_timeout",
                            "app_server_unavailable",
                        ];
                        assert!(allowed.contains(&error.code.name.as_ref()), "{error:?}");
                        self.count("call refused");
                    }
                }
            }
            Effect::Spawn(epoch) => {
                assert_eq!(self.peer.epoch, None, "one child at a time");
                assert!(epoch > self.epoch_floor, "an epoch is never used again");
                (self.epoch_floor, self.peer.epoch) = (epoch, Some(epoch));
                self.peer.lines.push_back(FromChild::Spawned { pid: 7, process_mark: String::new() });
            }
            Effect::Send { epoch, message } => {
                if self.peer.epoch == Some(epoch) {
                    self.peer.hear(&message, &mut self.random);
                }
            }
            Effect::CloseStdin(_) => {}
            Effect::Signal { epoch, .. } => {
                if self.peer.epoch == Some(epoch) {
                    self.peer.die();
                    self.input(Input::Child {
                        epoch,
                        event: FromChild::Exited { reason: "signal 9".into() },
                    });
                }
            }
            Effect::Exit => panic!("nobody asked it to stop"),
        }
    }

    /// The process dies: its callers see a closed connection, and its child the end of its stdin.
    fn crash(&mut self) {
        self.waiting.clear();
        self.take_up();
    }

    fn take_up(&mut self) {
        self.peer.die();
        self.out.clear();
        let state = replay(&self.disk);
        let next = state.seq() + 1;
        let birth = birth(&state, next, self.epoch_floor);
        self.core = Core::new(state, birth);
        self.input(Input::Start);
    }

    fn check(&mut self) {
        /// Replaying the whole disk at each step would take most of the time.
        const EVERY: u64 = 10;
        if !self.random.one_in(EVERY) {
            return;
        }
        let state = replay(&self.disk);
        assert_eq!(&state, self.core.state(), "the state is a function of the log");
        assert_eq!(state.seq(), self.disk.len() as Seq, "numbers have no gaps");
        for id in self.core.callers() {
            assert!(self.waiting.contains(&id), "call {id} waits and was answered");
        }
    }

    /// Lets everything come to rest; then nobody waits, and nothing runs that the child does not run.
    fn settle(&mut self) {
        for _ in 0..400 {
            self.mono += 1000;
            self.input(Input::Tick);
            self.drain();
            while let (Some(epoch), Some(event)) = (self.peer.epoch, self.peer.lines.pop_front()) {
                self.input(Input::Child { epoch, event });
                self.drain();
            }
            for _ in 0..5 {
                let World { peer, random, .. } = self;
                peer.go_on(random);
            }
        }
        assert!(self.waiting.is_empty(), "nobody waits for ever: {:?}", self.waiting);
        for session in self.core.state().sessions().filter(|session| session.open) {
            let theirs = self.peer.threads.get(&session.thread_id).and_then(|thread| thread.running.clone());
            let ours = session.turn.as_ref().and_then(|turn| turn.id().map(str::to_owned));
            assert_eq!(ours, theirs, "{} agrees with the child", session.id);
        }
    }

    fn drain(&mut self) {
        while !self.out.is_empty() {
            let effects = std::mem::take(&mut self.out);
            self.disk.extend(effects.iter().filter_map(Core::line).map(str::to_owned));
            effects.into_iter().for_each(|effect| self.perform(effect));
        }
    }
}

fn birth(state: &State, next: Seq, epoch_floor: Epoch) -> Birth {
    Birth {
        new_log_id: state.log_id().is_empty().then(|| "feedc0de00000000".to_owned()),
        next,
        past: "codexd ended",
        epoch_floor,
        pid: 1,
        process_mark: "mark".into(),
        process_started_at: Timestamp::default(),
        version: "0".into(),
    }
}

fn replay(disk: &[String]) -> State {
    let mut state = State::default();
    for line in disk {
        state.apply(&event::parse(line).unwrap());
    }
    state
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_lives_keep_the_promises() {
    /// Steps of one life: long enough for several crashes, short enough that replaying its disk stays cheap.
    const LIFE: u64 = 500;
    let steps = setting("BAA_SIMULATION_STEPS").unwrap_or(100_000);
    let first = setting("BAA_SIMULATION_SEED");
    let seeds = first.map_or(0..steps.div_ceil(LIFE), |seed| seed..seed + 1);
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let life = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..LIFE {
                for _ in 0..=world.random.below(3) {
                    world.act();
                }
                world.commit();
            }
            world.settle();
            world.seen
        });
        match life {
            Ok(life) => life.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count),
            Err(_) => panic!("replay this life with BAA_SIMULATION_SEED={seed}"),
        }
    }
    let expected = [
        "call refused",
        "crash between effects",
        "crash in the write",
        "create",
        "death",
        "failed commit",
        "line",
        "session made",
        "stale line",
        "tick",
        "turn",
        "turn taken",
    ];
    println!("{seen:?}");
    if first.is_none() {
        assert_eq!(
            seen.keys().copied().collect::<Vec<_>>(),
            expected,
            "a kind of step that never came proves nothing"
        );
    }
}
