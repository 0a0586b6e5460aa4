//! The step's part for turns of which nobody here knows what became: the child's own history is asked.

use std::sync::Arc;
use std::time::Duration;

use common::log::Seq;
use common::time::Now;
use serde_json::Value;

use crate::app_server::protocol::{self, PastTurn, RpcError};
use crate::core::{Core, Effect, Epoch};
use crate::event::Event;
use crate::requests::Ask;
use crate::state::{LastTurn, OpenItem, Session, Stage, Turn, TurnStatus};
use crate::supervise::Child;

/// How soon a child that could not tell its history is asked for it again.
pub const HISTORY_RETRY: Duration = Duration::from_secs(1);
/// How often it is asked about a turn that cannot run any more, before that is taken to be interrupted.
pub const HISTORY_TRIES: u32 = 5;

/// A turn of which nobody here knows what became.
pub(crate) struct Doubt {
    /// Why the turn cannot run any more; none if it may.
    dead: Option<String>,
    /// Its thread is to be loaded first, so that the child tells what becomes of it.
    rejoin: bool,
    /// Its `turn/start`, which may be answered yet.
    rpc: Option<u64>,
    tries: u32,
    /// When the child is to be asked; none while it is.
    pub(crate) ask_at: Option<Duration>,
}

impl Doubt {
    /// One that the child is to be asked about at once.
    fn new(now: Now) -> Doubt {
        Doubt { dead: None, rejoin: false, rpc: None, tries: 0, ask_at: Some(now.mono) }
    }

    /// Why the turn cannot run any more, if it cannot.
    pub(crate) fn dead(&self) -> Option<&str> {
        self.dead.as_deref()
    }
}

impl Core {
    /// A turn that ended with its child, or with codexd, in a way that nobody saw.
    pub(crate) fn doubt_dead(&mut self, now: Now, session: Seq, reason: &str) {
        self.doubt(session, Doubt { dead: Some(reason.to_owned()), ..Doubt::new(now) });
    }

    /// A turn that may go on in a child that codexd lost.
    pub(crate) fn doubt_lost(&mut self, now: Now, session: Seq) {
        self.doubt(session, Doubt { rejoin: true, ..Doubt::new(now) });
    }

    /// A turn whose `turn/start` was not answered in time.
    pub(crate) fn doubt_unanswered(&mut self, now: Now, session: Seq, rpc: u64) {
        self.doubt(session, Doubt { rpc: Some(rpc), ..Doubt::new(now) });
    }

    /// A turn that does not end as it should.
    pub(crate) fn doubt_stubborn(&mut self, now: Now, session: Seq) {
        self.doubt(session, Doubt::new(now));
    }

    /// All turns that run, since something of the child was missed.
    pub(crate) fn doubt_running(&mut self, now: Now) {
        let runs = |session: &&Arc<Session>| session.turn.as_ref().is_some_and(|turn| turn.id().is_some());
        let running: Vec<_> = self.state.busy().filter(runs).map(|session| session.seq).collect();
        for session in running {
            self.doubt_stubborn(now, session);
        }
    }

    fn doubt(&mut self, session: Seq, doubt: Doubt) {
        self.live.doubts.entry(session).or_insert(doubt);
    }

    /// Whether a call on this session should wait: what became of its turn is about to be known.
    pub(crate) fn is_settling(&self, session: Seq) -> bool {
        self.live.doubts.get(&session).is_some_and(|doubt| doubt.dead.is_some() || doubt.rejoin)
    }

    /// Asks the child about those whose time has come, as far as there is room.
    pub(crate) fn doubts_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Child::Up { epoch, .. } = self.live.child else { return };
        let due = |doubt: &Doubt| doubt.ask_at.is_some_and(|at| at <= now.mono);
        let due: Vec<_> = self.live.doubts.iter().filter(|(_, d)| due(d)).map(|(&seq, _)| seq).collect();
        for seq in due {
            let Some(session) = self.by_seq(seq).filter(|session| session.turn.is_some()) else {
                self.live.doubts.remove(&seq); // it has ended after all
                continue;
            };
            if !self.live.requests.has_room() {
                // Whoever is answered first makes room; a second is soon enough to look again.
                self.ask_at(seq, Some(now.mono + HISTORY_RETRY));
                continue;
            }
            self.ask_at(seq, None);
            let rejoin = self.live.doubts.get(&seq).is_some_and(|doubt| doubt.rejoin);
            match rejoin && !self.live.loaded.contains(&seq) {
                true => {
                    let request = protocol::thread_resume(&session);
                    self.ask(now, epoch, request, Ask::Rejoin { session: seq }, out);
                }
                false => self.ask_history(now, epoch, &session, out),
            }
        }
    }

    fn ask_at(&mut self, session: Seq, at: Option<Duration>) {
        if let Some(doubt) = self.live.doubts.get_mut(&session) {
            doubt.ask_at = at;
        }
    }

    fn ask_history(&mut self, now: Now, epoch: Epoch, session: &Session, out: &mut Vec<Effect>) {
        let request = match self.live.no_turns_list {
            false => protocol::newest_turn(session),
            true => protocol::whole_thread(session),
        };
        self.ask(now, epoch, request, Ask::History { session: session.seq }, out);
    }

    /// The thread whose turn may still run is loaded, or is not.
    pub(crate) fn rejoined(
        &mut self,
        now: Now,
        epoch: Epoch,
        session: Seq,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.by_seq(session).filter(|session| session.turn.is_some()) else { return };
        match result {
            Ok(_) => {
                self.live.loaded.insert(session.seq);
                self.ask_history(now, epoch, &session, out);
            }
            // Who has none of it cannot run it.
            Err(error) if error.is_unknown_thread() => self.settle_turn(now, &session, None, out),
            Err(error) => self.ask_again_later(now, session.seq, Some(&error), out),
        }
    }

    /// The child's history has four answers: done, running, absent, and asked in vain, which is asked again.
    pub(crate) fn history(
        &mut self,
        now: Now,
        epoch: Epoch,
        session: Seq,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(session) = self.by_seq(session).filter(|session| session.turn.is_some()) else {
            self.live.doubts.remove(&session);
            return;
        };
        if !self.live.doubts.contains_key(&session.seq) {
            return; // its answer came after all
        }
        let newest = match result {
            Ok(answer) => protocol::past_turn(&answer),
            Err(error) if error.is_no_turn_yet() => None,
            Err(error) if error.is_unknown_method() && !self.live.no_turns_list => {
                self.live.no_turns_list = true;
                return self.ask_history(now, epoch, &session, out);
            }
            Err(error) => return self.ask_again_later(now, session.seq, Some(&error), out),
        };
        self.settle_turn(now, &session, newest, out);
    }

    /// It is not known: asked again, but not for ever about a turn that cannot run.
    pub(crate) fn ask_again_later(
        &mut self,
        now: Now,
        session: Seq,
        error: Option<&RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let Some(doubt) = self.live.doubts.get_mut(&session) else { return };
        doubt.tries += 1;
        doubt.ask_at = Some(now.mono + HISTORY_RETRY);
        let Some(dead) = doubt.dead.clone().filter(|_| doubt.tries >= HISTORY_TRIES) else { return };
        let why = error.map_or("no answer", |error| error.message.as_str());
        let reason = format!("{dead}, and app-server cannot tell its history: {why}");
        self.settled(session);
        self.interrupt_turn(now, session, &reason, out);
    }

    /// Holds what State knows of the turn against the newest one in the child's history.
    fn settle_turn(&mut self, now: Now, session: &Session, newest: Option<PastTurn>, out: &mut Vec<Effect>) {
        let (Some(turn), Some(doubt)) = (&session.turn, self.live.doubts.get(&session.seq)) else { return };
        let dead = doubt.dead.clone();
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        let Some(past) = newest.filter(|past| is_ours(session, turn, past)) else {
            self.settled(session.seq);
            return match turn.id() {
                // Of an ephemeral thread nothing is kept that could tell.
                None if !session.ephemeral => {
                    let reason = "app-server did not take it".to_owned();
                    self.emit(now, Event::TurnRefused { session_id, thread_id, reason }, out);
                    self.turn_ended(session.seq);
                }
                _ => {
                    let reason = dead.unwrap_or_else(|| "app-server does not know it".to_owned());
                    self.interrupt_turn(now, session.seq, &reason, out);
                }
            };
        };
        self.settled(session.seq);
        if turn.id().is_none() {
            let (session_id, thread_id) = (session_id.clone(), thread_id.clone());
            let turn_id = past.id.clone();
            self.emit(now, Event::TurnAccepted { session_id, thread_id, turn_id }, out);
            self.turn_accepted(now, session.seq);
        }
        let trusted = past.status != TurnStatus::Completed || self.trusts_completed();
        match (past.status, dead) {
            (TurnStatus::Completed | TurnStatus::Failed, dead) if trusted || dead.is_none() => {
                let of_it = |item: &OpenItem| item.turn_id.as_ref() == Some(&past.id);
                self.close_items(now, session.seq, of_it, "its turn has ended", out);
                let (turn_id, status) = (past.id, past.status);
                self.emit(now, Event::TurnSettled { session_id, thread_id, turn_id, status }, out);
                self.turn_ended(session.seq);
            }
            (TurnStatus::Interrupted, None) => {
                self.interrupt_turn(now, session.seq, "app-server's history says so", out);
            }
            (_, Some(reason)) => self.interrupt_turn(now, session.seq, &reason, out),
            // It runs.
            (_, None) => self.turn_began(now, session.seq, out),
        }
    }

    fn settled(&mut self, session: Seq) {
        self.live.doubts.remove(&session);
        self.live.stirred = true;
    }

    /// Versions before this say of a turn that was killed that it was completed.
    fn trusts_completed(&self) -> bool {
        let version = self.state.child().version.as_deref();
        version.is_none_or(|version| !protocol::is_below(version, protocol::HONEST_HISTORY))
    }

    /// A `turn/start` or `turn/steer` was answered that nobody waited for any more.
    pub(crate) fn answered_late(
        &mut self,
        now: Now,
        rpc: u64,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        if let Some((session, turn)) = self.live.late_steers.remove(&rpc) {
            let _ = self.take_steer(now, session, *turn, result, out); // the log knows; nobody waits for it
            return;
        }
        let of_it = |(_, doubt): &(&Seq, &Doubt)| doubt.rpc == Some(rpc);
        let Some(seq) = self.live.doubts.iter().find(of_it).map(|(&seq, _)| seq) else { return };
        self.settled(seq);
        if let Some(session) = self.by_seq(seq) {
            let _ = self.take_turn(now, &session, result, out); // nor for this
        }
    }
}

fn is_ours(session: &Session, turn: &Turn, past: &PastTurn) -> bool {
    match (&turn.stage, &past.client_turn_id) {
        (Stage::Requested { client_turn_id, .. }, Some(theirs)) => theirs == client_turn_id,
        // A version that keeps no mark: what nobody here knows must be the one that was just asked for.
        // It may have told its end already, before anybody told its name.
        (Stage::Requested { client_turn_id, .. }, None) => {
            let asked_at = client_turn_id.rsplit('-').next().and_then(|seq| seq.parse::<Seq>().ok());
            let since = |last: &LastTurn| asked_at.is_some_and(|seq| last.begin > seq);
            session.last.as_ref().is_none_or(|last| last.id != past.id || since(last))
        }
        (Stage::Accepted { id } | Stage::Running { id }, _) => *id == past.id,
    }
}
