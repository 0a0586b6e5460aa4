//! One conversation and its turns, as the log has them.

use std::collections::VecDeque;

use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::event::{Event, Notice, Record};

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
    /// The newest of its events that a session read shows.
    pub recent: VecDeque<Seq>,
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
pub enum Turn {
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

/// The newest turn that the child took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastTurn {
    /// The child's name for it.
    pub id: String,
    /// How it stands.
    pub status: TurnStatus,
    /// Why it failed or was interrupted.
    pub error: Option<String>,
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

impl Turn {
    /// The child's name for it, once it has one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Turn::Requested { .. } => None,
            Turn::Accepted { id } | Turn::Running { id } => Some(id),
        }
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
    /// Takes one of its events in.
    pub(super) fn apply(&mut self, record: &Record) {
        self.updated_at = record.at;
        match &record.event {
            Event::SessionResumed { thread_id, settings, .. } => {
                self.thread_id.clone_from(thread_id);
                self.settings.update(settings);
            }
            Event::SessionClosed { .. } => self.open = false,
            Event::TurnRequested { client_turn_id, changes, .. } => {
                let (client_turn_id, changes) = (client_turn_id.clone(), changes.clone());
                self.turn = Some(Turn::Requested { client_turn_id, changes });
            }
            Event::TurnAccepted { turn_id, .. } => {
                if let Some(Turn::Requested { changes, .. }) = self.turn.take() {
                    self.settings.update(&changes);
                }
                match &mut self.last {
                    // Its notifications came before its answer.
                    Some(last) if last.id == *turn_id => {
                        last.accepted = Some(record.seq);
                        let runs = last.status == TurnStatus::InProgress;
                        self.turn = runs.then(|| Turn::Running { id: turn_id.clone() });
                    }
                    _ => {
                        self.turn = Some(Turn::Accepted { id: turn_id.clone() });
                        self.last = Some(LastTurn::new(turn_id, TurnStatus::Accepted, Some(record.seq)));
                    }
                }
            }
            Event::TurnRefused { .. } => self.turn = None,
            Event::TurnInterrupted { turn_id, reason, .. } => {
                let end = (TurnStatus::Interrupted, Some(reason.clone()));
                self.end_turn(turn_id.as_deref(), end, None);
            }
            Event::TurnSettled { turn_id, status, .. } => self.end_turn(Some(turn_id), (*status, None), None),
            Event::App(notice) => self.notice(notice, record.seq),
            _ => {}
        }
    }

    fn notice(&mut self, notice: &Notice, seq: Seq) {
        let Some(id) = notice.turn_id.as_deref() else { return };
        match (notice.method.as_str(), &notice.end) {
            ("turn/started", _) => {
                if let Some(Turn::Requested { changes, .. }) = self.turn.take() {
                    self.settings.update(&changes);
                }
                self.turn = Some(Turn::Running { id: id.to_owned() });
                match &mut self.last {
                    Some(last) if last.id == id => last.status = TurnStatus::InProgress,
                    // The child began one that nobody asked for here, as it does to compact a thread.
                    _ => self.last = Some(LastTurn::new(id, TurnStatus::InProgress, None)),
                }
            }
            ("turn/completed", Some(end)) => {
                let asked_for = matches!(self.turn, Some(Turn::Requested { .. }));
                if asked_for && self.last.as_ref().is_none_or(|last| last.id != id) {
                    self.last = Some(LastTurn::new(id, end.status, None));
                }
                self.end_turn(Some(id), (end.status, end.error.clone()), Some(seq));
            }
            _ => {}
        }
    }

    fn end_turn(&mut self, id: Option<&str>, end: (TurnStatus, Option<String>), completed: Option<Seq>) {
        if self.turn.as_ref().is_some_and(|turn| turn.id() == id) {
            self.turn = None;
        }
        if let Some(last) = self.last.as_mut().filter(|last| Some(last.id.as_str()) == id) {
            (last.status, last.error) = end;
            last.completed = completed.or(last.completed);
        }
        // The child has stored them with the turn, and gives them back when the thread is resumed.
        self.origin.remove("baseInstructions");
        self.origin.remove("developerInstructions");
    }
}

impl LastTurn {
    fn new(id: &str, status: TurnStatus, accepted: Option<Seq>) -> LastTurn {
        LastTurn { id: id.to_owned(), status, error: None, accepted, completed: None }
    }
}
