//! The one pure step: what happened goes in, what is to be done comes out.
//!
//! No I/O, no clock, no thread. `State` is what the log says; `Live` is what dies with the process. Sessions, turns,
//! interrupts, approvals and the child's history have their part of the step in files of their own; the child's life is
//! in `supervise`, requests to it are in `requests`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::engine::Machine;
use common::error;
use common::log::Seq;
use common::time::Now;
use serde_json::Value;

pub use calls::{
    Answer, Call, Create, Given, Page, Reply, STATUS_SESSIONS, SessionSeen, Snapshot, StartTurn, Work,
};

use crate::app_server::protocol;
use crate::approvals::ApprovalsLive;
use crate::cut::Whole;
use crate::deltas::Deltas;
use crate::event::{self, Event, Notice, Record};
use crate::history::Doubt;
use crate::interrupts::Interrupt;
use crate::requests::{Ask, Requests};
use crate::sessions::MAX_SESSIONS;
use crate::state::{Approval, Session, State};
use crate::supervise::Child;

pub use common::desk::CallId;
pub use inputs::{Birth, Effect, FromChild, Input, Rules};

mod calls;
mod inputs;

/// Requests to the child that are under way at once: above about 100 it begins to lose some.
pub const MAX_IN_FLIGHT: usize = 64;
/// How long a call waits for a child that is not up.
pub const PARKED_DEADLINE: Duration = Duration::from_secs(12);
/// How long a call takes at the most, whatever it needs of the child: below the 30 s that conductor waits.
pub const CALL_DEADLINE: Duration = Duration::from_secs(28);

/// Counts the children: what a replaced one still sends is stale.
pub type Epoch = u64;

/// What dies with the process.
pub(crate) struct Live {
    pub(crate) child: Child,
    pub(crate) supervision: crate::supervise::Memory,
    pub(crate) requests: Requests,
    /// Sessions of whose turn only the child's history can tell what became.
    pub(crate) doubts: BTreeMap<Seq, Doubt>,
    /// This child does not know `thread/turns/list`.
    pub(crate) no_turns_list: bool,
    /// Calls that wait for the child, for room in flight, or for something to be settled.
    pub(crate) parked: VecDeque<Parked>,
    /// Something has happened for which parked calls may wait.
    pub(crate) stirred: bool,
    /// Calls under way that have a key, and the key.
    pub(crate) keyed: BTreeMap<CallId, String>,
    /// Sessions whose thread the child has loaded.
    pub(crate) loaded: BTreeSet<Seq>,
    /// Sessions for which a request is under way that will become a turn.
    pub(crate) starting: BTreeSet<Seq>,
    /// Sessions whose turn is to end.
    pub(crate) interrupts: BTreeMap<Seq, Interrupt>,
    /// When the turns of sessions have run for as long as they may.
    pub(crate) turn_deadlines: BTreeMap<Seq, Duration>,
    /// Steerings whose callers were told that nobody knows, by their requests: the child may answer yet.
    pub(crate) late_steers: BTreeMap<u64, (Seq, Box<StartTurn>)>,
    /// Callers that wait for the end of a turn.
    pub(crate) waiting: BTreeMap<CallId, Waiting>,
    pub(crate) approvals: ApprovalsLive,
    pub(crate) deltas: Deltas,
}

/// Somebody who waits.
#[derive(Clone, Copy, Debug)]
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

pub(crate) struct Waiting {
    pub(crate) turn_id: String,
    pub(crate) until: Duration,
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
            requests: Requests::default(),
            doubts: BTreeMap::new(),
            no_turns_list: false,
            parked: VecDeque::new(),
            stirred: false,
            keyed: BTreeMap::new(),
            loaded: BTreeSet::new(),
            starting: BTreeSet::new(),
            interrupts: BTreeMap::new(),
            turn_deadlines: BTreeMap::new(),
            late_steers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            approvals: ApprovalsLive::default(),
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
        let asked = self.live.requests.callers();
        let parked = self.live.parked.iter().map(|parked| parked.caller.id);
        asked.chain(parked).chain(self.live.waiting.keys().copied())
    }

    /// The answer to a call that only reads; `None` if it does more, or waits.
    pub fn read(&self, call: &Call) -> Option<Result<Reply, Error>> {
        Some(match call {
            Call::Readiness => self.readiness().map(|()| Reply::Ready),
            Call::Status => Ok(Reply::Status(Box::new(Snapshot::new(&self.state, STATUS_SESSIONS)))),
            Call::Sessions(page) => Ok(self.page(page)),
            Call::Session { id } => self.find(id).map(|session| self.session_reply(&session)),
            Call::Turn { id, .. } => Ok(Reply::TurnSeen(self.turn_seen(id))),
            Call::Approvals => Ok(Reply::Approvals(self.state.approvals().pending().cloned().collect())),
            Call::Work(_) | Call::Answer(_) | Call::Interrupt { .. } | Call::Close { .. } => return None,
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
        self.emit_cut(now, event, None, out)
    }

    /// Writes down an event of which something was cut, which is to be kept whole.
    pub(crate) fn emit_cut(
        &mut self,
        now: Now,
        event: Event,
        whole: Option<Arc<Whole>>,
        out: &mut Vec<Effect>,
    ) -> Seq {
        let record = Record { seq: self.birth.next, at: now.wall, event };
        self.birth.next += 1;
        let line = event::render(&record);
        let running = self.state.running_count();
        // The line itself is taken in, so that no replay can see anything else than this did. What is written was read
        // within stricter bounds than it is read back, so there is no other way.
        match event::parse(&line) {
            Ok(read) => self.state.apply(&read),
            Err(why) => panic!("a line of the log cannot be read back ({why}): {line}"),
        }
        // What is told again of a turn that is over ends none.
        let ended = record.event.turn_end().filter(|_| self.state.running_count() < running);
        let session_id = record.event.transcribed().map(str::to_owned);
        let whole = match &record.event {
            Event::App(notice) => notice.whole.clone(),
            _ => whole,
        };
        out.push(Effect::Append { line, session_id, whole, ended });
        self.tell_waiting(&record.event, out);
        record.seq
    }

    /// Answers a caller; if its call had a key, others with that key may go on.
    pub(crate) fn reply(&mut self, id: CallId, outcome: Result<Reply, Error>, out: &mut Vec<Effect>) {
        self.live.stirred |= self.live.keyed.remove(&id).is_some();
        out.push(Effect::Reply { id, outcome });
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

    pub(crate) fn session_reply(&self, session: &Arc<Session>) -> Reply {
        let of_it = |approval: &&Arc<Approval>| approval.asked.session_id == session.id;
        let pending = self.state.approvals().pending().filter(of_it).cloned().collect();
        Reply::Session { seen: self.seen(session), pending }
    }

    fn call(&mut self, now: Now, caller: Caller, call: Call, out: &mut Vec<Effect>) {
        match call {
            Call::Work(work) => {
                // Nobody may begin to wait for something that would outlive the process.
                if let Some(error) = self.refusal().filter(|_| self.live.supervision.is_stopping()) {
                    return self.reply(caller.id, Err(error), out);
                }
                if let Some(work) = self.take_key(now, caller, work, out) {
                    self.work(now, caller, work, out);
                }
            }
            Call::Answer(answer) => self.answer_approval(now, caller, &answer, out),
            Call::Interrupt { id } => self.interrupt_call(now, caller, &id, out),
            Call::Close { id } => self.close_call(now, caller, &id, out),
            Call::Turn { id, wait } if !wait.is_zero() => self.wait_for_turn(now, caller, id, wait, out),
            call => {
                if let Some(outcome) = self.read(&call) {
                    self.reply(caller.id, outcome, out);
                }
            }
        }
    }

    /// What needs the child is done now, or parked until there is one with room.
    fn work(&mut self, now: Now, caller: Caller, work: Work, out: &mut Vec<Effect>) {
        let epoch = match &self.live.child {
            Child::Up { epoch, .. } if self.live.requests.has_room() => *epoch,
            _ => {
                return match self.refusal() {
                    Some(error) => self.reply(caller.id, Err(error), out),
                    None => self.park(now, caller, work),
                };
            }
        };
        match work {
            Work::Create(create) => self.create_session(now, epoch, caller, create, out),
            Work::StartTurn(turn) => self.start_turn(now, epoch, caller, turn, out),
            Work::Models => self.ask(now, epoch, protocol::models(), Ask::Models(caller), out),
        }
    }

    pub(crate) fn park(&mut self, now: Now, caller: Caller, work: Work) {
        let give_up_at = (now.mono + PARKED_DEADLINE).min(caller.until);
        self.live.parked.push_back(Parked { caller, call: Call::Work(work), give_up_at });
    }

    /// Takes parked calls up again; those that must wait on keep their place and their deadline.
    fn unpark(&mut self, now: Now, out: &mut Vec<Effect>) {
        // One that is answered may be what the next waited for.
        while std::mem::take(&mut self.live.stirred) {
            for _ in 0..self.live.parked.len() {
                let Some(Parked { caller, call, give_up_at }) = self.live.parked.pop_front() else { return };
                let before = self.live.parked.len();
                self.call(now, caller, call, out);
                if self.live.parked.len() > before
                    && let Some(again) = self.live.parked.back_mut()
                {
                    again.give_up_at = give_up_at;
                }
            }
        }
    }

    fn child(&mut self, now: Now, epoch: Epoch, event: FromChild, out: &mut Vec<Effect>) {
        if self.live.child.epoch() != Some(epoch) {
            return; // of a child that was replaced
        }
        self.live.requests.heard(now.mono);
        match event {
            FromChild::Spawned { pid, process_mark } => {
                self.emit(now, Event::ChildSpawned { epoch, pid, process_mark }, out);
            }
            FromChild::Connected { endpoint } => {
                self.emit(now, Event::ChildConnected { epoch, endpoint }, out);
            }
            FromChild::Answer { rpc, result } => self.answered(now, epoch, rpc, result, out),
            FromChild::Notice(notice) => self.notice(now, *notice, out),
            FromChild::Asked { id, notice } => self.asked(now, epoch, id, *notice, out),
            FromChild::LineDropped { bytes } => {
                self.emit(now, Event::ChildLineDropped { epoch, bytes }, out);
                self.doubt_running(now); // it may have been the end of a turn
            }
            FromChild::Exited { reason } => self.exited(now, epoch, &reason, out),
        }
    }

    fn notice(&mut self, now: Now, mut notice: Notice, out: &mut Vec<Effect>) {
        let session = notice.thread_id.as_deref().and_then(|thread| self.state.session_of_thread(thread));
        let session = session.cloned();
        notice.session_id = session.as_ref().map(|session| session.id.clone());
        match &notice.session_id {
            Some(id) => notice.detail.insert("sessionId".to_owned(), Value::String(id.clone())),
            None => notice.detail.remove("sessionId"), // the child's own word for something else
        };
        if session.is_none() && notice.whole.take().is_some() {
            notice.detail.remove("whole"); // there is no transcript that would keep it
        }
        self.check_config_warning(now, &notice, out);
        self.remember_changes(&notice);
        let Some(session) = session else { return self.write_down(now, notice, out) };
        match notice.method.as_str() {
            "turn/started" => {
                let begun = notice.turn_id.clone();
                self.write_down(now, notice, out);
                let ran = session.turn.as_ref().and_then(|turn| turn.id());
                if ran.is_some() && ran != begun.as_deref() {
                    self.doubt_stubborn(now, session.seq); // one of the two is not what it seems
                }
                self.turn_began(now, session.seq, out);
            }
            "turn/completed" => {
                let turn_id = notice.turn_id.clone();
                self.flush(now, &session.thread_id, out);
                self.close_turn(now, &session, turn_id.as_deref(), out);
                self.write_down(now, notice, out);
                self.turn_ended(session.seq);
            }
            "serverRequest/resolved" => {
                let request_id = notice.detail.get("requestId").cloned();
                self.write_down(now, notice, out);
                self.resolved_elsewhere(now, &session, request_id.as_ref(), out);
            }
            _ => self.write_down(now, notice, out),
        }
    }

    /// Writes a notification to the log, deltas merged.
    fn write_down(&mut self, now: Now, notice: Notice, out: &mut Vec<Effect>) {
        for notice in self.live.deltas.take(now.mono, notice) {
            self.emit(now, Event::App(notice), out);
        }
    }

    /// What is held of a thread goes out before anything else of it.
    pub(crate) fn flush(&mut self, now: Now, thread_id: &str, out: &mut Vec<Effect>) {
        for notice in self.live.deltas.flush(Some(thread_id)) {
            self.emit(now, Event::App(notice), out);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        for notice in self.live.deltas.due(now.mono) {
            self.emit(now, Event::App(notice), out);
        }
        self.requests_due(now, out);
        self.doubts_due(now, out);
        self.turns_due(now, out);
        self.interrupts_due(now, out);
        self.approvals_due(now, out);
        self.waits_due(now, out);
        let due = |parked: &Parked| parked.give_up_at <= now.mono;
        while let Some(at) = self.live.parked.iter().position(due) {
            let Some(parked) = self.live.parked.remove(at) else { break };
            let keyed = matches!(&parked.call, Call::Work(work) if work.key().is_some());
            let outcome = Err(match self.live.child {
                Child::Up { .. } if keyed => protocol::unknown_yet(),
                Child::Up { .. } => protocol::full(),
                _ => protocol::unavailable("did not come up in time"),
            });
            self.reply(parked.caller.id, outcome, out);
        }
        self.supervise(now, out);
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
        if let Effect::Append { line, .. } = effect { Some(line) } else { None }
    }

    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Start => self.start_up(now, out),
            Input::Call { id, call } => {
                let caller = Caller { id, until: now.mono + CALL_DEADLINE };
                self.call(now, caller, call, out);
            }
            Input::Gone { id } => {
                self.live.waiting.remove(&id);
            }
            Input::Child { epoch, event } => self.child(now, epoch, event, out),
            Input::Tick => {}
            Input::Checkpointed(seq) => out.push(Effect::Checkpointed(seq)),
            Input::TranscriptsOver(chosen) => self.remove_transcripts(now, chosen, out),
            Input::Stop(reason) => self.stop(now, reason, out),
        }
        if self.deadline().is_some_and(|at| at <= now.mono) {
            self.tick(now, out);
        }
        self.unpark(now, out);
    }

    fn deadline(&self) -> Option<Duration> {
        let live = &self.live;
        let up = matches!(live.child, Child::Up { .. });
        let deadlines = [
            live.requests.deadline(),
            live.doubts.values().filter(|_| up).filter_map(|doubt| doubt.ask_at).min(),
            live.interrupts.values().filter(|_| up).filter_map(|interrupt| interrupt.try_at).min(),
            live.turn_deadlines.values().min().copied(),
            live.approvals.deadline(),
            live.waiting.values().map(|waiting| waiting.until).min(),
            live.parked.iter().map(|parked| parked.give_up_at).min(),
            live.deltas.deadline(),
            live.child.deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
