//! The step's part for sessions: made, and settled when a child or codexd has died.

use std::sync::Arc;

use common::Error;
use common::error;
use common::time::Now;
use serde_json::{Map, Value, json};

use crate::app_server::protocol::{self, RpcError};
use crate::core::{Ask, Caller, Core, Create, Effect, Epoch, Reply};
use crate::event::{Event, SessionCreated};
use crate::state::Session;

/// The parameters that only a thread begun anew needs; the others are restated from what the child answered.
const ORIGIN: [&str; 4] = ["baseInstructions", "developerInstructions", "config", "personality"];

/// Sessions that are kept: bounds the memory, each checkpoint and the registry document.
pub const MAX_SESSIONS: usize = 20_000;

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
        if self.state.session_count() >= self.max_sessions && self.dispensable().is_none() {
            let message =
                format!("There are {} sessions, and all of them have a turn that runs.", self.max_sessions);
            let error = Error::new(error::TOO_MANY_REQUESTS, message).header("Retry-After", "10");
            return out.push(Effect::Reply { id: caller.id, outcome: Err(error) });
        }
        let request = match &create.thread_id {
            None => protocol::thread_start(&create),
            Some(thread_id) => match self.unheld(thread_id) {
                Ok(()) => protocol::thread_adopt(&create, thread_id),
                Err(error) => return out.push(Effect::Reply { id: caller.id, outcome: Err(error) }),
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
            self.unheld(&thread_id)?;
            Ok((thread_id, answer))
        });
        let outcome = outcome.and_then(|(thread_id, answer)| {
            self.make_room(now, out);
            let session_id = self.state.session_id(self.birth.next);
            let created = SessionCreated {
                session_id: session_id.clone(),
                thread_id,
                purpose: create.purpose,
                ephemeral: answer["thread"]["ephemeral"].as_bool().unwrap_or(false),
                metadata: create.metadata,
                settings: protocol::settings(&answer),
                origin: origin(&create.params),
            };
            let seq = self.emit(now, Event::SessionCreated(Box::new(created)), out);
            self.live.loaded.insert(seq);
            Ok(Reply::Session(self.seen(&self.find(&session_id)?)))
        });
        out.push(Effect::Reply { id: caller.id, outcome });
    }

    /// Fails if an open session has this thread.
    fn unheld(&self, thread_id: &str) -> Result<(), Error> {
        let Some(holder) = self.state.session_of_thread(thread_id) else { return Ok(()) };
        let message = format!("threadId {thread_id} is held by session {}.", holder.id);
        Err(Error::new(error::CONFLICT, message).details(json!({ "sessionId": holder.id })))
    }

    /// The session that goes first: the oldest closed one, else the oldest without a turn.
    fn dispensable(&self) -> Option<Arc<Session>> {
        let idle =
            |session: &&Arc<Session>| session.turn.is_none() && !self.live.starting.contains(&session.seq);
        let closed = self.state.sessions().find(|session| !session.open);
        closed.or_else(|| self.state.sessions().find(idle)).cloned()
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
        self.emit(now, Event::SessionRemoved { session_id, thread_id }, out);
        self.live.loaded.remove(&session.seq);
    }

    /// After the child or codexd has died: no turn runs any more, and what was never stored is lost.
    pub(crate) fn settle(&mut self, now: Now, reason: &str, out: &mut Vec<Effect>) {
        for notice in self.live.deltas.flush_all() {
            self.emit(now, Event::App(notice), out);
        }
        let touched: Vec<_> = self
            .state
            .sessions()
            .filter(|session| session.open && (session.turn.is_some() || session.ephemeral))
            .cloned()
            .collect();
        for session in touched {
            self.interrupt_turn(now, session.seq, reason, out);
            if session.ephemeral {
                let (session_id, thread_id) = (session.id.clone(), session.thread_id.clone());
                let reason = format!("ephemeral, and {reason}");
                self.emit(now, Event::SessionClosed { session_id, thread_id, reason }, out);
            }
        }
    }
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
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}
