//! What conductor's log says: who leads, in which mode the node is, and which commands have run under which key.
//!
//! Only `apply` changes it, live and in replay alike. Time in it is the event's time.

use common::keys::Keys;
use common::log::Seq;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::event::{Event, Record};

/// What the node does with work of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Runs start.
    #[default]
    Running,
    /// No run starts.
    Paused,
    /// No run starts, those that run finish.
    Draining,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Running => "running",
            Mode::Paused => "paused",
            Mode::Draining => "draining",
        }
    }
}

/// The mode, and who set it why and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct System {
    pub(crate) mode: Mode,
    pub(crate) requested_by: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) source: Option<String>,
    /// None as long as nobody has set anything.
    pub(crate) updated_at: Option<Timestamp>,
}

/// What became of a command with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exec {
    Running,
    /// Its result is kept, in so many bytes.
    Finished(u64),
    /// It ran, and nobody knows how it ended.
    Lost,
}

/// Everything that outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    log_id: String,
    seq: Seq,
    term: u64,
    system: System,
    #[serde(default)]
    execs: Keys<Exec>,
}

impl State {
    /// The name of the log; empty before its first event.
    pub(crate) fn log_id(&self) -> &str {
        &self.log_id
    }

    /// The number of the last event that is in it.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }

    /// How often the lead has been taken.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    pub(crate) fn system(&self) -> &System {
        &self.system
    }

    /// Commands by their keys.
    pub(crate) fn execs(&self) -> &Keys<Exec> {
        &self.execs
    }

    /// Takes an event in.
    pub(crate) fn apply(&mut self, record: &Record) {
        self.seq = record.seq;
        match &record.event {
            Event::LogCreated { log_id } => self.log_id.clone_from(log_id),
            Event::LeaseAcquired { term, .. } => self.term = *term,
            Event::SystemChanged { mode, requested_by, reason, source } => {
                self.system = System {
                    mode: *mode,
                    requested_by: requested_by.clone(),
                    reason: reason.clone(),
                    source: source.clone(),
                    updated_at: Some(record.at),
                };
            }
            Event::ExecStarted { key } => {
                self.execs.remember(key, Exec::Running, record.seq, record.at);
            }
            Event::ExecFinished { hash, kept_bytes } => {
                self.execs.settle(hash, Exec::Finished(*kept_bytes));
            }
            Event::ExecLost { hash } => self.execs.settle(hash, Exec::Lost),
            Event::ExecRefused { hash } => self.execs.forget(hash),
            Event::DaemonStopping { .. } | Event::Other => {}
        }
    }
}
