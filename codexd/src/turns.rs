//! The step's part for turns: admitted, loaded for, started, settled.

use std::sync::Arc;
use std::time::Duration;

use common::Error;
use common::error;
use common::log::Seq;
use common::time::Now;
use serde_json::{Value, json};

use crate::app_server::protocol::{self, RpcError};
use crate::core::{Ask, Caller, Core, Effect, Epoch, Reply, StartTurn};
use crate::event::Event;
use crate::state::{Session, Turn, TurnStatus};

/// How soon a child that could not tell its history is asked for it again.
pub const HISTORY_RETRY: Duration = Duration::from_secs(1);

/// What is to be done about a turn that somebody wants.
enum Admit {
    /// Ask the child for it.
    Start,
    /// Load the session's thread first.
    Load,
    /// Put its input into the turn that runs.
    Steer(String),
}

impl Core {
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
            Err(error) => out.push(Effect::Reply { id: caller.id, outcome: Err(error) }),
            Ok((Admit::Start, session)) => self.request_turn(now, epoch, caller, &session, &turn, out),
            Ok((Admit::Load, session)) => {
                self.live.starting.insert(session.seq);
                let load = Ask::Load { caller, session: session.seq, turn, anew: false };
                self.ask(now, epoch, protocol::thread_resume(&session), load, out);
            }
            Ok((Admit::Steer(turn_id), session)) => {
                let request = protocol::turn_steer(&session, &turn_id, &turn.input);
                self.ask(now, epoch, request, Ask::Steer { caller, session: session.seq, turn_id }, out);
            }
        }
    }

    /// Pure: what state and child allow.
    fn admit(&self, session: &Session, turn: &StartTurn) -> Result<Admit, Error> {
        let current = session.turn.as_ref().and_then(|turn| turn.id());
        let conflict = |message: String| {
            Error::new(error::CONFLICT, message).details(json!({ "currentTurnId": current }))
        };
        if !session.open {
            return Err(conflict(format!("Session {} is closed.", session.id)));
        }
        let busy = session.turn.is_some() || self.live.starting.contains(&session.seq);
        match &turn.expected_turn_id {
            Some(expected) if current == Some(expected) => Ok(Admit::Steer(expected.clone())),
            Some(expected) => Err(conflict(format!(
                "expectedTurnId {expected} is not the running turn of session {}.",
                session.id
            ))),
            // The child would take the input into the running turn without a word.
            None if busy => Err(conflict(format!("Session {} has a turn that runs.", session.id))),
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
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        let request = protocol::turn_start(session, &client_turn_id, turn);
        let changes = Box::new(protocol::changes(&turn.params));
        self.emit(now, Event::TurnRequested { session_id, thread_id, client_turn_id, changes }, out);
        self.ask(now, epoch, request, Ask::Turn { caller, session: session.seq }, out);
    }

    /// The session's thread is loaded, or is not.
    pub(crate) fn load_answered(
        &mut self,
        now: Now,
        epoch: Epoch,
        (caller, session, turn, anew): (Caller, Seq, Box<StartTurn>, bool),
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        self.live.starting.remove(&session);
        let Some(session) = self.by_seq(session) else { return };
        let answer = match result {
            Ok(answer) => answer,
            // The child stores a thread with its first turn; one without any is begun anew.
            Err(error) if !anew && session.last.is_none() && error.is_unknown_thread() => {
                self.live.starting.insert(session.seq);
                let load = Ask::Load { caller, session: session.seq, turn, anew: true };
                return self.ask(now, epoch, protocol::thread_restart(&session), load, out);
            }
            Err(error) => {
                let outcome = Err(error.into_error("to load the session's thread"));
                return out.push(Effect::Reply { id: caller.id, outcome });
            }
        };
        let thread_id = match protocol::thread_id(&answer) {
            Ok(thread_id) => thread_id,
            Err(error) => return out.push(Effect::Reply { id: caller.id, outcome: Err(error) }),
        };
        // What the session had stands; the child's word counts only where nothing was known.
        let mut settings = protocol::settings(&answer);
        let mut turn = turn;
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
        let Some(session) = self.by_seq(session) else { return };
        let outcome = self.take_turn(now, &session, result, out).and_then(|(turn_id, seq)| {
            let session = self.find(&session.id)?;
            Ok(Reply::Turn { session: self.seen(&session), turn_id, seq })
        });
        out.push(Effect::Reply { id: caller.id, outcome });
    }

    /// The child answered a `turn/start` whose caller has given up.
    pub(crate) fn turn_answered_late(
        &mut self,
        now: Now,
        session: Seq,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.by_seq(session) else { return };
        let _ = self.take_turn(now, &session, result, out); // the log knows; nobody waits for it
    }

    /// Writes down what the child answered to `turn/start`.
    fn take_turn(
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
                Ok((turn_id, self.emit(now, accepted, out)))
            }
            Err(error) => {
                let reason = error.message.clone();
                self.emit(now, Event::TurnRefused { session_id, thread_id, reason }, out);
                Err(error)
            }
        }
    }

    /// Asks the child what became of the `turn/start` request `doubt`.
    pub(crate) fn ask_history(&mut self, now: Now, doubt: u64, out: &mut Vec<Effect>) {
        let (Some(session), Some(epoch)) = (self.in_doubt(doubt), self.live.child.epoch()) else { return };
        let request = match self.live.no_turns_list {
            false => protocol::newest_turn(&session),
            true => protocol::whole_thread(&session),
        };
        self.ask(now, epoch, request, Ask::History { doubt }, out);
    }

    /// The child's history has four answers: done, running, absent, and asked in vain, which is asked again.
    pub(crate) fn history(
        &mut self,
        now: Now,
        epoch: Epoch,
        doubt: u64,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.in_doubt(doubt) else { return };
        let newest = match result {
            Ok(answer) => protocol::past_turn(&answer),
            Err(error) if error.is_no_turn_yet() => None,
            Err(error) if error.is_unknown_method() && !self.live.no_turns_list => {
                self.live.no_turns_list = true;
                return self.ask(now, epoch, protocol::whole_thread(&session), Ask::History { doubt }, out);
            }
            Err(_) => return self.ask_again_later(now, doubt),
        };
        self.live.doubtful.remove(&doubt);
        let Some(Turn::Requested { client_turn_id: ours, .. }) = &session.turn else { return };
        let ours = |turn: &protocol::PastTurn| match &turn.client_turn_id {
            Some(theirs) => theirs == ours,
            // A version that keeps no mark: what nobody here knows must be the one that was just asked for.
            None => session.last.as_ref().is_none_or(|last| last.id != turn.id),
        };
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        let Some(turn) = newest.filter(ours) else {
            let reason = "app-server did not take it".to_owned();
            self.emit(now, Event::TurnRefused { session_id, thread_id, reason }, out);
            return;
        };
        let accepted = Event::TurnAccepted {
            session_id: session_id.clone(),
            thread_id: thread_id.clone(),
            turn_id: turn.id.clone(),
        };
        self.emit(now, accepted, out);
        if turn.status != TurnStatus::InProgress {
            let settled = Event::TurnSettled { session_id, thread_id, turn_id: turn.id, status: turn.status };
            self.emit(now, settled, out);
        }
    }

    fn ask_again_later(&mut self, now: Now, doubt: u64) {
        // A request that was never sent is never answered, and what is not answered is asked again.
        self.live.pend(Ask::History { doubt }, now.mono + HISTORY_RETRY);
    }

    /// The session whose `turn/start` is in doubt, if it still is: the answer may have come after all.
    fn in_doubt(&self, doubt: u64) -> Option<Arc<Session>> {
        self.by_seq(*self.live.doubtful.get(&doubt)?)
    }

    /// The child took more input into the running turn, or did not.
    pub(crate) fn steered(
        &mut self,
        now: Now,
        caller: Caller,
        session: Seq,
        turn_id: String,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.by_seq(session) else { return };
        let outcome = match result {
            Ok(_) => {
                let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
                let steered = Event::TurnSteered { session_id, thread_id, turn_id: turn_id.clone() };
                let seq = self.emit(now, steered, out);
                Ok(Reply::Turn { session: self.seen(&session), turn_id, seq })
            }
            Err(error) => Err(error.into_error("the steering")),
        };
        out.push(Effect::Reply { id: caller.id, outcome });
    }

    /// Ends a session's turn on codexd's own word.
    pub(crate) fn interrupt_turn(&mut self, now: Now, session: Seq, reason: &str, out: &mut Vec<Effect>) {
        let Some(session) = self.by_seq(session).filter(|session| session.turn.is_some()) else { return };
        let turn_id = session.turn.as_ref().and_then(|turn| turn.id()).map(str::to_owned);
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        let reason = reason.to_owned();
        self.emit(now, Event::TurnInterrupted { session_id, thread_id, turn_id, reason }, out);
    }
}
