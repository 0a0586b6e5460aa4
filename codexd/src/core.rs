//! The one pure step: what happened goes in, what is to be done comes out.
//!
//! No I/O, no clock, no thread. `State` is what the log says; `Live` is what dies with the process. Sessions and turns
//! have their part of the step in files of their own; the child's life is in `supervise`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::child::Signal;
use common::engine::Machine;
use common::error;
use common::log::Seq;
use common::time::{Now, Timestamp};
use serde_json::{Map, Value};

pub use calls::{Call, Create, Page, Reply, STATUS_SESSIONS, SessionSeen, Snapshot, StartTurn};

use crate::app_server::protocol::{self, RpcError};
use crate::deltas::Deltas;
use crate::event::{self, Event, Notice, Record};
use crate::sessions::MAX_SESSIONS;
use crate::state::{Session, State};
use crate::supervise::Child;

mod calls;

/// Requests to the child that are under way at once: above about 100 it begins to lose some.
pub const MAX_IN_FLIGHT: usize = 64;
/// How long the child may take to answer a request.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(20);
/// How long a call waits for a child that is not up.
pub const PARKED_DEADLINE: Duration = Duration::from_secs(12);

/// How long a call takes at the most, whatever it needs of the child: below the 30 s that conductor waits.
pub const CALL_DEADLINE: Duration = Duration::from_secs(28);

/// Names a call until it is answered.
pub type CallId = u64;
/// Counts the children: what a replaced one still sends is stale.
pub type Epoch = u64;

/// Everything that happens.
#[derive(Debug)]
pub enum Input {
    /// The process begins; the first input.
    Start,
    /// Somebody wants something.
    Call { id: CallId, call: Call },
    /// The child did something.
    Child { epoch: Epoch, event: FromChild },
    /// A deadline has come.
    Tick,
    /// A checkpoint of everything up to here is safe on disk.
    Checkpointed(Seq),
    /// The process is asked to end.
    Stop(&'static str),
}

/// What the child does.
#[derive(Debug)]
pub enum FromChild {
    /// Its process runs.
    Spawned { pid: u32, process_mark: String },
    /// It answered a request.
    Answer { rpc: u64, result: Result<Value, RpcError> },
    /// It told something.
    Notice(Box<Notice>),
    /// It asks something and waits.
    Asked { id: Value, method: String, thread_id: Option<String>, turn_id: Option<String> },
    /// It sent a line over the bound.
    LineDropped { bytes: u64 },
    /// It is gone with its whole group, or was never there.
    Exited { reason: String },
}

/// Everything that can be done.
#[derive(Debug)]
pub enum Effect {
    /// Write this line to the log.
    Append(String),
    /// Answer a caller.
    Reply { id: CallId, outcome: Result<Reply, Error> },
    /// Start a child.
    Spawn(Epoch),
    /// Send it a message.
    Send { epoch: Epoch, message: Value },
    /// Tell it that nothing follows.
    CloseStdin(Epoch),
    /// Signal its group.
    Signal { epoch: Epoch, signal: Signal },
    /// Let segments go that this and the checkpoint before it make needless.
    Checkpointed(Seq),
    /// End the process.
    Exit,
}

/// What a process brings to the state that it takes up.
#[derive(Clone, Debug)]
pub struct Birth {
    /// The name for a log without a past.
    pub new_log_id: Option<String>,
    /// The number that the log gives next.
    pub next: Seq,
    /// What became of the time before, in words that end a sentence.
    pub past: &'static str,
    /// No child of this process had a higher epoch.
    pub epoch_floor: Epoch,
    /// The process.
    pub pid: u32,
    /// What tells it from a later one with that pid.
    pub process_mark: String,
    /// When it began.
    pub process_started_at: Timestamp,
    /// Its version.
    pub version: String,
}

/// What dies with the process.
pub(crate) struct Live {
    pub(crate) child: Child,
    pub(crate) supervision: crate::supervise::Memory,
    /// Requests to the child that have no answer yet.
    pub(crate) rpcs: BTreeMap<u64, Pending>,
    pub(crate) next_rpc: u64,
    /// `turn/start` requests without an answer whose callers have been told so, by their sessions.
    pub(crate) doubtful: BTreeMap<u64, Seq>,
    /// This child does not know `thread/turns/list`.
    pub(crate) no_turns_list: bool,
    /// Calls that wait for the child to come up, or for room in flight.
    pub(crate) parked: VecDeque<Parked>,
    /// Sessions whose thread the child has loaded.
    pub(crate) loaded: BTreeSet<Seq>,
    /// Sessions for which a request is under way that will become a turn.
    pub(crate) starting: BTreeSet<Seq>,
    pub(crate) deltas: Deltas,
}

/// Somebody who waits.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) id: CallId,
    /// When the answer is due, whatever it takes.
    pub(crate) until: Duration,
}

pub(crate) struct Parked {
    pub(crate) caller: Caller,
    pub(crate) call: Call,
    pub(crate) give_up_at: Duration,
}

pub(crate) struct Pending {
    pub(crate) ask: Ask,
    pub(crate) give_up_at: Duration,
}

/// Why a request was sent, and so what its answer means.
pub(crate) enum Ask {
    Initialize,
    ConfigRead,
    AccountRead,
    /// `thread/start` or `thread/resume` for a new session.
    Create {
        caller: Caller,
        create: Box<Create>,
    },
    /// `thread/resume`, or `thread/start` anew, before a turn.
    Load {
        caller: Caller,
        session: Seq,
        turn: Box<StartTurn>,
        anew: bool,
    },
    /// `turn/start`.
    Turn {
        caller: Caller,
        session: Seq,
    },
    /// `thread/turns/list`, or `thread/read` where that is not known: what became of a `turn/start` without an answer.
    History {
        doubt: u64,
    },
    /// `turn/steer`.
    Steer {
        caller: Caller,
        session: Seq,
        turn_id: String,
    },
}

/// State and what becomes of it.
pub struct Core {
    pub(crate) state: State,
    pub(crate) live: Live,
    pub(crate) birth: Birth,
    /// `MAX_SESSIONS`, but in tests.
    pub(crate) max_sessions: usize,
}

impl Core {
    /// A core that has taken up `state`; `Start` must follow.
    pub fn new(state: State, birth: Birth) -> Core {
        let live = Live {
            child: Child::Down { restart_at: None },
            supervision: Default::default(),
            rpcs: BTreeMap::new(),
            next_rpc: 1,
            doubtful: BTreeMap::new(),
            no_turns_list: false,
            parked: VecDeque::new(),
            loaded: BTreeSet::new(),
            starting: BTreeSet::new(),
            deltas: Deltas::default(),
        };
        Core { state, live, birth, max_sessions: MAX_SESSIONS }
    }

    /// What the log says now.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Every caller that waits, for the shell when it throws this core away.
    pub fn callers(&self) -> impl Iterator<Item = CallId> {
        let asked = self.live.rpcs.values().filter_map(|pending| pending.ask.caller());
        asked.chain(self.live.parked.iter().map(|parked| parked.caller)).map(|caller| caller.id)
    }

    /// The answer to a call that only reads; `None` if it does more.
    pub fn read(&self, call: &Call) -> Option<Result<Reply, Error>> {
        Some(match call {
            Call::Readiness => self.readiness().map(|()| Reply::Ready),
            Call::Status => Ok(Reply::Status(Box::new(Snapshot::new(&self.state, STATUS_SESSIONS)))),
            Call::Sessions(page) => Ok(self.page(page)),
            Call::Session { id } => self.find(id).map(|session| Reply::Session(self.seen(&session))),
            Call::Create(_) | Call::StartTurn(_) => return None,
        })
    }

    fn page(&self, page: &Page) -> Reply {
        let fits = |session: &&Arc<Session>| {
            page.open.is_none_or(|open| session.open == open)
                && page.purpose.as_ref().is_none_or(|purpose| session.purpose == *purpose)
                && page.before.is_none_or(|before| session.seq < before)
        };
        let mut sessions: Vec<_> =
            self.state.sessions().rev().filter(fits).take(page.limit + 1).cloned().collect();
        let more = sessions.len() > page.limit;
        sessions.truncate(page.limit);
        let next_cursor = sessions.last().filter(|_| more).map(|session| session.seq);
        sessions.reverse();
        Reply::Sessions { sessions, next_cursor, child_pid: self.state.child().pid }
    }

    pub(crate) fn emit(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) -> Seq {
        let record = Record { seq: self.birth.next, at: now.wall, event };
        self.birth.next += 1;
        let line = event::render(&record);
        // The line itself is taken in, so that no replay can see anything else than this did. What is written was read
        // within stricter bounds than it is read back, so there is no other way.
        match event::parse(&line) {
            Ok(read) => self.state.apply(&read),
            Err(why) => panic!("a line of the log cannot be read back ({why}): {line}"),
        }
        out.push(Effect::Append(line));
        record.seq
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Session>, Error> {
        self.state
            .session(id)
            .cloned()
            .ok_or_else(|| Error::new(error::NOT_FOUND, format!("Unknown codexd session \"{id}\".")))
    }

    pub(crate) fn by_seq(&self, seq: Seq) -> Option<Arc<Session>> {
        self.state.session_by_seq(seq).cloned()
    }

    pub(crate) fn seen(&self, session: &Arc<Session>) -> SessionSeen {
        SessionSeen { session: session.clone(), child_pid: self.state.child().pid }
    }

    /// Sends a request to the child, which must be running.
    pub(crate) fn ask(
        &mut self,
        now: Now,
        epoch: Epoch,
        (method, params): (&str, Map<String, Value>),
        ask: Ask,
        out: &mut Vec<Effect>,
    ) {
        let deadline = now.mono + REQUEST_DEADLINE;
        let give_up_at = ask.caller().map_or(deadline, |caller| caller.until.min(deadline));
        let rpc = self.live.pend(ask, give_up_at);
        out.push(Effect::Send { epoch, message: protocol::request(rpc, method, params) });
    }

    fn call(&mut self, now: Now, caller: Caller, call: Call, out: &mut Vec<Effect>) {
        if let Some(outcome) = self.read(&call) {
            out.push(Effect::Reply { id: caller.id, outcome });
            return;
        }
        let epoch = match &self.live.child {
            Child::Up { epoch, .. } if self.live.rpcs.len() < MAX_IN_FLIGHT => *epoch,
            _ => {
                match self.refusal() {
                    Some(error) => out.push(Effect::Reply { id: caller.id, outcome: Err(error) }),
                    None => {
                        let give_up_at = now.mono + PARKED_DEADLINE;
                        self.live.parked.push_back(Parked { caller, call, give_up_at });
                    }
                }
                return;
            }
        };
        match call {
            Call::Create(create) => self.create_session(now, epoch, caller, create, out),
            Call::StartTurn(turn) => self.start_turn(now, epoch, caller, turn, out),
            Call::Readiness | Call::Status | Call::Sessions(_) | Call::Session { .. } => {}
        }
    }

    /// Takes parked calls up again, as far as there is room.
    pub(crate) fn unpark(&mut self, now: Now, out: &mut Vec<Effect>) {
        while matches!(self.live.child, Child::Up { .. }) && self.live.rpcs.len() < MAX_IN_FLIGHT {
            let Some(parked) = self.live.parked.pop_front() else { return };
            self.call(now, parked.caller, parked.call, out);
        }
    }

    fn child(&mut self, now: Now, epoch: Epoch, event: FromChild, out: &mut Vec<Effect>) {
        if self.live.child.epoch() != Some(epoch) {
            return; // of a child that was replaced
        }
        match event {
            FromChild::Spawned { pid, process_mark } => {
                self.emit(now, Event::ChildSpawned { epoch, pid, process_mark }, out);
            }
            FromChild::Answer { rpc, result } => {
                if let Some(session) = self.live.doubtful.remove(&rpc) {
                    self.turn_answered_late(now, session, result, out);
                } else if let Some(pending) = self.live.rpcs.remove(&rpc) {
                    self.answer(now, epoch, pending.ask, result, out);
                }
                self.unpark(now, out);
            }
            FromChild::Notice(notice) => self.notice(now, *notice, out),
            FromChild::Asked { id, method, thread_id, turn_id } => {
                out.push(Effect::Send { epoch, message: protocol::refusal(&id, &method) });
                let session = thread_id.as_deref().and_then(|thread| self.state.session_of_thread(thread));
                let session_id = session.map(|session| session.id.clone());
                let refused = Event::ChildRequestRefused { epoch, method, session_id, thread_id, turn_id };
                self.emit(now, refused, out);
            }
            FromChild::LineDropped { bytes } => {
                self.emit(now, Event::ChildLineDropped { epoch, bytes }, out);
            }
            FromChild::Exited { reason } => self.exited(now, epoch, &reason, out),
        }
    }

    fn answer(
        &mut self,
        now: Now,
        epoch: Epoch,
        ask: Ask,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        match ask {
            Ask::Initialize | Ask::ConfigRead | Ask::AccountRead => self.handshake(now, ask, result, out),
            Ask::Create { caller, create } => self.created(now, caller, *create, result, out),
            Ask::Load { caller, session, turn, anew } => {
                self.load_answered(now, epoch, (caller, session, turn, anew), result, out);
            }
            Ask::Turn { caller, session } => self.turn_answered(now, caller, session, result, out),
            Ask::Steer { caller, session, turn_id } => {
                self.steered(now, caller, session, turn_id, result, out)
            }
            Ask::History { doubt } => self.history(now, epoch, doubt, result, out),
        }
    }

    fn notice(&mut self, now: Now, mut notice: Notice, out: &mut Vec<Effect>) {
        let session = notice.thread_id.as_deref().and_then(|thread| self.state.session_of_thread(thread));
        notice.session_id = session.map(|session| session.id.clone());
        match &notice.session_id {
            Some(id) => notice.detail.insert("sessionId".to_owned(), Value::String(id.clone())),
            None => notice.detail.remove("sessionId"), // the child's own word for something else
        };
        self.check_config_warning(now, &notice, out);
        for notice in self.live.deltas.take(now.mono, notice) {
            self.emit(now, Event::App(notice), out);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        for notice in self.live.deltas.due(now.mono) {
            self.emit(now, Event::App(notice), out);
        }
        let late: Vec<_> =
            self.live.rpcs.iter().filter(|(_, p)| p.give_up_at <= now.mono).map(|(&rpc, _)| rpc).collect();
        for rpc in late {
            if let Some(pending) = self.live.rpcs.remove(&rpc) {
                self.unanswered(now, rpc, pending.ask, out);
            }
        }
        while self.live.parked.front().is_some_and(|parked| parked.give_up_at <= now.mono) {
            let Some(parked) = self.live.parked.pop_front() else { break };
            let outcome = Err(match self.live.child {
                Child::Up { .. } => protocol::full(),
                _ => protocol::unavailable("did not come up in time"),
            });
            out.push(Effect::Reply { id: parked.caller.id, outcome });
        }
        self.supervise(now, out);
        self.unpark(now, out);
    }

    fn unanswered(&mut self, now: Now, rpc: u64, ask: Ask, out: &mut Vec<Effect>) {
        match &ask {
            // The turn may run all the same, and another one would end up in it: the child's history must say.
            Ask::Turn { session, .. } => {
                self.live.doubtful.insert(rpc, *session);
                self.ask_history(now, rpc, out);
            }
            Ask::History { doubt } => self.ask_history(now, *doubt, out),
            Ask::Load { session, .. } => {
                self.live.starting.remove(session);
            }
            _ => {}
        }
        if let Some(Caller { id, .. }) = ask.caller() {
            let message = "app-server did not answer in time. Whether it acted is not known.";
            out.push(Effect::Reply { id, outcome: Err(Error::new(error::APP_SERVER_TIMEOUT, message)) });
        }
    }
}

impl Live {
    /// Expects an answer until `give_up_at`, under a new number.
    pub(crate) fn pend(&mut self, ask: Ask, give_up_at: Duration) -> u64 {
        let rpc = self.next_rpc;
        self.next_rpc += 1;
        self.rpcs.insert(rpc, Pending { ask, give_up_at });
        rpc
    }
}

impl Ask {
    pub(crate) fn caller(&self) -> Option<Caller> {
        match self {
            Ask::Create { caller, .. }
            | Ask::Load { caller, .. }
            | Ask::Turn { caller, .. }
            | Ask::Steer { caller, .. } => Some(*caller),
            Ask::Initialize | Ask::ConfigRead | Ask::AccountRead | Ask::History { .. } => None,
        }
    }
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
            Input::Child { event: FromChild::Notice(notice), .. } => notice.bytes,
            _ => 1024,
        }
    }

    fn line(effect: &Effect) -> Option<&str> {
        if let Effect::Append(line) = effect { Some(line) } else { None }
    }

    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Start => self.start_up(now, out),
            Input::Call { id, call } => {
                let caller = Caller { id, until: now.mono + CALL_DEADLINE };
                self.call(now, caller, call, out);
            }
            Input::Child { epoch, event } => self.child(now, epoch, event, out),
            Input::Tick => {}
            Input::Checkpointed(seq) => out.push(Effect::Checkpointed(seq)),
            Input::Stop(reason) => self.stop(now, reason, out),
        }
        if self.deadline().is_some_and(|at| at <= now.mono) {
            self.tick(now, out);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        let rpcs = self.live.rpcs.values().map(|pending| pending.give_up_at);
        let parked = self.live.parked.front().map(|parked| parked.give_up_at);
        rpcs.chain(parked).chain(self.live.deltas.deadline()).chain(self.live.child.deadline()).min()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod simulation;
