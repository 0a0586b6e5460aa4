//! The step's part for sessions: made, and settled when a child or codexd has died.

use std::sync::Arc;

use common::Error;
use common::error;
use common::log::Seq;
use common::time::Now;
use common::wire::{self, invalid};
use serde_json::{Map, Value, json};

use crate::app_server::protocol::{self, RpcError};
use crate::core::{Caller, Core, Create, Effect, Epoch};
use crate::event::{Event, SessionCreated};
use crate::history::Doubt;
use crate::requests::Ask;
use crate::state::Session;

/// The parameters that only a thread begun anew needs; the others are restated from what the child answered.
const ORIGIN: [&str; 4] = ["baseInstructions", "developerInstructions", "config", "personality"];

/// Sessions that are kept: bounds the memory, each checkpoint and the registry document.
pub const MAX_SESSIONS: usize = 20_000;

/// What a turn that runs may keep though there is no room: a day's work has some megabytes.
pub const MAX_RUNNING_TRANSCRIPT_BYTES: u64 = 64 * 1024 * 1024;

impl Core {
    /// Asks the child for the thread of a new session.
    pub(crate) fn create_session(
        &mut self,
        now: Now,
        epoch: Epoch,
        caller: Caller,
        create: Box<Create>,
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = self.room() {
            return self.reply(caller.id, Err(error), out);
        }
        let request = match &create.thread_id {
            None => protocol::thread_start(&create),
            Some(thread_id) => match self.unheld(thread_id, None) {
                Ok(()) => protocol::thread_adopt(&create, thread_id),
                Err(error) => return self.reply(caller.id, Err(error), out),
            },
        };
        self.ask(now, epoch, request, Ask::Create { caller, create }, out);
    }

    /// The child has answered for a new session.
    pub(crate) fn created(
        &mut self,
        now: Now,
        caller: Caller,
        create: Create,
        result: Result<Value, RpcError>,
        out: &mut Vec<Effect>,
    ) {
        let outcome = result.map_err(|error| refused(&create, error)).and_then(|answer| {
            let thread_id = protocol::thread_id(&answer)?;
            // Two callers may have named the same thread while neither had it yet.
            self.unheld(&thread_id, None)?;
            // Nor need the room that there was then still be there.
            self.room()?;
            // Nobody may get by silence, or by `config`, what may not be asked for.
            let settings = protocol::settings(&answer);
            let beyond = |(field, why)| invalid(field, format!("Field `{field}`: {field} {why}."));
            self.birth.rules.ceilings.of_session(&settings).map_err(beyond)?;
            Ok((thread_id, answer, settings))
        });
        let outcome = outcome.and_then(|(thread_id, answer, settings)| {
            self.make_room(now, out);
            let session_id = self.state.id("session", self.birth.next);
            let created = SessionCreated {
                session_id: session_id.clone(),
                thread_id,
                purpose: create.purpose,
                ephemeral: answer["thread"]["ephemeral"].as_bool().unwrap_or(false),
                metadata: create.metadata,
                settings,
                origin: origin(&create.params),
                key: create.key,
            };
            let seq = self.emit(now, Event::SessionCreated(Box::new(created)), out);
            self.live.loaded.insert(seq);
            Ok(self.session_reply(&self.find(&session_id)?))
        });
        self.reply(caller.id, outcome, out);
    }

    /// Fails if an open session other than `but` has this thread.
    pub(crate) fn unheld(&self, thread_id: &str, but: Option<Seq>) -> Result<(), Error> {
        let holder = self.state.session_of_thread(thread_id); // or its turn still runs
        let Some(holder) = holder.filter(|holder| Some(holder.seq) != but) else { return Ok(()) };
        let message = format!("threadId {thread_id} is held by session {}.", holder.id);
        Err(Error::new(error::CONFLICT, message).details(json!({ "sessionId": holder.id })))
    }

    /// The session that goes first: the oldest closed one, else the oldest without a turn.
    fn dispensable(&self) -> Option<Arc<Session>> {
        let idle =
            |session: &&Arc<Session>| session.turn.is_none() && !self.live.starting.contains(&session.seq);
        let closed = self.state.sessions().find(|session| !session.open && idle(session));
        closed.or_else(|| self.state.sessions().find(idle)).cloned()
    }

    /// Fails if no session can be made, since none can go for it.
    fn room(&self) -> Result<(), Error> {
        if self.state.session_count() < self.max_sessions || self.dispensable().is_some() {
            return Ok(());
        }
        let message =
            format!("There are {} sessions, and all of them have a turn that runs.", self.max_sessions);
        Err(Error::new(error::TOO_MANY_REQUESTS, message).header("Retry-After", "10"))
    }

    fn make_room(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.state.session_count() < self.max_sessions {
            return;
        }
        let Some(session) = self.dispensable() else { return };
        let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
        if session.open {
            let reason =
                format!("there may be {} sessions, and this is the oldest idle one", self.max_sessions);
            let closed =
                Event::SessionClosed { session_id: session_id.clone(), thread_id: thread_id.clone(), reason };
            self.emit(now, closed, out);
        }
        self.emit(now, Event::SessionRemoved { session_id: session_id.clone(), thread_id }, out);
        out.push(Effect::Forget { session_id });
        self.live.loaded.remove(&session.seq);
    }

    /// Lets transcripts go, to make room; that of a turn that runs only when it alone is far too large.
    pub(crate) fn remove_transcripts(&mut self, now: Now, chosen: Vec<(String, u64)>, out: &mut Vec<Effect>) {
        for (session_id, bytes) in chosen {
            let goes =
                |session: &&Arc<Session>| session.turn.is_none() || bytes > MAX_RUNNING_TRANSCRIPT_BYTES;
            let Some(session) = self.state.session(&session_id).filter(goes) else {
                continue; // something has begun since, or it is gone
            };
            let thread_id = session.thread_id.clone();
            let removed = Event::TranscriptRemoved { session_id: session_id.clone(), thread_id, bytes };
            self.emit(now, removed, out);
            out.push(Effect::Forget { session_id });
        }
    }

    /// The child is gone, or codexd was: what ran is ended or put in doubt, and what was never stored is lost.
    pub(crate) fn settle(&mut self, now: Now, reason: &str, gone: Gone, out: &mut Vec<Effect>) {
        for notice in self.live.deltas.flush_all() {
            self.emit(now, Event::App(notice), out);
        }
        self.lose_approvals(now, |_| true, reason, out);
        self.live.approvals.clear();
        self.live.interrupts.clear();
        self.live.late_steers.clear();
        if gone != Gone::Perhaps {
            self.live.turn_deadlines.clear();
        }
        let doubts = std::mem::take(&mut self.live.doubts);
        for session in self.state.busy().cloned().collect::<Vec<_>>() {
            let asked = session.turn.as_ref().map(|turn| turn.id().is_none());
            // Something of it was missed, its end perhaps; or of an earlier child it is still not known.
            let doubt = doubts.get(&session.seq);
            match asked {
                None => {}
                Some(_) if gone == Gone::Perhaps => self.doubt_lost(now, session.seq),
                Some(asked) if (asked || gone == Gone::Unseen || doubt.is_some()) && !session.ephemeral => {
                    self.doubt_dead(now, session.seq, doubt.and_then(Doubt::dead).unwrap_or(reason));
                }
                Some(_) => self.interrupt_turn(now, session.seq, reason, out),
            }
            // Even of what may go on: its end may be told while nobody listens.
            self.close_items(now, session.seq, |_| true, reason, out);
            if gone == Gone::Perhaps {
                self.hold_interrupt(now, session.seq);
                continue;
            }
            if session.ephemeral && session.open {
                let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
                let reason = format!("ephemeral, and {reason}");
                self.emit(now, Event::SessionClosed { session_id, thread_id, reason }, out);
            }
        }
    }
}

/// In what way a child is gone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Gone {
    /// It died, and all that it said before was read.
    Seen,
    /// It died, and what it said last was lost with the codexd that read it.
    Unseen,
    /// It may live on: only the way to it is lost.
    Perhaps,
}

fn refused(create: &Create, error: RpcError) -> Error {
    match &create.thread_id {
        Some(thread_id) if error.is_unknown_thread() => Error::new(
            error::NOT_FOUND,
            format!("app-server does not know threadId {thread_id}: {}", error.message),
        ),
        _ => error.into_error("the session"),
    }
}

fn origin(params: &Map<String, Value>) -> Map<String, Value> {
    let kept = params.iter().filter(|(key, _)| ORIGIN.contains(&key.as_str()));
    wire::object_of(kept.map(|(key, value)| (key, value.clone())))
}
