//! What the log says: sessions, their turns, the child as last seen.
//!
//! Only `apply` changes it, live and in replay alike; its fields are private to this file, so the compiler holds that.
//! Time in it is the event's time. It is cheap to clone, so documents and answers take snapshots.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

pub use approval::{Approval, Approvals};
pub use common::keys::Key;
pub use keys::{Keys, Outcome};
pub use session::{LastTurn, OpenItem, Session, Settings, Stage, Turn, TurnStatus};

use crate::event::{Event, Notice, Record, SessionCreated};

mod approval;
mod keys;
mod session;

/// How many events `recentEvents` of the status holds.
pub const RECENT_EVENTS: usize = 200;
/// How many events a session read shows.
pub const SESSION_EVENTS: usize = 50;

/// Everything that outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    log_id: String,
    seq: Seq,
    at: Timestamp,
    daemon: Daemon,
    child: ChildSeen,
    #[serde(with = "shared")]
    sessions: BTreeMap<Seq, Arc<Session>>,
    recent: VecDeque<Seq>,
    #[serde(default)]
    approvals: Approvals,
    #[serde(default)]
    keys: Keys,
    /// Sessions that take turns or have one, by the child's name for them; made from `sessions`.
    #[serde(skip)]
    threads: BTreeMap<String, Seq>,
    /// Sessions by their last turn; made from `sessions`.
    #[serde(skip)]
    turns: BTreeMap<String, Seq>,
    /// How many take turns; made from `sessions`.
    #[serde(skip)]
    open: usize,
    /// How many have a turn that has not ended; made from `sessions`.
    #[serde(skip)]
    running: usize,
    /// Sessions whose turn has not ended, or that have open items; made from `sessions`.
    #[serde(skip)]
    busy: BTreeSet<Seq>,
}

/// The process that owns the state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its number; none if there never was one.
    pub pid: Option<u32>,
    /// What tells it from a later process with that number.
    pub process_mark: String,
    /// When the process began.
    pub process_started_at: Option<Timestamp>,
    /// Its version.
    pub version: String,
    /// When it took up the state.
    pub started_at: Option<Timestamp>,
    /// It has not said that it stops.
    pub started: bool,
}

/// The child as the log last saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChildSeen {
    /// Counts the children of this state; 0 before the first.
    pub epoch: u64,
    /// What it was last known to do.
    pub status: ChildStatus,
    /// While it runs.
    pub pid: Option<u32>,
    /// What tells it from a later process with that number.
    pub process_mark: Option<String>,
    /// The version of the CLI, by its own word.
    pub version: Option<String>,
    /// Whether the model's provider wants a login that it does not have.
    pub login_required: Option<bool>,
    /// What is wrong with it, though it takes work.
    #[serde(default)]
    pub warning: Option<String>,
    /// Why it ended, or does not come up.
    pub last_error: Option<String>,
    /// How many children have ended without being asked to.
    pub restarts: u64,
}

/// The child's status as the wire has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChildStatus {
    /// None was started yet.
    #[default]
    Idle,
    /// It runs and has not finished the handshake.
    Starting,
    /// It takes work.
    Running,
    /// It ended; another is started soon.
    Backoff,
    /// It ended because codexd stops.
    Stopped,
    /// It ended too often; another is started once a minute.
    Failed,
}

impl State {
    /// The name of the log; empty until it has one.
    pub fn log_id(&self) -> &str {
        &self.log_id
    }

    /// The number of the last event that was applied.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The time of that event.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The process that owns the state.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// The child as last seen.
    pub fn child(&self) -> &ChildSeen {
        &self.child
    }

    /// All sessions, oldest first.
    pub fn sessions(&self) -> impl DoubleEndedIterator<Item = &Arc<Session>> {
        self.sessions.values()
    }

    /// How many of them take turns.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// How many of all have a turn that has not ended.
    pub fn running_count(&self) -> usize {
        self.running
    }

    /// The sessions that have something that a death would end, oldest first.
    pub fn busy(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.busy.iter().filter_map(|seq| self.sessions.get(seq))
    }

    /// What the agent waits for.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// What requests with a key came to.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The session of which this is the current or the last turn.
    pub fn session_of_turn(&self, turn_id: &str) -> Option<&Arc<Session>> {
        self.sessions.get(self.turns.get(turn_id)?)
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The session with this id. The number at the id's end is where it stands, so nothing is searched.
    pub fn session(&self, id: &str) -> Option<&Arc<Session>> {
        let seq = id.rsplit_once('-')?.1.parse().ok()?;
        self.sessions.get(&seq).filter(|session| session.id == id)
    }

    /// The session that the event `seq` created.
    pub fn session_by_seq(&self, seq: Seq) -> Option<&Arc<Session>> {
        self.sessions.get(&seq)
    }

    /// The session that takes turns, or has one, and that the child knows as `thread_id`.
    pub fn session_of_thread(&self, thread_id: &str) -> Option<&Arc<Session>> {
        self.sessions.get(self.threads.get(thread_id)?)
    }

    /// The newest events that a reader of the status is shown, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = Seq> {
        self.recent.iter().copied()
    }

    /// The id of the session or approval that the event `seq` of this log would create.
    pub fn id(&self, kind: &str, seq: Seq) -> String {
        format!("{kind}-{}-{seq}", self.log_id.get(..8).unwrap_or("00000000"))
    }

    /// What a loaded checkpoint does not carry.
    pub fn index(mut self) -> State {
        let marks: Vec<_> = self.sessions.values().map(|session| (session.seq, Marks::of(session))).collect();
        for (seq, marks) in marks {
            self.mark(seq, None, Some(marks));
        }
        self
    }

    /// Takes one event in. The only way by which the state changes.
    pub fn apply(&mut self, record: &Record) {
        (self.seq, self.at) = (record.seq, record.at);
        let session_id = match &record.event {
            Event::LogCreated { log_id } => {
                self.log_id.clone_from(log_id);
                None
            }
            Event::DaemonStarted { pid, process_mark, process_started_at, version } => {
                self.daemon = Daemon {
                    pid: Some(*pid),
                    process_mark: process_mark.clone(),
                    process_started_at: Some(*process_started_at),
                    version: version.clone(),
                    started_at: Some(record.at),
                    started: true,
                };
                None
            }
            Event::DaemonStopping { .. } => {
                self.daemon.started = false;
                self.child.status = ChildStatus::Stopped;
                None
            }
            Event::SessionCreated(created) => {
                self.insert(record, created);
                Some(created.session_id.as_str())
            }
            Event::App(notice) if notice.is_noise() => return,
            event => match event.session_id() {
                Some(id) => {
                    self.change(id, record);
                    Some(id)
                }
                None => {
                    self.child.apply(event);
                    self.approvals.apply(record);
                    None
                }
            },
        };
        if let Some(session) = session_id.and_then(|id| self.find_mut(id)) {
            push(&mut session.recent, record.seq, SESSION_EVENTS);
        }
        push(&mut self.recent, record.seq, RECENT_EVENTS);
    }

    fn insert(&mut self, record: &Record, created: &SessionCreated) {
        if let Some(key) = &created.key {
            self.keys.remember(key, Outcome::Session(created.session_id.clone()), record.seq, record.at);
        }
        let session = Session {
            id: created.session_id.clone(),
            seq: record.seq,
            purpose: created.purpose.clone(),
            thread_id: created.thread_id.clone(),
            open: true,
            ephemeral: created.ephemeral,
            metadata: created.metadata.clone(),
            settings: created.settings.clone(),
            origin: created.origin.clone(),
            created_at: record.at,
            updated_at: record.at,
            turn: None,
            last: None,
            open_items: VecDeque::new(),
            recent: VecDeque::new(),
            transcript_from: 0,
        };
        self.mark(record.seq, None, Some(Marks::of(&session)));
        self.sessions.insert(record.seq, Arc::new(session));
    }

    fn change(&mut self, id: &str, record: &Record) {
        self.approvals.apply(record);
        let Some(session) = self.session(id) else { return };
        let (seq, before) = (session.seq, Marks::of(session));
        let old = |notice: &Notice| notice.turn_id.as_deref().is_some_and(|id| session.is_over(id));
        let old = matches!(&record.event, Event::App(notice) if old(notice));
        let asked = !old && session.turn.as_ref().is_some_and(|turn| turn.id().is_none());
        let key = session.turn.as_ref().and_then(|turn| turn.key.clone());
        self.settle_key(key.as_deref(), asked, record);
        if let Event::SessionRemoved { .. } = record.event {
            self.sessions.remove(&seq);
            return self.mark(seq, Some(before), None);
        }
        if let Some(session) = self.find_mut(id) {
            session.apply(record);
            let after = Marks::of(session);
            if before != after {
                self.mark(seq, Some(before), Some(after));
            }
        }
    }

    /// Keeps what is made from the sessions, which a checkpoint does not carry.
    fn mark(&mut self, seq: Seq, before: Option<Marks>, after: Option<Marks>) {
        if let Some(Marks { thread_id, turn_id, open, runs, .. }) = before {
            // Somebody else may have come to serve the thread since.
            if self.threads.get(&thread_id) == Some(&seq) {
                self.threads.remove(&thread_id);
            }
            turn_id.and_then(|turn_id| self.turns.remove(&turn_id));
            self.busy.remove(&seq);
            self.open -= usize::from(open);
            self.running -= usize::from(runs);
        }
        if let Some(Marks { thread_id, turn_id, open, runs, serves, busy }) = after {
            if serves {
                self.threads.insert(thread_id, seq);
            }
            turn_id.and_then(|turn_id| self.turns.insert(turn_id, seq));
            if busy {
                self.busy.insert(seq);
            }
            self.open += usize::from(open);
            self.running += usize::from(runs);
        }
    }

    /// Remembers what a request with a key comes to. `key` is that of the session's turn before the event, and `asked`
    /// says that the child had not answered for it.
    fn settle_key(&mut self, key: Option<&str>, asked: bool, record: &Record) {
        let turn = |session_id: &String, turn_id: &String| Outcome::Turn {
            session_id: session_id.clone(),
            turn_id: turn_id.clone(),
            seq: record.seq,
        };
        match (&record.event, key) {
            (Event::TurnRequested(requested), _) => {
                if let Some(key) = &requested.key {
                    self.keys.remember(key, Outcome::Asked, record.seq, record.at);
                }
            }
            (Event::TurnAccepted { session_id, turn_id, .. }, Some(hash)) => {
                self.keys.settle(hash, turn(session_id, turn_id));
            }
            // It may end before the answer that names it.
            (Event::App(notice), Some(hash)) if asked && notice.method == "turn/started" => {
                if let (Some(session_id), Some(turn_id)) = (&notice.session_id, &notice.turn_id) {
                    self.keys.settle(hash, turn(session_id, turn_id));
                }
            }
            (Event::TurnRefused { .. }, Some(hash)) => self.keys.forget(hash),
            // It may have run, so another must not.
            (Event::TurnInterrupted { .. }, Some(hash)) if asked => self.keys.settle(hash, Outcome::Unknown),
            (Event::TurnSteered { session_id, turn_id, key: Some(key), .. }, _) => {
                self.keys.remember(key, turn(session_id, turn_id), record.seq, record.at);
            }
            _ => {}
        }
    }

    fn find_mut(&mut self, id: &str) -> Option<&mut Session> {
        let seq = self.session(id)?.seq;
        self.sessions.get_mut(&seq).map(Arc::make_mut)
    }
}

impl ChildSeen {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::ChildSpawned { epoch, pid, process_mark } => {
                self.epoch = *epoch;
                self.status = ChildStatus::Starting;
                self.pid = Some(*pid);
                self.process_mark = Some(process_mark.clone());
            }
            Event::ChildConnected { epoch, .. } => {
                (self.epoch, self.status) = (*epoch, ChildStatus::Starting);
            }
            Event::ChildReady { version, login_required, warning, .. } => {
                self.warning.clone_from(warning);
                self.status = ChildStatus::Running;
                self.version.clone_from(version);
                self.login_required = Some(*login_required);
                self.last_error = None;
            }
            Event::ChildExited { epoch, reason, retry_in_ms } => {
                self.status = if retry_in_ms.is_some() { ChildStatus::Backoff } else { ChildStatus::Stopped };
                self.restarts += u64::from(retry_in_ms.is_some());
                self.end(*epoch, retry_in_ms.map(|_| reason.as_str()));
            }
            Event::ChildFailed { epoch, reason, .. } => {
                self.status = ChildStatus::Failed;
                self.restarts += 1;
                self.end(*epoch, Some(reason));
            }
            _ => {}
        }
    }

    /// Without an `error` it was asked to end.
    fn end(&mut self, epoch: u64, error: Option<&str>) {
        (self.epoch, self.pid, self.process_mark) = (epoch, None, None);
        self.last_error = error.map(str::to_owned);
    }
}

/// What of a session is found again without looking at all of them.
#[derive(PartialEq)]
struct Marks {
    thread_id: String,
    turn_id: Option<String>,
    open: bool,
    runs: bool,
    /// What the child says of its thread is about this session.
    serves: bool,
    busy: bool,
}

impl Marks {
    fn of(session: &Session) -> Marks {
        Marks {
            thread_id: session.thread_id.clone(),
            turn_id: session.last.as_ref().map(|last| last.id.clone()),
            open: session.open,
            runs: session.turn.is_some(),
            serves: session.open || session.turn.is_some(),
            busy: session.is_busy(),
        }
    }
}

/// Sessions as a list, since each knows its place.
mod shared {
    use super::{Arc, BTreeMap, Deserialize, Seq, Session};

    pub(super) fn serialize<S: serde::Serializer>(
        sessions: &BTreeMap<Seq, Arc<Session>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(sessions.values().map(AsRef::<Session>::as_ref))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Seq, Arc<Session>>, D::Error> {
        let sessions = Vec::<Session>::deserialize(deserializer)?;
        let mut by_seq = BTreeMap::new();
        by_seq.extend(sessions.into_iter().map(|session| (session.seq, Arc::new(session))));
        Ok(by_seq)
    }
}

fn push(recent: &mut VecDeque<Seq>, seq: Seq, max: usize) {
    if recent.len() == max {
        recent.pop_front();
    }
    recent.push_back(seq);
}
