//! The step's part for turns: admitted, loaded for, started, steered, waited for.

use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::error;
use common::log::Seq;
use common::time::Now;
use serde_json::{Value, json};

use crate::app_server::protocol::{self, RpcError};
use crate::core::{Caller, Core, Effect, Epoch, Reply, StartTurn, Waiting, Work};
use crate::cut;
use crate::event::{Event, TurnRequested};
use crate::requests::Ask;
use crate::state::{OpenItem, Outcome, Session, Stage, Turn};

/// What is to be done about a turn that somebody wants.
enum Admit {
    /// Ask the child for it.
    Start,
    /// Load the session's thread first.
    Load,
    /// Put its input into the turn that runs.
    Steer(String),
    /// Something is being settled that decides.
    Wait,
}

impl Core {
    /// A request with a key that was seen before comes to what it came to then; `None` if nothing is left to do.
    pub(crate) fn take_key(
        &mut self,
        now: Now,
        caller: Caller,
        work: Work,
        out: &mut Vec<Effect>,
    ) -> Option<Work> {
        let Some(key) = work.key().cloned() else { return Some(work) };
        match self.live.keyed.iter().find(|(_, hash)| **hash == key.hash) {
            Some((first, _)) if *first == caller.id => return Some(work), // it was parked
            Some(_) => {
                self.park(now, caller, work); // until the first one is answered
                return None;
            }
            None => {}
        }
        let late =
            |(_, turn): &(Seq, Box<StartTurn>)| turn.key.as_ref().is_some_and(|late| late.hash == key.hash);
        if self.live.late_steers.values().any(late) {
            self.park(now, caller, work); // it may have been taken, and must not be twice
            return None;
        }
        let known = match self.state.keys().admit(&key, now.wall) {
            Ok(Some(known)) => known.outcome.clone(),
            Ok(None) => {
                self.live.keyed.insert(caller.id, key.hash);
                return Some(work);
            }
            Err(error) => {
                self.reply(caller.id, Err(error), out);
                return None;
            }
        };
        let outcome = match known {
            Outcome::Asked => {
                self.park(now, caller, work); // until the child has told what became of it
                return None;
            }
            Outcome::Unknown => {
                let message = "The turn of this Idempotency-Key was interrupted before app-server named it; \
                                   whether it ran is not known. Another key begins another turn.";
                Err(Error::new(error::CONFLICT, message).details(json!({ "header": "Idempotency-Key" })))
            }
            Outcome::Session(id) => self.find(&id).map(|session| self.session_reply(&session)),
            Outcome::Turn { session_id, turn_id, seq } => self.find(&session_id).map(|session| Reply::Turn {
                session: self.seen(&session),
                turn_id,
                seq,
            }),
        };
        self.reply(caller.id, outcome, out);
        None
    }

    /// Takes a turn in, if the session can have one now.
    pub(crate) fn start_turn(
        &mut self,
        now: Now,
        epoch: Epoch,
        caller: Caller,
        turn: Box<StartTurn>,
        out: &mut Vec<Effect>,
    ) {
        let admitted =
            self.find(&turn.session_id).and_then(|session| Ok((self.admit(&session, &turn)?, session)));
        match admitted {
            Err(error) => self.reply(caller.id, Err(error), out),
            Ok((Admit::Start, session)) => self.request_turn(now, epoch, caller, &session, &turn, out),
            Ok((Admit::Load, session)) => {
                self.live.starting.insert(session.seq);
                let load = Ask::Load { caller, session: session.seq, turn, anew: false };
                self.ask(now, epoch, protocol::thread_resume(&session), load, out);
            }
            Ok((Admit::Steer(turn_id), session)) => {
                let request = protocol::turn_steer(&session, &turn_id, &turn.input);
                self.ask(now, epoch, request, Ask::Steer { caller, session: session.seq, turn }, out);
            }
            Ok((Admit::Wait, _)) => self.park(now, caller, Work::StartTurn(turn)),
        }
    }

    /// Pure: what state and child allow.
    fn admit(&self, session: &Session, turn: &StartTurn) -> Result<Admit, Error> {
        if !session.open {
            return Err(conflict(session, format!("Session {} is closed.", session.id)));
        }
        if self.is_settling(session.seq) {
            return Ok(Admit::Wait);
        }
        self.birth.rules.ceilings.of_session(&session.settings).map_err(|(field, why)| {
            let id = &session.id;
            conflict(session, format!("Session {id} has more than this node allows now: {field} {why}."))
        })?;
        let current = session.turn.as_ref().and_then(|turn| turn.id());
        let accepted = |turn: &Turn| matches!(turn.stage, Stage::Accepted { .. });
        let busy = session.turn.is_some() || self.live.starting.contains(&session.seq);
        match &turn.expected_turn_id {
            // It is deaf until it has begun.
            Some(expected) if current == Some(expected) && session.turn.as_ref().is_some_and(accepted) => {
                Ok(Admit::Wait)
            }
            Some(expected) if current == Some(expected) => Ok(Admit::Steer(expected.clone())),
            Some(expected) => {
                let id = &session.id;
                let message = format!("expectedTurnId {expected} is not the running turn of session {id}.");
                Err(conflict(session, message))
            }
            // The child would take the input into the running turn without a word.
            None if busy => {
                let message = format!(
                    "Session {} has a turn that runs: steer it with expectedTurnId, interrupt it, or wait for its end.",
                    session.id
                );
                Err(conflict(session, message))
            }
            None if self.live.loaded.contains(&session.seq) => Ok(Admit::Start),
            None => Ok(Admit::Load),
        }
    }

    fn request_turn(
        &mut self,
        now: Now,
        epoch: Epoch,
        caller: Caller,
        session: &Session,
        turn: &StartTurn,
        out: &mut Vec<Effect>,
    ) {
        let client_turn_id = format!("{}-{}", session.id, self.birth.next);
        let request = protocol::turn_start(session, &client_turn_id, turn);
        let (input, whole) = cut::input(&turn.input);
        let requested = TurnRequested {
            session_id: session.id.clone(),
            thread_id: session.thread_id.clone(),
            client_turn_id,
            changes: protocol::changes(&turn.params),
            input,
            timeout_ms: turn.timeout_ms,
            key: turn.key.clone(),
        };
        self.emit_cut(now, Event::TurnRequested(Box::new(requested)), whole, out);
        // Until it is answered, even if it has ended by then: the answer must not be taken for another's.
        self.live.starting.insert(session.seq);
        self.ask(now, epoch, request, Ask::Turn { caller, session: session.seq }, out);
    }

    /// The session's thread is loaded, or is not.
    pub(crate) fn load_answered(
        &mut self,
        now: Now,
        epoch: Epoch,
        (caller, session, mut turn, anew): (Caller, Seq, Box<StartTurn>, bool),
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        self.live.starting.remove(&session);
        let session = match self.find(&turn.session_id) {
            Ok(session) => session,
            Err(gone) => return self.reply(caller.id, Err(gone), out),
        };
        if !session.open {
            let error = conflict(&session, format!("Session {} is closed.", session.id));
            return self.reply(caller.id, Err(error), out);
        }
        let loaded = match result {
            // The child stores a thread with its first turn; one without any is begun anew.
            Err(error)
                if !anew
                    && (error.is_empty_thread() || (session.last.is_none() && error.is_unknown_thread())) =>
            {
                self.live.starting.insert(session.seq);
                let load = Ask::Load { caller, session: session.seq, turn, anew: true };
                return self.ask(now, epoch, protocol::thread_restart(&session), load, out);
            }
            Err(error) => Err(error.into_error("to load the session's thread")),
            // A new one may have been named by another caller before its answer came.
            Ok(answer) => protocol::thread_id(&answer).and_then(|thread_id| {
                self.unheld(&thread_id, Some(session.seq))?;
                Ok((thread_id, answer))
            }),
        };
        let (thread_id, answer) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return self.reply(caller.id, Err(error), out),
        };
        // What the session had stands; the child's word counts only where nothing was known.
        let mut settings = protocol::settings(&answer);
        if !session.settings.sandbox.is_null() && settings.sandbox != session.settings.sandbox {
            // The resume takes only a word for the sandbox; the turn can restate all of it.
            turn.params.entry("sandboxPolicy").or_insert_with(|| session.settings.sandbox.clone());
        }
        settings.update(&session.settings);
        let (session_id, previous_thread_id) = (session.id.clone(), session.thread_id.clone());
        let settings = Box::new(settings);
        self.emit(now, Event::SessionResumed { session_id, thread_id, previous_thread_id, settings }, out);
        self.live.loaded.insert(session.seq);
        if let Some(session) = self.by_seq(session.seq) {
            self.request_turn(now, epoch, caller, &session, &turn, out);
        }
    }

    /// The child took the turn, or did not.
    pub(crate) fn turn_answered(
        &mut self,
        now: Now,
        caller: Caller,
        session: Seq,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        self.live.starting.remove(&session);
        let Some(session) = self.by_seq(session) else { return self.reply(caller.id, Err(removed()), out) };
        let outcome = self.take_turn(now, &session, result, out).and_then(|(turn_id, seq)| {
            let session = self.find(&session.id)?;
            Ok(Reply::Turn { session: self.seen(&session), turn_id, seq })
        });
        self.reply(caller.id, outcome, out);
    }

    /// Writes down what the child answered to `turn/start`.
    pub(crate) fn take_turn(
        &mut self,
        now: Now,
        session: &Session,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) -> Result<(String, Seq), Error> {
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        let taken = result.map_err(|error| error.into_error("the turn"));
        match taken.and_then(|answer| protocol::turn_id(&answer)) {
            Ok(turn_id) => {
                let accepted = Event::TurnAccepted { session_id, thread_id, turn_id: turn_id.clone() };
                let seq = self.emit(now, accepted, out);
                self.turn_accepted(now, session.seq);
                Ok((turn_id, seq))
            }
            Err(error) => {
                let reason = error.message.clone();
                self.emit(now, Event::TurnRefused { session_id, thread_id, reason }, out);
                self.turn_ended(session.seq);
                Err(error)
            }
        }
    }

    /// From now on the turn has a name, and its time runs.
    pub(crate) fn turn_accepted(&mut self, now: Now, session: Seq) {
        self.hold_interrupt(now, session);
        let timeout = self.by_seq(session).and_then(|session| session.turn.as_ref()?.timeout_ms);
        if let Some(timeout) = timeout {
            let at = now.mono + Duration::from_millis(timeout);
            self.live.turn_deadlines.entry(session).or_insert(at);
        }
        match self.by_seq(session).is_some_and(|session| session.turn.is_some()) {
            true => self.live.stirred = true,
            false => self.turn_ended(session), // it has ended before the answer that names it
        }
    }

    /// From now on the turn hears.
    pub(crate) fn turn_began(&mut self, now: Now, session: Seq, out: &mut Vec<Effect>) {
        self.turn_accepted(now, session);
        self.try_interrupt(now, session, out);
    }

    /// Nothing is left to do about the turn.
    pub(crate) fn turn_ended(&mut self, session: Seq) {
        let Some(of_it) = self.by_seq(session) else { return };
        if of_it.turn.is_some() {
            return; // another one is asked for already, or it was another one that ended
        }
        self.live.interrupts.remove(&session);
        self.live.late_steers.retain(|_, (of, _)| *of != session);
        self.live.turn_deadlines.remove(&session);
        self.live.doubts.remove(&session);
        if !of_it.open {
            self.live.loaded.remove(&session);
        }
        self.live.stirred = true;
    }

    /// The child took more input into the running turn, or did not.
    pub(crate) fn steered(
        &mut self,
        now: Now,
        caller: Caller,
        session: Seq,
        turn: StartTurn,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let outcome = self.take_steer(now, session, turn, result, out);
        self.reply(caller.id, outcome, out);
    }

    /// Writes down what the child answered to `turn/steer`.
    pub(crate) fn take_steer(
        &mut self,
        now: Now,
        session: Seq,
        turn: StartTurn,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) -> Result<Reply, Error> {
        let session = self.by_seq(session).ok_or_else(removed)?;
        let turn_id = turn.expected_turn_id.unwrap_or_default();
        match result {
            Ok(_) => {
                let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
                let (turn_id_too, (input, whole), key) = (turn_id.clone(), cut::input(&turn.input), turn.key);
                let steered = Event::TurnSteered { session_id, thread_id, turn_id, input, key };
                let seq = self.emit_cut(now, steered, whole, out);
                let session = self.by_seq(session.seq).unwrap_or(session);
                Ok(Reply::Turn { session: self.seen(&session), turn_id: turn_id_too, seq })
            }
            Err(error) if error.is_other_turn() => {
                Err(conflict(&session, format!("app-server refused the steering: {}", error.message)))
            }
            Err(error) => Err(error.into_error("the steering")),
        }
    }

    /// Ends a session's turn on codexd's own word.
    pub(crate) fn interrupt_turn(&mut self, now: Now, session: Seq, reason: &str, out: &mut Vec<Effect>) {
        let Some(session) = self.by_seq(session).filter(|session| session.turn.is_some()) else { return };
        let turn_id = session.turn.as_ref().and_then(|turn| turn.id()).map(str::to_owned);
        self.flush(now, &session.thread_id, out);
        self.lose_approvals(now, |asked| asked.session_id == session.id, reason, out);
        let of_it = |item: &OpenItem| turn_id.is_none() || item.turn_id == turn_id;
        self.close_items(now, session.seq, of_it, reason, out);
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        let reason = reason.to_owned();
        self.emit(now, Event::TurnInterrupted { session_id, thread_id, turn_id, reason }, out);
        self.turn_ended(session.seq);
    }

    /// The session of which this is the current or the last turn.
    pub(crate) fn turn_seen(&self, id: &str) -> Option<Arc<Session>> {
        self.state.session_of_turn(id).cloned()
    }

    /// Answers now if the turn has ended, else when it has, or after `wait`.
    pub(crate) fn wait_for_turn(
        &mut self,
        now: Now,
        caller: Caller,
        turn_id: String,
        wait: Duration,
        out: &mut Vec<Effect>,
    ) {
        let session = self.turn_seen(&turn_id);
        let last = session.as_ref().and_then(|session| session.last.as_ref());
        if last.is_some_and(|last| last.status.runs()) && !self.live.supervision.is_stopping() {
            let until = now.mono + wait;
            self.live.waiting.insert(caller.id, Waiting { turn_id, until });
        } else {
            self.reply(caller.id, Ok(Reply::TurnSeen(session)), out);
        }
    }

    /// An event that ends a turn is what some wait for.
    pub(crate) fn tell_waiting(&mut self, event: &Event, out: &mut Vec<Effect>) {
        if let Some(ended) = event.ends_turn() {
            self.show_waiting(|waiting| waiting.turn_id == ended, out);
        }
    }

    /// Those who have waited for as long as they wanted see the turn as it is.
    pub(crate) fn waits_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.show_waiting(|waiting| waiting.until <= now.mono, out);
    }

    /// Those of whom `which` is true wait no more.
    pub(crate) fn show_waiting(&mut self, which: impl Fn(&Waiting) -> bool, out: &mut Vec<Effect>) {
        for (id, waiting) in self.live.waiting.extract_if(.., |_, waiting| which(waiting)).collect::<Vec<_>>()
        {
            let seen = self.turn_seen(&waiting.turn_id);
            self.reply(id, Ok(Reply::TurnSeen(seen)), out);
        }
    }
}

fn conflict(session: &Session, message: String) -> Error {
    let current = session.turn.as_ref().and_then(|turn| turn.id());
    Error::new(error::CONFLICT, message).details(json!({ "currentTurnId": current }))
}

/// A turn may end before the answer for it comes, and its session go to make room for another.
fn removed() -> Error {
    Error::new(error::NOT_FOUND, "The session was removed before app-server answered, to make room.")
}
