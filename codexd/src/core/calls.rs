//! What callers may want of the core, and what they get.

use std::sync::Arc;
use std::time::Duration;

use common::log::Seq;
use common::time::Timestamp;
use serde_json::{Map, Value};

use crate::state::{Approval, ChildSeen, Daemon, Key, Session, State};

/// What callers may want.
#[derive(Debug)]
pub enum Call {
    /// Whether work is taken.
    Readiness,
    /// The whole, in short.
    Status,
    /// A page of sessions.
    Sessions(Page),
    /// One session.
    Session { id: String },
    /// One turn; with `wait`, once it has ended, or as it is then.
    Turn { id: String, wait: Duration },
    /// What the agent waits for.
    Approvals,
    /// The answer to that.
    Answer(Answer),
    /// The end of a session's turn.
    Interrupt { id: String },
    /// The end of a session.
    Close { id: String },
    /// Something that needs the child.
    Work(Work),
}

/// What needs the child.
#[derive(Debug)]
pub enum Work {
    /// A new session.
    Create(Box<Create>),
    /// A turn, or more text for the one that runs.
    StartTurn(Box<StartTurn>),
    /// The child's list of models.
    Models,
}

impl Work {
    /// The caller's name for it.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Work::Create(create) => create.key.as_ref(),
            Work::StartTurn(turn) => turn.key.as_ref(),
            Work::Models => None,
        }
    }
}

/// An answer to what the agent asked.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `approval-…`.
    pub id: String,
    /// What was said.
    pub given: Given,
}

/// What may be said to an agent that asks.
#[derive(Clone, Debug)]
pub enum Given {
    /// A word.
    Decision(String),
    /// By the id of each question.
    Answers(Map<String, Value>),
}

/// The newest sessions that fit.
#[derive(Clone, Debug)]
pub struct Page {
    /// Open or closed ones alone.
    pub open: Option<bool>,
    /// Those with this purpose alone.
    pub purpose: Option<String>,
    /// Those that were created before this event.
    pub before: Option<Seq>,
    /// How many at most.
    pub limit: usize,
}

/// A session to be made.
#[derive(Clone, Debug)]
pub struct Create {
    /// `duplex` or `worker`.
    pub purpose: String,
    /// The caller's own.
    pub metadata: Value,
    /// A thread of the child's to go on with, instead of a new one.
    pub thread_id: Option<String>,
    /// What the child is told, in its own words.
    pub params: Map<String, Value>,
    /// The caller's name for the request.
    pub key: Option<Key>,
}

/// A turn to be started.
#[derive(Clone, Debug)]
pub struct StartTurn {
    /// Where.
    pub session_id: String,
    /// The input items.
    pub input: Value,
    /// The running turn that takes the input, instead of a new one.
    pub expected_turn_id: Option<String>,
    /// What else the child is told, in its own words.
    pub params: Map<String, Value>,
    /// How long it may run.
    pub timeout_ms: Option<u64>,
    /// The caller's name for the request.
    pub key: Option<Key>,
}

/// What callers get; snapshots that their own threads make text of.
#[derive(Debug)]
pub enum Reply {
    /// Work is taken.
    Ready,
    /// The whole, in short.
    Status(Box<Snapshot>),
    /// A page of sessions, oldest first.
    Sessions {
        /// The page.
        sessions: Vec<Arc<Session>>,
        /// Where the page of older ones ends.
        next_cursor: Option<Seq>,
        /// The child's pid, if one runs.
        child_pid: Option<u32>,
    },
    /// One session, and what its agent waits for.
    Session { seen: SessionSeen, pending: Vec<Arc<Approval>> },
    /// A turn was taken, with the event `seq`.
    Turn { session: SessionSeen, turn_id: String, seq: Seq },
    /// A turn as it stands, if it is the current or the last one of a session.
    TurnSeen(Option<Arc<Session>>),
    /// What the agent waits for, oldest first.
    Approvals(Vec<Arc<Approval>>),
    /// An approval that was answered, and how.
    Answered { approval: Arc<Approval>, decision: Option<String>, answers: Option<Value> },
    /// What the child answered.
    Json(Value),
}

/// A session and the child that would serve it.
#[derive(Clone, Debug)]
pub struct SessionSeen {
    /// The session.
    pub session: Arc<Session>,
    /// The child's pid, if one runs.
    pub child_pid: Option<u32>,
}

/// What `status` shows of the state.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The process.
    pub daemon: Daemon,
    /// The child.
    pub child: ChildSeen,
    /// The time of the last event.
    pub at: Timestamp,
    /// The newest sessions, oldest first.
    pub sessions: Vec<Arc<Session>>,
    /// How many there are.
    pub count: usize,
    /// How many take turns.
    pub active: usize,
    /// The numbers of the recent events.
    pub recent: Vec<Seq>,
}

/// How many sessions a status lists.
pub const STATUS_SESSIONS: usize = 200;

impl Snapshot {
    /// Takes what a status shows, with at most `sessions` sessions.
    pub fn new(state: &State, sessions: usize) -> Snapshot {
        let mut newest: Vec<_> = state.sessions().rev().take(sessions).cloned().collect();
        newest.reverse();
        Snapshot {
            daemon: state.daemon().clone(),
            child: state.child().clone(),
            at: state.at(),
            sessions: newest,
            count: state.session_count(),
            active: state.open_count(),
            recent: state.recent().collect(),
        }
    }
}
