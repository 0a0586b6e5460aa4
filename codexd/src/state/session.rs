//! One conversation and its turns, as the log has them.

use std::collections::VecDeque;

use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Event, Notice, Record, TurnRequested};

/// One conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// `session-…`.
    pub id: String,
    /// The number of the event that created it: its place in the order of creation.
    pub seq: Seq,
    /// `duplex` or `worker`.
    pub purpose: String,
    /// The child's name for it.
    pub thread_id: String,
    /// Takes turns.
    pub open: bool,
    /// Lost with its child.
    pub ephemeral: bool,
    /// The caller's own object.
    pub metadata: Value,
    /// What is restated when its thread is loaded in another child.
    pub settings: Settings,
    /// What only a thread begun anew needs; instructions leave it once a turn has ended.
    pub origin: Map<String, Value>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When anything of it last changed.
    pub updated_at: Timestamp,
    /// The turn that runs.
    pub turn: Option<Turn>,
    /// The newest turn that the child took, running or not.
    pub last: Option<LastTurn>,
    /// Items that began and have not ended, the oldest first.
    #[serde(default)]
    pub open_items: VecDeque<OpenItem>,
    /// The newest of its events that a session read shows.
    pub recent: VecDeque<Seq>,
    /// What was before this event has gone from its transcript; 0 if nothing has.
    #[serde(default)]
    pub transcript_from: Seq,
}

/// What a thread runs with, in the child's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Where commands run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// The tier of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// How hard it thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
    /// When it asks before it acts.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub approval_policy: Value,
    /// What commands may touch, as the object that the child answers with.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub sandbox: Value,
}

/// The turn of a session that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// How far it has come.
    pub stage: Stage,
    /// The deadline that its caller gave it.
    pub timeout_ms: Option<u64>,
    /// Why it is to be interrupted, once somebody wants that.
    pub interrupt: Option<String>,
    /// The hash of its caller's key.
    pub key: Option<String>,
}

/// How far a turn has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// Written down, perhaps asked of the child, not answered.
    Requested {
        /// What marks it in the child's history, where a version of it keeps that.
        client_turn_id: String,
        /// The settings it will leave behind once the child takes it.
        changes: Box<Settings>,
    },
    /// The child took it under this id.
    Accepted {
        /// The child's name for it.
        id: String,
    },
    /// The child has begun it.
    Running {
        /// The child's name for it.
        id: String,
    },
}

/// An item that began and has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenItem {
    /// The child's name for it; unique within its turn.
    pub id: String,
    /// The turn.
    pub turn_id: Option<String>,
    /// A command may outlive its turn; nothing else does.
    pub is_command: bool,
}

/// Open items of a session that are remembered; a turn has a few at once.
const MAX_OPEN_ITEMS: usize = 64;

/// The newest turn that the child took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastTurn {
    /// The child's name for it.
    pub id: String,
    /// How it stands.
    pub status: TurnStatus,
    /// Why it failed or was interrupted.
    pub error: Option<String>,
    /// The number of the first event that named it.
    #[serde(default)]
    pub begin: Seq,
    /// The number of its `turn.accepted`.
    pub accepted: Option<Seq>,
    /// The number of its `app-server.turn.completed`.
    pub completed: Option<Seq>,
}

/// A turn's status as the wire has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TurnStatus {
    /// The child took it.
    Accepted,
    /// It runs.
    InProgress,
    /// It came to its end.
    Completed,
    /// It ended with an error.
    Failed,
    /// It was ended, or ended without anybody learning how.
    #[default]
    Interrupted,
}

impl TurnStatus {
    /// Whether its end is still to come.
    pub fn runs(self) -> bool {
        matches!(self, TurnStatus::Accepted | TurnStatus::InProgress)
    }
}

impl Turn {
    /// The child's name for it, once it has one.
    pub fn id(&self) -> Option<&str> {
        match &self.stage {
            Stage::Requested { .. } => None,
            Stage::Accepted { id } | Stage::Running { id } => Some(id),
        }
    }

    /// One that the child began by itself, as it does to compact a thread.
    fn unasked(id: &str) -> Turn {
        Turn { stage: Stage::Running { id: id.to_owned() }, timeout_ms: None, interrupt: None, key: None }
    }
}

impl Settings {
    /// Takes over what `changes` says, and keeps what it is silent of.
    pub fn update(&mut self, changes: &Settings) {
        let text = |old: &mut Option<String>, new: &Option<String>| {
            if new.is_some() {
                old.clone_from(new);
            }
        };
        text(&mut self.cwd, &changes.cwd);
        text(&mut self.model, &changes.model);
        text(&mut self.model_provider, &changes.model_provider);
        text(&mut self.service_tier, &changes.service_tier);
        text(&mut self.reasoning_effort, &changes.reasoning_effort);
        for (old, new) in
            [(&mut self.approval_policy, &changes.approval_policy), (&mut self.sandbox, &changes.sandbox)]
        {
            if !new.is_null() {
                old.clone_from(new);
            }
        }
    }
}

impl Session {
    /// Whether a death of the child would end something of it.
    pub(super) fn is_busy(&self) -> bool {
        self.turn.is_some() || !self.open_items.is_empty() || (self.open && self.ephemeral)
    }

    /// Takes one of its events in.
    pub(super) fn apply(&mut self, record: &Record) {
        self.updated_at = record.at;
        match &record.event {
            Event::SessionResumed { thread_id, settings, .. } => {
                self.thread_id.clone_from(thread_id);
                self.settings.update(settings);
            }
            Event::SessionClosed { .. } => self.open = false,
            Event::TranscriptRemoved { .. } => self.transcript_from = record.seq,
            Event::TurnRequested(requested) => {
                let TurnRequested { client_turn_id, changes, timeout_ms, key, .. } = &**requested;
                self.turn = Some(Turn {
                    stage: Stage::Requested {
                        client_turn_id: client_turn_id.clone(),
                        changes: Box::new(changes.clone()),
                    },
                    timeout_ms: *timeout_ms,
                    interrupt: None,
                    key: key.as_ref().map(|key| key.hash.clone()),
                });
            }
            Event::TurnAccepted { turn_id, .. } => self.accept(turn_id, record.seq),
            Event::TurnInterruptRequested { reason, .. } => {
                if let Some(turn) = &mut self.turn {
                    turn.interrupt.get_or_insert_with(|| reason.clone());
                }
            }
            Event::TurnRefused { .. } => self.turn = None,
            Event::TurnInterrupted { turn_id, reason, .. } => {
                let end = (TurnStatus::Interrupted, Some(reason.clone()));
                self.end_turn(turn_id.as_deref(), end, None);
            }
            Event::TurnSettled { turn_id, status, .. } => self.end_turn(Some(turn_id), (*status, None), None),
            Event::ItemClosed { turn_id, item_id, .. } => self.close_item(turn_id.as_deref(), item_id),
            Event::App(notice) => self.notice(notice, record.seq),
            _ => {}
        }
    }

    fn accept(&mut self, turn_id: &str, seq: Seq) {
        let Some(mut turn) = self.turn.take() else { return };
        if let Stage::Requested { changes, .. } = &turn.stage {
            self.settings.update(changes);
        }
        turn.stage = Stage::Accepted { id: turn_id.to_owned() };
        match &mut self.last {
            // Its notifications came before its answer.
            Some(last) if last.id == turn_id => {
                last.accepted = Some(seq);
                if last.status == TurnStatus::InProgress {
                    turn.stage = Stage::Running { id: turn_id.to_owned() };
                    self.turn = Some(turn);
                }
            }
            _ => {
                self.turn = Some(turn);
                let last = LastTurn::new(turn_id, TurnStatus::Accepted, seq);
                self.last = Some(LastTurn { accepted: Some(seq), ..last });
            }
        }
    }

    fn notice(&mut self, notice: &Notice, seq: Seq) {
        let turn_id = notice.turn_id.as_deref();
        match (notice.method.as_str(), &notice.end, turn_id) {
            ("item/started", _, _) => self.open_item(notice),
            ("item/completed", _, _) => {
                if let Some(id) = &notice.item_id {
                    self.close_item(turn_id, id);
                }
            }
            // Said again of one that is over, it changes nothing.
            ("turn/started", _, Some(id)) if !self.is_over(id) => {
                let mut turn = self.turn.take().unwrap_or_else(|| Turn::unasked(id));
                if let Stage::Requested { changes, .. } = &turn.stage {
                    self.settings.update(changes);
                }
                turn.stage = Stage::Running { id: id.to_owned() };
                self.turn = Some(turn);
                match &mut self.last {
                    Some(last) if last.id == id => last.status = TurnStatus::InProgress,
                    _ => self.last = Some(LastTurn::new(id, TurnStatus::InProgress, seq)),
                }
            }
            ("turn/completed", Some(end), Some(id)) => {
                let asked_for = matches!(&self.turn, Some(Turn { stage: Stage::Requested { .. }, .. }));
                if asked_for && self.last.as_ref().is_none_or(|last| last.id != id) {
                    self.last = Some(LastTurn::new(id, end.status, seq));
                }
                self.end_turn(Some(id), (end.status, end.error.clone()), Some(seq));
            }
            _ => {}
        }
    }

    /// Whether this turn has ended, so that what is told of its beginning is old news.
    pub(super) fn is_over(&self, id: &str) -> bool {
        let another = matches!(&self.turn, Some(Turn { stage: Stage::Requested { .. }, .. }));
        self.last.as_ref().filter(|last| last.id == id).is_some_and(|last| {
            let settled = matches!(last.status, TurnStatus::Completed | TurnStatus::Failed);
            last.completed.is_some() || settled || another
        })
    }

    fn open_item(&mut self, notice: &Notice) {
        let Some(id) = notice.item_id.clone() else { return };
        self.close_item(notice.turn_id.as_deref(), &id);
        if self.open_items.len() == MAX_OPEN_ITEMS {
            self.open_items.pop_front();
        }
        let is_command = notice.item_type.as_deref() == Some("commandExecution");
        self.open_items.push_back(OpenItem { id, turn_id: notice.turn_id.clone(), is_command });
    }

    fn close_item(&mut self, turn_id: Option<&str>, id: &str) {
        self.open_items.retain(|item| item.id != id || item.turn_id.as_deref() != turn_id);
    }

    fn end_turn(&mut self, id: Option<&str>, end: (TurnStatus, Option<String>), completed: Option<Seq>) {
        let turn = self.turn.take_if(|turn| turn.id() == id);
        if let Some(last) = self.last.as_mut().filter(|last| Some(last.id.as_str()) == id) {
            (last.status, last.error) = end;
            // The child does not say why it interrupted a turn; who wanted it did.
            if last.status == TurnStatus::Interrupted && last.error.is_none() {
                last.error = turn.and_then(|turn| turn.interrupt);
            }
            last.completed = completed.or(last.completed);
        }
        // The child has stored them with the turn, and gives them back when the thread is resumed.
        self.origin.remove("baseInstructions");
        self.origin.remove("developerInstructions");
    }
}

impl LastTurn {
    fn new(id: &str, status: TurnStatus, begin: Seq) -> LastTurn {
        LastTurn { id: id.to_owned(), status, error: None, begin, accepted: None, completed: None }
    }
}
