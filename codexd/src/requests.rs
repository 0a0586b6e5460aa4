//! The step's part for requests to the child: sent, sent again when it is overloaded, answered, or given up.

use std::collections::BTreeMap;
use std::time::Duration;

use common::Error;
use common::error;
use common::log::Seq;
use common::time::Now;
use serde_json::Value;

use crate::app_server::protocol::{self, Request, RpcError};
use crate::core::{CallId, Caller, Core, Create, Effect, Epoch, MAX_IN_FLIGHT, Reply, StartTurn};
use crate::supervise::Stage;

/// How long the child may take to answer a request.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(20);
/// How long after "overloaded" a request is sent again; each time twice as long.
pub const OVERLOADED_PAUSE: Duration = Duration::from_millis(100);
/// The longest of these pauses.
pub const OVERLOADED_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a child that said nothing while a request ran out may take to show that it lives.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// Requests to the child that have no answer yet.
#[derive(Default)]
pub(crate) struct Requests {
    pending: BTreeMap<u64, Pending>,
    last: u64,
    /// When the child last said anything.
    heard: Duration,
}

struct Pending {
    ask: Ask,
    request: Request,
    sent_at: Duration,
    give_up_at: Duration,
    /// The child was overloaded when it was last sent.
    resend_at: Option<Duration>,
    pause: Duration,
}

/// Why a request was sent, and so what its answer means.
pub(crate) enum Ask {
    Initialize,
    ConfigRead,
    AccountRead,
    /// Nothing but whether it answers.
    Probe,
    /// `model/list`.
    Models(Caller),
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
    /// `turn/steer`.
    Steer {
        caller: Caller,
        session: Seq,
        turn: Box<StartTurn>,
    },
    /// `turn/interrupt`.
    Interrupt {
        session: Seq,
    },
    /// `thread/resume` of a thread whose turn may still run.
    Rejoin {
        session: Seq,
    },
    /// `thread/turns/list`, or `thread/read` where that is not known: what became of a turn.
    History {
        session: Seq,
    },
}

impl Ask {
    fn is_handshake(&self) -> bool {
        matches!(self, Ask::Initialize | Ask::ConfigRead | Ask::AccountRead)
    }

    fn caller(&self) -> Option<Caller> {
        match self {
            Ask::Create { caller, .. }
            | Ask::Load { caller, .. }
            | Ask::Turn { caller, .. }
            | Ask::Steer { caller, .. }
            | Ask::Models(caller) => Some(*caller),
            _ => None,
        }
    }
}

impl Requests {
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() < MAX_IN_FLIGHT
    }

    pub(crate) fn callers(&self) -> impl Iterator<Item = CallId> {
        self.pending.values().filter_map(|pending| pending.ask.caller()).map(|caller| caller.id)
    }

    pub(crate) fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        let due =
            |pending: &Pending| pending.resend_at.map_or(pending.give_up_at, |at| at.min(pending.give_up_at));
        self.pending.values().map(due).min()
    }

    /// Forgets them all, since the child is gone; those who wait are to be told.
    pub(crate) fn clear(&mut self) -> Vec<CallId> {
        let callers = self.callers().collect();
        self.pending.clear();
        callers
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// The session whose history is asked for with this request.
    #[cfg(test)]
    pub(crate) fn session_of_history(&self, rpc: u64) -> Option<Seq> {
        match self.pending.get(&rpc)?.ask {
            Ask::History { session } => Some(session),
            _ => None,
        }
    }

    fn due(&self, due: impl Fn(&Pending) -> bool) -> Vec<u64> {
        self.pending.iter().filter(|(_, pending)| due(pending)).map(|(&rpc, _)| rpc).collect()
    }
}

impl Core {
    /// Sends a request to the child, which must be running.
    pub(crate) fn ask(&mut self, now: Now, epoch: Epoch, request: Request, ask: Ask, out: &mut Vec<Effect>) {
        let deadline = now.mono + REQUEST_DEADLINE;
        let give_up_at = ask.caller().map_or(deadline, |caller| caller.until.min(deadline));
        self.ask_until(now, give_up_at, epoch, request, ask, out);
    }

    /// Sends a request whose answer is given up at `give_up_at`.
    pub(crate) fn ask_until(
        &mut self,
        now: Now,
        give_up_at: Duration,
        epoch: Epoch,
        request: Request,
        ask: Ask,
        out: &mut Vec<Effect>,
    ) {
        self.live.requests.last += 1;
        let rpc = self.live.requests.last;
        out.push(Effect::Send { epoch, message: protocol::request(rpc, request.0, request.1.clone()) });
        let pending =
            Pending { ask, request, sent_at: now.mono, give_up_at, resend_at: None, pause: OVERLOADED_PAUSE };
        self.live.requests.pending.insert(rpc, pending);
    }

    /// The child has answered a request.
    pub(crate) fn answered(
        &mut self,
        now: Now,
        epoch: Epoch,
        rpc: u64,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        self.live.stirred = true;
        if let Err(error) = &result
            && error.is_overloaded()
            && let Some(pending) = self.live.requests.pending.get_mut(&rpc)
        {
            pending.resend_at = Some(now.mono + pending.pause);
            pending.pause = (pending.pause * 2).min(OVERLOADED_PAUSE_MAX);
            return;
        }
        match self.live.requests.pending.remove(&rpc) {
            Some(pending) => self.answer(now, epoch, pending.ask, result, out),
            None => self.answered_late(now, rpc, result, out),
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
            Ask::Probe => {} // that it answers is all that was asked
            Ask::Models(caller) => {
                let outcome = result.map(Reply::Json).map_err(|error| error.into_error("the list of models"));
                self.reply(caller.id, outcome, out);
            }
            Ask::Create { caller, create } => self.created(now, caller, *create, result, out),
            Ask::Load { caller, session, turn, anew } => {
                self.load_answered(now, epoch, (caller, session, turn, anew), result, out);
            }
            Ask::Turn { caller, session } => self.turn_answered(now, caller, session, result, out),
            Ask::Steer { caller, session, turn } => self.steered(now, caller, session, *turn, result, out),
            Ask::Interrupt { session } => self.interrupt_answered(now, session, Some(result.map(drop))),
            Ask::Rejoin { session } => self.rejoined(now, epoch, session, result, out),
            Ask::History { session } => self.history(now, epoch, session, result, out),
        }
    }

    /// What the child was overloaded for is sent again; what it did not answer in time is given up.
    pub(crate) fn requests_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        for rpc in self.live.requests.due(|pending| pending.give_up_at <= now.mono) {
            if let Some(pending) = self.live.requests.pending.remove(&rpc) {
                self.live.stirred = true;
                self.given_up(now, rpc, pending, out);
            }
        }
        let Some(epoch) = self.live.child.epoch() else { return };
        for rpc in self.live.requests.due(|pending| pending.resend_at.is_some_and(|at| at <= now.mono)) {
            if let Some(pending) = self.live.requests.pending.get_mut(&rpc) {
                (pending.resend_at, pending.sent_at) = (None, now.mono);
                let (method, params) = pending.request.clone();
                out.push(Effect::Send { epoch, message: protocol::request(rpc, method, params) });
            }
        }
    }

    fn given_up(&mut self, now: Now, rpc: u64, pending: Pending, out: &mut Vec<Effect>) {
        let Some(epoch) = self.live.child.epoch() else { return };
        if pending.resend_at.is_some() {
            // It said that it did not act.
            return self.answer(now, epoch, pending.ask, Err(RpcError::overloaded()), out);
        }
        let silent = self.live.requests.heard <= pending.sent_at;
        let (caller, handshake) = (pending.ask.caller(), pending.ask.is_handshake());
        match pending.ask {
            Ask::Probe if silent => {
                let why = "it answers nothing".to_owned();
                return self.end_unfit(now, epoch, Stage::Kill, why, out);
            }
            // The turn may run all the same, and another one would end up in it: the child's history must say.
            Ask::Turn { session, .. } => {
                self.live.starting.remove(&session);
                self.doubt_unanswered(now, session, rpc);
            }
            Ask::History { session } | Ask::Rejoin { session } => {
                self.ask_again_later(now, session, None, out)
            }
            Ask::Interrupt { session } => self.interrupt_answered(now, session, None),
            // With the end of the turn it is forgotten.
            Ask::Steer { session, turn, .. } if self.by_seq(session).is_some_and(|s| s.turn.is_some()) => {
                self.live.late_steers.insert(rpc, (session, turn));
            }
            Ask::Load { session, .. } => {
                self.live.starting.remove(&session);
            }
            _ => {}
        }
        let probing = self.live.requests.pending.values().any(|pending| matches!(pending.ask, Ask::Probe));
        if silent && !probing && !handshake {
            let give_up_at = now.mono + PROBE_DEADLINE;
            self.ask_until(now, give_up_at, epoch, protocol::account_read(), Ask::Probe, out);
        }
        if let Some(Caller { id, .. }) = caller {
            let message = "app-server did not answer in time. Whether it acted is not known; \
                           a request with an Idempotency-Key may be sent again to learn it.";
            self.reply(id, Err(Error::new(error::APP_SERVER_TIMEOUT, message)), out);
        }
    }
}
